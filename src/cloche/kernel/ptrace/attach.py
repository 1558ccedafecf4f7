"""Tracers and tracees: attaching, detaching, and the tracees of a tracer that dies (kernel/ptrace.c).

A tracee is linked to the *thread* that traces it: `Task.ptraced` there, `Task.tracee` here.  Yama's rules are those of
security/yama/yama_lsm.c, in force from `kernel.yama.ptrace_scope` 1 on.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_PTRACE
from cloche.abi.errno import EINVAL, EIO, EPERM, ERESTARTNOINTR
from cloche.abi.ptrace import PTRACE_O_EXITKILL, PTRACE_O_MASK, PTRACE_O_SUSPEND_SECCOMP
from cloche.abi.signal import SI_USER, SIGCHLD, SIGKILL, SIGSTOP
from cloche.abi.signal_structs import pack_siginfo_kill
from cloche.kernel.access import may_access
from cloche.kernel.answers import withdraw
from cloche.kernel.blocking import BLOCKED, RESUME, Blocked, TaskBase, block_on, end_wait
from cloche.kernel.exit import notify_parent, reap
from cloche.kernel.ptrace import watch
from cloche.kernel.ptrace.stops import SignalStop, current_stop, note_call, release, trap
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import StoppedWait, kernel_info, send, signal_wake
from cloche.kernel.task import Task, ThreadGroup, Tracee, parent_thread

SCOPE_CAPABILITY: Final = 2
SCOPE_NO_ATTACH: Final = 3


def link(task: Task, tracer: Task, options: int, *, is_seized: bool) -> Tracee:
    """`tracer` traces `task` from now on."""
    tracee = Tracee(tracer, options, is_seized=is_seized)
    task.tracee = tracee
    task.trace.needs_full_frame = True
    task.thread.set_patched(False)
    task.mm.is_patching = False  # for files that it maps from now on
    withdraw(task)
    tracer.ptraced.append(task)
    return tracee


def unlink(task: Task) -> None:
    """End the tracing of `task`; a stop that it is in stays."""
    tracee = task.tracee
    if tracee is None:
        return
    if task in tracee.tracer.ptraced:
        tracee.tracer.ptraced.remove(task)
    task.tracee = None
    task.trace.needs_full_frame = False
    watch.forget(task)
    if not task.borrows_thread() and task.lent is None and not task.is_exited:
        task.thread.set_patched(True)
    if task.kernel.traced_zombies.pop(task.tid, None) is not None:
        task.kernel.release_pid(task.tid)
        task.kernel.count_released(task.group)


def check_options(task: Task, options: int) -> int:
    """check_ptrace_options: 0, -EINVAL, -EPERM."""
    if options & ~PTRACE_O_MASK:
        return -EINVAL
    if options & PTRACE_O_SUSPEND_SECCOMP:
        if not task.creds.capable(CAP_SYS_ADMIN) or task.seccomp.mode:
            return -EPERM
    return 0


# -- attaching ---------------------------------------------------------------------------------------------


def _is_descendant(group: ThreadGroup, ancestor: ThreadGroup) -> bool:
    at: ThreadGroup | None = group
    while at is not None:
        if at is ancestor:
            return True
        at = at.parent
    return False


def yama_allows(tracer: Task, target: Task) -> bool:
    """yama_ptrace_access_check for an attach."""
    scope = tracer.kernel.ptrace_scope
    if scope <= 0:
        return True
    if scope >= SCOPE_NO_ATTACH:
        return False
    if tracer.creds.capable_in(target.creds.user_ns, CAP_SYS_PTRACE):
        return True
    if scope == SCOPE_CAPABILITY:
        return False
    declared = target.group.declared_tracer
    if _is_descendant(target.group, tracer.group) or declared == -1:
        return True
    chosen = target.kernel.groups.get(declared) if declared else None
    return chosen is not None and _is_descendant(tracer.group, chosen)


def traceme(task: Task) -> int:
    """PTRACE_TRACEME: 0 or -EPERM."""
    if task.tracee is not None or task.trace.is_claimed:
        return -EPERM
    scope = task.kernel.ptrace_scope
    parent = task.group.parent
    if scope >= SCOPE_NO_ATTACH:
        return -EPERM
    if parent is None or not parent.has_guest_code:
        task.trace.is_claimed = True  # the sandbox's own init would end each stop at once
        return 0
    tracer = parent_thread(task.group)
    if tracer is None:
        return 0  # it is dying, as in Linux
    if scope == SCOPE_CAPABILITY and not tracer.creds.capable(CAP_SYS_PTRACE):
        return -EPERM
    link(task, tracer, 0, is_seized=False)
    return 0


class AttachWait(Blocked):
    """A tracer that waits for an execve of the process to which it wants to attach."""

    def __init__(self, target: Task, addr: int, options: int, *, is_seized: bool) -> None:
        super().__init__()
        self.target: Task = target
        self.addr: int = addr
        self.options: int = options
        self.is_seized: bool = is_seized

    def retry(self, task: TaskBase) -> int:
        if self.target.group.exec_turn.waiter is not None:
            return BLOCKED
        assert isinstance(task, Task)
        return attach(task, self.target, self.addr, self.options, is_seized=self.is_seized)

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOINTR


def attach(tracer: Task, target: Task, addr: int, options: int, *, is_seized: bool) -> int:
    """PTRACE_ATTACH and PTRACE_SEIZE: 0 or a negative errno (ptrace_attach)."""
    if is_seized:
        if addr or options & ~PTRACE_O_MASK:
            return -EIO
        error = check_options(tracer, options)
        if error:
            return error
    else:
        options = 0
    group = target.group
    if not group.has_guest_code or group is tracer.group:
        return -EPERM
    if not may_access(tracer, target, uses_real_ids=True) or not yama_allows(tracer, target):
        return -EPERM
    if group.exec_turn.waiter is not None:
        # Its next credentials are decided already, so the check by may_access is out of date (cred_guard_mutex).
        wait = AttachWait(target, addr, options, is_seized=is_seized)
        return block_on(tracer, wait, group.exec_turn.others())
    if target.is_exited or group.end.is_begun or group.end.is_by_thread or target.tracee is not None:
        return -EPERM
    tracee = link(target, tracer, options, is_seized=is_seized)
    if not is_seized:
        send_priv(target, SIGSTOP)
    op = target.blocked
    if isinstance(op, StoppedWait):
        # From a job-control stop into a traced one, at once.
        end_wait(target, op)
        note_call(target, op.result, in_syscall=op.result != RESUME)
        trap(target, settles=False)
    elif group.job.is_stopping:
        tracee.stop_wanted = True
        signal_wake(target)
    return 0


def send_priv(task: Task, signo: int) -> None:
    """SEND_SIG_PRIV: a signal from the kernel itself."""
    send(task, kernel_info(signo), to_group=False, is_forced=True)


def kill(task: Task) -> None:
    """PTRACE_KILL: a SIGKILL without a sender."""
    send(task, SigInfo(SIGKILL, SI_USER, pack_siginfo_kill(SIGKILL, SI_USER, 0, 0)), to_group=False)


# -- detaching ---------------------------------------------------------------------------------------------


def detach(task: Task, data: int) -> None:
    """PTRACE_DETACH of a stopped tracee; `data` is the signal with which it goes on."""
    release_stop = current_stop(task)
    if release_stop is not None:
        release(task, data)
    unlink(task)
    task.wants_attention = True


def abandon(task: Task) -> None:
    """The tracer of `task` dies (exit_ptrace)."""
    tracee = task.tracee
    if tracee is None:
        return
    tracer, group = tracee.tracer, task.group
    was_zombie = tracee.is_zombie
    if tracee.options & PTRACE_O_EXITKILL and not was_zombie:
        unlink(task)
        send_priv(task, SIGKILL)
        release(task, 0)
        return
    stop = current_stop(task)
    if stop is not None:
        release(task, tracee.code if isinstance(stop, SignalStop) else 0)
    unlink(task)
    if not was_zombie:
        task.wants_attention = True
        if group.job.is_stopping and task.blocked is None:
            signal_wake(task)
        return
    if group.leader is task and group.end.is_zombie:
        leave_zombie(group, tracer)


def leave_zombie(group: ThreadGroup, tracer: Task) -> None:
    """A dead leader is no longer traced: now its parent may hear of it (__ptrace_detach)."""
    if group.parent is not tracer.group:
        notify_parent(group)
        return
    action = tracer.group.handlers.actions[SIGCHLD]
    if group.exit_signal == SIGCHLD and (action.handler == 1 or action.flags & 2):
        reap(group)


def stop_child(child: Task, *, is_seized: bool) -> None:
    """The first stop of a child that is traced from its birth (ptrace_init_task)."""
    tracee = child.tracee
    assert tracee is not None
    if is_seized:
        tracee.trap_pending = True
    else:
        info = SigInfo(SIGSTOP, SI_USER, pack_siginfo_kill(SIGSTOP, SI_USER, 0, 0))
        child.pending.queue.append(info)
        child.pending.mask |= 1 << (SIGSTOP - 1)
    child.wants_attention = True
