"""Priority-inheritance futexes: locks whose owner the kernel knows (futex(2), kernel/futex/pi.c, requeue.c).

The word holds the owner's tid.  Taking and releasing it without contention is the guest's own compare-and-exchange;
here are the operations for contention.  A `PiState` exists while tasks wait for a lock; unlocking hands the lock to the
waiter of the highest priority, in the word and here, before that task runs.  If the owner dies its locks are handed on
with FUTEX_OWNER_DIED (`release_locks`).

No priority is lent: the guests' priorities are bookkeeping (`kernel.sched`), the host's scheduler does not know them.
What programs can observe of the protocol (order, ownership, deadlocks, errors) is Linux's.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EDEADLK, EINVAL, EPERM, ESRCH, ETIMEDOUT, LinuxError
from cloche.abi.futex import (
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
)
from cloche.kernel.blocking import BLOCKED, ERESTARTNOINTR, TaskBase, block_on_time
from cloche.kernel.futex import (
    CMP_RETRIES,
    FutexEntry,
    FutexOp,
    FutexTable,
    Key,
    PiState,
    Word,
    compare_exchange,
    futex_key,
    futex_table,
    read_word,
)
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.task import Task

_MAX_CHAIN: Final = 1024  # /proc/sys/kernel/max_lock_depth


class PiWait(FutexOp):
    """A task that waits for a lock, or on a condition whose wake-up hands it the lock (FUTEX_WAIT_REQUEUE_PI)."""

    def __init__(self, task: Task, lock: Word, deadline_ns: int, *, is_requeue: bool) -> None:
        super().__init__(task, deadline_ns)
        self.lock: Word = lock
        self.entry: FutexEntry | None = None
        self.is_requeue: bool = is_requeue
        self.is_granted: bool = False

    def state(self) -> PiState | None:
        """Of the lock that it waits for."""
        return self.entry.pi if self.entry is not None else None

    def queue(self, key: Key, state: PiState | None, requeue_key: Key | None) -> int:
        """Wait in the queue of `key`; BLOCKED."""
        table = futex_table(self.task.kernel)
        entry = FutexEntry(self, 0, key, FUTEX_BITSET_MATCH_ANY)
        entry.pi, entry.requeue_key = state, requeue_key
        self.entry = entry
        if state is not None:
            _count_in(table, state)
        table.add(entry)
        return block_on_time(self.task, self)

    def wake(self, index: int) -> None:
        raise AssertionError("plain operations leave it alone")

    def grant(self) -> None:
        """The task owns the lock: off the queue, and on it goes."""
        self.is_granted = True
        self.leave()
        self.task.make_ready()

    def leave(self) -> None:
        """Off the queue."""
        entry = self.entry
        if entry is not None:
            self.entry = None
            table = futex_table(self.task.kernel)
            table.remove(entry)
            if entry.pi is not None:
                _count_out(table, entry.pi)

    def retry(self, task: TaskBase) -> int:
        return 0 if self.is_granted else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        return 0 if self.is_granted else -ETIMEDOUT

    def interrupted(self, task: TaskBase) -> int:
        if self.is_granted:
            return 0
        # Once requeued it cannot start over: the word of the condition has changed.
        return -EAGAIN if self.is_requeue and self.state() is not None else -ERESTARTNOINTR

    def finished(self, task: TaskBase) -> None:
        self.leave()


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


def _hand_over(table: FutexTable, state: PiState, op: PiWait) -> None:
    """`op`'s task owns the lock now; the word says so already."""
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


def _take(task: Task, addr: int, key: Key, taker: Task, *, sets_waiters: bool) -> tuple[bool, PiState | None]:
    """Take the lock for `taker` if it is free, else say who owns it (futex_lock_pi_atomic).

    (taken, state); a lock that was taken has a state only if `sets_waiters`.  Raises LinuxError.
    """
    table = futex_table(task.kernel)
    for _attempt in range(CMP_RETRIES):
        value = read_word(task, addr)
        tid = value & FUTEX_TID_MASK
        if tid == taker.own_tid:
            raise LinuxError(EDEADLK)
        top = table.top(key)
        if top is not None:
            state = top.pi
            if state is None or pid_in(taker.pid_ns, state.owner.tid) != tid:
                raise LinuxError(EINVAL)
            return False, state
        if not tid:
            new = value & FUTEX_OWNER_DIED | taker.own_tid | (FUTEX_WAITERS if sets_waiters else 0)
            if compare_exchange(task, addr, value, new):
                return True, PiState(key, taker) if sets_waiters else None
            continue
        if not value & FUTEX_WAITERS and not compare_exchange(task, addr, value, value | FUTEX_WAITERS):
            continue
        owner = task.kernel.tasks.get(pid_from(task.pid_ns, tid))
        if owner is None or owner.is_exited:
            raise LinuxError(ESRCH)
        return False, PiState(key, owner)
    raise LinuxError(EAGAIN)


def lock(task: Task, word: Word, deadline_ns: int, *, is_try: bool) -> int:
    """FUTEX_LOCK_PI until `deadline_ns` of CLOCK_MONOTONIC (-1: for ever), FUTEX_TRYLOCK_PI."""
    key = futex_key(task, word.addr, is_private=word.is_private)
    taken, state = _take(task, word.addr, key, task, sets_waiters=False)
    if taken or state is None:
        return 0
    if is_try:
        return -EAGAIN
    if _closes_circle(task, state):
        return -EDEADLK
    return PiWait(task, word, deadline_ns, is_requeue=False).queue(key, state, None)


def unlock(task: Task, word: Word) -> int:
    """FUTEX_UNLOCK_PI: to the next waiter, if there is one."""
    table = futex_table(task.kernel)
    for _attempt in range(CMP_RETRIES):
        value = read_word(task, word.addr)
        if value & FUTEX_TID_MASK != task.own_tid:
            return -EPERM
        key = futex_key(task, word.addr, is_private=word.is_private)
        top = table.top(key)
        if top is None:
            if compare_exchange(task, word.addr, value, 0):
                return 0
            continue
        state = top.pi
        if state is None or state.owner is not task:
            return -EINVAL
        op = _next_waiter(table, state)
        assert op is not None
        if compare_exchange(task, word.addr, value, op.task.own_tid | FUTEX_WAITERS):
            _hand_over(table, state, op)
            return 0
    return -EAGAIN


def wait_requeue(task: Task, word: Word, target: Word, deadline_ns: int) -> int:
    """FUTEX_WAIT_REQUEUE_PI: wait on `word` for FUTEX_CMP_REQUEUE_PI to `target`, a lock; 0 once it is ours."""
    if word.addr == target.addr:
        return -EINVAL
    target_key = futex_key(task, target.addr, is_private=target.is_private)
    key = futex_key(task, word.addr, is_private=word.is_private)
    if read_word(task, word.addr) != word.value:
        return -EAGAIN
    if key == target_key:
        return -EINVAL
    return PiWait(task, target, deadline_ns, is_requeue=True).queue(key, None, target_key)


def requeue(task: Task, source: Word, target: Word, wake_count: int, requeue_count: int, value: int) -> int:
    """FUTEX_CMP_REQUEUE_PI: give the lock to one waiter if it is free, make the others wait for it; how many."""
    if wake_count < 0 or requeue_count < 0 or source.addr == target.addr or wake_count != 1:
        return -EINVAL
    source_key = futex_key(task, source.addr, is_private=source.is_private)
    target_key = futex_key(task, target.addr, is_private=target.is_private)
    if source_key == target_key:
        return -EINVAL
    if read_word(task, source.addr) != value:
        return -EAGAIN
    table = futex_table(task.kernel)
    top = table.top(source_key)
    if top is None:
        return 0
    if top.requeue_key != target_key or top.pi is not None:
        return -EINVAL
    first = top.op
    assert isinstance(first, PiWait)
    taken, state = _take(task, target.addr, target_key, first.task, sets_waiters=requeue_count > 0)
    done = 0
    if taken:
        first.grant()
        done = 1
    for entry in list(table.queues.get(source_key, [])):
        if done - wake_count >= requeue_count or state is None:
            break
        if entry.requeue_key != target_key or entry.pi is not None:
            return -EINVAL
        if _closes_circle(entry.op.task, state):
            return -EDEADLK
        table.remove(entry)
        entry.key, entry.pi, entry.requeue_key = target_key, state, None
        _count_in(table, state)
        table.add(entry)
        done += 1
    return done


def release_locks(task: Task) -> None:
    """A task dies: it waits no more, and the locks that others wait for pass on (exit_pi_state_list)."""
    op = task.blocked
    if isinstance(op, PiWait):
        op.leave()
    table = futex_table(task.kernel)
    for state in table.owned.pop(task, []):
        heir = _next_waiter(table, state)
        if heir is None:
            continue
        try:
            for _attempt in range(CMP_RETRIES):
                value = read_word(heir.task, heir.lock.addr)
                if compare_exchange(
                    heir.task, heir.lock.addr, value, heir.task.own_tid | FUTEX_WAITERS | FUTEX_OWNER_DIED
                ):
                    break
        except LinuxError:
            pass  # its memory is gone or read-only: it owns what it cannot see
        _hand_over(table, state, heir)
