"""Tasks, thread groups, process groups, sessions, and the kernel object that holds them.

They refer to each other, so they share a module. The operations on them are in the modules beside it: `clone`,
`exec`, `exit`, `signals`, `futex`, `timers`, `loop`. A guest thread is a `Task`; a guest process is a `ThreadGroup`;
the host's pids never appear here (I2).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import EAGAIN, ENOMEM, ENXIO, LinuxError
from cloche.abi.signal import SS_DISABLE
from cloche.arch.sigframe import AltStack
from cloche.kernel.args import Args
from cloche.kernel.blocking import Blocked, TaskBase
from cloche.kernel.chores import Chore
from cloche.kernel.executable import Executable
from cloche.kernel.fd_table import FdTable
from cloche.kernel.group_end import ExecTurn, GroupEnd
from cloche.kernel.host_facts import HostFacts
from cloche.kernel.host_fds import HostFds
from cloche.kernel.host_wait import HostServer, HostWaits
from cloche.kernel.ipc.sem import UndoList
from cloche.kernel.job_control import JobControl
from cloche.kernel.meter import Meter
from cloche.kernel.namespaces import NamespaceLimits, Namespaces, initial_namespaces
from cloche.kernel.numbers import Numbers
from cloche.kernel.oom_score import OomScore
from cloche.kernel.parts import (
    ExitWords,
    FileSystems,
    FlyingFiles,
    FutexWaiters,
    GroupTimers,
    LateNews,
    SignalMask,
    SysctlTree,
    TaskNames,
)
from cloche.kernel.phase import DEAD, GUEST, KERNEL, LEAVING, LENT, NAMES, STOPPED, WAITS, IllegalPhase
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.kernel.programs import Programs
from cloche.kernel.scheduling import Scheduling
from cloche.kernel.siginfo import PendingSignals, SigInfo, SignalHandlers
from cloche.kernel.timers import DEADLINE, WATCHDOG, Timer, TimerOwner, TimerQueue, monotonic_ns
from cloche.kernel.trace_state import Fault, SeccompState, TraceState
from cloche.kernel.usage import IoCounts, Spent
from cloche.kernel.user_counts import UserCounts
from cloche.mm.address_space import AddressSpace
from cloche.mm.content import CONTENT_KEYS, ContentKeys
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY, Descriptors, Quota
from cloche.platform.interface import Event, HostThread, Parking, Platform, Registers
from cloche.vfs.credentials import ALL_CAPS, Credentials
from cloche.vfs.entries import RENAME_COOKIES, RenameCookies
from cloche.vfs.handles import HandleNumbers
from cloche.vfs.layers import Keeping, Layer
from cloche.vfs.locks import LockTable
from cloche.vfs.mapping import SHARED_MEMORY, SharedMemory
from cloche.vfs.mount import MOUNT_NUMBERS, MountNumbers
from cloche.vfs.objects import (
    Context,
    FileDescription,
    FileSystem,
    FsContext,
    Inode,
    InodeWatches,
    MountNamespace,
    Path,
)
from cloche.vfs.userns import UserNamespace, map_gid, map_uid
from cloche.vfs.waitqueue import WaitQueue

WATCHDOG_NS: Final = 11_000_000_000  # just longer than the platform waits


class OpsJob:
    """Host operations that a stopped thread carries out for another task (kernel.ptrace.memory)."""

    def begin(self, task: "Task") -> bool:
        """The thread ran when the job was made, and has stopped now. Returns whether it starts on the job, so that
        its task waits.
        """
        raise NotImplementedError

    def done(self, task: "Task") -> None:
        """The thread has carried out what was queued, and has stopped again."""
        raise NotImplementedError

    def failed(self, task: "Task", errno: int) -> None:
        """The host has refused an operation, or the thread is gone."""
        raise NotImplementedError


class HostWork:
    """Jobs of others for a task's stopped host thread.  Invariant: while there is one under way the task is WORKING."""

    def __init__(self) -> None:
        self.job: OpsJob | None = None  # under way
        self.next: OpsJob | None = None  # to begin once the thread has stopped


class Watchpoints:
    """The debug registers of a traced task, as its tracer has set them (kernel.ptrace.watch)."""

    def __init__(self) -> None:
        self.registers: list[int] = [0] * 8
        self.is_enabled: bool = False  # one of them: every instruction is a step
        self.seen: list[bytes] = []  # the watched memory before the step


class Vfork:
    """A child that execs or exits before its parent goes on (CLONE_VFORK).

    The parent waits with a `VforkWait`.  If the child has its host thread, the parent is LENT.
    """

    def __init__(self, parent: "Task", child: "Task", regs: Registers | None, fpstate: bytes) -> None:
        self.parent: Task = parent
        self.child: Task = child
        self.regs: Registers | None = regs  # of the parent, to put back; None: each has a thread of its own
        self.fpstate: bytes = fpstate


class Tracee:
    """The state of a traced task: its tracer, and the stop that it is in (ptrace(2)). Changed by kernel.ptrace only."""

    def __init__(self, tracer: "Task", options: int, *, is_seized: bool) -> None:
        self.tracer: Task = tracer
        self.options: int = options  # PTRACE_O_*
        self.is_seized: bool = is_seized
        self.is_stopped: bool = False  # in a stop that was reported to the tracer
        self.is_listening: bool = False  # PTRACE_LISTEN
        self.code: int = 0  # of that stop, until a wait has seen it; 0: none
        self.info: SigInfo | None = None  # of that stop
        self.message: int = 0  # PTRACE_GETEVENTMSG
        self.mode: int = 0  # how it was resumed: kernel.ptrace.stops.MODE_*
        self.has_forced_tf: bool = False  # the kernel has set the trap flag in its registers
        self.trap_pending: bool = False  # JOBCTL_TRAP_STOP
        self.notify_pending: bool = False  # JOBCTL_TRAP_NOTIFY
        self.stop_wanted: bool = False  # JOBCTL_STOP_PENDING: has yet to take part in the group's stop
        self.is_exit_reported: bool = False  # has been in PTRACE_EVENT_EXIT
        self.is_doomed: bool = False  # another thread's execve ends it
        self.is_zombie: bool = False  # dead, and its tracer may wait for it
        self.status: int = 0  # wait status of the dead
        self.watch: Watchpoints | None = None

    def needs_attention(self) -> bool:
        """Whether a trap keeps it from guest code."""
        return self.trap_pending or self.notify_pending or self.stop_wanted or self.is_doomed


class Tracing:
    """The interface of kernel.ptrace for tasks that are traced (`Kernel.tracing`)."""

    def arrived(self, task: "Task") -> None:
        """A traced task has stopped running guest code."""
        raise NotImplementedError

    def departing(self, task: "Task") -> None:
        """The task is about to be resumed."""
        raise NotImplementedError

    def stepped(self, task: "Task", signo: int, code: int) -> bool:
        """A watched task has trapped. True: the trap was its single step, and the guest must not see it. False: it is
        an ordinary fault.
        """
        raise NotImplementedError

    def syscall_entry(self, task: "Task") -> bool:
        """A system call has arrived; whether the task stopped before it."""
        raise NotImplementedError

    def syscall_exit(self, task: "Task", result: int) -> bool:
        """A system call has its result; whether the task stopped behind it."""
        raise NotImplementedError

    def returning(self, task: "Task") -> int:
        """The task leaves a stop and goes on to guest code: the result of its call, RESUME if it is in none."""
        raise NotImplementedError

    def seccomp_stop(self, task: "Task", data: int) -> int:
        """SECCOMP_RET_TRACE: BLOCKED in a stop, ENOSYS without a tracer that wants it."""
        raise NotImplementedError

    def signal_stop(self, task: "Task", info: SigInfo, result: int, *, in_syscall: bool) -> None:
        """A signal is about to be delivered."""
        raise NotImplementedError

    def trap_stop(self, task: "Task", result: int, *, in_syscall: bool) -> None:
        """A group stop, PTRACE_INTERRUPT, or a change to either."""
        raise NotImplementedError

    def handler_entered(self, task: "Task") -> bool:
        """The registers are at the start of a handler; whether the task stopped there (single step)."""
        raise NotImplementedError

    def continued(self, group: "ThreadGroup") -> None:
        """SIGCONT was sent to a group."""
        raise NotImplementedError

    def clone_event(self, task: "Task", flags: int, exit_signal: int) -> int:
        """The PTRACE_EVENT_* of a clone, 0 if its tracer has not asked for it."""
        raise NotImplementedError

    def child_born(self, task: "Task", child: "Task", child_tid_addr: int) -> None:
        """A child is born that its parent's tracer traces, too: it stops before its first instruction."""
        raise NotImplementedError

    def cloned(self, task: "Task", child: "Task", event: int) -> int:
        """The parent's side: BLOCKED in the stop that reports `event`."""
        raise NotImplementedError

    def vfork_done(self, task: "Task", child: "Task", child_pid: int) -> bool:
        """The child of a vfork has left; whether the parent stopped to say so."""
        raise NotImplementedError

    def exec_waits(self, task: "Task") -> bool:
        """Whether execve must wait for a tracer to let the other threads end."""
        raise NotImplementedError

    def execed(self, task: "Task", old_tid: int) -> int:
        """A new program is in place: RESUME, or BLOCKED in the stop that reports it."""
        raise NotImplementedError

    def thread_exit(self, task: "Task", status: int) -> bool:
        """A thread ends; whether it stopped before that."""
        raise NotImplementedError

    def group_exit(self, group: "ThreadGroup", status: int) -> bool:
        """A group ends; whether it does so thread by thread, as each leaves its stop."""
        raise NotImplementedError

    def leader_died(self, group: "ThreadGroup") -> bool:
        """The last thread of a group is gone. Returns whether the leader's tracer is told of it before its parent."""
        raise NotImplementedError

    def reap(self, task: "Task") -> None:
        """A tracer has waited for a dead tracee."""
        raise NotImplementedError

    def forget(self, task: "Task") -> None:
        """Stop tracing a task that was never born, or whose id another task has taken; its tracer is not told."""
        raise NotImplementedError


class Session:
    """A session: its id and its controlling terminal."""

    def __init__(self, sid: int) -> None:
        self.sid: int = sid
        self.tty: Console | None = None
        self.groups: list[ProcessGroup] = []


class ProcessGroup:
    """A process group of a session."""

    def __init__(self, pgid: int, session: Session) -> None:
        self.pgid: int = pgid
        self.session: Session = session
        self.members: dict[ThreadGroup, None] = {}


class ThreadGroup:
    """A guest process."""

    def __init__(self, container: "Container", tgid: int, handlers: SignalHandlers) -> None:
        self.container: Container = container
        self.kernel: Kernel = container.kernel
        self.tgid: int = tgid
        self.pid_ns: PidNamespace | None = None  # None: the kernel's own, in which only tests run processes
        self.own_tgid: int = tgid  # its pid in its own pid namespace: the result of getpid(2)
        self.tasks: list[Task] = []  # living threads, the leader first while it lives
        self.leader: Task | None = None  # kept after its exit, until the group is reaped
        self.parent: ThreadGroup | None = None
        self.children: dict[ThreadGroup, None] = {}  # in the order of their births
        self.pgrp: ProcessGroup | None = None
        self.handlers: SignalHandlers = handlers
        self.pending: PendingSignals = PendingSignals()
        self.child_wait: WaitQueue = WaitQueue()  # wait4 of its threads
        self.exit_wait: WaitQueue = WaitQueue()  # pidfds
        # Signalfds: POLLIN when a signal is queued here or on a thread
        self.signal_wait: WaitQueue = WaitQueue()
        self.end: GroupEnd = GroupEnd()
        self.exit_signal: int = 17  # SIGCHLD
        self.is_subreaper: bool = False
        self.has_guest_code: bool = True  # all but the sandbox's own init (kernel.init)
        self.exe: Executable = Executable()
        self.job: JobControl = JobControl()
        self.rlimits: list[tuple[int, int]] = []  # (soft, hard) by RLIMIT_*; -1 is infinity
        self.start_ns: int = 0  # since the sandbox's boot
        self.spent: Spent = Spent()
        self.timers: GroupTimers = GroupTimers()
        self.oom_score: OomScore = OomScore()
        self.loginuid: int = 0xFFFFFFFF  # /proc/PID/loginuid
        self.is_dumpable: bool = True
        self.forker_tid: int = 0  # the thread of the parent that made it: its tracer by PTRACE_TRACEME
        self.exec_turn: ExecTurn = ExecTurn()
        self.declared_tracer: int = 0  # PR_SET_PTRACER: a tgid, -1 for every process

    def is_alive(self) -> bool:
        return not self.end.is_zombie and not self.end.is_reaped

    def rlimit(self, resource: int) -> int:
        """The soft limit of RLIMIT_* `resource`; -1 is infinity."""
        return self.rlimits[resource][0]

    def session(self) -> Session | None:
        return self.pgrp.session if self.pgrp is not None else None

    def parent_pid(self) -> int:
        """The parent's pid in the own pid namespace; 0 if it is outside."""
        return pid_in(self.pid_ns, self.parent.tgid) if self.parent is not None else 0

    def is_namespace_init(self) -> bool:
        """Whether this is pid 1 of a pid namespace other than the initial one."""
        ns = self.pid_ns
        return ns is not None and ns.init_pid == self.tgid


class Task(TaskBase, TimerOwner):
    """A guest thread."""

    def __init__(
        self,
        kernel: "Kernel",
        tid: int,
        group: ThreadGroup,
        creds: Credentials,
        fs: FsContext,
        mount_ns: MountNamespace,
        files: FdTable,
        mm: AddressSpace,
        thread: HostThread,
    ) -> None:
        super().__init__(creds, fs, mount_ns)
        self.walk_keeper = kernel.host_waits
        self.kernel: Kernel = kernel
        self.checks_phases = kernel.is_strict
        self.tid: int = tid
        self.group: ThreadGroup = group
        self.files: FdTable = files
        self.mm: AddressSpace = mm
        self.thread: HostThread = thread
        self.args: Args = Args()  # its system call
        self.has_answers: bool = False  # kernel.answers has looked what the platform may answer by itself
        self.comm: bytes = b""
        self.sigmask: SignalMask = SignalMask()
        self.pending: PendingSignals = PendingSignals()
        self.wants_attention: bool = False  # look for signals or a stop before returning to guest code
        self.altstack: AltStack = AltStack(0, 0, SS_DISABLE)  # immutable, replaced as a whole
        self.exit_words: ExitWords = ExitWords()
        self.restart: Blocked | None = None  # to resume by restart_syscall
        self.is_left: bool = False  # counted in `Kernel.dead_tasks`
        self.exit_code: int = 0
        self.vfork: Vfork | None = None  # made by a vfork: its parent waits for its exec or exit
        self.lent: Vfork | None = None  # the child of its vfork has its host thread
        # Of the last clone: it was never born if that fails on the host
        self.ordered_child: Task | None = None
        self.deadline_timer: Timer | None = None  # of the wait; not pending: the deadline has passed
        self.personality: int = 0
        self.sched: Scheduling = Scheduling(kernel.cpu_mask)
        self.seccomp: SeccompState = SeccompState()
        self.fault: Fault = Fault()
        self.pdeath_signal: int = 0  # PR_SET_PDEATHSIG
        self.start_ns: int = 0
        self.ns: Namespaces = group.container.ns
        self.pid_ns: PidNamespace | None = group.pid_ns  # None: the initial one
        self.own_tid: int = pid_in(group.pid_ns, tid)  # its tid in that one: the result of gettid(2)
        self.names: list[TaskNames] = []  # names in /proc by which it was looked up
        self.proc_view: PidNamespace | None = None  # the pid namespace of the proc mount that it reads
        self.mm_user_ns: UserNamespace | None = None  # where its program was executed (mm_struct.user_ns)
        self.undo_list: UndoList | None = None  # SEM_UNDO; shared by CLONE_SYSVSEM
        self.trace: TraceState = TraceState()
        self.tracee: Tracee | None = None  # while it is traced
        self.ptraced: list[Task] = []  # those that it traces, the dead that it has not waited for included
        self.work: HostWork = HostWork()
        self.waits: int = 0  # how often a call of it had to wait
        self.io_counts: IoCounts | None = None

    # -- Context ---------------------------------------------------------------------------------------
    def thread_group_id(self) -> int:
        return self.group.tgid

    def has_pending_signal(self) -> bool:
        return self.wants_attention

    def file_size_exceeded(self) -> None:
        self.kernel.send_kernel_signal(self, 25)  # SIGXFSZ

    # -- phases ----------------------------------------------------------------------------------------
    def check_phase(self, phase: int) -> None:
        """Check the table of kernel.phase, and the invariants of the phase."""
        super().check_phase(phase)
        op = self.blocked
        if phase in WAITS:
            is_well = op is not None and op.phase() == phase and self.work.job is None
        elif phase == GUEST:
            is_well = op is None and self.work.job is None and self.lent is None
        elif phase == LEAVING:
            is_well = op is None
        else:
            is_well = True
        if not is_well or (phase == LENT) != (self.lent is not None) and phase not in (DEAD, KERNEL):
            raise IllegalPhase(f"{NAMES[phase]}, but it does not look so")

    def is_parked(self) -> bool:
        """Whether it takes part in a job control stop."""
        op = self.blocked
        return op is not None and op.phase() == STOPPED

    def borrows_thread(self) -> bool:
        """Whether it runs on the host thread of its vfork's parent."""
        return self.vfork is not None and self.vfork.regs is not None

    # -- blocking --------------------------------------------------------------------------------------
    def make_ready(self) -> bool:
        if self.blocked is None or self.is_ready_queued or self.is_exited:
            return False
        self.is_ready_queued = True
        self.kernel.ready.append(self)
        return True

    def leave(self) -> None:
        """The task is dead, and was waited for: drop its references, so that its memory is freed."""
        if not self.is_left:
            self.is_left = True
            self.kernel.dead_tasks += 1
            self.kernel.deaths += 1

    def __del__(self) -> None:
        if self.is_left:
            self.kernel.dead_tasks -= 1

    def queue_slice(self) -> None:
        if not self.is_ready_queued:
            self.is_ready_queued = True
            self.kernel.sliced.append(self)

    # -- deadlines ---------------------------------------------------------------------------------------
    def arm_deadline(self, deadline_ns: int) -> None:
        """End the wait under way at `deadline_ns`."""
        self.deadline_timer = self.kernel.timers.add(deadline_ns, DEADLINE, self)

    def disarm_deadline(self) -> None:
        """The wait is over before its deadline, or at it."""
        timer = self.deadline_timer
        if timer is not None:
            timer.cancel()
            self.deadline_timer = None

    def is_late(self) -> bool:
        """Whether the deadline of the wait under way has passed."""
        timer = self.deadline_timer
        return timer is not None and timer.owner is None

    def timer_due(self, kind: int, argument: int) -> None:
        """The deadline: queue the task; its turn handles it (kernel.loop)."""
        self.make_ready()

    # -- conveniences for handlers -----------------------------------------------------------------------
    def nofile_limit(self) -> int:
        """RLIMIT_NOFILE's soft limit."""
        limit = self.group.rlimits[7][0]
        return limit if limit >= 0 else 1 << 30

    def is_leader(self) -> bool:
        return self.tid == self.group.tgid

    def take_leaders_number(self) -> None:
        """The task is the only thread left, and executes a program (de_thread): give it the group's id as its tid."""
        self.tid = self.group.tgid
        self.own_tid = self.group.own_tgid


def parent_thread(child: ThreadGroup) -> Task | None:
    """The thread whose child a process is: the one that forked it, or the first of the parent that is left."""
    parent = child.parent
    if parent is None or not parent.tasks:
        return None
    forker = child.kernel.tasks.get(child.forker_tid)
    return forker if forker is not None and forker.group is parent else parent.tasks[0]


Handler = Callable[[Task, Args], int]


# States of a container, as in the OCI runtime specification ("State"), and paused.
CREATING: Final = "creating"
CREATED: Final = "created"
ENTERED: Final = "running"
PAUSED: Final = "paused"
ENDED: Final = "stopped"


@trait
class Console:
    """A terminal (fs.tty), as sessions and containers need it."""

    def adopt(self, group: "ThreadGroup") -> None:
        """Become the controlling terminal of a session leader."""
        raise NotImplementedError

    def proc_device(self) -> int:
        """Its device number, as st_rdev shows it."""
        raise NotImplementedError

    def proc_foreground(self) -> int:
        """Its foreground process group as tpgid shows it; -1 if there is none."""
        raise NotImplementedError


class Container:
    """A root, namespaces, a first program and limits (OCI's container).

    The kernel's tables are shared by all containers; everything that a guest may name, use up or look at beyond its
    processes is here. A task gets into it only by `kernel.container`, or as a clone of a task inside.
    """

    def __init__(self, kernel: "Kernel", ident: str) -> None:
        self.kernel: Kernel = kernel
        self.ident: str = ident
        self.state: str = CREATING
        self.ns: Namespaces = initial_namespaces(kernel.numbers.last_dev)
        self.pid_ns: PidNamespace | None = None
        self.user_ns: UserNamespace | None = None  # of its programs; None: the initial one
        self.user_ns_name: bytes = b""  # the host's namespace for which that stands
        self.root: Context | None = None  # the kernel's own view of it, with every capability
        self.init: ThreadGroup | None = None  # its pid 1, which orphans become children of
        self.main: ThreadGroup | None = None  # its first program
        self.stdio: FdTable | None = None  # of that
        self.console: Console | None = None  # the terminal of the first program, /dev/console
        self.devpts: FileSystem | None = None
        self.keeping: Keeping | None = None  # --keep
        self.layers: list[Layer] = []  # the private layers that hold guests' writes
        self.memory_fs: FileSystem | None = None  # tmpfs behind memfd_create and shared anonymous memory
        self.storage: HostServer | None = None  # the gofer that serves it files of the host
        self.cap_ceiling: int = ALL_CAPS  # capabilities that may ever be held inside
        self.max_tasks: int = 4096  # --pids
        self.task_count: int = 0  # threads that were not reaped (of the pids controller: pids_release)
        self.parking: Parking = Parking()  # host threads that wait for a task, which the host counts as well
        self.memory_limit: int = -1  # bytes; -1: none
        self.cpu_limit: float = 0.0  # processors; 0: no limit
        self.oom_kills: int = 0
        self.host_kills: int = 0  # those of them that were the host's kernel's
        self.told_kills: int = 0  # ends by the host's kernel, not of guests, by which an engine was told
        self.exit_status: int = -1  # wait status of the first program, once it is gone
        self.family: tuple[int, int] = (0, 0)  # of its processes: see `Platform.new_family`
        self.is_paused: bool = False
        self.held: list[tuple[Task, Event]] = []  # events that have arrived while it is paused, in order
        self.held_ready: list[Task] = []  # tasks that were woken while it is paused

    def root_credentials(self) -> Credentials:
        """Root of its user namespace, with every capability there."""
        ns = self.user_ns
        made = Credentials(max(map_uid(ns, 0), 0), max(map_gid(ns, 0), 0), [], ALL_CAPS)
        made.user_ns = ns
        return made

    @property
    def hostname(self) -> bytes:
        """The host name of its first uts namespace."""
        return self.ns.uts.hostname

    @hostname.setter
    def hostname(self, value: bytes) -> None:
        self.ns.uts.hostname = value


class KernelContext(Context):
    """The context of the kernel's own operations inside a container: root of its user namespace, all capabilities."""

    def __init__(self, container: Container, fs: FsContext, mount_ns: MountNamespace) -> None:
        super().__init__(container.root_credentials(), fs, mount_ns)
        self.container: Container = container


def container_of(ctx: Context) -> Container:
    """The container of a caller. Raises LinuxError(ENXIO) for a context that belongs to none."""
    if isinstance(ctx, Task):
        return ctx.group.container
    if isinstance(ctx, KernelContext):
        return ctx.container
    raise LinuxError(ENXIO)


class CallObserver:
    """Observes system calls: for --strace and /proc/PID/io."""

    def entered(self, task: Task, args: Args) -> None:
        """A call is about to be made (`Kernel.entry_observer`)."""

    def finished(self, task: Task, args: Args, result: int) -> None:
        """A call is over; `result` is DEAD if its task has ended (`Kernel.observer`)."""


class Hooks:
    """Functions through which modules call others to the right of them.

    `boot` sets them when it installs those modules; no hook is state of a guest.
    """

    def __init__(self) -> None:
        self.signal: Callable[[Task, int], None] | None = None  # kernel.signals: from the kernel to a task
        # kernel.signals: to the parent, of (child, CLD_*, status)
        self.child_signal: Callable[[ThreadGroup, int, int], None] | None = None
        # kernel.clone: the child gives the thread back
        self.vfork_done: Callable[[Vfork], None] | None = None
        self.vfork_wake: Callable[[Task], None] | None = None  # kernel.clone
        self.pidfd_group: Callable[[FileDescription], ThreadGroup] | None = None  # fs.pidfd; raises EBADF
        self.open_pidfd: Callable[[Task, ThreadGroup], int] | None = None  # fs.pidfd: the new descriptor
        # fs.inotify: a working or root directory was left
        self.moved: Callable[[Task, Path], None] | None = None
        self.container_ended: Callable[[Container], None] | None = None  # boot: its first program is gone
        # By the name of the part that has registered them, in the order of registration.
        self.at_exec: dict[str, Callable[[Task], None]] = {}  # their part of execve's reset
        self.at_exit: dict[str, Callable[[Task], None]] = {}  # a task exits, its files still open
        self.at_group_exit: dict[str, Callable[[ThreadGroup], None]] = {}  # the last thread is gone


class Kernel(TimerOwner):
    """Everything that exists once per sandbox, however many containers it has.  Behaviour is in the modules beside.

    `hooks` let modules to the left of their users be told (boot fills them in).
    """

    def __init__(self, platform: Platform, cpu_count: int) -> None:
        self.platform: Platform = platform
        self.fds: HostFds = HostFds(platform)
        self.cpu_count: int = cpu_count
        self.cpu_mask: int = (1 << cpu_count) - 1
        self.timers: TimerQueue = TimerQueue()
        self.tasks: dict[int, Task] = {}  # by tid
        self.groups: dict[int, ThreadGroup] = {}  # by tgid, zombies included
        self.containers: dict[str, Container] = {}  # by id
        self.hooks: Hooks = Hooks()
        self.paused: int = 0  # containers that are
        self.is_over: bool = False  # the loop ends
        self.process_groups: dict[int, ProcessGroup] = {}
        self.sessions: dict[int, Session] = {}
        self.by_thread: dict[int, Task] = {}  # by HostThread.ident(): the task that runs on it now
        self.ready: list[Task] = []  # blocked tasks to retry
        self.batch: list[Task] = []  # tasks of `ready` that are being retried, the next one last
        self.sliced: deque[Task] = deque()  # tasks whose calls have more to do
        # Queues for the position of a file that a long read or write is using.
        self.busy_positions: dict[FileDescription, WaitQueue] = {}
        self.chores: deque[Chore] = deque()
        self.host_waits: HostWaits = HostWaits()
        self.meter: Meter = Meter()
        self.next_pid: int = 2
        self.pid_max: int = 4194304
        self.table: list[Handler] = []
        self.programs: Programs = Programs()
        self.volumes: dict[bytes, FileSystem] = {}  # volumes that several containers may mount
        # by HostProcess.ident(): queues of tasks that wait for a fork (kernel.births)
        self.births: dict[int, WaitQueue] = {}
        self.late_usage: dict[int, LateNews] = {}  # by HostProcess.ident()
        self.missing: dict[int, int] = {}  # system calls answered with ENOSYS: number -> count
        self.internal_errors: int = 0
        self.boot_mono_ns: int = 0  # CLOCK_MONOTONIC of the sentry at boot
        self.boot_real_ns: int = 0
        self.is_patching: bool = False  # programs get patched text
        self.is_strict: bool = False  # CLOCHE_STRICT=1: an internal error stops everything
        self.file_systems: FileSystems = FileSystems()
        self.sysctl: SysctlTree | None = None
        self.facts: HostFacts = HostFacts()
        self.locks: LockTable = LockTable()
        self.handles: HandleNumbers = HandleNumbers()
        self.futexes: FutexWaiters | None = None
        self.flying_files: FlyingFiles | None = None
        self.aio_events: int = 0  # of all contexts (fs.aio-nr)
        # bytes of message queues, by the user that has made them (RLIMIT_MSGQUEUE)
        self.mqueue_bytes: UserCounts = UserCounts()
        # Removed directories that are watched and in which tasks still work (fs.inotify).
        self.doomed_homes: dict[Inode, InodeWatches] = {}
        self.inotify_instances: UserCounts = UserCounts()
        # (uid, gid) of what the sandbox began with, by device and inode number, as the host has them (fs.hostfd)
        self.donated_owners: dict[tuple[int, int], tuple[int, int]] = {}
        # Accounts of this process: objects that know no kernel reach them by the names of their modules.
        self.memory: Quota = KERNEL_MEMORY
        self.descriptors: Descriptors = DESCRIPTORS
        self.shared_memory: SharedMemory = SHARED_MEMORY
        self.content_keys: ContentKeys = CONTENT_KEYS
        self.mount_numbers: MountNumbers = MOUNT_NUMBERS
        self.rename_cookies: RenameCookies = RENAME_COOKIES
        self.numbers: Numbers = Numbers()
        self.namespace_limits: NamespaceLimits = NamespaceLimits()
        self.nested_pids: dict[int, PidNamespace] = {}  # kernel pids that are in other pid namespaces too
        self.queued_signals: UserCounts = UserCounts()  # by real uid (RLIMIT_SIGPENDING)
        self.observer: CallObserver | None = None  # of finished calls
        self.entry_observer: CallObserver | None = None  # of calls that begin
        self.total_syscalls: int = 0
        self.watchdog: Timer | None = None  # looks for guests that do not answer an interrupt
        self.overdue_kills: int = 0
        self.dead_tasks: int = 0  # dead tasks that are still referred to
        self.deaths: int = 0  # since the last collection of cycles
        self.tracing: Tracing | None = None  # kernel.ptrace
        self.traced_zombies: dict[int, Task] = {}  # dead threads that a tracer has not waited for yet, by tid
        self.has_pdeath_signals: bool = False  # a task has asked for one
        self.ptrace_scope: int = 0  # kernel.yama.ptrace_scope
        self.total_forks: int = 0
        self.dying_threads: dict[int, Task] = {}  # interrupted host threads of tasks that are gone already

    # -- identifiers -----------------------------------------------------------------------------------
    def alloc_pid(self, container: Container) -> int:
        """A free pid.  Raises LinuxError(EAGAIN) at the container's limit of tasks."""
        if container.task_count >= container.max_tasks:
            raise LinuxError(EAGAIN)
        while container.task_count + container.parking.count >= container.max_tasks:
            if not container.parking.release():
                break
        while True:
            pid = self.next_pid
            self.next_pid = pid + 1 if pid + 1 < self.pid_max else 300
            if (
                pid not in self.tasks
                and pid not in self.groups
                and pid not in self.process_groups
                and pid not in self.sessions
                and pid not in self.traced_zombies
            ):
                return pid

    def add_task(self, task: Task) -> None:
        """Add a task to the tables and the counts."""
        self.tasks[task.tid] = task
        if task.group.has_guest_code:
            task.group.container.task_count += 1

    def remove_task(self, task: Task) -> None:
        """Remove a dead task.  A leader counts until its process is reaped, a traced thread until it is waited for."""
        if self.tasks.get(task.tid) is task:
            del self.tasks[task.tid]
            self.release_pid(task.tid)
            if task is not task.group.leader and task.tid not in self.traced_zombies:
                self.count_released(task.group)

    def count_released(self, group: ThreadGroup) -> None:
        """A dead thread of `group` was reaped (release_task)."""
        if group.has_guest_code:
            group.container.task_count -= 1

    def enter_pid_namespace(self, ns: PidNamespace, pid: int) -> None:
        """Give a kernel pid its numbers in `ns` and above.  Raises LinuxError(ENOMEM), then nothing has changed."""
        at: PidNamespace | None = ns
        while at is not None:
            if at.is_closed:
                raise LinuxError(ENOMEM)
            at = at.parent
        at = ns
        while at is not None:
            at.add(pid)
            at = at.parent
        self.nested_pids[pid] = ns

    def release_pid(self, pid: int) -> None:
        """A task, process, process group or session has given up its number: free it where nothing else has it."""
        if not self.nested_pids or pid not in self.nested_pids:
            return
        if pid in self.tasks or pid in self.groups or pid in self.process_groups or pid in self.sessions:
            return
        if pid in self.traced_zombies:
            return
        at: PidNamespace | None = self.nested_pids.pop(pid)
        while at is not None:
            at.drop(pid)
            at = at.parent

    # -- the host ---------------------------------------------------------------------------------------
    def process_born(self, ident: int) -> None:
        """A host process exists now, or was given up: wake the tasks that wait for it (kernel.births)."""
        if self.births:
            queue = self.births.pop(ident, None)
            if queue is not None:
                queue.wake()

    # -- interrupts -------------------------------------------------------------------------------------
    def interrupt(self, thread: HostThread) -> None:
        """Make a running host thread stop soon; a process whose threads do not is killed (I3)."""
        thread.interrupt()
        if self.watchdog is None:
            self.watchdog = self.timers.add(monotonic_ns() + WATCHDOG_NS, WATCHDOG, self)

    def timer_due(self, kind: int, argument: int) -> None:
        """The watchdog."""
        self.watchdog = None
        for process in self.platform.overdue():
            self.overdue_kills += 1
            process.kill()

    # -- signals from the left of kernel.signals ---------------------------------------------------------
    def send_kernel_signal(self, task: Task, signo: int) -> None:
        """A signal from the kernel to one task (SIGPIPE, SIGXFSZ)."""
        hook = self.hooks.signal
        if hook is not None:
            hook(task, signo)
