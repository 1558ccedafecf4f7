"""Paths of the longest symbolic links there can be: other calls have their turn meanwhile, and the call ends with the
usual result.
"""

from cloche.abi.errno import ELOOP, ENOENT
from cloche.kernel.host_wait import HostBlocked
from cloche.kernel.loop import perform, run_slice
from cloche.kernel.phase import KERNEL
from cloche.kernel.task import Task
from cloche.platform.fake import FakeThread
from cloche.syscalls.sys_path import sys_mkdir, sys_rename, sys_symlink
from cloche.syscalls.sys_stat import sys_stat
from tests.unit.syscalls.world import ARENA, World

LONG = b"./" * 2040


def links(world: World, name: bytes, count: int, target: bytes) -> None:
    """`name`0 leads by `count` links to `target`."""
    for number in range(count):
        text = target if number == count - 1 else b"%s%d" % (name, number + 1)
        assert world.call(sys_symlink, LONG[: 4094 - len(text) & ~1] + text, b"%s%d" % (name, number)) == 0


def turns(world: World, task: Task, *paths: bytes) -> tuple[int, int]:
    """The result of the call 0 of the kernel's table, and how often others had their turn meanwhile."""
    args = task.args
    args.nr, at = 0, ARENA
    for index, path in enumerate(paths):
        world.poke(at, path + b"\0", task)
        if index:
            args.a1 = at
        else:
            args.a0 = at
        at += 0x2000
    if len(paths) == 1:
        args.a1 = at
    task.args.is_under_way = True
    task.enter(KERNEL)
    perform(world.kernel, task)
    count = 0
    while task.blocked is not None:
        assert isinstance(task.blocked, HostBlocked) and task.blocked.letter() == "R"
        count += 1
        run_slice(world.kernel)
    assert not world.kernel.host_waits.walks and not world.kernel.sliced
    thread = task.thread
    assert isinstance(thread, FakeThread)
    return thread.regs().result, count


def test_long_links_are_followed_in_slices() -> None:
    world = World()
    assert world.call(sys_mkdir, b"/d", 0o755) == 0
    links(world, b"a", 40, b"d")
    links(world, b"b", 41, b"d")
    world.kernel.table = [sys_stat]
    result, count = turns(world, world.task, b"/a0")
    assert result == 0 and count > 5
    result, count = turns(world, world.task, b"/b0")
    assert result == -ELOOP & (1 << 64) - 1 and count > 5
    result, count = turns(world, world.task, b"/a0/none")
    assert result == -ENOENT & (1 << 64) - 1 and count > 5
    assert turns(world, world.task, b"/a39") == (0, 0)


def test_two_long_paths_of_one_call() -> None:
    world = World()
    for name in (b"/d", b"/e", b"/d/x"):
        assert world.call(sys_mkdir, name, 0o755) == 0
    links(world, b"a", 40, b"d")
    links(world, b"b", 40, b"e")
    world.kernel.table = [sys_rename]
    result, count = turns(world, world.task, b"/a0/x", b"/b0/y")
    assert result == 0 and count > 10
    assert world.call(sys_stat, b"/e/y", ARENA + 0x8000) == 0
