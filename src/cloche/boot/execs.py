"""`cloche exec` and `cloche ps` in the sentry: processes that are added to a running sandbox from outside.

Each has descriptors of its client (or, with a terminal, a pseudo-terminal bridged to them). The client gets a message
when the command has started, failed to start, or ended. Processes that the command leaves behind go on, but lose the
client's descriptors, because the client waits until no process has them open. An entry exists as long as its process,
or until the last output of its terminal is written.
"""

import os
from typing import Final

from cloche.abi.errno import LinuxError
from cloche.abi.poll import POLLERR, POLLHUP
from cloche.abi.signal import SIGKILL
from cloche.abi.termios import ONLCR
from cloche.boot.attributes import StartAttributes
from cloche.boot.passed import describe_passed
from cloche.boot.spec import SandboxSpec
from cloche.boot.start import (
    Failure,
    ProcessSettings,
    enter_and_exec,
    explain,
    new_process,
    rehearse,
    settings_of,
    user_credentials,
)
from cloche.fs.host_tty import TerminalBridge
from cloche.fs.hostfd import HostFd
from cloche.fs.proc_text import cmdline_text
from cloche.fs.tty_files import open_pair
from cloche.kernel.accounting import group_cpu_ns, task_state
from cloche.kernel.chores import Chore
from cloche.kernel.exit import do_group_exit
from cloche.kernel.fd_table import FdTable
from cloche.kernel.namespaces import Namespaces
from cloche.kernel.patience import Patience
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.signals import kill_at_once, send_group_signal
from cloche.kernel.task import ENDED, Container, Kernel, KernelContext, ThreadGroup
from cloche.kernel.timers import EXEC_TIMEOUT, Timer, TimerOwner, monotonic_ns
from cloche.vfs.credentials import Credentials
from cloche.vfs.mount import top_of
from cloche.vfs.objects import Context, FsContext
from cloche.wire import requests
from cloche.wire.protocol import Fields
from cloche.wire.requests import ExecRequest, Process

MAX_EXECS: Final = 1024  # that run at once
EXIT_INTERNAL: Final = 125
_COMMAND_BYTES: Final = 1024  # of a command line in `cloche ps`
_STDIO_LIMIT: Final = 1024


class Answers:
    """Where the answers to requests go."""

    def reply(self, ident: int, fields: Fields) -> None:
        """The answer."""
        raise NotImplementedError

    def fail(self, ident: int, status: int, text: str) -> None:
        """The answer to a request that has failed."""
        raise NotImplementedError

    def event(self, ident: int, name: str, fields: Fields) -> None:
        """An event of a request."""
        raise NotImplementedError


class Place:
    """Where commands from outside begin: root, mounts and namespaces."""

    def __init__(self, ctx: KernelContext, ns: Namespaces) -> None:
        self.ctx: KernelContext = ctx
        self.ns: Namespaces = ns


def place_of(container: Container) -> Place | None:
    """The root and namespaces of the container's own first process, as setns(2) would enter them; None if that has
    ended.

    That is its init where the kernel made one, else its first program: the init of a pid namespace that it shares may
    be another container's, with another root. Before the start it is what the first program will get.
    """
    root = container.root
    if root is None or container.state == ENDED:
        return None
    init = container.init
    first = init if init is not None and not init.has_guest_code else container.main
    if first is None:
        return Place(KernelContext(container, root.fs.clone(), root.mount_ns), container.ns)
    for task in first.tasks:
        if not task.is_exited:
            # A root that the program has changed by chroot(2) is its own: only its mount namespace is entered.
            top = top_of(task.mount_ns.root)
            return Place(KernelContext(container, FsContext(top, top), task.mount_ns), task.ns)
    return None


class Exec(TimerOwner):
    """One process that was started from outside."""

    def __init__(self, table: "ExecTable", ident: int) -> None:
        self.table: ExecTable = table
        self.ident: int = ident
        self.timer: Timer | None = None  # the end of its time
        self.has_timed_out: bool = False
        self.group: ThreadGroup | None = None
        self.bridge: TerminalBridge | None = None
        self.hosts: list[HostFd] = []
        self.is_detached: bool = False
        self.is_abandoned: bool = False  # its client is gone
        self.has_ended: bool = False

    def revoke(self) -> None:
        """Close the client's descriptors, even if processes of the guest still have them open."""
        for host in self.hosts:
            host.close()
            host.queue.wake(POLLERR | POLLHUP)
        self.hosts = []

    def timer_due(self, kind: int, argument: int) -> None:
        if not self.has_ended:
            self.has_timed_out = True
            self.table.signal(self.ident, SIGKILL, requests.SESSION)


class Launch(Chore):
    """A command that is about to start: all answers of the gofer are fetched before anything is made."""

    def __init__(self, table: "ExecTable", ident: int, request: ExecRequest, fds: list[int]) -> None:
        self.table: ExecTable = table
        self.ident: int = ident
        self.request: ExecRequest = request
        self.fds: list[int] = fds
        waits = table.kernel.host_waits
        self.patience: Patience = Patience(waits, table.kernel.chores, self)

    def step(self) -> bool:
        table = self.table
        if table.launches.get(self.ident) is self:
            self.patience.attempt(self._go)
            if not self.patience.is_waiting():
                table.launches.pop(self.ident, None)
        return False

    def _go(self) -> bool:
        """Try to start; called again until the gofer has answered everything."""
        self.table.rehearse(self.request)
        self.table.kernel.host_waits.rehearsed()
        self.table.begin(self.ident, self.request, self.fds)
        return True

    def drop(self) -> None:
        """Its client is gone."""
        self.patience.drop()
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class ExecTable:
    """All commands from outside of one container."""

    def __init__(self, container: Container, spec: SandboxSpec, answers: Answers) -> None:
        kernel = container.kernel
        self.container: Container = container
        self.kernel: Kernel = kernel
        self.spec: SandboxSpec = spec
        self.answers: Answers = answers
        self.by_ident: dict[int, Exec] = {}
        self.launches: dict[int, Launch] = {}  # by request
        self.by_pid: dict[int, Exec] = {}
        kernel.hooks.at_group_exit[f"commands of {container.ident}"] = self.group_exits

    # -- starting --------------------------------------------------------------------------------------
    def start(self, ident: int, request: ExecRequest, fds: list[int]) -> None:
        """Start a command as a chore; `fds` are taken over in any case."""
        if ident in self.launches or len(self.launches) >= MAX_EXECS:
            self.begin(ident, request, fds)
            return
        launch = Launch(self, ident, request, fds)
        self.launches[ident] = launch
        launch.step()

    def rehearse(self, request: ExecRequest) -> None:
        """Make the look-ups that the start will make, so that their answers are there. Raises HostWait."""
        where = place_of(self.container)
        if where is not None:
            env = self._environment(request)
            try:
                creds = self._credentials(request)
            except LinuxError:
                return  # the start will report the error
            rehearse(self.container, where.ctx, creds, request.cwd or self.spec.cwd, request.argv, env)

    def _credentials(self, request: ExecRequest) -> Credentials:
        spec = self.spec
        if request.uid >= 0:
            return user_credentials(self.container, spec, request.uid, request.gid, request.groups)
        return user_credentials(self.container, spec, spec.uid, spec.gid, spec.groups)

    def _environment(self, request: ExecRequest) -> dict[bytes, bytes]:
        env: dict[bytes, bytes] = {} if request.is_whole else dict(self.spec.env)
        for item in request.env:
            key, _equals, value = item.partition(b"=")
            env[key] = value
        return env

    def begin(self, ident: int, request: ExecRequest, fds: list[int]) -> None:
        """Start a command; `fds` are taken over in any case."""
        entry = Exec(self, ident)
        entry.is_detached = request.is_detached
        entry.hosts = [HostFd(self.kernel, fd, is_owned=True) for fd in fds]
        for host in entry.hosts:
            host.hold()
        failure = self._try_start(entry, request, fds)
        if failure is not None:
            if entry.bridge is not None:
                entry.bridge.close()
            entry.revoke()
            if failure.argument:
                self.answers.event(ident, requests.REFUSED, {"argument": failure.argument})
            self.answers.fail(ident, failure.status, failure.text)
            return
        group = entry.group
        assert group is not None
        self.by_ident[ident] = entry
        self.by_pid[group.tgid] = entry
        if request.timeout_ms:
            end_ns = monotonic_ns() + request.timeout_ms * 1_000_000
            entry.timer = self.kernel.timers.add(end_ns, EXEC_TIMEOUT, entry)
        started: Fields = {"pid": group.own_tgid}
        if entry.is_detached:
            self.answers.reply(ident, started)
        else:
            self.answers.event(ident, requests.STARTED, started)

    def _try_start(self, entry: Exec, request: ExecRequest, fds: list[int]) -> Failure | None:
        if len(self.by_ident) >= MAX_EXECS or entry.ident in self.by_ident:
            return Failure(f"more than {MAX_EXECS} commands at once", EXIT_INTERNAL)
        place = place_of(self.container)
        if place is None:
            return Failure("the sandbox is ending", EXIT_INTERNAL)
        where = place.ctx
        spec = self.spec
        try:
            creds = self._credentials(request)
        except LinuxError as error:
            return Failure(f"its user: {explain(error.errno)}", EXIT_INTERNAL)
        settings = settings_of(spec)
        if request.is_whole:
            settings = ProcessSettings(
                request.umask,
                request.rlimits,
                request.cap_sets,
                request.oom_score_adj,
                StartAttributes(
                    request.scheduler,
                    request.io_priority,
                    spec.personality,
                    spec.memory_policy,
                    request.processors,
                ),
                no_new_privileges=request.no_new_privileges,
            )
        settings.apply_to_credentials(creds)
        try:
            files = self._open_files(entry, request, creds, where, fds)
        except LinuxError as error:
            return Failure(f"no room for another process: {explain(error.errno)}", EXIT_INTERNAL)
        pids = self.container.pid_ns
        if pids is not None and self.container.init is None:
            pids.reserve_first()
        try:
            task = new_process(self.container, spec, creds, where, files)
        except OSError as failure:
            files.close_all(where)
            return Failure(f"no further process: {failure.strerror or failure}", EXIT_INTERNAL)
        except LinuxError as error:
            files.close_all(where)
            return Failure(f"no room for another process: {explain(error.errno)}", EXIT_INTERNAL)
        entry.group = task.group
        task.ns = place.ns.clone()
        task.ns.pid_for_children = self.container.pid_ns
        if entry.bridge is not None:
            entry.bridge.tty.adopt(task.group)
        env = self._environment(request)
        try:
            problem = settings.apply(task, spec)
        except LinuxError as error:
            do_group_exit(task.group, 0)
            return Failure(f"its limits: {explain(error.errno)}", EXIT_INTERNAL)
        if problem is None:
            problem = enter_and_exec(task, request.cwd or spec.cwd, request.argv, env)
        if problem is not None:
            do_group_exit(task.group, 0)
        return problem

    def _open_files(
        self, entry: Exec, request: ExecRequest, creds: Credentials, where: Context, fds: list[int]
    ) -> FdTable:
        """The descriptors 0 to 2.  Raises LinuxError."""
        files = FdTable()
        if request.has_terminal:
            ctx = KernelContext(self.container, where.fs, where.mount_ns)
            ctx.creds = creds
            tty, slave = open_pair(ctx)
            for _fd in range(3):
                files.install(slave, _STDIO_LIMIT)
            if request.keeps_newlines:
                tty.termios.oflag &= ~ONLCR
            if request.rows and request.columns:
                tty.resize((request.rows, request.columns, 0, 0))
            entry.bridge = TerminalBridge(self.kernel, tty, fds[0], fds[1])
            entry.bridge.start()
        for number, host in zip(request.streams, entry.hosts, strict=True):
            if number > 2 or not request.has_terminal:
                files.install(describe_passed(self.container, host), _STDIO_LIMIT, lowest=number)
        return files

    # -- ending ----------------------------------------------------------------------------------------
    def group_exits(self, group: ThreadGroup) -> None:
        """A process has ended: finish its entry if it is the process of one."""
        entry = self.by_pid.get(group.tgid)
        if entry is None or entry.group is not group:
            return
        del self.by_pid[group.tgid]
        entry.has_ended = True
        if entry.timer is not None:
            entry.timer.cancel()
        bridge = entry.bridge
        if bridge is None:
            self._finish(entry)
            return

        def drained() -> None:
            self._finish(entry)

        bridge.drain(drained)

    def _finish(self, entry: Exec) -> None:
        """All output was written: tell the client."""
        group = entry.group
        del self.by_ident[entry.ident]
        entry.revoke()
        if self.container.state == ENDED and not entry.is_detached and not entry.is_abandoned:
            self.answers.fail(entry.ident, requests.STATUS_ENDED, "the sandbox has ended")
        elif group is not None and not entry.is_detached and not entry.is_abandoned:
            end: Fields = {"status": group.end.status}
            if entry.has_timed_out:
                end["timed_out"] = True
            self.answers.reply(entry.ident, end)

    # -- while it runs ---------------------------------------------------------------------------------
    def has(self, ident: int) -> bool:
        """Whether the command of this request runs."""
        return ident in self.by_ident

    def signal(self, ident: int, signo: int, scope: str) -> None:
        """A signal from the client."""
        entry = self.by_ident.get(ident)
        if entry is None or entry.group is None:
            return
        group = entry.group
        if scope == requests.PROCESS:
            send_group_signal(self.kernel, group, signo)
            return
        if scope == requests.SESSION:
            self._signal_session(group, signo)
            return
        pgrp = group.pgrp
        if entry.bridge is not None and entry.bridge.tty.foreground is not None:
            pgrp = entry.bridge.tty.foreground
        if pgrp is not None:
            for member in list(pgrp.members):
                send_group_signal(self.kernel, member, signo)

    def abandon(self, ident: int) -> None:
        """The client is gone: end the command and every process that is still in its session."""
        launch = self.launches.pop(ident, None)
        if launch is not None:
            launch.drop()
        entry = self.by_ident.get(ident)
        if entry is not None and entry.group is not None and not entry.is_detached:
            entry.is_abandoned = True
            if entry.bridge is not None:
                entry.bridge.hang_up()
            self._signal_session(entry.group, SIGKILL)

    def _signal_session(self, group: ThreadGroup, signo: int) -> None:
        for member in list(self.kernel.groups.values()):
            session = member.session()
            if session is None or session.sid != group.tgid:
                continue
            if signo == SIGKILL:
                kill_at_once(member)
            else:
                send_group_signal(self.kernel, member, signo)

    def resize(self, ident: int, rows: int, columns: int) -> None:
        """The client's window has this size now."""
        entry = self.by_ident.get(ident)
        if entry is not None and entry.bridge is not None:
            entry.bridge.resize(rows, columns)


# -- looking ---------------------------------------------------------------------------------------------------
def process_rows(container: Container) -> list[Process]:
    """Every process with guest code, by pid; what it says about itself is not to be trusted."""
    rows: list[Process] = []
    ns = container.pid_ns
    for group in list(container.kernel.groups.values()):
        leader = group.leader
        if leader is None or not group.has_guest_code or group.container is not container:
            continue
        user_ns, system_ns = group_cpu_ns(group)
        command = cmdline_text(leader)[:_COMMAND_BYTES] or b"[" + leader.comm + b"]"
        state = task_state(leader)
        parent = pid_in(ns, group.parent.tgid) if group.parent is not None else 0
        pid = pid_in(ns, group.tgid)
        rows.append(Process(pid, parent, leader.creds.uid, state, user_ns + system_ns, command))
    rows.sort(key=by_pid)
    return rows


def by_pid(row: Process) -> int:
    """For sorting."""
    return row.pid


def signal_all(container: Container, signo: int) -> None:
    """A signal from outside to every process of a container."""
    for group in list(container.kernel.groups.values()):
        if group.has_guest_code and group.is_alive() and group.container is container:
            send_group_signal(container.kernel, group, signo)
