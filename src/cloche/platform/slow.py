"""Calls of the host on descriptors whose storage may take long, or hang.

While one of them takes long others have their turn (`kernel.lanes`), if the sentry has lanes; elsewhere they are plain
calls.  So whoever makes one must bear that the world is another afterwards, and get an exception if the guest thread
for whom it is (by its id; -1: for nobody) is gone by then.  What their results mean is the caller's affair: -errno is
given as a value.
"""

from typing import Final

from cloche.arch.syscalls import SYS_fallocate, SYS_fdatasync, SYS_fsync, SYS_ftruncate, SYS_lseek
from cloche.platform import _native

NOBODY: Final = -1


def read(thread: int, fd: int, length: int, offset: int) -> bytes:
    """pread(2).  Raises OSError."""
    return _native.read_slowly(thread, fd, offset, length, 0)


def write(thread: int, fd: int, data: bytes, offset: int) -> int:
    """pwrite(2): bytes or -errno."""
    return _native.write_slowly(thread, fd, offset, data, 0)


def sync(thread: int, fd: int, *, is_data_only: bool) -> int:
    """fsync(2) or fdatasync(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_fdatasync if is_data_only else SYS_fsync, fd, 0, 0, 0)


def truncate(thread: int, fd: int, size: int) -> int:
    """ftruncate(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_ftruncate, fd, size, 0, 0)


def allocate(thread: int, fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_fallocate, fd, mode, offset, length)


def seek(thread: int, fd: int, offset: int, whence: int) -> int:
    """lseek(2): the offset or -errno."""
    return _native.call_slowly(thread, SYS_lseek, fd, offset, whence, 0)
