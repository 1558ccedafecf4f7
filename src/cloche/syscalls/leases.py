"""F_SETLEASE and F_GETLEASE, and the waits of calls that open or truncate a file on which others have leases.

Leases themselves are in `vfs.leases` and `vfs.locks`. A call that meets a lease is made again when the lease may be
gone. It looks the name up again, while Linux keeps the file that it has found.
"""

from typing import Final

from cloche.abi.capability import CAP_LEASE
from cloche.abi.errno import EACCES, EAGAIN, EINVAL
from cloche.abi.fcntl import F_OWNER_PID, F_RDLCK, F_UNLCK, F_WRLCK
from cloche.abi.poll import POLLIN, POLLMSG, POLLRDNORM
from cloche.abi.signal import POLL_MSG
from cloche.kernel.args import to_i32
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, also_wait, begin_wait
from cloche.kernel.fasync import signal_owner
from cloche.kernel.task import Kernel, Task
from cloche.vfs.leases import Lease, LeaseBroken
from cloche.vfs.locks import FileLocks, locks_of
from cloche.vfs.objects import FileDescription

_BAND: Final = POLLIN | POLLRDNORM | POLLMSG


class FileLease(Lease):
    """A lease whose holder is signalled as for O_ASYNC."""

    def __init__(self, kernel: Kernel, file: FileDescription, kind: int, pid: int, fd: int) -> None:
        super().__init__(file, kind, pid)
        self.kernel: Kernel = kernel
        self.fd: int = fd  # si_fd

    def tell(self) -> None:
        signal_owner(self.kernel, self.file, POLL_MSG, _BAND, self.fd)


def set_lease(task: Task, fd: int, file: FileDescription, arg: int) -> int:
    """F_SETLEASE (fcntl_setlease)."""
    kind = to_i32(arg)
    if kind not in (F_RDLCK, F_WRLCK, F_UNLCK):
        return -EINVAL
    inode = file.inode
    if task.creds.fsuid != inode.uid and not task.creds.capable(CAP_LEASE):
        return -EACCES
    if not inode.is_regular():
        return -EINVAL
    table = task.kernel.locks
    if kind == F_UNLCK and inode.locks is None:
        return -EAGAIN
    locks = locks_of(table, inode)
    held = locks.lease_of(file)
    if kind == F_UNLCK:
        if held is None:
            locks.tidy()
            return -EAGAIN
        locks.change_lease(held, kind)
        return 0
    if not locks.can_lease(file, kind):
        locks.tidy()
        return -EAGAIN
    if held is None:
        if not table.has_leases:
            locks.tidy()
            return -EINVAL
        result = locks.add_lease(FileLease(task.kernel, file, kind, task.group.tgid, fd))
        if result < 0:
            locks.tidy()
            return result
    else:
        if isinstance(held, FileLease):
            held.fd = fd
        locks.change_lease(held, kind)
    if file.owner_pid == 0:
        file.owner_pid, file.owner_type, file.owner_creds = task.group.tgid, F_OWNER_PID, task.creds
    return 0


def get_lease(file: FileDescription) -> int:
    """F_GETLEASE: the lease's type, or the one that it is to become."""
    locks = file.inode.locks
    lease = locks.lease_of(file) if isinstance(locks, FileLocks) else None
    return F_UNLCK if lease is None else lease.target()


class LeaseWait(Blocked):
    """A call that has met a lease, and will be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.may_run_again = True

    def act(self, task: Task) -> int:
        """Make the call.  Raises LeaseBroken, LinuxError."""
        raise NotImplementedError

    def start(self, task: Task, broken: LeaseBroken) -> int:
        """Wait for the first time; BLOCKED."""
        self.deadline_ns = broken.deadline_ns
        also_wait(task, self, broken.queue)
        begin_wait(task, self)
        return BLOCKED

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        try:
            return self.act(task)
        except LeaseBroken as broken:
            if broken.queue not in self.queues:
                also_wait(task, self, broken.queue)
            task.disarm_deadline()
            self.deadline_ns = broken.deadline_ns
            if self.deadline_ns >= 0:
                task.arm_deadline(self.deadline_ns)
            if task.blocked is not self:  # it has waited for the host's storage meanwhile (kernel.host_wait)
                begin_wait(task, self)
            return BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        return self.retry(task)
