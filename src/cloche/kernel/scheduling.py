"""The scheduling attributes of a task: nice value, policy, processors (kernel.sched has the rules)."""

from typing import Final

from cloche.abi.sched import (
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_FLAG_DL_OVERRUN,
    SCHED_FLAG_KEEP_PARAMS,
    SCHED_FLAG_KEEP_POLICY,
    SCHED_FLAG_RECLAIM,
    SCHED_FLAG_RESET_ON_FORK,
    SCHED_RESET_ON_FORK,
    SCHED_RR,
)

DEADLINE_FLAGS: Final = SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN  # SCHED_DL_FLAGS


class Scheduling:
    """The attributes of one task. Invariants: `priority` is 0 unless the policy is a real-time one, and the times are
    unless it is SCHED_DEADLINE.
    """

    def __init__(self, cpu_mask: int) -> None:
        self.nice: int = 0
        self.policy: int = 0  # with SCHED_RESET_ON_FORK as a bit
        self.priority: int = 0  # real-time
        self.runtime_ns: int = 0  # of SCHED_DEADLINE, as are the next three
        self.deadline_ns: int = 0
        self.period_ns: int = 0
        self.deadline_flags: int = 0  # SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN
        self.affinity: int = cpu_mask
        self.io_priority: int = 0
        self.timer_slack_ns: int = 50_000
        self.default_timer_slack_ns: int = 50_000  # the value of the task that made it
        self.mce_kill: int = 2  # PR_MCE_KILL_DEFAULT
        self.memory_policy: int = 0  # of set_mempolicy(2), as `kernel.mempolicy` has it

    def copy(self) -> "Scheduling":
        """The settings of a child, without SCHED_RESET_ON_FORK. The policy is not SCHED_DEADLINE."""
        new = Scheduling(self.affinity)
        new.nice, new.policy, new.priority = self.nice, self.policy, self.priority
        new.io_priority, new.memory_policy, new.mce_kill = self.io_priority, self.memory_policy, self.mce_kill
        new.timer_slack_ns = new.default_timer_slack_ns = self.timer_slack_ns
        return new


class Attributes:
    """What sched_setattr(2) is given: `struct sched_attr`, without what is for CONFIG_UCLAMP_TASK."""

    def __init__(self, policy: int, nice: int, priority: int, flags: int) -> None:
        self.policy: int = policy
        self.nice: int = nice
        self.priority: int = priority
        self.flags: int = flags  # SCHED_FLAG_*
        self.runtime_ns: int = 0
        self.deadline_ns: int = 0
        self.period_ns: int = 0

    def keep(self, current: Scheduling) -> None:
        """Obey the flags by which a policy, or its parameters, stay as they are."""
        old = current.policy & ~SCHED_RESET_ON_FORK
        if self.flags & SCHED_FLAG_KEEP_POLICY:
            self.policy = old
            self.flags &= ~SCHED_FLAG_RESET_ON_FORK
            if current.policy & SCHED_RESET_ON_FORK:
                self.flags |= SCHED_FLAG_RESET_ON_FORK
        if self.flags & SCHED_FLAG_KEEP_PARAMS:
            self.take(current, old)

    def take(self, current: Scheduling, policy: int) -> None:
        """Take the parameters that a policy has now (get_params)."""
        if policy == SCHED_DEADLINE:
            self.runtime_ns, self.deadline_ns = current.runtime_ns, current.deadline_ns
            self.period_ns = current.period_ns
            self.flags = self.flags & ~DEADLINE_FLAGS | current.deadline_flags
            self.priority = current.priority
        elif policy == SCHED_FIFO or policy == SCHED_RR:
            self.priority = current.priority
        else:
            self.nice = current.nice
