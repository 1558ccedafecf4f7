"""HTTP/1.1 to a granted name: every request is parsed strictly, checked, and written anew.

No byte of a request's head is passed on unchanged: what `httpcheck` has accepted and h11 has parsed is written again.
Bodies are counted; those between plain sockets whose length the head says are not read (`pour`). Each
connection inside has one connection upstream, and each of its requests is decided by itself (`guard`). Only after an
upgrade or a CONNECT that the rule allows are bytes passed on unread.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import h11

from cloche.egress.blot import Blotter
from cloche.egress.bodysecrets import MAX_BODY
from cloche.egress.guard import Guard, Passage
from cloche.egress.hosts import address_text
from cloche.egress.httpcheck import HOP, MAX_HEAD, BadRequest, Head, check_head, parse_authority, refusal
from cloche.egress.pour import LEAST, pour
from cloche.egress.streams import PlainStream, Stream

__all__ = ["HttpRelay", "RequestLog"]

_GATHERED: Final = 262144  # bytes of an answer that are sent at a time
_LATE_BODY_S: Final = 1.0  # for the rest of a request that was answered before its end

# Called for each request: method, target, status of the answer or refusal, reason of a refusal.
RequestLog = Callable[[str, str, int, str], None]


class HttpRelay:
    """One connection inside and one upstream."""

    def __init__(
        self, inside: Stream, upstream: Stream, guard: Guard, scheme: bytes, on_request: RequestLog
    ) -> None:
        self.inside: Stream = inside
        self.upstream: Stream = upstream
        self.guard: Guard = guard
        self.scheme: bytes = scheme
        self.name: str = guard.flow.name
        self.port: int = guard.flow.target.port
        self.on_request: RequestLog = on_request
        self.received: int = 0  # from upstream
        self.sent: int = 0
        self._buffer: bytearray = bytearray()  # bytes from inside that were not used yet
        self.is_single: bool = False  # ends after one request, because the next may be for another host
        self._client: h11.Connection = self.new_client()

    @staticmethod
    def new_client() -> h11.Connection:
        """h11's side towards the server, at the beginning of an exchange."""
        return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def pour(self, count: int, *, is_answer: bool) -> None:
        """Move `count` bytes of a body, which both sides take for that long, unread.  Raises OSError."""
        inside, upstream = self.inside, self.upstream
        assert isinstance(inside, PlainStream) and isinstance(upstream, PlainStream)
        if is_answer:
            await pour(upstream.sock, inside.sock, count, self._count_received)
        else:
            await pour(inside.sock, upstream.sock, count, self._count_sent)

    def _count_received(self, count: int) -> None:
        self.received += count

    def _count_sent(self, count: int) -> None:
        self.sent += count

    def can_pour(self, passage: Passage) -> bool:
        """Whether bodies of this request need not be read."""
        is_plain = isinstance(self.inside, PlainStream) and isinstance(self.upstream, PlainStream)
        return is_plain and not passage.needles and not passage.body_secrets

    async def run(self, begun: bytes = b"") -> None:
        """Until either side ends; `begun` has come from inside already.  Raises OSError."""
        self._buffer += begun
        while await self._serve_one():
            if self.is_single:
                return

    async def _send_upstream(self, data: bytes | None) -> None:
        if data:
            self.sent += len(data)
            await self.upstream.send(data)

    async def _send_inside(self, data: bytes | None) -> None:
        if data:
            await self.inside.send(data)

    async def _read_head(self) -> bytes:
        """Up to the empty line; empty at the end of the connection.  Raises BadRequest."""
        buffer = self._buffer
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
            data = await self.inside.receive()
            if not data:
                return b""
            buffer += data

    async def _serve_one(self) -> bool:
        """Serve one request; returns whether another may follow."""
        method = target = ""
        try:
            raw = await self._read_head()
            if not raw:
                return False
            head = check_head(raw, self.scheme)
            method = head.method.decode("ascii")
            target = head.target.decode("ascii", "backslashreplace")
            self._check_host(head)
            passage = await self.guard.admit(head.method, head.target, head.headers)
            request = self._rewrite(head, passage)
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
        exchange = _Exchange(self, server, head, passage)
        try:
            if passage.body_secrets:
                try:
                    await exchange.keep_body()
                    request = self._rewrite(head, passage)
                except h11.RemoteProtocolError:
                    raise BadRequest(400, "a body that is not understood") from None
            self.on_request(method, target, 0, "")
            return await exchange.run(request)
        except BadRequest as bad:
            self.on_request(method, target, bad.status, bad.reason)
            await self._send_inside(refusal(bad.status, bad.reason))
            return False
        finally:
            self.guard.holding.give(exchange.held)

    def _check_host(self, head: Head) -> None:
        """Raises BadRequest."""
        rule = self.guard.flow.rule
        assert rule is not None
        default_port = 443 if self.scheme == b"https" else 80
        if head.method == b"CONNECT":
            wanted = parse_authority(head.target, default_port)
            if f"{wanted[0]!s}:{wanted[1]}" not in rule.connects:
                raise BadRequest(
                    403, f"CONNECT to {head.target.decode('ascii', 'replace')} is not allowed by any rule"
                )
            if wanted != (head.host, head.port):
                raise BadRequest(400, "a target of another host than the Host header's")
            return
        if head.host != self.name or head.port != self.port:
            asked = head.host if isinstance(head.host, str) else address_text(head.host)
            raise BadRequest(
                421,
                f"this connection is to {self.name}:{self.port}, and the request for {asked}:{head.port};"
                f" connect to {asked} itself, which --allow {asked}:{head.port} would allow",
            )
        upgrades = head.tokens(b"upgrade")
        if len(upgrades) > 1 or (upgrades and upgrades != [b"h2c"] and not self._upgrade(head)):
            raise BadRequest(
                403, f"an upgrade to {upgrades[0].decode('ascii', 'replace')} is not allowed by any rule"
            )

    def _upgrade(self, head: Head) -> str:
        """The protocol that the connection may turn into; empty: none."""
        rule = self.guard.flow.rule
        asked = head.tokens(b"upgrade")
        if rule is None or len(asked) != 1 or b"upgrade" not in head.tokens(b"connection") or not head.minor:
            return ""
        word = asked[0].decode("ascii", "replace")
        is_whole = not head.get(b"content-length") and not head.get(b"transfer-encoding")
        return word if word in rule.upgrades and head.method == b"GET" and is_whole else ""

    def _rewrite(self, head: Head, passage: Passage) -> h11.Request:
        """The request to send upstream. Raises BadRequest."""
        dropped = HOP | frozenset(head.tokens(b"connection"))
        default_port = 443 if self.scheme == b"https" else 80
        host = self.name if self.port == default_port else f"{self.name}:{self.port}"
        if head.method == b"CONNECT":
            host = passage.target.decode("ascii")
        headers: list[tuple[bytes, bytes]] = [(b"Host", host.encode("ascii"))]
        headers.extend(
            (name, value)
            for name, value in passage.headers
            if name not in dropped or name in (b"content-length",)
        )
        if head.get(b"transfer-encoding"):
            headers.append((b"Transfer-Encoding", b"chunked"))
        upgrade = self._upgrade(head)
        if upgrade:
            headers += [(b"Upgrade", upgrade.encode("ascii")), (b"Connection", b"Upgrade")]
        if passage.needles:
            headers.append((b"Accept-Encoding", b"identity"))
        try:
            return h11.Request(method=head.method, target=passage.target, headers=headers)
        except h11.LocalProtocolError:
            raise BadRequest(400, "a request that is not understood") from None


def _words(event: h11.InformationalResponse | h11.Response) -> set[bytes]:
    """Those of the header `Connection`."""
    values = [value for name, value in event.headers if name == b"connection"]
    return {word.strip().lower() for value in values for word in value.split(b",")}


class _Exchange:
    """One request that has passed, and its answer."""

    def __init__(self, relay: HttpRelay, server: h11.Connection, head: Head, passage: Passage) -> None:
        self.relay: HttpRelay = relay
        self.server: h11.Connection = server  # h11's server side, towards the program
        self.client: h11.Connection = relay._client
        self.head: Head = head
        self.passage: Passage = passage
        self.is_switched: bool = False
        self.refused: BadRequest | None = None  # set if the body is too long
        self.held: int = 0  # bytes of the body that are kept
        self.early: bytes = b""  # the body, or its beginning, that was kept until the request went out
        self.is_body_whole: bool = False  # nothing follows `early`
        # Bodies that h11 has not seen; it does not know then where the exchange ends.
        self.has_poured_request: bool = False
        self.has_poured_answer: bool = False
        self.may_follow: bool = True  # what was poured leaves the connection open
        self.gathered: list[bytes] = []  # pieces of the answer that go inside together
        self.gathered_bytes: int = 0

    def _say(self, status: int, reason: str = "") -> None:
        head = self.head
        method, target = head.method.decode("ascii"), head.target.decode("ascii", "backslashreplace")
        self.relay.on_request(method, target, status, reason)

    async def keep_body(self) -> None:
        """Read the body to its end, and put secrets in; of a long one its beginning goes on as it is.

        Raises OSError, h11.RemoteProtocolError, BadRequest.
        """
        relay, server, passage = self.relay, self.server, self.passage
        passage.headers = [(name, value) for name, value in passage.headers if name != b"expect"]
        kept = bytearray()
        self._take_early()
        while len(kept) <= MAX_BODY:
            event = server.next_event()
            if event is h11.NEED_DATA:
                if server.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                    await relay._send_inside(server.send(go_on))
                server.receive_data(await relay.inside.receive())
            elif isinstance(event, h11.Data):
                count = len(event.data)
                if not relay.guard.holding.take(count):
                    raise BadRequest(503, "too many bodies that secrets would be put into at a time")
                self.held += count
                kept += event.data
                passage.count_body(len(kept))
            elif isinstance(event, h11.EndOfMessage):
                self.early, self.is_body_whole = passage.fill_body(bytes(kept)), True
                return
            else:
                raise h11.RemoteProtocolError("the request ends early")
        self.early = bytes(kept)

    def _take_early(self) -> None:
        """What of the body has come with the head.  Raises h11.RemoteProtocolError."""
        buffer = self.relay._buffer
        if buffer:
            data = bytes(buffer)
            buffer.clear()
            self.server.receive_data(data)

    async def run(self, request: h11.Request) -> bool:
        """Whether another request may follow.  Raises OSError."""
        relay, server, client = self.relay, self.server, self.client
        try:
            await relay._send_upstream(client.send(request))
        except h11.LocalProtocolError:
            return False
        body = asyncio.ensure_future(self._pump_whole_body())
        try:
            is_whole = await self._pump_answer()
            if self.is_switched:
                await asyncio.gather(body, return_exceptions=True)
                await self._tunnel()
                return False
            if is_whole and not body.done():
                await asyncio.wait({body}, timeout=_LATE_BODY_S)
            if not is_whole or not body.done() or body.exception() is not None:
                return False
        except BadRequest as bad:
            await self._refuse(bad)
            return False
        except (h11.RemoteProtocolError, h11.LocalProtocolError, OSError):
            if self.refused is not None:
                await self._refuse(self.refused)
            elif server.our_state is h11.SEND_RESPONSE:
                await relay._send_inside(refusal(502, f"{relay.name} does not answer in HTTP"))
            return False
        finally:
            if not body.done():
                body.cancel()
            await asyncio.gather(body, return_exceptions=True)
        if not self.has_poured_answer and (server.our_state, client.their_state) != (h11.DONE, h11.DONE):
            return False
        if not self.has_poured_request and (server.their_state, client.our_state) != (h11.DONE, h11.DONE):
            return False
        if not self.may_follow:
            return False
        relay._buffer[:0] = server.trailing_data[0]
        if server.trailing_data[1]:
            return False
        if self.has_poured_answer or self.has_poured_request:
            relay._client = relay.new_client()
        else:
            client.start_next_cycle()
        return True

    async def _refuse(self, bad: BadRequest) -> None:
        self._say(bad.status, bad.reason)
        if self.server.our_state is h11.SEND_RESPONSE:
            await self.relay._send_inside(refusal(bad.status, bad.reason))

    async def _pump_whole_body(self) -> None:
        try:
            await self._pump_body()
        except (h11.RemoteProtocolError, h11.LocalProtocolError, BadRequest, OSError) as problem:
            if isinstance(problem, BadRequest):
                self.refused = problem
            # Upstream must not take the cut request for a whole one; its answer is not needed.
            self.relay.upstream.shut_down()
            raise

    async def _pump_body(self) -> None:
        """The request's body.  Raises OSError, h11.RemoteProtocolError, BadRequest."""
        relay, server, client = self.relay, self.server, self.client
        length = len(self.early)
        whole = self._poured_length()
        if whole:
            await self._pour_request(whole)
            return
        self._take_early()
        if self.early:
            await relay._send_upstream(client.send(h11.Data(data=self.early)))
        if self.is_body_whole:
            await relay._send_upstream(client.send(h11.EndOfMessage()))
            return
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                server.receive_data(await relay.inside.receive())
            elif isinstance(event, h11.Data):
                length += len(event.data)
                self.passage.count_body(length)
                await relay._send_upstream(client.send(h11.Data(data=bytes(event.data))))
            elif isinstance(event, h11.EndOfMessage):
                await relay._send_upstream(client.send(h11.EndOfMessage()))  # without trailers
                return
            else:
                raise h11.RemoteProtocolError("the request ends early")

    def _poured_length(self) -> int:
        """The length of a request's body that is not read; 0: it is read, or there is none."""
        lengths = self.head.get(b"content-length")
        length = int(lengths[0]) if lengths else 0
        if length < LEAST or self.early or not self.relay.can_pour(self.passage):
            return 0
        return length

    async def _pour_request(self, length: int) -> None:
        """Raises OSError, BadRequest."""
        relay = self.relay
        self.passage.count_body(length)
        self.has_poured_request = True
        begun = bytes(relay._buffer[:length])
        del relay._buffer[:length]
        await relay._send_upstream(begun)
        await relay.pour(length - len(begun), is_answer=False)
        if b"close" in self.head.tokens(b"connection") or not self.head.minor:
            self.may_follow = False

    def _answer_length(self, event: h11.Response) -> int:
        """The length of an answer's body that is not read; 0: it is read, or there is none."""
        if self.head.method in (b"HEAD", b"CONNECT") or event.status_code in (204, 304):
            return 0
        fields = dict(event.headers)
        if b"transfer-encoding" in fields or not self.relay.can_pour(self.passage):
            return 0
        length = int(fields.get(b"content-length", b"0"))  # h11 has checked it
        return length if length >= LEAST else 0

    async def _pour_answer(self, event: h11.Response, length: int) -> bool:
        """After its head; returns whether the answer was complete.  Raises OSError."""
        relay = self.relay
        self.has_poured_answer = True
        begun = self.client.trailing_data[0]
        await relay._send_inside(begun[:length])
        if len(begun) < length:
            await relay.pour(length - len(begun), is_answer=True)
        # A server that goes on without being asked has lost the thread.
        self.may_follow &= len(begun) <= length and not self._is_last(event)
        return True

    async def _pump_answer(self) -> bool:
        """Relay the answer; returns whether it was complete.  Raises OSError, h11.RemoteProtocolError, BadRequest."""
        try:
            is_whole = await self._pump_pieces()
        except h11.RemoteProtocolError:
            await self._send_gathered()  # the program gets what was right
            raise
        await self._send_gathered()
        return is_whole

    async def _gather(self, data: bytes | None) -> None:
        """A piece of the answer's body; what comes at once, small chunks above all, is sent at once. Raises OSError."""
        if data:
            self.gathered.append(data)
            self.gathered_bytes += len(data)
            if self.gathered_bytes >= _GATHERED:
                await self._send_gathered()

    async def _send_gathered(self) -> None:
        if self.gathered:
            data = b"".join(self.gathered)
            self.gathered.clear()
            self.gathered_bytes = 0
            await self.relay._send_inside(data)

    async def _pump_pieces(self) -> bool:
        """As `_pump_answer`; what is gathered still has to be sent."""
        relay, server, client = self.relay, self.server, self.client
        length = 0
        blotter = self.passage.blotter()
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                await self._send_gathered()
                data = await relay.upstream.receive()
                relay.received += len(data)
                client.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return await self._switch(event)
                if self.head.minor:
                    await relay._send_inside(
                        server.send(
                            h11.InformationalResponse(
                                status_code=event.status_code,
                                headers=self._kept(event),
                                reason=self._reason(event.reason),
                            )
                        )
                    )
            elif isinstance(event, h11.Response):
                if self.head.method == b"CONNECT" and 200 <= event.status_code < 300:
                    return await self._switch(event)
                self.passage.check_answer([(name, value) for name, value in event.headers])
                self._say(event.status_code)
                await relay._send_inside(server.send(self._answer(event)))
                length = self._answer_length(event)
                if length:
                    return await self._pour_answer(event, length)
            elif isinstance(event, h11.Data):
                data = bytes(event.data)
                length += len(data)
                if self.passage.is_too_long(length):
                    self._say(
                        502,
                        f"an answer of more than the {self.passage.max_response} bytes that the rule allows",
                    )
                    return False
                if blotter is not None:
                    data = blotter.feed(data)
                if data:
                    await self._gather(server.send(h11.Data(data=data)))
            elif isinstance(event, h11.EndOfMessage):
                rest = blotter.end() if blotter is not None else b""
                if rest:
                    await self._gather(server.send(h11.Data(data=rest)))
                await self._gather(server.send(h11.EndOfMessage()))
                return True
            else:
                return False

    def _reason(self, reason: bytes) -> bytes:
        return Blotter(self.passage.needles).text(reason) if self.passage.needles else reason

    def _kept(self, event: h11.InformationalResponse | h11.Response) -> list[tuple[bytes, bytes]]:
        """The headers of an answer that are not of one connection only."""
        dropped = HOP | _words(event)
        kept = [(name, value) for name, value in event.headers if name not in dropped - {b"content-length"}]
        return self.passage.blotted(kept)

    def _is_last(self, event: h11.Response) -> bool:
        """Whether the connection ends with this answer."""
        if self.relay.is_single or not self.head.minor or self.client.their_http_version == b"1.0":
            return True
        if b"close" in _words(event):
            return True
        names = [name for name, _value in event.headers]
        has_body = self.head.method != b"HEAD" and event.status_code not in (204, 304)
        return has_body and b"content-length" not in names and b"transfer-encoding" not in names

    def _answer(self, event: h11.Response) -> h11.Response:
        kept = self._kept(event)
        if self._is_last(event):
            kept.append((b"connection", b"close"))
        return h11.Response(status_code=event.status_code, headers=kept, reason=self._reason(event.reason))

    # -- after an upgrade ------------------------------------------------------------------------------------
    async def _switch(self, event: h11.InformationalResponse | h11.Response) -> bool:
        """Switch to another protocol after an upgrade; returns whether another request may follow."""
        server, relay = self.server, self.relay
        if event.status_code == 101:
            word = relay._upgrade(self.head)
            answered = [value.strip().lower() for name, value in event.headers if name == b"upgrade"]
            if not word or answered != [word.encode("ascii")]:
                return False
            headers = [*self._kept(event), (b"Upgrade", word.encode("ascii")), (b"Connection", b"Upgrade")]
            made: h11.InformationalResponse | h11.Response = h11.InformationalResponse(
                status_code=101, headers=headers, reason=self._reason(event.reason)
            )
        else:
            made = h11.Response(status_code=event.status_code, headers=[], reason=self._reason(event.reason))
        self._say(event.status_code)
        await relay._send_inside(server.send(made))
        self.is_switched = True
        return True

    async def _tunnel(self) -> None:
        """Raises OSError."""
        relay = self.relay
        early = self.server.trailing_data[0] + bytes(relay._buffer)
        relay._buffer.clear()
        blotter = self.passage.blotter()

        async def out() -> None:
            data = early or await relay.inside.receive()
            while data:
                await relay._send_upstream(data)
                data = await relay.inside.receive()
            await relay.upstream.finish()

        async def back() -> None:
            data = self.client.trailing_data[0] or await relay.upstream.receive()
            while data:
                relay.received += len(data)
                data = blotter.feed(data) if blotter is not None else data
                await relay._send_inside(data)
                data = await relay.upstream.receive()
            await relay._send_inside(blotter.end() if blotter is not None else b"")

        going = asyncio.ensure_future(out())
        try:
            await back()
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
