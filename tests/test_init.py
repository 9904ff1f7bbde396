#!/usr/bin/env python3
"""test_init.py - qsbits init: a model on disk that is the one training starts from, and nothing at all when it cannot be made."""
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import time
import unittest

from cli_helpers import FILES, QSBITS, TINY, CliCase

SHAPE = TINY[:TINY.index("--batch")]
# Large enough to be stopped on the way: 128 MB.
LARGE = ("--layers", "16", "--dim", "4096", "--ffn", "8192", "--heads", "32", "--threads", "1")


def slabs(folder):
    """Checksums of the slabs of the model file: what its tensors hold, whatever the header says about how they were made."""
    files = json.loads((pathlib.Path(folder) / "manifest.json").read_text())["files"]
    return [slab["xxh3_128"] for slab in files["model.safetensors"]["slabs"]]


class Init(CliCase):
    def init(self, out, *more):
        return self.json("init", *SHAPE, "--out", out, *more)

    def nothing_left(self, *but):
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), sorted(("text.txt", *but)))

    def start_of_training(self, out, *more):
        """The checkpoint of step 0 of a run that has no time for a step."""
        self.ok(*self.train_arguments(out, *more, "--time-limit", "0.000001"))
        return out / "step-00000000"

    # ---- the model -----------------------------------------------------------------------------------------------

    def test_folder(self):
        out = self.folder / "model"
        result = self.init(out, "--seed", "7")
        self.assertEqual(sorted(p.name for p in out.iterdir()), sorted(FILES))
        self.nothing_left("model")
        manifest = json.loads((out / "manifest.json").read_text())
        self.assertEqual((manifest["kind"], manifest["step"], manifest["seed"]), ("full", 0, 7))
        self.assertEqual(sorted(manifest["config"]), ["model"])
        listed = self.json("inspect", out, "--verify")
        self.assertEqual([f["file"] for f in listed["tensors"] if f["file"] != FILES[0]], [])
        self.assertEqual(len(manifest["files"][FILES[1]]["slabs"]), 4)
        self.assertEqual((out / FILES[1]).stat().st_size, 4096)
        self.assertEqual(result["bytes"], sum(t["bytes"] for t in listed["tensors"]))
        self.assertEqual(result["packed_weights"], listed["files"][0]["packed_weights"])
        self.assertEqual(result["model"]["layers"], 2)

    def test_same_for_all_threads(self):
        for threads in "12":
            self.init(self.folder / threads, "--seed", "5", "--threads", threads)
        self.assert_same_checkpoint(self.folder / "1", self.folder / "2")
        self.init(self.folder / "other", "--seed", "6")
        self.assertFalse(set(slabs(self.folder / "1")[1:3]) & set(slabs(self.folder / "other")[1:3]))

    def test_is_the_start_of_training(self):
        for name, more in (("plain", ()), ("parts", ("--qk-norm", "--tied")), ("bare", ("--no-sub-norm", "--ffn", "96"))):
            self.init(self.folder / name, "--seed", "5", *more)
            start = self.start_of_training(self.folder / f"{name}-run", "--seed", "5", *more)
            self.assertEqual(slabs(self.folder / name), slabs(start), name)

    def test_train_from_it(self):
        """A run that goes on from it starts with its weights, and trains."""
        self.init(self.folder / "model", "--seed", "5")
        start = self.start_of_training(self.folder / "start", "--seed", "9", "--from", self.folder / "model")
        self.assertEqual(slabs(start), slabs(self.folder / "model"))
        result = self.train(self.folder / "run", "--from", self.folder / "model")
        self.assertLess(result["val_loss"], result["val_loss_start"])

    def test_readers(self):
        self.init(self.folder / "model")
        self.ok("generate", "--model", self.folder / "model", "-n", "8")
        self.json("eval", "--model", self.folder / "model", "--data", self.text, "--windows", "2")
        self.ok("generate", "--model", self.folder / "model" / "model.safetensors", "-n", "8")
        self.assertIn("model.norm.weight", self.ok("inspect", self.folder / "model").stdout.decode())

    def test_presets(self):
        result = self.json("init", "--preset", "mini", "--ctx", "64", "--out", self.folder / "model")
        self.assertEqual((result["model"]["dim"], result["model"]["layers"], result["model"]["ctx"]), (256, 4, 64))
        self.assertIn("90b", self.ok("init", "--help").stdout.decode())

    def test_memory_is_that_of_a_tensor(self):
        before = 40 << 20
        self.ok("init", *LARGE, "--out", self.folder / "model")
        process = subprocess.Popen([QSBITS, "init", *LARGE, "--out", self.folder / "again"], stderr=subprocess.DEVNULL,
                                   env=self.environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        self.assertEqual(status, 0)
        if os.environ.get("QSBITS_SANITIZE") != "1":
            self.assertLess(usage.ru_maxrss << 10, before)
        self.assert_same_checkpoint(self.folder / "model", self.folder / "again")

    # ---- refusals ------------------------------------------------------------------------------------------------

    def test_usage(self):
        self.refused(64, "--out is missing", "init", *SHAPE)
        self.refused(64, "--out is empty", "init", *SHAPE, "--out", "")
        self.refused(64, ("huge", "tiny"), "init", "--preset", "huge", "--out", self.folder / "model")
        self.refused(64, "multiple of 32", "init", "--dim", "33", "--out", self.folder / "model")
        self.refused(64, "--optimizer", "init", "--optimizer", "ste", "--out", self.folder / "model")
        self.nothing_left()

    def test_place(self):
        model, tmp = self.folder / "model", self.folder / "model.tmp"
        self.init(model)
        before = slabs(model)
        self.refused(73, "not empty", "init", *SHAPE, "--seed", "9", "--out", model)
        self.assertEqual(slabs(model), before)
        shutil.rmtree(model)
        model.mkdir()
        self.init(str(model) + "/")   # an empty folder is as good as none
        self.assertEqual(slabs(model), before)
        shutil.rmtree(model)
        model.write_text("mine")
        self.refused(73, "not a folder", "init", *SHAPE, "--out", model)
        self.assertEqual(model.read_text(), "mine")
        model.unlink()
        model.symlink_to(self.folder / "nowhere")
        self.refused(73, "not a folder", "init", *SHAPE, "--out", model)
        model.unlink()
        tmp.mkdir()
        (tmp / "letters.txt").write_text("mine")
        self.refused(73, ("letters.txt", "in the way"), "init", *SHAPE, "--out", model)
        self.assertEqual((tmp / "letters.txt").read_text(), "mine")
        (tmp / "letters.txt").rename(tmp / "model.safetensors.tmp")   # what a killed init leaves
        self.init(model)
        self.nothing_left("model")
        self.refused(73, "cannot create the folder", "init", *SHAPE, "--out", self.text / "model")

    def test_full_disk(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        out = self.folder / "model"
        self.refused(74, "model.safetensors", "init", *SHAPE, "--out", out, preexec_fn=limit)
        self.nothing_left()

    def test_space_is_told_beforehand(self):
        """More than any disk holds: told at once, and nothing is written."""
        left = shutil.disk_usage(self.folder).free
        shape = ("--layers", "4096", "--dim", "65536", "--ffn", "262144", "--heads", "512")
        if left > 10 ** 13:
            self.skipTest("a very large disk")
        message = self.refused(74, ("GB are missing", "another disk"), "init", *shape, "--out", self.folder / "model")
        self.assertAlmostEqual(float(re.search(r"has ([0-9.]+) GB left", message)[1]) / (left / 1e9), 1, delta=0.2)
        self.nothing_left()

    # ---- stopping ------------------------------------------------------------------------------------------------

    def start_large(self):
        process = subprocess.Popen([QSBITS, "init", *LARGE, "--out", self.folder / "model"], stderr=subprocess.PIPE,
                                   stdout=subprocess.PIPE, env=self.environment())
        limit = time.monotonic() + 30
        while not (self.folder / "model.tmp" / "model.safetensors.tmp").exists() and process.poll() is None:
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.001)
        return process

    def test_stopped(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = self.start_large()
            process.send_signal(number)
            out, error = process.communicate(timeout=60)
            if process.returncode == 0:
                self.skipTest("the disk was faster than the signal")
            self.assertEqual(process.returncode, code, error)
            self.assertEqual(out, b"")
            self.assertIn("nothing was left", error.decode())
            self.nothing_left()

    def test_killed(self):
        process = self.start_large()
        process.kill()
        process.communicate(timeout=60)
        self.ok("init", *LARGE, "--out", self.folder / "model") if not (self.folder / "model").exists() else None
        self.json("inspect", self.folder / "model", "--verify")
        self.nothing_left("model")


    def test_copy(self):
        """--from gives a model of the weights of a checkpoint, without its state and whatever trained it."""
        for name, more in (("c4", ()), ("tied", ("--tied",)), ("dense", ("--optimizer", "adamw")), ("lora", ("--optimizer", "lora"))):
            run, model = self.folder / name, self.folder / f"{name}-model"
            self.train(run, *more, steps=6)
            self.ok("init", "--from", run, "--out", model)
            losses = [self.json("eval", "--model", m, "--data", self.text)["val_loss"] for m in (run, model)]
            self.assertEqual(losses[0], losses[1], name)
            self.ok("inspect", model, "--verify")
            self.assertLess((model / "state.safetensors").stat().st_size, 8193)
        self.refused(64, "--dim", "init", "--from", self.folder / "c4", "--dim", "64", "--out", self.folder / "x")
        self.refused(64, "--ctx", "init", "--from", self.folder / "c4", "--ctx", "64", "--out", self.folder / "x")
        self.refused(66, "nowhere", "init", "--from", self.folder / "nowhere", "--out", self.folder / "x")
        self.refused(73, "not empty", "init", "--from", self.folder / "c4", "--out", self.folder / "c4")


if __name__ == "__main__":
    unittest.main()
