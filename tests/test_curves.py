"""tools/curves.py: the curves of a comparison as a picture, and folders that are none; arms with parts in compare."""
import json
import pathlib
import subprocess
import sys
import unittest
import xml.etree.ElementTree as tree

from cli_helpers import TINY, CliCase

CURVES = pathlib.Path(__file__).resolve().parent.parent / "tools" / "curves.py"


class Curves(CliCase):
    def curves(self, *arguments):
        return subprocess.run([sys.executable, CURVES, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def compare(self, *arms):
        self.out = self.folder / "arms"
        return self.json("compare", "--data", self.text, "--out", self.out, *TINY, "--steps", "60", "--eval-every", "20", "--eval-windows",
                         "2", "--seeds", "2", "--arms", ",".join(arms))

    def test_picture(self):
        self.compare("fsm:c4-2x1", "fsm:c4", "ste")
        result = self.curves(self.out, "--title", "a < b")
        self.assertEqual(result.returncode, 0, result.stderr)
        root = tree.fromstring(result.stdout)
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        lines = [node.get("points").split() for node in root.iter("{http://www.w3.org/2000/svg}polyline")]
        self.assertEqual([len(points) for points in lines], [3, 3, 3])  # validations at 20, 40, 60
        self.assertIn("a < b", texts)
        for arm in ("fsm:c4-2x1", "fsm:c4", "ste"):
            last = [json.loads(line) for seed in (1, 2)
                    for line in (self.out / f"{arm.replace(':', '-')}-{seed}" / "metrics.jsonl").read_text().splitlines()]
            at_end = [e["val_loss"] for e in last if e.get("val_loss") is not None and e["step"] == 60 and not e["final"]]
            self.assertIn(f"{arm} {sum(at_end) / 2:.3f}", texts)
        alone = tree.fromstring(self.curves(self.out, "--arms", "ste").stdout)
        self.assertEqual(len(list(alone.iter("{http://www.w3.org/2000/svg}polyline"))), 1)

    def test_no_comparison(self):
        for folder in (self.folder, self.folder / "missing"):
            result = self.curves(folder)
            self.assertEqual(result.returncode, 1)
            self.assertIn("not the folder of a comparison", result.stderr)

    def test_parts(self):
        """The parts of an arm are those of its runs, and a part keeps fewer bits."""
        found = self.compare("fsm:c8-2x3", "fsm:c8")
        config = json.loads((self.out / "fsm-c8-2x3-1" / "config.json").read_text())
        self.assertEqual((config["options"]["active-parts"], config["options"]["sweeps"]), ("2", "3"))
        bits = [arm["bits_per_weight"] for arm in found["arms"]]
        packed = 1.4    # about: signs and fp16 scales, of all rows always
        self.assertAlmostEqual((bits[0] - packed) / (bits[1] - packed), 0.5, delta=0.1)
        for arm in ("fsm:c4-", "fsm:c4-0", "fsm:c4-2x", "fsm:c4-2x0x", "fsm:c4-2000", "ste-2"):
            self.refused(64, "--arms", "compare", "--data", self.text, "--out", self.folder / "no", "--arms", arm)


if __name__ == "__main__":
    unittest.main()
