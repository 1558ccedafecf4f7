"""Windows and descriptors that threads of a process share (csrc/host/sharing.c): never used before they exist, never
exchanged while they are needed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_guest import MAP_FIXED_ANON, STACK, Guest
from machine_code import SYSCALL, mov, syscall

from cloche.abi.mman import MAP_FIXED, MAP_PRIVATE
from cloche.platform.interface import EV_CUT, EV_OPS_FAILED, EV_STARTED, EV_SYSCALL, HostThread
from cloche.platform.systrap import Systrap

# exit(last result) for ever
ANSWER = bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL + bytes.fromhex("ebef")
BIG = 0x10000000
LENGTH = 300_000  # the second read of it in a row makes a file worth a window
MANY = 24  # more than there are windows, or kept descriptors
KINDS = (EV_SYSCALL, EV_OPS_FAILED, EV_CUT)


class Files:
    """Host files that each consist of one byte, their number + 1."""

    def __init__(self, folder: Path) -> None:
        self.fds: list[int] = []
        for number in range(MANY + 1):
            (folder / str(number)).write_bytes(bytes([number + 1]) * LENGTH)
            self.fds.append(os.open(folder / str(number), os.O_RDONLY))
        Files.given += MANY + 1
        self.first_key = Files.given

    given = 1000

    def read(self, thread: HostThread, number: int, addr: int, length: int = LENGTH) -> None:
        """Promise `thread` the file at `addr`."""
        key = self.first_key + number
        assert thread.read_fd_into(self.fds[number], 0, addr, length, 0, key) == length

    def map(self, thread: HostThread, number: int, addr: int) -> None:
        thread.queue_mmap(addr, 4096, 1, MAP_PRIVATE | MAP_FIXED, self.fds[number], 0)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


def pair(guest: Guest) -> tuple[HostThread, HostThread]:
    """Two stopped threads of a process with room at BIG."""
    main = guest.start(syscall(56) + ANSWER)
    guest.event()
    main.queue_mmap(BIG, 0x4000000, 3, MAP_FIXED_ANON, -1, 0)
    main.ret(0)
    guest.event()
    thread = main.queue_clone_thread()
    regs = thread.regs()
    regs.rsp = STACK - 0x8000
    thread.set_regs(regs)
    main.ret(0)
    guest.event(), guest.event()
    return main, thread


def go(guest: Guest, *threads: HostThread) -> None:
    for thread in threads:
        thread.ret(0)
        event = guest.event_of(*KINDS)
        assert event[0] == EV_SYSCALL and event[3] == 0, event


def warm(guest: Guest, files: Files, thread: HostThread, number: int, addr: int) -> None:
    """Read the file so much that it gets a window, or would."""
    for _turn in range(3):
        files.read(thread, number, addr)
        go(guest, thread)
        assert shows(thread, number, addr)


def shows(thread: HostThread, number: int, addr: int, length: int = LENGTH) -> bool:
    return thread.process().read(addr, length) == bytes([number + 1]) * length


def test_a_window_is_not_used_before_it_is_there(guest: Guest, files: Files) -> None:
    one, two = pair(guest)
    files.read(one, 0, BIG)
    go(guest, one)
    files.read(one, 0, BIG)
    files.read(two, 0, BIG + 0x100000)
    go(guest, two)
    assert shows(two, 0, BIG + 0x100000)
    go(guest, one)
    assert shows(one, 0, BIG)
    files.read(two, 0, BIG + 0x200000)
    go(guest, two)
    assert shows(two, 0, BIG + 0x200000)
    guest.kill(one.process())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_window_stays_while_a_thread_needs_it(guest: Guest, files: Files, is_there: bool) -> None:
    one, two = pair(guest)
    files.read(one, MANY, BIG)
    go(guest, one)
    if is_there:
        files.read(one, MANY, BIG)
        go(guest, one)
    files.read(one, MANY, BIG)
    for number in range(MANY):
        # So little that it goes by the slot: else the deferred copies of `one` would be carried out
        for _turn in range(6):
            files.read(two, number, BIG + 0x100000, 65536)
            go(guest, two)
    go(guest, one)
    assert shows(one, MANY, BIG)
    guest.kill(one.process())


def test_more_files_in_a_call_than_windows(guest: Guest, files: Files) -> None:
    one, _two = pair(guest)
    for number in range(MANY):
        warm(guest, files, one, number, BIG)
    for _turn in range(2):
        for number in range(MANY):
            files.read(one, number, BIG + number * 0x80000)
        go(guest, one)
        for number in range(MANY):
            assert shows(one, number, BIG + number * 0x80000)
    guest.kill(one.process())


def test_a_child_has_what_was_there_when_it_was_born(guest: Guest, files: Files) -> None:
    one, two = pair(guest)
    for number in range(4):
        warm(guest, files, one, number, BIG)
    process = one.queue_fork()
    for number in range(4, MANY):  # meanwhile others come into their places, one of them not yet
        warm(guest, files, two, number, BIG)
    files.read(two, MANY, BIG)
    go(guest, two)
    files.read(two, MANY, BIG)
    one.ret(0)
    seen = [guest.event_of(EV_SYSCALL, EV_STARTED)[0] for _ in range(3)]
    assert sorted(seen) == [EV_SYSCALL, EV_SYSCALL, EV_STARTED]
    child = process.main_thread()
    for number in range(MANY + 1):
        warm(guest, files, child, number, BIG)
    guest.kill(process)
    guest.kill(one.process())


def test_a_mapping_that_is_refused(guest: Guest, files: Files) -> None:
    """Its thread is told, and reads in another way; windows that are there stay."""
    one, two = pair(guest)
    warm(guest, files, one, 0, BIG)
    files.read(one, 1, BIG)
    go(guest, one)
    files.read(one, 1, BIG)
    one.queue_mprotect(0x20000000, 4096, 3)  # fails: nothing is there
    one.ret(0)
    assert guest.event()[0] == EV_OPS_FAILED
    files.read(one, 1, BIG)
    files.read(two, 0, BIG + 0x100000)
    go(guest, one, two)
    assert shows(one, 1, BIG) and shows(two, 0, BIG + 0x100000)
    guest.kill(one.process())


def test_a_file_that_is_cut_off_between(guest: Guest, tmp_path: Path) -> None:
    one, two = pair(guest)
    (tmp_path / "f").write_bytes(b"a" * LENGTH)
    fd = os.open(tmp_path / "f", os.O_RDWR)
    for thread in (one, two, one, two):
        assert thread.read_fd_into(fd, 0, BIG, LENGTH, 0, 7) == LENGTH
        go(guest, thread)
    for length in (100_000, 4096, 0):
        assert two.read_fd_into(fd, 0, BIG, 65536, 0, 7) == min(65536, os.fstat(fd).st_size)
        os.ftruncate(fd, length)
        two.ret(1)
        event = guest.event()
        if event[0] == EV_CUT:
            assert two.read_fd_into(fd, 0, BIG, 65536, 0, 7) == length
            two.ret(1)
            event = guest.event()
        assert event[2:4] == (60, 1)
    os.close(fd)
    guest.kill(one.process())


def test_a_kept_descriptor_stays_while_a_thread_needs_it(guest: Guest, files: Files) -> None:
    one, two = pair(guest)
    files.map(one, MANY, BIG)
    go(guest, one)
    files.map(one, MANY, BIG)
    for number in range(MANY):
        files.map(two, number, BIG + 4096)
        go(guest, two)
        assert shows(two, number, BIG + 4096, 4096)
    go(guest, one)
    assert shows(one, MANY, BIG, 4096)
    guest.kill(one.process())


def test_a_kept_descriptor_is_not_used_before_it_is_there(guest: Guest, files: Files) -> None:
    one, two = pair(guest)
    files.map(one, 0, BIG)
    files.map(two, 0, BIG + 4096)
    files.map(two, 1, BIG + 8192)
    go(guest, two, one)
    assert shows(two, 0, BIG + 4096, 4096) and shows(two, 1, BIG + 8192, 4096) and shows(one, 0, BIG, 4096)
    guest.kill(one.process())


def test_descriptors_end_with_the_credentials_but_those_that_another_thread_needs(
    guest: Guest, files: Files, platform: Systrap
) -> None:
    one, two = pair(guest)
    fds = f"/proc/{one.process().host_pid()}/fd"
    for number in range(3):
        files.map(one, number, BIG)
    go(guest, one)
    files.map(two, 1, BIG + 4096)
    one.queue_keep_only([])
    files.map(one, 2, BIG + 8192)
    go(guest, one)
    go(guest, two)
    assert shows(two, 1, BIG + 4096, 4096) and shows(one, 2, BIG + 8192, 4096)
    two.queue_keep_only([])
    go(guest, two)
    assert os.listdir(fds) == []
    guest.kill(one.process())


def test_a_child_has_the_descriptors_that_were_there(guest: Guest, files: Files) -> None:
    one, two = pair(guest)
    for number in range(3):
        files.map(one, number, BIG)
        go(guest, one)
    process = one.queue_fork()
    for number in range(3, MANY):
        files.map(two, number, BIG)
        go(guest, two)
    one.ret(0)
    for _ in range(3):
        guest.event_of(EV_SYSCALL, EV_STARTED)
    child = process.main_thread()
    for number in range(MANY):
        files.map(child, number, BIG)
        go(guest, child)
        assert shows(child, number, BIG, 4096)
    guest.kill(process)
    guest.kill(one.process())
