"""Path walk (fs/namei.c): from a name to a `Path`, or to the directory of its last component.

Iterative, whatever the depth of symbolic links; never blocks.  The interface is described in `vfs.namei`.
"""

from typing import Final

from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    EXDEV,
    LinuxError,
)
from cloche.abi.fcntl import (
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from cloche.abi.fs import MS_NOSYMFOLLOW
from cloche.abi.limits import MAX_SYMLINKS, NAME_MAX, PATH_MAX
from cloche.abi.stat import (
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_ISVTX,
    S_IWOTH,
)
from cloche.vfs.dcache import is_below, lookup_child
from cloche.vfs.objects import (
    MAY_EXEC,
    Context,
    Dentry,
    Inode,
    Mount,
    Path,
    PausedWalk,
    WalkKeeper,
    generic_permission,
)

LOOKUP_FOLLOW: Final = 1
LOOKUP_DIRECTORY: Final = 2
LOOKUP_EMPTY: Final = 4
LOOKUP_PREFIX: Final = 8  # the name is only the beginning of a path
SLICE_PARTS: Final = 4 * PATH_MAX // 2  # components from links, after which a walk pauses
_SLASH: Final = 47
VALID_RESOLVE: Final = 0x3F
SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT


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


class WalkState(PausedWalk):
    """The position of a long walk that has paused. When the call is made again, the same walk continues there."""

    def __init__(self, walk: "_Walk") -> None:
        self.name: bytes = walk.name
        self.base: Path = walk.base
        self.resolve: int = walk.resolve
        self.mount: Mount = walk.mount
        self.dentry: Dentry = walk.dentry
        self.stack: list[bytes] = list(walk.stack)
        self.links: int = walk.links
        self.is_directory_needed: bool = walk.is_directory_needed

    def is_of(self, walk: "_Walk") -> bool:
        """Whether this is the state of that walk."""
        return self.name == walk.name and self.resolve == walk.resolve and self.base.same_as(walk.base)


class _Walk:
    """A path walk under way: where it is, and the components still to come (the next one last)."""

    def __init__(self, ctx: Context, base: Path, root: Path, name: bytes, resolve: int) -> None:
        self.ctx: Context = ctx
        self.base: Path = base
        self.name: bytes = name
        self.work: int = 0  # components of links since it began or paused
        self.mount: Mount = base.mount
        self.dentry: Dentry = base.dentry
        self.root: Path = root
        self.resolve: int = resolve
        self.stack: list[bytes] = []
        self.links: int = 0
        self.is_directory_needed: bool = False  # slashes follow the last component
        self.last: bytes = b""  # after run(parent_only=True)
        self.is_whole: bool = True  # False: the walk ends before the path does

    def path(self) -> Path:
        return Path(self.mount, self.dentry)

    def go_on(self, keeper: WalkKeeper) -> None:
        """Continue where an earlier run of the call has paused."""
        for each in keeper.walks:
            if isinstance(each, WalkState) and each.is_of(self):
                self.mount, self.dentry = each.mount, each.dentry
                self.stack = list(each.stack)
                self.links = each.links
                self.is_directory_needed = each.is_directory_needed

    def pause(self, keeper: WalkKeeper) -> None:
        """The work of a slice is done: pause the call, which is made again later."""
        keeper.walks = [
            each for each in keeper.walks if not isinstance(each, WalkState) or not each.is_of(self)
        ]
        keeper.walks.append(WalkState(self))
        keeper.pause()

    def push(self, name: bytes) -> None:
        """Put the components of a path in front of those still to come."""
        stack = self.stack
        if not stack and len(name) > 1 and name[-1] == _SLASH:
            self.is_directory_needed = True
        parts = name.split(b"/")
        self.work += len(parts)
        for part in reversed(parts):
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
            if mount.is_expiring:
                mount.is_expiring = False  # used since it was marked
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
            if mount.root.parent is not None and not is_below(parent, mount.root):
                return -ENOENT  # moved out of the subtree that is mounted here
            self.dentry = parent
            break
        return self.follow_mounts() if self.dentry.mounted else 0

    def _may_follow(self, inode: Inode) -> bool:
        """fs.protected_symlinks: the last link of a walk, in a directory like /tmp."""
        directory = self.dentry.inode
        if directory is None or directory.mode & (S_ISVTX | S_IWOTH) != S_ISVTX | S_IWOTH:
            return True
        return inode.uid == self.ctx.creds.fsuid or inode.uid == directory.uid

    def follow(self, inode: Inode) -> int:
        """Follow the symbolic link `inode`, found in the directory where the walk is."""
        resolve = self.resolve
        self.links += 1
        if self.links > MAX_SYMLINKS:
            return -ELOOP
        if not self.stack and self.is_whole and not self._may_follow(inode):
            return -EACCES
        if resolve & RESOLVE_NO_SYMLINKS:
            return -ELOOP
        if self.mount.flags & MS_NOSYMFOLLOW:
            return -ELOOP
        magic = inode.follow_link(self.ctx)
        if magic is not None:
            if resolve & RESOLVE_NO_MAGICLINKS:
                return -ELOOP
            if resolve & SCOPED:
                return -EXDEV
            if resolve & RESOLVE_NO_XDEV and magic.mount is not self.mount:
                return -EXDEV
            self.mount = magic.mount
            self.dentry = magic.dentry
            return 0
        target = inode.readlink(self.ctx)
        if not target:
            return -ENOENT
        inode.link_was_read(self.mount)
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
            return -name_error(self.dentry)
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
                if self.work > SLICE_PARTS:
                    keeper = self.ctx.walk_keeper
                    if keeper is not None and keeper.may_pause():
                        self.pause(keeper)
                continue
            self.dentry = child
            if child.mounted:
                result = self.follow_mounts()
                if result < 0:
                    return result
        self.last = b""
        return 0


def begin(ctx: Context, start: Path | None, name: bytes, resolve: int) -> _Walk | int:
    """A walk standing where `name` begins, its components pushed; a negative errno for a bad name."""
    if not name:
        return -ENOENT
    if len(name) >= PATH_MAX:
        return -ENAMETOOLONG
    fs = ctx.fs
    base = start if start is not None else fs.cwd
    root = fs.root
    if resolve & SCOPED:
        root = base
        if name[0] == _SLASH and resolve & RESOLVE_BENEATH:
            return -EXDEV
    elif name[0] == _SLASH:
        base = root
    walk = _Walk(ctx, base, root, name, resolve)
    walk.push(name)
    keeper = ctx.walk_keeper
    if keeper is not None and keeper.walks:
        walk.go_on(keeper)
    return walk


def _slow_lookup(ctx: Context, start: Path | None, name: bytes, flags: int, resolve: int) -> Path | int:
    if not name and flags & LOOKUP_EMPTY:
        base = start if start is not None else ctx.fs.cwd
        if flags & LOOKUP_DIRECTORY and not base.inode().is_dir():
            return -ENOTDIR
        return base
    walk = begin(ctx, start, name, resolve)
    if isinstance(walk, int):
        return walk
    walk.is_whole = flags & LOOKUP_PREFIX == 0
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
            if mount.is_expiring:
                mount.is_expiring = False
        dentry = child
        child.is_recent = True
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


def name_error(directory: Dentry) -> int:
    """What is wrong with a name of more than NAME_MAX bytes: a directory that is gone is not asked at all."""
    return ENOENT if directory.is_deleted else ENAMETOOLONG


def lookup_parent(ctx: Context, start: Path | None, name: bytes, *, checks_length: bool = True) -> Parent:
    """The directory in which the last component of `name` is (to be), which may be searched.

    Raises LinuxError.
    """
    slash = name.rfind(b"/")
    last = name[slash + 1 :]
    if last and last != b"." and last != b".." and len(name) < PATH_MAX:
        if slash > 0:
            found = path_lookup_quick(ctx, start, name[:slash], LOOKUP_FOLLOW | LOOKUP_PREFIX)
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
        if len(last) > NAME_MAX and checks_length:
            raise LinuxError(name_error(found.dentry))
        return Parent(found, last, is_slash=False)
    walk = begin(ctx, start, name, 0)
    if isinstance(walk, int):
        raise LinuxError(-walk)
    result = walk.run(parent_only=True, follow_last=False)
    if result < 0:
        raise LinuxError(-result)
    if len(walk.last) > NAME_MAX and checks_length:
        raise LinuxError(name_error(walk.dentry))
    return Parent(walk.path(), walk.last, is_slash=walk.is_directory_needed)
