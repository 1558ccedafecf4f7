"""Socket filters: the classic BPF programs of SO_ATTACH_FILTER (socket(7), bpf_check_classic).

A program sees a message before its receiver and says how many bytes of it are kept, 0 for none.  It jumps only
forward, so it ends.  `data` begins where Linux begins it: at the link header for AF_PACKET, at the IP header for raw
sockets, at the UDP header for UDP, at the message for others.
"""

import os
from struct import Struct
from typing import Final

from cloche.abi import seccomp as bpf
from cloche.abi.errno import EINVAL, ENOMEM, LinuxError
from cloche.kernel.seccomp_filter import calculate
from cloche.mm.quota import INSN_BYTES, KERNEL_MEMORY

MAX_INSNS: Final = 4096
_INSN: Final = Struct("<HBBI")
_M32: Final = 0xFFFFFFFF
_SIZES: Final[dict[int, int]] = {bpf.BPF_W: 4, bpf.BPF_H: 2, bpf.BPF_B: 1}
_ALU_OPS: Final = frozenset(
    {
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
    }
)
_JUMPS: Final = frozenset({bpf.BPF_JEQ, bpf.BPF_JGE, bpf.BPF_JGT, bpf.BPF_JSET})
_ANCILLARY: Final = 0xFFFFF000  # SKF_AD_OFF
_NETWORK: Final = 0xFFF00000  # SKF_NET_OFF
_LINK: Final = 0xFFE00000  # SKF_LL_OFF
# SKF_AD_*: those that are the same for every message here.
_FACTS: Final[dict[int, int]] = {8: 1, 20: 0, 24: 0, 28: 772, 32: 0, 36: 0, 44: 0, 48: 0, 60: 0}
_AD_PROTOCOL: Final = 0
_AD_PKTTYPE: Final = 4
_AD_XOR_X: Final = 40
_AD_RANDOM: Final = 56


class SocketFilter:
    """A checked program."""

    def __init__(self, raw: bytes) -> None:
        """Raises LinuxError: EINVAL for what is no program, ENOMEM."""
        count = len(raw) // _INSN.size
        self.held: int = 0
        if not KERNEL_MEMORY.has_room(count * INSN_BYTES):
            raise LinuxError(ENOMEM)
        self.program: list[tuple[int, int, int, int]] = parse(raw)
        self.held = count * INSN_BYTES
        KERNEL_MEMORY.take(self.held)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)

    def run(self, data: bytes, protocol: int = 0, kind: int = 0, network: int = 0) -> int:
        """How many bytes of `data` are kept; `network` is where its network header begins."""
        program = self.program
        memory = [0] * bpf.BPF_MEMWORDS
        a = x = at = 0
        size = len(data)
        while True:
            code, jump_true, jump_false, k = program[at]
            at += 1
            group = code & 7
            if group == bpf.BPF_RET:
                return a if code & 0x18 == bpf.BPF_A else k
            if group == bpf.BPF_JMP:
                operation = code & 0xF0
                right = x if code & bpf.BPF_X else k
                if operation == bpf.BPF_JA:
                    at += k
                elif operation == bpf.BPF_JEQ:
                    at += jump_true if a == right else jump_false
                elif operation == bpf.BPF_JGT:
                    at += jump_true if a > right else jump_false
                elif operation == bpf.BPF_JGE:
                    at += jump_true if a >= right else jump_false
                else:
                    at += jump_true if a & right else jump_false
            elif group == bpf.BPF_ALU:
                operation = code & 0xF0
                if operation == bpf.BPF_NEG:
                    a = -a & _M32
                    continue
                right = x if code & bpf.BPF_X else k
                if right == 0 and operation in (bpf.BPF_DIV, bpf.BPF_MOD):
                    return 0
                a = calculate(operation, a, right)
            elif group == bpf.BPF_LD:
                mode = code & 0xE0
                if mode == bpf.BPF_IMM:
                    a = k
                elif mode == bpf.BPF_MEM:
                    a = memory[k]
                elif mode == bpf.BPF_LEN:
                    a = size
                else:
                    if mode == bpf.BPF_IND:
                        k = k + x & _M32
                    elif k >= _ANCILLARY:
                        a = self._ancillary(k - _ANCILLARY, a, x, protocol, kind)
                        continue
                    if k >= _NETWORK:
                        k = k - _NETWORK + network
                    elif k >= _LINK:
                        k = k - _LINK
                    width = _SIZES[code & 0x18]
                    if k + width > size:
                        return 0
                    a = int.from_bytes(data[k : k + width], "big")
            elif group == bpf.BPF_LDX:
                mode = code & 0xE0
                if mode == bpf.BPF_IMM:
                    x = k
                elif mode == bpf.BPF_MEM:
                    x = memory[k]
                elif mode == bpf.BPF_LEN:
                    x = size
                else:
                    if k >= size:
                        return 0
                    x = (data[k] & 15) << 2
            elif group == bpf.BPF_ST:
                memory[k] = a
            elif group == bpf.BPF_STX:
                memory[k] = x
            elif code & 0xF8 == bpf.BPF_TXA:
                a = x
            else:
                x = a

    @staticmethod
    def _ancillary(name: int, a: int, x: int, protocol: int, kind: int) -> int:
        if name == _AD_PROTOCOL:
            return protocol
        if name == _AD_PKTTYPE:
            return kind
        if name == _AD_XOR_X:
            return a ^ x
        if name == _AD_RANDOM:
            return int.from_bytes(os.urandom(4), "little")
        return _FACTS.get(name, 0)


def parse(raw: bytes) -> list[tuple[int, int, int, int]]:
    """Decode and check an array of struct sock_filter.  Raises LinuxError(EINVAL)."""
    program: list[tuple[int, int, int, int]] = []
    for code, jump_true, jump_false, k in _INSN.iter_unpack(raw):
        program.append((code, jump_true, jump_false, k))
    size = len(program)
    if not 0 < size <= MAX_INSNS:
        raise LinuxError(EINVAL)
    for index in range(size):
        code, jump_true, jump_false, k = program[index]
        if not is_valid(code, jump_true, jump_false, k, size - index - 1):
            raise LinuxError(EINVAL)
    if program[size - 1][0] not in (bpf.BPF_RET | bpf.BPF_K, bpf.BPF_RET | bpf.BPF_A):
        raise LinuxError(EINVAL)
    return program


def is_valid(code: int, jump_true: int, jump_false: int, k: int, left: int) -> bool:
    """Whether an instruction is allowed; `left` is how many follow it."""
    group = code & 7
    if code & ~0xFF:
        return False
    if group == bpf.BPF_LD:
        mode = code & 0xE0
        if mode in (bpf.BPF_ABS, bpf.BPF_IND):
            if code & 0x18 not in _SIZES:
                return False
            if mode == bpf.BPF_ABS and k >= _ANCILLARY:
                name = k - _ANCILLARY
                return name in _FACTS or name in (_AD_PROTOCOL, _AD_PKTTYPE, _AD_XOR_X, _AD_RANDOM)
            return True
        if code & 0x18:
            return False
        return mode in (bpf.BPF_IMM, bpf.BPF_LEN) or (mode == bpf.BPF_MEM and k < bpf.BPF_MEMWORDS)
    if group == bpf.BPF_LDX:
        mode = code & 0xE0
        if mode == bpf.BPF_MSH:
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
