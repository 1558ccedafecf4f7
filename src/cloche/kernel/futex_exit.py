"""What becomes of the futexes of a task that leaves its memory: robust lists, set_tid_address(2), locks (mm_release).

Called while the memory can still be read.  Everything in a robust list is the guest's: whatever is wrong with it ends
the walk.
"""

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


def release_memory(task: Task) -> None:
    """A task is about to leave its address space (exit, execve), which can still be read (mm_release).

    Marks and wakes its robust futexes, passes its locks on, and wakes the word of set_tid_address(2) if others use
    the memory.
    """
    mm = task.mm
    if task.robust_list:
        if not mm.is_dead:
            exit_robust_list(task)
        task.robust_list = 0
    release_locks(task)
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
        for _attempt in range(CMP_RETRIES):
            value = read_word(task, addr)
            if is_pending and not is_pi and not value:
                # Unlocked, but perhaps nobody was woken any more.
                _wake_quietly(task, addr)
                return True
            if value & FUTEX_TID_MASK != task.own_tid:
                return True
            if compare_exchange(task, addr, value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED):
                if not is_pi and value & FUTEX_WAITERS:
                    _wake_quietly(task, addr)
                return True
    except LinuxError:
        return False
    return True
