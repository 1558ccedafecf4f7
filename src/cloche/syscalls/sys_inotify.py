"""inotify_init, inotify_init1, inotify_add_watch, inotify_rm_watch."""

from typing import Final

from cloche.abi.errno import EACCES, EBADF, EINVAL, EMFILE, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.inotify import IN_CLOEXEC, IN_DONT_FOLLOW, IN_NONBLOCK, IN_ONLYDIR
from cloche.fs.inotify import InotifyFile, check_mask, create_inotify
from cloche.kernel.args import Args, to_i32, to_u32
from cloche.kernel.task import Task
from cloche.syscalls.args import path_arg
from cloche.vfs.namei import LOOKUP_DIRECTORY, LOOKUP_FOLLOW, inode_permission, path_lookup
from cloche.vfs.objects import MAY_READ

_FLAGS: Final = IN_CLOEXEC | IN_NONBLOCK


def sys_inotify_init(task: Task, args: Args) -> int:
    """inotify_init(2)."""
    return _inotify_init(task, 0)


def sys_inotify_init1(task: Task, args: Args) -> int:
    """inotify_init1(2)."""
    return _inotify_init(task, to_u32(args.a0))


def _inotify_init(task: Task, flags: int) -> int:
    if flags & ~_FLAGS:
        return -EINVAL
    file = create_inotify(task.kernel, task.creds.uid, flags)
    if file is None:
        return -EMFILE
    file.get()
    try:
        return task.files.install(file, task.nofile_limit(), is_cloexec=flags & IN_CLOEXEC != 0)
    finally:
        file.put()


def _inotify_file(task: Task, fd: int) -> InotifyFile:
    file = task.files.get(fd)
    if file.flags & O_PATH:
        raise LinuxError(EBADF)
    if not isinstance(file, InotifyFile):
        raise LinuxError(EINVAL)
    return file


def sys_inotify_add_watch(task: Task, args: Args) -> int:
    """inotify_add_watch(2)."""
    mask = to_u32(args.a2)
    result = check_mask(mask)
    if result:
        return result
    file = _inotify_file(task, to_i32(args.a0))
    flags = 0 if mask & IN_DONT_FOLLOW else LOOKUP_FOLLOW
    if mask & IN_ONLYDIR:
        flags |= LOOKUP_DIRECTORY
    path = path_lookup(task, None, path_arg(task, args.a1), flags)
    inode = path.inode()
    if inode_permission(task, inode, MAY_READ):
        return -EACCES
    return file.add_watch(inode, mask)


def sys_inotify_rm_watch(task: Task, args: Args) -> int:
    """inotify_rm_watch(2)."""
    file = _inotify_file(task, to_i32(args.a0))
    watch = file.watches.get(to_i32(args.a1))
    if watch is None:
        return -EINVAL
    file.drop_watch(watch)
    return 0
