"""Resource limits of processes (getrlimit(2)): defaults, checks, and the immediate effects of a change."""

from typing import Final

from cloche.abi.capability import CAP_IPC_LOCK, CAP_SYS_RESOURCE
from cloche.abi.errno import EINVAL, EPERM, LinuxError
from cloche.abi.resource import (
    RLIM_INFINITY,
    RLIM_NLIMITS,
    RLIMIT_AS,
    RLIMIT_CORE,
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_MEMLOCK,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    RLIMIT_RTPRIO,
    RLIMIT_SIGPENDING,
    RLIMIT_STACK,
)
from cloche.kernel.itimers import rlimit_cpu_changed
from cloche.kernel.loader import grow_stack
from cloche.kernel.task import Task, ThreadGroup

INFINITY: Final = -1  # how ThreadGroup.rlimits spells RLIM_INFINITY
NR_OPEN_LIMIT: Final = 1048576  # /proc/sys/fs/nr_open


def default_rlimits(
    *,
    nofile: tuple[int, int] = (1024, 1048576),
    nproc: int = 4096,
    stack_bytes: int = 8 << 20,
    memlock_bytes: int = 8 << 20,
) -> list[tuple[int, int]]:
    """(soft, hard) by RLIMIT_* as a login has them; -1 is infinity.  `nproc` is the sandbox's task limit."""
    limits: list[tuple[int, int]] = [(INFINITY, INFINITY)] * RLIM_NLIMITS
    limits[RLIMIT_STACK] = (stack_bytes, INFINITY)
    limits[RLIMIT_CORE] = (0, INFINITY)
    limits[RLIMIT_NPROC] = (nproc, nproc)
    limits[RLIMIT_NOFILE] = nofile
    limits[RLIMIT_MEMLOCK] = (memlock_bytes, memlock_bytes)
    limits[RLIMIT_SIGPENDING] = (nproc, nproc)
    limits[RLIMIT_MSGQUEUE] = (819200, 819200)
    limits[RLIMIT_NICE] = (0, 0)
    limits[RLIMIT_RTPRIO] = (0, 0)
    return limits


def from_abi(value: int) -> int:
    """RLIM_INFINITY, or a limit that no size can reach, as -1."""
    return INFINITY if value >= 1 << 63 else value


def to_abi(value: int) -> int:
    """-1 as RLIM_INFINITY."""
    return RLIM_INFINITY if value < 0 else value


def _exceeds(value: int, bound: int) -> bool:
    if bound < 0:
        return False
    return value < 0 or value > bound


def limit_growth(task: Task) -> None:
    """Tell its address space how far an area may grow downwards (acct_stack_growth)."""
    mm, group = task.mm, task.group
    if mm.growing:
        is_free = task.creds.capable(CAP_IPC_LOCK)
        mm.lock_limit = -1 if is_free else group.rlimit(RLIMIT_MEMLOCK)
        mm.stack_limit, mm.total_limit = group.rlimit(RLIMIT_STACK), group.rlimit(RLIMIT_AS)


def set_rlimit(caller: Task, group: ThreadGroup, resource: int, soft: int, hard: int) -> None:
    """setrlimit(2) on a process; values as in ThreadGroup.rlimits.  Raises LinuxError(EINVAL, EPERM)."""
    if _exceeds(soft, hard):
        raise LinuxError(EINVAL)
    if resource == RLIMIT_NOFILE and _exceeds(hard, NR_OPEN_LIMIT):
        raise LinuxError(EPERM)
    if _exceeds(hard, group.rlimits[resource][1]) and not caller.creds.capable(CAP_SYS_RESOURCE):
        raise LinuxError(EPERM)
    group.rlimits[resource] = (soft, hard)
    if resource in (RLIMIT_STACK, RLIMIT_MEMLOCK, RLIMIT_AS) and group.tasks:
        limit_growth(group.tasks[0])
    if resource == RLIMIT_STACK and group is caller.group:
        grow_stack(caller.mm, caller.thread, soft, group.rlimit(RLIMIT_AS))
    if resource == RLIMIT_CPU:
        rlimit_cpu_changed(group)
    if resource == RLIMIT_FSIZE:
        for task in group.tasks:
            task.file_size_limit = soft
