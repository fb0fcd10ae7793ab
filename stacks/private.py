"""Layer `private`: the sites' own Kubernetes. In `local` one API on this machine stands for all."""

from __future__ import annotations

from pathlib import Path

import pulumi

from infra import k3s
from infra.private_cluster import ClusterHost, PrivateCluster, PrivateClusterArgs
from stacks.settings import PROJECT, K3s, Settings, Site, home


def program(environment: str, settings: Settings) -> None:
    """Declare the layer's resources and outputs."""
    if settings.kind == "local":
        args = PrivateClusterArgs(
            namespaces=[site.name for site in settings.sites],
            # Its path: what leads to the API, and with which key, stays out of the state.
            kubeconfig=str(home() / environment / "kubernetes" / "kubeconfig"),
        )
        clusters = [PrivateCluster(f"hybrid-{environment}", args)]
    else:
        clusters = [
            PrivateCluster(f"hybrid-{environment}-{site.name}", site_cluster(site, settings.k3s))
            for site in settings.sites
            if site.hosts and settings.k3s
        ]
    # The first site carries the platform.
    pulumi.export("kubeconfig", clusters[0].kubeconfig)
    pulumi.export("namespaces", [name for cluster in clusters for name in cluster.namespaces])
    if clusters[0].join_token is not None:
        pulumi.export("join_token", clusters[0].join_token)


def site_cluster(site: Site, settings: K3s) -> PrivateClusterArgs:
    """k3s on the hosts of one site."""
    bundle = PROJECT / Path(settings.bundle).expanduser() if settings.bundle else None
    return PrivateClusterArgs(
        namespaces=[site.name],
        site=site.name,
        hosts=[ClusterHost(**host.model_dump()) for host in site.hosts],
        releases={
            architecture: k3s.release(
                settings.version,
                architecture,
                installer_sha256=settings.installer_sha256,
                binary_sha256=sha256,
                images_sha256=settings.images_sha256.get(architecture) if bundle else None,
            )
            for architecture, sha256 in settings.binary_sha256.items()
        },
        bundle=bundle,
    )
