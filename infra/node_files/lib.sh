# shellcheck shell=bash
# Sourced by the other scripts: the settings of this node, and what its cloud tells and wants.

# shellcheck disable=SC1091
. "${ROOT:-}/etc/hybrid/node.env"
# shellcheck source=cloud.sh
. "$(dirname "$0")/cloud.sh"
