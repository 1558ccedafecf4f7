"""pid 1 of a sandbox: an init of the kernel's own, which runs no guest code.

A real task, so that whatever looks at pid 1 (kill, /proc/1, capget, prlimit, getpgid, sched_*, kcmp) finds one; but its
address space is empty and its thread never runs.  What becomes its child is reaped as soon as it dies
(`kernel.exit.notify_parent`), signals do not touch it (`kernel.signals.is_unkillable`), and it is no candidate for
the out-of-memory killer.  Without it (`--no-init`) the sandbox's command is pid 1.
"""

from typing import Final

from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.fd_table import FdTable
from cloche.kernel.rlimits import default_rlimits
from cloche.kernel.task import Kernel, ProcessGroup, Session, SignalHandlers, Task, ThreadGroup
from cloche.mm.address_space import AddressSpace
from cloche.mm.usermem import UserMemory
from cloche.platform.interface import HostProcess, HostThread, Registers
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import Context, FsContext

INIT_PID: Final = 1
INIT_NAME: Final = b"cloche-init"
_NO_IDENT: Final = -1  # no host process has it


class NoProcess(HostProcess):
    """The host process that init does not have."""

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
    """What init does: wait, for ever."""

    def retry(self, task: TaskBase) -> int:
        return BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED


def make_init(kernel: Kernel, root: Context, caps: int) -> ThreadGroup:
    """pid 1, in a session of its own, with capabilities `caps`; not counted by `--pids`."""
    group = ThreadGroup(kernel, INIT_PID, SignalHandlers())
    group.has_guest_code = False
    group.has_execed = True
    group.exit_signal = 0
    group.rlimits = default_rlimits(nproc=kernel.max_tasks)
    process = NoProcess()
    mm = AddressSpace(process, kernel.platform.min_address(), kernel.platform.max_address())
    mm.is_dead = True  # as a kernel thread's: there is none
    creds = Credentials(0, 0, [], caps)
    creds.cap_bounding = caps
    fs = FsContext(root.fs.root, root.fs.root, 0o022)
    thread = NoThread(process)
    task = Task(kernel, INIT_PID, group, creds, fs, root.mount_ns, FdTable(), mm, thread)
    task.mem = UserMemory(thread, mm)
    task.comm = INIT_NAME
    task.state = "S"
    block_on_time(task, Idle())
    group.tasks.append(task)
    group.leader = task
    session = Session(INIT_PID)
    pgrp = ProcessGroup(INIT_PID, session)
    pgrp.members.append(group)
    session.groups.append(pgrp)
    group.pgrp = pgrp
    kernel.sessions[INIT_PID] = session
    kernel.process_groups[INIT_PID] = pgrp
    kernel.tasks[INIT_PID] = task
    kernel.groups[INIT_PID] = group
    kernel.uncounted_tasks = 1
    kernel.init = group
    return group
