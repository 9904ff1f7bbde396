#!/usr/bin/env bash
# demo.sh - about two minutes that show what qsbits does: trains a model with 1-bit weights on a text of this machine,
# tells the loss beside the text's entropy and the memory beside 16-bit AdamW, and lets the model write. No network.
# QSBITS names the command (default build/qsbits), DEMO_SECONDS the time to train.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

qsbits=${QSBITS:-build/qsbits}
run=demo-run
seconds=${DEMO_SECONDS:-105}
mark=.qsbits-demo      # in a folder that this script may remove
most_bytes=4000000     # of text: more than the model reads in this time
least_bytes=300000

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

[ -x "$qsbits" ] || fail "$qsbits is missing; run make first"
if [ -e "$run" ]; then
    [ -e "$run/$mark" ] || fail "$run exists and is not from this demo; move it away"
    rm -rf -- "$run"
fi
mkdir -p "$run/text"
: > "$run/$mark"

# Copies text files given on standard input, one path per line, until there is enough.
total=0
take() {
    local file size
    while IFS= read -r file; do
        [ "$total" -lt "$most_bytes" ] || break
        size=$(wc -c < "$file" 2> /dev/null) || continue
        cp -- "$file" "$run/text/$(printf '%04d' "$(find "$run/text" -type f | wc -l)")-${file##*/}"
        total=$((total + size))
    done
}

library=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])' 2> /dev/null || true)
if [ -n "$library" ] && [ -d "$library" ]; then
    source="the sources of Python's standard library ($library)"
    prompt=$'    def __init__(self'
    take < <(find -L "$library" -maxdepth 1 -type f -name '*.py' | LC_ALL=C sort)
fi
if [ "$total" -lt "$least_bytes" ]; then
    source="the C headers (/usr/include)"
    prompt=$'#include <'
    rm -rf -- "$run/text"; mkdir "$run/text"; total=0
    take < <(find -L /usr/include -maxdepth 2 -type f -name '*.h' | LC_ALL=C sort)
fi
[ "$total" -ge "$least_bytes" ] || fail "found neither Python's standard library nor C headers to learn from"

# The rates and the density of pulses fall to their end values over --steps, so the number of steps should fit the time:
# a few seconds tell the speed of this machine. The time limit is there in case it becomes slower.
batch=16
ctx=128
train=("$qsbits" train --data "$run/text" --val-fraction 0.01 --layers 3 --dim 192 --heads 6 --ctx "$ctx" --batch "$batch")
say "Measuring the speed of this machine"
rate=$("${train[@]}" --out "$run/trial" --steps 100000 --eval-every 0 --final-windows 1 --time-limit 5 --json 2> "$run/trial.log" |
    sed -n 's/.*"tokens_per_second":\([0-9]*\).*/\1/p') || { code=$?; tail -n 1 "$run/trial.log" >&2; exit "$code"; }
rm -rf -- "$run/trial" "$run/trial.log"
steps=$((rate * seconds * 9 / 10 / (batch * ctx)))
[ "$steps" -ge 50 ] || steps=50
[ "$steps" -le 3000 ] || steps=3000

say "Training $steps steps on $source. Ctrl-C saves and stops."
"${train[@]}" --out "$run" --steps "$steps" --time-limit "$seconds" --final-windows 128 --eval-windows 32

say "What it writes after \"$prompt\""
printf '%s' "$prompt"
"$qsbits" generate --model "$run" --prompt "$prompt" -n 500 --temp 0.7
printf '\n'

say "Pictures of the run"
"$qsbits" report "$run" --out "$run/report.html"   # loss, health of the weights, bits before and after, memory

say "Look further"
cat >&2 << END
  $qsbits inspect $run                                the tensors: 1 bit a weight, 4 bits of state
  $qsbits generate --model $run --prompt "class "     more text
  $qsbits train --help                                train on your own text
END
