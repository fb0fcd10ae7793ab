# shellcheck shell=bash
# What Azure tells a machine, and how it gives it the token. Sourced by lib.sh, as cloud.sh.

# metadata PATH CURL-OPTION…: ask the instance metadata service.
metadata() {
    curl --noproxy '*' -sf -m 5 -H 'Metadata: true' "${@:2}" \
        "${IMDS:-http://169.254.169.254}/metadata/$1"
}

# instance PATH: print one value of this machine.
instance() { metadata "instance/$1?api-version=2021-02-01&format=text"; }

# field NAME: print a value of the JSON on standard input. Python is there: cloud-init is one.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# The machine's own name has letters that no node's name may have.
node_name() {
    local name
    name=$(instance compute/osProfile/computerName) && echo "${name,,}"
}
node_address() { instance network/interface/0/ipv4/ipAddress/0/privateIpAddress; }
node_zone() {
    local location zone
    location=$(instance compute/location) && zone=$(instance compute/zone) && echo "$location-$zone"
}
node_capacity() {
    local priority
    priority=$(instance compute/priority) || return 1
    if [ "$priority" = Spot ]; then echo spot; else echo on-demand; fi
}

# As Azure's cloud provider calls the machine.
provider_id() {
    local identity
    identity=$(instance compute/resourceId) && echo "azure://$identity"
}

join_token() {
    local access asked='api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net'
    access=$(metadata "identity/oauth2/token?$asked&client_id=$CLIENT_ID" | field access_token) ||
        return 1
    # On standard input, since everybody on the machine can read a program's arguments.
    printf 'Authorization: Bearer %s' "$access" |
        curl -sf -m 10 -H @- "${VAULT%/}/secrets/$TOKEN_SECRET?api-version=7.4" | field value
}

EVENTS='scheduledevents?api-version=2020-07-01'

# The event that ends this machine: what it is and its id; nothing while there is none.
ending() {
    local name
    name=$(instance compute/name) || return 1
    metadata "$EVENTS" | python3 -c 'import json, sys
for event in json.load(sys.stdin)["Events"]:
    if event["EventType"] in ("Preempt", "Terminate") and sys.argv[1] in event["Resources"]:
        print(event["EventType"], event["EventId"])
        break' "$name"
}

# Why this machine has to go, of which a spot one knows 30 seconds ahead; fails while it may stay.
must_go() {
    local event
    event=$(ending) || return 1
    case $event in
        Preempt*) echo "the spot machine is taken back" ;;
        Terminate*) echo "the scale set ends the machine" ;;
        *) return 1 ;;
    esac
}

# Azure then need not wait for the end of the event's time.
let_go() {
    local event
    event=$(ending) && [ -n "$event" ] || return 1
    metadata "$EVENTS" -X POST -d "{\"StartRequests\": [{\"EventId\": \"${event#* }\"}]}"
}
