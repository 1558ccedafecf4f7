"""HTTP/2 inside inspected TLS: every stream is a request that is checked by itself, then sent on egress's own
connection.

Two connections of the h2 library, one to the program and one to the server. Data is queued in a stream until the
other side has room for it, and is acknowledged only then, so the queues are bounded by the windows that egress
grants. Readers never wait: they only queue, and one writer for each side sends.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from cloche.egress.blot import Blotter
from cloche.egress.bodysecrets import MAX_BODY
from cloche.egress.guard import Guard, Headers, Passage
from cloche.egress.httpcheck import HOP, LENGTH, BadRequest, parse_authority
from cloche.egress.httprelay import RequestLog
from cloche.egress.streams import Stream

__all__ = ["Http2Relay", "check_headers"]

_MAX_STREAMS: Final = 100
_WINDOW: Final = 1 << 20  # of a connection
_STREAM_WINDOW: Final = 1 << 18
_MAX_OUT: Final = 1 << 20  # bytes that wait for a socket before more data is made
_MAX_CONTROL: Final = 1 << 22  # the limit for a side that sends but does not read
_MAX_HEADERS: Final = 200
_MAX_LIST: Final = 65536
_KEPT_PIECE: Final = 16384
_MAX_RESETS: Final = 500  # of one connection
_LAST_S: Final = 5.0
_TARGET: Final = re.compile(rb"/[\x21\x22\x24-\x7e]{0,32768}")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}")
_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))


def check_headers(
    fields: Headers, name: str, port: int, upgrades: Sequence[str] = ()
) -> tuple[bytes, bytes, Headers]:
    """Method, target and the other headers of a request to a name.  Raises BadRequest.

    A stream that is to become one of `upgrades` (extended CONNECT, RFC 8441) has CONNECT as its method.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    hosts: list[bytes] = []
    if len(fields) > _MAX_HEADERS:
        raise BadRequest(431, "too many headers")
    for key, value in fields:
        if key.startswith(b":"):
            if key not in _PSEUDO or key in pseudo:
                raise BadRequest(400, "a pseudo-header that belongs to no request, or twice")
            pseudo[key] = value
        elif not _NAME.fullmatch(key) or not _VALUE.fullmatch(value):
            raise BadRequest(400, "a header with characters that belong to none")
        elif key == b"host":
            hosts.append(value)
        elif key == b"te":
            if value.strip().lower() != b"trailers":
                raise BadRequest(400, "a TE header other than trailers")
            headers.append((key, value))
        elif key in HOP:
            raise BadRequest(400, "a header that HTTP/2 does not have")
        else:
            headers.append((key, value))
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method):
        raise BadRequest(400, "not a method")
    protocol = pseudo.get(b":protocol")
    if protocol is not None:
        word = protocol.decode("ascii", "backslashreplace")
        if method != b"CONNECT" or any(key == b"content-length" for key, _value in headers):
            raise BadRequest(400, "a protocol without CONNECT, or with a length")
        if word not in upgrades:
            raise BadRequest(403, f"an upgrade to {word} is not allowed by any rule")
    elif method == b"CONNECT":
        raise BadRequest(403, "CONNECT in HTTP/2 is not allowed by any rule")
    if pseudo.get(b":scheme") != b"https":
        raise BadRequest(400, "a scheme other than https")
    if not _TARGET.fullmatch(target) and not (target == b"*" and method == b"OPTIONS"):
        raise BadRequest(400, "not a target: characters that belong to none")
    if b":authority" in pseudo:
        hosts.append(pseudo[b":authority"])
    if not hosts or len(hosts) > 2:
        raise BadRequest(400, "no :authority" if not hosts else "more than one host")
    for host in hosts:
        asked = parse_authority(host, 443)
        if asked != (name, port):
            shown = host.decode("ascii", "backslashreplace")
            raise BadRequest(421, f"this connection is to {name}:{port}, and the request for {shown}")
    lengths = [value for key, value in headers if key == b"content-length"]
    if len(lengths) > 1 or (lengths and not LENGTH.fullmatch(lengths[0])):
        raise BadRequest(400, "a Content-Length that is no number")
    return method, target, headers


class _Side:
    """One connection: h2's state, and what is to be sent."""

    def __init__(self, stream: Stream, *, is_client: bool) -> None:
        config = h2.config.H2Configuration(client_side=is_client, header_encoding=None)
        self.stream: Stream = stream
        self.conn: h2.connection.H2Connection = h2.connection.H2Connection(config)
        settings = h2.settings.SettingCodes
        self.conn.initiate_connection()
        self.conn.update_settings(
            {
                settings.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                settings.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                settings.MAX_HEADER_LIST_SIZE: _MAX_LIST,
                **({settings.ENABLE_PUSH: 0} if is_client else {}),
            }
        )
        self.conn.increment_flow_control_window(_WINDOW)
        self.wake: asyncio.Event = asyncio.Event()
        self.wake.set()
        self.out: bytearray = bytearray()
        self.waiting: int = 0  # bytes that the writer has and the socket has not taken
        self.is_over: bool = False

    def backlog(self) -> int:
        """Bytes that wait for the socket."""
        self.out += self.conn.data_to_send()
        return len(self.out) + self.waiting

    def take(self) -> bytes:
        """The bytes to send now."""
        self.backlog()
        data = bytes(self.out)
        self.out.clear()
        self.waiting = len(data)
        return data


class _Exchange:
    """One stream, on both sides."""

    def __init__(self, inside_id: int) -> None:
        self.inside_id: int = inside_id
        self.upstream_id: int = 0  # 0: not sent yet
        self.method: str = ""
        self.target: str = ""
        self.passage: Passage | None = None
        self.blotter: Blotter | None = None
        self.task: asyncio.Task[None] | None = None
        self.out: deque[bytes] = deque()
        self.out_ended: bool = False
        self.out_done: bool = False
        self.back: deque[bytes] = deque()
        self.back_ended: bool = False
        self.trailers: Headers | None = None
        self.is_head_whole: bool = False  # the answer's head has ended it
        self.back_done: bool = False
        self.body: int = 0
        self.answer: int = 0
        self.protocol: bytes = b""  # that it is to speak (extended CONNECT)
        self.is_tunnel: bool = False  # it does: what goes through it has no length
        self.acknowledged: int = 0  # bytes of `out` that the program may have sent again already
        self.kept: bytearray | None = None  # a body that must be whole before the request goes out
        self.held: int = 0
        self.has_come: asyncio.Event = asyncio.Event()  # the whole body, or more than is kept


class Http2Relay:
    """A connection inside and one upstream, both of HTTP/2."""

    def __init__(self, inside: Stream, upstream: Stream, guard: Guard, on_request: RequestLog) -> None:
        self.inside: _Side = _Side(inside, is_client=False)
        self.upstream: _Side = _Side(upstream, is_client=True)
        self.guard: Guard = guard
        self.name: str = guard.flow.name
        self.port: int = guard.flow.target.port
        self.on_request: RequestLog = on_request
        self.by_inside: dict[int, _Exchange] = {}
        self.by_upstream: dict[int, _Exchange] = {}
        self.resets: int = 0
        self.received: int = 0
        self.sent: int = 0
        self.is_draining: bool = False  # the server takes no new requests
        self.offers_protocols: bool = False  # the program knows that streams may become something else

    async def run(self) -> None:
        """Until either side ends.  Raises OSError."""
        writers = [asyncio.ensure_future(self._write(side)) for side in (self.inside, self.upstream)]
        readers = [asyncio.ensure_future(self._read_inside()), asyncio.ensure_future(self._read_upstream())]
        try:
            await asyncio.wait({*writers, *readers}, return_when=asyncio.FIRST_COMPLETED)
            for exchange in list(self.by_inside.values()):
                self._reset(exchange, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self._go_away(self.inside)
            self._go_away(self.upstream)
            for reader in readers:
                reader.cancel()
            await asyncio.wait(writers, timeout=_LAST_S)
        finally:
            for task in (*readers, *writers):
                task.cancel()
            for exchange in list(self.by_inside.values()):
                if exchange.task is not None:
                    exchange.task.cancel()
            found = await asyncio.gather(*readers, *writers, return_exceptions=True)
            for each in found:
                if isinstance(each, Exception) and not isinstance(each, (OSError, h2.exceptions.H2Error)):
                    raise each

    @staticmethod
    def _go_away(side: _Side) -> None:
        try:
            side.conn.close_connection()
        except h2.exceptions.H2Error:
            pass
        side.is_over = True
        side.wake.set()

    # -- the sockets -----------------------------------------------------------------------------------------
    async def _write(self, side: _Side) -> None:
        while True:
            data = side.take()
            if data:
                await side.stream.send(data)
                side.waiting = 0
                if side is self.upstream:
                    self.sent += len(data)
                self._pump_all()
                continue
            if side.is_over:
                return
            side.wake.clear()
            await side.wake.wait()

    async def _read_inside(self) -> None:
        await self._read(self.inside)

    async def _read_upstream(self) -> None:
        await self._read(self.upstream)

    async def _read(self, side: _Side) -> None:
        """Until it ends, or speaks something else."""
        while True:
            data = await side.stream.receive()
            if not data:
                return
            if side is self.upstream:
                self.received += len(data)
            try:
                events = side.conn.receive_data(data)
            except h2.exceptions.ProtocolError:
                side.wake.set()
                return
            for event in events:
                if side is self.inside:
                    self._take_inside(event)
                else:
                    self._take_upstream(event)
            self._pump_all()
            if side.backlog() > _MAX_CONTROL or self.resets > _MAX_RESETS:
                return
            if self.is_draining and not self.by_inside:
                return

    # -- requests --------------------------------------------------------------------------------------------
    def _take_inside(self, event: h2.events.Event) -> None:
        conn = self.inside.conn
        if isinstance(event, h2.events.RequestReceived):
            exchange = _Exchange(event.stream_id)
            self.by_inside[event.stream_id] = exchange
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            exchange.task = asyncio.ensure_future(self._admit(exchange, fields))
        elif isinstance(event, h2.events.DataReceived):
            found = self.by_inside.get(event.stream_id)
            data = bytes(event.data)
            length = event.flow_controlled_length
            if found is None or found.out_ended:
                self._acknowledge(conn, length, event.stream_id)
                return
            self._acknowledge(conn, length - len(data), event.stream_id)
            found.body += len(data)
            if found.kept is not None:
                if not self._keep(found, data):
                    return
            elif data:
                found.out.append(data)
            if found.passage is not None and not found.is_tunnel:
                self._count(found)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.TrailersReceived)):
            found = self.by_inside.get(event.stream_id)
            if found is not None:
                found.out_ended = True  # trailers of a request are left out
                found.has_come.set()
        elif isinstance(event, h2.events.StreamReset):
            found = self.by_inside.get(event.stream_id)
            self.resets += 1
            if found is not None:
                self._drop(found, h2.errors.ErrorCodes.CANCEL)

    def _count(self, exchange: _Exchange) -> bool:
        """Whether the body may be as long as it is."""
        assert exchange.passage is not None
        try:
            exchange.passage.count_body(exchange.body)
        except BadRequest as bad:
            self._refuse(exchange, bad)
            return False
        return True

    def _keep(self, exchange: _Exchange, data: bytes) -> bool:
        """Of a body that is kept: the program may send on.  Whether there was room for it; else it was refused."""
        assert exchange.kept is not None
        if not self.guard.holding.take(len(data)):
            self._refuse(
                exchange, BadRequest(503, "too many bodies that secrets would be put into at a time")
            )
            return False
        exchange.held += len(data)
        exchange.kept += data
        self._acknowledge(self.inside.conn, len(data), exchange.inside_id)
        if len(exchange.kept) > MAX_BODY:
            exchange.has_come.set()
        return True

    async def _fill_body(self, exchange: _Exchange, passage: Passage) -> None:
        """Wait for the body, and put secrets in; of a long one nothing is looked at."""
        exchange.kept = bytearray()
        waiting = list(exchange.out)
        exchange.out.clear()
        for data in waiting:
            if not self._keep(exchange, data):
                return
        if any(name == b"expect" for name, _value in passage.headers):
            passage.headers = [(name, value) for name, value in passage.headers if name != b"expect"]
            self.inside.conn.send_headers(exchange.inside_id, [(b":status", b"100")])
        self._wake()
        if not exchange.out_ended and len(exchange.kept) <= MAX_BODY:
            await exchange.has_come.wait()
        body = bytes(exchange.kept)
        exchange.kept = None
        if exchange.out_ended:
            body = passage.fill_body(body)
        for at in range(0, len(body), _KEPT_PIECE):
            exchange.out.append(body[at : at + _KEPT_PIECE])
        exchange.acknowledged = len(body)

    async def _admit(self, exchange: _Exchange, fields: Headers) -> None:
        try:
            for name, value in fields:
                if name in (b":method", b":path"):
                    text = value[:1024].decode("ascii", "backslashreplace")
                    exchange.method, exchange.target = (
                        (text, exchange.target) if name == b":method" else (exchange.method, text)
                    )
            rule = self.guard.flow.rule
            upgrades = rule.upgrades if rule is not None else []
            method, target, headers = check_headers(fields, self.name, self.port, upgrades)
            exchange.protocol = next((value for name, value in fields if name == b":protocol"), b"")
            if exchange.protocol and not self._takes_protocols():
                raise BadRequest(501, f"{self.name} takes no upgrade within HTTP/2")
            # What becomes a WebSocket is a GET in HTTP/1.1: rules mean the same by it here.
            passage = await self.guard.admit(b"GET" if exchange.protocol else method, target, headers)
        except BadRequest as bad:
            self._refuse(exchange, bad)
            return
        if self.by_inside.get(exchange.inside_id) is not exchange:
            return  # reset meanwhile
        exchange.passage = passage
        if not exchange.protocol and not self._count(exchange):
            return
        if passage.body_secrets and not exchange.protocol:
            try:
                await self._fill_body(exchange, passage)
            except h2.exceptions.H2Error:
                self._reset(exchange, h2.errors.ErrorCodes.REFUSED_STREAM)
            if self.by_inside.get(exchange.inside_id) is not exchange:
                return
        upstream = self.upstream.conn
        if (
            self.is_draining
            or upstream.open_outbound_streams >= upstream.remote_settings.max_concurrent_streams
        ):
            self._reset(exchange, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        authority = self.name if self.port == 443 else f"{self.name}:{self.port}"
        sent = [
            (b":method", method),
            *([(b":protocol", exchange.protocol)] if exchange.protocol else []),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
            (b":path", passage.target),
            *passage.headers,
        ]
        if passage.needles and not exchange.protocol:
            sent.append((b"accept-encoding", b"identity"))
        try:
            exchange.upstream_id = upstream.get_next_available_stream_id()
            is_all = exchange.out_ended and not exchange.out
            upstream.send_headers(exchange.upstream_id, sent, end_stream=is_all)
            exchange.out_done = is_all
        except (h2.exceptions.H2Error, ValueError):
            self._reset(exchange, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self.by_upstream[exchange.upstream_id] = exchange
        exchange.blotter = passage.blotter()
        self.on_request(exchange.method, exchange.target, 0, "")
        self._pump(exchange)
        self._wake()

    def _refuse(self, exchange: _Exchange, bad: BadRequest) -> None:
        """Answer with the reason, and end the stream."""
        self.on_request(exchange.method, exchange.target, bad.status, bad.reason)
        conn = self.inside.conn
        text = f"cloche: {bad.reason}\n".encode("ascii", "backslashreplace")
        headers = [(b":status", str(bad.status).encode()), (b"content-type", b"text/plain")]
        try:
            if exchange.answer or exchange.back_done:
                raise h2.exceptions.ProtocolError("it has begun")
            conn.send_headers(exchange.inside_id, headers)
            conn.send_data(exchange.inside_id, text, end_stream=True)
            exchange.back_done = True
            if not exchange.out_ended:
                conn.reset_stream(exchange.inside_id, h2.errors.ErrorCodes.NO_ERROR)
            self._drop(exchange, h2.errors.ErrorCodes.CANCEL)
        except (h2.exceptions.H2Error, ValueError):
            self._reset(exchange, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        self._wake()

    def _takes_protocols(self) -> bool:
        """Whether the server has said that streams may become something else (RFC 8441)."""
        return self.upstream.conn.remote_settings.enable_connect_protocol == 1

    def _offer_protocols(self) -> None:
        """Say to the program what the server has said, if the rule lets something of it through; never again no."""
        rule = self.guard.flow.rule
        if not self.offers_protocols and rule is not None and rule.upgrades and self._takes_protocols():
            self.offers_protocols = True
            self.inside.conn.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})

    # -- answers ---------------------------------------------------------------------------------------------
    def _take_upstream(self, event: h2.events.Event) -> None:
        conn = self.upstream.conn
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._offer_protocols()
            return
        if isinstance(event, h2.events.ConnectionTerminated):
            self.is_draining = True
            if event.error_code == h2.errors.ErrorCodes.NO_ERROR:
                # h2 calls the connection closed; what was sent before is answered nevertheless (RFC 9113, 6.8).
                conn.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            return
        if isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            found = self.by_upstream.get(event.stream_id)
            if found is not None:
                is_whole = isinstance(event, h2.events.ResponseReceived) and event.stream_ended is not None
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                self._take_answer(found, fields, is_whole=is_whole)
        elif isinstance(event, h2.events.DataReceived):
            found = self.by_upstream.get(event.stream_id)
            data = bytes(event.data)
            length = event.flow_controlled_length
            if found is None or found.passage is None:
                self._acknowledge(conn, length, event.stream_id)
                return
            self._acknowledge(conn, length - len(data), event.stream_id)
            found.answer += len(data)
            if not found.is_tunnel and found.passage.is_too_long(found.answer):
                self._acknowledge(conn, len(data), event.stream_id)
                reason = f"an answer of more than the {found.passage.max_response} bytes that the rule allows"
                self.on_request(found.method, found.target, 502, reason)
                self._reset(found, h2.errors.ErrorCodes.CANCEL)
            elif data:
                found.back.append(data)
        elif isinstance(event, h2.events.TrailersReceived):
            found = self.by_upstream.get(event.stream_id)
            if found is not None and found.passage is not None:
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                found.trailers = found.passage.blotted(fields)
        elif isinstance(event, h2.events.StreamEnded):
            found = self.by_upstream.get(event.stream_id)
            if found is not None:
                found.back_ended = True
        elif isinstance(event, h2.events.StreamReset):
            found = self.by_upstream.get(event.stream_id)
            if found is not None:
                self._reset(found, event.error_code)

    def _take_answer(self, exchange: _Exchange, fields: Headers, *, is_whole: bool) -> None:
        """`is_whole`: the answer is only this head; so it is to the program, or clients of gRPC take it for another."""
        assert exchange.passage is not None
        status = next((value for name, value in fields if name == b":status"), b"")
        kept = [(name, value) for name, value in fields if not name.startswith(b":") and name not in HOP]
        try:
            number = int(status)
            exchange.is_tunnel = bool(exchange.protocol) and 200 <= number < 300
            if number >= 200:
                exchange.passage.check_answer(kept)
                self.on_request(exchange.method, exchange.target, number, "")
            headers = [(b":status", status), *exchange.passage.blotted(kept)]
            self.inside.conn.send_headers(exchange.inside_id, headers, end_stream=is_whole)
            exchange.is_head_whole = is_whole
        except BadRequest as bad:
            self._refuse(exchange, bad)
        except (h2.exceptions.H2Error, ValueError):
            self._reset(exchange, h2.errors.ErrorCodes.PROTOCOL_ERROR)

    # -- data ------------------------------------------------------------------------------------------------
    @staticmethod
    def _acknowledge(conn: h2.connection.H2Connection, length: int, stream_id: int) -> None:
        if length > 0:
            try:
                conn.acknowledge_received_data(length, stream_id)
            except (h2.exceptions.H2Error, ValueError, KeyError):
                pass  # the stream is over

    def _pump_all(self) -> None:
        for exchange in list(self.by_inside.values()):
            self._pump(exchange)
        self._wake()

    def _wake(self) -> None:
        self.inside.wake.set()
        self.upstream.wake.set()

    def _pump(self, exchange: _Exchange) -> None:
        """Move as much data as there is room for."""
        if not exchange.upstream_id or exchange.passage is None:
            return
        try:
            self._move(
                self.upstream,
                exchange.upstream_id,
                exchange.out,
                self.inside,
                exchange.inside_id,
                None,
                exchange,
            )
            if exchange.out_ended and not exchange.out and not exchange.out_done:
                exchange.out_done = True
                self.upstream.conn.end_stream(exchange.upstream_id)
            self._move(
                self.inside,
                exchange.inside_id,
                exchange.back,
                self.upstream,
                exchange.upstream_id,
                exchange.blotter,
            )
            if exchange.back_ended and not exchange.back and not exchange.back_done:
                self._finish(exchange)
        except (h2.exceptions.H2Error, ValueError):
            self._reset(exchange, h2.errors.ErrorCodes.INTERNAL_ERROR)

    def _finish(self, exchange: _Exchange) -> None:
        """The end of an answer.  Raises H2Error."""
        conn = self.inside.conn
        rest = exchange.blotter.end() if exchange.blotter is not None else b""
        if rest:
            if conn.local_flow_control_window(exchange.inside_id) < len(rest):
                exchange.back.append(rest)  # the end: the rest contains no secret
                exchange.blotter = None
                return
            conn.send_data(exchange.inside_id, rest)
        exchange.back_done = True
        if exchange.trailers is not None:
            conn.send_headers(exchange.inside_id, exchange.trailers, end_stream=True)
        elif not exchange.is_head_whole:
            conn.end_stream(exchange.inside_id)
        if not exchange.out_done:  # answered before the request was whole
            conn.reset_stream(exchange.inside_id, h2.errors.ErrorCodes.NO_ERROR)
        self._drop(exchange, h2.errors.ErrorCodes.CANCEL)

    def _move(
        self,
        side: _Side,
        stream_id: int,
        waiting: deque[bytes],
        source: _Side,
        source_id: int,
        blotter: Blotter | None,
        keeper: _Exchange | None = None,
    ) -> None:
        """From a queue to a side, as far as its window goes; `keeper` may have kept its beginning.  Raises H2Error."""
        while waiting and side.backlog() < _MAX_OUT:
            window = side.conn.local_flow_control_window(stream_id)
            room = min(window, side.conn.max_outbound_frame_size)
            if blotter is not None:
                room -= len(blotter.kept)
            if room <= 0:
                return
            data = waiting.popleft()
            if len(data) > room:
                waiting.appendleft(data[room:])
                data = data[:room]
            sent = blotter.feed(data) if blotter is not None else data
            if sent:
                side.conn.send_data(stream_id, sent)
            count = len(data)
            if keeper is not None and keeper.acknowledged:
                count -= self._let_go(keeper, count)
            self._acknowledge(source.conn, count, source_id)

    def _let_go(self, exchange: _Exchange, count: int) -> int:
        """So much has moved on: how much of it was kept, and is acknowledged."""
        known = min(exchange.acknowledged, count)
        exchange.acknowledged -= known
        if not exchange.acknowledged:
            self.guard.holding.give(exchange.held)
            exchange.held = 0
        return known

    def _reset(self, exchange: _Exchange, code: int) -> None:
        """End a stream on both sides."""
        try:
            self.inside.conn.reset_stream(exchange.inside_id, code)
        except (h2.exceptions.H2Error, ValueError):
            pass
        self._drop(exchange, h2.errors.ErrorCodes.CANCEL)

    def _drop(self, exchange: _Exchange, code: int) -> None:
        """The program's side has ended: end the server's side, and drop queued data."""
        self.by_inside.pop(exchange.inside_id, None)
        self.guard.holding.give(exchange.held)
        exchange.held = 0
        if exchange.task is not None and exchange.task is not asyncio.current_task():
            exchange.task.cancel()
        left = sum(map(len, exchange.out)) - exchange.acknowledged
        self._acknowledge(self.inside.conn, left, exchange.inside_id)
        if exchange.upstream_id:
            self._acknowledge(self.upstream.conn, sum(map(len, exchange.back)), exchange.upstream_id)
            self.by_upstream.pop(exchange.upstream_id, None)
            if not (exchange.back_ended and exchange.out_done):
                try:
                    self.upstream.conn.reset_stream(exchange.upstream_id, code)
                except (h2.exceptions.H2Error, ValueError):
                    pass
        exchange.out.clear()
        exchange.back.clear()
        self._wake()
