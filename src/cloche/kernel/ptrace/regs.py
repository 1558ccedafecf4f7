"""The registers of a tracee in the layouts of sys/user.h and of the register sets (arch/x86/kernel/ptrace.c).

The task is in a stop, so its registers are in its slot; `orig_rax` is the kernel's own (`Task.orig_rax`).
The debug registers are those of `watch`.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EFAULT, EINVAL, EIO, LinuxError
from cloche.arch.x86_64.sigframe import FP_XSTATE_MAGIC1, FXSAVE_SIZE, USER_CS, USER_SS
from cloche.kernel.ptrace.watch import set_register
from cloche.kernel.task import Task
from cloche.platform.interface import Registers

NT_PRSTATUS: Final = 1
NT_PRFPREG: Final = 2
NT_X86_XSTATE: Final = 0x202

USER_REGS_SIZE: Final = 216
FPREGS_SIZE: Final = FXSAVE_SIZE
USER_SIZE: Final = 928  # struct user
DEBUGREG_OFFSET: Final = 848
_REGS: Final = Struct("<27Q")
_M64: Final = 0xFFFFFFFFFFFFFFFF
TASK_SIZE_MAX: Final = 0x7FFFFFFFF000
# What a debugger may change in eflags: CF PF AF ZF SF TF DF OF NT RF AC.
_FLAGS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x4000 | 0x10000 | 0x40000
_SW_OFFSET: Final = 464
_SW: Final = Struct("<IIQI")
_XCOMP_END: Final = 576  # legacy area and header
_LEGACY: Final = 416


def pack(regs: Registers, orig_rax: int) -> bytes:
    """struct user_regs_struct."""
    return _REGS.pack(
        regs.r15, regs.r14, regs.r13, regs.r12, regs.rbp, regs.rbx, regs.r11, regs.r10, regs.r9, regs.r8,
        regs.rax, regs.rcx, regs.rdx, regs.rsi, regs.rdi, orig_rax & _M64, regs.rip, USER_CS, regs.eflags,
        regs.rsp, USER_SS, regs.fs_base, regs.gs_base, 0, 0, 0, 0,
    )  # fmt: skip


def read_regs(task: Task) -> bytes:
    """struct user_regs_struct of a stopped task."""
    return pack(task.thread.regs(), task.orig_rax)


def write_regs(task: Task, raw: bytes) -> None:
    """Replace all registers from a struct user_regs_struct.  Raises LinuxError(EIO) for what user code cannot have."""
    v: tuple[int, ...] = _REGS.unpack(raw)
    # Segments: only those of a 64-bit program; a selector that is not the user's is EIO in Linux too.
    if v[17] != USER_CS or v[20] != USER_SS or any(value not in (0, USER_SS) for value in v[23:27]):
        raise LinuxError(EIO)
    if v[21] >= TASK_SIZE_MAX or v[22] >= TASK_SIZE_MAX:
        raise LinuxError(EIO)
    if not task.thread.has_frame():
        raise LinuxError(
            EIO
        )  # in its last stop, inside a call from a patched site: nothing of it would be used
    regs = task.thread.regs()
    regs.r15, regs.r14, regs.r13, regs.r12 = v[0], v[1], v[2], v[3]
    regs.rbp, regs.rbx, regs.r11, regs.r10 = v[4], v[5], v[6], v[7]
    regs.r9, regs.r8, regs.rax, regs.rcx = v[8], v[9], v[10], v[11]
    regs.rdx, regs.rsi, regs.rdi = v[12], v[13], v[14]
    regs.rip, regs.rsp = v[16], v[19]
    regs.eflags = regs.eflags & ~_FLAGS | v[18] & _FLAGS
    regs.fs_base, regs.gs_base = v[21], v[22]
    task.thread.set_regs(regs)
    task.orig_rax = v[15] - (1 << 64) if v[15] >> 63 else v[15]


def peek_user(task: Task, offset: int) -> int:
    """PTRACE_PEEKUSER: a word of struct user.  Raises LinuxError(EIO)."""
    if offset & 7 or offset < 0 or offset >= USER_SIZE:
        raise LinuxError(EIO)
    if offset < USER_REGS_SIZE:
        return int.from_bytes(read_regs(task)[offset : offset + 8], "little")
    if DEBUGREG_OFFSET <= offset < DEBUGREG_OFFSET + 64:
        index = (offset - DEBUGREG_OFFSET) >> 3
        return task.debug_regs[index] if index < len(task.debug_regs) else 0
    return 0


def poke_user(task: Task, offset: int, value: int) -> None:
    """PTRACE_POKEUSER.  Raises LinuxError."""
    if offset & 7 or offset < 0 or offset >= USER_SIZE:
        raise LinuxError(EIO)
    if offset < USER_REGS_SIZE:
        raw = read_regs(task)
        write_regs(task, raw[:offset] + value.to_bytes(8, "little") + raw[offset + 8 :])
        return
    if not DEBUGREG_OFFSET <= offset < DEBUGREG_OFFSET + 64:
        raise LinuxError(EIO)
    set_register(task, (offset - DEBUGREG_OFFSET) >> 3, value)


# -- floating point ------------------------------------------------------------------------------------------


def _state(task: Task) -> bytes:
    if not task.thread.has_frame():
        raise LinuxError(EIO)
    return task.thread.fpstate()


def read_fpregs(task: Task) -> bytes:
    """struct user_fpregs_struct: an FXSAVE image."""
    state = _state(task)
    return state[:_SW_OFFSET].ljust(_SW_OFFSET, b"\0") + bytes(FXSAVE_SIZE - _SW_OFFSET)


def write_fpregs(task: Task, raw: bytes) -> None:
    """Replace the x87 and SSE state.  Raises LinuxError(EINVAL)."""
    state = _state(task)
    new = raw[:_LEGACY] + state[_LEGACY:]
    if len(new) >= _XCOMP_END:
        features = int.from_bytes(new[512:520], "little") | 3
        new = new[:512] + features.to_bytes(8, "little") + new[520:]
    if not task.thread.set_fpstate(new):
        raise LinuxError(EINVAL)


def _software_bytes(state: bytes) -> tuple[int, int]:
    """(features, size of the XSAVE image) as a signal frame states them."""
    if len(state) < FXSAVE_SIZE:
        return 3, len(state)
    magic, _extended, features, size = _SW.unpack_from(state, _SW_OFFSET)
    return (features, min(size, len(state))) if magic == FP_XSTATE_MAGIC1 else (3, FXSAVE_SIZE)


def read_xstate(task: Task) -> bytes:
    """The XSAVE image, with the features of this machine in its software bytes (NT_X86_XSTATE)."""
    state = _state(task)
    features, size = _software_bytes(state)
    head = state[:_SW_OFFSET] + features.to_bytes(8, "little") + bytes(FXSAVE_SIZE - _SW_OFFSET - 8)
    return head + state[FXSAVE_SIZE:size]


def write_xstate(task: Task, raw: bytes) -> None:
    """Replace the whole XSAVE image.  Raises LinuxError(EFAULT) for a part of it, EINVAL for what XRSTOR refuses."""
    state = _state(task)
    _features, size = _software_bytes(state)
    if len(raw) != size:
        raise LinuxError(EFAULT)
    new = raw[:_LEGACY] + state[_LEGACY:FXSAVE_SIZE] + raw[FXSAVE_SIZE:] + state[size:]
    if not task.thread.set_fpstate(new):
        raise LinuxError(EINVAL)


def read_set(task: Task, kind: int) -> bytes:
    """A whole register set.  Raises LinuxError(EINVAL) for one that is not there."""
    if kind == NT_PRSTATUS:
        return read_regs(task)
    if kind == NT_PRFPREG:
        return read_fpregs(task)
    if kind == NT_X86_XSTATE:
        return read_xstate(task)
    raise LinuxError(EINVAL)


def write_set(task: Task, kind: int, raw: bytes) -> None:
    """Replace a register set, or its beginning.  Raises LinuxError."""
    if kind == NT_PRSTATUS:
        write_regs(task, raw + read_regs(task)[len(raw) :])
    elif kind == NT_PRFPREG:
        if len(raw) != FXSAVE_SIZE:
            raise LinuxError(EINVAL)
        write_fpregs(task, raw)
    else:
        write_xstate(task, raw)
