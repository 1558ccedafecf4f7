"""Inodes whose attributes live in memory alone: pipes, sockets, terminals, message queues."""

from cloche.abi.stat import S_IFMT
from cloche.vfs.objects import Context, Inode
from cloche.vfs.records import ATTR_ATIME, ATTR_CTIME, ATTR_GID, ATTR_MODE, ATTR_MTIME, ATTR_UID, SetAttr


class MemoryAttrInode(Inode):
    """chmod, chown and utimes work, and are forgotten with the inode."""

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        if attr.valid & ATTR_MODE:
            self.mode = self.mode & S_IFMT | attr.mode & 0o7777
        if attr.valid & ATTR_UID:
            self.uid = attr.uid
        if attr.valid & ATTR_GID:
            self.gid = attr.gid
        if attr.valid & ATTR_ATIME:
            self.atime_ns = attr.atime_ns
        if attr.valid & ATTR_MTIME:
            self.mtime_ns = attr.mtime_ns
        if attr.valid & ATTR_CTIME:
            self.ctime_ns = attr.ctime_ns
