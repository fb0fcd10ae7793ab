"""Layers `cloud` and `link` of an environment whose GPU machines are on Google Cloud."""

from __future__ import annotations

import pulumi
from pulumi_gcp import secretmanager

from infra.gcp_autoscaler_access import GcpAutoscalerAccess, GcpAutoscalerAccessArgs
from infra.gcp_cloud import described
from infra.gcp_gpu_pool import GcpGpuPool, GcpGpuPoolArgs
from infra.gcp_site_link import GcpSiteLink, GcpSiteLinkArgs
from infra.object_stores import ObjectStores, ObjectStoresArgs
from infra.site_link import LinkedSite
from stacks.joining import joined_cluster
from stacks.providers import gcp_provider, labels
from stacks.references import Layer
from stacks.settings import Settings


def cloud(environment: str, settings: Settings) -> None:
    """Declare the object store and the GPU pool."""
    options = pulumi.ResourceOptions(providers=[gcp_provider(settings, environment, "cloud")])
    name, pool = f"hybrid-{environment}", settings.gpu_pool
    stores = ObjectStores(
        name,
        ObjectStoresArgs(
            gcs_location=settings.gcp.location,
            **settings.object_stores.model_dump(exclude={"onprem"}),
            s3=False,
        ),
        options,
    )
    gpus = GcpGpuPool(
        name,
        GcpGpuPoolArgs(
            project=settings.gcp.project,
            region=settings.region,
            zones=settings.zones,
            cidr=settings.network.vpc_cidr,
            site_cidrs=[str(site.cidr) for site in settings.sites],
            machine_type=pool.instance_types[0],
            minimum=pool.minimum,
            maximum=pool.maximum,
            on_demand_base=pool.on_demand_base,
            spot_share=pool.spot_share,
            volume_gib=pool.volume_gib,
            image=pool.image,
            time_slices=pool.time_slices,
            joins=joined_cluster(settings),
            bucket=stores.gcs_bucket,
            labels=labels(environment, "cloud"),
        ),
        options,
    )
    pulumi.export("gcs_bucket", stores.gcs_bucket)
    pulumi.export("network", gpus.network)
    pulumi.export("gpu_groups", gpus.groups)
    pulumi.export("node_service_account", gpus.service_account)
    if gpus.token_secret is not None:
        pulumi.export("token_secret", gpus.token_secret)
    if pool.autoscaler_image:
        access = GcpAutoscalerAccess(
            name,
            GcpAutoscalerAccessArgs(settings.gcp.project, described(environment)),
            options,
        )
        pulumi.export("autoscaler_key", access.key)


def put_token(environment: str, settings: Settings, token: pulumi.Input[str], cloud: Layer) -> None:
    """Put the join token where layer `cloud` has told the machines to look."""
    secretmanager.SecretVersion(
        "join-token",
        secret=cloud.output("token_secret"),
        secret_data=token,
        opts=pulumi.ResourceOptions(provider=gcp_provider(settings, environment, "platform")),
    )


def link(environment: str, settings: Settings) -> None:
    """Declare the VPN to the sites."""
    made = GcpSiteLink(
        f"hybrid-{environment}",
        GcpSiteLinkArgs(
            region=settings.region,
            network=Layer(environment, "cloud").output("network"),
            cidr=str(settings.network.vpc_cidr),
            sites=[
                LinkedSite(site.name, str(site.cidr), str(site.public_ip))
                for site in settings.sites
            ],
            cloud_asn=settings.network.amazon_asn,
            description=described(environment),
        ),
        pulumi.ResourceOptions(providers=[gcp_provider(settings, environment, "link")]),
    )
    pulumi.export("gateway_id", made.gateway_id)
    pulumi.export("tunnels", made.tunnels)
