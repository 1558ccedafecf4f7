"""Egress's sockets to the outside, which the connector makes (`cloche.netns.connector`): egress can make none itself.

The caller names an address, and gets a connected socket. Whether the address is allowed was decided before.
"""

import asyncio
import errno
import os
import socket
from typing import Final

from cloche.wire import connector as wire
from cloche.wire.connector import ConnectAnswer, ConnectRequest
from cloche.wire.descriptors import as_socket, receive_with_descriptor

__all__ = ["OwnAddress", "Sockets"]

_MESSAGES: Final = 64  # handled in one turn of the loop

Asked = asyncio.Future["socket.socket"]


class OwnAddress(Exception):
    """The address is one of the network's own."""


class Sockets:
    """Asks the connector."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel: socket.socket = channel
        self.waiting: dict[int, Asked] = {}
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
            for each in self.waiting.values():
                if not each.done():
                    each.set_exception(OSError(errno.ENETDOWN, "the network is gone"))
            self.waiting.clear()

    async def connect(
        self, transport: int, addr: bytes, port: int, *, may_be_own: bool = True
    ) -> socket.socket:
        """A connected socket.  Raises OwnAddress if the address may not be, and is, the network's own; OSError."""
        if self.is_closed:
            raise OSError(errno.ENETDOWN, "the network is gone")
        loop = asyncio.get_running_loop()
        ident = self.next_ident
        self.next_ident += 1
        asked: Asked = loop.create_future()
        self.waiting[ident] = asked
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
                await _stands(sock)
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
        """Wrap the socket of an answer."""
        asked = self.waiting.pop(answer.ident, None)
        if asked is None or asked.done():
            return sock
        if answer.is_own:
            asked.set_exception(OwnAddress())
        elif sock is None:
            number = answer.errno or errno.EIO
            asked.set_exception(OSError(number, os.strerror(number)))
        else:
            sock.setblocking(False)
            asked.set_result(sock)
            return None
        return sock


async def _stands(sock: socket.socket) -> None:
    """Wait until the socket is connected. Raises OSError."""
    try:
        sock.getpeername()
        return  # servers that are near have answered already
    except OSError:
        pass  # not yet, or it has failed
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
