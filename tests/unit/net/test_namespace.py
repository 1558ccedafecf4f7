"""Network namespaces: each with its own lo, ports and names."""

import pytest

from cloche.abi.errno import EADDRNOTAVAIL, ECONNREFUSED, EPERM, LinuxError
from cloche.abi.sched import CLONE_NEWNET
from cloche.abi.socket import AF_INET, AF_UNIX, SOCK_STREAM
from cloche.abi.socket_structs import pack_sockaddr_in
from cloche.kernel.unshare import unshare
from cloche.net.inet_addr import LOOPBACK4
from cloche.net.inet_base import stack_for, stack_of
from cloche.net.proc_text import TcpLines
from cloche.vfs.credentials import Credentials
from tests.unit.net.world import Net


@pytest.fixture
def net() -> Net:
    return Net()


def test_a_new_network_is_empty(net: Net) -> None:
    first = stack_of(net.container)
    server = net.socket(AF_INET, SOCK_STREAM)
    assert server.bind(net.task, pack_sockaddr_in(LOOPBACK4, 8080)) == 0
    server.listen(net.task, 1)
    unshare(net.task, CLONE_NEWNET)
    second = stack_for(net.task)
    assert second is not first
    assert second.ino != first.ino
    assert not second.lo.is_up and second.lo.addresses4 == {}
    inside = net.socket(AF_INET, SOCK_STREAM)
    assert inside.bind(net.task, pack_sockaddr_in(LOOPBACK4, 8080)) == -EADDRNOTAVAIL
    second.lo.set_up(is_up=True)
    assert inside.connect(net.task, pack_sockaddr_in(LOOPBACK4, 8080), is_nonblocking=False) == -ECONNREFUSED
    assert inside.bind(net.task, pack_sockaddr_in(LOOPBACK4, 8080)) == 0
    # A socket stays where it was made.
    client = net.socket(AF_INET, SOCK_STREAM, task=net.new_task())
    assert client.connect(net.task, pack_sockaddr_in(LOOPBACK4, 8080), is_nonblocking=False) == 0
    accepted = net.accept(server)
    assert accepted in first.sockets and accepted not in second.sockets
    lines = TcpLines(AF_INET)
    assert len(lines.sockets(first)) == 3 and lines.sockets(second) == []
    assert all(lines.line(sock, 0).endswith(b"\n") for sock in lines.sockets(first))


def test_abstract_names_are_separate(net: Net) -> None:
    outside = net.socket(AF_UNIX, SOCK_STREAM)
    assert outside.bind(net.task, b"\1\0\0name") == 0
    outside.listen(net.task, 1)
    unshare(net.task, CLONE_NEWNET)
    inside = net.socket(AF_UNIX, SOCK_STREAM)
    with pytest.raises(LinuxError) as error:
        inside.connect(net.task, b"\1\0\0name", is_nonblocking=True)
    assert error.value.errno == ECONNREFUSED
    assert inside.bind(net.task, b"\1\0\0name") == 0


def test_needs_the_capability(net: Net) -> None:
    net.task.creds = Credentials(1000, 1000)
    with pytest.raises(LinuxError) as error:
        unshare(net.task, CLONE_NEWNET)
    assert error.value.errno == EPERM
