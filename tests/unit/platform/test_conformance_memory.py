"""The behaviour of every platform, through its interface alone: mapping guest memory, and copying in and out."""

import errno
import os

import pytest
from code_guest import CODE, MAP_FIXED_ANON, STACK, Guest
from machine_code import REPORT, load, mov, store, syscall
from relatives import stopped

from cloche.abi.mman import (
    MADV_DONTNEED,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from cloche.platform.interface import EV_OPS_DONE, EV_OPS_FAILED, HostThread, Platform

PLACE = 0x10000000
PAGE = 4096
END = CODE + 0x4000  # of the area of the code: nothing is mapped behind it
EFAULT = -errno.EFAULT


def go(lab: Guest, thread: HostThread, value: int = 0) -> int:
    """Have the thread carry out what is ordered; what its guest sees of the call."""
    thread.ret(value)
    return lab.report(thread)


def refusal(lab: Guest, thread: HostThread) -> tuple[int, int]:
    """(index, errno) of the operation that the host refuses."""
    thread.ret(0)
    event = lab.event()
    assert event[:2] == (EV_OPS_FAILED, thread.ident())
    return event[2], event[3]


def area(lab: Guest, pages: int = 4, prot: int = PROT_READ | PROT_WRITE) -> HostThread:
    """A guest with memory at PLACE."""
    thread = stopped(lab)
    thread.queue_mmap(PLACE, pages * PAGE, prot, MAP_FIXED_ANON, -1, 0)
    assert go(lab, thread) == 0
    return thread


# ---- mapping ----


def test_a_blank_process_has_nothing(lab: Guest, any_platform: Platform) -> None:
    process = any_platform.new_process()
    thread = process.main_thread()
    thread.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.run_ops()
    assert lab.event_of(EV_OPS_DONE)[1] == thread.ident()
    for addr in (0, any_platform.min_address(), CODE, STACK - 8, PLACE - 8, PLACE + PAGE, 1 << 46):
        assert process.read(addr, 8) == b""
    assert process.read(PLACE, 8) == bytes(8)
    lab.kill(process)


def test_new_memory_is_zero_and_can_be_written(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    assert process.read(PLACE, 4 * PAGE) == bytes(4 * PAGE)
    assert process.write(PLACE + PAGE - 3, b"across") == 6
    assert process.read(PLACE + PAGE - 4, 8) == b"\0across\0"
    lab.kill(process)


def test_the_lowest_and_the_highest_page(lab: Guest, any_platform: Platform) -> None:
    thread = stopped(lab)
    low, high = any_platform.min_address(), any_platform.max_address() - PAGE
    for addr in (low, high):
        thread.queue_mmap(addr, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    assert go(lab, thread) == 0
    for addr in (low, high):
        assert thread.process().write(addr, b"x" * PAGE) == PAGE
        assert thread.process().read(addr + PAGE - 1, 1) == b"x"
    assert thread.process().read(high + PAGE - 4, 8) in (b"", b"xxxx")  # across the end of what can be
    lab.kill(thread.process())


def test_what_no_guest_may_map(lab: Guest, any_platform: Platform) -> None:
    """Behind the end, across it, and what wraps round: refused when it is ordered."""
    thread = stopped(lab)
    top = any_platform.max_address()
    for addr, length in (
        (top, PAGE),
        (top - PAGE, 2 * PAGE),
        (1 << 63, PAGE),
        (PLACE, 1 << 48),
        ((1 << 64) - PAGE, PAGE),
    ):
        with pytest.raises((OSError, OverflowError)):
            thread.queue_mmap(addr, length, 3, MAP_FIXED_ANON, -1, 0)
        with pytest.raises((OSError, OverflowError)):
            thread.queue_munmap(addr, length)
        with pytest.raises((OSError, OverflowError)):
            thread.queue_mprotect(addr, length, 3)
        with pytest.raises((OSError, OverflowError)):
            thread.queue_madvise(addr, length, MADV_DONTNEED)
    with pytest.raises(OSError):
        thread.queue_mremap(CODE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, top)
    with pytest.raises(OSError):
        thread.queue_mremap(CODE, PAGE, 1 << 47, MREMAP_MAYMOVE, 0)
    assert go(lab, thread, 5) == 5
    lab.kill(thread.process())


def test_a_mapping_replaces_what_was_there(lab: Guest) -> None:
    thread = area(lab)
    thread.process().write(PLACE, b"x" * 4 * PAGE)
    thread.queue_mmap(PLACE + PAGE, PAGE, PROT_READ, MAP_FIXED_ANON, -1, 0)
    assert go(lab, thread) == 0
    assert thread.process().read(PLACE, 4 * PAGE) == b"x" * PAGE + bytes(PAGE) + b"x" * 2 * PAGE
    assert thread.process().write(PLACE + PAGE, b"y") == 0
    lab.kill(thread.process())


def test_unmapping(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    thread.queue_munmap(PLACE + PAGE, PAGE)
    assert go(lab, thread) == 0
    assert process.read(PLACE + PAGE, 1) == b"" and process.write(PLACE + PAGE, b"x") == 0
    assert process.read(PLACE, 4 * PAGE) == bytes(PAGE)  # as far as it goes
    assert process.write(PLACE, bytes(4 * PAGE)) == PAGE
    assert process.read(PLACE + 2 * PAGE, PAGE) == bytes(PAGE)
    thread.queue_munmap(PLACE - 16 * PAGE, 64 * PAGE)  # holes are no failure
    thread.queue_munmap(PLACE, PAGE)
    assert go(lab, thread) == 0
    assert process.read(PLACE + 3 * PAGE, 1) == b""
    lab.kill(process)


def test_protection_of_what_is_read_and_written(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    process.write(PLACE, b"x" * 4 * PAGE)
    thread.queue_mprotect(PLACE + PAGE, PAGE, PROT_READ)
    thread.queue_mprotect(PLACE + 2 * PAGE, PAGE, PROT_NONE)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4 * PAGE) == b"x" * 2 * PAGE
    assert process.write(PLACE, b"y" * 4 * PAGE) == PAGE
    assert process.read(PLACE + 2 * PAGE, 1) == b"" and process.read(PLACE + 3 * PAGE, 1) == b"x"
    thread.queue_mprotect(PLACE, 4 * PAGE, PROT_READ | PROT_WRITE)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4 * PAGE) == b"y" * PAGE + b"x" * 3 * PAGE
    lab.kill(process)


def test_protecting_what_is_not_there_fails(lab: Guest) -> None:
    thread = area(lab)
    thread.queue_mprotect(PLACE + 4 * PAGE, PAGE, PROT_READ)
    assert refusal(lab, thread) == (0, errno.ENOMEM)
    lab.kill(thread.process())


def test_operations_behind_one_that_fails_do_not_happen(lab: Guest) -> None:
    thread = stopped(lab)
    process = thread.process()
    thread.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.queue_mprotect(0x20000000, PAGE, 3)
    thread.queue_mmap(PLACE + PAGE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    assert refusal(lab, thread) == (1, errno.ENOMEM)
    assert not thread.is_running() and not process.has_pending_ops()
    assert process.read(PLACE, 4) == bytes(4)
    assert process.read(PLACE + PAGE, 4) == b""
    assert go(lab, thread, -12) == -12
    assert process.read(PLACE + PAGE, 4) == b""
    lab.kill(process)


def test_moving(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    process.write(PLACE, b"a" * PAGE + b"b" * PAGE + b"c" * PAGE + b"d" * PAGE)
    thread.queue_mremap(PLACE + PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, PLACE + 0x100000)
    assert go(lab, thread) == 0
    assert process.read(PLACE + 0x100000, 3 * PAGE) == b"b" * PAGE + b"c" * PAGE
    assert process.read(PLACE, 2 * PAGE) == b"a" * PAGE
    assert process.read(PLACE + 3 * PAGE, PAGE) == b"d" * PAGE
    lab.kill(process)


def test_growing_and_shrinking_in_place(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    process.write(PLACE, b"a" * 4 * PAGE)
    thread.queue_mremap(PLACE, 4 * PAGE, 6 * PAGE, 0, 0)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 7 * PAGE) == b"a" * 4 * PAGE + bytes(2 * PAGE)
    thread.queue_mremap(PLACE, 6 * PAGE, PAGE, 0, 0)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 7 * PAGE) == b"a" * PAGE
    lab.kill(process)


def test_forgetting_contents(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    process.write(PLACE, b"a" * 4 * PAGE)
    thread.queue_madvise(PLACE + PAGE, 2 * PAGE, MADV_DONTNEED)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4 * PAGE) == b"a" * PAGE + bytes(2 * PAGE) + b"a" * PAGE
    lab.kill(process)


def test_the_guest_sees_what_was_ordered(lab: Guest) -> None:
    """The operations are done, in order, before it goes on."""
    thread = stopped(lab, syscall(39) + load(PLACE) + REPORT)
    away = PLACE + 0x10000
    thread.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.queue_mremap(PLACE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away)
    thread.queue_mprotect(away, PAGE, PROT_READ)
    thread.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE, (42).to_bytes(8, "little"))
    assert go(lab, thread) == 42
    assert thread.process().read(away, 8) == bytes(8) and thread.process().write(away, b"x") == 0
    lab.kill(thread.process())


def test_what_is_written_comes_behind_all_that_is_ordered(lab: Guest) -> None:
    thread = stopped(lab, syscall(39) + load(PLACE) + REPORT)
    thread.queue_mmap(PLACE, PAGE, 1, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE, (42).to_bytes(8, "little"))
    thread.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    assert go(lab, thread) == 42
    lab.kill(thread.process())


def test_many_operations(lab: Guest) -> None:
    thread = stopped(lab)
    process = thread.process()
    for index in range(150):
        thread.queue_mmap(PLACE + index * 2 * PAGE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    data = os.urandom(150_000)
    thread.queue_mmap(0x20000000, 0x40000, 3, MAP_FIXED_ANON, -1, 0)
    assert thread.write(0x20000000, data) == len(data)
    assert thread.write(0x20000000 + len(data), b"end") == 3
    assert go(lab, thread, 9) == 9
    assert process.read(PLACE + 149 * 2 * PAGE, PAGE + 1) == bytes(PAGE)
    assert process.read(0x20000000, len(data) + 3) == data + b"end"
    lab.kill(process)


def test_orders_of_one_thread_are_seen_by_the_next(lab: Guest) -> None:
    """Operations of siblings happen in the order in which they were resumed."""
    main = stopped(lab)
    other = main.queue_clone_thread()
    main.ret(0)
    lab.reports(main, other)
    main.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    assert go(lab, main) == 0
    for index in range(40):
        main.queue_mmap(PLACE + (index + 2) * PAGE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    main.queue_munmap(PLACE, PAGE)
    main.ret(1)
    other.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    other.write(PLACE, b"mine")
    other.ret(2)
    assert lab.reports(main, other) == [1, 2]
    assert main.process().read(PLACE, 4) == b"mine"
    lab.kill(main.process())


# ---- files ----


def test_private_mappings_of_a_file(lab: Guest, memory_file: int) -> None:
    thread = stopped(lab)
    process = thread.process()
    thread.queue_mmap(PLACE, 2 * PAGE, 3, MAP_PRIVATE | MAP_FIXED, memory_file, PAGE)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 2 * PAGE) == b"B" * PAGE + b"C" * PAGE
    assert process.write(PLACE, b"mine") == 4
    assert process.read(PLACE, 5) == b"mineB"
    assert os.pread(memory_file, 4, PAGE) == b"BBBB"
    thread.queue_madvise(PLACE, PAGE, MADV_DONTNEED)
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4) == b"BBBB"  # the file's again
    lab.kill(process)


def test_shared_mappings_of_a_file(lab: Guest, memory_file: int) -> None:
    thread = stopped(lab, syscall(39) + store(PLACE + PAGE, 0x44434241) + REPORT)
    process = thread.process()
    thread.queue_mmap(PLACE, 2 * PAGE, 3, MAP_SHARED | MAP_FIXED, memory_file, 0)
    thread.ret(0)
    assert lab.report(thread) == 0x44434241
    assert os.pread(memory_file, 6, PAGE) == b"ABCD\0\0"
    os.pwrite(memory_file, b"hello", 3)
    assert process.read(PLACE, 8) == b"AAAhello"
    assert process.write(PLACE, b"x") == 1
    assert os.pread(memory_file, 1, 0) == b"x"
    lab.kill(process)


def test_a_second_mapping_of_what_is_shared(lab: Guest, memory_file: int) -> None:
    """mremap(2) of no length: the old mapping stays."""
    away = PLACE + 0x100000
    thread = stopped(lab, syscall(39) + store(away + PAGE, 42) + load(PLACE + PAGE) + REPORT)
    thread.queue_mmap(PLACE, 2 * PAGE, 3, MAP_SHARED | MAP_FIXED, memory_file, 0)
    thread.queue_mremap(PLACE, 0, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away)
    assert go(lab, thread) == 42
    process = thread.process()
    assert process.read(PLACE + PAGE, 8) == process.read(away + PAGE, 8) == (42).to_bytes(8, "little")
    lab.kill(process)


def test_two_processes_share_a_file(lab: Guest, memory_file: int) -> None:
    one, two = stopped(lab), stopped(lab)
    for thread in (one, two):
        thread.queue_mmap(PLACE, PAGE, 3, MAP_SHARED | MAP_FIXED, memory_file, 0)
        assert go(lab, thread) == 0
    one.process().write(PLACE, b"seen")
    assert two.process().read(PLACE, 5) == b"seenA"
    lab.kill(one.process())
    assert two.process().read(PLACE, 5) == b"seenA"
    lab.kill(two.process())


def test_the_descriptor_may_be_closed_once_the_mapping_is_ordered(lab: Guest) -> None:
    fd = os.memfd_create("short")
    os.write(fd, b"A" * PAGE + b"B" * PAGE)
    thread = stopped(lab)
    for index in range(40):
        thread.queue_mmap(PLACE + index * PAGE, PAGE, 1, MAP_PRIVATE | MAP_FIXED, fd, (index & 1) * PAGE)
    os.close(fd)
    assert go(lab, thread, 9) == 9
    for index in range(40):
        assert thread.process().read(PLACE + index * PAGE, 3) == (b"BBB" if index & 1 else b"AAA")
    lab.kill(thread.process())


def test_a_file_that_is_mapped_for_execution(lab: Guest) -> None:
    fd = os.memfd_create("text")
    os.write(fd, (syscall(77) + REPORT).ljust(PAGE, b"\x90"))
    thread = stopped(lab)
    thread.queue_mmap(PLACE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0)
    os.close(fd)
    regs = thread.regs()
    regs.rip = PLACE
    thread.set_regs(regs)
    thread.resume()
    lab.call(thread, 77)
    lab.kill(thread.process())


def test_a_bad_descriptor_is_refused_at_once(lab: Guest) -> None:
    thread = stopped(lab)
    with pytest.raises(OSError):
        thread.queue_mmap(PLACE, PAGE, 1, MAP_PRIVATE | MAP_FIXED, 9999, 0)
    assert go(lab, thread, 1) == 1
    lab.kill(thread.process())


# ---- copying ----


def test_copies_end_at_every_edge(lab: Guest) -> None:
    """What is read or written up to something that is not there, from each of the last bytes before it."""
    thread = stopped(lab)
    process = thread.process()
    process.write(END - 16, b"0123456789abcdef")
    for left in range(17):
        assert process.read(END - left, 16) == b"0123456789abcdef"[16 - left :]
        assert thread.read(END - left, 16) == b"0123456789abcdef"[16 - left :]
    for left in range(17):
        assert process.write(END - left, b"x" * 16) == left
    assert process.read(END - 17, 17) == b"\0" + b"x" * 16
    lab.kill(process)


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 1_000_000])
def test_copies_of_every_size(lab: Guest, length: int) -> None:
    thread = stopped(lab)
    process = thread.process()
    thread.queue_mmap(PLACE, 0x200000, 3, MAP_FIXED_ANON, -1, 0)
    assert go(lab, thread) == 0
    data = os.urandom(length)
    assert process.write(PLACE + 7, data) == length
    assert process.read(PLACE + 7, length) == thread.read(PLACE + 7, length) == data
    other = os.urandom(length)
    assert thread.write(PLACE + 7, other) == length
    assert thread.read(PLACE + 7, length) == process.read(PLACE + 7, length) == other
    assert go(lab, thread) == 0
    assert process.read(PLACE + 7, length) == other
    assert process.read(PLACE + 7 + length, 1) == b"\0"
    lab.kill(process)


@pytest.mark.parametrize(
    "addr", [0, 8, 0x7FFF_FFFF_FFFF, 1 << 47, 1 << 62, (1 << 63) - 8, 1 << 63, (1 << 64) - 8, -8, -1]
)
def test_wild_addresses(lab: Guest, addr: int) -> None:
    """A kernel hands on what a guest said: nothing there."""
    thread = stopped(lab)
    process = thread.process()
    assert process.read(addr, 8) == thread.read(addr, 8) == b""
    assert process.write(addr, b"12345678") == 0
    assert thread.read_cstring(addr, 8) is None
    written = thread.write(addr, b"12345678")
    assert go(lab, thread, 8 if written else EFAULT) == EFAULT
    lab.kill(process)


def test_a_write_that_faults_ends_the_call_with_efault(lab: Guest) -> None:
    """Either at once or, where it was put off, when the guest is to see the result."""
    thread = stopped(lab)
    for addr in (0x1230, END, END - 2):
        written = thread.write(addr, b"data")
        assert written in (max(END - addr, 0) if addr >= END - 2 else 0, 4)
        assert go(lab, thread, 4 if written == 4 else EFAULT) == EFAULT
    assert go(lab, thread, 4) == 4
    lab.kill(thread.process())


def test_a_write_into_what_may_only_be_read(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    thread.queue_mprotect(PLACE + PAGE, PAGE, PROT_READ)
    assert go(lab, thread) == 0
    assert process.write(PLACE + PAGE - 16, b"x" * 32) == 16
    assert process.write(PLACE + PAGE, b"x") == 0
    written = thread.write(PLACE + PAGE, b"x")
    assert go(lab, thread, 1 if written else EFAULT) == EFAULT
    assert process.read(PLACE + PAGE, 1) == b"\0"
    lab.kill(process)


def test_writes_keep_their_order(lab: Guest) -> None:
    thread = area(lab)
    process = thread.process()
    thread.write(PLACE, b"1111")
    thread.write(PLACE, b"22")
    thread.write(PLACE, b"3" * 0x2000)
    thread.write(PLACE + 1, b"4")
    assert thread.read(PLACE, 4) == process.read(PLACE, 4) == b"3433"
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4) == b"3433"
    lab.kill(process)


def test_a_write_and_an_operation_behind_it(lab: Guest) -> None:
    """The contents are put into what the operations before it have mapped."""
    thread = area(lab)
    process = thread.process()
    thread.queue_mmap(PLACE + 0x10000, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE + 0x10000, b"first")
    thread.queue_mmap(PLACE + 0x20000, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE + 0x20000, b"second")
    assert go(lab, thread) == 0
    assert process.read(PLACE + 0x10000, 6) == b"first\0"
    assert process.read(PLACE + 0x20000, 6) == b"second"
    lab.kill(process)


def test_strings(lab: Guest) -> None:
    thread = stopped(lab)
    process = thread.process()
    process.write(CODE + 0x2000, b"hello\0world")
    assert thread.read_cstring(CODE + 0x2000, 4096) == b"hello"
    assert thread.read_cstring(CODE + 0x2000, 6) == b"hello"
    assert thread.read_cstring(CODE + 0x2000, 5) == b"hello"  # no room for the end: the limit
    assert thread.read_cstring(CODE + 0x2000, 2) == b"he"
    assert thread.read_cstring(CODE + 0x2005, 4096) == b""
    lab.kill(process)


def test_strings_at_the_edge(lab: Guest) -> None:
    thread = stopped(lab)
    process = thread.process()
    process.write(END - 3, b"abc")
    assert thread.read_cstring(END - 3, 4096) is None
    assert thread.read_cstring(END - 3, 4) is None
    assert thread.read_cstring(END - 3, 3) == b"abc"
    process.write(END - 1, b"\0")
    assert thread.read_cstring(END - 3, 4096) == b"ab"
    assert thread.read_cstring(END - 1, 4096) == b""
    assert thread.read_cstring(END, 4096) is None
    lab.kill(process)


def test_a_long_string_across_pages(lab: Guest) -> None:
    thread = area(lab, 32)
    text = b"x" * 100_000
    thread.process().write(PLACE + 100, text + b"\0")
    assert thread.read_cstring(PLACE + 100, 100_000) == text
    assert thread.read_cstring(PLACE + 100, 120_000) == text
    assert thread.read_cstring(PLACE + 100, 99_999) == text[1:]
    lab.kill(thread.process())


def test_a_stat_is_written(lab: Guest) -> None:
    thread = area(lab)
    fields = (1, 2, 3, 0o100644, 5, 6, 7, 8, 4096, 10)
    assert thread.write_stat(PLACE, *fields, 11_000_000_012, 13_000_000_014, 15_000_000_016)
    assert thread.write_stat(PLACE + 512, *fields, -1, 1 << 63, 0)  # before 1970, and far away
    assert go(lab, thread) == 0
    data = thread.process().read(PLACE, 144)
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, 144, 8)]
    assert words[:3] == [1, 2, 3] and words[9:15] == [11, 12, 13, 14, 15, 16]
    assert int.from_bytes(data[24:28], "little") == 0o100644 and words[6:9] == [8, 4096, 10]
    assert thread.process().read(PLACE + 512, 144)[:72] == data[:72]
    written = thread.write_stat(0x1230, *fields, 0, 0, 0)
    assert go(lab, thread, 0 if written else EFAULT) == EFAULT
    lab.kill(thread.process())


# ---- host descriptors ----


@pytest.mark.parametrize("length", [1, 5000, 65536, 65537, 3_000_000])
def test_reading_a_descriptor_into_the_guest(lab: Guest, length: int) -> None:
    data = os.urandom(length)
    fd = os.memfd_create("data")
    os.write(fd, b"0123" + data)
    thread = area(lab, 1024)
    process = thread.process()
    assert thread.read_fd_into(fd, 4, PLACE + 3, length + 100, 0, 0) == length
    assert go(lab, thread, length) == length
    assert process.read(PLACE + 3, length) == data
    os.lseek(fd, 0, os.SEEK_SET)
    assert thread.read_fd_into(fd, -1, PLACE, 4, 0, 0) == 4  # from where it stands
    assert thread.read_fd_into(fd, -1, PLACE + 4, 3_500_000, 0, 0) == length
    assert go(lab, thread) == 0
    assert process.read(PLACE, 4 + length) == b"0123" + data
    assert thread.read_fd_into(fd, length + 4, PLACE, 100, 0, 0) == 0
    os.close(fd)
    lab.kill(process)


@pytest.mark.parametrize("length", [1, 70_000, 2_500_000])
def test_writing_a_descriptor_from_the_guest(lab: Guest, length: int) -> None:
    fd = os.memfd_create("data")
    data = os.urandom(length)
    thread = area(lab, 1024)
    thread.process().write(PLACE, data)
    assert thread.write_fd_from(fd, 2, PLACE, length, 0) == length
    assert os.pread(fd, length + 2, 0) == bytes(2) + data
    assert thread.write_fd_from(fd, -1, PLACE, 1, 0) == 1
    assert os.lseek(fd, 0, os.SEEK_CUR) == 1
    os.close(fd)
    lab.kill(thread.process())


def test_descriptors_and_memory_that_are_not_there(lab: Guest, memory_file: int) -> None:
    thread = stopped(lab)
    assert thread.write_fd_from(memory_file, 0, 0x1234000, 10, 0) == EFAULT
    assert thread.write_fd_from(9999, 0, CODE, 10, 0) == -errno.EBADF
    assert thread.read_fd_into(9999, 0, CODE + 0x1000, 10, 0, 0) == -errno.EBADF
    for addr in (0x1234000, 1 << 47, -4096):
        count = thread.read_fd_into(memory_file, 0, addr, 100, 0, 0)
        assert go(lab, thread, count) == EFAULT
    end, start = os.pipe()
    os.set_blocking(end, False)
    assert thread.read_fd_into(end, -1, CODE + 0x1000, 10, 0, 0) == -errno.EAGAIN
    os.close(start)
    assert thread.read_fd_into(end, -1, CODE + 0x1000, 10, 0, 0) == 0
    os.close(end)
    lab.kill(thread.process())


def test_a_file_that_is_read_over_and_over(lab: Guest) -> None:
    """With a key, the platform may serve it in another way: what arrives is the same."""
    data = os.urandom(1 << 20)
    fd = os.memfd_create("data")
    os.write(fd, data)
    thread = area(lab, 64)
    for turn in range(20):
        at = turn * 50_000 + 7
        assert thread.read_fd_into(fd, at, PLACE + 5, 65536, 0, 990_077) == 65536
        assert go(lab, thread, 65536) == 65536
        assert thread.process().read(PLACE + 5, 65536) == data[at : at + 65536]
    assert thread.read_fd_into(fd, len(data) - 10, PLACE, 65536, 0, 990_077) == 10
    assert go(lab, thread, 10) == 10
    assert thread.process().read(PLACE, 10) == data[-10:]
    os.close(fd)
    lab.kill(thread.process())


# ---- atomic words ----


def swapped(lab: Guest, thread: HostThread, addr: int, old: int, new: int, operation: int = 0) -> int:
    thread.swap(addr, old, new, operation)
    assert lab.event_of(EV_OPS_DONE)[1] == thread.ident()
    return thread.swapped()


def word(thread: HostThread, addr: int = PLACE) -> int:
    return int.from_bytes(thread.process().read(addr, 4), "little")


def test_compare_and_swap(lab: Guest) -> None:
    thread = area(lab)
    if not thread.can_swap():
        pytest.skip("this platform has no swap")
    thread.process().write(PLACE, (5).to_bytes(4, "little") + b"rest")
    assert swapped(lab, thread, PLACE, 5, 0xFFFFFFFF) == 5
    assert word(thread) == 0xFFFFFFFF
    assert swapped(lab, thread, PLACE, 5, 7) == 0xFFFFFFFF
    assert word(thread) == 0xFFFFFFFF
    assert thread.process().read(PLACE + 4, 4) == b"rest"
    assert go(lab, thread, 3) == 3
    lab.kill(thread.process())


@pytest.mark.parametrize("operation", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("guess", [12, 13])
def test_operations_on_a_word(lab: Guest, operation: int, guess: int) -> None:
    """SWAP_* for any value of the word, a wrong guess included."""
    thread = area(lab)
    if not thread.can_swap():
        pytest.skip("this platform has no swap")
    thread.process().write(PLACE, (12).to_bytes(4, "little"))
    assert swapped(lab, thread, PLACE, guess, 10, operation) == 12
    assert word(thread) == {1: 10, 2: 22, 3: 12 | 10, 4: 12 & ~10, 5: 12 ^ 10}[operation]
    lab.kill(thread.process())


def test_swaps_where_nothing_can_be_changed(lab: Guest) -> None:
    thread = area(lab)
    if not thread.can_swap():
        pytest.skip("this platform has no swap")
    thread.queue_mprotect(PLACE + PAGE, PAGE, PROT_READ)
    assert go(lab, thread) == 0
    for addr in (0x1230, PLACE + PAGE, PLACE + 4 * PAGE):
        assert swapped(lab, thread, addr, 0, 1) == -1
    assert word(thread, PLACE + PAGE) == 0
    assert go(lab, thread, 3) == 3
    lab.kill(thread.process())


def test_swaps_beside_a_thread_that_counts(lab: Guest) -> None:
    """No step of either is lost."""
    turns = 200
    counting = CODE + len(syscall(39))
    main = stopped(lab, syscall(39) + bytes.fromhex("f0ff03") * turns + REPORT)
    if not main.can_swap():
        pytest.skip("this platform has no swap")
    main.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    other = main.queue_clone_thread()
    regs = main.regs()
    regs.rip, regs.rbx, regs.rax = counting, PLACE, 0
    other_regs = regs.copy()
    other_regs.rip = counting + 3 * turns
    main.set_regs(regs)
    other.set_regs(other_regs)
    main.resume()
    assert lab.reports(main, other) == [0, 0]
    assert word(main) == turns
    main.set_regs(regs)
    main.resume()
    other.swap(PLACE, 0, 1, 2)
    done, is_counting = 0, True
    while done < turns or is_counting:
        event = lab.event_of()
        if event[1] == main.ident():
            assert event[2] == 60
            is_counting = False
            continue
        assert event[0] == EV_OPS_DONE
        done += 1
        if done < turns:
            other.swap(PLACE, 0, 1, 2)
    assert word(main) == 3 * turns
    lab.kill(main.process())


def test_swaps_in_a_shared_file(any_platform: Platform, memory_file: int) -> None:
    os.pwrite(memory_file, (77).to_bytes(4, "little"), 128)
    found = any_platform.swap_shared(memory_file, 128, 77, 78)
    if found == -1:
        pytest.skip("this platform has no swap_shared")
    assert found == 77
    assert any_platform.swap_shared(memory_file, 128, 77, 79) == 78
    assert os.pread(memory_file, 4, 128) == (78).to_bytes(4, "little")


def test_a_barrier_can_be_asked_for(any_platform: Platform) -> None:
    assert any_platform.barrier() in (True, False)


def test_the_vdso_is_code_or_nothing(lab: Guest, any_platform: Platform) -> None:
    start, length = any_platform.vdso()
    thread = stopped(lab, syscall(39) + mov("rax", 5) + REPORT)
    assert (start == 0) == (length == 0)
    if length:
        assert thread.process().read(start, 4) == b"\x7fELF"
        assert thread.process().write(start, b"x") == 0
    lab.kill(thread.process())
