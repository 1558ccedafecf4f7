"""System V IPC through the handlers: limits, quotas, and the order of service."""

from collections import deque
from struct import pack

import pytest

from cloche.abi import errno as e
from cloche.abi.ipc import GETVAL, IPC_CREAT, IPC_NOWAIT, IPC_RMID, SEM_UNDO, SETVAL
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.chores import Chore
from cloche.kernel.ipc.msg import MSGMNI
from cloche.kernel.ipc.sem import SEMMNS, SEMMSL, leave_undo_list
from cloche.syscalls.sys_msgq import sys_msgctl, sys_msgget, sys_msgrcv, sys_msgsnd
from cloche.syscalls.sys_sem import sys_semctl, sys_semget, sys_semop
from cloche.syscalls.sys_shm import sys_shmctl, sys_shmget
from tests.unit.syscalls.world import World

BUF = 0x40000


@pytest.fixture
def w() -> World:
    return World()


def semop(w: World, ident: int, *ops: tuple[int, int, int], task: object = None) -> int:
    which = w.task if task is None else task
    w.poke(BUF, b"".join(pack("<Hhh", *op) for op in ops), which)  # type: ignore[arg-type]
    return w.call(sys_semop, ident, BUF, len(ops), task=which)  # type: ignore[arg-type]


def test_identifiers_are_not_reused_at_once(w: World) -> None:
    first = w.call(sys_msgget, 0, 0o600)
    assert w.call(sys_msgctl, first, IPC_RMID, 0) == 0
    second = w.call(sys_msgget, 0, 0o600)
    assert second != first
    assert w.call(sys_msgctl, first, IPC_RMID, 0) == -e.EINVAL
    seen = {second}
    for _ in range(500):
        assert w.call(sys_msgctl, second, IPC_RMID, 0) == 0
        second = w.call(sys_msgget, 0, 0o600)
        assert second not in seen
        seen.add(second)


def test_semaphores_are_limited(w: World) -> None:
    for _ in range(SEMMNS // SEMMSL):
        assert w.call(sys_semget, 0, SEMMSL, 0o600) >= 0
    assert w.call(sys_semget, 0, 1, 0o600) == -e.ENOSPC


def test_messages_count_against_the_quota(w: World) -> None:
    quota = w.task.ns.ipc.quota
    quota.limit_bytes = 2000
    queue = w.call(sys_msgget, 0, 0o600)
    w.poke(BUF, pack("<q", 1))
    assert w.call(sys_msgsnd, queue, BUF, 0, 0) == 0
    assert w.call(sys_msgsnd, queue, BUF, 600, 0) == 0
    assert w.call(sys_msgsnd, queue, BUF, 0, 0) == -e.ENOMEM
    used = quota.used_bytes
    assert w.call(sys_msgrcv, queue, BUF, 1000, 0, 0) == 0
    assert quota.used_bytes < used
    assert w.call(sys_msgctl, queue, IPC_RMID, 0) == 0
    assert quota.used_bytes == 0


def test_queues_are_limited(w: World) -> None:
    w.task.ns.ipc.queues.limit = 10
    made = [w.call(sys_msgget, 0, 0o600) for _ in range(11)]
    assert made[9] >= 0
    assert made[10] == -e.ENOSPC
    assert MSGMNI == 32000


def test_the_first_waiter_that_can_go_on_does(w: World) -> None:
    ident = w.call(sys_semget, 0, 1, 0o600)
    big, small = w.new_task(), w.new_task()
    assert semop(w, ident, (0, -3, 0), task=big) == BLOCKED
    assert semop(w, ident, (0, -1, 0), task=small) == BLOCKED
    assert semop(w, ident, (0, 1, 0)) == 0
    assert w.is_woken(small) and not w.is_woken(big)
    assert w.resume(small) == 0
    assert semop(w, ident, (0, 3, 0)) == 0
    assert w.resume(big) == 0
    assert w.call(sys_semctl, ident, 0, GETVAL, 0) == 0


def test_a_served_waiter_is_not_interrupted(w: World) -> None:
    ident = w.call(sys_semget, 0, 1, 0o600)
    other = w.new_task()
    assert semop(w, ident, (0, -1, 0), task=other) == BLOCKED
    assert semop(w, ident, (0, 1, 0)) == 0
    assert w.interrupt(other) == 0
    assert semop(w, ident, (0, -1, 0), task=other) == BLOCKED
    assert w.interrupt(other) == -e.EINTR
    assert semop(w, ident, (0, 1, 0)) == 0
    assert w.call(sys_semctl, ident, 0, GETVAL, 0) == 1


def test_undo_is_charged_and_clamped(w: World) -> None:
    quota = w.task.ns.ipc.quota
    ident = w.call(sys_semget, 0, 2, 0o600)
    before = quota.used_bytes
    assert semop(w, ident, (0, 5, SEM_UNDO), (1, 1, SEM_UNDO)) == 0
    assert quota.used_bytes > before
    undo = w.task.undo_list
    assert undo is not None
    w.task.ns.ipc.semaphores.set_of(ident).values[0] = 2  # somebody took three
    leave_undo_list(undo, 9, deque())
    assert quota.used_bytes == before
    assert w.call(sys_semctl, ident, 0, GETVAL, 0) == 0
    assert w.call(sys_semctl, ident, 1, GETVAL, 0) == 0


def test_much_to_undo_is_undone_set_by_set(w: World) -> None:
    """Half a million adjustments took 25 ms at the end of a process."""
    sets = [w.call(sys_semget, 0, 5000, 0o600) for _ in range(4)]
    for ident in sets:
        for first in range(0, 5000, 500):
            assert semop(w, ident, *[(number, 2, SEM_UNDO) for number in range(first, first + 500)]) == 0
    undo = w.task.undo_list
    assert undo is not None
    chores: deque[Chore] = deque()
    leave_undo_list(undo, 9, chores)

    def values() -> list[set[int]]:
        return [set(w.task.ns.ipc.semaphores.set_of(ident).values) for ident in sets]

    assert values() == [{0}, {0}, {2}, {2}], "of a set all or nothing"
    assert w.call(sys_semctl, sets[2], 0, IPC_RMID, 0) == 0  # meanwhile
    del sets[2]
    assert len(chores) == 1 and not chores[0].step()
    assert values() == [{0}] * 3


def test_removal_wakes_everybody(w: World) -> None:
    ident = w.call(sys_semget, 0, 1, 0o600)
    others = [w.new_task() for _ in range(3)]
    for task in others:
        assert semop(w, ident, (0, -1, SEM_UNDO), task=task) == BLOCKED
    assert w.call(sys_semctl, ident, 0, IPC_RMID, 0) == 0
    assert [w.resume(task) for task in others] == [-e.EIDRM] * 3
    assert w.call(sys_semctl, ident, 0, SETVAL, 1) == -e.EINVAL


def test_a_receiver_is_handed_its_message(w: World) -> None:
    queue = w.call(sys_msgget, 0, 0o600)
    other = w.new_task()
    assert w.call(sys_msgrcv, queue, BUF, 100, 5, 0, task=other) == BLOCKED
    w.poke(BUF, pack("<q", 5) + b"five")
    assert w.call(sys_msgsnd, queue, BUF, 4, 0) == 0
    assert w.call(sys_msgrcv, queue, BUF, 100, 0, IPC_NOWAIT) == -e.ENOMSG
    assert w.resume(other) == 4
    assert w.peek(BUF, 12, other) == pack("<q", 5) + b"five"


def test_segments_take_room_from_the_storage_quota_only_when_written(w: World) -> None:
    ident = w.call(sys_shmget, 0x1234, 1 << 40, IPC_CREAT | 0o600)
    assert ident >= 0
    assert w.call(sys_shmget, 0x1234, 0, 0) == ident
    assert w.call(sys_shmget, 0, 1 << 60, 0o600) == -e.ENOMEM
    assert w.call(sys_shmctl, ident, IPC_RMID, 0) == 0
    assert w.call(sys_shmget, 0x1234, 0, 0) == -e.ENOENT


def test_many_waiters_are_tried_in_slices(w: World) -> None:
    """Each of 40 tries 500 operations, so not all of them can in one go; they still go on in their order."""
    ident = w.call(sys_semget, 0, 3, 0o600)
    up = [(0, 1, 0)] * 498
    tasks = [w.new_task() for _ in range(40)]
    for task in tasks:
        assert semop(w, ident, *up, (0, -498, 0), (1, -1, 0), task=task) == BLOCKED
    assert semop(w, ident, (1, 2, 0)) == 0
    assert [w.is_woken(task) for task in tasks[:3]] == [True, True, False]
    waiting = w.kernel.sliced
    assert len(waiting) == 1 and waiting[0] in tasks[10:30]  # it gets the rest
    carrier = waiting[0]
    assert w.interrupt(carrier) == -e.EINTR  # and then another's
    target = w.task.ns.ipc.semaphores.set_of(ident)
    turns = 0
    while target.carrier is not None:
        task = waiting.popleft()
        task.is_ready_queued = False
        if task.blocked is not None:
            assert task.blocked.retry(task) == BLOCKED
        turns += 1
    assert turns in (1, 2, 3) and not target.untried and not target.has_changed
    assert [w.resume(task) for task in tasks[:2]] == [0, 0]
    assert w.call(sys_semctl, ident, IPC_RMID, IPC_RMID, 0) == 0
