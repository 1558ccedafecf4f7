"""poll and ppoll of many descriptors, in slices (I8).

Linux asks every file, registering on its queue, and checks for signals if nothing was ready. Here the files stay
referenced from the beginning, since other tasks run in between. If one of them is woken while the rest is still being
asked, that is noted (`LongWaiter`), and all are asked again.
"""

from typing import Final

from cloche.abi.errno import ERESTARTNOHAND, LinuxError
from cloche.abi.fcntl import O_PATH
from cloche.abi.poll import POLLERR, POLLHUP, POLLNVAL
from cloche.abi.structs import POLLFD, POLLFD_SIZE
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, block_on_time, next_slice
from cloche.kernel.chores import Chore
from cloche.kernel.signals import signal_pending
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.vfs.objects import FileDescription
from cloche.vfs.waitqueue import Waiter, WaitQueue

MANY: Final = 1024
_BATCH: Final = 256  # between two looks at the clock
_ALWAYS: Final = POLLERR | POLLHUP
_READ: Final = 0
_ASK: Final = 1
_STAND: Final = 2
_WRITE: Final = 3
_WAIT: Final = 4


class LongWaiter(Waiter):
    """Notes that a file has been woken, also while its task works."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.is_woken: bool = False

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        self.is_woken = True
        return self.task.make_ready()


class Release(Chore):
    """The files and queues of a call that is over."""

    def __init__(self, files: list[FileDescription], queues: list[WaitQueue], waiter: LongWaiter) -> None:
        self.files: list[FileDescription] = files
        self.queues: list[WaitQueue] = queues
        self.waiter: LongWaiter = waiter

    def step(self) -> bool:
        for queue in self.queues[-_BATCH:]:
            queue.remove(self.waiter)
        del self.queues[-_BATCH:]
        if not self.queues:
            for file in self.files[-_BATCH:]:
                file.put()
            del self.files[-_BATCH:]
        return bool(self.queues or self.files)


class LongPoll(Blocked):
    """A poll; subclasses in `sys_poll` define how it ends."""

    def __init__(self, task: Task, addr: int, count: int, deadline_ns: int) -> None:
        super().__init__(deadline_ns if deadline_ns > 0 else -1)
        self.addr: int = addr
        self.count: int = count
        self.is_expired: bool = deadline_ns == 0
        self.stage: int = _READ
        self.at: int = 0
        self.found: int = 0
        self.entries: list[FileDescription | None] = []
        self.events: list[int] = []  # -1: the descriptor is negative, and ignored
        self.answers: list[int] = []
        self.masks: dict[FileDescription, int] = {}  # each holds a reference
        self.standing: list[FileDescription] = []
        self.stood_on: dict[WaitQueue, int] = {}
        self.is_standing: bool = False
        self.waiter: LongWaiter = LongWaiter(task)

    # -- how it ends -----------------------------------------------------------------------------------------
    def ended(self, task: Task, result: int) -> int:
        """The call's own last steps."""
        return result

    def signalled(self, task: Task) -> int:
        """The result if a signal interrupts the call."""
        raise NotImplementedError

    def wake_mask(self, events: int) -> int:
        """The events to be woken for."""
        raise NotImplementedError

    # -- the work --------------------------------------------------------------------------------------------
    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        try:
            result = self.work(task)
        except LinuxError as error:
            result = -error.errno
        if result == BLOCKED:
            return BLOCKED
        return self.signalled(task) if result == -ERESTARTNOHAND else self.ended(task, result)

    def timed_out(self, task: TaskBase) -> int:
        self.is_expired = True
        return next_slice(task, self)

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if self.stage == _WAIT or task.is_kill_pending:
            return self.signalled(task)
        return BLOCKED  # registered once all were asked

    def finished(self, task: TaskBase) -> None:
        assert isinstance(task, Task)
        chore = Release(list(self.masks), list(self.stood_on), self.waiter)
        self.masks = {}
        self.stood_on = {}
        if chore.step():
            task.kernel.chores.append(chore)

    def work(self, task: Task) -> int:
        """A slice: the result, -ERESTARTNOHAND for a signal, or BLOCKED.  Raises LinuxError."""
        end_ns = monotonic_ns() + SLICE_NS
        while True:
            stage = self.stage
            if stage == _READ:
                if self._read(task):
                    self._ask_again()
            elif stage == _ASK:
                if self._ask(task):
                    if self.found or self.is_expired:
                        self.stage, self.at = _WRITE, 0
                    elif signal_pending(task):
                        return -ERESTARTNOHAND
                    elif not self.is_standing:
                        self.stage, self.standing = _STAND, list(self.masks)
                    elif self.waiter.is_woken:
                        self._ask_again()
                    else:
                        self.stage = _WAIT
                        self.has_slices = False
                        return block_on_time(task, self)
            elif stage == _STAND:
                if self._stand():
                    self.is_standing = True
                    self._ask_again()
            elif stage == _WRITE:
                if self._write(task):
                    return self.found
            else:
                self._ask_again()
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)

    def _ask_again(self) -> None:
        self.stage, self.at, self.found = _ASK, 0, 0
        self.answers = []
        self.waiter.is_woken = False

    def _read(self, task: Task) -> bool:
        """Read a part of the array; returns whether that was all. Raises LinuxError(EFAULT)."""
        count = min(self.count - self.at, _BATCH)
        raw = task.user_memory().read(self.addr + self.at * POLLFD_SIZE, count * POLLFD_SIZE)
        table = task.files
        for fd, events, _revents in POLLFD.iter_unpack(raw):
            file = table.find(fd)
            if file is not None and file.flags & O_PATH:
                file = None
            events = -1 if fd < 0 else (events & 0xFFFF) | _ALWAYS
            if file is not None:
                mask = self.masks.get(file, -1)
                if mask < 0:
                    file.get()
                    mask = 0
                self.masks[file] = mask | self.wake_mask(events)
            self.entries.append(file)
            self.events.append(events)
        self.at += count
        return self.at >= self.count

    def _ask(self, task: Task) -> bool:
        for index in range(self.at, min(self.at + _BATCH, self.count)):
            file, wanted = self.entries[index], self.events[index]
            if file is not None:
                mask = file.poll(task) & wanted
            else:
                mask = 0 if wanted < 0 else POLLNVAL
            if mask:
                self.found += 1
            self.answers.append(mask)
        self.at += _BATCH
        return self.at >= self.count

    def _stand(self) -> bool:
        for file in self.standing[-_BATCH:]:
            queue = file.wait_queue()
            if queue is not None:
                mask = self.stood_on.get(queue, 0) | self.masks[file]
                self.stood_on[queue] = mask
                queue.add(self.waiter, mask)
        del self.standing[-_BATCH:]
        return not self.standing

    def _write(self, task: Task) -> bool:
        """Write a part of the revents; returns whether that was all. Raises LinuxError(EFAULT)."""
        mem = task.user_memory()
        count = min(self.count - self.at, _BATCH)
        addr = self.addr + self.at * POLLFD_SIZE
        out = bytearray(mem.read(addr, count * POLLFD_SIZE))
        masks = self.answers[self.at : self.at + count]
        out[6::POLLFD_SIZE] = bytes([mask & 0xFF for mask in masks])
        out[7::POLLFD_SIZE] = bytes([mask >> 8 & 0xFF for mask in masks])
        mem.write(addr, bytes(out))
        self.at += count
        return self.at >= self.count
