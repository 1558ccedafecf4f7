"""Sandboxes in numbers: made, first output, ended; one after the other, many at once, and idle ones in memory.

`python -m bench.sandboxes`: the SDK's, forked from the template and executed, `cloche run` with and without it, beside
bubblewrap, runsc, docker (runc, runsc) where a daemon answers and has the image, and from the registries of packages
sandlock (PyPI) and Anthropic's sandbox-runtime (npm: `srt` on PATH, which needs bubblewrap and ripgrep).  Times are in
ms; memory is what one more idle sandbox costs, of all its processes.  Systems take turns.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.machine import describe, machine, place, raw_figures

SCRIPT: Final = "echo hi; exec cat"
Times = tuple[float, float, float]  # until it is made, until its first output, for its end


class Made:
    """An idle sandbox that has printed something, with the function that ends it."""

    def __init__(
        self, pids: Callable[[], set[int]], end: Callable[[], None], made_ms: float, first_ms: float
    ) -> None:
        self.pids = pids  # of its processes
        self.end = end
        self.made_ms = made_ms
        self.first_ms = first_ms


def by_sdk() -> Made:
    """`Sandbox.create`, and the first output of a command."""
    from cloche import Sandbox

    start = time.perf_counter()
    sandbox = Sandbox.create()
    made = time.perf_counter()
    if sandbox.commands.run(["/bin/echo", "hi"]).stdout != "hi\n":
        raise RuntimeError("no output")
    first = time.perf_counter()

    def pids() -> set[int]:
        pid = sandbox.get_info().pid
        return {pid, *descendants(pid)}

    def end() -> None:
        sandbox.kill()

    return Made(pids, end, (made - start) * 1e3, (first - start) * 1e3)


def by_command(words: list[str]) -> Made:
    """A command that runs a shell in a sandbox (docker's processes are not below it: its memory is not measured)."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*words, "sh", "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdin is not None
    line = process.stdout.readline()
    first = time.perf_counter()
    if line != b"hi\n":
        raise RuntimeError(f"{words[0]}: no output")

    def pids() -> set[int]:
        return {process.pid, *descendants(process.pid)}

    def end() -> None:
        assert process.stdout is not None and process.stdin is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

    return Made(pids, end, (first - start) * 1e3, (first - start) * 1e3)


def by_sandlock() -> Made:
    """The same shell by sandlock's own interface; in the process that asks."""
    sandlock = importlib.import_module("sandlock.sandbox")
    start = time.perf_counter()
    box = sandlock.Sandbox(fs_readable=["/usr", "/bin", "/lib", "/lib64", "/etc"])
    process = box.popen(["/bin/sh", "-c", SCRIPT], sandlock.StdioMode.PIPED, sandlock.StdioMode.PIPED)
    line = process.stdout.readline()
    first = time.perf_counter()
    if line != b"hi\n":
        raise RuntimeError("sandlock: no output")

    def pids() -> set[int]:
        return {process.pid, *descendants(process.pid)}

    def end() -> None:
        process.stdin.close()
        process.wait()

    return Made(pids, end, (first - start) * 1e3, (first - start) * 1e3)


def with_setting(value: str, make: Callable[[], Made]) -> Callable[[], Made]:
    """With a value of CLOCHE_TEMPLATE."""

    def made() -> Made:
        os.environ["CLOCHE_TEMPLATE"] = value
        return make()

    return made


def systems(image: str) -> dict[str, Callable[[], Made]]:
    """The systems that this machine has."""
    cloche = shutil.which("cloche", path=os.path.dirname(sys.executable)) or "cloche"
    found: dict[str, Callable[[], Made]] = {
        "SDK, template": with_setting("", by_sdk),
        "SDK, executed": with_setting("0", by_sdk),
        "cloche run --template": with_setting(
            "", lambda: by_command([cloche, "run", "-i", "--template", "--"])
        ),
        "cloche run": with_setting("", lambda: by_command([cloche, "run", "-i", "--"])),
    }
    if shutil.which("bwrap"):
        words = "bwrap --unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin"
        bwrap = f"{words} --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev".split()
        found["bubblewrap"] = lambda: by_command(bwrap)
        srt = shutil.which("srt")
        if srt and shutil.which("rg"):
            found["sandbox-runtime"] = lambda: by_command([srt])
    if importlib.util.find_spec("sandlock"):
        found["sandlock"] = by_sandlock
    if shutil.which("runsc") and os.geteuid() == 0:
        words = "unshare --pid --fork --kill-child --mount-proc runsc --ignore-cgroups --network=none"
        runsc = f"{words} --platform=systrap do".split()
        found["runsc do"] = lambda: by_command(runsc)
    for runtime in ("runc", "runsc"):
        docker = ["docker", "run", "-i", "--rm", "--network=none", f"--runtime={runtime}", image]
        if (
            shutil.which("docker")
            and subprocess.run([*docker, "true"], capture_output=True, check=False).returncode == 0
        ):
            found[f"docker, {runtime}"] = lambda words=docker: by_command(words)  # type: ignore[misc]
    return found


def descendants(top: int) -> set[int]:
    """The pids of every process below `top`."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                parents[int(entry)] = int(
                    Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]
                )
        except OSError:
            continue
    below: set[int] = set()
    grown = {top}
    while grown:
        grown = {pid for pid, parent in parents.items() if parent in grown and pid not in below}
        below |= grown
    return below


def sizes(pids: set[int]) -> dict[str, tuple[int, int]]:
    """KiB of these processes' memory by name: private, proportional."""
    found: dict[str, tuple[int, int]] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        figures = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        private, share = found.get(name, (0, 0))
        private += figures["Private_Clean"] + figures["Private_Dirty"]
        found[name] = private, share + figures["Pss"]
    return found


def cpu_ticks(pids: set[int]) -> int:
    """Processor time of these processes, in ticks of 10 ms."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total


def once(make: Callable[[], Made]) -> Times:
    """One, from its start to its end."""
    made = make()
    start = time.perf_counter()
    made.end()
    return made.made_ms, made.first_ms, (time.perf_counter() - start) * 1e3


def at_once(make: Callable[[], Made], count: int) -> float:
    """Milliseconds until each of so many, begun together, has printed something."""
    made: list[Made] = []
    threads = [threading.Thread(target=lambda: made.append(make())) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = (time.perf_counter() - start) * 1e3
    for each in made:
        each.end()
    if len(made) != count:
        raise RuntimeError(f"{len(made)} of {count}")
    return took


def available_kib() -> int:
    """The memory that the host could still give to programs."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def idle(make: Callable[[], Made], count: int, seconds: float) -> dict[str, float]:
    """The cost of each of `count` idle ones, by its processes' private memory and by the host's available memory."""
    make().end()  # the memory that all share has been made
    before = available_kib()
    start = time.perf_counter()
    made = [make() for _ in range(count)]
    took = time.perf_counter() - start
    after = available_kib()
    pids = set().union(*[each.pids() for each in made[:: max(count // 20, 1)]])
    sampled = len(made[:: max(count // 20, 1)])
    memory = sizes(pids)
    everyone = set().union(*[each.pids() for each in made]) if count <= 50 else pids
    ticks = cpu_ticks(everyone)
    time.sleep(seconds)
    burnt = cpu_ticks(everyone) - ticks
    for each in made:
        each.end()
    found = {
        "count": count,
        "private MiB": sum(private for private, _share in memory.values()) / sampled / 1024,
        "host MiB": (before - after) / count / 1024,
        "made s": took,
        "cpu ms/s": burnt * 10 / seconds / (count if count <= 50 else sampled),
    }
    for name, (private, _share) in sorted(memory.items()):
        found[f"private MiB of {name}"] = private / sampled / 1024
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how many one after the other")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--idle", type=int, default=20, help="how many idle ones of each system")
    parser.add_argument("--idle-seconds", type=float, default=5.0)
    parser.add_argument("--image", default="busybox", help="docker's")
    parser.add_argument("--only", action="append", help="a system's name")
    parser.add_argument("--json", type=Path, help="write all samples there (a directory: one file a machine)")
    options = parser.parse_args()
    about, raw = machine(), raw_figures()
    print(describe(about, raw), flush=True)
    found = systems(options.image)
    if options.only:
        found = {name: make for name, make in found.items() if name in options.only}
    times: dict[str, list[Times]] = {name: [] for name in found}
    for make in found.values():
        once(make)
    for _round in range(options.rounds):
        for name, make in found.items():
            times[name].append(once(make))
    print(f"\n{options.rounds} of each in turn, ms: median (least; nine of ten under)")
    print(f"{'':24}{'made':>22}{'first output':>22}{'end':>22}")
    for name, rows in times.items():
        cells = []
        for column in zip(*rows, strict=True):
            ninth = sorted(column)[len(column) * 9 // 10]
            cells.append(f"{statistics.median(column):.1f} ({min(column):.1f}; {ninth:.1f})")
        print(f"{name:24}" + "".join([f"{cell:>22}" for cell in cells]), flush=True)
    together: dict[str, float] = {}
    if options.at_once:
        print(f"\n{options.at_once} at once, until the last one's first output, ms")
        for name, make in found.items():
            together[name] = at_once(make, options.at_once)
            print(f"{name:24}{together[name]:10.0f}", flush=True)
    resting: dict[str, dict[str, float]] = {}
    if options.idle:
        print(f"\n{options.idle} idle ones, each")
        for name, make in found.items():
            resting[name] = idle(make, options.idle, options.idle_seconds)
            print(
                f"{name:24}" + ", ".join([f"{key} {value:.2f}" for key, value in resting[name].items()]),
                flush=True,
            )
    if options.json:
        content = {"machine": about, "raw": raw, "times": times, "at once": together, "idle": resting}
        place(options.json, "sandboxes", about).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
