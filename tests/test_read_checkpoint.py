"""tools/read_checkpoint.py and `qsbits inspect` must read the same in every packed value of every kind of checkpoint: the
one was written from docs/format.md alone, the other uses the library. Also the names and order that the page promises."""
import contextlib
import ctypes
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


def expected_names(optimizer, anchor):
    """Section 3 of docs/format.md for one block: names of both files in order."""
    model, state = list(FLOATS[0]), [FLOATS[0][0] + m for m in ADAM]
    for matrix in MATRICES:
        name = "model.layers.0." + matrix
        model.append(name + ".weight")
        if optimizer != "adamw":
            model.append(name + ".weight_scale")
        state += {"fsm": [name + ".weight_state"], "ste": [name + ".latent"], "bop": [name + ".bop_average"]}.get(optimizer, [])
        state += [name + ".anchor"] if anchor else []
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


def compare_run(run, optimizer, state, anchor=False):
    listing, theirs = json.loads(tool(run, "--json")), json.loads(qsbits("inspect", run, "--verify", "--json"))
    check([t["name"] for t in listing["tensors"]] == expected_names(optimizer, anchor), "%s: names or their order" % run)
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


class Digest(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def digest(data):
    """XXH3-128 as docs/format.md prints it, by the library that qsbits itself links."""
    function = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_size_t], Digest
    sum128 = function(bytes(data), len(data))
    return "%016x%016x" % (sum128.high, sum128.low)


def write_native(path, slabs):
    """A file of section 2 from [[(name, dtype, shape, bytes)] per slab]; gives its entry in the manifest."""
    header, data, ends, pads = {"__metadata__": {"qsbits_format_version": "1"}}, b"", [], 0
    def pad(to):
        nonlocal data, pads
        n = -len(data) % to
        if n:
            header["pad.%d" % pads] = {"dtype": "U8", "shape": [n], "data_offsets": [len(data), len(data) + n]}
            data, pads = data + bytes(n), pads + 1
    for slab in slabs:
        pad(4096)
        ends.append(len(data))
        for name, dtype, shape, content in slab:
            pad(64)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    head = len(text).to_bytes(8, "little") + text
    with open(path, "wb") as f:
        f.write(head + data)
    ends = ends[1:] + [len(data)]
    starts = [0] + ends[:-1]
    return {"length": len(head) + len(data), "header": {"length": len(head), "xxh3_128": digest(head)},
            "slabs": [{"offset": len(head) + a, "length": b - a, "xxh3_128": digest(data[a:b])} for a, b in zip(starts, ends)]}


def write_delta(folder, **changes):
    """A delta checkpoint, made from the page as the tool was: rows 3 and 4 of a matrix, elements of a vector, a whole norm."""
    os.mkdir(folder)
    q, scale = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight_scale"
    model = [[], [(q, "I32", [2, 1], b"\x0f" * 8), (scale, "F16", [2], b"\0\x3c" * 2)],
             [("model.norm.weight", "F32", [32], b"\0\0\x80\x3f" * 32)]]
    state = [[], [(q + "_state", "I8", [2, 32], (b"\0" * 4 + b"\xff" * 4) * 8)], []]
    m = {"format_version": 1, "kind": "delta", "step": 7, "config": {"model": {"layers": 1}}, "base": "0123456789abcdef" * 2,
         "ranges": [{"tensor": q, "first_row": 3, "rows": 2}, {"tensor": scale, "first_row": 3, "rows": 2}],
         "files": {"model.safetensors": write_native(os.path.join(folder, "model.safetensors"), model),
                   "state.safetensors": write_native(os.path.join(folder, "state.safetensors"), state)},
         "manifest_xxh3_128": "0" * 32}
    m.update(changes)
    text = json.dumps(m, indent=2, sort_keys=True) + "\n"
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as f:
        f.write(text.replace("0" * 32, digest(text.encode())))


def exit_codes(path):
    """Of the tool and of qsbits inspect --verify, with what the latter says."""
    ours = subprocess.run([sys.executable, "-B", TOOL, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs = subprocess.run([QSBITS, "inspect", path, "--verify"], capture_output=True, text=True)
    return ours.returncode, theirs.returncode, theirs.stderr


def check_delta(folder):
    """Tool and library understand the same page: a delta made by this program is one for both, and so is what is wrong with it."""
    try:
        digest(b"")
    except OSError:
        print("delta checkpoints: no libxxhash.so.0 to make one with")
        return
    check(digest(b"") == "99aa06d3014798d86001c324468d497f", "the digest of nothing")
    good, bad = os.path.join(folder, "delta"), os.path.join(folder, "bad")
    write_delta(good)
    out = tool(good)
    check("a delta of the checkpoint 0123456789abcdef0123456789abcdef; 4 tensors, 128 packed values" in out, "delta: %s" % out)
    listed = json.loads(tool(good, "--json"))
    check([t.get("first_row") for t in listed["tensors"]] == [3, 3, None, None], "delta: first rows")
    ours, theirs, text = exit_codes(good)
    check((ours, theirs) == (0, 69) and "a delta checkpoint" in text, "delta: %d %d %s" % (ours, theirs, text))
    wrong = [{"tensor": "model.norm.weight", "first_row": 0, "rows": 31}]
    for changes in ({"base": "0123"}, {"ranges": wrong}, {"ranges": [dict(wrong[0], rows=32, first_row=-1)]}, {"ranges": 2 * wrong},
                    {"ranges": [dict(wrong[0], tensor="model.norm.bias")]}, {"kind": "half"}):
        write_delta(bad, **changes)
        ours, theirs, text = exit_codes(bad)
        check((ours, theirs) == (65, 65), "delta with %s: %d %d %s" % (changes, ours, theirs, text))
        shutil.rmtree(bad)
    shutil.copytree(good, os.path.join(folder, "run", "step-00000007"))
    check("a delta" in tool(os.path.join(folder, "run")), "a run of deltas")


def check_new(folder):
    """What qsbits init writes; and that a model is not read while a journal stands beside it."""
    model = os.path.join(folder, "new")
    qsbits("init", "--layers", "1", "--dim", "32", "--heads", "2", "--out", model)
    listed = json.loads(tool(model, "--json"))
    check({t["file"] for t in listed["tensors"]} == {"model.safetensors"}, "init: files of tensors")
    check(listed["manifest"]["step"] == 0 and len(listed["tensors"]) == 21, "init: %d tensors" % len(listed["tensors"]))
    with open(os.path.join(model, "merge.journal"), "wb") as f:
        f.write(b"qsbmerge")
    try:
        tool(model)
        check(False, "a journal is passed over")
    except reader.Damaged as error:
        check("being merged" in str(error), "journal: %s" % error)
    qsbits("inspect", model)   # it is none, and goes
    tool(model)


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
        pulled = os.path.join(folder, "anchor")
        qsbits("train", "--from", os.path.join(folder, "fsm-c4"), "--data", text, "--out", pulled, *SHAPE, "--anchor", "0.2")
        print("anchor: %d packed tensors agree" % compare_run(pulled, "fsm", "c4", anchor=True))
        check_delta(folder)
        check_new(folder)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
