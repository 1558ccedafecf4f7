"""`cloche exec -t`: further terminals in a running sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import is_one_line, wait_until
from tests.cli.test_exec import Box
from tests.cli.test_terminal import Screen


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "root", [])
    made.start("sleep", "10000")
    yield made
    made.end()


def opened(
    box: Box, *command: str, options: tuple[str, ...] = ("-t",), rows: int = 24, columns: int = 80
) -> Screen:
    return Screen([*box.words, "exec", *options, "box", "--", *command], Path("/"), rows, columns)


def test_a_terminal_of_its_own(box: Box) -> None:
    first = opened(box, "sh", "-c", "tty; stty size; echo $TERM; read x; exit 4", rows=30, columns=90)
    first.expect(r"/dev/pts/0\r\n30 90\r\nxterm\r\n")
    second = opened(
        box, "sh", "-c", "tty; ps -o tty= -p $$; exit 5", options=("-t", "-u", "77", "-e", "TERM=dumb")
    )
    try:
        second.expect(r"/dev/pts/1\r\npts/1\r\n")
        assert second.wait() == 5
        first.send("\n")
        assert first.wait() == 4
    finally:
        first.close()
        second.close()
    assert box("exec", "box", "--", "ls", "/dev/pts").out == "ptmx\n"


def test_its_user_owns_it(box: Box) -> None:
    at = opened(box, "sh", "-c", "stat -c %u $(tty); echo x > $(tty)", options=("-t", "-u", "77"))
    try:
        at.expect(r"77\r\nx\r\n")
        assert at.wait() == 0
    finally:
        at.close()


def test_keys_signals_and_sizes(box: Box) -> None:
    at = opened(box, "bash", "--norc", "--noediting", "-i")
    try:
        at.expect(r"bash-[0-9.]+[$#] ")
        at.send("sleep 100\n")
        wait_until(lambda: "sleep 100 " in box("ps", "box").out.replace("\n", " "), "started")
        at.send("\x03")
        at.expect(r"\^C")
        at.send("echo st=$?\n")
        at.expect(r"st=130\r\n")
        at.resize(41, 99)
        at.send("until [ \"$(stty size)\" = '41 99' ]; do sleep 0.02; done; echo re''sized\n")
        at.expect(r"resized\r\n")
        at.send("sleep 100\n")
        wait_until(lambda: "sleep 100 " in box("ps", "box").out.replace("\n", " "), "started")
        at.send("\x1a")
        at.expect(r"Stopped")
        at.send("kill %1; exit 6\n")
        at.expect(r"exit")
        assert at.wait() == 6
    finally:
        at.close()


def test_all_output_arrives(box: Box) -> None:
    at = opened(box, "seq", "30000")
    try:
        at.expect(r"\r\n29999\r\n30000\r\n")
        assert at.wait() == 0
    finally:
        at.close()


def test_modes_come_back(box: Box) -> None:
    words = " ".join(box.words)
    shell = Screen(["bash", "--norc", "-i"])
    try:
        shell.send("PS1='$ '; stty -a | md5sum\n")
        before = shell.expect(r"[0-9a-f]{32}")
        for command in ("sh -c 'stty raw -echo; exit 3'", "nosuch"):
            shell.send(f"{words} exec -t box -- {command}; echo st=$?\n")
            shell.expect(r"st=(3|127)")
            shell.send("stty -a | md5sum\n")
            assert shell.expect(r"[0-9a-f]{32}") == before
        shell.send("exit\n")
        shell.wait()
    finally:
        shell.close()


def test_a_terminal_that_is_gone(box: Box) -> None:
    """The window was closed: what ran in it gets SIGHUP, and what ignores it is killed."""
    at = opened(box, "bash", "-c", "trap '' HUP; echo ready; while :; do sleep 500; done")
    at.expect("ready")
    at.close()
    wait_until(lambda: "sleep 500" not in box("ps", "box").out, "it ended")
    assert box("exec", "box", "--", "ls", "/dev/pts").out == "ptmx\n"


def test_what_is_left_running_loses_the_terminal(box: Box) -> None:
    at = opened(
        box,
        "bash",
        "-c",
        "(trap '' HUP; while echo x; do sleep 0.01; done 2>/dev/null; echo > /tmp/gone) & sleep 0.2; exit 3",
    )
    try:
        assert at.wait() == 3
    finally:
        at.close()
    wait_until(lambda: box("exec", "box", "--", "test", "-e", "/tmp/gone").status == 0, "it was told")


def test_suspended_with_the_shell(box: Box) -> None:
    words = " ".join(box.words)
    shell = Screen(["bash", "--norc", "--noediting", "-i"])
    try:
        shell.send("PS1='$ '\n")
        shell.send(f"{words} exec box -- sh -c 'while :; do sleep 0.05; done'\n")
        wait_until(lambda: "0.05" in box("ps", "box").out, "started")
        shell.send("\x1a")
        shell.expect(r"Stopped")
        wait_until(lambda: " T " in box("ps", "box").out, "stopped inside")
        shell.send("fg\n")
        wait_until(lambda: " T " not in box("ps", "box").out, "continued")
        shell.send("\x03")
        wait_until(lambda: "0.05" not in box("ps", "box").out, "ended")
        shell.send("exit\n")
        shell.wait()
    finally:
        shell.close()


def test_no_terminal_to_give(box: Box) -> None:
    done = box("exec", "-t", "box", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done
