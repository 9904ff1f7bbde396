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
        self.refused(65, "text", "train", "--from", model, "--data", model / "manifest.json", "--out", self.folder / "c", *SETTINGS,
                     "--keep-base", "--ctx", "4096", lines=None)
        self.assertFalse((self.folder / "c" / "model").exists())
        self.refused(64, "--in-place", "train", "--data", self.text, "--out", self.folder / "b", "--keep-base")

    def test_last_merge(self):
        """Killed between the last checkpoint and the last merge: resuming merges."""
        model, run = self.model(), self.folder / "run"
        self.ok(*self.arguments(model, run))
        done, before = self.bytes_of(model), None
        while before is None:   # the model as it was before its last merge, of a run that is killed there
            other = self.model(f"other{time.monotonic()}")
            process = subprocess.Popen([QSBITS, *map(str, self.arguments(other, self.folder / f"{other.name}-run"))],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=self.environment())
            while process.poll() is None and json.loads((other / "manifest.json").read_text()).get("merged", {}).get("step", 0) < 40:
                time.sleep(0.0005)
            process.kill()
            process.wait()
            self.ok("inspect", other, "--verify")   # finishes a merge that was cut off
            if json.loads((other / "manifest.json").read_text())["merged"]["step"] == 40:
                before = other
        shutil.rmtree(model)
        shutil.copytree(before, model)
        (run / "result.json").unlink()
        self.ok("train", "--out", run, "--resume")
        self.assertEqual(self.bytes_of(model), done)

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
        """A block, embedding or head that is damaged or cut off is named; nothing is written into such a model."""
        model = self.model()
        path = model / "model.safetensors"
        whole = self.bytes_of(model)
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 4
        path.write_bytes(broken)
        self.refused(65, ("slab", "XXH3"), *self.arguments(model, self.folder / "a"), lines=None)
        for at in (8192, len(whole) - 100):
            broken = bytearray(whole)
            broken[at + (4096 if at == 8192 else 0)] ^= 4
            path.write_bytes(broken)
            self.refused(65, ("slab", "XXH3"), *self.arguments(model, self.folder / f"at-{at}"), lines=None)
        path.write_bytes(whole[:-4096])
        self.refused(65, "model.safetensors", *self.arguments(model, self.folder / "b"), lines=None)
        self.assertEqual(self.bytes_of(model), whole[:-4096])

    def test_usage(self):
        """What cannot be is refused before anything is written."""
        model, out = self.model(), self.folder / "run"
        self.refused(64, "--in-place", "train", "--data", self.text, "--out", out, "--in-place")
        self.refused(64, "--optimizer fsm", *self.arguments(model, out, "--optimizer", "ste"))
        self.refused(64, "--slots", "train", "--data", self.text, "--out", out, "--slots", "4")
        self.refused(64, "--full-backward", "train", "--data", self.text, "--out", out, "--full-backward")
        self.refused(64, "--keep-best", *self.arguments(model, out, "--keep-best", "--eval-every", "4"))
        self.refused(64, "--patience", *self.arguments(model, out, "--patience", "2", "--eval-every", "4"))
        self.refused(64, "--health", *self.arguments(model, out, "--health", "5"))
        self.refused(64, "--active-params", *self.arguments(model, out, "--active-params", "1M"))
        self.refused(64, "12XB", *self.arguments(model, out, "--ram-budget", "12XB"))
        self.refused(71, "budget", *self.arguments(model, out, "--device-budget", "2MB"), lines=None)
        run = self.folder / "full"
        self.ok("train", "--data", self.text, "--out", run, *SHAPE, "--steps", "2", "--batch", "16")
        self.refused(64, "state", *self.arguments(run, out), lines=None)
        self.assertFalse((out / "result.json").exists())

    def test_full_disk(self):
        """A disk that fails: whatever cannot be written, the model is whole, and the run goes on from its last checkpoint."""
        shape = ("--layers", "24", "--dim", "128", "--heads", "4", "--ctx", "16")
        models = []
        for name in ("model", "whole"):
            self.ok("init", "--out", self.folder / name, *shape, "--seed", "3")
            models.append(self.folder / name)
        more = ("--active-parts", "12", "--steps", "48")
        run, size = self.folder / "run", len(self.bytes_of(models[0]))

        def small_files():   # deltas and journals fit, but nothing may be written near the end of the model
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 4096, size - 4096))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        result = self.run_qsbits(*self.arguments(models[0], run, *more), preexec_fn=small_files)
        self.assertEqual(result.returncode, 74, result.stderr.decode(errors="replace"))
        self.assertIn("merge", result.stderr.decode().splitlines()[-1])
        self.assertEqual(self.checkpoints(run)[-1], "step-00000004")
        self.ok("inspect", models[0], "--verify")
        self.ok("train", "--out", run, "--resume")
        self.ok(*self.arguments(models[1], self.folder / "whole-run", *more))
        self.assertEqual(self.bytes_of(models[0]), self.bytes_of(models[1]))


if __name__ == "__main__":
    unittest.main()
