"""Sandboxes made, used and ended again and again, their makers killed now and then: nothing may be left.

`test_cycles.py` runs a few.  For a release, at the machine's leisure:

    python -m tests.sdk.cycles --cycles 10000 --minutes 120

It says now and then how far it is, and at the end how long a cycle took and what is left: nothing, or it fails.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloche import Sandbox
from tests.cli.harness import alive, descendants, environment, processes, wait_until

KILLED = 20  # one maker in so many, at any moment of its sandbox's life
MAKERS = 2
END_S = 120.0
REPORT_S = 60.0
MAKER = """
import sys
from cloche import Sandbox
print("ready", flush=True)
for line in sys.stdin:
    with Sandbox.create(root=sys.argv[1]) as sandbox:
        print(sandbox.get_info().pid, flush=True)
        result = sandbox.commands.run(["echo", line.strip()])
        print(result.stdout.strip(), flush=True)
    print("ended", flush=True)
"""


class Maker:
    """A program that makes a sandbox for every line that it reads."""

    def __init__(self, root: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAKER, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "ready\n"

    def order(self, text: str) -> None:
        self.stdin.write(text + "\n")
        self.stdin.flush()

    def end(self, signo: int) -> None:
        self.process.send_signal(signo)
        self.process.wait(60)
        self.stdin.close()
        self.stdout.close()


def begun(pid: int) -> int:
    """When a process began, in ticks since the host did; 0 if there is none.  Its number may be another's later."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return 0


def ended(seen: dict[int, int]) -> bool:
    """Whether none of these processes is left."""
    return not any(begun(pid) == seen[pid] for pid in alive(set(seen)))


def wait_for_ends(seen: dict[int, int]) -> None:
    """Raises AssertionError, which names those that are left."""
    try:
        wait_until(partial(ended, seen), "nothing is left of those that were looked at", END_S)
    except AssertionError as failure:
        left = [(pid, *processes().get(pid, ())) for pid in alive(set(seen)) if begun(pid) == seen[pid]]
        raise AssertionError(f"{failure}: {left}") from None


def holders(root: str, pids: set[int]) -> list[str]:
    """Files below the records that these processes hold."""
    found = []
    for pid in pids:
        try:
            fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        found += [each for each in fds if each.startswith(root)]
    return found


def run(root: str, cycles: int, tell: Callable[[int], bool]) -> list[float]:
    """How long each whole cycle took, in seconds.  Fails if anything is left.

    `tell` is given the number of cycles after each, and says whether there shall be more.
    """
    chance = random.Random(15)
    before = set(processes())
    everyone: dict[int, int] = {}
    makers = [Maker(root) for _ in range(MAKERS)]
    descriptors = len(os.listdir("/proc/self/fd"))
    victims = set(chance.sample(range(cycles), max(cycles // KILLED, 1)))
    took: list[float] = []
    for turn in range(cycles):
        at = turn % MAKERS
        maker = makers[at]
        began_s = time.monotonic()
        maker.order(f"turn-{turn}")
        steps = chance.randrange(3) if turn in victims else 3
        for step in range(steps):
            said = maker.stdout.readline().strip()
            if step == 0:
                pid = int(said)
                if turn % 10 == 0 or turn in victims:
                    everyone |= {each: begun(each) for each in (pid, *descendants(pid))}
            else:
                assert said == ("", f"turn-{turn}", "ended")[step]
        if turn in victims:
            maker.end(signal.SIGKILL)
            makers[at] = Maker(root)
        else:
            took.append(time.monotonic() - began_s)
        if len(everyone) > 1000:  # the kernel gives numbers of processes out again
            wait_for_ends(everyone)
            everyone.clear()
        if not tell(turn + 1):
            break
    for maker in makers:
        maker.end(signal.SIGKILL)
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    wait_for_ends(everyone)
    wait_until(lambda: not Sandbox.list(root=root), "no record either", END_S)
    wait_until(lambda: set(os.listdir(root)) <= {".lock"}, "nor a file of one", END_S)
    wait_until(lambda: not holders(root, set(processes()) - before), "nor a process that holds one", END_S)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=600.0, help="no more cycles after so many")
    options = parser.parse_args()
    began_s = told_s = time.monotonic()
    count = 0

    def tell(done: int) -> bool:
        nonlocal told_s, count
        count, now = done, time.monotonic()
        if now - told_s >= REPORT_S:
            told_s = now
            print(f"{done} cycles, {told_s - began_s:.0f} s", flush=True)
        return now - began_s < options.minutes * 60

    with tempfile.TemporaryDirectory() as folder:
        took = sorted(run(str(Path(folder) / "records"), options.cycles, tell))
    middle, last = took[len(took) // 2], took[-1]
    print(
        f"{count} cycles, {count - len(took)} makers killed, {time.monotonic() - began_s:.0f} s:"
        f" nothing is left; a cycle took {took[0]:.3f} s at least, {middle:.3f} in the middle, {last:.3f} at most"
    )


if __name__ == "__main__":
    main()
