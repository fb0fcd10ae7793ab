"""How long a plan of many resources takes: captured in one process, and by the engine.

    python -m benchmarks.plan [--sites 80] [--runs 5] [--without-engine]

The settings are those of `local` with more sites and zones. Nothing is
deployed, so every resource is to be created. Times are processor time and wall time of whole
commands, medians of several runs; the engine's preview runs once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from stacks.settings import SHIPPED

HYBRID = Path(sys.executable).parent / "hybrid"


def write_settings(home: Path, sites: int) -> None:
    """An environment `many`: `local` with more sites, over six zones."""
    settings = yaml.safe_load((SHIPPED / "local.yaml").read_text())
    settings["zones"] = [f"{settings['region']}{letter}" for letter in "abcdef"]
    settings["ports"] |= {"supernode": 20000, "gateway": 21000}
    settings["sites"] = [
        {
            "name": f"site-{number:03}",
            "cidr": f"10.{100 + number}.0.0/16",
            "public_ip": f"203.0.113.{10 + number}",
        }
        for number in range(sites)
    ]
    (home / "environments").mkdir()
    (home / "environments" / "many.yaml").write_text(yaml.safe_dump(settings))


def measure(home: Path, *arguments: str) -> tuple[float, float, int]:
    """Processor seconds, wall seconds and number of changes of one command."""
    variables = os.environ | {"HYBRID_HOME": str(home)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [HYBRID, *arguments, "many", "--json"], env=variables, capture_output=True, text=True
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"hybrid {' '.join(arguments)} failed:\n{done.stderr}")
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return used, wall, len(json.loads(done.stdout)["changes"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=80, help="80 make more than 600 resources")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--without-engine", action="store_true")
    arguments = parser.parse_args()
    table = Table("command", "resources", "processor s", "wall s", "runs")
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as scratch:
        home = Path(scratch)
        write_settings(home, arguments.sites)
        measure(home, "plan", "--fast")  # compiles and caches what it imports
        commands = [(("plan", "--fast"), arguments.runs)]
        if not arguments.without_engine:
            commands.append((("preview",), 1))
        for command, runs in commands:
            measured = [measure(home, *command) for _ in range(runs)]
            used, wall = (statistics.median(m[part] for m in measured) for part in (0, 1))
            shown = f"hybrid {' '.join(command)}"
            table.add_row(shown, str(measured[0][2]), f"{used:.2f}", f"{wall:.2f}", str(runs))
    Console().print(table)


if __name__ == "__main__":
    main()
