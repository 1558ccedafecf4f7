"""SIGCHLD to a tracer, and the wake-up of its waits (do_notify_parent_cldstop, do_notify_parent)."""

from typing import Final

from cloche.abi.signal import (
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SIG_IGN,
    SIGCHLD,
)
from cloche.abi.signal_structs import pack_siginfo_chld
from cloche.kernel.exit import group_times
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import TICK_NS, send_group_info
from cloche.kernel.task import Task

_LOW: Final = 0x7F


def _send(task: Task, code: int, status: int) -> None:
    tracee = task.tracee
    if tracee is None:
        return
    pid, uid = task.tid, task.creds.uid
    user_ns, system_ns = group_times(task.group)
    raw = pack_siginfo_chld(SIGCHLD, code, pid, uid, status, user_ns // TICK_NS, system_ns // TICK_NS)
    send_group_info(tracee.tracer.group, SigInfo(SIGCHLD, code, raw, pid, uid))


def notify_tracer(task: Task, why: int) -> None:
    """A tracee has stopped."""
    tracee = task.tracee
    if tracee is None:
        return
    tracer = tracee.tracer.group
    action = tracer.handlers.actions[SIGCHLD]
    if action.handler != SIG_IGN and not action.flags & SA_NOCLDSTOP:
        _send(task, why, (task.group.job.signal if why == CLD_STOPPED else tracee.code) & _LOW)
    tracer.child_wait.wake()


def notify_death(task: Task, status: int) -> None:
    """A tracee has ended with wait status `status`."""
    tracee = task.tracee
    if tracee is None:
        return
    if status & _LOW:
        _send(task, CLD_DUMPED if status & 0x80 else CLD_KILLED, status & _LOW)
    else:
        _send(task, CLD_EXITED, status >> 8 & 0xFF)
    tracee.tracer.group.child_wait.wake()
