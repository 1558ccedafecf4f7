"""System V message queues: msgget, msgsnd, msgrcv, msgctl (ipc/msg.c).  The operations are in `kernel.ipc.msg`."""

from typing import Final

from cloche.abi.capability import CAP_SYS_RESOURCE
from cloche.abi.errno import EINVAL, EPERM
from cloche.abi.ipc import (
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    MSG_INFO,
    MSG_STAT,
    MSG_STAT_ANY,
    MSGINFO,
    MSQID_DS_SIZE,
    unpack_perm,
    unpack_qbytes,
)
from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.ipc.msg import MSGMAX, MSGMNB, MSGMNI, Message, MessageQueue, Want, receive, send
from cloche.kernel.task import Task
from cloche.syscalls.sys_shm import owner_ids, set_owner

_POOL: Final = MSGMNI * MSGMNB // 1024


def sys_msgget(task: Task, args: Args) -> int:
    """msgget(2)."""
    key, flags = to_i32(args.a0), to_i32(args.a1)
    ids = task.ns.ipc.queues
    found = ids.existing(task, key, flags)
    if found is None:
        return ids.create(task, key, flags)
    found.require(task, flags)
    return found.ident


def sys_msgsnd(task: Task, args: Args) -> int:
    """msgsnd(2)."""
    ident, addr, length, flags = to_i32(args.a0), to_u64(args.a1), args.a2, to_i32(args.a3)
    mem = task.user_memory()
    kind = mem.read_i64(addr)
    if length < 0 or length > MSGMAX or ident < 0 or kind < 1:
        return -EINVAL
    return send(task, task.ns.ipc.queues, ident, Message(kind, mem.read(addr + 8, length)), flags)


def sys_msgrcv(task: Task, args: Args) -> int:
    """msgrcv(2)."""
    ident, addr, length, kind = to_i32(args.a0), to_u64(args.a1), args.a2, args.a3
    if ident < 0 or length < 0:
        return -EINVAL
    return receive(task, task.ns.ipc.queues, ident, Want(kind, to_i32(args.a4), length), addr)


def sys_msgctl(task: Task, args: Args) -> int:
    """msgctl(2)."""
    ident, command, addr = to_i32(args.a0), to_i32(args.a1), to_u64(args.a2)
    if ident < 0 or command < 0:
        return -EINVAL
    mem = task.user_memory()
    ids = task.ns.ipc.queues
    if command == IPC_INFO or command == MSG_INFO:
        is_total = command == MSG_INFO
        pool = len(ids.by_slot) if is_total else _POOL
        held = ids.messages if is_total else MSGMNB
        total = ids.bytes if is_total else MSGMNB
        mem.write(addr, MSGINFO.pack(pool, held, MSGMAX, MSGMNB, MSGMNI, 16, total, 0xFFFF, 0))
        return max(ids.highest(), 0)
    if command in (IPC_STAT, MSG_STAT, MSG_STAT_ANY):
        queue = ids.queue(ident) if command == IPC_STAT else ids.queue(ids.at(ident).ident)
        if command != MSG_STAT_ANY:
            queue.require(task, 0o444)
        mem.write(addr, queue.status(owner_ids(task, queue), task.pid_ns))
        return 0 if command == IPC_STAT else queue.ident
    if command == IPC_SET:
        raw = mem.read(addr, MSQID_DS_SIZE)
        return _configure(task, ids.queue(ident), unpack_perm(raw), unpack_qbytes(raw))
    if command == IPC_RMID:
        queue = ids.queue(ident)
        queue.require_owner(task)
        queue.remove()
        return 0
    return -EINVAL


def _configure(task: Task, queue: MessageQueue, owner: tuple[int, int, int], bytes_limit: int) -> int:
    """IPC_SET."""
    queue.require_owner(task)
    if bytes_limit > MSGMNB and not task.creds.capable_in(task.ns.ipc.user_ns, CAP_SYS_RESOURCE):
        return -EPERM
    set_owner(task, queue, owner)
    queue.bytes_limit = bytes_limit
    queue.wake_senders()
    return 0
