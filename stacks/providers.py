"""The clouds' providers of an environment, made from its settings.

With an `endpoint` they speak to an emulator with made-up credentials; without one they take the
real ones from the process environment, as the official plugins do (docs/environments.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

if TYPE_CHECKING:
    import pulumi_aws
    import pulumi_gcp
    import pulumi_kubernetes

    from stacks.settings import Settings

# The AWS services that our programs call.
SERVICES = ("autoscaling", "ec2", "iam", "s3", "secretsmanager", "sts")


def tags(environment: str, layer: str) -> dict[str, str]:
    """Tags of everything that can carry them; Name is each resource's own."""
    return {"hybrid:environment": environment, "hybrid:layer": layer, "ManagedBy": "hybrid"}


def labels(environment: str, layer: str) -> dict[str, str]:
    """The same for GCP, where a key has no colon and no capital letter."""
    return {"hybrid-environment": environment, "hybrid-layer": layer, "managed-by": "hybrid"}


def aws_provider(settings: Settings, environment: str, layer: str) -> pulumi_aws.Provider:
    """Provider of the region; it refuses every account but the one in the settings."""
    import pulumi_aws

    common: dict[str, Any] = {
        "region": settings.region,
        "default_tags": {"tags": tags(environment, layer)},
    }
    if settings.aws_endpoint is None:
        return pulumi_aws.Provider("aws", allowed_account_ids=[settings.aws.account], **common)
    return pulumi_aws.Provider(
        "aws",
        access_key="test",
        secret_key="test",
        endpoints=[dict.fromkeys(SERVICES, settings.aws_endpoint)],
        s3_use_path_style=True,
        skip_credentials_validation=True,
        skip_metadata_api_check=True,
        skip_region_validation=True,
        skip_requesting_account_id=True,
        **common,
    )


def gcp_provider(settings: Settings, environment: str, layer: str) -> pulumi_gcp.Provider:
    """Provider of the project."""
    import pulumi_gcp

    common: dict[str, Any] = {
        "project": settings.gcp.project,
        "default_labels": labels(environment, layer),
    }
    if settings.gcp_endpoint is None:
        return pulumi_gcp.Provider("gcp", **common)
    return pulumi_gcp.Provider(
        "gcp",
        access_token="test",
        storage_custom_endpoint=f"{settings.gcp_endpoint}/storage/v1/",
        user_project_override=False,
        **common,
    )


def kubernetes_provider(kubeconfig: pulumi.Input[str]) -> pulumi_kubernetes.Provider:
    """Provider of the cluster that a kubeconfig leads to."""
    import pulumi_kubernetes

    return pulumi_kubernetes.Provider("kubernetes", kubeconfig=kubeconfig)
