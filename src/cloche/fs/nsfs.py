"""Namespaces as files (nsfs, namespaces(7), ioctl_ns(2)): what /proc/PID/ns/NAME leads to.

A file holds its namespace, which lives as long as the file is open or mounted.  The initial user and pid namespaces
are None, as everywhere in the kernel.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, ENOENT, EPERM, ESPIPE, ESRCH, LinuxError
from cloche.abi.ioctl import (
    NS_GET_MNTNS_ID,
    NS_GET_NSTYPE,
    NS_GET_OWNER_UID,
    NS_GET_PARENT,
    NS_GET_PID_FROM_PIDNS,
    NS_GET_PID_IN_PIDNS,
    NS_GET_TGID_FROM_PIDNS,
    NS_GET_TGID_IN_PIDNS,
    NS_GET_USERNS,
)
from cloche.abi.magic import NSFS_MAGIC
from cloche.abi.stat import S_IFREG
from cloche.kernel.access import task_of
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.namespaces import CgroupNamespace, NetNamespace, UtsNamespace
from cloche.kernel.pid_namespace import FIRST_PID_INO, PidNamespace, pid_from, pid_in
from cloche.kernel.task import Kernel, Task
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, MountNamespace, Path
from cloche.vfs.pseudo import anonymous_path
from cloche.vfs.userns import FIRST_USER_INO, UserNamespace

NS_MNT_GET_INFO: Final = 10  # these are recognized by their numbers, with any size of the struct
NS_MNT_GET_NEXT: Final = 11
NS_MNT_GET_PREV: Final = 12
_NSIO: Final = 0xB7
_MNT_NS_INFO: Final = Struct("<IIQ")  # size, number of mounts, id
FIRST_TIME_INO: Final = 0xEFFFFFFA  # PROC_TIME_INIT_INO
# The kind in readlink of /proc/PID/ns/NAME, where it differs from NAME.
KINDS: Final[dict[bytes, bytes]] = {b"pid_for_children": b"pid", b"time_for_children": b"time"}
_CLONE_FLAGS: Final[dict[bytes, int]] = {
    b"cgroup": 0x02000000,
    b"ipc": 0x08000000,
    b"mnt": 0x00020000,
    b"net": 0x40000000,
    b"pid": 0x20000000,
    b"time": 0x00000080,
    b"user": 0x10000000,
    b"uts": 0x04000000,
}

# The namespace of a file; None: the initial one.
Namespace = (
    UtsNamespace
    | IpcNamespace
    | NetNamespace
    | CgroupNamespace
    | PidNamespace
    | MountNamespace
    | UserNamespace
    | None
)


class NamespaceInode(Inode):
    """A namespace as a file."""

    def __init__(self, fs: FileSystem, kind: bytes, ino: int, held: Namespace = None) -> None:
        super().__init__(fs, ino, S_IFREG | 0o444)
        self.kind: bytes = kind
        self.held: Namespace = held  # the namespace itself; None: the initial one

    def clone_flag(self) -> int:
        """CLONE_NEW* of its kind."""
        return _CLONE_FLAGS[self.kind]

    def label(self) -> bytes:
        """The text that readlink returns, e.g. b"pid:[4026531836]"."""
        return self.kind + b":[%d]" % self.ino

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return NamespaceDescription(path, self, flags)


class NamespaceDescription(FileDescription):
    """An open namespace: setns(2) and the NS_GET ioctls take it."""

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        return -ESPIPE  # there is no llseek

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        inode = self.inode
        assert isinstance(inode, NamespaceInode)
        if command == NS_GET_NSTYPE:
            return _CLONE_FLAGS[inode.kind]
        if not isinstance(ctx, Task):
            return super().ioctl(ctx, command, arg)
        if command == NS_GET_USERNS:
            return _open_owner(ctx, inode)
        if command == NS_GET_PARENT:
            if inode.kind == b"user":
                return _open_owner(ctx, inode)
            return _open_pid_parent(ctx, inode) if inode.kind == b"pid" else -EINVAL
        if command == NS_GET_OWNER_UID:
            if inode.kind != b"user":
                return -EINVAL
            held = inode.held
            uid = held.owner_uid if isinstance(held, UserNamespace) else 0
            ctx.user_memory().write_u32(arg, ctx.creds.show_uid(uid))
            return 0
        if NS_GET_PID_FROM_PIDNS <= command <= NS_GET_TGID_IN_PIDNS:
            return _translate(ctx, inode, command, arg)
        if command == NS_GET_MNTNS_ID:
            held = inode.held
            if not isinstance(held, MountNamespace):
                return -EINVAL
            ctx.user_memory().write_u64(arg, held.ino)
            return 0
        if command >> 8 & 0xFF == _NSIO and NS_MNT_GET_INFO <= command & 0xFF <= NS_MNT_GET_PREV:
            return _mount_namespace(ctx, inode, command, arg)
        return super().ioctl(ctx, command, arg)

    def link_text(self) -> bytes | None:
        inode = self.inode
        return inode.label() if isinstance(inode, NamespaceInode) else None


def _mount_namespace(task: Task, inode: NamespaceInode, command: int, arg: int) -> int:
    """NS_MNT_GET_INFO of a mount namespace; NEXT and PREV open the neighbour among those that the caller may enter."""
    found, size = inode.held, command >> 16 & 0x3FFF
    if not isinstance(found, MountNamespace):
        return -EINVAL
    if command & 0xFF == NS_MNT_GET_INFO:
        if not arg or size < _MNT_NS_INFO.size:
            return -EINVAL
    else:
        if arg and size < _MNT_NS_INFO.size:
            return -EINVAL
        found = _neighbour(task, found.ino, is_next=command & 0xFF == NS_MNT_GET_NEXT)
    if arg:
        info = _MNT_NS_INFO.pack(_MNT_NS_INFO.size, len(found.mounts), found.ino)
        task.user_memory().write(arg, info.ljust(size, b"\0"))
    if command & 0xFF == NS_MNT_GET_INFO:
        return 0
    return _install(task, NamespaceInode(nsfs(task.kernel), b"mnt", found.ino, found))


def _neighbour(task: Task, ino: int, *, is_next: bool) -> MountNamespace:
    """get_sequential_mnt_ns.  Raises LinuxError(ENOENT)."""
    best: MountNamespace | None = None
    for other in task.kernel.tasks.values():
        ns = other.mount_ns
        if (ns.ino <= ino if is_next else ns.ino >= ino) or not task.creds.capable_in(
            ns.user_ns, CAP_SYS_ADMIN
        ):
            continue
        if best is None or (ns.ino < best.ino if is_next else ns.ino > best.ino):
            best = ns
    if best is None:
        raise LinuxError(ENOENT)
    return best


def _translate(task: Task, inode: NamespaceInode, command: int, arg: int) -> int:
    """A pid of one pid namespace in another: from the file's to the caller's, or the other way."""
    if inode.kind != b"pid":
        return -EINVAL
    there = inode.held if isinstance(inode.held, PidNamespace) else None
    is_in = command >= NS_GET_PID_IN_PIDNS
    pid = arg & 0x7FFFFFFF
    found = task_of(task.kernel, pid_from(task.pid_ns if is_in else there, pid))
    if found is None:
        return -ESRCH
    wants_tgid = command in (NS_GET_TGID_FROM_PIDNS, NS_GET_TGID_IN_PIDNS)
    shown = pid_in(there if is_in else task.pid_ns, found.group.tgid if wants_tgid else found.tid)
    return shown if shown else -ESRCH


def owner_of(held: Namespace) -> UserNamespace | None:
    """The user namespace that owns a namespace; of a user namespace the parent."""
    if isinstance(held, UserNamespace):
        return held.parent
    if isinstance(
        held, (UtsNamespace, IpcNamespace, NetNamespace, CgroupNamespace, PidNamespace, MountNamespace)
    ):
        return held.user_ns
    return None


def _open_owner(task: Task, inode: NamespaceInode) -> int:
    """ns_get_owner: EPERM if it is outside the caller's user namespace."""
    if inode.kind == b"user" and inode.held is None:
        return -EPERM
    owner = owner_of(inode.held)
    mine = task.creds.user_ns
    if not (mine is None or (owner is not None and owner.is_within(mine))):
        return -EPERM
    return _install(task, user_inode(task.kernel, owner))


def _open_pid_parent(task: Task, inode: NamespaceInode) -> int:
    """pidns_get_parent: EPERM if it is outside the caller's pid namespace."""
    held = inode.held
    if not isinstance(held, PidNamespace):
        return -EPERM
    above, mine = held.parent, task.pid_ns
    if not (mine is None or (above is not None and above.is_within(mine))):
        return -EPERM
    return _install(task, pid_inode(task.kernel, above))


def _install(task: Task, inode: NamespaceInode) -> int:
    file = NamespaceDescription(anonymous_path(inode.label(), inode), inode, 0)
    return task.files.install(file, task.nofile_limit(), is_cloexec=True)


def nsfs(kernel: Kernel) -> FileSystem:
    """The file system of namespaces, made at first use."""
    found = kernel.file_systems.namespace
    if found is not None:
        return found
    made = FileSystem("nsfs", NSFS_MAGIC, kernel.numbers.dev())
    kernel.file_systems.namespace = made
    return made


def user_inode(kernel: Kernel, ns: UserNamespace | None) -> NamespaceInode:
    """The file of a user namespace."""
    return NamespaceInode(nsfs(kernel), b"user", ns.ino if ns is not None else FIRST_USER_INO, ns)


def pid_inode(kernel: Kernel, ns: PidNamespace | None) -> NamespaceInode:
    """The file of a pid namespace."""
    return NamespaceInode(nsfs(kernel), b"pid", ns.ino if ns is not None else FIRST_PID_INO, ns)


def namespace_of(task: Task, name: bytes) -> NamespaceInode | None:
    """The file /proc/PID/ns/`name` of a living task; None for a namespace that is not ready."""
    kernel = task.kernel
    fs = nsfs(kernel)
    if name == b"user":
        return user_inode(kernel, task.creds.user_ns)
    if name == b"pid":
        return pid_inode(kernel, task.pid_ns)
    if name == b"pid_for_children":
        ns = task.ns.pid_for_children
        return None if ns is not None and ns.init_pid == 0 else pid_inode(kernel, ns)
    if name == b"mnt":
        return NamespaceInode(fs, name, task.mount_ns.ino, task.mount_ns)
    if name == b"uts":
        return NamespaceInode(fs, name, task.ns.uts.ino, task.ns.uts)
    if name == b"ipc":
        return NamespaceInode(fs, name, task.ns.ipc.ino, task.ns.ipc)
    if name == b"net":
        return NamespaceInode(fs, name, task.ns.net.ino, task.ns.net)
    if name == b"cgroup":
        return NamespaceInode(fs, name, task.ns.cgroup.ino, task.ns.cgroup)
    if name == b"time" or name == b"time_for_children":
        return NamespaceInode(fs, b"time", FIRST_TIME_INO)
    raise LinuxError(EINVAL)
