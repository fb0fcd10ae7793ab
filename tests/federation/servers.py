"""A whole federation on this machine: Flower's own processes, TLS, enrolled keys."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from federation import deployment
from federation.credentials import issue

PATIENCE = 240.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(holds: Callable[[], object], what: str, *, every: float = 0.1) -> object:
    """Wait until `holds` gives something true, and give that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(every)
    return found


def children(process: int, name: str) -> list[int]:
    """Children of a process that are called so."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [int(c) for c in found if Path(f"/proc/{c}/comm").read_text().strip() == name]
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass
class Servers:
    """The processes of a federation, each in its own process group.

    Attributes
    ----------
    folder : Path
        The federation's folder; logs are in it too.
    data : dict of str to Path
        Data of each site.
    """

    folder: Path
    data: dict[str, Path]
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, deployment.Command] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """ "host:port" of the SuperLink."""
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """Certificate of the federation's authority."""
        return deployment.credentials_folder(self.folder) / "ca.crt"

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text()

    def start(self, name: str, command: deployment.Command | None = None) -> None:
        """Start a process, or start it again."""
        argv, environment = self.commands[name] = command or self.commands[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Start everything, with all sites enrolled."""
        issue(deployment.credentials_folder(self.folder), self.data)
        self.start("superlink", deployment.superlink_command(self.folder, port=self.port))
        self.await_superlink()
        deployment.enrol(self.folder, self.data, address=self.address)
        self.start("server-executor", deployment.server_executor_command(self.folder, port=self.port))
        for site in self.data:
            self.start_site(site)

    def start_site(self, site: str) -> None:
        """Start a site's two processes."""
        port = free_port()
        node = deployment.supernode_command(
            self.folder, site, data=self.data[site], superlink=self.address, runtime_port=port
        )
        executor = deployment.client_executor_command(
            self.folder, site, runtime_port=port, threads=1
        )
        self.start(f"supernode-{site}", node)
        self.start(f"executor-{site}", executor)

    def await_superlink(self) -> None:
        """Wait until the SuperLink answers."""
        until(
            lambda: deployment.superlink_ready(self.folder, address=self.address), "the SuperLink"
        )

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        os.kill(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def supervise(self) -> None:
        """From now on, start again whatever ends."""

        def watch() -> None:
            while not self._ending.wait(0.5):
                for name, process in list(self.processes.items()):
                    if process.poll() is not None and not self._ending.is_set():
                        self.start(name)

        threading.Thread(target=watch, daemon=True).start()

    def stop(self) -> None:
        """End everything."""
        self._ending.set()
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
