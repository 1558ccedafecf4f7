"""Delivery of signals: what happens between a call's end and guest code, handlers' frames and the way back (signal(7)).

The event loop calls `deliver`; queues and choices are in `kernel.signals`.
"""

from typing import Final

from cloche.abi.errno import (
    EINTR,
    EINVAL,
    ENOMEM,
    EPERM,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    LinuxError,
)
from cloche.abi.resource import RLIMIT_CORE
from cloche.abi.signal import (
    ALL_SIGNALS,
    DEFAULT_CORE,
    DEFAULT_IGNORE,
    DEFAULT_STOP,
    MINSIGSTKSZ,
    SA_NODEFER,
    SA_RESETHAND,
    SA_RESTART,
    SA_RESTORER,
    SIG_DFL,
    SIG_IGN,
    SIGKILL,
    SIGSTOP,
    SS_AUTODISARM,
    SS_DISABLE,
    sigbit,
)
from cloche.abi.wait import status_signaled
from cloche.arch import sigframe, user
from cloche.arch.syscalls import SYS_restart_syscall
from cloche.kernel.blocking import RESUME
from cloche.kernel.exit import do_group_exit
from cloche.kernel.siginfo import SigAction, SigInfo
from cloche.kernel.signals import (
    KERNEL_ONLY,
    dequeue_signal,
    force_segv,
    is_orphaned,
    is_unkillable,
    park,
    restore_saved_sigmask,
    set_sigmask,
    start_group_stop,
)
from cloche.kernel.task import Task, ThreadGroup
from cloche.platform.interface import Registers

_M64: Final = 0xFFFFFFFFFFFFFFFF


def _is_interruption(result: int) -> bool:
    """Whether a signal ended the call, so that the call's own mask applies to that signal."""
    return result == -EINTR or -ERESTART_RESTARTBLOCK <= result <= -ERESTARTSYS


def _restart(task: Task, regs: Registers, number: int) -> None:
    """Make the guest execute its system call instruction again."""
    regs.repeat_call(number)


def _finish_plain(task: Task, regs: Registers, result: int) -> None:
    """The result of a call after which no handler runs."""
    if result in (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND):
        _restart(task, regs, task.args.nr)
    elif result == -ERESTART_RESTARTBLOCK:
        _restart(task, regs, SYS_restart_syscall)
    else:
        regs.result = result & _M64


def _finish_handled(task: Task, regs: Registers, result: int, sa_flags: int) -> None:
    """The result of a call that a handler's context shall show."""
    if result == -ERESTARTNOINTR or (result == -ERESTARTSYS and sa_flags & SA_RESTART):
        _restart(task, regs, task.args.nr)
    elif -ERESTART_RESTARTBLOCK <= result <= -ERESTARTSYS:
        regs.result = -EINTR & _M64
    else:
        regs.result = result & _M64


def core_flag(group: ThreadGroup, signo: int) -> int:
    """1 if the death by `signo` is to be reported as one with a core, by RLIMIT_CORE (no file is written)."""
    if not sigbit(signo) & DEFAULT_CORE or not group.is_dumpable:
        return 0
    return 0 if group.rlimit(RLIMIT_CORE) == 0 else 1


def deliver(task: Task, result: int, in_syscall: bool, injected: SigInfo | None = None) -> None:
    """Handle everything that keeps `task` (stopped, not blocked) from guest code.

    `result` is that of the call under way if `in_syscall`; RESUME says that the registers hold it already.
    `injected` is a signal that the tracer has seen.  Afterwards the task has exited, waits (in a stop), or its
    registers are those with which it is to be resumed.
    """
    group, thread, tracing = task.group, task.thread, task.kernel.tracing
    has_result = in_syscall and result != RESUME
    if task.sigmask.is_lent and not (has_result and _is_interruption(result)):
        restore_saved_sigmask(task)
    regs: Registers | None = None
    while True:
        if group.end.fatal_status >= 0 or task.is_kill_pending:
            do_group_exit(group, group.end.fatal_status if group.end.fatal_status >= 0 else SIGKILL)
            return
        tracee = task.tracee
        if tracee.needs_attention() if tracee is not None else group.job.is_stopping:
            if regs is not None:
                thread.set_regs(regs)
            if tracee is None or tracing is None:
                park(task, result if has_result else RESUME)
            else:
                tracing.trap_stop(task, result if has_result else RESUME, in_syscall=in_syscall)
            return
        info = injected
        if info is None:
            info = dequeue_signal(task, ~task.sigmask.now & ALL_SIGNALS)
            if info is not None and tracee is not None and tracing is not None and info.signo != SIGKILL:
                if regs is not None:
                    thread.set_regs(regs)
                tracing.signal_stop(task, info, result if has_result else RESUME, in_syscall=in_syscall)
                return
        injected = None
        if info is None:
            if has_result:
                regs = thread.regs()
                _finish_plain(task, regs, result)
                has_result = False
            if not task.sigmask.is_lent:
                break
            restore_saved_sigmask(task)
            continue
        signo = info.signo
        action = group.handlers.actions[signo]
        if action.handler == SIG_IGN:
            continue
        if action.handler != SIG_DFL:
            if regs is None:
                regs = thread.regs()
            if has_result:
                _finish_handled(task, regs, result, action.flags)
                has_result = False
            if task.mm.tails:
                regs.pc = task.mm.original_pc(regs.pc)
            handler_regs = _enter_handler(task, regs, info, action)
            if handler_regs is None:
                force_segv(task, signo)
            else:
                regs = handler_regs
                if tracee is not None and tracing is not None and tracee.mode:
                    thread.set_regs(regs)
                    if tracing.handler_entered(task):
                        return
            continue
        if default_action(task, signo):
            return
    task.wants_attention = False
    if regs is not None:
        thread.set_regs(regs)


def default_action(task: Task, signo: int) -> bool:
    """SIG_DFL: ignore, stop or end the group; whether it has ended."""
    group, bit = task.group, sigbit(signo)
    if bit & DEFAULT_IGNORE:
        return False
    if is_unkillable(group) and not bit & KERNEL_ONLY and not task.fault.is_forced:
        return False
    if bit & DEFAULT_STOP:
        if signo == SIGSTOP or group.pgrp is None or not is_orphaned(group.pgrp):
            start_group_stop(group, signo)
        return False
    do_group_exit(group, status_signaled(signo, core_flag(group, signo)))
    return True


def _enter_handler(task: Task, regs: Registers, info: SigInfo, action: SigAction) -> Registers | None:
    """Write the frame; the registers with which the handler starts, None if it could not be written (handle_signal)."""
    signo, flags = info.signo, action.flags
    handler = action.handler
    if flags & SA_RESETHAND:
        action.handler = SIG_DFL
    if not flags & SA_RESTORER:
        return None
    mask = task.sigmask.lasting()
    thread = task.thread
    try:
        frame = sigframe.build(
            regs,
            thread.fpstate(),
            signo,
            info.raw,
            mask,
            task.altstack,
            handler,
            flags,
            action.restorer,
            task.fault.trapno,
            task.fault.err,
            task.fault.cr2,
        )
    except LinuxError:
        return None
    mem = task.user_memory()
    if task.mm.is_plain(frame.addr, len(frame.data)):
        # copied by the stub, in a third of the time that process_vm_writev takes
        mem.write(frame.addr, frame.data)
    elif thread.process().write(frame.addr, frame.data) != len(frame.data):
        mem.prepare(frame.addr, len(frame.data))
        if not mem.is_new(frame.addr):
            return None
        mem.write(frame.addr, frame.data)
    if task.altstack.flags & SS_AUTODISARM:
        task.altstack = sigframe.AltStack(0, 0, SS_DISABLE)
    thread.set_fpstate(b"")
    task.sigmask.keep()
    blocked = task.sigmask.now | action.mask
    if not flags & SA_NODEFER:
        blocked |= sigbit(signo)
    set_sigmask(task, blocked)
    return frame.regs


def sigreturn(task: Task) -> int:
    """rt_sigreturn(2): RESUME with everything as the frame says, or 0 with a forced SIGSEGV."""
    thread = task.thread
    regs = thread.regs()
    try:
        # Both were prefetched with the call, unless the program has moved them.
        context = sigframe.parse(thread.read(regs.sp, sigframe.UCONTEXT_SIZE), regs)
        state = b""
        if context.fpstate_addr:
            length = sigframe.fpstate_length(thread.read(context.fpstate_addr, sigframe.FXSAVE_SIZE))
            state = thread.read(context.fpstate_addr, length)
            if len(state) < length:
                raise LinuxError(EINVAL)
            if not sigframe.is_extended(state):
                thread.set_fpstate(b"")
                state = user.with_fp_set(thread.fpstate(), state)
        if not thread.set_fpstate(state):
            raise LinuxError(EINVAL)
    except LinuxError:
        force_segv(task, 0)
        return RESUME
    task.restart = None
    thread.set_regs(context.regs)
    set_sigmask(task, context.mask)
    set_altstack(task, context.stack_sp, context.stack_flags, context.stack_size, context.regs.sp)
    return RESUME


def set_altstack(task: Task, sp: int, flags: int, size: int, current_sp: int) -> int:
    """do_sigaltstack's change: 0, -EPERM while on the stack, -EINVAL, -ENOMEM.  `flags` as in the guest's stack_t."""
    flags &= 0xFFFFFFFF
    if task.altstack.contains(current_sp):
        return -EPERM
    mode = flags & ~SS_AUTODISARM
    if mode not in (0, 1, SS_DISABLE):
        return -EINVAL
    if mode == SS_DISABLE:
        sp = size = 0
    elif size < MINSIGSTKSZ:
        return -ENOMEM
    task.altstack = sigframe.AltStack(sp, size, flags)
    return 0
