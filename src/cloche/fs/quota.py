"""Limits and accounts for the contents of in-memory files, and the freeing of large ones in steps."""

import os
import resource
from collections import deque
from itertools import islice
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import ENOSPC, LinuxError
from cloche.abi.fs import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from cloche.kernel.chores import Chore
from cloche.mm.handle import HostHandle
from cloche.mm.quota import INODE_BYTES, KERNEL_MEMORY
from cloche.platform import hostsys

PAGE: Final = 4096
FREE_STEP: Final = 1024 * 1024  # bytes that the host frees, or allocates, in about a millisecond
_FREE_ENOUGH: Final = 4096  # pages
_DEMOTE_TRIES: Final = 64


def page_count(length: int) -> int:
    """Pages that hold `length` bytes."""
    return (length + PAGE - 1) // PAGE


class Doomed:
    """A memfd that no file uses any more, whose pages are being freed."""

    def __init__(self, host: HostHandle, account: "Account", pages: int) -> None:
        self.host: HostHandle = host
        self.account: Account = account
        self.pages: int = pages
        self.at: int = 0  # everything below is freed

    def step(self) -> bool:
        """Free what takes about a millisecond; False when all is freed."""
        try:
            at = os.lseek(self.host.fd, self.at, os.SEEK_DATA) // PAGE * PAGE
            hostsys.fallocate(self.host.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, FREE_STEP)
        except OSError:  # ENXIO: that was all
            os.ftruncate(self.host.fd, 0)  # for guests that have it mapped beside their slots (windows)
            self.host.close()
            self.account.charge_pages(-self.pages)
            return False
        self.at = at + FREE_STEP
        count = min(self.pages, FREE_STEP // PAGE)
        self.pages -= count
        self.account.charge_pages(-count)
        return True


class StorageReaper(Chore):
    """Frees large memfds in steps: closing one of 512 MiB takes the host half a second (I8)."""

    def __init__(self) -> None:
        self.doomed: deque[Doomed] = deque()
        self.chores: deque[Chore] | None = None  # the kernel's chores, which call `step`; set by boot

    def add(self, doomed: Doomed) -> None:
        self.doomed.append(doomed)
        if self.chores is not None and len(self.doomed) == 1:
            self.chores.append(self)

    def step(self) -> bool:
        doomed = self.doomed
        if doomed and not doomed[0].step():
            doomed.popleft()
        return len(doomed) > 0


@trait
class FileMaker:
    """Makes files for contents of kept layers (`fs.kept`): numbered files, in place of memfds."""

    def make_file(self) -> tuple[int, int]:
        """The number of a new, empty file, and a descriptor of it.  Raises LinuxError."""
        raise NotImplementedError

    def open_file(self, number: int) -> int:
        """Open the file again; returns a descriptor. Raises LinuxError."""
        raise NotImplementedError

    def give_up(self, number: int) -> None:
        """Remove a file that is not needed any more."""
        raise NotImplementedError

    def prove(self) -> None:
        """To be called before a change on the spot: check that the storage answers, unless it has done so just now.

        Raises HostWait, so nothing may be changed before it.
        """
        raise NotImplementedError

    def changed_since(self, start_ns: int) -> None:
        """A change that began at `start_ns` has just been made on the spot."""
        raise NotImplementedError

    def storage_away(self, *, is_away: bool) -> None:
        """A call on the spot takes long (`is_away`), or is over (kernel.lanes)."""
        raise NotImplementedError

    def bring(self, number: int, fd: int, offset: int, length: int) -> bool:
        """Have a part of a file brought into the host's memory; False if the running call cannot wait. Raises
        HostWait.
        """
        raise NotImplementedError


class LastingFile(HostHandle):
    """The handle of an open numbered file, in place of a memfd."""

    def __init__(self, maker: FileMaker, number: int) -> None:
        super().__init__()
        self.maker: FileMaker = maker
        self.number: int = number

    def reopen(self) -> None:
        self.fd = self.maker.open_file(self.number)


class Backed:
    """File contents with a memfd, or a numbered file in its place: `fs.storage.Storage`."""

    def __init__(self) -> None:
        self.is_mapped: bool = False  # guests may allocate pages without a system call

    def measure(self) -> None:
        """Update the charge to the pages of the memfd."""
        raise NotImplementedError

    def demote(self) -> bool:
        """Close the descriptor, if the contents can do without it; returns whether it was closed."""
        raise NotImplementedError


class StorageQuota:
    """The limit of all in-memory files of a sandbox together; -1: no limit, and half of the descriptors for memfds."""

    def __init__(self, byte_limit: int = -1, inode_limit: int = -1, memfd_limit: int = -1) -> None:
        self.page_limit: int = byte_limit // PAGE if byte_limit >= 0 else -1
        self.inode_limit: int = inode_limit
        if memfd_limit < 0:
            memfd_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self.memfd_limit: int = memfd_limit
        self.pages: int = 0
        self.inodes: int = 0
        self.reaper: StorageReaper = StorageReaper()
        self.backed: dict[Backed, None] = {}  # those that have a memfd, roughly the oldest first

    def make_room(self) -> bool:
        """Whether one more memfd may be made; an unused one is given up if necessary."""
        backed = self.backed
        if len(backed) < self.memfd_limit:
            return True
        for storage in list(islice(backed, _DEMOTE_TRIES)):
            if storage.demote():
                return True
            del backed[storage]
            backed[storage] = None
        return False


class Account:
    """The part of a quota that one file system uses, with limits of its own."""

    def __init__(self, quota: StorageQuota, page_limit: int = -1, inode_limit: int = -1) -> None:
        self.quota: StorageQuota = quota
        self.page_limit: int = page_limit
        self.inode_limit: int = inode_limit
        self.pages: int = 0
        self.inodes: int = 0
        self.maker: FileMaker | None = None

    def is_limited(self) -> bool:
        return self.page_limit >= 0 or self.quota.page_limit >= 0

    def free_pages(self) -> int:
        """Pages that may still be charged."""
        if self.quota.reaper.doomed and self.is_limited():
            while self._free() < _FREE_ENOUGH and self.quota.reaper.step():
                pass  # pages that wait to be freed must not be missing
        return self._free()

    def _free(self) -> int:
        free = 1 << 50
        if self.page_limit >= 0:
            free = max(self.page_limit - self.pages, 0)
        if self.quota.page_limit >= 0:
            free = min(free, max(self.quota.page_limit - self.quota.pages, 0))
        return free

    def charge_pages(self, count: int) -> None:
        """Add (or give back) pages without asking; callers have checked free_pages()."""
        self.pages += count
        self.quota.pages += count

    def charge_inode(self) -> None:
        """Raises LinuxError(ENOSPC) when there is none left."""
        if 0 <= self.inode_limit <= self.inodes or 0 <= self.quota.inode_limit <= self.quota.inodes:
            raise LinuxError(ENOSPC)
        if not KERNEL_MEMORY.has_spare(INODE_BYTES):
            raise LinuxError(ENOSPC)
        KERNEL_MEMORY.take(INODE_BYTES)
        self.inodes += 1
        self.quota.inodes += 1

    def charge_name(self) -> bool:
        """A further name of a file counts as an inode where those are limited; whether it was charged.

        Raises LinuxError(ENOSPC).
        """
        if self.inode_limit < 0:
            return False
        if self.inode_limit <= self.inodes:
            raise LinuxError(ENOSPC)
        self.inodes += 1
        return True

    def uncharge_name(self) -> None:
        self.inodes -= 1

    def uncharge_inode(self) -> None:
        KERNEL_MEMORY.give(INODE_BYTES)
        self.inodes -= 1
        self.quota.inodes -= 1
