"""Making, removing and renaming directory entries, and the events that watchers of inotify(7) see (fs/namei.c).

The interface is described in `vfs.namei`.
"""

from typing import Final

from cloche.abi.capability import CAP_FOWNER, CAP_MKNOD
from cloche.abi.errno import (
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EXDEV,
    LinuxError,
)
from cloche.abi.fcntl import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_ISDIR,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)
from cloche.abi.limits import NAME_MAX, PATH_MAX
from cloche.abi.stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_ISGID,
    S_ISUID,
    S_ISVTX,
    S_IXGRP,
)
from cloche.vfs.attr import (
    inode_permission,
    new_mode,
    owner_or_capable,
    require_permission,
    want_write,
)
from cloche.vfs.dcache import (
    exchange_dentries,
    forget_children,
    instantiate,
    is_below,
    lookup_child,
    move_dentry,
    unhash,
)
from cloche.vfs.host_sockets import HostDoor, SocketPlace
from cloche.vfs.objects import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    Context,
    Dentry,
    Inode,
    Path,
    forget_handle,
)
from cloche.vfs.walk import Parent, lookup_parent, name_error


def is_special(mode: int) -> bool:
    kind = mode & S_IFMT
    return kind == S_IFCHR or kind == S_IFBLK or kind == S_IFIFO or kind == S_IFSOCK


class RenameCookies:
    """The number that ties IN_MOVED_FROM to IN_MOVED_TO."""

    def __init__(self) -> None:
        self.value: int = 0

    def next(self) -> int:
        self.value = (self.value + 1) & 0x7FFFFFFF
        return self.value


RENAME_COOKIES: Final = RenameCookies()


def notify_entry(directory: Inode, mask: int, cookie: int, name: bytes, inode: Inode) -> None:
    watches = directory.watches
    if watches is not None:
        watches.event(mask | IN_ISDIR if inode.is_dir() else mask, cookie, name)


def _notify_self(inode: Inode, mask: int) -> None:
    watches = inode.watches
    if watches is not None:
        watches.event(mask, 0, b"")


def _notify_removed(directory: Inode, name: bytes, inode: Inode) -> None:
    if not inode.is_dir():
        _notify_self(inode, IN_ATTRIB)
    if inode.watches is not None and (inode.is_dir() or inode.nlink == 0):
        inode.watches.name_gone()
    notify_entry(directory, IN_DELETE, 0, name, inode)
    forget_handle(inode)


# -- making names ----------------------------------------------------------------------------------------
class _NewEntry:
    """A checked place for a new name."""

    def __init__(self, parent: Path, directory: Inode, name: bytes) -> None:
        self.parent: Path = parent
        self.directory: Inode = directory
        self.name: bytes = name


def _new_entry(ctx: Context, start: Path | None, name: bytes, *, is_dir: bool) -> _NewEntry:
    """filename_create: a name that nothing has, in a mount that may be written."""
    parent = lookup_parent(ctx, start, name)
    if not parent.is_plain():
        raise LinuxError(EEXIST)
    path = parent.path
    directory = path.inode()
    dentry = lookup_child(ctx, path.dentry, directory, parent.name)
    if dentry.inode is not None:
        raise LinuxError(EEXIST)
    if parent.is_slash and not is_dir:
        raise LinuxError(ENOENT)
    want_write(path.mount)
    return _NewEntry(path, directory, parent.name)


def _may_create(ctx: Context, entry: _NewEntry) -> None:
    """may_create.  Raises LinuxError."""
    if entry.parent.dentry.is_deleted:
        raise LinuxError(ENOENT)
    require_permission(ctx, entry.directory, MAY_WRITE | MAY_EXEC)


def _prepare_create(ctx: Context, start: Path | None, name: bytes, *, is_dir: bool) -> _NewEntry:
    """The two together."""
    entry = _new_entry(ctx, start, name, is_dir=is_dir)
    _may_create(ctx, entry)
    return entry


def _created(entry: _NewEntry, inode: Inode) -> Dentry:
    dentry = instantiate(entry.parent.dentry, entry.name, inode)
    notify_entry(entry.directory, IN_CREATE, 0, entry.name, inode)
    return dentry


def vfs_mkdir(ctx: Context, start: Path | None, name: bytes, mode: int) -> None:
    """mkdirat(2)."""
    entry = _prepare_create(ctx, start, name, is_dir=True)
    mode = mode & 0o1777 & ~ctx.fs.umask
    _created(entry, entry.directory.mkdir(ctx, entry.name, mode))


def vfs_mknod(ctx: Context, start: Path | None, name: bytes, mode: int, rdev: int) -> Path:
    """mknodat(2), and the node of bind(2): a regular file, fifo, socket or device node."""
    kind = mode & S_IFMT
    if kind == 0:
        kind = S_IFREG
    if kind == S_IFDIR:
        raise LinuxError(EPERM)
    if kind != S_IFREG and not is_special(kind):
        raise LinuxError(EINVAL)
    entry = _prepare_create(ctx, start, name, is_dir=False)
    if (kind == S_IFCHR or kind == S_IFBLK) and not ctx.creds.capable(CAP_MKNOD):
        if kind != S_IFCHR or rdev != 0:  # whiteouts are harmless
            raise LinuxError(EPERM)
    mode = new_mode(ctx, entry.directory, kind | mode & 0o7777)
    if kind == S_IFREG:
        inode = entry.directory.create(ctx, entry.name, mode & 0o7777)
    else:
        inode = entry.directory.mknod(ctx, entry.name, mode, rdev)
    return Path(entry.parent.mount, _created(entry, inode))


def vfs_bind(
    ctx: Context, start: Path | None, name: bytes, mode: int, kind: int
) -> tuple[Path, HostDoor | None]:
    """The node of bind(2) for a Unix socket of type `kind`, and what is behind it on the host."""
    entry = _prepare_create(ctx, start, name, is_dir=False)
    mode = new_mode(ctx, entry.directory, S_IFSOCK | mode & 0o7777)
    directory = entry.directory
    if isinstance(directory, SocketPlace):
        inode, door = directory.bind_socket(ctx, entry.name, mode, kind)
    else:
        inode, door = directory.mknod(ctx, entry.name, mode, 0), None
    return Path(entry.parent.mount, _created(entry, inode)), door


def vfs_symlink(ctx: Context, target: bytes, start: Path | None, name: bytes) -> None:
    """symlinkat(2)."""
    if not target:
        raise LinuxError(ENOENT)
    if len(target) >= PATH_MAX:
        raise LinuxError(ENAMETOOLONG)
    entry = _prepare_create(ctx, start, name, is_dir=False)
    _created(entry, entry.directory.symlink(ctx, entry.name, target))


def _is_safe_to_link(ctx: Context, inode: Inode) -> bool:
    """fs.protected_hardlinks: one's own files, and those that one may read and write and that give no privileges."""
    mode = inode.mode
    if owner_or_capable(ctx.creds, inode):
        return True
    if mode & S_IFMT != S_IFREG or mode & S_ISUID or mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        return False
    return inode_permission(ctx, inode, MAY_READ | MAY_WRITE) == 0


def vfs_link(ctx: Context, old: Path, start: Path | None, name: bytes) -> None:
    """linkat(2) of an object that was looked up; the caller checks the capability for AT_EMPTY_PATH."""
    # As filename_create: the existence and type checks come before EXDEV.
    entry = _new_entry(ctx, start, name, is_dir=False)
    directory = entry.directory
    if old.mount is not entry.parent.mount:
        raise LinuxError(EXDEV)
    inode = old.inode()
    if not _is_safe_to_link(ctx, inode):
        raise LinuxError(EPERM)
    _may_create(ctx, entry)
    if inode.fs is not directory.fs:
        raise LinuxError(EXDEV)
    if inode.is_dir():
        raise LinuxError(EPERM)
    if inode.nlink == 0 and not inode.is_linkable:
        raise LinuxError(ENOENT)
    directory.link(ctx, entry.name, inode)
    inode.is_linkable = False
    instantiate(entry.parent.dentry, entry.name, inode)
    _notify_self(inode, IN_ATTRIB)
    notify_entry(directory, IN_CREATE, 0, entry.name, inode)


# -- removing names --------------------------------------------------------------------------------------
def _may_delete(ctx: Context, directory: Inode, parent: Dentry, inode: Inode, *, is_dir: bool) -> None:
    """may_delete of fs/namei.c for a positive victim."""
    require_permission(ctx, directory, MAY_WRITE | MAY_EXEC)
    if directory.mode & S_ISVTX:
        creds = ctx.creds
        if creds.fsuid != inode.uid and creds.fsuid != directory.uid:
            if not creds.capable_over(inode.uid, inode.gid, CAP_FOWNER):
                raise LinuxError(EPERM)
    if is_dir:
        if not inode.is_dir():
            raise LinuxError(ENOTDIR)
    elif inode.is_dir():
        raise LinuxError(EISDIR)
    if parent.is_deleted:
        raise LinuxError(ENOENT)


def vfs_unlink(ctx: Context, start: Path | None, name: bytes) -> None:
    """unlinkat(2) without AT_REMOVEDIR."""
    parent = lookup_parent(ctx, start, name)
    if not parent.is_plain():
        raise LinuxError(EISDIR)
    path = parent.path
    want_write(path.mount)
    directory = path.inode()
    dentry = lookup_child(ctx, path.dentry, directory, parent.name)
    inode = dentry.inode
    if inode is None:
        raise LinuxError(ENOENT)
    if parent.is_slash:
        raise LinuxError(EISDIR if inode.is_dir() else ENOTDIR)
    _may_delete(ctx, directory, path.dentry, inode, is_dir=False)
    if dentry.mounted:
        raise LinuxError(EBUSY)
    directory.unlink(ctx, dentry.name, inode)
    unhash(dentry)
    _notify_removed(directory, dentry.name, inode)


def vfs_rmdir(ctx: Context, start: Path | None, name: bytes) -> None:
    """rmdir(2), unlinkat(2) with AT_REMOVEDIR."""
    parent = lookup_parent(ctx, start, name)
    if not parent.is_plain():
        if parent.name == b"..":
            raise LinuxError(ENOTEMPTY)
        raise LinuxError(EINVAL if parent.name == b"." else EBUSY)
    path = parent.path
    want_write(path.mount)
    directory = path.inode()
    dentry = lookup_child(ctx, path.dentry, directory, parent.name)
    inode = dentry.inode
    if inode is None:
        raise LinuxError(ENOENT)
    _may_delete(ctx, directory, path.dentry, inode, is_dir=True)
    if dentry.mounted:
        raise LinuxError(EBUSY)
    directory.rmdir(ctx, dentry.name, inode)
    forget_children(dentry)
    unhash(dentry)
    _notify_removed(directory, dentry.name, inode)


# -- rename ----------------------------------------------------------------------------------------------
def vfs_rename(
    ctx: Context,
    old_start: Path | None,
    old_name: bytes,
    new_start: Path | None,
    new_name: bytes,
    flags: int = 0,
) -> None:
    """renameat2(2) of two paths.  Raises LinuxError."""
    old = lookup_parent(ctx, old_start, old_name, checks_length=False)
    new = lookup_parent(ctx, new_start, new_name, checks_length=False)
    rename_between(ctx, old, new, flags)


def rename_between(ctx: Context, old: Parent, new: Parent, flags: int) -> None:
    """renameat2(2) of two last components (fs/namei.c, do_renameat2 and vfs_rename).  Raises LinuxError."""
    is_exchange = flags & RENAME_EXCHANGE != 0
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise LinuxError(EINVAL)
    if is_exchange and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT):
        raise LinuxError(EINVAL)
    if old.path.mount is not new.path.mount:
        raise LinuxError(EXDEV)
    if not old.is_plain():
        raise LinuxError(EBUSY)
    if not new.is_plain():
        raise LinuxError(EEXIST if flags & RENAME_NOREPLACE else EBUSY)
    want_write(old.path.mount)
    old_parent = old.path.dentry
    new_parent = new.path.dentry
    old_dir = old.path.inode()
    new_dir = new.path.inode()
    if len(old.name) > NAME_MAX:
        raise LinuxError(name_error(old_parent))
    source_dentry = lookup_child(ctx, old_parent, old_dir, old.name)
    source = source_dentry.inode
    if source is None:
        raise LinuxError(ENOENT)
    if new_parent.is_deleted:
        raise LinuxError(ENOENT)
    if len(new.name) > NAME_MAX:
        raise LinuxError(ENAMETOOLONG)
    target_dentry = lookup_child(ctx, new_parent, new_dir, new.name)
    target = target_dentry.inode
    if flags & RENAME_NOREPLACE and target is not None:
        raise LinuxError(EEXIST)
    if is_exchange:
        if target is None:
            raise LinuxError(ENOENT)
        if not target.is_dir() and new.is_slash:
            raise LinuxError(ENOTDIR)
    is_dir = source.is_dir()
    if not is_dir and (old.is_slash or (new.is_slash and not is_exchange)):
        raise LinuxError(ENOTDIR)
    if is_dir and is_below(new_parent, source_dentry):
        raise LinuxError(EINVAL)
    if target is not None and target.is_dir() and is_below(old_parent, target_dentry):
        raise LinuxError(EINVAL if is_exchange else ENOTEMPTY)
    if source is target:
        return
    _may_delete(ctx, old_dir, old_parent, source, is_dir=is_dir)
    if target is None:
        require_permission(ctx, new_dir, MAY_WRITE | MAY_EXEC)
    else:
        _may_delete(ctx, new_dir, new_parent, target, is_dir=target.is_dir() if is_exchange else is_dir)
    if new_dir is not old_dir:
        if is_dir:
            require_permission(ctx, source, MAY_WRITE)
        if is_exchange and target is not None and target.is_dir():
            require_permission(ctx, target, MAY_WRITE)
    if source_dentry.mounted or target_dentry.mounted:
        raise LinuxError(EBUSY)
    old_dir.rename(ctx, old.name, source, new_dir, new.name, target, flags)
    if is_exchange:
        exchange_dentries(source_dentry, target_dentry)
    else:
        if target is not None:
            forget_children(target_dentry)
        unhash(target_dentry)
        move_dentry(source_dentry, new_parent, new.name)
    _notify_rename(old_dir, old.name, source, new_dir, new.name, target, is_exchange=is_exchange)


def _notify_rename(
    old_dir: Inode,
    old_name: bytes,
    source: Inode,
    new_dir: Inode,
    new_name: bytes,
    target: Inode | None,
    *,
    is_exchange: bool,
) -> None:
    cookie = RENAME_COOKIES.next()
    notify_entry(old_dir, IN_MOVED_FROM, cookie, old_name, source)
    notify_entry(new_dir, IN_MOVED_TO, cookie, new_name, source)
    _notify_self(source, IN_MOVE_SELF)
    if target is None:
        return
    if is_exchange:
        cookie = RENAME_COOKIES.next()
        notify_entry(new_dir, IN_MOVED_FROM, cookie, new_name, target)
        notify_entry(old_dir, IN_MOVED_TO, cookie, old_name, target)
        _notify_self(target, IN_MOVE_SELF)
        return
    _notify_self(target, IN_ATTRIB | IN_ISDIR if target.is_dir() else IN_ATTRIB)
    if target.watches is not None and (target.is_dir() or target.nlink == 0):
        target.watches.name_gone()
    forget_handle(target)
