"""Memory calls about many areas, in slices (I8).

Calls that change areas one after the other do so in Linux, too: other threads may see the partial effect, and after
an error the areas before it stay changed. The operations of each part are carried out before the next part begins:
other threads of the process may order operations meanwhile, and the host must see all of them in the order in which
the list was changed. As in Linux only a fatal signal ends such a call.
"""

from typing import Final

from cloche.abi.errno import EBUSY, EINTR, ENOMEM, LinuxError
from cloche.kernel.args import Args
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, block_on_time, end_wait, next_slice
from cloche.kernel.phase import WORKING
from cloche.kernel.task import Handler, Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import PAGE, AreaChange, Crowded

_MANY: Final = 1024  # areas between two looks at the clock


class RangeWork(Blocked):
    """[at, end) of an address space is still to be done; subclasses say how."""

    def __init__(self, mm: AddressSpace, start: int, end: int) -> None:
        super().__init__()
        self.mm: AddressSpace = mm
        self.at: int = start
        self.end: int = end

    def some(self, task: Task) -> None:
        """Do a part, and advance `at`. Raises LinuxError."""
        raise NotImplementedError

    def result(self, task: Task) -> int:
        """The result, when all is done."""
        return 0

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if self.at < self.end:
            self.some(task)
        if self.at < self.end:
            end_ns = monotonic_ns() + SLICE_NS
            while self.at < self.end:
                if task.thread.has_orders():
                    self.has_slices = True
                    block_on_time(task, self)
                    task.enter(WORKING)
                    task.thread.run_ops()
                    return BLOCKED
                if monotonic_ns() >= end_ns:
                    return next_slice(task, self)
                self.some(task)
        return self.result(task)

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return -EINTR if task.is_kill_pending else BLOCKED


class Synchronisation(RangeWork):
    """msync(2): looks for holes and locked areas."""

    def __init__(self, mm: AddressSpace, start: int, end: int, *, is_invalidating: bool) -> None:
        super().__init__(mm, start, end)
        self.is_invalidating: bool = is_invalidating
        self.has_gap: bool = False

    def some(self, task: Task) -> None:
        self.at, has_gap, has_locked = self.mm.survey(self.at, self.end, _MANY)
        self.has_gap = self.has_gap or has_gap
        if has_locked and self.is_invalidating:
            raise LinuxError(EBUSY)

    def result(self, task: Task) -> int:
        return -ENOMEM if self.has_gap else 0


class Residency(RangeWork):
    """mincore(2): a byte for each page, up to a hole."""

    def __init__(self, mm: AddressSpace, start: int, end: int, vector: int) -> None:
        super().__init__(mm, start, end)
        self.vector: int = vector

    def some(self, task: Task) -> None:
        there = self.mm.covered_until(self.at, min(self.end, self.at + _MANY * PAGE * 16))
        if there == self.at:
            raise LinuxError(ENOMEM)
        pages = (there - self.at) >> 12
        task.user_memory().write(self.vector, b"\1" * pages)
        self.vector += pages
        self.at = there


class Protection(RangeWork):
    """mprotect(2)."""

    def __init__(self, mm: AddressSpace, start: int, end: int, prot: int) -> None:
        super().__init__(mm, start, end)
        self.prot: int = prot

    def some(self, task: Task) -> None:
        self.at = self.mm.protect_some(task.thread, self.at, self.end, self.prot)


class Advice(RangeWork):
    """madvise(2)."""

    def __init__(self, mm: AddressSpace, start: int, end: int, advice: int) -> None:
        super().__init__(mm, start, end)
        self.advice: int = advice
        self.has_hole: bool = False

    def some(self, task: Task) -> None:
        self.at, has_hole = self.mm.advise_some(task.thread, self.at, self.end, self.advice)
        self.has_hole = self.has_hole or has_hole

    def result(self, task: Task) -> int:
        return -ENOMEM if self.has_hole else 0


class Changes(RangeWork):
    """A change without host operations; `hole_errno`: the error for a hole anywhere in the range, which is returned
    before anything changes.
    """

    def __init__(self, mm: AddressSpace, start: int, end: int, change: AreaChange, hole_errno: int) -> None:
        super().__init__(mm, start, end)
        self.change: AreaChange = change
        self.hole_errno: int = hole_errno
        self.checked: int = start if hole_errno else end

    def some(self, task: Task) -> None:
        if self.checked < self.end:
            try:
                self.checked = self.mm.covered_some(self.checked, self.end)
            except LinuxError:
                raise LinuxError(self.hole_errno) from None
        else:
            self.at = self.mm.change_some(self.at, self.end, self.change)


class Emptying(RangeWork):
    """Empties a crowded range, then repeats the call that has found it."""

    def __init__(self, mm: AddressSpace, crowd: Crowded, args: Args, handler: Handler) -> None:
        super().__init__(mm, crowd.start, crowd.end)
        self.args: Args = args
        self.handler: Handler = handler
        self.checked: int = crowd.start if mm.has_sealed else crowd.end

    def some(self, task: Task) -> None:
        if self.checked < self.end:
            self.checked = self.mm.unsealed_some(self.checked, self.end)
        else:
            self.at = self.mm.empty_some(task.thread, self.at, self.end)

    def result(self, task: Task) -> int:
        end_wait(task, self)  # the call may block the task itself
        return self.handler(task, self.args)
