"""Scheduling attributes of tasks (sched(7), setpriority(2), ioprio_set(2)).

The host's scheduler runs the guests.  What is kept here is validated, permission-checked, inherited and
reported as Linux does, but the host is not told: nice values, policies and affinity are the sandbox's own
bookkeeping. `task.sched.policy` carries SCHED_RESET_ON_FORK as a bit.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_NICE
from cloche.abi.errno import EACCES, EBUSY, EINVAL, EPERM, LinuxError
from cloche.abi.resource import RLIMIT_NICE, RLIMIT_RTPRIO
from cloche.abi.sched import (
    IOPRIO_CLASS_BE,
    IOPRIO_CLASS_IDLE,
    IOPRIO_CLASS_MASK,
    IOPRIO_CLASS_NONE,
    IOPRIO_CLASS_RT,
    IOPRIO_CLASS_SHIFT,
    IOPRIO_LEVEL_MASK,
    IOPRIO_NR_LEVELS,
    SCHED_BATCH,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RESET_ON_FORK,
    SCHED_RR,
)
from cloche.kernel.task import Task
from cloche.vfs.credentials import Credentials

RT_PRIORITY_MAX: Final = 99
RR_INTERVAL_NS: Final = 100_000_000
_BASE_SLICE_NS: Final = 700_000
_JIFFY_NS: Final = 4_000_000


def fair_slice_ns(cpu_count: int) -> int:
    """The time that a task of a fair policy runs at once (sysctl_sched_base_slice, scaled by the processors)."""
    return _BASE_SLICE_NS * min(cpu_count, 8).bit_length()


def rr_interval_ns(task: Task) -> int:
    """sched_rr_get_interval(2); the slice of a fair policy is less than a jiffy, and so 0, on few processors."""
    policy = policy_of(task)
    if policy == SCHED_RR:
        return RR_INTERVAL_NS
    return 0 if policy == SCHED_FIFO else fair_slice_ns(task.kernel.cpu_count) // _JIFFY_NS * _JIFFY_NS


def policy_of(task: Task) -> int:
    """The policy without SCHED_RESET_ON_FORK."""
    return task.sched.policy & ~SCHED_RESET_ON_FORK


def is_realtime(policy: int) -> bool:
    return policy == SCHED_FIFO or policy == SCHED_RR


def same_owner(creds: Credentials, target: Task) -> bool:
    """check_same_owner: the caller's euid is the target's euid or uid."""
    return creds.euid == target.creds.euid or creds.euid == target.creds.uid


def can_nice(caller: Task, target: Task, nice: int) -> bool:
    """Whether the target's RLIMIT_NICE or CAP_SYS_NICE lets its nice value fall to `nice`."""
    limit = target.group.rlimit(RLIMIT_NICE)
    return limit < 0 or 20 - nice <= limit or caller.creds.capable(CAP_SYS_NICE)


def set_nice(caller: Task, target: Task, nice: int) -> None:
    """setpriority(2) for one task.  Raises LinuxError(EPERM, EACCES)."""
    creds = caller.creds
    if not (
        target.creds.uid == creds.euid
        or target.creds.euid == creds.euid
        or creds.capable_in(target.creds.user_ns, CAP_SYS_NICE)
    ):
        raise LinuxError(EPERM)
    if nice < target.sched.nice and not can_nice(caller, target, nice):
        raise LinuxError(EACCES)
    target.sched.nice = nice


def set_affinity(caller: Task, target: Task, mask: int) -> None:
    """sched_setaffinity(2).  Raises LinuxError(EPERM, EINVAL)."""
    if not same_owner(caller.creds, target) and not caller.creds.capable_in(
        target.creds.user_ns, CAP_SYS_NICE
    ):
        raise LinuxError(EPERM)
    mask &= caller.kernel.cpu_mask
    if mask == 0:
        raise LinuxError(EINVAL)
    target.sched.affinity = mask


def set_scheduler(
    caller: Task, target: Task, policy: int, priority: int, nice: int, *, reset_on_fork: bool
) -> None:
    """Policy, real-time priority and nice value at once (__sched_setscheduler).  Raises LinuxError."""
    if policy not in (SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE):
        raise LinuxError(EINVAL)
    if priority > RT_PRIORITY_MAX or priority < 0 or (priority != 0) != is_realtime(policy):
        raise LinuxError(EINVAL)
    old = policy_of(target)
    if not caller.creds.capable(CAP_SYS_NICE):
        if is_realtime(policy):
            limit = target.group.rlimit(RLIMIT_RTPRIO)
            if policy != old and limit == 0:
                raise LinuxError(EPERM)
            if priority > target.sched.priority and 0 <= limit < priority:
                raise LinuxError(EPERM)
        elif policy == SCHED_DEADLINE:
            raise LinuxError(EPERM)
        elif nice < target.sched.nice and not can_nice(caller, target, nice):
            raise LinuxError(EPERM)
        if old == SCHED_IDLE and policy != SCHED_IDLE and not can_nice(caller, target, target.sched.nice):
            raise LinuxError(EPERM)
        if not same_owner(caller.creds, target):
            raise LinuxError(EPERM)
        if target.sched.policy & SCHED_RESET_ON_FORK and not reset_on_fork:
            raise LinuxError(EPERM)
    if policy == SCHED_DEADLINE:
        raise LinuxError(EBUSY)  # no bandwidth to admit it
    target.sched.policy = policy | (SCHED_RESET_ON_FORK if reset_on_fork else 0)
    target.sched.priority = priority
    if not is_realtime(policy):
        target.sched.nice = nice


def inherit(parent: Task, child: Task) -> None:
    """Give a clone the parent's settings (sched_fork), or the defaults after SCHED_RESET_ON_FORK."""
    child.sched = parent.sched.copy()
    if parent.sched.policy & SCHED_RESET_ON_FORK:
        child.sched.policy = policy_of(parent)
        child.sched.nice = max(parent.sched.nice, 0)
        if is_realtime(child.sched.policy):
            child.sched.policy = SCHED_NORMAL
            child.sched.priority = 0
            child.sched.nice = 0


def check_ioprio(creds: Credentials, ioprio: int) -> None:
    """Validate an I/O priority (ioprio_check_cap).  Raises LinuxError(EINVAL, EPERM)."""
    kind = (ioprio >> IOPRIO_CLASS_SHIFT) & IOPRIO_CLASS_MASK
    level = ioprio & IOPRIO_LEVEL_MASK
    if kind == IOPRIO_CLASS_RT:
        if not creds.capable(CAP_SYS_ADMIN) and not creds.capable(CAP_SYS_NICE):
            raise LinuxError(EPERM)
    elif kind == IOPRIO_CLASS_NONE:
        if level:
            raise LinuxError(EINVAL)
    elif kind != IOPRIO_CLASS_BE and kind != IOPRIO_CLASS_IDLE:
        raise LinuxError(EINVAL)
    if level >= IOPRIO_NR_LEVELS:
        raise LinuxError(EINVAL)


def set_ioprio(caller: Task, target: Task, ioprio: int) -> None:
    """ioprio_set(2) for one task.  Raises LinuxError(EPERM)."""
    creds = caller.creds
    if target.creds.uid not in (creds.euid, creds.uid) and not creds.capable_in(
        target.creds.user_ns, CAP_SYS_NICE
    ):
        raise LinuxError(EPERM)
    target.sched.io_priority = ioprio


def effective_ioprio(task: Task) -> int:
    """The I/O priority with the default filled in from the nice value."""
    if (task.sched.io_priority >> IOPRIO_CLASS_SHIFT) & IOPRIO_CLASS_MASK != IOPRIO_CLASS_NONE:
        return task.sched.io_priority
    policy = policy_of(task)
    if policy == SCHED_IDLE:
        kind = IOPRIO_CLASS_IDLE
    elif is_realtime(policy):
        kind = IOPRIO_CLASS_RT
    else:
        kind = IOPRIO_CLASS_BE
    return kind << IOPRIO_CLASS_SHIFT | (task.sched.nice + 20) // 5


def best_ioprio(first: int, second: int) -> int:
    """The higher of two I/O priorities (ioprio_best)."""
    return min(first, second)
