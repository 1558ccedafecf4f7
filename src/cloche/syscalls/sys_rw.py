"""read, write and their positioned and vectored forms, and lseek.

Decodes, checks as fs/read_write.c does, and calls the open file; calls that would block wait here (`ReadWait`,
`WriteWait`). A wait holds the open file itself, since the descriptor may be reused meanwhile. Every program uses the
plain forms a lot, so they index the descriptor table directly and build only one iterator.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EBADF, EFAULT, EINVAL, EOPNOTSUPP, EPIPE, ESPIPE, LinuxError
from cloche.abi.fcntl import O_APPEND, O_NONBLOCK, O_PATH
from cloche.abi.fs import SEEK_MAX
from cloche.abi.inotify import IN_ACCESS, IN_MODIFY
from cloche.abi.limits import MAX_LFS_FILESIZE, MAX_RW_COUNT, TASK_SIZE_MAX
from cloche.abi.poll import POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM
from cloche.abi.signal import SIGPIPE
from cloche.abi.stat import S_IFIFO, S_IFMT, S_IFSOCK
from cloche.abi.uio import (
    RWF_APPEND,
    RWF_ATOMIC,
    RWF_DSYNC,
    RWF_HIPRI,
    RWF_NOAPPEND,
    RWF_NOWAIT,
    RWF_SUPPORTED,
    RWF_SYNC,
)
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, SLICE_BYTES, SLICE_NS, Blocked, TaskBase, block_on, next_slice
from cloche.kernel.host_wait import HostWait
from cloche.kernel.lanes import bring_data
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import IovIter, UserIovIter, import_iovec, user_iov
from cloche.net.socket import SocketFile
from cloche.syscalls.args import can_read, can_write
from cloche.syscalls.long_io import FileWait as FileWait
from cloche.syscalls.long_io import accessed as accessed
from cloche.syscalls.long_io import busy_read, busy_seek, busy_write, keep_position, start_transfer
from cloche.syscalls.long_io import modified as modified
from cloche.vfs.objects import POS_BUSY, FileDescription, notify_path

READ_MASK: Final = POLLIN | POLLRDNORM | POLLPRI | POLLRDHUP
WRITE_MASK: Final = POLLOUT | POLLWRNORM
_MODE: Final = 3 | O_PATH | POS_BUSY


class ReadWait(FileWait):
    """A read that waits for data; `offset` -1 reads at the file position."""

    def __init__(
        self, file: FileDescription, dst: IovIter, offset: int, flags: int, deadline_ns: int
    ) -> None:
        super().__init__(file, deadline_ns)
        self.dst: IovIter = dst
        self.offset: int = offset
        self.flags: int = flags
        self.is_nonblocking: bool = False  # it waits only as long as the file is locked

    def retry(self, task: TaskBase) -> int:
        if self.offset < 0:
            result = self.file.read(task, self.dst, self.flags)
        else:
            result = self.file.pread(task, self.dst, self.offset, self.flags)
        if result > 0:
            accessed(self.file)
        if result == -EAGAIN and self.is_nonblocking and not self.file.is_locked():
            return result
        return BLOCKED if result == -EAGAIN else result

    def interrupted(self, task: TaskBase) -> int:
        return interrupt_code(self)


class WriteWait(FileWait):
    """A write that waits for room; `done` bytes are written."""

    def __init__(self, file: FileDescription, src: IovIter, done: int, flags: int, deadline_ns: int) -> None:
        super().__init__(file, deadline_ns)
        self.src: IovIter = src
        self.done: int = done
        self.flags: int = flags

    def retry(self, task: TaskBase) -> int:
        return self.advance(task)

    def advance(self, task: TaskBase) -> int:
        """Write on; BLOCKED, or the result of the call."""
        end_ns = monotonic_ns() + SLICE_NS
        while True:
            try:
                result = self.file.write(task, self.src, self.flags)
            except LinuxError as error:
                result = -error.errno
            if result == -EAGAIN:
                self.has_slices = False
                return BLOCKED
            if result < 0:
                if self.done:
                    return self.done
                if result == -EPIPE:
                    broken_pipe(task, self.file)
                return result
            self.done += result
            if result > 0:
                modified(self.file)
            if result == 0 or self.src.remaining() == 0 or not self.file.write_continues():
                return self.done
            if monotonic_ns() >= end_ns:
                # it takes time, but always has room: a terminal that drops its output
                return next_slice(task, self)

    def timed_out(self, task: TaskBase) -> int:
        return self.done if self.done else -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        return self.done if self.done else interrupt_code(self)


def interrupt_code(wait: Blocked) -> int:
    """Restart, unless the wait has a time limit (SO_RCVTIMEO: sock_intr_errno)."""
    return -512 if wait.deadline_ns < 0 else -4


def broken_pipe(task: TaskBase, file: FileDescription) -> None:
    """SIGPIPE for a write to a stream socket without a peer; pipes send it themselves."""
    if isinstance(task, Task) and isinstance(file, SocketFile) and file.is_stream():
        task.kernel.send_kernel_signal(task, SIGPIPE)


def deadline_of(file: FileDescription, *, is_write: bool) -> int:
    """When a wait for `file` gives up, -1 for never (SO_RCVTIMEO, SO_SNDTIMEO)."""
    timeout_ns = file.wait_limit_ns(is_write=is_write)
    return -1 if timeout_ns < 0 else monotonic_ns() + timeout_ns


# -- reading -------------------------------------------------------------------------------------------------
def wait_to_read(task: Task, file: FileDescription, dst: IovIter, offset: int, flags: int) -> int:
    """The file had nothing: wait, unless it or the call is non-blocking."""
    if dst.remaining() == 0 and file.inode.mode & S_IFMT in (S_IFIFO, S_IFSOCK):
        return 0
    queue = file.wait_queue()
    is_nonblocking = file.flags & O_NONBLOCK or flags & RWF_NOWAIT
    if queue is None or (is_nonblocking and not file.is_locked()):
        return -EAGAIN
    wait = ReadWait(file, dst, offset, flags, deadline_of(file, is_write=False))
    wait.is_nonblocking = is_nonblocking != 0
    return block_on(task, wait, queue, READ_MASK)


def read_slowly(task: Task, file: FileDescription, addr: int, count: int) -> int:
    """A read(2) that is long, or finds the file position busy or the file not open for reading."""
    if file.flags & _MODE not in (0, 2, POS_BUSY, POS_BUSY | 2):
        return -EBADF
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        return -EFAULT
    dst = UserIovIter(task.user_memory(), addr, min(count, MAX_RW_COUNT))
    dst.bears_others = True
    if file.flags & POS_BUSY:
        return busy_read(task, file, dst, 0)
    return start_transfer(task, file, dst, -1, 0, is_write=False)


def sys_read(task: Task, args: Args) -> int:
    """read(2)."""
    file = task.files.find(to_i32(args.a0))
    if file is None:
        return -EBADF
    mode = file.flags & _MODE
    addr = args.a1
    count = args.a2
    if mode != 0 and mode != 2:
        return read_slowly(task, file, addr, count)
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        return -EFAULT
    if count > SLICE_BYTES and file.takes_slices(is_write=False):
        return read_slowly(task, file, addr, count)
    dst = UserIovIter(task.user_memory(), addr, count if count < MAX_RW_COUNT else MAX_RW_COUNT)
    dst.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, dst, SLICE_BYTES)
    if count == 0 and file.inode.mode & S_IFMT == S_IFSOCK:
        return 0
    result = file.read(task, dst)
    if result > 0:
        path = file.path
        if path is not None:
            notify_path(path, IN_ACCESS)
    elif result == -EAGAIN:
        return wait_to_read(task, file, dst, -1, 0)
    return result


def positioned_file(task: Task, args: Args, *, is_write: bool) -> FileDescription:
    """The open file of pread and pwrite.  Raises LinuxError(EINVAL, EBADF, ESPIPE)."""
    if args.a3 < 0:
        raise LinuxError(EINVAL)
    file = task.files.find(to_i32(args.a0))
    if file is None or file.flags & O_PATH:
        raise LinuxError(EBADF)
    if not (file.takes_pwrite() if is_write else file.is_seekable()):
        raise LinuxError(ESPIPE)
    if not (can_write(file) if is_write else can_read(file)):
        raise LinuxError(EBADF)
    return file


def positioned_buffer(task: Task, args: Args) -> UserIovIter:
    """The buffer of pread and pwrite.  Raises LinuxError(EFAULT, EINVAL)."""
    addr, count = args.a1, args.a2
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        raise LinuxError(EFAULT)
    count = min(count, MAX_RW_COUNT)
    if args.a3 + count > MAX_LFS_FILESIZE:
        raise LinuxError(EINVAL)
    return UserIovIter(task.user_memory(), addr, count)


def sys_pread64(task: Task, args: Args) -> int:
    """pread(2)."""
    file = positioned_file(task, args, is_write=False)
    offset = args.a3
    dst = positioned_buffer(task, args)
    dst.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, dst, SLICE_BYTES)
    if args.a2 > SLICE_BYTES and file.takes_slices(is_write=False):
        return start_transfer(task, file, dst, offset, 0, is_write=False)
    result = file.pread(task, dst, offset)
    if result > 0:
        path = file.path
        if path is not None:
            notify_path(path, IN_ACCESS)
    elif result == -EAGAIN:
        return wait_to_read(task, file, dst, offset, 0)
    return result


# -- writing -------------------------------------------------------------------------------------------------
def finish_write(task: Task, file: FileDescription, src: IovIter, result: int, flags: int) -> int:
    """After a write that failed or was short: wait for room, or return the result."""
    if result == -EPIPE:
        broken_pipe(task, file)
        return result
    if result != -EAGAIN and (result <= 0 or src.remaining() == 0 or not file.write_continues()):
        return result
    queue = file.wait_queue()
    is_nonblocking = file.flags & O_NONBLOCK and not file.inode.is_regular()
    if is_nonblocking or flags & RWF_NOWAIT or queue is None:
        return result
    wait = WriteWait(file, src, result if result > 0 else 0, flags, deadline_of(file, is_write=True))
    outcome = wait.advance(task) if result > 0 else BLOCKED
    if outcome == BLOCKED:
        return block_on(task, wait, queue, WRITE_MASK)
    wait.finished(task)
    return outcome


def write_slowly(task: Task, file: FileDescription, addr: int, count: int) -> int:
    """A write(2) that is long, or finds the file position busy or the file not open for writing."""
    if file.flags & _MODE not in (1, 2, POS_BUSY | 1, POS_BUSY | 2):
        return -EBADF
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        return -EFAULT
    src = UserIovIter(task.user_memory(), addr, min(count, MAX_RW_COUNT))
    src.bears_others = True
    if file.flags & POS_BUSY:
        return busy_write(task, file, src, 0)
    return start_transfer(task, file, src, -1, 0, is_write=True)


def sys_write(task: Task, args: Args) -> int:
    """write(2)."""
    file = task.files.find(to_i32(args.a0))
    if file is None:
        return -EBADF
    mode = file.flags & _MODE
    addr = args.a1
    count = args.a2
    if mode != 1 and mode != 2:
        return write_slowly(task, file, addr, count)
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        return -EFAULT
    if count > SLICE_BYTES:
        if file.takes_slices(is_write=True):
            return write_slowly(task, file, addr, count)
        if count > MAX_RW_COUNT:
            count = MAX_RW_COUNT
    src = UserIovIter(task.user_memory(), addr, count)
    src.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, src, SLICE_BYTES)
    try:
        result = file.write(task, src)
    except HostWait as wait:
        keep_position(file, src, wait)
        raise
    if result > 0:
        path = file.path
        if path is not None:
            notify_path(path, IN_MODIFY)
    if result == count:
        return result
    return finish_write(task, file, src, result, 0)


class PwriteWait(FileWait):
    """A positioned write to a file that needs time (/proc/PID/mem)."""

    def __init__(self, file: FileDescription, src: IovIter, offset: int, flags: int) -> None:
        super().__init__(file)
        self.src: IovIter = src
        self.offset: int = offset
        self.flags: int = flags

    def retry(self, task: TaskBase) -> int:
        result = self.file.pwrite(task, self.src, self.offset, self.flags)
        return BLOCKED if result == -EAGAIN else result


def finish_pwrite(
    task: Task, file: FileDescription, src: IovIter, offset: int, flags: int, result: int
) -> int:
    """Wait, if a positioned write would block."""
    queue = file.wait_queue() if result == -EAGAIN else None
    if queue is None or flags & RWF_NOWAIT:  # O_NONBLOCK has no effect on regular files
        return result
    return block_on(task, PwriteWait(file, src, offset, flags), queue, WRITE_MASK)


def write_place(task: Task, file: FileDescription, offset: int, flags: int) -> int:
    """Where a positioned write goes: O_APPEND wins over the offset (pwrite(2), BUGS)."""
    if (file.flags & O_APPEND and flags & RWF_NOAPPEND == 0) or flags & RWF_APPEND:
        file.inode.refresh(task)
        return file.inode.size
    return offset


def positioned_write(task: Task, file: FileDescription, src: IovIter, offset: int, flags: int) -> int:
    """pwrite, at once."""
    offset = write_place(task, file, offset, flags)
    result = file.pwrite(task, src, offset, flags)
    if result > 0:
        modified(file)
    return result


def sys_pwrite64(task: Task, args: Args) -> int:
    """pwrite(2)."""
    file = positioned_file(task, args, is_write=True)
    offset = args.a3
    src = positioned_buffer(task, args)
    src.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, src, SLICE_BYTES)
    if args.a2 > SLICE_BYTES and file.takes_slices(is_write=True):
        return start_transfer(task, file, src, write_place(task, file, offset, 0), 0, is_write=True)
    if file.flags & O_APPEND == 0:
        result = file.pwrite(task, src, offset)
        if result >= 0:
            path = file.path
            if path is not None:
                notify_path(path, IN_MODIFY)
            return result
    return finish_pwrite(task, file, src, offset, 0, positioned_write(task, file, src, offset, 0))


# -- vectors -------------------------------------------------------------------------------------------------
def user_segments(task: Task, addr: int, count: int) -> list[tuple[int, int]]:
    """The iovec array of readv(2); EFAULT at once for a range that cannot be the program's."""
    segments = import_iovec(task.user_memory(), to_u64(addr), count)
    for base, length in segments:
        if base + length > TASK_SIZE_MAX:
            raise LinuxError(EFAULT)
    return segments


def check_rwf(file: FileDescription, flags: int, *, is_write: bool) -> None:
    """kiocb_set_rw_flags (linux/fs.h).  Raises LinuxError."""
    if flags & ~RWF_SUPPORTED:
        raise LinuxError(EOPNOTSUPP)
    if flags & RWF_APPEND and flags & RWF_NOAPPEND:
        raise LinuxError(EINVAL)
    if flags & ~RWF_HIPRI and (file.inode.is_dir() or file.is_by_segment()):
        raise LinuxError(EOPNOTSUPP)
    if flags & RWF_ATOMIC or (flags & RWF_NOWAIT and not file.takes_nowait()):
        raise LinuxError(EOPNOTSUPP)


def vector_file(task: Task, fd_arg: int) -> FileDescription | None:
    """The open file of readv and friends; None where Linux says EBADF."""
    file = task.files.find(to_i32(fd_arg))
    return None if file is None or file.flags & O_PATH else file


def by_segment(
    task: Task,
    file: FileDescription,
    segments: list[tuple[int, int]],
    offset: int,
    flags: int,
    *,
    is_write: bool,
) -> int:
    """One call for each segment, until one is short or fails (do_loop_readv_writev)."""
    done = 0
    for segment in segments:
        piece = UserIovIter(task.user_memory(), segment[0], segment[1])
        at = offset + done
        try:
            if is_write:
                got = file.write(task, piece, flags) if offset < 0 else file.pwrite(task, piece, at, flags)
            else:
                got = file.read(task, piece, flags) if offset < 0 else file.pread(task, piece, at, flags)
        except LinuxError as error:
            got = -error.errno
        if got < 0:
            return done if done else got
        done += got
        if got != segment[1]:
            break
    return done


def read_vector(task: Task, file: FileDescription, addr: int, count: int, offset: int, flags: int) -> int:
    """readv (offset -1) and preadv."""
    segments = user_segments(task, addr, count)
    if not can_read(file):
        return -EBADF
    dst = user_iov(task.user_memory(), segments)
    dst.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, dst, SLICE_BYTES)
    total = dst.remaining()
    if total == 0:
        return 0
    if flags:
        check_rwf(file, flags, is_write=False)
    if offset < 0 and file.flags & POS_BUSY:
        return busy_read(task, file, dst, flags)
    if offset >= 0 and offset + total > MAX_LFS_FILESIZE:
        return -EINVAL
    if total > SLICE_BYTES and file.takes_slices(is_write=False):
        return start_transfer(task, file, dst, offset, flags, is_write=False)
    if len(segments) > 1 and file.is_by_segment():
        result = by_segment(task, file, segments, offset, flags, is_write=False)
    elif offset < 0:
        result = file.read(task, dst, flags)
    else:
        result = file.pread(task, dst, offset, flags)
    if result > 0:
        accessed(file)
    return wait_to_read(task, file, dst, offset, flags) if result == -EAGAIN else result


def write_vector(task: Task, file: FileDescription, addr: int, count: int, offset: int, flags: int) -> int:
    """writev (offset -1) and pwritev."""
    segments = user_segments(task, addr, count)
    if not can_write(file):
        return -EBADF
    src = user_iov(task.user_memory(), segments)
    src.bears_others = True
    if task.mm.has_slow_files:
        bring_data(task, file, src, SLICE_BYTES)
    total = src.remaining()
    if total == 0:
        return 0
    if flags:
        check_rwf(file, flags, is_write=True)
    if offset >= 0 and offset + total > MAX_LFS_FILESIZE:
        return -EINVAL
    is_long = total > SLICE_BYTES and file.takes_slices(is_write=True)
    if offset >= 0 and is_long:
        at = write_place(task, file, offset, flags)
        return start_transfer(task, file, src, at, flags, is_write=True)
    if len(segments) > 1 and file.is_by_segment():
        result = by_segment(task, file, segments, offset, flags, is_write=True)
    elif offset >= 0:
        result = positioned_write(task, file, src, offset, flags)
        result = finish_pwrite(task, file, src, offset, flags, result)
    elif file.flags & POS_BUSY:
        return busy_write(task, file, src, flags)
    elif flags & (RWF_APPEND | RWF_NOAPPEND) and file.is_seekable():
        # As write(2), but RWF_APPEND decides whether it appends.
        at = file.inode.size if flags & RWF_APPEND else file.pos
        if is_long:
            return start_transfer(task, file, src, at, flags, is_write=True, moves_position=True)
        result = positioned_write(task, file, src, at, flags)
        if result > 0:
            file.pos = file.inode.size if flags & RWF_APPEND else at + result
    elif is_long:
        return start_transfer(task, file, src, -1, flags, is_write=True)
    else:
        try:
            result = file.write(task, src, flags)
        except HostWait as wait:
            keep_position(file, src, wait, flags)
            raise
        if result > 0:
            modified(file)
        if src.remaining() or result < 0:
            result = finish_write(task, file, src, result, flags)
    if flags & (RWF_SYNC | RWF_DSYNC) and result > 0:
        file.fsync(task, is_data_only=flags & RWF_SYNC == 0)
    return result


def sys_readv(task: Task, args: Args) -> int:
    """readv(2)."""
    file = vector_file(task, args.a0)
    return -EBADF if file is None else read_vector(task, file, args.a1, args.a2, -1, 0)


def sys_writev(task: Task, args: Args) -> int:
    """writev(2)."""
    file = vector_file(task, args.a0)
    return -EBADF if file is None else write_vector(task, file, args.a1, args.a2, -1, 0)


def sys_preadv(task: Task, args: Args) -> int:
    """preadv(2)."""
    return positioned_readv(task, args, 0)


def sys_pwritev(task: Task, args: Args) -> int:
    """pwritev(2)."""
    return positioned_writev(task, args, 0)


def sys_preadv2(task: Task, args: Args) -> int:
    """preadv2(2): offset -1 is the file position."""
    flags = to_u32(args.a5)
    if args.a3 == -1:
        file = vector_file(task, args.a0)
        return -EBADF if file is None else read_vector(task, file, args.a1, args.a2, -1, flags)
    return positioned_readv(task, args, flags)


def sys_pwritev2(task: Task, args: Args) -> int:
    """pwritev2(2): offset -1 is the file position."""
    flags = to_u32(args.a5)
    if args.a3 == -1:
        file = vector_file(task, args.a0)
        return -EBADF if file is None else write_vector(task, file, args.a1, args.a2, -1, flags)
    return positioned_writev(task, args, flags)


def positioned_readv(task: Task, args: Args, flags: int) -> int:
    """preadv; on 64 bits the low half of the offset is all of it (pos_from_hilo)."""
    if args.a3 < 0:
        return -EINVAL
    file = vector_file(task, args.a0)
    if file is None:
        return -EBADF
    if not file.is_seekable():
        return -ESPIPE
    return read_vector(task, file, args.a1, args.a2, args.a3, flags)


def positioned_writev(task: Task, args: Args, flags: int) -> int:
    """pwritev."""
    if args.a3 < 0:
        return -EINVAL
    file = vector_file(task, args.a0)
    if file is None:
        return -EBADF
    if not file.takes_pwrite():
        return -ESPIPE
    return write_vector(task, file, args.a1, args.a2, args.a3, flags)


def sys_lseek(task: Task, args: Args) -> int:
    """lseek(2)."""
    file = task.files.find(to_i32(args.a0))
    if file is None or file.flags & O_PATH:
        return -EBADF
    whence = to_u32(args.a2)
    if whence > SEEK_MAX:
        return -EINVAL
    if file.flags & POS_BUSY:
        return busy_seek(task, file, args.a1, whence)
    return file.lseek(task, args.a1, whence)
