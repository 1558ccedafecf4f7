"""Egress's sockets to the outside, which the connector makes (`cloche.netns.connector`): egress can make none itself.

The caller names an address, and gets a connected socket. Whether the address is allowed was decided before.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from cloche.wire import connector as wire
from cloche.wire.connector import ConnectAnswer, ConnectRequest
from cloche.wire.descriptors import as_socket, receive_with_descriptor

__all__ = ["Answered", "OwnAddress", "Sockets", "is_connected", "stands"]

_MESSAGES: Final = 64  # handled in one turn of the loop


class OwnAddress(Exception):
    """The address is one of the network's own."""


# Is called once, with the socket of an answer, which it has to close or keep, or with what there is instead; and with
# whether the sentry has the socket already.
Answered = Callable[["socket.socket | OwnAddress | OSError", bool], None]


class Sockets:
    """Asks the connector."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel: socket.socket = channel
        self.waiting: dict[int, Answered] = {}
        self.next_ident: int = 1
        self.order: asyncio.Lock = asyncio.Lock()
        self.is_closed: bool = False

    def start(self) -> None:
        """Watch the socket."""
        self.channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self.channel.fileno(), self._read)

    def close(self) -> None:
        """Close the socket."""
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
            self.channel.close()
            waiting, self.waiting = self.waiting, {}
            for answered in waiting.values():
                answered(OSError(errno.ENETDOWN, "the network is gone"), False)

    def ask(
        self, transport: int, addr: bytes, port: int, answered: Answered, *, may_be_own: bool, sentry: int
    ) -> bool:
        """Ask for a socket; the connector answers at once, while TCP may still be connecting (`is_connected`).

        `sentry`: the number of the sentry's question, if it may get the socket from the connector; else 0.
        False: the question cannot be sent now, and `answered` is not called. Raises OSError.
        """
        if self.is_closed:
            raise OSError(errno.ENETDOWN, "the network is gone")
        if self.order.locked():
            return False  # others wait to send theirs
        ident = self._new_ident()
        try:
            request = ConnectRequest(ident, transport, addr, port, may_be_own=may_be_own, sentry=sentry)
            self.channel.send(request.encode())
        except BlockingIOError:
            return False
        self.waiting[ident] = answered
        return True

    def _new_ident(self) -> int:
        ident = self.next_ident
        self.next_ident = ident + 1
        return ident

    async def connect(
        self, transport: int, addr: bytes, port: int, *, may_be_own: bool = True
    ) -> socket.socket:
        """A connected socket.  Raises OwnAddress if the address may not be, and is, the network's own; OSError."""
        if self.is_closed:
            raise OSError(errno.ENETDOWN, "the network is gone")
        loop = asyncio.get_running_loop()
        ident = self._new_ident()
        asked: asyncio.Future[socket.socket] = loop.create_future()

        def answered(outcome: "socket.socket | OwnAddress | OSError", _is_given: bool) -> None:
            if isinstance(outcome, Exception):
                if not asked.done():
                    asked.set_exception(outcome)
            elif asked.done():
                outcome.close()
            else:
                asked.set_result(outcome)

        self.waiting[ident] = answered
        try:
            async with self.order:
                data = ConnectRequest(ident, transport, addr, port, may_be_own=may_be_own).encode()
                await loop.sock_sendall(self.channel, data)
            sock = await asked
        except BaseException:
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                asked.result().close()
            raise
        finally:
            self.waiting.pop(ident, None)
        if transport == wire.TCP:
            try:
                await stands(sock)
            except BaseException:
                sock.close()
                raise
        return sock

    def _read(self) -> None:
        for _turn in range(_MESSAGES):
            try:
                data, fd = receive_with_descriptor(self.channel, wire.ANSWER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", -1
            sock = as_socket(fd)
            if not data:
                self.close()
                return
            try:
                sock = self._take(ConnectAnswer.decode(data), sock)
            except ValueError:
                pass  # a message that no correct connector sends
            if sock is not None:
                sock.close()

    def _take(self, answer: ConnectAnswer, sock: socket.socket | None) -> socket.socket | None:
        """Hand an answer to who waits for it. Returns the socket, unless that has taken it."""
        answered = self.waiting.pop(answer.ident, None)
        if answered is None:
            return sock
        if answer.is_own:
            answered(OwnAddress(), False)
        elif sock is None:
            number = answer.errno or errno.EIO
            answered(OSError(number, os.strerror(number)), False)
        else:
            sock.setblocking(False)
            answered(sock, answer.is_given)
            return None
        return sock


def is_connected(sock: socket.socket) -> bool:
    """Whether a TCP socket is connected; if not, it is not yet, or it has failed (`stands`)."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


async def stands(sock: socket.socket) -> None:
    """Wait until the socket is connected. Raises OSError."""
    if is_connected(sock):
        return  # servers that are near have answered already
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def writable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock.fileno(), writable)
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())
    failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failed:
        raise OSError(failed, os.strerror(failed))
