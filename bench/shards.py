"""What a second sentry brings: the same work in one sandbox, and shared out among several that run side by side.

    python -m bench.shards [--rounds N] [--cloche COMMAND] [--json FILE]

pipes   pairs of processes that pass 64 bytes to and fro over two pipes, 15,000 times each: seconds until all are done
calls   threads that make a call which does nothing, for a second: calls of all

Each sandbox has a sentry of its own, so this is what sharding by process, or a sentry for each container, could bring
at best: nothing is shared.  Beside the time stands the processor time of the sentries, which a busy machine changes
less.  The least (of calls the most) of the rounds, all rows in turn.  See docs/second-processor.md.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.run import CLOCHE, need_installed
from bench.waiting import PROGRAMS, end, family

SECONDS = 1.0
SPLITS = ((1,), (2,), (1, 1), (4,), (2, 2), (1, 1, 1, 1))


def sentry_of(root: int) -> int:
    """The sentry's pid."""
    for pid in family(root):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "cloche-sentry\n":
                return pid
        except OSError:
            continue
    raise SystemExit("a sandbox has no sentry")


def run_ns(pid: int) -> int:
    """Processor time of its first thread, 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except (OSError, IndexError):
        return 0


class Shards:
    """Sandboxes in which a program waits for the signal to begin."""

    def __init__(self, command: list[str], folder: str, programs: list[list[str]]) -> None:
        self.children: list[subprocess.Popen[str]] = []
        for program in programs:
            words = ["/bin/sh", "-c", 'echo; read _; exec "$@"', "sh", *program]
            self.children.append(
                subprocess.Popen(
                    [*command, "--", *words],
                    cwd=folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for child in self.children:
            assert child.stdout is not None
            if child.stdout.readline() != "\n":
                end(self.children)
                raise SystemExit("a sandbox did not start")
        self.sentries = [sentry_of(child.pid) for child in self.children]

    def run(self) -> tuple[float, float, list[str]]:
        """Seconds until all have ended, of the sentries' processor time, and the output of each."""
        before = {pid: run_ns(pid) for pid in self.sentries}
        after = dict(before)
        begun = time.monotonic()
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        while any(child.poll() is None for child in self.children):
            for pid in self.sentries:
                after[pid] = max(after[pid], run_ns(pid))
            time.sleep(0.005)
        seconds = time.monotonic() - begun
        said = [child.communicate(timeout=60)[0] for child in self.children]
        return seconds, sum(after[pid] - before[pid] for pid in self.sentries) / 1e9, said


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cloche", default="", help="the command to measure instead of this Python's")
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    if not options.cloche:
        need_installed(parser)
    command = [*shlex.split(options.cloche), "run"] if options.cloche else CLOCHE
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="cloche-shards-") as folder:
        os.chmod(folder, 0o755)
        for name in ("hammer", "busy"):
            source = str(PROGRAMS / f"{name}.c")
            subprocess.run(["gcc", "-O2", "-pthread", "-o", f"{folder}/{name}", source], check=True)
        for _ in range(options.rounds):
            for split in SPLITS:
                label = "+".join(map(str, split))
                shards = Shards(command, folder, [["./hammer", "pipes", str(pairs)] for pairs in split])
                seconds, sentries, said = shards.run()
                if said != [f"{2 * pairs} processes\n" for pairs in split]:
                    raise SystemExit(f"pipes {label}: {said}")
                found.setdefault(f"pipes {label}", []).append((seconds, sentries))
                shards = Shards(
                    command, folder, [["./busy", f"{SECONDS}", str(threads)] for threads in split]
                )
                _seconds, sentries, said = shards.run()
                calls = sum(int(text.split()[1]) for text in said)
                found.setdefault(f"calls {label}", []).append((calls, sentries))
    print(f"{'in each sandbox':20}{'s, or calls/s':>16}{'sentries, s':>14}")
    for label, rows in sorted(found.items()):
        best = min(rows) if label.startswith("pipes") else max(rows)
        print(f"{label:20}{best[0]:16,.2f}{best[1]:14.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
