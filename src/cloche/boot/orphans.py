"""Ending children that a subreaper has inherited."""

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

__all__ = ["end_orphans"]

_LOOK_MS: Final = 100
_PATIENCE_S: Final = 2.0  # for children that cannot die yet


def end_orphans(keep: Callable[[int], bool] | None = None) -> None:
    """Kill and reap this process's children, except those for which `keep` returns true.

    They are guests of a sentry that died without a pid namespace, or workers of a gofer. A child that waits for
    storage that hangs (state D) cannot die; it is left to the process that inherits it.
    """
    path = f"/proc/self/task/{os.getpid()}/children"
    left: set[int] = set()
    while True:
        try:
            with open(path, encoding="ascii") as file:
                pids = [int(word) for word in file.read().split()]
        except OSError:
            pids = []
        pids = [pid for pid in pids if pid not in left and (keep is None or not keep(pid))]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in pids:
            if not _reap(pid):
                left.add(pid)
        if not pids:
            return


def _reap(pid: int) -> bool:
    """Wait for a child that was killed; False if it waits for storage and goes on waiting."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        pidfd = -1
    try:
        if pidfd >= 0:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            end = time.monotonic() + _PATIENCE_S
            while not poller.poll(_LOOK_MS):
                if not _is_stuck(pid):
                    end = time.monotonic() + _PATIENCE_S
                elif time.monotonic() >= end:
                    return False
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return True


def _is_stuck(pid: int) -> bool:
    """Whether a process is in an uninterruptible wait."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"D"
    except OSError:
        return False
