"""mount, umount2, pivot_root, and the calls of the new mount interface (fsopen and its kin).

Decodes; what mounting means is in `vfs.mount`.  Owns the descriptions that fsopen and fspick give.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import E2BIG, EBUSY, EFAULT, EINVAL, ENODEV, EOPNOTSUPP, EPERM, LinuxError
from cloche.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_RECURSIVE,
    AT_SYMLINK_NOFOLLOW,
    O_CLOEXEC,
    O_PATH,
    O_RDWR,
)
from cloche.abi.fs import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_CMD_CREATE_EXCL,
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_BINARY,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_PATH,
    FSCONFIG_SET_PATH_EMPTY,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    FSPICK_CLOEXEC,
    FSPICK_EMPTY_PATH,
    FSPICK_NO_AUTOMOUNT,
    FSPICK_SYMLINK_NOFOLLOW,
    MNT_DETACH,
    MNT_EXPIRE,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_SIZE_VER0,
    MOUNT_ATTR_STRICTATIME,
    MOVE_MOUNT__MASK,
    MOVE_MOUNT_BENEATH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_F_SYMLINKS,
    MOVE_MOUNT_SET_GROUP,
    MOVE_MOUNT_T_EMPTY_PATH,
    MOVE_MOUNT_T_SYMLINKS,
    MS_DIRSYNC,
    MS_NOATIME,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)
from cloche.fs.anon import AnonFile
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import Blocked, TaskBase, next_slice
from cloche.kernel.fd_table import FdBlock
from cloche.kernel.task import Kernel, Task
from cloche.syscalls.args import data_file, path_arg, path_at
from cloche.syscalls.sys_fd import read_extensible
from cloche.vfs.mount import (
    SYNC_FLAGS,
    attr_to_flags,
    change_propagation,
    check_option,
    check_revealing,
    check_room,
    check_umount,
    check_umount_flags,
    copy_tree,
    do_mount,
    do_move,
    do_pivot_root,
    do_umount,
    filesystem_kinds,
    graft,
    is_in_anonymous_tree,
    make_filesystem,
    mount_tree,
    new_mount,
    set_mount_attr,
    top_of,
    tree_top,
)
from cloche.vfs.namei import LOOKUP_DIRECTORY, LOOKUP_FOLLOW, open_path, path_lookup
from cloche.vfs.objects import FileSystem, FsContext, Mount, Path
from cloche.vfs.opening import PathDescription

_PAGE: Final = 4096
_LOOKS: Final = 512  # blocks of descriptors, or tasks, before others have their turn
INT_MAX: Final = 0x7FFFFFFF
# vfs_parse_sb_flag, with any value; of which only the first two have an effect here
_COMMON_OPTIONS: Final = (
    b"ro",
    b"rw",
    b"sync",
    b"async",
    b"dirsync",
    b"lazytime",
    b"nolazytime",
    b"mand",
    b"nomand",
)
_MAX_OPTIONS: Final = 256  # parameters of one fsopen context
_MOUNT_ATTR: Final = Struct("<QQQQ")


def require_admin(task: Task) -> None:
    """may_mount.  Raises LinuxError(EPERM)."""
    if not task.creds.capable_in(task.mount_ns.user_ns, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)


def text_arg(task: Task, addr: int, limit: int) -> bytes:
    """A string that may be absent; EINVAL if it is too long (copy_mount_string)."""
    if addr == 0:
        return b""
    text = task.user_memory().cstring(to_u64(addr), limit)
    if text is None:
        raise LinuxError(EFAULT)
    if len(text) >= limit:
        raise LinuxError(EINVAL)
    return text


# -- mount, umount2, pivot_root ------------------------------------------------------------------------------
def sys_mount(task: Task, args: Args) -> int:
    """mount(2)."""
    kind = text_arg(task, args.a2, _PAGE)
    source = text_arg(task, args.a0, _PAGE)
    data = b""
    if args.a4:
        found = task.user_memory().cstring(to_u64(args.a4), _PAGE)
        if found is None:
            return -EFAULT
        data = found
    target = path_lookup(task, None, path_arg(task, args.a1))
    do_mount(task, source, target, kind, to_u64(args.a3), data)
    return 0


class UmountWait(Blocked):
    """umount2(2) that looks in slices whether a task works in the mount, or has a file of it open."""

    def __init__(self, kernel: Kernel, path: Path, flags: int, *, was_expiring: bool) -> None:
        super().__init__()
        self.path: Path = path
        self.flags: int = flags
        self.was_expiring: bool = was_expiring
        self.tasks: list[Task] = list(kernel.tasks.values())
        self.at: int = 0  # of the tasks
        self.block: int = 0  # of its descriptors
        self.seen: set[FdBlock] = set()  # forks share them

    def retry(self, task: TaskBase) -> int:
        mount = self.path.mount
        looks = 0
        while self.at < len(self.tasks):
            other = self.tasks[self.at]
            if other.fs.root.mount is mount or other.fs.cwd.mount is mount:
                return -EBUSY
            blocks = other.files.blocks
            while self.block < len(blocks):
                block = blocks[self.block]
                self.block += 1
                if block.used and block not in self.seen:
                    self.seen.add(block)
                    for file in block.files:
                        if file is not None and file.path is not None and file.path.mount is mount:
                            return -EBUSY
                looks += 1
                if looks == _LOOKS:
                    return next_slice(task, self)
            self.at += 1
            self.block = 0
            looks += 1
            if looks == _LOOKS:
                return next_slice(task, self)
        assert isinstance(task, Task)
        do_umount(task, self.path, self.flags, None, was_expiring=self.was_expiring)
        return 0


def sys_umount2(task: Task, args: Args) -> int:
    """umount2(2)."""
    flags = to_u32(args.a1)
    check_umount_flags(flags)
    lookup = 0 if flags & UMOUNT_NOFOLLOW else LOOKUP_FOLLOW
    # The lookup itself does not count as a use of the mount.
    marked = [mount for mount in task.mount_ns.mounts if mount.is_expiring] if flags & MNT_EXPIRE else []
    path = top_of(path_lookup(task, None, path_arg(task, args.a0), lookup))
    kernel = task.kernel
    for mount in marked:
        mount.is_expiring = mount is not path.mount
    was_expiring = path.mount in marked
    if flags & MNT_DETACH:
        do_umount(task, path, flags, None, was_expiring=was_expiring)
        return 0
    check_umount(task, path, flags)
    return UmountWait(kernel, path, flags, was_expiring=was_expiring).retry(task)


def sys_pivot_root(task: Task, args: Args) -> int:
    """pivot_root(2)."""
    require_admin(task)
    lookup = LOOKUP_FOLLOW | LOOKUP_DIRECTORY
    new = path_lookup(task, None, path_arg(task, args.a0), lookup)
    old = path_lookup(task, None, path_arg(task, args.a1), lookup)
    contexts: dict[FsContext, None] = {}
    for other in task.kernel.tasks.values():
        if other.mount_ns is task.mount_ns:
            contexts[other.fs] = None
    do_pivot_root(task, new, old, list(contexts))
    return 0


# -- fsopen, fsconfig, fsmount -------------------------------------------------------------------------------
class FsConfigFile(AnonFile):
    """The file of fsopen(2) and fspick(2): a file system that is being configured."""

    def __init__(self, kernel: Kernel, fs_kind: bytes, fs: FileSystem | None) -> None:
        super().__init__(kernel, b"[fscontext]", O_RDWR)
        self.fs_kind: bytes = fs_kind
        self.source: bytes = b""
        self.flags_ms: int = 0
        self.options: list[bytes] = []
        self.fs: FileSystem | None = fs
        self.is_picked: bool = fs is not None


def sys_fsopen(task: Task, args: Args) -> int:
    """fsopen(2)."""
    require_admin(task)
    flags = to_u32(args.a1)
    if flags & ~FSOPEN_CLOEXEC:
        return -EINVAL
    kind = text_arg(task, args.a0, _PAGE)
    if all(known != kind for known, _ in filesystem_kinds()):
        return -ENODEV
    file = FsConfigFile(task.kernel, kind, None)
    return task.files.install(file, task.nofile_limit(), is_cloexec=flags & FSOPEN_CLOEXEC != 0)


def sys_fspick(task: Task, args: Args) -> int:
    """fspick(2)."""
    require_admin(task)
    flags = to_u32(args.a2)
    if flags & ~(FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH):
        return -EINVAL
    at_flags = AT_SYMLINK_NOFOLLOW if flags & FSPICK_SYMLINK_NOFOLLOW else 0
    if flags & FSPICK_EMPTY_PATH:
        at_flags |= AT_EMPTY_PATH
    path = path_at(task, args.a0, args.a1, at_flags)
    if path.dentry is not path.mount.root:
        return -EINVAL
    file = FsConfigFile(task.kernel, path.mount.fs.kind.encode(), path.mount.fs)
    return task.files.install(file, task.nofile_limit(), is_cloexec=flags & FSPICK_CLOEXEC != 0)


def config_file(task: Task, fd_arg: int) -> FsConfigFile:
    """The context of a descriptor; EINVAL for any other file."""
    file = data_file(task, fd_arg)
    if not isinstance(file, FsConfigFile):
        raise LinuxError(EINVAL)
    return file


def sys_fsconfig(task: Task, args: Args) -> int:
    """fsconfig(2)."""
    command, key_addr, value_addr, aux = to_u32(args.a1), args.a2, args.a3, to_i32(args.a4)
    if to_i32(args.a0) < 0:
        return -EINVAL
    if command in (FSCONFIG_CMD_CREATE, FSCONFIG_CMD_CREATE_EXCL, FSCONFIG_CMD_RECONFIGURE):
        if key_addr or value_addr or aux:
            return -EINVAL
        return configure(task, config_file(task, args.a0), command)
    if command in (FSCONFIG_SET_BINARY, FSCONFIG_SET_PATH, FSCONFIG_SET_PATH_EMPTY, FSCONFIG_SET_FD):
        config_file(task, args.a0)
        return -EINVAL  # no file system here has a parameter of these types
    if command not in (FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING):
        return -EOPNOTSUPP
    is_flag = command == FSCONFIG_SET_FLAG
    if key_addr == 0 or aux or (value_addr == 0) != is_flag:
        return -EINVAL
    file = config_file(task, args.a0)
    key = text_arg(task, key_addr, 256)
    value = b"" if is_flag else text_arg(task, value_addr, 256)
    if file.fs is not None and not file.is_picked:
        return -EBUSY  # it waits for fsmount
    if key == b"source" and not is_flag:
        if file.source:
            return -EINVAL
        file.source = value
    elif key in _COMMON_OPTIONS:
        if key == b"ro":
            file.flags_ms |= MS_RDONLY
        elif key == b"rw":
            file.flags_ms &= ~MS_RDONLY
        elif key in (b"sync", b"dirsync"):
            file.flags_ms |= MS_SYNCHRONOUS if key == b"sync" else MS_DIRSYNC
        elif key == b"async":
            file.flags_ms &= ~MS_SYNCHRONOUS
    elif len(file.options) >= _MAX_OPTIONS:
        return -EINVAL
    else:
        option = key if is_flag else key + b"=" + value
        check_option(file.fs_kind, option)
        file.options.append(option)
    return 0


def configure(task: Task, file: FsConfigFile, command: int) -> int:
    """FSCONFIG_CMD_CREATE and FSCONFIG_CMD_RECONFIGURE."""
    require_admin(task)
    data = b",".join(file.options)
    if command == FSCONFIG_CMD_RECONFIGURE:
        if not file.is_picked or file.fs is None:
            return -EBUSY
        file.fs.remount(task, data)
        file.fs.is_readonly = file.flags_ms & MS_RDONLY != 0
        file.options.clear()
        return 0
    if file.fs is not None:
        return -EBUSY
    file.fs = make_filesystem(task, file.fs_kind, file.source, file.flags_ms, data)
    if file.flags_ms & MS_RDONLY:
        file.fs.is_readonly = True
    if file.fs.root_dentry is None:  # not the only instance, mounted before
        file.fs.sync_flags = file.flags_ms & SYNC_FLAGS
    return 0


def sys_fsmount(task: Task, args: Args) -> int:
    """fsmount(2): an O_PATH descriptor of a mount that is attached to nothing yet."""
    require_admin(task)
    flags, attr = to_u32(args.a1), to_u32(args.a2)
    if flags & ~FSMOUNT_CLOEXEC:
        return -EINVAL
    mount_flags = attr_to_flags(attr & ~MOUNT_ATTR__ATIME)
    atime = attr & MOUNT_ATTR__ATIME
    if atime == MOUNT_ATTR_NOATIME:
        mount_flags |= MS_NOATIME
    elif atime == MOUNT_ATTR_STRICTATIME:
        mount_flags |= MS_STRICTATIME
    elif atime:
        return -EINVAL
    file = config_file(task, args.a0)
    if file.fs is None:
        return -EINVAL
    if file.is_picked:
        return -EBUSY
    file.is_picked = True  # from now on it can be reconfigured
    mount = new_mount(file.fs, mount_flags)
    check_revealing(task, mount)
    check_room(task.mount_ns, 1)
    mount.is_anonymous = True
    return install_tree(task, mount, is_cloexec=flags & FSMOUNT_CLOEXEC != 0)


class TreeDescription(PathDescription):
    """The file of fsmount and open_tree: a detached tree, which is dissolved if it is not attached before this is
    closed.
    """

    def release(self) -> None:
        path = self.path
        if path is not None and path.mount.is_anonymous:  # dissolve_on_fput
            path.mount.is_anonymous = False
            path.mount.is_detached = True


def install_tree(task: Task, mount: Mount, *, is_cloexec: bool) -> int:
    """A descriptor of a tree that was made."""
    file = TreeDescription(Path(mount, mount.root), mount.root.require(), O_PATH)
    file.creds = task.creds
    return task.files.install(file, task.nofile_limit(), is_cloexec=is_cloexec)


def install_place(task: Task, path: Path, *, is_cloexec: bool) -> int:
    """An O_PATH descriptor."""
    return task.files.install(open_path(task, path, O_PATH), task.nofile_limit(), is_cloexec=is_cloexec)


# -- open_tree, move_mount, mount_setattr --------------------------------------------------------------------
def sys_open_tree(task: Task, args: Args) -> int:
    """open_tree(2)."""
    flags = to_u32(args.a2)
    at_flags = flags & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)
    known = at_flags | AT_NO_AUTOMOUNT | AT_RECURSIVE | OPEN_TREE_CLONE | O_CLOEXEC
    if flags & ~known or flags & (AT_RECURSIVE | OPEN_TREE_CLONE) == AT_RECURSIVE:
        return -EINVAL
    if flags & OPEN_TREE_CLONE:
        require_admin(task)
    path = path_at(task, args.a0, args.a1, at_flags)
    if flags & OPEN_TREE_CLONE:
        is_ours = path.mount in task.mount_ns.mounts or is_in_anonymous_tree(path.mount)
        if not is_ours and path.inode().fs.kind != "nsfs":
            return -EINVAL
        check_room(task.mount_ns, len(mount_tree(path.mount)) if flags & AT_RECURSIVE else 1)
        copy = copy_tree(path, is_recursive=flags & AT_RECURSIVE != 0)
        copy.is_anonymous = True
        return install_tree(task, copy, is_cloexec=flags & O_CLOEXEC != 0)
    return install_place(task, path, is_cloexec=flags & O_CLOEXEC != 0)


def sys_move_mount(task: Task, args: Args) -> int:
    """move_mount(2)."""
    require_admin(task)
    flags = to_u32(args.a4)
    if flags & ~MOVE_MOUNT__MASK or flags & (MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_BENEATH):
        return -EINVAL
    from_flags = 0 if flags & MOVE_MOUNT_F_SYMLINKS else AT_SYMLINK_NOFOLLOW
    if flags & MOVE_MOUNT_F_EMPTY_PATH:
        from_flags |= AT_EMPTY_PATH
    to_flags = 0 if flags & MOVE_MOUNT_T_SYMLINKS else AT_SYMLINK_NOFOLLOW
    if flags & MOVE_MOUNT_T_EMPTY_PATH:
        to_flags |= AT_EMPTY_PATH
    old = path_at(task, args.a0, args.a1, from_flags)
    target = path_at(task, args.a2, args.a3, to_flags)
    mount = old.mount
    mounts = task.mount_ns.mounts
    into_anonymous = is_in_anonymous_tree(target.mount)
    if target.mount not in mounts and not into_anonymous:
        return -EINVAL
    if mount in mounts and not into_anonymous:
        do_move(task, old, target)
    elif mount.is_anonymous and old.dentry is mount.root and tree_top(target.mount) is not mount:
        if target.inode().is_dir() != old.inode().is_dir():
            return -EINVAL
        graft(task, mount, target)
    else:
        return -EINVAL
    return 0


def sys_mount_setattr(task: Task, args: Args) -> int:
    """mount_setattr(2); mounts are not mapped to other ids here."""
    flags = to_u32(args.a2)
    at_flags = flags & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)
    if flags & ~(at_flags | AT_RECURSIVE | AT_NO_AUTOMOUNT):
        return -EINVAL
    size = to_u64(args.a4)
    if size > _PAGE:
        return -E2BIG
    if size < MOUNT_ATTR_SIZE_VER0:
        return -EINVAL
    require_admin(task)
    raw = read_extensible(task, to_u64(args.a3), size, MOUNT_ATTR_SIZE_VER0)
    to_set, to_clear, propagation, userns_fd = _MOUNT_ATTR.unpack_from(raw, 0)
    if not to_set and not to_clear and not propagation:
        return 0
    if (to_set | to_clear) & MOUNT_ATTR_IDMAP:
        if to_set & MOUNT_ATTR_IDMAP and userns_fd <= INT_MAX:
            data_file(task, userns_fd)
        return -EINVAL
    path = path_at(task, args.a0, args.a1, at_flags)
    is_recursive = flags & AT_RECURSIVE != 0
    if to_set or to_clear:
        set_mount_attr(task, path, to_set, to_clear, is_recursive=is_recursive)
    if propagation:
        change_propagation(path, propagation | (MS_REC if is_recursive else 0))
    return 0
