"""Building what a client sends in a container (`wire.files`): each file is finished under another name first."""

from collections.abc import Generator

from cloche.abi.errno import (
    EEXIST,
    EIO,
    EISDIR,
    ENOENT,
    ENOTDIR,
    LinuxError,
)
from cloche.abi.fcntl import O_CREAT, O_EXCL, O_NOFOLLOW, O_TRUNC, O_WRONLY
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.kernel.patience import Patience
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.attr import require_permission
from cloche.vfs.namei import (
    LOOKUP_FOLLOW,
    TIME_OMIT,
    do_open,
    lookup_parent,
    path_lookup,
    vfs_chmod,
    vfs_chown,
    vfs_link,
    vfs_mkdir,
    vfs_mknod,
    vfs_rename,
    vfs_setxattr,
    vfs_symlink,
    vfs_unlink,
    vfs_utimens,
)
from cloche.vfs.objects import MAY_WRITE, Context, FileDescription, Inode, Path
from cloche.wire import files as wire
from cloche.wire.files import FileEntry, Record
from cloche.wire.protocol import Fields, ProtocolError, take_bool


# -- making ------------------------------------------------------------------------------------------------------
def find_base(ctx: Context, fields: Fields) -> Path:
    """The directory below which files are to be made.  Raises ProtocolError, LinuxError."""
    path = wire.take_path(fields, "path")
    take_bool(fields, "follow")
    if take_bool(fields, "parents"):
        make_parents(ctx, path + b"/.")
    base = path_lookup(ctx, None, path)
    if not base.inode().is_dir():
        raise LinuxError(ENOTDIR)
    return base


class TreeBuilder:
    """Makes the files of a stream below a directory, each under another name until it is whole."""

    def __init__(
        self, ctx: Context, patience: Patience, fields: Fields, owner: tuple[int, int], base: Path
    ) -> None:
        """`owner` for files whose entry names none; `base`: `find_base`.  Raises ProtocolError."""
        self.ctx: Context = ctx
        self.patience: Patience = patience
        self.owner: tuple[int, int] = owner
        self.is_following: bool = take_bool(fields, "follow")
        self.makes_parents: bool = take_bool(fields, "parents")
        self.base: Path = base
        self.count: int = 0
        self.entry: FileEntry | None = None  # the file whose contents are arriving
        self.file: FileDescription | None = None
        self.parent: Path = self.base
        self.name: bytes = b""  # what it shall be called
        self.temporary: bytes = b""  # what it is called; empty: it is written in place
        self.at: int = 0
        self.serial: int = 0
        self.directories: list[tuple[Path, FileEntry]] = []  # directories whose times are set at the end

    def take(self, record: Record) -> Generator[bytes, None, None]:
        """Handle one record, in steps that may each have to wait. Raises LinuxError, ProtocolError."""
        entry = record.entry
        if entry is not None:
            if self.file is not None:
                raise ProtocolError("a file before the end of another")
            yield from self._begin(entry)
            return
        file = self.file
        if file is None:
            raise ProtocolError("contents of nothing")
        if record.kind == wire.DATA:
            yield from self._write(file, record.offset, record.data)
        elif record.kind == wire.END:
            yield from self._end(file, record.offset)
        else:
            raise ProtocolError("a record that nobody expects here")

    def finish(self) -> Generator[bytes, None, None]:
        """No more records.  Raises ProtocolError, LinuxError."""
        if self.file is not None:
            raise ProtocolError("a file without an end")
        for place, entry in reversed(self.directories):
            yield from self._set_attributes(place, entry)
        self.directories.clear()

    def abandon(self) -> None:
        """The stream is over: remove files that are only half written."""
        file = self.file
        if file is not None:
            self.file = None
            file.put()
            if self.temporary:
                try:
                    vfs_unlink(self.ctx, self.parent, self.temporary)
                except LinuxError:
                    pass

    def _begin(self, entry: FileEntry) -> Generator[bytes, None, None]:
        ctx, ask, path = self.ctx, self.patience.ask, entry.path
        if not wire.is_clean(path):
            raise ProtocolError("a path that leads elsewhere")
        try:
            found = yield from ask(lambda: lookup_parent(ctx, self.base, path))
        except LinuxError as error:
            if error.errno != ENOENT or not self.makes_parents:
                raise
            yield from ask(lambda: make_parents(ctx, path, self.base))
            found = yield from ask(lambda: lookup_parent(ctx, self.base, path))
        self.parent, self.name = found.path, found.name
        self.count += 1
        kind = entry.mode & S_IFMT
        if entry.is_link:
            yield from self._make_link(entry)
        elif kind == S_IFDIR:
            yield from self._make_directory(entry)
        elif kind == S_IFREG:
            yield from self._open(entry)
        elif kind == S_IFLNK:
            name = self._next_temporary()
            yield from ask(lambda: vfs_symlink(ctx, entry.target, self.parent, name))
            yield from self._place(name, entry)
        else:
            name = self._next_temporary()
            yield from ask(lambda: vfs_mknod(ctx, self.parent, name, entry.mode, entry.rdev))
            yield from self._place(name, entry)

    def _next_temporary(self) -> bytes:
        self.serial += 1
        return b".cloche-%x-%x" % (monotonic_ns() & 0xFFFFFFFFFF, self.serial)

    def _make_directory(self, entry: FileEntry) -> Generator[bytes, None, None]:
        ctx, ask = self.ctx, self.patience.ask
        try:
            yield from ask(lambda: vfs_mkdir(ctx, self.parent, self.name, 0o755))
        except LinuxError as error:
            if error.errno != EEXIST:
                raise
        place = yield from ask(lambda: path_lookup(ctx, self.parent, self.name))
        if not place.inode().is_dir():
            raise LinuxError(ENOTDIR)
        self.directories.append((place, entry))

    def _make_link(self, entry: FileEntry) -> Generator[bytes, None, None]:
        if not wire.is_clean(entry.target):
            raise ProtocolError("a link that leads elsewhere")
        ctx, ask = self.ctx, self.patience.ask
        old = yield from ask(lambda: path_lookup(ctx, self.base, entry.target, 0))
        name = self._next_temporary()
        yield from ask(lambda: vfs_link(ctx, old, self.parent, name))
        yield from ask(lambda: vfs_rename(ctx, self.parent, name, self.parent, self.name))
        try:  # rename(2) leaves two names of one file alone
            yield from ask(lambda: vfs_unlink(ctx, self.parent, name))
        except LinuxError as error:
            if error.errno != ENOENT:
                raise

    def _place(self, name: bytes, entry: FileEntry) -> Generator[bytes, None, None]:
        """Give a finished file its attributes and its name. Raises LinuxError."""
        ctx, ask = self.ctx, self.patience.ask
        failure: LinuxError | None = None
        try:
            place = yield from ask(lambda: path_lookup(ctx, self.parent, name, 0))
            yield from self._set_attributes(place, entry)
            yield from ask(lambda: vfs_rename(ctx, self.parent, name, self.parent, self.name))
        except LinuxError as error:
            failure = error
        if failure is not None:
            try:
                yield from ask(lambda: vfs_unlink(ctx, self.parent, name))
            except LinuxError:
                pass
            raise failure

    def _open(self, entry: FileEntry) -> Generator[bytes, None, None]:
        """Begin a regular file, whose contents follow."""
        ctx, ask = self.ctx, self.patience.ask
        old: Inode | None = None
        is_in_place = False
        try:
            follow = LOOKUP_FOLLOW if self.is_following else 0
            place = yield from ask(lambda: path_lookup(ctx, self.parent, self.name, follow))
            old = place.inode()
            if old.is_dir():
                raise LinuxError(EISDIR)
            above = place.dentry.parent
            if place.dentry is place.mount.root or above is None:
                is_in_place = True  # something is mounted there
            elif old.is_regular():
                # It is replaced, but only if the client's user could write to it
                yield from ask(lambda: require_permission(ctx, old, MAY_WRITE))
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
            entry.mode = old.mode  # new contents of an existing file keep its mode
            if entry.uid < 0:
                entry.uid, entry.gid = old.uid, old.gid
        elif entry.mode & 0o7777 == 0 and entry.mtime_ns == wire.KEEP_NS:
            entry.mode |= 0o644
        if is_in_place:
            self.temporary = b""
            self.file = yield from ask(lambda: _open_held(ctx, self.parent, self.name, O_WRONLY | O_TRUNC, 0))
        else:
            self.temporary = self._next_temporary()
            flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
            self.file = yield from ask(lambda: _open_held(ctx, self.parent, self.temporary, flags, 0o600))
        self.entry = entry
        self.at = 0

    def _write(self, file: FileDescription, offset: int, data: bytes) -> Generator[bytes, None, None]:
        if offset < self.at:
            raise ProtocolError("contents out of order")
        done = 0
        while done < len(data):
            count = yield from self._put(file, data[done:], offset + done)
            if count <= 0:
                raise LinuxError(-count if count < 0 else EIO)
            done += count
        self.at = offset + done

    def _put(self, file: FileDescription, data: bytes, at: int) -> Generator[bytes, None, int]:
        source = KernelIovIter(data)
        count = yield from self.patience.ask(lambda: file.pwrite(self.ctx, source, at))
        return count

    def _set_xattr(self, place: Path, name: bytes, value: bytes) -> Generator[bytes, None, None]:
        yield from self.patience.ask(lambda: vfs_setxattr(self.ctx, place, name, value, 0))

    def _end(self, file: FileDescription, size: int) -> Generator[bytes, None, None]:
        entry = self.entry
        if entry is None or size < self.at:
            raise ProtocolError("contents beyond the end")
        if size > self.at:
            result = yield from self.patience.ask(lambda: file.truncate(self.ctx, size))
            if result < 0:
                raise LinuxError(-result)
        self.file = None
        file.put()
        if self.temporary:
            yield from self._place(self.temporary, entry)
        else:
            place = yield from self.patience.ask(lambda: path_lookup(self.ctx, self.parent, self.name))
            yield from self._set_attributes(place, entry)

    def _set_attributes(self, place: Path, entry: FileEntry) -> Generator[bytes, None, None]:
        """Owner, mode, extended attributes and times, as far as they are given.  Raises LinuxError."""
        ctx, ask = self.ctx, self.patience.ask
        inode = place.inode()
        is_symlink = inode.is_symlink()
        if entry.uid < 0 and entry.gid < 0:
            entry.uid, entry.gid = self.owner
        if (entry.uid >= 0 or entry.gid >= 0) and (entry.uid != inode.uid or entry.gid != inode.gid):
            yield from ask(lambda: vfs_chown(ctx, place, entry.uid, entry.gid))
        if not is_symlink and inode.mode & 0o7777 != entry.mode & 0o7777:
            yield from ask(lambda: vfs_chmod(ctx, place, entry.mode & 0o7777))
        for name, value in entry.xattrs:
            yield from self._set_xattr(place, name, value)
        if entry.mtime_ns != wire.KEEP_NS:
            yield from ask(lambda: vfs_utimens(ctx, place, TIME_OMIT, entry.mtime_ns))


def _open_held(ctx: Context, parent: Path, name: bytes, flags: int, mode: int) -> FileDescription:
    return do_open(ctx, parent, name, flags, mode).get()


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
