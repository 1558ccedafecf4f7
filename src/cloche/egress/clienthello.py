"""The first message of a TLS client (RFC 8446, 4.1.2; RFC 6066, 3): which name it asks for.

Records are reassembled, so neither splitting nor padding hides anything. Anything that is not a TLS handshake, also
an SSLv2 hello, is refused. The bytes are passed on unchanged.
"""

from typing import Final

from cloche.egress.hosts import BadHost, parse_name

__all__ = ["ALERT_UNRECOGNIZED_NAME", "Hello", "NotTls", "is_retry_request", "parse_client_hello"]

MAX_HELLO: Final = 65536  # bytes of records; browsers send less than 4 KiB
_HANDSHAKE: Final = 22
_CHANGE_CIPHER_SPEC: Final = 20
_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_ECH: Final = 0xFE0D
_ECH_OLD: Final = (0xFFCE, 0xFF02, 0xFF03, 0xFE08, 0xFE09, 0xFE0A)
_MAX_RECORD: Final = 16384
_MAX_RECORDS: Final = 512
# ServerHello.random of a HelloRetryRequest.
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
# Fatal, unrecognized_name; programs show it in words.
ALERT_UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"


class NotTls(ValueError):
    """Not a ClientHello that can be let through; the text says why."""


class Hello:
    """A whole ClientHello."""

    def __init__(self, name: str, length: int, protocols: list[bytes], *, has_ech: bool) -> None:
        self.name: str = name
        self.protocols: list[bytes] = protocols  # ALPN (RFC 7301)
        self.length: int = length  # of the records that it came in
        self.has_ech: bool = has_ech


class _Reader:
    """Reads fields from the front. Raises NotTls where there are too few bytes."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data
        self.at: int = 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise NotTls("a ClientHello with lengths that do not fit")
        self.at += count
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def vector(self, count: int) -> "_Reader":
        return _Reader(self.take(self.number(count)))

    def left(self) -> int:
        return len(self.data) - self.at


def parse_client_hello(data: bytes, *, is_second: bool = False) -> Hello | None:
    """The hello that `data` begins with; None if more bytes are needed.  Raises NotTls.

    `is_second`: after a HelloRetryRequest, where a ChangeCipherSpec may come before.
    """
    body = bytearray()
    at = records = 0
    may_change = is_second
    while True:
        records += 1
        if records > _MAX_RECORDS:
            raise NotTls("a ClientHello in too many records")
        head = data[at : at + 5]
        if head and head[0] != _HANDSHAKE and not (may_change and head[0] == _CHANGE_CIPHER_SPEC):
            raise NotTls("not TLS")
        if len(head) >= 2 and head[1] != 3:
            raise NotTls("not TLS")
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= _MAX_RECORD:
            raise NotTls("a record of TLS with no length, or too long a one")
        if at + 5 + length > MAX_HELLO:
            raise NotTls("a ClientHello that is too long")
        record = data[at + 5 : at + 5 + length]
        if head[0] == _CHANGE_CIPHER_SPEC:
            if length != 1:
                raise NotTls("not TLS")
            if len(record) < 1:
                return None
            if record != b"\x01":
                raise NotTls("not TLS")
            may_change = False
            at += 6
            continue
        may_change = False
        body += record
        if body and body[0] != _CLIENT_HELLO:
            raise NotTls("not a ClientHello")
        wanted = int.from_bytes(body[1:4], "big") if len(body) >= 4 else -1
        if wanted > MAX_HELLO:
            raise NotTls("a ClientHello that is too long")
        if len(record) < length:
            return None
        at += 5 + length
        if 0 <= wanted <= len(body) - 4:
            if len(body) - 4 != wanted:
                raise NotTls("something after the ClientHello in its record")
            return _parse(bytes(body[4:]), at)


def _parse(data: bytes, length: int) -> Hello:
    reader = _Reader(data)
    if reader.number(2) >> 8 != 3:
        raise NotTls("not a version of TLS")
    reader.take(32)
    reader.vector(1)  # legacy_session_id
    reader.vector(2)  # cipher_suites
    reader.vector(1)  # legacy_compression_methods
    if not reader.left():
        raise NotTls("no server name (SNI)")
    extensions = reader.vector(2)
    if reader.left():
        raise NotTls("something after the extensions")
    seen: set[int] = set()
    name: str | None = None
    protocols: list[bytes] = []
    while extensions.left():
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind in seen:
            raise NotTls("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(content)
        elif kind == _ALPN:
            offered = content.vector(2)
            while offered.left():
                protocols.append(offered.vector(1).data)
    if name is None:
        raise NotTls("no server name (SNI)")
    return Hello(name, length, protocols, has_ech=_ECH in seen or any(kind in seen for kind in _ECH_OLD))


def _server_name(content: _Reader) -> str:
    names = content.vector(2)
    if content.left():
        raise NotTls("something after the server name")
    if names.number(1) != 0:
        raise NotTls("a server name that is no host name")
    raw = names.vector(2).data
    if names.left():
        raise NotTls("more than one server name")
    try:
        text = raw.decode("ascii")
        name = parse_name(text)
    except (UnicodeDecodeError, BadHost):
        raise NotTls(f"not a host name as the server name: {raw[:80]!r}") from None
    if text.endswith("."):
        raise NotTls("a server name with a dot at its end")  # RFC 6066, 3
    return name


def is_retry_request(data: bytes) -> bool | None:
    """Whether what the server sends begins with a HelloRetryRequest; None if more bytes are needed.

    (A server may begin with an alert, or with anything: then there is no second hello.)
    """
    body = bytearray()
    at = 0
    while len(body) < 38:
        head = data[at : at + 5]
        if head and head[0] != _HANDSHAKE:
            return False
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= _MAX_RECORD + 256:
            return False
        record = data[at + 5 : at + 5 + length]
        body += record
        if body and body[0] != _SERVER_HELLO:
            return False
        if len(record) < length and len(body) < 38:
            return None
        at += 5 + length
    return bytes(body[6:38]) == _RETRY
