#!/usr/bin/env bash
# Make .venv in the repo's root with the exact versions of requirements.lock. $1: 'cpu' for torch without CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; }

if command -v uv >/dev/null; then
  uv=uv
  [ -x .venv/bin/python ] || { echo "== making .venv"; uv venv -q --python '>=3.11,<3.13' .venv; }
else
  if ! [ -x .venv/bin/python ]; then
    for python in "${PYTHON:-python3}" python3.12 python3.11 python3 python; do
      if supported "$python"; then break; fi
      python=
    done
    [ -n "$python" ] || { echo "error: no Python 3.11 or 3.12 found; name one with PYTHON=/path/to/python" >&2; exit 1; }
    echo "== making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  echo "== installing uv into .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check uv
  uv=.venv/bin/uv
fi

echo "== installing requirements.lock into .venv (torch is large: minutes on a slow line)"
if [ "${1:-}" = cpu ]; then
  # the lock names the CUDA packages of the default build; the CPU build needs none of them
  lock=$(mktemp) && trap 'rm -f "$lock"' EXIT
  grep -vE '^(nvidia-|cuda-|triton==)' requirements.lock >"$lock"
  "$uv" pip install -q --compile-bytecode --python .venv/bin/python --torch-backend cpu -r "$lock"
else
  "$uv" pip install -q --compile-bytecode --python .venv/bin/python -r requirements.lock
fi
echo "== .venv is ready"
