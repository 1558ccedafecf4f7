"""Wait queues: the waiters to notify when something may have become ready.

A queue holds waiters; `wake(mask)` notifies those whose mask meets it (POLL* bits). A notification is only a hint:
the waiter checks the condition again. Exclusive waiters (accept, EPOLLEXCLUSIVE) are woken one at a time. Lives here,
left of `kernel`, because open files own queues.
"""

from typing import Final

from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP

ANY: Final = POLLIN | POLLOUT | POLLPRI | POLLERR | POLLHUP | POLLRDHUP
_ALWAYS: Final = POLLERR | POLLHUP
_EXCLUSIVE: Final = 1 << 32  # above all POLL* and EPOLL* bits


class Waiter:
    """A waiter. Subclasses override `notify`."""

    def notify(self, queue: "WaitQueue", mask: int) -> bool:
        """Called by `wake`; True if an exclusive waiter consumed the wake-up."""
        raise NotImplementedError


class WaitQueue:
    """An ordered set of waiters, each with a mask of POLL* bits and whether it is exclusive."""

    def __init__(self) -> None:
        self._entries: dict[Waiter, int] = {}  # the mask, with _EXCLUSIVE

    def add(self, waiter: Waiter, mask: int = ANY, *, is_exclusive: bool = False) -> None:
        """Register (or re-register with another mask); POLLERR and POLLHUP are always included."""
        self._entries[waiter] = mask | _ALWAYS | _EXCLUSIVE if is_exclusive else mask | _ALWAYS

    def widen(self, waiter: Waiter, mask: int) -> bool:
        """Register for `mask` beside what it is registered for; whether it was not."""
        before = self._entries.get(waiter)
        self.add(waiter, mask if before is None else mask | before)
        return before is None

    def remove(self, waiter: Waiter) -> None:
        """Forget `waiter`; no error if it is not there."""
        if waiter in self._entries:
            del self._entries[waiter]

    def has(self, waiter: Waiter) -> bool:
        """Whether it is registered."""
        return waiter in self._entries

    def is_empty(self) -> bool:
        return not self._entries

    def wake(self, mask: int = ANY) -> None:
        """Notify every waiter whose mask meets `mask`, and the first exclusive one that consumes it."""
        entries = self._entries
        if not entries:
            return
        if len(entries) == 1:  # nearly always: no list
            for waiter in entries:
                if entries[waiter] & mask:
                    waiter.notify(self, mask)
                return  # (it may have changed)
        consumed = False
        for waiter in list(entries):
            wanted = entries.get(waiter)
            if wanted is None or not wanted & mask:
                continue
            if not wanted & _EXCLUSIVE:
                waiter.notify(self, mask)
            elif not consumed:
                consumed = waiter.notify(self, mask)
