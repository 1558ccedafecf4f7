"""Requests for ports of a sandbox: passed on to whatever listens there, by HTTP/1.1, and WebSockets.

Each has a connection of its own to the port (`AsyncSandbox.dial`).  What the server inside says is a stranger's: it is
parsed, within limits, and goes on as the body and headers of an answer, never as framing.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    TextMessage,
)
from wsproto.events import Request as WebSocketRequest
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from cloche.sdk.errors import PortClosed
from cloche.serve.entry import Entry, ServeError

HEAD_S: Final = 600.0  # until the answer begins
MAX_MESSAGE_BYTES: Final = 16 << 20  # of a WebSocket
PORT_HEADER: Final = "cloche-port"  # to the daemon of a pod: which of its sandbox's ports is meant
_READ_BYTES: Final = 1 << 16
# Of one connection, and not to be passed on; the tokens are ours.
_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te")
    + (
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"e2b-traffic-access-token",
        b"x-access-token",
        b"cloche-port",
    )
)
_WITHOUT_BODY: Final = ("GET", "HEAD", "OPTIONS", "TRACE", "DELETE")


def closed(entry: Entry, port: int) -> JSONResponse:
    """The answer where nobody listens, in the words of E2B's."""
    message = "The sandbox is running but port is not open"
    return JSONResponse({"sandboxId": entry.ident, "message": message, "port": port, "code": 502}, 502)


def check(headers: Any, entry: Entry) -> None:
    """Whether a request may reach the ports.  Raises ServeError."""
    if entry.is_paused:
        raise ServeError(502, f"sandbox {entry.ident} is paused; connect to it first")
    if not entry.is_public and not entry.is_traffic_token(headers.get("e2b-traffic-access-token", "")):
        raise ServeError(403, "the sandbox's traffic access token is missing or wrong")


def _passed_on(
    headers: list[tuple[bytes, bytes]], more: frozenset[bytes] = _HOP
) -> list[tuple[bytes, bytes]]:
    """Without those of the connection, and those that `Connection` names."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in more | named]


def _target(scope: Scope) -> bytes:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return path.partition(b"?")[0] + (b"?" + query if query else b"")


async def _connect(entry: Entry, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises PortClosed, SandboxError."""
    sock = await entry.dial(port)
    try:
        sock.setblocking(False)
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


class Exchange:
    """A request and its answer."""

    def __init__(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        more: list[tuple[bytes, bytes]],
    ) -> None:
        self.request: Request = request
        self.more: list[tuple[bytes, bytes]] = more  # headers that are added
        self.reader: asyncio.StreamReader = reader
        self.writer: asyncio.StreamWriter = writer
        self.http: h11.Connection = h11.Connection(h11.CLIENT)
        self.sending: asyncio.Task[None] = asyncio.create_task(self._send())

    def _head(self) -> h11.Request:
        request = self.request
        headers = _passed_on(list(request.headers.raw))
        names = {name.lower() for name, _value in headers}
        if b"host" not in names:
            headers.insert(0, (b"host", request.url.netloc.encode()))
        has_body = b"transfer-encoding" in {name.lower() for name, _value in request.headers.raw}
        is_unframed = request.scope["http_version"] == "2" and request.method not in _WITHOUT_BODY
        if b"content-length" not in names and (has_body or is_unframed):
            headers.append((b"transfer-encoding", b"chunked"))
        headers += [*self.more, (b"connection", b"close")]
        return h11.Request(method=request.method, target=_target(request.scope), headers=headers)

    async def _send(self) -> None:
        """The request, as its client sends it."""
        try:
            self.writer.write(self.http.send(self._head()) or b"")
            async for piece in self.request.stream():
                if piece:
                    self.writer.write(self.http.send(h11.Data(data=piece)) or b"")
                    await self.writer.drain()
            self.writer.write(self.http.send(h11.EndOfMessage()) or b"")
            await self.writer.drain()
        except ConnectionError:
            pass  # it may have been answered already: the reader sees that
        except (ClientDisconnect, h11.LocalProtocolError):
            self.writer.close()  # it cannot be sent whole, so no answer is worth waiting for

    async def _next(self) -> Any:
        """The next event.  Raises h11.RemoteProtocolError, ConnectionError."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.reader.read(_READ_BYTES))

    async def head(self) -> h11.Response:
        """Where the answer begins."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("no answer")

    async def body(self) -> AsyncIterator[bytes]:
        """The rest."""
        try:
            while True:
                event = await self._next()
                if not isinstance(event, h11.Data):
                    return
                yield bytes(event.data)
        finally:
            self.close()

    def close(self) -> None:
        """No more of it."""
        self.sending.cancel()
        self.writer.close()


async def forward(request: Request, entry: Entry, port: int, more: list[tuple[bytes, bytes]]) -> Response:
    """Pass a request on, with `more` headers.  Raises SandboxError, ServeError."""
    try:
        reader, writer = await _connect(entry, port)
    except PortClosed:
        return closed(entry, port)
    exchange = Exchange(request, reader, writer, more)
    try:
        async with asyncio.timeout(HEAD_S):
            head = await exchange.head()
    except (h11.RemoteProtocolError, ConnectionError, TimeoutError) as error:
        exchange.close()
        raise ServeError(502, f"port {port} gave no answer of HTTP: {str(error)[:200]}") from None
    except BaseException:
        exchange.close()
        raise
    response = StreamingResponse(exchange.body(), head.status_code)
    response.raw_headers = _passed_on([(bytes(name), bytes(value)) for name, value in head.headers])
    return response


# -- WebSockets ----------------------------------------------------------------------------------------------------
class WebSocket:
    """A WebSocket that is passed on."""

    def __init__(
        self, receive: Receive, send: Send, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.receive: Receive = receive
        self.send: Send = send
        self.reader: asyncio.StreamReader = reader
        self.writer: asyncio.StreamWriter = writer
        self.inside: WSConnection = WSConnection(ConnectionType.CLIENT)
        self.parts: list[Any] = []  # of a message that has begun
        self.length: int = 0

    async def _tell(self, event: Any) -> None:
        self.writer.write(self.inside.send(event))
        await self.writer.drain()

    async def open(self, scope: Scope, more: list[tuple[bytes, bytes]]) -> bool:
        """The handshake with the server inside, then with the client; whether both went well."""
        headers = _passed_on(scope["headers"])
        host = next((value for name, value in headers if name == b"host"), b"localhost")
        asked = [
            (name, value) for name, value in headers if not name.startswith((b"sec-websocket-", b"host"))
        ]
        subprotocols = list(scope.get("subprotocols") or [])
        target = _target(scope).decode("ascii", "replace")
        await self._tell(
            WebSocketRequest(
                host=host.decode("ascii", "replace"),
                target=target,
                subprotocols=subprotocols,
                extra_headers=[*asked, *more],
            )
        )
        async for event in self._events():
            if isinstance(event, AcceptConnection):
                chosen = event.subprotocol if event.subprotocol in subprotocols else None
                await self.send({"type": "websocket.accept", "subprotocol": chosen})
                return True
            if isinstance(event, RejectConnection):
                break
        return False

    async def _events(self) -> AsyncIterator[Any]:
        """Raises RemoteProtocolError, ConnectionError."""
        while True:
            for event in self.inside.events():
                yield event
            data = await self.reader.read(_READ_BYTES)
            self.inside.receive_data(data or None)
            if not data:
                return

    async def outwards(self) -> None:
        """From the server inside to the client, until it closes."""
        code = 1006
        try:
            async for event in self._events():
                if isinstance(event, Ping):
                    await self._tell(event.response())
                elif isinstance(event, (TextMessage, BytesMessage)):
                    await self._message(event)
                elif isinstance(event, CloseConnection):
                    code = event.code if 1000 <= event.code < 5000 else 1000
                    return
        except (RemoteProtocolError, LocalProtocolError, ConnectionError):
            pass
        finally:
            await self.send({"type": "websocket.close", "code": code if code != 1006 else 1011})

    async def _message(self, event: TextMessage | BytesMessage) -> None:
        self.parts.append(event.data)
        self.length += len(event.data)
        if self.length > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError("a message is too long")
        if event.message_finished:
            is_text = isinstance(event, TextMessage)
            joined = ("" if is_text else b"").join(self.parts)
            self.parts, self.length = [], 0
            await self.send({"type": "websocket.send", "text" if is_text else "bytes": joined})

    async def inwards(self) -> None:
        """From the client to the server inside, until it goes."""
        while True:
            message = await self.receive()
            if message["type"] == "websocket.disconnect":
                await self._tell(CloseConnection(code=1000))
                return
            text = message.get("text")
            await self._tell(
                TextMessage(data=text) if text is not None else BytesMessage(data=message["bytes"])
            )


async def websocket(
    scope: Scope, receive: Receive, send: Send, entry: Entry, port: int, more: list[tuple[bytes, bytes]]
) -> None:
    """Pass a WebSocket on, with `more` headers.  Raises SandboxError, ServeError."""
    await receive()  # websocket.connect
    reader, writer = await _connect(entry, port)
    try:
        passed = WebSocket(receive, send, reader, writer)
        async with asyncio.timeout(HEAD_S):
            is_open = await passed.open(scope, more)
        if not is_open:
            raise ServeError(502, f"port {port} takes no WebSocket")
        tasks = {asyncio.create_task(passed.outwards()), asyncio.create_task(passed.inwards())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        writer.close()
