#!/bin/bash
# venv.sh DIRECTORY EXTRAS: a virtual environment with the kit (editable) and
# the named extras, at the pinned versions.  PYTHON names the Python to use.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=$1
extras=$2
python=${PYTHON:-python3}
mkdir -p "${TMPDIR:-/tmp}"

say() {
  printf '%s\n' "$@" >&2
}

if ! command -v "$python" >/dev/null; then
  say "There is no $python here. Install Python 3.11 (Debian: apt install python3 python3-venv)" \
      "or name another one: make up PYTHON=/path/to/python3.11"
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  say "$python is $("$python" --version 2>&1); the kit needs Python 3.11 or newer." \
      "Name another one: make up PYTHON=/path/to/python3.11"
  exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  say "$python can't make virtual environments: it lacks venv or ensurepip." \
      "Install it (Debian: apt install python3-venv)" \
      "or name another Python: make up PYTHON=/path/to/python3.11"
  exit 1
fi

# Half an environment, or one whose Python has gone: begin anew.
if ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
  rm -rf "$directory"
  "$python" -m venv "$directory"
fi
say "Installing the kit and its tools ($extras) into $directory"
"$directory/bin/python" -m pip --quiet install --constraint constraints.txt --editable ".[$extras]"
