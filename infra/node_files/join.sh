#!/bin/bash
# Makes this machine a node of the cluster: finds a server, fetches the token, installs k3s.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"
rancher=${ROOT:-}/etc/rancher/k3s

server=
for candidate in $SERVERS; do
    # Whom it reaches is not checked here: k3s checks it by the hash in the token.
    if curl --noproxy '*' -skf -m 5 -o /dev/null "https://$candidate:$API_PORT/cacerts"; then
        server=$candidate
        break
    fi
done
if [ -z "$server" ]; then
    echo "no server of the cluster answers over the link: $SERVERS" >&2
    exit 1
fi

name=$(node_name)
address=$(node_address)
zone=$(node_zone)
capacity=$(node_capacity)
provider=$(provider_id "$zone" "$name")
# A label, so that a node without the toolkit is found before a pod fails on it.
toolkit=missing
if command -v nvidia-container-runtime >/dev/null; then toolkit=present; fi
mkdir -p "$rancher/config.yaml.d"
cat > "$rancher/config.yaml.d/node.yaml" <<END
server: https://$server:$API_PORT
node-name: $name
node-ip: $address
node-label+:
- hybrid/capacity=$capacity
- hybrid/container-toolkit=$toolkit
- topology.kubernetes.io/zone=$zone
kubelet-arg+:
- provider-id=$provider
END

token=$(join_token)
printf '%s' "$token" | sh "$here/install-k3s.sh"
touch "$rancher/joined"
