"""The requests of ptrace(2) on a tracee: decode, check, act.  Numbers and errors as kernel/ptrace.c has them.

A request that has to wait (for memory that must be forced, or for another's access to the same thread) leaves a
`Blocked` on the *tracer* and returns BLOCKED.
"""

from struct import Struct
from typing import Final

from cloche.abi import ptrace as pt
from cloche.abi.errno import EFAULT, EINVAL, EIO, ESRCH, LinuxError
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.abi.prctl import ARCH_GET_FS, ARCH_GET_GS, ARCH_SET_FS, ARCH_SET_GS
from cloche.abi.signal import ALL_SIGNALS, NSIG, SIGTRAP, UNBLOCKABLE
from cloche.arch import user
from cloche.arch.machine import AUDIT_ARCH
from cloche.kernel.access import task_of
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.ptrace import attach, memory, regs
from cloche.kernel.ptrace.stops import (
    MODE_EMULATE,
    MODE_STEP,
    MODE_SYSCALL,
    SYSGOOD,
    release,
    to_signed,
    trap_again,
    wake,
)
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import info_from_raw, set_sigmask
from cloche.kernel.task import Task, Tracee

_PEEKSIGINFO_ARGS: Final = Struct("<QIi")
_IOVEC: Final = Struct("<QQ")
_SYSCALL_INFO: Final = Struct("<BxxxIQQ")
_M32: Final = 0xFFFFFFFF
_SIGINFO: Final = 128

_RESUMES: Final[dict[int, int]] = {
    pt.PTRACE_CONT: 0,
    pt.PTRACE_SYSCALL: MODE_SYSCALL,
    pt.PTRACE_SYSEMU: MODE_EMULATE,
    pt.PTRACE_SINGLESTEP: MODE_STEP,
    pt.PTRACE_SYSEMU_SINGLESTEP: MODE_EMULATE | MODE_STEP,
}


class RequestWait(Blocked):
    """A request on a tracee whose thread is busy with another forced access."""

    def __init__(self, request: int, target: Task, addr: int, data: int) -> None:
        super().__init__()
        self.request: int = request
        self.target: Task = target
        self.addr: int = addr
        self.data: int = data

    def retry(self, task: TaskBase) -> int:
        if memory.busy_with(self.target) is not None:
            return BLOCKED
        assert isinstance(task, Task)
        # The request may have to wait itself: then this wait is over without a result.
        for queue in self.queues:
            queue.remove(task.waiter)
        self.queues.clear()
        task.blocked = None
        result = on_tracee(task, self.request, self.target, self.addr, self.data)
        if result != BLOCKED:
            task.blocked = self
        return result

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED


class AccessWait(Blocked):
    """PTRACE_PEEKDATA or POKEDATA, while the tracee's thread changes protections."""

    def __init__(self, access: memory.ForcedAccess, out_addr: int) -> None:
        super().__init__()
        self.access: memory.ForcedAccess = access
        self.out_addr: int = out_addr  # address in the tracer for the word that was read

    def retry(self, task: TaskBase) -> int:
        access = self.access
        if not access.is_done:
            return BLOCKED
        if access.count != access.length:
            return -EIO
        if access.data is None:
            assert isinstance(task, Task)
            task.user_memory().write(self.out_addr, access.found)
        return 0

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED


def ptrace(task: Task, request: int, pid: int, addr: int, data: int) -> int:
    """ptrace(2), the raw call.  Raises LinuxError."""
    if request == pt.PTRACE_TRACEME:
        return attach.traceme(task)
    pid = pid_from(task.pid_ns, pid)
    target = task_of(task.kernel, pid)
    if target is None:
        return -ESRCH
    if request in (pt.PTRACE_ATTACH, pt.PTRACE_SEIZE):
        return attach.attach(task, target, addr, data, is_seized=request == pt.PTRACE_SEIZE)
    tracee = target.tracee
    if tracee is None or tracee.tracer is not task:
        return -ESRCH
    if request == pt.PTRACE_KILL:
        attach.kill(target)
        return 0
    if request == pt.PTRACE_INTERRUPT:
        return _interrupt(target, tracee)
    return on_tracee(task, request, target, addr, data)


def on_tracee(task: Task, request: int, target: Task, addr: int, data: int) -> int:
    """A request that needs a stopped tracee."""
    tracee = target.tracee
    if tracee is None or tracee.tracer is not task or not tracee.is_stopped or tracee.is_listening:
        return -ESRCH
    if target.is_exited or target.group.end.fatal_status >= 0 and not target.group.end.is_by_thread:
        return -ESRCH  # it is about to be killed
    access = memory.busy_with(target)
    if access is not None:
        return block_on(task, RequestWait(request, target, addr, data), access.queue)
    mode = _RESUMES.get(request, -1)
    if mode >= 0:
        return _resume(target, tracee, mode, data)
    if request == pt.PTRACE_DETACH:
        if not 0 <= data <= NSIG:
            return -EIO
        attach.detach(target, data)
        return 0
    if request in (pt.PTRACE_PEEKTEXT, pt.PTRACE_PEEKDATA):
        return _peek(task, target, addr, data)
    if request in (pt.PTRACE_POKETEXT, pt.PTRACE_POKEDATA):
        return _poke(task, target, addr, data)
    return _inspect(task, request, target, tracee, addr, data)


def _interrupt(target: Task, tracee: Tracee) -> int:
    if not tracee.is_seized or target.is_exited:
        return -EIO if not tracee.is_seized else -ESRCH
    tracee.trap_pending = True
    if not tracee.is_stopped or tracee.is_listening:
        wake(target)
    return 0


def _resume(target: Task, tracee: Tracee, mode: int, signo: int) -> int:
    """PTRACE_CONT and its kin (ptrace_resume)."""
    if not 0 <= signo <= NSIG:
        return -EIO
    tracee.mode = mode
    tracee.code = 0
    release(target, signo)
    return 0


def _peek(task: Task, target: Task, addr: int, out_addr: int) -> int:
    found = target.mm.process.read(addr, 8)
    if len(found) == 8:
        task.user_memory().write(out_addr, found)
        return 0
    access = memory.force(task, target.mm, target, addr, 8, None)
    if access is None:
        return -EIO
    return block_on(task, AccessWait(access, out_addr), access.queue)


def _poke(task: Task, target: Task, addr: int, value: int) -> int:
    word = value.to_bytes(8, "little")
    if target.mm.process.write(addr, word) == 8:
        return 0
    access = memory.force(task, target.mm, target, addr, 8, word)
    if access is None:
        return -EIO
    return block_on(task, AccessWait(access, 0), access.queue)


def _inspect(task: Task, request: int, target: Task, tracee: Tracee, addr: int, data: int) -> int:
    """Requests that end at once."""
    mem = task.user_memory()
    if request == pt.PTRACE_PEEKUSR:
        mem.write(data, regs.peek_user(target, addr).to_bytes(8, "little"))
    elif request == pt.PTRACE_POKEUSR:
        regs.poke_user(target, addr, data)
    elif request == pt.PTRACE_GETREGS:
        mem.write(data, regs.read_regs(target))
    elif request == pt.PTRACE_SETREGS:
        regs.write_regs(target, mem.read(data, user.GENERAL_SIZE))
    elif request == pt.PTRACE_GETFPREGS:
        mem.write(data, regs.read_fpregs(target))
    elif request == pt.PTRACE_SETFPREGS:
        regs.write_fpregs(target, mem.read(data, user.FP_SIZE))
    elif request in (pt.PTRACE_GETREGSET, pt.PTRACE_SETREGSET):
        _register_set(task, target, addr & _M32, data, is_set=request == pt.PTRACE_SETREGSET)
    elif request in (pt.PTRACE_SETOPTIONS, pt.PTRACE_OLDSETOPTIONS):
        error = attach.check_options(task, data)
        if error:
            return error
        tracee.options = data
    elif request == pt.PTRACE_GETEVENTMSG:
        mem.write_u64(data, tracee.message)
    elif request == pt.PTRACE_GETSIGINFO:
        if tracee.info is None:
            return -EINVAL
        mem.write(data, tracee.info.raw.ljust(_SIGINFO, b"\0")[:_SIGINFO])
    elif request == pt.PTRACE_SETSIGINFO:
        raw = mem.read(data, _SIGINFO)
        if tracee.info is None:
            return -EINVAL
        signo = int.from_bytes(raw[:4], "little", signed=True)
        tracee.info = info_from_raw(task, signo, raw) if 0 < signo <= NSIG else SigInfo(signo, 0, raw)
        tracee.info.sender_pid = 0  # what the tracer says is shown as it is
    elif request == pt.PTRACE_PEEKSIGINFO:
        return _peek_siginfo(task, target, addr, data)
    elif request in (pt.PTRACE_GETSIGMASK, pt.PTRACE_SETSIGMASK):
        return _signal_mask(task, target, addr, data, is_set=request == pt.PTRACE_SETSIGMASK)
    elif request == pt.PTRACE_LISTEN:
        return _listen(target, tracee)
    elif request == pt.PTRACE_GET_SYSCALL_INFO:
        return _syscall_info(task, target, tracee, addr, data)
    elif request == pt.PTRACE_ARCH_PRCTL:
        return _arch_prctl(task, target, data, addr)
    elif request == pt.PTRACE_GET_RSEQ_CONFIGURATION:
        mem.write(data, bytes(24)[: min(addr, 24)])  # no rseq area is registered
        return 24
    else:
        return -EIO
    return 0


def _register_set(task: Task, target: Task, kind: int, iov_addr: int, *, is_set: bool) -> None:
    """PTRACE_GETREGSET, PTRACE_SETREGSET; the length moved goes back into the iovec."""
    mem = task.user_memory()
    base, length = _IOVEC.unpack(mem.read(iov_addr, 16))
    whole = regs.read_set(target, kind)
    if length % 8:
        raise LinuxError(EINVAL)
    length = min(length, len(whole))
    if is_set:
        regs.write_set(target, kind, mem.read(base, length))
    else:
        mem.write(base, whole[:length])
    mem.write_u64(iov_addr + 8, length)


def _peek_siginfo(task: Task, target: Task, args_addr: int, out_addr: int) -> int:
    """PTRACE_PEEKSIGINFO: how many pending signals were copied."""
    offset, flags, count = _PEEKSIGINFO_ARGS.unpack(task.user_memory().read(args_addr, 16))
    if flags & ~pt.PTRACE_PEEKSIGINFO_SHARED or count < 0:
        return -EINVAL
    pending = target.group.pending if flags & pt.PTRACE_PEEKSIGINFO_SHARED else target.pending
    done = 0
    while done < count and offset + done < len(pending.queue):
        raw = pending.queue[offset + done].raw.ljust(_SIGINFO, b"\0")[:_SIGINFO]
        if task.user_memory().write_some(out_addr + done * _SIGINFO, raw) != _SIGINFO:
            return done if done else -EFAULT
        done += 1
    return done


def _signal_mask(task: Task, target: Task, size: int, data: int, *, is_set: bool) -> int:
    if size != 8:
        return -EINVAL
    mem = task.user_memory()
    if not is_set:
        mask = target.sigmask.lasting()
        mem.write_u64(data, mask)
        return 0
    mask = mem.read_u64(data) & ALL_SIGNALS & ~UNBLOCKABLE
    target.sigmask.keep()
    set_sigmask(target, mask)
    return 0


def _listen(target: Task, tracee: Tracee) -> int:
    """PTRACE_LISTEN: stay stopped, but report changes of the group's state."""
    info = tracee.info
    if not tracee.is_seized or info is None or info.code >> 8 != pt.PTRACE_EVENT_STOP:
        return -EIO
    tracee.is_listening = True
    if tracee.notify_pending:
        trap_again(target)
    return 0


def _syscall_info(task: Task, target: Task, tracee: Tracee, size: int, out_addr: int) -> int:
    """PTRACE_GET_SYSCALL_INFO: the length of the data."""
    r = target.thread.regs()
    op = pt.PTRACE_SYSCALL_INFO_NONE
    rest = b""
    code = tracee.info.code if tracee.info is not None else 0
    if code == SIGTRAP | SYSGOOD or code == SIGTRAP | pt.PTRACE_EVENT_SECCOMP << 8:
        values = (target.trace.call_nr, *r.call_arguments())
        call = b"".join([(value & (1 << 64) - 1).to_bytes(8, "little") for value in values])
        if code != SIGTRAP | SYSGOOD:
            op = pt.PTRACE_SYSCALL_INFO_SECCOMP
            rest = call + (tracee.message & _M32).to_bytes(4, "little")
        elif tracee.message == pt.PTRACE_EVENTMSG_SYSCALL_ENTRY:
            op, rest = pt.PTRACE_SYSCALL_INFO_ENTRY, call
        else:
            op = pt.PTRACE_SYSCALL_INFO_EXIT
            is_error = 1 if -4095 <= to_signed(r.result) < 0 else 0
            rest = r.result.to_bytes(8, "little") + bytes([is_error])
    raw = _SYSCALL_INFO.pack(op, AUDIT_ARCH, r.pc, r.sp) + rest
    task.user_memory().write(out_addr, raw[: max(0, size)])
    return len(raw)


def _arch_prctl(task: Task, target: Task, option: int, addr: int) -> int:
    """PTRACE_ARCH_PRCTL: the bases of fs and gs."""
    r = target.thread.regs()
    if option == ARCH_GET_FS or option == ARCH_GET_GS:
        task.user_memory().write_u64(addr, r.base(option))
        return 0
    if option != ARCH_SET_FS and option != ARCH_SET_GS:
        return -EINVAL
    if addr >= TASK_SIZE_MAX:
        return -1  # EPERM
    r.set_base(option, addr)
    target.thread.set_regs(r)
    return 0
