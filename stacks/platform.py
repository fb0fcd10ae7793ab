"""Layer `platform`: serving, its sessions, federation, training and GPU nodes, on the first site's cluster."""

from __future__ import annotations

import pulumi

from infra.autoscaler import Autoscaler
from infra.federation_pod import FederationServerArgs
from infra.federation_server import FederationServer
from infra.gpu_nodes import GpuNodes, GpuNodesArgs
from infra.handler_variables import (
    collector_beyond_loopback,
    session_variables,
    token_variables,
    tracing_variables,
)
from infra.serving import PART as TORCHSERVE
from infra.serving import Serving, ServingArgs
from infra.session_pod import SessionStoreArgs
from infra.session_store import SessionStore
from infra.training_job import TrainingJob, TrainingJobArgs
from stacks.autoscaling import autoscaler
from stacks.joining import put_token
from stacks.providers import kubernetes_provider
from stacks.references import Layer
from stacks.settings import Settings


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    private, cloud = Layer(environment, "private"), Layer(environment, "cloud")
    kubeconfig = private.output("kubeconfig")
    on_cluster = pulumi.ResourceOptions(providers=[kubernetes_provider(kubeconfig)])
    sessions, tracing = settings.sessions, settings.tracing
    store = SessionStore(
        "sessions",
        SessionStoreArgs(
            namespace="sessions",
            image=sessions.image,
            placement=settings.serving.placement,
            memory_mb=sessions.memory_mb,
            clients=("serving", TORCHSERVE),
        ),
        on_cluster,
    )
    collector = collector_beyond_loopback(tracing.endpoint)
    serving = Serving(
        "serving",
        ServingArgs(
            namespace="serving",
            variables=session_variables(
                store.address, settings.serving_site, sessions.expiry_seconds, sessions.events
            )
            | token_variables(settings.events.credential, settings.events.keys)
            | tracing_variables(collector, tracing.share),
            sessions=store,
            collector=collector,
            **settings.serving.model_dump(),
        ),
        on_cluster,
    )
    federation = FederationServer(
        "federation",
        FederationServerArgs(
            namespace="federation",
            addresses=[host.address for host in settings.sites[0].hosts],
            clients=[str(site.cidr) for site in settings.sites],
            **settings.federation.model_dump(),
        ),
        on_cluster,
    )
    if settings.training:
        TrainingJob(
            "training",
            TrainingJobArgs(namespace="training", **settings.training.model_dump()),
            on_cluster,
        )
    pool = settings.gpu_pool
    if pool.device_plugin_image:
        GpuNodes(
            "gpu-nodes",
            GpuNodesArgs("gpu-nodes", pool.device_plugin_image, pool.time_slices),
            on_cluster,
        )
    if pool.autoscaler_image:
        Autoscaler("autoscaler", autoscaler(environment, settings, cloud), on_cluster)
    if settings.machines_join:
        put_token(environment, settings, private.output("join_token"), cloud)
    pulumi.export("serving_address", serving.address)
    pulumi.export("federation_port", federation.port)
    pulumi.export("federation_certificate", federation.certificate)
    pulumi.export("federation_sites_authority", federation.sites_authority)
    pulumi.export("federation_sites_key", federation.sites_key)
