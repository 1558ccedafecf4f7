"""Clocks and the timers of processes: POSIX timers, interval timers, CPU time limits (timer_create(2), setitimer(2)).

Owns `Clock` arithmetic, `IntervalTimer`, `PosixTimer`, and the `CpuTimers` of a thread group.  Timers on wall clocks
are entries of the kernel's timer queue. Timers on CPU time cannot be, because the sentry is not notified of consumed
CPU time. `CpuTimers` checks it at the earliest moment at which the time could have been used up (all processors
busy), and less often while every thread of the group waits.

A timer that queues a signal is started again only when that signal has been taken (as in Linux), so a guest that does
not take its signals costs nothing; what it missed is counted as overruns.
"""

import time
from typing import Final

from cloche.abi.errno import EAGAIN, EINVAL, EOPNOTSUPP, LinuxError
from cloche.abi.resource import RLIMIT_CPU, RLIMIT_SIGPENDING
from cloche.abi.signal import (
    NSIG,
    SI_TIMER,
    SIGALRM,
    SIGEV_NONE,
    SIGEV_SIGNAL,
    SIGEV_THREAD,
    SIGEV_THREAD_ID,
    SIGKILL,
    SIGPROF,
    SIGVTALRM,
    SIGXCPU,
)
from cloche.abi.signal_structs import pack_siginfo_timer
from cloche.abi.structs import KTIME_MAX
from cloche.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_REALTIME_COARSE,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    ITIMER_PROF,
    ITIMER_REAL,
)
from cloche.kernel.access import task_of
from cloche.kernel.accounting import group_cpu_ns, task_cpu_ns
from cloche.kernel.parts import IntervalTimer, ProcessorTimers
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.siginfo import SigInfo, SignalSource
from cloche.kernel.signals import (
    IGNORED,
    charge,
    kernel_info,
    mark_fatal,
    send,
    send_group_info,
    target_of,
    uncharge,
)
from cloche.kernel.task import Kernel, Task, ThreadGroup
from cloche.kernel.timers import CPU_LOOK, POSIX_TIMER, REAL_TIMER, Timer, TimerOwner, monotonic_ns

_NS: Final = 1_000_000_000
_INT_MAX: Final = 0x7FFFFFFF
CPU_STEP_NS: Final = 1_000_000  # the shortest interval between checks of CPU time
CPU_IDLE_STEP_NS: Final = 50_000_000  # the interval while all threads wait
CPU_PROF: Final = 0  # user and system time (CPUCLOCK_PROF)
CPU_VIRT: Final = 1  # user time
CPU_SCHED: Final = 2  # the scheduler's figure: their sum here
COARSE_NS: Final = 4_000_000  # what the coarse clocks advance by, if the host does not say


# -- clocks ------------------------------------------------------------------------------------------------------


class CpuClock:
    """The CPU time of a process or of one thread."""

    def __init__(self, group: ThreadGroup, task: Task | None, kind: int) -> None:
        self.group: ThreadGroup = group
        self.task: Task | None = task  # None: of the whole process
        self.kind: int = kind  # CPU_PROF, CPU_VIRT or CPU_SCHED

    def now_ns(self) -> int:
        """CPU time consumed so far."""
        task = self.task
        user_ns, system_ns = group_cpu_ns(self.group) if task is None else task_cpu_ns(task)
        return user_ns if self.kind == CPU_VIRT else user_ns + system_ns


def cpu_clock(task: Task, clockid: int) -> CpuClock | None:
    """The CPU clock that `clockid` names: the two fixed ones, or one made of a pid; None for other clocks.

    Raises LinuxError(EINVAL) for the clock of a process or thread that the caller may not name.
    """
    if clockid == CLOCK_PROCESS_CPUTIME_ID:
        return CpuClock(task.group, None, CPU_SCHED)
    if clockid == CLOCK_THREAD_CPUTIME_ID:
        return CpuClock(task.group, task, CPU_SCHED)
    if clockid >= 0:
        return None
    kind = clockid & 3
    if kind == 3:
        raise LinuxError(EINVAL)  # a clock of a device (CLOCKFD): there is none
    pid = ~(clockid >> 3)
    if clockid & 4:
        other = task if pid == 0 else task_of(task.kernel, pid_from(task.pid_ns, pid))
        if other is None or other.group is not task.group:
            raise LinuxError(EINVAL)
        return CpuClock(other.group, other, kind)
    group = task.group if pid == 0 else task.kernel.groups.get(pid_from(task.pid_ns, pid))
    if group is None:
        raise LinuxError(EINVAL)
    return CpuClock(group, None, kind)


def wall_clock_id(clockid: int) -> int:
    """The host's clock for a guest's clock, which is the same.

    Raises LinuxError(EINVAL) for an invalid clock. The alarm clocks count as invalid, as on a machine without a clock
    that could wake it.
    """
    if clockid in (
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
    ):
        return clockid
    raise LinuxError(EINVAL)


def wall_clock_ns(clockid: int) -> int:
    """A clock's time, the host's: the vDSO shows guests the same."""
    if clockid == CLOCK_MONOTONIC:
        return monotonic_ns()
    return time.clock_gettime_ns(clockid)


def clock_now_ns(task: Task, clockid: int) -> int:
    """clock_gettime(2).  Raises LinuxError(EINVAL)."""
    cpu = cpu_clock(task, clockid)
    return cpu.now_ns() if cpu is not None else wall_clock_ns(wall_clock_id(clockid))


def clock_resolution_ns(task: Task, clockid: int) -> int:
    """clock_getres(2).  Raises LinuxError(EINVAL)."""
    if cpu_clock(task, clockid) is not None:
        return 1
    host = wall_clock_id(clockid)
    if host in (CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE):
        resolution = round(time.clock_getres(host) * 1e9)
        return resolution if resolution > 0 else COARSE_NS
    return 1


def check_can_wait(clockid: int) -> None:
    """Raises LinuxError(EOPNOTSUPP) for a wall clock without timers and sleeps, EINVAL for what is no clock."""
    if clockid in (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM):
        raise LinuxError(EOPNOTSUPP)
    if wall_clock_id(clockid) in (CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE):
        raise LinuxError(EOPNOTSUPP)


def monotonic_deadline(clockid: int, at_ns: int) -> int:
    """When a wall clock will show `at_ns`, on CLOCK_MONOTONIC, never negative; a later step of it is not seen."""
    if clockid == CLOCK_MONOTONIC:
        return max(at_ns, 0)
    return max(monotonic_ns() + at_ns - wall_clock_ns(clockid), 0)


# -- ITIMER_REAL -------------------------------------------------------------------------------------------------


class RealTimer(IntervalTimer, TimerOwner):
    """ITIMER_REAL and alarm(2): SIGALRM to the process."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group: ThreadGroup = group
        self.interval_ns: int = 0
        self.deadline_ns: int = 0
        self.timer: Timer | None = None
        self.is_waiting: bool = False  # expired; goes on when the signal is taken

    def set(self, value_ns: int, interval_ns: int) -> None:
        """Start (or with 0 stop) it."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.is_waiting = False
        self.interval_ns = interval_ns
        if value_ns:
            self.deadline_ns = monotonic_ns() + value_ns
            if value_ns < KTIME_MAX:
                self.timer = self.group.kernel.timers.add(self.deadline_ns, REAL_TIMER, self)
            else:
                self.timer = Timer(self.deadline_ns, REAL_TIMER, self)  # never due, but shown as running

    def get(self) -> tuple[int, int]:
        """(value, interval) in ns; a running timer never shows 0."""
        if self.timer is None:
            return 0, self.interval_ns
        return max(self.deadline_ns - monotonic_ns(), 1000), self.interval_ns

    def timer_due(self, kind: int, argument: int) -> None:
        self.expire()

    def expire(self) -> None:
        self.timer = None
        self.is_waiting = self.interval_ns > 0
        send_group_info(self.group, kernel_info(SIGALRM))

    def signal_taken(self) -> None:
        """A SIGALRM, from any sender, was taken: go on from where the period is."""
        if not self.is_waiting or not self.interval_ns:
            return
        self.is_waiting = False
        late_ns = monotonic_ns() - self.deadline_ns
        self.deadline_ns += self.interval_ns * max(late_ns // self.interval_ns + 1, 1)
        self.timer = self.group.kernel.timers.add(self.deadline_ns, REAL_TIMER, self)


def real_timer(group: ThreadGroup) -> RealTimer:
    """The process's ITIMER_REAL."""
    found = group.timers.interval[ITIMER_REAL]
    if isinstance(found, RealTimer):
        return found
    timer = RealTimer(group)
    group.timers.interval[ITIMER_REAL] = timer
    return timer


# -- timers on CPU time ------------------------------------------------------------------------------------------


class CpuTimer:
    """Something due when a CPU clock reaches `at_ns`."""

    def __init__(self, clock: CpuClock) -> None:
        self.clock: CpuClock = clock
        self.at_ns: int = 0
        self.look_at_ns: int = 0  # when it could be due at the earliest, on CLOCK_MONOTONIC
        self.turn: int = 0  # index of the computing thread that gets the next signal

    def signal_process(self, signo: int) -> None:
        """Signal the process through a thread that computes, as Linux sends it from the tick of such a thread."""
        group = self.clock.group
        busy = [task for task in group.tasks if task.blocked is None]
        if busy:
            self.turn = (self.turn + 1) % len(busy)
            send(busy[self.turn], kernel_info(signo), to_group=True)
        else:
            send_group_info(group, kernel_info(signo))

    def cpu_expired(self, now_ns: int) -> bool:
        """The clock has reached `at_ns` (it shows `now_ns`). Returns whether to stay armed, with a new `at_ns`."""
        raise NotImplementedError


class CpuTimers(ProcessorTimers):
    """The armed CPU timers of a thread group, and the timer that looks at them."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group: ThreadGroup = group
        self.armed: list[CpuTimer] = []
        self.timer: Timer | None = None
        self.timer_at_ns: int = 0

    def arm(self, cpu_timer: CpuTimer) -> None:
        """Add it, or take note that its time has changed."""
        if cpu_timer not in self.armed:
            self.armed.append(cpu_timer)
        self._plan(cpu_timer, cpu_timer.clock.now_ns())
        self._schedule()

    def disarm(self, cpu_timer: CpuTimer) -> None:
        """Forget it."""
        if cpu_timer in self.armed:
            self.armed.remove(cpu_timer)
        if not self.armed and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def clear(self) -> None:
        """The group is gone."""
        self.armed.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _plan(self, cpu_timer: CpuTimer, now_ns: int) -> None:
        """Plan the next check for the time at which it is due if its thread, or all threads, run from now on. Its
        clock shows `now_ns`.
        """
        group = self.group
        left_ns = cpu_timer.at_ns - now_ns
        one = cpu_timer.clock.task
        is_busy = one is not None and one.blocked is None
        if one is None:
            for task in group.tasks:
                if task.blocked is None:
                    is_busy = True
            left_ns //= max(min(len(group.tasks), group.kernel.cpu_count), 1)
        cpu_timer.look_at_ns = monotonic_ns() + max(left_ns, CPU_STEP_NS if is_busy else CPU_IDLE_STEP_NS)

    def _schedule(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.armed or not self.group.is_alive():
            return
        at_ns = KTIME_MAX
        for cpu_timer in self.armed:
            at_ns = min(at_ns, cpu_timer.look_at_ns)
        self.timer_at_ns = at_ns
        self.timer = self.group.kernel.timers.add(at_ns, CPU_LOOK, self)

    def timer_due(self, kind: int, argument: int) -> None:
        self.look()

    def look(self) -> None:
        """Fire the timers that are due. A clock is read only if its timer could be due."""
        self.timer = None
        at_ns = max(monotonic_ns(), self.timer_at_ns)
        for cpu_timer in list(self.armed):
            if cpu_timer.look_at_ns > at_ns:
                continue
            now_ns = cpu_timer.clock.now_ns()
            if now_ns >= cpu_timer.at_ns and not cpu_timer.cpu_expired(now_ns):
                if cpu_timer in self.armed:
                    self.armed.remove(cpu_timer)
            else:
                self._plan(cpu_timer, now_ns)
        self._schedule()


def cpu_timers(group: ThreadGroup) -> CpuTimers:
    """The group's CPU timers."""
    found = group.timers.cpu
    if isinstance(found, CpuTimers):
        return found
    timers = CpuTimers(group)
    group.timers.cpu = timers
    return timers


class CpuIntervalTimer(CpuTimer, IntervalTimer):
    """ITIMER_VIRTUAL (user time, SIGVTALRM) or ITIMER_PROF (user and system time, SIGPROF)."""

    def __init__(self, group: ThreadGroup, which: int) -> None:
        super().__init__(CpuClock(group, None, CPU_PROF if which == ITIMER_PROF else CPU_VIRT))
        self.signo: int = SIGPROF if which == ITIMER_PROF else SIGVTALRM
        self.interval_ns: int = 0
        self.is_armed: bool = False

    def signal_taken(self) -> None:
        """Do nothing: this timer goes on by itself."""

    def set(self, value_ns: int, interval_ns: int) -> None:
        """Start (or with 0 stop) it."""
        timers = cpu_timers(self.clock.group)
        self.interval_ns = interval_ns
        self.is_armed = value_ns > 0
        if value_ns:
            self.at_ns = self.clock.now_ns() + value_ns
            timers.arm(self)
        else:
            timers.disarm(self)

    def get(self) -> tuple[int, int]:
        """(value, interval) in ns."""
        if not self.is_armed:
            return 0, self.interval_ns
        return max(self.at_ns - self.clock.now_ns(), 1000), self.interval_ns

    def cpu_expired(self, now_ns: int) -> bool:
        self.signal_process(self.signo)
        if not self.interval_ns:
            self.is_armed = False
            return False
        self.at_ns += self.interval_ns * ((now_ns - self.at_ns) // self.interval_ns + 1)
        return True


def cpu_interval_timer(group: ThreadGroup, which: int) -> CpuIntervalTimer:
    """The process's ITIMER_VIRTUAL or ITIMER_PROF."""
    found = group.timers.interval[which]
    if isinstance(found, CpuIntervalTimer):
        return found
    timer = CpuIntervalTimer(group, which)
    group.timers.interval[which] = timer
    return timer


def get_itimer(group: ThreadGroup, which: int) -> tuple[int, int]:
    """(value, interval) of an interval timer in ns (getitimer(2))."""
    if which == ITIMER_REAL:
        return real_timer(group).get()
    return cpu_interval_timer(group, which).get()


def set_itimer(group: ThreadGroup, which: int, value_ns: int, interval_ns: int) -> None:
    """setitimer(2)."""
    if which == ITIMER_REAL:
        real_timer(group).set(value_ns, interval_ns)
    else:
        cpu_interval_timer(group, which).set(value_ns, interval_ns)


class CpuLimit(CpuTimer):
    """RLIMIT_CPU: SIGXCPU at the soft limit and every second after it, SIGKILL at the hard one."""

    def cpu_expired(self, now_ns: int) -> bool:
        group = self.clock.group
        soft, hard = group.rlimits[RLIMIT_CPU]
        if hard >= 0 and now_ns >= hard * _NS:
            mark_fatal(group, SIGKILL)
            return False
        if soft < 0:
            return False
        if now_ns >= soft * _NS:
            self.signal_process(SIGXCPU)
            soft = now_ns // _NS + 1
            if soft <= 0 or (hard >= 0 and soft > hard):
                soft = hard
        self.at_ns = soft * _NS
        return True


def rlimit_cpu_changed(group: ThreadGroup) -> None:
    """RLIMIT_CPU of the process was set, or inherited: watch it (setrlimit(2))."""
    timers = cpu_timers(group)
    limit: CpuTimer | None = None
    for armed in timers.armed:
        if isinstance(armed, CpuLimit):
            limit = armed
    soft, hard = group.rlimits[RLIMIT_CPU]
    if soft < 0 and hard < 0:
        if limit is not None:
            timers.disarm(limit)
        return
    if limit is None:
        limit = CpuLimit(CpuClock(group, None, CPU_PROF))
    at = soft if soft >= 0 else hard
    limit.at_ns = at * _NS
    timers.arm(limit)


# -- POSIX timers ------------------------------------------------------------------------------------------------


class PosixTimer(SignalSource, TimerOwner):
    """A timer of timer_create(2)."""

    def __init__(self, group: ThreadGroup, ident: int, clockid: int, clock: CpuClock | None) -> None:
        self.group: ThreadGroup = group
        self.ident: int = ident
        self.clockid: int = clockid  # of a wall clock
        self.cpu: PosixCpuTimer | None = PosixCpuTimer(self, clock) if clock is not None else None
        self.notify: int = SIGEV_SIGNAL
        self.signo: int = SIGALRM
        self.value: int = 0  # the sigval, unsigned
        self.task: Task | None = None  # SIGEV_THREAD_ID
        self.interval_ns: int = 0
        self.at_ns: int = 0  # the next expiry on the timer's own clock; 0: not running
        self.timer: Timer | None = None
        self.info: SigInfo | None = None  # queued and not yet taken
        self.overrun: int = 0  # being counted
        self.overrun_last: int = 0  # of the last signal taken
        self.charged_uid: int = -1

    def now_ns(self) -> int:
        """The timer's clock."""
        return self.cpu.clock.now_ns() if self.cpu is not None else wall_clock_ns(self.clockid)

    def start(self) -> None:
        """Arm it for `at_ns`."""
        if self.cpu is not None:
            self.cpu.at_ns = self.at_ns
            cpu_timers(self.cpu.clock.group).arm(self.cpu)
        elif self.at_ns < KTIME_MAX:
            deadline_ns = monotonic_deadline(self.clockid, self.at_ns)
            self.timer = self.group.kernel.timers.add(deadline_ns, POSIX_TIMER, self)

    def stop(self) -> None:
        """Stop the timer; a signal that is queued already stays."""
        if self.cpu is not None:
            cpu_timers(self.cpu.clock.group).disarm(self.cpu)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def set(self, value_ns: int, interval_ns: int, *, is_absolute: bool) -> None:
        """timer_settime(2); a value of 0 stops it."""
        self.stop()
        if self.info is not None:
            self.info.timer = None  # it will not start the timer again
            self.info = None
        self.interval_ns = interval_ns
        self.overrun = self.overrun_last = 0
        self.at_ns = 0
        if value_ns:
            self.at_ns = value_ns if is_absolute else min(self.now_ns() + value_ns, KTIME_MAX)
            self.start()

    def get(self) -> tuple[int, int]:
        """(value, interval) in ns (timer_gettime(2)); running, but late: 1 ns."""
        if not self.at_ns:
            return 0, self.interval_ns
        now_ns = self.now_ns()
        if self.interval_ns and now_ns >= self.at_ns and (self.notify == SIGEV_NONE or self.info is not None):
            passed = (now_ns - self.at_ns) // self.interval_ns + 1
            if self.notify == SIGEV_NONE:
                self.at_ns += passed * self.interval_ns
                return self.at_ns - now_ns, self.interval_ns
            return self.at_ns + passed * self.interval_ns - now_ns, self.interval_ns
        if now_ns < self.at_ns:
            return self.at_ns - now_ns, self.interval_ns
        return (0 if self.notify == SIGEV_NONE else 1), self.interval_ns

    def timer_due(self, kind: int, argument: int) -> None:
        self.expire()

    def expire(self) -> None:
        """The time has come: queue the signal; it will start the timer again when it is taken."""
        self.timer = None
        if self.notify == SIGEV_NONE:
            return
        raw = pack_siginfo_timer(self.signo, self.ident, 0, self.value)
        info = SigInfo(self.signo, SI_TIMER, raw)
        info.timer = self
        self.info = info
        target = self.task if self.task is not None else target_of(self.group)
        result = IGNORED
        if target is not None and not target.is_exited:
            result = send(target, info, to_group=self.task is None)
        if result == IGNORED:
            self._run_on()
        elif info not in (
            target.pending.queue if self.task is not None and target else self.group.pending.queue
        ):
            # The same signal was pending already, from elsewhere: this expiry is merged with it.
            self.info = None
            if self.interval_ns:
                self._forward()
                self.start()
            else:
                self.at_ns = 0

    def discarded(self, info: SigInfo) -> None:
        if self.info is info:
            self._run_on()

    def _run_on(self) -> None:
        """Its signal is ignored: a periodic timer goes on, at no more than the clock tick's rate (as Linux 6.12)."""
        self.info = None
        if self.interval_ns:
            self._forward()
            self.at_ns = max(self.at_ns, self.now_ns() + COARSE_NS)
            self.start()
        else:
            self.at_ns = 0

    def _forward(self) -> int:
        """Move `at_ns` past now; the periods passed, at least 1."""
        passed = max((self.now_ns() - self.at_ns) // self.interval_ns + 1, 1)
        self.at_ns += passed * self.interval_ns
        return passed

    def dequeued(self, info: SigInfo) -> None:
        """The signal is about to be seen: count what was missed, and go on."""
        if self.info is not info:
            return
        self.info = None
        missed = 0
        if self.interval_ns:
            missed = min(self._forward() - 1, _INT_MAX)
            self.start()
        else:
            self.at_ns = 0
        self.overrun_last = missed
        info.raw = pack_siginfo_timer(self.signo, self.ident, missed, self.value)


class PosixCpuTimer(CpuTimer):
    """The CPU time side of a POSIX timer."""

    def __init__(self, owner: PosixTimer, clock: CpuClock) -> None:
        super().__init__(clock)
        self.owner: PosixTimer = owner

    def cpu_expired(self, now_ns: int) -> bool:
        owner = self.owner
        armed_at = self.at_ns
        owner.expire()
        return self.at_ns != armed_at and owner.at_ns != 0


class SigEvent:
    """struct sigevent, decoded."""

    def __init__(self, notify: int, signo: int, value: int, tid: int) -> None:
        self.notify: int = notify
        self.signo: int = signo
        self.value: int = value
        self.tid: int = tid


def create_timer(task: Task, clockid: int, event: SigEvent | None) -> PosixTimer:
    """timer_create(2).  Raises LinuxError(EINVAL, EOPNOTSUPP, EAGAIN)."""
    group = task.group
    clock = cpu_clock(task, clockid)
    if clock is None:
        check_can_wait(clockid)
    target: Task | None = None
    if event is not None:
        if event.notify == SIGEV_SIGNAL | SIGEV_THREAD_ID:
            target = task.kernel.tasks.get(pid_from(task.pid_ns, event.tid))
            if target is None or target.group is not group:
                raise LinuxError(EINVAL)
        elif event.notify not in (SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD):
            raise LinuxError(EINVAL)
        if event.notify != SIGEV_NONE and not 0 < event.signo <= NSIG:
            raise LinuxError(EINVAL)
    if not charge(task.kernel, task.creds.uid, group.rlimit(RLIMIT_SIGPENDING)):
        raise LinuxError(EAGAIN)
    ident = group.timers.take_id()
    timer = PosixTimer(group, ident, clockid, clock)
    timer.charged_uid = task.creds.uid
    timer.value = ident
    if event is not None:
        timer.notify = event.notify
        timer.signo = event.signo
        timer.value = event.value
        timer.task = target
    group.timers.posix[ident] = timer
    return timer


def find_timer(group: ThreadGroup, ident: int) -> PosixTimer:
    """A timer by its id.  Raises LinuxError(EINVAL)."""
    found = group.timers.posix.get(ident)
    if isinstance(found, PosixTimer):
        return found
    raise LinuxError(EINVAL)


def delete_timer(timer: PosixTimer) -> None:
    """timer_delete(2); a signal that is queued already is still delivered."""
    group = timer.group
    timer.stop()
    timer.cpu = None  # the two would keep each other in memory
    if timer.info is not None:
        timer.info.timer = None
        timer.info = None
    if timer.charged_uid >= 0:
        uncharge(group.kernel, timer.charged_uid)
        timer.charged_uid = -1
    group.timers.posix.pop(timer.ident, None)


def delete_all_timers(group: ThreadGroup) -> None:
    """At exit and execve: POSIX timers do not survive, interval timers do (until the exit)."""
    for timer in list(group.timers.posix.values()):
        if isinstance(timer, PosixTimer):
            delete_timer(timer)


# -- hooks -------------------------------------------------------------------------------------------------------


def group_exits(group: ThreadGroup) -> None:
    """The last thread of a process is gone."""
    delete_all_timers(group)
    found = group.timers.interval[ITIMER_REAL]
    if isinstance(found, RealTimer):
        found.set(0, 0)
    timers = group.timers.cpu
    if isinstance(timers, CpuTimers):
        timers.clear()
    group.timers.interval = [None, None, None]  # they and the group would keep each other in memory
    group.timers.cpu = None


def exec_resets(task: Task) -> None:
    """execve drops the POSIX timers (execve(2))."""
    delete_all_timers(task.group)


def install(kernel: Kernel) -> None:
    """Register with exit and execve."""
    kernel.hooks.at_group_exit["timers"] = group_exits
    kernel.hooks.at_exec["timers"] = exec_resets
