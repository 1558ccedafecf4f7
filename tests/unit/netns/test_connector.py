"""The connector as it really is: forked, confined, under its filter; and egress's handling of its answers."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from cloche.egress.sockets import OwnAddress, Sockets
from cloche.netns.connector import ConnectorProcess, start_connector
from cloche.wire import connector as wire
from cloche.wire.connector import ConnectAnswer, ConnectRequest

LOOPBACK = b"\x7f\0\0\1"
PATIENCE_S = 60


@pytest.fixture
def connector() -> Iterator[ConnectorProcess]:
    process = start_connector(-1, is_confined=True)
    process.wait_ready()
    yield process
    if process.sock.fileno() >= 0:
        process.sock.close()
    assert os.waitpid(process.pid, 0)[1] == 0  # it ends by itself, and was not killed by its filter


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
