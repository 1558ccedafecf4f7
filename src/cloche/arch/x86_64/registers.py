"""The general registers of a guest thread.

Owns the order in which registers are copied; a platform fills and reads them.
"""

from typing import Final

# Fields of Registers, in the order of the kernel's struct sigcontext (asm/sigcontext.h), so that a platform
# may copy them in one go: r8 .. r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags.
REG_COUNT: Final = 18


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
