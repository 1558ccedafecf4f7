"""Storage of the host that hangs delays the programs that use it, and no others (kernel/host_wait.py)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.harness import CLOCHE, TIMEOUT_S
from tests.guest.slow_storage import READER, Slows


@pytest.fixture
def slow(tmp_path: Path) -> Iterator["Slows"]:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse and root")
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    slows = Slows(tmp_path)
    yield slows
    slows.close()


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


@pytest.mark.parametrize("mode", ["ro", "rw", "cow"])
def test_names_that_are_too_long_are_not_shown(slow: Slows, mode: str) -> None:
    """Their directory could not be read at all (EIO)."""
    guest = slow.start('say(*sorted(os.listdir("/v")))', mode).guest
    assert guest.hear() == "file hold-a hold-b hold-c hold-file hold-large hold-program"
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
# Linux has the pipe locked: who does not want to wait does so nevertheless.
late_out, late_in = os.pipe()
quick = os.open(f"/proc/self/fd/{pipe_out}", os.O_RDONLY | os.O_NONBLOCK)
pids.append(mover(lambda: os.write(late_in, os.read(quick, 100))))
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
    # A request whose client disappears meanwhile is dropped.
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


MAPPER = r"""
import mmap, fcntl
file = os.open("/v/hold-large", os.O_RDONLY)
out, into = os.pipe()
fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)
say("begun")
hear()
def mapper(action):
    pid = os.fork()
    if pid == 0:
        data = memoryview(mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
        action(data)
        os._exit(0)
    return pid
# More than comes along with a call: the kernel looks there itself.
pids = [mapper(lambda data: os.write(into, data[:100000]))]
hear()
pids.append(mapper(lambda data: os.writev(into, [b"and ", data[1 << 20 : (1 << 20) + 100000]])))
kept = os.open("/tmp/kept", os.O_RDWR | os.O_CREAT)
pids.append(mapper(lambda data: os.pwrite(kept, data[2 << 20 : 4 << 20], 5)))
say("others", others())
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in pids])
os.close(into)
data = b"".join(iter(lambda: os.read(out, 1 << 20), b""))
say(len(data), data.count(b"L"), data.count(b"and "), os.pread(kept, 3 << 20, 0) == bytes(5) + b"L" * (2 << 20))
"""


def test_data_in_mapped_files_keep_nobody_else(slow: Slows) -> None:
    made = slow.start(MAPPER, "ro")
    guest = made.guest
    assert guest.hear() == "begun"
    made.keeps_nobody_else("read")
    guest.tell("go")
    assert guest.hear() == "ended 0 0 0"
    assert guest.hear() == "200004 200000 1 True"
    assert guest.end() == 0
