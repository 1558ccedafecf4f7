"""`cloche run -t`: a terminal of the sandbox's own, driven through a pseudo-terminal and through tmux."""

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloche.boot.noted import NOTED
from cloche.cli.terminal import Terminal, TerminalModes, window_size
from tests.cli.harness import (
    CLOCHE,
    TIMEOUT_S,
    alive,
    cloche_words,
    descendants,
    environment,
    is_one_line,
    run,
    wait_until,
)


class Screen:
    """A command on a pseudo-terminal; what it writes collects in `text`."""

    def __init__(self, words: list[str], cwd: Path | None = None, rows: int = 24, columns: int = 80) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
                if cwd is not None:
                    os.chdir(cwd)
                os.execvpe(words[0], words, environment(TERM="xterm"))
            finally:
                os._exit(99)

    def pump(self, seconds: float) -> bool:
        """Read what is there; False at the end."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern: str, seconds: float = TIMEOUT_S) -> str:
        """Wait for a match after everything that was expected before."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found is not None:
                self.text = self.text[found.end() :]
                return found[0]
            if time.monotonic() > deadline or not self.pump(0.2):
                raise AssertionError(f"no {pattern!r} in {self.text!r}")

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def urge(self, keys: str, pattern: str) -> str:
        """Send keys, again and again, until there is a match: a key may come before the program listens to it."""
        for _time in range(99):
            self.send(keys)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and re.search(pattern, self.text) is None:
                self.pump(0.2)
            if re.search(pattern, self.text) is not None:
                break
        return self.expect(pattern)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def wait(self, seconds: float = TIMEOUT_S) -> int:
        """The exit status, -N for signal N."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.pump(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running; {self.text!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


Opener = Callable[..., Screen]


@pytest.fixture
def screen() -> Iterator[Opener]:
    opened: list[Screen] = []

    def start(
        *command: str,
        options: tuple[str, ...] = ("-t",),
        cwd: Path | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> Screen:
        opened.append(Screen([*cloche_words(*options), *command], cwd, rows, columns))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_terminal_of_its_own(screen: Opener) -> None:
    at = screen(
        "sh",
        "-c",
        "tty; stty size; ls -l /proc/self/fd/0; [ -t 0 ] && [ -t 1 ] && echo yes; exit 7",
        rows=33,
        columns=111,
    )
    at.expect(r"/dev/pts/0\r\n33 111\r\n")
    at.expect(r"-> /dev/pts/0\r\nyes\r\n")
    assert at.wait() == 7


def test_lines_are_edited_inside(screen: Opener) -> None:
    at = screen("cat")
    at.send("abx\x7fc\n")
    at.expect(r"abx\x08 \x08c\r\nabc\r\n")
    at.send("\x04")
    assert at.wait() == 0


def test_modes_of_the_hosts_terminal_come_back() -> None:
    shell = Screen(["bash", "--norc", "-i"])
    try:
        shell.send("PS1='$ '; stty -a | md5sum; cloche() { " + " ".join(CLOCHE) + ' "$@"; }\n')
        before = shell.expect(r"[0-9a-f]{32}")
        shell.send("cloche run -t -- sh -c 'stty raw -echo; exit 3'; echo st=$?\n")
        shell.expect(r"st=3")
        shell.send("stty -a | md5sum\n")
        assert shell.expect(r"[0-9a-f]{32}") == before
        for option in ("-t", "-i"):
            shell.send(f"cloche run {option} --timeout 0.5 -- sh -c 'stty raw -echo; sleep 50'; echo st=$?\n")
            shell.expect(r"st=124")
            shell.send("stty -a | md5sum\n")
            assert shell.expect(r"[0-9a-f]{32}") == before
        shell.send("exit\n")
        shell.wait()
    finally:
        shell.close()


def test_window_size_follows(screen: Opener) -> None:
    # The signal is waited for, blocked: a handler's would be lost to pause(2) if it came just before that.
    code = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])\n"
        "while True:\n"
        "  size = os.get_terminal_size(0)\n"
        "  os.write(1, b'size %d %d\\n' % (size.lines, size.columns))\n"
        "  signal.sigwaitinfo([signal.SIGWINCH])\n"
    )
    at = screen("/usr/bin/python3", "-c", code, rows=20, columns=70)
    at.expect(r"size 20 70")
    at.resize(50, 132)
    at.expect(r"size 50 132")
    at.send("\x03")
    assert at.wait() in (130, 1)


def test_interrupt_and_quit(screen: Opener) -> None:
    at = screen(
        "bash", "--norc", "-c", "trap 'echo int' INT; trap 'echo quit' QUIT; echo ready; read x; echo $x"
    )
    at.expect("ready")
    # bash looks for pending traps, then reads: a signal in between waits for the next key, on Linux too.
    at.urge("\x03", r"\^Cint")
    at = screen("sh", "-c", "echo ready; exec sleep 100")
    at.expect("ready")
    at.send("\x03")
    assert at.wait() == 130
    at = screen("sh", "-c", "stty -isig; echo ready; head -c 1 | od -An -c; stty isig")
    at.expect("ready")
    at.send("\x03\n")
    at.expect(r"003")
    assert at.wait() == 0


def test_job_control_in_bash(screen: Opener) -> None:
    at = screen("bash", "--norc", "--noediting", "-i")
    at.expect(r"bash-[0-9.]+[$#] ")
    at.send("echo on; sleep 100\n")
    at.expect(r"\r\non\r\n")  # it has read the line, which ^Z would drop
    at.urge("\x1a", r"Stopped +sleep 100\r\n.*[$#] ")
    at.send("jobs; bg; jobs\n")
    at.expect(r"Stopped +sleep 100")
    at.expect(r"Running +sleep 100 &\r\n.*[$#] ")
    at.send("fg\n")
    at.expect(r"fg\r\nsleep 100\r\n")
    at.urge("\x03", r"[$#] ")
    at.send("echo st=$?\n")
    at.expect(r"st=130\r\n.*[$#] ")
    at.send("cat; :\n")
    at.expect(r"cat; :\r\n")
    at.send("hello\n")
    at.expect(r"hello\r\nhello\r\n")
    at.send("\x1a")
    at.expect(r"Stopped +cat")
    at.expect(r"[$#] ")
    at.send("kill %1; wait; exit 5\n")
    assert at.wait() == 5


def test_no_input_from_the_terminal_unless_asked(screen: Opener) -> None:
    at = screen("sh", "-c", "cat; echo end", options=())
    at.expect(r"end")
    assert at.wait() == 0
    at = screen("sh", "-c", "read x; echo got $x", options=("-i",))
    at.send("hello\n")
    at.expect(r"got hello")
    assert at.wait() == 0


def test_keyboard_without_a_terminal_of_its_own(screen: Opener) -> None:
    at = screen("bash", "-c", "echo ready; sleep 100; echo after", options=())
    at.expect("ready")
    at.send("\x03")
    assert at.wait() == 130 and "after" not in at.text


def test_a_large_paste_and_a_large_output(screen: Opener) -> None:
    at = screen("sh", "-c", "stty -echo; echo ready; head -n 200 | md5sum; seq 20000; echo end")
    at.expect("ready")
    lines = "".join(f"line {index} {'x' * 60}\n" for index in range(200))
    for start in range(0, len(lines), 500):
        at.send(lines[start : start + 500])
        at.pump(0.01)
    at.expect(
        subprocess.run(["md5sum"], input=lines.encode(), capture_output=True, check=True)
        .stdout.split()[0]
        .decode()
    )
    at.expect(r"\n19999\r\n20000\r\nend", 40)
    assert at.wait() == 0


def test_the_terminal_goes_away(screen: Opener) -> None:
    at = screen("sh", "-c", "trap '' HUP; echo ready; sleep 100")
    at.expect("ready")
    everyone = descendants(at.pid)
    assert everyone
    pid = at.pid
    os.close(at.fd)
    at.fd = os.open(os.devnull, os.O_RDONLY)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], "cloche ends")
    at.pid = 0
    wait_until(lambda: not alive(everyone), "every process is gone")


def test_a_flood_of_signals_does_not_nest() -> None:
    """The handler of the monitor's signals runs no bytecode in which further ones could be handled."""
    assert not hasattr(NOTED, "__code__") and NOTED(15, None) is None


def test_a_terminal_that_was_hung_up() -> None:
    """Every operation on it gives an OSError at most."""
    master, slave = pty.openpty()
    saved = os.dup(0)
    os.dup2(slave, 0)
    try:
        terminal = Terminal()
        os.close(master)
        terminal.enter()
        terminal.leave()
        TerminalModes().restore()
        assert window_size()
        with pytest.raises(OSError, match="rror"):
            Terminal()
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(slave)


def test_terminal_usage() -> None:
    done = run("true", options=("-t",))
    assert done.status == 125 and is_one_line(done.err), done


def test_in_the_background_it_waits() -> None:
    shell = Screen(["bash", "--norc", "-i"])
    try:
        shell.send("PS1='> '; cloche() { " + " ".join(CLOCHE) + ' "$@"; }\n')
        shell.send("cloche run -t -- sh -c 'echo in; read x; echo got $x' &\n")
        shell.urge("jobs\n", r"Stopped.*cloche run")
        shell.send("echo typed for the shell\n")
        shell.expect(r"[\r\n]typed for the shell")
        shell.send("fg\n")
        shell.expect(r"\nin\r")
        shell.send("hello\n")
        shell.expect(r"got hello[\s\S]*> ")
        shell.send("exit\n")
        shell.wait()
    finally:
        shell.close()


# -- full-screen programs ------------------------------------------------------------------------------------------------
class Tmux:
    """A tmux of its own with one window."""

    def __init__(self, socket: Path) -> None:
        self.words = ["tmux", "-f", "/dev/null", "-S", str(socket)]

    def start(self, words: list[str], cwd: Path) -> None:
        command = shlex.join(words)
        self(
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "-c",
            str(cwd),
            f"{command}; echo status=$?; sleep 1000",
        )

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self.words, *words], capture_output=True, env=environment(), timeout=TIMEOUT_S, check=True
        )
        return done.stdout.decode(errors="replace")

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        self("send-keys", *keys)

    def expect(self, pattern: str, seconds: float = TIMEOUT_S) -> str:
        deadline = time.monotonic() + seconds
        while True:
            text = self.screen()
            if re.search(pattern, text, re.MULTILINE):
                return text
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} on\n{text}")
            time.sleep(0.1)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    each = Tmux(tmp_path / "tmux")
    yield each
    subprocess.run([*each.words, "kill-server"], capture_output=True, check=False)


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def test_less(tmux: Tmux, project: Path) -> None:
    need("less")
    (project / "long").write_text("".join(f"line {index}\n" for index in range(1, 501)))
    tmux.start([*cloche_words("-t"), "less", "long"], project)
    tmux.expect(r"^line 1$")
    tmux.keys("G")
    tmux.expect(r"^line 500$")
    tmux.keys("g", "/line 250", "Enter")
    tmux.expect(r"^line 250$")
    tmux("resize-window", "-x", "60", "-y", "15")
    # A key that comes with SIGWINCH is lost by less, natively too
    tmux.expect(r"^line 250\n(line \d+\n){13}:")
    tmux.keys("g")
    tmux.expect(r"^line 1\n(line \d+\n){11}")
    tmux.keys("q")
    tmux.expect(r"status=0")


def test_vi(tmux: Tmux, project: Path) -> None:
    need("vi")
    tmux.start([*cloche_words("-t"), "sh", "-c", "vi file; cat file"], project)
    tmux.expect(r"^host")
    tmux.keys("o", "added with vi", "Escape")
    tmux.expect(r"^added with vi")
    tmux.keys(":wq", "Enter")
    tmux.expect(r"host\nadded with vi\nstatus=0")
    assert (project / "file").read_text() == "host\n"


def test_vi_suspended(tmux: Tmux, project: Path) -> None:
    need("vi")
    tmux.start([*cloche_words("-t"), "bash", "--norc", "-i"], project)
    tmux.expect(r"^bash.*[$#]")
    tmux.keys("vi file", "Enter")
    tmux.expect(r"^host")
    tmux.keys("C-z")
    tmux.expect(r"Stopped +vi file")
    tmux.keys("fg", "Enter")
    tmux.expect(r"^~")
    tmux.keys(":q!", "Enter")
    tmux.expect(r"^vi file\n+bash[^\n]*[$#]\s*\Z")  # vi throws away what is typed while it leaves
    tmux.keys("exit 4", "Enter")
    tmux.expect(r"status=4")


def test_nano(tmux: Tmux, project: Path) -> None:
    need("nano")
    tmux.start([*cloche_words("-t"), "sh", "-c", "nano file; cat file"], project)
    tmux.expect(r"GNU nano")
    tmux.keys("added with nano", "Enter")
    tmux.keys("C-o", "Enter")
    tmux.expect(r"Wrote")
    tmux.keys("C-x")
    tmux.expect(r"added with nano\nhost\nstatus=0")


def test_top(tmux: Tmux, project: Path) -> None:
    need("top")
    tmux.start([*cloche_words("-t"), "sh", "-c", "sleep 99 & top -d 0.5"], project)
    text = tmux.expect(r"PID +USER")
    assert "load average" in text and "Tasks" in text
    tmux.expect(r"\d+ .*sleep")
    tmux.keys("q")
    tmux.expect(r"status=0")


def test_htop(tmux: Tmux, project: Path) -> None:
    need("htop")
    tmux.start([*cloche_words("-t"), "htop"], project)
    tmux.expect(r"Load average")
    tmux.keys("q")
    tmux.expect(r"status=0")


def test_python_prompt(tmux: Tmux, project: Path) -> None:
    tmux.start([*cloche_words("-t"), "/usr/bin/python3", "-q"], project)
    tmux.expect(r">>>")
    tmux.keys("6*7", "Enter")
    tmux.expect(r"^42")
    tmux.keys("import time; time.sleep(100)", "Enter")
    time.sleep(0.5)
    tmux.keys("C-c")
    tmux.expect(r"KeyboardInterrupt")
    tmux.keys("exit(6)", "Enter")
    tmux.expect(r"status=6")


def test_tmux_inside(tmux: Tmux, project: Path) -> None:
    """Pseudo-terminals of the sandbox's own, a daemon and a Unix socket."""
    tmux.start(
        [
            *cloche_words("-t"),
            "sh",
            "-c",
            "tmux -f /dev/null new-session 'echo inner; sleep 1; tty; sleep 1000'",
        ],
        project,
    )
    tmux.expect(r"inner")
    tmux.expect(r"/dev/pts/\d")
