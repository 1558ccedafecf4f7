"""The general registers of a guest thread.

Owns the order in which registers are copied; a platform fills and reads them.  The kernel knows them by what they are
for (`result`, `pc`, `sp`, arguments, ...), never by name: docs/design.md, "arch".
"""

from typing import Final

from cloche.abi.prctl import ARCH_GET_FS, ARCH_SET_FS

# Fields of Registers, in the order of the kernel's struct sigcontext (asm/sigcontext.h), so that a platform
# may copy them in one go: r8 .. r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags.
REG_COUNT: Final = 18

_SYSCALL_BYTES: Final = 2  # length of the instruction that a restart executes again
_FLAG_TRAP: Final = 0x100  # TF
_MASK: Final = 0xFFFFFFFFFFFFFFFF


class Registers:
    """The general registers of a stopped guest thread, as unsigned 64-bit integers, with fs and gs base."""

    def __init__(self) -> None:
        self.r8: int = 0
        self.r9: int = 0
        self.r10: int = 0
        self.r11: int = 0
        self.r12: int = 0
        self.r13: int = 0
        self.r14: int = 0
        self.r15: int = 0
        self.rdi: int = 0
        self.rsi: int = 0
        self.rbp: int = 0
        self.rbx: int = 0
        self.rdx: int = 0
        self.rax: int = 0
        self.rcx: int = 0
        self.rsp: int = 0
        self.rip: int = 0
        self.eflags: int = 0x202
        self.fs_base: int = 0
        self.gs_base: int = 0

    def copy(self) -> "Registers":
        """A copy that does not follow later changes."""
        new = Registers()
        new.assign(self)
        return new

    def assign(self, other: "Registers") -> None:
        """Take over every value of `other`."""
        self.r8 = other.r8
        self.r9 = other.r9
        self.r10 = other.r10
        self.r11 = other.r11
        self.r12 = other.r12
        self.r13 = other.r13
        self.r14 = other.r14
        self.r15 = other.r15
        self.rdi = other.rdi
        self.rsi = other.rsi
        self.rbp = other.rbp
        self.rbx = other.rbx
        self.rdx = other.rdx
        self.rax = other.rax
        self.rcx = other.rcx
        self.rsp = other.rsp
        self.rip = other.rip
        self.eflags = other.eflags
        self.fs_base = other.fs_base
        self.gs_base = other.gs_base

    @property
    def result(self) -> int:
        """What a system call returns, unsigned."""
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
        """Where thread-local storage is (CLONE_SETTLS)."""
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
        """The arguments of the system call that the registers are in (syscall(2)), unsigned."""
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
