"""The calls of signals: dispositions, masks, sending, waiting, returning (signal(7)).

Decodes and checks; the semantics are in `kernel.signals`.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, EINTR, EINVAL, EPERM, ERESTARTNOHAND, ESRCH, LinuxError
from cloche.abi.poll import POLLIN
from cloche.abi.signal import (
    ALL_SIGNALS,
    NSIG,
    SA_EXPOSE_TAGBITS,
    SA_NOCLDSTOP,
    SA_NOCLDWAIT,
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESETHAND,
    SA_RESTART,
    SA_RESTORER,
    SA_SIGINFO,
    SI_TKILL,
    SIG_BLOCK,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGINFO_SIZE,
    SIGSET_SIZE,
    SS_AUTODISARM,
    UNBLOCKABLE,
    sigbit,
)
from cloche.abi.signal_structs import (
    SIGACTION_SIZE,
    STACK_T_SIZE,
    pack_sigaction,
    pack_stack_t,
    unpack_sigaction,
    unpack_stack_t,
)
from cloche.abi.structs import KTIME_MAX, TIMESPEC_SIZE, unpack_timespec
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on, block_on_time
from cloche.kernel.delivery import set_altstack, sigreturn
from cloche.kernel.killing import kill, signal_pid, signal_thread, tgkill
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.siginfo import SigAction, SigInfo
from cloche.kernel.signals import (
    dequeue_signal,
    info_from_raw,
    set_action,
    set_sigmask,
    set_temporary_sigmask,
    signal_pending,
)
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns

# The bits of sa_flags that are kept (UAPI_SA_FLAGS): a program recognizes an unsupported flag by its absence.
_SA_KEPT: Final = (
    SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_EXPOSE_TAGBITS
    | SA_RESTORER
)


def sys_rt_sigaction(task: Task, args: Args) -> int:
    """rt_sigaction(2): sigaction(2) with the size of the mask."""
    if to_u64(args.a3) != SIGSET_SIZE:
        return -EINVAL
    mem = task.user_memory()
    new: SigAction | None = None
    if args.a1:
        handler, flags, restorer, mask = unpack_sigaction(mem.read(to_u64(args.a1), SIGACTION_SIZE))
        new = SigAction(handler, flags & _SA_KEPT, restorer, mask)
    signo = to_i32(args.a0)
    if signo < 1 or signo > NSIG or (new is not None and sigbit(signo) & UNBLOCKABLE):
        return -EINVAL
    old = task.group.handlers.actions[signo]
    was = pack_sigaction(old.handler, old.flags, old.restorer, old.mask)
    if new is not None:
        set_action(task, signo, new)
    if args.a2:
        mem.write(to_u64(args.a2), was)
    return 0


def sys_rt_sigprocmask(task: Task, args: Args) -> int:
    """rt_sigprocmask(2)."""
    if to_u64(args.a3) != SIGSET_SIZE:
        return -EINVAL
    mem = task.user_memory()
    old = task.sigmask.now
    if args.a1:
        mask = mem.read_u64(to_u64(args.a1)) & ~UNBLOCKABLE
        how = to_i32(args.a0)
        if how == SIG_BLOCK:
            mask |= old
        elif how == SIG_UNBLOCK:
            mask = old & ~mask
        elif how != SIG_SETMASK:
            return -EINVAL
        set_sigmask(task, mask)
    if args.a2:
        mem.write_u64(to_u64(args.a2), old)
    return 0


def sys_rt_sigpending(task: Task, args: Args) -> int:
    """rt_sigpending(2): as much of the set as is asked for."""
    size = to_u64(args.a1)
    if size > SIGSET_SIZE:
        return -EINVAL
    pending = (task.pending.mask | task.group.pending.mask) & task.sigmask.now
    task.user_memory().write(to_u64(args.a0), pending.to_bytes(SIGSET_SIZE, "little")[:size])
    return 0


class SigTimedWait(Blocked):
    """rt_sigtimedwait: takes the first signal of a set."""

    def __init__(self, mask: int, info_addr: int, deadline_ns: int) -> None:
        super().__init__(deadline_ns)
        self.mask: int = mask
        self.info_addr: int = info_addr

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        info = dequeue_signal(task, self.mask)
        return BLOCKED if info is None else self.take(task, info)

    def take(self, task: Task, info: SigInfo) -> int:
        """The signal's number, its siginfo written."""
        if self.info_addr:
            task.user_memory().write(self.info_addr, info.raw)
        return info.signo

    def timed_out(self, task: TaskBase) -> int:
        return -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        return -EINTR


def sys_rt_sigtimedwait(task: Task, args: Args) -> int:
    """rt_sigtimedwait(2): EAGAIN when the time is over, EINTR for a signal that is not in the set."""
    if to_u64(args.a3) != SIGSET_SIZE:
        return -EINVAL
    mem = task.user_memory()
    mask = mem.read_u64(to_u64(args.a0)) & ~UNBLOCKABLE & ALL_SIGNALS
    timeout_ns = -1
    if args.a2:
        timeout_ns = unpack_timespec(mem.read(to_u64(args.a2), TIMESPEC_SIZE))
    op = SigTimedWait(mask, to_u64(args.a1), -1)
    result = op.retry(task)
    if result != BLOCKED:
        return result
    if timeout_ns == 0:
        return -EAGAIN
    if 0 < timeout_ns < KTIME_MAX:
        op.deadline_ns = monotonic_ns() + timeout_ns
    return block_on(task, op, task.group.signal_wait, POLLIN)


class SuspendWait(Blocked):
    """pause and sigsuspend: only a signal ends them."""

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return -ERESTARTNOHAND if signal_pending(task) else BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOHAND


def sys_rt_sigsuspend(task: Task, args: Args) -> int:
    """rt_sigsuspend(2): wait under another mask; `deliver` puts the old one back."""
    if to_u64(args.a1) != SIGSET_SIZE:
        return -EINVAL
    set_temporary_sigmask(task, task.user_memory().read_u64(to_u64(args.a0)))
    return pause(task)


def sys_pause(task: Task, args: Args) -> int:
    """pause(2)."""
    return pause(task)


def pause(task: Task) -> int:
    """Wait for a signal that is to be handled."""
    if signal_pending(task):
        return -ERESTARTNOHAND
    return block_on_time(task, SuspendWait())


def sys_rt_sigreturn(task: Task, args: Args) -> int:
    """sigreturn(2): back to what a handler interrupted."""
    return sigreturn(task)


def sys_restart_syscall(task: Task, args: Args) -> int:
    """restart_syscall(2): EINTR if there is no call to restart."""
    op = task.restart
    task.restart = None
    return op.restart(task) if isinstance(op, Blocked) else -EINTR


def sys_sigaltstack(task: Task, args: Args) -> int:
    """sigaltstack(2)."""
    mem = task.user_memory()
    now = task.altstack
    current_sp = task.thread.regs().sp
    old = pack_stack_t(now.sp, now.state(current_sp) | (now.flags & SS_AUTODISARM), now.size)
    if args.a0:
        sp, flags, size = unpack_stack_t(mem.read(to_u64(args.a0), STACK_T_SIZE))
        result = set_altstack(task, sp, flags, size, current_sp)
        if result < 0:
            return result
    if args.a1:
        mem.write(to_u64(args.a1), old)
    return 0


def sys_kill(task: Task, args: Args) -> int:
    """kill(2)."""
    pid = to_i32(args.a0)
    if pid == -0x80000000:
        return -ESRCH
    return kill(task, pid, to_i32(args.a1))


def sys_tkill(task: Task, args: Args) -> int:
    """tkill(2)."""
    tid = to_i32(args.a0)
    return tgkill(task, 0, tid, to_i32(args.a1)) if tid > 0 else -EINVAL


def sys_tgkill(task: Task, args: Args) -> int:
    """tgkill(2)."""
    tgid, tid = to_i32(args.a0), to_i32(args.a1)
    if tgid <= 0 or tid <= 0:
        return -EINVAL
    return tgkill(task, tgid, tid, to_i32(args.a2))


def read_siginfo(task: Task, addr: int, signo: int, pid: int) -> SigInfo:
    """A siginfo from a guest; EPERM if it claims to come from the kernel or kill(2), and goes to another process."""
    raw = task.user_memory().read(addr, SIGINFO_SIZE)
    if signo < 0 or signo > NSIG:
        raise LinuxError(EINVAL)
    info = info_from_raw(task, signo, raw)
    if (info.code >= 0 or info.code == SI_TKILL) and pid != task.own_tid:
        raise LinuxError(EPERM)
    return info


def sys_rt_sigqueueinfo(task: Task, args: Args) -> int:
    """rt_sigqueueinfo(2)."""
    pid, signo = to_i32(args.a0), to_i32(args.a1)
    info = read_siginfo(task, to_u64(args.a2), signo, pid)
    return signal_pid(task, pid_from(task.pid_ns, pid) if pid > 0 else pid, signo, info)


def sys_rt_tgsigqueueinfo(task: Task, args: Args) -> int:
    """rt_tgsigqueueinfo(2)."""
    tgid, tid, signo = to_i32(args.a0), to_i32(args.a1), to_i32(args.a2)
    if not args.a3:
        return -EFAULT
    info = read_siginfo(task, to_u64(args.a3), signo, tid)
    if tgid <= 0 or tid <= 0:
        return -EINVAL
    return signal_thread(task, pid_from(task.pid_ns, tgid), pid_from(task.pid_ns, tid), signo, info)
