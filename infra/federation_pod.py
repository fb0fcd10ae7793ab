"""The pod of a SuperLink on Kubernetes: its containers, and who may reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra import pods
from infra.federation_sites import AUTHORITY, REVOKED, SCRIPT
from infra.fleet_proxy import FleetProxy

PART = "superlink"
FLEET, HEALTH = 8443, 8081
# A changed list reaches the pod within a minute or so, by Kubernetes' own pace.
LOOK_SECONDS = 5

CERTIFICATE, KEY, SECRET = "tls.crt", "tls.key", "superexec.secret"
CREDENTIALS, SITES = "/credentials", "/sites"


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
    removed_certificates
        Serial numbers, in hexadecimal, of sites' certificates that are no longer good.
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
    removed_certificates: Sequence[str] = ()


def containers(args: FederationServerArgs) -> list[dict[str, Any]]:
    """SuperLink, the executor of ServerApps, and the proxy for the sites."""
    health = {"path": "/health", "port": "health"}
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
            "name": "executor",
            "command": [
                *("python", "-m", "federation.executor", "serverapp"),
                *("--runtime-api-address", f"127.0.0.1:{args.port}"),
                *("--root-certificates", f"{CREDENTIALS}/{CERTIFICATE}"),
                *secret_file,
            ],
            "resources": pods.resources(args.cpu, args.memory),
        },
        {
            "name": "proxy",
            "image": args.proxy_image,
            "command": [
                *("sh", f"/configuration/{SCRIPT}", "/configuration/nginx.conf"),
                *(f"{SITES}/{REVOKED}", str(LOOK_SECONDS)),
            ],
            "ports": [
                {"name": "fleet", "container_port": FLEET},
                # Not in the Service: for the node's own probes, which have no certificate. It passes
                # /health on to the SuperLink, which cannot be asked from outside the pod.
                {"name": "health", "container_port": HEALTH},
            ],
            **pods.probes(probe),
            "resources": pods.resources("50m", "64Mi"),
            "security_context": pods.CONTAINER_SECURITY,
            "volume_mounts": [
                {"name": "credentials", "mount_path": CREDENTIALS, "read_only": True},
                {"name": "proxy", "mount_path": "/configuration", "read_only": True},
                {"name": "sites", "mount_path": SITES, "read_only": True},
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
        sites_authority=f"{SITES}/{AUTHORITY}",
        revoked=f"{SITES}/{REVOKED}",
        health=HEALTH,
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
