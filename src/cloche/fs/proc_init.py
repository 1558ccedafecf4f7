"""/proc/1: the sandbox's own init, a process of the kernel without guest code (`Kernel.init`).

It has no task, so its files are made from the process alone: what ps, pstree and psutil read, and nothing
else.
"""

from collections.abc import Callable
from typing import Final

from cloche.abi.errno import ENOENT, LinuxError
from cloche.fs.proc_text import limit_rows
from cloche.kernel.task import Kernel
from cloche.vfs.objects import Context, Inode
from cloche.vfs.pseudo import ComputedSymlink, DirEntry, GeneratedInode, PseudoFs, StaticDir

INIT_NAME: Final = b"cloche-init"

InitText = Callable[[Kernel], bytes]


class InitFile(GeneratedInode):
    """A file of pid 1."""

    def __init__(self, fs: PseudoFs, kernel: Kernel, text: InitText) -> None:
        super().__init__(fs, 0o444)
        self.kernel: Kernel = kernel
        self.text: InitText = text
        self.is_mode_fixed = True

    def generate(self, ctx: Context) -> bytes:
        return self.text(self.kernel)


class InitTaskDir(StaticDir):
    """/proc/1/task: itself."""

    def __init__(self, fs: PseudoFs, above: StaticDir) -> None:
        super().__init__(fs)
        self.above: StaticDir = above

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        return self.above if name == b"1" else None

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        return [DirEntry(2, b"1", self.above.ino, 4)] if start <= 2 else []


def init_dir(fs: PseudoFs, kernel: Kernel, ino: int) -> StaticDir:
    """The directory /proc/1."""
    made = StaticDir(fs, 0o555, ino=ino)
    for name, text in _FILES:
        made.add(name, InitFile(fs, kernel, text))
    for name in (b"cwd", b"root", b"exe"):
        made.add(name, ComputedSymlink(fs, _no_target))
    for name in (b"fd", b"fdinfo"):
        made.add(name, StaticDir(fs, 0o500))
    made.add(b"task", InitTaskDir(fs, made))
    return made


def _no_target(ctx: Context) -> bytes:
    raise LinuxError(ENOENT)  # as for a kernel thread


def _stat(kernel: Kernel) -> bytes:
    init = kernel.init
    user = init.children_user_ns // 10_000_000 if init is not None else 0
    system = init.children_system_ns // 10_000_000 if init is not None else 0
    head = f"1 ({INIT_NAME.decode()}) S 0 1 1 0 -1 4194304 0 0 0 0 0 0 {user} {system} 20 0 1 0 0 0 0 "
    return (head + "18446744073709551615" + " 0" * 27 + "\n").encode()


def _status(kernel: Kernel) -> bytes:
    return (
        f"Name:\t{INIT_NAME.decode()}\nUmask:\t0022\nState:\tS (sleeping)\n"
        "Tgid:\t1\nNgid:\t0\nPid:\t1\nPPid:\t0\n"
        "TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t0\nGroups:\t \n"
        "NStgid:\t1\nNSpid:\t1\nNSpgid:\t1\nNSsid:\t1\nKthread:\t0\nThreads:\t1\n"
    ).encode()


def _statm(kernel: Kernel) -> bytes:
    return b"0 0 0 0 0 0 0\n"


def _comm(kernel: Kernel) -> bytes:
    return INIT_NAME + b"\n"


def _cmdline(kernel: Kernel) -> bytes:
    return INIT_NAME + b"\0"


def _cgroup(kernel: Kernel) -> bytes:
    return b"0::/\n"


def _limits(kernel: Kernel) -> bytes:
    return limit_rows(kernel.init.rlimits) if kernel.init is not None else b""


def _zero(kernel: Kernel) -> bytes:
    return b"0\n"


def _unset(kernel: Kernel) -> bytes:
    return b"4294967295"


def _empty(kernel: Kernel) -> bytes:
    return b""


_FILES: Final[list[tuple[bytes, InitText]]] = [
    (b"stat", _stat),
    (b"status", _status),
    (b"statm", _statm),
    (b"comm", _comm),
    (b"cmdline", _cmdline),
    (b"cgroup", _cgroup),
    (b"limits", _limits),
    (b"environ", _empty),
    (b"maps", _empty),
    (b"smaps", _empty),
    (b"oom_score", _zero),
    (b"oom_score_adj", _zero),
    (b"loginuid", _unset),
    (b"sessionid", _unset),
]
