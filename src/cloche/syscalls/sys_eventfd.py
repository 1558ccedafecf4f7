"""eventfd, timerfd and signalfd."""

from typing import Final

from cloche.abi.capability import CAP_WAKE_ALARM
from cloche.abi.errno import EBADF, EINVAL, EPERM, LinuxError
from cloche.abi.eventfd import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EFD_SEMAPHORE,
    SFD_CLOEXEC,
    SFD_NONBLOCK,
    TFD_CLOEXEC,
    TFD_NONBLOCK,
    TFD_TIMER_ABSTIME,
    TFD_TIMER_CANCEL_ON_SET,
)
from cloche.abi.fcntl import O_CLOEXEC, O_PATH
from cloche.abi.signal import UNBLOCKABLE
from cloche.abi.structs import ITIMERSPEC_SIZE, pack_itimerspec, unpack_itimerspec
from cloche.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
)
from cloche.fs.eventfd import EventFile
from cloche.fs.signalfd import SignalFile
from cloche.fs.timerfd import TimerFile
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Task

_CLOCKS: Final = (
    CLOCK_REALTIME,
    CLOCK_MONOTONIC,
    CLOCK_BOOTTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_BOOTTIME_ALARM,
)


# -- eventfd -----------------------------------------------------------------------------------------------
def sys_eventfd(task: Task, args: Args) -> int:
    """eventfd(2)."""
    return _eventfd(task, to_u32(args.a0), 0)


def sys_eventfd2(task: Task, args: Args) -> int:
    """eventfd2(2)."""
    return _eventfd(task, to_u32(args.a0), to_u32(args.a1))


def _eventfd(task: Task, count: int, flags: int) -> int:
    if flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE):
        return -EINVAL
    file = EventFile(task.kernel, count, flags)
    return task.files.install(file, task.nofile_limit(), is_cloexec=flags & O_CLOEXEC != 0)


# -- timerfd -----------------------------------------------------------------------------------------------
def sys_timerfd_create(task: Task, args: Args) -> int:
    """timerfd_create(2)."""
    clock, flags = to_i32(args.a0), to_u32(args.a1)
    if flags & ~(TFD_CLOEXEC | TFD_NONBLOCK) or clock not in _CLOCKS:
        return -EINVAL
    if clock in (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM) and not task.creds.capable(CAP_WAKE_ALARM):
        return -EPERM
    file = TimerFile(task.kernel, clock, flags)
    return task.files.install(file, task.nofile_limit(), is_cloexec=flags & O_CLOEXEC != 0)


def _timer_file(task: Task, fd: int) -> TimerFile:
    file = task.files.get(fd)
    if file.flags & O_PATH:
        raise LinuxError(EBADF)
    if not isinstance(file, TimerFile):
        raise LinuxError(EINVAL)
    return file


def sys_timerfd_settime(task: Task, args: Args) -> int:
    """timerfd_settime(2)."""
    flags = to_u32(args.a1)
    mem = task.user_memory()
    interval_ns, value_ns = unpack_itimerspec(mem.read(to_u64(args.a2), ITIMERSPEC_SIZE))
    if flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET):
        return -EINVAL
    file = _timer_file(task, to_i32(args.a0))
    old_interval_ns, old_value_ns = file.settime(flags, interval_ns, value_ns)
    if args.a3:
        mem.write(to_u64(args.a3), pack_itimerspec(old_interval_ns, old_value_ns))
    return 0


def sys_timerfd_gettime(task: Task, args: Args) -> int:
    """timerfd_gettime(2)."""
    interval_ns, value_ns = _timer_file(task, to_i32(args.a0)).gettime()
    task.user_memory().write(to_u64(args.a1), pack_itimerspec(interval_ns, value_ns))
    return 0


# -- signalfd ----------------------------------------------------------------------------------------------
def sys_signalfd(task: Task, args: Args) -> int:
    """signalfd(2), without flags."""
    return _signalfd(task, args, 0)


def sys_signalfd4(task: Task, args: Args) -> int:
    """signalfd4(2)."""
    return _signalfd(task, args, to_u32(args.a3))


def _signalfd(task: Task, args: Args, flags: int) -> int:
    if to_u64(args.a2) != 8:
        return -EINVAL
    mask = task.user_memory().read_u64(to_u64(args.a1)) & ~UNBLOCKABLE
    if flags & ~(SFD_CLOEXEC | SFD_NONBLOCK):
        return -EINVAL
    fd = to_i32(args.a0)
    if fd == -1:
        new = SignalFile(task, mask, flags)
        return task.files.install(new, task.nofile_limit(), is_cloexec=flags & O_CLOEXEC != 0)
    file = task.files.get(fd)
    if file.flags & O_PATH:
        return -EBADF
    if not isinstance(file, SignalFile):
        return -EINVAL
    file.set_mask(mask)
    return fd
