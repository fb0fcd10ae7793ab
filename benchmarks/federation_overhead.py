"""What a round costs besides training: two sites that do nothing, ours against stock Flower.

Ours is our exchange between the processes that :mod:`federation.deployment` starts; stock is
Flower's FedAvg between ``flower-superlink``, ``flower-supernode`` and ``flower-superexec`` as they
come, which start the ClientApps too::

    python -m benchmarks.federation_overhead [--rounds 8]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from federation.control import ControlClient
from federation.deployment import Command
from tests.federation.servers import Servers, until

SITES = ("north", "south")
FLOWER = {
    "federation.superlink": "flower-superlink",
    "federation.supernode": "flower-supernode",
    "federation.executor": "flower-superexec",
}


def main() -> None:
    """Print the seconds a round of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        ours = _measure(Servers, Path(scratch) / "ours", "ours", "our_client", rounds)
        # The first round includes imports in the executors.
        print(f"ours:  {statistics.median(ours[1:]):.2f} s a round (median of {rounds - 1})")
        stock = _measure(StockServers, Path(scratch) / "stock", "stock", "stock_client", rounds)
        print(f"stock: {stock[0]:.2f} s a round (mean of {rounds}, train and evaluate)")


class StockServers(Servers):
    """The same processes as Flower's own programs."""

    def start(self, name: str, command: Command | None = None) -> None:
        """Start Flower's program in the place of ours."""
        argv, environment = command or self.commands[name]
        # A SuperExec starts apps by their bare program names.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        super().start(name, (_as_flower_has_it(argv), environment | {"PATH": path}))


def _as_flower_has_it(argv: list[str]) -> list[str]:
    """The command line of Flower's program that does the job of one of ours."""
    if argv[1] != "-m":
        return argv
    module, options = argv[2], argv[3:]
    program = str(Path(sys.executable).parent / FLOWER[module])
    if module == "federation.supernode":
        options = ["--isolation", "process", *options]
        options[options.index("--private-key")] = "--auth-supernode-private-key"
    if module == "federation.executor":
        app, *options = options
        options = options if app == "serverapp" else ["--insecure", *options]
    return [program, *options]


def _measure(
    kind: type[Servers], folder: Path, server_app: str, client_app: str, rounds: int
) -> list[float]:
    """Seconds of each round of a run."""
    folder.mkdir()
    config = {"folder": str(folder), "sites": ",".join(SITES), "rounds": rounds}
    servers = kind(folder / "flower", dict.fromkeys(SITES, folder))
    servers.folder.mkdir()
    try:
        servers.start_all()
        with ControlClient(servers.address, servers.authority) as control:
            until(lambda: all(s.status == "online" for s in control.sites().values()), "the sites")
            number = control.start(_bundle(server_app, client_app), config)
            status = until(lambda: _ended(control, number), "the end of the run", every=1)
    finally:
        servers.stop()
    if status.outcome != "completed":
        sys.exit(f"The run {status.outcome}: {status.details}")
    return json.loads((folder / "seconds.json").read_text())


def _ended(control: ControlClient, number: int) -> object:
    status = control.status(number)
    return status if status is not None and status.phase == "finished" else None


def _bundle(server_app: str, client_app: str) -> bytes:
    from flwr.cli.build import build_fab_from_files

    project = f"""\
[project]
name = "noop"
version = "1.0.0"
description = "Sites that do nothing"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "hybrid"

[tool.flwr.app.components]
serverapp = "benchmarks._noop_apps:{server_app}"
clientapp = "benchmarks._noop_apps:{client_app}"

[tool.flwr.app.config]
folder = ""
sites = ""
rounds = 1
"""
    return build_fab_from_files({"pyproject.toml": project.encode()})[0]


if __name__ == "__main__":
    main()
