"""io_setup, io_destroy, io_submit, io_cancel, io_getevents, io_pgetevents (fs/aio.c).  Contexts are in `fs.aio`.

A read or write that would block waits in io_submit, as in Linux for pipes and similar files.
"""

from typing import Final

from cloche.abi.aio import (
    IO_EVENT_SIZE,
    IOCB,
    IOCB_CMD_FDSYNC,
    IOCB_CMD_FSYNC,
    IOCB_CMD_POLL,
    IOCB_CMD_PREAD,
    IOCB_CMD_PREADV,
    IOCB_CMD_PWRITE,
    IOCB_CMD_PWRITEV,
    IOCB_FLAG_IOPRIO,
    IOCB_FLAG_RESFD,
    IOCB_KEY_OFFSET,
    IOCB_SIZE,
    KIOCB_KEY,
)
from cloche.abi.errno import EAGAIN, EBADF, EFAULT, EINPROGRESS, EINTR, EINVAL, LinuxError
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.limits import MAX_RW_COUNT, TASK_SIZE_MAX
from cloche.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from cloche.abi.poll import POLLERR, POLLHUP
from cloche.abi.structs import TIMESPEC_SIZE, unpack_timespec
from cloche.abi.uio import RWF_NOWAIT
from cloche.fs.aio import AIO_MAX_NR, AioContext, PollRequest, Request, aio_table, ring_bytes
from cloche.fs.eventfd import EventFile
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, SLICE_BYTES, SLICE_NS, Blocked, TaskBase, block_on, next_slice
from cloche.kernel.signals import restore_saved_sigmask, signal_pending
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import KernelIovIter, UserIovIter, user_iov
from cloche.syscalls.args import can_read, can_write, data_file
from cloche.syscalls.long_io import is_killed
from cloche.syscalls.sys_poll import set_user_sigmask
from cloche.syscalls.sys_rw import accessed, check_rwf, modified, positioned_write, user_segments
from cloche.vfs.objects import FileDescription

_MAX_EVENTS: Final = 0x10000000 // IO_EVENT_SIZE
_READS: Final = (IOCB_CMD_PREAD, IOCB_CMD_PREADV)
_TRANSFERS: Final = (IOCB_CMD_PREAD, IOCB_CMD_PWRITE, IOCB_CMD_PREADV, IOCB_CMD_PWRITEV)
_MORE: Final = -(1 << 41)  # a transfer goes on
_MAX_CONTEXTS: Final = 1024  # of an address space


def _context(task: Task, ident: int) -> AioContext:
    """Raises LinuxError(EINVAL)."""
    found = aio_table(task.mm).contexts.get(to_u64(ident))
    if found is None:
        raise LinuxError(EINVAL)
    return found


def sys_io_setup(task: Task, args: Args) -> int:
    """io_setup(2)."""
    asked, addr = to_u32(args.a0), to_u64(args.a1)
    mem = task.user_memory()
    if mem.read_u64(addr) or asked == 0:
        return -EINVAL
    table = aio_table(task.mm)
    if max(asked, 4 * task.kernel.cpu_count) * 2 & 0xFFFFFFFF > _MAX_EVENTS:
        return -EINVAL
    if (
        asked > AIO_MAX_NR
        or task.kernel.aio_events + asked > AIO_MAX_NR
        or len(table.contexts) >= _MAX_CONTEXTS
    ):
        return -EAGAIN
    prot, flags = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    capacity = max(asked, 4 * task.kernel.cpu_count) * 2
    ident = task.mm.mmap(task.thread, 0, ring_bytes(capacity), prot, flags, None, 0, b"/[aio] (deleted)")
    context = AioContext(task.kernel, task.mm, ident, asked, capacity)
    mem.write(ident, context.header(len(table.contexts)))  # after the mapping, which is only ordered yet
    table.contexts[ident] = context
    task.kernel.aio_events += asked
    mem.write_u64(addr, ident)
    return 0


def sys_io_destroy(task: Task, args: Args) -> int:
    """io_destroy(2)."""
    context = _context(task, args.a0)
    del aio_table(task.mm).contexts[context.ident]
    context.destroy()
    task.mm.munmap(task.thread, context.ident, ring_bytes(context.capacity))
    return 0


# -- submitting ----------------------------------------------------------------------------------------------
class _Submission:
    """One iocb, decoded and checked."""

    def __init__(self, task: Task, context: AioContext, address: int) -> None:
        raw = task.user_memory().read(address, IOCB_SIZE)
        fields = IOCB.unpack(raw)
        self.opcode: int = fields[3]
        self.buffer: int = fields[6]
        self.length: int = fields[7]
        self.offset: int = fields[8]
        self.rw_flags: int = fields[2]
        flags: int = fields[10]
        if fields[9] or self.length < 0:
            raise LinuxError(EINVAL)
        context.require_room()
        self.file: FileDescription = data_file(task, fields[5])
        notify: EventFile | None = None
        if flags & IOCB_FLAG_RESFD:
            found = data_file(task, fields[11])
            if not isinstance(found, EventFile):
                raise LinuxError(EINVAL)
            notify = found
        if flags & IOCB_FLAG_IOPRIO and not 0 <= fields[4] >> 13 <= 3:
            raise LinuxError(EINVAL)
        task.user_memory().write_u32(address + IOCB_KEY_OFFSET, KIOCB_KEY)
        self.request: Request = Request(address, fields[0], notify)
        self.segments: list[tuple[int, int]] = []
        self.source: UserIovIter | None = None  # the data of a write
        self.index: int = 0  # current segment of a read
        self.at: int = 0
        self.done: int = 0

    def may_wait(self) -> bool:
        """Whether a transfer that finds no data, or no room, waits."""
        return self.file.flags & O_NONBLOCK == 0 and self.rw_flags & RWF_NOWAIT == 0

    def prepare(self, task: Task) -> None:
        """The checks of a read or write, whose failure io_submit itself reports.  Raises LinuxError."""
        file = self.file
        is_read = self.opcode in _READS
        if self.rw_flags:
            check_rwf(file, self.rw_flags, is_write=not is_read)
        if not (can_read(file) if is_read else can_write(file)):
            raise LinuxError(EBADF)
        if file.inode.is_dir() or (file.is_seekable() and self.offset < 0):
            raise LinuxError(EINVAL)
        if self.opcode in (IOCB_CMD_PREADV, IOCB_CMD_PWRITEV):
            self.segments = user_segments(task, self.buffer, self.length)
        else:
            if self.buffer + self.length > TASK_SIZE_MAX:
                raise LinuxError(EFAULT)
            self.segments = [(self.buffer, min(self.length, MAX_RW_COUNT))]

    def transfer(self, task: Task) -> int:
        """A piece of the read or write: the result of all of it, -EAGAIN to wait, or _MORE."""
        try:
            return self._read(task) if self.opcode in _READS else self._write(task)
        except LinuxError as error:
            return self.done if self.done else -error.errno

    def _write(self, task: Task) -> int:
        file, source = self.file, self.source
        if source is None:
            source = self.source = user_iov(task.user_memory(), self.segments)
        if not file.is_seekable():
            result = file.write(task, source, self.rw_flags)
            if result < 0:
                is_full = result == -EAGAIN and self.may_wait()
                return self.done if self.done and not is_full else result
            self.done += result
            if result > 0:
                modified(file)
                if source.remaining() and file.write_continues() and self.may_wait():
                    return _MORE
            return self.done
        wanted = min(source.remaining(), SLICE_BYTES)
        hidden = source.narrow(SLICE_BYTES)
        try:
            result = positioned_write(task, file, source, self.offset + self.done, self.rw_flags)
        finally:
            source.widen(hidden)
        if result < 0:
            return self.done if self.done else result
        self.done += result
        return _MORE if hidden and result == wanted else self.done

    def _read(self, task: Task) -> int:
        """Copies out at once, because the event must report the result."""
        file = self.file
        while self.index < len(self.segments):
            base, length = self.segments[self.index]
            if self.at >= length:
                self.index += 1
                self.at = 0
                continue
            wanted = min(length - self.at, SLICE_BYTES)
            sink = KernelIovIter(capacity=wanted)
            if file.is_seekable():
                result = file.pread(task, sink, self.offset + self.done, self.rw_flags)
            else:
                result = file.read(task, sink, self.rw_flags)
            if result <= 0:
                return self.done if self.done else result
            put = task.user_memory().process.write(base + self.at, bytes(sink.sink))
            self.done += put
            self.at += put
            if put < result:
                return self.done if self.done else -EFAULT
            accessed(file)
            return _MORE if result == wanted else self.done
        return self.done


class Submit(Blocked):
    """An io_submit: it works in slices, and waits where a transfer has to wait for a pipe or its kin."""

    def __init__(self, context: AioContext, count: int, addr: int) -> None:
        super().__init__()
        self.context: AioContext = context
        self.count: int = count
        self.addr: int = addr
        self.done: int = 0
        self.current: _Submission | None = None  # holds a reference to its file
        self.is_waiting: bool = False

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        task.kernel.host_waits.commit()
        end_ns = monotonic_ns() + SLICE_NS
        while True:
            one = self.current
            if one is None:
                if self.done >= self.count:
                    return self.done
                error = self._begin(task)
                if error:
                    return self.done if self.done else -error
                one = self.current
            if one is not None:
                result = one.transfer(task)
                queue = one.file.wait_queue()
                if result == -EAGAIN and one.may_wait() and queue is not None:
                    if self.is_waiting:
                        return BLOCKED
                    self.is_waiting = True
                    self.has_slices = False
                    return block_on(task, self, queue)
                if self.is_waiting:
                    self.is_waiting = False
                    for each in self.queues:
                        each.remove(task.waiter)
                    self.queues.clear()
                if result != _MORE:
                    self._end_current(result)
            if monotonic_ns() >= end_ns and self.done < self.count:
                return next_slice(task, self)

    def _begin(self, task: Task) -> int:
        """Take the next iocb, and set `current` if there is a transfer to make. A negative errno: it was not
        submitted.
        """
        one: _Submission | None = None
        try:
            if self.context.is_dead:
                return EINVAL
            address = task.user_memory().read_u64(self.addr + 8 * self.done)
            one = _Submission(task, self.context, address)
            if one.opcode in _TRANSFERS:
                one.prepare(task)
                one.file.get()
                self.current = one
            else:
                _submit_one(task, self.context, one)
                self.done += 1
        except LinuxError as error:
            if one is not None:
                one.request.abandon()
            return error.errno
        return 0

    def _end_current(self, result: int) -> None:
        one = self.current
        if one is not None:
            self.current = None
            self.context.complete(one.request, result)
            self.done += 1
            one.file.put()

    def interrupted(self, task: TaskBase) -> int:
        one = self.current
        if not self.is_waiting and not is_killed(task):
            return BLOCKED
        if one is not None:
            self._end_current(one.done if one.done else -EINTR)
        return self.done

    def finished(self, task: TaskBase) -> None:
        one = self.current
        if one is not None:
            self.current = None
            one.file.put()


def _poll(task: Task, context: AioContext, one: _Submission) -> None:
    """IOCB_CMD_POLL.  Raises LinuxError(EINVAL)."""
    file = one.file
    queue = file.wait_queue()
    if queue is None or one.buffer >> 16 or one.offset or one.length or one.rw_flags:
        raise LinuxError(EINVAL)
    mask = one.buffer | POLLERR | POLLHUP
    ready = file.poll(task) & mask
    if ready:
        context.complete(one.request, ready)
        return
    if one.request.address in context.polls:
        raise LinuxError(EINVAL)  # the same iocb twice: io_cancel could not tell them apart
    request = PollRequest(context, task, file, one.request, mask)
    context.polls[one.request.address] = request
    queue.add(request, mask)


def _submit_one(task: Task, context: AioContext, one: _Submission) -> None:
    """Submit an operation other than a transfer. Raises LinuxError: it was not submitted."""
    opcode = one.opcode
    if opcode in (IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC):
        if one.buffer or one.offset or one.length or one.rw_flags:
            raise LinuxError(EINVAL)
        result = one.file.fsync(task, is_data_only=opcode == IOCB_CMD_FDSYNC)
        if result == -EINVAL:
            raise LinuxError(EINVAL)  # the file has no such operation
        context.complete(one.request, result)
    elif opcode == IOCB_CMD_POLL:
        _poll(task, context, one)
    else:
        raise LinuxError(EINVAL)


def sys_io_submit(task: Task, args: Args) -> int:
    """io_submit(2)."""
    count, addr = args.a1, to_u64(args.a2)
    if count < 0:
        return -EINVAL
    context = _context(task, args.a0)
    return Submit(context, min(count, context.capacity), addr).retry(task)


def sys_io_cancel(task: Task, args: Args) -> int:
    """io_cancel(2): only polls are ever under way; the event of a cancelled one is queued."""
    address = to_u64(args.a1)
    if task.user_memory().read_u32(address + IOCB_KEY_OFFSET) != KIOCB_KEY:
        return -EINVAL
    context = _context(task, args.a0)
    poll = context.polls.get(address)
    if poll is None:
        return -EINVAL
    poll.complete(0)
    return -EINPROGRESS


# -- events --------------------------------------------------------------------------------------------------
class EventsWait(Blocked):
    """io_getevents that waits for more events."""

    def __init__(self, context: AioContext, wanted: tuple[int, int], addr: int, deadline_ns: int) -> None:
        super().__init__(deadline_ns)
        self.context: AioContext = context
        self.least: int = wanted[0]
        self.most: int = wanted[1]
        self.addr: int = addr
        self.taken: int = 0
        self.has_mask: bool = False

    def advance(self, task: TaskBase) -> int:
        """Take what is there; BLOCKED if it is not enough yet."""
        data = self.context.take(self.most - self.taken)
        if data:
            task.user_memory().write(self.addr + self.taken * IO_EVENT_SIZE, data)
            self.taken += len(data) // IO_EVENT_SIZE
        if self.context.is_dead and self.taken < self.least:
            return self.taken if self.taken else -EINVAL
        return self.taken if self.taken >= self.least else BLOCKED

    def _end(self, task: TaskBase, result: int) -> int:
        if self.has_mask and result != -EINTR and isinstance(task, Task):
            restore_saved_sigmask(task)
        return result

    def retry(self, task: TaskBase) -> int:
        result = self.advance(task)
        return BLOCKED if result == BLOCKED else self._end(task, result)

    def timed_out(self, task: TaskBase) -> int:
        return self._end(task, self.taken)

    def interrupted(self, task: TaskBase) -> int:
        return self._end(task, self.taken if self.taken else -EINTR)


def _events(task: Task, args: Args, *, has_mask: bool) -> int:
    least, most = args.a1, args.a2
    deadline_ns = -1
    if args.a4:
        limit = task.user_memory().read(to_u64(args.a4), TIMESPEC_SIZE)
        deadline_ns = monotonic_ns() + unpack_timespec(limit)
    context = _context(task, args.a0)
    if least < 0 or least > most:
        return -EINVAL
    wait = EventsWait(context, (least, most), to_u64(args.a3), deadline_ns)
    wait.has_mask = has_mask
    result = wait.advance(task)
    if result != BLOCKED:
        return result
    if 0 <= deadline_ns <= monotonic_ns():
        return wait.taken
    if signal_pending(task):
        return wait.taken if wait.taken else -EINTR
    return block_on(task, wait, context.queue)


def sys_io_getevents(task: Task, args: Args) -> int:
    """io_getevents(2)."""
    return _events(task, args, has_mask=False)


def sys_io_pgetevents(task: Task, args: Args) -> int:
    """io_pgetevents(2): with a signal mask while it waits."""
    has_mask = False
    if args.a5:
        mem = task.user_memory()
        mask_addr, mask_size = mem.read_u64(to_u64(args.a5)), mem.read_u64(to_u64(args.a5) + 8)
        if mask_addr:
            set_user_sigmask(task, mask_addr, mask_size)
            has_mask = True
    try:
        result = _events(task, args, has_mask=has_mask)
    except LinuxError as error:
        result = -error.errno
    if has_mask and result not in (BLOCKED, -EINTR):
        restore_saved_sigmask(task)
    return result
