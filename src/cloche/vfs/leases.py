"""Leases: the holder of an open file is told before another process opens or truncates the file (fcntl(2), "Leases";
fs/locks.c).

Owns the leases of one inode; `vfs.locks` keeps them with its other locks. Nothing here blocks: a lease that has to be
given up first raises `LeaseBroken`; the system call layer waits, and makes the call again.
"""

import time
from typing import Final

from cloche.abi.errno import EAGAIN, LinuxError
from cloche.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK
from cloche.vfs.objects import FileDescription
from cloche.vfs.waitqueue import WaitQueue

_NS: Final = 1_000_000_000


class LeaseBroken(LinuxError):
    """An open or a truncation must wait until leases are given up, or until `deadline_ns` (-1: for ever)."""

    def __init__(self, queue: WaitQueue, deadline_ns: int) -> None:
        super().__init__(EAGAIN)
        self.queue: WaitQueue = queue
        self.deadline_ns: int = deadline_ns


class Lease:
    """F_RDLCK or F_WRLCK on an open file description.  Times are of CLOCK_MONOTONIC, 0: it does not end by itself."""

    def __init__(self, file: FileDescription, kind: int, pid: int) -> None:
        self.file: FileDescription = file
        self.kind: int = kind
        self.pid: int = pid
        self.is_ending: bool = False  # a writer waits for its end (FL_UNLOCK_PENDING)
        self.is_weakening: bool = False  # a reader waits until it becomes a read lease (FL_DOWNGRADE_PENDING)
        self.end_ns: int = 0
        self.weaken_ns: int = 0

    def target(self) -> int:
        """The type that it is to become, which F_GETLEASE shows (target_leasetype)."""
        if self.is_ending:
            return F_UNLCK
        return F_RDLCK if self.is_weakening else self.kind

    def tell(self) -> None:
        """Signal its holder that it is being broken (`syscalls.leases`)."""


class Leases:
    """The leases of an inode, in the order in which they were taken."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []

    def find(self, file: FileDescription) -> Lease | None:
        """The lease of an open file."""
        for lease in self.leases:
            if lease.file is file:
                return lease
        return None

    def can_take(self, file: FileDescription, kind: int) -> bool:
        """Whether no other open file or lease conflicts (check_conflicting_open, generic_add_lease)."""
        inode = file.inode
        if kind == F_RDLCK:
            if inode.write_count > 0:
                return False
        else:
            is_writer = file.is_writable()
            is_reader = file.is_readable() and not is_writer
            if inode.write_count != int(is_writer) or inode.read_count != int(is_reader):
                return False
        for lease in self.leases:
            if lease.file is not file and (kind == F_WRLCK or lease.is_ending):
                return False
        return True

    def change(self, lease: Lease, kind: int) -> None:
        """Change a lease's type, or end it (lease_modify). The caller wakes the waiters."""
        lease.kind = kind
        lease.is_weakening = False
        lease.weaken_ns = 0
        if kind == F_UNLCK:
            self.leases.remove(lease)
            file = lease.file
            file.owner_pid, file.owner_creds, file.owner_signal = 0, None, 0

    def expire(self) -> bool:
        """End or weaken leases that their holders have not given up in time. Returns whether there were any."""
        now = time.monotonic_ns()
        has_changed = False
        for lease in list(self.leases):
            if lease.end_ns and now >= lease.end_ns:
                self.change(lease, F_UNLCK)
                has_changed = True
            elif lease.weaken_ns and now >= lease.weaken_ns:
                self.change(lease, F_RDLCK)
                has_changed = True
        return has_changed

    def break_for(self, break_time_s: int, *, is_write: bool) -> int | None:
        """The file is being opened (`is_write`: for writing): signal the holders of leases in conflict (__break_lease).

        Returns None if there are none, otherwise the time until which to wait for them, -1: for ever.
        """
        at_ns = time.monotonic_ns() + break_time_s * _NS if break_time_s > 0 else 0
        until: int | None = None
        for lease in list(self.leases):
            if not is_write and lease.kind != F_WRLCK:
                continue
            if is_write and not lease.is_ending:
                lease.is_ending = True
                lease.end_ns = at_ns
                lease.tell()
            elif not is_write and not lease.is_ending and not lease.is_weakening:
                lease.is_weakening = True
                lease.weaken_ns = at_ns
                lease.tell()
            ends = [each for each in (lease.end_ns, lease.weaken_ns) if each]
            mine = min(ends) if ends else -1
            if until is None or until < 0 or 0 <= mine < until:
                until = mine
        return until
