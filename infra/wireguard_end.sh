#!/bin/sh
# One end of a WireGuard tunnel: runs on the machine that is that end, as root. Private keys are
# made here and stay here; only public keys are printed.
#
#   start   INTERFACE ADDRESS PORT                     bring the interface up with the keys it has
#   resume  all                                        the same for all that were ever started here
#   prepare INTERFACE GENERATION                       make that generation's key; print its public half
#   apply   INTERFACE GENERATION PEER ENDPOINT NETS    put the key to use towards a peer
#   prefer  INTERFACE NETWORK                          send a network's traffic through the interface
#   probe   INTERFACE PEER_ADDRESS                     does the other end answer through the tunnel?
#   measure INTERFACE PEER_ADDRESS                     handshakes, round trips and an echo of 500 packets
set -eu
umask 077
keys=${WIREGUARD_KEYS:-/etc/wireguard/hybrid}
command=$1 interface=$2

store() { # a file is whole or absent, whenever the machine stops
    cat >"$1.new"
    sync "$1.new"
    mv "$1.new" "$1"
}

start() { # INTERFACE ADDRESS PORT
    if ! ip link show dev "$1" >/dev/null 2>&1; then
        ip link add dev "$1" type wireguard 2>/dev/null || wireguard-go "$1" >/dev/null 2>&1
        [ ! -s "$keys/$1.conf" ] || wg setconf "$1" "$keys/$1.conf"
    fi
    wg set "$1" listen-port "$3"
    ip address replace "$2" dev "$1"
    ip link set dev "$1" mtu 1380 up # leaves room for WireGuard's header on a path of 1440
}

mkdir -p "$keys"
case $command in
start)
    echo "$3 $4" | store "$keys/$interface.start"
    start "$interface" "$3" "$4"
    ;;
resume)
    for file in "$keys"/*.start; do
        [ -e "$file" ] || exit 0
        read -r address port <"$file"
        start "$(basename "$file" .start)" "$address" "$port"
    done
    for file in "$keys"/*.route; do
        [ -e "$file" ] || exit 0
        read -r network preferred <"$file"
        ip route replace "$network" dev "$preferred"
    done
    ;;
prepare)
    key=$keys/$interface.$3.key
    [ -s "$key" ] || wg genkey | store "$key"
    wg pubkey <"$key"
    ;;
apply)
    key=$keys/$interface.$3.key
    wg set "$interface" private-key "$key"
    for peer in $(wg show "$interface" peers); do
        [ "$peer" = "$4" ] || wg set "$interface" peer "$peer" remove
    done
    wg set "$interface" peer "$4" endpoint "$5" allowed-ips "$6" persistent-keepalive 15
    wg showconf "$interface" | store "$keys/$interface.conf"
    for old in "$keys/$interface".*.key; do
        [ "$old" = "$key" ] || rm -f "$old"
    done
    ;;
prefer)
    ip route replace "$3" dev "$interface"
    echo "$3 $interface" | store "$keys/$(echo "$3" | tr / _).route"
    ;;
probe)
    for _ in 1 2 3; do
        if ping -q -c 1 -W 1 -I "$interface" "$3" >/dev/null 2>&1; then
            echo up
            exit
        fi
    done
    echo down
    ;;
measure)
    wg show "$interface" latest-handshakes | while read -r _ seconds; do
        echo "handshake $seconds $(date +%s)"
    done
    ping -q -c 5 -i 0.2 -W 2 -I "$interface" "$3" 2>/dev/null || true
    ping -q -f -l 50 -c 500 -s 1300 -w 5 -I "$interface" "$3" 2>/dev/null || true
    ;;
*)
    echo "$command is no command of this script" >&2
    exit 2
    ;;
esac
