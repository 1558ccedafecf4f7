"""Requests for files of a container (`wire.files`), in the sentry.

What is long goes over a stream socket of the client's, in slices of half a millisecond that are chores of the kernel
(I8): a stream has a step while its socket takes or gives bytes, and waits for the event loop otherwise.  Files of the
guest are looked at as they are at that moment; what guests do meanwhile can make a stream miss or repeat a name, and no
more.  Only directories and regular files are ever opened, so nobody waits for the other end of a FIFO.

Clients are the owner of the sandbox, who may have all rights inside; what they get of the guest is theirs to distrust.
"""

import socket
from collections.abc import Generator
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    ENODATA,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
    LinuxError,
)
from cloche.abi.fcntl import O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_TRUNC, O_WRONLY
from cloche.abi.fs import SEEK_DATA
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.boot.execs import EXIT_INTERNAL, Answers
from cloche.boot.spec import SandboxSpec
from cloche.boot.start import user_credentials
from cloche.fs.changes import Change, Changes, open_inode
from cloche.fs.tmpfs_inode import TmpfsInode
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.chores import Chore
from cloche.kernel.task import Container, FdWatcher, Kernel, KernelContext
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.attr import require_permission
from cloche.vfs.dcache import lookup_child
from cloche.vfs.layers import Layer
from cloche.vfs.listing import Names
from cloche.vfs.mount import top_of
from cloche.vfs.namei import (
    LOOKUP_FOLLOW,
    TIME_OMIT,
    do_open,
    lookup_parent,
    open_path,
    path_lookup,
    vfs_chmod,
    vfs_chown,
    vfs_link,
    vfs_mkdir,
    vfs_mknod,
    vfs_rename,
    vfs_rmdir,
    vfs_setxattr,
    vfs_symlink,
    vfs_unlink,
    vfs_utimens,
)
from cloche.vfs.objects import MAY_WRITE, Context, FileDescription, FileSystem, FsContext, Inode, Path
from cloche.wire import files as wire
from cloche.wire.files import Base, FileEntry, Record, RecordDecoder
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bool, take_int

MAX_STREAMS: Final = 64  # of a container at once
_OUT_BYTES: Final = 1 << 18  # that wait in a stream before it is sent from
_IN_BYTES: Final = 1 << 17
_NAMES: Final = 256  # of a directory that are taken in one piece
_MAX_LINKS: Final = 1 << 16  # files with several names that a stream remembers
_ENDLESS: Final = 64 << 20  # bytes of a file without a size (/proc)
_TRIES: Final = 1000  # to remove a directory that is filled meanwhile


# -- looking -----------------------------------------------------------------------------------------------------
def entry_of(ctx: Context, path: bytes, inode: Inode) -> FileEntry:
    """What there is to say about a file.  Raises LinuxError."""
    inode.refresh(ctx)
    entry = FileEntry(path, inode.mode)
    entry.uid, entry.gid, entry.size = inode.uid, inode.gid, inode.size
    entry.mtime_ns, entry.ctime_ns = inode.mtime_ns, inode.ctime_ns
    entry.rdev, entry.nlink, entry.ino = inode.rdev, inode.nlink, inode.ino & 0x7FFFFFFFFFFFFFFF
    if inode.mode & S_IFMT == S_IFLNK:
        entry.target = inode.readlink(ctx)
    return entry


def add_xattrs(ctx: Context, entry: FileEntry, inode: Inode) -> None:
    """Extended attributes, those that can be had."""
    try:
        for name in inode.listxattr(ctx):
            try:
                entry.xattrs.append((name, inode.getxattr(ctx, name)))
            except LinuxError as error:
                if error.errno not in (ENODATA, EOPNOTSUPP):
                    raise
    except LinuxError:
        pass


def contents(ctx: Context, file: FileDescription, size: int) -> Generator[bytes, None, None]:
    """Records of the contents of an open file, holes left out, and END."""
    offset = 0
    is_sparse = size > 0
    limit = size if size > 0 else _ENDLESS
    while offset < limit:
        if is_sparse:
            found = file.lseek(ctx, offset, SEEK_DATA)
            if found < 0:
                break  # a hole to the end
            offset = max(offset, found)
        count = min(wire.CHUNK_BYTES, limit - offset)
        try:
            data = file.read_bytes(ctx, offset, count)
        except LinuxError as error:
            if error.errno != EAGAIN:
                yield wire.pack_error(b"", error.errno)
            break
        if not data:
            break
        yield wire.pack_data(offset, data)
        offset += len(data)
    yield wire.pack_end(size if size > 0 else offset)


def change_records(
    ctx: Context, layers: list[Layer], wanted: list[bytes], limit: int
) -> Generator[bytes, None, None]:
    """What guests have changed, with contents up to `limit` bytes of a file; an empty record after work without any."""
    for layer in layers:
        yield wire.pack([wire.LAYER, layer.place or b"/"])
        try:
            for change in Changes(ctx, layer, wanted).walk():
                if change is None:
                    yield b""
                else:
                    yield from _change(ctx, layer, change, limit)
        except LinuxError as error:
            yield wire.pack_error(layer.place or b"/", error.errno)
    yield wire.pack([wire.DONE])


def _change(ctx: Context, layer: Layer, change: Change, limit: int) -> Generator[bytes, None, None]:
    """CHANGE, its entry, its contents."""
    inode, known, below = change.inode, change.known, change.base
    base: Base | None = None
    old: bytes | None = None
    if known is not None:
        base = Base(known.mode, known.uid, known.gid, known.size, known.mtime_ns, known.ctime_ns)
        old = known.data
    elif below is not None:
        base = Base(below.mode, below.uid, below.gid, below.size, below.mtime_ns, below.ctime_ns)
        base.ino = below.ino & 0x7FFFFFFFFFFFFFFF
    shown = (
        inode
        if inode is not None
        else below
        if below is not None
        else known.inode
        if known is not None
        else None
    )
    if shown is None:
        return
    origin = 0
    file: FileDescription | None = None
    try:
        entry = entry_of(ctx, change.path, shown)
        if isinstance(inode, TmpfsInode):
            if inode.xattrs is not None:
                add_xattrs(ctx, entry, inode)
            if inode.backing is not None and inode.backing is not below:
                origin = inode.backing.ino & 0x7FFFFFFFFFFFFFFF
        if entry.size <= limit and inode is not None and change.has_new_data():
            file = open_inode(ctx, layer, inode)
    except LinuxError as error:
        yield wire.pack_error(change.path, error.errno)
        return
    row: list[object] = [wire.CHANGE, change.kind, change.has_new_data(), origin]
    yield wire.pack([*row, base.to_list() if base is not None else None, old])
    yield wire.pack(entry.to_list())
    if file is not None:
        try:
            yield from contents(ctx, file, entry.size)
        finally:
            file.put()


class _Level:
    """A directory of a walk."""

    def __init__(self, place: Path, name: bytes, file: FileDescription) -> None:
        self.place: Path = place
        self.name: bytes = name  # of the directory in the stream
        self.file: FileDescription = file
        self.rows: list[bytes] = []
        self.is_over: bool = False


class Walker:
    """The records of one `get`."""

    def __init__(self, ctx: Context, fields: Fields, own: list[FileSystem]) -> None:
        """`own`: what the container's root is made of.  Raises ProtocolError."""
        self.ctx: Context = ctx
        self.own: list[FileSystem] = own
        self.paths: list[bytes] = wire.take_paths(fields)
        self.depth: int = take_int(fields, "depth", 0, 0, wire.MAX_DEPTH)
        self.has_data: bool = take_bool(fields, "data")
        self.is_following: bool = take_bool(fields, "follow")
        self.is_own_only: bool = take_bool(fields, "own")
        self.has_xattrs: bool = take_bool(fields, "xattrs")
        self.links: dict[Inode, bytes] = {}
        self.levels: list[_Level] = []

    def records(self) -> Generator[bytes, None, None]:
        """All of them; an empty one after work without any."""
        for path in self.paths:
            try:
                place = path_lookup(self.ctx, None, path, LOOKUP_FOLLOW if self.is_following else 0)
            except LinuxError as error:
                yield wire.pack_error(path, error.errno)
                continue
            # One of several is called what it was asked for by; a single one has the empty name.
            name = path if len(self.paths) > 1 else b""
            try:
                yield from self._file(place, name)
                while self.levels:
                    yield from self._level(self.levels[-1])
            finally:
                while self.levels:
                    self.levels.pop().file.put()
        yield wire.pack([wire.DONE])

    def _file(self, place: Path, name: bytes) -> Generator[bytes, None, None]:
        """A file, with its contents; a directory goes on `levels`."""
        ctx, inode = self.ctx, place.inode()
        file: FileDescription | None = None
        kind = inode.mode & S_IFMT
        try:
            entry = entry_of(ctx, name, inode)
            if self.has_xattrs:
                add_xattrs(ctx, entry, inode)
            earlier = self.links.get(inode)
            if kind == S_IFDIR and len(self.levels) < self.depth:
                file = open_path(ctx, place, O_DIRECTORY).get()
            elif kind == S_IFREG and self.has_data and earlier is None:
                file = open_path(ctx, place, 0).get()
        except LinuxError as error:
            yield wire.pack_error(name, error.errno)
            return
        if kind == S_IFDIR:
            yield wire.pack(entry.to_list())
            if file is not None:
                self.levels.append(_Level(place, name, file))
            return
        if earlier is not None and self.depth:
            entry.is_link, entry.target = True, earlier
        elif entry.nlink > 1 and len(self.links) < _MAX_LINKS:
            self.links[inode] = name
        yield wire.pack(entry.to_list())
        if file is not None:
            try:
                yield from contents(ctx, file, entry.size)
            finally:
                file.put()

    def _level(self, level: _Level) -> Generator[bytes, None, None]:
        """The next few names of a directory."""
        if not level.rows:
            names = Names(_NAMES)
            result = 0 if level.is_over else level.file.iterate(self.ctx, names)
            level.rows = [name for name in reversed(names.names) if name not in (b".", b"..")]
            level.is_over = not names.names or result < 0
            if level.is_over:
                self.levels.pop()
                level.file.put()
            yield wire.pack_error(level.name, -result) if result < 0 else b""
            return
        name = level.rows.pop()
        whole = level.name + b"/" + name if level.name else name
        dentry = lookup_child(self.ctx, level.place.dentry, level.place.inode(), name)
        if dentry.inode is None:
            return  # gone meanwhile
        place = top_of(Path(level.place.mount, dentry))
        if self.is_own_only and place.mount is not level.place.mount and place.mount.fs not in self.own:
            try:
                entry = entry_of(self.ctx, whole, place.inode())
                yield wire.pack(entry.to_list())  # where something is mounted
            except LinuxError:
                pass
            return
        yield from self._file(place, whole)


# -- streams -----------------------------------------------------------------------------------------------------
class Stream(Chore, FdWatcher):
    """One end of a client's stream, until all is sent or taken."""

    def __init__(self, table: "FileTable", ident: int, fd: int) -> None:
        """Takes `fd` over.  Raises OSError."""
        self.table: FileTable = table
        self.kernel: Kernel = table.kernel
        self.ident: int = ident
        self.sock: socket.socket = socket.socket(fileno=fd)
        self.events: int = 0
        self.token: int = 0
        self.is_queued: bool = False
        self.is_closed: bool = False

    def begin(self, events: int) -> None:
        """Watch the socket, which is ready for `events` when there is something to do.  Raises OSError."""
        self.events = events
        self.token = self.kernel.watch_fd(self.sock.fileno(), events, self)

    def fd_ready(self, token: int, events: int) -> None:
        """There is something to do: in turns with everybody, and not to be told again meanwhile."""
        if not self.is_queued and not self.is_closed:
            self.is_queued = True
            self.kernel.rewatch_fd(self.sock.fileno(), self.token, 0)
            self.kernel.chores.append(self)

    def step(self) -> bool:
        if self.is_closed:
            return False
        is_more = False
        try:
            is_more = self.work(monotonic_ns() + SLICE_NS)
        except LinuxError as refusal:
            self.finish({"errno": refusal.errno})
        except ProtocolError as error:
            self.fail(str(error))
        except OSError as failure:
            self.fail(failure.strerror or "the stream is broken")
        if not is_more:
            self.is_queued = False
            if not self.is_closed:
                self.kernel.rewatch_fd(self.sock.fileno(), self.token, self.events)
        return is_more

    def work(self, end_ns: int) -> bool:
        """Do something; whether there is more to do without waiting.  Raises LinuxError, ProtocolError, OSError."""
        raise NotImplementedError

    def finish(self, fields: Fields) -> None:
        """All is done."""
        self.close()
        self.table.answers.reply(self.ident, fields)

    def fail(self, text: str) -> None:
        """The rest cannot be done."""
        if not self.is_closed:
            self.close()
            self.table.answers.fail(self.ident, EXIT_INTERNAL, text)

    def close(self) -> None:
        """Let go of everything."""
        if not self.is_closed:
            self.is_closed = True
            self.kernel.unwatch_fd(self.sock.fileno(), self.token)
            self.sock.close()
            self.table.streams.pop(self.ident, None)
            self.dropped()

    def dropped(self) -> None:
        """The stream is over, however it ended."""


class Sender(Stream):
    """Records to a client."""

    def __init__(
        self, table: "FileTable", ident: int, fd: int, records: Generator[bytes, None, None]
    ) -> None:
        super().__init__(table, ident, fd)
        self.records: Generator[bytes, None, None] | None = records
        self.out: bytearray = bytearray()

    def work(self, end_ns: int) -> bool:
        out = self.out
        records = self.records
        while records is not None and len(out) < _OUT_BYTES:
            record = next(records, None)
            if record is None:
                self.records = records = None
                break
            out += record
            if monotonic_ns() >= end_ns:
                break
        if out:
            try:
                with memoryview(out) as view:
                    count = self.sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            del out[:count]
        if not out and records is None:
            self.finish({})
            return False
        return True

    def dropped(self) -> None:
        records = self.records
        self.records = None
        if records is not None:
            records.close()  # and with it what it has open: a compiled one does not by itself


class Receiver(Stream):
    """Records from a client, which make files."""

    def __init__(self, table: "FileTable", ident: int, fd: int, builder: "TreeBuilder") -> None:
        super().__init__(table, ident, fd)
        self.builder: TreeBuilder = builder
        self.decoder: RecordDecoder = RecordDecoder()
        self.waiting: list[Record] = []  # the next one last

    def work(self, end_ns: int) -> bool:
        if not self.waiting:
            try:
                data = self.sock.recv(_IN_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not data:
                raise ProtocolError("the stream was cut off")
            self.waiting = self.decoder.feed(data)
            self.waiting.reverse()
        waiting = self.waiting
        while waiting:
            record = waiting.pop()
            if record.kind == wire.DONE:
                self.builder.finish()
                self.finish({"files": self.builder.count})
                return False
            self.builder.take(record)
            if monotonic_ns() >= end_ns:
                break
        return True

    def dropped(self) -> None:
        self.builder.abandon()


# -- making ------------------------------------------------------------------------------------------------------
class TreeBuilder:
    """Makes the files of a stream below a directory, each under another name until it is whole."""

    def __init__(self, ctx: Context, fields: Fields, owner: tuple[int, int]) -> None:
        """`owner` of what has none in its entry.  Raises ProtocolError, LinuxError."""
        self.ctx: Context = ctx
        self.owner: tuple[int, int] = owner
        self.is_following: bool = take_bool(fields, "follow")
        self.makes_parents: bool = take_bool(fields, "parents")
        path = wire.take_path(fields, "path")
        if self.makes_parents:
            make_parents(ctx, path + b"/.")
        self.base: Path = path_lookup(ctx, None, path)
        if not self.base.inode().is_dir():
            raise LinuxError(ENOTDIR)
        self.count: int = 0
        self.entry: FileEntry | None = None  # whose contents come
        self.file: FileDescription | None = None
        self.parent: Path = self.base
        self.name: bytes = b""  # what it shall be called
        self.temporary: bytes = b""  # what it is called; empty: it is written in place
        self.at: int = 0
        self.serial: int = 0
        self.directories: list[tuple[Path, FileEntry]] = []  # whose times are set at the end

    def take(self, record: Record) -> None:
        """One record.  Raises LinuxError, ProtocolError."""
        entry = record.entry
        if entry is not None:
            if self.file is not None:
                raise ProtocolError("a file before the end of another")
            self._begin(entry)
            return
        file = self.file
        if file is None:
            raise ProtocolError("contents of nothing")
        if record.kind == wire.DATA:
            self._write(file, record.offset, record.data)
        elif record.kind == wire.END:
            self._end(file, record.offset)
        else:
            raise ProtocolError("a record that nobody expects here")

    def finish(self) -> None:
        """No more records.  Raises ProtocolError, LinuxError."""
        if self.file is not None:
            raise ProtocolError("a file without an end")
        for place, entry in reversed(self.directories):
            self._set_attributes(place, entry)
        self.directories.clear()

    def abandon(self) -> None:
        """The stream is over: nothing half-made is left."""
        file = self.file
        if file is not None:
            self.file = None
            file.put()
            if self.temporary:
                try:
                    vfs_unlink(self.ctx, self.parent, self.temporary)
                except LinuxError:
                    pass

    def _begin(self, entry: FileEntry) -> None:
        ctx, path = self.ctx, entry.path
        if not wire.is_clean(path):
            raise ProtocolError("a path that leads elsewhere")
        try:
            found = lookup_parent(ctx, self.base, path)
        except LinuxError as error:
            if error.errno != ENOENT or not self.makes_parents:
                raise
            make_parents(ctx, path, self.base)
            found = lookup_parent(ctx, self.base, path)
        self.parent, self.name = found.path, found.name
        self.count += 1
        kind = entry.mode & S_IFMT
        if entry.is_link:
            self._make_link(entry)
        elif kind == S_IFDIR:
            self._make_directory(entry)
        elif kind == S_IFREG:
            self._open(entry)
        elif kind == S_IFLNK:
            name = self._next_temporary()
            vfs_symlink(ctx, entry.target, self.parent, name)
            self._place(name, entry)
        else:
            name = self._next_temporary()
            vfs_mknod(ctx, self.parent, name, entry.mode, entry.rdev)
            self._place(name, entry)

    def _next_temporary(self) -> bytes:
        self.serial += 1
        return b".cloche-%x-%x" % (monotonic_ns() & 0xFFFFFFFFFF, self.serial)

    def _make_directory(self, entry: FileEntry) -> None:
        ctx = self.ctx
        try:
            vfs_mkdir(ctx, self.parent, self.name, 0o755)
        except LinuxError as error:
            if error.errno != EEXIST:
                raise
        place = path_lookup(ctx, self.parent, self.name)
        if not place.inode().is_dir():
            raise LinuxError(ENOTDIR)
        self.directories.append((place, entry))

    def _make_link(self, entry: FileEntry) -> None:
        if not wire.is_clean(entry.target):
            raise ProtocolError("a link that leads elsewhere")
        old = path_lookup(self.ctx, self.base, entry.target, 0)
        name = self._next_temporary()
        vfs_link(self.ctx, old, self.parent, name)
        vfs_rename(self.ctx, self.parent, name, self.parent, self.name)
        try:  # rename(2) leaves two names of one file alone
            vfs_unlink(self.ctx, self.parent, name)
        except LinuxError as error:
            if error.errno != ENOENT:
                raise

    def _place(self, name: bytes, entry: FileEntry) -> None:
        """A finished thing gets its attributes and its name.  Raises LinuxError."""
        ctx = self.ctx
        try:
            self._set_attributes(path_lookup(ctx, self.parent, name, 0), entry)
            vfs_rename(ctx, self.parent, name, self.parent, self.name)
        except LinuxError:
            try:
                vfs_unlink(ctx, self.parent, name)
            except LinuxError:
                pass
            raise

    def _open(self, entry: FileEntry) -> None:
        """A regular file is to come."""
        ctx = self.ctx
        old: Inode | None = None
        is_in_place = False
        try:
            place = path_lookup(ctx, self.parent, self.name, LOOKUP_FOLLOW if self.is_following else 0)
            old = place.inode()
            if old.is_dir():
                raise LinuxError(EISDIR)
            above = place.dentry.parent
            if place.dentry is place.mount.root or above is None:
                is_in_place = True  # something is mounted there
            elif old.is_regular():
                require_permission(ctx, old, MAY_WRITE)  # it is replaced, but only by who might write to it
                self.parent, self.name = Path(place.mount, above), place.dentry.name
        except LinuxError as error:
            if error.errno != ENOENT:
                raise
        if (
            entry.mode & 0o7777 == 0
            and entry.mtime_ns == wire.KEEP_NS
            and old is not None
            and old.is_regular()
        ):
            entry.mode = old.mode  # a new text for an old file, whoever owns that
            if entry.uid < 0:
                entry.uid, entry.gid = old.uid, old.gid
        elif entry.mode & 0o7777 == 0 and entry.mtime_ns == wire.KEEP_NS:
            entry.mode |= 0o644
        if is_in_place:
            self.temporary = b""
            self.file = do_open(ctx, self.parent, self.name, O_WRONLY | O_TRUNC, 0).get()
        else:
            self.temporary = self._next_temporary()
            flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
            self.file = do_open(ctx, self.parent, self.temporary, flags, 0o600).get()
        self.entry = entry
        self.at = 0

    def _write(self, file: FileDescription, offset: int, data: bytes) -> None:
        if offset < self.at:
            raise ProtocolError("contents out of order")
        done = 0
        while done < len(data):
            count = file.pwrite(self.ctx, KernelIovIter(data[done:]), offset + done)
            if count <= 0:
                raise LinuxError(-count if count < 0 else EIO)
            done += count
        self.at = offset + done

    def _end(self, file: FileDescription, size: int) -> None:
        entry = self.entry
        if entry is None or size < self.at:
            raise ProtocolError("contents beyond the end")
        if size > self.at:
            result = file.truncate(self.ctx, size)
            if result < 0:
                raise LinuxError(-result)
        self.file = None
        file.put()
        if self.temporary:
            self._place(self.temporary, entry)
        else:
            self._set_attributes(path_lookup(self.ctx, self.parent, self.name), entry)

    def _set_attributes(self, place: Path, entry: FileEntry) -> None:
        """Owner, mode, extended attributes and times, as far as they are given.  Raises LinuxError."""
        ctx = self.ctx
        inode = place.inode()
        is_symlink = inode.is_symlink()
        if entry.uid < 0 and entry.gid < 0:
            entry.uid, entry.gid = self.owner
        if (entry.uid >= 0 or entry.gid >= 0) and (entry.uid != inode.uid or entry.gid != inode.gid):
            vfs_chown(ctx, place, entry.uid, entry.gid)
        if not is_symlink and inode.mode & 0o7777 != entry.mode & 0o7777:
            vfs_chmod(ctx, place, entry.mode & 0o7777)
        for name, value in entry.xattrs:
            vfs_setxattr(ctx, place, name, value, 0)
        if entry.mtime_ns != wire.KEEP_NS:
            vfs_utimens(ctx, place, TIME_OMIT, entry.mtime_ns)


def make_parents(ctx: Context, path: bytes, start: Path | None = None) -> None:
    """Every directory above `path`.  Raises LinuxError."""
    parts = path.split(b"/")[:-1]
    for count in range(1, len(parts) + 1):
        above = b"/".join(parts[:count])
        if above:
            try:
                vfs_mkdir(ctx, start, above, 0o755)
            except LinuxError as error:
                if error.errno != EEXIST:
                    raise


class Remover(Chore):
    """Removes a tree, some names at a time."""

    def __init__(self, table: "FileTable", ident: int, ctx: Context, parent: Path, name: bytes) -> None:
        self.table: FileTable = table
        self.ident: int = ident
        self.ctx: Context = ctx
        self.stack: list[tuple[Path, bytes]] = [(parent, name)]
        self.tries: int = 0

    def step(self) -> bool:
        try:
            end_ns = monotonic_ns() + SLICE_NS
            while self.stack and not self.table.is_closed:
                self._one()
                if monotonic_ns() >= end_ns:
                    return True
        except LinuxError as refusal:
            self.table.answers.reply(self.ident, {"errno": refusal.errno})
            return False
        if not self.table.is_closed:
            self.table.answers.reply(self.ident, {})
        return False

    def _one(self) -> None:
        """Go down, or remove something."""
        ctx = self.ctx
        parent, name = self.stack[-1]
        dentry = lookup_child(ctx, parent.dentry, parent.inode(), name)
        inode = dentry.inode
        if inode is None:
            self.stack.pop()
            return
        if not inode.is_dir():
            vfs_unlink(ctx, parent, name)
            self.stack.pop()
            return
        try:
            vfs_rmdir(ctx, parent, name)
            self.stack.pop()
            return
        except LinuxError as error:
            if error.errno != ENOTEMPTY:
                raise
        self.tries += 1
        if len(self.stack) >= wire.MAX_DEPTH or dentry.mounted:
            raise LinuxError(EBUSY if dentry.mounted else ELOOP)
        place = Path(parent.mount, dentry)
        file = open_path(ctx, place, O_DIRECTORY).get()
        names = Names(_NAMES)
        try:
            file.iterate(ctx, names)
        finally:
            file.put()
        found = [each for each in names.names if each not in (b".", b"..")]
        if not found and self.tries > _TRIES:
            raise LinuxError(ENOTEMPTY)
        for each in found:
            child = lookup_child(ctx, dentry, inode, each).inode
            if child is not None and child.is_dir():
                self.stack.append((place, each))
                return  # first things first: the stack is as deep as the tree
            if child is not None:
                vfs_unlink(ctx, place, each)


# -- requests ----------------------------------------------------------------------------------------------------
class FileTable:
    """All of a container."""

    def __init__(self, container: Container, spec: SandboxSpec, answers: Answers) -> None:
        self.container: Container = container
        self.kernel: Kernel = container.kernel
        self.spec: SandboxSpec = spec
        self.answers: Answers = answers
        self.streams: dict[int, Stream] = {}  # by request
        self.is_closed: bool = False

    def context(self, fields: Fields) -> Context:
        """Who acts.  Raises ProtocolError, LinuxError."""
        root = self.container.root
        if root is None:
            raise LinuxError(ENOENT)
        place = root.mount_ns.root
        ctx = KernelContext(self.container, FsContext(place, place), root.mount_ns)
        uid, gid = wire.take_ids(fields)
        spec = self.spec
        if take_bool(fields, "all_rights"):
            return ctx
        if uid < 0:
            ctx.creds = user_credentials(spec, spec.uid, spec.gid, spec.groups)
        else:
            ctx.creds = user_credentials(spec, uid, gid, [])
        return ctx

    def request(self, message: Message) -> None:
        """One of `wire.files.METHODS`.  Raises ProtocolError, OSError."""
        try:
            self._request(message)
        except LinuxError as refusal:
            self.answers.reply(message.ident, {"errno": refusal.errno})

    def _request(self, message: Message) -> None:
        """Raises ProtocolError, LinuxError, OSError."""
        name, ident, fields = message.name, message.ident, message.fields
        ctx = self.context(fields)
        if name in wire.WITH_STREAM:
            self._open_stream(ctx, message)
        elif name == wire.STAT:
            flags = LOOKUP_FOLLOW if take_bool(fields, "follow") else 0
            path = wire.take_path(fields, "path")
            place = path_lookup(ctx, None, path, flags)
            self.answers.reply(ident, {"entry": entry_of(ctx, path, place.inode()).to_list()})
        elif name == wire.MKDIR:
            self._mkdir(ctx, ident, fields)
        elif name == wire.RENAME:
            old, new = wire.take_path(fields, "old"), wire.take_path(fields, "new")
            vfs_rename(ctx, None, old, None, new)
            self.answers.reply(ident, {})
        elif name == wire.REMOVE:
            self._remove(ctx, ident, fields)
        else:
            raise ProtocolError(f"an unknown request: {name}")

    def _mkdir(self, ctx: Context, ident: int, fields: Fields) -> None:
        path = wire.take_path(fields, "path")
        if take_bool(fields, "parents"):
            make_parents(ctx, path)
        try:
            vfs_mkdir(ctx, None, path, take_int(fields, "mode", 0o755, 0, 0o7777))
        except LinuxError as error:
            is_fine = error.errno == EEXIST and take_bool(fields, "parents")
            if not is_fine or not path_lookup(ctx, None, path).inode().is_dir():
                raise
        self.answers.reply(ident, {})

    def _remove(self, ctx: Context, ident: int, fields: Fields) -> None:
        found = lookup_parent(ctx, None, wire.take_path(fields, "path"))
        if not found.is_plain():
            raise LinuxError(EINVAL)
        dentry = lookup_child(ctx, found.path.dentry, found.path.inode(), found.name)
        inode = dentry.inode
        if inode is None:
            raise LinuxError(ENOENT)
        if take_bool(fields, "recursive") and inode.is_dir():
            if dentry.mounted:
                raise LinuxError(EBUSY)
            self.kernel.chores.append(Remover(self, ident, ctx, found.path, found.name))
            return
        if inode.is_dir():
            vfs_rmdir(ctx, found.path, found.name)
        else:
            vfs_unlink(ctx, found.path, found.name)
        self.answers.reply(ident, {})

    def _open_stream(self, ctx: Context, message: Message) -> None:
        name, ident, fields = message.name, message.ident, message.fields
        if len(message.fds) != 1:
            raise ProtocolError("a stream needs its descriptor")
        if len(self.streams) >= MAX_STREAMS or ident in self.streams:
            raise ProtocolError(f"more than {MAX_STREAMS} streams at once")
        stream: Stream
        if name == wire.PUT:
            has_all = take_bool(fields, "all_rights")
            owner = (self.spec.uid, self.spec.gid) if has_all else (ctx.creds.fsuid, ctx.creds.fsgid)
            builder = TreeBuilder(ctx, fields, owner)
            stream = Receiver(self, ident, message.fds.pop(), builder)
            events = EPOLLIN
        else:
            records = self._records(ctx, name, fields)
            stream = Sender(self, ident, message.fds.pop(), records)
            events = EPOLLOUT
        if stream.sock.family != socket.AF_UNIX or stream.sock.type != socket.SOCK_STREAM:
            stream.sock.close()
            raise LinuxError(EBADF)
        self.streams[ident] = stream
        stream.begin(events)

    def _records(self, ctx: Context, name: str, fields: Fields) -> Generator[bytes, None, None]:
        if name == wire.CHANGES:
            if not take_bool(fields, "all_rights"):
                raise LinuxError(EPERM)
            limit = take_int(fields, "limit", -1, -1, 1 << 62)
            return change_records(ctx, self.container.layers, wire.take_paths(fields), limit)
        own = [layer.fs for layer in self.container.layers if not layer.is_volume]
        return Walker(ctx, fields, own).records()

    def abandon(self, ident: int) -> None:
        """Nobody waits for the answer."""
        stream = self.streams.get(ident)
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """The container goes."""
        self.is_closed = True
        for stream in list(self.streams.values()):
            stream.fail("the sandbox has ended")
