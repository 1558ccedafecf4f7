"""A container's life beside runc and runsc: create, start, wait for `true`, delete, as an engine's shim does.

    python -m bench.oci [--rounds N] [--cloche PROGRAM]… [--only NAME]… [--json FILE]

Needs root and busybox.  In a round all runtimes have one life each, in turn, so the figures of a round are taken from
the machine in one state; the first round does not count.  Like a shim this process is the subreaper, so it waits for
the container's anchor, and for all else that a runtime has left to end by itself: the processor time of a life is that
of all its processes, that of a verb is of the verb's own process.  `--cloche`, more than once, compares builds.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.machine import machine, place
from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.platform import hostsys

VERBS: Final = ("create", "start", "delete", "state")
WALL: Final = ("life", "create", "start", "wait", "delete")
Life = dict[str, float]  # milliseconds: "life", "create", …, and "cpu of life", "cpu of create", …
_DIRECTORIES: Final = ("bin", "dev", "proc", "sys", "tmp")


def make_bundle(folder: Path, cloche: str) -> Path:
    """A bundle whose program is busybox's `true`."""
    for name in _DIRECTORIES:
        (folder / "rootfs" / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("bench.oci: needs busybox")
    shutil.copy(os.path.realpath(busybox), folder / "rootfs" / "bin" / "true")
    subprocess.run([cloche, "spec", "-b", str(folder)], check=True)
    config = folder / "config.json"
    data = json.loads(config.read_text())
    data["process"]["terminal"] = False
    data["process"]["args"] = ["/bin/true"]
    config.write_text(json.dumps(data))
    return folder


def runtimes(options: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The start of each runtime's command line, by name."""
    found: dict[str, list[str]] = {}
    for path in options.cloche:
        name = "cloche-oci" if len(options.cloche) == 1 else path
        found[name] = [path]
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    for name in ("runc", "runsc"):
        program = shutil.which(name, path=path)
        if program is not None:
            found[name] = [program, "--network=none", "--platform=systrap"] if name == "runsc" else [program]
    if options.only:
        found = {name: words for name, words in found.items() if name in options.only}
    return {
        name: [*words, "--root", str(folder / f"records{number}")]
        for number, (name, words) in enumerate(found.items())
    }


class Shim:
    """Waits for children as an engine's shim does: for whichever ends, so what a runtime looks for is no zombie."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}  # status by pid

    def wait(self, pid: int) -> tuple[int, float]:
        """The status of a child, and its milliseconds of processor time if it has ended only now."""
        while pid not in self.ended:
            found, status, usage = os.wait4(-1, 0)
            self.ended[found] = status
            if found == pid:
                return self.ended.pop(pid), (usage.ru_utime + usage.ru_stime) * 1e3
        return self.ended.pop(pid), 0.0

    def wait_for_all(self) -> None:
        """For every child that is left."""
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        self.ended.clear()

    def verb(self, words: list[str]) -> tuple[float, float]:
        """Milliseconds of a command, by the clock and of processor time.  Raises RuntimeError."""
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        started = time.perf_counter()
        status, cpu_ms = self.wait(os.posix_spawn(words[0], words, os.environ, file_actions=actions))
        took_ms = (time.perf_counter() - started) * 1e3
        os.close(null)
        if status:
            raise RuntimeError(f"{' '.join(words)} has failed")
        return took_ms, cpu_ms


def own_children_ms() -> float:
    """Processor time of all children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e3


def life(words: list[str], bundle: Path, folder: Path, ident: str) -> Life:
    """One container.  Raises RuntimeError."""
    shim = Shim()
    found: Life = {}
    cpu_before_ms = own_children_ms()
    pid_file = folder / "pid"
    began = time.perf_counter()
    made = [*words, "create", "--bundle", str(bundle), "--pid-file", str(pid_file), ident]
    found["create"], found["cpu of create"] = shim.verb(made)
    pid = int(pid_file.read_text())
    found["start"], found["cpu of start"] = shim.verb([*words, "start", ident])
    started = time.perf_counter()
    status, _cpu_ms = shim.wait(pid)
    found["wait"] = (time.perf_counter() - started) * 1e3
    if status:
        raise RuntimeError(f"{words[0]}: the program's status is {status}")
    found["delete"], found["cpu of delete"] = shim.verb([*words, "delete", ident])
    found["life"] = (time.perf_counter() - began) * 1e3
    shim.wait_for_all()
    found["cpu of life"] = own_children_ms() - cpu_before_ms
    return found


def state_ms(words: list[str], bundle: Path, ident: str) -> float:
    """Processor time of `state` of a container that waits for its start.  Raises RuntimeError."""
    shim = Shim()
    shim.verb([*words, "create", "--bundle", str(bundle), ident])
    try:
        return shim.verb([*words, "state", ident])[1]
    finally:
        shim.verb([*words, "delete", "--force", ident])
        shim.wait_for_all()


def cell(figures: list[float]) -> str:
    """Median and least."""
    return f"{statistics.median(figures):.1f} ({min(figures):.1f})"


def show(found: dict[str, list[Life]]) -> None:
    """The tables."""
    print(f"\n{'':24}" + "".join([f"{name[-20:]:>22}" for name in found]))
    for title in (*WALL, "cpu of life", *[f"cpu of {name}" for name in VERBS]):
        cells = [cell([each[title] for each in lives]) for lives in found.values()]
        print(f"{title:24}" + "".join([f"{each:>22}" for each in cells]), flush=True)


def measure(names: dict[str, list[str]], bundle: Path, folder: Path, rounds: int) -> dict[str, list[Life]]:
    """All rounds; a runtime that fails in the first one is left out, and named.  Raises RuntimeError."""
    found: dict[str, list[Life]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for name in list(found):
            words, ident = names[name], f"bench-{os.getpid()}-{number + 1}"
            try:
                figures = life(words, bundle, folder, ident)
                figures["cpu of state"] = state_ms(words, bundle, ident + "-state")
            except RuntimeError as failure:
                if number >= 0:
                    raise
                print(f"bench.oci: without {name}: {failure}", file=sys.stderr)
                del found[name]
                continue
            if number >= 0:
                found[name].append(figures)
    return found


def main() -> int:
    """The command."""
    beside = Path(sys.executable).parent / "cloche-oci"
    parser = argparse.ArgumentParser(prog="python -m bench.oci")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--cloche", metavar="PROGRAM", action="append", help="cloche-oci; may be said again")
    parser.add_argument("--only", metavar="NAME", action="append", help="a runtime's name")
    parser.add_argument("--json", type=Path, help="write all figures there (a directory: one file a machine)")
    options = parser.parse_args()
    options.cloche = options.cloche or [str(beside)]
    if os.geteuid() != 0:
        print("bench.oci: needs root", file=sys.stderr)
        return 1
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    about = machine()
    print(f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}, {about['date']}")
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="cloche-bench-") as name:
        folder = Path(name)
        bundle = make_bundle(folder / "bundle", options.cloche[0])
        try:
            found = measure(runtimes(options, folder), bundle, folder, options.rounds)
        except RuntimeError as failure:
            print(f"bench.oci: {failure}", file=sys.stderr)
            return 1
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{options.rounds} rounds, ms: median (least); {load}", end="")
    show(found)
    if options.json:
        content = {"machine": about, "load": load, "lives": found}
        place(options.json, "oci", about).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
