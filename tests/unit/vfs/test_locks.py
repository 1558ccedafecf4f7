"""Record locks against a model with one entry for each byte, and that their number costs little."""

import random

from cloche.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK
from cloche.abi.stat import S_IFREG
from cloche.kernel.fd_table import FdTable
from cloche.vfs.locks import FileLocks, LockTable, RecordLock
from cloche.vfs.objects import FileSystem, Inode

SIZE = 60


def make() -> FileLocks:
    return FileLocks(LockTable(), Inode(FileSystem("test", 0, 1), 1, S_IFREG, 0, 0))


def held_by(locks: FileLocks, owner: object) -> dict[int, int]:
    """The kind of lock on each byte; ranges must be sorted, apart and joined."""
    found: dict[int, int] = {}
    last: RecordLock | None = None
    for lock in locks.record_list():
        if lock.owner is not owner:
            continue
        assert lock.end >= lock.start
        if last is not None:
            assert lock.start > last.end
            assert lock.start > last.end + 1 or lock.kind != last.kind
        last = lock
        for byte in range(lock.start, lock.end + 1):
            found[byte] = lock.kind
    return found


def test_random_locks() -> None:
    for seed in range(15):
        dice = random.Random(seed)
        locks = make()
        owners = [FdTable(), FdTable(), FdTable()]
        model: dict[object, dict[int, int]] = {owner: {} for owner in owners}
        for _round in range(80):
            owner = dice.choice(owners)
            start = dice.randrange(SIZE)
            end = min(SIZE - 1, start + dice.choice((0, 0, 1, 3, 20)))
            kind = dice.choice((F_RDLCK, F_WRLCK, F_UNLCK))
            request = RecordLock(owner, 1, kind, start, end, is_ofd=False)
            clash = kind != F_UNLCK and any(
                F_WRLCK in (kind, model[other].get(byte, kind))
                for other in owners
                if other is not owner
                for byte in range(start, end + 1)
                if byte in model[other]
            )
            blocker = locks.conflict(request) if kind != F_UNLCK else None
            assert (blocker is not None) == clash
            if clash:
                continue
            assert locks.apply(request) == 0
            for byte in range(start, end + 1):
                if kind == F_UNLCK:
                    model[owner].pop(byte, None)
                else:
                    model[owner][byte] = kind
            for each in owners:
                assert held_by(locks, each) == model[each], seed
            assert locks.table.count == len(locks.record_list())


def test_order_of_owners() -> None:
    """F_GETLK tells of the lock whose owner came first."""
    locks = make()
    first, second, third = FdTable(), FdTable(), FdTable()
    for owner in (first, second):
        assert locks.apply(RecordLock(owner, 1, F_RDLCK, 0, 9, is_ofd=False)) == 0
    request = RecordLock(third, 1, F_WRLCK, 5, 5, is_ofd=False)
    found = locks.conflict(request)
    assert found is not None and found.owner is first
    locks.drop_owner(first)
    found = locks.conflict(request)
    assert found is not None and found.owner is second
