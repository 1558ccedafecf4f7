"""Links between a program's Unix socket and one of the host's, whose events come when the test says so."""

import socket
from pathlib import Path

import pytest

from cloche.abi.errno import EAGAIN
from cloche.abi.poll import EPOLLHUP, EPOLLIN, EPOLLRDHUP
from cloche.abi.socket import AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.filter import SocketFilter
from cloche.net.ucred import Ucred
from cloche.net.unix_base import CONNECTED, UnixSocket
from cloche.net.unix_host import Door, HostedUnix, HostLink
from cloche.platform.fake import FakePlatform
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


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_SEQPACKET])
def test_memory_that_was_short(net: Net, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wakes the link when there is some again: the program has nothing to read, the host sends no more."""
    mine, link, outer = linked(net, kind)
    with monkeypatch.context() as short:
        short.setattr(KERNEL_MEMORY, "limit", 0)
        outer.send(b"one")
        link.fd_ready(link.token, EPOLLIN)
        net.kernel.timers.run_due(1 << 62)
        assert net.recv(mine, 9) == -EAGAIN
    assert net.kernel.timers.next_deadline_ns() > 0
    net.kernel.timers.run_due(1 << 62)
    assert net.recv(mine, 9) == b"one"
    outer.close()
    link.fd_ready(link.token, EPOLLIN | EPOLLRDHUP | EPOLLHUP)
    assert net.recv(mine, 9) == b"" and net.kernel.timers.next_deadline_ns() == -1


def test_an_empty_message_that_there_is_no_memory_for(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, link, outer = linked(net, SOCK_SEQPACKET)
    with monkeypatch.context() as short:
        short.setattr(KERNEL_MEMORY, "limit", 0)
        outer.send(b"")
        outer.send(b"one")
        link.fd_ready(link.token, EPOLLIN)
    net.kernel.timers.run_due(1 << 62)
    assert [net.recv(mine, 9) for _turn in range(3)] == [b"", b"one", -EAGAIN]


def test_a_link_that_is_closed_while_memory_is_short(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, link, outer = linked(net, SOCK_STREAM)
    with monkeypatch.context() as short:
        short.setattr(KERNEL_MEMORY, "limit", 0)
        outer.send(b"one")
        link.fd_ready(link.token, EPOLLIN)
        mine.put()
    assert not link.is_open and net.kernel.timers.next_deadline_ns() == -1
    outer.close()


def test_clients_while_memory_is_short(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = socket.socket(socket.AF_UNIX)
    host.bind(str(tmp_path / "socket"))
    host.listen()
    mine = net.socket(AF_UNIX, SOCK_STREAM)
    assert isinstance(mine, HostedUnix)
    mine.autobind()
    mine.door = door = Door(mine, net.task, host.detach())
    assert mine.listen(net.task, 5) == 0
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(tmp_path / "socket"))
    with monkeypatch.context() as short:
        short.setattr(KERNEL_MEMORY, "limit", 0)
        door.fd_ready(door.token, EPOLLIN)
    net.kernel.timers.run_due(1 << 62)
    assert not door.is_shut and net.kernel.timers.next_deadline_ns() == -1
    door.fd_ready(door.token, EPOLLIN)
    assert net.accept(mine)
    client.close()
    mine.put()


class Endless(socket.socket):
    """The host's socket behind a link: there is always one more message."""

    message: bytes = b""
    taken: int = 0

    def recvmsg(self, size: int, *_more: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:  # type: ignore[override]
        self.taken += 1
        assert self.taken < 100_000, "the turn has no end"
        return self.message[:size], [], 0, None


@pytest.mark.parametrize("size", [1, 400_000])
def test_a_host_that_sends_for_ever_what_a_filter_drops(net: Net, size: int) -> None:
    mine, link, outer = linked(net, SOCK_SEQPACKET)
    mine.filter_program = SocketFilter(b"\x06" + bytes(7))  # return 0
    link.host = endless = Endless(fileno=link.host.detach())
    endless.message = bytes(size)
    outer.send(b"x")
    platform = net.kernel.platform
    assert isinstance(platform, FakePlatform)
    for _turn in range(3):
        assert endless.fileno() in [fd for fd, _events in platform.epoll.poll(0)]  # it is told of again
        before = endless.taken
        link.fd_ready(link.token, EPOLLIN)
        assert 0 < endless.taken - before <= 256 and (endless.taken - before) * size < 2 << 20
    outer.close()
