"""The scheduling attributes of a task: nice value, policy, processors (kernel.sched has the rules)."""


class Scheduling:
    """The attributes of one task. Invariant: `priority` is 0 unless the policy is a real-time one."""

    def __init__(self, cpu_mask: int) -> None:
        self.nice: int = 0
        self.policy: int = 0  # with SCHED_RESET_ON_FORK as a bit
        self.priority: int = 0  # real-time
        self.affinity: int = cpu_mask
        self.io_priority: int = 0
        self.timer_slack_ns: int = 50_000
        self.default_timer_slack_ns: int = 50_000  # the value of the task that made it
        self.mce_kill: int = 2  # PR_MCE_KILL_DEFAULT
        self.memory_policy: int = 0  # of set_mempolicy(2); owned by syscalls.sys_numa

    def copy(self) -> "Scheduling":
        """The settings of a child, without SCHED_RESET_ON_FORK."""
        new = Scheduling(self.affinity)
        new.nice, new.policy, new.priority = self.nice, self.policy, self.priority
        new.io_priority, new.memory_policy, new.mce_kill = self.io_priority, self.memory_policy, self.mce_kill
        new.timer_slack_ns = new.default_timer_slack_ns = self.timer_slack_ns
        return new
