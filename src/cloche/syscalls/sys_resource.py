"""System calls on limits and usage: getrlimit(2), getrusage(2), sysinfo(2)."""

from cloche.abi.capability import CAP_SYS_RESOURCE
from cloche.abi.errno import EINVAL, EPERM, ESRCH
from cloche.abi.resource import RLIM_NLIMITS, RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD
from cloche.abi.structs import pack_rlimit, pack_sysinfo, unpack_rlimit
from cloche.kernel.access import find_task
from cloche.kernel.accounting import (
    MemoryFigures,
    group_cpu_ns,
    group_usage,
    load_average,
    task_cpu_ns,
    task_usage,
    uptime_ns,
)
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.rlimits import from_abi, set_rlimit, to_abi
from cloche.kernel.task import Task, ThreadGroup
from cloche.kernel.usage import packed_usage


def _packed(group: ThreadGroup, resource: int) -> bytes:
    soft, hard = group.rlimits[resource]
    return pack_rlimit(to_abi(soft), to_abi(hard))


def sys_getrlimit(task: Task, args: Args) -> int:
    """getrlimit(2)."""
    resource = to_u32(args.a0)
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    task.user_memory().write(to_u64(args.a1), _packed(task.group, resource))
    return 0


def sys_setrlimit(task: Task, args: Args) -> int:
    """setrlimit(2)."""
    resource = to_u32(args.a0)
    soft, hard = unpack_rlimit(task.user_memory().read(to_u64(args.a1), 16))
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    set_rlimit(task, task.group, resource, from_abi(soft), from_abi(hard))
    return 0


def sys_prlimit64(task: Task, args: Args) -> int:
    """prlimit(2)."""
    resource, new, old = to_u32(args.a1), to_u64(args.a2), to_u64(args.a3)
    mem = task.user_memory()
    wanted = mem.read(new, 16) if new else b""
    target = find_task(task, to_i32(args.a0))
    if target is None:
        return -ESRCH
    if not _may_prlimit(task, target):
        return -EPERM
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    before = _packed(target.group, resource)
    if new:
        soft, hard = unpack_rlimit(wanted)
        set_rlimit(task, target.group, resource, from_abi(soft), from_abi(hard))
    if old:
        mem.write(old, before)
    return 0


def _may_prlimit(task: Task, target: Task) -> bool:
    if target is task or target.group is task.group:
        return True
    mine, theirs = task.creds, target.creds
    if (
        mine.uid == theirs.euid == theirs.suid == theirs.uid
        and mine.gid == theirs.egid == theirs.sgid == theirs.gid
    ):
        return True
    return mine.capable_in(theirs.user_ns, CAP_SYS_RESOURCE)


def sys_getrusage(task: Task, args: Args) -> int:
    """getrusage(2)."""
    who = to_i32(args.a0)
    group = task.group
    group.spent.is_wanted = True
    if who == RUSAGE_SELF:
        user, system = group_cpu_ns(group)
        usage = group_usage(group)
    elif who == RUSAGE_THREAD:
        user, system = task_cpu_ns(task)
        usage = task_usage(task)
    elif who == RUSAGE_CHILDREN:
        user, system, usage = (
            group.spent.children_user_ns,
            group.spent.children_system_ns,
            group.spent.children_usage,
        )
    else:
        return -EINVAL
    task.user_memory().write(to_u64(args.a1), packed_usage(user, system, usage))
    return 0


def sys_sysinfo(task: Task, args: Args) -> int:
    """sysinfo(2)."""
    kernel = task.kernel
    memory = MemoryFigures(task.group.container)
    loads = load_average(kernel, task)
    packed = pack_sysinfo(
        uptime_ns(kernel) // 1_000_000_000,
        (int(loads[0] * 65536), int(loads[1] * 65536), int(loads[2] * 65536)),
        memory.total,
        memory.free,
        0,
        0,
        0,
        0,
        len(kernel.tasks),
    )
    task.user_memory().write(to_u64(args.a0), packed)
    return 0
