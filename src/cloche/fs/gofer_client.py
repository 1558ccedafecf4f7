"""Requests to the gofer: one method per operation of `wire.gofer`. What they have in common is in `fs.gofer_link`.

A failed operation raises LinuxError with the gofer's errno.  Methods that programs make fail often (`stat`) return the
errno as a value instead.
"""

import os
import socket
from typing import Final

from cloche.abi.errno import EIO, ENFILE, LinuxError
from cloche.abi.stat import S_IFMT, S_IFREG
from cloche.fs.gofer_link import GoferLink, GoferRequest
from cloche.fs.text import TextAhead
from cloche.kernel.host_wait import HostWait
from cloche.wire.frame import ProtocolError
from cloche.wire.gofer import (
    ATTACH_DOORS,
    ATTACH_SOCKETS,
    ATTACH_WRITABLE,
    KEEP_ID,
    MAX_AHEAD_DIRS,
    MAX_WRITE_BYTES,
    MAX_WRITES,
    OP_ALLOCATE,
    OP_ATTACH,
    OP_BIND,
    OP_CLUNK,
    OP_CONNECT,
    OP_CREATE,
    OP_DIAL,
    OP_FSYNC,
    OP_GETXATTR,
    OP_LINK,
    OP_LIST,
    OP_LISTEN,
    OP_LISTXATTR,
    OP_LOOKUP,
    OP_MKDIR,
    OP_MKNOD,
    OP_OPEN,
    OP_OPEN_MANY,
    OP_OPENDIR,
    OP_OPENDIR_MANY,
    OP_READ,
    OP_REMOVEXATTR,
    OP_RENAME,
    OP_RMDIR,
    OP_SEEK,
    OP_SETATTR,
    OP_SETXATTR,
    OP_STAT,
    OP_STATFS,
    OP_SYMLINK,
    OP_SYNCFS,
    OP_TEXT,
    OP_TMPFILE,
    OP_UNBIND,
    OP_UNLINK,
    OP_UNWATCH,
    OP_WALK,
    OP_WATCH,
    OP_WRITE,
    STATFS,
    TEXT_COMES,
    TEXT_NONE,
    Attr,
    Entry,
    Reader,
    entry_at,
    index_entries,
    pack_string,
    pack_target,
    pack_u32,
    pack_u64,
)

_PATIENCE_MS: Final = 4
_PATIENCE_ALONE_MS: Final = 2000


class Listing:
    """A directory: its fid, attributes and, if the gofer may read it, all entries (packed: few are used)."""

    def __init__(self, fid: int, attr: Attr, blob: bytes, *, is_listed: bool) -> None:
        """Raises ProtocolError."""
        self.fid: int = fid
        self.attr: Attr = attr
        self.blob: bytes = blob
        self.subdirs: list[bytes] = []  # the names of directories
        # name -> offset in blob, for entry_at
        self.index: dict[bytes, int] = index_entries(blob, self.subdirs)
        self.is_listed: bool = is_listed  # False: searchable but not readable; look names up with `stat`

    def entries(self) -> list[Entry]:
        """All entries, unpacked."""
        return [entry_at(self.blob, offset) for offset in self.index.values()]


class AheadListing:
    """A directory that was listed ahead, and where it is."""

    def __init__(self, parent_fid: int, name: bytes, listing: Listing) -> None:
        self.parent_fid: int = parent_fid
        self.name: bytes = name
        self.listing: Listing = listing


class Found:
    """A name that was looked up."""

    def __init__(self, entry: Entry, fid: int, fd: int) -> None:
        self.entry: Entry = entry
        self.fid: int = fid  # of a directory; 0: none
        self.fd: int = fd  # of a regular file, to read, the caller's; -1: none
        self.text: TextAhead | None = None  # what is known of its text


class Opened:
    """A regular file that was opened."""

    def __init__(self, fd: int, attr: Attr, pin: int, text: TextAhead | None) -> None:
        self.fd: int = fd  # the caller's
        self.attr: Attr = attr
        self.pin: int = pin  # a fid for the file itself; 0: none
        self.text: TextAhead | None = text  # what is known of its text


class Attached:
    """The root of an attach point."""

    def __init__(self, fid: int, attr: Attr, flags: int) -> None:
        self.fid: int = fid
        self.attr: Attr = attr
        self.is_writable: bool = flags & ATTACH_WRITABLE != 0
        self.has_doors: bool = flags & ATTACH_DOORS != 0
        self.shows_sockets: bool = flags & ATTACH_SOCKETS != 0


class GoferClient(GoferLink):
    """A connection to a worker of the gofer."""

    def worker(self, index: int, *, always_waits: bool = False) -> "GoferClient":
        """A client of the worker that serves attach point number `index`: this one, if it has none of its own.

        `always_waits`: each answer is waited for on the spot, except after `patiently`.
        """
        frame = self._exchange(OP_CONNECT, pack_u32(index), 0, 0)
        if frame.code < 0 or len(frame.fds) > 1:
            for fd in frame.fds:
                os.close(fd)
            raise LinuxError(-frame.code) if frame.code < 0 else self._broken()
        if not frame.fds:
            return self
        client = GoferClient(socket.socket(fileno=frame.fds[0]), self._kernel, always_waits=always_waits)
        client.is_alone = self.is_alone
        client.is_part = self.is_part
        client.bears_others = self.bears_others
        client.fd_limit = self.fd_limit
        self._workers.append(client)
        return client

    # -- walking ---------------------------------------------------------------------------------------
    def attach(self, index: int) -> Attached:
        """The root of attach point number `index`."""
        reader = Reader(self._call(OP_ATTACH, pack_u32(index)))
        try:
            fid = reader.u64()
            flags = reader.u8()
            return Attached(fid, reader.attr(), flags)
        except ProtocolError:
            raise self._broken()

    def walk(self, fid: int, name: bytes) -> tuple[int, Attr]:
        """The fid and attributes of a child directory, without its entries."""
        reader = Reader(self._call(OP_WALK, pack_target(fid, name), fid))
        try:
            return reader.u64(), reader.attr()
        except ProtocolError:
            raise self._broken()

    def opendir(self, fid: int, name: bytes) -> Listing:
        """A child directory with all its entries, in one round trip."""
        return self._listing(OP_OPENDIR, pack_target(fid, name), fid)

    def begin_listings(self, fid: int, names: list[bytes], limit: int) -> GoferRequest:
        """Have child directories, and those below them, listed ahead: the question. Raises LinuxError(EIO)."""
        parts = [pack_u64(fid), pack_u32(limit, len(names))]
        for name in names:
            parts.append(pack_string(name))
        return self.begin(OP_OPENDIR_MANY, b"".join(parts))

    def listings(self, request: GoferRequest) -> list[AheadListing]:
        """The answer to such a question. Raises LinuxError."""
        if request.code < 0:
            raise LinuxError(-request.code)
        try:
            reader = Reader(b"".join(request.parts))
            out: list[AheadListing] = []
            count = reader.u32()
            if count > MAX_AHEAD_DIRS:
                raise ProtocolError("more than was asked for")
            for _each in range(count):
                parent_fid, name = reader.u64(), reader.string()
                fid, is_listed, attr = reader.u64(), reader.u8() != 0, reader.attr()
                out.append(
                    AheadListing(parent_fid, name, Listing(fid, attr, reader.blob(), is_listed=is_listed))
                )
            reader.end()
            return out
        except ProtocolError:
            raise self._broken()

    @staticmethod
    def _one_listing(reader: Reader) -> Listing:
        fid = reader.u64()
        is_listed = reader.u8() != 0
        attr = reader.attr()
        return Listing(fid, attr, reader.rest(), is_listed=is_listed)

    def relist(self, fid: int) -> Listing:
        """The entries of a directory as they are now."""
        return self._listing(OP_LIST, pack_u64(fid), fid)

    def _listing(self, op: int, body: bytes, fid: int) -> Listing:
        frame = self._exchange(op, body, fid, 0)
        if frame.code < 0:  # the directory may not have been readable to its end
            raise LinuxError(-frame.code)
        try:
            return self._one_listing(Reader(frame.body))
        except ProtocolError:
            raise self._broken()

    def stat(self, fid: int, name: bytes) -> Entry | int:
        """Attributes (and symlink target) of a name as they are now; a negative errno if there is none."""
        frame = self._exchange(OP_STAT, pack_target(fid, name), fid, 0)
        if frame.code < 0:
            return frame.code
        reader = Reader(frame.body)
        try:
            attr = reader.attr()
            return Entry(name, attr, reader.string())
        except ProtocolError:
            raise self._broken()

    def look_up(self, fid: int, name: bytes, *, opens: bool) -> Found | int:
        """`stat`, with the fid of a directory and, if wanted (`opens`), a descriptor of a regular file."""
        body = pack_target(fid, name) + (b"\1" if opens else b"\0")
        frame = self._exchange(OP_LOOKUP, body, fid, 0)
        fds = frame.fds
        try:
            if frame.code < 0:
                return frame.code
            reader = Reader(frame.body)
            attr = reader.attr()
            found = Found(Entry(name, attr, reader.string()), reader.u64(), -1)
            text = self._text_ahead(reader.u8(), fds, attr)
            if opens and len(fds) == 1 and fds[0] < self.fd_limit and attr.mode & S_IFMT == S_IFREG:
                found.fd, found.text = fds.pop(), text
            return found
        except ProtocolError:
            raise self._broken()
        finally:
            for fd in fds:
                self.close_fd(fd)

    def clunk(self, fids: list[int]) -> None:
        """Forget fids; unknown ones are ignored."""
        for start in range(0, len(fids), 1024):
            self._call(OP_CLUNK, pack_u64(*fids[start : start + 1024]))

    # -- files -----------------------------------------------------------------------------------------
    def open(self, fid: int, name: bytes, flags: int, dev: int = 0, ino: int = 0) -> tuple[int, Attr]:
        """A descriptor of a regular file, owned by the caller, and its attributes.

        `flags`: the access mode, O_APPEND and O_TRUNC.  With `ino` not 0 it must still be that inode
        (ESTALE).
        """
        opened = self.open_file(fid, name, flags, dev, ino, wants_pin=False)
        return opened.fd, opened.attr

    def open_file(self, fid: int, name: bytes, flags: int, dev: int, ino: int, *, wants_pin: bool) -> Opened:
        """The same, and if wanted a fid for the file itself: not on a read-only attach point, nor when too many are."""
        body = pack_target(fid, name) + pack_u32(flags) + pack_u64(dev, ino) + pack_u32(int(wants_pin))
        frame = self._exchange(OP_OPEN, body, fid, 0)
        if frame.code < 0:
            self._close_all(frame.fds)
            raise LinuxError(-frame.code)
        try:
            reader = Reader(frame.body)
            attr, pin = reader.attr(), reader.u64()
            text = self._text_ahead(reader.u8(), frame.fds, attr)
        except ProtocolError:
            self._close_all(frame.fds)
            raise self._broken()
        return Opened(self._only_fd(frame), attr, pin, text)

    def _close_all(self, fds: list[int]) -> None:
        for fd in fds:
            self.close_fd(fd)

    def _text_ahead(self, told: int, fds: list[int], attr: Attr) -> TextAhead | None:
        """What an answer tells of a file's text, whose descriptor is taken out of `fds`; None: nothing."""
        if told == TEXT_NONE:
            return TextAhead(-1, attr)
        if told != TEXT_COMES or len(fds) != 2:
            return None
        text = TextAhead(fds.pop(), attr)
        return text if text.fd() < self.fd_limit else None

    def open_many(
        self, fid: int, names: list[tuple[bytes, int, int]]
    ) -> tuple[int, Attr, list[tuple[int, int, Attr]]]:
        """Several regular files of a directory, to read: (name, device, inode number) each, at most 1 + MAX_AHEAD.

        A descriptor and the attributes of the first, as `open` gives them; of those others that could be opened
        (index, descriptor, attributes).  The caller owns all descriptors.
        """
        name, dev, ino = names[0]
        parts = [pack_target(fid, name), pack_u64(dev, ino), pack_u32(len(names) - 1)]
        for name, dev, ino in names[1:]:
            parts += [pack_string(name), pack_u64(dev, ino)]
        frame = self._exchange(OP_OPEN_MANY, b"".join(parts), fid, 0)
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
                self._fail()
                error = EIO
        for fd in fds:
            self.close_fd(fd)
        raise LinuxError(error)

    def text(self, fid: int, name: bytes, dev: int, ino: int) -> tuple[int, bool, Attr]:
        """The patched text (wire/textfile.py) of a regular file: a descriptor, -1 if it needs none; and its attributes.

        And whether it stays valid as long as size and times stay the same; otherwise it is for this one use. Raises
        LinuxError; EAGAIN if the answer is not known yet, after at most a few milliseconds if other tasks wait.
        """
        alone = self.is_alone
        patience_ms = _PATIENCE_ALONE_MS if alone is not None and alone() else _PATIENCE_MS
        frame = self._exchange(
            OP_TEXT, pack_target(fid, name) + pack_u64(dev, ino) + pack_u32(patience_ms), fid, 0
        )
        fds = frame.fds
        if frame.code < 0 or len(fds) > 1 or max(fds, default=-1) >= self.fd_limit:
            for fd in fds:
                self.close_fd(fd)
            raise LinuxError(-frame.code if frame.code < 0 else ENFILE)
        try:
            reader = Reader(frame.body)
            attr = reader.attr()
            return fds[0] if fds else -1, reader.u8() != 0, attr
        except ProtocolError:
            for fd in fds:
                self.close_fd(fd)
            raise self._broken()

    def create(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID
    ) -> tuple[int, Attr]:
        """A new regular file (EEXIST if the name is taken), opened."""
        body = pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 0)
        fd, attr, _pin = self._call_for_fd(OP_CREATE, body, fid)
        return fd, attr

    def create_pinned(
        self, fid: int, name: bytes, flags: int, mode: int, uid: int, gid: int
    ) -> tuple[int, Attr, int]:
        """The same, and a fid for the file itself as `open_pinned` gives it."""
        return self._call_for_fd(OP_CREATE, pack_target(fid, name) + pack_u32(flags, mode, uid, gid, 1), fid)

    def tmpfile(self, fid: int, mode: int, uid: int, gid: int) -> tuple[int, Attr, int]:
        """A new regular file without a name, opened, and its fid."""
        return self._call_for_fd(OP_TMPFILE, pack_u64(fid) + pack_u32(mode, uid, gid), fid)

    def fsync(self, fid: int, name: bytes, *, is_data_only: bool = False) -> None:
        """Synchronise a directory or a file to its device."""
        self._call(OP_FSYNC, pack_target(fid, name) + (b"\1" if is_data_only else b"\0"), fid)

    def read(
        self, fid: int, name: bytes, dev: int, ino: int, offset: int, length: int, *, wants_data: bool
    ) -> bytes:
        """Read at most MAX_READ_BYTES of a regular file; without `wants_data` they are only brought into the host's
        memory.
        """
        body = pack_target(fid, name) + pack_u64(dev, ino, offset) + pack_u32(length)
        return self._call(OP_READ, body + (b"\1" if wants_data else b"\0"), fid)

    def seek(self, fid: int, name: bytes, dev: int, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE in a regular file.  Raises LinuxError (ENXIO: there is none after `offset`)."""
        body = pack_target(fid, name) + pack_u64(dev, ino, offset) + pack_u32(whence)
        try:
            return Reader(self._call(OP_SEEK, body)).u64()
        except ProtocolError:
            raise self._broken()

    def write(self, pin: int, offset: int, data: bytes, *, is_at_end: bool) -> tuple[int, Attr]:
        """Write at most MAX_WRITE_BYTES to an open file: the bytes written, and its attributes afterwards.

        Raises LinuxError; EBADF if the gofer has it not open to write. Several writes of one call find their answers
        in the journal in the order in which they were sent.
        """
        waits = self._waits
        body = pack_u64(pin)
        if len(self._writes) >= MAX_WRITES and self._find_in_journal(OP_WRITE, body) is None:
            oldest = next(iter(self._writes.values()))
            if waits.may_wait:
                raise HostWait(oldest, is_turn=True)
            self._await(oldest, is_patient=True)
        head = pack_u64(offset) + (b"\1" if is_at_end else b"\0") + pack_u32(len(data))
        frame = self._exchange(OP_WRITE, body, 0, 0, head + data)
        if frame.code < 0:
            raise LinuxError(-frame.code)
        try:
            reader = Reader(frame.body)
            count = reader.u32()
            if count > MAX_WRITE_BYTES:
                raise ProtocolError("more than can be")
            return min(count, len(data)), reader.attr()
        except ProtocolError:
            raise self._broken()

    def allocate(self, pin: int, mode: int, offset: int, length: int) -> Attr:
        """fallocate(2) of an open file; the attributes afterwards.  Raises LinuxError as `write`."""
        return self._attr(self._call(OP_ALLOCATE, pack_u64(pin) + pack_u32(mode) + pack_u64(offset, length)))

    def syncfs(self, fid: int) -> None:
        """Synchronise the host's file system that holds a directory."""
        self._call(OP_SYNCFS, pack_u64(fid))

    # -- what others change ----------------------------------------------------------------------------
    def watch(self, fid: int) -> tuple[int, int]:
        """Have a directory watched.

        Returns the number of the watch, and a descriptor of the worker's events, which the caller owns. Raises
        LinuxError where that is not possible.
        """
        frame = self._exchange(OP_WATCH, pack_u64(fid), fid, 0)
        fd = self._only_fd(frame)
        try:
            return Reader(frame.body).u32(), fd
        except ProtocolError:
            os.close(fd)
            raise self._broken()

    def unwatch(self, watch: int) -> None:
        """End a watch, without waiting for that. Raises LinuxError(EIO)."""
        self._send(OP_UNWATCH, 0, pack_u32(watch))

    # -- changes of the tree ---------------------------------------------------------------------------
    def mkdir(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        return self._attr(self._call(OP_MKDIR, pack_target(fid, name) + pack_u32(mode, uid, gid), fid))

    def mknod(self, fid: int, name: bytes, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        """A FIFO or a socket, as `mode` says."""
        return self._attr(self._call(OP_MKNOD, pack_target(fid, name) + pack_u32(mode, uid, gid), fid))

    def bind(
        self, fid: int, name: bytes, kind: int, mode: int, uid: int = KEEP_ID, gid: int = KEEP_ID
    ) -> tuple[Attr, int]:
        """A Unix socket of the host's at a new name, and its number; 0: a name without one."""
        body = pack_target(fid, name) + pack_u32(kind, mode, uid, gid)
        reader = Reader(self._call(OP_BIND, body, fid))
        try:
            return reader.attr(), reader.u64()
        except ProtocolError:
            raise self._broken()

    def listen(self, number: int, backlog: int) -> int:
        """Have such a socket listen; its descriptor, the caller's. It has no number any more."""
        return self._only_fd(self._exchange(OP_LISTEN, pack_u64(number) + pack_u32(backlog), 0, 0))

    def unbind(self, number: int) -> None:
        """Close such a socket, without waiting for that. Raises LinuxError(EIO)."""
        self._send(OP_UNBIND, 0, pack_u64(number))

    def dial(
        self, fid: int, name: bytes, dev: int, ino: int, kind: int, uid: int
    ) -> tuple[int, tuple[int, int]]:
        """A descriptor, the caller's, that is connected to a socket of the host's; the server's user and group."""
        body = pack_target(fid, name) + pack_u64(dev, ino) + pack_u32(kind, uid)
        frame = self._exchange(OP_DIAL, body, fid, 0)
        fd = self._only_fd(frame)
        try:
            reader = Reader(frame.body)
            return fd, (reader.u32(), reader.u32())
        except ProtocolError:
            self.close_fd(fd)
            raise self._broken()

    def symlink(self, fid: int, name: bytes, target: bytes, uid: int = KEEP_ID, gid: int = KEEP_ID) -> Attr:
        body = pack_target(fid, name) + pack_string(target) + pack_u32(uid, gid)
        return self._attr(self._call(OP_SYMLINK, body, fid))

    def link(self, fid: int, name: bytes, new_fid: int, new_name: bytes) -> Attr:
        return self._attr(
            self._call(OP_LINK, pack_target(fid, name) + pack_target(new_fid, new_name), fid, new_fid)
        )

    def unlink(self, fid: int, name: bytes) -> None:
        self._call(OP_UNLINK, pack_target(fid, name), fid)

    def unlink_later(self, fid: int, name: bytes) -> None:
        """Unlink without waiting; the result is ignored. Raises LinuxError(EIO)."""
        request = GoferRequest(self, OP_UNLINK, pack_target(fid, name), (0, 0))
        request.is_forgotten = request.was_taken = True
        self.submit_late(request)

    def rmdir(self, fid: int, name: bytes) -> None:
        self._call(OP_RMDIR, pack_target(fid, name), fid)

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
        """renameat2(2).  Fids of directories that are moved stay valid if they are passed (0: not a directory)."""
        body = pack_target(fid, name) + pack_target(new_fid, new_name) + pack_u32(flags)
        self._call(OP_RENAME, body + pack_u64(moved_fid, exchanged_fid), fid, new_fid)

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
        return self._attr(self._call(OP_SETATTR, body, fid))

    def getxattr(self, fid: int, name: bytes, xattr: bytes) -> bytes:
        return self._call(OP_GETXATTR, pack_target(fid, name) + pack_string(xattr), fid)

    def listxattr(self, fid: int, name: bytes) -> list[bytes]:
        data = self._call(OP_LISTXATTR, pack_target(fid, name), fid)
        return [part for part in data.split(b"\0") if part]

    def setxattr(self, fid: int, name: bytes, xattr: bytes, value: bytes, flags: int) -> None:
        body = pack_target(fid, name) + pack_string(xattr) + pack_u32(len(value)) + value + pack_u32(flags)
        self._call(OP_SETXATTR, body, fid)

    def removexattr(self, fid: int, name: bytes, xattr: bytes) -> None:
        self._call(OP_REMOVEXATTR, pack_target(fid, name) + pack_string(xattr), fid)

    def statfs(self, fid: int) -> tuple[int, int, int, int, int, int, int, int]:
        """magic, block_size, blocks, free, avail, files, files_free, name_max."""
        body = self._call(OP_STATFS, pack_u64(fid))
        if len(body) != STATFS.size:
            raise self._broken()
        magic, block_size, blocks, free, avail, files, files_free, name_max = STATFS.unpack(body)
        return magic, block_size, blocks, free, avail, files, files_free, name_max
