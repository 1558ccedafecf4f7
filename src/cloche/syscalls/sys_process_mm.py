"""Memory calls that name another process by a pidfd, and mseal."""

from cloche.abi.capability import CAP_SYS_NICE
from cloche.abi.errno import EBADF, EINVAL, ENOMEM, EPERM, ESRCH, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.mman import MADV_COLD, MADV_COLLAPSE, MADV_PAGEOUT, MADV_WILLNEED
from cloche.fs.pidfd import PidFile
from cloche.kernel.access import may_access
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import AREA_SEALED, Area, AreaChange, page_up
from cloche.mm.usermem import import_iovec
from cloche.syscalls.long_mm import Advice, Changes


def _target(task: Task, fd: int) -> Task:
    """The task of a pidfd, which may have ended (pidfd_get_task).  Raises LinuxError(EBADF, ESRCH)."""
    file = task.files.get(to_i32(fd))
    if not isinstance(file, PidFile) or file.flags & O_PATH:
        raise LinuxError(EBADF)
    target = file.target()
    if target is None:
        raise LinuxError(ESRCH)
    return target


class ProcessAdvice(Advice):
    """One advice on one segment after the other."""

    def __init__(self, mm: AddressSpace, segments: list[tuple[int, int]], advice: int) -> None:
        super().__init__(mm, 0, len(segments), advice)
        self.segments: list[tuple[int, int]] = segments
        self.inside: int = -1  # position in the segment `at`
        self.done: int = 0  # bytes

    def some(self, task: Task) -> None:
        base, length = self.segments[self.at]
        try:
            end = self.mm.check_advice(base, length, self.advice)
            if self.inside < 0:
                self.inside = base
            if self.inside < end:
                self.inside, has_hole = self.mm.advise_some(task.thread, self.inside, end, self.advice)
                self.has_hole = self.has_hole or has_hole
            if self.inside < end:
                return
            if self.has_hole:
                raise LinuxError(ENOMEM)
        except LinuxError:
            if not self.done:
                raise
            self.at = self.end
            return
        self.done += length
        self.inside = -1
        self.at += 1

    def result(self, task: Task) -> int:
        return self.done


def sys_process_madvise(task: Task, args: Args) -> int:
    """process_madvise(2), for advice that is only a hint. Returns the number of bytes that were advised."""
    advice = to_i32(args.a3)
    if to_u32(args.a4):
        return -EINVAL
    segments = import_iovec(task.user_memory(), to_u64(args.a1), args.a2)
    target = _target(task, args.a0)
    if advice not in (MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT, MADV_COLLAPSE):
        return -EINVAL
    if not may_access(task, target, uses_real_ids=False):
        return -EPERM
    if target.is_exited:
        return -ESRCH
    if target.mm is not task.mm and not task.creds.capable(CAP_SYS_NICE):
        return -EPERM
    if target.mm is not task.mm and advice == MADV_COLLAPSE:
        return -EINVAL  # MADV_COLLAPSE would have to be made by the target's threads, which run
    return ProcessAdvice(target.mm, segments, advice).retry(task)


def sys_process_mrelease(task: Task, args: Args) -> int:
    """process_mrelease(2): a process's memory is freed when it dies, so only the errors matter."""
    if to_u32(args.a1):
        return -EINVAL
    group = _target(task, args.a0).group
    if not group.tasks:
        return -ESRCH
    return 0 if group.end.is_begun or group.end.fatal_status >= 0 else -EINVAL


class Seal(AreaChange):
    """No protection, mapping or unmapping of these areas changes any more."""

    def apply(self, area: Area) -> None:
        area.flags |= AREA_SEALED


def sys_mseal(task: Task, args: Args) -> int:
    """mseal(2)."""
    start, length = to_u64(args.a0), to_u64(args.a1)
    end = start + page_up(length)
    if args.a2 or start & 4095 or end > 1 << 64 or (length and end == start):
        return -EINVAL
    if end == start:
        return 0
    if end > task.mm.max_address:
        return -ENOMEM
    task.mm.has_sealed = True
    return Changes(task.mm, start, end, Seal(), ENOMEM).retry(task)
