"""Exit statuses, signals from outside, and that nothing survives."""

import os
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
    is_one_line,
    processes,
    run,
    shell,
    wait_until,
)

SPAWN = "sleep 100 & (setsid sleep 100 &) ; python3 -c 'while True: pass' & echo ready; wait"


# -- statuses -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [0, 1, 42, 124, 125, 126, 127, 255])
def test_status_of_the_program(status: int) -> None:
    done = shell(f"exit {status}")
    assert done.status == status and done.err == ""


@pytest.mark.parametrize(
    "name", ["HUP", "INT", "QUIT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1"]
)
def test_status_of_a_signal(name: str) -> None:
    done = shell(f"kill -{name} $$; sleep 5")
    assert done.status == 128 + signal.Signals["SIG" + name], done


def test_real_faults(tmp_path: Path) -> None:
    source = tmp_path / "f.c"
    source.write_text(
        "int main(int c, char **v) { if (c > 1) __builtin_trap(); *(volatile int *)8 = 1; return 0; }"
    )
    if subprocess.run(["gcc", "-o", "f", "f.c"], cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("no C compiler")
    assert run("./f", cwd=tmp_path).status == 139
    assert run("./f", "x", cwd=tmp_path).status == 132


def test_command_that_is_not_there() -> None:
    for command in ("nosuch", "/nosuch", "./nosuch", "/etc/passwd/x"):
        done = run(command)
        assert done.status in (126, 127) and is_one_line(done.err) and command in done.err, done
    assert run("nosuch").status == 127
    assert run("nosuch", options=("-e", "PATH=/nothere")).status == 127
    assert run("").status == 127


def test_command_that_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program\n")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "elf").write_bytes(b"\x7fELF" + bytes(60))
    (tmp_path / "elf").chmod(0o755)
    (tmp_path / "loop").symlink_to("loop")
    for command in ("./text", "./plain", "/usr", "./elf", "./loop"):
        done = run(command, cwd=tmp_path)
        assert done.status == 126 and is_one_line(done.err), (command, done)


# -- signals from outside --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_program(name: str) -> None:
    # Blocked, and waited for: a handler's would be lost to pause(2) if it came just before that.
    script = (
        f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIG{name}]); print('ready', flush=True)\n"
        f"signal.sigwaitinfo([signal.SIG{name}]); print('got'); exit(7)"
    )
    running = Running("/usr/bin/python3", "-c", script)
    try:
        assert running.wait_for_line() == "ready"
        running.process.send_signal(signal.Signals["SIG" + name])
        done = running.finish()
    finally:
        running.end()
    assert done.status == 7 and done.out == "got\n", done


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_signals_end_the_program(name: str) -> None:
    running = Running("sh", "-c", "echo ready; sleep 100")
    try:
        running.wait_for_line()
        running.process.send_signal(signal.Signals["SIG" + name])
        assert running.finish().status == 128 + signal.Signals["SIG" + name]
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


def test_interrupt_reaches_the_whole_group() -> None:
    """As from a terminal: bash waits for its child, which must get the signal, too."""
    running = Running("bash", "-c", "echo ready; sleep 100; echo after")
    try:
        running.wait_for_line()
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
    finally:
        running.end()
    assert done.status == 130 and done.out == "", done


def test_a_program_may_ignore_signals() -> None:
    running = Running(
        # (No process substitution: bash itself loses a trap that comes while it reads one, natively, too.)
        *("bash", "-c", "trap '' TERM; trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done")
    )
    try:
        running.wait_for_line()
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGUSR1)
        assert running.wait_for_line() == "got"
        running.process.kill()
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


def test_signals_at_any_time() -> None:
    """A signal that comes while the sandbox starts ends it, or reaches the program: cloche itself always cleans up."""
    for delay_ms in (0, 20, 60, 100, 140, 180, 250):
        process = subprocess.Popen(
            [*cloche_words(), "sleep", "100"], env=environment(), stderr=subprocess.PIPE
        )
        time.sleep(delay_ms / 1000)
        everyone = descendants(process.pid)
        process.terminate()
        _out, error = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode in (-15, 143, 125), (delay_ms, process.returncode, error)
        wait_until(lambda pids=everyone: not alive(pids), f"the end after {delay_ms} ms")


def test_suspended_with_the_shell() -> None:
    """SIGTSTP stops the guests and cloche; SIGCONT continues both."""
    running = Running("bash", "-c", "i=0; while :; do echo $((i++)); read -t 0.02 x < <(:); done")
    try:
        running.wait_for_line()
        running.process.send_signal(signal.SIGTSTP)
        stat = Path(f"/proc/{running.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        assert running.process.stdout is not None
        os.set_blocking(running.process.stdout.fileno(), False)

        def is_silent() -> bool:
            while running.process.stdout.read(65536):  # type: ignore[union-attr]
                pass
            time.sleep(0.3)
            return not running.process.stdout.read(65536)  # type: ignore[union-attr]

        wait_until(is_silent, "no more output")
        running.process.send_signal(signal.SIGCONT)
        wait_until(lambda: running.process.stdout.read(100), "output goes on")  # type: ignore[union-attr]
    finally:
        running.end()


# -- the end ------------------------------------------------------------------------------------------------------------
def test_killing_cloche_ends_every_process() -> None:
    running = Running("sh", "-c", SPAWN)
    try:
        running.wait_for_line()
        assert len(running.everyone) >= 5, running.everyone
        running.process.kill()
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


def sentry_of(running: Running) -> int:
    """The pid of the sentry: the parent of the guests."""
    parents: dict[int, int] = {}
    for pid, (parent, _command) in processes().items():
        if pid in running.everyone and parent in running.everyone:
            parents[parent] = parents.get(parent, 0) + 1
    return max(parents, key=lambda pid: parents[pid])


def test_killing_the_sentry_ends_every_process() -> None:
    running = Running("sh", "-c", SPAWN)
    try:
        running.wait_for_line()
        os.kill(sentry_of(running), signal.SIGKILL)
        done = running.finish()
        assert done.status == 125 and is_one_line(done.err), done
        assert not alive(running.everyone - {running.process.pid})
    finally:
        running.end()


def test_killing_the_gofer_ends_no_more_than_the_sandbox() -> None:
    running = Running(
        "sh",
        "-c",
        "echo ready; sleep 0.5; ls /usr/lib/nothere-at-all; cat /usr/share/doc/*/copyright | wc -c; echo end",
    )
    try:
        running.wait_for_line()
        sentry = sentry_of(running)
        everyone = processes()
        gofers = [
            pid for pid in running.everyone if everyone[pid][0] == running.process.pid and pid != sentry
        ]
        assert len(gofers) == 1
        os.kill(gofers[0], signal.SIGKILL)
        done = running.finish()
        assert done.status >= 0 and "Traceback" not in done.err, done
        wait_until(lambda: not alive(running.everyone), "every process is gone")
    finally:
        running.end()


def test_the_end_of_the_program_is_the_end() -> None:
    """Daemons that hold the output open die with it: cloche ends at once."""
    running = Running("sh", "-c", "(setsid sleep 3000 &); nohup sleep 3000 & echo started; exit 3")
    try:
        assert running.wait_for_line() == "started"
        done = running.finish()
    finally:
        running.end()
    assert done.status == 3
    wait_until(lambda: not alive(running.everyone), "every process is gone")


def test_a_daemon_lives_as_long_as_the_program() -> None:
    done = shell(
        "(setsid sh -c 'sleep 0.1; echo daemon > /tmp/out' &); while [ ! -s /tmp/out ]; do sleep 0.05; done; cat /tmp/out"
    )
    assert done.out == "daemon\n" and done.status == 0, done


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def snapshot(home: Path) -> tuple[set[str], set[str]]:
    """Files in the usual places."""
    names = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    return {name for name in names if "pytest" not in name}, set(os.listdir(home))


def mounts_but_of_other_tests(folder: Path) -> set[str]:
    """Engines, which may run meanwhile, mount in the folders of their tests."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line for line in lines if "/pytest-" not in line or str(folder) in line}


@pytest.mark.timeout(3600 if os.environ.get("CLOCHE_SLOW") == "1" else 300)
def test_in_a_row_nothing_is_left(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    count = 1000 if os.environ.get("CLOCHE_SLOW") == "1" else 50
    (tmp_path / "f").write_text("x")
    home = tmp_path_factory.mktemp("home")  # of its own: others may write in the user's meanwhile
    shell("true", cwd=tmp_path, HOME=str(home))
    before, before_fds = snapshot(home), open_descriptors(os.getpid())
    mounts = mounts_but_of_other_tests(tmp_path)
    mine = {pid for pid, (_parent, command) in processes().items() if "cloche.cli.main" in command}
    for index in range(count):
        done = shell("cat f > g; sleep 100 & echo $((6 * 7))", cwd=tmp_path, HOME=str(home))
        assert done.status == 0 and done.out == "42\n", (index, done)

    def new_names() -> set[str]:  # (those of other tests, which may run meanwhile, go away)
        new = snapshot(home)[0] - before[0]
        return {
            name
            for name in new
            if (name.startswith("cloche") and not name.startswith("cloche-test-")) or "stub" in name
        }

    wait_until(lambda: not new_names(), f"no new names: {new_names()}")
    after = snapshot(home)
    assert after[1] - before[1] <= {".cache"}, after[1] - before[1]
    assert mounts_but_of_other_tests(tmp_path) == mounts
    assert os.listdir(tmp_path) == ["f"] and open_descriptors(os.getpid()) == before_fds
    left = {
        pid: command
        for pid, (_parent, command) in processes().items()
        if "cat f > g" in command and pid not in mine
    }
    assert not left, left


@pytest.mark.timeout(300)
def test_fifty_at_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content\n")
    script = "cat f; echo $1 > f; seq 300 | sort -n | tail -1; cat f; read x; exit $(($1 % 100))"
    running = [
        subprocess.Popen([*cloche_words(), "sh", "-c", script, "sh", str(index)], cwd=tmp_path, env=environment(),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for index in range(50)
    ]  # fmt: skip
    try:
        for index, process in enumerate(running):
            assert process.stdout is not None
            lines = [process.stdout.readline() for _line in range(3)]
            assert lines == [b"content\n", b"300\n", b"%d\n" % index], (index, lines)
        everyone: set[int] = set()
        for process in running:
            assert process.poll() is None
            everyone |= descendants(process.pid)
        assert len(everyone) >= 150
        for index, process in enumerate(running):
            out, err = process.communicate(b"\n", timeout=TIMEOUT_S)
            assert process.returncode == index and out == err == b"", (index, out, err)
    finally:
        for process in running:
            process.kill()
            process.communicate()
    wait_until(lambda: not alive(everyone), "every process is gone")
    assert (tmp_path / "f").read_text() == "content\n"


def test_inherited_descriptors_do_not_get_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    fd = os.open(secret, os.O_RDONLY)
    os.set_inheritable(fd, True)
    words = [
        *cloche_words(),
        "sh",
        "-c",
        f"ls /proc/self/fd | wc -l; (cat <&{fd}); sleep 0.1; echo end; read x",
    ]
    process = subprocess.Popen(words, pass_fds=[fd], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd="/usr")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"4\n" and process.stdout.readline() == b"end\n"
    if IS_ROOT:  # neither does any process of the sandbox hold it
        for pid in descendants(process.pid):
            try:
                links = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue  # the shell's child has ended
            assert str(secret) not in links, pid
    process.communicate(b"\n", timeout=TIMEOUT_S)
    os.close(fd)
