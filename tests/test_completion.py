#!/usr/bin/env python3
"""Completions and manual: bash is driven for real, fish and zsh where they are installed; every option of every --help page
is in the manual and in each completion, with its help text unharmed."""
import re
import shutil
import subprocess
import unittest

from cli_helpers import QSBITS, CliCase

OPTION = re.compile(r"^  (?:-(?P<letter>\w), |    )--(?P<name>[\w-]+)(?: (?P<value>\S+))?(?:\n)? +(?P<help>.+)$", re.M)
# Completes the last of its arguments as the word at the cursor; one result a line.
DRIVER = """
source "$1"; shift
[ "$(complete -p qsbits)" = "complete -F _qsbits qsbits" ] || echo "not registered" >&2
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_qsbits
[ "${#COMPREPLY[@]}" -eq 0 ] || printf '%s\\n' "${COMPREPLY[@]}"
"""
ROFF = {r"\e": "\\", r"\-": "-", r"\&": "", r"\(aq": "'", r"\(ga": "`", r"\(dq": '"', r"\(ha": "^", r"\(ti": "~",
        r"\fB": "", r"\fI": "", r"\fR": ""}


def from_roff(text):
    """The page as a reader of its source sees it; an escape that is none of ours stays and shows."""
    return re.sub(r"\\(?:\(..|f.|.)", lambda m: ROFF.get(m.group(0), m.group(0)), text)


class Shells(CliCase):
    def setUp(self):
        super().setUp()
        self.commands = re.findall(r"^  ([a-z]+) +\S", self.ok("--help").stdout.decode().split("First run:")[0], re.M)
        self.options = {c: list(OPTION.finditer(self.ok(c, "--help").stdout.decode())) for c in self.commands}
        self.scripts = {}
        for shell in ("bash", "zsh", "fish"):
            self.scripts[shell] = self.folder / f"completion.{shell}"
            self.scripts[shell].write_bytes(self.ok("completion", shell).stdout)

    def run_shell(self, *command):
        result = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=60, cwd=self.folder, env=self.environment(HOME=str(self.folder)))
        self.assertEqual((result.returncode, result.stderr), (0, ""), command)
        return result.stdout.splitlines()

    def bash(self, line):
        """What bash offers at the end of the line; words are separated by blanks, and = is a word of its own."""
        words = [part for word in line.split(" ") for part in (re.findall(r"=|[^=]+", word) or [""])]
        return self.run_shell("bash", "--norc", "--noprofile", "-uc", DRIVER, "bash", self.scripts["bash"], *words)

    def fish(self, line):
        """name -> description"""
        offered = self.run_shell("fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"',
                                 self.scripts["fish"], line)
        return dict((row + "\t").split("\t")[:2] for row in offered)

    def test_pages_were_understood(self):
        self.assertGreaterEqual(len(self.commands), 9)
        for command in self.commands:
            page = self.ok(command, "--help").stdout.decode()
            self.assertEqual(len(self.options[command]), len(re.findall(r"^ {2,6}(?:-\w, )?--[a-z]", page, re.M)), command)

    def test_bash_commands(self):
        self.assertEqual(self.bash("qsbits tr"), ["train"])
        self.assertLessEqual({*self.commands, "help", "--help", "--version"}, set(self.bash("qsbits ")))
        self.assertEqual(sorted(self.bash("qsbits help ")), sorted(self.commands))
        self.assertEqual(self.bash("qsbits nothing-of-this-name --"), [])

    def test_bash_options(self):
        self.assertEqual(self.bash("qsbits train --fsm-st"), ["--fsm-state"])
        self.assertIn("--data", self.bash("qsbits train "))
        self.assertNotIn("--prompt", self.bash("qsbits train "))
        for command, options in self.options.items():
            self.assertEqual(sorted(self.bash(f"qsbits {command} --")), sorted("--" + o["name"] for o in options))
            letters = ["-" + o["letter"] for o in options if o["letter"]]
            self.assertEqual(sorted(w for w in self.bash(f"qsbits {command} -") if len(w) == 2), sorted(letters))

    def test_bash_choices(self):
        self.assertEqual(self.bash("qsbits train --fsm-state "), ["t2", "c2", "c4", "c8"])
        for start in ("train --fsm-state=", "train --fsm-state=c", "train --fsm-state c"):
            self.assertEqual([w for w in self.bash("qsbits " + start) if w != "t2"], ["c2", "c4", "c8"])
        for command, options in self.options.items():
            for option in options:
                if option["value"] and "|" in option["value"] and option["value"].islower():
                    self.assertEqual(self.bash(f"qsbits {command} --{option['name']} "), option["value"].split("|"))
        presets = re.findall(r"^  (\w+) +\d+ layers", self.ok("train", "--help").stdout.decode(), re.M)
        self.assertEqual(self.bash("qsbits train --preset "), presets)
        self.assertEqual(self.bash("qsbits eval --cpu "), [level["name"] for level in self.json("info")["levels"]])
        self.assertEqual(self.bash("qsbits completion "), ["bash", "zsh", "fish"])
        self.assertEqual(self.bash("qsbits train --steps "), [])

    def test_bash_paths(self):
        (self.folder / "a run").mkdir()
        every = sorted(p.name for p in self.folder.iterdir())
        for line in ("generate --model ", "generate -m ", "generate --model=", "train --data ", "train --out ", "inspect ",
                     "report text.txt "):
            self.assertEqual(sorted(self.bash("qsbits " + line)), every, line)
        self.assertEqual(self.bash("qsbits generate --model te"), ["text.txt"])
        self.assertIn("--verify", self.bash("qsbits inspect -"))

    @unittest.skipIf(shutil.which("fish") is None, "fish is not installed")
    def test_fish(self):
        self.run_shell("fish", "--no-execute", self.scripts["fish"])
        self.assertEqual(list(self.fish("qsbits tr")), ["train"])
        self.assertEqual(sorted(self.fish("qsbits train --fsm-state ")), ["c2", "c4", "c8", "t2"])
        self.assertEqual(list(self.fish("qsbits generate --model te")), ["text.txt"])
        self.assertEqual(list(self.fish("qsbits generate -n te")), [])
        for command, options in self.options.items():
            offered = self.fish(f"qsbits {command} --")
            self.assertEqual(sorted(offered), sorted("--" + o["name"] for o in options))
            for option in options:
                self.assertEqual(option["help"][:len(offered["--" + option["name"]])], offered["--" + option["name"]])

    @unittest.skipIf(shutil.which("zsh") is None, "zsh is not installed")
    def test_zsh(self):
        self.run_shell("zsh", "-fn", self.scripts["zsh"])
        # The body with stand-ins for what zsh has only while it completes: the specifications as zsh reads them.
        script = self.scripts["zsh"].read_text()
        stand_ins = '_arguments() { print -rl -- "$@"; }\nwords=(qsbits $1 ""); CURRENT=3\ncompdef() { _qsbits; }\n'
        for command, options in self.options.items():
            specs = self.run_shell("zsh", "-fc", stand_ins + script, "zsh", command)
            for option in options:
                sign = "=" if option["value"] else ""
                spec = next((s for s in specs if re.sub(r"^\([^)]*\)", "", s).startswith(f"--{option['name']}{sign}[")), "")
                told = re.search(r"\[((?:\\.|[^]\\])*)\]", spec)
                self.assertIsNotNone(told, f"{command} --{option['name']}")
                self.assertTrue(option["help"].startswith(re.sub(r"\\(.)", r"\1", told.group(1))), spec)

    def test_scripts_are_read(self):
        self.run_shell("bash", "-n", self.scripts["bash"])
        for command, options in self.options.items():
            for option in options:
                self.assertRegex(self.scripts["zsh"].read_text(), rf"'(\(-\w --[\w-]+\))?--{option['name']}[=\[]")
                self.assertRegex(self.scripts["fish"].read_text(), rf"'__qsbits_command {command}' -l {option['name']} ")

    def test_manual(self):
        page = self.ok("manual").stdout.decode("ascii")
        headings = re.findall(r"^\.SH (.+)$", page, re.M)
        self.assertEqual(headings, ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES",
                                    "EXAMPLES", "SEE ALSO"])
        sections = dict(re.findall(r"^\.SS (\w+)\n(.*?)(?=^\.S[SH] )", page, re.M | re.S))
        self.assertEqual(sorted(sections), sorted(self.commands))
        for command, options in self.options.items():
            for option in options:
                tag = f"--{option['name']}" + (f" {option['value']}" if option["value"] else "")
                tag = f"-{option['letter']}, {tag}" if option["letter"] else tag
                told = re.fullmatch(r"(.*?)(?: (\[[^[]*\]))?", option["help"])
                lines = f".TP\n{tag}\n{told.group(1)}\n" + (f"{told.group(2)}\n" if told.group(2) else "")
                self.assertIn(lines, from_roff(sections[command]), command)
            for line in re.findall(r"^Examples:\n  (.+)\n  (.+)$", self.ok(command, "--help").stdout.decode(), re.M)[0]:
                self.assertIn(f"\n{line}\n", from_roff(page))
        for code, meaning in re.findall(r"^  (\d+) +(.+)$", self.ok("--help").stdout.decode(), re.M):
            self.assertIn(f".TP\n{code}\n{meaning}\n", from_roff(page))

    def test_no_line_is_a_request_by_accident(self):
        for line in self.ok("manual").stdout.decode().splitlines():
            self.assertNotRegex(line, r"^(?:'|\.(?!(?:TH|SH|SS|TP|PP|EX|EE|br|nr HY|ad|nh)(?: |$)))")

    def test_wrong_usage(self):
        self.refused(64, "bash|zsh|fish", "completion")
        self.refused(64, ("tcsh", "bash|zsh|fish"), "completion", "tcsh")
        self.refused(64, "unexpected argument", "completion", "bash", "zsh")
        self.refused(64, "unexpected argument", "manual", "train")

    def test_full_output(self):
        for arguments in (("manual",), ("completion", "zsh")):
            with open("/dev/full", "wb") as full:
                result = subprocess.run([QSBITS, *arguments], stdout=full, stderr=subprocess.PIPE, env=self.environment())
            self.assertEqual(result.returncode, 74)


if __name__ == "__main__":
    unittest.main()
