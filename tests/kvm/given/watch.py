"""Runs in the machine: `watch.py NAME...` has `given` try those attacks in a sandbox, and looks at what the sandbox has of the
host before and after: processes, threads, descriptors.  Prints what `given` says, and a last line about the rest.
"""

import subprocess
import sys
import time
from pathlib import Path

PLACE = "/opt/given/given"
DEADLINE_S = 60


def below(pid: int) -> list[Path]:
    found = [Path(f"/proc/{pid}")]
    for at in found:
        children = (at / "task" / at.name / "children").read_text().split()
        found += [Path(f"/proc/{child}") for child in children]
    return found


def holdings(pid: int) -> dict[str, int]:
    count = {"processes": 0, "threads": 0, "descriptors": 0, "machines": 0}
    for at in below(pid):
        try:
            count["processes"] += 1
            count["threads"] += len(list((at / "task").iterdir()))
            links = [str(link.readlink()) for link in (at / "fd").iterdir()]
            count["descriptors"] += len(links)
            count["machines"] += sum(link == "anon_inode:kvm-vm" for link in links)
        except OSError:
            continue
    return count


def main() -> int:
    command = ["cloche", "run", "-i", "--platform", "kvm", "--", PLACE, *sys.argv[1:]]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/opt/given"
    )
    assert process.stdin is not None and process.stdout is not None
    before: dict[str, int] = {}
    for line in process.stdout:
        print(line, end="", flush=True)
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
