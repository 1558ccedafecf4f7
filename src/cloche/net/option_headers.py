"""IPv6 headers of options that a program gives for its datagrams (RFC 3542; net/ipv6: exthdrs.c, datagram.c).

Where a host would answer an unknown option by an ICMP error, nothing is sent here.
"""

from typing import Final

from cloche.abi.errno import EINVAL, LinuxError

_PAD1: Final = 0
_PADN: Final = 1
_ROUTER_ALERT: Final = 5
_MAX_PAD: Final = 7
_MAX_OPTIONS: Final = 8  # net.ipv6.max_hbh_opts_number, max_dst_opts_number
_MAX_STICKY: Final = 8 * 255


def header_size(header: bytes) -> int:
    """The length that a header states (ipv6_optlen)."""
    return (header[1] + 1) * 8


def sent_header(data: bytes) -> bytes:
    """The header in a control message.  Raises LinuxError(EINVAL)."""
    if len(data) < 2 or len(data) < header_size(data):
        raise LinuxError(EINVAL)
    return data[: header_size(data)]


def sticky_header(value: bytes) -> bytes:
    """The header in a socket option, b"" to have none (ipv6_set_opt_hdr).  Raises LinuxError(EINVAL)."""
    if value and (
        len(value) < 2 or len(value) % 8 or len(value) > _MAX_STICKY or header_size(value) > len(value)
    ):
        raise LinuxError(EINVAL)
    return value


def chained(header: bytes, following: int) -> bytes:
    """A header with the number of the following header filled in."""
    return bytes([following]) + header[1 : header_size(header)] if header else header


def is_accepted(header: bytes, *, is_hop: bool) -> bool:
    """Whether a host accepts a packet with these options (ip6_parse_tlv): it knows only padding."""
    at, end = 2, len(header)
    padding = count = 0
    while at < end:
        kind = header[at]
        if kind == _PAD1:
            padding += 1
            at += 1
            if padding > _MAX_PAD:
                return False
            continue
        if end - at < 2:
            return False
        size = header[at + 1] + 2
        if size > end - at:
            return False
        if kind == _PADN:
            padding += size
            if padding > _MAX_PAD or any(header[at + 2 : at + size]):
                return False
        else:
            count += 1
            padding = 0
            is_bad_alert = is_hop and kind == _ROUTER_ALERT and size != 4
            # 0xC0: what a host that does not know the option must do
            if count > _MAX_OPTIONS or kind & 0xC0 or is_bad_alert:
                return False
        at += size
    return True
