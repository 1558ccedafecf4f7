"""Spoilt ClientHellos, DNS questions and requests by the thousand, against slow readers of the same.

No crash, and nothing is let through that the slow reader does not find to be for the granted name.  CLOCHE_SLOW=1: a
million inputs each.
"""

import os
import random
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress import dnswire
from cloche.egress.clienthello import NotTls, parse_client_hello
from cloche.egress.httpcheck import BadRequest, check_head
from tests.unit.egress.test_clienthello import HELLO, records
from tests.unit.egress.test_dns import OPT, query

SEEDS = 1000 if os.environ.get("CLOCHE_SLOW") == "1" else 10
EACH = 1000  # inputs of a seed
LIMIT_S = 7200 if SEEDS > 10 else 300
seeds = st.integers(0, 1 << 62)
fuzzed = settings(max_examples=SEEDS, deadline=None)


def spoil(chance: random.Random, data: bytes, words: list[bytes]) -> bytes:
    """A few changes: bytes, numbers, pieces left out, doubled, moved, or put in."""
    changed = bytearray(data)
    for _turn in range(chance.choice((1, 1, 2, 3, 6))):
        if not changed:
            break
        at = chance.randrange(len(changed))
        end = min(at + chance.choice((1, 2, 4, 16, 64)), len(changed))
        kind = chance.randrange(7)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            changed[at] = (changed[at] + chance.choice((1, -1, 128))) & 255
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            changed[at:at] = chance.choice(words)
        elif kind == 5:
            changed[at:end] = chance.choice(words)
        else:
            del changed[at:]
    return bytes(changed)


# -- TLS ---------------------------------------------------------------------------------------------------------
def slow_hello_names(data: bytes) -> list[bytes] | None:
    """All names of SNI of a ClientHello by RFC 8446 and 6066, byte by byte; None: it is none, or not whole."""
    message = b""
    while True:
        if len(data) < 5 or data[0] != 22 or data[1] != 3:
            return None
        size = data[3] * 256 + data[4]
        if size == 0 or size > 16384 or len(data) < 5 + size:
            return None
        message += data[5 : 5 + size]
        data = data[5 + size :]
        if len(message) >= 4:
            wanted = message[1] << 16 | message[2] << 8 | message[3]
            if len(message) - 4 >= wanted:
                break
    if message[0] != 1 or len(message) != 4 + wanted:
        return None
    rest = message[4:]

    def take(count: int) -> bytes:
        nonlocal rest
        if len(rest) < count:
            raise IndexError
        found, rest = rest[:count], rest[count:]
        return found

    names: list[bytes] = []
    try:
        if take(2)[0] != 3:
            return None
        take(32)
        take(take(1)[0])
        take(struct.unpack(">H", take(2))[0])
        take(take(1)[0])
        whole = struct.unpack(">H", take(2))[0]
        if whole != len(rest):
            return None
        while rest:
            kind, size = struct.unpack(">HH", take(4))
            body = take(size)
            if kind == 0:
                if struct.unpack(">H", body[:2])[0] != len(body) - 2:
                    return None
                listed = body[2:]
                while listed:
                    size = struct.unpack(">H", listed[1:3])[0]
                    if listed[0] != 0 or len(listed) < 3 + size:
                        return None
                    names.append(listed[3 : 3 + size])
                    listed = listed[3 + size :]
    except (IndexError, struct.error):
        return None
    return names


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_hellos(seed: int) -> None:
    chance = random.Random(seed)
    starts = [HELLO, records(HELLO, 50), records(HELLO, 200)]
    words = [
        b"\0\0",
        b"\0\1",
        b"good.test",
        b"evil.test",
        b"\0",
        b".",
        b"\x16\x03\x01\0\4",
        b"\xff\xff",
        HELLO[:60],
    ]
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        try:
            found = parse_client_hello(data)
        except NotTls:
            continue
        if found is not None:
            slow = slow_hello_names(data[: found.length])
            assert slow is not None and len(slow) == 1, data
            assert slow[0].decode("ascii").lower() == found.name, data


# -- DNS ---------------------------------------------------------------------------------------------------------
def slow_question(data: bytes) -> tuple[list[bytes], int] | None:
    """Labels and type of a message that asks one thing of class IN; None: it is none."""
    if len(data) < 12 or data[2] & 0x80 or data[4:6] != b"\0\1" or data[6:10] != bytes(4):
        return None
    labels, at = [], 12
    while at < len(data) and data[at]:
        if data[at] > 63 or at + 1 + data[at] > len(data):
            return None
        labels.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if len(data) < at + 5 or data[at + 3 : at + 5] != b"\0\1":
        return None
    return labels, data[at + 1] << 8 | data[at + 2]


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_questions(seed: int) -> None:
    chance = random.Random(seed)
    starts = [query(), query(counts=(1, 0, 0, 1), more=OPT), query(b"\3www\4good\4test\0", 28)]
    words = [b"\0", b"\xc0\x0c", b"\4good", b"\4evil", b"\4test\0", b".", b"\0\1", OPT, b"\x3f", b"\4GOOD"]
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        try:
            found = dnswire.parse_question(data)
        except dnswire.BadMessage as bad:
            assert bad.rcode < 16
            if bad.rcode >= 0:
                assert dnswire.failure(data, bad.rcode)[:2] == data[:2]
            continue
        slow = slow_question(data)
        assert slow is not None and slow[1] == found.kind, data
        if found.name:
            # A label with a dot in it is read as two: what is decided is what would be asked for.
            assert b".".join(slow[0]).decode("ascii").lower().removesuffix(".") == found.name, data
        reply = dnswire.answer(found, [("A", "198.18.1.0")] if found.kind == 1 else None, 60)
        assert reply[:2] == data[:2]


# -- HTTP --------------------------------------------------------------------------------------------------------
# RFC 9112 without anything that it leaves to taste, as one pattern for each part.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_WHOLE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/1\.[01]\r\n((?:%s:[^\r\n\0]*\r\n)*)\r\n" % (_TOKEN, _TOKEN))


def slow_request(raw: bytes) -> tuple[bytes, bytes] | None:
    """Method and host of a request that everybody reads the same way; None: not sure."""
    match = _WHOLE.fullmatch(raw)
    if match is None:
        return None
    fields: dict[bytes, list[bytes]] = {}
    for line in match[3].split(b"\r\n")[:-1]:
        name, _colon, value = line.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1 or len(fields.get(b"host", [])) != 1:
        return None
    if any(not each.isdigit() for each in lengths) or any(each.lower() != b"chunked" for each in codings):
        return None
    host = fields[b"host"][0].lower()
    target = match[2]
    if b"://" in target.partition(b"?")[0] and not target.startswith(b"/"):
        authority = re.split(rb"[/?]", target.partition(b"://")[2])[0].lower()
        if authority.removesuffix(b":80") != host.removesuffix(b":80"):
            return None
    elif not target.startswith(b"/") and match[1] != b"CONNECT" and target != b"*":
        return None
    return match[1], host


@pytest.mark.timeout(LIMIT_S)
@fuzzed
@given(seeds)
def test_requests(seed: int) -> None:
    chance = random.Random(seed)
    starts = [
        b"GET /a?b HTTP/1.1\r\nHost: good.test\r\nAccept: */*\r\n\r\n",
        b"POST http://good.test/x HTTP/1.1\r\nHost: good.test:80\r\nContent-Length: 5\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    ]
    words = [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b"Host: evil.test\r\n", b"evil.test", b"Content-Length: 1\r\n", b":", b"\0",
        b"Transfer-Encoding: chunked\r\n", b"http://evil.test", b"//", b"@evil.test", b"#", b"%00", b"CONNECT ", b",",
    ]  # fmt: skip
    for _turn in range(EACH):
        data = spoil(chance, chance.choice(starts), words)
        try:
            head = check_head(data)
        except BadRequest as bad:
            assert 400 <= bad.status < 500
            continue
        slow = slow_request(data)
        assert slow is not None, data
        method, host = slow
        assert head.method == method
        if head.host == "good.test" and head.method != b"CONNECT":
            assert host.removesuffix(b".") in (
                b"good.test",
                b"good.test:%d" % head.port,
                b"good.test.:%d" % head.port,
            ), data
