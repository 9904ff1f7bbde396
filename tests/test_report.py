"""`qsbits report`: what it reads (run folders made by hand and by training, comparisons, damaged and hostile files), that the page
needs nothing but itself, and, where a browser is installed, that it draws everything on a phone and on a desk, light and dark."""
import base64
import html.parser
import json
import math
import os
import pathlib
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cli_helpers import CliCase  # noqa: E402

BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
SANITIZED = os.environ.get("QSBITS_SANITIZE", "0").upper() in ("1", "ON", "TRUE")
NO_BROWSER = "no chromium installed" if BROWSER is None else "a sanitizer build" if SANITIZED else None
BUILD = os.environ.get("QSBITS_BUILD")
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;'\"\u2028"
LOUD_PNG = 8  # a picture with fewer different colours is blank
MATRIX = "model.layers.0.self_attn.q_proj.weight"
FIGURES = ("density", "pulses", "flips", "dead", "oscillating", "deepest", "scale_drift", "gradient_rms")


# ---- folders made by hand ------------------------------------------------------------------------------------------------

def health_line(step, layers):
    def figures(l):
        heat = math.exp(-step / 400) * (1 + l / 10)
        return dict(zip(FIGURES, (0.8 * heat, 0.7 * heat, 0.02 * heat * heat, 0.5 - 0.4 * heat, 0.03 * heat, 0.1, 0.2 - 0.1 * heat,
                                  1e-4 * heat)))
    return {"step": step, "health": {"window": 50, "all": figures(layers / 2), "layers": [figures(l) for l in range(layers)]},
            "memory": {"weights": 1000000, "state": 4000000, "activations": 9000000, "rss": 30000000}, "seconds": 0.1 * step}


def metric_lines(steps=1000, offset=0.0, layers=4, every=1):
    lines = [{"step": 0, "val_loss": 5.6, "val_tokens": 100, "final": True, "seconds": 0}]
    for step in range(every, steps + 1, every):
        loss = 1.5 + offset + 4 * math.exp(-step / 80) + 0.05 * math.sin(step * 1.7)
        lines.append({"step": step, "tokens": 512 * step, "loss": loss, "lr": 0.01, "density": 0.5, "pulses": 0.4, "flips": 0.01,
                      "tokens_per_second": 1000.0, "seconds": 0.1 * step})
        if step % 50 == 0:
            lines.append(health_line(step, layers))
            lines.append({"step": step, "val_loss": 1.55 + offset + 4 * math.exp(-step / 80), "val_tokens": 100, "seconds": 0})
    return lines


def config(**training):
    return {"qsbits": "0.1.0", "options": {"data": "/tmp/text.txt", "eval-every": "50"},
            "model": {"vocab": 256, "layers": 4, "dim": 64, "ctx": 16, "tied": False},
            "training": {"optimizer": "fsm", "fsm_state": "c4", "steps": 1000, "batch": 32, "seed": 1, "lr": 0.004, **training},
            "text": {"tokens": 20000, "entropy0": 2.9, "entropy1": 2.2, "hash": "0" * 32}}


def result(loss, **more):
    return {"step": 1000, "steps": 1000, "tokens": 512000, "seconds": 100.0, "step_seconds": 90.0, "tokens_per_second": 5688.9,
            "train_loss": loss - 0.02, "val_loss": loss, "best_loss": loss, "best_step": 950, "flips_per_weight": 3.2,
            "packed_bits_per_weight": 1.1, "training_bits_per_weight": 6.15, "packed_weights": 98304, "training_bytes": 75571,
            "adamw16_bytes": 1179648, "peak_rss_bytes": 44000000, "peak_bytes": 40000000, "stopped": "steps",
            "memory": {"weights": 1200000, "state": 4300000, "activations": 21000000, "kv-cache": 0, "other": 50000}, **more}


def write_run(folder, settings, lines, end=None, tail=""):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + tail)
    if end is not None:
        (folder / "result.json").write_text(json.dumps(end))
    return folder


def write_comparison(folder, arms=(("fsm:c4", 0.0), ("ste", 0.3), ("frozen", 0.6), ("adamw", 0.1)), seeds=3, tested=False):
    """tested: with a test part, whose losses are larger by 1, and a second text."""
    rows = []
    for arm, offset in arms:
        runs = []
        for seed in range(1, seeds + 1):
            name, loss = f"{arm.replace(':', '-')}-{seed}", 1.55 + offset + 0.02 * seed * (1 + offset)
            write_run(folder / name, config(optimizer=arm.split(":")[0], seed=seed), metric_lines(400, offset + 0.02 * seed, 2, 2),
                      result(loss, training_bits_per_weight=6.15 + 90 * offset, **figures(loss, tested)))
            runs.append({"seed": seed, "folder": name, "val_loss": loss, **figures(loss, tested)})
        rows.append({"arm": arm, "lr": 0.004, "runs": runs, "loss": {"mean": runs[0]["val_loss"] + 0.02, "stderr": 0.01},
                     "closure": {"mean": (0.6 - offset) / 0.3, "stderr": 0.04},
                     "difference": None if arm == "ste" else {"to": "ste", "mean": offset - 0.3, "stderr": 0.02},
                     "bits_per_weight": 6.15 + 90 * offset, "tokens_per_second": 5000.0, "flips_per_weight": 1.2})
        if tested:
            rows[-1] |= {"validation": rows[-1]["loss"], "also": {"mean": 0.25 + offset, "stderr": 0.005},
                         "loss": {"mean": rows[-1]["loss"]["mean"] + 1, "stderr": 0.01}}
    (folder / "compare.json").write_text(json.dumps({"qsbits": "0.1.0", "arms": rows, "reference": "ste", "seeds": [1, 2, 3],
                                                     "steps": 400, "text": {}, **({"split": "test", "also": True} if tested else {})}))
    return folder


def figures(loss, tested):
    return {"test_loss": loss + 1, "also_loss": 3.25, "also_loss_start": 3.0} if tested else {}


# ---- the page ------------------------------------------------------------------------------------------------------------

class Page(html.parser.HTMLParser):
    """Tags are balanced; collects attributes, the texts of scripts by id, and everything that would be loaded."""
    VOID = {"meta", "img", "link", "br", "hr", "input", "path"}

    def __init__(self, text):
        super().__init__()
        self.open, self.scripts, self.ids, self.loads, self.problems = [], {}, [], [], []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [values[key] for key in ("src", "href", "data", "poster") if values.get(key)]
        self.current = values.get("id", "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes another")

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts[self.current] = self.scripts.get(self.current, "") + text


class ReportCase(CliCase):
    def report(self, *operands, name="page.html", **more):
        path = self.folder / name
        done = self.ok("report", *operands, "--out", path, **more)
        return path, done.stderr.decode()

    def check_page(self, path):
        """The data of a page that is well formed and loads nothing."""
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        self.assertEqual(page.problems, [])
        self.assertEqual(len(page.ids), len(set(page.ids)))
        self.assertEqual(page.loads, [])
        outside = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s'\"]*", text)) - {"http://www.w3.org/2000/svg"}
        self.assertEqual(outside, set())
        self.assertNotRegex(text, r"@import|url\((?!#)|\{\{(style|plot|script|data)\}\}")
        return json.loads(page.scripts["data"])


class Reading(ReportCase):
    def test_one_run(self):
        run = write_run(self.folder / "one", config(), metric_lines(3000), result(1.55))
        path, told = self.report(run)
        self.assertRegex(told, r"page\.html: 1 run, [0-9.]+ kB\n$")
        data = self.check_page(path)
        found = data["runs"][0]
        self.assertEqual((found["label"], found["arm"], found["memory_peak"], found["peak"]), ("one", None, True, 40000000))
        self.assertEqual(found["training"]["lr"], 0.004)
        for curve in (found["train"], found["val"], {"step": found["health"]["step"], **found["health"]["all"]}):
            self.assertLessEqual(len(curve["step"]), 1000)
            for column in curve.values():
                self.assertEqual(len(column), len(curve["step"]))
        self.assertEqual([found["train"]["step"][i] for i in (0, -1)], [1, 3000])
        self.assertEqual(found["train"]["step"], sorted(set(found["train"]["step"])))
        lines = [line for line in metric_lines(3000) if "loss" in line]
        self.assertAlmostEqual(found["train"]["loss"][0], lines[0]["loss"], 4)
        self.assertAlmostEqual(found["train"]["loss"][-1], lines[-1]["loss"], 4)
        average = sum(line["loss"] for line in lines[1:-1]) / (len(lines) - 2)
        self.assertAlmostEqual(sum(found["train"]["loss"][1:-1]) / 998, average, 2)
        self.assertEqual([found["val"]["step"][i] for i in (0, -1)], [0, 3000])
        self.assertEqual(len(found["health"]["layers"]), 4)
        self.assertEqual(set(found["health"]["all"]), set(FIGURES))
        self.assertIn("no valid checkpoint", found["bits"]["note"])

    def test_same_bytes_and_standard_output(self):
        run = write_run(self.folder / "one", config(), metric_lines(100))
        path, _ = self.report(run)
        again, _ = self.report(run, name="again.html")
        self.assertEqual(path.read_bytes(), again.read_bytes())
        done = self.ok("report", run, "--out", "-")
        self.assertEqual(done.stdout, path.read_bytes())
        self.assertRegex(done.stderr.decode(), r"^standard output: 1 run, [0-9.]+ kB\n$")
        self.assertEqual(list(self.folder.glob("*.tmp")), [])

    def test_page_is_replaced(self):
        run = write_run(self.folder / "one", config(), [])
        (self.folder / "page.html").write_text("old")
        self.check_page(self.report(run)[0])

    def test_run_in_progress(self):
        lines = metric_lines(120)
        run = write_run(self.folder / "going", config(), lines, None, json.dumps(lines[-1])[:40])
        found = self.check_page(self.report(run)[0])["runs"][0]
        self.assertIsNone(found["result"])
        self.assertEqual((found["last_step"], found["memory_peak"] if "memory_peak" in found else False), (120, False))
        self.assertEqual(found["memory"], {"weights": 1000000, "state": 4000000, "activations": 9000000})
        self.assertEqual(found["peak"], 14000000)
        shutil.rmtree(run)
        run = write_run(self.folder / "going", config(), [])
        (run / "metrics.jsonl").unlink()
        found = self.check_page(self.report(run)[0])["runs"][0]
        self.assertEqual((found["train"]["step"], found["val"]["step"], found["health"]), ([], [], None))

    def test_odd_lines(self):
        lines = ['{"step":1,"loss":null,"pulses":"x","flips":[]}\n', '{"step":2,"loss":2.5,"unknown":{"a":1}}\n',
                 '{"step":3,"future":1}\n', '{"step":4,"val_loss":null}\n', '{"step":2,"loss":2.25}\n', '{"step":5,"loss":1e308}\n',
                 '{"step":6,"health":{"window":5,"all":null,"layers":[{"dead":null},3]},"memory":{"weights":"x"}}\n',
                 '{"step":7,"health":{"layers":[]}}\n',
                 '{"step":8,"warning":{"layer":1,"figure":"dead","value":0.9,"least":0,"most":0.6,"text":"layer 1 is dead"}}\n',
                 '{"step":8,"warning":{}}\n', "\x00garbage"]
        found = self.check_page(self.report(write_run(self.folder / "odd", config(), lines))[0])["runs"][0]
        self.assertEqual(found["train"]["step"], [1, 2, 5])
        self.assertEqual(found["train"]["loss"][:2], [None, 2.25])   # the later line of a step holds
        self.assertEqual(found["val"], {"step": [4], "loss": [None]})
        self.assertEqual([w["text"] for w in found["warnings"]], ["layer 1 is dead", ""])
        self.assertEqual(found["warning_count"], 2)

    def test_many_layers_and_warnings(self):
        warnings = [{"step": 1000 + i, "warning": {"figure": "dead", "text": f"warning {i}"}} for i in range(300)]
        run = write_run(self.folder / "deep", config(), metric_lines(20000, layers=48, every=50) + warnings)
        path, _ = self.report(run)
        found = self.check_page(path)["runs"][0]
        self.assertEqual(len(found["health"]["layers"]), 48)
        self.assertLessEqual(len(found["health"]["step"]), 200)
        self.assertEqual((len(found["warnings"]), found["warning_count"]), (100, 300))
        self.assertLess(path.stat().st_size, 1500000)

    def test_hostile_names_and_texts(self):
        settings = config(fsm_state=HOSTILE, **{HOSTILE: HOSTILE})
        settings["options"] = {HOSTILE: "x" * 5000, "data": ["list"]}
        lines = [{"step": 1, "warning": {"layer": HOSTILE, "figure": HOSTILE, "text": HOSTILE}}]
        name = HOSTILE.replace("/", "|") + "\t\n"
        end = result(1.5, stopped=HOSTILE, memory={HOSTILE: 5, "weights": -1, "state": 1e300})
        run = write_run(self.folder / name, settings, lines, end)
        path, _ = self.report(run)
        data = self.check_page(path)
        text = path.read_text(encoding="utf-8")
        self.assertEqual(text.count("</script>"), 3)
        self.assertEqual(text.count("<img"), 0)
        self.assertEqual(data["runs"][0]["label"], name)
        self.assertEqual(data["runs"][0]["training"][HOSTILE], HOSTILE)
        self.assertEqual(len(data["runs"][0]["options"][HOSTILE]), 400)
        self.assertNotIn("data", data["runs"][0]["options"])

    def test_names_that_are_no_text(self):
        folder = os.fsencode(self.folder) + b"/run-\xff\xc3"
        run = write_run(self.folder / "plain", config(), metric_lines(5))
        os.rename(run, folder)
        path = self.folder / "page.html"
        done = subprocess.run([os.environ.get("QSBITS", "qsbits"), "report", folder, "--out", path], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.check_page(path)["runs"][0]["label"], "run-\ufffd\ufffd")

    def test_equal_labels(self):
        first = write_run(self.folder / "a" / "run", config(), metric_lines(5))
        second = write_run(self.folder / "b" / "run", config(), metric_lines(5))
        third = write_run(self.folder / "b" / "other", config(), metric_lines(5))
        runs = self.check_page(self.report(first, second, str(third) + "/")[0])["runs"]
        self.assertEqual([run["label"] for run in runs], [str(first), str(second), "other"])

    def test_comparison(self):
        folder = write_comparison(self.folder / "compare")
        own = write_run(self.folder / "own", config(), metric_lines(50), result(2.0))
        shutil.rmtree(folder / "adamw-3")
        path, told = self.report(folder, own)
        self.assertRegex(told, r"(?s)^qsbits report: warning: .*adamw-3 is gone; .*page\.html: 12 runs, [0-9.]+ kB\n$")
        data = self.check_page(path)
        arms = data["comparisons"][0]["arms"]
        self.assertEqual([arm["arm"] for arm in arms], ["fsm:c4", "ste", "frozen", "adamw"])
        self.assertEqual([r["run"] for r in arms[3]["runs"]], [9, 10, None])
        self.assertIsNone(arms[1]["difference"])
        self.assertEqual(arms[0]["closure"], {"mean": 2.0, "stderr": 0.04})
        for arm in arms:
            for run in arm["runs"][:2]:
                found = data["runs"][run["run"]]
                self.assertEqual((found["comparison"], found["arm"], found["seed"]), (0, arm["arm"], run["seed"]))
        self.assertEqual((data["runs"][11]["label"], data["runs"][11]["arm"]), ("own", None))
        self.assertEqual([data["comparisons"][0][key] for key in ("tested", "also")], [False, False])

    def test_comparison_with_a_test_part(self):
        data = self.check_page(self.report(write_comparison(self.folder / "compare", tested=True))[0])
        comparison = data["comparisons"][0]
        self.assertEqual((comparison["tested"], comparison["also"]), (True, True))
        for arm in comparison["arms"]:
            self.assertAlmostEqual(arm["loss"]["mean"] - arm["validation"]["mean"], 1, 9)
            for run in arm["runs"]:
                self.assertAlmostEqual(run["test_loss"] - run["val_loss"], 1, 9)
                self.assertEqual(data["runs"][run["run"]]["result"]["also_loss"], 3.25)


class Refusing(ReportCase):
    def refuse(self, code, words, *operands):
        message = self.refused(code, words, "report", *operands, "--out", self.folder / "page.html")
        self.assertEqual(list(self.folder.glob("page.html*")), [])
        return message

    def test_operands(self):
        self.refuse(64, "nothing to report on")
        self.refuse(66, ["missing", "No such file"], self.folder / "missing")
        self.refuse(65, ["text.txt", "no folder"], self.text)
        self.refuse(65, ["neither config.json nor compare.json"], self.folder)
        self.refuse(66, "File name too long", "x" * 300)

    def test_config(self):
        run = write_run(self.folder / "run", config(), [])
        for text, words in (("", "line"), ('{\n"qsbits": }', "config.json, line 2"), ("[1]", "no JSON object"),
                            ('{"options": {}}', "not from qsbits train"), ('{"qsbits": "1"}', "not from qsbits train"),
                            ("[" * 100000, "config.json, line 1"), ('{"a": "' + "x" * (1 << 20) + '"}', "larger than")):
            (run / "config.json").write_text(text)
            self.refuse(65, words, run)

    def test_result(self):
        run = write_run(self.folder / "run", config(), [])
        (run / "result.json").write_text("{")
        self.refuse(65, "result.json, line 1", run)

    def test_metrics(self):
        good = json.dumps({"step": 1, "loss": 2.0}) + "\n"
        for line, words in (("garbage\n", "line 2"), ("\n", "line 2"), ("[]\n", "no \"step\""), ('{"loss":1}\n', "no \"step\""),
                            ('{"step":-1}\n', "no \"step\""), ('{"step":1.5}\n', "no \"step\""), ('{"step":1e999}\n', "line 2"),
                            ("a\x00b\n", "zero byte"), ('{"step":' + " " * (1 << 22) + "1}\n", "bytes")):
            run = write_run(self.folder / "run", config(), [good, line, good])
            self.refuse(65, ["metrics.jsonl, line 2", words], run)
            shutil.rmtree(run)

    def test_comparison(self):
        folder = write_comparison(self.folder / "compare", seeds=1)
        plain = json.loads((folder / "compare.json").read_text())
        for name in ("../run", "/etc", "..", ".", "", None, 5):
            plain["arms"][0]["runs"][0]["folder"] = name
            (folder / "compare.json").write_text(json.dumps(plain))
            self.refuse(65, "does not lie in it", folder)
        for text, words in (("{", "compare.json, line 1"), ("{}", "holds no arms"), ('{"arms": 5}', "holds no arms")):
            (folder / "compare.json").write_text(text)
            self.refuse(65, words, folder)
        (folder / "compare.json").write_text(json.dumps({"arms": [5, None, {"runs": 3}, {"loss": [], "closure": "x"}]}))
        self.assertEqual(self.check_page(self.report(folder)[0])["runs"], [])

    def test_too_many_runs(self):
        run = write_run(self.folder / "run", config(), [])
        self.refuse(64, "more than 256 runs", *[run] * 257)

    def test_out(self):
        run = write_run(self.folder / "run", config(), [])
        for out, words in ((self.folder / "no" / "page.html", "cannot create"), (self.folder, "directory"), ("", "empty"),
                           ("x" * 5000, "too long")):
            self.refused(64 if out == "" or len(str(out)) > 4096 else 73, words, "report", run, "--out", out)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["run", "text.txt"])

    def test_disk_full(self):
        run = write_run(self.folder / "run", config(), [])
        before = sorted(p.name for p in self.folder.iterdir())
        self.refused(74, "too large", "report", run, "--out", self.folder / "page.html",
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), before)

    def test_link(self):
        """A link is followed, and files beside the page stay."""
        run, page, link = write_run(self.folder / "run", config(), []), self.folder / "page.html", self.folder / "link.html"
        (self.folder / "link.html.tmp").write_text("precious")
        page.write_text("old")
        link.symlink_to(page)
        self.ok("report", run, "--out", link)
        self.assertTrue(link.is_symlink())
        self.assertIn("<html", page.read_text())
        self.assertEqual((self.folder / "link.html.tmp").read_text(), "precious")

    def test_no_plain_files(self):
        run = write_run(self.folder / "run", config(), [])
        (run / "metrics.jsonl").unlink()
        os.mkfifo(run / "metrics.jsonl")
        self.refused(65, "metrics.jsonl is no plain file", "report", run)

    def test_pipe(self):
        """What is no plain file is written as it is, not replaced by one."""
        run, pipe = write_run(self.folder / "run", config(), []), self.folder / "pipe"
        os.mkfifo(pipe)
        reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
        self.ok("report", run, "--out", pipe)
        page = reader.communicate(timeout=60)[0]
        self.assertTrue(page.rstrip().endswith(b"</html>"))
        self.assertTrue(pipe.is_fifo())


# ---- bit maps ------------------------------------------------------------------------------------------------------------

WRITER = r"""
#include <stdio.h>
#include <string.h>
#include "qsbits/qsbits.h"
enum { ROWS = 600, COLS = 640 };
/* Word i of row n: its number, and in the second checkpoint with one bit flipped in every row. */
static qs_status fetch(void *user, int64_t index, void *bytes, int64_t count)
{
    unsigned *word = bytes;
    (void)index;
    for (unsigned i = 0; i < count / 4; i++)
        word[i] = i ^ (*(int *)user && i % (COLS / 32) == 0 ? 1u : 0u);
    return QS_OK;
}
int main(int argc, char **argv)
{
    for (int i = 0; i < 2; i++) {
        char folder[4096];
        qs_saved_tensor t;
        memset(&t, 0, sizeof t);
        strcpy(t.name, "model.layers.0.self_attn.q_proj.weight");
        t.format = QS_W1;
        t.rank = 2;
        t.shape[0] = ROWS;
        t.shape[1] = COLS / 32;
        snprintf(folder, sizeof folder, "%s/step-0000000%d", argv[argc - 1], i + 1);
        if (qs_checkpoint_write(NULL, folder, &t, 1, fetch, &i, "{\"config\": {}, \"step\": 1}") != QS_OK)
            return fprintf(stderr, "%s\n", qs_last_error()) ? 1 : 0;
    }
    return 0;
}
"""


class BitMaps(ReportCase):
    def bits_of(self, run, tensor):
        done = json.loads(self.ok("inspect", run, "--tensor", tensor, "--words", 0, "--json").stdout)
        return done["values"]

    def unpack(self, maps, key):
        raw = base64.b64decode(maps[key], validate=True)
        self.assertEqual(len(raw), maps["shown_rows"] * maps["shown_cols"] // 8)
        return [1 if raw[i // 8] >> (i % 8) & 1 else -1 for i in range(8 * len(raw))]

    def test_trained_run(self):
        run = self.folder / "run"
        self.train(run, "--save-every", 1, "--keep", 20, "--health", 4, steps=12)
        tensor = "model.layers.1.mlp.up_proj.weight"
        for name, more in ((MATRIX, ()), (tensor, ("--tensor", tensor))):
            found = self.check_page(self.report(run, *more)[0])["runs"][0]
            maps = found["bits"]
            self.assertEqual((maps["tensor"], maps["before_from"], maps["checkpoint"]), (name, "seed", "step-00000012"))
            self.assertEqual((maps["shown_rows"], maps["shown_cols"]), (maps["rows"], maps["cols"]))
            after = self.bits_of(run, name)
            self.assertEqual(self.unpack(maps, "after"), after)
            flipped = sum(a != b for a, b in zip(self.unpack(maps, "before"), after))
            self.assertAlmostEqual(maps["flipped"], flipped / len(after), 9)
            self.assertGreater(flipped, 0)
            self.assertLess(maps["flipped"], 0.4)    # other signs would differ in half of all places
        self.assertGreater(found["result"]["val_loss"], 0)
        self.assertEqual(len(found["health"]["layers"]), 2)
        self.refused(65, ["'no.such'", "qsbits inspect"], "report", run, "--tensor", "no.such", "--out", self.folder / "x.html")

    def test_frozen_and_dense(self):
        for name in ("frozen", "adamw"):
            self.train(self.folder / name, "--optimizer", name, steps=2)
        frozen, dense = self.check_page(self.report(self.folder / "frozen", self.folder / "adamw")[0])["runs"]
        self.assertEqual((frozen["bits"]["flipped"], frozen["bits"]["before"]), (0.0, frozen["bits"]["after"]))
        self.assertIn("no 1-bit weights", dense["bits"]["note"])

    def test_damaged_checkpoint(self):
        run = self.folder / "run"
        self.train(run, "--save-every", 4, "--keep", 9, steps=8)
        path = run / "step-00000008" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        page, told = self.report(run)
        self.assertRegex(told, "warning: .*step-00000008.*passed over")
        self.assertEqual(self.check_page(page)["runs"][0]["bits"]["checkpoint"], "step-00000004")

    @unittest.skipIf(SANITIZED or not BUILD or not os.path.exists(os.path.join(BUILD, "libqsbits.so")),
                     "needs the shared library of a plain build")
    def test_no_seed_and_a_large_matrix(self):
        source = self.folder / "writer.c"
        source.write_text(WRITER)
        include = pathlib.Path(__file__).resolve().parent.parent / "include"
        subprocess.run([os.environ.get("CC", "cc"), source, "-I", include, "-L", BUILD, f"-Wl,-rpath,{BUILD}", "-lqsbits", "-o",
                        self.folder / "writer"], check=True)
        run = write_run(self.folder / "run", config(), [])
        subprocess.run([self.folder / "writer", run], check=True)
        maps = self.check_page(self.report(run)[0])["runs"][0]["bits"]
        self.assertEqual([maps[key] for key in ("rows", "cols", "shown_rows", "shown_cols")], [600, 640, 512, 512])
        self.assertEqual((maps["before_from"], maps["checkpoint"]), ("step-00000001", "step-00000002"))
        self.assertAlmostEqual(maps["flipped"], 1 / 640, 9)
        before, after = self.unpack(maps, "before"), self.unpack(maps, "after")
        changed = [i for i in range(512 * 512) if before[i] != after[i]]
        self.assertEqual(changed, list(range(0, 512 * 512, 512)))
        shutil.rmtree(run / "step-00000001")
        maps = self.check_page(self.report(run)[0])["runs"][0]["bits"]
        self.assertIn("no seed and no older checkpoint", maps["note"])


# ---- in a browser --------------------------------------------------------------------------------------------------------

def pixels(path):
    """Width, height and rows of an RGB or RGBA picture of a browser."""
    data, at, packed = path.read_bytes(), 8, b""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8 and kind in (2, 6)
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at:at + 8])
        packed += data[at + 8:at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    raw, n = zlib.decompress(packed), 3 if kind == 2 else 4
    rows, previous, stride = [], bytes(width * n), width * n
    for y in range(height):
        method, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for i in range(stride):
            a, b, c = line[i - n] if i >= n else 0, previous[i], previous[i - n] if i >= n else 0
            if method == 1:
                line[i] = (line[i] + a) & 255
            elif method == 2:
                line[i] = (line[i] + b) & 255
            elif method == 3:
                line[i] = (line[i] + (a + b) // 2) & 255
            elif method == 4:
                p = a + b - c
                nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                line[i] = (line[i] + nearest) & 255
        rows.append([tuple(line[i:i + 3]) for i in range(0, stride, n)])
        previous = bytes(line)
    return width, height, rows


@unittest.skipIf(NO_BROWSER is not None, f"pages are not drawn: {NO_BROWSER}")
class Drawing(ReportCase):
    def browse(self, path, *flags):
        profile = tempfile.mkdtemp(prefix="qsbits-browser-")
        self.addCleanup(shutil.rmtree, profile, True)
        done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
                               f"--user-data-dir={profile}", *flags, path.as_uri()], capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace")[-2000:])
        return done.stdout.decode(errors="replace")

    def frame(self, path, width, height):
        """A page that shows another one at a width below the least one of a window, and tells what that measures."""
        measuring = path.with_suffix(".measured.html")
        script = """<script>addEventListener('load', () => {
            const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
                && !e.closest('.scroll') && !e.closest('svg')).map(e => e.tagName + '.' + e.className);
            const told = {inner: innerWidth, scroll: document.documentElement.scrollWidth, wide};
            parent.postMessage(JSON.stringify(told), '*'); });</script>"""
        measuring.write_text(path.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
        outer = path.with_suffix(".frame.html")
        outer.write_text('<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0"><pre id="told"></pre>'
                         "<script>addEventListener('message', e => document.getElementById('told').textContent = e.data)</script>"
                         f'<iframe style="border:0;position:fixed;left:0;top:0" width="{width}" height="{height}" src="{measuring.name}">'
                         "</iframe>")
        return outer

    def draw(self, path, script=""):
        """The document after the page has drawn itself and a script has played its reader."""
        played = path.with_suffix(".played.html")
        played.write_text(path.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        dom = self.browse(played, "--dump-dom")
        self.assertRegex(dom, r'<pre id="errors" role="alert" hidden="">\s*</pre>')
        return dom

    def picture(self, dom, name):
        found = re.search(rf'data-picture="{name}"(.*?)</svg>(.*?)</div></div>', dom, re.S)
        self.assertIsNotNone(found, name)
        return found

    def check_width(self, path):
        dom = self.browse(self.frame(path, 390, 844), "--dump-dom", "--virtual-time-budget=3000")
        told = json.loads(re.search(r'<pre id="told">(.*?)</pre>', dom).group(1))
        self.assertEqual((told["inner"], told["scroll"], told["wide"]), (390, 390, []))

    def check_pictures(self, path):
        for width, height in ((390, 844), (1280, 900)):
            shown = self.frame(path, width, height) if width < 500 else path
            for dark in (False, True):
                image = self.folder / f"{path.stem}-{width}-{'dark' if dark else 'light'}.png"
                self.browse(shown, f"--window-size={width},{height}", f"--screenshot={image}",
                            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=3000")
                w, h, rows = pixels(image)
                self.assertEqual((w, h), (width, height))
                self.assertGreaterEqual(len({p for row in rows[::3] for p in row}), LOUD_PNG)
                paper = sum(rows[h // 2][2]) / 3
                (self.assertLess if dark else self.assertGreater)(paper, 60 if dark else 200)

    def test_trained_run(self):
        run = self.folder / "run"
        self.train(run, "--health", 4, "--eval-every", 4, steps=24)
        path, _ = self.report(run)
        dom = self.draw(path)
        for name in ("loss", *("health-" + figure for figure in FIGURES if figure != "density")):
            self.assertRegex(self.picture(dom, name).group(1), r'class="curve" d="M[0-9.]+ -?[0-9.]+L', name)
        self.assertEqual(dom.count("<canvas"), 3)
        self.check_width(path)
        self.check_pictures(path)

    def test_comparison(self):
        path, _ = self.report(write_comparison(self.folder / "compare"), write_run(self.folder / ("x" * 60), config(), metric_lines(50)))
        dom = self.draw(path)
        self.assertEqual(len(re.findall(r'data-picture="forest-[a-z]+-0"', dom)), 2)
        curves = self.picture(dom, "loss").group(1).count('class="curve"')
        self.assertEqual(curves, 4 * (1 + 3 + 1) + 2)   # of each arm: training, seeds, their mean; of the run: training, validation
        self.check_width(path)

    def test_comparison_with_a_test_part(self):
        """Test losses in table, picture and cards, and what the second text lost; without the options no row of them."""
        tested, plain = write_comparison(self.folder / "tested", tested=True), write_comparison(self.folder / "plain")
        names = ("Test loss", "Change on the second text", "Second text, at the start", "test part")
        for folder, holds in ((tested, True), (plain, False)):
            path, _ = self.report(folder)
            dom = self.draw(path)
            drawn = dom[:dom.index('<script type="application/json"')]
            for name in names:
                self.assertEqual(name in drawn, holds, name)
            if holds:
                self.assertRegex(drawn, r"2\.5900<span[^>]*> ± 0\.0100</span></td>")         # test loss of fsm:c4
                self.assertRegex(drawn, r"1\.5900<span[^>]*> ± 0\.0100</span></td>")         # its validation
                self.assertRegex(drawn, r"\+0\.2500<span[^>]*> ± 0\.0050</span></td>")
                self.assertRegex(drawn, r"test 2\.5900")
                self.assertIn('aria-label="Test loss of every arm', drawn)
            self.check_width(path)

    def test_reader(self):
        """Hiding a run, the switches, the choosers, touching a picture, walking it with the keys."""
        runs = [write_run(self.folder / name, config(), metric_lines(100, offset), result(1.5 + offset))
                for name, offset in (("first", 0.0), ("second", 0.5))]
        path, _ = self.report(*runs)
        hide = "[...document.querySelectorAll('.chip')].find(c => c.textContent === 'first').click();"
        dom = self.draw(path, hide)
        self.assertEqual(self.picture(dom, "loss").group(1).count('class="curve"'), 2)
        plot = "document.querySelector('[data-picture=loss]')"
        touch = f"""const area = {plot}.getBoundingClientRect();
            {plot}.dispatchEvent(new PointerEvent('pointerdown', {{clientX: area.right - 10, clientY: area.top + 40, bubbles: true}}));"""
        self.assertRegex(self.picture(self.draw(path, touch), "loss").group(2),
                         r"<b>step 100</b>.*second<.*3\.1960.*first<.*2\.6960")
        key = f"for (const key of ['Home', 'ArrowRight', 'ArrowRight']) {plot}.dispatchEvent(new KeyboardEvent('keydown', {{key}}));"
        self.assertRegex(self.picture(self.draw(path, key), "loss").group(2), r"<b>step 2</b>.*first, training")
        everything = """document.querySelectorAll('.switch button, .chip').forEach(b => b.click());
            document.querySelectorAll('select').forEach(s => { s.selectedIndex = 1; s.dispatchEvent(new Event('change')); });
            document.querySelectorAll('canvas').forEach(c => c.click()); window.dispatchEvent(new Event('beforeprint'));"""
        dom = self.draw(path, everything)
        self.assertNotRegex(dom, "<details(?! open)")
        self.assertNotIn('class="curve"', dom[dom.index('data-picture="loss"'):dom.index('id="health"')])

    def test_odd_runs(self):
        hostile = write_run(self.folder / (HOSTILE.replace("/", "|") * 3), config(fsm_state=HOSTILE),
                            [{"step": 1, "warning": {"text": HOSTILE + "y" * 300}}, *metric_lines(3)],
                            result(1.5, val_loss=None, memory={HOSTILE: 1}))
        empty = write_run(self.folder / "empty", config(), [])
        nothing = write_run(self.folder / "nothing", {"qsbits": "1", "options": {}}, ['{"step":1,"loss":null,"flips":null}\n'])
        for runs in ((hostile, empty, nothing), (empty,), (nothing,)):
            path, _ = self.report(*runs)
            dom = self.draw(path)
            self.assertNotIn("<img", dom)
            self.check_width(path)


if __name__ == "__main__":
    if NO_BROWSER is not None:
        print("pages are not drawn: " + NO_BROWSER)
    unittest.main()
