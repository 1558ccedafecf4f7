"""Networks that are a namespace of the host, without a sandbox: the real server of the network process in a thread (in
the machine's own namespace, at loopback), and one that lies."""

import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator

import pytest

from cloche.abi.errno import EADDRINUSE, EAGAIN, ECONNREFUSED, EINPROGRESS, EINVAL, EPERM, LinuxError
from cloche.abi.inet import IP_ADD_MEMBERSHIP, IP_TTL, IPPROTO_IP
from cloche.abi.rtnetlink import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR
from cloche.abi.socket import AF_INET, AF_INET6, AF_UNSPEC, SOCK_DGRAM, SOCK_STREAM
from cloche.abi.socket_structs import pack_sockaddr_in, pack_sockaddr_in6
from cloche.kernel.task import container_of
from cloche.mm.usermem import KernelIovIter
from cloche.net import rtnetlink
from cloche.net.inet_base import stack_for
from cloche.net.joined import open_network
from cloche.net.nlmsg import Reply
from cloche.net.socket import Incoming, Outgoing, SocketFile
from cloche.net.tcp import TcpSocket
from cloche.net.view import NetView
from cloche.netns.links import Links, read_parameters
from cloche.netns.server import Server
from cloche.platform.fake import FakePlatform
from cloche.wire import netns as wire
from cloche.wire.netns import Answer, Name
from tests.unit.net.world import Net

LOOPBACK = b"\x7f\0\0\1"
PATIENCE_S = 60.0


class Harness(Net):
    """A sandbox whose network is the machine's."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        platform = self.kernel.platform
        assert isinstance(platform, FakePlatform)
        self.platform = platform
        self.joined = open_network(container_of(self.task), self.task, channel)

    def turn(self, timeout_s: float = 0.02) -> None:
        """What the event loop would do now."""
        for fd, events in self.platform.epoll.poll(timeout_s):
            token = self.platform.tokens.get(fd)
            watcher = self.kernel.fds.watchers.get(token) if token is not None else None
            if token is not None and watcher is not None:
                watcher.fd_ready(token, events)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop turn until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline
            self.turn()

    def connect(self, sock: SocketFile, port: int, addr: bytes = LOOPBACK) -> int:
        try:
            return sock.connect(self.task, pack_sockaddr_in(addr, port), is_nonblocking=True)
        except LinuxError as error:
            return -error.errno

    def bind(self, sock: SocketFile, port: int = 0, addr: bytes = LOOPBACK) -> int:
        try:
            return sock.bind(self.task, pack_sockaddr_in(addr, port))
        except LinuxError as error:
            return -error.errno

    def port(self, sock: SocketFile) -> int:
        return int.from_bytes(sock.local_name()[2:4], "big")

    def send_to(self, sock: SocketFile, data: bytes, port: int) -> int:
        out = Outgoing()
        out.name = pack_sockaddr_in(LOOPBACK, port)
        return sock.send(self.task, KernelIovIter(data), 0, out)

    def received(self, sock: SocketFile) -> tuple[bytes, bytes]:
        """The next message and its sender."""
        found: list[bytes | int] = [-EAGAIN]
        info = Incoming()

        def look() -> bool:
            found[0] = self.recv(sock, 65536, 0, info)
            return found[0] != -EAGAIN

        self.until(look)
        data = found[0]
        assert isinstance(data, bytes), data
        return data, info.name or b""


@pytest.fixture
def net() -> Iterator[Harness]:
    if os.geteuid() != 0:
        pytest.skip("needs root, as the user of the programs")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=Server(theirs, Links(read_parameters())).run)
    thread.start()
    made = Harness(ours)
    yield made
    ours.close()
    thread.join(PATIENCE_S)
    theirs.close()


def test_a_server_is_reached_from_inside_and_outside(net: Harness) -> None:
    server = net.socket(AF_INET, SOCK_STREAM)
    assert net.bind(server) == 0 and server.listen(net.task, 5) == 0
    port = net.port(server)
    inside = net.socket(AF_INET, SOCK_STREAM)
    assert net.connect(inside, port) == -EINPROGRESS and net.connect(inside, port) == 0
    accepted = net.accept(server)
    assert net.send(inside, b"in") == 2 and net.recv(accepted) == b"in"
    outside = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    net.until(lambda: bool(server.poll(net.task) & 1))
    other = net.accept(server)
    assert other.accepted_name() == pack_sockaddr_in(LOOPBACK, outside.getsockname()[1])
    assert other.local_name() == pack_sockaddr_in(LOOPBACK, port)
    outside.sendall(b"out")
    assert net.received(other)[0] == b"out"
    assert net.send(other, b"back") == 4 and outside.recv(9) == b"back"
    other.put()
    assert outside.recv(9) == b""
    outside.close()
    accepted.put()
    server.put()
    net.until(lambda: is_free(port))


def is_free(port: int) -> bool:
    """Whether a port has no listener."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == ECONNREFUSED


def test_a_full_backlog_waits_at_the_host(net: Harness) -> None:
    server = net.socket(AF_INET, SOCK_STREAM)
    assert net.bind(server) == 0 and server.listen(net.task, 1) == 0
    assert isinstance(server, TcpSocket)
    clients: list[socket.socket] = []
    for count in range(4):
        clients.append(socket.create_connection(("127.0.0.1", net.port(server)), PATIENCE_S))
        clients[-1].sendall(b"x")
        most = min(count + 1, 2)
        net.until(lambda most=most: server.waiting_connections() == most)  # type: ignore[misc]
    for _each in clients:
        net.until(lambda: bool(server.poll(net.task) & 1))
        made = net.accept(server)
        assert net.received(made)[0] == b"x"
        made.put()
    for each in clients:
        each.close()


def test_one_space_of_ports(net: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        taken = host.getsockname()[1]
        for kind in (SOCK_STREAM, SOCK_DGRAM):
            sock = net.socket(AF_INET, kind)
            if kind == SOCK_STREAM:
                assert net.bind(sock, taken) == -EADDRINUSE
            assert net.bind(sock) == 0
            with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", net.port(sock)))
            assert net.bind(net.socket(AF_INET, kind), net.port(sock)) == -EADDRINUSE
            sock.put()


def test_the_way_out(net: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        sock = net.socket(AF_INET6, SOCK_STREAM)
        name = pack_sockaddr_in6(bytes(10) + b"\xff\xff" + LOOPBACK, host.getsockname()[1], 0, 0)
        assert sock.connect(net.task, name, is_nonblocking=True) == -EINPROGRESS
        net.until(lambda: bool(sock.poll(net.task) & 4))
        assert sock.connect(net.task, name, is_nonblocking=True) == 0
        there, address = host.accept()
        assert address[1] == net.port(sock)
        there.sendall(b"hello")
        assert net.received(sock)[0] == b"hello"
        # To another peer: a new socket, as the first one's can never be turned around.
        there.settimeout(PATIENCE_S)
        assert sock.connect(net.task, struct.pack("<H", AF_UNSPEC) + bytes(26), is_nonblocking=True) == 0
        with pytest.raises(ConnectionResetError):
            there.recv(1)
        assert sock.connect(net.task, name, is_nonblocking=True) == -EINPROGRESS
        host.accept()[0].close()
        there.close()
    refused = net.socket(AF_INET, SOCK_STREAM)
    result = net.connect(refused, 1)
    if result == -EINPROGRESS:
        net.until(lambda: bool(refused.poll(net.task) & 4))
        result = net.connect(refused, 1)
    assert result == -ECONNREFUSED


def test_datagrams(net: Harness) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("127.0.0.1", 0))
        host.settimeout(PATIENCE_S)
        there = host.getsockname()[1]
        sock = net.socket(AF_INET, SOCK_DGRAM)
        assert net.send_to(sock, b"first", there) == 5
        data, address = host.recvfrom(9)
        assert (data, address[1]) == (b"first", net.port(sock))
        host.sendto(b"answer", address)
        assert net.received(sock) == (b"answer", pack_sockaddr_in(LOOPBACK, there))
        assert sock.setsockopt(net.task, IPPROTO_IP, IP_TTL, struct.pack("<i", 7)) == 0
        assert net.connect(sock, there) == 0
        assert net.send(sock, b"second") == 6 and host.recv(9) == b"second"
        other = net.socket(AF_INET, SOCK_DGRAM)
        assert net.bind(other) == 0
        inside = net.socket(AF_INET, SOCK_DGRAM)
        assert net.send_to(inside, b"inside", net.port(other)) == 6
        assert net.recv(other) == b"inside"  # at once: it never left
        # From a connected to an unconnected socket again, at the same port.
        port = net.port(sock)
        assert net.bind(net.socket(AF_INET, SOCK_DGRAM), port) == -EADDRINUSE
        assert sock.connect(net.task, struct.pack("<H", AF_UNSPEC) + bytes(14), is_nonblocking=True) == 0
        assert net.send_to(sock, b"third", there) == 5 and host.recv(9) == b"third"


def test_a_group(net: Harness) -> None:
    """Of an interface that only the namespace has; lo's are the sandbox's own."""
    here = [each for each in net.joined.view.addresses if len(each.addr) == 4 and each.addr[0] != 127]
    if not here:
        pytest.skip("needs an interface besides lo")
    group = b"\xef\x01\x02\x03"
    sock = net.socket(AF_INET, SOCK_DGRAM)
    assert net.bind(sock, 0, bytes(4)) == 0
    assert sock.setsockopt(net.task, IPPROTO_IP, IP_ADD_MEMBERSHIP, group + here[0].addr) == 0
    assert sock.setsockopt(net.task, IPPROTO_IP, IP_ADD_MEMBERSHIP, group + here[0].addr) == -EADDRINUSE
    assert sock.setsockopt(net.task, IPPROTO_IP, IP_ADD_MEMBERSHIP, b"\1\2\3\4" + here[0].addr) == -EINVAL
    assert sock.setsockopt(net.task, IPPROTO_IP, IP_ADD_MEMBERSHIP, group + LOOPBACK) == 0


def test_before_a_connection_stands(net: Harness) -> None:
    """Nothing can be sent yet, which is no error."""
    sock = net.socket(AF_INET, SOCK_STREAM)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        others = [socket.socket() for _each in range(4)]
        for each in others:  # more than its backlog: the last ones wait
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        assert net.connect(sock, port) == -EINPROGRESS
        net.turn()
        assert net.send(sock, b"x") == -EAGAIN and not sock.poll(net.task) & 4
        assert net.recv(sock) == -EAGAIN
        for each in others:
            each.close()
    sock.put()


def test_a_datagram_that_nobody_takes(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    assert net.connect(sock, port) == 0
    assert net.send(sock, b"x") == 1
    net.until(lambda: net.recv(sock) == -ECONNREFUSED)


def test_what_there_is(net: Harness) -> None:
    stack = stack_for(net.task)
    for kind, head in ((RTM_GETLINK, 16), (RTM_GETADDR, 8), (RTM_GETROUTE, 12)):
        reply = Reply(0, 0)
        assert rtnetlink.answer(stack, net.task, reply, kind, 0x300, bytes(head)) == 0
        assert reply.parts
    assert rtnetlink.answer(stack, net.task, Reply(0, 0), RTM_NEWADDR, 0, bytes(8)) == EPERM
    assert b"lo" in [link.name for link in net.joined.view.links]
    assert LOOPBACK in stack.lo.addresses4


class Liar:
    """A network process that says what it likes."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(PATIENCE_S)
        self.say(wire.message(wire.PART, 0, struct.pack("<5I", 0, 0, 0, 32768, 60999) + b"\xff" * 40))
        self.say(wire.message(wire.END, 0))
        self.net = Harness(theirs)

    def say(self, data: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        self.ours.sendmsg([data], rights)


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.ours.close()


def test_answers_that_nobody_asked_for(liar: Liar) -> None:
    net = liar.net
    before = len(os.listdir("/proc/self/fd"))
    for message in (b"", b"x", bytes(70000)[:65000], wire.message(wire.ANSWER, 1), wire.message(99, 1, b"x")):
        if message:
            liar.say(message, 0)
            net.turn()
    liar.say(wire.message(wire.ANSWER, 7, Answer(0, Name(LOOPBACK, 1)).encode()), 0)
    liar.say(wire.message(wire.TROUBLE, 7, wire.encode_number(5)))
    liar.say(wire.message(wire.PART, 0, b"\x20\0\0\0\x10\0\0\0" + bytes(90)), 0)
    liar.say(wire.message(wire.END, 0), 0)
    for _turn in range(8):
        net.turn()
    assert len(os.listdir("/proc/self/fd")) == before
    # It is heard as before; an answer without its descriptor is an error.
    sock = net.socket(AF_INET, SOCK_STREAM)
    liar.say(wire.message(wire.ANSWER, 1, Answer(0, Name(LOOPBACK, 5)).encode()))
    assert net.bind(sock, 5, bytes(4)) == 0
    liar.say(wire.message(wire.ANSWER, 1, Answer(0, Name(LOOPBACK, 5)).encode()))
    assert sock.listen(net.task, 1) < 0


def test_a_view_that_is_malformed() -> None:
    good = struct.pack("<5I", 80, 0, 1, 40000, 50000)
    for tail in (
        b"\0" * 16,
        b"\x10\0\0\0" * 4,
        struct.pack("<IHHII", 40, 20, 0, 0, 0) + bytes(24),
        b"\xff" * 200,
    ):
        view = NetView(good + tail)
        assert view.unprivileged_port == 80 and view.links == [] and view.addresses == []
    assert NetView(struct.pack("<5I", 1 << 31, 5, 4, 3, 2)).port_low == 32768


def test_the_end_of_the_process(liar: Liar) -> None:
    net = liar.net
    sock = net.socket(AF_INET, SOCK_DGRAM)
    liar.ours.close()
    assert net.bind(sock, 0, bytes(4)) < 0
    assert net.bind(net.socket(AF_INET, SOCK_STREAM), 0, bytes(4)) < 0
