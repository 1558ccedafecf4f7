"""Clocks, sleeps and timers (time(7)).

Decodes, checks as kernel/time/ does; timers are in `kernel.itimers`.  Clocks are those of the host, and cannot be set.
"""

from typing import Final

from cloche.abi.errno import (
    EFAULT,
    EINVAL,
    EOPNOTSUPP,
    EPERM,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    LinuxError,
)
from cloche.abi.signal_structs import SIGEVENT_SIZE, unpack_sigevent
from cloche.abi.structs import (
    ITIMERSPEC_SIZE,
    ITIMERVAL_SIZE,
    KTIME_MAX,
    TIMESPEC_SIZE,
    TIMEVAL_SIZE,
    TIMEX,
    TIMEX_SIZE,
    TIMEZONE_SIZE,
    pack_itimerspec,
    pack_itimerval,
    pack_timespec,
    pack_timeval,
    pack_tms,
    timespec_to_ns,
    unpack_itimerspec,
    unpack_itimerval,
    unpack_timespec,
    unpack_timespec_raw,
    unpack_timeval_raw,
)
from cloche.abi.time import (
    CLOCK_REALTIME,
    CLOCK_THREAD_CPUTIME_ID,
    ITIMER_REAL,
    STA_UNSYNC,
    TIME_ERROR,
    TIMER_ABSTIME,
)
from cloche.kernel.accounting import group_cpu_ns
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.itimers import (
    CpuClock,
    CpuTimer,
    SigEvent,
    check_can_wait,
    clock_now_ns,
    clock_resolution_ns,
    cpu_clock,
    cpu_timers,
    create_timer,
    delete_timer,
    find_timer,
    get_itimer,
    monotonic_deadline,
    real_timer,
    set_itimer,
    wall_clock_id,
    wall_clock_ns,
)
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns

_NS: Final = 1_000_000_000
_TICK_NS: Final = 10_000_000  # USER_HZ
_INT_MAX: Final = 0x7FFFFFFF
_ADJTIME_MODES: Final = 0xFFFF


# -- sleeping ----------------------------------------------------------------------------------------------------


class SleepWait(Blocked):
    """nanosleep: on a signal it writes the time left and goes on through restart_syscall if no handler runs."""

    def __init__(self, deadline_ns: int, remainder_addr: int, *, is_absolute: bool) -> None:
        super().__init__(deadline_ns)
        self.remainder_addr: int = remainder_addr
        self.is_absolute: bool = is_absolute

    def retry(self, task: TaskBase) -> int:
        return 0 if 0 <= self.deadline_ns <= monotonic_ns() else BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if self.is_absolute:
            return -ERESTARTNOHAND
        left_ns = self.deadline_ns - monotonic_ns() if self.deadline_ns >= 0 else KTIME_MAX
        if left_ns <= 0:
            return 0
        if self.remainder_addr and not task.user_memory().write_now(
            self.remainder_addr, pack_timespec(left_ns)
        ):
            return -EFAULT  # even if no handler runs
        task.restart = self
        return -ERESTART_RESTARTBLOCK

    def restart(self, task: TaskBase) -> int:
        result = self.retry(task)
        return block_on_time(task, self) if result == BLOCKED else result


class CpuSleep(CpuTimer):
    """The timer behind a sleep on CPU time."""

    def __init__(self, task: Task, clock: CpuClock, at_ns: int) -> None:
        super().__init__(clock)
        self.task: Task = task
        self.at_ns = at_ns

    def cpu_expired(self, now_ns: int) -> bool:
        self.task.make_ready()
        return False


class CpuSleepWait(Blocked):
    """clock_nanosleep on a CPU clock."""

    def __init__(self, timer: CpuSleep, remainder_addr: int, *, is_absolute: bool) -> None:
        super().__init__()
        self.timer: CpuSleep = timer
        self.remainder_addr: int = remainder_addr
        self.is_absolute: bool = is_absolute

    def start(self) -> int:
        """Wait, unless the time is over already."""
        timer = self.timer
        if timer.clock.now_ns() >= timer.at_ns:
            return 0
        block_on_time(timer.task, self)
        cpu_timers(timer.clock.group).arm(timer)
        return BLOCKED

    def retry(self, task: TaskBase) -> int:
        return 0 if self.timer.clock.now_ns() >= self.timer.at_ns else BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        if self.is_absolute:
            return -ERESTARTNOHAND
        timer = self.timer
        if self.remainder_addr:
            left_ns = max(timer.at_ns - timer.clock.now_ns(), 0)
            if not timer.task.user_memory().write_now(self.remainder_addr, pack_timespec(left_ns)):
                return -EFAULT
        timer.task.restart = self
        return -ERESTART_RESTARTBLOCK

    def restart(self, task: TaskBase) -> int:
        return self.start()

    def finished(self, task: TaskBase) -> None:
        cpu_timers(self.timer.clock.group).disarm(self.timer)


def sys_nanosleep(task: Task, args: Args) -> int:
    """nanosleep(2)."""
    duration_ns = unpack_timespec(task.user_memory().read(to_u64(args.a0), TIMESPEC_SIZE))
    return _sleep(task, duration_ns, to_u64(args.a1))


def _sleep(task: Task, duration_ns: int, remainder_addr: int) -> int:
    deadline_ns = -1 if duration_ns >= KTIME_MAX else monotonic_ns() + duration_ns
    op = SleepWait(deadline_ns, remainder_addr, is_absolute=False)
    return 0 if duration_ns == 0 else block_on_time(task, op)


def sys_clock_nanosleep(task: Task, args: Args) -> int:
    """clock_nanosleep(2)."""
    clockid = to_i32(args.a0)
    is_absolute = to_i32(args.a1) & TIMER_ABSTIME != 0
    if clockid == CLOCK_THREAD_CPUTIME_ID:
        return -EOPNOTSUPP
    cpu = cpu_clock(task, clockid)
    if cpu is None:
        check_can_wait(clockid)
    elif cpu.task is task:
        return -EINVAL
    wanted_ns = unpack_timespec(task.user_memory().read(to_u64(args.a2), TIMESPEC_SIZE))
    remainder_addr = 0 if is_absolute else to_u64(args.a3)
    if cpu is not None:
        at_ns = wanted_ns if is_absolute else cpu.now_ns() + wanted_ns
        return CpuSleepWait(CpuSleep(task, cpu, at_ns), remainder_addr, is_absolute=is_absolute).start()
    if not is_absolute:
        return _sleep(task, wanted_ns, remainder_addr)
    deadline_ns = -1 if wanted_ns >= KTIME_MAX else monotonic_deadline(wall_clock_id(clockid), wanted_ns)
    op = SleepWait(deadline_ns, 0, is_absolute=True)
    return 0 if 0 <= deadline_ns <= monotonic_ns() else block_on_time(task, op)


# -- clocks ------------------------------------------------------------------------------------------------------


def sys_clock_gettime(task: Task, args: Args) -> int:
    """clock_gettime(2)."""
    now_ns = clock_now_ns(task, to_i32(args.a0))
    task.user_memory().write(to_u64(args.a1), pack_timespec(now_ns))
    return 0


def sys_clock_getres(task: Task, args: Args) -> int:
    """clock_getres(2)."""
    resolution_ns = clock_resolution_ns(task, to_i32(args.a0))
    if args.a1:
        task.user_memory().write(to_u64(args.a1), pack_timespec(resolution_ns))
    return 0


def sys_clock_settime(task: Task, args: Args) -> int:
    """clock_settime(2): EPERM where Linux would set a clock."""
    clockid = to_i32(args.a0)
    if clockid != CLOCK_REALTIME:
        # CPU clocks of a pid give EPERM, the two fixed ones EINVAL (posix_cpu_clock_set).
        return -EPERM if clockid < 0 and cpu_clock(task, clockid) is not None else -EINVAL
    timespec = unpack_timespec_raw(task.user_memory().read(to_u64(args.a1), TIMESPEC_SIZE), 0)
    timespec_to_ns(timespec[0], timespec[1])
    return -EPERM


def sys_gettimeofday(task: Task, args: Args) -> int:
    """gettimeofday(2); the time zone is UTC."""
    mem = task.user_memory()
    if args.a0:
        mem.write(to_u64(args.a0), pack_timeval(wall_clock_ns(CLOCK_REALTIME)))
    if args.a1:
        mem.write(to_u64(args.a1), bytes(TIMEZONE_SIZE))
    return 0


def sys_settimeofday(task: Task, args: Args) -> int:
    """settimeofday(2): EPERM."""
    mem = task.user_memory()
    if args.a0:
        seconds, micros = unpack_timeval_raw(mem.read(to_u64(args.a0), TIMEVAL_SIZE), 0)
        if not 0 <= micros <= 1_000_000 or seconds < 0:
            return -EINVAL
    if args.a1:
        mem.read(to_u64(args.a1), TIMEZONE_SIZE)
    return -EPERM


def sys_time(task: Task, args: Args) -> int:
    """time(2)."""
    now = wall_clock_ns(CLOCK_REALTIME) // _NS
    if args.a0:
        task.user_memory().write_i64(to_u64(args.a0), now)
    return now


def sys_times(task: Task, args: Args) -> int:
    """times(2), in ticks of 1/100 s."""
    if args.a0:
        group = task.group
        user_ns, system_ns = group_cpu_ns(group)
        data = pack_tms(
            user_ns // _TICK_NS,
            system_ns // _TICK_NS,
            group.spent.children_user_ns // _TICK_NS,
            group.spent.children_system_ns // _TICK_NS,
        )
        task.user_memory().write(to_u64(args.a0), data)
    return monotonic_ns() // _TICK_NS


def sys_adjtimex(task: Task, args: Args) -> int:
    """adjtimex(2): the state of a clock that is not synchronized; EPERM for every change."""
    return _adjtime(task, to_u64(args.a0))


def sys_clock_adjtime(task: Task, args: Args) -> int:
    """clock_adjtime(2)."""
    clockid = to_i32(args.a0)
    if clockid != CLOCK_REALTIME:
        if cpu_clock(task, clockid) is None:
            wall_clock_id(clockid)
        return -EOPNOTSUPP
    return _adjtime(task, to_u64(args.a1))


def _adjtime(task: Task, addr: int) -> int:
    mem = task.user_memory()
    modes = int.from_bytes(mem.read(addr, TIMEX_SIZE)[:4], "little")
    if modes & _ADJTIME_MODES and modes != 0xA001:  # ADJ_OFFSET_SS_READ only reads
        return -EPERM
    now_ns = wall_clock_ns(CLOCK_REALTIME)
    data = TIMEX.pack(
        modes,
        0,  # offset
        0,  # frequency
        16_000_000,  # maxerror and esterror in us: as Linux gives them for a clock that was never set
        16_000_000,
        STA_UNSYNC,
        2,  # constant
        1,  # precision
        32_768_000,  # tolerance
        now_ns // _NS,
        now_ns % _NS // 1000,
        10_000,  # tick
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    mem.write(addr, data)
    return TIME_ERROR


# -- interval timers ---------------------------------------------------------------------------------------------


def sys_getitimer(task: Task, args: Args) -> int:
    """getitimer(2)."""
    which = to_i32(args.a0)
    if not 0 <= which <= 2:
        return -EINVAL
    value_ns, interval_ns = get_itimer(task.group, which)
    task.user_memory().write(to_u64(args.a1), pack_itimerval(interval_ns, value_ns))
    return 0


def sys_setitimer(task: Task, args: Args) -> int:
    """setitimer(2); without a new value it stops the timer, as in Linux."""
    which = to_i32(args.a0)
    mem = task.user_memory()
    interval_ns = value_ns = 0
    if args.a1:
        interval_ns, value_ns = unpack_itimerval(mem.read(to_u64(args.a1), ITIMERVAL_SIZE))
    if not 0 <= which <= 2:
        return -EINVAL
    old_value_ns, old_interval_ns = get_itimer(task.group, which)
    set_itimer(task.group, which, value_ns, interval_ns)
    if args.a2:
        mem.write(to_u64(args.a2), pack_itimerval(old_interval_ns, old_value_ns))
    return 0


def sys_alarm(task: Task, args: Args) -> int:
    """alarm(2): returns the seconds that the last alarm had left, rounded, but at least one."""
    seconds = min(to_u32(args.a0), _INT_MAX)
    timer = real_timer(task.group)
    left_ns, _interval_ns = timer.get()
    set_itimer(task.group, ITIMER_REAL, seconds * _NS, 0)
    left = left_ns // _NS
    if left_ns and (left == 0 or left_ns % _NS >= _NS // 2):
        left += 1
    return left


# -- POSIX timers ------------------------------------------------------------------------------------------------


def sys_timer_create(task: Task, args: Args) -> int:
    """timer_create(2)."""
    mem = task.user_memory()
    event: SigEvent | None = None
    if args.a1:
        value, signo, notify, tid = unpack_sigevent(mem.read(to_u64(args.a1), SIGEVENT_SIZE))
        event = SigEvent(notify, signo, value, tid)
    timer = create_timer(task, to_i32(args.a0), event)
    try:
        mem.write_i32(to_u64(args.a2), timer.ident)
    except LinuxError:
        delete_timer(timer)
        raise
    return 0


def sys_timer_settime(task: Task, args: Args) -> int:
    """timer_settime(2)."""
    mem = task.user_memory()
    if not args.a2:
        return -EINVAL
    interval_ns, value_ns = unpack_itimerspec(mem.read(to_u64(args.a2), ITIMERSPEC_SIZE))
    timer = find_timer(task.group, to_i32(args.a0))
    old_value_ns, old_interval_ns = timer.get()
    is_absolute = to_i32(args.a1) & TIMER_ABSTIME != 0
    timer.set(value_ns, interval_ns, is_absolute=is_absolute)
    if args.a3:
        mem.write(to_u64(args.a3), pack_itimerspec(old_interval_ns, old_value_ns))
    return 0


def sys_timer_gettime(task: Task, args: Args) -> int:
    """timer_gettime(2)."""
    value_ns, interval_ns = find_timer(task.group, to_i32(args.a0)).get()
    task.user_memory().write(to_u64(args.a1), pack_itimerspec(interval_ns, value_ns))
    return 0


def sys_timer_getoverrun(task: Task, args: Args) -> int:
    """timer_getoverrun(2): of the last signal that was delivered."""
    return find_timer(task.group, to_i32(args.a0)).overrun_last


def sys_timer_delete(task: Task, args: Args) -> int:
    """timer_delete(2)."""
    delete_timer(find_timer(task.group, to_i32(args.a0)))
    return 0
