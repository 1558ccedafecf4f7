"""Calls about many areas of memory, natively and in cloche, in turn: the least of all rounds, and ratios.

    python -m bench.areas [--rounds N] [--cloche COMMAND] [--option=OPTION] [ROW ...]

The rows are `bench/programs/areas.c`'s.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import describe, machine, raw_figures
from bench.run import CLOCHE, HERE, measure, need_installed


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--option", action="append", default=[], help="for cloche run, e.g. --option=--mm=strict"
    )
    parser.add_argument("--cloche", default="", help="the command to measure instead of this Python's")
    parser.add_argument("rows", nargs="*")
    options = parser.parse_args()
    if not shutil.which("gcc"):
        parser.error("gcc is missing")
    command = [*options.cloche.split(), "run"] if options.cloche else CLOCHE
    if not options.cloche:
        need_installed(parser)
    systems = {"native": ["./areas"], "cloche": [*command, *options.option, "--", "./areas"]}
    best: dict[str, dict[str, float]] = {name: {} for name in systems}
    with tempfile.TemporaryDirectory(prefix="cloche-bench-") as folder:
        Path(folder).chmod(0o755)
        source = HERE / "programs" / "areas.c"
        subprocess.run(["gcc", "-O2", "-o", f"{folder}/areas", str(source)], check=True)
        for _ in range(options.rounds):
            for name, prefix in systems.items():
                for row, value in measure([*prefix, *options.rows], folder).items():
                    best[name][row] = min(value, best[name].get(row, value))
    print(describe(machine(), raw_figures()))
    print(f"{'row':24}{'native µs':>12}{'cloche µs':>12}{'× native':>10}")
    for row, native in best["native"].items():
        value = best["cloche"].get(row)
        text = "—" if value is None else f"{value / 1000:12.2f}{value / native:10.2f}"
        print(f"{row:24}{native / 1000:12.2f}{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
