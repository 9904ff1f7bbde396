#!/usr/bin/env python3
"""test_plan_fit.py - train plans first: a run that does not fit is refused with the smallest change that fits, or made to fit by --fit,
and the bytes it trains stay the same."""
import re
import shlex
import unittest

from cli_helpers import FILES, CliCase

SHAPE = ("--layers", "4", "--dim", "64", "--heads", "2", "--ctx", "16", "--batch", "64", "--threads", "1", "--steps", "8")


class Fit(CliCase):
    def arguments(self, name, *more):
        return ("train", "--data", self.text, "--out", self.folder / name, *SHAPE, *more)

    def memory(self, *more):
        return self.json("train", "--data", self.text, *SHAPE, *more, "--dry-run")["memory"]

    def limit(self, *more):
        """A budget of the device that a run of these options just fits."""
        return str(int(self.memory(*more)["device"] / 0.95) + 2)

    def suggestion(self, message):
        return shlex.split(re.search(r"it fits with((?: --[a-z-]+(?: [0-9.A-Za-z]+)?)+)", message)[1])

    def test_refused_before_anything(self):
        budget = self.limit("--recompute")
        message = self.refused(71, ("device memory", "--device-budget", "5%", "--fit"), *self.arguments("run", "--device-budget", budget))
        self.assertFalse((self.folder / "run").exists())
        self.assertEqual(self.suggestion(message), ["--recompute"])
        self.ok(*self.arguments("run", "--device-budget", budget, "--recompute"))

    def test_smallest_change_first(self):
        """Recomputing before smaller micro-batches, those before a smaller batch, that before fewer active weights."""
        for number, (given, options) in enumerate(((("--recompute", "--micro-batch", "32"), ["--micro-batch", "32", "--recompute"]),
                               (("--recompute", "--micro-batch", "16"), ["--micro-batch", "16", "--recompute"]),
                               (("--recompute", "--micro-batch", "16", "--batch", "32"),
                                ["--batch", "32", "--micro-batch", "16", "--recompute"]))):
            budget = self.limit(*given)
            message = self.refused(71, "it fits with", *self.arguments("run", "--device-budget", budget))
            words = self.suggestion(message)
            self.assertEqual(sorted(words), sorted(options), message)
            self.assertEqual("--fit" in message, "--batch" not in options)
            self.ok(*self.arguments(f"run{number}", "--device-budget", budget, *words))

    def test_fit_changes_no_result(self):
        self.ok(*self.arguments("free"))
        budget = self.limit("--recompute", "--micro-batch", "16")
        result = self.ok(*self.arguments("fit", "--device-budget", budget, "--fit"))
        self.assertRegex(result.stderr.decode(), r"to fit into memory: --recompute --micro-batch 16\n")
        free, fit = (sorted((self.folder / name).glob("step-*"))[-1] for name in ("free", "fit"))
        self.assertEqual(free.name, fit.name)
        for name in FILES[:2]:
            self.assertEqual((free / name).read_bytes(), (fit / name).read_bytes(), name)

    def test_fit_leaves_alone_what_fits(self):
        self.assertNotIn("to fit", self.ok(*self.arguments("run", "--fit")).stderr.decode())

    def test_nothing_fits(self):
        self.refused(71, ("smaller model", "qsbits plan"), *self.arguments("run", "--device-budget", "2MB", "--fit"))
        self.refused(71, ("RAM", "--ram-budget"), *self.arguments("run", "--ram-budget", "4MB", "--batch", "65536"))
        self.assertFalse((self.folder / "run").exists())

    def test_machine(self):
        """Without a budget the machine is the limit."""
        self.refused(71, ("this machine", "can be used"), "train", "--data", self.text, "--out", self.folder / "run", "--preset", "90b",
                     "--ctx", "64", "--optimizer", "adamw")

    def test_in_place(self):
        model = self.folder / "model"
        self.ok("init", *SHAPE[:SHAPE.index("--batch")], "--out", model)
        before = (model / FILES[0]).read_bytes()
        more = ("--from", model, "--in-place", "--active-parts", "2", "--sweeps", "1", "--slots", "4")
        budget = self.limit(*more, "--slots", "2", "--recompute")
        message = self.refused(71, ("device memory", "--slots 2"), *self.arguments("run", *more, "--device-budget", budget))
        self.assertEqual(self.suggestion(message), ["--slots", "2", "--recompute"])
        self.assertEqual((model / FILES[0]).read_bytes(), before)
        self.ok(*self.arguments("run", *more, "--device-budget", budget, "--fit"))
        self.assertNotEqual((model / FILES[0]).read_bytes(), before)


if __name__ == "__main__":
    unittest.main()
