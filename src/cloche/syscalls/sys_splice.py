"""sendfile, copy_file_range, splice, tee, vmsplice, readahead, fadvise64: data that moves between files.

A transfer is one or more passes; a pass moves data that one side has and the other side accepts. A pass that can move
nothing returns -EAGAIN, and the call waits on both files. No data is ever taken from a pipe and then refused by the
other side: `FileSink` writes while the pipe is drained, and only what was accepted leaves the pipe.
"""

from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EBADF,
    EINVAL,
    EIO,
    EISDIR,
    EOVERFLOW,
    EPIPE,
    ERESTARTSYS,
    ESPIPE,
    EXDEV,
    LinuxError,
)
from cloche.abi.fcntl import O_APPEND, O_NONBLOCK
from cloche.abi.limits import MAX_LFS_FILESIZE, MAX_RW_COUNT
from cloche.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.abi.socket import AF_UNIX, MSG_MORE
from cloche.abi.splice import SPLICE_F_MORE, SPLICE_F_NONBLOCK
from cloche.abi.stat import S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK
from cloche.fs.devices import FullDevice, NullDevice
from cloche.fs.pipe import Pipe, PipeFile
from cloche.fs.proc_pid import TaskFile
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, also_wait, block_on, next_slice
from cloche.kernel.host_wait import HostWait
from cloche.kernel.lanes import Abandoned
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import IovIter, KernelIovIter, UserIovIter, user_iov
from cloche.net.socket import SocketFile
from cloche.syscalls.args import can_read, can_write, data_file
from cloche.syscalls.long_io import FileWait, accessed, is_killed, modified
from cloche.syscalls.sys_rw import broken_pipe, user_segments, wait_to_read
from cloche.vfs.objects import FileDescription
from cloche.vfs.pseudo import GeneratedDescription

_CHUNK: Final = 65536
_U64_MAX: Final = 0xFFFFFFFFFFFFFFFF
_SPLICE_F_ALL: Final = 15


class FileSink(IovIter):
    """An iterator to fill that passes everything on to an open file, at `offset` or (-1) its position.

    `more`: a socket may hold the data back until more follows (MSG_MORE).
    """

    def __init__(
        self, task: TaskBase, file: FileDescription, offset: int, limit: int, *, more: bool = False
    ) -> None:
        self._task: TaskBase = task
        self._file: FileDescription = file
        self._offset: int = offset
        self._left: int = limit
        self._socket: SocketFile | None = file if more and isinstance(file, SocketFile) else None

    def remaining(self) -> int:
        return self._left

    def copy_to(self, data: bytes) -> int:
        if not data:
            return 0
        source = KernelIovIter(data[: self._left])
        if self._socket is not None:
            count = self._socket.send(self._task, source, MSG_MORE, None)
        elif self._offset < 0:
            count = self._file.write(self._task, source)
        else:
            count = self._file.pwrite(self._task, source, self._offset)
        if count < 0:
            # Also for -EAGAIN: the code that fills this must not take it for the end of the file.
            raise LinuxError(-count)
        if self._offset >= 0:
            self._offset += count
        self._left -= count
        return count

    def copy_from(self, length: int) -> bytes:
        raise LinuxError(EIO)

    def zero(self, length: int) -> int:
        return self.copy_to(bytes(min(length, self._left, _CHUNK)))

    def read_fd(self, fd: int, offset: int, length: int, flags: int = 0, key: int = 0) -> int:
        bounce = KernelIovIter(capacity=min(length, self._left, _CHUNK))
        count = bounce.read_fd(fd, offset, bounce.remaining(), flags)
        return self.copy_to(bytes(bounce.sink)) if count > 0 else count

    def write_fd(self, fd: int, offset: int, length: int, flags: int = 0) -> int:
        return -EIO

    def revert(self, count: int) -> None:
        raise LinuxError(EIO)


class FileSource(IovIter):
    """An iterator to drain that reads from an open file as it goes; for sources that cannot be read twice."""

    def __init__(self, task: TaskBase, file: FileDescription, limit: int) -> None:
        self._task: TaskBase = task
        self._file: FileDescription = file
        self._left: int = limit
        self._has_given: bool = False

    def remaining(self) -> int:
        return self._left

    def copy_from(self, length: int) -> bytes:
        bounce = KernelIovIter(capacity=min(length, self._left, _CHUNK))
        count = self._file.read(self._task, bounce)
        if count < 0:
            if self._has_given:
                return b""
            raise LinuxError(-count)
        self._has_given = True
        self._left -= count
        return bytes(bounce.sink)

    def copy_to(self, data: bytes) -> int:
        raise LinuxError(EIO)

    def zero(self, length: int) -> int:
        raise LinuxError(EIO)

    def read_fd(self, fd: int, offset: int, length: int, flags: int = 0, key: int = 0) -> int:
        return -EIO

    def write_fd(self, fd: int, offset: int, length: int, flags: int = 0) -> int:
        return -EIO

    def revert(self, count: int) -> None:
        raise LinuxError(EIO)


class Transfer(Blocked):
    """A running transfer of up to `left` bytes; offsets of -1 stand for the file's own position."""

    def __init__(
        self, source: FileDescription, sink: FileDescription, in_offset: int, out_offset: int, length: int
    ) -> None:
        super().__init__()
        self.source: FileDescription = source.get()
        self.sink: FileDescription = sink.get()
        self.in_offset: int = in_offset
        self.out_offset: int = out_offset
        self.left: int = length
        self.done: int = 0
        self.in_pointer: int = 0  # addresses for the new offsets, 0: none
        self.out_pointer: int = 0
        self.is_whole: bool = False  # sendfile: go on until everything is moved or the input ends
        self.is_tee: bool = False
        self.is_single: bool = False  # one pass: a message at a time
        self.has_more: bool = False  # SPLICE_F_MORE
        self.waits_for_sink: bool = True
        self.may_wait: bool = True
        self.moves_source: bool = False  # in_offset started as the source's file position, which is updated
        self.moves_sink: bool = False
        self.may_run_again = True
        self.carried: bytes = b""  # data taken from the source and not yet accepted by the sink (HostWait)
        self.held: Pipe | None = None  # the source pipe, if the data is still in it; locked meanwhile
        self.is_between_files: bool = source.inode.is_regular() and sink.inode.is_regular()

    def one_pass(self, task: TaskBase) -> int:
        """Move some data; returns bytes, 0 at the end of the input, or -errno."""
        source, sink = self.source, self.sink
        length = min(self.left, _CHUNK)
        if self.is_tee:
            assert isinstance(source, PipeFile)
            return tee_pass(task, source.pipe, sink, length)
        if source.is_seekable():
            at = self.in_offset if self.in_offset >= 0 else source.pos
            if not self.carried:
                bounce = KernelIovIter(capacity=length)
                count = source.pread(task, bounce, at)
                if count <= 0:
                    return count
                self.carried = bytes(bounce.sink)
            count = self._put(task, self.carried)
            self.carried = b""
            if count > 0:
                if self.in_offset >= 0:
                    self.in_offset = at + count
                else:
                    source.pos = at + count
        elif isinstance(source, PipeFile) and sink.inode.is_regular():
            count = self._drain(task, source.pipe, length)
        elif isinstance(source, PipeFile) and isinstance(sink, SocketFile):
            commit(task)
            count = message_pass(task, source.pipe, sink, length, MSG_MORE if self.has_more else 0)
        elif source.inode.mode & S_IFMT == S_IFIFO:
            commit(task)
            count = source.read(task, FileSink(task, sink, self.out_offset, length, more=self.has_more))
        else:
            commit(task)
            count = sink.write(task, FileSource(task, source, length))
        if count > 0 and self.out_offset >= 0:
            self.out_offset += count
        return count

    def _put(self, task: TaskBase, data: bytes) -> int:
        """Write to the sink. After an error `carried` is dropped."""
        out = KernelIovIter(data)
        if isinstance(task, Task):
            out.thread = task.thread.ident()
        try:
            if self.out_offset < 0:
                return self.sink.write(task, out)
            return self.sink.pwrite(task, out, self.out_offset)
        except LinuxError:
            self.carried = b""
            raise

    def _drain(self, task: TaskBase, pipe: Pipe, length: int) -> int:
        """Move data from a pipe to a file whose storage may be slow; the bytes stay in the pipe until the file has
        them.
        """
        if self.held is None:
            if pipe.is_held:
                return -EAGAIN
            self.carried = pipe.peek(length)
            if not self.carried:
                return -EAGAIN if pipe.writers else 0
            pipe.hold()
            self.held = pipe
        try:
            count = self._put(task, self.carried)
        except LinuxError:
            self._let_go()
            raise
        self.carried = b""
        if count > 0:
            pipe.discard(count)
        self._let_go()
        return count

    def _let_go(self) -> None:
        """Unlock the pipe, so that others can read it."""
        pipe = self.held
        self.held = None
        if pipe is not None:
            pipe.let_go()

    def advance(self, task: TaskBase) -> int:
        """Make passes until the transfer is complete, must wait, or its slice is over. Returns BLOCKED, or the result
        of the call.
        """
        end_ns = monotonic_ns() + SLICE_NS
        assert isinstance(task, Task)
        waits = task.kernel.host_waits
        may_wait = waits.may_wait
        while True:
            try:
                count = self.one_pass(task)
            except LinuxError as error:
                count = -error.errno
            except HostWait as wait:
                wait.inner = self  # earlier passes are not repeated
                raise
            waits.step_done(may_wait=may_wait)
            if count == -EAGAIN and (self.done == 0 or self.is_whole):
                if not self.waits_for_sink and self.source.poll(task) & POLLIN:
                    return self.settle(task) if self.done else -EAGAIN
                return self.wait(task)
            if count < 0:
                if count == -EPIPE:
                    broken_pipe(task, self.sink)
                return self.settle(task) if self.done or count == -EAGAIN else count
            self.done += count
            self.left -= count
            if count == 0 or self.left == 0 or self.is_single:
                return self.settle(task)
            if is_killed(task) if self.is_between_files else task.has_pending_signal():
                return self.settle(task)
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)

    def wait(self, task: TaskBase) -> int:
        """Nothing can be moved now: BLOCKED, or the result of the call if it cannot wait."""
        self.has_slices = False
        if self.queues:
            return BLOCKED
        in_queue = self.source.wait_queue()
        out_queue = self.sink.wait_queue()
        if not self.may_wait or (in_queue is None and out_queue is None):
            return self.settle(task) if self.done else -EAGAIN
        if in_queue is not None:
            block_on(task, self, in_queue, POLLIN | POLLRDNORM)
        if out_queue is not None and out_queue is not in_queue:
            if in_queue is None:
                return block_on(task, self, out_queue, POLLOUT | POLLWRNORM)
            also_wait(task, self, out_queue, POLLOUT | POLLWRNORM)
        return BLOCKED

    def settle(self, task: TaskBase) -> int:
        """Give the guest its offsets back; the result of the call."""
        mem = task.user_memory()
        if self.done > 0 and not self.is_tee:
            accessed(self.source)
            modified(self.sink)
        if self.moves_source:
            self.source.pos = self.in_offset
        if self.moves_sink:
            self.sink.pos = self.out_offset
        if self.in_pointer:
            mem.write_i64(self.in_pointer, self.in_offset)
        if self.out_pointer:
            mem.write_i64(self.out_pointer, self.out_offset)
        return self.done

    def retry(self, task: TaskBase) -> int:
        return self.advance(task)

    def interrupted(self, task: TaskBase) -> int:
        if self.is_between_files and not is_killed(task):
            return BLOCKED
        return self.settle(task) if self.done else -ERESTARTSYS

    def timed_out(self, task: TaskBase) -> int:
        return self.settle(task) if self.done else -EAGAIN

    def finished(self, task: TaskBase) -> None:
        self._let_go()
        self.source.put()
        self.sink.put()


def run_transfer(task: Task, move: Transfer, *, is_nonblocking: bool) -> int:
    """Start a transfer; wait for either file if nothing can be moved yet."""
    move.may_wait = not is_nonblocking
    try:
        outcome = move.advance(task)
    except Abandoned:
        move.finished(task)
        raise
    if outcome != BLOCKED:
        move.finished(task)
    return outcome


def commit(task: TaskBase) -> None:
    """Data that is moved from here on must not be moved again: wait for answers on the spot."""
    assert isinstance(task, Task)
    task.kernel.host_waits.commit()


def tee_pass(task: TaskBase, pipe: Pipe, sink: FileDescription, length: int) -> int:
    """Copy unread bytes of a pipe into another and leave them in place."""
    if pipe.is_held:
        return -EAGAIN
    data = pipe.peek(length)
    if not data:
        return -EAGAIN if pipe.writers else 0
    return sink.write(task, KernelIovIter(data))


def message_pass(task: TaskBase, pipe: Pipe, sink: SocketFile, length: int, flags: int) -> int:
    """Send the contents of a pipe as one message, even if they are in several slots (splice_to_socket)."""
    if pipe.is_held:
        return -EAGAIN
    data = pipe.peek(length)
    if not data:
        return -EAGAIN if pipe.writers else 0
    source = KernelIovIter(data)
    count = sink.send(task, source, flags, None) if flags else sink.write(task, source)
    if count > 0:
        pipe.discard(count)
    return count


def is_pipe(file: FileDescription) -> bool:
    """Whether it is an end of a pipe or a FIFO."""
    return isinstance(file, PipeFile)


def is_full(file: FileDescription) -> bool:
    """Whether it is a pipe without room."""
    return isinstance(file, PipeFile) and file.pipe.used >= file.pipe.max_slots and file.pipe.readers > 0


def can_splice(file: FileDescription, *, is_write: bool) -> bool:
    """Whether a file has the operation (splice_read, splice_write): eventfds, directories and similar files do not."""
    if isinstance(file, (PipeFile, SocketFile)):
        return True
    kind = file.inode.mode & S_IFMT
    if kind == S_IFIFO or kind == S_IFSOCK:  # the host's: standard streams
        return True
    if kind == S_IFCHR:
        return not isinstance(file, FullDevice if is_write else NullDevice)
    if kind != S_IFREG or isinstance(file.inode, TaskFile):
        return False
    return not (is_write and isinstance(file, GeneratedDescription))


def sys_sendfile(task: Task, args: Args) -> int:
    """sendfile(2)."""
    pointer = to_u64(args.a2)
    offset = task.user_memory().read_i64(pointer) if pointer else -1
    count = args.a3
    source = data_file(task, args.a1)
    if not can_read(source):
        return -EBADF
    if pointer and not source.is_seekable():
        return -ESPIPE
    if pointer and offset < 0 or count < 0:
        return -EINVAL
    at = offset if pointer else source.pos
    if at + count > MAX_LFS_FILESIZE:
        return -EINVAL
    sink = data_file(task, args.a0)
    if not can_write(sink):
        return -EBADF
    if sink.flags & O_APPEND:
        return -EINVAL
    if count == 0:
        return 0
    if source.inode.is_dir() or is_pipe(source) or (not source.is_seekable() and not is_pipe(sink)):
        return -EINVAL
    move = Transfer(source, sink, at if source.is_seekable() else -1, -1, min(count, MAX_RW_COUNT))
    move.in_pointer = pointer
    move.moves_source = not pointer and source.is_seekable()
    move.is_whole = True
    return run_transfer(task, move, is_nonblocking=sink.flags & O_NONBLOCK != 0)


def sys_copy_file_range(task: Task, args: Args) -> int:
    """copy_file_range(2)."""
    source = data_file(task, args.a0)
    sink = data_file(task, args.a2)
    in_pointer = to_u64(args.a1)
    out_pointer = to_u64(args.a3)
    mem = task.user_memory()
    in_at = mem.read_i64(in_pointer) if in_pointer else source.pos
    out_at = mem.read_i64(out_pointer) if out_pointer else sink.pos
    if to_u32(args.a5) != 0:
        return -EINVAL
    if source.inode.is_dir() or sink.inode.is_dir():
        return -EISDIR
    if not source.inode.is_regular() or not sink.inode.is_regular():
        return -EINVAL
    if not can_read(source) or not can_write(sink) or sink.flags & O_APPEND:
        return -EBADF
    if source.inode.fs is not sink.inode.fs:
        return -EXDEV
    wanted = to_u64(args.a4)
    if to_u64(in_at) + wanted > _U64_MAX or to_u64(out_at) + wanted > _U64_MAX:
        return -EOVERFLOW
    if in_at < 0 or out_at < 0:
        return -EINVAL
    source.inode.refresh(task)
    count = min(wanted, max(source.inode.size - in_at, 0))
    if source.inode is sink.inode and in_at < out_at + count and out_at < in_at + count:
        return -EINVAL
    if count == 0:
        return 0
    move = Transfer(source, sink, in_at, out_at, min(count, MAX_RW_COUNT))
    move.in_pointer = in_pointer
    move.out_pointer = out_pointer
    move.moves_source = not in_pointer
    move.moves_sink = not out_pointer
    return run_transfer(task, move, is_nonblocking=False)


def sys_splice(task: Task, args: Args) -> int:
    """splice(2)."""
    length = args.a4
    flags = to_u32(args.a5)
    if length == 0:
        return 0
    if flags & ~_SPLICE_F_ALL:
        return -EINVAL
    source = data_file(task, args.a0)
    sink = data_file(task, args.a2)
    in_pointer = to_u64(args.a1)
    out_pointer = to_u64(args.a3)
    from_pipe, to_pipe = is_pipe(source), is_pipe(sink)
    if (from_pipe and in_pointer) or (to_pipe and out_pointer):
        return -ESPIPE
    mem = task.user_memory()
    out_at = mem.read_i64(out_pointer) if out_pointer else -1
    in_at = mem.read_i64(in_pointer) if in_pointer else -1
    if not can_read(source) or not can_write(sink):
        return -EBADF
    if not from_pipe and not to_pipe:
        return -EINVAL
    if from_pipe and to_pipe and source.inode is sink.inode:
        return -EINVAL
    if not to_pipe and sink.flags & O_APPEND:
        return -EINVAL
    if (in_pointer and not source.is_seekable()) or (out_pointer and not sink.is_seekable()):
        return -EINVAL
    if length < 0:
        return -EINVAL
    if (in_pointer and in_at < 0) or (out_pointer and out_at < 0):
        return -EINVAL
    if not can_splice(sink, is_write=True):
        return -EINVAL
    if is_full(sink):
        if flags & SPLICE_F_NONBLOCK or sink.flags & O_NONBLOCK:
            return -EAGAIN  # room is checked before anything else
    if not can_splice(source, is_write=False):
        return -EINVAL
    is_nonblocking = flags & SPLICE_F_NONBLOCK != 0
    if from_pipe:
        is_nonblocking = is_nonblocking or source.flags & O_NONBLOCK != 0
    if to_pipe:
        is_nonblocking = is_nonblocking or sink.flags & O_NONBLOCK != 0
    move = Transfer(source, sink, in_at, out_at, min(length, MAX_RW_COUNT))
    move.has_more = flags & SPLICE_F_MORE != 0
    if isinstance(source, SocketFile):
        # Only AF_UNIX streams obey the flag; others obey O_NONBLOCK and SO_RCVTIMEO.
        if source.family != AF_UNIX or not source.is_stream():
            is_nonblocking = source.flags & O_NONBLOCK != 0
        else:
            is_nonblocking = is_nonblocking or source.flags & O_NONBLOCK != 0
        move.is_single = not source.is_stream()
        limit_ns = source.wait_limit_ns(is_write=False)
        if limit_ns >= 0:
            move.deadline_ns = monotonic_ns() + limit_ns
    elif isinstance(sink, SocketFile) and sink.flags & O_NONBLOCK:
        move.waits_for_sink = False
    move.in_pointer = in_pointer
    move.out_pointer = out_pointer
    return run_transfer(task, move, is_nonblocking=is_nonblocking)


def sys_tee(task: Task, args: Args) -> int:
    """tee(2)."""
    task.kernel.host_waits.commit()  # moved data must not be moved again
    flags = to_u32(args.a3)
    length = args.a2
    if flags & ~_SPLICE_F_ALL:
        return -EINVAL
    if length == 0:
        return 0
    source = data_file(task, args.a0)
    sink = data_file(task, args.a1)
    if not can_read(source) or not can_write(sink):
        return -EBADF
    if not is_pipe(source) or not is_pipe(sink) or source.inode is sink.inode:
        return -EINVAL
    is_nonblocking = flags & SPLICE_F_NONBLOCK != 0 or (source.flags | sink.flags) & O_NONBLOCK != 0
    if is_nonblocking and is_full(sink):
        return -EAGAIN
    # One pass: a second would copy the same bytes again.
    move = Transfer(source, sink, -1, -1, min(to_u64(length), _CHUNK))
    move.left = min(move.left, _CHUNK)
    move.is_tee = True
    return run_tee(task, move, is_nonblocking=is_nonblocking)


class TeeWait(Blocked):
    """A tee that waits for data or room."""

    def __init__(self, move: Transfer) -> None:
        super().__init__()
        self.move: Transfer = move

    def retry(self, task: TaskBase) -> int:
        result = self.move.one_pass(task)
        return BLOCKED if result == -EAGAIN else result

    def finished(self, task: TaskBase) -> None:
        self.move.finished(task)


def run_tee(task: Task, move: Transfer, *, is_nonblocking: bool) -> int:
    """The single pass of tee, now or when it can be done."""
    result = move.one_pass(task)
    in_queue = move.source.wait_queue()
    out_queue = move.sink.wait_queue()
    if result != -EAGAIN or is_nonblocking or in_queue is None or out_queue is None:
        move.finished(task)
        return result
    wait = TeeWait(move)
    block_on(task, wait, in_queue, POLLIN | POLLRDNORM)
    also_wait(task, wait, out_queue, POLLOUT | POLLWRNORM)
    return BLOCKED


class SpliceInWait(FileWait):
    """A vmsplice into a full pipe."""

    def __init__(self, file: PipeFile, src: UserIovIter, segments: list[tuple[int, int]]) -> None:
        super().__init__(file)
        self.src: UserIovIter = src
        self.segments: list[tuple[int, int]] = segments

    def retry(self, task: TaskBase) -> int:
        file = self.file
        assert isinstance(file, PipeFile) and isinstance(task, Task)
        result = splice_pages(task, file, self.src, self.segments)
        return BLOCKED if result == -EAGAIN else result


def splice_pages(task: Task, file: PipeFile, src: UserIovIter, segments: list[tuple[int, int]]) -> int:
    """Write `src`, which is all of `segments`: a slot for each page that one of them touches (iter_to_pipe)."""
    done = 0
    for start, length in segments:
        at = start
        while at < start + length:
            piece = min(start + length, (at | 4095) + 1) - at
            file.pipe.seal_last()
            hidden = src.narrow(piece)
            try:
                got = file.write(task, src)
            except LinuxError as error:
                got = -error.errno
            src.widen(hidden)
            if got <= 0:
                return done if done else got
            done += got
            at += got
            if got < piece:
                return done
    file.pipe.seal_last()
    return done


def sys_vmsplice(task: Task, args: Args) -> int:
    """vmsplice(2): the data is copied; a program that does not touch the pages afterwards, as it promised, cannot
    notice that.
    """
    task.kernel.host_waits.commit()  # moved data must not be moved again
    flags = to_u32(args.a3)
    if flags & ~_SPLICE_F_ALL:
        return -EINVAL
    file = data_file(task, args.a0)
    is_write = can_write(file)
    if not is_write and not can_read(file):
        return -EBADF
    segments = user_segments(task, args.a1, args.a2)
    piped = user_iov(task.user_memory(), segments)
    if piped.remaining() == 0:
        return 0
    if not isinstance(file, PipeFile):
        return -EBADF
    rwf = 8 if flags & SPLICE_F_NONBLOCK else 0
    if is_write:
        # It waits only while the pipe is full, and then writes what fits.
        result = splice_pages(task, file, piped, segments)
        queue = file.wait_queue()
        if result != -EAGAIN or queue is None or rwf or file.flags & O_NONBLOCK:
            return result
        return block_on(task, SpliceInWait(file, piped, segments), queue, POLLOUT | POLLWRNORM)
    result = file.read(task, piped)
    return wait_to_read(task, file, piped, -1, rwf) if result == -EAGAIN else result


def sys_readahead(task: Task, args: Args) -> int:
    """readahead(2): nothing is read ahead, so only its errors matter."""
    file = data_file(task, args.a0)
    if not can_read(file):
        return -EBADF
    if not file.inode.is_regular():
        return -EINVAL
    return 0


def sys_fadvise64(task: Task, args: Args) -> int:
    """posix_fadvise(2): the advice is ignored, so only its errors matter."""
    file = data_file(task, args.a0)
    if file.inode.mode & S_IFMT == S_IFIFO:
        return -ESPIPE
    advice = to_i32(args.a3)
    if args.a2 < 0 or advice < 0 or advice > 5:
        return -EINVAL
    return 0
