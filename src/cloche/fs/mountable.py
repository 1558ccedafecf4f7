"""The file systems that guests may mount, by name.

Owns the factories behind mount(2) and fsopen(2); boot calls `register_mountable` once.  sysfs and cgroup2 are single
instances, proc and mqueue one of each namespace; each devpts is new, and each tmpfs and ramfs, which count towards the
container's quota.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, ENXIO, EPERM, LinuxError
from cloche.fs.cgroup import cgroup_fs
from cloche.fs.devpts import new_devpts
from cloche.fs.mqueue import mqueue_fs
from cloche.fs.proc import proc_fs
from cloche.fs.quota import PAGE, StorageQuota
from cloche.fs.sysfs import sysfs
from cloche.fs.tmpfs import TmpFs
from cloche.fs.tmpfs_options import TmpfsOptions, check_option, parse_options
from cloche.kernel.accounting import MemoryFigures
from cloche.kernel.task import Kernel, Task, container_of
from cloche.vfs.mount import register_filesystem
from cloche.vfs.objects import Context, FileSystem
from cloche.vfs.pseudo import parse_digits
from cloche.vfs.userns import UserNamespace


def _require(ctx: Context, owner: UserNamespace | None) -> None:
    """Require CAP_SYS_ADMIN over the namespace that the file system shows (mount_capable). Raises
    LinuxError(EPERM).
    """
    if not ctx.creds.capable_in(owner, CAP_SYS_ADMIN):
        raise LinuxError(EPERM)


def quota_of(ctx: Context) -> StorageQuota:
    """The quota of the container's in-memory files. Raises LinuxError(ENXIO) if it has none."""
    fs = container_of(ctx).memory_fs
    if not isinstance(fs, TmpFs):
        raise LinuxError(ENXIO)
    return fs.account.quota


_HIDEPID: Final = (b"0", b"1", b"2", b"4", b"off", b"noaccess", b"invisible", b"ptraceable")
_MAX_PTYS: Final = 1 << 20  # NR_UNIX98_PTY_MAX
_CGROUP_FLAGS: Final = (
    b"nsdelegate",
    b"favordynmods",
    b"memory_localevents",
    b"memory_recursiveprot",
    b"memory_hugetlb_accounting",
    b"pids_localevents",
)


class _Factories:
    """One method per kind; each is a `vfs.mount.Factory`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def tmpfs(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        total = MemoryFigures(container_of(ctx)).total
        options = parse_options(data, total, ctx.creds)
        if options.size < 0:
            options.size = total // 2  # as Linux does
        made = TmpFs(self.kernel.numbers.dev(), quota_of(ctx), options)
        made.default_pages = total // 2 // PAGE
        return made

    def ramfs(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        options = TmpfsOptions()
        options.mode = 0o755
        options.uid, options.gid = ctx.creds.fsuid, ctx.creds.fsgid
        for item in data.split(b","):
            check_ramfs_option(item)  # every other option is ignored
            if item.startswith(b"mode="):
                options.mode = parse_options(item, 0, ctx.creds).mode
        return TmpFs(self.kernel.numbers.dev(), quota_of(ctx), options, kind="ramfs")

    def proc(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        ns = ctx.pid_ns if isinstance(ctx, Task) else None
        _require(ctx, ns.user_ns if ns is not None else None)
        for item in data.split(b","):
            check_proc_option(item)
        return proc_fs(self.kernel, ns)

    def sysfs(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        if isinstance(ctx, Task):
            _require(ctx, ctx.ns.net.user_ns)
        return sysfs(self.kernel)

    def devpts(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        return new_devpts(self.kernel, ctx, data)

    def mqueue(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        namespace = ctx.ns.ipc if isinstance(ctx, Task) else container_of(ctx).ns.ipc
        _require(ctx, namespace.user_ns)
        return mqueue_fs(self.kernel, namespace)

    def cgroup2(self, ctx: Context, source: bytes, flags: int, data: bytes) -> FileSystem:
        if isinstance(ctx, Task):
            _require(ctx, ctx.ns.cgroup.user_ns)
        return cgroup_fs(self.kernel)


# -- options that fsconfig(2) accepts (the fs_parameter_spec tables); each raises LinuxError(EINVAL) -------------------
def refuse_option(option: bytes) -> None:
    if option:
        raise LinuxError(EINVAL)


def check_ramfs_option(option: bytes) -> None:
    key, _, value = option.partition(b"=")
    if key == b"mode":
        parse_digits(value, 8)


def check_proc_option(option: bytes) -> None:
    key, _, value = option.partition(b"=")
    if key == b"gid":
        parse_digits(value)
    elif key == b"hidepid":
        if value not in _HIDEPID:
            raise LinuxError(EINVAL)
    elif option != b"subset=pid":
        refuse_option(option)


def check_devpts_option(option: bytes) -> None:
    key, _, value = option.partition(b"=")
    if key in (b"mode", b"ptmxmode", b"uid", b"gid", b"max"):
        number = parse_digits(value, 8 if key in (b"mode", b"ptmxmode") else 10)
        if key == b"max" and number > _MAX_PTYS:
            raise LinuxError(EINVAL)
    elif option != b"newinstance":
        refuse_option(option)


def check_cgroup_option(option: bytes) -> None:
    if option not in _CGROUP_FLAGS:
        refuse_option(option)


def register_mountable(kernel: Kernel) -> None:
    """Let mount(2) make these kinds."""
    made = _Factories(kernel)
    register_filesystem(b"tmpfs", made.tmpfs, checker=check_option)
    register_filesystem(b"ramfs", made.ramfs, checker=check_ramfs_option)
    register_filesystem(b"proc", made.proc, checker=check_proc_option)
    register_filesystem(b"sysfs", made.sysfs, checker=refuse_option)
    register_filesystem(b"devpts", made.devpts, checker=check_devpts_option)
    register_filesystem(b"mqueue", made.mqueue, checker=refuse_option)
    register_filesystem(b"cgroup2", made.cgroup2, checker=check_cgroup_option)
