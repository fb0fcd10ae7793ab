"""Layer `link`: the VPN between the network of layer `cloud` and the sites."""

from __future__ import annotations

import importlib

import pulumi

from infra.site_link import LinkedSite, SiteLink, SiteLinkArgs
from infra.wireguard_gateway import WireGuardGateway, WireGuardGatewayArgs
from stacks.providers import aws_provider, tags
from stacks.references import Layer
from stacks.settings import Settings


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    if settings.gpu_pool.cloud != "aws":
        importlib.import_module(f"stacks.{settings.gpu_pool.cloud}").link(environment, settings)
        return
    cloud = Layer(environment, "cloud")
    tables = cloud.output("private_route_tables")
    route_tables = {zone: tables[zone] for zone in settings.zones}
    sites = [
        LinkedSite(site.name, str(site.cidr), str(site.public_ip)) for site in settings.sites
    ]
    name, vpc_cidr = f"hybrid-{environment}", str(settings.network.vpc_cidr)
    options = pulumi.ResourceOptions(providers=[aws_provider(settings, environment, "link")])
    if settings.link.driver == "wireguard":
        gateway = WireGuardGateway(
            name,
            WireGuardGatewayArgs(
                vpc_id=cloud.output("vpc_id"),
                vpc_cidr=vpc_cidr,
                subnet_id=cloud.output("public_subnets")[settings.zones[0]],
                route_tables=route_tables,
                sites=sites,
                instance_type=settings.link.instance_type,
                image_parameter=settings.link.image_parameter,
                tags=tags(environment, "link"),
            ),
            options,
        )
        pulumi.export("gateway_id", gateway.instance_id)
        pulumi.export("gateway_ip", gateway.public_ip)
        return
    link = SiteLink(
        name,
        SiteLinkArgs(
            vpc_id=cloud.output("vpc_id"),
            vpc_cidr=vpc_cidr,
            route_tables=route_tables,
            sites=sites,
            amazon_asn=settings.network.amazon_asn,
        ),
        options,
    )
    pulumi.export("gateway_id", link.gateway_id)
    pulumi.export("connections", link.connections)
    pulumi.export("tunnels", link.tunnels)
