"""Anonymous files: open file descriptions without a name, on the one anonymous inode or on an inode of their
own.

Owns `AnonFile`, the base of eventfd, timerfd, signalfd, pidfd, epoll and inotify descriptions, and the
shared inode that they have in Linux (fs/anon_inodes.c).
"""

import time

from cloche.abi.errno import EOPNOTSUPP, LinuxError
from cloche.abi.fcntl import O_RDWR
from cloche.abi.magic import ANON_INODE_FS_MAGIC
from cloche.kernel.task import Kernel
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode
from cloche.vfs.records import SetAttr


class AnonInode(Inode):
    """The inode that anonymous files share; its attributes cannot be changed."""

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        raise LinuxError(EOPNOTSUPP)


def anon_fs(kernel: Kernel) -> FileSystem:
    """The file system of anonymous inodes, made at first use."""
    fs = kernel.file_systems.anon
    if fs is None:
        fs = FileSystem("anon_inodefs", ANON_INODE_FS_MAGIC, kernel.numbers.dev())
        kernel.file_systems.anon = fs
    return fs


def anon_inode(kernel: Kernel) -> Inode:
    """The shared anonymous inode."""
    found = kernel.file_systems.anon_inode
    if isinstance(found, AnonInode):
        return found
    inode = AnonInode(anon_fs(kernel), kernel.numbers.anon_ino(), 0o600)
    now = time.time_ns()
    inode.atime_ns = inode.mtime_ns = inode.ctime_ns = now
    kernel.file_systems.anon_inode = inode
    return inode


class AnonFile(FileDescription):
    """An open file without a name, O_RDWR unless told otherwise.

    Lseek does nothing (noop_llseek), pread fails.
    """

    def __init__(self, kernel: Kernel, kind: bytes, flags: int = O_RDWR) -> None:
        super().__init__(None, anon_inode(kernel), flags)
        self.kernel: Kernel = kernel
        self.kind: bytes = kind

    def is_seekable(self) -> bool:
        return False

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        return 0

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return -22

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        return -22

    def link_text(self) -> bytes | None:
        return b"anon_inode:" + self.kind
