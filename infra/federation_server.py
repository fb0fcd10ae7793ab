"""Flower's SuperLink on Kubernetes: what the sites' SuperNodes connect to."""

from __future__ import annotations

import hashlib
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
from infra.federation_pod import (
    CERTIFICATE,
    FLEET,
    KEY,
    PART,
    SECRET,
    FederationServerArgs,
    containers,
    fleet_proxy,
    network_policy,
)
from infra.federation_sites import AUTHORITY, REVOKED, SCRIPT, WATCH, revocation_list
from infra.fleet_proxy import proxy_configuration
from infra.namespaces import guarded_namespace

DAY_HOURS = 24


class FederationServer(pulumi.ComponentResource):
    """A SuperLink with its executor, behind a proxy that lets sites use the Fleet API only.

    The Control API, which starts runs, asks for no credentials: it listens within the pod, and is
    used through a port-forward, which asks for Kubernetes'.

    Attributes
    ----------
    port
        Port of the Service for the sites.
    certificate
        What a SuperNode must trust, in PEM.
    sites_authority, sites_key
        What signs the sites' client certificates, in PEM; the key is secret.
    """

    port: int
    certificate: pulumi.Output[str]
    sites_authority: pulumi.Output[str]
    sites_key: pulumi.Output[str]

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
        files = {"nginx.conf": proxy_configuration(fleet_proxy(args.port)), SCRIPT: WATCH}
        digest = _digest("".join(files.values()))[:8]
        proxy = ConfigMap(name, metadata=metadata(f"{PART}-{digest}"), data=files, opts=own)
        signer = tls.PrivateKey(f"{name}-sites", algorithm="ECDSA", ecdsa_curve="P384", opts=own)
        self.sites_key = signer.private_key_pem
        self.sites_authority = self._make_authority(name, signer).cert_pem
        revoked = pulumi.Output.all(self.sites_authority, self.sites_key).apply(
            lambda pair: revocation_list(*pair, args.removed_certificates)
        )
        # Its name stays: Kubernetes then brings a changed list into the running pod.
        sites = ConfigMap(
            f"{name}-sites",
            metadata=metadata(f"{PART}-sites"),
            data={
                AUTHORITY: self.sites_authority,
                # Signed with a secret, and public.
                REVOKED: pulumi.Output.unsecret(revoked),
            },
            opts=own,
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
                "template": pods.template(
                    PART,
                    account.metadata["name"],
                    containers(args),
                    [
                        {
                            "name": "credentials",
                            "secret": {
                                "secret_name": credentials.metadata["name"],
                                "default_mode": 0o440,
                            },
                        },
                        {"name": "proxy", "config_map": {"name": proxy.metadata["name"]}},
                        {"name": "sites", "config_map": {"name": sites.metadata["name"]}},
                        {
                            "name": "state",
                            "persistent_volume_claim": {"claim_name": state.metadata["name"]},
                        },
                    ],
                    # A renewed certificate restarts the pod, which would not read it otherwise.
                    annotations={"hybrid/certificate": self.certificate.apply(_digest)},
                    node_selector={"hybrid/pool": "private"},
                ),
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
        self.register_outputs(
            {
                "port": self.port,
                "certificate": self.certificate,
                "sites_authority": self.sites_authority,
                "sites_key": self.sites_key,
            }
        )

    def _make_authority(self, name: str, key: tls.PrivateKey) -> tls.SelfSignedCert:
        return tls.SelfSignedCert(
            f"{name}-sites",
            private_key_pem=key.private_key_pem,
            subject={"common_name": "sites of the federation"},
            is_ca_certificate=True,
            set_subject_key_id=True,
            allowed_uses=["cert_signing", "crl_signing"],
            validity_period_hours=3650 * DAY_HOURS,
            opts=pulumi.ResourceOptions(parent=self),
        )

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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
