"""Signal frames: addresses as Linux chooses them, and the state that a hostile frame can and cannot restore."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.abi.errno import EFAULT, LinuxError
from cloche.abi.signal import SA_ONSTACK, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK
from cloche.arch.x86_64 import sigframe
from cloche.arch.x86_64.registers import Registers
from cloche.arch.x86_64.sigframe import AltStack, SignalFrame

NO_STACK: Final = AltStack(0, 0, SS_DISABLE)


def build(rsp: int, fpstate: bytes = b"", altstack: AltStack = NO_STACK, sa_flags: int = 0) -> SignalFrame:
    regs = Registers()
    regs.rsp = rsp
    regs.rip = 0x401000
    regs.rbx = 77
    regs.eflags = 0x10702
    regs.fs_base = 5
    return sigframe.build(
        regs, fpstate, 10, bytes(128), 0xFF, altstack, 0x402000, sa_flags, 0x403000, 1, 2, 3
    )


@given(st.integers(0x10000, 2**47 - 1), st.integers(1, 3000))
def test_how_long_a_frame_is_from_where_it_is_restored(rsp: int, fp_size: int) -> None:
    """What the stub copies along with rt_sigreturn, whose stack pointer is behind the return address."""
    frame = build(rsp, b"\xaa" * fp_size)
    assert len(frame.data) - 8 == sigframe.length_to_restore(fp_size)


@given(st.integers(0x10000, 2**47 - 1), st.integers(0, 3000))
def test_alignment_and_red_zone(rsp: int, fp_size: int) -> None:
    frame = build(rsp, b"\xaa" * fp_size)
    assert frame.addr % 16 == 8  # as after a call
    assert frame.addr + len(frame.data) <= rsp - 128
    assert frame.regs.rsp == frame.addr
    context = sigframe.parse(frame.data[8:], Registers())
    if fp_size:
        assert context.fpstate_addr % 64 == 0
        start = context.fpstate_addr - frame.addr
        assert frame.data[start:] == b"\xaa" * fp_size
    else:
        assert context.fpstate_addr == 0


def test_registers_of_the_handler() -> None:
    frame = build(0x7FFF0000)
    regs = frame.regs
    assert (regs.rdi, regs.rsi, regs.rdx) == (10, frame.addr + 312, frame.addr + 8)
    assert (regs.rip, regs.rax, regs.rbx, regs.fs_base) == (0x402000, 0, 77, 5)
    assert regs.eflags == 0x202  # no direction, trap or resume flag
    assert frame.data[:8] == (0x403000).to_bytes(8, "little")


def test_round_trip() -> None:
    frame = build(0x7FFF0000, bytes(1024))
    current = Registers()
    current.fs_base = 9
    context = sigframe.parse(frame.data[8 : 8 + sigframe.UCONTEXT_SIZE], current)
    assert (context.regs.rsp, context.regs.rip, context.regs.rbx) == (0x7FFF0000, 0x401000, 77)
    assert context.regs.fs_base == 9
    assert context.mask == 0xFF
    assert (context.stack_sp, context.stack_flags, context.stack_size) == (0, SS_DISABLE, 0)


def test_alternate_stack_is_used_once() -> None:
    stack = AltStack(0x100000, 0x8000, 0)
    first = build(0x7FFF0000, bytes(512), stack, SA_ONSTACK)
    assert 0x100000 < first.addr < 0x108000
    assert first.addr + len(first.data) <= 0x108000
    nested = build(first.addr, b"", stack, SA_ONSTACK)
    assert nested.addr < first.addr - 128
    assert build(0x7FFF0000, b"", stack).addr > 0x108000  # without SA_ONSTACK
    assert stack.state(first.addr) == SS_ONSTACK
    assert stack.state(0x7FFF0000) == 0
    assert NO_STACK.state(0x7FFF0000) == SS_DISABLE


def test_alternate_stack_that_is_too_small() -> None:
    with pytest.raises(LinuxError) as caught:
        build(0x7FFF0000, bytes(4096), AltStack(0x100000, 2048, 0), SA_ONSTACK)
    assert caught.value.errno == EFAULT
    with pytest.raises(LinuxError):
        build(0x100200, b"", AltStack(0x100000, 2048, 0), SA_ONSTACK)  # nested and full


def test_a_disarming_stack_is_entered_again() -> None:
    stack = AltStack(0x100000, 0x8000, SS_AUTODISARM)
    assert not stack.contains(0x104000)
    assert stack.covers(0x104000)
    assert build(0x101000, b"", stack, SA_ONSTACK).addr > 0x107000


def test_no_room_at_all() -> None:
    with pytest.raises(LinuxError):
        build(300)


@given(st.binary(min_size=304, max_size=304))
def test_hostile_frame_cannot_set_privileged_flags(data: bytes) -> None:
    regs = sigframe.parse(data, Registers()).regs
    assert regs.eflags & 0x202 == 0x202
    assert regs.eflags & ~(0x202 | 0x40000 | 0x10000 | 0x800 | 0x400 | 0x100 | 0xD5) == 0


def test_short_frame() -> None:
    with pytest.raises(LinuxError):
        sigframe.parse(bytes(303), Registers())


@pytest.mark.parametrize(
    ("magic", "extended", "xstate", "length"),
    [
        (sigframe.FP_XSTATE_MAGIC1, 836, 832, 836),
        (0, 836, 832, 512),
        (sigframe.FP_XSTATE_MAGIC1, 832, 832, 512),
        (sigframe.FP_XSTATE_MAGIC1, 10**6, 832, 512),
        (sigframe.FP_XSTATE_MAGIC1, 600, 512, 512),
    ],
)
def test_fpstate_length(magic: int, extended: int, xstate: int, length: int) -> None:
    head = bytes(464) + sigframe._SW_BYTES.pack(magic, extended, 7, xstate) + bytes(28)
    assert sigframe.fpstate_length(head) == length
