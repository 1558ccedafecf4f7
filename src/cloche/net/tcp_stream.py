"""The data of TCP connections: sending, receiving, urgent data, readiness (tcp_sendmsg, tcp_recvmsg, tcp_poll)."""

from struct import Struct
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EINVAL,
    ENOBUFS,
    ENOTCONN,
    EPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.inet import IPPROTO_TCP
from cloche.abi.ioctl import FIONREAD, SIOCATMARK, SIOCOUTQNSD
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLPRI, POLLRDHUP, POLLRDNORM
from cloche.abi.socket import MSG_ERRQUEUE, MSG_FASTOPEN, MSG_MORE, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_ZEROCOPY
from cloche.abi.tcp import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_INQ,
    TCP_LISTEN,
    TCP_SYN_SENT,
)
from cloche.kernel.task import Kernel
from cloche.kernel.timers import TCP_CORK, Timer, TimerOwner, monotonic_ns
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.control import socket_control
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    Incoming,
    Outgoing,
)
from cloche.net.tcp_options import LO_MSS, TcpOptions
from cloche.net.tcp_taps import show_data
from cloche.net.urgent import signal_owner
from cloche.vfs.objects import Context

UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3  # shut down before the connection was established, or after it failed

SIOCOUTQ: Final = 0x5411
SNDBUF_START: Final = 16384  # tcp_wmem[1]
SNDBUF_LOOPBACK: Final = 2626560  # what Linux tunes a connection over lo to
RCVBUF_START: Final = 131072  # tcp_rmem[1]
_PIECE: Final = 262144
_FRAGMENT: Final = 32768  # what a sender copies at a time
_CORK_NS: Final = 200_000_000

_URG_NONE: Final = 0
_URG_VALID: Final = 1
_URG_READ: Final = 2

_I32: Final = Struct("<i")
_INFO: Final = Struct("<8B24I4Q4I")

POLLOUT_BITS: Final = OUT_EVENTS & ~0x200  # POLLOUT | POLLWRNORM; sk_stream has no band


class TcpStream(TcpOptions, TimerOwner):
    """An end of a connection, as far as its data goes; the states are TcpSocket's."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.peer: TcpStream | None = None
        self.rx_pos: int = 0  # bytes of rx[0] that were read
        self.held: int = 0  # charged to the sandbox
        self.rx_read: int = 0  # bytes read since the beginning
        self.urg_seq: int = -1  # of the urgent byte, counted like rx_read
        self.urg_state: int = _URG_NONE
        self.is_out_of_space: bool = False  # a sender waits for room (SOCK_NOSPACE)
        self.sndbuf = SNDBUF_START
        self.rcvbuf = RCVBUF_START
        self.listener: TcpStream | None = None  # of a connector in its syn_queue, or of a deferred connection
        self.timer: Timer | None = None
        self.fin_unread: int = 0

    def is_connected(self) -> bool:
        return self.peer is not None

    def got_fin(self) -> None:
        """The other end has sent FIN."""

    def got_reset(self) -> None:
        """The other end has sent RST."""

    def undefer(self, embryo: "TcpStream") -> None:
        """Of a listener: data has come for a connection that was deferred."""

    # -- data --------------------------------------------------------------------------------------------
    def account(self) -> None:
        """Bring the charge in line with what is queued for reading."""
        held = self.rx_bytes + len(self.rx) * BUFFER_BYTES
        KERNEL_MEMORY.take(held - self.held)
        self.held = held

    def capacity(self) -> int:
        """Bytes that may be under way to the other end: this end's send buffer and half of the other's receive
        buffer.
        """
        peer = self.peer
        return self.sndbuf + (peer.rcvbuf >> 1 if peer is not None else 0)

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        if flags & MSG_FASTOPEN:
            result = self._fast_open(ctx, out)
            if result:
                return result
        state = self.state
        if state != TCP_ESTABLISHED and state != TCP_CLOSE_WAIT:
            if self.error:
                return self.take_error()
            return -EAGAIN if state == TCP_SYN_SENT else -EPIPE
        if self.error:
            return self.take_error()
        peer = self.peer
        if self.shut & SEND_SHUTDOWN or peer is None:
            return -EPIPE
        if out is not None and out.control:
            socket_control(ctx, self, out)
        total = src.remaining()
        if total == 0:
            return 0
        if peer.is_released or (peer.shut and peer.is_deaf()):
            return self._send_to_nobody(src, total)
        room = self.capacity() - peer.rx_bytes - len(self.unsent)
        if not KERNEL_MEMORY.has_room(min(room, total) + BUFFER_BYTES):
            return -ENOBUFS
        if room <= 0:
            self.push()
            self.is_out_of_space = True
            return -EAGAIN
        left = total if total < room else room
        if flags & MSG_MORE or self.is_corked:
            return self._hold(peer, self._take_from(src, left), flags)
        if self.unsent:
            self.push()
        done = 0
        while left > 0:
            step = left if left < _PIECE else _PIECE
            try:
                data = self._take_from(src, step)
            except LinuxError:
                if done:
                    break
                raise
            peer.rx.append(data)
            done += len(data)
            left -= len(data)
            if len(data) < step:
                break
        self._sent(peer, done)
        if flags & MSG_OOB and done == total:
            peer.got_urgent()
        if done < total:
            self.is_out_of_space = True
        elif flags & MSG_ZEROCOPY:
            self.zero_copied()
        peer.queue.wake(IN_WAKE)
        return done

    def _take_from(self, src: IovIter, length: int) -> bytes:
        """Bytes to send: before a fault only whole page fragments (skb_copy_to_page_nocache)."""
        data = src.copy_from(length)
        short = len(data) % _FRAGMENT if len(data) < length else 0
        if short:
            src.revert(short)
            if short == len(data):
                raise LinuxError(EFAULT)
            return data[:-short]
        return data

    def _sent(self, peer: "TcpStream", count: int) -> None:
        """`count` bytes have been queued at the other end."""
        if self.stack.taps:
            show_data(self, peer, count)
        peer.rx_bytes += count
        peer.account()
        self.bytes_sent += count
        peer.bytes_received += count
        lo = self.stack.lo
        lo.packets += 1
        lo.bytes += count
        listener = peer.listener
        if listener is not None:
            listener.undefer(peer)

    def _hold(self, peer: "TcpStream", data: bytes, flags: int) -> int:
        """A send under TCP_CORK or with MSG_MORE: only whole segments go out now, the rest after 200 ms."""
        whole = self.unsent + data
        size = len(whole) if flags & MSG_OOB else len(whole) - len(whole) % LO_MSS
        self.unsent = whole[size:]
        if size:
            peer.rx.append(whole[:size])
            self._sent(peer, size)
            if flags & MSG_OOB:
                peer.got_urgent()
            peer.queue.wake(IN_WAKE)
        if self.unsent and self.timer is None:
            self.timer = self.kernel.timers.add(monotonic_ns() + _CORK_NS, TCP_CORK, self)
        return len(data)

    def timer_due(self, kind: int, argument: int) -> None:
        self.timer = None
        if kind == TCP_CORK:
            self.push()

    def push(self) -> None:
        """Send what was held back (tcp_push_pending_frames)."""
        data = self.unsent
        if not data:
            return
        self.unsent = b""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        peer = self.peer
        if peer is None or self.state not in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            return
        if peer.is_released or peer.is_deaf():
            self._refused_data()
            return
        peer.rx.append(data)
        self._sent(peer, len(data))
        peer.queue.wake(IN_WAKE)

    def is_deaf(self) -> bool:
        """Whether data that arrives now is answered by RST: shut down in both directions (TCPAbortOnData)."""
        return self.state == TCP_FIN_WAIT2 and self.shut & RCV_SHUTDOWN != 0

    def _send_to_nobody(self, src: IovIter, total: int) -> int:
        """The other end is closed or deaf: the data is lost, and RST comes back, with which both ends are gone."""
        data = self._take_from(src, min(total, _PIECE))
        self._refused_data()
        return len(data)

    def _refused_data(self) -> None:
        peer = self.peer
        if peer is not None:
            peer.got_reset()
        self.got_reset()

    def _fast_open(self, ctx: Context, out: Outgoing | None) -> int:
        """MSG_FASTOPEN without a cookie: an ordinary connect that sends once it is established."""
        if out is None or not out.name:
            return -EINVAL
        return self.connect(ctx, out.name, is_nonblocking=self.flags & O_NONBLOCK != 0)

    def got_urgent(self) -> None:
        """The last byte in the queue is urgent: SIGURG to the owner (tcp_check_urg)."""
        seq = self.rx_read + self.rx_bytes - 1
        self.urg_seq = seq
        self.urg_state = _URG_VALID
        signal_owner(self)
        self.queue.wake(POLLPRI | IN_WAKE)

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if flags & MSG_ERRQUEUE:
            return self.recv_error(dst, info)
        if self.state == TCP_LISTEN:
            return -ENOTCONN
        if flags & MSG_OOB:
            return self._recv_urgent(dst, flags, info)
        want = dst.remaining()
        done = 0
        if self.rx_bytes:
            if want == 0:
                return 0
            if flags & MSG_PEEK:
                done = self._peek(dst, flags)
            elif self.urg_state:
                done = self._read_to_mark(dst, flags, want)
            else:
                done = self._read(dst, flags, want)
        if done:
            if info is not None and self.tcp.get(TCP_INQ, 0):
                info.control.append((IPPROTO_TCP, TCP_INQ, _I32.pack(self.rx_bytes)))
            return done
        # SOCK_DONE: after a FIN the end of the stream comes before an error.
        if self.error and not (self.shut & RCV_SHUTDOWN and self.error == EPIPE):
            return self.take_error()
        if self.shut & RCV_SHUTDOWN:
            if not flags & MSG_PEEK:
                self.fin_unread = 0
            return 0
        if self.state == TCP_CLOSE:
            return -ENOTCONN
        return -EAGAIN

    def _read(self, dst: IovIter, flags: int, want: int) -> int:
        """Take up to `want` bytes out of the queue."""
        rx = self.rx
        pos = self.rx_pos
        done = 0
        is_discard = flags & MSG_TRUNC != 0
        while rx and done < want:
            head = rx[0]
            room = want - done
            size = len(head) - pos
            piece = head if pos == 0 and size <= room else head[pos : pos + room]
            if is_discard:
                copied = len(piece)
            else:
                copied = _copy_fragments(dst, piece)
                if copied == 0:
                    if done:
                        break
                    raise LinuxError(EFAULT)
            done += copied
            if copied == size:
                rx.popleft()
                pos = 0
            else:
                pos += copied
                if copied < len(piece):
                    break
        self.rx_pos = pos
        self.rx_bytes -= done
        self.rx_read += done
        self.account()
        peer = self.peer
        if peer is not None and peer.is_out_of_space and self.rx_bytes * 3 <= peer.capacity() * 2:
            peer.is_out_of_space = False
            peer.queue.wake(OUT_EVENTS)
        return done

    def _read_to_mark(self, dst: IovIter, flags: int, want: int) -> int:
        """A read while there is an urgent byte: it stops before it, and skips it unless SO_OOBINLINE."""
        ahead = self.urg_seq - self.rx_read
        if ahead < 0:
            self.urg_state = _URG_NONE
            return self._read(dst, flags, want)
        if ahead == 0:
            if not self.is_oob_inline:
                self._read(dst, MSG_TRUNC, 1)
            self.urg_state = _URG_NONE
            return self._read(dst, flags, want) if self.rx_bytes else 0
        return self._read(dst, flags, min(want, ahead))

    def _recv_urgent(self, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """MSG_OOB (tcp_recv_urg)."""
        if self.is_oob_inline or self.urg_state == _URG_NONE or self.urg_state == _URG_READ:
            return -EINVAL
        if self.state == TCP_CLOSE and self.peer is None:
            return -ENOTCONN
        data = self._urgent_byte()
        if not flags & MSG_PEEK:
            self.urg_state = _URG_READ
        if info is not None:
            info.flags |= MSG_OOB
        if dst.remaining() == 0:
            if info is not None:
                info.flags |= MSG_TRUNC
            return 0
        return dst.copy_to(data)

    def _urgent_byte(self) -> bytes:
        at = self.urg_seq - self.rx_read + self.rx_pos
        for piece in self.rx:
            if at < len(piece):
                return piece[at : at + 1]
            at -= len(piece)
        return b"\0"

    def _peek(self, dst: IovIter, flags: int) -> int:
        done = 0
        pos = self.rx_pos
        skip = max(self.peek_offset, 0)
        if flags & MSG_TRUNC:  # count the bytes only, without a copy
            done = min(max(self.rx_bytes - skip, 0), dst.remaining())
            if self.peek_offset >= 0:
                self.peek_offset += done
            return done
        for piece in self.rx:
            if dst.remaining() == 0:
                break
            if skip >= len(piece) - pos:
                skip -= len(piece) - pos
                pos = 0
                continue
            wanted = piece[pos + skip : pos + skip + dst.remaining()]
            copied = _copy_fragments(dst, wanted)
            done += copied
            if copied < len(wanted):
                if done == 0:
                    raise LinuxError(EFAULT)
                break
            pos = skip = 0
        if self.peek_offset >= 0:
            self.peek_offset += done
        return done

    def set_peek_offset(self, value: int) -> int:
        self.peek_offset = value
        return 0

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if self.rcvlowat > 1 and not self.flags & O_NONBLOCK:
            have = self.rx_bytes
            wanted = min(self.rcvlowat, dst.remaining())
            if 0 < have < wanted and not self.shut & RCV_SHUTDOWN and not self.error:
                return -EAGAIN
        return self.recv(ctx, dst, 0, None)

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command in (FIONREAD, SIOCOUTQ, SIOCOUTQNSD):
            if self.state == TCP_LISTEN:
                return -EINVAL
            peer = self.peer
            if command == FIONREAD:
                number = self.rx_bytes
                if self.urg_state and not self.is_oob_inline and 0 <= self.urg_seq - self.rx_read < number:
                    number = self.urg_seq - self.rx_read
            elif peer is None:
                number = 0
            else:
                number = max(peer.rx_bytes - (peer.rcvbuf >> 1), 0) + len(self.unsent)
            ctx.user_memory().write_i32(arg, number)
            return 0
        if command == SIOCATMARK:
            is_at = self.urg_state != _URG_NONE and self.urg_seq == self.rx_read
            ctx.user_memory().write_i32(arg, int(is_at))
            return 0
        return super().ioctl(ctx, command, arg)

    # -- readiness ---------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        state = self.state
        if state == TCP_LISTEN:
            return IN_EVENTS if self.waiting_connections() else 0
        mask = 0
        shut = self.shut
        if shut == SHUTDOWN_MASK or state == TCP_CLOSE:
            mask |= POLLHUP
        if shut & RCV_SHUTDOWN:
            mask |= POLLIN | POLLRDNORM | POLLRDHUP
        if state != TCP_SYN_SENT:
            have = self.rx_bytes
            if self.urg_state and self.urg_seq == self.rx_read and not self.is_oob_inline:
                have -= 1
            if have >= self.rcvlowat or (have > 0 and shut & RCV_SHUTDOWN):
                mask |= IN_EVENTS
            if shut & SEND_SHUTDOWN:
                mask |= POLLOUT_BITS
            else:
                peer = self.peer
                if peer is None or peer.rx_bytes * 3 <= self.capacity() * 2:
                    mask |= POLLOUT_BITS
                else:
                    self.is_out_of_space = True
            if self.urg_state == _URG_VALID:
                mask |= POLLPRI
        if self.error or self.errors:
            mask |= POLLERR
        return mask


def _copy_fragments(dst: IovIter, piece: bytes) -> int:
    """Copy a piece of the queue: all of it, or what came in whole fragments before a fault."""
    try:
        copied = dst.copy_to(piece)
    except LinuxError:
        return 0
    short = copied % _FRAGMENT if copied < len(piece) else 0
    if short:
        dst.revert(short)
    return copied - short
