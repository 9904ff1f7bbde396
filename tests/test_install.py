#!/usr/bin/env python3
"""What `cmake --install` leaves works for others: the installed tree is whole, may be moved, and both examples build against
it with pkg-config, with pkg-config --static and with find_package, run, and give the same output.

Needs cmake, pkg-config and a compiler (CC); programs of a sanitizer build are linked with its flags."""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

from cli_helpers import make_text

ROOT = pathlib.Path(os.environ.get("QSBITS_SOURCE", pathlib.Path(__file__).resolve().parent.parent))
BUILD = pathlib.Path(os.environ.get("QSBITS_BUILD", ROOT / "build"))
FLAGS = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
if os.environ.get("QSBITS_SANITIZE") == "1":
    FLAGS += ["-g", "-fsanitize=address,undefined"]
STEPS, BYTES, PROMPT = 3, 40, "abc "
HEAD = """
cmake_minimum_required(VERSION 3.22)
project(other LANGUAGES C)
"""
PROJECT = HEAD + """
find_package(qsbits 0.1 CONFIG REQUIRED {components})
add_executable(train "{examples}/train.c")
add_executable(generate "{examples}/generate.c")
target_link_libraries(train PRIVATE {train})
target_link_libraries(generate PRIVATE {generate})
"""
FILES = ["bin/qsbits", "lib/libqsbits.so", "lib/libqsbits.a", "lib/pkgconfig/qsbits.pc",
         "lib/cmake/qsbits/qsbits-config.cmake", "lib/cmake/qsbits/qsbits-config-version.cmake",
         "share/man/man1/qsbits.1", "share/bash-completion/completions/qsbits",
         "share/zsh/site-functions/_qsbits", "share/fish/vendor_completions.d/qsbits.fish", "share/doc/qsbits/README.md",
         "share/doc/qsbits/LICENSE", "share/doc/qsbits/examples/train.c", "share/doc/qsbits/examples/generate.c"]


def environment(**more):
    foreign = [name for name in os.environ if name.startswith("PKG_CONFIG")] + ["DESTDIR", "LD_LIBRARY_PATH"]
    return {**{name: value for name, value in os.environ.items() if name not in foreign}, **more}


def run(*command, code=0, **more):
    result = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                            env=environment(**more))
    # not text=True, which would change line ends, and a small model writes any bytes
    result.stdout, result.stderr = (raw.decode(errors="surrogateescape") for raw in (result.stdout, result.stderr))
    assert result.returncode == code, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result


def names_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory(prefix="qsbits-install-")
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        cls.first = cls.folder / "first"
        run("cmake", "--install", BUILD, "--prefix", cls.first)
        cls.version = run(cls.first / "bin" / "qsbits", "--version").stdout
        cls.prefix = cls.folder / "elsewhere" / "moved"   # everything is tested there
        cls.prefix.parent.mkdir()
        cls.first.rename(cls.prefix)
        cls.examples = cls.prefix / "share" / "doc" / "qsbits" / "examples"
        (cls.folder / "text.txt").write_bytes(make_text())

    def pkg_config(self, *arguments):
        folder = self.prefix / "lib" / "pkgconfig"
        return shlex.split(run("pkg-config", *arguments, "qsbits", PKG_CONFIG_PATH=str(folder)).stdout)

    def compile(self, name, libraries):
        """The example against the installed headers; the folder of the programs."""
        out = self.folder / name
        out.mkdir()
        compiler = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *self.pkg_config("--cflags")]
        for example in ("train", "generate"):
            run(*compiler, self.examples / f"{example}.c", *libraries, "-o", out / example)
        return out

    def configure(self, source, code=0, **more):
        return run("cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}",
                   "-DCMAKE_C_FLAGS=" + " ".join(FLAGS), code=code, **more)

    def project(self, name, text):
        source = self.folder / name
        source.mkdir()
        (source / "CMakeLists.txt").write_text(text)
        return source

    def cmake(self, name, components, train, generate, **more):
        source = self.project(name, PROJECT.format(components=components, examples=self.examples, train=train,
                                                   generate=generate))
        self.configure(source, **more)
        run("cmake", "--build", source / "build")
        return source / "build"

    def needs_library(self, program):
        return "libqsbits.so" in run("readelf", "-d", program).stdout

    def try_examples(self, programs):
        """Trains and generates; the text on standard output, which does not depend on how the programs were linked."""
        checkpoint = programs / "checkpoint"
        told = run(programs / "train", self.folder / "text.txt", checkpoint, STEPS).stdout
        losses = [float(loss) for loss in re.findall(r"^step +\d+  loss (\d+\.\d{4}) nats per byte$", told, re.M)]
        self.assertEqual(len(losses), STEPS, told)
        self.assertLess(losses[-1], losses[0])
        self.assertTrue((checkpoint / "model.safetensors").exists())
        written = run(programs / "generate", checkpoint, PROMPT, BYTES).stdout
        self.assertTrue(written.startswith(PROMPT))
        by_command = run(self.prefix / "bin" / "qsbits", "generate", "-m", checkpoint, "-p", PROMPT, "-n", BYTES,
                         "--temp", "0.7")
        self.assertEqual(written, PROMPT + by_command.stdout + "\n")
        return told.replace(str(checkpoint), "") + written

    def test_whole(self):
        have = names_below(self.prefix)
        want = FILES + [f"include/qsbits/{p.name}" for p in (ROOT / "include" / "qsbits").glob("*.h")]
        want += [f"share/doc/qsbits/docs/{p.name}" for p in (ROOT / "docs").glob("*.md")]
        self.assertEqual(sorted(set(want) - set(have)), [])
        versions, targets = r"lib/libqsbits\.so[.0-9]+", r"lib/cmake/qsbits/qsbits-(shared|static)(-\w+)?\.cmake"
        more = [name for name in set(have) - set(want) if not re.fullmatch(f"{versions}|{targets}", name)]
        self.assertEqual(more, [], "installed, but nobody said so")
        soname = re.search(r"SONAME.*\[(.+)\]", run("readelf", "-d", self.prefix / "lib" / "libqsbits.so").stdout).group(1)
        self.assertEqual(soname, "libqsbits.so." + ".".join(self.version.split()[1].split(".")[:2]))

    def test_destdir(self):
        run("cmake", "--install", BUILD, "--prefix", "/opt/qsbits", DESTDIR=str(self.folder / "stage"))
        self.assertEqual(names_below(self.folder / "stage" / "opt" / "qsbits"), names_below(self.prefix))

    def test_no_path_of_this_machine(self):
        for name in names_below(self.prefix):
            if not re.match(r"bin/|lib/libqsbits", name):
                text = (self.prefix / name).read_text()
                for path in (ROOT, BUILD, self.folder):
                    self.assertNotIn(str(path) + "/", text, name)

    def test_command(self):
        self.assertRegex(self.version, r"^qsbits \d+\.\d+\.\d+\n$")
        command = self.prefix / "bin" / "qsbits"
        self.assertEqual(run(command, "--version").stdout, self.version)
        used = run("ldd", command).stdout
        self.assertIn(str(self.prefix / "lib"), os.path.realpath(re.search(r"libqsbits\.so\S* => (\S+)", used).group(1)))

    def test_same_output(self):
        shared = self.compile("shared", [*self.pkg_config("--libs"), f"-Wl,-rpath,{self.prefix}/lib"])
        static_libraries = self.pkg_config("--static", "--libs")
        self.assertIn("-ljansson", static_libraries)
        static = self.compile("static", ["-l:libqsbits.a" if word == "-lqsbits" else word for word in static_libraries])
        mixed = self.cmake("mixed", "", "qsbits::qsbits", "qsbits::qsbits_static")
        self.assertTrue(self.needs_library(shared / "train") and self.needs_library(mixed / "train"))
        self.assertFalse(self.needs_library(static / "train") or self.needs_library(mixed / "generate"))
        told = self.try_examples(shared)
        self.assertEqual(self.try_examples(static), told)
        self.assertEqual(self.try_examples(mixed), told)
        self.try_errors(shared)

    def try_errors(self, programs):
        missing = self.folder / "nothing-here"
        self.assertIn(str(missing), run(programs / "train", missing, self.folder / "x", code=66).stderr)
        self.assertIn(str(missing), run(programs / "generate", missing, "a", code=66).stderr)
        self.assertIn("text.txt", run(programs / "generate", self.folder / "text.txt", "a", code=65).stderr)
        for program in ("train", "generate"):
            self.assertIn("usage", run(programs / program, code=64).stderr)

    def test_cmake_package(self):
        """Shared alone needs no other package; a version that does not fit is refused."""
        nothing = {"PKG_CONFIG_LIBDIR": str(self.folder)}
        self.cmake("alone", "COMPONENTS shared", "qsbits::qsbits", "qsbits::qsbits", **nothing)
        refused = self.configure(self.project("both", HEAD + "find_package(qsbits 0.1 CONFIG REQUIRED)\n"), code=1, **nothing)
        self.assertIn("jansson", refused.stderr)
        for wanted in ("0.2", "1.0", "0.0"):
            source = self.project(f"wants-{wanted}", HEAD + f"find_package(qsbits {wanted} CONFIG REQUIRED)\n")
            self.assertIn("not accepted", self.configure(source, code=1).stderr)

    def test_manual(self):
        page = self.prefix / "share" / "man" / "man1" / "qsbits.1"
        self.assertEqual(page.read_text(), run(self.prefix / "bin" / "qsbits", "manual").stdout)
        if shutil.which("groff") is None:
            self.skipTest("groff is not installed")
        result = run("groff", "-man", "-Tutf8", "-ww", page)
        self.assertEqual(result.stderr, "")
        shown = re.sub("\x1b\\[\\d*m|.\b", "", result.stdout)   # without colours and overstrikes
        self.assertIn("--fsm-state t2|c2|c4|c8", shown)
        self.assertNotIn("\u2010", shown, "a word is hyphenated")

    def test_completions(self):
        for shell, name in (("bash", "bash-completion/completions/qsbits"), ("zsh", "zsh/site-functions/_qsbits"),
                            ("fish", "fish/vendor_completions.d/qsbits.fish")):
            script = self.prefix / "share" / name
            self.assertEqual(script.read_text(), run(self.prefix / "bin" / "qsbits", "completion", shell).stdout)
            if shutil.which(shell):
                self.assertEqual(run(shell, "-n", script).stderr, "")


if __name__ == "__main__":
    unittest.main()
