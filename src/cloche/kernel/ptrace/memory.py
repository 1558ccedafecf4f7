"""Memory of another task, as a debugger may touch it: also where the task itself has no access (FOLL_FORCE).

A breakpoint is a write into private, read-only text.  The host refuses the sentry's write there, so a stopped thread of
the address space is ordered to make the pages accessible (`mprotect`), the sentry copies, and the thread puts the
protection back; copy-on-write has then given the process a page of its own.  The list of areas does not change.
If none is stopped, one that runs is made to (`HostWork.next`).  As in Linux only private mappings can be forced to
take a write.

A `ForcedAccess` consists of two rounds of operations; the task that asked waits on its queue.
"""

from typing import Final

from cloche.abi.mman import PAGE_MASK, PROT_READ, PROT_WRITE
from cloche.kernel.blocking import BLOCKED, RETURN, Blocked, TaskBase, block_on_time
from cloche.kernel.phase import WORKING
from cloche.kernel.task import OpsJob, Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import PAGE, page_up
from cloche.vfs.waitqueue import WaitQueue

MAX_FORCED: Final = 1 << 20  # bytes of one access
_OPENING: Final = 0
_CLOSING: Final = 1


class HeldWait(Blocked):
    """The wait of a task that is about to run guest code, while its thread works on a job for another task."""

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if task.work.job is not None:
            return BLOCKED
        task.trace.call_nr = -1  # the registers hold everything
        return RETURN

    def interrupted(self, task: TaskBase) -> int:
        return self.retry(task)


class ForcedAccess(OpsJob):
    """One read or write for which protections are changed temporarily."""

    def __init__(self, space: AddressSpace, addr: int, length: int, data: bytes | None) -> None:
        self.space: AddressSpace = space
        self.addr: int = addr
        self.length: int = length
        self.data: bytes | None = data  # to write; None: read
        self.found: bytes = b""  # what was read
        self.count: int = 0  # bytes that were moved
        self.is_done: bool = False
        self.is_lost: bool = False  # not attempted, because its thread was not available; another may do it
        self.queue: WaitQueue = WaitQueue()
        self.pieces: list[tuple[int, int]] = []  # start and end of pages whose protection changes
        self.stage: int = _OPENING

    def plan(self) -> bool:
        """Find the pages whose protection must change; False if that would not help (a hole, a shared mapping)."""
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
                self.pieces.append((at, stop))
            at = stop
        return bool(self.pieces) and self.pieces[0][0] <= self.addr + PAGE

    def start(self, worker: Task) -> None:
        """Let the stopped thread of `worker` begin."""
        worker.work.job = self
        extra = PROT_READ if self.data is None else PROT_READ | PROT_WRITE
        for start, end in self.pieces:
            area = self.space.find(start)
            if area is not None:
                worker.thread.queue_mprotect(start, end - start, area.prot | extra)
        worker.enter(WORKING)
        worker.thread.run_ops()

    def begin(self, task: Task) -> bool:
        self.pieces.clear()  # the thread may have changed them meanwhile
        if task.mm is not self.space or self.space.is_dead or not can_work(task) or not self.plan():
            self.is_lost = True
            self._end()
            return False
        if task.blocked is None:
            block_on_time(task, HeldWait())
        self.start(task)
        return True

    def move(self) -> int:
        """Read or write as the protections are now; the bytes that were moved."""
        if self.data is None:
            self.found = self.space.process.read(self.addr, self.length)
            self.count = len(self.found)
        else:
            self.count = self.space.process.write(self.addr, self.data)
        return self.count

    def done(self, task: Task) -> None:
        if self.stage == _OPENING:
            self.stage = _CLOSING
            self.move()
            self._put_back(task)
            task.thread.run_ops()
            return
        self.failed(task, 0)

    def _put_back(self, task: Task) -> None:
        """Queue the protections of the areas as they are now: other threads may run."""
        for start, end in self.pieces:
            at = start
            while at < end:
                area = self.space.find(at)
                if area is None:
                    at += PAGE
                    continue
                stop = min(area.end, end)
                task.thread.queue_mprotect(at, stop - at, area.prot)
                at = stop

    def failed(self, task: Task, errno: int) -> None:
        if task.work.job is self:
            task.work.job = None
            task.rest()
        else:
            self.is_lost = True
        self._end()
        task.make_ready()

    def _end(self) -> None:
        self.is_done = True
        self.queue.wake()


def can_work(task: Task) -> bool:
    """Whether the host thread of a task is stopped and free to carry out operations."""
    op = task.blocked
    return (
        not task.is_exited
        and (op is None or op.lends_thread())
        and task.phase != WORKING
        and task.lent is None
        and task.work.job is None
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
            worker = task.lent.child if task.lent is not None else task
            if worker.mm is space and can_work(worker):
                return worker
    return None


def force(
    caller: Task, space: AddressSpace, preferred: Task | None, addr: int, length: int, data: bytes | None
) -> ForcedAccess | None:
    """Begin a forced access; None if no protection stands in its way, or if no thread can do it."""
    access = ForcedAccess(space, addr, min(length, MAX_FORCED), data)
    if space.is_dead or not access.plan():
        return None
    worker = find_worker(caller, space, preferred)
    if worker is not None:
        access.start(worker)
        return access
    runner = find_runner(space, preferred)
    if runner is None:
        return None
    runner.work.next = access
    runner.wants_attention = True
    if runner.phase != WORKING:
        runner.kernel.interrupt(runner.thread)
    return access


def find_runner(space: AddressSpace, preferred: Task | None) -> Task | None:
    """A thread of an address space that will stop for this: it runs guest code, or carries out operations."""
    if preferred is None:
        return None
    for task in preferred.group.tasks:
        worker = task.lent.child if task.lent is not None else task
        if (
            worker.mm is space
            and not worker.is_exited
            and worker.work.next is None
            and worker.work.job is None
        ):
            return worker
    return None


def busy_with(task: Task) -> ForcedAccess | None:
    """The access that a task's thread carries out just now."""
    job = task.work.job
    return job if isinstance(job, ForcedAccess) else None
