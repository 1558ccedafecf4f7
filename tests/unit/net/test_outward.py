"""The sentry's side of the way out, without a sandbox: an egress that answers well, badly, late or never."""

import os
import select
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest

from cloche.abi.errno import EACCES, EAGAIN, ECONNREFUSED, ECONNRESET, EINPROGRESS, EPIPE, LinuxError
from cloche.abi.poll import POLLIN, POLLOUT
from cloche.abi.socket import AF_INET, AF_INET6, AF_UNSPEC, MSG_FASTOPEN, MSG_PEEK, SOCK_DGRAM, SOCK_STREAM
from cloche.abi.socket_structs import pack_sockaddr_in, pack_sockaddr_in6
from cloche.kernel.task import container_of
from cloche.mm.usermem import KernelIovIter, user_iov
from cloche.net.host_stream import HostStream
from cloche.net.outward import MAX_FLOWS_EACH, open_gateway
from cloche.net.socket import Outgoing, SocketFile
from cloche.platform.fake import FakePlatform
from cloche.wire import egress as wire
from cloche.wire.descriptors import receive_with_descriptor
from tests.unit.net.world import Net

SOURCE = bytes([198, 18, 0, 1])
FAR = bytes([93, 184, 216, 34])


class Harness(Net):
    """A sandbox with a way out, and egress's end of it."""

    def __init__(self) -> None:
        super().__init__()
        platform = self.kernel.platform
        assert isinstance(platform, FakePlatform)
        self.platform = platform
        self.egress, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.egress.settimeout(60)
        self.outside = open_gateway(container_of(self.task), theirs, SOURCE, b"")

    def turn(self) -> None:
        """What the event loop would do now."""
        for fd, events in self.platform.epoll.poll(0.2):
            token = self.platform.tokens.get(fd)
            watcher = self.kernel.fds.watchers.get(token) if token is not None else None
            if token is not None and watcher is not None:
                watcher.fd_ready(token, events)

    def asked(self) -> wire.EgressMessage:
        """The next message to egress."""
        return wire.decode(self.egress.recv(wire.MESSAGE_BYTES))

    def is_asked(self) -> bool:
        return bool(select.select([self.egress], [], [], 0)[0])

    def say(self, data: bytes, *fds: socket.socket) -> None:
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [each.fileno() for each in fds]))]
            if fds
            else []
        )
        self.egress.sendmsg([data], rights)
        self.turn()

    def connect(self, sock: SocketFile, addr: bytes = FAR, port: int = 443) -> int:
        return sock.connect(self.task, pack_sockaddr_in(addr, port), is_nonblocking=True)

    def connected(self, port: int = 443) -> tuple[SocketFile, int, socket.socket]:
        """A connection, its number, and the other end of it."""
        sock = self.socket(AF_INET, SOCK_STREAM)
        assert self.connect(sock, port=port) == -EINPROGRESS
        ident = self.asked().ident
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.say(wire.answer(ident, 0), theirs)
        theirs.close()
        assert self.connect(sock, port=port) == 0
        return sock, ident, ours


@pytest.fixture
def net() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.egress.close()


def test_a_connection(net: Harness) -> None:
    sock, ident, other = net.connected()
    assert sock.peer_name() == pack_sockaddr_in(FAR, 443)
    assert sock.local_name()[4:8] == SOURCE
    assert net.send(sock, b"there") == 5 and other.recv(9) == b"there"
    other.sendall(b"back")
    net.turn()
    assert net.recv(sock) == b"back" and net.recv(sock) == -EAGAIN
    other.close()
    net.turn()
    assert net.recv(sock) == b""
    sock.put()
    message = net.asked()
    assert (message.kind, message.ident, message.counts()) == (wire.CLOSED, ident, (4, 5))


def test_a_vector_is_one_packet(net: Harness) -> None:
    sock, _ident, first = net.connected()
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps packets apart
    assert isinstance(sock, HostStream)
    sock.change_host(ours)
    first.close()
    at = 0x40000
    net.poke(at, b"headbody")
    src = user_iov(net.task.user_memory(), [(at, 4), (at + 4, 4)])
    assert sock.send(net.task, src, 0, None) == 8 and src.remaining() == 0
    assert other.recv(100) == b"headbody"
    other.close()


def test_much_at_a_time(net: Harness) -> None:
    """It goes from the host's socket to the program: nothing is taken ahead; errors and ends are seen as before."""
    sock, _ident, other = net.connected()
    assert isinstance(sock, HostStream)
    data = bytes(range(256)) * 300
    other.sendall(data[:50000])
    net.turn()
    assert net.recv(sock, 1 << 20) == data[:50000] and sock.rx_bytes == 0
    assert net.recv(sock, 1 << 20) == -EAGAIN
    # Who looks first, or asks for little, has some of it taken ahead; the rest comes with it all the same.
    other.sendall(data)
    net.turn()
    assert sock.poll(net.task) & POLLIN and sock.rx_bytes == 65536
    assert net.recv(sock, 1 << 20) == data and sock.bytes_received == 50000 + len(data)
    other.sendall(data[:100])
    net.turn()
    assert net.recv(sock, 10) == data[:10] and net.recv(sock, 1 << 20) == data[10:100]
    other.sendall(data[:100])
    net.turn()
    assert net.recv(sock, 1 << 20, MSG_PEEK) == data[:100] and net.recv(sock, 1 << 20) == data[:100]
    other.close()
    net.turn()
    assert net.recv(sock, 1 << 20) == b"" and net.recv(sock, 1 << 20) == b""


def test_a_reset_between(net: Harness) -> None:
    sock, _ident, other = net.connected()
    net.send(sock, b"unread")
    other.sendall(b"last")
    other.close()  # with something unread: a reset
    assert net.recv(sock, 1 << 20) == b"last"
    assert net.recv(sock, 1 << 20) == -ECONNRESET
    assert net.recv(sock, 1 << 20) == b""


def test_what_is_asked(net: Harness) -> None:
    sock = net.socket(AF_INET6, SOCK_STREAM)
    mapped = pack_sockaddr_in6(bytes(10) + b"\xff\xff" + FAR, 80, 0, 0)
    assert sock.connect(net.task, mapped, is_nonblocking=True) == -EINPROGRESS
    target = wire.Target.decode(net.asked().body)
    assert (target.transport, target.addr, target.port) == (wire.TCP, FAR, 80)


@pytest.mark.parametrize("errno", [EACCES, ECONNREFUSED])
def test_refusals(net: Harness, errno: int) -> None:
    sock = net.socket(AF_INET, SOCK_STREAM)
    assert net.connect(sock) == -EINPROGRESS
    assert not sock.poll(net.task) & POLLOUT
    net.say(wire.answer(net.asked().ident, errno))
    assert sock.poll(net.task) & POLLOUT
    assert net.connect(sock) == -errno
    # Another attempt is another question.
    assert net.connect(sock, port=80) == -EINPROGRESS
    assert wire.Target.decode(net.asked().body).port == 80


def test_whoever_gives_up_is_not_answered(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_STREAM)
    net.connect(sock)
    ident = net.asked().ident
    sock.put()
    message = net.asked()
    assert (message.kind, message.ident) == (wire.GONE, ident)
    ours, theirs = socket.socketpair()
    net.say(wire.answer(ident, 0), theirs)  # a late answer: its descriptor is closed
    theirs.close()
    assert ours.recv(1) == b""


def test_no_way_for_others(net: Harness) -> None:
    six = net.socket(AF_INET6, SOCK_STREAM)
    with pytest.raises(LinuxError, match="ENETUNREACH"):
        six.connect(net.task, pack_sockaddr_in6(b"\x20\x01" + bytes(14), 80, 0, 0), is_nonblocking=True)
    local = net.socket(AF_INET, SOCK_STREAM)
    assert net.connect(local, b"\x7f\0\0\1", 9) == -EINPROGRESS  # loopback is the sandbox's own
    assert net.connect(local, b"\x7f\0\0\1", 9) == -ECONNREFUSED
    assert not net.is_asked()


def test_cut(net: Harness) -> None:
    sock, ident, other = net.connected()
    net.say(wire.message(wire.CUT, ident))
    assert net.recv(sock) == -ECONNRESET
    assert net.asked().kind == wire.CLOSED
    assert other.recv(1) == b""


def test_another_socket_for_the_same_connection(net: Harness) -> None:
    sock, ident, first = net.connected()
    assert net.send(sock, b"hello") == 5
    first.sendall(b"first")
    second, theirs = socket.socketpair()
    second.settimeout(60)
    net.say(wire.message(wire.SWITCH, ident), theirs)
    theirs.close()
    assert net.asked().kind == wire.SWITCHED
    assert net.send(sock, b"later") == -EAGAIN and not sock.poll(net.task) & POLLOUT
    assert first.recv(9) == b"hello" and first.recv(9) == b""
    second.sendall(b"second")
    assert net.recv(sock) == b"first"
    first.close()
    net.turn()
    assert sock.poll(net.task) & (POLLIN | POLLOUT) == POLLIN | POLLOUT
    assert net.recv(sock) == b"second"
    assert net.send(sock, b"later") == 5 and second.recv(9) == b"later"
    assert sock.shutdown(net.task, 1) == 0 and second.recv(9) == b""
    second.sendall(b"end")
    second.close()
    net.turn()
    assert net.recv(sock) == b"end" and net.recv(sock) == b""


def test_an_end_while_sockets_change(net: Harness) -> None:
    sock, ident, first = net.connected()
    second, theirs = socket.socketpair()
    second.settimeout(60)
    net.say(wire.message(wire.SWITCH, ident), theirs)
    theirs.close()
    net.asked()
    assert sock.shutdown(net.task, 1) == 0
    first.close()
    net.turn()
    assert second.recv(9) == b""  # the program's end came after what it had sent before


def test_a_connection_that_ends_and_begins_again(net: Harness) -> None:
    sock, _ident, other = net.connected()
    assert sock.connect(net.task, struct.pack("<H", AF_UNSPEC) + bytes(14), is_nonblocking=True) == 0
    assert net.asked().kind == wire.CLOSED
    assert other.recv(1) == b""
    assert net.send(sock, b"x") in (-EPIPE, -ECONNRESET)
    assert net.connect(sock, port=80) == -EINPROGRESS
    assert wire.Target.decode(net.asked().body).port == 80


def test_fast_open_sends_nothing_before_the_answer(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_STREAM)
    name = Outgoing(pack_sockaddr_in(FAR, 80))
    assert sock.send(net.task, KernelIovIter(b"early"), MSG_FASTOPEN, name) == -EAGAIN
    message = net.asked()
    assert message.kind == wire.CONNECT and b"early" not in message.body


# -- UDP and DNS -------------------------------------------------------------------------------------------------
def test_datagrams_wait_for_the_answer(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_DGRAM)
    assert sock.connect(net.task, pack_sockaddr_in(FAR, 7001), is_nonblocking=False) == 0
    for number in range(40):
        assert net.send(sock, b"%d" % number) in (1, 2)
    message = net.asked()
    assert wire.Target.decode(message.body).transport == wire.UDP and not net.is_asked()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(60)
    net.say(wire.answer(message.ident, 0), theirs)
    theirs.close()
    assert [ours.recv(9) for _turn in range(16)] == [b"%d" % number for number in range(16)]
    ours.send(b"back")
    net.turn()
    assert net.recv(sock) == b"back"
    sock.put()
    assert net.asked().kind == wire.CLOSED


def test_refused_datagrams(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_DGRAM)
    assert sock.connect(net.task, pack_sockaddr_in(FAR, 7001), is_nonblocking=False) == 0
    assert net.send(sock, b"x") == 1
    net.say(wire.answer(net.asked().ident, EACCES))
    assert net.recv(sock) == -EACCES
    net.asked()
    assert net.send(sock, b"x") == -EACCES and not net.is_asked()
    net.say(wire.message(wire.CHANGED, 0))
    assert net.send(sock, b"x") == 1 and net.is_asked()


def test_a_socket_has_so_many_flows(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_DGRAM)
    for number in range(MAX_FLOWS_EACH + 20):
        name = Outgoing(pack_sockaddr_in(bytes([93, 184, 0, number & 0xFF]), 1000 + number))
        assert sock.send(net.task, KernelIovIter(b"x"), 0, name) == 1
        while net.is_asked():
            net.asked()
    assert len(net.outside.flows) == MAX_FLOWS_EACH
    sock.put()
    assert not net.outside.flows and not net.outside.by_socket


def test_questions(net: Harness) -> None:
    sock = net.socket(AF_INET, SOCK_DGRAM)
    assert sock.connect(net.task, pack_sockaddr_in(bytes([8, 8, 8, 8]), 53), is_nonblocking=False) == 0
    assert net.send(sock, b"question") == 8
    message = net.asked()
    assert (message.kind, message.body) == (wire.QUERY, b"question")
    net.say(wire.message(wire.REPLY, message.ident, b"answer"))
    assert net.recv(sock) == b"answer"
    net.say(wire.message(wire.REPLY, message.ident, b"again"))
    assert net.recv(sock) == -EAGAIN


def test_answers_that_are_known(net: Harness) -> None:
    """Egress is not asked again what it has called known, until its rules change."""
    sock = net.socket(AF_INET, SOCK_DGRAM)
    assert sock.connect(net.task, pack_sockaddr_in(bytes([8, 8, 8, 8]), 53), is_nonblocking=False) == 0

    def ask(question: bytes, kind: int, answer: bytes) -> None:
        assert net.send(sock, question) == len(question)
        message = net.asked()
        assert (message.kind, message.body) == (wire.QUERY, question)
        net.say(wire.message(kind, message.ident, answer))
        assert net.recv(sock) == answer

    ask(b"11question", wire.REPLY, b"11answer")
    ask(b"12question", wire.KNOWN, b"12answer")
    for number in (b"13", b"14"):
        assert net.send(sock, number + b"question") == 10
        assert net.recv(sock) == number + b"answer" and not net.is_asked()
    ask(b"15Question", wire.REPLY, b"15other")
    net.say(wire.message(wire.CHANGED, 0))
    ask(b"16question", wire.REPLY, b"16none")
    ask(b"17long" + bytes(600), wire.KNOWN, b"17answer")
    ask(b"18long" + bytes(600), wire.KNOWN, b"18answer")
    for number in range(300):
        ask(b"19%03d" % number, wire.KNOWN, b"19%03d" % number)
    assert len(net.outside.known) <= 256
    assert net.send(sock, b"1") == 1 and net.asked().body == b"1"


# -- an egress that lies -------------------------------------------------------------------------------------------
def test_messages_that_no_egress_sends(net: Harness) -> None:
    sock, ident, other = net.connected()
    pair, theirs = socket.socketpair()
    for data in (
        b"x", wire.message(wire.ANSWER, ident), wire.answer(ident, 0), wire.answer(ident, 99), wire.answer(12345, 0),
        wire.message(wire.ANSWER, ident, struct.pack("<i", -1)), wire.message(wire.SWITCH, 777),
        wire.message(wire.CUT, 777), wire.message(99, ident), wire.message(wire.REPLY, ident, b"x"),
    ):  # fmt: skip
        net.say(data, theirs)
    theirs.close()
    assert pair.recv(1) == b""  # each descriptor was closed
    assert net.send(sock, b"fine") == 4 and other.recv(9) == b"fine"


def test_more_descriptors_than_one_are_closed(net: Harness) -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine, theirs = socket.socketpair()
    for count in (1, 2, 3, 20):
        rights = array("i", [theirs.fileno()] * count)
        one.sendmsg([b"message"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        before = len(os.listdir("/proc/self/fd"))
        data, fd = receive_with_descriptor(two, 64)
        assert len(os.listdir("/proc/self/fd")) == before + (count == 1)
        assert (fd >= 0) == (count == 1)
        assert data == (b"message" if count <= 2 else b"")
        if fd >= 0:
            os.close(fd)
    one.send(bytes(100))
    assert receive_with_descriptor(two, 64) == (b"", -1)
    mine.close()


def test_the_end_of_egress(net: Harness) -> None:
    waiting = net.socket(AF_INET, SOCK_STREAM)
    net.connect(waiting)
    net.egress.close()
    net.turn()
    assert net.outside.is_closed
    sock = net.socket(AF_INET, SOCK_STREAM)
    with pytest.raises(LinuxError, match="EADDRNOTAVAIL"):
        net.connect(sock)
