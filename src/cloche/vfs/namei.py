"""Path walk, open, and the operations on directory entries (fs/namei.c, fs/open.c), over the objects of
`vfs.objects`.

Owns the dentry cache (`Dentry.children`).  May call inode operations and `vfs.attr`; never blocks.

The interface that system calls use (`start`: where a relative name begins, None for the working directory;
`name`: bytes as the guest gave them, without the NUL; every function but `path_lookup_quick` raises
LinuxError):

    path_lookup(ctx, start, name, flags=LOOKUP_FOLLOW, resolve=0) -> Path
    path_lookup_quick(ctx, start, name, flags=LOOKUP_FOLLOW) -> Path | int
        the same, a negative errno for a failure
    lookup_parent(ctx, start, name) -> Parent   .path, .name, .is_slash
    do_open(ctx, start, name, flags, mode, resolve=0) -> FileDescription
        not yet referenced: install() does it
    open_path(ctx, path, flags) -> FileDescription   an open by the kernel of a known path
    check_open_how(flags, mode, resolve)   openat2(2)'s own EINVALs
    vfs_mkdir(ctx, start, name, mode)
    vfs_mknod(ctx, start, name, mode, rdev) -> Path   type in mode; sockets for bind(2) too
    vfs_symlink(ctx, target, start, name)
    vfs_link(ctx, old: Path, start, name)
    vfs_unlink(ctx, start, name)
    vfs_rmdir(ctx, start, name)
    vfs_rename(ctx, old_start, old_name, new_start, new_name, flags=0)
    d_path(root: Path, path: Path) -> bytes   "(deleted)" included, for /proc and maps
    getcwd(ctx) -> bytes   "(unreachable)" included; ENOENT
    vfs_access(ctx, start, name, mode, flags)   R_OK|W_OK|X_OK; AT_EACCESS|AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH

and in `vfs.attr` (re-exported here):

    inode_permission(ctx, inode, mask) -> int   0, -EACCES or -EROFS
    want_write(mount)   EROFS
    vfs_chmod(ctx, path, mode)
    vfs_chown(ctx, path, uid, gid)   -1: keep
    vfs_utimens(ctx, path, atime_ns, mtime_ns)   TIME_NOW, TIME_OMIT
    vfs_truncate(ctx, path, length), vfs_ftruncate(ctx, file, length)
    vfs_getxattr(ctx, path, name) -> bytes, vfs_setxattr(ctx, path, name, value, flags),
    vfs_listxattr(ctx, path) -> list[bytes], vfs_removexattr(ctx, path, name)

`flags` of a lookup: LOOKUP_FOLLOW (follow a symbolic link at the end), LOOKUP_DIRECTORY (ENOTDIR unless it is
one), LOOKUP_EMPTY (AT_EMPTY_PATH: the empty name is `start` itself).  `resolve` is openat2's RESOLVE_*.

Rules for file systems: with `has_stable_dentries` a name that was looked up (or found absent) is not asked
for again, so whatever changes such a tree goes through this module; and `permission` of its directories must
not be stricter for searching than generic_permission.  Without it `lookup` is called each time and returns
the same inode object while the file is the same.  `open` and the rest see attributes that `lookup` or
`refresh` brought up to date.
"""

from collections import deque
from typing import Final

from cloche.abi.capability import CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_MKNOD
from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EROFS,
    EXDEV,
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
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW, MS_RDONLY
from cloche.abi.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_ISDIR,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_OPEN,
)
from cloche.abi.limits import MAX_SYMLINKS, NAME_MAX, PATH_MAX
from cloche.abi.stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_ISVTX,
)
from cloche.mm.usermem import IovIter
from cloche.vfs.attr import (
    TIME_NOW as TIME_NOW,
)
from cloche.vfs.attr import (
    TIME_OMIT as TIME_OMIT,
)
from cloche.vfs.attr import (
    allow_write_access as allow_write_access,
)
from cloche.vfs.attr import (
    deny_write_access as deny_write_access,
)
from cloche.vfs.attr import (
    do_truncate,
    get_write_access,
    owner_or_capable,
    strip_sgid,
)
from cloche.vfs.attr import (
    inode_permission as inode_permission,
)
from cloche.vfs.attr import (
    require_permission as require_permission,
)
from cloche.vfs.attr import (
    vfs_chmod as vfs_chmod,
)
from cloche.vfs.attr import (
    vfs_chown as vfs_chown,
)
from cloche.vfs.attr import (
    vfs_ftruncate as vfs_ftruncate,
)
from cloche.vfs.attr import (
    vfs_getxattr as vfs_getxattr,
)
from cloche.vfs.attr import (
    vfs_listxattr as vfs_listxattr,
)
from cloche.vfs.attr import (
    vfs_removexattr as vfs_removexattr,
)
from cloche.vfs.attr import (
    vfs_setxattr as vfs_setxattr,
)
from cloche.vfs.attr import (
    vfs_truncate as vfs_truncate,
)
from cloche.vfs.attr import (
    vfs_utimens as vfs_utimens,
)
from cloche.vfs.attr import (
    want_write as want_write,
)
from cloche.vfs.objects import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    Context,
    Dentry,
    FileDescription,
    Inode,
    Mount,
    Path,
    generic_permission,
    notify_path,
)

LOOKUP_FOLLOW: Final = 1
LOOKUP_DIRECTORY: Final = 2
LOOKUP_EMPTY: Final = 4

_SLASH: Final = 47
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
_VALID_RESOLVE: Final = 0x3F
_SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT

# Dentries for names that do not exist cost a guest nothing to make: only so many are kept.
MAX_NEGATIVE: Final = 8192
# Entries kept in a directory of a file system that is asked again each time.
MAX_UNSTABLE: Final = 1024

_negatives: Final[deque[Dentry]] = deque()


class Parent:
    """The directory of a path and the last component, not looked up (`.`, `..` and, for "/", b"" are
    possible).
    """

    def __init__(self, path: Path, name: bytes, *, is_slash: bool) -> None:
        self.path: Path = path
        self.name: bytes = name
        self.is_slash: bool = is_slash  # slashes follow the name

    def is_plain(self) -> bool:
        """Whether the last component is a name (LAST_NORM)."""
        name = self.name
        return name != b"" and name != b"." and name != b".."


class PathDescription(FileDescription):
    """What O_PATH opens: a place, without access to the contents."""

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


# -- the dentry cache ------------------------------------------------------------------------------------
def _note_negative(dentry: Dentry) -> None:
    _negatives.append(dentry)
    if len(_negatives) > MAX_NEGATIVE:
        for _ in range(MAX_NEGATIVE // 2):
            _drop_negative(_negatives.popleft())


def _drop_negative(dentry: Dentry) -> None:
    parent = dentry.parent
    if dentry.inode is None and parent is not None and parent.children.get(dentry.name) is dentry:
        del parent.children[dentry.name]


def drop_negative_dentries() -> None:
    """Forget every name known not to exist (an unmounted file system must not be kept alive by them)."""
    while _negatives:
        _drop_negative(_negatives.popleft())


def _has_mount_below(dentry: Dentry) -> bool:
    stack = [dentry]
    while stack:
        each = stack.pop()
        if each.mounted:
            return True
        stack.extend(each.children.values())
    return False


def _trim_unstable(parent: Dentry) -> None:
    """Drop the older half of a directory's entries; they are looked up again when they are asked for."""
    for name, child in list(parent.children.items())[: MAX_UNSTABLE // 2]:
        if not _has_mount_below(child):
            del parent.children[name]


def lookup_child(ctx: Context, parent: Dentry, directory: Inode, name: bytes) -> Dentry:
    """The dentry of `name` (not `.` or `..`) in `parent`, whose inode is `directory`.

    Negative if there is none.
    """
    child = parent.children.get(name)
    if directory.fs.has_stable_dentries:
        if child is not None:
            return child
        inode = None if parent.is_deleted else directory.lookup(ctx, name)
        child = Dentry(name, parent, inode)
        parent.children[name] = child
        if inode is None:
            _note_negative(child)
        return child
    if child is not None and child.mounted:
        return child  # a mount pins what it covers
    inode = directory.lookup(ctx, name)
    if child is not None:
        if child.inode is inode and inode is not None:
            return child
        del parent.children[name]
        child.is_deleted = True
    child = Dentry(name, parent, inode)
    if inode is not None:
        if len(parent.children) >= MAX_UNSTABLE:
            _trim_unstable(parent)
        parent.children[name] = child
    return child


def _instantiate(parent: Dentry, name: bytes, inode: Inode) -> Dentry:
    """A name that did not exist is `inode` now.

    The dentry is a new one, and the old lets go of the directory: the list of negative dentries keeps nothing
    alive.
    """
    old = parent.children.get(name)
    if old is not None:
        old.parent = None
    dentry = Dentry(name, parent, inode)
    parent.children[name] = dentry
    return dentry


def _forget_children(dentry: Dentry) -> None:
    """A directory is removed: what is known of its names (that they do not exist) goes with it."""
    for child in dentry.children.values():
        child.parent = None
    dentry.children.clear()


def _unhash(dentry: Dentry) -> None:
    """The name is gone; who holds the dentry sees " (deleted)"."""
    dentry.is_deleted = True
    parent = dentry.parent
    if parent is not None and parent.children.get(dentry.name) is dentry:
        del parent.children[dentry.name]
    if dentry.inode is None:
        dentry.parent = None


def _is_below(dentry: Dentry, ancestor: Dentry) -> bool:
    """Whether `dentry` is `ancestor` or lies under it."""
    each: Dentry | None = dentry
    while each is not None:
        if each is ancestor:
            return True
        each = each.parent
    return False


# -- walking ---------------------------------------------------------------------------------------------
class _Walk:
    """A path walk under way: where it is, and the components still to come (the next one last)."""

    def __init__(self, ctx: Context, base: Path, root: Path, resolve: int) -> None:
        self.ctx: Context = ctx
        self.mount: Mount = base.mount
        self.dentry: Dentry = base.dentry
        self.root: Path = root
        self.resolve: int = resolve
        self.stack: list[bytes] = []
        self.links: int = 0
        self.is_directory_needed: bool = False  # slashes follow the last component
        self.last: bytes = b""  # after run(parent_only=True)

    def path(self) -> Path:
        return Path(self.mount, self.dentry)

    def push(self, name: bytes) -> None:
        """Put the components of a path in front of those still to come."""
        stack = self.stack
        if not stack and len(name) > 1 and name[-1] == _SLASH:
            self.is_directory_needed = True
        for part in reversed(name.split(b"/")):
            if part:
                stack.append(part)

    def follow_mounts(self) -> int:
        dentry = self.dentry
        mount = self.mount
        while dentry.mounted:
            above = mount.covering.get(dentry)
            if above is None:
                break
            if self.resolve & RESOLVE_NO_XDEV:
                return -EXDEV
            mount = above
            dentry = above.root
        self.dentry = dentry
        self.mount = mount
        return 0

    def up(self) -> int:
        """`..`"""
        root = self.root
        while True:
            dentry = self.dentry
            mount = self.mount
            if dentry is root.dentry and mount is root.mount:
                if self.resolve & RESOLVE_BENEATH:
                    return -EXDEV
                break
            if dentry is mount.root:
                above = mount.parent
                point = mount.mountpoint
                if above is None or point is None:
                    break
                if self.resolve & RESOLVE_NO_XDEV:
                    return -EXDEV
                self.mount = above
                self.dentry = point
                continue
            parent = dentry.parent
            if parent is None:
                break
            if mount.root.parent is not None and not _is_below(parent, mount.root):
                return -ENOENT  # moved out of the subtree that is mounted here
            self.dentry = parent
            break
        return self.follow_mounts() if self.dentry.mounted else 0

    def follow(self, inode: Inode) -> int:
        """Follow the symbolic link `inode`, found in the directory where the walk is."""
        resolve = self.resolve
        self.links += 1
        if self.links > MAX_SYMLINKS or resolve & RESOLVE_NO_SYMLINKS:
            return -ELOOP
        if self.mount.flags & MS_NOSYMFOLLOW:
            return -ELOOP
        magic = inode.follow_link(self.ctx)
        if magic is not None:
            if resolve & RESOLVE_NO_MAGICLINKS:
                return -ELOOP
            if resolve & _SCOPED:
                return -EXDEV
            if resolve & RESOLVE_NO_XDEV and magic.mount is not self.mount:
                return -EXDEV
            self.mount = magic.mount
            self.dentry = magic.dentry
            return 0
        target = inode.readlink(self.ctx)
        if not target:
            return -ENOENT
        if target[0] == _SLASH:
            if resolve & RESOLVE_BENEATH:
                return -EXDEV
            root = self.root
            if resolve & RESOLVE_NO_XDEV and root.mount is not self.mount:
                return -EXDEV
            self.mount = root.mount
            self.dentry = root.dentry
        self.push(target)
        return 0

    def search(self, name: bytes) -> Dentry | int:
        """Look `name` up where the walk is, permissions included.

        A dentry (perhaps negative) or a negative errno.
        """
        inode = self.dentry.inode
        if inode is None:
            return -ENOENT
        if inode.mode & S_IFMT != S_IFDIR:
            return -ENOTDIR
        if not inode.permission(self.ctx, MAY_EXEC):
            return -EACCES
        if len(name) > NAME_MAX:
            return -ENAMETOOLONG
        if self.resolve & RESOLVE_CACHED and (
            not inode.fs.has_stable_dentries or name not in self.dentry.children
        ):
            return -EAGAIN
        return lookup_child(self.ctx, self.dentry, inode, name)

    def check_search(self) -> int:
        """Whether the walk stands in a directory that may be searched."""
        inode = self.dentry.inode
        if inode is None:
            return -ENOENT
        if inode.mode & S_IFMT != S_IFDIR:
            return -ENOTDIR
        return 0 if inode.permission(self.ctx, MAY_EXEC) else -EACCES

    def run(self, *, parent_only: bool, follow_last: bool) -> int:
        """Walk to the end, or, with `parent_only`, to the directory of the last component; 0 or a negative
        errno.

        The result may be a negative dentry only with a return of -ENOENT.
        """
        stack = self.stack
        while stack:
            name = stack.pop()
            if parent_only and not stack:
                result = self.check_search()
                self.last = name
                return result
            if name == b"." or name == b"..":
                result = self.check_search()
                if result == 0 and len(name) == 2:
                    result = self.up()
                if result < 0:
                    return result
                continue
            child = self.search(name)
            if isinstance(child, int):
                return child
            inode = child.inode
            if inode is None:
                return -ENOENT
            if inode.mode & S_IFMT == S_IFLNK and (stack or follow_last or self.is_directory_needed):
                result = self.follow(inode)
                if result < 0:
                    return result
                continue
            self.dentry = child
            if child.mounted:
                result = self.follow_mounts()
                if result < 0:
                    return result
        self.last = b""
        return 0


def _begin(ctx: Context, start: Path | None, name: bytes, resolve: int) -> _Walk | int:
    """A walk standing where `name` begins, its components pushed; a negative errno for a bad name."""
    if not name:
        return -ENOENT
    if len(name) >= PATH_MAX:
        return -ENAMETOOLONG
    fs = ctx.fs
    base = start if start is not None else fs.cwd
    root = fs.root
    if resolve & _SCOPED:
        root = base
        if name[0] == _SLASH and resolve & RESOLVE_BENEATH:
            return -EXDEV
    elif name[0] == _SLASH:
        base = root
    walk = _Walk(ctx, base, root, resolve)
    walk.push(name)
    return walk


def _slow_lookup(ctx: Context, start: Path | None, name: bytes, flags: int, resolve: int) -> Path | int:
    if not name and flags & LOOKUP_EMPTY:
        base = start if start is not None else ctx.fs.cwd
        if flags & LOOKUP_DIRECTORY and not base.inode().is_dir():
            return -ENOTDIR
        return base
    walk = _begin(ctx, start, name, resolve)
    if isinstance(walk, int):
        return walk
    result = walk.run(parent_only=False, follow_last=flags & LOOKUP_FOLLOW != 0)
    if result < 0:
        return result
    inode = walk.dentry.inode
    if inode is None:
        return -ENOENT
    if (flags & LOOKUP_DIRECTORY or walk.is_directory_needed) and inode.mode & S_IFMT != S_IFDIR:
        return -ENOTDIR
    return Path(walk.mount, walk.dentry)


def path_lookup_quick(
    ctx: Context, start: Path | None, name: bytes, flags: int = LOOKUP_FOLLOW
) -> Path | int:
    """The path that `name` leads to, or a negative errno (path_lookupat); LinuxError only for a failing file
    system.

    The loop serves cached names without `.`, `..`, links and trailing slashes; anything else starts over in
    `_Walk`.
    """
    length = len(name)
    if length == 0 or length >= PATH_MAX or name[length - 1] == _SLASH:
        return _slow_lookup(ctx, start, name, flags, 0)
    if name[0] == _SLASH:
        base = ctx.fs.root
    elif start is None:
        base = ctx.fs.cwd
    else:
        base = start
    mount = base.mount
    dentry = base.dentry
    inode = dentry.inode
    for part in name.split(b"/"):
        if not part:
            continue
        if inode is None or not inode.fs.has_stable_dentries:
            return _slow_lookup(ctx, start, name, flags, 0)
        mode = inode.mode
        if mode & 0o170111 != 0o040111:  # not a directory that all may search
            if mode & S_IFMT != S_IFDIR:
                if mode & S_IFMT == S_IFLNK:
                    return _slow_lookup(ctx, start, name, flags, 0)
                return -ENOTDIR
            if not generic_permission(inode, ctx.creds, MAY_EXEC):
                return -EACCES
        child = dentry.children.get(part)
        if child is None:
            return _slow_lookup(ctx, start, name, flags, 0)
        while child.mounted:
            above = mount.covering.get(child)
            if above is None:
                break
            mount = above
            child = above.root
        dentry = child
        inode = child.inode
        if inode is None:
            return -ENOENT
    if inode is None:
        return -ENOENT
    kind = inode.mode & S_IFMT
    if kind == S_IFLNK and flags & LOOKUP_FOLLOW:
        return _slow_lookup(ctx, start, name, flags, 0)
    if flags & LOOKUP_DIRECTORY and kind != S_IFDIR:
        return -ENOTDIR
    return Path(mount, dentry)


def path_lookup(
    ctx: Context, start: Path | None, name: bytes, flags: int = LOOKUP_FOLLOW, resolve: int = 0
) -> Path:
    """The existing object that `name` leads to.  Raises LinuxError."""
    if resolve:
        found = _slow_lookup(ctx, start, name, flags, resolve)
    else:
        found = path_lookup_quick(ctx, start, name, flags)
    if isinstance(found, int):
        raise LinuxError(-found)
    return found


def lookup_parent(ctx: Context, start: Path | None, name: bytes) -> Parent:
    """The directory in which the last component of `name` is (to be), which may be searched.

    Raises LinuxError.
    """
    slash = name.rfind(b"/")
    last = name[slash + 1 :]
    if last and last != b"." and last != b".." and len(name) < PATH_MAX:
        if slash > 0:
            found = path_lookup_quick(ctx, start, name[:slash], LOOKUP_FOLLOW)
            if isinstance(found, int):
                raise LinuxError(-found)
        elif slash == 0:
            found = ctx.fs.root
        else:
            found = start if start is not None else ctx.fs.cwd
        inode = found.inode()
        if inode.mode & S_IFMT != S_IFDIR:
            raise LinuxError(ENOTDIR)
        if not inode.permission(ctx, MAY_EXEC):
            raise LinuxError(EACCES)
        if len(last) > NAME_MAX:
            raise LinuxError(ENAMETOOLONG)
        return Parent(found, last, is_slash=False)
    walk = _begin(ctx, start, name, 0)
    if isinstance(walk, int):
        raise LinuxError(-walk)
    result = walk.run(parent_only=True, follow_last=False)
    if result < 0:
        raise LinuxError(-result)
    if len(walk.last) > NAME_MAX:
        raise LinuxError(ENAMETOOLONG)
    return Parent(walk.path(), walk.last, is_slash=walk.is_directory_needed)


def _child_of(ctx: Context, parent: Path, name: bytes) -> Dentry:
    return lookup_child(ctx, parent.dentry, parent.inode(), name)


# -- events ----------------------------------------------------------------------------------------------
class _Cookie:
    """The number that ties IN_MOVED_FROM to IN_MOVED_TO."""

    def __init__(self) -> None:
        self.value: int = 0

    def next(self) -> int:
        self.value = (self.value + 1) & 0x7FFFFFFF
        return self.value


_cookie: Final = _Cookie()


def _notify_entry(directory: Inode, mask: int, cookie: int, name: bytes, inode: Inode) -> None:
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
    if inode.is_dir() or inode.nlink == 0:
        _notify_self(inode, IN_DELETE_SELF)
    _notify_entry(directory, IN_DELETE, 0, name, inode)


# -- open ------------------------------------------------------------------------------------------------
def check_open_how(flags: int, mode: int, resolve: int) -> None:
    """What openat2(2) refuses and open(2) ignores.  Raises LinuxError(EINVAL), EAGAIN for RESOLVE_CACHED."""
    if flags & ~_VALID_OPEN_FLAGS or resolve & ~_VALID_RESOLVE or resolve & _SCOPED == _SCOPED:
        raise LinuxError(EINVAL)
    if flags & (O_CREAT | _TMPFILE_BIT):
        if mode & ~0o7777:
            raise LinuxError(EINVAL)
    elif mode:
        raise LinuxError(EINVAL)
    if flags & O_PATH and flags & ~_PATH_FLAGS:
        raise LinuxError(EINVAL)
    if resolve & RESOLVE_CACHED and flags & (O_TRUNC | O_CREAT | _TMPFILE_BIT):
        raise LinuxError(EAGAIN)


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


def _is_special(mode: int) -> bool:
    kind = mode & S_IFMT
    return kind == S_IFCHR or kind == S_IFBLK or kind == S_IFIFO or kind == S_IFSOCK


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
    is_writer = flags & 3 != 0 and not _is_special(mode)
    if is_writer:
        get_write_access(inode)
        want_write(path.mount)
    elif is_truncation:
        get_write_access(inode)
    inode.check_open(ctx, flags)
    file = inode.open(ctx, path, flags & (~_CREATION_FLAGS | O_NOCTTY))
    file.flags &= ~O_NOCTTY  # only a terminal's open looks at it
    file.creds = ctx.creds
    if is_writer:
        inode.write_count += 1
        file.holds_write = True
    parent = path.dentry.parent
    if inode.watches is not None or (
        parent is not None and parent.inode is not None and parent.inode.watches is not None
    ):
        notify_path(path, IN_OPEN)
    if is_truncation:
        try:
            do_truncate(ctx, path, inode, 0)
        except LinuxError:
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
    mode = strip_sgid(ctx.creds, inode, mode & 0o7777 & ~ctx.fs.umask)
    made = inode.tmpfile(ctx, mode)
    made.is_linkable = flags & O_EXCL == 0
    dentry = Dentry(b"#%d" % made.ino, directory.dentry, made)
    dentry.is_deleted = True
    return _finish_open(ctx, Path(directory.mount, dentry), flags & ~O_DIRECTORY, 0, is_created=True)


def _create_file(ctx: Context, parent: Path, name: bytes, mode: int) -> Dentry:
    """Make the regular file that O_CREAT asks for."""
    directory = parent.inode()
    if parent.dentry.is_deleted:
        raise LinuxError(ENOENT)
    mount = parent.mount
    if mount.flags & MS_RDONLY or mount.fs.is_readonly:
        raise LinuxError(EROFS)
    require_permission(ctx, directory, MAY_WRITE | MAY_EXEC)
    mode = strip_sgid(ctx.creds, directory, S_IFREG | (mode & 0o7777 & ~ctx.fs.umask))
    made = directory.create(ctx, name, mode & 0o7777)
    dentry = _instantiate(parent.dentry, name, made)
    _notify_entry(directory, IN_CREATE, 0, name, made)
    return dentry


def _open_create(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int, acc_mode: int
) -> FileDescription:
    """open(2) with O_CREAT: the last component may be missing."""
    walk = _begin(ctx, start, name, resolve)
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
            return _finish_open(ctx, Path(parent.mount, made), flags, acc_mode, is_created=True)
        if inode.mode & S_IFMT == S_IFLNK and is_followed:
            result = walk.follow(inode)
            if result < 0:
                raise LinuxError(-result)
            continue
        if flags & O_EXCL:
            raise LinuxError(EEXIST)
        walk.dentry = found
        result = walk.follow_mounts()
        if result < 0:
            raise LinuxError(-result)
        if walk.dentry.require().is_dir():
            raise LinuxError(EISDIR)
        return _finish_open(ctx, walk.path(), flags, acc_mode, is_created=False)


def do_open(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int = 0
) -> FileDescription:
    """open(2), openat(2), openat2(2): a new open file description without a reference.  Raises LinuxError.

    The caller adds O_LARGEFILE if it shall show, and calls check_open_how for openat2.  A FIFO may have to
    wait for its other end afterwards (`open_is_pending`).
    """
    flags &= _VALID_OPEN_FLAGS
    if flags & O_PATH:
        flags &= _PATH_FLAGS
        acc_mode = 0
    else:
        acc_mode = _access_mask(flags)
        if flags & _TMPFILE_BIT:
            if flags & (O_TMPFILE | O_CREAT) != O_TMPFILE or acc_mode & MAY_WRITE == 0:
                raise LinuxError(EINVAL)
        elif flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY:
            raise LinuxError(EINVAL)
    if flags & O_CREAT:
        return _open_create(ctx, start, name, flags, mode, resolve, acc_mode)
    lookup_flags = 0 if flags & O_NOFOLLOW else LOOKUP_FOLLOW
    if flags & O_DIRECTORY:
        lookup_flags |= LOOKUP_DIRECTORY
    path = path_lookup(ctx, start, name, lookup_flags, resolve)
    if flags & O_PATH:
        return _open_place(ctx, path, flags)
    if flags & _TMPFILE_BIT:
        return _open_tmpfile(ctx, path, flags, mode)
    return _finish_open(ctx, path, flags, acc_mode, is_created=False)


# -- making names ----------------------------------------------------------------------------------------
class _NewEntry:
    """A checked place for a new name."""

    def __init__(self, parent: Path, directory: Inode, name: bytes) -> None:
        self.parent: Path = parent
        self.directory: Inode = directory
        self.name: bytes = name


def _prepare_create(ctx: Context, start: Path | None, name: bytes, *, is_dir: bool) -> _NewEntry:
    """filename_create and may_create: the negative dentry of a name that may be made."""
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
    if path.dentry.is_deleted:
        raise LinuxError(ENOENT)
    require_permission(ctx, directory, MAY_WRITE | MAY_EXEC)
    return _NewEntry(path, directory, parent.name)


def _created(entry: _NewEntry, inode: Inode) -> Dentry:
    dentry = _instantiate(entry.parent.dentry, entry.name, inode)
    _notify_entry(entry.directory, IN_CREATE, 0, entry.name, inode)
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
    if kind != S_IFREG and not _is_special(kind):
        raise LinuxError(EINVAL)
    entry = _prepare_create(ctx, start, name, is_dir=False)
    if (kind == S_IFCHR or kind == S_IFBLK) and not ctx.creds.capable(CAP_MKNOD):
        if kind != S_IFCHR or rdev != 0:  # whiteouts are harmless
            raise LinuxError(EPERM)
    mode = strip_sgid(ctx.creds, entry.directory, kind | (mode & 0o7777 & ~ctx.fs.umask))
    if kind == S_IFREG:
        inode = entry.directory.create(ctx, entry.name, mode & 0o7777)
    else:
        inode = entry.directory.mknod(ctx, entry.name, mode, rdev)
    return Path(entry.parent.mount, _created(entry, inode))


def vfs_symlink(ctx: Context, target: bytes, start: Path | None, name: bytes) -> None:
    """symlinkat(2)."""
    if not target:
        raise LinuxError(ENOENT)
    if len(target) >= PATH_MAX:
        raise LinuxError(ENAMETOOLONG)
    entry = _prepare_create(ctx, start, name, is_dir=False)
    _created(entry, entry.directory.symlink(ctx, entry.name, target))


def vfs_link(ctx: Context, old: Path, start: Path | None, name: bytes) -> None:
    """linkat(2) of an object found already; AT_EMPTY_PATH's capability is the caller's to check."""
    # As filename_create: the existence and type checks come before EXDEV.
    parent = lookup_parent(ctx, start, name)
    if not parent.is_plain():
        raise LinuxError(EEXIST)
    path = parent.path
    directory = path.inode()
    dentry = lookup_child(ctx, path.dentry, directory, parent.name)
    if dentry.inode is not None:
        raise LinuxError(EEXIST)
    if parent.is_slash:
        raise LinuxError(ENOENT)
    want_write(path.mount)
    if old.mount is not path.mount:
        raise LinuxError(EXDEV)
    if path.dentry.is_deleted:
        raise LinuxError(ENOENT)
    require_permission(ctx, directory, MAY_WRITE | MAY_EXEC)
    inode = old.inode()
    if inode.fs is not directory.fs:
        raise LinuxError(EXDEV)
    if inode.is_dir():
        raise LinuxError(EPERM)
    if inode.nlink == 0 and not inode.is_linkable:
        raise LinuxError(ENOENT)
    directory.link(ctx, dentry.name, inode)
    inode.is_linkable = False
    _instantiate(path.dentry, parent.name, inode)
    _notify_self(inode, IN_ATTRIB)
    _notify_entry(directory, IN_CREATE, 0, parent.name, inode)


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
    _unhash(dentry)
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
    _forget_children(dentry)
    _unhash(dentry)
    _notify_removed(directory, dentry.name, inode)


# -- rename ----------------------------------------------------------------------------------------------
def _move_dentry(dentry: Dentry, new_parent: Dentry, new_name: bytes) -> None:
    """d_move: whatever was at the new name has been unhashed."""
    old_parent = dentry.parent
    if old_parent is not None and old_parent.children.get(dentry.name) is dentry:
        del old_parent.children[dentry.name]
    dentry.parent = new_parent
    dentry.name = new_name
    new_parent.children[new_name] = dentry


def _exchange_dentries(a: Dentry, b: Dentry) -> None:
    a_parent, a_name = a.parent, a.name
    b_parent, b_name = b.parent, b.name
    assert a_parent is not None and b_parent is not None
    a.parent, a.name = b_parent, b_name
    b.parent, b.name = a_parent, a_name
    b_parent.children[b_name] = a
    a_parent.children[a_name] = b


def vfs_rename(
    ctx: Context,
    old_start: Path | None,
    old_name: bytes,
    new_start: Path | None,
    new_name: bytes,
    flags: int = 0,
) -> None:
    """renameat2(2) (do_renameat2 and vfs_rename)."""
    is_exchange = flags & RENAME_EXCHANGE != 0
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise LinuxError(EINVAL)
    if is_exchange and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT):
        raise LinuxError(EINVAL)
    old = lookup_parent(ctx, old_start, old_name)
    new = lookup_parent(ctx, new_start, new_name)
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
    source_dentry = lookup_child(ctx, old_parent, old_dir, old.name)
    source = source_dentry.inode
    if source is None:
        raise LinuxError(ENOENT)
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
    if is_dir and _is_below(new_parent, source_dentry):
        raise LinuxError(EINVAL)
    if target is not None and target.is_dir() and _is_below(old_parent, target_dentry):
        raise LinuxError(EINVAL if is_exchange else ENOTEMPTY)
    if source is target:
        return
    _may_delete(ctx, old_dir, old_parent, source, is_dir=is_dir)
    if target is None:
        if new_parent.is_deleted:
            raise LinuxError(ENOENT)
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
        _exchange_dentries(source_dentry, target_dentry)
    else:
        if target is not None:
            _forget_children(target_dentry)
        _unhash(target_dentry)
        _move_dentry(source_dentry, new_parent, new.name)
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
    cookie = _cookie.next()
    _notify_entry(old_dir, IN_MOVED_FROM, cookie, old_name, source)
    _notify_entry(new_dir, IN_MOVED_TO, cookie, new_name, source)
    _notify_self(source, IN_MOVE_SELF)
    if target is None:
        return
    if is_exchange:
        cookie = _cookie.next()
        _notify_entry(new_dir, IN_MOVED_FROM, cookie, new_name, target)
        _notify_entry(old_dir, IN_MOVED_TO, cookie, old_name, target)
        _notify_self(target, IN_MOVE_SELF)
    elif target.nlink > 0 and not target.is_dir():
        _notify_self(target, IN_ATTRIB)
    else:
        _notify_self(target, IN_DELETE_SELF)


# -- access ----------------------------------------------------------------------------------------------
def vfs_access(ctx: Context, start: Path | None, name: bytes, mode: int, flags: int) -> None:
    """faccessat2(2): with the real ids unless AT_EACCESS.  Raises LinuxError."""
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
            _access(ctx, path_lookup(ctx, start, name, lookup_flags), mode)
        finally:
            ctx.creds = creds
        return
    _access(ctx, path_lookup(ctx, start, name, lookup_flags), mode)


def _access(ctx: Context, path: Path, mode: int) -> None:
    inode = path.inode()
    if mode == 0:
        return
    inode.refresh(ctx)
    if mode & MAY_EXEC and inode.is_regular() and path.mount.flags & MS_NOEXEC:
        raise LinuxError(EACCES)
    require_permission(ctx, inode, mode)
    if mode & MAY_WRITE and not _is_special(inode.mode):
        want_write(path.mount)


def may_link_empty(ctx: Context) -> bool:
    """Whether linkat(2) may use AT_EMPTY_PATH (ENOENT if not)."""
    return ctx.creds.capable_here(CAP_DAC_READ_SEARCH)


# -- names of places ---------------------------------------------------------------------------------------
def _path_from(root: Path, path: Path) -> tuple[bytes, bool]:
    """The name of a place below `root`, and whether it is below it at all."""
    dentry = path.dentry
    mount = path.mount
    root_dentry = root.dentry
    root_mount = root.mount
    parts: list[bytes] = []
    is_reachable = False
    while True:
        if dentry is root_dentry and mount is root_mount:
            is_reachable = True
            break
        if dentry is mount.root:
            above = mount.parent
            point = mount.mountpoint
            if above is None or point is None:
                break
            mount = above
            dentry = point
            continue
        parent = dentry.parent
        if parent is None:
            break
        parts.append(dentry.name)
        dentry = parent
    if not parts:
        return b"/", is_reachable
    parts.append(b"")
    parts.reverse()
    return b"/".join(parts), is_reachable


def d_path(root: Path, path: Path) -> bytes:
    """The name of an object as /proc shows it (fs/d_path.c); not below `root`.

    From the root of its mounts.
    """
    text = _path_from(root, path)[0]
    return text + b" (deleted)" if path.dentry.is_deleted else text


def getcwd(ctx: Context) -> bytes:
    """getcwd(2): "(unreachable)" in front when it lies outside of the root.

    Raises LinuxError(ENOENT) if removed.
    """
    fs = ctx.fs
    if fs.cwd.dentry.is_deleted:
        raise LinuxError(ENOENT)
    text, is_reachable = _path_from(fs.root, fs.cwd)
    return text if is_reachable else b"(unreachable)" + text


def path_below(root: Path, path: Path) -> bytes | None:
    """The name of a place as seen from `root`; None if it is not below it."""
    text, is_reachable = _path_from(root, path)
    return text if is_reachable else None
