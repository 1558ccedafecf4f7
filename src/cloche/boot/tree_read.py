"""Reading trees of a container's files for a client (`wire.files`): entries, contents, changes."""

from collections.abc import Generator
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    ENAMETOOLONG,
    ENODATA,
    EOPNOTSUPP,
    LinuxError,
)
from cloche.abi.fcntl import O_DIRECTORY
from cloche.abi.fs import SEEK_DATA, SEEK_HOLE
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.fs.changes import CHANGED, MAX_WAY_BYTES, Change, Changes, open_inode
from cloche.fs.overlay import OverlayFile
from cloche.fs.tmpfs_inode import TmpfsInode
from cloche.kernel.patience import Patience
from cloche.vfs.dcache import lookup_child
from cloche.vfs.layers import Layer
from cloche.vfs.listing import Names
from cloche.vfs.mount import top_of
from cloche.vfs.namei import (
    LOOKUP_FOLLOW,
    open_path,
    path_lookup,
)
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.wire import files as wire
from cloche.wire.files import Base, FileEntry
from cloche.wire.protocol import Fields, take_bool, take_int

NAMES_AT_ONCE: Final = 256  # names of a directory that are read at a time
_MAX_LINKS: Final = 1 << 16  # files with several names that a stream remembers
_ENDLESS: Final = 64 << 20  # bytes of a file without a size (/proc)


# -- looking -----------------------------------------------------------------------------------------------------
def entry_of(ctx: Context, path: bytes, inode: Inode) -> FileEntry:
    """The entry that describes a file. Raises LinuxError."""
    inode.refresh(ctx)
    entry = FileEntry(path, inode.mode)
    entry.uid, entry.gid, entry.size = inode.uid, inode.gid, inode.size
    entry.mtime_ns, entry.ctime_ns = inode.mtime_ns, inode.ctime_ns
    entry.rdev, entry.nlink, entry.ino = inode.rdev, inode.nlink, inode.ino & 0x7FFFFFFFFFFFFFFF
    if inode.mode & S_IFMT == S_IFLNK:
        entry.target = inode.readlink(ctx)
    return entry


def open_held(ctx: Context, place: Path, flags: int) -> FileDescription:
    """An open file, with one reference.  Raises LinuxError."""
    return open_path(ctx, place, flags).get()


def list_some(ctx: Context, directory: FileDescription) -> tuple[Names, int]:
    """The next names of a directory, and a negative errno where they end in an error."""
    names = Names(NAMES_AT_ONCE)
    return names, directory.iterate(ctx, names)


def xattrs_of(ctx: Context, inode: Inode) -> list[tuple[bytes, bytes]]:
    """Extended attributes, those that can be had."""
    found: list[tuple[bytes, bytes]] = []
    try:
        for name in inode.listxattr(ctx):
            try:
                found.append((name, inode.getxattr(ctx, name)))
            except LinuxError as error:
                if error.errno not in (ENODATA, EOPNOTSUPP):
                    raise
    except LinuxError:
        pass
    return found


def _seek(
    ctx: Context, patience: Patience, file: FileDescription, offset: int, whence: int = SEEK_DATA
) -> Generator[bytes, None, int]:
    found = yield from patience.ask(lambda: file.lseek(ctx, offset, whence))
    return found


def _read(
    ctx: Context, patience: Patience, file: FileDescription, offset: int, count: int
) -> Generator[bytes, None, bytes]:
    data = yield from patience.ask(lambda: file.read_bytes(ctx, offset, count))
    return data


def contents(
    ctx: Context, patience: Patience, file: FileDescription, size: int
) -> Generator[bytes, None, None]:
    """Records of the contents of an open file, holes left out, and END."""
    offset = 0
    is_sparse = size > 0
    limit = size if size > 0 else _ENDLESS
    while offset < limit:
        if is_sparse:
            found = yield from _seek(ctx, patience, file, offset)
            if found < 0:
                break  # a hole to the end
            offset = max(offset, found)
        count = min(wire.CHUNK_BYTES, limit - offset)
        try:
            data = yield from _read(ctx, patience, file, offset, count)
        except LinuxError as error:
            if error.errno != EAGAIN:
                yield wire.pack_error(b"", error.errno)
            break
        if not data:
            break
        yield wire.pack_data(offset, data)
        offset += len(data)
    yield wire.pack_end(size if size > 0 else offset)


def _contents_below(
    ctx: Context, patience: Patience, file: FileDescription, size: int
) -> Generator[bytes, None, None]:
    """The same of a file of the host, to its present end: it may not have `size` bytes any more."""
    offset = 0
    while True:
        found = yield from _seek(ctx, patience, file, offset)
        if found < 0:
            break
        offset = max(offset, found)
        try:
            data = yield from _read(ctx, patience, file, offset, wire.CHUNK_BYTES)
        except LinuxError as error:
            if error.errno != EAGAIN:
                yield wire.pack_error(b"", error.errno)
            break
        if not data:
            break
        yield wire.pack_data(offset, data)
        offset += len(data)
        if offset == size and len(data) < wire.CHUNK_BYTES:
            break
    if offset < size:  # a hole, to where there is nothing: not even that
        least, most = offset, size
        while least < most:
            middle = (least + most) // 2 if most < size else most - 1
            found = yield from _seek(ctx, patience, file, middle, SEEK_HOLE)
            if found >= 0:
                least = middle + 1
            else:
                most = middle
        offset = most
    yield wire.pack_end(offset)


def change_records(
    ctx: Context, patience: Patience, layers: list[Layer], wanted: list[bytes], limit: int
) -> Generator[bytes, None, None]:
    """Yield records of what guests have changed, with the contents of files of at most `limit` bytes; an empty record
    after a piece of work that gave none.
    """
    for layer in layers:
        yield wire.pack([wire.LAYER, layer.place or b"/"])
        try:
            changes = Changes(ctx, layer, wanted, patience)
            for change in changes.walk():
                yield from _too_deep(changes)
                if change is None:
                    yield b""
                else:
                    yield from _change(ctx, patience, layer, change, limit)
            yield from _too_deep(changes)
        except LinuxError as error:
            yield wire.pack_error(layer.place or b"/", error.errno)
    yield wire.pack([wire.DONE])


def _too_deep(changes: Changes) -> Generator[bytes, None, None]:
    while changes.too_deep:
        yield wire.pack_error(changes.too_deep.pop(), ENAMETOOLONG)


def _change(
    ctx: Context, patience: Patience, layer: Layer, change: Change, limit: int
) -> Generator[bytes, None, None]:
    """CHANGE, its entry, its contents."""
    inode, known, below = change.inode, change.known, change.base
    base: Base | None = None
    old: bytes | None = None
    if known is not None:
        base = Base(known.mode, known.uid, known.gid, known.size, known.mtime_ns, known.ctime_ns)
        old = known.data
    elif change.is_unseen and below is not None:
        base = Base(0, 0, 0, 0, 0, 0)
    elif below is not None or change.kind == CHANGED:
        first = layer.firsts.get(change.path)
        if first is not None:
            base = Base(first.mode, first.uid, first.gid, first.size, first.mtime_ns, first.ctime_ns)
        elif below is not None:
            base = Base(below.mode, below.uid, below.gid, below.size, below.mtime_ns, below.ctime_ns)
        if base is not None and below is not None:
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
        entry = yield from patience.ask(lambda: entry_of(ctx, change.path, shown))
        if isinstance(inode, TmpfsInode):
            if inode.xattrs is not None or inode.backing is not below:
                entry.xattrs = yield from patience.ask(lambda: xattrs_of(ctx, inode))
            if inode.backing is not None and inode.backing is not below:
                origin = inode.backing.ino & 0x7FFFFFFFFFFFFFFF
        if entry.size <= limit and inode is not None and change.has_new_data():
            file = yield from patience.ask(lambda: open_inode(ctx, layer, inode))
    except LinuxError as error:
        yield wire.pack_error(change.path, error.errno)
        return
    row: list[object] = [wire.CHANGE, change.kind, change.has_new_data(), origin]
    yield wire.pack([*row, base.to_list() if base is not None else None, old])
    yield wire.pack(entry.to_list())
    if file is not None:
        try:
            if isinstance(inode, OverlayFile) and inode.is_below and entry.size:
                yield from _contents_below(ctx, patience, file, entry.size)
            else:
                yield from contents(ctx, patience, file, entry.size)
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

    def __init__(self, ctx: Context, patience: Patience, fields: Fields, own: list[FileSystem]) -> None:
        """`own`: the file systems of the container's root. Raises ProtocolError."""
        self.ctx: Context = ctx
        self.patience: Patience = patience
        self.own: list[FileSystem] = own
        self.paths: list[bytes] = wire.take_paths(fields)
        self.depth: int = take_int(fields, "depth", 0, 0, wire.MAX_DEPTH)
        self.has_data: bool = take_bool(fields, "data")
        self.is_following: bool = take_bool(fields, "follow")
        self.is_own_only: bool = take_bool(fields, "own")
        self.has_xattrs: bool = take_bool(fields, "xattrs")
        self.links: dict[Inode, bytes] = {}
        self.levels: list[_Level] = []
        self.way_bytes: int = 0  # names of `levels`

    def records(self) -> Generator[bytes, None, None]:
        """Yield all records; an empty one after a piece of work that gave none."""
        for path in self.paths:
            try:
                place = yield from self._look_up(path)
            except LinuxError as error:
                yield wire.pack_error(path, error.errno)
                continue
            # If several paths were asked for, each is named by its path; a single one has the empty name.
            name = path if len(self.paths) > 1 else b""
            try:
                yield from self._file(place, name)
                while self.levels:
                    yield from self._level(self.levels[-1])
            finally:
                while self.levels:
                    self.levels.pop().file.put()
                self.way_bytes = 0
        yield wire.pack([wire.DONE])

    def _look_up(self, path: bytes) -> Generator[bytes, None, Path]:
        flags = LOOKUP_FOLLOW if self.is_following else 0
        place = yield from self.patience.ask(lambda: path_lookup(self.ctx, None, path, flags))
        return place

    def _file(self, place: Path, name: bytes) -> Generator[bytes, None, None]:
        """A file with its contents; a directory is pushed on `levels`."""
        ctx, ask, inode = self.ctx, self.patience.ask, place.inode()
        file: FileDescription | None = None
        kind = inode.mode & S_IFMT
        try:
            entry = yield from ask(lambda: entry_of(ctx, name, inode))
            if self.has_xattrs:
                entry.xattrs = yield from ask(lambda: xattrs_of(ctx, inode))
            earlier = self.links.get(inode)
            if kind == S_IFDIR and len(self.levels) < self.depth:
                file = yield from ask(lambda: open_held(ctx, place, O_DIRECTORY))
            elif kind == S_IFREG and self.has_data and earlier is None:
                file = yield from ask(lambda: open_held(ctx, place, 0))
        except LinuxError as error:
            yield wire.pack_error(name, error.errno)
            return
        if kind == S_IFDIR:
            yield wire.pack(entry.to_list())
            if file is not None and self.way_bytes + len(name) > MAX_WAY_BYTES:
                file.put()
                yield wire.pack_error(name, ENAMETOOLONG)
            elif file is not None:
                self.way_bytes += len(name)
                self.levels.append(_Level(place, name, file))
            return
        if earlier is not None and self.depth:
            entry.is_link, entry.target = True, earlier
        elif entry.nlink > 1 and len(self.links) < _MAX_LINKS:
            self.links[inode] = name
        yield wire.pack(entry.to_list())
        if file is not None:
            try:
                yield from contents(ctx, self.patience, file, entry.size)
            finally:
                file.put()

    def _level(self, level: _Level) -> Generator[bytes, None, None]:
        """The next few names of a directory."""
        if not level.rows:
            names = Names(NAMES_AT_ONCE)
            result = 0
            if not level.is_over:
                names, result = yield from self.patience.ask(lambda: list_some(self.ctx, level.file))
            level.rows = [name for name in reversed(names.names) if name not in (b".", b"..")]
            level.is_over = not names.names or result < 0
            if level.is_over:
                self.levels.pop()
                self.way_bytes -= len(level.name)
                level.file.put()
            yield wire.pack_error(level.name, -result) if result < 0 else b""
            return
        name = level.rows.pop()
        whole = level.name + b"/" + name if level.name else name
        dentry = yield from self.patience.ask(
            lambda: lookup_child(self.ctx, level.place.dentry, level.place.inode(), name)
        )
        if dentry.inode is None:
            return  # removed meanwhile
        place = top_of(Path(level.place.mount, dentry))
        if self.is_own_only and place.mount is not level.place.mount and place.mount.fs not in self.own:
            try:
                entry = yield from self.patience.ask(lambda: entry_of(self.ctx, whole, place.inode()))
                yield wire.pack(entry.to_list())  # where something is mounted
            except LinuxError:
                pass
            return
        yield from self._file(place, whole)
