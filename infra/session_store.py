"""The store of users' sessions on Kubernetes: Valkey in memory, for TorchServe alone."""

from __future__ import annotations

import hashlib
from typing import Any

import pulumi
import pulumi_random as random
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import Secret, Service, ServiceAccount
from pulumi_kubernetes.networking.v1 import NetworkPolicy

from infra import pods, quotas
from infra.namespaces import guarded_namespace
from infra.placement import nodes
from infra.session_pod import (
    FILE,
    PART,
    PORT,
    SessionStoreArgs,
    configuration,
    container,
    network_policy,
)


class SessionStore(pulumi.ComponentResource):
    """Deployment and Service of Valkey, with a password that is drawn once.

    It keeps nothing on a disk: a pod that is replaced begins without sessions, and TorchServe
    answers without them meanwhile.

    Attributes
    ----------
    namespace
        Where it runs.
    address
        Within the cluster, as ``redis://host:port``.
    password
        Secret.
    """

    namespace: str
    address: pulumi.Output[str]
    password: pulumi.Output[str]

    def __init__(
        self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:SessionStore", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        self.namespace = args.namespace
        hard = quotas.quota(1, [container(args)])
        namespace = guarded_namespace(name, args.namespace, PART, hard, own)
        metadata: dict[str, Any] = {
            "name": PART,
            "namespace": namespace,
            "labels": pods.labels(PART),
        }
        # Letters and digits only: it stands in the server's configuration as it is.
        drawn = random.RandomPassword(name, length=48, special=False, opts=own)
        self.password = drawn.result
        text = self.password.apply(lambda password: configuration(args.memory_mb, password))
        secret = Secret(
            name, metadata=metadata, string_data=pulumi.Output.secret({FILE: text}), opts=own
        )
        account = ServiceAccount(
            name, metadata=metadata, automount_service_account_token=False, opts=own
        )
        Deployment(
            name,
            metadata=metadata,
            spec={
                "replicas": 1,
                # Of two stores each would know half of what a user did.
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": pods.selector(PART)},
                "template": pods.template(
                    PART,
                    account.metadata["name"],
                    [container(args)],
                    [
                        {
                            "name": "configuration",
                            "secret": {
                                "secret_name": secret.metadata["name"],
                                "default_mode": 0o440,
                            },
                        }
                    ],
                    # The server reads its configuration when it starts.
                    annotations={"hybrid/configuration": fingerprint(text)},
                    **nodes(args.placement),
                ),
            },
            opts=own,
        )
        service = Service(
            name,
            metadata=metadata,
            spec={
                "selector": pods.selector(PART),
                "ports": [{"name": "sessions", "port": PORT, "target_port": "sessions"}],
            },
            opts=own,
        )
        NetworkPolicy(name, metadata=metadata, spec=network_policy(args.clients), opts=own)
        self.address = pulumi.Output.format(
            "redis://{0}.{1}.svc:{2}", service.metadata["name"], namespace, PORT
        )
        self.register_outputs({"address": self.address})


def fingerprint(secret: pulumi.Output[str]) -> pulumi.Output[str]:
    """By which pods are replaced when a secret changes; it tells nothing of a long random one."""
    digest = secret.apply(lambda text: hashlib.sha256(text.encode()).hexdigest()[:16])
    return pulumi.Output.unsecret(digest)
