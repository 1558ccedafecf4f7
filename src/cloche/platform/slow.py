"""Calls of the host on descriptors whose storage may take long, or hang.

If the sentry has lanes, another lane runs the event loop while such a call takes long (`kernel.lanes`); otherwise
they are plain calls. So the caller must expect that the kernel's state has changed afterwards. If the guest thread
for which the call is made (by its id; -1: for none) is gone by then, an exception is raised. Errors are returned as
-errno.
"""

import os
from struct import Struct
from typing import Final

from cloche.abi.errno import EINTR
from cloche.abi.poll import POLLIN
from cloche.arch.syscalls import (
    SYS_fallocate,
    SYS_fdatasync,
    SYS_fsync,
    SYS_ftruncate,
    SYS_poll,
    SYS_pread64,
    SYS_process_vm_readv,
    SYS_pwrite64,
    SYS_pwritev2,
    SYS_read,
    SYS_write,
)
from cloche.platform import _native
from cloche.platform.hostsys import address

NOBODY: Final = -1
_call_slowly: Final = _native.call_slowly  # bound once (systrap_thread.py)
_IOVEC: Final = Struct("<QQ")
_POLLFD: Final = Struct("<ihh")
_PAGE: Final = 4096
_PAGES: Final = 256  # touched at once


def read(thread: int, fd: int, length: int, offset: int) -> bytes:
    """pread(2), or with offset -1 read(2).  Raises OSError."""
    data = bytearray(length)
    call = SYS_read if offset < 0 else SYS_pread64
    while True:
        got = _call_slowly(thread, call, fd, address(data), length, offset, 0, 0)
        if got != -EINTR:
            break
    if got < 0:
        raise OSError(-got, os.strerror(-got))
    return bytes(memoryview(data)[:got])


def write(thread: int, fd: int, data: bytes, offset: int, flags: int = 0) -> int:
    """pwritev2(2): bytes or -errno.  Offset -1: where the descriptor stands."""
    if flags:
        place = _IOVEC.pack(address(data), len(data))
        call, at, size = SYS_pwritev2, address(place), 1
    else:
        place = data
        call, at, size = SYS_write if offset < 0 else SYS_pwrite64, address(data), len(data)
    while True:
        put = _call_slowly(thread, call, fd, at, size, offset, 0, flags)
        if put != -EINTR:
            break
    _is_used_until_here(data, place)
    return put


def sync(thread: int, fd: int, *, is_data_only: bool) -> int:
    """fsync(2) or fdatasync(2): 0 or -errno."""
    return _call_slowly(thread, SYS_fdatasync if is_data_only else SYS_fsync, fd, 0, 0, 0, 0, 0)


def truncate(thread: int, fd: int, size: int) -> int:
    """ftruncate(2): 0 or -errno."""
    return _call_slowly(thread, SYS_ftruncate, fd, size, 0, 0, 0, 0)


def allocate(thread: int, fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2): 0 or -errno."""
    return _call_slowly(thread, SYS_fallocate, fd, mode, offset, length, 0, 0)


def _is_used_until_here(*data: bytes) -> None:
    """Keeps `data` alive until here: mypyc drops an object after its last use, and the host has only its address."""


def wait_for(fd: int) -> None:
    """Wait until the descriptor can be read, or is at its end."""
    asked = _POLLFD.pack(fd, POLLIN, 0)
    _call_slowly(NOBODY, SYS_poll, address(asked), 1, -1, 0, 0, 0)
    _is_used_until_here(asked)


def touch(thread: int, pid: int, addr: int, length: int) -> None:
    """Have pages of a process's memory that map files in memory, as far as they can be read."""
    end = addr + length
    while addr < end:
        places: list[bytes] = []
        while addr < end and len(places) < _PAGES:
            places.append(_IOVEC.pack(addr, 1))
            addr = (addr | _PAGE - 1) + 1
        # more than one byte: objects of one byte are shared by the whole interpreter
        sink = bytes(len(places) + 1)
        ours, theirs = _IOVEC.pack(address(sink), len(places)), b"".join(places)
        got = _call_slowly(
            thread, SYS_process_vm_readv, pid, address(ours), 1, address(theirs), len(places), 0
        )
        _is_used_until_here(sink, ours, theirs)
        if got < len(places):
            return
