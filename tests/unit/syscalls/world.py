"""A kernel with one task on a fake platform and a tmpfs as root: enough to call handlers of file system calls."""

from collections.abc import Callable

from cloche.abi.errno import LinuxError
from cloche.fs.pipe import open_fifo
from cloche.fs.quota import StorageQuota
from cloche.fs.tmpfs import TmpFs
from cloche.kernel.args import Args
from cloche.kernel.blocking import BLOCKED, end_wait
from cloche.kernel.fd_table import FdTable
from cloche.kernel.phase import KERNEL
from cloche.kernel.siginfo import SignalHandlers
from cloche.kernel.task import Container, Kernel, Task, ThreadGroup
from cloche.mm.address_space import AddressSpace
from cloche.mm.usermem import UserMemory
from cloche.platform.fake import FakePlatform, FakeProcess, FakeThread
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.devices import register_fifo_opener
from cloche.vfs.objects import Dentry, FsContext, Mount, MountNamespace, Path

Handler = Callable[[Task, Args], int]
ARENA = 0x10000


class World:
    """`call` a handler with ints and bytes (which are put into memory, NUL-terminated)."""

    def __init__(self) -> None:
        self.kernel = Kernel(FakePlatform(), 2)
        self.container = Container(self.kernel, "test")
        self.fs = TmpFs(self.kernel.numbers.dev(), StorageQuota())
        self.container.memory_fs = TmpFs(self.kernel.numbers.dev(), StorageQuota())
        root = Dentry(b"", None, self.fs.root_inode)
        self.root = Path(Mount(1, self.fs, root), root)
        self.mount_ns = MountNamespace(self.root)
        self.signals: list[tuple[int, int]] = []
        self.kernel.hooks.signal = lambda task, signo: self.signals.append((task.tid, signo))
        register_fifo_opener(lambda ctx, path, inode, flags: open_fifo(ctx, path, inode, flags))
        self.task = self.new_task(0, ALL_CAPS)

    def new_task(self, uid: int = 0, caps: int = 0) -> Task:
        """A task in a process of its own, with its own memory and descriptors."""
        tid = self.kernel.alloc_pid(self.container)
        group = ThreadGroup(self.container, tid, SignalHandlers())
        group.rlimits = [(-1, -1)] * 16
        group.rlimits[7] = (64, 64)
        process = FakeProcess()
        thread = FakeThread(process)
        fs = FsContext(self.root, self.root, 0o022)
        creds = Credentials(uid, uid, caps=caps)
        space = AddressSpace(process, 0x10000, 0x7FFFFFFFF000)
        task = Task(self.kernel, tid, group, creds, fs, self.mount_ns, FdTable(), space, thread)
        task.mem = UserMemory(thread)
        task.phase = KERNEL  # as if a call had just come
        task.checks_phases = True
        group.tasks.append(task)
        self.kernel.add_task(task)
        self.kernel.groups[tid] = group
        return task

    def call(self, handler: Handler, *values: int | bytes, task: Task | None = None) -> int:
        """The result of a handler as a guest sees it (BLOCKED if it waits), after as many slices as it takes."""
        task = self.task if task is None else task
        args = Args()
        arena = ARENA
        plain: list[int] = []
        for value in values:
            if isinstance(value, bytes):
                self.poke(arena, value + b"\0", task)
                plain.append(arena)
                arena += len(value) + 17 & ~15
            else:
                plain.append(value)
        plain += [0] * (6 - len(plain))
        args.a0, args.a1, args.a2, args.a3, args.a4, args.a5 = plain
        try:
            result = handler(task, args)
        except LinuxError as error:
            return -error.errno
        while result == BLOCKED and task in self.kernel.sliced:
            self.kernel.sliced.remove(task)
            task.is_ready_queued = False
            result = self.resume(task)
        return result

    def poke(self, addr: int, data: bytes, task: Task | None = None) -> None:
        """Write into a task's memory."""
        assert (self.task if task is None else task).user_memory().write_now(addr, data)

    def peek(self, addr: int, length: int, task: Task | None = None) -> bytes:
        """Read a task's memory."""
        return (self.task if task is None else task).user_memory().read_fresh(addr, length)

    def is_woken(self, task: Task) -> bool:
        """Whether a blocked task was put on the ready list."""
        return task in self.kernel.ready

    def resume(self, task: Task) -> int:
        """Retry a blocked call once, as the kernel's loop does."""
        if task in self.kernel.ready:
            self.kernel.ready.remove(task)
            task.is_ready_queued = False
        op = task.blocked
        assert op is not None
        try:
            result = op.retry(task)
        except LinuxError as error:
            result = -error.errno
        if result != BLOCKED:
            end_wait(task, op)
        return result

    def interrupt(self, task: Task) -> int:
        """End a blocked call by a signal."""
        op = task.blocked
        assert op is not None
        result = op.interrupted(task)
        end_wait(task, op)
        return result
