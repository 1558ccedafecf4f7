"""A task without a guest: real kernel objects over memory that is a bytearray.

`Guest.call` runs a handler; if it blocks, `Guest.step` retries the calls that were woken and `Guest.expire` runs
timers.
"""

from cloche.abi.errno import LinuxError
from cloche.kernel.args import Args
from cloche.kernel.blocking import BLOCKED, end_wait
from cloche.kernel.fd_table import FdTable
from cloche.kernel.phase import KERNEL
from cloche.kernel.siginfo import SignalHandlers
from cloche.kernel.task import Container, Handler, Kernel, ProcessGroup, Session, Task, ThreadGroup
from cloche.mm.address_space import AddressSpace
from cloche.mm.usermem import UserMemory
from cloche.platform.fake import FakePlatform, FakeProcess, FakeThread
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.objects import Dentry, FileSystem, FsContext, Inode, Mount, MountNamespace, Path


def make_root() -> tuple[FileSystem, Path]:
    fs = FileSystem("fake", 1, 1)
    root = Inode(fs, 1, 0o40755)
    dentry = Dentry(b"", None, root)
    return fs, Path(Mount(1, fs, dentry), dentry)


class Guest:
    """A kernel with one task."""

    def __init__(self) -> None:
        self.platform = FakePlatform()
        self.kernel = Kernel(self.platform, 1)
        self.container = Container(self.kernel, "test")
        self.signals: list[tuple[Task, int]] = []
        self.kernel.hooks.signal = lambda task, signo: self.signals.append((task, signo))
        self.task = self.add_task(2)
        self.next_free = 4096

    def add_task(self, pid: int, group: ThreadGroup | None = None) -> Task:
        """A new process with its own session (or a thread of `group`)."""
        process = FakeProcess()
        thread = FakeThread(process)
        _fs, root = make_root()
        if group is None:
            group = ThreadGroup(self.container, pid, SignalHandlers())
            group.rlimits = [(-1, -1)] * 16
            group.rlimits[7] = (1024, 4096)
            session = Session(pid)
            pgrp = ProcessGroup(pid, session)
            session.groups.append(pgrp)
            pgrp.members[group] = None
            group.pgrp = pgrp
            self.kernel.sessions[pid] = session
            self.kernel.process_groups[pid] = pgrp
        creds = Credentials(0, 0, caps=ALL_CAPS)
        space = AddressSpace(process, 0x10000, 0x7FFF_FFFF_F000)
        task = Task(
            self.kernel,
            pid,
            group,
            creds,
            FsContext(root, root),
            MountNamespace(root),
            FdTable(),
            space,
            thread,
        )
        task.mem = UserMemory(thread)
        task.phase = KERNEL  # as if a call had just come
        task.checks_phases = True
        group.tasks.append(task)
        if group.leader is None:
            group.leader = task
        self.kernel.add_task(task)
        self.kernel.groups[group.tgid] = group
        return task

    def join(self, task: Task, pgrp: ProcessGroup) -> None:
        """Move a process into a process group of another session."""
        old = task.group.pgrp
        assert old is not None
        del old.members[task.group]
        task.group.pgrp = pgrp
        pgrp.members[task.group] = None

    def new_group(self, task: Task, pgid: int) -> ProcessGroup:
        """A new process group in the session of `task`, with `task` in it."""
        session = task.group.session()
        assert session is not None
        pgrp = ProcessGroup(pgid, session)
        session.groups.append(pgrp)
        self.kernel.process_groups[pgid] = pgrp
        self.join(task, pgrp)
        return pgrp

    # -- memory ----------------------------------------------------------------------------------------
    def put(self, data: bytes, task: Task | None = None) -> int:
        """Place bytes in guest memory (of every task, at the same address); their address."""
        addr = self.next_free
        self.next_free += (len(data) + 15) // 16 * 16 + 16
        for each in [task] if task is not None else list(self.kernel.tasks.values()):
            assert each.mem is not None
            each.mem.write(addr, data)
        return addr

    def get(self, addr: int, length: int, task: Task | None = None) -> bytes:
        mem = (task or self.task).mem
        assert mem is not None
        return mem.read(addr, length)

    # -- calls -----------------------------------------------------------------------------------------
    def call(self, handler: Handler, *values: int, task: Task | None = None) -> int:
        task = task or self.task
        args = Args()
        padded = list(values) + [0] * (6 - len(values))
        args.a0, args.a1, args.a2, args.a3, args.a4, args.a5 = padded
        task.args = args
        try:
            result = handler(task, args)
        except LinuxError as error:
            return -error.errno
        # The machine was slow: as many slices as it takes
        while result == BLOCKED and task in self.kernel.sliced:
            self.kernel.sliced.remove(task)
            self.kernel.ready.append(task)
            result = self.step(task)
        return result

    def step(self, task: Task | None = None) -> int:
        """Retry a blocked call if it was woken; its result, BLOCKED while it waits."""
        task = task or self.task
        if task not in self.kernel.ready:
            return BLOCKED
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

    def expire(self, task: Task | None = None) -> int:
        """The deadline of a blocked call has passed: its result."""
        task = task or self.task
        op = task.blocked
        assert op is not None
        result = op.timed_out(task)
        if result != BLOCKED:
            end_wait(task, op)
        return result

    def interrupt(self, task: Task | None = None) -> int:
        """A signal ends the blocked call: its result."""
        task = task or self.task
        op = task.blocked
        assert op is not None
        result = op.interrupted(task)
        if result != BLOCKED:
            end_wait(task, op)
        return result

    def host_events(self) -> int:
        """Deliver what host descriptors have to say; the number of events."""
        found = self.platform.epoll.poll(0)
        for fd, events in found:
            token = self.platform.tokens.get(fd)
            if token is not None:
                self.kernel.fds.watchers[token].fd_ready(token, events)
        return len(found)
