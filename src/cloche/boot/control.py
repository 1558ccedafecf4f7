"""The sentry's end of the control socket: what the monitor passes on, and what it is told.

The monitor holds every socket that others can reach; here arrive packets (`wire.control`, and the older one-letter
ones below) with descriptors that it has been given.  When it dies everything ends (I5).  Nothing here waits for the
monitor: what it does not take at once is kept, and sent when it does.
"""

import os
import socket
from typing import Final

from cloche.boot.execs import ExecTable, kill_all, process_rows
from cloche.boot.spec import SandboxSpec
from cloche.boot.start import Streams
from cloche.kernel.signals import send_group_signal
from cloche.kernel.task import Container, Kernel
from cloche.wire.control import (
    FROM_FAILED,
    FROM_TABLE,
    MAX_FDS,
    PACKET_HEAD,
    PIECE_BYTES,
    TO_EXEC,
    TO_KILL_ALL,
    TO_PS,
    TO_SIGNAL,
    TO_WINDOW,
    Assembly,
    decode_exec,
    encode_table,
    pieces,
    received_fds,
)
from cloche.wire.frame import ProtocolError

EXIT_INTERNAL: Final = 125
EPOLLIN: Final = 1
EPOLLOUT: Final = 4
_MAX_WAITING: Final = 8192  # packets; the monitor has at most one request of `MAX_EXECS` clients under way
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * MAX_FDS)


class Control:
    """Takes the monitor's packets and answers."""

    def __init__(
        self, container: Container, spec: SandboxSpec, streams: Streams, sock: socket.socket
    ) -> None:
        kernel = container.kernel
        self.container: Container = container
        self.streams: Streams = streams
        self.kernel: Kernel = kernel
        self.sock: socket.socket = sock
        self.waiting: list[bytes] = []
        self.assembly: Assembly = Assembly()
        self.execs: ExecTable = ExecTable(container, spec, self.reply)
        kernel.container_ended = self.container_ended
        self.token: int = kernel.watch_fd(sock.fileno(), EPOLLIN, self.on_ready)

    def container_ended(self, container: Container) -> None:
        """The first program is gone, and with it the sandbox."""
        self.kernel.is_over = True

    # -- out -------------------------------------------------------------------------------------------
    def reply(self, letter: bytes, ident: int, body: bytes) -> None:
        """An answer to request `ident`."""
        self.send(PACKET_HEAD.pack(letter, ident) + body)

    def send(self, packet: bytes) -> None:
        """Send a packet now, or after those that wait."""
        if self.waiting:
            if len(self.waiting) < _MAX_WAITING:
                self.waiting.append(packet)
            return
        try:
            self.sock.send(packet, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.waiting.append(packet)
            self.kernel.rewatch_fd(self.sock.fileno(), self.token, EPOLLIN | EPOLLOUT)
        except OSError:
            pass  # it died: `on_ready` hears of it

    def _send_waiting(self) -> None:
        while self.waiting:
            try:
                self.sock.send(self.waiting[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.waiting.clear()
                break
            del self.waiting[0]
        self.kernel.rewatch_fd(self.sock.fileno(), self.token, EPOLLIN)

    def finish(self, packet: bytes) -> None:
        """The last packet, after all others; this may wait for the monitor."""
        try:
            for each in [*self.waiting, packet]:
                self.sock.send(each)
        except OSError:
            pass

    # -- in --------------------------------------------------------------------------------------------
    def on_ready(self, events: int) -> None:
        """A packet of the monitor, or its death."""
        if events & EPOLLOUT:
            self._send_waiting()
        if not events & ~EPOLLOUT:
            return
        try:
            packet, ancillary, _flags, _address = self.sock.recvmsg(
                PIECE_BYTES + 64, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except OSError:
            packet, ancillary = b"", []
        if not packet:
            self.kernel.platform.shutdown()
            os._exit(EXIT_INTERNAL)
        fds = received_fds(ancillary)
        if packet[:1] == TO_EXEC and len(packet) >= PACKET_HEAD.size:
            self._execute(packet, fds)
            return
        for fd in fds:
            os.close(fd)
        self._take(packet)

    def _take(self, packet: bytes) -> None:
        kind = packet[:1]
        if kind == b"?":
            self.send(b"!")  # the loop turns (cli.watchdog)
        elif kind == b"S" and packet[1:3].isdigit():
            self._signal(int(packet[1:3]))
        elif kind == b"G" and packet[1:3].isdigit():
            self._signal_group(int(packet[1:3]))
        elif kind == b"W" and len(packet) == 5:
            bridge = self.streams.bridge
            if bridge is not None:
                bridge.resize(int.from_bytes(packet[1:3], "little"), int.from_bytes(packet[3:5], "little"))
        elif len(packet) >= PACKET_HEAD.size:
            _kind, ident = PACKET_HEAD.unpack_from(packet)
            self._request(kind, ident, packet[PACKET_HEAD.size :])

    def _request(self, kind: bytes, ident: int, body: bytes) -> None:
        if kind == TO_SIGNAL and len(body) == 2:
            self.execs.signal(ident, body[0], body[1])
        elif kind == TO_WINDOW and len(body) == 4:
            rows, columns = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:], "little")
            self.execs.resize(ident, rows, columns)
        elif kind == TO_PS:
            for piece in pieces(encode_table(process_rows(self.container))):
                self.reply(FROM_TABLE, ident, piece)
        elif kind == TO_KILL_ALL and len(body) == 1 and 1 <= body[0] <= 64:
            kill_all(self.container, body[0])

    def _execute(self, packet: bytes, fds: list[int]) -> None:
        _kind, ident = PACKET_HEAD.unpack_from(packet)
        try:
            body = self.assembly.add(ident, packet[PACKET_HEAD.size :])
            request = decode_exec(body) if body is not None else None
            if request is not None and request.fd_count() != len(fds):
                raise ProtocolError("descriptors are missing")
        except ProtocolError as error:
            self.assembly = Assembly()
            self.reply(FROM_FAILED, ident, bytes([EXIT_INTERNAL]) + str(error).encode())
            request = None
        if request is None:
            for fd in fds:
                os.close(fd)
            return
        self.execs.start(ident, request, fds)

    # -- the first program -----------------------------------------------------------------------------
    def _signal(self, signo: int) -> None:
        group = self.container.main
        if group is not None and 1 <= signo <= 64:
            send_group_signal(self.kernel, group, signo)

    def _signal_group(self, signo: int) -> None:
        main = self.container.main
        pgrp = main.pgrp if main is not None else None
        if pgrp is not None and 1 <= signo <= 64:
            for group in list(pgrp.members):
                send_group_signal(self.kernel, group, signo)
