#!/usr/bin/env python3
"""check_tree.py [ROOT] - the rules that keep the tree clear, checked on the text of the files.

Prints one line per violation, FILE:LINE: what, and exits 1 if there is any.
  layers    a folder includes only what LAYERS allows
  vendors   no name of a device vendor or its toolkit under src/
  silence   no exit, abort or printing under src/
  threads   OpenMP only in src/core/threads.c
  names     no two files of one kind with the same name under src/ (public headers are named by folder)
  size      fewer than 1200 lines a file, at most 140 characters a line, no tabs, no trailing blanks, a final newline
"""
import os
import re
import sys

# folder -> prefixes of what may be included besides its own folder, system headers and qsbits/
LAYERS = {
    "include/qsbits": [],
    "src/core": [],
    "src/cpu": ["core/"],
    "src/io": ["core/"],
    "src/quant": ["core/"],
    "src/stream": ["core/", "io/"],
    "src/model": ["core/", "io/", "stream/"],
    "src/train": ["core/", "io/", "model/", "stream/"],
    "cli": [],
    "examples": [],
    "backends": [],
    "python": [],
    "bench": ["cpu/kernels.h"],
    # Internal functions of the core, of file formats and of streams are tested directly; kernels only through their table.
    "tests": ["core/", "io/", "stream/", "cpu/kernels.h", "cpu/kernels.def", "cli/"],
}
TOPS = ("include", "src", "cli", "backends", "python", "tests", "bench", "examples", "tools", "scripts")
VENDORS = re.compile(r"(?<![a-z])(cuda|cublas|nvidia|opencl|sycl|oneapi|rocm|vulkan|hip(?![a-z])|directml)", re.I)
LOUD = re.compile(r"\b(exit|_exit|_Exit|quick_exit|abort|assert|v?printf|v?fprintf|v?dprintf|puts|fputs|putchar|perror)\s*\(")
OPENMP = re.compile(r"#\s*pragma\s+omp\b|\bomp_\w+\s*\(|<omp\.h>")
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
SOURCES = (".c", ".h", ".def", ".cu", ".cl", ".cpp")
TEXTS = SOURCES + (".py", ".sh")
MAX_LINES = 1200
MAX_COLUMNS = 140


def files_of(root):
    """The project's own text files, relative to root; what builds and runs leave in the root does not count."""
    for top in TOPS:
        for folder, names, files in os.walk(os.path.join(root, top)):
            names[:] = sorted(n for n in names if n != "__pycache__")
            for name in sorted(files):
                if name.endswith(TEXTS):
                    yield os.path.relpath(os.path.join(folder, name), root)


def without_comments(text):
    """The code with comments and the contents of strings blanked, line numbers kept."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def layer_of(path):
    best = ""
    for folder in LAYERS:
        if path.startswith(folder + "/") and len(folder) > len(best):
            best = folder
    return best


def check_includes(root, path, lines):
    layer = layer_of(path)
    if not layer:
        return
    own = os.path.basename(layer) + "/"
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        name = match.group(1)
        beside = os.path.exists(os.path.join(root, os.path.dirname(path), name))
        internal = any(os.path.exists(os.path.join(root, top, name)) for top in ("src", "."))
        if '"' not in line and not internal:
            continue  # a system header
        if name.startswith("qsbits/") or (beside and ".." not in name):
            continue
        if any(name.startswith(p) for p in [own] + LAYERS[layer]) and layer != "cli":
            continue
        yield number, f'{layer} may not include "{name}"'


def check_source(path, text):
    code = without_comments(text)
    if path.startswith("src/"):
        for number, line in enumerate(text.split("\n"), 1):
            match = VENDORS.search(line)
            if match:
                yield number, f'the vendor name "{match.group(1)}" under src/'
        for number, line in enumerate(code.split("\n"), 1):
            match = LOUD.search(line)
            if match:
                yield number, f"{match.group(1)}() under src/: the library never exits, aborts or prints"
    if path != "src/core/threads.c":
        for number, line in enumerate(code.split("\n"), 1):
            if OPENMP.search(line):
                yield number, "OpenMP outside src/core/threads.c"


def check_text(lines):
    if lines and lines[-1] != "":
        yield len(lines), "no newline at the end"
    if len(lines) - 1 >= MAX_LINES:
        yield len(lines) - 1, f"{MAX_LINES} lines or more"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} characters, at most {MAX_COLUMNS}"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "blanks at the end of the line"


def check(root):
    """All violations as (path, line, text)."""
    found, names = [], {}
    for path in files_of(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        lines = text.split("\n")
        found += [(path, n, t) for n, t in check_text(lines)]
        if not path.endswith(SOURCES):
            continue
        found += [(path, n, t) for n, t in check_includes(root, path, lines)]
        found += [(path, n, t) for n, t in check_source(path, text)]
        if path.startswith("src/"):
            name = os.path.basename(path)
            if name in names:
                found.append((path, 1, f"the same name as {names[name]}"))
            names.setdefault(name, path)
    return found


def main(arguments):
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    if not os.path.isdir(root):
        print(f"check_tree: {root} is not a folder", file=sys.stderr)
        return 66
    found = check(root)
    for path, number, text in found:
        print(f"{path}:{number}: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
