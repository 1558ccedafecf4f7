"""New namespaces, and ending what a task shares with others (unshare(2), setns(2), the CLONE_NEW* flags of clone(2)).

There is no second time namespace: asking for it gives what Linux gives at the limit of
/proc/sys/user/max_time_namespaces, which is 0 (the vDSO shows the sandbox's one clock).
"""

from typing import Final

from cloche.abi.capability import CAP_FULL_SET, CAP_SETFCAP, CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, ENOMEM, ENOSPC, EPERM, LinuxError
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
from cloche.kernel.creds import install
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.ipc.sem import leave_undo_list
from cloche.kernel.namespaces import CgroupNamespace, NamespaceCount, Namespaces, UtsNamespace
from cloche.kernel.pid_namespace import MAX_LEVEL, PidNamespace
from cloche.kernel.task import Task
from cloche.mm.quota import KERNEL_MEMORY, MOUNT_BYTES
from cloche.vfs.credentials import Credentials
from cloche.vfs.mount import clone_namespace, release_namespace, top_of
from cloche.vfs.objects import FsContext, MountNamespace
from cloche.vfs.userns import MAX_LEVEL as MAX_USER_LEVEL
from cloche.vfs.userns import UserNamespace

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
_UNSHARE: Final = (
    NAMESPACES | CLONE_THREAD | CLONE_FS | CLONE_SIGHAND | CLONE_VM | CLONE_FILES | CLONE_SYSVSEM
)
KINDS: Final = (
    (CLONE_NEWNS, "mnt"),
    (CLONE_NEWUTS, "uts"),
    (CLONE_NEWIPC, "ipc"),
    (CLONE_NEWUSER, "user"),
    (CLONE_NEWPID, "pid"),
    (CLONE_NEWNET, "net"),
    (CLONE_NEWCGROUP, "cgroup"),
)


class Fresh:
    """The namespaces of a task that is to have new ones: nothing of them is in force yet."""

    def __init__(self, task: Task) -> None:
        self.creds: Credentials = task.creds
        self.ns: Namespaces = task.ns
        self.mount_count: NamespaceCount | None = None


def prepare(task: Task, flags: int, *, is_clone: bool = False) -> Fresh:
    """Make what CLONE_NEW* `flags` ask for, the user namespace first, but not the mount namespace.

    Raises LinuxError(EPERM, ENOSPC, EINVAL); then nothing has changed.
    """
    made = Fresh(task)
    if not flags & NAMESPACES:
        return made
    limits = task.kernel.namespace_limits
    if flags & CLONE_NEWUSER:
        made.creds = new_user_namespace(task)
    user_ns = made.creds.user_ns
    if not flags & (NAMESPACES & ~CLONE_NEWUSER):
        return made
    if not task.creds.capable_in(user_ns, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    if is_clone and flags & CLONE_NEWIPC and flags & CLONE_SYSVSEM:
        raise LinuxError(EINVAL)
    if flags & CLONE_NEWTIME or (flags & CLONE_NEWNET and not task.ns.net.is_real):
        raise LinuxError(ENOSPC)
    if flags & CLONE_NEWNS:
        made.mount_count = NamespaceCount(limits, "mnt")
        if not KERNEL_MEMORY.has_spare(len(task.mount_ns.mounts) * MOUNT_BYTES):
            raise LinuxError(ENOMEM)
    new = task.ns.clone()
    if flags & CLONE_NEWUTS:
        uts = UtsNamespace(new.uts.hostname, new.uts.domainname)
        uts.place = NamespaceCount(limits, "uts")
        uts.user_ns = user_ns
        uts.ino = task.kernel.numbers.namespace_ino()
        new.uts = uts
    if flags & CLONE_NEWIPC:
        count = NamespaceCount(limits, "ipc")
        ipc = IpcNamespace(new.ipc.segments.dev, new.ipc.quota)
        ipc.place = count
        ipc.set_owner(user_ns)
        ipc.ino = task.kernel.numbers.namespace_ino()
        new.ipc = ipc
    if flags & CLONE_NEWPID:
        new.pid_for_children = _new_pid_namespace(task, made.creds)
    if flags & CLONE_NEWCGROUP:
        cgroup = CgroupNamespace()
        cgroup.place = NamespaceCount(limits, "cgroup")
        cgroup.user_ns = user_ns
        cgroup.ino = task.kernel.numbers.namespace_ino()
        new.cgroup = cgroup
    if flags & CLONE_NEWNET:
        count = NamespaceCount(limits, "net")
        net = new.net.fresh()
        net.place = count
        net.user_ns = user_ns
        net.ino = task.kernel.numbers.namespace_ino()
        new.net = net
    made.ns = new
    return made


def _new_pid_namespace(task: Task, creds: Credentials) -> PidNamespace:
    """create_pid_namespace, below the one that children would be in.  Raises LinuxError(EINVAL, ENOSPC)."""
    above = task.ns.pid_for_children
    if above is not task.pid_ns:
        raise LinuxError(EINVAL)
    if above is not None:
        owner = above.user_ns
        within = creds.user_ns.is_within(owner) if creds.user_ns is not None else owner is None
        if not within:
            raise LinuxError(EINVAL)
        if above.level >= MAX_LEVEL:
            raise LinuxError(ENOSPC)
    count = NamespaceCount(task.kernel.namespace_limits, "pid")
    made = PidNamespace(above, creds.user_ns, task.kernel.numbers.namespace_ino())
    made.place = count
    return made


def new_user_namespace(task: Task) -> Credentials:
    """create_user_ns: credentials with every capability in a namespace that has no ids yet.

    Raises LinuxError(EPERM, ENOSPC).
    """
    old = task.creds
    above = old.user_ns
    if above is not None and above.level >= MAX_USER_LEVEL:
        raise LinuxError(ENOSPC)
    count = NamespaceCount(task.kernel.namespace_limits, "user")
    root = task.mount_ns.root
    if not task.fs.root.same_as(top_of(root)):
        raise LinuxError(EPERM)  # in a chroot, which it could leave
    if above is not None and not above.has_ids(old.euid, old.egid):
        raise LinuxError(EPERM)
    made = UserNamespace(above, old.euid, old.egid, task.kernel.numbers.namespace_ino())
    made.place = count
    made.parent_could_setfcap = old.capable_here(CAP_SETFCAP)
    return enter_user_namespace(old, made)


def enter_user_namespace(old: Credentials, ns: UserNamespace | None) -> Credentials:
    """The credentials that a task has in a user namespace that it makes or joins (set_cred_user_ns)."""
    new = old.clone()
    new.user_ns = ns
    new.securebits = 0
    new.keep_caps = False
    new.cap_inheritable = 0
    new.cap_permitted = CAP_FULL_SET
    new.cap_effective = CAP_FULL_SET
    new.cap_ambient = 0
    new.cap_bounding = CAP_FULL_SET
    return new


def copy_mounts(task: Task, made: Fresh, fs: FsContext) -> MountNamespace:
    """CLONE_NEWNS, once nothing can fail: `fs` moves over to the copy."""
    new = clone_namespace(task.mount_ns, fs, made.creds.user_ns)
    new.place = made.mount_count
    new.ino = task.kernel.numbers.namespace_ino()
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
    made = prepare(task, flags)
    if flags & CLONE_FS:
        task.fs = task.fs.clone()
    if flags & CLONE_FILES and task.files.users > 1:
        task.files.users -= 1
        task.files = task.files.clone()
    if flags & CLONE_NEWNS:
        old = task.mount_ns
        task.mount_ns = copy_mounts(task, made, task.fs)
        leave_mount_namespace(task, old)
    if flags & (CLONE_SYSVSEM | CLONE_NEWIPC) and task.undo_list is not None:
        undo_list = task.undo_list
        task.undo_list = None
        leave_undo_list(undo_list, task.group.tgid, task.kernel.chores)
    task.ns = made.ns
    if made.creds is not task.creds:
        install(task, made.creds)


def leave_mount_namespace(task: Task, old: MountNamespace) -> None:
    """`task` is not in `old` any more; the last one to leave takes the mounts down."""
    root = task.group.container.root
    if root is None or old is root.mount_ns:
        return
    for other in task.kernel.tasks.values():
        if other is not task and other.mount_ns is old:
            return
    release_namespace(old)
