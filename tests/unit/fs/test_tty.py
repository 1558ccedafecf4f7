"""Pseudo-terminal pairs: files, job control, controlling terminals, hangups, packets, devpts."""

import struct

import pytest

from cloche.abi.errno import EAGAIN, EBUSY, EINVAL, EIO, ENOTTY, ENXIO, EPERM, ERESTARTSYS, ESRCH, LinuxError
from cloche.abi.fcntl import O_NOCTTY, O_NONBLOCK, O_RDWR
from cloche.abi.ioctl import (
    FIONREAD,
    TCFLSH,
    TCGETA,
    TCGETS,
    TCGETS2,
    TCSETA,
    TCSETS,
    TCSETSF,
    TCXONC,
    TIOCEXCL,
    TIOCGDEV,
    TIOCGPGRP,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCGSID,
    TIOCGWINSZ,
    TIOCNOTTY,
    TIOCPKT,
    TIOCSCTTY,
    TIOCSIG,
    TIOCSPGRP,
    TIOCSPTLCK,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
)
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from cloche.abi.structs import pack_winsize
from cloche.abi.termios import ECHO, ICANON, TOSTOP
from cloche.fs.devpts import DevptsFs, devpts_fs
from cloche.fs.tty import Terminal, session_leader_exits
from cloche.fs.tty_files import MasterFile, SlaveFile, open_current_tty
from cloche.kernel.siginfo import SigAction
from cloche.kernel.task import Task
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.objects import DirEmitter, FileDescription
from cloche.vfs.pseudo import anonymous_path

from .harness import Guest


class Fixture:
    def __init__(self) -> None:
        self.guest = Guest()
        self.task = self.guest.task
        self.fs: DevptsFs = devpts_fs(self.guest.container)
        root = self.fs.root_inode
        assert root is not None
        found = root.lookup(self.task, b"ptmx")
        assert found is not None
        master = found.open(self.task, anonymous_path(b"/dev/ptmx", found), O_RDWR | O_NOCTTY).get()
        assert isinstance(master, MasterFile)
        self.master = master
        self.tty = master.tty
        inode = self.tty.inode
        assert inode is not None
        self.inode = inode
        self.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))

    def open(self, flags: int = O_RDWR, task: Task | None = None) -> SlaveFile:
        file = self.inode.open(task or self.task, anonymous_path(b"/dev/pts/0", self.inode), flags).get()
        assert isinstance(file, SlaveFile)
        return file

    def ioctl(self, file: FileDescription, command: int, data: bytes = b"", task: Task | None = None) -> int:
        addr = self.guest.put(data if data else bytes(64))
        try:
            result = file.ioctl(task or self.task, command, addr)
        except LinuxError as error:
            return -error.errno
        self.answer = self.guest.get(addr, 64, task)
        return result

    def number(self, file: FileDescription, command: int, task: Task | None = None) -> int:
        result = self.ioctl(file, command, task=task)
        return result if result else int.from_bytes(self.answer[:4], "little", signed=True)

    def type(self, keys: bytes) -> int:
        return self.master.write(self.task, KernelIovIter(keys))

    def read(self, file: FileDescription, count: int = 100, task: Task | None = None) -> bytes | int:
        sink = KernelIovIter(capacity=count)
        result = file.read(task or self.task, sink)
        return bytes(sink.sink) if result >= 0 else result

    def write(self, file: FileDescription, data: bytes, task: Task | None = None) -> int:
        return file.write(task or self.task, KernelIovIter(data))

    def set_raw(self, file: SlaveFile, minimum: int, time: int) -> None:
        mode = self.tty.termios.clone()
        mode.iflag = mode.oflag = mode.lflag = 0
        cc = bytearray(mode.cc)
        cc[6], cc[5] = minimum, time
        mode.cc = bytes(cc)
        assert self.ioctl(file, TCSETS, mode.pack()) == 0

    def signals_of(self, task: Task) -> set[int]:
        mask = task.pending.mask | task.group.pending.mask
        return {signo for signo in range(1, 65) if mask >> signo - 1 & 1}


def test_both_ways() -> None:
    f = Fixture()
    slave = f.open()
    assert f.read(slave) == -EAGAIN
    assert f.type(b"ls\r") == 3
    assert f.read(slave) == b"ls\n"
    assert f.write(slave, b"a\nb\n") == 4
    assert f.read(f.master) == b"ls\r\na\r\nb\r\n"
    assert f.read(f.master) == -EAGAIN


def test_a_line_at_a_time_in_pieces() -> None:
    f = Fixture()
    slave = f.open()
    f.type(b"first\nsecond\n")
    assert f.number(slave, FIONREAD) == 13
    assert f.read(slave, 3) == b"fir"
    assert f.read(slave) == b"st\n"
    assert f.read(slave) == b"second\n"
    f.type(b"ab\x04")
    assert f.read(slave, 2) == b"ab"
    assert f.read(slave) == -EAGAIN  # the end-of-file went with the last byte
    f.type(b"\x04")
    assert f.read(slave) == b""


def test_locked_until_unlocked() -> None:
    f = Fixture()
    f.ioctl(f.master, TIOCSPTLCK, struct.pack("i", 1))
    assert f.number(f.master, TIOCGPTLCK) == 1
    with pytest.raises(LinuxError) as caught:
        f.open()
    assert caught.value.errno == EIO


def test_numbers_and_directory() -> None:
    f = Fixture()
    assert f.number(f.master, TIOCGPTN) == 0
    root = f.fs.root_inode
    assert root is not None
    assert root.lookup(f.task, b"0") is f.tty.inode
    assert root.lookup(f.task, b"00") is None and root.lookup(f.task, b"7") is None
    second = f.fs.new_terminal(f.task)
    assert second.index == 1

    class Names(DirEmitter):
        def __init__(self) -> None:
            self.names: list[bytes] = []

        def emit(self, name: bytes, ino: int, dtype: int, next_pos: int) -> bool:
            self.names.append(name)
            return len(self.names) % 2 == 1

    names = Names()
    directory = root.open(f.task, anonymous_path(b"/dev/pts", root), 0)
    for _round in range(6):
        directory.iterate(f.task, names)
    assert sorted(set(names.names)) == [b".", b"..", b"0", b"1", b"ptmx"]
    f.master.put()
    assert root.lookup(f.task, b"0") is None
    assert f.fs.new_terminal(f.task).index == 0


def test_hangup_when_the_master_closes() -> None:
    f = Fixture()
    slave = f.open()
    f.type(b"unread\n")
    f.master.put()
    assert f.read(slave) == b""
    assert f.write(slave, b"x") == -EIO
    assert f.ioctl(slave, TCGETS) == -EIO
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", 1)) == -ENOTTY
    assert slave.poll(f.task) & (POLLIN | POLLOUT | POLLERR | POLLHUP) == POLLIN | POLLOUT | POLLERR | POLLHUP
    assert f.signals_of(f.task) >= {1}
    assert f.task.group.session().tty is None  # type: ignore[union-attr]
    with pytest.raises(LinuxError):
        f.open()


def test_master_sees_the_slave_close() -> None:
    f = Fixture()
    assert f.read(f.master) == -EAGAIN  # no process has opened the slave yet
    assert f.master.poll(f.task) & POLLHUP == 0
    slave = f.open()
    f.write(slave, b"last words")
    slave.put()
    assert f.master.poll(f.task) & (POLLHUP | POLLIN) == POLLHUP | POLLIN
    assert f.read(f.master) == b"last words"
    assert f.read(f.master) == -EIO
    f.open()
    assert f.read(f.master) == -EAGAIN


def test_attributes() -> None:
    f = Fixture()
    slave = f.open()
    assert f.ioctl(f.master, TCGETS) == 0
    mode = bytearray(f.answer[:36])
    iflag, oflag, cflag, lflag = struct.unpack_from("<4I", mode)
    assert (iflag, oflag, cflag, lflag) == (0x500, 5, 0xBF, 0x8A3B)
    struct.pack_into("<I", mode, 12, lflag & ~ECHO)
    assert f.ioctl(f.master, TCSETS, bytes(mode)) == 0
    assert f.tty.termios.lflag & (ECHO | ICANON) == ICANON
    assert f.ioctl(slave, TCGETS2) == 0
    assert struct.unpack_from("<2I", f.answer, 36) == (38400, 38400)
    assert f.ioctl(slave, TCGETA) == 0
    assert f.ioctl(slave, TCSETA, f.answer[:18]) == 0
    f.type(b"typed ahead\n")
    assert f.ioctl(slave, TCSETSF, f.tty.termios.pack()) == 0
    assert f.read(slave) == -EAGAIN


def test_window_size_signals_the_foreground() -> None:
    f = Fixture()
    slave = f.open()
    assert f.ioctl(f.master, TIOCSWINSZ, pack_winsize(24, 80, 0, 0)) == 0
    assert f.ioctl(slave, TIOCGWINSZ) == 0
    assert struct.unpack_from("<4H", f.answer) == (24, 80, 0, 0)
    f.task.group.handlers.actions[28] = SigAction(0x1000)
    f.ioctl(f.master, TIOCSWINSZ, pack_winsize(25, 80, 0, 0))
    assert f.signals_of(f.task) == {28}


def test_first_open_by_a_leader_adopts() -> None:
    f = Fixture()
    slave = f.open(O_RDWR | O_NOCTTY)
    assert f.tty.session is None
    assert f.number(slave, TIOCGPGRP) == -ENOTTY
    assert f.ioctl(slave, TIOCSCTTY) == 0
    assert f.number(slave, TIOCGPGRP) == f.task.tid
    assert f.number(slave, TIOCGSID) == f.task.tid
    other = f.guest.add_task(50)
    assert f.number(slave, TIOCGPGRP, other) == -ENOTTY
    assert f.ioctl(slave, TIOCSCTTY, task=other) == -EPERM
    assert f.ioctl(slave, TIOCNOTTY) == 0
    assert f.tty.session is None
    assert f.signals_of(f.task) == {1}  # SIGCONT was sent too, and ignored


def background(f: Fixture) -> Task:
    """A child of the terminal's session in a background group."""
    child = f.guest.add_task(60)
    session = f.task.group.session()
    pgrp = f.task.group.pgrp
    assert session is not None and pgrp is not None
    f.guest.join(child, pgrp)
    f.guest.new_group(child, 60)
    child.group.parent = f.task.group
    return child


def test_background_reads_and_writes() -> None:
    f = Fixture()
    slave = f.open()
    child = background(f)
    f.type(b"x\n")
    assert f.read(slave, task=child) == -ERESTARTSYS
    assert f.signals_of(child) == {21}
    assert f.write(slave, b"allowed", task=child) == 7
    f.tty.termios.lflag |= TOSTOP
    assert f.write(slave, b"x", task=child) == -ERESTARTSYS
    assert f.signals_of(child) == {21, 22}
    child.group.handlers.actions[22] = SigAction(1)
    assert f.write(slave, b"x", task=child) == 1
    child.sigmask.now = 1 << 20
    assert f.read(slave, task=child) == -EIO
    child.sigmask.now = 0
    child.group.parent = None  # orphaned
    assert f.read(slave, task=child) == -EIO


def test_foreground_changes() -> None:
    f = Fixture()
    slave = f.open()
    child = background(f)
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", 60), child) == -ERESTARTSYS
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", 60)) == 0
    assert f.number(f.master, TIOCGPGRP) == 60
    f.type(b"\x03")
    assert f.signals_of(child) >= {2} and 2 not in f.signals_of(f.task)
    child.group.handlers.actions[22] = SigAction(1)
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", 999), child) == -ESRCH
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", -1), child) == -EINVAL
    stranger = f.guest.add_task(70)
    assert stranger.group.pgrp is not None
    assert f.ioctl(slave, TIOCSPGRP, struct.pack("i", 70), child) == -EPERM


def test_death_of_the_leader() -> None:
    f = Fixture()
    slave = f.open()
    child = background(f)
    f.ioctl(slave, TIOCSPGRP, struct.pack("i", 60))
    session_leader_exits(f.task.group)
    assert f.signals_of(child) == {1}
    assert f.tty.session is None
    assert f.write(slave, b"still works", task=child) == 11


def test_dev_tty() -> None:
    f = Fixture()
    inode = f.tty.inode
    assert inode is not None
    path = anonymous_path(b"/dev/tty", inode)
    with pytest.raises(LinuxError) as caught:
        open_current_tty(f.task, path, inode, O_RDWR)
    assert caught.value.errno == ENXIO
    f.open()
    file = open_current_tty(f.task, path, inode, O_RDWR)
    assert isinstance(file, SlaveFile) and file.tty is f.tty


def test_minimum_and_time() -> None:
    f = Fixture()
    slave = f.open()
    f.set_raw(slave, 3, 0)
    f.type(b"ab")
    assert f.read(slave) == -EAGAIN
    assert slave.poll(f.task) & POLLIN == 0
    f.type(b"c")
    assert slave.poll(f.task) & POLLIN
    assert f.read(slave) == b"abc"
    f.type(b"de")
    assert f.read(slave, 2) == b"de"  # the buffer is full: no reason to wait for three
    f.type(b"f")
    slave.flags |= O_NONBLOCK
    assert f.read(slave) == b"f"
    slave.flags &= ~O_NONBLOCK
    f.set_raw(slave, 0, 0)
    assert f.read(slave) == b""
    f.set_raw(slave, 0, 1)
    assert f.read(slave) == -EAGAIN
    deadline = f.guest.kernel.timers.next_deadline_ns()
    assert deadline > 0
    f.tty.timers[f.task.tid].deadline_ns = 0
    assert f.read(slave) == b""
    assert f.tty.timers == {}


def test_time_between_bytes() -> None:
    f = Fixture()
    slave = f.open()
    f.set_raw(slave, 5, 1)
    assert f.read(slave) == -EAGAIN
    assert f.tty.timers == {}  # the time starts with the first byte
    f.type(b"a")
    assert f.read(slave) == -EAGAIN
    f.tty.timers[f.task.tid].deadline_ns = 0
    f.type(b"b")
    assert f.read(slave) == -EAGAIN  # and again with each further one
    f.tty.timers[f.task.tid].deadline_ns = 0
    assert f.read(slave) == b"ab"


def test_packets() -> None:
    f = Fixture()
    slave = f.open()
    f.ioctl(f.master, TIOCPKT, struct.pack("i", 1))
    f.write(slave, b"data")
    assert f.read(f.master) == b"\0data"
    assert slave.ioctl(f.task, TCFLSH, 2) == 0
    assert f.master.poll(f.task) & POLLPRI
    assert f.read(f.master) == bytes([1 | 2])
    assert slave.ioctl(f.task, TCXONC, 0) == 0
    assert f.read(f.master) == bytes([4])
    assert f.write(slave, b"x") == -EAGAIN
    assert slave.ioctl(f.task, TCXONC, 1) == 0
    assert f.read(f.master) == bytes([8])
    mode = f.tty.termios.clone()
    mode.iflag = 0
    f.ioctl(slave, TCSETS, mode.pack())
    assert f.read(f.master) == bytes([16])


def test_full_output_makes_writers_wait() -> None:
    f = Fixture()
    slave = f.open()
    total = 0
    while True:
        count = f.write(slave, b"line\n" * 1000)
        if count < 0:
            break
        total += count
    assert count == -EAGAIN
    assert slave.poll(f.task) & POLLOUT == 0
    got = b""
    while True:
        piece = f.read(f.master, 5000)
        if isinstance(piece, int):
            break
        got += piece
    assert got == b"line\r\n" * 1000 * (total // 5000) + (b"line\r\n" * 1000)[: len(got) % 6000]
    assert got.count(b"\n") * 5 + len(got) % 6 == total
    assert slave.poll(f.task) & POLLOUT


def test_full_input_makes_the_master_wait() -> None:
    f = Fixture()
    slave = f.open()
    f.set_raw(slave, 1, 0)
    total = 0
    while (count := f.type(b"k" * 5000)) > 0:
        total += count
    assert count == -EAGAIN and total == 4095 + 8192
    assert f.master.poll(f.task) & POLLOUT == 0
    got = 0
    while isinstance(piece := f.read(slave, 3000), bytes):
        got += len(piece)
    assert got == total
    assert f.master.poll(f.task) & POLLOUT


def test_small_requests() -> None:
    f = Fixture()
    slave = f.open()
    assert f.ioctl(slave, TIOCSTI, b"x") == -EIO
    assert f.number(slave, TIOCGDEV) == 136 << 8
    assert f.ioctl(slave, 0x5499) == -ENOTTY
    assert f.ioctl(slave, TIOCEXCL) == 0
    unprivileged = f.guest.add_task(80)
    unprivileged.creds.cap_effective = 0
    with pytest.raises(LinuxError) as caught:
        f.open(task=unprivileged)
    assert caught.value.errno == EBUSY
    assert f.master.ioctl(f.task, TIOCSIG, 2) == 0
    assert 2 in f.signals_of(f.task)
    assert f.master.ioctl(f.task, TIOCSIG, 9) == -EINVAL
    fd = f.master.ioctl(f.task, TIOCGPTPEER, O_RDWR | O_NOCTTY)
    assert isinstance(f.task.files.get(fd), SlaveFile)
    assert f.ioctl(slave, TIOCVHANGUP) == 0
    assert f.read(slave) == b""
    f.open()


def test_proc_fields() -> None:
    f = Fixture()
    f.open()
    assert isinstance(f.tty, Terminal)
    assert f.tty.proc_foreground() == f.task.tid
    assert f.tty.proc_device() == 136 << 8
