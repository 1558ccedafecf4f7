"""Mounts, namespaces and pivot_root."""

import pytest

from cloche.abi import errno as e
from cloche.abi.fs import (
    MNT_DETACH,
    MNT_EXPIRE,
    MS_BIND,
    MS_MOVE,
    MS_NOATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
)
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs
from cloche.fs.tmpfs_options import parse_options
from cloche.vfs.mount import (
    clone_namespace,
    do_mount,
    do_pivot_root,
    do_umount,
    mount_at,
    register_filesystem,
    release_namespace,
    set_mount_attr,
)
from cloche.vfs.namei import d_path, path_lookup_quick, vfs_mkdir
from cloche.vfs.objects import Context, FileSystem, FsContext, Mount, Path
from tests.unit.vfs.world import (
    as_user,
    errno_of,
    make_tree,
    path_at,
    put_file,
    read_file,
    tmpfs_context,
)


def new_tmpfs(ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
    return TmpFs(50, StorageQuota(), parse_options(data, 1 << 30))


@pytest.fixture
def ctx() -> Context:
    register_filesystem(b"tmpfs", new_tmpfs)  # for each test: others register their own
    made = tmpfs_context()
    make_tree(made)
    return made


def mount(
    ctx: Context, source: bytes, target: bytes, flags: int, kind: bytes = b"", data: bytes = b""
) -> None:
    do_mount(ctx, source, path_at(ctx, target), kind, flags, data)


def umount(ctx: Context, target: bytes, flags: int = 0) -> None:
    do_umount(ctx, path_at(ctx, target), flags, None)


def test_a_new_file_system_covers(ctx: Context) -> None:
    mount(ctx, b"none", b"/a", MS_NOSUID | MS_NOEXEC, b"tmpfs", b"size=1m,mode=700")
    top = path_at(ctx, b"/a")
    assert top.mount.flags == MS_NOSUID | MS_NOEXEC | MS_RELATIME
    assert top.inode().mode == 0o040700 and top.mount.fs.source == "none"
    assert path_lookup_quick(ctx, None, b"/a/file") == -e.ENOENT
    put_file(ctx, b"/a/upper", b"u")
    mount(ctx, b"none", b"/a", 0, b"tmpfs")  # another on top
    assert path_lookup_quick(ctx, None, b"/a/upper") == -e.ENOENT
    umount(ctx, b"/a")
    assert read_file(ctx, b"/a/upper") == b"u"
    umount(ctx, b"/a")
    assert read_file(ctx, b"/a/file") == b"contents"
    assert len(ctx.mount_ns.mounts) == 1 and not ctx.mount_ns.covered


def test_refusals(ctx: Context) -> None:
    assert errno_of(mount, as_user(ctx), b"x", b"/a", 0, b"tmpfs") == e.EPERM
    assert errno_of(mount, ctx, b"x", b"/a", 0, b"nosuchfs") == e.ENODEV
    assert errno_of(mount, ctx, b"x", b"/a", 0, b"tmpfs", b"bogus=1") == e.EINVAL
    assert errno_of(mount, ctx, b"x", b"/a/file", 0, b"tmpfs") == e.ENOTDIR
    assert errno_of(mount, ctx, b"", b"/a", MS_BIND) == e.EINVAL
    assert errno_of(mount, ctx, b"/a/file", b"/a", MS_BIND) == e.ENOTDIR
    assert errno_of(umount, ctx, b"/a") == e.EINVAL
    assert errno_of(umount, ctx, b"/") == e.EBUSY
    assert errno_of(umount, ctx, b"/a", 64) == e.EINVAL


def test_bind_mounts_share_the_tree(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/at", 0o755)
    mount(ctx, b"/a/b", b"/at", MS_BIND)
    put_file(ctx, b"/at/new", b"same")
    assert read_file(ctx, b"/a/b/new") == b"same"
    assert path_at(ctx, b"/at/..").same_as(path_at(ctx, b"/"))
    assert d_path(ctx.fs.root, path_at(ctx, b"/at/c")) == b"/at/c"
    # Read-only for this mount alone.
    mount(ctx, b"", b"/at", MS_REMOUNT | MS_BIND | MS_RDONLY)
    assert errno_of(put_file, ctx, b"/at/x") == e.EROFS
    put_file(ctx, b"/a/b/x")
    # A file on a file.
    mount(ctx, b"/a/b/deep", b"/a/file", MS_BIND)
    assert read_file(ctx, b"/a/file") == b"deep"


def test_recursive_binds_take_submounts_along(ctx: Context) -> None:
    mount_at(ctx, b"/a/b", TmpFs(51, StorageQuota()))
    put_file(ctx, b"/a/b/inner", b"i")
    vfs_mkdir(ctx, None, b"/plain", 0o755)
    vfs_mkdir(ctx, None, b"/deep", 0o755)
    mount(ctx, b"/a", b"/plain", MS_BIND)
    mount(ctx, b"/a", b"/deep", MS_BIND | MS_REC)
    assert path_lookup_quick(ctx, None, b"/plain/b/inner") == -e.ENOENT
    assert read_file(ctx, b"/deep/b/inner") == b"i"
    assert errno_of(umount, ctx, b"/deep") == e.EBUSY
    umount(ctx, b"/deep", MNT_DETACH)
    assert len(ctx.mount_ns.mounts) == 3
    assert path_at(ctx, b"/a/b").dentry.mounted == 0


def test_a_directory_moved_out_of_a_bind_is_cut_off(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/at", 0o755)
    mount(ctx, b"/a/b", b"/at", MS_BIND)
    inside = path_at(ctx, b"/at/c")
    from cloche.vfs.namei import vfs_rename

    vfs_rename(ctx, None, b"/a/b/c", None, b"/outside")
    assert path_lookup_quick(ctx, inside, b"..") == -e.ENOENT


def test_busy_and_lazy(ctx: Context) -> None:
    mount_at(ctx, b"/a", TmpFs(51, StorageQuota()))
    here = path_at(ctx, b"/a")

    def is_busy(each: Mount) -> bool:
        return each is here.mount

    assert errno_of(do_umount, ctx, here, 0, is_busy) == e.EBUSY
    assert errno_of(do_umount, ctx, here, MNT_EXPIRE, None) == e.EAGAIN
    do_umount(ctx, here, MNT_DETACH, is_busy)
    assert here.mount.is_detached
    put_file(ctx, b"/a/visible")  # below
    assert path_lookup_quick(ctx, here, b"visible") == -e.ENOENT
    assert path_at(ctx, b"/a/b").dentry.name == b"b"
    mount_at(ctx, b"/a", TmpFs(52, StorageQuota()))
    place = path_at(ctx, b"/a")
    assert errno_of(do_umount, ctx, place, MNT_EXPIRE, None) == e.EAGAIN
    assert place.mount.is_expiring
    path_at(ctx, b"/a")
    assert not place.mount.is_expiring
    do_umount(ctx, place, MNT_EXPIRE, None, was_expiring=True)


def test_move(ctx: Context) -> None:
    vfs_mkdir(ctx, None, b"/to", 0o755)
    mount_at(ctx, b"/a/b", TmpFs(51, StorageQuota()))
    vfs_mkdir(ctx, None, b"/a/b/sub", 0o755)
    mount_at(ctx, b"/a/b/sub", TmpFs(52, StorageQuota()))
    put_file(ctx, b"/a/b/sub/f", b"moved")
    assert errno_of(mount, ctx, b"/a/b", b"/a/b/sub", MS_MOVE) == e.ELOOP
    assert errno_of(mount, ctx, b"/a", b"/to", MS_MOVE) == e.EINVAL
    mount(ctx, b"/a/b", b"/to", MS_MOVE)
    assert read_file(ctx, b"/to/sub/f") == b"moved"
    assert read_file(ctx, b"/a/b/deep") == b"deep"


def test_remount(ctx: Context) -> None:
    mount(ctx, b"t", b"/a", MS_NOATIME, b"tmpfs", b"size=1m")
    assert errno_of(mount, ctx, b"", b"/a/..", MS_REMOUNT) == 0
    mount(ctx, b"", b"/a", MS_REMOUNT | MS_RDONLY | MS_NOSUID, data=b"size=2m")
    there = path_at(ctx, b"/a").mount
    assert there.fs.is_readonly and there.flags == MS_RDONLY | MS_NOSUID | MS_NOATIME
    assert ",size=2048k" in there.fs.options()
    mount(ctx, b"", b"/a", MS_REMOUNT)
    put_file(ctx, b"/a/x")
    vfs_mkdir(ctx, None, b"/a/d", 0o755)
    assert errno_of(mount, ctx, b"", b"/a/d", MS_REMOUNT) == e.EINVAL
    set_mount_attr(ctx, path_at(ctx, b"/a"), 1, 0, is_recursive=False)
    assert errno_of(put_file, ctx, b"/a/y") == e.EROFS


def test_propagation_types(ctx: Context) -> None:
    mount(ctx, b"", b"/", MS_SHARED)
    assert ctx.fs.root.mount.propagation == MS_SHARED
    mount(ctx, b"", b"/", MS_SLAVE | MS_REC)
    assert ctx.fs.root.mount.propagation == 0
    assert errno_of(mount, ctx, b"", b"/", MS_SHARED | MS_PRIVATE) == e.EINVAL
    assert errno_of(mount, ctx, b"", b"/a", MS_SHARED) == e.EINVAL


def test_namespaces_are_separate(ctx: Context) -> None:
    mount_at(ctx, b"/a/b", TmpFs(51, StorageQuota()))
    fs = ctx.fs.clone()
    fs.cwd = path_at(ctx, b"/a/b")
    ns = clone_namespace(ctx.mount_ns, fs)
    other = Context(ctx.creds, fs, ns)
    assert fs.root.mount is not ctx.fs.root.mount and fs.cwd.mount.fs is path_at(ctx, b"/a/b").mount.fs
    vfs_mkdir(other, None, b"/a/b/x", 0o755)
    mount_at(other, b"/a/b/x", TmpFs(52, StorageQuota()))
    put_file(other, b"/a/b/x/private")
    assert path_lookup_quick(ctx, None, b"/a/b/x/private") == -e.ENOENT
    umount(other, b"/a/b/x")
    umount(other, b"/a/b")
    assert path_lookup_quick(ctx, None, b"/a/b/x/") != -e.ENOENT
    release_namespace(ns)
    assert path_at(ctx, b"/a/b").mount.fs.dev == 51


def check_pivot(ctx: Context, new: bytes, old: bytes, contexts: list[FsContext]) -> None:
    do_pivot_root(ctx, path_at(ctx, new), path_at(ctx, old), contexts)


def test_pivot_root(ctx: Context) -> None:
    mount_at(ctx, b"/a", TmpFs(51, StorageQuota()))
    vfs_mkdir(ctx, None, b"/a/old", 0o755)
    put_file(ctx, b"/a/marker", b"new root")
    assert errno_of(check_pivot, ctx, b"/", b"/a/old", [ctx.fs]) == e.EBUSY
    assert errno_of(check_pivot, ctx, b"/a", b"/", [ctx.fs]) == e.EBUSY
    assert errno_of(check_pivot, ctx, b"/a/old", b"/a/old", [ctx.fs]) == e.EINVAL
    check_pivot(ctx, b"/a", b"/a/old", [ctx.fs])
    assert read_file(ctx, b"/marker") == b"new root"
    assert d_path(ctx.fs.root, path_at(ctx, b"/old/link", 0)) == b"/old/link"
    assert ctx.fs.cwd.same_as(ctx.fs.root)
    do_umount(ctx, path_at(ctx, b"/old"), MNT_DETACH, None)
    assert [each.fs.dev for each in ctx.mount_ns.mounts] == [51]
    assert path_at(ctx, b"/..").same_as(ctx.fs.root)


def test_pivot_root_onto_itself(ctx: Context) -> None:
    """As containers do it: pivot_root(".", "."), then umount2(".", MNT_DETACH)."""
    mount_at(ctx, b"/a", TmpFs(51, StorageQuota()))
    put_file(ctx, b"/a/marker", b"m")
    there = path_at(ctx, b"/a")
    do_pivot_root(ctx, there, there, [ctx.fs])
    top = path_at(ctx, b"/.")
    old = Path(top.mount, top.dentry)
    do_umount(ctx, path_at(ctx, b"/.."), MNT_DETACH, None)
    assert read_file(ctx, b"/marker") == b"m"
    assert old.mount.fs.dev in (33, 51)
    assert [each.fs.dev for each in ctx.mount_ns.mounts] == [51]
