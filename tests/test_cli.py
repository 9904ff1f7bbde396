"""The command line: help, every kind of bad input with its exit code and message, stopping and resuming, output.

QSBITS names the command (default build/qsbits). Standard library only."""
import json
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest

from cli_helpers import QSBITS, CliCase, make_text

COMMANDS = ("train", "plan", "init", "eval", "generate", "inspect", "info", "signature", "bench")


def only_files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


class Help(CliCase):
    def test_top(self):
        text = self.ok("--help").stdout.decode()
        for word in (*COMMANDS, "64", "65", "66", "69", "70", "71", "73", "74", "129", "130", "143"):
            self.assertIn(word, text)
        self.assertRegex(self.ok("--version").stdout.decode(), r"^qsbits \d+\.\d+\.\d+\n$")

    def test_commands(self):
        for command in COMMANDS:
            text = self.ok(command, "--help").stdout.decode()
            self.assertIn(f"Usage: qsbits {command}", text)
            for heading in ("Examples:", "Exit codes:", "--json", "--help"):
                self.assertIn(heading, text)
            self.assertLessEqual(max(map(len, text.splitlines())), 132, command)
            self.assertEqual(self.ok("help", command).stdout.decode(), text)

    def test_help_wins(self):
        self.ok("train", "--layers", "0", "--help")


class Usage(CliCase):
    def test_commands(self):
        self.refused(64, "--help")
        self.refused(64, "did you mean train?", "trian")

    def test_options(self):
        self.refused(64, ("--setps", "did you mean --steps?"), "train", "--setps", "3")
        self.refused(64, "--temprature", "generate", "--temprature=1")
        self.refused(64, "-z", "train", "-z")
        self.refused(64, "needs a value", "train", "--data")
        self.refused(64, "--out follows", "train", "--data", "--out", "x")
        self.refused(64, "takes no value", "info", "--json=1")
        self.refused(64, "unexpected argument", "train", "text.txt")
        self.refused(64, "give one RUN|FILE", "inspect", "a", "b")

    def test_missing(self):
        self.refused(64, "--out", "train", "--data", self.text)
        self.refused(64, "--data", "train", "--out", self.folder / "run")
        self.refused(64, "--model", "generate")
        self.refused(64, "--model", "eval", "--data", self.text)
        self.refused(64, "--data", "eval", "--model", self.folder)
        self.refused(64, "name a run folder", "inspect")

    def test_values(self):
        for option, value, word in (
                ("--layers", "0", "1 to 4096"), ("--layers", "two", "whole number"), ("--steps", "1e3", "whole number"),
                ("--steps", "99999999999999999999", "out of range"), ("--val-fraction", "0.9", "0.5"),
                ("--val-fraction", "0", "out of range"), ("--lr", "nan", "not a number"), ("--lr", "-1", "out of range"),
                ("--optimizer", "adam", "fsm|ste|bop|frozen|lora|adamw"), ("--rank", "0", "1 to 1024"),
                ("--fsm-state", "c3", "t2|c2|c4|c8"), ("--batch", "", "whole number"),
                ("--threads", "5000", "1024"), ("--dim", "33", "32"), ("--heads", "3", "heads"), ("--kv-heads", "3", "heads"),
                ("--preset", "huge", "tiny"), ("--micro-batch", "3", "256"), ("--micro-batch", "64", "micro_batch"),
                ("--cpu", "z80", "z80"), ("--warmup", "100", "warmup")):
            with self.subTest(option=option, value=value):
                self.refused(64, word, *self.train_arguments(self.folder / "run", option, value))
        self.refused(64, ("lora_rank is 33", "1..32", "--rank"),
                     *self.train_arguments(self.folder / "run", "--optimizer", "lora", "--rank", 33))
        self.refused(69, "nosuch", *self.train_arguments(self.folder / "run", "--device", "nosuch"))
        self.assertEqual(only_files_of(self.folder), ["text.txt"])


class BadInput(CliCase):
    def refused_text(self, code, words, data, *more):
        self.text = data
        before = only_files_of(self.folder)
        self.refused(code, words, *self.train_arguments(self.folder / "run", *more))
        self.assertEqual(only_files_of(self.folder), before, "nothing may be written")

    def test_text(self):
        empty, short, binary, folder = (self.folder / name for name in ("empty", "short", "binary", "folder"))
        empty.write_bytes(b"")
        short.write_bytes(b"too short")
        binary.write_bytes(b"\0" * 5000)
        folder.mkdir()
        (folder / "binary").write_bytes(b"\0" * 5000)
        self.refused_text(66, "missing.txt", self.folder / "missing.txt")
        self.refused_text(65, "empty", empty)
        self.refused_text(65, ("16",), short)
        self.refused_text(65, "folder", folder)
        self.refused_text(65, "", self.folder / "text.txt", "--ctx", "100000")
        # the training part is long enough, the validation part is not
        self.refused_text(65, "", self.folder / "text.txt", "--val-fraction", "0.0001")

    def test_folder(self):
        folder = self.folder / "texts"
        (folder / "deep").mkdir(parents=True)
        (folder / "b.txt").write_bytes(self.text.read_bytes()[10000:])
        (folder / "a.txt").write_bytes(self.text.read_bytes()[:10000])
        (folder / ".hidden").write_bytes(b"hidden")
        (folder / "deep" / "binary").write_bytes(b"\0" * 100)
        one = self.train(self.folder / "one", steps=2)
        self.text = folder
        two = self.train(self.folder / "two", steps=2)
        self.assertEqual(one["val_loss"], two["val_loss"])
        self.assertEqual(json.loads((self.folder / "two" / "config.json").read_text())["text"]["skipped"], 2)

    def test_output(self):
        run = self.folder / "run"
        self.refused(73, "text.txt", *self.train_arguments(self.text))
        self.refused(73, "text.txt", *self.train_arguments(self.text / "run"))
        self.refused(73, "/proc", *self.train_arguments("/proc/qsbits-run"))
        run.mkdir()
        (run / "config.json").write_text('{"other": 1}')
        self.refused(73, "config.json", *self.train_arguments(run))
        self.assertEqual((run / "config.json").read_text(), '{"other": 1}')

    def test_existing_run(self):
        run = self.folder / "run"
        self.train(run, steps=2)
        before = (run / "metrics.jsonl").read_bytes()
        self.refused(73, ("--resume", "--out"), *self.train_arguments(run, steps=2))
        self.assertEqual((run / "metrics.jsonl").read_bytes(), before)

    def test_full_disk(self):
        """A limit on the size of files stands for a full disk: the checkpoint does not fit, the settings do."""
        run = self.folder / "run"
        limit = 12000

        def preexec():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.refused(74, "--resume", *self.train_arguments(run, "--save-every", "5"), lines=None, preexec_fn=preexec)
        self.assertEqual(self.checkpoints(run), [])
        self.train(run, "--resume")  # with the disk back it starts again
        self.assertEqual(self.checkpoints(run)[-1], "step-00000012")

    def test_full_disk_keeps_old(self):
        run, limit = self.folder / "run", 12000
        self.train(run, "--time-limit", "0.000001", steps=500)
        before = only_files_of(run)
        self.refused(74, "--resume", "train", "--resume", "--out", run, "--save-every", "3", lines=None,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.assertEqual([name for name in only_files_of(run) if "tfevents" not in name],
                         [name for name in before if "tfevents" not in name])
        self.ok("inspect", run, "--verify")

    def test_full_output(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([QSBITS, "info"], stdout=full, stderr=subprocess.PIPE, env=self.environment())
        self.assertEqual(result.returncode, 74)

    def test_nonfinite(self):
        run = self.folder / "run"
        message = self.refused(65, ("not finite", "step", "--lr", "--scale-lr"), *self.train_arguments(run, "--lr", "1e30"),
                               lines=None)
        self.assertIn("no checkpoint", message)
        self.assertEqual(self.checkpoints(run), [])

    def test_two_trainers(self):
        run = self.folder / "run"
        first = subprocess.Popen([QSBITS, *map(str, self.train_arguments(run, steps=100000))], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment())
        try:
            wait_for_steps(run, 3)
            self.refused(73, "another process", *self.train_arguments(run, "--resume", steps=100000))
        finally:
            first.kill()
            first.wait()


class Checkpoints(CliCase):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.train(self.run_folder, "--save-every", "4")
        self.newest = self.run_folder / "step-00000012"
        self.assertEqual(self.checkpoints(self.run_folder), ["step-00000008", "step-00000012"])

    def flip(self, path, at):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(bytes(data))

    def generate(self, model):
        return ("generate", "--model", model, "-n", "4")

    def test_missing(self):
        self.refused(66, "nothing-here", *self.generate(self.folder / "nothing-here"))
        self.refused(66, "nothing-here", "inspect", self.folder / "nothing-here")

    def test_truncated(self):
        for name in ("model.safetensors", "state.safetensors", "manifest.json"):
            for keep in (0, 5, 2000, -1):
                copy = self.folder / f"cut-{name}-{keep}"
                shutil.copytree(self.newest, copy)
                data = (copy / name).read_bytes()
                (copy / name).write_bytes(data[:keep])
                self.refused(65, name, "inspect", copy, "--verify")

    def test_altered(self):
        for name in ("model.safetensors", "state.safetensors", "manifest.json"):
            for share in (0.0, 0.3, 0.999):
                copy = self.folder / f"altered-{name}-{share}"
                shutil.copytree(self.newest, copy)
                self.flip(copy / name, int((copy / name).stat().st_size * share))
                self.refused(65, "", "inspect", copy, "--verify")

    def test_foreign(self):
        header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        foreign = self.folder / "foreign.safetensors"
        foreign.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, -2.5))
        self.refused(65, "foreign.safetensors", *self.generate(foreign))
        shown = self.json("inspect", foreign, "--tensor", "x", "--words", "0")
        self.assertEqual(shown["words"], ["3f800000", "c0200000"])
        self.assertEqual(shown["values"], [1.0, -2.5])
        self.refused(69, "", "inspect", foreign, "--verify")
        self.refused(65, "no tensor 'y'", "inspect", foreign, "--tensor", "y")

    def test_not_safetensors(self):
        self.refused(65, "text.txt", *self.generate(self.text))

    def test_resume_passes_damage(self):
        """The newest checkpoint is damaged: resuming warns, takes the one before and ends with the same bytes."""
        good = self.folder / "good"
        shutil.copytree(self.newest, good)
        self.flip(self.newest / "state.safetensors", (self.newest / "state.safetensors").stat().st_size // 2)
        result = self.ok("train", "--resume", "--out", self.run_folder)
        self.assertIn("skipped", result.stderr.decode())
        self.assertIn("step-00000012", result.stderr.decode())
        self.assert_same_checkpoint(good, self.newest)

    def test_resume_finished(self):
        first = json.loads((self.run_folder / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]
        again = self.json("train", "--resume", "--out", self.run_folder)
        self.assertEqual((again["step"], again["val_loss"]), (12, first))

    def test_resume_other_settings(self):
        self.refused(64, "seed", "train", "--resume", "--out", self.run_folder, "--seed", "2")
        other = self.folder / "other.txt"
        other.write_bytes(make_text(seed=6))
        message = self.refused(64, "", "train", "--resume", "--out", self.run_folder, "--data", other)
        self.assertIn("text", message)


def wait_for_steps(run, steps, seconds=60):
    """Until metrics.jsonl tells of this many steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if pathlib.Path(run, "metrics.jsonl").read_bytes().count(b'"loss"') >= steps:
                return
        except OSError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"{run} did not reach step {steps}")


class Resume(CliCase):
    STEPS = 60

    def test_signals(self):
        """Stopped by a signal and resumed, with other threads and micro-batches: the same files as never stopped."""
        whole = self.train(self.folder / "whole", steps=self.STEPS)
        for number, more in ((signal.SIGINT, ("--threads", "2")), (signal.SIGTERM, ("--micro-batch", "16", "--recompute"))):
            run = self.folder / f"stopped-{number}"
            process = subprocess.Popen([QSBITS, *map(str, self.train_arguments(run, "--json", steps=self.STEPS))],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=self.environment())
            wait_for_steps(run, 10)
            process.send_signal(number)
            out, error = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 128 + number, error)
            self.assertIn(f"--resume --out {run}".encode(), error)
            stopped = json.loads(out)
            self.assertEqual(stopped["stopped"], "signal")
            self.assertLess(stopped["step"], self.STEPS)
            self.assertEqual(pathlib.Path(stopped["checkpoint"]).name, f"step-{stopped['step']:08d}")
            resumed = self.json("train", "--resume", "--out", run, *more)
            self.assertEqual(resumed["resumed_from"], stopped["step"])
            self.assert_same_checkpoint(pathlib.Path(whole["checkpoint"]), pathlib.Path(resumed["checkpoint"]))
            for key in ("val_loss", "val_loss_start", "train_loss", "flips_per_weight", "tokens"):
                self.assertEqual(whole[key], resumed[key], key)
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            self.assertEqual([line["step"] for line in lines if "loss" in line], list(range(1, self.STEPS + 1)))

    def test_second_signal(self):
        """The second signal ends the process at once, also where the first is still waiting for a long step."""
        run = self.folder / "run"
        arguments = ("train", "--data", self.text, "--out", run, "--dim", "256", "--layers", "4", "--batch", "96", "--steps", "9",
                     "--final-windows", "1")
        process = subprocess.Popen([QSBITS, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=self.environment())
        end = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=10), 130)

    def test_time_limit(self):
        whole = self.train(self.folder / "whole", steps=30)
        run = self.folder / "run"
        stopped = self.train(run, "--time-limit", "0.000001", steps=30)
        self.assertEqual((stopped["stopped"], stopped["steps"]), ("time", 30))
        self.assertLess(stopped["step"], 30)
        resumed = self.train(run, "--resume", steps=30)
        self.assertEqual(resumed["stopped"], "steps")
        self.assert_same_checkpoint(pathlib.Path(whole["checkpoint"]), pathlib.Path(resumed["checkpoint"]))

    def test_nothing_to_resume(self):
        whole = self.train(self.folder / "whole")
        fresh = self.train(self.folder / "fresh", "--resume")
        self.assertEqual(fresh["resumed_from"], 0)
        self.assert_same_checkpoint(pathlib.Path(whole["checkpoint"]), pathlib.Path(fresh["checkpoint"]))

    def test_killed(self):
        """After kill -9 the half line and the later steps of metrics.jsonl are cut off."""
        whole = self.train(self.folder / "whole", "--save-every", "7", steps=20)
        run = self.folder / "run"
        process = subprocess.Popen([QSBITS, *map(str, self.train_arguments(run, "--save-every", "7", steps=20))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=self.environment())
        wait_for_steps(run, 8)
        process.kill()
        process.wait()
        with open(run / "metrics.jsonl", "ab") as metrics:
            metrics.write(b'{"step":')
        resumed = self.train(run, "--resume", steps=20)
        self.assert_same_checkpoint(pathlib.Path(whole["checkpoint"]), pathlib.Path(resumed["checkpoint"]))
        self.assertEqual(whole["flips_per_weight"], resumed["flips_per_weight"])

    def test_levels(self):
        """scalar and the best kernel level of the machine train the same bytes, for every machine and baseline."""
        for optimizer in (("fsm", "c4"), ("fsm", "c8"), ("fsm", "t2"), ("ste", "c4"), ("adamw", "c4")):
            more = ("--optimizer", optimizer[0], "--fsm-state", optimizer[1])
            runs = [self.folder / f"{'-'.join(optimizer)}-{level}" for level in ("scalar", "best")]
            one = self.train(runs[0], *more, "--cpu", "scalar", steps=4)
            two = self.train(runs[1], *more, steps=4)
            self.assert_same_checkpoint(pathlib.Path(one["checkpoint"]), pathlib.Path(two["checkpoint"]))


class Output(CliCase):
    def test_train_json(self):
        result = self.ok(*self.train_arguments(self.folder / "run", "--json", steps=60))
        self.assertEqual(result.stdout.count(b"\n"), 1)
        told = json.loads(result.stdout)
        for key in ("step", "steps", "tokens", "seconds", "tokens_per_second", "train_loss", "val_loss", "val_loss_start",
                    "flips_per_weight", "packed_bits_per_weight", "training_bits_per_weight", "peak_rss_bytes", "packed_weights",
                    "entropy0", "entropy1", "optimizer", "fsm_state", "seed", "checkpoint", "stopped"):
            self.assertIn(key, told)
        self.assertEqual(told["tokens"], 60 * 32 * 16)
        self.assertLess(told["val_loss"], told["val_loss_start"])
        self.assertGreater(told["flips_per_weight"], 0)
        self.assertGreater(told["peak_rss_bytes"], 1 << 20)
        self.assertEqual(pathlib.Path(told["checkpoint"]).name, "step-00000060")
        evaluated = self.json("eval", "--model", self.folder / "run", "--data", self.text)
        self.assertEqual(evaluated["val_loss"], told["val_loss"])
        self.assertAlmostEqual(evaluated["bits_per_byte"], told["val_loss"] / 0.6931471805599453, places=9)

    def test_train_text(self):
        result = self.ok(*self.train_arguments(self.folder / "run", steps=3))
        self.assertEqual(result.stdout, b"")
        error = result.stderr.decode()
        self.assertNotIn("\x1b", error)
        self.assertNotIn("\r", error)
        for word in ("entropy", "bits per weight", "16-bit AdamW", "validation", "qsbits generate --model"):
            self.assertIn(word, error)

    def on_terminal(self, **env):
        main, other = pty.openpty()
        process = subprocess.Popen([QSBITS, *map(str, self.train_arguments(self.folder / f"run{len(env)}", steps=3))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=other,
                                   env=self.environment(TERM="xterm", **env))
        os.close(other)
        text = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            text += piece
        os.close(main)
        self.assertEqual(process.wait(timeout=60), 0)
        return text

    def test_terminal(self):
        text = self.on_terminal()
        self.assertIn(b"\x1b[36m", text)
        self.assertRegex(text, rb"\r.*3/3.*loss.*tok/s.*flips.*left")
        self.assertIsNone(re.search(rb"\x1b\[\d*m", self.on_terminal(NO_COLOR="1")))

    def test_generate(self):
        run = self.folder / "run"
        self.train(run, steps=40)
        arguments = ("generate", "--model", run, "--prompt", "abc", "-n", "60", "--seed", "3")
        first = self.ok(*arguments).stdout
        self.assertEqual(len(first), 60)
        self.assertEqual(first, self.ok(*arguments, "--threads", "2").stdout)
        self.assertNotEqual(first, self.ok(*arguments, "--seed", "4").stdout)
        told = self.json(*arguments)
        self.assertEqual(bytes(told["tokens"]), first)
        self.assertEqual(told["text"], first.decode(errors="replace"))
        greedy = self.ok("generate", "-m", run, "--temp", "0", "-n", "40").stdout
        self.assertEqual(greedy, self.ok("generate", "-m", run, "--temp", "0", "-n", "40", "--seed", "9", "-p", "").stdout)

    def test_inspect(self):
        run = self.folder / "run"
        self.train(run, steps=2)
        listed = self.json("inspect", run, "--verify")
        self.assertTrue(listed["native"])
        signs = [t for t in listed["tensors"] if t["format"] == "w1"]
        levels = [t for t in listed["tensors"] if t["format"] == "c4"]
        self.assertEqual(len(signs), 2 * 7)
        self.assertEqual(len(levels), len(signs))
        file = (run / "step-00000002" / "model.safetensors").read_bytes()
        for tensor in signs[:3]:
            shown = self.json("inspect", run, "--tensor", tensor["name"], "--words", "0")
            words = struct.unpack_from(f"<{tensor['bytes'] // 4}I", file, tensor["offset"])
            self.assertEqual(shown["words"], [f"{w:08x}" for w in words])
            self.assertEqual(shown["values"], [1 if w >> i & 1 else -1 for w in words for i in range(32)])
            self.assertEqual(len(shown["values"]), tensor["rows"] * tensor["cols"])
        shown = self.json("inspect", run, "--tensor", levels[0]["name"], "--words", "1")
        planes = [int(w, 16) for w in shown["words"]]
        self.assertEqual(shown["values"], [1 + sum((planes[p] >> i & 1) << p for p in range(4)) for i in range(32)])
        plain = self.ok("inspect", run, "--tensor", signs[0]["name"], "--words", "2").stdout.decode()
        self.assertIn(f"{int(self.json('inspect', run, '--tensor', signs[0]['name'])['words'][0], 16):08x}", plain)

    def test_info(self):
        told = self.json("info", "--threads", "1", "--cpu", "scalar")
        self.assertEqual((told["threads"], told["level"]), (1, "scalar"))
        self.assertIn("scalar", [level["name"] for level in told["levels"]])
        self.assertIn("cpu", [backend["name"] for backend in told["backends"]])
        self.assertIn("threads   1", self.ok("info", "-t1").stdout.decode())

    def test_signature(self):
        one = self.ok("signature", "--threads", "1").stdout.decode()
        self.assertRegex(one, r"^[0-9a-f]{16}\n$")
        self.assertEqual(self.json("signature", "--threads", "2")["signature"], one.strip())


if __name__ == "__main__":
    unittest.main()
