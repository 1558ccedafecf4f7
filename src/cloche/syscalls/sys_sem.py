"""System V semaphores: semget, semop, semtimedop, semctl (ipc/sem.c).  The operations are in `kernel.ipc.sem`."""

from struct import Struct
from typing import Final

from cloche.abi.errno import E2BIG, EINVAL, ERANGE
from cloche.abi.ipc import (
    GETALL,
    GETNCNT,
    GETPID,
    GETVAL,
    GETZCNT,
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    SEM_INFO,
    SEM_STAT,
    SEM_STAT_ANY,
    SEMAEM,
    SEMBUF_SIZE,
    SEMID_DS_SIZE,
    SEMINFO,
    SEMVMX,
    SETALL,
    SETVAL,
    unpack_perm,
    unpack_sembufs,
)
from cloche.abi.structs import TIMESPEC_SIZE, unpack_timespec
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.ipc.sem import (
    SEMMNI,
    SEMMNS,
    SEMMSL,
    SEMOPM,
    SemaphoreIds,
    SemaphoreSet,
    UndoList,
    operate,
)
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.syscalls.sys_shm import owner_ids, set_owner

_UNDO_SIZE: Final = 20  # SEMUSZ


def sys_semget(task: Task, args: Args) -> int:
    """semget(2)."""
    key, count, flags = to_i32(args.a0), to_i32(args.a1), to_i32(args.a2)
    if count < 0 or count > SEMMSL:
        return -EINVAL
    ids = task.ns.ipc.semaphores
    found = ids.existing(task, key, flags)
    if found is None:
        return ids.create(task, key, count, flags)
    assert isinstance(found, SemaphoreSet)
    if count > len(found.values):
        return -EINVAL
    found.require(task, flags)
    return found.ident


def sys_semop(task: Task, args: Args) -> int:
    """semop(2)."""
    return _operate(task, args, 0)


def sys_semtimedop(task: Task, args: Args) -> int:
    """semtimedop(2)."""
    return _operate(task, args, to_u64(args.a3))


def _operate(task: Task, args: Args, timeout_addr: int) -> int:
    ident, count = to_i32(args.a0), to_u32(args.a2)
    mem = task.user_memory()
    deadline_ns = -1
    if timeout_addr:
        deadline_ns = monotonic_ns() + unpack_timespec(mem.read(timeout_addr, TIMESPEC_SIZE))
    if count < 1 or ident < 0:
        return -EINVAL
    if count > SEMOPM:
        return -E2BIG
    ops = unpack_sembufs(mem.read(to_u64(args.a1), count * SEMBUF_SIZE))
    undo_list = task.undo_list
    if undo_list is None:
        undo_list = UndoList()
        task.undo_list = undo_list
    return operate(task, task.ns.ipc.semaphores, ident, ops, undo_list, deadline_ns)


def sys_semctl(task: Task, args: Args) -> int:
    """semctl(2)."""
    ident, number, command = to_i32(args.a0), to_i32(args.a1), to_i32(args.a2)
    addr = to_u64(args.a3)
    if ident < 0:
        return -EINVAL
    mem = task.user_memory()
    ids = task.ns.ipc.semaphores
    if command == IPC_INFO or command == SEM_INFO:
        is_total = command == SEM_INFO
        used = len(ids.by_slot) if is_total else _UNDO_SIZE
        total = ids.used if is_total else SEMAEM
        figures = (SEMMNS, SEMMNI, SEMMNS, SEMMNS, SEMMSL, SEMOPM, SEMOPM, used, SEMVMX, total)
        mem.write(addr, SEMINFO.pack(*figures))
        return max(ids.highest(), 0)
    if command in (IPC_STAT, SEM_STAT, SEM_STAT_ANY):
        target = ids.set_of(ident) if command == IPC_STAT else ids.set_of(ids.at(ident).ident)
        if command != SEM_STAT_ANY:
            target.require(task, 0o444)
        mem.write(addr, target.status(owner_ids(task, target)))
        return 0 if command == IPC_STAT else target.ident
    if command in (GETVAL, GETPID, GETNCNT, GETZCNT, GETALL):
        return _look(task, ids, ident, number, command, addr)
    if command == SETVAL or command == SETALL:
        return _set(task, ids, ident, number, command, addr)
    if command == IPC_SET:
        owner = unpack_perm(mem.read(addr, SEMID_DS_SIZE))
        target = ids.set_of(ident)
        target.require_owner(task)
        set_owner(task, target, owner)
        return 0
    if command == IPC_RMID:
        target = ids.set_of(ident)
        target.require_owner(task)
        target.remove()
        return 0
    return -EINVAL


def _look(task: Task, ids: SemaphoreIds, ident: int, number: int, command: int, addr: int) -> int:
    target = ids.set_of(ident)
    target.require(task, 0o444)
    if command == GETALL:
        task.user_memory().write(addr, Struct(f"<{len(target.values)}H").pack(*target.values))
        return 0
    if not 0 <= number < len(target.values):
        return -EINVAL
    if command == GETVAL:
        return target.values[number]
    if command == GETPID:
        return pid_in(task.pid_ns, target.pids[number])
    return target.waiting(number, for_zero=command == GETZCNT)


def _set(task: Task, ids: SemaphoreIds, ident: int, number: int, command: int, addr: int) -> int:
    pid = task.group.tgid
    if command == SETVAL:
        value = to_i32(addr)
        if value < 0 or value > SEMVMX:
            return -ERANGE
        target = ids.set_of(ident)
        if not 0 <= number < len(target.values):
            return -EINVAL
        target.require(task, 0o222)
        target.set_values([(number, value)], pid)
        return 0
    target = ids.set_of(ident)
    target.require(task, 0o222)
    count = len(target.values)
    raw = task.user_memory().read(addr, 2 * count)
    values = list(Struct(f"<{count}H").unpack(raw))
    for value in values:
        if value > SEMVMX:
            return -ERANGE
    target.set_values(list(enumerate(values)), pid)
    return 0
