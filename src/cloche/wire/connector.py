"""Messages between egress and the connector, of fixed length, on a SOCK_SEQPACKET socket.

    egress                                          connector
    ask      number, TCP or UDP, address, port,     answer  errno, whether the address is the asker's own, whether
             the sentry's number                            the sentry has the socket; 0 and EINPROGRESS: with
                                                            the descriptor of the socket

A TCP socket is sent while it is still connecting; egress waits for that. If it is connected at once, and egress has
named the number of the sentry's question, the sentry gets it first, with the ANSWER of `wire.egress`: that saves a
turn of egress. The connector keeps no copy. Each side treats the other as hostile: a message that does not decode is
a ValueError.
"""

from struct import Struct
from typing import Final

__all__ = ["ANSWER_BYTES", "ASK_BYTES", "TCP", "UDP", "ConnectAnswer", "ConnectRequest"]

TCP: Final = 6  # IPPROTO_*
UDP: Final = 17

_ASK: Final = Struct("<QBBBH16sQ")
_ANSWER: Final = Struct("<QiBB")
ASK_BYTES: Final = _ASK.size
ANSWER_BYTES: Final = _ANSWER.size


class ConnectRequest:
    """A connection that is wanted."""

    def __init__(
        self, ident: int, transport: int, addr: bytes, port: int, *, may_be_own: bool, sentry: int = 0
    ) -> None:
        self.ident: int = ident
        self.transport: int = transport
        self.addr: bytes = addr  # 4 or 16 bytes
        self.port: int = port
        self.may_be_own: bool = may_be_own  # the address may be one of the network's own
        self.sentry: int = sentry  # the number of the sentry's question; 0: the sentry is given nothing

    def encode(self) -> bytes:
        return _ASK.pack(
            self.ident,
            self.transport,
            len(self.addr),
            int(self.may_be_own),
            self.port,
            self.addr,
            self.sentry,
        )

    @staticmethod
    def decode(data: bytes) -> "ConnectRequest":
        """Raises ValueError."""
        if len(data) != _ASK.size:
            raise ValueError("length")
        fields: tuple[int, int, int, int, int, bytes, int] = _ASK.unpack(data)
        ident, transport, size, may_be_own, port, addr, sentry = fields
        if transport not in (TCP, UDP) or size not in (4, 16) or may_be_own > 1:
            raise ValueError("connection")
        return ConnectRequest(ident, transport, addr[:size], port, may_be_own=may_be_own == 1, sentry=sentry)


class ConnectAnswer:
    """The result of a request."""

    def __init__(self, ident: int, errno: int, *, is_own: bool, is_given: bool = False) -> None:
        self.ident: int = ident
        self.errno: int = errno
        self.is_own: bool = is_own  # refused, because the address is one of the network's own
        self.is_given: bool = is_given  # the sentry has it already

    def encode(self) -> bytes:
        return _ANSWER.pack(self.ident, self.errno, int(self.is_own), int(self.is_given))

    @staticmethod
    def decode(data: bytes) -> "ConnectAnswer":
        """Raises ValueError."""
        if len(data) != _ANSWER.size:
            raise ValueError("length")
        fields: tuple[int, int, int, int] = _ANSWER.unpack(data)
        if not 0 <= fields[1] < 4096 or fields[2] > 1 or fields[3] > 1:
            raise ValueError("answer")
        return ConnectAnswer(fields[0], fields[1], is_own=fields[2] == 1, is_given=fields[3] == 1)
