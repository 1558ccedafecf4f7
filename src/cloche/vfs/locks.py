"""Advisory file locks: POSIX record locks, open-file-description (OFD) locks, flock(2); leases (`vfs.leases`).

Owns `Inode.locks`.  Nothing here blocks: a conflict is returned, and the system call layer waits on
`FileLocks.queue` and tries again.  Owners are compared by identity: the descriptor table for POSIX locks (the
`current->files` of Linux), the open file description for OFD locks and flock.

Order that callers keep: `release_posix_locks` at every close of a descriptor and at the end of its table
(kernel.fd_table does it); an open file description drops its own locks with its last reference.
"""

from bisect import bisect_right
from collections.abc import Callable, Generator
from typing import Final

from cloche.abi.errno import EAGAIN, ENOLCK, LinuxError
from cloche.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH, LOCK_UN
from cloche.abi.stat import major, minor
from cloche.vfs.leases import Lease, LeaseBroken, Leases
from cloche.vfs.objects import FileDescription, Holder, Inode, InodeLocks
from cloche.vfs.waitqueue import WaitQueue

_LEASE_NAMES: Final[dict[int, str]] = {F_RDLCK: "READ ", F_WRLCK: "WRITE", F_UNLCK: "UNLCK"}
OFFSET_MAX: Final = 0x7FFFFFFFFFFFFFFF
MAX_LOCKS: Final = 65536  # in a sandbox, because locks take the sentry's memory
MAX_LEASES: Final = 256  # on a file: one open signals all their holders
_MAX_DEADLOCK_STEPS: Final = 10  # MAX_DEADLK_ITERATIONS of fs/locks.c


class RecordLock:
    """A locked range [start, end] of bytes, or a request for one."""

    def __init__(self, owner: Holder, pid: int, kind: int, start: int, end: int, *, is_ofd: bool) -> None:
        self.owner: Holder = owner
        self.pid: int = pid  # what F_GETLK reports: a tgid, -1 for OFD locks
        self.kind: int = kind  # F_RDLCK or F_WRLCK (F_UNLCK in a request)
        self.start: int = start
        self.end: int = end  # inclusive; OFFSET_MAX: to the end of the file, however far
        self.is_ofd: bool = is_ofd


class FlockLock:
    """A flock(2) lock: LOCK_SH or LOCK_EX, held by an open file description."""

    def __init__(self, file: FileDescription, kind: int, pid: int) -> None:
        self.file: FileDescription = file
        self.kind: int = kind
        self.pid: int = pid


class LockTable:
    """Every inode that has locks (for /proc/locks), and the waiting owners (for EDEADLK). One per kernel."""

    def __init__(self) -> None:
        self.inodes: dict[FileLocks, None] = {}
        self.waiting: dict[Holder, list[LockWait]] = {}
        self.count: int = 0
        self.lease_break_s: int = 45  # /proc/sys/fs/lease-break-time; 0: a holder is waited for for ever
        self.has_leases: bool = True  # /proc/sys/fs/leases-enable: new leases may be taken


class LockWait:
    """An owner that waits for a POSIX lock."""

    def __init__(self, locks: "FileLocks", request: RecordLock) -> None:
        self.locks: FileLocks = locks
        self.request: RecordLock = request


_SHOWN: Final = 64  # locks that are looked at between two looks at the clock


class OwnerLocks:
    """The record locks of one owner: sorted, apart from each other, and joined where they are of one kind."""

    def __init__(self) -> None:
        self.locks: list[RecordLock] = []
        self.starts: list[int] = []

    def first_from(self, start: int) -> int:
        """The index of the first lock that ends at or after `start`."""
        index = bisect_right(self.starts, start) - 1
        return index if index >= 0 and self.locks[index].end >= start else index + 1


class FileLocks(InodeLocks):
    """The locks of one inode."""

    def __init__(self, table: LockTable, inode: Inode) -> None:
        self.table: LockTable = table
        self.inode: Inode = inode
        self.owners: dict[Holder, OwnerLocks] = {}  # the record locks of each owner
        self.flocks: list[FlockLock] = []
        self.leases: Leases | None = None
        self.queue: WaitQueue = WaitQueue()  # woken when a lock is given up

    # -- record locks ------------------------------------------------------------------------------------
    def record_list(self) -> list[RecordLock]:
        """Every record lock: the owners in the order of their first, and each one's by where they begin."""
        return [lock for held in self.owners.values() for lock in held.locks]

    def conflict(self, request: RecordLock) -> RecordLock | None:
        """The first lock of another owner that `request` cannot coexist with."""
        for owner, held in self.owners.items():
            if owner is request.owner:
                continue
            locks = held.locks
            for index in range(held.first_from(request.start), len(locks)):
                lock = locks[index]
                if lock.start > request.end:
                    break
                if lock.kind == F_WRLCK or request.kind == F_WRLCK:
                    return lock
        return None

    def apply(self, request: RecordLock) -> int:
        """Set or clear a range without conflict, splitting and joining the owner's locks; 0 or -ENOLCK."""
        held = self.owners.get(request.owner)
        if held is None:
            held = OwnerLocks()
        locks = held.locks
        start, end = request.start, request.end
        first = held.first_from(max(start - 1, 0))
        last = first  # one past those that change
        fresh: list[RecordLock] = []
        tails: list[RecordLock] = []
        has_weakened = False
        while last < len(locks) and locks[last].start <= end + 1:
            lock = locks[last]
            last += 1
            if lock.kind == request.kind:
                start, end = min(start, lock.start), max(end, lock.end)
                continue
            if lock.end < start or lock.start > end:  # a neighbour of another kind
                (fresh if lock.end < start else tails).append(lock)
                continue
            has_weakened = has_weakened or request.kind == F_UNLCK or lock.kind == F_WRLCK
            if lock.start < start:
                fresh.append(_piece(lock, lock.start, start - 1))
            if lock.end > end:
                tails.append(_piece(lock, end + 1, lock.end))
        if request.kind != F_UNLCK:
            fresh.append(_piece(request, start, end))
        fresh += tails
        grown = len(fresh) - (last - first)
        if grown > 0 and self.table.count + grown > MAX_LOCKS:
            return -ENOLCK
        self.table.count += grown
        locks[first:last] = fresh
        held.starts[first:last] = [lock.start for lock in fresh]
        if locks:
            self.owners[request.owner] = held
        else:
            self.owners.pop(request.owner, None)
        if has_weakened:
            self.queue.wake()
        self.tidy()
        return 0

    def drop_owner(self, owner: Holder) -> None:
        """Give up every record lock of `owner`."""
        held = self.owners.pop(owner, None)
        if held is not None:
            self.table.count -= len(held.locks)
            self.queue.wake()
            self.tidy()

    # -- flock -------------------------------------------------------------------------------------------
    def set_flock(self, file: FileDescription, kind: int, pid: int) -> int:
        """flock(2) with LOCK_SH, LOCK_EX or LOCK_UN; -EAGAIN if another description holds it.

        A conversion gives the old lock up first, and does not get it back if it fails (flock(2)).
        """
        for held in self.flocks:
            if held.file is file:
                if held.kind == kind:
                    return 0
                self.flocks.remove(held)
                self.table.count -= 1
                self.queue.wake()
                break
        result = 0
        if kind != LOCK_UN:
            for other in self.flocks:
                if kind == LOCK_EX or other.kind == LOCK_EX:
                    result = -EAGAIN
                    break
            if result == 0 and self.table.count >= MAX_LOCKS:
                result = -ENOLCK
            if result == 0:
                self.flocks.append(FlockLock(file, kind, pid))
                self.table.count += 1
        self.tidy()
        return result

    def description_released(self, file: FileDescription) -> None:
        if self.flocks:
            self.set_flock(file, LOCK_UN, 0)
        if self.owners:
            self.drop_owner(file)
        leases = self.leases
        if leases is not None:
            lease = leases.find(file)
            if lease is not None:
                self.change_lease(lease, F_UNLCK)

    # -- leases ------------------------------------------------------------------------------------------
    def lease_of(self, file: FileDescription) -> Lease | None:
        """The lease of an open file, after expired leases were ended."""
        leases = self.leases
        if leases is None:
            return None
        self._expire_leases(leases)
        return leases.find(file)

    def can_lease(self, file: FileDescription, kind: int) -> bool:
        """Whether an open file can get a lease of this type, in place of its present one if it has one."""
        leases = self.leases
        return (leases if leases is not None else Leases()).can_take(file, kind)

    def add_lease(self, lease: Lease) -> int:
        """A new lease, which `can_lease` has allowed; 0 or -ENOLCK."""
        leases = self.leases
        if self.table.count >= MAX_LOCKS or (leases is not None and len(leases.leases) >= MAX_LEASES):
            return -ENOLCK
        if leases is None:
            leases = self.leases = Leases()
        self.table.count += 1
        leases.leases.append(lease)
        self.tidy()
        return 0

    def change_lease(self, lease: Lease, kind: int) -> None:
        """Change a lease's type; F_UNLCK ends it."""
        leases = self.leases
        assert leases is not None
        before = len(leases.leases)
        leases.change(lease, kind)
        self._leases_changed(leases, before)

    def _expire_leases(self, leases: Leases) -> None:
        before = len(leases.leases)
        if leases.expire():
            self._leases_changed(leases, before)

    def _leases_changed(self, leases: Leases, before: int) -> None:
        self.table.count -= before - len(leases.leases)
        if not leases.leases:
            self.leases = None
        self.queue.wake()
        self.tidy()

    def break_leases(self, *, is_write: bool, can_wait: bool) -> None:
        leases = self.leases
        if leases is None:
            return
        self._expire_leases(leases)
        until = leases.break_for(self.table.lease_break_s, is_write=is_write)
        if until is None:
            return
        if not can_wait:
            raise LinuxError(EAGAIN)
        raise LeaseBroken(self.queue, until)

    def tidy(self) -> None:
        """Remove the inode's lock state when no lock is held or awaited, so that closes stay cheap."""
        if self.owners or self.flocks or self.leases is not None:
            self.table.inodes[self] = None
            self.inode.locks = self
        elif self.queue.is_empty():
            self.table.inodes.pop(self, None)
            if self.inode.locks is self:
                self.inode.locks = None


def _piece(lock: RecordLock, start: int, end: int) -> RecordLock:
    """The part [start, end] of a lock."""
    return RecordLock(lock.owner, lock.pid, lock.kind, start, end, is_ofd=lock.is_ofd)


def locks_of(table: LockTable, inode: Inode) -> FileLocks:
    """The lock state of an inode, made on first use (it disappears again when the last lock does)."""
    locks = inode.locks
    if isinstance(locks, FileLocks):
        return locks
    fresh = FileLocks(table, inode)
    inode.locks = fresh
    return fresh


def release_posix_locks(inode: Inode, owner: Holder) -> None:
    """close(2) by any descriptor of a process drops all its POSIX locks on the file (fcntl(2))."""
    locks = inode.locks
    if isinstance(locks, FileLocks) and locks.owners:
        locks.drop_owner(owner)


# -- waiting -------------------------------------------------------------------------------------------------
def would_deadlock(table: LockTable, request: RecordLock, blocker: RecordLock) -> bool:
    """Whether waiting for `blocker` would close a circle of owners (EDEADLK); OFD locks are not checked."""
    current = blocker
    for step in range(_MAX_DEADLOCK_STEPS):
        if current.is_ofd:
            return False
        if step > 0 and current.owner is request.owner:
            return True
        waits = table.waiting.get(current.owner)
        if not waits:
            return False
        following = waits[0].locks.conflict(waits[0].request)
        if following is None:
            return False
        current = following
    return False


def begin_wait(table: LockTable, wait: LockWait) -> None:
    """Note that the owner of the request waits."""
    table.waiting.setdefault(wait.request.owner, []).append(wait)


def end_lock_wait(table: LockTable, wait: LockWait) -> None:
    """The wait is over, with or without the lock."""
    waits = table.waiting.get(wait.request.owner)
    if waits is not None and wait in waits:
        waits.remove(wait)
        if not waits:
            del table.waiting[wait.request.owner]


# -- /proc/locks ---------------------------------------------------------------------------------------------
def proc_locks_parts(
    table: LockTable,
    shown: Callable[[int], int],
    file: FileDescription | None = None,
    files: Holder | None = None,
) -> Generator[str, None, None]:
    """The lines of /proc/locks (proc_locks(5)), or in fdinfo those of an open file and a table of descriptors.

    Some at a time (perhaps none).  `shown` gives a holder's pid as the reader sees it, 0: not at all.
    """
    lines: list[str] = []
    told = 0  # lines that were given
    looked = 0
    prefix = "" if file is None else "lock:\t"
    all_locks = list(table.inodes) if file is None else [file.inode.locks]
    for locks in all_locks:
        if not isinstance(locks, FileLocks):
            continue
        dev = locks.inode.dev()
        where = f"{major(dev):02x}:{minor(dev):02x}:{locks.inode.ino}"
        for record in locks.record_list():
            looked += 1
            if looked % _SHOWN == 0:
                yield "".join(lines)
                told += len(lines)
                lines = []
            if file is not None and record.owner is not file and record.owner is not files:
                continue
            pid = record.pid if record.is_ofd else shown(record.pid)
            if not pid:
                continue
            kind = "OFDLCK" if record.is_ofd else "POSIX "
            mode = "READ " if record.kind == F_RDLCK else "WRITE"
            end = "EOF" if record.end == OFFSET_MAX else str(record.end)
            lines.append(
                f"{prefix}{told + len(lines) + 1}: {kind} ADVISORY  {mode} {pid} {where} {record.start} {end}\n"
            )
        for flock in list(locks.flocks):
            looked += 1
            if looked % _SHOWN == 0:
                yield "".join(lines)
                told += len(lines)
                lines = []
            if file is not None and flock.file is not file:
                continue
            pid = shown(flock.pid)
            if not pid:
                continue
            mode = "READ " if flock.kind == LOCK_SH else "WRITE"
            lines.append(f"{prefix}{told + len(lines) + 1}: FLOCK  ADVISORY  {mode} {pid} {where} 0 EOF\n")
        leases = locks.leases
        for lease in list(leases.leases) if leases is not None else []:
            if file is not None and lease.file is not file:
                continue
            pid = shown(lease.pid)
            if not pid:
                continue
            state = "BREAKING" if lease.is_ending or lease.is_weakening else "ACTIVE  "
            mode = _LEASE_NAMES[lease.target()]
            lines.append(f"{prefix}{told + len(lines) + 1}: LEASE  {state}  {mode} {pid} {where} 0 EOF\n")
    yield "".join(lines)
