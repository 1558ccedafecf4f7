"""Path walk, open, and the operations on directory entries (fs/namei.c, fs/open.c), over the objects of
`vfs.objects`: the interface.  The work is done in `vfs.dcache` (cached names), `vfs.walk`, `vfs.opening`,
`vfs.entries` (making, removing, renaming), `vfs.paths` and `vfs.attr`.

The interface that system calls use (`start`: where a relative name begins, None for the working directory;
`name`: bytes as the guest gave them, without the NUL; every function but `path_lookup_quick` raises
LinuxError):

    path_lookup(ctx, start, name, flags=LOOKUP_FOLLOW, resolve=0) -> Path
    path_lookup_quick(ctx, start, name, flags=LOOKUP_FOLLOW) -> Path | int
        the same, a negative errno for a failure
    lookup_parent(ctx, start, name) -> Parent   .path, .name, .is_slash
    do_open(ctx, start, name, flags, mode, resolve=0) -> FileDescription
        not yet referenced: install() does it
    open_quick(ctx, start, name, flags, mode, resolve=0) -> FileDescription | int
        the same, a negative errno for a name that leads nowhere
    open_path(ctx, path, flags) -> FileDescription   an open by the kernel of a known path
    check_open_how(flags, mode, resolve)   openat2(2)'s own EINVALs
    vfs_mkdir(ctx, start, name, mode)
    vfs_mknod(ctx, start, name, mode, rdev) -> Path   type in mode
    vfs_bind(ctx, start, name, mode, kind) -> (Path, HostDoor | None)   the node of a Unix socket
    vfs_symlink(ctx, target, start, name)
    vfs_link(ctx, old: Path, start, name)
    vfs_unlink(ctx, start, name)
    vfs_rmdir(ctx, start, name)
    vfs_rename(ctx, old_start, old_name, new_start, new_name, flags=0)
    rename_between(ctx, old: Parent, new: Parent, flags)
    d_path(root: Path, path: Path) -> bytes   "(deleted)" included, for /proc and maps
    getcwd(ctx) -> bytes   "(unreachable)" included; ENOENT
    vfs_access(ctx, start, name, mode, flags)   R_OK|W_OK|X_OK; AT_EACCESS|AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH

and of attributes:

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

Rules for file systems: with `has_stable_dentries` a name that was looked up (or found absent) is not asked for again,
so every change of such a tree has to go through this module; and `permission` of its directories must not be stricter
for searching than generic_permission. Without it `lookup` is called each time and returns the same inode object while
the file is the same. `open` and the rest see attributes that `lookup` or `refresh` brought up to date.
"""

from cloche.vfs.attr import (
    TIME_NOW,
    TIME_OMIT,
    allow_write_access,
    deny_write_access,
    inode_permission,
    require_permission,
    vfs_chmod,
    vfs_chown,
    vfs_ftruncate,
    vfs_getxattr,
    vfs_listxattr,
    vfs_removexattr,
    vfs_setxattr,
    vfs_truncate,
    vfs_utimens,
    want_write,
)
from cloche.vfs.dcache import MAX_NEGATIVE, MAX_UNSTABLE, drop_negative_dentries, lookup_child
from cloche.vfs.entries import (
    rename_between,
    vfs_bind,
    vfs_link,
    vfs_mkdir,
    vfs_mknod,
    vfs_rename,
    vfs_rmdir,
    vfs_symlink,
    vfs_unlink,
)
from cloche.vfs.opening import (
    PathDescription,
    check_open_how,
    do_open,
    may_link_empty,
    open_path,
    open_quick,
    vfs_access,
)
from cloche.vfs.paths import d_path, getcwd, path_below
from cloche.vfs.walk import (
    LOOKUP_DIRECTORY,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    Parent,
    lookup_parent,
    path_lookup,
    path_lookup_quick,
)

__all__ = [
    "LOOKUP_DIRECTORY",
    "LOOKUP_EMPTY",
    "LOOKUP_FOLLOW",
    "MAX_NEGATIVE",
    "MAX_UNSTABLE",
    "Parent",
    "PathDescription",
    "TIME_NOW",
    "TIME_OMIT",
    "allow_write_access",
    "check_open_how",
    "d_path",
    "deny_write_access",
    "do_open",
    "drop_negative_dentries",
    "getcwd",
    "inode_permission",
    "lookup_child",
    "lookup_parent",
    "may_link_empty",
    "open_path",
    "open_quick",
    "path_below",
    "path_lookup",
    "path_lookup_quick",
    "rename_between",
    "require_permission",
    "vfs_access",
    "vfs_chmod",
    "vfs_chown",
    "vfs_ftruncate",
    "vfs_getxattr",
    "vfs_bind",
    "vfs_link",
    "vfs_listxattr",
    "vfs_mkdir",
    "vfs_mknod",
    "vfs_removexattr",
    "vfs_rename",
    "vfs_rmdir",
    "vfs_setxattr",
    "vfs_symlink",
    "vfs_truncate",
    "vfs_unlink",
    "vfs_utimens",
    "want_write",
]
