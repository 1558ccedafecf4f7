"""Messages between the sentry and egress, on a SOCK_SEQPACKET socket.

    sentry                                          egress
    CONNECT  transport, address, port, pid, name    ANSWER  errno; 0: with the descriptor of a connected socket
    QUERY    a DNS message (to port 53 of UDP)      REPLY   a DNS message
    CLOSED   bytes received, bytes sent             SWITCH  with another descriptor for the same connection
    GONE     no call waits for the answer any more  CUT     the connection is not allowed any more
    SWITCHED  the answer to SWITCH                  CHANGED what was refused before may be allowed now, and KNOWN
                                                            answers are not known any more
                                                    KNOWN   as REPLY; good for the same question until CHANGED

Each has the number that the sentry gave the connection or question; it gives none twice.  An ANSWER's descriptor is a
TCP or UDP socket of the host, or for what egress reads itself one end of a pair.  SWITCH: the sentry sends no more on
the first socket, shuts it down, says SWITCHED, reads it to its end (egress closes its own end after SWITCHED and that
shutdown), and goes on with the second.

Each side treats the other as hostile: a message that does not decode is a ValueError.
"""

from struct import Struct
from typing import Final

__all__ = [
    "ANSWER",
    "CHANGED",
    "CLOSED",
    "CONNECT",
    "CUT",
    "DNS_BYTES",
    "GONE",
    "KNOWN",
    "MESSAGE_BYTES",
    "QUERY",
    "REPLY",
    "SWITCH",
    "SWITCHED",
    "TCP",
    "UDP",
    "EgressMessage",
    "Target",
    "answer",
    "closed",
    "decode",
    "message",
]

CONNECT: Final = 1
QUERY: Final = 2
CLOSED: Final = 3
GONE: Final = 4
SWITCHED: Final = 5
ANSWER: Final = 17
REPLY: Final = 18
SWITCH: Final = 19
CUT: Final = 20
CHANGED: Final = 21
KNOWN: Final = 22

TCP: Final = 6  # IPPROTO_*
UDP: Final = 17

DNS_BYTES: Final = 4096  # no DNS message here is longer
MESSAGE_BYTES: Final = DNS_BYTES + 64

_HEAD: Final = Struct("<BQ")
_TARGET: Final = Struct("<BBHI16s16s")
_ANSWER: Final = Struct("<i")
_CLOSED: Final = Struct("<QQ")


class Target:
    """The address that a guest wants to connect to, and which guest it is."""

    def __init__(self, transport: int, addr: bytes, port: int, pid: int, program: bytes) -> None:
        self.transport: int = transport
        self.addr: bytes = addr  # 4 or 16 bytes
        self.port: int = port
        self.pid: int = pid  # as in the sandbox
        self.program: bytes = program  # comm(5); the guest chose it

    def encode(self) -> bytes:
        return _TARGET.pack(
            self.transport, len(self.addr), self.port, self.pid & 0xFFFFFFFF, self.addr, self.program[:16]
        )

    @staticmethod
    def decode(data: bytes) -> "Target":
        """Raises ValueError for what no sentry sends."""
        if len(data) != _TARGET.size:
            raise ValueError("length")
        fields: tuple[int, int, int, int, bytes, bytes] = _TARGET.unpack(data)
        transport, size, port, pid, addr, program = fields
        if transport not in (TCP, UDP) or size not in (4, 16):
            raise ValueError("address")
        return Target(transport, addr[:size], port, pid, program.rstrip(b"\0"))


class EgressMessage:
    """One message, with its common fields decoded."""

    def __init__(self, kind: int, ident: int, body: bytes) -> None:
        self.kind: int = kind
        self.ident: int = ident
        self.body: bytes = body

    def errno(self) -> int:
        """The errno of an ANSWER. Raises ValueError."""
        if len(self.body) != _ANSWER.size:
            raise ValueError("length")
        found: int = _ANSWER.unpack(self.body)[0]
        if not 0 <= found < 4096:
            raise ValueError("errno")
        return found

    def counts(self) -> tuple[int, int]:
        """The bytes received and sent, of CLOSED. Raises ValueError."""
        if len(self.body) != _CLOSED.size:
            raise ValueError("length")
        found: tuple[int, int] = _CLOSED.unpack(self.body)
        return found


def message(kind: int, ident: int, body: bytes = b"") -> bytes:
    """As bytes."""
    return _HEAD.pack(kind, ident) + body


def decode(data: bytes) -> EgressMessage:
    """The inverse.  Raises ValueError."""
    if not _HEAD.size <= len(data) <= MESSAGE_BYTES:
        raise ValueError("length")
    head: tuple[int, int] = _HEAD.unpack_from(data, 0)
    return EgressMessage(head[0], head[1], data[_HEAD.size :])


def answer(ident: int, errno: int) -> bytes:
    """ANSWER."""
    return message(ANSWER, ident, _ANSWER.pack(errno))


def closed(ident: int, received: int, sent: int) -> bytes:
    """CLOSED."""
    return message(CLOSED, ident, _CLOSED.pack(received, sent))
