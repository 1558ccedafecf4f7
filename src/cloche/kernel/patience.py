"""Work of the kernel's own that asks the host's storage and waits for answers as calls do (kernel.host_wait).

A chore asks in functions that can be run again like a handler: each changes nothing before its last question, and at
most one thing. While an answer is outstanding the chore is not in the kernel's queue.
"""

from collections import deque
from collections.abc import Callable, Generator

from cloche.kernel.chores import Chore
from cloche.kernel.host_wait import HostRequest, HostWait, HostWaits, Turn, forget_all
from cloche.vfs.objects import PausedWalk
from cloche.vfs.waitqueue import Waiter, WaitQueue

TYPE_CHECKING = False
if TYPE_CHECKING:  # the parts have a stand-in for `typing`, without type variables
    from typing import TypeVar

    T = TypeVar("T")


class Patience(Waiter):
    """The answers that one chore of the kernel's own has waited for."""

    def __init__(self, waits: HostWaits, chores: deque[Chore], chore: Chore) -> None:
        self.waits: HostWaits = waits
        self.chores: deque[Chore] = chores
        self.chore: Chore = chore
        self.journal: list[HostRequest] = []
        self.walks: list[PausedWalk] = []
        self.request: HostRequest | None = None  # the question that is not answered yet
        self.is_turn: bool = False

    def is_waiting(self) -> bool:
        """Whether the chore must not go on; it will be queued again."""
        return self.request is not None

    def attempt(self, work: "Callable[[], T]") -> "list[T]":
        """Run `work`. Returns its result in a list; an empty list if it has to wait: then call this again when the
        chore has its turn.
        """
        journal, self.journal = self.journal, []
        self.request = None
        self.waits.begin(journal)
        self.waits.walks, self.walks = self.walks, []
        try:
            return [work()]
        except HostWait as wait:
            self._wait(wait)
            return []
        finally:
            self.waits.end()

    def ask(self, work: "Callable[[], T]") -> "Generator[bytes, None, T]":
        """For chores that are generators of bytes: yields b"" for each wait, and returns the result of `work`."""
        found = self.attempt(work)
        while not found:
            yield b""
            found = self.attempt(work)
        return found[0]

    def _wait(self, wait: HostWait) -> None:
        self.journal, self.walks = self.waits.keep(wait)
        self.request = wait.request
        self.is_turn = wait.is_turn
        if isinstance(wait.request, Turn):
            self.chores.append(self.chore)  # others first
        else:
            wait.request.queue.add(self)

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        request = self.request
        if request is not None and (request.is_settled if self.is_turn else request.is_answered):
            queue.remove(self)
            self.request = None
            self.chores.append(self.chore)
        return False

    def drop(self) -> None:
        """Stop waiting: the chore was given up."""
        request = self.request
        self.request = None
        if request is not None:
            request.queue.remove(self)
        journal, self.journal, self.walks = self.journal, [], []
        forget_all(journal)
