"""TCP sockets of networks that are a network namespace of the host (`net.joined`).

A listener has a listening socket of the namespace beside it, its *door*: connections that come through it join those
from within the sandbox in one queue. A connect that finds no listener inside is made in the namespace.
"""

import socket
from struct import Struct
from typing import Final

from cloche.abi.errno import EADDRINUSE, EIO, ENETUNREACH, LinuxError
from cloche.abi.inet import (
    IP_BIND_ADDRESS_NO_PORT,
    IPPROTO_IP,
)
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.socket import SOL_SOCKET
from cloche.abi.tcp import TCP_CLOSE, TCP_DEFER_ACCEPT, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_SENT
from cloche.kernel.task import Kernel
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.net.host_stream import reset
from cloche.net.inet_addr import Endpoint, is_any, is_broadcast, is_multicast
from cloche.net.joined import NetRequest, address_of, joined_of, options_of
from cloche.net.outward import OutwardSocket
from cloche.net.socket import IN_WAKE, STATE_WAKE, SocketFile
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import CONNECTED, UNCONNECTED, find_listener
from cloche.vfs.objects import Context
from cloche.wire import netns as wire
from cloche.wire.netns import Name, OptionValue

__all__ = ["JoinedTcp"]

_MAX_ARRIVALS: Final = 16  # connections taken in one turn of the loop
_BACKLOG: Final = 128  # of a listener from outside; the host's own is behind it
_TRIES: Final = 16  # automatic ports that a socket inside held
_INT: Final = Struct("<i")


class JoinedTcp(OutwardSocket):
    """A TCP socket of a network that is a namespace of the host; egress may decide where it connects to."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.twin: int = 0  # the number of its socket in the namespace, until the sentry has the descriptor
        self.asked: NetRequest | None = None
        self.door: socket.socket | None = None  # the listening socket of the namespace
        self.door_token: int = -1
        self.is_door_shut: bool = False  # the backlog is full: nothing is accepted

    # -- the twin ----------------------------------------------------------------------------------------
    def _outcome(self) -> NetRequest:
        """The answer to the last request.  Raises HostWait, LinuxError."""
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
        """Ask for a twin that is bound to an address and port.  Raises LinuxError."""
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
        """Make sure that there is a twin, bound as this socket is.  Raises HostWait, LinuxError."""
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
        """Take the port if the namespace gives it to the twin. Raises HostWait, LinuxError."""
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

    def adopt_listener(self, door: socket.socket) -> None:
        """A new socket becomes a listener that was made outside, perhaps in another namespace: so it has no port here,
        and nobody inside can connect to it.  All who have the host's socket see O_NONBLOCK now.
        """
        door.setblocking(False)
        name = door.getsockname()
        self.laddr, self.lport = address_of(self.family, name[0]), name[1]
        self.is_addr_bound = self.is_port_bound = True
        self.state = TCP_LISTEN
        self.backlog = _BACKLOG
        self.door = door
        self.door_token = self.kernel.fds.watch(door.fileno(), EPOLLIN, self)

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
        """Accept connections from the namespace."""
        for _turn in range(_MAX_ARRIVALS):
            if len(self.accept_queue) > self.backlog or not KERNEL_MEMORY.has_room(SOCKET_BYTES):
                # They wait at the host, as they would in a backlog of its own.
                self.is_door_shut = True
                self.kernel.fds.rewatch(door.fileno(), self.door_token, 0)
                return
            try:
                host, address = door.accept()
            except OSError:
                return  # there is no connection, or it was reset meanwhile
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
        """Whether a socket in the sandbox answers."""
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
        joined = joined_of(self.stack)
        if joined.outside is not None:
            self.ask_outside(ctx, end, joined.outside, joined.source_outside(end.addr))
            return
        request = self.asked
        if request is None or request.kind != wire.CONNECT:
            self._have_twin()
            name = Name(end.addr, end.port, end.scope)
            self.asked = joined.ask(wire.CONNECT, self.twin, name.encode())
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
        self.is_outside = False  # it is established when the host reports it
        self.attach()

    def fd_ready(self, token: int, events: int) -> None:
        """Connections have arrived at the door, or the own connection has changed."""
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
            self.is_outside = True
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
