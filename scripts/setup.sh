#!/usr/bin/env bash
# Makes the virtual environment: hash-locked tools, then the three distributions, editable.
# usage: setup.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2
fail() { echo "setup: $*" >&2; exit 3; }

command -v "$python" >/dev/null || fail "no $python on PATH; install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$("$python" --version) is too old; Python 3.10 or newer is needed"
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "the venv module is missing (Debian: apt-get install python3-venv, as root)"
  echo "setup: installing python3-venv" >&2
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install -q --disable-pip-version-check uv
  uv=$venv/bin/uv
fi
export VIRTUAL_ENV=$PWD/$venv
# Byte code is made here: where PYTHONDONTWRITEBYTECODE is set, every start of mpack would otherwise compile it all.
"$uv" pip install -q --compile-bytecode --require-hashes -r requirements/dev.txt
"$uv" pip install -q --no-deps --no-build-isolation -e . -e packagers -e runtime
"$venv/bin/python" -m compileall -q src packagers runtime/src
