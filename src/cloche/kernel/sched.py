"""Scheduling attributes of tasks (sched(7), setpriority(2), ioprio_set(2)).

The host's scheduler runs the guests.  What is kept here is validated, permission-checked, inherited and
reported as Linux does, but the host is not told: nice values, policies and affinity are the sandbox's own
bookkeeping. `task.sched.policy` carries SCHED_RESET_ON_FORK as a bit.
Tasks of SCHED_DEADLINE are admitted and shown as on Linux, and scheduled as any other.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_NICE
from cloche.abi.errno import EACCES, EAGAIN, EBUSY, EINVAL, EOPNOTSUPP, EPERM, LinuxError
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
    SCHED_FLAG_ALL,
    SCHED_FLAG_KEEP_PARAMS,
    SCHED_FLAG_RESET_ON_FORK,
    SCHED_FLAG_UTIL_CLAMP,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RESET_ON_FORK,
    SCHED_RR,
)
from cloche.kernel.scheduling import DEADLINE_FLAGS, Attributes, Scheduling
from cloche.kernel.task import Kernel, Task
from cloche.vfs.credentials import Credentials

RT_PRIORITY_MAX: Final = 99
RR_INTERVAL_NS: Final = 100_000_000
_BASE_SLICE_NS: Final = 700_000
_JIFFY_NS: Final = 4_000_000
_LEAST_RUNTIME_NS: Final = 1024  # 1 << DL_SCALE
_LEAST_PERIOD_NS: Final = 100_000  # sched_deadline_period_min_us
_MOST_PERIOD_NS: Final = (1 << 22) * 1000  # sched_deadline_period_max_us
_WHOLE: Final = 1 << 20  # 1 << BW_SHIFT


def fair_slice_ns(cpu_count: int) -> int:
    """The time that a task of a fair policy runs at once (sysctl_sched_base_slice, scaled by the processors)."""
    return _BASE_SLICE_NS * min(cpu_count, 8).bit_length()


def rr_interval_ns(task: Task) -> int:
    """sched_rr_get_interval(2); the slice of a fair policy is less than a jiffy, and so 0, on few processors."""
    policy = policy_of(task)
    if policy == SCHED_RR:
        return RR_INTERVAL_NS
    return (
        0
        if policy in (SCHED_FIFO, SCHED_DEADLINE)
        else fair_slice_ns(task.kernel.cpu_count) // _JIFFY_NS * _JIFFY_NS
    )


def policy_of(task: Task) -> int:
    """The policy without SCHED_RESET_ON_FORK."""
    return task.sched.policy & ~SCHED_RESET_ON_FORK


def is_realtime(policy: int) -> bool:
    return policy == SCHED_FIFO or policy == SCHED_RR


def priority_of(task: Task) -> int:
    """What the kernel sorts tasks by (task_struct.prio): below 0 for SCHED_DEADLINE, below 100 for real-time ones."""
    policy = policy_of(task)
    if policy == SCHED_DEADLINE:
        return -1
    return 99 - task.sched.priority if is_realtime(policy) else 120 + task.sched.nice


def same_owner(creds: Credentials, target: Task) -> bool:
    """check_same_owner: the caller's euid is the target's euid or uid."""
    return creds.euid == target.creds.euid or creds.euid == target.creds.uid


class Limits:
    """A process's limits of what it may ask for without CAP_SYS_NICE; -1: none."""

    def __init__(self, nice: int, realtime: int) -> None:
        self.nice: int = nice  # RLIMIT_NICE
        self.realtime: int = realtime  # RLIMIT_RTPRIO

    def allow_nice(self, nice: int) -> bool:
        """Whether the nice value may fall to this one (is_nice_reduction)."""
        return self.nice < 0 or 20 - nice <= self.nice


def limits_of(task: Task) -> Limits:
    """Those of a task's process."""
    return Limits(task.group.rlimit(RLIMIT_NICE), task.group.rlimit(RLIMIT_RTPRIO))


def can_nice(caller: Task, target: Task, nice: int) -> bool:
    """Whether the target's RLIMIT_NICE or CAP_SYS_NICE lets its nice value fall to `nice`."""
    return limits_of(target).allow_nice(nice) or caller.creds.capable(CAP_SYS_NICE)


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
    """sched_setaffinity(2).  Raises LinuxError(EPERM, EINVAL), EBUSY if SCHED_DEADLINE needs all processors."""
    if not same_owner(caller.creds, target) and not caller.creds.capable_in(
        target.creds.user_ns, CAP_SYS_NICE
    ):
        raise LinuxError(EPERM)
    mask &= caller.kernel.cpu_mask
    if mask == 0:
        raise LinuxError(EINVAL)
    if policy_of(target) == SCHED_DEADLINE and mask != caller.kernel.cpu_mask:
        raise LinuxError(EBUSY)
    target.sched.affinity = mask


def _has_times(attr: Attributes) -> bool:
    """Whether the times are ones that SCHED_DEADLINE may have (__checkparam_dl)."""
    if attr.deadline_ns == 0 or attr.runtime_ns < _LEAST_RUNTIME_NS:
        return False
    if (attr.deadline_ns | attr.period_ns) >> 63:
        return False
    period_ns = attr.period_ns or attr.deadline_ns
    if not attr.runtime_ns <= attr.deadline_ns <= period_ns:
        return False
    return _LEAST_PERIOD_NS <= period_ns <= _MOST_PERIOD_NS


def check_attributes(creds: Credentials, current: Scheduling, attr: Attributes, limits: Limits) -> None:
    """Whether a task with the scheduling `current` may get others from a caller with `creds`, as far as it does not
    matter whose the task is (__sched_setscheduler). `limits` are the task's. Raises LinuxError.
    """
    policy, priority = attr.policy, attr.priority
    if policy not in (SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE):
        raise LinuxError(EINVAL)
    if attr.flags & ~SCHED_FLAG_ALL:
        raise LinuxError(EINVAL)
    if priority > RT_PRIORITY_MAX or priority < 0 or (priority != 0) != is_realtime(policy):
        raise LinuxError(EINVAL)
    if policy == SCHED_DEADLINE and not _has_times(attr):
        raise LinuxError(EINVAL)
    old = current.policy & ~SCHED_RESET_ON_FORK
    if not creds.capable(CAP_SYS_NICE):
        if is_realtime(policy):
            if policy != old and limits.realtime == 0:
                raise LinuxError(EPERM)
            if priority > current.priority and 0 <= limits.realtime < priority:
                raise LinuxError(EPERM)
        elif policy == SCHED_DEADLINE:
            raise LinuxError(EPERM)
        elif policy != SCHED_IDLE and attr.nice < current.nice and not limits.allow_nice(attr.nice):
            raise LinuxError(EPERM)
        if old == SCHED_IDLE and policy != SCHED_IDLE and not limits.allow_nice(current.nice):
            raise LinuxError(EPERM)
        if current.policy & SCHED_RESET_ON_FORK and not attr.flags & SCHED_FLAG_RESET_ON_FORK:
            raise LinuxError(EPERM)
    if attr.flags & SCHED_FLAG_UTIL_CLAMP:
        raise LinuxError(EOPNOTSUPP)  # as without CONFIG_UCLAMP_TASK


def check_deadline(kernel: Kernel, current: Scheduling, attr: Attributes) -> None:
    """Whether there is room for a task of SCHED_DEADLINE (sched_dl_overflow): as on Linux all of them may have 95 % of
    the processors, which they must be allowed to use. Raises LinuxError(EPERM, EBUSY).
    """
    if current.affinity & kernel.cpu_mask != kernel.cpu_mask:
        raise LinuxError(EPERM)
    taken = _share(attr.runtime_ns, attr.period_ns or attr.deadline_ns)
    for group in kernel.groups.values():
        for task in group.tasks:
            other = task.sched
            if other is not current and other.period_ns:
                taken += _share(other.runtime_ns, other.period_ns)
    if taken > kernel.cpu_count * _WHOLE * 95 // 100:
        raise LinuxError(EBUSY)


def _share(runtime_ns: int, period_ns: int) -> int:
    """Which part of a processor that is, of `_WHOLE` (to_ratio)."""
    return runtime_ns * _WHOLE // period_ns


def set_attributes(caller: Task, target: Task, attr: Attributes) -> None:
    """sched_setattr(2), once its flags to keep something have been obeyed (__sched_setscheduler). Raises LinuxError."""
    check_attributes(caller.creds, target.sched, attr, limits_of(target))
    if not same_owner(caller.creds, target) and not caller.creds.capable(CAP_SYS_NICE):
        raise LinuxError(EPERM)
    if attr.policy == SCHED_DEADLINE:
        check_deadline(caller.kernel, target.sched, attr)
    give_attributes(target.sched, attr)


def give_attributes(new: Scheduling, attr: Attributes) -> None:
    """Set attributes that have been checked (__setscheduler_params)."""
    reset = SCHED_RESET_ON_FORK if attr.flags & SCHED_FLAG_RESET_ON_FORK else 0
    if attr.flags & SCHED_FLAG_KEEP_PARAMS:  # and then the policy stays, too
        new.policy = new.policy & ~SCHED_RESET_ON_FORK | reset
        return
    new.policy = attr.policy | reset
    new.priority = attr.priority
    new.runtime_ns = new.deadline_ns = new.period_ns = new.deadline_flags = 0
    if attr.policy == SCHED_DEADLINE:
        new.runtime_ns, new.deadline_ns = attr.runtime_ns, attr.deadline_ns
        new.period_ns = attr.period_ns or attr.deadline_ns
        new.deadline_flags = attr.flags & DEADLINE_FLAGS
    elif attr.policy == SCHED_NORMAL or attr.policy == SCHED_BATCH:
        new.nice = attr.nice


def inherit(parent: Task, child: Task) -> None:
    """Give a clone the parent's settings (sched_fork), or the defaults after SCHED_RESET_ON_FORK.

    Raises LinuxError(EAGAIN) for a parent of SCHED_DEADLINE without that.
    """
    if parent.sched.policy == SCHED_DEADLINE:
        raise LinuxError(EAGAIN)
    child.sched = parent.sched.copy()
    if parent.sched.policy & SCHED_RESET_ON_FORK:
        child.sched.policy = policy_of(parent)
        child.sched.nice = max(parent.sched.nice, 0)
        if is_realtime(child.sched.policy) or child.sched.policy == SCHED_DEADLINE:
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
    target.sched.io_priority = ioprio & 0xFFFF


def effective_ioprio(task: Task) -> int:
    """The I/O priority with the default filled in from the nice value."""
    if (task.sched.io_priority >> IOPRIO_CLASS_SHIFT) & IOPRIO_CLASS_MASK != IOPRIO_CLASS_NONE:
        return task.sched.io_priority
    policy = policy_of(task)
    if policy == SCHED_IDLE:
        kind = IOPRIO_CLASS_IDLE
    elif is_realtime(policy) or policy == SCHED_DEADLINE:
        kind = IOPRIO_CLASS_RT
    else:
        kind = IOPRIO_CLASS_BE
    return kind << IOPRIO_CLASS_SHIFT | (task.sched.nice + 20) // 5


def best_ioprio(first: int, second: int) -> int:
    """The higher of two I/O priorities (ioprio_best)."""
    return min(first, second)
