#!/usr/bin/env python3
"""What each optimizer learns: arms x seeds on one text, same network and data order; prints a Markdown table.

    python3 bench/learning.py --qsbits build/qsbits --data TEXT --log learning.jsonl [--search] [--jobs 2]

One run per line of the log (settings and the result of `qsbits train --json`); runs already in the log are not repeated, so the
program may be stopped and started again. --search runs every arm of the list at several learning rates with the first
seed; then the table shows the best rate of each arm, and says so where it lies at the edge of the grid. Without it every
arm runs at its default rate with all seeds.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

FSM = lambda state, *more: ["--optimizer", "fsm", "--fsm-state", state, *more]
ARMS = {
    "adamw": ["--optimizer", "adamw"],
    "ste": ["--optimizer", "ste"],
    "frozen": ["--optimizer", "frozen"],
    "c8": FSM("c8"),
    "c4": FSM("c4"),
    "c2": FSM("c2"),
    "t2": FSM("t2"),
    "literal": FSM("t2", "--fsm-recipe", "literal"),
}
RATES = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2]
SHAPE = "--layers 2 --dim 128 --heads 4 --ffn 384 --ctx 64 --batch 32".split()


def run(a, arm, seed, rate, extra):
    with tempfile.TemporaryDirectory() as folder:
        command = [a.qsbits, "train", "--data", a.data, "--out", os.path.join(folder, "run"), "--steps", str(a.steps),
                   "--seed", str(seed), "--threads", "1", "--json", "--eval-windows", "64", *SHAPE, *ARMS[arm], *extra]
        if rate:
            command += ["--lr", repr(rate)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            return {"error": done.stderr.decode(errors="replace").strip()[-300:]}
        return json.loads(done.stdout)


def key(record):
    return (record["arm"], record["seed"], record["rate"], record["steps"], tuple(record["extra"]))


def table(records):
    mean = lambda name: statistics.mean(r["val_loss"] for r in records if r["arm"] == name)
    arms = [arm for arm in ARMS if any(r["arm"] == arm for r in records)]
    have = {"frozen", "ste"} <= set(arms)
    print("| arm | validation nats per byte, each seed | mean | closure | training bits per weight | flips per weight | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for arm in arms:
        mine = sorted((r for r in records if r["arm"] == arm), key=lambda r: r["seed"])
        closure = (mean("frozen") - mean(arm)) / (mean("frozen") - mean("ste")) if have else float("nan")
        print("| {} | {} | {:.3f} | {:.0%} | {:.2f} | {:.1f} | {:.0f} |".format(
            arm, ", ".join("%.3f" % r["val_loss"] for r in mine), mean(arm), closure, mine[0]["training_bits_per_weight"],
            mine[0]["flips_per_weight"], statistics.median(r["tokens_per_second"] for r in mine)))


def search_table(records):
    print("| arm | " + " | ".join("%g" % r for r in RATES) + " | best |")
    print("|---|" + "---|" * (len(RATES) + 1))
    for arm in ARMS:
        loss = {r["rate"]: r["val_loss"] for r in records if r["arm"] == arm}
        if not loss:
            continue
        best = min(loss, key=loss.get)
        edge = " (edge of the grid)" if best in (min(loss), max(loss)) else ""
        print("| %s | %s | %g%s |" % (arm, " | ".join("%.3f" % loss[r] if r in loss else "" for r in RATES), best, edge))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qsbits", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--log", required=True)
    p.add_argument("--arms", default=",".join(ARMS))
    p.add_argument("--seeds", default="1,2,3")
    p.add_argument("--steps", type=int, default=1200)
    p.add_argument("--search", action="store_true")
    p.add_argument("--rates", default=",".join(map(repr, RATES)))
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("extra", nargs="*", help="further flags of qsbits train, after --")
    a = p.parse_args()
    seeds = [int(s) for s in a.seeds.split(",")]
    rates = [float(r) for r in a.rates.split(",")] if a.search else [None]
    wanted = [dict(arm=arm, seed=seed, rate=rate, steps=a.steps, extra=a.extra)
              for arm in a.arms.split(",") for rate in rates for seed in (seeds[:1] if a.search else seeds)]
    known = {}
    if os.path.exists(a.log):
        known = {key(r): r for r in map(json.loads, open(a.log)) if "error" not in r}
    missing = [w for w in wanted if key(w) not in known]

    def work(w):
        record = dict(w, **run(a, w["arm"], w["seed"], w["rate"], w["extra"]))
        known[key(w)] = record
        with open(a.log, "a") as log:
            log.write(json.dumps(record) + "\n")
        outcome = record.get("val_loss", record.get("error"))
        print("%-8s seed %d lr %s: %s" % (w["arm"], w["seed"], w["rate"], outcome), file=sys.stderr)

    with ThreadPoolExecutor(a.jobs) as pool:
        list(pool.map(work, missing))
    records = [known[key(w)] for w in wanted if "error" not in known[key(w)]]
    (search_table if a.search else table)(records)


if __name__ == "__main__":
    main()
