"""Wait queues: the waiters to notify when something may have become ready.

A queue holds waiters; `wake(mask)` notifies those whose mask meets it (POLL* bits). A notification is only a hint:
the waiter checks the condition again. Exclusive waiters (accept, EPOLLEXCLUSIVE) are woken one at a time. Lives here,
left of `kernel`, because open files own queues.
"""

from typing import Final

from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP

ANY: Final = POLLIN | POLLOUT | POLLPRI | POLLERR | POLLHUP | POLLRDHUP


class Waiter:
    """A waiter. Subclasses override `notify`."""

    def notify(self, queue: "WaitQueue", mask: int) -> bool:
        """Called by `wake`; True if an exclusive waiter consumed the wake-up."""
        raise NotImplementedError


class WaitQueue:
    """An ordered set of waiters, each with a mask of POLL* bits and whether it is exclusive."""

    def __init__(self) -> None:
        self._entries: dict[Waiter, tuple[int, bool]] = {}

    def add(self, waiter: Waiter, mask: int = ANY, *, is_exclusive: bool = False) -> None:
        """Register (or re-register with another mask); POLLERR and POLLHUP are always included."""
        self._entries[waiter] = (mask | POLLERR | POLLHUP, is_exclusive)

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
                if entries[waiter][0] & mask:
                    waiter.notify(self, mask)
                return  # (it may have changed)
        consumed = False
        for waiter, (wanted, is_exclusive) in list(self._entries.items()):
            if not wanted & mask or (is_exclusive and consumed):
                continue
            if waiter not in self._entries:
                continue
            took = waiter.notify(self, mask)
            if is_exclusive and took:
                consumed = True
