"""chmod, chown and the utime family: changing attributes of files."""

from typing import Final

from cloche.abi.errno import EFAULT, EINVAL, LinuxError
from cloche.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from cloche.abi.structs import (
    TIMESPEC_SIZE,
    TIMEVAL_SIZE,
    UTIMBUF_SIZE,
    unpack_timespec_raw,
    unpack_timeval_raw,
)
from cloche.abi.time import UTIME_NOW, UTIME_OMIT
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.task import Task
from cloche.syscalls.args import data_file, path_at, path_of_file
from cloche.vfs.attr import TIME_NOW, TIME_OMIT, vfs_chmod, vfs_chown, vfs_utimens
from cloche.vfs.objects import Path
from cloche.vfs.userns import map_gid, map_uid

_AT_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
_SECOND_NS: Final = 1_000_000_000


# -- mode ----------------------------------------------------------------------------------------------------
def sys_chmod(task: Task, args: Args) -> int:
    """chmod(2)."""
    vfs_chmod(task, path_at(task, AT_FDCWD, args.a0, 0), to_u32(args.a1))
    return 0


def sys_fchmod(task: Task, args: Args) -> int:
    """fchmod(2)."""
    vfs_chmod(task, path_of_file(data_file(task, args.a0)), to_u32(args.a1))
    return 0


def sys_fchmodat(task: Task, args: Args) -> int:
    """fchmodat(2): the system call has no flags."""
    vfs_chmod(task, path_at(task, args.a0, args.a1, 0), to_u32(args.a2))
    return 0


def sys_fchmodat2(task: Task, args: Args) -> int:
    """fchmodat2(2)."""
    flags = to_u32(args.a3)
    if flags & ~_AT_FLAGS:
        return -EINVAL
    vfs_chmod(task, path_at(task, args.a0, args.a1, flags), to_u32(args.a2))
    return 0


# -- owner ---------------------------------------------------------------------------------------------------
_KEEP: Final = 0xFFFFFFFF


def _change_owner(task: Task, path: Path, uid_arg: int, gid_arg: int) -> int:
    """The common part of the calls: ids of the caller's namespace, -1 to keep what there is."""
    uid, gid = to_u32(uid_arg), to_u32(gid_arg)
    ns = task.creds.user_ns
    if ns is not None:
        if uid != _KEEP:
            uid = map_uid(ns, uid)
        if gid != _KEEP:
            gid = map_gid(ns, gid)
        if uid < 0 or gid < 0:
            return -EINVAL
    vfs_chown(task, path, -1 if uid == _KEEP else uid, -1 if gid == _KEEP else gid)
    return 0


def sys_chown(task: Task, args: Args) -> int:
    """chown(2)."""
    path = path_at(task, AT_FDCWD, args.a0, 0)
    return _change_owner(task, path, args.a1, args.a2)


def sys_lchown(task: Task, args: Args) -> int:
    """lchown(2)."""
    path = path_at(task, AT_FDCWD, args.a0, AT_SYMLINK_NOFOLLOW)
    return _change_owner(task, path, args.a1, args.a2)


def sys_fchown(task: Task, args: Args) -> int:
    """fchown(2)."""
    return _change_owner(task, path_of_file(data_file(task, args.a0)), args.a1, args.a2)


def sys_fchownat(task: Task, args: Args) -> int:
    """fchownat(2)."""
    flags = to_u32(args.a4)
    if flags & ~_AT_FLAGS:
        return -EINVAL
    path = path_at(task, args.a0, args.a1, flags)
    return _change_owner(task, path, args.a2, args.a3)


# -- times ---------------------------------------------------------------------------------------------------
def timespec_arg(raw: bytes, offset: int) -> int:
    """A time of utimensat(2): ns since the epoch, TIME_NOW or TIME_OMIT."""
    seconds, nanoseconds = unpack_timespec_raw(raw, offset)
    if nanoseconds == UTIME_NOW:
        return TIME_NOW
    if nanoseconds == UTIME_OMIT:
        return TIME_OMIT
    if nanoseconds < 0 or nanoseconds >= _SECOND_NS:
        raise LinuxError(EINVAL)
    return seconds * _SECOND_NS + nanoseconds


def timeval_arg(raw: bytes, offset: int) -> int:
    """A time of utimes(2)."""
    seconds, microseconds = unpack_timeval_raw(raw, offset)
    if microseconds < 0 or microseconds >= 1_000_000:
        raise LinuxError(EINVAL)
    return seconds * _SECOND_NS + microseconds * 1000


def time_target(task: Task, dirfd_arg: int, name_arg: int, flags: int) -> Path:
    """The file of utimensat(2) and futimesat(2): a null name means the descriptor itself."""
    if name_arg == 0:
        if to_i32(dirfd_arg) == AT_FDCWD:
            raise LinuxError(EFAULT)
        if flags:
            raise LinuxError(EINVAL)
        return path_of_file(data_file(task, dirfd_arg))
    if flags & ~_AT_FLAGS:
        raise LinuxError(EINVAL)
    return path_at(task, dirfd_arg, name_arg, flags)


def sys_utimensat(task: Task, args: Args) -> int:
    """utimensat(2)."""
    atime_ns = mtime_ns = TIME_NOW
    pointer = to_u64(args.a2)
    if pointer:
        raw = task.user_memory().read(pointer, 2 * TIMESPEC_SIZE)
        # Nothing to do comes before every other check, the path's included.
        if unpack_timespec_raw(raw, 0)[1] == UTIME_OMIT and unpack_timespec_raw(raw, 16)[1] == UTIME_OMIT:
            return 0
        atime_ns = timespec_arg(raw, 0)
        mtime_ns = timespec_arg(raw, TIMESPEC_SIZE)
    vfs_utimens(task, time_target(task, args.a0, args.a1, to_u32(args.a3)), atime_ns, mtime_ns)
    return 0


def change_times(task: Task, dirfd_arg: int, name_arg: int, pointer: int) -> int:
    """utimes and futimesat."""
    atime_ns = mtime_ns = TIME_NOW
    if pointer:
        raw = task.user_memory().read(pointer, 2 * TIMEVAL_SIZE)
        atime_ns = timeval_arg(raw, 0)
        mtime_ns = timeval_arg(raw, TIMEVAL_SIZE)
    vfs_utimens(task, time_target(task, dirfd_arg, name_arg, 0), atime_ns, mtime_ns)
    return 0


def sys_utimes(task: Task, args: Args) -> int:
    """utimes(2)."""
    return change_times(task, AT_FDCWD, args.a0, to_u64(args.a1))


def sys_futimesat(task: Task, args: Args) -> int:
    """futimesat(2)."""
    return change_times(task, args.a0, args.a1, to_u64(args.a2))


def sys_utime(task: Task, args: Args) -> int:
    """utime(2)."""
    atime_ns = mtime_ns = TIME_NOW
    pointer = to_u64(args.a1)
    if pointer:
        seconds = unpack_timespec_raw(task.user_memory().read(pointer, UTIMBUF_SIZE), 0)
        atime_ns = seconds[0] * _SECOND_NS
        mtime_ns = seconds[1] * _SECOND_NS
    vfs_utimens(task, time_target(task, AT_FDCWD, args.a0, 0), atime_ns, mtime_ns)
    return 0
