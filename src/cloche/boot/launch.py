"""The monitor's side of a sandbox: starting it, sending requests to its sentry, and ending it.

The monitor forks nothing.  `spawn` starts the keeper, a process without the user's environment; the keeper (`keeper`)
starts gofer, broker and sentry and ends everything when one part dies, or this process.  If the keeper itself dies,
gofer and sentry die with it (they have a parent-death signal), and what is left of the guests becomes this
process's child, because it is a subreaper: `reap` ends it.
"""

import marshal
import os
import select
import signal
import socket
import sys
from array import array
from collections.abc import Callable
from typing import Final

from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.boot.orphans import end_orphans
from cloche.boot.platforms import platform_problem
from cloche.boot.spawn import KeeperProcess, spawn_keeper
from cloche.boot.spec import HOST, SETTINGS, EgressSpec, SandboxSpec, dump, is_usual, to_fields
from cloche.platform import hostsys
from cloche.wire import protocol, requests, timing
from cloche.wire.channel import Channel, Upstream
from cloche.wire.keeper import (
    DIED,
    END,
    FAILED,
    GONE,
    LOST,
    SERVE,
    SERVED,
    START,
    STARTED,
    UNUSUAL,
    RecordPlace,
)
from cloche.wire.protocol import Fields, Message, ProtocolError, take_int, take_list

EXIT_INTERNAL: Final = 125

SOFTWARE: Final = "cloche monitor"
# Requests of the monitor's own, beside requests.QUIET.
_CREATE: Final = 1
_START: Final = 2
_WAIT: Final = 3
_PING: Final = 4
_SHUTDOWN: Final = 6

_PATIENCE_S: Final = 15.0  # for the keeper to end all parts
_LINK_BYTES: Final = 65536


class LaunchError(Exception):
    """The sandbox could not start; `status` is what the command exits with."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status: int = status


class Sandbox(Upstream):
    """A running sandbox as its monitor sees it."""

    def __init__(self, keeper: KeeperProcess, control: socket.socket) -> None:
        super().__init__()
        self.keeper_pid: int = keeper.pid if keeper.is_child else 0
        self.link: socket.socket = keeper.link  # to the keeper
        self.is_kept: bool = True  # the keeper is alive
        self.sentry_pid: int = 0
        self.channel: Channel = Channel(control, SOFTWARE)
        self.net: Channel | None = None  # to egress
        self.status: int = -1  # wait status of the program
        self.failure: str = ""
        self.failure_status: int = 125
        self.death: str = ""  # which part died
        self.has_created: bool = False
        self.has_started: bool = False
        self.is_placing: bool = False  # the control groups are to be set up before the first guest
        self.is_ending: bool = False  # the sentry has been asked for the end
        self.layer_errno: int = -1  # 0: all that is to be kept is written; -1: the sentry has not said so
        self.oom_kills: int = 0  # processes that were ended for want of memory
        self.on_placing: Callable[[int], bool] | None = None  # limits the guests; given the sentry's pid
        self.on_pong: Callable[[], None] | None = None
        # Called with the number of a further gofer and its socket (the callee closes it), or None and the reason.
        self.on_served: Callable[[int, socket.socket | None, str], None] | None = None
        self.on_lost: Callable[[int], None] | None = None  # that gofer has ended

    # -- to the sentry -----------------------------------------------------------------------------------
    def ask(self, ident: int, method: str, fields: Fields, fds: list[int] | None = None) -> None:
        """Send a request without waiting, with copies of `fds`. The watchdog notices a sentry that does not read."""
        copies = [os.dup(fd) for fd in fds or []]
        try:
            self.channel.send(protocol.request(ident, method, fields, len(copies)), copies)
        except ProtocolError:
            pass

    def cancel(self, ident: int) -> None:
        """Cancel a request."""
        try:
            self.channel.send(protocol.cancel(ident))
        except ProtocolError:
            pass

    def begin(self, spec: SandboxSpec, stdio: list[int]) -> None:
        """Ask for the container, and for its program unless control groups are to be set up first."""
        roles: list[object] = []
        owners: list[object] = []
        fds: list[int] = []
        names = [requests.stream_role(number) for number in range(len(stdio))]
        for role, fd in zip((*names, "oom"), (*stdio, spec.oom_fd), strict=True):
            if fd >= 0:
                st = os.fstat(fd)
                roles.append(role)
                owners.append([st.st_uid, st.st_gid])
                fds.append(fd)
        fields: Fields = {"spec": to_fields(spec), "descriptors": roles, "owners": owners}
        self.ask(_CREATE, requests.CREATE, fields, fds)
        self.is_placing = spec.is_placed
        if not self.is_placing:
            self._start(has_cpu_group=False)
        self.ask(_WAIT, requests.WAIT, {})

    def _start(self, *, has_cpu_group: bool) -> None:
        self.ask(_START, requests.START, {"has_cpu_group": has_cpu_group})

    def send_signal(self, signo: int) -> None:
        """Pass a signal on to the program."""
        self.ask(requests.QUIET, requests.SIGNAL, {"signal": signo})

    def send_group_signal(self, signo: int) -> None:
        """Pass on a signal that a terminal sends to a whole process group."""
        self.ask(requests.QUIET, requests.SIGNAL, {"signal": signo, "scope": requests.FOREGROUND})

    def send_window(self, rows: int, columns: int) -> None:
        """Pass on the terminal's new size."""
        self.ask(requests.QUIET, requests.RESIZE, {"rows": rows, "columns": columns})

    def ping(self) -> None:
        """Ask whether the sentry's loop turns; `on_pong` hears the answer."""
        self.ask(_PING, requests.PING, {})

    # -- from the parts ------------------------------------------------------------------------------------
    def serve(self, seconds: float) -> bool:
        """Wait for the sandbox's next message and handle it; False at its end, or if none comes in time."""
        self.channel.flush_all(seconds)
        watched = [self.channel.fileno(), *([self.link.fileno()] if self.is_kept else [])]
        ready = wait_readable(watched, seconds)
        if self.is_kept and self.link.fileno() in ready:
            self.read_link()
        return bool(ready) and (self.channel.fileno() not in ready or self.read_control())

    def read_link(self) -> None:
        """Read one message of the keeper, or its death."""
        try:
            message, given = _receive(self.link)
        except OSError:
            message, given = b"", None
        if message[:1] == SERVED and self.on_served is not None:
            self.on_served(
                int.from_bytes(message[1:5], "little"), given, message[5:].decode(errors="replace")
            )
        elif message[:1] == LOST and self.on_lost is not None:
            self.on_lost(int.from_bytes(message[1:5], "little"))
        elif message[:1] == DIED:
            self.death = message[1:].decode(errors="replace")
        elif message == GONE:
            self.is_kept = False
        elif not message:
            self.is_kept = False
            if self.status < 0:
                self.death = self.death or "the keeper died"
            self._kill_sentry()

    def read_control(self) -> bool:
        """Read the sentry's messages; False when it is gone."""
        try:
            messages = self.channel.receive()
            for message in messages or []:
                self._hear(message)
                message.close_fds()
        except ProtocolError as error:
            self.death = f"the sentry sends what it should not: {error}"
            messages = None
        return messages is not None

    def _hear(self, message: Message) -> None:
        """Raises ProtocolError."""
        if message.ident >= requests.FIRST_ID:
            if self.on_message is not None:
                self.on_message(message)
        elif message.kind == protocol.ERROR:
            self._refused(message)
        elif message.kind == protocol.REPLY:
            self._answered(message)
        elif message.ident == _SHUTDOWN and self.on_pong is not None:
            self.on_pong()  # it is writing what is kept

    def _refused(self, message: Message) -> None:
        if message.ident in (0, _CREATE, _START) and not self.failure:
            self.failure = message.name
            self.failure_status = message.number
            self.shut_down()

    def _answered(self, message: Message) -> None:
        """Raises ProtocolError."""
        if message.ident == _CREATE:
            self.has_created = True
        if message.ident == _CREATE and self.on_placing is not None and self.is_placing:
            self._start(has_cpu_group=self.on_placing(self.sentry_pid))
        elif message.ident == _START:
            self.has_started = True
            timing.add(timing.decode(take_list(message.fields, "timing", timing.MAX_MARKS)))
        elif message.ident == _PING and self.on_pong is not None:
            self.on_pong()
        elif message.ident == _WAIT:
            self.status = take_int(message.fields, "status", 0, 0, 0xFFFF)
            timing.mark("command: program has ended")
            self.oom_kills = take_int(message.fields, "oom_kills", 0, 0, 1 << 62)
            self.shut_down()

        elif message.ident == _SHUTDOWN:
            self.layer_errno = take_int(message.fields, "layer_errno", 0, 0, 4095)

    # -- containers that join ------------------------------------------------------------------------------
    def serve_further(self, number: int, spec: SandboxSpec, groups: list[str]) -> None:
        """Have the keeper start a gofer for a further container, in its control groups and user namespace;
        `on_served` hears of it.

        Raises OSError.
        """
        _number_attach_points(spec)
        memory = os.memfd_create("cloche-spec", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                marshal.dump((number, dump(spec), groups), file)
            fds = [memory, spec.user_ns_fd] if spec.user_ns_fd >= 0 else [memory]
            self.link.sendmsg([SERVE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])
        finally:
            os.close(memory)

    # -- the end -------------------------------------------------------------------------------------------
    def shut_down(self) -> None:
        """Ask the sentry to write kept layers, and to end with everything that runs inside."""
        if not self.is_ending:
            self.is_ending = True
            self.ask(_SHUTDOWN, requests.SHUTDOWN, {})

    def kill(self) -> None:
        """End the sandbox at once. The keeper kills the sentry: this process is not its parent, so its pid might be
        another's by now.
        """
        try:
            self.link.send(END, socket.MSG_DONTWAIT)
        except OSError:
            pass

    def _kill_sentry(self) -> None:
        """The keeper has died: its child, the sentry, is this process's child if it still lives. Kill it."""
        pid = self.sentry_pid
        try:
            if pid > 0 and os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            pass

    def reap(self) -> None:
        """Wait until the keeper has ended everything; if it has died or hangs, end everything here."""
        self.channel.close()
        if self.net is not None:
            self.net.close()
        while self.is_kept and wait_readable([self.link.fileno()], _PATIENCE_S):
            self.read_link()
        self.link.close()
        try:
            if self.keeper_pid:
                os.kill(self.keeper_pid, signal.SIGKILL)  # a child of this process, and not reaped yet
                os.waitpid(self.keeper_pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass
        end_orphans()


def _receive(link: socket.socket) -> tuple[bytes, socket.socket | None]:
    """A message of the keeper, and the socket that came with it.  Raises OSError."""
    message, ancillary, _flags, _address = link.recvmsg(
        _LINK_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return message, socket.socket(fileno=fds[0]) if fds else None


def launch(
    spec: SandboxSpec,
    stdio: list[int],
    *,
    keeper: KeeperProcess | None = None,
    record: RecordPlace | None = None,
    groups: list[str] | None = None,
    may_wait: Callable[[int], bool] | None = None,
) -> Sandbox:
    """Start a sandbox whose program gets the descriptors `stdio` as 0, 1 and 2.  Raises LaunchError, OSError.

    `record` and `groups` (directories of control groups, parents first) are removed by the keeper if this process is
    killed. `may_wait` is called with the keeper's descriptor and waits until it is readable; it returns False if the
    user has given up.
    """
    why_not = platform_problem(spec.platform)
    if why_not:
        raise LaunchError(why_not)
    _number_attach_points(spec)
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed when the interpreter started
            stream.flush()
    if keeper is None:
        keeper = spawn_keeper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sandbox = Sandbox(keeper, ours)
    try:
        _send_request(spec, sandbox, keeper, theirs, record, groups or [])
        timing.mark("command: request is sent")
        theirs.close()
        egress = spec.egress
        on_authority = egress.on_authority if egress is not None else None
        if on_authority is None:
            sandbox.begin(spec, stdio)  # at once: the sentry takes it when it is there
        if may_wait is not None and not may_wait(keeper.link.fileno()):
            raise LaunchError("ended before the sandbox was ready")
        message = keeper.link.recv(65536)
        if message[:1] == FAILED:
            raise LaunchError(message[2:].decode(errors="replace"), message[1])
        if message[:1] != STARTED:
            raise LaunchError("the keeper did not start")
        sandbox.sentry_pid, ports, marks, authority = marshal.loads(message[1:])
        timing.add(marks)
        if on_authority is not None:
            on_authority(authority)
            sandbox.begin(spec, stdio)
    except (LaunchError, OSError):
        theirs.close()
        sandbox.kill()
        sandbox.reap()
        raise
    for published, port in zip(spec.published, ports, strict=True):
        published.host_port = port
    return sandbox


def _send_request(
    spec: SandboxSpec,
    sandbox: Sandbox,
    keeper: KeeperProcess,
    control: socket.socket,
    record: RecordPlace | None,
    groups: list[str],
) -> None:
    """Send the keeper all that it needs: descriptors, and a memfd that names them."""
    names: list[str] = ["request", "control"]
    fds: list[int] = [-1, control.fileno()]
    if spec.strace_fd >= 0:
        names.append("strace")
        fds.append(spec.strace_fd)
    if spec.network_fd >= 0:
        names.append("network")
        fds.append(spec.network_fd)
    if spec.user_ns_fd >= 0:
        names.append("user_ns")
        fds.append(spec.user_ns_fd)
    if keeper.errors_fd >= 0:
        names.append("stderr")
        fds.append(keeper.errors_fd)
    where: tuple[str, str, bool] | None = None
    if record is not None:
        names.append("record")
        fds.append(record.fd)
        where = (record.root, record.name, record.is_temporary)
    ends: list[socket.socket] = []
    policy_fd = -1
    egress = spec.egress
    if egress is not None:
        policy_fd = _egress_request(egress, is_confined=spec.is_confined)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sandbox.net = Channel(ours, SOFTWARE)
        ends.append(theirs)
        for name, fd in (
            ("egress", policy_fd),
            ("net_control", theirs.fileno()),
            ("net_log", egress.log_fd),
            ("net_second_log", egress.second_log_fd),
        ):
            if fd >= 0:
                names.append(name)
                fds.append(fd)
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    request = {"spec": dump(spec), "names": names, "settings": settings, "record": where, "groups": groups}
    memory = os.memfd_create("cloche-spec", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            marshal.dump(request, file)
        fds[0] = memory
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
        if not is_usual(spec, settings):
            keeper.link.send(UNUSUAL)
        keeper.link.sendmsg([START], [rights])
    except BrokenPipeError:
        raise LaunchError("the keeper did not start") from None
    finally:
        os.close(memory)
        for end in ends:
            end.close()
        if policy_fd >= 0:
            os.close(policy_fd)


def _egress_request(egress: EgressSpec, *, is_confined: bool) -> int:
    """Write egress's rules and secrets to a memfd of its own, which no other part reads."""
    request = {
        "policy": egress.policy,
        "sandbox": egress.sandbox,
        "report": egress.wants_report,
        "confined": is_confined,
    }
    memory = os.memfd_create("cloche-egress", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        marshal.dump(request, file)
    return memory


def _number_attach_points(spec: SandboxSpec) -> None:
    """Give each mount the number of its attach point, in the order of `keeper.attach_points`."""
    index = 1 if spec.root_source else 0
    for mount in spec.mounts:
        if mount.kind == HOST:
            mount.attach_index = index
            index += 1
    if spec.layer_source:
        spec.layer_index = index
        index += 1
    for mount in spec.mounts:
        if mount.account_source:
            mount.account_index = index
            index += 1


def wait_readable(fds: list[int], seconds: float) -> list[int]:
    """Those of `fds` that become readable within `seconds` (negative: wait for ever)."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _events in poller.poll(None if seconds < 0 else int(seconds * 1000))]
