"""The examples of the command line in the pages, followed word by word at a terminal."""

import os
import pty
import re
import select
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.harness import CLOCHE, TIMEOUT_S, environment

DOCS = Path(__file__).parents[2] / "docs"
MAKEFILE = "all test:\n\techo new > src/a\n\techo is $@\n"


def block(page: str, number: int) -> str:
    """An example."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number]


def at_a_terminal(script: str, typed: str, folder: Path) -> str:
    """What a shell shows that runs this at a terminal, with records and layers of its own."""
    words = shlex.join([*CLOCHE, "--root", str(folder / "records")])
    script = f'cloche() {{ {words} "$@"; }}\nset -e\n{script}'
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    shown = b""
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder / "project",
        env=environment(XDG_DATA_HOME=str(folder / "data"), TERM="dumb", CLOCHE_PAGER="cat"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            while select.select([ours], [], [], TIMEOUT_S)[0] and (piece := os.read(ours, 4096)):
                shown += piece
        except OSError:
            pass  # nobody has it any more
        finally:
            os.close(ours)  # if it waits for something it is hung up on
            status = process.wait(TIMEOUT_S)
    text = shown.decode(errors="replace").replace("\r\n", "\n")
    assert status == 0, text
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "b").write_text("old\n")
    (project / "Makefile").write_text(MAKEFILE)
    return tmp_path


def test_running(folder: Path) -> None:
    shown = at_a_terminal(
        block("running.md", 0).replace("exit 3'; echo", "exit 3' || echo"), "tty; exit\n", folder
    )
    assert "work\nhello\n3\n" in shown and "/dev/pts/" in shown and "sleep infinity" in shown, shown


def test_files(folder: Path) -> None:
    """`sleep` is given a moment by what the pages leave out: that make has ended."""
    lines = (
        block("files.md", 0).replace("make && sleep", "make && touch /tmp/result.png && sleep").splitlines()
    )
    ready = "until cloche exec work -- test -e /tmp/result.png; do :; done"
    shown = at_a_terminal(
        "\n".join([lines[0], ready, *lines[1:], "cat src/a || ls", "cloche stop work"]), "y\n", folder
    )
    assert "+new" in shown and "1 file changed" in shown and "undone" in shown, shown
    assert sorted(os.listdir(folder / "project")) == ["Makefile", "result.png", "src"]
    assert os.listdir(folder / "project" / "src") == ["b"]


def test_layers_that_last(folder: Path) -> None:
    shown = at_a_terminal(block("files.md", 1), "ls src; exit\n", folder)
    assert "is all" in shown and "is test" in shown and "a  b" in shown, shown
    assert os.listdir(folder / "project" / "src") == ["b"]
