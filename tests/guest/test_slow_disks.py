"""The tests of test_slow_storage.py for disks of the host's own, which are not known to hang (kernel/host_wait.py,
kernel/lanes.py).
"""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import CLOCHE, IS_EMULATED, TIMEOUT_S, cloche_command
from tests.guest.slow_storage import OTHERS, READER, Frozen, Guest, stopped

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


# Writers, in PLACE, that are in the middle of a series, each of its own kind, when the disk stops.
SERIES = r"""
def small(fd, number):
    os.write(fd, b"%08d" % number)
def large(fd, number):
    os.write(fd, b"%08d" % number * 5000)  # more than comes along with a call
def positioned(fd, number):
    os.pwrite(fd, b"%08d" % number, number * 8)
def gathered(fd, number):
    os.writev(fd, [b"%04d" % (number // 10000), b"%04d" % (number % 10000)])
out, into = os.pipe()
def spliced(fd, number):
    os.write(into, b"%08d" % number)
    os.splice(out, fd, 8)
source = os.open("/tmp/source", os.O_RDWR | os.O_CREAT)
def sent(fd, number):
    os.pwrite(source, b"%08d" % number, 0)
    os.sendfile(fd, source, 0, 8)
def series(write, times):
    pid = os.fork()
    if pid == 0:
        name = "PLACE/" + write.__name__
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
def resized(fd, number):
    os.ftruncate(fd, max(os.fstat(fd).st_size, number * 8 + 8))
    os.pwrite(fd, b"%08d" % number, number * 8)
kinds = (small, large, positioned, gathered, spliced, sent, resized)
writers = [series(each, 100 if each is large else 50000) for each in kinds]
for each in kinds:
    while not os.path.exists("PLACE/" + each.__name__) or os.path.getsize("PLACE/" + each.__name__) < 100:
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


def stop_and_go_on(made: Frozen, last: str) -> None:
    """The disk stops while the guest's processes write; others go on, and one of those that wait can be killed."""
    guest = made.guest
    assert guest.hear() == "begun"
    made.freeze()
    guest.tell("go")
    assert guest.hear() == "others True"
    assert guest.hear() == "killed 9"
    made.thaw()
    guest.tell("go")
    assert guest.hear() == last
    assert guest.end() == 0


@pytest.mark.parametrize("what", ["volume", "kept layer"])
def test_a_disk_that_stops_amid_series_of_writes_keeps_nobody_else(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "volume":
        program, options = SERIES.replace("PLACE", "/v"), []
    elif IS_EMULATED:
        pytest.skip("writes of eight bytes reach a new page of a layer, where they wait, too seldom there")
    else:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "place"))
        monkeypatch.chdir(tmp_path)
        program, options = SERIES.replace("PLACE", "."), ["--name", f"series-{os.getpid()}", "--keep"]
    with Frozen(tmp_path, program, *options) as made:
        stop_and_go_on(made, "ended 0 0 0 0 0 0")


STREAMS = r"""
import fcntl
def writer(write):
    pid = os.fork()
    if pid == 0:
        number = 0
        while not os.path.exists("/tmp/stop"):
            if os.lseek(2, 0, 1) > 8 << 20:  # the disk is small
                os.lseek(2, 0, 0)
            write(b"%08d" % number)
            number += 1
        os._exit(0)
    return pid
def synchronise(data):
    os.write(2, data)
    os.fsync(2)
def small(data):
    os.write(2, data)
def large(data):
    os.write(2, data * 20000)
def allocate(data):
    os.posix_fallocate(2, 0, 1000000)
writers = [writer(each) for each in (KINDS)]
while os.fstat(2).st_size < 1000000:
    pass
say("begun")
hear()
def is_waiting(pid):
    return open(f"/proc/{pid}/stat").read().split()[2] == "D"
while not any(is_waiting(pid) for pid in writers):  # the others wait for the file position
    pass
say("others", others())
os.kill(writers[0], 9)
say("killed", os.waitpid(writers[0], 0)[1])
hear()
open("/tmp/stop", "w").close()
say("ended", *[os.waitpid(pid, 0)[1] for pid in writers[1:]])
"""


@pytest.mark.parametrize("kinds", ["small, large, synchronise", "allocate, allocate, allocate"])
def test_streams_that_are_files_keep_nobody_else(kinds: str, tmp_path: Path) -> None:
    """For which there is no gofer."""
    program = STREAMS.replace("KINDS", kinds)
    with Frozen(tmp_path, program, "-e", "A=b", words=f"2>{tmp_path}/place/errors") as made:
        stop_and_go_on(made, "ended 0 0")


KILLED = r"""
def is_waiting(pid):
    return open(f"/proc/{pid}/stat").read().split()[2] in "SD"
writer = os.fork()
while writer == 0:
    os.write(2, b"12345678")
    if os.lseek(2, 0, 1) > 8 << 20:  # the disk is small
        os.lseek(2, 0, 0)
while os.fstat(2).st_size < 1000:
    pass
say("begun")
hear()
while not open(f"/proc/{writer}/stat").read().split()[2] == "D":
    pass
os.kill(writer, 9)
killed = os.waitpid(writer, 0)[1]
seeker = os.fork()
if seeker == 0:
    os.lseek(2, 0, 1)
    os._exit(0)
while not is_waiting(seeker):
    pass
say("others", others())
say("killed", killed)
hear()
say("ended", os.waitpid(seeker, 0)[1])
"""


def test_a_position_is_not_free_before_the_call_of_who_was_killed_is_over(tmp_path: Path) -> None:
    """The host has locked it; the sentry would wait there."""
    with Frozen(tmp_path, KILLED, "-e", "A=b", words=f"2>{tmp_path}/place/errors") as made:
        stop_and_go_on(made, "ended 0")


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
    """A disk of the host's own, which is not known to hang, while its worker is stopped."""
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
        # (It does not report when it begins; the test is only that the others go on.)
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
cold = os.open("cold", os.O_CREAT | os.O_RDWR)
os.write(cold, b"c" * 300000)
os.fsync(cold)
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
reader = os.fork()
if reader == 0:
    os._exit(0 if os.pread(cold, 400000, 0) == b"c" * 300000 else 1)
small = open("small", "wb")
small.write(b"s" * 20000)  # too long for the journal
small.flush()
say("others", others(), os.waitpid(maker, os.WNOHANG)[0])
hear()
say("ended", *[os.waitpid(pid, 0)[1] for pid in (syncer, maker, reader)], open("new", "rb").read() == b"n" * 400000)
"""


def test_files_of_a_kept_layer_keep_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    name = f"kept-{os.getpid()}"
    guest = Guest([*cloche_command("--name", name, "--keep"), "python3", "-c", OTHERS + KEPT])
    assert guest.hear() == "begun"
    for path in (tmp_path / "data").rglob("[0-9]*"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # drop the file's pages from memory
        os.close(fd)
    with stopped(guest):
        guest.tell("go")
        assert guest.hear() == "others True 0"
    assert guest.hear() == "synchronised"
    guest.tell("go")
    assert guest.hear() == "ended 0 0 0 True"
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
