"""timerfd_create(2) and its kin (fs/timerfd.c).

An expired interval timer is started again only by read(2) or timerfd_gettime(2): so an interval of a nanosecond costs
nothing between reads, and missed expirations are computed.
"""

import time
from typing import Final

from cloche.abi.errno import EAGAIN, EINVAL, ENOTTY
from cloche.abi.eventfd import TFD_IOC_SET_TICKS, TFD_NONBLOCK, TFD_TIMER_ABSTIME
from cloche.abi.fcntl import O_RDWR
from cloche.abi.poll import POLLIN
from cloche.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
)
from cloche.fs.anon import AnonFile
from cloche.kernel.task import Kernel
from cloche.kernel.timers import TIMER_FILE, Timer, TimerOwner, monotonic_ns
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context
from cloche.vfs.waitqueue import WaitQueue

_MAX_NS: Final = 0x7FFFFFFFFFFFFFFF  # KTIME_MAX
_NS: Final = 1_000_000_000


def clock_now_ns(clock: int) -> int:
    """A clock that timerfd accepts, in nanoseconds."""
    if clock == CLOCK_REALTIME or clock == CLOCK_REALTIME_ALARM:
        return time.time_ns()
    if clock == CLOCK_BOOTTIME or clock == CLOCK_BOOTTIME_ALARM:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return monotonic_ns()


class TimerFile(AnonFile, TimerOwner):
    """A timer as a file.  `expires_ns` is on its own clock, -1 when disarmed."""

    def __init__(self, kernel: Kernel, clock: int, flags: int) -> None:
        super().__init__(kernel, b"[timerfd]", O_RDWR | flags & TFD_NONBLOCK)
        self.clock: int = clock
        self.expires_ns: int = -1
        self.interval_ns: int = 0
        self.ticks: int = 0
        self.is_expired: bool = False  # has expired and was not started again
        self.settime_flags: int = 0
        self.timer: Timer | None = None
        self.queue: WaitQueue = WaitQueue()

    # -- the timer -------------------------------------------------------------------------------------
    def _start(self) -> None:
        """Have `timer_due` called when the time has come."""
        left = self.expires_ns - clock_now_ns(self.clock)
        if left <= 0:
            self._expire()
        else:
            self.timer = self.kernel.timers.add(monotonic_ns() + left, TIMER_FILE, self)

    def _cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def timer_due(self, kind: int, argument: int) -> None:
        self.timer = None
        # Too early: CLOCK_REALTIME was set back meanwhile.
        self._start()

    def _expire(self) -> None:
        self._cancel()
        self.is_expired = True
        self.ticks += 1
        self.queue.wake(POLLIN)

    def _catch_up(self) -> None:
        """Expire now if the event loop is late.

        Move an interval timer past its missed expirations, and start it again.
        """
        if self.expires_ns < 0:
            return
        now = clock_now_ns(self.clock)
        if not self.is_expired:
            if now >= self.expires_ns:
                self._expire()
            return
        if self.interval_ns > 0:
            missed = max((now - self.expires_ns) // self.interval_ns, 0)
            self.ticks += missed
            self.expires_ns += (missed + 1) * self.interval_ns
            self.is_expired = False
            self._start()

    def remaining_ns(self) -> int:
        """Until the next expiration, 0 when disarmed or (once) expired."""
        if self.expires_ns < 0:
            return 0
        return max(self.expires_ns - clock_now_ns(self.clock), 0)

    def gettime(self) -> tuple[int, int]:
        """timerfd_gettime(2): (interval, remaining) in nanoseconds."""
        self._catch_up()
        if self.is_expired and self.interval_ns > 0:
            self._catch_up()
        return self.interval_ns, self.remaining_ns()

    def settime(self, flags: int, interval_ns: int, value_ns: int) -> tuple[int, int]:
        """timerfd_settime(2); returns the result that gettime would have had before."""
        old = self.gettime()
        self._cancel()
        self.settime_flags = flags
        self.ticks = 0
        self.is_expired = False
        self.interval_ns = interval_ns
        if value_ns == 0:
            self.expires_ns = -1
            return old
        if not flags & TFD_TIMER_ABSTIME:
            value_ns += clock_now_ns(self.clock)
        self.expires_ns = min(value_ns, _MAX_NS)
        self._start()
        return old

    # -- the file --------------------------------------------------------------------------------------
    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if dst.remaining() < 8:
            return -EINVAL
        if self.ticks == 0 or self.is_expired:
            self._catch_up()
        if self.is_expired and self.interval_ns > 0:
            self._catch_up()
        ticks = self.ticks
        if ticks == 0:
            return -EAGAIN
        self.ticks = 0
        return dst.copy_to(ticks.to_bytes(8, "little"))

    def poll(self, ctx: Context) -> int:
        if self.ticks == 0:
            self._catch_up()
        return POLLIN if self.ticks else 0

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command != TFD_IOC_SET_TICKS:
            return -ENOTTY
        ticks = ctx.user_memory().read_u64(arg)
        if ticks == 0:
            return -EINVAL
        self.ticks = ticks
        self.queue.wake(POLLIN)
        return 0

    def release(self) -> None:
        self._cancel()
        self.expires_ns = -1

    def fdinfo(self) -> str:
        value = self.remaining_ns()
        return (
            f"clockid: {self.clock}\nticks: {self.ticks}\nsettime flags: 0{self.settime_flags:o}\n"
            f"it_value: ({value // _NS}, {value % _NS})\n"
            f"it_interval: ({self.interval_ns // _NS}, {self.interval_ns % _NS})\n"
        )
