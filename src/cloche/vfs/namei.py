"""Path walk, open, and the operations on directory entries (fs/namei.c, fs/open.c), over the objects of `vfs.objects`.

Owns the dentry cache (`Dentry.children`).  May call inode operations and `vfs.attr`; never blocks.

The interface that system calls use (`start`: where a relative name begins, None for the working directory; `name`: bytes
as the guest gave them, without the NUL; every function but `path_lookup_quick` raises LinuxError):

    path_lookup(ctx, start, name, flags=LOOKUP_FOLLOW, resolve=0) -> Path
    path_lookup_quick(ctx, start, name, flags=LOOKUP_FOLLOW) -> Path | int          the same, a negative errno for a failure
    lookup_parent(ctx, start, name) -> Parent                                      .path, .name, .is_slash
    do_open(ctx, start, name, flags, mode, resolve=0) -> FileDescription            not yet referenced: install() does it
    open_path(ctx, path, flags) -> FileDescription                                 an open by the kernel of a known path
    check_open_how(flags, mode, resolve)                                           openat2(2)'s own EINVALs
    vfs_mkdir(ctx, start, name, mode)
    vfs_mknod(ctx, start, name, mode, rdev) -> Path                                 type in mode; sockets for bind(2) too
    vfs_symlink(ctx, target, start, name)
    vfs_link(ctx, old: Path, start, name)
    vfs_unlink(ctx, start, name)
    vfs_rmdir(ctx, start, name)
    vfs_rename(ctx, old_start, old_name, new_start, new_name, flags=0)
    d_path(root: Path, path: Path) -> bytes                                        "(deleted)" included, for /proc and maps
    getcwd(ctx) -> bytes                                                           "(unreachable)" included; ENOENT
    inode_permission(ctx, mount, inode, mask) -> int                               0, -EACCES or -EROFS
    want_write(mount)                                                              EROFS

and in `vfs.attr` (re-exported here):

    vfs_chmod(ctx, path, mode)
    vfs_chown(ctx, path, uid, gid)                                                 -1: keep
    vfs_utimens(ctx, path, atime_ns, mtime_ns)                                     TIME_NOW, TIME_OMIT
    vfs_truncate(ctx, path, length), vfs_ftruncate(ctx, file, length)
    vfs_access(ctx, start, name, mode, flags)                                      R_OK|W_OK|X_OK; AT_EACCESS|AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH   [in namei]
    vfs_getxattr(ctx, path, name) -> bytes, vfs_setxattr(ctx, path, name, value, flags),
    vfs_listxattr(ctx, path) -> list[bytes], vfs_removexattr(ctx, path, name)

`flags` of a lookup: LOOKUP_FOLLOW (follow a symbolic link at the end), LOOKUP_DIRECTORY (ENOTDIR unless it is one),
LOOKUP_EMPTY (AT_EMPTY_PATH: the empty name is `start` itself).  `resolve` is openat2's RESOLVE_*.
"""

from typing import Final

from cloche.vfs.objects import Context, FileDescription, Inode, Mount, Path

LOOKUP_FOLLOW: Final = 1
LOOKUP_DIRECTORY: Final = 2
LOOKUP_EMPTY: Final = 4


class Parent:
    """The directory of a path and the last component, not looked up (`.`, `..` and, for "/", b"" are possible)."""

    def __init__(self, path: Path, name: bytes, *, is_slash: bool) -> None:
        self.path: Path = path
        self.name: bytes = name
        self.is_slash: bool = is_slash  # slashes follow the name


def path_lookup(
    ctx: Context, start: Path | None, name: bytes, flags: int = LOOKUP_FOLLOW, resolve: int = 0
) -> Path:
    raise NotImplementedError


def path_lookup_quick(ctx: Context, start: Path | None, name: bytes, flags: int = LOOKUP_FOLLOW) -> Path | int:
    raise NotImplementedError


def lookup_parent(ctx: Context, start: Path | None, name: bytes) -> Parent:
    raise NotImplementedError


def inode_permission(ctx: Context, mount: Mount, inode: Inode, mask: int) -> int:
    raise NotImplementedError


def want_write(mount: Mount) -> None:
    raise NotImplementedError


def check_open_how(flags: int, mode: int, resolve: int) -> None:
    raise NotImplementedError


def do_open(
    ctx: Context, start: Path | None, name: bytes, flags: int, mode: int, resolve: int = 0
) -> FileDescription:
    raise NotImplementedError


def open_path(ctx: Context, path: Path, flags: int) -> FileDescription:
    raise NotImplementedError


def vfs_mkdir(ctx: Context, start: Path | None, name: bytes, mode: int) -> None:
    raise NotImplementedError


def vfs_mknod(ctx: Context, start: Path | None, name: bytes, mode: int, rdev: int) -> Path:
    raise NotImplementedError


def vfs_symlink(ctx: Context, target: bytes, start: Path | None, name: bytes) -> None:
    raise NotImplementedError


def vfs_link(ctx: Context, old: Path, start: Path | None, name: bytes) -> None:
    raise NotImplementedError


def vfs_unlink(ctx: Context, start: Path | None, name: bytes) -> None:
    raise NotImplementedError


def vfs_rmdir(ctx: Context, start: Path | None, name: bytes) -> None:
    raise NotImplementedError


def vfs_rename(
    ctx: Context,
    old_start: Path | None,
    old_name: bytes,
    new_start: Path | None,
    new_name: bytes,
    flags: int = 0,
) -> None:
    raise NotImplementedError


def vfs_access(ctx: Context, start: Path | None, name: bytes, mode: int, flags: int) -> None:
    raise NotImplementedError


def d_path(root: Path, path: Path) -> bytes:
    raise NotImplementedError


def getcwd(ctx: Context) -> bytes:
    raise NotImplementedError
