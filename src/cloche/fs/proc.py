"""The proc file system (proc(5)): its root directory, put together from the modules `proc_*`.

`proc_fs(kernel)` gives the sandbox's one instance, which every mount of type proc shows.  Other packages
add to it: `proc_net(kernel)` is the directory /proc/PID/net, `proc_sysctl(kernel)` the tree of /proc/sys,
and `proc_fs(kernel).root_dir().add(name, inode)` puts a file at the top.
"""

from collections.abc import Callable, Generator
from typing import Final

from cloche.abi.magic import PROC_SUPER_MAGIC
from cloche.abi.stat import dtype
from cloche.fs import proc_system
from cloche.fs.pieces import PartsDescription
from cloche.fs.proc_idmap import IdMapFile
from cloche.fs.proc_ipc import sysvipc_dir
from cloche.fs.proc_pid import ProcFs, parse_name
from cloche.fs.proc_sys import ProcSys
from cloche.fs.proc_task import task_ino
from cloche.kernel.access import task_of
from cloche.kernel.pid_namespace import PidNamespace, pid_from
from cloche.kernel.task import Container, Kernel, Task, container_of
from cloche.vfs.locks import proc_locks_parts
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.vfs.pseudo import (
    ComputedSymlink,
    ConstantFile,
    DirEntry,
    GeneratedInode,
    PseudoFs,
    StaticDir,
    Symlink,
)

_FIRST_PID_KEY: Final = 256

KernelText = Callable[[Container], bytes]


class KernelFile(GeneratedInode):
    """A file that is a function of the reader's container."""

    def __init__(self, fs: PseudoFs, text: KernelText, mode: int = 0o444) -> None:
        super().__init__(fs, mode)
        self.text: KernelText = text

    def generate(self, ctx: Context) -> bytes:
        return self.text(container_of(ctx))


class LoadFile(GeneratedInode):
    """/proc/loadavg, which does not count its reader."""

    def __init__(self, fs: PseudoFs, kernel: Kernel) -> None:
        super().__init__(fs, 0o444)
        self.kernel: Kernel = kernel

    def generate(self, ctx: Context) -> bytes:
        return proc_system.loadavg_text(self.kernel, ctx if isinstance(ctx, Task) else None)


class LocksFile(GeneratedInode):
    """/proc/locks: those of the reader's container."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return LocksDescription(path, self, flags)


class LocksDescription(PartsDescription):
    """An open /proc/locks."""

    def parts(self, ctx: Context) -> Generator[str, None, None]:
        container = container_of(ctx)
        return proc_locks_parts(container.kernel.locks, proc_system.pid_shower(container.pid_ns))


class ProcRoot(StaticDir):
    """/proc: the fixed names, then the processes in order of their pids."""

    def __init__(self, fs: ProcFs) -> None:
        super().__init__(fs, 0o555, ino=1)
        self.proc: ProcFs = fs

    def refresh(self, ctx: Context) -> None:
        directories = 0
        for inode in self.children.values():
            if inode.is_dir():
                directories += 1
        ns = self.proc.pid_ns
        self.nlink = 2 + directories + (len(self.proc.kernel.groups) if ns is None else len(ns.to_kernel))

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        found = self.children.get(name)
        if found is not None:
            return found
        pid = parse_name(name)
        if pid <= 0:
            return None
        pid = pid_from(self.proc.pid_ns, pid)
        kernel = self.proc.kernel
        task = task_of(kernel, pid)
        return self.proc.pid_dir(task) if task is not None else None

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        found: list[DirEntry] = []
        key = 2
        for name, inode in self.children.items():
            if key >= start:
                found.append(DirEntry(key, name, inode.ino, dtype(inode.mode)))
            key += 1
        kernel, ns = self.proc.kernel, self.proc.pid_ns
        for shown in sorted(kernel.groups if ns is None else ns.to_kernel):
            pid = pid_from(ns, shown)
            key = _FIRST_PID_KEY + shown
            group = kernel.groups.get(pid)
            if group is None:
                continue  # a thread, or only a process group
            if key < start or group.end.is_reaped or group.leader is None:
                continue
            found.append(DirEntry(key, b"%d" % shown, task_ino(pid, is_thread=False), 4))
        return found


def proc_fs(kernel: Kernel, pid_ns: PidNamespace | None = None) -> FileSystem:
    """The proc of a pid namespace, built at the first call."""
    if pid_ns is None:
        return _instance(kernel)
    known = pid_ns.proc_fs
    if isinstance(known, ProcFs):
        return known
    first = _instance(kernel)
    fs = ProcFs(kernel, PROC_SUPER_MAGIC, kernel.numbers.dev(), pid_ns)
    fs.id_map_hook = IdMapFile
    root = ProcRoot(fs)
    fs.root_inode = root
    fs.net_dir = first.net_dir
    first_root = first.root_inode
    assert isinstance(first_root, StaticDir)
    for name, inode in first_root.children.items():
        root.add(name, inode)
    root.add(b"self", ComputedSymlink(fs, fs.self_name))
    root.add(b"thread-self", ComputedSymlink(fs, fs.thread_self_name))
    pid_ns.proc_fs = fs
    return fs


def proc_root(kernel: Kernel) -> StaticDir:
    """The root directory, for packages that add files."""
    root = _instance(kernel).root_inode
    assert isinstance(root, StaticDir)
    return root


def proc_net(kernel: Kernel) -> StaticDir:
    """The directory that /proc/net and /proc/PID/net show."""
    net = _instance(kernel).net_dir
    assert isinstance(net, StaticDir)
    return net


def proc_sysctl(kernel: Kernel) -> ProcSys:
    """The tree of /proc/sys."""
    _instance(kernel)
    tree = kernel.sysctl
    assert isinstance(tree, ProcSys)
    return tree


def _instance(kernel: Kernel) -> ProcFs:
    known = kernel.file_systems.proc
    if isinstance(known, ProcFs):
        return known
    fs = ProcFs(kernel, PROC_SUPER_MAGIC, kernel.numbers.dev(), None)
    fs.id_map_hook = IdMapFile
    kernel.file_systems.proc = fs
    root = ProcRoot(fs)
    fs.root_inode = root
    fs.net_dir = StaticDir(fs)
    tree = ProcSys(fs, kernel)
    kernel.sysctl = tree
    _fill(fs, root, kernel, tree)
    return fs


def _cmdline(container: Container) -> bytes:
    return container.kernel.facts.cmdline


def _fill(fs: ProcFs, root: ProcRoot, kernel: Kernel, tree: ProcSys) -> None:
    """Put the fixed names in place."""
    root.add(b"self", ComputedSymlink(fs, fs.self_name))
    root.add(b"thread-self", ComputedSymlink(fs, fs.thread_self_name))
    root.add(b"mounts", Symlink(fs, b"self/mounts"))
    root.add(b"net", Symlink(fs, b"self/net"))
    root.add(b"sys", tree.root)
    for name, text in _KERNEL_FILES:
        root.add(name, KernelFile(fs, text))
    root.add(b"locks", LocksFile(fs))
    root.add(b"loadavg", LoadFile(fs, kernel))
    for name, constant in _CONSTANT_FILES:
        root.add(name, ConstantFile(fs, constant))
    for name in (b"bus", b"driver", b"fs", b"irq", b"tty"):
        root.add(name, StaticDir(fs))
    root.add(b"sysvipc", sysvipc_dir(fs, kernel))
    terminals = root.children[b"tty"]
    if isinstance(terminals, StaticDir):
        terminals.add(b"drivers", ConstantFile(fs, proc_system.TTY_DRIVERS))


_KERNEL_FILES: Final[list[tuple[bytes, KernelText]]] = [
    (b"cpuinfo", proc_system.cpuinfo_text),
    (b"meminfo", proc_system.meminfo_text),
    (b"stat", proc_system.stat_text),
    (b"uptime", proc_system.uptime_text),
    (b"vmstat", proc_system.vmstat_text),
    (b"interrupts", proc_system.interrupts_text),
    (b"softirqs", proc_system.softirqs_text),
    (b"filesystems", proc_system.filesystems_text),
    (b"cmdline", _cmdline),
]
_CONSTANT_FILES: Final[list[tuple[bytes, bytes]]] = [
    (b"version", proc_system.VERSION),
    (b"devices", proc_system.DEVICES),
    (b"swaps", proc_system.SWAPS),
    (b"partitions", proc_system.PARTITIONS),
    (b"diskstats", b""),
    (b"modules", b""),
    (b"misc", b""),
    (b"cgroups", proc_system.CGROUPS),
    (b"execdomains", proc_system.EXECDOMAINS),
    (b"crypto", b""),
    (b"keys", b""),
    (b"key-users", b""),
]
