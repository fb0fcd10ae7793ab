#!/bin/bash
# Takes this node out of the cluster, then lets the group end the machine. The machine goes whatever
# happens here, so a step that fails does not keep the next one from being taken.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

kubectl() {
    k3s kubectl --kubeconfig "${ROOT:-}/var/lib/rancher/k3s/agent/kubelet.kubeconfig" "$@"
}

node=$(imds instance-id)
echo "$node leaves the cluster: $1"
# Cordons first. Its time leaves some of the two minutes for the steps after it.
kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --force \
    --grace-period=60 --timeout="${DRAIN_SECONDS}s" || echo "some pods are still there" >&2
kubectl delete node "$node" --wait=false || echo "the node stays registered" >&2
systemctl stop k3s-agent.service || echo "k3s still runs" >&2
# After a spot interruption there may be no such action any more.
aws autoscaling complete-lifecycle-action --region "$REGION" --lifecycle-action-result CONTINUE \
    --lifecycle-hook-name "$HOOK" --auto-scaling-group-name "$GROUP" --instance-id "$node" ||
    echo "there was no lifecycle action to complete" >&2
