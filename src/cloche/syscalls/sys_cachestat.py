"""cachestat(2): pages of a file in the page cache.

This kernel's page cache consists of files in memory: their pages are present, and never dirty, written back or
evicted (as in Linux, where only swap takes them). Of files of the host it has no pages. The host's own page cache is
not reported, because that would reveal other processes' reads. So its counts are zero, as on a file system that goes
around the cache (overlayfs, FUSE with FOPEN_DIRECT_IO).
"""

from typing import Final

from cloche.abi.errno import EINVAL, EPERM, ERESTARTSYS
from cloche.abi.limits import MAX_LFS_FILESIZE
from cloche.abi.structs import CACHESTAT, CACHESTAT_RANGE
from cloche.fs.quota import PAGE
from cloche.fs.storage import Storage
from cloche.fs.tmpfs import TmpfsDescription
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, TaskBase, next_slice
from cloche.kernel.task import Task
from cloche.syscalls.args import can_write, data_file
from cloche.syscalls.long_io import FileWait, is_killed
from cloche.vfs.attr import inode_permission, owner_or_capable
from cloche.vfs.objects import MAY_WRITE, FileDescription

_LAST: Final = (1 << 64) - 1


def sys_cachestat(task: Task, args: Args) -> int:
    """cachestat(2); the order of the checks is that of mm/filemap.c, with its check of permissions (6.12.11)."""
    file = data_file(task, args.a0)
    raw = task.user_memory().read(to_u64(args.a1), CACHESTAT_RANGE.size)
    if not _may_ask(task, file):
        return -EPERM
    if to_u32(args.a3) != 0:
        return -EINVAL
    fields = CACHESTAT_RANGE.unpack(raw)
    offset: int = fields[0]
    length: int = fields[1]
    last = (offset + length - 1) & _LAST if length else _LAST  # wraps, as there
    start, end = offset // PAGE * PAGE, min((last // PAGE + 1) * PAGE, MAX_LFS_FILESIZE)
    out = to_u64(args.a2)
    if not isinstance(file, TmpfsDescription) or start >= end:
        return _answer(task, out, 0)
    count = Count(file, file.file.storage, start, end, out)
    result = count.retry(task)
    if result != BLOCKED:
        count.finished(task)
    return result


def _may_ask(task: Task, file: FileDescription) -> bool:
    """can_do_cachestat: only a caller that may write to the file, so that others' reads are not revealed."""
    if can_write(file):
        return True
    inode = file.inode
    inode.refresh_owner(task)
    return owner_or_capable(task.creds, inode) or inode_permission(task, inode, MAY_WRITE) == 0


def _answer(task: Task, out: int, pages: int) -> int:
    task.user_memory().write(out, CACHESTAT.pack(pages, 0, 0, 0, 0))
    return 0


class Count(FileWait):
    """Counts the pages in slices (I8): a sparse file may have very many extents."""

    def __init__(self, file: FileDescription, storage: Storage, start: int, end: int, out: int) -> None:
        super().__init__(file)
        self.storage: Storage = storage
        self.at: int = start
        self.end: int = end
        self.out: int = out
        self.pages: int = 0

    def retry(self, task: TaskBase) -> int:
        pages, self.at = self.storage.cached(self.at, self.end)
        self.pages += pages
        if self.at < self.end:
            return next_slice(task, self)
        assert isinstance(task, Task)
        return _answer(task, self.out, self.pages)

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTSYS if is_killed(task) else BLOCKED
