"""The golden update step once more, from the text of docs/format.md and docs/numerics.md alone (exact rationals and doubles)."""
import math, os, struct, unittest

SIDE, TOKENS, SEED, STEP, TENSOR = 32, 32, 7, 1, 5
LEVELS = {"t2": 3, "c2": 4, "c4": 16, "c8": 128}
STICKY = {"t2": 13, "c2": 13, "c4": 256, "c8": 256}


def philox(key, counter):
    counter, key = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xffffffff, (a >> 32) ^ counter[3] ^ key[1], a & 0xffffffff]
        key = [(key[0] + 0x9E3779B9) & 0xffffffff, (key[1] + 0xBB67AE85) & 0xffffffff]
    return counter


def draw(purpose, row, index):
    return philox((SEED, 0), (STEP, purpose << 24 | TENSOR, row, index))


def escapes(row, sticky):
    words = draw(5, row, 0) + draw(5, row, 1)
    return [sum((words[q] >> k & 1) << q for q in range(8)) < sticky for k in range(SIDE)]


def roundings(row):
    return [draw(6, row, k // 8)[k % 8 // 2] >> 16 * (k % 2) & 0xffff for k in range(SIDE)]


def step(name):
    half = struct.unpack("e", struct.pack("e", 0.17677669))[0]
    x = [[((7 * m + 3 * k) % 17 - 8) / 8 for k in range(SIDE)] for m in range(TOKENS)]
    dy = [[((5 * m + 11 * n + m * n) % 13 - 6) / 64 for n in range(SIDE)] for m in range(TOKENS)]
    w = [[1 if ((n + 1) * 0x9E3779B9 >> k) & 1 else -1 for k in range(SIDE)] for n in range(SIDE)]
    g = [[half * sum(dy[m][n] * x[m][k] for m in range(TOKENS)) for k in range(SIDE)] for n in range(SIDE)]
    r = [sum(v * v for v in row) / SIDE for row in g]
    c = [sum(g[n][k] ** 2 for n in range(SIDE)) / SIDE for k in range(SIDE)]
    a, b = [math.sqrt(v) for v in r], [math.sqrt(v / (sum(r) / SIDE)) for v in c]
    pulses = flips = 0
    state = [[0] * SIDE for _ in range(SIDE)]
    for n in range(SIDE):
        may, random = escapes(n, STICKY[name]), roundings(n)
        for k in range(SIDE):
            sigma, sign = a[n] * b[k], w[n][k]
            level = (5 * n + 3 * k) % LEVELS[name] + 1
            d = 0 if name == "c8" or abs(g[n][k]) <= 1.1503494 * sigma else -1 if g[n][k] > 0 else 1
            if name == "c8":
                moved = math.floor(8 * max(-4, min(4, g[n][k] / sigma)) + random[k] / 65536)
                value = max(-128, min(127, (level - 1 if sign > 0 else -level) - moved))
                pulses += moved != 0
                state[n][k], w[n][k] = value & 255, 1 if value >= 0 else -1
            elif name == "t2":
                s = (0, 1, -1)[(n + k) % 3]
                t = s if s == sign and d == -sign and not may[k] else s + d
                pulses += d != 0
                if t == -2 * sign:
                    w[n][k], t = -sign, 0
                state[n][k] = {0: 0, 1: 1, -1: 2}[sign if t == 2 * sign else t]
            else:
                pulses += d != 0
                if d == sign:
                    level = min(level + 1, LEVELS[name])
                elif d == -sign and (level < LEVELS[name] or may[k]):
                    level -= 1
                    if level == 0:
                        w[n][k], level = -sign, 1
                state[n][k] = level - 1
            flips += w[n][k] != sign
    pack = lambda bits: sum(bit << i for i, bit in enumerate(bits))
    words = [pack(v > 0 for v in row) for row in w]
    for row in state:
        if name == "c8":
            words += struct.unpack("<8I", bytes(row))
        elif name == "t2":
            words += [sum(v << 2 * i for i, v in enumerate(row[j:j + 16])) for j in (0, 16)]
        else:
            words += [pack(v >> p & 1 for v in row) for p in range(2 if name == "c2" else 4)]
    return "%s %d %d " % (name, pulses, flips) + " ".join("%08x" % v for v in words)


class GoldenStep(unittest.TestCase):
    def test_philox(self):
        self.assertEqual(["%08x" % v for v in philox((0, 0), (0, 0, 0, 0))], "6627e8d5 e169c58d bc57ac4c 9b00dbd8".split())

    def test_every_machine(self):
        path = os.path.join(os.environ.get("QSBITS_SOURCE", "."), "tests", "golden", "step32.txt")
        with open(path) as file:
            lines = file.read().split("\n")[:-1]
        self.assertEqual([line.split()[0] for line in lines], list(LEVELS))
        for line in lines:
            self.assertEqual(step(line.split()[0]), line)


if __name__ == "__main__":
    unittest.main()
