"""Parts of the active set through the command: what an arm of a comparison has of them, options that would decide nothing, what a run
tells, warnings."""
import json
import unittest

from cli_helpers import TINY, CliCase

PARTS = ("--active-parts", "2", "--sweeps", "1", "--active-by", "blocks")


class Active(CliCase):
    def lines(self, run):
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def compare(self, arms, *more):
        return ("compare", "--data", self.text, "--out", self.folder / "arms", *TINY, "--steps", "12", "--eval-windows", "2", "--seeds",
                "1", "--arms", arms, *more)

    def test_arms(self):
        """Options of parts and of adapters go to the arms that have some; an arm's own parts go first."""
        found = self.json(*self.compare("fsm:c8,ste,lora,fsm:c8-1,fsm:c8-3x1", *PARTS, "--rank", "4"))["arms"]
        bits = [arm["bits_per_weight"] for arm in found]
        packed = 1.4    # about: signs and fp16 scales, of all rows always
        self.assertAlmostEqual((bits[0] - packed) / (bits[3] - packed), 1 / 2, delta=0.1)
        self.assertAlmostEqual((bits[4] - packed) / (bits[3] - packed), 1 / 3, delta=0.1)
        options = {path.name: json.loads((path / "config.json").read_text()) for path in (self.folder / "arms").iterdir() if path.is_dir()}
        self.assertEqual({name: config["training"]["active_parts"] for name, config in options.items()},
                         {"fsm-c8-1": 2, "ste-1": 1, "lora-1": 1, "fsm-c8-1-1": 1, "fsm-c8-3x1-1": 3})
        self.assertEqual({name for name, config in options.items() if "rank" in config["options"]}, {"lora-1"})
        alone = self.folder / "alone"
        self.train(alone, "--fsm-state", "c8", *PARTS, "--eval-windows", "2")
        self.assert_same_checkpoint(alone / "step-00000012", self.folder / "arms" / "fsm-c8-1" / "step-00000012")

    def test_refused_arms(self):
        """Before a folder is made or a run begins, also where only the last arm is wrong."""
        for parts in ("", "0", "2x", "2x0", "x4", " 2", "+2", "2x2x2", "1025", "2x99999999999"):
            with self.subTest(parts=parts):
                self.refused(64, ("parts and sweeps",), *self.compare("ste,fsm:c8-" + parts))
        self.refused(64, ("too few for 4 phases",), *self.compare("ste,fsm:c8-4x1"))
        self.refused(64, ("sweeps is 2",), *self.compare("ste,fsm:c8-1x2"))
        self.refused(64, ("--rank", "lora"), *self.compare("ste,fsm:c8", "--rank", "4"))
        self.refused(64, ("--active-parts", "fsm"), *self.compare("ste,frozen", "--active-parts", "2"))
        self.assertFalse((self.folder / "arms").exists())

    def test_refused(self):
        out = self.folder / "no"
        self.refused(64, ("only fsm",), *self.train_arguments(out, "--optimizer", "ste", "--active-parts", "2"))
        self.refused(64, ("--rank", "lora"), *self.train_arguments(out, "--rank", "4"))
        self.refused(64, ("--active-by", "--active-parts"), *self.train_arguments(out, "--active-by", "blocks"))
        self.refused(64, ("--active-order", "--active-parts"), *self.train_arguments(out, "--active-order", "random"))
        self.assertFalse(out.exists())

    def test_told(self):
        """What is chosen is told; a block that rests is not warned of, and a window in which another phase began has no figures."""
        run = self.folder / "run"
        plan = self.ok(*self.train_arguments(run, "--active-parts", "2", "--dry-run", steps=400)).stderr.decode()
        self.assertIn("c4 on 1/2 of the weights at a time, 4 sweeps", plan)
        self.train(run, *PARTS, "--health", "20", steps=90)
        self.assertEqual(json.loads((run / "config.json").read_text())["training"]["active_by"], "blocks")
        health = {line["step"]: line["health"] for line in self.lines(run) if "health" in line}
        self.assertEqual({step: figures["all"]["pulses"] is not None for step, figures in health.items()},
                         {20: True, 40: True, 60: False, 80: True})
        self.assertIsNone(health[40]["layers"][1]["gradient_rms"])
        self.assertIsNone(health[80]["layers"][0]["gradient_rms"])
        warned = [line for line in self.lines(run) if "warning" in line]
        self.assertEqual([line for line in warned if line["warning"]["figure"] in ("gradient_rms", "pulses", "density")], [])

    def test_resume(self):
        """A run that was stopped inside a phase ends with the same bytes."""
        whole, halves = self.folder / "whole", self.folder / "halves"
        for run in (whole, halves):
            self.train(run, *PARTS, "--save-every", "5")
        self.forget_end(halves)
        self.json("train", "--resume", "--out", halves)
        self.assert_same_checkpoint(whole / "step-00000012", halves / "step-00000012")


if __name__ == "__main__":
    unittest.main()
