"""Networks that are a network namespace of the host (OCI containers): the sentry's side of the network process.

That process (`cloche.netns`) makes sockets in the namespace, and gives them away; the sentry makes none.  `Joined` is
the `Gateway` of such a network: it asks, and hears what links, addresses and routes there are (`net.view`).

A socket of the sandbox gets its *twin* in the namespace at the first bind, connect or send that leaves.  There is one
space of ports: the namespace decides, and what is taken inside alone (by connections within the sandbox) is looked at
as well.  What a socket inside can answer never leaves: only a connect or datagram that finds nobody inside is tried in
the namespace, at loopback, too.

A question is waited for on the spot for a millisecond; then the system call waits as for storage
(`kernel.host_wait`), and runs again: what has been asked is remembered by the socket (`Asking`).
"""

import os
import socket
import time
from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.errno import EADDRINUSE, EIO, ENETDOWN, ENETUNREACH, ENOBUFS, LinuxError
from cloche.abi.inet import (
    IP_BIND_ADDRESS_NO_PORT,
    IP_FREEBIND,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_TOS,
    IP_TTL,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_LOOP,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
)
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.socket import AF_INET6, SO_BROADCAST, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET
from cloche.abi.tcp import TCP_CLOSE, TCP_DEFER_ACCEPT, TCP_ESTABLISHED, TCP_SYN_SENT
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import HostRequest, HostWait
from cloche.kernel.task import Container, Kernel
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.net.host_stream import HostStream, reset
from cloche.net.inet_addr import Endpoint, is_any, is_broadcast, is_multicast, unmapped
from cloche.net.inet_base import Gateway, InetSocket, NetStack, stack_of
from cloche.net.socket import IN_WAKE, STATE_WAKE, SocketFile
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import CONNECTED, UNCONNECTED, find_listener
from cloche.net.view import NetView
from cloche.vfs.objects import Context
from cloche.wire import netns as wire
from cloche.wire.descriptors import receive_with_descriptor
from cloche.wire.netns import Answer, Making, Name, NetMessage, OptionValue

__all__ = ["Joined", "JoinedTcp", "open_network"]

_PATIENCE_NS: Final = 1_000_000
_LONG_NS: Final = 30_000_000_000  # where a call cannot wait otherwise
_TIMEOUT_S: Final = 0.001
_MAX_OUTBOX: Final = 4096
_MAX_ARRIVALS: Final = 16  # connections taken in one turn of the loop
_MAX_VIEW: Final = 1 << 20
_TRIES: Final = 16  # automatic ports that somebody inside had
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
        """The socket remembers it, not the call."""

    def has_come(self) -> bool:
        """Whether it is answered."""
        return self.is_answered

    def answered(self, errno: int, name: Name, host: socket.socket | None) -> None:
        """Whoever waits goes on."""
        self.errno, self.name, self.host = errno, name, host
        self.is_answered = True
        self.queue.wake()

    def take(self) -> socket.socket | None:
        """The descriptor, once."""
        host = self.host
        self.host = None
        return host


class Troubled:
    """Somebody who hears of errors that come later."""

    def in_trouble(self, errno: int) -> None:
        """A datagram, or an option, was refused."""
        raise NotImplementedError


class Joined(Gateway, FdWatcher):
    """The sentry's side of the network process."""

    def __init__(self, kernel: Kernel, ctx: Context, stack: NetStack, channel: socket.socket) -> None:
        self.kernel: Kernel = kernel
        self.ctx: Context = ctx
        self.stack: NetStack = stack
        self.channel: socket.socket = channel
        self.fd: int = channel.fileno()
        self.next_ident: int = 1
        self.asked: dict[int, NetRequest] = {}
        self.troubled: dict[int, Troubled] = {}  # by the number of their twin
        self.outbox: deque[bytes] = deque()
        self.parts: list[bytes] = []
        self.parts_bytes: int = 0
        self.view: NetView = NetView(b"")
        self.views: int = 0  # how many there have been
        self.is_closed: bool = False
        channel.settimeout(_TIMEOUT_S)
        self.token: int = kernel.fds.watch(self.fd, EPOLLIN, self)

    # -- as a gateway --------------------------------------------------------------------------------------
    def source(self, dest: bytes) -> bytes:
        return self.view.source_for(dest)

    # -- to the network process ----------------------------------------------------------------------------
    def send(self, message: bytes) -> None:
        """Send now, or after what waits.  Too much waiting: the message is lost, as in a full queue of a card."""
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
        """Whether something more may be sent that can be lost."""
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
        making = Making(transport, sock.family, sock.owner_uid & 0xFFFFFFFF, options)
        self.send(wire.message(wire.MAKE, ident, making.encode()))
        return ident

    def ask(self, kind: int, ident: int, body: bytes) -> NetRequest:
        """Ask something about a socket; one thing at a time."""
        request = NetRequest(kind, ident)
        if self.is_closed:
            request.answered(ENETDOWN, Name(b"", 0), None)
            return request
        self.asked[ident] = request
        self.send(wire.message(kind, ident, body))
        return request

    def wait(self, request: NetRequest) -> None:
        """Until it is answered.  Raises HostWait, LinuxError."""
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
        self.troubled.pop(ident, None)
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
        host = socket.socket(fileno=fd) if fd >= 0 else None
        try:
            host = self._take(wire.decode(data), host)
        except ValueError:
            pass  # what no network process sends
        if host is not None:
            host.close()

    def _take(self, message: NetMessage, host: socket.socket | None) -> socket.socket | None:
        """One message; the descriptor, unless somebody has taken it.  Raises ValueError."""
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
            return None
        if kind == wire.TROUBLE:
            errno = wire.decode_number(message.body, 4095)
            troubled = self.troubled.get(message.ident)
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
        self.view = view
        self.views += 1
        stack = self.stack
        stack.view = view
        lo = stack.lo
        lo.is_up = view.is_lo_up()
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

    def await_view(self) -> None:
        """Until the first news is here.  Raises LinuxError."""
        end_ns = time.monotonic_ns() + _LONG_NS
        while not self.views:
            if self.is_closed or time.monotonic_ns() > end_ns:
                raise LinuxError(ENETDOWN)
            self._receive()


def joined_of(stack: NetStack) -> Joined:
    """The network process of a network that has one."""
    gateway = stack.gateway
    assert isinstance(gateway, Joined)
    return gateway


def options_of(sock: InetSocket) -> list[OptionValue]:
    """What was set before there was a twin."""
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


class JoinedTcp(HostStream):
    """A TCP socket of a network that is a namespace of the host."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.twin: int = 0  # the number of its socket in the namespace, until that is given to us
        self.asked: NetRequest | None = None
        self.door: socket.socket | None = None  # the listening socket of the namespace
        self.door_token: int = -1
        self.is_door_shut: bool = False  # no room in the backlog

    # -- the twin ----------------------------------------------------------------------------------------
    def _outcome(self) -> NetRequest:
        """The answer to what was asked last.  Raises HostWait, LinuxError."""
        request = self.asked
        assert request is not None
        joined_of(self.stack).wait(request)
        self.asked = None
        if request.errno:
            self._drop_twin()
            raise LinuxError(request.errno)
        return request

    def _drop_twin(self) -> None:
        request = self.asked
        self.asked = None
        if self.twin:
            joined_of(self.stack).drop(self.twin)
            self.twin = 0
        if request is not None:
            host = request.take()
            if host is not None:
                host.close()

    def _ask_twin(self, addr: bytes, port: int) -> None:
        """A twin, bound to an address and port.  Raises LinuxError."""
        joined = joined_of(self.stack)
        options = options_of(self)
        if not port and self.is_active_bind_late():
            options.append(OptionValue(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, _INT.pack(1)))
        self.twin = joined.make(wire.TCP, self, options)
        self.asked = joined.ask(wire.BIND, self.twin, Name(addr, port, self.bind_scope).encode())

    def is_active_bind_late(self) -> bool:
        """Whether the address is bound now, and the port by connect(2)."""
        return self.ip.get(IP_BIND_ADDRESS_NO_PORT, 0) != 0 and not is_any(self.laddr)

    def _have_twin(self) -> None:
        """Make sure that there is one, bound as this socket is.  Raises HostWait, LinuxError."""
        request = self.asked
        if request is not None and request.kind == wire.BIND:
            self._outcome()
        if self.twin:
            return
        if self.has_port() or not is_any(self.laddr):
            self._ask_twin(self.laddr, self.lport)
            self._outcome()
        else:
            self.twin = joined_of(self.stack).make(wire.TCP, self, options_of(self))

    def take_port(self, addr: bytes, port: int) -> None:
        """The namespace decides.  Raises HostWait, LinuxError."""
        hold = self.new_hold(addr, port)
        for _attempt in range(_TRIES):
            if self.asked is None:
                if port and self.ports().conflicts(hold):
                    raise LinuxError(EADDRINUSE)
                self._ask_twin(addr, port)
            hold.port = self._outcome().name.port
            if not self.ports().conflicts(hold):
                self.ports().take(hold)
                self.hold = hold
                self.lport = hold.port
                return
            self._drop_twin()
            if port:
                break
        raise LinuxError(EADDRINUSE)

    def drop_port(self) -> None:
        super().drop_port()
        if self.hold is None and (self.twin or self.asked is not None):
            self._drop_twin()

    def release(self) -> None:
        super().release()
        self._drop_twin()

    # -- listening ---------------------------------------------------------------------------------------
    def listen(self, ctx: Context, backlog: int) -> int:
        if self.state == TCP_CLOSE and self.phase == UNCONNECTED and self.door is None:
            if not self.has_port():
                self.take_port(self.laddr, 0)
            request = self.asked
            if request is None or request.kind != wire.LISTEN:
                self._have_twin()
                joined = joined_of(self.stack)
                self.asked = joined.ask(wire.LISTEN, self.twin, wire.encode_number(max(backlog, 0)))
            door = self._outcome().take()
            self.twin = 0
            if door is None:
                return -EIO
            door.setblocking(False)
            self.door = door
        result = super().listen(ctx, backlog)
        door = self.door
        if result < 0:
            self._close_door()
        elif door is not None and self.door_token < 0:
            self.door_token = self.kernel.fds.watch(door.fileno(), EPOLLIN, self)
            self.is_door_shut = False
        elif self.is_door_shut:
            self._open_door()
        return result

    def _close_door(self) -> None:
        door = self.door
        self.door = None
        if door is not None:
            if self.door_token >= 0:
                self.kernel.fds.unwatch(door.fileno(), self.door_token)
                self.door_token = -1
            door.close()

    def _open_door(self) -> None:
        door = self.door
        if door is not None and self.is_door_shut and len(self.accept_queue) <= self.backlog:
            self.is_door_shut = False
            self.kernel.fds.rewatch(door.fileno(), self.door_token, EPOLLIN)

    def _stop_listening(self) -> None:
        super()._stop_listening()
        self._close_door()

    def accept(self, ctx: Context, flags: int) -> SocketFile:
        found = super().accept(ctx, flags)
        if self.is_door_shut:
            self._open_door()
        return found

    def _arrivals(self, door: socket.socket) -> None:
        """Connections from the namespace."""
        for _turn in range(_MAX_ARRIVALS):
            if len(self.accept_queue) > self.backlog or not KERNEL_MEMORY.has_room(SOCKET_BYTES):
                # They wait at the host, as they would in a backlog of its own.
                self.is_door_shut = True
                self.kernel.fds.rewatch(door.fileno(), self.door_token, 0)
                return
            try:
                host, address = door.accept()
            except OSError:
                return  # there is none, or it is gone again
            if not DESCRIPTORS.has_spare(host.fileno()):
                reset(host)
                continue
            self._let_in(host)

    def _let_in(self, host: socket.socket) -> None:
        try:
            peer, mine = host.getpeername(), host.getsockname()
        except OSError:
            host.close()  # reset already
            return
        host.setsockopt(SOL_SOCKET, socket.SO_OOBINLINE, 1)
        joined = joined_of(self.stack)
        self.stack.count("TcpPassiveOpens")
        made = JoinedTcp(self.kernel, joined.ctx, self.family, 0)
        made.inherit(self)
        made.set_host(host)
        made.laddr, made.lport = address_of(self.family, mine[0]), mine[1]
        made.raddr, made.rport = address_of(self.family, peer[0]), peer[1]
        made.is_addr_bound = True
        made.state = TCP_ESTABLISHED
        made.phase = CONNECTED
        made.is_waiting = True
        made.hold = made.new_hold(made.laddr, made.lport)
        made.stack.tcp.insert(made.hold)
        made.attach()
        if self.tcp.get(TCP_DEFER_ACCEPT, 0):
            self.deferred[made] = None
            made.listener = self
            made.fill()
            return
        self.accept_queue.append(made)
        self.queue.wake(IN_WAKE)

    # -- connecting --------------------------------------------------------------------------------------
    def _is_inside(self, end: Endpoint) -> bool:
        """Whether somebody in the sandbox answers."""
        stack = self.stack
        if not stack.lo.is_local(end.addr):
            return False
        if find_listener(stack, end.addr, end.port) is not None:
            return True
        return self.lport != 0 and end.port == self.lport and end.addr == self.laddr

    def _start_connect(self, ctx: Context, end: Endpoint) -> None:
        self.is_outside = False
        if self.asked is None and self._is_inside(end):
            super()._start_connect(ctx, end)
            return
        if is_multicast(end.addr) or is_broadcast(end.addr):
            raise LinuxError(ENETUNREACH)
        request = self.asked
        if request is None or request.kind != wire.CONNECT:
            self._have_twin()
            name = Name(end.addr, end.port, end.scope)
            self.asked = joined_of(self.stack).ask(wire.CONNECT, self.twin, name.encode())
        request = self._outcome()
        host = request.take()
        self.twin = 0
        if host is None:
            raise LinuxError(EIO)
        name = request.name
        self.laddr = name.addr
        if not self.has_port():
            hold = self.new_hold(name.addr, name.port)
            hold.is_automatic = True
            self.ports().insert(hold)
            self.hold = hold
        self.lport = name.port
        if self.hold is not None:
            self.hold.addr = name.addr
        self.raddr, self.rport = end.addr, end.port
        self.state = TCP_SYN_SENT
        self.error = 0
        host.setsockopt(SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.set_host(host)
        self.attach()

    def fd_ready(self, token: int, events: int) -> None:
        """Connections, or news of our own."""
        door = self.door
        if door is not None and token == self.door_token:
            self._arrivals(door)
            return
        host = self.host
        if self.state == TCP_SYN_SENT and host is not None:
            errno: int = host.getsockopt(SOL_SOCKET, socket.SO_ERROR)
            if errno:
                self.error = errno
                self.done()
                self.close_host(is_reset=False)
                return
            if not events & EPOLLOUT:
                return
            self.state = TCP_ESTABLISHED
            self.syn_acked = 1
            self.stack.count("TcpActiveOpens")
            self.stack.tuples[(self.laddr, self.lport, self.raddr, self.rport)] = self
            self.queue.wake(STATE_WAKE)
        super().fd_ready(token, events)

    def got_reset(self) -> None:
        super().got_reset()
        self.close_host(is_reset=True)

    def _disconnect(self) -> int:
        was_outside = self.host is not None
        result = super()._disconnect()
        if was_outside:
            self.close_host(is_reset=True)
            self.is_outside = False
        return result


def address_of(family: int, text: str) -> bytes:
    """What the C library's text stands for; a mapped address as that of IPv4."""
    kind = socket.AF_INET6 if family == AF_INET6 else socket.AF_INET
    return unmapped(socket.inet_pton(kind, text.partition("%")[0]))


def open_network(container: Container, channel: socket.socket) -> Joined:
    """From now on a container's first network is the namespace that the network process has joined."""
    ctx = container.root
    assert ctx is not None
    stack = stack_of(container)
    made = Joined(container.kernel, ctx, stack, channel)
    made.await_view()
    stack.gateway = made
    return made
