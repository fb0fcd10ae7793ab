"""Both ends of a site's IPsec link as a rotation sees them: AWS's API, and strongSwan at the site."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.ipsec import PRESHARED_KEY, render_tunnel
from infra.wireguard import Measurement, Runner, parse_measurement

SCRIPT = Path(__file__).with_name("ipsec_end.sh")


class LinkError(Exception):
    """A link that cannot be worked on; the sentence names site and connection."""

    exit_code = 1


def outside_addresses(ec2: Any, connection: str, site: str) -> list[str]:
    """Outside addresses of a connection's two tunnels, in AWS's order.

    Raises
    ------
    LinkError
        The connection is half-created, or gone.
    """
    found = _describe(ec2, connection)
    addresses = [each["OutsideIpAddress"] for each in found.get("VgwTelemetry") or ()]
    state = found.get("State", "gone")
    if state not in ("available", "modifying") or len(addresses) != 2:
        raise LinkError(
            f"VPN connection {connection} of {site} is {state} with {len(addresses)} of 2 tunnels: "
            "it is half-created; run hybrid up again, which mends or replaces it"
        )
    return sorted(addresses)


class IpsecCloud:
    """AWS's end (an :class:`infra.link_rotation.End`): it takes the site's keys.

    Parameters
    ----------
    ec2
        Client of EC2.
    connection, addresses
        The VPN connection and its tunnels' outside addresses.
    """

    def __init__(self, ec2: Any, connection: str, addresses: Sequence[str]) -> None:
        self._ec2, self._connection, self._addresses = ec2, connection, addresses

    def prepare(self, tunnel: int, generation: int) -> str:
        """Nothing: the site makes the key."""
        return ""

    def apply(self, tunnel: int, generation: int, offer: str) -> None:
        """Set a tunnel's pre-shared key; AWS restarts that tunnel, and no other."""
        if not PRESHARED_KEY.fullmatch(offer):
            raise LinkError("the site's gateway made a key that AWS does not allow")
        self._ec2.modify_vpn_tunnel_options(
            VpnConnectionId=self._connection,
            VpnTunnelOutsideIpAddress=self._addresses[tunnel],
            TunnelOptions={"PreSharedKey": offer},
        )

    def prefer(self, tunnel: int) -> None:
        """Nothing: AWS sends through a tunnel that is up by itself."""

    def is_up(self, tunnel: int) -> bool:
        """Whether AWS says so, and changes nothing at the moment."""
        found = _describe(self._ec2, self._connection)
        return found.get("State") == "available" and any(
            each["OutsideIpAddress"] == self._addresses[tunnel] and each["Status"] == "UP"
            for each in found.get("VgwTelemetry") or ()
        )


class IpsecSite:
    """The site's end: strongSwan on its gateway.

    Parameters
    ----------
    run
        Runs the script on the gateway.
    site, public_ip, site_cidr, vpc_cidr
        As :func:`infra.ipsec.render_swanctl` takes them.
    addresses
        Outside addresses of AWS's ends.
    echo
        A host in the VPC that answers pings, if there is one: AWS's own ends answer none that
        comes through the tunnel.
    """

    def __init__(
        self,
        run: Runner,
        site: str,
        public_ip: str,
        site_cidr: str,
        vpc_cidr: str,
        addresses: Sequence[str],
        echo: str | None = None,
    ) -> None:
        self._run, self._site, self._addresses, self._echo = run, site, addresses, echo
        self._networks = public_ip, site_cidr, vpc_cidr

    def start(self) -> None:
        """Make both tunnels' interfaces."""
        for tunnel in range(len(self._addresses)):
            self._call("start", tunnel, str(tunnel + 1))

    def prepare(self, tunnel: int, generation: int) -> str:
        """Make a generation's key, or find it; return it for AWS's end."""
        return self._call("prepare", tunnel, str(generation)).strip()

    def apply(self, tunnel: int, generation: int, offer: str) -> None:
        """Load the tunnel's configuration with the generation's key and dial."""
        number, address = tunnel + 1, self._addresses[tunnel]
        text = render_tunnel(self._site, number, *self._networks, address, "@KEY@")
        self._call("apply", tunnel, str(generation), text)

    def prefer(self, tunnel: int) -> None:
        """Send the traffic to the VPC through this tunnel."""
        self._call("prefer", tunnel, str(tunnel + 1), self._networks[-1])

    def is_up(self, tunnel: int) -> bool:
        """Whether strongSwan has the tunnel's keys installed."""
        return "installed" in self._call("probe", tunnel)

    def measure(self, tunnel: int) -> Measurement:
        """Age of the handshake, and how the echoing host answers, if there is one."""
        if self._echo is None:
            told = self._call("probe", tunnel)
        else:
            number, (_, network, _) = str(tunnel + 1), self._networks
            told = self._call("measure", tunnel, number, network, self._echo)
        ages = map(int, re.findall(r"established (\d+)", told))
        return replace(parse_measurement(told), handshake_age=min(ages, default=None))

    def _call(self, command: str, tunnel: int, *arguments: str) -> str:
        name = f"{self._site}-{tunnel + 1}"
        return self._run(SCRIPT.read_text(), [command, name, *arguments])


def _describe(ec2: Any, connection: str) -> dict[str, Any]:
    found = ec2.describe_vpn_connections(VpnConnectionIds=[connection])["VpnConnections"]
    return found[0] if found else {}
