"""Guest memory as the kernel sees it: typed reads and writes, and the `iov_iter` that file operations fill or drain.

Everything read here is hostile (I1): read a value once, validate it, use the Python object.
`UserMemory` belongs to one task; `read` may be served by what the stub prefetched, `read_fresh` never is
(futex words, anything that another thread may have changed since the request).
"""

import os
from struct import Struct
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import EFAULT, EINVAL, ENAMETOOLONG, LinuxError
from cloche.abi.limits import MAX_RW_COUNT, PATH_MAX
from cloche.mm.address_space import AddressSpace
from cloche.platform import slow
from cloche.platform.interface import SLOW_STORAGE, HostProcess, HostThread

_U32: Final = Struct("<I")
_I32: Final = Struct("<i")
_U64: Final = Struct("<Q")
_I64: Final = Struct("<q")
_MAX_GATHERED: Final = 1 << 18  # of several pieces, for one call of the host
_MAX_LATER: Final = 1 << 20


class UserMemory:
    """The memory of one task, through its stopped host thread (deferred writes) or its process (at once)."""

    def __init__(self, thread: HostThread, space: AddressSpace | None = None) -> None:
        self.thread: HostThread = thread
        self.process: HostProcess = thread.process()
        self.space: AddressSpace | None = space
        # The range by which an area has grown downwards. The host maps it when the thread goes on, so it is not there
        # yet.
        self._grown_start: int = 0
        self._grown_end: int = 0

    def read(self, addr: int, length: int) -> bytes:
        """Exactly `length` bytes.  Raises LinuxError(EFAULT)."""
        if length == 0:
            return b""
        data = self.thread.read(addr, length)
        if len(data) != length:
            data = self._read_grown(addr, length, data)
            if len(data) != length:
                raise LinuxError(EFAULT)
        return data

    def read_some(self, addr: int, length: int) -> bytes:
        """As many of `length` bytes as are readable from the start."""
        if length <= 0:
            return b""
        data = self.thread.read(addr, length)
        return data if len(data) == length else self._read_grown(addr, length, data)

    def _grow(self, addr: int) -> int:
        """Let an area grow down to a fault at `addr`. Returns where its new memory ends; 0: it cannot grow, or has
        grown in this call already.
        """
        space = self.space
        if space is None or not space.growing:
            return 0
        if self.is_new(addr):
            return self._grown_end
        thread = self.thread
        if thread.is_running():
            return 0
        end = space.grow_down(thread, addr)
        if end:
            if self._grown_start != end or not self.is_new(end):  # (twice in one call: both ranges are new)
                self._grown_end = end
            self._grown_start = addr & ~4095
        return end

    def _read_grown(self, addr: int, length: int, data: bytes) -> bytes:
        """`data` was all that could be read.  What the fault adds to an area that grows downwards is zero."""
        at = addr + len(data)
        end = self._grow(at)
        area = self.space.find(at) if self.space is not None and end else None
        if area is None or not area.prot:
            return data
        data += bytes(min(end, addr + length) - at)
        left = length - len(data)
        return data + self.thread.read(end, left) if left else data

    def bring(self, addr: int, length: int) -> None:
        """Have mapped pages of slow files in memory, which may take long; other tasks may run meanwhile."""
        space = self.space
        end = addr + length
        while space is not None and addr < end:
            area = space.find(addr)
            if area is None:
                return
            upto = min(area.end, end)
            if area.backing is not None and area.backing.map_is_slow():
                self.process.touch(self.thread.ident(), addr, upto - addr)
            addr = upto

    def is_new(self, addr: int) -> bool:
        """Whether there will only be memory at `addr` when the thread goes on."""
        return self._grown_start <= addr < self._grown_end and self.thread.has_orders()

    def read_fresh(self, addr: int, length: int) -> bytes:
        """Exactly `length` bytes as they are now.  Raises LinuxError(EFAULT)."""
        data = self.process.read(addr, length)
        if len(data) != length:
            raise LinuxError(EFAULT)
        return data

    def read_cstring(self, addr: int, limit: int = PATH_MAX) -> bytes:
        """The bytes before the first NUL.  Raises LinuxError(EFAULT), or ENAMETOOLONG if none within `limit` bytes."""
        data = self.cstring(addr, limit)
        if data is None:
            raise LinuxError(EFAULT)
        if len(data) >= limit:
            raise LinuxError(ENAMETOOLONG)
        return data

    def cstring(self, addr: int, limit: int) -> bytes | None:
        """The bytes before the first NUL, or `limit` bytes without one; None for a fault."""
        data = self.thread.read_cstring(addr, limit)
        if data is None and self.space is not None and self.space.growing:
            start = self.read_some(addr, limit)
            end = start.find(0)
            return start[:end] if end >= 0 else start if len(start) == limit else None
        return data

    def room(self, addr: int, length: int) -> int:
        """How many of `length` bytes at `addr` can be written.

        Asked before a copy is deferred: when the stub meets a hole, data that does not fit can no longer be left
        unread.
        """
        space = self.space
        if space is None or (addr >= space.good_start and addr + length <= space.good_end):
            return length
        room = space.writable_bytes(addr, length)
        if room < length and space.growing and self._grow(addr + room):
            return space.writable_bytes(addr, length)
        return room

    def write(self, addr: int, data: bytes) -> None:
        """Copy out; may be deferred until the task resumes.  Raises LinuxError(EFAULT)."""
        self.prepare(addr, len(data))
        if data and self.thread.write(addr, data) != len(data):
            raise LinuxError(EFAULT)

    def prepare(self, addr: int, length: int) -> None:
        """Before a copy out that `room` was not asked for: let an area grow down to there."""
        space = self.space
        if space is not None and space.growing:
            self.room(addr, length)

    def write_some(self, addr: int, data: bytes) -> int:
        """Copy out as much as fits before a fault; the count."""
        if not data:
            return 0
        room = self.room(addr, len(data))
        if room < len(data):
            return self.thread.write(addr, data[:room]) if room > 0 else 0
        return self.thread.write(addr, data)

    def write_now(self, addr: int, data: bytes) -> bool:
        """Copy out at once; whether all of it was written."""
        return self.process.write(addr, data) == len(data)

    def compare_exchange32(self, addr: int, old: int, new: int) -> int:
        """Replace the aligned word at `addr` by `new` if it is `old`; the unsigned value found (`old`: replaced).

        Raises LinuxError(EFAULT). Not atomic, a read and then a write: only for memory that no other running thread
        uses (kernel.futex_change).
        """
        data = self.process.read(addr, 4)
        if len(data) != 4:
            raise LinuxError(EFAULT)
        found: int = _U32.unpack(data)[0]
        if found == old and self.process.write(addr, _U32.pack(new & 0xFFFFFFFF)) != 4:
            raise LinuxError(EFAULT)
        return found

    def read_u32(self, addr: int) -> int:
        value: int = _U32.unpack(self.read(addr, 4))[0]
        return value

    def read_i32(self, addr: int) -> int:
        value: int = _I32.unpack(self.read(addr, 4))[0]
        return value

    def read_u64(self, addr: int) -> int:
        value: int = _U64.unpack(self.read(addr, 8))[0]
        return value

    def read_i64(self, addr: int) -> int:
        value: int = _I64.unpack(self.read(addr, 8))[0]
        return value

    def write_u32(self, addr: int, value: int) -> None:
        self.write(addr, _U32.pack(value & 0xFFFFFFFF))

    def write_i32(self, addr: int, value: int) -> None:
        self.write(addr, _I32.pack(value))

    def write_u64(self, addr: int, value: int) -> None:
        self.write(addr, _U64.pack(value & 0xFFFFFFFFFFFFFFFF))

    def write_i64(self, addr: int, value: int) -> None:
        self.write(addr, _I64.pack(value))


@trait
class IovIter:
    """A cursor over buffers of user (or kernel) memory; Linux's struct iov_iter (lib/iov_iter.c)."""

    def remaining(self) -> int:
        """Bytes left."""
        raise NotImplementedError

    def copy_to(self, data: bytes) -> int:
        """Fill with `data` (at most what is left) and advance; the bytes copied.

        Raises LinuxError(EFAULT) if a fault came before the first byte.
        """
        raise NotImplementedError

    def copy_from(self, length: int) -> bytes:
        """Drain up to `length` bytes and advance.  Raises LinuxError(EFAULT) if a fault came before the first byte."""
        raise NotImplementedError

    def zero(self, length: int) -> int:
        """Fill with up to `length` zero bytes and advance."""
        raise NotImplementedError

    def read_fd(self, fd: int, offset: int, length: int, flags: int = 0, key: int = 0) -> int:
        """Fill from a host descriptor (pread at `offset`, or read if it is -1) and advance; bytes or -errno.

        `key`: see HostThread.read_fd_into.
        """
        raise NotImplementedError

    def write_fd(self, fd: int, offset: int, length: int, flags: int = 0) -> int:
        """Drain to a host descriptor and advance; bytes or -errno.

        With SLOW_STORAGE in the flags, and if `bears_others`, other tasks may run meanwhile.
        """
        raise NotImplementedError

    def write_stream(self, fd: int, length: int, flags: int = 0) -> int:
        """`write_fd` to a pipe, socket or terminal of the host by one call, also of several pieces: they stay together
        where others write, too, and in one packet.
        """
        return self.write_fd(fd, -1, length, flags)

    def bring(self, limit: int) -> None:
        """Before a transfer of `limit` bytes: have mapped pages of slow files in memory (UserMemory.bring)."""

    def caller(self) -> int:
        """The guest thread whose call this is, if `bears_others`; otherwise -1 (platform.slow)."""
        return -1

    def revert(self, count: int) -> None:
        """Step back over the last `count` bytes."""
        raise NotImplementedError

    def narrow(self, limit: int) -> int:
        """Let at most `limit` bytes be left; how many are hidden until `widen`."""
        raise NotImplementedError

    def widen(self, hidden: int) -> None:
        """Undo `narrow`."""
        raise NotImplementedError


class UserIovIter(IovIter):
    """Over guest memory: `length` bytes at `addr`, already validated.  `user_iov`: over several pieces."""

    def __init__(self, mem: UserMemory, addr: int, length: int) -> None:
        self._mem: UserMemory = mem
        self._addr: int = addr  # of the current segment
        self._size: int = length
        self._offset: int = 0  # in the current segment
        self._left: int = length
        self.bears_others: bool = False  # its user allows that other tasks run in the middle of a transfer
        self._segments: list[tuple[int, int]] | None = None  # (address, length), if there are several
        self._index: int = 0

    def set_segments(self, segments: list[tuple[int, int]]) -> None:
        """Give a new cursor its pieces of memory, whose lengths are validated already."""
        self._segments = segments
        for segment in segments:
            self._left += segment[1]

    def remaining(self) -> int:
        return self._left

    def _window(self, limit: int) -> tuple[int, int]:
        """Address and length of the next contiguous piece, at most `limit` bytes; length 0 at the end."""
        room = self._size - self._offset
        segments = self._segments
        while room <= 0:
            if segments is None or self._index == len(segments):
                return 0, 0
            self._addr, self._size = segments[self._index]
            self._index += 1
            self._offset = 0
            room = self._size
        return self._addr + self._offset, min(room, limit)

    def _advance(self, count: int) -> None:
        self._offset += count
        self._left -= count

    def copy_to(self, data: bytes) -> int:
        done = 0
        size = len(data)
        while done < size:
            addr, length = self._window(size - done)
            if length == 0:
                break
            piece = data if length == size else data[done : done + length]
            wrote = self._mem.write_some(addr, piece)
            self._advance(wrote)
            done += wrote
            if wrote != length:
                if done == 0:
                    raise LinuxError(EFAULT)
                break
        return done

    def copy_from(self, length: int) -> bytes:
        want = min(length, self._left)
        parts: list[bytes] | None = None
        done = 0
        while done < want:
            addr, size = self._window(want - done)
            if size == 0:
                break
            data = self._mem.read_some(addr, size)
            got = len(data)
            self._advance(got)
            done += got
            if got == want:
                return data
            if parts is None:
                parts = []
            parts.append(data)
            if got != size:
                if done == 0:
                    raise LinuxError(EFAULT)
                break
        return b"".join(parts) if parts is not None else b""

    def zero(self, length: int) -> int:
        done = 0
        want = min(length, self._left)
        while done < want:
            step = min(want - done, 65536)
            wrote = self.copy_to(bytes(step))
            done += wrote
            if wrote != step:
                break
        return done

    def read_fd(self, fd: int, offset: int, length: int, flags: int = 0, key: int = 0) -> int:
        done = 0
        want = min(length, self._left)
        while done < want:
            addr, size = self._window(want - done)
            if size == 0:
                break
            at = offset + done if offset >= 0 else -1
            room = self._mem.room(addr, size)
            if room == 0:
                return done if done else -EFAULT
            if self._mem.is_new(addr):
                got = self._read_fd_later(fd, at, addr, room, flags)
            else:
                got = self._mem.thread.read_fd_into(fd, at, addr, room, flags, key)
            if got < 0:
                return got if done == 0 else done
            self._advance(got)
            done += got
            if got < size:
                break
        return done

    def _read_fd_later(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        """Read for memory that is not there yet: the copy is made when the thread goes on."""
        sink = KernelIovIter(capacity=min(length, _MAX_LATER))
        got = sink.read_fd(fd, offset, length, flags)
        return self._mem.thread.write(addr, bytes(sink.sink)) if got > 0 else got

    def caller(self) -> int:
        return self._mem.thread.ident() if self.bears_others else -1

    def bring(self, limit: int) -> None:
        addr, length = self._window(limit)
        segments = self._segments if self._segments is not None else []
        index = self._index
        while length > 0 and limit > 0:
            self._mem.bring(addr, length)
            limit -= length
            addr, length = segments[index] if index < len(segments) else (0, 0)
            length = min(length, limit)
            index += 1

    def write_fd(self, fd: int, offset: int, length: int, flags: int = 0) -> int:
        done = 0
        want = min(length, self._left)
        if flags & SLOW_STORAGE and not self.bears_others:
            flags &= ~SLOW_STORAGE
        while done < want:
            addr, size = self._window(want - done)
            if size == 0:
                break
            at = offset + done if offset >= 0 else -1
            put = self._mem.thread.write_fd_from(fd, at, addr, size, flags)
            if put < size and self._mem.space is not None and self._mem.space.growing:
                put = self._write_grown(fd, at, addr, size, flags, put)
            if put < 0:
                return put if done == 0 else done
            self._advance(put)
            done += put
            if put < size:
                break
        return done

    def write_stream(self, fd: int, length: int, flags: int = 0) -> int:
        want = min(length, self._left)
        if self._segments is None or self._window(want)[1] >= want:
            return self.write_fd(fd, -1, want, flags)
        try:
            data = self.copy_from(min(want, _MAX_GATHERED))
        except LinuxError as error:
            return -error.errno
        put = KernelIovIter(data).write_fd(fd, -1, len(data), flags)
        self.revert(len(data) - max(put, 0))
        return put

    def _write_grown(self, fd: int, offset: int, addr: int, length: int, flags: int, put: int) -> int:
        """`put` bytes, or -errno, came of the memory that there is; an area that grows downwards may give more."""
        done = max(put, 0)
        if put < 0 and put != -EFAULT or self._mem.thread.read(addr + done, 1):
            return put
        data = self._mem.read_some(addr + done, min(length - done, _MAX_LATER))
        more = (
            KernelIovIter(data).write_fd(fd, offset + done if offset >= 0 else -1, len(data), flags)
            if data
            else put
        )
        return done + more if more > 0 else put

    def revert(self, count: int) -> None:
        self._left += count
        segments = self._segments
        while count > self._offset and segments is not None:
            count -= self._offset
            self._index -= 1
            self._addr, self._size = segments[self._index - 1]
            self._offset = self._size
        self._offset -= count

    def narrow(self, limit: int) -> int:
        hidden = max(self._left - limit, 0)
        self._left -= hidden
        return hidden

    def widen(self, hidden: int) -> None:
        self._left += hidden


def user_iov(mem: UserMemory, segments: list[tuple[int, int]]) -> UserIovIter:
    """Over several pieces of guest memory, (address, length), lengths already validated."""
    if len(segments) == 1:
        return UserIovIter(mem, segments[0][0], segments[0][1])
    iov = UserIovIter(mem, 0, 0)
    iov.set_segments(segments)
    return iov


class KernelIovIter(IovIter):
    """Over kernel memory: drains `source`, or fills `sink` up to `capacity` bytes."""

    def __init__(self, source: bytes = b"", capacity: int = 0) -> None:
        self._source: bytes = source
        self._pos: int = 0
        self.sink: bytearray = bytearray()
        # The guest thread whose call drains it, if other tasks may run meanwhile
        self.thread: int = -1
        self._left: int = len(source) if source else capacity

    def caller(self) -> int:
        return self.thread

    def remaining(self) -> int:
        return self._left

    def copy_to(self, data: bytes) -> int:
        count = min(len(data), self._left)
        self.sink += data if count == len(data) else data[:count]
        self._left -= count
        return count

    def copy_from(self, length: int) -> bytes:
        count = min(length, self._left)
        data = self._source[self._pos : self._pos + count]
        self._pos += count
        self._left -= count
        return data

    def zero(self, length: int) -> int:
        return self.copy_to(bytes(min(length, self._left)))

    def read_fd(self, fd: int, offset: int, length: int, flags: int = 0, key: int = 0) -> int:
        data = bytearray(min(length, self._left))
        try:
            got = os.preadv(fd, [data], offset, flags)  # offset -1: preadv2(2) reads at the file position
        except OSError as error:
            return -(error.errno or EINVAL)
        del data[got:]
        return self.copy_to(bytes(data))

    def write_fd(self, fd: int, offset: int, length: int, flags: int = 0) -> int:
        data = self._source[self._pos : self._pos + min(length, self._left)]
        if flags & SLOW_STORAGE and self.thread >= 0:
            put = slow.write(self.thread, fd, data, offset, flags & ~SLOW_STORAGE)
            if put > 0:
                self._pos += put
                self._left -= put
            return put
        try:
            put = os.pwritev(fd, [data], offset, flags & ~SLOW_STORAGE)
        except OSError as error:
            return -(error.errno or EINVAL)
        self._pos += put
        self._left -= put
        return put

    def revert(self, count: int) -> None:
        self._left += count
        if self._source:
            self._pos -= count
        else:
            del self.sink[len(self.sink) - count :]

    def narrow(self, limit: int) -> int:
        hidden = max(self._left - limit, 0)
        self._left -= hidden
        return hidden

    def widen(self, hidden: int) -> None:
        self._left += hidden


def import_iovec(mem: UserMemory, addr: int, count: int) -> list[tuple[int, int]]:
    """Read an iovec array (readv(2)): EINVAL for a bad count or a length over SSIZE_MAX, EFAULT for a bad address.

    The total is cut to MAX_RW_COUNT, as lib/iov_iter.c does.
    """
    if count < 0 or count > 1024:
        raise LinuxError(EINVAL)
    raw = mem.read(addr, 16 * count)
    segments: list[tuple[int, int]] = []
    total = 0
    for index in range(count):
        base: int = _U64.unpack_from(raw, index * 16)[0]
        length: int = _I64.unpack_from(raw, index * 16 + 8)[0]
        if length < 0:
            raise LinuxError(EINVAL)
        if length > MAX_RW_COUNT - total:
            length = MAX_RW_COUNT - total
        total += length
        segments.append((base, length))
    return segments
