"""Memory of TorchServe over many requests: an hour's worth, by count.

    python -m benchmarks.soak [--requests 200000] [--model ARTEFACT] [--clients 8]

A mix of what shops ask: histories of all lengths, some with diversity, explanations or seen items,
users without a history, items like one. Resident memory of the server (Java) and of its worker is
read after each fortieth; growth is from after the first tenth, when caches and pools have their
size, to the end, each as the median of four readings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks._load import Request, drive
from benchmarks.acceleration import BEAUTY, trained
from benchmarks.serving import DIGEST, Server, torchserve
from cli.torchserve import archives_of
from handlers.archive import build_archive
from recsys.data.interactions import Interactions, load_interactions

READINGS, TENTH = 40, 4
JSON = {"Content-Type": "application/json"}


def requests(count: int, interactions: Interactions) -> Iterator[Request]:
    """The mix; the same each time."""
    chance = random.Random(0)
    for _ in range(count):
        user = chance.randrange(len(interactions.users))
        history = [interactions.items[item] for item in interactions.of(user)]
        body = {"history": history[: chance.randrange(1, len(history) + 1)]}
        body["k"] = chance.choice([5, 10, 10, 10, 50])
        match chance.randrange(10):
            case 0:
                body["history"] = []
            case 1:
                body = {"item": chance.choice(history), "k": 10}
            case 2:
                body["diversity"] = 0.3
            case 3:
                body["exclude_seen"] = False
            case 4:
                body["explain"] = True
        yield Request("/predictions/recommend", json.dumps(body).encode(), JSON)


def memory(server: Server) -> dict[str, float]:
    """MiB that processes hold, by what they are."""
    (worker,) = server.workers()
    return {
        name: psutil.Process(process).memory_info().rss / 2**20
        for name, process in (("server", server.process), ("worker", worker))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--model", type=Path, help="artefact trained on the data")
    parser.add_argument("--epochs", type=int, default=1, help="of training, without --model")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    say = Console().print
    interactions = load_interactions(options.data)
    readings: list[dict[str, float]] = []
    statuses: Counter[int | str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artifact = options.model or trained(interactions, options.epochs, folder / "run")
        (folder / "server").mkdir()
        with torchserve(folder / "server") as server:
            archive = archives_of(server.folder) / "recommend.mar"
            build_archive(artifact, DIGEST, archive)
            server.register(archive)

            def tell(request: Request, status: int | str, body: bytes) -> None:
                statuses[status] += 1
                if statuses.total() % (options.requests // READINGS) == 0:
                    readings.append(memory(server))
                    held = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in readings[-1].items())
                    say(f"{statuses.total():,} of {options.requests:,}: {held}")

            url = f"http://127.0.0.1:{server.inference}"
            asked = requests(options.requests, interactions)
            asyncio.run(drive(url, asked, options.clients, tell))
    table = Table(title=f"{statuses.total():,} requests")
    for heading in ("process", "MiB after a tenth", "MiB at the end", "growth"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name in readings[0]:
        held = [reading[name] for reading in readings]
        first = statistics.median(held[TENTH - 1 : 2 * TENTH - 1])
        last = statistics.median(held[-TENTH:])
        table.add_row(name, f"{first:.0f}", f"{last:.0f}", f"{last / first - 1:+.1%}")
    Console().print(table)
    say(", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items(), key=str)))


if __name__ == "__main__":
    main()
