"""What the cluster needs for GPU nodes: runtime class, NVIDIA's device plugin, leave to leave."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pulumi
import yaml
from pulumi_kubernetes.apps.v1 import DaemonSet
from pulumi_kubernetes.core.v1 import ConfigMap, ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.node.v1 import RuntimeClass
from pulumi_kubernetes.rbac.v1 import ClusterRole, ClusterRoleBinding

from infra import gpu, pods
from infra.namespaces import make_namespace

PART = "device-plugin"
LEAVING = "hybrid-node-leaves"
SOCKETS = "/var/lib/kubelet/device-plugins"


@dataclass(frozen=True)
class GpuNodesArgs:
    """What runs on each GPU node.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image of NVIDIA's device plugin.
    time_slices
        Pods that share a GPU by turns; its memory is not divided.
    """

    namespace: str
    image: str
    time_slices: int


class GpuNodes(pulumi.ComponentResource):
    """RuntimeClass, device plugin, and the right of a node to take itself out of the cluster."""

    def __init__(
        self, name: str, args: GpuNodesArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:GpuNodes", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        runtime = RuntimeClass(
            name,
            metadata={"name": gpu.RUNTIME_CLASS, "labels": pods.labels(PART)},
            handler=gpu.RUNTIME_HANDLER,
            opts=own,
        )
        self._let_nodes_leave(name, own)
        # Only here may a pod mount a folder of its node, which a device plugin has to.
        privileged = {"pod-security.kubernetes.io/enforce": "privileged"}
        namespace = make_namespace(name, args.namespace, PART, own, privileged)

        def metadata(part: str = PART) -> dict[str, Any]:
            return {"name": part, "namespace": namespace, "labels": pods.labels(PART)}

        text = configuration(args.time_slices)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        config = ConfigMap(
            name, metadata=metadata(f"{PART}-{digest}"), data={"config.yaml": text}, opts=own
        )
        account = ServiceAccount(
            name, metadata=metadata(), automount_service_account_token=False, opts=own
        )
        DaemonSet(
            name,
            # While the group is empty no pod of it gets ready, so nobody waits for one.
            metadata=metadata() | {"annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "selector": {"match_labels": pods.selector(PART)},
                "template": {
                    "metadata": {"labels": pods.labels(PART)},
                    "spec": {
                        "service_account_name": account.metadata["name"],
                        "automount_service_account_token": False,
                        "priority_class_name": "system-node-critical",
                        "runtime_class_name": runtime.metadata["name"],
                        "node_selector": gpu.SELECTOR,
                        "tolerations": [gpu.TOLERATION],
                        "containers": [container(args.image)],
                        "volumes": [
                            {
                                "name": "sockets",
                                "host_path": {"path": SOCKETS, "type": "Directory"},
                            },
                            {"name": "config", "config_map": {"name": config.metadata["name"]}},
                        ],
                    },
                },
            },
            opts=own,
        )
        # It speaks to its node's kubelet by a socket, and to nobody else.
        NetworkPolicy(
            name,
            metadata=metadata(),
            spec={
                "pod_selector": {"match_labels": pods.selector(PART)},
                "policy_types": ["Ingress", "Egress"],
            },
            opts=own,
        )
        self.register_outputs({})

    def _let_nodes_leave(self, name: str, own: pulumi.ResourceOptions) -> None:
        """Rights that `kubectl drain` and the last step of leaving need beyond a kubelet's own.

        They go to every node; Kubernetes' NodeRestriction, which k3s turns on, keeps a node from
        any Node but its own.
        """
        role = ClusterRole(
            f"{name}-leave",
            metadata={"name": LEAVING, "labels": pods.labels(PART)},
            rules=[
                {"api_groups": [""], "resources": ["nodes"], "verbs": ["delete"]},
                {"api_groups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"]},
            ],
            opts=own,
        )
        ClusterRoleBinding(
            f"{name}-leave",
            metadata={"name": LEAVING, "labels": pods.labels(PART)},
            role_ref={
                "api_group": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role.metadata["name"],
            },
            subjects=[
                {
                    "api_group": "rbac.authorization.k8s.io",
                    "kind": "Group",
                    "name": "system:nodes",
                }
            ],
            opts=own,
        )


def container(image: str) -> dict[str, Any]:
    """The device plugin's container: root, for the kubelet's folder, and nothing beyond that."""
    return {
        "name": PART,
        "image": image,
        "env": [{"name": "CONFIG_FILE", "value": "/config/config.yaml"}],
        "resources": pods.resources("50m", "128Mi"),
        "security_context": pods.CONTAINER_SECURITY,
        "volume_mounts": [
            {"name": "sockets", "mount_path": SOCKETS},
            {"name": "config", "mount_path": "/config", "read_only": True},
        ],
    }


def configuration(time_slices: int) -> str:
    """The device plugin's configuration.

    With time slices a request for two gets an error instead of two turns on one GPU, which would be
    no faster than one.
    """
    config: dict[str, Any] = {"version": "v1", "flags": {"migStrategy": "none"}}
    if time_slices > 1:
        config["sharing"] = {
            "timeSlicing": {
                "failRequestsGreaterThanOne": True,
                "resources": [{"name": gpu.GPU, "replicas": time_slices}],
            }
        }
    return yaml.safe_dump(config, sort_keys=False)
