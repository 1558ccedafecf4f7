"""If any part of a sandbox dies, in any way, all of it ends, and `cloche run` reports it in one line."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.harness import (
    IS_ROOT,
    TIMEOUT_S,
    Running,
    alive,
    cloche_words,
    descendants,
    environment,
    name_of,
    parent_of,
    wait_until,
)

IS_SLOW = os.environ.get("CLOCHE_SLOW") == "1"
PARTS = (
    "cloche-sentry",
    "cloche-gofer",
    "cloche-keeper",
    "cloche-analyst",
    "cloche-broker",
    "cloche-egress",
    "cloche-connect",
)
WORKER = "cloche-gofer worker"
ZYGOTE = "the sentry's zygote"
SPINS = "while :; do :; done"
FORKS = "while :; do /bin/true; done"
WAITS = "sleep 300"


def parts_of(everyone: set[int]) -> dict[str, int]:
    """The parts of a sandbox by name, one of the gofer's workers, and the zygote, the first of the sentry's children.

    (The analyst's workers have its name, too.)
    """
    named: dict[str, int] = {}
    for pid in sorted(everyone):
        name = name_of(pid)
        if name == "stub.elf" and name_of(parent_of(pid)) == "cloche-sentry":
            named.setdefault(ZYGOTE, pid)
        if name not in PARTS:
            continue
        if name_of(parent_of(pid)) == "cloche-gofer":
            name = WORKER
        if name != name_of(parent_of(pid)):
            named[name] = pid
    return named


class Sandbox:
    """One that has every part, in a group and with a record that its death must not leave behind."""

    def __init__(self, work: str, folder: Path, *options: str, prefix: tuple[str, ...] = ()) -> None:
        self.root = folder / "root"
        # A program that no cache knows, so that the analyst is asked.
        program = folder / f"sleep{random.getrandbits(40):x}"
        program.write_bytes(Path("/bin/sleep").read_bytes() + os.urandom(16))
        program.chmod(0o755)
        words = cloche_words("-p", "0:80", "--net", "pypi", *options)
        words[words.index("run") : words.index("run")] = ["--root", str(self.root)]
        words[-1:-1] = ["--name", "doomed", "-v", f"{folder}:/h:ro"]
        self.process = subprocess.Popen(
            [*prefix, *words, "sh", "-c", f"/h/{program.name} 0; echo ready; ({work}) & {work}"],
            env=environment(XDG_CACHE_HOME=str(folder / "cache")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/usr",
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == b"ready\n", self.process.communicate()
        wait_until(lambda: set(PARTS) <= set(parts_of(descendants(self.process.pid))), "every part is there")
        self.everyone = descendants(self.process.pid)
        self.parts = parts_of(self.everyone)

    def check_gone(self, what: str) -> None:
        wait_until(lambda: not alive(self.everyone), f"every process is gone: {what}")
        wait_until(lambda: not groups_of(self.process.pid), f"control groups: {what}")
        left = lambda: [name for name in os.listdir(self.root) if name != ".lock"]  # noqa: E731
        wait_until(lambda: not left(), f"the record: {what}")
        program = next(path for path in self.root.parent.iterdir() if path.name.startswith("sleep"))
        program.unlink()


def groups_of(pid: int) -> list[str]:
    found = []
    for top, names, _files in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(top, name) for name in names if name.startswith(f"cloche-{pid}-")]
    return found


@pytest.mark.timeout(3600 if IS_SLOW else 300)
@pytest.mark.parametrize("victim", [*PARTS, WORKER, ZYGOTE, "monitor"])
def test_each_part_killed(victim: str, tmp_path: Path) -> None:
    options = ("--memory", "1g") if IS_ROOT else ()
    for turn in range(200 if IS_SLOW else 3):
        work = (SPINS, FORKS, WAITS)[turn % 3]
        sandbox = Sandbox(work, tmp_path, *options)
        mounts = set(Path("/proc/self/mounts").read_text().splitlines())
        try:
            assert set(sandbox.parts) == {*PARTS, WORKER, ZYGOTE}, sandbox.parts
            if turn % 3 == 2 and victim not in ("cloche-sentry", ZYGOTE):
                # so that it cannot notice the death itself
                os.kill(sandbox.parts["cloche-sentry"], signal.SIGSTOP)
            os.kill(sandbox.process.pid if victim == "monitor" else sandbox.parts[victim], signal.SIGKILL)
            _out, error = sandbox.process.communicate(timeout=TIMEOUT_S)
            if victim != "monitor":
                lines = error.decode().splitlines()
                assert sandbox.process.returncode == 125, error
                # (A shell inside may just have begun a line of its own.)
                who = "zygote" if victim == ZYGOTE else victim.split()[0][7:]  # the kernel cuts long names
                assert re.search(rf"cloche: the {who}[a-z]* died( \([^()]*\))?$", lines[-1]), error
                assert "Traceback" not in error.decode()
            sandbox.check_gone(victim)
            left = set(Path("/proc/self/mounts").read_text().splitlines()) - mounts
            assert not [line for line in left if "cloche" in line or str(tmp_path) in line], left
        finally:
            sandbox.process.kill()
            sandbox.process.communicate()


def test_stopped_and_continued(tmp_path: Path) -> None:
    """As a frozen control group or a suspended machine does it to all: each goes on with what it waited for."""
    sandbox = Sandbox(FORKS, tmp_path)
    try:
        for _round in range(50):
            for each in (signal.SIGSTOP, signal.SIGCONT):
                for pid in sandbox.parts.values():
                    os.kill(pid, each)
        assert sandbox.process.poll() is None
        sandbox.process.terminate()
        _out, error = sandbox.process.communicate(timeout=TIMEOUT_S)
        assert sandbox.process.returncode == 143, error
        sandbox.check_gone("stopped and continued")
    finally:
        sandbox.process.kill()
        sandbox.process.communicate()


@pytest.mark.parametrize("victim", [*PARTS[:3], "monitor"])
def test_without_user_namespaces(victim: str, tmp_path: Path, as_user: list[str]) -> None:
    """Without a pid namespace the guests are ended by the process that inherits them."""
    words = [
        *as_user,
        "unshare",
        "-Ur",
        "sh",
        "-c",
        'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
        "sh",
    ]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the host does not let us have that")
    no_caps = [*as_user, "unshare", "-U", "--map-user=1000", "--map-group=1000"]
    process = subprocess.Popen(
        [*no_caps, *cloche_words(), "sh", "-c", f"echo ready; (setsid sleep 300 &); {SPINS}"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/usr",
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    everyone = descendants(process.pid)
    try:
        assert len(everyone) > 5
        os.kill(process.pid if victim == "monitor" else parts_of(everyone)[victim], signal.SIGKILL)
        _out, error = process.communicate(timeout=TIMEOUT_S)
        wait_until(lambda: not alive(everyone), f"every process is gone with the {victim}")
        if victim != "monitor":  # (a guest's output about its files may differ)
            lines = [line for line in error.decode().splitlines() if not line.startswith("sh: ")]
            assert process.returncode == 125 and len(lines) == 1 and f"the {victim[7:]} died" in lines[0], (
                error
            )
    finally:
        process.kill()
        process.communicate()


def test_a_sentry_that_does_not_answer() -> None:
    """A second SIGTERM ends it."""
    running = Running("sh", "-c", f"echo ready; {WAITS}")
    try:
        running.wait_for_line()
        os.kill(parts_of(running.everyone)["cloche-sentry"], signal.SIGSTOP)
        running.process.terminate()
        deadline = time.monotonic() + 100
        while running.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.3)
            running.process.terminate()
        done = running.finish()
        assert done.status == 125 and done.err == "cloche: the sentry does not answer and was ended\n", done
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


def test_a_stopped_gofer_does_not_keep_it_alive() -> None:
    """The sentry waits for it; one SIGTERM and some patience are enough.

    The shell that gets the signal only waits: where dash starts a program it has all signals blocked until that is
    loaded (vfork), and here that would need the gofer.
    """
    reads = "while ls -R /usr/lib /usr/share > /dev/null; do :; done"
    running = Running("sh", "-c", f"(echo ready; {reads}) & wait; echo end")
    try:
        running.wait_for_line()
        os.kill(parts_of(running.everyone)["cloche-gofer"], signal.SIGSTOP)
        running.process.terminate()
        done = running.finish()
        assert done.status in (125, 143) and done.err.count("\n") <= 1, done
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


ASKER = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
asker = os.fork()
if asker == 0:
    try:
        os.listdir("/usr/share")
    except OSError as error:
        print(error, flush=True)
    os._exit(0)
while open(f"/proc/{asker}/stat").read().split()[2] != "D":
    if os.waitpid(asker, os.WNOHANG)[0]:
        os._exit(1)
print("waits", flush=True)
sys.stdin.readline()
os.waitpid(asker, 0)
"""


def test_no_call_is_answered_for_a_gofer_that_died() -> None:
    """The sandbox ends: until it does, who has asked the gofer waits, and the others go on."""
    process = subprocess.Popen(
        [*cloche_words(), "python3", "-c", ASKER],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/usr",
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"ready\n", process.communicate()
    parts = parts_of(descendants(process.pid))
    os.kill(parts["cloche-keeper"], signal.SIGSTOP)  # so that it cannot end the rest
    try:
        os.kill(parts["cloche-gofer"], signal.SIGKILL)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"waits\n"
        process.stdin.write(b"go\n")
        process.stdin.flush()
    finally:
        os.kill(parts["cloche-keeper"], signal.SIGCONT)
    try:
        out, error = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out) == (125, b"") and b"the gofer died" in error, error
    finally:
        process.kill()
        process.communicate()


def test_nothing_of_the_callers_environment() -> None:
    """Neither as environment nor as arguments, and not in the memory of the sentry either."""
    secret = f"hidden-{os.urandom(8).hex()}"
    process = subprocess.Popen(
        [*cloche_words("-e", f"TOKEN={secret}-given"), "sh", "-c", "echo ready; sleep 300"],
        env=environment(SECRET=secret),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    try:
        parts = parts_of(descendants(process.pid))
        assert len(parts) >= 3
        for name, pid in parts.items():
            assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes(), name
            if IS_ROOT:
                assert Path(f"/proc/{pid}/environ").read_bytes() in (b"", b"LC_CTYPE=C.UTF-8\0"), name
                assert f"{secret}\0".encode() not in memory_of(
                    pid
                ) and f"{secret}\n".encode() not in memory_of(pid)
    finally:
        process.kill()
        process.communicate()


def memory_of(pid: int) -> bytes:
    """The pages that a process has written in its memory."""
    parts = []
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            start, end = (int(word, 16) for word in span.split("-"))
            try:
                parts.append(os.pread(mem.fileno(), min(end - start, 64 << 20), start))
            except OSError:
                pass
    return b"".join(parts)
