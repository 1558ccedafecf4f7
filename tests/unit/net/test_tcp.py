"""TCP without guests: handshakes, FIN and RST in every order, buffers, urgent data, a model of the stream."""

import random

import pytest

from cloche.abi.errno import (
    EADDRNOTAVAIL,
    EAGAIN,
    EALREADY,
    ECONNREFUSED,
    ECONNRESET,
    EINPROGRESS,
    EISCONN,
    ENETUNREACH,
    ENOTCONN,
    EPIPE,
    ETIMEDOUT,
    LinuxError,
)
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from cloche.abi.socket import AF_INET, AF_INET6, MSG_OOB, MSG_PEEK, MSG_TRUNC, SOCK_DGRAM, SOCK_STREAM
from cloche.abi.socket_structs import pack_sockaddr_in, pack_sockaddr_in6
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.inet_addr import LOOPBACK4, LOOPBACK6
from cloche.net.inet_base import stack_of
from cloche.net.tcp import TcpSocket
from cloche.net.tcp_options import defer_seconds
from tests.unit.net.world import Net


@pytest.fixture
def net() -> Net:
    return Net()


def listener(net: Net, backlog: int = 8) -> TcpSocket:
    made = net.socket(AF_INET, SOCK_STREAM)
    assert isinstance(made, TcpSocket)
    assert made.bind(net.task, pack_sockaddr_in(LOOPBACK4, 0)) == 0
    assert made.listen(net.task, backlog) == 0
    return made


def connect(net: Net, server: TcpSocket) -> tuple[TcpSocket, int]:
    client = net.socket(AF_INET, SOCK_STREAM)
    assert isinstance(client, TcpSocket)
    return client, client.connect(net.task, server.local_name(), is_nonblocking=True)


def pair(net: Net) -> tuple[TcpSocket, TcpSocket]:
    server = listener(net)
    client, result = connect(net, server)
    assert result == -EINPROGRESS
    accepted = net.accept(server)
    assert isinstance(accepted, TcpSocket)
    server.put()
    return client, accepted


def test_non_blocking_connect_reports_twice(net: Net) -> None:
    server = listener(net)
    client, result = connect(net, server)
    assert result == -EINPROGRESS
    assert client.connect(net.task, server.local_name(), is_nonblocking=True) == 0
    assert client.connect(net.task, server.local_name(), is_nonblocking=True) == -EISCONN


def test_full_backlog_waits_and_times_out(net: Net) -> None:
    server = listener(net, 0)
    connect(net, server)
    second, result = connect(net, server)
    assert result == -EINPROGRESS
    assert not second.poll(net.task) & POLLOUT
    assert second.connect(net.task, server.local_name(), is_nonblocking=True) == -EALREADY
    third, _result = connect(net, server)
    net.accept(server)
    assert second.poll(net.task) & POLLOUT
    assert third.timer is not None
    net.kernel.timers.run_due(1 << 62)
    assert third.error == ETIMEDOUT
    assert third.poll(net.task) & POLLERR
    assert server.syn_queue == type(server.syn_queue)()


def test_closing_a_listener_resets_and_refuses(net: Net) -> None:
    server = listener(net, 0)
    accepted, _result = connect(net, server)
    waiting, _result = connect(net, server)
    server.put()
    assert net.recv(accepted) == -ECONNRESET
    assert net.recv(waiting) == -ECONNREFUSED
    stack = stack_of(net.container)
    assert stack.listeners == {}
    assert stack.tuples == {}


def test_no_route_and_no_address(net: Net) -> None:
    client = net.socket(AF_INET, SOCK_STREAM)
    with pytest.raises(LinuxError) as error:
        client.connect(net.task, pack_sockaddr_in(b"\x08\x08\x08\x08", 53), is_nonblocking=True)
    assert error.value.errno == ENETUNREACH
    assert client.bind(net.task, pack_sockaddr_in(b"\x08\x08\x08\x08", 0)) == -EADDRNOTAVAIL
    six = net.socket(AF_INET6, SOCK_STREAM)
    with pytest.raises(LinuxError) as error:
        six.connect(net.task, pack_sockaddr_in6(b"\x20\x01" + bytes(14), 80, 0, 0), is_nonblocking=True)
    assert error.value.errno == ENETUNREACH


def test_lo_down_is_no_network(net: Net) -> None:
    server = listener(net)
    stack_of(net.container).lo.is_up = False
    client = net.socket(AF_INET, SOCK_STREAM)
    with pytest.raises(LinuxError) as error:
        client.connect(net.task, server.local_name(), is_nonblocking=True)
    assert error.value.errno == ENETUNREACH


def test_everything_is_given_back(net: Net) -> None:
    stack = stack_of(net.container)
    for order in range(4):
        one, two = pair(net)
        net.send(one, b"data")
        if order & 1:
            net.recv(two)
        first, second = (one, two) if order & 2 else (two, one)
        first.put()
        second.put()
        assert stack.tuples == {}
        assert stack.sockets == {}
    for port in list(stack.tcp.holds):
        assert all(hold.ends_ns for hold in stack.tcp.holds[port])


def test_write_after_close(net: Net) -> None:
    one, two = pair(net)
    two.put()
    assert net.recv(one) == b""
    assert net.send(one, b"lost") == 4
    assert one.poll(net.task) & POLLERR
    assert net.send(one, b"x") == -EPIPE
    assert net.recv(one) == b""


def test_reset_after_the_data(net: Net) -> None:
    one, two = pair(net)
    net.send(one, b"unread")
    net.send(two, b"data")
    two.put()
    assert one.poll(net.task) & (POLLIN | POLLHUP | POLLERR) == POLLIN | POLLHUP | POLLERR
    assert net.recv(one) == b"data"
    assert net.recv(one) == -ECONNRESET
    assert net.recv(one) == b""
    with pytest.raises(LinuxError) as error:
        one.peer_name()
    assert error.value.errno == ENOTCONN


def test_stream_against_a_model(net: Net) -> None:
    choice = random.Random(11)
    one, two = pair(net)
    one.set_common(net.task, 7, (20000).to_bytes(4, "little"))
    sent, received, written = b"", b"", 0
    for _ in range(1500):
        action = choice.random()
        if action < 0.5:
            data = choice.randbytes(choice.choice((1, 17, 4096, 30000)))
            result = net.send(one, data)
            if result > 0:
                sent += data[:result]
                written += result
            else:
                assert result == -EAGAIN
                assert not one.poll(net.task) & POLLOUT
        elif action < 0.6:
            size = choice.choice((1, 1000, 100000))
            got = net.recv(two, size, MSG_PEEK)
            assert got == -EAGAIN or got == sent[len(received) : len(received) + size]
        else:
            got = net.recv(two, choice.choice((1, 333, 5000, 100000)))
            if isinstance(got, bytes):
                received += got
            else:
                assert got == -EAGAIN and len(received) == len(sent)
        assert two.rx_bytes == len(sent) - len(received)
    assert sent.startswith(received)


def test_discarding(net: Net) -> None:
    one, two = pair(net)
    net.send(one, b"abcdef")
    assert two.recv(net.task, _capacity(4), MSG_TRUNC, None) == 4
    assert net.recv(two) == b"ef"


def _capacity(size: int):  # type: ignore[no-untyped-def]
    from cloche.mm.usermem import KernelIovIter

    return KernelIovIter(capacity=size)


def test_urgent_byte_is_passed_over(net: Net) -> None:
    one, two = pair(net)
    net.send(one, b"abX", MSG_OOB)
    net.send(one, b"cd")
    assert two.poll(net.task) & POLLPRI
    assert net.recv(two) == b"ab"
    assert net.recv(two, 1, MSG_OOB) == b"X"
    assert net.recv(two) == b"cd"
    assert not two.poll(net.task) & POLLPRI


def test_defer_accept(net: Net) -> None:
    server = listener(net)
    assert server.setsockopt(net.task, 6, 9, (1).to_bytes(4, "little")) == 0
    client, _result = connect(net, server)
    assert not server.poll(net.task) & POLLIN
    net.send(client, b"GET")
    assert server.poll(net.task) & POLLIN
    assert net.recv(net.accept(server)) == b"GET"


@pytest.mark.parametrize(("given", "shown"), [(0, 0), (-1, 0), (1, 1), (2, 3), (50, 63), (100000, 29887)])
def test_defer_seconds(given: int, shown: int) -> None:
    assert defer_seconds(given) == shown


def test_udp_refusal_and_drops(net: Net) -> None:
    server, client = net.socket(AF_INET, SOCK_DGRAM), net.socket(AF_INET, SOCK_DGRAM)
    server.bind(net.task, pack_sockaddr_in(LOOPBACK4, 0))
    client.connect(net.task, server.local_name(), is_nonblocking=False)
    for _ in range(1000):
        assert net.send(client, bytes(1000)) == 1000
    count = 0
    while isinstance(net.recv(server), bytes):
        count += 1
    assert 50 < count < 300
    server.put()
    assert net.send(client, b"x") == 1
    assert net.send(client, b"x") == -ECONNREFUSED
    six = net.socket(AF_INET6, SOCK_DGRAM)
    assert six.bind(net.task, pack_sockaddr_in6(LOOPBACK6, 0, 0, 0)) == 0


def use_and_close(net: Net, before: int) -> None:
    server = listener(net, 100)
    for index in range(40):
        client, _result = connect(net, server)
        net.send(client, bytes(10000))
        if index & 1:
            accepted = net.accept(server)
            net.send(accepted, bytes(5000))
            accepted.put()
        client.put()
    gram = net.socket(AF_INET, SOCK_DGRAM)
    gram.bind(net.task, pack_sockaddr_in(LOOPBACK4, 0))
    gram.connect(net.task, gram.local_name(), is_nonblocking=False)
    net.send(gram, bytes(5000))
    assert KERNEL_MEMORY.used > before
    gram.put()
    server.put()


def test_nothing_stays_charged(net: Net) -> None:
    use_and_close(net, KERNEL_MEMORY.used)
    before = KERNEL_MEMORY.used
    use_and_close(net, before)
    assert KERNEL_MEMORY.used == before
