"""Addresses of AF_INET and AF_INET6: four or sixteen bytes; a v4-mapped IPv6 address is kept as IPv4.

Owns the table of a sandbox's interfaces (only lo) and their addresses: what is local, what can be reached.
"""

from typing import Final

from cloche.abi.errno import EAFNOSUPPORT, EINVAL, ENETUNREACH, LinuxError
from cloche.abi.socket import AF_INET, AF_INET6
from cloche.abi.socket_structs import (
    pack_sockaddr_in,
    pack_sockaddr_in6,
    unpack_sockaddr_in,
    unpack_sockaddr_in6,
)
from cloche.net.routes import RouteTable

ANY4: Final = bytes(4)
ANY6: Final = bytes(16)
LOOPBACK4: Final = b"\x7f\0\0\1"
LOOPBACK6: Final = bytes(15) + b"\1"
BROADCAST4: Final = b"\xff\xff\xff\xff"
MAPPED: Final = bytes(10) + b"\xff\xff"
LO_INDEX: Final = 1


class Endpoint:
    """An address with its port, from a sockaddr."""

    def __init__(self, addr: bytes, port: int, scope: int = 0, flowinfo: int = 0) -> None:
        self.addr: bytes = addr
        self.port: int = port
        self.scope: int = scope
        self.flowinfo: int = flowinfo
        self.was_mapped: bool = False


class Interface:
    """lo, of one network namespace."""

    def __init__(self) -> None:
        self.is_up: bool = True
        self.mtu: int = 65536
        self.addresses4: dict[bytes, int] = {LOOPBACK4: 8}  # with prefix lengths
        self.addresses6: dict[bytes, int] = {LOOPBACK6: 128}
        self.labels: dict[bytes, bytes] = {}  # of IPv4 addresses, other than "lo"
        self.scopes: dict[bytes, int] = {}  # RT_SCOPE_*, where a request set them
        self.flags: dict[bytes, int] = {}  # IFA_F_* of IPv6 addresses
        self.queue_length: int = 1000
        self.was_up: bool = False
        self.packets: int = 0
        self.bytes: int = 0
        self.routes: RouteTable = RouteTable()  # added routes, beside those of the addresses
        self.others: list[int] = []  # the numbers of the namespace's other interfaces (net.joined)

    def set_up(self, *, is_up: bool) -> None:
        """Set lo up, with its loopback addresses, or down, without IPv6 addresses."""
        if is_up and not self.is_up:
            self.addresses4.setdefault(LOOPBACK4, 8)
            self.addresses6.setdefault(LOOPBACK6, 128)
            self.was_up = True
        elif not is_up:
            self.addresses6.clear()
            self.routes.lowered()
        self.is_up = is_up

    def is_index(self, index: int) -> bool:
        """Whether an interface has that number."""
        return index == LO_INDEX or index in self.others

    def is_local(self, addr: bytes) -> bool:
        """Whether packets to `addr` come back to this network."""
        if len(addr) == 4:
            if addr[0] == 127:
                return True
            if addr in self.addresses4:
                return True
            for base, prefix in self.addresses4.items():
                # An address on lo makes its whole network local.
                if base != LOOPBACK4 and prefix < 32 and same_network(base, addr, prefix):
                    return True
        elif addr == LOOPBACK6 or addr in self.addresses6:
            return True
        return bool(self.routes.rows) and self.routes.is_local(addr)

    def can_bind(self, addr: bytes) -> bool:
        """Whether a socket may be bound to it (inet_addr_type is local, multicast or broadcast)."""
        if is_any(addr) or is_multicast(addr) or addr == BROADCAST4:
            return True
        if len(addr) == 16:  # a route does not make an IPv6 address local
            return self.is_up and (addr == LOOPBACK6 or addr in self.addresses6)
        return self.is_up and self.is_local(addr)

    def source_for(self, dest: bytes) -> bytes:
        """The source address of a packet, `ANY4` if there is none.  Raises LinuxError, for one ENETUNREACH."""
        if not self.is_up:
            raise LinuxError(ENETUNREACH)
        if not self.is_local(dest):
            return self._source_by_route(dest)
        if len(dest) == 4:
            return LOOPBACK4 if dest[0] == 127 and dest not in self.addresses4 else dest
        return dest if dest in self.addresses6 else LOOPBACK6

    def _source_by_route(self, dest: bytes) -> bytes:
        """The source address of a packet to an address that is not local: an added route may lead
        to lo all the same.
        """
        found = self.routes.lookup(dest)
        if found is None:
            raise LinuxError(ENETUNREACH)
        errno = found.errno()
        if errno:
            raise LinuxError(errno)
        if found.source:
            return found.source
        return ANY4 if len(dest) == 4 else LOOPBACK6


def same_network(a: bytes, b: bytes, prefix: int) -> bool:
    """Whether the first `prefix` bits are the same."""
    shift = len(a) * 8 - prefix
    return int.from_bytes(a, "big") >> shift == int.from_bytes(b, "big") >> shift


def is_any(addr: bytes) -> bool:
    return addr == ANY4 or addr == ANY6


def is_multicast(addr: bytes) -> bool:
    if len(addr) == 4:
        return addr[0] & 0xF0 == 0xE0
    return addr[0] == 0xFF


def is_broadcast(addr: bytes) -> bool:
    """Whether it is the limited broadcast address, or that of 127.0.0.0/8."""
    return addr == BROADCAST4 or addr == b"\x7f\xff\xff\xff"


def is_group(addr: bytes) -> bool:
    """Whether it is a multicast address: a socket that is bound to it sends from another address."""
    return is_multicast(addr) or is_broadcast(addr)


def unmapped(addr: bytes) -> bytes:
    """An IPv6 address, or the IPv4 address that it maps."""
    return addr[12:] if len(addr) == 16 and addr.startswith(MAPPED) else addr


def mapped(addr: bytes) -> bytes:
    """An address as IPv6 shows it."""
    return MAPPED + addr if len(addr) == 4 else addr


def decode(family: int, data: bytes) -> Endpoint:
    """A sockaddr for a socket of `family`.  Raises LinuxError(EINVAL, EAFNOSUPPORT)."""
    if len(data) < 2:
        raise LinuxError(EINVAL)
    given = data[0] | data[1] << 8
    if family == AF_INET:
        if len(data) < 16:
            raise LinuxError(EINVAL)
        if given != AF_INET:
            raise LinuxError(EAFNOSUPPORT)
        addr, port = unpack_sockaddr_in(data)
        return Endpoint(addr, port)
    if given != AF_INET6:
        raise LinuxError(EINVAL if len(data) < 24 else EAFNOSUPPORT)
    if len(data) < 24:
        raise LinuxError(EINVAL)
    addr6, port, flowinfo, scope = unpack_sockaddr_in6(data)
    end = Endpoint(unmapped(addr6), port, scope, flowinfo)
    end.was_mapped = len(end.addr) == 4
    return end


def encode(family: int, addr: bytes, port: int, scope: int = 0) -> bytes:
    """The sockaddr that a socket of `family` shows."""
    if family == AF_INET:
        return pack_sockaddr_in(addr if len(addr) == 4 else ANY4, port)
    return pack_sockaddr_in6(mapped(addr), port, 0, scope)


def text(addr: bytes) -> str:
    """An address as /proc/net shows it: 32-bit words in the host's byte order."""
    return "".join([f"{int.from_bytes(addr[at : at + 4], 'little'):08X}" for at in range(0, len(addr), 4)])
