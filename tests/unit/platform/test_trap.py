"""The trap path: a guest's syscalls arrive as events with their arguments, and replies reach it."""

from code_guest import CODE, STACK, Guest
from machine_code import SYSCALL, mov, syscall, ud2

from cloche.platform.interface import EV_FAULT, EV_SYSCALL


def test_syscalls_arrive_with_arguments(guest: Guest) -> None:
    thread = guest.start(syscall(1, -1, CODE + 0x1000, 5, 4, 5, 6) + ud2(), b"hello")
    assert guest.event() == (EV_SYSCALL, thread.ident(), 1, -1, CODE + 0x1000, 5, 4, 5, 6)
    assert thread.read(CODE + 0x1000, 5) == b"hello"
    regs = thread.regs()
    assert (regs.rax, regs.rsp, regs.rsi) == (1, STACK, CODE + 0x1000)
    guest.kill(thread.process())


def test_result_reaches_the_guest(guest: Guest) -> None:
    # exit(getpid() + ...): the second call's argument is the first one's result.
    thread = guest.start(syscall(39) + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL)
    assert guest.event()[2] == 39
    thread.ret(1234567)
    event = guest.event()
    assert event[2:4] == (60, 1234567)
    guest.kill(thread.process())


def test_negative_result(guest: Guest) -> None:
    thread = guest.start(syscall(39) + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL)
    guest.event()
    thread.ret(-38)
    assert guest.event()[2:4] == (60, -38)
    guest.kill(thread.process())


def test_illegal_instruction_is_a_fault(guest: Guest) -> None:
    thread = guest.start(ud2())
    assert guest.event()[:5] == (EV_FAULT, thread.ident(), 4, 2, CODE)
    guest.kill(thread.process())


def test_segv_address(guest: Guest) -> None:
    thread = guest.start(bytes.fromhex("48890425") + (0x12345).to_bytes(4, "little"))
    assert guest.event()[:5] == (EV_FAULT, thread.ident(), 11, 1, 0x12345)
    guest.kill(thread.process())


def test_segment_bases(guest: Guest) -> None:
    # mov rax, fs:[0]; then getpid with the value as first argument
    code = syscall(39) + bytes.fromhex("64488b3c2500000000") + mov("rax", 60) + SYSCALL
    thread = guest.start(code, b"\x2a\0\0\0\0\0\0\0")
    guest.event()
    regs = thread.regs()
    regs.fs_base = CODE + 0x1000
    regs.rax = 0
    thread.set_regs(regs)
    thread.resume()
    assert guest.event()[2:4] == (60, 42)
    assert thread.regs().fs_base == CODE + 0x1000
    guest.kill(thread.process())


def test_many_round_trips(guest: Guest) -> None:
    # loop: getppid; jmp loop
    thread = guest.start(mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2"))
    for i in range(2000):
        event = guest.event()
        assert event[:3] == (EV_SYSCALL, thread.ident(), 110)
        thread.ret(i)
    guest.event()
    guest.kill(thread.process())
