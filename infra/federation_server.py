"""Flower's SuperLink on Kubernetes: what the sites' SuperNodes connect to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_random as random
import pulumi_tls as tls
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    PersistentVolumeClaim,
    Secret,
    Service,
    ServiceAccount,
)
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.policy.v1 import PodDisruptionBudget

from infra import pods, quotas
from infra.fleet_proxy import FleetProxy, proxy_configuration
from infra.namespaces import guarded_namespace

PART = "superlink"
FLEET = 8443
DAY_HOURS = 24

CERTIFICATE, KEY, SECRET = "tls.crt", "tls.key", "superexec.secret"
CREDENTIALS = "/credentials"


@dataclass(frozen=True)
class FederationServerArgs:
    """What runs, and who may reach it.

    Parameters
    ----------
    namespace
        Made by the component.
    image
        Image with Flower and the packages that a ServerApp imports.
    proxy_image
        nginx that runs without root.
    port
        The SuperLink's own port, within the pod.
    storage
        Size of the volume that keeps runs, messages and enrolled keys.
    cpu, memory
        Quantities for the ServerApp, which aggregates the sites' models.
    addresses
        IP addresses under which the sites reach the cluster, for the certificate.
    clients
        Networks of the sites.
    """

    namespace: str
    image: str
    proxy_image: str
    port: int
    storage: str
    cpu: str
    memory: str
    addresses: Sequence[str]
    clients: Sequence[str]


class FederationServer(pulumi.ComponentResource):
    """A SuperLink with its SuperExec, behind a proxy that lets sites use the Fleet API only.

    The Control API, which starts runs, asks for no credentials: it listens within the pod, and is
    used through a port-forward, which asks for Kubernetes'.

    Attributes
    ----------
    port
        Port of the Service for the sites.
    certificate
        What a SuperNode must trust, in PEM.
    """

    port: int
    certificate: pulumi.Output[str]

    def __init__(
        self, name: str, args: FederationServerArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:FederationServer", name, None, opts)
        self.port = FLEET
        own = pulumi.ResourceOptions(parent=self)
        hard = quotas.quota(1, containers(args), [args.storage])
        namespace = guarded_namespace(name, args.namespace, PART, hard, own)

        def metadata(part: str = PART) -> dict[str, Any]:
            return {"name": part, "namespace": namespace, "labels": pods.labels(PART)}

        key = tls.PrivateKey(name, algorithm="ECDSA", ecdsa_curve="P256", opts=own)
        certificate = self._make_certificate(name, args, key)
        secret = random.RandomPassword(name, length=48, special=False, opts=own)
        credentials = Secret(
            name,
            metadata=metadata(),
            string_data=pulumi.Output.secret(
                {
                    CERTIFICATE: certificate.cert_pem,
                    KEY: key.private_key_pem,
                    SECRET: secret.result,
                }
            ),
            opts=own,
        )
        self.certificate = certificate.cert_pem
        text = proxy_configuration(fleet_proxy(args.port))
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        proxy = ConfigMap(
            name, metadata=metadata(f"{PART}-{digest}"), data={"nginx.conf": text}, opts=own
        )
        state = PersistentVolumeClaim(
            name,
            metadata=metadata(),
            spec={
                "access_modes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": args.storage}},
            },
            opts=own,
        )
        account = ServiceAccount(
            name, metadata=metadata(), automount_service_account_token=False, opts=own
        )
        Deployment(
            name,
            metadata=metadata(),
            spec={
                "replicas": 1,
                # Two SuperLinks must never write to one database.
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": pods.selector(PART)},
                "template": {
                    "metadata": {
                        "labels": pods.labels(PART),
                        # A renewed certificate restarts the pod, which would not read it otherwise.
                        "annotations": {"hybrid/certificate": self.certificate.apply(_digest)},
                    },
                    "spec": {
                        "service_account_name": account.metadata["name"],
                        "automount_service_account_token": False,
                        "security_context": pods.POD_SECURITY,
                        "node_selector": {"hybrid/pool": "private"},
                        "containers": containers(args),
                        "volumes": [
                            {
                                "name": "credentials",
                                "secret": {
                                    "secret_name": credentials.metadata["name"],
                                    "default_mode": 0o440,
                                },
                            },
                            {"name": "proxy", "config_map": {"name": proxy.metadata["name"]}},
                            {
                                "name": "state",
                                "persistent_volume_claim": {"claim_name": state.metadata["name"]},
                            },
                            {"name": "tmp", "empty_dir": {}},
                        ],
                    },
                },
            },
            opts=own,
        )
        Service(
            name,
            metadata=metadata(),
            spec={
                "type": "LoadBalancer",
                # Keeps the caller's address, which the network policy goes by.
                "external_traffic_policy": "Local",
                "selector": pods.selector(PART),
                "ports": [{"name": "fleet", "port": FLEET, "target_port": "fleet"}],
            },
            opts=own,
        )
        # The one pod is not evicted behind the back of a running federation: whoever drains its
        # node deletes it.
        PodDisruptionBudget(
            name,
            metadata=metadata(),
            spec={"min_available": 1, "selector": {"match_labels": pods.selector(PART)}},
            opts=own,
        )
        NetworkPolicy(name, metadata=metadata(), spec=network_policy(args.clients), opts=own)
        self.register_outputs({"port": self.port, "certificate": self.certificate})

    def _make_certificate(
        self, name: str, args: FederationServerArgs, key: tls.PrivateKey
    ) -> tls.SelfSignedCert:
        return tls.SelfSignedCert(
            name,
            private_key_pem=key.private_key_pem,
            subject={"common_name": f"{PART}.{args.namespace}.svc"},
            dns_names=["localhost", f"{PART}.{args.namespace}.svc"],
            ip_addresses=["127.0.0.1", *args.addresses],
            is_ca_certificate=True,
            allowed_uses=["cert_signing", "digital_signature", "server_auth"],
            validity_period_hours=365 * DAY_HOURS,
            early_renewal_hours=30 * DAY_HOURS,
            opts=pulumi.ResourceOptions(parent=self),
        )


def containers(args: FederationServerArgs) -> list[dict[str, Any]]:
    """SuperLink, the SuperExec that runs ServerApps, and the proxy for the sites."""
    health = {"path": "/health", "port": "fleet", "scheme": "HTTPS"}
    probe = {"http_get": health, "period_seconds": 10}
    flower = {
        "image": args.image,
        "env": [
            {"name": "FLWR_HOME", "value": "/state"},
            {"name": "FLWR_TELEMETRY_ENABLED", "value": "0"},
            {"name": "FLWR_DISABLE_UPDATE_CHECK", "value": "1"},
        ],
        "security_context": pods.CONTAINER_SECURITY,
        "volume_mounts": [
            {"name": "credentials", "mount_path": CREDENTIALS, "read_only": True},
            {"name": "state", "mount_path": "/state"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }
    secret_file = ("--superexec-auth-secret-file", f"{CREDENTIALS}/{SECRET}")
    return [
        flower
        | {
            "name": PART,
            "command": [
                *("python", "-m", "federation.superlink"),
                *("--host", "127.0.0.1", "--port", str(args.port)),
                *("--ssl-ca-certfile", f"{CREDENTIALS}/{CERTIFICATE}"),
                *("--ssl-certfile", f"{CREDENTIALS}/{CERTIFICATE}"),
                *("--ssl-keyfile", f"{CREDENTIALS}/{KEY}"),
                "--enable-supernode-auth",
                *("--database", "/state/state.db"),
                *("--isolation", "process"),
                *secret_file,
                "--disable-runtime-dependency-installation",
            ],
            "resources": pods.resources("250m", "1Gi"),
        },
        flower
        | {
            "name": "superexec",
            "command": [
                "flower-superexec",
                *("--runtime-api-address", f"127.0.0.1:{args.port}"),
                *("--root-certificates", f"{CREDENTIALS}/{CERTIFICATE}"),
                *secret_file,
            ],
            "resources": pods.resources(args.cpu, args.memory),
        },
        {
            "name": "proxy",
            "image": args.proxy_image,
            "command": ["nginx", "-c", "/configuration/nginx.conf", "-g", "daemon off;"],
            "ports": [{"name": "fleet", "container_port": FLEET}],
            # It passes /health on to the SuperLink, which cannot be asked from outside the pod.
            "startup_probe": probe | {"failure_threshold": 30},
            "readiness_probe": probe,
            "liveness_probe": probe | {"failure_threshold": 6},
            "resources": pods.resources("50m", "64Mi"),
            "security_context": pods.CONTAINER_SECURITY,
            "volume_mounts": [
                {"name": "credentials", "mount_path": CREDENTIALS, "read_only": True},
                {"name": "proxy", "mount_path": "/configuration", "read_only": True},
                {"name": "tmp", "mount_path": "/tmp"},
            ],
        },
    ]


def fleet_proxy(superlink: int) -> FleetProxy:
    """The proxy within the pod."""
    return FleetProxy(
        listen=str(FLEET),
        superlink=superlink,
        folder="/tmp",
        certificate=f"{CREDENTIALS}/{CERTIFICATE}",
        key=f"{CREDENTIALS}/{KEY}",
        trusted=f"{CREDENTIALS}/{CERTIFICATE}",
    )


def network_policy(clients: Sequence[str]) -> dict[str, Any]:
    """Spec of the policy: sites reach the proxy; the pod itself calls nobody."""
    return {
        "pod_selector": {"match_labels": pods.selector(PART)},
        "policy_types": ["Ingress", "Egress"],
        "ingress": [
            {
                "from_": [{"ip_block": {"cidr": cidr}} for cidr in clients],
                "ports": [{"protocol": "TCP", "port": FLEET}],
            }
        ],
        "egress": [pods.DNS],
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
