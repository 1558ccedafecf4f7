"""Reading, writing, descriptors, names and locks through the handlers, on a tmpfs."""

from struct import pack, unpack

import pytest

from cloche.abi import errno as e
from cloche.abi import fcntl as f
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.task import Task
from cloche.syscalls.sys_attr import sys_chmod, sys_utimensat
from cloche.syscalls.sys_fcntl import sys_fcntl, sys_flock
from cloche.syscalls.sys_fd import (
    sys_close,
    sys_close_range,
    sys_dup,
    sys_dup2,
    sys_dup3,
    sys_memfd_create,
    sys_open,
    sys_openat,
    sys_openat2,
)
from cloche.syscalls.sys_path import (
    sys_chdir,
    sys_getcwd,
    sys_link,
    sys_linkat,
    sys_mkdir,
    sys_mknod,
    sys_rename,
    sys_rmdir,
    sys_symlink,
    sys_unlink,
)
from cloche.syscalls.sys_pipe import sys_pipe2
from cloche.syscalls.sys_rw import (
    sys_lseek,
    sys_pread64,
    sys_preadv2,
    sys_pwrite64,
    sys_read,
    sys_readv,
    sys_write,
    sys_writev,
)
from cloche.syscalls.sys_splice import sys_copy_file_range, sys_sendfile, sys_splice, sys_tee
from cloche.syscalls.sys_stat import (
    sys_access,
    sys_fstat,
    sys_getdents64,
    sys_newfstatat,
    sys_readlink,
    sys_stat,
    sys_statfs,
    sys_statx,
)
from cloche.syscalls.sys_sync import sys_fallocate, sys_fsync, sys_ftruncate, sys_truncate
from cloche.syscalls.sys_xattr import sys_getxattr, sys_listxattr, sys_removexattr, sys_setxattr
from tests.unit.syscalls.world import World

BUF = 0x40000
RW = f.O_RDWR | f.O_CREAT


@pytest.fixture
def w() -> World:
    return World()


def make(w: World, name: bytes, data: bytes = b"") -> int:
    fd = w.call(sys_open, name, RW, 0o644)
    assert fd >= 0
    if data:
        assert w.call(sys_write, fd, data, len(data)) == len(data)
    return fd


def pipe(w: World, flags: int = 0, task: Task | None = None) -> tuple[int, int]:
    assert w.call(sys_pipe2, BUF, flags, task=task) == 0
    first, second = unpack("<ii", w.peek(BUF, 8, task))
    return first, second


# -- reading and writing ---------------------------------------------------------------------------------
def test_read_back(w: World) -> None:
    fd = make(w, b"/a", b"hello world")
    assert w.call(sys_lseek, fd, 0, 0) == 0
    assert w.call(sys_read, fd, BUF, 5) == 5
    assert w.peek(BUF, 5) == b"hello"
    assert w.call(sys_pread64, fd, BUF, 100, 6) == 5
    assert w.peek(BUF, 5) == b"world"
    assert w.call(sys_lseek, fd, 0, 1) == 5
    assert w.call(sys_pwrite64, fd, b"W", 1, 6) == 1
    assert w.call(sys_read, fd, BUF, 100) == 6
    assert w.peek(BUF, 6) == b" World"
    assert w.call(sys_read, fd, BUF, 100) == 0


def test_access_modes(w: World) -> None:
    make(w, b"/a", b"x")
    reader = w.call(sys_open, b"/a", f.O_RDONLY)
    writer = w.call(sys_open, b"/a", f.O_WRONLY)
    place = w.call(sys_open, b"/a", f.O_PATH)
    neither = w.call(sys_open, b"/a", 3)
    assert w.call(sys_write, reader, b"x", 1) == -e.EBADF
    assert w.call(sys_read, writer, BUF, 1) == -e.EBADF
    for fd in (place, neither, 63, -1, 1 << 20):
        assert w.call(sys_read, fd, BUF, 1) == -e.EBADF
        assert w.call(sys_write, fd, BUF, 1) == -e.EBADF
    assert w.call(sys_lseek, place, 0, 0) == -e.EBADF


def test_bad_addresses(w: World) -> None:
    fd = make(w, b"/a", b"data")
    assert w.call(sys_pread64, fd, -4096, 4, 0) == -e.EFAULT
    assert w.call(sys_pread64, fd, 0x7FFFFFFFF000, 4, 0) == -e.EFAULT
    assert w.call(sys_pread64, fd, BUF, -1, 0) == -e.EFAULT
    assert w.call(sys_pread64, fd, BUF, 4, -1) == -e.EINVAL
    assert w.call(sys_pwrite64, fd, BUF, 4, 0x7FFFFFFFFFFFFFFF) == -e.EINVAL


def test_directories_are_not_read(w: World) -> None:
    fd = w.call(sys_open, b"/", f.O_DIRECTORY)
    assert w.call(sys_read, fd, BUF, 1) == -e.EISDIR
    assert w.call(sys_write, fd, BUF, 1) == -e.EBADF


def test_append_wins_over_the_offset(w: World) -> None:
    make(w, b"/a", b"123")
    fd = w.call(sys_open, b"/a", f.O_WRONLY | f.O_APPEND)
    assert w.call(sys_pwrite64, fd, b"4", 1, 0) == 1
    assert w.call(sys_write, fd, b"5", 1) == 1
    again = w.call(sys_open, b"/a", f.O_RDONLY)
    assert w.call(sys_read, again, BUF, 9) == 5
    assert w.peek(BUF, 5) == b"12345"


def test_vectors(w: World) -> None:
    fd = make(w, b"/a")
    w.poke(BUF, pack("<QQQQ", BUF + 0x100, 3, BUF + 0x200, 4))
    w.poke(BUF + 0x100, b"abc")
    w.poke(BUF + 0x200, b"defg")
    assert w.call(sys_writev, fd, BUF, 2) == 7
    assert w.call(sys_lseek, fd, 0, 0) == 0
    w.poke(BUF, pack("<QQQQ", BUF + 0x300, 5, BUF + 0x400, 100))
    assert w.call(sys_readv, fd, BUF, 2) == 7
    assert w.peek(BUF + 0x300, 5) + w.peek(BUF + 0x400, 2) == b"abcdefg"
    assert w.call(sys_readv, fd, BUF, -1) == -e.EINVAL
    assert w.call(sys_readv, fd, BUF, 0) == 0
    assert w.call(sys_preadv2, fd, BUF, 2, 0, 0, 0x8000) == -e.EOPNOTSUPP
    assert w.call(sys_preadv2, fd, BUF, 2, 1, 0, 0) == 6


def test_file_size_limit(w: World) -> None:
    fd = make(w, b"/a")
    w.task.file_size_limit = 4
    assert w.call(sys_write, fd, b"123456", 6) == 4
    assert w.call(sys_write, fd, b"5", 1) == -e.EFBIG
    assert w.call(sys_ftruncate, fd, 5) == -e.EFBIG
    assert w.signals == [(w.task.tid, 25)] * 2


# -- pipes: waiting --------------------------------------------------------------------------------------
def test_a_read_waits_for_a_write(w: World) -> None:
    other = w.new_task()
    reader, writer = pipe(w)
    assert w.call(sys_read, reader, BUF, 10) == BLOCKED
    other.files = w.task.files
    assert w.call(sys_write, writer, b"ping", 4, task=other) == 4
    assert w.is_woken(w.task)
    assert w.resume(w.task) == 4
    assert w.peek(BUF, 4) == b"ping"
    assert w.task.blocked is None


def test_a_waiting_read_holds_the_file(w: World) -> None:
    reader, writer = pipe(w)
    file = w.task.files.get(reader)
    assert w.call(sys_read, reader, BUF, 10) == BLOCKED
    assert file.refs == 2
    assert w.interrupt(w.task) == -512
    assert file.refs == 1


def test_a_write_goes_on_until_all_is_written(w: World) -> None:
    other = w.new_task()
    reader, writer = pipe(w)
    other.files = w.task.files
    w.poke(0x80000, b"z" * 100_000)
    assert w.call(sys_write, writer, 0x80000, 100_000) == BLOCKED
    assert w.call(sys_read, reader, BUF, 65536, task=other) == 65536
    assert w.is_woken(w.task)
    assert w.resume(w.task) == 100_000
    assert w.call(sys_write, writer, 0x80000, 100_000) == BLOCKED
    # 9 pages are in use; the odd 1696 bytes fit into the last, then 7 whole pages follow.
    assert w.interrupt(w.task) == 1696 + 7 * 4096


def test_nonblocking_pipes(w: World) -> None:
    reader, writer = pipe(w, f.O_NONBLOCK)
    assert w.call(sys_read, reader, BUF, 1) == -e.EAGAIN
    assert w.call(sys_read, reader, BUF, 0) == 0
    w.poke(0x80000, b"z" * 100_000)
    assert w.call(sys_write, writer, 0x80000, 100_000) == 65536
    assert w.call(sys_write, writer, 0x80000, 1) == -e.EAGAIN
    assert w.call(sys_pread64, reader, BUF, 1, 0) == -e.ESPIPE
    assert w.call(sys_lseek, reader, 0, 0) == -e.ESPIPE


def test_a_broken_pipe_signals(w: World) -> None:
    reader, writer = pipe(w)
    assert w.call(sys_close, reader) == 0
    assert w.call(sys_write, writer, b"x", 1) == -e.EPIPE
    assert w.signals == [(w.task.tid, 13)]


def test_opening_a_fifo_waits_for_the_other_end(w: World) -> None:
    other = w.new_task()
    assert w.call(sys_mknod, b"/fifo", 0o010666, 0) == 0
    assert w.call(sys_open, b"/fifo", f.O_WRONLY | f.O_NONBLOCK) == -e.ENXIO
    assert w.call(sys_open, b"/fifo", f.O_RDONLY) == BLOCKED
    writer = w.call(sys_open, b"/fifo", f.O_WRONLY, task=other)
    assert writer >= 0
    assert w.is_woken(w.task)
    reader = w.resume(w.task)
    assert reader >= 0
    assert w.call(sys_write, writer, b"hi", 2, task=other) == 2
    assert w.call(sys_read, reader, BUF, 10) == 2


def test_an_interrupted_open_of_a_fifo_leaves_nothing(w: World) -> None:
    assert w.call(sys_mknod, b"/fifo", 0o010666, 0) == 0
    assert w.call(sys_open, b"/fifo", f.O_RDONLY) == BLOCKED
    assert w.interrupt(w.task) == -512
    assert w.call(sys_open, b"/fifo", f.O_WRONLY | f.O_NONBLOCK) == -e.ENXIO
    assert w.task.files.descriptors() == []


# -- transfers -------------------------------------------------------------------------------------------
def test_sendfile(w: World) -> None:
    source = make(w, b"/a", b"0123456789")
    sink = make(w, b"/b")
    w.poke(BUF, pack("<q", 2))
    assert w.call(sys_sendfile, sink, source, BUF, 5) == 5
    assert unpack("<q", w.peek(BUF, 8))[0] == 7
    assert w.call(sys_lseek, source, 0, 1) == 10
    assert w.call(sys_pread64, sink, BUF, 10, 0) == 5
    assert w.peek(BUF, 5) == b"23456"
    assert w.call(sys_sendfile, source, sink, 0, 0) == 0
    assert w.call(sys_sendfile, sink, 50, 0, 1) == -e.EBADF


def test_copy_file_range(w: World) -> None:
    source = make(w, b"/a", b"0123456789")
    sink = make(w, b"/b", b"xx")
    w.poke(BUF, pack("<qq", 4, 1))
    assert w.call(sys_copy_file_range, source, BUF, sink, BUF + 8, 100, 0) == 6
    assert unpack("<qq", w.peek(BUF, 16)) == (10, 7)
    assert w.call(sys_pread64, sink, BUF, 10, 0) == 7
    assert w.peek(BUF, 7) == b"x456789"
    assert w.call(sys_copy_file_range, source, 0, sink, 0, 1, 1) == -e.EINVAL


def test_splice_takes_only_what_is_accepted(w: World) -> None:
    reader, writer = pipe(w)
    second_reader, second_writer = pipe(w, f.O_NONBLOCK)
    source = make(w, b"/a", b"q" * 200_000)
    w.poke(BUF, pack("<q", 0))
    assert w.call(sys_splice, source, BUF, writer, 0, 200_000, 2) == 65536
    assert unpack("<q", w.peek(BUF, 8))[0] == 65536
    w.poke(0x80000, b"z" * 61440)
    assert w.call(sys_write, second_writer, 0x80000, 61440) == 61440
    assert w.call(sys_splice, reader, 0, second_writer, 0, 65536, 0) == 4096
    sink = make(w, b"/b")
    assert w.call(sys_splice, reader, 0, sink, 0, 100_000, 0) == 61440
    assert w.call(sys_splice, reader, 0, sink, 0, 1, 2) == -e.EAGAIN
    assert w.call(sys_splice, source, 0, sink, 0, 1, 0) == -e.EINVAL
    assert w.call(sys_splice, reader, BUF, sink, 0, 1, 0) == -e.ESPIPE


def test_tee_leaves_the_data(w: World) -> None:
    reader, writer = pipe(w)
    second_reader, second_writer = pipe(w)
    assert w.call(sys_write, writer, b"tea", 3) == 3
    assert w.call(sys_tee, reader, second_writer, 100, 0) == 3
    assert w.call(sys_read, second_reader, BUF, 10) == 3
    assert w.call(sys_read, reader, BUF, 10) == 3
    assert w.call(sys_tee, reader, second_writer, 100, 0) == BLOCKED
    assert w.interrupt(w.task) == -512


# -- descriptors -----------------------------------------------------------------------------------------
def test_dup_family(w: World) -> None:
    fd = make(w, b"/a", b"abc")
    copy = w.call(sys_dup, fd)
    assert w.call(sys_lseek, copy, 1, 0) == 1
    assert w.call(sys_lseek, fd, 0, 1) == 1
    assert w.call(sys_dup2, fd, 20) == 20
    assert w.call(sys_dup2, fd, fd) == fd
    assert w.call(sys_dup2, 40, 40) == -e.EBADF
    assert w.call(sys_dup2, fd, 64) == -e.EBADF
    assert w.call(sys_dup3, fd, fd, 0) == -e.EINVAL
    assert w.call(sys_dup3, fd, 21, f.O_CLOEXEC) == 21
    assert w.call(sys_fcntl, 21, f.F_GETFD, 0) == 1
    assert w.call(sys_fcntl, fd, f.F_DUPFD, 64) == -e.EINVAL
    assert w.call(sys_fcntl, fd, f.F_DUPFD_CLOEXEC, 10) == 10


def test_too_many_files_comes_first(w: World) -> None:
    fd = make(w, b"/a")
    while w.call(sys_dup, fd) >= 0:
        pass
    assert len(w.task.files.descriptors()) == 64
    assert w.call(sys_open, b"/new", RW, 0o600) == -e.EMFILE
    assert w.call(sys_access, b"/new", 0) == -e.ENOENT
    assert w.call(sys_close_range, 3, 0xFFFFFFFF, 0) == 0
    assert w.task.files.descriptors() == [0, 1, 2]


def test_close_range(w: World) -> None:
    for _ in range(5):
        make(w, b"/a")
    assert w.call(sys_close_range, 1, 2, f.CLOSE_RANGE_CLOEXEC) == 0
    assert w.task.files.marked() == [1, 2]
    assert w.call(sys_close_range, 2, 1, 0) == -e.EINVAL
    assert w.call(sys_close_range, 1, 2, 8) == -e.EINVAL


def test_status_flags(w: World) -> None:
    fd = make(w, b"/a")
    assert w.call(sys_fcntl, fd, f.F_GETFL, 0) == f.O_RDWR | f.O_LARGEFILE
    assert w.call(sys_fcntl, fd, f.F_SETFL, f.O_APPEND | f.O_NONBLOCK | f.O_CREAT) == 0
    assert w.call(sys_fcntl, fd, f.F_GETFL, 0) == f.O_RDWR | f.O_LARGEFILE | f.O_APPEND | f.O_NONBLOCK
    place = w.call(sys_open, b"/a", f.O_PATH)
    assert w.call(sys_fcntl, place, f.F_SETFL, 0) == -e.EBADF
    assert w.call(sys_fcntl, fd, 9999, 0) == -e.EINVAL


def test_openat2_checks_its_struct(w: World) -> None:
    make(w, b"/a")
    w.poke(BUF, pack("<QQQ", f.O_RDONLY, 0, 0))
    assert w.call(sys_openat2, f.AT_FDCWD, b"/a", BUF, 23) == -e.EINVAL
    assert w.call(sys_openat2, f.AT_FDCWD, b"/a", BUF, 24) >= 0
    w.poke(BUF, pack("<QQQQ", f.O_RDONLY, 0, 0, 1))
    assert w.call(sys_openat2, f.AT_FDCWD, b"/a", BUF, 32) == -e.E2BIG
    w.poke(BUF, pack("<QQQ", f.O_RDONLY, 0o644, 0))
    assert w.call(sys_openat2, f.AT_FDCWD, b"/a", BUF, 24) == -e.EINVAL


def test_openat_relative(w: World) -> None:
    assert w.call(sys_mkdir, b"/d", 0o755) == 0
    directory = w.call(sys_open, b"/d", f.O_DIRECTORY)
    fd = w.call(sys_openat, directory, b"x", RW, 0o600)
    assert fd >= 0
    assert w.call(sys_access, b"/d/x", 0) == 0
    assert w.call(sys_openat, fd, b"y", f.O_RDONLY) == -e.ENOTDIR
    assert w.call(sys_openat, 50, b"y", f.O_RDONLY) == -e.EBADF
    assert w.call(sys_openat, 50, b"/d/x", f.O_RDONLY) >= 0


def test_memfd(w: World) -> None:
    fd = w.call(sys_memfd_create, b"box", 2)
    assert w.call(sys_write, fd, b"data", 4) == 4
    assert w.call(sys_fcntl, fd, f.F_GET_SEALS, 0) == 0
    assert w.call(sys_fcntl, fd, f.F_ADD_SEALS, f.F_SEAL_WRITE | f.F_SEAL_SEAL) == 0
    assert w.call(sys_write, fd, b"x", 1) == -e.EPERM
    assert w.call(sys_fcntl, fd, f.F_ADD_SEALS, f.F_SEAL_GROW) == -e.EPERM
    assert w.call(sys_memfd_create, b"x", 0x1000) == -e.EINVAL
    assert w.call(sys_memfd_create, b"n" * 250, 0) == -e.EINVAL


# -- names and attributes --------------------------------------------------------------------------------
def test_names(w: World) -> None:
    make(w, b"/a", b"abc")
    assert w.call(sys_link, b"/a", b"/b") == 0
    assert w.call(sys_symlink, b"a", b"/s") == 0
    assert w.call(sys_readlink, b"/s", BUF, 100) == 1
    assert w.call(sys_readlink, b"/a", BUF, 100) == -e.EINVAL
    assert w.call(sys_readlink, b"/s", BUF, 0) == -e.EINVAL
    assert w.call(sys_stat, b"/s", BUF) == 0
    st = unpack("<QQQIII", w.peek(BUF, 36))
    assert st[2] == 2 and st[3] == 0o100644
    assert w.call(sys_rename, b"/b", b"/c") == 0
    assert w.call(sys_unlink, b"/a") == 0
    assert w.call(sys_stat, b"/s", BUF) == -e.ENOENT
    assert w.call(sys_mkdir, b"/d", 0o777) == 0
    assert w.call(sys_rmdir, b"/c") == -e.ENOTDIR
    assert w.call(sys_chdir, b"/d") == 0
    assert w.call(sys_getcwd, BUF, 100) == 3
    assert w.peek(BUF, 3) == b"/d\0"
    assert w.call(sys_getcwd, BUF, 2) == -e.ERANGE


def test_stat_of_descriptors(w: World) -> None:
    fd = make(w, b"/a", b"abc")
    reader, writer = pipe(w)
    assert w.call(sys_fstat, fd, BUF) == 0
    assert unpack("<q", w.peek(BUF + 48, 8))[0] == 3
    assert w.call(sys_newfstatat, reader, b"", BUF, f.AT_EMPTY_PATH) == 0
    assert unpack("<I", w.peek(BUF + 24, 4))[0] == 0o010600
    assert w.call(sys_newfstatat, fd, b"", BUF, 0) == -e.ENOENT
    assert w.call(sys_newfstatat, f.AT_FDCWD, b"/a", BUF, 0x8000_0000) == -e.EINVAL
    assert w.call(sys_statx, fd, b"", f.AT_EMPTY_PATH, 0xFFF, BUF) == 0
    assert unpack("<I", w.peek(BUF, 4))[0] & 0xFFF == 0xFFF
    assert w.call(sys_statfs, b"/", BUF) == 0
    assert unpack("<q", w.peek(BUF, 8))[0] == 0x1021994


def test_linkat_of_a_nameless_file(w: World) -> None:
    fd = w.call(sys_open, b"/", f.O_TMPFILE | f.O_RDWR, 0o600)
    assert fd >= 0
    assert w.call(sys_linkat, fd, b"", f.AT_FDCWD, b"/named", f.AT_EMPTY_PATH) == 0
    assert w.call(sys_access, b"/named", 0) == 0


def test_getdents(w: World) -> None:
    for name in (b"/one", b"/two"):
        make(w, name)
    fd = w.call(sys_open, b"/", f.O_DIRECTORY)
    assert w.call(sys_getdents64, fd, BUF, 10) == -e.EINVAL
    names = []
    while True:
        count = w.call(sys_getdents64, fd, BUF, 32)
        if count == 0:
            break
        assert count > 0
        raw = w.peek(BUF, count)
        at = 0
        while at < count:
            reclen = unpack("<H", raw[at + 16 : at + 18])[0]
            names.append(raw[at + 19 : at + reclen].rstrip(b"\0"))
            at += reclen
    assert sorted(names) == [b".", b"..", b"one", b"two"]
    assert w.call(sys_getdents64, make(w, b"/f"), BUF, 100) == -e.ENOTDIR


def test_permissions(w: World) -> None:
    user = w.new_task(1000)
    make(w, b"/secret", b"x")
    assert w.call(sys_chmod, b"/secret", 0o600) == 0
    assert w.call(sys_open, b"/secret", f.O_RDONLY, task=user) == -e.EACCES
    assert w.call(sys_chmod, b"/secret", 0o666, task=user) == -e.EPERM
    assert w.call(sys_access, b"/secret", 4, task=user) == -e.EACCES
    assert w.call(sys_access, b"/secret", 8, task=user) == -e.EINVAL


def test_times(w: World) -> None:
    make(w, b"/a")
    w.poke(BUF, pack("<qqqq", 5, 6, 0, 0x3FFFFFFE))
    assert w.call(sys_utimensat, f.AT_FDCWD, b"/a", BUF, 0) == 0
    assert w.call(sys_stat, b"/a", BUF) == 0
    assert unpack("<qq", w.peek(BUF + 72, 16)) == (5, 6)
    w.poke(BUF, pack("<qqqq", 5, 1_000_000_000, 0, 0))
    assert w.call(sys_utimensat, f.AT_FDCWD, b"/a", BUF, 0) == -e.EINVAL
    w.poke(BUF, pack("<qqqq", 0, 0x3FFFFFFE, 0, 0x3FFFFFFE))
    assert w.call(sys_utimensat, f.AT_FDCWD, b"/none", BUF, 0) == 0
    assert w.call(sys_utimensat, f.AT_FDCWD, 0, 0, 0) == -e.EFAULT


def test_sizes(w: World) -> None:
    fd = make(w, b"/a", b"abcdef")
    assert w.call(sys_truncate, b"/a", 3) == 0
    assert w.call(sys_ftruncate, fd, -1) == -e.EINVAL
    assert w.call(sys_ftruncate, w.call(sys_open, b"/a", f.O_RDONLY), 1) == -e.EINVAL
    assert w.call(sys_fallocate, fd, 0, 0, 100) == 0
    assert w.call(sys_fallocate, fd, 2, 0, 100) == -e.EOPNOTSUPP
    assert w.call(sys_fallocate, fd, 0, -1, 100) == -e.EINVAL
    assert w.call(sys_lseek, fd, 0, 2) == 100
    assert w.call(sys_fsync, fd) == 0
    reader, writer = pipe(w)
    assert w.call(sys_fsync, reader) == -e.EINVAL


def test_extended_attributes(w: World) -> None:
    make(w, b"/a")
    assert w.call(sys_setxattr, b"/a", b"user.k", b"value", 5, 0) == 0
    assert w.call(sys_setxattr, b"/a", b"user.k", b"value", 5, 1) == -e.EEXIST
    assert w.call(sys_getxattr, b"/a", b"user.k", BUF, 0) == 5
    assert w.call(sys_getxattr, b"/a", b"user.k", BUF, 4) == -e.ERANGE
    assert w.call(sys_getxattr, b"/a", b"user.k", BUF, 100) == 5
    assert w.peek(BUF, 5) == b"value"
    assert w.call(sys_listxattr, b"/a", BUF, 100) == 7
    assert w.peek(BUF, 7) == b"user.k\0"
    assert w.call(sys_removexattr, b"/a", b"user.k") == 0
    assert w.call(sys_removexattr, b"/a", b"user.k") == -e.ENODATA
    assert w.call(sys_setxattr, b"/a", b"", b"v", 1, 0) == -e.ERANGE
    assert w.call(sys_setxattr, b"/a", b"user.x", b"v", 65537, 0) == -e.E2BIG


# -- locks -----------------------------------------------------------------------------------------------
def lock(w: World, task: Task, fd: int, command: int, kind: int, start: int = 0, length: int = 0) -> int:
    w.poke(BUF, pack("<hhxxxxqqixxxx", kind, 0, start, length, 0), task)
    return w.call(sys_fcntl, fd, command, BUF, task=task)


def test_record_locks_conflict_and_split(w: World) -> None:
    other = w.new_task()
    fd = make(w, b"/a")
    assert w.call(sys_chmod, b"/a", 0o666) == 0
    theirs = w.call(sys_open, b"/a", f.O_RDWR, task=other)
    assert lock(w, w.task, fd, f.F_SETLK, f.F_WRLCK, 0, 100) == 0
    assert lock(w, w.task, fd, f.F_SETLK, f.F_UNLCK, 40, 20) == 0
    assert lock(w, other, theirs, f.F_SETLK, f.F_WRLCK, 40, 20) == 0
    assert lock(w, other, theirs, f.F_SETLK, f.F_RDLCK, 39, 1) == -e.EAGAIN
    assert lock(w, other, theirs, f.F_GETLK, f.F_WRLCK, 50, 0) == 0
    assert unpack("<hhxxxxqqi", w.peek(BUF, 28, other)) == (1, 0, 60, 40, w.task.group.tgid)
    # Any close of the file by the process drops all its locks on it.
    copy = w.call(sys_dup, fd)
    assert w.call(sys_close, copy) == 0
    assert lock(w, other, theirs, f.F_SETLK, f.F_WRLCK, 0, 0) == 0
    assert w.call(sys_close, theirs, task=other) == 0
    assert w.task.files.get(fd).inode.locks is None


def test_waiting_for_a_record_lock(w: World) -> None:
    other = w.new_task(0, 0)
    fd = make(w, b"/a")
    theirs = w.call(sys_open, b"/a", f.O_RDWR, task=other)
    assert lock(w, w.task, fd, f.F_SETLK, f.F_WRLCK, 0, 10) == 0
    assert lock(w, other, theirs, f.F_SETLK, f.F_WRLCK, 20, 10) == 0
    assert lock(w, other, theirs, f.F_SETLKW, f.F_WRLCK, 0, 10) == BLOCKED
    assert lock(w, w.task, fd, f.F_SETLKW, f.F_RDLCK, 20, 10) == -e.EDEADLK
    assert lock(w, w.task, fd, f.F_SETLK, f.F_UNLCK, 0, 10) == 0
    assert w.is_woken(other)
    assert w.resume(other) == 0
    assert lock(w, w.task, fd, f.F_SETLK, f.F_RDLCK, 0, 10) == -e.EAGAIN
    other.files.close_all(other)
    assert lock(w, w.task, fd, f.F_SETLK, f.F_RDLCK, 0, 10) == 0


def test_ofd_locks_belong_to_the_open_file(w: World) -> None:
    first = make(w, b"/a")
    second = w.call(sys_open, b"/a", f.O_RDWR)
    assert lock(w, w.task, first, f.F_OFD_SETLK, f.F_WRLCK) == 0
    assert lock(w, w.task, second, f.F_OFD_SETLK, f.F_WRLCK) == -e.EAGAIN
    copy = w.call(sys_dup, first)
    assert w.call(sys_close, first) == 0
    assert lock(w, w.task, second, f.F_OFD_SETLK, f.F_WRLCK) == -e.EAGAIN
    assert w.call(sys_close, copy) == 0
    assert lock(w, w.task, second, f.F_OFD_SETLK, f.F_WRLCK) == 0


def test_flock(w: World) -> None:
    first = make(w, b"/a")
    second = w.call(sys_open, b"/a", f.O_RDONLY)
    other = w.new_task()
    other.files = w.task.files
    assert w.call(sys_flock, first, f.LOCK_SH) == 0
    assert w.call(sys_flock, second, f.LOCK_SH) == 0
    assert w.call(sys_flock, first, f.LOCK_EX | f.LOCK_NB) == -e.EAGAIN
    assert w.call(sys_flock, second, f.LOCK_EX) == 0  # the failed conversion lost the shared lock
    assert w.call(sys_flock, first, f.LOCK_EX, task=other) == BLOCKED
    assert w.call(sys_close, second) == 0
    assert w.is_woken(other)
    assert w.resume(other) == 0
    assert w.call(sys_flock, first, 0) == -e.EINVAL
