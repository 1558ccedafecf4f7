"""ptrace: Yama's rules, register layouts, ends that a tracer sees and ends that no tracer can delay."""

import pytest

from cloche.abi.capability import CAP_SYS_PTRACE
from cloche.abi.errno import EINVAL, EIO, ENOSPC, EPERM, LinuxError
from cloche.abi.ptrace import PTRACE_O_EXITKILL, PTRACE_O_TRACEEXIT, PTRACE_O_TRACESYSGOOD
from cloche.abi.signal import SIGKILL, SIGTERM
from cloche.arch import user
from cloche.kernel import killing, signals
from cloche.kernel.ptrace import attach, hooks, regs
from cloche.kernel.ptrace.stops import DeathStop
from cloche.kernel.task import Task, Tracee
from tests.unit.kernel.world import World


@pytest.fixture
def world() -> World:
    made = World()
    hooks.install(made.kernel)
    return made


def plain(task: Task) -> Task:
    """An ordinary user's task."""
    creds = task.creds.clone()
    creds.uid = creds.euid = creds.suid = creds.fsuid = 1000
    creds.cap_effective = creds.cap_permitted = 0
    task.creds = creds
    task.group.is_dumpable = True
    return task


@pytest.mark.parametrize(
    "scope, descendant, other, declared", [(0, 1, 1, 1), (1, 1, 0, 1), (2, 0, 0, 0), (3, 0, 0, 0)]
)
def test_yama(world: World, scope: int, descendant: int, other: int, declared: int) -> None:
    parent = plain(world.task)
    child, stranger = plain(world.add_child(10, parent)), plain(world.add_task(11))
    world.kernel.ptrace_scope = scope
    assert attach.yama_allows(parent, child) == bool(descendant)
    assert attach.yama_allows(stranger, child) == bool(other)
    child.group.declared_tracer = stranger.group.tgid
    assert attach.yama_allows(stranger, child) == bool(declared)
    child.group.declared_tracer = -1
    assert attach.yama_allows(stranger, child) == bool(declared)


def test_yama_and_the_capability(world: World) -> None:
    stranger, target = plain(world.add_task(10)), plain(world.task)
    stranger.creds.cap_effective = 1 << CAP_SYS_PTRACE
    for scope, is_allowed in ((1, True), (2, True), (3, False)):
        world.kernel.ptrace_scope = scope
        assert attach.yama_allows(stranger, target) == is_allowed


def test_traceme_below_init_is_claimed_once(world: World) -> None:
    world.task.group.parent = None
    assert attach.traceme(world.task) == 0
    assert attach.traceme(world.task) == -EPERM
    assert world.task.tracee is None


def test_registers_there_and_back(world: World) -> None:
    task = world.task
    raw = bytearray(regs.read_regs(task))
    assert len(raw) == user.GENERAL_SIZE
    for index in range(16):
        raw[8 * index : 8 * index + 8] = (0x1111 * (index + 1)).to_bytes(8, "little")
    regs.write_regs(task, bytes(raw))
    assert regs.read_regs(task) == bytes(raw)
    assert task.thread.regs().r15 == 0x1111
    assert task.trace.call_nr == 0x1111 * 16
    regs.poke_user(task, 15 * 8, (1 << 64) - 1)
    assert task.trace.call_nr == -1


@pytest.mark.parametrize("offset, value, errno", [
    (17 * 8, 0x10, EIO), (21 * 8, 1 << 47, EIO), (4, 0, EIO), (928, 0, EIO), (-8, 0, EIO), (848 + 4 * 8, 1, EIO),
    (848, 1 << 63, EINVAL), (848 + 7 * 8, 0x30001, ENOSPC), (300, 1, EIO),
])  # fmt: skip
def test_what_cannot_be_set(world: World, offset: int, value: int, errno: int) -> None:
    world.task.tracee = Tracee(world.task, 0, is_seized=True)
    with pytest.raises(LinuxError) as caught:
        regs.poke_user(world.task, offset, value)
    assert caught.value.errno == errno


def test_debug_addresses_are_kept(world: World) -> None:
    world.task.tracee = Tracee(world.task, 0, is_seized=True)
    regs.poke_user(world.task, 848 + 8, 0x4000)
    assert regs.peek_user(world.task, 848 + 8) == 0x4000
    assert regs.peek_user(world.task, 848) == 0


def traced(world: World, options: int) -> tuple[Task, Task]:
    tracer, target = world.task, world.add_child(10, world.task)
    attach.link(target, tracer, options, is_seized=True)
    return tracer, target


def test_the_end_waits_for_the_tracer(world: World) -> None:
    tracer, target = traced(world, PTRACE_O_TRACEEXIT)
    killing.kill(tracer, 10, SIGKILL)
    world.settle()
    assert isinstance(target.blocked, DeathStop)
    assert target.tracee is not None and target.tracee.message == SIGKILL
    assert not target.group.end.is_zombie


def test_no_tracer_holds_up_what_must_die(world: World) -> None:
    tracer, target = traced(world, PTRACE_O_TRACEEXIT)
    killing.kill(tracer, 10, SIGKILL)
    world.settle()
    signals.kill_at_once(target.group)
    world.settle()
    assert target.group.end.is_zombie
    assert target.tracee is not None and target.tracee.is_zombie  # and is waited for


def test_exitkill(world: World) -> None:
    tracer, target = traced(world, PTRACE_O_EXITKILL)
    other = world.add_child(11, tracer)
    attach.link(other, tracer, PTRACE_O_TRACESYSGOOD, is_seized=True)
    hooks.task_exits(tracer)
    world.settle()
    assert target.group.end.is_zombie and not other.group.end.is_zombie
    assert other.tracee is None and not tracer.ptraced


def test_a_fatal_signal_is_shown_first(world: World) -> None:
    tracer, target = traced(world, 0)
    killing.kill(tracer, 10, SIGTERM)
    world.settle()
    world.interrupted(target)
    assert target.tracee is not None and target.tracee.is_stopped
    assert target.tracee.code == SIGTERM
