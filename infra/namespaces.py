"""The namespaces of the platform's parts, each with the Pod Security Standard that it enforces."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
from pulumi_kubernetes.core.v1 import Namespace

from infra import pods


def make_namespace(
    name: str,
    namespace: str,
    part: str,
    opts: pulumi.ResourceOptions,
    security: Mapping[str, str] = pods.RESTRICTED,
) -> pulumi.Output[str]:
    """Make the namespace of one part; its name, known once it is there."""
    return Namespace(
        name, metadata={"name": namespace, "labels": pods.labels(part) | security}, opts=opts
    ).metadata["name"]
