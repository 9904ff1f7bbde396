"""The run folder under attack: a second process, a process that was killed, and disks that are full.

A full disk is a file size limit, /dev/full, and, where a mount namespace can be had, a real file system of a few hundred
kilobytes. Standard library only."""
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest

from cli_helpers import QSBITS, CliCase

LONG = 400
INNER = "QSBITS_FULL_DISK"   # set in the process that has a small file system of its own: where it is mounted


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.002)


class RunCase(CliCase):
    def begin(self, out, *more, steps=LONG):
        """A training in the background, stopped at the end of the test if it still runs."""
        process = subprocess.Popen([QSBITS, *map(str, self.train_arguments(out, *more, steps=steps))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment())
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def result(self, process):
        out, error = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, error.decode(errors="replace"))
        return out


class TwoProcesses(RunCase):
    def test_second_is_refused(self):
        """Whether it resumes or starts anew, before the first checkpoint or after; the first one does not notice."""
        whole, run = self.folder / "whole", self.folder / "run"
        self.train(whole, "--save-every", LONG // 2, steps=LONG)
        first = self.begin(run, "--save-every", LONG // 2)
        wait_for((run / "metrics.jsonl").exists)
        os.kill(first.pid, signal.SIGSTOP)   # its moment lasts as long as the test needs
        try:
            self.refused(73, ("another process", str(run), "--out"), "train", "--resume", "--out", run)
            self.refused(73, ("another process", str(run), "--out"), *self.train_arguments(run, steps=LONG))
        finally:
            os.kill(first.pid, signal.SIGCONT)
        wait_for(lambda: self.checkpoints(run) or first.poll() is not None)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            if first.poll() is None:
                self.refused(73, "another process", "train", "--resume", "--out", run)
                self.refused(73, str(run), *self.train_arguments(run, steps=LONG))
        finally:
            os.kill(first.pid, signal.SIGCONT)
        self.result(first)
        self.assertEqual(self.checkpoints(run), self.checkpoints(whole))
        for name in self.checkpoints(whole):
            self.assert_same_checkpoint(whole / name, run / name)
        told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in told if "loss" in line], list(range(1, LONG + 1)))

    def test_killed_holds_no_lock(self):
        """The lock goes with the process; what it left half-written goes with the next."""
        run = self.folder / "run"
        first = self.begin(run, "--save-every", 10, steps=100000)
        wait_for(lambda: run.is_dir() and any(name[5:].isdigit() for name in self.checkpoints(run)))
        first.kill()
        first.wait()
        half = run / "step-00099999.tmp"
        half.mkdir(exist_ok=True)
        (half / "model.safetensors.tmp").write_bytes(b"half")
        step = self.json("train", "--resume", "--out", run, "--time-limit", "0.000001")["step"]
        self.assertGreater(step, 0)
        self.assertFalse(half.exists())

    def test_late_second(self):
        """A second process that looked while the folder was empty and locks it when the first one is done: refused."""
        run = self.folder / "run"
        run.mkdir()
        late = self.begin(run, "--dim", 512, "--heads", 8, "--layers", 12, steps=3)
        self.train(run, steps=2)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        error = late.communicate(timeout=120)[1].decode(errors="replace")
        self.assertEqual(late.returncode, 73, error)
        self.assertIn(str(run), error)
        self.assertEqual({p: p.read_bytes() for p in run.rglob("*") if p.is_file()}, before)


class FullDisk(RunCase):
    def limited(self, limit):
        return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}

    def test_every_size(self):
        """A limit at every size, from nothing to enough: a message, whole checkpoints only, and the rest of the run when the
        limit is gone."""
        whole = self.folder / "whole"
        self.train(whole, "--save-every", 5)
        largest = max(p.stat().st_size for p in whole.rglob("*") if p.is_file())
        passed = 0
        for i in range(9):
            run, limit = self.folder / f"run-{i}", largest * i // 8
            result = self.run_qsbits(*self.train_arguments(run, "--save-every", 5), **self.limited(limit))
            error = result.stderr.decode(errors="replace")
            passed += result.returncode == 0
            if result.returncode != 0:
                self.assertIn(result.returncode, (73, 74), error)
                self.assertIn(str(run), error)
            for name in self.checkpoints(run) if run.is_dir() else ():
                self.ok("inspect", run / name, "--verify")
            self.ok(*self.train_arguments(run, "--save-every", 5, "--resume"))
            self.assert_same_checkpoint(whole / "step-00000012", run / "step-00000012")
            self.assertEqual(self.checkpoints(run), self.checkpoints(whole))
        self.assertEqual(passed, 1)

    def test_full_output(self):
        """Standard output is full: exit code 74 and a message; the training is saved."""
        run = self.folder / "run"
        commands = (self.train_arguments(run, "--json"), ("inspect", run, "--json"), ("inspect", run),
                    ("eval", "--model", run, "--data", self.text, "--json"), ("generate", "--model", run, "-n", "20"),
                    ("info", "--json"), ("--help",), ("train", "--help"), ("--version",))
        for arguments in commands:
            with open("/dev/full", "wb") as full:
                result = subprocess.run([QSBITS, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=full,
                                        stderr=subprocess.PIPE, env=self.environment(), timeout=120)
            self.assertEqual(result.returncode, 74, (arguments, result.stderr))
            self.assertIn(b"output", result.stderr.splitlines()[-1])
        self.ok("inspect", run, "--verify")

    def test_real_file_system(self):
        """A file system with room for one checkpoint and a half."""
        unshare = shutil.which("unshare")
        command = [unshare, *(() if os.geteuid() == 0 else ("-r",)), "-m"] if unshare else None
        mount = self.folder / "small"
        mount.mkdir()
        if command is None or subprocess.run([*command, "mount", "-t", "tmpfs", "-o", "size=300k", "none", mount],
                                             capture_output=True).returncode != 0:
            self.skipTest("no mount namespace of its own (unshare -m, mount)")
        inner = subprocess.run([*command, sys.executable, "-B", __file__, "InSmallFileSystem"], capture_output=True,
                               timeout=300, env=self.environment(**{INNER: str(mount)}))
        self.assertEqual(inner.returncode, 0, inner.stderr.decode(errors="replace"))


@unittest.skipUnless(INNER in os.environ, "runs inside FullDisk.test_real_file_system")
class InSmallFileSystem(RunCase):
    def mount(self, kilobytes):
        """A fresh file system of this size over the one before."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", os.environ[INNER]], check=True)
        return pathlib.Path(os.environ[INNER])

    def test_sizes(self):
        whole = self.folder / "whole"
        self.train(whole, "--save-every", 4)
        kilobytes = sum(-(-p.stat().st_size // 4096) * 4 for p in whole.glob("step-00000012/*"))
        codes = set()
        for share in (0.02, 0.3, 0.9, 1.2, 1.6, 2.1, 2.6):
            run = self.mount(int(kilobytes * share) + 12) / "run"
            result = self.run_qsbits(*self.train_arguments(run, "--save-every", 4))
            error = result.stderr.decode(errors="replace")
            self.assertIn(result.returncode, (73, 74), (share, error))
            self.assertIn("No space left on device", error)
            self.assertIn(str(run), error)
            codes.add((share >= 1.0) == bool(self.checkpoints(run) if run.is_dir() else ()))
            for name in self.checkpoints(run) if run.is_dir() else ():
                self.assertNotIn(".", name)
                self.ok("inspect", run / name, "--verify")
            subprocess.run(["mount", "-o", f"remount,size={10 * kilobytes}k", os.environ[INNER]], check=True)
            self.ok(*self.train_arguments(run, "--save-every", 4, "--resume"))
            self.assert_same_checkpoint(whole / "step-00000012", run / "step-00000012")
        self.assertEqual(codes, {True})


if __name__ == "__main__":
    unittest.main()
