#!/usr/bin/env python3
"""test_bench.py - qsbits bench and qsbits info --self-test: that they run, what they tell, peers, comparisons, messages.
Times themselves are tested nowhere: shapes are tiny and each row gets a hundredth of a second."""
import copy
import json
import math
import os
import pathlib
import unittest

from cli_helpers import CliCase

PEERS = pathlib.Path(os.environ.get("QSBITS_BUILD", "build")) / "tests" / "peers"
SHAPE = ("--shape", "5,64,96")
QUICK = ("--seconds", "0.01", "--threads", "1")
PRODUCTS = {"linear", "linear_dx", "fsm_visit c4", "linear_dw", "dense"}
CLASSES = ["f32", "int8", "bf16"]


def peer(kind):
    return PEERS / f"peer_{kind}.so"


class Bench(CliCase):
    def bench(self, *arguments, **more):
        return self.json("bench", *QUICK, *arguments, **more)

    def save(self, told, name="old.json"):
        path = self.folder / name
        path.write_text(json.dumps(told))
        return path


class Rows(Bench):
    def test_products(self):
        told = self.bench(*SHAPE)
        self.assertEqual({r["product"] for r in told["rows"]}, PRODUCTS)
        self.assertNotIn("step", told)
        for row in told["rows"]:
            self.assertEqual((row["m"], row["n"], row["k"]), (5, 64, 96))
            self.assertGreaterEqual(row["runs"], 1)
            self.assertLessEqual(row["p10"], row["seconds"])
            self.assertLessEqual(row["seconds"], row["p90"])
            self.assertGreater(row["cycles_per_weight"], 0)
            self.assertTrue(math.isclose(row["gops"], 2 * 5 * 64 * 96 / row["seconds"] * 1e-9))
            self.assertTrue(math.isclose(row["limit_share"], row["limit_seconds"] / row["seconds"]))
            self.assertIn(row["limited_by"], ("fma32", "table32", "table16", "dot8", "dot16", "L2", "L3", "memory"))
            self.assertEqual(row["bytes_per_second"] is not None, row["product"] == "linear")
        for product in PRODUCTS - {"dense"}:
            self.assertEqual(list(dict.fromkeys(r["class"] for r in told["rows"] if r["product"] == product)), CLASSES)
        self.assertEqual({r["weights"] for r in told["rows"] if r["product"] == "linear"}, {"warm", "cold"})
        self.assertEqual({r["class"] for r in told["rows"] if r["product"] == "dense"}, {"f32"})

    def test_machine(self):
        told = self.bench(*SHAPE)
        self.assertEqual([m["threads"] for m in told["machine"]], [1])
        for machine in told["machine"]:
            for name in ("clock", "fma32", "table32", "table16", "dot8"):
                self.assertGreater(machine["rates"][name], 0, name)
            self.assertEqual(set(machine["read"]), {"L2", "L3", "memory"})
            for read in machine["read"].values():
                self.assertGreater(read["bytes_per_second"], 0)
        self.assertGreater(told["caches"]["last"], 0)

    def test_threads(self):
        told = self.json("bench", "--seconds", "0.01", "--threads", "2", "--precision", "f32", *SHAPE)
        self.assertEqual(([m["threads"] for m in told["machine"]], told["threads"]), ([1, 2], 2))

    def test_one_class_and_level(self):
        told = self.bench("--precision", "int8", "--cpu", "scalar", *SHAPE)
        self.assertEqual({r["class"] for r in told["rows"]}, {"int8"})
        self.assertEqual({r["level"] for r in told["rows"]}, {"scalar"})

    def test_levels(self):
        can = [level["name"] for level in self.json("info")["levels"] if level["available"]]
        told = self.bench("--levels", *SHAPE)
        self.assertEqual({r["level"] for r in told["rows"]}, set(can))
        self.assertEqual([m["level"] for m in told["machine"]], can[::-1])
        self.refused(64, "--levels", "bench", "--levels", "--cpu", "scalar")

    def test_table(self):
        text = self.ok("bench", *QUICK, *SHAPE).stdout.decode()
        for word in ("N x K = 64 x 96, 1 thread", "cycles/w", "fsm_visit c4", "at best", "read memory"):
            self.assertIn(word, text)
        self.assertNotIn("nan", text)

    def test_left_out(self):
        told = self.bench("--cpu", "scalar", "--precision", "f32", "--seconds", "0.001", "--shape", "256,512,1024")
        missing = [r for r in told["rows"] if r["runs"] == 0]
        self.assertTrue(missing)
        for row in missing:
            self.assertIsNone(row["seconds"])
            self.assertGreater(row["estimate"], 0.005)

    def test_refused(self):
        for shape in ("64,33,32", "64,32,33", "0,32,32", "1,2", "1,32,32,5", "9999999,32,32", "x"):
            self.refused(64, "--shape", "bench", "--shape", shape)
        self.refused(64, "--precision", "bench", "--precision", "fp8")
        self.refused(71, "give a smaller --shape", "bench", "--shape", "1048576,1048576,1048576", *QUICK)


class Step(Bench):
    MODEL = ("--step", "--layers", "2", "--dim", "64", "--heads", "2", "--kv-heads", "1", "--ffn", "96", "--ctx", "16",
             "--batch", "4")

    def test_step(self):
        told = self.bench(*self.MODEL)
        step = told["step"]
        self.assertEqual(told["rows"], [])
        self.assertEqual((step["layers"], step["dim"], step["ffn"], step["kv_heads"], step["tokens"]), (2, 64, 96, 1, 64))
        self.assertEqual([c["class"] for c in step["classes"]], CLASSES)
        for one in step["classes"]:
            self.assertGreater(one["tokens_per_second"], 0)
            parts = {(p["op"], *p["shape"]): p["count"] for p in one["parts"]}
            # per block 7 products: q and o 64 x 64, k and v 32 x 64, gate and up 96 x 64, down 64 x 96
            for op in ("linear", "linear_dx", "fsm_visit c4"):
                self.assertEqual({k[2:]: v for k, v in parts.items() if k[0] == op},
                                 {(64, 64): 4, (32, 64): 4, (96, 64): 4, (64, 96): 2})
            self.assertLessEqual({"attention", "attention_grad", "rmsnorm", "swiglu_grad", "adamw"},
                                 {p["op"] for p in one["parts"]})
            for part in one["parts"]:
                self.assertTrue(math.isclose(part["share"], part["seconds"] / one["seconds"]))

    def test_text(self):
        text = self.ok("bench", *QUICK, *self.MODEL, "--precision", "f32").stdout.decode()
        for word in ("training step", "tokens a second", "everything else"):
            self.assertIn(word, text)
        self.assertNotIn("int8", text)

    def test_refused(self):
        self.refused(64, "preset", "bench", "--step", "--preset", "huge")
        self.refused(64, "--dim", "bench", "--step", "--dim", "40")


class Generate(Bench):
    MODEL = ("--generate", "--layers", "2", "--dim", "64", "--heads", "2", "--kv-heads", "1", "--ffn", "96", "--ctx", "16")

    def test_classes(self):
        told = self.bench(*self.MODEL)
        written = told["generate"]
        self.assertEqual(told["rows"], [])
        self.assertNotIn("step", told)
        # per block q and o 64 x 64, k and v 32 x 64, gate and up 96 x 64, down 64 x 96; a scale of 2 bytes per output
        weights = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64)
        outputs = 2 * (2 * 64 + 2 * 32 + 2 * 96 + 64)
        self.assertEqual((written["weights"], written["packed_bytes"]), (weights, weights // 8 + 2 * outputs))
        self.assertEqual((written["layers"], written["dim"], written["ffn"], written["kv_heads"]), (2, 64, 96, 1))
        self.assertEqual([c["class"] for c in written["classes"]], CLASSES)
        for one in written["classes"]:
            self.assertGreater(one["runs"], 16)   # more than the context holds
            self.assertLessEqual(one["p10"], one["seconds"])
            self.assertTrue(math.isclose(one["tokens_per_second"], 1 / one["seconds"]))
            self.assertTrue(math.isclose(one["bytes_per_second"], written["packed_bytes"] / one["seconds"]))
            self.assertTrue(math.isclose(one["limit_share"], one["limit_seconds"] / one["seconds"]))
            self.assertIn(one["limited_by"], ("L2", "L3", "memory"))
            self.assertIsNone(one["against_peer"])
        self.assertEqual(written["peers"], [])

    def test_text(self):
        text = self.ok("bench", *QUICK, *self.MODEL, "--precision", "int8").stdout.decode()
        for word in ("generation: 2 layers", "tokens/s", "int8"):
            self.assertIn(word, text)
        for word in ("bf16", "training step", "x peer", "nan"):
            self.assertNotIn(word, text)

    def test_peers(self):
        peers = ",".join(str(peer(kind)) for kind in ("plain", "refuses", "fails"))
        told = self.json("bench", *QUICK, *self.MODEL, "--precision", "f32", "--peer", peers)["generate"]
        self.assertEqual([(p["name"], p["class"]) for p in told["peers"]], [("plain", "f32")])
        (one,) = told["classes"]
        self.assertTrue(math.isclose(one["against_peer"], told["peers"][0]["seconds"] / one["seconds"]))
        text = self.ok("bench", *QUICK, *self.MODEL, "--peer", peer("plain")).stdout.decode()
        self.assertRegex(text, r"plain .* products alone")

    def test_refused(self):
        self.refused(64, "--ffn", "bench", "--generate", "--ffn", "40")


class Compare(Bench):
    ONE = ("--precision", "f32", *SHAPE)

    def test_same_and_not(self):
        told = self.bench(*self.ONE)
        slow, fast = copy.deepcopy(told), copy.deepcopy(told)
        for row in slow["rows"]:
            for key in ("seconds", "p10", "p90"):
                row[key] *= 1e6
        for row in fast["rows"]:
            for key in ("seconds", "p10", "p90"):
                row[key] *= 1e-6
        count = len(told["rows"])
        now = self.bench(*self.ONE, "--compare", self.save(slow))["comparison"]
        self.assertEqual((now["faster"], now["slower"], now["unmatched"]), (count, 0, 0))
        self.assertEqual({r["verdict"] for r in now["rows"]}, {"faster"})
        result = self.run_qsbits("bench", *QUICK, *self.ONE, "--compare", self.save(fast), "--json")
        self.assertEqual(result.returncode, 1, result.stderr)
        now = json.loads(result.stdout)["comparison"]
        self.assertEqual((now["faster"], now["slower"]), (0, count))
        for row in now["rows"]:
            self.assertTrue(math.isclose(row["ratio"], row["seconds"] / row["old_seconds"]))
        text = self.run_qsbits("bench", *QUICK, *self.ONE, "--compare", self.save(fast))
        self.assertEqual(text.returncode, 1)
        self.assertIn(f"{count} slower, 0 faster", text.stdout.decode())

    def test_step(self):
        model = (*Step.MODEL, "--precision", "f32")
        old = self.bench(*model)
        old["step"]["classes"][0].update(seconds=1e3, p10=1e3, p90=1e3)
        now = self.bench(*model, "--compare", self.save(old))["comparison"]
        self.assertEqual([(r["product"], r["verdict"]) for r in now["rows"]], [("training step", "faster")])

    def test_generate(self):
        model = (*Generate.MODEL, "--precision", "f32")
        old = self.bench(*model)
        old["generate"]["classes"][0].update(seconds=1e3, p10=1e3, p90=1e3)
        now = self.bench(*model, "--compare", self.save(old))["comparison"]
        self.assertEqual([(r["product"], r["verdict"]) for r in now["rows"]], [("generation", "faster")])
        now = self.bench(*model, "--ctx", "8", "--compare", self.save(old))["comparison"]
        self.assertEqual((now["rows"], now["unmatched"]), ([], 1))

    def test_other_machine(self):
        old = self.bench(*self.ONE)
        old["description"] = "another"
        for row in old["rows"]:
            row["level"] = "other"
        now = self.bench(*self.ONE, "--compare", self.save(old))["comparison"]
        self.assertTrue(now["machine_changed"])
        self.assertEqual((now["unmatched"], now["rows"]), (len(old["rows"]), []))

    def test_hostile(self):
        arguments = ("bench", *QUICK, *self.ONE, "--compare")
        self.refused(66, "cannot open", *arguments, self.folder / "none.json")
        path = self.folder / "bad.json"
        for text in ("", "{", "[]", "{}", '{"rows": 5}', "\0\0", '"rows"'):
            path.write_text(text)
            self.refused(65, "bad.json", *arguments, path)
        keys = {"product": "linear", "m": 5, "n": 64, "k": 96, "class": "f32", "level": "scalar", "weights": "warm"}
        for rows in ([], [None, 1, "x", [], {}], [keys], [{**keys, "seconds": "x"}], [{**keys, "seconds": -1, "p90": {}}]):
            path.write_text(json.dumps({"rows": rows, "step": rows}))
            now = self.bench(*self.ONE, "--cpu", "scalar", "--compare", path)["comparison"]
            self.assertEqual((now["slower"], now["faster"], now["rows"]), (0, 0, []))


class Peers(Bench):
    ONE = ("--precision", "f32", *SHAPE)

    def test_rows(self):
        told = self.bench(*self.ONE, "--peer", peer("plain"))
        peers = [r for r in told["rows"] if r["peer"]]
        self.assertEqual({(r["product"], r["weights"]) for r in peers},
                         {("linear", "warm"), ("linear", "cold"), ("linear_dw", "")})
        for row in peers:
            self.assertEqual((row["level"], row["class"]), ("plain", "f32"))
            self.assertLess(row["difference"], 1e-5)
        for row in told["rows"]:
            compared = not row["peer"] and row["product"] in ("linear", "linear_dw")
            self.assertEqual(row["against_peer"] is not None, compared, row)
        self.assertIn("x peer", self.ok("bench", *QUICK, *self.ONE, "--peer", peer("plain")).stdout.decode())

    def test_two(self):
        told = self.bench(*self.ONE, "--peer", f"{peer('plain')},{peer('wrong')}")
        self.assertEqual(len([r for r in told["rows"] if r["peer"]]), 6)

    def test_wrong_result(self):
        result = self.ok("bench", *QUICK, *self.ONE, "--peer", peer("wrong"))
        self.assertIn("differs from ours by 200%", result.stderr.decode())
        self.assertIn("result is 200% off", result.stdout.decode())

    def test_left_out(self):
        for kind, word in (("refuses", "no such shape here"), ("fails", "failed with 7")):
            result = self.ok("bench", *QUICK, *self.ONE, "--peer", peer(kind), "--json")
            self.assertIn(word, result.stderr.decode())
            rows = json.loads(result.stdout)["rows"]
            self.assertTrue(rows)
            self.assertEqual({r["product"] for r in rows if r["peer"]}, set() if kind == "refuses" else {"linear_dw"})

    def test_refused(self):
        text = self.folder / "text.so"
        text.write_text("no shared object")
        library = pathlib.Path(os.environ.get("QSBITS_BUILD", "build")) / "libqsbits.so"
        for code, word, path in ((66, "cannot open the peer", self.folder / "none.so"), (69, "build the peer", text),
                                 (69, "exports no qs_peer_query", library), (69, "another version", peer("old")),
                                 (64, "--peer", f"{peer('plain')},,"), (66, "cannot open", f"{peer('plain')},nothing")):
            self.refused(code, word, "bench", *QUICK, *self.ONE, "--peer", path)


class SelfTest(CliCase):
    def test_levels(self):
        for level in self.json("info")["levels"]:
            if not level["available"]:
                continue
            told = self.json("info", "--self-test", "--cpu", level["name"])["self_test"]
            self.assertTrue(told["passed"])
            self.assertEqual((told["level"], told["reference"]), (level["name"], "scalar"))
            tested = {(o["operation"], o["class"]) for o in told["operations"]}
            for name in ("linear", "linear_dx", "linear_dw", "fsm_visit t2", "fsm_visit c2", "fsm_visit c4", "fsm_visit c8"):
                self.assertLessEqual({(name, c) for c in CLASSES}, tested)
            self.assertLessEqual({(n, "") for n in ("attention", "attention_grad", "rmsnorm", "swiglu", "adamw")}, tested)

    def test_text(self):
        text = self.ok("info", "--self-test").stdout.decode()
        self.assertRegex(text, r"(?m)^  fsm_visit c4 +int8 +as scalar$")
        self.assertNotIn("self-test", self.ok("info").stdout.decode())


if __name__ == "__main__":
    unittest.main()
