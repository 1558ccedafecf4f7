"""The event loop: handles system calls, faults, timers and host descriptors one after the other (docs/design.md 4).

The life of a system call: `next_event` gives the number and arguments; the row's handler runs to completion and
returns a value, or stores its state on the task and returns BLOCKED; `complete` looks for signals and resumes.
Blocked calls are retried from `kernel.ready`.  There is no recursion: a wake-up only appends to that list.
A call with much to do does a slice and stands in `kernel.sliced` until its next turn (`blocking.next_slice`).

No guest can stop the others (I8): between two looks for events at most `MAX_TURNS` times `MAX_RETRIES` calls are
retried, or one slice is done; after a slice the calls of others may take as long as it did.
"""

import gc
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EIO,
    EMFILE,
    ENFILE,
    ENOMEM,
    ENOSYS,
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    LinuxError,
)
from cloche.abi.signal import SEGV_MAPERR, SIGSEGV
from cloche.arch.syscalls import (
    SYS_clone,
    SYS_clone3,
    SYS_execve,
    SYS_execveat,
    SYS_fork,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_pkey_mprotect,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_read,
    SYS_readv,
    SYS_remap_file_pages,
    SYS_vfork,
)
from cloche.kernel.args import to_i32
from cloche.kernel.blocking import BLOCKED, DEAD, DISPATCH, RESUME, RETURN, Blocked, end_wait
from cloche.kernel.container import kill, resume
from cloche.kernel.delivery import deliver
from cloche.kernel.exit import do_group_exit, forget_unborn, give_thread_back
from cloche.kernel.host_wait import HostBlocked, HostWait
from cloche.kernel.lanes import Abandoned, bring_arguments
from cloche.kernel.meter import StalledTooLong
from cloche.kernel.phase import GUEST, KERNEL, LEAVING, WORKING
from cloche.kernel.rlimits import limit_growth
from cloche.kernel.seccomp import ALLOWED
from cloche.kernel.seccomp import check as check_seccomp
from cloche.kernel.signals import force_fault_signal, has_deliverable
from cloche.kernel.task import Container, Kernel, Task
from cloche.kernel.timers import monotonic_ns
from cloche.platform.interface import (
    EV_CUT,
    EV_FAMILY_DIED,
    EV_FAULT,
    EV_FD,
    EV_INTERRUPTED,
    EV_LEFT,
    EV_NONE,
    EV_OPS_DONE,
    EV_OPS_FAILED,
    EV_PROCESS_DIED,
    EV_STALL,
    EV_STARTED,
    EV_SYSCALL,
    Call,
    Event,
    PlatformDied,
)

# A collection of cycles scans all objects, which takes 0.05 ms for each task, and stops the loop meanwhile. So dead
# tasks drop their references and form no cycles. A collection is made only if dead tasks stay nevertheless, or now
# and then while there are few objects.
COLLECT_AFTER: Final = 256  # dead tasks more than at the last one
OLDER_AFTER: Final = 4  # collections
FULL_AFTER: Final = 16
LOOK_AFTER: Final = 16384  # deaths
FEW_TASKS: Final = 128
# Timers without end, or tasks that wake each other, must leave the other guests their part of the time.
MAX_TURNS: Final = 4
MAX_DUE: Final = 64
MAX_RETRIES: Final = 64
GRACE: Final = 64
SLICE_GRACE: Final = 256  # events before the next slice; about as much work as it is
LINGER_NS: Final = 20_000  # how long to wait for an event, if there were some since the last slice
MAX_UNCHECKED: Final = 16  # reading the clock costs a tenth of a short call
BUSY_WAIT_NS: Final = 200_000  # before looking again at a thread that is not back yet
_READS: Final = (SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_preadv2)
_READS_AT_POS: Final = (SYS_read, SYS_readv)
_PROTECTS: Final = (SYS_mprotect, SYS_pkey_mprotect)
# events that are held back for a paused container
_HELD: Final = (EV_SYSCALL, EV_FAULT, EV_INTERRUPTED, EV_LEFT)


class StopLoop(Exception):
    """The sandbox shall end at once (CLOCHE_STRICT)."""


def run(kernel: Kernel) -> None:
    """Serve until the sandbox is to end (`Kernel.is_over`).  Raises StopLoop, PlatformDied."""
    platform = kernel.platform
    timers = kernel.timers
    ready_turns = 0  # without an event in between
    timer_turns = 0  # in a row that found some due
    unchecked = 0  # events since the last look at the clock
    grace = 0  # events to look for before timers and woken tasks have their next turn
    slice_grace = 0  # ... before the next slice
    collections = 0
    collect_at = COLLECT_AFTER
    while not kernel.is_over:
        if kernel.ready and not grace:
            run_ready(kernel)
            ready_turns += 1
            if ready_turns < MAX_TURNS:
                continue
        if kernel.dead_tasks >= collect_at or kernel.deaths >= LOOK_AFTER:
            if kernel.dead_tasks >= collect_at or len(kernel.tasks) < FEW_TASKS:
                collections += 1
                if collections % FULL_AFTER == 0 or kernel.deaths >= LOOK_AFTER:
                    gc.collect()
                else:
                    gc.collect(1 if collections % OLDER_AFTER == 0 else 0)
                collect_at = kernel.dead_tasks + COLLECT_AFTER
            kernel.deaths = 0
        has_slices = False
        if kernel.sliced or kernel.chores:
            if slice_grace <= 0 and not grace:
                slice_grace = SLICE_GRACE
                try:
                    run_slice(kernel)
                except Exception as failure:
                    contain(kernel, None, failure)
            has_slices = True
        deadline = -1 if grace else timers.next_deadline_ns()
        if deadline < 0:
            timeout = 0 if grace or kernel.ready or has_slices else -1
        elif unchecked < MAX_UNCHECKED:
            unchecked += 1
            timeout = 0 if kernel.ready or has_slices else -1
        else:
            unchecked = 0
            timeout = 0 if kernel.ready or has_slices else -1
            if deadline <= monotonic_ns():
                try:
                    timers.run_due(monotonic_ns(), MAX_DUE)
                except Exception as failure:
                    contain(kernel, None, failure)
                timeout = 0
                timer_turns += 1
                if timer_turns >= MAX_TURNS:
                    timer_turns = 0
                    grace = GRACE
                elif kernel.ready and ready_turns < MAX_TURNS:
                    continue
            else:
                timer_turns = 0
        ready_turns = 0
        if has_slices and 0 < slice_grace < SLICE_GRACE and not kernel.ready and not grace:
            timeout = LINGER_NS
        thread = platform.next_call(timeout, deadline)
        if thread < 0 and platform.event[0] == EV_NONE:
            grace = 0
            slice_grace = 0
            unchecked = MAX_UNCHECKED
            continue
        if grace:
            grace -= 1
        if has_slices:
            slice_grace -= 1
        task = kernel.by_thread.get(platform.event[1] if thread < 0 else thread)
        if kernel.paused and task is not None and task.group.container.is_paused:
            held = platform.event if thread < 0 else platform.call.event(thread)
            if held[0] in _HELD:
                task.group.container.held.append((task, held))
                continue
        try:
            if thread < 0:
                other_event(kernel, platform.event)
            elif task is None:
                end_dying_thread(kernel, thread)
            else:
                system_call(kernel, task, platform.call)
        except Exception as failure:
            contain(kernel, task, failure)


def resume_container(container: Container) -> None:
    """Go on with a paused container: what has arrived since happens now, in order.  Raises LinuxError(EINVAL)."""
    kernel = container.kernel
    held = resume(container)
    ready, container.held_ready = container.held_ready, []
    kernel.ready.extend(ready)
    for task, event in held:
        if task.is_exited or kernel.by_thread.get(event[1]) is not task:
            continue
        try:
            if event[0] == EV_SYSCALL:
                kernel.platform.call.take(event)
                system_call(kernel, task, kernel.platform.call)
            else:
                other_event(kernel, event)
        except Exception as failure:
            contain(kernel, task, failure)


def system_call(kernel: Kernel, task: Task, call: Call) -> None:
    """One system call has arrived."""
    args = task.args
    args.nr = call.nr
    args.a0 = call.a0
    args.a1 = call.a1
    args.a2 = call.a2
    args.a3 = call.a3
    args.a4 = call.a4
    args.a5 = call.a5
    task.args.is_under_way = True
    task.enter(KERNEL)
    kernel.total_syscalls += 1
    dispatch(kernel, task)


def dispatch(kernel: Kernel, task: Task) -> None:
    """Run the handler of the call in `task.args`."""
    if task.wants_attention and task.is_kill_pending:
        complete(kernel, task, -4)
        return
    if task.tracee is not None and kernel.tracing is not None and kernel.tracing.syscall_entry(task):
        return
    perform(kernel, task)


def perform(kernel: Kernel, task: Task) -> None:
    """Continue a call after its tracer's stop: filters, then the handler."""
    args = task.args
    entries = kernel.entry_observer
    if entries is not None:
        entries.entered(task, args)
    if task.seccomp.mode:
        verdict = check_seccomp(task)
        if verdict != ALLOWED:
            complete(kernel, task, verdict)
            return
    table = kernel.table
    number = args.nr
    waits = kernel.host_waits
    waits.may_wait = True
    try:
        if task.mm.has_slow_files:
            bring_arguments(task)
        if 0 <= number < len(table):
            result = table[number](task, args)
        else:
            kernel.missing[number] = kernel.missing.get(number, 0) + 1
            result = -ENOSYS
    except LinuxError as error:
        result = -error.errno
    except HostWait as wait:
        result = wait_for_host(kernel, task, wait, None)
    except Abandoned:
        return
    except Exception as failure:  # another name: mypyc gives a variable one type
        result = internal_error(kernel, task, failure)
    waits.may_wait = False
    if waits.journal or waits.file is not None:
        waits.end()
    complete(kernel, task, result)


def wait_for_host(kernel: Kernel, task: Task, wait: HostWait, inner: Blocked | None) -> int:
    """A handler has asked a question that is not answered yet. Returns BLOCKED."""
    return kernel.host_waits.block(task, wait, wait.inner if wait.inner is not None else inner)


def run_again(kernel: Kernel, task: Task, op: HostBlocked) -> None:
    """An answer has come: the call is made again, and finds it in its journal."""
    if not op.is_due():
        return
    waits = kernel.host_waits
    inner = op.inner
    journal, walks = op.take(), op.walks
    end_wait(task, op)
    waits.begin(journal)
    waits.walks = walks
    try:
        result = inner.retry(task) if inner is not None else kernel.table[task.args.nr](task, task.args)
    except LinuxError as error:
        result = -error.errno
    except HostWait as wait:
        result = wait_for_host(kernel, task, wait, inner)
    except Abandoned:
        return
    except Exception as failure:  # another name: mypyc gives a variable one type
        result = internal_error(kernel, task, failure)
    waits.end()
    if result != BLOCKED and inner is not None:
        inner.finished(task)
    complete(kernel, task, result)


# Calls that may fail because the host lacks resources. The platform raises OSError, before it has changed anything.
_CLONES: Final = (SYS_clone, SYS_fork, SYS_vfork, SYS_clone3)
_SHORTAGES: Final = (EMFILE, ENFILE, ENOMEM, EAGAIN)


def internal_error(kernel: Kernel, task: Task, error: Exception) -> int:
    """I4: a bug in a handler fails that call, is logged and counted; CLOCHE_STRICT=1 stops everything."""
    if isinstance(error, PlatformDied):
        raise error
    if isinstance(error, MemoryError):
        return -ENOMEM
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        return -EAGAIN if task.args.nr in _CLONES else -ENOMEM
    report(kernel, f"in system call {task.args.nr} of {task.comm!r}", error)
    return -EIO


def report(kernel: Kernel, where: str, error: Exception) -> None:
    """Count and log a bug of cloche; CLOCHE_STRICT=1 stops everything."""
    kernel.internal_errors += 1
    kernel.meter.report_error(where, error)
    if kernel.is_strict:
        raise StopLoop() from error


def contain(kernel: Kernel, task: Task | None, error: Exception) -> None:
    """A bug outside a handler (delivery of a signal, a death, a timer) ends only the process concerned."""
    if isinstance(error, (StopLoop, PlatformDied)):
        raise error
    report(kernel, "outside a system call" if task is None else f"around {task.comm!r}", error)
    if task is None or task.is_exited:
        return
    task.group.end.must_die = True
    try:
        do_group_exit(task.group, 9)
    except Exception as failure:  # another name: mypyc gives a variable one type
        report(kernel, f"at the end of {task.comm!r}", failure)
        task.mm.process.kill()


def complete(kernel: Kernel, task: Task, result: int) -> None:
    """A call has a result, or waits: resume the task or leave it."""
    if result == BLOCKED:
        op = task.blocked
        if op is None:
            return
        if not op.has_slices:
            task.waits += 1
        task.thread.wait_long()
        if op.deadline_ns >= 0 and task.deadline_timer is None:
            task.arm_deadline(op.deadline_ns)
        if task.wants_attention:
            interrupt_blocked(kernel, task)
        return
    if result == DEAD:
        observer = kernel.observer
        if observer is not None:
            observer.finished(task, task.args, result)
        return
    if result == DISPATCH:
        task.thread.forget_prefetched()  # a tracer or a listener may have changed it
        perform(kernel, task)
        return
    if result == RETURN:
        leave_stop(kernel, task)
        return
    observer = kernel.observer
    if observer is not None:
        observer.finished(task, task.args, result)
    task.args.is_under_way = False
    if (
        task.wants_attention
        or task.sigmask.is_lent
        or task.tracee is not None
        or -ERESTART_RESTARTBLOCK <= result <= -ERESTARTSYS  # by a signal that was meant for another thread
    ):
        # A signal may stop it for long, and other threads rely on the operations that it has ordered.
        if task.thread.leave_as_is() if result == RESUME else task.thread.leave(result):
            leave_slowly(kernel, task, result)
        else:
            task.enter(LEAVING)
            task.args.left_result = result
    elif result == RESUME:
        task.enter(GUEST)
        task.thread.resume()
    else:
        task.enter(GUEST)
        task.thread.ret(result)


def leave_slowly(kernel: Kernel, task: Task, result: int) -> None:
    """A call is over and something has to be done before guest code runs again; there is a frame."""
    if task.tracee is not None and kernel.tracing is not None and kernel.tracing.syscall_exit(task, result):
        return
    return_to_guest(kernel, task, result, in_syscall=True)


def return_to_guest(kernel: Kernel, task: Task, result: int, *, in_syscall: bool) -> None:
    """Handle signals and stops, then resume unless the task died or is stopped."""
    deliver(task, result, in_syscall)
    resume_if_free(kernel, task)


def resume_if_free(kernel: Kernel, task: Task) -> None:
    """Resume a task unless `deliver` has ended or stopped it."""
    if task.is_exited or begin_waiting_job(task) or task.blocked is not None:
        return
    if task.tracee is not None and kernel.tracing is not None:
        kernel.tracing.departing(task)
    task.enter(GUEST)
    task.thread.resume()


def begin_waiting_job(task: Task) -> bool:
    """The thread has stopped, and another task may want it for a job. Returns whether it works on one now."""
    job = task.work.next
    op = task.blocked
    if job is None or (op is not None and not op.lends_thread()):
        return False
    task.work.next = None
    return job.begin(task)


def leave_stop(kernel: Kernel, task: Task) -> None:
    """A task has left a ptrace stop: on to the signals, the one that the tracer gave first."""
    task.args.is_under_way = False
    tracing = kernel.tracing
    result = tracing.returning(task) if tracing is not None else RESUME
    deliver(task, result, result != RESUME, task.trace.take_injected())
    resume_if_free(kernel, task)


def run_ready(kernel: Kernel) -> None:
    """Retry blocked calls that were woken, the first ones."""
    batch = kernel.ready
    if len(batch) > MAX_RETRIES:
        kernel.ready = batch[MAX_RETRIES:]
        del batch[MAX_RETRIES:]
    else:
        kernel.ready = []
    batch.reverse()
    kernel.batch = batch  # if this lane is away, another takes what is left
    while batch:
        run_one(kernel, batch.pop())


def run_slice(kernel: Kernel) -> None:
    """The next slice of the call that has waited longest for its turn, and a step of the kernel's own work."""
    if kernel.chores:
        chore = kernel.chores.popleft()
        if chore.step():
            kernel.chores.append(chore)
    if kernel.sliced:
        run_one(kernel, kernel.sliced.popleft())


def run_one(kernel: Kernel, task: Task) -> None:
    """The turn of a task that is queued."""
    if kernel.paused and task.group.container.is_paused and not task.is_exited:
        task.group.container.held_ready.append(task)
        return
    task.is_ready_queued = False
    if task.blocked is None or task.is_exited:
        return
    if task.phase == WORKING:
        if task.is_late():  # its host thread works for a tracer, and cannot return yet
            task.arm_deadline(monotonic_ns() + BUSY_WAIT_NS)
        return
    try:
        retry_blocked(kernel, task)
    except Exception as failure:
        contain(kernel, task, failure)


def retry_blocked(kernel: Kernel, task: Task) -> None:
    """Something that a blocked task waits for was woken, or its deadline has passed."""
    op = task.blocked
    if op is None:
        return
    if isinstance(op, HostBlocked):
        run_again(kernel, task, op)
        return
    if op.may_run_again:
        kernel.host_waits.may_wait = True
    try:
        if task.is_late():
            task.deadline_timer = None
            result = op.timed_out(task)
        else:
            result = op.retry(task)
    except LinuxError as error:
        result = -error.errno
    except HostWait as wait:
        task.disarm_deadline()
        for queue in op.queues:  # not end_wait: it goes on
            queue.remove(task.waiter)
        op.queues.clear()
        complete(kernel, task, wait_for_host(kernel, task, wait, op))
        return
    except Abandoned:
        return
    except Exception as failure:  # another name: mypyc gives a variable one type
        result = internal_error(kernel, task, failure)
    if kernel.host_waits.journal or op.may_run_again:
        kernel.host_waits.end()
    if result != BLOCKED:
        task.disarm_deadline()
        if task.blocked is op:
            end_wait(task, op)
        complete(kernel, task, result)
    elif task.wants_attention and task.blocked is op:
        interrupt_blocked(kernel, task)


def interrupt_blocked(kernel: Kernel, task: Task) -> None:
    """A signal, stop or kill wants a blocked task: end its wait with the operation's own answer."""
    op = task.blocked
    if op is None or task.phase == WORKING or begin_waiting_job(task):
        return
    if not task.is_kill_pending and not has_deliverable(task):
        return
    try:
        result = op.interrupted(task)
    except LinuxError as error:
        result = -error.errno
    except Exception as failure:  # another name: mypyc gives a variable one type
        result = internal_error(kernel, task, failure)
    if result == BLOCKED:
        return
    task.disarm_deadline()
    if task.blocked is op:
        end_wait(task, op)
    complete(kernel, task, result)


def other_event(kernel: Kernel, event: Event) -> None:
    """Handle an event other than a system call."""
    kind = event[0]
    if kind == EV_FD:
        watcher = kernel.fds.watchers.get(event[2])
        if watcher is not None:
            watcher.fd_ready(event[2], event[3])
        return
    if kind == EV_PROCESS_DIED:
        kernel.process_born(event[2])
        process_died(kernel, event)
        return
    if kind == EV_FAMILY_DIED:
        for container in list(kernel.containers.values()):
            if container.family[0] == event[2]:
                kill(container)  # it could not start processes any more
        return
    if kind == EV_STALL:
        what, is_error = kernel.meter.note_stall(event)
        if kernel.is_strict and is_error:
            report(kernel, "in the event loop", StalledTooLong(what))
        return
    if kind == EV_STARTED:
        kernel.process_born(event[2])
        return
    task = kernel.by_thread.get(event[1])
    if task is None:
        if event[1] >= 0:
            end_dying_thread(kernel, event[1])
        return
    if task.tracee is not None and kernel.tracing is not None:
        kernel.tracing.arrived(task)
    if kind == EV_FAULT:
        enter_kernel(task)
        if (
            task.tracee is not None
            and kernel.tracing is not None
            and kernel.tracing.stepped(task, event[2], event[3])
        ):
            return_to_guest(kernel, task, 0, in_syscall=False)
            return
        if not task.mm.growing or not grows(task, event[2], event[3], event[4]):
            force_fault_signal(task, event[2], event[3], event[4], event[5] or -1, event[6])
        return_to_guest(kernel, task, 0, in_syscall=False)
    elif kind == EV_INTERRUPTED:
        enter_kernel(task)
        return_to_guest(kernel, task, 0, in_syscall=False)
    elif kind == EV_LEFT:
        enter_kernel(task)
        leave_slowly(kernel, task, RESUME if task.args.left_result == RESUME else event[2])
    elif kind == EV_OPS_DONE:
        operations_done(kernel, task)
    elif kind == EV_OPS_FAILED:
        operations_failed(kernel, task, event[3])
    elif kind == EV_CUT:
        operations_failed(kernel, task, EFAULT)


def enter_kernel(task: Task) -> None:
    """Its host thread has stopped by itself, or since it was interrupted."""
    if task.blocked is None:
        task.enter(KERNEL)


def grows(task: Task, signo: int, code: int, addr: int) -> bool:
    """Whether a fault is below an area that grows downwards (MAP_GROWSDOWN), and if so, grow it."""
    if signo != SIGSEGV or code != SEGV_MAPERR:
        return False
    mm = task.mm
    if mm.process.has_pending_ops():
        return True  # let it fault again: the list may be about to change
    limit_growth(task)
    return mm.grow_down(task.thread, addr & (1 << 64) - 1) != 0


def operations_done(kernel: Kernel, task: Task) -> None:
    """The answer to run_ops: let the task or job that ordered it go on."""
    job = task.work.job
    if job is not None:
        job.done(task)
    elif task.phase == WORKING:
        task.rest()
        op = task.blocked
        if op is not None and op.has_slices:
            task.queue_slice()
        else:
            task.make_ready()


def operations_failed(kernel: Kernel, task: Task, errno: int) -> None:
    """The host refused a queued operation: the call that queued it fails, as far as that can be said."""
    job = task.work.job
    if job is not None:
        job.failed(task, errno)
        return
    task.enter(KERNEL)
    op = task.blocked
    number = task.args.nr
    if number in (SYS_execve, SYS_execveat):
        task.group.end.must_die = True
        do_group_exit(task.group, 9)  # past the point of no return
        return
    if number == SYS_mmap and op is None:
        address = task.thread.regs().result
        length = task.args.a1
        if length > 0 and address < task.mm.max_address:
            task.mm.forget(address & ~4095, length)
    elif number == SYS_mremap and op is None:
        task.mm.undo_mremap()
    elif number == SYS_remap_file_pages and op is None:
        task.mm.forget(task.args.a0 & ~4095, task.args.a1 & ~4095)
    elif number in _PROTECTS:
        task.mm.undo_protect(task.thread)
    elif number in _CLONES:
        fail_clone(kernel, task)
    if op is not None:
        task.disarm_deadline()
        end_wait(task, op)
    if number in _READS:
        read_again(kernel, task)
    else:
        complete(kernel, task, -errno)


def read_again(kernel: Kernel, task: Task) -> None:
    """A read that the platform had promised could not be done: the file was truncated meanwhile, or the buffer ends.
    Repeat it.
    """
    args = task.args
    file = task.files.find(to_i32(args.a0))
    promised = task.thread.regs().result
    if file is not None and (args.nr in _READS_AT_POS or args.a3 == -1) and promised <= file.pos:
        file.pos -= promised
    task.args.is_under_way = True
    try:
        result = kernel.table[args.nr](task, args)
    except LinuxError as error:
        result = -error.errno
    except Exception as failure:  # another name: mypyc gives a variable one type
        result = internal_error(kernel, task, failure)
    complete(kernel, task, result)


def fail_clone(kernel: Kernel, task: Task) -> None:
    """The host could not fork: the child task never existed."""
    child = task.ordered_child
    task.ordered_child = None
    if child is None or child.is_exited:
        return
    if child.tracee is not None and kernel.tracing is not None:
        kernel.tracing.forget(child)
    if child.group is not task.group and child.group.parent is not None:
        child.group.exit_signal = 0
        child.group.parent.children.pop(child.group, None)
        child.group.parent = None
    if child.mm is task.mm:
        forget_unborn(child)
    else:
        do_group_exit(child.group, 9)


def process_died(kernel: Kernel, event: Event) -> None:
    """A host process is gone.  If the kernel did not kill it, its thread groups die by that signal."""
    ident, status = event[2], event[3]
    for thread in [key for key, task in kernel.dying_threads.items() if task.mm.process.ident() == ident]:
        end_dying_thread(kernel, thread)
    late = kernel.late_usage.pop(ident, None)
    if late is not None:
        late.arrived(event)
        return
    groups = []
    for task in kernel.tasks.values():
        if task.mm.process.ident() == ident and not task.mm.is_dead:
            if task.group not in groups:
                groups.append(task.group)
    for group in groups:
        for task in group.tasks:
            if not task.mm.is_dead:
                task.mm.release()
        do_group_exit(group, status & 0x7F if status & 0x7F else 9)


def end_dying_thread(kernel: Kernel, ident: int) -> None:
    """A thread whose task was ended while it ran has stopped: let the host thread exit."""
    task = kernel.dying_threads.pop(ident, None)
    if task is None:
        return
    thread = task.thread
    vfork = task.vfork
    if vfork is not None and vfork.regs is not None:
        give_thread_back(vfork)
        return
    if task.mm.users <= 0:
        if not task.mm.is_dead:
            task.mm.process.kill()
            task.mm.release()
    else:
        thread.queue_exit()
        thread.resume()
    thread.discard()
