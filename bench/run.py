"""The system call table: native, cloche and (where installed) gVisor's runsc, interleaved; medians and ratios.

    python -m bench.run [--rounds N] [--json FILE] [--svg FILE] [ROW ...]

Each round runs every system once, in turn, so that noise meets all alike.  Start-up time and memory of `true`
come last.  The raw figures of the machine stand above the table, and its last column tells how many times as long as
a cache line's way to another core and back a call takes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import chart
from bench.machine import describe, line_ns, machine, place, raw_figures

TITLE = "System calls: time relative to native (less is better)"
HERE = Path(__file__).parent
# What users start: with `-m` there would be an interpreter more.
INSTALLED = Path(sysconfig.get_path("scripts"), "cloche")
CLOCHE = [*([str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "cloche.cli.main"]), "run"]


def systems(options: list[str]) -> dict[str, list[str]]:
    """Name -> command prefix."""
    found = {"native": [], "cloche": [*CLOCHE, *options, "--"]}
    runsc = shutil.which("runsc")
    if runsc and os.geteuid() == 0:
        # runsc ends its child processes only with its pid namespace.
        found["runsc"] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", runsc, "--ignore-cgroups",
                          "--network=none", "--platform=systrap", "do"]  # fmt: skip
    return found


def offer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are passed to `cloche run`."""
    parser.add_argument(
        "--option", action="append", default=[], help="for cloche run, e.g. --option=--mm=direct"
    )
    parser.add_argument(
        "--platform", default="", help="for cloche run; its figures go to files of their own in a directory"
    )


def kind_of(kind: str, options: argparse.Namespace) -> str:
    """The kind of figures, "calls" or "calls-kvm"; the platform becomes one of the options of `cloche run`."""
    if not options.platform:
        return kind
    options.option += ["--platform", options.platform]
    return f"{kind}-{options.platform}"


def need_installed(parser: argparse.ArgumentParser, options: Sequence[str] = ()) -> None:
    """End with one line where cloche cannot run: the installation of this Python is measured."""
    command = [*CLOCHE, *options, "--", "true"]
    tried = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if tried.returncode:
        why = (tried.stderr.strip().splitlines() or ["it says nothing"])[-1]
        if options:
            parser.error(f"cloche run {' '.join(options)}: {why.removeprefix('cloche: ')}")
        parser.error(
            f"{sys.executable} cannot run cloche ({why}): install it with pip, or name one with --cloche"
        )


def measure(command: list[str], folder: str) -> dict[str, float]:
    """One run of micro: row -> ns per call."""
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    rows: dict[str, float] = {}
    for line in done.stdout.decode().splitlines():
        name, tab, value = line.partition("\t")
        if tab:
            rows[name] = float(value)
    if not rows:
        print(f"{command[0]}: {done.stderr.decode()[-500:]}", file=sys.stderr)
    return rows


def startup(command: list[str], folder: str, rounds: int) -> float:
    """Median milliseconds of a whole `true`."""
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        subprocess.run([*command, "/bin/true"], cwd=folder, capture_output=True, timeout=60, check=False)
        times.append((time.monotonic() - start) * 1000)
    return statistics.median(times)


def family_pss_kib(root: int) -> int:
    """Proportional set size of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return total


def memory(command: list[str], folder: str) -> float:
    """MiB (proportional set size, all processes) while `sleep 2` runs."""
    child = subprocess.Popen([*command, "/bin/sleep", "2"], cwd=folder, stdout=subprocess.DEVNULL)
    time.sleep(1.2)
    pss = family_pss_kib(child.pid)
    child.wait(timeout=30)
    return pss / 1024


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="a directory: a file in it for each machine"
    )
    offer_options(parser)
    parser.add_argument("--svg", metavar="FILE", help="where the chart goes")
    parser.add_argument("--cloche", default="", help="the command to measure instead of this Python's")
    parser.add_argument("--no-runsc", action="store_true")
    parser.add_argument("rows", nargs="*")
    options = parser.parse_args()
    kind = kind_of("calls", options)
    with tempfile.TemporaryDirectory(prefix="cloche-bench-") as folder:
        os.chmod(folder, 0o755)
        binary = Path(folder) / "micro"
        subprocess.run(["gcc", "-O2", "-pthread", "-w", "-o", str(binary), str(HERE / "micro.c")], check=True)
        found = systems(options.option)
        if options.cloche:
            found["cloche"] = [*options.cloche.split(), "run", *options.option, "--"]
        else:
            need_installed(parser, options.option)
        if options.no_runsc:
            found.pop("runsc", None)
        samples: dict[str, dict[str, list[float]]] = {name: {} for name in found}
        for _ in range(options.rounds):
            for name, prefix in found.items():
                program = str(binary) if name == "runsc" else "./micro"
                for row, value in measure([*prefix, program, *options.rows], folder).items():
                    samples[name].setdefault(row, []).append(value)
        medians = {
            name: {row: statistics.median(v) for row, v in rows.items()} for name, rows in samples.items()
        }
        starts = {name: startup(prefix, folder, options.rounds) for name, prefix in found.items() if prefix}
        sizes = {name: memory(prefix, folder) for name, prefix in found.items() if prefix}
    about, raw = machine(), raw_figures()
    print(describe(about, raw))
    report(medians, starts, sizes, line_ns(raw))
    if options.json:
        data = {
            "title": TITLE,
            "machine": about,
            "raw_ns": raw,
            "unit": "ns",
            "medians": medians,
            "samples": samples,
            "startup_ms": starts,
            "memory_mib": sizes,
        }
        options.json = place(options.json, kind, about)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if options.svg:
        Path(options.svg).parent.mkdir(parents=True, exist_ok=True)
        Path(options.svg).write_text(chart.draw(TITLE, medians), encoding="utf-8")
    return 0


def report(
    medians: dict[str, dict[str, float]], starts: dict[str, float], sizes: dict[str, float], line: float
) -> None:
    """The table.  `line` is what a cache line takes to another core and back (`machine.line_ns`), or 0."""
    others = [name for name in medians if name != "native"]
    print(
        f"{'row':24}{'native µs':>10}"
        + "".join(f"{name + ' µs':>12}{'× native':>10}" for name in others)
        + (f"{'cloche × line':>16}" if line else "")
    )
    for row, native in medians["native"].items():
        text = f"{row:24}{native / 1000:10.2f}"
        for name in others:
            value = medians[name].get(row)
            text += f"{'—':>12}{'':>10}" if value is None else f"{value / 1000:12.2f}{value / native:10.2f}"
        if line and "cloche" in medians and row in medians["cloche"]:
            text += f"{medians['cloche'][row] / line:16.1f}"
        print(text)
    for name, rows in chart.ratios(medians).items():
        print(f"geometric mean of {name}: {chart.geometric_mean(list(rows.values())):.2f} × native")
    for name, value in starts.items():
        print(f"start-up of true under {name}: {value:.0f} ms, {sizes[name]:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
