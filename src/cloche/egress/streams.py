"""One side of a connection, however it is protected."""

import asyncio
import socket
from typing import Final

__all__ = ["PlainStream", "Stream"]

_PIECE: Final = 65536


class Stream:
    """One side of a connection."""

    async def receive(self) -> bytes:
        """What has come; empty at the end.  Raises OSError."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Write all.  Raises OSError."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """The other side must not take what it has for a whole message, and nobody reads any more."""
        raise NotImplementedError

    async def finish(self) -> None:
        """No more from us.  Raises OSError."""
        raise NotImplementedError


class PlainStream(Stream):
    """A socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket = sock

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, _PIECE)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def shut_down(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    async def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
