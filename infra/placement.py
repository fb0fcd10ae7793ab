"""Where a pod runs: on the nodes of the sites, or on those of the GPU pool. Pure."""

from __future__ import annotations

from typing import Any, Literal

from infra import gpu, pods


def nodes(where: Literal["private", "gpu-pool"]) -> dict[str, Any]:
    """Part of a pod's spec that puts it on the nodes of one pool."""
    if where == "private":
        return {"node_selector": {gpu.NODE_LABEL: "private"}}
    return {
        "node_selector": gpu.SELECTOR,
        "tolerations": [
            gpu.TOLERATION,
            # The link may be lost for a while: training on the other side of it goes on.
            *(
                {
                    "key": f"node.kubernetes.io/{state}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "toleration_seconds": pods.LOST_LINK_SECONDS,
                }
                for state in ("not-ready", "unreachable")
            ),
        ],
    }


def devices(where: Literal["private", "gpu-pool"]) -> dict[str, Any]:
    """Part of a pod's spec by which it sees the GPUs of its node, if it is on one of the pool."""
    return {"runtime_class_name": gpu.RUNTIME_CLASS} if where == "gpu-pool" else {}
