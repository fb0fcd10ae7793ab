"""TorchServe on Kubernetes, on the sites' own machines or on the GPU pool."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pulumi
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import ConfigMap, Secret, Service, ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.policy.v1 import PodDisruptionBudget

from infra import gpu, pods, quotas, session_pod
from infra.handler_variables import PASSWORD, collector_egress
from infra.namespaces import guarded_namespace
from infra.placement import devices, nodes
from infra.session_store import SessionStore, fingerprint

PART = "torchserve"
INFERENCE, MANAGEMENT, METRICS = 8080, 8081, 8082

# Whoever reaches the management port can load code: it listens within the pod only, and models are
# registered through a port-forward, which asks for Kubernetes credentials.
CONFIGURATION = f"""\
inference_address=http://0.0.0.0:{INFERENCE}
management_address=http://127.0.0.1:{MANAGEMENT}
metrics_address=http://0.0.0.0:{METRICS}
metrics_mode=prometheus
metrics_config=/configuration/metrics.yaml
disable_system_metrics=true
allowed_urls=https://.*
model_store=/work/models
"""
METRICS_FILE = Path(__file__).with_name("monitoring") / "torchserve.yaml"
# Where a Prometheus in the cluster is used to find what to read.
SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/port": str(METRICS)}


@dataclass(frozen=True)
class ServingArgs:
    """How much of it runs where.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image with TorchServe and its Java.
    placement
        "private": nodes of the sites; "gpu-pool": GPU nodes of the cloud, one GPU a replica.
    replicas, cpu, memory
        Number of pods; Kubernetes quantities of each.
    variables
        What the handlers are told, as :mod:`infra.handler_variables` has it; nothing secret.
    sessions
        The store that the variables name, which the pods may call, with its password; None without.
    collector
        The collector of traces that the variables name, which the pods may call.
    """

    namespace: str
    image: str
    placement: Literal["private", "gpu-pool"]
    replicas: int
    cpu: str
    memory: str
    variables: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    sessions: SessionStore | None = None
    collector: str | None = None


class Serving(pulumi.ComponentResource):
    """Deployment and Service of TorchServe.

    Attributes
    ----------
    address
        Inference address within the cluster.
    """

    address: pulumi.Output[str]

    def __init__(
        self, name: str, args: ServingArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:Serving", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        # An update has one pod more, and one that is about to go.
        hard = quotas.quota(args.replicas + 2, [container(args)])
        namespace = guarded_namespace(name, args.namespace, PART, hard, own)

        def metadata(part: str = PART) -> dict[str, Any]:
            return {"name": part, "namespace": namespace, "labels": pods.labels(PART)}

        files = {"config.properties": CONFIGURATION, "metrics.yaml": METRICS_FILE.read_text()}
        digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
        # Another content is another object: pods are replaced one by one with their configuration.
        configuration = ConfigMap(
            name,
            metadata=metadata(f"{PART}-{digest}"),
            data=files,
            opts=own,
        )
        account = ServiceAccount(
            name, metadata=metadata(), automount_service_account_token=False, opts=own
        )
        annotations: dict[str, pulumi.Input[str]] = dict(SCRAPED)
        if args.sessions:
            Secret(
                name,
                metadata=metadata(),
                string_data=pulumi.Output.secret({PASSWORD: args.sessions.password}),
                opts=own,
            )
            # A container reads a variable when it starts.
            annotations["hybrid/sessions"] = fingerprint(args.sessions.password)
        Deployment(
            name,
            metadata=metadata(),
            spec={
                "replicas": args.replicas,
                "selector": {"match_labels": pods.selector(PART)},
                "strategy": {
                    "type": "RollingUpdate",
                    "rolling_update": {"max_unavailable": 0, "max_surge": 1},
                },
                "template": pods.template(
                    PART,
                    account.metadata["name"],
                    [container(args)],
                    [
                        {
                            "name": "configuration",
                            "config_map": {"name": configuration.metadata["name"]},
                        },
                        {"name": "work", "empty_dir": {}},
                    ],
                    annotations=annotations,
                    topology_spread_constraints=[
                        {
                            "max_skew": 1,
                            "topology_key": "kubernetes.io/hostname",
                            "when_unsatisfiable": "ScheduleAnyway",
                            "label_selector": {"match_labels": pods.selector(PART)},
                        }
                    ],
                    **nodes(args.placement),
                    **devices(args.placement),
                ),
            },
            opts=own,
        )
        service = Service(
            name,
            metadata=metadata(),
            spec={
                "selector": pods.selector(PART),
                "ports": [
                    {"name": "inference", "port": INFERENCE, "target_port": "inference"},
                    {"name": "metrics", "port": METRICS, "target_port": "metrics"},
                ],
            },
            opts=own,
        )
        PodDisruptionBudget(
            name,
            metadata=metadata(),
            spec={"max_unavailable": 1, "selector": {"match_labels": pods.selector(PART)}},
            opts=own,
        )
        NetworkPolicy(name, metadata=metadata(), spec=network_policy(args), opts=own)
        self.address = pulumi.Output.format(
            "http://{0}.{1}.svc:{2}", service.metadata["name"], namespace, INFERENCE
        )
        self.register_outputs({"address": self.address})


def network_policy(args: ServingArgs) -> dict[str, Any]:
    """Spec of the policy: who may ask, and the few whom a worker calls."""
    egress = [pods.DNS, {"ports": [{"protocol": "TCP", "port": 443}]}]
    if args.sessions:
        egress.append(session_pod.egress(args.sessions.namespace))
    if args.collector:
        egress.append(collector_egress(args.collector))
    return {
        "pod_selector": {"match_labels": pods.selector(PART)},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [
            {
                "from_": [{"namespace_selector": {}}],
                "ports": [
                    {"protocol": "TCP", "port": INFERENCE},
                    {"protocol": "TCP", "port": METRICS},
                ],
            }
        ],
        # Archives are fetched from the object store by HTTPS.
        "egress": egress,
    }


def container(args: ServingArgs) -> Mapping[str, Any]:
    """The TorchServe container."""
    ping = {"http_get": {"path": "/ping", "port": "inference"}, "period_seconds": 10}
    gpus = {gpu.GPU: "1"} if args.placement == "gpu-pool" else {}
    secret = {"name": PART, "key": PASSWORD}
    return {
        "name": PART,
        "image": args.image,
        "command": [
            "torchserve",
            "--start",
            "--foreground",
            "--ncs",
            "--disable-token-auth",
            "--enable-model-api",
            *("--model-store", "/work/models"),
            *("--ts-config", "/configuration/config.properties"),
        ],
        "env": [
            {"name": "LOG_LOCATION", "value": "/work/logs"},
            {"name": "METRICS_LOCATION", "value": "/work/logs"},
            # A worker has one core: NumPy's threads would wait for work by spinning.
            {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
            *({"name": name, "value": value} for name, value in args.variables.items()),
            *([{"name": PASSWORD, "value_from": {"secret_key_ref": secret}}] if args.sessions else []),
        ],
        "ports": [
            {"name": "inference", "container_port": INFERENCE},
            {"name": "metrics", "container_port": METRICS},
        ],
        # Loading a large model takes minutes, during which the port does not answer yet.
        **pods.probes(ping),
        "resources": pods.resources(args.cpu, args.memory, **gpus),
        "security_context": pods.CONTAINER_SECURITY,
        "volume_mounts": [
            {"name": "configuration", "mount_path": "/configuration", "read_only": True},
            {"name": "work", "mount_path": "/work"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }

