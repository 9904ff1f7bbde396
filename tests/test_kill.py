"""Killed with SIGKILL at random moments and resumed until it is done: the same files as a run that was never stopped.

Moments are drawn from a fixed seed and lie in the whole life of the process: its start, its steps, its saves (some kills
wait for a half-written checkpoint). After every kill the newest checkpoint is whole and no older than before. Standard
library only."""
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import time
import unittest

from cli_helpers import FILES, QSBITS, CliCase

SANITIZED = os.environ.get("QSBITS_SANITIZE") == "1"
KILLS = 12 if SANITIZED else 50
STEPS = 120
SETTINGS = ("--layers", 1, "--dim", 32, "--heads", 2, "--ctx", 16, "--batch", 2, "--threads", 1, "--steps", STEPS,
            "--save-every", 3, "--eval-every", 50)
ARMS = {"c4": ("--fsm-state", "c4"), "ste": ("--optimizer", "ste")}
STE_SHARE = 0.2
TOLD = ("step", "tokens", "loss", "lr", "density", "pulses", "flips")   # of a step; the rest depends on the clock
WHERE = ("before the first save of a process", "between saves", "during a save")


def steps_saved(run):
    """Steps of the checkpoints that have their name, whole or not."""
    names = os.listdir(run) if run.is_dir() else []
    return [int(n[5:]) for n in names if n.startswith("step-") and n[5:].isdigit()]


def half_saved(run):
    return run.is_dir() and any(n.startswith("step-") and n.endswith(".tmp") for n in os.listdir(run))


class Kill(CliCase):
    def start(self, arm, run):
        """A new run, or the rest of one: --resume --out RUN is enough from the moment on that config.json is there."""
        told = ("--resume",) if (run / "config.json").exists() else ("--resume", "--data", self.text, *SETTINGS, *ARMS[arm])
        return subprocess.Popen([QSBITS, "train", "--out", str(run), *map(str, told)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.environment())

    def finish(self, process):
        error = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, error.decode(errors="replace"))

    def whole_run(self, arm):
        """(folder, seconds) of a run that nothing stops."""
        run, began = self.folder / f"whole-{arm}", time.monotonic()
        self.finish(self.start(arm, run))
        return run, time.monotonic() - began

    def moment(self, draw, seconds):
        """Seconds to live: some die while they start, most on their way through a share of the run."""
        return draw.uniform(0, 0.015 * seconds) if draw.random() < 0.25 else draw.uniform(0, 0.3 * seconds)

    def kill(self, process, run, seconds, in_save):
        """Kills at the moment, or at the first half-written checkpoint after it. False if the run was done before."""
        end = time.monotonic() + seconds
        while process.poll() is None and (time.monotonic() < end or in_save and not half_saved(run)):
            time.sleep(0 if in_save else 0.0005)
        process.send_signal(signal.SIGKILL)
        error = process.communicate(timeout=120)[1]
        self.assertIn(process.returncode, (0, -signal.SIGKILL), error.decode(errors="replace"))
        return process.returncode != 0

    def check_newest(self, run, before):
        """What inspect calls the newest checkpoint is whole and not older than the one before; its step, -1 if none is."""
        if not steps_saved(run):
            return before
        shown = self.run_qsbits("inspect", run, "--verify", "--json")
        self.assertEqual(shown.returncode, 0, shown.stderr.decode(errors="replace"))
        step = int(pathlib.Path(json.loads(shown.stdout)["path"]).name[5:].split(".")[0])
        self.assertGreaterEqual(step, before)
        return step

    def check_metrics(self, run, whole):
        """Every step is told once, with the numbers of the run that was never stopped."""
        def told(folder):
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            return [{key: line[key] for key in TOLD} for line in lines if "loss" in line]
        self.assertEqual(told(run), told(whole))

    def torment(self, arm, run, whole, seconds, draw, most, found):
        """Kills and resumes until the run is done or `most` kills hit, then lets it finish. Returns the kills."""
        kills, newest, done = 0, -1, False
        while kills < most and not done:
            process = self.start(arm, run)
            done = not self.kill(process, run, self.moment(draw, seconds), draw.random() < 0.3)
            before, newest = newest, self.check_newest(run, newest)
            if not done:
                kills += 1
                found[WHERE[2] if half_saved(run) else WHERE[newest > before]] += 1
        self.finish(self.start(arm, run))
        for name in FILES:
            ours, theirs = ((folder / f"step-{STEPS:08d}" / name).read_bytes() for folder in (run, whole))
            self.assertTrue(ours == theirs, f"{arm}: {name} after {kills} kills")
        self.assertEqual(self.checkpoints(run), self.checkpoints(whole))
        self.check_metrics(run, whole)
        return kills

    def test_kills(self):
        draw, found = random.Random(20), collections.Counter()
        for arm, share in (("ste", STE_SHARE), ("c4", 1.0)):
            whole, seconds = self.whole_run(arm)
            runs = 0
            while sum(found.values()) < share * KILLS:
                runs += 1
                self.torment(arm, self.folder / f"{arm}-{runs}", whole, seconds, draw,
                             int(share * KILLS + 0.999) - sum(found.values()), found)
            print(f"{arm}: {runs} runs, up to kill {sum(found.values())}; {seconds:.2f} s without", flush=True)
        print(f"{sum(found.values())} kills: " + ", ".join(f"{found[where]} {where}" for where in WHERE), flush=True)
        self.assertGreaterEqual(sum(found.values()), KILLS)
        for where in WHERE[2:] if SANITIZED else WHERE:
            self.assertGreater(found[where], 0, where)


if __name__ == "__main__":
    unittest.main()
