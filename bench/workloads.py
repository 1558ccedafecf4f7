"""The workload table: each row natively, in cloche and (where installed, as root) in gVisor's runsc, in turn.

    python -m bench.workloads [--rounds N] [--rows NAME,…] [--no-runsc] [--json FILE] [--resume] [--svg FILE]

Medians, ratios to native and their geometric means are printed; FILE gets the raw numbers after every row, so that
`--resume` goes on where a run was interrupted.  Data sets are made once into the work directory (`--work`).  A row
whose programs are missing is skipped by name; one that fails, hangs or prints something else than it should is
reported with the reason, for the system concerned.  What is measured is the work inside a sandbox that runs already:
`cloche run true` has its own table (`bench.run`).
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import chart, data
from bench.machine import describe, machine, place, raw_figures
from bench.rows import ROWS, Row
from bench.run import kind_of, need_installed, offer_options, systems

TITLE = "Workloads: time relative to native (less is better)"
_SECONDS = re.compile(r"^#seconds ([0-9.]+)\n", re.MULTILINE)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    """A run that cannot be counted; the text has the reason."""


class Runner:
    """Runs rows in a work directory."""

    def __init__(self, work: Path, timeout_s: float, options: list[str], cloche: str) -> None:
        self.work = work
        self.data = work / "data"
        self.timeout_s = timeout_s
        self.environment = {
            "PATH": _PATH,
            "HOME": "/root" if os.geteuid() == 0 else str(Path.home()),
            "LANG": "C.UTF-8",
            "DATA": str(self.data),
        }
        try:
            self.environment["PGBIN"] = data.postgres_bin()
        except data.Missing:
            pass
        inside = [
            f"{key}={self.environment[key]}" for key in ("DATA", "PGBIN", "LANG") if key in self.environment
        ]
        words = [word for pair in inside for word in ("-e", pair)]
        self.systems = systems([*words, *options])
        if cloche:
            self.systems["cloche"] = [*cloche.split(), "run", *words, *options, "--"]

    def prepare(self, row: Row) -> None:
        """Make the row's data.  Raises Failed if it cannot run here."""
        missing = [name for name in row.programs if shutil.which(name, path=_PATH) is None]
        if missing:
            raise Failed(f"no {' or '.join(missing)}")
        for name in row.data:
            try:
                data.make(name, self.data)
            except data.Missing as error:
                raise Failed(f"no data set {name}: {error}") from None
        (self.work / "script.sh").write_text(f"cd {self.work}/run\n{row.script}", encoding="utf-8")

    def once(self, row: Row, system: str) -> float:
        """Seconds.  Raises Failed."""
        scratch = self.work / "run"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        scratch.chmod(0o777)
        child = subprocess.Popen(
            [*self.systems[system], "/bin/bash", str(self.work / "script.sh")], cwd=self.work, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            output, errors = child.communicate(timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output, errors = child.communicate()
            raise Failed(f"it took more than {self.timeout_s:g} s") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        text = output.decode(errors="replace")
        found = _SECONDS.search(text)
        result = _SECONDS.sub("", text)
        if child.returncode != 0 or found is None or re.fullmatch(row.expect, result) is None:
            said = errors.decode(errors="replace").strip()[-300:]
            raise Failed(f"exit status {child.returncode}, output {result[-200:]!r}; {said}")
        return float(found[1])


def measure(
    runner: Runner, row: Row, rounds: int, budget_s: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Samples and failures of one row, by system.  A system that is slow gets fewer rounds, two at least."""
    samples: dict[str, list[float]] = {name: [] for name in runner.systems}
    failures: dict[str, str] = {}
    spent = dict.fromkeys(runner.systems, 0.0)
    for _ in range(rounds):
        for name in runner.systems:
            if name in failures or (len(samples[name]) >= 2 and spent[name] > budget_s):
                continue
            began = time.monotonic()
            try:
                samples[name].append(runner.once(row, name))
            except Failed as failure:
                failures[name] = str(failure)
                print(f"{row.name} in {name}: {failure}", file=sys.stderr)
            spent[name] += time.monotonic() - began
    return {name: values for name, values in samples.items() if values}, failures


def medians(samples: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """System -> row -> median, from row -> system -> samples."""
    out: dict[str, dict[str, float]] = {"native": {}}
    for row, by_system in samples.items():
        for name, values in by_system.items():
            out.setdefault(name, {})[row] = statistics.median(values)
    return out


def report(table: dict[str, dict[str, float]]) -> None:
    """The table and the geometric means."""
    others = [name for name in table if name != "native"]
    print(f"{'row':28}{'native s':>10}" + "".join(f"{name + ' s':>12}{'× native':>10}" for name in others))
    for row, native in table["native"].items():
        line = f"{row:28}{native:10.3f}"
        for name in others:
            value = table[name].get(row)
            line += f"{'—':>12}{'':>10}" if value is None else f"{value:12.3f}{value / native:10.2f}"
        print(line)
    found = chart.ratios(table)
    for name in others:
        print(f"geometric mean of {name}: {chart.geometric_mean(list(found[name].values())):.2f} × native")
    if {"cloche", "runsc"} <= found.keys():
        both = [
            found["runsc"][row] / value for row, value in found["cloche"].items() if row in found["runsc"]
        ]
        slower = [row for row, value in found["cloche"].items() if value > found["runsc"].get(row, value)]
        print(
            f"cloche is {chart.geometric_mean(both):.2f} × as fast as runsc; slower than it: {slower or 'nowhere'}"
        )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", help="names, or parts of names, with commas between (default: all)")
    parser.add_argument("--no-runsc", action="store_true")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where the raw numbers go")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="where the chart goes")
    parser.add_argument("--work", metavar="DIR", type=Path, default=Path("/tmp/cloche-workloads"))
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one run of one row")
    parser.add_argument(
        "--budget", type=float, default=12, help="seconds for all runs of one row in one system"
    )
    parser.add_argument("--cloche", default="", help="the command to measure instead of this Python's")
    offer_options(parser)
    options = parser.parse_args()
    kind = kind_of("workloads", options)
    if not options.cloche:
        need_installed(parser, options.option)
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o755)
    runner = Runner(work, options.timeout, options.option, options.cloche)
    if options.no_runsc:
        runner.systems.pop("runsc", None)
    about, raw = machine(), raw_figures()
    print(describe(about, raw))
    if options.json:
        options.json = place(options.json, kind, about)
    wanted = (options.rows or "").split(",")
    rows = [row for row in ROWS if any(part.strip() in row.name for part in wanted)]
    samples: dict[str, dict[str, list[float]]] = {}
    failures: dict[str, dict[str, str]] = {}
    skipped: dict[str, str] = {}
    if options.resume and options.json and options.json.exists():
        before = json.loads(options.json.read_text(encoding="utf-8"))
        samples, failures = before["samples"], before["failures"]
    for row in rows:
        if row.name in samples:
            continue
        try:
            runner.prepare(row)
        except Failed as reason:
            skipped[row.name] = str(reason)
            print(f"{row.name}: skipped ({reason})", file=sys.stderr)
            continue
        samples[row.name], failed = measure(runner, row, options.rounds, options.budget)
        if failed:
            failures[row.name] = failed
        print(
            f"{row.name}: "
            + ", ".join(f"{k} {statistics.median(v):.3f} s" for k, v in samples[row.name].items())
        )
        sys.stdout.flush()
        if options.json:
            contents = {
                "title": TITLE, "machine": about, "raw_ns": raw, "medians": medians(samples), "samples": samples,
                "failures": failures, "skipped": skipped,
            }  # fmt: skip
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    table = medians(samples)
    report(table)
    if options.svg:
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(chart.draw(TITLE, table), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
