"""A site behind a WireGuard tunnel that is lost for ten minutes while it trains, in real time.

SuperLink and one site are in one network namespace, the other site is in a second one, and all that
crosses goes through wireguard-go. The same run is done twice: undisturbed, and with the wire cut
after its first round::

    python -m benchmarks.lost_link [--minutes 10] [--rounds 4]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from federation import deployment
from federation.checkpoint import read_records
from federation.control import ControlClient
from federation.credentials import issue
from federation.run import federate
from recsys.artifact import save_model
from recsys.data.interactions import write_interactions
from recsys.model import SequentialRecommender
from tests.federation.conftest import ITEMS, RECIPE, walks
from tests.federation.servers import Servers, free_port, until
from tests.infra.namespaces import CLOUD, Machine, lacking, rotate, tunnelled

NEAR, FAR = "near", "far"


def main() -> None:
    """Print what the loss cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    if reason := lacking():
        sys.exit(f"Not measured: {reason}.")
    with tempfile.TemporaryDirectory(prefix="lost-link-") as scratch:
        lost = measure(Path(scratch), arguments.rounds, arguments.minutes * 60)
    print(f"rounds with the link / lost for {arguments.minutes:g} minutes in round 2: "
          f"{lost.whole} / {lost.cut} of {arguments.rounds}")  # fmt: skip
    print(f"sites left out of a round, restarts of a process: {lost.left_out}, {lost.restarts}")
    print(f"losses of the rounds {'the same' if lost.same else 'NOT the same'} as undisturbed")
    print(f"the site while the link was lost: {', '.join(lost.seen)}; after it was back, online "
          f"within {lost.online:.0f} s, round 2 done within {lost.after:.0f} s")  # fmt: skip


@dataclass
class Lost:
    """What became of the two runs.

    Attributes
    ----------
    whole, cut
        Rounds of the run without and with the loss.
    left_out, restarts
        Sites that a round went on without; processes that had to be started again.
    same
        Whether the losses of all rounds are the same in both.
    seen
        What the SuperLink took the far site for while the link was lost.
    online, after
        Seconds from the link's return until the site was online, and until the round was done.
    """

    whole: int
    cut: int
    left_out: int
    restarts: int
    same: bool
    seen: list[str]
    online: float
    after: float


class Behind(Servers):
    """A federation whose far site is on another machine."""

    site: Machine

    def start(self, name: str, command: deployment.Command | None = None) -> None:
        """Start a process, the far site's on its own machine."""
        if command is not None and name.endswith(f"-{FAR}"):
            argv, environment = command
            command = (["ip", "netns", "exec", self.site.name, *argv], environment)
        super().start(name, command)

    def start_apart(self) -> None:
        """Start everything; the SuperLink listens on the address at the tunnel's end."""
        credentials = deployment.credentials_folder(self.folder)
        issue(credentials, self.data, names=[CLOUD])
        superlink = deployment.superlink_command(self.folder, port=self.port, host="0.0.0.0")
        self.start("superlink", superlink)
        self.await_superlink()
        deployment.enrol(self.folder, self.data, address=self.address)
        self.start("server-executor", deployment.server_executor_command(self.folder, port=self.port))
        for site in self.data:
            port = free_port()
            node = deployment.supernode_command(
                self.folder, site, data=self.data[site],
                superlink=f"{CLOUD}:{self.port}" if site == FAR else self.address,
                runtime_port=port,
            )  # fmt: skip
            self.start(f"supernode-{site}", node)
            self.start(f"executor-{site}", deployment.client_executor_command(
                self.folder, site, runtime_port=port, threads=1))  # fmt: skip


def measure(scratch: Path, rounds: int, seconds: float) -> Lost:
    """Do a run, then the same with the link lost for some seconds."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(_measure(scratch, rounds, seconds, cloud, site))
        except BaseException as error:
            found.append(error)

    with tunnelled(scratch / "keys") as (link, cloud, site):
        rotate(link, 1)
        cloud.start_thread(work).join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _measure(scratch: Path, rounds: int, seconds: float, cloud: Machine, site: Machine) -> Lost:
    data = {NEAR: scratch / NEAR, FAR: scratch / FAR}
    write_interactions(walks(60, seed=1), data[NEAR])
    write_interactions(walks(25, seed=2), data[FAR])
    torch.manual_seed(0)
    model = SequentialRecommender(len(ITEMS), RECIPE)
    initial = save_model(scratch / "initial", model, RECIPE, ITEMS, {})
    servers = Behind(scratch / "flower", data)
    servers.site = site
    servers.folder.mkdir()

    def run(name: str) -> list[dict[str, Any]]:
        folder = servers.folder / name
        federate(servers.folder, initial, folder, address=servers.address, sites=data,
                 rounds=rounds, seed=3)  # fmt: skip
        return read_records(folder)[1:]

    try:
        servers.start_apart()
        whole = run("whole")
        started = {name: process.pid for name, process in servers.processes.items()}
        cut = _Cut(servers, cloud, servers.folder / "cut", seconds)
        with_loss = run("cut")
        cut.thread.join()
        if cut.error:
            raise cut.error
        ended = [name for name, pid in started.items() if servers.processes[name].poll() is not None]
    finally:
        servers.stop()
    return Lost(
        len(whole), len(with_loss),
        left_out=sum(len(record["refused"]) for record in with_loss),
        restarts=len(ended),
        same=[r["loss"] for r in with_loss] == [r["loss"] for r in whole],
        seen=sorted(cut.seen),
        online=cut.online,
        after=cut.after,
    )  # fmt: skip


class _Cut:
    """Takes the wire away once a run's first round is done, and gives it back."""

    def __init__(self, servers: Servers, cloud: Machine, run: Path, seconds: float) -> None:
        self.seen: set[str] = set()
        self.online = self.after = 0.0
        self.error: BaseException | None = None
        self._servers, self._cloud, self._run, self._seconds = servers, cloud, run, seconds
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        try:
            until(lambda: self._rounds() >= 1, "the first round")
            self._wire("down")
            end = time.monotonic() + self._seconds
            with ControlClient(self._servers.address, self._servers.authority) as control:
                while time.monotonic() < end:
                    self.seen.add(control.sites()[FAR].status)
                    time.sleep(min(5.0, self._seconds / 10))
                if self._rounds() != 1:
                    raise RuntimeError("the round was over before the cut, or went on without it")
                self._wire("up")
                back = time.monotonic()
                while self._rounds() < 2:
                    if not self.online and control.sites()[FAR].status == "online":
                        self.online = time.monotonic() - back
                    time.sleep(0.5)
            self.after = time.monotonic() - back
        except BaseException as error:
            self.error = error

    def _rounds(self) -> int:
        return len(read_records(self._run)) - 1  # the first record is the start

    def _wire(self, state: str) -> None:
        subprocess.run(
            ["ip", "-netns", self._cloud.name, "link", "set", "wire", state], check=True
        )


if __name__ == "__main__":
    main()
