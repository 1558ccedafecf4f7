"""Lanes: host threads of the sentry that can run its loop, so that a host call that takes long holds up only one task.

One lane has the turn, and runs everything; the others wait in the platform (csrc/host/lanes.c). Some host calls on
storage that may be slow cannot be left to another process (`platform.slow`, `SLOW_STORAGE` in the flags of a
transfer); they are made in the middle of a handler. If it is not back within a millisecond another lane takes the
turn: `take_over` makes the task wait with an `AwayCall`, and the loop goes on there. When the call is over its lane
stands in line; the one that has the turn gives it between two events (`fd_ready`), and the handler goes on where it
was (`came_back`). So handlers are atomic except for such a call: it is the last thing that they do, or they check
afterwards what may have changed. The open file is held meanwhile, and so is its position.

While only one lane is left, calls of that kind wait before they begin (`HostWaits.lane_turn`), and changes in volumes
are made by the gofer.

As in Linux (state D) no signal ends the wait. A fatal one does: the task ends at once, and when the call is over
`Abandoned` unwinds the rest of its handler. Until then the file and its position stay the call's: the host has locked
the position as well, and who asked for it would wait there with the turn.
"""

import os
from typing import Final

from cloche.abi.errno import ERESTARTNOHAND
from cloche.abi.poll import EPOLLIN
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase
from cloche.kernel.chores import Chore
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import LentWaits, StorageTurn, forget_all
from cloche.kernel.phase import KERNEL, WAITING
from cloche.kernel.task import Kernel, Task
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import POS_BUSY, FileDescription

_LOWEST: Final = 65535  # no smaller number is an address
_ARGUMENT_BYTES: Final = 4096  # the longest path; all but vectors are shorter


class Abandoned(Exception):
    """The task of a call has died; its state must not be used from here on."""


class FileDrop(Chore):
    """Drops a reference to an open file when no handler is suspended in the middle of using it."""

    def __init__(self, file: FileDescription) -> None:
        self.file: FileDescription = file

    def step(self) -> bool:
        self.file.put()
        return False


class AwayCall(Blocked):
    """The wait of a task whose lane is away; `inner`: its wait from before."""

    def __init__(self, kernel: Kernel, task: Task | None, lent: LentWaits) -> None:
        super().__init__()
        self.kernel: Kernel = kernel
        self.task: Task | None = task
        self.lent: LentWaits = lent
        self.file: FileDescription | None = lent.file
        self.inner: Blocked | None = None
        self.holds_position: bool = False
        self.is_abandoned: bool = False  # its task has died

    def begin(self) -> None:
        """The turn has been taken from the lane."""
        file = self.file
        if file is not None:
            file.get()
            file.storage_away(is_away=True)
            if file.flags & POS_BUSY == 0:
                file.flags |= POS_BUSY
                self.holds_position = True
        task = self.task
        if task is not None:
            self.inner = task.blocked
            task.blocked = self
            if task.phase == KERNEL:
                task.enter(WAITING)

    def _let_go(self) -> None:
        """The call is over."""
        file = self.file
        if file is None:
            return
        file.storage_away(is_away=False)
        if self.holds_position:
            file.flags &= ~POS_BUSY
            queue = self.kernel.busy_positions.pop(file, None)
            if queue is not None:
                queue.wake()
        self.kernel.chores.append(FileDrop(file))

    def come_back(self) -> None:
        """Its lane has the turn again.  Raises Abandoned."""
        if not self.is_abandoned:
            self.kernel.host_waits.take_back(self.lent)
        self._let_go()
        if self.is_abandoned:
            raise Abandoned
        task = self.task
        if task is not None:
            task.blocked = self.inner
            if self.inner is None:
                task.enter(KERNEL)

    def letter(self) -> str:
        return "D"

    def lends_thread(self) -> bool:
        return False  # the handler continues with it unchanged

    def retry(self, task: TaskBase) -> int:
        return BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        return BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOHAND if task.is_kill_pending else BLOCKED

    def finished(self, task: TaskBase) -> None:
        """The task was killed: the call goes on without it."""
        self.is_abandoned = True
        forget_all(self.lent.journal)
        self.lent.journal = []
        self.task = None
        inner = self.inner
        self.inner = None
        if inner is not None:
            for queue in inner.queues:
                queue.remove(task.waiter)
            inner.queues.clear()
            inner.finished(task)


def bring_arguments(task: Task) -> None:
    """Before a call of a process that has mapped slow files: have the pages of such files in memory to which its
    arguments point.

    Raises Abandoned.
    """
    args = task.args
    task.kernel.host_waits.file = None
    mem = task.user_memory()
    for value in (args.a0, args.a1, args.a2, args.a3, args.a4, args.a5):
        if value > _LOWEST:
            mem.bring(value, _ARGUMENT_BYTES)


def bring_data(task: Task, file: FileDescription, data: IovIter, limit: int) -> None:
    """Touch the buffers of a read or write before the call. Raises Abandoned."""
    task.kernel.host_waits.file = file
    data.bring(limit)


class Lanes(FdWatcher):
    """The lanes of a sentry, and their host calls that take long."""

    def __init__(self, kernel: Kernel, spare: int) -> None:
        self.kernel: Kernel = kernel
        self.spare: int = spare  # number of lanes beside the one that has the turn
        self.away: dict[int, AwayCall] = {}  # by the numbers of lanes
        self.bell_fd: int = -1  # an eventfd, written when a lane is back
        self.taken: int = 0  # turns, for tests

    def install(self, bell_fd: int) -> None:
        """The lanes have been started: watch the bell that says that one is back."""
        self.bell_fd = bell_fd
        self.kernel.fds.watch(bell_fd, EPOLLIN, self)

    def take_over(self, lane: int, thread: int) -> None:
        """This lane has taken the turn from another, which is in a call for that guest thread (-1: for none)."""
        kernel = self.kernel
        self.taken += 1
        kernel.platform.lane_begins()
        task = kernel.by_thread.get(thread) if thread >= 0 else None
        call = AwayCall(kernel, task, kernel.host_waits.lend())
        self.away[lane] = call
        if len(self.away) >= self.spare and kernel.host_waits.lane_turn is None:
            kernel.host_waits.lane_turn = StorageTurn()
        rest = kernel.batch
        if rest:
            rest.reverse()
            kernel.ready[:0] = rest
            rest.clear()
        call.begin()

    def came_back(self, lane: int) -> None:
        """That lane has the turn again, in the middle of its handler.  Raises Abandoned."""
        self.kernel.platform.lane_begins()
        call = self.away.pop(lane)
        waits = self.kernel.host_waits
        if waits.lane_turn is not None:
            waits.lane_turn.come()
            waits.lane_turn = None
        call.come_back()

    def fd_ready(self, token: int, events: int) -> None:
        """Between two events: give the turn to lanes whose call is over."""
        try:
            os.read(self.bell_fd, 8)
        except BlockingIOError:
            pass  # another event has handled it already
        lane, thread = self.kernel.platform.stand_by()
        if lane >= 0:
            self.take_over(lane, thread)
