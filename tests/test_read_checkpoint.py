"""tools/read_checkpoint.py and `qsbits inspect` must read the same in every packed value of every kind of checkpoint: the
one was written from docs/format.md alone, the other uses the library. Also the names and order that the page promises."""
import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.environ.get("QSBITS_SOURCE", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QSBITS = os.environ.get("QSBITS")
TOOL = os.path.join(SOURCE, "tools", "read_checkpoint.py")
SHAPE = "--layers 1 --dim 32 --heads 2 --ffn 64 --ctx 32 --batch 8 --steps 4 --threads 1".split()
ARMS = [("fsm", "t2"), ("fsm", "c2"), ("fsm", "c4"), ("fsm", "c8"), ("ste", None), ("bop", None), ("frozen", None),
        ("lora", None), ("adamw", None)]
PACKED = ("w1", "t2", "c2", "c4", "c8")
MATRICES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
            "mlp.down_proj"]
NORMS = ["input_layernorm", "self_attn.attn_sub_norm", "post_attention_layernorm", "mlp.ffn_sub_norm"]
FLOATS = (["model.embed_tokens.weight"], ["model.norm.weight", "lm_head.weight"])
ADAM = [".adam_m", ".adam_v"]

spec = importlib.util.spec_from_file_location("read_checkpoint", TOOL)
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
failures = []


def check(condition, text):
    if not condition:
        failures.append(text)
        print("FAILED: " + text)


def qsbits(*arguments):
    done = subprocess.run([QSBITS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("qsbits %s: exit code %d\n%s" % (" ".join(arguments), done.returncode, done.stderr))
    return done.stdout


def tool(*arguments):
    out, saved = io.StringIO(), sys.argv
    sys.argv = [TOOL, *arguments]
    try:
        with contextlib.redirect_stdout(out):
            reader.main()
    finally:
        sys.argv = saved
    return out.getvalue()


def expected_names(optimizer):
    """Section 3 of docs/format.md for one block: names of both files in order."""
    model, state = list(FLOATS[0]), [FLOATS[0][0] + m for m in ADAM]
    for matrix in MATRICES:
        name = "model.layers.0." + matrix
        model.append(name + ".weight")
        if optimizer != "adamw":
            model.append(name + ".weight_scale")
        state += {"fsm": [name + ".weight_state"], "ste": [name + ".latent"], "bop": [name + ".bop_average"]}.get(optimizer, [])
        state += [name + ".weight" + m for m in ADAM] if optimizer in ("ste", "adamw") else []
        state += [name + ".weight_scale_master" + m for m in [""] + ADAM] if optimizer != "adamw" else []
        state += [name + m for m in (".row_moment", ".column_moment", ".control")] if optimizer == "fsm" else []
        state += [name + ".health"] if optimizer in ("fsm", "ste", "bop") else []
    adapters = ["model.layers.0.%s.lora_%s" % (m, part) for m in MATRICES for part in "AB"] if optimizer == "lora" else []
    for name in ["model.layers.0.%s.weight" % norm for norm in NORMS] + adapters + FLOATS[1]:
        model.append(name)
        state += [name + m for m in ADAM]
    return model + state


def compare_tensor(run, t):
    ours = json.loads(tool(run, "--tensor", t["name"], "--words", "0", "--json"))
    theirs = json.loads(qsbits("inspect", run, "--tensor", t["name"], "--words", "0", "--json"))
    for key in ("name", "format", "rows", "cols", "words", "values"):
        check(ours[key] == theirs[key], "%s %s: %s differs" % (run, t["name"], key))
    check(len(ours["values"]) == t["rows"] * t["cols"], "%s %s: number of values" % (run, t["name"]))
    dump = [int(v) for v in tool(run, "--dump", t["name"]).split()]
    check(dump == ours["values"], "%s %s: --dump differs" % (run, t["name"]))
    ours = json.loads(tool(run, "--tensor", t["name"], "--words", "3", "--json"))
    theirs = json.loads(qsbits("inspect", run, "--tensor", t["name"], "--words", "3", "--json"))
    check(ours["words"] == theirs["words"] and ours["values"] == theirs["values"], "%s %s: --words 3" % (run, t["name"]))


def compare_run(run, optimizer, state):
    listing, theirs = json.loads(tool(run, "--json")), json.loads(qsbits("inspect", run, "--verify", "--json"))
    check([t["name"] for t in listing["tensors"]] == expected_names(optimizer), "%s: names or their order" % run)
    check(listing["manifest"] == theirs["manifest"], "%s: manifest" % run)
    for ours, other in zip(listing["tensors"], theirs["tensors"]):
        for key in ("name", "file", "dtype", "format", "shape", "rows", "cols", "offset", "bytes"):
            mine = None if key == "format" and other[key] is None else ours[key]
            check(mine == other[key], "%s %s: %s is %s here, %s there" % (run, ours["name"], key, ours[key], other[key]))
    check(len(listing["tensors"]) == len(theirs["tensors"]), "%s: number of tensors" % run)
    packed = [t for t in listing["tensors"] if t["format"] in PACKED]
    check({t["format"] for t in packed} == ({"w1", state} - {None} if optimizer != "adamw" else set()), "%s: formats" % run)
    for t in packed:
        compare_tensor(run, t)
    return len(packed)


def check_refusals(folder):
    """The tool is a checker: structural damage gives exit code 65, nothing there 66."""
    def exit_code(path):
        command = [sys.executable, "-B", TOOL, path]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    step = os.path.join(folder, "step-00000004")
    check(exit_code(step) == 0, "%s is whole" % step)
    check(exit_code(os.path.join(folder, "nothing")) == 66, "a missing path")
    for name, at, byte in (("model.safetensors", 0, 0xF7), ("state.safetensors", 9, 0x20), ("manifest.json", 0, 0x5B),
                           ("model.safetensors", 4100 + 32768, None)):
        broken = os.path.join(folder, "broken")
        shutil.copytree(step, broken)
        with open(os.path.join(broken, name), "r+b") as f:
            f.truncate(at) if byte is None else (f.seek(at), f.write(bytes([byte])))
        check(exit_code(broken) == 65, "%s with byte %d changed" % (name, at))
        shutil.rmtree(broken)


def check_codes(folder):
    """A record of health holds codes 0 to 5 only."""
    files, _ = reader.open_path(os.path.join(folder, "step-00000004"))
    t = files[1]["tensors"]["model.layers.0.mlp.up_proj.health"]
    check((t["format"], t["rows"], t["cols"]) == ("i32", 3, 1), "the shape of a record")
    reader.check_values(files)
    data = bytearray(files[1]["data"])
    data[t["offset"]:t["offset"] + t["bytes"]] = b"\xff" * t["bytes"]
    files[1]["data"] = bytes(data)
    try:
        reader.check_values(files)
        check(False, "code 7 is accepted")
    except reader.Damaged as error:
        check("code above 5" in str(error), "code 7: %s" % error)


def main():
    if QSBITS is None:
        print("QSBITS does not name the command")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text.txt")
        with open(text, "w", encoding="ascii") as f:
            f.write("".join("%d times %d is %d.\n" % (a, b, a * b) for a in range(40) for b in range(40)))
        for optimizer, state in ARMS:
            run = os.path.join(folder, "%s-%s" % (optimizer, state))
            flags = ["--fsm-state", state] if state else []
            qsbits("train", "--data", text, "--out", run, *SHAPE, "--optimizer", optimizer, *flags)
            print("%s %s: %d packed tensors agree" % (optimizer, state or "", compare_run(run, optimizer, state)))
            if optimizer == "ste":
                check_codes(run)
        check_refusals(run)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
