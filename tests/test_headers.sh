#!/usr/bin/env bash
# Every public header compiles alone, as C11 and as C++17, with the project's warnings as errors.
set -euo pipefail
root=${QSBITS_SOURCE:-$(cd "$(dirname "$0")/.." && pwd)}
cc=${CC:-cc}
cxx=${CXX:-c++}
common=(-fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wundef -Wcast-qual -Wpointer-arith -Werror -I "$root/include")
failed=0
checked=0

check() {   # what, header, command...
    local what=$1 header=$2
    shift 2
    checked=$((checked + 1))
    if ! printf '#include "qsbits/%s"\n' "$header" | "$@" "${common[@]}" -; then
        echo "qsbits/$header does not compile alone as $what" >&2
        failed=1
    fi
}

for path in "$root"/include/qsbits/*.h; do
    header=${path##*/}
    check C11 "$header" "$cc" -x c -std=c11 -Wstrict-prototypes
    if command -v "$cxx" >/dev/null; then
        check C++17 "$header" "$cxx" -x c++ -std=c++17
    fi
done
[ "$checked" -gt 0 ] || { echo "no headers under $root/include/qsbits" >&2; exit 1; }
echo "$checked compilations"
exit "$failed"
