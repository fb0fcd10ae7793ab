# shellcheck shell=bash
# What Google Cloud tells a machine, and how it gives it the token. Sourced by lib.sh, as cloud.sh.

# metadata PATH: print a value of this machine; fail where the metadata server has none.
metadata() {
    curl --noproxy '*' -sf -m 2 -H 'Metadata-Flavor: Google' \
        "${IMDS:-http://169.254.169.254}/computeMetadata/v1/instance/$1"
}

# field NAME…: print a value within the JSON on standard input. Python is there: cloud-init is one.
field() {
    python3 -c 'import functools, json, sys
print(functools.reduce(lambda value, key: value[key], sys.argv[1:], json.load(sys.stdin)))' "$@"
}

node_name() { metadata name; }
node_address() { metadata network-interfaces/0/ip; }
node_zone() {
    local path
    path=$(metadata zone) && echo "${path##*/}"
}
node_capacity() {
    local spot
    spot=$(metadata scheduling/preemptible) || return 1
    if [ "$spot" = TRUE ]; then echo spot; else echo on-demand; fi
}

# provider_id ZONE NAME: as Google's cloud provider calls the machine.
provider_id() { echo "gce://$PROJECT/$1/$2"; }

join_token() {
    local access
    access=$(metadata service-accounts/default/token | field access_token) || return 1
    # On standard input, since everybody on the machine can read a program's arguments.
    printf 'Authorization: Bearer %s' "$access" |
        curl -sf -m 10 -H @- \
            "https://secretmanager.googleapis.com/v1/$TOKEN_SECRET/versions/latest:access" |
        field payload data | base64 -d
}

# Why this machine has to go, of which a spot one knows 30 seconds ahead; fails while it may stay.
must_go() {
    if [ "$(metadata preempted)" = TRUE ]; then
        echo "the spot machine is taken back"
    elif [ "$(metadata maintenance-event)" = TERMINATE_ON_HOST_MAINTENANCE ]; then
        echo "the machine's host goes into maintenance"
    else
        return 1
    fi
}

# Nobody waits for it to leave.
let_go() { :; }
