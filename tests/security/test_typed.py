"""Random system calls with arguments of the right types: no internal error, no leak, and others are served.

`programs/typed.c` makes them, as two users, with memory calls checked and not, patched and not.  A few seconds each;
CLOCHE_SLOW=1 for an hour each.  CLOCHE_SEED chooses other calls.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.cli.harness import name_of
from tests.guest.harness import IS_EMULATED, TIMEOUT_S, cloche_command, strict
from tests.security.test_guests import descendants, folder

__all__ = ["folder"]
SECONDS = (
    3600 if os.environ.get("CLOCHE_SLOW") == "1" else 60 if IS_EMULATED else 3
)  # a worker makes 500 calls
SEED = int(os.environ.get("CLOCHE_SEED", "1"))
PROCESSES = 2 if IS_EMULATED else 4
SLOWER = 20 if IS_EMULATED else 1  # a signal each 5 ms would leave the workers no time
# Numbers that may differ between two moments at rest: blanks in the pool, files opened ahead, free lists, fragments.
SPARE_DESCRIPTORS = 40
SPARE_MIB = 64


def sentry_below(pid: int) -> int:
    [found] = [each for each in descendants(pid) if name_of(each) == "cloche-sentry"]
    return found


def usage_of(pid: int) -> tuple[int, int]:
    """Descriptors, and MiB of resident memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return len(os.listdir(f"/proc/{pid}/fd")), int(found[1]) >> 10 if found else 0


def follow(process: "subprocess.Popen[str]") -> tuple[int, list[str], list[tuple[int, int]]]:
    """Until a sandbox ends that says `alive` at rest and then waits for a line: its status, what it said, and what its
    sentry held each time."""
    assert process.stdin is not None and process.stdout is not None
    lines: list[str] = []
    held: list[tuple[int, int]] = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if lines[-1] == "alive":
            held.append(usage_of(sentry_below(process.pid)))
            process.stdin.write("\n")
            process.stdin.flush()
    return process.wait(TIMEOUT_S), lines, held


@pytest.mark.timeout(3 * SECONDS + 300)
@pytest.mark.parametrize(
    "options",
    [("-u", "0"), ("-u", "1000", "--no-patch"), ("-u", "0", "--mm", "strict", "--no-patch"), ("-u", "1000", "--mm", "strict")],
    ids=["root", "user-no-patch", "root-strict-no-patch", "user-strict"],
)  # fmt: skip
def test_calls_with_typed_arguments(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Two runs of the same kind: what the sentry holds after the second, it held after the first."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    # Copies: root's calls may change the very file that is run, or take its mode away.
    typed = f"$3 $1 $2 {PROCESSES} /v {SLOWER} </dev/null; echo status $?; /dev/shm/alive; read line"
    runs = f"run {SEED} {max(SECONDS // 2, 1)} ./typed; run {SEED + 1000} {SECONDS} /dev/shm/second"
    script = f"cp typed /dev/shm/second; cp alive /dev/shm/alive; run() {{ {typed}; }}; {runs}"
    command = [*cloche_command(*options, "-v", f"{shared}:/v:rw"), "sh", "-c", script]
    process = subprocess.Popen(
        command, cwd=folder, env=strict(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        status, lines, held = follow(process)
    finally:
        process.kill()
        process.wait()
    text = "\n".join(lines)
    assert status == 0 and "internal error" not in text, text
    assert lines.count("alive") == 2 and lines.count("status 0") == 2, text
    assert held[1][0] <= held[0][0] + SPARE_DESCRIPTORS, (held, text)
    assert held[1][1] <= held[0][1] + SPARE_MIB, (held, text)
    print(held, text)
