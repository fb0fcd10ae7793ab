"""The namespaces of the platform: what their pods may do, whom they talk to, how much they take."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
from pulumi_kubernetes.core.v1 import Namespace, ResourceQuota
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra import pods


def make_namespace(
    name: str,
    namespace: str,
    part: str,
    opts: pulumi.ResourceOptions,
    security: Mapping[str, str] = pods.RESTRICTED,
) -> pulumi.Output[str]:
    """Make the namespace of one part with the Pod Security Standard that it enforces.

    Returns
    -------
    Output of str
        Its name, known once it is there.
    """
    return Namespace(
        name, metadata={"name": namespace, "labels": pods.labels(part) | security}, opts=opts
    ).metadata["name"]


def guarded_namespace(
    name: str, namespace: str, part: str, hard: Mapping[str, str], opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Make a namespace with a quota and a policy that denies what no other policy allows.

    Parameters
    ----------
    hard
        What it may take, as :func:`infra.quotas.quota` sums it.
    """
    made = make_namespace(name, namespace, part, opts)
    within = {"namespace": made, "labels": pods.labels(part)}
    ResourceQuota(name, metadata=within | {"name": part}, spec={"hard": dict(hard)}, opts=opts)
    NetworkPolicy(
        f"{name}-closed",
        metadata=within | {"name": "default-deny"},
        spec={"pod_selector": {}, "policy_types": ["Ingress", "Egress"]},
        opts=opts,
    )
    return made
