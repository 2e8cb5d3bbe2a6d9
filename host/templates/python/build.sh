#!/bin/sh
# Builds component.wasm. It takes Python 3 with pip and venv.
set -eu
cd "$(dirname "$0")"
if [ ! -x venv/bin/componentize-py ]; then
  python3 -m venv venv
  venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
fi
# Without it the component would import WASI.
venv/bin/componentize-py --quiet --wit-path wit --world plugin componentize --stub-wasi component --output component.wasm
