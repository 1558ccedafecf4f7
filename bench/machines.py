"""The results of several machines side by side: `docs/bench/README.md` from the files that `make bench` left there.

    python -m bench.machines [DIRECTORY]

For each kind of figures one table: a row's native median on each machine, and how many times as long cloche and runsc
take, by the medians and, in parentheses, by the least of all rounds.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.chart import geometric_mean

Samples = dict[str, dict[str, list[float]]]  # row -> system -> what each round took
HEAD = """# Results, machine by machine

Written by `python -m bench.machines` from the files beside it, which have every sample; `make bench` measures the
machine that it runs on, and writes this again. Under each: the native median, then cloche's and runsc's multiple
of it, by medians and, in parentheses, by the least of all rounds. In bold: cloche where it is slower than runsc.
"""
KINDS = {"calls": ("System calls", "µs", 1e-3), "workloads": ("Workloads", "ms", 1e3)}


def main() -> int:
    """Write the page."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/bench")
    parts = [HEAD]
    for kind, (title, unit, scale) in KINDS.items():
        paths = sorted(folder.glob(f"{kind}-[0-9]*.json"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        if found:
            parts.append(f"## {title}\n\n{section(found, unit, scale)}")
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    return 0


def by_row(data: dict[str, Samples]) -> Samples:
    """The samples by row and system; `bench.run` writes them by system and row."""
    samples = data["samples"]
    if "native" not in samples:
        return samples
    return {
        row: {system: rows[row] for system, rows in samples.items() if row in rows}
        for row in samples["native"]
    }


def section(found: Sequence[dict[str, dict[str, str]]], unit: str, scale: float) -> str:
    """The table of one kind of figures, with the machines above it."""
    lines = []
    for data in found:
        about, raw = data["machine"], data.get("raw_ns") or {}
        figures = ", ".join(f"{name} {value:.0f}" for name, value in raw.items())
        lines.append(
            f"- {about['cpu']}: Linux {about['kernel']}, Python {about['python']}, {about['date']}."
            f" Raw figures in ns: {figures or 'not measured'}."
        )
    names = [data["machine"]["cpu"] for data in found]
    lines += ["", f"| row | {' | '.join(f'{name}, {unit} | cloche | runsc' for name in names)} |"]
    lines.append("|---|" + "---|" * 3 * len(found))
    tables = [by_row(data) for data in found]
    for row in dict.fromkeys(row for table in tables for row in table):
        cells = [cell for table in tables for cell in cells_of(table.get(row, {}), scale)]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    means = [cell for table in tables for cell in means_of(table)]
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def cells_of(systems: dict[str, list[float]], scale: float) -> list[str]:
    """A row on one machine: native, cloche, runsc."""
    if not systems.get("native"):
        return ["", "", ""]
    cells = [f"{statistics.median(systems['native']) * scale:,.4g}"]
    cloche, runsc = (ratio(systems, name, statistics.median) for name in ("cloche", "runsc"))
    for name, value in (("cloche", cloche), ("runsc", runsc)):
        text = f"{value:.2f} ({ratio(systems, name, min):.2f})" if value else ""
        cells.append(f"**{text}**" if name == "cloche" and 0 < runsc < cloche else text)
    return cells


def means_of(table: Samples) -> list[str]:
    """The geometric means of the ratios on one machine."""
    cells = [""]
    for name in ("cloche", "runsc"):
        found = [
            geometric_mean([value for systems in table.values() if (value := ratio(systems, name, of))])
            for of in (statistics.median, min)
        ]
        cells.append(f"{found[0]:.2f} ({found[1]:.2f})")
    return cells


def ratio(systems: dict[str, list[float]], name: str, of: Callable[[Sequence[float]], float]) -> float:
    """How many times native a system takes, 0 where either was not measured."""
    native = of(systems["native"]) if systems.get("native") else 0.0
    return of(systems[name]) / native if native and systems.get(name) else 0.0


if __name__ == "__main__":
    sys.exit(main())
