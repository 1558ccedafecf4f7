"""Storage of the host that hangs keeps the programs that ask for it, and nobody else (kernel/host_wait.py)."""

import contextlib
import fcntl
import hashlib
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

from tests.guest.harness import CLOCHE, TIMEOUT_S, cloche_command

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
SERVER = Path(__file__).parent / "fuse_volume.py"

# Opens files that nobody has opened yet, and makes 10^5 calls: what others do meanwhile.
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
    for _ in range(100000):
        os.getppid()
    return found > 100
def say(*words):
    print(*words, flush=True)
def hear():
    return sys.stdin.readline()
"""


class Guest:
    """A program in a sandbox that talks over its standard streams."""

    def __init__(self, argv: list[str], *, control: socket.socket | None = None) -> None:
        env = dict(os.environ, CLOCHE_STRICT="1")
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
        """The same; meanwhile others go on, and then the volume answers."""
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


@pytest.fixture
def slow(tmp_path: Path) -> Iterator["Slows"]:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse and root")
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    slows = Slows(tmp_path)
    yield slows
    slows.close()


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


@pytest.mark.parametrize("mode", ["ro", "rw", "cow"])
@pytest.mark.parametrize("op", ["lookup", "open", "read"])
def test_a_look_up_that_hangs_keeps_nobody_else(slow: Slows, mode: str, op: str) -> None:
    made = slow.start(READER, mode)
    guest = made.guest
    assert guest.hear() == "begun 15"
    made.keeps_nobody_else(op)
    assert guest.hear() == "hold-file's content"
    guest.tell("go")
    assert guest.hear() == "ended 0"
    assert guest.end() == 0


def test_a_task_that_waits_can_be_killed(slow: Slows) -> None:
    made = slow.start(
        READER.replace(
            'say("others", others())', 'os.kill(reader, 9); say("killed", os.waitpid(reader, 0)[1])'
        ).replace('say("ended", os.waitpid(reader, 0)[1])', 'say(open("/v/hold-file").read().strip())')
    )
    guest = made.guest
    guest.hear()
    made.hold("lookup")
    assert guest.hear() == "killed 9"
    made.order("go")
    guest.tell("go")
    assert guest.hear() == "hold-file's content"
    assert guest.end() == 0


RENAMES = r"""
say("begun", os.stat("/v/file").st_size)
hear()
def renamer(old, new):
    pid = os.fork()
    if pid == 0:
        try:
            os.rename("/v/" + old, "/v/" + new)
            word = "renamed"
        except OSError as error:
            word = error.strerror
        open("/tmp/" + str(os.getpid()), "w").write(word)
        os._exit(0)
    return pid
first = renamer("hold-a", "hold-new")
hear()
second = renamer("hold-a", "hold-new")
say("others", others())
hear()
for pid in (first, second):
    os.waitpid(pid, 0)
say(*sorted(open("/tmp/" + str(pid)).read() for pid in (first, second)))
say(*sorted(name for name in os.listdir("/v") if name in ("hold-a", "hold-new")))
say(open("/v/hold-new").read().strip())
"""


def test_two_renames_of_the_same_names(slow: Slows) -> None:
    made = slow.start(RENAMES)
    guest = made.guest
    guest.hear()
    made.keeps_nobody_else("rename")
    guest.tell("go")
    assert guest.hear() == "No such file or directory renamed"
    assert guest.hear() == "hold-new"
    assert guest.hear() == "hold-a's content"
    assert guest.end() == 0


MAKER = r"""
say("begun", os.stat("/v/file").st_size)
hear()
maker = os.fork()
if maker == 0:
    fd = os.open("/v/hold-made", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.write(fd, b"written")
    os._exit(0)
hear()
say("others", others())
hear()
say("ended", os.waitpid(maker, 0)[1], open("/v/hold-made").read())
"""


def test_a_file_is_made_once(slow: Slows) -> None:
    made = slow.start(MAKER)
    guest = made.guest
    guest.hear()
    made.keeps_nobody_else("create")
    guest.tell("go")
    assert guest.hear() == "ended 0 written"
    assert guest.end() == 0


WRITER = r"""
size = os.stat("/v/hold-file").st_size
file = os.open("/v/hold-file", os.O_RDWR)
end = os.open("/v/hold-a", os.O_WRONLY | os.O_APPEND)
say("begun", size)
hear()
def writer(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return pid
pids = [writer(lambda: os.write(file, b"a" * 300000))]
hear()
pids.append(writer(lambda: os.write(file, b"b" * 300000)))  # behind the first: they share the position
pids.append(writer(lambda: os.write(end, b"more\n")))
pids.append(writer(lambda: os.posix_fallocate(file, 0, 700000)))
say("others", others())
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in pids])
data = open("/v/hold-file", "rb").read()
say(len(data), data == b"a" * 300000 + b"b" * 300000 + bytes(100000), os.lseek(file, 0, 1))
say(open("/v/hold-a").read().split())
"""


def test_writes_keep_nobody_else(slow: Slows) -> None:
    made = slow.start(WRITER)
    guest = made.guest
    assert guest.hear() == "begun 20"
    made.keeps_nobody_else("write fallocate")
    guest.tell("go")
    assert guest.hear() == "ended 0 0 0 0"
    assert guest.hear() == "700000 True 600000"
    assert guest.hear() == "[\"hold-a's\", 'content', 'more']"
    assert guest.end() == 0


def test_a_write_that_waits_can_be_killed(slow: Slows) -> None:
    made = slow.start(
        WRITER.split("hear()\npids.append")[0]
        + 'hear()\nos.kill(pids[0], 9)\nsay("killed", os.waitpid(pids[0], 0)[1])\nhear()\n'
        + 'say(os.write(file, b"again"), open("/v/hold-file", "rb").read(5))\n'
    )
    guest = made.guest
    guest.hear()
    made.hold("write")
    assert guest.hear() == "killed 9"
    made.order("go")
    guest.tell("go")
    assert guest.hear() == "5 b'again'"
    assert guest.end() == 0


COPIER = r"""
file = os.open("/v/hold-file", os.O_WRONLY)
large = os.open("/v/hold-large", os.O_RDWR)
say("begun")
hear()
pids = []
for fd in (file, large):
    pid = os.fork()
    if pid == 0:
        os.pwrite(fd, b"mine", 5)
        os._exit(0)
    pids.append(pid)
hear()
say("others", others())
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in pids])
say(open("/v/hold-file").read().strip())
say(os.fstat(large).st_size, os.pread(large, 10, 0), os.pread(large, 10, 5 << 20))
"""


def test_copies_into_the_private_layer_keep_nobody_else(slow: Slows) -> None:
    made = slow.start(COPIER, "cow")
    guest = made.guest
    assert guest.hear() == "begun"
    made.keeps_nobody_else("read")
    guest.tell("go")
    assert guest.hear() == "ended 0 0"
    assert guest.hear() == "hold-mine's content"
    assert guest.hear() == "5242890 b'LLLLLmineL' b'LLLLLLLLLL'"
    assert guest.end() == 0


SYNCER = r"""
file = open("/v/hold-file", "r+b", buffering=0)
file.write(b"W")
say("begun")
hear()
syncer = os.fork()
if syncer == 0:
    os.fsync(file.fileno())
    os._exit(0)
hear()
say("others", others())
hear()
say("ended", os.waitpid(syncer, 0)[1])
"""


def test_fsync_keeps_nobody_else(slow: Slows) -> None:
    made = slow.start(SYNCER)
    guest = made.guest
    guest.hear()
    made.keeps_nobody_else("fsync")
    guest.tell("go")
    assert guest.hear() == "ended 0"
    assert guest.end() == 0


CLOSER = r"""
file = open("/v/hold-file", "r+b", buffering=0)
other = open("/v/hold-a", "rb", buffering=0)
say("begun")
hear()
closer = os.fork()
if closer == 0:
    other.close()
    os.fstat(file.fileno())
    os._exit(0)
hear()
other.close()  # nobody else has it
say("others", others())
hear()
say("ended", os.waitpid(closer, 0)[1])
"""


def test_fstat_and_close_keep_nobody_else(slow: Slows) -> None:
    made = slow.start(CLOSER)
    guest = made.guest
    guest.hear()
    made.keeps_nobody_else("getattr flush statfs")
    guest.tell("go")
    assert guest.hear() == "ended 0"
    assert guest.end() == 0


FROZEN = r"""
file = os.open("/v/file", os.O_RDWR | os.O_CREAT)
other = os.open("/v/other", os.O_RDWR | os.O_CREAT)
end = os.open("/v/end", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(other, b"x" * 100)
say("begun", os.write(file, b"12345"))
hear()
def child(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return pid
def is_waiting(pid):
    return open(f"/proc/{pid}/stat").read().split()[2] == "D"
pids = [child(lambda: os.write(file, b"a" * 300000))]
while not is_waiting(pids[0]):
    pass
pids.append(child(lambda: os.write(file, b"b" * 10)))  # behind the first: they share the position
pids.append(child(lambda: os.ftruncate(other, 10)))
pids.append(child(lambda: os.posix_fallocate(other, 0, 50000)))
pids.append(child(lambda: os.pwrite(other, b"y", 5)))
out, into = os.pipe()
os.write(into, b"spliced")
pids.append(child(lambda: os.splice(out, other, 7, offset_dst=60000)))
pids.append(child(lambda: os.write(end, b"z" * 100000)))  # in two pieces, none of them twice
say("others", others(), [os.waitpid(pid, os.WNOHANG)[0] for pid in pids])
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in pids])
data = open("/v/file", "rb").read()
say(len(data), data == b"12345" + b"a" * 300000 + b"b" * 10, os.lseek(file, 0, 1))
say(os.pread(other, 1, 5), os.pread(other, 10, 60000), os.stat("/v/other").st_size)
say(open("/v/end", "rb").read() == b"z" * 100000)
"""


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


def test_a_disk_that_is_frozen_keeps_nobody_else(tmp_path: Path) -> None:
    with Frozen(tmp_path, FROZEN) as made:
        guest = made.guest
        assert guest.hear() == "begun 5"
        made.freeze()
        guest.tell("go")
        assert guest.hear() == "others True [0, 0, 0, 0, 0, 0, 0]"
        made.thaw()
        guest.tell("go")
        assert guest.hear() == "ended 0 0 0 0 0 0 0"
        assert guest.hear() == "300015 True 300015"
        assert guest.hear() == "b'y' b'spliced' 60007"
        assert guest.hear() == "True"
        assert guest.end() == 0


# Writers that are in the middle of a series, each of its own kind, when the disk stops.
SERIES = r"""
def small(fd, number):
    os.write(fd, b"%08d" % number)
def large(fd, number):
    os.write(fd, b"%08d" % number * 5000)  # more than comes along with a call
def positioned(fd, number):
    os.pwrite(fd, b"%08d" % number, number * 8)
def gathered(fd, number):
    os.writev(fd, [b"%04d" % (number // 10000), b"%04d" % (number % 10000)])
def series(write, times):
    pid = os.fork()
    if pid == 0:
        name = "/v/" + write.__name__
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        number = 0
        while not os.path.exists("/tmp/stop"):
            write(fd, number % times)
            number += 1
            if number % times == 0:
                os.lseek(fd, 0, 0)
        data = open(name, "rb").read()
        size = 8 * (5000 if write is large else 1)
        want = [b"%08d" % each for each in range(min(number, times))]
        os._exit(0 if [data[at : at + 8] for at in range(0, len(data), size)] == want else 1)
    return pid
writers = [series(small, 50000), series(large, 100), series(positioned, 50000), series(gathered, 50000)]
for name in ("small", "large", "positioned", "gathered"):
    while not os.path.exists("/v/" + name) or os.path.getsize("/v/" + name) < 100:
        pass
say("begun")
hear()
def is_waiting(pid):
    return open(f"/proc/{pid}/stat").read().split()[2] == "D"
for pid in writers:
    while not is_waiting(pid):
        pass
say("others", others())
killed = series(small, 50000)  # which cannot even begin
os.kill(writers[0], 9)
say("killed", os.waitpid(writers[0], 0)[1])
os.kill(killed, 9)
os.waitpid(killed, 0)
hear()
open("/tmp/stop", "w").close()
say("ended", *[os.waitpid(pid, 0)[1] for pid in writers[1:]])
"""


def test_a_disk_that_stops_amid_series_of_writes_keeps_nobody_else(tmp_path: Path) -> None:
    with Frozen(tmp_path, SERIES) as made:
        guest = made.guest
        assert guest.hear() == "begun"
        made.freeze()
        guest.tell("go")
        assert guest.hear() == "others True"
        assert guest.hear() == "killed 9"
        made.thaw()
        guest.tell("go")
        assert guest.hear() == "ended 0 0 0"
        assert guest.end() == 0


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


def test_a_worker_that_is_stopped_keeps_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "file").write_text("fifteen letters")
    (folder / "hold-file").write_text("content")
    command = cloche_command("-v", f"{folder}:/v:rw")
    guest = Guest(
        [*command, "python3", "-c", OTHERS + READER.replace("os.fork()", 'os.fork(); say("forked")')]
    )
    assert guest.hear() == "begun 15"
    with stopped(guest):
        guest.tell("go")
        assert guest.hear() == guest.hear() == "forked"
        guest.tell("go")
        assert guest.hear() == "others True"
    assert guest.hear() == "content"
    guest.tell("go")
    assert guest.hear() == "ended 0"
    assert guest.end() == 0


OUTSIDE = r"""
os.rename("/v/folder", "/v/moved")
say("begun")
hear()
say("others", others())
hear()
"""


@pytest.mark.parametrize("words", [["exec", "NAME", "/v/program"], ["diff", "NAME"]])
def test_work_for_the_outside_keeps_nobody_else(tmp_path: Path, words: list[str]) -> None:
    """A disk of the host's own, of which nobody knows that it may hang, while its worker is stopped."""
    folder = tmp_path / "volume"
    (folder / "folder" / "below").mkdir(parents=True)
    (folder / "folder" / "file").write_text("content")
    (folder / "program").write_text("#!/bin/echo it runs\n")
    (folder / "program").chmod(0o755)
    name = f"stopped-{os.getpid()}-{words[0]}"
    command = cloche_command("-v", f"{folder}:/v:cow", "--name", name)
    guest = Guest([*command, "python3", "-c", OTHERS + OUTSIDE])
    assert guest.hear() == "begun"
    with stopped(guest):
        outside = subprocess.Popen(
            [*CLOCHE, *[each if each != "NAME" else name for each in words]],
            stdout=subprocess.PIPE,
            text=True,
        )
        # (When it is at work nobody tells; that the others go on, whenever it begins, is what counts.)
        guest.tell("go")
        assert guest.hear() == "others True"
        assert outside.poll() is None
    out = outside.communicate(timeout=TIMEOUT_S)[0]
    if words[0] == "exec":
        assert out == "it runs /v/program\n"
    else:
        assert "\nrename from v/folder/file\nrename to v/moved/file\n" in out, out
    guest.tell("go")
    assert guest.end() == 0


KEPT = r"""
file = os.open("kept", os.O_CREAT | os.O_RDWR)
os.write(file, b"k" * 100000)
os.fsync(file)
os.write(file, b"more")
gone = os.open("gone", os.O_CREAT | os.O_RDWR)
os.write(gone, b"g" * 400000)
os.fsync(gone)
os.close(gone)
say("begun")
hear()
os.unlink("gone")  # which is written, and deleted on the host, soon
maker = os.fork()
if maker == 0:
    with open("new", "wb") as new:
        new.write(b"n" * 400000)
    os._exit(0)
syncer = os.fork()
if syncer == 0:
    os.fsync(file)
    say("synchronised")
    os._exit(0)
small = open("small", "wb")
small.write(b"s" * 20000)  # too long for the journal
small.flush()
say("others", others(), os.waitpid(maker, os.WNOHANG)[0])
hear()
say("ended", os.waitpid(syncer, 0)[1], os.waitpid(maker, 0)[1], open("new", "rb").read() == b"n" * 400000)
"""


def test_files_of_a_kept_layer_keep_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    name = f"kept-{os.getpid()}"
    guest = Guest([*cloche_command("--name", name, "--keep"), "python3", "-c", OTHERS + KEPT])
    assert guest.hear() == "begun"
    with stopped(guest):
        guest.tell("go")
        assert guest.hear() == "others True 0"
    assert guest.hear() == "synchronised"
    guest.tell("go")
    assert guest.hear() == "ended 0 0 True"
    assert guest.end() == 0
    again = subprocess.run(
        [*cloche_command("--from", name), "sh", "-c", "test ! -e gone && md5sum new small kept"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    digests = again.stdout.decode().splitlines()
    expected = (b"n" * 400000, b"s" * 20000, b"k" * 100000 + b"more")
    assert [each.split()[0] for each in digests] == [hashlib.md5(data).hexdigest() for data in expected]


MOVER = r"""
say("begun", os.stat("/v/file").st_size)
out = os.open("/v/hold-a", os.O_RDWR)
source = os.open("/v/hold-file", os.O_RDONLY)
pipe_out, pipe_in = os.pipe()
os.write(pipe_in, b"through a pipe")
back_out, back_in = os.pipe()
hear()
def mover(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return pid
pids = [mover(lambda: os.splice(pipe_out, out, 14))]
hear()
# What the splice has begun to move is no other reader's, and its place in the pipe is before what comes later.
late_out, late_in = os.pipe()
pids.append(mover(lambda: os.write(late_in, os.read(pipe_out, 100))))
pids.append(mover(lambda: os.write(pipe_in, b"later")))
pids.append(mover(lambda: os.sendfile(back_in, source, 0, 100)))
copy = os.open("/v/hold-b", os.O_RDWR)
pids.append(mover(lambda: os.copy_file_range(source, copy, 9)))
say("others", others())
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in pids])
say(open("/v/hold-a").read().split(), os.read(back_out, 100), open("/v/hold-b").read().strip())
say(os.read(late_out, 100))
"""


def test_sendfile_and_splice_keep_nobody_else(slow: Slows) -> None:
    made = slow.start(MOVER)
    guest = made.guest
    assert guest.hear() == "begun 15"
    made.keeps_nobody_else("write read")
    guest.tell("go")
    assert guest.hear() == "ended 0 0 0 0 0"
    assert guest.hear() == "['through', 'a', 'pipent'] b\"hold-file's content\\n\" hold-filecontent"
    assert guest.hear() == "b'later'"
    assert guest.end() == 0


COPIED = r"""
say("begun", os.stat("/v/file").st_size)
for _ in range(2):
    hear()
    say("others", others())
hear()
say(open("/v/new").read())
"""


def test_copies_from_outside_keep_nobody_else(slow: Slows, tmp_path: Path) -> None:
    name = f"slow-{os.getpid()}"
    made = slow.start(COPIED, "rw", "--name", name)
    guest = made.guest
    assert guest.hear() == "begun 15"
    (tmp_path / "hold-in").write_text("from outside")
    copies = [
        ("read", ["cp", f"{name}:/v/hold-file", str(tmp_path / "out")]),
        ("lookup create write rename", ["cp", str(tmp_path / "hold-in"), f"{name}:/v/hold-in"]),
    ]
    for ops, words in copies:
        made.order(f"hold {ops}")
        copy = subprocess.Popen([*CLOCHE, *words])
        made.expect("held")
        guest.tell("go")
        assert guest.hear() == "others True"
        made.order("go")
        assert copy.wait(TIMEOUT_S) == 0
    assert (tmp_path / "out").read_text() == "hold-file's content\n"
    moved = subprocess.run(
        [*CLOCHE, "exec", name, "mv", "/v/hold-in", "/v/new"], timeout=TIMEOUT_S, check=False
    )
    assert moved.returncode == 0
    guest.tell("go")
    assert guest.hear() == "from outside"
    assert guest.end() == 0


def test_a_command_from_outside_keeps_nobody_else(slow: Slows) -> None:
    name = f"slow-exec-{os.getpid()}"
    made = slow.start(COPIED, "rw", "--name", name)
    guest = made.guest
    assert guest.hear() == "begun 15"
    for ops in ("lookup", "open read"):
        made.order(f"hold {ops}")
        command = subprocess.Popen([*CLOCHE, "exec", name, "/v/hold-program"], stdout=subprocess.PIPE)
        made.expect("held")
        guest.tell("go")
        assert guest.hear() == "others True"
        made.order("go")
        assert command.communicate(timeout=TIMEOUT_S)[0] == b"it runs /v/hold-program\n"
    # One whose client goes away meanwhile is forgotten.
    words = [*CLOCHE, "exec", name, "/v/hold-program"]
    made.order("hold lookup")
    command = subprocess.Popen(words, stdout=subprocess.PIPE)
    made.expect("held")
    command.kill()
    command.communicate(timeout=TIMEOUT_S)
    made.order("go")
    assert subprocess.check_output(words, timeout=TIMEOUT_S) == b"it runs /v/hold-program\n"


def test_a_sandbox_ends_without_its_storage(slow: Slows) -> None:
    made = slow.start(READER.replace('say("others", others())', "os._exit(7)"))
    guest = made.guest
    guest.hear()
    made.hold("lookup")
    assert guest.end() == 7
