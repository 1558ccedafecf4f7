"""seccomp(2) for guests: classic BPF filters, checked and run by the sentry before a call's handler.

These are the guests' own filters (and the profile of an OCI container), on top of everything else that confines
them.  `check` is called by the event loop for a task whose `seccomp_mode` is not 0.  A filter whose verdict depends
on nothing but the call's number is run once per number and remembered, as Linux's action cache does.
Not supported: user notification (no listener can be made).
"""

from struct import Struct
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EACCES, EINVAL, ENOMEM, ENOSYS, ESRCH, LinuxError
from cloche.abi.signal import SIGKILL, SIGSYS
from cloche.abi.structs import pack_siginfo_sys
from cloche.arch.x86_64.syscalls import SYS_exit, SYS_read, SYS_rt_sigreturn, SYS_write
from cloche.kernel.answers import withdraw
from cloche.kernel.blocking import DEAD
from cloche.kernel.exit import do_exit, do_group_exit
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.signals import force_signal
from cloche.kernel.task import Args, SigInfo, Task
from cloche.mm.quota import INSN_BYTES, KERNEL_MEMORY

ALLOWED: Final = -(1 << 41)  # the handler may run
SYS_SECCOMP: Final = 1  # si_code of SECCOMP_RET_TRAP
MAX_PATH_INSNS: Final = 32768  # of a task's filters together
FILTER_PENALTY: Final = 4
_INSN: Final = Struct("<HBBI")
_STRICT_CALLS: Final = (SYS_read, SYS_write, SYS_exit, SYS_rt_sigreturn)
_M32: Final = 0xFFFFFFFF
_OFFSET_ARGS: Final = 8  # struct seccomp_data: what lies from here on is not the number or the architecture


class Filter:
    """An installed program and those that were installed before it."""

    def __init__(self, program: list[tuple[int, int, int, int]], previous: "Filter | None") -> None:
        self.program: list[tuple[int, int, int, int]] = program  # (code, jt, jf, k)
        self.previous: Filter | None = previous
        self.verdicts: dict[int, int] = {}  # by call number, where nothing else matters
        self.count: int = 1 + (previous.count if previous is not None else 0)
        self.total_insns: int = (
            len(program) + FILTER_PENALTY + (previous.total_insns if previous is not None else 0)
        )
        KERNEL_MEMORY.take(INSN_BYTES * len(program))

    def __del__(self) -> None:
        KERNEL_MEMORY.give(INSN_BYTES * len(self.program))

    def is_ancestor_of(self, other: "Filter | None") -> bool:
        """Whether `other` is this filter or was installed on top of it."""
        while other is not None:
            if other is self:
                return True
            other = other.previous
        return False


_LD_ABS: Final = bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS
_LD_LEN: Final = bpf.BPF_LD | bpf.BPF_W | bpf.BPF_LEN
_LDX_LEN: Final = bpf.BPF_LDX | bpf.BPF_W | bpf.BPF_LEN
_LD_IMM: Final = bpf.BPF_LD | bpf.BPF_IMM
_LD_MEM: Final = bpf.BPF_LD | bpf.BPF_MEM
_LDX_IMM: Final = bpf.BPF_LDX | bpf.BPF_IMM
_LDX_MEM: Final = bpf.BPF_LDX | bpf.BPF_MEM
_RET_K: Final = bpf.BPF_RET | bpf.BPF_K
_RET_A: Final = bpf.BPF_RET | bpf.BPF_A
_JA: Final = bpf.BPF_JMP | bpf.BPF_JA
_NEG: Final = bpf.BPF_ALU | bpf.BPF_NEG
_TAX: Final = bpf.BPF_MISC | bpf.BPF_TAX
_TXA: Final = bpf.BPF_MISC | bpf.BPF_TXA
_ALU_OPS: Final = (
    bpf.BPF_ADD,
    bpf.BPF_SUB,
    bpf.BPF_MUL,
    bpf.BPF_DIV,
    bpf.BPF_AND,
    bpf.BPF_OR,
    bpf.BPF_XOR,
    bpf.BPF_LSH,
    bpf.BPF_RSH,
)
_JUMPS: Final = (bpf.BPF_JEQ, bpf.BPF_JGE, bpf.BPF_JGT, bpf.BPF_JSET)


def parse_program(raw: bytes) -> list[tuple[int, int, int, int]]:
    """Decode and check an array of struct sock_filter (bpf_check_classic, seccomp_check_filter).

    Raises LinuxError(EINVAL).
    """
    program: list[tuple[int, int, int, int]] = []
    for code, jump_true, jump_false, k in _INSN.iter_unpack(raw):
        program.append((code, jump_true, jump_false, k))
    size = len(program)
    for index in range(size):
        code, jump_true, jump_false, k = program[index]
        if not _is_valid(code, jump_true, jump_false, k, size - index - 1):
            raise LinuxError(EINVAL)
    if not program or program[-1][0] not in (_RET_K, _RET_A):
        raise LinuxError(EINVAL)
    return program


def _is_valid(code: int, jump_true: int, jump_false: int, k: int, left: int) -> bool:
    """Whether an instruction is allowed; `left` is how many follow it."""
    kind = code & 7
    if code == _LD_ABS:
        return k < bpf.SECCOMP_DATA_SIZE and k % 4 == 0
    if code in (_LD_LEN, _LDX_LEN, _LD_IMM, _LDX_IMM, _RET_K, _RET_A, _TAX, _TXA, _NEG):
        return True
    if code in (_LD_MEM, _LDX_MEM, bpf.BPF_ST, bpf.BPF_STX):
        return k < bpf.BPF_MEMWORDS
    if kind == bpf.BPF_ALU:
        operation = code & 0xF0
        if code & ~0xF8 != bpf.BPF_ALU or operation not in _ALU_OPS:
            return False
        if code & bpf.BPF_X:
            return True
        if operation == bpf.BPF_DIV:
            return k != 0
        return k < 32 if operation in (bpf.BPF_LSH, bpf.BPF_RSH) else True
    if code == _JA:
        return k < left
    if kind == bpf.BPF_JMP and code & 0xF0 in _JUMPS and code & ~0xF8 == bpf.BPF_JMP:
        return jump_true < left and jump_false < left
    return False


def _word(args: Args, pointer: int, offset: int) -> int:
    """A 32-bit word of struct seccomp_data."""
    if offset == 0:
        return args.nr & _M32
    if offset == 4:
        return bpf.AUDIT_ARCH_X86_64
    if offset < 16:
        value = pointer
    else:
        index = (offset - 16) >> 3
        values = (args.a0, args.a1, args.a2, args.a3, args.a4, args.a5)
        value = values[index]
    return (value >> 32 if offset & 4 else value) & _M32


def run_filter(one: Filter, args: Args, pointer: int) -> int:
    """The verdict of one filter: SECCOMP_RET_* with its data."""
    known = one.verdicts.get(args.nr, -1)
    if known >= 0:
        return known
    program = one.program
    a = x = at = 0
    memory = [0] * bpf.BPF_MEMWORDS
    uses_arguments = False
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        if code == _LD_ABS:
            if k >= _OFFSET_ARGS:
                uses_arguments = True
            a = _word(args, pointer, k)
        elif code & 7 == bpf.BPF_JMP:
            if code == _JA:
                at += k
                continue
            right = x if code & bpf.BPF_X else k
            operation = code & 0xF0
            if operation == bpf.BPF_JEQ:
                holds = a == right
            elif operation == bpf.BPF_JGE:
                holds = a >= right
            elif operation == bpf.BPF_JGT:
                holds = a > right
            else:
                holds = a & right != 0
            at += jump_true if holds else jump_false
        elif code == _RET_K or code == _RET_A:
            verdict = k if code == _RET_K else a
            if not uses_arguments:
                one.verdicts[args.nr] = verdict
            return verdict
        elif code & 7 == bpf.BPF_ALU:
            if code == _NEG:
                a = -a & _M32
                continue
            right = x if code & bpf.BPF_X else k
            if code & 0xF0 == bpf.BPF_DIV and right == 0:
                return bpf.SECCOMP_RET_KILL_THREAD  # a division by zero ends the program with 0
            a = _alu(code & 0xF0, a, right)
        elif code == _LD_IMM:
            a = k
        elif code == _LDX_IMM:
            x = k
        elif code == _LD_MEM:
            a = memory[k]
        elif code == _LDX_MEM:
            x = memory[k]
        elif code == bpf.BPF_ST:
            memory[k] = a
        elif code == bpf.BPF_STX:
            memory[k] = x
        elif code == _LD_LEN:
            a = bpf.SECCOMP_DATA_SIZE
        elif code == _LDX_LEN:
            x = bpf.SECCOMP_DATA_SIZE
        elif code == _TAX:
            x = a
        else:
            a = x


def _alu(operation: int, a: int, right: int) -> int:
    """One arithmetic operation in 32 bits."""
    if operation == bpf.BPF_AND:
        return a & right
    if operation == bpf.BPF_OR:
        return a | right
    if operation == bpf.BPF_XOR:
        return a ^ right
    if operation == bpf.BPF_ADD:
        return (a + right) & _M32
    if operation == bpf.BPF_SUB:
        return (a - right) & _M32
    if operation == bpf.BPF_MUL:
        return (a * right) & _M32
    if operation == bpf.BPF_DIV:
        return a // right
    if operation == bpf.BPF_LSH:
        return (a << (right & 31)) & _M32
    return a >> (right & 31)


def _precedence(verdict: int) -> int:
    """Actions as signed numbers: the lowest wins."""
    action = verdict & bpf.SECCOMP_RET_ACTION_FULL
    return action - (1 << 32) if action >= 1 << 31 else action


def filters_of(task: Task) -> Filter | None:
    """The newest filter of a task."""
    found = task.seccomp
    return found if isinstance(found, Filter) else None


def check(task: Task) -> int:
    """What the task's mode or filters say to the call in `task.args`: ALLOWED, or the call's result."""
    args = task.args
    is_recheck = task.is_seccomp_traced
    task.is_seccomp_traced = False
    if task.seccomp_mode == bpf.SECCOMP_MODE_STRICT:
        if args.nr in _STRICT_CALLS:
            return ALLOWED
        do_group_exit(task.group, SIGKILL)
        return DEAD
    one = filters_of(task)
    pointer = task.thread.regs().rip if one is not None and _needs_pointer(one, args.nr) else 0
    verdict = bpf.SECCOMP_RET_ALLOW
    while one is not None:
        found = run_filter(one, args, pointer)
        if _precedence(found) < _precedence(verdict):
            verdict = found
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
    if action == bpf.SECCOMP_RET_TRACE or action == bpf.SECCOMP_RET_USER_NOTIF:
        return -ENOSYS
    if action == bpf.SECCOMP_RET_KILL_THREAD and len(task.group.tasks) > 1:
        return do_exit(task, SIGSYS)
    _force_sigsys(task, verdict & bpf.SECCOMP_RET_DATA, is_fatal=True)
    return args.nr


def _needs_pointer(one: Filter | None, number: int) -> bool:
    """Whether any filter has no remembered verdict, so that it may look at the instruction pointer."""
    while one is not None:
        if number not in one.verdicts:
            return True
        one = one.previous
    return False


def _force_sigsys(task: Task, data: int, *, is_fatal: bool) -> None:
    rip = task.thread.regs().rip
    raw = pack_siginfo_sys(SIGSYS, SYS_SECCOMP, rip, task.args.nr & _M32, bpf.AUDIT_ARCH_X86_64, data)
    force_signal(task, SigInfo(SIGSYS, SYS_SECCOMP, raw), is_default=is_fatal)


# -- installing ------------------------------------------------------------------------------------------


def set_strict(task: Task) -> None:
    """SECCOMP_SET_MODE_STRICT.  Raises LinuxError(EINVAL)."""
    if task.seccomp_mode not in (bpf.SECCOMP_MODE_DISABLED, bpf.SECCOMP_MODE_STRICT):
        raise LinuxError(EINVAL)
    task.seccomp_mode = bpf.SECCOMP_MODE_STRICT
    withdraw(task)


def add_filter(task: Task, raw: bytes, flags: int) -> int:
    """SECCOMP_SET_MODE_FILTER: 0, or with TSYNC the tid of a thread that cannot follow.  Raises LinuxError."""
    if not task.creds.no_new_privs and not task.creds.capable_here(CAP_SYS_ADMIN):
        raise LinuxError(EACCES)
    if not KERNEL_MEMORY.has_room(INSN_BYTES * (len(raw) // 8)):
        raise LinuxError(ENOMEM)
    program = parse_program(raw)
    if task.seccomp_mode == bpf.SECCOMP_MODE_STRICT:
        raise LinuxError(EINVAL)
    current = filters_of(task)
    made = Filter(program, current)
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
    if other.seccomp_mode == bpf.SECCOMP_MODE_DISABLED:
        return True
    theirs = filters_of(other)
    return (
        other.seccomp_mode == bpf.SECCOMP_MODE_FILTER
        and theirs is not None
        and theirs.is_ancestor_of(current)
    )


def install(task: Task, one: Filter) -> None:
    """Put a filter in force (also boot's, for an OCI profile)."""
    task.seccomp = one
    task.seccomp_mode = bpf.SECCOMP_MODE_FILTER
    withdraw(task)
