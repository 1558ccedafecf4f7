"""Signals: queues, the choice of the receiving thread, masks, job control (signal(7), kernel/signal.c).

Owns the pending queues of tasks and thread groups and the stop state of a group. `kernel.killing` has the permission
checks, `kernel.delivery` the handling of signals that a task has taken. May call `kernel.exit` (which never imports
this module: boot calls `install`, which fills in the kernel's hooks).

Orders that callers keep:
- The event loop calls `delivery.deliver` before a task returns to guest code whenever `task.wants_attention` is set or
  a mask of the call's own is to go, and resumes it afterwards unless it has exited or is parked.
- A blocked task that `signal_wake` put on the ready list is retried first; if it still waits and `has_deliverable`
  says so, its operation's `interrupted` gives the result.
- Masks change through `set_sigmask` only, so that a signal of the group that this thread no longer takes finds another.

A fatal signal to another process does not wait for it to answer an interrupt: `mark_fatal` orders the exit of the
group, which the loop carries out as its next timer, before any further event.
"""

from typing import Final

from cloche.abi.errno import EAGAIN
from cloche.abi.poll import POLLIN
from cloche.abi.resource import RLIMIT_SIGPENDING
from cloche.abi.signal import (
    ALL_SIGNALS,
    CLD_CONTINUED,
    CLD_STOPPED,
    DEFAULT_CORE,
    DEFAULT_IGNORE,
    DEFAULT_STOP,
    NSIG,
    SA_NOCLDSTOP,
    SI_KERNEL,
    SI_QUEUE,
    SI_TKILL,
    SI_USER,
    SIG_DFL,
    SIG_IGN,
    SIGALRM,
    SIGBUS,
    SIGCHLD,
    SIGCONT,
    SIGFPE,
    SIGHUP,
    SIGILL,
    SIGKILL,
    SIGRTMIN,
    SIGSEGV,
    SIGSTOP,
    SIGTRAP,
    SYNCHRONOUS,
    UNBLOCKABLE,
    first_signal,
    sigbit,
)
from cloche.abi.signal_structs import (
    pack_siginfo,
    pack_siginfo_chld,
    pack_siginfo_fault,
    pack_siginfo_kill,
    siginfo_head,
    siginfo_pid_uid,
)
from cloche.abi.wait import status_signaled
from cloche.kernel.blocking import (
    BLOCKED,
    Blocked,
    TaskBase,
    block_on_time,
)
from cloche.kernel.exit import do_group_exit, group_times
from cloche.kernel.phase import STOPPED
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.siginfo import PendingSignals, SigAction, SigInfo, SignalSource
from cloche.kernel.task import Kernel, ProcessGroup, Task, ThreadGroup, parent_thread
from cloche.kernel.timers import FATAL_EXIT, TimerOwner
from cloche.mm.quota import KERNEL_MEMORY, RECORD_BYTES
from cloche.vfs.userns import OVERFLOW_ID, map_uid

TICK_NS: Final = 10_000_000  # USER_HZ
_M64: Final = 0xFFFFFFFFFFFFFFFF
_STOP_BITS: Final = DEFAULT_STOP
_CONT_BIT: Final = 1 << (SIGCONT - 1)
KERNEL_ONLY: Final = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1)

# Results of `send` besides a negative errno.
SENT: Final = 0
IGNORED: Final = 1  # dropped, because the receiver ignores it


# -- siginfo -------------------------------------------------------------------------------------------------


def user_info(task: Task, signo: int, code: int = SI_USER) -> SigInfo:
    """The siginfo of kill(2) (SI_USER) or tgkill(2) (SI_TKILL) by `task`."""
    pid, uid = task.group.tgid, task.creds.uid
    return SigInfo(signo, code, pack_siginfo_kill(signo, code, pid, uid), pid, uid)


def kernel_info(signo: int) -> SigInfo:
    """A siginfo with SI_KERNEL, without a sender."""
    return SigInfo(signo, SI_KERNEL, pack_siginfo(signo, SI_KERNEL))


def info_from_raw(task: Task, signo: int, raw: bytes) -> SigInfo:
    """The siginfo that a guest gave (rt_sigqueueinfo(2)), its si_signo replaced."""
    _signo, _errno, code = siginfo_head(raw)
    _pid, uid = siginfo_pid_uid(raw)
    info = SigInfo(signo, code, signo.to_bytes(4, "little") + raw[4:])
    if code in (SI_USER, SI_QUEUE, SI_TKILL):
        info.sender_pid, info.is_from_guest, info.sender_uid = task.group.tgid, True, uid
        ns = task.creds.user_ns
        if ns is not None:
            kernel_uid = map_uid(ns, uid & 0xFFFFFFFF)
            info.sender_uid = kernel_uid if kernel_uid >= 0 else OVERFLOW_ID
            info.raw = info.raw[:20] + info.sender_uid.to_bytes(4, "little") + info.raw[24:]
    return info


# -- pending queues ------------------------------------------------------------------------------------------


def has_deliverable(task: Task) -> bool:
    """Whether something can keep the task from guest code: an unblocked signal, a stop, its end (recalc_sigpending)."""
    group, tracee = task.group, task.tracee
    if task.is_kill_pending:
        return True
    if tracee.needs_attention() if tracee is not None else group.job.is_stopping and not task.is_parked():
        return True
    return (task.pending.mask | group.pending.mask) & ~task.sigmask.now != 0


def signal_pending(task: Task) -> bool:
    """Whether a call of the task is to end for a signal, a stop or its end (signal_pending).

    A signal of the group ends only calls of the thread that was chosen for it: another that does not block it goes on,
    or it would take the signal from a thread that is still on its way to it.
    """
    return task.wants_attention and has_deliverable(task)


def _next(mask: int) -> int:
    """The next signal of a set: those of processor faults first, then by number (next_signal)."""
    urgent = mask & SYNCHRONOUS
    return first_signal(urgent if urgent else mask)


def _take(kernel: Kernel, pending: PendingSignals, signo: int) -> SigInfo:
    """Remove the first `signo` of a queue (collect_signal)."""
    found: SigInfo | None = None
    index = 0
    queue = pending.queue
    while index < len(queue):
        info = queue[index]
        if info.signo == signo:
            if found is not None:
                return found  # another one of this number is queued: the bit stays
            found = info
            del queue[index]
            _uncharge(kernel, info)
        else:
            index += 1
    pending.mask &= ~sigbit(signo)
    if found is None:
        # Its siginfo did not fit the limit: Linux invents one (SI_USER from pid 0).
        return SigInfo(signo, SI_USER, pack_siginfo_kill(signo, SI_USER, 0, 0))
    return found


def dequeue_signal(task: Task, mask: int) -> SigInfo | None:
    """Take the next pending signal that is in `mask`: the thread's own before its group's; None if there is none."""
    group = task.group
    ready = task.pending.mask & mask
    if ready:
        info = _take(task.kernel, task.pending, _next(ready))
    else:
        ready = group.pending.mask & mask
        if not ready:
            return None
        info = _take(task.kernel, group.pending, _next(ready))
        if info.signo == SIGALRM:
            alarm = group.timers.interval[0]
            if alarm is not None:
                alarm.signal_taken()
    source = info.timer
    if isinstance(source, SignalSource):
        source.dequeued(info)
    return info


def flush_signals(kernel: Kernel, pending: PendingSignals, mask: int) -> None:
    """Forget what is pending in `mask` (flush_sigqueue_mask)."""
    if not pending.mask & mask:
        return
    pending.mask &= ~mask
    kept: list[SigInfo] = []
    dropped: list[SigInfo] = []  # of timers
    for info in pending.queue:
        if mask & sigbit(info.signo):
            _uncharge(kernel, info)
            if isinstance(info.timer, SignalSource):
                dropped.append(info)
        else:
            kept.append(info)
    pending.queue = kept
    for info in dropped:
        source = info.timer
        if isinstance(source, SignalSource):
            source.discarded(info)


def flush_group(group: ThreadGroup, mask: int) -> None:
    """Forget what is pending in `mask` for the group and for each of its threads."""
    flush_signals(group.kernel, group.pending, mask)
    for task in group.tasks:
        flush_signals(group.kernel, task.pending, mask)


def charge(kernel: Kernel, uid: int, limit: int) -> bool:
    """Count one more queued signal of a real uid; False, and nothing counted, at `limit` (-1: none)."""
    if 0 <= limit <= kernel.queued_signals.of(uid) or not KERNEL_MEMORY.has_room(RECORD_BYTES):
        return False
    kernel.queued_signals.add(uid, 1)
    KERNEL_MEMORY.take(RECORD_BYTES)
    return True


def uncharge(kernel: Kernel, uid: int) -> None:
    """A queued signal is gone: its sender may queue one more."""
    KERNEL_MEMORY.give(RECORD_BYTES)
    kernel.queued_signals.add(uid, -1)


def _uncharge(kernel: Kernel, info: SigInfo) -> None:
    if info.charged_uid >= 0:
        uncharge(kernel, info.charged_uid)
        info.charged_uid = -1


def _enqueue(task: Task, pending: PendingSignals, info: SigInfo) -> int:
    """Add to a queue (__send_signal_locked); -EAGAIN if RLIMIT_SIGPENDING forbids a siginfo that counts."""
    signo = info.signo
    if signo != SIGKILL:
        if info.timer is None:
            # The kernel's own and kill's signals below SIGRTMIN may exceed the limit: there is one of each at most.
            limit = task.group.rlimit(RLIMIT_SIGPENDING)
            if signo < SIGRTMIN and info.code >= 0:
                limit = -1
            uid = task.creds.uid
            if charge(task.kernel, uid, limit):
                info.charged_uid = uid
                pending.queue.append(info)
            elif signo >= SIGRTMIN and info.code != SI_USER:
                return -EAGAIN
        else:
            pending.queue.append(info)
    pending.mask |= sigbit(signo)
    return SENT


# -- sending -------------------------------------------------------------------------------------------------


def is_unkillable(group: ThreadGroup) -> bool:
    """SIGNAL_UNKILLABLE: pid 1, which default actions do not touch."""
    return group is group.container.init or group.is_namespace_init()


def _is_ignored(task: Task, signo: int, is_forced: bool) -> bool:
    """Whether sending would have no effect (sig_ignored)."""
    if task.sigmask.now & sigbit(signo) or (task.tracee is not None and signo != SIGKILL):
        return False  # a tracer sees signals that its tracee ignores
    handler = task.group.handlers.actions[signo].handler
    if handler == SIG_IGN:
        return True
    if handler != SIG_DFL:
        return False
    if is_unkillable(task.group) and not (is_forced and sigbit(signo) & KERNEL_ONLY):
        return True
    return sigbit(signo) & DEFAULT_IGNORE != 0


def _wants(task: Task, signo: int) -> bool:
    """Whether a thread would take the signal at once (wants_signal)."""
    if task.is_exited or task.sigmask.now & sigbit(signo):
        return False
    if signo == SIGKILL:
        return True
    if task.is_parked() or (task.tracee is not None and task.tracee.is_stopped):
        return False
    if task.blocked is None:
        return True
    others = (task.pending.mask | task.group.pending.mask) & ~task.sigmask.now & ~sigbit(signo)
    return others == 0 and not task.is_kill_pending


def send(task: Task, info: SigInfo, *, to_group: bool, is_forced: bool = False) -> int:
    """Send to a thread, or through it to its group: SENT, IGNORED, or -EAGAIN (no room for a queued signal).

    `is_forced`: the signal comes from outside the sandbox; SIGKILL and SIGSTOP then work on pid 1, too.
    """
    group, signo = task.group, info.signo
    if group.end.is_begun or group.end.fatal_status >= 0 or not group.tasks:
        return IGNORED
    if task.pid_ns is not None or task.creds.user_ns is not None:
        is_forced = localise(task, info) or is_forced
    bit = sigbit(signo)
    if bit & _STOP_BITS:
        flush_group(group, _CONT_BIT)
    elif signo == SIGCONT:
        flush_group(group, _STOP_BITS)
        continue_group(group)
    if _is_ignored(task, signo, is_forced):
        return IGNORED
    pending = group.pending if to_group else task.pending
    if signo < SIGRTMIN and pending.mask & bit:
        return SENT  # one of each is enough
    result = _enqueue(task, pending, info)
    if result < 0:
        return result
    group.signal_wait.wake(POLLIN)
    _complete(task, signo, to_group)
    return SENT


def _complete(task: Task, signo: int, to_group: bool) -> None:
    """Find the thread that shall take a signal just queued, and wake it (complete_signal)."""
    group = task.group
    chosen: Task | None = None
    if _wants(task, signo):
        chosen = task
    elif to_group:
        for other in group.tasks:
            if _wants(other, signo):
                chosen = other
                break
    if chosen is None:
        return
    bit = sigbit(signo)
    if (
        group.handlers.actions[signo].handler == SIG_DFL
        and not bit & (DEFAULT_IGNORE | DEFAULT_STOP | DEFAULT_CORE)
        and (not is_unkillable(group) or signo == SIGKILL)
        and (signo == SIGKILL or task.tracee is None)
    ):
        mark_fatal(group, status_signaled(signo, 0))
        return
    signal_wake(chosen)


def signal_wake(task: Task) -> None:
    """Make a task look at its signals soon: a blocked one is retried, a running one interrupted."""
    task.wants_attention = True
    if task.blocked is not None:
        task.make_ready()
    elif not task.is_exited:
        task.kernel.interrupt(task.thread)


class FatalExit(TimerOwner):
    """The ordered end of a group, as a timer that is due at once."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group: ThreadGroup = group

    def timer_due(self, kind: int, argument: int) -> None:
        """Ends the group; does nothing if a thread of it has done so already."""
        do_group_exit(self.group, self.group.end.fatal_status)


def mark_fatal(group: ThreadGroup, status: int) -> None:
    """Order the end of the group with wait status `status`, independent of its threads; later
    signals change nothing.
    """
    if not group.end.order(status):
        return
    for task in group.tasks:
        task.is_kill_pending = True
        task.wants_attention = True
    group.kernel.timers.add(0, FATAL_EXIT, FatalExit(group))


def kill_at_once(group: ThreadGroup) -> None:
    """A SIGKILL that a tracer cannot delay: for want of memory, or from outside the sandbox."""
    group.end.must_die = True
    if group.end.is_by_thread:
        group.kernel.timers.add(0, FATAL_EXIT, FatalExit(group))
    else:
        mark_fatal(group, SIGKILL)


def target_of(group: ThreadGroup) -> Task | None:
    """The thread through which a signal to a group is sent: the leader while it lives."""
    leader = group.leader
    if leader is not None and not leader.is_exited:
        return leader
    return group.tasks[0] if group.tasks else None


def send_task_info(task: Task, info: SigInfo) -> int:
    """A signal to one thread: 0 or -EAGAIN."""
    return min(send(task, info, to_group=False), 0)


def send_group_info(group: ThreadGroup, info: SigInfo) -> int:
    """A signal to a process: 0 (to a zombie too) or -EAGAIN."""
    task = target_of(group)
    return 0 if task is None else min(send(task, info, to_group=True), 0)


def send_group_signal(kernel: Kernel, group: ThreadGroup, signo: int) -> None:
    """A signal from outside the sandbox to a process."""
    task = target_of(group)
    if task is not None:
        info = SigInfo(signo, SI_USER, pack_siginfo_kill(signo, SI_USER, 0, 0))
        send(task, info, to_group=True, is_forced=True)


def send_pgrp_signal(pgrp: ProcessGroup, signo: int) -> None:
    """A signal from the kernel (a terminal) to every process of a group."""
    for group in list(pgrp.members):
        send_group_info(group, kernel_info(signo))


def send_kernel_signal(task: Task, signo: int) -> None:
    """SIGPIPE, SIGXFSZ: the kernel's signal to the thread whose call caused it, as if sent by itself."""
    send(task, user_info(task, signo), to_group=False)


def localise(task: Task, info: SigInfo) -> bool:
    """Put the sender's ids into the receiver's namespaces; whether the sender is outside its pid namespace
    (__send_signal_locked).
    """
    if info.sender_pid <= 0:
        return False
    shown = pid_in(task.pid_ns, info.sender_pid)
    raw = info.raw
    pid = raw[16:20] if info.is_from_guest and shown else shown.to_bytes(4, "little")
    info.raw = raw[:16] + pid + task.creds.show_uid(info.sender_uid).to_bytes(4, "little") + raw[24:]
    return shown == 0


# -- forced signals ------------------------------------------------------------------------------------------


def force_signal(task: Task, info: SigInfo, *, is_default: bool = False) -> None:
    """A signal that must be seen: blocked or ignored (or with `is_default`), it gets its default action (force_sig)."""
    group, bit = task.group, sigbit(info.signo)
    action = group.handlers.actions[info.signo]
    is_blocked = task.sigmask.now & bit != 0
    if is_default or is_blocked or action.handler == SIG_IGN:
        action.handler = SIG_DFL
        task.sigmask.now &= ~bit
    if action.handler == SIG_DFL:
        task.fault.is_forced = True  # pid 1 dies of it too
    if not task.pending.mask & bit:
        info.charged_uid = -1
        task.pending.queue.append(info)
        task.pending.mask |= bit
    task.wants_attention = True


def force_fault_signal(task: Task, signo: int, code: int, addr: int, trapno: int = -1, err: int = 0) -> None:
    """The processor refused an instruction of `task`, which is stopped: SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.

    `trapno` and `err` go into the signal frame; without them the usual trap of that signal is named.
    """
    if trapno < 0:
        if signo == SIGSEGV:
            trapno = 13 if code == SI_KERNEL else 14
        else:
            trapno = {SIGBUS: 17, SIGFPE: 0, SIGILL: 6, SIGTRAP: 3}.get(signo, 0)
    task.fault.trapno = trapno
    task.fault.err = err
    if trapno == 14:
        task.fault.cr2 = addr & _M64
    if code <= 0 or code == SI_KERNEL:
        info = kernel_info(signo)
    else:
        info = SigInfo(signo, code, pack_siginfo_fault(signo, code, addr))
    force_signal(task, info)


def force_segv(task: Task, signo: int) -> None:
    """A signal frame could not be written or read: SIGSEGV, fatal if it was SIGSEGV's own (force_sigsegv)."""
    force_signal(task, kernel_info(SIGSEGV), is_default=signo == SIGSEGV)


# -- dispositions and masks ----------------------------------------------------------------------------------


def set_action(task: Task, signo: int, action: SigAction) -> None:
    """Install a disposition; pending signals that it ignores are forgotten (do_sigaction)."""
    group = task.group
    action.mask &= ~UNBLOCKABLE
    group.handlers.actions[signo] = action
    if action.handler == SIG_IGN or (action.handler == SIG_DFL and sigbit(signo) & DEFAULT_IGNORE):
        flush_group(group, sigbit(signo))


def set_sigmask(task: Task, mask: int) -> None:
    """Replace the mask; what it now unblocks is delivered before the task returns to guest code."""
    mask &= ~UNBLOCKABLE & ALL_SIGNALS
    newly_blocked = mask & ~task.sigmask.now
    task.sigmask.now = mask
    orphans = task.group.pending.mask & newly_blocked
    if orphans:
        _retarget(task, orphans)
    if has_deliverable(task):
        task.wants_attention = True


def set_temporary_sigmask(task: Task, mask: int) -> None:
    """The mask of one call (ppoll, sigsuspend …): `deliver` restores the old one when the call ends."""
    task.sigmask.lend()
    set_sigmask(task, mask)


def restore_saved_sigmask(task: Task) -> None:
    """The call with its own mask has ended."""
    mask = task.sigmask
    if mask.is_lent:
        lasting = mask.lasting()
        mask.keep()
        set_sigmask(task, lasting)


def _retarget(leaving: Task, mask: int) -> None:
    """Wake threads for pending signals of the group that `leaving` will not take (retarget_shared_pending)."""
    for task in leaving.group.tasks:
        if task is leaving or task.is_exited or not mask & ~task.sigmask.now:
            continue
        mask &= task.sigmask.now
        signal_wake(task)
        if not mask:
            break


# -- job control ---------------------------------------------------------------------------------------------


class StoppedWait(Blocked):
    """A task that takes part in a stop, on its way back to guest code with `result`."""

    def __init__(self, result: int) -> None:
        super().__init__()
        self.result: int = result

    def phase(self) -> int:
        return STOPPED

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        if task.group.job.is_stopping and not task.is_kill_pending and task.tracee is None:
            return BLOCKED
        return self.result

    def interrupted(self, task: TaskBase) -> int:
        return self.retry(task)


def start_group_stop(group: ThreadGroup, signo: int) -> None:
    """Every thread shall park; the group is stopped once all have (do_signal_stop)."""
    if group.job.is_stopping:
        return
    group.job.begin(signo)
    for task in group.tasks:
        tracee = task.tracee
        if tracee is not None:
            tracee.stop_wanted = True
            tracee.notify_pending = tracee.is_seized
        signal_wake(task)


def park(task: Task, result: int) -> None:
    """Take part in the stop of the group."""
    block_on_time(task, StoppedWait(result))
    check_stop_complete(task.group, None)


def check_stop_complete(group: ThreadGroup, leaving: Task | None) -> None:
    """Whether the last thread has parked: then the group is stopped and its parent hears of it."""
    if not group.job.is_stopping or group.job.is_stopped:
        return
    count = 0
    for task in group.tasks:
        if task is leaving or task.is_exited:
            continue
        if task.tracee.stop_wanted if task.tracee is not None else not task.is_parked():
            return
        count += 1
    if not count:
        return
    group.job.complete()
    notify_parent_of_stop(group, CLD_STOPPED, group.job.signal)


def continue_group(group: ThreadGroup) -> None:
    """SIGCONT was sent: a stop, complete or not, is over, even if the signal is blocked or ignored (prepare_signal)."""
    tracing = group.kernel.tracing
    if tracing is not None:
        tracing.continued(group)
    if not group.job.is_stopping:
        return
    was_stopped = group.job.end()
    for task in group.tasks:
        if task.is_parked():
            task.make_ready()
    if was_stopped:
        notify_parent_of_stop(group, CLD_CONTINUED, SIGCONT)
    else:
        notify_parent_of_stop(group, CLD_STOPPED, group.job.signal)


def notify_parent_of_stop(group: ThreadGroup, code: int, status: int) -> None:
    """SIGCHLD unless SA_NOCLDSTOP, and a wake-up of the parent's waits (do_notify_parent_cldstop)."""
    parent = group.parent
    if parent is None:
        return
    action = parent.handlers.actions[SIGCHLD]
    if action.handler != SIG_IGN and not action.flags & SA_NOCLDSTOP:
        send_group_info(parent, child_info(group, SIGCHLD, code, status))
    parent.child_wait.wake()


def child_info(group: ThreadGroup, signo: int, code: int, status: int) -> SigInfo:
    """The siginfo that tells a parent of its child."""
    leader = group.leader
    uid = leader.creds.uid if leader is not None else 0
    user_ns, system_ns = group_times(group)
    raw = pack_siginfo_chld(signo, code, group.tgid, uid, status, user_ns // TICK_NS, system_ns // TICK_NS)
    return SigInfo(signo, code, raw, group.tgid, uid)


def send_child_signal(group: ThreadGroup, code: int, status: int) -> None:
    """A child has ended: its exit signal to the parent (the hook of kernel.exit)."""
    if group.parent is not None and 0 < group.exit_signal <= NSIG:  # clone(2) takes any number
        send_group_info(group.parent, child_info(group, group.exit_signal, code, status))


def is_orphaned(
    pgrp: ProcessGroup, ignored: ThreadGroup | None = None, dying: ThreadGroup | None = None
) -> bool:
    """Whether no member has a parent in another group of the session (will_become_orphaned_pgrp).

    `ignored` is a member that does not count, `dying` a parent that is about to be replaced by a reaper.
    """
    for member in pgrp.members:
        parent = member.parent
        if member is ignored or not member.is_alive() or parent is None or parent is dying:
            continue
        other = parent.pgrp
        if other is not None and other is not pgrp and other.session is pgrp.session:
            return False
    return True


def _has_stopped_jobs(pgrp: ProcessGroup) -> bool:
    for member in pgrp.members:
        if member.job.is_stopped:
            return True
    return False


def _hang_up_if_orphaned(pgrp: ProcessGroup, ignored: ThreadGroup | None, dying: ThreadGroup | None) -> None:
    """A process group that just became orphaned with stopped members gets SIGHUP and SIGCONT (kill_orphaned_pgrp)."""
    if _has_stopped_jobs(pgrp) and is_orphaned(pgrp, ignored, dying):
        for signo in (SIGHUP, SIGCONT):
            send_pgrp_signal(pgrp, signo)


# -- exit ----------------------------------------------------------------------------------------------------


def task_exits(task: Task) -> None:
    """A thread is about to go: its share of the group's signals and of a stop passes to the others."""
    group = task.group
    flush_signals(task.kernel, task.pending, ALL_SIGNALS)
    if task.kernel.has_pdeath_signals:
        _send_pdeath_signals(task)
    if group.end.is_begun:
        return
    left = group.pending.mask & ~task.sigmask.now
    if left:
        _retarget(task, left)
    check_stop_complete(group, task)


def _send_pdeath_signals(task: Task) -> None:
    """PR_SET_PDEATHSIG: to the children of this thread.

    They pass to another thread of the process whenever one dies; if the whole process ends only its last thread
    counts, so each child gets the signal once.
    """
    group = task.group
    is_last = len(group.tasks) == 1
    if group.end.is_begun and not is_last:
        return
    for child in group.children:
        if not child.is_alive() or not (is_last or parent_thread(child) is task):
            continue
        for member in list(child.tasks):
            if member.pdeath_signal:
                send_group_info(child, user_info(task, member.pdeath_signal))


def group_exits(group: ThreadGroup) -> None:
    """The last thread of a process is gone, its children are not yet reparented."""
    kernel = group.kernel
    flush_signals(kernel, group.pending, ALL_SIGNALS)
    for child in list(group.children):
        there = child.pgrp
        if there is not None and there is not group.pgrp and there.session is group.session():
            _hang_up_if_orphaned(there, None, group)
    mine, parent = group.pgrp, group.parent
    if mine is not None and parent is not None and parent.pgrp is not None:
        if parent.pgrp is not mine and parent.pgrp.session is mine.session:
            _hang_up_if_orphaned(mine, group, None)


def exec_resets(task: Task) -> None:
    """execve: drop a call to restart, and a stop of the old image's threads."""
    task.restart = None


def install(kernel: Kernel) -> None:
    """Fill in the hooks through which modules to the left reach this one."""
    kernel.hooks.signal = send_kernel_signal
    kernel.hooks.child_signal = send_child_signal
    kernel.hooks.at_exit["signals"] = task_exits
    kernel.hooks.at_group_exit["signals"] = group_exits
    kernel.hooks.at_exec["signals"] = exec_resets
