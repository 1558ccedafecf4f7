"""The links, addresses and routes of a network namespace of the host, as its kernel reports them by rtnetlink(7).

A `NetView` is one state of them, and never changes.  The messages come from the host's kernel, through a process that
may lie: malformed ones are left out.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, LinuxError
from cloche.abi.if_link import IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MTU, IFLA_TXQLEN
from cloche.abi.rtnetlink import (
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_LABEL,
    IFA_LOCAL,
    RT_SCOPE_LINK,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTN_BLACKHOLE,
    RTN_LOCAL,
    RTN_PROHIBIT,
    RTN_UNREACHABLE,
)
from cloche.abi.socket import AF_INET, AF_INET6, IFF_LOOPBACK, IFF_UP
from cloche.net.nlmsg import HEADER, attributes
from cloche.net.routes import TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, network_bits

__all__ = ["HostAddress", "HostLink", "HostRoute", "NetView"]

_PARAMETERS: Final = Struct("<IIIII")
_IFINFO: Final = Struct("<BxHiII")
_IFADDR: Final = Struct("<BBBBI")
_RTMSG: Final = Struct("<BBBBBBBBI")
_U32: Final = Struct("<I")
_MAX_MESSAGES: Final = 16384
_ERRORS: Final[dict[int, int]] = {
    RTN_BLACKHOLE: EINVAL,
    RTN_UNREACHABLE: EHOSTUNREACH,
    RTN_PROHIBIT: EACCES,
}


def _number(found: dict[int, bytes], name: int, default: int = 0) -> int:
    raw = found.get(name, b"")
    return _U32.unpack(raw)[0] if len(raw) == 4 else default


class HostLink:
    """A network interface."""

    def __init__(self, body: bytes) -> None:
        fields: tuple[int, int, int, int, int] = _IFINFO.unpack_from(body, 0)
        self.body: bytes = body  # struct ifinfomsg and attributes, as the kernel wrote them
        self.kind: int = fields[1]  # ARPHRD_*
        self.index: int = fields[2]
        self.flags: int = fields[3]  # IFF_*
        found = attributes(body[_IFINFO.size :])
        self.name: bytes = found.get(IFLA_IFNAME, b"").partition(b"\0")[0][:15]
        self.mtu: int = _number(found, IFLA_MTU)
        self.queue_length: int = _number(found, IFLA_TXQLEN)
        self.peer: int = _number(found, IFLA_LINK)  # the other end of a pair, or the link below it
        self.hardware: bytes = found.get(IFLA_ADDRESS, b"")


class HostAddress:
    """An address of an interface."""

    def __init__(self, body: bytes) -> None:
        fields: tuple[int, int, int, int, int] = _IFADDR.unpack_from(body, 0)
        self.body: bytes = body
        self.family, self.prefix, self.flags, self.scope, self.index = fields
        found = attributes(body[_IFADDR.size :])
        self.addr: bytes = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
        self.peer: bytes = found.get(IFA_ADDRESS, self.addr)
        self.broadcast: bytes = found.get(IFA_BROADCAST, b"")
        self.label: bytes = found.get(IFA_LABEL, b"").partition(b"\0")[0][:15]

    def is_sound(self) -> bool:
        """Whether the address has the size of its family."""
        size = 4 if self.family == AF_INET else 16 if self.family == AF_INET6 else 0
        return len(self.addr) == size > 0 and self.prefix <= size * 8


class HostRoute:
    """A route."""

    def __init__(self, body: bytes) -> None:
        fields: tuple[int, int, int, int, int, int, int, int, int] = _RTMSG.unpack_from(body, 0)
        self.body: bytes = body
        self.family, self.prefix, _, _, table, self.protocol, self.scope, self.kind, self.flags = fields
        found = attributes(body[_RTMSG.size :])
        size = 4 if self.family == AF_INET else 16
        self.dest: bytes = found.get(RTA_DST, bytes(size))
        self.table: int = _number(found, RTA_TABLE, table)
        self.metric: int = _number(found, RTA_PRIORITY)
        self.index: int = _number(found, RTA_OIF)
        self.gateway: bytes = found.get(RTA_GATEWAY, b"")
        self.source: bytes = found.get(RTA_PREFSRC, b"")

    def is_sound(self) -> bool:
        """Whether its addresses have the size of their family."""
        size = 4 if self.family == AF_INET else 16 if self.family == AF_INET6 else 0
        return len(self.dest) == size > 0 and self.prefix <= size * 8

    def covers(self, addr: bytes) -> bool:
        """Whether an address is in its network."""
        return len(addr) == len(self.dest) and network_bits(addr, self.prefix) == network_bits(
            self.dest, self.prefix
        )


class NetView:
    """The links, addresses and routes at one moment."""

    def __init__(self, data: bytes) -> None:
        self.links: list[HostLink] = []
        self.addresses: list[HostAddress] = []
        self.routes: list[HostRoute] = []
        self.has_parameters: bool = len(data) >= _PARAMETERS.size
        self.unprivileged_port: int = 1024
        self.ping_low: int = 1
        self.ping_high: int = 0
        self.port_low: int = 32768
        self.port_high: int = 60999
        if not self.has_parameters:
            return
        fields: tuple[int, int, int, int, int] = _PARAMETERS.unpack_from(data, 0)
        self.unprivileged_port = min(fields[0], 65536)
        self.ping_low, self.ping_high = fields[1], fields[2]
        if 0 < fields[3] <= fields[4] < 65536:
            self.port_low, self.port_high = fields[3], fields[4]
        self._read(data[_PARAMETERS.size :])

    def _read(self, data: bytes) -> None:
        at = 0
        for _count in range(_MAX_MESSAGES):
            if at + 16 > len(data):
                break
            head: tuple[int, int, int, int, int] = HEADER.unpack_from(data, at)
            size, kind = head[0], head[1]
            if size < 16 or at + size > len(data):
                break
            body = data[at + 16 : at + size]
            at += size + 3 & ~3
            if kind == RTM_NEWLINK and len(body) >= _IFINFO.size:
                self.links.append(HostLink(body))
            elif kind == RTM_NEWADDR and len(body) >= _IFADDR.size:
                address = HostAddress(body)
                if address.is_sound():
                    self.addresses.append(address)
            elif kind == RTM_NEWROUTE and len(body) >= _RTMSG.size:
                route = HostRoute(body)
                if route.is_sound():
                    self.routes.append(route)

    def link(self, index: int, name: bytes = b"") -> HostLink | None:
        """The link with a number, or with a name if the number is 0."""
        for each in self.links:
            if each.index == index or (not index and each.name == name):
                return each
        return None

    def is_lo_up(self) -> bool:
        """Whether the loopback interface is up."""
        return any(each.flags & IFF_LOOPBACK and each.flags & IFF_UP for each in self.links)

    def local_addresses(self, size: int) -> dict[bytes, int]:
        """The local addresses with prefix lengths; only 127.0.0.0/8 makes a whole network local."""
        found: dict[bytes, int] = {}
        for each in self.addresses:
            if len(each.addr) == size:
                found[each.addr] = each.prefix if size == 4 and each.addr[0] == 127 else size * 8
        return found

    def route_to(self, dest: bytes) -> HostRoute | None:
        """The route that a packet takes, by the tables that the default rules name."""
        for table in (TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT):
            best: HostRoute | None = None
            for row in self.routes:
                if row.table != table or not row.covers(dest):
                    continue
                if best is None or (-row.prefix, row.metric) < (-best.prefix, best.metric):
                    best = row
            if best is not None:
                return best
        return None

    def source_for(self, dest: bytes) -> bytes:
        """The source address of a packet, as far as it can be determined.  Raises LinuxError."""
        route = self.route_to(dest)
        if route is None:
            raise LinuxError(ENETUNREACH)
        errno = _ERRORS.get(route.kind, 0)
        if errno:
            raise LinuxError(errno)
        if len(route.source) == len(dest):
            return route.source
        if route.kind == RTN_LOCAL:
            return dest
        best = b""
        for each in self.addresses:
            if len(each.addr) != len(dest):
                continue
            if each.index == route.index and each.scope <= RT_SCOPE_LINK:
                if not best or network_bits(each.addr, each.prefix) == network_bits(dest, each.prefix):
                    best = each.addr
        return best or bytes(len(dest))
