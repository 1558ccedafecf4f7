"""Whether a process may be writing to a file without changing its times.

A page of a shared mapping that has been written once may be written again without a new ctime, until the host has
written it back. So a ctime identifies the contents only if no process had the file open for writing when it was read:
a later writer has to open it first, and its first write, or first fault, sets a new ctime. A read lease (fcntl(2)) is
granted only in that case; a writable mapping counts as an open file.
"""

import fcntl
import os
import time
from typing import Final

from cloche.abi.errno import EAGAIN
from cloche.abi.fcntl import F_RDLCK, F_SETLEASE, F_UNLCK

__all__ = ["CLOSED", "OPEN", "UNKNOWN", "has_fresh_time", "writers"]

CLOSED: Final = 0  # no process had it open for writing
OPEN: Final = 1
UNKNOWN: Final = 2  # only the file's owner can find out

_IS_ROOT: Final = os.geteuid() == 0  # asked before a filter is in force

# Local file systems whose writable mappings keep the file itself open and set its ctime: ext2 to 4, xfs, btrfs, f2fs,
# bcachefs.  Not overlayfs: a mapping there keeps only a file of a layer open.
_LEASE_MAGICS: Final = (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E)
_OVERLAYFS_MAGIC: Final = 0x794C7630
# The clock may have been wrong at boot, and set forward since.
_BOOT_MARGIN_NS: Final = 86_400_000_000_000
_TICK_NS: Final = 50_000_000  # more than any tick of the clock that gives files their times
# A time that is a multiple of this may come from a file system with coarse times
_COARSE_NS: Final = 1_000_000


def writers(fd: int, status: os.stat_result, magic: int, now_ns: int) -> int:
    """CLOSED, OPEN or UNKNOWN; `fd` is open for reading only, `magic` of statfs(2)."""
    if magic in _LEASE_MAGICS:
        try:
            fcntl.fcntl(fd, F_SETLEASE, F_RDLCK)
            fcntl.fcntl(fd, F_SETLEASE, F_UNLCK)
            return CLOSED
        except OSError as error:
            if error.errno == EAGAIN:
                return OPEN
    elif magic != _OVERLAYFS_MAGIC:
        return UNKNOWN
    # Only the owner may take a lease. Every mapping was made after the machine's start, and its first write has set a
    # ctime after that.
    started_ns = now_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    if _is_roots_own(status) and 0 <= status.st_ctime_ns < started_ns - _BOOT_MARGIN_NS:
        return CLOSED
    return UNKNOWN


def _is_roots_own(status: os.stat_result) -> bool:
    """Whether only root may write the file, and this process is not root's."""
    return status.st_uid == 0 and status.st_mode & 0o022 == 0 and not _IS_ROOT


def has_fresh_time(status: os.stat_result, now_ns: int) -> bool:
    """Whether any later change sets another ctime."""
    return status.st_ctime_ns + _TICK_NS <= now_ns and status.st_ctime_ns % _COARSE_NS != 0
