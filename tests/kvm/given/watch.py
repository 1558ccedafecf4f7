"""Runs in the machine: `watch.py NAME...` has `given` try those attacks in a sandbox, and compares the sandbox's
processes, threads and descriptors on the host before and after. Prints the output of `given`, and a last line about
the rest.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

PLACE = "/opt/given/given"
DEADLINE_S = 60
SILENCE_S = 45


def below(pid: int) -> list[Path]:
    found = [Path(f"/proc/{pid}")]
    for at in found:
        try:
            children = (at / "task" / at.name / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        found += [Path(f"/proc/{child}") for child in children]
    return found


def holdings_at_once(pid: int) -> dict[str, int]:
    count = {"processes": 0, "threads": 0, "descriptors": 0, "machines": 0}
    for at in below(pid):
        try:
            threads, links = list((at / "task").iterdir()), list((at / "fd").iterdir())
        except OSError:
            continue
        count["processes"] += 1
        count["threads"] += len(threads)
        for link in links:
            try:
                count["machines"] += str(link.readlink()) == "anon_inode:kvm-vm"
                count["descriptors"] += 1
            except OSError:
                continue
    return count


def holdings(pid: int) -> dict[str, int]:
    """Once they are the same twice: nothing begins or ends meanwhile."""
    deadline, last = time.monotonic() + DEADLINE_S, holdings_at_once(pid)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = holdings_at_once(pid)
        if now == last:
            break
        last = now
    return last


def show(pid: int) -> None:
    """Print where each process waits, when there has been no output for too long."""
    for at in below(pid):
        for thread in sorted((at / "task").iterdir()) if at.exists() else []:
            words = [thread.name]
            for name in ("comm", "wchan", "syscall", "stat"):
                try:
                    words.append((thread / name).read_text().strip())
                except OSError as error:
                    words.append(str(error.strerror))
            print(*words, sep=" | ", file=sys.stderr, flush=True)


def begin_watching(pid: int) -> threading.Timer:
    timer = threading.Timer(SILENCE_S, show, (pid,))
    timer.daemon = True
    timer.start()
    return timer


def main() -> int:
    command = ["cloche", "run", "-i", "--platform", "kvm", "--", PLACE, *sys.argv[1:]]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/opt/given"
    )
    watchdog = begin_watching(process.pid)
    assert process.stdin is not None and process.stdout is not None
    before: dict[str, int] = {}
    last = time.monotonic()
    for line in process.stdout:
        watchdog.cancel()
        watchdog = begin_watching(process.pid)
        print(line, end="", flush=True)
        now_s = time.monotonic()
        print(f"{now_s - last:.1f} s until {line}", end="", file=sys.stderr, flush=True)
        last = now_s
        if line == "@begin\n":
            before = holdings(process.pid)
        elif line == "@end\n":
            deadline, now = time.monotonic() + DEADLINE_S, holdings(process.pid)
            while any(now[name] > before[name] + 2 for name in now) and time.monotonic() < deadline:
                time.sleep(0.2)
                now = holdings(process.pid)
            left = {name: (before[name], now[name]) for name in now if now[name] > before[name] + 2}
            print("left over:", left or "nothing")
        else:
            continue
        process.stdin.write("\n")
        process.stdin.flush()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
