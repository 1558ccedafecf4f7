"""Clocks and timers, with time in the test's hand: the kernel's timer queue is asked for the timers that are due."""

import pytest

from cloche.abi.errno import EAGAIN, EINVAL, EOPNOTSUPP, EPERM, ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from cloche.abi.signal import (
    SIGALRM,
    SIGEV_NONE,
    SIGKILL,
    SIGPROF,
    SIGUSR1,
    SIGVTALRM,
    SIGXCPU,
    sigbit,
)
from cloche.abi.signal_structs import SIGEVENT
from cloche.abi.structs import (
    pack_itimerspec,
    pack_itimerval,
    pack_timespec,
    unpack_itimerspec,
    unpack_itimerval,
    unpack_timespec,
    unpack_u32,
)
from cloche.abi.time import CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, TIMER_ABSTIME
from cloche.kernel import killing, signals
from cloche.kernel.blocking import BLOCKED
from cloche.kernel.itimers import find_timer, group_exits, rlimit_cpu_changed
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.timers import monotonic_ns
from cloche.platform.fake import FakeProcess
from cloche.syscalls import sys_time
from tests.unit.kernel.world import World

MS = 1_000_000
SECOND = 1_000_000_000


class Clockwork(World):
    def __init__(self) -> None:
        super().__init__()
        signals.set_sigmask(self.task, (1 << 64) - 1)

    def due(self) -> None:
        """Run the next timer, whenever it is due."""
        deadline = self.kernel.timers.next_deadline_ns()
        assert deadline >= 0
        self.kernel.timers.run_due(deadline)

    def pending(self, signo: int) -> bool:
        return (self.task.group.pending.mask | self.task.pending.mask) & sigbit(signo) != 0

    def take(self, signo: int) -> SigInfo:
        info = signals.dequeue_signal(self.task, sigbit(signo))
        assert info is not None
        return info

    def burn(self, user_ns: int, system_ns: int = 0) -> None:
        process = self.task.mm.process
        assert isinstance(process, FakeProcess)
        process.user_ns += user_ns
        process.system_ns += system_ns

    def create(
        self, clock: int = CLOCK_MONOTONIC, notify: int = 0, signo: int = SIGUSR1, value: int = 7
    ) -> int:
        event = self.put(SIGEVENT.pack(value, signo, notify, 0))
        out = self.put(bytes(4))
        result = self.call(sys_time.sys_timer_create, clock, event, out)
        return unpack_u32(self.get(out, 4), 0) if result == 0 else result

    def settime(self, ident: int, value_ns: int, interval_ns: int = 0, flags: int = 0) -> int:
        return self.call(
            sys_time.sys_timer_settime, ident, flags, self.put(pack_itimerspec(interval_ns, value_ns))
        )


@pytest.fixture
def world() -> Clockwork:
    return Clockwork()


class TestRealTimer:
    def test_waits_for_its_signal_to_be_taken(self, world: Clockwork) -> None:
        new = world.put(pack_itimerval(5 * MS, 3 * MS))
        assert world.call(sys_time.sys_setitimer, 0, new, 0) == 0
        world.due()
        assert world.pending(SIGALRM)
        assert world.kernel.timers.next_deadline_ns() == -1
        before = monotonic_ns()
        world.take(SIGALRM)
        assert before < world.kernel.timers.next_deadline_ns() <= monotonic_ns() + 8 * MS

    def test_old_value(self, world: Clockwork) -> None:
        old = world.put(bytes(32))
        assert world.call(sys_time.sys_alarm, 100) == 0
        assert world.call(sys_time.sys_setitimer, 0, 0, old) == 0
        interval, value = unpack_itimerval(world.get(old, 32))
        assert interval == 0 and 99 * SECOND < value <= 100 * SECOND
        assert world.kernel.timers.next_deadline_ns() == -1

    def test_alarm_rounds(self, world: Clockwork) -> None:
        assert world.call(sys_time.sys_alarm, 10) == 0
        assert world.call(sys_time.sys_alarm, 0) == 10
        world.call(sys_time.sys_setitimer, 0, world.put(pack_itimerval(0, 100 * MS)), 0)
        assert world.call(sys_time.sys_alarm, 0) == 1

    def test_errors(self, world: Clockwork) -> None:
        new = world.put(pack_itimerval(0, 0)[:24] + (10**6).to_bytes(8, "little"))
        assert world.call(sys_time.sys_setitimer, 0, new, 0) == -EINVAL
        assert world.call(sys_time.sys_setitimer, 3, 0, 0) == -EINVAL
        assert world.call(sys_time.sys_getitimer, -1, new) == -EINVAL

    def test_ends_with_the_process(self, world: Clockwork) -> None:
        world.call(sys_time.sys_alarm, 10)
        group_exits(world.task.group)
        assert world.kernel.timers.next_deadline_ns() == -1


class TestCpuTimers:
    @pytest.mark.parametrize(("which", "signo"), [(1, SIGVTALRM), (2, SIGPROF)])
    def test_interval(self, world: Clockwork, which: int, signo: int) -> None:
        world.call(sys_time.sys_setitimer, which, world.put(pack_itimerval(10 * MS, 10 * MS)), 0)
        world.due()
        assert not world.pending(signo)
        world.burn(9 * MS)
        world.due()
        assert not world.pending(signo)
        world.burn(2 * MS)
        world.due()
        assert world.pending(signo)
        world.take(signo)
        out = world.put(bytes(32))
        world.call(sys_time.sys_getitimer, which, out)
        assert unpack_itimerval(world.get(out, 32)) == (10 * MS, 9 * MS)
        world.call(sys_time.sys_setitimer, which, 0, 0)
        assert world.kernel.timers.next_deadline_ns() == -1

    def test_system_time_counts_for_prof_only(self, world: Clockwork) -> None:
        for which in (1, 2):
            world.call(sys_time.sys_setitimer, which, world.put(pack_itimerval(0, 10 * MS)), 0)
        world.burn(0, 20 * MS)
        world.due()
        world.due()  # they are looked at one after the other
        assert world.pending(SIGPROF) and not world.pending(SIGVTALRM)

    def test_idle_process_is_seldom_looked_at(self, world: Clockwork) -> None:
        from cloche.syscalls.sys_signal import sys_pause

        world.call(sys_pause)
        world.call(sys_time.sys_setitimer, 2, world.put(pack_itimerval(0, MS)), 0, task=world.task)
        assert world.kernel.timers.next_deadline_ns() - monotonic_ns() > 10 * MS

    def test_limit(self, world: Clockwork) -> None:
        group = world.task.group
        group.rlimits[0] = (1, 3)
        rlimit_cpu_changed(group)
        world.burn(SECOND)
        world.due()
        assert world.pending(SIGXCPU)
        world.take(SIGXCPU)
        world.burn(SECOND)
        world.due()
        assert world.pending(SIGXCPU)
        world.burn(SECOND)
        world.due()
        assert group.end.fatal_status == SIGKILL


class TestPosixTimers:
    def test_signal(self, world: Clockwork) -> None:
        ident = world.create()
        assert world.settime(ident, 5 * MS) == 0
        world.due()
        info = world.take(SIGUSR1)
        assert (info.code, unpack_u32(info.raw, 16), unpack_u32(info.raw, 24)) == (-2, ident, 7)
        assert world.kernel.timers.next_deadline_ns() == -1

    def test_overruns(self, world: Clockwork) -> None:
        ident = world.create()
        past = monotonic_ns() - 95 * MS
        world.settime(ident, past, 10 * MS, TIMER_ABSTIME)
        world.due()
        assert world.kernel.timers.next_deadline_ns() == -1  # until the signal is taken
        before = monotonic_ns()
        info = world.take(SIGUSR1)
        overrun = unpack_u32(info.raw, 20)
        assert 9 <= overrun < 100_000
        assert world.call(sys_time.sys_timer_getoverrun, ident) == overrun
        assert world.kernel.timers.next_deadline_ns() > before

    def test_none(self, world: Clockwork) -> None:
        ident = world.create(notify=SIGEV_NONE)
        world.settime(ident, SECOND, SECOND)
        out = world.put(bytes(32))
        assert world.call(sys_time.sys_timer_gettime, ident, out) == 0
        interval, value = unpack_itimerspec(world.get(out, 32))
        assert interval == SECOND and 0 < value <= SECOND
        world.due()
        assert not world.pending(SIGUSR1)

    def test_merged_with_a_foreign_signal(self, world: Clockwork) -> None:
        """The same signal is pending already: the timer must not wait for ever."""
        ident = world.create()
        killing.kill(world.task, 2, SIGUSR1)
        world.settime(ident, MS, MS)
        world.due()
        assert world.kernel.timers.next_deadline_ns() > 0

    def test_ignored_signal(self, world: Clockwork) -> None:
        from cloche.kernel.siginfo import SigAction

        signals.set_sigmask(world.task, 0)
        signals.set_action(world.task, SIGUSR1, SigAction(1))
        ident = world.create()
        world.settime(ident, MS, MS)
        world.due()
        assert not world.pending(SIGUSR1) and world.kernel.timers.next_deadline_ns() > monotonic_ns()

    def test_deleted_while_queued(self, world: Clockwork) -> None:
        ident = world.create()
        world.settime(ident, MS, MS)
        world.due()
        assert world.call(sys_time.sys_timer_delete, ident) == 0
        world.take(SIGUSR1)
        assert world.kernel.timers.next_deadline_ns() == -1
        assert world.kernel.queued_signals.is_empty()

    def test_on_cpu_time(self, world: Clockwork) -> None:
        ident = world.create(CLOCK_PROCESS_CPUTIME_ID)
        world.settime(ident, 10 * MS, 10 * MS)
        world.due()
        assert not world.pending(SIGUSR1)
        world.burn(35 * MS)
        world.due()
        info = world.take(SIGUSR1)
        assert unpack_u32(info.raw, 20) == 2
        assert find_timer(world.task.group, ident).at_ns == 40 * MS
        world.burn(10 * MS)
        world.due()
        assert world.pending(SIGUSR1)

    def test_errors(self, world: Clockwork) -> None:
        assert world.create(55) == -EINVAL
        assert world.create(4) == -EOPNOTSUPP
        assert world.create(8) == -EOPNOTSUPP
        assert world.create(notify=9) == -EINVAL
        assert world.create(signo=65) == -EINVAL
        assert world.create(notify=4) == -EINVAL
        assert world.settime(77, 1) == -EINVAL
        world.task.group.rlimits[11] = (0, 0)
        assert world.create() == -EAGAIN

    def test_exec_drops_them(self, world: Clockwork) -> None:
        ident = world.create()
        world.settime(ident, MS)
        for hook in world.kernel.hooks.at_exec.values():
            hook(world.task)
        assert world.task.group.timers.posix == {} and world.kernel.timers.next_deadline_ns() == -1


class TestSleep:
    def test_relative(self, world: Clockwork) -> None:
        span, left = world.put(pack_timespec(SECOND)), world.put(bytes(16))
        assert world.call(sys_time.sys_nanosleep, span, left) == BLOCKED
        op = world.task.blocked
        assert op is not None
        assert world.interrupt() == -ERESTART_RESTARTBLOCK
        assert 0 < unpack_timespec(world.get(left, 16)) <= SECOND
        assert world.task.restart is op
        assert op.restart(world.task) == BLOCKED
        assert world.expire() == 0

    def test_absolute(self, world: Clockwork) -> None:
        at = world.put(pack_timespec(monotonic_ns() + 100 * SECOND))
        assert world.call(sys_time.sys_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, at, 0) == BLOCKED
        assert world.interrupt() == -ERESTARTNOHAND
        past = world.put(pack_timespec(5))
        assert world.call(sys_time.sys_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, past, 0) == 0

    def test_for_ever(self, world: Clockwork) -> None:
        span = world.put(pack_timespec(0)[:8].replace(b"\0" * 8, b"\xff" * 7 + b"\x7f") + bytes(8))
        assert world.call(sys_time.sys_nanosleep, span, 0) == BLOCKED
        assert world.task.blocked is not None and world.task.blocked.deadline_ns == -1

    def test_on_cpu_time(self, world: Clockwork) -> None:
        span = world.put(pack_timespec(10 * MS))
        assert world.call(sys_time.sys_clock_nanosleep, CLOCK_PROCESS_CPUTIME_ID, 0, span, 0) == BLOCKED
        world.due()
        assert world.step() == BLOCKED
        world.burn(10 * MS)
        world.due()
        assert world.step() == 0

    def test_errors(self, world: Clockwork) -> None:
        bad = world.put(pack_timespec(0)[:8] + SECOND.to_bytes(8, "little"))
        assert world.call(sys_time.sys_nanosleep, bad, 0) == -EINVAL
        assert world.call(sys_time.sys_clock_nanosleep, 3, 0, bad, 0) == -EOPNOTSUPP
        assert world.call(sys_time.sys_clock_nanosleep, 99, 0, bad, 0) == -EINVAL


class TestClocks:
    def test_cpu_clock_of_a_process(self, world: Clockwork) -> None:
        world.burn(5 * MS, 7 * MS)
        out = world.put(bytes(16))
        for clockid, expected in ((2, 12), (~2 << 3 | 2, 12), (~2 << 3 | 1, 5), (~0 << 3, 12)):
            assert world.call(sys_time.sys_clock_gettime, clockid, out) == 0
            assert unpack_timespec(world.get(out, 16)) == expected * MS
        assert world.call(sys_time.sys_clock_gettime, ~999 << 3 | 2, out) == -EINVAL
        assert world.call(sys_time.sys_clock_gettime, ~2 << 3 | 3, out) == -EINVAL

    def test_nobody_sets_a_clock(self, world: Clockwork) -> None:
        now = world.put(pack_timespec(SECOND))
        assert world.call(sys_time.sys_clock_settime, CLOCK_REALTIME, now) == -EPERM
        assert world.call(sys_time.sys_clock_settime, CLOCK_MONOTONIC, now) == -EINVAL
        assert world.call(sys_time.sys_settimeofday, now, 0) == -EPERM
        change = world.put((1).to_bytes(4, "little") + bytes(204))
        assert world.call(sys_time.sys_adjtimex, change) == -EPERM
        look = world.put(bytes(208))
        assert world.call(sys_time.sys_adjtimex, look) == 5
