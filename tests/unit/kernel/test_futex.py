"""Futexes and robust lists."""

from struct import pack

import pytest

from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EINTR,
    EINVAL,
    ENOSYS,
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    ETIMEDOUT,
)
from cloche.abi.futex import (
    FUTEX_CMP_REQUEUE_PRIVATE,
    FUTEX_FD,
    FUTEX_OWNER_DIED,
    FUTEX_WAIT,
    FUTEX_WAIT_BITSET_PRIVATE,
    FUTEX_WAIT_PRIVATE,
    FUTEX_WAITERS,
    FUTEX_WAKE,
    FUTEX_WAKE_BITSET_PRIVATE,
    FUTEX_WAKE_OP_PRIVATE,
    FUTEX_WAKE_PRIVATE,
)
from cloche.abi.structs import pack_timespec
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.futex import futex_table
from cloche.kernel.futex_exit import release_memory
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.syscalls.sys_futex import (
    sys_futex,
    sys_futex_waitv,
    sys_get_robust_list,
    sys_set_robust_list,
)
from tests.unit.kernel.world import World


class Threads(World):
    """A process with four threads and a word of value 5."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = [self.task] + [self.add_task(pid, self.task.group) for pid in (3, 4, 5)]
        self.word = self.put_once(pack("<I", 5))
        self.other = self.put_once(pack("<I", 9))

    def put_once(self, data: bytes) -> int:
        return self.put(data, self.task)

    def futex(self, task: Task, op: int, value: int, *rest: int, addr: int = 0) -> int:
        return self.call(sys_futex, addr or self.word, op, value, *rest, task=task)

    def wait(self, index: int, addr: int = 0, value: int = 5) -> None:
        assert self.futex(self.threads[index], FUTEX_WAIT_PRIVATE, value, addr=addr) == BLOCKED

    def woken(self) -> list[int]:
        """Which threads' waits ended with 0; they are retried."""
        out = []
        for index, task in enumerate(self.threads):
            if task in self.kernel.ready:
                assert self.step(task) == 0
                out.append(index)
        return out


@pytest.fixture
def world() -> Threads:
    return Threads()


def test_value_is_compared(world: Threads) -> None:
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 4) == -EAGAIN
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5) == BLOCKED


def test_first_come_first_woken(world: Threads) -> None:
    for index in (2, 1, 3):
        world.wait(index)
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 1) == 1
    assert world.woken() == [2]
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 10) == 2
    assert world.woken() == [1, 3]
    assert futex_table(world.kernel).queues == {}


def test_wake_of_none_wakes_one_as_linux_does(world: Threads) -> None:
    world.wait(1)
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 0) == 1


def test_private_and_shared_do_not_meet(world: Threads) -> None:
    world.wait(1)
    assert world.futex(world.task, FUTEX_WAKE, 1) == 0
    assert world.futex(world.threads[2], FUTEX_WAIT, 5) == BLOCKED
    assert world.futex(world.task, FUTEX_WAKE, 2) == 1
    assert world.woken() == [2]


def test_a_woken_waiter_returns_0_though_a_signal_came(world: Threads) -> None:
    world.wait(1)
    world.futex(world.task, FUTEX_WAKE_PRIVATE, 1)
    assert world.interrupt(world.threads[1]) == 0


def test_interruption(world: Threads) -> None:
    world.wait(1)
    assert world.interrupt(world.threads[1]) == -ERESTARTSYS
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 1) == 0  # it is gone from the queue
    limit = world.put_once(pack_timespec(10**9))
    task = world.threads[2]
    assert world.futex(task, FUTEX_WAIT_PRIVATE, 5, limit) == BLOCKED
    op = task.blocked
    assert op is not None
    deadline = op.deadline_ns
    assert world.interrupt(task) == -ERESTART_RESTARTBLOCK
    assert op.restart(task) == BLOCKED and op.deadline_ns == deadline
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 1) == 1
    assert world.step(task) == 0


def test_restart_looks_again(world: Threads) -> None:
    limit = world.put_once(pack_timespec(10**9))
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5, limit) == BLOCKED
    op = world.task.blocked
    assert op is not None
    world.interrupt()
    world.task.user_memory().write_u32(world.word, 6)
    assert op.restart(world.task) == -EAGAIN


def test_time_limits(world: Threads) -> None:
    limit = world.put_once(pack_timespec(10**9))
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5, limit) == BLOCKED
    op = world.task.blocked
    assert op is not None and 0 < op.deadline_ns - monotonic_ns() <= 10**9
    assert world.expire() == -ETIMEDOUT
    assert futex_table(world.kernel).queues == {}
    past = world.put_once(pack_timespec(1))
    assert world.futex(world.task, FUTEX_WAIT_BITSET_PRIVATE, 5, past, 0, 1) == BLOCKED
    op = world.task.blocked
    assert op is not None and op.deadline_ns == 1
    world.expire()
    assert world.futex(world.task, FUTEX_WAIT_BITSET_PRIVATE | 256, 5, past, 0, 1) == BLOCKED
    op = world.task.blocked
    assert op is not None and op.deadline_ns == 0  # 1970 on CLOCK_REALTIME


def test_bitsets(world: Threads) -> None:
    for index, bits in ((1, 1), (2, 2), (3, 3)):
        assert world.futex(world.threads[index], FUTEX_WAIT_BITSET_PRIVATE, 5, 0, 0, bits) == BLOCKED
    assert world.futex(world.task, FUTEX_WAKE_BITSET_PRIVATE, 10, 0, 0, 4) == 0
    assert world.futex(world.task, FUTEX_WAKE_BITSET_PRIVATE, 10, 0, 0, 2) == 2
    assert world.woken() == [2, 3]
    assert world.futex(world.task, FUTEX_WAIT_BITSET_PRIVATE, 5, 0, 0, 0) == -EINVAL


def test_requeue(world: Threads) -> None:
    for index in (1, 2, 3):
        world.wait(index)
    assert world.futex(world.task, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, world.other, 4) == -EAGAIN
    assert world.futex(world.task, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, world.other, 5) == 2
    assert world.woken() == [1]
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 10, addr=world.other) == 1
    assert world.woken() == [2]
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 10) == 1


def test_requeued_waiter_times_out_cleanly(world: Threads) -> None:
    limit = world.put_once(pack_timespec(10**9))
    task = world.threads[1]
    assert world.futex(task, FUTEX_WAIT_PRIVATE, 5, limit) == BLOCKED
    world.futex(world.task, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1, world.other, 5)
    assert world.expire(task) == -ETIMEDOUT
    assert futex_table(world.kernel).queues == {}


def test_wake_op(world: Threads) -> None:
    world.wait(1)
    world.wait(2, world.other, 9)
    # other += 3; wake at word; and at other if its old value was below 10.
    op = 1 << 28 | 2 << 24 | 3 << 12 | 10
    assert world.futex(world.task, FUTEX_WAKE_OP_PRIVATE, 1, 1, world.other, op) == 2
    assert world.woken() == [1, 2]
    assert world.task.user_memory().read_u32(world.other) == 12
    assert world.futex(world.task, FUTEX_WAKE_OP_PRIVATE, 1, 1, world.other, 7 << 28) == -ENOSYS


def test_errors(world: Threads) -> None:
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5, addr=world.word + 1) == -EINVAL
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5, addr=0x7000_0000_0000) == -EFAULT
    assert world.futex(world.task, FUTEX_WAKE_PRIVATE, 5, addr=-4096) == -EFAULT
    assert world.futex(world.task, FUTEX_FD, 5) == -ENOSYS
    assert world.futex(world.task, FUTEX_WAIT | 256, 5) == -ENOSYS


def test_waitv(world: Threads) -> None:
    vector = world.put_once(pack("<QQIIQQII", 5, world.word, 2 | 128, 0, 9, world.other, 2 | 128, 0))
    assert world.call(sys_futex_waitv, vector, 2) == BLOCKED
    assert world.futex(world.threads[1], FUTEX_WAKE_PRIVATE, 1, addr=world.other) == 1
    assert world.step() == 1
    assert futex_table(world.kernel).queues == {}
    assert world.call(sys_futex_waitv, vector, 2) == BLOCKED
    assert world.interrupt() == -ERESTARTSYS
    assert world.call(sys_futex_waitv, vector, 129) == -EINVAL


def test_the_killed_leave_the_queue(world: Threads) -> None:
    from cloche.kernel.exit import do_group_exit

    child = world.add_child(9, world.task)
    addr = world.put(pack("<I", 1), child)
    assert world.futex(child, FUTEX_WAIT_PRIVATE, 1, addr=addr) == BLOCKED
    do_group_exit(child.group, 9)
    assert futex_table(world.kernel).queues == {}


class TestRobust:
    def build(self, world: Threads, owner: Task, value: int, pending: int = 0) -> int:
        """A list of one lock whose word is 16 bytes after its entry; the word's address."""
        head = world.put_once(bytes(24))
        entry = world.put_once(pack("<QQI", head, 0, value))
        world.task.user_memory().write(
            head, pack("<QqQ", entry if not pending else head, 16, entry if pending else 0)
        )
        assert world.call(sys_set_robust_list, head, 24, task=owner) == 0
        return entry + 16

    def value(self, world: Threads, addr: int) -> int:
        return world.task.user_memory().read_u32(addr)

    def test_owner_died(self, world: Threads) -> None:
        owner, waiter = world.threads[1], world.threads[2]
        addr = self.build(world, owner, owner.tid | FUTEX_WAITERS)
        assert world.futex(waiter, FUTEX_WAIT, owner.tid | FUTEX_WAITERS, addr=addr) == BLOCKED
        release_memory(owner)
        assert self.value(world, addr) == FUTEX_OWNER_DIED | FUTEX_WAITERS
        assert world.step(waiter) == 0

    def test_only_ones_own(self, world: Threads) -> None:
        addr = self.build(world, world.threads[1], world.threads[2].tid)
        release_memory(world.threads[1])
        assert self.value(world, addr) == world.threads[2].tid

    def test_pending_operation(self, world: Threads) -> None:
        owner, waiter = world.threads[1], world.threads[2]
        addr = self.build(world, owner, owner.tid, pending=1)
        release_memory(owner)
        assert self.value(world, addr) == FUTEX_OWNER_DIED
        addr = self.build(world, owner, 0, pending=1)
        assert world.futex(waiter, FUTEX_WAIT, 0, addr=addr) == BLOCKED
        release_memory(owner)
        assert self.value(world, addr) == 0 and world.step(waiter) == 0

    def test_hostile_lists_end(self, world: Threads) -> None:
        owner = world.threads[1]
        for head_data in (
            pack("<QqQ", 0x7000_0000_0000, 0, 0),
            pack("<QqQ", 3, 1, 5),
            pack("<QqQ", 0, -8, 0),
        ):
            owner.exit_words.robust_list = world.put_once(head_data)
            release_memory(owner)
        loop = world.put_once(bytes(8))
        world.task.user_memory().write_u64(loop, loop)
        owner.exit_words.robust_list = world.put_once(pack("<QqQ", loop, 8, 0))
        release_memory(owner)
        owner.exit_words.robust_list = (1 << 64) - 8
        release_memory(owner)
        assert owner.exit_words.robust_list == 0

    def test_clear_child_tid(self, world: Threads) -> None:
        owner = world.threads[1]
        owner.exit_words.clear_child_tid = world.word
        assert world.futex(world.task, FUTEX_WAIT, 5) == BLOCKED
        release_memory(owner)
        assert self.value(world, world.word) == 0 and world.step() == 0

    def test_get(self, world: Threads) -> None:
        world.task.exit_words.robust_list = 0x1230
        head, size = world.put_once(bytes(8)), world.put_once(bytes(8))
        assert world.call(sys_get_robust_list, 0, head, size) == 0
        assert world.task.user_memory().read_u64(head) == 0x1230
        assert world.task.user_memory().read_u64(size) == 24
        assert world.call(sys_set_robust_list, head, 23) == -EINVAL


def test_restart_through_the_call(world: Threads) -> None:
    """A stop in the middle of a timed wait: restart_syscall goes on with it."""
    from cloche.syscalls.sys_signal import sys_restart_syscall

    limit = world.put_once(pack_timespec(10**9))
    assert world.futex(world.task, FUTEX_WAIT_PRIVATE, 5, limit) == BLOCKED
    world.interrupt()
    assert world.call(sys_restart_syscall) == BLOCKED
    assert world.futex(world.threads[1], FUTEX_WAKE_PRIVATE, 1) == 1
    assert world.step() == 0
    assert world.call(sys_restart_syscall) == -EINTR
