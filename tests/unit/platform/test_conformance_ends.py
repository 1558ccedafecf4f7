"""The behaviour of every platform, through its interface alone: stops of threads and ends of processes, the events
about them, and guests that lie.
"""

import os
import random
import signal
import time

import pytest
from code_guest import CODE, MAP_FIXED_ANON, SECOND, STACK, Guest
from machine_code import LOOP, REPORT, SYSCALL, count_at, jump_to, mov, syscall, ud2
from relatives import DATA, progress, sibling, stopped, wait_for_progress

from cloche.platform.interface import (
    EV_FAULT,
    EV_FD,
    EV_INTERRUPTED,
    EV_NONE,
    EV_PROCESS_DIED,
    EV_SYSCALL,
    Platform,
)

PLACE = 0x10000000
PAGE = 4096
LONG = 60 * SECOND


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
    """A thread stops once, for the first event; no second one comes."""
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
    """A guest with any code calls, faults, loops or dies; the others go on."""
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
