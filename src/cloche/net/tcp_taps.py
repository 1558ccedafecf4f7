"""TCP segments as they would look on lo, shown to `NetStack.taps`."""

from cloche.net import packets
from cloche.net.tcp_options import LO_MSS, TcpOptions


def show_segment(one: TcpOptions, other: TcpOptions, offset: int, flags: int, data: bytes = b"") -> None:
    """Show a segment from one end to the other, `offset` after the initial sequence number."""
    first, theirs = one.inode.ino * 0x9E3779B1, other.inode.ino * 0x9E3779B1
    ack = theirs + 1 + other.bytes_sent + one.fin_seen
    window = one.rcvbuf - one.rx_bytes >> 7
    one.stack.pass_packet(
        packets.tcp(
            one.laddr, one.lport, one.raddr, one.rport, first + offset, ack, flags, max(window, 0), data
        )
    )


def show_data(one: TcpOptions, other: TcpOptions, count: int) -> None:
    """Show the last `count` bytes of the other end's queue, in segments, and their acknowledgement."""
    pieces: list[bytes] = []
    left = count
    for piece in reversed(other.rx):
        if left <= 0:
            break
        pieces.append(piece[-left:] if len(piece) > left else piece)
        left -= len(piece)
    data = b"".join(reversed(pieces))
    offset = 1 + one.bytes_sent
    for at in range(0, len(data), LO_MSS):
        flags = packets.TCP_ACK | (packets.TCP_PSH if at + LO_MSS >= len(data) else 0)
        show_segment(one, other, offset + at, flags, data[at : at + LO_MSS])
    one.bytes_sent += count
    show_segment(other, one, 1 + other.bytes_sent, packets.TCP_ACK)
    one.bytes_sent -= count


def show_fin(one: TcpOptions, other: TcpOptions) -> None:
    """Show a FIN and its acknowledgement."""
    show_segment(one, other, 1 + one.bytes_sent, packets.TCP_FIN | packets.TCP_ACK)
    one.bytes_sent += 1
    show_segment(other, one, 1 + other.bytes_sent, packets.TCP_ACK)
    one.bytes_sent -= 1


def show_refusal(one: TcpOptions) -> None:
    """Show a SYN to a port without a listener, and the RST that answers it."""
    first = one.inode.ino * 0x9E3779B1
    here, there = (one.laddr, one.lport), (one.raddr, one.rport)
    one.stack.pass_packet(packets.tcp(*here, *there, first, 0, packets.TCP_SYN, 0xFFFF, b""))
    flags = packets.TCP_RST | packets.TCP_ACK
    one.stack.pass_packet(packets.tcp(*there, *here, 0, first + 1, flags, 0, b""))
