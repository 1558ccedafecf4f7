"""Signals about what happens in a directory: F_NOTIFY of fcntl(2) (fs/notify/dnotify).

A notice belongs to one open directory and one table of descriptors, and ends when a descriptor of the two is closed.
It is one of the inode's watches of `fs.inotify`.
"""

from typing import Final

from cloche.abi.errno import ENOTDIR
from cloche.abi.fcntl import (
    DN_ACCESS,
    DN_ATTRIB,
    DN_CREATE,
    DN_DELETE,
    DN_MODIFY,
    DN_MULTISHOT,
    DN_RENAME,
    F_OWNER_PID,
)
from cloche.abi.inotify import (
    IN_ACCESS,
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)
from cloche.abi.poll import POLLIN, POLLMSG, POLLRDNORM
from cloche.abi.signal import POLL_MSG
from cloche.fs.inotify import DirectoryNotice, drop_notices, watch_set_of
from cloche.kernel.fasync import signal_owner
from cloche.kernel.fd_table import FdTable
from cloche.kernel.task import Kernel, Task
from cloche.vfs.objects import FileDescription

_BAND: Final = POLLIN | POLLRDNORM | POLLMSG
_MASKS: Final[list[tuple[int, int]]] = [
    (DN_ACCESS, IN_ACCESS),
    (DN_MODIFY, IN_MODIFY),
    (DN_ATTRIB, IN_ATTRIB),
    (DN_CREATE, IN_CREATE | IN_MOVED_TO),
    (DN_DELETE, IN_DELETE | IN_MOVED_FROM),
]


class DnotifyNotice(DirectoryNotice):
    """The events that the owner of one open directory has asked for."""

    def __init__(self, kernel: Kernel, file: FileDescription, table: FdTable, fd: int) -> None:
        super().__init__(file, table)
        self.kernel: Kernel = kernel
        self.fd: int = fd
        self.wanted: int = 0  # DN_*
        self.mask: int = 0  # the IN_* that they stand for
        self.moved_from: int = 0  # the cookie of the latest IN_MOVED_FROM here

    def want(self, wanted: int) -> None:
        """Add DN_* bits."""
        self.wanted |= wanted
        for bit, mask in _MASKS:
            if wanted & bit:
                self.mask |= mask

    def event(self, mask: int, cookie: int) -> bool:
        """An event of the directory or in it; False once the notice is spent."""
        # DN_RENAME is about names that change within the directory.
        is_rename = mask & IN_MOVED_TO != 0 and cookie == self.moved_from and self.wanted & DN_RENAME != 0
        if mask & IN_MOVED_FROM:
            self.moved_from = cookie
        for _ in range((mask & self.mask != 0) + is_rename):
            signal_owner(self.kernel, self.file, POLL_MSG, _BAND, self.fd)
            if self.wanted & DN_MULTISHOT == 0:
                return False
        return True


def set_notice(task: Task, fd: int, file: FileDescription, wanted: int) -> int:
    """F_NOTIFY with DN_* bits; none but DN_MULTISHOT ends it."""
    inode = file.inode
    if wanted & ~DN_MULTISHOT == 0:
        drop_notices(inode, file, task.files)
        return 0
    if not inode.is_dir():
        return -ENOTDIR
    if file.owner_pid == 0:
        file.owner_pid, file.owner_type, file.owner_creds = task.group.tgid, F_OWNER_PID, task.creds
    notices = watch_set_of(inode).notices
    for notice in notices:
        if notice.file is file and notice.table is task.files and isinstance(notice, DnotifyNotice):
            notice.want(wanted)
            return 0
    added = DnotifyNotice(task.kernel, file, task.files, fd)
    added.want(wanted)
    notices.append(added)
    return 0
