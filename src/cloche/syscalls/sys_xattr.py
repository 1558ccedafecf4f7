"""Extended attributes (xattr(7)): the twelve calls; the permission checks are in `vfs.attr`."""

from cloche.abi.errno import E2BIG, EINVAL, ERANGE, LinuxError
from cloche.abi.fcntl import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from cloche.abi.xattr import XATTR_CREATE, XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_REPLACE, XATTR_SIZE_MAX
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.syscalls.args import data_file, path_at, path_of_file
from cloche.vfs.attr import vfs_getxattr, vfs_listxattr, vfs_removexattr, vfs_setxattr
from cloche.vfs.objects import Path


def name_arg(task: Task, addr: int) -> bytes:
    """An attribute's name: ERANGE if it is empty or too long, EFAULT."""
    name = task.user_memory().cstring(to_u64(addr), XATTR_NAME_MAX + 1)
    if name is None:
        name = task.user_memory().read_cstring(to_u64(addr))
    if not name or len(name) > XATTR_NAME_MAX:
        raise LinuxError(ERANGE)
    return name


def set_value(task: Task, args: Args, path: Path | None) -> int:
    """setxattr and its kin; `path` None: look the first argument up afterwards, as Linux does."""
    flags = to_u32(args.a4)
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        return -EINVAL
    name = name_arg(task, args.a1)
    size = to_u64(args.a3)
    if size > XATTR_SIZE_MAX:
        return -E2BIG
    value = task.user_memory().read(to_u64(args.a2), size)
    if path is None:
        path = path_at(task, AT_FDCWD, args.a0, 0)
    vfs_setxattr(task, path, name, value, flags)
    return 0


def sys_setxattr(task: Task, args: Args) -> int:
    """setxattr(2)."""
    return set_value(task, args, None)


def sys_lsetxattr(task: Task, args: Args) -> int:
    """lsetxattr(2)."""
    return set_value(task, args, path_at(task, AT_FDCWD, args.a0, AT_SYMLINK_NOFOLLOW))


def sys_fsetxattr(task: Task, args: Args) -> int:
    """fsetxattr(2)."""
    return set_value(task, args, path_of_file(data_file(task, args.a0)))


def give(task: Task, data: bytes, buffer: int, size: int, limit: int) -> int:
    """Copy an answer out; for size 0 return only its length. ERANGE if it does not fit."""
    size = min(to_u64(size), limit)
    if size == 0:
        return len(data)
    if len(data) > size:
        return -E2BIG if size == limit else -ERANGE
    task.user_memory().write(to_u64(buffer), data)
    return len(data)


def get_value(task: Task, args: Args, path: Path) -> int:
    """getxattr and its kin."""
    value = vfs_getxattr(task, path, name_arg(task, args.a1))
    return give(task, value, args.a2, args.a3, XATTR_SIZE_MAX)


def sys_getxattr(task: Task, args: Args) -> int:
    """getxattr(2)."""
    return get_value(task, args, path_at(task, AT_FDCWD, args.a0, 0))


def sys_lgetxattr(task: Task, args: Args) -> int:
    """lgetxattr(2)."""
    return get_value(task, args, path_at(task, AT_FDCWD, args.a0, AT_SYMLINK_NOFOLLOW))


def sys_fgetxattr(task: Task, args: Args) -> int:
    """fgetxattr(2)."""
    return get_value(task, args, path_of_file(data_file(task, args.a0)))


def list_names(task: Task, args: Args, path: Path) -> int:
    """listxattr and its kin."""
    names = vfs_listxattr(task, path)
    text = b"".join([name + b"\0" for name in names])
    return give(task, text, args.a1, args.a2, XATTR_LIST_MAX)


def sys_listxattr(task: Task, args: Args) -> int:
    """listxattr(2)."""
    return list_names(task, args, path_at(task, AT_FDCWD, args.a0, 0))


def sys_llistxattr(task: Task, args: Args) -> int:
    """llistxattr(2)."""
    return list_names(task, args, path_at(task, AT_FDCWD, args.a0, AT_SYMLINK_NOFOLLOW))


def sys_flistxattr(task: Task, args: Args) -> int:
    """flistxattr(2)."""
    return list_names(task, args, path_of_file(data_file(task, args.a0)))


def sys_removexattr(task: Task, args: Args) -> int:
    """removexattr(2)."""
    name = name_arg(task, args.a1)
    vfs_removexattr(task, path_at(task, AT_FDCWD, args.a0, 0), name)
    return 0


def sys_lremovexattr(task: Task, args: Args) -> int:
    """lremovexattr(2)."""
    name = name_arg(task, args.a1)
    vfs_removexattr(task, path_at(task, AT_FDCWD, args.a0, AT_SYMLINK_NOFOLLOW), name)
    return 0


def sys_fremovexattr(task: Task, args: Args) -> int:
    """fremovexattr(2)."""
    path = path_of_file(data_file(task, args.a0))
    vfs_removexattr(task, path, name_arg(task, args.a1))
    return 0
