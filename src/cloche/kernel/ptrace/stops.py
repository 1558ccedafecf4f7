"""The stops of a traced task, as data: where it stops, what its tracer is told, and how it goes on (ptrace(2)).

Owns `PtraceStop`, the operation that a stopped tracee waits with, and its kinds.  A stop that comes with a system
call first *settles*: the host operations and copies that the call has ordered are carried out (`run_ops`), so that the
tracer sees the memory that its tracee will see.  May call `kernel.signals` and `kernel.exit`; the event loop reaches it
through `Kernel.tracing` (see `hooks`).

A stop ends by `release`: by its tracer's request, by a detach, or by the tracer's death. A stop holds everything that
it needs to go on, since the tracee state may be gone by then.
"""

from typing import Final

from cloche.abi.errno import ENOSYS
from cloche.abi.ptrace import (
    PTRACE_EVENT_STOP,
    PTRACE_EVENTMSG_SYSCALL_ENTRY,
    PTRACE_EVENTMSG_SYSCALL_EXIT,
    PTRACE_O_TRACESYSGOOD,
)
from cloche.abi.signal import CLD_STOPPED, CLD_TRAPPED, NSIG, SI_USER, SIGTRAP, sigbit
from cloche.abi.signal_structs import pack_siginfo_kill
from cloche.arch.syscalls import SYS_rt_sigreturn
from cloche.kernel.blocking import (
    BLOCKED,
    DEAD,
    DISPATCH,
    RESUME,
    RETURN,
    Blocked,
    TaskBase,
    block_on_time,
    end_wait,
)
from cloche.kernel.exit import do_exit, do_group_exit
from cloche.kernel.phase import TRACED, WORKING
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.ptrace.notify import notify_tracer
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import check_stop_complete, send_task_info, signal_wake, user_info
from cloche.kernel.task import Task

MODE_SYSCALL: Final = 1  # PTRACE_SYSCALL
MODE_EMULATE: Final = 2  # PTRACE_SYSEMU
MODE_STEP: Final = 4  # PTRACE_SINGLESTEP
SYSGOOD: Final = 0x80
_M64: Final = 0xFFFFFFFFFFFFFFFF

_SETTLING: Final = 0  # its host thread carries out what the call has ordered
_STOPPED: Final = 1
_RELEASED: Final = 2
_REFRESHING: Final = 3  # prefetched arguments of the call are being dropped


def to_signed(value: int) -> int:
    """A register as a signed number."""
    return value - (1 << 64) if value >> 63 else value


class PtraceStop(Blocked):
    """A task that is stopped for its tracer, or about to be. The kinds differ in `proceed`."""

    def __init__(self, code: int, info: SigInfo | None, why: int = CLD_TRAPPED) -> None:
        super().__init__()
        self.code: int = code
        self.info: SigInfo | None = info
        self.why: int = why
        self.message: int = -1  # PTRACE_GETEVENTMSG; -1: as before
        self.data: int = 0  # the signal with which the tracer lets it go on
        self.progress: int = _STOPPED

    def phase(self) -> int:
        return TRACED

    def proceed(self, task: Task) -> int:
        """The tracer lets it go on: a result for the event loop."""
        return RETURN

    def is_before_call(self) -> bool:
        """Whether the call is still to be made, so that the tracer may have changed what it will read."""
        return False

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if task.is_kill_pending:
            return kill_now(task, self)
        if task.tracee is not None and task.tracee.is_doomed:
            return do_exit(task, 0)
        if self.progress == _SETTLING:
            if task.tracee is not None:
                self.report(task)
                return BLOCKED
            self.progress = _RELEASED
        if self.progress == _STOPPED:
            return BLOCKED
        if self.progress == _RELEASED and self.is_before_call():
            self.progress = _REFRESHING
            task.enter(WORKING)
            task.thread.run_ops()
            return BLOCKED
        return self.proceed(task)

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return kill_now(task, self) if task.is_kill_pending else BLOCKED

    def report(self, task: Task) -> None:
        """The task has stopped: tell its tracer (ptrace_stop)."""
        self.progress = _STOPPED
        tracee = task.tracee
        assert tracee is not None
        tracee.is_stopped = True
        tracee.is_listening = False
        tracee.code = self.code
        tracee.info = self.info
        if self.message >= 0:
            tracee.message = self.message
        tracee.trap_pending = False
        if self.code >> 8 == PTRACE_EVENT_STOP:
            tracee.notify_pending = False
        notify_tracer(task, self.why)


def kill_now(task: Task, stop: PtraceStop) -> int:
    """SIGKILL ends every stop but PTRACE_EVENT_EXIT."""
    group = task.group
    do_group_exit(group, group.end.fatal_status if group.end.fatal_status >= 0 else 9)
    return DEAD if task.is_exited else BLOCKED


def enter(task: Task, stop: PtraceStop, *, settles: bool) -> None:
    """Stop `task`, whose host thread has stopped and which waits for nothing."""
    block_on_time(task, stop)
    if settles:
        stop.progress = _SETTLING
        task.enter(WORKING)
        task.thread.run_ops()
    else:
        stop.report(task)


def current_stop(task: Task) -> PtraceStop | None:
    """The stop that a task is in."""
    op = task.blocked
    return op if isinstance(op, PtraceStop) else None


def release(task: Task, data: int) -> None:
    """End the stop of `task`; `data` is the signal that the tracer gives, 0 for none."""
    stop, tracee = current_stop(task), task.tracee
    if tracee is not None:
        tracee.is_stopped = False
        tracee.is_listening = False
    if stop is None or stop.progress != _STOPPED:
        return
    stop.data = data
    if tracee is not None:
        stop.info = tracee.info  # PTRACE_SETSIGINFO may have changed it
    stop.progress = _RELEASED
    task.make_ready()


def trap_info(task: Task, code: int, signo: int = SIGTRAP) -> SigInfo:
    """The siginfo of a stop that is no signal (ptrace_do_notify)."""
    pid, uid = task.own_tid, task.creds.show_uid(task.creds.uid)
    return SigInfo(signo, code, pack_siginfo_kill(signo, code, pid, uid), pid, uid)


def note_call(task: Task, result: int, *, in_syscall: bool) -> None:
    """Put a call's result where the tracer looks for it, and remember which call the stop is in."""
    if not in_syscall or (result == RESUME and task.args.nr == SYS_rt_sigreturn):
        task.trace.call_nr = -1
        return
    task.trace.call_nr = task.args.nr
    if result != RESUME:
        regs = task.thread.regs()
        regs.result = result & _M64
        task.thread.set_regs(regs)


def _send_data(task: Task, data: int) -> None:
    """Send a signal that the tracer gave at a stop other than a signal stop, as if sent by the task itself
    (ptrace_report_syscall).
    """
    if 0 < data <= NSIG:
        send_task_info(task, user_info(task, data))


class EntryStop(PtraceStop):
    """Before a system call."""

    def __init__(self, code: int, info: SigInfo, *, is_emulated: bool) -> None:
        super().__init__(code, info)
        self.message = PTRACE_EVENTMSG_SYSCALL_ENTRY
        self.is_emulated: bool = is_emulated

    def is_before_call(self) -> bool:
        return True

    def proceed(self, task: Task) -> int:
        _send_data(task, self.data)
        return load_call(task, is_skipped=self.is_emulated)


def load_call(task: Task, *, is_skipped: bool) -> int:
    """The call as the tracer has left it in the registers: DISPATCH, or, without a call to make, the result there."""
    regs, args = task.thread.regs(), task.args
    args.nr = task.trace.call_nr
    if is_skipped or args.nr == -1:
        return to_signed(regs.result)
    a0, a1, a2, a3, a4, a5 = regs.call_arguments()
    args.a0, args.a1, args.a2 = to_signed(a0), to_signed(a1), to_signed(a2)
    args.a3, args.a4, args.a5 = to_signed(a3), to_signed(a4), to_signed(a5)
    task.args.is_under_way = True
    return DISPATCH


class SeccompStop(PtraceStop):
    """PTRACE_EVENT_SECCOMP: a filter has pointed the tracer to a call."""

    def is_before_call(self) -> bool:
        return True

    def proceed(self, task: Task) -> int:
        task.seccomp.is_traced = True
        return load_call(task, is_skipped=False)


class ExitStop(PtraceStop):
    """Behind a system call."""

    def __init__(self, code: int, info: SigInfo) -> None:
        super().__init__(code, info)
        self.message = PTRACE_EVENTMSG_SYSCALL_EXIT

    def proceed(self, task: Task) -> int:
        _send_data(task, self.data)
        return RETURN


class SignalStop(PtraceStop):
    """A signal that the tracer sees first (ptrace_signal)."""

    def proceed(self, task: Task) -> int:
        signo, info = self.data, self.info
        task.trace.injected = None
        if not 0 < signo <= NSIG:
            return RETURN
        if info is None or info.signo != signo:
            tracee = task.tracee
            pid = pid_in(task.pid_ns, tracee.tracer.group.tgid) if tracee is not None else 0
            uid = task.creds.show_uid(tracee.tracer.creds.uid) if tracee is not None else 0
            info = SigInfo(signo, SI_USER, pack_siginfo_kill(signo, SI_USER, pid, uid), pid, uid)
        if task.sigmask.now & sigbit(signo):
            if not task.pending.mask & sigbit(signo):
                task.pending.queue.append(info)
                task.pending.mask |= sigbit(signo)
        else:
            task.trace.injected = info
        return RETURN


class TrapStop(PtraceStop):
    """A group stop or PTRACE_INTERRUPT's trap (do_jobctl_trap)."""


class EventStop(PtraceStop):
    """PTRACE_EVENT_*, inside a call whose result is already known."""

    def __init__(self, code: int, info: SigInfo, message: int, result: int) -> None:
        super().__init__(code, info)
        self.message = message
        self.result: int = result

    def proceed(self, task: Task) -> int:
        return self.result


class DeathStop(PtraceStop):
    """PTRACE_EVENT_EXIT; the registers can still be read."""

    def __init__(self, code: int, info: SigInfo, status: int) -> None:
        super().__init__(code, info)
        self.message = status
        self.status: int = status

    def retry(self, task: TaskBase) -> int:
        if self.progress == _STOPPED:
            return BLOCKED
        assert isinstance(task, Task)
        return self.proceed(task)

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED

    def proceed(self, task: Task) -> int:
        return do_exit(task, self.status)


class BirthStop(PtraceStop):
    """A new tracee's host thread has just begun: it goes on to its first stop without any guest code."""

    def __init__(self, child_tid_addr: int) -> None:
        super().__init__(0, None)
        self.child_tid_addr: int = child_tid_addr
        self.progress = _RELEASED

    def proceed(self, task: Task) -> int:
        if self.child_tid_addr:
            task.thread.write(self.child_tid_addr, task.own_tid.to_bytes(4, "little"))
        return RETURN


def syscall_code(task: Task) -> int:
    """The code of a system-call stop."""
    tracee = task.tracee
    is_marked = tracee is not None and tracee.options & PTRACE_O_TRACESYSGOOD
    return SIGTRAP | SYSGOOD if is_marked else SIGTRAP


def stop_at_entry(task: Task, *, is_emulated: bool) -> None:
    """A system-call-entry stop."""
    regs = task.thread.regs()
    regs.result = -ENOSYS & _M64
    task.thread.set_regs(regs)
    task.trace.call_nr = task.args.nr
    code = syscall_code(task)
    enter(task, EntryStop(code, trap_info(task, code), is_emulated=is_emulated), settles=False)


def stop_for_event(task: Task, event: int, message: int, result: int, *, settles: bool) -> None:
    """A PTRACE_EVENT stop inside the call under way."""
    code = SIGTRAP | event << 8
    enter(task, EventStop(code, trap_info(task, code), message, result), settles=settles)


def trap(task: Task, *, settles: bool) -> None:
    """The stop of do_jobctl_trap; the task takes part in a stop of its group by it."""
    stop = make_trap(task)
    tracee, group = task.tracee, task.group
    assert tracee is not None
    is_joining = tracee.stop_wanted
    tracee.stop_wanted = False
    enter(task, stop, settles=settles)
    if is_joining:
        check_stop_complete(group, None)


def make_trap(task: Task) -> TrapStop:
    """The trap as the state of the group is now."""
    tracee, group = task.tracee, task.group
    assert tracee is not None
    if not tracee.is_seized:
        return TrapStop(group.job.signal if group.job.is_stopping else SIGTRAP, None, CLD_STOPPED)
    signo = group.job.signal if group.job.is_stopping else SIGTRAP
    code = signo | PTRACE_EVENT_STOP << 8
    return TrapStop(code, trap_info(task, code, signo), CLD_STOPPED)


def trap_again(task: Task) -> None:
    """The state of a listening tracee's group has changed: its stop starts again."""
    stop = current_stop(task)
    if stop is None:
        return
    end_wait(task, stop)
    tracee = task.tracee
    assert tracee is not None
    tracee.is_stopped = False
    trap(task, settles=False)


def wake(task: Task) -> None:
    """Have the task look for pending work before it runs guest code; in a stop it does so when it leaves that."""
    tracee = task.tracee
    if tracee is not None and tracee.is_listening:
        trap_again(task)
    else:
        signal_wake(task)
