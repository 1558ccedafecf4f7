"""poll, select and epoll, with their signal masks and time limits (fs/select.c, fs/eventpoll.c).

A waiting call holds references to the files that it has asked, waits on all their queues, and asks again when one is
woken. Deadlines are absolute, so that a retry or a restart never waits longer than was asked.
"""

from typing import Final

from cloche.abi.errno import EBADF, EFAULT, EINTR, EINVAL, ERESTART_RESTARTBLOCK, ERESTARTNOHAND, LinuxError
from cloche.abi.fcntl import O_CLOEXEC, O_PATH
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.abi.personality import STICKY_TIMEOUTS
from cloche.abi.poll import (
    EPOLL_CTL_DEL,
    POLLERR,
    POLLEX_SET,
    POLLHUP,
    POLLIN,
    POLLIN_SET,
    POLLNVAL,
    POLLOUT,
    POLLOUT_SET,
    POLLPRI,
    POLLRDNORM,
    POLLWRNORM,
)
from cloche.abi.structs import (
    EPOLL_EVENT_SIZE,
    POLLFD,
    POLLFD_SIZE,
    pack_timespec,
    pack_timeval,
    pack_u16,
    unpack_epoll_event,
    unpack_timespec_raw,
    unpack_timeval_raw,
)
from cloche.fs.epoll import EpollFile, epoll_ctl
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on, block_on_time, next_slice
from cloche.kernel.signals import restore_saved_sigmask, set_temporary_sigmask, signal_pending
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.syscalls.long_poll import MANY, LongPoll
from cloche.vfs.objects import FileDescription

_ALWAYS: Final = POLLERR | POLLHUP
_SELECT_IN: Final = POLLIN_SET
_SELECT_OUT: Final = POLLOUT_SET
_NS: Final = 1_000_000_000
_FOREVER_S: Final = 9_000_000_000  # a longer time limit counts as none (KTIME_MAX)
_MAX_EVENTS: Final = 0x7FFFFFFF // EPOLL_EVENT_SIZE


# -- masks and deadlines -------------------------------------------------------------------------------------
def set_user_sigmask(task: Task, addr: int, size: int) -> None:
    """Put a call's own signal mask into force until the call ends (set_user_sigmask).  Raises LinuxError."""
    if addr == 0:
        return
    if size != 8:
        raise LinuxError(EINVAL)
    set_temporary_sigmask(task, task.user_memory().read_u64(addr))


def deadline_after(seconds: int, nanoseconds: int) -> int:
    """When a relative time has passed; -1 if that is never."""
    if seconds >= _FOREVER_S:
        return -1
    return monotonic_ns() + seconds * _NS + nanoseconds


class TimeLimit:
    """The time limit of select, pselect6 or ppoll: its deadline, and where the time left is written."""

    def __init__(self, deadline_ns: int, addr: int, *, is_timeval: bool, is_zero: bool) -> None:
        self.deadline_ns: int = deadline_ns
        self.addr: int = addr
        self.is_timeval: bool = is_timeval
        self.is_zero: bool = is_zero


def read_limit(task: Task, addr: int, *, is_timeval: bool) -> TimeLimit:
    """Read a time limit (addr 0: none).  Raises LinuxError: EFAULT, EINVAL."""
    if addr == 0:
        return TimeLimit(-1, 0, is_timeval=is_timeval, is_zero=False)
    data = task.user_memory().read(addr, 16)
    if is_timeval:
        seconds, micros = unpack_timeval_raw(data, 0)
        if seconds < 0 or micros < 0:
            raise LinuxError(EINVAL)
        seconds += micros // 1_000_000
        nanos = micros % 1_000_000 * 1000
    else:
        seconds, nanos = unpack_timespec_raw(data, 0)
        if seconds < 0 or nanos < 0 or nanos >= _NS:
            raise LinuxError(EINVAL)
    is_zero = seconds == 0 and nanos == 0
    return TimeLimit(deadline_after(seconds, nanos), addr, is_timeval=is_timeval, is_zero=is_zero)


def finish_limit(task: Task, limit: TimeLimit, result: int) -> int:
    """Restore the mask, write the time left, and the final result (poll_select_finish)."""
    if result != -ERESTARTNOHAND:
        restore_saved_sigmask(task)
    if limit.addr == 0:
        return result
    if task.personality & STICKY_TIMEOUTS == 0:
        if limit.is_zero:
            return result
        left = 0
        if limit.deadline_ns >= 0:
            left = max(limit.deadline_ns - monotonic_ns(), 0)
        elif limit.deadline_ns < 0:
            left = _FOREVER_S * _NS
        try:
            task.user_memory().write(
                limit.addr, pack_timeval(left) if limit.is_timeval else pack_timespec(left)
            )
            return result
        except LinuxError:
            pass  # a time limit in read-only memory is no error, but such a call cannot be restarted
    return -EINTR if result == -ERESTARTNOHAND else result


# -- waiting on many files -----------------------------------------------------------------------------------
class FilesWait(Blocked):
    """A call that waits on several files and holds a reference to each."""

    def __init__(self, deadline_ns: int) -> None:
        super().__init__(deadline_ns)
        self.held: list[FileDescription] = []

    def watch(self, task: Task, file: FileDescription, mask: int) -> None:
        """Wait on the queue of `file`, too, for POLL* `mask`."""
        self.held.append(file.get())
        queue = file.wait_queue()
        if queue is not None and queue.widen(task.waiter, mask):
            self.queues.append(queue)

    def finished(self, task: TaskBase) -> None:
        held = self.held
        self.held = []
        for file in held:
            file.put()


def _wake_mask(events: int) -> int:
    """The events to be woken for: some files wake the NORM bits as IN and OUT."""
    if events & POLLRDNORM:
        events |= POLLIN
    if events & POLLWRNORM:
        events |= POLLOUT
    return events


# -- poll ----------------------------------------------------------------------------------------------------
class PollSet:
    """The pollfd array of a call, with the files that it named at the start."""

    def __init__(self, task: Task, addr: int, count: int) -> None:
        self.addr: int = addr
        self.count: int = count
        self.raw: bytes = task.user_memory().read(addr, count * POLLFD_SIZE)
        self.files: list[FileDescription | None] = []
        self.events: list[int] = []  # -1: the descriptor is negative, and ignored
        table = task.files
        for fd, events, _revents in POLLFD.iter_unpack(self.raw):
            if fd < 0:
                self.files.append(None)
                self.events.append(-1)
                continue
            file = table.find(fd)
            if file is not None and file.flags & O_PATH:
                file = None
            self.files.append(file)
            self.events.append((events & 0xFFFF) | _ALWAYS)

    def check(self, task: Task) -> int:
        """Ask every file; if any has something, write the whole answer and return how many, else 0."""
        files = self.files
        events = self.events
        found = 0
        answers: list[int] = []
        for index in range(len(files)):
            wanted = events[index]
            file = files[index]
            if file is not None:
                mask = file.poll(task) & wanted
            else:
                mask = 0 if wanted < 0 else POLLNVAL
            if mask:
                found += 1
            answers.append(mask)
        if found:
            self.write(task, answers)
        return found

    def write(self, task: Task, answers: list[int]) -> None:
        """Set every revents.  Raises LinuxError(EFAULT)."""
        out = bytearray(self.raw)
        at = 6
        for mask in answers:
            out[at : at + 2] = pack_u16(mask & 0xFFFF)
            at += POLLFD_SIZE
        task.user_memory().write(self.addr, bytes(out))

    def write_none(self, task: Task) -> None:
        """Nothing is ready: zero every revents."""
        self.write(task, [0] * self.count)


class PollWait(FilesWait):
    """A waiting poll or ppoll (`limit` is ppoll's)."""

    def __init__(self, fds: PollSet, deadline_ns: int, limit: TimeLimit | None) -> None:
        super().__init__(deadline_ns)
        self.fds: PollSet = fds
        self.limit: TimeLimit | None = limit

    def start(self, task: Task) -> int:
        """Wait on all files; returns BLOCKED."""
        fds = self.fds
        for index in range(len(fds.files)):
            file = fds.files[index]
            if file is not None:
                self.watch(task, file, _wake_mask(fds.events[index]))
        return block_on_time(task, self)

    def _finish(self, task: TaskBase, result: int) -> int:
        limit = self.limit
        return result if limit is None else finish_limit(as_task(task), limit, result)

    def retry(self, task: TaskBase) -> int:
        found = self.fds.check(as_task(task))
        return self._finish(task, found) if found else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        found = self.fds.check(as_task(task))
        if found == 0:
            self.fds.write_none(as_task(task))
        return self._finish(task, found)

    def interrupted(self, task: TaskBase) -> int:
        if self.limit is not None:
            return self._finish(task, -ERESTARTNOHAND)
        as_task(task).restart = self
        return -ERESTART_RESTARTBLOCK

    def restart(self, task: TaskBase) -> int:
        """do_restart_poll: from the start, until the same deadline."""
        return do_poll(as_task(task), self.fds.addr, self.fds.count, self.deadline_ns, None)


def as_task(task: TaskBase) -> Task:
    """The only real subclass."""
    assert isinstance(task, Task)
    return task


class ManyPoll(LongPoll):
    """A poll or ppoll (`limit` is ppoll's) of many descriptors."""

    def __init__(self, task: Task, addr: int, count: int, deadline_ns: int, limit: TimeLimit | None) -> None:
        super().__init__(task, addr, count, deadline_ns)
        self.limit: TimeLimit | None = limit

    def ended(self, task: Task, result: int) -> int:
        limit = self.limit
        return result if limit is None else finish_limit(task, limit, result)

    def signalled(self, task: Task) -> int:
        if self.limit is not None:
            return finish_limit(task, self.limit, -ERESTARTNOHAND)
        task.restart = self
        return -ERESTART_RESTARTBLOCK

    def wake_mask(self, events: int) -> int:
        return _wake_mask(events)

    def restart(self, task: TaskBase) -> int:
        return do_poll(as_task(task), self.addr, self.count, self.deadline_ns, None)


def _start_many(task: Task, op: ManyPoll) -> int:
    """The first slice, with a result as `do_poll` gives it."""
    try:
        result = op.work(task)
    except LinuxError:
        op.finished(task)
        raise
    if result != BLOCKED:
        op.finished(task)
    return op.signalled(task) if result == -ERESTARTNOHAND and op.limit is None else result


def do_poll(task: Task, addr: int, count: int, deadline_ns: int, limit: TimeLimit | None) -> int:
    """The common part of poll and ppoll; the result may be a restart code."""
    if count > task.nofile_limit():
        return -EINVAL
    if count > MANY:
        return _start_many(task, ManyPoll(task, addr, count, deadline_ns, limit))
    fds = PollSet(task, addr, count)
    found = fds.check(task)
    if found:
        return found
    wait = PollWait(fds, deadline_ns, limit)
    if signal_pending(task):
        return -ERESTARTNOHAND if limit is not None else wait.interrupted(task)
    if 0 <= deadline_ns <= monotonic_ns():
        fds.write_none(task)
        return 0
    return wait.start(task)


def sys_poll(task: Task, args: Args) -> int:
    """poll(2)."""
    timeout_ms = to_i32(args.a2)
    if timeout_ms < 0:
        deadline = -1
    elif timeout_ms == 0:
        deadline = 0
    else:
        deadline = monotonic_ns() + timeout_ms * 1_000_000
    return do_poll(task, to_u64(args.a0), to_u32(args.a1), deadline, None)


def sys_ppoll(task: Task, args: Args) -> int:
    """ppoll(2)."""
    limit = read_limit(task, to_u64(args.a2), is_timeval=False)
    set_user_sigmask(task, to_u64(args.a3), to_u64(args.a4))
    deadline = 0 if limit.is_zero else limit.deadline_ns
    try:
        result = do_poll(task, to_u64(args.a0), to_u32(args.a1), deadline, limit)
    except LinuxError as error:
        result = -error.errno
    if result == BLOCKED:
        return BLOCKED
    return finish_limit(task, limit, result)


# -- select --------------------------------------------------------------------------------------------------
class SelectSet:
    """The three sets of a call, with the files that they named at the start."""

    def __init__(self, task: Task, count: int, in_addr: int, out_addr: int, ex_addr: int) -> None:
        table = task.files
        room = 64
        while room < table.size:
            room *= 2
        count = min(count, room)  # what is beyond the table is ignored (core_sys_select)
        self.length: int = (count + 63) // 64 * 8
        self.addresses: tuple[int, int, int] = (in_addr, out_addr, ex_addr)
        sets = (self._read(task, in_addr), self._read(task, out_addr), self._read(task, ex_addr))
        self.files: list[tuple[int, int, FileDescription]] = []  # (descriptor, POLL* bits that count, file)
        valid = (1 << count) - 1
        everything = 0
        for each in sets:
            everything |= int.from_bytes(each, "little")
        whole = (everything & valid).to_bytes(self.length, "little")
        readable, writable, urgent = sets
        for at in range(self.length):  # byte by byte: integers of this length are slow
            bits = whole[at]
            if bits == 0:
                continue
            for bit in range(8):
                flag = 1 << bit
                if bits & flag == 0:
                    continue
                fd = at * 8 + bit
                file = table.find(fd)
                if file is None or file.flags & O_PATH:
                    raise LinuxError(EBADF)
                mask = POLLIN_SET if readable[at] & flag else 0
                if writable[at] & flag:
                    mask |= POLLOUT_SET
                self.files.append((fd, mask | (POLLEX_SET if urgent[at] & flag else 0), file))
        self.readable: bytes = readable
        self.writable: bytes = writable
        self.urgent: bytes = urgent

    def _read(self, task: Task, addr: int) -> bytes:
        if addr == 0 or self.length == 0:
            return bytes(self.length)
        return task.user_memory().read(addr, self.length)

    def check(self, task: Task) -> int:
        """Ask every file; if any has something, write the answer and return the number of bits, else 0."""
        found = 0
        readable, writable, urgent = bytearray(self.length), bytearray(self.length), bytearray(self.length)
        for fd, wanted, file in self.files:
            mask = file.poll(task)
            if mask & (wanted | _ALWAYS) == 0:
                continue
            at, flag = fd >> 3, 1 << (fd & 7)
            if mask & POLLIN_SET and self.readable[at] & flag:
                readable[at] |= flag
                found += 1
            if mask & POLLOUT_SET and self.writable[at] & flag:
                writable[at] |= flag
                found += 1
            if mask & POLLEX_SET and self.urgent[at] & flag:
                urgent[at] |= flag
                found += 1
        if found:
            self._write(task, readable, writable, urgent)
        return found

    def write_none(self, task: Task) -> None:
        """Nothing is ready: empty the caller's sets.  Raises LinuxError(EFAULT)."""
        empty = bytearray(self.length)
        self._write(task, empty, empty, empty)

    def _write(self, task: Task, readable: bytearray, writable: bytearray, urgent: bytearray) -> None:
        mem = task.user_memory()
        in_addr, out_addr, ex_addr = self.addresses
        if in_addr:
            mem.write(in_addr, bytes(readable))
        if out_addr:
            mem.write(out_addr, bytes(writable))
        if ex_addr:
            mem.write(ex_addr, bytes(urgent))


class SelectWait(FilesWait):
    """A waiting select or pselect6."""

    def __init__(self, fds: SelectSet, limit: TimeLimit) -> None:
        super().__init__(limit.deadline_ns)
        self.fds: SelectSet = fds
        self.limit: TimeLimit = limit

    def start(self, task: Task) -> int:
        """Wait on all files; returns BLOCKED."""
        for _fd, wanted, file in self.fds.files:
            mask = _ALWAYS | (wanted & ~POLLEX_SET)
            self.watch(task, file, mask | POLLPRI if wanted & POLLEX_SET else mask)
        return block_on_time(task, self)

    def retry(self, task: TaskBase) -> int:
        found = self.fds.check(as_task(task))
        return finish_limit(as_task(task), self.limit, found) if found else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        found = self.fds.check(as_task(task))
        if found == 0:
            self.fds.write_none(as_task(task))
        return finish_limit(as_task(task), self.limit, found)

    def interrupted(self, task: TaskBase) -> int:
        return finish_limit(as_task(task), self.limit, -ERESTARTNOHAND)


def do_select(task: Task, args: Args, limit: TimeLimit) -> int:
    """The common part of select and pselect6."""
    count = to_i32(args.a0)
    if count < 0:
        return -EINVAL
    fds = SelectSet(task, count, to_u64(args.a1), to_u64(args.a2), to_u64(args.a3))
    found = fds.check(task)
    if found:
        return found
    if signal_pending(task):
        return -ERESTARTNOHAND
    if limit.is_zero or 0 <= limit.deadline_ns <= monotonic_ns():
        fds.write_none(task)
        return 0
    return SelectWait(fds, limit).start(task)


def _select_and_finish(task: Task, args: Args, limit: TimeLimit) -> int:
    try:
        result = do_select(task, args, limit)
    except LinuxError as error:
        result = -error.errno
    return BLOCKED if result == BLOCKED else finish_limit(task, limit, result)


def sys_select(task: Task, args: Args) -> int:
    """select(2)."""
    return _select_and_finish(task, args, read_limit(task, to_u64(args.a4), is_timeval=True))


def sys_pselect6(task: Task, args: Args) -> int:
    """pselect6(2): the sixth argument points to the mask's address and size."""
    mask_addr = 0
    mask_size = 0
    if args.a5:
        mem = task.user_memory()
        mask_addr = mem.read_u64(to_u64(args.a5))
        mask_size = mem.read_u64(to_u64(args.a5) + 8)
    limit = read_limit(task, to_u64(args.a4), is_timeval=False)
    set_user_sigmask(task, mask_addr, mask_size)
    return _select_and_finish(task, args, limit)


# -- epoll ---------------------------------------------------------------------------------------------------
class EpollWait(Blocked):
    """A waiting epoll_wait."""

    def __init__(self, epoll: EpollFile, addr: int, limit: int, deadline_ns: int) -> None:
        super().__init__(deadline_ns if deadline_ns else -1)
        epoll.get()
        self.epoll: EpollFile = epoll
        self.addr: int = addr
        self.limit: int = limit
        self.is_late: bool = deadline_ns == 0

    def retry(self, task: TaskBase) -> int:
        result = deliver_events(as_task(task), self.epoll, self.addr, self.limit)
        if result == 0:
            if self.epoll.ready:  # further items are on the ready list
                return next_slice(task, self)
            if not self.is_late:
                return BLOCKED
        restore_saved_sigmask(as_task(task))
        return result

    def timed_out(self, task: TaskBase) -> int:
        self.is_late = True
        return self.retry(task)

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED if self.is_late and not task.is_kill_pending else -EINTR

    def finished(self, task: TaskBase) -> None:
        self.epoll.pass_on()
        self.epoll.put()


def deliver_events(task: Task, epoll: EpollFile, addr: int, limit: int) -> int:
    """Copy out what is ready; the number of events."""
    if not epoll.ready:
        return 0
    data = epoll.collect(task, limit)
    if not data:
        return 0
    task.user_memory().write(addr, data)
    return len(data) // EPOLL_EVENT_SIZE


def do_epoll_wait(task: Task, args: Args, deadline_ns: int) -> int:
    """The common part of epoll_wait, epoll_pwait and epoll_pwait2; deadline 0: do not wait."""
    limit = to_i32(args.a2)
    if limit <= 0 or limit > _MAX_EVENTS:
        return -EINVAL
    addr = to_u64(args.a1)
    if addr + limit * EPOLL_EVENT_SIZE > TASK_SIZE_MAX:
        return -EFAULT
    epoll = task.files.find(to_i32(args.a0))
    if epoll is None or epoll.flags & O_PATH:
        return -EBADF
    if not isinstance(epoll, EpollFile):
        return -EINVAL
    result = deliver_events(task, epoll, addr, limit)
    if result:
        epoll.pass_on()
        return result
    has_more = len(epoll.ready) > 0  # items left on the ready list
    if 0 <= deadline_ns <= monotonic_ns():
        if not has_more:
            return 0
        deadline_ns = 0
    if deadline_ns and signal_pending(task):
        return -EINTR
    wait = EpollWait(epoll, addr, limit, deadline_ns)
    if has_more:
        epoll.waiters.add(task.waiter, POLLIN, is_exclusive=True)
        wait.queues.append(epoll.waiters)
        return next_slice(task, wait)
    return block_on(task, wait, epoll.waiters, POLLIN, is_exclusive=True)


def _deadline_ms(timeout_ms: int) -> int:
    if timeout_ms < 0:
        return -1
    return monotonic_ns() + timeout_ms * 1_000_000 if timeout_ms else 0


def _epoll_masked(task: Task, args: Args, deadline_ns: int) -> int:
    set_user_sigmask(task, to_u64(args.a4), to_u64(args.a5))
    try:
        result = do_epoll_wait(task, args, deadline_ns)
    except LinuxError as error:
        result = -error.errno
    if result != BLOCKED and result != -EINTR:
        restore_saved_sigmask(task)
    return result


def sys_epoll_wait(task: Task, args: Args) -> int:
    """epoll_wait(2)."""
    return do_epoll_wait(task, args, _deadline_ms(to_i32(args.a3)))


def sys_epoll_pwait(task: Task, args: Args) -> int:
    """epoll_pwait(2)."""
    return _epoll_masked(task, args, _deadline_ms(to_i32(args.a3)))


def sys_epoll_pwait2(task: Task, args: Args) -> int:
    """epoll_pwait2(2): the time limit is a timespec."""
    limit = read_limit(task, to_u64(args.a3), is_timeval=False)
    return _epoll_masked(task, args, 0 if limit.is_zero else limit.deadline_ns)


def sys_epoll_create(task: Task, args: Args) -> int:
    """epoll_create(2): the size only has to be positive."""
    return -EINVAL if to_i32(args.a0) <= 0 else _epoll_create(task, 0)


def sys_epoll_create1(task: Task, args: Args) -> int:
    """epoll_create1(2)."""
    flags = to_i32(args.a0)
    return -EINVAL if flags & ~O_CLOEXEC else _epoll_create(task, flags)


def _epoll_create(task: Task, flags: int) -> int:
    epoll = EpollFile(task.kernel)
    return task.files.install(epoll, task.nofile_limit(), is_cloexec=flags & O_CLOEXEC != 0)


def sys_epoll_ctl(task: Task, args: Args) -> int:
    """epoll_ctl(2)."""
    operation = to_i32(args.a1)
    fd = to_i32(args.a2)
    events = 0
    data = 0
    if operation != EPOLL_CTL_DEL:
        events, data = unpack_epoll_event(task.user_memory().read(to_u64(args.a3), EPOLL_EVENT_SIZE))
    epoll = task.files.find(to_i32(args.a0))
    file = task.files.find(fd)
    if epoll is None or file is None or epoll.flags & O_PATH or file.flags & O_PATH:
        return -EBADF
    return epoll_ctl(task, epoll, operation, fd, file, events, data)
