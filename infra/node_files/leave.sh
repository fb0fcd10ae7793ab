#!/bin/bash
# Takes this node out of the cluster, then lets its cloud end the machine. The machine goes whatever
# happens here, so a step that fails does not keep the next one from being taken.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

kubectl() {
    k3s kubectl --kubeconfig "${ROOT:-}/var/lib/rancher/k3s/agent/kubelet.kubeconfig" "$@"
}

node=$(node_name)
echo "$node leaves the cluster: $1"
# Cordons first. Its time leaves some of the notice for the steps after it.
kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --force \
    --grace-period="$((DRAIN_SECONDS * 2 / 3))" --timeout="${DRAIN_SECONDS}s" ||
    echo "some pods are still there" >&2
kubectl delete node "$node" --wait=false || echo "the node stays registered" >&2
# Not waited for: where the machine shuts down, k3s waits for the end of this.
systemctl stop --no-block k3s-agent.service || echo "k3s still runs" >&2
let_go "$node" || echo "nobody waited for the machine to leave" >&2
