"""Connections that the broker hands in, without a sandbox: limits, back-pressure, ends."""

import gc
import os
import select
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest

from cloche.abi.errno import EAGAIN, ECONNRESET, EPIPE
from cloche.abi.poll import POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from cloche.abi.socket import AF_INET, SOCK_STREAM
from cloche.abi.socket_structs import pack_sockaddr_in
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.host_stream import FILL_BYTES
from cloche.net.published import Publisher
from cloche.net.socket import SocketFile
from cloche.platform.fake import FakePlatform
from cloche.wire.broker import Arrival
from tests.unit.net.world import Net

PORT = 8080


class Harness(Net):
    """A sandbox with a publisher, and the broker's end of the channel."""

    def __init__(self) -> None:
        super().__init__()
        platform = self.kernel.platform
        assert isinstance(platform, FakePlatform)
        self.platform = platform
        self.broker, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.publisher = Publisher(self.kernel, self.task, theirs)
        self.host = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []

    def listener(self, backlog: int = 8) -> SocketFile:
        made = self.socket(AF_INET, SOCK_STREAM)
        assert made.bind(self.task, pack_sockaddr_in(bytes(4), PORT)) == 0
        assert made.listen(self.task, backlog) == 0
        return made

    def arrive(self, message: bytes | None = None) -> socket.socket:
        """A client of the host connects, and the broker hands the connection in."""
        client = socket.create_connection(self.host.getsockname(), timeout=60)
        self.clients.append(client)
        accepted, (_host, port) = self.host.accept()
        data = message if message is not None else Arrival(PORT, b"\x7f\0\0\1", port).encode()
        rights = array("i", [accepted.fileno()])
        self.broker.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        accepted.close()
        self.turn()
        return client

    def turn(self) -> None:
        """What the event loop would do now."""
        for fd, events in self.platform.epoll.poll(0.2):
            token = self.platform.tokens.get(fd)
            watcher = self.kernel.fds.watchers.get(token) if token is not None else None
            if token is not None and watcher is not None:
                watcher.fd_ready(token, events)

    def close(self) -> None:
        for sock in (*self.clients, self.broker, self.host):
            sock.close()


@pytest.fixture
def net() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.close()


def is_reset(client: socket.socket) -> bool:
    """Whether the other end has reset the connection (not merely closed it)."""
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_nobody_listens(net: Harness) -> None:
    assert is_reset(net.arrive())
    assert net.publisher.count == 0


@pytest.mark.parametrize("message", [b"x", bytes(21), Arrival(PORT, bytes(4), 1).encode() + b"x"])
def test_a_message_that_no_broker_sends(net: Harness, message: bytes) -> None:
    net.listener()
    client = net.arrive(message)
    assert client.recv(1) == b""
    assert is_reset(net.arrive(Arrival(1, bytes(4), 1).encode()))


def test_a_connection_that_was_reset_before_it_came(net: Harness) -> None:
    """The server is to see it, as anywhere: a broker's connection is accepted, and then found to be reset."""
    net.listener()
    client = socket.create_connection(net.host.getsockname(), timeout=60)
    accepted, (_host, port) = net.host.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    select.select([accepted], [], [], 60)
    data = Arrival(PORT, b"\x7f\0\0\1", port).encode()
    net.broker.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [accepted.fileno()]))])
    accepted.close()
    net.turn()
    assert net.publisher.count == 1


def other_things() -> Iterator[tuple[str, int]]:
    """Descriptors that are no connection, by name; each is the receiver's own."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    yield "pipe", read_end
    yield "memory", os.memfd_create("m")
    yield "datagrams", socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
    ours, theirs = socket.socketpair()
    yield "pair", theirs.detach()
    ours.close()
    yield "not connected", socket.socket().detach()
    yield "listening", socket.create_server(("127.0.0.1", 0)).detach()


def test_a_broker_that_sends_other_things(net: Harness) -> None:
    listener = net.listener(100)
    for name, fd in other_things():
        before = set(os.listdir("/proc/self/fd"))
        data = Arrival(PORT, b"\x7f\0\0\1", 1).encode()
        net.broker.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))])
        net.turn()
        assert set(os.listdir("/proc/self/fd")) == before, name
        assert net.publisher.count == 0, name
        os.close(fd)
    net.arrive()  # it goes on
    assert net.publisher.count == 1
    net.accept(listener).put()


def test_too_many(net: Harness) -> None:
    listener = net.listener(100)
    net.publisher.limit = 3
    clients = [net.arrive() for _number in range(4)]
    assert net.publisher.count == 3 and is_reset(clients[3])
    net.accept(listener).put()
    assert net.publisher.count == 2
    net.arrive()
    assert net.publisher.count == 3


def test_a_full_backlog_waits(net: Harness) -> None:
    listener = net.listener(0)
    clients = [net.arrive() for _number in range(3)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    for number in range(3):
        assert listener.poll(net.task) & POLLIN
        end = net.accept(listener)
        net.turn()
        assert net.recv(end) == b"%d" % number
    assert not listener.poll(net.task) & POLLIN


def test_a_listener_that_is_closed_resets_those_who_wait(net: Harness) -> None:
    gc.collect()  # cycles of earlier tests must not be counted
    used = KERNEL_MEMORY.used
    listener = net.listener(0)
    clients = [net.arrive() for _number in range(3)]
    listener.put()
    del listener
    assert all(is_reset(client) for client in clients)
    assert net.publisher.count == 0 and KERNEL_MEMORY.used == used


def test_little_is_taken_ahead(net: Harness) -> None:
    listener = net.listener()
    client = net.arrive()
    client.setblocking(False)
    end = net.accept(listener)
    sent = 0
    for _turn in range(50):
        try:
            sent += client.send(bytes(100_000))
        except BlockingIOError:
            break
        net.turn()
    assert getattr(end, "rx_bytes") <= 2 * FILL_BYTES < sent  # noqa: B009
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    got = 0
    while True:
        data = net.recv(end)
        if data == -EAGAIN:
            net.turn()
            continue
        assert isinstance(data, bytes)
        if not data:
            break
        got += len(data)
    assert got == sent


def test_events(net: Harness) -> None:
    listener = net.listener()
    client = net.arrive()
    end = net.accept(listener)
    assert end.poll(net.task) & (POLLIN | POLLOUT) == POLLOUT
    assert net.recv(end) == -EAGAIN
    client.sendall(b"x")
    net.turn()
    assert end.poll(net.task) & POLLIN
    while net.send(end, bytes(1_000_000)) > 0:
        pass
    assert not end.poll(net.task) & POLLOUT
    while select.select([client], [], [], 0.1)[0]:
        client.recv(1 << 20)
        net.turn()
    assert end.poll(net.task) & POLLOUT
    client.shutdown(socket.SHUT_WR)
    net.turn()
    assert end.poll(net.task) & POLLRDHUP
    assert net.recv(end) == b"x" and net.recv(end) == b""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    net.turn()
    assert end.poll(net.task) & POLLHUP
    assert net.send(end, b"x") in (-EPIPE, -ECONNRESET)
    end.put()
    assert net.publisher.count == 0


def test_the_end_of_the_broker(net: Harness) -> None:
    listener = net.listener()
    client = net.arrive()
    net.broker.close()
    net.turn()
    end = net.accept(listener)
    client.sendall(b"still there")
    net.turn()
    assert net.recv(end) == b"still there"
