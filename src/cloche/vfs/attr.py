"""Permission rules for inodes, and changes of attributes and extended attributes (fs/attr.c, fs/open.c,
fs/xattr.c).

Owns nothing.  Calls inode operations; `namei` builds on it.  Functions take a positive `Path` and raise
LinuxError.
"""

import time
from typing import Final

from cloche.abi.capability import (
    CAP_CHOWN,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_SETFCAP,
    CAP_SYS_ADMIN,
)
from cloche.abi.errno import (
    E2BIG,
    EACCES,
    EFBIG,
    EINVAL,
    EISDIR,
    ENODATA,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ETXTBSY,
    LinuxError,
)
from cloche.abi.fs import MS_RDONLY
from cloche.abi.inotify import IN_ACCESS, IN_ATTRIB, IN_MODIFY
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID, S_ISUID, S_ISVTX, S_IXGRP
from cloche.abi.xattr import (
    NAME_CAPS,
    SECURITY_PREFIX,
    SYSTEM_PREFIX,
    TRUSTED_PREFIX,
    USER_PREFIX,
    XATTR_CREATE,
    XATTR_NAME_MAX,
    XATTR_REPLACE,
    XATTR_SIZE_MAX,
)
from cloche.vfs.credentials import Credentials
from cloche.vfs.file_caps import shown_value, stored_value
from cloche.vfs.objects import MAY_WRITE, Context, FileDescription, Inode, Mount, Path, notify_path
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

# Special arguments of vfs_utimens; no time has these values.
TIME_NOW: Final = -(1 << 100)
TIME_OMIT: Final = -(1 << 100) - 1

MAX_FILE_SIZE: Final = 0x7FFFFFFFFFFFFFFF


# -- permissions -----------------------------------------------------------------------------------------
def want_write(mount: Mount) -> None:
    """Raises LinuxError(EROFS) on a read-only mount or file system (mnt_want_write)."""
    if mount.flags & MS_RDONLY or mount.fs.is_readonly:
        raise LinuxError(EROFS)


def inode_permission(ctx: Context, inode: Inode, mask: int) -> int:
    """0 if MAY_* `mask` is granted, else -EACCES, or -EROFS for writing on a read-only file system."""
    if mask & MAY_WRITE and inode.fs.is_readonly:
        kind = inode.mode & S_IFMT
        if kind == S_IFREG or kind == S_IFDIR or kind == S_IFLNK:
            return -EROFS
    return 0 if inode.permission(ctx, mask) else -EACCES


def require_permission(ctx: Context, inode: Inode, mask: int) -> None:
    """Raises what `inode_permission` returns."""
    result = inode_permission(ctx, inode, mask)
    if result < 0:
        raise LinuxError(-result)


def owner_or_capable(creds: Credentials, inode: Inode) -> bool:
    """Whether the caller owns the file or has CAP_FOWNER."""
    if creds.fsuid == inode.uid:
        return True
    if not creds.capable_here(CAP_FOWNER):
        return False
    ns = creds.user_ns
    return ns is None or ns.uids.from_kernel(inode.uid) >= 0


def _in_group_or_capable(creds: Credentials, inode: Inode) -> bool:
    return creds.in_group(inode.gid) or creds.capable_over(inode.uid, inode.gid, CAP_FSETID)


def new_mode(ctx: Context, directory: Inode, mode: int) -> int:
    """The mode of a new file (vfs_prepare_mode). The umask is applied after S_ISGID was examined, because that
    depends on the group's right to execute.
    """
    return _strip_sgid(ctx.creds, directory, mode) & ~ctx.fs.umask


def _strip_sgid(creds: Credentials, directory: Inode, mode: int) -> int:
    """The mode of a new file in a set-group-id directory whose group the caller is not in
    (mode_strip_sgid).
    """
    if mode & (S_ISGID | S_IXGRP) != S_ISGID | S_IXGRP or mode & S_IFMT == S_IFDIR:
        return mode
    if directory.mode & S_ISGID == 0 or _in_group_or_capable(creds, directory):
        return mode
    return mode & ~S_ISGID


def new_owner(creds: Credentials, directory: Inode, mode: int) -> tuple[int, int, int]:
    """uid, gid and mode of a new inode in `directory` (inode_init_owner)."""
    if directory.mode & S_ISGID:
        if mode & S_IFMT == S_IFDIR:
            mode |= S_ISGID
        return creds.fsuid, directory.gid, mode
    return creds.fsuid, creds.fsgid, mode


def get_write_access(inode: Inode) -> None:
    """Raises LinuxError(ETXTBSY) while the file is executed."""
    if inode.write_count < 0:
        raise LinuxError(ETXTBSY)


def deny_write_access(inode: Inode) -> None:
    """Forbid writers while the file is executed; ETXTBSY if there are some.  Undo with allow_write_access."""
    if inode.write_count > 0:
        raise LinuxError(ETXTBSY)
    inode.write_count -= 1


def allow_write_access(inode: Inode) -> None:
    """Undo one `deny_write_access`."""
    inode.write_count += 1


# -- set-id bits -----------------------------------------------------------------------------------------
def _without_privs(creds: Credentials, mode: int, inode: Inode) -> int:
    """`mode` without set-user-id, and without set-group-id where that bit means a set-group-id program
    (setattr_should_drop_suidgid).
    """
    mode &= ~S_ISUID
    if mode & S_ISGID and (mode & S_IXGRP or not _in_group_or_capable(creds, inode)):
        mode &= ~S_ISGID
    return mode


def remove_privs(ctx: Context, inode: Inode) -> None:
    """Remove set-id bits at a write or truncation (file_remove_privs).

    File systems call it from pwrite.
    """
    mode = inode.mode
    if mode & (S_ISUID | S_ISGID) == 0 or mode & S_IFMT != S_IFREG:
        return
    if ctx.creds.capable_over(inode.uid, inode.gid, CAP_FSETID):
        return
    new_mode = _without_privs(ctx.creds, mode, inode)
    if new_mode != mode:
        attr = SetAttr(ATTR_MODE | ATTR_CTIME)
        attr.mode = new_mode
        attr.ctime_ns = time.time_ns()
        inode.setattr(ctx, attr)


# -- chmod, chown, utimens -------------------------------------------------------------------------------
def vfs_chmod(ctx: Context, path: Path, mode: int) -> None:
    """chmod(2) on the object itself; EOPNOTSUPP for a symbolic link."""
    want_write(path.mount)
    inode = path.inode()
    inode.refresh_owner(ctx)
    if not owner_or_capable(ctx.creds, inode):
        raise LinuxError(EPERM)
    if inode.is_symlink():
        raise LinuxError(EOPNOTSUPP)
    mode &= 0o7777
    if mode & S_ISGID and not _in_group_or_capable(ctx.creds, inode):
        mode &= ~S_ISGID
    attr = SetAttr(ATTR_MODE | ATTR_CTIME)
    attr.mode = (inode.mode & S_IFMT) | mode
    attr.ctime_ns = time.time_ns()
    inode.setattr(ctx, attr)
    notify_path(path, IN_ATTRIB)


def vfs_chown(ctx: Context, path: Path, uid: int, gid: int) -> None:
    """chown(2) on the object itself; -1 keeps an id.  Clears set-id bits of what is not a directory."""
    want_write(path.mount)
    inode = path.inode()
    inode.refresh_owner(ctx)
    creds = ctx.creds
    attr = SetAttr(ATTR_CTIME)
    attr.ctime_ns = time.time_ns()
    if uid != -1:
        attr.valid |= ATTR_UID
        attr.uid = uid
        if (creds.fsuid != inode.uid or uid != inode.uid) and not creds.capable_over(
            inode.uid, inode.gid, CAP_CHOWN
        ):
            raise LinuxError(EPERM)
    if gid != -1:
        attr.valid |= ATTR_GID
        attr.gid = gid
        is_allowed = creds.fsuid == inode.uid and (gid == inode.gid or creds.in_group(gid))
        if not is_allowed and not creds.capable_over(inode.uid, inode.gid, CAP_CHOWN):
            raise LinuxError(EPERM)
    if not inode.is_dir():
        mode = _without_privs(creds, inode.mode, inode)
        if mode != inode.mode:
            attr.valid |= ATTR_MODE
            attr.mode = mode
    inode.setattr(ctx, attr)
    if attr.valid & (ATTR_UID | ATTR_GID | ATTR_MODE):
        notify_path(path, IN_ATTRIB)


def vfs_utimens(ctx: Context, path: Path, atime_ns: int, mtime_ns: int) -> None:
    """utimensat(2): times in ns since the epoch, or TIME_NOW, or TIME_OMIT (both of them.

    Nothing is checked).
    """
    if atime_ns == TIME_OMIT and mtime_ns == TIME_OMIT:
        return
    want_write(path.mount)
    inode = path.inode()
    inode.refresh_owner(ctx)
    if not owner_or_capable(ctx.creds, inode):
        if atime_ns != TIME_NOW or mtime_ns != TIME_NOW:
            raise LinuxError(EPERM)
        require_permission(ctx, inode, MAY_WRITE)
    now = time.time_ns()
    attr = SetAttr(ATTR_CTIME)
    attr.ctime_ns = now
    if atime_ns != TIME_OMIT:
        attr.valid |= ATTR_ATIME
        attr.atime_ns = now if atime_ns == TIME_NOW else atime_ns
    if mtime_ns != TIME_OMIT:
        attr.valid |= ATTR_MTIME
        attr.mtime_ns = now if mtime_ns == TIME_NOW else mtime_ns
    inode.setattr(ctx, attr)
    # As in fsnotify_change: a change of one time alone is reported as an access or a modification.
    if mtime_ns == TIME_OMIT:
        notify_path(path, IN_ACCESS)
    else:
        notify_path(path, IN_MODIFY if atime_ns == TIME_OMIT else IN_ATTRIB)


# -- truncate --------------------------------------------------------------------------------------------
def check_new_size(ctx: Context, inode: Inode, size: int) -> None:
    """RLIMIT_FSIZE (with SIGXFSZ) and the largest offset (inode_newsize_ok).  Raises LinuxError(EFBIG)."""
    if size > inode.size:
        limit = ctx.file_size_limit
        if limit >= 0 and size > limit:
            ctx.file_size_exceeded()
            raise LinuxError(EFBIG)
        if size > MAX_FILE_SIZE:
            raise LinuxError(EFBIG)


def write_room(ctx: Context, offset: int, count: int) -> int:
    """How many of `count` bytes may be written at `offset` (generic_write_checks).

    -EFBIG, with SIGXFSZ, if none.
    """
    limit = ctx.file_size_limit
    if limit >= 0:
        if offset >= limit:
            ctx.file_size_exceeded()
            return -EFBIG
        count = min(count, limit - offset)
    if offset + count > MAX_FILE_SIZE:
        if offset >= MAX_FILE_SIZE:
            return -EFBIG
        count = MAX_FILE_SIZE - offset
    return count


def do_truncate(ctx: Context, path: Path | None, inode: Inode, size: int) -> None:
    """Change the size of a regular file whose permissions were checked (do_truncate); O_TRUNC too."""
    inode.refresh(ctx)
    check_new_size(ctx, inode, size)
    remove_privs(ctx, inode)
    now = time.time_ns()
    attr = SetAttr(ATTR_SIZE | ATTR_MTIME | ATTR_CTIME)
    attr.size = size
    attr.mtime_ns = now
    attr.ctime_ns = now
    inode.setattr(ctx, attr)
    if path is not None:
        notify_path(path, IN_MODIFY)


def vfs_truncate(ctx: Context, path: Path, length: int) -> None:
    """truncate(2)."""
    if length < 0:
        raise LinuxError(EINVAL)
    inode = path.inode()
    if inode.is_dir():
        raise LinuxError(EISDIR)
    if not inode.is_regular():
        raise LinuxError(EINVAL)
    want_write(path.mount)
    require_permission(ctx, inode, MAY_WRITE)
    get_write_access(inode)
    locks = inode.locks
    if locks is not None:
        locks.break_leases(is_write=True, can_wait=True)
    do_truncate(ctx, path, inode, length)


def vfs_ftruncate(ctx: Context, file: FileDescription, length: int) -> int:
    """ftruncate(2) of an open file that is not O_PATH; 0 or a negative errno, or raises LinuxError."""
    inode = file.inode
    if length < 0 or not inode.is_regular() or not file.is_writable():
        return -EINVAL
    inode.refresh(ctx)
    check_new_size(ctx, inode, length)
    remove_privs(ctx, inode)
    result = file.truncate(ctx, length)
    if result == 0 and file.path is not None:
        notify_path(file.path, IN_MODIFY)
    return result


# -- extended attributes -----------------------------------------------------------------------------------
def _check_xattr_name(name: bytes) -> None:
    if not name or len(name) > XATTR_NAME_MAX:
        raise LinuxError(ERANGE)


def _xattr_permission(ctx: Context, inode: Inode, name: bytes, mask: int) -> None:
    """xattr_permission and the capability checks of security/commoncap.c."""
    is_write = mask & MAY_WRITE != 0
    if name.startswith(SECURITY_PREFIX):
        if is_write:
            if name == NAME_CAPS:
                is_allowed = ctx.creds.capable_over(inode.uid, inode.gid, CAP_SETFCAP)
            else:
                is_allowed = ctx.creds.capable_in(inode.fs.user_ns, CAP_SYS_ADMIN)
            if not is_allowed:
                raise LinuxError(EPERM)
        return
    if name.startswith(SYSTEM_PREFIX):
        return
    if name.startswith(TRUSTED_PREFIX):
        if not ctx.creds.capable(CAP_SYS_ADMIN):
            raise LinuxError(EPERM if is_write else ENODATA)
        return
    if name.startswith(USER_PREFIX):
        kind = inode.mode & S_IFMT
        if kind != S_IFREG and kind != S_IFDIR:
            raise LinuxError(EPERM if is_write else ENODATA)
        if is_write and kind == S_IFDIR and inode.mode & S_ISVTX and not owner_or_capable(ctx.creds, inode):
            raise LinuxError(EPERM)
    require_permission(ctx, inode, mask)


def vfs_getxattr(ctx: Context, path: Path, name: bytes) -> bytes:
    """getxattr(2); ENODATA, EOPNOTSUPP, ERANGE for a bad name."""
    _check_xattr_name(name)
    inode = path.inode()
    _xattr_permission(ctx, inode, name, 4)
    value = inode.getxattr(ctx, name)
    return shown_value(ctx.creds, value) if name == NAME_CAPS else value


def vfs_setxattr(ctx: Context, path: Path, name: bytes, value: bytes, flags: int) -> None:
    """setxattr(2)."""
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise LinuxError(EINVAL)
    _check_xattr_name(name)
    if len(value) > XATTR_SIZE_MAX:
        raise LinuxError(E2BIG)
    want_write(path.mount)
    inode = path.inode()
    inode.refresh_owner(ctx)
    if name == NAME_CAPS:
        value = stored_value(ctx.creds, inode, value)
    _xattr_permission(ctx, inode, name, MAY_WRITE)
    inode.setxattr(ctx, name, value, flags)
    notify_path(path, IN_ATTRIB)


def vfs_listxattr(ctx: Context, path: Path) -> list[bytes]:
    """listxattr(2): the names that the caller may see."""
    names = path.inode().listxattr(ctx)
    if ctx.creds.capable(CAP_SYS_ADMIN):
        return names
    return [name for name in names if not name.startswith(TRUSTED_PREFIX)]


def vfs_removexattr(ctx: Context, path: Path, name: bytes) -> None:
    """removexattr(2)."""
    _check_xattr_name(name)
    want_write(path.mount)
    inode = path.inode()
    inode.refresh_owner(ctx)
    _xattr_permission(ctx, inode, name, MAY_WRITE)
    inode.removexattr(ctx, name)
    notify_path(path, IN_ATTRIB)
