"""`--cpus`, `--nofile`, and what control groups add to `--memory` and `--pids`."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from cloche.runtime import cgroups
from tests.cli.harness import (
    CLOCHE,
    IS_ROOT,
    Running,
    cloche_words,
    descendants,
    is_one_line,
    parent_of,
    run,
    run_words,
    shell,
    wait_until,
)

BURN = """
import os, sys, time
children = [pid for pid in [os.fork() for _ in range(1)] if pid]
start = time.monotonic()
while time.monotonic() - start < 2: pass
spent = time.process_time()
for pid in children: spent += sum(os.wait4(pid, 0)[2][:2])
if children: print(spent / (time.monotonic() - start))
"""


def groups_left() -> list[str]:
    found = []
    for top, names, _files in os.walk(cgroups.MOUNT):
        found += [os.path.join(top, name) for name in names if name.startswith("cloche-")]
    return [path for path in found if not os.path.exists(f"/proc/{path.rsplit('-', 2)[1]}")]


def test_cpus() -> None:
    """The limit is kept by control groups for root, else by the sentry."""
    before = groups_left()
    done = run("/usr/bin/python3", "-c", BURN, options=("--cpus", "0.3"))
    assert done.status == 0 and float(done.out) < 0.45, done
    assert groups_left() == before


def test_cpus_as_an_ordinary_user(as_user: list[str], project: Path) -> None:
    done = run_words(
        [*as_user, *CLOCHE, "run", "--cpus", "0.3", "--", "/usr/bin/python3", "-c", BURN], cwd=project
    )
    assert done.status == 0 and float(done.out) < 0.45, done


def test_a_throttled_guest_is_killed() -> None:
    running = Running("sh", "-c", "echo; while :; do :; done", options=("--cpus", "0.05"))
    try:
        running.wait_for_line()
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        assert running.finish().status == 143
    finally:
        running.end()


@pytest.mark.parametrize(
    "option", [("--cpus", "0"), ("--cpus", "nan"), ("--cpus", "-1"), ("--nofile", "1"), ("--nofile", "x")]
)
def test_absurd_limits(option: tuple[str, str]) -> None:
    done = run("true", options=option)
    assert done.status == 125 and is_one_line(done.err), done


def test_the_sentrys_own_memory_is_bounded() -> None:
    """Its private memory has a limit of the host's, that of the guests has none by it."""
    running = Running("sh", "-c", "echo ready; sleep 100", options=("--memory", "64m"))
    try:
        running.wait_for_line()
        bounded = []
        for pid in running.everyone:
            try:
                limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            data = next(line for line in limits if line.startswith("Max data size")).split()[3]
            if data != "unlimited":
                bounded.append((name, int(data) < 1 << 30))
        assert bounded == [("cloche-sentry", True)]
    finally:
        running.end()


def test_descriptors_of_the_sentry_have_a_reserve(tmp_path: Path) -> None:
    """A process that holds as many files, memfds and shared memory as it can does not keep processes from starting."""
    for number in range(200):
        (tmp_path / f"f{number}").write_text("x")
    script = """
import mmap, os

def memfd(number):
    fd = os.memfd_create("m")
    os.write(fd, bytes(9000))
    return mmap.mmap(fd, 4096)

held = []
for make in (lambda number: os.open(f"/h/f{number}", os.O_RDONLY), memfd, lambda _number: mmap.mmap(-1, 4096)):
    try:
        for number in range(200):
            held.append(make(number))
    except OSError as error:
        print(os.strerror(error.errno))
children = [os.fork() or os._exit(number) for number in range(6)]
print(sum(os.waitpid(child, 0)[1] >> 8 for child in children))
"""
    words = ["sh", "-c", 'ulimit -n 160; exec "$@"', "sh", *cloche_words("-v", f"{tmp_path}:/h:ro")]
    done = run_words([*words, "python3", "-c", script])
    assert done.status == 0 and done.out.split()[-1] == "15" and done.err == "", done
    assert done.out.count("\n") >= 3, "nothing was refused"


def test_nofile() -> None:
    script = "ulimit -n; ulimit -Hn; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null; echo $?"
    done = shell(script, "--nofile", "6")
    assert done.out.split()[:2] == ["6", "6"] and done.status != 0, done


@pytest.mark.skipif(not IS_ROOT, reason="control groups are root's")
def test_guests_are_in_groups_and_the_sentry_is_not() -> None:
    probe = cgroups.create(cgroups.Limits(memory_bytes=1 << 30))
    if probe is None:
        pytest.skip("no control group of memory can be had here")
    probe.destroy()
    running = Running("sh", "-c", "echo; sleep 100 & sleep 100", options=("--memory", "200m", "--pids", "20"))
    try:
        running.wait_for_line()
        wait_until(lambda: len(running_groups(running.process.pid)) >= 1, "groups")
        inside: set[int] = set()

        def look() -> int:
            inside.clear()
            for path in running_groups(running.process.pid):
                if "/memory/" in path or path.endswith("/guests"):
                    inside.update(int(word) for word in Path(path, "cgroup.procs").read_text().split())
            return len(inside)

        wait_until(lambda: look() >= 3, "the shell and what it starts")
        parents = {parent_of(pid) for pid in inside}
        assert not parents & inside, (inside, parents)
        running.process.kill()
        running.process.wait()
    finally:
        running.end()
    wait_until(lambda: not inside & {int(each) for each in os.listdir("/proc") if each.isdigit()}, "the end")
    # removes the remains of the killed one
    assert shell("true", "--memory", "100m", "--pids", "20").status == 0
    assert not [path for path in groups_left() if f"cloche-{running.process.pid}-" in path]


def running_groups(pid: int) -> list[str]:
    found = []
    for top, names, _files in os.walk(cgroups.MOUNT):
        found += [os.path.join(top, name) for name in names if name.startswith(f"cloche-{pid}-")]
        if os.path.basename(os.path.dirname(top)).startswith(f"cloche-{pid}-") and top.endswith("guests"):
            found.append(top)
    return found


def test_a_kill_for_want_of_memory_is_recorded(tmp_path: Path) -> None:
    words = [*CLOCHE, "--root", str(tmp_path / "root")]
    script = "x = bytearray(b'x') * (1 << 30)"
    done = run_words(
        [*words, "run", "-d", "--name", "box", "--memory", "64m", "--", "/usr/bin/python3", "-c", script]
    )
    assert done.status == 0, done
    assert run_words([*words, "wait", "box"]).status == 137
    state = json.loads(run_words([*words, "list", "--json"]).out)[0]
    assert state["oom_kills"] == 1 and state["exit_status"] == 137, state
    assert "memory limit reached" in run_words([*words, "logs", "box"]).err


THREADS = """
import os, sys, threading, time
for _ in range(8):
    done, told = os.pipe()
    if os.fork() == 0:
        together = threading.Barrier(12)
        threads = [threading.Thread(target=together.wait) for _ in range(12)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os.write(told, b"x")
        time.sleep(10000)
    os.read(done, 1)
print("", flush=True)
time.sleep(10000)
"""


def test_host_threads_that_wait_for_a_task_count() -> None:
    """Threads that have ended are kept for the next ones, as long as all together are no more than the tasks allowed."""
    running = Running("/usr/bin/python3", "-c", THREADS, options=("--pids", "24", "--mm", "direct"))
    try:
        running.wait_for_line()
        most = 24 + 20  # the parts of the sandbox, and processes that are kept for the next program
        wait_until(
            lambda: host_threads(running.process.pid) <= most, "the end of the threads that are too many"
        )
    finally:
        running.end()


def host_threads(top: int) -> int:
    found = 0
    for pid in descendants(top):
        try:
            found += len(os.listdir(f"/proc/{pid}/task"))
        except FileNotFoundError:
            pass
    return found


# The leader of a process ends, another of its threads makes processes as long as it may.
LEADER = """
import ctypes, os, threading, time
def others():
    while "(zombie)" not in open(f"/proc/self/task/{os.getpid()}/status").read(): pass
    made = 0
    while made < 20:
        try:
            if os.fork() == 0: time.sleep(100000)
        except BlockingIOError: break
        made += 1
    print(made, flush=True)
    os._exit(0)
threading.Thread(target=others).start()
ctypes.CDLL(None).syscall(60, 0)
"""
# A traced thread ends; its tracer, which has not waited for it, makes processes as long as it may.
TRACED = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None)
tell, told = os.pipe(), os.pipe()
traced = os.fork()
if traced == 0:
    def thread():
        os.write(tell[1], b"%8d" % threading.get_native_id())
        os.read(told[0], 1)
    threading.Thread(target=thread).start()
    time.sleep(100000)
tid = int(os.read(tell[0], 8))
libc.ptrace.argtypes = [ctypes.c_long] * 4
assert libc.ptrace(0x4206, tid, 0, 0) == 0  # PTRACE_SEIZE
os.write(told[1], b"x")
os.waitid(os.P_PID, tid, os.WEXITED | os.WNOWAIT | 0x40000000)  # __WALL
def make():
    made = []
    while len(made) < 20:
        try: pid = os.fork()
        except BlockingIOError: return made
        if pid == 0: time.sleep(100000)
        made.append(pid)
    return made
first = make()
os.waitpid(tid, 0x40000000)
print(len(first), len(make()), flush=True)
"""


@pytest.mark.parametrize(("script", "expected"), [(LEADER, "6\n"), (TRACED, "5 1\n")])
def test_dead_threads_count_until_they_are_reaped(script: str, expected: str) -> None:
    """As with Linux's pids controller (pids_release): a leader whose threads live, a thread that is traced."""
    done = run("/usr/bin/python3", "-W", "ignore", "-c", script, options=("--pids", "8"))
    assert (done.status, done.out) == (0, expected), done
