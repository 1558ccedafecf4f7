"""The futexes of a task that leaves its address space: robust lists, set_tid_address(2), locks (mm_release).

Called while the memory can still be read. A robust list is guest data: any error in it ends the walk.
"""

from typing import Final

from cloche.abi.errno import LinuxError
from cloche.abi.futex import (
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
    ROBUST_LIST_LIMIT,
)
from cloche.abi.structs import ROBUST_LIST_HEAD_SIZE, unpack_robust_list_head
from cloche.kernel.futex import CMP_RETRIES, compare_exchange, read_word, wake
from cloche.kernel.futex_pi import release_locks
from cloche.kernel.task import Task
from cloche.platform.interface import HostProcess

_M64: Final = 0xFFFFFFFFFFFFFFFF


def release_memory(task: Task) -> None:
    """A task is about to leave its address space (exit, execve), which can still be read (mm_release).

    Marks and wakes its robust futexes, passes its locks on, and wakes the word of set_tid_address(2) if others use
    the memory.
    """
    mm = task.mm
    if task.exit_words.robust_list:
        if not mm.is_dead:
            exit_robust_list(task)
        task.exit_words.robust_list = 0
    release_locks(task)
    addr = task.exit_words.clear_child_tid
    if addr:
        task.exit_words.clear_child_tid = 0
        if task.group.end.is_begun and mm.users <= len(task.group.tasks):
            return
        if mm.users > 1 and not mm.is_dead and mm.process.write(addr, bytes(4)) == 4:
            _wake_quietly(task, addr)


def _wake_quietly(task: Task, addr: int) -> None:
    try:
        wake(task, addr, 1, FUTEX_BITSET_MATCH_ANY, is_private=False)
    except LinuxError:
        pass  # not a futex: no task can wait there


class RobustList:
    """The robust list of a task, read entry by entry: the addresses of its words.  All of it is guest data."""

    def __init__(self, task: Task) -> None:
        self.process: HostProcess = task.mm.process
        self.head: int = task.exit_words.robust_list
        self.left: int = ROBUST_LIST_LIMIT
        self.entry: int = 0
        self.offset: int = 0
        self.pending: int = 0
        self.is_pi: bool = False
        self.is_pending: bool = False  # the word is of a lock that was being taken or given up
        data = self.process.read(self.head, ROBUST_LIST_HEAD_SIZE)
        if len(data) == ROBUST_LIST_HEAD_SIZE:
            self.entry, self.offset, self.pending = unpack_robust_list_head(data)
        else:
            self.stop()

    def stop(self) -> None:
        """The list is malformed: end the walk."""
        self.left = 0
        self.pending = 0

    def next_word(self) -> int:
        """The address of the next word, -1 at the end."""
        while self.left > 0 and self.entry & ~1 != self.head:
            addr, self.is_pi = self.entry & ~1, self.entry & 1 != 0
            data = self.process.read(addr, 8)
            self.left -= 1
            self.entry = int.from_bytes(data, "little")
            if len(data) != 8:
                self.left = 0
            if addr != self.pending & ~1:
                return (addr + self.offset) & _M64
        if self.is_pending or not self.pending & ~1:
            return -1
        self.is_pending, self.is_pi = True, self.pending & 1 != 0
        return ((self.pending & ~1) + self.offset) & _M64

    def is_mine(self, task: Task, addr: int, value: int) -> bool:
        """Whether a word with this value is to be marked (handle_futex_death)."""
        if self.is_pending and not self.is_pi and not value:
            _wake_quietly(task, addr)  # unlocked, but the owner may have died before it woke a waiter
            return False
        return value & FUTEX_TID_MASK == task.own_tid

    def marked(self, task: Task, addr: int, value: int) -> None:
        """A word of this value was marked."""
        if not self.is_pi and value & FUTEX_WAITERS:
            _wake_quietly(task, addr)


def mark_of(value: int) -> int:
    """The word's new value when its owner is dead."""
    return (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED


def _exchange(task: Task, addr: int, old: int, new: int) -> bool:
    """Replace `old` by `new`; False if the word is different.  Raises LinuxError(EFAULT)."""
    fd, offset = task.mm.shared_place(addr)
    if fd >= 0:
        found = task.kernel.platform.swap_shared(fd, offset, old, new)
        if found >= 0:
            return found == old
    return compare_exchange(task, addr, old, new)


def exit_robust_list(task: Task) -> None:
    """Walk the robust list of a task that was killed (kernel/futex/core.c).

    Its thread cannot change the words any more (`robust_exit` is for tasks that can). In shared memory, where other
    processes can, the kernel changes them by one atomic instruction. In files of the host, which may be truncated
    meanwhile, it cannot, and a change by a guest at the same moment may be lost.
    """
    words = RobustList(task)
    while True:
        addr = words.next_word()
        if addr < 0:
            return
        try:
            if addr & 3:
                return
            for _attempt in range(CMP_RETRIES):
                value = read_word(task, addr)
                if not words.is_mine(task, addr, value):
                    break
                if _exchange(task, addr, value, mark_of(value)):
                    words.marked(task, addr, value)
                    break
        except LinuxError:
            return
