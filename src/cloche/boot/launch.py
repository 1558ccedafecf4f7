"""Starting a sandbox: gofer and sentry are forked from the calling process, which stays as their monitor.

Order: an intermediate process that imports the kernel, enters the namespaces and forks the sentry, so that the
sentry is pid 1 of its pid namespace where there is one (I5: its death then ends every guest); meanwhile the gofer
(it opens the attach points) and, if ports are published, the broker, whose sockets are sent after it. The
intermediate exits; this process is made a subreaper before, so the sentry becomes its child, and without a pid
namespace so do guests whose sentry died: `end_orphans` kills them.

Neither this process nor the gofer imports the kernel, and the intermediate does not import the gofer: all stay small,
and start at the same time.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from cloche.boot import confine
from cloche.boot.broker import BrokerError, BrokerProcess, spawn_broker
from cloche.boot.spec import HOST, RW, SandboxSpec
from cloche.platform import hostsys

TYPE_CHECKING = False
if TYPE_CHECKING:  # imported where they are used, after the intermediate process was forked
    from cloche.gofer.launch import GoferProcess
    from cloche.gofer.nodes import AttachPoint

PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_PDEATHSIG: Final = 1
EXIT_INTERNAL: Final = 125

# Messages on the control socket, one byte and an argument.
CONTROL_SIGNAL: Final = b"S"  # + signal number, two digits
CONTROL_GROUP_SIGNAL: Final = b"G"  # the same, to the program's process group
CONTROL_WINDOW: Final = b"W"  # + rows cols, two little-endian u16
CONTROL_DONE: Final = b"E"  # from the sentry: + wait status, + processes out of memory, little-endian u32
CONTROL_FAILED: Final = b"F"  # from the sentry: + exit status (one byte) + text
CONTROL_STARTED: Final = b"R"  # from the sentry: the program runs
CONTROL_PLACE: Final = b"C"  # from the sentry, which waits: there are processes to put into control groups
CONTROL_PLACED: Final = b"1"  # the answer
CONTROL_UNPLACED: Final = b"0"


class LaunchError(Exception):
    """The sandbox could not start; `status` is what the command exits with."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status: int = status


class Sandbox:
    """A running sandbox as its monitor sees it."""

    def __init__(
        self,
        middle_pid: int,
        sentry_pid: int,
        gofer: "GoferProcess | None",
        broker: BrokerProcess | None,
        control: socket.socket,
    ) -> None:
        self.middle_pid: int = middle_pid  # the intermediate process until it has ended, then 0
        self.sentry_pid: int = sentry_pid
        self.gofer: GoferProcess | None = gofer
        self.broker: BrokerProcess | None = broker
        self.control: socket.socket = control
        self.analyst: socket.socket | None = None  # its socket, until it is started
        self.status: int = -1  # wait status of the program
        self.failure: str = ""
        self.failure_status: int = 125
        self.has_started: bool = False
        self.oom_kills: int = 0  # processes that were ended for want of memory
        self.on_placing: Callable[[int], bool] | None = None  # limits the guests; given the sentry's pid
        self.on_packet: Callable[[bytes], None] | None = None  # of answers to the clients' requests

    def start_analyst(self) -> None:
        """The gofer has asked the analyst for the first time: start it.  It ends with the gofer."""
        if self.analyst is not None:
            from cloche.analyst.serve import start_analyst

            start_analyst(self.analyst)
            self.analyst.close()
            self.analyst = None

    def send_signal(self, signo: int) -> None:
        """Pass a signal on to the program."""
        try:
            self.control.send(CONTROL_SIGNAL + b"%02d" % signo)
        except OSError:
            pass  # it is over

    def send_group_signal(self, signo: int) -> None:
        """Pass on a signal that a terminal sends to a whole process group."""
        try:
            self.control.send(CONTROL_GROUP_SIGNAL + b"%02d" % signo)
        except OSError:
            pass  # it is over

    def send_window(self, rows: int, columns: int) -> None:
        """The terminal has another size."""
        try:
            self.control.send(CONTROL_WINDOW + rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))
        except OSError:
            pass

    def serve(self, seconds: float) -> bool:
        """Wait for the sandbox's next request or message and handle it; False at its end, or if none comes in time."""
        asking = self.analyst.fileno() if self.analyst is not None else -1
        ready = wait_readable([fd for fd in (self.control.fileno(), asking) if fd >= 0], seconds)
        if asking in ready:
            self.start_analyst()
        return bool(ready) and (self.control.fileno() not in ready or self.read_control())

    def read_control(self) -> bool:
        """Take one message of the sentry; False when it is gone."""
        try:
            message = self.control.recv(65536)
        except OSError:
            return False
        if not message:
            return False
        kind = message[:1]
        if kind == CONTROL_DONE:
            self.status = int.from_bytes(message[1:5], "little")
            self.oom_kills = int.from_bytes(message[5:9], "little")
        elif kind == CONTROL_FAILED:
            self.failure_status = message[1]
            self.failure = message[2:].decode(errors="replace")
        elif kind == CONTROL_STARTED:
            self.has_started = True
        elif kind == CONTROL_PLACE:
            place = self.on_placing
            self.control.send(
                CONTROL_PLACED if place is not None and place(self.sentry_pid) else CONTROL_UNPLACED
            )
        elif self.on_packet is not None:
            self.on_packet(message)
        return True

    def kill(self) -> None:
        """End the sandbox at once."""
        try:
            if self.sentry_pid > 0:
                os.kill(self.sentry_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """Wait for sentry and gofer and end what is left of the guests."""
        self.control.close()
        if self.analyst is not None:
            self.analyst.close()
        if self.middle_pid > 0:
            _wait_for(self.middle_pid, 5.0)
        if self.sentry_pid > 0:
            _wait_for(self.sentry_pid, 5.0)
        if self.gofer is not None:
            _wait_for(self.gofer.pid, 5.0)
        if self.broker is not None:
            _wait_for(self.broker.pid, 5.0)
        end_orphans()


def _wait_for(pid: int, seconds: float) -> None:
    """Reap a child; kill it when it takes longer."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        fd = os.pidfd_open(pid)
    except (ChildProcessError, ProcessLookupError):
        return
    except OSError:  # before Linux 5.3, or an old container profile
        os.waitpid(pid, 0)
        return
    try:
        if not wait_readable([fd], seconds):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(fd)


def end_orphans() -> None:
    """Kill and reap children that are not ours: guests of a sentry that died without a pid namespace."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                pids = [int(word) for word in file.read().split()]
        except OSError:
            pids = []
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            return


def launch(spec: SandboxSpec, stdio: list[int]) -> Sandbox:
    """Start a sandbox whose program gets the descriptors `stdio` as 0, 1 and 2.  Raises LaunchError."""
    _number_attach_points(spec)
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hear, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed when the interpreter started
            stream.flush()
    middle = os.fork()
    if middle == 0:
        status = EXIT_INTERNAL
        try:
            ours.close()
            hear.close()
            status = _middle(spec, theirs, stdio, tell)
        except BaseException as failure:
            sys.excepthook(type(failure), failure, failure.__traceback__)
        finally:
            os._exit(status)
    theirs.close()
    tell.close()
    sandbox = Sandbox(middle, 0, None, None, ours)
    try:
        _start_servers(spec, sandbox)
        sandbox.sentry_pid = _serve_middle(sandbox, hear)
        hear.close()
        if sandbox.gofer is not None:
            _await_gofer(sandbox)
    except (LaunchError, OSError):
        hear.close()
        if sandbox.gofer is not None:
            sandbox.gofer.sock.close()
        if sandbox.broker is not None:
            sandbox.broker.sock.close()
        sandbox.kill()
        sandbox.reap()
        raise
    os.waitpid(middle, 0)
    sandbox.middle_pid = 0
    return sandbox


def _start_servers(spec: SandboxSpec, sandbox: Sandbox) -> None:
    """The gofer and the broker, if there is work for them.  Raises LaunchError."""
    from cloche.gofer.launch import start_gofer

    points = _attach_points(spec)
    if points:
        asking: socket.socket | None = None
        if spec.is_patching:
            sandbox.analyst, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sandbox.gofer = start_gofer(points, is_confined=spec.is_confined, analyst=asking)
        if asking is not None:
            asking.close()
    if spec.published:
        try:
            sandbox.broker = spawn_broker(spec.published, is_confined=spec.is_confined)
        except BrokerError as error:
            if sandbox.gofer is not None:
                sandbox.gofer.sock.close()
                try:
                    _await_gofer(sandbox)  # it would complain of a listener that is gone
                except LaunchError:
                    pass  # one complaint is enough
            raise LaunchError(str(error)) from None


def _await_gofer(sandbox: Sandbox) -> None:
    """Until the gofer serves.  Raises LaunchError, and then there is none."""
    from cloche.gofer.launch import GoferError

    assert sandbox.gofer is not None
    try:
        sandbox.gofer.wait_ready()
    except GoferError as refusal:
        sandbox.gofer = None
        raise LaunchError(str(refusal)) from None


def _serve_middle(sandbox: Sandbox, sock: socket.socket) -> int:
    """Give the intermediate process what it cannot get itself; the sentry's pid.  Raises LaunchError if it died."""
    servers = b""
    fds: list[int] = []
    if sandbox.gofer is not None:
        servers += b"G"
        fds.append(sandbox.gofer.sock.fileno())
    if sandbox.broker is not None:
        servers += b"B"
        fds.append(sandbox.broker.sock.fileno())
    try:
        socket.send_fds(sock, [b"F" + servers], fds)
        if sandbox.gofer is not None:
            sandbox.gofer.sock.close()
        if sandbox.broker is not None:
            sandbox.broker.sock.close()
        while True:
            message = sock.recv(16)
            if message != b"M":
                break
            try:
                confine.map_ids(sandbox.middle_pid, confine.NOBODY, confine.NOBODY)
                sock.send(b"1")
            except OSError:
                sock.send(b"0")
    except (BrokenPipeError, ConnectionResetError):
        message = b""
    if not message:
        raise LaunchError("the sentry did not start")
    return int(message)


def _middle(spec: SandboxSpec, control: socket.socket, stdio: list[int], tell: socket.socket) -> int:
    """Between monitor and sentry: import the kernel, enter the namespaces, fork, tell the sentry's pid."""
    from cloche.boot.sentry import sentry_main
    from cloche.fs.hostfd import remember_owners

    remember_owners(stdio)
    report = confine.Report()
    keep = [0, 1, 2, *[fd for fd in stdio if fd >= 0], control.fileno(), tell.fileno()]
    if spec.strace_fd >= 0:
        keep.append(spec.strace_fd)
    confine.close_all_but(keep)  # whatever our caller had open is none of the sandbox's business
    confine.detach_from_terminal()
    servers, fds, _flags, _address = socket.recv_fds(tell, 16, 2)
    if not servers:
        return 0  # our parent has given up, and said why
    if spec.is_confined:
        confine.set_limits(report)
        confine.enter_user_namespace(report, tell)
        confine.enter_namespaces(report, confine.SENTRY_NAMESPACES)
    sentry = os.fork()
    if sentry:
        tell.send(b"%d" % sentry)
        return 0
    tell.close()
    files = socket.socket(fileno=fds.pop(0)) if b"G" in servers else None
    ports = socket.socket(fileno=fds.pop(0)) if b"B" in servers else None
    return sentry_main(spec, files, ports, control, stdio, report)


def _number_attach_points(spec: SandboxSpec) -> None:
    """Tell each mount its attach point: the order of `_attach_points`."""
    index = 1 if spec.root_source else 0
    for mount in spec.mounts:
        if mount.kind == HOST:
            mount.attach_index = index
            index += 1


def _attach_points(spec: SandboxSpec) -> "list[AttachPoint]":
    """The gofer's attach points; the root's first."""
    from cloche.gofer.nodes import AttachPoint

    points: list[AttachPoint] = []
    if spec.root_source:
        points.append(AttachPoint(spec.root_source, is_writable=False))
    for mount in spec.mounts:
        if mount.kind == HOST:
            point = AttachPoint(mount.source, is_writable=mount.mode == RW, only=mount.only)
            point.is_public_only = mount.is_public_only
            point.keeps_suid = mount.keeps_suid
            if mount.skeleton:
                point.show_directories(mount.skeleton, mount.people)
            points.append(point)
    return points


def wait_readable(fds: list[int], seconds: float) -> list[int]:
    """Those of `fds` that become readable within `seconds` (negative: wait for ever)."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _events in poller.poll(None if seconds < 0 else int(seconds * 1000))]
