"""Two machines on one wire: network namespaces with WireGuard and a TCP stream between them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.link_rotation import Link, Rotation, step
from infra.wireguard import ends, plan_tunnels

CLOUD, SITE = "10.60.0.1", "10.61.0.1"
CHUNK = secrets.token_bytes(4096)


def lacking() -> str:
    """Why the tests cannot run on this machine; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = ("ip", "wg", "wireguard-go", "ping")
    if absent := [name for name in programs if shutil.which(name) is None]:
        return f"{' and '.join(absent)} not installed: run tools/test-tools.sh"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    probe = f"hybrid-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True)
    return f"no namespace can be made: {made.stderr.strip()}" if made.returncode else ""


class Machine:
    """A network namespace that runs scripts as a machine would."""

    def __init__(self, name: str, keys: Path) -> None:
        self.name, self.keys = name, keys

    def run(self, script: str, arguments: Sequence[str]) -> str:
        """Run a shell script with arguments (an `infra.wireguard.Runner`)."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "sh", "-s", "--", *arguments],
            input=script,
            env=os.environ | {"WIREGUARD_KEYS": str(self.keys)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start_thread(self, work: Callable[[], None]) -> threading.Thread:
        """Do some work with this machine's network."""

        def enter_and_work() -> None:
            with open(f"/run/netns/{self.name}") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            work()

        thread = threading.Thread(target=enter_and_work, daemon=True)
        thread.start()
        return thread


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """The cloud's gateway at 192.0.2.1 with 10.60.0.1 behind it; the site's at .2, 10.61.0.1."""
    token = secrets.token_hex(2)
    machines = [Machine(f"hybrid-{token}-{side}", folder / side) for side in ("cloud", "site")]
    with ExitStack() as undo:
        for machine in machines:
            _ip("netns", "add", machine.name)
            undo.callback(_ip, "netns", "delete", machine.name)
        _ip("link", "add", "wire", "netns", machines[0].name, "type", "veth",
            "peer", "name", "wire", "netns", machines[1].name)  # fmt: skip
        for number, (machine, inside) in enumerate(zip(machines, (CLOUD, SITE), strict=True), 1):
            for arguments in (
                ("address", "add", f"192.0.2.{number}/24", "dev", "wire"),
                ("link", "set", "wire", "up"),
                ("link", "set", "lo", "up"),
                ("address", "add", f"{inside}/32", "dev", "lo"),
            ):
                _ip("-netns", machine.name, *arguments)
        yield machines[0], machines[1]


@contextmanager
def tunnelled(folder: Path) -> Iterator[tuple[Link, Machine, Machine]]:
    """Two machines with a link of two tunnels that was never up yet."""
    with two_machines(folder) as (cloud, site), ExitStack() as undo:
        # The sockets of wireguard-go lie in one folder for the whole machine.
        sides = []
        for machine in (cloud, site):
            tunnels = plan_tunnels(0, f"h{secrets.token_hex(2)}-")
            undo.callback(_remove, machine, [tunnel.interface for tunnel in tunnels])
            sides.append(
                ends(cloud.run, site.run, tunnels, ("192.0.2.1", "192.0.2.2"),
                     (f"{CLOUD}/32", f"{SITE}/32"))
            )  # fmt: skip
        (cloud_end, _), (_, site_end) = sides
        cloud_end.start()
        site_end.start()
        yield Link(cloud_end, site_end, site_end.is_up), cloud, site


def rotate(link: Link, generation: int) -> int:
    """Rotate both tunnels' keys; returns how many steps it took."""
    rotation, steps = Rotation(generation), 0
    while not rotation.done:
        rotation = step(rotation, link)
        steps += 1
    return steps


class Stream:
    """A TCP connection from the site to the cloud that is always full."""

    def __init__(self, cloud: Machine, site: Machine) -> None:
        self.sent = self.received = 0
        self._hashes = {"sent": hashlib.sha256(), "received": hashlib.sha256()}
        self._stop, listening = threading.Event(), threading.Event()
        self._threads = [cloud.start_thread(lambda: self._receive(listening))]
        listening.wait()
        self._threads.append(site.start_thread(self._send))

    def close(self) -> None:
        """End the stream and wait for its last byte."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def whole(self) -> bool:
        """Whether every byte came, in order."""
        sent, received = (each.hexdigest() for each in self._hashes.values())
        return self.sent == self.received and sent == received

    def _send(self) -> None:
        with socket.create_connection((CLOUD, 7000), source_address=(SITE, 0)) as connection:
            while not self._stop.is_set():
                chunk = self.sent.to_bytes(8, "big") + CHUNK
                connection.sendall(chunk)
                self._hashes["sent"].update(chunk)
                self.sent += len(chunk)
                self._stop.wait(0.002)  # full enough: the processors are for the tunnels

    def _receive(self, listening: threading.Event) -> None:
        with socket.create_server((CLOUD, 7000)) as server:
            listening.set()
            connection, _ = server.accept()
            with connection:
                while chunk := connection.recv(65536):
                    self._hashes["received"].update(chunk)
                    self.received += len(chunk)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _remove(machine: Machine, interfaces: Sequence[str]) -> None:
    # Each wireguard-go ends with its interface.
    for interface in interfaces:
        subprocess.run(["ip", "-netns", machine.name, "link", "delete", interface],
                       capture_output=True)  # fmt: skip
