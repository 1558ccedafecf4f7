"""Reads and writes that move much, in slices (I8); and the plain waits for an open file.

`start_read` and `start_write` take calls of more than SLICE_BYTES on files that can be read and written piece by piece
(`FileDescription.takes_slices`). As in Linux a transfer of a file with contents is ended early only by a fatal
signal; for devices any signal does. While a call that uses the file position is between two slices the description is
marked POS_BUSY, so that other calls that use the position wait (Linux's f_pos_lock); the fast paths see the mark at
no extra cost. Unlike in Linux, a write of several MiB is not atomic with respect to other writes to the same file.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EBADF, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.inotify import IN_ACCESS, IN_MODIFY
from cloche.abi.poll import POLLIN
from cloche.abi.uio import RWF_DSYNC, RWF_NOWAIT, RWF_SYNC
from cloche.kernel.blocking import (
    BLOCKED,
    SLICE_BYTES,
    SLICE_NS,
    Blocked,
    TaskBase,
    block_on,
    end_wait,
    next_slice,
)
from cloche.kernel.host_wait import HostWait
from cloche.kernel.lanes import Abandoned, bring_data
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import POS_BUSY, FileDescription, notify_path
from cloche.vfs.waitqueue import WaitQueue

_SEEK: Final = 0
_READ: Final = 1
_WRITE: Final = 2


class FileWait(Blocked):
    """A call that waits for an open file and holds a reference to it."""

    def __init__(self, file: FileDescription, deadline_ns: int = -1) -> None:
        super().__init__(deadline_ns)
        self.file: FileDescription = file.get()

    def timed_out(self, task: TaskBase) -> int:
        return -EAGAIN

    def finished(self, task: TaskBase) -> None:
        self.file.put()


def accessed(file: FileDescription) -> None:
    """IN_ACCESS."""
    path = file.path
    if path is not None:
        notify_path(path, IN_ACCESS)


def modified(file: FileDescription) -> None:
    """IN_MODIFY."""
    path = file.path
    if path is not None:
        notify_path(path, IN_MODIFY)


def is_killed(task: TaskBase) -> bool:
    """Whether a fatal signal is pending."""
    return isinstance(task, Task) and task.is_kill_pending


class LongTransfer(FileWait):
    """A read or write in slices; `offset` -1 stands for the file position."""

    def __init__(
        self, file: FileDescription, data: IovIter, offset: int, flags: int, *, is_write: bool
    ) -> None:
        super().__init__(file)
        self.data: IovIter = data
        self.offset: int = offset
        self.flags: int = flags
        self.is_write: bool = is_write
        self.done: int = 0
        self.may_run_again = True
        self.holds_position: bool = False
        self.moves_position: bool = False  # an RWF_APPEND write

    def piece(self, task: TaskBase) -> int:
        """Move as much as `data` allows; returns bytes or -errno."""
        file, data, flags = self.file, self.data, self.flags
        if self.offset < 0:
            return file.write(task, data, flags) if self.is_write else file.read(task, data, flags)
        at = self.offset + self.done
        return file.pwrite(task, data, at, flags) if self.is_write else file.pread(task, data, at, flags)

    def retry(self, task: TaskBase) -> int:
        end_ns = monotonic_ns() + SLICE_NS
        data = self.data
        while True:
            if isinstance(task, Task) and task.mm.has_slow_files:
                self.hold_position()
                bring_data(task, self.file, data, SLICE_BYTES)
            wanted = min(data.remaining(), SLICE_BYTES)
            hidden = data.narrow(SLICE_BYTES)
            try:
                count = self.piece(task)
            except LinuxError as error:
                count = -error.errno
            except HostWait as wait:
                data.widen(hidden)
                self.hold_position()
                wait.inner = self
                raise
            if isinstance(task, Task):
                task.kernel.host_waits.progress()
            data.widen(hidden)
            if count > 0:
                self.done += count
            elif count == -EAGAIN and not self.done:
                queue = self.file.wait_queue()
                if queue is not None and not self.flags & RWF_NOWAIT:
                    return block_on(task, self, queue)  # /proc/PID/mem, a file that is being copied up
            if count < wanted or hidden == 0:
                return self.result(task, count)
            if monotonic_ns() >= end_ns:
                break
        self.hold_position()
        return next_slice(task, self)

    def hold_position(self) -> None:
        """Let other reads and writes at the position wait until this one is done."""
        if self.offset < 0 and not self.holds_position:
            self.holds_position = True
            self.file.flags |= POS_BUSY

    def result(self, task: TaskBase, last: int) -> int:
        """The result of the call; `last` is that of the last piece."""
        if self.done == 0:
            return last
        if not self.is_write:
            accessed(self.file)
            return self.done
        modified(self.file)
        if self.moves_position:
            self.file.pos = self.offset + self.done
        if self.flags & (RWF_SYNC | RWF_DSYNC):
            self.file.fsync(task, is_data_only=self.flags & RWF_SYNC == 0)
        return self.done

    def interrupted(self, task: TaskBase) -> int:
        if is_killed(task) or not self.file.inode.is_regular():
            return self.result(task, -EAGAIN)
        return BLOCKED

    def finished(self, task: TaskBase) -> None:
        if self.holds_position:
            release_position(task, self.file)
        super().finished(task)


def start_transfer(
    task: Task,
    file: FileDescription,
    data: IovIter,
    offset: int,
    flags: int,
    *,
    is_write: bool,
    moves_position: bool = False,
) -> int:
    """A long read or write of a file that takes slices: the result, or BLOCKED."""
    move = LongTransfer(file, data, offset, flags, is_write=is_write)
    move.moves_position = moves_position
    try:
        result = move.retry(task)
    except Abandoned:
        move.finished(task)
        raise
    if result != BLOCKED:
        move.finished(task)
    return result


def keep_position(file: FileDescription, data: IovIter, wait: HostWait, flags: int = 0) -> None:
    """A write at the position waits for the host's storage, and goes on from `data`; no other call moves the position
    until then.
    """
    move = LongTransfer(file, data, -1, flags, is_write=True)
    move.hold_position()
    wait.inner = move


# -- the file position -----------------------------------------------------------------------------------------
def release_position(task: TaskBase, file: FileDescription) -> None:
    """The long call is over: wake the calls that wait for the file position."""
    file.flags &= ~POS_BUSY
    assert isinstance(task, Task)
    queue = task.kernel.busy_positions.pop(file, None)
    if queue is not None:
        queue.wake()


class PositionWait(FileWait):
    """A read, write or lseek that waits for the file position."""

    def __init__(
        self, file: FileDescription, kind: int, data: IovIter | None, flags: int, offset: int
    ) -> None:
        super().__init__(file)
        self.kind: int = kind
        self.data: IovIter | None = data
        self.flags: int = flags
        self.offset: int = offset

    def retry(self, task: TaskBase) -> int:
        file = self.file
        if file.flags & POS_BUSY:
            return wait_again(task, self)
        data = self.data
        if data is None:
            return file.lseek(task, self.offset, self.flags)
        file.get()  # the call that follows may block the task itself
        end_wait(task, self)
        assert isinstance(task, Task)
        result = start_transfer(task, file, data, -1, self.flags, is_write=self.kind == _WRITE)
        file.put()
        return result

    def interrupted(self, task: TaskBase) -> int:
        return super().interrupted(task) if is_killed(task) else BLOCKED


def wait_again(task: TaskBase, wait: PositionWait) -> int:
    """Wait on the queue of the call that uses the position now."""
    assert isinstance(task, Task)
    queue = task.kernel.busy_positions.get(wait.file)
    if queue is None:
        queue = WaitQueue()
        task.kernel.busy_positions[wait.file] = queue
    if queue in wait.queues:
        return BLOCKED
    return block_on(task, wait, queue, POLLIN)


def busy_read(task: Task, file: FileDescription, dst: IovIter, flags: int) -> int:
    """A read at a file position that is busy; EBADF if it was refused for another reason."""
    return _busy(task, file, _READ, dst, flags)


def busy_write(task: Task, file: FileDescription, src: IovIter, flags: int) -> int:
    """A write at a file position that is busy; EBADF if it was refused for another reason."""
    return _busy(task, file, _WRITE, src, flags)


def _busy(task: Task, file: FileDescription, kind: int, data: IovIter, flags: int) -> int:
    if file.flags & POS_BUSY == 0 or file.flags & O_PATH:
        return -EBADF
    if not (file.is_readable() if kind == _READ else file.is_writable()):
        return -EBADF
    return wait_again(task, PositionWait(file, kind, data, flags, 0))


def busy_seek(task: Task, file: FileDescription, offset: int, whence: int) -> int:
    """lseek on a file position that is busy."""
    return wait_again(task, PositionWait(file, _SEEK, None, whence, offset))
