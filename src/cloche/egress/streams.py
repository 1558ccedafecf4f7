"""One side of a connection, plain or with TLS."""

import asyncio
import socket
from typing import Final

__all__ = ["PlainStream", "Stream"]

_PIECE: Final = 262144


class Stream:
    """One side of a connection."""

    async def receive(self) -> bytes:
        """Receive bytes; empty at the end. Raises OSError."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send all bytes. Raises OSError."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """Break the connection off, so that the peer does not take what it has received for a whole message."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Signal the end of sending. Raises OSError."""
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
