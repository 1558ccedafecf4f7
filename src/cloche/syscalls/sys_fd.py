"""open, close, dup and memfd_create: calls that make and close descriptors.

Owns the wait of open(2) for the other end of a FIFO: `Inode.open` has returned a description that counts as
an end already, and `open_is_pending` says when its descriptor may be installed.
"""

from typing import Final

from cloche.abi.errno import E2BIG, EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOSYS, LinuxError
from cloche.abi.fcntl import (
    CLOSE_RANGE_CLOEXEC,
    CLOSE_RANGE_UNSHARE,
    O_CLOEXEC,
    O_CREAT,
    O_LARGEFILE,
    O_TRUNC,
    O_WRONLY,
    RESOLVE_IN_ROOT,
)
from cloche.abi.mman import MFD_CLOEXEC
from cloche.abi.structs import OPEN_HOW_SIZE, unpack_open_how
from cloche.fs.memfd import MemfdMount, memfd_create
from cloche.fs.tmpfs import TmpFs
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, block_on, next_slice
from cloche.kernel.fd_table import FdTable
from cloche.kernel.task import Container, Task
from cloche.kernel.timers import monotonic_ns
from cloche.syscalls.args import path_arg, start_of
from cloche.syscalls.leases import LeaseWait
from cloche.syscalls.sys_rw import FileWait
from cloche.vfs.leases import LeaseBroken
from cloche.vfs.namei import check_open_how, do_open, open_quick
from cloche.vfs.objects import FileDescription, Path

_PAGE: Final = 4096
_CLOSES: Final = 64  # descriptors between two looks at the clock
_MFD_NAME_MAX: Final = 249  # NAME_MAX less "memfd:"


# -- open ----------------------------------------------------------------------------------------------------
class OpenWait(FileWait):
    """An open of a FIFO that waits for the other end."""

    def __init__(self, file: FileDescription, *, is_cloexec: bool) -> None:
        super().__init__(file)
        self.is_cloexec: bool = is_cloexec

    def retry(self, task: TaskBase) -> int:
        if self.file.open_is_pending(task):
            return BLOCKED
        assert isinstance(task, Task)
        return task.files.install(self.file, task.nofile_limit(), is_cloexec=self.is_cloexec)


class OpenLeaseWait(LeaseWait):
    """An open that waits until others give up their leases."""

    def __init__(self, start: Path | None, name: bytes, flags: int, mode: int, resolve: int) -> None:
        super().__init__()
        self.place: Path | None = start
        self.name: bytes = name
        self.flags: int = flags
        self.mode: int = mode
        self.resolve: int = resolve

    def act(self, task: Task) -> int:
        file = do_open(task, self.place, self.name, self.flags | O_LARGEFILE, self.mode, self.resolve)
        if file.open_is_pending(task):  # the name belongs to a FIFO by now: do not wait a second time
            file.get().put()
            return -EAGAIN
        return task.files.install(file, task.nofile_limit(), is_cloexec=self.flags & O_CLOEXEC != 0)


def open_at(task: Task, start: Path | None, name: bytes, flags: int, mode: int, resolve: int) -> int:
    """Open and install; EMFILE comes before anything is created."""
    files = task.files
    limit = task.nofile_limit()
    if files.count >= limit:
        files.reserve(limit)
    try:
        file = open_quick(task, start, name, flags | O_LARGEFILE, mode, resolve)
    except LeaseBroken as broken:
        return OpenLeaseWait(start, name, flags, mode, resolve).start(task, broken)
    if isinstance(file, int):
        return file
    is_cloexec = flags & O_CLOEXEC != 0
    if file.open_is_pending(task):
        queue = file.wait_queue()
        if queue is not None:
            return block_on(task, OpenWait(file, is_cloexec=is_cloexec), queue)
    return files.install(file, limit, is_cloexec=is_cloexec)


def sys_open(task: Task, args: Args) -> int:
    """open(2)."""
    return open_at(task, None, path_arg(task, args.a0), to_u32(args.a1), args.a2 & 0o7777, 0)


def sys_openat(task: Task, args: Args) -> int:
    """openat(2)."""
    name = path_arg(task, args.a1)
    return open_at(task, start_of(task, args.a0, name), name, to_u32(args.a2), args.a3 & 0o7777, 0)


def sys_creat(task: Task, args: Args) -> int:
    """creat(2)."""
    return open_at(task, None, path_arg(task, args.a0), O_CREAT | O_WRONLY | O_TRUNC, args.a1 & 0o7777, 0)


def read_extensible(task: Task, addr: int, size: int, known_size: int) -> bytes:
    """copy_struct_from_user: the known part of a growing struct; E2BIG if the rest is not zero."""
    raw = task.user_memory().read(addr, size)
    for byte in raw[known_size:]:
        if byte:
            raise LinuxError(E2BIG)
    return raw if size >= known_size else raw + bytes(known_size - size)


def sys_openat2(task: Task, args: Args) -> int:
    """openat2(2)."""
    size = to_u64(args.a3)
    if size < OPEN_HOW_SIZE:
        return -EINVAL
    if size > _PAGE:
        return -E2BIG
    raw = read_extensible(task, to_u64(args.a2), size, OPEN_HOW_SIZE)
    flags, mode, resolve = unpack_open_how(raw)
    check_open_how(flags, mode, resolve)
    name = path_arg(task, args.a1)
    # RESOLVE_IN_ROOT makes the directory the root, for absolute names too.
    start = start_of(task, args.a0, b"." if resolve & RESOLVE_IN_ROOT else name)
    return open_at(task, start, name, flags, mode, resolve)


# -- close ---------------------------------------------------------------------------------------------------
def sys_close(task: Task, args: Args) -> int:
    """close(2)."""
    fd = to_i32(args.a0)
    files = task.files
    if files.find(fd) is None:
        return -EBADF
    return files.close(task, fd)


class CloseRange(Blocked):
    """A close_range, in slices: there may be a hundred thousand."""

    def __init__(self, files: FdTable, first: int, last: int, *, is_marking: bool) -> None:
        super().__init__()
        self.files: FdTable = files
        self.at: int = first
        self.last: int = last
        self.is_marking: bool = is_marking

    def retry(self, task: TaskBase) -> int:
        end_ns = 0
        files = self.files
        stop = min(self.last + 1, files.size)
        while self.at < stop:
            batch_end = min(self.at + _CLOSES, stop)
            for fd in range(self.at, batch_end):
                if files.find(fd) is not None:
                    if self.is_marking:
                        files.set_cloexec(fd, is_cloexec=True)
                    else:
                        files.close(task, fd)
            self.at = batch_end
            now_ns = monotonic_ns()
            if not end_ns:
                end_ns = now_ns + SLICE_NS
            elif now_ns >= end_ns and self.at < stop:
                return next_slice(task, self)
        return 0

    def interrupted(self, task: TaskBase) -> int:
        return -EINTR if isinstance(task, Task) and task.is_kill_pending else BLOCKED


def sys_close_range(task: Task, args: Args) -> int:
    """close_range(2)."""
    first, last, flags = to_u32(args.a0), to_u32(args.a1), to_u32(args.a2)
    if flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) or last < first:
        return -EINVAL
    files = task.files
    if flags & CLOSE_RANGE_UNSHARE and files.users > 1:
        files = unshare_files(task)
    return CloseRange(files, first, last, is_marking=flags & CLOSE_RANGE_CLOEXEC != 0).retry(task)


def unshare_files(task: Task) -> FdTable:
    """Give the task a descriptor table of its own."""
    old = task.files
    task.files = old.clone()
    old.users -= 1
    return task.files


# -- dup -----------------------------------------------------------------------------------------------------
def sys_dup(task: Task, args: Args) -> int:
    """dup(2)."""
    files = task.files
    return files.install(files.get(to_i32(args.a0)), task.nofile_limit())


def sys_dup2(task: Task, args: Args) -> int:
    """dup2(2)."""
    old, new = to_i32(args.a0), to_i32(args.a1)
    if old == new:
        return -EBADF if task.files.find(old) is None else new
    return duplicate_at(task, old, new, is_cloexec=False)


def sys_dup3(task: Task, args: Args) -> int:
    """dup3(2)."""
    old, new, flags = to_i32(args.a0), to_i32(args.a1), to_u32(args.a2)
    if flags & ~O_CLOEXEC or old == new:
        return -EINVAL
    return duplicate_at(task, old, new, is_cloexec=flags & O_CLOEXEC != 0)


def duplicate_at(task: Task, old: int, new: int, *, is_cloexec: bool) -> int:
    """Make `new` refer to the open file of `old`."""
    if new < 0 or new >= task.nofile_limit():
        return -EBADF
    file = task.files.find(old)
    if file is None:
        return -EBADF
    task.files.install_at(task, new, file, is_cloexec=is_cloexec)
    return new


# -- memfd ---------------------------------------------------------------------------------------------------
def memfd_mount(container: Container) -> MemfdMount | None:
    """The internal mount that memfds belong to; it is not in any namespace."""
    fs = container.memory_fs
    if not isinstance(fs, TmpFs):
        return None
    if fs.memfds is None:
        fs.memfds = MemfdMount(fs)
    mount = fs.memfds
    assert isinstance(mount, MemfdMount)
    return mount


def sys_memfd_create(task: Task, args: Args) -> int:
    """memfd_create(2)."""
    flags = to_u32(args.a1)
    name = task.user_memory().cstring(to_u64(args.a0), _MFD_NAME_MAX + 1)
    if name is None:
        return -EFAULT
    place = memfd_mount(task.group.container)
    if place is None:
        return -ENOSYS
    limit = task.nofile_limit()
    task.files.reserve(limit)
    file = memfd_create(task, place, name, flags)
    file.flags |= O_LARGEFILE
    return task.files.install(file, limit, is_cloexec=flags & MFD_CLOEXEC != 0)
