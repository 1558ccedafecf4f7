"""What every platform does, seen through its interface alone: processes and threads, from birth to death."""

import os
import random
import signal
import time

import pytest
from code_guest import CODE, MAP_FIXED_ANON, SECOND, STACK, Guest
from machine_code import LOOP, REPORT, SYSCALL, count_at, jump_to, mov, store, syscall, ud2

from cloche.abi.mman import MAP_FIXED, MAP_SHARED
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
    HostThread,
    Parking,
    Platform,
)

DATA = CODE + 0x1000
PLACE = 0x10000000
PAGE = 4096
LONG = 60 * SECOND


def stopped(lab: Guest, code: bytes = b"", extra: bytes = b"") -> HostThread:
    thread = lab.start(code or syscall(39) + REPORT, extra)
    lab.event_of(EV_SYSCALL)
    return thread


def fork(lab: Guest, parent: HostThread, value: int = 77) -> HostThread:
    """A child; both have reported what their call gave them."""
    child = parent.queue_fork().main_thread()
    parent.ret(value)
    assert lab.reports(parent, child) == [value, 0]
    return child


def sibling(lab: Guest, main: HostThread, value: int = 7) -> HostThread:
    """A new thread; both have reported."""
    thread = main.queue_clone_thread()
    regs = thread.regs()
    regs.rsp = STACK - 0x8000
    thread.set_regs(regs)
    main.ret(value)
    assert lab.reports(main, thread) == [value, 0]
    return thread


def leave(thread: HostThread) -> None:
    """The end of a thread."""
    thread.queue_exit()
    thread.resume()
    thread.discard()


def progress(process: HostProcess, addr: int = DATA) -> int:
    return int.from_bytes(process.read(addr, 8), "little")


def wait_for_progress(lab: Guest, process: HostProcess) -> None:
    """Until the guest has counted on (machine_code.count_at)."""
    before = progress(process)
    for _ in range(6000):
        assert lab.platform.next_event(SECOND // 100)[0] == EV_NONE
        if progress(process) != before:
            return
    pytest.fail("it does not run")


# ---- forks ----


def test_a_fork(lab: Guest) -> None:
    parent = stopped(lab)
    process = parent.queue_fork()
    child = process.main_thread()
    assert process.is_unborn() and process.ident() != parent.process().ident()
    assert child.process() is process and process.main_thread() is child
    parent.ret(77)
    seen: dict[int, int] = {}
    births = 0
    while len(seen) < 2 or not births:
        event = lab.event()
        if event[0] == EV_STARTED:
            assert event[1] == -1 and event[2] == process.ident()
            births += 1
            continue
        assert event[0] == EV_SYSCALL and event[2] == 60
        seen[event[1]] = event[3]
    assert seen == {parent.ident(): 77, child.ident(): 0}
    assert not process.is_unborn() and not parent.process().has_pending_ops()
    lab.kill(process)
    lab.kill(parent.process())


def test_memory_after_a_fork_is_each_ones_own(lab: Guest) -> None:
    parent = stopped(lab, b"", b"common")
    child = fork(lab, parent)
    child.process().write(DATA, b"child!")
    assert parent.process().read(DATA, 6) == b"common"
    parent.process().write(DATA, b"parent")
    assert child.process().read(DATA, 6) == b"child!"
    parent.queue_munmap(DATA, PAGE)
    parent.ret(0)
    lab.report(parent)
    assert parent.process().read(DATA, 1) == b"" and child.process().read(DATA, 1) == b"c"
    lab.kill(parent.process())
    assert child.process().read(DATA, 6) == b"child!"
    lab.kill(child.process())


def test_shared_memory_after_a_fork_is_shared(lab: Guest, memory_file: int) -> None:
    parent = stopped(lab)
    parent.queue_mmap(PLACE, PAGE, 3, MAP_SHARED | MAP_FIXED, memory_file, 0)
    parent.ret(0)
    lab.report(parent)
    child = fork(lab, parent)
    child.process().write(PLACE, b"from the child")
    assert parent.process().read(PLACE, 14) == b"from the child"
    lab.kill(child.process())
    lab.kill(parent.process())


def test_a_fork_behind_operations(lab: Guest) -> None:
    """What was ordered before the fork the child has as well."""
    parent = stopped(lab)
    parent.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    child = fork(lab, parent)
    assert child.process().read(PLACE, 8) == bytes(8)
    assert child.process().write(PLACE, b"x") == 1 and parent.process().read(PLACE, 1) == b"\0"
    lab.kill(child.process())
    lab.kill(parent.process())


def test_the_registers_of_a_child(lab: Guest) -> None:
    """Those of its parent, with 0 as the result; they can be changed before it is born."""
    code = mov("r12", 0x1212) + mov("r15", 0x1515) + syscall(57) + REPORT
    parent = stopped(lab, code)
    child = parent.queue_fork().main_thread()
    regs = child.regs()
    assert (regs.rax, regs.r12, regs.r15, regs.rsp) == (0, 0x1212, 0x1515, STACK)
    regs.rax, regs.r12, regs.fs_base = 99, 0x9999, DATA
    child.set_regs(regs)
    parent.ret(1)
    assert lab.reports(parent, child) == [1, 99]
    assert (child.regs().r12, child.regs().r15, child.regs().fs_base) == (0x9999, 0x1515, DATA)
    assert (parent.regs().r12, parent.regs().fs_base) == (0x1212, 0)
    lab.kill(child.process())
    lab.kill(parent.process())


def test_what_is_written_for_a_child_only_the_child_sees(lab: Guest) -> None:
    parent = stopped(lab)
    child = parent.queue_fork().main_thread()
    child.write(DATA, b"tid")
    parent.ret(1)
    lab.reports(parent, child)
    assert child.process().read(DATA, 3) == b"tid"
    assert parent.process().read(DATA, 3) == bytes(3)
    lab.kill(child.process())
    lab.kill(parent.process())


def test_fp_state_is_inherited(lab: Guest) -> None:
    parent = stopped(lab, mov("rax", 42) + bytes.fromhex("66480f6ec0") + syscall(57) + REPORT)
    child = fork(lab, parent)
    assert child.fpstate()[160] == parent.fpstate()[160] == 42
    thread = sibling(lab, parent)
    assert thread.fpstate()[160] == 42
    lab.kill(child.process())
    lab.kill(parent.process())


def test_many_forks_in_a_row(lab: Guest) -> None:
    parent = stopped(lab)
    for turn in range(30):
        child = fork(lab, parent, turn)
        lab.kill(child.process())
    lab.kill(parent.process())


def test_a_family(lab: Guest) -> None:
    """Grandchildren, and more than one child at a time; each has the memory of its moment of birth."""
    generations = [stopped(lab)]
    for turn in range(1, 6):
        thread = generations[-1]
        thread.process().write(DATA, turn.to_bytes(8, "little"))
        generations.append(fork(lab, thread))
        generations[-1].process().write(DATA + 8, turn.to_bytes(8, "little"))
    assert [progress(each.process()) for each in generations] == [1, 2, 3, 4, 5, 5]
    assert [progress(each.process(), DATA + 8) for each in generations] == [0, 1, 2, 3, 4, 5]
    idents = {each.process().ident() for each in generations}
    assert len(idents) == 6
    for each in generations:
        lab.kill(each.process())


def test_a_fork_that_is_taken_back(lab: Guest) -> None:
    parent = stopped(lab)
    parent.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    child = parent.queue_fork().main_thread()
    parent.cancel_clone(child)
    parent.ret(5)
    assert lab.report(parent) == 5
    assert parent.process().read(PLACE, 1) == b""  # what else was queued is undone, too
    assert lab.platform.next_event(0)[0] == EV_NONE
    child = fork(lab, parent)
    lab.kill(child.process())
    lab.kill(parent.process())


def test_a_fork_behind_an_operation_that_fails(lab: Guest) -> None:
    """It does not happen, and the failure on the parent is all that is told."""
    parent = stopped(lab)
    parent.queue_mprotect(PLACE, PAGE, 3)
    process = parent.queue_fork()
    parent.ret(0)
    event = lab.event()
    assert event[:3] == (EV_OPS_FAILED, parent.ident(), 0)
    process.main_thread().discard()
    parent.ret(-12)
    assert lab.report(parent) == -12
    assert lab.platform.next_event(0)[0] == EV_NONE
    lab.kill(parent.process())


def test_a_parent_may_die_before_its_child(lab: Guest) -> None:
    parent = stopped(lab)
    child = fork(lab, parent)
    lab.kill(parent.process())
    child.ret(3)
    assert lab.report(child) == 3
    grandchild = fork(lab, child)
    lab.kill(child.process())
    lab.kill(grandchild.process())


# ---- threads ----


def test_a_thread(lab: Guest) -> None:
    main = stopped(lab)
    thread = main.queue_clone_thread()
    assert thread.process() is main.process() and thread.ident() != main.ident()
    regs = thread.regs()
    assert regs.rax == 0
    regs.rsp, regs.fs_base = STACK - 0x8000, DATA
    thread.set_regs(regs)
    main.ret(7)
    assert lab.reports(main, thread) == [7, 0]
    assert (thread.regs().rsp, thread.regs().fs_base) == (STACK - 0x8000, DATA)
    assert main.regs().fs_base == 0
    thread.ret(3)  # each goes on by itself
    assert lab.report(thread) == 3
    leave(thread)
    main.ret(8)
    assert lab.report(main) == 8
    lab.kill(main.process())


def test_threads_share_memory(lab: Guest) -> None:
    main = stopped(lab, syscall(39) + REPORT)
    thread = sibling(lab, main)
    main.queue_mmap(PLACE, PAGE, 3, MAP_FIXED_ANON, -1, 0)
    main.ret(0)
    lab.report(main)
    code = store(PLACE, 4711) + REPORT
    thread.process().write(CODE + 0x2000, code)
    regs = thread.regs()
    regs.rip = CODE + 0x2000
    thread.set_regs(regs)
    thread.resume()
    assert lab.report(thread) == 4711
    assert main.read(PLACE, 8) == (4711).to_bytes(8, "little")
    lab.kill(main.process())


def test_many_threads_one_after_the_other(lab: Guest) -> None:
    main = stopped(lab)
    idents = set()
    for turn in range(60):
        thread = sibling(lab, main, turn)
        idents.add(thread.ident())
        leave(thread)
    main.ret(1)
    assert lab.report(main) == 1
    lab.kill(main.process())


def test_many_threads_at_once(lab: Guest) -> None:
    main = stopped(lab)
    threads = [sibling(lab, main) for _ in range(20)]
    assert len({each.ident() for each in threads}) == 20
    for index, each in enumerate(threads):
        each.ret(100 + index)
    assert lab.reports(*threads) == [100 + index for index in range(20)]
    for each in threads[::2]:
        leave(each)
    for each in threads[1::2]:
        each.ret(5)
    assert lab.reports(*threads[1::2]) == [5] * 10
    lab.kill(main.process())


def test_a_thread_that_is_taken_back(lab: Guest) -> None:
    main = stopped(lab)
    thread = main.queue_clone_thread()
    main.cancel_clone(thread)
    main.ret(4)
    assert lab.report(main) == 4
    assert lab.platform.next_event(0)[0] == EV_NONE
    leave(sibling(lab, main))
    lab.kill(main.process())


def test_the_first_thread_may_exit_first(lab: Guest) -> None:
    main = stopped(lab)
    process = main.process()
    thread = sibling(lab, main)
    leave(main)
    for turn in range(3):
        thread.ret(turn)
        assert lab.report(thread) == turn
    leave(thread)
    assert lab.death(process) == 0


def test_the_last_exit_is_the_end_of_the_process(lab: Guest) -> None:
    thread = stopped(lab)
    process = thread.process()
    leave(thread)
    status = lab.death(process)
    assert os.WIFEXITED(status) and process.read(CODE, 1) == b""


def test_a_fork_of_one_of_several_threads(lab: Guest) -> None:
    """The child has that thread alone."""
    main = stopped(lab)
    thread = sibling(lab, main)
    child = fork(lab, thread)
    leave(child)
    assert lab.death(child.process()) == 0
    main.ret(1)
    assert lab.report(main) == 1
    lab.kill(main.process())


def test_parking_or_not(lab: Guest) -> None:
    """A platform may keep a host thread for the next task; what is counted is given back."""
    main = stopped(lab)
    parking = Parking()
    for _turn in range(3):
        thread = sibling(lab, main)
        if not thread.park(parking):
            assert parking.count == 0
            leave(thread)
        assert parking.count == len(parking.processes)
    again = sibling(lab, main)
    assert parking.count == 0
    again.ret(6)
    assert lab.report(again) == 6
    again.wait_long()  # a hint
    if again.park(parking):
        assert parking.release() and parking.count == 0
    else:
        assert not parking.release()
        leave(again)
    main.ret(2)
    assert lab.report(main) == 2
    lab.kill(main.process())
    assert not parking.release()


# ---- exec ----


def test_a_new_image(lab: Guest) -> None:
    """execve: all that was is unmapped, the new image mapped, then filled, and entered."""
    thread = stopped(lab, b"", b"old data")
    process = thread.process()
    thread.queue_keep_only([])
    thread.queue_munmap(CODE, 0x4000)
    thread.queue_munmap(STACK - 0x10000, 0x10000)
    thread.queue_mmap(PLACE, 2 * PAGE, 7, MAP_FIXED_ANON, -1, 0)
    thread.run_ops()
    assert lab.event()[:2] == (EV_OPS_DONE, thread.ident())
    assert process.read(CODE, 1) == process.read(DATA, 1) == b""
    image = syscall(77, 5) + REPORT
    assert process.write(PLACE, image) == len(image)
    regs = thread.regs()
    fresh = type(regs)()
    fresh.rip, fresh.rsp = PLACE, PLACE + 2 * PAGE
    thread.set_regs(fresh)
    assert thread.set_fpstate(b"")
    thread.resume()
    assert lab.call(thread, 77)[3] == 5
    now = thread.regs()
    assert (now.rsp, now.rbx, now.r15, now.fs_base) == (PLACE + 2 * PAGE, 0, 0, 0)
    lab.kill(process)


def test_a_new_image_that_cannot_be_mapped(lab: Guest) -> None:
    """Past the point of no return: the kernel is told, and ends it."""
    thread = stopped(lab)
    thread.queue_munmap(CODE, 0x4000)
    thread.queue_mprotect(PLACE, PAGE, 3)
    thread.run_ops()
    assert lab.event()[:3] == (EV_OPS_FAILED, thread.ident(), 1)
    lab.kill(thread.process())


def test_a_new_image_in_a_new_process(lab: Guest, any_platform: Platform) -> None:
    """Where other tasks share the memory, execve takes a blank process, and the old one ends."""
    old = stopped(lab)
    process = any_platform.new_process()
    new = process.main_thread()
    assert process.ident() != old.process().ident()
    new.queue_mmap(CODE, PAGE, 7, MAP_FIXED_ANON, -1, 0)
    new.run_ops()
    assert lab.event_of(EV_OPS_DONE)[1] == new.ident()
    process.write(CODE, syscall(77) + REPORT)
    regs = new.regs()
    regs.rip = CODE
    new.set_regs(regs)
    leave(old)
    new.resume()
    seen = {event[0] for event in (lab.event_of(), lab.event_of())}
    assert seen == {EV_SYSCALL, EV_PROCESS_DIED}
    lab.kill(process)


# ---- interrupts and stops ----


def test_an_interrupt(lab: Guest) -> None:
    thread = lab.start(LOOP)
    assert lab.platform.next_event(SECOND // 50)[0] == EV_NONE
    for _ in range(5):
        assert thread.is_running()
        thread.interrupt()
        assert lab.event()[:2] == (EV_INTERRUPTED, thread.ident())
        assert not thread.is_running()
        assert thread.regs().rip == CODE
        thread.resume()
    lab.kill(thread.process())


def test_an_interrupt_changes_no_register(lab: Guest) -> None:
    thread = lab.start(mov("rax", 0x1111) + mov("rcx", 0x2222) + mov("r11", 0x3333) + LOOP)
    assert lab.platform.next_event(SECOND // 50)[0] == EV_NONE
    while True:  # it may not have come far yet
        thread.interrupt()
        assert lab.event()[0] == EV_INTERRUPTED
        regs = thread.regs()
        thread.resume()
        if regs.rip == CODE + 30:
            break
    assert (regs.rax, regs.rcx, regs.r11, regs.rsp) == (0x1111, 0x2222, 0x3333, STACK)
    lab.kill(thread.process())


def test_an_interrupt_of_one_of_several(lab: Guest) -> None:
    main = stopped(lab, syscall(39) + bytes.fromhex("4885c0") + bytes.fromhex("7502") + LOOP + REPORT)
    thread = main.queue_clone_thread()
    main.ret(1)  # the other has 0, and loops
    assert lab.report(main) == 1
    thread.interrupt()
    assert lab.event()[:2] == (EV_INTERRUPTED, thread.ident())
    main.ret(2)
    assert lab.report(main) == 2
    lab.kill(main.process())


def test_an_interrupt_that_another_event_answers(lab: Guest) -> None:
    """A thread stops once, for whatever came first; nothing comes later."""
    thread = lab.start(syscall(110) + bytes.fromhex("ebec") + LOOP)  # back to mov rax
    code = mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2")
    lab.event_of(EV_SYSCALL)
    thread.write(DATA, code)
    regs = thread.regs()
    regs.rip = DATA
    thread.set_regs(regs)
    thread.resume()
    for _ in range(200):
        thread.interrupt()
        event = lab.event()
        assert event[0] in (EV_SYSCALL, EV_INTERRUPTED) and event[1] == thread.ident()
        if event[0] == EV_INTERRUPTED:
            thread.resume()
        else:
            thread.ret(0)
    for _ in range(100):
        assert lab.event()[0] == EV_SYSCALL
        thread.ret(0)
    lab.event()
    lab.kill(thread.process())


def test_an_interrupt_of_a_stopped_thread_is_none(lab: Guest) -> None:
    thread = stopped(lab)
    thread.interrupt()
    assert lab.platform.next_event(0)[0] == EV_NONE
    thread.ret(1)
    event = lab.event()
    if event[0] == EV_INTERRUPTED:  # it may be late, not lost and not twice
        thread.resume()
        event = lab.event()
    assert event[:4] == (EV_SYSCALL, thread.ident(), 60, 1)
    thread.ret(2)
    assert lab.report(thread) == 2
    lab.kill(thread.process())


def test_an_interrupt_of_a_thread_that_is_being_born(lab: Guest) -> None:
    code = syscall(56) + bytes.fromhex("85c0") + bytes.fromhex("7402") + ud2() + LOOP
    main = lab.start(code)
    lab.call(main, 56)
    thread = main.queue_clone_thread()
    main.ret(1)
    thread.interrupt()
    kinds = {}
    for _ in range(2):
        event = lab.event()
        kinds[event[1]] = event[0]
    assert kinds == {main.ident(): EV_FAULT, thread.ident(): EV_INTERRUPTED}
    lab.kill(main.process())


def test_orders_for_a_thread_that_was_interrupted(lab: Guest) -> None:
    thread = lab.start(LOOP)
    thread.interrupt()
    assert lab.event()[0] == EV_INTERRUPTED
    thread.queue_mmap(PLACE, PAGE, 7, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE, syscall(88) + REPORT)
    regs = thread.regs()
    regs.rip = PLACE
    thread.set_regs(regs)
    thread.resume()
    lab.call(thread, 88)
    lab.kill(thread.process())


def test_a_pause_is_not_noticed(lab: Guest) -> None:
    thread = lab.start(count_at(DATA))
    process = thread.process()
    wait_for_progress(lab, process)
    if not process.pause():
        pytest.skip("this platform cannot pause")
    before = -1
    for _ in range(6000):  # the host may need a moment
        now = progress(process)
        assert lab.platform.next_event(SECOND // 100)[0] == EV_NONE
        if now == before == progress(process):
            break
        before = now
    else:
        pytest.fail("it goes on")
    process.proceed()
    wait_for_progress(lab, process)
    lab.kill(process)


def test_a_paused_process_can_be_killed(lab: Guest) -> None:
    thread = lab.start(LOOP)
    thread.process().pause()
    lab.kill(thread.process())


# ---- deaths ----


@pytest.mark.parametrize(
    "code", [LOOP, syscall(39) + LOOP, ud2()], ids=["running", "in a call", "at a fault"]
)
def test_a_kill_is_reported_once_with_its_status(lab: Guest, code: bytes) -> None:
    thread = lab.start(code)
    lab.platform.next_event(SECOND // 20)
    process = thread.process()
    process.kill()
    process.kill()
    event = lab.event_of(EV_PROCESS_DIED)
    assert event[1:3] == (-1, process.ident())
    assert os.WTERMSIG(event[3]) == signal.SIGKILL
    process.kill()
    assert process.read(CODE, 4) == b"" and process.write(CODE, b"x") == 0
    assert not process.has_pending_ops() and not process.is_unborn() and not process.pause()
    process.proceed()
    assert all(figure >= 0 for figure in process.cpu_times_ns())
    thread.discard()
    thread.discard()
    assert lab.platform.next_event(0)[0] == EV_NONE


def test_all_threads_die_with_their_process(lab: Guest) -> None:
    main = stopped(lab)
    threads = [sibling(lab, main) for _ in range(5)]
    main.ret(1)
    lab.report(main)
    lab.kill(main.process())
    for each in threads:
        each.discard()
    assert lab.platform.next_event(0)[0] == EV_NONE


def test_a_process_that_dies_while_others_run(lab: Guest) -> None:
    others = [stopped(lab) for _ in range(4)]
    victim = lab.start(LOOP)
    for each in others:
        each.ret(1)
    victim.process().kill()
    seen = set()
    while len(seen) < 5:
        event = lab.event_of()
        seen.add(event[2] if event[0] == EV_PROCESS_DIED else event[1] + (1 << 40))
    assert victim.process().ident() in seen
    victim.discard()
    for each in others:
        lab.kill(each.process())


def test_idents_of_processes_are_not_used_again(lab: Guest) -> None:
    seen: set[int] = set()
    for _ in range(10):
        thread = stopped(lab)
        assert thread.process().ident() not in seen
        seen.add(thread.process().ident())
        lab.kill(thread.process())


def test_nobody_is_overdue_who_answers(lab: Guest) -> None:
    thread = stopped(lab)
    assert lab.platform.overdue() == []
    lab.kill(thread.process())


# ---- figures ----


def test_figures(lab: Guest) -> None:
    """0 where the platform does not know; never nonsense."""
    thread = stopped(lab)
    process = thread.process()
    thread.queue_mmap(PLACE, 64 * PAGE, 3, MAP_FIXED_ANON, -1, 0)
    thread.write(PLACE, b"x" * 64 * PAGE)
    thread.ret(0)
    lab.report(thread)
    assert process.rss_bytes() == 0 or process.rss_bytes() >= 64 * PAGE
    assert 0 <= process.anonymous_bytes() <= process.rss_bytes()
    alone, whole = process.footprint_bytes()
    assert 0 <= alone <= whole
    assert all(figure >= 0 for figure in process.usage())
    assert all(figure >= 0 for figure in thread.usage())
    assert all(figure >= 0 for figure in process.cpu_times_ns())
    assert all(figure >= -1 for figure in thread.cpu_times_ns())
    assert lab.platform.own_bytes() >= 0 and lab.platform.own_data_bytes() >= 0
    lab.kill(process)


def test_cpu_times_grow(lab: Guest) -> None:
    thread = lab.start(LOOP)
    process = thread.process()
    seen = [(0, 0)]
    for _ in range(20):
        assert lab.platform.next_event(SECOND // 100)[0] == EV_NONE
        seen.append(process.cpu_times_ns())
    assert seen == sorted(seen, key=lambda pair: pair[0]) and seen == sorted(seen, key=lambda pair: pair[1])
    lab.kill(process)


# ---- events ----


def test_waiting_ends_in_time(any_platform: Platform) -> None:
    assert any_platform.next_event(0)[0] == EV_NONE
    began = time.monotonic_ns()
    assert any_platform.next_event(SECOND // 100)[0] == EV_NONE
    assert any_platform.next_event(-1, time.monotonic_ns() + SECOND // 100)[0] == EV_NONE
    assert any_platform.next_event(-1, began)[0] == EV_NONE  # that is over
    assert time.monotonic_ns() - began >= SECOND // 50


def test_descriptors_are_watched(any_platform: Platform) -> None:
    end, start = os.pipe()
    any_platform.add_fd(end, 4711, 1)
    assert any_platform.next_event(0)[0] == EV_NONE
    os.write(start, b"x")
    for _ in range(2):  # by the level
        assert any_platform.next_event(LONG)[:4] == (EV_FD, -1, 4711, 1)
    any_platform.modify_fd(end, 4712, 0)
    assert any_platform.next_event(0)[0] == EV_NONE
    any_platform.modify_fd(end, 4713, 1)
    assert any_platform.next_event(LONG)[:4] == (EV_FD, -1, 4713, 1)
    os.read(end, 1)
    assert any_platform.next_event(0)[0] == EV_NONE
    os.close(start)
    event = any_platform.next_event(LONG)
    assert event[:3] == (EV_FD, -1, 4713) and event[3] & 0x10  # hung up
    any_platform.remove_fd(end)
    assert any_platform.next_event(0)[0] == EV_NONE
    os.close(end)


def test_descriptors_and_guests_get_their_turns(lab: Guest) -> None:
    end, start = os.pipe()
    os.write(start, b"x")
    lab.platform.add_fd(end, 1, 1)
    thread = lab.start(syscall(110) + REPORT)
    kinds = set()
    for _ in range(10_000):
        event = lab.event(LONG)
        kinds.add(event[0])
        if event[0] == EV_SYSCALL:
            thread.ret(0)
        if {EV_FD, EV_SYSCALL} <= kinds:
            break
    assert {EV_FD, EV_SYSCALL} <= kinds
    lab.platform.remove_fd(end)
    os.close(end)
    os.close(start)
    lab.kill(thread.process())


def test_nobody_is_left_out(lab: Guest) -> None:
    """Callers beside endless loops: each gets on."""
    loops = [lab.start(LOOP) for _ in range(3)]
    callers = [lab.start(mov("rax", 110) + SYSCALL + bytes.fromhex("ebf2")) for _ in range(6)]
    counts = dict.fromkeys((each.ident() for each in callers), 0)
    total = 0
    while min(counts.values()) < 20:
        event = lab.event(LONG)
        assert event[0] == EV_SYSCALL and total < 1_000_000
        counts[event[1]] += 1
        total += 1
        lab.platform.thread(event[1]).ret(0)
    for each in (*loops, *callers):
        each.process().kill()
    alive = {each.process().ident() for each in (*loops, *callers)}
    while alive:
        event = lab.event(LONG)
        if event[0] == EV_PROCESS_DIED:
            alive.discard(event[2])
    for each in (*loops, *callers):
        each.discard()


# ---- guests that lie ----


@pytest.mark.parametrize("rip", [0, 1 << 46, 1 << 47, 1 << 63, (1 << 64) - 1])
def test_a_program_counter_that_leads_nowhere(lab: Guest, rip: int) -> None:
    """A fault of the guest's, or its end; nothing of the platform's."""
    thread = stopped(lab)
    regs = thread.regs()
    regs.rip = rip
    thread.set_regs(regs)
    thread.resume()
    event = lab.event_of()
    if event[0] == EV_PROCESS_DIED:
        assert event[2] == thread.process().ident()
        thread.discard()
        return
    assert event[:3] == (EV_FAULT, thread.ident(), signal.SIGSEGV)
    lab.kill(thread.process())


@pytest.mark.parametrize("sp", [0, 8, 1 << 46, 1 << 47, (1 << 64) - 8])
def test_a_stack_pointer_that_leads_nowhere(lab: Guest, sp: int) -> None:
    thread = stopped(lab)
    regs = thread.regs()
    regs.rsp = sp
    thread.set_regs(regs)
    thread.ret(1)
    assert lab.report(thread) == 1
    assert thread.regs().rsp == sp
    lab.kill(thread.process())


def test_a_guest_that_unmaps_itself(lab: Guest) -> None:
    thread = stopped(lab)
    thread.queue_munmap(lab.platform.min_address(), STACK - lab.platform.min_address())
    thread.ret(0)
    assert lab.event()[:4] == (EV_FAULT, thread.ident(), signal.SIGSEGV, 1)
    lab.kill(thread.process())


def test_arguments_that_are_changed_while_the_kernel_looks(lab: Guest) -> None:
    """Another thread writes all the time: what is read once stays what it is, and nothing falls over."""
    main = stopped(lab)
    thread = main.queue_clone_thread()
    main.process().write(CODE + 0x2000, count_at(DATA))
    regs = thread.regs()
    regs.rip = CODE + 0x2000
    thread.set_regs(regs)
    main.ret(0)
    assert lab.report(main) == 0
    for turn in range(200):
        once = main.read(DATA, 8)
        kept = bytes(once)
        main.ret(turn)
        assert lab.report(main) == turn
        assert once == kept
    lab.kill(main.process())


def test_random_code(lab: Guest) -> None:
    """Whatever a guest executes, it calls, faults, loops or dies; the others go on."""
    dice = random.Random(10)
    honest = stopped(lab)
    for turn in range(40):
        code = bytes(dice.randrange(256) for _ in range(64)) + jump_to(CODE)
        thread = lab.start(code)
        for _ in range(3):
            event = lab.platform.next_event(SECOND // 500)
            if event[0] in (EV_NONE, EV_PROCESS_DIED):
                break
            assert event[0] in (EV_SYSCALL, EV_FAULT) and event[1] == thread.ident()
            if event[0] == EV_FAULT:
                break
            thread.ret(-38)
        if event[0] == EV_PROCESS_DIED:
            thread.discard()
        else:
            lab.kill(thread.process())
        honest.ret(turn)
        assert lab.report(honest) == turn
    lab.kill(honest.process())
