#!/usr/bin/env python3
"""Draws the validation curves of a comparison (the folder of `qsbits compare`) as SVG: mean over seeds, band from least to most.

    python3 tools/curves.py DIR > curves.svg
    python3 tools/curves.py DIR --arms fsm:c4,ste --title "2 layers x 128" > curves.svg
"""
import argparse
import json
import pathlib
import sys
from xml.sax.saxutils import escape

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b", "#7f7f7f", "#bcbd22"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 56, 128, 36, 44


def curve_of(folder):
    """{step: loss} of a run's validations on the way."""
    points = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry.get("val_loss") is not None and not entry.get("final", False):
            points[entry["step"]] = entry["val_loss"]
    return points


def curves_of(folder, wanted):
    """[(arm, [(step, mean, least, most)])] in the order of the comparison; steps that all seeds have."""
    comparison = json.loads((folder / "compare.json").read_text())
    curves = []
    for arm in comparison["arms"]:
        runs = [curve_of(folder / run["folder"]) for run in arm["runs"] if run]
        if not runs or (wanted and arm["arm"] not in wanted):
            continue
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        rows = [(step, [run[step] for run in runs]) for step in steps if step > 0]
        curves.append((arm["arm"], [(step, sum(v) / len(v), min(v), max(v)) for step, v in rows]))
    return curves


def ticks(low, high, about):
    """Round numbers between low and high, about so many."""
    size = (high - low) / about
    unit = 10.0 ** len(str(int(1 / size))) if size < 1 else 1.0
    step = next(s for s in (k / unit * 10 ** e for e in range(9) for k in (1, 2, 5)) if s >= size)
    first = int(low / step) + 1
    return [first * step + i * step for i in range(int((high - first * step) / step) + 1)]


def spread_labels(labels, gap):
    """[(y, ...)] moved down where they would overlap."""
    placed = []
    for label in sorted(labels):
        y = max(label[0], placed[-1][0] + gap) if placed else label[0]
        placed.append((y,) + label[1:])
    return placed


def draw(curves, title):
    last = max(points[-1][0] for _, points in curves)
    # The first validations are far above all that is worth comparing.
    shown = [p for _, points in curves for p in points if p[0] >= last / 5]
    low, high = min(p[2] for p in shown), max(p[3] for p in shown)
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    x = lambda step: LEFT + (WIDTH - LEFT - RIGHT) * step / last
    y = lambda loss: TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
           f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>']
    for tick in ticks(low, high, 6):
        out.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in ticks(0, last, 6):
        out.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:.0f}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">steps</text>')
    out.append('<g clip-path="url(#plot)">')
    labels = []
    for number, (arm, points) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        band = [(x(p[0]), y(p[3])) for p in points] + [(x(p[0]), y(p[2])) for p in reversed(points)]
        line = [(x(p[0]), y(p[1])) for p in points]
        out.append(f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in band)}" fill="{colour}" opacity="0.15"/>')
        out.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in line)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        labels.append((min(max(line[-1][1], TOP), HEIGHT - BOTTOM) + 4, arm, colour, points[-1][1]))
    out.append("</g>")
    for at, arm, colour, loss in spread_labels(labels, 14):
        out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{at:.1f}" fill="{colour}">{escape(arm)} {loss:.3f}</text>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of a comparison")
    parser.add_argument("--arms", default="", help="arms to draw, separated by commas [all]")
    parser.add_argument("--title", default="validation loss, nats per byte", help="above the picture")
    given = parser.parse_args()
    try:
        curves = curves_of(given.folder, [a for a in given.arms.split(",") if a])
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"curves.py: {given.folder} is not the folder of a comparison ({error}); give the --out of qsbits compare")
    curves = [c for c in curves if c[1]]
    if not curves:
        sys.exit(f"curves.py: {given.folder} has no validations to draw; train with --eval-every above 0")
    sys.stdout.write(draw(curves, given.title))


if __name__ == "__main__":
    main()
