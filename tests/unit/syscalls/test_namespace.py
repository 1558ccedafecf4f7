"""unshare(2) and setns(2) with CAP_SYS_ADMIN, which the guest programs do not have in a sandbox."""

import gc

import pytest

from cloche.abi import errno as e
from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.sched import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWTIME,
    CLONE_NEWUTS,
    CLONE_THREAD,
    CLONE_VM,
)
from cloche.fs.nsfs import NamespaceDescription, namespace_of
from cloche.kernel.task import Task
from cloche.syscalls.sys_misc import sys_sethostname
from cloche.syscalls.sys_msgq import sys_msgget, sys_msgsnd
from cloche.syscalls.sys_namespace import sys_setns, sys_unshare
from cloche.syscalls.sys_path import sys_mkdir
from cloche.syscalls.sys_sem import sys_semget
from cloche.syscalls.sys_shm import sys_shmget
from tests.unit.syscalls.world import World


@pytest.fixture
def w() -> World:
    return World()


def ns_fd(w: World, kind: bytes, task: Task) -> int:
    """A descriptor of a namespace of `task` in the first task's table."""
    inode = namespace_of(task, kind)
    assert inode is not None
    return w.task.files.install(NamespaceDescription(None, inode, 0), 64)


def test_uts_is_copied_and_rejoined(w: World) -> None:
    other = w.new_task(0, -1)
    assert w.call(sys_unshare, CLONE_NEWUTS) == 0
    assert w.call(sys_sethostname, b"inner", 5) == 0
    assert (w.task.ns.uts.hostname, other.ns.uts.hostname) == (b"inner", b"cloche")
    assert w.task.ns.uts.ino != other.ns.uts.ino
    fd = ns_fd(w, b"uts", other)
    assert w.call(sys_setns, fd, CLONE_NEWIPC) == -e.EINVAL
    assert w.call(sys_setns, fd, CLONE_NEWUTS) == 0
    assert w.task.ns.uts is other.ns.uts


def test_ipc_namespaces_are_apart_and_end_with_their_last_user(w: World) -> None:
    quota = w.task.ns.ipc.quota
    assert w.call(sys_msgget, 77, 0o1600) >= 0
    before = quota.used_bytes
    assert w.call(sys_unshare, CLONE_NEWIPC) == 0
    assert w.call(sys_msgget, 77, 0) == -e.ENOENT
    queue = w.call(sys_msgget, 77, 0o1600)
    w.poke(0x40000, (1).to_bytes(8, "little") + b"text")
    assert w.call(sys_msgsnd, queue, 0x40000, 4, 0) == 0
    assert w.call(sys_semget, 0, 1000, 0o600) >= 0
    assert w.call(sys_shmget, 0, 100_000, 0o600) >= 0
    assert quota.used_bytes > before
    w.task.ns = w.container.ns
    gc.collect()
    assert quota.used_bytes == before
    assert w.call(sys_msgget, 77, 0) >= 0


def test_mount_namespace(w: World) -> None:
    assert w.call(sys_mkdir, b"/a", 0o755) == 0
    old = w.task.mount_ns
    assert w.call(sys_unshare, CLONE_NEWNS) == 0
    assert w.task.mount_ns is not old
    assert w.task.fs.root.mount is w.task.mount_ns.root.mount
    assert w.call(sys_mkdir, b"/a/b", 0o755) == 0


def test_what_cannot_be(w: World) -> None:
    assert w.call(sys_unshare, CLONE_NEWTIME) == -e.ENOSPC
    assert w.call(sys_unshare, CLONE_NEWNET | CLONE_NEWUTS) == -e.ENOSPC
    assert w.call(sys_unshare, 1) == -e.EINVAL
    w.task.mm.users = 2
    assert w.call(sys_unshare, CLONE_VM) == -e.EINVAL
    w.task.group.tasks.append(w.new_task())
    assert w.call(sys_unshare, CLONE_THREAD) == -e.EINVAL
    w.task.creds.cap_effective &= ~(1 << CAP_SYS_ADMIN)
    assert w.call(sys_unshare, CLONE_NEWUTS) == -e.EPERM
    assert w.call(sys_setns, ns_fd(w, b"uts", w.task), 0) == -e.EPERM


def test_the_number_of_namespaces_is_limited(w: World) -> None:
    tasks = [w.new_task(0, -1) for _ in range(300)]
    results = [w.call(sys_unshare, CLONE_NEWUTS, task=task) for task in tasks]
    assert results[0] == 0
    assert results[-1] == -e.ENOSPC
