"""Contexts of asynchronous I/O (io_setup(2), fs/aio.c): completed events, and polls under way.

Reads, writes and syncs are done at once when they are submitted, as Linux does for most files; only IOCB_CMD_POLL
completes later.  Contexts belong to an address space.  At the context's address is the ring from which programs may
take events themselves (struct aio_ring): its head is written by the program, and used only to discard events.
"""

from struct import Struct
from typing import Final

from cloche.abi.aio import IO_EVENT, IO_EVENT_SIZE
from cloche.abi.errno import EAGAIN, LinuxError
from cloche.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.fs.eventfd import EventFile
from cloche.kernel.task import Kernel, Task
from cloche.kernel.timers import AIO_POLL, TimerOwner, monotonic_ns
from cloche.mm.address_space import AddressSpace, MemoryUser
from cloche.mm.area import page_up
from cloche.vfs.objects import FileDescription
from cloche.vfs.waitqueue import Waiter, WaitQueue

AIO_MAX_NR: Final = 65536
RING_HEADER: Final = 32  # struct aio_ring before its events
RING_MAGIC: Final = 0xA10A10A1
_HEADER: Final = Struct("<8I")
_HEAD: Final = 8  # offsets in it
_TAIL: Final = 12


class PollRequest(Waiter, TimerOwner):
    """IOCB_CMD_POLL under way; holds the file."""

    def __init__(
        self, context: "AioContext", task: Task, file: FileDescription, request: "Request", mask: int
    ) -> None:
        self.context: AioContext = context
        self.task: Task = task
        self.file: FileDescription = file.get()
        self.request: Request = request
        self.mask: int = mask
        self.is_scheduled: bool = False
        self.is_over: bool = False

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        if not self.is_scheduled:
            self.is_scheduled = True
            self.task.kernel.timers.add(monotonic_ns(), AIO_POLL, self)
        return True

    def timer_due(self, kind: int, argument: int) -> None:
        self.look()

    def look(self) -> None:
        """Complete if the file is ready by now."""
        self.is_scheduled = False
        if not self.is_over:
            ready = self.file.poll(self.task) & self.mask
            if ready & POLLIN:  # a wake-up has both bits, even if only one was asked for
                ready |= POLLRDNORM
            if ready & POLLOUT:
                ready |= POLLWRNORM
            if ready:
                self.complete(ready)

    def complete(self, result: int) -> None:
        """Queue its event."""
        self.drop()
        self.context.complete(self.request, result)

    def drop(self) -> None:
        """Stop waiting."""
        self.is_over = True
        queue = self.file.wait_queue()
        if queue is not None:
            queue.remove(self)
        self.context.polls.pop(self.request.address, None)
        self.file.put()


class Request:
    """The request that an event reports; holds the eventfd to signal."""

    def __init__(self, address: int, data: int, notify: EventFile | None) -> None:
        self.address: int = address  # of the iocb
        self.data: int = data
        self.notify: EventFile | None = notify
        if notify is not None:
            notify.get()

    def done(self) -> None:
        """Signal the eventfd, and drop it."""
        notify = self.notify
        if notify is not None:
            self.notify = None
            notify.signal(1)
            notify.put()

    def abandon(self) -> None:
        """The request was not submitted: drop the eventfd."""
        notify = self.notify
        if notify is not None:
            self.notify = None
            notify.put()


def ring_bytes(capacity: int) -> int:
    """The size of a ring that is never full, in whole pages."""
    return page_up(RING_HEADER + (capacity + 2) * IO_EVENT_SIZE)


class AioContext:
    """One io_setup(2)."""

    def __init__(self, kernel: Kernel, space: AddressSpace, ident: int, asked: int, capacity: int) -> None:
        self.space: AddressSpace = space
        self.ring_events: int = (ring_bytes(capacity) - RING_HEADER) // IO_EVENT_SIZE
        self.tail: int = 0  # where the next event goes in the ring
        self.kernel: Kernel = kernel
        self.ident: int = ident
        self.asked: int = asked  # the number given to io_setup
        self.capacity: int = capacity  # requests and events together
        self.events: list[bytes] = []
        self.polls: dict[int, PollRequest] = {}  # by the address of the iocb
        self.queue: WaitQueue = WaitQueue()
        self.is_dead: bool = False

    def header(self, number: int) -> bytes:
        """The initial bytes of the ring."""
        return _HEADER.pack(number, self.ring_events, 0, 0, RING_MAGIC, 1, 0, RING_HEADER)

    def settle(self) -> None:
        """Forget the events that the program has taken out of the ring."""
        if self.events and not self.space.is_dead:
            raw = self.space.process.read(self.ident + _HEAD, 4)
            if len(raw) == 4:
                left = (self.tail - int.from_bytes(raw, "little")) % self.ring_events
                if left < len(self.events):
                    del self.events[: len(self.events) - left]

    def require_room(self) -> None:
        """Raises LinuxError(EAGAIN)."""
        if len(self.events) + len(self.polls) >= self.capacity:
            self.settle()
        if len(self.events) + len(self.polls) >= self.capacity:
            raise LinuxError(EAGAIN)

    def complete(self, request: Request, result: int) -> None:
        """Queue an event."""
        event = IO_EVENT.pack(request.data, request.address, result, 0)
        self.events.append(event)
        if not self.space.is_dead:
            process = self.space.process
            process.write(self.ident + RING_HEADER + self.tail * IO_EVENT_SIZE, event)
            self.tail = (self.tail + 1) % self.ring_events
            process.write(self.ident + _TAIL, self.tail.to_bytes(4, "little"))
        request.done()
        self.queue.wake()

    def take(self, limit: int) -> bytes:
        """The oldest events as they lie in memory."""
        if not self.events:
            return b""
        self.settle()
        taken = b"".join(self.events[:limit])
        del self.events[: len(taken) // IO_EVENT_SIZE]
        if taken and not self.space.is_dead:
            head = (self.tail - len(self.events)) % self.ring_events
            self.space.process.write(self.ident + _HEAD, head.to_bytes(4, "little"))
        return taken

    def destroy(self) -> None:
        """io_destroy(2), or the address space is gone."""
        if not self.is_dead:
            self.is_dead = True
            self.kernel.aio_events -= self.asked
            for poll in list(self.polls.values()):
                poll.drop()
                poll.request.abandon()
            self.events.clear()
            self.queue.wake()


class AioTable(MemoryUser):
    """The contexts of an address space."""

    def __init__(self) -> None:
        self.contexts: dict[int, AioContext] = {}

    def memory_released(self) -> None:
        for context in list(self.contexts.values()):
            context.destroy()
        self.contexts.clear()


def aio_table(mm: AddressSpace) -> AioTable:
    """That of an address space, made at first use."""
    found = mm.aio
    if isinstance(found, AioTable):
        return found
    made = AioTable()
    mm.aio = made
    return made
