"""The sentry's side of the gofer protocol: one synchronous method per operation.

Owns the connection.  A failed operation raises LinuxError with the gofer's errno; a broken connection or a
reply that does not parse raises LinuxError(EIO), for this and every later call, because the stream is out of
step.  Methods that programs make fail often (`stat`) return the errno as a value instead.
"""

import os
import socket
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EIO, ENFILE, LinuxError
from cloche.wire.frame import FLAG_MORE, Frame, FrameChannel, ProtocolError
from cloche.wire.gofer import (
    KEEP_ID,
    MAX_REPLY_BYTES,
    OP_ATTACH,
    OP_CLUNK,
    OP_CREATE,
    OP_FORGET,
    OP_FSYNC,
    OP_GETXATTR,
    OP_LINK,
    OP_LIST,
    OP_LISTXATTR,
    OP_MKDIR,
    OP_MKNOD,
    OP_OPEN,
    OP_OPEN_MANY,
    OP_OPENDIR,
    OP_REMOVEXATTR,
    OP_RENAME,
    OP_RMDIR,
    OP_SETATTR,
    OP_SETXATTR,
    OP_STAT,
    OP_STATFS,
    OP_SYMLINK,
    OP_SYNCFS,
    OP_TEXT,
    OP_TMPFILE,
    OP_UNLINK,
    OP_WALK,
    STATFS,
    Attr,
    Entry,
    Reader,
    entry_at,
    index_entries,
    pack_string,
    pack_target,
    pack_u32,
    pack_u64,
    unpack_attr,
)

_PATIENCE_MS: Final = 4
_PATIENCE_ALONE_MS: Final = 2000


class Listing:
    """A directory: its fid, attributes and, if the gofer may read it, all entries (packed: few are used)."""

    def __init__(
        self, fid: int, attr: Attr, blob: bytes, index: dict[bytes, int], *, is_listed: bool
    ) -> None:
        self.fid: int = fid
        self.attr: Attr = attr
        self.blob: bytes = blob
        self.index: dict[bytes, int] = index  # name -> offset in blob, for entry_at
        self.is_listed: bool = is_listed  # False: searchable but not readable; look names up with `stat`

    def entries(self) -> list[Entry]:
        """All entries, unpacked."""
        return [entry_at(self.blob, offset) for offset in self.index.values()]


class Attached:
    """The root of an attach point."""

    def __init__(self, fid: int, attr: Attr, *, is_writable: bool) -> None:
        self.fid: int = fid
        self.attr: Attr = attr
        self.is_writable: bool = is_writable


class GoferClient:
    """A connection to a gofer."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel: FrameChannel = FrameChannel(sock, MAX_REPLY_BYTES, may_receive_fds=True)
        self._is_broken: bool = False
        self.fd_limit: int = 1 << 30  # of descriptors that guests may make this process hold
        self.calls: int = 0  # for metrics and tests
        self.is_alone: Callable[[], bool] | None = None  # whether nobody else waits while we do

    def fileno(self) -> int:
        """The socket's descriptor (readable while idle only when the gofer is gone)."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the connection, which ends the gofer."""
        self._is_broken = True
        self._channel.close()

    # -- transport -------------------------------------------------------------------------------------
    def _receive(self) -> Frame:
        try:
            frame = self._channel.receive()
        except (OSError, ProtocolError):
            frame = None
        if frame is None or frame.code > 0:
            self._is_broken = True
            raise LinuxError(EIO)
        return frame

    def _exchange(self, op: int, body: bytes) -> Frame:
        """Send a request; the first frame of the reply, whatever its status."""
        if self._is_broken:
            raise LinuxError(EIO)
        self.calls += 1
        try:
            self._channel.send(op, 0, body)
        except OSError:
            self._is_broken = True
            raise LinuxError(EIO)
        return self._receive()

    def _call(self, op: int, body: bytes) -> bytes:
        """A request whose reply is one frame without a descriptor."""
        frame = self._exchange(op, body)
        for fd in frame.fds:
            os.close(fd)
        if frame.code < 0:
            raise LinuxError(-frame.code)
        return frame.body

    def _call_for_fd(self, op: int, body: bytes) -> tuple[int, Attr, int]:
        frame = self._exchange(op, body)
        fds = frame.fds
        if frame.code < 0 or len(fds) != 1 or fds[0] >= self.fd_limit:
            for fd in fds:
                os.close(fd)
            # The kernel drops descriptors that exceed RLIMIT_NOFILE.
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fds[0], attr, reader.u64()
        except ProtocolError:
            os.close(fds[0])
            raise self._broken()

    def _broken(self) -> LinuxError:
        self._is_broken = True
        return LinuxError(EIO)

    def _attr(self, body: bytes) -> Attr:
        try:
            return unpack_attr(body)
        except ProtocolError:
            raise self._broken()

    # -- walking ---------------------------------------------------------------------------------------
    def attach(self, index: int) -> Attached:
        """The root of attach point number `index`."""
        reader = Reader(self._call(OP_ATTACH, pack_u32(index)))
        try:
            fid = reader.u64()
            is_writable = reader.u8() != 0
            return Attached(fid, reader.attr(), is_writable=is_writable)
        except ProtocolError:
            raise self._broken()

    def walk(self, fid: int, name: bytes) -> tuple[int, Attr]:
        """The fid and attributes of a child directory, without its entries."""
        reader = Reader(self._call(OP_WALK, pack_target(fid, name)))
        try:
            return reader.u64(), reader.attr()
        except ProtocolError:
            raise self._broken()

    def opendir(self, fid: int, name: bytes) -> Listing:
        """A child directory with all its entries, in one round trip."""
        return self._listing(OP_OPENDIR, pack_target(fid, name))

    def relist(self, fid: int) -> Listing:
        """The entries of a directory as they are now."""
        return self._listing(OP_LIST, pack_u64(fid))

    def _listing(self, op: int, body: bytes) -> Listing:
        frame = self._exchange(op, body)
        if frame.code < 0:
            raise LinuxError(-frame.code)
        try:
            reader = Reader(frame.body)
            fid = reader.u64()
            is_listed = reader.u8() != 0
            attr = reader.attr()
            parts = [reader.rest()]
            while frame.flags & FLAG_MORE:
                frame = self._receive()
                if frame.code < 0:  # the directory could not be read to its end
                    raise LinuxError(-frame.code)
                parts.append(frame.body)
            blob = b"".join(parts)
            return Listing(fid, attr, blob, index_entries(blob), is_listed=is_listed)
        except ProtocolError:
            raise self._broken()

    def stat(self, fid: int, name: bytes) -> Entry | int:
        """Attributes (and symlink target) of a name as they are now; a negative errno if there is none."""
        frame = self._exchange(OP_STAT, pack_target(fid, name))
        if frame.code < 0:
            return frame.code
        reader = Reader(frame.body)
        try:
            attr = reader.attr()
            return Entry(name, attr, reader.string())
        except ProtocolError:
            raise self._broken()

    def clunk(self, fids: list[int]) -> None:
        """Forget fids; unknown ones are ignored."""
        for start in range(0, len(fids), 1024):
            self._call(OP_CLUNK, pack_u64(*fids[start : start + 1024]))

    def forget(self, fids: list[int]) -> None:
        """The same without waiting: it is done before whatever is asked for next."""
        for start in range(0, len(fids), 1024):
            if self._is_broken:
                raise LinuxError(EIO)
            try:
                self._channel.send(OP_FORGET, 0, pack_u64(*fids[start : start + 1024]))
            except OSError:
                self._is_broken = True
                raise LinuxError(EIO)

    # -- files -----------------------------------------------------------------------------------------
    def open(self, fid: int, name: bytes, flags: int, dev: int = 0, ino: int = 0) -> tuple[int, Attr]:
        """A descriptor of a regular file, owned by the caller, and its attributes.

        `flags`: the access mode, O_APPEND and O_TRUNC.  With `ino` not 0 it must still be that inode
        (ESTALE).
        """
        fd, attr, _pin = self._open(fid, name, flags, dev, ino, 0)
        return fd, attr

    def open_pinned(self, fid: int, name: bytes, flags: int, dev: int, ino: int) -> tuple[int, Attr, int]:
        """The same, and a fid for the file itself, 0 if there is none (the attach point is read-only, or too many)."""
        return self._open(fid, name, flags, dev, ino, 1)

    def _open(self, fid: int, name: bytes, flags: int, dev: int, ino: int, pin: int) -> tuple[int, Attr, int]:
        body = pack_target(fid, name) + pack_u32(flags) + pack_u64(dev, ino) + pack_u32(pin)
        return self._call_for_fd(OP_OPEN, body)

    def open_many(
        self, fid: int, names: list[tuple[bytes, int, int]]
    ) -> tuple[int, Attr, list[tuple[int, int, Attr]]]:
        """Several regular files of a directory, to read: (name, device, inode number) each, at most 1 + MAX_AHEAD.

        A descriptor and the attributes of the first, as `open` gives them; of those others that could be opened
        (index, descriptor, attributes).  All descriptors are the caller's.
        """
        name, dev, ino = names[0]
        parts = [pack_target(fid, name), pack_u64(dev, ino), pack_u32(len(names) - 1)]
        for name, dev, ino in names[1:]:
            parts += [pack_string(name), pack_u64(dev, ino)]
        frame = self._exchange(OP_OPEN_MANY, b"".join(parts))
        fds = frame.fds
        others: list[tuple[int, int, Attr]] = []
        error = -frame.code
        if not error:
            try:
                reader = Reader(frame.body)
                attr = reader.attr()
                count = reader.u32()
                if count >= len(names):
                    raise ProtocolError("more than was asked for")
                if len(fds) != count + 1 or max(fds) >= self.fd_limit:
                    error = ENFILE  # the kernel drops descriptors that exceed RLIMIT_NOFILE
                for number in range(count if not error else 0):
                    index = reader.u32()
                    if not 0 < index < len(names):
                        raise ProtocolError("a file that was not asked for")
                    others.append((index, fds[number + 1], reader.attr()))
                if not error:
                    reader.end()
                    return fds[0], attr, others
            except ProtocolError:
                self._is_broken = True
                error = EIO
        for fd in fds:
            os.close(fd)
        raise LinuxError(error)

    def text(self, fid: int, name: bytes, dev: int, ino: int) -> tuple[int, bool, Attr]:
        """The patched text (wire/textfile.py) of a regular file: a descriptor, -1 if it needs none; and its attributes.

        And whether it may be used again for as long as size and times stay the same, or this once only.
        Raises LinuxError; EAGAIN if the answer is not known yet, after at most a few milliseconds when others wait too.
        """
        alone = self.is_alone
        patience_ms = _PATIENCE_ALONE_MS if alone is not None and alone() else _PATIENCE_MS
        frame = self._exchange(OP_TEXT, pack_target(fid, name) + pack_u64(dev, ino) + pack_u32(patience_ms))
        fds = frame.fds
        if frame.code < 0 or len(fds) > 1 or max(fds, default=-1) >= self.fd_limit:
            for fd in fds:
                os.close(fd)
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fds[0] if fds else -1, reader.u8() != 0, attr
        except ProtocolError:
            for fd in fds:
                os.close(fd)
            raise self._broken()

    def create(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID
    ) -> tuple[int, Attr]:
        """A new regular file (EEXIST if the name is taken), opened."""
        body = pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 0)
        fd, attr, _pin = self._call_for_fd(OP_CREATE, body)
        return fd, attr

    def create_pinned(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int, gid: int
    ) -> tuple[int, Attr, int]:
        """The same, and a fid for the file itself as `open_pinned` gives it."""
        return self._call_for_fd(OP_CREATE, pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 1))

    def tmpfile(self, fid: int, mode: int, uid: int, gid: int) -> tuple[int, Attr, int]:
        """A new regular file without a name, opened, and its fid."""
        return self._call_for_fd(OP_TMPFILE, pack_u64(fid) + pack_u32(mode, uid, gid))

    def fsync(self, fid: int, name: bytes) -> None:
        """Synchronise a directory (or a file) to its device."""
        self._call(OP_FSYNC, pack_target(fid, name))

    def syncfs(self, fid: int) -> None:
        """Synchronise the host's file system that holds a directory."""
        self._call(OP_SYNCFS, pack_u64(fid))

    # -- changes of the tree ---------------------------------------------------------------------------
    def mkdir(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        return self._attr(self._call(OP_MKDIR, pack_target(fid, name) + pack_u32(mode, uid, gid)))

    def mknod(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        """A FIFO or a socket, as `mode` says."""
        return self._attr(self._call(OP_MKNOD, pack_target(fid, name) + pack_u32(mode, uid, gid)))

    def symlink(self, fid: int, name: bytes, target: bytes, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        body = pack_target(fid, name) + pack_string(target) + pack_u32(uid, gid)
        return self._attr(self._call(OP_SYMLINK, body))

    def link(self, fid: int, name: bytes, new_fid: int, new_name: bytes) -> Attr:
        return self._attr(self._call(OP_LINK, pack_target(fid, name) + pack_target(new_fid, new_name)))

    def unlink(self, fid: int, name: bytes) -> None:
        self._call(OP_UNLINK, pack_target(fid, name))

    def rmdir(self, fid: int, name: bytes) -> None:
        self._call(OP_RMDIR, pack_target(fid, name))

    def rename(
        self,
        fid: int,
        name: bytes,
        new_fid: int,
        new_name: bytes,
        flags: int = 0,
        moved_fid: int = 0,
        exchanged_fid: int = 0,
    ) -> None:
        """renameat2(2).  Fids of directories that move with it stay valid if they are told (0: not a
        directory)."""
        body = pack_target(fid, name) + pack_target(new_fid, new_name) + pack_u32(flags)
        self._call(OP_RENAME, body + pack_u64(moved_fid, exchanged_fid))

    # -- attributes ------------------------------------------------------------------------------------
    def setattr(
        self,
        fid: int,
        name: bytes,
        valid: int,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        atime_ns: int = 0,
        mtime_ns: int = 0,
        dev: int = 0,
        ino: int = 0,
    ) -> Attr:
        """Apply the SET_* changes in `valid`; the attributes afterwards.  With `ino` it must be that inode (ESTALE)."""
        body = pack_target(fid, name) + pack_u32(valid, mode, uid, gid) + pack_u64(size, atime_ns, mtime_ns)
        body += pack_u64(dev, ino)
        return self._attr(self._call(OP_SETATTR, body))

    def getxattr(self, fid: int, name: bytes, xattr: bytes) -> bytes:
        return self._call(OP_GETXATTR, pack_target(fid, name) + pack_string(xattr))

    def listxattr(self, fid: int, name: bytes) -> list[bytes]:
        data = self._call(OP_LISTXATTR, pack_target(fid, name))
        return [part for part in data.split(b"\0") if part]

    def setxattr(self, fid: int, name: bytes, xattr: bytes, value: bytes, flags: int) -> None:
        body = pack_target(fid, name) + pack_string(xattr) + pack_u32(len(value)) + value + pack_u32(flags)
        self._call(OP_SETXATTR, body)

    def removexattr(self, fid: int, name: bytes, xattr: bytes) -> None:
        self._call(OP_REMOVEXATTR, pack_target(fid, name) + pack_string(xattr))

    def statfs(self, fid: int) -> tuple[int, int, int, int, int, int, int, int]:
        """magic, block_size, blocks, free, avail, files, files_free, name_max."""
        body = self._call(OP_STATFS, pack_u64(fid))
        if len(body) != STATFS.size:
            raise self._broken()
        magic, block_size, blocks, free, avail, files, files_free, name_max = STATFS.unpack(body)
        return magic, block_size, blocks, free, avail, files, files_free, name_max
