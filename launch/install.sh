#!/usr/bin/env bash
# Make .venv in the repo's root with the exact versions of requirements.lock. $1: 'cpu' for torch without CUDA.
#
# It uses uv: the one on PATH, or else one that any Python from 3.8 on installs into a folder that is removed at the end.
# .venv gets the Python that PYTHON names, else a 3.11 or 3.12 of this machine, else one that uv fetches.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

fail() { echo "error: $1" >&2; exit 1; }

# prints 3.13, for example, or nothing if it does not run
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

fits() { case "$(version "$1")" in 3.11 | 3.12) ;; *) return 1 ;; esac }

# the command that installs a Python that fits on this machine
how_to_get_python() {
  local v
  if command -v conda >/dev/null; then
    echo "conda create -n python312 -c conda-forge python=3.12 && conda activate python312"
  elif command -v brew >/dev/null; then
    echo "brew install python@3.12"
  elif command -v dnf >/dev/null; then
    echo "sudo dnf install python3.12"
  elif command -v apt-get >/dev/null; then
    for v in 3.12 3.11; do
      if apt-cache show "python$v" >/dev/null 2>&1; then
        echo "sudo apt install python$v python$v-venv"
        return
      fi
    done
    echo "this release of Debian or Ubuntu has neither; conda has (https://conda-forge.org/download)"
  else
    echo "from https://www.python.org/downloads, or with conda (https://conda-forge.org/download)"
  fi
}

# install uv from the package registry with the first Python that can, in a separate venv or with its pip
bring_uv() {
  local python bare='' lost="uv did not come from the package registry (see above): is there a network?"
  for python in ${PYTHON:+"$PYTHON"} python3 python3.1{2,1,3,4,0} python3.{9,8} python; do
    case "$(version "$python")" in 3.[89] | 3.[1-9][0-9]) ;; *) continue ;; esac
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "== $python ($(version "$python")) installs uv, only for this installation"
      "$python" -m venv "$tools/uv" || fail "$python cannot make a venv (see above)"
      "$tools/uv/bin/python" -m pip install -q --disable-pip-version-check uv || fail "$lost"
    elif "$python" -m pip --version >/dev/null 2>&1; then
      echo "== the pip of $python ($(version "$python")) installs uv, only for this installation"
      "$python" -m pip install -q --disable-pip-version-check --target "$tools/uv" uv || fail "$lost"
    else
      bare=${bare:-$python}
      continue
    fi
    uv=$tools/uv/bin/uv
    return
  done
  if [ -z "$bare" ]; then
    fail "found neither uv nor a Python from 3.8 on. Python 3.12: $(how_to_get_python)"
  elif command -v apt-get >/dev/null; then
    fail "$bare ($(version "$bare")) comes without venv and pip: sudo apt install python3-venv"
  fi
  fail "$bare ($(version "$bare")) comes without venv and pip. Python 3.12: $(how_to_get_python)"
}

# what is here already
if [ -n "${PYTHON:-}" ] && ! fits "$PYTHON"; then
  found=$(version "$PYTHON")
  fail "PYTHON=$PYTHON: ${found:-does not run}; must be Python 3.11 or 3.12"
fi
if ! fits .venv/bin/python; then
  found=$(version .venv/bin/python)
  [ -z "$found" ] || fail ".venv holds Python $found, not 3.11 or 3.12: remove it (make clean), then run this again"
  if [ -f .venv/pyvenv.cfg ]; then # begun and not ended, or its Python was removed from this machine
    echo "== the Python of .venv does not run: making .venv again"
    rm -rf .venv
  fi
fi

if uv --version >/dev/null 2>&1; then uv=uv; else bring_uv; fi

if ! [ -x .venv/bin/python ]; then
  python=${PYTHON:-$("$uv" python find '>=3.11,<3.13' 2>/dev/null || true)}
  if [ -n "$python" ]; then
    echo "== making .venv with $python ($(version "$python"))"
    "$uv" venv -q --python "$python" .venv
  else
    echo "== no Python 3.11 or 3.12 on this machine: uv fetches Python 3.12, about 30 MB, to $("$uv" python dir)"
    "$uv" venv --python 3.12 .venv ||
      fail "uv could not fetch Python 3.12 (see above). Install it and run this again: $(how_to_get_python)"
  fi
fi

echo "== installing requirements.lock into .venv (torch is large: minutes on a slow line)"
if [ "${1:-}" = cpu ]; then
  # the lock names the CUDA packages of the default build; the CPU build needs none of them
  grep -vE '^(nvidia-|cuda-|triton==)' requirements.lock >"$tools/requirements.txt"
  "$uv" pip install -q --compile-bytecode --python .venv/bin/python --torch-backend cpu pip -r "$tools/requirements.txt"
else
  "$uv" pip install -q --compile-bytecode --python .venv/bin/python pip -r requirements.lock
fi
echo "== .venv is ready"
