"""Ending children that a subreaper has inherited."""

import os
import signal
from collections.abc import Callable

__all__ = ["end_orphans"]


def end_orphans(keep: Callable[[int], bool] | None = None) -> None:
    """Kill and reap this process's children but those that `keep` wants: guests of a sentry that died without a pid
    namespace.
    """
    path = f"/proc/self/task/{os.getpid()}/children"
    while True:
        try:
            with open(path, encoding="ascii") as file:
                pids = [int(word) for word in file.read().split()]
        except OSError:
            pids = []
        if keep is not None:
            pids = [pid for pid in pids if not keep(pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ChildProcessError, ProcessLookupError):
                pass
        if not pids:
            return
