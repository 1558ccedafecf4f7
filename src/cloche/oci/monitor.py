"""The monitor of a container that an engine started: the process that stays behind `cloche-oci create`.

It starts the sandbox, takes the requests of later commands on the record's socket (`start`, `exec`, `pause` … in the
protocol of `wire.requests`), and connects each anchor with its program: a signal that an anchor gets goes to the
program, the program's end becomes the anchor's, and the death of an anchor ends its program or the container. When
the container ends, every part of it is gone before its anchor ends: then the engine may take its files away.
"""

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from typing import TYPE_CHECKING, Any, Final

from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.boot import confine
from cloche.boot.control_server import Client, ControlServer
from cloche.boot.launch import LaunchError, Sandbox, launch
from cloche.boot.orphans import end_orphans
from cloche.boot.spawn import KeeperProcess
from cloche.boot.spec import EgressSpec, SandboxSpec, load
from cloche.oci import cgroups, oom, userns
from cloche.oci import quickjson as json
from cloche.oci.egress import complete, unpacked
from cloche.oci.members import STATUS_KILLED, Held, Members
from cloche.oci.messages import EXEC, JOIN, PIDS, hear
from cloche.oci.records import Record
from cloche.oci.uts import host_name
from cloche.platform import hostsys
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bool, take_int

if TYPE_CHECKING:
    from cloche.oci.trust import Trust

_OOM_EVERY_S: Final = 1.0  # at most so often is the engine told
_START_MS: Final = 60_000  # without news, until the container is made


class OciMonitor:
    """Serves a container, and those that join its sandbox."""

    def __init__(self, record: Record, anchor: Held, report: int) -> None:
        self.record: Record = record
        self.anchor: Held = anchor
        self.report: int = report  # the socket on which `create` waits for the result
        self.execs: dict[int, Held] = {}  # by descriptor
        self.oom_told_s: dict[str, float] = {}  # by container
        self.sandbox: Sandbox
        self.server: ControlServer
        self.members: Members
        self.trust: Trust | None = None  # only with inspected TLS

    # -- start -------------------------------------------------------------------------------------------
    def run(
        self, spec: SandboxSpec, streams: list[int], listener: socket.socket, keeper: KeeperProcess
    ) -> None:
        """Start the sandbox, and serve it to its end."""
        status = STATUS_KILLED
        if spec.egress is not None and spec.egress.needs_authority:
            self._believe(spec, spec.egress)
        spec.oom_fd = cgroups.open_kills(self.record.groups)
        try:
            self.sandbox = launch(spec, streams, keeper=keeper)
        except (LaunchError, OSError) as failure:
            self._tell(125, str(failure))
            self.anchor.end(status)
            return
        finally:
            if spec.oom_fd >= 0:
                os.close(spec.oom_fd)
        for fd in streams:
            if fd > 2 and fd != self.anchor.terminal:
                os.close(fd)
        self.server = ControlServer(listener, self.sandbox)
        self.server.on_request = self._on_request
        self.server.net = self.sandbox.net
        self.members = Members(self.sandbox, self.server, self._end_execs, self.trust)
        self.server.ask(requests.EVENTS, {}, None, self._on_news)
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
            self.members.end_all()
            self.server.ended(status, "")
            self.anchor.end(status)

    def _believe(self, spec: SandboxSpec, egress: EgressSpec) -> None:
        """Have the container's programs believe egress's authority, once it is there."""
        from cloche.oci.trust import Trust  # most containers do without

        trust = self.trust = Trust(egress.placeholders)

        def put(authority: bytes) -> None:
            trust.authority = authority
            trust.prepare(requests.MAIN, spec, self.anchor.pid)

        egress.on_authority = put

    def _tell(self, status: int, text: str) -> None:
        """Tell `create` the result; an empty text means success."""
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
            joined = {held.sock.fileno(): held for held in self.members.anchors()}
            for fd in joined:
                poller.register(fd, select.POLLIN)
            for fd, events in server.watched():
                poller.register(fd, events)
            ready = poller.poll(_START_MS if self.report >= 0 else self.members.wait_ms())
            if not ready and self.report >= 0:
                sandbox.death = "the sentry does not answer"
                return
            self.members.look()
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
                elif fd in joined:
                    self._on_anchor(joined[fd])
                else:
                    server.on_ready(fd, events)

    def _on_anchor(self, held: Held) -> None:
        """Handle a signal that an anchor passes on, or its death."""
        try:
            data = b"" if held.is_over else held.sock.recv(1, socket.MSG_DONTWAIT)
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
            else:
                self.members.drop(held.container)
            return
        signo = data[0]
        if signo == signal.SIGWINCH and held.terminal >= 0:
            self._resize(held)
        elif 1 <= signo <= 64:
            fields: Fields = {"signal": signo, "container": held.container}
            if held.ident:
                fields["exec"] = held.ident
            self.sandbox.ask(requests.QUIET, requests.SIGNAL, fields)

    def _resize(self, held: Held) -> None:
        try:
            raw = fcntl.ioctl(held.terminal, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return
        rows, columns = struct.unpack("HHHH", raw)[:2]
        fields: Fields = {"rows": rows, "columns": columns, "container": held.container}
        if held.ident:
            fields["exec"] = held.ident
        self.sandbox.ask(requests.QUIET, requests.RESIZE, fields)

    def _on_news(self, news: Message) -> None:
        """Handle an event of a container: a program was ended for want of memory."""
        if news.kind != protocol.EVENT or news.name != requests.OOM:
            return
        name = requests.take_container(news.fields)
        now = time.monotonic()
        if now < self.oom_told_s.get(name, 0.0) + _OOM_EVERY_S:
            return
        self.oom_told_s[name] = now
        if take_bool(news.fields, "by_host"):
            return  # the engine has seen it, too
        member = self.members.by_name.get(name)
        kills = oom.report((member.record if member is not None else self.record).groups)
        if kills:
            self.sandbox.ask(requests.QUIET, requests.TOLD, {"container": name, "kills": kills})

    # -- requests ----------------------------------------------------------------------------------------
    def _on_request(self, client: Client, message: Message) -> bool:
        """Handle a request, if it is one of this monitor's; returns whether it was. Raises ProtocolError."""
        name = message.name
        if name == requests.START:
            self._pass_on(client, message, "started", is_set=True)
        elif name == requests.PAUSE:
            self._pass_on(client, message, "paused", is_set=True)
        elif name == requests.RESUME:
            self._pass_on(client, message, "paused", is_set=False)
        elif name == requests.UPDATE:
            self._pass_on(client, message, "")
        elif name == EXEC:
            self._exec(client, message)
        elif name == JOIN:
            self.members.join(client, message)
        elif name == PIDS:
            container = requests.take_container(message.fields)
            first = self.members.by_name[container].held if container in self.members.by_name else self.anchor
            execs = [held.pid for held in self.execs.values() if held.container == container]
            pids = [first.pid, *execs]
            self.server.answer(client, protocol.reply(message.ident, {"pids": pids}))
        else:
            return False
        return True

    def _end_execs(self, container: str) -> None:
        """A container that had joined has ended: end the anchors of commands that were executed in it."""
        for held in list(self.execs.values()):
            if held.container == container:
                self.execs.pop(held.sock.fileno(), None)
                held.end(STATUS_KILLED)

    def _pass_on(self, client: Client, message: Message, mark: str, *, is_set: bool = False) -> None:
        """Pass a request to the sentry; if it succeeds, set or remove a mark of the record. Raises ProtocolError."""
        ident = message.ident
        container = requests.take_container(message.fields)
        record = self.record
        if container != requests.MAIN:
            member = self.members.by_name.get(container)
            if member is None:
                raise ProtocolError("container not running")
            record = member.record

        def heard(answer: Message) -> None:
            if answer.kind == protocol.REPLY:
                if mark:
                    record.mark(mark, is_set=is_set)
                self.server.answer(client, protocol.reply(ident, answer.fields))
            elif answer.kind == protocol.ERROR:
                self.server.answer(client, protocol.error(ident, answer.number, answer.name))
                if message.name == requests.START:  # there will be no program
                    if container == requests.MAIN:
                        self.sandbox.kill()
                    else:
                        self.members.drop(container)

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
        held = Held(socket.socket(fileno=os.dup(message.fds[-1])), pid, request.container)
        if request.has_terminal:
            held.terminal = os.dup(streams[0])
        owners: list[object] = []
        for fd in streams:
            st = os.fstat(fd)
            owners.append([st.st_uid, st.st_gid])
        fields["owners"] = owners
        if self.trust is not None:
            fields["env"] = self.trust.environment(request.container, request.env)
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


def serve(link: socket.socket, streams: list[int], keeper: KeeperProcess, *, is_placed: bool) -> None:
    """The life of a monitor, whose keeper gets ready meanwhile (`ahead`).

    From `link` it reads for which container, and what is to be started once the anchor is ready; to it it writes the
    result. `streams` are the program's. `is_placed`: this process and the keeper are in the control groups.
    """
    confine.name_process("cloche-monitor")
    given = [fd for fd in streams if fd >= 0]
    confine.close_all_but([0, 1, 2, link.fileno(), keeper.link.fileno(), *given])
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    told, ends = hear(link)
    order: Any = None
    if told is not None:
        root, ident, groups, environment = told
        os.environ.update(environment)
        record = Record(root, ident)
        record.groups = groups
        if not is_placed:
            # Not before: it takes as long as the keeper's start, because the kernel waits for all its processors.
            cgroups.enter(groups)
            cgroups.place_family(groups, keeper.pid)
        order, terminals = hear(link)
    if order is None:  # there will be no container
        os.kill(keeper.pid, signal.SIGKILL)
        end_orphans()
        return
    pid, data, egress = order
    spec = load(data)
    held = Held(socket.socket(fileno=ends[0]), pid)
    if terminals:
        for fd in streams[:3]:
            if fd >= 0:
                os.close(fd)
        streams[:3] = [terminals[0], os.dup(terminals[0]), os.dup(terminals[0])]
        held.terminal = terminals[0]
    spec.network_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    spec.has_network = True
    if spec.uid_map:
        userns.describe(spec, pid)
    if egress is not None:
        spec.egress = unpacked(egress)
        complete(spec.egress, record.path)
    spec.hostname = spec.hostname or host_name(pid)
    listener = socket.socket(fileno=ends[1])
    listener.setblocking(False)
    OciMonitor(record, held, link.detach()).run(spec, streams, listener, keeper)
