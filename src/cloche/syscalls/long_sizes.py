"""fallocate(2) and ftruncate(2) of much memory, in slices (I8): the host takes a millisecond for each MiB.

Before the call itself is made, pages are freed or allocated piece by piece, so that it has little left to do. Only
for files in memory; on a disk such calls are quick.
"""

from typing import Final

from cloche.abi.errno import ERESTARTSYS
from cloche.abi.fs import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from cloche.fs.quota import FREE_STEP, PAGE
from cloche.fs.storage import EAGER_LIMIT
from cloche.fs.tmpfs import TmpfsDescription
from cloche.kernel.blocking import BLOCKED, TaskBase, next_slice
from cloche.kernel.task import Task
from cloche.syscalls.long_io import FileWait, is_killed, modified
from cloche.vfs.attr import vfs_ftruncate
from cloche.vfs.objects import FileDescription

_MANY: Final = 4 * FREE_STEP
_PUNCH: Final = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


class SizeChange(FileWait):
    """Ranges to punch and to allocate, then the call itself."""

    def __init__(self, file: TmpfsDescription) -> None:
        super().__init__(file)
        self.memory_file: TmpfsDescription = file
        self.punched: int = 0  # [punched, punch_end) is still to go
        self.punch_end: int = 0
        self.allocated: int = 0
        self.allocate_end: int = 0
        self.mode: int = -1  # of the fallocate at the end; -1: ftruncate to `offset`
        self.offset: int = 0
        self.length: int = 0

    def retry(self, task: TaskBase) -> int:
        inode = self.memory_file.file
        storage = inode.storage
        if self.punched < self.punch_end and storage.fd >= 0:
            at = storage.next_data(self.punched, self.punch_end)
            self.punched = min(at + FREE_STEP, self.punch_end)
            if at < self.punch_end:
                result = storage.allocate(_PUNCH, at, self.punched - at, inode.size)
                if result < 0:
                    return result
                return next_slice(task, self)
        if self.allocated < self.allocate_end:
            at = self.allocated
            self.allocated = min(at + FREE_STEP, self.allocate_end)
            keep_size = FALLOC_FL_KEEP_SIZE
            result = self.memory_file.fallocate(task, keep_size, at, self.allocated - at)
            return result if result < 0 else next_slice(task, self)
        assert isinstance(task, Task)
        if self.mode < 0:
            return vfs_ftruncate(task, self.file, self.offset)
        return allocated(self.file, self.memory_file.fallocate(task, self.mode, self.offset, self.length))

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTSYS if is_killed(task) else BLOCKED


def allocated(file: FileDescription, result: int) -> int:
    """IN_MODIFY of an fallocate that has worked; its result."""
    if result == 0:
        modified(file)
    return result


def _run(task: Task, change: SizeChange) -> int:
    result = change.retry(task)
    if result != BLOCKED:
        change.finished(task)
    return result


def long_fallocate(task: Task, file: TmpfsDescription, mode: int, offset: int, length: int) -> int:
    """fallocate(2) after its checks, on a file in memory."""
    if length <= _MANY or mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
        return allocated(file, file.fallocate(task, mode, offset, length))
    inode = file.file
    change = SizeChange(file)
    change.mode, change.offset, change.length = mode, offset, length
    if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
        result = inode.may_zero(mode)
        if result < 0:
            change.finished(task)
            return result
        change.punched, change.punch_end = offset, min(offset + length, inode.size)
        change.mode = mode if mode & FALLOC_FL_PUNCH_HOLE else mode & ~FALLOC_FL_ZERO_RANGE
    if mode & FALLOC_FL_PUNCH_HOLE == 0 and length <= EAGER_LIMIT:
        change.allocated, change.allocate_end = offset, offset + length
    return _run(task, change)


def long_ftruncate(task: Task, file: TmpfsDescription, size: int) -> int:
    """ftruncate(2) of a file in memory that is open for writing."""
    inode = file.file
    if inode.size - size <= _MANY or inode.may_zero(_PUNCH) < 0 or not inode.may_shrink():
        return vfs_ftruncate(task, file, size)
    if size == 0 and inode.storage.can_start_anew():
        return vfs_ftruncate(task, file, size)
    change = SizeChange(file)
    change.offset = size
    change.punched, change.punch_end = (size + PAGE - 1) // PAGE * PAGE, inode.size
    return _run(task, change)
