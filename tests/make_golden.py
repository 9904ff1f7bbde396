#!/usr/bin/env python3
"""make_golden.py TEST_GRADIENTS [OUT] - writes golden/gradients.h, the golden values of test_gradients.c.

TEST_GRADIENTS is the built test program; `TEST_GRADIENTS --start FOLDER` leaves the start values and the batch of every
case. Here the same decoder is built from PyTorch's own functions (rms_norm, scaled_dot_product_attention, silu,
cross_entropy, autograd, clip_grad_norm_, AdamW) in double precision, and what it gives is written down: the gradients of
the first loss (norm and samples), and the losses of the first steps of training.
Needs PyTorch and numpy; the tests themselves do not.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = 6
STEPS = 6
DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<u4", "I8": "i1", "U8": "u1"}


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = numpy.frombuffer(data[start + first:start + last], DTYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def signs(words):
    """W1 words [N, K/32] as -1, +1 [N, K]: bit i of word j is column 32 j + i."""
    bits = (words[:, :, None] >> numpy.arange(32, dtype=numpy.uint32)) & 1
    return 2.0 * bits.reshape(words.shape[0], -1).astype(numpy.float64) - 1.0


def pass_through(rounded, smooth):
    """The value of rounded with the gradient of smooth (straight-through)."""
    return smooth + (rounded - smooth).detach()


LORA = 2.0  # alpha / r: the library's B is LORA times that of the paper


class Parameters:
    """The leaves of the graph: floats by name; of every matrix its dense weights, its latents or its signs, its masters, and A and
    B of its adapter as in the paper."""

    def __init__(self, model, state, c, optimizer):
        self.floats, self.matrices, self.masters, self.optimizer, self.base = {}, {}, {}, optimizer, {}
        self.adapters = {}
        for name, value in model.items():
            matrix = name[:-len(".weight")]
            if name.startswith("pad.") or name.endswith(".weight_scale"):
                continue
            if ".lora_" in name:
                self.adapters[name] = self.leaf(value / LORA if name.endswith("B") else value)
                continue
            if not matrix.endswith("_proj"):
                self.floats[name] = self.leaf(value)
                continue
            if optimizer == "ste":
                value = state[matrix + ".latent"]
            elif optimizer != "adamw":
                value = signs(value)
            self.matrices[matrix] = self.leaf(value)
            if optimizer != "adamw":
                self.masters[matrix] = self.leaf(state[matrix + ".weight_scale_master"])
                self.base[matrix] = 1.0 / math.sqrt(self.matrices[matrix].shape[1])
                if matrix.endswith(("o_proj", "down_proj")):
                    self.base[matrix] *= 0.3 * math.sqrt(2.0 / c["layers"])

    @staticmethod
    def leaf(value):
        return torch.tensor(value.astype(numpy.float64), requires_grad=True)

    def linear(self, x, matrix):
        w = self.matrices[matrix]
        if self.optimizer == "adamw":
            return F.linear(x, w)
        if self.optimizer == "ste":
            w = pass_through(torch.where(w >= 0, 1.0, -1.0).double(), w)
        scale = self.base[matrix] * self.masters[matrix]
        y = F.linear(x, w) * pass_through(scale.half().double(), scale)
        a, b = (self.adapters.get(matrix + ".lora_" + part) for part in "AB")
        return y if a is None else y + LORA * F.linear(F.linear(x, a), b)

    def norm(self, x, name, eps):
        gain = self.floats.get(name + ".weight")
        return x if gain is None else F.rms_norm(x, gain.shape, gain, eps)


def rope(x, theta):
    """x [B, H, T, D]: the complex numbers x[j] + i x[j + D/2] turn by t theta^(-2j/D)."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64),
                        theta ** (-2.0 * torch.arange(half, dtype=torch.float64) / x.shape[-1]))
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def block(p, h, prefix, c):
    batch, ctx, _ = h.shape
    heads, groups, width, eps = c["heads"], c["kv_heads"], c["head_dim"], c["norm_eps"]

    def split(x, n):
        return x.view(batch, ctx, n, width).transpose(1, 2)

    n1 = p.norm(h, prefix + "input_layernorm", eps)
    q = split(p.linear(n1, prefix + "self_attn.q_proj"), heads)
    k = split(p.linear(n1, prefix + "self_attn.k_proj"), groups)
    v = split(p.linear(n1, prefix + "self_attn.v_proj"), groups)
    q = rope(p.norm(q, prefix + "self_attn.q_norm", eps), c["rope_theta"])
    k = rope(p.norm(k, prefix + "self_attn.k_norm", eps), c["rope_theta"])
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    a = a.transpose(1, 2).reshape(batch, ctx, heads * width)
    h = h + p.linear(p.norm(a, prefix + "self_attn.attn_sub_norm", eps), prefix + "self_attn.o_proj")
    n2 = p.norm(h, prefix + "post_attention_layernorm", eps)
    f = F.silu(p.linear(n2, prefix + "mlp.gate_proj")) * p.linear(n2, prefix + "mlp.up_proj")
    return h + p.linear(p.norm(f, prefix + "mlp.ffn_sub_norm", eps), prefix + "mlp.down_proj")


def loss_of(p, tokens, c):
    h = F.embedding(tokens[:, :-1], p.floats["model.embed_tokens.weight"])
    for layer in range(c["layers"]):
        h = block(p, h, "model.layers.%d." % layer, c)
    h = p.norm(h, "model.norm", c["norm_eps"])
    head = p.floats["model.embed_tokens.weight" if c["tied"] else "lm_head.weight"]
    return F.cross_entropy(F.linear(h, head).flatten(0, 1), tokens[:, 1:].flatten())


def clip(p, limit):
    """What is clipped: the gradients of floats, masters and adapters, by their common norm; those of B as the library has them."""
    for name, leaf in p.adapters.items():
        if name.endswith("B"):
            leaf.grad /= LORA
    if limit > 0:
        torch.nn.utils.clip_grad_norm_([*p.floats.values(), *p.masters.values(), *p.adapters.values()], limit)


def gradients(p):
    """(name as in the state file, gradient); of a state machine's matrix only the mean squares over rows and columns."""
    for name, leaf in p.floats.items():
        yield name, leaf.grad.clone()
    for matrix, leaf in p.matrices.items():
        if matrix in p.masters:
            yield matrix + ".weight_scale_master", p.masters[matrix].grad.clone()
        if p.optimizer == "fsm":
            square = leaf.grad ** 2
            yield matrix + ".row_moment", square.mean(1)
            yield matrix + ".column_moment", square.mean(0)
        elif p.optimizer not in ("frozen", "lora"):
            yield matrix + ".weight", leaf.grad.clone()
    for name, leaf in p.adapters.items():
        yield name, leaf.grad.clone()


def make_case(folder, name):
    with open(os.path.join(folder, name, "manifest.json"), encoding="utf-8") as file:
        config = json.load(file)["config"]
    c, t = config["model"], config["train"]
    with open(os.path.join(folder, name + ".batch"), "rb") as file:
        tokens = numpy.frombuffer(file.read(), "u1").reshape(STEPS, -1, c["ctx"] + 1).astype(numpy.int64)
    files = [read_safetensors(os.path.join(folder, name, part + ".safetensors")) for part in ("model", "state")]
    p = Parameters(*files, c, t["optimizer"])
    moving = p.matrices if t["optimizer"] in ("adamw", "ste") else p.adapters
    groups = [dict(params=list(leaves.values()), rate=t[rate], weight_decay=decay)
              for leaves, rate, decay in ((p.floats, "lr", 0.0), (p.masters, "scale_lr", 0.0),
                                          (moving, "matrix_lr", t["weight_decay"])) if leaves]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    losses, first = [], None
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / t["warmup"])
        decay = t["final_lr"] + (1 - t["final_lr"]) * 0.5 * (1 + math.cos(math.pi * step / t["steps"]))
        for group in adam.param_groups:
            group["lr"] = group["rate"] * warm * decay
        for leaf in [*p.floats.values(), *p.matrices.values(), *p.masters.values(), *p.adapters.values()]:
            leaf.grad = None
        loss = loss_of(p, torch.tensor(tokens[step]), c)
        loss.backward()
        clip(p, t["clip"])
        losses.append(loss.item())
        first = first or list(gradients(p))
        adam.step()
    # a state machine moves what PyTorch does not: only the first loss holds
    return losses if t["optimizer"] != "fsm" else losses[:1] + [0.0] * (STEPS - 1), first


def lines_of(name, tensors):
    yield "static const golden_tensor golden_%s[] = {" % name
    for tensor, gradient in tensors:
        flat = gradient.detach().flatten()
        n = flat.numel()
        values = ["%.8e" % flat[i * (n - 1) // (SAMPLES - 1)].item() for i in range(SAMPLES)]
        yield '    {"%s", %d, %.8e,' % (tensor, n, torch.linalg.vector_norm(flat).item())
        yield "     {%s}}," % ", ".join(values)
    yield "};"


def main(arguments):
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 64
    out = arguments[1] if len(arguments) == 2 else os.path.join(HERE, "golden", "gradients.h")
    lines = ["/* gradients.h - golden values of test_gradients.c, written by make_golden.py with PyTorch in double precision. */"]
    table = ["static const golden_case golden_cases[] = {"]
    with tempfile.TemporaryDirectory() as folder:
        listed = subprocess.run([arguments[0], "--start", folder], check=True, capture_output=True, text=True).stdout
        for name, hash_text in (line.split() for line in listed.splitlines()):
            losses, tensors = make_case(folder, name)
            lines += lines_of(name, tensors)
            table.append('    {"%s", 0x%su, {%s},' % (name, hash_text, ", ".join("%.9g" % loss for loss in losses)))
            table.append("     %d, golden_%s}," % (len(tensors), name))
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(lines + table + ["};", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
