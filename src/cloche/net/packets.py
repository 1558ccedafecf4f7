"""Packets as they would look on lo, for raw sockets and AF_PACKET.

Nothing of the stack needs them (its ends call each other), so they are built only while `NetStack.taps` is not empty.
`IpPacket` is defined in `cloche.net.socket`.
"""

from struct import Struct
from typing import Final

from cloche.abi.inet import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from cloche.net.socket import IpPacket

TCP_FIN: Final = 1
TCP_SYN: Final = 2
TCP_RST: Final = 4
TCP_PSH: Final = 8
TCP_ACK: Final = 16

_IPV4: Final = Struct(">BBHHHBBH4s4s")
_IPV6: Final = Struct(">IHBB16s16s")
_UDP: Final = Struct(">HHHH")
_TCP: Final = Struct(">HHIIBBHHH")
_DONT_FRAGMENT: Final = 0x4000


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    # The sum of 16-bit words is the number itself modulo 0xFFFF.
    total = int.from_bytes(data, "big") % 0xFFFF
    return ~total & 0xFFFF if total or not any(data) else 0


def pseudo(protocol: int, source: bytes, dest: bytes, length: int) -> bytes:
    """The pseudo-header, which the checksums of transport protocols cover beside their data."""
    if len(source) == 4:
        return source + dest + bytes([0, protocol]) + length.to_bytes(2, "big")
    return source + dest + length.to_bytes(4, "big") + bytes([0, 0, 0, protocol])


def ip(
    protocol: int, source: bytes, dest: bytes, data: bytes, ttl: int, tos: int, *, is_whole: bool = True
) -> IpPacket:
    """An IPv4 or IPv6 packet; `is_whole`: it must not be fragmented."""
    if len(source) == 4:
        flags = _DONT_FRAGMENT if is_whole else 0
        size = 20 + len(data)
        head = _IPV4.pack(0x45, tos & 255, size & 0xFFFF, 0, flags, ttl & 255, protocol, 0, source, dest)
        total = checksum(head)
        head = _IPV4.pack(0x45, tos & 255, size & 0xFFFF, 0, flags, ttl & 255, protocol, total, source, dest)
    else:
        head = _IPV6.pack(6 << 28 | (tos & 255) << 20, len(data) & 0xFFFF, protocol, ttl & 255, source, dest)
    return IpPacket(head + data, protocol, source, dest, len(head), ttl, tos)


def udp(source: bytes, port: int, dest: bytes, dest_port: int, data: bytes) -> bytes:
    """A UDP datagram."""
    size = 8 + len(data)
    head = _UDP.pack(port, dest_port, size & 0xFFFF, 0)
    total = checksum(pseudo(IPPROTO_UDP, source, dest, size) + head + data) or 0xFFFF
    return _UDP.pack(port, dest_port, size & 0xFFFF, total) + data


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    """An ICMP message; `rest` begins with the four bytes after the checksum."""
    head = bytes([kind, code])
    return head + checksum(head + b"\0\0" + rest).to_bytes(2, "big") + rest


def icmp6(source: bytes, dest: bytes, message: bytes) -> bytes:
    """An ICMPv6 message with its checksum filled in."""
    return checksummed(IPPROTO_ICMPV6, source, dest, message, 2)


def checksummed(protocol: int, source: bytes, dest: bytes, message: bytes, at: int) -> bytes:
    """A message with the checksum over it and the pseudo-header filled in at `at`."""
    bare = message[:at] + b"\0\0" + message[at + 2 :]
    total = checksum(pseudo(protocol, source, dest, len(bare)) + bare)
    return bare[:at] + total.to_bytes(2, "big") + bare[at + 2 :]


def is_right(packet: IpPacket) -> bool:
    """Whether the checksum of a packet's protocol is right: ICMP's, or one that covers the pseudo-header, too."""
    body = packet.data[packet.header_bytes :]
    if packet.protocol == IPPROTO_ICMP:
        return checksum(body) == 0
    if packet.protocol == IPPROTO_UDP and len(packet.source) == 4:
        if body[6:8] == b"\0\0":
            return True  # it has no checksum
        body = body[: max(body[4] << 8 | body[5], 8)]
    return checksum(pseudo(packet.protocol, packet.source, packet.dest, len(body)) + body) == 0


def tcp(
    source: bytes,
    port: int,
    dest: bytes,
    dest_port: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    data: bytes,
) -> IpPacket:
    """A TCP segment in its packet."""
    seq, ack = seq & 0xFFFFFFFF, ack & 0xFFFFFFFF if flags & TCP_ACK else 0
    window = min(window, 0xFFFF)
    head = _TCP.pack(port, dest_port, seq, ack, 0x50, flags, window, 0, 0)
    total = checksum(pseudo(IPPROTO_TCP, source, dest, len(head) + len(data)) + head + data)
    head = _TCP.pack(port, dest_port, seq, ack, 0x50, flags, window, total, 0)
    return ip(IPPROTO_TCP, source, dest, head + data, 64, 0)
