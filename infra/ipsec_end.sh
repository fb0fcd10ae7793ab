#!/bin/sh
# A site's end of an IPsec tunnel with strongSwan: runs on the site's gateway, as root. The key is
# made here, kept in files of root's alone, and never an argument of a program.
#
#   start   NAME NUMBER                the tunnel's XFRM interface, hyipsec<NUMBER>
#   prepare NAME GENERATION            make that generation's key; print it for the cloud end
#   apply   NAME GENERATION CONFIG     load the configuration, its @KEY@ replaced by the key
#   prefer  NAME NUMBER NETWORK        send a network's traffic through the interface
#   probe   NAME                       is the tunnel established? prints its seconds
#   measure NAME NUMBER NETWORK HOST   the same; round trips from our address in NETWORK to a host
#                                      behind the tunnel, and an echo of 500 packets
set -eu
umask 077
keys=${IPSEC_KEYS:-/etc/swanctl/hybrid} configurations=${IPSEC_CONF:-/etc/swanctl/conf.d}
command=$1 name=$2

store() { # a file is whole or absent, whenever the machine stops
    cat >"$1.new"
    sync "$1.new"
    mv "$1.new" "$1"
}

probe() { # NAME
    swanctl --list-sas --ike "$1" |
        sed -n 's/^ *established \([0-9]*\)s ago.*/established \1/p; s/.*INSTALLED.*/installed/p'
}

mkdir -p "$keys"
key=$keys/$name.${3:-}.key
case $command in
start)
    ip link show dev "hyipsec$3" >/dev/null 2>&1 ||
        ip link add dev "hyipsec$3" type xfrm dev lo if_id "$3"
    ip link set dev "hyipsec$3" up
    ;;
prepare)
    [ -s "$key" ] ||
        od -An -v -tx1 -N 24 /dev/urandom | tr -d ' \n' | sed 's/^/k/' | store "$key"
    cat "$key"
    ;;
apply)
    secret=$(cat "$key") # the shell's own printf: no other program sees it
    printf '%s\n' "${4%%@KEY@*}$secret${4#*@KEY@}" | store "$configurations/hybrid-$name.conf"
    swanctl --load-all --noprompt --clear >/dev/null
    swanctl --terminate --ike "$name" --force --timeout 5 >/dev/null 2>&1 || true
    swanctl --initiate --child "$name" --timeout 20 >/dev/null 2>&1 || true # it tries on by itself
    for old in "$keys/$name".*.key; do
        [ "$old" = "$key" ] || rm -f "$old"
    done
    ;;
prefer)
    ip route replace "$4" dev "hyipsec$3"
    ;;
probe)
    probe "$name"
    ;;
measure)
    probe "$name"
    own=$(ip -4 -o address show to "$4" | sed -n 's/.* inet \([0-9.]*\).*/\1/p; q')
    if [ -z "$own" ]; then # what has another source does not go through the tunnel
        echo "it has no address in $4 to ping from" >&2
        exit 1
    fi
    ping -q -c 5 -i 0.2 -W 2 -I "hyipsec$3" -I "$own" "$5" 2>/dev/null || true
    ping -q -f -l 50 -c 500 -s 1300 -w 5 -I "hyipsec$3" -I "$own" "$5" 2>/dev/null || true
    ;;
*)
    echo "$command is no command of this script" >&2
    exit 2
    ;;
esac
