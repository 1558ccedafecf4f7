"""The file system in which sockets have their inodes."""

import time

from cloche.abi.errno import ENXIO, LinuxError
from cloche.abi.magic import SOCKFS_MAGIC
from cloche.abi.stat import S_IFSOCK
from cloche.kernel.task import Kernel
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.objects import Context, FileDescription, FileSystem, Path


class SocketInode(MemoryAttrInode):
    """The inode of a socket without a name."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        """Fail: sockets cannot be opened through /proc/PID/fd."""
        raise LinuxError(ENXIO)


def sockfs(kernel: Kernel) -> FileSystem:
    """The file system of sockets, made at first use."""
    found = kernel.file_systems.socket
    if found is not None:
        return found
    fs = FileSystem("sockfs", SOCKFS_MAGIC, kernel.numbers.dev())
    kernel.file_systems.socket = fs
    return fs


def new_inode(kernel: Kernel, ctx: Context) -> SocketInode:
    """An inode for a new socket."""
    inode = SocketInode(
        sockfs(kernel), kernel.numbers.anon_ino(), S_IFSOCK | 0o777, ctx.creds.fsuid, ctx.creds.fsgid
    )
    now = time.time_ns()
    inode.atime_ns = inode.mtime_ns = inode.ctime_ns = now
    return inode
