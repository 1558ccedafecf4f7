"""The network process as it really is: forked, confined, under its filter; and the calls that the filter refuses."""

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from cloche.abi.inet import IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP
from cloche.abi.socket import AF_INET, AF_INET6, SOL_SOCKET
from cloche.boot.part import PartError
from cloche.netns.launch import NetworkProcess, start_network
from cloche.netns.server import MAX_SOCKETS
from cloche.wire import netns as wire
from cloche.wire.descriptors import receive_with_descriptor
from cloche.wire.netns import Answer, Making, Name, OptionValue

LOOPBACK = b"\x7f\0\0\1"
ONE = struct.pack("<i", 1)
USER = 4321


class Client:
    """The sentry's side."""

    def __init__(self, process: NetworkProcess) -> None:
        self.process = process
        self.sock = process.sock
        self.sock.settimeout(60)
        self.view = b""
        while True:
            message = wire.decode(self.sock.recv(wire.MESSAGE_BYTES))
            if message.kind == wire.END:
                break
            self.view += message.body

    def say(self, kind: int, ident: int, body: bytes = b"") -> None:
        self.sock.send(wire.message(kind, ident, body))

    def make(self, transport: int, ident: int, *options: OptionValue, family: int = AF_INET) -> None:
        self.say(wire.MAKE, ident, Making(transport, family, USER, list(options)).encode())

    def heard(self) -> tuple[int, int, bytes, int]:
        """Kind, number, body and descriptor of the next message that is no news of links."""
        while True:
            data, fd = receive_with_descriptor(self.sock, wire.MESSAGE_BYTES)
            message = wire.decode(data)
            if message.kind not in (wire.PART, wire.END):
                return message.kind, message.ident, message.body, fd

    def ask(self, kind: int, ident: int, body: bytes) -> tuple[Answer, int]:
        self.say(kind, ident, body)
        found, number, data, fd = self.heard()
        assert (found, number) == (wire.ANSWER, ident)
        return Answer.decode(data), fd


@pytest.fixture(scope="module")
def namespace() -> Iterator[int]:
    """A network namespace of the test's own, with lo."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    holder = subprocess.Popen(
        [
            "unshare",
            "-n",
            "sh",
            "-c",
            "ip link set lo up; echo 0 70000 >/proc/sys/net/ipv4/ping_group_range; echo; cat",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdout.readline()
    fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)
    holder.stdin.close()
    holder.wait()


@pytest.fixture
def client(namespace: int) -> Iterator[Client]:
    process = start_network(namespace, is_confined=True)
    process.wait_ready()
    yield Client(process)
    process.sock.close()
    assert os.waitpid(process.pid, 0)[1] == 0  # it ends by itself, and was not killed by its filter


def test_sockets_of_the_namespace(client: Client) -> None:
    assert b"lo\0" in client.view
    client.make(wire.TCP, 1, OptionValue(SOL_SOCKET, 2, ONE))
    bound, fd = client.ask(wire.BIND, 1, Name(LOOPBACK, 80).encode())
    assert (bound.errno, bound.name.port, fd) == (0, 80, -1)
    listening, door = client.ask(wire.LISTEN, 1, wire.encode_number(5))
    assert listening.errno == 0
    assert os.fstat(door).st_uid == USER
    client.make(wire.TCP, 2)
    connected, fd = client.ask(wire.CONNECT, 2, Name(LOOPBACK, 80).encode())
    assert connected.errno == 0 and connected.name.addr == LOOPBACK
    with socket.socket(fileno=door) as server, socket.socket(fileno=fd) as there:
        server.settimeout(60)
        here, address = server.accept()
        assert address[1] == connected.name.port
        there.setblocking(True)
        there.sendall(b"x")
        assert here.recv(1) == b"x"
        there.close()
        assert here.recv(1) == b""  # no copy keeps the end back
        here.close()
    with socket.socket() as outside:  # the test's own namespace has nothing of it
        assert outside.connect_ex(("127.0.0.1", connected.name.port)) != 0


def test_datagrams_and_echoes(client: Client) -> None:
    client.make(wire.UDP, 1, family=AF_INET6)
    one, fd1 = client.ask(wire.BIND, 1, Name(bytes(16), 0).encode())
    client.make(wire.UDP, 2)
    two, fd2 = client.ask(wire.BIND, 2, Name(LOOPBACK, 0).encode())
    assert one.errno == two.errno == 0
    with socket.socket(fileno=fd1) as first, socket.socket(fileno=fd2) as second:
        first.settimeout(60)
        second.settimeout(60)
        client.say(wire.SEND, 1, Name(LOOPBACK, two.name.port).encode() + b"to two")
        assert second.recv(9) == b"to two"
        client.say(wire.SEND, 2, Name(LOOPBACK, one.name.port).encode() + b"to one")
        data, control, _flags, name = first.recvmsg(9, 128)
        assert data == b"to one" and name[1] == two.name.port and control
    client.make(wire.PING, 3)
    ping, fd3 = client.ask(wire.BIND, 3, Name(bytes(4), 0).encode())
    assert ping.errno == 0
    with socket.socket(fileno=fd3) as echo:
        echo.settimeout(60)
        client.say(wire.SEND, 3, Name(LOOPBACK, 0).encode() + b"\x08\0\0\0\0\0\0\1hello")
        assert echo.recv(99)[8:] == b"hello"


def test_refusals(client: Client) -> None:
    client.make(wire.UDP, 1)
    client.ask(wire.BIND, 1, Name(LOOPBACK, 9999).encode())
    client.make(wire.UDP, 2)
    assert client.ask(wire.BIND, 2, Name(LOOPBACK, 9999).encode())[0].errno == errno.EADDRINUSE
    assert client.ask(wire.BIND, 2, Name(b"\x0a\1\1\1", 0).encode())[0].errno == errno.EADDRNOTAVAIL
    assert client.ask(wire.CONNECT, 2, Name(b"\x0a\1\1\1", 9).encode())[0].errno == errno.ENETUNREACH
    assert client.ask(wire.CONNECT, 2, Name(bytes(16), 9).encode())[0].errno == errno.EAFNOSUPPORT
    client.say(wire.SEND, 2, Name(b"\x0a\1\1\1", 9).encode() + b"x")
    assert client.heard()[:3] == (wire.TROUBLE, 2, wire.encode_number(errno.ENETUNREACH))
    assert client.ask(wire.LISTEN, 77, wire.encode_number(1))[0].errno == errno.ENOBUFS
    client.say(wire.CLOSE, 1)
    assert client.ask(wire.BIND, 2, Name(LOOPBACK, 9999).encode())[0].errno in (0, errno.EINVAL)


# Options that would lead a socket elsewhere, or read others' packets.
REDIRECTING = [
    (IPPROTO_IPV6, 57),  # IPV6_RTHDR
    (IPPROTO_IPV6, 5),  # IPV6_2292RTHDR
    (IPPROTO_IP, 4),  # IP_OPTIONS
    (IPPROTO_IP, 50),  # IP_UNICAST_IF
    (IPPROTO_IPV6, 76),  # IPV6_UNICAST_IF
    (IPPROTO_IP, 19),  # IP_TRANSPARENT
    (IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT
    (IPPROTO_IP, 3),  # IP_HDRINCL
    (SOL_SOCKET, 25),  # SO_BINDTODEVICE
    (SOL_SOCKET, 62),  # SO_BINDTOIFINDEX
    (SOL_SOCKET, 36),  # SO_MARK
    (IPPROTO_TCP, 19),  # TCP_REPAIR
    (IPPROTO_TCP, 30),  # TCP_FASTOPEN_CONNECT
    (IPPROTO_TCP, 31),  # TCP_ULP
]


@pytest.mark.parametrize("option", REDIRECTING)
def test_options_that_lead_elsewhere(client: Client, option: tuple[int, int]) -> None:
    """They are not even tried, or the filter would have killed it; nor is anything else that no sentry says."""
    client.make(wire.TCP, 1, OptionValue(*option, ONE))
    client.make(wire.UDP, 2)
    client.say(wire.OPTION, 2, OptionValue(*option, ONE).encode())
    client.say(wire.SET, 2, OptionValue(*option, ONE).encode())
    for junk in (
        b"x",
        wire.message(99, 1),
        wire.message(wire.MAKE, 9, b"\xff" * 40),
        wire.message(wire.BIND, 2),
    ):
        client.sock.send(junk)
    assert client.ask(wire.BIND, 2, Name(LOOPBACK, 0).encode())[0].errno == 0


def test_too_many(client: Client) -> None:
    for ident in range(MAX_SOCKETS + 1):
        client.make(wire.TCP, ident)
    assert client.ask(wire.BIND, MAX_SOCKETS, Name(LOOPBACK, 0).encode())[0].errno == errno.ENOBUFS
    client.say(wire.CLOSE, 5)
    client.make(wire.TCP, MAX_SOCKETS)
    assert client.ask(wire.BIND, MAX_SOCKETS, Name(LOOPBACK, 0).encode())[0].errno == 0


def test_a_namespace_that_cannot_be_joined() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    fd = os.open("/dev/null", os.O_RDONLY)
    process = start_network(fd, is_confined=True)
    os.close(fd)
    with pytest.raises(PartError, match="cannot join"):
        process.wait_ready()


def test_where_egress_decides_nothing_leaves(namespace: int) -> None:
    """It binds and listens; it connects, sends and pings nothing, not even to loopback."""
    process = start_network(namespace, is_confined=True, is_guarded=True)
    process.wait_ready()
    client = Client(process)
    client.make(wire.TCP, 1)
    bound, _fd = client.ask(wire.BIND, 1, Name(LOOPBACK, 0).encode())
    listening, door = client.ask(wire.LISTEN, 1, wire.encode_number(5))
    assert bound.errno == listening.errno == 0
    os.close(door)
    client.make(wire.TCP, 2)
    refused, fd = client.ask(wire.CONNECT, 2, Name(LOOPBACK, bound.name.port).encode())
    assert (refused.errno, fd) == (errno.EACCES, -1)
    client.make(wire.UDP, 3)
    grams, fd = client.ask(wire.BIND, 3, Name(LOOPBACK, 0).encode())
    with socket.socket(fileno=fd) as sock:
        sock.setblocking(False)
        client.say(wire.SEND, 3, Name(LOOPBACK, grams.name.port).encode() + b"x")
        kind, ident, body, _fd = client.heard()
        assert (kind, ident, wire.decode_number(body, 4095)) == (wire.TROUBLE, 3, errno.EACCES)
        with pytest.raises(BlockingIOError):
            sock.recv(9)
    for ident, transport in ((4, wire.PING), (5, wire.RAW_ICMP)):
        client.make(transport, ident)
        assert client.ask(wire.BIND, ident, Name(bytes(4), 0).encode())[0].errno == errno.EACCES
    process.sock.close()
    assert os.waitpid(process.pid, 0)[1] == 0
