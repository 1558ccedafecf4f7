"""Slow readers of egress's input, written from the RFCs independently of its own, and the comparison of both.

No input may be let through that the slow reader does not find to be for the same name: `check_*` raise AssertionError
for that, and do not catch exceptions that a reader should not raise.
"""

import ipaddress
import re
import struct
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from cloche.egress import dnswire
from cloche.egress.clienthello import NotTls, parse_client_hello
from cloche.egress.http2relay import check_headers
from cloche.egress.httpcheck import BadRequest, check_head
from cloche.egress.policy import Policy
from cloche.wire.egress import UDP


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


def check_hello(data: bytes) -> None:
    """A ClientHello, or what was made of one."""
    try:
        found = parse_client_hello(data)
    except NotTls:
        return
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


def check_question(data: bytes) -> None:
    """A question of DNS."""
    try:
        found = dnswire.parse_question(data)
    except dnswire.BadMessage as bad:
        assert bad.rcode < 16
        if bad.rcode >= 0:
            assert dnswire.failure(data, bad.rcode)[:2] == data[:2]
        return
    slow = slow_question(data)
    assert slow is not None and slow[1] == found.kind, data
    if found.name:
        # A label with a dot in it is read as two: the decision is about the name that would be asked for.
        assert b".".join(slow[0]).decode("ascii").lower().removesuffix(".") == found.name, data
    reply = dnswire.answer(found, [("A", "198.18.1.0")] if found.kind == 1 else None, 60)
    assert reply[:2] == data[:2]


def check_answer(data: bytes) -> None:
    """Check a resolver's answer to a question about the addresses of good.test with the number 7."""
    found = dnswire.read_answer(data, "good.test", "A", 7)
    if found is not None:
        assert data[:2] == b"\0\7" and data[2] & 0x80
        for text in found.records:
            assert ipaddress.IPv4Address(text).packed in data, data


# -- HTTP --------------------------------------------------------------------------------------------------------
# RFC 9112 without its optional parts, as one pattern for each part.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_WHOLE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/1\.[01]\r\n((?:%s:[^\r\n\0]*\r\n)*)\r\n" % (_TOKEN, _TOKEN))


def slow_request(raw: bytes) -> tuple[bytes, bytes] | None:
    """Method and host of a request that all servers read the same way; None: not certain."""
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
        # (The root's dot and the port that is meant anyway: names are compared, and the outgoing request is written
        # anew.)
        one, two = (each.removesuffix(b":80").removesuffix(b".") for each in (authority, host))
        if one != two:
            return None
    elif not target.startswith(b"/") and match[1] != b"CONNECT" and target != b"*":
        return None
    return match[1], host


def check_request(data: bytes) -> None:
    """The head of a request."""
    try:
        head = check_head(data)
    except BadRequest as bad:
        assert 400 <= bad.status < 500
        return
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


# -- HTTP/2 ------------------------------------------------------------------------------------------------------
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9113, 8.2.2, and what no request has.
_NOT_THERE: Final = (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")


def slow_stream(fields: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes, bytes] | None:
    """Method, host and protocol of a request of HTTP/2 by RFC 9113 and 8441; None: it is none that is sure."""
    pseudo: dict[bytes, bytes] = {}
    hosts: list[bytes] = []
    for name, value in fields:
        if any(each in value for each in (b"\r", b"\n", b"\0")):
            return None
        if name.startswith(b":"):
            if name in pseudo or name not in (b":method", b":scheme", b":authority", b":path", b":protocol"):
                return None
            pseudo[name] = value
        elif (
            not _FIELD.fullmatch(name)
            or name in _NOT_THERE
            or (name == b"te" and value.strip().lower() != b"trailers")
        ):
            return None
        elif name == b"host":
            hosts.append(value)
    hosts += [pseudo[b":authority"]] if b":authority" in pseudo else []
    plain = {each.lower().removesuffix(b":443").removesuffix(b".") for each in hosts}
    method, path, protocol = (pseudo.get(name, b"") for name in (b":method", b":path", b":protocol"))
    if pseudo.get(b":scheme") != b"https" or len(plain) != 1 or (method == b"CONNECT") != bool(protocol):
        return None
    if not re.fullmatch(_TOKEN, method) or not (
        path.startswith(b"/") or (path, method) == (b"*", b"OPTIONS")
    ):
        return None
    return method, plain.pop(), protocol


def check_fields(fields: list[tuple[bytes, bytes]]) -> None:
    """The fields of a stream's beginning."""
    for upgrades in ((), ("websocket",)):
        try:
            method, target, headers = check_headers(fields, "good.test", 443, upgrades)
        except BadRequest as bad:
            assert 400 <= bad.status < 500
            continue
        slow = slow_stream(fields)
        assert slow is not None and (slow[0], slow[1]) == (method, b"good.test"), fields
        assert slow[2] in (b"", *[each.encode() for each in upgrades]), fields
        assert not any(name.startswith(b":") or name == b"host" for name, _value in headers), fields
        assert target and not set(target) & set(b" \r\n\t\0#"), fields


def check_stream(data: bytes) -> None:
    """What a program says in HTTP/2 after the preface; if it begins with a dash the fields themselves, a line each."""
    if data.startswith(b"-"):
        check_fields(
            [
                (name, value)
                for name, _tab, value in (line.partition(b"\t") for line in data[1:].split(b"\x1e"))
            ]
        )
        return
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    conn.initiate_connection()
    try:
        for event in conn.receive_data(PREFACE + data):
            if isinstance(event, h2.events.RequestReceived):
                check_fields([(bytes(name), bytes(value)) for name, value in event.headers])
    except h2.exceptions.ProtocolError:
        pass  # then the connection ends


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


# -- decisions -----------------------------------------------------------------------------------------------------
# Addresses outside the public Internet, by IANA's registries of special-purpose addresses: written down once more.
_SPECIAL: Final = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
        *("::1/128", "::/128", "2001:db8::/32", "fe80::/10", "fc00::/7", "ff00::/8"),
    )
]


def slow_decision(
    rules: list[str], denied: list[str], name: str, addr: str, transport: int, port: int
) -> bool:
    """Whether a connection may be made: to `name`, which leads to `addr`, or without a name to that address.

    Rules as on a command line, with ports and /udp for UDP; a name is never internal.
    """
    where = ipaddress.ip_address(addr)

    def split(text: str) -> tuple[str, int, int, int]:
        body, _slash, kind = text.rpartition("/udp") if text.endswith("/udp") else (text, "", "tcp")
        host, _colon, ports = body.rpartition(":")
        low, _dash, high = ports.partition("-")
        return host, int(low), int(high or low), UDP if kind == "" else 6

    def is_about_name(host: str) -> bool:
        if host.startswith("*."):
            return name.split(".")[1:] == host.split(".")[1:] and name.count(".") == host.count(".")
        return host == name

    def network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        try:
            return ipaddress.ip_network(host.strip("[]"))
        except ValueError:
            return None

    def fits(text: str) -> bool:
        _host, low, high, kind = split(text)
        return low <= port <= high and kind == transport

    for text in denied:
        net = network(split(text)[0])
        if fits(text) and ((name and is_about_name(split(text)[0])) or (net is not None and where in net)):
            return False
    special = next((net for net in _SPECIAL if where in net), None)
    granted = False
    for text in rules:
        net = network(split(text)[0])
        if net is None or where not in net or not fits(text):
            continue
        inside = special is not None and net.version == special.version and net.subnet_of(special)  # type: ignore[arg-type]
        if special is None or inside:
            granted = True
    if not name:
        return granted
    return any(fits(text) and is_about_name(split(text)[0]) for text in rules) and (
        special is None or granted
    )


def check_decision(
    policy: Policy, name: str, addr: str, transport: int, port: int, *, expected: bool
) -> None:
    """The policy's decision is that of `slow_decision`."""
    packed = ipaddress.ip_address(addr).packed
    if name:
        rule = policy.decide_name(name, transport, port).rule
        allowed = rule is not None and not policy.objection(rule, packed, transport, port)
    else:
        allowed = policy.decide_address(packed, transport, port).is_allowed
    assert allowed is expected, (name, addr, transport, port, [rule.text() for rule in policy.rules])
