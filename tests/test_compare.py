"""qsbits compare: statistics, pairing, going on after a stop, search of rates, refusals."""
import json
import math
import os
import signal
import statistics
import subprocess
import time
import unittest

from cli_helpers import QSBITS, TINY, CliCase

SHAPE = TINY[:-2] + ("--steps", "12", "--eval-windows", "2")


class Compare(CliCase):
    def arguments(self, *more):
        return ("compare", "--data", self.text, "--out", self.folder / "arms", "--threads", "1", *SHAPE, *more)

    def test_table(self):
        """Means, errors, paired differences and closure follow from the runs' own results; single runs have the same bytes."""
        arms = "fsm:c4,ste,frozen@1e-12,bop"  # frozen at its start: there is a way to close
        found = self.json(*self.arguments("--arms", arms, "--seeds", "2"))
        out = self.folder / "arms"
        self.assertEqual(json.loads((out / "compare.json").read_text()), found)
        self.assertEqual([arm["arm"] for arm in found["arms"]], arms.split(","))
        loss = {}
        for arm in found["arms"]:
            runs = [json.loads((out / run["folder"] / "result.json").read_text()) for run in arm["runs"]]
            loss[arm["arm"]] = [run["val_loss"] for run in runs]
            self.assertEqual([run["seed"] for run in arm["runs"]], [1, 2])
            self.assertEqual([run["val_loss"] for run in arm["runs"]], loss[arm["arm"]])
            self.assertAlmostEqual(arm["loss"]["mean"], statistics.mean(loss[arm["arm"]]), 12)
            self.assertAlmostEqual(arm["loss"]["stderr"], statistics.stdev(loss[arm["arm"]]) / math.sqrt(2), 12)
            self.assertAlmostEqual(arm["bits_per_weight"], runs[0]["training_bits_per_weight"])
        differences = [a - b for a, b in zip(loss["fsm:c4"], loss["ste"])]
        closures = [(f - a) / (f - b) for a, b, f in zip(loss["fsm:c4"], loss["ste"], loss["frozen@1e-12"])]
        c4 = found["arms"][0]
        self.assertEqual(c4["difference"]["to"], "ste")
        self.assertAlmostEqual(c4["difference"]["mean"], statistics.mean(differences), 12)
        self.assertAlmostEqual(c4["difference"]["stderr"], statistics.stdev(differences) / math.sqrt(2), 12)
        self.assertAlmostEqual(c4["closure"]["mean"], statistics.mean(closures), 9)
        self.assertIsNone(found["arms"][1]["difference"])
        table = (out / "compare.md").read_text()
        for arm in arms.split(","):
            self.assertIn(f"| {arm} ", table)
        self.assertIn("<html", (out / "report.html").read_text())
        alone = self.folder / "alone"
        self.train(alone, "--optimizer", "ste", "--seed", "2", "--eval-windows", "2")
        self.assert_same_checkpoint(alone / "step-00000012", out / "ste-2" / "step-00000012")

    def test_goes_on(self):
        """Killed again and again, it ends with the same losses; what is done is not done again; more arms and seeds may be added."""
        whole = self.json(*self.arguments("--arms", "fsm:c2,frozen", "--seeds", "2"))
        out = self.folder / "killed"
        command = [QSBITS, *map(str, self.arguments("--arms", "fsm:c2,frozen", "--seeds", "2", "--json"))]
        command[command.index("--out") + 1] = str(out)
        for pause in (0.05, 0.1, 0.15, 0.2, 0.3):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment())
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run(command, capture_output=True, env=self.environment(), timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        losses = lambda found: [[run["val_loss"] for run in arm["runs"]] for arm in found["arms"]]
        self.assertEqual(losses(json.loads(done.stdout)), losses(whole))
        stamp = os.stat(out / "fsm-c2-1" / "result.json").st_mtime_ns
        command[command.index("fsm:c2,frozen")] = "fsm:c2,frozen,ste"
        more = subprocess.run(command, capture_output=True, env=self.environment(), timeout=120)
        self.assertEqual(more.returncode, 0, more.stderr)
        self.assertEqual(len(json.loads(more.stdout)["arms"]), 3)
        self.assertEqual(os.stat(out / "fsm-c2-1" / "result.json").st_mtime_ns, stamp)

    def test_time_limit(self):
        done = self.ok(*self.arguments("--arms", "frozen,ste", "--seeds", "1", "--time-limit", "0.0001"))
        self.assertIn("go on with the same command", done.stderr.decode())
        self.assertIn(b"frozen", done.stdout, "a table of what there is")
        self.assertEqual(len(self.json(*self.arguments("--arms", "frozen,ste", "--seeds", "1"))["arms"]), 2)

    def test_search(self):
        """The best rate has tried neighbours on both sides, and its run is that of seed 1."""
        found = self.json(*self.arguments("--arms", "frozen", "--seeds", "1", "--search-lr"))
        tried = found["search"]["frozen"]
        rates = [row["lr"] for row in tried]
        best = min(tried, key=lambda row: row["val_loss"] if row["val_loss"] is not None else math.inf)
        self.assertTrue(0 < tried.index(best) < len(tried) - 1, tried)
        self.assertEqual([rates[i + 1] / rates[i] for i in range(len(rates) - 1)], [2.0] * (len(rates) - 1))
        self.assertEqual(found["arms"][0]["lr"], best["lr"])
        self.assertEqual(found["arms"][0]["runs"][0]["val_loss"], best["val_loss"])

    def test_search_edge(self):
        """With gradients clipped to nothing more is always better: a best rate at the edge of the rates tried is refused."""
        message = self.refused(65, ("frozen", "at the edge", "--arms frozen@RATE"),
                               *self.arguments("--arms", "frozen", "--seeds", "1", "--search-lr", "--clip", "1e-12"), lines=None)
        self.assertNotIn("lr0.", message)

    def test_killed_at_the_end(self):
        """A run that was killed between its last step and its result has the speed of its steps, not none."""
        first = self.json(*self.arguments("--arms", "frozen", "--seeds", "1"))
        (self.folder / "arms" / "frozen-1" / "result.json").unlink()
        again = self.json(*self.arguments("--arms", "frozen", "--seeds", "1"))
        self.assertAlmostEqual(again["arms"][0]["tokens_per_second"] / first["arms"][0]["tokens_per_second"], 1.0, 6)

    def test_no_way_to_close(self):
        """Where ste is not better than frozen there is no closure to tell."""
        found = self.json(*self.arguments("--arms", "frozen,ste@1e-12,fsm:c4", "--seeds", "1"))
        self.assertEqual([arm["closure"] for arm in found["arms"]], [None] * 3)

    def test_nonfinite(self):
        """A rate that breaks an arm is reported as such and does not end the comparison."""
        found = self.json(*self.arguments("--arms", "frozen@1e30,ste", "--seeds", "1"))
        self.assertIsNone(found["arms"][0]["loss"])
        self.assertEqual(found["arms"][0]["runs"][0]["stopped"], "nonfinite")
        self.assertIsNotNone(found["arms"][1]["loss"]["mean"])

    def test_refusals(self):
        for arms, word in (("fsm:c5", "c5"), ("sgd", "sgd"), ("ste:c4", "ste:c4"), ("ste,ste", "twice"), ("", "optimizer"),
                           ("adamw/int8", "f32"), ("ste/int4", "int4"), ("ste@x", "x"), ("ste@", "rate"),
                           ("fsm:t2:fast", "fast"), ("ste,,frozen", "optimizer"),
                           (",".join(f"ste@{i + 1}" for i in range(40)), "32")):
            with self.subTest(arms=arms):
                self.refused(64, word, *self.arguments("--arms", arms))
        self.refused(64, "--search-lr", *self.arguments("--arms", "ste@0.1", "--search-lr"))
        self.refused(64, "--out", "compare", "--data", self.text)
        self.refused(66, "nosuch", "compare", "--data", self.folder / "nosuch", "--out", self.folder / "arms")
        self.assertFalse((self.folder / "arms").exists())

    def test_other_settings(self):
        self.ok(*self.arguments("--arms", "frozen", "--seeds", "1"))
        self.refused(73, ("batch", "32", "16"), *self.arguments("--arms", "frozen", "--seeds", "1", "--batch", "16"))
        self.refused(73, "tied", *self.arguments("--arms", "frozen", "--seeds", "1", "--tied"))
        self.train(self.folder / "run")
        self.refused(73, "folder of a training", "compare", "--data", self.text, "--out", self.folder / "run")


if __name__ == "__main__":
    unittest.main()
