"""Ten rotations of all of a link's keys under a running TCP stream: `python -m benchmarks.link`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.infra.namespaces import Stream, lacking, rotate, tunnelled

ROTATIONS = 10


def main() -> None:
    """Print rotations done, their time, and bytes lost of those sent."""
    if reason := lacking():
        sys.exit(f"Not measured: {reason}.")
    with tempfile.TemporaryDirectory() as folder, tunnelled(Path(folder)) as (link, cloud, site):
        rotate(link, 1)
        measured = link.site.measure(0)
        stream, times = Stream(cloud, site), []
        for generation in range(2, ROTATIONS + 2):
            start = time.perf_counter()
            rotate(link, generation)
            times.append(time.perf_counter() - start)
        stream.close()
    print(f"rotations of both tunnels' keys: {len(times)}, median {sorted(times)[5]:.2f} s each")
    print(f"bytes sent {stream.sent:,}, lost {stream.sent - stream.received:,}, "
          f"{'in order' if stream.whole else 'NOT in order'}")  # fmt: skip
    print(f"latency {measured.latency:.2f} ms, throughput {measured.throughput:.0f} Mbit/s")


if __name__ == "__main__":
    main()
