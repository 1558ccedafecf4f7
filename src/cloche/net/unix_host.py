"""AF_UNIX sockets whose other end is one of the host's: clients from outside of a listener that was bound in a volume,
and connections to the host's sockets in a volume that allows them (`vfs.objects.HostDoor`, `HostEnd`).

A program's socket has an ordinary peer in the sandbox, of which no program knows: a `HostLink` moves what is sent to
that peer into the host's socket, and what comes from there into the program's. So all that a program may do with its
socket is as with any other. The link works when the peer is woken, and when the host's socket changes; what it takes
from the host ahead of the program is limited by the peer's send buffer.

No descriptor passes: a program that sends some gets EPERM, those of the host's side are closed by the host's kernel,
and the program is told MSG_CTRUNC. Credentials of the host's side are nobody's, except those of a server.
"""

import fcntl
import select
import socket
from typing import Final

from cloche.abi.errno import EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, ENFILE, ENOMEM, LinuxError
from cloche.abi.ioctl import FIONREAD
from cloche.abi.poll import EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, POLLHUP, POLLRDHUP
from cloche.abi.socket import SO_PASSRIGHTS, SOCK_DGRAM, SOCK_STREAM
from cloche.abi.socket_structs import unpack_sockaddr_un
from cloche.abi.stat import S_IFMT, S_IFSOCK
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import KernelContext, container_of
from cloche.kernel.timers import UNIX_HOST, Timer, TimerOwner, monotonic_ns
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.mm.usermem import KernelIovIter
from cloche.net.socket import (
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    STATE_WAKE,
    Outgoing,
    SocketFile,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.ucred import Ucred
from cloche.net.unix_base import CLOSED, CONNECTED, Entrance, UnixSocket, is_unix_addr, names_of
from cloche.vfs.host_sockets import HostEnd, SocketNode
from cloche.vfs.objects import Context, FsContext
from cloche.vfs.waitqueue import Waiter, WaitQueue

__all__ = ["HostedUnix"]

_PIECE: Final = 65536  # of a stream, taken from the host at once
_MESSAGE: Final = 1 << 19  # the longest message of seqpacket that is passed on whole
_MESSAGE_ROOM: Final = 1 << 20  # the send buffer for them
_ARRIVALS: Final = 16  # connections taken in one turn of the loop
_TURN_PIECES: Final = 256  # of one connection, taken in one turn of the loop
_TURN_BYTES: Final = 1 << 20
_AGAIN_NS: Final = 100_000_000  # until memory that was short is asked for again, of which nobody tells
_NOBODY: Final = 65534
_NONE_WAITS: Final = bytes(4)
_WATCH: Final = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET


class HostedUnix(UnixSocket):
    """A socket that can be reached from the host, or reach it."""

    def listen(self, ctx: Context, backlog: int) -> int:
        way = self.way_out
        if way is not None and self.kind != SOCK_DGRAM and self.state == CLOSED:
            fd = way.listen(max(backlog, 1))
            self.way_out = None
            if not DESCRIPTORS.has_spare(fd):
                socket.socket(fileno=fd).close()
                return -ENFILE
            self.door = Door(self, ctx, fd)
        result = super().listen(ctx, backlog)
        if self.door is not None:
            self.door.reopen()
        return result

    def accept(self, ctx: Context, flags: int) -> SocketFile:
        found = super().accept(ctx, flags)
        if self.door is not None:
            self.door.reopen()
        return found

    def connect_outside(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int | None:
        if self.kind == SOCK_DGRAM or not is_unix_addr(addr):
            return None
        end = self._dial(ctx, addr, is_nonblocking=is_nonblocking)
        return None if end is None else self._connected(ctx, end)

    def _dial(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> HostEnd | None:
        """A connection to the host's socket that the address names, if there is one.  Raises LinuxError."""
        name = unpack_sockaddr_un(addr)
        if name[0] == 0:
            return None
        inode = self.find_inode(ctx, name)
        if inode.mode & S_IFMT != S_IFSOCK or inode.bound_socket is not None:
            return None
        if not isinstance(inode, SocketNode) or not inode.may_dial():
            return None
        if self.state != CLOSED:
            raise LinuxError(EISCONN if self.state == CONNECTED else EINVAL)
        if not KERNEL_MEMORY.has_room(2 * SOCKET_BYTES):
            raise LinuxError(ENOMEM)
        try:
            return inode.dial(ctx, self.kind)
        except LinuxError as error:
            # Nobody tells when a backlog of the host's has room again.
            raise LinuxError(ECONNREFUSED) if error.errno == EAGAIN and not is_nonblocking else error

    def _connected(self, ctx: Context, end: HostEnd) -> int:
        host = socket.socket(fileno=end.fd)
        if not DESCRIPTORS.has_spare(end.fd):
            host.close()
            return -ENFILE
        self.state = CONNECTED
        self.cred_of_peer = Ucred(0, end.uid, end.gid)
        HostLink(self, ctx, host, self.cred_of_peer)
        self.queue.wake(OUT_EVENTS)
        return 0

    def end(self, *, is_embryo: bool) -> None:
        if self.is_released:
            return
        door, way = self.door, self.way_out
        self.door = self.way_out = None
        if door is not None:
            door.close()
        if way is not None:
            way.close()
        super().end(is_embryo=is_embryo)


class Door(Entrance, TimerOwner):
    """The host's listening socket behind a listener."""

    def __init__(self, listener: HostedUnix, ctx: Context, fd: int) -> None:
        self.listener: HostedUnix = listener
        self.ctx: KernelContext = _kernel_context(ctx)
        self.host: socket.socket = socket.socket(fileno=fd)
        self.host.setblocking(False)
        self.is_shut: bool = False  # the backlog is full, or memory short: connections wait at the host
        self.timer: Timer | None = None  # to look for memory again
        self.token: int = listener.kernel.fds.watch(fd, EPOLLIN, self)

    def close(self) -> None:
        """Nobody is let in any more."""
        if self.timer is not None:
            self.timer.cancel()
        self.listener.kernel.fds.unwatch(self.host.fileno(), self.token)
        self.host.close()

    def reopen(self) -> None:
        """There may be room in the backlog again."""
        listener = self.listener
        if self.is_shut and len(listener.embryos) <= listener.backlog:
            self.is_shut = False
            listener.kernel.fds.rewatch(self.host.fileno(), self.token, EPOLLIN)

    def timer_due(self, kind: int, argument: int) -> None:
        """There may be memory again."""
        self.timer = None
        self.reopen()

    def fd_ready(self, token: int, events: int) -> None:
        """Clients have connected."""
        listener = self.listener
        for _turn in range(_ARRIVALS):
            is_full = len(listener.embryos) > listener.backlog
            if is_full or not KERNEL_MEMORY.has_room(2 * SOCKET_BYTES):
                self.is_shut = True
                listener.kernel.fds.rewatch(self.host.fileno(), self.token, 0)
                if not is_full and self.timer is None:
                    self.timer = listener.kernel.timers.add(monotonic_ns() + _AGAIN_NS, UNIX_HOST, self)
                return
            try:
                host = self.host.accept()[0]
            except OSError:
                return
            if listener.shut & RCV_SHUTDOWN or not DESCRIPTORS.has_spare(host.fileno()):
                host.close()
                continue
            host.setblocking(False)
            made = listener.new_embryo(self.ctx)
            _move(made, listener)
            made.name = listener.name
            made.state = CONNECTED
            made.passes_cred, made.passes_pidfd = listener.passes_cred, listener.passes_pidfd
            made.cred_of_peer = Ucred(0, _NOBODY, _NOBODY)
            HostLink(made, self.ctx, host, made.cred_of_peer)
            listener.embryos.append(made)
            listener.queue.wake(IN_WAKE)


class HostLink(Waiter, FdWatcher, TimerOwner):
    """What moves data between a program's socket and one of the host's."""

    def __init__(self, mine: UnixSocket, ctx: Context, host: socket.socket, cred: Ucred) -> None:
        """`host`, which does not block, is connected; from now on it belongs to this object."""
        self.mine: UnixSocket = mine
        self.ctx: KernelContext = ctx if isinstance(ctx, KernelContext) else _kernel_context(ctx)
        self.host: socket.socket = host
        self.cred: Ucred = cred
        self.is_stream: bool = mine.kind == SOCK_STREAM
        self.is_open: bool = True
        self.is_moving: bool = False
        self.may_read: bool = True
        self.may_write: bool = True
        self.has_ended: bool = False  # the host's side has sent all that it will
        self.has_hung_up: bool = False  # and is closed
        self.is_fin_sent: bool = False
        self.is_deaf: bool = False  # the program reads no more
        self.left: bytes | None = None  # of a piece that there was no memory for
        self.is_left_cut: bool = False
        self.timer: Timer | None = None  # to look for memory again
        peer = mine.new_embryo(self.ctx)
        _move(peer, mine)
        peer.state = CONNECTED
        peer.other_options[SO_PASSRIGHTS] = 0
        if not self.is_stream:
            peer.sndbuf = _MESSAGE_ROOM
        mine.peer, peer.peer = peer, mine
        self.peer: UnixSocket = peer
        peer.queue.add(self)
        self.token: int = mine.kernel.fds.watch(host.fileno(), _WATCH, self)

    def notify(self, queue: WaitQueue, mask: int) -> bool:
        """The program has sent something, read something, or ended a direction."""
        self._move_both()
        return False

    def fd_ready(self, token: int, events: int) -> None:
        """The host's socket has changed (epoll events)."""
        if events & EPOLLOUT:
            self.may_write = True
        if events & ~EPOLLOUT:
            self.may_read = True
        if events & (EPOLLRDHUP | EPOLLHUP):
            self.has_ended = True
        if events & EPOLLHUP:
            self.has_hung_up = True
        self._move_both()

    def timer_due(self, kind: int, argument: int) -> None:
        """There may be memory again."""
        self.timer = None
        self._move_both()

    def _move_both(self) -> None:
        if self.is_moving or not self.is_open:
            return
        self.is_moving = True
        try:
            self._move_out()
            if self.mine.is_released and not self.peer.packets:
                self._close()
            else:
                self._move_in()
        finally:
            self.is_moving = False

    def _move_out(self) -> None:
        """From the program to the host."""
        peer = self.peer
        if peer.shut & SEND_SHUTDOWN and not self.is_deaf and not self.has_ended:
            self.is_deaf = True
            self._shut(socket.SHUT_RD)
        packets = peer.packets
        while packets and self.may_write:
            packet = packets[0]
            try:
                done = self.host.send(packet.data[packet.pos :], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self.may_write = False
                return
            except OSError as error:
                peer.purge()
                if error.errno == ECONNRESET:
                    self._reset()
                self.may_read = self.has_ended = self.has_hung_up = True  # and then it is over
                return
            packet.pos += done
            if packet.pos >= len(packet.data) or not self.is_stream:
                packets.popleft()
                peer.consumed(packet)
        if packets:
            return
        if peer.shut & RCV_SHUTDOWN and not self.is_fin_sent:
            self.is_fin_sent = True
            self._shut(socket.SHUT_WR)

    def _shut(self, how: int) -> None:
        try:
            self.host.shutdown(how)
        except OSError:
            pass  # it has ended meanwhile

    def _move_in(self) -> None:
        """From the host to the program, as far as it reads, and no longer than a turn of the event loop may last."""
        peer, host = self.peer, self.host
        left_bytes = _TURN_BYTES
        for _turn in range(_TURN_PIECES):
            if peer.wmem >= peer.sndbuf:
                return  # it wakes us when it has read
            if self.left is not None:
                if not self._pass_on(self.left, is_cut=self.is_left_cut):
                    return
                continue
            if not self.may_read:
                return
            if left_bytes <= 0:
                break
            try:
                data, _control, flags, _name = host.recvmsg(_PIECE if self.is_stream else _MESSAGE)
            except BlockingIOError:
                self.may_read = False
                if self.has_ended:
                    self._see_end()
                return
            except OSError as error:
                self.may_read = False
                if error.errno == ECONNRESET:
                    self._reset()
                self.has_ended = self.has_hung_up = True
                self._see_end()
                return
            if not data and (self.is_stream or self._is_end()):
                self.may_read = False
                self.has_ended = True
                self._see_end()
                return
            left_bytes -= len(data)
            if not self._pass_on(data, is_cut=flags & socket.MSG_CTRUNC != 0):
                return
        # What nobody reads, or a filter drops, fills no buffer: its sender may be as fast as this.
        self.mine.kernel.fds.rewatch(host.fileno(), self.token, _WATCH)

    def _is_end(self) -> bool:
        """Whether an empty message was the end, and not one behind which others wait that are not empty.

        The host is asked: the end may be read before the event loop tells of it, and would then be read for ever.
        """
        if not self.has_ended:
            poller = select.poll()
            poller.register(self.host.fileno(), POLLRDHUP)
            for _fd, events in poller.poll(0):
                self.has_ended = True
                self.has_hung_up = events & POLLHUP != 0
        return self.has_ended and fcntl.ioctl(self.host.fileno(), FIONREAD, _NONE_WAITS) == _NONE_WAITS

    def _pass_on(self, data: bytes, *, is_cut: bool) -> bool:
        """Give a piece or a message to the program; whether all of it went. What there is no memory for is kept."""
        self.left = None
        mine = self.mine
        if mine.is_released or mine.shut & RCV_SHUTDOWN:
            return True  # nobody reads it
        out = Outgoing()
        out.cred = self.cred
        before = len(mine.packets)
        done = self.peer.send(self.ctx, KernelIovIter(data), 0, out)
        if is_cut and len(mine.packets) > before:
            mine.packets[before].is_cut = True
        if 0 <= done >= len(data):
            return True
        self.left = data[max(done, 0) :]
        self.is_left_cut = is_cut and done <= 0
        if self.timer is None:
            self.timer = mine.kernel.timers.add(monotonic_ns() + _AGAIN_NS, UNIX_HOST, self)
        return False

    def _reset(self) -> None:
        mine = self.mine
        if not mine.is_released:
            mine.error = ECONNRESET
            mine.queue.wake(STATE_WAKE)

    def _see_end(self) -> None:
        """The host's side sends nothing more; if it is closed, it reads nothing either."""
        peer, mine = self.peer, self.mine
        if mine.is_released:
            return
        if self.has_hung_up:
            self._close()
            return
        mine.shut |= RCV_SHUTDOWN
        mine.queue.wake(STATE_WAKE)
        peer.wake_waiting()

    def _close(self) -> None:
        """The connection is over on one side: let go of the host's socket."""
        if not self.is_open:
            return
        self.is_open = False
        if self.timer is not None:
            self.timer.cancel()
        self.mine.kernel.fds.unwatch(self.host.fileno(), self.token)
        self.host.close()
        self.peer.queue.remove(self)
        self.peer.end(is_embryo=False)


def _kernel_context(ctx: Context) -> KernelContext:
    top = ctx.mount_ns.root
    return KernelContext(container_of(ctx), FsContext(top, top, 0), ctx.mount_ns)


def _move(made: UnixSocket, where: UnixSocket) -> None:
    """Put a socket into the network of another."""
    if made.stack is not where.stack:
        names_of(made.stack).sockets.pop(made, None)
        made.stack = where.stack
        names_of(made.stack).sockets[made] = None
