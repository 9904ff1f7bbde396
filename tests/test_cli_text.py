"""What --data takes on the command line: files, folders, patterns, standard input; what is left out; texts that change.

QSBITS names the command (default build/qsbits). Standard library only."""
import json
import os
import subprocess
import unittest

from cli_helpers import QSBITS, TINY, CliCase, make_text


class Data(CliCase):
    def setUp(self):
        super().setUp()
        self.texts = self.folder / "te[x]ts"   # a folder whose name looks like a pattern
        (self.texts / "deep").mkdir(parents=True)
        whole = self.text.read_bytes()
        for name, part in (("b.txt", whole[7000:15000]), ("a.txt", whole[:7000]), ("c.txt", whole[15000:])):
            (self.texts / name).write_bytes(part)
        (self.texts / "notes.md").write_bytes(b"not of the pattern")

    def eval(self, model, data, *more, **where):
        return self.json("eval", "--model", model, "--data", data, *more, **where)

    def test_pattern(self):
        """Files in byte order; the run names its text from the root on and resumes from any folder."""
        run, one = self.folder / "run", self.folder / "one"
        result = self.json("train", "--data", "*.txt", "--out", run, *TINY, "--steps", "12", cwd=self.texts)
        expected = self.train(one)
        self.assertEqual(result["val_loss"], expected["val_loss"])
        self.assert_same_checkpoint(run / "step-00000012", one / "step-00000012")
        stored = json.loads((run / "config.json").read_text())["options"]["data"]
        self.assertEqual(stored, str(self.texts).replace("[", "\\[") + "/*.txt")
        again = self.json("train", "--resume", "--out", run, cwd="/")
        self.assertEqual(again["val_loss"], result["val_loss"])
        self.assertEqual(self.eval(run, str(self.folder / "te*" / "*.txt"))["val_loss"], result["val_loss"])

    def test_names_like_patterns(self):
        """A file that exists is meant itself."""
        (self.texts / "q[1].txt").write_bytes(make_text(3000, seed=8))
        (self.texts / "q1.txt").write_bytes(b"the wrong one")
        run = self.folder / "run"
        self.json("train", "--data", "q[1].txt", "--out", run, *TINY, "--steps", "2", cwd=self.texts)
        config = json.loads((run / "config.json").read_text())
        self.assertEqual(config["options"]["data"], str(self.texts / "q[1].txt"))
        self.assertEqual(config["text"]["tokens"], 3000)
        self.json("train", "--resume", "--out", run, cwd="/")

    def test_standard_input(self):
        run = self.folder / "run"
        self.train(run)
        expected = self.eval(run, self.text, "--val-fraction", "1")
        for more in ((), ("--val-fraction", "0.1")):
            with open(self.text, "rb") as file:
                result = subprocess.run([QSBITS, "eval", "--model", run, "--data", "-", "--json", *more], stdin=file,
                                        capture_output=True, timeout=120, env=self.environment())
            self.assertEqual(result.returncode, 0, result.stderr)
            loss = json.loads(result.stdout)["val_loss"]
            self.assertEqual(loss, expected["val_loss"] if not more else self.eval(run, self.text)["val_loss"])
        self.refused(65, "standard input is empty", "eval", "--model", run, "--data", "-")
        self.refused(64, "which only eval reads", *self.train_arguments(self.folder / "new", "--data", "-"))

    def test_left_out(self):
        """One line that counts reasons and names the first file."""
        (self.texts / ".hidden").write_bytes(b"hidden")
        (self.texts / "deep" / "binary").write_bytes(b"\0" * 100)
        (self.texts / "deep" / "empty").write_bytes(b"")
        (self.texts / "deep" / "void").write_bytes(b"")
        os.mkfifo(self.texts / "deep" / "pipe")
        (self.texts / "deep" / "up").symlink_to("..")
        run = self.folder / "run"
        self.train(run)
        result = self.ok("eval", "--model", run, "--data", self.texts)
        self.assertEqual(result.stderr.decode().splitlines(), [
            "qsbits eval: warning: text: 6 files left out: 1 hidden, 1 has a NUL byte in its first 64 KiB, 2 empty, "
            f"1 not a regular file, 1 a link to a folder; first: {self.texts}/.hidden"])

    def test_refused(self):
        run = self.folder / "run"
        self.train(run)
        evaluate = ("eval", "--model", run, "--data")
        self.refused(66, ("nothing*", "matches no file"), *evaluate, self.texts / "nothing*")
        self.refused(66, "not a regular file", *evaluate, "/dev/zero")
        self.refused(64, "--data is empty", *evaluate, "")
        self.refused(65, ("holds no text", "1 has a NUL byte"), *evaluate, self.binary_folder())
        self.refused(64, ("--val-fraction 0.6", "0.5"), *self.train_arguments(self.folder / "new", "--val-fraction", "0.6"))
        self.assertFalse((self.folder / "new").exists())

    def binary_folder(self):
        folder = self.folder / "binary"
        folder.mkdir()
        (folder / "x").write_bytes(b"\0")
        return folder


if __name__ == "__main__":
    unittest.main()
