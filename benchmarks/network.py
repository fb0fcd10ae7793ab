"""NAT, peering and route checks of the networks that the programs declare, counted.

    python -m benchmarks.network [--sites 80]

One row for each environment and driver of the link: checks by kind, and how many do not hold. The
last is `local` with many sites over six zones, as in benchmarks.plan.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.plan import write_settings
from infra.network_checks import network_checks
from stacks.light_sdk import use_light_sdk
from stacks.settings import SHIPPED, Settings, load_settings


def environments(folder: Path, sites: int) -> dict[str, Settings]:
    """Settings by name: the shipped ones on AWS, and one with many sites."""
    write_settings(folder, sites)
    folders = [SHIPPED, folder / "environments"]
    return {name: load_settings(name, folders) for name in ("local", "production", "many")}


def main() -> None:
    """Count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=80)
    arguments = parser.parse_args()
    use_light_sdk()
    from stacks.capture import Capture

    table = Table("environment", "link", "nat", "peering", "route", "do not hold")
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as scratch:
        for name, settings in environments(Path(scratch), arguments.sites).items():
            for driver in ("ipsec", "wireguard"):
                link = settings.link.model_copy(update={"driver": driver})
                chosen = settings.model_copy(update={"link": link})
                checks = network_checks(Capture(name, chosen).run(("cloud", "link")), chosen)
                count = Counter(check.kind for check in checks)
                broken = sum(not check.holds for check in checks)
                kinds = [str(count[kind]) for kind in ("nat", "peering", "route")]
                table.add_row(name, driver, *kinds, str(broken))
    Console().print(table)


if __name__ == "__main__":
    main()
