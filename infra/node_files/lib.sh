# shellcheck shell=bash
# Sourced by the other scripts: the settings of this node, and the instance metadata service.

# shellcheck disable=SC1091
. "${ROOT:-}/etc/hybrid/node.env"

# imds PATH: print a value of the metadata service, version 2; fail where it has none.
imds() {
    local service=${IMDS:-http://169.254.169.254}/latest token
    token=$(
        curl --noproxy '*' -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
            "$service/api/token"
    ) || return 1
    # On standard input, since everybody on the machine can read a program's arguments.
    printf 'X-aws-ec2-metadata-token: %s' "$token" |
        curl --noproxy '*' -sf -m 2 -H @- "$service/meta-data/$1"
}
