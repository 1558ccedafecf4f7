"""Forged claims in slots (programs/slots.c): the sentry lives, logs no error, and keeps no remains.

`CLOCHE_SLOW=1` runs the long forms: ten million forgeries, and false claims that only a deadline reveals.
"""

import errno
import os
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guest.harness import cloche_command

PROGRAMS = Path(__file__).parent / "programs"
IS_SLOW = os.environ.get("CLOCHE_SLOW") == "1"
FORGERIES = 10_000_000 if IS_SLOW else 200_000
COUNT_PIDS = "set -- /proc/[0-9]*; echo $#"
KEPT = 4  # descriptors of a file that is mapped often, and of its patched text
TIMEOUT_S = 1200 if IS_SLOW else 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("slots")
    for name in ("slots", "alive"):
        flags = ["-O1", "-pthread", "-w", "-D_GNU_SOURCE"]
        command = ["gcc", *flags, "-o", str(target / name), str(PROGRAMS / f"{name}.c")]
        subprocess.run(command, check=True, timeout=150)
    for part in (target, *target.parents):  # another user inside must be able to run them
        if part.is_relative_to(tmp_path_factory.getbasetemp().parent):
            part.chmod(0o755)
    return target


class Box:
    """A sandbox with a shell that does one command after the other."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = cloche_command("-i", "-u", "0", "--pids", "60", *options)
        script = 'while read -r line; do eval "$line"; echo "end $?"; done'
        self.process = subprocess.Popen(
            [*command, "sh", "-c", script],
            cwd=folder,
            env=dict(os.environ, CLOCHE_STRICT="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, line: str) -> str:
        """The line that is the answer to one."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        if line:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        return process.stdout.readline().strip()

    def do(self, command: str) -> list[str]:
        """Its output, and last "end" with its status."""
        lines = [self.ask(command)]
        while not lines[-1].startswith("end "):
            lines.append(self.ask(""))
            assert self.process.poll() is None, f"the sandbox has ended: {lines}"
        return lines

    def holdings(self) -> dict[str, list[str]]:
        """The descriptors, regions, processes and threads of the sandbox on the host, each as text.

        A few descriptors of each file of a disk are left out: which files the sentry keeps open is a matter of how often
        they were mapped.
        """
        found: dict[str, list[str]] = {"descriptors": [], "regions": [], "processes": [], "threads": []}
        todo = [self.process.pid]
        while todo:
            at = Path(f"/proc/{todo.pop()}")
            try:
                todo += [int(child) for child in (at / "task" / at.name / "children").read_text().split()]
                maps = (at / "maps").read_text()
                is_ours = "libpython" in maps or "python" in (at / "cmdline").read_text()
                if is_ours:
                    name = (at / "comm").read_text().strip()
                    found["descriptors"] += [f"{name}: {fd}" for fd in descriptors(at)]
                    found["regions"] += [line for line in maps.splitlines() if "cloche-region" in line]
                else:
                    found["processes"].append(at.name)
                    found["threads"] += [each.name for each in (at / "task").iterdir()]
            except OSError:
                continue
        return found

    def guests(self) -> list[Path]:
        """The host's processes of guests, blank ones included."""
        todo, found = [self.process.pid], []
        while todo:
            at = Path(f"/proc/{todo.pop()}")
            todo += [int(child) for child in (at / "task" / at.name / "children").read_text().split()]
            if "python" not in (at / "cmdline").read_text():
                found.append(at)
        return found

    def keeps_to(self, before: dict[str, list[str]]) -> None:
        """No remains are left, once killed processes have ended and the pool is full again."""
        deadline = time.monotonic() + 100
        while True:
            now = self.holdings()
            if all(len(now[name]) <= len(before[name]) + 2 for name in now):
                return
            assert time.monotonic() < deadline, [changes(before[name], now[name]) for name in now]
            time.sleep(0.05)


def descriptors(process: Path) -> list[str]:
    """What the process has open, but up to `KEPT` descriptors of each file that has a name on a disk."""
    found: list[str] = []
    times: Counter[tuple[int, int]] = Counter()
    for each in (process / "fd").iterdir():
        try:
            status, text = each.stat(), f"{each.name} {each.readlink()}"
        except FileNotFoundError:
            continue  # closed meanwhile
        if stat.S_ISREG(status.st_mode) and status.st_nlink:
            file = (status.st_dev, status.st_ino)
            times[file] += 1
            if times[file] <= KEPT:
                continue
        found.append(text)
    return found


def changes(before: list[str], now: list[str]) -> str:
    """What there is more, and what less."""
    more, less = sorted(set(now) - set(before)), sorted(set(before) - set(now))
    return f"{len(before)} -> {len(now)}: more {more}, less {less}"


@pytest.fixture
def box(folder: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    box = Box(folder, *getattr(request, "param", ()))
    for _ in range(3):  # files that are opened once are open now
        assert box.do("./alive") == ["alive", "end 0"]
    yield box
    assert box.process.stdin is not None and box.process.stdout is not None
    box.process.stdin.close()
    assert box.process.wait(20) == 0, box.process.stdout.read()
    box.process.stdout.close()


def attack(box: Box, warm_up: str, command: str, expected: list[str]) -> None:
    """After an attack, that of `warm_up` having opened what is opened once, all is as before, and others are served."""
    box.do(warm_up)
    for _ in range(8):
        assert box.do("./alive") == ["alive", "end 0"]
    pids = box.do(COUNT_PIDS)
    before = box.holdings()
    lines = box.do(command)
    assert lines[-len(expected) :] == expected, lines
    assert box.do("./alive") == ["alive", "end 0"]
    assert box.do(COUNT_PIDS) == pids
    box.keeps_to(before)


WAYS = [("--mm", mm, *patch) for mm in ("direct", "strict") for patch in ((), ("--no-patch",))]


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("box", WAYS, indirect=True, ids=["-".join(way) for way in WAYS])
def test_forged_words(box: Box) -> None:
    seed = time.time_ns() % 1000 if IS_SLOW else 3
    command = f"./slots fuzz {seed} {FORGERIES} 2>/dev/null"
    attack(box, "./slots fuzz 1 20000", command, ["forged 1 in 1 processes", "end 0"])


@pytest.mark.parametrize("what", ["fork", "thread"])
def test_a_birth_cannot_be_denied(box: Box, what: str) -> None:
    """The child is there, the parent says that the clone has failed: it was 40 runners under --pids 10."""
    command = f"for i in 1 2 3; do ./slots hide {what} 40; done"
    attack(box, command, command, ["end 137"])


@pytest.mark.skipif(not IS_SLOW, reason="only with CLOCHE_SLOW=1: a deadline has to pass")
def test_an_exit_cannot_be_put_off(box: Box) -> None:
    command = "./slots hide exit 20"
    attack(box, command, command, ["end 137"])


@pytest.mark.parametrize("number", [15, 56, 57, 58, 59, 435])
def test_calls_without_their_frame(box: Box, number: int) -> None:
    """They are made again by the trap, before anything has changed."""
    expected = ["unanswered 0 then 7", "end 0"]
    attack(box, f"./slots frameless {number} 1", f"./slots frameless {number} 200", expected)


def leave(folder: Path) -> None:
    """Move what is in a control group out and remove it; processes that end and zombies keep it busy for a while."""
    deadline = time.monotonic() + 100
    while True:
        for each in (folder / "cgroup.procs").read_text().split():
            try:
                (folder.parent / "cgroup.procs").write_text(each)
            except ProcessLookupError:
                pass  # it has ended
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def test_a_fork_that_the_host_refuses_fails_and_no_more(box: Box) -> None:
    """The sentry's filter allows the reads of /proc that it needs as proof."""
    folder = Path("/sys/fs/cgroup/pids") / f"cloche-slots-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no control group for pids can be made")
    try:
        assert box.ask("./slots refused") == "ready"
        for guest in box.guests():
            (folder / "cgroup.procs").write_text(guest.name)
        (folder / "pids.max").write_text("1")
        assert box.ask("fork") == f"error {errno.EAGAIN} status 0"
        (folder / "pids.max").write_text("max")
        assert box.ask("fork") == "error 0 status 7"
        assert box.do("no more") == ["end 0"]
    finally:
        leave(folder)


def test_the_host_ends_a_guest_before_the_sentry(box: Box) -> None:
    """For want of memory the host ends guests first, with any score of the sentry's."""
    for guest in box.guests():
        assert (guest / "oom_score_adj").read_text() == "1000\n"
    assert (
        Path(f"/proc/{box.process.pid}/oom_score_adj").read_text()
        == Path("/proc/self/oom_score_adj").read_text()
    )
