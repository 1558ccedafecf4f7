"""Which guest may inspect which: ptrace access between guests (kernel/ptrace.c, security/commoncap.c, ptrace(2)).

Used by /proc/PID, kcmp, process_vm_readv and prlimit. It compares guests with guests only, never with processes of
the host (I2).
"""

from cloche.abi.capability import CAP_SYS_PTRACE
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.task import Kernel, Task, ThreadGroup


def may_access(caller: Task, target: Task, *, uses_real_ids: bool) -> bool:
    """ptrace_may_access: PTRACE_MODE_REALCREDS if `uses_real_ids`, else FSCREDS (a look through /proc)."""
    if caller.group is target.group:
        return True
    creds = caller.creds
    other = target.creds
    uid = creds.uid if uses_real_ids else creds.fsuid
    gid = creds.gid if uses_real_ids else creds.fsgid
    is_same = (
        uid == other.euid
        and uid == other.suid
        and uid == other.uid
        and gid == other.egid
        and gid == other.sgid
        and gid == other.gid
    )
    if creds.capable_in(other.user_ns, CAP_SYS_PTRACE):
        # A program that was executed before its task entered a user namespace belongs to the namespace in which it
        # was executed.
        return target.group.is_dumpable or creds.capable_in(target.mm_user_ns, CAP_SYS_PTRACE)
    if not is_same or not target.group.is_dumpable or creds.user_ns is not other.user_ns:
        return False
    held = creds.cap_permitted if uses_real_ids else creds.cap_effective
    return other.cap_permitted & ~held == 0


def find_task(caller: Task, tid: int) -> Task | None:
    """The task with that tid in the caller's pid namespace, as `task_of` says; 0 is the caller itself."""
    if tid == 0:
        return caller
    return task_of(caller.kernel, pid_from(caller.pid_ns, tid))


def task_of(kernel: Kernel, pid: int) -> Task | None:
    """The task with a kernel pid: one that lives, a thread whose death its tracer has not seen, or the leader of a
    process that has not been reaped (find_task_by_pid_ns).
    """
    found = kernel.tasks.get(pid)
    if found is not None:
        return found
    found = kernel.traced_zombies.get(pid)
    if found is not None:
        return found
    group = kernel.groups.get(pid)
    return group.leader if group is not None else None


def threads_of(group: ThreadGroup) -> list[Task]:
    """The threads of a process; its leader counts until the process is reaped (for_each_thread)."""
    leader = group.leader
    if leader is None or not leader.is_exited or group.end.is_reaped:
        return group.tasks
    return [leader, *group.tasks]


def thread_count(group: ThreadGroup) -> int:
    """get_nr_threads: the threads that `threads_of` lists."""
    leader = group.leader
    return len(group.tasks) + (leader is not None and leader.is_exited and not group.end.is_reaped)
