"""How the cluster autoscaler finds an environment's GPU machines, and as whom it resizes them."""

from __future__ import annotations

import os

import pulumi
from pulumi.output import UNKNOWN

from infra import gpu
from infra.autoscaler import AutoscalerArgs
from infra.azure_gpu_pool import DISCOVERY
from stacks.references import Layer
from stacks.settings import Settings

SECRET = "HYBRID_AUTOSCALER_SECRET"


class NoSecretError(Exception):
    """Nobody told the secret of the principal that resizes the machines."""

    exit_code = 1


def autoscaler(environment: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    """What the platform deploys.

    Raises
    ------
    NoSecretError
        In `up` on Azure, without the secret in the environment of the process.
    """
    make = _on_azure if settings.gpu_pool.cloud == "azure" else _on_aws
    return make(f"hybrid-{environment}", settings, cloud)


def _on_aws(name: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    key = cloud.output("autoscaler_key")
    return AutoscalerArgs(
        namespace="autoscaler",
        image=str(settings.gpu_pool.autoscaler_image),
        cloud="aws",
        discovery=f"asg:tag={gpu.owned_tag(name)}",
        variables={"AWS_REGION": settings.region},
        credentials={"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]},
    )


def _on_azure(name: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    principal = settings.azure.autoscaler
    return AutoscalerArgs(
        namespace="autoscaler",
        image=str(settings.gpu_pool.autoscaler_image),
        cloud="azure",
        discovery=f"{DISCOVERY}{name}",
        variables={
            "ARM_VM_TYPE": "vmss",
            "AZURE_ENABLE_VMSS_FLEX": "true",  # the scale set's way of orchestration
            "ARM_SUBSCRIPTION_ID": settings.azure.subscription,
            "ARM_RESOURCE_GROUP": cloud.output("resource_group"),
            "ARM_TENANT_ID": principal.tenant,
            "ARM_CLIENT_ID": principal.client,
        },
        credentials={"ARM_CLIENT_SECRET": _secret()},
    )


def _secret() -> pulumi.Output[str]:
    """The principal's secret; a plan does without."""
    if secret := os.environ.get(SECRET):
        return pulumi.Output.secret(secret)
    if pulumi.runtime.is_dry_run():
        return pulumi.Output.from_input("").apply(lambda _: UNKNOWN)
    raise NoSecretError(
        f"The cluster autoscaler has no credentials: set {SECRET} to the secret of the principal "
        "azure.autoscaler, then run the same command."
    )
