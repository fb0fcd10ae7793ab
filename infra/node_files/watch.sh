#!/bin/bash
# Waits until this machine is to go, which its cloud tells ahead, and leaves the cluster.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"

# Google Cloud tells nothing ahead when a group ends a machine: it shuts down.
trap 'exec "$here/leave.sh" "the machine shuts down"' TERM
while :; do
    if reason=$(must_go); then
        exec "$here/leave.sh" "$reason"
    fi
    # In the background, since a signal waits for the end of what is not.
    sleep "$WATCH_SECONDS" &
    wait $!
done
