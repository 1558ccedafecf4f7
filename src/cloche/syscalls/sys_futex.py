"""The calls of futexes and robust lists (futex(2), futex_waitv(2), set_robust_list(2))."""

from struct import Struct
from typing import Final

from cloche.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH, LinuxError
from cloche.abi.futex import (
    FUTEX2_PRIVATE,
    FUTEX2_SIZE_MASK,
    FUTEX2_SIZE_U32,
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_CLOCK_REALTIME,
    FUTEX_CMD_MASK,
    FUTEX_CMP_REQUEUE,
    FUTEX_CMP_REQUEUE_PI,
    FUTEX_LOCK_PI,
    FUTEX_LOCK_PI2,
    FUTEX_PRIVATE_FLAG,
    FUTEX_REQUEUE,
    FUTEX_TRYLOCK_PI,
    FUTEX_UNLOCK_PI,
    FUTEX_WAIT,
    FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI,
    FUTEX_WAITV_MAX,
    FUTEX_WAKE,
    FUTEX_WAKE_BITSET,
    FUTEX_WAKE_OP,
)
from cloche.abi.structs import KTIME_MAX, ROBUST_LIST_HEAD_SIZE, TIMESPEC_SIZE, unpack_timespec
from cloche.abi.time import CLOCK_MONOTONIC, CLOCK_REALTIME
from cloche.kernel import futex, futex_pi
from cloche.kernel.access import find_task, may_access
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.futex_op import wake_op
from cloche.kernel.itimers import monotonic_deadline
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns

_WAITV: Final = Struct("<QQII")  # val uaddr flags reserved
_WAITV_SIZE: Final = 24
_FUTEX2_VALID: Final = FUTEX2_SIZE_MASK | FUTEX2_PRIVATE


def _deadline(task: Task, addr: int, clock: int, *, is_relative: bool) -> int:
    """The time limit at `addr` on CLOCK_MONOTONIC; -1 for none."""
    if not addr:
        return -1
    timeout_ns = unpack_timespec(task.user_memory().read(addr, TIMESPEC_SIZE))
    if timeout_ns >= KTIME_MAX:
        return -1
    return monotonic_ns() + timeout_ns if is_relative else monotonic_deadline(clock, timeout_ns)


def sys_futex(task: Task, args: Args) -> int:
    """futex(2)."""
    op = to_i32(args.a1)
    command = op & FUTEX_CMD_MASK
    is_private = op & FUTEX_PRIVATE_FLAG != 0
    addr = to_u64(args.a0)
    value = to_u32(args.a2)
    clock = CLOCK_MONOTONIC
    if op & FUTEX_CLOCK_REALTIME:
        if command not in (FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2):
            return -ENOSYS
        clock = CLOCK_REALTIME
    if command == FUTEX_WAKE:
        return futex.wake(task, addr, to_i32(args.a2), FUTEX_BITSET_MATCH_ANY, is_private=is_private)
    if command == FUTEX_WAIT or command == FUTEX_WAIT_BITSET:
        is_relative = command == FUTEX_WAIT
        deadline_ns = _deadline(task, to_u64(args.a3), clock, is_relative=is_relative)
        bitset = FUTEX_BITSET_MATCH_ANY if is_relative else to_u32(args.a5)
        word = futex.Word(addr, value, bitset, is_private=is_private)
        return futex.wait(task, word, deadline_ns, has_restart=True)
    if command == FUTEX_WAKE_BITSET:
        return futex.wake(task, addr, to_i32(args.a2), to_u32(args.a5), is_private=is_private)
    if command in (FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP):
        first = futex.Word(addr, 0, 0, is_private=is_private)
        second = futex.Word(to_u64(args.a4), 0, 0, is_private=is_private)
        count, second_count = to_i32(args.a2), to_i32(args.a3)
        if command == FUTEX_WAKE_OP:
            return wake_op(task, first, second, count, second_count, to_u32(args.a5))
        compare = to_u32(args.a5) if command == FUTEX_CMP_REQUEUE else -1
        return futex.requeue(task, first, second, count, second_count, compare)
    return _pi_futex(task, args, command, clock, is_private=is_private)


def _pi_futex(task: Task, args: Args, command: int, clock: int, *, is_private: bool) -> int:
    """The operations of priority-inheritance futexes."""
    word = futex.Word(to_u64(args.a0), to_u32(args.a2), FUTEX_BITSET_MATCH_ANY, is_private=is_private)
    second = futex.Word(to_u64(args.a4), 0, 0, is_private=is_private)
    if command == FUTEX_LOCK_PI or command == FUTEX_LOCK_PI2:
        limit_clock = CLOCK_REALTIME if command == FUTEX_LOCK_PI else clock
        deadline_ns = _deadline(task, to_u64(args.a3), limit_clock, is_relative=False)
        return futex_pi.lock(task, word, deadline_ns, is_try=False)
    if command == FUTEX_TRYLOCK_PI:
        return futex_pi.lock(task, word, -1, is_try=True)
    if command == FUTEX_UNLOCK_PI:
        return futex_pi.unlock(task, word)
    if command == FUTEX_WAIT_REQUEUE_PI:
        deadline_ns = _deadline(task, to_u64(args.a3), clock, is_relative=False)
        return futex_pi.wait_requeue(task, word, second, deadline_ns)
    if command == FUTEX_CMP_REQUEUE_PI:
        count, second_count = to_i32(args.a2), to_i32(args.a3)
        return futex_pi.requeue(task, word, second, count, second_count, to_u32(args.a5))
    return -ENOSYS


def _check_flags(flags: int) -> None:
    """Only 32-bit futexes exist."""
    if flags & ~_FUTEX2_VALID or flags & FUTEX2_SIZE_MASK != FUTEX2_SIZE_U32:
        raise LinuxError(EINVAL)


def _read_waitv(task: Task, addr: int, count: int) -> list[futex.Word]:
    """An array of struct futex_waitv."""
    data = task.user_memory().read(addr, count * _WAITV_SIZE)
    words: list[futex.Word] = []
    for index in range(count):
        value, uaddr, flags, reserved = _WAITV.unpack_from(data, index * _WAITV_SIZE)
        _check_flags(flags)
        if reserved or value >> 32:
            raise LinuxError(EINVAL)
        is_private = flags & FUTEX2_PRIVATE != 0
        words.append(futex.Word(uaddr, value, FUTEX_BITSET_MATCH_ANY, is_private=is_private))
    return words


def _clock(clockid: int) -> int:
    if clockid not in (CLOCK_REALTIME, CLOCK_MONOTONIC):
        raise LinuxError(EINVAL)
    return clockid


def sys_futex_waitv(task: Task, args: Args) -> int:
    """futex_waitv(2): wait on several words; the index of one that was woken."""
    count = to_u32(args.a1)
    if to_u32(args.a2) or not 0 < count <= FUTEX_WAITV_MAX or not args.a0:
        return -EINVAL
    deadline_ns = -1
    if args.a3:
        clock = _clock(to_i32(args.a4))
        deadline_ns = _deadline(task, to_u64(args.a3), clock, is_relative=False)
    return futex.wait_many(task, _read_waitv(task, to_u64(args.a0), count), deadline_ns)


def sys_futex_wake(task: Task, args: Args) -> int:
    """futex_wake (454), as FUTEX_WAKE_BITSET, except that a count of 0 wakes none."""
    flags, count = to_u32(args.a3), to_i32(args.a2)
    _check_flags(flags)
    if to_u64(args.a1) >> 32:
        return -EINVAL
    is_private = flags & FUTEX2_PRIVATE != 0
    if count == 0:
        futex.futex_key(task, to_u64(args.a0), is_private=is_private)
        return 0
    return futex.wake(task, to_u64(args.a0), count, to_u64(args.a1), is_private=is_private)


def sys_futex_wait(task: Task, args: Args) -> int:
    """futex_wait (455), as FUTEX_WAIT_BITSET, with an absolute time limit."""
    flags = to_u32(args.a3)
    _check_flags(flags)
    if to_u64(args.a1) >> 32 or to_u64(args.a2) >> 32:
        return -EINVAL
    deadline_ns = -1
    if args.a4:
        clock = _clock(to_i32(args.a5))
        deadline_ns = _deadline(task, to_u64(args.a4), clock, is_relative=False)
    is_private = flags & FUTEX2_PRIVATE != 0
    word = futex.Word(to_u64(args.a0), to_u64(args.a1), to_u64(args.a2), is_private=is_private)
    return futex.wait(task, word, deadline_ns, has_restart=False)


def sys_futex_requeue(task: Task, args: Args) -> int:
    """futex_requeue (456): FUTEX_CMP_REQUEUE between two words that may differ in privacy."""
    if to_u32(args.a1) or not args.a0:
        return -EINVAL
    words = _read_waitv(task, to_u64(args.a0), 2)
    return futex.requeue(task, words[0], words[1], to_i32(args.a2), to_i32(args.a3), words[0].value)


def sys_set_robust_list(task: Task, args: Args) -> int:
    """set_robust_list(2)."""
    if to_u64(args.a1) != ROBUST_LIST_HEAD_SIZE:
        return -EINVAL
    task.exit_words.robust_list = to_u64(args.a0)
    return 0


def sys_get_robust_list(task: Task, args: Args) -> int:
    """get_robust_list(2)."""
    tid = to_i32(args.a0)
    target = find_task(task, tid)
    if target is None:
        return -ESRCH
    if target.group is not task.group and not may_access(task, target, uses_real_ids=True):
        return -EPERM
    mem = task.user_memory()
    mem.write_u64(to_u64(args.a2), ROBUST_LIST_HEAD_SIZE)
    mem.write_u64(to_u64(args.a1), target.exit_words.robust_list)
    return 0
