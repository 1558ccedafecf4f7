"""Runs the two fuzzers in all eight forms in turn for a given time, and keeps what came of it.

    python -m tests.security.hour typed|slots SECONDS FOLDER [COMMAND]

The forms are direct and strict, patched and not, as root and as an ordinary user.  FOLDER gets a line of JSON for each
run (counts, minutes, what the sentry held) and the whole output of those that went wrong; the sums by form are in
`summary`.  COMMAND is the cloche that is to be tried.  It runs at a low priority: CLOCHE_NICE, 10 if nothing is said.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.guest import harness
from tests.security.test_guests import descendants
from tests.security.test_slots import COUNT_PIDS, Box
from tests.security.test_typed import follow, sentry_below, usage_of

PROGRAMS = Path(__file__).parent / "programs"
FORMS = [
    (mm, patch, user)
    for user in ("0", "1000")
    for patch in ((), ("--no-patch",))
    for mm in ("direct", "strict")
]
LIMIT_MS = "50"  # of processor time in one turn of the loop: what took longer is an internal error
TYPED_S = 90  # one run
FORGERIES = 3_000_000  # one run
NICE = os.environ.get("CLOCHE_NICE", "10")
PAST = 60.0  # seconds that a run may take beyond its time


def name_of(form: tuple[str, tuple[str, ...], str]) -> str:
    mm, patch, user = form
    return f"{'root' if user == '0' else 'user'} {mm}{' not patched' if patch else ''}"


def build(folder: Path) -> None:
    for name in ("typed", "slots", "alive"):
        flags = ["-O1", "-pthread", "-w", "-D_GNU_SOURCE"]
        source = PROGRAMS / f"{name}.c"
        subprocess.run(["gcc", *flags, "-o", str(folder / name), str(source), "-lrt"], check=True)


def lower() -> None:
    """Set all processes of the run to a low priority: a part that begins a session has a group of its own."""
    while True:
        for pid in [os.getpid(), *descendants(os.getpid())]:
            try:
                Path(f"/proc/{pid}/autogroup").write_text(NICE)
            except OSError:
                continue
        time.sleep(1)


def typed(form: tuple[str, tuple[str, ...], str], folder: Path, seed: int) -> dict[str, object]:
    """A third of the time, then the rest; what is held after each."""
    mm, patch, user = form
    shared = folder / "shared"
    shared.mkdir(mode=0o777, exist_ok=True)
    shared.chmod(0o777)
    one = "$3 $1 $2 4 /v </dev/null; echo status $?; /dev/shm/alive; read line"
    script = (
        f"cp typed /dev/shm/second; cp alive /dev/shm/alive; run() {{ {one}; }}; "
        f"run {seed} {TYPED_S // 3} ./typed; run {seed + 1000} {TYPED_S * 2 // 3} /dev/shm/second"
    )
    options = ("-i", "-u", user, "--mm", mm, *patch, "-v", f"{shared}:/v:rw", "--log-level", "info")
    process = subprocess.Popen(
        [*harness.cloche_command(*options), "sh", "-c", script],
        cwd=folder, env=dict(os.environ, CLOCHE_STRICT=LIMIT_MS), text=True, errors="replace",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    guard = threading.Timer(TYPED_S + PAST * 5, process.kill)
    guard.start()
    status, lines, held = follow(process)
    guard.cancel()
    subprocess.run(["find", str(shared), "-mindepth", "1", "-delete"], check=False, capture_output=True)
    text = "\n".join(lines)
    found = re.findall(r"calls (\d+) good (\d+) killed (\d+) spoilt (\d+) slowest (\d+)", text)
    is_right = status == 0 and "internal error" not in text and text.count("status 0") == 2
    return {
        "count": sum(int(each[0]) for each in found),
        "good": sum(int(each[1]) for each in found),
        "killed": sum(int(each[2]) for each in found),
        "spoilt": sum(int(each[3]) for each in found),
        "slowest_us": max((int(each[4]) for each in found), default=0),
        "held": held,
        "status": status,
        "ok": is_right,
        "text": text if not is_right else "",
        "kept": [line for line in lines if "kept the loop" in line],
    }


def slots(form: tuple[str, tuple[str, ...], str], folder: Path, seed: int) -> dict[str, object]:
    mm, patch, user = form
    box = Box(folder, "-u", user, "--mm", mm, *patch)
    # A forged kill(-1) shall not reach the shell: as root `slots` takes another user for that.
    within = "" if user == "0" else "unshare -Upf "
    lines: list[str] = []
    guard = threading.Timer(1200, box.process.kill)
    guard.start()
    before: dict[str, int] = {}
    try:
        box.do(f"{within}./slots fuzz 1 20000")
        for _ in range(8):
            assert box.do("./alive") == ["alive", "end 0"]
        pids = box.do(COUNT_PIDS)
        before = box.holdings()
        resident = usage_of(sentry_below(box.process.pid))
        lines = box.do(f"{within}./slots fuzz {seed} {FORGERIES}")
        assert lines[-2:] == ["forged 1 in 1 processes", "end 0"]
        assert box.do("./alive") == ["alive", "end 0"]
        assert box.do(COUNT_PIDS) == pids
        box.keeps_to(before)
        after = usage_of(sentry_below(box.process.pid))
        assert not any("internal error" in line for line in lines)
        right, text = True, ""
    except (AssertionError, OSError, ValueError) as error:
        right, text = False, f"{error}\n" + "\n".join(lines)
        resident = after = (0, 0)
    assert box.process.stdin is not None and box.process.stdout is not None
    try:
        box.process.stdin.close()
        rest = box.process.stdout.read()
    except OSError:
        rest = ""
    guard.cancel()
    status = box.process.wait(60)
    right = right and status == 0 and "internal error" not in rest
    slowest = [float(word) for line in lines for word in re.findall(r"longest call ([\d.]+)", line)]
    return {
        "count": FORGERIES if right else 0,
        "slowest_us": int(max(slowest, default=0) * 1e6),
        "held": [resident, after],
        "status": status,
        "ok": right,
        "text": "" if right else f"{text}\n{rest}",
    }


def main(what: str, seconds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    build(folder)
    os.nice(int(NICE))
    threading.Thread(target=lower, daemon=True).start()
    end = time.monotonic() + seconds
    sums: dict[str, list[float]] = {}
    turn = 0
    while time.monotonic() < end:
        form = FORMS[turn % len(FORMS)]
        seed = time.time_ns() % 1_000_000
        began = time.monotonic()
        found = typed(form, folder, seed) if what == "typed" else slots(form, folder, seed)
        took = time.monotonic() - began
        found |= {"form": name_of(form), "seed": seed, "seconds": round(took, 1)}
        with (folder / "runs").open("a") as out:
            out.write(json.dumps(found) + "\n")
        total = sums.setdefault(name_of(form), [0, 0, 0, 0])
        total[0] += int(str(found["count"]))
        total[1] += took
        total[2] += 1
        total[3] += not found["ok"]
        turn += 1
        lines = [
            f"{form}: {each[0] / 1e6:.2f} million in {each[1] / 60:.1f} minutes, {each[2]:.0f} runs, {each[3]:.0f} wrong"
            for form, each in sums.items()
        ]
        whole = f"all: {sum(each[0] for each in sums.values()) / 1e6:.2f} million in {sum(each[1] for each in sums.values()) / 60:.1f} minutes"
        (folder / "summary").write_text("\n".join([*lines, whole]) + "\n")
    print((folder / "summary").read_text())


if __name__ == "__main__":
    if len(sys.argv) > 4:
        harness.CLOCHE = [sys.argv[4]]
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
