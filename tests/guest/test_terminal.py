"""`cloche run -t` on a pseudo-terminal of the host: an interactive shell with job control."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from pathlib import Path

import pytest

from tests.guest.harness import TIMEOUT_S, cloche_command

pytestmark = pytest.mark.guest


class Screen:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], folder: Path, *options: str) -> None:
        command = [*cloche_command(*options), *argv]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execv(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
        self.text = ""

    def expect(self, pattern: str) -> str:
        """Read until the screen's text since the last match fits; what came before."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            match = re.search(pattern, self.text)
            if match:
                before = self.text[: match.start()]
                self.text = self.text[match.end() :]
                return before
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"{pattern!r} not in {self.text!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            assert data, f"{pattern!r} not in {self.text!r}"
            self.text += data.decode()

    def send(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def finish(self) -> tuple[str, int]:
        """The output until the end, and the exit status."""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.text += data.decode()
        _pid, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return self.text, os.waitstatus_to_exitcode(status)


@pytest.fixture
def shell(tmp_path: Path) -> Screen:
    screen = Screen(["bash", "--norc", "--noediting"], tmp_path, "-t", "-e", "PS1=READY> ")
    screen.expect("READY> ")
    return screen


def test_terminal_of_its_own(shell: Screen) -> None:
    shell.send("tty; stty size\r")
    shell.expect(r"/dev/pts/0\r\n33 99\r\nREADY> ")
    shell.send("exit 7\r")
    assert shell.finish()[1] == 7


def test_job_control(shell: Screen) -> None:
    shell.send("cat\r")
    shell.send("typed\x7f\x7fxy\r")
    shell.expect(r"typed\x08 \x08\x08 \x08xy\r\ntypxy\r\n")
    shell.send("\x1a")
    shell.expect(r"\^Z\r\n\[1\]\+ +Stopped +cat\r\nREADY> ")
    shell.send("jobs\r")
    shell.expect(r"\[1\]\+  Stopped +cat\r\nREADY> ")
    shell.send("fg\r")
    shell.expect("fg\r\ncat\r\n")
    shell.send("again\r")  # bash gives the terminal away after it has shown the command
    shell.expect("again\r\nagain\r\n")
    shell.send("\x03")
    shell.expect(r"\^C\r\n(READY> )?")
    shell.send("echo status $?\r")
    shell.expect(r"status 130\r\nREADY> ")
    shell.send("\x04")
    shell.finish()


def test_window_changes(shell: Screen) -> None:
    shell.send("trap 'echo changed' WINCH\r")
    shell.expect("READY> ")
    fcntl.ioctl(shell.fd, termios.TIOCSWINSZ, struct.pack("4H", 44, 111, 0, 0))
    said = ""
    while "44 111" not in said:  # the size takes its way through two processes
        shell.send("stty size; echo seen; echo end\r")
        said += shell.expect(r"seen\r\nend\r\n")
    said += shell.expect("READY> ") if "changed" not in said else ""
    assert "changed" in said
    shell.send("exit\r")
    shell.finish()


@pytest.mark.parametrize("is_slow", [False, True])
def test_no_output_is_lost(tmp_path: Path, is_slow: bool) -> None:
    screen = Screen(["seq", "1", "20000"], tmp_path, "-t")
    if is_slow:
        time.sleep(0.5)
    text, status = screen.finish()
    assert status == 0
    assert text == "".join(f"{number}\r\n" for number in range(1, 20001))


def test_host_terminal_without_t(tmp_path: Path) -> None:
    screen = Screen(["sh", "-c", "read -r x; stty -echo; stty size; echo got $x"], tmp_path, "-i")
    screen.send("words\r")
    text, status = screen.finish()
    assert status == 0 and text == "words\r\n33 99\r\ngot words\r\n"


def test_attributes_are_put_back(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [*cloche_command("-i"), "stty", "-echo", "-icanon"]
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in range(3):
            os.dup2(slave, fd)
        os.execv(command[0], command)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
