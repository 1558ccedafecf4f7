"""Netlink messages: attributes, hostile lengths, changes of lo."""

import struct

import pytest

from cloche.abi.errno import EPERM
from cloche.abi.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from cloche.abi.rtnetlink import RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_SETLINK
from cloche.abi.socket import AF_NETLINK, SOCK_RAW
from cloche.net.inet_addr import LOOPBACK4
from cloche.net.inet_base import stack_of
from cloche.net.nlmsg import attribute, attributes, message
from cloche.net.socket import SocketFile
from cloche.vfs.credentials import Credentials
from tests.unit.net.world import Net


@pytest.fixture
def net() -> Net:
    return Net()


def ask(net: Net, sock: SocketFile, data: bytes) -> list[tuple[int, bytes]]:
    """Send, and collect (type, body) of every message of the answer."""
    assert net.send(sock, data) == len(data)
    found = []
    while isinstance(part := net.recv(sock), bytes):
        at = 0
        while at + 16 <= len(part):
            size, kind = struct.unpack_from("<IH", part, at)
            found.append((kind, part[at + 16 : at + size]))
            at += size + 3 & ~3
    return found


def test_attributes_round_trip() -> None:
    data = attribute(1, b"abc") + attribute(2, b"") + attribute(0x8003, b"12345678")
    assert attributes(data) == {1: b"abc", 2: b"", 3: b"12345678"}


@pytest.mark.parametrize("size", [0, 3, 5, 200, 0xFFFF])
def test_malformed_attributes_end_the_list(size: int) -> None:
    assert attributes(attribute(1, b"abcd") + struct.pack("<HH", size, 2)) == {1: b"abcd"}


@pytest.mark.parametrize("size", [0, 15, 17, 1000, 0xFFFFFFFF])
def test_malformed_requests_are_ignored(net: Net, size: int) -> None:
    sock = net.socket(AF_NETLINK, SOCK_RAW)
    raw = struct.pack("<IHHII", size, RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    assert ask(net, sock, raw) == []


def test_several_requests_in_one_message(net: Net) -> None:
    sock = net.socket(AF_NETLINK, SOCK_RAW)
    one = message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, bytes(8))
    two = message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 2, 0, bytes(16))
    assert [kind for kind, _body in ask(net, sock, one + two)] == [20, 20, 3, 16, 3]


def test_changes_need_the_capability(net: Net) -> None:
    sock = net.socket(AF_NETLINK, SOCK_RAW)
    down = message(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0, struct.pack("<BxHiII", 0, 0, 1, 0, 1))
    net.task.creds = Credentials(1000, 1000)
    assert struct.unpack_from("<i", ask(net, sock, down)[0][1])[0] == -EPERM
    assert stack_of(net.container).lo.is_up
    net.task.creds = Credentials(0, 0, caps=1 << 12)
    assert struct.unpack_from("<i", ask(net, sock, down)[0][1])[0] == 0
    assert not stack_of(net.container).lo.is_up


def test_an_address_on_lo_is_local(net: Net) -> None:
    lo = stack_of(net.container).lo
    sock = net.socket(AF_NETLINK, SOCK_RAW)
    addr = b"\x0a\1\2\3"
    assert not lo.is_local(addr)
    body = struct.pack("<BBBBI", 2, 24, 0, 0, 1) + attribute(2, addr)
    assert struct.unpack_from("<i", ask(net, sock, message(RTM_NEWADDR, 5, 1, 0, body))[0][1])[0] == 0
    assert lo.is_local(addr)
    assert lo.is_local(b"\x0a\1\2\x63")
    assert not lo.is_local(b"\x0a\1\3\3")
    assert lo.source_for(LOOPBACK4) == LOOPBACK4
