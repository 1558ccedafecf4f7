"""The frame that a signal handler finds on its stack: struct rt_sigframe (arch/x86/include/asm/sigframe.h).

Owns its layout and the choice of its address.  Pure functions: the caller writes the bytes into guest memory
and sets the registers, and on rt_sigreturn reads UCONTEXT_SIZE bytes at rsp and gives them to `parse`.

The caller also: checks that the action has SA_RESTORER (without it Linux kills with SIGSEGV on x86-64),
resets an alternate stack that has SS_AUTODISARM after delivery, and on rt_sigreturn loads the FP state and
clears SIGKILL and SIGSTOP from the mask.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EFAULT, LinuxError
from cloche.abi.signal import SA_ONSTACK, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK
from cloche.arch.x86_64.registers import REGS_SIZE, Registers

UC_FP_XSTATE: Final = 1
UC_SIGCONTEXT_SS: Final = 2
UC_STRICT_RESTORE_SS: Final = 4

USER_CS: Final = 0x33
USER_SS: Final = 0x2B

# Flags.
_FLAG_TF: Final = 0x100
_FLAG_DF: Final = 0x400
_FLAG_RF: Final = 0x10000
# What rt_sigreturn may change: AC RF OF DF TF SF ZF AF PF CF (FIX_EFLAGS in asm/sighandling.h).
_FLAGS_RESTORED: Final = 0x40000 | 0x10000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1
_FLAGS_FIXED: Final = 0x202  # IF, and the bit that is always one

# The return address, uc_flags uc_link, uc_stack (sp flags size); registers in the order of Registers; cs gs fs ss,
# err trapno oldmask cr2 fpstate, reserved, uc_sigmask.
_HEAD: Final = Struct("<QQQQixxxxQ")
_TAIL: Final = Struct("<HHHHQQQQQ64xQ")
_STACK: Final = Struct("<QixxxxQ")
_STACK_OFFSET: Final = 16
_REGS_OFFSET: Final = 40
_TAIL_OFFSET: Final = _REGS_OFFSET + REGS_SIZE
_ONE: Final = Struct("<Q")
_TWO: Final = Struct("<QQ")
_THREE: Final = Struct("<QQQ")
UCONTEXT_SIZE: Final = 304
SIGINFO_SIZE: Final = 128
FRAME_SIZE: Final = 440  # return address, ucontext, siginfo
_UCONTEXT_OFFSET: Final = 8
_SIGINFO_OFFSET: Final = 312
_RED_ZONE: Final = 128
# In Registers.raw: rdi rsi, rdx rax, rsp rip eflags.
_RDI_OFFSET: Final = 64
_RDX_OFFSET: Final = 96
_SP_OFFSET: Final = 120
_ADDRESS_MASK: Final = 0xFFFFFFFFFFFFFFFF

# The software-reserved bytes of an FXSAVE image (struct _fpx_sw_bytes, asm/sigcontext.h).
FXSAVE_SIZE: Final = 512
_SW_OFFSET: Final = 464
FP_SIZE_OFFSET: Final = _SW_OFFSET + 4  # of extended_size: the FP state with all that is behind
_SW_BYTES: Final = Struct("<IIQI")
FP_XSTATE_MAGIC1: Final = 0x46505853
FP_XSTATE_MAGIC2: Final = 0x46505845
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_MXCSR_OFFSET: Final = 24  # the mask follows it; 0 means _MXCSR_MASK
_MXCSR_MASK: Final = 0xFFBF
_XCOMP_OFFSET: Final = FXSAVE_SIZE + 8  # XCOMP_BV and what is reserved of the XSAVE header
_XEXTENDED_OFFSET: Final = FXSAVE_SIZE + 56
_NO_XCOMP: Final = bytes(48)
FP_XSTATE_MAX: Final = 16384  # bytes: more than any processor's, AMX included


class AltStack:
    """An alternate signal stack (sigaltstack(2)), never changed; `flags` is SS_DISABLE, SS_AUTODISARM or 0."""

    def __init__(self, sp: int, size: int, flags: int) -> None:
        self.sp: int = sp
        self.size: int = size
        self.flags: int = flags

    def contains(self, sp: int) -> bool:
        """Whether a stack pointer is on it.  Never so with SS_AUTODISARM, as in Linux (on_sig_stack)."""
        if self.flags & SS_AUTODISARM:
            return False
        return self.covers(sp)

    def covers(self, sp: int) -> bool:
        """Whether a stack pointer is within it, regardless of its flags."""
        return self.size != 0 and self.sp < sp <= self.sp + self.size

    def state(self, sp: int) -> int:
        """What sigaltstack(2) reports: SS_DISABLE, SS_ONSTACK or 0."""
        if self.size == 0:
            return SS_DISABLE
        return SS_ONSTACK if self.contains(sp) else 0


class SignalFrame:
    """The frame's address and data, and the registers with which the handler starts."""

    def __init__(self, addr: int, data: bytes, regs: Registers) -> None:
        self.addr: int = addr
        self.data: bytes = data
        self.regs: Registers = regs


class RestoredContext:
    """The context that rt_sigreturn has read from the frame."""

    def __init__(
        self, regs: Registers, fpstate_addr: int, mask: int, stack_sp: int, stack_flags: int, stack_size: int
    ) -> None:
        self.regs: Registers = regs
        self.fpstate_addr: int = fpstate_addr  # 0: the initial FP state
        self.mask: int = mask
        self.stack_sp: int = stack_sp
        self.stack_flags: int = stack_flags
        self.stack_size: int = stack_size


def build(
    regs: Registers,
    fpstate: bytes,
    signo: int,
    siginfo: bytes,
    mask: int,
    altstack: AltStack,
    handler: int,
    sa_flags: int,
    restorer: int,
    trapno: int,
    err: int,
    cr2: int,
) -> SignalFrame:
    """The frame for a handler that interrupts `regs`.

    `fpstate` is the XSAVE image with its software bytes and magic (empty: none is saved), `mask` the signal
    mask to restore, `siginfo` 128 bytes; `trapno`, `err` and `cr2` describe the task's last fault (zero if
    none). Raises EFAULT where the frame would overflow the alternate stack.
    """
    raw = regs.raw
    old_sp, _, eflags = _three(raw, _SP_OFFSET)
    sp = (old_sp - _RED_ZONE) & _ADDRESS_MASK
    nested = altstack.contains(old_sp)
    entering = False
    if sa_flags & SA_ONSTACK and altstack.size and not altstack.contains(sp):
        sp = altstack.sp + altstack.size
        entering = True
    fpstate_addr = 0
    end = sp
    if fpstate:
        fpstate_addr = (sp - len(fpstate)) & ~63
        sp = fpstate_addr
        end = fpstate_addr + len(fpstate)
    addr = ((sp - FRAME_SIZE) & ~15) - 8
    if addr <= 0 or ((nested or entering) and not altstack.covers(addr)):
        raise LinuxError(EFAULT)

    uc_flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
    if fpstate:
        uc_flags |= UC_FP_XSTATE
    head = _HEAD.pack(restorer, uc_flags, 0, altstack.sp, _signed32(altstack.flags), altstack.size)
    tail = _TAIL.pack(USER_CS, 0, 0, USER_SS, err, trapno, mask, cr2, fpstate_addr, mask)
    data = head + raw[:REGS_SIZE] + tail + siginfo
    if fpstate:
        data = data + bytes(fpstate_addr - addr - FRAME_SIZE) + fpstate
    assert addr + len(data) <= end

    new = Registers(
        raw[:_RDI_OFFSET]
        + _TWO.pack(signo, addr + _SIGINFO_OFFSET)
        + raw[_RDI_OFFSET + 16 : _RDX_OFFSET]
        + _TWO.pack(addr + _UCONTEXT_OFFSET, 0)  # and rax
        + raw[_RDX_OFFSET + 16 : _SP_OFFSET]
        + _THREE.pack(addr, handler, eflags & ~(_FLAG_DF | _FLAG_RF | _FLAG_TF))
        + raw[REGS_SIZE:]
    )
    return SignalFrame(addr, data, new)


def _three(raw: bytes, offset: int) -> tuple[int, int, int]:
    found: tuple[int, int, int] = _THREE.unpack_from(raw, offset)
    return found


def parse(data: bytes, current: Registers) -> RestoredContext:
    """The context in `data`, the UCONTEXT_SIZE bytes at rsp when the handler's return called rt_sigreturn.

    `current` gives what a frame does not hold: fs and gs base.  EFAULT if `data` is short (the guest dies
    with SIGSEGV).  Flags that user code may not set are ignored; segments are always the user's.
    """
    if len(data) < UCONTEXT_SIZE:
        raise LinuxError(EFAULT)
    flags: int = _ONE.unpack_from(data, _TAIL_OFFSET - 8)[0]
    stack_sp, stack_flags, stack_size = _stack(data)
    tail: tuple[int, ...] = _TAIL.unpack_from(data, _TAIL_OFFSET)
    raw = (
        data[_REGS_OFFSET : _TAIL_OFFSET - 8]
        + _ONE.pack((flags & _FLAGS_RESTORED) | _FLAGS_FIXED)
        + current.raw[REGS_SIZE:]
    )
    return RestoredContext(Registers(raw), tail[8], tail[9], stack_sp, stack_flags, stack_size)


def _stack(data: bytes) -> tuple[int, int, int]:
    found: tuple[int, int, int] = _STACK.unpack_from(data, _STACK_OFFSET)
    return found


def length_to_restore(fp_length: int) -> int:
    """The size of a frame of `build`, in bytes from rt_sigreturn's stack pointer on, if the program has not moved it.

    The FP state is aligned to 64 bytes and the rest to 16, so their distance is always the same.
    """
    return (FRAME_SIZE + 63 & ~63) + fp_length


def fpstate_length(head: bytes) -> int:
    """Bytes of the FP state whose first FXSAVE_SIZE bytes are `head`, with its extended part if it has one.

    A frame without the magic holds a plain FXSAVE image.  The caller reads that many bytes and gives them to
    the platform, which checks the rest.
    """
    if len(head) < FXSAVE_SIZE:
        raise LinuxError(EFAULT)
    magic, extended_size, _xfeatures, xstate_size = _SW_BYTES.unpack_from(head, _SW_OFFSET)
    if (
        magic != FP_XSTATE_MAGIC1
        or xstate_size < FXSAVE_SIZE + 64
        or xstate_size + 4 > extended_size
        or extended_size > FP_XSTATE_MAX
    ):
        return FXSAVE_SIZE
    length: int = extended_size
    return length


def is_extended(state: bytes) -> bool:
    """Whether an FP state of `fpstate_length` bytes is more than its FXSAVE image.

    Where either magic is missing, Linux loads only the image, and resets the rest (check_xstate_in_sigframe in
    arch/x86/kernel/fpu/signal.c).
    """
    if len(state) <= FXSAVE_SIZE:
        return False
    xstate_size: int = _SW_BYTES.unpack_from(state, _SW_OFFSET)[3]
    return state[xstate_size : xstate_size + 4] == FP_XSTATE_MAGIC2.to_bytes(4, "little")


def can_be_loaded(state: bytes, first: bytes) -> bool:
    """Whether XRSTOR would load an FP state of a signal frame; `first`: one that the processor has saved itself.

    The software-reserved bytes and the magic behind must be the same; of the XSAVE header only features that there are,
    no compacted format, nothing reserved; no reserved bit of MXCSR (Intel SDM 13.4, 13.8).
    """
    if len(state) != len(first) or state[_SW_OFFSET:FXSAVE_SIZE] != first[_SW_OFFSET:FXSAVE_SIZE]:
        return False
    if state[-4:] != first[-4:] or state[_XCOMP_OFFSET:_XEXTENDED_OFFSET] != _NO_XCOMP:
        return False
    (mxcsr,) = _U32.unpack_from(state, _MXCSR_OFFSET)
    (mask,) = _U32.unpack_from(first, _MXCSR_OFFSET + 4)
    (have,) = _U64.unpack_from(state, FXSAVE_SIZE)
    (may,) = _U64.unpack_from(first, _SW_OFFSET + 8)
    return not have & ~may and not mxcsr & ~(mask or _MXCSR_MASK)


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >> 31 & 1 and value > 0 else value
