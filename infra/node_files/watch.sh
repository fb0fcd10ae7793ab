#!/bin/bash
# Waits until this machine is to go, which its cloud tells ahead, and leaves the cluster.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"

while :; do
    if reason=$(must_go); then
        exec "$here/leave.sh" "$reason"
    fi
    sleep "$WATCH_SECONDS"
done
