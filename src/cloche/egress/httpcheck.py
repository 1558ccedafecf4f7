"""Requests of HTTP/1.1 taken apart strictly, before any library sees them.

Two servers may read a malformed message differently (request smuggling), so everything that RFC 9110 and 9112 leave
open is refused.
"""

import re
from typing import Final

from cloche.egress.hosts import BadHost, parse_host

__all__ = ["HOP", "LENGTH", "MAX_HEAD", "BadRequest", "Head", "check_head", "parse_authority", "refusal"]

MAX_HEAD: Final = 65536
_MAX_HEADERS: Final = 200
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) (\S{1,32768}) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(/[^#]*|\?[^#]*|)")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # a Content-Length, as no two programs read it differently
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]+")
# Headers of one connection only (RFC 9110, 7.6.1), or written anew.
HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"host",
    )
)


class BadRequest(Exception):
    """A request that is refused; the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status: int = status
        self.reason: str = reason


class Head:
    """The head of a request."""

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method: bytes = method
        self.target: bytes = target  # in origin form
        self.minor: int = minor
        self.headers: list[tuple[bytes, bytes]] = []  # names in lower case
        self.host: str | bytes = b""
        self.port: int = 80

    def get(self, name: bytes) -> list[bytes]:
        """The values of a header."""
        return [value for each, value in self.headers if each == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The words of a header that is a list, in lower case."""
        return [
            word.strip().lower() for value in self.get(name) for word in value.split(b",") if word.strip()
        ]


def check_head(raw: bytes, scheme: bytes = b"http") -> Head:
    """Parse a request's head, up to and including its empty line. Raises BadRequest."""
    if not raw.endswith(b"\r\n\r\n"):
        raise BadRequest(400, "a request without an end")
    if len(raw) > MAX_HEAD:
        raise BadRequest(431, "a head that is too long")
    lines = raw[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest(400, "not a request line of HTTP/1.0 or 1.1")
    head = Head(match[1], match[2], match[3] == b"1")
    if len(lines) - 1 > _MAX_HEADERS:
        raise BadRequest(431, "too many headers")
    for line in lines[1:]:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadRequest(400, "a header that is folded, or has no colon, or control characters")
        head.headers.append((found[1].lower(), found[2].rstrip(b" \t")))
    _check_framing(head)
    _check_target(head, scheme)
    return head


def _check_framing(head: Head) -> None:
    lengths, codings = head.get(b"content-length"), head.get(b"transfer-encoding")
    if lengths and codings:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or len(codings) > 1:
        raise BadRequest(400, "a length twice")
    if lengths and not LENGTH.fullmatch(lengths[0]):
        raise BadRequest(400, "a Content-Length that is no number")
    if codings and (codings[0].lower() != b"chunked" or not head.minor):
        raise BadRequest(400, "a Transfer-Encoding other than chunked, or in HTTP/1.0")


def _check_target(head: Head, scheme: bytes) -> None:
    hosts = head.get(b"host")
    if len(hosts) != 1:
        raise BadRequest(400, "no Host header" if not hosts else "more than one Host header")
    default_port = 443 if scheme == b"https" else 80
    head.host, head.port = parse_authority(hosts[0], default_port)
    target = head.target
    if head.method == b"CONNECT":
        if not re.search(rb":[0-9]{1,5}$", target):
            raise BadRequest(400, "CONNECT to no port")
        parse_authority(target, default_port)
        return
    if not _TARGET.fullmatch(target):
        raise BadRequest(400, "not a target: characters that belong to none")
    if target == b"*":
        if head.method != b"OPTIONS":
            raise BadRequest(400, "not a target: *")
    elif not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None or match[1].lower() != scheme:
            raise BadRequest(400, "not a target that can be asked for here")
        if parse_authority(match[2], default_port) != (head.host, head.port):
            raise BadRequest(400, "a target of another host than the Host header's")
        rest = match[3]
        head.target = rest if rest.startswith(b"/") else b"/" + rest


def parse_authority(value: bytes, default_port: int = 80) -> tuple[str | bytes, int]:
    """Host and port.  Raises BadRequest."""
    try:
        match = _HOST.fullmatch(value.decode("ascii"))
        if match is None:
            raise BadHost("not a host")
        port = int(match[2] or default_port)
        if not 1 <= port <= 65535 or (match[2] or "").startswith("0"):
            raise BadHost("not a port")
        return parse_host(match[1]), port
    except (UnicodeDecodeError, BadHost):
        raise BadRequest(400, "a Host header that is no host") from None


def refusal(status: int, reason: str) -> bytes:
    """An answer made by egress, after which the connection ends."""
    phrases = {
        400: "Bad Request",
        403: "Forbidden",
        413: "Content Too Large",
        421: "Misdirected Request",
        429: "Too Many Requests",
        502: "Bad Gateway",
    }
    text = f"cloche: {reason}\n".encode("ascii", "backslashreplace")
    head = (
        f"HTTP/1.1 {status} {phrases.get(status, 'Refused')}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + text
