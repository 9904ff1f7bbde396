#!/usr/bin/env python3
"""make_golden.py TEST_GRADIENTS [OUT] - writes golden/gradients.h, the golden values of test_gradients.c.

TEST_GRADIENTS is the built test program; `TEST_GRADIENTS --start FOLDER` leaves the start values and the batch of every
case. Here the same decoder is built from PyTorch's own functions (rms_norm, scaled_dot_product_attention, silu,
cross_entropy, autograd) in double precision, and the gradients of its mean loss are written down: norm and samples.
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


class Parameters:
    """Leaves of the graph by name; matrices as W (dense) or as signs and row scales."""

    def __init__(self, tensors, dense):
        self.leaves = {}
        self.dense = dense
        for name, value in tensors.items():
            if value.dtype == numpy.uint32:
                value = signs(value)
            if name.startswith("pad."):
                continue
            self.leaves[name] = torch.tensor(value.astype(numpy.float64), requires_grad=True)

    def linear(self, x, matrix):
        y = F.linear(x, self.leaves[matrix + ".weight"])
        return y if self.dense else y * self.leaves[matrix + ".weight_scale"]

    def norm(self, x, name, eps):
        gain = self.leaves.get(name + ".weight")
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
    h = F.embedding(tokens[:, :-1], p.leaves["model.embed_tokens.weight"])
    for layer in range(c["layers"]):
        h = block(p, h, "model.layers.%d." % layer, c)
    h = p.norm(h, "model.norm", c["norm_eps"])
    head = p.leaves["model.embed_tokens.weight" if c["tied"] else "lm_head.weight"]
    return F.cross_entropy(F.linear(h, head).flatten(0, 1), tokens[:, 1:].flatten())


def gradients(p, config):
    """(name as in the state file, gradient), in the order of the model file."""
    c, optimizer = config["model"], config["train"]["optimizer"]
    for name, leaf in p.leaves.items():
        packed = name[:-len(".weight")] + ".weight_scale" in p.leaves
        if name.endswith(".weight_scale"):
            # scale = base * master, master is 1 at the start
            matrix = name[:-len(".weight_scale")]
            fan_in = p.leaves[matrix + ".weight"].shape[1]
            base = 1.0 / math.sqrt(fan_in)
            if matrix.endswith(("o_proj", "down_proj")):
                base *= 0.3 * math.sqrt(2.0 / c["layers"])
            yield matrix + ".weight_scale_master", base * leaf.grad
        elif not packed or optimizer == "ste":
            yield name, leaf.grad
        elif optimizer == "fsm":
            square = leaf.grad ** 2
            yield name[:-len(".weight")] + ".row_moment", square.mean(1)
            yield name[:-len(".weight")] + ".column_moment", square.mean(0)


def make_case(folder, name):
    with open(os.path.join(folder, name, "manifest.json"), encoding="utf-8") as file:
        config = json.load(file)["config"]
    c = config["model"]
    with open(os.path.join(folder, name + ".batch"), "rb") as file:
        tokens = torch.tensor(numpy.frombuffer(file.read(), "u1").reshape(-1, c["ctx"] + 1).astype(numpy.int64))
    p = Parameters(read_safetensors(os.path.join(folder, name, "model.safetensors")), c["dense"])
    loss = loss_of(p, tokens, c)
    loss.backward()
    return loss.item(), list(gradients(p, config))


def lines_of(name, hash_text, loss, tensors):
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
            loss, tensors = make_case(folder, name)
            lines += lines_of(name, hash_text, loss, tensors)
            table.append('    {"%s", 0x%su, %.10g, %d, golden_%s},' % (name, hash_text, loss, len(tensors), name))
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(lines + table + ["};", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
