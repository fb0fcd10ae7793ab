#!/bin/bash
# Waits until this machine is to go, which AWS tells two minutes ahead, and leaves the cluster.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"

while :; do
    if imds spot/instance-action >/dev/null; then
        exec "$here/leave.sh" "the spot instance is taken back"
    fi
    if [ "$(imds autoscaling/target-lifecycle-state)" = Terminated ]; then
        exec "$here/leave.sh" "the group ends the instance"
    fi
    sleep "$WATCH_SECONDS"
done
