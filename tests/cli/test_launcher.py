"""The installed `cloche` command, which is a program in C (csrc/launcher)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import TIMEOUT_S, environment

COMMAND = Path(sys.executable).parent / "cloche"

pytestmark = pytest.mark.skipif(not COMMAND.exists(), reason="the command is not beside this interpreter")


def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with nothing that helps it to find its modules."""
    env = environment(**more)
    env.pop("PYTHONPATH", None)
    return subprocess.run(
        [COMMAND, *words], env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_it_runs_a_command_and_exits_as_that_does() -> None:
    done = command("run", "--", "sh", "-c", 'echo "$1"; exit 7', "sh", "a  word")
    assert (done.stdout, done.returncode) == ("a  word\n", 7), done.stderr


def test_words_arrive_as_they_are() -> None:
    odd = os.fsdecode(b"\xff -- -d \xc3\xa4")
    done = subprocess.run(
        [COMMAND, "run", "--", "printf", "%s|", "", odd, "--detach"],
        env=environment(), capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.stdout == b"|\xff -- -d \xc3\xa4|--detach|", done.stderr


def test_a_wrong_command_line_is_one_line_and_leaves_nothing() -> None:
    done = command("run", "--no-such-option", "--", "true")
    assert done.returncode == 125 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["--version"], ["--root", "/nowhere", "list"], ["run", "--help"], ["syscalls"]]
)
def test_other_verbs_and_options(words: list[str]) -> None:
    done = command(*words)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_nothing_comes_from_the_directory_or_the_environment(tmp_path: Path) -> None:
    for name in ("argparse", "os", "signal", "re", "cloche"):
        (tmp_path / f"{name}.py").write_text("print('mine'); raise SystemExit(9)\n")
    done = subprocess.run(
        [COMMAND, "run", "--", "echo", "hi"],
        cwd=tmp_path, env=environment(PYTHONPATH=""), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("hi\n", 0), done.stderr


def test_closed_standard_streams_stay_closed() -> None:
    found = [
        subprocess.run(
            ["sh", "-c", 'exec "$@" run -- sh -c "ls /proc/self/fd; exit 5" 2>&- <&-', "sh", *start],
            env=environment(), stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False,
        )
        for start in ([COMMAND], [sys.executable, "-m", "cloche.cli.main"])
    ]  # fmt: skip
    assert found[0].returncode == 5 and found[0].stdout.split()
    assert found[0].stdout == found[1].stdout


def test_no_interpreter_is_one_line(tmp_path: Path) -> None:
    lonely = tmp_path / "cloche"
    shutil.copy(COMMAND, lonely)
    done = subprocess.run(
        [lonely, "run", "--", "true"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 125
    assert done.stderr.startswith("cloche: needs python3.") and len(done.stderr.splitlines()) == 1


def test_another_interpreter_in_the_path_is_found(tmp_path: Path) -> None:
    lonely = tmp_path / "cloche"
    shutil.copy(COMMAND, lonely)
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [lonely, "--version"],
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("cloche "), done.stderr


def test_the_environment_arrives_as_it_is() -> None:
    odd = os.fsdecode(b"\xff=a\xc3\xa4\n=")
    done = subprocess.run(
        [COMMAND, "run", "-e", "ODD", "-e", "EMPTY", "--", "sh", "-c", 'printf "%s|%s|" "$ODD" "$EMPTY"'],
        env=environment(ODD=odd, EMPTY=""), capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.stdout == b"\xff=a\xc3\xa4\n=||", done.stderr


def test_signals_that_the_caller_blocks_or_ignores_do_not_reach_the_parts() -> None:
    """The keeper is a fork: what an executed one has from `posix_spawn` it must see to itself."""
    done = subprocess.run(
        [
            sys.executable, "-c",
            "from os import execv; from signal import *; from sys import argv; signal(SIGINT, SIG_IGN); "  # noqa: ISC004
            "pthread_sigmask(SIG_BLOCK, range(1, 32)); execv(argv[1], argv[1:])",
            COMMAND, "run", "--", "sh", "-c", "kill -USR1 $$; (exit 3) & wait $!; echo $?",
        ],
        env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode >= 0 and not done.stderr


def test_the_environment_is_not_in_the_memory_of_the_parts() -> None:
    """An attacker in a part finds no words or variables of the user's: the process that it was forked from had not
    read them.
    """
    secret = b"hush-" + os.urandom(8).hex().encode()
    env = environment(SECRET=secret.decode())
    child = subprocess.Popen(
        [COMMAND, "run", "--", "sh", "-c", "echo ready; read end"],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        keeper = _children(child.pid)
        assert len(keeper) == 1
        assert Path(f"/proc/{child.pid}/cmdline").read_bytes().endswith(b"\0sh\0-c\0echo ready; read end\0")
        for pid in keeper:
            assert Path(f"/proc/{pid}/comm").read_text() == "cloche-keeper\n"
            try:
                found = memory_has(pid, secret)
            except OSError:
                pytest.skip("this user may not read the memory of its processes")
            assert not found
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        child.communicate(b"\n", timeout=TIMEOUT_S)


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry))
    return found


def memory_has(pid: int, text: bytes) -> bool:
    """Whether its writable memory contains it.  Raises OSError."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights = line.split()[:2]
            if not rights.startswith("rw-p"):
                continue
            begin, end = (int(each, 16) for each in where.split("-"))
            memory.seek(begin)
            data = b""
            while len(data) < end - begin:
                piece = memory.read(end - begin - len(data))
                if not piece:
                    break
                data += piece
            if text in data:
                return True
    return False
