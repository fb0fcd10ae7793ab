"""How GPU machines come into the first site's cluster: which it is, and where its token is put."""

from __future__ import annotations

import importlib

import pulumi

from infra import k3s, node_boot
from stacks.providers import aws_provider
from stacks.references import Layer
from stacks.settings import Settings


def joined_cluster(settings: Settings) -> node_boot.Cluster | None:
    """The cluster of the first site, if machines can join it."""
    if settings.k3s is None or not settings.machines_join:
        return None
    return node_boot.Cluster(
        servers=[host.address for host in settings.sites[0].hosts if host.role == "server"],
        networks=[str(site.cidr) for site in settings.sites],
        release=k3s.release(
            settings.k3s.version,
            "amd64",
            installer_sha256=settings.k3s.installer_sha256,
            binary_sha256=settings.k3s.binary_sha256["amd64"],
        ),
    )


def put_token(environment: str, settings: Settings, token: pulumi.Input[str], cloud: Layer) -> None:
    """Put the join token where layer `cloud` has told the machines to look.

    Machines that are up already ask for it until it is there.
    """
    if settings.gpu_pool.cloud != "aws":
        program = importlib.import_module(f"stacks.{settings.gpu_pool.cloud}")
        program.put_token(environment, settings, token, cloud)
        return
    from pulumi_aws import secretsmanager

    secretsmanager.SecretVersion(
        "join-token",
        secret_id=cloud.output("token_secret"),
        secret_string=token,
        opts=pulumi.ResourceOptions(provider=aws_provider(settings, environment, "platform")),
    )
