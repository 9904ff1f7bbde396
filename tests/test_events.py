"""The event file: TensorBoard reads it back, and it says what metrics.jsonl says, also after a kill and a resume.

QSBITS names the command, QSBITS_PYTHON an interpreter with the package tensorboard (scripts/install-python.sh); without it
the test is skipped (exit code 77)."""
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import unittest

from cli_helpers import QSBITS, CliCase

PYTHON = os.environ.get("QSBITS_PYTHON", "")
# Prints {tag: [[step, value, wall time], ...]} of a folder as TensorBoard shows it.
READER = """
import json, logging, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
logging.disable(logging.CRITICAL)
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value, e.wall_time] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""
OF_STEPS = {"loss/train": "loss", "rate/lr": "lr", "speed/tokens_per_second": "tokens_per_second", "flips/step": "flips",
            "pulses/measured": "pulses", "pulses/wanted": "density"}
FIGURES = ("density", "pulses", "flips", "dead", "oscillating", "deepest", "scale_drift", "gradient_rms")
LAYERS = 2


def why_not():
    """Why the test cannot run, or None."""
    if not PYTHON:
        return "QSBITS_PYTHON is not set"
    try:
        result = subprocess.run([PYTHON, "-c", "import tensorboard"], capture_output=True, timeout=120)
    except OSError as error:
        return f"{PYTHON}: {error.strerror}; run scripts/install-python.sh"
    return None if result.returncode == 0 else f"{PYTHON} has no package tensorboard; run scripts/install-python.sh"


def as_float(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def expected(lines):
    """{tag: {step: value}} that follows from the lines of metrics.jsonl."""
    tags = {}

    def add(tag, step, value):
        if value is not None:
            tags.setdefault(tag, {}).setdefault(step, as_float(value))

    for line in lines:
        step = line["step"]
        if "loss" in line:
            for tag, key in OF_STEPS.items():
                add(tag, step, line[key])
        elif "val_loss" in line:
            add("loss/validation", step, line["val_loss"])
        elif "also_loss" in line:
            add("loss/also", step, line["also_loss"])
        elif "test_loss" in line:
            add("loss/test", step, line["test_loss"])
        elif "health" in line:
            for figure in FIGURES:
                add(f"health/{figure}", step, line["health"]["all"][figure])
                for layer, health in enumerate(line["health"]["layers"]):
                    add(f"health_layers/{figure}/{layer:02d}", step, health[figure])
            for tag, size in line["memory"].items():
                add(f"memory/{tag}", step, size)
    return tags


class Events(CliCase):
    def shown(self, run):
        result = subprocess.run([PYTHON, "-c", READER, str(run)], capture_output=True, timeout=120, check=False)
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace"))
        return json.loads(result.stdout)

    def lines(self, run):
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def assert_shows(self, run):
        """TensorBoard shows exactly what metrics.jsonl holds, each step once and in order."""
        shown, wanted = self.shown(run), expected(self.lines(run))
        self.assertEqual(sorted(shown), sorted(wanted))
        for tag, points in shown.items():
            self.assertEqual([p[0] for p in points], sorted(wanted[tag]), tag)
            self.assertEqual({p[0]: p[1] for p in points}, wanted[tag], tag)
        return shown

    def test_all_tags(self):
        run, before = self.folder / "run", time.time()
        self.train(run, "--health", "4", "--eval-every", "5", steps=20)
        shown = self.assert_shows(run)
        self.assertEqual(len(shown["loss/train"]), 20)
        self.assertEqual([p[0] for p in shown["loss/validation"]], [0, 5, 10, 15, 20])
        self.assertEqual([p[0] for p in shown["health_layers/dead/01"]], [4, 8, 12, 16, 20])
        self.assertTrue({f"health/{f}" for f in FIGURES} <= shown.keys())
        self.assertTrue({f"health_layers/{f}/{n:02d}" for f in FIGURES for n in range(LAYERS)} <= shown.keys())
        self.assertTrue({"memory/rss", "memory/weights", "memory/state"} <= shown.keys())
        self.assertGreater(shown["speed/tokens_per_second"][-1][1], 0)
        for points in shown.values():
            self.assertTrue(all(before - 60 <= p[2] <= time.time() + 60 for p in points))

    def test_final_figures(self):
        """The test part and the text of --also: also where a run that was over is looked at again."""
        run = self.folder / "run"
        self.train(run, "--test-fraction", "0.2", "--also", self.text, "--eval-every", "2", "--patience", "2", "--eval-windows", "1",
                   "--lr", "0.3", steps=500)
        for _ in range(2):
            shown = self.assert_shows(run)
            self.assertEqual([len(shown[tag]) for tag in ("loss/also", "loss/test")], [2, 1])
            self.ok("train", "--resume", "--out", run)

    def test_means(self):
        """Lines every few steps hold means whose sums are those of all steps, also behind a resume at another step."""
        every, seven, again = (self.folder / name for name in ("every", "seven", "again"))
        whole = self.train(every, "--save-every", "10", steps=24)
        means = self.train(seven, "--log-every", "7", "--save-every", "10", steps=24)
        self.assert_shows(seven)
        self.assertEqual([line["step"] for line in self.lines(seven) if "loss" in line], [7, 10, 14, 20, 21, 24])
        self.assertEqual(means["flips_per_weight"], whole["flips_per_weight"])
        shown = self.shown(every)["loss/train"]
        self.assertAlmostEqual(self.shown(seven)["loss/train"][0][1], sum(p[1] for p in shown[:7]) / 7, places=5)
        self.train(again, "--log-every", "7", "--save-every", "5", "--keep", "10", steps=24)
        for name in self.checkpoints(again):
            if name > "step-00000015":
                shutil.rmtree(again / name)
        resumed = self.train(again, "--resume", steps=24)
        self.assertEqual(resumed["resumed_from"], 15)
        self.assertAlmostEqual(resumed["flips_per_weight"], whole["flips_per_weight"], places=9)
        self.train(self.folder / "none", "--log-every", "0", steps=4)
        self.assertEqual([line["step"] for line in self.lines(self.folder / "none") if "loss" in line], [4])

    def test_baselines(self):
        for optimizer in ("ste", "adamw"):
            run = self.folder / optimizer
            self.train(run, "--optimizer", optimizer, "--health", "4", steps=8)
            shown = self.shown(run)
            wanted = {tag: points for tag, points in expected(self.lines(run)).items() if not tag.startswith("pulses/")}
            self.assertEqual(sorted(shown), sorted(wanted))

    def test_kill_and_resume(self):
        run = self.folder / "run"
        arguments = self.train_arguments(run, "--health", "4", "--save-every", "8", "--eval-every", "6", steps=400)
        process = subprocess.Popen([QSBITS, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=self.environment())
        end = time.monotonic() + 60
        while time.monotonic() < end and not (run.exists() and max(self.checkpoints(run), default="") > "step-00000030"):
            time.sleep(0.005)
        process.kill()
        process.wait()
        killed = max(line["step"] for line in map(json.loads, (run / "metrics.jsonl").read_bytes().splitlines()[:-1]))
        self.assertLess(killed, 400)
        resumed = self.train(run, "--resume", "--time-limit", "0.000001", steps=400)
        self.assertEqual(resumed["resumed_from"] % 8, 0)
        self.assert_shows(run)
        self.train(run, "--resume", "--time-limit", "0.2", steps=400)
        self.assert_shows(run)
        self.assertEqual(len([p for p in run.iterdir() if "tfevents" in p.name]), 3)

    def test_restart(self):
        """Killed before the first checkpoint, started again in the same folder: the first start is forgotten."""
        run = self.folder / "run"
        process = subprocess.Popen([QSBITS, *map(str, self.train_arguments(run, "--save-every", "0", steps=100000))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=self.environment())
        end = time.monotonic() + 60
        metrics = run / "metrics.jsonl"
        while time.monotonic() < end and not (metrics.exists() and metrics.stat().st_size > 9000):
            time.sleep(0.005)
        process.kill()
        process.wait()
        self.assertEqual(self.checkpoints(run), [])
        self.train(run, steps=6)
        self.assertEqual([p[0] for p in self.assert_shows(run)["loss/train"]], [1, 2, 3, 4, 5, 6])

    def test_off(self):
        run = self.folder / "run"
        self.train(run, "--no-events", "--health", "0", steps=3)
        self.assertEqual([p.name for p in run.iterdir() if "tfevents" in p.name], [])
        self.assertEqual([line for line in self.lines(run) if "health" in line], [])


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
