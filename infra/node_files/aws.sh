# shellcheck shell=bash
# What AWS tells a machine, and how it gives it the token. Sourced by lib.sh, as cloud.sh.

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

node_name() { imds instance-id; }
node_address() { imds local-ipv4; }
node_zone() { imds placement/availability-zone; }
node_capacity() { imds instance-life-cycle; }

# provider_id ZONE NAME: what the cluster autoscaler knows the machine by.
provider_id() { echo "aws:///$1/$2"; }

join_token() {
    aws secretsmanager get-secret-value --region "$REGION" --secret-id "$TOKEN_SECRET" \
        --query SecretString --output text
}

# Why this machine has to go, which AWS tells two minutes ahead; fails while it may stay.
must_go() {
    if imds spot/instance-action >/dev/null; then
        echo "the spot instance is taken back"
    elif [ "$(imds autoscaling/target-lifecycle-state)" = Terminated ]; then
        echo "the group ends the instance"
    else
        return 1
    fi
}

# let_go NAME: tell the group that waits for it. After a spot interruption there may be none.
let_go() {
    aws autoscaling complete-lifecycle-action --region "$REGION" \
        --lifecycle-action-result CONTINUE --lifecycle-hook-name "$HOOK" \
        --auto-scaling-group-name "$GROUP" --instance-id "$1"
}
