"""The gofer's loop: takes a request, decodes it, lets `files` act, answers.

Everything that the sentry sends is validated, because the sentry may be compromised: it must gain nothing beyond the
attach points. An operation that fails is answered with an errno. A frame that does not parse, which no correct sentry
sends, ends the gofer, and with it the sandbox's access to files.
"""

import os
import socket
import sys
import time
from struct import error as StructError
from typing import Final

from cloche.abi.errno import EBUSY, EINVAL, EIO, ENOENT, ENOMEM, ENOSYS, LinuxError
from cloche.gofer.files import Files, ListingCursor, pack_stat
from cloche.gofer.helpers import (
    ALLOCATE,
    APPEND,
    CLOSE,
    FDATASYNC,
    FSYNC,
    READ,
    READ_AHEAD,
    SEEK,
    SYNCFS,
    WRITE,
    Helper,
    Job,
)
from cloche.gofer.nodes import AttachPoint, Node, NodeTable, path_of
from cloche.gofer.sockets import Sockets
from cloche.gofer.texts import Texts
from cloche.gofer.watches import Watches
from cloche.wire.frame import FLAG_MORE, Frame, FrameChannel, ProtocolError
from cloche.wire.gofer import (
    ATTACH_DOORS,
    ATTACH_SOCKETS,
    ATTACH_WRITABLE,
    MAX_AHEAD,
    MAX_AHEAD_BYTES,
    MAX_AHEAD_DIRS,
    MAX_READ_BYTES,
    MAX_REQUEST_BYTES,
    MAX_WRITE_BYTES,
    OP_ALLOCATE,
    OP_ATTACH,
    OP_BIND,
    OP_CLUNK,
    OP_CONNECT,
    OP_CREATE,
    OP_DIAL,
    OP_FORGET,
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
    SET_ALL,
    TEXT_UNKNOWN,
    Reader,
    check_name,
    pack_string,
    pack_u32,
    pack_u64,
)

MAX_OFFSET: Final = (1 << 63) - 1
AHEAD_NS: Final = 2_000_000  # for the listings of one OP_OPENDIR_MANY
EXIT_CLOSED: Final = 0  # the sentry closed the connection
EXIT_PROTOCOL: Final = 2  # the sentry broke the protocol


def log(text: str) -> None:
    """A message on standard error (descriptor 2: sys.stderr may stand for one that was closed)."""
    try:
        os.write(2, f"cloche gofer: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def log_exception() -> None:
    """Log the exception that is being handled, with its traceback.

    It uses the interpreter's own hook: importing `traceback` would cost every start of a sandbox two milliseconds.
    """
    log("internal error")
    kind, error, where = sys.exc_info()
    if kind is not None and error is not None:
        sys.excepthook(kind, error, where)


class Server:
    """Serves one sentry over one socket."""

    def __init__(
        self,
        sock: socket.socket,
        attach_points: list[AttachPoint],
        max_open_dirs: int = 512,
        max_pins: int = 1024,
        texts: Texts | None = None,
        links: dict[int, socket.socket] | None = None,
    ) -> None:
        """The attach points are already held; the working directory is /proc/PID/fd.

        `links`: the sockets of other workers, by the attach points that they serve, for the sentry.
        """
        self._links: dict[int, socket.socket] = links if links is not None else {}
        self._channel: FrameChannel = FrameChannel(sock, MAX_REQUEST_BYTES, may_receive_fds=False)
        self._table: NodeTable = NodeTable(attach_points, max_open_dirs, max_pins)
        self._files: Files = Files(self._table)
        self._watches: Watches = Watches(self._table)
        self._sockets: Sockets = Sockets(self._files)
        self._texts: Texts = texts if texts is not None else Texts(-1, None)
        self._reader: Helper = Helper(self._channel)
        can_write = any(point.is_writable and point.fd >= 0 for point in attach_points)
        self._syncer: Helper = Helper(self._channel) if can_write else self._reader
        self._writer: Helper = Helper(self._channel) if can_write else self._reader
        self._is_strict: bool = bool(os.environ.get("CLOCHE_STRICT"))

    def serve(self) -> int:
        """Serve until the sentry closes the connection; returns the exit status."""
        while True:
            try:
                frame = self._channel.receive()
                if frame is None:
                    return EXIT_CLOSED
                self._channel.ident = frame.ident
                self._answer(frame)
            except ProtocolError as error:
                log(f"malformed request: {error}")
                return EXIT_PROTOCOL
            except (BrokenPipeError, ConnectionResetError):
                return EXIT_CLOSED

    def _answer(self, frame: Frame) -> None:
        reader = Reader(frame.body)
        op = frame.code
        try:
            if op in (OP_OPENDIR, OP_LIST):
                self._listing(op, reader)
                return
            if op in (OP_OPEN, OP_CREATE, OP_TMPFILE):
                self._donate(op, reader)
                return
            if op == OP_LOOKUP:
                self._look_up(reader)
                return
            if op == OP_OPENDIR_MANY:
                self._listings(reader)
                return
            if op == OP_OPEN_MANY:
                self._donate_many(reader)
                return
            if op == OP_TEXT:
                self._text(reader)
                return
            if op in (OP_READ, OP_SEEK, OP_FSYNC, OP_SYNCFS, OP_WRITE, OP_ALLOCATE):
                self._hand_over(op, reader)
                return
            if op == OP_CONNECT:
                self._connect(reader)
                return
            if op == OP_FORGET:
                self._clunk(reader)
                return
            if op == OP_WATCH:
                node = self._node(reader)
                reader.end()
                watch, fd = self._watches.add(node)
                self._channel.send(0, 0, pack_u32(watch), fd)
                return
            if op == OP_UNWATCH:
                watch = reader.u32()
                reader.end()
                self._watches.drop(watch)
                return
            if op in (OP_LISTEN, OP_DIAL, OP_UNBIND):
                self._act_on_socket(op, reader)
                return
            body = self._act(op, reader)
        except ProtocolError:
            raise
        except (BrokenPipeError, ConnectionResetError):
            raise
        except LinuxError as error:
            self._channel.send(-error.errno, 0, b"")
        except OSError as failure:
            self._channel.send(-(failure.errno or EIO), 0, b"")
        except (ValueError, OverflowError, StructError):
            # A number that the host's interface does not take, e.g. a time beyond its range.
            self._channel.send(-EINVAL, 0, b"")
        except MemoryError:
            self._channel.send(-ENOMEM, 0, b"")
        except Exception:
            log_exception()
            if self._is_strict:
                raise
            self._channel.send(-EIO, 0, b"")
        else:
            self._channel.send(0, 0, body)

    # -- decoding --------------------------------------------------------------------------------------
    def _node(self, reader: Reader) -> Node:
        return self._table.get(reader.u64())

    def _target(self, reader: Reader) -> tuple[Node, bytes]:
        """A fid and a name.  Raises LinuxError for a name that is not a single component, or an unknown
        fid."""
        fid = reader.u64()
        name = reader.string()
        if name and not check_name(name):
            raise LinuxError(EINVAL)
        node = self._table.get(fid)
        if not self._table.is_visible(node, name):
            raise LinuxError(ENOENT)
        return node, name

    def _listing(self, op: int, reader: Reader) -> None:
        if op == OP_OPENDIR:
            parent, name = self._target(reader)
            reader.end()
            if not name:
                raise LinuxError(EINVAL)
            node = self._table.walk(parent, name)
        else:
            node = self._node(reader)
            reader.end()
        self._send_listing(b"", *self._begin_listing(node))

    def _begin_listing(self, node: Node) -> tuple[bytes, ListingCursor | None]:
        """What precedes the entries, and the entries. Raises LinuxError, OSError."""
        fd = self._table.dir_fd(node)
        status = os.fstat(fd)
        head_attr = pack_stat(status)
        skeleton, path = node.attach.skeleton, path_of(node)
        if skeleton is not None and not skeleton.is_open(path, status.st_mode):
            return pack_u64(node.fid) + b"\1" + head_attr, None  # a new directory is empty
        try:
            cursor = ListingCursor(
                fd,
                node.attach.only if node.parent is None else None,
                is_public_only=node.attach.is_public_only,
                skeleton=skeleton,
                path=path,
            )
        except PermissionError:
            return pack_u64(node.fid) + b"\0" + head_attr, None  # searchable only
        return pack_u64(node.fid) + b"\1" + head_attr, cursor

    def _send_listing(self, before: bytes, head: bytes, cursor: ListingCursor | None) -> None:
        if cursor is None:
            self._channel.send(0, 0, before + head)
            return
        try:
            chunk = before + head + cursor.next_chunk()
            while not cursor.is_done:
                self._channel.send(0, FLAG_MORE, chunk)
                chunk = cursor.next_chunk()
        finally:
            cursor.close()
        self._channel.send(0, 0, chunk)

    def _look_up(self, reader: Reader) -> None:
        """A name, with what a walk or an open would ask for next."""
        node, name = self._target(reader)
        opens = reader.u8() == 1
        reader.end()
        if not name:
            raise LinuxError(EINVAL)
        st, target, fid, fd = self._files.look_up(node, name, opens=opens)
        body = pack_stat(st) + pack_string(target) + pack_u64(fid)
        if fd < 0:
            self._channel.send(0, 0, body + bytes([TEXT_UNKNOWN]))
        else:
            self._give_with_text(body, fd, name, st)

    def _give_with_text(self, body: bytes, fd: int, name: bytes, st: os.stat_result) -> None:
        """Answer with the descriptor of a file, which is closed here, and what is known of its text."""
        fds = [fd]
        try:
            told, text = self._texts.known(name, st)
            if text >= 0:
                fds.append(text)
            self._channel.send_fds(0, 0, body + bytes([told]), fds)
        finally:
            for each in fds:
                os.close(each)

    def _listings(self, reader: Reader) -> None:
        """Directories that may be needed next, and those below them, as far as they can be read and are not large."""
        parent, limit, count = self._node(reader), reader.u32(), reader.u32()
        if not 0 < count <= MAX_AHEAD_DIRS:
            raise ProtocolError(f"{count} directories at once")
        names = [reader.string() for _ in range(count)]
        reader.end()
        parts, found, size = [b""], 0, 0
        end_ns = time.monotonic_ns() + AHEAD_NS
        left = [(parent, name) for name in reversed(names)]  # the next one is the last
        while left and found < min(limit, MAX_AHEAD_DIRS) and size < MAX_AHEAD_BYTES:
            node, name = left.pop()
            below: list[bytes] = []
            listing, child = self._listing_ahead(node, name, below)
            if child is not None:
                parts += [pack_u64(node.fid), pack_string(name), listing]
                found += 1
                size += len(listing)
                left += [(child, each) for each in reversed(below[:MAX_AHEAD_DIRS])]
            if time.monotonic_ns() > end_ns:  # others wait
                break
        parts[0] = pack_u32(found)
        self._channel.send(0, 0, b"".join(parts))

    def _listing_ahead(self, parent: Node, name: bytes, below: list[bytes]) -> tuple[bytes, Node | None]:
        """The listing of a directory if it can be read and is not large; `below` gets the directories in it."""
        try:
            if not check_name(name) or not self._table.is_visible(parent, name):
                return b"", None
            node = self._table.walk(parent, name)
        except (LinuxError, OSError):
            return b"", None
        try:
            if node.dev == parent.dev:  # other storage may be slow
                head, cursor = self._begin_listing(node)
                if cursor is None:
                    return head + pack_u32(0), node
                try:
                    entries = cursor.next_chunk()
                    if cursor.is_done:
                        below += cursor.subdirs
                        return head + pack_u32(len(entries)) + entries, node
                finally:
                    cursor.close()
        except (LinuxError, OSError):
            pass
        self._table.clunk(node.fid)
        return b"", None

    def _donate(self, op: int, reader: Reader) -> None:
        if op == OP_TMPFILE:
            node = self._node(reader)
            mode, uid, gid = reader.u32(), reader.u32(), reader.u32()
            reader.end()
            fd, st, fid = self._files.tmpfile(node, mode, uid, gid)
            self._give(fd, pack_stat(st) + pack_u64(fid))
            return
        node, name = self._target(reader)
        if op == OP_OPEN:
            flags, dev, ino, pin = reader.u32(), reader.u64(), reader.u64(), reader.u32()
            reader.end()
            fd, st, fid = self._files.open(node, name, flags, dev, ino, wants_pin=pin == 1)
            if flags == os.O_RDONLY:
                self._give_with_text(pack_stat(st) + pack_u64(fid), fd, name, st)
            else:
                self._give(fd, pack_stat(st) + pack_u64(fid) + bytes([TEXT_UNKNOWN]))
            return
        flags, mode, uid, gid = reader.u32(), reader.u32(), reader.u32(), reader.u32()
        pin = reader.u32()
        reader.end()
        fd, st, fid = self._files.create(node, name, flags, mode, uid, gid, wants_pin=pin == 1)
        self._give(fd, pack_stat(st) + pack_u64(fid))

    def _give(self, fd: int, body: bytes) -> None:
        try:
            self._channel.send(0, 0, body, fd)
        finally:
            os.close(fd)

    def _donate_many(self, reader: Reader) -> None:
        """Open a file, and others of its directory that may be needed next, as far as they can be opened."""
        node, name = self._target(reader)
        dev, ino, count = reader.u64(), reader.u64(), reader.u32()
        if count > MAX_AHEAD:
            raise ProtocolError(f"{count} files at once")
        others = [(reader.string(), reader.u64(), reader.u64()) for _ in range(count)]
        reader.end()
        fd, st, _pin = self._files.open(node, name, os.O_RDONLY, dev, ino)
        fds, parts = [fd], []
        try:
            for index, (name, dev, ino) in enumerate(others, 1):
                try:
                    if not check_name(name) or not self._table.is_visible(node, name):
                        continue
                    fd, other, _pin = self._files.open(node, name, os.O_RDONLY, dev, ino)
                except (LinuxError, OSError):
                    continue
                fds.append(fd)
                parts += [pack_u32(index), pack_stat(other)]
            self._channel.send_fds(0, 0, pack_stat(st) + pack_u32(len(fds) - 1) + b"".join(parts), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _text(self, reader: Reader) -> None:
        node, name = self._target(reader)
        dev, ino = reader.u64(), reader.u64()
        patience_ms = reader.u32()
        reader.end()
        fd, st, _pin = self._files.open(node, name, os.O_RDONLY, dev, ino)
        try:
            st = os.fstat(fd)
            text, lasts = self._texts.find(fd, st, patience_ms, is_writable=node.attach.is_writable)
        finally:
            os.close(fd)
        try:
            self._channel.send(0, 0, pack_stat(st) + (b"\1" if lasts else b"\0"), text)
        finally:
            if text >= 0:
                os.close(text)

    def _hand_over(self, op: int, reader: Reader) -> None:
        """For operations that take long: find the file, and let a helper do the rest and answer."""
        ident = self._channel.ident
        if op == OP_SYNCFS:
            node = self._node(reader)
            reader.end()
            self._syncer.give(Job(ident, SYNCFS, self._files.fd_to_syncfs(node)))
            return
        if op == OP_WRITE or op == OP_ALLOCATE:
            self._writer.give(self._write_job(op, reader))
            return
        node, name = self._target(reader)
        if op == OP_FSYNC:
            kind = FDATASYNC if reader.u8() else FSYNC
            reader.end()
            self._syncer.give(Job(ident, kind, self._files.fd_to_sync(node, name)))
            return
        dev, ino, offset, length = reader.u64(), reader.u64(), reader.u64(), reader.u32()
        if op == OP_SEEK:
            reader.end()
            if length not in (os.SEEK_DATA, os.SEEK_HOLE) or offset > MAX_OFFSET:
                raise LinuxError(EINVAL)
            # A descriptor of its own: those that reads share have a position in common.
            fd = self._files.open(node, name, os.O_RDONLY, dev, ino)[0]
            self._reader.give(Job(ident, SEEK, fd, offset, mode=length))
            return
        kind = READ if reader.u8() else READ_AHEAD
        reader.end()
        if length > MAX_READ_BYTES or offset > MAX_OFFSET:
            raise LinuxError(EINVAL)
        fd = self._files.fd_to_read(node, name, dev, ino)
        self._reader.give(Job(ident, kind, fd, offset, length))

    def _write_job(self, op: int, reader: Reader) -> Job:
        """Raises LinuxError."""
        ident = self._channel.ident
        node = self._node(reader)
        mode = reader.u32() if op == OP_ALLOCATE else 0
        offset = reader.u64()
        length, kind, data = 0, ALLOCATE, b""
        if op == OP_ALLOCATE:
            length = reader.u64()
        else:
            kind = APPEND if reader.u8() else WRITE
            data = reader.blob()
        reader.end()
        if offset > MAX_OFFSET or length > MAX_OFFSET or len(data) > MAX_WRITE_BYTES:
            raise LinuxError(EINVAL)
        if self._writer.is_busy():
            raise LinuxError(EBUSY)  # a correct sentry has at most MAX_WRITES outstanding
        return Job(ident, kind, self._files.fd_to_write(node), offset, length, mode, data)

    def _act_on_socket(self, op: int, reader: Reader) -> None:
        """Hand out a socket that listens, or is connected; or close one."""
        if op == OP_DIAL:
            node, name = self._target(reader)
            dev, ino, kind, uid = reader.u64(), reader.u64(), reader.u32(), reader.u32()
            reader.end()
            made, body = self._sockets.connect(node, name, dev, ino, kind, uid)
        else:
            number = reader.u64()
            if op == OP_UNBIND:
                reader.end()
                self._sockets.drop(number)
                return
            backlog = reader.u32()
            reader.end()
            made, body = self._sockets.listen(number, backlog), b""
        try:
            self._channel.send(0, 0, body, made.fileno())
        finally:
            made.close()

    def _connect(self, reader: Reader) -> None:
        """The sentry's end of the socket of the worker that serves an attach point, once."""
        index = reader.u32()
        reader.end()
        link = self._links.pop(index, None)
        if link is None:
            self._channel.send(0, 0, b"")
            return
        self._channel.send(0, 0, b"", link.fileno())
        link.close()

    def _act(self, op: int, reader: Reader) -> bytes:
        """Operations answered by one frame: decode, then act."""
        if op == OP_STAT:
            node, name = self._target(reader)
            reader.end()
            st, target = self._files.stat(node, name)
            return pack_stat(st) + pack_string(target)
        if op == OP_WALK:
            node, name = self._target(reader)
            reader.end()
            if not name:
                raise LinuxError(EINVAL)
            child = self._table.walk(node, name)
            return pack_u64(child.fid) + pack_stat(os.fstat(child.fd))
        if op == OP_ATTACH:
            index = reader.u32()
            reader.end()
            root = self._table.attach(index)
            flags = ATTACH_WRITABLE if root.attach.is_writable else 0
            flags |= ATTACH_DOORS if root.attach.has_doors else 0
            flags |= ATTACH_SOCKETS if root.attach.shows_sockets else 0
            return pack_u64(root.fid) + bytes([flags]) + pack_stat(os.fstat(root.attach.fd))
        if op == OP_STATFS:
            node = self._node(reader)
            reader.end()
            return self._files.statfs(node)
        if op == OP_CLUNK:
            self._clunk(reader)
            return b""
        if OP_MKDIR <= op <= OP_RENAME or op == OP_MKNOD:
            return self._act_on_tree(op, reader)
        if op == OP_BIND:
            node, name = self._target(reader)
            kind, mode, uid, gid = reader.u32(), reader.u32(), reader.u32(), reader.u32()
            reader.end()
            st, number = self._sockets.bind(node, name, kind, mode, uid, gid)
            return pack_stat(st) + pack_u64(number)
        if op == OP_SETATTR or OP_GETXATTR <= op <= OP_REMOVEXATTR:
            return self._act_on_attributes(op, reader)
        raise LinuxError(ENOSYS)

    def _clunk(self, reader: Reader) -> None:
        raw = reader.rest()
        if len(raw) % 8:
            raise ProtocolError("half a fid")
        for start in range(0, len(raw), 8):
            self._table.clunk(int.from_bytes(raw[start : start + 8], "little"))
        for fd in self._table.unused_writers:
            self._writer.give(Job(0, CLOSE, fd))
        self._table.unused_writers.clear()

    def _act_on_tree(self, op: int, reader: Reader) -> bytes:
        node, name = self._target(reader)
        if op == OP_MKDIR:
            mode, uid, gid = reader.u32(), reader.u32(), reader.u32()
            reader.end()
            return pack_stat(self._files.mkdir(node, name, mode, uid, gid))
        if op == OP_MKNOD:
            mode, uid, gid = reader.u32(), reader.u32(), reader.u32()
            reader.end()
            return pack_stat(self._files.mknod(node, name, mode, uid, gid))
        if op == OP_SYMLINK:
            target, uid, gid = reader.string(), reader.u32(), reader.u32()
            reader.end()
            return pack_stat(self._files.symlink(node, name, target, uid, gid))
        if op == OP_UNLINK or op == OP_RMDIR:
            reader.end()
            if op == OP_UNLINK:
                self._files.unlink(node, name)
            else:
                self._files.rmdir(node, name)
            return b""
        new_node, new_name = self._target(reader)
        if op == OP_LINK:
            reader.end()
            return pack_stat(self._files.link(node, name, new_node, new_name))
        flags, moved, exchanged = reader.u32(), reader.u64(), reader.u64()
        reader.end()
        self._files.rename(node, name, new_node, new_name, flags)
        if moved:
            self._table.moved(moved, node, name, new_node, new_name)
        if exchanged:
            self._table.moved(exchanged, new_node, new_name, node, name)
        return b""

    def _act_on_attributes(self, op: int, reader: Reader) -> bytes:
        node, name = self._target(reader)
        if op == OP_SETATTR:
            valid, mode, uid, gid = reader.u32(), reader.u32(), reader.u32(), reader.u32()
            size, atime_ns, mtime_ns = reader.u64(), reader.i64(), reader.i64()
            dev, ino = reader.u64(), reader.u64()
            reader.end()
            if valid & ~SET_ALL:
                raise LinuxError(EINVAL)
            return pack_stat(
                self._files.setattr(node, name, valid, mode, uid, gid, size, atime_ns, mtime_ns, dev, ino)
            )
        if op == OP_LISTXATTR:
            reader.end()
            return self._files.listxattr(node, name)
        xattr = reader.string()
        if op == OP_GETXATTR:
            reader.end()
            return self._files.getxattr(node, name, xattr)
        if op == OP_SETXATTR:
            value, flags = reader.blob(), reader.u32()
            reader.end()
            self._files.setxattr(node, name, xattr, value, flags)
            return b""
        reader.end()
        self._files.removexattr(node, name, xattr)
        return b""
