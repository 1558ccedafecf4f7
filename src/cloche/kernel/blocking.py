"""How a system call waits: as data, never as a suspended stack.

A handler that must wait builds a `Blocked` object with everything that it needs to go on (the open file it holds,
arguments already read, what was transferred, the deadline), registers it on wait queues with `task.block(...)`
and returns `BLOCKED`.  When a queue wakes, `retry` runs; when the deadline passes, `timed_out`; when a signal
arrives, `interrupted`.  Exactly one of them ends the wait by returning something other than `BLOCKED`.

A call with much to do works in slices (I8): it works for about `SLICE_NS`, stores its position in its `Blocked`
object and returns `next_slice(task, op)`; `retry` continues when its turn comes. Between slices a signal ends it like
any wait: `interrupted` returns what Linux returns when the call is interrupted at that point.

`BLOCKED` and `RESUME` are results that no system call can have.
"""

from typing import Final

from cloche.abi.errno import EINTR, ERESTARTSYS
from cloche.kernel.phase import DEAD as DEAD_PHASE
from cloche.kernel.phase import KERNEL, NEW, WAITING, WORKING, check
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import Context, FsContext, MountNamespace
from cloche.vfs.waitqueue import ANY, Waiter, WaitQueue

BLOCKED: Final = -(1 << 40)  # the task waits; the result comes later
RESUME: Final = -(1 << 40) - 1  # registers are as they shall be (rt_sigreturn, execve): do not touch rax
DEAD: Final = -(1 << 40) - 2  # the task has exited: nothing to resume
DISPATCH: Final = -(1 << 40) - 3  # out of a ptrace stop: now the call in `task.args` is made
# Out of a ptrace stop: the registers are right, go on to signals and guest code
RETURN: Final = -(1 << 40) - 4

SLICE_NS: Final = 500_000  # the length of a slice
SLICE_BYTES: Final = 1 << 18  # moved between two looks at the clock: 0.05 ms, of /dev/urandom 0.6 ms

# In-kernel restart codes (linux/errno.h), never seen by a guest.


class Blocked:
    """The explicit state of a waiting call.  `deadline_ns` is on the sentry's CLOCK_MONOTONIC, -1 for none."""

    def __init__(self, deadline_ns: int = -1) -> None:
        self.deadline_ns: int = deadline_ns
        self.queues: list[WaitQueue] = []
        self.has_slices: bool = False  # it works in slices, and does not sleep
        # `retry` may ask the host, and can be called again (kernel.host_wait)
        self.may_run_again: bool = False

    def phase(self) -> int:
        """The phase of a task that waits with this (kernel.phase)."""
        return WAITING

    def letter(self) -> str:
        """Its state in /proc/PID/stat, unless the phase says more."""
        return "S"

    def lends_thread(self) -> bool:
        """Whether the task's host thread may carry out operations for others meanwhile."""
        return True

    def retry(self, task: "TaskBase") -> int:
        """A queue was woken. Returns the result, or BLOCKED to wait on."""
        raise NotImplementedError

    def timed_out(self, task: "TaskBase") -> int:
        """The deadline has passed. Returns the result."""
        return 0

    def interrupted(self, task: "TaskBase") -> int:
        """A signal is to be handled. Returns the result, often a negative restart code; by default -ERESTARTSYS."""
        return -ERESTARTSYS

    def restart(self, task: "TaskBase") -> int:
        """restart_syscall(2) after `interrupted` left this in `task.restart` and gave -ERESTART_RESTARTBLOCK.

        `finished` was called meanwhile, so it must start over from what it kept.
        """
        return -EINTR

    def finished(self, task: "TaskBase") -> None:
        """Called once when the wait is over, however it ended: drop references."""


class TaskWaiter(Waiter):
    """Puts its task on the kernel's ready list when a queue wakes."""

    def __init__(self, task: "TaskBase") -> None:
        # None once it has exited; otherwise the two would keep each other in memory
        self.task: TaskBase | None = task

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        task = self.task
        return task is not None and task.make_ready()


class TaskBase(Context):
    """The part of a task that blocking needs; `kernel.task.Task` is the only real subclass."""

    def __init__(self, creds: Credentials, fs: FsContext, mount_ns: MountNamespace) -> None:
        super().__init__(creds, fs, mount_ns)
        self.phase: int = NEW  # change it with `enter`
        self.checks_phases: bool = False  # CLOCHE_STRICT
        self.blocked: Blocked | None = None
        self.is_ready_queued: bool = False
        self.is_kill_pending: bool = False
        self.waiter: TaskWaiter = TaskWaiter(self)

    @property
    def is_exited(self) -> bool:
        """Whether the task has ended."""
        return self.phase == DEAD_PHASE

    def enter(self, phase: int) -> None:
        """Go on to another phase.  Raises IllegalPhase under CLOCHE_STRICT."""
        if self.checks_phases:
            self.check_phase(phase)
        self.phase = phase

    def check_phase(self, phase: int) -> None:
        """Raises IllegalPhase if the task cannot go there."""
        check(self.phase, phase)

    def rest(self) -> None:
        """Its host thread has carried out everything: enter the phase of the task's wait, or KERNEL."""
        op = self.blocked
        self.enter(op.phase() if op is not None else KERNEL)

    def make_ready(self) -> bool:
        """Schedule a retry of the blocked call; False if it is not blocked (or is being retried already)."""
        raise NotImplementedError

    def queue_slice(self) -> None:
        """Put the task at the end of those that have a slice to do."""
        raise NotImplementedError


def begin_wait(task: TaskBase, op: Blocked) -> None:
    """Let `task` wait with `op`. The task enters the phase of `op` once its host thread has nothing more to carry
    out.
    """
    task.blocked = op
    if task.phase != WORKING:
        task.enter(op.phase())


def block_on(
    task: TaskBase, op: Blocked, queue: WaitQueue, mask: int = ANY, *, is_exclusive: bool = False
) -> int:
    """Register `op` as what `task` waits for, on one queue; returns BLOCKED."""
    queue.add(task.waiter, mask, is_exclusive=is_exclusive)
    op.queues.append(queue)
    begin_wait(task, op)
    return BLOCKED


def block_on_time(task: TaskBase, op: Blocked) -> int:
    """Register `op`, which waits only for its deadline, a signal, or a direct `make_ready`; returns BLOCKED."""
    begin_wait(task, op)
    return BLOCKED


def next_slice(task: TaskBase, op: Blocked) -> int:
    """Let `op` continue when its turn comes; returns BLOCKED."""
    op.has_slices = True
    begin_wait(task, op)
    task.queue_slice()
    return BLOCKED


def also_wait(task: TaskBase, op: Blocked, queue: WaitQueue, mask: int = ANY) -> None:
    """Wait on a further queue."""
    queue.add(task.waiter, mask)
    op.queues.append(queue)


def end_wait(task: TaskBase, op: Blocked) -> None:
    """Take the task off every queue."""
    for queue in op.queues:
        queue.remove(task.waiter)
    op.queues.clear()
    task.blocked = None
    if task.phase != WORKING:
        task.enter(KERNEL)
    op.finished(task)
