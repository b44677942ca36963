"""Draws the speed chart of the README from committed results, for light and dark pages.

    python benchmarks/chart.py

Bars show how many times faster a run is than a plain training loop (PIL transforms in a DataLoader,
an eager network, `.item()` every step) on the same machine; whiskers span the 20th to the 80th
percentile. Writes `docs/_static/speed-light.svg` and `docs/_static/speed-dark.svg`.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHARTS = ROOT / "docs" / "_static"

THEMES = {
    "light": {"text": "#1f2328", "muted": "#59636e", "bar": "#c2570c"},
    "dark": {"text": "#f0f6fc", "muted": "#9198a1", "bar": "#e8853a"},
}
WIDTH, LABEL, ROW, BAR, HEAD, GAP = 560, 142, 28, 15, 48, 16
SPAN = WIDTH - LABEL - 64  # the longest bar; the figure stands to its right
METHODS = {"sgd": "SGD", "er": "ER", "derpp": "DER++"}


def panels():
    """Returns (title, subtitle, [(label, spread of the speedup)]) per machine."""
    gpu = json.loads((RESULTS / "gpu_h100_loops.json").read_text())
    rows = [
        (f"{METHODS[row['model']]}, {row['backbone']}", row["speed_up"]) for row in gpu["loops"]
    ]
    found = gpu["environment"]
    yield found["gpu"], f"training steps, batch size 32, torch {version(found)}", rows
    rows = []
    for name in ("train_loop", "train_loop_derpp"):
        cpu = json.loads((RESULTS / f"{name}.json").read_text())
        for case, row in cpu["cases"].items():
            method, backbone = case.split(":")
            rows.append((f"{METHODS[method]}, {backbone}", row["ours_speed_up"]))
    found = cpu["environment"]
    what = f"whole runs with evaluation, batch size 32, torch {version(found)}"
    yield f"{found['cores']} cores of an {found['cpu']}", what, rows


def version(environment):
    return environment["torch"].split("+")[0]


def draw(theme):
    """Returns the chart as SVG."""
    color = THEMES[theme]
    parts, y = [], 0
    for title, subtitle, rows in panels():
        y += HEAD
        parts.append(f'<text class="title" x="0" y="{y - 30}">{title}</text>')
        parts.append(f'<text class="note" x="0" y="{y - 12}">{subtitle}</text>')
        longest = max(spread["p80"] for _, spread in rows)
        top = y
        for label, spread in rows:
            middle = y + ROW / 2
            low, value, high = (spread[key] / longest * SPAN for key in ("p20", "median", "p80"))
            parts += [
                f'<text class="label" x="{LABEL - 10}" y="{middle + 4.5}">{label}</text>',
                f'<rect class="bar" x="{LABEL}" y="{middle - BAR / 2}" width="{value:.1f}" '
                f'height="{BAR}" rx="2"/>',
                f'<path class="whisker" d="M{LABEL + low:.1f} {middle}H{LABEL + high:.1f}'
                f'M{LABEL + low:.1f} {middle - 4}v8M{LABEL + high:.1f} {middle - 4}v8"/>',
                f'<text class="value" x="{LABEL + high + 9:.1f}" y="{middle + 5}">'
                f"{spread['median']:.{1 if spread['median'] < 10 else 0}f}x</text>",
            ]
            y += ROW
        plain = LABEL + SPAN / longest
        parts.append(f'<path class="plain" d="M{plain:.1f} {top}V{y}"/>')
        y += GAP
    foot = "Speedup over a plain PyTorch loop (dashed: 1x), medians of 3 interleaved runs"
    parts.append(f'<text class="note" x="0" y="{y + 4}">{foot}</text>')
    height = y + 14
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" \
width="{WIDTH}" height="{height}" role="img" aria-labelledby="title">
<title id="title">Speedup over a plain PyTorch training loop on an H100 GPU and on two CPU \
cores</title>
<style>
text {{ font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: {color["text"]}; }}
.title {{ font-weight: 600; }}
.label {{ text-anchor: end; }}
.value {{ font-weight: 600; font-size: 15px; }}
.note {{ font-size: 12px; fill: {color["muted"]}; }}
.bar {{ fill: {color["bar"]}; }}
.whisker {{ stroke: {color["text"]}; stroke-width: 1.2; fill: none; }}
.plain {{ stroke: {color["muted"]}; stroke-dasharray: 3 3; fill: none; }}
</style>
{chr(10).join(parts)}
</svg>
"""


def main():
    CHARTS.mkdir(exist_ok=True)
    for theme in THEMES:
        path = CHARTS / f"speed-{theme}.svg"
        path.write_text(draw(theme))
        print("written:", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
