"""Ping and raw sockets (icmp(7), raw(7)): echoes on lo, and whole packets.

A raw socket is one of `NetStack.taps`: it sees every packet of its protocol.  What it sends is also received: echo
requests are answered, UDP datagrams go to their port.
"""

from typing import Final

from cloche.abi.errno import EFAULT, EINVAL, EMSGSIZE, ENOPROTOOPT, EOPNOTSUPP, LinuxError
from cloche.abi.icmp import ICMP_FILTER
from cloche.abi.inet import (
    IP_HDRINCL,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IPV6,
    IPPROTO_RAW,
    IPPROTO_UDP,
    IPV6_CHECKSUM,
)
from cloche.abi.socket import AF_INET, AF_INET6, MSG_OOB, SOCK_DGRAM, SOCK_RAW, SOL_RAW
from cloche.kernel.task import Kernel
from cloche.mm.usermem import IovIter
from cloche.net import packets
from cloche.net.datagram import ALWAYS_FITS, Datagram, check_size, sent_control
from cloche.net.inet_addr import encode, is_any
from cloche.net.inet_base import NetStack
from cloche.net.socket import IpPacket, Outgoing, small_head_bytes
from cloche.net.udp import DatagramSocket, udp_arrive
from cloche.vfs.objects import Context

_ECHO_REQUEST: Final = 8
_ECHO6_REQUEST: Final = 128
_ECHO6_REPLY: Final = 129


class PingSocket(DatagramSocket):
    """SOCK_DGRAM over ICMP: echo requests only; the port is the identifier."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        protocol = IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6
        super().__init__(kernel, ctx, family, SOCK_DGRAM, protocol, flags)
        self.does_reuse = True  # SO_REUSEADDR is on (INET_PROTOSW_REUSE)

    def take_port(self, addr: bytes, port: int) -> None:
        if port == 0:
            port = self.inode.ino & 0xFFFF or 1
        self.lport = port

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        length = src.remaining()
        if length > 0xFFFF:
            return -EMSGSIZE
        if length < 8:
            return -EINVAL
        if self.error:
            return self.take_error()
        end = self.destination(out)
        source = self.source_of(end)
        data = src.copy_from(length)
        is_v6 = self.family == AF_INET6
        if len(data) < length:
            raise LinuxError(EFAULT)
        if data[0] != (_ECHO6_REQUEST if is_v6 else _ECHO_REQUEST) or data[1] != 0:
            return -EINVAL
        self.autobind()
        if self.stack.lo.routes.rows and not self.stack.lo.is_local(end.addr):
            return length  # no socket or host there answers
        if not is_v6 and self.parameter("ipv4/icmp_echo_ignore_all"):
            return length
        lo = self.stack.lo
        lo.packets += 2
        lo.bytes += 2 * (length + (40 if is_v6 else 20))
        gram = Datagram(b"", source, 0, end.addr, 0)
        sent_control(ctx, self, out, gram)
        rest = self.lport.to_bytes(2, "big") + data[6:]
        reply = answer_to(source, end.addr, rest)
        if self.stack.taps:
            request = packets.icmp(_ECHO_REQUEST, 0, rest)
            if is_v6:
                request = packets.icmp6(source, end.addr, bytes([_ECHO6_REQUEST, 0, 0, 0]) + rest)
            self.stack.pass_packet(packets.ip(self.protocol, source, end.addr, request, gram.ttl, gram.tos))
            self.stack.pass_packet(
                packets.ip(
                    self.protocol,
                    end.addr,
                    source,
                    reply,
                    reply_ttl(self.stack, end.addr),
                    gram.tos,
                    is_whole=False,
                )
            )
        self.deliver(Datagram(reply, end.addr, 0, source, self.lport))
        return length


def reply_ttl(stack: NetStack, source: bytes) -> int:
    """The TTL of packets that the network itself sends."""
    return stack.parameters.numbers["ipv4/ip_default_ttl"] if len(source) == 4 else 64


def answer_to(source: bytes, dest: bytes, rest: bytes) -> bytes:
    """The reply to an echo request from `source` to `dest`; `rest` is what follows the checksum."""
    if len(source) == 4:
        return packets.icmp(0, 0, rest)
    return packets.icmp6(dest, source, bytes([_ECHO6_REPLY, 0, 0, 0]) + rest)


class RawSocket(DatagramSocket):
    """SOCK_RAW."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        assert kind == SOCK_RAW
        self.does_reuse = True  # SO_REUSEADDR is on (INET_PROTOSW_REUSE)
        if family == AF_INET and protocol == IPPROTO_RAW:
            self.ip[IP_HDRINCL] = 1
        self.checksum_at: int = 2 if family == AF_INET6 and protocol == IPPROTO_ICMPV6 else -1
        self.shown_port: int = protocol  # until it is disconnected
        self.filter: bytes = b""  # ICMP_FILTER: types that are not wanted
        self.stack.taps[self] = None

    def release(self) -> None:
        self.stack.taps.pop(self, None)
        super().release()

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        length = src.remaining()
        if length > 0xFFFF and self.family == AF_INET:
            return -EMSGSIZE
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        if self.error:
            return self.take_error()
        end = self.destination(out)
        source = self.source_of(end)
        gram = Datagram(b"", source, 0, end.addr, 0)
        sent_control(ctx, self, out, gram)
        has_header = self.family == AF_INET and self.ip.get(IP_HDRINCL, 0) != 0
        if length > ALWAYS_FITS and not has_header:
            check_size(self, gram, src, 0)
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            raise LinuxError(EFAULT)
        if has_header:
            if length < 20 or (data[0] & 15) * 4 > length:
                return -EINVAL
            packet = with_header(data, source)
            packet.mark, packet.priority = gram.mark, gram.priority
            take_in(self.stack, packet)
            return length
        if len(gram.addr) != len(gram.dest):
            return -EINVAL
        at = self.checksum_at
        if at >= 0:
            if at + 2 > length:
                return -EINVAL
            data = packets.checksummed(self.protocol, gram.addr, gram.dest, data, at)
        packet = packets.ip(self.protocol, gram.addr, gram.dest, data, gram.ttl, gram.tos)
        packet.mark, packet.priority = gram.mark, gram.priority
        take_in(self.stack, packet)
        return length

    def overhear(self, packet: IpPacket) -> None:
        if packet.protocol != self.protocol or len(packet.source) != (4 if self.family == AF_INET else 16):
            return
        if not is_any(self.laddr) and self.laddr != packet.dest:
            return
        if self.is_connected and self.raddr != packet.source:
            return
        start = packet.header_bytes
        if self.filter and len(packet.data) > start and self.is_filtered(packet.data[start]):
            return
        data = packet.data if self.family == AF_INET else packet.data[start:]
        if self.family == AF_INET6 and self.checksum_at >= 0 and not packets.is_right(packet):
            return
        gram = Datagram(data, packet.source, 0, packet.dest, 0)
        gram.ttl, gram.tos = packet.ttl, packet.tos
        gram.mark, gram.priority = packet.mark, packet.priority
        self.deliver(gram)

    def is_filtered(self, kind: int) -> bool:
        """Whether a message of this type is not wanted."""
        at = kind >> 3
        return at < len(self.filter) and self.filter[at] >> (kind & 7) & 1 != 0

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level == SOL_RAW and self.family == AF_INET6:
            if len(value) < 4:
                return -EINVAL
            if name != IPV6_CHECKSUM:
                return -ENOPROTOOPT
            offset = int.from_bytes(value[:4], "little", signed=True)
            if offset > 0 and offset & 1:
                return -EINVAL
            self.checksum_at = max(offset, -1)
            return 0
        wanted = IPPROTO_ICMPV6 if self.family == AF_INET6 else SOL_RAW
        if level != wanted or (self.family == AF_INET and name != ICMP_FILTER):
            return -ENOPROTOOPT
        if self.protocol not in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            return -EOPNOTSUPP
        if name != ICMP_FILTER:
            return -ENOPROTOOPT
        size = 4 if self.family == AF_INET else 32
        self.filter = value[:size] + self.filter[len(value[:size]) :]
        return 0

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level == IPPROTO_IPV6 and name == IPV6_CHECKSUM and self.family == AF_INET6:
            return (
                -EINVAL if self.protocol == IPPROTO_ICMPV6 else self.set_protocol(ctx, SOL_RAW, name, value)
            )
        return super().setsockopt(ctx, level, name, value)

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == IPPROTO_IPV6 and name == IPV6_CHECKSUM and self.family == AF_INET6:
            return self.get_protocol(ctx, SOL_RAW, name, length)
        return super().getsockopt(ctx, level, name, length)

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == SOL_RAW and name == IPV6_CHECKSUM and self.family == AF_INET6:
            return self.checksum_at.to_bytes(4, "little", signed=True)
        wanted = IPPROTO_ICMPV6 if self.family == AF_INET6 else SOL_RAW
        if level != wanted:
            raise self.no_such_level()
        if self.family == AF_INET and name != ICMP_FILTER:
            raise LinuxError(ENOPROTOOPT)
        if self.protocol not in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            raise LinuxError(EOPNOTSUPP)
        if name != ICMP_FILTER:
            raise LinuxError(ENOPROTOOPT)
        if length < 0:
            raise LinuxError(EINVAL)
        return self.filter.ljust(4 if self.family == AF_INET else 32, b"\0")

    def take_port(self, addr: bytes, port: int) -> None:
        self.lport = 0

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        result = super().connect(ctx, addr, is_nonblocking=is_nonblocking)
        if result == 0 and not self.is_connected:
            self.shown_port = 0
        return result

    def local_name(self) -> bytes:
        return encode(self.family, self.laddr, self.shown_port)

    def charge_of(self, gram: Datagram) -> int:
        return small_head_bytes(len(gram.data) + (31 if self.family == AF_INET else 76))

    def is_full(self, charge: int) -> bool:
        return self.charged >= self.rcvbuf  # sock_queue_rcv_skb checks before it adds


def with_header(data: bytes, source: bytes) -> IpPacket:
    """A packet whose header the program has written; the kernel fills in length, checksum and a missing source."""
    size = (data[0] & 15) * 4
    given = data[12:16]
    head = data[:2] + len(data).to_bytes(2, "big") + data[4:10] + b"\0\0"
    head += (source if given == bytes(4) else given) + data[16:size]
    head = head[:10] + packets.checksum(head).to_bytes(2, "big") + head[12:]
    return IpPacket(head + data[size:], data[9], head[12:16], head[16:20], size, data[8], data[1])


def take_in(stack: NetStack, packet: IpPacket) -> None:
    """Receive a packet that a program has made: `taps` see it, echoes are answered, datagrams go to their port."""
    stack.lo.packets += 1
    stack.lo.bytes += len(packet.data)
    stack.pass_packet(packet)
    body = packet.data[packet.header_bytes :]
    if len(body) < 8 or not stack.lo.is_local(packet.dest):
        return
    if packet.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP) and not packets.is_right(packet):
        return
    protocol = packet.protocol
    if (protocol == IPPROTO_ICMP and body[0] == _ECHO_REQUEST and len(packet.source) == 4) or (
        protocol == IPPROTO_ICMPV6 and body[0] == _ECHO6_REQUEST and len(packet.source) == 16
    ):
        if protocol == IPPROTO_ICMP and stack.parameters.numbers["ipv4/icmp_echo_ignore_all"]:
            return
        reply = answer_to(packet.source, packet.dest, body[4:])
        ttl = reply_ttl(stack, packet.dest)
        back = packets.ip(protocol, packet.dest, packet.source, reply, ttl, packet.tos, is_whole=False)
        stack.lo.packets += 1
        stack.lo.bytes += len(back.data)
        stack.pass_packet(back)
    elif protocol == IPPROTO_UDP:
        size = body[4] << 8 | body[5]
        if 8 <= size <= len(body):
            gram = Datagram(
                body[8:size],
                packet.source,
                body[0] << 8 | body[1],
                packet.dest,
                body[2] << 8 | body[3],
            )
            gram.ttl, gram.tos = packet.ttl, packet.tos
            udp_arrive(stack, gram)
