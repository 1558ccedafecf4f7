"""Calls that the platform may answer without the kernel: getpid and its kin, from a page beside the guest's slot.

Decides when that is allowed. The values are granted when such a call first reaches the kernel (`grant`), and
withdrawn when one may change: new credentials, another parent, a seccomp filter, a tracer (`withdraw`). Nothing is
granted while every call must be seen (`--strace`).
"""

from cloche.kernel.task import Task
from cloche.platform.interface import ANSWERED


def grant(task: Task) -> None:
    """Let the platform answer for `task` from now on, if that is allowed."""
    task.has_answers = True
    kernel = task.kernel
    if kernel.entry_observer is not None or task.seccomp.mode or task.trace.needs_full_frame:
        return
    values: list[int] = []
    for number in ANSWERED:
        values.append(kernel.table[number](task, task.args))
    task.thread.set_answers(True, values)


def withdraw(task: Task) -> None:
    """Withdraw the values: one of them may change, or every call must be seen."""
    if task.has_answers:
        task.has_answers = False
        task.thread.set_answers(False, [])
