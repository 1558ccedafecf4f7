"""clone(2), fork(2), vfork(2): new tasks.

Three ways (docs/design.md 3.5): the host's copy-on-write fork (no CLONE_VM), a further host thread (CLONE_VM), and for
CLONE_VM|CLONE_VFORK the child task on its suspended parent's own host thread until it execs or exits.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from cloche.abi.errno import EAGAIN, EBADF, EFAULT, EINVAL, ENOMEM, EPERM, ERESTARTNOINTR, LinuxError
from cloche.abi.mman import PROT_WRITE
from cloche.abi.resource import RLIMIT_CPU, RLIMIT_NPROC
from cloche.abi.sched import (
    CLONE_CHILD_CLEARTID,
    CLONE_CHILD_SETTID,
    CLONE_CLEAR_SIGHAND,
    CLONE_FILES,
    CLONE_FS,
    CLONE_INTO_CGROUP,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_PARENT,
    CLONE_PARENT_SETTID,
    CLONE_PIDFD,
    CLONE_PTRACE,
    CLONE_SETTLS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)
from cloche.kernel import sched
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, block_on_time, end_wait, next_slice
from cloche.kernel.ipc.sem import UndoList
from cloche.kernel.ipc.shm import mark_fork
from cloche.kernel.itimers import rlimit_cpu_changed
from cloche.kernel.phase import GUEST, LENT, WAITING, WORKING
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.kernel.seccomp_filter import replace as replace_filters
from cloche.kernel.seccomp_filter import retain as retain_filters
from cloche.kernel.siginfo import SigAction, SignalHandlers
from cloche.kernel.signals import signal_pending
from cloche.kernel.task import Task, ThreadGroup, Vfork
from cloche.kernel.timers import monotonic_ns
from cloche.kernel.unshare import Fresh, copy_mounts, prepare
from cloche.kernel.unwind import Unwind
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import MANY, MAX_AREAS
from cloche.mm.usermem import UserMemory
from cloche.platform.interface import HostProcess, HostThread, Registers

# The limit of rounds in which a list of areas is copied. If other threads change the list again and again, the fork
# copies it in one piece.
_MOST_ROUNDS: Final = 16 * MAX_AREAS // MANY


class CloneArgs:
    """The arguments that clone and clone3 share (struct kernel_clone_args)."""

    def __init__(self) -> None:
        self.flags: int = 0
        self.pidfd: int = 0
        self.child_tid: int = 0
        self.parent_tid: int = 0
        self.exit_signal: int = 0
        self.stack: int = 0
        self.tls: int = 0
        self.set_tid: list[int] = []


class VforkWait(Blocked):
    """A parent whose host thread the child uses, or (fork with CLONE_VFORK) that waits for the child's exec or exit."""

    def __init__(self, child: Task, shown_pid: int, *, is_lent: bool = False) -> None:
        super().__init__()
        self.is_lent: bool = is_lent  # the child has the parent's host thread
        self.child: Task = child
        self.child_pid: int = shown_pid
        self.is_done: bool = False

    def phase(self) -> int:
        return LENT if self.is_lent else WAITING

    def letter(self) -> str:
        return "D"

    def retry(self, task: TaskBase) -> int:
        if not self.is_done:
            return BLOCKED
        assert isinstance(task, Task)
        tracing = task.kernel.tracing
        if (
            task.tracee is not None
            and tracing is not None
            and tracing.vfork_done(task, self.child, self.child_pid)
        ):
            return BLOCKED
        return self.child_pid

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED  # TASK_KILLABLE: only death ends it, and do_group_exit does not ask


def check_flags(task: Task, args: CloneArgs) -> None:
    """copy_process's tests.  Raises LinuxError(EINVAL, EPERM)."""
    flags = args.flags
    if flags & CLONE_THREAD and not flags & CLONE_SIGHAND:
        raise LinuxError(EINVAL)
    if flags & CLONE_SIGHAND and not flags & CLONE_VM:
        raise LinuxError(EINVAL)
    if flags & CLONE_SIGHAND and flags & CLONE_CLEAR_SIGHAND:
        raise LinuxError(EINVAL)
    if flags & CLONE_FS and flags & (CLONE_NEWNS | CLONE_NEWUSER):
        raise LinuxError(EINVAL)
    if flags & CLONE_THREAD and flags & (CLONE_NEWUSER | CLONE_NEWPID | CLONE_PIDFD):
        raise LinuxError(EINVAL)
    if flags & CLONE_PIDFD and flags & CLONE_PARENT_SETTID and args.pidfd == args.parent_tid:
        raise LinuxError(EINVAL)
    if flags & CLONE_THREAD and task.ns.pid_for_children is not task.pid_ns:
        raise LinuxError(EINVAL)
    if flags & CLONE_PARENT and (task.group is task.group.container.init or task.group.is_namespace_init()):
        raise LinuxError(EINVAL)  # no process in the child's namespace could wait for it
    if flags & CLONE_INTO_CGROUP:
        raise LinuxError(EBADF)  # no descriptor of a guest is a control group that takes processes
    if args.set_tid:
        raise LinuxError(EPERM)
    if flags & CLONE_SETTLS and args.tls >= task.mm.max_address:
        raise LinuxError(EPERM)


def _check_nproc(task: Task) -> None:
    """RLIMIT_NPROC counts the tasks of the real user that were not reaped, and root has no limit (copy_process)."""
    limit, uid = task.group.rlimit(RLIMIT_NPROC), task.creds.uid
    kernel = task.kernel
    if uid == 0 or limit < 0 or len(kernel.tasks) + len(kernel.groups) + len(kernel.traced_zombies) < limit:
        return
    if task.creds.capable(CAP_SYS_ADMIN) or task.creds.capable(CAP_SYS_RESOURCE):
        return
    count = 0
    for tasks in (kernel.tasks, kernel.traced_zombies):
        for other in tasks.values():
            if other.creds.uid == uid:
                count += 1
    for group in kernel.groups.values():
        leader = group.leader
        if leader is not None and leader.is_exited and leader.creds.uid == uid:
            count += 1
    if count >= limit:
        raise LinuxError(EAGAIN)


class AreasFirst(Blocked):
    """A fork of a process with very many areas, which are first copied in slices (I8).

    The copy stays with the address space, so a fork that was interrupted by a signal continues it.
    """

    def __init__(self, args: CloneArgs) -> None:
        super().__init__()
        self.args: CloneArgs = args
        self.rounds: int = 0

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        end_ns = monotonic_ns() + SLICE_NS
        while self.rounds < _MOST_ROUNDS and task.mm.copy_some():
            self.rounds += 1
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)
        end_wait(task, self)
        return do_clone(task, self.args, is_first=False)

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTNOINTR


def do_clone(task: Task, args: CloneArgs, *, is_first: bool = True) -> int:
    """A new task; its tid for the caller, or BLOCKED (vfork).  Raises LinuxError."""
    check_flags(task, args)
    if signal_pending(task):
        # a signal to all processes, or a stop, must not miss a child that is being made
        return -ERESTARTNOINTR
    _check_nproc(task)
    if not args.flags & CLONE_VM:
        task.mm.check_fork()
        if is_first and task.mm.copy_some():
            return AreasFirst(args).retry(task)
    if not args.flags & CLONE_FILES:
        task.files.check_clone()
    made = prepare(task, args.flags, is_clone=True)
    pid_ns = made.ns.pid_for_children
    if pid_ns is not None and pid_ns.is_closed:
        raise LinuxError(ENOMEM)
    birth = Birth(task, args, made)
    try:
        birth.make()
    except BaseException:
        birth.unwind.undo()
        raise
    return birth.publish()


class Birth:
    """A task that is being made: `make` may fail at any step and is undone then, `publish` cannot fail."""

    def __init__(self, task: Task, args: CloneArgs, made: Fresh) -> None:
        tracing = task.kernel.tracing if task.tracee is not None else None
        flags = args.flags
        self.task: Task = task
        self.args: CloneArgs = args
        self.made: Fresh = made
        self.unwind: Unwind = Unwind()
        self.event: int = tracing.clone_event(task, flags, args.exit_signal) if tracing is not None else 0
        # A tracer may inspect the parent of a vfork while the child runs, so each has a host thread of its own.
        self.is_vfork_on_thread: bool = (
            flags & (CLONE_VM | CLONE_VFORK | CLONE_THREAD) == CLONE_VM | CLONE_VFORK and tracing is None
        )
        self.regs: Registers = task.thread.regs()
        self.parent_regs: Registers = self.regs
        self.parent_fpstate: bytes = b""
        self.tid: int = 0
        self.mm: AddressSpace = task.mm
        self.thread: HostThread = task.thread
        self.child: Task | None = None

    def make(self) -> None:
        """Make everything that the child needs; nothing of it is visible yet. Raises LinuxError."""
        task, kernel, args, flags = self.task, self.task.kernel, self.args, self.args.flags
        if flags & CLONE_PIDFD:
            mem = task.user_memory()
            task.files.reserve(task.nofile_limit())
            word = mem.process.read(args.pidfd, 4)
            if len(word) != 4 or not mem.write_now(args.pidfd, word):
                raise LinuxError(EFAULT)
        tid = self.tid = kernel.alloc_pid(task.group.container)
        pid_ns = self.made.ns.pid_for_children
        if pid_ns is not None:
            kernel.enter_pid_namespace(pid_ns, tid)
            self.unwind.add(lambda: kernel.release_pid(tid))
        self._set_registers()
        self._make_memory()
        files = task.files
        if flags & CLONE_FILES:
            files.users += 1
        else:
            files = files.clone()
        self.unwind.add(files.abandon)
        fs = task.fs if flags & CLONE_FS else task.fs.clone()
        if flags & CLONE_THREAD:
            group = task.group
        else:
            group = _new_group(task, tid, flags, args.exit_signal, pid_ns)
            self.unwind.add(group.exe.allow_writes)
        child = Task(kernel, tid, group, self.made.creds, fs, task.mount_ns, files, self.mm, self.thread)
        self.child = child
        self._inherit(child)
        self.thread.set_regs(self.regs)
        if self.is_vfork_on_thread:
            self.unwind.add(lambda: self.thread.set_regs(self.parent_regs))
        if flags & CLONE_PIDFD:
            self._give_pidfd(group)
        if flags & CLONE_NEWNS:
            child.mount_ns = copy_mounts(task, self.made, fs)

    def _set_registers(self) -> None:
        """The child's first registers; of a vfork also what the parent goes on with."""
        regs, args = self.regs, self.args
        if self.is_vfork_on_thread:
            self.parent_regs = regs.copy()
            self.parent_fpstate = self.task.thread.fpstate()
        regs.result = 0
        if args.stack:
            regs.sp = args.stack
        if args.flags & CLONE_SETTLS:
            regs.thread_pointer = args.tls

    def _make_memory(self) -> None:
        """The address space and the host thread.  Raises LinuxError(EAGAIN): the platform is out of places, descriptors
        or memory.
        """
        task, flags = self.task, self.args.flags
        parent_thread = task.thread
        if flags & CLONE_VM:
            if not self.is_vfork_on_thread:
                thread = _order_thread(parent_thread)
                self.thread = thread
                self.unwind.add(lambda: parent_thread.cancel_clone(thread))
            mm = task.mm
            mm.users += 1
            self.unwind.add(lambda: _leave_memory(mm))
            return
        process = _order_fork(parent_thread)
        self.thread = process.main_thread()
        self.unwind.add(lambda: parent_thread.cancel_clone(process.main_thread()))
        copy = task.mm.fork(process)
        self.mm = copy
        self.unwind.add(copy.release)

    def _inherit(self, child: Task) -> None:
        task, flags = self.task, self.args.flags
        child.mm_user_ns = task.mm_user_ns
        child.mem = UserMemory(self.thread, self.mm)
        child.file_size_limit = task.file_size_limit
        child.comm = task.comm
        child.sigmask.now = task.sigmask.now
        child.personality = task.personality
        child.seccomp.mode, child.seccomp.chain = task.seccomp.mode, task.seccomp.chain
        retain_filters(child)
        self.unwind.add(lambda: replace_filters(child, None))
        sched.inherit(task, child)
        child.ns = self.made.ns
        child.start_ns = monotonic_ns() - task.kernel.boot_mono_ns
        if not flags & CLONE_VM or flags & CLONE_VFORK:
            child.altstack = task.altstack
        if flags & CLONE_CHILD_CLEARTID:
            child.exit_words.clear_child_tid = self.args.child_tid

    def _give_pidfd(self, group: ThreadGroup) -> None:
        task = self.task
        opener = task.kernel.hooks.open_pidfd
        if opener is None:
            raise LinuxError(EINVAL)
        fd = opener(task, group)
        self.unwind.add(lambda: _close(task, fd))
        task.user_memory().write(self.args.pidfd, fd.to_bytes(4, "little"))

    def publish(self) -> int:
        """Make the child visible. Returns its tid for the caller, or BLOCKED."""
        task, kernel, args, flags = self.task, self.task.kernel, self.args, self.args.flags
        child, tid, thread = self.child, self.tid, self.thread
        assert child is not None
        self.unwind.forget()
        group = child.group
        if flags & CLONE_SYSVSEM:
            if task.undo_list is None:
                task.undo_list = UndoList()
            task.undo_list.users += 1
            child.undo_list = task.undo_list
        if self.mm is not task.mm and self.mm.has_segments:
            mark_fork(self.mm.areas(), task.group.tgid)
        if not flags & CLONE_THREAD:
            group.leader = child
            group.start_ns = child.start_ns
            kernel.groups[tid] = group
            kernel.total_forks += 1
            _link_group(group)
        group.tasks.append(child)
        kernel.add_task(child)
        if group.job.is_stopped or task.is_kill_pending:
            child.wants_attention = True
        shown = pid_in(task.pid_ns, tid)
        if flags & CLONE_PARENT_SETTID:
            _tell_parent(task, args, shown)
        if self.is_vfork_on_thread:
            return _run_on_parent(task, child, args, self.parent_regs, self.parent_fpstate)
        kernel.by_thread[thread.ident()] = child
        task.ordered_child = child
        child_tid_addr = args.child_tid if flags & CLONE_CHILD_SETTID else 0
        if child_tid_addr:
            area = task.mm.find(child_tid_addr)
            if area is None or not area.prot & PROT_WRITE:
                child_tid_addr = 0  # errors are ignored, as in Linux (schedule_tail)
        tracing = kernel.tracing if task.tracee is not None else None
        if tracing is not None and (self.event or flags & CLONE_PTRACE):
            tracing.child_born(task, child, child_tid_addr)
        else:
            child.enter(GUEST)
            if child_tid_addr:
                thread.write(child_tid_addr, child.own_tid.to_bytes(4, "little"))
        if tracing is not None and self.event:
            if flags & CLONE_VFORK:
                child.vfork = Vfork(task, child, None, b"")
            return tracing.cloned(task, child, self.event)
        if flags & CLONE_VFORK:
            child.vfork = Vfork(task, child, None, b"")
            block_on_time(task, VforkWait(child, shown))
            task.enter(WORKING)
            task.thread.run_ops()  # the fork itself; the parent is resumed by finish_vfork_wait
            return BLOCKED
        return shown


def _leave_memory(mm: AddressSpace) -> None:
    mm.users -= 1


def _close(task: Task, fd: int) -> None:
    task.files.close(task, fd)


def _tell_parent(task: Task, args: CloneArgs, shown: int) -> None:
    """CLONE_PARENT_SETTID; errors are ignored, as in Linux (kernel_clone)."""
    word = shown.to_bytes(4, "little")
    try:
        if args.flags & CLONE_VM:
            # Not deferred: the child may have exited, and cleared the same word, before this thread runs again.
            task.user_memory().write_now(args.parent_tid, word)
        else:
            area = task.mm.find(args.parent_tid)
            if area is not None and area.prot & PROT_WRITE:
                task.user_memory().write(args.parent_tid, word)
    except LinuxError:
        pass


def _order_thread(thread: HostThread) -> HostThread:
    """A further host thread.  Raises LinuxError(EAGAIN) when the platform has no slot or memory left."""
    try:
        return thread.queue_clone_thread()
    except OSError:
        raise LinuxError(EAGAIN) from None


def _order_fork(thread: HostThread) -> HostProcess:
    """A host process for a fork.  Raises LinuxError(EAGAIN) when the platform is out of descriptors or memory."""
    try:
        return thread.queue_fork()
    except OSError:
        raise LinuxError(EAGAIN) from None


def _run_on_parent(
    task: Task, child: Task, args: CloneArgs, parent_regs: Registers, parent_fpstate: bytes
) -> int:
    """Suspend the parent and let the child have its host thread, whose registers are the child's already."""
    kernel, thread = task.kernel, task.thread
    child.vfork = task.lent = Vfork(task, child, parent_regs, parent_fpstate)
    kernel.by_thread[thread.ident()] = child
    block_on_time(task, VforkWait(child, pid_in(task.pid_ns, child.tid), is_lent=True))
    if args.flags & CLONE_CHILD_SETTID:
        thread.write(args.child_tid, child.own_tid.to_bytes(4, "little"))
    # the parent's registers may be restored at any moment, which needs a signal frame
    thread.set_patched(False)
    child.enter(GUEST)
    thread.resume()
    return BLOCKED


def vfork_done(vfork: Vfork) -> None:
    """Put the parent's registers back on its host thread and let it go on (the hook of kernel.exit)."""
    child, parent = vfork.child, vfork.parent
    kernel, thread, regs = child.kernel, child.thread, vfork.regs
    assert regs is not None
    parent.lent = None
    if parent.is_exited:
        # The parent was killed meanwhile, so the thread is not needed any more.
        if not child.mm.is_dead:
            if child.mm.users <= 0:
                child.mm.process.kill()
                child.mm.release()
            else:
                thread.queue_exit()
                thread.resume()
        thread.discard()
        return
    thread.set_regs(regs)
    thread.set_fpstate(vfork.fpstate)
    thread.set_patched(not parent.trace.needs_full_frame)
    kernel.by_thread[thread.ident()] = parent
    finish_vfork_wait(parent)


def finish_vfork_wait(parent: Task) -> None:
    """The child has called exec or exited: wake the parent."""
    op = parent.blocked
    if isinstance(op, VforkWait):
        op.is_done = True
        op.is_lent = False
        if parent.phase == LENT:
            parent.enter(WAITING)
        parent.make_ready()


def _new_group(
    task: Task, tgid: int, flags: int, exit_signal: int, pid_ns: PidNamespace | None
) -> ThreadGroup:
    """The thread group of a new process, not visible yet."""
    old = task.group
    if flags & CLONE_SIGHAND:
        handlers = old.handlers
    else:
        handlers = old.handlers.clone()
    if flags & CLONE_CLEAR_SIGHAND:
        handlers = _cleared(old.handlers)
    group = ThreadGroup(task.group.container, tgid, handlers)
    group.spent.is_wanted = task.group.spent.is_wanted
    group.pid_ns = pid_ns
    group.own_tgid = pid_in(pid_ns, tgid)
    group.parent = old.parent if flags & CLONE_PARENT else old
    group.forker_tid = old.forker_tid if flags & CLONE_PARENT else task.tid
    group.exit_signal = old.exit_signal if flags & CLONE_PARENT else exit_signal
    group.rlimits = list(old.rlimits)
    group.exe.set(old.exe.path)
    group.oom_score.inherit(old.oom_score)
    group.loginuid = old.loginuid
    group.is_dumpable = old.is_dumpable
    group.pgrp = old.pgrp
    return group


def _link_group(group: ThreadGroup) -> None:
    """Link it to its parent and its process group."""
    if group.pid_ns is not None and group.own_tgid == 1:
        group.pid_ns.init_pid = group.tgid
    if group.parent is not None:
        group.parent.children[group] = None
    if group.rlimits[RLIMIT_CPU] != (-1, -1):
        rlimit_cpu_changed(group)
    if group.pgrp is not None:
        group.pgrp.members[group] = None


def _cleared(handlers: SignalHandlers) -> SignalHandlers:
    """CLONE_CLEAR_SIGHAND: handlers become default, ignored stays ignored."""
    new = SignalHandlers()
    for signo in range(1, 65):
        if handlers.actions[signo].handler == 1:
            new.actions[signo] = SigAction(1)
    return new
