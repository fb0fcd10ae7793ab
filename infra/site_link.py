"""Encrypted link between the VPC and the sites: AWS Site-to-Site VPN, two IPsec tunnels each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_aws import ec2

from infra.ipsec import ENCRYPTION, GROUPS, INTEGRITY

CUSTOMER_ASN = "65000"  # static routing: AWS wants a number but never speaks BGP with it


@dataclass(frozen=True)
class LinkedSite:
    """A site's end of the link: its name, its network, the public address of its VPN gateway."""

    name: str
    cidr: str
    public_ip: str


@dataclass(frozen=True)
class SiteLinkArgs:
    """The two sides of the link.

    Parameters
    ----------
    vpc_id, vpc_cidr
        The cloud side.
    route_tables
        Route tables that learn the way to the sites, by a name that stays when the id changes.
    sites
        The other sides.
    amazon_asn
        Private AS number of the cloud side.
    """

    vpc_id: pulumi.Input[str]
    vpc_cidr: str
    route_tables: Mapping[str, pulumi.Input[str]]
    sites: Sequence[LinkedSite]
    amazon_asn: int


class SiteLink(pulumi.ComponentResource):
    """One virtual private gateway, and a two-tunnel connection for each site.

    A VPC takes one gateway only, hence one component for all sites.

    Attributes
    ----------
    gateway_id
        The virtual private gateway.
    connections
        Connection id by site.
    tunnels
        By site, what its gateway must be configured with: two tunnels, each with outside and inside
        address and pre-shared key. Secret.
    """

    gateway_id: pulumi.Output[str]
    connections: dict[str, pulumi.Output[str]]
    tunnels: dict[str, pulumi.Output[list[dict[str, str]]]]

    def __init__(
        self, name: str, args: SiteLinkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:SiteLink", name, None, opts)
        self.connections, self.tunnels = {}, {}
        gateway = ec2.VpnGateway(
            name,
            vpc_id=args.vpc_id,
            amazon_side_asn=str(args.amazon_asn),
            tags={"Name": name},
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.gateway_id = gateway.id
        for table, table_id in args.route_tables.items():
            ec2.VpnGatewayRoutePropagation(
                f"{name}-{table}",
                vpn_gateway_id=gateway.id,
                route_table_id=table_id,
                opts=pulumi.ResourceOptions(parent=self),
            )
        for site in args.sites:
            self._connect(f"{name}-{site.name}", gateway, site, args.vpc_cidr)
        self.register_outputs({"gateway_id": self.gateway_id, "connections": self.connections})

    def _connect(self, name: str, gateway: ec2.VpnGateway, site: LinkedSite, vpc: str) -> None:
        customer = ec2.CustomerGateway(
            name,
            type="ipsec.1",
            ip_address=site.public_ip,
            bgp_asn=CUSTOMER_ASN,
            tags={"Name": name},
            # A new address needs a new gateway, which its connection moves to.
            opts=pulumi.ResourceOptions(parent=self),
        )
        connection = ec2.VpnConnection(
            name,
            type="ipsec.1",
            vpn_gateway_id=gateway.id,
            customer_gateway_id=customer.id,
            static_routes_only=True,
            local_ipv4_network_cidr=site.cidr,
            remote_ipv4_network_cidr=vpc,
            **tunnel_options(1),
            **tunnel_options(2),
            tags={"Name": name},
            opts=pulumi.ResourceOptions(
                parent=self,
                additional_secret_outputs=[
                    "tunnel1PresharedKey",
                    "tunnel2PresharedKey",
                    "customerGatewayConfiguration",
                ],
            ),
        )
        ec2.VpnConnectionRoute(
            name,
            vpn_connection_id=connection.id,
            destination_cidr_block=site.cidr,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.connections[site.name] = connection.id
        self.tunnels[site.name] = pulumi.Output.secret(
            pulumi.Output.all(
                *(
                    {
                        "outside_address": getattr(connection, f"tunnel{number}_address"),
                        "inside_address": getattr(connection, f"tunnel{number}_cgw_inside_address"),
                        "preshared_key": getattr(connection, f"tunnel{number}_preshared_key"),
                    }
                    for number in (1, 2)
                )
            )
        )


def tunnel_options(number: int) -> dict[str, Any]:
    """Arguments of a VPN connection for one of its two tunnels.

    AWS restarts the negotiation when the site falls silent, so that a lost tunnel comes back
    without anybody's help.
    """
    options = {
        "ike_versions": ["ikev2"],
        "phase1_encryption_algorithms": ENCRYPTION,
        "phase2_encryption_algorithms": ENCRYPTION,
        "phase1_integrity_algorithms": INTEGRITY,
        "phase2_integrity_algorithms": INTEGRITY,
        "phase1_dh_group_numbers": GROUPS,
        "phase2_dh_group_numbers": GROUPS,
        "startup_action": "start",
        "dpd_timeout_action": "restart",
    }
    return {f"tunnel{number}_{option}": value for option, value in options.items()}
