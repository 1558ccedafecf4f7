"""Connections from the host to published ports: TCP sockets whose other end is a socket of the host.

The broker (`cloche.boot.broker`) accepts and hands connected sockets in; the sentry opens none.  Such a connection
arrives at the loopback address of the sandbox's first network, like one of the sandbox's own; its peer has the address
and port that it has on the host.  Where nobody listens, or at a limit, it is reset at once.

`PublishedSocket` is a TcpSocket without a peer in the sandbox.  What arrives at the host's socket is taken into the
receive queue, at most `FILL_BYTES` ahead of the program, so a slow reader slows the sender through the host's own
window; what the program sends goes from its memory straight into the host's socket.  Readiness is remembered from an
edge-triggered watch, so that poll asks the host nothing.

Urgent data of the host's side arrives in line (the host's socket has SO_OOBINLINE).
"""

import fcntl
import resource
import socket
from array import array
from struct import Struct
from typing import Final

from cloche.abi.errno import EAGAIN, ECONNRESET, EIO, EPIPE, LinuxError
from cloche.abi.ioctl import TIOCOUTQ
from cloche.abi.poll import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, POLLRDHUP
from cloche.abi.socket import (
    AF_INET,
    IPPROTO_TCP,
    MSG_MORE,
    MSG_OOB,
    SO_KEEPALIVE,
    SOL_SOCKET,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_SYN_SENT,
    TCP_USER_TIMEOUT,
)
from cloche.kernel.task import Container, FdWatcher, Kernel
from cloche.mm.quota import BUFFER_BYTES, DESCRIPTORS, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.inet_addr import LOOPBACK4, LOOPBACK6
from cloche.net.inet_base import NetStack, stack_for
from cloche.net.socket import (
    IN_WAKE,
    OUT_EVENTS,
    SEND_SHUTDOWN,
    Incoming,
    Outgoing,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import CONNECTED, TcpSocket, find_listener
from cloche.net.tcp_stream import SIOCOUTQ, SIOCOUTQNSD
from cloche.vfs.objects import Context
from cloche.wire.broker import MESSAGE_BYTES, Arrival

__all__ = ["PublishedSocket", "Publisher", "publish"]

FILL_BYTES: Final = 65536  # taken from the host ahead of the program
MAX_CONNECTIONS: Final = 4096
_CONTROL_BYTES: Final = socket.CMSG_SPACE(4)
_ARRIVALS: Final = 16  # taken in one turn of the loop
_SEND_PIECE: Final = 262144
_NO_ROOM_PIECE: Final = 2048
_READABLE: Final = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
_ENDED: Final = EPOLLRDHUP | EPOLLHUP | EPOLLERR
_WATCH: Final = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
_OUT_BITS: Final = OUT_EVENTS & ~0x200
_LINGER: Final = Struct("<ii")
_I32: Final = Struct("<i")
# Options that act on the way to the host's peer.
_FORWARDED: Final = frozenset(
    {TCP_NODELAY, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT}
)


class PublishedSocket(TcpSocket, FdWatcher):
    """The sandbox's end of a connection from the host."""

    def __init__(
        self, publisher: "Publisher", ctx: Context, listener: TcpSocket, host: socket.socket
    ) -> None:
        super().__init__(publisher.kernel, ctx, listener.family, 0)
        self.inherit(listener)
        self.publisher: Publisher = publisher
        self.host: socket.socket = host
        self.fd: int = host.fileno()
        self.token: int = -1
        self.may_read: bool = True  # the host may have bytes, or the end
        self.may_write: bool = True
        self.is_ending: bool = False  # FIN or RST has come: read until it shows
        self.has_failed: bool = False  # the host's socket has, or may have, an error
        self.has_fin: bool = False
        self.state = TCP_SYN_SENT  # until there is room in the backlog
        publisher.count += 1

    def enter(self, ctx: Context, listener: TcpSocket) -> None:
        self.state = TCP_ESTABLISHED
        self.phase = CONNECTED
        self.is_waiting = True
        self.hold = self.new_hold(self.laddr, self.lport)
        self.stack.tcp.insert(self.hold)
        for name, value in self.tcp.items():
            if name in _FORWARDED:
                self._tell_host(IPPROTO_TCP, name, value)
        if self.is_keepalive:
            self._tell_host(SOL_SOCKET, SO_KEEPALIVE, 1)
        self.token = self.kernel.watch_fd(self.fd, _WATCH, self)
        if listener.tcp.get(TCP_DEFER_ACCEPT, 0):
            listener.deferred[self] = None
            self.listener = listener
            self.fill()
            return
        listener.accept_queue.append(self)
        listener.queue.wake(IN_WAKE)

    def _tell_host(self, level: int, name: int, value: int) -> None:
        try:
            self.host.setsockopt(level, name, value)
        except OSError:
            pass  # the connection is over

    # -- what the host does ------------------------------------------------------------------------------
    def fd_ready(self, token: int, events: int) -> None:
        """The host's socket has changed (epoll events)."""
        mask = 0
        if events & _READABLE:
            self.may_read = True
            mask |= IN_WAKE
        if events & _ENDED:
            self.is_ending = True
            mask |= POLLRDHUP
        if events & EPOLLOUT:
            self.may_write = True
            mask |= OUT_EVENTS
        if events & (EPOLLERR | EPOLLHUP):
            self.has_failed = True
        self.fill()
        if events & EPOLLRDHUP:
            self._see_fin()
        if self.has_failed and not self.may_read:
            self._ask_error()
        self.queue.wake(mask)

    def fill(self) -> None:
        """Take what has arrived at the host, as far as there is room for it."""
        if not self.may_read or self.fd < 0:
            return
        rx = self.rx
        listener = self.listener
        while self.rx_bytes < FILL_BYTES:
            size = FILL_BYTES
            if not KERNEL_MEMORY.has_room(FILL_BYTES + BUFFER_BYTES):
                if self.rx_bytes:
                    return
                size = _NO_ROOM_PIECE
            try:
                data = self.host.recv(size)
            except BlockingIOError:
                self.may_read = False
                return
            except OSError as error:
                self.may_read = False
                self._see_error(error.errno or EIO)
                return
            if not data:
                self.may_read = False
                self._see_fin()
                if self.has_failed:
                    self._ask_error()
                return
            rx.append(data)
            self.rx_bytes += len(data)
            self.bytes_received += len(data)
            self.account()
            if listener is not None:
                listener.undefer(self)
                listener = None
            if len(data) < size and not self.is_ending:
                self.may_read = False  # what comes later is a new edge
                return

    def _see_fin(self) -> None:
        if not self.has_fin:
            self.has_fin = True
            self.got_fin()

    def _see_error(self, errno: int) -> None:
        if errno == ECONNRESET or errno == EPIPE:
            self.got_reset()
        elif self.state != TCP_CLOSE:
            self.error = errno
            self.done()

    def _ask_error(self) -> None:
        """After a FIN reading gives no error any more: a reset that followed shows only here."""
        self.has_failed = False
        if self.fd < 0 or self.state == TCP_CLOSE:
            return
        errno = self.host.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if errno:
            self._see_error(errno)

    def got_reset(self) -> None:
        if self.state == TCP_SYN_SENT:  # its listener is gone, and nobody else knows of it
            self.state = TCP_CLOSE
            self.is_released = True
            self.uncharge()
            self.stack.sockets.pop(self, None)
            self.close_host(is_reset=True)
            return
        super().got_reset()

    # -- data --------------------------------------------------------------------------------------------
    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        state = self.state
        if self.error:
            return self.take_error()
        if (state != TCP_ESTABLISHED and state != TCP_CLOSE_WAIT) or self.shut & SEND_SHUTDOWN or self.fd < 0:
            return -EPIPE
        total = src.remaining()
        if total == 0:
            return 0
        if not self.may_write:
            self.is_out_of_space = True
            return -EAGAIN
        if flags & (MSG_MORE | MSG_OOB):
            done = self._send_flagged(src, min(total, _SEND_PIECE), flags & (MSG_MORE | MSG_OOB))
        else:
            done = src.write_fd(self.fd, -1, min(total, _SEND_PIECE))
        if done >= 0:
            self.bytes_sent += done
            return done
        if done == -EAGAIN:
            self.may_write = False
            self.is_out_of_space = True
            return done
        if done == -EPIPE or done == -ECONNRESET:
            self.may_read = True
            self.is_ending = True
            self.fill()  # the bytes that came before the reset
            if self.state != TCP_CLOSE:
                self.got_reset()
            return self.take_error() or -EPIPE
        return done

    def _send_flagged(self, src: IovIter, size: int, flags: int) -> int:
        data = src.copy_from(size)
        try:
            done = self.host.send(data, flags | socket.MSG_NOSIGNAL)
        except OSError as error:
            src.revert(len(data))
            return -(error.errno or EIO)
        if done < len(data):
            src.revert(len(data) - done)
        return done

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if self.may_read and self.rx_bytes < FILL_BYTES:
            self.fill()
        return super().recv(ctx, dst, flags, info)

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if self.may_read and self.rx_bytes < FILL_BYTES:
            self.fill()
        return super().read(ctx, dst, flags)

    def poll(self, ctx: Context) -> int:
        if self.may_read and self.rx_bytes < FILL_BYTES:
            self.fill()
        mask = super().poll(ctx)
        if not self.may_write and not self.shut & SEND_SHUTDOWN:
            mask &= ~_OUT_BITS
        return mask

    # -- closing -----------------------------------------------------------------------------------------
    def _send_fin(self) -> None:
        if self.state == TCP_ESTABLISHED:
            self.state = TCP_FIN_WAIT2
        elif self.state == TCP_CLOSE_WAIT:
            self.done()
        else:
            return
        try:
            self.host.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # reset meanwhile: the next read says so

    def vanish(self) -> None:
        super().vanish()
        self.close_host(is_reset=True)

    def abort(self) -> None:
        super().abort()
        self.close_host(is_reset=True)

    def release(self) -> None:
        if self.is_released:
            return
        super().release()
        self.close_host(is_reset=False)

    def close_host(self, *, is_reset: bool) -> None:
        """Give the host's socket back, with an RST or after what was sent."""
        if self.fd < 0:
            return
        if self.token >= 0:
            self.kernel.unwatch_fd(self.fd, self.token)
            self.token = -1
        self.fd = -1
        self.may_read = False
        self.publisher.count -= 1
        reset(self.host) if is_reset else self.host.close()

    # -- options -----------------------------------------------------------------------------------------
    def set_common(self, ctx: Context, name: int, value: bytes) -> int:
        result = super().set_common(ctx, name, value)
        if name == SO_KEEPALIVE and result == 0:
            self._tell_host(SOL_SOCKET, name, int(self.is_keepalive))
        return result

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        result = super().set_protocol(ctx, level, name, value)
        if result == 0 and name in _FORWARDED:
            self._tell_host(level, name, self.tcp[name])
        return result

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == IPPROTO_TCP and name == TCP_INFO and self.fd >= 0:
            try:
                found = self.host.getsockopt(level, name, min(max(length, 1), 248))
            except OSError as error:
                raise LinuxError(error.errno or EIO)
            return bytes([self.state]) + found[1:]
        return super().get_protocol(ctx, level, name, length)

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command in (SIOCOUTQ, SIOCOUTQNSD) and self.fd >= 0:
            number: int = _I32.unpack(fcntl.ioctl(self.fd, TIOCOUTQ, bytes(4)))[0]
            ctx.user_memory().write_i32(arg, number)
            return 0
        if self.may_read and self.rx_bytes < FILL_BYTES:
            self.fill()
        return super().ioctl(ctx, command, arg)


def reset(host: socket.socket) -> None:
    """Close with an RST."""
    try:
        host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))
    except OSError:
        pass  # it is gone already
    host.close()


class Publisher(FdWatcher):
    """The sentry's side of the broker."""

    def __init__(self, kernel: Kernel, ctx: Context, channel: socket.socket) -> None:
        self.kernel: Kernel = kernel
        self.ctx: Context = ctx
        self.channel: socket.socket = channel
        self.count: int = 0  # connections that are open on the host
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit: int = min(MAX_CONNECTIONS, max(descriptors // 4, 1))
        self.token: int = kernel.watch_fd(channel.fileno(), EPOLLIN, self)

    def fd_ready(self, token: int, events: int) -> None:
        """Connections of the broker, or its end: then no more come."""
        for _turn in range(_ARRIVALS):
            try:
                data, control, _flags, _address = self.channel.recvmsg(
                    MESSAGE_BYTES, _CONTROL_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, control = b"", []
            fds = array("i")
            for level, kind, content in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[: len(content) & ~3])
            if not data:
                self.kernel.unwatch_fd(self.channel.fileno(), self.token)
                self.channel.close()
                return
            for fd in fds:
                self._arrive(data, socket.socket(fileno=fd))

    def _arrive(self, data: bytes, host: socket.socket) -> None:
        try:
            arrival = Arrival.decode(data)
        except ValueError:
            host.close()
            return
        stack = stack_for(self.ctx)
        stack.count("TcpPassiveOpens")
        listener = self._find(stack, arrival)
        if (
            listener is None
            or self.count >= self.limit
            or not (KERNEL_MEMORY.has_room(SOCKET_BYTES) and DESCRIPTORS.has_spare(host.fileno()))
        ):
            reset(host)
            return
        host.setblocking(False)  # nobody else holds it
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

    @staticmethod
    def _find(stack: NetStack, arrival: Arrival) -> TcpSocket | None:
        """The listener at loopback of the peer's family, or else of the other."""
        first, second = LOOPBACK4, LOOPBACK6
        if len(arrival.peer) == 16:
            first, second = second, first
        if not stack.lo.is_up:
            return None
        return find_listener(stack, first, arrival.port) or find_listener(stack, second, arrival.port)


def publish(container: Container, channel: socket.socket) -> Publisher:
    """Take connections of the broker for a container from now on, once that has its root."""
    ctx = container.root
    assert ctx is not None
    return Publisher(container.kernel, ctx, channel)
