"""Messages between egress and the connector, of fixed length, on a SOCK_SEQPACKET socket.

    egress                                          connector
    ask      number, TCP or UDP, address, port      answer  errno, whether the address is the asker's own; 0 and
                                                            EINPROGRESS: with the descriptor of the socket

A TCP socket is sent while it is still connecting; egress waits for that. The connector keeps no copy. Each side
treats the other as hostile: a message that does not decode is a ValueError.
"""

from struct import Struct
from typing import Final

__all__ = ["ANSWER_BYTES", "ASK_BYTES", "TCP", "UDP", "ConnectAnswer", "ConnectRequest"]

TCP: Final = 6  # IPPROTO_*
UDP: Final = 17

_ASK: Final = Struct("<QBBBH16s")
_ANSWER: Final = Struct("<QiB")
ASK_BYTES: Final = _ASK.size
ANSWER_BYTES: Final = _ANSWER.size


class ConnectRequest:
    """A connection that is wanted."""

    def __init__(self, ident: int, transport: int, addr: bytes, port: int, *, may_be_own: bool) -> None:
        self.ident: int = ident
        self.transport: int = transport
        self.addr: bytes = addr  # 4 or 16 bytes
        self.port: int = port
        self.may_be_own: bool = may_be_own  # the address may be one of the network's own

    def encode(self) -> bytes:
        return _ASK.pack(
            self.ident, self.transport, len(self.addr), int(self.may_be_own), self.port, self.addr
        )

    @staticmethod
    def decode(data: bytes) -> "ConnectRequest":
        """Raises ValueError."""
        if len(data) != _ASK.size:
            raise ValueError("length")
        fields: tuple[int, int, int, int, int, bytes] = _ASK.unpack(data)
        ident, transport, size, may_be_own, port, addr = fields
        if transport not in (TCP, UDP) or size not in (4, 16) or may_be_own > 1:
            raise ValueError("connection")
        return ConnectRequest(ident, transport, addr[:size], port, may_be_own=may_be_own == 1)


class ConnectAnswer:
    """The result of a request."""

    def __init__(self, ident: int, errno: int, *, is_own: bool) -> None:
        self.ident: int = ident
        self.errno: int = errno
        self.is_own: bool = is_own  # refused, because the address is one of the network's own

    def encode(self) -> bytes:
        return _ANSWER.pack(self.ident, self.errno, int(self.is_own))

    @staticmethod
    def decode(data: bytes) -> "ConnectAnswer":
        """Raises ValueError."""
        if len(data) != _ANSWER.size:
            raise ValueError("length")
        fields: tuple[int, int, int] = _ANSWER.unpack(data)
        if not 0 <= fields[1] < 4096 or fields[2] > 1:
            raise ValueError("answer")
        return ConnectAnswer(fields[0], fields[1], is_own=fields[2] == 1)
