"""Classic BPF filters of seccomp(2), and the listeners that a filter may have (kernel/seccomp.c, net/core/filter.c).

A filter whose verdict depends on nothing but the call's number is run once per number and remembered, as Linux's
action cache does.  `Filter.users` counts the threads whose newest filter it is and the filters installed on top of it:
without any, a listener hears no more (`retain`, `release`).
"""

from struct import Struct
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import EINVAL, ENOSYS, LinuxError
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT
from cloche.arch.machine import AUDIT_ARCH
from cloche.kernel.args import Args
from cloche.kernel.parts import SeccompChain
from cloche.kernel.task import Task
from cloche.mm.quota import INSN_BYTES, KERNEL_MEMORY
from cloche.vfs.waitqueue import WaitQueue

FILTER_PENALTY: Final = 4
_INSN: Final = Struct("<HBBI")
_M32: Final = 0xFFFFFFFF
_OFFSET_ARGS: Final = 8  # struct seccomp_data: what lies from here on is not the number or the architecture

# States of a notification
WAITING: Final = 0  # nobody has read it
SENT: Final = 1
REPLIED: Final = 2


class Notification:
    """A call that a listener shall decide."""

    def __init__(self, ident: int, task: Task, pointer: int) -> None:
        args = task.args
        self.ident: int = ident
        self.task: Task = task
        self.number: int = args.nr
        self.pointer: int = pointer
        self.arguments: tuple[int, int, int, int, int, int] = (
            args.a0,
            args.a1,
            args.a2,
            args.a3,
            args.a4,
            args.a5,
        )
        self.state: int = WAITING
        self.value: int = 0
        self.error: int = 0
        self.flags: int = 0
        self.replied: WaitQueue = WaitQueue()

    def reply(self, value: int, error: int, flags: int) -> None:
        self.state = REPLIED
        self.value = value
        self.error = error
        self.flags = flags
        self.replied.wake()


class Listener:
    """What SECCOMP_FILTER_FLAG_NEW_LISTENER makes: the calls that wait for an answer, in order."""

    def __init__(self, first_ident: int, *, is_killable: bool) -> None:
        self.next_ident: int = first_ident
        self.is_killable: bool = is_killable  # once read, only a fatal signal ends the wait
        self.is_orphaned: bool = False  # no thread has the filter any more
        self.is_closed: bool = False
        self.notifications: list[Notification] = []
        self.queue: WaitQueue = WaitQueue()

    def notify(self, task: Task, pointer: int) -> Notification:
        """The call in `task.args` shall wait."""
        made = Notification(self.next_ident, task, pointer)
        self.next_ident = (self.next_ident + 1) & 0xFFFFFFFFFFFFFFFF
        self.notifications.append(made)
        self.queue.wake(POLLIN)
        return made

    def forget(self, gone: Notification) -> None:
        """Its wait is over."""
        if gone in self.notifications:
            self.notifications.remove(gone)

    def first_waiting(self) -> Notification | None:
        """The next to be read."""
        for one in self.notifications:
            if one.state == WAITING:
                return one
        return None

    def find(self, ident: int) -> Notification | None:
        for one in self.notifications:
            if one.ident == ident:
                return one
        return None

    def sent(self, one: Notification) -> None:
        """Somebody has read it."""
        one.state = SENT
        self.queue.wake(POLLOUT)

    def orphaned(self) -> None:
        self.is_orphaned = True
        self.queue.wake(POLLHUP)

    def close(self) -> None:
        """Nobody will answer any more."""
        self.is_closed = True
        for one in list(self.notifications):
            if one.state != REPLIED:
                one.reply(0, -ENOSYS, 0)


class Filter(SeccompChain):
    """An installed program and those that were installed before it."""

    def __init__(self, program: list[tuple[int, int, int, int]], previous: "Filter | None") -> None:
        self.program: list[tuple[int, int, int, int]] = program  # (code, jt, jf, k)
        self.previous: Filter | None = previous
        self.verdicts: dict[int, int] = {}  # by call number, where nothing else matters
        self.count: int = 1 + (previous.count if previous is not None else 0)
        self.total_insns: int = (
            len(program) + FILTER_PENALTY + (previous.total_insns if previous is not None else 0)
        )
        self.users: int = 0
        self.is_linked: bool = False  # it counts among the users of `previous`
        self.listener: Listener | None = None
        KERNEL_MEMORY.take(INSN_BYTES * len(program))

    def __del__(self) -> None:
        KERNEL_MEMORY.give(INSN_BYTES * len(self.program))

    def has_listener(self) -> bool:
        """Whether one of the chain has an open one."""
        one: Filter | None = self
        while one is not None:
            if one.listener is not None and not one.listener.is_closed:
                return True
            one = one.previous
        return False

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
        return AUDIT_ARCH
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
            a = calculate(code & 0xF0, a, right)
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


def calculate(operation: int, a: int, right: int) -> int:
    """One arithmetic operation of cBPF in 32 bits; `right` is not 0 where it divides.  (seccomp has no BPF_MOD.)"""
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
    if operation == bpf.BPF_MOD:
        return a % right
    if operation == bpf.BPF_LSH:
        return (a << (right & 31)) & _M32
    return a >> (right & 31)


def filters_of(task: Task) -> Filter | None:
    """The newest filter of a task."""
    found = task.seccomp.chain
    return found if isinstance(found, Filter) else None


def retain(task: Task) -> None:
    """A new task has the filters of its parent."""
    one = filters_of(task)
    if one is not None:
        one.users += 1


def replace(task: Task, one: Filter | None) -> None:
    """Change the newest filter of a task; None at its end."""
    old = filters_of(task)
    task.seccomp.chain = one
    if one is not None:
        one.users += 1
        if one.previous is not None and not one.is_linked:
            one.is_linked = True
            one.previous.users += 1
    while old is not None:
        old.users -= 1
        if old.users > 0:
            return
        if old.listener is not None:
            old.listener.orphaned()
        old = old.previous if old.is_linked else None
