"""The end of tasks and thread groups, and its report to parents (kernel/exit.c, exit_group(2), wait(2)).

A whole process ends by killing its host process at once.  A single thread ends by ordering its host thread's own
exit, so it must be stopped: one that runs guest code is interrupted first (`is_kill_pending`).
"""

from typing import Final

from cloche.abi.signal import CLD_DUMPED, CLD_EXITED, CLD_KILLED, SA_NOCLDWAIT, SIGCHLD, SIGKILL
from cloche.kernel.accounting import LateUsage, group_usage, space_peak_kib, space_usage
from cloche.kernel.answers import withdraw
from cloche.kernel.blocking import BLOCKED, DEAD, end_wait
from cloche.kernel.chores import Chore
from cloche.kernel.closing import close_taken
from cloche.kernel.fd_table import FdTable
from cloche.kernel.futex_exit import release_memory
from cloche.kernel.ipc.sem import leave_undo_list
from cloche.kernel.ipc.shm import mark_exit
from cloche.kernel.parts import LateNews
from cloche.kernel.phase import DEAD as DEAD_PHASE
from cloche.kernel.seccomp_filter import replace as replace_filters
from cloche.kernel.task import ENDED, Container, Kernel, Task, ThreadGroup, Vfork
from cloche.kernel.unshare import leave_mount_namespace
from cloche.mm.address_space import AddressSpace
from cloche.platform.interface import Event

_FEW: Final = 16  # processes that are ended at once


def detach_address_space(task: Task) -> None:
    """`task` leaves its address space (exec, exit): put a vfork parent back, end the host thread or process."""
    kernel, mm, thread = task.kernel, task.mm, task.thread
    release_memory(task)
    mm.users -= 1
    vfork = task.vfork
    if vfork is not None and vfork.regs is None:
        waiter, task.vfork = vfork.parent, None
        vfork = None
        wake = kernel.hooks.vfork_wake
        if wake is not None:
            wake(waiter)
    if task.lent is not None:
        return  # the child gives the host thread back when it leaves (vfork_done)
    kernel.by_thread.pop(thread.ident(), None)
    if vfork is not None:
        give_thread_back(vfork)
        return
    if mm.users <= 0:
        end_process(kernel, task.group, mm)
    elif not mm.is_dead:
        container = task.group.container
        if container.task_count + container.parking.count < container.max_tasks:
            if thread.park(container.parking):
                return
        thread.queue_exit()
        thread.resume()
    thread.discard()


def give_thread_back(vfork: Vfork) -> None:
    """The child of a vfork has left its parent's host thread, which is stopped."""
    task = vfork.child
    mm = task.mm
    if not mm.is_dead:  # its maximal size counts for both (setmax_mm_hiwater_rss)
        usage = task.group.spent.usage
        usage.maxrss_kib = max(usage.maxrss_kib, space_peak_kib(mm))
    task.vfork = None
    hook = task.kernel.hooks.vfork_done
    assert hook is not None
    hook(vfork)


def end_process(kernel: Kernel, group: ThreadGroup, mm: AddressSpace) -> None:
    """Kill a host process that no task uses any more."""
    if mm.is_dead:
        return
    user_ns, system_ns = mm.process.cpu_times_ns()
    group.spent.user_ns += user_ns
    group.spent.system_ns += system_ns
    parent = group.parent
    if group.spent.is_wanted or (parent is not None and parent.spent.is_wanted):
        group.spent.usage.add(space_usage(mm))
    elif not mm.process.is_unborn():  # otherwise its death might never be reported
        kernel.late_usage[mm.process.ident()] = LateUsage(group, mm)
    if mm.has_segments:
        mark_exit(mm.areas(), group.tgid)
    mm.process.kill()
    mm.release()
    kernel.process_born(mm.process.ident())


def kill_other_threads(task: Task) -> None:
    """de_thread: every other thread of the group ends without being reported; `task` becomes the leader (execve(2))."""
    group, kernel = task.group, task.kernel
    if len(group.tasks) == 1 and group.tasks[0] is task:
        if task.tid != group.tgid:
            _take_leader_id(task)
        return
    others = [other for other in group.tasks if other is not task]
    if not task.borrows_thread() and task.mm.users == len(group.tasks):
        for each in group.tasks:
            release_memory(each)
        end_process(kernel, group, task.mm)
    for other in others:
        forget_task(other, is_process_ending=True)
    if task.tid != group.tgid:
        _take_leader_id(task)
    group.tasks = [task]
    kernel.by_thread[task.thread.ident()] = task


def _take_leader_id(task: Task) -> None:
    kernel, group = task.kernel, task.group
    old = group.leader
    if old is not None and old is not task and old.tracee is not None and kernel.tracing is not None:
        kernel.tracing.forget(old)
    if old is not None and old is not task:
        _leave_namespaces(old)
        old.leave()
        kernel.count_released(group)
    drop_names(task)
    old_tid = task.tid
    kernel.tasks.pop(old_tid, None)
    kernel.release_pid(old_tid)
    task.take_leaders_number()
    kernel.tasks[task.tid] = task
    group.leader = task


def forget_unborn(task: Task) -> None:
    """The host had no room for its thread, which has never run: nothing in memory tells of its end."""
    if task.is_exited:
        return
    task.exit_words.forget()
    _take_out(task)
    task.mm.users -= 1
    task.kernel.by_thread.pop(task.thread.ident(), None)
    task.thread.discard()
    if not task.group.tasks:
        group_dead(task.group)


def forget_task(task: Task, *, is_process_ending: bool) -> None:
    """Take a task out of all tables; its host thread is ended only if the process lives on."""
    kernel = task.kernel
    if task.is_exited:
        return
    _take_out(task)
    if is_process_ending and task.lent is None and task.mm.users > 1 and not task.mm.is_dead:
        # The host process dies as a whole, or this thread is killed with its siblings.  A thread that is a vfork's
        # parent's is given back when it has stopped.
        if task.thread.is_running():
            kernel.dying_threads[task.thread.ident()] = task
            kernel.by_thread.pop(task.thread.ident(), None)
            release_memory(task)
            task.mm.users -= 1
            task.kernel.interrupt(task.thread)
            return
    detach_address_space(task)


def _take_out(task: Task) -> None:
    """Of all tables, and of all that it shares with others but its memory."""
    kernel = task.kernel
    op = task.blocked
    if op is not None:
        end_wait(task, op)
    for hook in kernel.hooks.at_exit.values():
        hook(task)
    undo_list = task.undo_list
    if undo_list is not None:
        task.undo_list = None
        leave_undo_list(undo_list, task.group.tgid, kernel.chores)
    task.ordered_child = None  # they would keep each other
    container = task.group.container
    task.ns = container.ns  # its own may end now
    leave_mount_namespace(task, task.mount_ns)
    if container.root is not None:
        task.mount_ns = container.root.mount_ns
    replace_filters(task, None)  # it may be large, and a dead task may wait for the cyclic collector
    task.disarm_deadline()  # its timer would keep it in memory
    task.enter(DEAD_PHASE)
    task.waiter.task = None
    task.group.spent.usage.waits += task.waits
    if task is not task.group.leader:
        task.leave()
    drop_files(task, task.files)
    if task in task.group.tasks:
        task.group.tasks.remove(task)
    kernel.remove_task(task)
    if task is not task.group.leader:
        _leave_namespaces(task)
        task.group.exit_wait.wake()  # pidfds of the thread


def drop_names(task: Task) -> None:
    """Drop names in /proc that lead to it, because it is dead or has another number."""
    for names in task.names:
        names.drop()
    task.names = []


def _leave_namespaces(task: Task) -> None:
    """A dead task was waited for: drop its names in /proc, and its references to namespaces, which an open directory
    of /proc or a pidfd would otherwise keep alive (proc_flush_pid).
    """
    drop_names(task)
    task.pid_ns = None
    task.mm_user_ns = None
    if task.creds.user_ns is not None:
        creds = task.creds.clone()
        creds.user_ns = None
        creds.cap_permitted = creds.cap_effective = creds.cap_ambient = 0
        task.creds = creds


def drop_files(task: Task, files: FdTable) -> None:
    """The task no longer uses its table; the last user closes everything."""
    files.users -= 1
    if files.users == 0:
        close_taken(task, files, files.take_all())


def do_exit(task: Task, status: int) -> int:
    """End one thread with wait status `status`; DEAD.  The last thread takes the group with it."""
    group = task.group
    if task.is_exited:
        return DEAD
    tracing = task.kernel.tracing
    if task.tracee is not None and tracing is not None and tracing.thread_exit(task, status):
        return BLOCKED
    group.end.thread_ended(status)
    task.exit_code = status
    forget_task(task, is_process_ending=False)
    if not group.tasks:
        group_dead(group)
    return DEAD


def do_group_exit(group: ThreadGroup, status: int) -> None:
    """End every thread of the group with wait status `status` (do_group_exit)."""
    if group.end.is_begun or group.end.is_zombie:
        return
    tracing = group.kernel.tracing
    if tracing is not None and not group.end.must_die and tracing.group_exit(group, status):
        return
    group.end.begin(status)
    group.job.is_stopped = False
    tasks = list(group.tasks)
    is_awaited = False
    if tasks:
        mm = tasks[0].mm
        sharers = 0
        for task in tasks:
            if task.mm is mm and not task.borrows_thread():
                sharers += 1
        if sharers == len(tasks) and mm.users == sharers and not mm.is_dead:
            # No other group uses this host process: kill it first, so that none of its guest code runs on.
            for task in tasks:
                release_memory(task)
            end_process(group.kernel, group, mm)
            is_awaited = group.end.awaits_host and _await_host(group, mm)
    for task in tasks:
        forget_task(task, is_process_ending=True)
    if not group.tasks and not is_awaited:
        group_dead(group)


class HostGone(LateNews):
    """Ends a process when its host process is gone, whose memory is free by then (exit_mm comes before exit_notify)."""

    def __init__(self, group: ThreadGroup, usage: LateNews | None) -> None:
        self.group: ThreadGroup = group
        self.usage: LateNews | None = usage

    def arrived(self, event: Event) -> None:
        if self.usage is not None:
            self.usage.arrived(event)
        group_dead(self.group)


def _await_host(group: ThreadGroup, mm: AddressSpace) -> bool:
    """Have the end of a process that was killed on the host wait for it; False if the host will not tell of it."""
    process = mm.process
    if process.is_unborn():
        return False
    news = group.kernel.late_usage
    news[process.ident()] = HostGone(group, news.get(process.ident()))
    return True


def group_dead(group: ThreadGroup) -> None:
    """The last thread is gone: reparent the children, become a zombie, tell the parent (exit_notify)."""
    if group.end.is_zombie or group.end.is_reaped:
        return
    kernel = group.kernel
    if group.is_namespace_init() and not group.end.has_ended_namespace:
        group.end.has_ended_namespace = True
        members = _close_namespace(group)
        if len(members) > _FEW:
            group.end.is_begun = True  # it counts as dying as long as they exist
            kernel.chores.append(KillAll(members, group))
            return
        for inside in members:
            _kill(inside)
        _reap_members(group)
    group.end.become_zombie()
    group.exe.allow_writes()
    for hook in kernel.hooks.at_group_exit.values():
        hook(group)
    reaper = find_reaper(group)
    children = list(group.children)
    group.children.clear()
    for child in children:
        child.parent = reaper
        for member in child.tasks:
            withdraw(member)
        if reaper is not None:
            reaper.children[child] = None
            if child.end.is_zombie:
                notify_parent(child)
        elif child.end.is_zombie:
            reap(child)  # of a command that came before the first program: nobody will wait for it
    group.exit_wait.wake()
    notify_parent(group)
    container = group.container
    if container.main is group and container.state != ENDED:
        end_container(container, group.end.status)


def end_container(container: Container, status: int) -> None:
    """The first program has ended with wait status `status`: end everything else in the container."""
    kernel = container.kernel
    container.state = ENDED
    container.exit_status = status
    ended = kernel.hooks.container_ended
    if ended is not None:
        ended(container)
    rest = [
        group
        for group in kernel.groups.values()
        if group.container is container and group.has_guest_code and not group.end.is_zombie
    ]
    if len(rest) > _FEW:
        kernel.chores.append(KillAll(rest, None))
        return
    for group in rest:
        _kill(group)


def _kill(group: ThreadGroup) -> None:
    """End a process in any state."""
    if not group.end.is_zombie and not group.end.is_reaped:
        group.end.must_die = True
        do_group_exit(group, SIGKILL)


class KillAll(Chore):
    """The end of many processes, and then of the init of their pid namespace, which has to go last."""

    def __init__(self, groups: list[ThreadGroup], init: ThreadGroup | None) -> None:
        self.groups: list[ThreadGroup] = groups
        self.init: ThreadGroup | None = init
        self.late: list[ThreadGroup] = []  # inits of nested namespaces, which wait for their own members

    def step(self) -> bool:
        for _ in range(min(_FEW, len(self.groups))):
            group = self.groups.pop()
            _kill(group)
            if not group.end.is_zombie and not group.end.is_reaped:
                self.late.append(group)
        if self.groups:
            return True
        self.groups, self.late = self.late, []
        if self.groups:
            return True
        if self.init is not None:
            _reap_members(self.init)
            group_dead(self.init)
        return False


def find_reaper(group: ThreadGroup) -> ThreadGroup | None:
    """The nearest living ancestor that is a subreaper, else init (prctl(2) PR_SET_CHILD_SUBREAPER)."""
    ns = group.pid_ns
    at = group.parent
    while at is not None and at.pid_ns is ns:
        if at.is_subreaper and at.is_alive() and not at.end.is_begun:
            return at
        at = at.parent
    if ns is not None:
        found = group.kernel.groups.get(ns.init_pid)
        if found is not None and found is not group and found.pid_ns is ns:
            return found
    return group.container.init


def _close_namespace(init: ThreadGroup) -> list[ThreadGroup]:
    """The init of a pid namespace dies: return the processes of the namespace, which have to be ended
    (zap_pid_ns_processes).
    """
    kernel, ns = init.kernel, init.pid_ns
    assert ns is not None
    ns.is_closed = True
    found: list[ThreadGroup] = []
    for pid in ns.from_kernel:
        group = kernel.groups.get(pid)
        if group is not None and group is not init and not group.end.is_zombie:
            found.append(group)
    return found


def _reap_members(init: ThreadGroup) -> None:
    """Reap the members of a namespace that has ended: no process will wait for them."""
    for child in list(init.children):
        if child.end.is_zombie:
            reap(child)


def notify_parent(group: ThreadGroup) -> None:
    """SIGCHLD (or the clone's exit signal) to the parent and a wake-up of its waits; reap at once if it ignores
    SIGCHLD.
    """
    kernel, parent = group.kernel, group.parent
    if kernel.tracing is not None and kernel.tracing.leader_died(group):
        return
    if parent is None or not parent.has_guest_code:
        reap(group)
        return
    action = parent.handlers.actions[SIGCHLD]
    is_ignored = group.exit_signal == SIGCHLD and (action.handler == 1 or action.flags & SA_NOCLDWAIT != 0)
    if group.exit_signal and not (is_ignored and action.handler == 1):
        hook = kernel.hooks.child_signal
        if hook is not None:
            status = group.end.status
            if status & 0x7F:
                hook(group, CLD_DUMPED if status & 0x80 else CLD_KILLED, status & 0x7F)
            else:
                hook(group, CLD_EXITED, status >> 8 & 0xFF)
    if is_ignored:
        reap(group, is_waited_for=False)
    parent.child_wait.wake()


def reap(group: ThreadGroup, *, is_waited_for: bool = True) -> None:
    """Remove the zombie: its parent has its status (release_task), or does not want it, and then its usage counts for
    no process.
    """
    kernel = group.kernel
    was_zombie = group.end.reap(is_waited_for=is_waited_for)
    group.pid_ns = None
    if group.leader is not None:
        _leave_namespaces(group.leader)
        group.leader.leave()
    if was_zombie:
        kernel.count_released(group)
    parent = group.parent
    if parent is not None:
        parent.children.pop(group, None)
        if is_waited_for:
            user_ns, system_ns = group_times(group)
            parent.spent.add_child(user_ns, system_ns, group_usage(group), group.spent)
    group.leader = None
    leave_process_group(group)
    if kernel.groups.get(group.tgid) is group:
        del kernel.groups[group.tgid]
        kernel.release_pid(group.tgid)


def group_times(group: ThreadGroup) -> tuple[int, int]:
    """User and system CPU time of a thread group in ns."""
    user_ns, system_ns = group.spent.user_ns, group.spent.system_ns
    if group.tasks:
        mm = group.tasks[0].mm
        if not mm.is_dead:
            live_user, live_system = mm.process.cpu_times_ns()
            user_ns += live_user
            system_ns += live_system
    return user_ns, system_ns


def leave_process_group(group: ThreadGroup) -> None:
    """Take a thread group out of its process group; empty groups and sessions vanish."""
    pgrp = group.pgrp
    if pgrp is None:
        return
    kernel = group.kernel
    group.pgrp = None
    pgrp.members.pop(group, None)
    if not pgrp.members:
        kernel.process_groups.pop(pgrp.pgid, None)
        kernel.release_pid(pgrp.pgid)
        session = pgrp.session
        if pgrp in session.groups:
            session.groups.remove(pgrp)
        if not session.groups:
            kernel.sessions.pop(session.sid, None)
            kernel.release_pid(session.sid)
