"""Futexes: queues of tasks keyed by a word of memory, and robust lists (futex(2), kernel/futex/).

Owns the table of waiters.  A key names the word however it is mapped: by process and address for private memory, by
object and offset for shared.  As in Linux a private operation and a shared one on the same private word do not meet.

Why comparing and then queueing is safe though guest threads run meanwhile: whoever changes the word afterwards must
call FUTEX_WAKE, and that call is handled after this one has queued the waiter.  Words are always read fresh.

What is *not* atomic towards running guest threads is a change of a word by the kernel, which here is a read and a
later write (`compare_exchange`): FUTEX_WAKE_OP and the OWNER_DIED mark of robust lists.  A store by a guest between
the two is lost.  For OWNER_DIED that is harmless: the only legitimate store to a word whose owner is dead or dying
sets FUTEX_WAITERS, and the FUTEX_WAIT that follows finds another value and looks again.  For FUTEX_WAKE_OP, which
no current libc uses, the window is a few microseconds; closing it needs an operation of the platform's stub.
For the same reason the PI operations, whose protocol is all compare-and-exchange, are not implemented (ENOSYS, which
makes pthread_mutexattr_setprotocol's users fall back or fail cleanly).
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, EINVAL, ENOSYS, ETIMEDOUT, LinuxError
from cloche.abi.futex import (
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_OP_ADD,
    FUTEX_OP_ANDN,
    FUTEX_OP_CMP_EQ,
    FUTEX_OP_CMP_GE,
    FUTEX_OP_CMP_GT,
    FUTEX_OP_CMP_LE,
    FUTEX_OP_CMP_LT,
    FUTEX_OP_CMP_NE,
    FUTEX_OP_OPARG_SHIFT,
    FUTEX_OP_OR,
    FUTEX_OP_SET,
    FUTEX_OP_XOR,
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
    ROBUST_LIST_LIMIT,
)
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.abi.structs import ROBUST_LIST_HEAD_SIZE, unpack_robust_list_head
from cloche.kernel.blocking import (
    BLOCKED,
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    Blocked,
    TaskBase,
    block_on_time,
)
from cloche.kernel.task import Kernel, Task

Key = tuple[int, int, int, int]

_PRIVATE: Final = 0  # (process, address)
_SHARED_PRIVATE: Final = 1  # a shared operation on private memory: (process, address)
_SHARED: Final = 2  # (device, inode, offset)
_NAME: Final = "futex"  # in kernel.extra
_CMP_RETRIES: Final = 64


class FutexEntry:
    """One word that a task waits on."""

    def __init__(self, op: "FutexWait", index: int, key: Key, bitset: int) -> None:
        self.op: FutexWait = op
        self.index: int = index  # what futex_waitv returns
        self.key: Key = key
        self.bitset: int = bitset


class FutexTable:
    """All waiters of a sandbox, in the order of their arrival by key."""

    def __init__(self) -> None:
        self.queues: dict[Key, list[FutexEntry]] = {}

    def add(self, entry: FutexEntry) -> None:
        queue = self.queues.get(entry.key)
        if queue is None:
            self.queues[entry.key] = [entry]
        else:
            queue.append(entry)

    def remove(self, entry: FutexEntry) -> None:
        """Forget an entry that may have been woken already."""
        queue = self.queues.get(entry.key)
        if queue is not None and entry in queue:
            queue.remove(entry)
            if not queue:
                del self.queues[entry.key]

    def wake(self, key: Key, count: int, bitset: int) -> int:
        """Wake waiters whose bitset meets `bitset` until at least `count`, but one in any case, as Linux does."""
        queue = self.queues.get(key)
        if queue is None:
            return 0
        woken = 0
        for entry in list(queue):
            if not entry.bitset & bitset:
                continue
            queue.remove(entry)
            entry.op.wake(entry.index)
            woken += 1
            if woken >= count:
                break
        if not queue:
            del self.queues[key]
        return woken

    def requeue(self, source: Key, target: Key, wake_count: int, requeue_count: int) -> int:
        """Wake up to `wake_count`, move up to `requeue_count` more; how many in all."""
        queue = self.queues.get(source)
        if queue is None:
            return 0
        done = 0
        for entry in list(queue):
            if done - wake_count >= requeue_count:
                break
            done += 1
            if done <= wake_count:
                queue.remove(entry)
                entry.op.wake(entry.index)
            elif target != source:
                queue.remove(entry)
                entry.key = target
                self.add(entry)
        if not queue:
            del self.queues[source]
        return done


def futex_table(kernel: Kernel) -> FutexTable:
    """The sandbox's table."""
    found = kernel.extra.get(_NAME)
    if isinstance(found, FutexTable):
        return found
    table = FutexTable()
    kernel.extra[_NAME] = table
    return table


class Word:
    """A word to wait on, as a call names it."""

    def __init__(self, addr: int, value: int, bitset: int, *, is_private: bool) -> None:
        self.addr: int = addr
        self.value: int = value
        self.bitset: int = bitset
        self.is_private: bool = is_private


class FutexWait(Blocked):
    """A task that waits on one word, or on several (futex_waitv: the result is the index of the one woken)."""

    def __init__(self, task: Task, words: list[Word], deadline_ns: int, *, has_restart: bool) -> None:
        super().__init__(deadline_ns)
        self.task: Task = task
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
    """The key of the word at `addr`.  Raises LinuxError(EINVAL) if misaligned, EFAULT if it cannot be one."""
    if addr & 3:
        raise LinuxError(EINVAL)
    if addr + 4 > TASK_SIZE_MAX:
        raise LinuxError(EFAULT)
    mm = task.mm
    if is_private:
        return (_PRIVATE, mm.process.ident(), addr, 0)
    shared = mm.shared_key(addr)
    if shared is not None:
        return (_SHARED, shared[0], shared[1], shared[2])
    if mm.find(addr) is None and len(mm.process.read(addr, 4)) != 4:
        raise LinuxError(EFAULT)
    return (_SHARED_PRIVATE, mm.process.ident(), addr, 0)


def read_word(task: Task, addr: int) -> int:
    """The unsigned value of the word as it is now.  Raises LinuxError(EFAULT)."""
    data = task.mm.process.read(addr, 4)
    if len(data) != 4:
        raise LinuxError(EFAULT)
    return int.from_bytes(data, "little")


def compare_exchange(task: Task, addr: int, old: int, new: int) -> bool:
    """Replace `old` by `new`; False if the word is different.  Not atomic: see the head of this module."""
    if read_word(task, addr) != old:
        return False
    if task.mm.process.write(addr, (new & 0xFFFFFFFF).to_bytes(4, "little")) != 4:
        raise LinuxError(EFAULT)
    return True


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


def _sign_extend_12(value: int) -> int:
    return value - 0x1000 if value & 0x800 else value


def _signed(value: int) -> int:
    return value - 0x100000000 if value & 0x80000000 else value


def _apply(operation: int, old: int, operand: int) -> int:
    if operation == FUTEX_OP_SET:
        return operand & 0xFFFFFFFF
    if operation == FUTEX_OP_ADD:
        return (old + operand) & 0xFFFFFFFF
    if operation == FUTEX_OP_OR:
        return (old | operand) & 0xFFFFFFFF
    if operation == FUTEX_OP_ANDN:
        return old & ~operand & 0xFFFFFFFF
    if operation == FUTEX_OP_XOR:
        return (old ^ operand) & 0xFFFFFFFF
    raise LinuxError(ENOSYS)


def _compares(comparison: int, old: int, operand: int) -> bool:
    value = _signed(old)
    if comparison == FUTEX_OP_CMP_EQ:
        return value == operand
    if comparison == FUTEX_OP_CMP_NE:
        return value != operand
    if comparison == FUTEX_OP_CMP_LT:
        return value < operand
    if comparison == FUTEX_OP_CMP_GE:
        return value >= operand
    if comparison == FUTEX_OP_CMP_LE:
        return value <= operand
    if comparison == FUTEX_OP_CMP_GT:
        return value > operand
    raise LinuxError(ENOSYS)


def wake_op(task: Task, first: Word, second: Word, count: int, second_count: int, encoded: int) -> int:
    """FUTEX_WAKE_OP: change the second word, wake the first, and the second if its old value compares."""
    first_key = futex_key(task, first.addr, is_private=first.is_private)
    second_key = futex_key(task, second.addr, is_private=second.is_private)
    operation = (encoded >> 28) & 7
    operand = _sign_extend_12((encoded >> 12) & 0xFFF)
    if (encoded >> 28) & FUTEX_OP_OPARG_SHIFT:
        operand = 1 << (operand & 31)
    old = read_word(task, second.addr)
    tries = 1
    while not compare_exchange(task, second.addr, old, _apply(operation, old, operand)):
        if tries == _CMP_RETRIES:
            return -EAGAIN
        tries += 1
        old = read_word(task, second.addr)
    is_second = _compares((encoded >> 24) & 15, old, _sign_extend_12(encoded & 0xFFF))
    table = futex_table(task.kernel)
    woken = table.wake(first_key, count, FUTEX_BITSET_MATCH_ANY)
    if is_second:
        woken += table.wake(second_key, second_count, FUTEX_BITSET_MATCH_ANY)
    return woken


# -- the end of a task -------------------------------------------------------------------------------------------


def release_memory(task: Task) -> None:
    """A task is about to leave its address space (exit, execve), which can still be read (mm_release).

    Marks and wakes its robust futexes, and the word of set_tid_address(2) if others use the memory.
    """
    mm = task.mm
    if task.robust_list:
        if not mm.is_dead:
            exit_robust_list(task)
        task.robust_list = 0
    addr = task.clear_child_tid
    if addr:
        task.clear_child_tid = 0
        if task.group.is_exiting and mm.users <= len(task.group.tasks):
            return
        if mm.users > 1 and not mm.is_dead and mm.process.write(addr, bytes(4)) == 4:
            _wake_quietly(task, addr)


def _wake_quietly(task: Task, addr: int) -> None:
    try:
        wake(task, addr, 1, FUTEX_BITSET_MATCH_ANY, is_private=False)
    except LinuxError:
        pass  # not a futex: nobody can wait there


def exit_robust_list(task: Task) -> None:
    """Walk the robust list of a task that ends (kernel/futex/core.c); whatever is wrong with it ends the walk."""
    process = task.mm.process
    head = task.robust_list
    data = process.read(head, ROBUST_LIST_HEAD_SIZE)
    if len(data) != ROBUST_LIST_HEAD_SIZE:
        return
    entry, offset, pending = unpack_robust_list_head(data)
    pending_addr = pending & ~1
    left = ROBUST_LIST_LIMIT
    while entry & ~1 != head:
        addr, is_pi = entry & ~1, entry & 1 != 0
        data = process.read(addr, 8)
        if addr != pending_addr and not _mark_dead(task, addr + offset, is_pi=is_pi, is_pending=False):
            return
        left -= 1
        if len(data) != 8 or left == 0:
            break
        entry = int.from_bytes(data, "little")
    if pending_addr:
        _mark_dead(task, pending_addr + offset, is_pi=pending & 1 != 0, is_pending=True)


def _mark_dead(task: Task, addr: int, *, is_pi: bool, is_pending: bool) -> bool:
    """handle_futex_death: False where the word cannot be one."""
    addr &= 0xFFFFFFFFFFFFFFFF
    if addr & 3:
        return False
    try:
        for _attempt in range(_CMP_RETRIES):
            value = read_word(task, addr)
            if is_pending and not is_pi and not value:
                # Unlocked, but perhaps nobody was woken any more.
                _wake_quietly(task, addr)
                return True
            if value & FUTEX_TID_MASK != task.tid:
                return True
            if compare_exchange(task, addr, value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED):
                if not is_pi and value & FUTEX_WAITERS:
                    _wake_quietly(task, addr)
                return True
    except LinuxError:
        return False
    return True
