"""The monitor's side of a sandbox: what it is told, what it may ask for, and how it ends.

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

from cloche.boot.orphans import end_orphans
from cloche.boot.spawn import KeeperProcess, spawn_keeper
from cloche.boot.spec import HOST, SETTINGS, SandboxSpec, dump
from cloche.platform import hostsys
from cloche.wire.keeper import (
    DIED,
    END,
    FAILED,
    GONE,
    START,
    STARTED,
    RecordPlace,
)

PR_SET_CHILD_SUBREAPER: Final = 36
EXIT_INTERNAL: Final = 125

# Messages on the control socket, one byte and an argument.
CONTROL_SIGNAL: Final = b"S"  # + signal number, two digits
CONTROL_GROUP_SIGNAL: Final = b"G"  # the same, to the program's process group
CONTROL_WINDOW: Final = b"W"  # + rows cols, two little-endian u16
CONTROL_PING: Final = b"?"  # does the sentry's loop turn?
CONTROL_PONG: Final = b"!"  # from the sentry: it does
CONTROL_DONE: Final = b"E"  # from the sentry: + wait status, + processes out of memory, little-endian u32
CONTROL_FAILED: Final = b"F"  # from the sentry: + exit status (one byte) + text
CONTROL_STARTED: Final = b"R"  # from the sentry: the program runs
CONTROL_PLACE: Final = b"C"  # from the sentry, which waits: there are processes to put into control groups
CONTROL_PLACED: Final = b"1"  # the answer
CONTROL_UNPLACED: Final = b"0"

_PATIENCE_S: Final = 15.0  # for the keeper to end what is left


class LaunchError(Exception):
    """The sandbox could not start; `status` is what the command exits with."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status: int = status


class Sandbox:
    """A running sandbox as its monitor sees it."""

    def __init__(self, keeper: KeeperProcess, control: socket.socket) -> None:
        self.keeper_pid: int = keeper.pid
        self.link: socket.socket = keeper.link  # to the keeper
        self.is_kept: bool = True  # the keeper lives
        self.sentry_pid: int = 0
        self.control: socket.socket = control
        self.status: int = -1  # wait status of the program
        self.failure: str = ""
        self.failure_status: int = 125
        self.death: str = ""  # which part died
        self.has_started: bool = False
        self.oom_kills: int = 0  # processes that were ended for want of memory
        self.on_placing: Callable[[int], bool] | None = None  # limits the guests; given the sentry's pid
        self.on_packet: Callable[[bytes], None] | None = None  # of answers to the clients' requests
        self.on_pong: Callable[[], None] | None = None

    # -- to the sentry -----------------------------------------------------------------------------------
    def _tell(self, packet: bytes) -> None:
        """Send without waiting: a sentry that takes nothing any more is the watchdog's business."""
        try:
            self.control.send(packet, socket.MSG_DONTWAIT)
        except OSError:
            pass

    def send_signal(self, signo: int) -> None:
        """Pass a signal on to the program."""
        self._tell(CONTROL_SIGNAL + b"%02d" % signo)

    def send_group_signal(self, signo: int) -> None:
        """Pass on a signal that a terminal sends to a whole process group."""
        self._tell(CONTROL_GROUP_SIGNAL + b"%02d" % signo)

    def send_window(self, rows: int, columns: int) -> None:
        """The terminal has another size."""
        self._tell(CONTROL_WINDOW + rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    def ping(self) -> None:
        """Ask whether the sentry's loop turns; `on_pong` hears the answer."""
        self._tell(CONTROL_PING)

    # -- from the parts ------------------------------------------------------------------------------------
    def serve(self, seconds: float) -> bool:
        """Wait for the sandbox's next message and handle it; False at its end, or if none comes in time."""
        watched = [self.control.fileno(), *([self.link.fileno()] if self.is_kept else [])]
        ready = wait_readable(watched, seconds)
        if self.is_kept and self.link.fileno() in ready:
            self.read_link()
        return bool(ready) and (self.control.fileno() not in ready or self.read_control())

    def read_link(self) -> None:
        """Take one message of the keeper, or see its death."""
        try:
            message = self.link.recv(65536)
        except OSError:
            message = b""
        if message[:1] == DIED:
            self.death = message[1:].decode(errors="replace")
        elif message == GONE:
            self.is_kept = False
        elif not message:
            self.is_kept = False
            if self.status < 0:
                self.death = self.death or "the keeper died"
            self._kill_sentry()

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
        elif kind == CONTROL_PONG:
            if self.on_pong is not None:
                self.on_pong()
        elif kind == CONTROL_PLACE:
            place = self.on_placing
            self._tell(CONTROL_PLACED if place is not None and place(self.sentry_pid) else CONTROL_UNPLACED)
        elif self.on_packet is not None:
            self.on_packet(message)
        return True

    # -- the end -------------------------------------------------------------------------------------------
    def kill(self) -> None:
        """End the sandbox at once: the keeper kills the sentry, whose pid may be used again when we do not reap it."""
        try:
            self.link.send(END, socket.MSG_DONTWAIT)
        except OSError:
            pass

    def _kill_sentry(self) -> None:
        """The keeper has died, and before its child the sentry could: now it is ours."""
        pid = self.sentry_pid
        try:
            if pid > 0 and os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            pass

    def reap(self) -> None:
        """Wait until nothing is left, which the keeper sees to; do it ourselves if that has died or does not move."""
        self.control.close()
        while self.is_kept and wait_readable([self.link.fileno()], _PATIENCE_S):
            self.read_link()
        self.link.close()
        try:
            os.kill(self.keeper_pid, signal.SIGKILL)  # our child, and not reaped yet
            os.waitpid(self.keeper_pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass
        end_orphans()


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
    killed.  `may_wait` is given the keeper's descriptor and waits until it is readable; False: the user wants no more.
    """
    _number_attach_points(spec)
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed when the interpreter started
            stream.flush()
    if keeper is None:
        keeper = spawn_keeper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sandbox = Sandbox(keeper, ours)
    try:
        _send_request(spec, stdio, keeper.link, theirs, record, groups or [])
        theirs.close()
        if may_wait is not None and not may_wait(keeper.link.fileno()):
            raise LaunchError("ended before the sandbox was ready")
        message = keeper.link.recv(65536)
        if message[:1] == FAILED:
            raise LaunchError(message[2:].decode(errors="replace"), message[1])
        if message[:1] != STARTED:
            raise LaunchError("the keeper did not start")
        sandbox.sentry_pid, ports = marshal.loads(message[1:])
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
    stdio: list[int],
    link: socket.socket,
    control: socket.socket,
    record: RecordPlace | None,
    groups: list[str],
) -> None:
    """Everything that the keeper needs: descriptors, and a memfd that says what they are."""
    names: list[str] = ["request", "control"]
    fds: list[int] = [-1, control.fileno()]
    for number, fd in enumerate(stdio):
        if fd >= 0:
            names.append(f"stdio{number}")
            fds.append(fd)
    for name, fd in (("strace", spec.strace_fd), ("oom", spec.oom_fd)):
        if fd >= 0:
            names.append(name)
            fds.append(fd)
    where: tuple[str, str, bool] | None = None
    if record is not None:
        names.append("record")
        fds.append(record.fd)
        where = (record.root, record.name, record.is_temporary)
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    request = {"spec": dump(spec), "names": names, "settings": settings, "record": where, "groups": groups}
    memory = os.memfd_create("cloche-spec", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            marshal.dump(request, file)
        fds[0] = memory
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
        link.sendmsg([START], [rights])
    except BrokenPipeError:
        raise LaunchError("the keeper did not start") from None
    finally:
        os.close(memory)


def _number_attach_points(spec: SandboxSpec) -> None:
    """Tell each mount its attach point: the order of `keeper.attach_points`."""
    index = 1 if spec.root_source else 0
    for mount in spec.mounts:
        if mount.kind == HOST:
            mount.attach_index = index
            index += 1


def wait_readable(fds: list[int], seconds: float) -> list[int]:
    """Those of `fds` that become readable within `seconds` (negative: wait for ever)."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _events in poller.poll(None if seconds < 0 else int(seconds * 1000))]
