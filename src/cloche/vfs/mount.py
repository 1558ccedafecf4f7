"""Mounts and mount namespaces (fs/namespace.c): mount, bind, move, remount, umount, pivot_root.  Listings are
`fs.proc_mounts`'s.

Owns `MountNamespace.mounts`, `Mount.covering` and `Dentry.mounted`.  A mount that is attached to no namespace
(open_tree, fsmount) is the root of a detached tree.  Propagation types are kept and shown, without effect.

The functions that begin with `do_` check capabilities and arguments as the system call does; they take paths
that were looked up.  Raises LinuxError throughout.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTDIR,
    EPERM,
    LinuxError,
)
from cloche.abi.fs import (
    MNT_DETACH,
    MNT_EXPIRE,
    MNT_FORCE,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_BIND,
    MS_DIRSYNC,
    MS_MGC_MSK,
    MS_MGC_VAL,
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
    UMOUNT_NOFOLLOW,
)
from cloche.mm.quota import KERNEL_MEMORY, MOUNT_BYTES
from cloche.vfs.forgetting import NAMES, forgetful
from cloche.vfs.namei import drop_negative_dentries, path_lookup
from cloche.vfs.objects import Context, Dentry, FileSystem, FsContext, Mount, MountNamespace, Path
from cloche.vfs.userns import UserNamespace

# (ctx, source, flags, data) -> a file system to mount.  Raises LinuxError.
Factory = Callable[[Context, bytes, int, bytes], FileSystem]
# One option, as mount(2) takes it.  Raises LinuxError(EINVAL).
OptionCheck = Callable[[bytes], None]

_PER_MOUNT: Final = (
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_NOSYMFOLLOW
)
SYNC_FLAGS: Final = MS_SYNCHRONOUS | MS_DIRSYNC
_LOCKABLE: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_ATIME: Final = MS_NOATIME | MS_NODIRATIME | MS_RELATIME
_USERNS_KINDS: Final = (b"tmpfs", b"ramfs", b"proc", b"sysfs", b"devpts", b"mqueue", b"cgroup2", b"overlay")
_VISIBLE_KINDS: Final = ("proc", "sysfs")  # SB_I_USERNS_VISIBLE
_PROPAGATION: Final = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE
MAX_MOUNTS: Final = 10_000  # fs.mount-max: of a namespace


class MountNumbers:
    """Numbers given out."""

    def __init__(self) -> None:
        self.next_ident: int = 20
        self.next_peer_group: int = 1


MOUNT_NUMBERS: Final = MountNumbers()


class _Kinds:
    """The known kinds of file systems."""

    def __init__(self) -> None:
        self.factories: dict[bytes, Factory] = {}
        self.without_device: set[bytes] = set()
        self.checkers: dict[bytes, OptionCheck] = {}


_kinds: Final = _Kinds()


def register_filesystem(
    kind: bytes, factory: Factory, *, needs_device: bool = False, checker: OptionCheck | None = None
) -> None:
    """Let mount(2) make file systems of this kind; with a `checker` fsconfig(2) refuses bad options at once."""
    _kinds.factories[kind] = factory
    if checker is not None:
        _kinds.checkers[kind] = checker
    if not needs_device:
        _kinds.without_device.add(kind)


def filesystem_kinds() -> list[tuple[bytes, bool]]:
    """The kinds for /proc/filesystems, each with whether it needs a device."""
    return [(kind, kind not in _kinds.without_device) for kind in _kinds.factories]


def check_option(kind: bytes, option: bytes) -> None:
    """Check an option of a file system. Raises LinuxError(EINVAL)."""
    checker = _kinds.checkers.get(kind)
    if checker is not None:
        checker(option)


def make_filesystem(ctx: Context, kind: bytes, source: bytes, flags: int, data: bytes) -> FileSystem:
    """A new instance.  Raises LinuxError(ENODEV) for an unknown kind."""
    factory = _kinds.factories.get(kind)
    if factory is None:
        raise LinuxError(ENODEV)
    if ctx.creds.user_ns is not None and kind not in _USERNS_KINDS:
        raise LinuxError(EPERM)
    fs = factory(ctx, source, flags, data)
    if fs.root_dentry is None and fs.user_ns is None and ctx.creds.user_ns is not None:
        fs.user_ns = ctx.creds.user_ns
        fs.has_devices = kind == b"devpts"
    if source and fs.root_dentry is None:
        fs.source = source.decode("utf-8", "surrogateescape")
    return fs


# -- mounts and trees of mounts --------------------------------------------------------------------------
def _clone(mount: Mount, root: Dentry) -> Mount:
    new = Mount(_next_ident(), mount.fs, root, mount.flags)
    new.propagation = mount.propagation
    new.peer_group = mount.peer_group
    new.master_group = mount.master_group
    new.locked_flags = mount.locked_flags
    new.is_atime_locked = mount.is_atime_locked
    new.is_locked = mount.is_locked
    return new


def _next_ident() -> int:
    MOUNT_NUMBERS.next_ident += 1
    return MOUNT_NUMBERS.next_ident


def new_mount(fs: FileSystem, flags: int = 0) -> Mount:
    """A detached mount of a whole file system.

    `flags` are per-mount MS_*, relatime unless they say otherwise.
    """
    root = fs.root_dentry
    if root is None:
        root = Dentry(b"", None, fs.root_inode)
        fs.root_dentry = root
    return Mount(_next_ident(), fs, root, mount_flags(flags))


def mount_flags(flags: int) -> int:
    """The per-mount part of mount(2)'s flags, with the default of relatime (path_mount)."""
    result = flags & _PER_MOUNT
    if flags & MS_NOATIME == 0:
        result |= MS_RELATIME
    if flags & MS_STRICTATIME:
        result &= ~(MS_RELATIME | MS_NOATIME)
    return result


def mount_tree(mount: Mount) -> list[Mount]:
    """A mount and everything mounted below it, parents first."""
    tree = [mount]
    index = 0
    while index < len(tree):
        tree.extend(tree[index].covering.values())
        index += 1
    return tree


def top_of(path: Path) -> Path:
    """Follow the mounts on top of a path."""
    mount = path.mount
    dentry = path.dentry
    while dentry.mounted:
        above = mount.covering.get(dentry)
        if above is None:
            break
        mount = above
        dentry = above.root
    return path if mount is path.mount else Path(mount, dentry)


def tree_top(mount: Mount) -> Mount:
    """The top of the tree that a mount is in."""
    while mount.parent is not None:
        mount = mount.parent
    return mount


def is_in_anonymous_tree(mount: Mount) -> bool:
    """Whether the mount is in a detached tree, which fsmount or open_tree has made."""
    return tree_top(mount).is_anonymous


def _link(mount: Mount, parent: Mount, point: Dentry) -> None:
    mount.parent = parent
    mount.mountpoint = point
    parent.covering[point] = mount
    point.mounted += 1


def _unlink(mount: Mount) -> None:
    parent = mount.parent
    point = mount.mountpoint
    if parent is not None and point is not None:
        if parent.covering.get(point) is mount:
            del parent.covering[point]
        point.mounted -= 1
    mount.parent = None
    mount.mountpoint = None


def attach(ns: MountNamespace, mount: Mount, at: Path) -> None:
    """Put a detached tree on top of `at`.  No permission checks: boot and the functions below use it."""
    place = top_of(at)
    mount.is_anonymous = False
    _link(mount, place.mount, place.dentry)
    if is_in_anonymous_tree(place.mount):
        return
    ns.touch()
    for each in mount_tree(mount):
        each.is_detached = False
        ns.mounts.append(each)
        parent = each.parent
        point = each.mountpoint
        if parent is not None and point is not None:
            ns.covered[(parent, point)] = each


def mount_at(ctx: Context, where: bytes, fs: FileSystem, flags: int = 0) -> Mount:
    """Mount `fs` at an existing path, without asking for capabilities (boot)."""
    mount = new_mount(fs, flags)
    graft(ctx, mount, path_lookup(ctx, None, where))
    return mount


def _detach(ns: MountNamespace, mount: Mount) -> list[Mount]:
    """Take a tree out of its namespace; it stays together.  Its members, parents first."""
    tree = mount_tree(mount)
    gone = set(tree)
    for each in tree:
        parent = each.parent
        point = each.mountpoint
        if parent is not None and point is not None:
            ns.covered.pop((parent, point), None)
    ns.mounts = [each for each in ns.mounts if each not in gone]
    ns.touch()
    _unlink(mount)
    return tree


def _check_mounted(ctx: Context, mount: Mount) -> None:
    if mount not in ctx.mount_ns.mounts:
        raise LinuxError(EINVAL)


def _require_admin(ctx: Context) -> None:
    """Raises LinuxError(EPERM) without CAP_SYS_ADMIN over the mount namespace (may_mount)."""
    if not ctx.creds.capable_in(ctx.mount_ns.user_ns, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)


def new_namespace(fs: FileSystem, flags: int = 0) -> MountNamespace:
    """A namespace whose only mount is `fs` (boot)."""
    mount = new_mount(fs, flags)
    return MountNamespace(Path(mount, mount.root))


def check_room(ns: MountNamespace, count: int) -> None:
    """Whether `count` more mounts may be made.  Raises LinuxError(ENOSPC, ENOMEM)."""
    if len(ns.mounts) + count > MAX_MOUNTS:
        raise LinuxError(ENOSPC)
    if not KERNEL_MEMORY.has_spare(count * MOUNT_BYTES):
        raise LinuxError(ENOMEM)


def copy_tree(path: Path, *, is_recursive: bool) -> Mount:
    """A detached copy of the mount at `path`, from there down (copy_tree; bind mounts, open_tree)."""
    source = path.mount
    if source.propagation == MS_UNBINDABLE:
        raise LinuxError(EINVAL)
    if not is_recursive and _has_locked_children(source, path.dentry):
        raise LinuxError(EINVAL)
    top = _clone(source, path.dentry)
    top.is_locked = False
    if not is_recursive:
        return top
    copies = {source: top}
    for each in mount_tree(source)[1:]:
        parent = each.parent
        point = each.mountpoint
        if parent is None or point is None or parent not in copies:
            continue
        if each.propagation == MS_UNBINDABLE:
            if each.is_locked:
                raise LinuxError(EPERM)
            continue
        if parent is source and not _is_below(point, path.dentry):
            continue
        copy = _clone(each, each.root)
        _link(copy, copies[parent], point)
        copies[each] = copy
    return top


def _has_locked_children(mount: Mount, dentry: Dentry) -> bool:
    """Whether a mount that may not be taken away hides something at or below `dentry`."""
    for point, child in mount.covering.items():
        if child.is_locked and _is_below(point, dentry):
            return True
    return False


def _lock_tree(top: Mount) -> None:
    """The copy belongs to a less privileged user namespace: it cannot undo what the original had set, nor look
    under a mount (lock_mnt_tree).
    """
    for each in mount_tree(top):
        each.locked_flags |= each.flags & _LOCKABLE
        each.is_atime_locked = True
        each.is_locked = each is not top


def _check_locked(mount: Mount, flags: int) -> None:
    """Whether the mount may have these flags instead of its own (can_change_locked_flags).

    Raises LinuxError(EPERM).
    """
    if mount.locked_flags & ~flags or (mount.is_atime_locked and (mount.flags ^ flags) & _ATIME):
        raise LinuxError(EPERM)


def _is_below(dentry: Dentry, ancestor: Dentry) -> bool:
    each: Dentry | None = dentry
    while each is not None:
        if each is ancestor:
            return True
        each = each.parent
    return False


def clone_namespace(
    ns: MountNamespace, fs: FsContext, user_ns: UserNamespace | None = None
) -> MountNamespace:
    """CLONE_NEWNS: a copy of all mounts, owned by `user_ns`; `fs` (not shared any more) is moved over to it."""
    old_root = ns.root.mount
    copies: dict[Mount, Mount] = {}
    for each in mount_tree(old_root):
        copy = _clone(each, each.root)
        copies[each] = copy
        parent = each.parent
        point = each.mountpoint
        if each is not old_root and parent is not None and point is not None:
            _link(copy, copies[parent], point)
    new_root = copies[old_root]
    new = MountNamespace(Path(new_root, new_root.root))
    new.user_ns = user_ns
    if user_ns is not ns.user_ns:
        _lock_tree(new_root)
    new.mounts = [copies[each] for each in ns.mounts if each in copies]
    for copy in new.mounts:
        if copy.parent is not None and copy.mountpoint is not None:
            new.covered[(copy.parent, copy.mountpoint)] = copy
    root = copies.get(fs.root.mount)
    if root is not None:
        fs.root = Path(root, fs.root.dentry)
    cwd = copies.get(fs.cwd.mount)
    if cwd is not None:
        fs.cwd = Path(cwd, fs.cwd.dentry)
    return new


def _forget_names(mounts: list[Mount]) -> None:
    """Mounts go away: no cache of names may keep a file system alive that has no others."""
    drop_negative_dentries()
    counts: dict[FileSystem, int] = {}
    for each in mounts:
        counts[each.fs] = counts.get(each.fs, 0) + 1
    gone = [fs for fs in counts if counts[fs] == fs.mount_count and forgetful(fs.root_inode) is not None]
    if gone:
        NAMES.forget_gone(gone)


def release_namespace(ns: MountNamespace) -> None:
    """The last task has left it."""
    tree = mount_tree(ns.root.mount)
    for each in reversed(tree):
        each.is_detached = True
        _unlink(each)
    ns.mounts = []
    ns.covered.clear()
    _forget_names(tree)


# -- mount(2) --------------------------------------------------------------------------------------------
def do_mount(ctx: Context, source: bytes, target: Path, kind: bytes, flags: int, data: bytes) -> None:
    """mount(2) (path_mount); `source` is a path where the operation takes one."""
    if flags & MS_MGC_MSK == MS_MGC_VAL:
        flags &= ~MS_MGC_MSK
    _require_admin(ctx)
    _check_mounted(ctx, target.mount)
    if flags & MS_REMOUNT:
        _remount(ctx, target, flags, data)
    elif flags & MS_BIND:
        if not source:
            raise LinuxError(EINVAL)
        old = path_lookup(ctx, None, source)
        do_bind(ctx, old, target, is_recursive=flags & MS_REC != 0)
    elif flags & _PROPAGATION:
        change_propagation(target, flags)
    elif flags & MS_MOVE:
        if not source:
            raise LinuxError(EINVAL)
        do_move(ctx, path_lookup(ctx, None, source), target)
    else:
        if not kind:
            raise LinuxError(EINVAL)
        fs = make_filesystem(ctx, kind, source, flags, data)
        if flags & MS_RDONLY and fs.root_dentry is None:  # not the only instance, mounted before
            fs.is_readonly = True
        if fs.root_dentry is None:
            fs.sync_flags = flags & SYNC_FLAGS
        mount = new_mount(fs, flags)
        check_revealing(ctx, mount)
        graft(ctx, mount, target)


def check_revealing(ctx: Context, new: Mount) -> None:
    """In a namespace of a user namespace proc and sysfs show no more than a mount of theirs that is already there
    (mount_too_revealing).  Raises LinuxError(EPERM).
    """
    if ctx.mount_ns.user_ns is None or new.fs.kind not in _VISIBLE_KINDS:
        return
    for mount in ctx.mount_ns.mounts:
        if mount.fs.kind != new.fs.kind or mount.root is not mount.fs.root_dentry:
            continue
        locked = mount.locked_flags & MS_RDONLY or (MS_RDONLY if mount.fs.is_readonly else 0)
        if locked & ~new.flags:
            continue
        if mount.is_atime_locked and (mount.flags ^ new.flags) & _ATIME:
            continue
        if new.fs.kind == "proc" and _has_locked_children(mount, mount.root):
            continue  # sysfs has directories made to be mounted on, and nothing else is mounted there
        new.locked_flags |= locked
        new.is_atime_locked = mount.is_atime_locked
        return
    raise LinuxError(EPERM)


def graft(ctx: Context, mount: Mount, target: Path) -> None:
    """Attach a detached tree at `target`, with the checks of graft_tree and do_add_mount."""
    ns = ctx.mount_ns
    place = top_of(target)
    if place.dentry.is_deleted:
        raise LinuxError(ENOENT)
    if place.inode().is_dir() != mount.root.require().is_dir():
        raise LinuxError(ENOTDIR)
    if place.mount.fs is mount.fs and place.dentry is place.mount.root and mount.root is place.mount.root:
        raise LinuxError(EBUSY)
    check_room(ns, len(mount_tree(mount)))
    attach(ns, mount, place)


def do_bind(ctx: Context, old: Path, target: Path, *, is_recursive: bool) -> None:
    """MS_BIND (do_loopback)."""
    if old.inode().fs.kind != "nsfs":  # a namespace may be bound from /proc/PID/ns
        _check_mounted(ctx, old.mount)
    if old.dentry.is_deleted:
        raise LinuxError(ENOENT)
    if old.inode().is_dir() != target.inode().is_dir():
        raise LinuxError(ENOTDIR)
    check_room(ctx.mount_ns, len(mount_tree(old.mount)) if is_recursive else 1)
    mount = copy_tree(old, is_recursive=is_recursive)
    place = top_of(target)
    if place.dentry.is_deleted:
        raise LinuxError(ENOENT)
    attach(ctx.mount_ns, mount, place)


def _remount(ctx: Context, target: Path, flags: int, data: bytes) -> None:
    mount = target.mount
    if target.dentry is not mount.root:
        raise LinuxError(EINVAL)
    keeps_atime = flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME) == 0
    new = mount_flags(flags)
    if keeps_atime:
        atime = MS_NOATIME | MS_NODIRATIME | MS_RELATIME
        new = (new & ~atime) | (mount.flags & atime)
    _check_locked(mount, new)
    if flags & MS_BIND == 0:
        if not ctx.creds.capable_in(mount.fs.user_ns, CAP_SYS_ADMIN):
            raise LinuxError(EPERM)
        mount.fs.remount(ctx, data)
        mount.fs.is_readonly = flags & MS_RDONLY != 0
        mount.fs.sync_flags = mount.fs.sync_flags & MS_DIRSYNC | flags & MS_SYNCHRONOUS  # MS_RMT_MASK
    mount.flags = new
    ctx.mount_ns.touch()


def change_propagation(target: Path, flags: int) -> None:
    """MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE, alone or with MS_REC."""
    kind = flags & ~(MS_REC | MS_SILENT)
    if kind not in (MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE):
        raise LinuxError(EINVAL)
    if target.dentry is not target.mount.root:
        raise LinuxError(EINVAL)
    for mount in mount_tree(target.mount) if flags & MS_REC else [target.mount]:
        if kind == MS_SHARED:
            if not mount.propagation & MS_SHARED:
                mount.propagation = mount.propagation & MS_SLAVE | MS_SHARED
                mount.peer_group = MOUNT_NUMBERS.next_peer_group
                MOUNT_NUMBERS.next_peer_group += 1
        elif kind == MS_SLAVE:
            # A slave without a master is private; so is a shared mount, as no others are in its group but the host's.
            mount.propagation = MS_SLAVE if mount.master_group else 0
            mount.peer_group = 0
        else:
            mount.propagation = MS_UNBINDABLE if kind == MS_UNBINDABLE else 0
            mount.peer_group = mount.master_group = 0


def do_move(ctx: Context, old: Path, target: Path) -> None:
    """MS_MOVE (do_move_mount)."""
    mount = old.mount
    ns = ctx.mount_ns
    if old.dentry is not mount.root or mount.parent is None:
        raise LinuxError(EINVAL)
    _check_mounted(ctx, mount)
    place = top_of(target)
    if place.inode().is_dir() != mount.root.require().is_dir():
        raise LinuxError(EINVAL)
    if mount.parent.propagation & MS_SHARED or mount.is_locked:
        raise LinuxError(EINVAL)
    above: Mount | None = place.mount
    while above is not None:
        if above is mount:
            raise LinuxError(ELOOP)
        above = above.parent
    if place.dentry.is_deleted:
        raise LinuxError(ENOENT)
    _detach(ns, mount)
    attach(ns, mount, place)


def set_mount_attr(ctx: Context, path: Path, to_set: int, to_clear: int, *, is_recursive: bool) -> None:
    """mount_setattr(2): MOUNT_ATTR_* to set and to clear."""
    _require_admin(ctx)
    if not path.mount.is_anonymous:
        _check_mounted(ctx, path.mount)
    if path.dentry is not path.mount.root:
        raise LinuxError(EINVAL)
    if to_set & MOUNT_ATTR__ATIME not in (0, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME):
        raise LinuxError(EINVAL)
    if to_set & MOUNT_ATTR__ATIME and to_clear & MOUNT_ATTR__ATIME != MOUNT_ATTR__ATIME:
        raise LinuxError(EINVAL)
    if to_clear & MOUNT_ATTR__ATIME not in (0, MOUNT_ATTR__ATIME):
        raise LinuxError(EINVAL)
    changed: list[tuple[Mount, int]] = []
    for mount in mount_tree(path.mount) if is_recursive else [path.mount]:
        flags = mount.flags & ~attr_to_flags(to_clear & ~MOUNT_ATTR__ATIME)
        if to_clear & MOUNT_ATTR__ATIME:
            flags &= ~(MS_NOATIME | MS_RELATIME)
            kind = to_set & MOUNT_ATTR__ATIME
            if kind == MOUNT_ATTR_NOATIME:
                flags |= MS_NOATIME
            elif kind != MOUNT_ATTR_STRICTATIME:
                flags |= MS_RELATIME
        flags |= attr_to_flags(to_set & ~MOUNT_ATTR__ATIME)
        _check_locked(mount, flags)
        changed.append((mount, flags))
    for mount, flags in changed:
        mount.flags = flags
    if not path.mount.is_anonymous:
        ctx.mount_ns.touch()


def attr_to_flags(attr: int) -> int:
    """MS_* for MOUNT_ATTR_* without the kinds of atime (fsmount(2), mount_setattr(2)).

    Raises LinuxError(EINVAL).
    """
    flags = 0
    for bit, flag in (
        (MOUNT_ATTR_RDONLY, MS_RDONLY),
        (MOUNT_ATTR_NOSUID, MS_NOSUID),
        (MOUNT_ATTR_NODEV, MS_NODEV),
        (MOUNT_ATTR_NOEXEC, MS_NOEXEC),
        (MOUNT_ATTR_NODIRATIME, MS_NODIRATIME),
        (MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW),
    ):
        if attr & bit:
            flags |= flag
            attr &= ~bit
    if attr:
        raise LinuxError(EINVAL)
    return flags


# -- umount2(2) ------------------------------------------------------------------------------------------
def check_umount_flags(flags: int) -> None:
    """The checks of umount2(2) before the path.  Raises LinuxError(EINVAL)."""
    if flags & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW):
        raise LinuxError(EINVAL)


def check_umount(ctx: Context, path: Path, flags: int) -> None:
    """What umount2(2) refuses before it asks whether the mount is in use.  Raises LinuxError."""
    check_umount_flags(flags)
    _require_admin(ctx)
    mount = path.mount
    if path.dentry is not mount.root:
        raise LinuxError(EINVAL)
    _check_mounted(ctx, mount)
    if mount.is_locked:
        raise LinuxError(EINVAL)
    if flags & MNT_FORCE and not ctx.creds.capable_in(mount.fs.user_ns, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)
    if flags & MNT_EXPIRE and flags & (MNT_FORCE | MNT_DETACH):
        raise LinuxError(EINVAL)
    if mount is ctx.mount_ns.root.mount:
        # Linux makes the root read-only here, or detaches it; neither is of use in a sandbox.
        raise LinuxError(EBUSY if flags & MNT_DETACH == 0 else EINVAL)
    if flags & MNT_DETACH == 0 and mount.covering:
        raise LinuxError(EBUSY)


def do_umount(
    ctx: Context,
    path: Path,
    flags: int,
    is_busy: Callable[[Mount], bool] | None,
    *,
    was_expiring: bool = False,
) -> None:
    """umount2(2) of the mount whose root is `path`; `is_busy` tells whether open files or tasks are on it.

    `was_expiring`: it had been marked by MNT_EXPIRE, and not been used since.
    """
    check_umount(ctx, path, flags)
    mount = path.mount
    if flags & MNT_DETACH == 0:
        if is_busy is not None and is_busy(mount):
            raise LinuxError(EBUSY)
        if flags & MNT_EXPIRE and not was_expiring:
            mount.is_expiring = True
            raise LinuxError(EAGAIN)
    tree = _detach(ctx.mount_ns, mount)
    mount.is_detached = True
    for each in reversed(tree[1:]):
        each.is_detached = True
        if not each.is_locked:  # the files that it hides stay hidden from processes that still use it
            _unlink(each)
    _forget_names(tree)


# -- pivot_root(2) ---------------------------------------------------------------------------------------
def do_pivot_root(ctx: Context, new: Path, old: Path, contexts: list[FsContext]) -> None:
    """pivot_root(2): `new` becomes the root, the old root moves to `old`.

    `contexts` are those of all tasks of the namespace: if their root or cwd is the old root, it becomes the new one.
    """
    _require_admin(ctx)
    ns = ctx.mount_ns
    root = ctx.fs.root
    if not new.inode().is_dir() or not old.inode().is_dir():
        raise LinuxError(ENOTDIR)
    for mount in (new.mount, old.mount, root.mount):
        _check_mounted(ctx, mount)
    for beside in (old.mount, new.mount.parent, root.mount.parent):
        if beside is not None and beside.propagation & MS_SHARED:
            raise LinuxError(EINVAL)
    if new.mount.is_locked:
        raise LinuxError(EINVAL)
    if new.dentry.is_deleted or old.dentry.is_deleted:
        raise LinuxError(ENOENT)
    if new.mount is root.mount or old.mount is root.mount:
        raise LinuxError(EBUSY)
    if root.dentry is not root.mount.root or new.dentry is not new.mount.root or new.mount.parent is None:
        raise LinuxError(EINVAL)
    if not _is_reachable(old, new) or not _is_reachable(new, root):
        raise LinuxError(EINVAL)
    root_mount = root.mount
    new_mount_ = new.mount
    above = root_mount.parent
    point = root_mount.mountpoint
    if root_mount.is_locked:
        new_mount_.is_locked = True
        root_mount.is_locked = False
    _detach(ns, new_mount_)
    if root_mount is ns.root.mount or above is None or point is None:
        ns.root = Path(new_mount_, new_mount_.root)
        ns.mounts = mount_tree(new_mount_)
        attach(ns, root_mount, old)
        ns.covered.clear()
        for each in ns.mounts:
            if each.parent is not None and each.mountpoint is not None:
                ns.covered[(each.parent, each.mountpoint)] = each
    else:
        _detach(ns, root_mount)
        attach(ns, new_mount_, Path(above, point))
        attach(ns, root_mount, old)
    new_root = Path(new_mount_, new_mount_.root)
    for each_fs in contexts:
        if each_fs.root.same_as(root):
            each_fs.root = new_root
        if each_fs.cwd.same_as(root):
            each_fs.cwd = new_root


def _is_reachable(path: Path, root: Path) -> bool:
    """Whether `path` is `root` or below it, mounts included (is_path_reachable)."""
    mount = path.mount
    dentry = path.dentry
    while mount is not root.mount:
        above = mount.parent
        point = mount.mountpoint
        if above is None or point is None:
            return False
        mount = above
        dentry = point
    return _is_below(dentry, root.dentry)
