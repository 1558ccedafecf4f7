"""The only place that knows every part: builds the kernel of a sandbox from its spec and starts the first program.

`assemble` runs after confinement: it opens nothing of the host by path.  File systems are mounted in the order of the
spec; every host directory is the read-only lower layer of an overlay unless its mode says otherwise.
"""

import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EEXIST, ENOENT, ENOTDIR, LinuxError
from cloche.abi.fcntl import O_CREAT, O_TRUNC, O_WRONLY
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_SLAVE
from cloche.abi.stat import S_IFCHR, makedev
from cloche.boot import memory_guard
from cloche.boot.bundle import finish_bundle, mount_bundle_kind
from cloche.boot.network import install_network
from cloche.boot.spec import DEV, HOST, PROC, RO, RW, SYSFS, TMPFS, MountSpec, SandboxSpec
from cloche.boot.tmpcopyup import copy_below
from cloche.fs.anon import anon_fs
from cloche.fs.changes import remember
from cloche.fs.devices import register_devices
from cloche.fs.devpts import devpts_fs
from cloche.fs.gofer import GoferDir, GoferFs
from cloche.fs.gofer_client import GoferClient
from cloche.fs.image import ImageFs
from cloche.fs.inotify import install as install_inotify
from cloche.fs.kept import LayerStore
from cloche.fs.mountable import register_mountable
from cloche.fs.mqueue import mqueue_fs
from cloche.fs.overlay import OverlayFs
from cloche.fs.pidfd import install as install_pidfd
from cloche.fs.pipe import open_fifo
from cloche.fs.proc import proc_fs
from cloche.fs.quota import StorageQuota
from cloche.fs.sysfs import sysfs
from cloche.fs.tmpfs import TmpFs
from cloche.fs.tmpfs_options import TmpfsOptions, parse_options
from cloche.fs.tty import install as install_terminals
from cloche.fs.volume_quota import VolumeQuota
from cloche.kernel import itimers, signals
from cloche.kernel.accounting import MemoryFigures
from cloche.kernel.clone import finish_vfork_wait, vfork_done
from cloche.kernel.container import create_container
from cloche.kernel.host_facts import HostFacts
from cloche.kernel.init import end_init, make_init
from cloche.kernel.ptrace.hooks import install as install_ptrace
from cloche.kernel.task import Container, Kernel, KernelContext
from cloche.kernel.timers import monotonic_ns
from cloche.mm.quota import DESCRIPTORS
from cloche.mm.usermem import KernelIovIter
from cloche.net.inet_base import stack_of
from cloche.platform.interface import Platform
from cloche.syscalls import table
from cloche.vfs.devices import register_fifo_opener
from cloche.vfs.layers import Layer
from cloche.vfs.mount import MOUNT_NUMBERS, SYNC_FLAGS, mount_at, new_namespace, release_namespace
from cloche.vfs.namei import do_open, path_lookup, vfs_mkdir, vfs_mknod, vfs_symlink
from cloche.vfs.objects import Context, FileSystem, FsContext, Mount
from cloche.vfs.records import ATTR_GID, ATTR_MODE, ATTR_UID, SetAttr
from cloche.vfs.userns import UserNamespace, map_gid, map_uid
from cloche.wire.volume import ACCOUNT_NAME

STORAGE_BYTES: Final = 4 << 30  # for all in-memory files together, without --memory
STORAGE_INODES: Final = 1 << 20

# /dev of every container (OCI runtime specification, "Default Devices"): name, major, minor, mode.
_DEVICES: Final = (
    (b"null", 1, 3, 0o666),
    (b"zero", 1, 5, 0o666),
    (b"full", 1, 7, 0o666),
    (b"random", 1, 8, 0o666),
    (b"urandom", 1, 9, 0o666),
    (b"tty", 5, 0, 0o666),
)
_DEV_LINKS: Final = (
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"core", b"/proc/kcore"),
    (b"ptmx", b"pts/ptmx"),
)


def storage_limit(spec: SandboxSpec, total: int) -> int:
    """Bytes of all in-memory files together, on a host with `total` bytes of memory (0: not known)."""
    if spec.memory_bytes > 0:
        return spec.memory_bytes
    return min(STORAGE_BYTES, total // 4) if total > 0 else STORAGE_BYTES


class Builder:
    """Mounts the file systems of one container."""

    def __init__(self, container: Container, spec: SandboxSpec, gofer: GoferClient | None) -> None:
        kernel = container.kernel
        self.container: Container = container
        self.kernel: Kernel = kernel
        self.spec: SandboxSpec = spec
        self.gofer: GoferClient | None = gofer
        limit = storage_limit(spec, kernel.facts.memory_total)
        self.quota: StorageQuota = StorageQuota(limit, STORAGE_INODES)
        self.quota.reaper.chores = kernel.chores
        self.volumes: list[Mount] = []
        self.late_read_only: list[Mount] = []
        self.groups: dict[int, int] = {}  # peer groups of the spec, as they are called inside
        self.store: LayerStore | None = None
        if spec.layer_source and gofer is not None:
            self.store = LayerStore(
                kernel, gofer.worker(spec.layer_index, always_waits=True), spec.layer_index
            )
            container.keeping = self.store
        # A kept layer (--keep) does not count as memory.
        is_apart = self.store is not None
        self.layer_quota: StorageQuota = (
            StorageQuota(spec.disk_bytes, STORAGE_INODES) if is_apart else self.quota
        )
        self.layer_quota.reaper.chores = kernel.chores

    def tmpfs(self, mode: int, uid: int = 0, gid: int = 0) -> TmpFs:
        """A new tmpfs that counts towards the container's quota."""
        options = TmpfsOptions()
        ns = self.container.user_ns
        options.mode, options.uid, options.gid = mode, map_uid(ns, uid), map_gid(ns, gid)
        return TmpFs(self.kernel.numbers.dev(), self.quota, options)

    def tmpfs_by_options(self, data: bytes) -> TmpFs:
        """A new tmpfs with options as mount(2) takes them. Raises LinuxError(EINVAL)."""
        total = MemoryFigures(self.container).total
        options = parse_options(data, total, self.container.root_credentials())
        if options.size < 0:
            options.size = total // 2
        return TmpFs(self.kernel.numbers.dev(), self.quota, options)

    def private_root(self) -> TmpFs:
        """An empty tmpfs as the root, with no directory of the host below it."""
        options = TmpfsOptions()
        root = self.container.root_credentials()
        options.mode, options.uid, options.gid = 0o755, root.uid, root.gid
        made = TmpFs(self.kernel.numbers.dev(), self.layer_quota, options)
        made.is_kept = self.store is not None
        return made

    def host_fs(
        self, index: int, mode: str, *, is_shared: bool, only: list[bytes] | None = None
    ) -> FileSystem:
        """The file system of an attach point of the gofer. It is the lower layer of a private overlay, unless `mode`
        is RO or RW.
        """
        gofer = self.gofer
        assert gofer is not None
        lower = GoferFs(
            gofer.worker(index),
            index,
            self.kernel.numbers.dev(),
            is_shared=is_shared,
            user_ns=self.container.user_ns,
        )
        root = lower.root
        if only is not None and mode != RW and isinstance(root, GoferDir):
            root.only = set(only)
        if mode == RO or mode == RW:
            return lower
        made = OverlayFs(self.kernel.numbers.dev(), self.layer_quota, [lower.root])
        made.is_kept = self.store is not None
        return made

    def image_fs(self, tree: bytes) -> FileSystem:
        """An image below a private layer; it is attach point number 0."""
        gofer = self.gofer
        assert gofer is not None
        lower = ImageFs(gofer.worker(0), 0, self.kernel.numbers.dev(), tree)
        made = OverlayFs(self.kernel.numbers.dev(), self.layer_quota, [lower.root])
        made.is_kept = self.store is not None
        return made

    def root_context(self) -> Context:
        """The kernel's own context in a new mount namespace."""
        spec = self.spec
        if spec.image_tree:
            root = self.image_fs(spec.image_tree)
        elif spec.root_source:
            root = self.host_fs(0, spec.root_mode, is_shared=spec.root_is_shared)
        else:
            root = self.private_root()
        ns = new_namespace(root, 0 if spec.allows_suid else MS_NOSUID)
        ns.user_ns = self.container.user_ns
        self.container.layers.append(Layer(b"", root, is_volume=False))
        return KernelContext(self.container, FsContext(ns.root, ns.root, 0), ns)

    def group_of(self, known: int) -> int:
        """The number that stands for a peer group of the spec inside; 0 stays."""
        if known and known not in self.groups:
            self.groups[known] = MOUNT_NUMBERS.next_peer_group
            MOUNT_NUMBERS.next_peer_group += 1
        return self.groups.get(known, 0)

    def build(self) -> Context:
        """Every directory, mount, link and file of the spec, in this order, and then the volumes: what is made
        for the view must not be written through a volume into the host's files.
        """
        spec = self.spec
        ctx = self.root_context()
        for path, mode, uid, gid in spec.directories:
            self.make_directory(ctx, path, mode, uid, gid)
        for mount in spec.mounts:
            if not mount.is_volume:
                self.mount(ctx, mount)
        for path, mode, uid, gid in spec.late_directories:
            try:
                path_lookup(ctx, None, path)
            except LinuxError:
                self.make_directory(ctx, path, mode, uid, gid)
        for path, target in spec.symlinks:
            self.make_symlink(ctx, path, target)
        for path, content, mode in spec.files:
            self.write_file(ctx, path, content, mode)
        for mount in spec.mounts:
            if mount.is_volume:
                self.mount(ctx, mount)
        for layer in self.container.layers:
            remember(ctx, layer)
        if self.store is not None:
            self.store.open(ctx, self.container.layers)
        if spec.is_read_only:
            for each in ctx.mount_ns.mounts:
                if each.fs.kind == "overlay" and each not in self.volumes or each is ctx.mount_ns.root.mount:
                    each.flags |= MS_RDONLY
        finish_bundle(self.container, ctx, spec)
        for each in self.late_read_only:
            each.flags |= MS_RDONLY
        return ctx

    def make_directory(self, ctx: Context, path: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
        """mkdir -p; the last component gets mode and owner."""
        at = b""
        for part in path.strip(b"/").split(b"/"):
            at += b"/" + part
            try:
                vfs_mkdir(ctx, None, at, 0o755)
            except LinuxError as error:
                if error.errno != EEXIST:
                    raise
        attr = SetAttr(ATTR_MODE | ATTR_UID | ATTR_GID)
        ns = self.container.user_ns
        attr.mode, attr.uid, attr.gid = mode, map_uid(ns, uid), map_gid(ns, gid)
        inode = path_lookup(ctx, None, path).inode()
        if inode.mode & 0o7777 != mode or inode.uid != attr.uid or inode.gid != attr.gid:
            inode.setattr(ctx, attr)

    def make_symlink(self, ctx: Context, path: bytes, target: bytes) -> None:
        """A symbolic link, unless something is there."""
        try:
            vfs_symlink(ctx, target, None, path)
        except LinuxError as error:
            if error.errno != EEXIST:
                raise

    def write_file(self, ctx: Context, path: bytes, content: bytes, mode: int) -> None:
        """Create or replace a file of the private layer."""
        file = do_open(ctx, None, path, O_WRONLY | O_CREAT | O_TRUNC, mode).get()
        file.pwrite(ctx, KernelIovIter(content), 0)
        file.put()

    def mount(self, ctx: Context, spec: MountSpec) -> None:
        """One mount; its mount point is made if it is missing."""
        self.make_mountpoint(ctx, spec)
        below = path_lookup(ctx, None, spec.destination) if spec.copies_up else None
        flags = 0
        is_late = False
        fs: FileSystem
        if spec.kind == HOST:
            fs = self.shared_fs(spec.volume) if spec.volume else self.own_fs(spec)
            flags = MS_NODEV | (MS_RDONLY if spec.mode == RO else 0)
            if not self.spec.allows_suid or (spec.mode == RW and not spec.keeps_suid):
                flags |= MS_NOSUID
        elif spec.kind == TMPFS:
            fs = self.tmpfs(spec.permissions, spec.uid, spec.gid)
            if spec.data:
                fs = self.tmpfs_by_options(spec.data)
                fs.source = spec.source
            flags = MS_NOSUID | MS_NODEV
        elif spec.kind == PROC:
            fs = proc_fs(self.kernel, self.container.pid_ns)
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        elif spec.kind == SYSFS:
            fs = sysfs(self.kernel)
            flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        elif spec.kind == DEV:
            fs = self.tmpfs(0o755)
            flags = MS_NOSUID
        else:
            fs = mount_bundle_kind(self.container, spec)
        if spec.kind != HOST:
            # The devices in it work all the same: nobody inside can make one.
            fs.user_ns = self.container.user_ns
        if spec.flags >= 0:
            flags = spec.flags
        if spec.kind == TMPFS and flags & MS_RDONLY:  # once all that is to be in it is made
            flags &= ~MS_RDONLY
            is_late = True
        if spec.kind == TMPFS:
            fs.sync_flags = flags & SYNC_FLAGS
        mounted = mount_at(ctx, spec.destination, fs, 0 if below is not None else flags)
        if spec.propagation:
            mounted.propagation = spec.propagation
            mounted.peer_group, mounted.master_group = self.group_of(spec.peers), self.group_of(spec.master)
            if spec.peers > 0 and not spec.propagation & MS_SLAVE:  # together with mounts of the host
                mounted.master_group = mounted.peer_group
        if is_late:
            self.late_read_only.append(mounted)
        if below is not None:
            copy_below(ctx, below, spec.destination)
            mounted.flags |= flags
        if spec.is_volume:
            self.volumes.append(mounted)
        if spec.kind == HOST and isinstance(fs, OverlayFs):
            self.container.layers.append(Layer(spec.destination, fs, is_volume=spec.is_volume))
        if spec.kind == DEV:
            self.fill_dev(ctx, spec.destination)

    def own_fs(self, spec: MountSpec) -> FileSystem:
        """A directory or file of the host that the container's gofer serves."""
        fs = self.host_fs(spec.attach_index, spec.mode, is_shared=spec.is_shared, only=spec.only)
        fs.outside = spec.shown_root
        if spec.account_index >= 0 and isinstance(fs, GoferFs) and self.gofer is not None:
            client = self.gofer.worker(spec.account_index, always_waits=True)
            fid = client.attach(spec.account_index).fid
            fs.quota = VolumeQuota(client.open(fid, ACCOUNT_NAME, os.O_RDWR)[0], spec.account_slot)
        return fs

    def shared_fs(self, volume: bytes) -> FileSystem:
        """A volume that other containers may have mounted, too: they share its files, locks and sockets."""
        found = self.kernel.volumes.get(volume)
        if found is None:
            raise LinuxError(ENOENT)
        return found

    def make_mountpoint(self, ctx: Context, spec: MountSpec) -> None:
        """The directory (or file) to mount on."""
        try:
            path_lookup(ctx, None, spec.destination)
            return
        except LinuxError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                raise
        if spec.is_file:
            self.make_parents(ctx, spec.destination)
            self.write_file(ctx, spec.destination, b"", 0o644)
            return
        self.make_directory(ctx, spec.destination, 0o755)

    def make_parents(self, ctx: Context, path: bytes) -> None:
        """Every directory above `path`."""
        parent = path.rsplit(b"/", 1)[0]
        if parent:
            try:
                path_lookup(ctx, None, parent)
            except LinuxError:
                self.make_directory(ctx, parent, 0o755)

    def fill_dev(self, ctx: Context, top: bytes) -> None:
        """Device nodes, links, devpts and shm."""
        for name, major, minor, mode in _DEVICES:
            vfs_mknod(ctx, None, top + b"/" + name, S_IFCHR | mode, makedev(major, minor))
        for name, target in _DEV_LINKS:
            self.make_symlink(ctx, top + b"/" + name, target)
        self.make_directory(ctx, top + b"/shm", 0o1777)
        mount_at(ctx, top + b"/shm", self.tmpfs(0o1777), MS_NOSUID | MS_NODEV)
        self.make_directory(ctx, top + b"/mqueue", 0o755)
        queues = mqueue_fs(self.kernel, self.container.ns.ipc)
        mount_at(ctx, top + b"/mqueue", queues, MS_NOSUID | MS_NODEV | MS_NOEXEC)
        devpts = self.container.devpts
        if devpts is not None:
            self.make_directory(ctx, top + b"/pts", 0o755)
            mount_at(ctx, top + b"/pts", devpts, MS_NOSUID | MS_NOEXEC)


def set_boot_time(kernel: Kernel) -> None:
    """The sandbox's own clock begins now."""
    kernel.boot_mono_ns = monotonic_ns()
    kernel.boot_real_ns = time.time_ns()


def assemble(platform: Platform, facts: HostFacts) -> Kernel:
    """The kernel of a sandbox, without a container."""
    kernel = Kernel(platform, len(os.sched_getaffinity(0)))
    set_boot_time(kernel)
    kernel.facts = facts
    kernel.hooks.vfork_done = vfork_done
    kernel.hooks.vfork_wake = finish_vfork_wait
    table.install(kernel)
    anon_fs(kernel)
    signals.install(kernel)
    itimers.install(kernel)
    install_ptrace(kernel)
    register_devices()
    register_fifo_opener(open_fifo)
    install_terminals(kernel)
    install_pidfd(kernel)
    install_inotify(kernel)
    install_network(kernel)
    DESCRIPTORS.reserve(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    register_mountable(kernel)
    return kernel


def _is_alone(kernel: Kernel) -> Callable[[], bool]:
    def is_alone() -> bool:
        """Whether there is at most one program beside the sandbox's own init. Such a program may wait for its patched
        text, because no other program waits meanwhile.
        """
        return len(kernel.groups) <= 2

    return is_alone


def _nobody_hears() -> None:
    pass


def user_namespace_of(kernel: Kernel, spec: SandboxSpec) -> UserNamespace | None:
    """The user namespace of a container that is to be made: that of another one, if they share it on the host."""
    if not spec.uid_map:
        return None
    for each in kernel.containers.values():
        if each.user_ns is not None and each.user_ns_name == spec.user_ns_name:
            return each.user_ns
    ino = kernel.numbers.namespace_ino()
    return UserNamespace.of_container(spec.uid_map, spec.gid_map, ino, may_setgroups=spec.may_setgroups)


def add_volume(
    kernel: Kernel, name: bytes, gofer_sock: socket.socket, user_ns: UserNamespace | None = None
) -> None:
    """Add a volume, which containers may mount from now on; its gofer is in `user_ns`. A volume of the same name whose
    gofer has ended is replaced. Raises LinuxError.
    """
    gofer = GoferClient(gofer_sock, kernel)
    gofer.is_alone = _is_alone(kernel)
    gofer.fd_limit = DESCRIPTORS.limit
    gofer.bears_others = bool(kernel.containers)
    kernel.volumes[name] = GoferFs(gofer, 0, kernel.numbers.dev(), is_shared=True, user_ns=user_ns)
    gofer.shared()


def remove_container(container: Container) -> None:
    """Release everything of a container that has ended, or that never started."""
    kernel = container.kernel
    del kernel.containers[container.ident]
    init = container.init
    users = [each for each in kernel.containers.values() if each.init is init]
    if init is not None and not init.has_guest_code and not users:
        end_init(init)
    for part in ("commands", "memory"):
        kernel.hooks.at_group_exit.pop(f"{part} of {container.ident}", None)
    if container.keeping is not None:
        container.keeping.close(_nobody_hears)
    kernel.platform.drop_family(container.family[0])
    root = container.root
    container.root = None
    container.layers = []
    if root is not None:
        kernel.programs.forget(root.mount_ns.mounts)
        release_namespace(root.mount_ns)
    if container.storage is not None:
        container.storage.close()
    if kernel.containers:
        memory_guard.share_kernel_memory(kernel)


def add_container(
    kernel: Kernel,
    ident: str,
    spec: SandboxSpec,
    gofer_sock: socket.socket | None,
    share: Container | None,
    kinds: list[str],
    user_ns: UserNamespace | None = None,
    *,
    is_first: bool = False,
) -> Container:
    """Make a container with its file systems mounted and no process but init.

    It shares the namespaces `kinds` with the container `share`. `is_first`: the sandbox ends when this container's
    gofer ends. Raises LinuxError and OSError; then everything that was made is removed again.
    """
    has_others = bool(kernel.containers)
    owned = [kind.decode() for kind in spec.owned_namespaces]
    container = create_container(kernel, ident, share, kinds, user_ns, owned)
    container.user_ns_name = spec.user_ns_name
    try:
        if has_others:
            container.family = kernel.platform.new_family()
        if "uts" not in kinds:
            container.hostname = spec.hostname
            if spec.domainname:
                container.ns.uts.domainname = spec.domainname
        container.max_tasks = spec.max_tasks
        container.memory_limit = spec.memory_bytes
        container.cpu_limit = spec.cpus
        container.cap_ceiling = spec.capabilities
        stack_of(container)
        gofer = GoferClient(gofer_sock, kernel) if gofer_sock is not None else None
        if gofer is not None:
            container.storage = gofer
            gofer.is_part = is_first
            gofer.bears_others = has_others and not is_first
            gofer.is_alone = _is_alone(kernel)
            gofer.fd_limit = DESCRIPTORS.limit
        builder = Builder(container, spec, gofer)
        container.memory_fs = builder.tmpfs(0o1777)
        devpts_fs(container)
        ctx = builder.build()
        container.root = ctx
        if spec.has_init and container.init is None:
            make_init(container, ctx)
    except (LinuxError, OSError):
        del kernel.containers[ident]
        kernel.platform.drop_family(container.family[0])
        raise
    memory_guard.install(container, builder.quota, oom_fd=spec.oom_fd, is_quiet=spec.log_level == "error")
    return container
