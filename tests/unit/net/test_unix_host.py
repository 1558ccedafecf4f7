"""Links between a program's Unix socket and one of the host's, whose events come when the test says so."""

import socket

import pytest

from cloche.abi.errno import EAGAIN
from cloche.abi.poll import EPOLLHUP, EPOLLIN, EPOLLRDHUP
from cloche.abi.socket import AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM
from cloche.net.ucred import Ucred
from cloche.net.unix_base import CONNECTED, UnixSocket
from cloche.net.unix_host import HostLink
from tests.unit.net.world import Net

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def net() -> Net:
    return Net()


def linked(net: Net, kind: int) -> tuple[UnixSocket, HostLink, socket.socket]:
    """A program's socket, what links it, and the host's other end."""
    mine = net.socket(AF_UNIX, kind)
    assert isinstance(mine, UnixSocket)
    mine.state = CONNECTED
    inner, outer = socket.socketpair(socket.AF_UNIX, kind)
    inner.setblocking(False)
    return mine, HostLink(mine, net.task, inner, Ucred(0, 0, 0)), outer


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_SEQPACKET])
def test_an_end_that_the_loop_has_not_told_yet(net: Net, kind: int) -> None:
    mine, link, outer = linked(net, kind)
    outer.send(b"one")
    outer.close()
    link.fd_ready(link.token, EPOLLIN)
    assert [net.recv(mine, 9) for _turn in range(3)] == [b"one", b"", b""]
    assert not mine.packets
    link.fd_ready(link.token, EPOLLRDHUP | EPOLLHUP)
    assert not link.is_open


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_SEQPACKET])
def test_a_release_before_the_end_is_told(net: Net, kind: int) -> None:
    mine, link, outer = linked(net, kind)
    outer.close()
    mine.put()
    assert not link.is_open


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_SEQPACKET])
def test_a_host_that_ends_sending_only(net: Net, kind: int) -> None:
    mine, link, outer = linked(net, kind)
    outer.send(b"one")
    outer.shutdown(socket.SHUT_WR)
    link.fd_ready(link.token, EPOLLIN)
    assert [net.recv(mine, 9) for _turn in range(2)] == [b"one", b""]
    assert net.send(mine, b"answer") == 6
    assert outer.recv(9) == b"answer"
    mine.put()
    assert outer.recv(9) == b""


def test_empty_messages_are_no_end(net: Net) -> None:
    mine, link, outer = linked(net, SOCK_SEQPACKET)
    outer.send(b"")
    link.fd_ready(link.token, EPOLLIN)
    assert [net.recv(mine, 9) for _turn in range(2)] == [b"", -EAGAIN]
    for text in (b"", b"one", b"", b"two"):
        outer.send(text)
    outer.close()
    link.fd_ready(link.token, EPOLLIN)
    assert [net.recv(mine, 9) for _turn in range(5)] == [b"", b"one", b"", b"two", b""]
