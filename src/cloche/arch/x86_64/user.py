"""Registers and FP state in the layouts that a debugger sees: sys/user.h, and the register sets of ptrace(2)
(arch/x86/kernel/ptrace.c, fpu/regset.c).

Pure functions over Registers and over the FP state of a signal frame (an XSAVE image).
"""

from struct import Struct
from typing import Final

from cloche.abi.elf import NT_PRFPREG, NT_PRSTATUS, NT_X86_XSTATE
from cloche.abi.errno import EFAULT, EIO, LinuxError
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.arch.x86_64.registers import Registers
from cloche.arch.x86_64.sigframe import FP_XSTATE_MAGIC1, FXSAVE_SIZE, USER_CS, USER_SS

# The register sets, by their types of ELF notes.
GENERAL_SET: Final = NT_PRSTATUS
FP_SET: Final = NT_PRFPREG
EXTENDED_SET: Final = NT_X86_XSTATE

GENERAL_SIZE: Final = 216  # struct user_regs_struct
FP_SIZE: Final = FXSAVE_SIZE
USER_SIZE: Final = 928  # struct user
DEBUG_OFFSET: Final = 848  # of the debug registers in it
DEBUG_COUNT: Final = 8
_REGS: Final = Struct("<27Q")
_MASK: Final = 0xFFFFFFFFFFFFFFFF
# The bits of eflags that a debugger may change: CF PF AF ZF SF TF DF OF NT RF AC.
_FLAGS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x4000 | 0x10000 | 0x40000
_SW_OFFSET: Final = 464
_SW: Final = Struct("<IIQI")
_XCOMP_END: Final = 576  # legacy area and header
_LEGACY: Final = 416


def pack_general(regs: Registers, number: int) -> bytes:
    """struct user_regs_struct; `number` is that of the system call that the thread is in, or -1."""
    return _REGS.pack(
        regs.r15, regs.r14, regs.r13, regs.r12, regs.rbp, regs.rbx, regs.r11, regs.r10, regs.r9, regs.r8,
        regs.rax, regs.rcx, regs.rdx, regs.rsi, regs.rdi, number & _MASK, regs.rip, USER_CS, regs.eflags,
        regs.rsp, USER_SS, regs.fs_base, regs.gs_base, 0, 0, 0, 0,
    )  # fmt: skip


def check_general(raw: bytes) -> None:
    """Raises LinuxError(EIO) if a struct user_regs_struct has values that user code cannot have."""
    v: tuple[int, ...] = _REGS.unpack(raw)
    # Segments: only those of a 64-bit program; a selector that is not the user's is EIO in Linux too.
    if v[17] != USER_CS or v[20] != USER_SS or any(value not in (0, USER_SS) for value in v[23:27]):
        raise LinuxError(EIO)
    if v[21] >= TASK_SIZE_MAX or v[22] >= TASK_SIZE_MAX:
        raise LinuxError(EIO)


def unpack_general(raw: bytes, regs: Registers) -> int:
    """Put a checked struct user_regs_struct into `regs`; the number of the system call in it."""
    v: tuple[int, ...] = _REGS.unpack(raw)
    regs.r15, regs.r14, regs.r13, regs.r12 = v[0], v[1], v[2], v[3]
    regs.rbp, regs.rbx, regs.r11, regs.r10 = v[4], v[5], v[6], v[7]
    regs.r9, regs.r8, regs.rax, regs.rcx = v[8], v[9], v[10], v[11]
    regs.rdx, regs.rsi, regs.rdi = v[12], v[13], v[14]
    regs.rip, regs.rsp = v[16], v[19]
    regs.eflags = regs.eflags & ~_FLAGS | v[18] & _FLAGS
    regs.fs_base, regs.gs_base = v[21], v[22]
    return v[15] - (1 << 64) if v[15] >> 63 else v[15]


def fp_set(state: bytes) -> bytes:
    """struct user_fpregs_struct, an FXSAVE image, of an FP state."""
    return state[:_SW_OFFSET].ljust(_SW_OFFSET, b"\0") + bytes(FXSAVE_SIZE - _SW_OFFSET)


def with_fp_set(state: bytes, raw: bytes) -> bytes:
    """An FP state with the x87 and SSE registers of a struct user_fpregs_struct."""
    new = raw[:_LEGACY] + state[_LEGACY:]
    if len(new) >= _XCOMP_END:
        features = int.from_bytes(new[512:520], "little") | 3
        new = new[:512] + features.to_bytes(8, "little") + new[520:]
    return new


def _software_bytes(state: bytes) -> tuple[int, int]:
    """(features, size of the XSAVE image) as a signal frame states them."""
    if len(state) < FXSAVE_SIZE:
        return 3, len(state)
    magic, _extended, features, size = _SW.unpack_from(state, _SW_OFFSET)
    return (features, min(size, len(state))) if magic == FP_XSTATE_MAGIC1 else (3, FXSAVE_SIZE)


def extended_set(state: bytes) -> bytes:
    """The XSAVE image of an FP state, with the features of this machine in its software bytes."""
    features, size = _software_bytes(state)
    head = state[:_SW_OFFSET] + features.to_bytes(8, "little") + bytes(FXSAVE_SIZE - _SW_OFFSET - 8)
    return head + state[FXSAVE_SIZE:size]


def with_extended_set(state: bytes, raw: bytes) -> bytes:
    """An FP state with another XSAVE image.  Raises LinuxError(EFAULT) for a part of one."""
    _features, size = _software_bytes(state)
    if len(raw) != size:
        raise LinuxError(EFAULT)
    return raw[:_LEGACY] + state[_LEGACY:FXSAVE_SIZE] + raw[FXSAVE_SIZE:] + state[size:]
