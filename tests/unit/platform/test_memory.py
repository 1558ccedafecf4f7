"""Systrap's own behaviour with memory, beyond that of every platform: prefetched arguments, windows, kept
descriptors.
"""

import os
from pathlib import Path

import pytest
from code_guest import CODE, MAP_FIXED_ANON, Guest
from machine_code import SYSCALL, mov, syscall

from cloche.abi.mman import MAP_FIXED, MAP_PRIVATE
from cloche.arch.syscalls import SYS_write
from cloche.platform import layout
from cloche.platform.interface import (
    EV_CUT,
    EV_OPS_FAILED,
    EV_SYSCALL,
    PF_ARG,
    PF_CSTRING,
    PF_FIXED,
    HostThread,
)
from cloche.platform.systrap import Systrap
from cloche.syscalls.table import ROWS

DATA = CODE + 0x1000
# exit(last result) for ever
ANSWER = bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL + bytes.fromhex("ebef")
BIG = 0x10000000


def stopped(guest: Guest, code: bytes = b"", extra: bytes = b"") -> HostThread:
    thread = guest.start((code or syscall(39)) + ANSWER, extra)
    guest.event()
    return thread


def test_prefetched_string_is_what_the_call_saw(guest: Guest, platform: Systrap) -> None:
    platform.set_prefetch(2, [(PF_CSTRING, 0, 0, 256, 0)])
    try:
        thread = stopped(guest, syscall(2, DATA, 0, 0), b"/etc/passwd\0rest")
        thread.process().write(DATA, b"/changed\0")
        assert thread.read_cstring(DATA, 4096) == b"/etc/passwd"
        assert thread.read(DATA, 5) == b"/etc/"
        assert thread.process().read(DATA, 8) == b"/changed"
        assert thread.read(DATA, 20)[:8] == b"/changed"  # longer than the prefetched bytes
        guest.kill(thread.process())
    finally:
        platform.set_prefetch(2, [])


def test_prefetch_kinds(guest: Guest, platform: Systrap) -> None:
    platform.set_prefetch(1, [(PF_ARG, 1, 2, 1, 4096), (PF_FIXED, 3, 0, 16, 0)])
    try:
        thread = stopped(
            guest, syscall(1, 1, DATA, 5, DATA + 100), b"hello" + bytes(95) + b"0123456789abcdef"
        )
        thread.process().write(DATA, bytes(200))
        assert thread.read(DATA, 5) == b"hello"
        assert thread.read(DATA + 100, 16) == b"0123456789abcdef"
        guest.kill(thread.process())
        # a fault marks the entry absent, not the call
        thread = stopped(guest, syscall(1, 1, 0x1234000, 5, DATA + 100), bytes(100) + b"0123456789abcdef")
        assert thread.read(0x1234000, 5) == b""
        assert thread.read(DATA + 100, 4) == b"0123"
        guest.kill(thread.process())
        # beyond the cap nothing is copied
        thread = stopped(guest, syscall(1, 1, DATA, 5000, 0), b"x")
        thread.process().write(DATA, b"y")
        assert thread.read(DATA, 1) == b"y"
        guest.kill(thread.process())
    finally:
        platform.set_prefetch(1, [])


def test_prefetch_is_limited(platform: Systrap) -> None:
    with pytest.raises(ValueError):
        platform.set_prefetch(1, [(PF_CSTRING, 0, 0, 30000, 0), (PF_CSTRING, 1, 0, 30000, 0)])


def test_the_platform_is_out_of_reach_for_reads_and_writes(guest: Guest) -> None:
    thread = stopped(guest)
    process = thread.process()
    for addr in (layout.STUB_BASE, layout.INFO_BASE, layout.REGION_BASE, (1 << 64) - 8, -8):
        assert process.read(addr, 8) == b""
        assert thread.read(addr, 8) == b""
        assert process.write(addr, b"x" * 8) == 0
        assert thread.write(addr, b"x" * 8) == 0
        for queue in (thread.queue_munmap, lambda a, n: thread.queue_mmap(a, n, 7, MAP_FIXED_ANON, -1, 0)):
            with pytest.raises(OSError):
                queue(addr, 4096)
    with pytest.raises(OSError):
        thread.queue_munmap(layout.MAX_ADDRESS - 4096, 8192)
    with pytest.raises(OSError):
        thread.queue_mremap(0x10000, 4096, 1 << 47, 1, 0)
    start, length = guest.platform.vdso()
    assert length and process.read(start, 4) == b"\x7fELF"
    guest.kill(process)


def test_a_file_that_is_read_a_lot_is_copied_from_a_window(guest: Guest, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    path = tmp_path / "f"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDWR)
    thread = stopped(guest)
    thread.queue_mmap(BIG, 0x400000, 3, MAP_FIXED_ANON, -1, 0)
    thread.ret(0)
    guest.event()
    for turn in range(20):
        at = turn * 50_000 + 7
        assert thread.read_fd_into(fd, at, BIG + 5, 65536, 0, 77) == 65536
        if turn > 6:  # seen by the sentry before the thread has run, once the window is there
            assert thread.process().read(BIG + 5, 65536) == data[at : at + 65536]
        thread.ret(0)
        guest.event()
        assert thread.process().read(BIG + 5, 65536) == data[at : at + 65536]
    # Behind the end, and in a file that was cut off: the remaining bytes.
    assert thread.read_fd_into(fd, len(data) - 10, BIG, 65536, 0, 77) == 10
    thread.ret(0)
    guest.event()
    assert thread.read_fd_into(fd, len(data), BIG, 65536, 0, 77) == 0
    assert thread.read_fd_into(fd, 0, BIG, 65536, 0, 77) == 65536
    os.ftruncate(fd, 8192)
    thread.ret(65536)
    assert guest.event()[:2] == (EV_CUT, thread.ident())
    assert thread.regs().rax == 65536
    assert thread.read_fd_into(fd, 0, BIG, 65536, 0, 77) == 8192
    thread.ret(8192)
    assert guest.event()[2:4] == (60, 8192)
    assert thread.process().read(BIG, 8192) == data[:8192]
    os.close(fd)
    guest.kill(thread.process())


def test_kept_descriptors_end_with_the_credentials(guest: Guest, platform: Systrap) -> None:
    """In direct mode a process may map a file again that it has mapped, until it is told otherwise."""
    thread = stopped(guest)
    fds = f"/proc/{thread.process().host_pid()}/fd"
    fd = os.open("/etc/passwd", os.O_RDONLY)
    thread.queue_mmap(BIG, 4096, 1, MAP_PRIVATE | MAP_FIXED, fd, 0)
    os.close(fd)
    thread.ret(0)
    guest.event()
    assert os.listdir(fds) == (["8"] if platform.is_direct() else [])
    thread.queue_keep_only([])
    thread.ret(0)
    guest.event()
    assert os.listdir(fds) == []
    assert thread.process().read(BIG, 4) == b"root"
    guest.kill(thread.process())


def test_blanks_are_born_with_descriptors_of_what_is_mapped_all_the_time(
    guest: Guest, platform: Systrap
) -> None:
    """... and keep those alone that they have a right to."""
    paths = ["/etc/passwd", "/etc/group", "/usr/bin/env"]
    if not platform.is_direct():
        return
    seen: list[set[str]] = []
    for turn in range(20):
        thread = guest.start(syscall(39) + ANSWER, keeps=True)
        guest.event()
        fds = f"/proc/{thread.process().host_pid()}/fd"
        files = [os.open(path, os.O_RDONLY) for path in paths]
        allowed: list[int] = []
        if turn >= 10:  # a program that may have the last only
            allowed += platform.hot_identity(files[2]) or ()
        thread.queue_mmap(BIG, 4096, 1, MAP_PRIVATE | MAP_FIXED, files[0], 0)
        if turn < 10:
            thread.queue_mmap(BIG + 4096, 4096, 1, MAP_PRIVATE | MAP_FIXED, files[1], 0)
            thread.queue_mmap(BIG + 8192, 4096, 1, MAP_PRIVATE | MAP_FIXED, files[2], 0)
        thread.queue_keep_only(allowed)
        for fd in files:
            os.close(fd)
        thread.ret(0)
        guest.event()
        assert thread.process().read(BIG, 4) == b"root"
        seen.append({os.readlink(f"{fds}/{name}") for name in os.listdir(fds)})
        guest.kill(thread.process())
    assert seen[0] == seen[9] == set(paths)
    assert seen[-1] == {"/etc/passwd", "/usr/bin/env"}  # the second it was born with, and /etc/group it lost


def test_a_blank_that_is_needed_before_it_is_born_has_its_own_record(guest: Guest, platform: Systrap) -> None:
    """What is ordered for it, ends of descriptors included, happens after its birth with those of the zygote."""
    for _turn in range(12):  # the zygote gets the file
        thread = guest.start(syscall(39) + ANSWER, keeps=True)
        guest.event()
        fd = os.open("/etc/group", os.O_RDONLY)
        thread.queue_mmap(BIG, 4096, 1, MAP_PRIVATE | MAP_FIXED, fd, 0)
        os.close(fd)
        thread.ret(0)
        guest.event()
        guest.kill(thread.process())
    early = [guest.start(syscall(39) + ANSWER) for _ in range(12)]  # more than there are blanks
    for _ in early:
        guest.event_of(EV_SYSCALL)
    for thread in early:
        fd = os.open("/etc/group", os.O_RDONLY)
        thread.queue_mmap(BIG, 4096, 1, MAP_PRIVATE | MAP_FIXED, fd, 0)
        os.close(fd)
        thread.ret(0)
        assert guest.event_of(EV_SYSCALL, EV_OPS_FAILED)[0] == EV_SYSCALL
        assert thread.process().read(BIG, 4) == b"root"
        guest.kill(thread.process())


def test_a_blank_that_ends_before_it_is_born(guest: Guest, platform: Systrap) -> None:
    """Its turn to be forked never comes; the others are born."""
    threads = [guest.start(syscall(39) + ANSWER) for _ in range(12)]  # more than there are blanks
    for thread in threads[1::2]:
        thread.process().kill()
        thread.discard()
    for _ in threads[::2]:
        guest.event_of(EV_SYSCALL)
    for thread in threads[::2]:
        guest.kill(thread.process())


def test_up_to_16_kib_are_copied_by_the_stub(guest: Guest, platform: Systrap) -> None:
    """Into the program when it goes on, so a hole is not seen yet; and along with a call, as the table asks."""
    nowhere = 0x1234000
    thread = stopped(guest)
    assert thread.write(nowhere, bytes(16384)) == 16384
    guest.kill(thread.process())
    thread = stopped(guest)
    assert thread.write(nowhere, bytes(16385)) == 0
    guest.kill(thread.process())
    platform.set_prefetch(SYS_write, next(row.prefetch for row in ROWS if row.number == SYS_write))
    try:
        thread = stopped(guest, syscall(SYS_write, 1, DATA, 10_240), b"x" * 10_240)
        thread.process().write(DATA, b"y")
        assert thread.read(DATA, 10_240) == b"x" * 10_240
        guest.kill(thread.process())
    finally:
        platform.set_prefetch(SYS_write, [])
