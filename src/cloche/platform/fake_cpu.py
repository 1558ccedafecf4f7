"""A processor for fake guests: the few instructions of x86-64 that the tests of platforms are written in.

Any other instruction is illegal. Faults are those of the host: signal, code, address, number of the trap, error code.
"""

from typing import Final

from cloche.abi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from cloche.abi.signal import (
    FPE_INTDIV,
    ILL_ILLOPN,
    SI_KERNEL,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGTRAP,
    TRAP_TRACE,
)
from cloche.arch.registers import Registers
from cloche.platform.fake_memory import FakeMemory

M64: Final = (1 << 64) - 1
M32: Final = (1 << 32) - 1
_ZERO: Final = 0x40  # ZF
_STEP: Final = 0x100  # TF
_MAY_SET: Final = 0x240DD5  # the flags that a program's own sigreturn may set
_ALWAYS: Final = 0x202
_XMM0: Final = 160  # in the legacy area
# An FP state of the legacy area and the header of XSAVE: the software's bytes say how long it is.
_FP_BYTES: Final = 580
_MAGIC1: Final = 0x46505853
_MAGIC2: Final = 0x46505845
_FEATURES: Final = 3
_MXCSR_MASK: Final = 0xFFFF

RUNNING: Final = 0
SYSCALL: Final = 1
FAULT: Final = 2


def initial_fpstate() -> bytearray:
    """The state that a program begins with."""
    state = bytearray(_FP_BYTES)
    state[0:2] = (0x37F).to_bytes(2, "little")
    state[24:28] = (0x1F80).to_bytes(4, "little")
    state[28:32] = _MXCSR_MASK.to_bytes(4, "little")
    for offset, value, size in (
        (464, _MAGIC1, 4),
        (468, _FP_BYTES, 4),
        (472, _FEATURES, 8),
        (480, 576, 4),
        (576, _MAGIC2, 4),
    ):
        state[offset : offset + size] = value.to_bytes(size, "little")
    return state


class Trouble(Exception):
    """A fault of the current instruction."""

    def __init__(self, signal: int, code: int, addr: int, trap: int, error: int = 0) -> None:
        super().__init__(signal)
        self.signal: int = signal
        self.code: int = code
        self.addr: int = addr
        self.trap: int = trap
        self.error: int = error


class FakeCpu:
    """The registers of a thread, and the execution of its instructions."""

    def __init__(self) -> None:
        self.r: list[int] = [0] * 16  # rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15
        self.rip: int = 0
        self.flags: int = _ALWAYS
        self.fs: int = 0
        self.gs: int = 0
        self.fp: bytearray = initial_fpstate()
        self.fault: Trouble | None = None  # why it stopped with FAULT
        # Of the current instruction:
        self._at: int = 0  # where its next byte is
        self._rex: int = 0
        self._base: int = 0  # of its segment

    def registers(self) -> Registers:
        """A snapshot."""
        regs, r = Registers(), self.r
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi = r[:8]
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15 = r[8:]
        regs.rip, regs.eflags, regs.fs_base, regs.gs_base = self.rip, self.flags, self.fs, self.gs
        return regs

    def load(self, regs: Registers) -> None:
        """Take over registers; flags that a program may not set stay the same."""
        if regs.fs_base >> 47 or regs.gs_base >> 47:
            raise ValueError("fs_base and gs_base must be user addresses")
        self.r = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ]  # fmt: skip
        self.rip, self.fs, self.gs = regs.rip, regs.fs_base, regs.gs_base
        self.flags = regs.eflags & _MAY_SET | _ALWAYS

    def copy(self) -> "FakeCpu":
        """A copy for a new thread."""
        new = FakeCpu()
        new.r = list(self.r)
        new.rip, new.flags, new.fs, new.gs = self.rip, self.flags, self.fs, self.gs
        new.fp = bytearray(self.fp)
        return new

    def run(self, memory: FakeMemory, count: int) -> int:
        """At most `count` instructions: RUNNING, SYSCALL (behind it) or FAULT (before it)."""
        for _ in range(count):
            before = list(self.r)
            stepping = self.flags & _STEP
            try:
                result = self._execute(memory)
            except Trouble as trouble:
                self.r = before
                self.fault = trouble
                return FAULT
            if result != RUNNING:
                return result
            if stepping:
                self.fault = Trouble(SIGTRAP, TRAP_TRACE, self.rip, 1)
                return FAULT
        return RUNNING

    # ---- memory ----

    def _check(self, memory: FakeMemory, addr: int, length: int, prot: int) -> None:
        if (addr + (1 << 47)) & M64 >= 1 << 48:  # not canonical
            raise Trouble(SIGSEGV, SI_KERNEL, 0, 13)
        reach = memory.reach(addr, length, prot)
        if reach == length:
            return
        where = addr + reach
        signal, code = memory.why(where, prot)
        error = 4 | (2 if prot == PROT_WRITE else 0) | (0x10 if prot == PROT_EXEC else 0)
        raise Trouble(
            signal, code, where, 14, error | (1 if memory.pages.get(where // 4096) is not None else 0)
        )

    def _load(self, memory: FakeMemory, addr: int, length: int) -> int:
        self._check(memory, addr, length, PROT_READ)
        return int.from_bytes(memory.read(addr, length), "little")

    def _store(self, memory: FakeMemory, addr: int, value: int, length: int) -> None:
        self._check(memory, addr, length, PROT_WRITE)
        memory.write(addr, (value & (1 << 8 * length) - 1).to_bytes(length, "little"))

    def _fetch(self, memory: FakeMemory, length: int) -> int:
        self._check(memory, self._at, length, PROT_EXEC)
        value = int.from_bytes(memory.read(self._at, length, PROT_EXEC), "little")
        self._at += length
        return value

    def _fetch_signed(self, memory: FakeMemory, length: int) -> int:
        value = self._fetch(memory, length)
        return value - (1 << 8 * length) if value >> (8 * length - 1) else value

    # ---- instructions ----

    def _execute(self, memory: FakeMemory) -> int:
        self._at, self._rex, self._base = self.rip, 0, 0
        op, is_simd = self._fetch(memory, 1), False
        while op in (0x64, 0x65, 0x66, 0xF0):
            if op == 0x64:
                self._base = self.fs
            elif op == 0x65:
                self._base = self.gs
            elif op == 0x66:
                is_simd = True
            op = self._fetch(memory, 1)
        if op & 0xF0 == 0x40:
            self._rex = op
            op = self._fetch(memory, 1)
        if op == 0x0F:
            return self._two_bytes(memory, is_simd)
        size = 8 if self._rex & 8 else 4
        if 0xB8 <= op <= 0xBF:
            self._set(op & 7 | (self._rex & 1) << 3, self._fetch(memory, size), size)
        elif op in (0x01, 0x29, 0x31, 0x39, 0x85, 0x89, 0x8B):
            self._two_operands(memory, op, size)
        elif op in (0xF7, 0xFF):
            if self._one_operand(memory, op, size):
                return RUNNING
        elif op in (0x74, 0x75, 0xEB):
            step = self._fetch_signed(memory, 1)
            if op == 0xEB or bool(self.flags & _ZERO) == (op == 0x74):
                self._at += step
        elif op == 0xE8:
            step = self._fetch_signed(memory, 4)
            self._push(memory, self._at)
            self._at += step
        elif op == 0xC3:
            self._at = self._pop(memory)
        elif 0x50 <= op <= 0x57:
            self._push(memory, self.r[op & 7 | (self._rex & 1) << 3])
        elif 0x58 <= op <= 0x5F:
            self.r[op & 7 | (self._rex & 1) << 3] = self._pop(memory)
        elif op == 0xF4:
            raise Trouble(SIGSEGV, SI_KERNEL, 0, 13)
        elif op == 0xCC:
            self.rip = self._at
            raise Trouble(SIGTRAP, SI_KERNEL, 0, 3)
        elif op != 0x90:
            raise Trouble(SIGILL, ILL_ILLOPN, self.rip, 6)
        self.rip = self._at & M64
        return RUNNING

    def _two_bytes(self, memory: FakeMemory, is_simd: bool) -> int:
        op = self._fetch(memory, 1)
        if op == 0x05:
            self.rip = self._at
            self.r[1], self.r[11] = self.rip, self.flags
            return SYSCALL
        if is_simd and op in (0x6E, 0x7E):  # movq between a general and a vector register
            modrm = self._fetch(memory, 1)
            place, general = _XMM0 + 16 * (modrm >> 3 & 7), modrm & 7 | (self._rex & 1) << 3
            if modrm >> 6 == 3 and self._rex & 8:
                if op == 0x6E:
                    self.fp[place : place + 16] = self.r[general].to_bytes(16, "little")
                    self.fp[512] |= 2
                else:
                    self.r[general] = int.from_bytes(self.fp[place : place + 8], "little")
                self.rip = self._at
                return RUNNING
        raise Trouble(SIGILL, ILL_ILLOPN, self.rip, 6)

    def _set(self, register: int, value: int, size: int) -> None:
        self.r[register] = value & (M64 if size == 8 else M32)

    def _operand(self, memory: FakeMemory, modrm: int) -> int:
        """The address that a ModRM byte gives, or -1 - the number of a register."""
        mode, rm = modrm >> 6, modrm & 7
        if mode == 3:
            return -1 - (rm | (self._rex & 1) << 3)
        if rm == 4:
            if mode or self._fetch(memory, 1) != 0x25:
                raise Trouble(SIGILL, ILL_ILLOPN, self.rip, 6)
            return (self._fetch_signed(memory, 4) + self._base) & M64
        if rm == 5 and mode == 0:
            raise Trouble(SIGILL, ILL_ILLOPN, self.rip, 6)
        step = 0 if mode == 0 else self._fetch_signed(memory, 1 if mode == 1 else 4)
        return (self.r[rm | (self._rex & 1) << 3] + step + self._base) & M64

    def _get(self, memory: FakeMemory, operand: int, size: int) -> int:
        if operand < 0:
            return self.r[-1 - operand] & (M64 if size == 8 else M32)
        return self._load(memory, operand, size)

    def _put(self, memory: FakeMemory, operand: int, value: int, size: int) -> None:
        if operand < 0:
            self._set(-1 - operand, value, size)
        else:
            self._store(memory, operand, value, size)

    def _two_operands(self, memory: FakeMemory, op: int, size: int) -> None:
        modrm = self._fetch(memory, 1)
        register = modrm >> 3 & 7 | (self._rex >> 2 & 1) << 3
        operand = self._operand(memory, modrm)
        mask = M64 if size == 8 else M32
        if op == 0x8B:
            self._set(register, self._get(memory, operand, size), size)
            return
        value = self.r[register] & mask
        if op == 0x89:
            self._put(memory, operand, value, size)
            return
        old = self._get(memory, operand, size)
        if op == 0x01:
            result = old + value & mask
        elif op == 0x31:
            result = old ^ value
        elif op == 0x85:
            result = old & value
        else:
            result = old - value & mask
        if op not in (0x39, 0x85):
            self._put(memory, operand, result, size)
        self._flag(result)

    def _one_operand(self, memory: FakeMemory, op: int, size: int) -> bool:
        """Whether it went to another place."""
        modrm = self._fetch(memory, 1)
        which, operand = modrm >> 3 & 7, self._operand(memory, modrm)
        mask = M64 if size == 8 else M32
        if op == 0xF7 and which == 6:  # rdx:rax by the operand
            divisor = self._get(memory, operand, size)
            total = (self.r[2] & mask) << 8 * size | self.r[0] & mask
            if divisor == 0 or total // divisor > mask:
                raise Trouble(SIGFPE, FPE_INTDIV, self.rip, 0)
            self._set(0, total // divisor, size)
            self._set(2, total % divisor, size)
        elif op == 0xFF and which in (0, 1):
            result = self._get(memory, operand, size) + (1 if which == 0 else -1) & mask
            self._put(memory, operand, result, size)
            self._flag(result)
        elif op == 0xFF and which == 4:
            target = self._get(memory, operand, 8)
            if (target + (1 << 47)) & M64 >= 1 << 48:
                raise Trouble(SIGSEGV, SI_KERNEL, 0, 13)
            self.rip = target
            return True
        else:
            raise Trouble(SIGILL, ILL_ILLOPN, self.rip, 6)
        return False

    def _flag(self, result: int) -> None:
        self.flags = self.flags & ~_ZERO | (0 if result else _ZERO)

    def _push(self, memory: FakeMemory, value: int) -> None:
        addr = self.r[4] - 8 & M64
        self._store(memory, addr, value, 8)
        self.r[4] = addr

    def _pop(self, memory: FakeMemory) -> int:
        value = self._load(memory, self.r[4], 8)
        self.r[4] = self.r[4] + 8 & M64
        return value
