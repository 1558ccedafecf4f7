"""System V semaphores (ipc/sem.c): sets, atomic operations, waiting, and SEM_UNDO.

A call that changes a set tries the operations of its waiters at once, in their order. A waiter whose operations
succeed (or never can) has its result before it is retried, so nothing is done twice. If there are many (each may have
500), the first waiter that was not reached continues in a slice of its own (I8): the *carrier*.
"""

import time
from collections import deque
from typing import Final

from cloche.abi.errno import EAGAIN, EFBIG, EIDRM, EINTR, EINVAL, ENOSPC, ERANGE, LinuxError
from cloche.abi.ipc import IPC_NOWAIT, SEM_UNDO, SEMAEM, SEMID_DS, SEMVMX, pack_perm
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.chores import Chore
from cloche.kernel.ipc.ids import IpcIds, IpcObject, IpcQuota
from cloche.vfs.objects import Context

SEMMSL: Final = 32000  # semaphores of a set
SEMMNI: Final = 32000  # sets
SEMMNS: Final = 1_024_000  # semaphores of all sets; Linux's default is a thousand times this
SEMOPM: Final = 500  # operations of a call
TRIES: Final = 8192  # operations that are tried before others have their turn
_SEM_BYTES: Final = 16  # what a semaphore takes here
_UNDO_BYTES: Final = 400  # and what a process undoes in a set, beside the adjustments

Operation = tuple[int, int, int]  # semaphore, operation, flags


class UndoList:
    """The adjustments of the tasks that share them (CLONE_SYSVSEM)."""

    def __init__(self) -> None:
        self.users: int = 1
        self.undos: dict[SemaphoreSet, Undo] = {}


class Undo:
    """The adjustments to one set: a short for each semaphore, as in Linux, so that all of it goes at once."""

    def __init__(self, quota: IpcQuota, count: int) -> None:
        """Raises LinuxError(ENOMEM)."""
        quota.charge(_UNDO_BYTES + 2 * count)
        self.quota: IpcQuota = quota
        self.count: int = count
        self.adjust: bytearray = bytearray(2 * count)

    def get(self, number: int) -> int:
        """What is to be added to a semaphore."""
        at = 2 * number
        value = self.adjust[at] | self.adjust[at + 1] << 8
        return value - 0x10000 if value & 0x8000 else value

    def set(self, number: int, adjust: int) -> None:
        """Change that; it fits."""
        at = 2 * number
        self.adjust[at] = adjust & 0xFF
        self.adjust[at + 1] = adjust >> 8 & 0xFF

    def forget_all(self) -> None:
        """SETALL: nothing is to be undone."""
        self.adjust = bytearray(2 * self.count)

    def drop(self) -> None:
        """Give its room back."""
        self.quota.uncharge(_UNDO_BYTES + 2 * self.count)


class SemWait(Blocked):
    """semop(2) that cannot go on yet."""

    def __init__(
        self,
        target: "SemaphoreSet",
        task: TaskBase,
        ops: list[Operation],
        undo: Undo | None,
        deadline_ns: int,
    ) -> None:
        super().__init__(deadline_ns)
        self.target: SemaphoreSet = target
        self.task: TaskBase = task
        self.pid: int = task.thread_group_id()
        self.ops: list[Operation] = ops
        self.undo: Undo | None = undo
        self.blocking: Operation = ops[0]  # the operation that it waits for
        self.result: int = BLOCKED

    def finish(self, result: int) -> None:
        """Its operations are done, or can never be."""
        self.result = result
        self.task.make_ready()

    def retry(self, task: TaskBase) -> int:
        self._carry()
        return self.result

    def timed_out(self, task: TaskBase) -> int:
        return self.result if self.result != BLOCKED else -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        return self.result if self.result != BLOCKED else -EINTR

    def finished(self, task: TaskBase) -> None:
        self.target.waiters.pop(self, None)
        self._carry()

    def _carry(self) -> None:
        """As the carrier, continue the round."""
        target = self.target
        if target.carrier is self:
            target.carrier = None
            target.go_on()


class SemaphoreSet(IpcObject):
    """A set: its values, the pid that last changed each, and the waiters in order."""

    def __init__(self, ctx: Context, ids: "SemaphoreIds", key: int, mode: int, count: int) -> None:
        super().__init__(ctx, key, mode)
        self.ids: SemaphoreIds = ids
        self.values: list[int] = [0] * count
        self.pids: list[int] = [0] * count
        self.otime: int = 0
        self.waiters: dict[SemWait, None] = {}
        self.undo_lists: dict[UndoList, None] = {}
        # the waiters of the current round that were not tried yet, the next one last
        self.untried: list[SemWait] = []
        self.has_changed: bool = False  # since that round began
        self.carrier: SemWait | None = None

    def status(self, owner: tuple[int, int, int, int]) -> bytes:
        """struct semid64_ds; `owner` as the caller sees the ids."""
        return pack_perm(self.key, owner, self.mode, self.seq) + SEMID_DS.pack(
            self.otime, 0, self.ctime, 0, len(self.values), 0, 0
        )

    # -- operations ------------------------------------------------------------------------------------------
    def attempt(self, ops: list[Operation], undo: Undo | None, pid: int) -> tuple[int, int]:
        """All of the operations or none: (0, -1), (-errno, -1), or (1, the index of the one that must wait)."""
        values = self.values
        before: dict[int, int] = {}
        adjusted: dict[int, int] = {}
        index = 0
        error = 0
        blocking = -1
        for number, op, flags in ops:
            value = values[number]
            if op == 0 and value != 0 or value + op < 0:
                blocking = index
                error = -EAGAIN if flags & IPC_NOWAIT else 1
                break
            if value + op > SEMVMX:
                error = -ERANGE
                break
            if flags & SEM_UNDO and undo is not None:
                adjust = (adjusted[number] if number in adjusted else undo.get(number)) - op
                if adjust < -SEMAEM - 1 or adjust > SEMAEM:
                    error = -ERANGE
                    break
                adjusted[number] = adjust
            if number not in before:
                before[number] = value
            values[number] = value + op
            index += 1
        if error:
            for number, value in before.items():
                values[number] = value
            return error, blocking
        for number, _op, _flags in ops:
            self.pids[number] = pid
        if undo is not None:
            for number, adjust in adjusted.items():
                undo.set(number, adjust)
        self.otime = int(time.time())
        return 0, -1

    def update(self) -> None:
        """Values have changed: let waiters go on, first come first served (update_queue)."""
        self.has_changed = True
        if self.carrier is None:
            self.go_on()

    def go_on(self) -> None:
        """Do a part of a round, or of several, until no waiter is left that a change may concern."""
        tries = TRIES
        while True:
            if not self.untried:
                if not self.has_changed or not self.waiters:
                    self.has_changed = False
                    return
                self.has_changed = False
                self.untried = list(self.waiters)
                self.untried.reverse()
            waiter = self.untried[-1]
            if waiter not in self.waiters:
                self.untried.pop()
                continue
            if tries <= 0:
                self.carrier = waiter
                waiter.task.queue_slice()
                return
            self.untried.pop()
            error, blocking = self.attempt(waiter.ops, waiter.undo, waiter.pid)
            if error > 0:
                tries -= blocking + 1
                waiter.blocking = waiter.ops[blocking]
                continue
            tries -= len(waiter.ops)
            del self.waiters[waiter]
            waiter.finish(error)
            if error == 0 and self._helps_others(waiter.ops):
                self.untried = []  # from the first one on
                self.has_changed = True

    def _helps_others(self, ops: list[Operation]) -> bool:
        """Whether these operations may let earlier waiters go on: a value rose, or fell to zero."""
        for number, op, _flags in ops:
            if op > 0 or (op < 0 and self.values[number] == 0):
                return True
        return False

    def set_values(self, changes: list[tuple[int, int]], pid: int) -> None:
        """SETVAL and SETALL: (number, value) pairs. Adjustments of these semaphores are dropped."""
        for number, value in changes:
            self.values[number] = value
            self.pids[number] = pid
        for undo_list in self.undo_lists:
            undo = undo_list.undos[self]
            if len(changes) == 1:
                undo.set(changes[0][0], 0)
            else:
                undo.forget_all()
        self.ctime = int(time.time())
        self.update()

    def waiting(self, number: int, *, for_zero: bool) -> int:
        """GETNCNT and GETZCNT: how many wait for this semaphore."""
        count = 0
        for waiter in self.waiters:
            if waiter.blocking[0] == number and (waiter.blocking[1] == 0) == for_zero:
                count += 1
        return count

    def remove(self) -> None:
        """IPC_RMID: waiters get EIDRM."""
        for undo_list in self.undo_lists:
            undo_list.undos.pop(self).drop()
        self.undo_lists.clear()
        self.ids.used -= len(self.values)
        self.ids.quota.uncharge(_SEM_BYTES * len(self.values))
        self.ids.remove(self)
        self.untried = []
        self.carrier = None
        for waiter in list(self.waiters):
            waiter.finish(-EIDRM)
        self.waiters.clear()


class SemaphoreIds(IpcIds):
    """The sets of a namespace."""

    def __init__(self, quota: IpcQuota) -> None:
        super().__init__(SEMMNI, quota)
        self.used: int = 0  # semaphores

    def set_of(self, ident: int) -> SemaphoreSet:
        """Raises LinuxError(EINVAL)."""
        found = self.get(ident)
        assert isinstance(found, SemaphoreSet)
        return found

    def create(self, ctx: Context, key: int, count: int, flags: int) -> int:
        """newary: the identifier.  Raises LinuxError(EINVAL, ENOSPC, ENOMEM)."""
        if count == 0:
            raise LinuxError(EINVAL)
        if self.used + count > SEMMNS:
            raise LinuxError(ENOSPC)
        self.charge_object(_SEM_BYTES * count)
        self.used += count
        return self.add(SemaphoreSet(ctx, self, key, flags, count))

    def release(self) -> None:
        """The namespace is gone."""
        for each in self.in_order():
            assert isinstance(each, SemaphoreSet)
            each.remove()


def operate(
    task: TaskBase, ids: SemaphoreIds, ident: int, ops: list[Operation], undo_list: UndoList, deadline_ns: int
) -> int:
    """semop(2) after its arguments were read; 0 or BLOCKED.  Raises LinuxError, returns -errno."""
    target = ids.set_of(ident)
    is_altering = False
    is_undone = False
    for number, op, flags in ops:
        if number >= len(target.values):
            return -EFBIG
        if op:
            is_altering = True
            if flags & SEM_UNDO:
                is_undone = True
    target.require(task, 0o222 if is_altering else 0o444)
    undo: Undo | None = None
    if is_undone:
        undo = undo_list.undos.get(target)
        if undo is None:
            undo = Undo(ids.quota, len(target.values))
            undo_list.undos[target] = undo
            target.undo_lists[undo_list] = None
    error, blocking = target.attempt(ops, undo, task.thread_group_id())
    if error <= 0:
        if error == 0 and is_altering:
            target.update()
        return error
    waiter = SemWait(target, task, ops, undo, deadline_ns)
    waiter.blocking = ops[blocking]
    target.waiters[waiter] = None
    return block_on_time(task, waiter)


class Undoing(Chore):
    """The adjustments of tasks that are gone (exit_sem): a set at a time, of which others see all or none."""

    def __init__(self, undo_list: UndoList, pid: int) -> None:
        self.undos: dict[SemaphoreSet, Undo] = undo_list.undos
        self.undo_list: UndoList = undo_list
        self.pid: int = pid

    def step(self) -> bool:
        target = next(iter(self.undos), None)
        if target is None:
            return False
        undo = self.undos.pop(target)
        target.undo_lists.pop(self.undo_list, None)
        is_changed = False
        for number in range(undo.count):
            adjust = undo.get(number)
            if adjust:
                target.values[number] = min(max(target.values[number] + adjust, 0), SEMVMX)
                target.pids[number] = self.pid
                is_changed = True
        undo.drop()
        if is_changed:
            target.otime = int(time.time())
            target.update()
        return bool(self.undos)


def leave_undo_list(undo_list: UndoList, pid: int, chores: deque[Chore]) -> None:
    """A task that used the list is gone; the last one's adjustments take place, those that are many as a chore."""
    undo_list.users -= 1
    if undo_list.users > 0:
        return
    undoing = Undoing(undo_list, pid)
    room = TRIES
    for undo in list(undo_list.undos.values()):
        room -= undo.count
        if not undoing.step():
            return
        if room <= 0:
            chores.append(undoing)
            return
