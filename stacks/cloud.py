"""Layer `cloud`: the object stores, and the GPU pool in its own network."""

from __future__ import annotations

import importlib

import pulumi

from infra import gpu
from infra.autoscaler_access import AutoscalerAccess, AutoscalerAccessArgs
from infra.gpu_pool import GpuPool, GpuPoolArgs
from infra.object_stores import ObjectStores, ObjectStoresArgs
from stacks.joining import joined_cluster
from stacks.providers import aws_provider, gcp_provider, tags
from stacks.settings import Settings


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    if settings.gpu_pool.cloud != "aws":
        importlib.import_module(f"stacks.{settings.gpu_pool.cloud}").cloud(environment, settings)
        return
    aws = aws_provider(settings, environment, "cloud")
    gcp = gcp_provider(settings, environment, "cloud")
    name = f"hybrid-{environment}"
    stores = ObjectStores(
        name,
        ObjectStoresArgs(
            gcs_location=settings.gcp.location,
            **settings.object_stores.model_dump(exclude={"onprem"}),
            tls_only=not (settings.aws_endpoint or "").startswith("http:"),
        ),
        pulumi.ResourceOptions(providers=[aws, gcp]),
    )
    pool = settings.gpu_pool
    gpus = GpuPool(
        name,
        GpuPoolArgs(
            region=settings.region,
            zones=settings.zones,
            vpc_cidr=settings.network.vpc_cidr,
            nat_per_zone=settings.network.nat == "per-zone",
            site_cidrs=[str(site.cidr) for site in settings.sites],
            instance_types=pool.instance_types,
            minimum=pool.minimum,
            maximum=pool.maximum,
            on_demand_base=pool.on_demand_base,
            spot_share=pool.spot_share,
            volume_gib=pool.volume_gib,
            image_parameter=pool.image_parameter,
            time_slices=pool.time_slices,
            cluster=name,
            joins=joined_cluster(settings),
            bucket_arn=stores.s3_arn,
            tags=tags(environment, "cloud"),
        ),
        pulumi.ResourceOptions(providers=[aws]),
    )
    pulumi.export("s3_bucket", stores.s3_bucket)
    pulumi.export("gcs_bucket", stores.gcs_bucket)
    pulumi.export("vpc_id", gpus.vpc_id)
    pulumi.export("private_subnets", gpus.private_subnets)
    pulumi.export("public_subnets", gpus.public_subnets)
    pulumi.export("private_route_tables", gpus.private_route_tables)
    pulumi.export("security_group_id", gpus.security_group_id)
    pulumi.export("gpu_group", gpus.group_name)
    pulumi.export("node_role_arn", gpus.role_arn)
    if gpus.token_secret is not None:
        pulumi.export("token_secret", gpus.token_secret)
    if pool.autoscaler_image:
        access = AutoscalerAccess(
            name,
            AutoscalerAccessArgs(gpus.group_arn, gpu.owned_tag(name)),
            pulumi.ResourceOptions(providers=[aws]),
        )
        pulumi.export("autoscaler_key", access.key)
