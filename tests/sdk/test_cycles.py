"""Sandboxes made, used and ended again and again, their makers killed now and then: nothing is left.

CLOCHE_TEST_CYCLES says how many (a release runs 10,000; an ordinary run a few).
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from cloche import Sandbox
from tests.cli.harness import alive, descendants, environment, processes, wait_until

CYCLES = int(os.environ.get("CLOCHE_TEST_CYCLES", "24"))
KILLED = 20  # one maker in so many, at any moment of its sandbox's life
MAKERS = 2  # at a time
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


def test_nothing_is_left(root: str) -> None:
    chance = random.Random(15)
    before = set(processes())
    everyone: set[int] = set()
    makers = [Maker(root) for _ in range(MAKERS)]
    descriptors = len(os.listdir("/proc/self/fd"))
    victims = set(chance.sample(range(CYCLES), max(CYCLES // KILLED, 1)))
    for turn in range(CYCLES):
        at = turn % MAKERS
        maker = makers[at]
        maker.order(f"turn-{turn}")
        steps = chance.randrange(3) if turn in victims else 3
        for step in range(steps):
            said = maker.stdout.readline().strip()
            if step == 0:
                pid = int(said)
                if turn % 10 == 0 or turn in victims:
                    everyone |= {pid, *descendants(pid)}
            else:
                assert said == ("", f"turn-{turn}", "ended")[step]
        if turn in victims:
            maker.end(signal.SIGKILL)
            makers[at] = Maker(root)
    for maker in makers:
        maker.end(signal.SIGKILL)
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    wait_until(lambda: not alive(everyone), "nothing is left of those that were looked at", 60)
    wait_until(lambda: not Sandbox.list(root=root), "no record either", 60)
    wait_until(lambda: set(os.listdir(root)) <= {".lock"}, "nor a file of one", 60)
    path = Path(root)

    def ours() -> list[str]:
        """Processes of a sandbox that stand in a record of ours."""
        found = []
        for pid in set(processes()) - before:
            try:
                fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue
            found += [each for each in fds if each.startswith(str(path))]
        return found

    wait_until(lambda: not ours(), "nor a process that holds one", 60)
