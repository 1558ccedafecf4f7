"""ioctl: the commands that every file has (do_vfs_ioctl of fs/ioctl.c); the rest goes to the open file."""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_RAWIO
from cloche.abi.errno import EBADF, EINVAL, EISDIR, ENOTTY, EOPNOTSUPP, EPERM, EXDEV
from cloche.abi.fcntl import FASYNC, O_APPEND, O_NONBLOCK
from cloche.abi.fs import (
    FIBMAP,
    FICLONE,
    FICLONERANGE,
    FIDEDUPERANGE,
    FIFREEZE,
    FIGETBSZ,
    FITHAW,
)
from cloche.abi.ioctl import FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD, FIOQSIZE
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.fasync import set_async
from cloche.kernel.task import Task
from cloche.syscalls.args import can_read, can_write, data_file
from cloche.vfs.objects import FileDescription

_FS_IOC_FIEMAP: Final = 0xC020660B


def sys_ioctl(task: Task, args: Args) -> int:
    """ioctl(2)."""
    file = data_file(task, args.a0)
    command = to_u32(args.a1)
    kind = command >> 8 & 0xFF
    # Commands of terminals ('T', except the few below) and sockets (0x89) are the most frequent: pass them on first.
    if kind == 0x54 and command < FIONBIO and command != FIONREAD:
        return file.ioctl(task, command, to_u64(args.a2))
    if command == FIOCLEX:
        task.files.set_cloexec(to_i32(args.a0), is_cloexec=True)
        return 0
    if command == FIONCLEX:
        task.files.set_cloexec(to_i32(args.a0), is_cloexec=False)
        return 0
    pointer = to_u64(args.a2)
    if command == FIONBIO:
        return change_flag(task, file, to_i32(args.a0), O_NONBLOCK, task.user_memory().read_i32(pointer))
    if command == FIOASYNC:
        return change_flag(task, file, to_i32(args.a0), FASYNC, task.user_memory().read_i32(pointer))
    result = file_system_ioctl(task, file, command, args.a2)
    return file.ioctl(task, command, pointer) if result == -ENOTTY else result


def change_flag(task: Task, file: FileDescription, fd: int, flag: int, value: int) -> int:
    """Set or clear one status flag."""
    new = file.flags | flag if value else file.flags & ~flag
    if new == file.flags:
        return 0
    if flag == FASYNC and not set_async(task.kernel, file, fd, is_on=value != 0):
        return -ENOTTY
    return file.set_status_flags(task, new)


def file_system_ioctl(task: Task, file: FileDescription, command: int, arg: int) -> int:
    """Commands about files as such; -ENOTTY for all others."""
    inode = file.inode
    kind = inode.mode & S_IFMT
    pointer = to_u64(arg)
    if command == FIONREAD:
        if kind != S_IFREG:
            return -ENOTTY
        inode.refresh(task)
        task.user_memory().write_u32(pointer, inode.size - file.pos)
        return 0
    if command == FIGETBSZ:
        task.user_memory().write_i32(pointer, inode.blksize)
        return 0
    if command == FIOQSIZE:
        if kind != S_IFREG and kind != S_IFDIR and kind != S_IFLNK:
            return -ENOTTY
        inode.refresh(task)
        task.user_memory().write_i64(pointer, inode.blocks * 512)
        return 0
    if command == FIBMAP and kind == S_IFREG:
        return -EINVAL if task.creds.capable(CAP_SYS_RAWIO) else -EPERM
    if command == FIFREEZE or command == FITHAW:
        return -EOPNOTSUPP if task.creds.capable(CAP_SYS_ADMIN) else -EPERM
    if command == FICLONE:
        return clone_file(task, file, arg)
    if command == FICLONERANGE:
        return clone_file(task, file, task.user_memory().read_i64(pointer))
    if command == FIDEDUPERANGE or command == _FS_IOC_FIEMAP:
        return -EOPNOTSUPP
    return -ENOTTY


def clone_file(task: Task, file: FileDescription, source_arg: int) -> int:
    """FICLONE and FICLONERANGE: no file system here shares extents; the errors come in Linux's order."""
    source = data_file(task, source_arg)
    if source.inode.fs is not file.inode.fs:
        return -EXDEV
    if source.inode.is_dir() or file.inode.is_dir():
        return -EISDIR
    if not source.inode.is_regular() or not file.inode.is_regular():
        return -EINVAL
    if not can_read(source) or not can_write(file) or file.flags & O_APPEND:
        return -EBADF
    return -EOPNOTSUPP
