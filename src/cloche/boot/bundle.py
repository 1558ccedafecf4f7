"""What a container of an OCI bundle has beyond mounts: devices, masked and read-only paths, kernel parameters, files.

Runs while the container's file systems are built, with every capability and before there is a program (OCI runtime
specification, "Linux Container Configuration"). The names come from the bundle, but the image decides what is on the
way. So they are looked up inside the container, where a link cannot lead out.
"""

from typing import Final

from cloche.abi.errno import EACCES, EEXIST, EINVAL, ENOENT, ENOSPC, ENOTDIR, EPERM, LinuxError
from cloche.abi.fcntl import O_CREAT, O_WRONLY
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from cloche.abi.stat import makedev
from cloche.boot.spec import CGROUP, DEVPTS, MQUEUE, MountSpec, SandboxSpec
from cloche.fs.cgroup import cgroup_fs
from cloche.fs.devpts import configure, devpts_fs
from cloche.fs.mqueue import mqueue_fs
from cloche.fs.proc_sys import SysctlFile
from cloche.fs.quota import PAGE, StorageQuota, page_count
from cloche.fs.tmpfs import TmpFs
from cloche.fs.tmpfs_options import TmpfsOptions
from cloche.kernel.task import Container, KernelContext
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.mount import attach, check_room, copy_tree, graft, mount_at, mount_tree
from cloche.vfs.namei import do_open, path_lookup, vfs_mkdir, vfs_mknod, vfs_symlink, vfs_unlink
from cloche.vfs.objects import Context, FileSystem
from cloche.vfs.records import ATTR_GID, ATTR_MODE, ATTR_UID, SetAttr

_DEV_LINKS: Final = (
    (b"/dev/fd", b"/proc/self/fd"),
    (b"/dev/stdin", b"/proc/self/fd/0"),
    (b"/dev/stdout", b"/proc/self/fd/1"),
    (b"/dev/stderr", b"/proc/self/fd/2"),
    (b"/dev/ptmx", b"pts/ptmx"),
)
_NULL: Final = b"/dev/null"


def mount_bundle_kind(container: Container, spec: MountSpec) -> FileSystem:
    """The file system of a mount that only bundles ask for.  Raises LinuxError."""
    kernel = container.kernel
    root = container.root_credentials()
    if spec.kind == MQUEUE:
        queues = mqueue_fs(kernel, container.ns.ipc)
        if queues.root_inode is not None:
            queues.root_inode.uid, queues.root_inode.gid = root.uid, root.gid
        return queues
    if spec.kind == CGROUP:
        return cgroup_fs(kernel)
    if spec.kind != DEVPTS:
        raise LinuxError(EINVAL)
    made = devpts_fs(container)  # the instance that holds the container's terminal
    configure(made, spec.data, container.user_ns)
    return made


def finish_bundle(container: Container, ctx: Context, spec: SandboxSpec) -> None:
    """Apply the parts of a bundle other than mounts. Raises LinuxError."""
    everything = KernelContext(container, ctx.fs, ctx.mount_ns)
    # Root of a user namespace may make no devices, and set few parameters.
    everything.creds = Credentials(0, 0, [], ALL_CAPS)
    for path, mode, major, minor, uid, gid in spec.devices:
        _make_device(ctx, everything, path, mode, makedev(major, minor), uid, gid)
    if spec.devices:
        for path, target in _DEV_LINKS:
            try:
                vfs_symlink(ctx, target, None, path)
            except LinuxError as error:
                if error.errno not in (EEXIST, ENOENT):
                    raise
    for key, value in spec.sysctls:
        _set_parameter(everything, key, value)
    for path in spec.read_only_paths:
        _make_read_only(ctx, path)
    if spec.shown_files:
        _show_files(ctx, spec)
    for path in spec.masked_paths:
        _mask(ctx, path)


def make_parents(ctx: Context, path: bytes) -> None:
    """Every directory above `path`.  Raises LinuxError."""
    at = b""
    for part in path.strip(b"/").split(b"/")[:-1]:
        at += b"/" + part
        try:
            vfs_mkdir(ctx, None, at, 0o755)
        except LinuxError as error:
            if error.errno != EEXIST:
                raise


def _make_device(
    ctx: Context, everything: Context, path: bytes, mode: int, rdev: int, uid: int, gid: int
) -> None:
    """A node in a file system of the sentry's. What is there already makes way, but not in one of the host's: it would
    be the host's own device. The owners are outside of the container's user namespace, as those of the host's are.
    """
    make_parents(ctx, path)
    if not isinstance(path_lookup(ctx, None, path.rpartition(b"/")[0] or b"/").mount.fs, TmpFs):
        try:
            path_lookup(ctx, None, path)
        except LinuxError:
            raise LinuxError(EPERM) from None
        return
    try:
        vfs_mknod(everything, None, path, mode, rdev)
    except LinuxError as error:
        if error.errno != EEXIST:
            raise
        vfs_unlink(everything, None, path)
        vfs_mknod(everything, None, path, mode, rdev)
    attr = SetAttr(ATTR_MODE | ATTR_UID | ATTR_GID)
    attr.mode, attr.uid, attr.gid = mode & 0o7777, uid, gid
    path_lookup(everything, None, path).inode().setattr(everything, attr)


def _set_parameter(ctx: Context, key: bytes, value: bytes) -> None:
    """Set a sysctl. Those of the network are set in the network namespace as well, which has some that are not known
    here, and some that nothing here goes by: of these the value is shown.
    """
    path = b"/proc/sys/" + key.replace(b".", b"/")
    is_net = key.startswith(b"net.")
    try:
        file = do_open(ctx, None, path, O_WRONLY, 0).get()
    except LinuxError as error:
        if is_net and error.errno == ENOENT:
            return
        if is_net and error.errno == EACCES:
            inode = path_lookup(ctx, None, path).inode()
            if isinstance(inode, SysctlFile):
                inode.show(value + b"\n")
                return
        raise
    try:
        count = file.pwrite(ctx, KernelIovIter(value + b"\n"), 0)
        if count < 0:
            raise LinuxError(-count)
    finally:
        file.put()


def _make_read_only(ctx: Context, path: bytes) -> None:
    try:
        place = path_lookup(ctx, None, path)
    except LinuxError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return
        raise
    tree = copy_tree(place, is_recursive=True)
    tree.flags |= MS_RDONLY
    check_room(ctx.mount_ns, len(mount_tree(tree)))
    attach(ctx.mount_ns, tree, place)  # also on a mount of the same


def _show_files(ctx: Context, spec: SandboxSpec) -> None:
    """Show files of the sentry's own, which also cover some of the root's, where those exist."""
    make_parents(ctx, spec.shown_folder + b"/-")
    size = sum([page_count(len(content)) for _name, content in spec.shown_files]) * PAGE
    options = TmpfsOptions()
    options.mode, options.uid, options.gid = 0o755, ctx.creds.fsuid, ctx.creds.fsgid
    dev = path_lookup(ctx, None, spec.shown_folder).mount.fs.dev
    shown = mount_at(
        ctx, spec.shown_folder, TmpFs(dev, StorageQuota(size, len(spec.shown_files) + 1), options), 0
    )
    for name, content in spec.shown_files:
        file = do_open(ctx, None, spec.shown_folder + b"/" + name, O_WRONLY | O_CREAT, 0o644).get()
        try:
            if file.pwrite(ctx, KernelIovIter(content), 0) != len(content):
                raise LinuxError(ENOSPC)
        finally:
            file.put()
    shown.flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    for path, name in spec.covered_files:
        try:
            place = path_lookup(ctx, None, path)
        except LinuxError as error:
            if error.errno in (ENOENT, ENOTDIR):
                continue
            raise
        if place.inode().is_regular():
            source = path_lookup(ctx, None, spec.shown_folder + b"/" + name)
            graft(ctx, copy_tree(source, is_recursive=False), place)


def _mask(ctx: Context, path: bytes) -> None:
    """An empty directory over a directory, /dev/null over a file."""
    try:
        place = path_lookup(ctx, None, path)
    except LinuxError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return
        raise
    if place.inode().is_dir():
        options = TmpfsOptions()
        options.mode, options.uid, options.gid = 0o755, ctx.creds.fsuid, ctx.creds.fsgid
        empty = TmpFs(place.mount.fs.dev, StorageQuota(0, 1), options)
        mount_at(ctx, path, empty, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        return
    null = copy_tree(path_lookup(ctx, None, _NULL), is_recursive=False)
    graft(ctx, null, place)
