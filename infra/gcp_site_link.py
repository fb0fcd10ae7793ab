"""Encrypted link between a Google Cloud network and the sites: HA VPN, two tunnels to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

import pulumi
import pulumi_random as random
from pulumi_gcp import compute

from infra.site_link import LinkedSite

# One algorithm for each part and nothing weaker, so that no negotiation can end below it.
CIPHERS = {
    "phase1": {
        "encryptions": ["AES-GCM-16-256"],
        "prves": ["PRF-HMAC-SHA2-384"],
        "dhs": ["Group-20"],
    },
    "phase2": {"encryptions": ["AES-GCM-16-256"], "pfs": ["Group-20"]},
}
FIRST_SITE_ASN = 65001
# Link-local addresses for BGP; Google keeps the beginning of 169.254.0.0/16 for itself.
FIRST_INSIDE = IPv4Address("169.254.16.0")
MOST_SITES = 64


@dataclass(frozen=True)
class GcpSiteLinkArgs:
    """The two sides of the link.

    Parameters
    ----------
    region, network, cidr
        The cloud side, whose addresses the sites are told.
    sites
        The other sides.
    cloud_asn
        Private AS number of the cloud side; the sites have 65001, 65002 and so on.
    description
        Of what can have no label; it tells whose it is.
    """

    region: str
    network: pulumi.Input[str]
    cidr: str
    sites: Sequence[LinkedSite]
    cloud_asn: int
    description: str


def inside_addresses(site: int, tunnel: int) -> tuple[IPv4Interface, IPv4Interface]:
    """The cloud's and the site's address within a tunnel: a /30 that no other tunnel has."""
    if not 0 <= site < MOST_SITES or tunnel not in (0, 1):
        raise ValueError(f"no tunnel {tunnel} to site {site}: at most {MOST_SITES} sites have two")
    first = FIRST_INSIDE + 4 * (2 * site + tunnel)
    return IPv4Interface(f"{first + 1}/30"), IPv4Interface(f"{first + 2}/30")


class GcpSiteLink(pulumi.ComponentResource):
    """One HA VPN gateway, whose two interfaces each have a tunnel to each site.

    Attributes
    ----------
    gateway_id
        The gateway.
    tunnels
        By site, what its gateway must be configured with: two tunnels, each with outside and inside
        addresses, AS numbers and pre-shared key. Secret.
    """

    gateway_id: pulumi.Output[str]
    tunnels: dict[str, pulumi.Output[list[dict[str, str]]]]

    def __init__(
        self, name: str, args: GcpSiteLinkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:GcpSiteLink", name, None, opts)
        self._name, self._args = name, args
        self._own = pulumi.ResourceOptions(parent=self)
        self._gateway = compute.HaVpnGateway(
            name, network=args.network, region=args.region, opts=self._own
        )
        self._router = compute.Router(
            f"{name}-link",
            network=args.network,
            region=args.region,
            description=args.description,
            bgp={
                "asn": args.cloud_asn,
                "advertise_mode": "CUSTOM",
                "advertised_ip_ranges": [{"range": args.cidr}],
            },
            opts=self._own,
        )
        self.gateway_id = self._gateway.id
        self.tunnels = {site.name: self._connect(n, site) for n, site in enumerate(args.sites)}
        self.register_outputs({"gateway_id": self.gateway_id})

    def _connect(self, number: int, site: LinkedSite) -> pulumi.Output[list[dict[str, str]]]:
        peer = compute.ExternalVpnGateway(
            f"{self._name}-{site.name}",
            redundancy_type="SINGLE_IP_INTERNALLY_REDUNDANT",
            interfaces=[{"id": 0, "ip_address": site.public_ip}],
            opts=self._own,
        )
        told = [self._make_tunnel(number, tunnel, site, peer) for tunnel in (0, 1)]
        return pulumi.Output.secret(pulumi.Output.all(*told))

    def _make_tunnel(
        self, number: int, tunnel: int, site: LinkedSite, peer: compute.ExternalVpnGateway
    ) -> dict[str, pulumi.Input[str]]:
        name, region = f"{self._name}-{site.name}-{tunnel + 1}", self._args.region
        ours, theirs = inside_addresses(number, tunnel)
        site_asn = FIRST_SITE_ASN + number
        key = random.RandomPassword(name, length=48, special=False, opts=self._own)
        made = compute.VPNTunnel(
            name,
            region=region,
            vpn_gateway=self._gateway.id,
            vpn_gateway_interface=tunnel,
            peer_external_gateway=peer.id,
            peer_external_gateway_interface=0,
            shared_secret=pulumi.Output.secret(key.result),
            ike_version=2,
            cipher_suite=CIPHERS,
            router=self._router.id,
            opts=self._own,
        )
        interface = compute.RouterInterface(
            name,
            name=name,
            router=self._router.name,
            region=region,
            ip_range=str(ours),
            vpn_tunnel=made.name,
            opts=self._own,
        )
        compute.RouterPeer(
            name,
            router=self._router.name,
            region=region,
            interface=interface.name,
            peer_ip_address=str(theirs.ip),
            peer_asn=site_asn,
            opts=self._own,
        )
        return {
            "outside_address": self._gateway.vpn_interfaces[tunnel]["ip_address"],
            "inside_address": str(theirs),
            "cloud_inside_address": str(ours),
            "cloud_asn": str(self._args.cloud_asn),
            "site_asn": str(site_asn),
            "preshared_key": key.result,
        }
