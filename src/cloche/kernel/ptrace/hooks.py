"""The kernel's calls into ptrace, at the points where a traced task differs (`Kernel.tracing`).

`install` puts them in force. They are made only for traced tasks, except at the ends of groups and tasks.
"""

from typing import Final

from cloche.abi.errno import ENOSYS
from cloche.abi.ptrace import (
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_EXIT,
    PTRACE_EVENT_FORK,
    PTRACE_EVENT_SECCOMP,
    PTRACE_EVENT_VFORK,
    PTRACE_EVENT_VFORK_DONE,
    PTRACE_O_TRACEEXIT,
)
from cloche.abi.sched import CLONE_UNTRACED, CLONE_VFORK
from cloche.abi.signal import SIGCHLD, SIGTRAP, TRAP_BRKPT, TRAP_HWBKPT, TRAP_TRACE
from cloche.abi.signal_structs import pack_siginfo_fault
from cloche.kernel.blocking import BLOCKED, RESUME, Blocked, block_on_time, end_wait
from cloche.kernel.clone import VforkWait
from cloche.kernel.exit import do_exit, notify_parent, reap
from cloche.kernel.phase import WORKING
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.ptrace import attach, watch
from cloche.kernel.ptrace.notify import notify_death
from cloche.kernel.ptrace.stops import (
    MODE_EMULATE,
    MODE_STEP,
    MODE_SYSCALL,
    BirthStop,
    DeathStop,
    EventStop,
    ExitStop,
    PtraceStop,
    SeccompStop,
    SignalStop,
    enter,
    note_call,
    stop_at_entry,
    stop_for_event,
    syscall_code,
    to_signed,
    trap,
    trap_info,
    wake,
)
from cloche.kernel.siginfo import SigInfo
from cloche.kernel.signals import force_signal, send_task_info, user_info
from cloche.kernel.task import Kernel, Task, ThreadGroup, Tracing

_M64: Final = 0xFFFFFFFFFFFFFFFF


def wants_event(task: Task, event: int) -> bool:
    """Whether the task's tracer has asked for PTRACE_EVENT_* `event` (ptrace_event_enabled)."""
    tracee = task.tracee
    return tracee is not None and tracee.options >> event & 1 == 1


class VforkEventStop(EventStop):
    """PTRACE_EVENT_VFORK: afterwards the parent waits for its child."""

    def __init__(self, code: int, info: SigInfo, child: Task, message: int, shown: int) -> None:
        super().__init__(code, info, message, shown)
        self.child: Task = child
        self.shown: int = shown  # its pid for the parent

    def proceed(self, task: Task) -> int:
        wait = VforkWait(self.child, self.shown)
        vfork = self.child.vfork
        if vfork is None or vfork.parent is not task:
            wait.is_done = True
            return wait.retry(task)
        end_wait(task, self)
        block_on_time(task, wait)
        return BLOCKED


class Hooks(Tracing):
    """The one implementation of `Tracing`."""

    # -- running ---------------------------------------------------------------------------------------
    def arrived(self, task: Task) -> None:
        tracee = task.tracee
        if tracee is not None and tracee.has_forced_tf:
            tracee.has_forced_tf = False
            regs = task.thread.regs()
            regs.is_stepping = False
            task.thread.set_regs(regs)

    def departing(self, task: Task) -> None:
        tracee = task.tracee
        if tracee is None:
            return
        held = tracee.watch
        is_watching = held is not None and held.is_enabled
        if tracee.mode & MODE_STEP or is_watching:
            if held is not None and is_watching:
                watch.remember(task, held)
            regs = task.thread.regs()
            if not regs.is_stepping:
                tracee.has_forced_tf = True
                regs.is_stepping = True
                task.thread.set_regs(regs)

    def stepped(self, task: Task, signo: int, code: int) -> bool:
        tracee = task.tracee
        held = tracee.watch if tracee is not None else None
        if tracee is None or held is None or not held.is_enabled:
            return False
        if signo != SIGTRAP or code != TRAP_TRACE:
            return False
        is_hit = watch.hits(task, held) != 0
        if not is_hit and tracee.mode & MODE_STEP:
            return False
        if is_hit:
            pc = task.thread.regs().pc
            force_signal(task, SigInfo(SIGTRAP, TRAP_HWBKPT, pack_siginfo_fault(SIGTRAP, TRAP_HWBKPT, pc)))
        return True

    def returning(self, task: Task) -> int:
        if task.trace.call_nr < 0:
            return RESUME
        task.args.nr = task.trace.call_nr
        return to_signed(task.thread.regs().result)

    # -- system calls ----------------------------------------------------------------------------------
    def syscall_entry(self, task: Task) -> bool:
        self.arrived(task)
        tracee = task.tracee
        if tracee is None or not tracee.mode & (MODE_SYSCALL | MODE_EMULATE):
            return False
        stop_at_entry(task, is_emulated=tracee.mode & MODE_EMULATE != 0)
        return True

    def syscall_exit(self, task: Task, result: int) -> bool:
        tracee = task.tracee
        if tracee is None or task.is_kill_pending or not tracee.mode & (MODE_SYSCALL | MODE_STEP):
            return False
        if tracee.mode & MODE_STEP:
            if tracee.mode & MODE_EMULATE:
                self.departing(task)
            else:
                pc = task.thread.regs().pc
                force_signal(task, SigInfo(SIGTRAP, TRAP_BRKPT, pack_siginfo_fault(SIGTRAP, TRAP_BRKPT, pc)))
            return False
        note_call(task, result, in_syscall=True)
        code = syscall_code(task)
        enter(task, ExitStop(code, trap_info(task, code)), settles=True)
        return True

    def seccomp_stop(self, task: Task, data: int) -> int:
        if not wants_event(task, PTRACE_EVENT_SECCOMP):
            return -ENOSYS
        regs = task.thread.regs()
        regs.result = -ENOSYS & _M64
        task.thread.set_regs(regs)
        task.trace.call_nr = task.args.nr
        code = SIGTRAP | PTRACE_EVENT_SECCOMP << 8
        stop = SeccompStop(code, trap_info(task, code))
        stop.message = data
        enter(task, stop, settles=False)
        return BLOCKED

    # -- signals ---------------------------------------------------------------------------------------
    def signal_stop(self, task: Task, info: SigInfo, result: int, *, in_syscall: bool) -> None:
        note_call(task, result, in_syscall=in_syscall)
        enter(task, SignalStop(info.signo, info), settles=in_syscall)

    def trap_stop(self, task: Task, result: int, *, in_syscall: bool) -> None:
        if task.tracee is not None and task.tracee.is_doomed:
            do_exit(task, 0)
            return
        note_call(task, result, in_syscall=in_syscall)
        trap(task, settles=in_syscall)

    def handler_entered(self, task: Task) -> bool:
        tracee = task.tracee
        if tracee is None or not tracee.mode & MODE_STEP:
            return False
        task.trace.call_nr = -1
        enter(task, PtraceStop(SIGTRAP, trap_info(task, SIGTRAP)), settles=True)
        return True

    def continued(self, group: ThreadGroup) -> None:
        is_over = group.job.is_stopping
        for task in group.tasks:
            tracee = task.tracee
            if tracee is None:
                continue
            tracee.stop_wanted = False
            if tracee.is_seized:
                tracee.notify_pending = True
        group.job.is_stopping = False  # a trap must report the group's state correctly at once
        for task in list(group.tasks):
            if task.tracee is not None and task.tracee.is_seized:
                wake(task)
        group.job.is_stopping = is_over

    # -- births ----------------------------------------------------------------------------------------
    def clone_event(self, task: Task, flags: int, exit_signal: int) -> int:
        if flags & CLONE_UNTRACED:
            return 0
        if flags & CLONE_VFORK:
            event = PTRACE_EVENT_VFORK
        elif exit_signal != SIGCHLD:
            event = PTRACE_EVENT_CLONE
        else:
            event = PTRACE_EVENT_FORK
        return event if wants_event(task, event) else 0

    def child_born(self, task: Task, child: Task, child_tid_addr: int) -> None:
        tracee = task.tracee
        assert tracee is not None
        attach.link(child, tracee.tracer, tracee.options, is_seized=tracee.is_seized)
        attach.stop_child(child, is_seized=tracee.is_seized)
        child.args.nr = child.trace.call_nr = task.args.nr
        # The order waits in its slot for the host thread, which so stops before any guest code.
        block_on_time(child, BirthStop(child_tid_addr))
        child.enter(WORKING)
        child.thread.run_ops()

    def cloned(self, task: Task, child: Task, event: int) -> int:
        shown = pid_in(task.pid_ns, child.tid)
        tracee = task.tracee
        message = pid_in(tracee.tracer.pid_ns, child.tid) if tracee is not None else 0
        note_call(task, shown, in_syscall=True)
        if event != PTRACE_EVENT_VFORK:
            stop_for_event(task, event, message, shown, settles=True)
        else:
            code = SIGTRAP | event << 8
            enter(task, VforkEventStop(code, trap_info(task, code), child, message, shown), settles=True)
        return BLOCKED

    def vfork_done(self, task: Task, child: Task, child_pid: int) -> bool:
        if not wants_event(task, PTRACE_EVENT_VFORK_DONE):
            return False
        op, tracee = task.blocked, task.tracee
        message = pid_in(tracee.tracer.pid_ns, child.tid) if tracee is not None else child_pid
        if op is not None:
            end_wait(task, op)
        note_call(task, child_pid, in_syscall=True)
        stop_for_event(task, PTRACE_EVENT_VFORK_DONE, message, child_pid, settles=False)
        return True

    def exec_waits(self, task: Task) -> bool:
        is_watched = False
        for other in list(task.group.tasks):
            tracee = other.tracee
            if other is task or tracee is None or not tracee.options & PTRACE_O_TRACEEXIT:
                continue
            if other.lent is not None or other.mm.is_dead:
                continue
            is_watched = True
            if tracee.is_exit_reported:
                continue
            tracee.is_doomed = True
            other.wants_attention = True
            if other.phase == WORKING:
                continue
            if other.thread.is_running():
                task.kernel.interrupt(other.thread)
            else:
                do_exit(other, 0)
        return is_watched

    def execed(self, task: Task, old_tid: int) -> int:
        tracee = task.tracee
        assert tracee is not None
        if wants_event(task, PTRACE_EVENT_EXEC):
            note_call(task, RESUME, in_syscall=True)
            stop_for_event(task, PTRACE_EVENT_EXEC, old_tid, 0, settles=True)
            return BLOCKED
        if not tracee.is_seized:
            send_task_info(task, user_info(task, SIGTRAP))
        return RESUME

    # -- ends ------------------------------------------------------------------------------------------
    def thread_exit(self, task: Task, status: int) -> bool:
        tracee = task.tracee
        if tracee is None or not tracee.options & PTRACE_O_TRACEEXIT or tracee.is_exit_reported:
            return False
        if task.mm.is_dead or task.lent is not None or task.group.end.must_die:
            return False
        tracee.is_exit_reported = True
        op = task.blocked
        if op is not None:
            drop_wait(task, op)
        task.trace.call_nr = task.args.nr if task.args.is_under_way else -1
        code = SIGTRAP | PTRACE_EVENT_EXIT << 8
        enter(task, DeathStop(code, trap_info(task, code), status), settles=False)
        return True

    def group_exit(self, group: ThreadGroup, status: int) -> bool:
        if not group.end.is_by_thread:
            is_watched = False
            for task in group.tasks:
                tracee = task.tracee
                if tracee is not None and tracee.options & PTRACE_O_TRACEEXIT and not task.mm.is_dead:
                    is_watched = True
            if not is_watched:
                return False
            group.end.go_by_thread(status)
        for task in list(group.tasks):
            if task.mm.is_dead:
                return False
            self._leave(task, group.end.fatal_status)
        return True

    def _leave(self, task: Task, status: int) -> None:
        """One thread of a group that ends while its tracer looks at each."""
        op = task.blocked
        if task.is_exited or isinstance(op, DeathStop):
            return
        task.is_kill_pending = True
        task.wants_attention = True
        if task.lent is None and (task.phase == WORKING or task.thread.is_running()):
            if task.phase != WORKING:
                task.kernel.interrupt(task.thread)
            return
        if op is not None:
            drop_wait(task, op)
        do_exit(task, status)

    def leader_died(self, group: ThreadGroup) -> bool:
        leader = group.leader
        tracee = leader.tracee if leader is not None else None
        if leader is None or tracee is None:
            return False
        if not tracee.is_zombie:
            tracee.is_zombie = True
            tracee.is_stopped = False
            tracee.status = group.end.status
            notify_death(leader, tracee.status)
        return True

    def reap(self, task: Task) -> None:
        tracee, group = task.tracee, task.group
        if tracee is None:
            return
        tracer = tracee.tracer
        attach.unlink(task)
        if group.leader is not task or not group.end.is_zombie:
            return
        if group.parent is tracer.group:
            reap(group)
        else:
            notify_parent(group)

    def forget(self, task: Task) -> None:
        attach.unlink(task)


def drop_wait(task: Task, op: Blocked) -> None:
    """End a wait that will have no result."""
    task.disarm_deadline()
    end_wait(task, op)


def task_exits(task: Task) -> None:
    """A thread goes: its tracees lose their tracer, its own tracer may wait for it (the hook of kernel.exit)."""
    for traced in list(task.ptraced):
        attach.abandon(traced)
    for job in (task.work.job, task.work.next):
        if job is not None:
            job.failed(task, 0)
    task.work.next = None
    tracee, group = task.tracee, task.group
    group.exec_turn.thread_gone()
    if tracee is None or group.leader is task:
        return
    tracee.is_zombie = True
    tracee.is_stopped = False
    tracee.status = group.end.status if group.end.is_begun else task.exit_code
    task.kernel.traced_zombies[task.tid] = task
    notify_death(task, tracee.status)


def install(kernel: Kernel) -> None:
    """Put ptrace in force."""
    kernel.tracing = Hooks()
    kernel.hooks.at_exit["ptrace"] = task_exits
    kernel.hooks.at_exec["ptrace"] = watch.forget
