"""The monitor's side of the control protocol: clients of the socket of a sandbox with a name.

Only the user who runs the sandbox and root are served (SO_PEERCRED; the socket's mode says the same).  Most requests
are handed on to the sentry, which never sees the socket, and its answers back: both hops speak `wire.protocol`, and ids
are the only thing that changes. Nothing here waits: messages that a client or the sentry does not read at once are
queued, up to a limit. A client that sends what no correct client sends is disconnected. When a client disconnects,
the commands that it has executed end, unless they were detached.
"""

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from struct import Struct
from typing import Final

from cloche.wire import files, protocol, requests
from cloche.wire.channel import Channel, Upstream
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bool, take_int

MAX_CLIENTS: Final = 256
MAX_REQUESTS: Final = 1024  # unanswered requests of one client
FAREWELL_S: Final = 2.0  # for clients to take the last message
EXIT_INTERNAL: Final = 125
SOFTWARE: Final = "cloche monitor"
_PEER: Final = Struct("3i")  # struct ucred
# The sockets of clients, and descriptors that they have sent and the sentry has not received yet.
_DESCRIPTORS: Final = (MAX_CLIENTS + 64) * 4
_MAX_STOP_MS: Final = 1_000_000_000
_MAX_LIMIT_MS: Final = 2_000_000_000
# Requests of clients that go on to the sentry; the monitor alone creates, starts and ends.
_HANDED_ON: Final = (
    *(requests.EXEC, requests.SIGNAL, requests.RESIZE, requests.PS, requests.STATS, requests.LIST),
    *(requests.PAUSE, requests.RESUME, requests.EVENTS, requests.PING, requests.DIAL),
    *files.METHODS,
)
_WITH_DESCRIPTOR: Final = (*files.WITH_STREAM, requests.DIAL)


class Client:
    """One connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel = channel
        self.upstream: dict[int, int] = {}  # its requests: id here -> at the sentry
        self.waiting: list[int] = []  # requests that wait for the end of the sandbox
        self.is_closed: bool = False
        self.is_done: bool = False  # to be closed once everything is sent


class Handed:
    """A request that the sentry has."""

    def __init__(self, client: Client, ident: int) -> None:
        self.client: Client = client
        self.ident: int = ident  # as the client calls it


class ControlServer:
    """Serves the clients of one sandbox, from the monitor's loop."""

    def __init__(self, listener: socket.socket | None, sandbox: Upstream) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _DESCRIPTORS if hard < 0 else min(_DESCRIPTORS, hard)
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.listener: socket.socket | None = listener  # None: no further clients
        self.only: Client | None = None  # the sandbox ends with this client
        self.sandbox: Upstream = sandbox
        self.clients: dict[int, Client] = {}  # by descriptor
        self.handed: dict[int, Handed] = {}  # by id at the sentry
        self.next_ident: int = requests.FIRST_ID
        # which part of the host is where inside; the monitor answers this itself, because a sentry could lie
        self.places: list[object] = []
        self.stop_signal: int = signal.SIGTERM
        self.stop_at_s: float = -1.0  # CLOCK_MONOTONIC; -1: no client has asked for the end
        # a client wants the layer removed with the sandbox
        self.on_forgotten: Callable[[], None] | None = None
        self.on_end_wanted: Callable[[], None] | None = None
        self.deadline_s: float = -1.0  # CLOCK_MONOTONIC: when the sandbox is to end; -1: never
        # For a monitor with requests of its own (the OCI runtime's): whether it handles a request, and the callbacks
        # for answers to its own.
        self.on_request: Callable[[Client, Message], bool] | None = None
        self.own: dict[int, Callable[[Message], None]] = {}  # by id at the sentry
        self.net: Channel | None = None  # to egress, which answers requests about the network
        self.at_egress: dict[int, Handed] = {}  # by id there
        sandbox.on_message = self.on_message

    # -- the loop ----------------------------------------------------------------------------------------
    def watched(self) -> list[tuple[int, int]]:
        """Descriptors and poll events."""
        found: list[tuple[int, int]] = []
        if self.listener is not None and len(self.clients) < MAX_CLIENTS:
            found.append((self.listener.fileno(), select.POLLIN))
        if self.net is not None:
            wants_write = self.net.wants_write()
            found.append((self.net.fileno(), select.POLLIN | (select.POLLOUT if wants_write else 0)))
        for fd, client in self.clients.items():
            events = 0 if client.is_done else select.POLLIN
            found.append((fd, events | select.POLLOUT if client.channel.wants_write() else events))
        return found

    def on_ready(self, fd: int, events: int) -> None:
        """A descriptor of `watched` is ready."""
        if self.listener is not None and fd == self.listener.fileno():
            self._accept(self.listener)
            return
        if self.net is not None and fd == self.net.fileno():
            self._read_net(self.net, events)
            return
        client = self.clients.get(fd)
        if client is None:
            return
        if events & select.POLLOUT:
            client.channel.flush()
            self._settle(client)
        if events & ~select.POLLOUT and not client.is_closed:
            self._read(client)

    def adopt(self, sock: socket.socket) -> None:
        """Serve this client; when it is gone, the sandbox is to end."""
        sock.setblocking(False)
        self.only = Client(Channel(sock, SOFTWARE))
        self.clients[sock.fileno()] = self.only

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _address = listener.accept()
        except OSError:
            return  # gone already; or this process is out of descriptors, and gets some back when clients end
        sock.setblocking(False)
        _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (0, os.geteuid()):
            sock.close()
            return
        self.clients[sock.fileno()] = Client(Channel(sock, SOFTWARE))

    def _read(self, client: Client) -> None:
        try:
            messages = client.channel.receive()
        except ProtocolError as error:
            self._send(client, protocol.error(0, EXIT_INTERNAL, str(error)))
            client.is_done = True
            self._settle(client)
            return
        if messages is None or client.is_done:
            self._close(client)
            return
        for message in messages:
            if not client.is_closed:
                self._take(client, message)
            message.close_fds()

    def _take(self, client: Client, message: Message) -> None:
        try:
            if message.kind == protocol.CANCEL:
                self._cancel(client, message.ident)
            elif message.kind == protocol.REQUEST:
                self._request(client, message)
        except ProtocolError as error:
            self._send(client, protocol.error(message.ident, EXIT_INTERNAL, str(error)))

    # -- requests ----------------------------------------------------------------------------------------
    def _request(self, client: Client, message: Message) -> None:
        """Raises ProtocolError."""
        name, ident = message.name, message.ident
        if ident in client.upstream or ident in client.waiting:
            raise ProtocolError("a request with the id of another")
        if len(client.upstream) + len(client.waiting) >= MAX_REQUESTS:
            raise ProtocolError("too many requests at once")
        if self.on_request is not None and self.on_request(client, message):
            return
        if name == requests.WAIT:
            client.waiting.append(ident)
        elif name == requests.STOP:
            self._stop(client, message)
        elif name == requests.TIME:
            self._time(client, message)
        elif name == requests.NET:
            self._ask_net(client, message)
        elif name == files.MOUNTS:
            self._send(client, protocol.reply(ident, {"mounts": self.places}))
        elif name in _HANDED_ON:
            self._hand_on(client, message)
        else:
            raise ProtocolError(f"an unknown request: {name}")

    def _stop(self, client: Client, message: Message) -> None:
        patience_s = take_int(message.fields, "patience_ms", 0, 0, _MAX_STOP_MS) / 1000
        if take_bool(message.fields, "is_forgotten", False) and self.on_forgotten is not None:
            self.on_forgotten()
        client.waiting.append(message.ident)
        self.stop_at_s = time.monotonic() + patience_s
        if patience_s > 0:
            self.sandbox.ask(requests.QUIET, requests.SIGNAL, {"signal": self.stop_signal})
            self._end_is_wanted()

    def _time(self, client: Client, message: Message) -> None:
        """Change the sandbox's time limit if asked to, and answer with the time that is left. Raises ProtocolError."""
        now = time.monotonic()
        if "limit_ms" in message.fields:
            limit_s = take_int(message.fields, "limit_ms", 0, 0, _MAX_LIMIT_MS) / 1000
            self.deadline_s = now + limit_s if limit_s > 0 else -1.0
        left_ms = max(int((self.deadline_s - now) * 1000), 1) if self.deadline_s >= 0 else 0
        self._send(client, protocol.reply(message.ident, {"left_ms": left_ms}))

    # -- egress ------------------------------------------------------------------------------------------
    def _ask_net(self, client: Client, message: Message) -> None:
        """Raises ProtocolError."""
        if self.net is None:
            raise ProtocolError("this sandbox has no way out; start it with --allow or --net")
        if message.fds:
            raise ProtocolError("descriptors that nobody asked for")
        ident = self._new_ident()
        self.net.send(protocol.request(ident, requests.NET, message.fields))
        client.upstream[message.ident] = ident
        self.at_egress[ident] = Handed(client, message.ident)

    def _read_net(self, net: Channel, events: int) -> None:
        """Read egress's messages. When egress has ended, the sandbox ends."""
        if events & select.POLLOUT:
            net.flush()
        if not events & ~select.POLLOUT:
            return
        try:
            messages = net.receive()
        except ProtocolError:
            messages = None
        if messages is None:
            self.net = None
            return
        for message in messages:
            message.close_fds()
            handed = self.at_egress.get(message.ident)
            if handed is not None:
                if message.kind != protocol.EVENT:
                    del self.at_egress[message.ident]
                self._pass_on(handed, message)

    def _end_is_wanted(self) -> None:
        if self.on_end_wanted is not None:
            self.on_end_wanted()

    def _hand_on(self, client: Client, message: Message) -> None:
        """Raises ProtocolError."""
        fields = message.fields
        if message.name == requests.EXEC:
            requests.exec_request(fields, len(message.fds))
            owners: list[object] = []
            for fd in message.fds:
                st = os.fstat(fd)
                owners.append([st.st_uid, st.st_gid])
            fields["owners"] = owners
        elif len(message.fds) != (1 if message.name in _WITH_DESCRIPTOR else 0):
            raise ProtocolError("descriptors that nobody asked for, or none where one is needed")
        if "exec" in fields:
            known = client.upstream.get(take_int(fields, "exec", 0, 0, protocol.MAX_ID))
            if known is None:
                raise ProtocolError("no command of this id runs")
            fields["exec"] = known
        elif message.name == requests.SIGNAL:
            requests.take_signal(fields)
            if fields.get("signal") in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP):
                self._end_is_wanted()
        ident = self._new_ident()
        client.upstream[message.ident] = ident
        self.handed[ident] = Handed(client, message.ident)
        self.sandbox.ask(ident, message.name, fields, message.fds)

    def _new_ident(self) -> int:
        ident = self.next_ident
        self.next_ident = ident + 1 if ident < protocol.MAX_ID else requests.FIRST_ID
        return ident

    def ask(
        self, method: str, fields: Fields, fds: list[int] | None, heard: Callable[[Message], None]
    ) -> int:
        """A request of the monitor's own; `heard` gets its events and its answer.  The id at the sentry."""
        ident = self._new_ident()
        self.own[ident] = heard
        self.sandbox.ask(ident, method, fields, fds)
        return ident

    def cancel_own(self, ident: int) -> None:
        """Cancel a request of `ask`; a command that it has executed ends."""
        if self.own.pop(ident, None) is not None:
            self.sandbox.cancel(ident)

    def answer(self, client: Client, frame: bytes) -> None:
        """Send an answer of `on_request` to a client, if it is still connected."""
        self._send(client, frame)

    def _cancel(self, client: Client, ident: int) -> None:
        if ident in client.waiting:
            client.waiting.remove(ident)
        known = client.upstream.pop(ident, None)
        if known is not None and self.at_egress.pop(known, None) is not None:
            try:
                if self.net is not None:
                    self.net.send(protocol.cancel(known))
            except ProtocolError:
                pass  # it takes nothing
        elif known is not None:
            self.handed.pop(known, None)
            self.sandbox.cancel(known)

    # -- the sentry ----------------------------------------------------------------------------------------
    def on_message(self, message: Message) -> None:
        """An answer or an event of the sentry."""
        heard = self.own.get(message.ident)
        if heard is not None:
            if message.kind != protocol.EVENT:
                del self.own[message.ident]
            heard(message)
            return
        handed = self.handed.get(message.ident)
        if handed is None:
            return
        if message.kind != protocol.EVENT:
            del self.handed[message.ident]
        self._pass_on(handed, message)

    def _pass_on(self, handed: Handed, message: Message) -> None:
        """To the client that has asked."""
        client, ident = handed.client, handed.ident
        if message.kind == protocol.EVENT:
            self._send(client, protocol.event(ident, message.name, message.fields))
            return
        client.upstream.pop(ident, None)
        if message.kind == protocol.REPLY:
            self._send(client, protocol.reply(ident, message.fields))
        elif message.kind == protocol.ERROR:
            self._send(client, protocol.error(ident, message.number, message.name))

    # -- replies -------------------------------------------------------------------------------------------
    def _send(self, client: Client, frame: bytes) -> None:
        if client.is_closed:
            return
        try:
            client.channel.send(frame)
        except ProtocolError:
            self._close(client)  # it takes nothing

    def _settle(self, client: Client) -> None:
        """Close a client once everything was sent to it."""
        if client.is_done and not client.channel.wants_write():
            self._close(client)

    def _close(self, client: Client) -> None:
        if client.is_closed:
            return
        client.is_closed = True
        del self.clients[client.channel.fileno()]
        for ident in list(client.upstream):
            self._cancel(client, ident)
        client.channel.close()
        if client is self.only:
            self.stop_at_s = time.monotonic()

    def ended(self, exit_status: int, text: str) -> None:
        """The sandbox has ended: tell all clients, those too that have only just connected, and close."""
        while self.listener is not None and len(self.clients) < MAX_CLIENTS:
            known = len(self.clients)
            self._accept(self.listener)
            if len(self.clients) == known:
                break
        for client in list(self.clients.values()):
            self._read(client)  # requests that it has sent meanwhile
        fields: Fields = {"status": exit_status, "text": text}
        for client in list(self.clients.values()):
            for ident in client.waiting:
                self._send(client, protocol.reply(ident, fields))
            for ident in client.upstream:
                self._send(
                    client, protocol.error(ident, requests.STATUS_ENDED, text or "the sandbox has ended")
                )
            client.upstream.clear()
            client.is_done = True
            self._settle(client)
        deadline_s = time.monotonic() + FAREWELL_S
        while self.clients and time.monotonic() < deadline_s:
            poller = select.poll()
            for fd in self.clients:
                poller.register(fd, select.POLLOUT)
            for fd, _events in poller.poll(100):
                late = self.clients.get(fd)
                if late is not None:
                    late.channel.flush()
                    self._settle(late)
        for client in list(self.clients.values()):
            self._close(client)
        if self.listener is not None:
            self.listener.close()
