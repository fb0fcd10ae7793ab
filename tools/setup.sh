#!/usr/bin/env bash
# Installs what is missing: the Python environment, Java, the Pulumi engine, the `local` environment's folder.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
    say "Hybrid needs Python 3.11 to 3.13, and '$python' is not one: install one and run make setup PYTHON=/path/to/it." >&2
    exit 1
fi

start=$SECONDS
if [ ! -x .venv/bin/python ]; then
    say "Making the Python environment in .venv …"
    "$python" -m venv .venv
fi
if [ ! -x .venv/bin/uv ]; then
    .venv/bin/python -m pip install --quiet "$(grep -oE '^uv==[0-9.]+' requirements.txt)"
fi
say "Installing the locked Python packages …"
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --editable .
# Compiled once here: commands and servers would otherwise compile what they import at first use,
# and every time where Python is told to write no bytecode. Of the providers' SDKs, which are ten
# times larger than all else, only what the stacks' programs import as they run is compiled.
.venv/bin/python -m compileall -q -j 0 -x '/pulumi_(aws|gcp|kubernetes)/|/(tests|debugpy)/' \
    recsys model_store federation handlers infra stacks cli .venv/lib >/dev/null || true
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore -m tools.compile_stacks
say "  done in $((SECONDS - start)) s"

java_version() { "${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | sed -nE '1s/.*"([0-9]+).*/\1/p'; }
if [ "$(java_version || true)" -lt 17 ] 2>/dev/null || [ -z "$(java_version || true)" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        start=$SECONDS
        say "Installing Java 17 (TorchServe runs on it) …"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openjdk-17-jre-headless >/dev/null
        say "  done in $((SECONDS - start)) s"
    else
        say "TorchServe needs Java 17, and installing it needs root: sudo apt-get install openjdk-17-jre-headless, then run this again." >&2
        exit 1
    fi
fi

.venv/bin/python tools/engine.py
.venv/bin/hybrid init local
