#!/usr/bin/env bash
# The kernels cross-built for aarch64 and checked under qemu, on a processor with every extension and on one with NEON alone.
set -euo pipefail
root=${QSBITS_SOURCE:-$(cd "$(dirname "$0")/.." && pwd)}
build=${QSBITS_BUILD:-$root/build}/aarch64
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || { echo "skipped: no qemu-aarch64" >&2; exit 77; }
[ "${QSBITS_SANITIZE:-0}" = 0 ] || { echo "skipped: the cross build is the same without sanitizers" >&2; exit 77; }
command -v aarch64-linux-gnu-gcc >/dev/null || { echo "skipped: no aarch64-linux-gnu-gcc" >&2; exit 77; }

unset CC CFLAGS LDFLAGS
cmake -S "$root/tests/aarch64" -B "$build" -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64.cmake" -DCMAKE_BUILD_TYPE=Release \
    -Wno-dev --log-level=WARNING
cmake --build "$build" --parallel 2 >"$build/log" 2>&1 || { cat "$build/log" >&2; exit 1; }

# A level that the processor lacks is an error of check_kernels, so nothing passes unchecked.
check() {   # processor, level
    echo "$1: $2"
    "$qemu" -cpu "$1" "$build/check_kernels" --level "$2"
}
check max i8mm
check cortex-a72 neon
if "$qemu" -cpu cortex-a72 "$build/check_kernels" --level i8mm --slot none 2>/dev/null; then
    echo "cortex-a72 has no I8MM, but the level is available there" >&2
    exit 1
fi
