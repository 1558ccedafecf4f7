"""The behaviour of every platform, through its interface alone: processes and threads, from birth to death."""

import os

from code_guest import CODE, MAP_FIXED_ANON, SECOND, STACK, Guest
from machine_code import REPORT, mov, store, syscall
from relatives import DATA, fork, leave, progress, sibling, stopped

from cloche.abi.mman import MAP_FIXED, MAP_SHARED
from cloche.platform.interface import (
    EV_NONE,
    EV_OPS_DONE,
    EV_OPS_FAILED,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    Parking,
    Platform,
)

PLACE = 0x10000000
PAGE = 4096
LONG = 60 * SECOND


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
    assert parent.process().read(PLACE, 1) == b""  # the other queued operations are undone, too
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
