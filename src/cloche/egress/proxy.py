"""The protocols of proxies that programs use: HTTP's CONNECT, requests with absolute targets (RFC 9110, 9.3.6), SOCKS
5 (RFC 1928).

The proxy is egress itself, at an address of its own; its requests are decided and screened like direct connections.
It needs no password, since only programs inside can reach it.
"""

import asyncio
import re
import socket
from typing import Final

from cloche.egress.hosts import BadHost, parse_host, unmapped
from cloche.egress.httpcheck import MAX_HEAD, BadRequest, check_head, parse_authority, refusal
from cloche.egress.resolver import receive_exactly

__all__ = ["PROXIES", "Wanted", "read_connect", "read_socks"]

PROXIES: Final = {3128: "http-proxy", 1080: "socks-proxy"}
_CONNECT: Final = re.compile(rb"CONNECT (\S{1,300}) HTTP/1\.[01]")
_ABSOLUTE: Final = re.compile(rb"[A-Za-z]{1,64} http://([^/?#\s]{1,300})[/? ]", re.IGNORECASE)
_PIECE: Final = 65536
_SOCKS_REFUSED: Final = b"\5\2\0\1\0\0\0\0\0\0"  # not allowed by the rules


class Wanted:
    """The destination that a program asks for, and the answers to it."""

    def __init__(self, host: str | bytes, port: int) -> None:
        self.host: str | bytes = host
        self.port: int = port
        self.consent: bytes = b""
        self.rest: bytes = b""  # bytes that came after the request
        self.is_socks: bool = False
        self.is_request: bool = False  # plain HTTP; `rest` is the request

    def refusal(self, reason: str) -> bytes:
        """The answer if there is no connection."""
        return _SOCKS_REFUSED if self.is_socks else refusal(403, reason)


async def read_connect(inside: socket.socket) -> Wanted | None:
    """The first request of a client of an HTTP proxy; None if the client has ended, or has got an error answer.

    Raises OSError.
    """
    loop = asyncio.get_running_loop()
    data = b""
    while b"\r\n\r\n" not in data:
        more = await loop.sock_recv(inside, _PIECE)
        if not more or len(data) > MAX_HEAD:
            return None
        data += more
    head, _end, rest = data.partition(b"\r\n\r\n")
    try:
        match = _CONNECT.fullmatch(head.split(b"\r\n")[0])
        if match is not None:
            if not re.search(rb":[0-9]{1,5}$", match[1]):
                raise BadRequest(400, "CONNECT to no port")
            made = Wanted(*parse_authority(match[1]))
            made.consent, made.rest = b"HTTP/1.1 200 Connection established\r\n\r\n", rest
            return made
        absolute = _ABSOLUTE.match(head)
        if absolute is None:
            raise BadRequest(400, "not a request to a proxy")
        whole = check_head(head + b"\r\n\r\n")
        made = Wanted(whole.host, whole.port)
        made.rest, made.is_request = data, True
        return made
    except BadRequest as bad:
        await loop.sock_sendall(inside, refusal(bad.status, bad.reason))
        return None


async def read_socks(inside: socket.socket) -> Wanted | None:
    """The question of a SOCKS client; None if the client has got an error answer.  Raises OSError."""
    loop = asyncio.get_running_loop()
    version, count = await receive_exactly(inside, 2)
    if version != 5:
        return None
    methods = await receive_exactly(inside, count)
    if 0 not in methods:
        await loop.sock_sendall(inside, b"\5\xff")
        return None
    await loop.sock_sendall(inside, b"\5\0")
    version, command, _reserved, kind = await receive_exactly(inside, 4)
    host: str | bytes = b""
    try:
        if kind == 1:
            host = await receive_exactly(inside, 4)
        elif kind == 4:
            host = unmapped(await receive_exactly(inside, 16))
        elif kind == 3:
            raw = await receive_exactly(inside, (await receive_exactly(inside, 1))[0])
            host = parse_host(raw.decode("ascii"))
        else:
            raise BadHost("an address of another kind")
        port = int.from_bytes(await receive_exactly(inside, 2), "big")
        if version != 5 or command != 1 or not port:
            raise BadHost("not a connection")
    except (BadHost, UnicodeDecodeError):
        await loop.sock_sendall(inside, _SOCKS_REFUSED)
        return None
    made = Wanted(host, port)
    made.is_socks = True
    made.consent = b"\5\0\0\1\0\0\0\0\0\0"
    return made
