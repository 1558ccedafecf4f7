"""The monitor's side of the control protocol: clients of the socket of a sandbox with a name.

Only the user who runs the sandbox and root are served (SO_PEERCRED; the socket's mode says the same).  Requests are
checked here and passed on to the sentry, which never sees the socket.  Nothing here waits: what a client or the
sentry does not take at once is kept, up to a limit, and a client that sends what no correct client sends is cut off.
When a client is gone, so is what it executed, unless that was detached.
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

from cloche.wire.control import (
    EXEC_DETACHED,
    FROM_EXITED,
    FROM_FAILED,
    FROM_STARTED,
    FROM_TABLE,
    MAX_BODY_BYTES,
    MAX_FDS,
    OP_EXEC,
    OP_KILL,
    OP_PS,
    OP_SIGNAL,
    OP_STOP,
    OP_WAIT,
    OP_WINDOW,
    PACKET_HEAD,
    RE_DONE,
    RE_ENDED,
    RE_EXITED,
    RE_FAILED,
    RE_STARTED,
    RE_TABLE,
    SCOPE_FOREGROUND,
    SCOPE_SESSION,
    TO_EXEC,
    TO_KILL_ALL,
    TO_PS,
    TO_SIGNAL,
    TO_WINDOW,
    Assembly,
    check_version,
    decode_exec,
    fd_message,
    pieces,
    received_fds,
)
from cloche.wire.frame import ProtocolError

MAX_CLIENTS: Final = 256
FAREWELL_S: Final = 2.0  # for clients to take the last message
_MAX_OUT_BYTES: Final = 2 * MAX_BODY_BYTES  # that a client leaves unread
_MAX_WAITING: Final = 4096  # packets that the sentry leaves unread; more requests are refused
_HEAD: Final = Struct("<IiI")
_PEER: Final = Struct("3i")  # struct ucred
_READ_BYTES: Final = 65536
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * MAX_FDS)
# A socket of each client, and what it has sent but the sentry not taken.
_DESCRIPTORS: Final = (MAX_CLIENTS + 64) * (MAX_FDS + 1)
_ENDING: Final = (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_MAX_IDENT: Final = 0xFFFFFFF0


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket = sock
        self.buffer: bytearray = bytearray()
        self.fds: list[int] = []  # received and not yet used
        self.out: bytearray = bytearray()
        self.ident: int = -1  # its request at the sentry
        self.is_executing: bool = False
        self.is_detached: bool = False
        self.is_waiting: bool = False  # for the end of the sandbox
        self.is_closed: bool = False
        self.is_done: bool = False  # to be closed once `out` is sent


class ControlServer:
    """Serves the clients of one sandbox, from the monitor's loop."""

    def __init__(self, listener: socket.socket, control: socket.socket) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _DESCRIPTORS if hard < 0 else min(_DESCRIPTORS, hard)
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.listener: socket.socket = listener
        self.control: socket.socket = control  # to the sentry
        self.clients: dict[int, Client] = {}  # by descriptor
        self.by_ident: dict[int, Client] = {}
        self.next_ident: int = 1
        self.waiting: list[tuple[bytes, list[int]]] = []  # packets for the sentry, and their descriptors
        self.table: Assembly = Assembly()
        self.on_end_wanted: Callable[[], None] | None = None
        self.stop_at_s: float = -1.0  # CLOCK_MONOTONIC; -1: nobody asked for the end

    # -- the loop ----------------------------------------------------------------------------------------
    def watched(self) -> list[tuple[int, int]]:
        """Descriptors and poll events; the control socket's are added to what the monitor waits for anyway."""
        found: list[tuple[int, int]] = []
        if len(self.clients) < MAX_CLIENTS:
            found.append((self.listener.fileno(), select.POLLIN))
        if self.waiting:
            found.append((self.control.fileno(), select.POLLIN | select.POLLOUT))
        for fd, client in self.clients.items():
            events = 0 if client.is_done else select.POLLIN
            found.append((fd, events | select.POLLOUT if client.out else events))
        return found

    def on_ready(self, fd: int, events: int) -> None:
        """One of `watched` is ready."""
        if fd == self.listener.fileno():
            self._accept()
        elif fd == self.control.fileno():
            if events & select.POLLOUT:
                self._send_waiting()
        else:
            client = self.clients.get(fd)
            if client is None:
                return
            if events & select.POLLOUT:
                self._flush(client)
            if events & ~select.POLLOUT and not client.is_closed:
                self._read(client)

    def _accept(self) -> None:
        try:
            sock, _address = self.listener.accept()
        except OSError:
            return  # gone already; or no descriptors, which end with clients
        sock.setblocking(False)
        _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (0, os.geteuid()):
            sock.close()
            return
        self.clients[sock.fileno()] = Client(sock)

    def _read(self, client: Client) -> None:
        try:
            data, ancillary, _flags, _address = client.sock.recvmsg(
                _READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        client.fds.extend(received_fds(ancillary))
        if not data or len(client.fds) > MAX_FDS or client.is_done:
            self._close(client)
            return
        client.buffer += data
        try:
            while not client.is_closed and self._take_frame(client):
                pass
        except ProtocolError as error:
            self._fail(client, 125, str(error))

    def _take_frame(self, client: Client) -> bool:
        buffer = client.buffer
        if len(buffer) < _HEAD.size:
            return False
        length, code, flags = _HEAD.unpack_from(buffer)
        if length > MAX_BODY_BYTES or flags:
            raise ProtocolError("a frame that is too long")
        total = _HEAD.size + length
        if len(buffer) < total:
            return False
        body = bytes(buffer[_HEAD.size : total])
        del buffer[:total]
        self._request(client, code, body)
        return True

    # -- requests ----------------------------------------------------------------------------------------
    def _request(self, client: Client, code: int, body: bytes) -> None:
        if code == OP_SIGNAL:
            if (
                not client.is_executing
                or len(body) != 2
                or not 1 <= body[0] <= 64
                or body[1] > SCOPE_FOREGROUND
            ):
                raise ProtocolError("a signal to nothing")
            self._to_sentry(TO_SIGNAL, client.ident, body)
        elif code == OP_WINDOW:
            if not client.is_executing or len(body) != 4:
                raise ProtocolError("a window without a terminal")
            self._to_sentry(TO_WINDOW, client.ident, body)
        elif client.ident >= 0 or client.is_waiting:
            raise ProtocolError("a second request")
        elif len(self.waiting) >= _MAX_WAITING:
            self._fail(client, 125, "the sandbox does not answer")
        elif code == OP_EXEC:
            self._execute(client, body)
        else:
            self._simple_request(client, code, body)

    def _simple_request(self, client: Client, code: int, body: bytes) -> None:
        check_version(int.from_bytes(body[:2], "little"))
        if code == OP_PS and len(body) == 2:
            self._name(client)
            self._to_sentry(TO_PS, client.ident, b"")
        elif code == OP_KILL and len(body) == 4 and 1 <= body[2] <= 64:
            if body[3]:
                self._to_sentry(TO_KILL_ALL, 0, body[2:3])
            else:
                self._to_first(body[2])
            self._reply(client, RE_DONE, b"")
        elif code == OP_WAIT and len(body) == 2:
            client.is_waiting = True
        elif code == OP_STOP and len(body) == 6:
            client.is_waiting = True
            patience_s = int.from_bytes(body[2:], "little") / 1000
            self.stop_at_s = time.monotonic() + patience_s
            if patience_s > 0:
                self._to_first(signal.SIGTERM)
        else:
            raise ProtocolError("an unknown request")

    def _execute(self, client: Client, body: bytes) -> None:
        request = decode_exec(body)
        if request.fd_count() != len(client.fds):
            raise ProtocolError("descriptors are missing")
        self._name(client)
        client.is_executing = True
        client.is_detached = request.flags & EXEC_DETACHED != 0
        fds, client.fds = client.fds, []
        parts = pieces(body)
        for part in parts[:-1]:
            self._to_sentry(TO_EXEC, client.ident, part)
        self._to_sentry(TO_EXEC, client.ident, parts[-1], fds)

    def _name(self, client: Client) -> None:
        """Give the client's request a number of its own."""
        client.ident = self.next_ident
        self.next_ident = self.next_ident + 1 if self.next_ident < _MAX_IDENT else 1
        self.by_ident[client.ident] = client

    # -- the sentry ----------------------------------------------------------------------------------------
    def _to_sentry(self, letter: bytes, ident: int, body: bytes, fds: list[int] | None = None) -> None:
        self.waiting.append((PACKET_HEAD.pack(letter, ident) + body, fds or []))
        self._send_waiting()

    def _to_first(self, signo: int) -> None:
        """A signal to the sandbox's command."""
        self.waiting.append((b"S%02d" % signo, []))
        self._send_waiting()
        if signo in _ENDING and self.on_end_wanted is not None:
            self.on_end_wanted()

    def _send_waiting(self) -> None:
        while self.waiting:
            packet, fds = self.waiting[0]
            try:
                self.control.sendmsg([packet], fd_message(fds), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                pass  # it has ended: the monitor's loop sees that
            for fd in fds:
                os.close(fd)
            del self.waiting[0]

    def on_packet(self, packet: bytes) -> None:
        """An answer of the sentry."""
        if len(packet) < PACKET_HEAD.size:
            return
        letter, ident = PACKET_HEAD.unpack_from(packet)
        body = packet[PACKET_HEAD.size :]
        whole: bytes | None = None
        if letter == FROM_TABLE:
            whole = self.table.add(ident, body)
            if whole is None:
                return
        client = self.by_ident.get(ident)
        if client is None:
            return
        if letter == FROM_STARTED:
            self._reply(client, RE_STARTED, body, is_last=client.is_detached)
        elif letter == FROM_EXITED:
            self._reply(client, RE_EXITED, body)
        elif letter == FROM_FAILED:
            self._reply(client, RE_FAILED, body)
        elif whole is not None:
            self._reply(client, RE_TABLE, whole)

    # -- replies -------------------------------------------------------------------------------------------
    def _fail(self, client: Client, status: int, text: str) -> None:
        self._reply(client, RE_FAILED, bytes([status]) + text.encode())

    def _reply(self, client: Client, code: int, body: bytes, *, is_last: bool = True) -> None:
        """Send a reply; after the last one the connection ends.  RE_STARTED is the only one that others follow."""
        if code != RE_STARTED or is_last:
            client.is_done = True
            client.is_executing = False
        client.out += _HEAD.pack(len(body), code, 0) + body
        if len(client.out) > _MAX_OUT_BYTES:
            self._close(client)
        else:
            self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            while client.out:
                sent = client.sock.send(client.out)
                del client.out[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._close(client)
            return
        if client.is_done:
            self._close(client)

    def _close(self, client: Client) -> None:
        if client.is_closed:
            return
        client.is_closed = True
        del self.clients[client.sock.fileno()]
        if client.ident >= 0:
            self.by_ident.pop(client.ident, None)
            if client.is_executing and not client.is_detached:
                self._to_sentry(TO_SIGNAL, client.ident, bytes([signal.SIGKILL, SCOPE_SESSION]))
        for fd in client.fds:
            os.close(fd)
        client.sock.close()

    def ended(self, exit_status: int, text: str) -> None:
        """The sandbox has ended: tell everybody, those too who have only just connected, and close."""
        body = exit_status.to_bytes(4, "little", signed=True) + text.encode()
        while len(self.clients) < MAX_CLIENTS:
            known = len(self.clients)
            self._accept()
            if len(self.clients) == known:
                break
        for client in list(self.clients.values()):
            if not client.is_done:
                client.is_executing = False
                self._reply(client, RE_ENDED, body)
        deadline_s = time.monotonic() + FAREWELL_S
        while self.clients and time.monotonic() < deadline_s:
            poller = select.poll()
            for fd in self.clients:
                poller.register(fd, select.POLLOUT)
            for fd, _events in poller.poll(100):
                late = self.clients.get(fd)
                if late is not None:
                    self._flush(late)
        for client in list(self.clients.values()):
            self._close(client)
        for _packet, fds in self.waiting:
            for fd in fds:
                os.close(fd)
        self.waiting = []
        self.listener.close()
