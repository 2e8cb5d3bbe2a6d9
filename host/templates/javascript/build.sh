#!/bin/sh
# Builds component.wasm. It takes Node.js and npm.
set -eu
cd "$(dirname "$0")"
[ -d node_modules ] || npm install --no-audit --no-fund --loglevel=error
# Without these features of the runtime it imports no WASI.
npx componentize-js component.js --wit wit --world-name plugin --out component.wasm \
  --disable stdio random clocks http fetch-event
