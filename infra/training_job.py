"""Training on several GPU nodes at once: an Indexed Job of Kubernetes whose pods run torchrun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    PersistentVolumeClaim,
    Service,
    ServiceAccount,
)
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra import gpu, pods, quotas
from infra.namespaces import guarded_namespace
from infra.placement import devices, nodes

PART = "training"
RENDEZVOUS = 29500


@dataclass(frozen=True)
class TrainingJobArgs:
    """What is trained, and on how much.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image with this project's Python packages and a torch that knows the GPUs.
    data
        Where the interactions are, as the pods see it.
    recipe
        Fields of the training recipe that differ from its defaults.
    shard_items
        Spread the item table over the GPUs instead of keeping it whole on each.
    nodes, gpus_per_node
        Pods, and GPUs of each; every GPU has a process.
    attempts
        How often each pod is started anew after a failure of its own. A node that is taken away,
        such as a spot instance, does not count.
    storage, storage_class
        Volume with checkpoints and the artefact, which all pods mount; a class that can be mounted
        on several nodes at once, or None for the cluster's default one.
    cpu, memory
        Kubernetes quantities of each pod.
    """

    namespace: str
    image: str
    data: str
    recipe: Mapping[str, Any]
    shard_items: bool
    nodes: int
    gpus_per_node: int
    attempts: int
    storage: str
    storage_class: str | None
    cpu: str
    memory: str


class TrainingJob(pulumi.ComponentResource):
    """An Indexed Job whose pods find each other by name and train one model.

    Pods that are killed come back, meet again and go on from the last checkpoint. Another recipe,
    image or size is another Job on the same volume; a changed recipe or data needs a new folder
    there, which follows from their hash.
    """

    def __init__(
        self, name: str, args: TrainingJobArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:TrainingJob", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        hard = quotas.quota(args.nodes, [container(args)], [args.storage])
        namespace = guarded_namespace(name, args.namespace, PART, hard, own)

        def metadata(part: str = PART) -> dict[str, Any]:
            return {"name": part, "namespace": namespace, "labels": pods.labels(PART)}

        recipe = ConfigMap(
            name,
            metadata=metadata(f"{PART}-{run_name(args)}"),
            data={"recipe.json": json.dumps(dict(args.recipe))},
            opts=own,
        )
        volume = PersistentVolumeClaim(
            name,
            metadata=metadata(),
            spec={
                "access_modes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": args.storage}},
                **({"storage_class_name": args.storage_class} if args.storage_class else {}),
            },
            opts=own,
        )
        account = ServiceAccount(
            name, metadata=metadata(), automount_service_account_token=False, opts=own
        )
        # Headless: it gives each pod a name. They look for each other before they are ready.
        Service(
            name,
            metadata=metadata(),
            spec={
                "cluster_ip": "None",
                "publish_not_ready_addresses": True,
                "selector": pods.selector(PART),
                "ports": [{"name": "rendezvous", "port": RENDEZVOUS}],
            },
            opts=own,
        )
        NetworkPolicy(name, metadata=metadata(), spec=NETWORK_POLICY, opts=own)
        Job(
            name,
            # The engine would otherwise wait until the training is over.
            metadata=metadata() | {"annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "completion_mode": "Indexed",
                "completions": args.nodes,
                "parallelism": args.nodes,
                "backoff_limit_per_index": args.attempts,
                # Without one of the pods there is nothing that the others could do.
                "max_failed_indexes": 0,
                "pod_failure_policy": {
                    "rules": [
                        {"action": "Ignore", "on_pod_conditions": [{"type": "DisruptionTarget"}]}
                    ]
                },
                "template": pods.template(
                    PART,
                    account.metadata["name"],
                    [container(args)],
                    [
                        {"name": "recipe", "config_map": {"name": recipe.metadata["name"]}},
                        {
                            "name": "runs",
                            "persistent_volume_claim": {"claim_name": volume.metadata["name"]},
                        },
                        # Processes of one pod exchange gradients through shared memory.
                        {"name": "shm", "empty_dir": {"medium": "Memory"}},
                    ],
                    subdomain=PART,
                    restart_policy="Never",
                    **nodes("gpu-pool"),
                    **devices("gpu-pool"),
                ),
            },
            opts=own,
        )
        self.register_outputs({})


def run_name(args: TrainingJobArgs) -> str:
    """The folder of a run on the volume: another for other data or another recipe."""
    run = json.dumps([args.data, dict(args.recipe), args.shard_items], sort_keys=True)
    return hashlib.sha256(run.encode()).hexdigest()[:8]


def container(args: TrainingJobArgs) -> Mapping[str, Any]:
    """The container of each pod: torchrun with one process a GPU."""
    return {
        "name": PART,
        "image": args.image,
        "command": [
            "torchrun",
            *("--nnodes", str(args.nodes)),
            *("--nproc-per-node", str(args.gpus_per_node)),
            # Kubernetes puts the pod's number in; the pod with number 0 is where all meet.
            *("--node-rank", "$(JOB_COMPLETION_INDEX)"),
            *("--master-addr", f"{PART}-0.{PART}"),
            *("--master-port", str(RENDEZVOUS)),
            *("-m", "recsys.job"),
            *("--data", args.data),
            *("--recipe", "/recipe/recipe.json"),
            *("--folder", f"/runs/{run_name(args)}"),
            *(["--shard-items"] if args.shard_items else []),
        ],
        "ports": [{"name": "rendezvous", "container_port": RENDEZVOUS}],
        "resources": pods.resources(args.cpu, args.memory, **{gpu.GPU: str(args.gpus_per_node)}),
        "security_context": pods.CONTAINER_SECURITY,
        "volume_mounts": [
            {"name": "recipe", "mount_path": "/recipe", "read_only": True},
            {"name": "runs", "mount_path": "/runs"},
            {"name": "shm", "mount_path": "/dev/shm"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


_PEERS = {"pod_selector": {"match_labels": pods.selector(PART)}}
NETWORK_POLICY: dict[str, Any] = {
    "pod_selector": {"match_labels": pods.selector(PART)},
    "policy_types": ["Ingress", "Egress"],
    # Collectives choose their ports, so the pods may use any among themselves.
    "ingress": [{"from_": [_PEERS]}],
    # Data are fetched from the object store.
    "egress": [{"to": [_PEERS]}, pods.DNS, {"ports": [{"protocol": "TCP", "port": 443}]}],
}
