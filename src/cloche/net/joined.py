"""Networks that are a network namespace of the host (OCI containers): the sentry's side of the network process.

That process (`cloche.netns`) makes sockets in the namespace and passes them to the sentry, which makes none itself.
`Joined` is the `Gateway` of such a network: it sends requests, and receives the namespace's links, addresses and
routes (`net.view`).

A socket of the sandbox gets its *twin* in the namespace at the first bind, connect or send that leaves. There is one
space of ports: the namespace decides, and ports that are taken only inside (by connections within the sandbox) are
checked as well. A connect or datagram that a socket inside can answer never leaves; only one that finds no socket
inside is tried in the namespace, at loopback addresses, too.

A question is waited for on the spot for a millisecond; then the system call waits as for storage
(`kernel.host_wait`), and runs again; the socket remembers its request (`Asking`).
"""

import os
import socket
import time
from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.errno import EIO, ENETDOWN, ENETUNREACH, ENOBUFS, LinuxError
from cloche.abi.inet import (
    IP_FREEBIND,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_PKTINFO,
    IP_TOS,
    IP_TTL,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_LOOP,
    IPV6_PKTINFO,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
)
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.socket import AF_INET6, SO_BROADCAST, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import HostRequest, HostWait
from cloche.kernel.task import Container, Kernel
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.net.datagram import Datagram
from cloche.net.inet_addr import LO_INDEX, unmapped
from cloche.net.inet_base import Gateway, InetSocket, NetStack, stack_of
from cloche.net.netlink import announce
from cloche.net.outward import Outside
from cloche.net.socket import STATE_WAKE
from cloche.net.udp import DatagramSocket
from cloche.net.view import NetView
from cloche.net.view_netlink import changes
from cloche.vfs.objects import Context
from cloche.vfs.userns import UserNamespace
from cloche.wire import netns as wire
from cloche.wire.descriptors import as_socket, receive_with_descriptor
from cloche.wire.netns import Answer, Making, Name, NetMessage, OptionValue

__all__ = [
    "GramTwin",
    "Joined",
    "NetRequest",
    "ViewListener",
    "address_of",
    "guard_network",
    "joined_of",
    "open_network",
    "options_of",
]

_PATIENCE_NS: Final = 1_000_000
_LONG_NS: Final = 30_000_000_000  # where a call cannot wait otherwise
_TIMEOUT_S: Final = 0.001
_MAX_OUTBOX: Final = 4096
_MAX_VIEW: Final = 1 << 20
_DATAGRAMS: Final = 16  # taken in one turn of the loop
_GRAM_BYTES: Final = 65536
_CONTROL_BYTES: Final = 128
_LOOPBACK6: Final = bytes(15) + b"\1"
_INT: Final = Struct("<i")
_PASSED4: Final = (IP_TOS, IP_TTL, IP_FREEBIND, IP_MULTICAST_TTL, IP_MULTICAST_LOOP)
_PASSED6: Final = (IPV6_TCLASS, IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP)


class NetRequest(HostRequest):
    """A question to the network process."""

    def __init__(self, kind: int, ident: int) -> None:
        super().__init__()
        self.kind: int = kind
        self.ident: int = ident
        self.is_settled = True
        self.errno: int = 0
        self.name: Name = Name(b"", 0)
        self.host: socket.socket | None = None  # the descriptor that came with the answer

    def forget(self) -> None:
        """Do nothing: the socket remembers the request, not the call."""

    def has_come(self) -> bool:
        """Whether the answer has come."""
        return self.is_answered

    def answered(self, errno: int, name: Name, host: socket.socket | None) -> None:
        """Store the answer and wake the tasks that wait for it."""
        self.errno, self.name, self.host = errno, name, host
        self.is_answered = True
        self.queue.wake()

    def take(self) -> socket.socket | None:
        """Return the descriptor, at most once."""
        host = self.host
        self.host = None
        return host


class Twin:
    """A socket of the namespace, as far as it is told of errors and answers."""

    def in_trouble(self, errno: int) -> None:
        """A datagram, or an option, was refused."""
        raise NotImplementedError

    def has_answer(self, request: NetRequest) -> None:
        """A request about it is answered."""
        raise NotImplementedError


class ViewListener:
    """An object that shows the namespace's links, addresses and routes."""

    def saw(self, view: NetView) -> None:
        """The namespace's present state is `view`."""
        raise NotImplementedError


class Joined(Gateway, FdWatcher):
    """The sentry's side of the network process."""

    def __init__(self, kernel: Kernel, ctx: Context, stack: NetStack, channel: socket.socket) -> None:
        self.kernel: Kernel = kernel
        self.ctx: Context = ctx
        self.stack: NetStack = stack
        self.user_ns: UserNamespace | None = ctx.creds.user_ns
        self.channel: socket.socket = channel
        self.fd: int = channel.fileno()
        self.next_ident: int = 1
        self.asked: dict[int, NetRequest] = {}
        self.twins: dict[int, Twin] = {}  # twins of datagram sockets, by their numbers
        self.by_socket: dict[InetSocket, GramTwin] = {}
        self.outbox: deque[bytes] = deque()
        self.parts: list[bytes] = []
        self.parts_bytes: int = 0
        self.view: NetView = NetView(b"")
        self.views: int = 0  # how many there have been
        self.listener: ViewListener | None = None
        # Egress, if that decides about connections out: then nothing leaves by twins
        self.outside: Outside | None = None
        self.is_closed: bool = False
        channel.settimeout(_TIMEOUT_S)
        self.token: int = kernel.fds.watch(self.fd, EPOLLIN, self)

    # -- as a gateway --------------------------------------------------------------------------------------
    def source(self, dest: bytes) -> bytes:
        return self.view.source_for(dest)

    def source_outside(self, dest: bytes) -> bytes:
        """The source address of a connection through egress; the addresses that stand for names need have no route."""
        try:
            return self.view.source_for(dest)
        except LinuxError:
            known = self.view.local_addresses(len(dest))
            for addr in known:
                if addr[0] != 127 and addr[:2] != b"\xfe\x80" and addr != _LOOPBACK6:
                    return addr
            raise

    def send_datagram(self, sock: InetSocket, data: bytes, source: bytes, dest: bytes, port: int) -> None:
        if self.outside is not None:
            self.outside.send_datagram(sock, data, source, dest, port)
            return
        twin = self.by_socket.get(sock)
        if twin is None:
            raise LinuxError(ENETUNREACH)
        twin.send(data, dest, port)

    def note(self, ctx: Context) -> None:
        if self.outside is not None:
            self.outside.note(ctx)

    def forget(self, sock: InetSocket) -> None:
        if self.outside is not None:
            self.outside.forget(sock)
        twin = self.by_socket.pop(sock, None)
        if twin is not None:
            twin.close()

    # -- to the network process ----------------------------------------------------------------------------
    def send(self, message: bytes) -> None:
        """Send a message now, or after those that wait. If too many wait it is lost, as in the full queue of a
        network card.
        """
        if self.is_closed:
            return
        if not self.outbox:
            try:
                os.write(self.fd, message)  # the socket's own method would poll first
                return
            except BlockingIOError:
                self.kernel.fds.rewatch(self.fd, self.token, EPOLLIN | EPOLLOUT)
            except OSError:
                self._ended()
                return
        self.outbox.append(message)

    def has_room(self) -> bool:
        """Whether there is room for another message that may be lost."""
        return len(self.outbox) < _MAX_OUTBOX

    def _flush(self) -> None:
        while self.outbox:
            try:
                os.write(self.fd, self.outbox[0])
            except BlockingIOError:
                return
            except OSError:
                self._ended()
                return
            self.outbox.popleft()
        self.kernel.fds.rewatch(self.fd, self.token, EPOLLIN)

    def make(self, transport: int, sock: InetSocket, options: list[OptionValue]) -> int:
        """A new socket in the namespace, for `sock`; its number.  Raises LinuxError."""
        if self.is_closed:
            raise LinuxError(ENETDOWN)
        if not self.has_room():
            raise LinuxError(ENOBUFS)
        ident = self.next_ident
        self.next_ident = ident + 1
        # The network process is in the user namespace of the container that joined first.
        uid = sock.owner_uid & 0xFFFFFFFF if self.user_ns is None else self.user_ns.show_uid(sock.owner_uid)
        making = Making(transport, sock.family, uid, options)
        self.send(wire.message(wire.MAKE, ident, making.encode()))
        return ident

    def ask(self, kind: int, ident: int, body: bytes) -> NetRequest:
        """Send a request about a socket; a socket has one at a time."""
        request = NetRequest(kind, ident)
        if self.is_closed:
            request.answered(ENETDOWN, Name(b"", 0), None)
            return request
        self.asked[ident] = request
        self.send(wire.message(kind, ident, body))
        return request

    def wait(self, request: NetRequest) -> None:
        """Wait until it is answered. Raises HostWait, LinuxError."""
        if request.has_come():
            return
        may_wait = self.kernel.host_waits.may_wait
        end_ns = time.monotonic_ns() + (_PATIENCE_NS if may_wait else _LONG_NS)
        while not request.has_come():
            if self.outbox:
                self._flush()
            self._receive()
            if not request.has_come() and time.monotonic_ns() >= end_ns:
                if may_wait:
                    raise HostWait(request)
                raise LinuxError(EIO)

    def drop(self, ident: int) -> None:
        """A socket of the namespace is not wanted any more."""
        request = self.asked.pop(ident, None)
        if request is not None:
            request.answered(EIO, Name(b"", 0), None)
        self.twins.pop(ident, None)
        self.send(wire.message(wire.CLOSE, ident))

    # -- from it -------------------------------------------------------------------------------------------
    def fd_ready(self, token: int, events: int) -> None:
        """Answers, news, or the end of the network process, with which the keeper ends everything."""
        if events & EPOLLOUT:
            self._flush()
        if events & ~EPOLLOUT:
            self._receive()

    def _receive(self) -> None:
        """Take one message, which may take a millisecond to come."""
        if self.is_closed:
            return
        try:
            data, fd = receive_with_descriptor(self.channel, wire.MESSAGE_BYTES)
        except TimeoutError:
            return
        except BlockingIOError:
            return
        except OSError:
            data, fd = b"", -1
        if not data:
            self._ended()
            return
        host = as_socket(fd)
        try:
            host = self._take(wire.decode(data), host)
        except ValueError:
            pass  # no message of the network process: it is ignored
        if host is not None:
            host.close()

    def _take(self, message: NetMessage, host: socket.socket | None) -> socket.socket | None:
        """Process one message. Returns the descriptor, unless a request has taken it.  Raises ValueError."""
        kind = message.kind
        if kind == wire.ANSWER:
            answer = Answer.decode(message.body)
            request = self.asked.pop(message.ident, None)
            if request is None:
                return host
            errno = answer.errno
            if host is not None and not DESCRIPTORS.has_spare(host.fileno()):
                host.close()
                host = None
                errno = ENOBUFS
            answer.name.addr = unmapped(answer.name.addr)
            request.answered(errno, answer.name, host)
            twin = self.twins.get(message.ident)
            if twin is not None:
                twin.has_answer(request)
            return None
        if kind == wire.TROUBLE:
            errno = wire.decode_number(message.body, 4095)
            troubled = self.twins.get(message.ident)
            if troubled is not None:
                troubled.in_trouble(errno)
        elif kind == wire.PART:
            if self.parts_bytes + len(message.body) <= _MAX_VIEW:
                self.parts.append(message.body)
                self.parts_bytes += len(message.body)
        elif kind == wire.END:
            view = NetView(b"".join(self.parts))
            self.parts = []
            self.parts_bytes = 0
            self._look(view)
        return host

    def _look(self, view: NetView) -> None:
        """The namespace has changed."""
        notices = changes(self.view, view) if self.views else []
        self.view = view
        self.views += 1
        stack = self.stack
        stack.view = view
        announce(stack, notices)
        if self.listener is not None:
            self.listener.saw(view)
        lo = stack.lo
        lo.is_up = view.is_lo_up()
        lo.others = [each.index for each in view.links]
        lo.addresses4 = view.local_addresses(4)
        lo.addresses6 = view.local_addresses(16)
        if view.has_parameters:
            stack.unprivileged_port = view.unprivileged_port
            stack.ping_low, stack.ping_high = view.ping_low, view.ping_high
            for ports in (stack.tcp, stack.udp):
                ports.low, ports.high = view.port_low, view.port_high

    def _ended(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.outbox.clear()
        self.kernel.fds.unwatch(self.fd, self.token)
        self.channel.close()
        asked = self.asked
        self.asked = {}
        for request in asked.values():
            request.answered(ENETDOWN, Name(b"", 0), None)

    def listen(self, listener: ViewListener) -> None:
        """Tell `listener` the present state at once, and each change."""
        self.listener = listener
        listener.saw(self.view)

    def await_view(self) -> None:
        """Wait for the first state of the namespace.  Raises LinuxError."""
        end_ns = time.monotonic_ns() + _LONG_NS
        while not self.views:
            if self.is_closed or time.monotonic_ns() > end_ns:
                raise LinuxError(ENETDOWN)
            self._receive()


class GramTwin(Twin, FdWatcher):
    """The socket of the namespace that belongs to a socket of datagrams.

    The sentry reads what arrives at it; the network process sends through it, unless it has a peer.
    """

    def __init__(self, joined: Joined, transport: int, sock: DatagramSocket) -> None:
        """Raises LinuxError."""
        self.joined: Joined = joined
        self.transport: int = transport
        self.sock: DatagramSocket = sock
        self.ident: int = joined.make(transport, sock, options_of(sock))
        self.asked: NetRequest | None = None
        self.host: socket.socket | None = None
        self.token: int = -1
        self.peer: bytes = b""
        self.peer_port: int = 0
        joined.twins[self.ident] = self
        joined.by_socket[sock] = self

    def ask(self, kind: int, body: bytes) -> None:
        """Send the request, unless it was sent already."""
        if self.asked is None:
            self.asked = self.joined.ask(kind, self.ident, body)

    def outcome(self) -> NetRequest:
        """The answer to the request. Raises HostWait, LinuxError."""
        request = self.asked
        assert request is not None
        self.joined.wait(request)
        self.asked = None
        if request.errno:
            raise LinuxError(request.errno)
        return request

    def has_answer(self, request: NetRequest) -> None:
        host = request.take()
        if host is None:
            return
        if self.host is not None:
            host.close()
            return
        host.setblocking(False)
        self.host = host
        self.token = self.joined.kernel.fds.watch(host.fileno(), EPOLLIN, self)

    def set_peer(self, addr: bytes, port: int) -> None:
        """Remember the peer that the twin was connected to."""
        self.peer, self.peer_port = addr, port

    def send(self, data: bytes, dest: bytes, port: int) -> None:
        """Send a datagram in the namespace. Raises LinuxError."""
        host = self.host
        if host is not None and dest == self.peer and port == self.peer_port:
            try:
                host.send(data)
            except BlockingIOError:
                pass  # the host's queue is full: the datagram is lost
            except OSError as error:
                raise LinuxError(error.errno or EIO)
        elif self.joined.has_room():
            body = Name(dest, port, self.sock.bind_scope).encode() + data
            self.joined.send(wire.message(wire.SEND, self.ident, body))

    def tell(self, option: OptionValue) -> None:
        """Pass an option on that acts on datagrams that leave."""
        self.joined.send(wire.message(wire.OPTION, self.ident, option.encode()))

    def in_trouble(self, errno: int) -> None:
        sock = self.sock
        sock.error = errno
        sock.queue.wake(STATE_WAKE)

    def fd_ready(self, token: int, events: int) -> None:
        """Datagrams have come, or an error."""
        for _turn in range(_DATAGRAMS):
            host = self.host
            if host is None:
                return
            try:
                data, control, _flags, name = host.recvmsg(_GRAM_BYTES, _CONTROL_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.in_trouble(error.errno or EIO)
                return
            self._arrived(data, control, name)

    def _arrived(
        self,
        data: bytes,
        control: list[tuple[int, int, bytes]],
        name: tuple[str, int] | tuple[str, int, int, int],
    ) -> None:
        sock = self.sock
        source = address_of(sock.family, name[0])
        dest = sock.laddr
        index = 0
        for level, kind, content in control:
            if level == IPPROTO_IP and kind == IP_PKTINFO and len(content) >= 12:
                index, dest = _INT.unpack_from(content, 0)[0], content[8:12]
            elif level == IPPROTO_IPV6 and kind == IPV6_PKTINFO and len(content) >= 20:
                dest, index = unmapped(content[:16]), _INT.unpack_from(content, 16)[0]
        if sock.is_connected and (sock.raddr != source or sock.rport not in (0, name[1])):
            return
        if not KERNEL_MEMORY.has_room(len(data)):
            return
        gram = Datagram(data, source, name[1], dest, sock.lport)
        gram.ifindex = index or LO_INDEX
        sock.arrived(gram)

    def close(self) -> None:
        """Close it, and drop it in the network process."""
        host = self.host
        self.host = None
        if host is not None:
            self.joined.kernel.fds.unwatch(host.fileno(), self.token)
            host.close()
        self.asked = None
        self.joined.drop(self.ident)


def joined_of(stack: NetStack) -> Joined:
    """The network process of a network that has one."""
    gateway = stack.gateway
    assert isinstance(gateway, Joined)
    return gateway


def options_of(sock: InetSocket) -> list[OptionValue]:
    """The options that were set before there was a twin."""
    found: list[OptionValue] = []
    if sock.does_reuse:
        found.append(OptionValue(SOL_SOCKET, SO_REUSEADDR, _INT.pack(1)))
    if sock.does_reuse_port:
        found.append(OptionValue(SOL_SOCKET, SO_REUSEPORT, _INT.pack(1)))
    if sock.is_broadcast:
        found.append(OptionValue(SOL_SOCKET, SO_BROADCAST, _INT.pack(1)))
    if sock.family == AF_INET6:
        found.append(OptionValue(IPPROTO_IPV6, IPV6_V6ONLY, _INT.pack(int(sock.is_v6_only))))
    for name in _PASSED4:
        if name in sock.ip:
            found.append(OptionValue(IPPROTO_IP, name, _INT.pack(sock.ip[name])))
    for name in _PASSED6:
        if name in sock.ip6:
            found.append(OptionValue(IPPROTO_IPV6, name, _INT.pack(sock.ip6[name])))
    return found


def address_of(family: int, text: str) -> bytes:
    """The bytes of an address in the C library's text form; a mapped address becomes an IPv4 one."""
    kind = socket.AF_INET6 if family == AF_INET6 else socket.AF_INET
    return unmapped(socket.inet_pton(kind, text.partition("%")[0]))


def open_network(container: Container, ctx: Context, channel: socket.socket) -> Joined:
    """Make the namespace that the network process has joined a container's first network."""
    stack = stack_of(container)
    made = Joined(container.kernel, ctx, stack, channel)
    made.await_view()
    stack.gateway = made
    return made


def guard_network(joined: Joined, channel: socket.socket) -> None:
    """Let egress decide about connections out of that network; incoming ones stay as they are."""
    joined.outside = Outside(joined.kernel, channel, bytes(4), bytes(16))
