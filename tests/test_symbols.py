#!/usr/bin/env python3
"""test_symbols.py - the functions of libqsbits.so are those of symbols.txt and of the public headers, no more and no fewer.

Programs that embed the library rely on this list: a function that leaves it or changes breaks them."""
import os
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(os.environ.get("QSBITS_SOURCE", pathlib.Path(__file__).resolve().parent.parent))
BUILD = pathlib.Path(os.environ.get("QSBITS_BUILD", ROOT / "build"))
LIST = ROOT / "tests" / "symbols.txt"
ADVICE = """
If the change is wanted, write the list anew,
  nm -D --defined-only build/libqsbits.so | awk '{ print $3 }' | LC_ALL=C sort > tests/symbols.txt
and raise the version in CMakeLists.txt where a function has left or has other parameters: the minor one before 1.0, the
major one from then on. If it is not, a function lacks QS_API or `static`."""


def exported():
    listed = subprocess.check_output(["nm", "-D", "--defined-only", BUILD / "libqsbits.so"], text=True)
    return sorted(line.split()[-1] for line in listed.splitlines())


def declared():
    """Names behind QS_API; the first name before a parenthesis, as results are no pointers to functions."""
    names = []
    for header in sorted((ROOT / "include" / "qsbits").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.S)
        text = re.sub(r"^[ \t]*#(?:.*\\\n)*.*", "", text, flags=re.M)
        names += re.findall(r"\bQS_API\b[^;{(]*?\b(\w+)\s*\(", text)
    return sorted(names)


def differences(have, want, where):
    """Words on what the library exports beside what a list says."""
    gone, new = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    lines = [f"in {where}, but not exported: {name}" for name in gone]
    lines += [f"exported, but not in {where}: {name}" for name in new]
    return "\n" + "\n".join(lines) + ADVICE


class Symbols(unittest.TestCase):
    def test_list(self):
        have, want = exported(), LIST.read_text().split()
        self.assertEqual(want, sorted(set(want)), "tests/symbols.txt is not sorted (LC_ALL=C sort -u)")
        self.assertEqual(have, want, differences(have, want, "tests/symbols.txt"))

    def test_names(self):
        foreign = [name for name in exported() if not re.fullmatch(r"qs_[a-z0-9_]+", name)]
        self.assertEqual(foreign, [], "exported without being the API's; make them static or hidden")

    def test_headers(self):
        have, want = exported(), declared()
        self.assertEqual(len(want), len(set(want)), "a function is declared twice")
        self.assertGreater(len(want), 50, "the headers were not understood")
        self.assertEqual(have, want, differences(have, want, "include/qsbits/*.h"))


if __name__ == "__main__":
    unittest.main()
