"""Chunked cross-entropy over a large catalogue: memory, and time beside plain torch.

    python -m benchmarks.softmax [--items 1000000] [--compare-items 100000] [--rows 2048]

Each case runs forward and backward in a process of its own. Memory is the process's peak above
what it held when the states and the table were there: both gradients count. Plain torch keeps the
logits, their log-softmax and its gradient, 24 GB at a million items; it is measured at as many
items as most machines have the memory for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from recsys.softmax import chunked_cross_entropy


def plain_cross_entropy(
    hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(hidden @ table.T, targets)


LOSSES = {"chunked": chunked_cross_entropy, "plain": plain_cross_entropy}


def measure(kind: str, items: int, rows: int, dimension: int, runs: int) -> dict[str, float]:
    """Median seconds of forward and backward, and the peak of bytes above the inputs."""
    torch.manual_seed(0)
    table = (torch.randn(items, dimension) / dimension**0.5).requires_grad_()
    hidden = torch.randn(rows, dimension, requires_grad=True)
    targets = torch.randint(items, (rows,))
    held = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(runs):
        table.grad = hidden.grad = None
        start = time.perf_counter()
        loss = LOSSES[kind](hidden, table, targets)
        loss.backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": statistics.median(seconds),
        "memory": peak - held,
        "loss": loss.item(),
        "table": table.nbytes,
    }


def in_process(kind: str, items: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own, so that no case sees another one's memory."""
    command = [sys.executable, "-m", "benchmarks.softmax", "--measure", kind, "--items", str(items)]
    for name in ("rows", "dimension", "runs"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={"OMP_WAIT_POLICY": "passive", **os.environ},
    )
    if done.returncode:
        sys.exit(f"{kind} at {items} items failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--compare-items", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", choices=LOSSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        shape = (options.items, options.rows, options.dimension, options.runs)
        print(json.dumps(measure(options.measure, *shape)))
        return
    cases = [("chunked", options.items), ("chunked", options.compare_items)]
    cases.append(("plain", options.compare_items))
    title = f"cross-entropy, batch {options.rows}, d={options.dimension}, forward and backward"
    table = Table("", "items", "median (s)", "memory (MiB)", "table (MiB)", "loss", title=title)
    times = {}
    for kind, items in cases:
        figures = in_process(kind, items, options)
        times[kind, items] = figures["seconds"]
        table.add_row(
            kind,
            f"{items:,}",
            f"{figures['seconds']:.2f}",
            f"{figures['memory'] / 2**20:.0f}",
            f"{figures['table'] / 2**20:.0f}",
            f"{figures['loss']:.4f}",
        )
    console = Console()
    console.print(table)
    ratio = times["chunked", options.compare_items] / times["plain", options.compare_items]
    console.print(f"chunked takes {ratio:.2f} times as long as plain torch")


if __name__ == "__main__":
    main()
