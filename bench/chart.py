"""Draws a table of ratios as an SVG chart: one bar for each system and row, on a logarithmic scale; 1 is native.

    python -m bench.chart FILE.json [FILE.svg]

Needs nothing but the standard library.  The JSON is what `bench.run` and `bench.workloads` write.
"""

import json
import math
import sys
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = {"cloche": "#2f7d5b", "runsc": "#b9a04c"}
LABEL_WIDTH, PLOT_WIDTH, BAR, GAP = 210, 520, 9, 8


def geometric_mean(values: list[float]) -> float:
    """The geometric mean, 0 of an empty list."""
    return math.exp(sum(math.log(value) for value in values) / len(values)) if values else 0.0


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """System -> row -> ratio to native, from system -> row -> median."""
    native = medians["native"]
    return {
        system: {row: value / native[row] for row, value in rows.items() if native.get(row)}
        for system, rows in medians.items()
        if system != "native"
    }


def draw(title: str, medians: dict[str, dict[str, float]]) -> str:
    """The chart as text."""
    table = ratios(medians)
    systems = [system for system in table if table[system]]
    rows = [row for row in medians["native"] if any(row in table[system] for system in systems)]
    values = [value for system in systems for value in table[system].values()] or [1.0]
    low = min(math.floor(math.log2(min(values))), -1)
    high = math.ceil(math.log2(max(values)))

    def x(value: float) -> float:
        return LABEL_WIDTH + PLOT_WIDTH * (math.log2(value) - low) / (high - low)

    step = len(systems) * BAR + GAP
    bottom = 60 + len(rows) * step
    width = LABEL_WIDTH + PLOT_WIDTH + 70
    size = f'width="{width}" height="{bottom + 30}" viewBox="0 0 {width} {bottom + 30}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{bottom + 30}" fill="#ffffff"/>',
        f'<text x="10" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    at = 10
    for system in systems:
        mean = geometric_mean(list(table[system].values()))
        out.append(f'<rect x="{at}" y="28" width="10" height="10" fill="{COLOURS.get(system, "#888888")}"/>')
        text = f"{system}: geometric mean {mean:.2f} × native"
        out.append(f'<text x="{at + 15}" y="37">{escape(text)}</text>')
        at += 260
    for power in range(low, high + 1):
        place = x(2.0**power)
        dark = power == 0
        out.append(
            f'<line x1="{place:.1f}" y1="48" x2="{place:.1f}" y2="{bottom}" '
            f'stroke="{"#333333" if dark else "#dddddd"}" stroke-width="{1.5 if dark else 1}"/>'
        )
        label = f"{2**power}×" if power >= 0 else f"1/{2**-power}"
        out.append(f'<text x="{place:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
    for number, row in enumerate(rows):
        top = 52 + number * step
        middle = top + len(systems) * BAR / 2 + 4
        out.append(f'<text x="{LABEL_WIDTH - 8}" y="{middle:.1f}" text-anchor="end">{escape(row)}</text>')
        for place, system in enumerate(systems):
            value = table[system].get(row)
            if value is None:
                continue
            left, right = sorted((x(1.0), x(value)))
            y = top + place * BAR
            out.append(
                f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 1):.1f}" height="{BAR - 1}" '
                f'fill="{COLOURS.get(system, "#888888")}"/>'
            )
            out.append(
                f'<text x="{max(right, x(1.0)) + 3:.1f}" y="{y + BAR - 1.5:.1f}" font-size="9">{value:.2f}</text>'
            )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main() -> int:
    """Draw again from the raw numbers."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    source = Path(sys.argv[1])
    data = json.loads(source.read_text(encoding="utf-8"))
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_suffix(".svg")
    target.write_text(draw(data.get("title", source.stem), data["medians"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
