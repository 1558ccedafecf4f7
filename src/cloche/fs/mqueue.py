"""POSIX message queues and their file system (mq_overview(7), ipc/mqueue.c).

Each IPC namespace has one instance, which every mount of type mqueue in it shows. A message is handed directly to the
receiver that has waited longest, and room to the sender that has. A queue's capacity counts against its maker's
RLIMIT_MSGQUEUE when it is made; the messages themselves against the sandbox's IPC quota.
"""

import time
from typing import Final

from cloche.abi.capability import CAP_SYS_RESOURCE
from cloche.abi.errno import EINVAL, EMFILE, ENOSPC, EOVERFLOW, EPERM, ERESTARTSYS, ETIMEDOUT, LinuxError
from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSUID
from cloche.abi.ipc import MQ_PRIO_MAX, SIGEV_SIGNAL
from cloche.abi.magic import MQUEUE_MAGIC
from cloche.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.abi.resource import RLIMIT_MSGQUEUE
from cloche.abi.signal import SI_MESGQ
from cloche.abi.signal_structs import pack_siginfo_rt
from cloche.abi.stat import S_IFREG
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase
from cloche.kernel.ipc.ids import OBJECT_BYTES, IpcQuota
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import send_group_info
from cloche.kernel.task import Kernel, Task, ThreadGroup
from cloche.kernel.user_counts import UserCounts
from cloche.mm.usermem import IovIter
from cloche.vfs.attr import new_owner
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.mount import new_mount
from cloche.vfs.objects import Context, FileDescription, Inode, Mount, Path
from cloche.vfs.pseudo import DirEntry, PseudoDir, PseudoFs
from cloche.vfs.records import ATTR_SIZE, SetAttr
from cloche.vfs.waitqueue import WaitQueue

DFLT_MSG: Final = 10
DFLT_MSGSIZE: Final = 8192
QUEUES_MAX: Final = 256
MSG_MAX: Final = 10
MSGSIZE_MAX: Final = 8192
HARD_MSGMAX: Final = 65536
HARD_MSGSIZEMAX: Final = 16 * 1024 * 1024
_DIRENT_SIZE: Final = 20
_FILE_SIZE: Final = 80  # st_size of a queue
_HEAD_BYTES: Final = 48  # struct msg_msg, and a node of the tree of priorities
_MESSAGE_BYTES: Final = 160  # memory of a message besides its text


class QueueMessage:
    """A message with its priority."""

    def __init__(self, text: bytes, priority: int) -> None:
        self.text: bytes = text
        self.priority: int = priority


class QueueWait(Blocked):
    """mq_timedsend (with a message) or mq_timedreceive (without) that waits; holds the open file."""

    def __init__(
        self, file: "QueueFile", task: TaskBase, deadline_ns: int, message: QueueMessage | None
    ) -> None:
        super().__init__(deadline_ns)
        self.file: QueueFile = file
        file.get()
        self.task: TaskBase = task
        self.message: QueueMessage | None = message
        self.is_sender: bool = message is not None
        self.is_done: bool = False
        self.addr: int = 0  # address for a receiver's text and priority
        self.priority_addr: int = 0

    def finish(self, message: QueueMessage | None) -> None:
        """The wait is over: a message has arrived, or the sender's own was taken."""
        self.is_done = True
        self.message = message
        self.task.make_ready()

    def _result(self) -> int:
        message = self.message
        if self.is_sender or message is None:
            return 0
        return copy_message(self.task, message, self.addr, self.priority_addr)

    def retry(self, task: TaskBase) -> int:
        return self._result() if self.is_done else BLOCKED

    def timed_out(self, task: TaskBase) -> int:
        return self._result() if self.is_done else -ETIMEDOUT

    def interrupted(self, task: TaskBase) -> int:
        return self._result() if self.is_done else -ERESTARTSYS

    def finished(self, task: TaskBase) -> None:
        queue = self.file.queue
        queue.receivers.pop(self, None)
        queue.senders.pop(self, None)
        self.file.put()


def copy_message(task: TaskBase, message: QueueMessage, addr: int, priority_addr: int) -> int:
    """Give a message to a receiver; its length.  Raises LinuxError(EFAULT)."""
    mem = task.user_memory()
    if priority_addr:
        mem.write_u32(priority_addr, message.priority)
    mem.write(addr, message.text)
    return len(message.text)


class Notification:
    """The process that mq_notify(3) has registered."""

    def __init__(self, group: ThreadGroup, method: int, signo: int, value: int) -> None:
        self.group: ThreadGroup = group
        self.method: int = method
        self.signo: int = signo
        self.value: int = value


class QueueInode(MemoryAttrInode):
    """A queue."""

    def __init__(
        self, fs: "MqueueFs", task: Task, mode: int, owner: tuple[int, int], capacity: int, size_limit: int
    ) -> None:
        super().__init__(fs, fs.alloc_ino(), S_IFREG | mode, owner[0], owner[1])
        self.mqueue: MqueueFs = fs
        self.capacity: int = capacity  # messages
        self.size_limit: int = size_limit  # bytes of a message
        self.messages: dict[int, list[QueueMessage]] = {}  # by priority, never empty
        self.count: int = 0
        self.bytes: int = 0
        self.receivers: dict[QueueWait, None] = {}
        self.senders: dict[QueueWait, None] = {}
        self.poll_queue: WaitQueue = WaitQueue()
        self.notification: Notification | None = None
        self.size = _FILE_SIZE
        self.charged_uid: int = task.creds.uid
        self.charged_bytes: int = 0
        self.is_charged: bool = False  # the queue itself is charged to the quota
        self.usage: UserCounts = task.kernel.mqueue_bytes
        self.atime_ns = self.mtime_ns = self.ctime_ns = time.time_ns()

    def __del__(self) -> None:
        self.usage.add(self.charged_uid, -self.charged_bytes)
        self.charged_bytes = 0
        self.mqueue.quota.uncharge(self.bytes + _MESSAGE_BYTES * self.count)
        if self.is_charged:
            self.is_charged = False
            self.mqueue.quota.uncharge(OBJECT_BYTES)
        self.bytes = self.count = 0

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        if attr.valid & ATTR_SIZE and attr.size != self.size:
            raise LinuxError(EINVAL)
        super().setattr(ctx, attr)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return QueueFile(path, self, flags)

    # -- messages --------------------------------------------------------------------------------------------
    def put(self, task: TaskBase, message: QueueMessage) -> None:
        """Deliver a message; there is room.  Raises LinuxError(ENOMEM)."""
        now = time.time_ns()
        for waiter in self.receivers:
            del self.receivers[waiter]
            waiter.finish(message)
            self.atime_ns = self.mtime_ns = self.ctime_ns = now
            return
        self.mqueue.quota.charge(len(message.text) + _MESSAGE_BYTES)
        self.messages.setdefault(message.priority, []).append(message)
        self.count += 1
        self.bytes += len(message.text)
        self.atime_ns = self.mtime_ns = self.ctime_ns = now
        notification = self.notification
        if notification is not None and self.count == 1:
            self.notification = None
            self._notify(task, notification)
        self.poll_queue.wake(POLLIN | POLLRDNORM)

    def _notify(self, task: TaskBase, notification: Notification) -> None:
        if notification.method == SIGEV_SIGNAL and notification.signo:
            pid, uid, signo = task.thread_group_id(), task.creds.uid, notification.signo
            raw = pack_siginfo_rt(signo, SI_MESGQ, pid, uid, notification.value)
            send_group_info(notification.group, SigInfo(signo, SI_MESGQ, raw, pid, uid))

    def take(self) -> QueueMessage:
        """The oldest message of the highest priority; there is one.  A waiting sender gets the room."""
        highest = max(self.messages)
        row = self.messages[highest]
        message = row.pop(0)
        if not row:
            del self.messages[highest]
        self.count -= 1
        self.bytes -= len(message.text)
        self.mqueue.quota.uncharge(len(message.text) + _MESSAGE_BYTES)
        self.atime_ns = self.mtime_ns = self.ctime_ns = time.time_ns()
        for waiter in self.senders:
            sent = waiter.message
            assert sent is not None
            del self.senders[waiter]
            self.put(waiter.task, sent)
            waiter.finish(None)
            return message
        self.poll_queue.wake(POLLOUT | POLLWRNORM)
        return message


class QueueFile(FileDescription):
    """An open queue."""

    def __init__(self, path: Path, inode: QueueInode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.queue: QueueInode = inode

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        queue = self.queue
        owner = queue.notification
        method = owner.method if owner is not None else SIGEV_SIGNAL
        signo = owner.signo if owner is not None and method == SIGEV_SIGNAL else 0
        reader = ctx.pid_ns if isinstance(ctx, Task) else None
        pid = pid_in(reader, owner.group.tgid) if owner is not None else 0
        text = b"QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n" % (queue.bytes, method, signo, pid)
        return dst.copy_to(text[offset:]) if offset < len(text) else 0

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        return -EINVAL

    def poll(self, ctx: Context) -> int:
        mask = 0
        if self.queue.count:
            mask |= POLLIN | POLLRDNORM
        if self.queue.count < self.queue.capacity:
            mask |= POLLOUT | POLLWRNORM
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.queue.poll_queue

    def flush(self, ctx: Context) -> int:
        notification = self.queue.notification
        if notification is not None and notification.group.tgid == ctx.thread_group_id():
            self.queue.notification = None
        return 0


class QueueDir(PseudoDir):
    """The directory of all queues; a process with write permission can make queues with open(2), too."""

    def __init__(self, fs: "MqueueFs") -> None:
        super().__init__(fs, 0o1777, 1)
        self.mqueue: MqueueFs = fs
        self.queues: dict[bytes, QueueInode] = {}
        self.size = 0

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        return self.queues.get(name)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        found: list[DirEntry] = []
        for name, inode in self.queues.items():
            if inode.ino >= start:
                found.append(DirEntry(inode.ino, name, inode.ino, S_IFREG >> 12))
        return found

    def create(self, ctx: Context, name: bytes, mode: int) -> Inode:
        attr = self.mqueue.next_attr
        self.mqueue.next_attr = (DFLT_MSG, DFLT_MSGSIZE)
        if not isinstance(ctx, Task):
            raise LinuxError(EPERM)
        if len(self.queues) >= QUEUES_MAX and not ctx.creds.capable_here(CAP_SYS_RESOURCE):
            raise LinuxError(ENOSPC)
        uid, gid, mode = new_owner(ctx.creds, self, S_IFREG | mode)
        inode = QueueInode(self.mqueue, ctx, mode & 0o7777, (uid, gid), attr[0], attr[1])
        charge_queue(ctx, inode)
        self.mqueue.quota.charge(OBJECT_BYTES)
        inode.is_charged = True
        self.queues[name] = inode
        self.size += _DIRENT_SIZE
        self.mtime_ns = self.ctime_ns = self.atime_ns = inode.ctime_ns
        return inode

    def unlink(self, ctx: Context, name: bytes, inode: Inode) -> None:
        del self.queues[name]
        self.size -= _DIRENT_SIZE
        inode.nlink -= 1
        self.mtime_ns = self.ctime_ns = self.atime_ns = time.time_ns()


def charge_queue(task: Task, inode: QueueInode) -> None:
    """RLIMIT_MSGQUEUE and the limits of mq_open(3).  Raises LinuxError(EINVAL, EOVERFLOW, EMFILE)."""
    capacity, size_limit = inode.capacity, inode.size_limit
    if capacity <= 0 or size_limit <= 0:
        raise LinuxError(EINVAL)
    if task.creds.capable(CAP_SYS_RESOURCE):
        if capacity > HARD_MSGMAX or size_limit > HARD_MSGSIZEMAX:
            raise LinuxError(EINVAL)
    elif capacity > MSG_MAX or size_limit > MSGSIZE_MAX:
        raise LinuxError(EINVAL)
    tree = capacity * _HEAD_BYTES + min(capacity, MQ_PRIO_MAX) * _HEAD_BYTES
    needed = capacity * size_limit + tree
    if needed >= 1 << 63:
        raise LinuxError(EOVERFLOW)
    usage = inode.usage
    used = usage.of(inode.charged_uid)
    limit = task.group.rlimit(RLIMIT_MSGQUEUE)
    if limit >= 0 and used + needed > limit:
        raise LinuxError(EMFILE)
    usage.add(inode.charged_uid, needed)
    inode.charged_bytes = needed


class MqueueFs(PseudoFs):
    """The instance of a namespace."""

    def __init__(self, dev: int, namespace: IpcNamespace) -> None:
        super().__init__("mqueue", MQUEUE_MAGIC, dev)
        self.quota: IpcQuota = namespace.quota  # not the namespace, which a queue must not keep alive
        self.next_attr: tuple[int, int] = (DFLT_MSG, DFLT_MSGSIZE)  # for the next queue
        self.root_inode = QueueDir(self)
        self.mount: Mount = new_mount(self, MS_NOSUID | MS_NODEV | MS_NOEXEC)  # the namespace's own

    def root(self) -> Path:
        """Where mq_open(3) looks names up."""
        return Path(self.mount, self.mount.root)


def mqueue_fs(kernel: Kernel, namespace: IpcNamespace) -> MqueueFs:
    """The instance of a namespace, made at first use."""
    found = namespace.mqueue_fs
    if isinstance(found, MqueueFs):
        return found
    made = MqueueFs(kernel.numbers.dev(), namespace)
    namespace.mqueue_fs = made
    return made
