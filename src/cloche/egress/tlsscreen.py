"""Screens the first bytes of TLS: the ClientHello must ask for the name for which the connection was allowed."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from cloche.egress.clienthello import (
    ALERT_UNRECOGNIZED_NAME,
    MAX_HELLO,
    Hello,
    NotTls,
    is_retry_request,
    parse_client_hello,
)
from cloche.egress.flow import Flow

__all__ = ["HELLO_S", "finish", "read_hello", "refuse_tls", "screen_tls"]

HELLO_S: Final = 60.0
_DRAIN_S: Final = 2.0
_PIECE: Final = 65536
_MAX_READS: Final = 2048  # a ClientHello in more pieces is refused


async def screen_tls(flow: Flow, begun: bytes, on_open: Callable[[], None]) -> bool:
    """Let the hello through if it asks for the right name; False: the program has ended.

    `on_open` is called when it does. Raises NotTls, OSError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    inside, upstream = flow.inside, flow.upstream
    assert inside is not None and upstream is not None
    async with asyncio.timeout(HELLO_S):
        pending, hello = await read_hello(flow, begun, is_second=False)
        if hello is None:
            return False
        on_open()
        await loop.sock_sendall(upstream, pending)
        flow.sent += len(pending)
        first = b""
        while is_retry_request(first) is None:
            data = await loop.sock_recv(upstream, _PIECE)
            if not data:
                break
            first += data
        if first:
            await loop.sock_sendall(inside, first)
            flow.received += len(first)
        if is_retry_request(first):
            pending, hello = await read_hello(flow, b"", is_second=True)
            if hello is None:
                return False
            await loop.sock_sendall(upstream, pending)
            flow.sent += len(pending)
    return True


async def read_hello(flow: Flow, data: bytes, *, is_second: bool) -> tuple[bytes, Hello | None]:
    """Read a hello that may pass.

    Returns all bytes that were read, and the hello; None: the program has ended. Raises NotTls, OSError.
    """
    loop = asyncio.get_running_loop()
    inside, rule = flow.inside, flow.rule
    assert inside is not None and rule is not None
    for turn in range(_MAX_READS):
        if turn or not data:
            more = await loop.sock_recv(inside, _PIECE)
            if not more:
                if data:
                    raise NotTls("a ClientHello without an end")
                return b"", None
            data += more
        hello = parse_client_hello(data, is_second=is_second)
        if hello is not None:
            if hello.name in flow.candidates:
                flow.name, flow.rule = hello.name, flow.candidates[hello.name]
                rule = flow.rule
            if hello.name != flow.name:
                raise NotTls(f"the server name (SNI) is {hello.name} and not {flow.name}")
            if hello.has_ech and rule.refuses_ech:
                raise NotTls("an encrypted ClientHello (ECH), which the rule refuses")
            return data, hello
        if len(data) > MAX_HELLO:
            break
    raise NotTls("a ClientHello that is too long")


async def refuse_tls(inside: socket.socket, alert: bytes = ALERT_UNRECOGNIZED_NAME) -> None:
    """Send a TLS alert, and end. Raises OSError, TimeoutError."""
    await asyncio.get_running_loop().sock_sendall(inside, alert)
    await finish(inside)


async def finish(inside: socket.socket) -> None:
    """End sending, and read what the program still sends; otherwise the host would reset the connection."""
    loop = asyncio.get_running_loop()
    inside.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(_DRAIN_S):
        while await loop.sock_recv(inside, _PIECE):
            pass
