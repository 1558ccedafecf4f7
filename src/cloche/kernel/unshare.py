"""New namespaces, and leaving what a task shares (unshare(2), setns(2), the CLONE_NEW* flags of clone(2)).

There are UTS, IPC, mount and network namespaces.  Of the other kinds there can be no second one: asking for it
gives what Linux gives at the limits of /proc/sys/user, which are 0.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, ENOSPC, EPERM, LinuxError
from cloche.abi.sched import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
)
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.ipc.sem import leave_undo_list
from cloche.kernel.namespaces import Namespaces, UtsNamespace
from cloche.kernel.task import Task
from cloche.vfs.mount import clone_namespace, release_namespace
from cloche.vfs.objects import MountNamespace

NAMESPACES: Final = (
    CLONE_NEWNS
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWCGROUP
    | CLONE_NEWTIME
)
SINGLE: Final = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWTIME
_UNSHARE: Final = (
    NAMESPACES | CLONE_THREAD | CLONE_FS | CLONE_SIGHAND | CLONE_VM | CLONE_FILES | CLONE_SYSVSEM
)
MAX_NAMESPACES: Final = 256  # of a kind, in the sandbox


def check_new(task: Task, flags: int) -> None:
    """Whether the caller may have these new namespaces.  Raises LinuxError(EPERM, ENOSPC)."""
    if not flags & NAMESPACES:
        return
    if flags & CLONE_NEWUSER:
        raise LinuxError(ENOSPC)
    if not task.creds.capable(CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    if flags & SINGLE or (flags & CLONE_NEWNET and not task.ns.net.is_real):
        raise LinuxError(ENOSPC)
    kinds: set[object] = set()
    for other in task.kernel.tasks.values():
        kinds.update((other.ns.uts, other.ns.ipc, other.ns.net, other.mount_ns))
    if len(kinds) >= MAX_NAMESPACES:
        raise LinuxError(ENOSPC)


def new_namespaces(task: Task, flags: int) -> Namespaces:
    """The task's namespaces, with new ones for CLONE_NEWUTS, NEWIPC and NEWNET (checked by `check_new`)."""
    if not flags & (CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET):
        return task.ns
    new = task.ns.clone()
    if flags & CLONE_NEWUTS:
        new.uts = UtsNamespace(new.uts.hostname, new.uts.domainname)
        new.uts.ino = task.kernel.alloc_namespace_ino()
    if flags & CLONE_NEWIPC:
        new.ipc = IpcNamespace(new.ipc.segments.dev, new.ipc.quota)
        new.ipc.ino = task.kernel.alloc_namespace_ino()
    if flags & CLONE_NEWNET:
        new.net = new.net.fresh()
        new.net.ino = task.kernel.alloc_namespace_ino()
    return new


def unshare(task: Task, flags: int) -> None:
    """unshare(2).  Raises LinuxError; then nothing has changed."""
    if flags & CLONE_NEWUSER:
        flags |= CLONE_THREAD | CLONE_FS
    if flags & CLONE_NEWPID:
        flags |= CLONE_THREAD
    if flags & CLONE_VM:
        flags |= CLONE_SIGHAND
    if flags & CLONE_SIGHAND:
        flags |= CLONE_THREAD
    if flags & CLONE_NEWNS:
        flags |= CLONE_FS
    if flags & ~_UNSHARE:
        raise LinuxError(EINVAL)
    if flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) and len(task.group.tasks) > 1:
        raise LinuxError(EINVAL)
    if flags & CLONE_VM and task.mm.users > 1:
        raise LinuxError(EINVAL)
    check_new(task, flags)
    if flags & CLONE_FS:
        task.fs = task.fs.clone()
    if flags & CLONE_FILES and task.files.users > 1:
        task.files.users -= 1
        task.files = task.files.clone()
    if flags & CLONE_NEWNS:
        old = task.mount_ns
        task.mount_ns = clone_namespace(old, task.fs)
        leave_mount_namespace(task, old)
    if flags & (CLONE_SYSVSEM | CLONE_NEWIPC) and task.undo_list is not None:
        undo_list = task.undo_list
        task.undo_list = None
        leave_undo_list(undo_list, task.group.tgid)
    task.ns = new_namespaces(task, flags)


def leave_mount_namespace(task: Task, old: MountNamespace) -> None:
    """`task` is not in `old` any more; the last one to leave takes the mounts down."""
    root = task.kernel.root_context
    if root is None or old is root.mount_ns:
        return
    for other in task.kernel.tasks.values():
        if other is not task and other.mount_ns is old:
            return
    release_namespace(old)
