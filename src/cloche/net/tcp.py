"""TCP between sockets of the sandbox (tcp(7), net/ipv4/tcp.c): the states that programs can see, without packets.

The two ends of a connection refer to each other: what one sends is appended to the other's receive queue, a FIN or RST
is a call. Linux processes loopback packets before the system call that sent them returns, so programs on Linux see
their effects at the same moment.

States: a closed end that was not yet closed by the other stays FIN_WAIT2; TIME_WAIT is only a claim to the port
(net.ports).
"""

from collections import deque
from typing import Final

from cloche.abi.errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    EALREADY,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
    ENOTCONN,
    EPIPE,
    ETIMEDOUT,
    LinuxError,
)
from cloche.abi.poll import POLLRDHUP
from cloche.abi.socket import AF_UNSPEC
from cloche.abi.tcp import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_LINGER2,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TCP_SYNCNT,
    TCP_USER_TIMEOUT,
)
from cloche.kernel.task import Kernel
from cloche.kernel.timers import TCP_DEFER, TCP_SYN, monotonic_ns
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net import packets
from cloche.net.inet_addr import LO_INDEX, Endpoint, encode, is_any, is_broadcast, is_multicast
from cloche.net.inet_base import NetStack
from cloche.net.ports import Hold, TupleTest
from cloche.net.socket import (
    IN_WAKE,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    STATE_WAKE,
    SocketFile,
    how_mask,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp_stream import SNDBUF_LOOPBACK, TcpStream
from cloche.net.tcp_taps import show_fin, show_refusal, show_segment
from cloche.net.ucred import Ucred
from cloche.vfs.objects import Context

UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3  # shut down before the connection was established, or after it failed


class TcpSocket(TcpStream):
    """A TCP socket, or an end of a connection that was not accepted yet."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.phase: int = UNCONNECTED
        self.accept_queue: deque[TcpSocket] = deque()
        self.syn_queue: deque[TcpSocket] = deque()  # connectors that wait for room in the backlog
        self.deferred: dict[TcpSocket, None] = {}  # connections without data yet (TCP_DEFER_ACCEPT)
        self.is_waiting: bool = False  # in the accept queue
        self.orphaned_hold: Hold | None = None  # of a closed socket whose peer has not closed yet

    def waiting_connections(self) -> int:
        return len(self.accept_queue)

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
                self.ports().remember(self.hold)
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
        """Establish the connections that waited for room in the backlog."""
        while self.syn_queue and len(self.accept_queue) <= self.backlog:
            waiting = self.syn_queue.popleft()
            waiting.listener = None
            if waiting.state == TCP_SYN_SENT:
                waiting.enter(ctx, self)
                waiting.queue.wake(STATE_WAKE)

    def enter(self, ctx: Context, listener: "TcpSocket") -> None:
        """Establish the connection: there is room in the backlog of `listener`."""
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
        source = self.source_to(end.addr)
        if not is_any(self.laddr):
            source = self.laddr
        if len(source) != len(end.addr):
            raise LinuxError(EINVAL)
        if not self.has_port():
            self.take_shared_port(source, FreeTuple(stack, source, end))
        elif (source, self.lport, end.addr, end.port) in stack.tuples:
            raise LinuxError(EADDRNOTAVAIL)
        self.laddr = source
        if self.hold is not None:
            self.hold.addr = source
        self.raddr, self.rport = end.addr, end.port
        self.state = TCP_SYN_SENT
        self.error = 0
        if (stack.lo.routes.rows or self.bound_ifindex) and not stack.lo.is_local(end.addr):
            self._start_syn_timer()  # a route leads to lo, but the address is not local: no answer comes
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
        """Start the timer that gives a SYN up which is not answered."""
        limit_ms = self.tcp.get(TCP_USER_TIMEOUT, 0)
        retries = self.tcp.get(TCP_SYNCNT, self.parameter("ipv4/tcp_syn_retries"))
        # After 1, 2, 4 … seconds, from some point on two minutes.
        limit_s = (1 << min(retries, 6) + 1) - 1 + 120 * max(retries - 6, 0)
        limit_ns = limit_ms * 1_000_000 if limit_ms else limit_s * 1_000_000_000
        self.timer = self.kernel.timers.add(monotonic_ns() + limit_ns, TCP_SYN, self)

    def timer_due(self, kind: int, argument: int) -> None:
        super().timer_due(kind, argument)
        if kind == TCP_SYN:
            self._syn_expired()
        elif kind == TCP_DEFER:
            self._defer_expired()

    def _syn_expired(self) -> None:
        if self.state == TCP_SYN_SENT:
            self._leave_syn_queue()
            self.error = ETIMEDOUT
            self.done()

    def _leave_syn_queue(self) -> None:
        listener = self.listener
        self.listener = None
        if isinstance(listener, TcpSocket):
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
        """The other end has sent FIN."""
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
                # The port stays claimed in TIME_WAIT; a socket that is still open keeps its own claim, too.
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
        orphaned = self.orphaned_hold
        if orphaned is not None:
            self.orphaned_hold = None
            self.ports().drop(orphaned)
        listener = self.listener
        if isinstance(listener, TcpSocket) and self in listener.deferred:
            del listener.deferred[self]
            self.vanish()
            return
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

    def _defer_expired(self) -> None:
        """TCP_DEFER_ACCEPT: the last SYN-ACK is answered by an ACK, so the connection is accepted without data."""
        if self.listener is not None:
            self.listener.undefer(self)

    def vanish(self) -> None:
        """Forget a connection that its listener never accepted: the other end learns it when it sends."""
        self.listener = None
        self.is_released = True
        self.uncharge()
        self.stack.sockets.pop(self, None)
        self.done()
        self.peer = None

    def abort(self) -> None:
        """Send RST and end the connection."""
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

    def undefer(self, embryo: TcpStream) -> None:
        """TCP_DEFER_ACCEPT: data has come, so the connection may be accepted."""
        embryo.listener = None
        if embryo.timer is not None:
            embryo.timer.cancel()
            embryo.timer = None
        if isinstance(embryo, TcpSocket) and embryo in self.deferred:
            del self.deferred[embryo]
            self.accept_queue.append(embryo)
            self.queue.wake(IN_WAKE)

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
                peer = self.peer
                self._send_fin()
                if self.state == TCP_FIN_WAIT2:
                    self._leave_orphan(has_unread=peer is not None and peer.rx_bytes > 0)
        self.peer = None  # no cycles: the other end still refers to this one
        self.rx.clear()
        self.rx_bytes = 0
        self.account()
        self.drop_port()

    def _leave_orphan(self, *, has_unread: bool) -> None:
        """Keep the claim of a closed socket whose peer has not closed yet: for as long as TCP_LINGER2 gives the
        peer's FIN.
        """
        linger_s = self.tcp.get(TCP_LINGER2, self.parameter("ipv4/tcp_fin_timeout"))
        if linger_s < 0 and not has_unread:  # the FIN has been acknowledged already
            self.abort()
        elif self.hold is not None:
            self.orphaned_hold = self.hold
            self.ports().wait(self.hold, max(linger_s, 0) * 1_000_000_000)

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


class FreeTuple(TupleTest):
    """Whether a port is free for a connection from `source` to `end`."""

    def __init__(self, stack: NetStack, source: bytes, end: Endpoint) -> None:
        self.stack: NetStack = stack
        self.source: bytes = source
        self.end: Endpoint = end

    def is_free(self, port: int) -> bool:
        end = self.end
        return (self.source, port, end.addr, end.port) not in self.stack.tuples


def find_listener(stack: NetStack, addr: bytes, port: int) -> TcpSocket | None:
    """The listener that a SYN reaches: the most specific one, or any of a SO_REUSEPORT group."""
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
        limit_ns = listener.tcp[TCP_DEFER_ACCEPT] * 1_000_000_000
        server.timer = server.kernel.timers.add(monotonic_ns() + limit_ns, TCP_DEFER, server)
        return
    listener.accept_queue.append(server)
    listener.queue.wake(IN_WAKE)


def connect_ends(a: TcpSocket, b: TcpSocket) -> None:
    """Make both ends ESTABLISHED."""
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
