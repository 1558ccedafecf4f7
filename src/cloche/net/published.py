"""Connections from the host to published ports: TCP sockets whose other end is a socket of the host.

The broker (`cloche.boot.broker`) accepts and hands connected sockets in, and so does who controls the sandbox (the
request `dial`); the sentry opens none.  Such a connection
arrives at the loopback address of the sandbox's first network, like one of the sandbox's own; its peer has the address
and port that it has on the host.  Without a listener, or at a limit, it is reset at once.

An established connection is a `net.host_stream`.
"""

import resource
import socket
from typing import Final

from cloche.abi.poll import EPOLLIN
from cloche.abi.socket import AF_INET
from cloche.abi.tcp import TCP_CLOSE, TCP_DEFER_ACCEPT, TCP_ESTABLISHED, TCP_SYN_SENT
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import Container, Kernel
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.net.host_stream import HostStream, reset
from cloche.net.inet_addr import LOOPBACK4, LOOPBACK6
from cloche.net.inet_base import NetStack, stack_for
from cloche.net.socket import (
    IN_WAKE,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import CONNECTED, TcpSocket, find_listener
from cloche.vfs.objects import Context
from cloche.wire.broker import MESSAGE_BYTES, Arrival
from cloche.wire.descriptors import as_connection, receive_with_descriptor

__all__ = ["PublishedSocket", "Publisher", "publish"]

MAX_CONNECTIONS: Final = 4096
_ARRIVALS: Final = 16  # taken in one turn of the loop


class PublishedSocket(HostStream):
    """The sandbox's end of a connection from the host."""

    def __init__(
        self, publisher: "Publisher", ctx: Context, listener: TcpSocket, host: socket.socket
    ) -> None:
        super().__init__(publisher.kernel, ctx, listener.family, 0)
        self.inherit(listener)
        self.publisher: Publisher = publisher
        self.set_host(host)
        self.state = TCP_SYN_SENT  # until there is room in the backlog
        publisher.count += 1

    def enter(self, ctx: Context, listener: TcpSocket) -> None:
        self.state = TCP_ESTABLISHED
        self.phase = CONNECTED
        self.is_waiting = True
        self.hold = self.new_hold(self.laddr, self.lport)
        self.stack.tcp.insert(self.hold)
        self.attach()
        if listener.tcp.get(TCP_DEFER_ACCEPT, 0):
            listener.deferred[self] = None
            self.listener = listener
            self.fill()
            return
        listener.accept_queue.append(self)
        listener.queue.wake(IN_WAKE)

    def got_reset(self) -> None:
        if self.state == TCP_SYN_SENT:  # its listener is closed, and nothing else refers to it
            self.state = TCP_CLOSE
            self.is_released = True
            self.uncharge()
            self.stack.sockets.pop(self, None)
            self.close_host(is_reset=True)
            return
        super().got_reset()

    def host_closed(self) -> None:
        self.publisher.count -= 1


class Publisher(FdWatcher):
    """The sentry's side of the broker, if there is one, and of who dials."""

    def __init__(self, kernel: Kernel, ctx: Context, channel: socket.socket | None) -> None:
        self.kernel: Kernel = kernel
        self.ctx: Context = ctx
        self.channel: socket.socket | None = channel
        self.count: int = 0  # open connections of the host
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit: int = min(MAX_CONNECTIONS, max(descriptors // 4, 1))
        self.token: int = kernel.fds.watch(channel.fileno(), EPOLLIN, self) if channel is not None else -1

    def fd_ready(self, token: int, events: int) -> None:
        """The broker has sent connections, or has ended: then no more come."""
        channel = self.channel
        assert channel is not None
        for _turn in range(_ARRIVALS):
            try:
                data, fd = receive_with_descriptor(channel, MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", -1
            if not data:
                self.kernel.fds.unwatch(channel.fileno(), self.token)
                channel.close()
                return
            host = as_connection(fd)
            if host is None:
                continue
            try:
                self.arrive(Arrival.decode(data), host)
            except ValueError:
                host.close()

    def arrive(self, arrival: Arrival, host: socket.socket) -> bool:
        """A connection comes in; False if it was reset, since nobody listens or a limit is reached."""
        stack = stack_for(self.ctx)
        stack.count("TcpPassiveOpens")
        listener = self._find(stack, arrival)
        if (
            listener is None
            or self.count >= self.limit
            or not (KERNEL_MEMORY.has_room(SOCKET_BYTES) and DESCRIPTORS.has_spare(host.fileno()))
        ):
            reset(host)
            return False
        host.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        made = PublishedSocket(self, self.ctx, listener, host)
        peer = arrival.peer
        if listener.family == AF_INET and len(peer) == 16:
            peer = LOOPBACK4  # an address that the program could not even name
        made.laddr = LOOPBACK4 if len(peer) == 4 else LOOPBACK6
        made.lport = arrival.port
        made.raddr, made.rport = peer, arrival.peer_port
        made.is_addr_bound = True
        if len(listener.accept_queue) > listener.backlog:
            listener.syn_queue.append(made)
        else:
            made.enter(self.ctx, listener)
        return True

    @staticmethod
    def _find(stack: NetStack, arrival: Arrival) -> TcpSocket | None:
        """The listener at loopback of the peer's family, or else of the other."""
        first, second = LOOPBACK4, LOOPBACK6
        if len(arrival.peer) == 16:
            first, second = second, first
        if not stack.lo.is_up:
            return None
        return find_listener(stack, first, arrival.port) or find_listener(stack, second, arrival.port)


def publish(container: Container, channel: socket.socket | None) -> Publisher:
    """Take connections (of the broker, if there is one) for a container, once that has its root."""
    ctx = container.root
    assert ctx is not None
    return Publisher(container.kernel, ctx, channel)
