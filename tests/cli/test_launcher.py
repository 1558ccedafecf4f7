"""The installed `cloche` command, which is a program in C (csrc/launcher)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloche.boot import spawn
from tests.cli.harness import TIMEOUT_S, environment

COMMAND = Path(sys.executable).parent / "cloche"
SOURCE = Path(__file__).parents[2] / "csrc" / "launcher" / "launcher.c"

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
        timeout=60,
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
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("cloche "), done.stderr


@pytest.mark.skipif(not SOURCE.exists(), reason="the source of the launcher is not there")
def test_the_keeper_is_started_alike_from_c_and_python() -> None:
    literal = re.search(r"KEEPER_CODE\[\] =\n((?:\s*\"[^\n]*\n)+)", SOURCE.read_text())
    assert literal is not None
    assert "".join(re.findall(r'"(.*?)"', literal[1])) == spawn._CODE
    assert f"KEEPER_FD = {spawn.KEEPER_FD}," in SOURCE.read_text()
