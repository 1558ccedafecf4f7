"""Hostile guests against the platform: each rule of docs/design.md 3.3, and forged slots.

A guest can jump to any instruction of the stub with any registers and can write its whole slot.  Each test does
that, asserts that it got nowhere, and that the sentry still serves a well-behaved guest.
"""

import errno
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloche.platform import _native, layout, systrap
from cloche.platform.interface import (
    EV_FAULT,
    EV_INTERRUPTED,
    EV_NONE,
    EV_OPS_FAILED,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    Event,
    HostProcess,
    HostThread,
)
from cloche.platform.systrap import Systrap

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "platform"))

import code_guest
from code_guest import CODE, MAP_FIXED_ANON, SECOND, Guest
from machine_code import LOOP, SYSCALL, jump_to, mov, syscall, ud2

STUB = (Path(systrap.__file__).parent / "stub.elf").read_bytes()
# mov $15,%eax; syscall; ud2: jumping into the middle of it makes any syscall, from inside the stub
GADGET = layout.STUB_BASE + STUB.index(bytes.fromhex("b80f0000000f050f0b")) + 5
SLOT = layout.REGION_BASE
ST_REQUEST = 1
EPERM = -1


@pytest.fixture(scope="module", params=["strict", "direct"])
def platform(request: pytest.FixtureRequest) -> Iterator[Systrap]:
    it = Systrap(request.param)
    it.start()
    yield it
    it.shutdown()


@pytest.fixture
def guest(platform: Systrap) -> Iterator[Guest]:
    it = Guest(platform)
    yield it
    serves(it)


def late(guest: Guest, limit_ns: int) -> list[int]:
    """The processes that owe an answer for longer: as `overdue`, with the test's own limit."""
    assert isinstance(guest.platform, Systrap)
    processes = guest.platform._processes.values()
    return [p.ident() for p in processes if not p.is_dead and _native.is_overdue(p.handle, limit_ns, 1)]


def serves(guest: Guest) -> None:
    """The sentry still serves: a guest makes calls, maps memory and forks."""
    thread = guest.start(syscall(39) + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL)
    while True:
        event = guest.event()
        if event[1] == thread.ident():
            break
    child = thread.queue_fork()
    thread.queue_mmap(0x10000000, 4096, 3, MAP_FIXED_ANON, -1, 0)
    thread.ret(5)
    seen: dict[int, Event] = {}
    while len(seen) < 2:
        event = guest.event()
        if event[1] in (thread.ident(), child.main_thread().ident()):
            seen[event[1]] = event
    assert seen[thread.ident()][2:4] == (60, 5)
    assert seen[child.main_thread().ident()][2:4] == (60, 0)
    end(guest, child)
    end(guest, thread.process())


def end(guest: Guest, process: HostProcess) -> Event:
    """Kill a process, and wait for its death among its other events."""
    process.kill()
    while True:
        event = guest.event()
        if event[0] == EV_PROCESS_DIED and event[2] == process.ident():
            process.main_thread().discard()
            return event


def via_gadget(nr: int, *args: int) -> bytes:
    """A syscall whose instruction lies in the stub; ud2 follows it."""
    return syscall(nr, *args)[:-2] + jump_to(GADGET)


def outcome(guest: Guest, code: bytes, extra: bytes = b"") -> tuple[str, int]:
    """Run code that ends in the gadget: ("result", rax), ("killed", signal) or ("event", number)."""
    thread = guest.start(code, extra)
    while True:
        event = guest.event()
        if event[0] == EV_PROCESS_DIED and event[2] == thread.process().ident():
            thread.discard()
            return "killed", os.WTERMSIG(event[3])
        if event[1] != thread.ident():
            continue
        result = ("event", event[2])
        if event[0] == EV_FAULT:
            rax = thread.regs().rax
            result = ("result", rax - (1 << 64) if rax >> 63 else rax)
        elif event[0] == EV_OPS_FAILED:
            result = ("failed", event[3])
        end(guest, thread.process())
        return result


REFUSED = {
    "munmap of the stub": (11, layout.STUB_BASE, 4096),
    "munmap of everything": (11, 0, 1 << 47),
    "munmap across the end": (11, layout.MAX_ADDRESS - 4096, 1 << 33),
    "mprotect of the stub": (10, layout.STUB_BASE, 4096, 7),
    "mprotect of the info page": (10, layout.INFO_BASE, 4096, 3),
    "mprotect of the vdso": (10, layout.VDSO_BASE, 4096, 3),
    "mmap over the stub": (9, layout.STUB_BASE, 4096, 7, 0x32, -1, 0),
    "mmap over the region": (9, layout.REGION_BASE, 4096, 7, 0x32, -1, 0),
    "mmap of a descriptor": (9, 0x700000, 4096, 3, 0x12, 30, 0),
    "shared mmap of a kept descriptor": (9, 0x700000, 4096, 3, 0x11, 8, 0),
    "mmap of a kept descriptor elsewhere": (9, 0x700000, 4096, 3, 0x2, 8, 0),
    "shared anonymous mmap": (9, 0x700000, 4096, 3, 0x31, -1, 0),
    "growing mmap": (9, 0x700000, 4096, 3, 0x132, -1, 0),
    "locked mmap": (9, 0x700000, 4096, 3, 0x2032, -1, 0),
    "huge page mmap": (9, 0x700000, 4096, 3, 0x40032, -1, 0),
    "mmap of 2^47 bytes": (9, 0x700000, 1 << 47, 3, 0x32, -1, 0),
    "mmap with high flags": (9, 0x700000, 4096, 3, 0x32 | 1 << 40, -1, 0),
    "mremap to where there is room": (25, CODE, 4096, 8192, 1, 0),
    "mremap that leaves the old place": (25, CODE, 4096, 4096, 7, 0x700000),
    "mremap of the stub": (25, layout.STUB_BASE, 4096, 4096, 3, 0x700000),
    "mremap of the region": (25, layout.REGION_BASE, layout.REGION_SIZE, layout.REGION_SIZE, 3, 0x700000),
    "mremap of the vdso": (25, layout.VDSO_BASE, 4096, 4096, 3, 0x700000),
    "mremap over the stub": (25, CODE, 4096, 4096, 3, layout.STUB_BASE),
    "mremap up to the stub": (25, CODE, 4096, 1 << 32, 3, layout.MAX_ADDRESS - 4096),
    "mremap with high flags": (25, CODE, 4096, 8192, 3 | 1 << 40, 0x700000),
    "madvise remove": (28, CODE, 4096, 9),
    "madvise hwpoison": (28, CODE, 4096, 100),
    "fork": (56, 17, 0, 0, 0, 0),
    "fork as ordered elsewhere": (56, 0x8011, 0, 0, 0, 0),
    "thread": (56, 0x50F00, CODE + 0x800, 0, 0, 0),
    "new user namespace": (56, 0x10000011, 0, 0, 0, 0),
    "exit": (60, 0),
    "remap of the region": (9, layout.REGION_BASE, layout.REGION_SIZE, 3, 0x11, 8, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_ordered_is_refused(guest: Guest, name: str) -> None:
    assert outcome(guest, via_gadget(*REFUSED[name])) == ("result", EPERM)


KILLED = {
    "read": (0, 0, CODE, 1), "open": (2, CODE, 0), "socket": (41, 2, 1, 0), "execve": (59, CODE, 0, 0),
    "kill": (62, 1, 9), "ptrace": (101, 0, 0, 0, 0), "clone3": (435, CODE, 88), "exit_group": (231, 0),
    "sigaltstack": (131, 0, 0), "rt_sigaction": (13, 31, 0, 0, 8), "seccomp": (317, 1, 0, 0),
    "prctl": (157, 59, 1, 0, 0, 0), "sched_yield without the magic": (24, 0, 0), "futex requeue": (202, CODE, 3, 1),
    "futex lock_pi": (202, CODE, 6, 1), "sendmsg": (46, 3, CODE, 0), "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 0), "io_uring_setup": (425, 1, CODE), "bpf": (321, 0, 0, 0), "arch_prctl": (158, 0x1002, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", KILLED)
def test_no_other_call_leaves_the_stub(guest: Guest, name: str) -> None:
    assert outcome(guest, via_gadget(*KILLED[name])) == ("killed", signal.SIGSYS)


def test_every_number_with_random_arguments(guest: Guest) -> None:
    """No call from inside the stub succeeds but those that are harmless."""
    rng = random.Random(4)
    harmless = {3, 15, 202, 219}  # close, rt_sigreturn, futex, restart_syscall
    if guest.platform.is_direct():
        harmless |= {9, 10, 11, 25, 28}
    for nr in [*range(0, 336, 3), *range(424, 470, 3), 0x7FFFFFFF]:
        if nr in harmless or nr in (335, 336):  # uretprobe and uprobe pass every filter and do nothing
            continue
        args = [rng.choice([0, 1, -1, CODE, rng.getrandbits(64), rng.getrandbits(16)]) for _ in range(6)]
        result = outcome(guest, via_gadget(nr, *args))
        assert result in (("killed", signal.SIGSYS), ("result", EPERM), ("event", nr)), (nr, args)


def test_calls_from_outside_the_stub_always_trap(guest: Guest) -> None:
    rng = random.Random(5)
    for nr in [*range(0, 335, 7), *range(337, 470, 7), 512, 0x40000000, 0x40000001, 0x7FFFFFFF]:
        args = [rng.getrandbits(64) for _ in range(6)]
        assert outcome(guest, syscall(nr, *args)) == ("event", nr)
    # The instruction pointer is compared in both halves.
    thread = guest.start(ud2())
    guest.event()
    for high in (0x10000, 0x6FFF0000):
        thread.queue_mmap(high, 0x2000, 7, MAP_FIXED_ANON, -1, 0)
        thread.write(high + 0xC0, syscall(231, 0))
        regs = thread.regs()
        regs.rip = high + 0xC0
        thread.set_regs(regs)
        thread.resume()
        assert guest.event()[:3] == (EV_SYSCALL, thread.ident(), 231)
    end(guest, thread.process())


def test_i386_and_vsyscall_entries_trap(guest: Guest) -> None:
    assert outcome(guest, mov("rax", 1) + bytes.fromhex("cd80")) == ("event", -1)
    # call 0xffffffffff600000 (gettimeofday): emulated as a trap, or a fault where there is no vsyscall page
    kind, value = outcome(guest, mov("rdi", CODE) + mov("rax", 0xFFFFFFFFFF600000) + bytes.fromhex("ffd0"))
    assert (kind, value) == ("event", 96) or kind == "result"


def test_int80_from_inside_the_stub_does_not_pass(guest: Guest) -> None:
    assert bytes.fromhex("cd80") not in STUB
    assert bytes.fromhex("0f34") not in STUB  # sysenter


def test_closing_and_waking_do_no_harm(guest: Guest) -> None:
    assert outcome(guest, via_gadget(3, 8)) == ("result", -9)
    assert outcome(guest, via_gadget(202, CODE, 1, 10)) == ("result", 0)


def test_the_info_page_and_the_stub_are_read_only(guest: Guest) -> None:
    for addr in (layout.INFO_BASE, layout.STUB_BASE, layout.VDSO_BASE):
        thread = guest.start(mov("rax", addr) + bytes.fromhex("c60001"))
        event = guest.event()
        assert event[:3] == (EV_FAULT, thread.ident(), 11)
        assert event[4] == addr
        end(guest, thread.process())


def soon(guest: Guest) -> Event:
    """The next event of a guest that does not ring: found when the sentry looks."""
    event = guest.platform.next_event(0)
    for _ in range(20):
        if event[0] != EV_NONE:
            break
        event = guest.platform.next_event(SECOND // 100)
    return event


def eventually(guest: Guest) -> Event:
    """The next event, which is certain to come, even on a busy machine."""
    deadline = time.monotonic() + 60
    while True:
        event = guest.platform.next_event(SECOND // 100)
        if event[0] != EV_NONE:
            return event
        assert time.monotonic() < deadline, "no event in time"


def store(addr: int, value: int, width: int = 8) -> bytes:
    """mov [addr], value"""
    op = {8: "488910", 4: "8910"}[width]
    return mov("rax", addr) + mov("rdx", value) + bytes.fromhex(op)


def test_forged_requests_are_only_the_guests_own(guest: Guest) -> None:
    """A guest that posts by itself, with every field forged."""
    code = b""
    for offset in range(8, 0x600, 8):
        code += store(SLOT + offset, 0xFFFFFFFFFFFFFFFF)
    for kind in (1, 2, 3, 4, 5, 6, 7, 8, 99, 0xFFFFFFFF):
        body = code + store(SLOT + 4, kind, 4) + store(SLOT, ST_REQUEST, 4) + LOOP
        thread = guest.start(body)
        event = soon(guest)
        if event[0] == EV_PROCESS_DIED:  # because of its report about operations
            assert kind == 4 and event[2] == thread.process().ident()
            thread.discard()
            continue
        assert event[0] == EV_NONE or event[1] == thread.ident()
        if event[0] == EV_SYSCALL:
            assert event[2] == -1
            assert thread.read(0xFFFFFFFFFFFFFFFF, 16) == b""
            regs = thread.regs()
            if thread.has_all_registers():
                thread.set_regs(regs)  # values that were read can be set
                thread.fpstate()
        end(guest, thread.process())


def test_a_failure_without_operations_ends_the_guest(guest: Guest) -> None:
    """It is the guest's word for what was never ordered."""
    refused = _native.counts()[3]
    thread = guest.start(syscall(39) + store(SLOT + 4, 4, 4) + store(SLOT, ST_REQUEST, 4) + LOOP)
    assert guest.event()[2] == 39
    thread.ret(0)
    event = eventually(guest)  # it does not ring
    assert event[0] == EV_PROCESS_DIED and event[2] == thread.process().ident()
    assert os.WTERMSIG(event[3]) == signal.SIGKILL
    assert _native.counts()[3] == refused + 1
    thread.discard()


@pytest.mark.parametrize("flags", [0x11, 0x12], ids=["shared", "private"])
def test_operations_that_are_skipped_leave_no_descriptor(guest: Guest, flags: int, tmp_path: Path) -> None:
    """The guest takes the answer and makes its next call without the mapping that was ordered."""
    wait = bytes.fromhex("813b01000000 74f8")  # 1: cmpl $ST_REQUEST, (%rbx); je 1b
    call = store(SLOT + layout.SLOT_SYSNO, 39) + store(SLOT + 4, 1, 4) + store(SLOT, ST_REQUEST, 4) + wait
    thread = guest.start(mov("rbx", SLOT) + 12 * call + LOOP)
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    counts = []
    with path.open("r+b") as file:
        for turn in range(12):
            assert eventually(guest)[:3] == (EV_SYSCALL, thread.ident(), 39)
            counts.append(len(os.listdir("/proc/self/fd")))
            if turn < 11:
                thread.queue_mmap(0x10000000 + turn * 4096, 4096, 1, flags, file.fileno(), 0)
                thread.ret(0)
    assert counts[-1] <= counts[1] + 3, counts  # some are opened once; it was one for each turn
    end(guest, thread.process())


FORK_AND_COUNT = mov("rax", 57) + SYSCALL + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL


def test_a_child_that_is_killed_before_its_birth_is_ordered(guest: Guest) -> None:
    """The number of its thread is another's by the time the parent is resumed: no process is born, and no other
    disturbed.
    """
    parent = guest.start(FORK_AND_COUNT)
    assert guest.event()[2] == 57
    child = parent.queue_fork()
    child.kill()
    child.main_thread().discard()
    other = guest.start(syscall(39) + LOOP)
    while guest.event()[:3] != (EV_SYSCALL, other.ident(), 39):
        pass
    parent.ret(7)
    event = guest.event()
    assert event[:4] == (EV_SYSCALL, parent.ident(), 60, 7)
    assert not parent.process().has_pending_ops()
    other.ret(0)
    end(guest, other.process())
    end(guest, parent.process())


@pytest.fixture
def one_task(request: pytest.FixtureRequest) -> Iterator[Callable[[HostProcess], Path]]:
    """A control group in which a process can have no second task: the file with its limit."""
    folder = Path("/sys/fs/cgroup/pids") / f"cloche-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no control group for pids can be made")

    def enter(process: HostProcess) -> Path:
        assert isinstance(process, systrap.SystrapProcess)
        (folder / "cgroup.procs").write_text(str(process.host_pid()))
        (folder / "pids.max").write_text("1")
        return folder / "pids.max"

    yield enter
    deadline = time.monotonic() + 60
    while True:  # processes that end keep it busy for a while
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_clone_that_the_host_refuses_fails(
    guest: Guest, one_task: Callable[[HostProcess], Path], kind: str
) -> None:
    """The guest's word for it is true, and the host's lists show that; the next one succeeds."""
    parent = guest.start(mov("rax", 57) + SYSCALL + FORK_AND_COUNT)
    assert guest.event()[2] == 57
    limit = one_task(parent.process())
    before = _native.counts()[:3]
    born = parent.queue_fork().main_thread() if kind == "process" else parent.queue_clone_thread()
    parent.ret(9)
    event = guest.event()
    assert (event[0], event[1], event[3]) == (EV_OPS_FAILED, parent.ident(), errno.EAGAIN)
    if kind == "process":
        born.process().kill()
    born.discard()
    # Remains of earlier tests may have disappeared meanwhile; this clone has left nothing.
    assert all(now <= was for now, was in zip(_native.counts()[:3], before, strict=True))
    limit.write_text("max")
    parent.ret(-errno.EAGAIN)
    assert guest.event()[:3] == (EV_SYSCALL, parent.ident(), 57)
    child = parent.queue_fork()
    parent.ret(5)
    seen = {}
    while len(seen) < 2:
        event = guest.event()
        if event[0] == EV_SYSCALL:
            seen[event[1]] = event[3]
    assert seen == {parent.ident(): 5, child.main_thread().ident(): 0}
    end(guest, child)
    end(guest, parent.process())


def test_a_guest_that_runs_on_while_it_seems_stopped(guest: Guest) -> None:
    code = store(SLOT + 4, 1, 4) + store(SLOT + layout.SLOT_SYSNO, 57) + store(SLOT, ST_REQUEST, 4) + LOOP
    thread = guest.start(code)
    event = eventually(guest)
    assert event[:3] == (EV_SYSCALL, thread.ident(), 57)
    child = thread.queue_fork()  # never executed
    thread.queue_mmap(0x10000000, 4096, 3, MAP_FIXED_ANON, -1, 0)
    thread.ret(0)
    assert guest.platform.next_event(SECOND // 20)[0] == EV_NONE
    assert thread.process().has_pending_ops()
    assert late(guest, 1) == [thread.process().ident()]
    thread.process().kill()
    died = {guest.event()[2], guest.event()[2]}
    assert died == {thread.process().ident(), child.ident()}
    thread.discard()
    child.main_thread().discard()


FORGED_TURNS = ["a call", "a fault", "an interrupt", "a call without a frame", "a cut"]


@pytest.mark.parametrize("kind", [1, 2, 3, 7, 8], ids=FORGED_TURNS)
def test_a_thread_that_owes_an_answer_says_nothing_else(guest: Guest, kind: int) -> None:
    """Its task waits in a call meanwhile: another event would have it in two at once."""
    wait = bytes.fromhex("813b01000000 74f8")  # 1: cmpl $ST_REQUEST, (%rbx); je 1b
    code = (
        mov("rbx", SLOT)
        + store(SLOT + layout.SLOT_SYSNO, 39)
        + store(SLOT + 4, 1, 4)
        + store(SLOT, ST_REQUEST, 4)
        + wait
        + store(SLOT + 4, kind, 4)
        + store(SLOT, ST_REQUEST, 4)
        + LOOP
    )
    thread = guest.start(code)
    assert eventually(guest)[:3] == (EV_SYSCALL, thread.ident(), 39)
    thread.run_ops()
    event = eventually(guest)
    assert (event[0], event[2]) == (EV_PROCESS_DIED, thread.process().ident())
    thread.discard()


def test_forged_progress_does_not_order_anything(guest: Guest) -> None:
    """The guest claims that its operations are done, and asks for more than was ordered.

    What *was* ordered may be carried out: if the guest reaches its fault before the sentry answers the forged request,
    the stub takes that answer for the fault's, empties CODE as ordered and returns to the ud2 with the answer's rax.
    """
    forged = 0x900000
    thread = guest.start(
        store(SLOT + 4, 1, 4)
        + store(SLOT + layout.SLOT_OPS_DONE, 1000, 4)
        + store(SLOT, ST_REQUEST, 4)
        + via_gadget(25, CODE, 4096, 4096, 7, forged)
    )
    while True:
        event = eventually(guest)
        assert event[1] == thread.ident()
        if event[0] == EV_FAULT:
            break
        thread.queue_mremap(CODE, 4096, 4096, 7, 0x700000)
        thread.ret(EPERM)
    assert thread.regs().rax == (1 << 64) - 1
    assert thread.process().read(forged, 1) == b""
    end(guest, thread.process())


def test_a_forged_thread_id_names_no_other_process(guest: Guest) -> None:
    """tid in the slot is a candidate: an interrupt must not reach a stranger."""
    victim = guest.start(LOOP)
    victim_process = victim.process()
    assert isinstance(victim_process, systrap.SystrapProcess)
    code = syscall(56) + bytes.fromhex("85c0") + bytes.fromhex("7402") + LOOP
    pid = victim_process.host_pid()
    forged = b"".join(store(SLOT + layout.SLOT_SIZE + layout.SLOT_TID, p, 4) for p in (os.getpid(), pid))
    main = guest.start(code + forged + LOOP)
    while guest.event()[0] != EV_SYSCALL:
        pass
    thread = main.queue_clone_thread()
    main.ret(1)
    time.sleep(0.05)  # the new thread forges its own tid
    thread.interrupt()
    for _ in range(3):
        event = guest.platform.next_event(SECOND // 50)
        assert event[1] != victim.ident()
    end(guest, main.process())
    end(guest, victim.process())


def test_bells_without_end(guest: Guest) -> None:
    bell = mov("rdi", layout.BELL_ARG0) + mov("rsi", layout.BELL_ARG1)
    thread = guest.start(bell + mov("rax", 24) + jump_to(GADGET))
    for _ in range(50):
        event = guest.event()
        assert event[:2] == (EV_FAULT, thread.ident())
        regs = thread.regs()
        assert regs.rax == 0
        regs.rip = CODE
        thread.set_regs(regs)
        thread.resume()
    end(guest, thread.process())


def test_a_guest_that_masks_the_interrupt_is_found_and_killed(guest: Guest) -> None:
    """rt_sigreturn with a mask of all signals: nothing will stop that thread but a kill."""
    frame = bytearray(1024)
    struct.pack_into("<Q", frame, 8 + 40 + 16 * 8, CODE + 0x800)  # rip
    struct.pack_into("<Q", frame, 8 + 40 + 15 * 8, CODE + 0x3000)  # rsp
    struct.pack_into("<Q", frame, 8 + 40 + 17 * 8, 0x202)
    struct.pack_into("<HHHH", frame, 8 + 40 + 18 * 8, 0x33, 0, 0, 0x2B)
    struct.pack_into("<Q", frame, 8 + 40 + 256, 0xFFFFFFFFFFFFFFFF)
    code = mov("rsp", CODE + 0x1008) + mov("rax", 15) + jump_to(GADGET)
    thread = guest.start(code.ljust(0x800, b"\x90") + LOOP, bytes(frame))
    assert guest.platform.next_event(SECOND // 20)[0] == EV_NONE
    thread.interrupt()
    assert guest.platform.next_event(SECOND // 20)[0] == EV_NONE
    assert guest.platform.overdue() == []
    assert late(guest, SECOND // 100) == [thread.process().ident()]
    end(guest, thread.process())


def test_garbage_code(guest: Guest) -> None:
    """Random instructions, with pointers into the stub and the slot in the registers."""
    rng = random.Random(6)
    alive: dict[int, HostThread] = {}
    ended = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        while len(alive) < 4:
            pointers = b"".join(
                mov(r, rng.choice([SLOT, SLOT + 0x1000, GADGET, CODE, layout.INFO_BASE, rng.getrandbits(64)]))
                for r in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r11")
            )
            body = pointers + rng.choice(
                [rng.randbytes(200), jump_to(layout.STUB_BASE + rng.randrange(len(STUB)))]
            )
            thread = guest.start(body)
            alive[thread.ident()] = thread
        event = guest.platform.next_event(SECOND // 20)
        if event[0] == EV_STARTED:
            continue
        if event[0] == EV_PROCESS_DIED:
            for ident, thread in list(alive.items()):
                if thread.process().ident() == event[2]:
                    del alive[ident]
                    thread.discard()
                    ended += 1
            continue
        for thread in list(alive.values()):
            if event[0] == EV_NONE:
                thread.interrupt()
                thread.process().kill()
        if event[1] in alive:
            thread = alive[event[1]]
            if event[0] in (EV_FAULT, EV_OPS_FAILED) or rng.random() < 0.2:
                thread.process().kill()
            elif event[0] in (EV_SYSCALL, EV_INTERRUPTED):
                thread.ret(0)
    assert ended > 20
    for thread in alive.values():
        thread.process().kill()
    idents = {thread.process().ident() for thread in alive.values()}
    while idents:
        event = guest.event()
        if event[0] == EV_PROCESS_DIED:
            idents.discard(event[2])
    for thread in alive.values():
        thread.discard()


ORPHAN = """
import sys
sys.path.insert(0, sys.argv[1])
import code_guest  # noqa: E402
from code_guest import Guest
from machine_code import SYSCALL, mov
from cloche.platform.systrap import Systrap
platform = Systrap()
platform.start()
# count down for a moment, then make a call
thread = Guest(platform).start(mov("rcx", 1_000_000_000) + bytes.fromhex("48ffc975fb") + mov("rax", 39) + SYSCALL)
print(thread.process().host_pid(), flush=True)
platform.next_event(-1)
"""


def test_a_guest_whose_sentry_died_dies_at_its_next_call() -> None:
    sentry = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(Path(code_guest.__file__).parent)], stdout=subprocess.PIPE
    )
    assert sentry.stdout is not None
    pid = int(sentry.stdout.readline())
    time.sleep(0.05)  # let it fall asleep
    sentry.kill()
    sentry.wait()
    sentry.stdout.close()
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the guest lives on")
