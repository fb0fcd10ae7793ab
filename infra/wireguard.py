"""WireGuard tunnels between a site and the cloud: their plan, and one end as a rotation sees it.

Each side makes its own keys where they are used (`wireguard_end.sh`); only public keys cross.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from infra.link_rotation import TUNNELS

SCRIPT = Path(__file__).with_name("wireguard_end.sh")
FIRST_PORT = 51820

# Link-local, like the inside addresses of AWS's own VPN; AWS's services are at 169.254.169.0/24.
INSIDE = IPv4Network("169.254.64.0/18")

Runner = Callable[[str, Sequence[str]], str]
"""Runs a shell script with arguments on a machine as root; returns what it printed."""


@dataclass(frozen=True)
class Tunnel:
    """One of a site's two tunnels; both ends use the same name and port.

    Attributes
    ----------
    interface
        Name of the network interface, at most 15 characters.
    port
        UDP port that each end listens on.
    cloud, site
        Addresses of the ends within the tunnel.
    """

    interface: str
    port: int
    cloud: IPv4Address
    site: IPv4Address


def plan_tunnels(site: int, prefix: str = "hy") -> tuple[Tunnel, Tunnel]:
    """The two tunnels of a site.

    Parameters
    ----------
    site
        Its place among the sites, from 0; a site appended later changes no other's tunnels.
    prefix
        What the interfaces' names begin with, at most 5 characters.

    Raises
    ------
    ValueError
        There are more sites than inside addresses.
    """
    numbers = [len(TUNNELS) * site + tunnel for tunnel in TUNNELS]
    if 4 * (numbers[-1] + 1) > INSIDE.num_addresses:
        raise ValueError(f"site {site + 1} is one more than {INSIDE} has tunnels for")
    return tuple(
        Tunnel(f"{prefix}{number}", FIRST_PORT + number, base + 1, base + 2)
        for number in numbers
        for base in [INSIDE[4 * number]]
    )


class WireGuardEnd:
    """One end of a site's two tunnels (an :class:`infra.link_rotation.End`).

    Parameters
    ----------
    run
        Runs the script on the end's machine.
    tunnels
        The plan.
    own, peer
        Inside addresses of this end and of the other, by tunnel.
    endpoint
        Public address of the other end.
    networks
        What lies behind the other end.
    """

    def __init__(
        self,
        run: Runner,
        tunnels: Sequence[Tunnel],
        own: Sequence[IPv4Address],
        peer: Sequence[IPv4Address],
        endpoint: str,
        networks: Sequence[str],
    ) -> None:
        self._run, self._tunnels, self._own, self._peer = run, tunnels, own, peer
        self._endpoint, self._networks = endpoint, networks

    def start(self) -> None:
        """Bring both interfaces up, with the keys that they had before, if any."""
        for number, tunnel in enumerate(self._tunnels):
            self._call("start", number, f"{self._own[number]}/30", str(tunnel.port))

    def prepare(self, tunnel: int, generation: int) -> str:
        """Make a generation's key, or find it; return its public half."""
        return public_key(self._call("prepare", tunnel, str(generation)))

    def apply(self, tunnel: int, generation: int, offer: str) -> None:
        """Put the generation's key to use, towards the peer with the public key `offer`."""
        nets = ",".join([f"{self._peer[tunnel]}/32", *self._networks])
        endpoint = f"{self._endpoint}:{self._tunnels[tunnel].port}"
        self._call("apply", tunnel, str(generation), public_key(offer), endpoint, nets)

    def prefer(self, tunnel: int) -> None:
        """Send the traffic to the networks through this tunnel."""
        for network in self._networks:
            self._call("prefer", tunnel, network)

    def is_up(self, tunnel: int) -> bool:
        """Whether the other end answers through the tunnel."""
        return self._call("probe", tunnel, str(self._peer[tunnel])).strip() == "up"

    def measure(self, tunnel: int) -> Measurement:
        """Handshake age, latency and throughput, by packets through the tunnel."""
        return parse_measurement(self._call("measure", tunnel, str(self._peer[tunnel])))

    def _call(self, command: str, tunnel: int, *arguments: str) -> str:
        interface = self._tunnels[tunnel].interface
        return self._run(SCRIPT.read_text(), [command, interface, *arguments])


def ends(
    cloud: Runner,
    site: Runner,
    tunnels: Sequence[Tunnel],
    addresses: tuple[str, str],
    networks: tuple[str, str],
) -> tuple[WireGuardEnd, WireGuardEnd]:
    """The cloud's end and the site's.

    Parameters
    ----------
    cloud, site
        Run the script on either machine.
    addresses, networks
        Public address of each, and the network behind it: the cloud's first.
    """
    inside = [tunnel.cloud for tunnel in tunnels], [tunnel.site for tunnel in tunnels]
    return (
        WireGuardEnd(cloud, tunnels, inside[0], inside[1], addresses[1], [networks[1]]),
        WireGuardEnd(site, tunnels, inside[1], inside[0], addresses[0], [networks[0]]),
    )


def public_key(text: str) -> str:
    """The key in an end's answer; ValueError when that is anything else."""
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}=", text.strip()):
        raise ValueError(f"a WireGuard public key has 43 characters and '=', not {text.strip()!r}")
    return text.strip()


@dataclass(frozen=True)
class Measurement:
    """How a tunnel does; None where it did not answer.

    Attributes
    ----------
    handshake_age
        Seconds since the keys were last agreed upon.
    latency
        Mean round trip in milliseconds.
    throughput
        Megabits a second in one direction, at least: 500 packets of 1,300 bytes and their echoes.
    """

    handshake_age: int | None
    latency: float | None
    throughput: float | None


ECHO_BITS = 1300 * 8


def parse_measurement(text: str) -> Measurement:
    """Read what the script's `measure` printed."""
    handshakes = [(int(at), int(now)) for at, now in re.findall(r"handshake (\d+) (\d+)", text)]
    ages = [now - at for at, now in handshakes if at]
    trips = re.findall(r"= [\d.]+/([\d.]+)/", text)
    echoes = re.findall(r"(\d+) received.* time (\d+)ms", text)
    received, milliseconds = map(int, echoes[1]) if len(echoes) == 2 else (0, 0)
    return Measurement(
        min(ages, default=None),
        float(trips[0]) if trips else None,
        round(received * ECHO_BITS / 1000 / max(milliseconds, 1), 1) if received else None,
    )
