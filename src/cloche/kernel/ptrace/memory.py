"""Memory of another task, as a debugger may touch it: also where the task itself could not (FOLL_FORCE).

A breakpoint is a write into private, read-only text.  The host refuses the sentry's write there, so a stopped thread of
the address space is ordered to make the pages accessible (`mprotect`), the sentry copies, and the thread puts the
protection back; copy-on-write has then given the process a page of its own.  The list of areas does not change.
As in Linux only private mappings can be forced to take a write.

Two rounds of operations make a `ForcedAccess`; whoever asked waits on its queue.
"""

from typing import Final

from cloche.abi.mman import PROT_READ, PROT_WRITE
from cloche.kernel.task import OpsJob, Task
from cloche.mm.address_space import PAGE, PAGE_MASK, AddressSpace, page_up
from cloche.vfs.waitqueue import WaitQueue

MAX_FORCED: Final = 1 << 20  # bytes of one access
_OPENING: Final = 0
_CLOSING: Final = 1


class ForcedAccess(OpsJob):
    """One read or write that needs other protections for a moment."""

    def __init__(self, space: AddressSpace, addr: int, length: int, data: bytes | None) -> None:
        self.space: AddressSpace = space
        self.addr: int = addr
        self.length: int = length
        self.data: bytes | None = data  # to write; None: read
        self.found: bytes = b""  # what was read
        self.count: int = 0  # bytes that were moved
        self.is_done: bool = False
        self.queue: WaitQueue = WaitQueue()
        self.pieces: list[tuple[int, int, int]] = []  # start, end, protection to put back
        self.phase: int = _OPENING

    def plan(self) -> bool:
        """Which pages must change; False if nothing helps: a hole, a shared mapping."""
        at, end = self.addr & PAGE_MASK, page_up(self.addr + self.length)
        wanted = PROT_READ if self.data is None else PROT_READ | PROT_WRITE
        while at < end:
            area = self.space.find(at)
            if area is None:
                break
            stop = min(area.end, end)
            if area.prot & wanted != wanted:
                if area.is_shared() and (self.data is not None or area.prot == 0):
                    break
                self.pieces.append((at, stop, area.prot))
            at = stop
        return bool(self.pieces) and self.pieces[0][0] <= self.addr + PAGE

    def start(self, worker: Task) -> None:
        """Let the stopped thread of `worker` begin."""
        worker.ops_job = self
        extra = PROT_READ if self.data is None else PROT_READ | PROT_WRITE
        for start, end, prot in self.pieces:
            worker.thread.queue_mprotect(start, end - start, prot | extra)
        worker.is_running_ops = True
        worker.thread.run_ops()

    def move(self) -> int:
        """Read or write as the protections are now; the bytes that were moved."""
        if self.data is None:
            self.found = self.space.process.read(self.addr, self.length)
            self.count = len(self.found)
        else:
            self.count = self.space.process.write(self.addr, self.data)
        return self.count

    def done(self, task: Task) -> None:
        if self.phase == _OPENING:
            self.phase = _CLOSING
            self.move()
            for start, end, prot in self.pieces:
                task.thread.queue_mprotect(start, end - start, prot)
            task.thread.run_ops()
            return
        self._finish(task)

    def failed(self, task: Task, errno: int) -> None:
        self._finish(task)

    def _finish(self, task: Task) -> None:
        self.is_done = True
        task.ops_job = None
        task.is_running_ops = False
        self.queue.wake()
        task.make_ready()


def can_work(task: Task) -> bool:
    """Whether the host thread of a task is stopped and free to carry out operations."""
    return (
        not task.is_exited
        and not task.is_running_ops
        and task.lent_to is None
        and task.ops_job is None
        and not task.thread.is_running()
    )


def find_worker(caller: Task, space: AddressSpace, preferred: Task | None) -> Task | None:
    """A stopped thread of an address space: the tracee, the caller itself, or any that waits for something."""
    if preferred is not None and preferred.mm is space and can_work(preferred):
        return preferred
    if caller.mm is space and can_work(caller):
        return caller
    if preferred is not None:
        for task in preferred.group.tasks:
            if task.mm is space and can_work(task):
                return task
    return None


def force(
    caller: Task, space: AddressSpace, preferred: Task | None, addr: int, length: int, data: bytes | None
) -> ForcedAccess | None:
    """Begin a forced access; None if no protection stands in its way, or if no thread of it is stopped."""
    access = ForcedAccess(space, addr, min(length, MAX_FORCED), data)
    if space.is_dead or not access.plan():
        return None
    worker = find_worker(caller, space, preferred)
    if worker is None:
        return None
    access.start(worker)
    return access


def busy_with(task: Task) -> ForcedAccess | None:
    """The access that a task's thread carries out just now."""
    job = task.ops_job
    return job if isinstance(job, ForcedAccess) else None
