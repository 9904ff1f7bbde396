#!/usr/bin/env python3
"""test_plan_cli.py - qsbits plan: its arithmetic to the digit, shapes from everywhere, limits that are kept, and command lines that run."""
import json
import shlex
import unittest

from cli_helpers import CliCase

RATES = ("--link", "32GB/s", "--disk", "4GB/s", "--memory", "100GB/s", "--compute", "1TOP/s")
SMALL = ("--layers", "4", "--dim", "64", "--heads", "2", "--ctx", "32")
WEIGHTS_90B = 89924567040
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0,
         "tie_word_embeddings": False}


class Plan(CliCase):
    def plan(self, *arguments):
        return self.json("plan", *RATES, *arguments)

    def text_of(self, *arguments):
        return self.ok("plan", *RATES, *arguments).stdout.decode()

    def config(self, **changes):
        path = self.folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in {**LLAMA, **changes}.items() if v is not None}))
        return path

    # ---- the figures ---------------------------------------------------------------------------------------------

    def test_round_figures(self):
        """Those of the method for 90 billion weights, 1.5 billion of them active."""
        for arguments in (("--preset", "90b", "--active-params", "1.5B"), (*SMALL, "--weights", "90B", "--active-params", "1.5B")):
            figures = self.plan(*arguments)["nominal"]
            self.assertEqual(figures["adamw_16bit"], 1080e9)
            self.assertEqual(figures["fully_packed"], 56.25e9)
            self.assertEqual(figures["base"], 11.25e9)
            self.assertEqual(figures["weights_16bit"], 180e9)
            self.assertEqual(figures["offloaded_step"], 540e9)
            states = {name: tuple(row[k] / 1e9 for k in ("weights", "gradients", "states", "together"))
                      for name, row in figures["by_state"].items()}
            self.assertEqual(states, {"c2": (0.1875, 0, 0.375, 0.5625), "c4": (0.1875, 0, 0.75, 0.9375),
                                      "c8": (0.1875, 0, 1.5, 1.6875), "t2": (0.1875, 0, 0.375, 0.5625),
                                      "t2 with T2 gradients": (0.1875, 0.375, 0.375, 0.9375)})

    def test_figures_are_shown(self):
        text = self.text_of("--preset", "90b", "--active-params", "1.5B", "--ram-budget", "12GB", "--device-budget", "8GB")
        for row in ("12 bytes a weight +1080.0000", "5 bits a weight +56.2500", "1 bit +11.2500", "12 bytes a weight +1079.0948",
                    "5 bits a weight +56.2029", "1 bit +11.2406", "c4 +0.1875 +0.0000 +0.7500 +0.9375",
                    "t2 with T2 gradients +0.1875 +0.3750 +0.3750 +0.9375"):
            self.assertRegex(text, row)
        self.assertRegex(text, r"180 GB +540 GB +11.2 GB +125 MB")
        self.assertRegex(text, r"PCIe 4.0 x16, lanes +32.000 +5.62 s +16.88 s +351.56 ms +3.91 ms")
        self.assertRegex(text, r"PCIe 4.0 x16, after coding +31.508 +5.71 s +17.14 s +357.06 ms +3.97 ms")
        for name in ("slots", "scales", "activations", "embeddings", "norms"):
            self.assertIn(name, text)

    def test_shape(self):
        """Beside the round number what the preset really has."""
        plan = self.plan("--preset", "90b", "--active-params", "1.5B")
        shape = plan["shape"]
        self.assertEqual(plan["weights"], WEIGHTS_90B)
        self.assertEqual(shape["adamw_16bit"], 12 * WEIGHTS_90B)
        self.assertEqual(shape["base"], WEIGHTS_90B / 8)
        self.assertEqual(plan["parts_of_phased"], 60)
        self.assertTrue(1.49e9 < plan["active_weights"] <= 1.5e9)
        self.assertEqual(shape["by_state"]["c4"]["together"], plan["active_weights"] * 5 / 8)
        self.assertIsNone(self.plan(*SMALL)["nominal"])

    # ---- methods and tiers ------------------------------------------------------------------------------------------

    def test_methods(self):
        plan = self.plan("--preset", "8b", "--active-params", "1B", "--ram-budget", "16GB", "--device-budget", "8GB", "--fsm-state", "c2")
        weights, active = plan["weights"], plan["active_weights"]
        methods = plan["methods"]
        self.assertEqual(set(methods), {"adamw-16bit", "adamw-8bit", "ste", "fsm", "fsm-phased"})
        for method in methods.values():
            parts = [v for k, v in method.items() if k not in ("together", "fits")]
            self.assertAlmostEqual(sum(parts), method["together"], delta=1)
        dense = {k: methods["adamw-16bit"][k] / weights for k in ("weights", "gradients", "states")}
        self.assertEqual(dense, {"weights": 2, "gradients": 2, "states": 8})
        self.assertEqual(methods["adamw-8bit"]["states"], 2 * weights)
        self.assertEqual(methods["adamw-16bit"]["embeddings"], 12 * plan["embedding_params"])
        self.assertEqual((methods["ste"]["weights"], methods["ste"]["states"]), (weights / 8, 12 * weights))
        self.assertEqual((methods["fsm"]["weights"], methods["fsm"]["states"]), (weights / 8, weights / 4))
        phased = methods["fsm-phased"]
        self.assertEqual((phased["weights"], phased["states"]), ((weights + active) / 8, active / 4))
        self.assertEqual(phased["embeddings"], 16 * plan["embedding_params"])
        self.assertEqual([methods[k]["fits"] for k in methods], ["no", "no", "no", "no", "yes"])
        self.assertEqual(methods["adamw-16bit"]["activations"] * 2, methods["fsm"]["activations"])

    def test_offloaded(self):
        """AdamW may keep in RAM what the device does not hold; ours do not."""
        methods = self.plan("--preset", "1b", "--ctx", "256", "--batch", "1", "--ram-budget", "100GB", "--device-budget", "2GB")["methods"]
        self.assertEqual((methods["adamw-16bit"]["fits"], methods["ste"]["fits"]), ("offloaded", "no"))

    def test_tiers(self):
        plan = self.plan("--preset", "90b", "--active-params", "1.5B", "--ram-budget", "12GB", "--device-budget", "8GB")
        tiers = plan["tiers"]
        ram, device = tiers["ram"], tiers["device"]
        self.assertTrue(plan["fits"])
        self.assertEqual(ram["weights"], WEIGHTS_90B / 8)
        self.assertEqual(device["weights"] + device["states"], plan["active_weights"] * 5 / 8)
        self.assertLess(ram["together"], 0.95 * 12e9)
        self.assertLess(device["together"], 0.95 * 8e9)
        self.assertEqual((tiers["blocks_in_ram"], plan["methods"]["fsm"]["fits"]), (90, "no"))
        self.assertEqual(device["slots"], plan["settings"]["slots"] * tiers["block"])
        for name in ("scales", "activations", "embeddings", "floats", "slots"):
            self.assertGreater(device[name], 0, name)
        less = self.plan("--preset", "90b", "--active-params", "1.5B", "--ram-budget", "6GB", "--device-budget", "8GB")["tiers"]
        self.assertTrue(0 < less["blocks_in_ram"] < 90)
        self.assertLessEqual(less["ram"]["together"], 0.95 * 6e9)

    def test_plan_is_that_of_the_run(self):
        """The same bytes as train --dry-run, which the library's tests hold against the accounts."""
        arguments = (*SMALL, "--batch", "8")
        plan = self.plan(*arguments, "--threads", "1")
        dry = self.json("train", "--data", self.text, *arguments, "--dry-run", "--health", "0", "--threads", "1")["memory"]
        self.assertFalse(plan["settings"]["in_place"])
        self.assertEqual(plan["tiers"]["together"]["together"], dry["all"])
        self.assertEqual(plan["tiers"]["together"]["activations"], dry["activations"])
        self.assertEqual((plan["tiers"]["ram"]["together"], plan["tiers"]["device"]["together"]), (dry["ram"], dry["device"]))

    def test_tokens(self):
        """Everything that fits is found: one window more does not."""
        limits = ("--ram-budget", "20MB", "--device-budget", "12MB", "--active-parts", "2")
        most = self.plan(*SMALL, *limits)["most"]
        self.assertEqual(most["tokens"], most["windows"] * most["ctx"])
        self.assertGreater(most["windows"], 1)
        batch = most["windows"]
        self.assertTrue(self.plan(*SMALL, *limits, "--batch", batch)["fits"])
        self.assertFalse(self.plan(*SMALL, *limits, "--batch", batch + 1)["fits"])

    def test_windows_are_shortened(self):
        """Where no whole window fits the plan says how long one may be; a --ctx that is given stays."""
        limits = ("--preset", "90b", "--active-params", "1.5B", "--ram-budget", "12GB", "--device-budget", "8GB")
        plan = self.plan(*limits)
        self.assertTrue(plan["fits"])
        self.assertEqual((plan["settings"]["batch"], plan["model"]["ctx"] % 256), (1, 0))
        self.assertTrue(256 <= plan["model"]["ctx"] < 2048)
        asked = self.plan(*limits, "--ctx", "2048")
        self.assertFalse(asked["fits"])
        self.assertEqual(asked["most"]["ctx"], plan["model"]["ctx"])
        self.assertIn("does not fit: it needs", self.text_of(*limits, "--ctx", "2048"))
        self.assertFalse(self.plan("--preset", "90b", "--ram-budget", "1GB", "--device-budget", "50MB")["fits"])

    # ---- times -----------------------------------------------------------------------------------------------------

    def test_times(self):
        """A step by hand, from the rates that are given: everything trains, all blocks in RAM, two slots."""
        plan = self.plan(*SMALL, "--active-parts", "1", "--batch", "4", "--slots", "2", "--ram-budget", "20MB", "--device-budget", "20MB",
                         "--steps", "20", "--no-sub-norm")
        times, model = plan["times"], plan["model"]
        tokens, weights, layers = 4 * 32, plan["weights"], 4
        attention = 2 * 64 * 32 * layers
        operations = tokens * (3 * 2 * weights + 3.5 * attention + 8 * 256 * 64)
        self.assertEqual(model["ffn"], 256)
        self.assertEqual(times["operations"], operations)
        floats = 28 * (plan["embedding_params"] + plan["norm_params"])
        self.assertAlmostEqual(times["compute_seconds"], operations / 1e12 + floats / 100e9, places=12)
        copies = 2 * (layers - 2) * plan["tiers"]["block"]
        self.assertEqual((times["copied_bytes"], times["read_bytes"]), (copies, 0))
        self.assertAlmostEqual(times["transfer_seconds"], copies / 32e9, places=15)
        self.assertEqual(times["hidden"], 1)
        self.assertAlmostEqual(times["step_seconds"], times["compute_seconds"], places=12)

    def test_transfer_shows(self):
        """A slow link cannot hide: the step lasts as long as the transfer, but for what is computed meanwhile."""
        arguments = (*SMALL, "--active-parts", "2", "--batch", "4", "--steps", "40", "--sweeps", "1", "--ram-budget", "20MB",
                     "--device-budget", "20MB", "--memory", "100GB/s", "--disk", "1GB/s", "--compute", "1T")
        slow = self.json("plan", *arguments, "--link", "1MB/s")["times"]
        fast = self.json("plan", *arguments, "--link", "1TB/s")["times"]
        self.assertLess(slow["hidden"], 0.2)
        self.assertEqual(fast["hidden"], 1)
        self.assertAlmostEqual(slow["step_seconds"], slow["transfer_seconds"], delta=0.05 * slow["step_seconds"])
        self.assertEqual(slow["compute_seconds"], fast["compute_seconds"])
        self.assertEqual((fast["phase_steps"], fast["phases_of_sweep"], fast["sweeps"]), (20, 2, 1))
        self.assertAlmostEqual(fast["sweep_seconds"], 40 * fast["step_seconds"] + 2 * fast["merge_seconds"], places=9)
        self.assertAlmostEqual(fast["phase_seconds"] * 2, fast["sweep_seconds"], places=12)

    def test_disk_counts(self):
        """Blocks that do not stay in RAM are read in every pass."""
        arguments = ("--preset", "90b", "--active-params", "1.5B", "--device-budget", "8GB")
        half, all_ = (self.plan(*arguments, "--ram-budget", size)["times"] for size in ("6GB", "12GB"))
        self.assertEqual(all_["read_bytes"], 0)
        self.assertTrue(0.3 * half["copied_bytes"] < half["read_bytes"] < 0.6 * half["copied_bytes"])

    def test_phases(self):
        """Without --steps a weight gets about ten pulses in a phase."""
        plan = self.plan("--preset", "90b", "--active-params", "1.5B", "--ram-budget", "12GB", "--device-budget", "8GB")
        self.assertEqual(plan["settings"]["steps"], 60 * 4 * 25)
        self.assertTrue(10 <= plan["times"]["pulses_of_phase"] < 11)
        text = self.text_of("--preset", "mini", "--active-parts", "4", "--steps", "64")
        self.assertIn("fewer than 10", text)

    def test_measured(self):
        """Rates that are not given are those of this machine; the disk is known where there is a model on it."""
        rates = self.json("plan", *SMALL)["rates"]
        self.assertIsNone(rates["disk"]["per_second"])
        for name in ("link", "memory", "forward", "input", "visit"):
            self.assertFalse(rates[name]["given"])
            self.assertGreater(rates[name]["per_second"], 1e6, name)
        self.assertIn("not measured", self.ok("plan", *SMALL).stdout.decode())
        self.ok("init", *SMALL, "--out", self.folder / "model")
        self.assertGreater(self.json("plan", self.folder / "model")["rates"]["disk"]["per_second"], 1e5)

    # ---- shapes ----------------------------------------------------------------------------------------------------

    def test_models(self):
        self.ok("init", *SMALL, "--qk-norm", "--out", self.folder / "model")
        expected = self.plan(*SMALL, "--qk-norm")
        for path in (self.folder / "model", self.folder / "model" / "model.safetensors"):
            plan = self.plan(path)
            self.assertEqual((plan["model"], plan["weights"]), (expected["model"], expected["weights"]))
        self.train(self.folder / "run", steps=4)
        for path in (self.folder / "run", self.folder / "run" / "config.json"):
            self.assertEqual(self.plan(path)["model"]["dim"], 32)
        self.assertEqual(self.plan(self.folder / "run", "--ctx", "64")["model"]["ctx"], 64)

    def test_hugging_face(self):
        plan = self.plan(self.config(), "--ctx", "512")
        model = plan["model"]
        self.assertEqual([model[k] for k in ("dim", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "ctx", "tied")],
                         [4096, 32, 32, 8, 128, 14336, 128256, 512, False])
        self.assertEqual(plan["weights"], 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336))
        self.assertEqual(plan["embedding_params"], 2 * 128256 * 4096)
        self.assertEqual(self.plan(self.folder, "--ctx", "512")["weights"], plan["weights"])
        bare = self.plan(self.config(num_key_value_heads=None, max_position_embeddings=None, head_dim=64, tie_word_embeddings=True))
        self.assertEqual([bare["model"][k] for k in ("kv_heads", "head_dim", "tied")], [32, 64, True])
        self.assertEqual(bare["embedding_params"], 128256 * 4096)

    def test_refused(self):
        for changes, words in (({"hidden_size": None}, "no hidden_size"), ({"num_hidden_layers": "many"}, "num_hidden_layers"),
                               ({"hidden_size": -1}, "hidden_size"), ({"hidden_size": 4097}, "4097"),
                               ({"num_local_experts": 8}, "num_local_experts"), ({"vocab_size": 1 << 40}, "vocab_size")):
            self.refused(65, words, "plan", self.config(**changes))
        for content in (b"", b"[]", b"{", b"\xff\xfe", b"{\"model\": {\"dim\": 3}}", b"nothing"):
            (self.folder / "config.json").write_bytes(content)
            self.refused(65, "config.json", "plan", self.folder / "config.json")
        self.refused(66, "nowhere", "plan", self.folder / "nowhere")
        self.refused(65, "text.txt", "plan", self.text)
        self.refused(64, "--dim", "plan", self.config(), "--dim", "64")
        self.refused(64, "huge", "plan", "--preset", "huge")
        self.refused(64, "two ways", "plan", *SMALL, "--active-parts", "2", "--active-params", "10M")
        self.refused(64, ("too few", "phases"), "plan", *RATES, *SMALL, "--active-parts", "4", "--sweeps", "4", "--steps", "10")
        for rate in ("fast", "", "3km/s", "GB/s", "-3GB/s", "0", "1e400", "9" * 60, "32GB/h"):
            self.refused(64, "--link", "plan", *SMALL, f"--link={rate}")

    def test_rates(self):
        for rate in ("32GB/s", "32e9", "32000MB/s", "32G"):
            self.assertEqual(self.json("plan", *RATES, *SMALL, "--link", rate)["rates"]["link"]["per_second"], 32e9)
        self.assertEqual(self.json("plan", *RATES, *SMALL, "--compute", "500GOP/s")["rates"]["visit"]["per_second"], 500e9)

    # ---- the command lines ----------------------------------------------------------------------------------------

    def run_lines(self, plan):
        places = {"FILE": self.text, "RUN": self.folder / "run", "MODEL": self.folder / "made"}
        for line in plan["commands"]:
            words = shlex.split(line)
            self.assertEqual(words[0], "qsbits")
            self.ok(*(places.get(word, word) for word in words[1:]), *(("--threads", "1") if words[1] in ("train", "init") else ()))
        return json.loads((self.folder / "run" / "result.json").read_text())

    def test_resident_line_runs(self):
        plan = self.plan(*SMALL, "--batch", "8", "--steps", "8", "--fsm-state", "c2", "--tied")
        self.assertEqual(len(plan["commands"]), 1)
        result = self.run_lines(plan)
        config = json.loads((self.folder / "run" / "config.json").read_text())
        self.assertEqual(config["model"], plan["model"])
        self.assertEqual((result["step"], config["training"]["batch"], config["training"]["fsm_state"]), (8, 8, "c2"))

    def test_in_place_lines_run(self):
        plan = self.plan(*SMALL, "--batch", "8", "--steps", "16", "--sweeps", "2", "--active-parts", "2", "--ram-budget", "30MB",
                         "--device-budget", "30MB", "--slots", "2")
        self.assertEqual([line.split()[1] for line in plan["commands"]], ["init", "train"])
        self.assertEqual(self.run_lines(plan)["step"], 16)
        again = self.plan(self.folder / "made", "--batch", "8", "--steps", "16", "--sweeps", "2", "--active-parts", "2")
        self.assertEqual(len(again["commands"]), 1)
        self.assertIn(str(self.folder / "made"), again["commands"][0])

    def test_help(self):
        text = self.ok("plan", "--help").stdout.decode()
        for word in ("90b", "--link", "GOP/s", "pulses", "--weights"):
            self.assertIn(word, text)
        self.assertTrue(all(len(line) <= 130 for line in self.text_of("--preset", "90b").split("\n") if not line.startswith("qsbits")))


if __name__ == "__main__":
    unittest.main()
