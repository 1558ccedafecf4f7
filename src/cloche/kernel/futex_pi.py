"""Priority-inheritance futexes: locks whose owner the kernel knows (futex(2), kernel/futex/pi.c, requeue.c).

The word holds the owner's tid.  Taking and releasing it without contention is the guest's own compare-and-exchange;
here are the operations for contention.  A `PiState` exists while tasks wait for a lock; unlocking hands the lock to the
waiter of the highest priority, in the word and here, before that task runs.  If the owner dies its locks are handed on
with FUTEX_OWNER_DIED (`release_locks`).

No priority is lent: the guests' priorities are bookkeeping (`kernel.sched`), the host's scheduler does not know them.
What programs can observe of the protocol (order, ownership, deadlocks, errors) is Linux's.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EDEADLK, EINVAL, EPERM, ERESTARTNOINTR, ESRCH, ETIMEDOUT, LinuxError
from cloche.abi.futex import (
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
)
from cloche.kernel.blocking import BLOCKED, TaskBase, block_on_time
from cloche.kernel.futex import (
    FutexEntry,
    FutexTable,
    Key,
    PiState,
    Word,
    compare_exchange,
    futex_key,
    futex_table,
    read_word,
)
from cloche.kernel.futex_change import ORDER, WordChange
from cloche.kernel.phase import WORKING
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.task import Task

_MAX_CHAIN: Final = 1024  # /proc/sys/kernel/max_lock_depth


class PiWait(WordChange):
    """A task that takes a lock or waits for it, or waits on a condition whose wake-up hands it the lock.

    (FUTEX_LOCK_PI, FUTEX_WAIT_REQUEUE_PI.) It changes the word when it takes the lock (0 becomes its tid), when it
    announces that it waits (FUTEX_WAITERS), and when it inherits the lock of a dead owner.
    """

    def __init__(self, task: Task, lock: Word, key: Key, deadline_ns: int, *, is_requeue: bool) -> None:
        super().__init__(task, lock.addr, key, deadline_ns)
        self.lock: Word = lock
        self.entry: FutexEntry | None = None
        self.is_requeue: bool = is_requeue
        self.is_try: bool = False
        self.is_granted: bool = False
        self.is_taking: bool = False  # the change under way makes this task the owner
        # the owner is dead and this task owns the lock; the word is being changed accordingly
        self.is_inheriting: bool = False
        self.is_chosen: bool = False  # another task is about to hand it the lock
        self.is_late: bool = False  # its deadline has passed meanwhile

    def state(self) -> PiState | None:
        """The state of the lock that it waits for."""
        return self.entry.pi if self.entry is not None else None

    def decide(self, value: int) -> int:
        """futex_lock_pi_atomic."""
        task = self.task
        if self.is_inheriting:
            self.new = self.heirs_word()
            return ORDER
        assert self.key is not None
        tid = value & FUTEX_TID_MASK
        if tid == task.own_tid:
            return -EDEADLK
        top = futex_table(task.kernel).top(self.key)
        if top is not None:
            state = top.pi
            if not _is_owner(state, value, task):
                return -EINVAL
            assert state is not None
            return self._join(state)
        self.is_taking = not tid
        if not tid:
            self.new = value & FUTEX_OWNER_DIED | task.own_tid
            return ORDER
        if not value & FUTEX_WAITERS:
            self.new = value | FUTEX_WAITERS
            return ORDER
        return self._attach(tid)

    def changed(self) -> int:
        if self.is_inheriting:
            self.is_granted = True
        if self.is_inheriting or self.is_taking:
            return 0
        return self.unless_changed(self._attach(self.old & FUTEX_TID_MASK))

    def _attach(self, tid: int) -> int:
        """The word says that there are waiters, but the kernel knows of none: find the owner (attach_to_pi_owner)."""
        task = self.task
        assert self.key is not None
        owner = task.kernel.tasks.get(pid_from(task.pid_ns, tid))
        if owner is None or owner.is_exited:
            return -ESRCH
        return self._join(PiState(self.key, owner))

    def _join(self, state: PiState) -> int:
        if self.is_try:
            return -EAGAIN
        if _closes_circle(self.task, state):
            return -EDEADLK
        return self.wait_in(state.key, state, None)

    def wait_in(self, key: Key, state: PiState | None, requeue_key: Key | None) -> int:
        """Wait in the queue of `key`; BLOCKED."""
        table = futex_table(self.task.kernel)
        entry = FutexEntry(self, 0, key, FUTEX_BITSET_MATCH_ANY)
        entry.pi, entry.requeue_key = state, requeue_key
        self.entry = entry
        if state is not None:
            _count_in(table, state)
        table.add(entry)
        return block_on_time(self.task, self)

    def grant(self) -> None:
        """The task owns the lock: take it off the queue, and end its wait."""
        self.is_granted = True
        self.leave()
        self.task.make_ready()

    def inherit(self) -> None:
        """The owner is dead and this task owns the lock now: take it off the queue, and end its wait once the word
        says so.

        No other change of the word is under way, because where there are waiters only the owner changes it. The
        change begins at once, before another task takes the lock, which the dead owner's robust list has marked as
        free.
        """
        task = self.task
        self.leave()
        self.is_inheriting = True
        self.tries = 0
        try:
            if task.phase == WORKING:  # its host thread is carrying out operations for a tracer
                compare_exchange(task, self.addr, read_word(task, self.addr), self.heirs_word())
            elif self.look(read_word(task, self.addr)) == BLOCKED:
                return
        except LinuxError:
            pass  # the word is unmapped or read-only: the task owns the lock all the same
        self.is_granted = True
        task.make_ready()

    def heirs_word(self) -> int:
        """The word's value for an inherited lock."""
        return self.task.own_tid | FUTEX_WAITERS | FUTEX_OWNER_DIED

    def leave(self) -> None:
        """Take the waiter off its queue."""
        entry = self.entry
        if entry is not None:
            self.entry = None
            table = futex_table(self.task.kernel)
            table.remove(entry)
            if entry.pi is not None:
                _count_out(table, entry.pi)

    def retry(self, task: TaskBase) -> int:
        if self.is_granted:
            return 0
        if self.entry is None:  # not in a queue yet, or not any more
            if not self.is_inheriting:
                return super().retry(task)
            try:
                result = super().retry(task)
            except LinuxError:
                result = 0
            return BLOCKED if result == BLOCKED else 0  # even where the word cannot be changed
        return -ETIMEDOUT if self.is_late and not self.is_chosen else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        if self.is_granted:
            return 0
        if self.is_chosen or self.is_inheriting:
            self.is_late = True
            return BLOCKED
        return -ETIMEDOUT

    def interrupted(self, task: TaskBase) -> int:
        if self.is_granted:
            return 0
        if self.is_ordered or self.is_chosen or self.is_inheriting:
            return BLOCKED
        # Once requeued it cannot start over: the word of the condition has changed.
        return -EAGAIN if self.is_requeue and self.state() is not None else -ERESTARTNOINTR

    def finished(self, task: TaskBase) -> None:
        super().finished(task)
        self.leave()


class HandOver(WordChange):
    """A change that hands the lock to a waiter; the waiter stays in its wait until the change has happened."""

    def __init__(self, task: Task, addr: int, key: Key) -> None:
        super().__init__(task, addr, key)
        self.chosen: PiWait | None = None

    def choose(self, op: PiWait) -> None:
        """Choose the waiter that gets the lock."""
        op.is_chosen = True
        self.chosen = op

    def undecided(self) -> None:
        op = self.chosen
        if op is not None:
            self.chosen = None
            op.is_chosen = False
            op.task.make_ready()  # its deadline may have passed, or a signal may have come

    def take_chosen(self) -> PiWait | None:
        """The chosen waiter, which may end its wait now; None if it has died meanwhile."""
        op = self.chosen
        self.chosen = None
        if op is None:
            return None
        op.is_chosen = False
        return op if op.task.blocked is op and not op.task.is_exited else None


class PiUnlock(HandOver):
    """FUTEX_UNLOCK_PI."""

    def __init__(self, task: Task, addr: int, key: Key) -> None:
        super().__init__(task, addr, key)
        self.owner_tid: int = task.own_tid  # the owner that the word names
        self.has_died: int = 0  # FUTEX_OWNER_DIED, if it was handed to a task that died at that moment

    def decide(self, value: int) -> int:
        task = self.task
        assert self.key is not None
        if value & FUTEX_TID_MASK != self.owner_tid:
            return 0 if self.has_died else -EPERM
        table = futex_table(task.kernel)
        top = table.top(self.key)
        if top is None:
            self.new = self.has_died
            return ORDER
        state = top.pi
        if state is None or state.owner is not task:
            return -EINVAL
        op = _next_waiter(table, state)
        assert op is not None
        self.choose(op)
        self.new = op.task.own_tid | FUTEX_WAITERS | self.has_died
        return ORDER

    def changed(self) -> int:
        chosen = self.chosen
        if chosen is None:
            return 0
        op = self.take_chosen()
        state = op.state() if op is not None else None
        if op is None or state is None:
            self.owner_tid, self.has_died = chosen.task.own_tid, FUTEX_OWNER_DIED
            return self.start()
        _hand_over(futex_table(self.task.kernel), state, op)
        return 0


def _count_in(table: FutexTable, state: PiState) -> None:
    state.waiters += 1
    if state.waiters == 1:
        table.owned.setdefault(state.owner, []).append(state)


def _count_out(table: FutexTable, state: PiState) -> None:
    state.waiters -= 1
    if state.waiters == 0:
        _disown(table, state)


def _disown(table: FutexTable, state: PiState) -> None:
    owned = table.owned.get(state.owner)
    if owned is not None and state in owned:
        owned.remove(state)
        if not owned:
            del table.owned[state.owner]


def _next_waiter(table: FutexTable, state: PiState) -> PiWait | None:
    for entry in table.queues.get(state.key, []):
        op = entry.op
        if entry.pi is state and isinstance(op, PiWait):
            return op
    return None


def _is_owner(state: PiState | None, value: int, task: Task) -> bool:
    """Whether the word agrees with what is known of its owner (attach_to_pi_state)."""
    if state is None:
        return False
    tid = value & FUTEX_TID_MASK
    if not tid and value & FUTEX_OWNER_DIED:
        return True  # it is about to die, and its robust list was handled already
    return pid_in(task.pid_ns, state.owner.tid) == tid


def _hand_over(table: FutexTable, state: PiState, op: PiWait) -> None:
    """Make `op`'s task the owner; the word says so already."""
    _disown(table, state)
    state.owner = op.task
    if state.waiters > 1:
        table.owned.setdefault(op.task, []).append(state)
    op.grant()


def _closes_circle(task: Task, state: PiState) -> bool:
    """Whether the lock's owner waits, through other locks, for one that `task` owns."""
    at: PiState | None = state
    for _step in range(_MAX_CHAIN):
        if at is None:
            return False
        if at.owner is task:
            return True
        op = at.owner.blocked
        at = op.state() if isinstance(op, PiWait) else None
    return True


def lock(task: Task, word: Word, deadline_ns: int, *, is_try: bool) -> int:
    """FUTEX_LOCK_PI until `deadline_ns` of CLOCK_MONOTONIC (-1: for ever), FUTEX_TRYLOCK_PI."""
    key = futex_key(task, word.addr, is_private=word.is_private)
    op = PiWait(task, word, key, deadline_ns, is_requeue=False)
    op.is_try = is_try
    return op.start()


def unlock(task: Task, word: Word) -> int:
    """FUTEX_UNLOCK_PI: to the next waiter, if there is one."""
    if read_word(task, word.addr) & FUTEX_TID_MASK != task.own_tid:
        return -EPERM
    return PiUnlock(task, word.addr, futex_key(task, word.addr, is_private=word.is_private)).start()


def wait_requeue(task: Task, word: Word, target: Word, deadline_ns: int) -> int:
    """FUTEX_WAIT_REQUEUE_PI: wait on `word` for FUTEX_CMP_REQUEUE_PI to `target`, a lock. Returns 0 once the task
    owns the lock.
    """
    if word.addr == target.addr:
        return -EINVAL
    target_key = futex_key(task, target.addr, is_private=target.is_private)
    key = futex_key(task, word.addr, is_private=word.is_private)
    if read_word(task, word.addr) != word.value:
        return -EAGAIN
    if key == target_key:
        return -EINVAL
    return PiWait(task, target, target_key, deadline_ns, is_requeue=True).wait_in(key, None, target_key)


def requeue(task: Task, source: Word, target: Word, wake_count: int, requeue_count: int, value: int) -> int:
    """FUTEX_CMP_REQUEUE_PI: give the lock to one waiter if it is free, make the others wait for it.
    Returns how many.
    """
    if wake_count < 0 or requeue_count < 0 or source.addr == target.addr or wake_count != 1:
        return -EINVAL
    source_key = futex_key(task, source.addr, is_private=source.is_private)
    target_key = futex_key(task, target.addr, is_private=target.is_private)
    if source_key == target_key:
        return -EINVAL
    if read_word(task, source.addr) != value:
        return -EAGAIN
    return PiRequeue(task, source_key, target.addr, target_key, requeue_count).start()


class PiRequeue(HandOver):
    """FUTEX_CMP_REQUEUE_PI: if the lock is free the first waiter takes it; all others wait for it."""

    def __init__(self, task: Task, source_key: Key, addr: int, target_key: Key, requeue_count: int) -> None:
        super().__init__(task, addr, target_key)
        self.source_key: Key = source_key
        self.requeue_count: int = requeue_count
        self.is_taking: bool = False

    def decide(self, value: int) -> int:
        task, key = self.task, self.key
        assert key is not None
        table = futex_table(task.kernel)
        first = table.top(self.source_key)
        if first is None:
            return 0
        if first.requeue_key != key or first.pi is not None:
            return -EINVAL
        op = first.op
        assert isinstance(op, PiWait)
        tid = value & FUTEX_TID_MASK
        if tid == op.task.own_tid:
            return -EDEADLK
        top = table.top(key)
        if top is not None:
            state = top.pi
            if not _is_owner(state, value, op.task):
                return -EINVAL
            assert state is not None
            return self._move(state, 0)
        self.is_taking = not tid
        if not tid:
            waiters = FUTEX_WAITERS if self.requeue_count > 0 else 0
            self.new = value & FUTEX_OWNER_DIED | op.task.own_tid | waiters
            self.choose(op)
            return ORDER
        if not value & FUTEX_WAITERS:
            self.new = value | FUTEX_WAITERS
            return ORDER
        return self._attach(tid)

    def changed(self) -> int:
        if not self.is_taking:
            return self.unless_changed(self._attach(self.old & FUTEX_TID_MASK))
        assert self.key is not None
        op = self.take_chosen()
        if op is None:
            return 1  # it died as the owner
        op.grant()
        return self._move(PiState(self.key, op.task), 1) if self.requeue_count > 0 else 1

    def _attach(self, tid: int) -> int:
        task = self.task
        assert self.key is not None
        owner = task.kernel.tasks.get(pid_from(task.pid_ns, tid))
        if owner is None or owner.is_exited:
            return -ESRCH
        return self._move(PiState(self.key, owner), 0)

    def _move(self, state: PiState, done: int) -> int:
        """Make the waiters of the condition wait for the lock. Returns how many there were in all."""
        table = futex_table(self.task.kernel)
        for entry in list(table.queues.get(self.source_key, [])):
            if done - 1 >= self.requeue_count:
                break
            if entry.requeue_key != state.key or entry.pi is not None:
                return -EINVAL
            if _closes_circle(entry.op.task, state):
                return -EDEADLK
            table.remove(entry)
            entry.key, entry.pi, entry.requeue_key = state.key, state, None
            _count_in(table, state)
            table.add(entry)
            done += 1
        return done


def release_locks(task: Task) -> None:
    """A task dies: end its wait, and hand its contended locks on (exit_pi_state_list).

    The new owners' threads change the words, since the dying one cannot.
    """
    op = task.blocked
    if isinstance(op, PiWait):
        op.leave()
    table = futex_table(task.kernel)
    for state in table.owned.pop(task, []):
        heir = _next_waiter(table, state)
        if heir is None:
            continue
        state.owner = heir.task
        if state.waiters > 1:
            table.owned.setdefault(heir.task, []).append(state)
        heir.inherit()
