"""--test-fraction and --also: the figures of a run that nothing may be chosen by, in train, eval and compare; once, at the end, also behind
a stop; what is refused."""
import json
import math
import re
import statistics
import subprocess
import unittest

from cli_helpers import QSBITS, TINY, CliCase, make_text

SPLIT = ("--test-fraction", "0.2")


class SplitCase(CliCase):
    def setUp(self):
        super().setUp()
        self.other = self.folder / "other.txt"
        self.other.write_bytes(make_text(9000, seed=9))

    def lines(self, run, key):
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [line for line in found if key in line]

    def stored(self, run, name="result.json"):
        return json.loads((run / name).read_text())

    def eval(self, run, *more, data=None):
        return self.json("eval", "--model", run, "--data", data or self.text, *more)

    def other_end(self):
        """The text with another test part."""
        whole = self.text.read_bytes()
        path = self.folder / "other-end.txt"
        path.write_bytes(whole[:16000] + bytes(reversed(whole[16000:])))
        return path


class Testing(SplitCase):
    def test_figures(self):
        """The loss of the last fifth, with validation before it; what eval says of both."""
        run = self.folder / "run"
        result = self.train(run, *SPLIT)
        text = self.stored(run, "config.json")["text"]
        self.assertEqual([text[key] for key in ("train_tokens", "val_tokens", "test_tokens")], [14000, 2000, 4000])
        self.assertEqual((result["val_tokens"], result["test_tokens"]), (1984, 3984))
        self.assertEqual([(line["step"], line["test_loss"], line["test_tokens"]) for line in self.lines(run, "test_loss")],
                         [(12, result["test_loss"], 3984)])
        test = self.eval(run, *SPLIT, "--split", "test")
        self.assertEqual((test["test_loss"], test["tokens"]), (result["test_loss"], 3984))
        self.assertNotIn("val_loss", test)
        self.assertEqual(self.eval(run, *SPLIT)["val_loss"], result["val_loss"])
        self.assertEqual(self.eval(run, "--val-fraction", "0.2")["val_loss"], result["test_loss"])
        self.assertNotEqual(self.eval(run)["val_loss"], result["val_loss"])

    def test_default(self):
        """Without the options there is no word of them in a run, and a share of 0 is none."""
        plain, zero = self.folder / "plain", self.folder / "zero"
        for name, result in (("plain", self.train(plain)), ("zero", self.train(zero, "--test-fraction", "0"))):
            self.assertEqual([key for key in result if "test" in key or "also" in key], [], name)
        for name in ("config.json", "metrics.jsonl", "result.json", "step-00000012/manifest.json"):
            self.assertNotRegex((plain / name).read_text(), '"(test|also)', name)
        self.assert_same_checkpoint(plain / "step-00000012", zero / "step-00000012")

    def test_decides_nothing(self):
        """Another test part: the same weights, the same validations, the same best checkpoint, the same end of patience."""
        more = (*SPLIT, "--keep-best", "--patience", "3", "--eval-every", "2", "--eval-windows", "1", "--lr", "0.3")
        one, two = self.folder / "one", self.folder / "two"
        results = [self.json("train", "--data", data, "--out", run, *TINY, "--steps", "500", *more)
                   for data, run in ((self.text, one), (self.other_end(), two))]
        self.assertEqual([result["stopped"] for result in results], ["patience"] * 2)
        for key in ("step", "val_loss", "best_step", "best_loss", "train_loss"):
            self.assertEqual(results[0][key], results[1][key])
        self.assertNotEqual(results[0]["test_loss"], results[1]["test_loss"])
        self.assertEqual(self.checkpoints(one), self.checkpoints(two))
        for name in self.checkpoints(one):
            self.assertEqual((one / name / "model.safetensors").read_bytes(), (two / name / "model.safetensors").read_bytes())
        told = self.json("train", "--resume", "--out", one)  # patience stays at its end: nothing is tested again
        self.assertEqual((told["test_loss"], told["stopped"]), (results[0]["test_loss"], "patience"))
        self.assertEqual(len(self.lines(one, "test_loss")), 1)

    def test_once(self):
        """A run that was stopped has no figure, at its end it has one, and a lost result does not test again."""
        run, whole = self.folder / "run", self.folder / "whole"
        stopped = self.train(run, *SPLIT, "--time-limit", "0.000001")
        self.assertEqual((stopped["stopped"], stopped["test_loss"]), ("time", None))
        self.assertEqual(self.lines(run, "test_loss"), [])
        told = self.ok("train", "--resume", "--out", run, "--time-limit", "0.000001").stderr.decode()
        self.assertIn("test    kept for the end of the run", told)
        result = self.json("train", "--resume", "--out", run)
        self.assertEqual(result["test_loss"], self.train(whole, *SPLIT)["test_loss"])
        for _ in range(2):
            (run / "result.json").unlink()
            again = self.json("train", "--resume", "--out", run)
            self.assertEqual((again["test_loss"], again["test_tokens"]), (result["test_loss"], result["test_tokens"]))
            self.assertEqual(len(self.lines(run, "test_loss")), 1)
        told = self.ok("train", "--resume", "--out", run).stderr.decode()
        self.assertRegex(told, rf"test    {result['test_loss']:.4f} over 3984 tokens")

    def test_other_split(self):
        run = self.folder / "run"
        self.train(run, "--val-fraction", "0.2", "--test-fraction", "0.1", "--save-every", "6")
        again = ("train", "--resume", "--out", run)
        self.refused(64, ("test_tokens = 2000", "asks for 0"), *again, "--val-fraction", "0.3", "--test-fraction", "0")
        self.refused(64, ("test_tokens = 2000", "asks for 4000"), *again, "--val-fraction", "0.1", "--test-fraction", "0.2")
        self.refused(64, "test_tokens", *again, "--test-fraction", "0.2")
        self.ok(*again)

    def test_broken_run(self):
        run = self.folder / "run"
        self.run_qsbits(*self.train_arguments(run, *SPLIT, "--also", self.other, "--lr", "1e30", steps=50))
        result = self.stored(run)
        self.assertEqual([result[key] for key in ("stopped", "val_loss", "test_loss", "also_loss")], ["nonfinite", None, None, None])
        self.assertIsNotNone(result["also_loss_start"])

    def test_refused(self):
        new = self.folder / "new"
        for value, code, words in (("1.5", 64, "0 to 1"), ("-0.1", 64, "0 to 1"), ("x", 64, "not a number"), ("nan", 64, "not a number"),
                                   ("0.45", 64, ("--val-fraction 0.1 and --test-fraction 0.45", "no more than 0.5")),
                                   ("1", 64, "leave too little"), ("0.0008", 65, ("keeps 16 tokens", "needs 17")),
                                   ("1e-9", 65, "keeps 0 tokens")):
            with self.subTest(value=value):
                self.refused(code, words, *self.train_arguments(new, "--test-fraction", value))
        self.refused(65, "keeps 16 tokens", *self.train_arguments(new, "--test-fraction", "0.0008", "--dry-run"))
        self.assertFalse(new.exists())
        run = self.folder / "run"
        self.train(run)
        evaluate = ("eval", "--model", run, "--data", self.text)
        self.refused(64, ("--split test", "add the --test-fraction"), *evaluate, "--split", "test")
        self.refused(64, "val|test", *evaluate, "--split", "best")
        self.refused(64, ("4000 of 20000 tokens", "18000"), *evaluate, "--val-fraction", "0.9", "--test-fraction", "0.2")
        self.refused(65, "the test part holds 16 tokens", *evaluate, "--test-fraction", "0.0008", "--split", "test")

    def test_standard_input(self):
        run = self.folder / "run"
        result = self.train(run, *SPLIT)
        for split, key in (("test", "test_loss"), ("val", "val_loss")):
            with open(self.text, "rb") as file:
                done = subprocess.run([QSBITS, "eval", "--model", run, "--data", "-", *SPLIT, "--split", split, "--json"], stdin=file,
                                      capture_output=True, timeout=120, env=self.environment())
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)[key], result[key])


class Also(SplitCase):
    def test_figures(self):
        """The end of the other text, before the first step and at the end; it decides no byte of the training."""
        run, plain, foreign = (self.folder / name for name in ("run", "plain", "foreign"))
        result = self.train(run, "--also", self.other)
        self.train(plain)
        self.assert_same_checkpoint(run / "step-00000012", plain / "step-00000012")
        self.assertEqual(result["also_loss"], self.eval(run, data=self.other)["val_loss"])
        start = self.json("train", "--data", self.other, "--out", foreign, *TINY, "--steps", "1")["val_loss_start"]
        self.assertEqual(result["also_loss_start"], start)
        self.assertEqual(result["also_tokens"], 896)
        self.assertEqual([(line["step"], line["also_loss"], line["also_tokens"]) for line in self.lines(run, "also_loss")],
                         [(0, start, 896), (12, result["also_loss"], 896)])
        config = self.stored(run, "config.json")
        self.assertEqual((config["options"]["also"], config["also"]["tokens"]), (str(self.other), 9000))
        windows = self.train(self.folder / "windows", "--also", self.other, "--final-windows", "3", "--val-fraction", "0.2")
        self.assertEqual(windows["also_tokens"], 48)
        self.assertEqual(windows["also_loss"], self.eval(self.folder / "windows", "--windows", "3", "--val-fraction", "0.2",
                                                         data=self.other)["val_loss"])

    def test_goes_on(self):
        """The figure of the start is that of the run's record, whatever the weights have become since."""
        want = self.train(self.folder / "whole", "--also", self.other)
        run = self.stopped_run("--also", self.other)
        result = self.json("train", "--resume", "--out", run, cwd="/")
        self.assertEqual(result["resumed_from"], 6)
        for key in ("also_loss_start", "also_loss", "also_tokens", "val_loss_start"):
            self.assertEqual(result[key], want[key])
        self.assertEqual([line["step"] for line in self.lines(run, "also_loss")], [0, 12])
        metrics = run / "metrics.jsonl"
        metrics.write_text(re.sub('("step":0,"also_loss":)[0-9.]+', r"\g<1>7.5", metrics.read_text()))
        (run / "result.json").unlink()
        self.assertEqual(self.json("train", "--resume", "--out", run)["also_loss_start"], 7.5)

    def test_forgotten(self):
        """What a model that is continued on another text loses on its own: it begins with the loss it ended with."""
        first, second = self.folder / "first", self.folder / "second"
        learnt = self.train(first, steps=100)["val_loss"]
        result = self.json("train", "--from", first, "--data", self.other, "--also", self.text, "--out", second, "--steps", "60",
                           "--batch", "32", "--threads", "1")
        self.assertEqual(result["also_loss_start"], learnt)
        self.assertGreater(result["also_loss"], learnt + 0.1)
        self.assertLess(result["val_loss"], result["val_loss_start"] - 0.1)

    def stopped_run(self, *more):
        """A run that has gone half of its way."""
        run = self.folder / "run"
        self.train(run, *more, "--save-every", "6", "--keep", "9")
        for path in (run / "step-00000012").iterdir():
            path.unlink()
        (run / "step-00000012").rmdir()
        return run

    def test_begun_without(self):
        run = self.stopped_run()
        told = self.ok("train", "--resume", "--out", run, "--also", self.other).stderr.decode()
        result = self.stored(run)
        self.assertEqual((result["resumed_from"], result["also_loss_start"]), (6, None))
        self.assertEqual(result["also_loss"], self.eval(run, data=self.other)["val_loss"])
        self.assertRegex(told, rf"also    unknown at the start, {result['also_loss']:.4f} now")

    def test_other_windows(self):
        """Losses over other windows are not compared."""
        run = self.stopped_run("--also", self.other)
        result = self.json("train", "--resume", "--out", run, "--final-windows", "4")
        self.assertEqual((result["also_tokens"], result["also_loss_start"]), (64, None))

    def test_other_text(self):
        run = self.stopped_run("--also", self.other)
        before = (run / "config.json").read_bytes()
        self.refused(64, ("text.txt", "begun with"), "train", "--resume", "--out", run, "--also", self.text)
        self.other.write_bytes(make_text(9000, seed=10))
        self.refused(64, ("other.txt", "begun with"), "train", "--resume", "--out", run)
        self.assertEqual((run / "config.json").read_bytes(), before)

    def test_names(self):
        """A pattern and a folder, named from the root on."""
        parts = self.folder / "parts"
        parts.mkdir()
        whole = self.other.read_bytes()
        (parts / "a.txt").write_bytes(whole[:5000])
        (parts / "b.txt").write_bytes(whole[5000:])
        want = self.train(self.folder / "one", "--also", self.other)["also_loss"]
        for i, name in enumerate(("parts/*.txt", "parts")):
            run = self.folder / f"run{i}"
            found = self.json("train", "--data", self.text, "--also", name, "--out", run, *TINY, "--steps", "12", cwd=self.folder)
            self.assertEqual(found["also_loss"], want)
            self.assertEqual(self.stored(run, "config.json")["options"]["also"], f"{self.folder}/{name}")

    def test_refused(self):
        new, short = self.folder / "new", self.folder / "short.txt"
        short.write_bytes(b"x" * 160)
        for value, code, words in (("", 64, "--also is empty"), ("-", 64, ("--also -", "only eval reads")),
                                   (self.folder / "nosuch", 66, "nosuch"), (self.folder / "no*", 66, ("--also", "matches no file")),
                                   (short, 65, ("--also", "short.txt holds 16 tokens", "needs 17"))):
            with self.subTest(value=value):
                self.refused(code, words, *self.train_arguments(new, "--also", value))
        self.refused(64, "unknown option --also", "eval", "--model", new, "--data", self.text, "--also", self.other)
        self.assertFalse(new.exists())


class Compare(SplitCase):
    def arguments(self, out, *more, data=None):
        return ("compare", "--data", data or self.text, "--out", self.folder / out, *TINY, "--steps", "12", "--eval-windows", "2", *more)

    def estimate(self, found, values):
        self.assertAlmostEqual(found["mean"], statistics.mean(values), 12)
        self.assertAlmostEqual(found["stderr"], statistics.stdev(values) / math.sqrt(len(values)), 12)

    def test_table(self):
        """Losses, differences and closure of the test part; validation and what the second text lost beside them."""
        arms = "fsm:c4,ste,frozen@1e-12"
        found = self.json(*self.arguments("arms", "--arms", arms, "--seeds", "2", *SPLIT, "--also", self.other))
        out = self.folder / "arms"
        self.assertEqual((found["split"], found["also"]), ("test", True))
        results = [[self.stored(out / run["folder"]) for run in arm["runs"]] for arm in found["arms"]]
        losses = [[result["test_loss"] for result in arm] for arm in results]
        for arm, own, loss in zip(found["arms"], results, losses):
            self.estimate(arm["loss"], loss)
            self.estimate(arm["validation"], [result["val_loss"] for result in own])
            self.estimate(arm["also"], [result["also_loss"] - result["also_loss_start"] for result in own])
            self.assertEqual([run["test_loss"] for run in arm["runs"]], loss)
        self.estimate(found["arms"][0]["difference"], [a - b for a, b in zip(losses[0], losses[1])])
        self.assertAlmostEqual(found["arms"][0]["closure"]["mean"],
                               statistics.mean((f - a) / (f - b) for a, b, f in zip(*losses)), 9)
        table = (out / "compare.md").read_text()
        head = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
        self.assertEqual(head, ["arm", "lr", "test loss", "to ste", "closure", "validation", "also change", "bits/weight", "tokens/s",
                                "flips/weight"])
        for line in table.splitlines()[:5]:
            self.assertEqual(line.count("|"), len(head) + 1)
        row = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
        self.assertEqual(row[2].split(" ")[0], f"{statistics.mean(losses[0]):.4f}")
        self.assertRegex(table, "loss: test part.*\n.*rates are searched on validation only.\nalso change: ")
        told = self.ok(*self.arguments("arms", "--arms", arms, "--seeds", "2", *SPLIT, "--also", self.other))
        self.assertIn("rates are searched on validation only", told.stderr.decode())
        self.refused(73, "test-fraction", *self.arguments("arms", "--arms", arms, "--seeds", "2", "--also", self.other))
        self.refused(73, "also", *self.arguments("arms", "--arms", arms, "--seeds", "2", *SPLIT))
        self.check_report(out, found, losses)

    def check_report(self, out, found, losses):
        page = (out / "report.html").read_text()
        data = json.loads(page[page.index('id="data">') + len('id="data">'):].split("</script>")[0])
        comparison = data["comparisons"][0]
        self.assertEqual((comparison["tested"], comparison["also"]), (True, True))
        for arm, told, want in zip(comparison["arms"], found["arms"], losses):
            for run, loss in zip(arm["runs"], want):
                self.assertAlmostEqual(run["test_loss"], loss, 12)
            for key in ("loss", "validation", "also"):
                self.assertAlmostEqual(arm[key]["mean"], told[key]["mean"], 12)
        self.assertAlmostEqual(data["runs"][0]["result"]["test_loss"], losses[0][0], 12)

    def test_plain(self):
        """Without the options there is no word of them."""
        found = self.json(*self.arguments("arms", "--arms", "frozen", "--seeds", "1"))
        self.assertNotRegex(json.dumps(found), '"(split|also|validation|test_loss)"')
        table = (self.folder / "arms" / "compare.md").read_text().splitlines()
        self.assertEqual((len(table), table[0].count("|")), (3, 9))

    def test_search(self):
        """Another test part does not change which rate is best."""
        found = [self.json(*self.arguments(out, "--arms", "frozen", "--seeds", "1", "--search-lr", *SPLIT, data=data))
                 for out, data in (("one", self.text), ("two", self.other_end()))]
        self.assertEqual(found[0]["search"], found[1]["search"])
        arms = [one["arms"][0] for one in found]
        self.assertEqual((arms[0]["lr"], arms[0]["validation"]), (arms[1]["lr"], arms[1]["validation"]))
        self.assertNotEqual(arms[0]["loss"], arms[1]["loss"])
        tried = found[0]["search"]["frozen"]
        self.assertEqual(arms[0]["lr"], min(tried, key=lambda row: row["val_loss"] or math.inf)["lr"])
        self.assertEqual(arms[0]["validation"]["mean"], min(row["val_loss"] for row in tried))

    def test_broken_arm(self):
        found = self.json(*self.arguments("arms", "--arms", "frozen@1e30,ste", "--seeds", "1", *SPLIT, "--also", self.other))
        self.assertEqual([found["arms"][0][key] for key in ("loss", "validation", "also")], [None] * 3)
        self.assertIsNotNone(found["arms"][1]["also"]["mean"])

    def test_refused(self):
        self.refused(64, "add up", *self.arguments("arms", "--test-fraction", "0.45"))
        self.refused(66, "nosuch", *self.arguments("arms", "--also", self.folder / "nosuch"))
        self.assertFalse((self.folder / "arms").exists())


if __name__ == "__main__":
    unittest.main()
