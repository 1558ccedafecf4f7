"""POSIX message queues: mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr (ipc/mqueue.c).

The queues themselves are in `fs.mqueue`.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EINVAL, EMSGSIZE, ENOENT, LinuxError
from cloche.abi.fcntl import O_ACCMODE, O_CREAT, O_EXCL, O_NONBLOCK, O_PATH
from cloche.abi.ipc import (
    MQ_ATTR,
    MQ_ATTR_SIZE,
    MQ_PRIO_MAX,
    NOTIFY_COOKIE_LEN,
    SIGEV_NONE,
    SIGEV_SIGNAL,
    SIGEV_THREAD,
)
from cloche.abi.signal_structs import SIGEVENT_SIZE
from cloche.abi.structs import TIMESPEC_SIZE, unpack_timespec
from cloche.abi.time import CLOCK_REALTIME
from cloche.fs.mqueue import (
    DFLT_MSG,
    DFLT_MSGSIZE,
    Notification,
    QueueFile,
    QueueMessage,
    QueueWait,
    copy_message,
    mqueue_fs,
)
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import block_on_time
from cloche.kernel.itimers import monotonic_deadline
from cloche.kernel.task import Task
from cloche.syscalls.args import can_read, can_write, path_arg
from cloche.vfs.namei import do_open, path_lookup, vfs_unlink

_OPEN_FLAGS: Final = O_ACCMODE | O_CREAT | O_EXCL | O_NONBLOCK
_SIGEVENT: Final = Struct("<qii")  # the value, the signal, how to notify


def _name(task: Task, addr: int) -> bytes:
    """A name: one component (lookup_one_len).  Raises LinuxError(EACCES, ENOENT)."""
    name = path_arg(task, addr)
    if not name:
        raise LinuxError(ENOENT)
    if name in (b".", b"..") or b"/" in name:
        raise LinuxError(EACCES)
    return name


def sys_mq_open(task: Task, args: Args) -> int:
    """mq_open(2)."""
    flags, mode = to_u32(args.a1), args.a2 & 0o7777
    attr = (DFLT_MSG, DFLT_MSGSIZE)
    if args.a3:
        fields = MQ_ATTR.unpack(task.user_memory().read(to_u64(args.a3), MQ_ATTR_SIZE))
        attr = (fields[1], fields[2])
    name = _name(task, args.a0)
    limit = task.nofile_limit()
    task.files.reserve(limit)
    fs = mqueue_fs(task.kernel, task.ns.ipc)
    is_new = False
    try:
        path_lookup(task, fs.root(), name, 0)
    except LinuxError as error:
        if error.errno != ENOENT or not flags & O_CREAT:
            raise
        is_new = True
    if not is_new:
        if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL:
            return -EEXIST
        if flags & O_ACCMODE == O_ACCMODE:
            return -EINVAL
    fs.next_attr = attr
    try:
        file = do_open(task, fs.root(), name, flags & _OPEN_FLAGS, mode)
    finally:
        fs.next_attr = (DFLT_MSG, DFLT_MSGSIZE)
    return task.files.install(file, limit, is_cloexec=True)


def sys_mq_unlink(task: Task, args: Args) -> int:
    """mq_unlink(2)."""
    fs = mqueue_fs(task.kernel, task.ns.ipc)
    vfs_unlink(task, fs.root(), _name(task, args.a0))
    return 0


def _deadline(task: Task, addr: int) -> int:
    """The time limit, on CLOCK_REALTIME, as one of CLOCK_MONOTONIC; -1 for none."""
    if not addr:
        return -1
    limit_ns = unpack_timespec(task.user_memory().read(to_u64(addr), TIMESPEC_SIZE))
    return monotonic_deadline(CLOCK_REALTIME, limit_ns)


def _queue_file(task: Task, fd: int) -> QueueFile:
    """Raises LinuxError(EBADF) for anything else."""
    file = task.files.get(to_i32(fd))
    if not isinstance(file, QueueFile) or file.flags & O_PATH:
        raise LinuxError(EBADF)
    return file


def sys_mq_timedsend(task: Task, args: Args) -> int:
    """mq_timedsend(2)."""
    length, priority = to_u64(args.a2), to_u32(args.a3)
    deadline_ns = _deadline(task, args.a4)
    if priority >= MQ_PRIO_MAX:
        return -EINVAL
    file = _queue_file(task, args.a0)
    if not can_write(file):
        return -EBADF
    queue = file.queue
    if length > queue.size_limit:
        return -EMSGSIZE
    message = QueueMessage(task.user_memory().read(to_u64(args.a1), length), priority)
    if queue.count < queue.capacity:
        queue.put(task, message)
        return 0
    if file.flags & O_NONBLOCK:
        return -EAGAIN
    waiter = QueueWait(file, task, deadline_ns, message)
    queue.senders[waiter] = None
    return block_on_time(task, waiter)


def sys_mq_timedreceive(task: Task, args: Args) -> int:
    """mq_timedreceive(2)."""
    addr, length, priority_addr = to_u64(args.a1), to_u64(args.a2), to_u64(args.a3)
    deadline_ns = _deadline(task, args.a4)
    file = _queue_file(task, args.a0)
    if not can_read(file):
        return -EBADF
    queue = file.queue
    if length < queue.size_limit:
        return -EMSGSIZE
    if queue.count:
        return copy_message(task, queue.take(), addr, priority_addr)
    if file.flags & O_NONBLOCK:
        return -EAGAIN
    waiter = QueueWait(file, task, deadline_ns, None)
    waiter.addr, waiter.priority_addr = addr, priority_addr
    queue.receivers[waiter] = None
    return block_on_time(task, waiter)


def sys_mq_notify(task: Task, args: Args) -> int:
    """mq_notify(2); SIGEV_THREAD takes a netlink socket, which does not exist here."""
    method, signo, value = -1, 0, 0
    if args.a1:
        value, signo, method = _SIGEVENT.unpack_from(task.user_memory().read(to_u64(args.a1), SIGEVENT_SIZE))
        if method not in (SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD):
            return -EINVAL
        if method == SIGEV_SIGNAL and not 0 <= signo <= 64:
            return -EINVAL
        if method == SIGEV_THREAD:
            task.user_memory().read(to_u64(value), NOTIFY_COOKIE_LEN)
            task.files.get(signo)
            return -EINVAL
    queue = _queue_file(task, args.a0).queue
    owner = queue.notification
    if method < 0:
        if owner is not None and owner.group is task.group:
            queue.notification = None
        return 0
    if owner is not None:
        return -EBUSY
    queue.notification = Notification(task.group, method, signo, value)
    return 0


def sys_mq_getsetattr(task: Task, args: Args) -> int:
    """mq_getsetattr(2)."""
    mem = task.user_memory()
    new_flags = -1
    if args.a1:
        new_flags = MQ_ATTR.unpack(mem.read(to_u64(args.a1), MQ_ATTR_SIZE))[0]
        if new_flags & ~O_NONBLOCK:
            return -EINVAL
    file = _queue_file(task, args.a0)
    queue = file.queue
    old_flags = file.flags & O_NONBLOCK
    if new_flags >= 0:
        file.flags = file.flags & ~O_NONBLOCK | new_flags
    if args.a2:
        attr = MQ_ATTR.pack(old_flags, queue.capacity, queue.size_limit, queue.count, 0, 0, 0, 0)
        mem.write(to_u64(args.a2), attr)
    return 0
