#!/bin/sh
# Builds component.wasm. It takes clang and lld (on Debian: apt-get install clang lld), and the program `workspaces`.
set -eu
cd "$(dirname "$0")"
clang --target=wasm32 -std=c11 -O2 -Wall -Wextra -ffreestanding -nostdlib \
  -Wl,--no-entry -Wl,-z,stack-size=16384 -o module.wasm component.c
"${WORKSPACES:-workspaces}" componentize module.wasm --output component.wasm
