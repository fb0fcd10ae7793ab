"""What every pod of ours has in common: who it runs as, what it may not do, how it is labelled.

Pure data for :mod:`infra.serving`, :mod:`infra.session_store`, :mod:`infra.federation_server` and
:mod:`infra.training_job`; all of it satisfies Kubernetes' "restricted" Pod Security Standard, which
their namespaces enforce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

USER = 1000
LOST_LINK_SECONDS = 900
"""Seconds that a node may be out of reach before its pods are replaced."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

POD_SECURITY: dict[str, Any] = {
    "run_as_non_root": True,
    "run_as_user": USER,
    "run_as_group": USER,
    "fs_group": USER,
    "seccomp_profile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allow_privilege_escalation": False,
    "read_only_root_filesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def labels(part: str) -> dict[str, str]:
    """Labels of one part's objects."""
    return {
        "app.kubernetes.io/name": part,
        "app.kubernetes.io/part-of": "hybrid",
        "app.kubernetes.io/managed-by": "hybrid",
    }


def selector(part: str) -> dict[str, str]:
    """Labels by which a part's pods are found; they never change."""
    return {"app.kubernetes.io/name": part}


def peer(namespace: str, part: str) -> dict[str, Any]:
    """A network policy's peer: the pods of one part in one namespace."""
    return {
        # Kubernetes gives each namespace this label itself.
        "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": namespace}},
        "pod_selector": {"match_labels": selector(part)},
    }


def template(
    part: str,
    account: Any,
    containers: Sequence[Mapping[str, Any]],
    volumes: Sequence[Mapping[str, Any]],
    *,
    annotations: Mapping[str, Any] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Template of a part's pods, which have no credentials of the cluster.

    Parameters
    ----------
    account
        Name of their service account.
    volumes
        Besides an empty one, "tmp".
    how
        Further fields of the pods.
    """
    return {
        "metadata": {
            "labels": labels(part),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            "service_account_name": account,
            "automount_service_account_token": False,
            "security_context": POD_SECURITY,
            **how,
            "containers": containers,
            "volumes": [*volumes, {"name": "tmp", "empty_dir": {}}],
        },
    }


def resources(cpu: str, memory: str, **devices: str) -> dict[str, Any]:
    """Requests and limits: memory cannot be taken back from a process, processor time can."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory, **devices}}


def probes(probe: dict[str, Any]) -> dict[str, Any]:
    """One question for all three probes: patient at the start, slow to replace what answered."""
    return {
        "startup_probe": probe | {"failure_threshold": 30},
        "readiness_probe": probe,
        "liveness_probe": probe | {"failure_threshold": 6},
    }


DNS = {
    "to": [{"namespace_selector": {}, "pod_selector": {"match_labels": {"k8s-app": "kube-dns"}}}],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
"""Rule of a network policy that lets a pod resolve names."""
