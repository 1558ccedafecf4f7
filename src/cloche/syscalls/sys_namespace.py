"""unshare and setns (kernel/nsproxy.c).  What namespaces there are is said in `kernel.unshare`."""

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_CHROOT
from cloche.abi.errno import EBADF, EINVAL, EPERM, ESRCH, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.sched import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS
from cloche.fs.pidfd import PidFile
from cloche.fs.proc_pid import NamespaceInode
from cloche.kernel.access import may_access
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.ipc.sem import leave_undo_list
from cloche.kernel.namespaces import NetNamespace, UtsNamespace
from cloche.kernel.task import Args, Task, to_i32, to_u64
from cloche.kernel.unshare import NAMESPACES, leave_mount_namespace, unshare
from cloche.vfs.mount import top_of
from cloche.vfs.objects import MountNamespace


def sys_unshare(task: Task, args: Args) -> int:
    """unshare(2)."""
    unshare(task, to_u64(args.a0))
    return 0


def sys_setns(task: Task, args: Args) -> int:
    """setns(2)."""
    kind = to_i32(args.a1)
    file = task.files.get(to_i32(args.a0))
    if file.flags & O_PATH:
        return -EBADF
    if isinstance(file, PidFile):
        return _join_process(task, file, kind)
    inode = file.inode
    if not isinstance(inode, NamespaceInode):
        return -EINVAL
    flag = inode.clone_flag()
    if kind and kind != flag:
        return -EINVAL
    _check(task, flag)
    _enter(task, inode.held)
    return 0


def _join_process(task: Task, file: PidFile, kinds: int) -> int:
    """All namespaces of some kinds of a process at once."""
    if not kinds or kinds & ~NAMESPACES:
        return -EINVAL
    if not file.group.tasks:
        return -ESRCH
    target = file.group.tasks[0]
    if not may_access(task, target, uses_real_ids=True):
        return -EPERM
    bit = 1
    while bit <= kinds:
        if kinds & bit:
            _check(task, bit)
        bit <<= 1
    if kinds & CLONE_NEWNS:
        _enter(task, target.mount_ns)
    if kinds & CLONE_NEWUTS:
        _enter(task, target.ns.uts)
    if kinds & CLONE_NEWIPC:
        _enter(task, target.ns.ipc)
    if kinds & CLONE_NEWNET:
        _enter(task, target.ns.net)
    return 0


def _check(task: Task, flag: int) -> None:
    """The *_install functions of the kinds.  Raises LinuxError(EINVAL, EPERM)."""
    if flag == CLONE_NEWUSER:
        raise LinuxError(EINVAL)  # its own: there is no other
    if not task.creds.capable(CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    if flag == CLONE_NEWNS and not task.creds.capable(CAP_SYS_CHROOT):
        raise LinuxError(EPERM)
    if flag == CLONE_NEWNS and any(
        other is not task and other.fs is task.fs for other in task.kernel.tasks.values()
    ):
        raise LinuxError(EINVAL)


def _enter(task: Task, held: object) -> None:
    """Put the task there; None is the namespace that it is in."""
    if isinstance(held, MountNamespace):
        if not held.mounts:
            raise LinuxError(EINVAL)  # everybody has left it
        old = task.mount_ns
        task.mount_ns = held
        top = top_of(held.root)
        task.fs.root = top
        task.fs.cwd = top
        if old is not held:
            leave_mount_namespace(task, old)
    elif isinstance(held, UtsNamespace):
        new = task.ns.clone()
        new.uts = held
        task.ns = new
    elif isinstance(held, NetNamespace):
        new = task.ns.clone()
        new.net = held
        task.ns = new
    elif isinstance(held, IpcNamespace):
        if task.undo_list is not None:
            undo_list = task.undo_list
            task.undo_list = None
            leave_undo_list(undo_list, task.group.tgid)
        new = task.ns.clone()
        new.ipc = held
        task.ns = new
