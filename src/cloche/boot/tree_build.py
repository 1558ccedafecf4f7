"""Building what a client sends in a container (`wire.files`): each file is finished under another name first."""

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
