"""Names and constants of x86-64."""

from typing import Final

from cloche.abi.elf import EM_X86_64
from cloche.abi.seccomp import AUDIT_ARCH_X86_64

MACHINE: Final = b"x86_64"  # of uname(2)
PLATFORM: Final = b"x86_64"  # AT_PLATFORM
ELF_MACHINE: Final = EM_X86_64
AUDIT_ARCH: Final = AUDIT_ARCH_X86_64
