"""Which sources a socket wants to hear in a multicast group (RFC 3678; net/ipv4/igmp.c, net/ipv6/mcast.c).

Owns the requests' formats and one group's filter; `net.ip_options` joins and leaves, `net.udp` asks which datagrams
pass.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EADDRNOTAVAIL, EINVAL, ENOBUFS, LinuxError
from cloche.abi.inet import (
    IP_ADD_SOURCE_MEMBERSHIP,
    IP_BLOCK_SOURCE,
    IP_DROP_SOURCE_MEMBERSHIP,
    MCAST_BLOCK_SOURCE,
    MCAST_EXCLUDE,
    MCAST_INCLUDE,
    MCAST_JOIN_SOURCE_GROUP,
    MCAST_LEAVE_SOURCE_GROUP,
)
from cloche.abi.socket import AF_INET

MAX_SOURCES4: Final = 10  # net.ipv4.igmp_max_msf
MAX_SOURCES6: Final = 64  # net.ipv6.mld_max_msf

_U32: Final = Struct("<I")
_JOINS: Final = (IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_SOURCE_GROUP)
_LEAVES: Final = (IP_DROP_SOURCE_MEMBERSHIP, MCAST_LEAVE_SOURCE_GROUP)
_BLOCKS: Final = (IP_BLOCK_SOURCE, MCAST_BLOCK_SOURCE)
_MREQ_SOURCE_SIZE: Final = 12  # struct ip_mreq_source
_MSFILTER_SIZE: Final = 16  # struct ip_msfilter without sources
_GROUP_SOURCE_SIZE: Final = 264  # struct group_source_req
GROUP_FILTER_SIZE: Final = 144  # struct group_filter without sources
_STORAGE: Final = 128  # struct sockaddr_storage


class SourceFilter:
    """All sources but some (how a group is joined without sources), or some only."""

    def __init__(self, mode: int = MCAST_EXCLUDE) -> None:
        self.mode: int = mode
        # sources have been named at least once: the mode cannot change (ip_mc_socklist)
        self.has_list: bool = False
        self.sources: list[bytes] = []

    def passes(self, source: bytes) -> bool:
        """Whether the socket receives what `source` sends to the group."""
        return (source in self.sources) == (self.mode == MCAST_INCLUDE)

    def change(self, mode: int, source: bytes, *, is_add: bool) -> bool:
        """Add or remove a source (ip_mc_source). Returns whether that leaves the group.  Raises LinuxError."""
        if self.has_list and self.mode != mode:
            raise LinuxError(EINVAL)
        self.mode = mode
        if not is_add:
            if source not in self.sources:
                raise LinuxError(EADDRNOTAVAIL)
            if mode == MCAST_INCLUDE and len(self.sources) == 1:
                return True
            self.sources.remove(source)
            return False
        if len(self.sources) >= (MAX_SOURCES4 if len(source) == 4 else MAX_SOURCES6):
            raise LinuxError(ENOBUFS)
        if source in self.sources:
            raise LinuxError(EADDRNOTAVAIL)
        self.sources.append(source)
        self.has_list = True
        return False

    def replace(self, mode: int, sources: list[bytes]) -> None:
        """Replace the whole filter (ip_mc_msfilter)."""
        self.mode = mode
        self.sources = sources
        self.has_list = len(sources) > 0


class SourceRequest:
    """One source of a group: to be added to a mode's list, or removed."""

    def __init__(self, name: int, group: bytes, source: bytes, interface: bytes, index: int) -> None:
        self.group: bytes = group
        self.source: bytes = source
        self.interface: bytes = interface  # by address, of IPv4 …
        self.index: int = index  # … or by number
        self.is_join: bool = name in _JOINS
        self.is_add: bool = self.is_join or name in _BLOCKS
        self.mode: int = MCAST_INCLUDE if self.is_join or name in _LEAVES else MCAST_EXCLUDE


class FilterRequest:
    """A group's whole filter."""

    def __init__(self, group: bytes, mode: int, sources: list[bytes], interface: bytes, index: int) -> None:
        self.group: bytes = group
        self.mode: int = mode
        self.sources: list[bytes] = sources
        self.interface: bytes = interface
        self.index: int = index


def source_request(name: int, value: bytes, family: int) -> SourceRequest:
    """Decode IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_SOURCE_GROUP and their kin.  Raises LinuxError."""
    if name >= MCAST_BLOCK_SOURCE:
        if len(value) < _GROUP_SOURCE_SIZE:
            raise LinuxError(EINVAL)
        index: int = _U32.unpack_from(value, 0)[0]
        group = _address(value, 8, family)
        return SourceRequest(name, group, _address(value, 8 + _STORAGE, family), b"", index)
    if len(value) != _MREQ_SOURCE_SIZE:
        raise LinuxError(EINVAL)
    return SourceRequest(name, value[:4], value[8:12], value[4:8], 0)


def filter4(value: bytes) -> FilterRequest:
    """IP_MSFILTER.  Raises LinuxError."""
    if len(value) < _MSFILTER_SIZE:
        raise LinuxError(EINVAL)
    mode: int = _U32.unpack_from(value, 8)[0]
    count: int = _U32.unpack_from(value, 12)[0]
    if count > MAX_SOURCES4:
        raise LinuxError(ENOBUFS)
    if _MSFILTER_SIZE + 4 * count > len(value):
        raise LinuxError(EINVAL)
    sources = [value[at : at + 4] for at in range(_MSFILTER_SIZE, _MSFILTER_SIZE + 4 * count, 4)]
    return FilterRequest(value[:4], mode, sources, value[4:8], 0)


def filter_any(value: bytes, family: int) -> FilterRequest:
    """MCAST_MSFILTER.  Raises LinuxError."""
    if len(value) < GROUP_FILTER_SIZE:
        raise LinuxError(EINVAL)
    index: int = _U32.unpack_from(value, 0)[0]
    mode: int = _U32.unpack_from(value, 8 + _STORAGE)[0]
    count: int = _U32.unpack_from(value, 12 + _STORAGE)[0]
    if count > (MAX_SOURCES4 if family == AF_INET else MAX_SOURCES6):
        raise LinuxError(ENOBUFS)
    if GROUP_FILTER_SIZE + _STORAGE * count > len(value):
        raise LinuxError(EINVAL)
    places = range(GROUP_FILTER_SIZE, GROUP_FILTER_SIZE + _STORAGE * count, _STORAGE)
    if family == AF_INET:
        group = _address(value, 8, family)
        sources = [_address(value, at, family) for at in places]
    else:  # IPv6 takes them as IPv6 addresses, whatever their family
        group, sources = value[16:32], [value[at + 8 : at + 24] for at in places]
    return FilterRequest(group, mode, sources, b"", index)


def question4(value: bytes) -> FilterRequest:
    """Decode the question of getsockopt(IP_MSFILTER)."""
    return FilterRequest(value[:4], 0, [], value[4:8], 0)


def answer4(question: bytes, found: SourceFilter) -> bytes:
    """The filter, with as many sources as there is room for (ip_mc_msfget)."""
    room: int = _U32.unpack_from(question, 12)[0]
    head = question[:8] + _U32.pack(found.mode) + _U32.pack(len(found.sources))
    return head + b"".join(found.sources[:room])


def question_any(value: bytes, family: int) -> FilterRequest:
    """Decode the question of getsockopt(MCAST_MSFILTER).  Raises LinuxError."""
    if value[8] | value[9] << 8 != family:
        raise LinuxError(EINVAL if family == AF_INET else EADDRNOTAVAIL)
    index: int = _U32.unpack_from(value, 0)[0]
    return FilterRequest(_address(value, 8, family), 0, [], b"", index)


def answer_any(question: bytes, family: int, found: SourceFilter) -> bytes:
    """The filter, with as many sources as there is room for (ip_mc_gsfget, ip6_mc_msfget)."""
    room: int = _U32.unpack_from(question, 12 + _STORAGE)[0]
    head = question[: 8 + _STORAGE] + _U32.pack(found.mode) + _U32.pack(len(found.sources))
    start = family.to_bytes(2, "little") + bytes(2 if family == AF_INET else 6)
    return head + b"".join([(start + source).ljust(_STORAGE, b"\0") for source in found.sources[:room]])


def _address(value: bytes, at: int, family: int) -> bytes:
    """The address in a struct sockaddr_storage.  Raises LinuxError(EADDRNOTAVAIL)."""
    if value[at] | value[at + 1] << 8 != family:
        raise LinuxError(EADDRNOTAVAIL)
    return value[at + 4 : at + 8] if family == AF_INET else value[at + 8 : at + 24]
