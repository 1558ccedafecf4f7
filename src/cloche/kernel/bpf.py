"""Checks and runs programs of classic BPF, of seccomp and of sockets (net/core/filter.c).

Programs jump only forward, so they end.  The data that they read is a `Subject`, which defines the results of loads.

A checked program stays the array of struct sock_filter that the guest gave: thousands of instructions as objects of
their own would take longer to make, and to give up, than to check (I8).
"""

from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.bpf_program import INSN
from cloche.abi.errno import EINVAL, LinuxError

SIZE: Final = 8  # of an instruction: code (2 bytes), jt, jf, k (4 bytes)
_M32: Final = 0xFFFFFFFF
_SIZES: Final = (bpf.BPF_W, bpf.BPF_H, bpf.BPF_B)
_ALU_OPS: Final = (
    bpf.BPF_ADD,
    bpf.BPF_SUB,
    bpf.BPF_MUL,
    bpf.BPF_DIV,
    bpf.BPF_MOD,
    bpf.BPF_AND,
    bpf.BPF_OR,
    bpf.BPF_XOR,
    bpf.BPF_LSH,
    bpf.BPF_RSH,
)
_JUMPS: Final = (bpf.BPF_JEQ, bpf.BPF_JGE, bpf.BPF_JGT, bpf.BPF_JSET)


class Subject:
    """The data on which a program runs."""

    size: int = 0  # the result of BPF_LEN

    def load(self, code: int, k: int, a: int, x: int) -> int:
        """The result of an absolute or indirect load, or of BPF_MSH; -1 ends the program with 0."""
        raise NotImplementedError


def check(raw: bytes) -> None:
    """Check an array of struct sock_filter (bpf_check_classic).  Raises LinuxError(EINVAL)."""
    left = len(raw) // SIZE
    if not 0 < left <= bpf.BPF_MAXINSNS or len(raw) % SIZE:
        raise LinuxError(EINVAL)
    for code, jump_true, jump_false, k in INSN.iter_unpack(raw):
        left -= 1
        if not _is_valid(code, jump_true, jump_false, k, left):
            raise LinuxError(EINVAL)
    if raw[-SIZE] not in (bpf.BPF_RET | bpf.BPF_K, bpf.BPF_RET | bpf.BPF_A):
        raise LinuxError(EINVAL)


def _is_valid(code: int, jump_true: int, jump_false: int, k: int, left: int) -> bool:
    """Whether an instruction is allowed; `left` is how many follow it."""
    group = code & 7
    if code & ~0xFF:
        return False
    if group == bpf.BPF_LD or group == bpf.BPF_LDX:
        mode = code & 0xE0
        if group == bpf.BPF_LD and mode in (bpf.BPF_ABS, bpf.BPF_IND):
            return code & 0x18 in _SIZES
        if group == bpf.BPF_LDX and mode == bpf.BPF_MSH:
            return code & 0x18 == bpf.BPF_B
        if code & 0x18:
            return False
        return mode in (bpf.BPF_IMM, bpf.BPF_LEN) or (mode == bpf.BPF_MEM and k < bpf.BPF_MEMWORDS)
    if group in (bpf.BPF_ST, bpf.BPF_STX):
        return code == group and k < bpf.BPF_MEMWORDS
    if group == bpf.BPF_ALU:
        operation = code & 0xF0
        if operation == bpf.BPF_NEG:
            return code & bpf.BPF_X == 0
        if operation not in _ALU_OPS:
            return False
        if code & bpf.BPF_X:
            return True
        if operation in (bpf.BPF_DIV, bpf.BPF_MOD):
            return k != 0
        return k < 32 if operation in (bpf.BPF_LSH, bpf.BPF_RSH) else True
    if group == bpf.BPF_JMP:
        operation = code & 0xF0
        if operation == bpf.BPF_JA:
            return code & bpf.BPF_X == 0 and k < left
        return operation in _JUMPS and jump_true < left and jump_false < left
    if group == bpf.BPF_RET:
        return code & 0xF8 in (bpf.BPF_K, bpf.BPF_A)
    return code & 0xF8 in (bpf.BPF_TAX, bpf.BPF_TXA)


def run(program: bytes, subject: Subject) -> int:
    """Run a checked program; returns its result. A division by zero ends it with 0."""
    memory = [0] * bpf.BPF_MEMWORDS
    a = x = at = 0
    while True:
        code = program[at]  # `check` has seen that it is one byte
        group = code & 7
        if group == bpf.BPF_MISC:
            if code & 0xF8 == bpf.BPF_TXA:
                a = x
            else:
                x = a
            at += SIZE
            continue
        k = program[at + 4] | program[at + 5] << 8 | program[at + 6] << 16 | program[at + 7] << 24
        if group == bpf.BPF_JMP:
            operation = code & 0xF0
            if operation == bpf.BPF_JA:
                at += SIZE * (k + 1)
                continue
            right = x if code & bpf.BPF_X else k
            if operation == bpf.BPF_JEQ:
                holds = a == right
            elif operation == bpf.BPF_JGT:
                holds = a > right
            elif operation == bpf.BPF_JGE:
                holds = a >= right
            else:
                holds = a & right != 0
            at += SIZE * (1 + program[at + 2 if holds else at + 3])
            continue
        at += SIZE
        if group == bpf.BPF_LD or group == bpf.BPF_LDX:
            mode = code & 0xE0
            if mode == bpf.BPF_IMM:
                loaded = k
            elif mode == bpf.BPF_MEM:
                loaded = memory[k]
            elif mode == bpf.BPF_LEN:
                loaded = subject.size
            else:
                loaded = subject.load(code, k, a, x)
                if loaded < 0:
                    return 0
            if group == bpf.BPF_LD:
                a = loaded
            else:
                x = loaded
        elif group == bpf.BPF_RET:
            return a if code & 0x18 == bpf.BPF_A else k
        elif group == bpf.BPF_ALU:
            operation = code & 0xF0
            right = x if code & bpf.BPF_X else k
            if operation == bpf.BPF_NEG:
                a = -a & _M32
            elif right == 0 and operation in (bpf.BPF_DIV, bpf.BPF_MOD):
                return 0
            else:
                a = _calculate(operation, a, right)
        elif group == bpf.BPF_ST:
            memory[k] = a
        else:
            memory[k] = x


def _calculate(operation: int, a: int, right: int) -> int:
    """One arithmetic operation of cBPF in 32 bits; `right` is not 0 where it divides."""
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
