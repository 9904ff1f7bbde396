#!/usr/bin/env bash
# install-packages.sh build|test - installs what building (or building and testing) needs, on Debian 12 and Ubuntu.
# Does nothing, fast and offline, when everything is there. Without root or a sudo that needs no typing it prints the
# one command to type and exits 1.
set -euo pipefail

usage() { echo "usage: ${0##*/} build|test" >&2; exit 64; }

packages_of() {
    local build="gcc libc6-dev make cmake pkg-config libjansson-dev libxxhash-dev librandom123-dev"
    case "${1:-}" in
    build) echo "$build" ;;
    test) echo "$build g++ libcmocka-dev python3" ;;
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
    libcmocka-dev) pkg-config --exists cmocka ;;
    *) return 1 ;;
    esac >/dev/null 2>&1
}

[ $# -eq 1 ] || usage
wanted=$(packages_of "$1")
missing=()
for package in $wanted; do
    have "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Missing: ${missing[*]} (Debian names). Install them with this system's package manager and try again." >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    ask=(-n)   # without a terminal nobody can type a password
    [ -t 0 ] && ask=()
    if ! sudo "${ask[@]}" true 2>/dev/null; then
        echo "Missing packages. Type:" >&2
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo "${ask[@]}")
fi

install_missing() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
}

# Package lists are fetched only where they are absent or too old to serve.
echo "Installing: ${missing[*]}" >&2
if ! install_missing >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -qq </dev/null
    install_missing
fi
