"""--from: runs and comparisons that start from the weights of a checkpoint, and how they go on after a stop."""
import json
import shutil
import unittest

from cli_helpers import TINY, CliCase, make_text

STEPS = ("--batch", "32", "--threads", "1", "--steps", "12")


class From(CliCase):
    def setUp(self):
        super().setUp()
        self.other = self.folder / "other.txt"
        self.other.write_bytes(make_text(seed=6))
        self.source = self.folder / "source"
        self.train(self.source)
        self.checkpoint = self.source / "step-00000012"

    def arguments(self, out, *more, source=None):
        return ("train", "--data", self.other, "--from", source or self.source, "--out", out, *STEPS, *more)

    def go_on(self, out, *more, source=None):
        return self.json(*self.arguments(out, *more, source=source))

    def manifest(self, checkpoint):
        return json.loads((checkpoint / "manifest.json").read_text())


class Starting(From):
    def test_first_validation(self):
        """Whatever trains, it begins where the checkpoint stands."""
        loss = self.json("eval", "--model", self.source, "--data", self.other)["val_loss"]
        origins = set()
        for optimizer in ("fsm", "ste", "frozen", "bop", "lora"):
            run = self.folder / optimizer
            result = self.go_on(run, "--optimizer", optimizer)
            self.assertEqual(result["val_loss_start"], loss)
            self.assertLess(result["val_loss"], loss)
            config, manifest = json.loads((run / "config.json").read_text()), self.manifest(run / "step-00000012")
            self.assertEqual(config["from"], manifest["from"])
            self.assertEqual(config["from"]["xxh3_128"], result["from"])
            self.assertEqual(config["options"]["from"], str(self.checkpoint.resolve()))
            self.assertNotIn(str(self.folder), json.dumps(manifest))
            origins.add(result["from"])
        self.assertEqual(len(origins), 1)
        self.assertNotIn("from", self.manifest(self.checkpoint))
        self.assertNotIn("from", json.loads((self.source / "result.json").read_text()))

    def test_what_it_may_name(self):
        """A run folder is its newest checkpoint; a model file alone is another start, because it has no masters of scales."""
        results = [self.go_on(self.folder / f"run{i}", source=source)
                   for i, source in enumerate((self.source, self.checkpoint, self.checkpoint / "model.safetensors"))]
        self.assert_same_checkpoint(self.folder / "run0" / "step-00000012", self.folder / "run1" / "step-00000012")
        self.assertEqual(results[0]["from"], results[1]["from"])
        self.assertNotEqual(results[0]["from"], results[2]["from"])
        self.assertEqual(results[0]["val_loss_start"], results[2]["val_loss_start"])

    def test_settings(self):
        """The shape comes from the checkpoint, saying the same is no mistake, ctx is the run's own; --config brings it along."""
        same = ("--layers", "2", "--dim", "32", "--heads", "2", "--kv-heads", "0", "--head-dim", "0", "--ffn", "128")
        plan = self.json(*self.arguments(self.folder / "plan", *same, "--ctx", "24", "--dry-run"))
        self.assertEqual((plan["model"]["layers"], plan["model"]["dim"], plan["model"]["ctx"]), (2, 32, 24))
        one, two = self.folder / "one", self.folder / "two"
        first = self.go_on(one, "--ctx", "24")
        self.train(self.source, "--resume", "--log-every", "0")
        second = self.json("train", "--config", one / "config.json", "--out", two, "--threads", "1")
        self.assertEqual(first["from"], second["from"])
        self.assert_same_checkpoint(one / "step-00000012", two / "step-00000012")
        self.assertIn(f"from    {self.checkpoint.resolve()}", self.ok(*self.arguments(self.folder / "told")).stderr.decode())

    def anchor_of(self, name, *more):
        """What a run says its anchor is; its checkpoint has one where that is not 0."""
        run = self.folder / name
        result = self.go_on(run, *more)
        anchor, state = json.loads((run / "config.json").read_text())["training"]["anchor"], run / "step-00000012"
        self.assertEqual(self.manifest(state)["config"]["train"]["anchor"], anchor)
        self.assertEqual(b".self_attn.q_proj.anchor" in (state / "state.safetensors").read_bytes(), anchor > 0)
        return anchor, result["training_bits_per_weight"]

    def test_anchor(self):
        """A chain is pulled back by default, and by what is asked for; nothing else is, nor a run that starts anew."""
        free, bits = self.anchor_of("free", "--anchor", "0")
        self.assertEqual(free, 0)
        for name, more, anchor in (("plain", (), 0.2), ("more", ("--anchor", "0.3"), 0.3)):
            said, pulled = self.anchor_of(name, *more)
            self.assertEqual(said, anchor)
            self.assertAlmostEqual(pulled, bits + 1)
        for name, more, anchor in (("c2", ("--fsm-state", "c2"), 0.2), ("t2", ("--fsm-state", "t2"), 0.2), ("c8", ("--fsm-state", "c8"), 0),
                                   ("literal", ("--fsm-recipe", "literal"), 0), ("exact", ("--fsm-recipe", "exact"), 0),
                                   ("ste", ("--optimizer", "ste"), 0)):
            with self.subTest(name):
                self.assertEqual(self.anchor_of(name, *more)[0], anchor)
        self.assertEqual(json.loads((self.source / "config.json").read_text())["training"]["anchor"], 0)
        self.assertEqual(self.json(*self.arguments(self.folder / "plan", "--dry-run"))["training"]["anchor"], 0.2)

    def test_anchor_refused(self):
        out = self.folder / "no"
        for more in (("--fsm-state", "c8"), ("--fsm-recipe", "literal"), ("--fsm-recipe", "exact"), ("--optimizer", "ste")):
            with self.subTest(more=more):
                self.refused(64, ("anchor is 0.2", "t2, c2 or c4"), *self.arguments(out, "--anchor", "0.2", *more))
        self.refused(64, "--anchor", *self.arguments(out, "--anchor", "1.5"))
        self.refused(64, ("--anchor", "add --from"), "train", "--data", self.text, "--out", out, "--anchor", "0.1")
        self.refused(64, ("--anchor", "add --from"), "compare", "--data", self.text, "--out", out, "--anchor", "0.1")
        self.refused(64, ("--anchor is for fsm", "leave it away"), "compare", "--data", self.text, "--out", out, "--anchor", "0.1",
                     "--from", self.source, "--arms", "ste,frozen")
        self.assertFalse(out.exists())

    def test_adapters(self):
        """A checkpoint with adapters brings their rank, and only lora goes on from it."""
        lora = self.folder / "lora"
        self.go_on(lora, "--optimizer", "lora", "--rank", "4")
        loss = self.json("eval", "--model", lora, "--data", self.text)["val_loss"]
        again = self.json("train", "--data", self.text, "--from", lora, "--out", self.folder / "again", "--optimizer", "lora", *STEPS)
        self.assertEqual(again["val_loss_start"], loss)
        self.refused(64, ("--rank gives lora_rank 8", "has 4"), *self.arguments(self.folder / "no", "--optimizer", "lora", "--rank", "8",
                                                                              source=lora))
        self.refused(64, ("--optimizer fsm", "adapters"), *self.arguments(self.folder / "no", source=lora))

    def test_dense(self):
        dense = self.folder / "dense"
        self.train(dense, "--optimizer", "adamw")
        loss = self.json("eval", "--model", dense, "--data", self.other)["val_loss"]
        self.assertEqual(self.go_on(self.folder / "more", "--optimizer", "adamw", source=dense)["val_loss_start"], loss)
        self.refused(64, ("--optimizer fsm trains 1-bit matrices", "only adamw"), *self.arguments(self.folder / "no", source=dense))
        self.refused(64, ("--optimizer adamw trains fp32 matrices", "holds 1-bit ones"),
                     *self.arguments(self.folder / "no", "--optimizer", "adamw"))

    def test_wrong_flags(self):
        out = self.folder / "no"
        for more, words in ((("--dim", "64"), ("--dim gives dim 64", "has 32")), (("--layers", "3"), ("layers 3", "has 2")),
                            (("--heads", "1"), ("--heads", "has 2")), (("--kv-heads", "1"), ("kv_heads 1", "has 2")),
                            (("--head-dim", "32"), ("head_dim 32", "has 16")), (("--ffn", "64"), ("ffn 64", "has 128")),
                            (("--preset", "mini"), ("--preset mini gives layers 4", "has 2")), (("--tied",), ("--tied",)),
                            (("--qk-norm",), ("--qk-norm",)), (("--no-sub-norm",), ("--no-sub-norm", "has 1"))):
            with self.subTest(more=more):
                self.refused(64, (*words, "leave it away"), *self.arguments(out, *more))
        self.refused(64, "no preset", *self.arguments(out, "--preset", "nosuch"))
        self.refused(64, "--from is empty", *self.arguments(out, "--from", ""))
        self.refused(66, ("nosuch", "--from"), *self.arguments(out, source=self.folder / "nosuch"))
        self.refused(65, "text.txt", *self.arguments(out, source=self.text))
        self.refused(65, "--from", *self.arguments(out, source=self.checkpoint / "state.safetensors"))
        self.refused(66, "holds no checkpoint", *self.arguments(out, source=self.folder))
        self.assertFalse(out.exists())

    def test_damaged(self):
        """A damaged newest checkpoint is passed over; one that is named must be whole."""
        out = self.folder / "run"
        self.train(self.folder / "two", "--save-every", "6")
        damaged = self.folder / "two" / "step-00000012" / "model.safetensors"
        data = bytearray(damaged.read_bytes())
        data[-20] ^= 1
        damaged.write_bytes(data)
        self.refused(65, "step-00000012", *self.arguments(out, source=self.folder / "two" / "step-00000012"))
        self.assertFalse(out.exists())
        result = self.ok(*self.arguments(out, source=self.folder / "two"))
        self.assertIn("skipped", result.stderr.decode())
        self.assertIn("step-00000006", json.loads((out / "config.json").read_text())["options"]["from"])


class Resuming(From):
    def stopped(self, name, *more):
        """A run with a checkpoint at step 6 that is to be taken to 12."""
        run = self.folder / name
        self.go_on(run, "--save-every", "6", *more)
        shutil.rmtree(run / "step-00000012")
        (run / "result.json").unlink()
        return run

    def test_without_the_weights(self):
        """A run that has a checkpoint needs no other: it ends in the same bytes when the source is gone, also with --from."""
        whole, moved = self.folder / "whole", self.folder / "moved"
        self.go_on(whole, "--save-every", "6", "--ctx", "24")
        runs = [self.stopped(name, "--ctx", "24") for name in ("kept", "told", "gone", "again", "relative", "moved-run")]
        self.ok("train", "--resume", "--out", runs[0])
        self.ok("train", "--resume", "--out", runs[1], "--from", self.checkpoint)
        self.source.rename(moved)
        self.assertEqual(self.json("train", "--resume", "--dry-run", "--out", runs[2])["model"]["ctx"], 24)
        self.ok("train", "--resume", "--out", runs[2])
        self.ok(*self.arguments(runs[3], "--resume"))
        self.ok("train", "--resume", "--out", runs[4], "--from", "source/", cwd=self.folder)
        self.ok("train", "--resume", "--out", runs[5], "--from", moved)
        for run in runs:
            self.assert_same_checkpoint(whole / "step-00000012", run / "step-00000012")

    def test_other_weights(self):
        run, other = self.stopped("run"), self.folder / "second"
        ours = self.manifest(run / "step-00000006")["from"]["xxh3_128"]
        self.train(other, "--seed", "2")
        theirs = self.go_on(self.folder / "probe", source=other)["from"]
        self.refused(64, (f"was started from the weights {ours}", f"this run from the weights {theirs}"),
                     "train", "--resume", "--out", run, "--from", other)
        self.refused(66, "nosuch", "train", "--resume", "--out", run, "--from", self.folder / "nosuch")
        (run / "config.json").unlink()
        self.refused(64, (f"was started from the weights {ours}", "this run from random weights"), "train", "--resume", "--data",
                     self.other, "--out", run, *TINY, "--steps", "12", "--save-every", "6")
        self.refused(64, ("was started from random weights", f"this run from the weights {ours}"), "train", "--resume", "--out",
                     self.source, "--from", self.checkpoint)

    def test_before_the_first_checkpoint(self):
        """Then the weights are read again, and must be the same."""
        run = self.stopped("run")
        for name in self.checkpoints(run):
            shutil.rmtree(run / name)
        self.ok("train", "--resume", "--out", run)
        self.go_on(self.folder / "whole")
        self.assert_same_checkpoint(self.folder / "whole" / "step-00000012", run / "step-00000012")
        for name in self.checkpoints(run):
            shutil.rmtree(run / name)
        shutil.rmtree(self.source)
        self.refused(66, str(self.checkpoint.name), "train", "--resume", "--out", run)
        self.train(self.source, "--seed", "2")
        self.refused(64, "but this run was started from", "train", "--resume", "--out", run)
        self.assertEqual(self.checkpoints(run), [])


class Comparing(From):
    def arguments(self, out, *more, source=None):
        return ("compare", "--data", self.other, "--from", source or self.source, "--out", out, *STEPS, "--seeds", "2", *more)

    def test_all_start_alike(self):
        arms = self.folder / "arms"
        loss = self.json("eval", "--model", self.source, "--data", self.other)["val_loss"]
        first = self.json(*self.arguments(arms))
        self.assertEqual([arm["arm"] for arm in first["arms"]], ["fsm:c4", "ste", "frozen"])
        for run in sorted(p for p in arms.iterdir() if p.is_dir()):
            result = json.loads((run / "result.json").read_text())
            self.assertEqual((run.name, result["val_loss_start"]), (run.name, loss))
        again = self.json(*self.arguments(arms, "--arms", "fsm:c4,ste,frozen,bop"))
        self.assertEqual(again["runs_done"], 8)
        self.assertEqual(again["arms"][0]["loss"], first["arms"][0]["loss"])
        second = self.folder / "second"
        self.train(second, "--seed", "2")
        self.refused(73, ("was made with from", "second"), *self.arguments(arms, source=second))
        self.refused(73, "was made with --from", "compare", "--data", self.other, "--out", arms, *STEPS, "--arms", "fsm:c4,ste,frozen")

    def test_anchor(self):
        """It is for the arms that have one, by default as well."""
        for name, more, anchor in (("default", (), 0.2), ("asked", ("--anchor", "0.3"), 0.3)):
            arms = self.folder / name
            self.json(*self.arguments(arms, "--arms", "fsm:c2,fsm:c8,fsm:t2:literal,ste", "--seeds", "1", *more))
            said = [json.loads((run / "config.json").read_text())["training"]["anchor"] for run in sorted(arms.glob("*-1"))]
            self.assertEqual(said, [anchor, 0, 0, 0])

    def test_refused(self):
        out = self.folder / "no"
        self.refused(64, ("--arms: adamw trains fp32 matrices", "holds 1-bit ones"), *self.arguments(out, "--arms", "ste,adamw"))
        self.refused(64, ("--dim gives dim 64", "has 32"), *self.arguments(out, "--dim", "64"))
        self.refused(66, "nosuch", *self.arguments(out, source=self.folder / "nosuch"))
        self.assertFalse(out.exists())

    def test_search(self):
        """The search knows the checkpoint's ctx too: one window of 256 is a whole chunk, one of the default 64 would not be."""
        source = self.folder / "long"
        self.train(source, "--ctx", "256", "--batch", "2", steps=2)
        found = self.json(*self.arguments(self.folder / "arms", "--arms", "frozen", "--seeds", "1", "--search-lr", "--steps", "2",
                                          "--batch", "2", "--micro-batch", "1", source=source))
        self.assertGreaterEqual(len(found["search"]["frozen"]), 3)


if __name__ == "__main__":
    unittest.main()
