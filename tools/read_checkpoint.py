#!/usr/bin/env python3
"""Reads a qsbits checkpoint, run folder or safetensors file with nothing but Python: a second reading of docs/format.md.

Checks header, alignment, padding, manifest and checksums (these with the xxhash module only) and decodes packed tensors.
  read_checkpoint.py PATH [--json]                         every tensor
  read_checkpoint.py PATH --tensor NAME --words N [--json] the first N words (of a plane; 0: all) and what they mean
  read_checkpoint.py PATH --dump NAME                      every value, one row per line
Exit codes: 0 ok, 65 damaged or not understood, 66 not found.
"""
import argparse
import array
import json
import math
import os
import re
import struct
import sys

try:
    import xxhash
except ImportError:
    xxhash = None

BITS = dict(F64=64, I64=64, U64=64, C64=64, F32=32, I32=32, U32=32, F16=16, BF16=16, I16=16, U16=16, I8=8, U8=8, BOOL=8,
            F8_E4M3=8, F8_E5M2=8, F8_E8M0=8, F6_E2M3=6, F6_E3M2=6, F4=4)
CODES = dict(F32="f", F16="e", I32="i", U8="B", I8="b", F64="d", I64="q", I16="h", U16="H", U32="I", U64="Q")
PLANES = dict(w1=1, t2=1, c2=2, c4=4)  # formats in words; c8 is in bytes
PER_WORD = dict(w1=32, t2=16, c2=32, c4=32, c8=4)
FILES = ["model.safetensors", "state.safetensors"]
JOURNAL = "merge.journal"


class Damaged(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Damaged(text)


def load_json(data):
    def unique(pairs):
        need(len(dict(pairs)) == len(pairs), "a name occurs twice in one JSON object")
        return dict(pairs)
    return json.loads(data.decode("utf-8"), object_pairs_hook=unique)


def format_of(name, dtype, shape):
    """The format a native tensor is meant in and the columns of one element of a row (format.md, section 2)."""
    if name.endswith(".weight_state") and dtype == "I8" and len(shape) == 2:
        return "c8", 1
    if name.endswith(".weight_state") and dtype == "I32":
        return ("t2", 16) if len(shape) == 2 else ("c%d" % shape[1], 32)
    signs = name.endswith((".weight", ".anchor")) and dtype == "I32" and len(shape) == 2
    return ("w1", 32) if signs else (dtype.lower(), 1)


def read_file(path):
    """A safetensors file: its bytes, where its data starts, __metadata__, tensors by name."""
    with open(path, "rb") as f:
        data = f.read()
    start = 8 + int.from_bytes(data[:8], "little")
    need(len(data) >= 10 and start <= len(data) and start <= 100000008 and data[8:9] == b"{", "no safetensors header")
    header, tensors, end, pads = load_json(data[8:start]), {}, start, 0
    metadata = header.pop("__metadata__", {})
    native = "qsbits_format_version" in metadata
    need(not native or metadata["qsbits_format_version"] == "1", "format version %r" % metadata.get("qsbits_format_version"))
    need(not native or start % 4096 == 0, "the data starts at %d, no multiple of 4096" % start)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        need(all(isinstance(n, int) and n >= 0 for n in shape), "%s: shape" % name)
        need(start + first == end and (last - first) * 8 == BITS[dtype] * math.prod(shape), "%s: offsets" % name)
        end = start + last
        if native and name.startswith("pad."):
            need(name == "pad.%d" % pads and dtype == "U8" and not any(data[start + first:end]), "%s: padding" % name)
            pads += 1
            continue
        need(not native or first % 64 == 0, "%s: not at a multiple of 64" % name)
        fmt, per_element = format_of(name, dtype, shape) if native else (dtype.lower(), 1)
        rows = shape[0] if fmt in ("c2", "c4") else math.prod(shape[:-1])
        tensors[name] = dict(name=name, file=os.path.basename(path), dtype=dtype, format=fmt, shape=shape, rows=rows,
                             cols=(shape or [1])[-1] * per_element, offset=start + first, bytes=last - first)
    need(end == len(data), "the tensors do not end with the file")
    return dict(name=os.path.basename(path), data=data, start=start, metadata=metadata, tensors=tensors)


def decode_row(fmt, row, cols):
    """The values of a row from its elements (format.md, section 1)."""
    if fmt == "c8":
        return [v + 1 if v >= 0 else v for v in row]
    if fmt == "t2":
        codes = [row[k // 16] >> 2 * (k % 16) & 3 for k in range(cols)]
        need(3 not in codes, "code 11 in a t2 tensor")
        return [(0, 1, -1)[code] for code in codes]
    if fmt in PLANES:
        plane = cols // 32
        codes = [sum((row[p * plane + k // 32] >> k % 32 & 1) << p for p in range(PLANES[fmt])) for k in range(cols)]
        return [2 * code - 1 for code in codes] if fmt == "w1" else [code + 1 for code in codes]
    return list(row)


def rows_of(file, t):
    """Yields (elements, values) of each row."""
    need(t["dtype"] in CODES, "%s: no way to show %s" % (t["name"], t["dtype"]))
    data, code = file["data"][t["offset"]:t["offset"] + t["bytes"]], "I" if t["format"] in PLANES else CODES[t["dtype"]]
    if code == "e":
        elements = struct.unpack("<%de" % (len(data) // 2), data)
    else:
        elements = array.array(code, data)
        if sys.byteorder == "big":
            elements.byteswap()
    width = len(elements) // t["rows"] if t["rows"] else 0
    for n in range(t["rows"]):
        row = elements[n * width:(n + 1) * width]
        yield row, decode_row(t["format"], row, t["cols"])


def check_delta(m, files):
    """Base and ranges of a delta checkpoint: every range is that of a tensor, which has its rows (of a vector its elements)."""
    need(re.fullmatch("[0-9a-f]{32}", m["base"]) and isinstance(m["ranges"], list), "manifest: base or ranges")
    tensors = {name: t for file in files for name, t in file["tensors"].items()}
    need(len({r["tensor"] for r in m["ranges"]}) == len(m["ranges"]), "manifest: two ranges of one tensor")
    for r in m["ranges"]:
        need(r["tensor"] in tensors, "a range of %s, which is not there" % r["tensor"])
        t = tensors[r["tensor"]]
        need(r["first_row"] >= 0 and r["rows"] == (t["cols"] if len(t["shape"]) == 1 else t["rows"]), "%s: range" % t["name"])
        t["first_row"] = r["first_row"]


def check_manifest(folder, files):
    """manifest.json against the files; checksums where they can be computed."""
    need(not os.path.exists(os.path.join(folder, JOURNAL)), "%s is there: rows are being merged into this model, or that was cut "
         "off; open it with qsbits, which finishes the merge" % JOURNAL)
    with open(os.path.join(folder, "manifest.json"), "rb") as f:
        text = f.read()
    m = load_json(text)
    need(m["format_version"] == 1 and m["kind"] in ("full", "delta"), "format_version or kind is not known")
    need(isinstance(m["config"], dict) and m["step"] >= 0, "manifest: config or step")
    need(set(m["files"]) == set(FILES), "manifest: files")
    canonical = json.dumps(m, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    need(text == canonical.encode(), "manifest: not in its one form")
    seal = b'"manifest_xxh3_128": "%s"' % m["manifest_xxh3_128"].encode()
    need(text.count(seal) == 1, "manifest: its checksum does not occur exactly once")
    sums = [("manifest", text.replace(seal, b'"manifest_xxh3_128": "%s"' % (b"0" * 32)), m["manifest_xxh3_128"])]
    for file in files:
        entry, end = m["files"][file["name"]], file["start"]
        need(entry["length"] == len(file["data"]) and entry["header"]["length"] == end, "%s: length" % file["name"])
        need(len(entry["slabs"]) == len(m["files"][FILES[0]]["slabs"]), "manifest: the files differ in slabs")
        sums.append((file["name"] + " header", file["data"][:end], entry["header"]["xxh3_128"]))
        for k, slab in enumerate(entry["slabs"]):
            need(slab["offset"] == end and end % 4096 == 0, "%s: slab %d at %d" % (file["name"], k, slab["offset"]))
            end += slab["length"]
            sums.append(("%s slab %d" % (file["name"], k), file["data"][slab["offset"]:end], slab["xxh3_128"]))
        need(end == len(file["data"]), "%s: slabs do not end with the file" % file["name"])
    delta = m["kind"] == "delta"
    if delta:
        check_delta(m, files)
    config = None if delta else json.dumps(m["config"], separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    need(files[0]["metadata"].get("qsbits_config") == config, "the config of the model file differs from the manifest's")
    for what, data, digest in sums if xxhash else []:
        need(xxhash.xxh3_128_hexdigest(data) == digest, "%s: checksum" % what)
    return m


def open_path(path):
    """(files, manifest or None) of a file, a checkpoint folder or a run folder."""
    if os.path.isfile(path):
        return [read_file(path)], None
    if not os.path.exists(os.path.join(path, "manifest.json")):
        steps = [name for name in os.listdir(path) if re.fullmatch(r"step-\d{8,18}", name)]
        if not steps:
            raise FileNotFoundError("%s holds no manifest.json and no step-NNNNNNNN" % path)
        path = os.path.join(path, max(steps, key=lambda name: int(name[5:])))
    files = [read_file(os.path.join(path, name)) for name in FILES]
    need(not files[0]["tensors"].keys() & files[1]["tensors"].keys(), "a tensor is in both files")
    return files, check_manifest(path, files)


def check_values(files):
    """Every packed tensor decodes, the signs in c8 repeat those of their w1, records of health hold codes 0 to 5. Returns how many
    values were decoded."""
    values = {name: [v for _, row in rows_of(file, t) for v in row] for file in files for name, t in file["tensors"].items()
              if t["format"] in PER_WORD}
    for file in files:
        for name, t in file["tensors"].items():
            if t["format"] == "c8" and name[:-len("_state")] in values:
                weights = values[name[:-len("_state")]]
                pairs = zip(values[name], weights) if len(weights) == len(values[name]) else ()  # else levels of some rows only
                need(all((level > 0) == (sign > 0) for level, sign in pairs), "%s: a sign differs from the weight's" % name)
            if name.endswith(".health"):
                planes = [values for _, values in rows_of(file, t)]
                need(len(planes) % 3 == 0 and t["dtype"] == "I32", "%s: not three planes a row" % name)
                high = zip(planes[1::3], planes[2::3])
                need(not any(p & q for one, two in high for p, q in zip(one, two)), "%s: a code above 5" % name)
    return sum(map(len, values.values()))


def show(args, files):
    """Prints the tensor asked for."""
    name = args.dump or args.tensor
    file = next((f for f in files if name in f["tensors"]), None)
    if file is None:
        raise FileNotFoundError("no tensor %s" % name)
    t, words, values = file["tensors"][name], [], []
    planes, per_word, left = PLANES.get(t["format"], 1), PER_WORD.get(t["format"], 1), args.words or sys.maxsize
    for row, decoded in rows_of(file, t):
        if args.dump:
            print(*decoded)
        if t["format"] == "c8":
            row = [int.from_bytes(row[j:j + 4].tobytes(), "little") for j in range(0, len(row), 4)]
        take = min(left, len(row) // planes)
        if t["format"] in PER_WORD:
            words += ["%08x" % row[p * len(row) // planes + j] for p in range(planes) for j in range(take)]
        values += decoded[:take * per_word]
        left -= take
    if args.dump:
        return
    out = dict(name=name, format=t["format"], rows=t["rows"], cols=t["cols"], words=words, values=values)
    print(json.dumps(out) if args.json else "%s  %s  [%d, %d]\nwords  %s\nvalues %s" % (
        name, t["format"], t["rows"], t["cols"], " ".join(words), " ".join(map(str, values))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tensor")
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--dump")
    args = parser.parse_args()
    files, manifest = open_path(args.path)
    if args.tensor or args.dump:
        return show(args, files)
    count, tensors = check_values(files), [t for file in files for t in file["tensors"].values()]
    if args.json:
        return print(json.dumps(dict(path=args.path, manifest=manifest, checksums=bool(manifest and xxhash), decoded=count,
                                     tensors=tensors)))
    for t in tensors:
        print("%-56s %-5s %-4s %-16s %12d %10d" % (t["name"], t["format"], t["dtype"], t["shape"], t["offset"], t["bytes"]))
    sums = "none (single file)" if not manifest else "hold" if xxhash else "not compared (no xxhash module)"
    delta = "a delta of the checkpoint %s; " % manifest["base"] if manifest and manifest["kind"] == "delta" else ""
    return print("%s%d tensors, %d packed values decoded, checksums: %s" % (delta, len(tensors), count, sums))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(print("read_checkpoint: %s" % error, file=sys.stderr) or 66)
    except (Damaged, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(print("read_checkpoint: %s: %s" % (type(error).__name__, error), file=sys.stderr) or 65)
