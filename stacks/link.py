"""Layer `link`: the VPN between the VPC of layer `cloud` and the sites."""

from __future__ import annotations

import pulumi

from infra.site_link import LinkedSite, SiteLink, SiteLinkArgs
from stacks.providers import aws_provider
from stacks.references import Layer
from stacks.settings import Settings


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    cloud = Layer(environment, "cloud")
    route_tables = cloud.output("private_route_tables")
    link = SiteLink(
        f"hybrid-{environment}",
        SiteLinkArgs(
            vpc_id=cloud.output("vpc_id"),
            vpc_cidr=str(settings.network.vpc_cidr),
            route_tables={zone: route_tables[zone] for zone in settings.zones},
            sites=[
                LinkedSite(site.name, str(site.cidr), str(site.public_ip))
                for site in settings.sites
            ],
            amazon_asn=settings.network.amazon_asn,
        ),
        pulumi.ResourceOptions(providers=[aws_provider(settings, environment, "link")]),
    )
    pulumi.export("gateway_id", link.gateway_id)
    pulumi.export("connections", link.connections)
    pulumi.export("tunnels", link.tunnels)
