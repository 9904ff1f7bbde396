#!/usr/bin/env bash
# install-packages.sh build|test - installs what building (or building and testing) needs, on Debian 12 and Ubuntu.
# Does nothing, fast and offline, when everything is there. Without root or a sudo that needs no typing it prints the
# one command to type and exits 1.
set -euo pipefail

# Tests skip themselves without these; not every system has the packages. The second line checks the kernels of aarch64.
optional="chromium"
[ "$(uname -m)" = aarch64 ] || optional+=" gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"

usage() { echo "usage: ${0##*/} build|test" >&2; exit 64; }

packages_of() {
    local build="gcc libc6-dev make cmake pkg-config libjansson-dev libxxhash-dev librandom123-dev"
    case "${1:-}" in
    build) echo "$build" ;;
    test) echo "$build g++ libcmocka-dev python3 python3-venv $optional" ;;
    *) usage ;;
    esac
}

# Present, whoever installed it: a program on PATH, a pkg-config module or a header counts.
have() {
    case "$1" in
    gcc) command -v "${CC:-cc}" ;;
    g++) command -v "${CXX:-c++}" ;;
    make | cmake | pkg-config | python3) command -v "$1" ;;
    libc6-dev) [ -e /usr/include/stdlib.h ] ;;
    libjansson-dev) pkg-config --exists jansson ;;
    libxxhash-dev) pkg-config --exists libxxhash ;;
    librandom123-dev) [ -e /usr/include/Random123/philox.h ] || [ -e /usr/local/include/Random123/philox.h ] ;;
    chromium) command -v chromium || command -v chromium-browser || command -v google-chrome ;;
    gcc-aarch64-linux-gnu) command -v aarch64-linux-gnu-gcc ;;
    libc6-dev-arm64-cross) [ -e /usr/aarch64-linux-gnu/include/stdlib.h ] ;;
    qemu-user-static) command -v qemu-aarch64-static || command -v qemu-aarch64 ;;
    libcmocka-dev) pkg-config --exists cmocka ;;
    python3-venv) python3 -c "import ensurepip, venv" ;;
    *) return 1 ;;
    esac >/dev/null 2>&1
}

[ $# -eq 1 ] || usage
wanted=$(packages_of "$1")
missing=()
wished=()
for package in $wanted; do
    if ! have "$package"; then
        case " $optional " in
        *" $package "*) wished+=("$package") ;;
        *) missing+=("$package") ;;
        esac
    fi
done
[ $((${#missing[@]} + ${#wished[@]})) -gt 0 ] || exit 0

do_without() {
    echo "Not installed: ${wished[*]}; the tests that need it are skipped." >&2
    exit 0
}

give_up() {
    [ ${#missing[@]} -gt 0 ] || do_without
    printf '%s\n' "$@" >&2
    exit 1
}

command -v apt-get >/dev/null ||
    give_up "Missing: ${missing[*]} (Debian names). Install them with this system's package manager and try again."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    ask=(-n)   # without a terminal nobody can type a password
    [ -t 0 ] && ask=()
    sudo "${ask[@]}" true 2>/dev/null || give_up "Missing packages. Type:" \
        "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo "${ask[@]}")
fi

install_these() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
}

# Package lists are fetched only where they are absent or too old to serve.
install_with_lists() {
    echo "Installing: $*" >&2
    install_these "$@" >/dev/null 2>&1 || { "${as_root[@]}" apt-get update -qq </dev/null && install_these "$@"; }
}

# One package that this system does not have must not keep the others away.
install_one_by_one() {
    local all=("${wished[@]}")
    wished=()
    for package in "${all[@]}"; do
        install_these "$package" >/dev/null 2>&1 || wished+=("$package")
    done
    [ ${#wished[@]} -eq 0 ] || do_without
}

[ ${#missing[@]} -eq 0 ] || install_with_lists "${missing[@]}"
[ ${#wished[@]} -eq 0 ] || install_with_lists "${wished[@]}" || install_one_by_one
