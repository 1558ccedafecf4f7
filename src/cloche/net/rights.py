"""Open files under way in messages (SCM_RIGHTS, unix(7)): who may send them, the limit, and the collection of
cycles (net/unix/garbage.c).

Owns the counts of sockets in flight.  A Unix socket whose only references are messages that wait in the queues
of such sockets can never be received: `collect` finds these and empties their queues.

Files are dropped through `drop_files`, a work list: a socket's release may drop files that are sockets again,
to a depth that the guest chooses.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from cloche.abi.errno import ETOOMANYREFS, LinuxError
from cloche.kernel.parts import FlyingFiles
from cloche.kernel.task import Kernel, Task
from cloche.kernel.timers import COLLECT_SOCKETS, Timer, monotonic_ns
from cloche.vfs.objects import Context, FileDescription

_DELAY_NS: Final = 100_000_000


class Flights(FlyingFiles):
    """All files in flight of a sandbox."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel
        self.sockets: dict[FileDescription, int] = {}  # Unix sockets in flight: how often
        self.by_uid: dict[int, int] = {}  # files in flight by sending user
        self.pending: list[FileDescription] = []  # references to drop
        self.is_draining: bool = False
        self.is_collecting: bool = False
        self.closed: int = 0  # Unix sockets closed since the last collection
        self.timer: Timer | None = None

    def timer_due(self, kind: int, argument: int) -> None:
        self.timer = None
        collect(self.kernel)


def flights(kernel: Kernel) -> Flights:
    """The sandbox's one table."""
    found = kernel.flying_files
    if isinstance(found, Flights):
        return found
    made = Flights(kernel)
    kernel.flying_files = made
    return made


class Carrier(FileDescription):
    """A file whose receive queue can hold files; `net.unix_base` derives from it."""

    def queued_files(self) -> list[FileDescription]:
        """Every file in messages that wait to be received from it, embryonic connections included."""
        return []

    def discard_queue(self) -> None:
        """Drop every message."""


def take_off(kernel: Kernel, ctx: Context, files: list[FileDescription]) -> int:
    """Count files that were put into a message. Returns the uid that they are charged to.

    Raises LinuxError(ETOOMANYREFS) above RLIMIT_NOFILE files of one user.
    """
    table = flights(kernel)
    uid = ctx.creds.uid
    count = table.by_uid.get(uid, 0)
    if isinstance(ctx, Task):
        limit = ctx.nofile_limit()
        creds = ctx.creds
        if count > limit and not creds.capable(CAP_SYS_RESOURCE) and not creds.capable(CAP_SYS_ADMIN):
            raise LinuxError(ETOOMANYREFS)
    if count > 16384:
        raise LinuxError(ETOOMANYREFS)  # a quota of the sentry's own, even for root
    table.by_uid[uid] = count + len(files)
    for file in files:
        if isinstance(file, Carrier):
            table.sockets[file] = table.sockets.get(file, 0) + 1
    return uid


def land(kernel: Kernel, uid: int, files: list[FileDescription]) -> None:
    """Uncount the files of a message that was received, or is about to be dropped."""
    table = flights(kernel)
    left = table.by_uid.get(uid, 0) - len(files)
    if left > 0:
        table.by_uid[uid] = left
    else:
        table.by_uid.pop(uid, None)
    for file in files:
        count = table.sockets.get(file, 0)
        if count > 1:
            table.sockets[file] = count - 1
        elif count == 1:
            del table.sockets[file]


def drop_files(kernel: Kernel, files: list[FileDescription]) -> None:
    """Drop references; may be called from within a release that this caused."""
    table = flights(kernel)
    table.pending += files
    if table.is_draining:
        return
    table.is_draining = True
    try:
        while table.pending:
            table.pending.pop().put()
    finally:
        table.is_draining = False


def socket_closed(kernel: Kernel) -> None:
    """Note that a Unix socket was closed, and collect now and then: a collection looks at all files in flight."""
    table = flights(kernel)
    if not table.sockets:
        return
    table.closed += 1
    if table.closed * 4 >= len(table.sockets):
        collect(kernel)
    elif table.timer is None:
        table.timer = kernel.timers.add(monotonic_ns() + _DELAY_NS, COLLECT_SOCKETS, table)


def collect(kernel: Kernel) -> None:
    """Empty the queues of sockets that only messages in such queues refer to (unix_gc)."""
    table = flights(kernel)
    if not table.sockets or table.is_collecting:
        return
    table.closed = 0
    table.is_collecting = True
    try:
        garbage = _find_garbage(table)
        if garbage:
            for file in garbage:
                file.get()  # keep it while its own queue drops it
            for file in garbage:
                file.discard_queue()
            dropped: list[FileDescription] = []
            dropped += garbage
            drop_files(kernel, dropped)
    finally:
        table.is_collecting = False


def _find_garbage(table: Flights) -> list[Carrier]:
    candidates: dict[FileDescription, int] = {}
    for file, count in table.sockets.items():
        if file.refs == count:
            candidates[file] = count
    if not candidates:
        return []
    # References from the queues of candidates do not count: what is left comes from reachable sockets.
    for file in list(candidates):
        if isinstance(file, Carrier):
            for inner in file.queued_files():
                if inner in candidates:
                    candidates[inner] -= 1
    reachable: list[FileDescription] = [file for file, count in candidates.items() if count > 0]
    while reachable:
        found = reachable.pop()
        if found not in candidates:
            continue
        del candidates[found]
        if isinstance(found, Carrier):
            for inner in found.queued_files():
                if inner in candidates:
                    reachable.append(inner)
    return [file for file in candidates if isinstance(file, Carrier)]
