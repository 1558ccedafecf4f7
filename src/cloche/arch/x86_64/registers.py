"""The general registers of a guest thread.

Owns the order in which registers are copied; a platform fills and reads them. The kernel uses their roles (`result`,
`pc`, `sp`, arguments, ...), never their names: docs/design.md, "arch".
"""

from struct import Struct
from typing import Final

from cloche.abi.prctl import ARCH_GET_FS, ARCH_SET_FS

# Fields of Registers, in the order of the kernel's struct sigcontext (asm/sigcontext.h), so that platforms and signal
# frames can copy them as one block: r8 .. r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags.
REG_COUNT: Final = 18
REGS_SIZE: Final = 8 * REG_COUNT  # the part that a signal frame has; fs and gs base follow it

_SYSCALL_BYTES: Final = 2  # length of the instruction that a restart executes again
_FLAG_TRAP: Final = 0x100  # TF
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_WORD: Final = Struct("<Q")
_FIRST: Final = bytes(8 * 17) + _WORD.pack(0x202) + bytes(16)


class Registers:
    """The general registers of a stopped guest thread, as unsigned 64-bit integers, with fs and gs base.

    Stored as the bytes in which they are copied, because few of the twenty are ever read.
    """

    def __init__(self, raw: bytes = _FIRST) -> None:
        self.raw: bytes = raw

    def copy(self) -> "Registers":
        """A copy that does not follow later changes."""
        return Registers(self.raw)

    def _get(self, index: int) -> int:
        value: int = _WORD.unpack_from(self.raw, 8 * index)[0]
        return value

    def _set(self, index: int, value: int) -> None:
        at, raw = 8 * index, self.raw
        self.raw = raw[:at] + _WORD.pack(value & _MASK) + raw[at + 8 :]

    @property
    def r8(self) -> int:
        return self._get(0)

    @r8.setter
    def r8(self, value: int) -> None:
        self._set(0, value)

    @property
    def r9(self) -> int:
        return self._get(1)

    @r9.setter
    def r9(self, value: int) -> None:
        self._set(1, value)

    @property
    def r10(self) -> int:
        return self._get(2)

    @r10.setter
    def r10(self, value: int) -> None:
        self._set(2, value)

    @property
    def r11(self) -> int:
        return self._get(3)

    @r11.setter
    def r11(self, value: int) -> None:
        self._set(3, value)

    @property
    def r12(self) -> int:
        return self._get(4)

    @r12.setter
    def r12(self, value: int) -> None:
        self._set(4, value)

    @property
    def r13(self) -> int:
        return self._get(5)

    @r13.setter
    def r13(self, value: int) -> None:
        self._set(5, value)

    @property
    def r14(self) -> int:
        return self._get(6)

    @r14.setter
    def r14(self, value: int) -> None:
        self._set(6, value)

    @property
    def r15(self) -> int:
        return self._get(7)

    @r15.setter
    def r15(self, value: int) -> None:
        self._set(7, value)

    @property
    def rdi(self) -> int:
        return self._get(8)

    @rdi.setter
    def rdi(self, value: int) -> None:
        self._set(8, value)

    @property
    def rsi(self) -> int:
        return self._get(9)

    @rsi.setter
    def rsi(self, value: int) -> None:
        self._set(9, value)

    @property
    def rbp(self) -> int:
        return self._get(10)

    @rbp.setter
    def rbp(self, value: int) -> None:
        self._set(10, value)

    @property
    def rbx(self) -> int:
        return self._get(11)

    @rbx.setter
    def rbx(self, value: int) -> None:
        self._set(11, value)

    @property
    def rdx(self) -> int:
        return self._get(12)

    @rdx.setter
    def rdx(self, value: int) -> None:
        self._set(12, value)

    @property
    def rax(self) -> int:
        return self._get(13)

    @rax.setter
    def rax(self, value: int) -> None:
        self._set(13, value)

    @property
    def rcx(self) -> int:
        return self._get(14)

    @rcx.setter
    def rcx(self, value: int) -> None:
        self._set(14, value)

    @property
    def rsp(self) -> int:
        return self._get(15)

    @rsp.setter
    def rsp(self, value: int) -> None:
        self._set(15, value)

    @property
    def rip(self) -> int:
        return self._get(16)

    @rip.setter
    def rip(self, value: int) -> None:
        self._set(16, value)

    @property
    def eflags(self) -> int:
        return self._get(17)

    @eflags.setter
    def eflags(self, value: int) -> None:
        self._set(17, value)

    @property
    def fs_base(self) -> int:
        return self._get(18)

    @fs_base.setter
    def fs_base(self, value: int) -> None:
        self._set(18, value)

    @property
    def gs_base(self) -> int:
        return self._get(19)

    @gs_base.setter
    def gs_base(self, value: int) -> None:
        self._set(19, value)

    @property
    def result(self) -> int:
        """The result register of a system call, unsigned."""
        return self.rax

    @result.setter
    def result(self, value: int) -> None:
        self.rax = value & _MASK

    @property
    def pc(self) -> int:
        """The address of the next instruction."""
        return self.rip

    @pc.setter
    def pc(self, value: int) -> None:
        self.rip = value

    @property
    def sp(self) -> int:
        """The stack pointer."""
        return self.rsp

    @sp.setter
    def sp(self, value: int) -> None:
        self.rsp = value

    @property
    def thread_pointer(self) -> int:
        """The address of thread-local storage (CLONE_SETTLS)."""
        return self.fs_base

    @thread_pointer.setter
    def thread_pointer(self, value: int) -> None:
        self.fs_base = value

    @property
    def is_stepping(self) -> bool:
        """Whether the thread traps after one instruction."""
        return self.eflags & _FLAG_TRAP != 0

    @is_stepping.setter
    def is_stepping(self, value: bool) -> None:
        self.eflags = self.eflags | _FLAG_TRAP if value else self.eflags & ~_FLAG_TRAP

    def call_arguments(self) -> tuple[int, int, int, int, int, int]:
        """The arguments of the present system call (syscall(2)), unsigned."""
        return self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9

    def repeat_call(self, number: int) -> None:
        """Have the system call instruction executed again, for call `number`."""
        self.rax = number & _MASK
        self.rip = (self.rip - _SYSCALL_BYTES) & _MASK

    def base(self, code: int) -> int:
        """The segment base that ARCH_GET_FS or ARCH_GET_GS of arch_prctl(2) asks for."""
        return self.fs_base if code == ARCH_GET_FS else self.gs_base

    def set_base(self, code: int, address: int) -> None:
        """ARCH_SET_FS or ARCH_SET_GS of arch_prctl(2)."""
        if code == ARCH_SET_FS:
            self.fs_base = address
        else:
            self.gs_base = address
