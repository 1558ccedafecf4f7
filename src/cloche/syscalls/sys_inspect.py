"""System calls by which one process inspects another: kcmp(2), process_vm_readv(2)."""

from itertools import islice
from struct import Struct
from typing import Final

from cloche.abi import kcmp
from cloche.abi.errno import EBADF, EFAULT, EINVAL, ENOENT, EPERM, ESRCH, LinuxError
from cloche.fs.epoll import EpollFile
from cloche.kernel.access import find_task, may_access
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.births import birth_queue
from cloche.kernel.blocking import (
    BLOCKED,
    SLICE_BYTES,
    SLICE_NS,
    Blocked,
    TaskBase,
    block_on,
    next_slice,
)
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.address_space import AddressSpace
from cloche.mm.usermem import UserIovIter, import_iovec, user_iov
from cloche.vfs.objects import FileDescription

_SLOT: Final = Struct("<III")
_SEARCHED: Final = 4096  # of what an epoll watches, before others have their turn


def sys_kcmp(task: Task, args: Args) -> int:
    """kcmp(2): 0 the same, 1 or 2 an order that lasts as long as the objects."""
    first, second = find_task(task, to_i32(args.a0)), find_task(task, to_i32(args.a1))
    if first is None or second is None or args.a0 == 0 or args.a1 == 0:
        return -ESRCH
    for other in (first, second):
        if not may_access(task, other, uses_real_ids=True):
            return -EPERM
    kind = to_i32(args.a2)
    if kind == kcmp.KCMP_FILE:
        one, two = _file_of(first, args.a3), _file_of(second, args.a4)
        if one is None or two is None:
            return -EBADF
        return _order(one, two)
    if kind == kcmp.KCMP_VM:
        return _order(_kept(first, first.mm), _kept(second, second.mm))
    if kind == kcmp.KCMP_FILES:
        return _order(_kept(first, first.files), _kept(second, second.files))
    if kind == kcmp.KCMP_FS:
        return _order(_kept(first, first.fs), _kept(second, second.fs))
    if kind == kcmp.KCMP_SIGHAND:
        return _order(first.group.handlers, second.group.handlers)
    if kind == kcmp.KCMP_IO:
        return 0  # no task has an I/O context of its own
    if kind == kcmp.KCMP_SYSVSEM:
        return _order(first.undo_list, second.undo_list)
    return _epoll_target(task, args, first, second) if kind == kcmp.KCMP_EPOLL_TFD else -EINVAL


def _epoll_target(task: Task, args: Args, first: Task, second: Task) -> int:
    """KCMP_EPOLL_TFD: a file against what an epoll watches under a number (struct kcmp_epoll_slot)."""
    raw = task.user_memory().read(to_u64(args.a4), _SLOT.size)
    epoll_fd, fd, skipped = _SLOT.unpack(raw)
    file = _file_of(first, args.a3)
    epoll = _file_of(second, epoll_fd)
    if file is None or epoll is None:
        return -EBADF
    if not isinstance(epoll, EpollFile):
        return -EINVAL
    return _EpollSearch(file, epoll, fd, skipped).retry(task)


class _EpollSearch(Blocked):
    """Looks through what an epoll watches, which can be much, in slices."""

    def __init__(self, file: FileDescription, epoll: EpollFile, number: int, skipped: int) -> None:
        super().__init__()
        self.file: FileDescription = file
        self.epoll: EpollFile = epoll
        self.number: int = number
        self.skipped: int = skipped
        self.at: int = 0

    def retry(self, task: TaskBase) -> int:
        end = self.at + _SEARCHED
        for number, watched in islice(self.epoll.items, self.at, end):
            if number == self.number:
                if self.skipped == 0:
                    return _order(self.file, watched)
                self.skipped -= 1
        self.at = end
        return next_slice(task, self) if end < len(self.epoll.items) else -ENOENT


def _file_of(task: Task, fd: int) -> FileDescription | None:
    return task.files.find(fd) if 0 <= fd < 1 << 31 and not task.is_exited else None


def _kept(task: Task, held: object) -> object:
    """What a task shares with others; a dead one has let go of it."""
    return None if task.is_exited else held


def _order(one: object, two: object) -> int:
    if one is two:
        return 0
    return 1 if id(one) < id(two) else 2


def sys_process_vm_readv(task: Task, args: Args) -> int:
    """process_vm_readv(2)."""
    return _transfer(task, is_write=False)


def sys_process_vm_writev(task: Task, args: Args) -> int:
    """process_vm_writev(2)."""
    return _transfer(task, is_write=True)


def _transfer(task: Task, *, is_write: bool) -> int:
    """Copy between the caller's and another process's memory, in pieces that fit both lists."""
    args = task.args
    if args.a5:
        return -EINVAL
    mem = task.user_memory()
    local_count, remote_count = to_u64(args.a2), to_u64(args.a4)
    if local_count > 1024 or remote_count > 1024:
        return -EINVAL
    local = import_iovec(mem, to_u64(args.a1), local_count)
    if sum([length for _base, length in local]) == 0:
        return 0
    remote = import_iovec(mem, to_u64(args.a3), remote_count)
    if sum([length for _base, length in remote]) == 0:
        return 0
    target = find_task(task, to_i32(args.a0)) if args.a0 else None
    if target is None or target.is_exited:
        return -ESRCH
    if not may_access(task, target, uses_real_ids=True):
        return -EPERM
    move = VmTransfer(task, target, local, remote, is_write=is_write)
    queue = birth_queue(task.kernel, target.mm)
    return move.retry(task) if queue is None else block_on(task, move, queue)


class VmTransfer(Blocked):
    """A copy between two memories, in slices."""

    def __init__(
        self,
        task: Task,
        target: Task,
        local: list[tuple[int, int]],
        remote: list[tuple[int, int]],
        *,
        is_write: bool,
    ) -> None:
        super().__init__()
        self.space: AddressSpace = target.mm
        self.local: UserIovIter = user_iov(task.user_memory(), local)
        self.remote: list[tuple[int, int]] = remote
        self.is_write: bool = is_write
        self.index: int = 0  # current segment of `remote`
        self.offset: int = 0
        self.done: int = 0

    def retry(self, task: TaskBase) -> int:
        end_ns = monotonic_ns() + SLICE_NS
        space, local, remote = self.space, self.local, self.remote
        if not space.is_dead and space.process.is_unborn():
            return BLOCKED
        while self.index < len(remote) and local.remaining() > 0 and not space.is_dead:
            base, length = remote[self.index]
            size = min(length - self.offset, local.remaining(), SLICE_BYTES)
            if size == 0:
                self.index, self.offset = self.index + 1, 0
                continue
            try:
                if self.is_write:
                    data = local.copy_from(size)
                    moved = space.process.write(base + self.offset, data)
                else:
                    data = space.process.read(base + self.offset, size)
                    moved = local.copy_to(data) if data else 0
            except LinuxError:
                break
            self.done += moved
            self.offset += moved
            if moved < size:
                break
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)
        return self.done if self.done else -EFAULT

    def interrupted(self, task: TaskBase) -> int:
        return self.done if isinstance(task, Task) and task.is_kill_pending else BLOCKED
