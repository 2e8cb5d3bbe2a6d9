#!/bin/sh
# Makes generated/, the component as modules that Node.js and browsers load. It takes Node.js and npm.
set -eu
cd "$(dirname "$0")"
component="${1:?the component: sh build.sh component.wasm}"
[ -d node_modules ] || npm install --no-audit --no-fund --loglevel=error
npx jco transpile "$component" --name component --instantiation async --no-nodejs-compat --quiet --out-dir generated
