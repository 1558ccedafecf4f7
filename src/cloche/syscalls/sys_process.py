"""Processes: clone, fork, exec, exit, wait, and the ids of processes, groups and sessions."""

from struct import Struct
from typing import Final

from cloche.abi.errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EINTR,
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ESRCH,
    LinuxError,
)
from cloche.abi.fcntl import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_NONBLOCK
from cloche.abi.sched import CLONE_ARGS_SIZE_VER0, CLONE_VFORK, CLONE_VM
from cloche.abi.signal import SIGCHLD
from cloche.abi.signal_structs import pack_siginfo_chld
from cloche.abi.wait import P_ALL, P_PGID, P_PID, P_PIDFD, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED
from cloche.kernel.answers import grant
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, DEAD, SLICE_NS, Blocked, TaskBase, end_wait, next_slice
from cloche.kernel.clone import CloneArgs, do_clone
from cloche.kernel.closing import FEW
from cloche.kernel.exec import lookup_for_exec
from cloche.kernel.exit import do_exit, do_group_exit
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.robust_exit import exit_robustly
from cloche.kernel.task import ProcessGroup, Session, Task, ThreadGroup
from cloche.kernel.timers import monotonic_ns
from cloche.kernel.wait import W_ALL, W_CLONE, W_NOTHREAD, Waited, WaitOperation, WaitSelector, do_wait
from cloche.syscalls.exec_args import start_exec
from cloche.vfs.namei import LOOKUP_FOLLOW, path_lookup
from cloche.vfs.objects import Path

_CLONE_ARGS: Final = Struct("<11Q")


# -- ids ---------------------------------------------------------------------------------------------------
def sys_getpid(task: Task, args: Args) -> int:
    """getpid(2)."""
    if not task.has_answers:
        grant(task)
    return task.group.own_tgid


def sys_gettid(task: Task, args: Args) -> int:
    """gettid(2)."""
    if not task.has_answers:
        grant(task)
    return task.own_tid


def sys_getppid(task: Task, args: Args) -> int:
    """getppid(2)."""
    if not task.has_answers:
        grant(task)
    return task.group.parent_pid()


def find_group(task: Task, pid: int) -> ThreadGroup:
    """The thread group `pid` (0: the caller's).  Raises LinuxError(ESRCH)."""
    if pid == 0:
        return task.group
    group = task.kernel.groups.get(pid_from(task.pid_ns, pid))
    if group is None:
        raise LinuxError(ESRCH)
    return group


def sys_getpgid(task: Task, args: Args) -> int:
    """getpgid(2)."""
    pgrp = find_group(task, to_i32(args.a0)).pgrp
    return pid_in(task.pid_ns, pgrp.pgid) if pgrp is not None else 0


def sys_getpgrp(task: Task, args: Args) -> int:
    """getpgrp(2)."""
    pgrp = task.group.pgrp
    return pid_in(task.pid_ns, pgrp.pgid) if pgrp is not None else 0


def sys_getsid(task: Task, args: Args) -> int:
    """getsid(2)."""
    session = find_group(task, to_i32(args.a0)).session()
    return pid_in(task.pid_ns, session.sid) if session is not None else 0


def sys_setpgid(task: Task, args: Args) -> int:
    """setpgid(2)."""
    pid, pgid = to_i32(args.a0), to_i32(args.a1)
    if pgid < 0:
        return -EINVAL
    kernel = task.kernel
    group = find_group(task, pid)
    pgid = pid_from(task.pid_ns, pgid) if pgid else group.tgid
    if group is not task.group:
        if group.parent is not task.group:
            return -ESRCH
        if group.session() is not task.group.session():
            return -EPERM
        if group.exe.has_execed:
            return -EACCES
    session = group.session()
    if session is None or session.sid == group.tgid:
        return -EPERM
    pgrp = kernel.process_groups.get(pgid)
    if pgid != group.tgid and (pgrp is None or pgrp.session is not task.group.session()):
        return -EPERM
    if pgrp is None:
        pgrp = ProcessGroup(pgid, session)
        kernel.process_groups[pgid] = pgrp
        session.groups.append(pgrp)
    join_process_group(group, pgrp)
    return 0


def join_process_group(group: ThreadGroup, pgrp: ProcessGroup) -> None:
    """Move a thread group; a group left empty vanishes."""
    from cloche.kernel.exit import leave_process_group

    if group.pgrp is pgrp:
        return
    pgrp.members[group] = None
    leave_process_group(group)
    group.pgrp = pgrp


def sys_setsid(task: Task, args: Args) -> int:
    """setsid(2)."""
    kernel, group = task.kernel, task.group
    if group.tgid in kernel.process_groups:
        return -EPERM
    session = Session(group.tgid)
    kernel.sessions[group.tgid] = session
    pgrp = ProcessGroup(group.tgid, session)
    kernel.process_groups[group.tgid] = pgrp
    session.groups.append(pgrp)
    join_process_group(group, pgrp)
    return group.own_tgid


def sys_set_tid_address(task: Task, args: Args) -> int:
    """set_tid_address(2)."""
    task.exit_words.clear_child_tid = to_u64(args.a0)
    return task.own_tid


# -- new tasks -----------------------------------------------------------------------------------------------
def sys_fork(task: Task, args: Args) -> int:
    """fork(2)."""
    clone = CloneArgs()
    clone.exit_signal = SIGCHLD
    return do_clone(task, clone)


def sys_vfork(task: Task, args: Args) -> int:
    """vfork(2)."""
    clone = CloneArgs()
    clone.flags = CLONE_VM | CLONE_VFORK
    clone.exit_signal = SIGCHLD
    return do_clone(task, clone)


def sys_clone(task: Task, args: Args) -> int:
    """clone(2), raw x86-64 order: flags, stack, parent_tid, child_tid, tls."""
    clone = CloneArgs()
    low = to_u32(args.a0)
    clone.flags = low & ~0xFF
    clone.exit_signal = low & 0xFF
    clone.stack = to_u64(args.a1)
    clone.parent_tid = to_u64(args.a2)
    clone.pidfd = to_u64(args.a2)
    clone.child_tid = to_u64(args.a3)
    clone.tls = to_u64(args.a4)
    return do_clone(task, clone)


def sys_clone3(task: Task, args: Args) -> int:
    """clone3(2)."""
    size = to_u64(args.a1)
    if size > 4096:
        return -E2BIG
    if size < CLONE_ARGS_SIZE_VER0:
        return -EINVAL
    raw = task.user_memory().read(to_u64(args.a0), size)
    if any(raw[88:]):
        return -E2BIG
    fields = _CLONE_ARGS.unpack(raw[:88].ljust(88, b"\0"))
    clone = CloneArgs()
    clone.flags = fields[0]
    clone.pidfd = fields[1]
    clone.child_tid = fields[2]
    clone.parent_tid = fields[3]
    clone.exit_signal = fields[4]
    stack, stack_size = fields[5], fields[6]
    clone.tls = fields[7]
    set_tid, set_tid_size = fields[8], fields[9]
    if clone.flags & ~0x3FFFFFFFF or clone.flags & 0xFF & ~0x80 or clone.flags & 0x00400000:
        return -EINVAL
    if clone.exit_signal & ~0xFF or clone.exit_signal > 64:
        return -EINVAL
    if clone.flags & 0x00018000 and clone.exit_signal:  # CLONE_THREAD | CLONE_PARENT
        return -EINVAL
    if (stack == 0) != (stack_size == 0):
        return -EINVAL
    if (set_tid == 0) != (set_tid_size == 0) or set_tid_size > 32:
        return -EINVAL
    clone.stack = stack + stack_size
    if set_tid_size:
        clone.set_tid = [0] * set_tid_size
    return do_clone(task, clone)


# -- exec ----------------------------------------------------------------------------------------------------
def sys_execve(task: Task, args: Args) -> int:
    """execve(2)."""
    name = task.user_memory().read_cstring(to_u64(args.a0))
    path = lookup_for_exec(task, None, name)
    return start_exec(task, path, name, to_u64(args.a1), to_u64(args.a2))


def sys_execveat(task: Task, args: Args) -> int:
    """execveat(2)."""
    dirfd, flags = to_i32(args.a0), to_i32(args.a4)
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        return -EINVAL
    name = task.user_memory().read_cstring(to_u64(args.a1))
    shown = name
    is_unreachable = False
    start: Path | None = None
    if not name.startswith(b"/") and dirfd != -100:
        file = task.files.get(dirfd)
        start = file.path
        if start is None:
            return -EACCES
        shown = b"/dev/fd/%d" % dirfd + (b"/" + name if name else b"")
        is_unreachable = task.files.is_cloexec(dirfd)
    if not name:
        if not flags & AT_EMPTY_PATH or start is None:
            return -ENOENT
        path = start
        if path.dentry.inode is None:
            return -ENOENT
    else:
        path = path_lookup(task, start, name, 0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW)
        if path.inode().is_symlink():
            return -40  # ELOOP
    argv, envp = to_u64(args.a2), to_u64(args.a3)
    return start_exec(task, path, shown, argv, envp, is_unreachable=is_unreachable)


# -- exit and wait ---------------------------------------------------------------------------------------------
class LastClose(Blocked):
    """An exit that closes very many descriptors first, while the process still lives."""

    def __init__(self, status: int, *, is_group: bool) -> None:
        super().__init__()
        self.status: int = status
        self.is_group: bool = is_group
        self.at: int = 0

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        end_ns = monotonic_ns() + SLICE_NS
        while self.at >= 0:
            self.at = task.files.close_from(task, self.at)
            if self.at >= 0 and monotonic_ns() >= end_ns:
                return next_slice(task, self)
        end_wait(task, self)
        return _exit_now(task, self.status, is_group=self.is_group)

    def interrupted(self, task: TaskBase) -> int:
        return -EINTR if isinstance(task, Task) and task.is_kill_pending else BLOCKED


def _exit(task: Task, status: int, *, is_group: bool) -> int:
    if task.files.count > FEW and task.files.users == 1 and len(task.group.tasks) == 1:
        return LastClose(status, is_group=is_group).retry(task)
    return _exit_now(task, status, is_group=is_group)


def _exit_now(task: Task, status: int, *, is_group: bool) -> int:
    if task.exit_words.robust_list:
        return exit_robustly(task, status, is_group=is_group)
    if not is_group:
        return do_exit(task, status)
    do_group_exit(task.group, status)
    return DEAD


def sys_exit(task: Task, args: Args) -> int:
    """_exit(2) of one thread."""
    return _exit(task, (args.a0 & 0xFF) << 8, is_group=False)


def sys_exit_group(task: Task, args: Args) -> int:
    """exit_group(2)."""
    return _exit(task, (args.a0 & 0xFF) << 8, is_group=True)


class Wait4(WaitOperation):
    """wait4: status and rusage to the caller's memory."""

    def __init__(self, selector: WaitSelector, status_addr: int, rusage_addr: int) -> None:
        super().__init__(selector)
        self.status_addr: int = status_addr
        self.rusage_addr: int = rusage_addr

    def deliver(self, task: Task, found: Waited | None) -> int:
        if found is None:
            return 0
        mem = task.user_memory()
        if self.status_addr:
            mem.write_i32(self.status_addr, found.status)
        if self.rusage_addr:
            mem.write(self.rusage_addr, found.packed_rusage())
        return found.pid


class WaitId(WaitOperation):
    """waitid: siginfo and rusage to the caller's memory."""

    def __init__(self, selector: WaitSelector, info_addr: int, rusage_addr: int) -> None:
        super().__init__(selector)
        self.info_addr: int = info_addr
        self.rusage_addr: int = rusage_addr

    def deliver(self, task: Task, found: Waited | None) -> int:
        mem = task.user_memory()
        if found is None:
            if self.info_addr:
                mem.write(self.info_addr, bytes(12))
                mem.write(self.info_addr + 12, bytes(12))
            return 0
        if self.info_addr:
            status = found.status
            if found.code == 1:  # CLD_EXITED
                shown = status >> 8 & 0xFF
            elif status == 0xFFFF:
                shown = 18
            elif status & 0xFF == 0x7F:
                shown = status >> 8
            else:
                shown = status & 0x7F
            # Linux fills only these fields and leaves the rest of the buffer.
            raw = pack_siginfo_chld(
                SIGCHLD,
                found.code,
                found.pid,
                task.creds.show_uid(found.uid),
                shown,
                0,
                0,
            )
            mem.write(self.info_addr, raw[:28])
        if self.rusage_addr:
            mem.write(self.rusage_addr, found.packed_rusage())
        return 0


class WaitIdNonblocking(WaitId):
    """waitid on a pidfd that is O_NONBLOCK: -EAGAIN if there is nothing yet."""

    def __init__(self, group: ThreadGroup, options: int, info_addr: int, rusage_addr: int) -> None:
        super().__init__(WaitSelector(-2, None, group, options | WNOHANG), info_addr, rusage_addr)

    def deliver(self, task: Task, found: Waited | None) -> int:
        result = super().deliver(task, found)
        return -EAGAIN if found is None else result


def sys_wait4(task: Task, args: Args) -> int:
    """wait4(2)."""
    pid, options = to_i32(args.a0), to_i32(args.a2)
    if to_u32(args.a2) & ~(WNOHANG | 2 | WCONTINUED | W_NOTHREAD | W_ALL | W_CLONE):
        return -EINVAL
    if pid == -(1 << 31):
        return -ESRCH
    pgrp = None
    if pid == 0:
        pgrp = task.group.pgrp
    elif pid < -1:
        pgrp = task.kernel.process_groups.get(pid_from(task.pid_ns, -pid))
        pid = 0
    elif pid > 0:
        pid = pid_from(task.pid_ns, pid)
    selector = WaitSelector(pid, pgrp, None, to_u32(options) | WEXITED)
    if args.a3:
        task.group.spent.is_wanted = True
    return do_wait(task, Wait4(selector, to_u64(args.a1), to_u64(args.a3)))


def sys_waitid(task: Task, args: Args) -> int:
    """waitid(2)."""
    which, ident, options = to_i32(args.a0), to_i32(args.a1), to_u32(args.a3)
    if options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | W_NOTHREAD | W_ALL | W_CLONE):
        return -EINVAL
    if not options & (WEXITED | WSTOPPED | WCONTINUED):
        return -EINVAL
    if args.a4:
        task.group.spent.is_wanted = True
    pgrp = None
    group = None
    pid = -1
    if which == P_PID:
        if ident <= 0:
            return -EINVAL
        pid = pid_from(task.pid_ns, ident)
    elif which == P_PGID:
        if ident < 0:
            return -EINVAL
        pgrp = task.group.pgrp if ident == 0 else task.kernel.process_groups.get(pid_from(task.pid_ns, ident))
        pid = 0
    elif which == P_PIDFD:
        if ident < 0:
            return -EINVAL
        resolve = task.kernel.hooks.pidfd_group
        if resolve is None:
            return -EBADF
        file = task.files.get(ident)
        group = resolve(file)
        pid = -2
        if file.flags & O_NONBLOCK and not options & WNOHANG:
            return do_wait(task, WaitIdNonblocking(group, options, to_u64(args.a2), to_u64(args.a4)))
    elif which != P_ALL:
        return -EINVAL
    selector = WaitSelector(pid, pgrp, group, options)
    return do_wait(task, WaitId(selector, to_u64(args.a2), to_u64(args.a4)))


def sys_ni(task: Task, args: Args) -> int:
    """A system call that does not exist here: ENOSYS, counted."""
    missing = task.kernel.missing
    missing[args.nr] = missing.get(args.nr, 0) + 1
    return -ENOSYS
