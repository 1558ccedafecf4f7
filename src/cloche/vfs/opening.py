"""open(2), openat2(2) and access(2) over the path walk (fs/open.c).

The interface is described in `vfs.namei`.
"""

from typing import Final

from cloche.abi.capability import CAP_DAC_READ_SEARCH
from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENOENT,
    EPERM,
    EROFS,
    LinuxError,
)
from cloche.abi.fcntl import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_SYMLINK_NOFOLLOW,
    FASYNC,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_DIRECTORY,
    O_DSYNC,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_SYNC,
    O_TMPFILE,
    O_TRUNC,
    RESOLVE_CACHED,
)
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_RDONLY
from cloche.abi.inotify import (
    IN_CREATE,
    IN_OPEN,
)
from cloche.abi.stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_ISVTX,
    S_IWOTH,
)
from cloche.mm.usermem import IovIter
from cloche.vfs.attr import (
    do_truncate,
    get_write_access,
    inode_permission,
    new_mode,
    owner_or_capable,
    require_permission,
    want_write,
)
from cloche.vfs.dcache import instantiate
from cloche.vfs.entries import is_special, notify_entry
from cloche.vfs.objects import (
    CREATED,
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    Context,
    Dentry,
    FileDescription,
    Inode,
    Path,
    notify_path,
)
from cloche.vfs.walk import (
    LOOKUP_DIRECTORY,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    SCOPED,
    VALID_RESOLVE,
    begin,
    path_lookup,
    path_lookup_quick,
)

_TMPFILE_BIT: Final = O_TMPFILE & ~O_DIRECTORY  # __O_TMPFILE
_PATH_FLAGS: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC
_VALID_OPEN_FLAGS: Final = (
    3
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_DSYNC
    | O_SYNC
    | FASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | _TMPFILE_BIT
)
_CREATION_FLAGS: Final = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC  # not kept in the status flags


class PathDescription(FileDescription):
    """An open file of O_PATH: a place, without access to the contents."""

    def is_readable(self) -> bool:
        return False

    def is_writable(self) -> bool:
        return False

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return -EBADF

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        return -EBADF

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        return -EBADF

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return -EBADF

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        return -EBADF


def check_open_how(flags: int, mode: int, resolve: int) -> None:
    """Check flags that openat2(2) refuses and open(2) ignores. Raises LinuxError(EINVAL)."""
    if flags & ~_VALID_OPEN_FLAGS or resolve & ~VALID_RESOLVE or resolve & SCOPED == SCOPED:
        raise LinuxError(EINVAL)
    if flags & (O_CREAT | _TMPFILE_BIT):
        if mode & ~0o7777:
            raise LinuxError(EINVAL)
    elif mode:
        raise LinuxError(EINVAL)
    if flags & O_PATH and flags & ~_PATH_FLAGS:
        raise LinuxError(EINVAL)


def _access_mask(flags: int) -> int:
    """ACC_MODE of linux/fs.h, with what O_TRUNC adds."""
    access = flags & 3
    if access == 0:
        mask = MAY_READ
    elif access == 1:
        mask = MAY_WRITE
    else:
        mask = MAY_READ | MAY_WRITE
    return mask | MAY_WRITE if flags & O_TRUNC else mask


def _finish_open(ctx: Context, path: Path, flags: int, acc_mode: int, *, is_created: bool) -> FileDescription:
    """may_open, do_dentry_open and O_TRUNC (fs/namei.c do_open) of an object that exists."""
    inode = path.inode()
    mode = inode.mode
    kind = mode & S_IFMT
    is_truncation = False
    if is_created:
        acc_mode = 0
    elif kind == S_IFREG and flags & O_TRUNC:
        want_write(path.mount)
        is_truncation = True
    if kind == S_IFLNK:
        raise LinuxError(ELOOP)
    if kind == S_IFDIR:
        if acc_mode & MAY_WRITE:
            raise LinuxError(EISDIR)
    elif (kind == S_IFCHR or kind == S_IFBLK) and (
        path.mount.flags & MS_NODEV or not path.mount.fs.has_devices
    ):
        raise LinuxError(EACCES)
    if acc_mode:
        result = inode_permission(ctx, inode, acc_mode)
        if result < 0:
            raise LinuxError(-result)
    if flags & O_NOATIME and not owner_or_capable(ctx.creds, inode):
        raise LinuxError(EPERM)
    is_writer = flags & 3 != 0 and not is_special(mode)
    if is_writer:
        get_write_access(inode)
        want_write(path.mount)
    elif is_truncation:
        get_write_access(inode)
    locks = inode.locks
    if locks is not None:
        locks.break_leases(is_write=flags & 3 != 0, can_wait=flags & O_NONBLOCK == 0)
    inode.check_open(ctx, flags)
    if flags & O_DIRECT and not inode.can_be_direct():
        raise LinuxError(EINVAL)
    file = inode.open(ctx, path, flags & (~_CREATION_FLAGS | O_NOCTTY))
    file.flags &= ~O_NOCTTY  # only a terminal's open looks at it
    file.creds = ctx.creds
    if is_writer:
        inode.write_count += 1
        file.holds_write = True
    elif flags & 3 == 0:
        inode.read_count += 1
        file.holds_read = True
    parent = path.dentry.parent
    if inode.watches is not None or (
        parent is not None and parent.inode is not None and parent.inode.watches is not None
    ):
        notify_path(path, IN_OPEN)
    if is_truncation:
        try:
            do_truncate(ctx, path, inode, 0)
        except BaseException:
            file.get().put()
            raise
    return file


def _open_place(ctx: Context, path: Path, flags: int) -> FileDescription:
    file = PathDescription(path, path.inode(), flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW))
    file.creds = ctx.creds
    return file


def open_path(ctx: Context, path: Path, flags: int) -> FileDescription:
    """Open a known object with the caller's permissions (no O_CREAT).  Raises LinuxError."""
    if flags & O_PATH:
        return _open_place(ctx, path, flags)
    return _finish_open(ctx, path, flags, _access_mask(flags), is_created=False)


def _open_tmpfile(ctx: Context, directory: Path, flags: int, mode: int) -> FileDescription:
    want_write(directory.mount)
    inode = directory.inode()
    require_permission(ctx, inode, MAY_WRITE | MAY_EXEC)
    mode = new_mode(ctx, inode, mode & 0o7777)
    made = inode.tmpfile(ctx, mode)
    made.is_linkable = flags & O_EXCL == 0
    dentry = Dentry(b"#%d" % made.ino, directory.dentry, made)
    dentry.is_deleted = True
    file = _finish_open(ctx, Path(directory.mount, dentry), flags & ~O_DIRECTORY, 0, is_created=True)
    file.flags |= O_DIRECTORY  # a part of O_TMPFILE, which F_GETFL tells
    return file


def _check_sticky(ctx: Context, directory: Inode | None, inode: Inode) -> None:
    """O_CREAT on somebody else's device or socket in a sticky directory that all may write to (fs/namei.c).

    Regular files and FIFOs are left to sysctls (fs.protected_regular, fs.protected_fifos), which are 0 here.
    Raises LinuxError(EACCES).
    """
    if directory is None or directory.mode & (S_ISVTX | S_IWOTH) != S_ISVTX | S_IWOTH:
        return
    kind = inode.mode & S_IFMT
    if kind != S_IFREG and kind != S_IFIFO and inode.uid != directory.uid and inode.uid != ctx.creds.fsuid:
        raise LinuxError(EACCES)


def _create_file(ctx: Context, parent: Path, name: bytes, mode: int) -> Dentry:
    """Make the regular file that O_CREAT asks for."""
    directory = parent.inode()
    if parent.dentry.is_deleted:
        raise LinuxError(ENOENT)
    mount = parent.mount
    if mount.flags & MS_RDONLY or mount.fs.is_readonly:
        raise LinuxError(EROFS)
    require_permission(ctx, directory, MAY_WRITE | MAY_EXEC)
    mode = new_mode(ctx, directory, S_IFREG | mode & 0o7777)
    made = directory.create(ctx, name, mode & 0o7777)
    dentry = instantiate(parent.dentry, name, made)
    notify_entry(directory, IN_CREATE, 0, name, made)
    return dentry


def _open_create(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int, acc_mode: int
) -> FileDescription:
    """open(2) with O_CREAT: the last component may be missing."""
    walk = begin(ctx, start, name, resolve)
    if isinstance(walk, int):
        raise LinuxError(-walk)
    is_followed = flags & (O_NOFOLLOW | O_EXCL) == 0
    while True:
        result = walk.run(parent_only=True, follow_last=False)
        if result < 0:
            raise LinuxError(-result)
        last = walk.last
        if not last or last == b"." or last == b"..":
            if last == b"..":
                result = walk.up()
                if result < 0:
                    raise LinuxError(-result)
            if flags & O_EXCL:
                raise LinuxError(EEXIST)
            inode = walk.dentry.inode
            if inode is None:
                raise LinuxError(ENOENT)
            if inode.is_dir():
                raise LinuxError(EISDIR)
            return _finish_open(ctx, walk.path(), flags, acc_mode, is_created=False)  # by a magic link
        if walk.is_directory_needed:
            raise LinuxError(EISDIR)
        found = walk.search(last)
        if isinstance(found, int):
            raise LinuxError(-found)
        inode = found.inode
        if inode is None:
            parent = walk.path()
            made = _create_file(ctx, parent, last, mode)
            file = _finish_open(ctx, Path(parent.mount, made), flags, acc_mode, is_created=True)
            file.flags |= CREATED
            return file
        if inode.mode & S_IFMT == S_IFLNK and is_followed:
            result = walk.follow(inode)
            if result < 0:
                raise LinuxError(-result)
            continue
        if flags & O_EXCL:
            raise LinuxError(EEXIST)
        directory = walk.dentry.inode
        walk.dentry = found
        result = walk.follow_mounts()
        if result < 0:
            raise LinuxError(-result)
        inode = walk.dentry.require()
        if inode.is_dir():
            raise LinuxError(EISDIR)
        _check_sticky(ctx, directory, inode)
        return _finish_open(ctx, walk.path(), flags, acc_mode, is_created=False)


def do_open(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int = 0
) -> FileDescription:
    """`open_quick`, but every failure is a LinuxError."""
    file = open_quick(ctx, start, name, flags, mode, resolve)
    if isinstance(file, int):
        raise LinuxError(-file)
    return file


def open_quick(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int = 0
) -> FileDescription | int:
    """open(2), openat(2), openat2(2): a new open file description without a reference.

    A negative errno for a name that leads nowhere, which is frequent: an exception would cost a microsecond. Raises
    LinuxError for other failures. The caller adds O_LARGEFILE if F_GETFL shall show it, and calls check_open_how for
    openat2. A FIFO may have to wait for its other end afterwards (`open_is_pending`).
    """
    flags &= _VALID_OPEN_FLAGS
    if flags & O_PATH:
        flags &= _PATH_FLAGS
        acc_mode = 0
    else:
        acc_mode = _access_mask(flags)
        if flags & _TMPFILE_BIT:
            if flags & (O_TMPFILE | O_CREAT) != O_TMPFILE or flags & 3 == 0:  # O_TRUNC is not enough
                raise LinuxError(EINVAL)
        elif flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY:
            raise LinuxError(EINVAL)
    if resolve & RESOLVE_CACHED and flags & (O_TRUNC | O_CREAT | _TMPFILE_BIT):
        raise LinuxError(EAGAIN)
    if flags & O_CREAT:
        return _open_create(ctx, start, name, flags, mode, resolve, acc_mode)
    lookup_flags = 0 if flags & O_NOFOLLOW else LOOKUP_FOLLOW
    if flags & O_DIRECTORY:
        lookup_flags |= LOOKUP_DIRECTORY
    path = (
        path_lookup(ctx, start, name, lookup_flags, resolve)
        if resolve
        else path_lookup_quick(ctx, start, name, lookup_flags)
    )
    if isinstance(path, int):
        return path
    if flags & O_PATH:
        return _open_place(ctx, path, flags)
    if flags & _TMPFILE_BIT:
        return _open_tmpfile(ctx, path, flags, mode)
    return _finish_open(ctx, path, flags, acc_mode, is_created=False)


# -- access ----------------------------------------------------------------------------------------------
def vfs_access(ctx: Context, start: Path | None, name: bytes, mode: int, flags: int) -> int:
    """faccessat2(2): with the real ids unless AT_EACCESS.  0; a negative errno or LinuxError for what fails."""
    if mode & ~7 or flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise LinuxError(EINVAL)
    lookup_flags = 0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    if flags & AT_EMPTY_PATH:
        lookup_flags |= LOOKUP_EMPTY
    creds = ctx.creds
    if flags & AT_EACCESS == 0 and (
        creds.uid != creds.fsuid
        or creds.gid != creds.fsgid
        or creds.cap_effective != (creds.cap_permitted if creds.uid == creds.root_uid() else 0)
    ):
        real = creds.clone()
        real.fsuid = creds.uid
        real.fsgid = creds.gid
        real.cap_effective = creds.cap_permitted if creds.uid == creds.root_uid() else 0
        ctx.creds = real
        try:
            return _access(ctx, path_lookup_quick(ctx, start, name, lookup_flags), mode)
        finally:
            ctx.creds = creds
    return _access(ctx, path_lookup_quick(ctx, start, name, lookup_flags), mode)


def _access(ctx: Context, path: Path | int, mode: int) -> int:
    if isinstance(path, int):
        return path
    inode = path.inode()
    if mode == 0:
        return 0
    inode.refresh(ctx)
    if mode & MAY_EXEC and inode.is_regular() and path.mount.flags & MS_NOEXEC:
        raise LinuxError(EACCES)
    require_permission(ctx, inode, mode)
    if mode & MAY_WRITE and not is_special(inode.mode):
        want_write(path.mount)
    return 0


def may_link_empty(ctx: Context) -> bool:
    """Whether linkat(2) may use AT_EMPTY_PATH (ENOENT if not)."""
    return ctx.creds.capable_here(CAP_DAC_READ_SEARCH)
