"""mount(2) and the new mount interface through the handlers."""

from struct import pack

import pytest

from cloche.abi import errno as e
from cloche.abi import fcntl as f
from cloche.abi import fs as m
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs
from cloche.kernel.args import Args
from cloche.kernel.blocking import BLOCKED
from cloche.syscalls.sys_fd import sys_close, sys_open
from cloche.syscalls.sys_mount import (
    sys_fsconfig,
    sys_fsmount,
    sys_fsopen,
    sys_fspick,
    sys_mount,
    sys_mount_setattr,
    sys_move_mount,
    sys_open_tree,
    sys_pivot_root,
    sys_umount2,
)
from cloche.syscalls.sys_path import sys_chdir, sys_mkdir
from cloche.syscalls.sys_stat import sys_access
from cloche.vfs.mount import register_filesystem
from tests.unit.syscalls.world import ARENA, World

BUF = 0x40000
NEW = f.O_RDWR | f.O_CREAT


@pytest.fixture
def w() -> World:
    world = World()
    quota = StorageQuota()
    register_filesystem(b"tmpfs", lambda ctx, source, flags, data: TmpFs(world.kernel.numbers.dev(), quota))
    assert world.call(sys_mkdir, b"/a", 0o755) == 0
    assert world.call(sys_mkdir, b"/b", 0o755) == 0
    return world


def touch(w: World, name: bytes) -> int:
    fd = w.call(sys_open, name, NEW, 0o644)
    return w.call(sys_close, fd) if fd >= 0 else fd


def test_mount_and_umount(w: World) -> None:
    assert touch(w, b"/a/under") == 0
    assert w.call(sys_mount, b"none", b"/a", b"tmpfs", 0, 0) == 0
    assert w.call(sys_access, b"/a/under", 0) == -e.ENOENT
    fd = w.call(sys_open, b"/a/file", NEW, 0o644)
    assert w.call(sys_umount2, b"/a", 0) == -e.EBUSY
    assert w.call(sys_close, fd) == 0
    assert w.call(sys_umount2, b"/a", 0) == 0
    assert w.call(sys_access, b"/a/under", 0) == 0
    assert w.call(sys_umount2, b"/a", 0) == -e.EINVAL


def test_umount_looks_through_many_descriptors_in_slices(w: World) -> None:
    """A task has 40,000 blocks of numbers, and the one file that is on the mount comes last (or is closed by then)."""
    assert w.call(sys_mount, b"none", b"/a", b"tmpfs", 0, 0) == 0
    fd = w.call(sys_open, b"/a/file", NEW, 0o644)
    outside = w.task.files.get(w.call(sys_open, b"/outside", NEW, 0o644))
    other = w.new_task()
    for number in range(0, 40_000 * 64, 64):
        other.files.install_at(w.task, number, outside)
    last = 40_000 * 64
    other.files.install_at(w.task, last, w.task.files.get(fd))
    assert w.call(sys_close, fd) == 0
    args = Args()
    args.a0 = ARENA
    for expected in (-e.EBUSY, 0):
        w.poke(ARENA, b"/a\0")
        result = sys_umount2(w.task, args)
        turns = 0
        while result == BLOCKED:
            w.kernel.sliced.remove(w.task)
            w.task.is_ready_queued = False
            result = w.resume(w.task)
            turns += 1
        assert result == expected and turns > 50
        if expected:
            assert other.files.close(other, last) == 0


def test_mount_refuses(w: World) -> None:
    user = w.new_task(1000)
    assert w.call(sys_mount, b"none", b"/a", b"tmpfs", 0, 0, task=user) == -e.EPERM
    assert w.call(sys_umount2, b"/a", 0, task=user) == -e.EPERM
    assert w.call(sys_mount, b"none", b"/none", b"tmpfs", 0, 0) == -e.ENOENT
    assert w.call(sys_mount, b"none", b"/a", b"nosuchfs", 0, 0) == -e.ENODEV
    assert w.call(sys_umount2, b"/a", 0x100) == -e.EINVAL


def test_bind_and_readonly_remount(w: World) -> None:
    assert touch(w, b"/a/file") == 0
    assert w.call(sys_mount, b"/a", b"/b", 0, m.MS_BIND, 0) == 0
    assert w.call(sys_access, b"/b/file", 0) == 0
    assert w.call(sys_mount, b"none", b"/b", 0, m.MS_REMOUNT | m.MS_BIND | m.MS_RDONLY, 0) == 0
    assert touch(w, b"/b/other") == -e.EROFS
    assert touch(w, b"/a/other") == 0
    assert w.call(sys_umount2, b"/b", m.MNT_DETACH) == 0


def test_new_interface(w: World) -> None:
    fd = w.call(sys_fsopen, b"tmpfs", 1)
    assert fd >= 0
    assert w.call(sys_fsmount, fd, 0, 0) == -e.EINVAL
    assert w.call(sys_fsconfig, fd, m.FSCONFIG_SET_STRING, b"source", b"mine", 0) == 0
    assert w.call(sys_fsconfig, fd, m.FSCONFIG_CMD_CREATE, 0, 0, 0) == 0
    assert w.call(sys_fsconfig, fd, m.FSCONFIG_CMD_CREATE, 0, 0, 0) == -e.EBUSY
    mount = w.call(sys_fsmount, fd, 1, m.MOUNT_ATTR_NOEXEC)
    assert mount >= 0
    assert w.call(sys_access, b"/a", 0) == 0
    assert w.call(sys_move_mount, mount, b"", f.AT_FDCWD, b"/a", m.MOVE_MOUNT_F_EMPTY_PATH) == 0
    assert touch(w, b"/a/x") == 0
    assert w.mount_ns.mounts[-1].fs.source == "mine"
    assert w.mount_ns.mounts[-1].flags & m.MS_NOEXEC
    w.poke(BUF, pack("<QQQQ", m.MOUNT_ATTR_RDONLY, 0, 0, 0))
    assert w.call(sys_mount_setattr, f.AT_FDCWD, b"/a", 0, BUF, 32) == 0
    assert touch(w, b"/a/y") == -e.EROFS
    assert w.call(sys_fsopen, b"nosuchfs", 0) == -e.ENODEV
    assert w.call(sys_fspick, f.AT_FDCWD, b"/a", 0) >= 0


def test_open_tree_clones_a_detached_tree(w: World) -> None:
    assert touch(w, b"/a/file") == 0
    tree = w.call(sys_open_tree, f.AT_FDCWD, b"/a", m.OPEN_TREE_CLONE)
    assert tree >= 0
    assert w.call(sys_open_tree, f.AT_FDCWD, b"/a", f.AT_RECURSIVE) == -e.EINVAL
    assert w.call(sys_move_mount, tree, b"", f.AT_FDCWD, b"/b", m.MOVE_MOUNT_F_EMPTY_PATH) == 0
    assert w.call(sys_access, b"/b/file", 0) == 0


def test_pivot_root(w: World) -> None:
    assert w.call(sys_mount, b"none", b"/a", b"tmpfs", 0, 0) == 0
    assert w.call(sys_mkdir, b"/a/old", 0o755) == 0
    assert w.call(sys_pivot_root, b"/b", b"/b") == -e.EBUSY
    assert w.call(sys_pivot_root, b"/a", b"/a/old") == 0
    assert w.call(sys_chdir, b"/") == 0
    assert w.call(sys_access, b"/old/b", 0) == 0
