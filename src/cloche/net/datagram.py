"""Datagrams of UDP, ping and raw sockets, and the control messages that go with them (ip_cmsg_send, ip_cmsg_recv,
ip6_datagram_send_ctl, ip6_datagram_recv_ctl).
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_RAW
from cloche.abi.errno import EINVAL, EMSGSIZE, ENODEV, EPERM, LinuxError
from cloche.abi.inet import (
    IP_MTU_DISCOVER,
    IP_MULTICAST_TTL,
    IP_PKTINFO,
    IP_PMTUDISC_DO,
    IP_PMTUDISC_OMIT,
    IP_PMTUDISC_PROBE,
    IP_PROTOCOL,
    IP_RECVERR,
    IP_RECVORIGDSTADDR,
    IP_RECVTOS,
    IP_RECVTTL,
    IP_RETOPTS,
    IP_TOS,
    IP_TTL,
    IPPROTO_DSTOPTS,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    IPV6_2292DSTOPTS,
    IPV6_2292HOPLIMIT,
    IPV6_2292HOPOPTS,
    IPV6_2292PKTINFO,
    IPV6_DONTFRAG,
    IPV6_DSTOPTS,
    IPV6_FLOWINFO,
    IPV6_FLOWINFO_FLOWLABEL,
    IPV6_HOPLIMIT,
    IPV6_HOPOPTS,
    IPV6_MTU_DISCOVER,
    IPV6_PKTINFO,
    IPV6_RECVDSTOPTS,
    IPV6_RECVERR,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVHOPOPTS,
    IPV6_RECVORIGDSTADDR,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_RTHDRDSTOPTS,
    IPV6_TCLASS,
)
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    SO_EE_ORIGIN_ICMP,
    SO_EE_ORIGIN_LOCAL,
    SO_MARK,
    SO_PRIORITY,
    SO_RCVMARK,
    SO_RCVPRIORITY,
    SOL_SOCKET,
)
from cloche.abi.tcp import UDP_SEGMENT
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.control import socket_control
from cloche.net.inet_addr import (
    ANY4,
    ANY6,
    BROADCAST4,
    LO_INDEX,
    LOOPBACK4,
    encode,
    is_group,
    is_multicast,
    mapped,
    unmapped,
)
from cloche.net.inet_base import InetSocket, QueuedError
from cloche.net.option_headers import chained, is_accepted, sent_header
from cloche.net.socket import Incoming, Outgoing
from cloche.vfs.objects import Context

_I32: Final = Struct("<i")
_U16: Final = Struct("<H")
_PKTINFO: Final = Struct("<i4s4s")
ALWAYS_FITS: Final = 500  # bytes, whatever the MTU may be
_SOL_UDP: Final = 17
_IP_MAX: Final = 65535
_QUOTED: Final = 576 - 20 - 8  # bytes of a packet that an ICMP error about it quotes
_OPTION_HEADERS: Final = frozenset(
    {IPV6_HOPOPTS, IPV6_DSTOPTS, IPV6_RTHDRDSTOPTS, IPV6_2292HOPOPTS, IPV6_2292DSTOPTS}
)


class Datagram:
    """A message in a receive queue."""

    def __init__(self, data: bytes, addr: bytes, port: int, dest: bytes, dest_port: int) -> None:
        self.data: bytes = data
        self.addr: bytes = addr
        self.port: int = port
        self.dest: bytes = dest
        self.dest_port: int = dest_port
        self.ttl: int = 64
        self.tos: int = 0
        self.mark: int = 0
        self.priority: int = 0
        self.flow_label: int = 0  # of IPv6
        self.ifindex: int = LO_INDEX  # where it came in
        self.hop_options: bytes = b""  # IPv6 headers
        self.dest_options: bytes = b""
        self.charge: int = 0
        self.time_ns: int = 0
        self.held: int = len(data) + 2 * BUFFER_BYTES
        KERNEL_MEMORY.take(self.held)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)

    def take_headers(self, hop_options: bytes, dest_options: bytes) -> None:
        """Carry these headers of options."""
        more = len(hop_options) + len(dest_options)
        KERNEL_MEMORY.take(more)
        self.held += more
        self.hop_options, self.dest_options = hop_options, dest_options

    def is_accepted(self) -> bool:
        """Whether the receiving host knows the options in the headers; a host drops a datagram whose options it does
        not know.
        """
        return (not self.hop_options or is_accepted(self.hop_options, is_hop=True)) and (
            not self.dest_options or is_accepted(self.dest_options, is_hop=False)
        )


def sent_control(ctx: Context, sock: InetSocket, out: Outgoing | None, gram: Datagram) -> int:
    """Give `gram` the TTL, TOS, source, mark and priority of its sender and its control messages.

    The segment size of UDP_SEGMENT, or 0.  Raises LinuxError.
    """
    is_v4 = len(gram.dest) == 4
    gram.ttl = sock.ttl4() if is_v4 else sock.ttl()
    if is_multicast(gram.dest):
        gram.ttl = sock.ip.get(IP_MULTICAST_TTL, 1)
    gram.tos = sock.ip.get(IP_TOS, 0) if is_v4 else sock.ip6.get(IPV6_TCLASS, 0)
    gram.mark, gram.priority = sock.mark, sock.priority
    is_udp = sock.protocol in (IPPROTO_UDP, IPPROTO_UDPLITE)
    sticky = sock.sticky_headers if not is_v4 else None
    if out is None or not out.control:
        if sticky:
            _put_headers(sock, gram, sticky.get(IPV6_HOPOPTS, b""), sticky.get(IPV6_DSTOPTS, b""))
        return 0
    segment = 0
    if is_udp:
        for level, kind, data in out.control:
            if level == _SOL_UDP:
                if kind != UDP_SEGMENT or len(data) != 2:
                    raise LinuxError(EINVAL)
                segment = _U16.unpack(data)[0]
    socket_control(ctx, sock, out)
    if out.mark is not None:
        gram.mark = out.mark
    if out.priority is not None:
        gram.priority = out.priority
    hop = dest = b""
    has_headers = False
    for level, kind, data in out.control:
        if is_v4 and level == IPPROTO_IP:
            _send_control4(sock, kind, data, gram)
        elif is_v4 and level == IPPROTO_IPV6 and kind == IPV6_PKTINFO and sock.family == AF_INET6:
            if len(data) < 20 or len(unmapped(data[:16])) == 16:
                raise LinuxError(EINVAL)
            _send_from4(sock, data[12:16], _I32.unpack_from(data, 16)[0], gram)
        elif not is_v4 and level == IPPROTO_IPV6:
            if is_udp and kind in _OPTION_HEADERS:
                _check_header(ctx, sock, kind, data, hop)
                if kind in (IPV6_HOPOPTS, IPV6_2292HOPOPTS):
                    hop = sent_header(data)
                elif kind != IPV6_RTHDRDSTOPTS:  # which goes out with a routing header only
                    dest = sent_header(data)
                has_headers = True
            else:
                _send_control6(ctx, sock, kind, data, gram)
    if not has_headers and sticky:
        hop, dest = sticky.get(IPV6_HOPOPTS, b""), sticky.get(IPV6_DSTOPTS, b"")
    _put_headers(sock, gram, hop, dest)
    return segment


def _put_headers(sock: InetSocket, gram: Datagram, hop: bytes, dest: bytes) -> None:
    if hop or dest:
        following = IPPROTO_DSTOPTS if dest else sock.protocol
        gram.take_headers(chained(hop, following), chained(dest, sock.protocol))


def _check_header(ctx: Context, sock: InetSocket, kind: int, data: bytes, hop: bytes) -> None:
    """Raises LinuxError for a header of options that may not be sent."""
    if hop and kind in (IPV6_HOPOPTS, IPV6_2292HOPOPTS):
        raise LinuxError(EINVAL)
    sent_header(data)
    if not sock.has_capability(ctx, CAP_NET_RAW):
        raise LinuxError(EPERM)


def _send_control4(sock: InetSocket, kind: int, data: bytes, gram: Datagram) -> None:
    """One message at IPPROTO_IP."""
    if kind == IP_PKTINFO and len(data) == 12:
        _send_from4(sock, data[4:8], _I32.unpack_from(data, 0)[0], gram)
    elif kind == IP_TTL and len(data) == 4:
        value: int = _I32.unpack(data)[0]
        if not 1 <= value <= 255:
            raise LinuxError(EINVAL)
        gram.ttl = value
    elif kind == IP_TOS and len(data) in (1, 4):
        if any(data[1:]):
            raise LinuxError(EINVAL)
        gram.tos = data[0]
    elif kind == IP_PROTOCOL and len(data) == 4:
        if not 1 <= _I32.unpack(data)[0] <= 255:
            raise LinuxError(EINVAL)
    elif kind == IP_RETOPTS and len(data) <= 40 and not any(each > 1 for each in data):
        pass  # ends and no-operations; no other options are supported
    else:
        raise LinuxError(EINVAL)


def _send_from4(sock: InetSocket, source: bytes, index: int, gram: Datagram) -> None:
    """IP_PKTINFO: the source address and the interface."""
    if index and not sock.stack.lo.is_index(index):
        raise LinuxError(ENODEV)
    if source != ANY4:
        if not sock.stack.lo.is_local(source):
            raise LinuxError(EINVAL)
        gram.addr = source


def _send_control6(ctx: Context, sock: InetSocket, kind: int, data: bytes, gram: Datagram) -> None:
    """One message at IPPROTO_IPV6."""
    number: int = _I32.unpack_from(data, 0)[0] if len(data) >= 4 else 0
    if kind in (IPV6_PKTINFO, IPV6_2292PKTINFO):
        if len(data) < 20:
            raise LinuxError(EINVAL)
        index: int = _I32.unpack_from(data, 16)[0]
        if index and not sock.stack.lo.is_index(index):
            raise LinuxError(ENODEV)
        if data[:16] != ANY6:
            if not sock.stack.lo.can_bind(data[:16]):
                raise LinuxError(EINVAL)
            gram.addr = data[:16]
    elif kind in (IPV6_HOPLIMIT, IPV6_2292HOPLIMIT) and len(data) == 4 and -1 <= number <= 255:
        gram.ttl = number if number >= 0 else sock.ttl()
    elif kind == IPV6_TCLASS and len(data) == 4 and -1 <= number <= 255:
        gram.tos = number & 255  # -1 is not the default here
    elif kind == IPV6_DONTFRAG and len(data) == 4 and 0 <= number <= 1:
        pass
    elif kind == IPV6_FLOWINFO and len(data) >= 4:
        gram.flow_label = int.from_bytes(data[:4], "big") & IPV6_FLOWINFO_FLOWLABEL
    elif kind in _OPTION_HEADERS and not sock.has_capability(ctx, CAP_NET_RAW):
        raise LinuxError(EPERM if len(data) >= 2 and len(data) >= (data[1] + 1) * 8 else EINVAL)
    else:
        raise LinuxError(EINVAL)


def check_size(sock: InetSocket, gram: Datagram, src: IovIter, header_bytes: int) -> None:
    """Whether a message, all of `src`, goes out (ip_append_data, ip6_append_data).

    `header_bytes` is what the protocol puts before it.  Raises LinuxError(EMSGSIZE), with an entry of the error queue
    that says what would fit.
    """
    mtu = sock.stack.lo.mtu
    length = src.remaining()
    if len(gram.dest) == 4:
        total = length + header_bytes + 20
        if total <= min(mtu, _IP_MAX):
            return
        discover = sock.ip.get(IP_MTU_DISCOVER, 1)
        known = mtu if discover >= IP_PMTUDISC_PROBE else min(mtu, _IP_MAX)
        may_cut = discover < IP_PMTUDISC_DO or discover == IP_PMTUDISC_OMIT
        if total <= (_IP_MAX if may_cut else known) and discover != IP_PMTUDISC_PROBE:
            return
        if sock.ip.get(IP_RECVERR, 0):
            # It fails on its way, where IP's own limit is known
            if total <= known and discover == IP_PMTUDISC_PROBE:
                note = QueuedError(EMSGSIZE, SO_EE_ORIGIN_ICMP, 3, 4, gram.dest, gram.dest_port, b"")
                note.data = src.copy_from(_QUOTED - 20 - header_bytes)
                known = min(mtu, _IP_MAX)
            else:
                port = sock.rport if sock.is_active() else 0  # not that of the message
                note = QueuedError(EMSGSIZE, SO_EE_ORIGIN_LOCAL, 0, 0, gram.dest, port, b"")
            note.first = known
            sock.queue_error(note)
        raise LinuxError(EMSGSIZE)
    if length + header_bytes + 40 <= mtu:
        return
    discover = sock.ip6.get(IPV6_MTU_DISCOVER, 1)
    may_cut = discover < IP_PMTUDISC_DO or discover == IP_PMTUDISC_OMIT
    if may_cut and length + header_bytes <= _IP_MAX:
        return
    if sock.ip6.get(IPV6_RECVERR, 0):
        note = QueuedError(EMSGSIZE, SO_EE_ORIGIN_LOCAL, 0, 0, gram.dest, gram.dest_port, b"")
        note.first = mtu
        sock.queue_error(note)
    raise LinuxError(EMSGSIZE)


def received_control(sock: InetSocket, gram: Datagram, info: Incoming) -> None:
    """Add the control messages that a receiver has asked for."""
    if gram.time_ns:
        info.control.append((-1, sock.wants_time, gram.time_ns.to_bytes(8, "little")))
    if sock.other_options:
        if sock.other_options.get(SO_RCVMARK, 0):
            info.control.append((SOL_SOCKET, SO_MARK, _I32.pack(gram.mark)))
        if sock.other_options.get(SO_RCVPRIORITY, 0):
            info.control.append((SOL_SOCKET, SO_PRIORITY, _I32.pack(gram.priority)))
    if sock.ip and (sock.family == AF_INET or len(gram.dest) == 4):
        options = sock.ip
        if options.get(IP_PKTINFO, 0):
            local = gram.dest if not is_group(gram.dest) else LOOPBACK4
            if gram.dest == BROADCAST4:
                local = ANY4
            info.control.append(
                (IPPROTO_IP, IP_PKTINFO, _PKTINFO.pack(gram.ifindex, local[-4:], gram.dest[-4:]))
            )
        if options.get(IP_RECVTTL, 0):
            info.control.append((IPPROTO_IP, IP_TTL, _I32.pack(gram.ttl)))
        if options.get(IP_RECVTOS, 0):
            info.control.append((IPPROTO_IP, IP_TOS, bytes([gram.tos & 0xFF])))
        if options.get(IP_RECVORIGDSTADDR, 0):
            where = encode(AF_INET, gram.dest, gram.dest_port)
            info.control.append((IPPROTO_IP, IP_RECVORIGDSTADDR, where))
    if sock.ip6 and sock.family == AF_INET6:
        options = sock.ip6
        if options.get(IPV6_RECVPKTINFO, 0):
            value = mapped(gram.dest) + _I32.pack(gram.ifindex)
            info.control.append((IPPROTO_IPV6, IPV6_PKTINFO, value))
        if len(gram.dest) == 4:
            return
        if options.get(IPV6_2292PKTINFO, 0):
            value = mapped(gram.dest) + _I32.pack(gram.ifindex)
            info.control.append((IPPROTO_IPV6, IPV6_2292PKTINFO, value))
        if options.get(IPV6_2292HOPLIMIT, 0):
            info.control.append((IPPROTO_IPV6, IPV6_2292HOPLIMIT, _I32.pack(gram.ttl)))
        if options.get(IPV6_RECVHOPLIMIT, 0):
            info.control.append((IPPROTO_IPV6, IPV6_HOPLIMIT, _I32.pack(gram.ttl)))
        if options.get(IPV6_RECVTCLASS, 0):
            info.control.append((IPPROTO_IPV6, IPV6_TCLASS, _I32.pack(gram.tos)))
        if options.get(IPV6_FLOWINFO, 0) and gram.tos << 20 | gram.flow_label:
            flow = (gram.tos << 20 | gram.flow_label).to_bytes(4, "big")
            info.control.append((IPPROTO_IPV6, IPV6_FLOWINFO, flow))
        if gram.hop_options or gram.dest_options:
            received_headers(sock, gram, info)
        if options.get(IPV6_RECVORIGDSTADDR, 0):
            where = encode(AF_INET6, gram.dest, gram.dest_port)
            info.control.append((IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, where))


def received_headers(sock: InetSocket, gram: Datagram, info: Incoming) -> None:
    """Headers of options, in the old way (RFC 2292) too."""
    for is_old in (False, True):
        hop = IPV6_2292HOPOPTS if is_old else IPV6_HOPOPTS
        dest = IPV6_2292DSTOPTS if is_old else IPV6_DSTOPTS
        if gram.hop_options and sock.ip6.get(hop if is_old else IPV6_RECVHOPOPTS, 0):
            info.control.append((IPPROTO_IPV6, hop, gram.hop_options))
        if gram.dest_options and sock.ip6.get(dest if is_old else IPV6_RECVDSTOPTS, 0):
            info.control.append((IPPROTO_IPV6, dest, gram.dest_options))
