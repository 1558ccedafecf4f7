"""Forks, threads, exits, interrupts, deaths and descriptors."""

import os
import signal
import time

import pytest
from code_guest import CODE, MAP_FIXED_ANON, SECOND, STACK, Guest
from machine_code import LOOP, SYSCALL, mov, syscall, ud2

from cloche.platform.interface import (
    EV_FAULT,
    EV_FD,
    EV_INTERRUPTED,
    EV_NONE,
    EV_OPS_DONE,
    EV_OPS_FAILED,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    HostProcess,
)
from cloche.platform.systrap import Systrap
from cloche.platform.systrap_process import SystrapProcess

# fork(); then exit(last result) for ever.
FORK_CODE = syscall(57) + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL + bytes.fromhex("ebef")


def test_fork(guest: Guest) -> None:
    parent = guest.start(FORK_CODE)
    assert guest.event()[2] == 57
    child = parent.queue_fork().main_thread()
    parent.ret(77)
    seen: dict[int, int] = {}
    started = 0
    while len(seen) < 2 or not started:
        event = guest.event()
        if event[0] == EV_STARTED:
            assert event[2] == child.process().ident()
            started += 1
        else:
            assert event[:1] == (EV_SYSCALL,) and event[2] == 60
            seen[event[1]] = event[3]
    assert seen == {parent.ident(): 77, child.ident(): 0}
    child.process().write(CODE + 0x1000, b"child")
    assert parent.process().read(CODE + 0x1000, 5) == bytes(5)
    assert child.process().read(CODE + 0x1000, 5) == b"child"
    assert not parent.process().has_pending_ops()
    guest.kill(child.process())
    guest.kill(parent.process())


def test_child_registers_can_be_set_before_it_lives(guest: Guest) -> None:
    parent = guest.start(FORK_CODE)
    guest.event()
    child = parent.queue_fork().main_thread()
    regs = child.regs()
    assert regs.rax == 0
    regs.rax = 99
    child.set_regs(regs)
    child.write(CODE + 0x1000, b"tid")
    parent.ret(1)
    values = set()
    while len(values) < 2:
        event = guest.event_of()
        values.add(event[3])
    assert values == {1, 99}
    assert child.process().read(CODE + 0x1000, 3) == b"tid"
    assert parent.process().read(CODE + 0x1000, 3) == bytes(3)
    guest.kill(child.process())
    guest.kill(parent.process())


def test_many_forks_in_a_row(guest: Guest) -> None:
    loop = mov("rax", 57) + SYSCALL + bytes.fromhex("85c0") + bytes.fromhex("75f0")
    parent = guest.start(loop + mov("rax", 60) + SYSCALL)
    assert guest.event()[1:3] == (parent.ident(), 57)
    for _ in range(50):
        child = parent.queue_fork()
        parent.ret(5)
        events = {}
        while len(events) < 2:
            event = guest.event_of()
            events[event[1]] = event
        assert events[child.main_thread().ident()][2] == 60
        assert events[parent.ident()][2] == 57
        guest.kill(child)
    guest.kill(parent.process())


def test_thread(guest: Guest) -> None:
    main = guest.start(FORK_CODE)
    assert guest.event()[2] == 57
    thread = main.queue_clone_thread()
    regs = thread.regs()
    assert regs.rax == 0
    regs.rsp = STACK - 0x8000
    regs.fs_base = CODE + 0x2000
    thread.set_regs(regs)
    main.ret(7)
    seen = {}
    while len(seen) < 2:
        event = guest.event()
        assert event[0] == EV_SYSCALL and event[2] == 60
        seen[event[1]] = event[3]
    assert seen == {main.ident(): 7, thread.ident(): 0}
    assert thread.regs().rsp == STACK - 0x8000
    assert thread.regs().fs_base == CODE + 0x2000
    assert main.regs().fs_base == 0
    # Memory is shared, the thread can run by itself, and its exit leaves the process alone.
    thread.ret(3)
    assert guest.event()[1:4] == (thread.ident(), 60, 3)
    thread.queue_exit()
    thread.resume()
    thread.discard()
    main.ret(8)
    assert guest.event()[1:4] == (main.ident(), 60, 8)
    guest.kill(main.process())


def test_slots_of_dead_threads_are_reused(guest: Guest) -> None:
    main = guest.start(FORK_CODE)
    guest.event()
    for i in range(60):
        thread = main.queue_clone_thread()
        main.ret(i)
        for _ in range(2):
            event = guest.event()
            assert event[0] == EV_SYSCALL, (i, event)
        thread.queue_exit()
        thread.resume()
        thread.discard()
    main.ret(1)
    assert guest.event()[0] == EV_SYSCALL
    guest.kill(main.process())


def test_main_thread_may_exit_first(guest: Guest) -> None:
    main = guest.start(FORK_CODE)
    guest.event()
    process = main.process()
    thread = main.queue_clone_thread()
    main.ret(1)
    guest.event(), guest.event()
    main.queue_exit()
    main.resume()
    main.discard()
    for _ in range(3):
        thread.ret(5)
        assert guest.event()[1:4] == (thread.ident(), 60, 5)
    thread.queue_exit()
    thread.resume()
    thread.discard()
    event = guest.event()
    assert event[0] == EV_PROCESS_DIED and event[2] == process.ident()


def test_interrupt(guest: Guest) -> None:
    thread = guest.start(LOOP)
    assert guest.platform.next_event(SECOND // 50)[0] == EV_NONE
    assert thread.is_running()
    for _ in range(3):
        thread.interrupt()
        assert guest.event()[:2] == (EV_INTERRUPTED, thread.ident())
        assert thread.regs().rip == CODE
        thread.resume()
    guest.kill(thread.process())


def test_interrupt_answered_by_another_event_is_not_reported_later(guest: Guest) -> None:
    thread = guest.start(mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2"))
    for _ in range(300):
        thread.interrupt()
        event = guest.event()
        assert event[0] in (EV_SYSCALL, EV_INTERRUPTED)
        thread.resume() if event[0] == EV_INTERRUPTED else thread.ret(0)
    for _ in range(100):
        assert guest.event()[0] == EV_SYSCALL
        thread.ret(0)
    guest.event()
    guest.kill(thread.process())


def test_interrupt_of_a_thread_that_was_just_ordered(guest: Guest) -> None:
    # the clone's result 0 goes into an endless loop
    code = syscall(56) + bytes.fromhex("85c0") + bytes.fromhex("7402") + ud2() + LOOP
    main = guest.start(code)
    guest.event()
    thread = main.queue_clone_thread()
    main.ret(1)
    thread.interrupt()
    kinds = {}
    for _ in range(2):
        event = guest.event()
        kinds[event[1]] = event[0]
    assert kinds == {main.ident(): EV_FAULT, thread.ident(): EV_INTERRUPTED}
    guest.kill(main.process())


def test_failed_operation(guest: Guest) -> None:
    thread = guest.start(FORK_CODE)
    guest.event()
    thread.queue_mmap(0x700000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
    thread.queue_mprotect(0x10000000, 0x1000, 3)
    thread.queue_mmap(0x800000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
    thread.resume()
    assert guest.event()[:4] == (EV_OPS_FAILED, thread.ident(), 1, 12)
    assert thread.process().read(0x700000, 4) == bytes(4)
    assert thread.process().read(0x800000, 4) == b""
    thread.ret(5)
    assert guest.event()[2:4] == (60, 5)
    guest.kill(thread.process())


def test_more_operations_than_a_slot_holds(guest: Guest) -> None:
    thread = guest.start(FORK_CODE)
    guest.event()
    for i in range(150):
        thread.queue_mmap(0x10000000 + i * 0x2000, 0x1000, 3, MAP_FIXED_ANON, -1, 0)
    data = os.urandom(150_000)
    thread.queue_mmap(0x20000000, 0x40000, 3, MAP_FIXED_ANON, -1, 0)
    assert thread.write(0x20000000, data) == len(data)
    assert thread.write(0x20000000 + len(data), b"end") == 3
    thread.ret(9)
    assert guest.event()[2:4] == (60, 9)
    assert thread.process().read(0x10000000 + 149 * 0x2000, 4) == bytes(4)
    assert thread.process().read(0x20000000, len(data) + 3) == data + b"end"
    guest.kill(thread.process())


def test_file_mappings(guest: Guest) -> None:
    fd = os.memfd_create("x")
    os.write(fd, b"A" * 4096 + b"B" * 4096)
    thread = guest.start(FORK_CODE)
    guest.event()
    for i in range(40):
        thread.queue_mmap(0x10000000 + i * 0x1000, 0x1000, 1, 0x12, fd, (i & 1) * 4096)
    os.close(fd)
    thread.ret(9)
    assert guest.event()[2:4] == (60, 9)
    assert thread.process().read(0x10000000, 4) == b"AAAA"
    assert thread.process().read(0x10000000 + 39 * 0x1000, 4) == b"BBBB"
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    pid = process.host_pid()
    assert os.listdir(f"/proc/{pid}/fd") == []
    guest.kill(process)


def test_deferred_write_that_faults_gives_efault(guest: Guest) -> None:
    thread = guest.start(FORK_CODE)
    guest.event()
    assert thread.write(0x123000, b"data") == 4
    thread.ret(4)
    assert guest.event()[2:4] == (60, -14)
    assert thread.write_now(0x123000, b"data") == 0
    guest.kill(thread.process())


def test_write_into_read_only_memory_faults(guest: Guest) -> None:
    thread = guest.start(FORK_CODE)
    guest.event()
    thread.queue_mmap(0x700000, 0x2000, 3, MAP_FIXED_ANON, -1, 0)
    thread.queue_mprotect(0x701000, 0x1000, 1)
    thread.ret(0)
    guest.event()
    assert thread.process().write(0x700FF0, b"x" * 32) == 16
    assert thread.process().write(0x701000, b"x") == 0
    thread.write(0x701000, b"x")
    thread.ret(1)
    assert guest.event()[2:4] == (60, -14)
    guest.kill(thread.process())


def test_writes_keep_their_order(guest: Guest) -> None:
    thread = guest.start(FORK_CODE)
    guest.event()
    thread.write(CODE + 0x1000, b"1111")
    thread.write(CODE + 0x1000, b"22")
    thread.write(CODE + 0x1000, b"3" * 0x2000)
    thread.write(CODE + 0x1001, b"4")
    assert thread.read(CODE + 0x1000, 4) == b"3433"
    assert thread.process().read(CODE + 0x1000, 4) == b"3433"
    thread.ret(0)
    guest.event()
    assert thread.process().read(CODE + 0x1000, 4) == b"3433"
    guest.kill(thread.process())


def test_killed_process_is_reported_with_its_status(guest: Guest) -> None:
    thread = guest.start(LOOP)
    guest.platform.next_event(SECOND // 100)
    process = thread.process()
    process.kill()
    event = guest.event()
    assert event[0] == EV_PROCESS_DIED and event[2] == process.ident()
    assert os.WTERMSIG(event[3]) == signal.SIGKILL
    assert process.read(CODE, 4) == b""
    assert process.write(CODE, b"x") == 0
    thread.discard()


def test_descriptors_are_watched(guest: Guest, platform: Systrap) -> None:
    r, w = os.pipe()
    platform.add_fd(r, 4711, 1)
    assert platform.next_event(0)[0] == EV_NONE
    os.write(w, b"x")
    assert platform.next_event(SECOND)[:4] == (EV_FD, -1, 4711, 1)
    assert platform.next_event(SECOND)[:4] == (EV_FD, -1, 4711, 1)
    platform.remove_fd(r)
    assert platform.next_event(SECOND // 100)[0] == EV_NONE
    os.close(r)
    os.close(w)


def test_fpstate(guest: Guest) -> None:
    # movq xmm0, rax; getpid; movq rdi, xmm0; exit
    code = mov("rax", 0x1122334455667788) + bytes.fromhex("66480f6ec0") + syscall(39)
    code += bytes.fromhex("66480f7ec7") + mov("rax", 60) + SYSCALL + bytes.fromhex("ebed")
    thread = guest.start(code)
    guest.event()
    state = thread.fpstate()
    assert int.from_bytes(state[160:168], "little") == 0x1122334455667788
    changed = state[:160] + (42).to_bytes(8, "little") + state[168:]
    assert thread.set_fpstate(changed)
    assert not thread.set_fpstate(state[:-1])
    assert not thread.set_fpstate(state[:464] + bytes(48) + state[512:])
    assert not thread.set_fpstate(state[:24] + b"\xff\xff\xff\xff" + state[28:])
    thread.ret(0)
    assert guest.event()[2:4] == (60, 42)
    assert thread.set_fpstate(b"")
    thread.ret(0)
    assert guest.event()[2:4] == (60, 0)
    guest.kill(thread.process())


def test_operations_without_running_the_guest(guest: Guest) -> None:
    thread = guest.platform.new_process().main_thread()
    thread.queue_mmap(CODE, 0x1000, 7, MAP_FIXED_ANON, -1, 0)
    thread.run_ops()
    assert guest.event()[:2] == (EV_OPS_DONE, thread.ident())
    assert thread.process().write(CODE, syscall(39)) > 0
    regs = thread.regs()
    regs.rip = CODE
    thread.set_regs(regs)
    thread.write(CODE + 0x800, b"late")
    thread.run_ops()
    assert guest.event()[:2] == (EV_OPS_DONE, thread.ident())
    assert thread.process().read(CODE + 0x800, 4) == b"late"
    thread.resume()
    assert guest.event()[:3] == (EV_SYSCALL, thread.ident(), 39)
    guest.kill(thread.process())


def test_accounting(guest: Guest) -> None:
    thread = guest.start(LOOP)
    while sum(thread.process().cpu_times_ns()) < 5_000_000:
        assert guest.platform.next_event(SECOND // 100)[0] == EV_NONE
    assert thread.process().rss_bytes() > 0
    guest.kill(thread.process())


def host_state(process: HostProcess, wanted: str) -> None:
    """Wait until the host says that its only thread is in this state."""
    assert isinstance(process, SystrapProcess)
    for _ in range(5000):
        fields = process.read_proc("stat").rpartition(")")[2].split()
        if fields and fields[0] == wanted:
            return
        time.sleep(0.001)
    pytest.fail(f"never {wanted}")


def test_a_stop_by_the_host_is_not_noticed(guest: Guest) -> None:
    """What a waiting thread goes on with is restart_syscall, in the kernel's words."""
    thread = guest.start(syscall(39) + syscall(110) + LOOP)
    assert guest.event()[2] == 39
    thread.wait_long()
    assert guest.platform.next_event(0)[0] == EV_NONE  # answers its bell
    host_state(thread.process(), "S")
    for _ in range(3):
        assert thread.process().pause()
        host_state(thread.process(), "T")
        thread.process().proceed()
        host_state(thread.process(), "S")
    thread.ret(1)
    assert guest.event()[:3] == (EV_SYSCALL, thread.ident(), 110)
    guest.kill(thread.process())
