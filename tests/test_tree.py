#!/usr/bin/env python3
"""test_tree.py - the tree obeys tools/check_tree.py, and the checker notices each kind of violation."""
import os
import sys
import tempfile
import unittest

ROOT = os.environ.get("QSBITS_SOURCE", os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import check_tree  # noqa: E402

GOOD = {
    "include/qsbits/a.h": "int a(void);\n",
    "src/core/base.h": "int base(void);\n",
    "src/core/threads.c": '#include <stdio.h>\n#include "core/base.h"\n#pragma omp parallel\n',
    "src/cpu/kernels.h": "int k;\n",
    "src/cpu/one.c": '#include "qsbits/a.h"\n#include "core/base.h"\n#include "kernels.h"\n/* exit(1) in a comment */\n',
    "src/model/net.c": 'static const char *t = "printf(";\n#include "core/base.h"\n',
    "cli/main.c": '#include "qsbits/a.h"\n#include "options.h"\nint main(void) { printf("x"); }\n',
    "cli/options.h": "int o;\n",
    "tests/test_one.c": '#include "cpu/kernels.h"\n#include "core/base.h"\n',
}

# one bad file each: path, content, what the checker must say
BAD = [
    ("src/core/bad.c", '#include "cpu/kernels.h"\n', 'src/core may not include "cpu/kernels.h"'),
    ("src/cpu/bad.c", '#include "model/net.h"\n', 'src/cpu may not include "model/net.h"'),
    ("src/model/bad.c", '#include "cpu/kernels.h"\n', 'src/model may not include "cpu/kernels.h"'),
    ("src/model/up.c", '#include "../cpu/kernels.h"\n', "may not include"),
    ("cli/bad.c", '#include "core/base.h"\n', 'cli may not include "core/base.h"'),
    ("cli/angle.c", "#include <core/base.h>\n", 'cli may not include "core/base.h"'),
    ("backends/x/bad.c", '#include "core/base.h"\n', "backends may not include"),
    ("tests/test_bad.c", '#include "cpu/secret.h"\n', 'tests may not include "cpu/secret.h"'),
    ("src/core/vendor.c", "/* as in CUDA */\n", 'the vendor name "CUDA"'),
    ("src/core/stop.c", "void f(void) { exit(1); }\n", "exit() under src/"),
    ("src/core/stop2.c", "void f(void) { abort (); }\n", "abort() under src/"),
    ("src/core/loud.c", 'void f(void) { fprintf(stderr, "x"); }\n', "fprintf() under src/"),
    ("src/cpu/omp.c", "#pragma omp parallel for\n", "OpenMP outside"),
    ("src/cpu/omp2.c", "int f(void) { return omp_get_thread_num(); }\n", "OpenMP outside"),
    ("src/model/one.c", "int x;\n", "the same name as src/cpu/one.c"),
    ("src/core/long.c", "int x;\n" * 1200, "1200 lines or more"),
    ("src/core/wide.c", "/*" + "x" * 140 + "*/\n", "144 characters"),
    ("src/core/tab.c", "\tint x;\n", "a tab"),
    ("src/core/blank.c", "int x; \n", "blanks at the end"),
    ("src/core/end.c", "int x;", "no newline at the end"),
]


def write_tree(root, files):
    for path, content in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(content)


class TreeTest(unittest.TestCase):
    def test_this_tree(self):
        found = check_tree.check(ROOT)
        self.assertEqual(found, [], "\n" + "\n".join(f"{p}:{n}: {t}" for p, n, t in found))

    def test_good_tree(self):
        with tempfile.TemporaryDirectory() as root:
            write_tree(root, GOOD)
            self.assertEqual(check_tree.check(root), [])
            self.assertEqual(check_tree.main([root]), 0)

    def test_bad_trees(self):
        for path, content, says in BAD:
            with self.subTest(path=path), tempfile.TemporaryDirectory() as root:
                write_tree(root, {**GOOD, path: content})
                found = check_tree.check(root)
                self.assertTrue(any(p == path and says in t for p, n, t in found) or
                                any(says.replace(path, "") in t for p, n, t in found), found)
                self.assertEqual(len(found), 1, found)


if __name__ == "__main__":
    unittest.main(verbosity=1)
