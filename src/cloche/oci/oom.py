"""Tells the engine that a program was ended for want of memory, where the group's own notification does so.

The sentry keeps a container's limit, so the host's kernel never runs out of memory in its group, whose limit is higher;
but engines listen there to report OOMKilled. So the group is made to run out of memory once.

Version 1, where they have an eventfd of memory.oom_control: the group's OOM killer is switched off, its limit is set to
its usage, and a helper process asks for more. The helper blocks, the listeners are notified, and the old settings are
restored. No other process of the group is ended, but those that ask for memory wait meanwhile.

Version 2, where they watch oom_kill in memory.events: that counts only ends. So the helper has memory of its own, and
is what the kernel ends: it has the highest oom_score_adj, and the guests, which have that, too, have none meanwhile.
Cached files are given up, and the limit is set a little below the usage, in steps, until the kernel finds no other way.
A step is small, and the helper has no huge pages: when the kernel looks for what to end next, up to 10,000 pages of an
ended process still count (mmu_gather), and the group must be below its limit all the same.
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
_WAIT_V2_S: Final = 2.0
_WANTED_V2_BYTES: Final = 96 << 20
_LOWERED_BYTES: Final = 4 << 20  # in one step


def report(groups: list[str], own: list[str], mount: str = cgroups.MOUNT) -> None:
    """A program of the container in these groups was ended.

    With version 1 the caller, whose groups are `own`, leaves them meanwhile, so that it cannot block on memory itself.
    """
    group = cgroups.group_of(groups, "memory", mount)
    if not group:
        return
    if cgroups.is_unified(mount):
        _report_v2(group)
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
        _restore(child, (limit, before), (control, "0"))
        try:
            cgroups.enter([home] if home else [])
        except OSError:
            pass


def _restore(child: int, *rows: tuple[str, str]) -> None:
    """Write settings as they were (empty: there was none), and end the helper."""
    for path, text in rows:
        try:
            if text:
                cgroups.write(path, text)
        except OSError:
            pass
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


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


# -- version 2 -------------------------------------------------------------------------------------------------
def _report_v2(group: str) -> None:
    limit, swap = os.path.join(group, "memory.max"), os.path.join(group, "memory.swap.max")
    before, swap_before = cgroups.read(limit).strip(), cgroups.read(swap).strip()
    if not before.isdigit():
        return
    scores: dict[int, str] = {}
    child = 0
    try:
        if not lower_scores(group, scores):
            return
        child = _want_v2(group)
        if swap_before:
            cgroups.write(swap, "0")  # the helper's memory is not to go there
        _drop_files(group)
        deadline = time.monotonic() + _WAIT_V2_S
        ends = _ends(group)
        # The counter, not the helper's death, which may come much later: another step would end a guest.
        while time.monotonic() < deadline and _ends(group) == ends and not _has_ended(child):
            used = cgroups.read(os.path.join(group, "memory.current")).strip()
            if not used.isdigit() or not lower_scores(group, scores, child):
                break
            wanted = max(int(used) - _LOWERED_BYTES, _PAGE)
            cgroups.write(limit, str(wanted))  # returns when the kernel has done it
    except OSError:
        pass  # the engine is not told
    finally:
        _restore(child, (limit, before), (swap, swap_before))
        restore_scores(group, scores)


def _drop_files(group: str) -> None:
    """Have the kernel give up what it has cached of files: then one step may do."""
    rows = [line.split() for line in cgroups.read(os.path.join(group, "memory.stat")).splitlines()]
    cached = sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in ("active_file", "inactive_file"))
    try:
        if cached > _LOWERED_BYTES:
            cgroups.write(os.path.join(group, "memory.reclaim"), str(cached))
    except OSError:
        pass  # not all of it, or Linux before 5.19


def _ends(group: str) -> str:
    """How many processes of the group the kernel has ended for want of memory."""
    lines = cgroups.read(os.path.join(group, "memory.events")).splitlines()
    return next((line for line in lines if line.startswith("oom_kill ")), "")


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _score(pid: int, text: str) -> bool:
    """Set a process's oom_score_adj; False if that is not permitted."""
    try:
        cgroups.write(f"/proc/{pid}/oom_score_adj", text)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
    except OSError:
        return False
    return True


def lower_scores(group: str, scores: dict[int, str], child: int = 0) -> bool:
    """Have no process of the group be ended before the helper; `scores` gets what is to be restored. False where that
    is not permitted: then the helper might not be what is ended.
    """
    for pid in cgroups.processes([group]):
        text = cgroups.read(f"/proc/{pid}/oom_score_adj").strip()
        if pid != child and pid not in scores and text.isdigit() and int(text) > 0:
            if not _score(pid, "0"):
                return False
            scores[pid] = text
    return True


def restore_scores(group: str, scores: dict[int, str]) -> None:
    """Also of the children that these processes have had meanwhile."""
    for pid, text in scores.items():
        _score(pid, text)
    for pid in cgroups.processes([group]):
        fields = cgroups.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        parent = int(fields[1]) if len(fields) > 1 else 0
        if pid not in scores and parent in scores:
            scores[pid] = scores[parent]
            _score(pid, scores[pid])


def _want_v2(group: str) -> int:
    """Fork the helper, and wait until it has its memory; returns its pid."""
    hear, say = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(say)
        os.read(hear, 1)
        os.close(hear)
        return pid
    try:
        cgroups.write("/proc/self/oom_score_adj", "1000")
        cgroups.enter([group])
        # Private: what is shared would not be given back before the process is gone, and others be ended for it.
        memory = mmap.mmap(-1, _WANTED_V2_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(0, _WANTED_V2_BYTES, _PAGE):
            memory[page] = 1
        os.write(say, b"+")
        signal.pause()
    finally:
        os._exit(0)
