"""TCP between sockets of the sandbox (tcp(7), net/ipv4/tcp.c): the states that programs can see, without packets.

The two ends of a connection know each other: what one sends is appended to the other's receive queue, a FIN or RST
is a call.  Linux processes loopback packets before the system call that sent them returns, so this is also when
programs there see their effects.

States: a closed end that was not yet closed by the other stays FIN_WAIT2; TIME_WAIT is only a claim to the port
(net.ports).
"""

from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN
from cloche.abi.errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    EALREADY,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EFAULT,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
    ENOBUFS,
    ENOENT,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    ETIMEDOUT,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.ioctl import FIONREAD, SIOCATMARK
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLPRI, POLLRDHUP, POLLRDNORM
from cloche.abi.socket import (
    AF_UNSPEC,
    IPPROTO_TCP,
    MSG_ERRQUEUE,
    MSG_FASTOPEN,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    SOCK_STREAM,
    TCP_CC_INFO,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_ESTABLISHED,
    TCP_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_KEY,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_FIN_WAIT2,
    TCP_INFO,
    TCP_INQ,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_LISTEN,
    TCP_MAXSEG,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TCP_QUEUE_SEQ,
    TCP_QUICKACK,
    TCP_REPAIR,
    TCP_REPAIR_OPTIONS,
    TCP_REPAIR_QUEUE,
    TCP_REPAIR_WINDOW,
    TCP_SAVE_SYN,
    TCP_SAVED_SYN,
    TCP_SYN_SENT,
    TCP_SYNCNT,
    TCP_THIN_DUPACK,
    TCP_THIN_LINEAR_TIMEOUTS,
    TCP_TIMESTAMP,
    TCP_TX_DELAY,
    TCP_ULP,
    TCP_USER_TIMEOUT,
    TCP_WINDOW_CLAMP,
)
from cloche.kernel.task import Kernel
from cloche.kernel.timers import Timer, monotonic_ns
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net import packets
from cloche.net.control import socket_control
from cloche.net.inet_addr import LO_INDEX, Endpoint, encode, is_any, is_broadcast, is_multicast
from cloche.net.inet_base import InetSocket, NetStack
from cloche.net.ports import TupleTest
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCKET_BYTES,
    STATE_WAKE,
    Incoming,
    Outgoing,
    SocketFile,
    Ucred,
    how_mask,
)
from cloche.net.urgent import signal_owner
from cloche.vfs.objects import Context

UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3  # shut down before the connection stood, or after it failed

SIOCOUTQ: Final = 0x5411
SIOCOUTQNSD: Final = 0x894B
SNDBUF_START: Final = 16384  # tcp_wmem[1]
SNDBUF_LOOPBACK: Final = 2626560  # what Linux tunes a connection over lo to
RCVBUF_START: Final = 131072  # tcp_rmem[1]
_PIECE: Final = 262144
_FRAGMENT: Final = 32768  # what a sender copies at a time
_CORK_NS: Final = 200_000_000
_LO_MSS: Final = 65483

_URG_NONE: Final = 0
_URG_VALID: Final = 1
_URG_READ: Final = 2

_I32: Final = Struct("<i")
_INFO: Final = Struct("<8B24I4Q4I")

# Options that are kept and shown: (lowest, highest, default).
_RANGES: Final[dict[int, tuple[int, int, int]]] = {
    TCP_KEEPIDLE: (1, 32767, 7200),
    TCP_KEEPINTVL: (1, 32767, 75),
    TCP_KEEPCNT: (1, 127, 9),
    TCP_SYNCNT: (1, 127, 6),
    TCP_USER_TIMEOUT: (0, 0x7FFFFFFF, 0),
    TCP_SAVE_SYN: (0, 2, 0),
    TCP_INQ: (0, 1, 0),
    TCP_FASTOPEN_NO_COOKIE: (0, 1, 0),
    TCP_FASTOPEN_CONNECT: (0, 1, 0),
    TCP_THIN_LINEAR_TIMEOUTS: (0, 1, 0),
}
_DEFAULTS: Final[dict[int, str]] = {
    TCP_KEEPIDLE: "ipv4/tcp_keepalive_time",
    TCP_KEEPINTVL: "ipv4/tcp_keepalive_intvl",
    TCP_KEEPCNT: "ipv4/tcp_keepalive_probes",
    TCP_SYNCNT: "ipv4/tcp_syn_retries",
}
_BOOLEANS: Final = frozenset({TCP_NODELAY, TCP_CORK, TCP_QUICKACK})


class TcpSocket(InetSocket):
    """A TCP socket, or an end of a connection that was not accepted yet."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, SOCK_STREAM, IPPROTO_TCP, flags)
        self.state: int = TCP_CLOSE
        self.phase: int = UNCONNECTED
        self.peer: TcpSocket | None = None
        self.rx: deque[bytes] = deque()
        self.rx_pos: int = 0  # bytes of rx[0] that were read
        self.rx_bytes: int = 0
        self.held: int = 0  # charged to the sandbox
        self.rx_read: int = 0  # bytes read since the beginning
        self.urg_seq: int = -1  # of the urgent byte, counted like rx_read
        self.urg_state: int = _URG_NONE
        self.is_out_of_space: bool = False  # somebody waits for room to send (SOCK_NOSPACE)
        self.sndbuf = SNDBUF_START
        self.rcvbuf = RCVBUF_START
        self.is_sndbuf_set: bool = False
        self.is_rcvbuf_set: bool = False
        self.accept_queue: deque[TcpSocket] = deque()
        self.syn_queue: deque[TcpSocket] = deque()  # connectors that wait for room in the backlog
        self.deferred: dict[TcpSocket, None] = {}  # connections without data yet (TCP_DEFER_ACCEPT)
        self.listener: TcpSocket | None = None  # of a connector in its syn_queue, or of a deferred connection
        self.backlog: int = 0
        self.tcp: dict[int, int] = {}
        self.congestion: bytes = self.stack.parameters.congestion
        self.timer: Timer | None = None
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.syn_acked: int = 0  # 1: we have connected; these three for TCP_INFO
        self.fin_sent: int = 0
        self.fin_seen: int = 0
        self.fin_unread: int = 0
        self.is_waiting: bool = False  # in the accept queue
        self.is_corked: bool = False  # TCP_CORK
        self.unsent: bytes = b""  # less than a segment, held back by TCP_CORK or MSG_MORE

    def inherit(self, listener: "TcpSocket") -> None:
        """A new connection begins with its listener's options."""
        self.move_to(listener.stack)
        self.does_reuse, self.does_reuse_port = listener.does_reuse, listener.does_reuse_port
        self.is_keepalive, self.is_oob_inline = listener.is_keepalive, listener.is_oob_inline
        self.has_linger, self.linger_s = listener.has_linger, listener.linger_s
        self.rcvlowat, self.priority, self.mark = listener.rcvlowat, listener.priority, listener.mark
        self.rcvtimeo_ns, self.rcvtimeo_us = listener.rcvtimeo_ns, listener.rcvtimeo_us
        self.sndtimeo_ns, self.sndtimeo_us = listener.sndtimeo_ns, listener.sndtimeo_us
        self.is_sndbuf_set, self.is_rcvbuf_set = listener.is_sndbuf_set, listener.is_rcvbuf_set
        self.sndbuf, self.rcvbuf = listener.sndbuf, listener.rcvbuf
        self.wants_time, self.is_v6_only = listener.wants_time, listener.is_v6_only
        if listener.ip:
            self.ip = dict(listener.ip)
        if listener.ip6:
            self.ip6 = dict(listener.ip6)
        if listener.tcp:
            self.tcp = dict(listener.tcp)
            self.is_corked = self.tcp.get(TCP_CORK, 0) != 0
        self.congestion = listener.congestion

    def is_active(self) -> bool:
        return self.state != TCP_CLOSE

    def has_port(self) -> bool:
        return self.hold is not None or (self.is_port_bound and self.lport != 0)

    def drop_port(self) -> None:
        """Give the port back; getsockname(2) goes on to show it."""
        hold = self.hold
        self.hold = None
        if hold is not None and not hold.ends_ns:
            self.ports().drop(hold)

    def is_listening(self) -> bool:
        return self.state == TCP_LISTEN

    # -- listening ---------------------------------------------------------------------------------------
    def listen(self, ctx: Context, backlog: int) -> int:
        if self.state != TCP_LISTEN:
            if self.state != TCP_CLOSE or self.phase != UNCONNECTED:
                return -EINVAL
            if not self.has_port():
                self.take_port(self.laddr, 0)
            elif self.hold is not None:
                # A port shared by SO_REUSEADDR has only one listener.
                self.hold.is_listening = True
                self.hold.does_reuse, self.hold.does_reuse_port = self.does_reuse, self.does_reuse_port
                if self._is_port_listening():
                    self.hold.is_listening = False
                    return -EADDRINUSE
            if self.hold is not None:
                self.hold.is_listening = True
            self.state = TCP_LISTEN
            self.shut = 0
            self.stack.listeners.setdefault(self.lport, []).append(self)
        self.backlog = backlog
        self._admit(ctx)
        return 0

    def _is_port_listening(self) -> bool:
        hold = self.hold
        return hold is not None and self.ports().conflicts(hold)

    def accept(self, ctx: Context, flags: int) -> SocketFile:
        if self.state != TCP_LISTEN:
            raise LinuxError(EINVAL)
        if not self.accept_queue:
            raise LinuxError(EAGAIN)
        found = self.accept_queue.popleft()
        found.is_waiting = False
        found.inode.uid, found.inode.gid = ctx.creds.fsuid, ctx.creds.fsgid
        found.owner_uid = ctx.creds.fsuid
        if self.syn_queue:
            self._admit(ctx)
        return found

    def _admit(self, ctx: Context) -> None:
        """Let connectors in that waited for room in the backlog."""
        while self.syn_queue and len(self.accept_queue) <= self.backlog:
            waiting = self.syn_queue.popleft()
            waiting.listener = None
            if waiting.state == TCP_SYN_SENT:
                waiting.enter(ctx, self)
                waiting.queue.wake(STATE_WAKE)

    def enter(self, ctx: Context, listener: "TcpSocket") -> None:
        """There is room in the backlog of `listener`."""
        establish(ctx, self, listener)

    def _stop_listening(self) -> None:
        listeners = self.stack.listeners.get(self.lport, [])
        if self in listeners:
            listeners.remove(self)
            if not listeners:
                del self.stack.listeners[self.lport]
        if self.hold is not None:
            self.hold.is_listening = False
        for embryo in list(self.accept_queue):
            embryo.abort()
            embryo.release()
        for embryo in list(self.deferred):
            embryo.vanish()
        self.accept_queue.clear()
        self.deferred.clear()
        while self.syn_queue:
            waiting = self.syn_queue.popleft()
            waiting.listener = None
            waiting.got_reset()

    # -- connecting --------------------------------------------------------------------------------------
    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        if len(addr) < 2:
            return -EINVAL
        if addr[0] | addr[1] << 8 == AF_UNSPEC:
            return self._disconnect()
        if self.phase == CONNECTED:
            return -EISCONN
        if self.phase == DISCONNECTING:
            return -EINVAL
        if self.phase == CONNECTING:
            if self.state == TCP_SYN_SENT:
                return -EALREADY if is_nonblocking else -EAGAIN
            return self._connect_outcome()
        if self.state != TCP_CLOSE:
            return -EISCONN
        end = self.decode_peer(addr)
        self._start_connect(ctx, end)
        self.phase = CONNECTING
        if is_nonblocking:
            return -EINPROGRESS
        if self.state == TCP_SYN_SENT:
            return -EAGAIN
        return self._connect_outcome()

    def _connect_outcome(self) -> int:
        if self.state == TCP_CLOSE and (self.error or self.peer is None):
            self.phase = UNCONNECTED
            self._forget_peer()
            self.shut = 0
            self.peek_offset = -1
            return self.take_error() or -ECONNABORTED
        self.phase = CONNECTED
        return 0

    def connect_timed_out(self) -> int:
        return -EINPROGRESS

    def _start_connect(self, ctx: Context, end: Endpoint) -> None:
        """Send a SYN: afterwards the state is ESTABLISHED, SYN_SENT, or CLOSE with an error.

        Raises LinuxError for what connect(2) itself refuses.
        """
        stack = self.stack
        if is_multicast(end.addr) or is_broadcast(end.addr):
            raise LinuxError(ENETUNREACH)
        source = stack.lo.source_for(end.addr)
        if not is_any(self.laddr):
            source = self.laddr
        if len(source) != len(end.addr):
            raise LinuxError(EINVAL)
        if not self.has_port():
            self.take_shared_port(source, _FreeTuple(stack, source, end))
        elif (source, self.lport, end.addr, end.port) in stack.tuples:
            raise LinuxError(EADDRNOTAVAIL)
        self.laddr = source
        if self.hold is not None:
            self.hold.addr = source
        self.raddr, self.rport = end.addr, end.port
        self.state = TCP_SYN_SENT
        self.error = 0
        if stack.lo.routes.rows and not stack.lo.is_local(end.addr):
            self._start_syn_timer()  # a route leads to lo, but nobody there is meant
            return
        listener = find_listener(stack, end.addr, end.port)
        if listener is None:
            if end.addr == self.laddr and end.port == self.lport:
                connect_ends(self, self)  # a simultaneous open with itself
            else:
                if stack.taps:
                    show_refusal(self)
                self.got_reset()
        elif len(listener.accept_queue) > listener.backlog or not KERNEL_MEMORY.has_room(SOCKET_BYTES):
            self.listener = listener
            listener.syn_queue.append(self)
            self._start_syn_timer()
        else:
            establish(ctx, self, listener)

    def _start_syn_timer(self) -> None:
        """Nobody has answered: give up some time."""
        limit_ms = self.tcp.get(TCP_USER_TIMEOUT, 0)
        retries = self.tcp.get(TCP_SYNCNT, self.parameter("ipv4/tcp_syn_retries"))
        # After 1, 2, 4 … seconds, from some point on two minutes.
        limit_s = (1 << min(retries, 6) + 1) - 1 + 120 * max(retries - 6, 0)
        limit_ns = limit_ms * 1_000_000 if limit_ms else limit_s * 1_000_000_000
        self.timer = self.kernel.timers.add(monotonic_ns() + limit_ns, self._syn_expired)

    def _syn_expired(self) -> None:
        self.timer = None
        if self.state == TCP_SYN_SENT:
            self._leave_syn_queue()
            self.error = ETIMEDOUT
            self.done()

    def _leave_syn_queue(self) -> None:
        listener = self.listener
        self.listener = None
        if listener is not None:
            if self in listener.syn_queue:
                listener.syn_queue.remove(self)
            listener.deferred.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _forget_peer(self) -> None:
        self.raddr, self.rport = bytes(len(self.raddr)), 0
        if not self.is_addr_bound:
            self.laddr = bytes(4 if self.family == 2 else 16)
            if self.hold is not None:
                self.hold.addr = self.laddr

    def _disconnect(self) -> int:
        """connect with AF_UNSPEC (tcp_disconnect)."""
        error = self.error
        if self.state == TCP_LISTEN:
            self._stop_listening()
            self.state = TCP_CLOSE
            if not self.is_port_bound:
                self.drop_port()
        elif self.state != TCP_CLOSE:
            error = ECONNRESET
            if self.state == TCP_SYN_SENT:
                self._leave_syn_queue()
                self.done()
            else:
                self.abort()
        self.phase = UNCONNECTED
        self.peer = None
        self.rx.clear()
        self.rx_pos = self.rx_bytes = 0
        self.unsent = b""
        self.peek_offset = -1
        self.account()
        self.error = error
        self.shut = 0
        self._forget_peer()
        return 0

    # -- what the other end does -------------------------------------------------------------------------
    def got_fin(self) -> None:
        """The other end sends no more."""
        self.fin_seen = self.fin_unread = 1
        self.shut |= RCV_SHUTDOWN
        if self.listener is not None:
            self.listener.undefer(self)
        if self.state == TCP_ESTABLISHED:
            self.state = TCP_CLOSE_WAIT
            self.queue.wake(IN_WAKE | POLLRDHUP)
        elif self.state == TCP_FIN_WAIT2:
            hold = self.hold
            if hold is not None and not hold.ends_ns:
                # The claim goes on in TIME_WAIT; a socket that is still open keeps its own, too.
                self.ports().wait(hold)
                self.hold = None
            self.done()

    def got_reset(self) -> None:
        """The other end has sent RST."""
        if self.state == TCP_CLOSE:
            return
        if self.state == TCP_SYN_SENT:
            self.error = ECONNREFUSED
        elif self.state == TCP_CLOSE_WAIT:
            self.error = EPIPE
        else:
            self.error = ECONNRESET
        self.done()

    def done(self) -> None:
        """The connection is over (tcp_done)."""
        self.state = TCP_CLOSE
        self.shut = SHUTDOWN_MASK
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        key = (self.laddr, self.lport, self.raddr, self.rport)
        if self.stack.tuples.get(key) is self:
            del self.stack.tuples[key]
        if not self.is_port_bound:
            self.drop_port()
        self.queue.wake(STATE_WAKE)

    def vanish(self) -> None:
        """A connection that its listener never acknowledged is forgotten: the other end learns it when it sends."""
        self.listener = None
        self.is_released = True
        self.uncharge()
        self.stack.sockets.pop(self, None)
        self.done()
        self.peer = None

    def abort(self) -> None:
        """Send RST and be done."""
        peer = self.peer
        was = self.state
        self.done()
        if peer is not None and peer is not self and was != TCP_CLOSE:
            if self.stack.taps:
                show_segment(self, peer, self.bytes_sent + 1, packets.TCP_RST | packets.TCP_ACK)
            peer.got_reset()

    def _send_fin(self) -> None:
        if self.unsent:
            self.push()
        peer = self.peer
        if peer is not None and self.stack.taps and self.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            show_fin(self, peer)
        self.fin_sent = 1
        if self.state == TCP_ESTABLISHED:
            self.state = TCP_FIN_WAIT2
            if peer is not None:
                peer.got_fin()
        elif self.state == TCP_CLOSE_WAIT:
            if peer is not None and peer is not self:
                peer.got_fin()
            self.done()

    # -- data --------------------------------------------------------------------------------------------
    def account(self) -> None:
        """Bring the charge in line with what is queued for reading."""
        held = self.rx_bytes + len(self.rx) * BUFFER_BYTES
        KERNEL_MEMORY.take(held - self.held)
        self.held = held

    def capacity(self) -> int:
        """Bytes that may be under way to the other end: our send buffer and half of its receive buffer."""
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

    def _sent(self, peer: "TcpSocket", count: int) -> None:
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

    def _hold(self, peer: "TcpSocket", data: bytes, flags: int) -> int:
        """A send under TCP_CORK or with MSG_MORE: only whole segments go out now, the rest after 200 ms."""
        whole = self.unsent + data
        size = len(whole) if flags & MSG_OOB else len(whole) - len(whole) % _LO_MSS
        self.unsent = whole[size:]
        if size:
            peer.rx.append(whole[:size])
            self._sent(peer, size)
            if flags & MSG_OOB:
                peer.got_urgent()
            peer.queue.wake(IN_WAKE)
        if self.unsent and self.timer is None:
            self.timer = self.kernel.timers.add(monotonic_ns() + _CORK_NS, self._cork_expired)
        return len(data)

    def _cork_expired(self) -> None:
        self.timer = None
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
        """MSG_FASTOPEN without a cookie: an ordinary connect that sends once it stands."""
        if out is None or not out.name:
            return -EINVAL
        return self.connect(ctx, out.name, is_nonblocking=self.flags & O_NONBLOCK != 0)

    def undefer(self, embryo: "TcpSocket") -> None:
        """TCP_DEFER_ACCEPT: data has come, so the connection may be accepted."""
        embryo.listener = None
        if embryo in self.deferred:
            del self.deferred[embryo]
            self.accept_queue.append(embryo)
            self.queue.wake(IN_WAKE)

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
        if flags & MSG_TRUNC:  # only how much there is
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

    # -- readiness ---------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        state = self.state
        if state == TCP_LISTEN:
            return IN_EVENTS if self.accept_queue else 0
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

    # -- closing -----------------------------------------------------------------------------------------
    def shutdown(self, ctx: Context, how: int) -> int:
        mask = how_mask(how)
        state = self.state
        if self.phase == CONNECTING:
            self.phase = DISCONNECTING if state in (TCP_CLOSE, TCP_SYN_SENT) else CONNECTED
        if state == TCP_LISTEN and not mask & RCV_SHUTDOWN:
            return 0
        if state == TCP_LISTEN or state == TCP_SYN_SENT:
            self._disconnect()
            self.queue.wake(STATE_WAKE)
            return 0
        self.shut |= mask
        if mask & SEND_SHUTDOWN and state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            self._send_fin()
        self.queue.wake(STATE_WAKE)
        return -ENOTCONN if state == TCP_CLOSE else 0

    def release(self) -> None:
        if self.is_released:
            return
        self.is_released = True
        self.uncharge()
        self.stack.sockets.pop(self, None)
        state = self.state
        if state == TCP_LISTEN:
            self._stop_listening()
            self.state = TCP_CLOSE
        elif state == TCP_SYN_SENT:
            self._leave_syn_queue()
            self.done()
        elif state != TCP_CLOSE:
            self._leave_syn_queue()
            if self.rx_bytes or (self.has_linger and self.linger_s == 0):
                self.abort()
            else:
                self.shut = SHUTDOWN_MASK
                self._send_fin()
                if self.state == TCP_FIN_WAIT2 and self.hold is not None:
                    self.ports().wait(self.hold)
        self.peer = None  # no cycles: the other end still knows us
        self.rx.clear()
        self.rx_bytes = 0
        self.account()
        self.drop_port()

    # -- names and options -------------------------------------------------------------------------------
    def peer_name(self) -> bytes:
        if self.rport == 0 or self.state in (TCP_CLOSE, TCP_SYN_SENT):
            raise LinuxError(ENOTCONN)
        return encode(self.family, self.raddr, self.rport)

    def accepted_name(self) -> bytes:
        if self.rport == 0:
            raise LinuxError(ENOTCONN)
        return encode(self.family, self.raddr, self.rport)

    def peer_cred(self) -> Ucred | None:
        return None

    def set_common(self, ctx: Context, name: int, value: bytes) -> int:
        result = super().set_common(ctx, name, value)
        if name in (7, 32):  # SO_SNDBUF, SO_SNDBUFFORCE
            self.is_sndbuf_set = True
        elif name in (8, 33):
            self.is_rcvbuf_set = True
        return result

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

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level != IPPROTO_TCP:
            return -ENOPROTOOPT
        if name == TCP_CONGESTION:
            wanted = value[:15].split(b"\0", 1)[0]
            if not value:
                return -EINVAL
            if wanted not in (b"cubic", b"reno"):
                return -ENOENT
            self.congestion = wanted
            return 0
        if name == TCP_ULP:
            return -ENOENT if value else -EINVAL
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name in _BOOLEANS:
            self.tcp[name] = int(number != 0)
            if name == TCP_CORK:
                self.is_corked = number != 0
            if (name == TCP_CORK and not number) or (name == TCP_NODELAY and number):
                self.push()
            return 0
        limits = _RANGES.get(name)
        if limits is not None:
            if not limits[0] <= number <= limits[1]:
                return -EINVAL
            if name == TCP_FASTOPEN_CONNECT and self.state != TCP_CLOSE:
                return -EINVAL
            self.tcp[name] = number
            return 0
        if name == TCP_MAXSEG:
            if number and not 88 <= number <= 32767:
                return -EINVAL
            self.tcp[name] = number
            return 0
        if name == TCP_LINGER2:
            if number:
                self.tcp[name] = -1 if number < 0 else min(number, 120)
            else:
                self.tcp.pop(name, None)
            return 0
        if name == TCP_DEFER_ACCEPT:
            self.tcp[name] = defer_seconds(number)
            return 0
        if name == TCP_WINDOW_CLAMP:
            if number == 0:
                if self.state != TCP_CLOSE:
                    return -EINVAL
                self.tcp[name] = 0
            else:
                self.tcp[name] = max(number, 1152)
            return 0
        if name == TCP_FASTOPEN:
            if number < 0 or self.state not in (TCP_CLOSE, TCP_LISTEN):
                return -EINVAL
            self.tcp[name] = number
            return 0
        if name == TCP_NOTSENT_LOWAT:
            self.tcp[name] = number
            return 0
        if name == TCP_THIN_DUPACK:
            return 0 if number in (0, 1) else -EINVAL
        if name in (TCP_REPAIR_QUEUE, TCP_REPAIR_WINDOW):
            return -EPERM
        if name in (TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS):
            return -EINVAL
        if name == TCP_REPAIR:
            return -EPERM if not self.has_capability(ctx, CAP_NET_ADMIN) else -EOPNOTSUPP
        if name == TCP_TIMESTAMP:
            return -EPERM
        if name == TCP_TX_DELAY:
            self.tcp[name] = number
            return 0
        return -ENOPROTOOPT

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level != IPPROTO_TCP:
            raise self.no_such_level()
        if name == TCP_INFO:
            return self.info_bytes()
        if name == TCP_CONGESTION:
            return self.congestion.ljust(16, b"\0")
        if name in (TCP_ULP, TCP_CC_INFO, TCP_SAVED_SYN, TCP_FASTOPEN_KEY):
            return b""
        limits = _RANGES.get(name)
        if limits is not None:
            default = limits[2]
            parameter = _DEFAULTS.get(name)
            if parameter is not None:
                default = self.parameter(parameter)
            return _I32.pack(self.tcp.get(name, default))
        if name == TCP_MAXSEG:
            is_live = self.state not in (TCP_CLOSE, TCP_LISTEN)
            number = _LO_MSS if is_live else self.tcp.get(name, 536) or 536
        elif name == TCP_QUICKACK:
            number = self.tcp.get(name, 1)
        elif name == TCP_LINGER2:
            number = self.tcp.get(name, self.parameter("ipv4/tcp_fin_timeout"))
        elif name == TCP_NOTSENT_LOWAT:
            number = self.tcp.get(name, 0)
        elif name == TCP_TIMESTAMP:
            number = monotonic_ns() // 1_000_000 & 0x7FFFFFFF
        elif name in _BOOLEANS or name in (
            TCP_DEFER_ACCEPT,
            TCP_WINDOW_CLAMP,
            TCP_FASTOPEN,
            TCP_THIN_DUPACK,
            TCP_TX_DELAY,
        ):
            number = self.tcp.get(name, 0)
        elif name == TCP_REPAIR:
            number = 0
        else:
            raise LinuxError(ENOPROTOOPT)
        return _I32.pack(number)

    def info_bytes(self) -> bytes:
        """struct tcp_info as far as tcpi_segs_in; the rest is zero."""
        state = self.state
        is_live = self.peer is not None or self.syn_acked or self.bytes_sent or self.bytes_received
        head = [state, 0, 0, 0, 0, 7 if is_live else 0, 0x77 if is_live else 0, 0]
        words = [0] * 24
        words[18] = 10  # cwnd
        words[20] = 3  # reordering
        longs = [0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0, 0]
        if state == TCP_LISTEN:
            words[4] = len(self.accept_queue)  # unacked
            words[5] = self.backlog  # sacked
            return _INFO.pack(*head, *words, *longs, 0, 0, 0, 0).ljust(248, b"\0")
        words[0] = 200_000 if is_live else 1_000_000  # rto
        words[1] = 40_000 if is_live else 0  # ato
        words[2] = _LO_MSS if is_live else 536
        words[3] = 536 if is_live else 0
        words[13] = 65535 if is_live else 0  # pmtu
        words[15] = 30 if is_live else 0  # rtt
        words[16] = 15 if is_live else 250_000
        words[17] = 0x7FFFFFFF
        words[19] = _LO_MSS if is_live else 536
        words[22] = 65536 if is_live else 0
        # What has arrived is acknowledged at once; SYN and FIN count as a byte each.
        longs[2] = self.bytes_sent + self.syn_acked + self.fin_sent
        longs[3] = self.bytes_received + self.fin_seen
        found = _INFO.pack(*head, *words, *longs, 0, 0, len(self.unsent), 30 if is_live else 0).ljust(
            200, b"\0"
        )
        return (found + self.bytes_sent.to_bytes(8, "little")).ljust(248, b"\0")


POLLOUT_BITS: Final = OUT_EVENTS & ~0x200  # POLLOUT | POLLWRNORM; sk_stream has no band


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


class _FreeTuple(TupleTest):
    """Whether a port is free for a connection from `source` to `end`."""

    def __init__(self, stack: NetStack, source: bytes, end: Endpoint) -> None:
        self.stack: NetStack = stack
        self.source: bytes = source
        self.end: Endpoint = end

    def is_free(self, port: int) -> bool:
        end = self.end
        return (self.source, port, end.addr, end.port) not in self.stack.tuples


def defer_seconds(seconds: int) -> int:
    """TCP_DEFER_ACCEPT as Linux shows it again: whole retransmissions of 1, 3, 7 … seconds."""
    if seconds <= 0:
        return 0
    total, step, count = 1, 1, 1
    while seconds > total and count < 255:
        count += 1
        step = min(step << 1, 120)
        total += step
    return total


def find_listener(stack: NetStack, addr: bytes, port: int) -> TcpSocket | None:
    """The listener that a SYN reaches: the most specific one, of a SO_REUSEPORT group any."""
    found = stack.listeners.get(port)
    if not found:
        return None
    best: list[TcpSocket] = []
    best_score = 0
    for sock in found:
        assert isinstance(sock, TcpSocket)
        score = 0
        if sock.laddr == addr:
            score = 4
        elif is_any(sock.laddr):
            if len(addr) == len(sock.laddr):
                score = 2
            elif len(addr) == 4 and not sock.is_v6_only:
                score = 1
        if score == 0 or (sock.bound_ifindex and sock.bound_ifindex != LO_INDEX):
            continue
        if score > best_score:
            best_score = score
            best = [sock]
        elif score == best_score:
            best.append(sock)
    if not best:
        return None
    if len(best) == 1:
        return best[0]
    return best[monotonic_ns() // 1000 % len(best)]


def establish(ctx: Context, client: TcpSocket, listener: TcpSocket) -> None:
    """Complete the handshake: the server's end goes into the accept queue."""
    server = TcpSocket(client.kernel, ctx, listener.family, 0)
    server.inherit(listener)
    server.is_waiting = True
    server.laddr, server.lport = client.raddr, client.rport
    server.raddr, server.rport = client.laddr, client.lport
    server.is_addr_bound = True
    hold = server.new_hold(server.laddr, server.lport)
    server.hold = hold
    server.stack.tcp.insert(hold)
    connect_ends(client, server)
    if listener.tcp.get(TCP_DEFER_ACCEPT, 0):
        listener.deferred[server] = None
        server.listener = listener
        return
    listener.accept_queue.append(server)
    listener.queue.wake(IN_WAKE)


def connect_ends(a: TcpSocket, b: TcpSocket) -> None:
    """Both ends are ESTABLISHED."""
    a.peer, b.peer = b, a
    a.syn_acked = 1
    a.stack.count("TcpActiveOpens")
    if a.stack.taps:
        show_segment(a, b, 0, packets.TCP_SYN)
        show_segment(b, a, 0, packets.TCP_SYN | packets.TCP_ACK)
        show_segment(a, b, 1, packets.TCP_ACK)
    for end in (a, b):
        if end.timer is not None:
            end.timer.cancel()
            end.timer = None
        end.state = TCP_ESTABLISHED
        end.phase = CONNECTED if end is b and a is not b else end.phase
        end.stack.tuples[(end.laddr, end.lport, end.raddr, end.rport)] = end
        if not end.is_sndbuf_set:
            end.sndbuf = SNDBUF_LOOPBACK
    a.queue.wake(STATE_WAKE)


# -- for those who listen in -------------------------------------------------------------------------------------
def show_segment(one: TcpSocket, other: TcpSocket, offset: int, flags: int, data: bytes = b"") -> None:
    """A segment from one end to the other, `offset` after the initial sequence number."""
    first, theirs = one.inode.ino * 0x9E3779B1, other.inode.ino * 0x9E3779B1
    ack = theirs + 1 + other.bytes_sent + one.fin_seen
    window = one.rcvbuf - one.rx_bytes >> 7
    one.stack.pass_packet(
        packets.tcp(
            one.laddr, one.lport, one.raddr, one.rport, first + offset, ack, flags, max(window, 0), data
        )
    )


def show_data(one: TcpSocket, other: TcpSocket, count: int) -> None:
    """The last `count` bytes of the other end's queue, in segments, and their acknowledgement."""
    pieces: list[bytes] = []
    left = count
    for piece in reversed(other.rx):
        if left <= 0:
            break
        pieces.append(piece[-left:] if len(piece) > left else piece)
        left -= len(piece)
    data = b"".join(reversed(pieces))
    offset = 1 + one.bytes_sent
    for at in range(0, len(data), _LO_MSS):
        flags = packets.TCP_ACK | (packets.TCP_PSH if at + _LO_MSS >= len(data) else 0)
        show_segment(one, other, offset + at, flags, data[at : at + _LO_MSS])
    one.bytes_sent += count
    show_segment(other, one, 1 + other.bytes_sent, packets.TCP_ACK)
    one.bytes_sent -= count


def show_fin(one: TcpSocket, other: TcpSocket) -> None:
    """A FIN and its acknowledgement."""
    show_segment(one, other, 1 + one.bytes_sent, packets.TCP_FIN | packets.TCP_ACK)
    one.bytes_sent += 1
    show_segment(other, one, 1 + other.bytes_sent, packets.TCP_ACK)
    one.bytes_sent -= 1


def show_refusal(one: TcpSocket) -> None:
    """A SYN to a port where nobody listens, and the RST that answers it."""
    first = one.inode.ino * 0x9E3779B1
    here, there = (one.laddr, one.lport), (one.raddr, one.rport)
    one.stack.pass_packet(packets.tcp(*here, *there, first, 0, packets.TCP_SYN, 0xFFFF, b""))
    flags = packets.TCP_RST | packets.TCP_ACK
    one.stack.pass_packet(packets.tcp(*there, *here, 0, first + 1, flags, 0, b""))
