#!/usr/bin/env python3
"""Tokens per second of 1-bit training beside the same network trained by PyTorch in fp32 and bf16, interleaved on the same cores.

    python3 bench/compare_torch.py --qsbits build/qsbits --data TEXT [--layers 4 --dim 256 ...] [--rounds 5]

Each round runs `qsbits train` for --steps steps in every --precision and then as many PyTorch steps (fp32 and bf16 by autocast, both eager
and under torch.compile; fused AdamW, scaled-dot-product attention); the medians over rounds are printed with the ratio of the best
of both. Needs torch; nothing else in the project does.
"""
import argparse, json, math, os, shutil, statistics, subprocess, sys, tempfile, time
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, dim, heads, ffn):
        super().__init__()
        self.heads = heads
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(n)) for n in (dim, dim, dim, ffn)])
        linear = lambda o, i: nn.Parameter(torch.randn(o, i) / math.sqrt(i))
        self.qkv, self.o = linear(3 * dim, dim), linear(dim, dim)
        self.gate_up, self.down = linear(2 * ffn, dim), linear(dim, ffn)

    def forward(self, h, cos, sin):
        b, t, d = h.shape
        norm = lambda x, i: F.rms_norm(x, (x.shape[-1],), self.norms[i], 1e-5)
        q, k, v = (norm(h, 0) @ self.qkv.t()).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        turn = lambda x: x * cos + torch.cat((-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]), -1) * sin
        a = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        h = h + norm(a, 1) @ self.o.t()
        g, u = (norm(h, 2) @ self.gate_up.t()).chunk(2, -1)
        return h + norm(F.silu(g) * u, 3) @ self.down.t()


class Net(nn.Module):
    def __init__(self, layers, dim, heads, ffn, ctx):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(256, dim) * 0.5)
        self.head = nn.Parameter(torch.randn(256, dim) / math.sqrt(dim))
        self.norm = nn.Parameter(torch.ones(dim))
        self.blocks = nn.ModuleList([Block(dim, heads, ffn) for _ in range(layers)])
        hd = dim // heads
        angle = torch.arange(ctx)[:, None] * (10000.0 ** (-torch.arange(0, hd, 2) / hd))[None]
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), 1))
        self.register_buffer("sin", torch.cat((angle.sin(), angle.sin()), 1))

    def forward(self, x, y):
        h = self.embed[x]
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        logits = F.rms_norm(h, (h.shape[-1],), self.norm, 1e-5) @ self.head.t()
        return F.cross_entropy(logits.view(-1, 256), y.reshape(-1))


class TorchArm:
    def __init__(self, a, text, bf16, compiled):
        torch.manual_seed(0)
        self.a, self.text, self.bf16 = a, text, bf16
        net = Net(a.layers, a.dim, a.heads, a.ffn, a.ctx)
        self.run = torch.compile(net) if compiled else net
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.steps(2)

    def steps(self, n):
        a = self.a
        start = time.perf_counter()
        for _ in range(n):
            i = torch.randint(0, len(self.text) - a.ctx - 1, (a.batch, 1)) + torch.arange(a.ctx)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = self.run(self.text[i], self.text[i + 1])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return n * a.batch * a.ctx / (time.perf_counter() - start)


def qsbits_rate(a, precision, folder):
    shutil.rmtree(folder, ignore_errors=True)
    command = [a.qsbits, "train", "--data", a.data, "--out", folder, "--steps", a.steps, "--threads", a.threads, "--json",
               "--eval-every", 0, "--save-every", 0, "--final-windows", 1, "--fsm-state", a.fsm_state, "--precision", precision]
    for name in ("layers", "dim", "heads", "ffn", "ctx", "batch"):
        command += ["--" + name, getattr(a, name)]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout)["tokens_per_second"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qsbits", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--fsm-state", default="c4")
    p.add_argument("--precision", nargs="+", default=["f32", "int8", "bf16"])
    for name, value in dict(layers=4, dim=256, heads=8, ffn=768, ctx=64, batch=32, steps=20, rounds=5, threads=os.cpu_count()).items():
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    text = torch.frombuffer(bytearray(open(a.data, "rb").read()), dtype=torch.uint8).long()
    arms = {}
    for bf16 in (False, True):
        for compiled in (False,) if a.no_compile else (False, True):
            arms[f"torch {'bf16' if bf16 else 'f32'}{' compiled' if compiled else ''}"] = TorchArm(a, text, bf16, compiled)
    rates = {name: [] for name in ["qsbits " + p for p in a.precision] + list(arms)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(a.rounds):
            for precision in a.precision:
                rates["qsbits " + precision].append(qsbits_rate(a, precision, os.path.join(folder, "run")))
            for name, arm in arms.items():
                rates[name].append(arm.steps(a.steps))
    medians = {name: statistics.median(r) for name, r in rates.items()}
    best = {side: max(v for name, v in medians.items() if name.startswith(side)) for side in ("qsbits", "torch")}
    for name, value in medians.items():
        print(f"{name:20s} {value:10.0f} tokens/s  ({min(rates[name]):.0f} .. {max(rates[name]):.0f})", file=sys.stderr)
    print(json.dumps({"tokens_per_second": medians, "best_to_best_torch": best["qsbits"] / best["torch"],
                      "torch": torch.__version__, "threads": a.threads}))


if __name__ == "__main__":
    main()
