#!/usr/bin/env bash
# Installs the system programs that some tests run: VPNs, their parsers, a proxy, a store of sessions, checkers.
# Only as root, only with apt, only what is missing; without them those tests skip and say why.
set -euo pipefail

declare -A packages=(
    [ip]=iproute2
    [ping]=iputils-ping
    [wg]=wireguard-tools
    [wireguard-go]=wireguard-go
    [swanctl]=strongswan-swanctl
    [charon-systemd]="charon-systemd libstrongswan-standard-plugins"
    [/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so]=libcharon-extra-plugins
    [nginx]=nginx-light
    [promtool]=prometheus
    [redis-server]=redis-server
    [shellcheck]=shellcheck
)
# What some of them would run from then on at every boot, on addresses that anybody reaches.
declare -A services=(
    [charon-systemd]=strongswan
    [nginx]=nginx
    [promtool]=prometheus
    [redis-server]=redis-server
)

# Not all of these are on the PATH of everybody: daemons live in sbin.
PATH=$PATH:/usr/sbin:/sbin
missing=() unwanted=()
for program in "${!packages[@]}"; do
    if ! command -v "$program" >/dev/null && [ ! -e "$program" ]; then
        read -ra wanted <<<"${packages[$program]}"
        missing+=("${wanted[@]}")
        [ -z "${services[$program]:-}" ] || unwanted+=("${services[$program]}")
    fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    printf 'Tests that need these will skip: %s (sudo apt-get install them).\n' "${missing[*]}" >&2
    exit 0
fi

start=$SECONDS
printf 'Installing what some tests run: %s …\n' "${missing[*]}"

# Debian starts a service as soon as its package is installed: 101 forbids it. And it would index
# all manual pages, for minutes, unless this file is away.
policy=/usr/sbin/policy-rc.d
index=/var/lib/man-db/auto-update
log=$(mktemp)
guarded='' moved=''
restore() {
    [ -z "$guarded" ] || rm -f "$policy"
    [ -z "$moved" ] || mv "$index.away" "$index"
    rm -f "$log"
}
trap restore EXIT
if [ ! -e "$policy" ]; then
    guarded=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
if [ -e "$index" ]; then
    mv "$index" "$index.away"
    moved=yes
fi

if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    printf 'They could not be installed, so tests that need them will skip: %s\n' \
        "$(tail -n 1 "$log")" >&2
fi
if [ ${#unwanted[@]} -gt 0 ] && command -v systemctl >/dev/null; then
    systemctl --quiet disable "${unwanted[@]}" 2>/dev/null || true
fi
printf '  done in %d s\n' "$((SECONDS - start))"
