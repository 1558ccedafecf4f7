"""fs.hostfd over real descriptors: files, pipes, sockets and a pseudo-terminal of the host."""

import os
import pty
import select
import socket
import termios
from pathlib import Path

import pytest

from cloche.abi.errno import EACCES, EAGAIN, EPIPE, ESPIPE, LinuxError
from cloche.abi.fcntl import O_RDONLY, O_WRONLY
from cloche.abi.fs import SEEK_CUR, SEEK_SET
from cloche.abi.ioctl import FIONREAD, TCGETS, TCGETS2, TCSETS, TIOCGPGRP, TIOCGWINSZ, TIOCSTI
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT
from cloche.fs.hostfd import PLAIN, HostFile, host_file
from cloche.fs.termios_codec import code_of, speed_of, termios2_to_termios, termios_to_termios2
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.host_wait import HostWait
from cloche.kernel.lanes import Lanes
from cloche.mm.usermem import UserIovIter, user_iov
from cloche.syscalls.sys_rw import sys_read
from cloche.vfs.pseudo import anonymous_path

from .harness import Guest


def read(guest: Guest, file: HostFile, count: int) -> bytes | int:
    addr = guest.put(bytes(count))
    result = file.read(guest.task, UserIovIter(guest.task.user_memory(), addr, count))
    return guest.get(addr, result) if result >= 0 else result


def write(guest: Guest, file: HostFile, data: bytes) -> int:
    addr = guest.put(data)
    return file.write(guest.task, UserIovIter(guest.task.user_memory(), addr, len(data)))


def opened(guest: Guest, fd: int) -> HostFile:
    file = host_file(guest.kernel, fd)
    file.get()
    return file


@pytest.mark.parametrize("has_nowait", [True, False])
def test_pipe(has_nowait: bool) -> None:
    guest = Guest()
    r, w = os.pipe()
    file = opened(guest, r)
    file.host.has_nowait = has_nowait
    assert read(guest, file, 10) == -EAGAIN
    os.write(w, b"hello")
    assert file.poll(guest.task) & POLLIN
    assert read(guest, file, 3) == b"hel"
    assert read(guest, file, 10) == b"lo"
    os.close(w)
    assert file.poll(guest.task) & POLLHUP
    assert read(guest, file, 10) == b""
    assert file.lseek(guest.task, 0, SEEK_SET) == -ESPIPE
    file.put()
    with pytest.raises(OSError):
        os.fstat(r)


@pytest.mark.parametrize("has_nowait", [True, False])
def test_full_pipe_does_not_block(has_nowait: bool) -> None:
    guest = Guest()
    r, w = os.pipe()
    file = opened(guest, w)
    file.host.has_nowait = has_nowait
    total = 0
    while True:
        count = write(guest, file, b"x" * 30000)
        if count < 0:
            break
        total += count
    assert count == -EAGAIN and 60000 <= total <= 65536
    assert file.poll(guest.task) & POLLOUT == 0
    os.close(r)
    assert write(guest, file, b"x") == -EPIPE
    assert guest.signals == [(guest.task, 13)]


@pytest.mark.parametrize("has_nowait", [True, False])
def test_a_vector_is_one_write(has_nowait: bool) -> None:
    """In a pipe of packets each write is one."""
    guest = Guest()
    r, w = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    file = opened(guest, w)
    file.host.has_nowait = has_nowait
    pieces = [(guest.put(data), len(data)) for data in (b"one ", b"", b"and ", b"two")]
    src = user_iov(guest.task.user_memory(), pieces)
    assert file.write(guest.task, src) == 11 and src.remaining() == 0
    assert os.read(r, 100) == b"one and two"
    while file.write(guest.task, user_iov(guest.task.user_memory(), pieces)) > 0:
        pass
    src = user_iov(guest.task.user_memory(), pieces)
    assert file.write(guest.task, src) == -EAGAIN and src.remaining() == 11
    for _packet in range(8):
        assert os.read(r, 100) == b"one and two"
    assert file.write(guest.task, src) == 11
    os.close(r)
    file.put()


def test_blocked_read_is_woken_by_the_host() -> None:
    guest = Guest()
    r, w = os.pipe()
    fd = guest.task.files.install(host_file(guest.kernel, r), 100)
    addr = guest.put(bytes(16))
    assert guest.call(sys_read, fd, addr, 16) == BLOCKED
    assert guest.host_events() == 0
    os.write(w, b"abc")
    assert guest.host_events() == 1
    assert guest.step() == 3
    assert guest.get(addr, 3) == b"abc"
    # No task waits any more: the next event only ends the watch.
    os.write(w, b"d")
    assert guest.host_events() == 1
    os.write(w, b"e")
    assert guest.host_events() == 0
    assert guest.platform.tokens == {}


def test_status_flags_of_the_host_are_left_alone() -> None:
    guest = Guest()
    r, w = os.pipe()
    file = opened(guest, r)
    file.set_status_flags(guest.task, 0o4000)
    assert read(guest, file, 1) == -EAGAIN
    assert os.get_blocking(r)


@pytest.mark.parametrize("has_nowait", [True, False])
def test_socket(has_nowait: bool) -> None:
    guest = Guest()
    ours, theirs = socket.socketpair()
    file = opened(guest, ours.detach())
    file.host.has_nowait = has_nowait
    assert read(guest, file, 10) == -EAGAIN
    theirs.send(b"hi")
    assert read(guest, file, 10) == b"hi"
    assert write(guest, file, b"back") == 4
    assert theirs.recv(10) == b"back"
    while write(guest, file, b"z" * 65536) > 0:
        pass
    assert write(guest, file, b"z" * 65536) == -EAGAIN
    theirs.close()
    assert write(guest, file, b"z") == -EPIPE
    file.put()


def test_regular_file_shares_the_position(tmp_path: Path) -> None:
    guest = Guest()
    name = tmp_path / "f"
    name.write_bytes(b"0123456789")
    fd = os.open(name, os.O_RDWR)
    other = os.dup(fd)
    file = opened(guest, fd)
    assert file.host.kind == PLAIN and file.wait_queue() is None
    assert read(guest, file, 4) == b"0123"
    assert os.read(other, 2) == b"45"
    assert file.lseek(guest.task, 0, SEEK_CUR) == 6
    assert write(guest, file, b"XY") == 2
    assert os.pread(other, 10, 0) == b"012345XY89"
    assert file.read_bytes(guest.task, 8, 10) == b"89"
    file.inode.refresh(guest.task)
    assert file.inode.size == 10
    assert file.truncate(guest.task, 3) == 0
    assert os.fstat(other).st_size == 3


def test_reopen_through_proc(tmp_path: Path) -> None:
    guest = Guest()
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    file = opened(guest, fd)
    path = anonymous_path(b"x", file.inode)
    again = file.inode.open(guest.task, path, O_WRONLY).get()
    file.put()
    assert isinstance(again, HostFile)
    assert write(guest, again, b"still open") == 10
    with pytest.raises(LinuxError) as caught:
        again.inode.open(guest.task, path, O_RDONLY)
    assert caught.value.errno == EACCES
    again.put()


def test_dev_null() -> None:
    guest = Guest()
    file = opened(guest, os.open("/dev/null", os.O_RDWR))
    assert read(guest, file, 5) == b""
    assert write(guest, file, b"gone") == 4
    assert file.link_text() == b"/dev/null"
    assert file.ioctl(guest.task, TCGETS, 0) == -25


def test_terminal() -> None:
    guest = Guest()
    master, slave = pty.openpty()
    file = opened(guest, slave)
    assert file.host.is_tty
    assert read(guest, file, 10) == -EAGAIN
    os.write(master, b"line\n")
    assert select.select([slave], [], [], 60)[0]
    assert read(guest, file, 10) == b"line\n"
    assert write(guest, file, b"out" * 500) == 1500
    addr = guest.put(bytes(64))
    assert file.ioctl(guest.task, TIOCGWINSZ, addr) == 0
    assert file.ioctl(guest.task, TCGETS, addr) == 0
    attributes = bytearray(guest.get(addr, 36))
    assert attributes[12] & 8
    attributes[12] &= ~8 & 0xFF  # ECHO
    before = termios.tcgetattr(slave)
    assert file.ioctl(guest.task, TCSETS, guest.put(bytes(attributes))) == 0
    assert termios.tcgetattr(master)[3] & termios.ECHO == 0
    assert file.ioctl(guest.task, TIOCGPGRP, addr) == -25
    assert file.ioctl(guest.task, TIOCSTI, addr) == -5
    assert file.ioctl(guest.task, TCGETS2, addr) == 0
    file.host.restore()
    assert termios.tcgetattr(slave) == before
    os.write(master, b"abc\n")
    # The host moves input to the line discipline in its own time
    assert select.select([slave], [], [], 60)[0]
    assert file.ioctl(guest.task, FIONREAD, addr) == 0
    assert guest.get(addr, 4) == b"\4\0\0\0"


def test_full_terminal_does_not_block() -> None:
    guest = Guest()
    master, slave = pty.openpty()
    file = opened(guest, slave)
    for _index in range(100):
        if write(guest, file, b"x" * 5000) == -EAGAIN:
            break
    else:
        raise AssertionError("the terminal never filled up")
    os.close(master)


def test_speeds() -> None:
    for code in (0xD, 0xF, 0x1002, 0x100F):
        assert code_of(speed_of(code)) == code
    assert speed_of(0xF) == 38400 and speed_of(0x1002) == 115200
    short = b"\0" * 8 + (0xF).to_bytes(4, "little") + bytes(24)
    long = termios_to_termios2(short)
    assert long[36:] == (38400).to_bytes(4, "little") * 2
    assert termios2_to_termios(long) == short


def test_a_call_on_a_disk_waits_while_all_lanes_but_one_are_away(tmp_path: Path) -> None:
    """kernel.lanes: it would delay all guests if its storage hung."""
    guest = Guest()
    kernel = guest.kernel
    waits = kernel.host_waits
    lanes = Lanes(kernel, 2)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    file = opened(guest, fd)
    lanes.take_over(0, -1)
    waits.begin([])
    file.host.begin_slowly(guest.task, file)
    waits.end()
    lanes.take_over(1, -1)
    waits.begin([])
    with pytest.raises(HostWait) as raised:
        file.host.begin_slowly(guest.task, file)
    assert not raised.value.request.is_answered
    lanes.came_back(0)
    assert raised.value.request.is_answered
    waits.begin([])
    file.host.begin_slowly(guest.task, file)
    lanes.came_back(1)
    file.put()
