"""Base classes for objects of modules further right that the kernel's own objects hold.

Each is the type of a field of `Kernel`, `ThreadGroup` or `Task`; beside its name stands the class that derives from
it, and when that is made.
"""

from mypy_extensions import trait

from cloche.kernel.siginfo import SignalSource
from cloche.kernel.timers import TimerOwner
from cloche.platform.interface import Event
from cloche.vfs.objects import FileSystem, Inode


class FutexWaiters:
    """The waiters for futex words: kernel.futex.FutexTable, made at first use."""


@trait
class TaskNames:
    """Names that lead to a task: fs.proc_pid.PidDir, when it is looked up."""

    def drop(self) -> None:
        """The task is gone: drop the names."""
        raise NotImplementedError


@trait
class IntervalTimer:
    """A timer of setitimer(2): those of kernel.itimers, made at first use."""

    def signal_taken(self) -> None:
        """A SIGALRM, from any sender, was taken from the process's queue."""
        raise NotImplementedError


class ProcessorTimers(TimerOwner):
    """A process's timers on CPU time: kernel.itimers.CpuTimers, made at first use."""


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
    """Addresses in a thread's memory that are changed when it ends (set_tid_address(2), set_robust_list(2)); 0:
    nowhere.
    """

    def __init__(self) -> None:
        self.clear_child_tid: int = 0
        self.robust_list: int = 0

    def forget(self) -> None:
        """The memory was replaced by another program's."""
        self.clear_child_tid = 0
        self.robust_list = 0


class SignalMask:
    """Which signals a thread holds back (sigprocmask(2)).

    A call with a mask of its own (ppoll, sigsuspend) replaces it for the time of the call; the lasting one is
    restored when the call is over, or is written into the frame of a handler. Neither has SIGKILL or SIGSTOP: they
    change through `set_sigmask`.
    """

    def __init__(self) -> None:
        self.now: int = 0
        self.is_lent: bool = False  # `now` is a call's own
        self._lasting: int = 0  # ... and this comes back

    def lasting(self) -> int:
        """The program's own mask, without that of the call under way."""
        return self._lasting if self.is_lent else self.now

    def lend(self) -> None:
        """From here on `now` is a call's own."""
        if not self.is_lent:
            self.is_lent = True
            self._lasting = self.now

    def keep(self) -> None:
        """Make the present mask the lasting one: the earlier one was saved elsewhere, or is replaced."""
        self.is_lent = False


class SeccompChain:
    """The filters of a task, the newest first: kernel.seccomp_filter.Filter."""


class FlyingFiles(TimerOwner):
    """Open files in messages that were not received yet: net.rights.Flights, made at first use."""


class LateNews:
    """Waits for the end of a host process: kernel.accounting.LateUsage, kernel.exit.HostGone."""

    def arrived(self, event: Event) -> None:
        """The host process is gone (EV_PROCESS_DIED)."""
        raise NotImplementedError


class SysctlTree:
    """/proc/sys: fs.proc_sys.ProcSys, made with the first proc."""


class FileSystems:
    """File systems of which a sandbox has one instance; each is made at first use, by the module beside its name."""

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
