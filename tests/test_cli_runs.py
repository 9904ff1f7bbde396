"""How a run is set up and ended: --config, --dry-run, --save-every, --keep-best, --patience, result.json."""
import json
import os
import unittest

from cli_helpers import CliCase


class Config(CliCase):
    def write(self, value):
        path = self.folder / "run.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def test_config_is_flags(self):
        """The same settings as flags, as a file, and as the config.json of a run end in the same bytes; flags win over the file."""
        one, two, three = (self.folder / name for name in ("one", "two", "three"))
        self.train(one, "--seed", "3", "--qk-norm")
        settings = {"data": str(self.text), "layers": 2, "dim": "32", "heads": 2, "ctx": 16, "batch": 32, "steps": 500, "seed": 3,
                    "qk-norm": True, "tied": False}
        self.ok("train", "--config", self.write(settings), "--out", two, "--steps", "12")
        self.ok("train", "--config", one / "config.json", "--out", three)
        for run in (two, three):
            self.assert_same_checkpoint(one / "step-00000012", run / "step-00000012")

    def test_bad_config(self):
        out = self.folder / "run"
        for value, code, words in (
                ("{", 65, ("run.json", "line 1")), ("[1]", 65, ("run.json", "object")), ("{} {}", 65, ("run.json",)),
                ({"layer": 2}, 65, ("run.json", "layer")), ({"layers": 0}, 65, ("run.json: layers", "1 to 4096")),
                ({"layers": None}, 65, ("layers", "number")), ({"steps": [1]}, 65, ("steps",)),
                ({"qk-norm": "no"}, 65, ("qk-norm", "neither true nor false")), ({"tied": 1}, 65, ("tied",)),
                ({"optimizer": "sgd"}, 65, ("optimizer", "sgd")), ('{"steps": 1, "steps": 2}', 65, ("run.json",))):
            with self.subTest(value=value):
                self.refused(code, words, "train", "--data", self.text, "--out", out, "--config", self.write(value))
        self.refused(66, "nosuch.json", "train", "--data", self.text, "--out", out, "--config", self.folder / "nosuch.json")
        self.assertFalse(out.exists())


class DryRun(CliCase):
    def test_dry_run(self):
        out = self.folder / "run"
        plan = self.json(*self.train_arguments(out, "--dry-run", steps=200))
        self.assertFalse(out.exists(), "a dry run writes nothing")
        result = self.train(out, steps=200)
        self.assertEqual(plan["training"], json.loads((out / "config.json").read_text())["training"])
        self.assertEqual(plan["schedule"][0]["step"], 1)
        self.assertEqual(plan["schedule"][-1]["step"], 200)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        lr = {line["step"]: (line["lr"], line["density"]) for line in lines if "lr" in line}
        for row in plan["schedule"]:
            self.assertEqual((row["lr"], row["density"]), lr[row["step"]])
        for tag in ("weights", "state", "floats", "optimizer", "gradients"):
            self.assertEqual(plan["memory"][tag], result["memory"][tag], tag)
        self.assertTrue(plan["fits"])
        self.assertGreater(plan["seconds"], 0)
        self.assertAlmostEqual(plan["seconds"], 200 * plan["step_seconds"])

    def test_for_people(self):
        text = self.ok("train", "--data", self.text, "--dry-run", "--preset", "tiny").stdout.decode()
        for part in ("Settings", "Memory", "Schedule", "Time", "together"):
            self.assertIn(part, text)

    def test_too_large(self):
        """The largest preset is planned at once and told not to fit, without taking the memory."""
        plan = self.json("train", "--data", self.text, "--ctx", "64", "--dry-run", "--preset", "90b")
        self.assertFalse(plan["fits"])
        self.assertIsNone(plan["seconds"])
        self.assertGreater(plan["memory"]["weights"], 11e9)


class Saving(CliCase):
    def test_minutes(self):
        """A nanominute has always passed: every step is saved, and nothing but that."""
        run = self.folder / "run"
        self.train(run, "--save-every", "0.000000001m", "--keep", "100", steps=4)
        self.assertEqual(self.checkpoints(run), [f"step-{i:08d}" for i in range(1, 5)])

    def test_bad_intervals(self):
        for value in ("-1", "m", "3s", "1.5", "nan", "0m", ""):
            with self.subTest(value=value):
                self.refused(64, "--save-every", *self.train_arguments(self.folder / "run", "--save-every", value))

    def test_best_stays(self):
        """RUN/best names the checkpoint of the best validation on the way and outlives newer ones; also across a resume."""
        run = self.folder / "run"
        more = ("--eval-every", "5", "--save-every", "5", "--keep", "1", "--keep-best", "--eval-windows", "2", "--lr", "0.05",
                "--final-lr", "1", "--schedule", "constant")
        self.train(run, *more, "--time-limit", "0.001", steps=150)
        result = self.train(run, *more, "--resume", steps=150)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line and not line["final"]}
        best = min(losses, key=lambda step: (losses[step], step))
        self.assertEqual((result["best_step"], result["best_loss"]), (best, losses[best]))
        self.assertEqual(os.readlink(run / "best"), f"step-{best:08d}")
        self.assertEqual(self.checkpoints(run), sorted({f"step-{best:08d}", "step-00000150"}))
        self.ok("generate", "--model", run / "best", "-n", "5")

    def test_left_by_a_kill(self):
        """A kill between the last save and the removal of what it replaces: going on removes it, though no step is left."""
        run = self.folder / "run"
        self.train(run, "--save-every", 3, "--keep", 9)
        config = json.loads((run / "config.json").read_text())
        config["options"]["keep"] = "2"
        (run / "config.json").write_text(json.dumps(config))
        self.assertEqual(len(self.checkpoints(run)), 4)
        self.ok("train", "--resume", "--out", run)
        self.assertEqual(self.checkpoints(run), ["step-00000009", "step-00000012"])

    def test_no_validations(self):
        for more in (("--keep-best",), ("--patience", "2")):
            self.refused(64, (more[0], "--eval-every"), *self.train_arguments(self.folder / "run", "--eval-every", "0", *more))

    def test_patience(self):
        run = self.folder / "run"
        result = self.train(run, "--eval-every", "2", "--patience", "3", "--eval-windows", "1", "--lr", "0.3", steps=2000)
        self.assertEqual(result["stopped"], "patience")
        self.assertLess(result["step"], 2000)
        self.assertEqual(result["step"], result["best_step"] + 6)
        self.assertEqual(json.loads((run / "result.json").read_text())["stopped"], "patience")

    def test_result(self):
        run = self.folder / "run"
        printed = self.train(run)
        self.assertEqual(printed, json.loads((run / "result.json").read_text()) | {"seconds": printed["seconds"],
                                                                                   "peak_rss_bytes": printed["peak_rss_bytes"]})
        before = (run / "metrics.jsonl").read_bytes()
        again = self.train(run, "--resume")  # nothing is left to do: what was measured stays
        self.assertEqual(again, json.loads((run / "result.json").read_text()))
        self.assertEqual(again["tokens_per_second"], printed["tokens_per_second"])
        self.assertEqual((run / "metrics.jsonl").read_bytes(), before)

    def test_damaged(self):
        """Checkpoints of which none is whole are not trained over."""
        run = self.folder / "run"
        self.train(run, "--save-every", "6")
        for name in self.checkpoints(run):
            (run / name / "model.safetensors").write_bytes(b"damage")
        before = (run / "metrics.jsonl").read_bytes()
        self.refused(65, ("2 checkpoints", "--out"), "train", "--resume", "--out", run, lines=None)
        self.assertEqual((run / "metrics.jsonl").read_bytes(), before)


if __name__ == "__main__":
    unittest.main()
