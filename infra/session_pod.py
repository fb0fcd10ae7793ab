"""The pod of the session store on Kubernetes, and how Valkey or Redis is told to forget. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from infra import pods

PART = "sessions"
PORT = 6379
FILE = "valkey.conf"
FOLDER = "/configuration"


@dataclass(frozen=True)
class SessionStoreArgs:
    """What runs where, and who may reach it.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image with `valkey-server`.
    placement
        Nodes as of :class:`infra.serving.ServingArgs`: TorchServe waits 50 milliseconds for it.
    memory_mb
        Of all sessions; beyond it those that were not asked for longest are dropped.
    clients
        Namespace and part of the pods that may call it.
    """

    namespace: str
    image: str
    placement: Literal["private", "gpu-pool"]
    memory_mb: int
    clients: tuple[str, str]


def volatile(memory_mb: int) -> str:
    """Lines of a configuration by which nothing is written to a disk, and memory is bounded."""
    return (
        'save ""\n'
        "appendonly no\n"
        "databases 1\n"
        f"maxmemory {memory_mb}mb\n"
        "maxmemory-policy allkeys-lru\n"
    )


def configuration(memory_mb: int, password: str) -> str:
    """The configuration of the pod's server; who does not know the password may do nothing."""
    return f"port {PORT}\nbind 0.0.0.0\ndir /tmp\nrequirepass {password}\n{volatile(memory_mb)}"


def container(args: SessionStoreArgs) -> dict[str, Any]:
    """The container; its memory leaves room for what holds no sessions, such as connections."""
    limit = args.memory_mb + args.memory_mb // 2 + 64
    return {
        "name": PART,
        "image": args.image,
        "command": ["valkey-server", f"{FOLDER}/{FILE}"],
        "ports": [{"name": "sessions", "container_port": PORT}],
        **pods.probes({"tcp_socket": {"port": "sessions"}, "period_seconds": 10}),
        "resources": pods.resources("100m", f"{limit}Mi"),
        "security_context": pods.CONTAINER_SECURITY,
        "volume_mounts": [
            {"name": "configuration", "mount_path": FOLDER, "read_only": True},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


def network_policy(clients: tuple[str, str]) -> dict[str, Any]:
    """Spec of the policy: pods of one part reach the store, which calls nobody."""
    namespace, part = clients
    return {
        "pod_selector": {"match_labels": pods.selector(PART)},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [
            {"from_": [pods.peer(namespace, part)], "ports": [{"protocol": "TCP", "port": PORT}]}
        ],
    }


def egress(namespace: str) -> dict[str, Any]:
    """Rule of a network policy that lets a pod reach the store of a namespace."""
    return {"to": [pods.peer(namespace, PART)], "ports": [{"protocol": "TCP", "port": PORT}]}
