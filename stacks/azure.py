"""Layers `cloud` and `link` of an environment whose GPU machines are on Azure."""

from __future__ import annotations

import pulumi
import pulumi_azure

from infra.azure_gpu_pool import AzureGpuPool, AzureGpuPoolArgs, grant_resizing, grant_store
from infra.azure_object_store import AzureObjectStore, AzureObjectStoreArgs
from infra.azure_site_link import AzureSiteLink, AzureSiteLinkArgs
from infra.azure_token_vault import TOKEN_NAME
from infra.site_link import LinkedSite
from stacks.joining import joined_cluster
from stacks.providers import labels
from stacks.references import Layer
from stacks.settings import Settings


def provider(settings: Settings) -> pulumi_azure.Provider:
    """Provider of the settings' subscription, with the credentials of the process environment."""
    return pulumi_azure.Provider(
        "azure",
        subscription_id=settings.azure.subscription,
        # The store's account has no keys that could be used instead.
        storage_use_azuread=True,
        features={},
    )


def cloud(environment: str, settings: Settings) -> None:
    """Declare the resource group, the GPU pool and the object store."""
    azure, tags = provider(settings), labels(environment, "cloud")
    options = pulumi.ResourceOptions(providers=[azure])
    name, pool = f"hybrid-{environment}", settings.gpu_pool
    group = pulumi_azure.core.ResourceGroup(
        name, location=settings.region, tags=tags, opts=pulumi.ResourceOptions(provider=azure)
    )
    place = {"location": settings.region, "resource_group": group.name, "tags": tags}
    gpus = AzureGpuPool(
        name,
        AzureGpuPoolArgs(
            zones=settings.zones,
            cidr=settings.network.vpc_cidr,
            site_cidrs=[str(site.cidr) for site in settings.sites],
            site_addresses=[str(site.public_ip) for site in settings.sites],
            sku=pool.instance_types[0],
            minimum=pool.minimum,
            maximum=pool.maximum,
            on_demand_base=pool.on_demand_base,
            spot_share=pool.spot_share,
            volume_gib=pool.volume_gib,
            image=pool.image,
            time_slices=pool.time_slices,
            cluster=name,
            joins=joined_cluster(settings),
            **place,
        ),
        options,
    )
    store = AzureObjectStore(
        name,
        AzureObjectStoreArgs(
            noncurrent_days=settings.object_stores.noncurrent_days,
            cold_days=settings.object_stores.cold_days,
            subnets=[gpus.subnet_id],
            addresses=[str(site.public_ip) for site in settings.sites],
            **place,
        ),
        options,
    )
    grant_store(
        f"{name}-models",
        store.container_id,
        gpus.principal_id,
        pulumi.ResourceOptions(provider=azure),
    )
    if pool.autoscaler_image:
        grant_resizing(
            f"{name}-autoscaler",
            group.id,
            gpus.scale_set_id,
            settings.azure.autoscaler.principal,
            pulumi.ResourceOptions(provider=azure),
        )
    pulumi.export("resource_group", group.name)
    pulumi.export("gateway_subnet", gpus.gateway_subnet_id)
    pulumi.export("gpu_scale_set", gpus.scale_set)
    if gpus.token_vault is not None:
        pulumi.export("token_vault", gpus.token_vault)
    pulumi.export("storage_account", store.account)
    pulumi.export("storage_container", store.container)


def put_token(environment: str, settings: Settings, token: pulumi.Input[str], cloud: Layer) -> None:
    """Put the join token where layer `cloud` has told the machines to look."""
    pulumi_azure.keyvault.Secret(
        "join-token",
        name=TOKEN_NAME,
        key_vault_id=cloud.output("token_vault"),
        value=token,
        opts=pulumi.ResourceOptions(provider=provider(settings)),
    )


def link(environment: str, settings: Settings) -> None:
    """Declare the VPN to the sites."""
    below = Layer(environment, "cloud")
    made = AzureSiteLink(
        f"hybrid-{environment}",
        AzureSiteLinkArgs(
            location=settings.region,
            resource_group=below.output("resource_group"),
            gateway_subnet=below.output("gateway_subnet"),
            zones=settings.zones,
            sites=[
                LinkedSite(site.name, str(site.cidr), str(site.public_ip))
                for site in settings.sites
            ],
            tags=labels(environment, "link"),
        ),
        pulumi.ResourceOptions(providers=[provider(settings)]),
    )
    pulumi.export("gateway_id", made.gateway_id)
    pulumi.export("tunnels", made.tunnels)
