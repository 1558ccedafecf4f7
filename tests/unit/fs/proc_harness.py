"""A guest whose root directory is a pseudo file system, and helpers to read and list it."""

from cloche.abi.errno import EAGAIN
from cloche.fs.proc import proc_fs
from cloche.kernel.fd_table import FdTable
from cloche.kernel.task import Task
from cloche.mm.area import Area
from cloche.mm.usermem import KernelIovIter
from cloche.vfs.listing import Names
from cloche.vfs.namei import do_open, path_lookup
from cloche.vfs.objects import (
    Dentry,
    FileDescription,
    FileSystem,
    FsContext,
    Inode,
    Mount,
    MountNamespace,
    Path,
)

from .harness import Guest


def root_of(fs: FileSystem) -> Path:
    assert fs.root_inode is not None
    dentry = Dentry(b"", None, fs.root_inode)
    return Path(Mount(2, fs, dentry), dentry)


class ProcGuest(Guest):
    """The root of its task is /proc itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter(root_of(proc_fs(self.kernel)))

    def enter(self, root: Path, task: Task | None = None) -> None:
        task = task or self.task
        task.fs = FsContext(root, root)
        task.mount_ns = MountNamespace(root)
        task.comm = b"worker"

    def new_process(self, pid: int) -> Task:
        """A further process that sees the same root."""
        task = self.add_task(pid)
        self.enter(self.task.fs.root, task)
        task.group.parent = self.task.group
        self.task.group.children[task.group] = None
        return task

    def fill_memory(self, task: Task | None = None) -> None:
        """A program with arguments and an environment."""
        task = task or self.task
        mm = task.mm
        block = b"prog\0one\0two words\0" + b"A=1\0B=22\0"
        mm.process.write(0x20000, block)
        mm.arg_start, mm.arg_end = 0x20000, 0x20000 + 19
        mm.env_start, mm.env_end = 0x20000 + 19, 0x20000 + len(block)
        for area in (
            Area(0x10000, 0x14000, 5, 0, None, 0, b"/bin/prog"),
            Area(0x20000, 0x21000, 3, 0, None, 0, b""),
            Area(0x40000, 0x61000, 3, 0, None, 0, b"[stack]"),
        ):
            mm._insert(area)

    def open(self, path: bytes, flags: int = 0, task: Task | None = None) -> FileDescription:
        return do_open(task or self.task, None, path, flags, 0).get()

    def text(self, path: bytes, task: Task | None = None) -> bytes:
        task = task or self.task
        file = self.open(path, 0, task)
        parts: list[bytes] = []
        while True:
            sink = KernelIovIter(capacity=4096)
            count = file.read(task, sink)
            if count == -EAGAIN:  # a slice of it is over: reads again, as the loop would
                continue
            assert count >= 0, count
            if count == 0:
                return b"".join(parts)
            parts.append(bytes(sink.sink))

    def write(self, path: bytes, data: bytes, task: Task | None = None) -> int:
        task = task or self.task
        return self.open(path, 1, task).write(task, KernelIovIter(data))

    def names(self, path: bytes, task: Task | None = None) -> list[bytes]:
        emitter = Names()
        file = self.open(path, 0, task)
        assert file.iterate(task or self.task, emitter) == 0
        return emitter.names

    def inode(self, path: bytes, flags: int = 0, task: Task | None = None) -> Inode:
        return path_lookup(task or self.task, None, path, flags).inode()

    def link(self, path: bytes, task: Task | None = None) -> bytes:
        return self.inode(path, 0, task).readlink(task or self.task)


__all__ = ["FdTable", "Names", "ProcGuest", "root_of"]
