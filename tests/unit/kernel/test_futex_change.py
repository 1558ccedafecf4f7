"""Changes of futex words by the kernel, with others that store at the worst moment."""

from struct import pack, unpack

import pytest

from cloche.abi.errno import EAGAIN, EFAULT, EPERM, ETIMEDOUT
from cloche.abi.futex import (
    FUTEX_LOCK_PI_PRIVATE,
    FUTEX_OWNER_DIED,
    FUTEX_TRYLOCK_PI_PRIVATE,
    FUTEX_UNLOCK_PI_PRIVATE,
    FUTEX_WAITERS,
    FUTEX_WAKE_OP_PRIVATE,
)
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.exit import forget_task
from cloche.kernel.loop import operations_done
from cloche.kernel.phase import WAITING
from cloche.kernel.task import Task
from cloche.platform.fake import FakeThread
from cloche.syscalls.sys_futex import sys_futex
from tests.unit.kernel.world import World


class Changes(World):
    """A process of three threads, whose platform has `swap`, and a word that is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = [self.task] + [self.add_task(pid, self.task.group) for pid in (3, 4)]
        for task in self.tasks:
            thread = task.thread
            assert isinstance(thread, FakeThread)
            thread.is_swapping = True
        self.word = self.put(pack("<I", 0), self.task)

    def fake(self, index: int) -> FakeThread:
        thread = self.tasks[index].thread
        assert isinstance(thread, FakeThread)
        return thread

    def futex(self, index: int, op: int, *rest: int) -> int:
        return self.call(sys_futex, self.word, op, *rest, task=self.tasks[index])

    def answer(self, index: int) -> int:
        """The thread has carried out its order: the call's result."""
        task: Task = self.tasks[index]
        operations_done(self.kernel, task)
        return self.step(task)

    def value(self) -> int:
        found: int = unpack("<I", self.task.mm.process.read(self.word, 4))[0]
        return found

    def store(self, value: int) -> None:
        self.task.mm.process.write(self.word, pack("<I", value))


@pytest.fixture
def world() -> Changes:
    return Changes()


def test_an_unlock_meanwhile_is_not_lost(world: Changes) -> None:
    owner = world.tasks[1].own_tid
    world.store(owner)
    world.fake(0).meanwhile = [pack("<I", 0)]  # the owner unlocks just before the waiter's bit is set
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.value() == 0
    assert world.answer(0) == BLOCKED  # now it takes the lock
    assert world.answer(0) == 0
    assert world.value() == world.tasks[0].own_tid


def test_a_count_meanwhile_is_not_lost(world: Changes) -> None:
    world.fake(0).meanwhile = [pack("<I", 7)]
    assert world.futex(0, FUTEX_WAKE_OP_PRIVATE, 1, 1, world.word, 1 << 28 | 1 << 12) == BLOCKED
    assert world.answer(0) == 0
    assert world.value() == 8


def test_two_changes_of_a_word_take_turns(world: Changes) -> None:
    world.store(world.tasks[1].own_tid)
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.futex(2, FUTEX_TRYLOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.tasks[2].phase == WAITING  # it has to wait for the first
    assert world.answer(0) == BLOCKED
    assert world.step(world.tasks[2]) == -EAGAIN
    assert world.value() == world.tasks[1].own_tid | FUTEX_WAITERS
    assert world.futex(1, FUTEX_UNLOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.answer(1) == 0
    assert world.step(world.tasks[0]) == 0
    assert world.value() == world.tasks[0].own_tid | FUTEX_WAITERS


def test_the_chosen_one_waits_for_the_word(world: Changes) -> None:
    """A lock that is being handed to a waiter stays his while his time runs out."""
    world.store(world.tasks[1].own_tid | FUTEX_WAITERS)
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.futex(1, FUTEX_UNLOCK_PI_PRIVATE, 0) == BLOCKED
    op = world.tasks[0].blocked
    assert op is not None and op.timed_out(world.tasks[0]) == BLOCKED
    assert world.answer(1) == 0
    assert world.step(world.tasks[0]) == 0


def test_the_chosen_one_is_late_if_it_fails(world: Changes) -> None:
    world.store(world.tasks[1].own_tid | FUTEX_WAITERS)
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    world.fake(1).meanwhile = [pack("<I", 0)]  # nonsense of the guest's
    assert world.futex(1, FUTEX_UNLOCK_PI_PRIVATE, 0) == BLOCKED
    op = world.tasks[0].blocked
    assert op is not None and op.timed_out(world.tasks[0]) == BLOCKED
    assert world.answer(1) == -EPERM
    assert world.step(world.tasks[0]) == -ETIMEDOUT


def test_the_heir_of_a_dead_owner_changes_the_word(world: Changes) -> None:
    world.store(world.tasks[1].own_tid | FUTEX_WAITERS)
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    world.fake(0).meanwhile = [pack("<I", FUTEX_OWNER_DIED | FUTEX_WAITERS)]
    forget_task(world.tasks[1], is_process_ending=False)
    assert world.answer(0) == BLOCKED
    assert world.answer(0) == 0
    assert world.value() == world.tasks[0].own_tid | FUTEX_WAITERS | FUTEX_OWNER_DIED


def test_who_does_not_answer_holds_nobody_up_for_ever(world: Changes) -> None:
    world.store(world.tasks[1].own_tid)
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    assert world.futex(2, FUTEX_TRYLOCK_PI_PRIVATE, 0) == BLOCKED
    forget_task(world.tasks[0], is_process_ending=False)
    assert world.step(world.tasks[2]) in (-EAGAIN, BLOCKED)


def test_a_word_that_cannot_be_changed(world: Changes) -> None:
    assert world.futex(0, FUTEX_LOCK_PI_PRIVATE, 0) == BLOCKED
    world.fake(0).found = -1
    assert world.answer(0) == -EFAULT
