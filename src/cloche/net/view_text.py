"""/proc/net in a network that is a namespace of the host: the texts made from its `NetView`."""

from typing import Final

from cloche.abi.rtnetlink import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RTN_LOCAL,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
)
from cloche.abi.socket import AF_INET, AF_INET6
from cloche.net.inet_addr import ANY4, text
from cloche.net.routes import TABLE_MAIN
from cloche.net.view import NetView

__all__ = ["dev_lines", "if_inet6_text", "ipv6_route_text", "route_lines"]

_UP: Final = 1  # RTF_*
_GATEWAY: Final = 2
_HOST: Final = 4
_REJECT: Final = 0x200
_LOCAL: Final = 0x80200000


def dev_lines(view: NetView) -> str:
    """/proc/net/dev, without its heading; the counters are not known."""
    received = "      0       0    0    0    0     0          0         0"
    sent = "        0       0    0    0    0     0       0          0"
    return "".join([f"{each.name.decode(errors='replace'):>6}: {received}{sent}\n" for each in view.links])


def _name(view: NetView, index: int) -> str:
    found = view.link(index) if index else None
    return found.name.decode(errors="replace") if found is not None else "*"


def route_lines(view: NetView) -> list[str]:
    """/proc/net/route, without its heading."""
    out: list[str] = []
    for row in view.routes:
        if row.family != AF_INET or row.table != TABLE_MAIN:
            continue
        if row.kind not in (RTN_UNICAST, RTN_UNREACHABLE, RTN_PROHIBIT):
            continue
        mask = ((1 << row.prefix) - 1 << 32 - row.prefix).to_bytes(4, "big")
        flags = _UP | (_GATEWAY if row.gateway else 0) | (_HOST if row.prefix == 32 else 0)
        flags |= _REJECT if row.kind != RTN_UNICAST else 0
        gateway = row.gateway if len(row.gateway) == 4 else ANY4
        where = f"{text(row.dest)}\t{text(gateway)}\t{flags:04X}"
        out.append(f"{_name(view, row.index)}\t{where}\t0\t0\t{row.metric}\t{text(mask)}\t0\t0\t0")
    return out


def ipv6_route_text(view: NetView) -> str:
    """/proc/net/ipv6_route."""
    out: list[str] = []
    zero = "0" * 32
    for row in view.routes:
        if row.family != AF_INET6:
            continue
        flags = (
            _UP
            | (_GATEWAY if row.gateway else 0)
            | (_HOST if row.prefix == 128 and row.kind != RTN_LOCAL else 0)
        )
        flags |= _LOCAL if row.kind == RTN_LOCAL else 0
        gateway = row.gateway.hex() if len(row.gateway) == 16 else zero
        out.append(
            f"{row.dest.hex()} {row.prefix:02x} {zero} 00 {gateway} {row.metric:08x} 00000001 00000000 {flags:08x} "
            f"{_name(view, row.index):>8}\n"
        )
    return "".join(out)


def if_inet6_text(view: NetView) -> str:
    """/proc/net/if_inet6."""
    scopes = {RT_SCOPE_HOST: 0x10, RT_SCOPE_LINK: 0x20}
    return "".join(
        [
            f"{each.addr.hex()} {each.index:02x} {each.prefix:02x} {scopes.get(each.scope, 0):02x} "
            f"{each.flags & 0xFF:02x} {_name(view, each.index):>8}\n"
            for each in view.addresses
            if each.family == AF_INET6
        ]
    )
