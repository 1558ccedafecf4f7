"""Messages of the broker of published ports to the sentry: one message for each connection, with its descriptor.

The socket is of type SOCK_SEQPACKET, so messages keep their boundaries; each carries one connected TCP socket
(SCM_RIGHTS, unix(7)).  Before the first message the broker has told the keeper the numbers of its ports.
"""

from struct import Struct
from typing import Final

__all__ = ["MESSAGE_BYTES", "Arrival", "decode_ports", "encode_ports"]

MESSAGE_BYTES: Final = 64  # no message about a connection is longer

_ARRIVAL: Final = Struct("<HHB16s")
_PORT: Final = Struct("<H")


class Arrival:
    """A connection that the broker has accepted."""

    def __init__(self, port: int, peer: bytes, peer_port: int) -> None:
        self.port: int = port  # the port in the sandbox
        self.peer: bytes = peer  # 4 or 16 bytes
        self.peer_port: int = peer_port

    def encode(self) -> bytes:
        return _ARRIVAL.pack(self.port, self.peer_port, len(self.peer), self.peer)

    @staticmethod
    def decode(data: bytes) -> "Arrival":
        """Raises ValueError for what no broker sends."""
        if len(data) != _ARRIVAL.size:
            raise ValueError("length")
        fields: tuple[int, int, int, bytes] = _ARRIVAL.unpack(data)
        port, peer_port, size, peer = fields
        if port == 0 or size not in (4, 16):
            raise ValueError("address")
        return Arrival(port, peer[:size], peer_port)


def encode_ports(ports: list[int]) -> bytes:
    """The broker's first message, when it serves: a little-endian u16 for each published port, the host's."""
    return b"".join([_PORT.pack(port) for port in ports])


def decode_ports(data: bytes) -> list[int]:
    """The broker's first message, when it serves: a little-endian u16 for each published port, the host's."""
    return [item[0] for item in _PORT.iter_unpack(data)]
