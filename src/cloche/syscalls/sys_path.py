"""mkdir, link, unlink, rename and their kin, and the working and root directories.

The permission checks are in `vfs.namei`.
"""

from cloche.abi.capability import CAP_DAC_READ_SEARCH, CAP_SYS_CHROOT
from cloche.abi.errno import EINVAL, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, ERANGE
from cloche.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from cloche.abi.limits import PATH_MAX
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.syscalls.args import any_file, path_arg, path_of_file, start_of
from cloche.vfs.attr import inode_permission
from cloche.vfs.namei import (
    LOOKUP_DIRECTORY,
    LOOKUP_FOLLOW,
    getcwd,
    lookup_parent,
    path_lookup,
    rename_between,
    vfs_link,
    vfs_mkdir,
    vfs_mknod,
    vfs_rename,
    vfs_rmdir,
    vfs_symlink,
    vfs_unlink,
)
from cloche.vfs.objects import MAY_EXEC, Path


# -- making --------------------------------------------------------------------------------------------------
def sys_mkdir(task: Task, args: Args) -> int:
    """mkdir(2)."""
    vfs_mkdir(task, None, path_arg(task, args.a0), to_u32(args.a1))
    return 0


def sys_mkdirat(task: Task, args: Args) -> int:
    """mkdirat(2)."""
    name = path_arg(task, args.a1)
    vfs_mkdir(task, start_of(task, args.a0, name), name, to_u32(args.a2))
    return 0


def sys_mknod(task: Task, args: Args) -> int:
    """mknod(2)."""
    vfs_mknod(task, None, path_arg(task, args.a0), args.a1 & 0xFFFF, to_u32(args.a2))
    return 0


def sys_mknodat(task: Task, args: Args) -> int:
    """mknodat(2)."""
    name = path_arg(task, args.a1)
    vfs_mknod(task, start_of(task, args.a0, name), name, args.a2 & 0xFFFF, to_u32(args.a3))
    return 0


def sys_symlink(task: Task, args: Args) -> int:
    """symlink(2)."""
    vfs_symlink(task, path_arg(task, args.a0), None, path_arg(task, args.a1))
    return 0


def sys_symlinkat(task: Task, args: Args) -> int:
    """symlinkat(2)."""
    target = path_arg(task, args.a0)
    name = path_arg(task, args.a2)
    vfs_symlink(task, target, start_of(task, args.a1, name), name)
    return 0


def sys_link(task: Task, args: Args) -> int:
    """link(2): a symbolic link at the end of the old name is not followed."""
    old = path_lookup(task, None, path_arg(task, args.a0), 0)
    vfs_link(task, old, None, path_arg(task, args.a1))
    return 0


def sys_linkat(task: Task, args: Args) -> int:
    """linkat(2)."""
    flags = to_u32(args.a4)
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        return -EINVAL
    old_name = path_arg(task, args.a1)
    if not old_name and flags & AT_EMPTY_PATH:
        if to_i32(args.a0) == AT_FDCWD:
            old = task.fs.cwd
        else:
            file = any_file(task, args.a0)
            if file.creds is not task.creds and not (
                file.creds is not None and task.creds.capable_in(file.creds.user_ns, CAP_DAC_READ_SEARCH)
            ):
                return -ENOENT
            old = path_of_file(file)
    else:
        lookup = LOOKUP_FOLLOW if flags & AT_SYMLINK_FOLLOW else 0
        old = path_lookup(task, start_of(task, args.a0, old_name), old_name, lookup)
    name = path_arg(task, args.a3)
    vfs_link(task, old, start_of(task, args.a2, name), name)
    return 0


# -- removing ------------------------------------------------------------------------------------------------
def sys_unlink(task: Task, args: Args) -> int:
    """unlink(2)."""
    vfs_unlink(task, None, path_arg(task, args.a0))
    return 0


def sys_rmdir(task: Task, args: Args) -> int:
    """rmdir(2)."""
    vfs_rmdir(task, None, path_arg(task, args.a0))
    return 0


def sys_unlinkat(task: Task, args: Args) -> int:
    """unlinkat(2)."""
    flags = to_u32(args.a2)
    if flags & ~AT_REMOVEDIR:
        return -EINVAL
    name = path_arg(task, args.a1)
    start = start_of(task, args.a0, name)
    if flags & AT_REMOVEDIR:
        vfs_rmdir(task, start, name)
    else:
        vfs_unlink(task, start, name)
    return 0


# -- renaming ------------------------------------------------------------------------------------------------
def sys_rename(task: Task, args: Args) -> int:
    """rename(2)."""
    vfs_rename(task, None, path_arg(task, args.a0), None, path_arg(task, args.a1))
    return 0


def sys_renameat(task: Task, args: Args) -> int:
    """renameat(2)."""
    return rename_at(task, args, 0)


def sys_renameat2(task: Task, args: Args) -> int:
    """renameat2(2)."""
    return rename_at(task, args, to_u32(args.a4))


def rename_at(task: Task, args: Args, flags: int) -> int:
    """do_renameat2."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        return -EINVAL
    if flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT):
        return -EINVAL
    old_name = path_arg(task, args.a1)
    new_name = path_arg(task, args.a3)
    # All about the old name comes before the new one's descriptor.
    old = lookup_parent(task, start_of(task, args.a0, old_name), old_name, checks_length=False)
    new = lookup_parent(task, start_of(task, args.a2, new_name), new_name, checks_length=False)
    rename_between(task, old, new, flags)
    return 0


# -- working and root directory ------------------------------------------------------------------------------
def moved(task: Task, old: Path) -> None:
    """The task's working or root directory was `old`: notify inotify, which may wait for its last user."""
    hook = task.kernel.hooks.moved
    if hook is not None:
        hook(task, old)


def enter(task: Task, path: Path) -> int:
    """Whether the caller may make a directory its own; 0 or -errno."""
    return inode_permission(task, path.inode(), MAY_EXEC)


def sys_chdir(task: Task, args: Args) -> int:
    """chdir(2)."""
    path = path_lookup(task, None, path_arg(task, args.a0), LOOKUP_FOLLOW | LOOKUP_DIRECTORY)
    result = enter(task, path)
    if result == 0:
        old, task.fs.cwd = task.fs.cwd, path
        moved(task, old)
    return result


def sys_fchdir(task: Task, args: Args) -> int:
    """fchdir(2): an O_PATH descriptor will do."""
    path = path_of_file(any_file(task, args.a0))
    if not path.inode().is_dir():
        return -ENOTDIR
    result = enter(task, path)
    if result == 0:
        old, task.fs.cwd = task.fs.cwd, path
        moved(task, old)
    return result


def sys_chroot(task: Task, args: Args) -> int:
    """chroot(2)."""
    path = path_lookup(task, None, path_arg(task, args.a0), LOOKUP_FOLLOW | LOOKUP_DIRECTORY)
    result = enter(task, path)
    if result < 0:
        return result
    if not task.creds.capable_here(CAP_SYS_CHROOT):
        return -EPERM
    old, task.fs.root = task.fs.root, path
    moved(task, old)
    return 0


def sys_getcwd(task: Task, args: Args) -> int:
    """getcwd(2): the length with the terminating NUL."""
    text = getcwd(task) + b"\0"
    if len(text) > PATH_MAX:
        return -ENAMETOOLONG
    if len(text) > to_u64(args.a1):
        return -ERANGE
    task.user_memory().write(to_u64(args.a0), text)
    return len(text)


def sys_umask(task: Task, args: Args) -> int:
    """umask(2)."""
    old = task.fs.umask
    task.fs.umask = args.a0 & 0o777
    return old
