"""The connector as it really is: forked, confined, under its filter; and egress's handling of its answers."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator

import pytest

from cloche.egress.sockets import OwnAddress, Sockets
from cloche.netns.connector import Connector, ConnectorProcess, start_connector
from cloche.wire import connector as wire
from cloche.wire import egress
from cloche.wire.connector import ConnectAnswer, ConnectRequest
from cloche.wire.descriptors import receive_with_descriptor

LOOPBACK = b"\x7f\0\0\1"
PATIENCE_S = 60


@pytest.fixture
def sentry() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sentry's end of its socket to egress, and egress's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(PATIENCE_S)
        yield ours, theirs


@pytest.fixture
def connector(sentry: tuple[socket.socket, socket.socket]) -> Iterator[ConnectorProcess]:
    process = start_connector(-1, sentry[1], is_confined=True)
    process.wait_ready()
    yield process
    if process.sock.fileno() >= 0:
        process.sock.close()
    assert os.waitpid(process.pid, 0)[1] == 0  # it ends by itself, and was not killed by its filter


def ask_for_sentry(
    connector: ConnectorProcess, port: int, transport: int = wire.TCP
) -> tuple[ConnectAnswer, int]:
    """Ask for a connection that the sentry's question 9 is about; the answer, and its descriptor."""
    request = ConnectRequest(7, transport, LOOPBACK, port, may_be_own=True, sentry=9)
    connector.sock.settimeout(PATIENCE_S)
    connector.sock.send(request.encode())
    data, fd = receive_with_descriptor(connector.sock, wire.ANSWER_BYTES)
    return ConnectAnswer.decode(data), fd


@pytest.mark.parametrize("transport", [wire.TCP, wire.UDP])
def test_the_sentry_gets_it_first(
    connector: ConnectorProcess, sentry: tuple[socket.socket, socket.socket], transport: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer, fd = ask_for_sentry(connector, server.getsockname()[1], transport)
        data, given = receive_with_descriptor(sentry[0], 64)
    message = egress.decode(data)
    assert (message.kind, message.ident, message.errno()) == (egress.ANSWER, 9, 0)
    assert answer.is_given and answer.errno in (0, errno.EINPROGRESS)
    with socket.socket(fileno=fd) as one, socket.socket(fileno=given) as other:
        assert one.getsockname() == other.getsockname()  # both are the same socket


def test_what_failed_is_not_given(
    connector: ConnectorProcess, sentry: tuple[socket.socket, socket.socket]
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answer, fd = ask_for_sentry(connector, bound.getsockname()[1])
    os.close(fd)
    assert not answer.is_given
    sentry[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        sentry[0].recv(64)


def test_a_sentry_that_does_not_read(
    connector: ConnectorProcess, sentry: tuple[socket.socket, socket.socket]
) -> None:
    sentry[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sentry[1].send(b"x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer, fd = ask_for_sentry(connector, server.getsockname()[1])
    os.close(fd)
    assert not answer.is_given and answer.ident == 7


def test_a_sentry_that_is_gone(
    connector: ConnectorProcess, sentry: tuple[socket.socket, socket.socket]
) -> None:
    sentry[0].close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer, fd = ask_for_sentry(connector, server.getsockname()[1])
    os.close(fd)
    assert not answer.is_given


def asked(process: ConnectorProcess, port: int, transport: int = wire.TCP, *, may_be_own: bool = True) -> str:
    """Ask as egress does: what the server hears, or why there is no connection."""

    async def work() -> str:
        sockets = Sockets(process.sock)
        sockets.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                with await sockets.connect(transport, LOOPBACK, port, may_be_own=may_be_own) as sock:
                    await asyncio.get_running_loop().sock_sendall(sock, b"hello")
                    return "connected"
        except OwnAddress:
            return "own"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            sockets.close()

    return asyncio.run(work())


def test_it_connects(connector: ConnectorProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        assert asked(connector, server.getsockname()[1]) == "connected"
        there, _address = server.accept()
        with there:
            assert there.recv(9) == b"hello"
            assert there.recv(9) == b""  # it has kept nothing


def test_datagrams(connector: ConnectorProcess) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE_S)
        assert asked(connector, server.getsockname()[1], wire.UDP) == "connected"
        assert server.recv(9) == b"hello"


def test_nobody_there(connector: ConnectorProcess) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert asked(connector, bound.getsockname()[1]) == "ECONNREFUSED"


@pytest.mark.parametrize("transport", [wire.TCP, wire.UDP])
def test_the_networks_own_addresses(connector: ConnectorProcess, transport: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        assert asked(connector, server.getsockname()[1], transport, may_be_own=False) == "own"
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("transport", [wire.TCP, wire.UDP])
def test_an_address_that_becomes_the_networks_own(transport: int) -> None:
    """It was another's a moment ago, and is not looked at again before, but after connecting."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server:
        ours.settimeout(PATIENCE_S)
        serving = Connector(theirs, theirs)
        serving.foreign[LOOPBACK] = time.monotonic() + 1000
        request = ConnectRequest(7, transport, LOOPBACK, server.getsockname()[1], may_be_own=False, sentry=9)
        ours.send(request.encode())
        assert serving.answer_one()
        data, fd = receive_with_descriptor(ours, wire.ANSWER_BYTES)
        answer = ConnectAnswer.decode(data)
        assert (answer.ident, answer.is_own, answer.is_given, fd) == (7, True, False, -1)
        # Others are remembered for a while (127.0.0.2 has another source address).
        other = ConnectRequest(8, wire.TCP, b"\x7f\0\0\2", 9, may_be_own=False)
        ours.send(other.encode())
        assert serving.answer_one() and set(serving.foreign) == {LOOPBACK, other.addr}


def test_what_no_egress_sends(connector: ConnectorProcess) -> None:
    good = ConnectRequest(7, wire.TCP, LOOPBACK, 0, may_be_own=True).encode()
    for junk in (b"x", good[:-1], good + b"x", good[:8] + b"\1" + good[9:], good[:9] + b"\5" + good[10:]):
        connector.sock.send(junk)
    connector.sock.settimeout(PATIENCE_S)
    connector.sock.send(good)
    answer = ConnectAnswer.decode(connector.sock.recv(wire.ANSWER_BYTES))
    assert (answer.ident, answer.is_own) == (7, False) and answer.errno


def test_a_connector_that_lies() -> None:
    """What does not decode, answers nobody, brings no socket, or too many: nobody waits for ever."""

    async def work() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sockets = Sockets(ours)
        sockets.start()
        loop = asyncio.get_running_loop()
        theirs.setblocking(False)
        wanted = asyncio.create_task(sockets.connect(wire.UDP, LOOPBACK, 9))
        request = ConnectRequest.decode(await loop.sock_recv(theirs, wire.ASK_BYTES))
        theirs.send(b"junk")
        theirs.send(ConnectAnswer(request.ident + 1, 0, is_own=False).encode())
        with open(os.devnull, "rb") as file:  # no socket
            socket.send_fds(theirs, [ConnectAnswer(request.ident, 0, is_own=False).encode()], [file.fileno()])
        with pytest.raises(OSError, match="Input/output"):
            await wanted
        again = asyncio.create_task(sockets.connect(wire.UDP, LOOPBACK, 9))
        await loop.sock_recv(theirs, wire.ASK_BYTES)
        theirs.close()
        with pytest.raises(OSError, match="network is gone"):
            await again
        with pytest.raises(OSError, match="network is gone"):
            await sockets.connect(wire.UDP, LOOPBACK, 9)

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
