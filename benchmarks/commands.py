"""How long the commands take, as whole processes: medians of several runs.

    python -m benchmarks.commands [--runs 5] [--home FOLDER]

It works in a home of its own and on the `local` environment's ports, so that environment must be
down. The peer is the bare engine: what `pulumi` itself needs for the same four layers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

BIN = Path(sys.executable).parent
LAYERS = ("private", "cloud", "link", "platform")
Times = dict[str, list[float]]


def seconds(command: Sequence[str], home: Path) -> float:
    """Wall time of one command that must succeed."""
    start = time.monotonic()
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        env=os.environ | {"HYBRID_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def measure_provisioning(runs: int, home: Path) -> Times:
    """Wall times of the commands around `up` and `down`; the environment is down before and after."""
    times: Times = {}

    def note(label: str, *command: str) -> None:
        times.setdefault(label, []).append(seconds(command, home))

    seconds(["hybrid", "init", "local"], home)
    for _ in range(runs):
        note("hybrid --help", "hybrid", "--help")
        note("hybrid preview (nothing there yet)", "hybrid", "preview", "local")
        start = time.monotonic()
        for layer in LAYERS:
            seconds(["pulumi", "preview", "--stack", f"local.{layer}", "--non-interactive"], home)
        times.setdefault("peer: pulumi preview, layer by layer", []).append(
            time.monotonic() - start
        )
        note("hybrid up (first)", "hybrid", "up", "local")
        note("hybrid up (nothing to do)", "hybrid", "up", "local")
        note("hybrid preview (nothing to do)", "hybrid", "preview", "local")
        note("hybrid status", "hybrid", "status", "local")
        note("hybrid down", "hybrid", "down", "local")
    return times


def measure_pipeline(runs: int, home: Path) -> Times:
    """Wall times of the whole job, each time in an environment that was purged before."""
    first, again = [], []
    for _ in range(runs):
        seconds(["hybrid", "init", "local"], home)
        first.append(seconds(["hybrid", "run", "local"], home))
        again.append(seconds(["hybrid", "run", "local"], home))
        seconds(["hybrid", "down", "local", "--purge", "--yes"], home)
    return {
        "hybrid run (synthetic shop, from nothing)": first,
        "hybrid run (all done before)": again,
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--home", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as scratch:
        home = arguments.home or Path(scratch)
        times = measure_provisioning(arguments.runs, home) | measure_pipeline(arguments.runs, home)
    table = Table("command", "median", "min", "max", "runs", title=f"{os.cpu_count()} cores, seconds")
    for label, values in times.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(label, *(f"{figure:.2f}" for figure in figures), str(len(values)))
    Console().print(table)


if __name__ == "__main__":
    main()
