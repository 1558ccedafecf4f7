"""fsync and its kin, truncate and fallocate: sizes of files, and their way to the disk."""

from typing import Final

from cloche.abi.errno import EBADF, EFBIG, EINVAL, EISDIR, ENODEV, EOPNOTSUPP, ESPIPE
from cloche.abi.fs import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_UNSHARE_RANGE,
    FALLOC_FL_ZERO_RANGE,
    SYNC_FILE_RANGE_WRITE_AND_WAIT,
)
from cloche.abi.limits import MAX_LFS_FILESIZE
from cloche.abi.stat import S_IFBLK, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG
from cloche.fs.tmpfs import TmpfsDescription
from cloche.kernel.args import Args, to_i32, to_u32
from cloche.kernel.task import Task
from cloche.syscalls.args import can_write, data_file, path_arg
from cloche.syscalls.leases import LeaseWait
from cloche.syscalls.long_sizes import allocated, long_fallocate, long_ftruncate
from cloche.vfs.attr import vfs_ftruncate, vfs_truncate
from cloche.vfs.leases import LeaseBroken
from cloche.vfs.namei import path_lookup
from cloche.vfs.objects import FileDescription, FileSystem

_FALLOC_SUPPORTED: Final = (
    FALLOC_FL_KEEP_SIZE
    | FALLOC_FL_PUNCH_HOLE
    | FALLOC_FL_COLLAPSE_RANGE
    | FALLOC_FL_ZERO_RANGE
    | FALLOC_FL_INSERT_RANGE
    | FALLOC_FL_UNSHARE_RANGE
)


def sys_fsync(task: Task, args: Args) -> int:
    """fsync(2)."""
    return _synchronise(task, data_file(task, args.a0), is_data_only=False)


def _synchronise(task: Task, file: FileDescription, *, is_data_only: bool) -> int:
    waits = task.kernel.host_waits
    waits.file = file
    waits.bears_others = True
    try:
        return file.fsync(task, is_data_only=is_data_only)
    finally:
        waits.bears_others = False


def sys_fdatasync(task: Task, args: Args) -> int:
    """fdatasync(2)."""
    return _synchronise(task, data_file(task, args.a0), is_data_only=True)


def sys_sync(task: Task, args: Args) -> int:
    """sync(2): every mounted file system once; errors are not reported."""
    seen: list[FileSystem] = []
    for mount in task.mount_ns.mounts:
        if mount.fs not in seen:
            seen.append(mount.fs)
            mount.fs.sync()
    return 0


def sys_syncfs(task: Task, args: Args) -> int:
    """syncfs(2)."""
    return data_file(task, args.a0).inode.fs.sync()


def sys_sync_file_range(task: Task, args: Args) -> int:
    """sync_file_range(2)."""
    file = data_file(task, args.a0)
    offset, length, flags = args.a1, args.a2, to_u32(args.a3)
    if flags & ~SYNC_FILE_RANGE_WRITE_AND_WAIT or offset < 0 or length < 0:
        return -EINVAL
    if offset + length > MAX_LFS_FILESIZE:
        return -EINVAL
    if file.inode.mode & S_IFMT not in (S_IFREG, S_IFBLK, S_IFDIR, S_IFLNK):
        return -ESPIPE
    return file.fsync(task, is_data_only=True) if flags else 0


def sys_truncate(task: Task, args: Args) -> int:
    """truncate(2)."""
    if args.a1 < 0:
        return -EINVAL
    name = path_arg(task, args.a0)
    try:
        vfs_truncate(task, path_lookup(task, None, name), args.a1)
    except LeaseBroken as broken:
        return TruncateLeaseWait(name, args.a1).start(task, broken)
    return 0


class TruncateLeaseWait(LeaseWait):
    """A truncation that waits until others give up their leases."""

    def __init__(self, name: bytes, length: int) -> None:
        super().__init__()
        self.name: bytes = name
        self.length: int = length

    def act(self, task: Task) -> int:
        vfs_truncate(task, path_lookup(task, None, self.name), self.length)
        return 0


def sys_ftruncate(task: Task, args: Args) -> int:
    """ftruncate(2)."""
    if args.a1 < 0:
        return -EINVAL
    file = data_file(task, args.a0)
    if not can_write(file):
        return -EINVAL
    if isinstance(file, TmpfsDescription):
        return long_ftruncate(task, file, args.a1)
    waits = task.kernel.host_waits
    waits.file = file
    waits.bears_others = True
    try:
        return vfs_ftruncate(task, file, args.a1)
    finally:
        waits.bears_others = False


def sys_fallocate(task: Task, args: Args) -> int:
    """fallocate(2); the order of the checks is vfs_fallocate's."""
    file = data_file(task, args.a0)
    mode, offset, length = to_i32(args.a1), args.a2, args.a3
    if offset < 0 or length <= 0:
        return -EINVAL
    if mode & ~_FALLOC_SUPPORTED:
        return -EOPNOTSUPP
    operation = mode & ~FALLOC_FL_KEEP_SIZE
    if operation & (operation - 1):
        return -EOPNOTSUPP
    if operation == FALLOC_FL_PUNCH_HOLE and mode & FALLOC_FL_KEEP_SIZE == 0:
        return -EOPNOTSUPP
    if operation in (FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE) and mode & FALLOC_FL_KEEP_SIZE:
        return -EOPNOTSUPP
    if not can_write(file):
        return -EBADF
    kind = file.inode.mode & S_IFMT
    if kind == S_IFIFO:
        return -ESPIPE
    if kind == S_IFDIR:
        return -EISDIR
    if kind != S_IFREG and kind != S_IFBLK:
        return -ENODEV
    if offset + length > MAX_LFS_FILESIZE:
        return -EFBIG
    limit = task.file_size_limit
    if limit >= 0 and offset + length > max(limit, file.inode.size) and mode & FALLOC_FL_KEEP_SIZE == 0:
        task.file_size_exceeded()
        return -EFBIG
    if isinstance(file, TmpfsDescription):
        return long_fallocate(task, file, mode, offset, length)
    waits = task.kernel.host_waits
    waits.file = file
    waits.bears_others = True
    try:
        return allocated(file, file.fallocate(task, mode, offset, length))
    finally:
        waits.bears_others = False
