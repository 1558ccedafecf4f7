"""The consumption of guests: CPU time, memory, load.

Read by getrusage, times, sysinfo, wait4 and /proc.  Where the platform cannot tell a thread's CPU time, it is an
equal share of its process's.
"""

from math import exp
from typing import Final

from cloche.kernel.parts import LateNews
from cloche.kernel.phase import GUEST, STOPPED, TRACED
from cloche.kernel.task import Container, Kernel, Task, ThreadGroup
from cloche.kernel.timers import monotonic_ns
from cloche.kernel.usage import Usage
from cloche.mm.address_space import AddressSpace
from cloche.platform.interface import Event

PAGE: Final = 4096


def space_of(task: Task) -> AddressSpace | None:
    """The task's address space, None once it has exited (Linux: task->mm is NULL)."""
    return None if task.is_exited or task.mm.is_dead else task.mm


def group_space(group: ThreadGroup) -> AddressSpace | None:
    """The address space of a living process."""
    for task in group.tasks:
        space = space_of(task)
        if space is not None:
            return space
    return None


def group_cpu_ns(group: ThreadGroup) -> tuple[int, int]:
    """User and system CPU time of a process, its dead threads and address spaces included."""
    user, system = group.spent.user_ns, group.spent.system_ns
    space = group_space(group)
    if space is not None and not _is_borrowed(group):
        more_user, more_system = space.process.cpu_times_ns()
        user += more_user
        system += more_system
    return user, system


def _is_borrowed(group: ThreadGroup) -> bool:
    """Whether the process runs in its vfork parent's address space (whose time is the parent's)."""
    return bool(group.tasks) and group.tasks[0].borrows_thread()


def task_cpu_ns(task: Task) -> tuple[int, int]:
    """User and system CPU time of a thread."""
    group = task.group
    if space_of(task) is not None and not _is_borrowed(group):
        user, system = task.thread.cpu_times_ns()
        if user >= 0:
            # CPU time from before execve belongs to the leader, whose thread called it.
            return (
                (user + group.spent.user_ns, system + group.spent.system_ns)
                if task.is_leader()
                else (user, system)
            )
    user, system = group_cpu_ns(group)
    count = len(group.tasks)
    return (user, system) if count <= 1 else (user // count, system // count)


def _shown_kib(space: AddressSpace, peak_bytes: int) -> int:
    """A maximal size as guests see it: not more than was mapped, since the host's includes the stub."""
    return min(peak_bytes, max(space.peak_total_bytes, space.total_bytes)) // 1024


def space_peak_kib(space: AddressSpace) -> int:
    """The maximal resident size of an address space."""
    return _shown_kib(space, space.process.peak_bytes())


def space_usage(space: AddressSpace) -> Usage:
    """The host's figures for an address space and its threads."""
    peak, minor, major, preemptions = space.process.usage()
    usage = Usage()
    usage.maxrss_kib = _shown_kib(space, peak)
    usage.minor_faults, usage.major_faults, usage.preemptions = minor, major, preemptions
    return usage


def group_usage(group: ThreadGroup) -> Usage:
    """The usage of a process, its dead threads and address spaces included."""
    total = Usage()
    total.add(group.spent.usage)
    space = group_space(group)
    if space is not None:
        if _is_borrowed(group):
            total.maxrss_kib = max(total.maxrss_kib, space_peak_kib(space))
        else:
            total.add(space_usage(space))
    for task in group.tasks:
        total.waits += task.waits
    return total


def task_usage(task: Task) -> Usage:
    """The usage of a thread; memory is that of its process. A reused host thread includes what it did for an earlier
    thread.
    """
    group = task.group
    usage = group_usage(group)
    if len(group.tasks) > 1:
        usage.minor_faults, usage.major_faults, usage.preemptions = task.thread.usage()
    usage.waits = task.waits
    return usage


def space_rss_bytes(space: AddressSpace | None) -> int:
    """Resident bytes of an address space, never more than it has mapped."""
    if space is None:
        return 0
    return min(space.process.rss_bytes(), space.total_bytes) & ~(PAGE - 1)


def guest_rss_bytes(container: Container) -> int:
    """Resident bytes of a container's guests; shared pages count once per address space."""
    seen: set[int] = set()
    total = 0
    for group in container.kernel.groups.values():
        space = group_space(group) if group.container is container else None
        if space is not None and space.process.ident() not in seen:
            seen.add(space.process.ident())
            total += space_rss_bytes(space)
    return total


class MemoryFigures:
    """Bytes of a container's memory, as meminfo and sysinfo show them."""

    def __init__(self, container: Container) -> None:
        facts = container.kernel.facts
        self.used: int = guest_rss_bytes(container)
        if container.memory_limit > 0:
            limit = container.memory_limit
            self.total: int = min(limit, facts.memory_total) if facts.memory_total else limit
            self.free: int = max(self.total - self.used, 0)
        else:
            self.total = facts.memory_total if facts.memory_total else 1 << 30
            free = facts.memory_available if facts.memory_available else self.total
            self.free = max(min(free, self.total) - self.used, 0)


def all_cpu_ns(container: Container) -> tuple[int, int]:
    """User and system CPU time of everything that has run in the container and is accounted for."""
    user = system = 0
    for group in container.kernel.groups.values():
        if group.container is not container:
            continue
        own_user, own_system = group_cpu_ns(group)
        user += own_user + group.spent.children_user_ns
        system += own_system + group.spent.children_system_ns
    return user, system


def uptime_ns(kernel: Kernel) -> int:
    """Time since the sandbox's boot (CLOCK_BOOTTIME as /proc/uptime shows it)."""
    return max(monotonic_ns() - kernel.boot_mono_ns, 0)


def task_state(task: Task) -> str:
    """The state letter of /proc/PID/stat."""
    if task.is_exited:
        return "Z"
    op = task.blocked
    phase = op.phase() if op is not None else GUEST
    if phase == TRACED:
        return "t"
    if phase == STOPPED or (task.group.job.is_stopped and task.tracee is None):
        return "T"
    return op.letter() if op is not None else "R"


def running_count(kernel: Kernel) -> int:
    """Tasks that run or could."""
    count = 0
    for task in kernel.tasks.values():
        if task_state(task) == "R":
            count += 1
    return count


def load_average(kernel: Kernel, caller: Task | None) -> list[float]:
    """Decayed numbers of running tasks over 1, 5 and 15 minutes.

    Sampled when they are read (without the caller itself): a timer would keep an idle sandbox awake.
    """
    facts = kernel.facts
    now = monotonic_ns()
    active = float(running_count(kernel) - (1 if caller is not None else 0))
    if facts.load_at_ns == 0:
        facts.load_at_ns = kernel.boot_mono_ns
    seconds = max(now - facts.load_at_ns, 0) / 1e9
    facts.load_at_ns = now
    for index, period in enumerate((60.0, 300.0, 900.0)):
        keep = exp(-seconds / period)
        facts.loads[index] = facts.loads[index] * keep + max(active, 0.0) * (1.0 - keep)
    return list(facts.loads)


class LateUsage(LateNews):
    """Takes the usage of a killed process from the host's report of its death.

    Reading it from /proc beforehand would take a tenth of the time of a fork, mostly for figures that are never asked
    for.
    """

    def __init__(self, group: ThreadGroup, mm: AddressSpace) -> None:
        self.group: ThreadGroup = group
        # The host's size includes the stub.
        self.limit_kib: int = max(mm.peak_total_bytes, mm.total_bytes) // 1024

    def arrived(self, event: Event) -> None:
        usage = Usage()
        usage.maxrss_kib = min(event[4], self.limit_kib)
        usage.minor_faults, usage.major_faults, usage.preemptions = event[5], event[6], event[7]
        group = self.group
        group.spent.usage.add(usage)
        while group.end.is_reaped and not group.end.is_unaccounted and group.parent is not None:
            group = group.parent
            group.spent.children_usage.add(usage)
