#!/usr/bin/env bash
# Makes fixtures/models anew: real frameworks in an environment of their own, seeded.
set -euo pipefail
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
uv=$(command -v uv || echo .venv/bin/uv)
"$uv" venv -q --python "${PYTHON:-python3.11}" "$venv"
VIRTUAL_ENV=$venv "$uv" pip install -q --require-hashes -r requirements/fixtures.txt
"$venv/bin/python" fixtures/make_models.py
