"""What the platform may answer without asking us: getpid and its kin, from a page beside the guest's slot.

Owns when that is allowed.  The values are given on the first question that reaches us (`grant`) and withdrawn when one
may change: new credentials, another parent, a seccomp filter, a tracer (`withdraw`).  Nothing is given while every
call must be seen (`--strace`).
"""

from typing import Final

from cloche.kernel.task import Kernel, Task
from cloche.platform.interface import ANSWERED

# Calls that need every register or change them: fork, exec, exit, signal frames, the base registers.
_WITH_FRAME: Final = frozenset(
    (15, 34, 56, 57, 58, 59, 60, 101, 130, 131, 157, 158, 219, 231, 272, 308, 317, 322, 435)
)


def install(kernel: Kernel) -> None:
    """Say to the platform which calls may come without a trap."""
    kernel.platform.set_patched_calls([n for n in range(len(kernel.table)) if n not in _WITH_FRAME])


def grant(task: Task) -> None:
    """Let the platform answer for `task` from now on, if that is allowed."""
    task.has_answers = True
    kernel = task.kernel
    if kernel.entry_observer is not None or task.seccomp_mode or task.needs_full_frame:
        return
    values: list[int] = []
    for number in ANSWERED:
        values.append(kernel.table[number](task, task.args))
    task.thread.set_answers(True, values)


def withdraw(task: Task) -> None:
    """Something that was answered may change, or every call must be seen."""
    if task.has_answers:
        task.has_answers = False
        task.thread.set_answers(False, [])
