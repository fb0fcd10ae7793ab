"""Names by which GPU nodes, their devices and the pods that use them find each other."""

from __future__ import annotations

NODE_LABEL = "hybrid/pool"
NODE_LABEL_VALUE = "gpu"

GPU = "nvidia.com/gpu"
TAINT_VALUE = "present"

# The autoscaler takes a node with this label for ready only once its GPUs can be had.
ACCELERATOR_LABEL, ACCELERATOR = "k8s.amazonaws.com/accelerator", "nvidia"
AZURE_ACCELERATOR_LABEL = "accelerator"
GOOGLE_ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"

# Not "nvidia": k3s makes and keeps a class of that name itself.
RUNTIME_CLASS = "hybrid-gpu"
RUNTIME_HANDLER = "nvidia"

# What a node tells of itself when it joins (infra/node_files/join.sh).
CAPACITY_LABEL = "hybrid/capacity"
TOOLKIT_LABEL, TOOLKIT_MISSING = "hybrid/container-toolkit", "missing"

SELECTOR = {NODE_LABEL: NODE_LABEL_VALUE}
TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}


def owned_tag(cluster: str) -> str:
    """Key of the tag by which the autoscaler of a cluster finds its group; the value is "owned"."""
    return f"k8s.io/cluster-autoscaler/{cluster}"
