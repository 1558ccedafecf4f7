"""Process descriptors: pidfd_open(2) (kernel/fork.c, fs/pidfs.c).

A pidfd is readable (for poll) once its process is a zombie, hung up once that was reaped.  `install` gives
the kernel its two hooks: CLONE_PIDFD and waitid(P_PIDFD).
"""

from cloche.abi.errno import EBADF, EINVAL, LinuxError
from cloche.abi.fcntl import O_RDWR
from cloche.abi.poll import POLLHUP, POLLIN, POLLRDNORM
from cloche.abi.wait import PIDFD_NONBLOCK, PIDFD_THREAD
from cloche.fs.anon import AnonFile
from cloche.kernel.pid_namespace import PidNamespace, pid_in, pids_below
from cloche.kernel.task import Kernel, Task, ThreadGroup
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context, FileDescription
from cloche.vfs.waitqueue import WaitQueue


class PidFile(AnonFile):
    """A process, or with PIDFD_THREAD one thread of it."""

    def __init__(
        self, kernel: Kernel, group: ThreadGroup, flags: int = 0, thread: Task | None = None
    ) -> None:
        super().__init__(kernel, b"[pidfd]", O_RDWR | flags & (PIDFD_NONBLOCK | PIDFD_THREAD))
        self.group: ThreadGroup = group
        self.thread: Task | None = thread

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return -EINVAL

    def poll(self, ctx: Context) -> int:
        group = self.group
        if group.end.is_reaped:
            return POLLIN | POLLRDNORM | POLLHUP
        thread = self.thread
        if thread is not None and thread is not group.leader:
            if not thread.is_exited:
                return 0
            return POLLIN | POLLRDNORM | (POLLHUP if self.is_released(thread) else 0)
        # A leader is not reported before its threads.
        return POLLIN | POLLRDNORM if group.end.is_zombie else 0

    def wait_queue(self) -> WaitQueue | None:
        return self.group.exit_wait

    def is_released(self, thread: Task) -> bool:
        """Whether a thread that is not the leader has ended, and its tracer, if it had one, has waited for it."""
        return thread.is_exited and thread.kernel.traced_zombies.get(thread.tid) is not thread

    def target(self) -> Task | None:
        """The thread that it means, or the process's leader: living, or a zombie; None once it is released."""
        thread = self.thread if self.thread is not None else self.group.leader
        if thread is None or self.group.end.is_reaped:
            return None
        return None if thread is not self.group.leader and self.is_released(thread) else thread

    def pid(self) -> int:
        """The kernel pid of its process or thread, -1 once reaped."""
        if self.group.end.is_reaped:
            return -1
        return self.thread.tid if self.thread is not None else self.group.tgid

    def fdinfo_in(self, view: PidNamespace | None) -> str:
        """`fdinfo` with the pids that a pid namespace has (pidfd_show_fdinfo)."""
        pid, deepest = self.pid(), self.group.pid_ns
        if pid < 0:
            return "Pid:\t-1\nNSpid:\t-1\n"
        numbers = pids_below(view, deepest, pid) if pid_in(view, pid) else [0]
        return f"Pid:\t{pid_in(view, pid)}\nNSpid:\t" + "\t".join([str(number) for number in numbers]) + "\n"


def pidfd_group(file: FileDescription) -> ThreadGroup:
    """The process of a pidfd.  Raises LinuxError(EBADF) for another kind of file."""
    if isinstance(file, PidFile):
        return file.group
    raise LinuxError(EBADF)


def open_pidfd(task: Task, group: ThreadGroup) -> int:
    """A new pidfd, close-on-exec, in the caller's table (CLONE_PIDFD)."""
    return task.files.install(PidFile(task.kernel, group), task.nofile_limit(), is_cloexec=True)


def install(kernel: Kernel) -> None:
    """Fill in the kernel's hooks."""
    kernel.hooks.open_pidfd = open_pidfd
    kernel.hooks.pidfd_group = pidfd_group
