"""How well stubs and sentry wait: four measurements, each with its target.

    python -m bench.waiting [--cloche COMMAND] [--seconds N] [--json FILE] [MEASUREMENT …]

busy      a busy exchange never sleeps: voluntary context switches of sentry and guest for each system call
idle      an idle sandbox uses no CPU: run time of all its processes, as a share of one core
crowd     50 idle sandboxes do not slow the 51st: a guest's calls a second, alone and with them
few-cores one core, or many more runnable threads than cores: throughput against never spinning

All figures are read from outside (/proc), so nothing in the sandbox knows that it is measured.  Needs a machine that
does nothing else.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import machine, place
from bench.run import CLOCHE, need_installed

PROGRAMS = Path(__file__).parent / "programs"
NO_SPIN = {"CLOCHE_SPIN_NS": "0"}


def family(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def switches(pids: list[int]) -> int:
    """Voluntary context switches of all threads of these processes."""
    total = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def run_time_ns(pids: list[int]) -> int:
    """CPU time of all threads of these processes."""
    total = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(schedstat.read_text(encoding="ascii").split()[0])
    return total


class Bench:
    """The command to measure, and a directory with the programs."""

    def __init__(self, cloche: str, folder: str, seconds: float) -> None:
        self.command = [*shlex.split(cloche), "run"] if cloche else CLOCHE
        self.folder = folder
        self.seconds = seconds

    def start(
        self, words: list[str], cpus: set[int] | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A sandbox; with `cpus` it and all that it starts may use only those."""
        prefix = ["taskset", "-c", ",".join(map(str, sorted(cpus)))] if cpus else []
        return subprocess.Popen(
            [*prefix, *self.command, "--", *words], cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
        )  # fmt: skip

    def calls(self, threads: int, cpus: set[int] | None = None, env: dict[str, str] | None = None) -> float:
        """Calls a second of `busy`."""
        child = self.start(["./busy", f"{self.seconds}", str(threads)], cpus, env)
        output = child.communicate(timeout=60 + self.seconds)[0].split()
        if child.returncode or len(output) != 2:
            raise SystemExit(f"busy ended with {child.returncode}: {output}")
        return int(output[1]) / self.seconds

    def idle_sandbox(self) -> subprocess.Popen[str]:
        """One in which a program sleeps."""
        child = self.start(["/bin/sh", "-c", "echo ready; exec sleep 1000"])
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise SystemExit("a sandbox did not start")
        return child


def end(children: list[subprocess.Popen[str]]) -> None:
    """End sandboxes."""
    for child in children:
        child.terminate()
    for child in children:
        child.wait(timeout=60)


def busy(bench: Bench) -> dict[str, float]:
    """Sleeps for each thousand calls of one thread; more than 1 is a failure."""
    child = bench.start(["./busy", f"{bench.seconds + 1}", "1"])
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.3)
    pids = [pid for pid in family(child.pid) if pid != child.pid]
    before = switches(pids)
    time.sleep(bench.seconds)
    after = switches(pids)
    total = int(child.stdout.read())
    child.wait(timeout=60)
    calls = total * bench.seconds / (bench.seconds + 1)
    slept = (after - before) * 1000 / calls
    print(
        f"busy: {after - before} sleeps in {calls:.0f} calls, {slept:.3f} for each thousand (target: below 1)"
    )
    return {"sleeps_per_thousand": slept, "calls_per_second": calls / bench.seconds}


def idle(bench: Bench, seconds: float) -> dict[str, float]:
    """Share of one core of a sandbox that sleeps."""
    child = bench.idle_sandbox()
    time.sleep(1)
    pids = family(child.pid)
    before = run_time_ns(pids)
    time.sleep(seconds)
    share = (run_time_ns(pids) - before) / (seconds * 1e9)
    end([child])
    print(f"idle: {100 * share:.4f} % of a core over {seconds:g} s (target: below 0.1 %)")
    return {"percent": 100 * share}


def crowd(bench: Bench, count: int = 50) -> dict[str, float]:
    """A guest's speed alone and beside idle sandboxes, in turn where that is possible."""
    alone = [bench.calls(1) for _ in range(6)]
    others: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            others.append(bench.idle_sandbox())
        beside = [bench.calls(1) for _ in range(12)]
    finally:
        end(others)
    alone += [bench.calls(1) for _ in range(6)]
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"crowd: {100 * ratio:.1f} % of the speed beside {count} idle sandboxes (target: 95 % or more)")
    return {"alone": statistics.median(alone), "beside": statistics.median(beside), "ratio": ratio}


def few_cores(bench: Bench) -> dict[str, float]:
    """Throughput with spinning against without, pinned to one core and with 16 threads."""
    out: dict[str, float] = {}
    one = {min(os.sched_getaffinity(0))}
    cases: list[tuple[str, int, set[int] | None]] = [
        ("one core, one thread", 1, one),
        ("one core, 16 threads", 16, one),
        ("all cores, 16 threads", 16, None),
    ]
    for name, threads, cpus in cases:
        spinning, never = [], []
        for _ in range(5):
            spinning.append(bench.calls(threads, cpus))
            never.append(bench.calls(threads, cpus, NO_SPIN))
        ratio = statistics.median(spinning) / statistics.median(never)
        out[name] = ratio
        print(f"few-cores: {name}: {100 * ratio:.1f} % of never spinning (target: 95 % or more)")
    return out


def main() -> int:
    """Make the measurements that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cloche", default="", help="the command to measure instead of this Python's")
    parser.add_argument("--seconds", type=float, default=2.0, help="for one run of a busy program")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--json", metavar="FILE", type=Path, help="a directory: one file a machine")
    parser.add_argument("what", nargs="*", metavar="MEASUREMENT", help="busy, idle, crowd, few-cores")
    options = parser.parse_args()
    wanted = options.what or ["busy", "idle", "crowd", "few-cores"]
    if not options.cloche:
        need_installed(parser)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="cloche-waiting-") as folder:
        os.chmod(folder, 0o755)
        source = PROGRAMS / "busy.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", f"{folder}/busy", str(source)], check=True)
        bench = Bench(options.cloche, folder, options.seconds)
        if "busy" in wanted:
            results["busy"] = busy(bench)
        if "idle" in wanted:
            results["idle"] = idle(bench, options.idle_seconds)
        if "crowd" in wanted:
            results["crowd"] = crowd(bench)
        if "few-cores" in wanted:
            results["few-cores"] = few_cores(bench)
    if options.json:
        options.json = place(options.json, "waiting", machine())
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
