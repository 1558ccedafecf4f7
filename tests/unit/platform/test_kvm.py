"""Parts that only the platform kvm has: returns of KVM_RUN, and the filter of its loop. test_conformance_* have the
shared behaviour.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from code_guest import CODE, MAP_FIXED_ANON, SECOND, Guest
from machine_code import REPORT, SYSCALL, load, mov, store, syscall
from relatives import stopped
from test_filter_account import verdict

from cloche.arch.syscalls import (
    SYS_exit,
    SYS_exit_group,
    SYS_fcntl,
    SYS_getpid,
    SYS_getppid,
    SYS_ioctl,
    SYS_kill,
    SYS_madvise,
    SYS_mmap,
    SYS_socket,
    SYS_tgkill,
)
from cloche.arch.x86_64 import syscalls
from cloche.platform import filter, layout
from cloche.platform.choose import problem
from cloche.platform.interface import EV_NONE, EV_STARTED, EV_SYSCALL
from cloche.platform.kvm import Kvm
from cloche.platform.systrap_process import SystrapProcess

HLT: Final = 5  # KVM_EXIT_HLT: ring 0 asks the loop for something
BESIDE: Final = CODE + 0x1000000
TURNS: Final = 200
MIB: Final = 1 << 20
MAP_NORESERVE: Final = 0x4000
M64: Final = (1 << 64) - 1


@pytest.fixture(scope="module")
def kvm() -> Iterator[Kvm]:
    lacks = problem("kvm")
    if lacks:
        pytest.skip(lacks)
    made = Kvm("strict")
    made.start()
    yield made
    made.shutdown()


def fewest_asked(kvm: Kvm, turn: bytes) -> int:
    """How often ring 0 asks the loop for something in a turn, which ends with a call; where it does so least.

    A turn finds in rbx what the last one left, at first the beginning of memory that has just been mapped.  The sentry
    may fall asleep now and then, on a loaded machine more often, and has to be woken then: so of many turns there is one
    in which it does not, and only what the turn itself asks for is counted.
    """
    guest = Guest(kvm)
    call = turn + bytes.fromhex("4889df") + mov("rax", SYS_exit) + SYSCALL  # exit(rbx)
    again = b"\xe9" + (-len(call) - 5).to_bytes(4, "little", signed=True)
    thread = guest.start(syscall(SYS_getpid) + mov("rbx", BESIDE) + call + again)
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    guest.call(thread, SYS_getpid)
    thread.queue_mmap(BESIDE, TURNS * MIB, 3, MAP_FIXED_ANON, -1, 0)
    thread.ret(0)
    guest.report(thread)
    found: list[int] = []
    while len(found) < TURNS and 0 not in found:
        before = process.returns(0)[HLT]
        thread.ret(0)
        guest.report(thread)
        found.append(process.returns(0)[HLT] - before)
    assert process.returns(0)[HLT] > 0  # it is counted at all: the mapping was one
    guest.kill(process)
    return min(found)


def test_calls_cost_no_return(kvm: Kvm) -> None:
    """While the sentry is awake."""
    assert fewest_asked(kvm, b"") == 0


def test_first_touches_cost_no_return(kvm: Kvm) -> None:
    """In a block that has memory, that of the program's own text: 16 pages a turn that were never touched."""
    assert CODE >> 30 == BESIDE >> 30
    touch = bytes.fromhex("c60301") + bytes.fromhex("4881c300100000")  # [rbx] = 1; rbx += 4096
    assert fewest_asked(kvm, touch * 16) == 0


def test_a_first_touch_in_another_block_is_counted(kvm: Kvm) -> None:
    """What the other tests find 0 of: each turn touches a block without memory."""
    far = bytes.fromhex("c60301") + mov("rcx", 1 << 30) + bytes.fromhex("4801cb")  # [rbx] = 1; rbx += rcx
    guest = Guest(kvm)
    thread = guest.start(syscall(SYS_getpid) + mov("rbx", 1 << 40) + far * 3 + REPORT)
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    guest.call(thread, SYS_getpid)
    thread.queue_mmap(1 << 40, 4 << 30, 3, MAP_FIXED_ANON | MAP_NORESERVE, -1, 0)
    before = process.returns(0)[HLT]
    thread.ret(0)
    guest.report(thread)
    assert process.returns(0)[HLT] - before >= 3
    guest.kill(process)


def test_addresses_of_ring_0_are_not_read_for_a_program(kvm: Kvm) -> None:
    """A call's argument may point there: what is copied along must not come from there."""
    guest = Guest(kvm)
    kvm.set_prefetch(1, [(2, 1, 0, 64, 0)])  # write: 64 bytes at the second argument
    for addr in (layout.REGION_BASE, layout.RING0_BASE, layout.STUB_BASE, layout.LOOP_DATA_BASE):
        thread = guest.start(syscall(1, 1, addr, 64) + REPORT)
        guest.call(thread, 1)
        assert thread.read(addr, 8) == b""
        guest.kill(thread.process())
    kvm.set_prefetch(1, [])


def test_ring_0_cannot_be_entered(kvm: Kvm) -> None:
    """A program that jumps there, or touches what is there, is told of a fault."""
    guest = Guest(kvm)
    for code in (
        load(layout.RING0_BASE),
        store(layout.REGION_BASE, 1),
        mov("rax", layout.STUB_BASE) + bytes.fromhex("ffe0"),
    ):
        thread = guest.start(code)
        event = guest.event_of()
        assert event[0] == 2 and event[2] == 11, event  # EV_FAULT, SIGSEGV
        guest.kill(thread.process())


def test_stops_by_the_host_break_nothing_off(kvm: Kvm) -> None:
    """Neither a wait (restart_syscall) nor what makes a child's machine: parent and child are stopped and continued until both
    have reported.  A process for which that was too much has died by SIGSYS.
    """
    guest = Guest(kvm)
    parent = stopped(guest)
    for turn in range(30):
        child = parent.queue_fork().main_thread()
        parent.ret(turn)
        found: dict[int, int] = {}
        while len(found) < 2:
            for process in (parent.process(), child.process()):
                if process.pause():
                    process.proceed()
            event = kvm.next_event(SECOND // 2000)
            assert event[0] in (EV_NONE, EV_STARTED, EV_SYSCALL), event
            if event[0] == EV_SYSCALL:
                found[event[1]] = event[3]
        assert found == {parent.ident(): turn, child.ident(): 0}
        guest.kill(child.process())
    guest.kill(parent.process())


# ---- the filter ----


def passes(number: int, *args: int) -> bool:
    found = set()
    for is_direct in (False, True):
        code = filter.build(is_direct, is_kvm=True)
        found.add(verdict(code, number, (*args, *[0] * (6 - len(args))), layout.STUB_BASE))
        assert verdict(code, number, (*args, *[0] * (6 - len(args))), CODE) == filter.RET_TRAP
    return found == {filter.RET_ALLOW}


def test_commands_of_kvm_go_by_descriptor() -> None:
    commands = {
        layout.KVM_FD: [filter.KVM_CREATE_VM],
        layout.VM_FD: list(filter.VM_COMMANDS.values()),
        layout.FIRST_CPU_FD: list(filter.CPU_COMMANDS.values()),
        layout.FIRST_CPU_FD + 900: list(filter.CPU_COMMANDS.values()),
    }
    every = [command for some in commands.values() for command in some]
    every += [
        0xAE03,
        0xAEA0,
        0x5401,
        0x4010AE67,
        0,
    ]  # CHECK_EXTENSION, KVM_NMI's neighbour, TCGETS, IRQFD, nothing
    for fd in (*range(10), 23, 24, 63, 64, 964):
        for command in every:
            assert passes(SYS_ioctl, fd, command) == (command in commands.get(fd, [])), (fd, hex(command))


def test_the_page_lists_what_can_be_reached() -> None:
    """docs/kvm.md: commands by descriptor; and calls that pass or are notified, for each platform."""
    text = (Path(__file__).parents[3] / "docs" / "kvm.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    said = {row[0]: row[1] for row in rows if len(row) == 2}
    assert said["the machine"].split(", ") == list(filter.VM_COMMANDS)
    assert said["a virtual processor"].split(", ") == list(filter.CPU_COMMANDS)
    assert said["/dev/kvm"] == "CREATE_VM"
    by_call = {name: row[1:] for row in rows if len(row) == 3 for name in row[0].split(", ")}
    numbers = {name[4:]: number for name, number in vars(syscalls).items() if name.startswith("SYS_")}
    for column, is_kvm in enumerate((False, True)):
        code = filter.build(False, is_kvm=is_kvm)
        tries = [
            (0,) * 6,
            (layout.BELL_ARG0, layout.BELL_ARG1, 0, 0, 0, 0),
            (6, 0xAE01, 0, 0, 0, 0),
            (6, 1030, 64, 0, 0, 0),
        ]
        for name, number in numbers.items():
            found = {verdict(code, number, args, layout.STUB_BASE) for args in tries}
            is_reachable = bool(found & {filter.RET_ALLOW, filter.RET_USER_NOTIF})
            assert is_reachable == (by_call.get(name, ["-", "-"])[column] != "-"), (name, is_kvm, found)


def test_what_else_the_loop_may_do() -> None:
    run, size = layout.LOOP_RUNS_BASE, 1 << layout.LOOP_SHIFT
    assert passes(SYS_mmap, run, size, 3, 0x11, 64, 0)
    assert passes(SYS_madvise, run, size, 10)
    assert passes(SYS_fcntl, 5, 1030, 64)
    assert passes(SYS_exit_group, 0)
    for call in (
        (SYS_mmap, run, size, 7, 0x11, 64, 0),  # executable
        (SYS_mmap, run, size, 3, 0x12, 64, 0),  # private
        (SYS_mmap, run, size, 3, 0x11, 63, 0),  # no virtual CPU's descriptor
        (SYS_mmap, run, size, 3, 0x11, M64, 0),
        (SYS_mmap, run, 2 * size, 3, 0x11, 64, 0),
        (SYS_mmap, layout.LOOP_DATA_BASE, size, 3, 0x11, 64, 0),
        (SYS_mmap, 0x10000, size, 3, 0x11, 64, 0),
        (SYS_madvise, 0x10000, size, 10),
        (SYS_madvise, run, size, 4),
        (SYS_fcntl, 5, 1030, 0),
        (SYS_fcntl, 5, 0, 64),
        (SYS_getppid,),
        (SYS_kill, 1, 9),
        (SYS_tgkill, 1, 1, 23),
        (SYS_socket, 1, 1, 0),
    ):
        assert not passes(*call), call
