"""The behaviour of every platform, through its interface alone: calls, results, registers and faults of a thread."""

import struct

import pytest
from code_guest import CODE, STACK, Guest
from machine_code import LOOP, REPORT, SYSCALL, jump_to, load, mov, store, syscall, ud2
from relatives import stopped

from cloche.abi.signal import (
    BUS_ADRERR,
    FPE_INTDIV,
    ILL_ILLOPN,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGTRAP,
    TRAP_TRACE,
)
from cloche.platform.interface import (
    EV_FAULT,
    EV_LEFT,
    EV_OPS_DONE,
    EV_OPS_FAILED,
    EV_SYSCALL,
    PF_ARG,
    PF_CSTRING,
    PF_FIXED,
    HostThread,
    Platform,
)

DATA = CODE + 0x1000
GENERAL = "rbx rbp r8 r9 r10 r12 r13 r14 r15 rdi rsi rdx".split()
M64 = (1 << 64) - 1


# ---- calls ----


@pytest.mark.parametrize(
    "args",
    [
        (0, 0, 0, 0, 0, 0),
        (1, 2, 3, 4, 5, 6),
        (-1, -2, -3, -4, -5, -6),
        ((1 << 63) - 1, -(1 << 63), 1 << 32, -(1 << 31), 0xFFFFFFFF, 0x80000000),
        ((1 << 62) - 1, 1 << 62, -(1 << 62), -(1 << 62) - 1, (1 << 61) + 1, -(1 << 61) - 1),
    ],
)
def test_a_call_arrives_with_its_arguments(lab: Guest, args: tuple[int, ...]) -> None:
    thread = lab.start(syscall(39, *args) + syscall(40, *reversed(args)) + syscall(41, *args) + LOOP)
    assert lab.event() == (EV_SYSCALL, thread.ident(), 39, *args)
    thread.ret(0)
    assert lab.event() == (EV_SYSCALL, thread.ident(), 40, *reversed(args))
    thread.ret(0)
    assert lab.platform.next_call(-1) == thread.ident()
    assert lab.platform.call.event(thread.ident()) == (EV_SYSCALL, thread.ident(), 41, *args)
    lab.kill(thread.process())


@pytest.mark.parametrize("number", [0, 1, 59, 231, 333, 470, 1023, 4096, 0x3FFFFFFF])
def test_any_number_arrives(lab: Guest, number: int) -> None:
    thread = lab.start(syscall(number, 7) + REPORT)
    assert lab.call(thread, number)[3] == 7
    thread.ret(-38)
    assert lab.report(thread) == -38
    lab.kill(thread.process())


@pytest.mark.parametrize("result", [0, 1, -1, -38, -4095, (1 << 63) - 1, -(1 << 63), 0x7FFF00000000])
def test_a_result_reaches_the_guest(lab: Guest, result: int) -> None:
    thread = stopped(lab)
    thread.ret(result)
    assert lab.report(thread) == result
    lab.kill(thread.process())


def test_many_calls_in_a_row(lab: Guest) -> None:
    thread = stopped(lab)
    for turn in range(500):
        thread.ret(turn)
        assert lab.report(thread) == turn
    lab.kill(thread.process())


def test_a_thread_runs_only_between_resume_and_event(lab: Guest) -> None:
    thread = stopped(lab)
    assert not thread.is_running()
    assert lab.platform.thread(thread.ident()) is thread
    thread.ret(0)
    lab.report(thread)
    assert not thread.is_running()
    lab.kill(thread.process())


def test_a_call_changes_no_other_register(lab: Guest) -> None:
    """But rcx and r11, which the instruction itself overwrites."""
    values = {name: 0x1111 * (index + 1) for index, name in enumerate(GENERAL)}
    code = b"".join(mov(name, value) for name, value in values.items()) + mov("rax", 500) + SYSCALL
    thread = lab.start(code + mov("rax", 501) + SYSCALL)
    lab.call(thread, 500)
    before = thread.regs()
    assert {name: getattr(before, name) for name in GENERAL} == values
    assert (before.rax, before.rsp, before.rip) == (500, STACK, CODE + len(code))
    assert before.rcx == before.rip
    thread.ret(9)
    lab.call(thread, 501)
    after = thread.regs()
    assert {name: getattr(after, name) for name in GENERAL} == values
    assert after.rsp == STACK
    lab.kill(thread.process())


def test_every_register_can_be_set(lab: Guest) -> None:
    thread = lab.start(syscall(500) + mov("rax", 501) + SYSCALL)
    lab.call(thread, 500)
    regs = thread.regs()
    for index, name in enumerate(GENERAL):
        setattr(regs, name, 0x8000000000000001 + 2 * index)
    regs.rsp = STACK - 64
    regs.fs_base, regs.gs_base = DATA, DATA + 8
    thread.set_regs(regs)
    seen = thread.regs()
    assert all(getattr(seen, name) == getattr(regs, name) for name in (*GENERAL, "rsp", "rip", "fs_base"))
    thread.resume()
    assert lab.event()[:5] == (
        EV_SYSCALL,
        thread.ident(),
        501,
        0x8000000000000001 + 2 * GENERAL.index("rdi") - (1 << 64),
        0x8000000000000001 + 2 * GENERAL.index("rsi") - (1 << 64),
    )
    now = thread.regs()
    assert all(getattr(now, name) == getattr(regs, name) for name in GENERAL)
    assert (now.rsp, now.fs_base, now.gs_base) == (STACK - 64, DATA, DATA + 8)
    lab.kill(thread.process())


def test_a_snapshot_of_registers_does_not_follow(lab: Guest) -> None:
    thread = stopped(lab)
    one, two = thread.regs(), thread.regs()
    one.rbx = 77
    assert two.rbx == thread.regs().rbx != 77
    thread.set_regs(one)
    one.rbx = 78
    assert thread.regs().rbx == 77
    lab.kill(thread.process())


@pytest.mark.parametrize("base", [1 << 47, 1 << 63, M64])
def test_segment_bases_are_user_addresses(lab: Guest, base: int) -> None:
    thread = stopped(lab)
    for name in ("fs_base", "gs_base"):
        regs = thread.regs()
        setattr(regs, name, base)
        with pytest.raises(ValueError):
            thread.set_regs(regs)
    thread.ret(4)
    assert lab.report(thread) == 4
    lab.kill(thread.process())


def test_the_thread_pointer_counts(lab: Guest) -> None:
    code = syscall(39) + bytes.fromhex("64488b042500000000") + REPORT  # mov rax, fs:[0]
    thread = lab.start(code, (4711).to_bytes(8, "little"))
    lab.call(thread, 39)
    regs = thread.regs()
    regs.fs_base = DATA
    thread.set_regs(regs)
    thread.resume()
    assert lab.report(thread) == 4711
    lab.kill(thread.process())


def test_flags_that_a_program_may_not_set(lab: Guest) -> None:
    """IOPL, NT, VM, the I/O flags: what the guest asks for in a frame does not count."""
    thread = stopped(lab)
    regs = thread.regs()
    regs.eflags |= 0x3000 | 1 << 17 | 1 << 19 | 1 << 20
    thread.set_regs(regs)
    thread.resume()
    lab.report(thread)
    assert not thread.regs().eflags & (0x3000 | 1 << 17 | 1 << 19 | 1 << 20)
    assert thread.regs().eflags & 0x200  # interrupts stay on
    lab.kill(thread.process())


def test_a_single_step(lab: Guest) -> None:
    thread = lab.start(syscall(39) + mov("r12", 5) + mov("r13", 6) + REPORT)
    lab.call(thread, 39)
    regs = thread.regs()
    start = regs.rip
    regs.is_stepping = True
    thread.set_regs(regs)
    thread.resume()
    event = lab.event()
    assert event[:4] == (EV_FAULT, thread.ident(), SIGTRAP, TRAP_TRACE)
    regs = thread.regs()
    assert (regs.rip, regs.r12) == (start + 10, 5) and regs.r13 != 6
    regs.is_stepping = False
    regs.rax = 8
    thread.set_regs(regs)
    thread.resume()
    assert lab.report(thread) == 8
    assert thread.regs().r13 == 6
    lab.kill(thread.process())


# ---- faults ----


def fault(lab: Guest, code: bytes, extra: bytes = b"") -> tuple[HostThread, tuple[int, ...]]:
    """(thread, (signal, code, address)) of what code does."""
    thread = lab.start(code, extra)
    event = lab.event()
    assert event[:2] == (EV_FAULT, thread.ident()), event
    return thread, event[2:5]


def test_an_illegal_instruction(lab: Guest) -> None:
    thread, seen = fault(lab, ud2())
    assert seen == (SIGILL, ILL_ILLOPN, CODE)
    assert thread.regs().rip == CODE
    lab.kill(thread.process())


@pytest.mark.parametrize("addr", [0, 8, 0x12345, CODE + 0x4000, STACK])
def test_a_read_of_nothing(lab: Guest, addr: int) -> None:
    thread, seen = fault(lab, load(addr))
    assert seen == (SIGSEGV, SEGV_MAPERR, addr)
    assert thread.regs().rip == CODE + 10  # it can be repeated
    lab.kill(thread.process())


def test_a_write_to_nothing(lab: Guest) -> None:
    thread = lab.start(store(0x12340, 1))
    event = lab.event()
    assert event[:5] == (EV_FAULT, thread.ident(), SIGSEGV, SEGV_MAPERR, 0x12340)
    assert event[5] == 14 and event[6] & 2  # a page fault, by a write
    lab.kill(thread.process())


def test_a_write_to_what_may_only_be_read(lab: Guest) -> None:
    thread = stopped(lab, syscall(39) + store(DATA, 7) + REPORT)
    thread.queue_mprotect(DATA, 4096, 1)
    thread.ret(0)
    event = lab.event()
    assert event[:5] == (EV_FAULT, thread.ident(), SIGSEGV, SEGV_ACCERR, DATA)
    assert event[5] == 14 and event[6] & 6 == 6  # a write, in user mode
    assert thread.process().read(DATA, 8) == bytes(8)
    # As a kernel does that grows an area: mend it, and have the instruction executed again.
    thread.queue_mprotect(DATA, 4096, 3)
    thread.resume()
    assert lab.report(thread) == 7
    assert thread.process().read(DATA, 8) == (7).to_bytes(8, "little")
    lab.kill(thread.process())


def test_execution_of_what_is_not_executable(lab: Guest) -> None:
    thread = stopped(lab, syscall(39) + jump_to(DATA), ud2())
    thread.queue_mprotect(DATA, 4096, 3)
    thread.ret(0)
    event = lab.event()
    assert event[:5] == (EV_FAULT, thread.ident(), SIGSEGV, SEGV_ACCERR, DATA)
    assert thread.regs().rip == DATA
    lab.kill(thread.process())


def test_a_jump_to_nothing(lab: Guest) -> None:
    thread, seen = fault(lab, jump_to(0x10000000))
    assert seen == (SIGSEGV, SEGV_MAPERR, 0x10000000)
    assert thread.regs().rip == 0x10000000
    lab.kill(thread.process())


@pytest.mark.parametrize(
    "code",
    [load(1 << 47), load(1 << 62), bytes.fromhex("f4")],
    ids=["not canonical", "far away", "a privileged instruction"],
)
def test_a_general_protection_fault(lab: Guest, code: bytes) -> None:
    thread, seen = fault(lab, code)
    assert seen == (SIGSEGV, SI_KERNEL, 0)
    lab.kill(thread.process())


def test_a_division_by_zero(lab: Guest) -> None:
    code = mov("rcx", 0) + mov("rdx", 0) + bytes.fromhex("48f7f1")
    thread, seen = fault(lab, code)
    assert seen == (SIGFPE, FPE_INTDIV, CODE + 20)
    lab.kill(thread.process())


def test_a_breakpoint(lab: Guest) -> None:
    thread, seen = fault(lab, bytes.fromhex("cc") + LOOP)
    assert seen[:2] == (SIGTRAP, SI_KERNEL)
    assert thread.regs().rip == CODE + 1
    lab.kill(thread.process())


def test_a_call_from_a_stack_that_is_not_there(lab: Guest) -> None:
    """A system call needs no stack of the guest's; a push does."""
    thread = lab.start(mov("rsp", 0x1000) + syscall(39) + bytes.fromhex("50"))
    lab.call(thread, 39)
    assert thread.regs().rsp == 0x1000
    thread.ret(0)
    assert lab.event()[:5] == (EV_FAULT, thread.ident(), SIGSEGV, SEGV_MAPERR, 0xFF8)
    lab.kill(thread.process())


def test_a_page_behind_the_end_of_its_file(lab: Guest, memory_file: int) -> None:
    thread = stopped(lab, syscall(39) + load(0x700000 + 4096) + REPORT)
    thread.queue_mmap(0x700000, 8192, 3, 0x11, memory_file, 4096 * 3)
    thread.ret(0)
    event = lab.event()
    assert event[:5] == (EV_FAULT, thread.ident(), SIGBUS, BUS_ADRERR, 0x700000 + 4096)
    lab.kill(thread.process())


# ---- floating point ----


def test_fp_state_is_seen_and_set(lab: Guest) -> None:
    code = mov("rax", 0x1122334455667788) + bytes.fromhex("66480f6ec0") + syscall(39)  # movq xmm0, rax
    code += bytes.fromhex("66480f7ec0") + mov("rdi", 0) + REPORT[:-2] + bytes.fromhex("66480f7ec0ebea")
    thread = lab.start(code)
    lab.call(thread, 39)
    state = thread.fpstate()
    assert state[160:168] == (0x1122334455667788).to_bytes(8, "little")
    assert thread.set_fpstate(state[:160] + (42).to_bytes(8, "little") + state[168:])
    thread.ret(0)
    assert lab.report(thread) == 42
    assert thread.fpstate()[160:168] == (42).to_bytes(8, "little")
    assert thread.set_fpstate(b"")  # as a new program begins
    thread.ret(0)
    assert lab.report(thread) == 0
    lab.kill(thread.process())


def test_fp_state_that_is_malformed_changes_nothing(lab: Guest) -> None:
    thread = stopped(lab)
    state = thread.fpstate()
    lies = {
        "too short": state[:-1],
        "too long": state + b"\0",
        "only the legacy area": state[:512],
        "one byte": b"x",
        "other software bytes": state[:464] + bytes(48) + state[512:],
        "a size that is not true": state[:468] + struct.pack("<I", 1 << 30) + state[472:],
        "no magic at the end": state[:-4] + bytes(4),
        "reserved bits of mxcsr": state[:24] + b"\xff\xff\xff\xff" + state[28:],
        "unknown features": state[:512] + struct.pack("<Q", 1 << 62) + state[520:],
        "a compacted layout": state[:520] + struct.pack("<Q", 1 << 63) + state[528:],
    }
    for name, lie in lies.items():
        assert not thread.set_fpstate(lie), name
    assert thread.fpstate() == state
    assert thread.set_fpstate(state)
    lab.kill(thread.process())


# ---- leaving a call, signal frames ----


def left(lab: Guest, thread: HostThread, value: int) -> int:
    """The thread has left its call, with what result."""
    if thread.leave(value):
        return value
    event = lab.event()
    assert event[:2] == (EV_LEFT, thread.ident())
    return event[2]


def test_who_leaves_a_call_is_stopped_with_all_registers(lab: Guest) -> None:
    thread = stopped(lab)
    assert left(lab, thread, 33) == 33
    assert thread.has_all_registers() and not thread.has_orders() and not thread.is_running()
    thread.ret(33)
    assert lab.report(thread) == 33
    lab.kill(thread.process())


def test_orders_are_carried_out_before_a_call_is_left(lab: Guest) -> None:
    thread = stopped(lab)
    thread.queue_mmap(0x700000, 4096, 3, 0x32, -1, 0)
    thread.write(0x700000, b"here")
    assert thread.has_orders() in (True, False)  # not where they are carried out at once
    assert left(lab, thread, 1) == 1
    assert thread.process().read(0x700000, 4) == b"here"
    assert not thread.has_orders()
    lab.kill(thread.process())


def test_a_call_is_left_with_the_registers_as_they_are(lab: Guest) -> None:
    """As behind rt_sigreturn, with orders and without."""
    thread = stopped(lab)
    regs = thread.regs()
    regs.rax = 44
    thread.set_regs(regs)
    for has_orders in (False, True):
        if has_orders:
            thread.queue_mmap(0x700000, 4096, 3, 0x32, -1, 0)
        if not thread.leave_as_is():
            assert lab.event()[:3] == (EV_LEFT, thread.ident(), 0)
        assert thread.regs().rax == 44
        assert thread.has_all_registers() and not thread.has_orders()
    thread.resume()
    assert lab.report(thread) == 44
    lab.kill(thread.process())


def test_a_call_whose_orders_fail_is_not_left(lab: Guest) -> None:
    thread = stopped(lab)
    thread.queue_mprotect(0x700000, 4096, 1)  # nothing is there
    if not thread.leave(0):
        assert lab.event()[:2] == (EV_OPS_FAILED, thread.ident())
    assert left(lab, thread, -12) == -12  # the kernel makes that its result
    thread.ret(-12)
    assert lab.report(thread) == -12
    lab.kill(thread.process())


def test_whoever_leaves_a_call_only_once_is_told_so_once(lab: Guest) -> None:
    """A later interrupt, or the end of operations, is no EV_LEFT."""
    thread = stopped(lab)
    thread.queue_mmap(0x700000, 4096, 3, 0x32, -1, 0)
    left(lab, thread, 1)
    thread.queue_munmap(0x700000, 4096)
    thread.run_ops()
    assert lab.event()[:2] == (EV_OPS_DONE, thread.ident())
    lab.kill(thread.process())


def test_a_call_can_be_repeated(lab: Guest) -> None:
    thread = stopped(lab)
    regs = thread.regs()
    regs.repeat_call(39)
    thread.set_regs(regs)
    thread.resume()
    lab.call(thread, 39)
    thread.ret(2)
    assert lab.report(thread) == 2
    lab.kill(thread.process())


def test_a_handler_runs_on_a_frame_and_returns(lab: Guest) -> None:
    """What a kernel does for a signal: all state is put aside, a handler runs, and all state comes back."""
    handler = CODE + 0x2000
    thread = stopped(lab, mov("rax", 7) + bytes.fromhex("66480f6ec0") + mov("r12", 99) + syscall(39) + REPORT)
    code = mov("rax", 1) + bytes.fromhex("66480f6ec0") + mov("r12", 1) + mov("rax", 15) + SYSCALL
    assert thread.write(handler, code) == len(code)
    assert left(lab, thread, 55) == 55
    before, state = thread.regs(), thread.fpstate()
    frame = before.copy()
    frame.rip, frame.rsp, frame.rdi = handler, before.rsp - 512, 10
    assert thread.write(frame.rsp, b"frame") == 5
    thread.set_regs(frame)
    assert thread.set_fpstate(b"")
    thread.resume()
    assert lab.call(thread, 15)[3] == 10
    assert thread.read(frame.rsp, 5) == b"frame"
    assert thread.regs().r12 == 1 and thread.fpstate()[160] == 1
    thread.set_regs(before)
    assert thread.set_fpstate(state)
    thread.ret(55)
    assert lab.report(thread) == 55
    after = thread.regs()
    assert (after.r12, after.rsp, thread.fpstate()[160]) == (99, before.rsp, 7)
    lab.kill(thread.process())


def test_a_call_that_was_patched_or_not_gives_up_its_registers(lab: Guest) -> None:
    """Whether it has them at once, or when it is left, is the platform's affair."""
    thread = stopped(lab)
    thread.set_patched(True)
    thread.ret(1)
    lab.report(thread)
    assert left(lab, thread, 5) == 5
    regs = thread.regs()
    regs.repeat_call(60)
    thread.set_regs(regs)
    thread.resume()
    lab.report(thread)
    thread.set_patched(False)
    thread.ret(2)
    assert lab.report(thread) == 2
    lab.kill(thread.process())


# ---- hints ----


def test_a_prefetched_argument_is_true(lab: Guest, any_platform: Platform) -> None:
    any_platform.set_prefetch(400, [(PF_CSTRING, 0, 0, 64, 0), (PF_ARG, 1, 2, 1, 64), (PF_FIXED, 3, 0, 8, 0)])
    extra = b"a string\0".ljust(64) + b"argument".ljust(64) + b"fixed---"
    for text, at in ((extra, 0x1000), (extra, 0x2000)):
        thread = lab.start(syscall(400, CODE + at, CODE + at + 64, 8, CODE + at + 128) + REPORT, text)
        lab.call(thread, 400)
        expected = at == 0x1000
        assert thread.read_cstring(CODE + at, 64) == (b"a string" if expected else b"")
        assert thread.read(CODE + at + 64, 8) == (b"argument" if expected else bytes(8))
        assert thread.read(CODE + at + 128, 8) == (b"fixed---" if expected else bytes(8))
        thread.process().write(CODE + at, b"changed!")
        thread.forget_prefetched()
        assert thread.read_cstring(CODE + at, 8) == b"changed!"
        assert thread.read(CODE + at, 8) == b"changed!"
        lab.kill(thread.process())
    any_platform.set_prefetch(400, [])


@pytest.mark.parametrize("where", [0, 0x1234000, CODE + 0x4000 - 4, 1 << 46, 1 << 60, -8])
def test_a_prefetched_argument_that_is_not_there(lab: Guest, any_platform: Platform, where: int) -> None:
    any_platform.set_prefetch(400, [(PF_FIXED, 0, 0, 64, 0), (PF_CSTRING, 1, 0, 64, 0)])
    thread = lab.start(syscall(400, where, where) + REPORT)
    lab.call(thread, 400)
    assert len(thread.read(where, 64)) in (0, 4)
    thread.ret(3)
    assert lab.report(thread) == 3
    any_platform.set_prefetch(400, [])
    lab.kill(thread.process())


def test_answers_are_right_whoever_gives_them(lab: Guest, any_platform: Platform) -> None:
    """The platform may answer getpid and its kin from what it was told, or ask."""
    for is_valid in (True, False):
        thread = lab.start(syscall(500) + syscall(39) + REPORT)
        lab.call(thread, 500)
        thread.set_answers(is_valid, [11, 12, 13, 14, 15, 16, 17])
        thread.ret(0)
        event = lab.event_of(EV_SYSCALL)
        if event[2] == 39:
            thread.ret(11)
            event = lab.event_of(EV_SYSCALL)
        assert event[2:4] == (60, 11)
        lab.kill(thread.process())
