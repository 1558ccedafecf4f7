"""Limits of memory without cgroups: looks at what the sandbox uses, and ends the largest process when it is too much.

What counts: the guests' anonymous pages and page tables, what they have written into the platform's regions, shared
anonymous memory, in-memory files (mapped ones too, which guests fill without a system call), and the kernel objects
that the sentry keeps for them. The sentry does not notice when a page is touched, so it measures, the more often the
less is left: no process can touch new memory faster than `_BYTES_PER_S`. Files and kernel objects are refused growth
before it happens (`fs.storage`, `mm.quota`); this is for the rest. The sentry itself is never ended.

Without `--memory` only in-memory files and shared memory have a limit, that of the storage quota.

Needs a procfs that counts processes as the sentry does (`confine.mount_own_proc`); without it, sizes read as 0.
"""

import os
import resource
import sys
from itertools import islice
from typing import Final

from cloche.abi.signal import SIGKILL
from cloche.fs.quota import PAGE, StorageQuota
from cloche.kernel.accounting import group_space
from cloche.kernel.oom_score import OOM_SCORE_MAX
from cloche.kernel.signals import kill_at_once
from cloche.kernel.task import Container, Kernel, ThreadGroup
from cloche.kernel.timers import MEMORY_GUARD, TimerOwner, monotonic_ns
from cloche.mm.quota import DEFAULT_LIMIT, KERNEL_MEMORY
from cloche.vfs.forgetting import LEAST_BYTES, MAX_BYTES, NAMES
from cloche.vfs.mapping import SHARED_MEMORY

_BYTES_PER_S: Final = 8 << 30  # page tables without pages are the fastest
_MIN_NS: Final = 2_000_000
_MAX_NS: Final = 200_000_000
_SHARE: Final = 10  # measuring may take one part in so many of the time
_UNLIMITED_NS: Final = 500_000_000
_PATIENCE_NS: Final = 1_000_000_000  # how long a process that was told to end is waited for
_SMALL: Final = 8  # a process that uses less than one part in so many of the limit
_LITTLE: Final = 4  # the excess that is tolerated while processes end: one part in so many of the limit
_MEASURED: Final = 1024  # mapped files that are measured at a time
_FORGOTTEN: Final = 1024  # names at a time, about a millisecond
_NAMES_SHARE: Final = 8  # the cache of names gets one part in so many of the limit
_LEAST_KERNEL_MEMORY: Final = 16 << 20
_SENTRY_SPARE: Final = 32 << 20  # caches, the interpreter's arenas, freed memory that the allocator keeps
_DATA_SPARE: Final = 256 << 20


class Candidate:
    """A process that may be ended."""

    def __init__(self, group: ThreadGroup, size: int, badness: int) -> None:
        self.group: ThreadGroup = group
        self.size: int = size
        self.badness: int = badness


class MemoryGuard(TimerOwner):
    """Looks at the sandbox's memory from time to time."""

    def __init__(
        self, container: Container, quota: StorageQuota, limit_bytes: int, *, is_quiet: bool
    ) -> None:
        self.container: Container = container
        self.kernel: Kernel = container.kernel
        self.quota: StorageQuota = quota
        self.storage_pages: int = quota.page_limit
        self.limit_bytes: int = limit_bytes
        self.is_quiet: bool = is_quiet
        # the sentry's memory before the first guest
        self.idle_bytes: int = self.kernel.platform.own_bytes()
        self.next_measured: int = 0  # in the order of quota.backed
        self.ended_at_ns: int = 0
        self.last: ThreadGroup | None = None  # that was ended
        self.last_bytes: int = 0  # how much memory it had
        self.worst: Candidate | None = None
        self.is_somebody_ending: bool = False
        self.over_since_ns: int = 0

    def start(self) -> None:
        """Arm the first look."""
        self.kernel.timers.add(monotonic_ns() + _MIN_NS, MEMORY_GUARD, self)

    def timer_due(self, kind: int, argument: int) -> None:
        self.look()

    def look(self) -> None:
        """Measure, act, and arm the next look, unless the container is gone."""
        if self.kernel.containers.get(self.container.ident) is not self.container:
            return
        began = monotonic_ns()
        self.limit_bytes = self.container.memory_limit  # may have changed (`update`)
        self._measure_files()
        files = self.quota.pages * PAGE + SHARED_MEMORY.used_bytes(self.container.ident)
        if self.limit_bytes > 0:
            wait_ns = self._keep_limit(files)
        else:
            wait_ns = _UNLIMITED_NS
            if self._is_keeper() and self._unaccounted() > KERNEL_MEMORY.limit:
                self._measure_processes(files, is_shared_only=False, is_everybody=True)
                self._end_worst()
                wait_ns = _MAX_NS
            elif 0 <= self.storage_pages * PAGE < files:
                self._measure_processes(files, is_shared_only=True)
                self._end_worst()
                wait_ns = _MAX_NS
        now = monotonic_ns()
        # After a process was told to end, look again soon; until its memory is back, files may not grow.
        is_awaited = self.ended_at_ns > 0 and now - self.ended_at_ns < _PATIENCE_NS
        wait_ns = _MIN_NS if is_awaited else max(wait_ns, (now - began) * _SHARE)
        wait_ns = max(wait_ns, now - began)
        self.kernel.timers.add(now + wait_ns, MEMORY_GUARD, self)

    def _is_keeper(self) -> bool:
        """Whether this guard also counts the sentry's own memory. In a pod only that of the first container does."""
        return self.container.family[0] == 0

    def _unaccounted(self) -> int:
        """Memory of the sentry that guests have caused and were not charged for.

        A low estimate: small files are in the sentry's memory, and large ones are not.
        """
        grown = self.kernel.platform.own_bytes() - self.idle_bytes
        counted = KERNEL_MEMORY.used + self.quota.pages * PAGE
        # What the cache of names has taken stays with the allocator when they are forgotten.
        return max(grown - counted - NAMES.peak_bytes - _SENTRY_SPARE, 0)

    def _keep_limit(self, files: int) -> int:
        """Compare with --memory and act. Returns when to look again, in nanoseconds."""
        own = self._measure_processes(self.limit_bytes, is_shared_only=False)
        if self._is_keeper():
            own += KERNEL_MEMORY.used + self._unaccounted()
        headroom = self.limit_bytes - own - files
        if self._is_keeper() and headroom < NAMES.used_bytes():
            # names that can be looked up again make room; they are not counted, for they have a bound of their own
            NAMES.shrink(max(headroom, 0), _FORGOTTEN)
        if headroom >= 0:
            self.over_since_ns = 0
        elif not self._goes_away_by_itself(-headroom):
            self._end_worst()
        # Files may not fill the last part of the limit: writing to one must not get a process killed.
        spare = self.limit_bytes >> 5
        free = max((headroom + self._awaited_bytes() - spare) // PAGE, 0)
        self.quota.page_limit = min(self.quota.pages + free, self.storage_pages)
        headroom = max(headroom, 0)
        return min(max(headroom * 1_000_000_000 // _BYTES_PER_S, _MIN_NS), _MAX_NS)

    def _awaited_bytes(self) -> int:
        """Bytes that a process which was told to end will give back. Its parent, when it learns of the end, may write
        files at once.
        """
        last = self.last
        if last is None or group_space(last) is None or monotonic_ns() - self.ended_at_ns >= _PATIENCE_NS:
            return 0
        return self.last_bytes

    def _goes_away_by_itself(self, excess: int) -> bool:
        """Whether the excess is memory of a process that is ending already (the host may have killed it), or of its
        files. Then ending a small process besides would be for nothing. False once that has lasted too long, or where
        the excess is too large.
        """
        now = monotonic_ns()
        if not self.over_since_ns:
            self.over_since_ns = now
        worst = self.worst
        return (
            (self.is_somebody_ending or len(self.quota.reaper.doomed) > 0)
            and (worst is None or worst.size < self.limit_bytes // _SMALL)
            and excess < self.limit_bytes // _LITTLE
            and now - self.over_since_ns < _PATIENCE_NS
        )

    def _measure_files(self) -> None:
        """Count pages of mapped files, some at each look."""
        backed = self.quota.backed
        if self.next_measured >= len(backed):
            self.next_measured = 0
        batch = list(islice(backed, self.next_measured, self.next_measured + _MEASURED))
        self.next_measured += _MEASURED
        for storage in batch:
            if storage.is_mapped:
                storage.measure()

    def _measure_processes(self, total: int, *, is_shared_only: bool, is_everybody: bool = False) -> int:
        """What the processes (of every container, if `is_everybody`) use alone.

        Sets `worst`: size, and oom_score_adj in thousandths of `total`.
        """
        used = 0
        seen: set[int] = set()
        self.worst = None
        self.is_somebody_ending = False
        for group in self.kernel.groups.values():
            is_ours = is_everybody or group.container is self.container
            space = group_space(group) if is_ours else None
            if space is None or space.process.ident() in seen:
                continue
            seen.add(space.process.ident())
            own, resident = space.process.footprint_bytes()
            used += own
            if group.end.is_begun:
                self.is_somebody_ending = True
            if group.end.is_begun or group.oom_score.adjustment <= -OOM_SCORE_MAX:
                continue
            size = resident - own if is_shared_only else resident
            badness = size + group.oom_score.adjustment * total // OOM_SCORE_MAX
            if self.worst is None or badness > self.worst.badness:
                self.worst = Candidate(group, resident, badness)
        return used

    def _end_worst(self) -> None:
        now = monotonic_ns()
        worst = self.worst
        if worst is None:
            return
        last = self.last
        if last is not None and group_space(last) is not None and now - self.ended_at_ns < _PATIENCE_NS:
            return  # it is ending already
        group = worst.group
        self.ended_at_ns = now
        self.last = group
        self.last_bytes = worst.size
        if group.end.fatal_status < 0:
            self.container.oom_kills += 1
            if not self.is_quiet:
                name = group.tasks[0].comm.decode(errors="replace") if group.tasks else "?"
                size = worst.size >> 20
                sys.stderr.write(
                    f"cloche: memory limit reached: killed process {group.own_tgid} ({name!r}, {size} MiB)\n"
                )
                sys.stderr.flush()
        # Else its parent could need memory that the host has not back yet, and be ended by the host for it.
        group.end.awaits_host = True
        kill_at_once(group)


class HostKills:
    """Notices that the host's kernel has ended a guest that was over the limit of its control group."""

    def __init__(self, container: Container, fd: int, *, is_quiet: bool) -> None:
        self.container: Container = container
        self.fd: int = fd
        self.is_quiet: bool = is_quiet
        self.seen: int = self._count()
        container.kernel.hooks.at_group_exit[f"memory of {container.ident}"] = self.group_exits

    def _count(self) -> int:
        """`oom_kill` of memory.events (version 2) or memory.oom_control (version 1)."""
        try:
            for line in os.pread(self.fd, 4096, 0).splitlines():
                words = line.split()
                if len(words) == 2 and words[0] == b"oom_kill" and words[1].isdigit():
                    return int(words[1])
        except OSError:
            pass
        return 0

    def group_exits(self, group: ThreadGroup) -> None:
        """A process has ended: count and report it if the host has killed it for want of memory."""
        if group.container is not self.container or group.end.status & 0x7F != SIGKILL:
            return
        count = self._count() - self.container.told_kills
        if count > self.seen:
            self.seen = count
            if group.end.fatal_status >= 0:
                return  # it was to end anyway
            self.container.oom_kills += 1
            self.container.host_kills += 1
            if not self.is_quiet:
                name = group.leader.comm.decode(errors="replace") if group.leader is not None else "?"
                sys.stderr.write(
                    f"cloche: memory limit reached: the host killed process {group.own_tgid} ({name!r})\n"
                )
                sys.stderr.flush()


def kernel_limit(memory_limit: int, host_bytes: int) -> int:
    """How much the kernel objects of a sandbox may take together."""
    limit = DEFAULT_LIMIT if host_bytes <= 0 else min(DEFAULT_LIMIT, host_bytes // 8)
    if memory_limit > 0:
        limit = min(limit, memory_limit // 2)
    return max(limit, _LEAST_KERNEL_MEMORY)


def names_limit(memory_limits: list[int], host_bytes: int) -> int:
    """How much the cached names of lower layers may take, for containers with these limits of memory (0 or less: no
    limit).
    """
    limit = MAX_BYTES if host_bytes <= 0 else min(MAX_BYTES, host_bytes // 16)
    if memory_limits and min(memory_limits) > 0:
        limit = min(limit, sum(memory_limits) // _NAMES_SHARE)
    return max(limit, LEAST_BYTES)


def share_kernel_memory(kernel: Kernel) -> None:
    """Limit the kernel objects of all containers together, to the sum of the limits of those that have joined
    (without any, of all).
    """
    host_bytes = kernel.facts.memory_total
    joined = [each for each in kernel.containers.values() if each.family[0]]
    limit = 0
    for each in joined or list(kernel.containers.values()):
        limit += kernel_limit(each.memory_limit, host_bytes)
    KERNEL_MEMORY.limit = min(limit, kernel_limit(-1, host_bytes))
    limits = [each.memory_limit for each in joined or list(kernel.containers.values())]
    if not NAMES.is_set:
        NAMES.limit_bytes = names_limit(limits, host_bytes)


def bound_sentry(data_bytes: int, memory_limit: int, storage_bytes: int, host_bytes: int) -> None:
    """A last line of defence against memory that no account counts. This process gets no more private memory than all
    accounts together allow, and a reserve. Guests are not affected: they are forked from the zygote, which exists
    already. Handlers fail with ENOMEM. `data_bytes` is what it has now, 0 if that is not known.
    """
    limit = data_bytes + 2 * kernel_limit(memory_limit, host_bytes) + storage_bytes + _DATA_SPARE
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def install(container: Container, quota: StorageQuota, *, oom_fd: int = -1, is_quiet: bool) -> None:
    """Enforce the container's limit of memory and its storage quota, and set the limit of its kernel objects."""
    share_kernel_memory(container.kernel)
    MemoryGuard(container, quota, container.memory_limit, is_quiet=is_quiet).start()
    if oom_fd >= 0:
        HostKills(container, oom_fd, is_quiet=is_quiet)
