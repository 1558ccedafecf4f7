"""ClientHellos: those that a real library makes, cut up and spoilt, against a slow reader."""

import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress.clienthello import NotTls, is_retry_request, parse_client_hello
from cloche.egress.hosts import BadHost, parse_name


def hello(name: str | None = "good.test", alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """As OpenSSL says it."""
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = hello()


def records(data: bytes, size: int) -> bytes:
    """The same handshake message in smaller records."""
    body = data[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join([b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces])


def test_a_real_one() -> None:
    found = parse_client_hello(HELLO)
    assert found is not None
    assert (found.name, found.length, found.has_ech) == ("good.test", len(HELLO), False)
    assert parse_client_hello(HELLO + b"\x17\x03\x03\0\1x") is not None


@pytest.mark.parametrize("size", [1, 3, 40, 100, 16384])
def test_records(size: int) -> None:
    data = records(HELLO, size)
    if len(HELLO) // size > 511:
        with pytest.raises(NotTls):
            parse_client_hello(data)
        return
    found = parse_client_hello(data)
    assert found is not None and found.name == "good.test" and found.length == len(data)


def test_every_beginning_of_it_waits_for_more() -> None:
    for data in (HELLO, records(HELLO, 50)):
        for cut in range(len(data)):
            assert parse_client_hello(data[:cut]) is None, cut


@pytest.mark.parametrize("name", [None, "192.0.2.1"])
def test_no_name(name: str | None) -> None:
    with pytest.raises(NotTls):
        parse_client_hello(hello(name))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02\x00\0\5", b"\x15\x03\x01\0\2\1\0",
        b"\x16\x03\x01\0\0", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\0\4\2\0\0\0", b"\x14\x03\x01\0\1\1",
        b"\x16\x03\x01\0\4\1\xff\xff\xff",
    ],
)  # fmt: skip
def test_not_tls(data: bytes) -> None:
    with pytest.raises(NotTls):
        parse_client_hello(data)


def test_a_second_one_may_follow_a_change_of_ciphers() -> None:
    change = b"\x14\x03\x03\0\1\1"
    found = parse_client_hello(change + HELLO, is_second=True)
    assert found is not None and found.length == len(HELLO) + 6
    for odd in (change * 2 + HELLO, b"\x14\x03\x03\0\1\2" + HELLO, b"\x14\x03\x03\0\2\1\1" + HELLO):
        with pytest.raises(NotTls):
            parse_client_hello(odd, is_second=True)


def test_retry_requests() -> None:
    random = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    message = b"\2\0\0\x54\3\3" + random + bytes(50)
    retry = b"\x16\3\3" + struct.pack(">H", len(message)) + message
    assert is_retry_request(retry) is True
    assert is_retry_request(records(retry, 5)) is True
    for cut in range(5 + 38):
        assert is_retry_request(retry[:cut]) is None, cut
    assert is_retry_request(retry.replace(random, bytes(32))) is False
    assert is_retry_request(b"\x15\3\3\0\2\2\x28") is False
    assert is_retry_request(b"HTTP/1.1 400 Bad") is False


def slow_name(data: bytes) -> str | None:
    """The name of a whole hello, read without care; None if it cannot be read."""
    body = b""
    at = 0
    try:
        while at < len(data) and data[at] == 22:
            size = int.from_bytes(data[at + 3 : at + 5], "big")
            body += data[at + 5 : at + 5 + size]
            at += 5 + size
        at = 4 + 2 + 32
        at += 1 + body[at]
        at += 2 + int.from_bytes(body[at : at + 2], "big")
        at += 1 + body[at]
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        at += 2
        while at < end:
            kind, size = (
                int.from_bytes(body[at : at + 2], "big"),
                int.from_bytes(body[at + 2 : at + 4], "big"),
            )
            if kind == 0:
                length = int.from_bytes(body[at + 7 : at + 9], "big")
                return body[at + 9 : at + 9 + length].decode("ascii")
            at += 4 + size
    except (IndexError, UnicodeDecodeError):
        return None
    return None


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=4), st.integers(1, 600)
)
def test_spoilt_ones_have_the_name_that_a_server_reads(changes: list[tuple[int, int]], size: int) -> None:
    spoilt = bytearray(HELLO)
    for at, value in changes:
        spoilt[at] = value
    data = records(bytes(spoilt), size)
    try:
        found = parse_client_hello(data)
    except NotTls:
        return
    if found is not None:
        shown = slow_name(data)
        assert shown is not None
        assert parse_name(shown) == found.name


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300).map(lambda rest: b"\x16\x03\x01" + struct.pack(">H", len(rest)) + rest)
    | st.binary()
)
def test_anything(data: bytes) -> None:
    try:
        found = parse_client_hello(data)
    except NotTls:
        return
    if found is not None:
        try:
            assert parse_name(slow_name(data) or "") == found.name
        except BadHost:
            raise AssertionError("a name that nobody reads") from None
    is_retry_request(data)
