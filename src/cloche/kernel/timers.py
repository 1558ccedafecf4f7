"""Kernel timers: notifications at points of CLOCK_MONOTONIC.  The event loop asks when the next one is due.

A timer is data: a kind, an owner and an argument.  `TimerQueue.run_due` is the one place where they are dispatched, by
`TimerOwner.timer_due`.  A kind is one of the names below; which owners arm it stands beside it.
"""

import time
from heapq import heapify, heappop, heappush
from typing import Final

from mypy_extensions import trait

# The kinds.
DEADLINE: Final = 1  # Task: the call that it waits in has a deadline
WATCHDOG: Final = 2  # Kernel: guests that do not answer an interrupt
FATAL_EXIT: Final = 3  # signals.FatalExit: a process must end, even if its threads do not stop
REAL_TIMER: Final = 4  # itimers.RealTimer: ITIMER_REAL, alarm(2)
CPU_LOOK: Final = 5  # itimers.CpuTimers: a timer on CPU time may be due
POSIX_TIMER: Final = 6  # itimers.PosixTimer: timer_create(2)
TIMER_FILE: Final = 7  # fs.timerfd
AIO_POLL: Final = 8  # fs.aio: a file of IOCB_CMD_POLL was woken
TTY_READ: Final = 9  # fs.tty: VTIME of a read has passed
TTY_DRAIN: Final = 10  # fs.host_tty: whether the host's terminal still takes output
COLLECT_SOCKETS: Final = 11  # net.rights: Unix sockets that only messages refer to
TCP_CORK: Final = 12  # net.tcp_stream: what TCP_CORK and MSG_MORE hold back
TCP_SYN: Final = 13  # net.tcp: no answer has come
TCP_DEFER: Final = 14  # net.tcp: TCP_DEFER_ACCEPT is over
CPU_GUARD: Final = 15  # boot.cpu_guard
MEMORY_GUARD: Final = 16  # boot.memory_guard
LAYER_FLUSH: Final = 17  # fs.kept: changes of a layer are to be written
EXEC_TIMEOUT: Final = 18  # boot.execs: the time of a command from outside is over
UNIX_HOST: Final = 19  # net.unix_host: there was no memory for what comes from the host

KIND_NAMES: Final[dict[int, str]] = {
    DEADLINE: "deadline",
    WATCHDOG: "watchdog",
    FATAL_EXIT: "fatal exit",
    REAL_TIMER: "real timer",
    CPU_LOOK: "look at CPU timers",
    POSIX_TIMER: "POSIX timer",
    TIMER_FILE: "timerfd",
    AIO_POLL: "poll of asynchronous I/O",
    TTY_READ: "read of a terminal",
    TTY_DRAIN: "end of a terminal",
    COLLECT_SOCKETS: "collection of sockets",
    TCP_CORK: "corked data",
    TCP_SYN: "connection",
    TCP_DEFER: "deferred connection",
    CPU_GUARD: "CPU guard",
    MEMORY_GUARD: "memory guard",
    LAYER_FLUSH: "kept layer",
    EXEC_TIMEOUT: "time of a command",
    UNIX_HOST: "memory for a host's socket",
}


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC of the sentry, which the guests share."""
    return time.monotonic_ns()


@trait
class TimerOwner:
    """An object that arms timers."""

    def timer_due(self, kind: int, argument: int) -> None:
        """A timer of this owner is due; it is not pending any more."""
        raise NotImplementedError


class Timer:
    """One pending notification.  `cancel` is cheap: the entry stays in the heap until its time or a clean-up."""

    def __init__(self, deadline_ns: int, kind: int, owner: TimerOwner, argument: int = 0) -> None:
        self.deadline_ns: int = deadline_ns
        self.kind: int = kind
        self.owner: TimerOwner | None = owner  # None: cancelled, or its time has come
        self.argument: int = argument

    def cancel(self) -> None:
        """The owner will not be told."""
        self.owner = None

    def is_pending(self) -> bool:
        return self.owner is not None


class TimerQueue:
    """A heap of timers in order of their deadlines."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._serial: int = 0

    def add(self, deadline_ns: int, kind: int, owner: TimerOwner, argument: int = 0) -> Timer:
        """Tell `owner` once CLOCK_MONOTONIC has reached `deadline_ns`."""
        timer = Timer(deadline_ns, kind, owner, argument)
        self._serial += 1
        heappush(self._heap, (deadline_ns, self._serial, timer))
        if self._serial & 1023 == 0:
            self._drop_cancelled()
        return timer

    def _drop_cancelled(self) -> None:
        live = [entry for entry in self._heap if entry[2].owner is not None]
        if len(live) * 2 < len(self._heap):
            heapify(live)
            self._heap = live

    def next_deadline_ns(self) -> int:
        """When the next timer is due, -1 if there is none."""
        heap = self._heap
        while heap and heap[0][2].owner is None:
            heappop(heap)
        return heap[0][0] if heap else -1

    def run_due(self, now_ns: int, limit: int = 1 << 62) -> None:
        """Notify the owners of timers that are due: at most those that were pending at the start, and at most
        `limit`.
        """
        heap = self._heap
        budget = min(len(heap), limit)
        while heap and budget > 0 and heap[0][0] <= now_ns:
            budget -= 1
            timer = heappop(heap)[2]
            owner = timer.owner
            if owner is not None:
                timer.owner = None
                owner.timer_due(timer.kind, timer.argument)
