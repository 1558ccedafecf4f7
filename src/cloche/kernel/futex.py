"""Futexes: queues of tasks keyed by a word of memory, and robust lists (futex(2), kernel/futex/).

Owns the table of waiters.  A key names the word however it is mapped: by process and address for private memory, by
object and offset for shared.  As in Linux a private operation and a shared one on the same private word do not meet.

Comparing and then queueing is safe although guest threads run meanwhile: a thread that changes the word afterwards
must call FUTEX_WAKE, and that call is handled after this one has queued the waiter. Words are always read fresh.

Changes of a word by the kernel are in `futex_change` (how), `futex_op` (FUTEX_WAKE_OP) and `futex_pi`.

Two kinds of waiters share a queue: plain ones, and those of priority-inheritance futexes (`futex_pi`), which carry the
state of the lock that they wait for, or the word that they may be requeued to.  As in Linux, an operation of one kind
that meets a waiter of the other gives EINVAL.  `futex_exit` handles the futexes of a dying task.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, EINVAL, ERESTART_RESTARTBLOCK, ERESTARTSYS, ETIMEDOUT, LinuxError
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.abi.mman import PROT_WRITE
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.parts import FutexWaiters
from cloche.kernel.sched import priority_of
from cloche.kernel.task import Kernel, Task

Key = int  # see futex_key: one number, as it is looked up for each call
CMP_RETRIES: Final = 64


_FAIR: Final = 100  # the priority of every task that is not real-time


class FutexOp(Blocked):
    """A wait on words."""

    def __init__(self, task: Task, deadline_ns: int) -> None:
        super().__init__(deadline_ns)
        self.task: Task = task

    def wake(self, index: int) -> None:
        """The entry with that index was taken off its queue: the wait is over."""
        raise NotImplementedError


class PiState:
    """The owner of a priority-inheritance futex (struct futex_pi_state); exists while tasks wait for it."""

    def __init__(self, key: Key, owner: Task) -> None:
        self.key: Key = key
        self.owner: Task = owner
        self.waiters: int = 0


class FutexEntry:
    """One word that a task waits on."""

    def __init__(self, op: FutexOp, index: int, key: Key, bitset: int) -> None:
        self.op: FutexOp = op
        self.index: int = index  # what futex_waitv returns
        self.key: Key = key
        self.bitset: int = bitset
        self.priority: int = wake_order(op.task)
        self.pi: PiState | None = None  # of the lock that it waits for
        self.requeue_key: Key | None = None  # of FUTEX_WAIT_REQUEUE_PI

    def is_plain(self) -> bool:
        """Whether the plain operations may touch it."""
        return self.pi is None and self.requeue_key is None


def wake_order(task: Task) -> int:
    """Tasks of SCHED_DEADLINE, real-time tasks by their priority, then all others in the order of their arrival."""
    return min(priority_of(task), _FAIR)


class FutexTable(FutexWaiters):
    """All waiters of a sandbox by key, those of higher priority first."""

    def __init__(self) -> None:
        self.queues: dict[Key, list[FutexEntry]] = {}
        self.changing: dict[Key, FutexOp] = {}  # a change of the word that is under way (futex_change)
        self.owned: dict[Task, list[PiState]] = {}  # locks that others wait for, by owner (futex_pi)

    def add(self, entry: FutexEntry) -> None:
        queue = self.queues.get(entry.key)
        if queue is None:
            self.queues[entry.key] = [entry]
            return
        at = len(queue)
        while at > 0 and queue[at - 1].priority > entry.priority:
            at -= 1
        queue.insert(at, entry)

    def top(self, key: Key) -> FutexEntry | None:
        """The entry that is woken next."""
        queue = self.queues.get(key)
        return queue[0] if queue is not None else None

    def remove(self, entry: FutexEntry) -> None:
        """Forget an entry that may have been woken already."""
        queue = self.queues.get(entry.key)
        if queue is not None and entry in queue:
            queue.remove(entry)
            if not queue:
                del self.queues[entry.key]

    def wake(self, key: Key, count: int, bitset: int) -> int:
        """Wake waiters whose bitset meets `bitset` until at least `count`, but one in any case, as Linux does.

        -EINVAL once one is met that waits for a priority-inheritance futex.
        """
        queue = self.queues.get(key)
        if queue is None:
            return 0
        woken = 0
        at = 0
        while at < len(queue):
            entry = queue[at]
            if not entry.is_plain():
                woken = -EINVAL
                break
            if not entry.bitset & bitset:
                at += 1
                continue
            queue.pop(at)
            entry.op.wake(entry.index)
            woken += 1
            if woken >= count:
                break
        if not queue:
            del self.queues[key]
        return woken

    def requeue(self, source: Key, target: Key, wake_count: int, requeue_count: int) -> int:
        """Wake up to `wake_count` waiters and move up to `requeue_count` more. Returns how many in all, or -EINVAL as
        in `wake`.
        """
        queue = self.queues.get(source)
        if queue is None:
            return 0
        done = 0
        at = 0
        while at < len(queue) and done - wake_count < requeue_count:
            entry = queue[at]
            if not entry.is_plain():
                done = -EINVAL
                break
            done += 1
            if done <= wake_count:
                queue.pop(at)
                entry.op.wake(entry.index)
            elif target != source:
                queue.pop(at)
                entry.key = target
                self.add(entry)
            else:
                at += 1
        if not queue:
            del self.queues[source]
        return done


def futex_table(kernel: Kernel) -> FutexTable:
    """The sandbox's table."""
    found = kernel.futexes
    if isinstance(found, FutexTable):
        return found
    table = FutexTable()
    kernel.futexes = table
    return table


class Word:
    """A word to wait on, as a call names it."""

    def __init__(self, addr: int, value: int, bitset: int, *, is_private: bool) -> None:
        self.addr: int = addr
        self.value: int = value
        self.bitset: int = bitset
        self.is_private: bool = is_private


class FutexWait(FutexOp):
    """A task that waits on one word, or on several (futex_waitv: the result is the index of the one woken)."""

    def __init__(self, task: Task, words: list[Word], deadline_ns: int, *, has_restart: bool) -> None:
        super().__init__(task, deadline_ns)
        self.words: list[Word] = words
        self.entries: list[FutexEntry] = []
        self.woken: int = -1  # index of the first word that was woken
        self.has_restart: bool = has_restart  # resume through restart_syscall rather than anew

    def start(self) -> int:
        """Compare every word and queue on all: BLOCKED, -EAGAIN, or -EFAULT."""
        task = self.task
        keys = [futex_key(task, word.addr, is_private=word.is_private) for word in self.words]
        for word in self.words:
            if read_word(task, word.addr) != word.value:
                return -EAGAIN
        table = futex_table(task.kernel)
        index = 0
        for word in self.words:
            entry = FutexEntry(self, index, keys[index], word.bitset)
            self.entries.append(entry)
            table.add(entry)
            index += 1
        self.woken = -1
        return block_on_time(task, self)

    def wake(self, index: int) -> None:
        if self.woken < 0:
            self.woken = index
            self.task.make_ready()

    def retry(self, task: TaskBase) -> int:
        return self.woken if self.woken >= 0 else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        return self.woken if self.woken >= 0 else -ETIMEDOUT

    def interrupted(self, task: TaskBase) -> int:
        if self.woken >= 0:
            return self.woken
        if self.deadline_ns < 0 or not self.has_restart:
            return -ERESTARTSYS
        self.task.restart = self
        return -ERESTART_RESTARTBLOCK

    def restart(self, task: TaskBase) -> int:
        return self.start()

    def finished(self, task: TaskBase) -> None:
        if self.entries:
            table = futex_table(self.task.kernel)
            for entry in self.entries:
                table.remove(entry)
            self.entries = []


def futex_key(task: Task, addr: int, *, is_private: bool) -> Key:
    """The key of the word at `addr`.  Raises LinuxError(EINVAL) if misaligned, EFAULT if it cannot be one.

    Of private memory the process and the address, whose two lowest bits are free for what the operation called itself;
    of shared memory, below zero, device, inode and offset.
    """
    if addr & 3:
        raise LinuxError(EINVAL)
    if addr + 4 > TASK_SIZE_MAX:
        raise LinuxError(EFAULT)
    mm = task.mm
    if is_private:
        return _private_key(mm.process.ident(), addr)
    area = mm.find(addr)
    if area is None:
        if len(mm.process.read(addr, 4)) != 4:
            raise LinuxError(EFAULT)
    elif not area.prot:
        raise LinuxError(EFAULT)
    elif area.is_shared() and area.backing is not None:
        dev, ino = area.backing.map_identity()
        return ~((dev << 128) + (ino << 64) + area.offset + addr - area.start)
    elif area.backing is None and not area.prot & PROT_WRITE:
        raise LinuxError(EFAULT)  # get_futex_key requires anonymous memory to be writable
    return _private_key(mm.process.ident(), addr) + 1


def _private_key(process: int, addr: int) -> Key:
    """An even number: `addr` is below 2^47 and a multiple of 4."""
    return (process << 46) + (addr >> 1)


def read_word(task: Task, addr: int) -> int:
    """The unsigned value of the word as it is now.  Raises LinuxError(EFAULT)."""
    data = task.mm.process.read(addr, 4)
    if len(data) != 4:
        raise LinuxError(EFAULT)
    return int.from_bytes(data, "little")


def compare_exchange(task: Task, addr: int, old: int, new: int) -> bool:
    """Replace `old` by `new`; False if the word is different.  Raises LinuxError(EFAULT)."""
    return task.user_memory().compare_exchange32(addr, old, new) == old


def wait(task: Task, word: Word, deadline_ns: int, *, has_restart: bool) -> int:
    """FUTEX_WAIT_BITSET until `deadline_ns` of CLOCK_MONOTONIC (-1: for ever)."""
    if not word.bitset:
        return -EINVAL
    return FutexWait(task, [word], deadline_ns, has_restart=has_restart).start()


def wait_many(task: Task, words: list[Word], deadline_ns: int) -> int:
    """futex_waitv(2)."""
    return FutexWait(task, words, deadline_ns, has_restart=False).start()


def wake(task: Task, addr: int, count: int, bitset: int, *, is_private: bool) -> int:
    """FUTEX_WAKE_BITSET: how many were woken."""
    if not bitset:
        return -EINVAL
    key = futex_key(task, addr, is_private=is_private)
    return futex_table(task.kernel).wake(key, count, bitset)


def requeue(task: Task, source: Word, target: Word, wake_count: int, requeue_count: int, compare: int) -> int:
    """FUTEX_REQUEUE; with `compare` >= 0 FUTEX_CMP_REQUEUE: -EAGAIN if the source's word is different."""
    if wake_count < 0 or requeue_count < 0:
        return -EINVAL
    source_key = futex_key(task, source.addr, is_private=source.is_private)
    target_key = futex_key(task, target.addr, is_private=target.is_private)
    if compare >= 0 and read_word(task, source.addr) != compare:
        return -EAGAIN
    return futex_table(task.kernel).requeue(source_key, target_key, wake_count, requeue_count)
