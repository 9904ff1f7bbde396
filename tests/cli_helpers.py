"""What the command-line tests share: running qsbits, making texts, tiny runs and damaged files."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import unittest

QSBITS = os.environ.get("QSBITS", str(pathlib.Path(__file__).resolve().parent.parent / "build" / "qsbits"))
FILES = ("model.safetensors", "state.safetensors", "manifest.json")
# 32 windows of 16 tokens: micro-batches of 16 windows are whole chunks of 256 tokens.
TINY = ("--layers", "2", "--dim", "32", "--heads", "2", "--ctx", "16", "--batch", "32", "--threads", "1")


def make_text(n=20000, seed=5):
    """Words of a small vocabulary: learnable, and the same on every machine."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("abcdefgh") for _ in range(draw.randint(1, 6))) for _ in range(60)]
    text = ""
    while len(text) < n:
        text += " ".join(draw.choice(words) for _ in range(draw.randint(3, 9))) + ".\n"
    return text[:n].encode()


class CliCase(unittest.TestCase):
    """A test with a folder of its own (self.folder) and a text in it (self.text)."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="qsbits-cli-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.text = self.folder / "text.txt"
        self.text.write_bytes(make_text())

    def environment(self, **more):
        plain = {k: v for k, v in os.environ.items() if k not in ("QSBITS_CPU", "NO_COLOR", "QSBITS_BACKEND_DIR")}
        return {**plain, **more}

    def run_qsbits(self, *arguments, env=None, **more):
        return subprocess.run([QSBITS, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
                              env=self.environment(**(env or {})), **more)

    def ok(self, *arguments, **more):
        result = self.run_qsbits(*arguments, **more)
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace"))
        return result

    def json(self, *arguments, **more):
        return json.loads(self.ok(*arguments, "--json", **more).stdout)

    def train_arguments(self, out, *more, steps=12):
        return ("train", "--data", self.text, "--out", out, *TINY, "--steps", steps, *more)

    def train(self, out, *more, steps=12):
        return self.json(*self.train_arguments(out, *more, steps=steps))

    def refused(self, code, words, *arguments, lines=1, **more):
        """The command fails with the code and one line that says what is wrong; what to do. Nothing on stdout."""
        result = self.run_qsbits(*arguments, **more)
        error = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, code, f"{arguments}\n{error}")
        self.assertEqual(result.stdout, b"", arguments)
        message = error.strip().splitlines()[-1]
        self.assertRegex(message, r"^qsbits[ a-z]*: .+[;?] .+")
        if lines is not None:
            self.assertEqual(len(error.strip().splitlines()), lines, error)
        for word in (words,) if isinstance(words, str) else words:
            self.assertIn(word, message)
        return message

    def checkpoints(self, run):
        return sorted(p.name for p in pathlib.Path(run).iterdir() if p.name.startswith("step-"))

    def forget_end(self, run, step=12):
        """The run as it was before its last checkpoint."""
        (run / "result.json").unlink()
        shutil.rmtree(run / f"step-{step:08d}")

    def assert_same_checkpoint(self, first, second):
        for name in FILES:
            self.assertEqual((first / name).read_bytes(), (second / name).read_bytes(), f"{name} of {first} and {second}")
