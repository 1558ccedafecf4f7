"""epoll(7): interest lists, ready lists and waits (fs/eventpoll.c).

Owns `EpollFile` and its items. An item is on the wait queue of the file it watches; a wake-up puts it on the ready
list. A wait asks only the files on that list, so its cost depends on how many are ready, not on how many are watched.
Notification is a hint: an event is reported only if the file's `poll` still shows it.

No instance holds up the loop (I8): a wait asks `LOOKS` files at a time; a file has at most `MAX_WATCHERS`, because it
notifies all of them; and a new edge between two instances is refused if checking it would take more than
`_PATH_STEPS`.
"""

from collections import OrderedDict
from collections.abc import Generator
from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN
from cloche.abi.errno import EEXIST, EINVAL, ELOOP, ENOENT, ENOSPC, EPERM, LinuxError
from cloche.abi.poll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLONESHOT,
    EPOLLWAKEUP,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
)
from cloche.abi.structs import EPOLL_EVENT
from cloche.fs.anon import AnonFile
from cloche.kernel.chores import Chore
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import KERNEL_MEMORY, RECORD_BYTES
from cloche.vfs.objects import CloseListener, Context, FileDescription
from cloche.vfs.waitqueue import Waiter, WaitQueue

MAX_NESTS: Final = 4
PATH_LIMITS: Final = (
    1000,
    500,
    100,
    50,
    10,
)  # paths of a file upward, by their length; the first is not enforced
MAX_ITEMS: Final = 262144  # of one epoll: a limit of the sentry's own
MAX_WATCHERS: Final = 4096  # of one open file, which notifies all of them: a limit of the sentry's own
LOOKS: Final = 2048  # files that are asked in one slice
_PATH_STEPS: Final = 1 << 16  # of 50 ns
_CHECK_STEPS: Final = 8  # of a file that several watch
_SHOWN: Final = 64  # lines of fdinfo that are made at once
_PRIVATE: Final = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
_EXCLUSIVE_OK: Final = 0x1 | 0x4 | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
_READY: Final = POLLIN | POLLRDNORM


_EPIOCSPARAMS: Final = 0x40088A01
_FAREWELLS: Final = 128  # items that leave in one step
_EPIOCGPARAMS: Final = 0x80088A02
_PARAMS: Final = Struct("<IHBB")  # busy_poll_usecs busy_poll_budget prefer_busy_poll padding
_NAPI_WEIGHT: Final = 64


class EpollItem(Waiter):
    """One watched (descriptor, file)."""

    def __init__(
        self, epoll: "EpollFile", fd: int, file: FileDescription, queue: WaitQueue, events: int, data: int
    ) -> None:
        self.epoll: EpollFile = epoll
        self.fd: int = fd
        self.file: FileDescription = file
        self.queue: WaitQueue = queue
        self.events: int = events  # with the private bits; only those remain when EPOLLONESHOT has fired
        self.data: int = data
        self.is_ready: bool = False  # on the ready list

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        if self.events & ~_PRIVATE == 0:
            return False
        epoll = self.epoll
        if not self.is_ready:
            self.is_ready = True
            epoll.ready[self] = None
        is_waited = not epoll.waiters.is_empty()
        epoll.wake()
        return is_waited

    def register(self) -> None:
        """Wait on the file's queue for the current events."""
        events = self.events
        mask = events & ~_PRIVATE
        if mask & POLLRDNORM:
            mask |= POLLIN
        if mask & POLLWRNORM:
            mask |= POLLOUT
        self.queue.add(self, mask, is_exclusive=events & EPOLLEXCLUSIVE != 0)


class ItemCloser(CloseListener):
    """Removes its item when the watched file is closed for the last time."""

    def __init__(self, item: EpollItem) -> None:
        self.item: EpollItem = item

    def file_closed(self, file: FileDescription) -> None:
        self.item.epoll.forget(self.item)


def unlist(item: EpollItem) -> None:
    """Take an item off the list of its file."""
    listeners = item.file.epoll_items
    if listeners is None:
        return
    # A closed instance removes the newest first
    for index in range(len(listeners) - 1, -1, -1):
        listener = listeners[index]
        if isinstance(listener, ItemCloser) and listener.item is item:
            del listeners[index]
            return


class Farewell(Chore):
    """Removes the items of a closed instance from their queues, some at a time (I8).

    Until then a file that is closed still removes its own from `items`.
    """

    def __init__(self, items: "dict[tuple[int, FileDescription], EpollItem]") -> None:
        self.items: dict[tuple[int, FileDescription], EpollItem] = items

    def step(self) -> bool:
        items = self.items
        for _number in range(_FAREWELLS):
            if not items:
                return False
            _key, item = items.popitem()
            unlist(item)
            item.queue.remove(item)
            item.epoll.ready.pop(item, None)
            KERNEL_MEMORY.give(RECORD_BYTES)
        return bool(items)


class EpollFile(AnonFile):
    """An epoll instance."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, b"[eventpoll]")
        self.items: dict[tuple[int, FileDescription], EpollItem] = {}
        self.nested: dict[EpollItem, None] = {}  # those of other instances
        self.ready: OrderedDict[EpollItem, None] = OrderedDict()  # items may be removed at any time
        self.waiters: WaitQueue = WaitQueue()  # tasks in epoll_wait, exclusive
        self.queue: WaitQueue = WaitQueue()  # waiters of poll(2) on the epoll itself
        self.busy_us: int = 0  # of EPIOCSPARAMS
        self.busy_budget: int = 0
        self.prefers_busy: int = 0

    def wake(self) -> None:
        """Something may be ready."""
        self.waiters.wake(_READY)
        self.queue.wake(_READY)

    # -- FileDescription -------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        ready = self.ready
        looks = LOOKS
        while ready:
            item = next(iter(ready))
            if looks == 0 or item.file.poll(ctx) & item.events & ~_PRIVATE:
                return _READY  # (or perhaps not: a wait on this epoll finds out)
            del ready[item]
            item.is_ready = False
            looks -= 1
        return 0

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def release(self) -> None:
        self.nested = {}
        farewell = Farewell(self.items)
        if farewell.step():
            self.kernel.chores.append(farewell)

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        """EPIOCSPARAMS and EPIOCGPARAMS (ioctl_eventpoll(2)): stored, without effect."""
        if not isinstance(ctx, Task):
            return -EINVAL
        if command == _EPIOCGPARAMS:
            ctx.user_memory().write(arg, _PARAMS.pack(self.busy_us, self.busy_budget, self.prefers_busy, 0))
            return 0
        if command != _EPIOCSPARAMS:
            return -EINVAL
        busy_us, budget, prefers, padding = _PARAMS.unpack(ctx.user_memory().read(arg, _PARAMS.size))
        if padding or busy_us > 0x7FFFFFFF or prefers > 1:
            return -EINVAL
        if budget > _NAPI_WEIGHT and not ctx.creds.capable(CAP_NET_ADMIN):
            return -EPERM
        self.busy_us, self.busy_budget, self.prefers_busy = busy_us, budget, prefers
        return 0

    def fdinfo_parts(self) -> Generator[str, None, None]:
        lines: list[str] = []
        for item in list(self.items.values()):
            inode = item.file.inode
            lines.append(
                f"tfd: {item.fd:8d} events: {item.events:8x} data: {item.data:16x}"
                f"  pos:{item.file.pos} ino:{inode.ino:x} sdev:{inode.dev():x}\n"
            )
            if len(lines) == _SHOWN:
                yield "".join(lines)
                lines = []
        yield "".join(lines)

    # -- the interest list -----------------------------------------------------------------------------
    def forget(self, item: EpollItem) -> None:
        """Remove an item; the caller removes it from the file's own list."""
        if self.items.pop((item.fd, item.file), None) is not None:
            KERNEL_MEMORY.give(RECORD_BYTES)
        self.nested.pop(item, None)
        item.queue.remove(item)
        if item.is_ready:
            item.is_ready = False
            self.ready.pop(item, None)

    def add(self, ctx: Context, fd: int, file: FileDescription, events: int, data: int) -> None:
        """EPOLL_CTL_ADD.  Raises LinuxError: EPERM, EEXIST, ELOOP, ENOSPC, EINVAL (too many paths)."""
        mask = file.poll(ctx)  # polled first, because a signalfd's queue is that of the task that polled last
        queue = file.wait_queue()
        if queue is None:
            raise LinuxError(EPERM)
        if not KERNEL_MEMORY.has_room(RECORD_BYTES):
            raise LinuxError(ENOSPC)
        if isinstance(file, EpollFile):
            check_nesting(self, file)
        if (fd, file) in self.items:
            raise LinuxError(EEXIST)
        if len(self.items) >= MAX_ITEMS or len(file.epoll_items or ()) >= MAX_WATCHERS:
            raise LinuxError(ENOSPC)
        item = EpollItem(self, fd, file, queue, events | POLLERR | POLLHUP, data)
        self.items[(fd, file)] = item
        if isinstance(file, EpollFile):
            self.nested[item] = None
        KERNEL_MEMORY.take(RECORD_BYTES)
        if file.epoll_items is None:
            file.epoll_items = [ItemCloser(item)]
        else:
            file.epoll_items.append(ItemCloser(item))
        try:
            check_paths(self, file)
        except LinuxError:
            self.remove(item)
            raise
        item.register()
        self._check(item, mask)

    def modify(self, ctx: Context, item: EpollItem, events: int, data: int) -> None:
        """EPOLL_CTL_MOD."""
        item.events = events | POLLERR | POLLHUP
        item.data = data
        item.register()
        self._check(item, item.file.poll(ctx))

    def remove(self, item: EpollItem) -> None:
        """EPOLL_CTL_DEL."""
        unlist(item)
        self.forget(item)

    def _check(self, item: EpollItem, mask: int) -> None:
        """Report events that are ready already."""
        if mask & item.events & ~_PRIVATE and not item.is_ready:
            item.is_ready = True
            self.ready[item] = None
            self.wake()

    # -- waiting ---------------------------------------------------------------------------------------
    def collect(self, ctx: Context, limit: int) -> bytes:
        """Up to `limit` packed struct epoll_event of what is ready; applies EPOLLET and EPOLLONESHOT.

        If there are none and `ready` is not empty, call it again.
        """
        ready = self.ready
        parts: list[bytes] = []
        for _index in range(min(len(ready), LOOKS)):
            item, _nothing = ready.popitem(last=False)
            item.is_ready = False
            mask = item.file.poll(ctx) & item.events & ~_PRIVATE
            if mask == 0:
                continue
            parts.append(EPOLL_EVENT.pack(mask, item.data))
            if item.events & EPOLLONESHOT:
                item.events &= _PRIVATE
            elif item.events & EPOLLET == 0 and not item.is_ready:
                item.is_ready = True
                ready[item] = None
            if len(parts) >= limit:
                break
        return b"".join(parts)

    def pass_on(self) -> None:
        """A waiter is done: if something is still ready, wake the next one."""
        if self.ready:
            self.waiters.wake(_READY)


def epoll_ctl(
    ctx: Context,
    epoll: FileDescription,
    operation: int,
    fd: int,
    file: FileDescription,
    events: int,
    data: int,
) -> int:
    """epoll_ctl(2) on resolved descriptors; 0 or -errno."""
    if file.wait_queue() is None:
        return -EPERM
    if not isinstance(epoll, EpollFile) or epoll is file:
        return -EINVAL
    events &= 0xFFFFFFFF & ~EPOLLWAKEUP
    if operation != EPOLL_CTL_DEL and events & EPOLLEXCLUSIVE:
        if operation == EPOLL_CTL_MOD:
            return -EINVAL
        if operation == EPOLL_CTL_ADD and (isinstance(file, EpollFile) or events & ~_EXCLUSIVE_OK):
            return -EINVAL
    if operation == EPOLL_CTL_ADD:
        epoll.add(ctx, fd, file, events, data)
        return 0
    item = epoll.items.get((fd, file))
    if operation == EPOLL_CTL_DEL:
        if item is None:
            return -ENOENT
        epoll.remove(item)
        return 0
    if operation == EPOLL_CTL_MOD:
        if item is None:
            return -ENOENT
        if item.events & EPOLLEXCLUSIVE:
            return -EINVAL
        epoll.modify(ctx, item, events, data)
        return 0
    return -EINVAL


def check_nesting(outer: EpollFile, inner: EpollFile) -> None:
    """Raises LinuxError(ELOOP) if `outer` is watched (indirectly) by `inner`.

    Or the chain would be too long.
    """
    below = _depth_below(outer, inner)
    above = _depth_above(outer)
    if below + 1 + above > MAX_NESTS:
        raise LinuxError(ELOOP)


def _depth_below(outer: EpollFile, inner: EpollFile) -> int:
    """How many levels of epolls `inner` watches.  Raises LinuxError(ELOOP) when `outer` is among them."""
    level: dict[EpollFile, None] = {inner: None}
    depth = 0
    while True:
        following: dict[EpollFile, None] = {}
        for epoll in level:
            for item in epoll.nested:
                file = item.file
                if file is outer:
                    raise LinuxError(ELOOP)
                if isinstance(file, EpollFile):
                    following[file] = None
        if not following:
            return depth
        depth += 1
        if depth > MAX_NESTS:
            raise LinuxError(ELOOP)
        level = following


def _depth_above(epoll: EpollFile) -> int:
    """How many levels of epolls watch `epoll`."""
    level: dict[EpollFile, None] = {epoll: None}
    depth = 0
    while depth <= MAX_NESTS:
        following: dict[EpollFile, None] = {}
        for inner in level:
            for watcher in _watchers(inner):
                following[watcher] = None
        if not following:
            return depth
        depth += 1
        level = following
    return depth


def _watchers(file: FileDescription) -> list[EpollFile]:
    """The epolls that watch a file, each as often as it does."""
    found: list[EpollFile] = []
    for listener in file.epoll_items or ():
        if isinstance(listener, ItemCloser):
            found.append(listener.item.epoll)
    return found


# -- how many paths a wake-up may take (reverse_path_check) -------------------------------------------------
def check_paths(outer: EpollFile, added: FileDescription) -> None:
    """Check the paths after `outer` has begun to watch `added`.

    Raises LinuxError(EINVAL) if too many paths lead upward from a file. Each is walked when the file is woken, and
    without the limit their number would grow exponentially with the nesting. Also raised if there are too many files
    to check (not so in Linux).
    """
    if not isinstance(added, EpollFile) and not outer.epoll_items:
        return
    known: dict[EpollFile, list[int]] = {}
    epolls: dict[EpollFile, None] = {}
    if isinstance(added, EpollFile):
        epolls[added] = None
    else:
        _check_file(added, known)
    level = list(epolls)
    seen: set[FileDescription] = set()
    steps = _PATH_STEPS
    while level:
        following: list[EpollFile] = []
        for epoll in level:
            steps -= len(epoll.items)
            if steps < 0:
                raise LinuxError(EINVAL)
            for item in epoll.items.values():
                file = item.file
                if isinstance(file, EpollFile):
                    if file not in epolls:
                        epolls[file] = None
                        following.append(file)
                elif len(item.file.epoll_items or ()) != 1 and file not in seen:
                    seen.add(file)
                    steps -= _CHECK_STEPS + len(item.file.epoll_items or ())
                    if steps < 0:
                        raise LinuxError(EINVAL)
                    _check_file(file, known)
            if epoll.items:
                _check_limits(_paths_above(epoll, known))  # for all files that only it watches
        level = following


def _check_file(file: FileDescription, known: dict[EpollFile, list[int]]) -> None:
    counts = [0] * (MAX_NESTS + 1)
    for watcher in _watchers(file):
        above = _paths_above(watcher, known)
        for nests in range(MAX_NESTS + 1):
            counts[nests] += above[nests]
    _check_limits(counts)


def _check_limits(counts: list[int]) -> None:
    for nests in range(1, MAX_NESTS + 1):
        if counts[nests] > PATH_LIMITS[nests]:
            raise LinuxError(EINVAL)


def _paths_above(epoll: EpollFile, known: dict[EpollFile, list[int]]) -> list[int]:
    """The number of paths from an epoll to one that is not watched itself, by length; the depth is
    at most MAX_NESTS.
    """
    counts = known.get(epoll)
    if counts is not None:
        return counts
    counts = [0] * (MAX_NESTS + 1)
    watchers = _watchers(epoll)
    if not watchers:
        counts[0] = 1
    for watcher in watchers:
        above = _paths_above(watcher, known)
        for nests in range(MAX_NESTS):
            counts[nests + 1] += above[nests]
    known[epoll] = counts
    return counts
