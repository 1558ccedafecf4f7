"""Addresses that do not belong to the public Internet, to which a granted name may not lead.

The registries of special purpose addresses (RFC 6890; IANA's lists), the addresses of metadata services of clouds, and
addresses that carry another one in them (NAT64, 6to4, Teredo, v4-compatible), for which the inner address is checked
as well.
"""

from functools import lru_cache
from typing import Final

from cloche.egress.hosts import is_within, parse_address, unmapped

__all__ = ["OWN", "Range", "carried", "special_purpose", "special_range"]


class Range:
    """Addresses that are not of the public Internet, and why."""

    def __init__(self, text: str, what: str) -> None:
        base, _slash, prefix = text.partition("/")
        self.base: bytes = parse_address(base)
        self.prefix: int = int(prefix)
        self.what: str = what


_RANGES: Final = [
    Range(text, what)
    for text, what in (
        ("169.254.169.254/32", "a metadata service"),
        ("168.63.129.16/32", "a metadata service"),
        ("100.100.100.200/32", "a metadata service"),
        ("fd00:ec2::254/128", "a metadata service"),
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a provider's private address"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "an example's address"),
        ("192.88.99.0/24", "a relay of 6to4"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an example's address"),
        ("203.0.113.0/24", "an example's address"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved, or broadcast"),
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "a local translation (NAT64)"),
        ("100::/64", "an address to discard"),
        ("2001:2::/48", "an address for benchmarks"),
        ("2001:db8::/32", "an example's address"),
        ("2001::/32", "Teredo"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHID"),
        ("3fff::/20", "an example's address"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
]
OWN: Final = ("loopback", "this host")  # what those are that lead to the host itself
_ABANDONED: Final = Range("::/96", "an address of an abandoned kind")
_NAT64: Final = parse_address("64:ff9b::")
_6TO4: Final = parse_address("2002::")
_COMPATIBLE: Final = bytes(12)
_ISATAP: Final = (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")


def carried(addr: bytes) -> bytes:
    """The IPv4 address that an IPv6 address stands for or carries; empty if it has none."""
    if len(addr) != 16:
        return b""
    plain = unmapped(addr)
    if len(plain) == 4:
        return plain
    if is_within(addr, _NAT64, 96) or (addr[:12] == _COMPATIBLE and addr[12:] not in (bytes(4), b"\0\0\0\1")):
        return addr[12:]
    if is_within(addr, _6TO4, 16):
        return addr[2:6]
    if addr[8:12] in _ISATAP:
        return addr[12:]
    return b""


@lru_cache(maxsize=4096)  # asked for at every connection
def special_range(addr: bytes) -> "Range | None":
    """The special range that an address lies in; None for an address of the public Internet."""
    inner = carried(addr)
    if inner:
        found = special_range(inner)
        if found is not None or len(unmapped(addr)) == 4:
            return found
        if addr[:12] == _COMPATIBLE:
            return _ABANDONED
    for each in _RANGES:
        if is_within(addr, each.base, each.prefix):
            return each
    return None


def special_purpose(addr: bytes) -> str:
    """Why an address is not of the public Internet; empty if it is."""
    found = special_range(addr)
    return found.what if found is not None else ""
