"""Tells the engine that a program was ended for want of memory, where the group's own notification does so.

The sentry keeps a container's limit, so the host's kernel never runs out of memory in its group, whose limit is higher;
but engines listen there to report OOMKilled: with version 1 by an eventfd of memory.oom_control, with version 2 they
watch oom_kill in memory.events. So the group is made to run out of memory once, for which a helper process is ended. It
has memory of its own and the highest oom_score_adj; the guests, which have that, too, have none meanwhile. Nothing else
of the group is ended, nor waits for memory.

Version 1: the limit is set a little above the usage, which it follows down, and the helper asks for more. (With the
group's OOM killer switched off all would be told as well, but calls of our processes would fail with ENOMEM.)

Version 2: cached files are given up, and the limit is set a little below the usage, in steps, until the kernel finds no
other way. A step is small, and the helper has no huge pages: when the kernel looks for what to end next, up to 10,000
pages of an ended process still count (mmu_gather), and the group must be below its limit all the same.
"""

import mmap
import os
import select
import signal
import time
from typing import Final

from cloche.oci import cgroups

__all__ = ["report"]

_SPARE_BYTES: Final = 1 << 20
_HELD_BYTES: Final = 96 << 20
_ASKED_BYTES: Final = 64 << 20
_LOWERED_BYTES: Final = 4 << 20  # in one step
_PAGE: Final = 4096
_UNLIMITED: Final = 1 << 60
_WAIT_S: Final = 2.0
_ANSWER_MS: Final = 100  # so long the limit stays while the helper asks


def report(groups: list[str], mount: str = cgroups.MOUNT) -> int:
    """A program of the container in these groups was ended. Returns for how many ends by the host's kernel this has
    caused, which are none of the container's.
    """
    group = cgroups.group_of(groups, "memory", mount)
    if not group:
        return 0
    is_unified = cgroups.is_unified(mount)
    counter = os.path.join(group, "memory.events" if is_unified else "memory.oom_control")
    before = _kills(counter)
    if is_unified:
        _report_v2(group, counter)
    else:
        _report_v1(group, counter)
    return max(_kills(counter) - before, 0)


class Helper:
    """A process in the group that has memory of its own, asks for more when it is told to, and is ended first."""

    def __init__(self, group: str) -> None:
        """Fork it, and wait until it has its memory."""
        hears, self.orders = os.pipe2(os.O_CLOEXEC)
        self.answers, says = os.pipe2(os.O_CLOEXEC)
        self.pid: int = os.fork()
        if not self.pid:
            try:
                os.close(self.orders)  # else it would not notice this process's end
                _help(group, hears, says)
            finally:
                os._exit(0)
        os.close(hears)
        os.close(says)
        os.read(self.answers, 1)

    def ask(self) -> None:
        """Have it ask for more, and wait until it has that, or has ended, but not for long."""
        os.write(self.orders, b"+")
        poller = select.poll()
        poller.register(self.answers, select.POLLIN)
        if poller.poll(_ANSWER_MS):
            os.read(self.answers, 1)

    def has_ended(self) -> bool:
        """Whether something has ended it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """End it, and wait for that."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.orders)
        os.close(self.answers)


def _help(group: str, hears: int, says: int) -> None:
    """What the helper does, until nobody orders any more."""
    cgroups.write("/proc/self/oom_score_adj", "1000")
    cgroups.enter([group])
    held = _fill(_HELD_BYTES)
    os.write(says, b"+")
    while os.read(hears, 1):
        _fill(_ASKED_BYTES).close()
        os.write(says, b"+")
    held.close()


def _fill(size: int) -> mmap.mmap:
    # Private: what is shared would not be given back before the process is gone, and others be ended for it.
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, size, _PAGE):
        memory[page] = 1
    return memory


def _restore(group: str, helper: Helper | None, scores: dict[int, str], *rows: tuple[str, str]) -> None:
    """Write settings as they were (empty: there was none), and end the helper."""
    for path, text in rows:
        try:
            if text:
                cgroups.write(path, text)
        except OSError:
            pass
    if helper is not None:
        helper.end()
    restore_scores(group, scores)


def _kills(counter: str) -> int:
    """How many processes of the group the kernel has ended for want of memory."""
    for line in cgroups.read(counter).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "oom_kill" and words[1].isdigit():
            return int(words[1])
    return 0


def _cached_bytes(group: str) -> int:
    """What of the group's memory is caches of files, which the kernel gives up if it must."""
    rows = [line.split() for line in cgroups.read(os.path.join(group, "memory.stat")).splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in ("active_file", "inactive_file"))


def _number(path: str) -> int:
    text = cgroups.read(path).strip()
    return int(text) if text.isdigit() else -1


# -- version 1 -------------------------------------------------------------------------------------------------
def _report_v1(group: str, counter: str) -> None:
    limit, swappiness = os.path.join(group, "memory.limit_in_bytes"), os.path.join(group, "memory.swappiness")
    usage = os.path.join(group, "memory.usage_in_bytes")
    before = _number(limit)
    if not 0 <= before < _UNLIMITED:
        return
    swappiness_before = cgroups.read(swappiness).strip()
    scores: dict[int, str] = {}
    helper: Helper | None = None
    try:
        if not lower_scores(group, scores):
            return
        helper = Helper(group)
        if swappiness_before:
            cgroups.write(swappiness, "0")  # the helper's memory is not to go there
        deadline = time.monotonic() + _WAIT_S
        kills, now = _kills(counter), before
        cached = _cached_bytes(group)
        while time.monotonic() < deadline and _kills(counter) == kills and not helper.has_ended():
            used = _number(usage)
            if used < 0 or not lower_scores(group, scores, helper.pid):
                break
            wanted = used - cached + _SPARE_BYTES
            cached = 0
            if wanted < now:
                try:
                    cgroups.write(limit, str(wanted))  # which gives up cached files
                    now = wanted
                except OSError:
                    pass  # the usage has grown meanwhile
            helper.ask()
    except OSError:
        pass  # the engine is not told
    finally:
        _restore(group, helper, scores, (limit, str(before)), (swappiness, swappiness_before))


# -- version 2 -------------------------------------------------------------------------------------------------
def _report_v2(group: str, counter: str) -> None:
    limit, swap = os.path.join(group, "memory.max"), os.path.join(group, "memory.swap.max")
    before, swap_before = cgroups.read(limit).strip(), cgroups.read(swap).strip()
    if not before.isdigit():
        return
    scores: dict[int, str] = {}
    helper: Helper | None = None
    try:
        if not lower_scores(group, scores):
            return
        helper = Helper(group)
        if swap_before:
            cgroups.write(swap, "0")  # the helper's memory is not to go there
        _drop_files(group)
        deadline = time.monotonic() + _WAIT_S
        kills = _kills(counter)
        # The counter, not the helper's death, which may come much later: another step would end a guest.
        while time.monotonic() < deadline and _kills(counter) == kills and not helper.has_ended():
            used = _number(os.path.join(group, "memory.current"))
            if used < 0 or not lower_scores(group, scores, helper.pid):
                break
            wanted = max(used - _LOWERED_BYTES, _PAGE)
            cgroups.write(limit, str(wanted))  # returns when the kernel has done it
    except OSError:
        pass  # the engine is not told
    finally:
        _restore(group, helper, scores, (limit, before), (swap, swap_before))


def _drop_files(group: str) -> None:
    """Have the kernel give up what it has cached of files: then one step may do."""
    cached = _cached_bytes(group)
    try:
        if cached > _LOWERED_BYTES:
            cgroups.write(os.path.join(group, "memory.reclaim"), str(cached))
    except OSError:
        pass  # not all of it, or Linux before 5.19


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
