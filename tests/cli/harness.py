"""Helpers of the end-to-end tests of the command: running it, looking for processes and files that it left,
terminals.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloche

CLOCHE = [sys.executable, "-m", "cloche.cli.main"]
TIMEOUT_S = 150
USER = "cloche-test"
SOURCE = Path(cloche.__file__).parent.parent
IS_ROOT = os.geteuid() == 0


def environment(**more: str) -> dict[str, str]:
    """The environment of `cloche` itself."""
    return {**os.environ, "CLOCHE_STRICT": "1", "PYTHONPATH": str(SOURCE), **more}


class Outcome:
    """The output and status of a run."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.out = stdout.decode(errors="replace")
        self.err = stderr.decode(errors="replace")

    def __repr__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def cloche_words(*options: str) -> list[str]:
    """The start of a command line, up to `--`."""
    return [*CLOCHE, "run", *options, "--"]


def run_words(
    words: list[str],
    cwd: Path | None = None,
    stdin: bytes | None = b"",
    timeout: float = TIMEOUT_S,
    **env: str,
) -> Outcome:
    """Run any command."""
    done = subprocess.run(
        words, cwd=cwd, input=stdin, env=environment(**env), capture_output=True, timeout=timeout, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run(
    *command: str,
    options: tuple[str, ...] = (),
    cwd: Path | None = None,
    stdin: bytes | None = b"",
    timeout: float = TIMEOUT_S,
    **env: str,
) -> Outcome:
    """`cloche run OPTIONS -- COMMAND`."""
    return run_words([*cloche_words(*options), *command], cwd, stdin, timeout, **env)


def shell(
    script: str,
    *options: str,
    cwd: Path | None = None,
    stdin: bytes | None = b"",
    timeout: float = TIMEOUT_S,
    **env: str,
) -> Outcome:
    """`cloche run OPTIONS -- sh -c SCRIPT`."""
    return run("sh", "-c", script, options=options, cwd=cwd, stdin=stdin, timeout=timeout, **env)


def is_one_line(text: str) -> bool:
    """Whether a complaint is a single line, without a traceback."""
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def processes() -> dict[int, tuple[int, str]]:
    """Every process of the host but zombies: pid -> (parent, command line)."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
            command = (
                Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if fields[0] not in "ZX":
            found[int(entry)] = (int(fields[1]), command.strip())
    return found


def descendants(top: int) -> set[int]:
    """The pids of every process below `top`."""
    everyone = processes()
    below: set[int] = set()
    grown = {top}
    while grown:
        grown = {pid for pid, (parent, _command) in everyone.items() if parent in grown and pid not in below}
        below |= grown
    return below


def name_of(pid: int) -> str:
    """A process's name; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """A process's parent; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pids: set[int]) -> set[int]:
    """Those that still run."""
    return pids & set(processes())


class Running:
    """A `cloche run` in the background."""

    def __init__(self, *command: str, options: tuple[str, ...] = (), cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [*cloche_words(*options), *command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self.everyone: set[int] = set()

    def wait_for_line(self) -> str:
        """The command's next line; then the processes of the sandbox are in `everyone`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.everyone = descendants(self.process.pid)
        return line.strip()

    def finish(self, seconds: float = TIMEOUT_S) -> Outcome:
        """Wait for the end."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return Outcome(self.process.returncode, out, err)

    def end(self) -> None:
        """Clean up after a test that failed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def user_words() -> list[str] | None:
    """The start of a command that runs as an ordinary user; None if that cannot be had."""
    if not IS_ROOT:
        return []
    try:
        pwd.getpwnam(USER)
    except KeyError:
        useradd = shutil.which("useradd") or "/usr/sbin/useradd"
        if not os.path.exists(useradd):
            return None
        if subprocess.run(
            [useradd, "-m", "-s", "/bin/sh", USER], capture_output=True, check=False
        ).returncode:
            return None
    if shutil.which("setpriv") is None:
        return None
    entry = pwd.getpwnam(USER)
    return [
        "setpriv",
        f"--reuid={entry.pw_uid}",
        f"--regid={entry.pw_gid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "env",
        f"HOME={entry.pw_dir}",
        f"USER={USER}",
    ]
