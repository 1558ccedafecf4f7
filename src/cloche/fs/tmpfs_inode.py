"""The base of all in-memory inodes: attributes, extended attributes, accounting; and symbolic links.

`fs.tmpfs` has the rest, and the guarantees.
"""

import time
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import (
    E2BIG,
    EEXIST,
    EINVAL,
    EISDIR,
    ENODATA,
    ENOSPC,
    EOPNOTSUPP,
    LinuxError,
)
from cloche.abi.fcntl import (
    O_NOATIME,
)
from cloche.abi.fs import (
    MS_NOATIME,
    MS_NODIRATIME,
    MS_RDONLY,
)
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.abi.xattr import (
    NAME_CAPS,
    SECURITY_PREFIX,
    TRUSTED_PREFIX,
    USER_PREFIX,
    XATTR_CREATE,
    XATTR_LIST_MAX,
    XATTR_REPLACE,
)
from cloche.fs.quota import PAGE, Account, page_count
from cloche.mm.quota import KERNEL_MEMORY
from cloche.vfs.devices import open_special
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Mount, Path
from cloche.vfs.records import (
    ATTR_ATIME,
    ATTR_CTIME,
    ATTR_GID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_SIZE,
    ATTR_UID,
    SetAttr,
)

SHORT_SYMLINK: Final = 128  # a longer target, its NUL included, takes a page (SHORT_SYMLINK_LEN)
# Names and values of a file's extended attributes. Linux' file systems have limits of their own (ext4 a few blocks),
# and say ENOSPC; here it bounds what one row of a kept layer's journal takes (`fs.kept`).
MAX_ATTRIBUTE_BYTES: Final = 1 << 20
_DAY_NS: Final = 86_400_000_000_000


@trait
class LayerLog:
    """Is told of changes, to store them (`fs.kept`)."""

    def changed(self, inode: "TmpfsInode") -> None:
        """Attributes or contents have changed."""
        raise NotImplementedError

    def named(self, directory: "TmpfsInode", name: bytes) -> None:
        """A name was added, removed, or changed to another file."""
        raise NotImplementedError

    def sync(self, inode: "TmpfsInode | None") -> int:
        """fsync(2) of a file, or of all; 0 or -errno."""
        raise NotImplementedError


class MemoryFs(FileSystem):
    """A file system as its inodes need it: an account, and inode numbers."""

    def __init__(self, kind: str, magic: int, dev: int, account: Account) -> None:
        super().__init__(kind, magic, dev)
        self.account: Account = account
        self.next_ino: int = 1
        self.is_kept: bool = False  # it has a log, or will get one
        self.log: LayerLog | None = None

    def sync(self) -> int:
        log = self.log
        return log.sync(None) if log is not None else 0

    def alloc_ino(self) -> int:
        """A number for a new inode."""
        ino = self.next_ino
        self.next_ino = ino + 1
        return ino

    def lost_last_name(self, inode: Inode) -> None:
        """An inode has lost its last name, and exists only while it is open (the overlay forgets it)."""


def _check_attribute(name: bytes) -> None:
    """EOPNOTSUPP for a name of no kind that is kept, EINVAL for a kind alone (fs/xattr.c, xattr_resolve_name)."""
    if not name.startswith((USER_PREFIX, TRUSTED_PREFIX, SECURITY_PREFIX)):
        raise LinuxError(EOPNOTSUPP)
    if name in (USER_PREFIX, TRUSTED_PREFIX, SECURITY_PREFIX):
        raise LinuxError(EINVAL)


class TmpfsInode(Inode):
    """The base of all in-memory inodes; devices, fifos and sockets are of this class itself."""

    def __init__(
        self, fs: MemoryFs, ino: int, mode: int, uid: int, gid: int, *, is_charged: bool = True
    ) -> None:
        super().__init__(fs, ino, mode, uid, gid)
        self.tmpfs: MemoryFs = fs
        self.is_charged: bool = is_charged  # counted in the account's inodes
        self.charged_names: int = 0  # hard links that are counted as inodes too
        self.backing: Inode | None = None  # the inode of a lower layer (overlay)
        self.is_from_before: bool = False  # kept layers: made by an earlier sandbox
        self.is_first_kept: bool = False  # kept layers: the backing's state is in the journal
        self.is_changed: bool = True  # overlay: differs from `backing`, or has none
        self.xattrs: dict[bytes, bytes] | None = None  # None: those of the backing
        # attributes that were read from the backing
        self.xattrs_below: dict[bytes, bytes | None] | None = None
        self.xattr_pages: int = 0
        self.label: int = 0  # its number in the log
        self.origin: TmpfsInode | None = None  # kept layers: the directory of its first name …
        self.origin_name: bytes = b""  # … and that name
        now = time.time_ns()
        self.atime_ns = now
        self.mtime_ns = now
        self.ctime_ns = now
        self.btime_ns = now

    def __del__(self) -> None:
        if self.is_charged:
            self.is_charged = False
            self.tmpfs.account.uncharge_inode()
        if self.xattr_pages:
            self.tmpfs.account.charge_pages(-self.xattr_pages)
            self.xattr_pages = 0

    def note(self) -> None:
        """The inode has changed: tell the layer's log."""
        log = self.tmpfs.log
        if log is not None:
            log.changed(self)

    def touch(self) -> None:
        """The contents changed: mtime and ctime."""
        now = time.time_ns()
        self.mtime_ns = now
        self.ctime_ns = now
        self.is_changed = True
        self.note()

    def accessed(self, mount: Mount | None, flags: int) -> None:
        """relatime: update atime if it is not newer than mtime and ctime, or is a day old."""
        atime = self.atime_ns
        if atime > self.mtime_ns and atime > self.ctime_ns:
            now = time.time_ns()
            if now - atime < _DAY_NS:
                return
        else:
            now = time.time_ns()
        if flags & O_NOATIME or not self.is_changed:  # a lower layer's times stay
            return
        if mount is not None:
            mount_flags = mount.flags
            if mount_flags & (MS_NOATIME | MS_RDONLY):
                return
            if mount_flags & MS_NODIRATIME and self.mode & S_IFMT == S_IFDIR:
                return
        self.atime_ns = now

    # -- attributes --------------------------------------------------------------------------------------
    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        valid = attr.valid
        self.is_changed = True
        self.note()
        if valid & ATTR_SIZE:
            self.resize(ctx, attr.size)
            if valid & ATTR_MTIME == 0:
                self.touch()
        if valid & ATTR_MODE:
            self.mode = (self.mode & S_IFMT) | (attr.mode & 0o7777)
        if valid & ATTR_UID:
            self.uid = attr.uid
        if valid & ATTR_GID:
            self.gid = attr.gid
        if valid & ATTR_ATIME:
            self.atime_ns = attr.atime_ns
        if valid & ATTR_MTIME:
            self.mtime_ns = attr.mtime_ns
        if valid & ATTR_CTIME:
            self.ctime_ns = attr.ctime_ns
        if valid & (ATTR_SIZE | ATTR_UID | ATTR_GID):
            self.drop_file_caps(ctx)

    def resize(self, ctx: Context, size: int) -> None:
        """ATTR_SIZE.  Raises LinuxError."""
        raise LinuxError(EISDIR if self.is_dir() else EINVAL)

    # -- extended attributes -----------------------------------------------------------------------------
    def drop_file_caps(self, ctx: Context) -> None:
        """security.capability does not survive a change of contents or owner."""
        if self.xattrs is not None and NAME_CAPS in self.xattrs:
            del self.xattrs[NAME_CAPS]
        elif self.xattrs is None and self.backing is not None and self.mode & S_IFMT == S_IFREG:
            if self._xattr_below(ctx, NAME_CAPS) is not None:
                xattrs = self._xattrs_to_change(ctx)
                xattrs.pop(NAME_CAPS, None)
                self.xattrs = xattrs

    def _xattrs_to_change(self, ctx: Context) -> dict[bytes, bytes]:
        """The inode's own attributes, or a copy of the backing's, which the caller makes its own by a change.

        Raises LinuxError(ENOSPC) if the backing has too many.
        """
        xattrs = self.xattrs
        if xattrs is None:
            xattrs = {}
            backing = self.backing
            if backing is not None:
                total = 0
                for name in backing.listxattr(ctx):
                    try:
                        value = backing.getxattr(ctx, name)
                    except LinuxError:
                        continue
                    total += len(name) + len(value)
                    if total > MAX_ATTRIBUTE_BYTES:
                        raise LinuxError(ENOSPC)
                    xattrs[name] = value
        return xattrs

    def _xattr_below(self, ctx: Context, name: bytes) -> bytes | None:
        """An attribute of the backing, cached: every exec asks for security.capability."""
        backing = self.backing
        if backing is None:
            return None
        known = self.xattrs_below
        if known is None:
            known = {}
            self.xattrs_below = known
        if name not in known:
            try:
                known[name] = backing.getxattr(ctx, name)
            except LinuxError as error:
                if error.errno not in (ENODATA, EOPNOTSUPP):
                    raise
                known[name] = None
        return known[name]

    def getxattr(self, ctx: Context, name: bytes) -> bytes:
        _check_attribute(name)
        xattrs = self.xattrs
        if xattrs is None:
            value = self._xattr_below(ctx, name)
        else:
            value = xattrs.get(name)
        if value is None:
            raise LinuxError(ENODATA)
        return value

    def setxattr(self, ctx: Context, name: bytes, value: bytes, flags: int) -> None:
        _check_attribute(name)
        xattrs = self._xattrs_to_change(ctx)
        old = xattrs.get(name)
        if flags & XATTR_CREATE and old is not None:
            raise LinuxError(EEXIST)
        if flags & XATTR_REPLACE and old is None:
            raise LinuxError(ENODATA)
        total = 0
        names = 0
        for each, held in xattrs.items():
            if each != name:
                total += len(each) + len(held)
                names += len(each) + 1
        if names + len(name) + 1 > XATTR_LIST_MAX:
            raise LinuxError(E2BIG)
        if total + len(name) + len(value) > MAX_ATTRIBUTE_BYTES:
            raise LinuxError(ENOSPC)
        pages = page_count(total + len(name) + len(value)) if total + len(name) + len(value) > 512 else 0
        account = self.tmpfs.account
        if pages - self.xattr_pages > account.free_pages():
            raise LinuxError(ENOSPC)
        account.charge_pages(pages - self.xattr_pages)
        self.xattr_pages = pages
        xattrs[name] = value
        self.xattrs = xattrs
        self.ctime_ns = time.time_ns()
        self.is_changed = True
        self.note()

    def listxattr(self, ctx: Context) -> list[bytes]:
        xattrs = self.xattrs
        if xattrs is None:
            return [] if self.backing is None else self.backing.listxattr(ctx)
        return list(xattrs)

    def removexattr(self, ctx: Context, name: bytes) -> None:
        _check_attribute(name)
        xattrs = self._xattrs_to_change(ctx)
        if name not in xattrs:
            raise LinuxError(ENODATA)
        del xattrs[name]
        self.xattrs = xattrs
        self.ctime_ns = time.time_ns()
        self.is_changed = True
        self.note()

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return open_special(ctx, path, self, flags)


class TmpfsLink(TmpfsInode):
    """A symbolic link."""

    def __init__(
        self, fs: MemoryFs, ino: int, target: bytes, uid: int, gid: int, *, is_charged: bool = True
    ) -> None:
        super().__init__(fs, ino, S_IFLNK | 0o777, uid, gid, is_charged=is_charged)
        self.target: bytes = target
        self.size = len(target)
        self.pages: int = 0
        if is_charged:
            KERNEL_MEMORY.take(len(target))
            if len(target) >= SHORT_SYMLINK:
                self.pages = 1
                self.blocks = PAGE // 512
                fs.account.charge_pages(1)

    def __del__(self) -> None:
        if self.is_charged:
            KERNEL_MEMORY.give(len(self.target))
        if self.pages:
            self.tmpfs.account.charge_pages(-self.pages)
            self.pages = 0
        super().__del__()

    def link_was_read(self, mount: Mount) -> None:
        self.accessed(mount, 0)

    def readlink(self, ctx: Context) -> bytes:
        return self.target
