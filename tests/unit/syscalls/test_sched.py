"""sched(7), setpriority(2), ioprio_set(2): validation, permissions, inheritance."""

import struct

import pytest

from cloche.abi import sched as abi
from cloche.abi.errno import E2BIG, EACCES, EAGAIN, EBUSY, EINVAL, EPERM, ESRCH, LinuxError
from cloche.kernel import sched
from cloche.syscalls import sys_sched
from cloche.vfs.credentials import Credentials
from tests.unit.fs.harness import Guest


@pytest.fixture
def guest() -> Guest:
    made = Guest()
    made.kernel.cpu_count = 4
    made.kernel.cpu_mask = 15
    made.task.sched.affinity = 15
    return made


def unprivileged(guest: Guest) -> None:
    guest.task.creds = Credentials(1000, 1000)
    guest.task.group.rlimits[13] = (0, 0)
    guest.task.group.rlimits[14] = (0, 0)


def test_affinity(guest: Guest) -> None:
    at = guest.put(bytes(128))
    assert guest.call(sys_sched.sys_sched_getaffinity, 0, 128, at) == 8
    assert guest.get(at, 8) == (15).to_bytes(8, "little")
    assert guest.call(sys_sched.sys_sched_getaffinity, 0, 4, at) == -EINVAL
    assert guest.call(sys_sched.sys_sched_getaffinity, 99, 8, at) == -ESRCH
    one = guest.put((0xF2).to_bytes(8, "little"))
    assert guest.call(sys_sched.sys_sched_setaffinity, 0, 8, one) == 0
    assert guest.task.sched.affinity == 2
    none = guest.put((0xF0).to_bytes(8, "little"))
    assert guest.call(sys_sched.sys_sched_setaffinity, 0, 8, none) == -EINVAL
    assert guest.call(sys_sched.sys_sched_setaffinity, 0, 0, none) == -EINVAL
    other = guest.add_task(7)
    unprivileged(guest)
    assert guest.call(sys_sched.sys_sched_setaffinity, other.tid, 8, one) == -EPERM
    cpu = guest.put(bytes(8))
    assert guest.call(sys_sched.sys_getcpu, cpu, cpu + 4) == 0
    assert struct.unpack("<II", guest.get(cpu, 8)) == (1, 0)


def test_policies(guest: Guest) -> None:
    five = guest.put(struct.pack("<i", 5))
    zero = guest.put(struct.pack("<i", 0))
    reset = abi.SCHED_RESET_ON_FORK
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_RR | reset, five) == 0
    assert guest.call(sys_sched.sys_sched_getscheduler, 0) == abi.SCHED_RR | reset
    assert guest.call(sys_sched.sys_sched_getparam, 0, zero) == 0
    assert struct.unpack("<i", guest.get(zero, 4))[0] == 5
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_NORMAL, five) == -EINVAL
    zero = guest.put(struct.pack("<i", 0))
    assert guest.call(sys_sched.sys_sched_setparam, 0, zero) == -EINVAL
    for bad in (4, 99, -1):
        assert guest.call(sys_sched.sys_sched_setscheduler, 0, bad, zero) == -EINVAL
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_BATCH, 0) == -EINVAL
    child = guest.add_task(7)
    sched.inherit(guest.task, child)
    assert (child.sched.policy, child.sched.priority) == (abi.SCHED_NORMAL, 0)


def test_slices(guest: Guest) -> None:
    """2.1 ms on four processors, less than a jiffy."""
    assert [sched.fair_slice_ns(count) for count in (1, 2, 4, 64)] == [
        700_000,
        1_400_000,
        2_100_000,
        2_800_000,
    ]
    at = guest.put(bytes(56))
    assert guest.call(sys_sched.sys_sched_getattr, 0, at, 56, 0) == 0
    assert struct.unpack_from("<Q", guest.get(at, 56), 24)[0] == 2_100_000
    assert guest.call(sys_sched.sys_sched_rr_get_interval, 0, at) == 0
    assert guest.get(at, 16) == bytes(16)


def test_realtime_needs_a_limit(guest: Guest) -> None:
    unprivileged(guest)
    five = guest.put(struct.pack("<i", 5))
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_FIFO, five) == -EPERM
    guest.task.group.rlimits[14] = (4, 4)
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_FIFO, five) == -EPERM
    guest.task.group.rlimits[14] = (5, 5)
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_FIFO, five) == 0


def test_idle_is_a_one_way_street(guest: Guest) -> None:
    unprivileged(guest)
    zero = guest.put(struct.pack("<i", 0))
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_IDLE, zero) == 0
    assert guest.call(sys_sched.sys_sched_setscheduler, 0, abi.SCHED_NORMAL, zero) == -EPERM


def test_bounds(guest: Guest) -> None:
    for policy, low, high in ((1, 1, 99), (2, 1, 99), (0, 0, 0), (3, 0, 0), (5, 0, 0), (6, 0, 0)):
        assert guest.call(sys_sched.sys_sched_get_priority_min, policy) == low
        assert guest.call(sys_sched.sys_sched_get_priority_max, policy) == high
    assert guest.call(sys_sched.sys_sched_get_priority_max, 4) == -EINVAL


ATTR = struct.Struct("<IIQiIQQQII")


def attr(
    size: int = 56, policy: int = 0, flags: int = 0, nice: int = 0, priority: int = 0, *times: int
) -> bytes:
    runtime, deadline, period = times if times else (0, 0, 0)
    return ATTR.pack(size, policy, flags, nice, priority, runtime, deadline, period, 0, 0)


def test_setattr(guest: Guest) -> None:
    call = sys_sched.sys_sched_setattr
    assert guest.call(call, 0, guest.put(attr(nice=5, flags=1)), 0) == 0
    assert guest.task.sched.nice == 5 and guest.task.sched.policy == abi.SCHED_RESET_ON_FORK
    out = guest.put(bytes(56))
    assert guest.call(sys_sched.sys_sched_getattr, 0, out, 56, 0) == 0
    assert ATTR.unpack(guest.get(out, 56))[:5] == (56, 0, 1, 5, 0)
    assert guest.call(sys_sched.sys_sched_getattr, 0, out, 47, 0) == -EINVAL
    small = guest.put(attr(size=40))
    assert guest.call(call, 0, small, 0) == -E2BIG
    assert struct.unpack("<I", guest.get(small, 4))[0] == 56
    assert guest.call(call, 0, guest.put(attr(size=64) + b"\1" + bytes(7)), 0) == -E2BIG
    assert guest.call(call, 0, guest.put(attr(size=64) + bytes(8)), 0) == 0
    assert guest.call(call, 0, guest.put(attr(flags=1 << 40)), 0) == -EINVAL
    assert guest.call(call, 0, guest.put(attr(policy=6)), 0) == -EINVAL
    deadline = guest.put(attr(56, 6, 0, 0, 0, 10_000_000, 20_000_000, 30_000_000))
    assert guest.call(call, 0, deadline, 0) == 0
    unprivileged(guest)
    assert guest.call(call, 0, deadline, 0) == -EPERM
    assert guest.call(call, 0, 0, 0) == -EINVAL


def test_deadlines(guest: Guest) -> None:
    """All that are there may have 95 % of the four processors, and have no children."""
    call = sys_sched.sys_sched_setattr
    half = guest.put(attr(56, 6, 4, 0, 0, 500_000, 1_000_000, 0))
    assert guest.call(call, 0, half, 0) == 0
    out = guest.put(bytes(56))
    assert guest.call(sys_sched.sys_sched_getattr, 0, out, 56, 0) == 0
    assert ATTR.unpack(guest.get(out, 56))[:8] == (56, 6, 4, 0, 0, 500_000, 1_000_000, 1_000_000)
    others = [guest.add_task(number) for number in range(7, 14)]
    for other in others[:6]:
        assert guest.call(call, other.tid, half, 0) == 0
    assert guest.call(call, others[6].tid, half, 0) == -EBUSY
    most = guest.put(attr(56, 6, 0, 0, 0, 300_000, 1_000_000, 1_000_000))
    assert guest.call(call, others[6].tid, most, 0) == 0
    one = guest.put((1).to_bytes(8, "little"))
    assert guest.call(sys_sched.sys_sched_setaffinity, 0, 8, one) == -EBUSY
    with pytest.raises(LinuxError) as refused:
        sched.inherit(guest.task, others[0])
    assert refused.value.errno == EAGAIN
    assert guest.call(call, 0, guest.put(attr()), 0) == 0
    assert guest.call(sys_sched.sys_sched_setaffinity, 0, 8, one) == 0
    assert guest.call(call, 0, half, 0) == -EPERM


def test_priority(guest: Guest) -> None:
    assert guest.call(sys_sched.sys_getpriority, 0, 0) == 20
    assert guest.call(sys_sched.sys_setpriority, 0, 0, 10) == 0
    assert guest.call(sys_sched.sys_getpriority, 0, 0) == 10
    assert guest.call(sys_sched.sys_setpriority, 0, 0, 100) == 0
    assert guest.task.sched.nice == 19
    assert guest.call(sys_sched.sys_setpriority, 0, 0, -100) == 0
    assert guest.task.sched.nice == -20
    assert guest.call(sys_sched.sys_getpriority, 3, 0) == -EINVAL
    assert guest.call(sys_sched.sys_getpriority, 0, 99) == -ESRCH
    other = guest.add_task(7)
    other.sched.nice = 3
    assert guest.call(sys_sched.sys_getpriority, 1, 7) == 17
    assert guest.call(sys_sched.sys_getpriority, 2, 0) == 40
    guest.task.sched.nice = 5
    unprivileged(guest)
    assert guest.call(sys_sched.sys_setpriority, 0, 0, 4) == -EACCES
    assert guest.call(sys_sched.sys_setpriority, 0, 7, 9) == -EPERM
    guest.task.group.rlimits[13] = (20, 20)
    assert guest.call(sys_sched.sys_setpriority, 0, 0, 0) == 0


def test_ioprio(guest: Guest) -> None:
    best = abi.IOPRIO_CLASS_BE << 13 | 3
    assert guest.call(sys_sched.sys_ioprio_get, 1, 0) == 0
    assert guest.call(sys_sched.sys_ioprio_set, 1, 0, best) == 0
    assert guest.call(sys_sched.sys_ioprio_get, 1, 0) == best
    assert guest.call(sys_sched.sys_ioprio_set, 1, 0, 5) == -EINVAL
    assert guest.call(sys_sched.sys_ioprio_set, 1, 0, 7 << 13) == -EINVAL
    assert guest.call(sys_sched.sys_ioprio_set, 9, 0, best) == -EINVAL
    assert guest.call(sys_sched.sys_ioprio_set, 1, 99, best) == -ESRCH
    unprivileged(guest)
    assert guest.call(sys_sched.sys_ioprio_set, 1, 0, abi.IOPRIO_CLASS_RT << 13) == -EPERM
