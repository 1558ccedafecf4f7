"""Argument decoding shared by the handlers for files: descriptors, directory descriptors, access modes.

May call vfs and kernel; every function raises LinuxError unless it says otherwise.
"""

from cloche.abi.errno import EBADF, ENOTDIR, LinuxError
from cloche.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.kernel.args import to_i32, to_u64
from cloche.kernel.task import Task
from cloche.vfs.namei import LOOKUP_FOLLOW, path_lookup
from cloche.vfs.objects import Dentry, FileDescription, Mount, Path


def data_file(task: Task, fd_arg: int) -> FileDescription:
    """The open file of a descriptor argument; EBADF for an O_PATH one too (fdget)."""
    file = task.files.find(to_i32(fd_arg))
    if file is not None and file.flags & O_PATH == 0:
        return file
    raise LinuxError(EBADF)


def any_file(task: Task, fd_arg: int) -> FileDescription:
    """The open file of a descriptor argument, O_PATH ones included (fdget_raw)."""
    return task.files.get(to_i32(fd_arg))


def path_arg(task: Task, addr_arg: int) -> bytes:
    """A path argument.  EFAULT, ENAMETOOLONG."""
    return task.user_memory().read_cstring(to_u64(addr_arg))


def start_of(task: Task, dirfd_arg: int, name: bytes) -> Path | None:
    """The directory at which a relative name begins; None: the working directory or the root.

    The descriptor is not checked when the name does not need it, which includes the empty name (ENOENT).
    """
    dirfd = to_i32(dirfd_arg)
    if dirfd == AT_FDCWD or not name or name[0] == 0x2F:
        return None
    path = task.files.get(dirfd).path
    if path is None:
        raise LinuxError(ENOTDIR)
    return path


def path_of_file(file: FileDescription) -> Path:
    """The path of an open file; an anonymous one gets a place of its own, so that chmod works on it."""
    path = file.path
    if path is not None:
        return path
    dentry = Dentry(b"", None, file.inode)
    return Path(Mount(0, file.inode.fs, dentry), dentry)


def empty_path(task: Task, dirfd_arg: int) -> Path:
    """The object of AT_EMPTY_PATH with the empty name: the descriptor's own, or the working directory."""
    dirfd = to_i32(dirfd_arg)
    return task.fs.cwd if dirfd == AT_FDCWD else path_of_file(task.files.get(dirfd))


def path_at(task: Task, dirfd_arg: int, name_arg: int, at_flags: int) -> Path:
    """The existing object that an *at call names; AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH are obeyed."""
    is_empty_allowed = at_flags & AT_EMPTY_PATH != 0
    if is_empty_allowed and name_arg == 0:
        return empty_path(task, dirfd_arg)  # since 6.11 a null pointer counts as the empty name
    name = path_arg(task, name_arg)
    if not name and is_empty_allowed:
        return empty_path(task, dirfd_arg)
    flags = 0 if at_flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    return path_lookup(task, start_of(task, dirfd_arg, name), name, flags)


def can_read(file: FileDescription) -> bool:
    """FMODE_READ: access mode 3 gives neither, nor does O_PATH."""
    mode = file.flags & (3 | O_PATH)
    return mode == 0 or mode == 2


def can_write(file: FileDescription) -> bool:
    """FMODE_WRITE."""
    mode = file.flags & (3 | O_PATH)
    return mode == 1 or mode == 2


def is_user_range(addr: int, length: int) -> bool:
    """access_ok: whether the signed register values describe a range that could be the program's."""
    return addr >= 0 and length >= 0 and addr + length <= TASK_SIZE_MAX
