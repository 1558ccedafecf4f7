"""The one protocol of a sandbox: what its clients (CLI, SDK, OCI verbs) ask its monitor, and the monitor its sentry.

Both hops are stream sockets and speak the same messages.  Here is the codec, without I/O: `Encoder`s make bytes, a
`Decoder` is fed bytes and descriptors as they come and gives messages.  `wire.channel` moves them.

    frame    = u32 length of body (little endian), u8 number of descriptors, body
    body     = CBOR array: [kind, id, ...]
    HELLO    = [0, version, software]         each side's first message
    REQUEST  = [1, id, method, {parameters}]  ids are the sender's, and free again after the answer
    REPLY    = [2, id, {result}]              the one answer,
    ERROR    = [3, id, status, text]          or this one: `status` is what a command exits with
    EVENT    = [4, id, name, {fields}]        before the answer: news of that request
    CANCEL   = [5, id]                        the asker wants no answer any more; one may still arrive

Descriptors travel (SCM_RIGHTS, unix(7)) with the first byte of the frame that states their number; a stream socket
keeps both in order. Each stream (standard streams, archives of `cp`, changes of `diff`) is such a descriptor, a pipe
or a terminal of its own. So the host's kernel tells when there is room and when it ends, its bytes pass through no
third process, and a stream that is not read holds up no other.
"""

import os
from struct import Struct
from typing import Final

from cloche.wire.cbor import CborError, decode, encode

VERSION: Final = 1
MAX_BODY_BYTES: Final = 8 << 20
MAX_FDS: Final = 32  # of a message
MAX_ID: Final = 0xFFFFFFFF
_MAX_WAITING_FDS: Final = 4 * MAX_FDS

HELLO: Final = 0
REQUEST: Final = 1
REPLY: Final = 2
ERROR: Final = 3
EVENT: Final = 4
CANCEL: Final = 5

_HEAD: Final = Struct("<IB")

Fields = dict[str, object]


class ProtocolError(Exception):
    """The peer has sent what no correct peer sends; the connection must be closed."""


class Message:
    """One message; its kind decides which fields matter. The receiver closes `fds`."""

    def __init__(self, kind: int, ident: int) -> None:
        self.kind: int = kind
        self.ident: int = ident  # HELLO: the version
        self.name: str = ""  # REQUEST: method; EVENT: its name; ERROR: text; HELLO: software
        self.fields: Fields = {}
        self.number: int = 0  # ERROR: status
        self.fds: list[int] = []

    def close_fds(self) -> None:
        """Close the descriptors, if the receiver does not want them."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def frame(body: object, fd_count: int = 0) -> bytes:
    """A frame.  Raises ProtocolError if it is too long to be sent or has no encoding."""
    try:
        data = encode(body)
    except CborError as error:
        raise ProtocolError(str(error)) from None
    if len(data) > MAX_BODY_BYTES or fd_count > MAX_FDS:
        raise ProtocolError("a message that is too long")
    return _HEAD.pack(len(data), fd_count) + data


def hello(software: str) -> bytes:
    """The first message of each side."""
    return frame([HELLO, VERSION, software])


def request(ident: int, method: str, fields: Fields, fd_count: int = 0) -> bytes:
    """A request; its descriptors go along."""
    return frame([REQUEST, ident, method, fields], fd_count)


def reply(ident: int, fields: Fields, fd_count: int = 0) -> bytes:
    """The answer to a request."""
    return frame([REPLY, ident, fields], fd_count)


def error(ident: int, status: int, text: str) -> bytes:
    """The answer to a request that failed."""
    return frame([ERROR, ident, status, text.encode("utf-8", "replace")[:4000].decode("utf-8", "ignore")])


def event(ident: int, name: str, fields: Fields) -> bytes:
    """An event of a request that is not answered yet."""
    return frame([EVENT, ident, name, fields])


def cancel(ident: int) -> bytes:
    """No answer is wanted any more."""
    return frame([CANCEL, ident])


class Decoder:
    """Decodes bytes and descriptors into messages."""

    def __init__(self) -> None:
        self._buffer: bytearray = bytearray()
        self._fds: list[int] = []
        self._is_greeted: bool = False

    def feed(self, data: bytes, fds: list[int]) -> list[Message]:
        """Take bytes and descriptors; returns the messages that are complete now.

        Takes `fds` over. Raises ProtocolError; the descriptors of complete and incomplete messages are then closed.
        """
        self._fds += fds
        self._buffer += data
        found: list[Message] = []
        try:
            if len(self._fds) > _MAX_WAITING_FDS:
                raise ProtocolError("descriptors that belong to nothing")
            at = 0
            buffer = self._buffer
            while len(buffer) - at >= _HEAD.size:
                length, fd_count = _HEAD.unpack_from(buffer, at)
                if length > MAX_BODY_BYTES or fd_count > MAX_FDS:
                    raise ProtocolError("a message that is too long")
                start = at + _HEAD.size
                if len(buffer) - start < length:
                    break
                message = self._message(bytes(buffer[start : start + length]))
                at = start + length
                if fd_count > len(self._fds):
                    raise ProtocolError("descriptors are missing")
                message.fds = self._fds[:fd_count]
                del self._fds[:fd_count]
                found.append(message)
            del buffer[:at]
        except ProtocolError:
            for message in found:
                message.close_fds()
            self.close()
            raise
        return found

    def close(self) -> None:
        """The connection has ended: close the descriptors of incomplete messages."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._buffer.clear()

    def _message(self, body: bytes) -> Message:
        try:
            parts = decode(body)
        except CborError as error:
            raise ProtocolError(str(error)) from None
        if not isinstance(parts, list) or len(parts) < 2:
            raise ProtocolError("no message")
        kind, ident = parts[0], parts[1]
        if not isinstance(kind, int) or not isinstance(ident, int) or not 0 <= ident <= MAX_ID:
            raise ProtocolError("no message")
        message = Message(kind, ident)
        if (kind == HELLO) == self._is_greeted:
            raise ProtocolError("a message before the greeting, or a second greeting")
        self._fill(message, parts)
        if kind == HELLO:
            if ident != VERSION:
                raise ProtocolError(f"version {ident} of the protocol; this is version {VERSION}")
            self._is_greeted = True
        return message

    @staticmethod
    def _fill(message: Message, parts: list[object]) -> None:
        """Set the fields that depend on the kind."""
        kind = message.kind
        third = parts[2] if len(parts) > 2 else None
        fourth = parts[3] if len(parts) > 3 else None
        is_right = False
        if kind == HELLO or kind == REQUEST or kind == EVENT:
            is_right = isinstance(third, str) and len(parts) == (3 if kind == HELLO else 4)
            if isinstance(third, str):
                message.name = third
            if kind != HELLO:
                is_right = is_right and isinstance(fourth, dict)
                if isinstance(fourth, dict):
                    message.fields = fourth
        elif kind == REPLY:
            is_right = isinstance(third, dict) and len(parts) == 3
            if isinstance(third, dict):
                message.fields = third
        elif kind == CANCEL:
            is_right = len(parts) == 2
        elif kind == ERROR and isinstance(third, int) and isinstance(fourth, str):
            message.number = third
            message.name = fourth
            is_right = not isinstance(third, bool) and 0 <= third <= 255 and len(parts) == 4
        if not is_right:
            raise ProtocolError("a message that is malformed")


# -- fields -----------------------------------------------------------------------------------------------------
def take_int(fields: Fields, name: str, default: int, low: int, high: int) -> int:
    """An integer from `low` to `high`.  Raises ProtocolError."""
    found = fields.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise ProtocolError(f"{name} is not a number from {low} to {high}")
    return found


def take_bool(fields: Fields, name: str, default: bool = False) -> bool:
    """A truth value.  Raises ProtocolError."""
    found = fields.get(name, default)
    if not isinstance(found, bool):
        raise ProtocolError(f"{name} is not true or false")
    return found


def take_text(fields: Fields, name: str, default: str = "") -> str:
    """Text without NUL.  Raises ProtocolError."""
    found = fields.get(name, default)
    if not isinstance(found, str) or "\0" in found:
        raise ProtocolError(f"{name} is not text")
    return found


def take_bytes(fields: Fields, name: str, default: bytes = b"") -> bytes:
    """Bytes without NUL, as paths and arguments are.  Raises ProtocolError."""
    found = fields.get(name, default)
    if not isinstance(found, bytes) or b"\0" in found:
        raise ProtocolError(f"{name} is not a string of bytes")
    return found


def take_list(fields: Fields, name: str, limit: int) -> list[object]:
    """A list of at most `limit` items, empty if it is missing.  Raises ProtocolError."""
    found = fields.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > limit:
        raise ProtocolError(f"{name} is not a list of at most {limit}")
    return found


def take_strings(fields: Fields, name: str, limit: int) -> list[bytes]:
    """A list of byte strings without NUL.  Raises ProtocolError."""
    found: list[bytes] = []
    for item in take_list(fields, name, limit):
        if not isinstance(item, bytes) or b"\0" in item:
            raise ProtocolError(f"{name} has something that is not a string of bytes")
        found.append(item)
    return found
