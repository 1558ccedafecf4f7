"""System V message queues (ipc/msg.c).

A sender hands its message to the first receiver that waits for such a message, and so decides that call's result. A
receiver that takes a message wakes the senders, which try again in their order.
"""

import time
from typing import Final

from cloche.abi.errno import E2BIG, EAGAIN, EIDRM, EINVAL, ENOMSG, ERESTARTNOHAND
from cloche.abi.ipc import IPC_NOWAIT, MSG_COPY, MSG_EXCEPT, MSG_NOERROR, MSQID_DS, pack_perm
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on_time
from cloche.kernel.ipc.ids import IpcIds, IpcObject, IpcQuota
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.vfs.objects import Context

MSGMNI: Final = 32000  # queues
MSGMAX: Final = 8192  # bytes of a message
MSGMNB: Final = 16384  # bytes of a queue, by default
_MESSAGE_BYTES: Final = 160  # memory of a message besides its text

# How a receiver chooses.
ANY: Final = 0
EQUAL: Final = 1
NOT_EQUAL: Final = 2
LESS_EQUAL: Final = 3
NUMBER: Final = 4


class Message:
    """A message in a queue."""

    def __init__(self, kind: int, text: bytes) -> None:
        self.kind: int = kind
        self.text: bytes = text


class Want:
    """The request of a receiver: how it chooses, the type (or position), and the maximal length."""

    def __init__(self, kind: int, flags: int, limit_bytes: int) -> None:
        self.kind: int = kind
        self.flags: int = flags
        self.limit_bytes: int = limit_bytes
        self.mode: int = ANY
        if flags & MSG_COPY:
            self.mode = NUMBER
        elif kind < 0:
            self.mode = LESS_EQUAL
            self.kind = min(-kind, 0x7FFFFFFFFFFFFFFF)
        elif kind > 0:
            self.mode = NOT_EQUAL if flags & MSG_EXCEPT else EQUAL

    def matches(self, message: Message) -> bool:
        """testmsg."""
        mode = self.mode
        if mode == EQUAL:
            return message.kind == self.kind
        if mode == NOT_EQUAL:
            return message.kind != self.kind
        if mode == LESS_EQUAL:
            return message.kind <= self.kind
        return True

    def is_too_long(self, message: Message) -> bool:
        return len(message.text) > self.limit_bytes and not self.flags & MSG_NOERROR


class ReceiveWait(Blocked):
    """msgrcv(2) without a message yet."""

    def __init__(self, queue: "MessageQueue", task: TaskBase, want: Want, addr: int) -> None:
        super().__init__()
        self.queue: MessageQueue = queue
        self.task: TaskBase = task
        self.want: Want = want
        self.addr: int = addr
        self.message: Message | None = None
        self.error: int = 0

    def finish(self, message: Message | None, error: int) -> None:
        """The result is decided."""
        self.message = message
        self.error = error
        self.task.make_ready()

    def _result(self, task: TaskBase) -> int:
        message = self.message
        if message is not None:
            return deliver(task, message, self.addr, self.want.limit_bytes)
        return self.error

    def retry(self, task: TaskBase) -> int:
        return self._result(task) if self.message is not None or self.error else BLOCKED

    def interrupted(self, task: TaskBase) -> int:
        return self._result(task) if self.message is not None or self.error else -ERESTARTNOHAND

    def finished(self, task: TaskBase) -> None:
        self.queue.receivers.pop(self, None)


class SendWait(Blocked):
    """msgsnd(2) to a full queue."""

    def __init__(self, queue: "MessageQueue", task: TaskBase, message: Message) -> None:
        super().__init__()
        self.queue: MessageQueue = queue
        self.task: TaskBase = task
        self.message: Message = message

    def retry(self, task: TaskBase) -> int:
        queue = self.queue
        if queue.is_removed:
            return -EIDRM
        queue.require(task, 0o222)
        if not queue.has_room(len(self.message.text)):
            return BLOCKED
        return queue.put(self.message, task.thread_group_id())

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOHAND

    def finished(self, task: TaskBase) -> None:
        self.queue.senders.pop(self, None)


class MessageQueue(IpcObject):
    """A queue, and the tasks that wait at its two ends, in order."""

    def __init__(self, ctx: Context, ids: "QueueIds", key: int, mode: int) -> None:
        super().__init__(ctx, key, mode)
        self.ids: QueueIds = ids
        self.messages: list[Message] = []
        self.bytes: int = 0
        self.bytes_limit: int = MSGMNB
        self.stime: int = 0
        self.rtime: int = 0
        self.lspid: int = 0
        self.lrpid: int = 0
        self.receivers: dict[ReceiveWait, None] = {}
        self.senders: dict[SendWait, None] = {}

    def status(self, owner: tuple[int, int, int, int], pid_ns: PidNamespace | None) -> bytes:
        """struct msqid64_ds; `owner` as the caller sees the ids."""
        return pack_perm(self.key, owner, self.mode, self.seq) + MSQID_DS.pack(
            self.stime,
            self.rtime,
            self.ctime,
            self.bytes,
            len(self.messages),
            self.bytes_limit,
            pid_in(pid_ns, self.lspid),
            pid_in(pid_ns, self.lrpid),
            0,
            0,
        )

    def has_room(self, length: int) -> bool:
        """Whether a message fits. Empty messages are counted as well; otherwise their number would be unlimited."""
        return self.bytes + length <= self.bytes_limit and len(self.messages) < self.bytes_limit

    def put(self, message: Message, pid: int) -> int:
        """Give it to a waiting receiver or keep it; 0.  Raises LinuxError(ENOMEM)."""
        for waiter in list(self.receivers):
            if not waiter.want.matches(message):
                continue
            del self.receivers[waiter]
            if waiter.want.is_too_long(message):
                waiter.finish(None, -E2BIG)
                continue
            self.lrpid = waiter.task.thread_group_id()
            self.rtime = int(time.time())
            self._sent(pid)
            waiter.finish(message, 0)
            return 0
        self.ids.quota.charge(_MESSAGE_BYTES + len(message.text))
        self.messages.append(message)
        self.bytes += len(message.text)
        self.ids.messages += 1
        self.ids.bytes += len(message.text)
        self._sent(pid)
        return 0

    def _sent(self, pid: int) -> None:
        self.lspid = pid
        self.stime = int(time.time())

    def choose(self, want: Want) -> int:
        """The index of the message to take, -1 for none."""
        if want.mode == NUMBER:
            return want.kind if 0 <= want.kind < len(self.messages) else -1
        if want.mode != LESS_EQUAL:
            for index, message in enumerate(self.messages):
                if want.matches(message):
                    return index
            return -1
        best = -1
        lowest = want.kind + 1
        for index, message in enumerate(self.messages):
            if message.kind < lowest:
                lowest, best = message.kind, index
        return best

    def take(self, index: int, pid: int) -> Message:
        """Remove a message; senders have room."""
        message = self.messages.pop(index)
        self._forget(message)
        self.lrpid = pid
        self.rtime = int(time.time())
        self.wake_senders()
        return message

    def _forget(self, message: Message) -> None:
        self.bytes -= len(message.text)
        self.ids.messages -= 1
        self.ids.bytes -= len(message.text)
        self.ids.quota.uncharge(_MESSAGE_BYTES + len(message.text))

    def wake_senders(self) -> None:
        """Let them try again, in order."""
        for waiter in self.senders:
            waiter.task.make_ready()

    def remove(self) -> None:
        """IPC_RMID: all waiting tasks get EIDRM."""
        self.ids.remove(self)
        for message in self.messages:
            self._forget(message)
        self.messages = []
        for waiter in list(self.receivers):
            waiter.finish(None, -EIDRM)
        self.receivers.clear()
        self.wake_senders()


class QueueIds(IpcIds):
    """The queues of a namespace."""

    def __init__(self, quota: IpcQuota) -> None:
        super().__init__(MSGMNI, quota)
        self.messages: int = 0
        self.bytes: int = 0

    def queue(self, ident: int) -> MessageQueue:
        """Raises LinuxError(EINVAL)."""
        found = self.get(ident)
        assert isinstance(found, MessageQueue)
        return found

    def create(self, ctx: Context, key: int, flags: int) -> int:
        """newque: the identifier.  Raises LinuxError(ENOSPC, ENOMEM)."""
        self.charge_object()
        return self.add(MessageQueue(ctx, self, key, flags))

    def release(self) -> None:
        """The namespace is gone."""
        for each in self.in_order():
            assert isinstance(each, MessageQueue)
            each.remove()


def deliver(task: TaskBase, message: Message, addr: int, limit_bytes: int) -> int:
    """Copy a message out; its length.  Raises LinuxError(EFAULT)."""
    text = message.text[:limit_bytes]
    task.user_memory().write(addr, message.kind.to_bytes(8, "little") + text)
    return len(text)


def send(task: TaskBase, ids: QueueIds, ident: int, message: Message, flags: int) -> int:
    """msgsnd(2) after its arguments were read; 0, -errno or BLOCKED."""
    queue = ids.queue(ident)
    queue.require(task, 0o222)
    if queue.has_room(len(message.text)):
        return queue.put(message, task.thread_group_id())
    if flags & IPC_NOWAIT:
        return -EAGAIN
    waiter = SendWait(queue, task, message)
    queue.senders[waiter] = None
    return block_on_time(task, waiter)


def receive(task: TaskBase, ids: QueueIds, ident: int, want: Want, addr: int) -> int:
    """msgrcv(2); the length, -errno or BLOCKED."""
    if want.flags & MSG_COPY and want.flags & (MSG_EXCEPT | IPC_NOWAIT) != IPC_NOWAIT:
        return -EINVAL
    queue = ids.queue(ident)
    queue.require(task, 0o444)
    index = queue.choose(want)
    if index >= 0:
        message = queue.messages[index]
        if want.is_too_long(message):
            return -E2BIG
        if want.mode != NUMBER:
            queue.take(index, task.thread_group_id())
        return deliver(task, message, addr, want.limit_bytes)
    if want.flags & IPC_NOWAIT:
        return -ENOMSG
    waiter = ReceiveWait(queue, task, want, addr)
    queue.receivers[waiter] = None
    return block_on_time(task, waiter)
