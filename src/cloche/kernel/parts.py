"""What the kernel holds for parts that stand further right, as far as it knows it.

Each has a field of `Kernel`, `ThreadGroup` or `Task` with one of these types; the class behind it, and who makes it,
stands beside the name.
"""

from mypy_extensions import trait

from cloche.kernel.siginfo import SignalSource
from cloche.kernel.timers import TimerOwner
from cloche.platform.interface import Event
from cloche.vfs.objects import FileSystem, Inode


class FutexWaiters:
    """Who waits for which word: kernel.futex.FutexTable, made at first use."""


@trait
class TaskNames:
    """Names that lead to a task: fs.proc_pid.PidDir, when it is looked up."""

    def drop(self) -> None:
        """The task is gone for good: forget them."""
        raise NotImplementedError


@trait
class IntervalTimer:
    """A timer of setitimer(2): those of kernel.itimers, made at first use."""

    def signal_taken(self) -> None:
        """A SIGALRM was taken from the process's queue, whoever sent it."""
        raise NotImplementedError


class ProcessorTimers(TimerOwner):
    """What a process has on CPU time: kernel.itimers.CpuTimers, made at first use."""


class GroupTimers:
    """The timers of a process.  Changed by kernel.itimers only.

    Invariants: a POSIX timer stands under its own id, and an id comes again only when all others have been given
    (posix-timers.c).
    """

    def __init__(self) -> None:
        self.interval: list[IntervalTimer | None] = [None, None, None]  # by ITIMER_*
        self.cpu: ProcessorTimers | None = None  # those that run on CPU time
        self.posix: dict[int, SignalSource] = {}  # kernel.itimers.PosixTimer, by id
        self._next_id: int = 0

    def take_id(self) -> int:
        """An id for a POSIX timer."""
        ident = self._next_id
        while ident in self.posix:
            ident = (ident + 1) & 0x7FFFFFFF
        self._next_id = (ident + 1) & 0x7FFFFFFF
        return ident


class ExitWords:
    """Where in a thread's memory its end is told (set_tid_address(2), set_robust_list(2)); 0: nowhere."""

    def __init__(self) -> None:
        self.clear_child_tid: int = 0
        self.robust_list: int = 0

    def forget(self) -> None:
        """Another program has taken the place of that memory."""
        self.clear_child_tid = 0
        self.robust_list = 0


class SignalMask:
    """Which signals a thread holds back (sigprocmask(2)).

    A call with a mask of its own (ppoll, sigsuspend) lends it one; the lasting one comes back when it is over, or
    is written into the frame of a handler.  Neither has SIGKILL or SIGSTOP: they change through `set_sigmask`.
    """

    def __init__(self) -> None:
        self.now: int = 0
        self.is_lent: bool = False  # `now` is a call's own
        self._lasting: int = 0  # ... and this comes back

    def lasting(self) -> int:
        """That of the program, whatever the call under way has."""
        return self._lasting if self.is_lent else self.now

    def lend(self) -> None:
        """From here on `now` is a call's own."""
        if not self.is_lent:
            self.is_lent = True
            self._lasting = self.now

    def keep(self) -> None:
        """What is now lasts: the one before is written elsewhere, or replaced."""
        self.is_lent = False


class SeccompChain:
    """The filters of a task, the newest first: kernel.seccomp_filter.Filter."""


class FlyingFiles(TimerOwner):
    """Open files under way in messages: net.rights.Flights, made at first use."""


class LateNews:
    """What waits for the end of a host process: kernel.accounting.LateUsage."""

    def arrived(self, event: Event) -> None:
        """The host process is gone (EV_PROCESS_DIED)."""
        raise NotImplementedError


class SysctlTree:
    """/proc/sys: fs.proc_sys.ProcSys, made with the first proc."""


class FileSystems:
    """Those of which a sandbox has one; each is made at first use by the module that is named."""

    def __init__(self) -> None:
        self.anon: FileSystem | None = None  # fs.anon: st_dev of eventfds, timerfds …
        self.anon_inode: Inode | None = None  # fs.anon: the inode that they share
        self.pipe: FileSystem | None = None  # fs.pipe
        self.socket: FileSystem | None = None  # net.sockfs
        self.namespace: FileSystem | None = None  # fs.nsfs
        self.cgroup: FileSystem | None = None  # fs.cgroup
        self.sysfs: FileSystem | None = None  # fs.sysfs
        self.host: FileSystem | None = None  # fs.hostfd: of donated descriptors
        self.proc: FileSystem | None = None  # fs.proc: of the initial pid namespace
