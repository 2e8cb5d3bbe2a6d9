#!/bin/sh
# Makes a component that hosts of wasi:http serve. It takes Rust with the target wasm32-wasip2, and wac
# (`cargo install wac-cli`). BACKEND names a package of this workspace with auth and storage of your own.
set -eu
component="$(realpath "${1:?the component: sh build.sh component.wasm served.wasm}")"
served="$(realpath "${2:?the file to write: sh build.sh component.wasm served.wasm}")"
backend="${BACKEND:-workspaces-wasi-backend}"
cd "$(dirname "$0")"
cargo build --locked --quiet --package workspaces-wasi-http --package "$backend" --target wasm32-wasip2 --profile component
target="$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"
built() { printf '%s/wasm32-wasip2/component/%s.wasm' "$target" "$(printf %s "$1" | tr - _)"; }
wac compose compose.wac --output "$served" --dep "recoup:guest=$component" \
  --dep "recoup:handler=$(built workspaces-wasi-http)" --dep "recoup:backend=$(built "$backend")"
