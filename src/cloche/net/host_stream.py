"""TCP sockets whose other end is a socket of the host, which another process has made and given to the sentry.

`HostStream` is a TcpSocket without a peer in the sandbox.  A program that asks for much at a time gets what has arrived
at the host's socket straight into its memory.  Who looks whether there is something, or asks for little, has it taken
into the receive queue, at most `FILL_BYTES` ahead, so a slow reader slows the sender through the host's own window;
what the program sends goes from its memory straight into the host's socket.  Readiness is remembered from an
edge-triggered watch, so that poll asks the host nothing without one.

The host's socket may be replaced by another for the same connection (`follow`): what is under way in the first is
read to its end before.

Urgent data of the host's side arrives in line (the host's socket has SO_OOBINLINE).
"""

import fcntl
import socket
from struct import Struct
from typing import Final

from cloche.abi.errno import EAGAIN, ECONNRESET, EFAULT, EIO, EOPNOTSUPP, EPIPE, LinuxError
from cloche.abi.inet import IPPROTO_TCP
from cloche.abi.ioctl import SIOCOUTQNSD, TIOCOUTQ
from cloche.abi.poll import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, POLLRDHUP
from cloche.abi.socket import (
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_FASTOPEN,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_WAITALL,
    SO_KEEPALIVE,
    SOL_SOCKET,
)
from cloche.abi.tcp import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CORK,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_INFO,
    TCP_INQ,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
)
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import Kernel
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter, KernelIovIter, UserIovIter
from cloche.net.socket import (
    IN_WAKE,
    OUT_EVENTS,
    SEND_SHUTDOWN,
    Incoming,
    Outgoing,
)
from cloche.net.tcp import TcpSocket
from cloche.net.tcp_stream import SIOCOUTQ
from cloche.vfs.objects import Context

__all__ = ["FILL_BYTES", "HostStream", "reset"]

FILL_BYTES: Final = 65536  # taken from the host ahead of the program
_SEND_PIECE: Final = 262144
_RECEIVE_PIECE: Final = 524288  # straight into the program's memory
_DIRECT_BYTES: Final = 16384  # a program that asks for less takes it from the queue, several times
_PLAIN: Final = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_WAITALL | MSG_CMSG_CLOEXEC
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


class HostStream(TcpSocket, FdWatcher):
    """A TCP socket that is, or becomes, the sandbox's end of a connection beyond it."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.is_outside: bool = False  # its other end is, or was, a socket of the host
        self.host: socket.socket | None = None
        self.fd: int = -1
        self.token: int = -1
        self.may_read: bool = False  # the host may have bytes, or the end
        self.may_write: bool = True
        self.is_ending: bool = False  # FIN or RST has come: read until it shows
        self.has_failed: bool = False  # the host's socket has, or may have, an error
        self.has_fin: bool = False
        self.following: socket.socket | None = None  # replaces `host` when that ends
        self.has_late_fin: bool = False  # the program's end goes to `following`

    def set_host(self, host: socket.socket) -> None:
        """The connection's other end; `attach` begins."""
        self.is_outside = True
        host.setblocking(False)  # only the sentry reads it
        self.host = host
        self.fd = host.fileno()
        self.may_read = self.may_write = True
        self.is_ending = self.has_failed = self.has_fin = False

    def attach(self) -> None:
        """The connection is established: pass options on, watch the host's socket."""
        for name, value in self.tcp.items():
            if name in _FORWARDED:
                self._tell_host(IPPROTO_TCP, name, value)
        if self.is_keepalive:
            self._tell_host(SOL_SOCKET, SO_KEEPALIVE, 1)
        self.token = self.kernel.fds.watch(self.fd, _WATCH, self)

    def follow(self, host: socket.socket) -> None:
        """Replace the present socket by `host` once the present one has been read to its end."""
        present = self.host
        if present is None or self.following is not None:
            host.close()
            return
        self.following = host
        self.may_write = False
        self.has_late_fin = self.shut & SEND_SHUTDOWN != 0
        try:
            present.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended already
        self.may_read = True
        self.fill()

    def change_host(self, host: socket.socket) -> None:
        """Go over to `host`: the first socket has been read to its end."""
        present = self.host
        if self.token >= 0:
            self.kernel.fds.unwatch(self.fd, self.token)
            self.token = -1
        if present is not None:
            present.close()
        self.set_host(host)
        self.attach()
        if self.has_late_fin:
            self.has_late_fin = False
            try:
                host.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self.queue.wake(OUT_EVENTS)

    def _tell_host(self, level: int, name: int, value: int) -> None:
        host = self.host
        try:
            if host is not None:
                host.setsockopt(level, name, value)
        except OSError:
            pass  # the connection is over, or its other end is not a socket of TCP

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
        if events & EPOLLOUT and self.following is None:
            self.may_write = True
            mask |= OUT_EVENTS
        if events & (EPOLLERR | EPOLLHUP):
            self.has_failed = True
        host = self.host
        if self.is_ending or self.following is not None or self.listener is not None:
            self.fill()  # an end may have to be seen, whoever waits
        if self.following is not None or self.host is not host:
            self.queue.wake(mask)
            return  # the first socket has ended, but the connection has not
        if events & EPOLLRDHUP:
            self._see_fin()
        if self.has_failed and not self.may_read:
            self._ask_error()
        self.queue.wake(mask)

    def fill(self) -> None:
        """Take what has arrived at the host, as far as there is room for it."""
        host = self.host
        if not self.may_read or host is None:
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
                data = host.recv(size)
            except BlockingIOError:
                self.may_read = False
                return
            except OSError as error:
                self.may_read = False
                self._see_error(error.errno or EIO)
                return
            if not data:
                following = self.following
                if following is not None:
                    self.following = None
                    self.change_host(following)
                    host = following
                    continue
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
        host = self.host
        if host is None or self.state == TCP_CLOSE:
            return
        errno = host.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if errno:
            self._see_error(errno)

    # -- data --------------------------------------------------------------------------------------------
    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        if not self.is_outside:
            return super().send(ctx, src, flags, out)
        if flags & MSG_FASTOPEN:
            result = self._fast_open(ctx, out)
            if result:
                return result
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
            done = src.write_stream(self.fd, min(total, _SEND_PIECE))
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
        host = self.host
        assert host is not None
        data = src.copy_from(size)
        try:
            done = host.send(data, flags | socket.MSG_NOSIGNAL)
        except OSError as error:
            src.revert(len(data))
            return -(error.errno or EIO)
        if done < len(data):
            src.revert(len(data) - done)
        return done

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        is_plain = flags & ~_PLAIN == 0
        if self.may_read and self.rx_bytes < FILL_BYTES:
            done = self._receive_directly(dst) if is_plain else 0
            if done > 0:
                return done
            self.fill()
        done = super().recv(ctx, dst, flags, info)
        if done > 0 and is_plain and self.may_read:
            done += self._receive_directly(dst)
        return done

    def _receive_directly(self, dst: IovIter) -> int:
        """From the host's socket into the program's memory; 0: it takes the ordinary way, which says why not."""
        if self.rx_bytes or self.fd < 0 or dst.remaining() < _DIRECT_BYTES:
            return 0
        if not isinstance(dst, (UserIovIter, KernelIovIter)):
            return 0  # a file, which may take nothing of what was read then
        if self.following is not None or self.urg_state or self.rcvlowat > 1:
            return 0
        if self.tcp.get(TCP_INQ, 0):
            return 0  # it wants to know how much is left
        done = dst.read_fd(self.fd, -1, min(dst.remaining(), _RECEIVE_PIECE))
        if done > 0:
            self.rx_read += done
            self.bytes_received += done
            return done
        if done == -EAGAIN:
            self.may_read = False
        elif done < 0 and done != -EFAULT:
            self.may_read = False
            self._see_error(-done)
        return 0

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if (
            self.may_read
            and self.rx_bytes < FILL_BYTES
            and (dst.remaining() < _DIRECT_BYTES or self.rcvlowat > 1)
        ):
            self.fill()
        return super().read(ctx, dst, flags)

    def poll(self, ctx: Context) -> int:
        if self.may_read and self.rx_bytes < FILL_BYTES:
            self.fill()
        mask = super().poll(ctx)
        if self.is_outside and not self.may_write and not self.shut & SEND_SHUTDOWN:
            mask &= ~_OUT_BITS
        return mask

    # -- closing -----------------------------------------------------------------------------------------
    def _send_fin(self) -> None:
        if not self.is_outside:
            super()._send_fin()
            return
        if self.state == TCP_ESTABLISHED:
            self.state = TCP_FIN_WAIT2
        elif self.state == TCP_CLOSE_WAIT:
            self.done()
        else:
            return
        host = self.host
        if self.following is not None:
            self.has_late_fin = True  # after the data that is still on its way to `following`
            return
        try:
            if host is not None:
                host.shutdown(socket.SHUT_WR)
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
        """Close the host's socket: at once with an RST, or after what was sent has gone out."""
        host = self.host
        if host is None:
            return
        if self.token >= 0:
            self.kernel.fds.unwatch(self.fd, self.token)
            self.token = -1
        self.fd = -1
        self.host = None
        self.may_read = False
        following = self.following
        self.following = None
        for each in (host, following):
            if each is not None:
                reset(each) if is_reset else each.close()
        self.host_closed()

    def host_closed(self) -> None:
        """The host's socket was closed."""

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
        if level == IPPROTO_TCP and name == TCP_INFO and self.host is not None:
            try:
                found = self.host.getsockopt(level, name, min(max(length, 1), 248))
            except OSError as error:
                if error.errno == EOPNOTSUPP:  # not a socket of TCP: a process on the host relays
                    return super().get_protocol(ctx, level, name, length)
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
        pass  # it is closed already
    host.close()
