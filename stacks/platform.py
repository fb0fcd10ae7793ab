"""Layer `platform`: serving, federation, training and GPU nodes, on the first site's cluster."""

from __future__ import annotations

import pulumi

from infra.autoscaler import Autoscaler
from infra.federation_pod import FederationServerArgs
from infra.federation_server import FederationServer
from infra.gpu_nodes import GpuNodes, GpuNodesArgs
from infra.serving import Serving, ServingArgs
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
    serving = Serving(
        "serving",
        ServingArgs(namespace="serving", **settings.serving.model_dump()),
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
