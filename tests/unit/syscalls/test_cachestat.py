"""cachestat(2): the pages that are counted of files in memory, and the permissions."""

from struct import unpack

from cloche.abi import errno as e
from cloche.abi import fcntl as f
from cloche.abi.structs import CACHESTAT, CACHESTAT_RANGE
from cloche.fs.quota import PAGE, Account, StorageQuota
from cloche.fs.storage import CHUNK, Storage
from cloche.kernel.task import Task
from cloche.syscalls.sys_attr import sys_chmod
from cloche.syscalls.sys_cachestat import sys_cachestat
from cloche.syscalls.sys_fd import sys_memfd_create, sys_open
from cloche.syscalls.sys_pipe import sys_pipe2
from cloche.syscalls.sys_rw import sys_pwrite64
from tests.unit.syscalls.world import World

OUT = 0x40000
NOWHERE = 0xFFFF_FFFF_0000
ALL = CACHESTAT_RANGE.pack(0, 0)


def pages(w: World, fd: int, offset: int = 0, length: int = 0) -> int:
    assert w.call(sys_cachestat, fd, CACHESTAT_RANGE.pack(offset, length), OUT, 0) == 0
    cache, *others = CACHESTAT.unpack(w.peek(OUT, CACHESTAT.size))
    assert others == [0, 0, 0, 0]
    return int(cache)


def count(storage: Storage, start: int, end: int) -> tuple[int, int]:
    """Pages, and how many looks it took."""
    total = looks = 0
    while start < end:
        found, start = storage.cached(start, end)
        total += found
        looks += 1
    return total, looks


def test_ranges() -> None:
    w = World()
    fd = w.call(sys_open, b"/a", f.O_RDWR | f.O_CREAT, 0o644)
    assert pages(w, fd) == 0
    assert w.call(sys_pwrite64, fd, b"x" * 9000, 9000, 0) == 9000
    assert pages(w, fd) == 3
    assert pages(w, fd, PAGE - 1, 2) == 2
    assert pages(w, fd, 2 * PAGE, 1 << 62) == 1
    assert pages(w, fd, 3 * PAGE) == 0
    assert pages(w, fd, (1 << 64) - 1, (1 << 64) - 1) == 0
    ends = w.call(sys_pipe2, OUT, 0)
    assert ends == 0
    assert pages(w, unpack("<i", w.peek(OUT, 4))[0]) == 0


def test_order_of_errors() -> None:
    w = World()
    fd = w.call(sys_memfd_create, b"m", 0)
    assert w.call(sys_cachestat, -1, 0, OUT, 1) == -e.EBADF
    assert w.call(sys_cachestat, fd, NOWHERE, OUT, 1) == -e.EFAULT
    assert w.call(sys_cachestat, fd, ALL, OUT, 1) == -e.EINVAL
    assert w.call(sys_cachestat, fd, ALL, NOWHERE, 0) == -e.EFAULT


def test_only_who_may_write_may_ask() -> None:
    w = World()
    fd = w.call(sys_open, b"/a", f.O_RDWR | f.O_CREAT, 0o644)
    assert w.call(sys_cachestat, fd, ALL, OUT, 0) == 0
    stranger = w.new_task(1000)
    reader = w.call(sys_open, b"/a", f.O_RDONLY, task=stranger)

    def asks(fd: int, task: Task, flags: int = 0) -> int:
        return w.call(sys_cachestat, fd, ALL, OUT, flags, task=task)

    assert asks(reader, stranger) == -e.EPERM
    assert asks(reader, stranger, 1) == -e.EPERM
    assert w.call(sys_chmod, b"/a", 0o666) == 0
    assert asks(reader, stranger) == 0


def test_very_sparse_files_take_several_looks() -> None:
    storage = Storage(Account(StorageQuota()))
    for index in range(1000):
        assert storage.write(index * 3 * PAGE, b"x", index * 3 * PAGE) == 1
    assert storage.fd >= 0
    total, looks = count(storage, PAGE, 3000 * PAGE)
    assert total == 999 and looks > 5
    assert count(storage, 0, (1 << 63) - 1) == (1000, 1)
    storage.free()


def test_pieces_without_a_memfd() -> None:
    storage = Storage(Account(StorageQuota(memfd_limit=0)))
    size = 5 * CHUNK
    assert storage.write(0, b"x" * size, 0) == size
    far = 1 << 40
    assert storage.write(far, b"x", size) == 1
    assert storage.fd < 0
    assert count(storage, PAGE, far) == (size // PAGE - 1, 1)
    assert count(storage, CHUNK - PAGE, CHUNK + PAGE) == (2, 1)
    assert count(storage, far, far + PAGE) == (1, 1)
    storage.free()
