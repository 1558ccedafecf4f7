"""clone and execve on a host that refuses the n-th step, for every n: no half-made object is left."""

import gc
import struct
from collections.abc import Callable, Iterator

import pytest

from cloche.abi.errno import EMFILE, LinuxError
from cloche.abi.sched import (
    CLONE_CHILD_CLEARTID,
    CLONE_FILES,
    CLONE_FS,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_PARENT_SETTID,
    CLONE_PIDFD,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)
from cloche.fs.pidfd import install as install_pidfd
from cloche.fs.proc_pid import ProcFs
from cloche.fs.tmpfs import TmpfsFile
from cloche.kernel import itimers
from cloche.kernel.blocking import BLOCKED, RESUME, Blocked
from cloche.kernel.clone import CloneArgs, do_clone, finish_vfork_wait, vfork_done
from cloche.kernel.exec import begin_exec, new_stack
from cloche.kernel.exec_strings import StackContents, packed
from cloche.kernel.exit import do_exit, reap
from cloche.kernel.loop import fail_clone
from cloche.kernel.phase import KERNEL
from cloche.kernel.task import ProcessGroup, Session, Task
from cloche.mm.quota import KERNEL_MEMORY
from cloche.platform.fake import FakeHost, FakePlatform, FakeThread
from cloche.vfs.namei import path_lookup
from cloche.vfs.opening import do_open
from tests.unit.syscalls.world import World

WORD = 0x11000  # in the parent's memory
PROGRAM = b"/program"


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """The collector of cycles looks at what these tests make alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Nursery(World):
    """A world whose host can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.host = FakeHost()
        platform = self.kernel.platform
        assert isinstance(platform, FakePlatform)
        platform.host = self.host
        self.kernel.hooks.vfork_done = vfork_done
        self.kernel.hooks.vfork_wake = finish_vfork_wait
        install_pidfd(self.kernel)
        thread = self.task.thread
        assert isinstance(thread, FakeThread)
        thread.host = self.host
        self.host.threads.append(thread)
        session = Session(self.task.tid)
        pgrp = ProcessGroup(self.task.tid, session)
        pgrp.members[self.task.group] = None
        session.groups.append(pgrp)
        self.task.group.pgrp = pgrp
        self.kernel.sessions[self.task.tid] = session
        self.kernel.process_groups[self.task.tid] = pgrp
        file = do_open(self.task, None, PROGRAM, 0o102, 0o755).get()
        assert isinstance(file.inode, TmpfsFile)
        file.inode.write_bytes(self.task, 0, tiny_program())
        file.put()
        self.task.group.exe.set(path_lookup(self.task, None, PROGRAM))
        self.task.group.leader = self.task
        self.kernel.by_thread[thread.ident()] = self.task

    def state(self) -> dict[str, object]:
        """The state in which a failed birth could leave remains."""
        while gc.collect():  # objects of earlier worlds
            pass
        kernel, task = self.kernel, self.task
        group = task.group
        assert group.pgrp is not None
        thread = task.thread
        assert isinstance(thread, FakeThread)
        program = path_lookup(task, None, PROGRAM).inode()
        return {
            "tasks": sorted(kernel.tasks),
            "groups": sorted(kernel.groups),
            "nested pids": dict(kernel.nested_pids),
            "threads by ident": sorted(kernel.by_thread),
            "children": list(group.children),
            "process group": list(group.pgrp.members),
            "threads": list(group.tasks),
            "memory users": task.mm.users,
            "file users": task.files.users,
            "descriptors": task.files.descriptors(),
            "kernel memory": KERNEL_MEMORY.used,
            "namespaces": [
                kernel.namespace_limits.quota(kind).used for kind in ("mnt", "pid", "user", "uts")
            ],
            "host threads": list(self.host.threads),
            "host processes": list(self.host.processes),
            "queued": thread.queued,
            "program": (program.write_count, program.nlink),
            "blocked": task.blocked,
            "lent": task.lent,
            "undo list": None if task.undo_list is None else task.undo_list.users,
            "counted": self.container.task_count,
        }


def tiny_program() -> bytes:
    """An ELF file with one segment."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 0x100, 0x100, 0x1000)
    return (header + segment).ljust(0x100, b"\x90")


WAYS = {
    "fork": 0,
    "fork with everything": CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWNS,
    "fork that shares": CLONE_FILES | CLONE_FS | CLONE_SYSVSEM,
    "fork that waits": CLONE_VFORK | CLONE_PARENT_SETTID,
    "vfork": CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
    "process in the same memory": CLONE_VM,
    "thread": CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_FILES | CLONE_FS | CLONE_SYSVSEM,
}


def clone_args(flags: int) -> CloneArgs:
    args = CloneArgs()
    args.flags = flags
    args.exit_signal = 0 if flags & CLONE_THREAD else 17
    args.pidfd = args.parent_tid = WORD
    if flags & CLONE_PIDFD:
        args.parent_tid = 0
    return args


def clones(world: Nursery, flags: int) -> bool:
    """Whether there is a child; the exception is gone, and with it what its frames held."""
    try:
        do_clone(world.task, clone_args(flags))
    except (LinuxError, OSError):
        return False
    return True


def arguments(task: Task) -> StackContents:
    made = StackContents(packed([b"x"]), packed([]), PROGRAM, new_stack(task))
    assert made.place_some() and not made.place_some()
    return made


def executes(world: Nursery) -> bool:
    try:
        begin_exec(world.task, path_lookup(world.task, None, PROGRAM), PROGRAM, arguments(world.task))
    except (LinuxError, OSError):
        return False
    return True


def end(world: Nursery, child: Task) -> None:
    """The child exits and is waited for."""
    group = child.group
    do_exit(child, 0)
    if group.end.is_zombie:
        reap(group)


def steps_until_done(attempt: Callable[[Nursery], bool]) -> int:
    """Let each step fail in turn; the first that is not reached."""

    def succeeds(step: int) -> bool:
        world = Nursery()
        before = world.state()
        world.host.fail_at = step
        if attempt(world):
            return True
        world.host.fail_at = 0
        assert world.state() == before, step
        return False

    for step in range(1, 100):
        if succeeds(step):
            return step
    pytest.fail("it never succeeds")


@pytest.mark.parametrize("way", WAYS)
def test_a_clone_that_fails_leaves_nothing(way: str) -> None:
    assert steps_until_done(lambda world: clones(world, WAYS[way])) > 2


@pytest.mark.parametrize("way", [way for way in WAYS if way != "thread"])
def test_a_child_that_ends_leaves_nothing(way: str) -> None:
    world = Nursery()
    before = world.state()
    do_clone(world.task, clone_args(WAYS[way]))
    (child,) = [task for task in world.kernel.tasks.values() if task is not world.task]
    fds = world.task.files.descriptors()
    end(world, child)
    for fd in fds:
        world.task.files.close(world.task, fd)
    after = world.state()
    for each in (
        "blocked",
        "undo list",
        "queued",
        "kernel memory",
        "namespaces",
    ):  # the wait, and cycles of the dead
        before.pop(each), after.pop(each)
    assert after == before


def test_the_dead_need_no_collection_of_cycles() -> None:
    """One looks at all that lives, and takes the longer the more that is."""
    world = Nursery()
    gc.collect()
    gc.disable()
    try:
        for way in ("fork", "thread", "fork that shares"):
            do_clone(world.task, clone_args(WAYS[way]))
            child = next(task for task in world.kernel.tasks.values() if task is not world.task)
            end(world, child)
            world.kernel.by_thread.pop(child.thread.ident(), None)
            world.task.ordered_child = None
            del child
            assert world.kernel.dead_tasks == 0, way
        assert world.kernel.deaths == 3
    finally:
        gc.enable()


def test_a_process_with_timers_needs_no_collection_of_cycles() -> None:
    """Each that had used alarm(2) waited for the collector, with some hundred objects; then one took half a second."""
    world = Nursery()
    itimers.install(world.kernel)
    gc.disable()
    try:
        do_clone(world.task, clone_args(WAYS["fork"]))
        child = next(task for task in world.kernel.tasks.values() if task is not world.task)
        for which in range(3):
            itimers.set_itimer(child.group, which, 10**12, 10**12)
        for clock in (1, 2, 3):
            itimers.create_timer(child, clock, None).set(10**12, 10**12, is_absolute=False)
        end(world, child)
        world.kernel.by_thread.pop(child.thread.ident(), None)
        world.task.ordered_child = None
        del child
        kinds = (itimers.RealTimer, itimers.CpuTimers, itimers.CpuTimer, itimers.PosixTimer)
        assert not [each for each in gc.get_objects() if isinstance(each, kinds)]
        assert world.kernel.dead_tasks == 0
    finally:
        gc.enable()


def test_there_is_no_child_without_a_place_for_its_pidfd() -> None:
    world = Nursery()
    world.task.group.rlimits[7] = (0, 64)
    before = world.state()
    with pytest.raises(LinuxError) as caught:
        do_clone(world.task, clone_args(CLONE_PIDFD))
    assert caught.value.errno == EMFILE
    assert world.state() == before


def test_a_fork_that_the_host_refuses_leaves_nothing_to_wait_for() -> None:
    """What the child would have used was waited for for ever, and kept it."""
    world = Nursery()
    do_clone(world.task, clone_args(WAYS["fork"]))
    fail_clone(world.kernel, world.task)
    assert not world.kernel.late_usage
    assert list(world.kernel.tasks.values()) == [world.task]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "vfork"])
def test_a_clone_that_the_host_refuses_leaves_nothing(way: str) -> None:
    """Such a thread stayed a user of the descriptors: pipes of a program that had ended had no end."""
    world = Nursery()
    world.task.exit_words.clear_child_tid = WORD
    before = world.state()
    args = clone_args(WAYS[way] & ~CLONE_PIDFD | CLONE_CHILD_CLEARTID)
    args.child_tid = WORD
    world.task.mem.write_now(WORD, b"kept")
    do_clone(world.task, args)
    thread = world.task.thread
    assert isinstance(thread, FakeThread)
    thread.queued, thread.orders = 0, []
    fail_clone(world.kernel, world.task)
    after = world.state()
    for each in ("undo list", "blocked"):  # it has been made; the wait goes on until the loop ends it
        before.pop(each), after.pop(each)
    assert after == before
    assert world.task.undo_list is None or world.task.undo_list.users == 1
    assert world.task.mem.process.read(WORD, 4) == b"kept"


def test_a_thread_that_execs_lets_the_old_leader_go() -> None:
    world = Nursery()
    leader = world.task
    do_clone(leader, clone_args(WAYS["thread"]))
    thread = next(task for task in world.kernel.tasks.values() if task is not leader)
    thread.phase = KERNEL
    fs = ProcFs(world.kernel, 0, 1, None)
    for task in (leader, thread):
        fs.pid_dir(task)
        assert len(task.names) == 1
    path = path_lookup(thread, None, PROGRAM)
    assert begin_exec(thread, path, PROGRAM, arguments(thread)) == RESUME
    assert thread.group.leader is thread and leader.is_left and not leader.names and not thread.names


def test_many_descriptors_are_closed_in_slices_before_the_new_program_runs() -> None:
    """A hundred thousand delayed all guests for 24 ms."""
    world = Nursery()
    task = world.task
    file = do_open(task, None, PROGRAM, 0, 0).get()
    for fd in range(5000):
        task.files.install(file, 10_000, is_cloexec=fd % 10 != 0)
    path = path_lookup(task, None, PROGRAM)
    result, turns = begin_exec(task, path, PROGRAM, arguments(task)), 0
    while result == BLOCKED:
        assert task.files.marked() and isinstance(task.blocked, Blocked)
        world.kernel.sliced.clear()
        task.is_ready_queued = False
        turns += 1
        result = task.blocked.retry(task)
    assert result == RESUME and 10 < turns < 30
    assert task.files.descriptors() == list(range(0, 5000, 10)) and not task.files.marked()
    assert file.refs == 501 and not world.kernel.chores


def test_an_execve_that_fails_leaves_nothing() -> None:
    assert steps_until_done(executes) > 3
