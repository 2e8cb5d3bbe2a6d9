#!/bin/sh
# Builds the component and judges it, for people and for CI.
set -eu
cd "$(dirname "$0")"
sh build.sh
[ ! -f limits.toml ] || set -- --limits limits.toml "$@"
"${WORKSPACES:-workspaces}" verify component.wasm "$@"
