"""Containers: making one, its processes, pausing it and ending it (OCI runtime specification, "Lifecycle").

A container has a pid namespace of its own, so that kernel pids stay inside the sentry, unless it shares that of another
(a pod). It keeps references to namespaces that it shares, because the other container may end first. Its first
program is started by `boot`.
"""

from typing import Final

from cloche.abi.errno import EEXIST, EINVAL, LinuxError
from cloche.abi.signal import SIGKILL
from cloche.kernel.exit import do_group_exit, end_container
from cloche.kernel.fd_table import FdTable
from cloche.kernel.namespaces import Namespaces
from cloche.kernel.pid_namespace import FIRST_PID_INO, PidNamespace, pid_in
from cloche.kernel.siginfo import SignalHandlers
from cloche.kernel.task import (
    ENDED,
    ENTERED,
    PAUSED,
    Container,
    Kernel,
    ProcessGroup,
    Session,
    Task,
    ThreadGroup,
)
from cloche.kernel.timers import monotonic_ns
from cloche.mm.address_space import AddressSpace
from cloche.mm.usermem import UserMemory
from cloche.platform.interface import Event, HostThread
from cloche.vfs.credentials import Credentials
from cloche.vfs.objects import Context, FsContext
from cloche.vfs.userns import UserNamespace

MAX_CONTAINERS: Final = 256
SHAREABLE: Final = ("pid", "net", "ipc", "uts", "cgroup")


def create_container(
    kernel: Kernel,
    ident: str,
    share: Container | None = None,
    kinds: "list[str] | None" = None,
    user_ns: UserNamespace | None = None,
    owned: "list[str] | None" = None,
) -> Container:
    """A container without root, limits or processes; with the namespaces `kinds` of `share`. Its programs are in
    `user_ns`, to which those of its other namespaces belong that are in `owned`.

    Raises LinuxError(EEXIST) if the id is taken, EINVAL for unknown kinds or too many containers.
    """
    if ident in kernel.containers:
        raise LinuxError(EEXIST)
    if len(kernel.containers) >= MAX_CONTAINERS:
        raise LinuxError(EINVAL)
    kinds = kinds if kinds is not None else []
    for kind in kinds:
        if kind not in SHAREABLE or share is None:
            raise LinuxError(EINVAL)
    container = Container(kernel, ident)
    is_first = not kernel.containers
    ns = container.ns
    if not is_first:
        for each in (ns.uts, ns.net, ns.cgroup):
            each.ino = kernel.numbers.namespace_ino()
        ns.ipc.ino = kernel.numbers.namespace_ino()
    if share is not None:
        if "net" in kinds:
            ns.net = share.ns.net
        if "ipc" in kinds:
            ns.ipc = share.ns.ipc
        if "uts" in kinds:
            ns.uts = share.ns.uts
        if "cgroup" in kinds:
            ns.cgroup = share.ns.cgroup
    if share is not None and "pid" in kinds:
        container.pid_ns = share.pid_ns
        container.init = share.init
    else:
        ino = FIRST_PID_INO if is_first else kernel.numbers.namespace_ino()
        container.pid_ns = PidNamespace(None, user_ns if "pid" in (owned or []) else None, ino)
    container.user_ns = user_ns
    _give(ns, user_ns, [kind for kind in owned or [] if kind not in kinds])
    ns.pid_for_children = container.pid_ns
    kernel.containers[ident] = container
    return container


def _give(ns: Namespaces, user_ns: UserNamespace | None, kinds: list[str]) -> None:
    """Namespaces of these kinds belong to a user namespace."""
    if "uts" in kinds:
        ns.uts.user_ns = user_ns
    if "ipc" in kinds:
        ns.ipc.set_owner(user_ns)
    if "net" in kinds:
        ns.net.user_ns = user_ns
    if "cgroup" in kinds:
        ns.cgroup.user_ns = user_ns


def new_leader(
    container: Container,
    thread: HostThread,
    mm: AddressSpace,
    creds: Credentials,
    where: Context,
    files: FdTable,
    rlimits: list[tuple[int, int]],
    *,
    has_guest_code: bool = True,
) -> Task:
    """A process without a parent, leader of a session, in all tables.  Raises LinuxError(EAGAIN, ENOMEM)."""
    kernel = container.kernel
    pid = kernel.alloc_pid(container)
    ns = container.pid_ns
    if ns is not None:
        kernel.enter_pid_namespace(ns, pid)
    group = ThreadGroup(container, pid, SignalHandlers())
    group.has_guest_code = has_guest_code
    group.pid_ns = ns
    group.own_tgid = pid_in(ns, pid)
    if ns is not None and group.own_tgid == 1:
        ns.init_pid = pid
    group.rlimits = rlimits
    fs = FsContext(where.fs.root, where.fs.root, 0o022)
    task = Task(kernel, pid, group, creds, fs, where.mount_ns, files, mm, thread)
    task.mem = UserMemory(thread, mm)
    task.start_ns = group.start_ns = monotonic_ns() - kernel.boot_mono_ns
    group.tasks.append(task)
    group.leader = task
    kernel.groups[pid] = group
    kernel.add_task(task)
    session = Session(pid)
    pgrp = ProcessGroup(pid, session)
    pgrp.members[group] = None
    session.groups.append(pgrp)
    group.pgrp = pgrp
    kernel.sessions[pid] = session
    kernel.process_groups[pid] = pgrp
    return task


def kill(container: Container) -> None:
    """End everything inside at once."""
    main = container.main
    if main is not None and not main.end.is_zombie:
        main.end.must_die = True
        do_group_exit(main, SIGKILL)
    if container.state != ENDED:
        end_container(container, SIGKILL)


def pause(container: Container) -> None:
    """No task of it runs guest code or a system call until `resume`; signals wait, but SIGKILL.

    Raises LinuxError(EINVAL) unless it is running.
    """
    if container.state != ENTERED:
        raise LinuxError(EINVAL)
    container.state = PAUSED
    container.is_paused = True
    kernel = container.kernel
    kernel.paused += 1
    for task in list(kernel.tasks.values()):
        if task.group.container is container and task.thread.is_running():
            kernel.interrupt(task.thread)


def resume(container: Container) -> list[tuple[Task, Event]]:
    """Resume a paused container. Returns the events that arrived meanwhile, which the loop must handle now. Raises
    LinuxError(EINVAL).
    """
    if container.state != PAUSED:
        raise LinuxError(EINVAL)
    container.state = ENTERED
    container.is_paused = False
    container.kernel.paused -= 1
    held, container.held = container.held, []
    return held
