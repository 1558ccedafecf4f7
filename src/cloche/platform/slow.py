"""Calls of the host on descriptors whose storage may take long, or hang.

While one of them takes long others have their turn (`kernel.lanes`), if the sentry has lanes; elsewhere they are plain
calls.  So whoever makes one must bear that the world is another afterwards, and get an exception if the guest thread
for whom it is (by its id; -1: for nobody) is gone by then.  What their results mean is the caller's affair: -errno is
given as a value.
"""

from struct import Struct
from typing import Final

from cloche.abi.poll import POLLIN
from cloche.arch.syscalls import (
    SYS_fallocate,
    SYS_fdatasync,
    SYS_fsync,
    SYS_ftruncate,
    SYS_poll,
    SYS_process_vm_readv,
)
from cloche.platform import _native
from cloche.platform.hostsys import address

NOBODY: Final = -1
_IOVEC: Final = Struct("<QQ")
_POLLFD: Final = Struct("<ihh")
_PAGE: Final = 4096
_PAGES: Final = 256  # touched at once


def read(thread: int, fd: int, length: int, offset: int) -> bytes:
    """pread(2).  Raises OSError."""
    return _native.read_slowly(thread, fd, offset, length, 0)


def write(thread: int, fd: int, data: bytes, offset: int, flags: int = 0) -> int:
    """pwritev2(2): bytes or -errno."""
    return _native.write_slowly(thread, fd, offset, data, flags)


def sync(thread: int, fd: int, *, is_data_only: bool) -> int:
    """fsync(2) or fdatasync(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_fdatasync if is_data_only else SYS_fsync, fd, 0, 0, 0, 0, 0)


def truncate(thread: int, fd: int, size: int) -> int:
    """ftruncate(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_ftruncate, fd, size, 0, 0, 0, 0)


def allocate(thread: int, fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2): 0 or -errno."""
    return _native.call_slowly(thread, SYS_fallocate, fd, mode, offset, length, 0, 0)


def _is_used_until_here(data: bytes) -> None:
    """The compiler gives an object up after its last use, and what the host was told of is an address."""


def wait_for(fd: int) -> None:
    """Until there is something to read, or never will be."""
    asked = _POLLFD.pack(fd, POLLIN, 0)
    _native.call_slowly(NOBODY, SYS_poll, address(asked), 1, -1, 0, 0, 0)
    _is_used_until_here(asked)


def touch(thread: int, pid: int, addr: int, length: int) -> None:
    """Have the pages of a process's memory there that are in a file, as far as they can be read."""
    end = addr + length
    while addr < end:
        places: list[bytes] = []
        while addr < end and len(places) < _PAGES:
            places.append(_IOVEC.pack(addr, 1))
            addr = (addr | _PAGE - 1) + 1
        sink = bytes(len(places) + 1)  # not one byte: that would be everybody's
        ours, theirs = _IOVEC.pack(address(sink), len(places)), b"".join(places)
        got = _native.call_slowly(
            thread, SYS_process_vm_readv, pid, address(ours), 1, address(theirs), len(places), 0
        )
        _is_used_until_here(sink + ours + theirs)
        if got < len(places):
            return
