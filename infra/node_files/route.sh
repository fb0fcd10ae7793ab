#!/bin/bash
# Brings up the way to the sites: through the device whose route table leads into the link.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

read -r gateway device < <(ip -4 route show default | awk 'NR == 1 {print $3, $5}')
# The link takes smaller packets than the VPC, and drops larger ones in silence. Flannel takes the
# size of pods' packets from the device.
ip link set dev "$device" mtu "$LINK_MTU"
for network in $SITE_NETWORKS; do
    ip route replace "$network" via "$gateway" dev "$device"
done
