"""unshare and setns (kernel/nsproxy.c).  The namespaces are made in `kernel.unshare`."""

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_CHROOT
from cloche.abi.errno import EBADF, EINVAL, EPERM, ESRCH, EUSERS, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.sched import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from cloche.fs.nsfs import Namespace, NamespaceInode, owner_of
from cloche.fs.pidfd import PidFile
from cloche.kernel.access import may_access
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.creds import install
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.ipc.sem import leave_undo_list
from cloche.kernel.namespaces import CgroupNamespace, Namespaces, NetNamespace, UtsNamespace
from cloche.kernel.pid_namespace import PidNamespace
from cloche.kernel.task import Task
from cloche.kernel.unshare import NAMESPACES, enter_user_namespace, leave_mount_namespace, unshare
from cloche.vfs.credentials import Credentials
from cloche.vfs.mount import top_of
from cloche.vfs.objects import MountNamespace
from cloche.vfs.userns import UserNamespace


def sys_unshare(task: Task, args: Args) -> int:
    """unshare(2)."""
    unshare(task, to_u64(args.a0))
    return 0


def sys_setns(task: Task, args: Args) -> int:
    """setns(2)."""
    kinds = to_i32(args.a1)
    file = task.files.get(to_i32(args.a0))
    if file.flags & O_PATH:
        return -EBADF
    if isinstance(file, PidFile):
        return _join_process(task, file, kinds)
    inode = file.inode
    if not isinstance(inode, NamespaceInode):
        return -EINVAL
    flag = inode.clone_flag()
    if kinds and kinds != flag:
        return -EINVAL
    wanted = Wanted(task)
    wanted.add(flag, inode.held)
    wanted.enter()
    return 0


def _join_process(task: Task, file: PidFile, kinds: int) -> int:
    """All namespaces of some kinds of a process at once (validate_nsset)."""
    if not kinds or kinds & ~NAMESPACES:
        return -EINVAL
    target = file.target()
    if target is None:
        return -ESRCH
    if not may_access(task, target, uses_real_ids=True):
        return -EPERM
    if target.is_exited:
        return -ESRCH
    wanted = Wanted(task)
    if kinds & CLONE_NEWUSER:
        wanted.add(CLONE_NEWUSER, target.creds.user_ns)
    if kinds & CLONE_NEWNS:
        wanted.add(CLONE_NEWNS, target.mount_ns)
    if kinds & CLONE_NEWUTS:
        wanted.add(CLONE_NEWUTS, target.ns.uts)
    if kinds & CLONE_NEWIPC:
        wanted.add(CLONE_NEWIPC, target.ns.ipc)
    if kinds & CLONE_NEWPID:
        wanted.add(CLONE_NEWPID, target.pid_ns)
    if kinds & CLONE_NEWCGROUP:
        wanted.add(CLONE_NEWCGROUP, target.ns.cgroup)
    if kinds & CLONE_NEWNET:
        wanted.add(CLONE_NEWNET, target.ns.net)
    if kinds & CLONE_NEWTIME:
        wanted.add(CLONE_NEWTIME, None)
    wanted.enter()
    return 0


class Wanted:
    """Namespaces to join: each is checked as it is added, and nothing is in force before `enter` (struct nsset)."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.creds: Credentials = task.creds
        self.ns: Namespaces = task.ns.clone()
        self.mount_ns: MountNamespace | None = None
        self.leaves_undo_list: bool = False

    def add(self, flag: int, held: Namespace) -> None:
        """The *_install functions of the kinds; None is an initial namespace.  Raises LinuxError(EINVAL, EPERM)."""
        if flag == CLONE_NEWUSER:
            self._add_user(held if isinstance(held, UserNamespace) else None)
            return
        creds, user_ns = self.task.creds, self.creds.user_ns
        if not creds.capable_in(owner_of(held), CAP_SYS_ADMIN):
            raise LinuxError(EPERM)
        if not creds.capable_in(user_ns, CAP_SYS_ADMIN):
            raise LinuxError(EPERM)
        if flag == CLONE_NEWNS:
            assert isinstance(held, MountNamespace)
            if not creds.capable_in(user_ns, CAP_SYS_CHROOT):
                raise LinuxError(EPERM)
            if self._shares_fs() or not held.mounts:
                raise LinuxError(EINVAL)
            self.mount_ns = held
        elif isinstance(held, UtsNamespace):
            self.ns.uts = held
        elif isinstance(held, NetNamespace):
            self.ns.net = held
        elif isinstance(held, CgroupNamespace):
            self.ns.cgroup = held
        elif isinstance(held, IpcNamespace):
            self.ns.ipc = held
            self.leaves_undo_list = True
        elif flag == CLONE_NEWPID:
            self._add_pid(held if isinstance(held, PidNamespace) else None)
        elif flag == CLONE_NEWTIME and len(self.task.group.tasks) > 1:
            raise LinuxError(EUSERS)

    def _shares_fs(self) -> bool:
        mine = self.task
        return any(other is not mine and other.fs is mine.fs for other in mine.kernel.tasks.values())

    def _add_user(self, ns: UserNamespace | None) -> None:
        """userns_install."""
        task = self.task
        if ns is task.creds.user_ns or len(task.group.tasks) > 1 or self._shares_fs():
            raise LinuxError(EINVAL)
        if not task.creds.capable_in(ns, CAP_SYS_ADMIN):
            raise LinuxError(EPERM)
        self.creds = enter_user_namespace(task.creds, ns)

    def _add_pid(self, ns: PidNamespace | None) -> None:
        """pidns_install: only the own namespace of the task and those below it."""
        active = self.task.pid_ns
        if active is not None and (ns is None or not ns.is_within(active)):
            raise LinuxError(EINVAL)
        self.ns.pid_for_children = ns

    def enter(self) -> None:
        """Put the task there (commit_nsset)."""
        task = self.task
        if self.mount_ns is not None:
            old = task.mount_ns
            task.mount_ns = self.mount_ns
            top = top_of(self.mount_ns.root)
            task.fs.root = top
            task.fs.cwd = top
            if old is not self.mount_ns:
                leave_mount_namespace(task, old)
        if self.leaves_undo_list and task.undo_list is not None:
            undo_list = task.undo_list
            task.undo_list = None
            leave_undo_list(undo_list, task.group.tgid, task.kernel.chores)
        task.ns = self.ns
        if self.creds is not task.creds:
            install(task, self.creds)
