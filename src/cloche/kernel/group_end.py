"""The end of a process, and an execve that must wait for the ends of other threads."""

from cloche.kernel.blocking import TaskBase
from cloche.vfs.waitqueue import WaitQueue


class GroupEnd:
    """How far the end of a process has come: ordered, begun, a zombie, reaped.

    Invariants: an order is valid only until the end has begun, and the first one stays; the status of an end that has
    begun is final; a reaped group is no zombie, and its state does not change any more.
    """

    def __init__(self) -> None:
        self.fatal_status: int = -1  # wait status of a fatal signal that was sent, until a thread acts on it
        self.is_begun: bool = False  # exit_group under way
        self.status: int = 0  # wait status, once dying
        self.must_die: bool = False  # a tracer must not delay it
        self.is_by_thread: bool = False  # thread by thread, since a tracer looks at each
        # its parent is told when its host process is gone: what it had, others may need at once
        self.awaits_host: bool = False
        self.has_ended_namespace: bool = False  # as its init
        self.is_zombie: bool = False
        self.is_reaped: bool = False
        # reaped, and its parent ignores such children: its usage is not counted
        self.is_unaccounted: bool = False

    def order(self, status: int) -> bool:
        """A fatal signal was sent; False if its end is on the way already."""
        if self.fatal_status >= 0 or self.is_begun:
            return False
        self.fatal_status = status
        return True

    def is_ordered(self) -> bool:
        """Whether it ends, or is about to."""
        return self.is_begun or self.fatal_status >= 0

    def go_by_thread(self, status: int) -> None:
        """A tracer wants to see each of its threads end."""
        assert not self.is_begun
        self.is_by_thread = True
        self.fatal_status = status

    def thread_ended(self, status: int) -> None:
        """A thread ended by itself; if it was the last, this is the status of all."""
        if not self.is_begun:
            self.status = status

    def begin(self, status: int) -> None:
        """exit_group: all of its threads end now."""
        assert not self.is_begun and not self.is_zombie
        self.is_begun = True
        self.status = status

    def become_zombie(self) -> None:
        """Its last thread is gone."""
        assert not self.is_reaped
        self.is_zombie = True

    def reap(self, *, is_waited_for: bool) -> bool:
        """Its parent has the status, or does not want it. Returns whether it was a zombie."""
        was_zombie = self.is_zombie
        self.is_zombie = False
        self.is_reaped = True
        self.is_unaccounted = not is_waited_for
        return was_zombie


class ExecTurn:
    """The thread whose execve waits for the ends of the others, and the queue of tasks that wait for this execve
    (cred_guard_mutex).

    Invariant: the queue is empty unless there is such a thread.
    """

    def __init__(self) -> None:
        self.waiter: TaskBase | None = None
        self.queue: WaitQueue | None = None  # made at first use

    def begin(self, task: TaskBase) -> None:
        """`task` waits.  A thread that waited already is one of those whose ends it waits for."""
        self.waiter = task

    def commit(self) -> None:
        """The execve cannot be cancelled any more."""
        self.waiter = None

    def end(self, task: TaskBase) -> None:
        """The wait of `task` is over, with or without success."""
        if self.waiter is task:
            self.waiter = None
        if self.queue is not None:
            self.queue.wake()

    def others(self) -> WaitQueue:
        """The queue of tasks that wait for the end of the execve."""
        assert self.waiter is not None
        if self.queue is None:
            self.queue = WaitQueue()
        return self.queue

    def thread_gone(self) -> None:
        """A thread of the group is gone: the execve may go on."""
        if self.waiter is not None:
            self.waiter.make_ready()
