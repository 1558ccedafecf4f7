"""Tells the engine that a program was ended for want of memory, where the group's own notification does so (version 1).

The sentry keeps a container's limit, so the host's kernel never runs out of memory in its group, whose limit is higher;
but engines listen there (an eventfd of memory.oom_control) to report OOMKilled. So the group is made to run out of
memory once: its OOM killer is switched off, its limit is set to its usage, and a helper process asks for more. The
helper blocks, the listeners are notified, and the old settings are restored. No other process of the group is ended,
but those that ask for memory wait meanwhile.
"""

import mmap
import os
import signal
import time
from typing import Final

from cloche.oci import cgroups

__all__ = ["report"]

_SPARE_BYTES: Final = 1 << 20
_WANTED_BYTES: Final = 64 << 20
_STEP_BYTES: Final = 256 << 10
_PAGE: Final = 4096
_UNLIMITED: Final = 1 << 60
_WAIT_S: Final = 0.5


def report(groups: list[str], own: list[str], mount: str = cgroups.MOUNT) -> None:
    """A program of the container in these groups was ended.  With version 2 this does nothing.

    The caller, whose groups are `own`, leaves them meanwhile, so that it cannot block on memory itself.
    """
    group = cgroups.group_of(groups, "memory", mount)
    if cgroups.is_unified(mount) or not group:
        return
    control, limit = os.path.join(group, "memory.oom_control"), os.path.join(group, "memory.limit_in_bytes")
    before = cgroups.read(limit).strip()
    if not before.isdigit() or int(before) >= _UNLIMITED:
        return
    child = 0
    home = cgroups.group_of(own, "memory", mount)
    try:
        cgroups.enter([os.path.dirname(group)])
        cgroups.write(control, "1")
        child = _want(group)
        _await(group, int(before), child)
    except OSError:
        pass  # the engine is not told
    finally:
        for path, text in ((limit, before), (control, "0")):
            try:
                cgroups.write(path, text)
            except OSError:
                pass
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        try:
            cgroups.enter([home] if home else [])
        except OSError:
            pass


def _want(group: str) -> int:
    """Fork the helper, a process in the group that asks for more memory than there is; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        cgroups.enter([group])
        memory = mmap.mmap(-1, _WANTED_BYTES)
        for at in range(0, _WANTED_BYTES, _STEP_BYTES):
            for page in range(at, at + _STEP_BYTES, _PAGE):
                memory[page] = 1
            time.sleep(0.001)
    finally:
        os._exit(0)


def _await(group: str, limit_bytes: int, child: int) -> None:
    """Wait until the group has run out of memory, or give up.

    Processes that were ended may still give memory back: the limit follows the usage.
    """
    deadline = time.monotonic() + _WAIT_S
    while "under_oom 1" not in cgroups.read(os.path.join(group, "memory.oom_control")):
        used = cgroups.read(os.path.join(group, "memory.usage_in_bytes")).strip()
        if used.isdigit() and int(used) + _SPARE_BYTES < limit_bytes:
            limit_bytes = int(used) + _SPARE_BYTES
            try:
                cgroups.write(os.path.join(group, "memory.limit_in_bytes"), str(limit_bytes))
            except OSError:
                pass  # the usage has grown meanwhile
        has_ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if has_ended or time.monotonic() > deadline:
            return
        time.sleep(0.001)
