"""seccomp(2) for guests: classic BPF filters, checked and run by the sentry before a call's handler.

These are the guests' own filters (and the profile of an OCI container), on top of everything else that confines
them.  `check` is called by the event loop for a task whose `seccomp_mode` is not 0; the filters themselves are in
`seccomp_filter`.
"""

from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EACCES, EBUSY, EINVAL, ENOMEM, ENOSYS, ERESTARTSYS, ESRCH, LinuxError
from cloche.abi.signal import SIGKILL, SIGSYS, SYS_SECCOMP
from cloche.abi.signal_structs import pack_siginfo_sys
from cloche.arch.machine import AUDIT_ARCH
from cloche.arch.syscalls import SYS_exit, SYS_read, SYS_rt_sigreturn, SYS_write
from cloche.kernel.answers import withdraw
from cloche.kernel.blocking import BLOCKED, DEAD, DISPATCH, Blocked, TaskBase, block_on
from cloche.kernel.exit import do_exit, do_group_exit
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.seccomp_filter import (
    REPLIED,
    SENT,
    Filter,
    Listener,
    Notification,
    checked_program,
    filters_of,
    replace,
    run_filter,
)
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import force_signal
from cloche.kernel.task import Task
from cloche.mm.quota import FILTER_BYTES, KERNEL_MEMORY

ALLOWED: Final = -(1 << 41)  # the handler may run
MAX_PATH_INSNS: Final = 32768  # of a task's filters together
_STRICT_CALLS: Final = (SYS_read, SYS_write, SYS_exit, SYS_rt_sigreturn)
_M32: Final = 0xFFFFFFFF


def _precedence(verdict: int) -> int:
    """Actions as signed numbers: the lowest wins."""
    action = verdict & bpf.SECCOMP_RET_ACTION_FULL
    return action - (1 << 32) if action >= 1 << 31 else action


class NotifyWait(Blocked):
    """A call that waits for a listener's decision."""

    def __init__(self, listener: Listener, notification: Notification) -> None:
        super().__init__()
        self.listener: Listener = listener
        self.notification: Notification = notification

    def retry(self, task: TaskBase) -> int:
        made = self.notification
        if made.state != REPLIED:
            return BLOCKED
        if made.flags & bpf.SECCOMP_USER_NOTIF_FLAG_CONTINUE:
            assert isinstance(task, Task)
            task.seccomp.is_answered = True
            return DISPATCH
        result = made.error if made.error else made.value
        # These values have a special meaning in this kernel, and none in Linux.
        return -ENOSYS if ALLOWED <= result <= BLOCKED else result

    def interrupted(self, task: TaskBase) -> int:
        if self.notification.state == REPLIED:
            return self.retry(task)
        if self.listener.is_killable and self.notification.state == SENT:
            return BLOCKED
        return -ERESTARTSYS

    def finished(self, task: TaskBase) -> None:
        self.listener.forget(self.notification)


def check(task: Task) -> int:
    """Apply the task's mode or filters to the call in `task.args`. Returns ALLOWED, or the call's result."""
    args = task.args
    is_recheck = task.seccomp.is_traced
    task.seccomp.is_traced = False
    if task.seccomp.is_answered:
        task.seccomp.is_answered = False
        return ALLOWED
    if task.seccomp.mode == bpf.SECCOMP_MODE_STRICT:
        if args.nr in _STRICT_CALLS:
            return ALLOWED
        do_group_exit(task.group, SIGKILL)
        return DEAD
    one = filters_of(task)
    pointer = task.thread.regs().pc if one is not None and _needs_pointer(one, args.nr) else 0
    verdict = bpf.SECCOMP_RET_ALLOW
    match: Filter | None = None
    while one is not None:
        found = run_filter(one, args, pointer)
        if _precedence(found) < _precedence(verdict):
            verdict, match = found, one
        one = one.previous
    action = verdict & bpf.SECCOMP_RET_ACTION_FULL
    if action == bpf.SECCOMP_RET_ALLOW or action == bpf.SECCOMP_RET_LOG:
        return ALLOWED
    if action == bpf.SECCOMP_RET_ERRNO:
        return -min(verdict & bpf.SECCOMP_RET_DATA, 4095)
    if action == bpf.SECCOMP_RET_TRAP:
        _force_sigsys(task, verdict & bpf.SECCOMP_RET_DATA, is_fatal=False)
        return args.nr  # the registers are as before the call
    if action == bpf.SECCOMP_RET_TRACE and is_recheck:
        return ALLOWED
    tracing = task.kernel.tracing
    if action == bpf.SECCOMP_RET_TRACE and task.tracee is not None and tracing is not None:
        return tracing.seccomp_stop(task, verdict & bpf.SECCOMP_RET_DATA)
    if action == bpf.SECCOMP_RET_USER_NOTIF:
        return _notify(task, match)
    if action == bpf.SECCOMP_RET_TRACE:
        return -ENOSYS
    if action == bpf.SECCOMP_RET_KILL_THREAD and len(task.group.tasks) > 1:
        return do_exit(task, SIGSYS)
    _force_sigsys(task, verdict & bpf.SECCOMP_RET_DATA, is_fatal=True)
    return args.nr


def _notify(task: Task, match: Filter | None) -> int:
    """Let the listener of a filter decide: BLOCKED, or -ENOSYS without one."""
    listener = match.listener if match is not None else None
    if listener is None or listener.is_closed:
        return -ENOSYS
    made = listener.notify(task, task.thread.regs().pc)
    return block_on(task, NotifyWait(listener, made), made.replied)


def _needs_pointer(one: Filter | None, number: int) -> bool:
    """Whether any filter has no remembered verdict, so that it may look at the instruction pointer."""
    while one is not None:
        if number not in one.verdicts:
            return True
        one = one.previous
    return False


def _force_sigsys(task: Task, data: int, *, is_fatal: bool) -> None:
    pc = task.thread.regs().pc
    raw = pack_siginfo_sys(SIGSYS, SYS_SECCOMP, pc, task.args.nr & _M32, AUDIT_ARCH, data)
    force_signal(task, SigInfo(SIGSYS, SYS_SECCOMP, raw), is_default=is_fatal)


# -- installing ------------------------------------------------------------------------------------------


def set_strict(task: Task) -> None:
    """SECCOMP_SET_MODE_STRICT.  Raises LinuxError(EINVAL)."""
    if task.seccomp.mode not in (bpf.SECCOMP_MODE_DISABLED, bpf.SECCOMP_MODE_STRICT):
        raise LinuxError(EINVAL)
    task.seccomp.mode = bpf.SECCOMP_MODE_STRICT
    withdraw(task)


def add_filter(task: Task, raw: bytes, flags: int, listener: Listener | None = None) -> int:
    """SECCOMP_SET_MODE_FILTER: 0, or with TSYNC the tid of a thread that cannot follow.  Raises LinuxError."""
    if not task.creds.no_new_privs and not task.creds.capable_here(CAP_SYS_ADMIN):
        raise LinuxError(EACCES)
    if not KERNEL_MEMORY.has_room(FILTER_BYTES + len(raw)):
        raise LinuxError(ENOMEM)
    program = checked_program(raw)
    if task.seccomp.mode == bpf.SECCOMP_MODE_STRICT:
        raise LinuxError(EINVAL)
    current = filters_of(task)
    if listener is not None and current is not None and current.has_listener():
        raise LinuxError(EBUSY)
    made = Filter(program, current)
    made.listener = listener
    if made.total_insns > MAX_PATH_INSNS:
        raise LinuxError(ENOMEM)
    if flags & bpf.SECCOMP_FILTER_FLAG_TSYNC:
        for other in task.group.tasks:
            if other is task or _can_follow(other, current):
                continue
            if flags & bpf.SECCOMP_FILTER_FLAG_TSYNC_ESRCH:
                raise LinuxError(ESRCH)
            return pid_in(task.pid_ns, other.tid)
        for other in task.group.tasks:
            install(other, made)
            if other is not task and task.creds.no_new_privs and not other.creds.no_new_privs:
                changed = other.creds.clone()
                changed.no_new_privs = True
                other.creds = changed
        return 0
    install(task, made)
    return 0


def _can_follow(other: Task, current: Filter | None) -> bool:
    """Whether another thread's filters are an ancestor of the caller's (is_ancestor)."""
    if other.seccomp.mode == bpf.SECCOMP_MODE_DISABLED:
        return True
    theirs = filters_of(other)
    return (
        other.seccomp.mode == bpf.SECCOMP_MODE_FILTER
        and theirs is not None
        and theirs.is_ancestor_of(current)
    )


def install(task: Task, one: Filter) -> None:
    """Put a filter in force (also boot's, for an OCI profile)."""
    replace(task, one)
    task.seccomp.mode = bpf.SECCOMP_MODE_FILTER
    withdraw(task)
