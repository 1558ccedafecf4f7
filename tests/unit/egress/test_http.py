"""Plain HTTP: refusals, and that every outgoing request has one meaning for all servers."""

import asyncio
import re
import socket

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress.approvals import Approvals
from cloche.egress.flow import Flow
from cloche.egress.guard import Guard
from cloche.egress.httpcheck import BadRequest, check_head
from cloche.egress.httprelay import HttpRelay
from cloche.egress.policy import HTTP, HTTPS, Rule, parse_rule
from cloche.egress.requestrules import Secret
from cloche.egress.streams import PlainStream
from cloche.wire.egress import TCP, Target

GOOD = b"GET /a?b HTTP/1.1\r\nHost: good.test\r\n"


def exchange(
    data: bytes,
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    rule: Rule | None = None,
    *,
    is_answered_once: bool = False,
) -> tuple[bytes, bytes]:
    """The bytes sent upstream for `data`, and the bytes that the program gets."""
    flow = Flow(1, Target(TCP, bytes(4), 443 if rule is not None and rule.is_inspected else 80, 0, b""))
    flow.name, flow.rule = "good.test", rule or parse_rule("good.test")
    flow.protocol = HTTPS if flow.rule.is_inspected else HTTP
    scheme = b"https" if flow.rule.is_inspected else b"http"

    async def main() -> tuple[bytes, bytes]:
        (program, inside), (upstream, server) = socket.socketpair(), socket.socketpair()
        for sock in (program, inside, upstream, server):
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        guard = Guard(flow, Approvals(), 1)
        relay = HttpRelay(PlainStream(inside), PlainStream(upstream), guard, scheme, lambda *_what: None)
        sent = bytearray()

        async def ask() -> None:
            await loop.sock_sendall(program, data)
            program.shutdown(socket.SHUT_WR)

        async def serve() -> None:
            """Reads requests by the book, and answers each."""
            buffer = bytearray()
            while True:
                reader = h11.Connection(h11.SERVER)
                if buffer:  # an empty read would mean the end
                    reader.receive_data(bytes(buffer))
                    buffer.clear()
                while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                    if isinstance(event, h11.ConnectionClosed):
                        return
                    if event is h11.NEED_DATA:
                        more = await loop.sock_recv(server, 65536)
                        sent.extend(more)
                        if not more:
                            return
                        reader.receive_data(more)
                buffer += reader.trailing_data[0]
                await loop.sock_sendall(server, answer)
                if is_answered_once:
                    return

        async def serve_and_end() -> None:
            try:
                await serve()
            finally:
                server.shutdown(socket.SHUT_WR)

        tasks = [asyncio.ensure_future(serve_and_end()), asyncio.ensure_future(ask())]
        await asyncio.wait_for(relay.run(), 150)
        upstream.close()
        inside.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        got = bytearray()
        while more := await loop.sock_recv(program, 65536):
            got += more
        for sock in (program, server):
            sock.close()
        return bytes(sent), bytes(got)

    return asyncio.run(main())


def test_a_request_is_written_anew() -> None:
    sent, got = exchange(
        GOOD.replace(b"Host", b"hOsT") + b"X-A:  b \r\nConnection: close, x-drop\r\nX-Drop: 1\r\n\r\n"
    )
    assert sent == b"GET /a?b HTTP/1.1\r\nHost: good.test\r\nx-a: b\r\n\r\n"
    assert got.startswith(b"HTTP/1.1 200 OK\r\n") and got.endswith(b"\r\n\r\nok")


def test_bodies() -> None:
    sent, _got = exchange(b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 3\r\n\r\nabc")
    assert sent.endswith(b"content-length: 3\r\n\r\nabc")
    sent, _got = exchange(
        b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nHost: evil\r\n\r\n"
    )
    assert sent.endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_several_requests() -> None:
    sent, got = exchange((GOOD + b"\r\n") * 3 + GOOD.replace(b"good", b"evil") + b"\r\n")
    assert sent.count(b"GET /a?b") == 3 and b"evil" not in sent
    assert got.count(b" 200 OK") == 3 and b" 421 " in got and b"--allow evil.test:80" in got


def test_answers() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + chunked
    assert b"2\r\nok\r\n0\r\n\r\n" in exchange(GOOD + b"\r\n", chunked)[1]
    assert exchange(GOOD + b"\r\n", early)[1].startswith(b"HTTP/1.1 103 ")
    assert b"502" in exchange(GOOD + b"\r\n", b"SSH-2.0-x\r\n\r\n")[1]
    assert b"101" not in exchange(GOOD + b"\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n")[1]


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: x-a, Close\r\nX-A: 1\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\nConnection: close\r\n\r\n" + b"o" * 70000, True),
        (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    ],
)
def test_a_connection_that_the_server_ends_is_said_to_end(answer: bytes, *, ends: bool) -> None:
    _sent, got = exchange((GOOD + b"\r\n") * 2, answer)
    heads = got.split(b"HTTP/1.1 ")[1:]
    assert len(heads) == (1 if ends else 2)
    assert all((b"connection: close\r\n" in head.lower()) is ends and b"x-a" not in head for head in heads)


def test_an_answer_that_the_end_ends_is_said_to_end_the_connection() -> None:
    _sent, got = exchange(GOOD + b"\r\n", b"HTTP/1.1 200 OK\r\n\r\nall of it", is_answered_once=True)
    assert b"connection: close\r\n" in got.lower() and got.endswith(b"9\r\nall of it\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: good.test\r\n", b"GET / HTTP/1.1\nHost: good.test\r\n\r\n", b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET  / HTTP/1.1\r\nHost: good.test\r\n\r\n",
        GOOD + b"Host: good.test\r\n\r\n", GOOD + b" folded\r\n\r\n", GOOD + b"A : b\r\n\r\n", GOOD + b"A\r\n\r\n",
        GOOD + b"A: \0\r\n\r\n", GOOD + b"A: b\rc\r\n\r\n", GOOD + b"A: b\nc: d\r\n\r\n", GOOD + b": b\r\n\r\n",
        GOOD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", GOOD + b"Content-Length: 1, 1\r\n\r\n",
        GOOD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", GOOD + b"Content-Length: -1\r\n\r\n",
        GOOD + b"Content-Length: 0x1\r\n\r\n", GOOD + b"Content-Length: 1_0\r\n\r\n", GOOD + b"Content-Length:\r\n\r\n",
        GOOD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", GOOD + b"Transfer-Encoding: identity\r\n\r\n",
        GOOD + b"Transfer-Encoding: chunked, chunked\r\n\r\n", GOOD + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        b"GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n", b"GET evil.test HTTP/1.1\r\nHost: good.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: good.test:080\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: good.test\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: good.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: good.test:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: good.test:0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n",
    ],
)  # fmt: skip
def test_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        check_head(head)


def test_absolute_targets() -> None:
    for target in (b"http://good.test/a?b", b"HTTP://GOOD.test:80/a?b"):
        assert check_head(GOOD.replace(b"/a?b", target, 1) + b"\r\n").target == b"/a?b"
    assert check_head(GOOD.replace(b"/a?b", b"http://good.test?b", 1) + b"\r\n").target == b"/?b"


PARTS = st.sampled_from(
    [b"GET ", b"POST ", b"/", b"http://good.test/", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b"Host: good.test",
     b"Host: evil.test", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Transfer-Encoding: ", b"0", b"3", b"abc",
     b"0\r\n\r\n", b"3\r\nabc\r\n", b"Connection: close", b"X: y", b": ", b" ", b"\t", b";", b"\0", b",", GOOD,
     b"POST / HTTP/1.1\r\nHost: good.test\r\n"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=14).map(b"".join))
def test_what_goes_out_means_one_thing(data: bytes) -> None:
    sent, _got = exchange(data + b"\r\n\r\n")
    # The slow decision: the output is a sequence of requests of the strictest form, each for the right host.
    rest = sent
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end or not rest
        if not end:
            break
        lines = head.split(b"\r\n")
        assert re.fullmatch(rb"[!-~]+ [!-~]+ HTTP/1\.1", lines[0]), sent
        assert all(re.fullmatch(rb"[!-9;-~]+: ?[^\x00-\x08\x0a-\x1f\x7f]*", line) for line in lines[1:]), sent
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        assert [line for line in lines[1:] if line.lower().startswith(b"host:")] == [b"Host: good.test"]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        if b"content-length" in names:
            rest = rest[int(lines[1 + names.index(b"content-length")].partition(b":")[2]) :]
        elif b"transfer-encoding" in names:
            while rest and not rest.startswith(b"0\r\n\r\n"):
                size, _crlf, rest = rest.partition(b"\r\n")
                rest = rest[int(size, 16) + 2 :]
            rest = rest[5:]


def test_what_http_turns_into_is_said_by_a_rule() -> None:
    connect = b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n"
    out, back = exchange(connect + b"hello")
    assert out == b"" and back.startswith(b"HTTP/1.1 403")
    rule = parse_rule("good.test:80")
    rule.connects = ["far.test:443"]
    out, back = exchange(connect + b"hello", b"HTTP/1.1 200 Connected\r\n\r\nworld", rule)
    assert out.startswith(b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n"), out
    assert back.startswith(b"HTTP/1.1 200 ") and back.endswith(b"\r\n\r\nworld"), back
    out, back = exchange(connect.replace(b"far", b"evil"), b"HTTP/1.1 200 Connected\r\n\r\n", rule)
    assert out == b"" and back.startswith(b"HTTP/1.1 403")
    out, back = exchange(
        connect.replace(b"Host: far", b"Host: evil"), b"HTTP/1.1 200 Connected\r\n\r\n", rule
    )
    assert out == b"" and back.startswith(b"HTTP/1.1 400")

    upgrade = GOOD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"
    out, back = exchange(upgrade, switched)
    assert out == b"" and back.startswith(b"HTTP/1.1 403")
    rule = parse_rule("good.test:80")
    rule.upgrades = ["websocket"]
    out, back = exchange(upgrade, switched, rule)
    assert b"Upgrade: websocket\r\n" in out and b"Connection: Upgrade\r\n" in out
    assert back.startswith(b"HTTP/1.1 101 ") and back.endswith(b"\r\n\r\nhello"), back
    # A server that switches to another protocol than was asked for, or without a request.
    out, back = exchange(upgrade, switched.replace(b"websocket", b"other"), rule)
    assert b"hello" not in back and b"101" not in back
    out, back = exchange(GOOD + b"\r\n", switched, rule)
    assert b"hello" not in back and b"101" not in back
    for odd in (
        b"Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: other\r\nConnection: Upgrade\r\n",
    ):
        out, back = exchange(GOOD + odd + b"\r\n", switched, rule)
        assert out == b"" and back.startswith(b"HTTP/1.1 403"), odd


def test_secrets_in_bodies() -> None:
    """A field of a form or of JSON; nothing else of the body changes, and its length is said anew."""
    rule = parse_rule("good.test/https")
    secret = Secret()
    secret.name, secret.field, secret.placeholder, secret.value = (
        "T",
        "key",
        "placeholder-1",
        's3cr3t"+&value',
    )
    rule.secrets = [secret]
    form = b"a=placeholder-1&key=x+placeholder-1&key2=placeholder-1"
    filled = b"a=placeholder-1&key=x%20s3cr3t%22%2B%26value&key2=placeholder-1"
    json = b'{"a": 1.0, "key" :"placeholder-1", "b": [{"key": "placeholder-1"}], "key": 2}'
    put_in = json.replace(b"placeholder-1", b's3cr3t\\"+&value', 1)
    head = b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Type: "
    for kind, body, wanted in (
        (b"application/x-www-form-urlencoded; charset=utf-8", form, filled),
        (b"application/json", json, put_in),
        (b"application/vnd.x+json", json, put_in),
        (b"text/plain", json, json),
        (b"application/json", b"[" * 200000, b"[" * 200000),
        (b"application/json", json + b"x", json + b"x"),
    ):
        sent, _got = exchange(
            head + kind + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), rule=rule
        )
        assert sent.endswith(
            b"content-length: %d\r\nAccept-Encoding: identity\r\n\r\n" % len(wanted) + wanted
        )
    chunked = head + b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join([b"5\r\n%s\r\n" % json[at : at + 5] for at in range(0, len(json) - 4, 5)])
    rest = json[len(json) // 5 * 5 :]
    pieces += b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)
    sent, _got = exchange(chunked + pieces, rule=rule)
    assert sent.endswith(b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(put_in), put_in)), sent
    long = json[:-1] + b', "c": "' + b"x" * 300000 + b'"}'
    sent, _got = exchange(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(long), long), rule=rule)
    assert b"s3cr3t" not in sent and sent.count(b"placeholder-1") == 2 and sent.count(b"x" * 1000) > 200
    sent, got = exchange(
        head
        + b"application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s" % (len(json), json),
        rule=rule,
    )
    assert put_in in sent and b"xpect" not in sent
    assert b"400" in exchange(chunked + b"nonsense\r\n", rule=rule)[1]
