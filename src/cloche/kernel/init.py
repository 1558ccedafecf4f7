"""pid 1 of a container: an init of the kernel's own, which runs no guest code.

It is a real task, so that every call about pid 1 (kill, /proc/1, capget, prlimit, getpgid, sched_*, kcmp) finds one;
but its address space is empty and its thread never runs. Its children are reaped as soon as they die
(`kernel.exit.notify_parent`), signals do not touch it (`kernel.signals.is_unkillable`), and it is no candidate for
the out-of-memory killer. Without it (`--no-init`) the container's first program is pid 1.
"""

from typing import Final

from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.container import new_leader
from cloche.kernel.exit import do_group_exit, reap
from cloche.kernel.fd_table import FdTable
from cloche.kernel.rlimits import default_rlimits
from cloche.kernel.task import Container, ThreadGroup
from cloche.mm.address_space import AddressSpace
from cloche.platform.interface import HostProcess, HostThread, Registers
from cloche.vfs.objects import Context

INIT_NAME: Final = b"cloche-init"
_NO_IDENT: Final = -1  # no host process has it


class NoProcess(HostProcess):
    """Stands in for the host process, which init does not have."""

    def ident(self) -> int:
        return _NO_IDENT

    def read(self, addr: int, length: int) -> bytes:
        return b""

    def write(self, addr: int, data: bytes) -> int:
        return 0

    def has_pending_ops(self) -> bool:
        return False

    def rss_bytes(self) -> int:
        return 0

    def cpu_times_ns(self) -> tuple[int, int]:
        return 0, 0

    def kill(self) -> None:
        pass


class NoThread(HostThread):
    """A host thread that never runs."""

    def __init__(self, process: NoProcess) -> None:
        self._process: NoProcess = process

    def ident(self) -> int:
        return _NO_IDENT

    def process(self) -> HostProcess:
        return self._process

    def regs(self) -> Registers:
        return Registers()

    def read(self, addr: int, length: int) -> bytes:
        return b""

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        return None

    def write(self, addr: int, data: bytes) -> int:
        return 0

    def interrupt(self) -> None:
        pass

    def is_running(self) -> bool:
        return False

    def discard(self) -> None:
        pass


class Idle(Blocked):
    """The wait of init, which never ends."""

    def retry(self, task: TaskBase) -> int:
        return BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED


def end_init(group: ThreadGroup) -> None:
    """Remove the init of a container that has ended."""
    group.parent = None
    group.end.must_die = True
    do_group_exit(group, 0)
    reap(group)


def make_init(container: Container, root: Context) -> ThreadGroup:
    """pid 1 of a container, in a session of its own, with all capabilities that are to be had; not counted by `--pids`.

    Raises LinuxError.
    """
    kernel = container.kernel
    process = NoProcess()
    mm = AddressSpace(process, kernel.platform.min_address(), kernel.platform.max_address())
    mm.is_dead = True  # as a kernel thread's: there is none
    creds = container.root_credentials()
    creds.cap_effective = creds.cap_permitted = container.cap_ceiling
    creds.cap_bounding = container.cap_ceiling
    rlimits = default_rlimits(nproc=container.max_tasks)
    thread = NoThread(process)
    task = new_leader(container, thread, mm, creds, root, FdTable(), rlimits, has_guest_code=False)
    group = task.group
    group.exe.has_execed = True
    group.exit_signal = 0
    task.comm = INIT_NAME
    block_on_time(task, Idle())
    container.init = group
    return group
