"""Pipes and FIFOs (pipe(7), fifo(7); fs/pipe.c).

Owns the ring of a pipe, its two ends, and the protocol by which open(2) of a FIFO waits for its other end.
Capacity is counted in slots of a page, as Linux counts it: a write that does not fit into the rest of the
newest page takes a new slot, so full and empty come at the same points.

A FIFO's inode has its `Pipe` in `inode.pipe` while it is open; `open_fifo` is what file systems call.
"""

import time
from typing import Final

from cloche.abi.capability import CAP_SYS_RESOURCE
from cloche.abi.errno import (
    EAGAIN,
    EBADF,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOMEM,
    ENOTTY,
    ENXIO,
    EPERM,
    EPIPE,
    LinuxError,
)
from cloche.abi.fcntl import (
    F_GETPIPE_SZ,
    F_SETPIPE_SZ,
    O_ACCMODE,
    O_DIRECT,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.limits import PIPE_DEF_BUFFERS, PIPE_MAX_SIZE
from cloche.abi.magic import PIPEFS_MAGIC
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.abi.signal import SIGPIPE
from cloche.abi.stat import S_IFIFO
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter, UserIovIter
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.objects import Context, FifoBuffer, FileDescription, FileSystem, Inode, Path
from cloche.vfs.waitqueue import ANY, WaitQueue

PAGE: Final = 4096
COMPACT: Final = 65536  # read bytes that a chunk may still hold

_READABLE: Final = POLLIN | POLLRDNORM
_WRITABLE: Final = POLLOUT | POLLWRNORM


class Chunk:
    """Bytes in the ring: either whole pages, or one page that is partly filled (`length` up to 4096)."""

    def __init__(self, data: bytes, *, is_packet: bool) -> None:
        self.data: bytes = data
        self.offset: int = 0  # bytes already read
        self.is_packet: bool = is_packet
        self.is_sealed: bool = False  # nothing may be added to it (no PIPE_BUF_FLAG_CAN_MERGE)

    def slots(self) -> int:
        """Pages that still hold unread bytes."""
        return (len(self.data) + PAGE - 1 >> 12) - (self.offset >> 12)


class Pipe(FifoBuffer):
    """The ring shared by the ends of a pipe."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.head: int = 0  # index of the oldest chunk
        self.used: int = 0  # slots with unread bytes
        self.size: int = 0  # unread bytes
        self.max_slots: int = PIPE_DEF_BUFFERS
        self.readers: int = 0
        self.writers: int = 0
        self.read_opens: int = 1  # r_counter and w_counter of struct pipe_inode_info
        self.write_opens: int = 1
        self.queue: WaitQueue = WaitQueue()
        self.is_polled: bool = False  # edge-triggered waiters then see every write (poll_usage)
        self.charged: int = 0  # bytes charged to the sandbox's kernel memory
        self.is_held: bool = False  # a splice is moving its oldest bytes to slow storage

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.charged)

    def capacity_bytes(self) -> int:
        return self.max_slots << 12

    def account(self) -> None:
        """Update the charge to the ring's contents."""
        held = self.size + self.used * BUFFER_BYTES
        KERNEL_MEMORY.take(held - self.charged)
        self.charged = held

    def append(self, src: IovIter, *, is_packet: bool) -> int:
        """Append from `src` as much as there is room for.

        Returns the bytes, -EAGAIN if there is no room, -ENOMEM at the sandbox's limit. Up to a page is appended as a
        whole or not at all (PIPE_BUF).
        """
        if not KERNEL_MEMORY.has_room(min(src.remaining(), self.max_slots - self.used << 12) + BUFFER_BYTES):
            return -ENOMEM
        count = self._append(src, is_packet=is_packet)
        if count > 0:
            self.account()
        return count

    def _append(self, src: IovIter, *, is_packet: bool) -> int:
        total = src.remaining()
        done = 0
        tail_bytes = total & (PAGE - 1)
        if tail_bytes and self.head < len(self.chunks) and not is_packet:
            # Linux merges only the odd part of a write into the newest page, and only if all of it fits.
            last = self.chunks[len(self.chunks) - 1]
            if not last.is_packet and not last.is_sealed and len(last.data) + tail_bytes <= PAGE:
                data = src.copy_from(tail_bytes)
                last.data += data
                self.size += len(data)
                done = len(data)
                if done < tail_bytes or done == total:
                    return done
        room = self.max_slots - self.used
        if room <= 0:
            return done if done else -EAGAIN
        left = total - done
        if is_packet:
            while left > 0 and room > 0:
                data = src.copy_from(min(left, PAGE))
                self._push(Chunk(data, is_packet=True), 1)
                done += len(data)
                left -= len(data)
                room -= 1
                if not data:
                    break
            return done
        whole = min(left >> 12, room)
        if whole > 0:
            data = src.copy_from(whole << 12)
            got = len(data)
            if got < whole << 12 and got > PAGE:
                # A fault has cut it short: keep whole pages, or one partial page.
                cut = got & ~(PAGE - 1)
                self._push(Chunk(data[:cut], is_packet=False), cut >> 12)
                data = data[cut:]
            if data:
                self._push(Chunk(data, is_packet=False), len(data) + PAGE - 1 >> 12)
            done += got
            left -= got
            room -= whole
            if got < whole << 12:
                return done
        if 0 < left < PAGE and room > 0:
            data = src.copy_from(left)
            self._push(Chunk(data, is_packet=False), 1)
            done += len(data)
        return done

    def seal_last(self) -> None:
        """The next write begins a new page."""
        if self.head < len(self.chunks):
            self.chunks[len(self.chunks) - 1].is_sealed = True

    def _push(self, chunk: Chunk, slots: int) -> None:
        if chunk.data:
            self.chunks.append(chunk)
            self.used += slots
            self.size += len(chunk.data)

    def drain(self, dst: IovIter) -> int:
        """Move unread bytes into `dst`, at most one packet. Returns the bytes."""
        done = 0
        chunks = self.chunks
        while self.head < len(chunks):
            chunk = chunks[self.head]
            want = dst.remaining()
            if want == 0:
                break
            data = chunk.data
            offset = chunk.offset
            length = len(data)
            if offset == 0 and length <= want:
                piece = data
            else:
                piece = data[offset : offset + want]
            try:
                copied = dst.copy_to(piece)
            except LinuxError:
                if done:
                    break
                raise
            if copied < len(piece) and isinstance(dst, UserIovIter):
                # A fault: a page that was copied only in part stays unread.
                kept = 0 if chunk.is_packet else max((offset + copied & ~(PAGE - 1)) - offset, 0)
                dst.revert(copied - kept)
                copied = kept
                if kept == 0:
                    if done:
                        break
                    raise LinuxError(EFAULT)
            before = chunk.slots()
            done += copied
            if chunk.is_packet:
                self.size -= length - offset
                chunk.offset = length
            else:
                chunk.offset = offset + copied
                self.size -= copied
            if chunk.offset >= length:
                self.used -= before
                self.head += 1
                if self.head == len(chunks):
                    chunks.clear()
                    self.head = 0
                elif self.head >= 64 and self.head * 2 >= len(chunks):
                    del chunks[: self.head]
                    self.head = 0
            else:
                self.used -= before - chunk.slots()
            if chunk.is_packet or copied < len(piece):
                break
        if done:
            self._compact()
            self.account()
        return done

    def _compact(self) -> None:
        """Free the read part of a chunk, if it is large compared to the unread rest."""
        if self.head < len(self.chunks):
            chunk = self.chunks[self.head]
            read = chunk.offset & ~(PAGE - 1)
            if read >= COMPACT and read * 2 >= len(chunk.data):
                chunk.data = chunk.data[read:]
                chunk.offset -= read

    def discard(self, count: int) -> int:
        """Drop up to `count` unread bytes from the front (splice, tee); the bytes dropped."""
        done = 0
        chunks = self.chunks
        while done < count and self.head < len(chunks):
            chunk = chunks[self.head]
            step = min(count - done, len(chunk.data) - chunk.offset)
            before = chunk.slots()
            chunk.offset += step
            done += step
            self.size -= step
            if chunk.offset >= len(chunk.data):
                self.used -= before
                self.head += 1
                if self.head == len(chunks):
                    chunks.clear()
                    self.head = 0
            else:
                self.used -= before - chunk.slots()
        if done:
            self._compact()
            self.account()
            self.queue.wake(_WRITABLE)
        return done

    def peek(self, count: int) -> bytes:
        """Up to `count` unread bytes, left in place (tee, vmsplice)."""
        parts: list[bytes] = []
        left = count
        for index in range(self.head, len(self.chunks)):
            if left <= 0:
                break
            chunk = self.chunks[index]
            piece = chunk.data[chunk.offset : chunk.offset + left]
            parts.append(piece)
            left -= len(piece)
        return b"".join(parts)

    def hold(self) -> None:
        """Lock the pipe for reading until `let_go`, as Linux does while a splice writes (iter_file_splice_write).

        Writers still append; readers wait, even those with O_NONBLOCK.
        """
        self.is_held = True

    def let_go(self) -> None:
        """Unlock the pipe."""
        self.is_held = False
        self.queue.wake(_READABLE if self.writers else _READABLE | POLLHUP)

    def wake_other_side(self) -> None:
        """One side is gone: wake the other (pipe_release)."""
        self.queue.wake(_READABLE | _WRITABLE | POLLERR | POLLHUP)


class PipeFile(FileDescription):
    """An end of a pipe (or both, for a FIFO opened O_RDWR)."""

    def __init__(self, path: Path | None, inode: Inode, flags: int, pipe: Pipe) -> None:
        super().__init__(path, inode, flags)
        self.pipe: Pipe = pipe
        self.can_read: bool = flags & O_ACCMODE != O_WRONLY
        self.can_write: bool = flags & O_ACCMODE != O_RDONLY
        # No POLLHUP while write_opens still has this value (a FIFO that never had a writer)
        self.silent_until: int = 0
        # The other side's counter when open(2) began to wait, 0: does not wait
        self.awaited_opens: int = 0

    def is_seekable(self) -> bool:
        return False

    def write_continues(self) -> bool:
        return True

    def is_locked(self) -> bool:
        return self.pipe.is_held

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        pipe = self.pipe
        if dst.remaining() == 0:
            return 0
        if pipe.is_held:
            return -EAGAIN
        if pipe.size == 0:
            return -EAGAIN if pipe.writers else 0
        was_full = pipe.used >= pipe.max_slots
        count = pipe.drain(dst)
        if was_full and pipe.used < pipe.max_slots:
            pipe.queue.wake(_WRITABLE)
        if self.path is not None:
            self.inode.atime_ns = time.time_ns()
        return count

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        pipe = self.pipe
        if src.remaining() == 0:
            return 0
        if pipe.readers == 0:
            if isinstance(ctx, Task):
                ctx.kernel.send_kernel_signal(ctx, SIGPIPE)
            return -EPIPE
        was_empty = pipe.size == 0
        count = pipe.append(src, is_packet=self.flags & O_DIRECT != 0)
        if count > 0:
            if was_empty or pipe.is_polled:
                pipe.queue.wake(_READABLE)
            if self.path is not None:
                now = time.time_ns()
                self.inode.mtime_ns = now
                self.inode.ctime_ns = now
        return count

    def poll(self, ctx: Context) -> int:
        pipe = self.pipe
        pipe.is_polled = True
        mask = 0
        if self.can_read and not pipe.is_held:
            if pipe.size:
                mask |= _READABLE
            if pipe.writers == 0 and self.silent_until != pipe.write_opens:
                mask |= POLLHUP
        if self.can_write:
            if pipe.used < pipe.max_slots:
                mask |= _WRITABLE
            # Linux: a pipe without readers is an error only for those who may write.
            if pipe.readers == 0:
                mask |= POLLERR
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.pipe.queue

    def open_is_pending(self, ctx: Context) -> bool:
        if self.awaited_opens == 0:
            return False
        now = self.pipe.write_opens if self.can_read else self.pipe.read_opens
        if now != self.awaited_opens:
            self.awaited_opens = 0
            return False
        return True

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == FIONREAD:
            ctx.user_memory().write_i32(arg, self.pipe.size)
            return 0
        return -ENOTTY

    def release(self) -> None:
        pipe = self.pipe
        if self.can_read:
            pipe.readers -= 1
        if self.can_write:
            pipe.writers -= 1
        if pipe.readers == 0 and pipe.writers == 0:
            pipe.chunks.clear()
            pipe.head = pipe.used = pipe.size = 0
            pipe.account()
            if self.inode.pipe is pipe:
                self.inode.pipe = None
        elif pipe.readers == 0 or pipe.writers == 0:
            pipe.wake_other_side()

    def link_text(self) -> bytes | None:
        return b"pipe:[%d]" % self.inode.ino if self.path is None else None


class PipeInode(MemoryAttrInode):
    """The inode of an anonymous pipe; it can be opened again through /proc/PID/fd."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return open_fifo(ctx, path, self, flags)


def pipe_fs(kernel: Kernel) -> FileSystem:
    """pipefs, made at first use."""
    found = kernel.file_systems.pipe
    if found is not None:
        return found
    fs = FileSystem("pipefs", PIPEFS_MAGIC, kernel.numbers.dev())
    kernel.file_systems.pipe = fs
    return fs


def create_pipe(kernel: Kernel, ctx: Context, flags: int) -> tuple[PipeFile, PipeFile]:
    """A new pipe: its read end and its write end, without references.

    `flags` are pipe2's O_NONBLOCK and O_DIRECT.
    """
    inode = PipeInode(
        pipe_fs(kernel), kernel.numbers.anon_ino(), S_IFIFO | 0o600, ctx.creds.fsuid, ctx.creds.fsgid
    )
    now = time.time_ns()
    inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.btime_ns = now
    pipe = Pipe()
    pipe.readers = 1
    pipe.writers = 1
    inode.pipe = pipe
    reader = PipeFile(None, inode, O_RDONLY | flags & O_NONBLOCK, pipe)
    writer = PipeFile(None, inode, O_WRONLY | flags & (O_NONBLOCK | O_DIRECT), pipe)
    return reader, writer


def open_fifo(ctx: Context, path: Path | None, inode: Inode, flags: int) -> FileDescription:
    """open(2) of a FIFO: the description, perhaps with `open_is_pending`.

    Raises LinuxError(ENXIO) for O_WRONLY|O_NONBLOCK without a reader.
    """
    found = inode.pipe
    pipe = found if isinstance(found, Pipe) else Pipe()
    mode = flags & O_ACCMODE
    if mode == O_ACCMODE:
        raise LinuxError(EINVAL)
    is_nonblocking = flags & O_NONBLOCK != 0
    is_anonymous = isinstance(inode, PipeInode)  # through /proc/PID/fd: never waits
    if mode == O_WRONLY and is_nonblocking and not is_anonymous and pipe.readers == 0:
        raise LinuxError(ENXIO)
    inode.pipe = pipe
    file = PipeFile(path, inode, flags, pipe)
    if mode != O_WRONLY:
        pipe.readers += 1
        pipe.read_opens += 1
    if mode != O_RDONLY:
        pipe.writers += 1
        pipe.write_opens += 1
    if mode == O_RDWR:
        if pipe.readers == 1 or pipe.writers == 1:
            pipe.queue.wake(ANY)
    elif mode == O_RDONLY:
        if pipe.readers == 1:
            pipe.queue.wake(ANY)
        if pipe.writers == 0 and not is_anonymous:
            if is_nonblocking:
                file.silent_until = pipe.write_opens
            else:
                file.awaited_opens = pipe.write_opens
    else:
        if pipe.writers == 1:
            pipe.queue.wake(ANY)
        if pipe.readers == 0 and not is_anonymous:
            file.awaited_opens = pipe.read_opens
    return file


def pipe_fcntl(ctx: Context, file: FileDescription, command: int, arg: int) -> int:
    """fcntl(2) F_GETPIPE_SZ and F_SETPIPE_SZ; -EBADF for what is not a pipe."""
    if not isinstance(file, PipeFile):
        return -EBADF
    pipe = file.pipe
    if command == F_GETPIPE_SZ:
        return pipe.capacity_bytes()
    if command != F_SETPIPE_SZ:
        return -EINVAL
    size = arg & 0xFFFFFFFF
    if size > 1 << 31:
        return -EINVAL
    slots = 1
    while slots << 12 < size:
        slots <<= 1
    if slots > pipe.max_slots and slots << 12 > PIPE_MAX_SIZE and not ctx.creds.capable(CAP_SYS_RESOURCE):
        return -EPERM
    if slots << 12 > PIPE_MAX_SIZE * 64:
        return -EPERM  # a limit of the sentry's own, even for root
    if slots < pipe.used:
        return -EBUSY
    was_full = pipe.used >= pipe.max_slots
    pipe.max_slots = slots
    if was_full and pipe.used < slots:
        pipe.queue.wake(_WRITABLE)
    return pipe.capacity_bytes()
