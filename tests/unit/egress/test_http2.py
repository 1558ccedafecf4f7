"""HTTP/2: every stream is judged by itself, and arrives whole."""

import asyncio
import random
import socket
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from cloche.egress.approvals import Approvals
from cloche.egress.bodysecrets import MAX_HELD, Holding
from cloche.egress.flow import Flow
from cloche.egress.guard import Guard, Headers
from cloche.egress.http2relay import Http2Relay, check_headers
from cloche.egress.httpcheck import BadRequest
from cloche.egress.policy import HTTPS, Rule, parse_rule
from cloche.egress.requestrules import RequestRule, Secret
from cloche.egress.streams import PlainStream
from cloche.wire.egress import TCP, Target
from tests.unit.egress.slow_readers import PREFACE, check_stream
from tests.unit.egress.test_fuzz import spoil

HEAD: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"good.test"),
    (b":path", b"/a"),
]


def head(**changes: str) -> Headers:
    """The usual one with other pseudo-headers."""
    changed = {b":" + name.encode(): value.encode() for name, value in changes.items()}
    return [(name, changed.get(name, value)) for name, value in HEAD]


class Peer:
    """A client or server by the book, over a socket."""

    def __init__(self, sock: socket.socket, *, is_client: bool, window: int = 65535) -> None:
        self.sock = sock
        self.is_client = is_client
        config = h2.config.H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.conn = h2.connection.H2Connection(config)
        self.conn.initiate_connection()
        self.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.headers: dict[int, Headers] = {}
        self.data: dict[int, bytes] = {}
        self.trailers: dict[int, Headers] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.changed = asyncio.Event()
        self.unsent: dict[int, bytes] = {}

    def send(self, stream: int, headers: Headers, body: bytes | None = None) -> None:
        self.conn.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            self.unsent[stream] = body
            self.pump()

    def pump(self) -> None:
        for stream, data in list(self.unsent.items()):
            room = min(self.conn.local_flow_control_window(stream), len(data))
            for at in range(0, room, 16384):
                self.conn.send_data(stream, data[at : min(at + 16384, room)])
            self.unsent[stream] = data[room:]
            if room == len(data):
                del self.unsent[stream]
                self.conn.end_stream(stream)

    async def flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.conn.data_to_send())

    async def run(self, server: "Server | None" = None) -> None:
        loop = asyncio.get_running_loop()
        await self.flush()
        while data := await loop.sock_recv(self.sock, 65536):
            for event in self.conn.receive_data(data):
                stream = getattr(event, "stream_id", 0) or 0
                if isinstance(event, (h2.events.ResponseReceived, h2.events.RequestReceived)):
                    self.headers[stream] = [(bytes(name), bytes(value)) for name, value in event.headers]
                    if server is not None:
                        server.begun(self, stream)
                elif isinstance(event, h2.events.DataReceived):
                    self.data[stream] = self.data.get(stream, b"") + event.data
                    self.conn.acknowledge_received_data(event.flow_controlled_length, stream)
                    if server is not None and stream in server.tunnels:
                        self.conn.send_data(stream, event.data)
                elif isinstance(event, h2.events.TrailersReceived):
                    self.trailers[stream] = [(bytes(name), bytes(value)) for name, value in event.headers]
                elif isinstance(event, h2.events.StreamReset):
                    self.reset.add(stream)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(stream)
                    if server is not None:
                        server.answer(self, stream)
            self.pump()
            await self.flush()
            self.changed.set()

    async def has(self, found: Callable[[], bool]) -> None:
        """Wait for something to be so."""
        await self.flush()
        async with asyncio.timeout(60):
            while not found():
                self.changed.clear()
                await self.changed.wait()

    async def until(self, *streams: int) -> None:
        await self.flush()
        async with asyncio.timeout(60):
            while not all(each in self.ended | self.reset for each in streams):
                self.changed.clear()
                await self.changed.wait()

    def status(self, stream: int) -> str:
        return dict(self.headers[stream])[b":status"].decode()


class Server:
    """Answers each request with what it was sent; a stream that becomes something else gives back what comes."""

    def __init__(self) -> None:
        self.tunnels: set[int] = set()

    def begun(self, peer: Peer, stream: int) -> None:
        if b":protocol" in dict(peer.headers[stream]):
            self.tunnels.add(stream)
            peer.conn.send_headers(stream, [(b":status", b"200")])

    def answer(self, peer: Peer, stream: int) -> None:
        fields = peer.headers[stream]
        if stream in self.tunnels:
            peer.conn.end_stream(stream)
            return
        path = dict(fields)[b":path"]
        if path == b"/grpc":
            peer.conn.send_headers(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            peer.conn.send_data(stream, b"message")
            peer.conn.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
            return
        told = b"\n".join([name + b": " + value for name, value in fields])
        peer.send(stream, [(b":status", b"200")], told + b"\n\n" + peer.data.get(stream, b""))


class Session:
    """A client, the relay and a server."""

    def __init__(self, rule: Rule, window: int = 65535, *, has_protocols: bool = False) -> None:
        self.log: list[tuple[str, str, int, str]] = []
        socks = [*socket.socketpair(), *socket.socketpair()]
        for sock in socks:
            sock.setblocking(False)
        self.socks = socks
        self.client = Peer(socks[0], is_client=True, window=window)
        self.server = Peer(socks[3], is_client=False)
        if has_protocols:
            self.server.conn.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
        flow = Flow(1, Target(TCP, bytes(4), 443, 0, b""))
        flow.name, flow.rule, flow.protocol = "good.test", rule, HTTPS
        guard = Guard(flow, Approvals(), 1)
        self.relay = Http2Relay(
            PlainStream(socks[1]), PlainStream(socks[2]), guard, lambda *what: self.log.append(what)
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Session":
        for work in (self.relay.run(), self.client.run(), self.server.run(Server())):
            self.tasks.append(asyncio.ensure_future(work))
        return self

    async def __aexit__(self, *_what: object) -> None:
        for task in self.tasks:
            task.cancel()
        found = await asyncio.gather(*self.tasks, return_exceptions=True)
        for sock in self.socks:
            sock.close()
        problems = [each for each in found if isinstance(each, Exception) and not isinstance(each, OSError)]
        assert problems == []


def https(*rules: RequestRule) -> Rule:
    made = parse_rule("good.test/https")
    made.requests = list(rules)
    made.check()
    return made


def test_streams() -> None:
    async def main() -> None:
        async with Session(https()) as session:
            client = session.client
            client.send(1, HEAD)
            body = bytes(range(256)) * 4096
            client.send(3, [*head(method="POST", path="/up?x=1"), (b"x-a", b"b")], body)
            client.send(5, [*head(method="POST", path="/grpc"), (b"te", b"trailers")], b"m")
            await client.until(1, 3, 5)
            assert client.data[1].startswith(
                b":method: GET\n:scheme: https\n:authority: good.test\n:path: /a"
            )
            assert client.data[3].endswith(b"x-a: b\n\n" + body)
            assert client.data[5] == b"message" and client.trailers[5] == [(b"grpc-status", b"0")]
            assert ("GET", "/a", 200, "") in session.log and ("POST", "/up?x=1", 200, "") in session.log

    asyncio.run(main())


def test_a_program_that_gives_little_room() -> None:
    async def main() -> None:
        async with Session(https(), window=100) as session:
            session.client.send(1, head(method="POST"), bytes(300000))
            await session.client.until(1)
            assert len(session.client.data[1]) > 300000

    asyncio.run(main())


def test_each_stream_is_judged() -> None:
    only = RequestRule()
    only.methods, only.paths, only.max_body, only.max_response = ["GET", "POST"], ["/a", "/b"], 100, 1000

    async def main() -> None:
        async with Session(https(only)) as session:
            client = session.client
            client.send(1, HEAD)
            client.send(3, head(path="/c"))
            client.send(5, head(authority="evil.test"))
            client.send(9, head(method="POST", path="/b"), b"x" * 200)
            client.send(11, head(method="POST", path="/b"), b"x" * 10)
            client.send(13, head(method="DELETE"))
            await client.until(1, 3, 5, 9, 11, 13)
            assert [client.status(each) for each in (1, 3, 5, 11, 13)] == [
                "200", "403", "421", "200", "403",
            ]  # fmt: skip
            assert client.status(9) == "413" if 9 in client.headers else 9 in client.reset
            seen = [dict(fields)[b":path"] for fields in session.server.headers.values()]
            assert b"/c" not in seen and len(seen) <= 3
            assert not any(
                b"evil" in value for fields in session.server.headers.values() for _name, value in fields
            )

    asyncio.run(main())


def test_secrets() -> None:
    rule = https()
    secret = Secret()
    secret.name, secret.header, secret.placeholder, secret.value = (
        "T",
        "x-key",
        "placeholder-1",
        "s3cr3t-value",
    )
    rule.secrets = [secret]

    async def main() -> None:
        async with Session(rule) as session:
            session.client.send(1, [*HEAD, (b"x-key", b"placeholder-1"), (b"range", b"bytes=0-1")])
            await session.client.until(1)
            (fields,) = session.server.headers.values()
            assert (b"x-key", b"s3cr3t-value") in fields and (b"accept-encoding", b"identity") in fields
            assert not any(name == b"range" for name, _value in fields)
            assert (
                b"x-key: ************" in session.client.data[1] and b"s3cr3t" not in session.client.data[1]
            )

    asyncio.run(main())


TUNNEL: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    *HEAD[1:3],
    (b":path", b"/ws"),
    (b"sec-websocket-version", b"13"),
]


def streams(*heads: Headers) -> bytes:
    """What a program says after the preface that begins a stream for each."""
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    conn.receive_data(bytes.fromhex("000006 04 00 00000000 0008 00000001".replace(" ", "")))
    for number, fields in enumerate(heads):
        conn.send_headers(2 * number + 1, fields, end_stream=True)
    return conn.data_to_send()[len(PREFACE) :]


def fields(head: Headers) -> bytes:
    """As `check_stream` takes them."""
    return b"-" + b"\x1e".join([name + b"\t" + value for name, value in head])


def test_spoilt_streams() -> None:
    """Against a slow reader; `coverage_fuzz` makes more of them."""
    for seed in range(20):
        chance = random.Random(seed)
        words = [
            b":path",
            b":authority",
            b"host",
            b"evil.test",
            b"\t",
            b"\x1e",
            b"\r\n",
            b"CONNECT",
            b":protocol",
        ]
        starts = [streams(HEAD), streams(HEAD, TUNNEL), fields(HEAD), fields(TUNNEL)]
        for _turn in range(100):
            check_stream(spoil(chance, chance.choice(starts), words))


def test_websockets_within_a_stream() -> None:
    """RFC 8441, by rule: the program is told of it when the server has said that it takes them."""
    only = RequestRule()
    only.methods, only.paths, only.max_body, only.max_response = ["GET"], ["/ws"], 10, 10
    rule = https(only)
    rule.upgrades = ["websocket"]

    async def main() -> None:
        async with Session(rule, has_protocols=True) as session:
            client = session.client
            await client.has(lambda: client.conn.remote_settings.enable_connect_protocol == 1)
            client.conn.send_headers(1, TUNNEL)
            client.conn.send_headers(3, [*TUNNEL[:4], (b":path", b"/other")])
            await client.until(3)
            assert client.status(3) == "403" and b"allows GET /other" in client.data[3]
            await client.has(lambda: 1 in client.headers)
            assert client.status(1) == "200"
            for number in range(1, 4):
                client.conn.send_data(1, b"a frame" * 100)
                await client.has(lambda number=number: len(client.data.get(1, b"")) == 700 * number)  # type: ignore[misc]
            client.conn.end_stream(1)
            await client.until(1)
            assert client.data[1] == b"a frame" * 300 and 1 not in client.reset
            (fields,) = session.server.headers.values()
            assert dict(fields)[b":protocol"] == b"websocket" and dict(fields)[b":authority"] == b"good.test"
            assert ("CONNECT", "/ws", 200, "") in session.log

    asyncio.run(main())


@pytest.mark.parametrize(("has_rule", "has_protocols"), [(False, True), (True, False)])
def test_no_websockets_without_a_rule_or_a_server_that_takes_them(
    *, has_rule: bool, has_protocols: bool
) -> None:
    rule = https()
    rule.upgrades = ["websocket"] if has_rule else []

    async def main() -> None:
        async with Session(rule, has_protocols=has_protocols) as session:
            client = session.client
            client.send(1, HEAD)
            await client.until(1)
            assert client.conn.remote_settings.enable_connect_protocol == 0
            client.conn.send_headers(3, TUNNEL)
            await client.until(3)
            assert client.status(3) == ("501" if has_rule else "403")
            assert len(session.server.headers) == 1

    asyncio.run(main())


def secret(**fields: str) -> Secret:
    made = Secret()
    made.name, made.placeholder, made.value = "T", "placeholder-1", "s3cr3t-value"
    for name, value in fields.items():
        setattr(made, name, value)
    made.check()
    return made


def test_secrets_in_bodies() -> None:
    rule = https()
    rule.secrets = [secret(field="auth.key")]
    kind = (b"content-type", b"application/json")
    body = b'{"auth": {"key": "placeholder-1"}, "x": "placeholder-1"}'
    put_in = body.replace(b"placeholder-1", b"s3cr3t-value", 1)

    async def main() -> None:
        async with Session(rule) as session:
            client = session.client
            post = head(method="POST", path="/up")
            client.send(1, [*post, kind, (b"content-length", b"%d" % len(body))], body)
            client.send(3, [*post, kind], body)
            client.send(5, [*post, (b"content-type", b"text/plain")], body)
            long = body[:-1] + b', "more": "' + b"x" * 400000 + b'"}'
            client.send(7, [*post, kind], long)
            await client.until(1, 3, 5, 7)
            sent = sorted(session.server.data.values(), key=len)
            assert sent[:3] == sorted([put_in, put_in, body], key=len) and sent[3] == long
            lengths = [dict(each).get(b"content-length") for each in session.server.headers.values()]
            assert b"%d" % len(put_in) in lengths
            for stream in (1, 3):
                assert b"s3cr3t" not in client.data[stream] and b"************" in client.data[stream]
            # What was kept does not count twice: the window is what it was.
            client.send(9, [*post, kind], bytes(3 << 20))
            await client.until(9)
            assert session.relay.guard.holding.left == MAX_HELD

    asyncio.run(main())


def test_bodies_that_are_kept_are_bounded() -> None:
    rule = https()
    rule.secrets = [secret(field="key")]

    async def main() -> None:
        async with Session(rule) as session:
            session.relay.guard.holding = Holding(1000)
            post = [*head(method="POST", path="/up"), (b"content-type", b"application/json")]
            session.client.send(1, post, b'{"key": "' + b"x" * 2000 + b'"}')
            session.client.send(3, post, b'{"key": "placeholder-1"}')
            await session.client.until(1, 3)
            assert session.client.status(1) == "503" and session.client.status(3) == "200"
            assert session.relay.guard.holding.left == 1000

    asyncio.run(main())


@pytest.mark.parametrize(
    "fields",
    [
        head(scheme="http"), head(path="a"), head(path="/a b"), head(path="/\xff"), head(path="*"), head(method="CONNECT"),
        head(method="G T"), HEAD[:2] + HEAD[3:], head(authority="good.test:444"), head(authority="a@good.test"),
        [*HEAD, (b":path", b"/b")], [*HEAD, (b":protocol", b"websocket")], [*HEAD, (b"a b", b"c")],
        [*HEAD, (b"a", b"b\r\nc: d")], [*HEAD, (b"a", b"\0")], [*HEAD, (b"transfer-encoding", b"chunked")],
        [*HEAD, (b"connection", b"x")], [*HEAD, (b"te", b"gzip")], [*HEAD, (b"host", b"good.test"), (b"host", b"x")],
        [*HEAD, (b"content-length", b"1"), (b"content-length", b"1")], [*HEAD, (b"content-length", b"-1")],
        [*HEAD, (b"A", b"b")], [*HEAD, (b"host", b"evil.test")],
    ],
)  # fmt: skip
def test_refused(fields: Headers) -> None:
    with pytest.raises(BadRequest):
        check_headers(fields, "good.test", 443)
