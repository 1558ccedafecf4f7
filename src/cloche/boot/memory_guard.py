"""`--memory`: ends the largest process when a sandbox uses more than it may, as Linux's out-of-memory killer does.

What counts: the guests' private anonymous pages and what their in-memory files hold.  Nobody tells the sentry when a
page is touched, so it looks, the more often the less is left: no process can touch new memory faster than
`_BYTES_PER_S`.  In-memory files are refused growth before it happens (`fs.storage`): each look sets how much they may
have, a little less than what the processes leave.

Needs a procfs that counts processes as the sentry does (`confine.mount_own_proc`); without it, sizes read as 0.
"""

import sys
from typing import Final

from cloche.fs.storage import PAGE, StorageQuota
from cloche.kernel.accounting import group_space
from cloche.kernel.signals import mark_fatal
from cloche.kernel.task import Kernel, ThreadGroup
from cloche.kernel.timers import monotonic_ns

SIGKILL: Final = 9
_BYTES_PER_S: Final = 2 << 30
_MIN_NS: Final = 2_000_000
_MAX_NS: Final = 200_000_000
_RESERVE: Final = 16  # a sixteenth of the limit is never given to files


class MemoryGuard:
    """Looks at the sandbox's memory from time to time."""

    def __init__(self, kernel: Kernel, quota: StorageQuota, limit_bytes: int, *, is_quiet: bool) -> None:
        self.kernel: Kernel = kernel
        self.quota: StorageQuota = quota
        self.limit_bytes: int = limit_bytes
        self.is_quiet: bool = is_quiet

    def start(self) -> None:
        """Arm the first look."""
        self.quota.page_limit = (self.limit_bytes - self.limit_bytes // _RESERVE) // PAGE
        self.kernel.timers.add(monotonic_ns() + _MIN_NS, self.look)

    def look(self) -> None:
        """Measure, act, and arm the next look."""
        files = self.quota.pages * PAGE
        anonymous = 0
        largest: ThreadGroup | None = None
        largest_bytes = -1
        seen: set[int] = set()
        for group in self.kernel.groups.values():
            space = group_space(group)
            if space is None or space.process.ident() in seen:
                continue
            seen.add(space.process.ident())
            size = space.process.anonymous_bytes()
            anonymous += size
            if size > largest_bytes and not group.is_exiting:
                largest, largest_bytes = group, size
        for_files = self.limit_bytes - self.limit_bytes // _RESERVE - anonymous
        self.quota.page_limit = max(for_files // PAGE, 0)
        headroom = self.limit_bytes - anonymous - files
        if headroom < 0 and largest is not None:
            self._end(largest, largest_bytes)
            headroom = 0
        wait_ns = headroom * 1_000_000_000 // _BYTES_PER_S
        self.kernel.timers.add(monotonic_ns() + min(max(wait_ns, _MIN_NS), _MAX_NS), self.look)

    def _end(self, group: ThreadGroup, size: int) -> None:
        if not self.is_quiet and group.fatal_status < 0:
            name = group.tasks[0].comm.decode(errors="replace") if group.tasks else "?"
            text = f"cloche: memory limit reached: killed process {group.tgid} ({name!r}, {size >> 20} MiB)\n"
            sys.stderr.write(text)
            sys.stderr.flush()
        mark_fatal(group, SIGKILL)


def install(kernel: Kernel, quota: StorageQuota, *, is_quiet: bool) -> None:
    """Watch over `kernel.memory_limit`, if there is one."""
    if kernel.memory_limit > 0:
        MemoryGuard(kernel, quota, kernel.memory_limit, is_quiet=is_quiet).start()
