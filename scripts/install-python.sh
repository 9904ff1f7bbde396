#!/usr/bin/env bash
# install-python.sh [VENV] - makes a virtual environment (default build/venv) with the Python packages that tests use beside the
# standard library: tensorboard reads the event files back. Does nothing, fast and offline, when they are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -le 1 ] || { echo "usage: ${0##*/} [VENV]" >&2; exit 64; }
venv=${1:-build/venv}
packages=(tensorboard==2.20.0 protobuf==6.33.5 setuptools==80.9.0)  # the last has pkg_resources, which tensorboard imports

fail() { echo "${0##*/}: $*" >&2; exit 1; }

# Everything that was pinned here is what the last run installed.
[ "$(cat "$venv/qsbits-packages" 2> /dev/null)" != "${packages[*]}" ] || exit 0

python=${PYTHON:-python3}
command -v "$python" > /dev/null || fail "python3 is missing; install the Debian package python3"
"$python" -c 'import ensurepip, venv' 2> /dev/null ||
    fail "this python3 has no venv and pip; install the Debian package python3-venv"
echo "Installing into $venv: ${packages[*]}" >&2
"$python" -m venv --clear "$venv" || fail "cannot make the virtual environment $venv; choose another folder"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${packages[@]}" >&2 ||
    fail "pip cannot install ${packages[*]}; check the network, or install them into $venv by hand"
printf '%s\n' "${packages[*]}" > "$venv/qsbits-packages"
