"""System calls on scheduling attributes (sched(7)); rules in `kernel.sched`."""

from struct import Struct
from typing import Final

from cloche.abi.errno import E2BIG, EINVAL, ESRCH, LinuxError
from cloche.abi.resource import PRIO_PGRP, PRIO_PROCESS, PRIO_USER
from cloche.abi.sched import (
    IOPRIO_WHO_PGRP,
    IOPRIO_WHO_PROCESS,
    IOPRIO_WHO_USER,
    SCHED_BATCH,
    SCHED_DEADLINE,
    SCHED_EXT,
    SCHED_FIFO,
    SCHED_FLAG_RESET_ON_FORK,
    SCHED_FLAG_UTIL_CLAMP,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RESET_ON_FORK,
    SCHED_RR,
)
from cloche.abi.structs import pack_timespec
from cloche.kernel import sched
from cloche.kernel.access import find_task, threads_of
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.scheduling import Attributes
from cloche.kernel.task import Task
from cloche.vfs.userns import map_uid

_SCHED_ATTR: Final = Struct("<IIQiIQQQII")  # struct sched_attr, SCHED_ATTR_SIZE_VER1
_ATTR_SIZE_VER0: Final = 48
_ATTR_SIZE: Final = 56
_PAGE: Final = 4096


def _require(task: Task, pid: int) -> Task:
    target = find_task(task, pid)
    if target is None:
        raise LinuxError(ESRCH)
    return target


def sys_sched_yield(task: Task, args: Args) -> int:
    """sched_yield(2): nothing to do, because the host has scheduled meanwhile."""
    return 0


def sys_sched_setaffinity(task: Task, args: Args) -> int:
    """sched_setaffinity(2)."""
    length = min(to_u32(args.a1), 1024)
    mask = int.from_bytes(task.user_memory().read(to_u64(args.a2), length), "little")
    sched.set_affinity(task, _require(task, to_i32(args.a0)), mask)
    return 0


def sys_sched_getaffinity(task: Task, args: Args) -> int:
    """sched_getaffinity(2): the number of bytes of the mask."""
    length = to_u32(args.a1)
    if length * 8 < task.kernel.cpu_count or length & 7:
        return -EINVAL
    target = _require(task, to_i32(args.a0))
    size = min(length, (task.kernel.cpu_count + 63) // 64 * 8)
    task.user_memory().write(to_u64(args.a2), target.sched.affinity.to_bytes(size, "little"))
    return size


def sys_sched_setscheduler(task: Task, args: Args) -> int:
    """sched_setscheduler(2)."""
    policy = to_i32(args.a1)
    if policy < 0:
        return -EINVAL
    return _set_scheduler(task, to_i32(args.a0), policy, to_u64(args.a2))


def sys_sched_setparam(task: Task, args: Args) -> int:
    """sched_setparam(2)."""
    return _set_scheduler(task, to_i32(args.a0), -1, to_u64(args.a1))


def _set_scheduler(task: Task, pid: int, policy: int, param: int) -> int:
    if param == 0 or pid < 0:
        return -EINVAL
    priority = task.user_memory().read_i32(param)
    target = _require(task, pid)
    if policy < 0:
        policy = target.sched.policy
    flags = SCHED_FLAG_RESET_ON_FORK if policy & SCHED_RESET_ON_FORK else 0
    attr = Attributes(policy & ~SCHED_RESET_ON_FORK, target.sched.nice, priority, flags)
    sched.set_attributes(task, target, attr)
    return 0


def sys_sched_getscheduler(task: Task, args: Args) -> int:
    """sched_getscheduler(2)."""
    pid = to_i32(args.a0)
    if pid < 0:
        return -EINVAL
    return _require(task, pid).sched.policy


def sys_sched_getparam(task: Task, args: Args) -> int:
    """sched_getparam(2)."""
    pid = to_i32(args.a0)
    if args.a1 == 0 or pid < 0:
        return -EINVAL
    task.user_memory().write_i32(to_u64(args.a1), _require(task, pid).sched.priority)
    return 0


def sys_sched_get_priority_max(task: Task, args: Args) -> int:
    """sched_get_priority_max(2)."""
    return _priority_bound(to_i32(args.a0), sched.RT_PRIORITY_MAX)


def sys_sched_get_priority_min(task: Task, args: Args) -> int:
    """sched_get_priority_min(2)."""
    return _priority_bound(to_i32(args.a0), 1)


def _priority_bound(policy: int, realtime: int) -> int:
    if policy in (SCHED_FIFO, SCHED_RR):
        return realtime
    if policy in (SCHED_NORMAL, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE, SCHED_EXT):
        return 0
    return -EINVAL


def sys_sched_rr_get_interval(task: Task, args: Args) -> int:
    """sched_rr_get_interval(2)."""
    pid = to_i32(args.a0)
    if pid < 0:
        return -EINVAL
    interval = sched.rr_interval_ns(_require(task, pid))
    task.user_memory().write(to_u64(args.a1), pack_timespec(interval))
    return 0


def sys_sched_setattr(task: Task, args: Args) -> int:
    """sched_setattr(2)."""
    pid, address = to_i32(args.a0), to_u64(args.a1)
    if address == 0 or pid < 0 or to_u32(args.a2):
        return -EINVAL
    mem = task.user_memory()
    size = mem.read_u32(address)
    if size == 0:
        size = _ATTR_SIZE_VER0
    if size < _ATTR_SIZE_VER0 or size > _PAGE:
        mem.write_u32(address, _ATTR_SIZE)
        return -E2BIG
    raw = mem.read(address, size)
    if any(raw[_ATTR_SIZE:]):
        mem.write_u32(address, _ATTR_SIZE)
        return -E2BIG
    fields: tuple[int, ...] = _SCHED_ATTR.unpack(raw[:_ATTR_SIZE].ljust(_ATTR_SIZE, b"\0"))
    _size, policy, flags, nice, priority, runtime, deadline, period, _low, _high = fields
    if flags & SCHED_FLAG_UTIL_CLAMP and size < _ATTR_SIZE:
        return -EINVAL
    if policy > 0x7FFFFFFF:
        return -EINVAL
    target = _require(task, pid)
    attr = Attributes(policy, min(max(nice, -20), 19), priority, flags)
    attr.runtime_ns, attr.deadline_ns, attr.period_ns = runtime, deadline, period
    attr.keep(target.sched)
    sched.set_attributes(task, target, attr)
    return 0


def sys_sched_getattr(task: Task, args: Args) -> int:
    """sched_getattr(2)."""
    pid, address, size = to_i32(args.a0), to_u64(args.a1), to_u32(args.a2)
    if address == 0 or pid < 0 or size > _PAGE or size < _ATTR_SIZE_VER0 or to_u32(args.a3):
        return -EINVAL
    target = _require(task, pid)
    policy = sched.policy_of(target)
    size = min(size, _ATTR_SIZE)
    flags = SCHED_FLAG_RESET_ON_FORK if target.sched.policy & SCHED_RESET_ON_FORK else 0
    shown = Attributes(policy, 0, 0, flags)
    shown.take(target.sched, policy)
    if policy != SCHED_DEADLINE and not sched.is_realtime(policy):
        shown.runtime_ns = sched.fair_slice_ns(task.kernel.cpu_count)
    times = (shown.runtime_ns, shown.deadline_ns, shown.period_ns)
    packed = _SCHED_ATTR.pack(size, policy, shown.flags, shown.nice, shown.priority, *times, 0, 0)
    task.user_memory().write(address, packed[:size])
    return 0


def _chosen(task: Task, kind: int, who: int) -> list[Task]:
    """The tasks that the calls on priorities mean: kind 0 a thread, 1 a process group, 2 a user."""
    kernel = task.kernel
    if kind == PRIO_PROCESS:
        target = find_task(task, who)
        return [target] if target is not None else []
    if kind == PRIO_PGRP:
        own = task.group.pgrp
        group = kernel.process_groups.get(pid_from(task.pid_ns, who)) if who else own
        if group is None:
            return []
        return [member for members in group.members for member in threads_of(members)]
    return _tasks_of(task, map_uid(task.creds.user_ns, who) if who else task.creds.uid)


def _tasks_of(task: Task, uid: int) -> list[Task]:
    """A user's tasks that have a number in the caller's pid namespace (task_pid_vnr)."""
    return [
        member
        for group in task.kernel.groups.values()
        for member in threads_of(group)
        if member.creds.uid == uid and pid_in(task.pid_ns, member.tid)
    ]


def sys_getpriority(task: Task, args: Args) -> int:
    """getpriority(2): 20 - nice, the highest of those chosen."""
    which, who = to_i32(args.a0), to_i32(args.a1)
    if which not in (PRIO_PROCESS, PRIO_PGRP, PRIO_USER):
        return -EINVAL
    best = -ESRCH
    for target in _chosen(task, which, who):
        best = max(best, 20 - target.sched.nice)
    return best


def sys_setpriority(task: Task, args: Args) -> int:
    """setpriority(2)."""
    which, who = to_i32(args.a0), to_i32(args.a1)
    nice = min(max(to_i32(args.a2), -20), 19)
    if which not in (PRIO_PROCESS, PRIO_PGRP, PRIO_USER):
        return -EINVAL
    result = -ESRCH
    for target in _chosen(task, which, who):
        try:
            sched.set_nice(task, target, nice)
        except LinuxError as error:
            result = -error.errno
            continue
        if result == -ESRCH:
            result = 0
    return result


def sys_ioprio_set(task: Task, args: Args) -> int:
    """ioprio_set(2): stored and reported, without effect on the host's I/O scheduler."""
    which, who, ioprio = to_i32(args.a0), to_i32(args.a1), to_i32(args.a2)
    sched.check_ioprio(task.creds, ioprio)
    if which not in (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER):
        return -EINVAL
    if which == IOPRIO_WHO_USER:  # 0 is root, where the other calls mean the caller's user (block/ioprio.c)
        targets = _tasks_of(task, map_uid(task.creds.user_ns, who))
    else:
        targets = _chosen(task, which - 1, who)
    for target in targets:
        sched.set_ioprio(task, target, ioprio)
    return 0 if targets else -ESRCH


def sys_ioprio_get(task: Task, args: Args) -> int:
    """ioprio_get(2)."""
    which, who = to_i32(args.a0), to_i32(args.a1)
    if which not in (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER):
        return -EINVAL
    targets = _chosen(task, which - 1, who)
    if not targets:
        return -ESRCH
    if which == IOPRIO_WHO_PROCESS:
        return targets[0].sched.io_priority
    best = sched.effective_ioprio(targets[0])
    for target in targets[1:]:
        best = sched.best_ioprio(best, sched.effective_ioprio(target))
    return best


def sys_getcpu(task: Task, args: Args) -> int:
    """getcpu(2): the first processor of the affinity mask, on node 0; the vDSO gives the real one."""
    mem = task.user_memory()
    mask = task.sched.affinity
    if args.a0:
        mem.write_u32(to_u64(args.a0), (mask & -mask).bit_length() - 1)
    if args.a1:
        mem.write_u32(to_u64(args.a1), 0)
    return 0
