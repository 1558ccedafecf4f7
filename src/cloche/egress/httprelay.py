"""Plain HTTP to a granted name: every request is taken apart strictly, checked, and written anew.

Nothing that a program sends gets through as it is.  Two servers may read a malformed message differently (request
smuggling), so whatever RFC 9110 and 9112 leave to taste is refused before h11 sees it; what h11 has understood is what
goes out.  One connection upstream serves one connection inside, and each request of it is decided by itself.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Final

import h11

from cloche.egress.hosts import BadHost, address_text, parse_host

__all__ = ["MAX_HEAD", "BadRequest", "Head", "HttpRelay", "check_head", "parse_authority", "refusal"]

MAX_HEAD: Final = 65536
_MAX_HEADERS: Final = 200
_PIECE: Final = 65536
_LATE_BODY_S: Final = 1.0  # for the rest of a request that was answered already
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) (\S{1,32768}) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(/[^#]*|\?[^#]*|)")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]+")
# Of one connection only (RFC 9110, 7.6.1), or said anew.
_HOP: Final = frozenset(
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
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))


class BadRequest(Exception):
    """A request that does not go out; the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status: int = status
        self.reason: str = reason


class Head:
    """What a request says of itself."""

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


def check_head(raw: bytes) -> Head:
    """Take apart a request up to its empty line, both included.  Raises BadRequest."""
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
    _check_target(head)
    return head


def _check_framing(head: Head) -> None:
    lengths, codings = head.get(b"content-length"), head.get(b"transfer-encoding")
    if lengths and codings:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or len(codings) > 1:
        raise BadRequest(400, "a length twice")
    if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise BadRequest(400, "a Content-Length that is no number")
    if codings and (codings[0].lower() != b"chunked" or not head.minor):
        raise BadRequest(400, "a Transfer-Encoding other than chunked, or in HTTP/1.0")


def _check_target(head: Head) -> None:
    hosts = head.get(b"host")
    if len(hosts) != 1:
        raise BadRequest(400, "no Host header" if not hosts else "more than one Host header")
    head.host, head.port = parse_authority(hosts[0])
    if head.method == b"CONNECT":
        raise BadRequest(403, "CONNECT is not allowed by any rule")
    target = head.target
    if not _TARGET.fullmatch(target):
        raise BadRequest(400, "not a target: characters that belong to none")
    if target == b"*":
        if head.method != b"OPTIONS":
            raise BadRequest(400, "not a target: *")
    elif not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None or match[1].lower() != b"http":
            raise BadRequest(400, "not a target that can be asked for here")
        if parse_authority(match[2]) != (head.host, head.port):
            raise BadRequest(400, "a target of another host than the Host header's")
        rest = match[3]
        head.target = rest if rest.startswith(b"/") else b"/" + rest


def parse_authority(value: bytes) -> tuple[str | bytes, int]:
    """Host and port.  Raises BadRequest."""
    try:
        match = _HOST.fullmatch(value.decode("ascii"))
        if match is None:
            raise BadHost("not a host")
        port = int(match[2] or "80")
        if not 1 <= port <= 65535:
            raise BadHost("not a port")
        return parse_host(match[1]), port
    except (UnicodeDecodeError, BadHost):
        raise BadRequest(400, "a Host header that is no host") from None


def refusal(status: int, reason: str) -> bytes:
    """An answer of our own, after which the connection ends."""
    phrases = {400: "Bad Request", 403: "Forbidden", 421: "Misdirected Request", 502: "Bad Gateway"}
    text = f"cloche: {reason}\n".encode("ascii", "backslashreplace")
    head = (
        f"HTTP/1.1 {status} {phrases.get(status, 'Refused')}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + text


class HttpRelay:
    """One connection inside and one upstream."""

    def __init__(
        self,
        inside: socket.socket,
        upstream: socket.socket,
        name: str,
        port: int,
        on_request: Callable[[str, str, int, str], None],
    ) -> None:
        """`on_request` hears of each request: method, target, status (0: not known yet), and why it was refused."""
        self.inside: socket.socket = inside
        self.upstream: socket.socket = upstream
        self.name: str = name
        self.port: int = port
        self.on_request: Callable[[str, str, int, str], None] = on_request
        self.received: int = 0  # from upstream
        self.sent: int = 0
        self._buffer: bytearray = bytearray()  # of inside, not used yet
        self.is_single: bool = False  # one request, and the end: the next may be for another host
        self._client: h11.Connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def run(self, begun: bytes = b"") -> None:
        """Until either side ends; `begun` has come from inside already.  Raises OSError."""
        self._buffer += begun
        while await self._serve_one():
            if self.is_single:
                return

    async def _send_inside(self, data: bytes | None) -> None:
        if data:
            await asyncio.get_running_loop().sock_sendall(self.inside, data)

    async def _send_upstream(self, data: bytes | None) -> None:
        if data:
            self.sent += len(data)
            await asyncio.get_running_loop().sock_sendall(self.upstream, data)

    async def _read_head(self) -> bytes:
        """Up to the empty line; empty at the end of the connection.  Raises BadRequest."""
        buffer = self._buffer
        loop = asyncio.get_running_loop()
        seen = 0
        while True:
            at = buffer.find(b"\r\n\r\n", max(seen - 3, 0))
            if at >= 0:
                raw = bytes(buffer[: at + 4])
                del buffer[: at + 4]
                return raw
            bare = buffer.find(b"\n\n")
            if bare >= 0 or len(buffer) > MAX_HEAD:
                raise BadRequest(
                    400, "lines that do not end in CR LF" if bare >= 0 else "a head that has no end"
                )
            seen = len(buffer)
            data = await loop.sock_recv(self.inside, _PIECE)
            if not data:
                return b""
            buffer += data

    async def _serve_one(self) -> bool:
        """A request and its answer; whether another may follow."""
        method = target = ""
        try:
            raw = await self._read_head()
            if not raw:
                return False
            head = check_head(raw)
            method = head.method.decode("ascii")
            target = head.target.decode("ascii", "backslashreplace")
            request = self._rewrite(head)
        except BadRequest as bad:
            self.on_request(method, target, bad.status, bad.reason)
            await self._send_inside(refusal(bad.status, bad.reason))
            return False
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            server.receive_data(raw)
            understood = server.next_event()
        except h11.RemoteProtocolError:
            understood = None
        if not isinstance(understood, h11.Request):
            self.on_request(method, target, 400, "not understood")
            await self._send_inside(refusal(400, "a request that is not understood"))
            return False
        self.on_request(method, target, 0, "")
        return await self._exchange(server, request, head)

    def _rewrite(self, head: Head) -> h11.Request:
        """The request as it goes out.  Raises BadRequest."""
        if head.host != self.name or head.port != self.port:
            asked = head.host if isinstance(head.host, str) else address_text(head.host)
            raise BadRequest(
                421,
                f"this connection is to {self.name}:{self.port}, and the request for {asked}:{head.port};"
                f" connect to {asked} itself, which --allow {asked}:{head.port} would allow",
            )
        upgrades = head.tokens(b"upgrade")
        if upgrades and upgrades != [b"h2c"]:
            raise BadRequest(
                403, f"an upgrade to {upgrades[0].decode('ascii', 'replace')} is not allowed by any rule"
            )
        dropped = _HOP | frozenset(head.tokens(b"connection"))
        host = self.name if self.port == 80 else f"{self.name}:{self.port}"
        headers: list[tuple[bytes, bytes]] = [(b"Host", host.encode("ascii"))]
        headers.extend(
            (name, value)
            for name, value in head.headers
            if name not in dropped or name in (b"content-length",)
        )
        if head.get(b"transfer-encoding"):
            headers.append((b"Transfer-Encoding", b"chunked"))
        try:
            return h11.Request(method=head.method, target=head.target, headers=headers)
        except h11.LocalProtocolError:
            raise BadRequest(400, "a request that is not understood") from None

    async def _exchange(self, server: h11.Connection, request: h11.Request, head: Head) -> bool:
        client = self._client
        try:
            await self._send_upstream(client.send(request))
        except h11.LocalProtocolError:
            return False
        body = asyncio.ensure_future(self._pump_whole_body(server))
        try:
            is_whole = await self._pump_answer(server, head)
            if is_whole and not body.done():
                await asyncio.wait({body}, timeout=_LATE_BODY_S)
            if not is_whole or not body.done() or body.exception() is not None:
                return False
        except (h11.RemoteProtocolError, h11.LocalProtocolError):
            if server.our_state is h11.SEND_RESPONSE:
                await self._send_inside(refusal(502, f"{self.name} does not answer in HTTP"))
            return False
        finally:
            if not body.done():
                body.cancel()
            await asyncio.gather(body, return_exceptions=True)
        if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
            return False
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            return False
        self._buffer[:0] = server.trailing_data[0]
        if server.trailing_data[1]:
            return False
        client.start_next_cycle()
        return True

    async def _pump_whole_body(self, server: h11.Connection) -> None:
        try:
            await self._pump_body(server)
        except (h11.RemoteProtocolError, h11.LocalProtocolError, OSError):
            # Upstream must not take what came for a whole request, and nobody waits for its answer.
            try:
                self.upstream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            raise

    async def _pump_body(self, server: h11.Connection) -> None:
        """The request's body.  Raises OSError, h11.RemoteProtocolError."""
        loop = asyncio.get_running_loop()
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            server.receive_data(data)
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                data = await loop.sock_recv(self.inside, _PIECE)
                server.receive_data(data)
            elif isinstance(event, h11.Data):
                await self._send_upstream(self._client.send(h11.Data(data=bytes(event.data))))
            elif isinstance(event, h11.EndOfMessage):
                await self._send_upstream(self._client.send(h11.EndOfMessage()))  # without trailers
                return
            else:
                raise h11.RemoteProtocolError("the request ends early")

    async def _pump_answer(self, server: h11.Connection, head: Head) -> bool:
        """The answer; whether it was whole."""
        client = self._client
        loop = asyncio.get_running_loop()
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                data = await loop.sock_recv(self.upstream, _PIECE)
                self.received += len(data)
                client.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return False
                if head.minor:
                    kept = [pair for pair in event.headers if pair[0] not in _HOP]
                    answer = h11.InformationalResponse(
                        status_code=event.status_code, headers=kept, reason=event.reason
                    )
                    await self._send_inside(server.send(answer))
            elif isinstance(event, h11.Response):
                dropped = _HOP | {
                    word.strip().lower()
                    for name, value in event.headers
                    if name == b"connection"
                    for word in value.split(b",")
                }
                kept = [pair for pair in event.headers if pair[0] not in dropped - {b"content-length"}]
                if (
                    self.is_single
                    or client.their_state is h11.MUST_CLOSE
                    or not head.minor
                    or client.their_http_version == b"1.0"
                ):
                    kept.append((b"connection", b"close"))
                made = h11.Response(status_code=event.status_code, headers=kept, reason=event.reason)
                await self._send_inside(server.send(made))
            elif isinstance(event, h11.Data):
                await self._send_inside(server.send(h11.Data(data=bytes(event.data))))
            elif isinstance(event, h11.EndOfMessage):
                await self._send_inside(server.send(h11.EndOfMessage()))
                return True
            else:
                return False
