"""Storage of the host that hangs, and guests that go on meanwhile: for test_slow_storage.py and test_slow_disks.py."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.harness import IS_EMULATED, TIMEOUT_S, cloche_command, strict

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
SERVER = Path(__file__).parent / "fuse_volume.py"

# Opens files that were not opened before, and makes 10^5 calls: the work of other programs meanwhile.
CALLS = 4_000 if IS_EMULATED else 100_000
OTHERS = r"""
import os, sys
def others():
    found = 0
    for top in ("/usr/share", "/usr/lib"):
        for folder, _folders, files in os.walk(top):
            for name in files[:2]:
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        file.read(1)
                    found += 1
                except OSError:
                    pass
            if found > 200:
                break
    for _ in range(CALLS):
        os.getppid()
    return found > 100
def say(*words):
    print(*words, flush=True)
def hear():
    return sys.stdin.readline()
""".replace("CALLS", str(CALLS))


# Reads a file of the volume, in a process of its own.
READER = r"""
say("begun", os.stat("/v/file").st_size)
hear()
reader = os.fork()
if reader == 0:
    say(open("/v/hold-file").read().strip())
    os._exit(0)
hear()
say("others", others())
hear()
say("ended", os.waitpid(reader, 0)[1])
"""


class Guest:
    """A program in a sandbox that talks over its standard streams."""

    def __init__(self, argv: list[str], *, control: socket.socket | None = None) -> None:
        env = strict()
        fds = [control.fileno()] if control is not None else []
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, pass_fds=fds, text=True
        )

    def hear(self) -> str:
        """The next line that it says; an empty one if it says none in time."""
        assert self.process.stdout is not None
        timer = threading.Timer(TIMEOUT_S, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            timer.cancel()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(TIMEOUT_S)


class Slow:
    """A sandbox with a volume, on /v, that stops answering when it is told to."""

    def __init__(self, folder: Path, program: str, mode: str, *options: str) -> None:
        place = folder / "volume"
        place.mkdir()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(TIMEOUT_S)
        unshare = ["unshare", "-m", "--propagation", "private", sys.executable, str(SERVER), str(place)]
        command = [*cloche_command("-v", f"{place}:/v:{mode}", *options), "python3", "-c", OTHERS + program]
        self.guest = Guest([*unshare, str(theirs.fileno()), *command], control=theirs)
        theirs.close()
        assert self.control.recv(64) == b"ready"

    def order(self, words: str) -> None:
        self.control.send(words.encode())
        self.expect("ok")

    def expect(self, word: str) -> None:
        while self.control.recv(64) != word.encode():
            pass

    def hold(self, ops: str) -> None:
        """Have the guest begin what it is to wait with, and go on when the volume holds that."""
        self.order(f"hold {ops}")
        self.guest.tell("go")
        self.expect("held")
        self.guest.tell("go")

    def keeps_nobody_else(self, ops: str) -> None:
        """Hold these operations; meanwhile other programs go on, and then the volume answers."""
        self.hold(ops)
        assert self.guest.hear() == "others True"
        self.order("go")

    def close(self) -> None:
        self.control.close()  # then the server ends its command and itself
        try:
            self.guest.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.guest.process.kill()
            self.guest.process.wait()


class Slows:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Slow] = []

    def start(self, program: str, mode: str = "rw", *options: str) -> Slow:
        self.started.append(Slow(self.folder, program, mode, *options))
        return self.started[-1]

    def close(self) -> None:
        for each in self.started:
            each.close()


def run_quietly(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False, timeout=TIMEOUT_S).returncode == 0


class Frozen:
    """A sandbox with a volume, on /v, on a disk of the host's own: through a loop device, and FIFREEZE stops it."""

    def __init__(self, folder: Path, program: str, *options: str, words: str = "") -> None:
        if os.geteuid() != 0 or not all(shutil.which(each) for each in ("mkfs.ext4", "unshare")):
            pytest.skip("needs root, mkfs.ext4 and unshare")
        image, self.place = folder / "image", folder / "place"
        self.place.mkdir()
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        if not run_quietly("mkfs.ext4", "-q", "-F", str(image)):
            pytest.skip("the host makes no file system")
        probe = f"mount -o loop {image} {self.place}"
        if not run_quietly("unshare", "-m", "--propagation", "private", "sh", "-c", probe):
            pytest.skip("the host lends no loop device")
        self.disk = -1
        command = cloche_command(*(options or ("-v", f"{self.place}:/v:rw")))
        self.guest = Guest(
            [
                *["unshare", "-m", "--propagation", "private", "sh", "-c"],
                *[f'{probe} && exec "$@" {words}', "sh", *command, "python3", "-c", OTHERS + program],
            ]
        )

    def freeze(self) -> None:
        place = f"/proc/{self.guest.process.pid}/root{self.place}"
        self.disk = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.ioctl(self.disk, FIFREEZE, 0)

    def thaw(self) -> None:
        if self.disk >= 0:
            with contextlib.suppress(OSError):  # it is not frozen any more
                fcntl.ioctl(self.disk, FITHAW, 0)
            os.close(self.disk)
            self.disk = -1

    def __enter__(self) -> "Frozen":
        return self

    def __exit__(self, *_details: object) -> None:
        self.thaw()
        self.guest.process.kill()
        self.guest.process.wait()


def workers(pid: int) -> list[int]:
    """Processes of gofers that another gofer has started, among the descendants of `pid`."""
    found = []
    stack = [(pid, "")]
    while stack:
        here, above = stack.pop()
        try:
            name = Path(f"/proc/{here}/comm").read_text().strip()
            children = Path(f"/proc/{here}/task/{here}/children").read_text().split()
        except FileNotFoundError:
            continue
        if name == above == "cloche-gofer":
            found.append(here)
        stack += [(int(each), name) for each in children]
    return found


@contextlib.contextmanager
def stopped(guest: Guest) -> Iterator[None]:
    """The workers of its gofer do nothing meanwhile.  The guest is ended if this fails."""
    children = workers(guest.process.pid)
    try:
        assert children, "no worker"
        for each in children:
            os.kill(each, signal.SIGSTOP)
        yield
        for each in children:
            os.kill(each, signal.SIGCONT)
    except BaseException:
        guest.process.kill()
        guest.process.wait()
        raise
