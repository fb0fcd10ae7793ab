#!/bin/sh
# An edge bundle on a site's host: runs there as root. Bundles lie side by side, each with a Python
# of its own; `current` is served by systemd, `previous` is the one that was before.
#
#   receive SHA256            keep standard input until it is taken
#   take    SHA256 PORT MODEL check what was received, and install what it needs; nothing is served yet
#   serve   SHA256            serve it; if it does not answer, the one before again
#   back                      serve the previous one again
#   status                    which is served, which was before, whether it answers
#   remove                    take everything away, but the site's own data
set -eu
umask 022
folder=${ROOT:-}/opt/hybrid-edge
unit=${ROOT:-}/etc/systemd/system/hybrid-edge.service
# The site's own, put there by whoever keeps the site's data.
histories=${ROOT:-}/var/lib/hybrid-edge/histories.jsonl
# Written by the server alone; stays when the bundles go, as what was told stays told.
ledger=${ROOT:-}/var/lib/hybrid-edge/told/ledger.sqlite
seconds=${HYBRID_EDGE_SECONDS:-60}

fail() {
    echo "$1" >&2
    exit 1
}

receive() {
    mkdir -p "$folder/incoming"
    chmod 700 "$folder/incoming"
    cat >"$folder/incoming/$1"
}

take() {
    release=$folder/$1 received=$folder/incoming/$1
    if [ ! -e "$release/whole" ]; then
        # It lies where only root can write, so that nobody can exchange it after the check.
        echo "$1  $received" | sha256sum -c --status - || {
            rm -f "$received"
            fail "what arrived has not the SHA-256 $1: nothing was installed"
        }
        rm -rf "$release"
        mkdir -p "$release"
        mv "$received" "$release/bundle.pyz"
        chmod 644 "$release/bundle.pyz"
        python3 -c 'import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as bundle:
    print(bundle.read("requirements.txt").decode(), end="")' "$release/bundle.pyz" >"$release/requirements.txt"
        python3 -m venv "$release/python"
        "$release/python/bin/python" -m pip install --quiet --no-input \
            --disable-pip-version-check --requirement "$release/requirements.txt"
        echo "$3" >"$release/model"
    fi
    rm -f "$received"
    options="--port $2 --ledger $ledger"
    [ ! -e "$histories" ] || options="$options --histories $histories"
    echo "OPTIONS=$options" >"$release/options"
    sync
    touch "$release/whole"
}

write_unit() {
    id -u hybrid-edge >/dev/null 2>&1 ||
        useradd --system --no-create-home --shell /usr/sbin/nologin hybrid-edge
    if [ -e "$histories" ]; then
        chown hybrid-edge: "$histories"
        chmod 600 "$histories"
    fi
    mkdir -p "${unit%/*}"
    cat >"$unit" <<END
[Unit]
Description=Recommendations by an edge bundle of Hybrid
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=hybrid-edge
EnvironmentFile=$folder/current/options
ExecStart=$folder/current/python/bin/python $folder/current/bundle.pyz \$OPTIONS
Restart=always
RestartSec=2
UMask=0077
StateDirectory=hybrid-edge/told
StateDirectoryMode=0700
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

[Install]
WantedBy=multi-user.target
END
    systemctl daemon-reload
    systemctl enable --quiet hybrid-edge
}

point() { # NAME SHA256: in one step, whenever the host stops
    ln -sfn "$2" "$folder/$1.new"
    mv -T "$folder/$1.new" "$folder/$1"
}

answers() { # SECONDS: whether the current bundle answers with its own model within that time
    "$folder/current/python/bin/python" - "$folder/current" "$1" <<'END'
import json, pathlib, sys, time, urllib.request

release, deadline = pathlib.Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
model = (release / "model").read_text().strip()
port = (release / "options").read_text().split("--port ")[1].split()[0]
ask = urllib.request.Request(
    f"http://127.0.0.1:{port}/predictions/recommend", b'{"history": [], "k": 1}'
)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        with opener.open(ask, timeout=5) as answer:
            if json.load(answer)["model"] == model:
                sys.exit(0)
    except (OSError, ValueError, KeyError):
        pass
    if time.monotonic() > deadline:
        sys.exit(1)
    time.sleep(0.1)
END
}

serve() {
    [ -e "$folder/$1/whole" ] || fail "the bundle $1 is not on this host"
    old=$(readlink "$folder/current" || true)
    before=$(readlink "$folder/previous" || true)
    write_unit
    # First, so that the one before is known wherever this is cut off.
    if [ -n "$old" ] && [ "$old" != "$1" ]; then point previous "$old"; fi
    point current "$1"
    systemctl restart hybrid-edge || true # whether it answers decides
    if answers "$seconds"; then
        prune
        return
    fi
    journalctl --unit hybrid-edge --lines 3 --no-pager --output cat >&2 || true
    last=$(readlink "$folder/previous" || true)
    if [ -n "$last" ] && [ "$last" != "$1" ]; then
        point current "$last"
        if [ -n "$before" ] && [ "$before" != "$last" ]; then
            point previous "$before"
        else
            rm -f "$folder/previous"
        fi
        systemctl restart hybrid-edge || true
        fail "it did not answer within $seconds s; the bundle before serves again"
    fi
    systemctl disable --quiet --now hybrid-edge
    rm -f "$folder/current" "$unit"
    fail "it did not answer within $seconds s; nothing is served"
}

prune() { # all but the current bundle and the one before
    for each in "$folder"/*/; do
        name=$(basename "$each")
        case $name in
        current | previous | incoming | "$(readlink "$folder/current")") ;;
        *) [ "$name" = "$(readlink "$folder/previous" || true)" ] || rm -rf "${folder:?}/$name" ;;
        esac
    done
}

back() {
    old=$(readlink "$folder/previous") || fail "there is no bundle before the one that is served"
    serve "$old"
}

status() {
    for each in current previous; do
        [ ! -e "$folder/$each" ] ||
            echo "$each $(readlink "$folder/$each") $(cat "$folder/$each/model")"
    done
    if [ -e "$folder/current" ] && answers 0; then echo "answers"; fi
}

remove() {
    systemctl disable --quiet --now hybrid-edge 2>/dev/null || true
    rm -rf "$unit" "$folder"
    systemctl daemon-reload
    if id -u hybrid-edge >/dev/null 2>&1; then userdel hybrid-edge; fi
}

"$@"
