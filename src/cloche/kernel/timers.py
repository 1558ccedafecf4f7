"""Kernel timers: callbacks at points of CLOCK_MONOTONIC.  The event loop asks when the next one is due."""

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC of the sentry, which the guests share."""
    return time.monotonic_ns()


class Timer:
    """One pending callback.  `cancel` is cheap: the entry stays in the heap until its time or a clean-up."""

    def __init__(self, deadline_ns: int, callback: Callable[[], None]) -> None:
        self.deadline_ns: int = deadline_ns
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """It will not be called."""
        self.callback = None

    def is_pending(self) -> bool:
        return self.callback is not None


class TimerQueue:
    """A heap of timers in order of their deadlines."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._serial: int = 0

    def add(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once CLOCK_MONOTONIC has reached `deadline_ns`."""
        timer = Timer(deadline_ns, callback)
        self._serial += 1
        heappush(self._heap, (deadline_ns, self._serial, timer))
        if self._serial & 1023 == 0:
            self._drop_cancelled()
        return timer

    def _drop_cancelled(self) -> None:
        live = [entry for entry in self._heap if entry[2].callback is not None]
        if len(live) * 2 < len(self._heap):
            heapify(live)
            self._heap = live

    def next_deadline_ns(self) -> int:
        """When the next timer is due, -1 if there is none."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        return heap[0][0] if heap else -1

    def run_due(self, now_ns: int, limit: int = 1 << 62) -> None:
        """Call back everything that is due, at most what was pending at the start and `limit`."""
        heap = self._heap
        budget = min(len(heap), limit)
        while heap and budget > 0 and heap[0][0] <= now_ns:
            budget -= 1
            timer = heappop(heap)[2]
            callback = timer.callback
            if callback is not None:
                timer.callback = None
                callback()
