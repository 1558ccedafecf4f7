"""Moves the messages of `wire.protocol` over a stream socket, without waiting unless asked to.

Messages that the peer does not read at once are queued, up to a limit; the owner's loop watches `wants_write`.
"""

import os
import select
import socket
from array import array
from collections.abc import Callable
from typing import Final

from cloche.wire.protocol import MAX_FDS, Decoder, Fields, Message, ProtocolError, hello

_READ_BYTES: Final = 65536
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * MAX_FDS)
_MAX_OUT_BYTES: Final = 32 << 20


class Outgoing:
    """A frame that waits to be sent, and the descriptors that go with its first byte (owned by this object until
    then).
    """

    def __init__(self, data: bytes, fds: list[int]) -> None:
        self.data: bytes = data
        self.fds: list[int] = fds
        self.sent: int = 0


class Channel:
    """One end of a connection. Sends HELLO at once."""

    def __init__(self, sock: socket.socket, software: str) -> None:
        self.sock: socket.socket = sock
        self._decoder: Decoder = Decoder()
        self._out: list[Outgoing] = []
        self._out_bytes: int = 0
        self.is_closed: bool = False
        self.send(hello(software))

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self.sock.fileno()

    def wants_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    # -- out -------------------------------------------------------------------------------------------
    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send a frame now, or after those that wait.  `fds` are taken over, and closed once they are sent.

        A peer that is gone is no error here: `receive` reports it.  Raises ProtocolError if too much waits.
        """
        if self.is_closed:
            _close_all(fds or [])
            return
        if self._out_bytes + len(data) > _MAX_OUT_BYTES:
            _close_all(fds or [])
            raise ProtocolError("the peer takes nothing")
        self._out.append(Outgoing(data, fds or []))
        self._out_bytes += len(data)
        self.flush()

    def flush(self) -> None:
        """Send what can be sent without waiting."""
        while self._out:
            first = self._out[0]
            rest = first.data[first.sent :] if first.sent else first.data
            try:
                if first.fds:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", first.fds))]
                    count = self.sock.sendmsg([rest], rights, socket.MSG_DONTWAIT)
                else:
                    # the only way to send that the sentry's filter allows
                    count = self.sock.send(rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._drop_out()
                return
            _close_all(first.fds)
            first.fds = []
            first.sent += count
            self._out_bytes -= count
            if first.sent == len(first.data):
                del self._out[0]

    def flush_all(self, timeout_s: float) -> None:
        """Send everything, waiting for the peer for at most `timeout_s` each time (negative: for ever)."""
        while self._out:
            poller = select.poll()
            poller.register(self.sock, select.POLLOUT)
            if not poller.poll(int(timeout_s * 1000) if timeout_s >= 0 else None):
                return
            self.flush()

    def _drop_out(self) -> None:
        for each in self._out:
            _close_all(each.fds)
        self._out.clear()
        self._out_bytes = 0

    # -- in --------------------------------------------------------------------------------------------
    def receive(self, *, is_waiting: bool = False) -> list[Message] | None:
        """Messages that have come, none if there is nothing to read now; None at the end of the connection.

        With `is_waiting` waits until there is something to read.  Raises ProtocolError.
        """
        try:
            data, ancillary, flags, _address = self.sock.recvmsg(
                _READ_BYTES,
                _ANCILLARY_BYTES,
                socket.MSG_CMSG_CLOEXEC | (0 if is_waiting else socket.MSG_DONTWAIT),
            )
        except BlockingIOError:
            return []
        except OSError:
            return None
        fds = array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) // 4 * 4])
        if not data or flags & socket.MSG_CTRUNC:
            _close_all(fds.tolist())
            return None
        return self._decoder.feed(data, fds.tolist())

    def close(self) -> None:
        """End the connection."""
        if not self.is_closed:
            self.is_closed = True
            self._drop_out()
            self._decoder.close()
            self.sock.close()


class Upstream:
    """The upstream end of a process that passes requests on: it sends them, and receives the answers."""

    def __init__(self) -> None:
        self.on_message: Callable[[Message], None] | None = None  # gets the answers

    def ask(self, ident: int, method: str, fields: Fields, fds: list[int] | None = None) -> None:
        """Send a request without waiting, with copies of `fds`."""
        raise NotImplementedError

    def cancel(self, ident: int) -> None:
        """Cancel a request."""
        raise NotImplementedError


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
