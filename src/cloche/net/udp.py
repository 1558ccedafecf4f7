"""UDP, ping sockets and raw sockets between sockets of the sandbox (udp(7), raw(7), icmp(7)).

Owns the delivery of datagrams.  A datagram to a port without a socket comes back as an ICMP error: ECONNREFUSED at
the next call of a connected sender, an entry of the error queue with IP_RECVERR.
"""

import time
from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EAFNOSUPPORT,
    EAGAIN,
    ECONNREFUSED,
    EDESTADDRREQ,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENETUNREACH,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.inet import (
    IP_MULTICAST_ALL,
    IP_MULTICAST_IF,
    IP_RECVERR,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    IPV6_AUTOFLOWLABEL,
    IPV6_FLOWINFO_FLOWLABEL,
    IPV6_FLOWINFO_SEND,
    IPV6_MULTICAST_IF,
    IPV6_RECVERR,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLRDHUP, POLLRDNORM
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    SOCK_DGRAM,
)
from cloche.abi.tcp import UDP_CORK, UDP_GRO, UDP_NO_CHECK6_RX, UDP_NO_CHECK6_TX, UDP_SEGMENT
from cloche.kernel.task import Kernel
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net import packets
from cloche.net.copying import copy_whole
from cloche.net.datagram import ALWAYS_FITS, Datagram, check_size, received_control, sent_control
from cloche.net.inet_addr import (
    ANY4,
    BROADCAST4,
    LO_INDEX,
    LOOPBACK4,
    Endpoint,
    decode,
    encode,
    is_any,
    is_broadcast,
    is_group,
    is_multicast,
)
from cloche.net.inet_base import InetSocket, NetStack, QueuedError
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    STATE_WAKE,
    Incoming,
    Outgoing,
    how_mask,
    small_head_bytes,
)
from cloche.vfs.objects import Context

SIOCOUTQ: Final = 0x5411
MAX_UDP: Final = 65507
_I32: Final = Struct("<i")
_PKTINFO: Final = Struct("<i4s4s")
_SOL_UDP: Final = 17
_ENCAP: Final = 100  # UDP_ENCAP: there is none
_SEND_CSCOV: Final = 10  # UDPLITE_SEND_CSCOV
_RECV_CSCOV: Final = 11


class DatagramSocket(InetSocket):
    """The base of UDP, ping and raw sockets: a queue of messages, connect, and the control messages of IP."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        self.inbox: deque[Datagram] = deque()
        self.charged: int = 0
        self.drops: int = 0
        self.flow_label: int = 0  # of the connection, of IPv6
        self.is_connected: bool = False

    def is_active(self) -> bool:
        return self.is_connected

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        if len(addr) < 2:
            return -EINVAL
        if addr[0] | addr[1] << 8 == AF_UNSPEC:
            self.is_connected = False
            self.raddr, self.rport = bytes(len(self.raddr)), 0
            if not self.is_addr_bound:
                self.laddr = bytes(4 if self.family == AF_INET else 16)
                if self.hold is not None:
                    self.hold.addr = self.laddr
            if not self.is_port_bound and self.has_ports():
                self.drop_port()
            return 0
        if self.has_ports():
            self.autobind()
        if self.family == AF_INET6 and addr[0] == AF_INET and addr[1] == 0:
            if self.is_v6_only:
                return -EAFNOSUPPORT
            end = decode(AF_INET, addr)
            if is_any(end.addr):
                end.addr = LOOPBACK4
        else:
            end = self.decode_peer(addr)
        source = self.source_of(end)
        if is_any(self.laddr):
            self.laddr = source
            if self.hold is not None:
                self.hold.addr = source
        self.raddr, self.rport = end.addr, end.port
        self.flow_label = self._asked_label(end)
        self.is_connected = True
        return 0

    def has_ports(self) -> bool:
        """Whether the protocol has ports of the port table."""
        return self.kind == SOCK_DGRAM and self.protocol in (IPPROTO_UDP, IPPROTO_UDPLITE)

    def peer_name(self) -> bytes:
        if not self.is_connected or self.rport == 0:
            raise LinuxError(ENOTCONN)
        return encode(self.family, self.raddr, self.rport)

    def source_of(self, end: Endpoint) -> bytes:
        """The source address for a destination; checks that it can be reached.  Raises LinuxError."""
        addr = end.addr
        if is_broadcast(addr):
            if not self.is_broadcast:
                raise LinuxError(EACCES)  # as with a default route, which programs expect
            if addr == BROADCAST4 and self.bound_ifindex != LO_INDEX:
                raise LinuxError(ENETUNREACH)
            return ANY4 if addr == BROADCAST4 else LOOPBACK4
        if is_multicast(addr):
            if not self._multicast_device(addr, end.scope):
                raise LinuxError(ENETUNREACH)
            if not is_any(self.laddr):
                return self.laddr
            return LOOPBACK4 if len(addr) == 4 else bytes(15) + b"\1"
        source = self.source_to(addr)
        mine = self.laddr
        return source if is_any(mine) or len(mine) != len(addr) or is_group(mine) else mine

    def _multicast_device(self, addr: bytes, scope: int) -> bool:
        if self.bound_ifindex == LO_INDEX or scope == LO_INDEX:
            return True
        if self.is_connected and is_group(self.laddr):
            return True  # its own address is one of lo
        if len(addr) == 4:
            return self.ip.get(IP_MULTICAST_IF, 0) == LO_INDEX or (
                len(self.laddr) == 4 and not is_any(self.laddr) and self.stack.lo.is_local(self.laddr)
            )
        return self.ip6.get(IPV6_MULTICAST_IF, 0) == LO_INDEX

    def destination(self, out: Outgoing | None) -> Endpoint:
        """The destination of a message.  Raises LinuxError."""
        name = out.name if out is not None else None
        if not name:
            if not self.is_connected:
                raise LinuxError(EDESTADDRREQ)
            return Endpoint(self.raddr, self.rport, flowinfo=self.flow_label)
        if len(name) >= 2 and name[0] == AF_UNSPEC and name[1] == 0 and self.family == AF_INET:
            name = b"\2\0" + name[2:]
        if self.family == AF_INET6 and len(name) >= 16 and name[0] == AF_INET and name[1] == 0:
            if self.is_v6_only:
                raise LinuxError(ENETUNREACH)
            end = decode(AF_INET, name)
            if is_any(end.addr):
                end.addr = LOOPBACK4
            return end
        end = self.decode_peer(name)
        end.flowinfo = self._asked_label(end)
        return end

    def _asked_label(self, end: Endpoint) -> int:
        """The flow label of an address that the program gave; 0 unless the program has set IPV6_FLOWINFO_SEND."""
        return end.flowinfo & IPV6_FLOWINFO_FLOWLABEL if self.ip6.get(IPV6_FLOWINFO_SEND, 0) else 0

    def auto_label(self, end: Endpoint) -> int:
        """The label of a flow without one (ip6_make_flowlabel): arbitrary, but the same each time."""
        if not self.ip6.get(IPV6_AUTOFLOWLABEL, 1):
            return 0
        return (self.lport * 0x9E3779B1 ^ end.port * 0x85EBCA6B) & IPV6_FLOWINFO_FLOWLABEL or 1

    # -- receiving ---------------------------------------------------------------------------------------
    def deliver(self, gram: Datagram) -> None:
        """Queue a message unless the receive buffer is full."""
        if self.filter_program is not None and not self.is_kept(gram):
            self.drops += 1
            return
        charge = self.charge_of(gram)
        if (self.is_full(charge) and self.inbox) or not KERNEL_MEMORY.has_room(0):
            self.drops += 1
            self.stack.count("UdpRcvbufErrors")
            return
        headers = len(gram.hop_options) + len(gram.dest_options)
        more = len(gram.data) + headers + 2 * BUFFER_BYTES - gram.held
        KERNEL_MEMORY.take(more)
        gram.held += more
        if self.wants_time:
            gram.time_ns = time.time_ns()
        gram.charge = charge
        self.charged += charge
        self.inbox.append(gram)
        self.queue.wake(IN_WAKE)

    def arrived(self, gram: Datagram) -> None:
        """Take a message from a namespace of the host (`net.joined`)."""
        self.deliver(gram)

    def charge_of(self, gram: Datagram) -> int:
        """The bytes that a message counts in the receive buffer, with its headers."""
        return small_head_bytes(len(gram.data) + (64 if len(gram.dest) == 4 else 76))

    def is_full(self, charge: int) -> bool:
        """Whether another message would exceed the receive buffer (__udp_enqueue_schedule_skb)."""
        return self.charged + charge > self.rcvbuf

    def is_kept(self, gram: Datagram) -> bool:
        """Ask the socket's filter, which may also cut the message."""
        program = self.filter_program
        assert program is not None
        head = b""
        if self.has_ports():
            head = packets.udp(gram.addr, gram.port, gram.dest, gram.dest_port, gram.data)[:8]
        protocol = 0x0800 if len(gram.dest) == 4 else 0x86DD
        kept = program.run(head + gram.data, protocol)
        if kept == 0:
            return False
        if kept < len(head) + len(gram.data):
            gram.data = gram.data[: max(kept - len(head), 0)]
        return True

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if flags & MSG_ERRQUEUE:
            return self.recv_error(dst, info)
        if flags & MSG_OOB and not self.has_ports():
            return -EOPNOTSUPP
        if self.error:
            return self.take_error()
        if not self.inbox:
            is_waiting = self.flags & O_NONBLOCK == 0 and flags & MSG_DONTWAIT == 0
            return 0 if self.shut & RCV_SHUTDOWN and is_waiting else -EAGAIN
        is_peek = flags & MSG_PEEK != 0
        gram = self.inbox[0]
        data = gram.data
        size = len(data)
        skip = min(max(self.peek_offset, 0), size) if is_peek else 0
        room = dst.remaining()
        left = size - skip
        copied = 0
        if room and left:
            piece = data[skip : skip + room] if skip or left > room else data
            if not copy_whole(dst, piece):
                if not is_peek:
                    self._take(gram)
                raise LinuxError(EFAULT)
            copied = len(piece)
        if info is not None:
            info.name = encode(self.family, gram.addr, gram.port)
            if copied < left:
                info.flags |= MSG_TRUNC
            received_control(self, gram, info)
        if is_peek:
            if self.peek_offset >= 0:
                self.peek_offset += copied
        else:
            self._take(gram)
        return left if flags & MSG_TRUNC else copied

    def _take(self, gram: Datagram) -> None:
        """Remove the first message from the queue."""
        self.inbox.popleft()
        self.charged -= gram.charge
        if self.peek_offset > 0:
            self.peek_offset = max(self.peek_offset - len(gram.data), 0)

    def unreachable(self, gram: Datagram) -> None:
        """Report an error to the socket that `gram` can have come from: no socket has the port that it went to."""
        if self.is_connected and (self.raddr != gram.dest or self.rport not in (0, gram.dest_port)):
            return
        if is_group(self.laddr):
            return
        is_v4 = len(gram.dest) == 4
        wants = self.ip.get(IP_RECVERR, 0) if is_v4 else self.ip6.get(IPV6_RECVERR, 0)
        if wants and len(self.errors) < 64:
            self.errors.append(
                QueuedError(
                    ECONNREFUSED,
                    2 if is_v4 else 3,
                    3 if is_v4 else 1,
                    3 if is_v4 else 4,
                    gram.dest,
                    gram.dest_port,
                    gram.data,
                )
            )
        if wants or self.is_connected:
            self.error = ECONNREFUSED
            self.queue.wake(STATE_WAKE)

    # -- the rest ----------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        mask = OUT_EVENTS
        if self.error or self.errors:
            mask |= POLLERR
        shut = self.shut
        if shut & RCV_SHUTDOWN:
            mask |= POLLRDHUP | POLLIN | POLLRDNORM
        if shut == SHUTDOWN_MASK:
            mask |= POLLHUP
        if self.inbox:
            mask |= IN_EVENTS
        return mask

    def shutdown(self, ctx: Context, how: int) -> int:
        """Shut down as Linux does, which still returns ENOTCONN unless the socket is connected."""
        self.shut |= how_mask(how)
        self.queue.wake(STATE_WAKE)
        return 0 if self.is_connected else -ENOTCONN

    def set_peek_offset(self, value: int) -> int:
        if not self.has_ports():
            return -EOPNOTSUPP
        self.peek_offset = value
        return 0

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == FIONREAD:
            ctx.user_memory().write_i32(arg, len(self.inbox[0].data) if self.inbox else 0)
            return 0
        if command == SIOCOUTQ:
            ctx.user_memory().write_i32(arg, 0)
            return 0
        return super().ioctl(ctx, command, arg)

    def release(self) -> None:
        self.inbox.clear()
        super().release()


class UdpSocket(DatagramSocket):
    """SOCK_DGRAM over IPPROTO_UDP or IPPROTO_UDPLITE (udplite(7)), which differ in their ports."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, flags: int, protocol: int = IPPROTO_UDP
    ) -> None:
        super().__init__(kernel, ctx, family, SOCK_DGRAM, protocol, flags)
        self.udp: dict[int, int] = {}
        self.pending: Datagram | None = None  # held back by UDP_CORK or MSG_MORE
        self.held_bytes: int = 0  # bytes that `pending` counts in the send buffer
        self.bound_port: int = 0

    def take_port(self, addr: bytes, port: int) -> None:
        super().take_port(addr, port)
        udp_bound(self)

    def source_to(self, dest: bytes) -> bytes:
        if self.stack.gateway is not None and self.protocol == IPPROTO_UDP:
            gateway = self.gateway_to(dest)
            if gateway is not None:
                return gateway.source(dest)
        return super().source_to(dest)

    def drop_port(self) -> None:
        gateway = self.stack.gateway
        if gateway is not None:
            gateway.forget(self)
        udp_unbound(self)
        super().drop_port()

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        length = src.remaining()
        if length > 0xFFFF and self.family == AF_INET:
            return -EMSGSIZE
        if self.lport == 0:
            self.autobind()
        if self.stack.gateway is not None:
            self.stack.gateway.note(ctx)
        if flags & MSG_OOB and self.family == AF_INET:
            return -EOPNOTSUPP
        if self.pending is not None:
            if flags & MSG_OOB and len(self.pending.dest) == 4:
                return -EOPNOTSUPP
            return self._append(self.pending, src, length, flags)
        end = self.destination(out)
        if flags & MSG_OOB and len(end.addr) == 4:  # IPv6 does not look at it
            return -EOPNOTSUPP
        has_name = out is not None and bool(out.name)
        if end.port == 0 and (has_name or (self.family == AF_INET6 and len(end.addr) == 4)):
            return -EINVAL
        source = self.source_of(end)
        gram = Datagram(b"", source, self.lport, end.addr, end.port)
        if len(end.addr) == 16:
            gram.flow_label = end.flowinfo
        segment = sent_control(ctx, self, out, gram) or self.udp.get(UDP_SEGMENT, 0)
        if len(end.addr) == 16 and not gram.flow_label:
            gram.flow_label = self.auto_label(end)
        if length > 0xFFFF and len(end.addr) == 4:
            return -EMSGSIZE
        if length > ALWAYS_FITS and not segment:
            check_size(self, gram, src, 8)
        if self.error:
            return self.take_error()
        if self.shut & SEND_SHUTDOWN:
            return -EPIPE
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            raise LinuxError(EFAULT)
        if flags & MSG_MORE or (self.udp and self.udp.get(UDP_CORK, 0)):
            gram.data = data
            self.pending = gram
            self.held_bytes = self.charge_of(gram)
            return length
        if segment and len(data) > segment:
            for at in range(0, len(data), segment):
                piece = Datagram(data[at : at + segment], gram.addr, gram.port, gram.dest, gram.dest_port)
                piece.ttl, piece.tos, piece.flow_label = gram.ttl, gram.tos, gram.flow_label
                if gram.hop_options or gram.dest_options:
                    piece.take_headers(gram.hop_options, gram.dest_options)
                udp_deliver(self.stack, self, piece)
            return length
        if flags & MSG_ZEROCOPY:
            self.zero_copied()
        gram.data = data
        udp_deliver(self.stack, self, gram)
        return length

    def _append(self, gram: Datagram, src: IovIter, length: int, flags: int) -> int:
        """Append to the datagram that is held back; its destination stays the first one."""
        data = src.copy_from(length) if length else b""
        if len(data) < length or len(gram.data) + length > MAX_UDP:
            self.pending, self.held_bytes = None, 0
            return -EFAULT if len(data) < length else -EMSGSIZE
        gram.data += data
        self.held_bytes += length
        if not flags & MSG_MORE and not self.udp.get(UDP_CORK, 0):
            self.push()
        return length

    def push(self) -> None:
        """Send what was held back (udp_push_pending_frames)."""
        gram = self.pending
        if gram is not None:
            self.pending, self.held_bytes = None, 0
            udp_deliver(self.stack, self, gram)
            self.queue.wake(OUT_EVENTS)

    def poll(self, ctx: Context) -> int:
        mask = super().poll(ctx)
        if self.held_bytes and self.held_bytes >= self.sndbuf >> 1:  # sock_writeable
            mask &= ~OUT_EVENTS
        return mask

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == SIOCOUTQ:
            ctx.user_memory().write_i32(arg, self.held_bytes)
            return 0
        return super().ioctl(ctx, command, arg)

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level != self.protocol:
            return -ENOPROTOOPT
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name in (_SEND_CSCOV, _RECV_CSCOV) and level == IPPROTO_UDPLITE:
            # At least the header, at most what 16 bits hold (udp_lib_setsockopt).
            number = 8 if 0 < number < 8 else min(number & 0xFFFFFFFF, 0xFFFF)
        elif name == UDP_SEGMENT:
            if not 0 <= number <= 0xFFFF:
                return -EINVAL
        elif name == _ENCAP and number == 0:
            return 0
        elif name in (UDP_CORK, UDP_GRO, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX):
            number = int(number != 0)
        else:
            return -ENOPROTOOPT
        self.udp[name] = number
        if name == UDP_CORK and not number:
            self.push()
        return 0

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level != self.protocol:
            raise self.no_such_level()
        if length < 0:
            raise LinuxError(EINVAL)
        if name == _ENCAP:
            return bytes(4)
        if name in (_SEND_CSCOV, _RECV_CSCOV):
            return _I32.pack(self.udp.get(name, 0))
        if name not in (
            UDP_SEGMENT,
            UDP_CORK,
            UDP_GRO,
            UDP_NO_CHECK6_TX,
            UDP_NO_CHECK6_RX,
        ):
            raise LinuxError(ENOPROTOOPT)
        return _I32.pack(self.udp.get(name, 0))


def by_port_of(sock: UdpSocket) -> dict[int, list[InetSocket]]:
    """The bound sockets of a socket's protocol."""
    return sock.stack.udplite_sockets if sock.protocol == IPPROTO_UDPLITE else sock.stack.udp_sockets


def udp_bound(sock: UdpSocket) -> None:
    """Enter a socket that has got a port."""
    sock.bound_port = sock.lport
    by_port_of(sock).setdefault(sock.lport, []).append(sock)


def udp_unbound(sock: UdpSocket) -> None:
    """Remove a socket that gives its port back."""
    by_port = by_port_of(sock)
    found = by_port.get(sock.bound_port)
    if found is not None and sock in found:
        found.remove(sock)
        if not found:
            del by_port[sock.bound_port]
    sock.bound_port = 0


def udp_deliver(stack: NetStack, sender: UdpSocket, gram: Datagram) -> None:
    """Deliver a datagram to the socket, or the members of the group, that it is for."""
    if stack.gateway is not None and sender.protocol == IPPROTO_UDP:
        gateway = sender.gateway_to(gram.dest)
        if gateway is not None:
            gateway.send_datagram(sender, gram.data, gram.addr, gram.dest, gram.dest_port)
            return
    if (gram.hop_options or gram.dest_options) and not gram.is_accepted():
        return
    stack.lo.packets += 1
    stack.lo.bytes += len(gram.data) + 28
    if stack.taps:
        pass_udp(stack, gram, sender.protocol)
    found: list[UdpSocket] = []
    for sock in by_port_of(sender).get(gram.dest_port, []):
        assert isinstance(sock, UdpSocket)
        found.append(sock)
    if is_multicast(gram.dest) or is_broadcast(gram.dest):
        # Independent of IP_MULTICAST_LOOP: lo receives all that it sends.
        _deliver_group(found, gram)
        return
    is_foreign = bool(stack.lo.routes.rows or sender.bound_ifindex) and not stack.lo.is_local(gram.dest)
    if is_foreign and len(gram.dest) == 16:
        return  # a route leads to lo, where IPv6 drops packets to addresses that are not local
    target = udp_lookup(found, gram.dest, gram.addr, gram.port)
    if target is None:
        stack.count("UdpNoPorts")
        if is_foreign:
            return
        if stack.taps:
            pass_port_unreachable(stack, gram, sender.protocol)
        sender.unreachable(gram)
        return
    target.deliver(gram)


def udp_arrive(stack: NetStack, gram: Datagram) -> None:
    """Deliver a datagram that came as a packet."""
    found: list[UdpSocket] = []
    for sock in stack.udp_sockets.get(gram.dest_port, []):
        assert isinstance(sock, UdpSocket)
        found.append(sock)
    target = udp_lookup(found, gram.dest, gram.addr, gram.port)
    if target is not None:
        target.deliver(gram)


def _deliver_group(found: list[UdpSocket], gram: Datagram) -> None:
    joined = any(_hears(sock, gram) for sock in found)
    for sock in found:
        if len(gram.dest) == 4 and sock.family == AF_INET6 and sock.is_v6_only:
            continue
        if len(gram.dest) == 16 and sock.family == AF_INET:
            continue
        if not is_any(sock.laddr) and sock.laddr != gram.dest:
            continue
        if sock.is_connected and (sock.raddr != gram.addr or sock.rport != gram.port):
            continue
        if gram.dest in sock.groups:
            if not _hears(sock, gram):
                continue
        elif is_multicast(gram.dest):
            if not (joined and sock.ip.get(IP_MULTICAST_ALL, int(sock.family == AF_INET))):
                continue
        copy = Datagram(gram.data, gram.addr, gram.port, gram.dest, gram.dest_port)
        copy.ttl, copy.tos, copy.flow_label = gram.ttl, gram.tos, gram.flow_label
        if gram.hop_options or gram.dest_options:
            copy.take_headers(gram.hop_options, gram.dest_options)
        sock.deliver(copy)


def _hears(sock: UdpSocket, gram: Datagram) -> bool:
    """Whether a socket has joined the group for this source (ip_mc_sf_allow)."""
    found = sock.groups.get(gram.dest)
    return found is not None and found.passes(gram.addr)


def udp_lookup(found: list[UdpSocket], dest: bytes, addr: bytes, port: int) -> UdpSocket | None:
    """The socket that matches best: connected before bound before wildcard."""
    best: list[UdpSocket] = []
    best_score = 0
    for sock in found:
        score = 1
        if is_any(sock.laddr):
            if len(sock.laddr) != len(dest):
                if len(dest) == 16 or sock.is_v6_only:
                    continue
            else:
                score += 1
        elif sock.laddr == dest:
            score += 4
        else:
            continue
        if sock.is_connected:
            if sock.raddr != addr or sock.rport not in (0, port):
                continue
            score += 8 if sock.rport else 4
        if score > best_score:
            best_score = score
            best = [sock]
        elif score == best_score:
            best.append(sock)
    if not best:
        return None
    if len(best) > 1 and best[0].does_reuse_port:
        return best[port % len(best)]
    # Without SO_REUSEPORT the socket that was bound last is found first.
    return best[len(best) - 1]


def pass_udp(stack: NetStack, gram: Datagram, protocol: int) -> None:
    """Show a datagram to `NetStack.taps`."""
    data = packets.udp(gram.addr, gram.port, gram.dest, gram.dest_port, gram.data)
    stack.pass_packet(packets.ip(protocol, gram.addr, gram.dest, data, gram.ttl, gram.tos))


def pass_port_unreachable(stack: NetStack, gram: Datagram, protocol: int) -> None:
    """Show the ICMP error that a datagram without a receiver causes to `NetStack.taps`."""
    data = packets.udp(gram.addr, gram.port, gram.dest, gram.dest_port, gram.data)
    cause = packets.ip(protocol, gram.addr, gram.dest, data, gram.ttl, gram.tos)
    if len(gram.dest) == 4:
        error = packets.icmp(3, 3, bytes(4) + cause.data[:548])
        packet = packets.ip(IPPROTO_ICMP, gram.dest, gram.addr, error, 64, 0xC0, is_whole=False)
    else:
        error = packets.icmp6(gram.dest, gram.addr, bytes([1, 4]) + bytes(6) + cause.data[:1184])
        packet = packets.ip(IPPROTO_ICMPV6, gram.dest, gram.addr, error, 64, 0)
    stack.pass_packet(packet)
