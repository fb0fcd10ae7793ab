"""The cluster autoscaler: adds a GPU machine for a pod that waits for one, ends idle ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import Secret, ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.rbac.v1 import ClusterRole, ClusterRoleBinding, Role, RoleBinding

from infra import gpu, k3s, pods
from infra.namespaces import make_namespace

PART = "cluster-autoscaler"
HEALTH = 8085
FOLDER = "/etc/cluster-autoscaler"
RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class AutoscalerArgs:
    """What runs, and on which group it acts.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image of the cluster autoscaler, of the cluster's own minor version.
    cloud, flags
        Whose groups they are, and the autoscaler's flags by which it finds them.
    variables
        What the autoscaler reads of the cloud's own settings from its environment.
    credentials
        The same for what nobody else may know.
    files
        Content by name of what it reads in the folder `FOLDER`, which nobody else may know either.
    """

    namespace: str
    image: str
    cloud: Literal["aws", "azure", "gce"]
    flags: Sequence[str]
    variables: Mapping[str, pulumi.Input[str]]
    credentials: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    files: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class Autoscaler(pulumi.ComponentResource):
    """Deployment of the cluster autoscaler on the sites' machines, with just the rights it uses."""

    def __init__(
        self, name: str, args: AutoscalerArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:Autoscaler", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        namespace = make_namespace(name, args.namespace, PART, own)
        metadata = {"name": PART, "namespace": namespace, "labels": pods.labels(PART)}
        credentials = Secret(
            name,
            metadata=metadata,
            string_data=pulumi.Output.secret({**args.credentials, **args.files}),
            opts=own,
        )
        account = ServiceAccount(name, metadata=metadata, opts=own)
        subjects = [{"kind": "ServiceAccount", "name": PART, "namespace": namespace}]
        everywhere = {"name": f"hybrid-{PART}", "labels": pods.labels(PART)}
        role = ClusterRole(name, metadata=everywhere, rules=CLUSTER_RULES, opts=own)
        ClusterRoleBinding(
            name,
            metadata=everywhere,
            role_ref={"api_group": RBAC, "kind": "ClusterRole", "name": role.metadata["name"]},
            subjects=subjects,
            opts=own,
        )
        own_role = Role(name, metadata=metadata, rules=NAMESPACE_RULES, opts=own)
        RoleBinding(
            name,
            metadata=metadata,
            role_ref={"api_group": RBAC, "kind": "Role", "name": own_role.metadata["name"]},
            subjects=subjects,
            opts=own,
        )
        Deployment(
            name,
            metadata=metadata,
            spec={
                "replicas": 1,
                "selector": {"match_labels": pods.selector(PART)},
                "template": {
                    "metadata": {"labels": pods.labels(PART)},
                    "spec": {
                        "service_account_name": account.metadata["name"],
                        "security_context": pods.POD_SECURITY,
                        "node_selector": {gpu.NODE_LABEL: "private"},
                        **pod(args, credentials.metadata["name"]),
                    },
                },
            },
            opts=own,
        )
        NetworkPolicy(name, metadata=metadata, spec=NETWORK_POLICY, opts=own)
        self.register_outputs({})


def pod(args: AutoscalerArgs, secret: pulumi.Input[str]) -> dict[str, Any]:
    """The autoscaler's container, and how it gets at the secret: by its environment or as files."""
    container = _container(args)
    if not args.files:
        return {"containers": [container | {"env_from": [{"secret_ref": {"name": secret}}]}]}
    # Readable by the pod's group, which its process is of.
    volume = {"name": "files", "secret": {"secret_name": secret, "default_mode": 0o440}}
    mount = {"name": "files", "mount_path": FOLDER, "read_only": True}
    return {"containers": [container | {"volume_mounts": [mount]}], "volumes": [volume]}


def _container(args: AutoscalerArgs) -> dict[str, Any]:
    return {
        "name": PART,
        "image": args.image,
        "command": [
            "./cluster-autoscaler",
            f"--cloud-provider={args.cloud}",
            f"--namespace={args.namespace}",
            *args.flags,
            "--expander=least-waste",
            # Our pods keep scratch files on their node, which must not keep it alive.
            "--skip-nodes-with-local-storage=false",
            "--scale-down-unneeded-time=10m",
            # Drivers, k3s and images take their time on a first boot.
            "--max-node-provision-time=20m",
        ],
        "env": [{"name": name, "value": value} for name, value in args.variables.items()],
        "ports": [{"name": "health", "container_port": HEALTH}],
        "liveness_probe": {
            "http_get": {"path": "/health-check", "port": "health"},
            "period_seconds": 30,
            "failure_threshold": 5,
        },
        "resources": pods.resources("100m", "600Mi"),
        "security_context": pods.CONTAINER_SECURITY,
    }


def _rule(group: str, resources: list[str], verbs: list[str], *names: str) -> dict[str, Any]:
    named = {"resource_names": list(names)} if names else {}
    return {"api_groups": [group], "resources": resources, "verbs": verbs, **named}


_READ = ["get", "list", "watch"]
# It reads what the scheduler reads, taints and cordons nodes, and evicts pods from idle ones.
CLUSTER_RULES = [
    _rule("", ["nodes"], [*_READ, "update", "patch"]),
    _rule("", ["pods/eviction"], ["create"]),
    _rule("", ["pods/status"], ["update"]),
    _rule("", ["events"], ["create", "patch"]),
    _rule(
        "",
        [
            "namespaces",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "replicationcontrollers",
            "services",
        ],
        _READ,
    ),
    _rule("apps", ["daemonsets", "replicasets", "statefulsets"], _READ),
    _rule("batch", ["jobs"], _READ),
    _rule("policy", ["poddisruptionbudgets"], _READ),
    _rule(
        "storage.k8s.io",
        ["csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments"],
        _READ,
    ),
]
# In its own namespace it keeps its status and the lease of its leader.
NAMESPACE_RULES = [
    _rule("", ["configmaps"], ["create", "list", "watch"]),
    _rule("", ["configmaps"], ["get", "update", "delete"], f"{PART}-status"),
    _rule("coordination.k8s.io", ["leases"], ["create"]),
    _rule("coordination.k8s.io", ["leases"], ["get", "update"], PART),
]

NETWORK_POLICY: dict[str, Any] = {
    "pod_selector": {"match_labels": pods.selector(PART)},
    "policy_types": ["Ingress", "Egress"],
    # The cloud, and the cluster's API behind its service.
    "egress": [
        pods.DNS,
        {
            "ports": [
                {"protocol": "TCP", "port": 443},
                {"protocol": "TCP", "port": k3s.API_PORT},
            ]
        },
    ],
}
