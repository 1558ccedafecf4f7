"""Deaths of guests' host processes: finding out that one has died, reaping it, and telling C whose death it was.

SIGCHLD comes by a signalfd in the epoll of the event loop (edge-triggered); then the host is asked which children
have died. A child that is not a guest (a test's own) is left to the code that waits for it. The C code decides what a
death means (csrc/host/teardown.c), and queues EV_PROCESS_DIED.
"""

import os
import signal
from collections.abc import Iterable
from typing import Final

from cloche.abi.wait import __WALL, WEXITED, WNOHANG, WNOWAIT
from cloche.platform import _native, hostsys
from cloche.platform.interface import EV_FD, Event
from cloche.platform.layout import TAG_SIGCHLD

_MAX_REAPED: Final = 64  # deaths in one round
_MAX_POSTPONED: Final = 32  # events that come before a death which was reported
_LOOK: Final = WEXITED | WNOHANG | WNOWAIT | __WALL


class Deaths:
    """The children of this host process that are guests."""

    def __init__(self) -> None:
        self._fd = -1
        self.is_more = False  # there were more deaths than could be dealt with: reap again
        self._postponed = -1  # events that were dealt with since a death was reported; -1: none was
        self._handles: list[int] = []  # of processes that are in no list of guests (the zygote)

    def open(self) -> int:
        """Block SIGCHLD -> a descriptor to be watched, and closed by the caller in the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self._fd = hostsys.signalfd(signal.SIGCHLD)
        return self._fd

    def watch(self, handle: int) -> None:
        """Look for the death of this process, too."""
        self._handles.append(handle)

    def unwatch(self, handle: int) -> None:
        self._handles.remove(handle)

    def report(self) -> None:
        """Children may have died."""
        if self._postponed < 0:
            self._postponed = 0

    def is_due(self) -> bool:
        """Whether a report waits for `reap`, which takes as long as ten short calls: better while guests compute."""
        return self._postponed >= 0

    def may_wait(self) -> bool:
        """Whether the report can wait for one more event."""
        self._postponed += 1
        return self._postponed <= _MAX_POSTPONED

    def reap(self) -> bool:
        """Reap the guests that have died. True: a child that is not a guest has died, and may hide other deaths
        (look_one_by_one).
        """
        try:
            # a struct signalfd_siginfo: of a signal without a queue there is only one
            os.read(self._fd, 1024)
        except BlockingIOError:
            pass
        self.is_more = False
        self._postponed = -1
        for _ in range(_MAX_REAPED):
            pid = _dead_child(os.P_ALL, 0)
            if pid == 0:
                return False
            if not _bury(pid):
                return True
        self.is_more = True
        return False

    def look_one_by_one(self, handles: Iterable[int]) -> None:
        """Reap those that have died of these processes, of the watched ones, and of their children."""
        for handle in [*self._handles, *handles]:
            group = _native.group_of(handle)
            while group > 0:
                pid = _dead_child(os.P_PID, group) or _dead_child(os.P_PGID, group)
                if pid == 0 or not _bury(pid):
                    break

    def next_event(self, timeout_ns: int, handles: list[int]) -> Event | int | None:
        """Wait for one event, outside of the event loop; `handles`: as for look_one_by_one."""
        while True:
            if self.is_due() and self.reap():
                self.look_one_by_one(handles)
            event = _native.wait_event(timeout_ns, -1)
            if event is None or isinstance(event, int) or not is_death(event):
                return event
            self.report()


def is_death(event: Event) -> bool:
    """Whether the event says that children may have died."""
    return event[0] == EV_FD and event[2] == TAG_SIGCHLD


def _dead_child(kind: int, number: int) -> int:
    """A child that has died and was not reaped yet, 0 if there is none."""
    try:
        found = os.waitid(kind, number, _LOOK)
    except ChildProcessError:
        return 0
    return 0 if found is None else found.si_pid


def _bury(pid: int) -> bool:
    """Reap a child and report its death; returns whether it was a guest."""
    group = os.getpgid(pid)
    if not _native.is_guests(pid, group):
        return False
    _pid, status, usage = os.wait4(pid, WNOHANG | __WALL)
    _native.bury(pid, group, status, usage.ru_maxrss, usage.ru_minflt, usage.ru_majflt, usage.ru_nivcsw)
    return True
