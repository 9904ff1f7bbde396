"""The arm lora through the command: compare, inspect, eval, generate, --from, --dry-run, resume, and model files that are not what they
say."""
import json
import re
import unittest

from cli_helpers import TINY, CliCase

PARAMS = 2 * 4 * (4 * 64 + 3 * (32 + 128))  # layers, rank, sides of four matrices of 32 x 32 and three of 32 x 128
WEIGHTS = 2 * (4 * 32 * 32 + 3 * 32 * 128)
LORA = ("--optimizer", "lora", "--rank", "4")


class Lora(CliCase):
    def result(self, run):
        return json.loads((run / "result.json").read_text())

    def test_compare(self):
        """Adapters of the rank asked for beside another arm, and what they cost."""
        arms = self.folder / "arms"
        found = self.json("compare", "--data", self.text, "--out", arms, *TINY, "--steps", "12", "--eval-windows", "2", "--arms",
                          "frozen,lora,lora/int8@0.01", "--seeds", "1", "--rank", "4")["arms"]
        self.assertEqual([arm["arm"] for arm in found], ["frozen", "lora", "lora/int8@0.01"])
        self.assertAlmostEqual(found[1]["bits_per_weight"] - found[0]["bits_per_weight"], 3 * 32 * PARAMS / WEIGHTS)
        self.assertEqual(found[1]["bits_per_weight"], found[2]["bits_per_weight"])
        alone = self.folder / "alone"
        self.train(alone, *LORA, "--eval-windows", "2")
        self.assert_same_checkpoint(alone / "step-00000012", arms / "lora-1" / "step-00000012")

    def test_inspect(self):
        run = self.folder / "run"
        result = self.train(run, *LORA)
        listed = self.json("inspect", run)
        self.assertAlmostEqual(listed["files"][0]["packed_bits_per_weight"], result["packed_bits_per_weight"])
        self.assertEqual(listed["manifest"]["config"]["model"]["lora_rank"], 4)
        shapes = {t["name"]: t["shape"] for t in listed["tensors"]}
        self.assertEqual(shapes["model.layers.1.mlp.down_proj.lora_A"], [4, 128])
        self.assertEqual(shapes["model.layers.1.mlp.down_proj.lora_B.adam_v"], [32, 4])
        self.assertIn("scales and adapters included", self.ok("inspect", run).stdout.decode())
        config = json.loads((run / "config.json").read_text())
        self.assertEqual((config["model"]["lora_rank"], config["options"]["rank"]), (4, "4"))

    def test_use(self):
        """What was trained is what eval and generate run, for every number of threads."""
        run = self.folder / "run"
        result = self.train(run, *LORA)
        self.assertEqual(self.json("eval", "--model", run, "--data", self.text)["val_loss"], result["val_loss"])
        self.assertEqual(*(self.ok("generate", "--model", run, "-n", "40", "--threads", n).stdout for n in ("1", "2")))

    def test_resume(self):
        whole, halves = self.folder / "whole", self.folder / "halves"
        self.train(whole, *LORA, "--save-every", "6")
        self.train(halves, *LORA, "--save-every", "6")
        self.forget_end(halves)
        self.json("train", "--resume", "--out", halves)
        self.assert_same_checkpoint(whole / "step-00000012", halves / "step-00000012")
        self.refused(64, ("lora_rank = 4", "5"), "train", "--resume", "--out", halves, "--rank", "5", lines=None)

    def test_from(self):
        """New adapters beside signs that were trained before: the loss goes on from theirs, and the signs stay."""
        before, after = self.folder / "before", self.folder / "after"
        trained = self.train(before, steps=60)
        result = self.json("train", "--data", self.text, "--out", after, "--from", before, *LORA, "--batch", "32", "--steps", "12",
                           "--threads", "1")
        self.assertEqual(result["val_loss_start"], trained["val_loss"])
        self.assertLess(result["val_loss"], trained["val_loss"])
        name = "model.layers.0.self_attn.q_proj.weight"
        words = [self.json("inspect", run, "--tensor", name, "--words", "0")["words"] for run in (before, after)]
        self.assertEqual(*words)

    def test_dry_run(self):
        plan = self.ok(*self.train_arguments(self.folder / "plan", "--dry-run", "--optimizer", "lora")).stderr.decode()
        self.assertIn("lora of rank 8", plan)

    def test_hostile_model(self):
        """A model file alone has no checksums: whatever rank it claims, there is a message."""
        run, model = self.folder / "run", self.folder / "model.safetensors"
        self.train(run, *LORA)
        data = (run / "step-00000012" / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = data[8:start].decode().rstrip()
        for rank, words in (("0", "lora_rank is 0; it must lie in 1..1024"), ("-4", "lora_rank is -4"), ("99999999999", "lora_rank"),
                            ('\\"4\\"', "lora_rank"), ("null", "lora_rank"), ("33", "lora_rank is 33"), ("5", "lora_A")):
            with self.subTest(rank=rank):
                changed = re.sub(r'lora_rank\\":4', lambda _, r=rank: 'lora_rank\\":' + r, header)
                self.assertNotEqual(changed, header)
                model.write_bytes(data[:8] + changed.ljust(start - 8).encode() + data[start:])
                self.refused(65, words, "eval", "--model", model, "--data", self.text)


if __name__ == "__main__":
    unittest.main()
