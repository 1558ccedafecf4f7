"""What a program starts with beside its limits: scheduling, I/O priority, personality, memory policy, processors.

They are set as runc sets them, by root of the container with every capability that its user namespace gives, before the
user is changed and the seccomp filter installed (OCI runtime specification, "Process" and "Personality").  Nothing is
told to the host: see `kernel.sched`.
"""

import os

from cloche.abi.errno import EINVAL, LinuxError
from cloche.abi.sched import SCHED_DEADLINE
from cloche.kernel import sched
from cloche.kernel.mempolicy import check_mode, make_policy
from cloche.kernel.scheduling import Attributes, Scheduling
from cloche.kernel.task import Container, Task


class StartAttributes:
    """Those of one program, unchecked."""

    def __init__(
        self,
        scheduler: list[int],
        io_priority: int,
        personality: int,
        memory_policy: list[int],
        processors: list[int],
    ) -> None:
        self.scheduler: list[int] = scheduler  # of `SandboxSpec`, as the next three
        self.io_priority: int = io_priority
        self.personality: int = personality
        self.memory_policy: list[int] = memory_policy
        self.processors: list[int] = processors  # on which it may run; empty: all

    def problem(self, container: Container) -> str:
        """Why a program cannot have them, in runc's words; empty if it can."""
        return self._give(container, Scheduling(container.kernel.cpu_mask))

    def apply(self, task: Task) -> str:
        """Give them to a task that has not begun. Returns why it cannot have them, or nothing."""
        task.personality = self.personality
        return self._give(task.group.container, task.sched)

    def _give(self, container: Container, own: Scheduling) -> str:
        step = "error setting final CPU affinity"
        try:
            if self.processors:
                self._set_processors(container, own)
            step = "error setting scheduler"
            if self.scheduler:
                self._set_scheduler(container, own)
            step = "failed to set io priority"
            if self.io_priority >= 0:
                sched.check_ioprio(container.root_credentials(), self.io_priority)
                own.io_priority = self.io_priority & 0xFFFF
            step = "set_mempolicy"
            if self.memory_policy:
                own.memory_policy = _memory_policy(self.memory_policy)
        except LinuxError as error:
            return f"{step}: {os.strerror(error.errno).lower()}"
        return ""

    def _set_processors(self, container: Container, own: Scheduling) -> None:
        mask = 0
        for number in self.processors:
            mask |= 1 << number
        mask &= container.kernel.cpu_mask
        if mask == 0:
            raise LinuxError(EINVAL)
        own.affinity = mask

    def _set_scheduler(self, container: Container, own: Scheduling) -> None:
        policy, nice, priority, flags, runtime_ns, deadline_ns, period_ns = self.scheduler
        attr = Attributes(policy, min(max(nice, -20), 19), priority, flags)
        attr.runtime_ns, attr.deadline_ns, attr.period_ns = runtime_ns, deadline_ns, period_ns
        attr.keep(own)
        sched.check_attributes(container.root_credentials(), own, attr, sched.Limits(0, 0))
        if attr.policy == SCHED_DEADLINE:
            sched.check_deadline(container.kernel, own, attr)
        sched.give_attributes(own, attr)


def _memory_policy(given: list[int]) -> int:
    """As set_mempolicy(2) makes it of a mode and nodes. Raises LinuxError(EINVAL)."""
    check_mode(given[0])
    nodes = 0
    for number in given[1:]:
        nodes |= 1 << number
    return make_policy(given[0], nodes)
