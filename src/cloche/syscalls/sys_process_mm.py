"""Memory calls that name another process by a pidfd, and mseal."""

from typing import Final

from cloche.abi.capability import CAP_SYS_NICE
from cloche.abi.errno import EBADF, EINVAL, ENOMEM, EPERM, ESRCH, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.fs.pidfd import PidFile
from cloche.kernel.access import may_access
from cloche.kernel.task import Args, Task, to_i32, to_u32, to_u64
from cloche.mm.address_space import page_up
from cloche.mm.usermem import import_iovec

_MADV_WILLNEED: Final = 3
_MADV_COLD: Final = 20
_MADV_PAGEOUT: Final = 21
_MADV_COLLAPSE: Final = 25


def _target(task: Task, fd: int) -> Task:
    """A living task of the process of a pidfd.  Raises LinuxError(EBADF, ESRCH)."""
    file = task.files.get(to_i32(fd))
    if not isinstance(file, PidFile) or file.flags & O_PATH:
        raise LinuxError(EBADF)
    if not file.group.tasks:
        raise LinuxError(ESRCH)
    return file.group.tasks[0]


def sys_process_madvise(task: Task, args: Args) -> int:
    """process_madvise(2): what madvise does with the advice that is only a hint; the bytes that were advised."""
    advice = to_i32(args.a3)
    if to_u32(args.a4):
        return -EINVAL
    segments = import_iovec(task.user_memory(), to_u64(args.a1), args.a2)
    target = _target(task, args.a0)
    if advice not in (_MADV_WILLNEED, _MADV_COLD, _MADV_PAGEOUT, _MADV_COLLAPSE):
        return -EINVAL
    if not may_access(task, target, uses_real_ids=False):
        return -EPERM
    if target.mm is not task.mm and not task.creds.capable(CAP_SYS_NICE):
        return -EPERM
    done = 0
    for base, length in segments:
        if target.mm is task.mm:
            try:
                task.mm.madvise(task.thread, base, length, advice)
            except LinuxError as error:
                return done if done else -error.errno
            done += length
            continue
        end = page_up(base + length)
        if base & 4095 or advice == _MADV_COLLAPSE:
            return done if done else -EINVAL  # its threads run: they cannot be made to collapse anything
        if end > target.mm.max_address or not target.mm.is_covered(base, end):
            return done if done else -ENOMEM
        done += length
    return done


def sys_process_mrelease(task: Task, args: Args) -> int:
    """process_mrelease(2): memory is given back when a process dies, so only the errors are left."""
    if to_u32(args.a1):
        return -EINVAL
    target = _target(task, args.a0)
    return 0 if target.group.is_exiting or target.group.fatal_status >= 0 else -EINVAL


def sys_mseal(task: Task, args: Args) -> int:
    """mseal(2)."""
    start, length = to_u64(args.a0), to_u64(args.a1)
    end = start + page_up(length)
    if args.a2 or start & 4095 or end > 1 << 64 or (length and end == start):
        return -EINVAL
    if end == start:
        return 0
    if end > task.mm.max_address or not task.mm.is_covered(start, end):
        return -ENOMEM
    task.mm.seal(start, end)
    return 0
