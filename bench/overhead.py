#!/usr/bin/env python3
"""What it costs to be told: metrics and events at their defaults and health every 100 steps, against a run without them; a Markdown table.

    python3 bench/overhead.py --qsbits build/qsbits --data TEXT [--pairs 7] [--steps 200] [--models tiny,4x256]

Pairs of runs of the same steps, in changing order, one thread. Every figure is the median over the pairs of
(with / without) - 1, and the least and greatest of them: of the time in steps (which holds the measuring of health), of the
time of the whole run (which holds the writing as well) and of its processor time, which other work disturbs least.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

MODELS = {
    "tiny": "--preset tiny".split(),
    "4x256": "--layers 4 --dim 256 --heads 8 --ffn 768 --ctx 64".split(),
}
TOLD = "--health 100".split()
SILENT = "--log-every 0 --health 0 --no-events".split()
FIGURES = ("step_seconds", "seconds", "cpu_seconds")


def run(a, model, more):
    """The result of one run with the processor time of its process."""
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+b") as log:
        command = [a.qsbits, "train", "--data", a.data, "--out", os.path.join(folder, "run"), "--steps", str(a.steps),
                   "--threads", "1", "--eval-every", "0", "--save-every", "0", "--final-windows", "1", "--json",
                   *MODELS[model], *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        out = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit("overhead: %s\n%s" % (" ".join(command), log.read().decode(errors="replace")))
        return dict(json.loads(out), cpu_seconds=usage.ru_utime + usage.ru_stime)


def pairs(a, model):
    """(told, silent) for every pair."""
    found = []
    for i in range(a.pairs):
        order = (TOLD, SILENT) if i % 2 == 0 else (SILENT, TOLD)
        results = [run(a, model, more) for more in order]
        found.append(tuple(results if i % 2 == 0 else results[::-1]))
        told = ", ".join("%s %+.2f%%" % (f, excess(found[-1], f)) for f in FIGURES)
        print("%s pair %d: %s" % (model, i + 1, told), file=sys.stderr)
    return found


def excess(pair, figure):
    return 100 * (pair[0][figure] / pair[1][figure] - 1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qsbits", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--pairs", type=int, default=7)
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--models", default=",".join(MODELS))
    a = p.parse_args()
    print("| model | ms per step without | in steps | whole run | processor time |\n|---|---|---|---|---|")
    for model in a.models.split(","):
        found = pairs(a, model)
        step = statistics.median(silent["step_seconds"] for _, silent in found) / a.steps
        cells = []
        for figure in FIGURES:
            values = [excess(pair, figure) for pair in found]
            cells.append("%+.2f%% (%+.2f … %+.2f)" % (statistics.median(values), min(values), max(values)))
        print("| %s | %.1f | %s |" % (model, 1000 * step, " | ".join(cells)), flush=True)


if __name__ == "__main__":
    main()
