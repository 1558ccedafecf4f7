"""The monitor of a container that an engine started: the process that stays behind `cloche-oci create`.

It starts the sandbox, takes the requests of later commands on the record's socket (`start`, `exec`, `pause` … in the
protocol of `wire.requests`), and holds the anchors together with what they stand for: a signal that an anchor gets goes
to its program, the program's end becomes the anchor's, and the death of an anchor ends its program or the container.
When the container ends, every part of it is gone before its anchor ends: then the engine may take its files away.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
from typing import Any, Final

from cloche.abi.sched import CLONE_NEWUTS
from cloche.boot import confine
from cloche.boot.control_server import Client, ControlServer
from cloche.boot.launch import LaunchError, Sandbox, launch
from cloche.boot.spawn import KeeperProcess, spawn_keeper
from cloche.boot.spec import SandboxSpec
from cloche.oci import cgroups
from cloche.oci.records import Record
from cloche.platform import hostsys
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields, Message, ProtocolError, take_int

# Requests beyond `wire.requests`, which the monitor answers itself or in part.
EXEC: Final = "oci-exec"  # an ExecRequest; its streams and the anchor's socket; pid (of the anchor)
PIDS: Final = "oci-pids"  # -> pids: of every anchor
STATUS_KILLED: Final = 9  # wait status
_START_MS: Final = 60_000  # without news, until the container is made
_IGNORED: Final = (
    *(
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
_STATUS: Final = struct.Struct("<i")


class Held:
    """An anchor and what it stands for; `ident` is 0 for the container itself."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock: socket.socket = sock
        self.pid: int = pid
        self.ident: int = 0  # of the request at the sentry
        self.terminal: int = -1  # whose size is looked at
        self.is_over: bool = False

    def end(self, status: int) -> None:
        """The program's wait status becomes the anchor's."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.sock.send(_STATUS.pack(status), socket.MSG_DONTWAIT)
        except OSError:
            pass
        self.sock.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1


class OciMonitor:
    """Serves one container."""

    def __init__(self, record: Record, anchor: Held, report: int) -> None:
        self.record: Record = record
        self.anchor: Held = anchor
        self.report: int = report  # where `create` waits to hear how it went
        self.execs: dict[int, Held] = {}  # by descriptor
        self.sandbox: Sandbox
        self.server: ControlServer

    # -- start -------------------------------------------------------------------------------------------
    def run(
        self, spec: SandboxSpec, streams: list[int], listener: socket.socket, keeper: KeeperProcess
    ) -> None:
        """From the launch to the end."""
        status = STATUS_KILLED
        try:
            self.sandbox = launch(spec, streams, keeper=keeper)
        except (LaunchError, OSError) as failure:
            self._tell(125, str(failure))
            self.anchor.end(status)
            return
        for fd in streams:
            if fd > 2 and fd != self.anchor.terminal:
                os.close(fd)
        self.server = ControlServer(listener, self.sandbox)
        self.server.on_request = self._on_request
        try:
            self._loop()
            if self.sandbox.status >= 0:
                status = self.sandbox.status
        finally:
            sandbox = self.sandbox
            if sandbox.failure:
                self._tell(sandbox.failure_status, sandbox.failure)
            elif self.report >= 0:
                self._tell(125, sandbox.death or "the sandbox died")
            sandbox.kill()
            sandbox.reap()
            for held in list(self.execs.values()):
                held.end(STATUS_KILLED)
            self.server.ended(status, "")
            self.anchor.end(status)

    def _tell(self, status: int, text: str) -> None:
        """`create` hears how it went; nothing is wrong if there is no text."""
        if self.report >= 0:
            try:
                os.write(self.report, json.dumps([status, text]).encode())
            except OSError:
                pass
            os.close(self.report)
            self.report = -1

    # -- the loop ----------------------------------------------------------------------------------------
    def _loop(self) -> None:
        sandbox, server, anchor = self.sandbox, self.server, self.anchor
        while True:
            poller = select.poll()
            wants_write = sandbox.channel.wants_write()
            poller.register(sandbox.channel.fileno(), select.POLLIN | (select.POLLOUT if wants_write else 0))
            if sandbox.is_kept:
                poller.register(sandbox.link.fileno(), select.POLLIN)
            if not anchor.is_over:
                poller.register(anchor.sock.fileno(), select.POLLIN)
            for fd in self.execs:
                poller.register(fd, select.POLLIN)
            for fd, events in server.watched():
                poller.register(fd, events)
            ready = poller.poll(_START_MS if self.report >= 0 else None)
            if not ready:
                sandbox.death = "the sentry does not answer"
                return
            for fd, events in ready:
                if fd == sandbox.channel.fileno():
                    if events & select.POLLOUT:
                        sandbox.channel.flush()
                    if events & ~select.POLLOUT and not sandbox.read_control():
                        return
                    if sandbox.has_created and not sandbox.failure:
                        self._tell(0, "")
                elif fd == sandbox.link.fileno():
                    sandbox.read_link()
                elif fd == anchor.sock.fileno():
                    self._on_anchor(anchor)
                elif fd in self.execs:
                    self._on_anchor(self.execs[fd])
                else:
                    server.on_ready(fd, events)

    def _on_anchor(self, held: Held) -> None:
        """A signal for what it stands for, or its death."""
        try:
            data = held.sock.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            held.is_over = True
            self.execs.pop(held.sock.fileno(), None)
            held.sock.close()
            if held is self.anchor:
                self.sandbox.kill()
            elif held.ident:
                self.sandbox.cancel(held.ident)
            return
        signo = data[0]
        if signo == signal.SIGWINCH and held.terminal >= 0:
            self._resize(held)
        elif 1 <= signo <= 64:
            fields: Fields = {"signal": signo}
            if held.ident:
                fields["exec"] = held.ident
            self.sandbox.ask(requests.QUIET, requests.SIGNAL, fields)

    def _resize(self, held: Held) -> None:
        try:
            raw = fcntl.ioctl(held.terminal, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return
        rows, columns = struct.unpack("HHHH", raw)[:2]
        fields: Fields = {"rows": rows, "columns": columns}
        if held.ident:
            fields["exec"] = held.ident
        self.sandbox.ask(requests.QUIET, requests.RESIZE, fields)

    # -- requests ----------------------------------------------------------------------------------------
    def _on_request(self, client: Client, message: Message) -> bool:
        """Whether it is one of ours.  Raises ProtocolError."""
        name = message.name
        if name == requests.START:
            self._pass_on(client, message, self._started)
        elif name == requests.PAUSE:
            self._pass_on(client, message, self._paused)
        elif name == requests.RESUME:
            self._pass_on(client, message, self._resumed)
        elif name == requests.UPDATE:
            self._pass_on(client, message, self._nothing)
        elif name == EXEC:
            self._exec(client, message)
        elif name == PIDS:
            pids = [self.anchor.pid, *[held.pid for held in self.execs.values()]]
            self.server.answer(client, protocol.reply(message.ident, {"pids": pids}))
        else:
            return False
        return True

    def _nothing(self) -> None:
        pass

    def _started(self) -> None:
        self.record.mark("started", is_set=True)

    def _paused(self) -> None:
        self.record.mark("paused", is_set=True)

    def _resumed(self) -> None:
        self.record.mark("paused", is_set=False)

    def _pass_on(self, client: Client, message: Message, done: Any) -> None:
        ident = message.ident

        def heard(answer: Message) -> None:
            if answer.kind == protocol.REPLY:
                done()
                self.server.answer(client, protocol.reply(ident, answer.fields))
            elif answer.kind == protocol.ERROR:
                self.server.answer(client, protocol.error(ident, answer.number, answer.name))
                if message.name == requests.START:
                    self.sandbox.kill()  # there will be no program

        self.server.ask(message.name, message.fields, None, heard)

    def _exec(self, client: Client, message: Message) -> None:
        """A command with an anchor of its own.  Raises ProtocolError."""
        if not message.fds:
            raise ProtocolError("no anchor")
        fields = message.fields
        streams = message.fds[:-1]
        pid = take_int(fields, "pid", 0, 1, 1 << 22)
        del fields["pid"]
        request = requests.exec_request(fields, len(streams))
        held = Held(socket.socket(fileno=os.dup(message.fds[-1])), pid)
        if request.has_terminal:
            held.terminal = os.dup(streams[0])
        owners: list[object] = []
        for fd in streams:
            st = os.fstat(fd)
            owners.append([st.st_uid, st.st_gid])
        fields["owners"] = owners
        ident = message.ident

        def heard(answer: Message) -> None:
            if answer.kind == protocol.EVENT:
                self.server.answer(client, protocol.reply(ident, answer.fields))
                return
            self.execs.pop(held.sock.fileno(), None)
            if answer.kind == protocol.ERROR:
                self.server.answer(client, protocol.error(ident, answer.number, answer.name))
                held.end(STATUS_KILLED)
                return
            try:
                held.end(take_int(answer.fields, "status", 0, 0, 0xFFFF))
            except ProtocolError:
                held.end(STATUS_KILLED)

        held.ident = self.server.ask(requests.EXEC, fields, streams, heard)
        self.execs[held.sock.fileno()] = held


def _host_name(pid: int) -> bytes:
    """That of the namespace which a process is in.  Raises OSError."""
    own = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        hostsys.setns(other, CLONE_NEWUTS)
        return os.uname().nodename.encode()
    finally:
        hostsys.setns(own, CLONE_NEWUTS)
        os.close(own)
        os.close(other)


def fork_monitor(
    record: Record,
    anchor: Held,
    spec: SandboxSpec,
    streams: list[int],
    listener: socket.socket,
    pipes: tuple[int, int],
) -> int:
    """The monitor's process, which outlives the caller; its pid.

    Of `pipes` it reads the anchor's pid, when that stands, from the first, and writes to the second how it went.  The
    keeper gets ready meanwhile.
    """
    hear, report = pipes
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        for signo in _IGNORED:
            signal.signal(signo, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()
        confine.name_process("cloche-monitor")
        cgroups.enter(record.groups)
        log = os.open(
            os.path.join(record.path, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) if fd >= 0 else -1 for fd in streams]
        if anchor.terminal >= 0:
            anchor.terminal = high[0]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        os.chdir("/")
        keep = [anchor.sock.fileno(), listener.fileno(), hear, report, *[fd for fd in high if fd >= 0]]
        confine.close_all_but([0, 1, 2, *keep])
        keeper = spawn_keeper()
        answer = os.read(hear, 16)
        os.close(hear)
        if not answer:  # there will be no container
            os.kill(keeper.pid, signal.SIGKILL)
            os._exit(0)
        anchor.pid = int(answer)
        spec.network_fd = os.open(f"/proc/{anchor.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        spec.has_network = True
        spec.hostname = spec.hostname or _host_name(anchor.pid)
        OciMonitor(record, anchor, report).run(spec, high, listener, keeper)
    except BaseException as failure:
        sys.excepthook(type(failure), failure, failure.__traceback__)
    finally:
        os._exit(0)
