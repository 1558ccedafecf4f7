"""pidfd_open, pidfd_send_signal, pidfd_getfd."""

from typing import Final

from cloche.abi.errno import EBADF, EINVAL, EPERM, ESRCH
from cloche.abi.fcntl import O_PATH
from cloche.abi.signal import SI_TKILL, SIGINFO_SIZE
from cloche.abi.signal_structs import siginfo_head
from cloche.abi.wait import PIDFD_NONBLOCK, PIDFD_THREAD
from cloche.fs.pidfd import PidFile
from cloche.fs.proc_pid import PidDir
from cloche.kernel.access import may_access, task_of
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.killing import signal_group_checked, signal_pgrp, signal_thread
from cloche.kernel.pid_namespace import pid_from
from cloche.kernel.signals import info_from_raw, user_info
from cloche.kernel.task import Task, ThreadGroup

_SIGNAL_THREAD: Final = 1
_SIGNAL_THREAD_GROUP: Final = 2
_SIGNAL_PROCESS_GROUP: Final = 4


def sys_pidfd_open(task: Task, args: Args) -> int:
    """pidfd_open(2)."""
    pid, flags = to_i32(args.a0), to_u32(args.a1)
    if flags & ~(PIDFD_NONBLOCK | PIDFD_THREAD) or pid <= 0:
        return -EINVAL
    kernel = task.kernel
    pid = pid_from(task.pid_ns, pid)
    thread: Task | None = None
    if flags & PIDFD_THREAD:
        thread = task_of(kernel, pid)
        group = thread.group if thread is not None else None
    else:
        group = kernel.groups.get(pid)
        if group is None and pid in kernel.tasks:
            return -EINVAL  # a thread, not a process
    if group is None:
        return -ESRCH
    file = PidFile(kernel, group, flags, thread)
    return task.files.install(file, task.nofile_limit(), is_cloexec=True)


def _pid_file(task: Task, fd: int) -> PidFile | None:
    file = task.files.get(fd)
    return file if isinstance(file, PidFile) and file.flags & O_PATH == 0 else None


def _proc_dir_group(task: Task, fd: int) -> ThreadGroup | None:
    """The process of an open /proc/PID (tgid_pidfd_to_pid)."""
    file = task.files.get(fd)
    inode = file.inode
    if file.flags & O_PATH or not isinstance(inode, PidDir) or inode.is_thread:
        return None
    return inode.task.group


def sys_pidfd_send_signal(task: Task, args: Args) -> int:
    """pidfd_send_signal(2)."""
    flags = to_u32(args.a3)
    if flags not in (0, _SIGNAL_THREAD, _SIGNAL_THREAD_GROUP, _SIGNAL_PROCESS_GROUP):
        return -EINVAL
    fd = to_i32(args.a0)
    file = _pid_file(task, fd)
    group = file.group if file is not None else _proc_dir_group(task, fd)
    if group is None:
        return -EBADF
    if group.end.is_reaped:
        return -ESRCH
    if group.pid_ns is not task.pid_ns and not (
        task.pid_ns is None or (group.pid_ns is not None and group.pid_ns.is_within(task.pid_ns))
    ):
        return -EINVAL  # its namespace is not at or below the caller's
    thread = file.thread if file is not None else None
    signo = to_i32(args.a1)
    if args.a2:
        raw = task.user_memory().read(to_u64(args.a2), SIGINFO_SIZE)
        head = siginfo_head(raw)
        if head[0] != signo:
            return -EINVAL
        if group is not task.group and (head[2] >= 0 or head[2] == SI_TKILL):
            return -EPERM
        info = info_from_raw(task, signo, raw)
    else:
        info = user_info(task, signo)
    if flags == _SIGNAL_PROCESS_GROUP:
        return signal_pgrp(task, group.pgrp, signo, info)
    if flags == _SIGNAL_THREAD or (flags == 0 and thread is not None):
        tid = thread.tid if thread is not None else group.tgid
        return signal_thread(task, group.tgid, tid, signo, info)
    return signal_group_checked(task, group, signo, info)


def sys_pidfd_getfd(task: Task, args: Args) -> int:
    """pidfd_getfd(2)."""
    if to_u32(args.a2):
        return -EINVAL
    file = _pid_file(task, to_i32(args.a0))
    if file is None:
        return -EBADF
    target = file.target()
    if target is None:
        return -ESRCH
    if not may_access(task, target, uses_real_ids=True):
        return -EPERM
    if target.is_exited:
        return -ESRCH
    wanted = target.files.get(to_i32(args.a1))
    return task.files.install(wanted, task.nofile_limit(), is_cloexec=True)
