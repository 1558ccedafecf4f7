"""`--cpus` without cgroups: measures what the sandbox has used, and stops its guests for a while when that is too much.

A token bucket of processor time: it fills with `limit` seconds each second, holds what one period brings, and is
emptied by the guests and by the sentry, which works only for them.  When it is empty every guest process is stopped
(SIGSTOP on the host, which no guest can see, catch or undo) until it has refilled.  Overdrafts are paid back, so over
a second or two the mean is exact to a few per cent; within a period a guest may run ahead by what all processors do
between two looks.

Processes that have ended count, too: every guest process is a child of the sentry, and the host knows the CPU time of
reaped children. Which processes are stopped is decided by the kernel's own tables, never by anything that a guest
says (I2).
"""

import resource
import time
from typing import Final

from cloche.kernel.accounting import group_space
from cloche.kernel.task import Kernel
from cloche.kernel.timers import CPU_GUARD, TimerOwner, monotonic_ns
from cloche.platform.interface import HostProcess

PERIOD_NS: Final = 100_000_000
# The longest wait; the platform waits several times as long for a guest that is stopped
MAX_DEBT_NS: Final = 2_000_000_000
_LEAST_NS: Final = 5_000_000  # between two looks
_MOST_NS: Final = 50_000_000
_SHARE: Final = 20  # measuring may take one part in so many of the time


class CpuGuard(TimerOwner):
    """Looks at the sandbox's CPU time from time to time."""

    def __init__(self, kernel: Kernel, limit: float) -> None:
        self.kernel: Kernel = kernel
        self.limit: float = limit  # processors
        self.tokens_ns: float = limit * PERIOD_NS
        self.used_ns: int = 0
        self.looked_at_ns: int = 0
        self.stopped: dict[int, HostProcess] = {}  # by ident
        self.is_stopping: bool = False

    def start(self) -> None:
        """Arm the first look."""
        self.used_ns = self._measure(self._processes())
        self.looked_at_ns = monotonic_ns()
        self.kernel.timers.add(self.looked_at_ns + _LEAST_NS, CPU_GUARD, self)

    def timer_due(self, kind: int, argument: int) -> None:
        self.look()

    def look(self) -> None:
        """Measure, stop or continue, and arm the next look."""
        processes = self._processes()
        now = monotonic_ns()
        self.settle(now - self.looked_at_ns, self._measure(processes))
        self.looked_at_ns = now
        if self.tokens_ns < 0:
            self.is_stopping = True
        elif self.is_stopping and self.tokens_ns >= min(self.limit * _LEAST_NS, self.limit * PERIOD_NS):
            self.is_stopping = False
        if self.is_stopping:
            self._stop(processes)
        elif self.stopped:
            self._continue()
        wait_ns = max(self.next_look_ns(), (monotonic_ns() - now) * _SHARE)
        self.kernel.timers.add(monotonic_ns() + wait_ns, CPU_GUARD, self)

    def settle(self, passed_ns: int, used_ns: int) -> None:
        """Fill and empty the bucket; `used_ns` is the sum since the start."""
        # A process that is dead but not reaped is missing for a moment
        spent = max(used_ns - self.used_ns, 0)
        self.used_ns = max(used_ns, self.used_ns)
        self.tokens_ns += self.limit * passed_ns - spent
        self.tokens_ns = max(min(self.tokens_ns, self.limit * PERIOD_NS), -self.limit * MAX_DEBT_NS)

    def next_look_ns(self) -> int:
        """When the bucket may be empty, or (while guests are stopped) has refilled."""
        if self.is_stopping:
            # Not much later, because processes that were just being forked may not have been stopped.
            return min(max(int(-self.tokens_ns / self.limit) + _LEAST_NS, _LEAST_NS), _MOST_NS)
        drain = self.kernel.cpu_count - self.limit
        return max(min(int(self.tokens_ns / drain), _MOST_NS), _LEAST_NS) if drain > 0 else _MOST_NS

    def _processes(self) -> dict[int, HostProcess]:
        found: dict[int, HostProcess] = {}
        for group in self.kernel.groups.values():
            space = group_space(group)
            if space is not None:
                found[space.process.ident()] = space.process
        return found

    def _measure(self, processes: dict[int, HostProcess]) -> int:
        dead = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = time.process_time_ns() + int((dead.ru_utime + dead.ru_stime) * 1e9)
        for process in processes.values():
            user_ns, system_ns = process.cpu_times_ns()
            total += user_ns + system_ns
        return total

    def _stop(self, processes: dict[int, HostProcess]) -> None:
        for ident in list(self.stopped):
            if ident not in processes:
                del self.stopped[ident]
        for ident, process in processes.items():
            if ident not in self.stopped and process.pause():
                self.stopped[ident] = process

    def _continue(self) -> None:
        for process in self.stopped.values():
            process.proceed()
        self.stopped.clear()


def install(kernel: Kernel, limit: float) -> None:
    """Keep the sandbox to `limit` processors."""
    CpuGuard(kernel, limit).start()
