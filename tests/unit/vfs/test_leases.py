"""Leases whose holders do not answer: they end by themselves, or never."""

import pytest

from cloche.abi.errno import EAGAIN, LinuxError
from cloche.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK, O_RDONLY
from cloche.abi.stat import S_IFREG
from cloche.vfs.leases import Lease, LeaseBroken
from cloche.vfs.locks import FileLocks, LockTable
from cloche.vfs.objects import FileDescription, FileSystem, Inode


def leased(kind: int) -> tuple[FileLocks, Lease]:
    inode = Inode(FileSystem("test", 0, 1), 1, S_IFREG)
    file = FileDescription(None, inode, O_RDONLY)
    inode.read_count += 1
    locks = FileLocks(LockTable(), inode)
    lease = Lease(file, kind, 1)
    assert locks.can_lease(file, kind)
    assert locks.add_lease(lease) == 0
    return locks, lease


def break_it(locks: FileLocks, *, is_write: bool) -> int:
    """Until when the breaker waits."""
    with pytest.raises(LeaseBroken) as caught:
        locks.break_leases(is_write=is_write, can_wait=True)
    return caught.value.deadline_ns


def test_a_writer_waits_until_the_lease_ends() -> None:
    locks, lease = leased(F_RDLCK)
    locks.break_leases(is_write=False, can_wait=True)
    assert lease.target() == F_RDLCK
    until = break_it(locks, is_write=True)
    assert until == lease.end_ns > 0
    assert break_it(locks, is_write=True) == until, "the first breaker's time counts"
    assert lease.target() == F_UNLCK
    lease.end_ns = 1
    locks.break_leases(is_write=True, can_wait=True)
    assert locks.lease_of(lease.file) is None
    assert locks.table.count == 0
    assert locks.inode.locks is None


def test_a_reader_waits_until_the_lease_is_weaker() -> None:
    locks, lease = leased(F_WRLCK)
    until = break_it(locks, is_write=False)
    assert until == lease.weaken_ns > 0
    lease.weaken_ns = 1
    locks.break_leases(is_write=False, can_wait=True)
    assert lease.kind == F_RDLCK
    assert locks.lease_of(lease.file) is lease
    break_it(locks, is_write=True)


def test_without_a_time_it_lasts() -> None:
    locks, lease = leased(F_WRLCK)
    locks.table.lease_break_s = 0
    assert break_it(locks, is_write=True) == -1
    with pytest.raises(LinuxError) as caught:
        locks.break_leases(is_write=True, can_wait=False)
    assert caught.value.errno == EAGAIN
    locks.description_released(lease.file)
    locks.break_leases(is_write=True, can_wait=True)
    assert locks.table.count == 0
