"""What the contents of in-memory files may cost, who has been charged, and the freeing of large ones bit by bit."""

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
FREE_STEP: Final = 1024 * 1024  # bytes that the host takes back, or allocates, in about a millisecond
_FREE_ENOUGH: Final = 4096  # pages
_DEMOTE_TRIES: Final = 64


def page_count(length: int) -> int:
    """Pages that hold `length` bytes."""
    return (length + PAGE - 1) // PAGE


class Doomed:
    """A memfd that is no file's any more, with pages that the host has yet to take back."""

    def __init__(self, host: HostHandle, account: "Account", pages: int) -> None:
        self.host: HostHandle = host
        self.account: Account = account
        self.pages: int = pages
        self.at: int = 0  # nothing is left below

    def step(self) -> bool:
        """Give back a millisecond's worth; False when it is gone."""
        try:
            at = os.lseek(self.host.fd, self.at, os.SEEK_DATA) // PAGE * PAGE
            hostsys.fallocate(self.host.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, FREE_STEP)
        except OSError:  # ENXIO: that was all
            os.ftruncate(self.host.fd, 0)  # for guests who have it beside their slots
            self.host.close()
            self.account.charge_pages(-self.pages)
            return False
        self.at = at + FREE_STEP
        count = min(self.pages, FREE_STEP // PAGE)
        self.pages -= count
        self.account.charge_pages(-count)
        return True


class StorageReaper(Chore):
    """Frees large memfds bit by bit: to close one of 512 MiB takes the host half a second (I8)."""

    def __init__(self) -> None:
        self.doomed: deque[Doomed] = deque()
        self.chores: deque[Chore] | None = None  # the kernel's, which call `step`; boot sets it

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
    """Where contents go that last (`fs.kept`): files with numbers, in place of memfds."""

    def make_file(self) -> tuple[int, int]:
        """The number of a new, empty file, and a descriptor of it.  Raises LinuxError."""
        raise NotImplementedError

    def open_file(self, number: int) -> int:
        """A descriptor of the file again.  Raises LinuxError."""
        raise NotImplementedError

    def give_up(self, number: int) -> None:
        """Nobody needs it any more."""
        raise NotImplementedError

    def prove(self) -> None:
        """Before something is changed on the spot: whether the storage answers, unless it has just now.

        Raises HostWait, so nothing must be changed yet.
        """
        raise NotImplementedError

    def changed_since(self, start_ns: int) -> None:
        """What was begun then was done on the spot, just now."""
        raise NotImplementedError

    def storage_away(self, *, is_away: bool) -> None:
        """What was begun on the spot takes long, or is over (kernel.lanes)."""
        raise NotImplementedError

    def bring(self, number: int, fd: int, offset: int, length: int) -> bool:
        """Have some of a file brought into the host's memory; False if nobody can wait for it.  Raises HostWait."""
        raise NotImplementedError


class LastingFile(HostHandle):
    """A file with a number, open: in place of a memfd."""

    def __init__(self, maker: FileMaker, number: int) -> None:
        super().__init__()
        self.maker: FileMaker = maker
        self.number: int = number

    def reopen(self) -> None:
        self.fd = self.maker.open_file(self.number)


class Backed:
    """What has a memfd, or a file in its place: the contents of a file, `fs.storage.Storage`."""

    def __init__(self) -> None:
        self.is_mapped: bool = False  # guests may allocate pages behind our back

    def measure(self) -> None:
        """Bring the charge in line with what the memfd holds."""
        raise NotImplementedError

    def demote(self) -> bool:
        """Do without the descriptor, if it can be; whether it is closed."""
        raise NotImplementedError


class StorageQuota:
    """What all in-memory files of a sandbox may use together; -1: no limit, half of the descriptors for
    memfds.
    """

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
        """Whether there may be one more memfd; one that nobody uses is given up for it."""
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
                pass  # what waits to be freed must not be missing
        return self._free()

    def _free(self) -> int:
        free = 1 << 50
        if self.page_limit >= 0:
            free = max(self.page_limit - self.pages, 0)
        if self.quota.page_limit >= 0:
            free = min(free, max(self.quota.page_limit - self.quota.pages, 0))
        return free

    def charge_pages(self, count: int) -> None:
        """Add (or give back) pages without asking; callers have compared with free_pages()."""
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
