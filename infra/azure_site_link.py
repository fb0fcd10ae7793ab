"""Encrypted link between an Azure network and the sites: a VPN gateway, two tunnels to each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_azure import network

from infra.site_link import LinkedSite

# Nothing else is offered, so that no negotiation can end below it.
IPSEC_POLICY = {
    "ike_encryption": "GCMAES256",
    "ike_integrity": "SHA384",
    "dh_group": "ECP384",
    "ipsec_encryption": "GCMAES256",
    "ipsec_integrity": "GCMAES256",
    "pfs_group": "ECP384",
    "sa_lifetime": 27000,
}


@dataclass(frozen=True)
class AzureSiteLinkArgs:
    """The two sides of the link.

    Parameters
    ----------
    location, resource_group, gateway_subnet
        The cloud side.
    zones
        Of the gateway's addresses.
    sites
        The other sides.
    tags
        Put on everything.
    """

    location: str
    resource_group: pulumi.Input[str]
    gateway_subnet: pulumi.Input[str]
    zones: Sequence[str]
    sites: Sequence[LinkedSite]
    tags: Mapping[str, str]


class AzureSiteLink(pulumi.ComponentResource):
    """One VPN gateway with two active instances, and an IKEv2 connection to each site.

    Each instance has an address and keeps a tunnel of its own.

    Attributes
    ----------
    gateway_id
        The gateway.
    tunnels
        By site, what its gateway must be configured with: the address and pre-shared key of two
        tunnels. Secret.
    """

    gateway_id: pulumi.Output[str]
    tunnels: dict[str, pulumi.Output[list[dict[str, str]]]]

    def __init__(
        self, name: str, args: AzureSiteLinkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:AzureSiteLink", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        place = {
            "resource_group_name": args.resource_group,
            "location": args.location,
            "tags": dict(args.tags),
        }
        addresses = [
            network.PublicIp(
                f"{name}-vpn-{number}",
                allocation_method="Static",
                sku="Standard",
                zones=list(args.zones),
                opts=own,
                **place,
            )
            for number in (1, 2)
        ]
        gateway = network.VirtualNetworkGateway(
            name,
            type="Vpn",
            vpn_type="RouteBased",
            generation="Generation2",
            sku="VpnGw2AZ",
            active_active=True,
            ip_configurations=[
                {
                    "name": f"tunnel-{number}",
                    "subnet_id": args.gateway_subnet,
                    "public_ip_address_id": address.id,
                }
                for number, address in enumerate(addresses, 1)
            ],
            # It takes half an hour and more.
            opts=pulumi.ResourceOptions(
                parent=self, custom_timeouts=pulumi.CustomTimeouts(create="90m", delete="90m")
            ),
            **place,
        )
        self.gateway_id = gateway.id
        self.tunnels = {}
        for site in args.sites:
            key = random.RandomPassword(
                f"{name}-{site.name}", length=48, special=False, opts=own
            ).result
            local = network.LocalNetworkGateway(
                f"{name}-{site.name}",
                gateway_address=site.public_ip,
                address_spaces=[site.cidr],
                opts=own,
                **place,
            )
            network.VirtualNetworkGatewayConnection(
                f"{name}-{site.name}",
                type="IPsec",
                virtual_network_gateway_id=gateway.id,
                local_network_gateway_id=local.id,
                connection_protocol="IKEv2",
                dpd_timeout_seconds=45,
                ipsec_policy=IPSEC_POLICY,
                shared_key=pulumi.Output.secret(key),
                opts=own,
                **place,
            )
            self.tunnels[site.name] = pulumi.Output.secret(
                pulumi.Output.all(
                    *(
                        {"outside_address": address.ip_address, "preshared_key": key}
                        for address in addresses
                    )
                )
            )
        self.register_outputs({"gateway_id": self.gateway_id})
