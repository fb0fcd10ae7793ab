"""Layer `platform`: TorchServe, the Flower SuperLink and training, on the first site's cluster."""

from __future__ import annotations

import pulumi

from infra.federation_server import FederationServer, FederationServerArgs
from infra.serving import Serving, ServingArgs
from infra.training_job import TrainingJob, TrainingJobArgs
from stacks.providers import kubernetes_provider
from stacks.references import Layer
from stacks.settings import Settings


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    kubeconfig = Layer(environment, "private").output("kubeconfig")
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
    pulumi.export("serving_address", serving.address)
    pulumi.export("federation_port", federation.port)
    pulumi.export("federation_certificate", federation.certificate)
