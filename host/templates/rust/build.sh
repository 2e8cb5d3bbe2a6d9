#!/bin/sh
# Builds component.wasm.
set -eu
cd "$(dirname "$0")"
rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2
cargo build --release --target wasm32-wasip2 --target-dir target
cp target/wasm32-wasip2/release/component.wasm component.wasm
