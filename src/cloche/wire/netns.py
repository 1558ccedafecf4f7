"""Messages between the sentry and the network process, on a SOCK_SEQPACKET socket.

    sentry                                          network process
    MAKE     transport, family, user, options       ANSWER  errno, name; LISTEN, the first CONNECT of TCP, and the
    BIND     address and port                               first answer of others bring the socket's descriptor
    CONNECT  address and port                       TROUBLE errno of a SEND or an OPTION
    LISTEN   backlog                                PART    a piece of what the namespace has, END after the last
    SEND     address, port, data
    OPTION   level, name, value
    SET      level, name, value
    CLOSE

Each message has the number of a socket. The sentry chooses it, and never uses it again. BIND, CONNECT, LISTEN and SET
are answered, in their order; if MAKE fails, the answer to the next request says so. `name` is the socket's own name
at that time.

The network process keeps a socket of TCP only until it listens or connects: a copy would keep the port in use, and
would hold the FIN back. It does not read any data. Each side treats the other as hostile: a message that does not
decode is a ValueError.
"""

from struct import Struct
from typing import Final

from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
)

__all__ = [
    "ANSWER",
    "BIND",
    "CLOSE",
    "CONNECT",
    "END",
    "LISTEN",
    "MAKE",
    "MAX_OPTIONS",
    "MESSAGE_BYTES",
    "OPTION",
    "PART",
    "PART_BYTES",
    "PING",
    "RAW_ICMP",
    "SEND",
    "SET",
    "TCP",
    "TROUBLE",
    "UDP",
    "NAME_BYTES",
    "Answer",
    "Making",
    "Name",
    "NetMessage",
    "OptionValue",
    "decode",
    "decode_number",
    "encode_number",
    "message",
]

MAKE: Final = 1
BIND: Final = 2
CONNECT: Final = 3
LISTEN: Final = 4
SEND: Final = 5
OPTION: Final = 6
CLOSE: Final = 7
SET: Final = 8
ANSWER: Final = 17
TROUBLE: Final = 18
PART: Final = 19
END: Final = 20

TCP: Final = 1  # transports
UDP: Final = 2
PING: Final = 3
RAW_ICMP: Final = 4

MAX_OPTIONS: Final = 64
MESSAGE_BYTES: Final = 65536 + 256
PART_BYTES: Final = 32768

_HEAD: Final = Struct("<BQ")
_MAKE: Final = Struct("<BBIB")
_OPTION: Final = Struct("<HHB")
_NAME: Final = Struct("<BHI16s")
_NUMBER: Final = Struct("<i")


class Name:
    """An address with its port; `scope` is the interface of one that is local to a link.  No address: none."""

    def __init__(self, addr: bytes, port: int, scope: int = 0) -> None:
        self.addr: bytes = addr  # 4 or 16 bytes, or none
        self.port: int = port
        self.scope: int = scope

    def encode(self) -> bytes:
        return _NAME.pack(len(self.addr), self.port, self.scope & 0xFFFFFFFF, self.addr)

    @staticmethod
    def decode(data: bytes) -> "Name":
        """Raises ValueError."""
        if len(data) != _NAME.size:
            raise ValueError("length")
        fields: tuple[int, int, int, bytes] = _NAME.unpack(data)
        size, port, scope, addr = fields
        if size not in (0, 4, 16):
            raise ValueError("address")
        return Name(addr[:size], port, scope)


NAME_BYTES: Final = _NAME.size


class OptionValue:
    """A socket option."""

    def __init__(self, level: int, name: int, value: bytes) -> None:
        self.level: int = level
        self.name: int = name
        self.value: bytes = value

    def encode(self) -> bytes:
        return _OPTION.pack(self.level, self.name, len(self.value)) + self.value

    @staticmethod
    def decode(data: bytes) -> "list[OptionValue]":
        """Decode a row of options. Raises ValueError."""
        found: list[OptionValue] = []
        at = 0
        while at < len(data):
            if at + _OPTION.size > len(data) or len(found) >= MAX_OPTIONS:
                raise ValueError("options")
            fields: tuple[int, int, int] = _OPTION.unpack_from(data, at)
            level, name, size = fields
            at += _OPTION.size
            if at + size > len(data):
                raise ValueError("options")
            found.append(OptionValue(level, name, data[at : at + size]))
            at += size
        return found


class Making:
    """MAKE: a socket that is wanted."""

    def __init__(self, transport: int, family: int, uid: int, options: list[OptionValue]) -> None:
        self.transport: int = transport
        self.family: int = family  # AF_INET, AF_INET6
        self.uid: int = uid
        self.options: list[OptionValue] = options

    def encode(self) -> bytes:
        options = self.options[:MAX_OPTIONS]
        head = _MAKE.pack(self.transport, self.family, self.uid, len(options))
        return head + b"".join([each.encode() for each in options])

    @staticmethod
    def decode(data: bytes) -> "Making":
        """Raises ValueError."""
        if len(data) < _MAKE.size:
            raise ValueError("length")
        fields: tuple[int, int, int, int] = _MAKE.unpack_from(data, 0)
        transport, family, uid, count = fields
        options = OptionValue.decode(data[_MAKE.size :])
        if (
            transport not in (TCP, UDP, PING, RAW_ICMP)
            or family not in (AF_INET, AF_INET6)
            or len(options) != count
        ):
            raise ValueError("socket")
        return Making(transport, family, uid, options)


class Answer:
    """ANSWER: the result, and the socket's own name."""

    def __init__(self, errno: int, name: Name) -> None:
        self.errno: int = errno
        self.name: Name = name

    def encode(self) -> bytes:
        return _NUMBER.pack(self.errno) + self.name.encode()

    @staticmethod
    def decode(data: bytes) -> "Answer":
        """Raises ValueError."""
        return Answer(decode_number(data[: _NUMBER.size], 4095), Name.decode(data[_NUMBER.size :]))


class NetMessage:
    """One message, with its common fields decoded."""

    def __init__(self, kind: int, ident: int, body: bytes) -> None:
        self.kind: int = kind
        self.ident: int = ident
        self.body: bytes = body


def encode_number(value: int) -> bytes:
    """A backlog, an errno."""
    return _NUMBER.pack(value)


def decode_number(data: bytes, most: int) -> int:
    """The inverse.  Raises ValueError."""
    if len(data) != _NUMBER.size:
        raise ValueError("length")
    found: int = _NUMBER.unpack(data)[0]
    if not 0 <= found <= most:
        raise ValueError("number")
    return found


def message(kind: int, ident: int, body: bytes = b"") -> bytes:
    """As bytes."""
    return _HEAD.pack(kind, ident) + body


def decode(data: bytes) -> NetMessage:
    """The inverse.  Raises ValueError."""
    if not _HEAD.size <= len(data) <= MESSAGE_BYTES:
        raise ValueError("length")
    head: tuple[int, int] = _HEAD.unpack_from(data, 0)
    return NetMessage(head[0], head[1], data[_HEAD.size :])
