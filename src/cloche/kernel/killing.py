"""Signals from one guest to another: who may send them, to whom they go (kill(2), tgkill(2)).

The sending itself is in `kernel.signals`.
"""

from cloche.abi.capability import CAP_KILL
from cloche.abi.errno import EINTR, EINVAL, EPERM, ESRCH
from cloche.abi.signal import (
    NSIG,
    SI_TKILL,
    SI_USER,
    SIGCONT,
)
from cloche.kernel.blocking import BLOCKED, SLICE_NS, Blocked, TaskBase, next_slice
from cloche.kernel.chores import Chore
from cloche.kernel.pid_namespace import pid_from, pid_in
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import (
    is_unkillable,
    send_group_info,
    send_task_info,
    target_of,
    user_info,
)
from cloche.kernel.task import ProcessGroup, Task, ThreadGroup
from cloche.kernel.timers import monotonic_ns

_BATCH = 8  # processes between two looks at the clock


def check_permission(task: Task, target: Task | None, info: SigInfo, signo: int) -> int:
    """check_kill_permission: 0, -EINVAL for a bad number, -EPERM.  `target` None is a zombie without threads."""
    if signo < 0 or signo > NSIG:
        return -EINVAL
    if info.code > SI_USER or target is None or target.group is task.group:
        return 0
    if may_signal(task, target):
        return 0
    if signo == SIGCONT and task.group.session() is target.group.session():
        return 0
    return -EPERM


def may_signal(task: Task, target: Task) -> bool:
    """kill_ok_by_cred."""
    mine, theirs = task.creds, target.creds
    return (
        mine.euid == theirs.suid
        or mine.euid == theirs.uid
        or mine.uid == theirs.suid
        or mine.uid == theirs.uid
        or mine.capable_in(theirs.user_ns, CAP_KILL)
    )


def _zombie_target(group: ThreadGroup) -> Task | None:
    task = target_of(group)
    return task if task is not None else group.leader


def signal_group_checked(task: Task, group: ThreadGroup, signo: int, info: SigInfo) -> int:
    """group_send_sig_info: check, then send unless `signo` is 0."""
    result = check_permission(task, _zombie_target(group), info, signo)
    if result < 0 or signo == 0:
        return result
    return send_group_info(group, info)


def signal_pid(task: Task, pid: int, signo: int, info: SigInfo) -> int:
    """kill_proc_info: to the process that has, or whose thread has, this id."""
    group = task.kernel.groups.get(pid)
    if group is None:
        found = task.kernel.tasks.get(pid)
        if found is None:
            return -ESRCH
        group = found.group
    return signal_group_checked(task, group, signo, info)


def signal_pgrp(task: Task, pgrp: ProcessGroup | None, signo: int, info: SigInfo) -> int:
    """__kill_pgrp_info: succeeds if one of its processes could be signalled."""
    result = -ESRCH
    is_sent = False
    if pgrp is not None:
        for group in list(pgrp.members):
            result = signal_group_checked(task, group, signo, clone_info(info))
            is_sent = is_sent or result == 0
    return 0 if is_sent else result


def clone_info(info: SigInfo) -> SigInfo:
    """A copy to queue elsewhere."""
    copy = SigInfo(info.signo, info.code, info.raw, info.sender_pid, info.sender_uid)
    copy.is_from_guest = info.is_from_guest
    return copy


class Broadcast(Chore):
    """A signal to many processes: to a process group, or to all (kill(2) with 0, -1 and below).

    Others run in between, so it looks for new processes until there are none, and signals the sender last. If the
    sender is killed before, the kernel does the rest.
    """

    def __init__(self, task: Task, pgrp: ProcessGroup | None, info: SigInfo) -> None:
        self.task: Task = task
        self.pgrp: ProcessGroup | None = pgrp  # None: all
        self.info: SigInfo = info
        self.seen: set[ThreadGroup] = set()
        self.waiting: list[ThreadGroup] = []
        self.is_sent: bool = False
        self.result: int = -ESRCH

    def _find_new(self) -> None:
        pgrp, task = self.pgrp, self.task
        if pgrp is not None:
            self.waiting = [group for group in pgrp.members if group not in self.seen]
        else:
            ns = task.pid_ns
            for group in task.kernel.groups.values():
                if group in self.seen or group is task.group or is_unkillable(group):
                    continue
                if ns is None or pid_in(ns, group.tgid) > 1:
                    self.waiting.append(group)
        if task.group in self.waiting and len(self.waiting) > 1:
            self.waiting.remove(task.group)
        self.seen.update(self.waiting)
        self.waiting.reverse()

    def step(self) -> bool:
        if not self.waiting:
            self._find_new()
            if not self.waiting:
                return False
        for group in self.waiting[: -_BATCH - 1 : -1]:
            self._send(group)
        del self.waiting[-_BATCH:]
        return True

    def _send(self, group: ThreadGroup) -> None:
        info = self.info
        error = signal_group_checked(self.task, group, info.signo, clone_info(info))
        self.is_sent = self.is_sent or error == 0
        if self.pgrp is not None or error != -EPERM:
            self.result = error
        elif self.result == -ESRCH:
            self.result = 0  # there was a process to signal

    def answer(self) -> int:
        """The result of kill(2)."""
        return 0 if self.is_sent and self.pgrp is not None else self.result


class BroadcastWait(Blocked):
    """A kill(2) that does a broadcast in slices."""

    def __init__(self, work: Broadcast) -> None:
        super().__init__()
        self.work: Broadcast = work

    def retry(self, task: TaskBase) -> int:
        end_ns = monotonic_ns() + SLICE_NS
        while self.work.step():
            if monotonic_ns() >= end_ns:
                return next_slice(task, self)
        return self.work.answer()

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if not task.is_kill_pending:
            return BLOCKED
        task.kernel.chores.append(self.work)
        return -EINTR


def kill(task: Task, pid: int, signo: int) -> int:
    """kill(2): 0 or a negative errno."""
    kernel = task.kernel
    info = user_info(task, signo)
    ns = task.pid_ns
    if pid > 0:
        return signal_pid(task, pid_from(ns, pid), signo, info)
    pgrp: ProcessGroup | None = None
    if pid != -1:
        pgrp = task.group.pgrp if pid == 0 else kernel.process_groups.get(pid_from(ns, -pid))
        if pgrp is None:
            return -ESRCH
    return BroadcastWait(Broadcast(task, pgrp, info)).retry(task)


def signal_thread(task: Task, tgid: int, tid: int, signo: int, info: SigInfo) -> int:
    """do_send_specific: to one thread; `tgid` 0 or below does not say of which process."""
    target = task.kernel.tasks.get(tid)
    if target is None:
        # The leader's id stays valid until its process is reaped.
        group = task.kernel.groups.get(tid)
        if group is None or (tgid > 0 and tgid != tid):
            return -ESRCH
        return check_permission(task, group.leader, info, signo)
    if tgid > 0 and target.group.tgid != tgid:
        return -ESRCH
    result = check_permission(task, target, info, signo)
    if result < 0 or signo == 0:
        return result
    return send_task_info(target, info)


def tgkill(task: Task, tgid: int, tid: int, signo: int) -> int:
    """tgkill(2), and tkill(2) with `tgid` 0."""
    ns = task.pid_ns
    if ns is not None:
        tgid = pid_from(ns, tgid) if tgid > 0 else tgid
        tid = pid_from(ns, tid)
    return signal_thread(task, tgid, tid, signo, user_info(task, signo, SI_TKILL))
