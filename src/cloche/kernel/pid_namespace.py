"""Pid namespaces (pid_namespaces(7), kernel/pid.c): the numbers of processes in each namespace.

Inside the kernel every pid is one of the initial pid namespace ("kernel pid"); pids that are passed to or from a
guest of another one are translated by `pid_in` and `pid_from`, for which the initial namespace is None. Left of
`kernel.ipc`.
"""

from typing import Final

from cloche.abi.errno import ENOMEM, LinuxError
from cloche.vfs.objects import FileSystem
from cloche.vfs.userns import Place, UserNamespace

FIRST_PID_INO: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO
MAX_LEVEL: Final = 32  # of nesting
PID_LIMIT: Final = 4194304
MAX_LATE: Final = 16384  # numbers of dead processes that a namespace remembers
NO_PID: Final = 1 << 40  # no process has this kernel pid


class PidNamespace:
    """A pid namespace below the initial one: the numbers that processes have in it (pid_namespaces(7))."""

    def __init__(self, parent: "PidNamespace | None", user_ns: UserNamespace | None, ino: int) -> None:
        self.parent: PidNamespace | None = parent  # None: the initial one
        self.level: int = parent.level + 1 if parent is not None else 1
        self.user_ns: UserNamespace | None = user_ns  # the owner
        self.ino: int = ino  # of /proc/PID/ns/pid
        self.place: Place | None = None  # kernel.namespaces.NamespaceCount
        self.proc_fs: FileSystem | None = None  # the file system of proc mounts in this namespace (fs.proc)
        self.next_pid: int = 1
        self.is_closed: bool = False  # its init has died: there will be no new process
        self.init_pid: int = 0  # kernel pid of its init; 0: not there yet, or gone
        self.to_kernel: dict[int, int] = {}  # number here -> kernel pid
        self.from_kernel: dict[int, int] = {}
        # The same for processes that have died lately, because their numbers may still be shown
        self.late: dict[int, int] = {}

    def add(self, kernel_pid: int) -> int:
        """Give a new task a number.  Raises LinuxError(ENOMEM) once init has died."""
        if self.is_closed:
            raise LinuxError(ENOMEM)
        while True:
            pid = self.next_pid
            self.next_pid = pid + 1 if pid + 1 < PID_LIMIT else 300
            if pid not in self.to_kernel:
                break
        self.to_kernel[pid] = kernel_pid
        self.from_kernel[kernel_pid] = pid
        self.late.pop(kernel_pid, None)
        return pid

    def reserve_first(self) -> None:
        """Processes come before the namespace's init, which is to be 1 nevertheless."""
        self.next_pid = max(self.next_pid, 2)

    def begin_first(self) -> None:
        """The next number is that of init, whatever processes came before."""
        self.next_pid = 1

    def drop(self, kernel_pid: int) -> None:
        """Remove a number that is not used any more."""
        pid = self.from_kernel.pop(kernel_pid, 0)
        if pid:
            del self.to_kernel[pid]
            late = self.late
            late[kernel_pid] = pid
            if len(late) > MAX_LATE:
                del late[next(iter(late))]
        if self.is_closed and not self.from_kernel:
            self.proc_fs = None  # they refer to each other

    def is_within(self, other: "PidNamespace | None") -> bool:
        """Whether this is `other` or one of its descendants."""
        if other is None:
            return True
        at: PidNamespace | None = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False


def pid_in(ns: PidNamespace | None, kernel_pid: int) -> int:
    """The number of a task, process group or session in `ns`; 0 if it is not visible there (pid_nr_ns).

    Like a struct pid, the number is valid longer than its process.
    """
    if ns is None:
        return kernel_pid
    found = ns.from_kernel.get(kernel_pid, 0)
    return found if found else ns.late.get(kernel_pid, 0)


def pid_from(ns: PidNamespace | None, pid: int) -> int:
    """The kernel pid of a positive number in `ns`; NO_PID if nothing has it (find_pid_ns)."""
    return pid if ns is None else ns.to_kernel.get(pid, NO_PID)


def pids_below(view: PidNamespace | None, deepest: PidNamespace | None, kernel_pid: int) -> list[int]:
    """The numbers of a task of `deepest` from `view` down (the NSpid line of /proc/PID/status)."""
    found: list[int] = []
    at = deepest
    while at is not None:
        found.append(at.from_kernel.get(kernel_pid, 0))
        if at is view:
            break
        at = at.parent
    else:
        found.append(kernel_pid)
    found.reverse()
    return found
