"""A caller and file systems to try the VFS on, without a kernel."""

from collections.abc import Callable
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.abi.fcntl import O_CREAT, O_RDONLY, O_WRONLY
from cloche.fs.overlay import OverlayFs
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.listing import Names
from cloche.vfs.mount import new_namespace
from cloche.vfs.namei import do_open, path_lookup, vfs_mkdir, vfs_symlink
from cloche.vfs.objects import Context, FileDescription, FileSystem, FsContext, Inode, Path

USER: Final = 1000


def new_context(fs: FileSystem, flags: int = 0) -> Context:
    """Root, with all capabilities, in a namespace whose root is `fs`; umask 022."""
    ns = new_namespace(fs, flags)
    return Context(Credentials(0, 0, [], ALL_CAPS), FsContext(ns.root, ns.root), ns)


def as_user(ctx: Context, uid: int = USER, gid: int = USER) -> Context:
    """Another caller in the same place, without capabilities."""
    return Context(Credentials(uid, gid, [], 0), ctx.fs.clone(), ctx.mount_ns)


def tmpfs_context() -> Context:
    """In a fresh tmpfs whose root is 0755."""
    ctx = new_context(TmpFs(33, StorageQuota()))
    ctx.fs.root.inode().mode = 0o040755
    return ctx


def overlay_context(fill: Callable[[Context], None], quota: StorageQuota | None = None) -> Context:
    """In an overlay above a tmpfs that `fill` has filled."""
    lower = tmpfs_context()
    fill(lower)
    fs = OverlayFs(34, quota if quota is not None else StorageQuota(), [lower.fs.root.inode()])
    return new_context(fs)


def errno_of(function: Callable[..., object], *args: object) -> int:
    """The errno that a call fails with, 0 if it does not."""
    try:
        function(*args)
    except LinuxError as error:
        return error.errno
    return 0


def open_file(ctx: Context, name: bytes, flags: int = O_RDONLY, mode: int = 0o644) -> FileDescription:
    return do_open(ctx, None, name, flags, mode).get()


def put_file(ctx: Context, name: bytes, data: bytes = b"", mode: int = 0o644) -> None:
    file = open_file(ctx, name, O_CREAT | O_WRONLY, mode)
    if data:
        assert file.write(ctx, KernelIovIter(data)) == len(data)
    file.put()


def read_file(ctx: Context, name: bytes) -> bytes:
    file = open_file(ctx, name)
    size = file.inode.size
    sink = KernelIovIter(capacity=size + 10)
    count = file.pread(ctx, sink, 0)
    file.put()
    assert count == len(sink.sink)
    return bytes(sink.sink)


def write_at(ctx: Context, file: FileDescription, offset: int, data: bytes) -> int:
    return file.pwrite(ctx, KernelIovIter(data), offset)


def read_at(ctx: Context, file: FileDescription, offset: int, length: int) -> bytes:
    sink = KernelIovIter(capacity=length)
    count = file.pread(ctx, sink, offset)
    assert count == len(sink.sink)
    return bytes(sink.sink)


def inode_at(ctx: Context, name: bytes, flags: int = 0) -> Inode:
    return path_lookup(ctx, None, name, flags).inode()


def path_at(ctx: Context, name: bytes, flags: int = 1) -> Path:
    return path_lookup(ctx, None, name, flags)


def list_dir(ctx: Context, name: bytes) -> list[bytes]:
    """The names in a directory without `.` and `..`, in its order."""
    file = open_file(ctx, name)
    names = Names()
    assert file.iterate(ctx, names) == 0
    file.put()
    return [row[0] for row in names.rows if row[0] not in (b".", b"..")]


def make_tree(ctx: Context) -> None:
    """/a/b/c directories, /a/file, /a/b/deep, /link -> a/b, /abs -> /a, /loop -> loop."""
    for name in (b"/a", b"/a/b", b"/a/b/c"):
        vfs_mkdir(ctx, None, name, 0o755)
    put_file(ctx, b"/a/file", b"contents")
    put_file(ctx, b"/a/b/deep", b"deep")
    vfs_symlink(ctx, b"a/b", None, b"/link")
    vfs_symlink(ctx, b"/a", None, b"/abs")
    vfs_symlink(ctx, b"loop", None, b"/loop")
