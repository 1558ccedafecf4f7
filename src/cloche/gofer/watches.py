"""Tells the sentry of names that others change: directories that it asks about often, watched by inotify(7).

Owns one inotify descriptor for the worker, made when the first directory is watched; the sentry gets a duplicate and
reads the events. Events must reveal no more than a listing of the directory, so directories that are only shown in
part are not watched. Nor are those of file systems where changes may be made elsewhere than in this kernel, or are
not reported.
"""

import os
from errno import EACCES, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_EXCL_UNLINK,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
)
from cloche.abi.magic import (
    BTRFS_SUPER_MAGIC,
    EXT4_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC,
    XFS_SUPER_MAGIC,
)
from cloche.gofer.nodes import Node, NodeTable
from cloche.platform import hostsys

MAX_WATCHES: Final = 256  # each keeps an inode of the host in memory
_ZFS_MAGIC: Final = 0x2FC12FC1  # not in linux/magic.h
_MAGICS: Final = frozenset(
    [
        BTRFS_SUPER_MAGIC,
        EXT4_SUPER_MAGIC,
        F2FS_SUPER_MAGIC,
        OVERLAYFS_SUPER_MAGIC,
        TMPFS_MAGIC,
        XFS_SUPER_MAGIC,
        _ZFS_MAGIC,
    ]
)
_MASK: Final = (
    IN_CREATE
    | IN_DELETE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_ATTRIB
    | IN_DELETE_SELF
    | IN_ONLYDIR
    | IN_EXCL_UNLINK
)
_REFUSALS: Final = frozenset([EACCES, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC])


class Watches:
    """The directories of a worker that are watched."""

    def __init__(self, table: NodeTable) -> None:
        self._table: NodeTable = table
        self._fd: int = -1
        self._known: set[int] = set()

    def add(self, node: Node) -> tuple[int, int]:
        """Watch a directory: the number of the watch, and the descriptor that tells.

        Raises LinuxError(EOPNOTSUPP) where that is not possible, or too many are watched.
        """
        attach = node.attach
        if attach.only is not None or attach.is_public_only or attach.skeleton is not None:
            raise LinuxError(EOPNOTSUPP)
        fd = self._table.dir_fd(node)
        if hostsys.fstatfs(fd).magic not in _MAGICS or len(self._known) >= MAX_WATCHES:
            raise LinuxError(EOPNOTSUPP)
        try:
            if self._fd < 0:
                self._fd = hostsys.inotify_init()
            watch = hostsys.inotify_add_watch(self._fd, os.fsencode(str(fd)), _MASK)
        except OSError as error:
            if error.errno in _REFUSALS:
                raise LinuxError(EOPNOTSUPP)
            raise
        self._known.add(watch)
        return watch, self._fd

    def drop(self, watch: int) -> None:
        """Watch it no longer.  Unknown numbers are ignored."""
        if watch in self._known:
            self._known.discard(watch)
            try:
                hostsys.inotify_rm_watch(self._fd, watch)
            except OSError:
                pass  # the directory is gone
