"""wait4(2) and waitid(2): a parent's waits for changes of its children."""

from typing import Final

from cloche.abi.errno import ECHILD, EINVAL, LinuxError
from cloche.abi.signal import CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_TRAPPED
from cloche.abi.wait import WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED
from cloche.kernel.accounting import group_usage
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on
from cloche.kernel.exit import group_times, reap
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.task import ProcessGroup, Task, ThreadGroup, parent_thread
from cloche.kernel.usage import Usage, packed_usage

W_NOTHREAD: Final = 0x20000000
W_ALL: Final = 0x40000000
W_CLONE: Final = 0x80000000


class Waited:
    """The result of a wait."""

    def __init__(
        self, group: ThreadGroup, pid: int, uid: int, code: int, status: int, user_ns: int, system_ns: int
    ) -> None:
        self.group: ThreadGroup = group
        self.usage: Usage | None = _usage(group) if group.end.is_zombie else None
        self.pid: int = pid  # for the caller
        self.uid: int = uid
        self.code: int = code  # CLD_*
        self.status: int = status  # the wait status of wait4
        self.user_ns: int = user_ns
        self.system_ns: int = system_ns

    def packed_rusage(self) -> bytes:
        """struct rusage, of the living as it is now."""
        usage = self.usage
        return packed_usage(self.user_ns, self.system_ns, _usage(self.group) if usage is None else usage)


def _usage(group: ThreadGroup) -> Usage:
    """The usage of a process and of the children that it has waited for."""
    usage = group_usage(group)
    usage.add(group.spent.children_usage)
    return usage


class WaitSelector:
    """Selects the children that a wait is about."""

    def __init__(self, pid: int, pgrp: ProcessGroup | None, group: ThreadGroup | None, options: int) -> None:
        self.pid: int = pid  # > 0: that child; 0: by pgrp; -1: any; -2: `group` (pidfd)
        self.pgrp: ProcessGroup | None = pgrp
        self.pgid: int = pgrp.pgid if pgrp is not None else 0
        self.group: ThreadGroup | None = group
        self.options: int = options
        self.caller: Task | None = None

    def matches_tracee(self, tracee: Task) -> bool:
        """Whether a tracee matches: any exit signal does, and tracees are selected by their own ids."""
        if self.pid > 0:
            return tracee.tid == self.pid
        if self.pid == -1:
            return True
        if self.pid == -2:
            return tracee.group is self.group and tracee.group.leader is tracee
        return self.pgrp is not None and tracee.group.pgrp is self.pgrp

    def matches(self, child: ThreadGroup) -> bool:
        if self.pid > 0:
            chosen = child.tgid == self.pid
        elif self.pid == -1:
            chosen = True
        elif self.pid == -2:
            chosen = child is self.group
        else:
            chosen = child.pgrp is self.pgrp and self.pgrp is not None
        if not chosen or (self.options & W_NOTHREAD and parent_thread(child) is not self.caller):
            return False
        if self.options & W_ALL:
            return True
        return (child.exit_signal != 17) == (self.options & W_CLONE != 0)


def look(task: Task, selector: WaitSelector) -> Waited | None:
    """One pass over the children.  Raises LinuxError(ECHILD) if none could ever match."""
    options = selector.options
    selector.caller = task
    any_match = False
    for child in task.group.children:
        leader = child.leader
        tracee = leader.tracee if leader is not None else None
        if tracee is not None and tracee.tracer.group is task.group:
            continue  # below
        if not selector.matches(child):
            continue
        if child.end.is_zombie:
            if tracee is not None:
                any_match = True  # its tracer has to wait for it first
            elif options & WEXITED:
                return _take_zombie(task, child, options)
            continue  # nothing else can be reported of it any more
        any_match = True
        if options & WSTOPPED and child.job.is_stopped and child.job.is_stop_news:
            if not options & WNOWAIT:
                child.job.is_stop_news = False
            return _waited(task, child, CLD_STOPPED, child.job.signal << 8 | 0x7F)
        if options & WCONTINUED and child.job.is_continue_news:
            if not options & WNOWAIT:
                child.job.is_continue_news = False
            return _waited(task, child, CLD_CONTINUED, 0xFFFF)
    for tracer in task.group.tasks:
        if not tracer.ptraced or (options & W_NOTHREAD and tracer is not task):
            continue
        for traced in tracer.ptraced:
            if selector.matches_tracee(traced):
                if options & WEXITED or traced.tracee is None or not traced.tracee.is_zombie:
                    any_match = True
                found = _look_at_tracee(task, traced, options)
                if found is not None:
                    return found
    if not any_match:
        raise LinuxError(ECHILD)
    return None


def _look_at_tracee(task: Task, traced: Task, options: int) -> Waited | None:
    """Look at one tracee for its tracer; stops are reported even without WUNTRACED (wait_consider_task)."""
    tracee, group = traced.tracee, traced.group
    if tracee is None:
        return None
    if tracee.is_zombie:
        if not options & WEXITED:
            return None
        status = tracee.status
        if group.end.is_begun or group.end.is_by_thread:  # wait_task_zombie: the group's code wins
            status = group.end.status if group.end.is_begun else group.end.fatal_status
        found = _waited(task, group, _exit_code(status), status)
        found.pid = pid_in(task.pid_ns, traced.tid)
        if not options & WNOWAIT:
            tracing = traced.kernel.tracing
            assert tracing is not None
            tracing.reap(traced)
        return found
    if tracee.is_stopped and not tracee.is_listening and tracee.code:
        found = _waited(task, group, CLD_TRAPPED, tracee.code << 8 | 0x7F)
        if not options & WNOWAIT:
            tracee.code = 0
    elif options & WCONTINUED and group.job.is_continue_news and not traced.is_exited:
        found = _waited(task, group, CLD_CONTINUED, 0xFFFF)
        if not options & WNOWAIT:
            group.job.is_continue_news = False
    else:
        return None
    found.pid, found.uid = pid_in(task.pid_ns, traced.tid), traced.creds.uid
    return found


def _exit_code(status: int) -> int:
    """CLD_* of a wait status of the dead."""
    if status & 0x7F:
        return CLD_DUMPED if status & 0x80 else CLD_KILLED
    return CLD_EXITED


def _waited(task: Task, child: ThreadGroup, code: int, status: int) -> Waited:
    user_ns, system_ns = group_times(child)
    uid = child.leader.creds.uid if child.leader is not None else 0
    return Waited(
        child,
        pid_in(task.pid_ns, child.tgid),  # before it is reaped, after which it has no number
        uid,
        code,
        status,
        user_ns + child.spent.children_user_ns,
        system_ns + child.spent.children_system_ns,
    )


def _take_zombie(task: Task, child: ThreadGroup, options: int) -> Waited:
    found = _waited(task, child, _exit_code(child.end.status), child.end.status)
    if not options & WNOWAIT:
        reap(child)
    return found


class WaitOperation(Blocked):
    """A wait under way; `deliver` writes the result to the caller."""

    def __init__(self, selector: WaitSelector) -> None:
        super().__init__()
        self.selector: WaitSelector = selector

    def deliver(self, task: Task, found: Waited | None) -> int:
        """Write the result; the system call's value."""
        raise NotImplementedError

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        try:
            found = look(task, self.selector)
        except LinuxError as error:
            return -error.errno
        if found is None:
            return BLOCKED
        return self.deliver(task, found)


def do_wait(task: Task, op: WaitOperation) -> int:
    """Look once; wait unless WNOHANG."""
    if op.selector.options & ~(
        WNOHANG | WEXITED | WSTOPPED | WCONTINUED | WNOWAIT | W_NOTHREAD | W_ALL | W_CLONE
    ):
        raise LinuxError(EINVAL)
    found = look(task, op.selector)
    if found is not None:
        return op.deliver(task, found)
    if op.selector.options & WNOHANG:
        return op.deliver(task, None)
    return block_on(task, op, task.group.child_wait)
