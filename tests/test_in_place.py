"""Training a model in its file as a user meets it: phases, kills at any moment of a step, a save and a merge, damage, two runs on one
model, a full disk. After every kill the model's checksums hold; at the end it has the bytes of a run that was never stopped. Standard
library only."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import unittest

from cli_helpers import QSBITS, CliCase

SANITIZED = os.environ.get("QSBITS_SANITIZE") == "1"
KILLS = 6 if SANITIZED else 30
SHAPE = ("--layers", "4", "--dim", "64", "--heads", "2", "--ctx", "16")
SETTINGS = ("--in-place", "--steps", "48", "--sweeps", "1", "--active-parts", "6", "--batch", "16", "--recompute", "--eval-every", "0",
            "--final-windows", "2", "--save-every", "3", "--threads", "1", "--no-events")


class InPlace(CliCase):
    def model(self, name="model"):
        self.ok("init", "--out", self.folder / name, *SHAPE, "--seed", "3")
        return self.folder / name

    def arguments(self, model, run, *more):
        return ("train", "--from", model, "--data", self.text, "--out", run, *SETTINGS, *more)

    def bytes_of(self, model):
        return (model / "model.safetensors").read_bytes()

    def test_whole(self):
        """The model learns; the result says what streaming took; budgets and slots change nothing."""
        model, run = self.model(), self.folder / "run"
        told = self.json(*self.arguments(model, run, "--ram-budget", "8MB", "--device-budget", "64MB", "--slots", "2"))
        self.assertLess(told["val_loss"], told["val_loss_start"] - 0.5)
        self.assertEqual(told["streaming"]["blocks"] > 48 * 4, True)
        self.assertLessEqual(told["pools"]["ram"]["all"], 8_000_000)
        self.assertLessEqual(told["pools"]["device"]["all"], 64_000_000)
        self.ok("inspect", model, "--verify")
        other = self.model("other")
        self.ok(*self.arguments(other, self.folder / "again"))
        self.assertEqual(self.bytes_of(model), self.bytes_of(other))
        loss = self.json("eval", "--model", model, "--data", self.text, "--windows", "2")["val_loss"]
        self.assertAlmostEqual(loss, told["val_loss"], places=6)

    def test_kills(self):
        """Killed with SIGKILL at random moments, resumed until done."""
        draw, model, run = random.Random(8), self.model(), self.folder / "run"
        whole = self.model("whole")
        began = time.monotonic()
        self.ok(*self.arguments(whole, self.folder / "whole-run"))
        seconds, kills = time.monotonic() - began, 0
        for _ in range(20 * KILLS):
            told = ("train", "--out", run, "--resume") if (run / "config.json").exists() else self.arguments(model, run, "--resume")
            process = subprocess.Popen([QSBITS, *map(str, told)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, env=self.environment())
            if kills < KILLS:
                end, journal = time.monotonic() + draw.uniform(0, 0.5 * seconds), draw.random() < 0.5
                while process.poll() is None and time.monotonic() < end and not (journal and list(model.glob("merge.journal*"))):
                    time.sleep(0 if journal else 0.0005)
                process.send_signal(signal.SIGKILL)
                kills += 1
            error = process.communicate(timeout=120)[1].decode(errors="replace")
            self.assertIn(process.returncode, (0, -signal.SIGKILL), error)
            self.ok("inspect", model, "--verify")
            if process.returncode == 0:
                break
        self.assertEqual(json.loads((run / "result.json").read_text())["step"], 48)
        self.assertEqual(self.bytes_of(model), self.bytes_of(whole))

    def test_keep_base(self):
        """The model stays, its copy is trained, also after a stop."""
        model, run, other = self.model(), self.folder / "run", self.model("other")
        before = self.bytes_of(model)
        self.ok(*self.arguments(model, run, "--keep-base", "--time-limit", "0"))
        self.ok("train", "--out", run, "--resume")
        self.ok(*self.arguments(other, self.folder / "again"))
        self.assertEqual(self.bytes_of(model), before)
        self.assertEqual(self.bytes_of(run / "model"), self.bytes_of(other))
        self.refused(64, "--in-place", "train", "--data", self.text, "--out", self.folder / "b", "--keep-base")

    def test_two_runs(self):
        """A model has one run at a time."""
        model = self.model()
        first = subprocess.Popen([QSBITS, *map(str, self.arguments(model, self.folder / "a", "--steps", "100000"))],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.environment())
        while not (self.folder / "a" / "metrics.jsonl").exists():
            time.sleep(0.01)
        self.refused(73, ("model", "another process"), *self.arguments(model, self.folder / "b"), lines=None)
        first.send_signal(signal.SIGINT)
        error = first.communicate(timeout=60)[1].decode(errors="replace")
        self.assertEqual(first.returncode, 130, error)
        self.ok("inspect", model, "--verify")

    def test_damage(self):
        """A block that is damaged or cut off is named; nothing is written into such a model."""
        model = self.model()
        path = model / "model.safetensors"
        whole = self.bytes_of(model)
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 4
        path.write_bytes(broken)
        self.refused(65, ("slab", "XXH3"), *self.arguments(model, self.folder / "a"), lines=None)
        path.write_bytes(whole[:-4096])
        self.refused(65, "model.safetensors", *self.arguments(model, self.folder / "b"), lines=None)
        self.assertEqual(self.bytes_of(model), whole[:-4096])

    def test_usage(self):
        """What cannot be is refused before anything is written."""
        model, out = self.model(), self.folder / "run"
        self.refused(64, "--in-place", "train", "--data", self.text, "--out", out, "--in-place")
        self.refused(64, "--optimizer fsm", *self.arguments(model, out, "--optimizer", "ste"))
        self.refused(64, "--health", *self.arguments(model, out, "--health", "5"))
        self.refused(64, "--active-params", *self.arguments(model, out, "--active-params", "1M"))
        self.refused(64, "12XB", *self.arguments(model, out, "--ram-budget", "12XB"))
        self.refused(71, "budget", *self.arguments(model, out, "--device-budget", "2MB"), lines=None)
        run = self.folder / "full"
        self.ok("train", "--data", self.text, "--out", run, *SHAPE, "--steps", "2", "--batch", "16")
        self.refused(64, "state", *self.arguments(run, out), lines=None)
        self.assertFalse((out / "result.json").exists())

    def test_full_disk(self):
        """A merge that finds no room leaves the model as it was, and the run goes on later."""
        model, run = self.model(), self.folder / "run"
        before = self.bytes_of(model)
        limit = len(before) // 2    # enough for deltas, too little for a journal beside them is not needed: any file this large fails

        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        result = self.run_qsbits(*self.arguments(model, run), preexec_fn=small_files)
        self.assertEqual(result.returncode, 74, result.stderr.decode(errors="replace"))
        self.ok("inspect", model, "--verify")
        self.ok("train", "--out", run, "--resume")
        whole = self.model("whole")
        self.ok(*self.arguments(whole, self.folder / "whole-run"))
        self.assertEqual(self.bytes_of(model), self.bytes_of(whole))


if __name__ == "__main__":
    unittest.main()
