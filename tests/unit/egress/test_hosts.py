"""The one parser of names and addresses, and the ranges that are not public."""

import ipaddress
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.egress.hosts import BadHost, address_text, is_within, parse_address, parse_host, parse_name
from cloche.egress.ranges import special_purpose


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("ｅxample.com", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip._tcp.example.com", "_sip._tcp.example.com"),
        ("r3---sn-abc.example.com", "r3---sn-abc.example.com"),
        ("localhost", "localhost"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert parse_name(text) == name
    assert parse_host(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a..b", ".example.com", "example.com..", "a" * 64 + ".com", ".".join(["abc"] * 70),
        "evil.com\0.example.com", "evil.com%00.example.com", "evil.com%2eexample.com", "user@example.com",
        "user:pw@example.com", "example.com:443", "example.com/x", "example.com#x", "example.com?x", "exa mple.com",
        "example.com\n", "\texample.com", "example\\com", "*.example.com", "[::1]", "::1", "fe80::1%eth0",
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "1.2.3.4.5", "example.123",
        "example.0x1", "-a.com", "a-.com", "xn--.com", "xn--a.com", "xn--\u00fc.com", "xn--BCHER-KVA\u0000",
        "１２７.０.０.１", "ex\u00adample.123", "a\u200bb.123", "example.com\u3002\u3002",
    ],
)  # fmt: skip
def test_no_names(text: str) -> None:
    with pytest.raises(BadHost):
        parse_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "1.2.3.256",
        "1.2.3",
        "fe80::1%1",
        "::ffff:1.2.3.999",
        "1.2.3.4 ",
        "١.2.3.4",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(BadHost):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("192.0.2.1") == bytes([192, 0, 2, 1])
    assert parse_address("::ffff:192.0.2.1") == bytes([192, 0, 2, 1])
    assert parse_host("[2001:db8::1]") == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    with pytest.raises(BadHost):
        parse_host("[192.0.2.1]")


@settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z0-9._%@:\[\]\x00-]{1,30}"))
def test_what_is_a_name_has_one_form(text: str) -> None:
    try:
        name = parse_name(text)
    except BadHost:
        return
    assert parse_name(name) == name
    assert re.fullmatch(r"[a-z0-9_.-]{1,253}", name)
    assert not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", name.rpartition(".")[2])
    try:
        socket.inet_aton(name)  # text that the C library would take for an address
    except OSError:
        pass
    else:
        raise AssertionError(f"{text!r} is an address to others")


@settings(deadline=None)
@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_what_python_calls_private_is_special(addr: bytes) -> None:
    found = ipaddress.ip_address(addr)
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    if not (inner or found).is_global or found.is_multicast:
        # The parts of 2001::/23 that Python leaves out are the IETF's, and globally reachable or unassigned.
        if not (isinstance(found, ipaddress.IPv6Address) and found in ipaddress.ip_network("2001::/23")):
            assert special_purpose(addr), found


PRIVATE = [
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16", "169.254.0.0/16")
]


@settings(deadline=None)
@given(st.sampled_from(PRIVATE), st.integers(0, 2**32 - 1))
def test_addresses_that_carry_private_ones_are_special(network: ipaddress.IPv4Network, number: int) -> None:
    addr = (int(network.network_address) | number & int(network.hostmask)).to_bytes(4, "big")
    pack = socket.inet_pton
    for carrier in (
        addr,
        bytes(10) + b"\xff\xff" + addr,
        bytes(12) + addr,
        pack(socket.AF_INET6, "64:ff9b::")[:12] + addr,
        b"\x20\x02" + addr + bytes(10),
        pack(socket.AF_INET6, "2600::")[:8] + b"\0\0\x5e\xfe" + addr,
    ):
        assert special_purpose(carrier), address_text(carrier)


@settings(deadline=None)
@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.integers(0, 32))
def test_networks(addr: bytes, base: bytes, prefix: int) -> None:
    network = ipaddress.ip_network((base, prefix), strict=False)
    assert is_within(addr, network.network_address.packed, prefix) == (ipaddress.ip_address(addr) in network)
