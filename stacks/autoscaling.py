"""How the cluster autoscaler finds an environment's GPU machines, and as whom it resizes them."""

from __future__ import annotations

import os

import pulumi
from pulumi.output import UNKNOWN

from infra import gpu
from infra.autoscaler import FOLDER, AutoscalerArgs
from infra.azure_gpu_pool import DISCOVERY
from infra.gcp_gpu_pool import groups
from stacks.references import Layer
from stacks.settings import Settings

SECRET = "HYBRID_AUTOSCALER_SECRET"
DISCOVER = "--node-group-auto-discovery"
GOOGLE = "https://www.googleapis.com/compute/v1"


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
    make = {"aws": _on_aws, "azure": _on_azure, "gcp": _on_gcp}[settings.gpu_pool.cloud]
    return make(f"hybrid-{environment}", settings, cloud)


def _on_aws(name: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    key = cloud.output("autoscaler_key")
    return AutoscalerArgs(
        namespace="autoscaler",
        image=str(settings.gpu_pool.autoscaler_image),
        cloud="aws",
        flags=[f"{DISCOVER}=asg:tag={gpu.owned_tag(name)}"],
        variables={"AWS_REGION": settings.region},
        credentials={"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]},
    )


def _on_azure(name: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    principal = settings.azure.autoscaler
    return AutoscalerArgs(
        namespace="autoscaler",
        image=str(settings.gpu_pool.autoscaler_image),
        cloud="azure",
        flags=[f"{DISCOVER}={DISCOVERY}{name}"],
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


def _on_gcp(name: str, settings: Settings, cloud: Layer) -> AutoscalerArgs:
    pool, project = settings.gpu_pool, settings.gcp.project
    split = groups(
        name,
        settings.zones,
        pool.minimum,
        pool.maximum,
        pool.on_demand_base,
        pool.spot_share,
    )
    zones = f"{GOOGLE}/projects/{project}/zones"
    return AutoscalerArgs(
        namespace="autoscaler",
        image=str(pool.autoscaler_image),
        cloud="gce",
        flags=[
            # By name instead of by a prefix, since each has bounds of its own.
            *(
                f"--nodes={g.minimum}:{g.maximum}:{zones}/{g.zone}/instanceGroups/{g.name}"
                for g in split
            ),
            f"--cloud-config={FOLDER}/gce.conf",
        ],
        variables={"GOOGLE_APPLICATION_CREDENTIALS": f"{FOLDER}/key.json"},
        files={
            # Else it would ask the metadata server of a machine of Google's for both.
            "gce.conf": f"[global]\nproject-id = {project}\nlocal-zone = {settings.zones[0]}\n",
            "key.json": cloud.output("autoscaler_key"),
        },
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
