"""What a round costs besides training: two sites that do nothing, ours against stock Flower.

Both run on the same SuperLink and SuperNodes. Stock is Flower's FedAvg, with ``flower-superexec``
starting the ClientApps; ours is our exchange, with our executor::

    python -m benchmarks.federation_overhead [--rounds 8]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from federation.control import ControlClient
from tests.federation.servers import Servers, until

SITES = ("north", "south")


def main() -> None:
    """Print the seconds a round of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        folder = Path(scratch)
        servers = Servers(folder / "flower", dict.fromkeys(SITES, folder))
        servers.folder.mkdir()
        try:
            servers.start_all()
            ours = _measure(servers, folder / "ours", "ours", "our_client", rounds)
            # The first round includes imports in the executors.
            print(f"ours:  {statistics.median(ours[1:]):.2f} s a round (median of {rounds - 1})")
            for site in SITES:
                _use_stock_executor(servers, site)
            stock = _measure(servers, folder / "stock", "stock", "stock_client", rounds)
        finally:
            servers.stop()
    print(f"stock: {stock[0]:.2f} s a round (mean of {rounds}, train and evaluate)")


def _use_stock_executor(servers: Servers, site: str) -> None:
    """Replace our executor by Flower's at the same SuperNode."""
    argv, environment = servers.commands[f"executor-{site}"]
    options = argv[argv.index("--runtime-api-address") :]
    program = str(Path(sys.executable).parent / "flower-superexec")
    servers.kill(f"executor-{site}")
    servers.start(f"executor-{site}", ([program, "--insecure", *options], environment))


def _measure(
    servers: Servers, folder: Path, server_app: str, client_app: str, rounds: int
) -> list[float]:
    """Seconds of each round of a run."""
    folder.mkdir()
    config = {"folder": str(folder), "sites": ",".join(SITES), "rounds": rounds}
    with ControlClient(servers.address, servers.authority) as control:
        until(lambda: all(s.status == "online" for s in control.sites().values()), "the sites")
        number = control.start(_bundle(server_app, client_app), config)
        status = until(lambda: _ended(control, number), "the end of the run", every=1)
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
