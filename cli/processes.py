"""Supervision of the servers of a local environment, by supervisord."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import psutil
from supervisor.xmlrpc import SupervisorTransport
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cli.errors import CommandError
from cli.files import socket_folder, write_text

# Every server inherits this variable, so that one that outlived its supervisor is still found.
MARKER = "HYBRID_ENVIRONMENT_FOLDER"
ALIVE = ("STARTING", "RUNNING", "BACKOFF")


@dataclass(frozen=True)
class Part:
    """One local server.

    Parameters
    ----------
    name
        What `hybrid logs` and `hybrid status` call it.
    command, environment
        The program with its arguments, in the foreground, and what it needs beside our environment.
    ports
        Settings key of each TCP port on 127.0.0.1 that it opens → its number.
    ready
        Whether it answers now; called again and again until it does.
    folder
        Its working directory; the supervisor's by default.
    """

    name: str
    command: list[str]
    ports: dict[str, int]
    ready: Callable[[], bool]
    environment: dict[str, str]
    folder: Path | None = None


@dataclass(frozen=True)
class PartState:
    """What supervisord says of one server; `started` is in seconds since the epoch, 0 if never."""

    name: str
    state: str
    pid: int
    started: int


class Supervisor:
    """The supervisord of one environment, whose files and logs live in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "supervisord.conf"
        self.pid_file = folder / "supervisord.pid"

    @cached_property
    def socket(self) -> Path:
        """Control socket; beside the folder its path could be too long for a Unix socket."""
        name = sha256(str(self.folder).encode()).hexdigest()[:16]
        return socket_folder(os.environ.get("XDG_RUNTIME_DIR")) / f"{name}.sock"

    def log(self, part: str) -> Path:
        """File that holds what a server printed."""
        return self.folder / "logs" / f"{part}.log"

    def states(self) -> list[PartState]:
        """What runs; empty where no supervisord answers."""
        try:
            rows = self._call("getAllProcessInfo")
        except (OSError, xmlrpc.client.Error):
            return []
        return [PartState(r["name"], r["statename"], r["pid"], r["start"]) for r in rows]

    def alive(self) -> set[str]:
        """Names of the servers that run or are on their way."""
        return {state.name for state in self.states() if state.state in ALIVE}

    def configure(self, parts: list[Part]) -> None:
        """Have supervisord know exactly these servers; those that it no longer knows end.

        Raises
        ------
        CommandError
            supervisord does not start.
        """
        self.folder.joinpath("logs").mkdir(parents=True, exist_ok=True)
        write_text(self.configuration, self._render(parts), mode=0o600)
        if self._answers():
            self._apply_changes()
        else:
            self._end_survivors()
            self._launch()

    def start(self, parts: list[Part]) -> list[str]:
        """Start those of the configured `parts` that do not run; return their names.

        Raises
        ------
        CommandError
            A port that one of them needs is taken.
        """
        self._end(self.strays())
        alive = self.alive()
        missing = [part for part in parts if part.name not in alive]
        for part in missing:
            self._require_free_ports(part)
        for part in missing:
            self._call("startProcess", part.name, False)
        return [part.name for part in missing]

    def restart(self, parts: list[Part]) -> None:
        """End and start anew those of the configured `parts` that run; start the others."""
        for name in self.alive() & {part.name for part in parts}:
            self._call("stopProcess", name)
        self.start(parts)

    def wait(self, parts: list[Part], seconds: float = 90.0) -> None:
        """Wait until each server answers.

        Raises
        ------
        CommandError
            One ended for good or did not answer in time; its last log lines are in the message.
        """
        for part in parts:
            attempts = Retrying(
                retry=retry_if_result(lambda ready: not ready),
                wait=wait_fixed(0.1),
                stop=stop_after_delay(seconds),
            )
            try:
                attempts(self._is_ready, part)
            except RetryError:
                raise CommandError(
                    f"{part.name} does not answer after {seconds:.0f} s.{self._tail(part.name)}"
                ) from None

    def stop(self) -> None:
        """End every server and supervisord itself; those that outlived it too."""
        pid = self._pid()
        if self._answers():
            # At once: `shutdown` ends one after another, and a server waits for its clients' end.
            self._call("stopAllProcesses")
            self._call("shutdown")
        if pid is not None:
            try:
                psutil.Process(pid).wait(timeout=60)
            except psutil.NoSuchProcess:
                pass
            except psutil.TimeoutExpired:
                psutil.Process(pid).kill()
        self._end_survivors()
        self.socket.unlink(missing_ok=True)
        self.pid_file.unlink(missing_ok=True)

    def _is_ready(self, part: Part) -> bool:
        state = next((s.state for s in self.states() if s.name == part.name), "STOPPED")
        if state == "FATAL":
            raise CommandError(f"{part.name} ends again and again.{self._tail(part.name)}")
        return state in ALIVE and part.ready()

    def _tail(self, part: str) -> str:
        log = self.log(part)
        lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        return "".join(f"\n  {line}" for line in [f"{log} ends with:", *lines] if lines)

    def _require_free_ports(self, part: Part) -> None:
        for key, port in part.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise CommandError(
                        f"Port {port}, which {part.name} needs, is not free ({error.strerror}"
                        f"{_holder(port)}): end that program or set {key} in the environment's "
                        "settings file."
                    ) from None

    def _render(self, parts: list[Part]) -> str:
        """Text of supervisord.conf; % is doubled since supervisord expands it."""
        sections = [
            "[unix_http_server]",
            f"file={self.socket}",
            "chmod=0600",
            "[supervisord]",
            f"logfile={self.folder / 'logs' / 'supervisord.log'}",
            f"pidfile={self.pid_file}",
            f"directory={self.folder}",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for part in parts:
            environment = ",".join(f'{k}="{v}"' for k, v in sorted(part.environment.items()))
            sections += [
                f"[program:{part.name}]",
                f"command={shlex.join(part.command)}".replace("%", "%%"),
                f"environment={environment}".replace("%", "%%"),
                *([f"directory={part.folder}".replace("%", "%%")] if part.folder else []),
                f"stdout_logfile={self.log(part.name)}",
                "redirect_stderr=true",
                "autostart=false",
                "autorestart=true",
                "startretries=3",
                "stopasgroup=true",
                "killasgroup=true",
                "stopwaitsecs=15",
            ]
        return "\n".join(sections) + "\n"

    def _launch(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)],
            env=os.environ | {MARKER: str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise CommandError(f"supervisord does not start: {done.stderr.strip()}")
        attempts = Retrying(
            retry=retry_if_result(lambda ready: not ready),
            wait=wait_fixed(0.05),
            stop=stop_after_delay(20),
        )
        try:
            attempts(self._answers)
        except RetryError:
            raise CommandError("supervisord does not answer after 20 s.") from None

    def _apply_changes(self) -> None:
        """Make a running supervisord follow the configuration just written."""
        ((added, changed, removed),) = self._call("reloadConfig")
        for name in [*changed, *removed]:
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in [*added, *changed]:
            self._call("addProcessGroup", name)

    def _answers(self) -> bool:
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def _call(self, method: str, *arguments: object):
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def _pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None

    def survivors(self) -> list[psutil.Process]:
        """Processes of this environment, found by the variable they inherited.

        nginx writes its title over its variables: it is known by the folder that it works in.
        """
        found = []
        for process in psutil.process_iter(["name"]):
            try:
                if process.environ().get(MARKER) == str(self.folder) or (
                    process.info["name"] == "nginx"
                    and Path(process.cwd()).is_relative_to(self.folder)
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def strays(self) -> list[psutil.Process]:
        """nginx's workers whose main process was killed: they serve on, and hold its port for ever.

        What else has lost its parent, such as an app of Flower, ends by itself.
        """
        pid = self._pid()
        if pid is None or not psutil.pid_exists(pid):
            return []
        kept = {child.pid for child in psutil.Process(pid).children(recursive=True)}
        proxies = [process for process in self.survivors() if process.info["name"] == "nginx"]
        return [process for process in proxies if process.pid not in kept]

    def _end_survivors(self) -> None:
        self._end(self.survivors())

    def _end(self, survivors: list[psutil.Process]) -> None:
        for process in survivors:
            process.terminate()
        _, stubborn = psutil.wait_procs(survivors, timeout=5)
        for process in stubborn:
            process.kill()
        psutil.wait_procs(stubborn, timeout=5)


def _holder(port: int) -> str:
    """', held by NAME, process PID' for the program that listens on a port, where it can be seen."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        listening = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listening and connection.pid:
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.NoSuchProcess:
                return ""
            return f", held by {name}, process {connection.pid}"
    return ""
