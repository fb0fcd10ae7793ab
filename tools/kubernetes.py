"""Build a Kubernetes API server, its controller manager and etcd from the Go modules pinned here.

They end in ``~/.cache/hybrid/kubernetes/bin``, where `local` and tests/kubernetes find them. Run by
``make kubernetes``; a second run finds them there and does nothing.
"""

from __future__ import annotations

import shutil
import sys

from engine import build_tool, cache_root, step

VERSION = "1.36.3"
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}


def main() -> int:
    """Build what is missing."""
    folder = cache_root("kubernetes") / "bin"
    missing = [name for name in PROGRAMS if not (folder / name).exists()]
    if not missing:
        return 0
    go = shutil.which("go")
    if go is None:
        print("Building Kubernetes needs Go 1.26 or newer: install it, then run this again.",
              file=sys.stderr)  # fmt: skip
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing:
        with step(f"Building {name} with Go (once; 8 minutes for all three on 2 cores)"):
            build_tool(
                go,
                "kubernetes",
                PROGRAMS[name],
                folder / name,
                version=VERSION,
                setting="k8s.io/component-base/version.gitVersion",
                flags=["-tags", "osusergo,grpcnotrace,providerless"],
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
