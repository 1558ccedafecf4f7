"""What only the platform kvm has: returns of KVM_RUN, and the filter of its loop.  What it shares is in test_conformance_*."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from code_guest import CODE, MAP_FIXED_ANON, Guest
from machine_code import REPORT, load, mov, store, syscall
from test_filter_account import verdict

from cloche.arch.syscalls import (
    SYS_exit_group,
    SYS_fcntl,
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
from cloche.platform.kvm import Kvm
from cloche.platform.systrap_process import SystrapProcess

HLT: Final = 5  # KVM_EXIT_HLT: ring 0 asks the loop for something
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


def asked(guest: Guest, code: bytes, after: int) -> int:
    """How often ring 0 has asked the loop between the first report of the program and its `after`th after that."""
    thread = guest.start(code + REPORT)
    assert guest.report(thread) >= 0
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    before = process.returns(0)[HLT]
    for turn in range(after):
        thread.ret(turn)
        assert guest.report(thread) == turn
    count = process.returns(0)[HLT] - before
    guest.kill(process)
    return count


def test_calls_cost_no_return(kvm: Kvm) -> None:
    """While the sentry is awake.  It may fall asleep now and then, on a loaded machine more often."""
    assert asked(Guest(kvm), b"", 400) < 200


def test_touching_costs_a_return_for_a_block(kvm: Kvm) -> None:
    """Not for a page: 64 first touches in memory beside the program's own."""
    guest, base = Guest(kvm), CODE + 0x1000000
    touches = b"".join(store(base + 4096 * page, page) for page in range(64))
    thread = guest.start(syscall(39) + touches + load(base + 4096 * 63) + REPORT)
    guest.call(thread, 39)
    thread.queue_mmap(base, 4096 * 64, 3, MAP_FIXED_ANON, -1, 0)
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    before = process.returns(0)[HLT]
    thread.ret(0)
    assert guest.report(thread) == 63
    assert process.returns(0)[HLT] - before <= 3  # the operation, its answer, a bell
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
