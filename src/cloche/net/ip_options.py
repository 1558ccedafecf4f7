"""The options of AF_INET and AF_INET6 sockets at IPPROTO_IP and IPPROTO_IPV6 (ip(7), ipv6(7)).

Most are flags that are stored, returned by getsockopt(2), and read where they matter. Options without a meaning on lo
(source routes, IPsec, filter tables) are refused as by a Linux that was built without them.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN, CAP_NET_RAW
from cloche.abi.errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EINVAL,
    ENOBUFS,
    ENODEV,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
    LinuxError,
)
from cloche.abi.inet import (
    IP_ADD_MEMBERSHIP,
    IP_ADD_SOURCE_MEMBERSHIP,
    IP_BIND_ADDRESS_NO_PORT,
    IP_BLOCK_SOURCE,
    IP_CHECKSUM,
    IP_DROP_MEMBERSHIP,
    IP_DROP_SOURCE_MEMBERSHIP,
    IP_FREEBIND,
    IP_HDRINCL,
    IP_IPSEC_POLICY,
    IP_LOCAL_PORT_RANGE,
    IP_MINTTL,
    IP_MSFILTER,
    IP_MTU,
    IP_MTU_DISCOVER,
    IP_MULTICAST_ALL,
    IP_MULTICAST_IF,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_NODEFRAG,
    IP_OPTIONS,
    IP_PASSSEC,
    IP_PKTINFO,
    IP_PKTOPTIONS,
    IP_PROTOCOL,
    IP_RECVERR,
    IP_RECVERR_RFC4884,
    IP_RECVFRAGSIZE,
    IP_RECVOPTS,
    IP_RECVORIGDSTADDR,
    IP_RECVTOS,
    IP_RECVTTL,
    IP_RETOPTS,
    IP_ROUTER_ALERT,
    IP_TOS,
    IP_TRANSPARENT,
    IP_TTL,
    IP_UNBLOCK_SOURCE,
    IP_UNICAST_IF,
    IP_XFRM_POLICY,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    IPV6_2292DSTOPTS,
    IPV6_2292HOPLIMIT,
    IPV6_2292HOPOPTS,
    IPV6_2292PKTINFO,
    IPV6_2292PKTOPTIONS,
    IPV6_2292RTHDR,
    IPV6_ADD_MEMBERSHIP,
    IPV6_ADDR_PREFERENCES,
    IPV6_ADDRFORM,
    IPV6_AUTOFLOWLABEL,
    IPV6_DONTFRAG,
    IPV6_DROP_MEMBERSHIP,
    IPV6_DSTOPTS,
    IPV6_FLOWINFO,
    IPV6_FLOWINFO_SEND,
    IPV6_FLOWLABEL_MGR,
    IPV6_FREEBIND,
    IPV6_HDRINCL,
    IPV6_HOPOPTS,
    IPV6_IPSEC_POLICY,
    IPV6_MINHOPCOUNT,
    IPV6_MTU,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_IF,
    IPV6_MULTICAST_LOOP,
    IPV6_PATHMTU,
    IPV6_RECVDSTOPTS,
    IPV6_RECVERR,
    IPV6_RECVERR_RFC4884,
    IPV6_RECVFRAGSIZE,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVHOPOPTS,
    IPV6_RECVORIGDSTADDR,
    IPV6_RECVPATHMTU,
    IPV6_RECVPKTINFO,
    IPV6_RECVRTHDR,
    IPV6_RECVTCLASS,
    IPV6_ROUTER_ALERT,
    IPV6_ROUTER_ALERT_ISOLATE,
    IPV6_RTHDR,
    IPV6_RTHDRDSTOPTS,
    IPV6_TCLASS,
    IPV6_TRANSPARENT,
    IPV6_UNICAST_HOPS,
    IPV6_UNICAST_IF,
    IPV6_V6ONLY,
    IPV6_XFRM_POLICY,
    MCAST_BLOCK_SOURCE,
    MCAST_EXCLUDE,
    MCAST_INCLUDE,
    MCAST_JOIN_GROUP,
    MCAST_JOIN_SOURCE_GROUP,
    MCAST_LEAVE_GROUP,
    MCAST_LEAVE_SOURCE_GROUP,
    MCAST_MSFILTER,
    MCAST_UNBLOCK_SOURCE,
)
from cloche.abi.socket import AF_INET, AF_INET6, SOCK_RAW, SOCK_STREAM, SOL_SOCKET
from cloche.abi.socket_structs import pack_sockaddr_in6
from cloche.kernel.task import Kernel
from cloche.net.inet_addr import (
    ANY4,
    ANY6,
    LO_INDEX,
    Interface,
    is_multicast,
    mapped,
)
from cloche.net.option_headers import header_size, sticky_header
from cloche.net.socket import SocketFile
from cloche.net.source_filter import (
    GROUP_FILTER_SIZE,
    FilterRequest,
    SourceFilter,
    answer4,
    answer_any,
    filter4,
    filter_any,
    question4,
    question_any,
    source_request,
)
from cloche.vfs.objects import Context

_I32: Final = Struct("<i")
_IP_FLAGS: Final = frozenset(
    {
        IP_PKTINFO,
        IP_RECVTTL,
        IP_RECVTOS,
        IP_RECVOPTS,
        IP_RETOPTS,
        IP_RECVERR,
        IP_RECVORIGDSTADDR,
        IP_FREEBIND,
        IP_BIND_ADDRESS_NO_PORT,
        IP_MULTICAST_ALL,
        IP_MULTICAST_LOOP,
        IP_NODEFRAG,
        IP_RECVFRAGSIZE,
        IP_PASSSEC,
        IP_RECVERR_RFC4884,
        IP_CHECKSUM,
    }
)
_IPV6_FLAGS: Final = frozenset(
    {
        IPV6_RECVPKTINFO,
        IPV6_RECVHOPLIMIT,
        IPV6_RECVTCLASS,
        IPV6_RECVERR,
        IPV6_RECVORIGDSTADDR,
        IPV6_RECVHOPOPTS,
        IPV6_RECVDSTOPTS,
        IPV6_RECVRTHDR,
        IPV6_RECVPATHMTU,
        IPV6_RECVFRAGSIZE,
        IPV6_FREEBIND,
        IPV6_DONTFRAG,
        IPV6_AUTOFLOWLABEL,
        IPV6_FLOWINFO_SEND,
        IPV6_MULTICAST_ALL,
        IPV6_MULTICAST_LOOP,
        IPV6_RECVERR_RFC4884,
        IPV6_2292PKTINFO,
        IPV6_2292HOPOPTS,
        IPV6_2292DSTOPTS,
        IPV6_2292RTHDR,
        IPV6_2292HOPLIMIT,
        IPV6_FLOWINFO,
        IPV6_ROUTER_ALERT_ISOLATE,
    }
)


# Options of IPsec and of filter tables, which do not exist here; the caller's capability is checked first.
_IP_POLICIES: Final = frozenset({IP_IPSEC_POLICY, IP_XFRM_POLICY, 64, 65})
_IPV6_POLICIES: Final = frozenset({IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY, 64, 65})
_SOURCE_FILTERS: Final = frozenset(
    {
        IP_UNBLOCK_SOURCE,
        IP_BLOCK_SOURCE,
        IP_ADD_SOURCE_MEMBERSHIP,
        IP_DROP_SOURCE_MEMBERSHIP,
        IP_MSFILTER,
        MCAST_BLOCK_SOURCE,
        MCAST_UNBLOCK_SOURCE,
        MCAST_JOIN_SOURCE_GROUP,
        MCAST_LEAVE_SOURCE_GROUP,
        MCAST_MSFILTER,
    }
)
_NEEDS_VALUE: Final = frozenset({IP_FREEBIND, IP_TRANSPARENT, IP_MINTTL, IP_MULTICAST_ALL})
_IPV6_HEADERS: Final = frozenset({IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS})
_STICKY_HEADERS: Final = _IPV6_HEADERS - {IPV6_RTHDR}  # there are no routes for it
# IPV6_ADDR_PREFERENCES: groups of which one may be chosen.
_PREFER_TMP_PUBLIC: Final = 0x0103
_PREFER_TMP_DEFAULT: Final = 0x0100
_PREFER_COA: Final = 0x0004
_PREFER_HOME: Final = 0x0400
_PREFER_CGA: Final = 0x0808


_IPV6_NUMBERS: Final = _IPV6_FLAGS | frozenset(
    {
        IPV6_V6ONLY,
        IPV6_UNICAST_HOPS,
        IPV6_MULTICAST_HOPS,
        IPV6_MULTICAST_IF,
        IPV6_TCLASS,
        IPV6_MTU_DISCOVER,
        IPV6_MTU,
        IPV6_TRANSPARENT,
        IPV6_UNICAST_IF,
        IPV6_ADDR_PREFERENCES,
        IPV6_MINHOPCOUNT,
        IPV6_HDRINCL,
    }
)


class IpSocket(SocketFile):
    """The state behind IPPROTO_IP and IPPROTO_IPV6: addresses, options and multicast groups."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        any_addr = ANY4 if family == AF_INET else ANY6
        self.laddr: bytes = any_addr
        self.lport: int = 0
        self.raddr: bytes = any_addr
        self.rport: int = 0
        self.is_v6_only: bool = False
        self.ip: dict[int, int] = {}  # options at IPPROTO_IP that were set
        self.ip6: dict[int, int] = {}
        self.header_options: bytes = b""  # IP_OPTIONS
        self.sticky_headers: dict[int, bytes] = {}  # IPV6_HOPOPTS and its kin
        self.groups: dict[bytes, SourceFilter] = {}  # multicast groups joined

    def interface(self) -> Interface:
        """The network's lo."""
        raise NotImplementedError

    def parameter(self, name: str) -> int:
        """A value of the network's `net.parameters`."""
        raise NotImplementedError

    def has_port(self) -> bool:
        """Whether the socket holds a port (inet_num); `lport` alone may be one that getsockname(2) still shows."""
        return self.lport != 0

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level == SOL_SOCKET:
            return self.set_common(ctx, name, value)
        if level == IPPROTO_IP and (self.family == AF_INET or self.kind != SOCK_RAW):
            return self._set_ip(ctx, name, value)
        if level == IPPROTO_IPV6 and self.family == AF_INET6:
            return self._set_ipv6(ctx, name, value)
        return self.set_protocol(ctx, level, name, value)

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        """An option of the transport protocol."""
        return -ENOPROTOOPT

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        """An option of the transport protocol.  Raises LinuxError."""
        raise self.no_such_level()

    def no_such_level(self) -> LinuxError:
        """The error of getsockopt(2) for a level that the socket does not have."""
        return LinuxError(EOPNOTSUPP if self.family == AF_INET else ENOPROTOOPT)

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == SOL_SOCKET:
            return self.get_common(ctx, name, length)
        if level == IPPROTO_IP and (self.family == AF_INET or self.kind != SOCK_RAW):
            if length < 0:
                raise LinuxError(EINVAL)
            found = self._get_ip(ctx, name, length)
        elif level == IPPROTO_IPV6 and self.family == AF_INET6:
            found = self._get_ipv6(ctx, name, length)
        else:
            return self.get_protocol(ctx, level, name, length)
        return found

    def question_size(self, level: int, name: int) -> int:
        if level == IPPROTO_IP and (self.family == AF_INET or self.kind != SOCK_RAW):
            return 16 if name == IP_MSFILTER else GROUP_FILTER_SIZE if name == MCAST_MSFILTER else 0
        is_filter = level == IPPROTO_IPV6 and self.family == AF_INET6 and name == MCAST_MSFILTER
        return GROUP_FILTER_SIZE if is_filter else 0

    def answer(self, ctx: Context, level: int, name: int, question: bytes) -> bytes:
        """A group's filter: IP_MSFILTER, MCAST_MSFILTER."""
        family = AF_INET if level == IPPROTO_IP else AF_INET6
        request = question4(question) if name == IP_MSFILTER else question_any(question, family)
        if not is_multicast(request.group):
            raise LinuxError(EINVAL)
        if name == IP_MSFILTER:
            self._check_group(request.group, request.interface, request.index)
        found = self.groups.get(request.group)
        if found is None or (name == MCAST_MSFILTER and request.index != LO_INDEX):
            raise LinuxError(EADDRNOTAVAIL)
        return answer4(question, found) if name == IP_MSFILTER else answer_any(question, family, found)

    def _set_ip(self, ctx: Context, name: int, value: bytes) -> int:
        if name in (IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP):
            if self.kind == SOCK_STREAM:
                return -EPROTO
            return self._membership4(value, is_join=name == IP_ADD_MEMBERSHIP)
        if name in (MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP):
            return self._membership_any(value, is_join=name == MCAST_JOIN_GROUP)
        if name == IP_MULTICAST_IF:
            return self._multicast_if(value)
        if name == IP_OPTIONS:
            return self._set_header_options(value)
        if name in _SOURCE_FILTERS:
            return self._filter_sources(name, value, AF_INET)
        if name in _NEEDS_VALUE and not value:
            return -EINVAL
        if name == IP_LOCAL_PORT_RANGE and len(value) != 4:
            return -EINVAL
        if len(value) >= 4:
            number: int = _I32.unpack_from(value, 0)[0]
        elif value:
            number = value[0]
        else:
            number = 0
        if name == IP_TTL:
            if not value or (number != -1 and not 1 <= number <= 255):
                return -EINVAL
            if number == -1:
                self.ip.pop(name, None)
            else:
                self.ip[name] = number
            return 0
        if name == IP_TOS:
            self.ip[name] = number & 0xFF if self.kind != SOCK_STREAM else number & 0xFC
            return 0
        if name == IP_MULTICAST_TTL:
            if self.kind == SOCK_STREAM or not value or not -1 <= number <= 255:
                return -EINVAL
            self.ip[name] = 1 if number == -1 else number
            return 0
        if name == IP_MULTICAST_LOOP and not value:
            return -EINVAL
        if name == IP_MTU_DISCOVER:
            if not 0 <= number <= 5:
                return -EINVAL
            self.ip[name] = number
            return 0
        if name == IP_HDRINCL:
            if self.kind != SOCK_RAW:
                return -ENOPROTOOPT
            self.ip[name] = int(number != 0)
            return 0
        if name == IP_NODEFRAG and self.kind != SOCK_RAW:
            return -ENOPROTOOPT
        if name == IP_TRANSPARENT:
            if number and not (
                self.has_capability(ctx, CAP_NET_RAW) or self.has_capability(ctx, CAP_NET_ADMIN)
            ):
                return -EPERM
            self.ip[name] = int(number != 0)
            return 0
        if name == IP_MINTTL:
            if not 0 <= number <= 255:
                return -EINVAL
            self.ip[name] = number
            return 0
        if name == IP_LOCAL_PORT_RANGE:
            low, high = number & 0xFFFF, number >> 16 & 0xFFFF
            if low and high and low > high:
                return -EINVAL
            self.ip[name] = number
            return 0
        if name == IP_UNICAST_IF:
            return self._unicast_if(self.ip, name, value)
        if name == IP_ROUTER_ALERT:
            if self.kind != SOCK_RAW:
                return -EINVAL
            if bool(number) == bool(self.ip.get(name, 0)):
                return -EADDRINUSE if number else -ENOBUFS
            self.ip[name] = int(number != 0)
            return 0
        if name in _IP_POLICIES and not self.has_capability(ctx, CAP_NET_ADMIN):
            return -EPERM
        if name == IP_RECVFRAGSIZE and self.kind == SOCK_STREAM:
            return -EINVAL
        if name in _IP_FLAGS:
            if name in (IP_MULTICAST_ALL, IP_RECVERR_RFC4884) and number not in (0, 1):
                return -EINVAL
            self.ip[name] = int(number != 0)
            return 0
        return -ENOPROTOOPT

    def _set_header_options(self, value: bytes) -> int:
        """IP_OPTIONS: ends and no-operations; all others would ask for routes or time stamps, which
        lo does not have.
        """
        if len(value) > 40:
            return -EINVAL
        kept, _end, _rest = value.partition(b"\0")
        if kept.strip(b"\1"):
            return -EINVAL
        self.header_options = kept.ljust((len(value) + 3) // 4 * 4, b"\0")
        return 0

    def _unicast_if(self, options: dict[int, int], name: int, value: bytes) -> int:
        """IP_UNICAST_IF and IPV6_UNICAST_IF: an index in network order."""
        if len(value) != 4:
            return -EINVAL
        if int.from_bytes(value, "big") not in (0, LO_INDEX):
            return -EADDRNOTAVAIL
        options[name] = _I32.unpack(value)[0]
        return 0

    def _get_ip(self, ctx: Context, name: int, length: int) -> bytes:
        if name == IP_OPTIONS:
            return self.header_options
        if name == IP_PKTOPTIONS and self.kind == SOCK_STREAM:
            return b""
        if name in (64, 65, 66, 67, 83) and not self.has_capability(ctx, CAP_NET_ADMIN):
            raise LinuxError(EPERM)
        if name == IP_MULTICAST_IF:
            return self.ip.get(-IP_MULTICAST_IF, 0).to_bytes(4, "big")
        defaults = {
            IP_TTL: self.parameter("ipv4/ip_default_ttl"),
            IP_MULTICAST_TTL: 1,
            IP_MULTICAST_LOOP: 1,
            IP_MULTICAST_ALL: int(self.family == AF_INET),
            IP_MTU_DISCOVER: 1,
        }
        if name == IP_MTU:
            if self.rport == 0:
                raise LinuxError(ENOTCONN)
            number = min(self.interface().mtu, 65535) if len(self.raddr) == 4 else self.interface().mtu
        elif name == IP_PROTOCOL:
            number = self.protocol if self.kind == SOCK_RAW else self.lport if self.has_port() else 0
        elif name in _IP_FLAGS or name in (
            IP_TTL,
            IP_TOS,
            IP_MULTICAST_TTL,
            IP_MTU_DISCOVER,
            IP_TRANSPARENT,
            IP_MINTTL,
            IP_LOCAL_PORT_RANGE,
            IP_UNICAST_IF,
            IP_HDRINCL,
            IP_ROUTER_ALERT,
        ):
            number = self.ip.get(name, defaults.get(name, 0))
        else:
            raise LinuxError(ENOPROTOOPT)
        if 0 < length < 4 and 0 <= number <= 255:
            return bytes([number])
        return _I32.pack(number)

    def _membership4(self, value: bytes, *, is_join: bool) -> int:
        if len(value) < 8:
            return -EINVAL
        group = value[:4]
        if not is_multicast(group):
            return -EINVAL if is_join else -EADDRNOTAVAIL
        index = _I32.unpack_from(value, 8)[0] if len(value) >= 12 else 0
        interface = value[4:8]
        if index not in (0, LO_INDEX) or (index == 0 and not self.interface().is_local(interface)):
            return -ENODEV
        return self._change_group(group, is_join=is_join)

    def _change_group(self, group: bytes, *, is_join: bool) -> int:
        if is_join:
            if group in self.groups:
                return -EADDRINUSE
            if len(self.groups) >= 20:
                return -105  # ENOBUFS
            self.groups[group] = SourceFilter()
            return 0
        if group not in self.groups:
            return -EADDRNOTAVAIL
        del self.groups[group]
        return 0

    def _filter_sources(self, name: int, value: bytes, family: int) -> int:
        """Change which sources are heard in a group: IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER and their kin. Raises
        LinuxError.
        """
        if name == IP_MSFILTER or name == MCAST_MSFILTER:
            return self._set_filter(filter4(value) if name == IP_MSFILTER else filter_any(value, family))
        request = source_request(name, value, family)
        group = request.group
        self._check_group(group, request.interface, request.index)
        if request.is_join and group not in self.groups:
            result = self._change_group(group, is_join=True)
            if result < 0:
                return result
            self.groups[group].mode = request.mode
        found = self.groups.get(group)
        if found is None:
            return -EINVAL
        if found.change(request.mode, request.source, is_add=request.is_add):
            return self._change_group(group, is_join=False)
        return 0

    def _set_filter(self, request: FilterRequest) -> int:
        """A whole filter at once (ip_mc_msfilter)."""
        group, mode = request.group, request.mode
        if not is_multicast(group) or mode not in (MCAST_INCLUDE, MCAST_EXCLUDE):
            return -EINVAL
        self._check_group(group, request.interface, request.index)
        if mode == MCAST_INCLUDE and not request.sources:
            return self._change_group(group, is_join=False)
        found = self.groups.get(group)
        if found is None:
            return -EINVAL
        found.replace(mode, request.sources)
        return 0

    def _check_group(self, group: bytes, interface: bytes, index: int) -> None:
        """Raises LinuxError(EINVAL), or ENODEV unless the interface is lo."""
        if not is_multicast(group):
            raise LinuxError(EINVAL)
        is_lo = index == LO_INDEX or (interface != b"" and self.interface().is_local(interface))
        if not is_lo:
            raise LinuxError(ENODEV)

    def _membership6(self, value: bytes, *, is_join: bool) -> int:
        if len(value) < 20:
            return -EINVAL
        if self.kind == SOCK_STREAM:
            return -EPROTO
        group, index = value[:16], _I32.unpack_from(value, 16)[0]
        if not is_multicast(group):
            return -EINVAL if is_join else -EADDRNOTAVAIL
        if index not in (0, LO_INDEX):
            return -ENODEV
        if index == 0:
            return -ENODEV if is_join else -EADDRNOTAVAIL
        return self._change_group(group, is_join=is_join)

    def _membership_any(self, value: bytes, *, is_join: bool) -> int:
        """MCAST_JOIN_GROUP: struct group_req."""
        if len(value) < 136:
            return -EINVAL
        index: int = _I32.unpack_from(value, 0)[0]
        family = value[8] | value[9] << 8
        if index != LO_INDEX:
            return -ENODEV
        if family == AF_INET:
            group = value[12:16]
        elif family == AF_INET6:
            group = value[16:32]
        else:
            return -EINVAL
        if not is_multicast(group):
            return -EINVAL
        return self._change_group(group, is_join=is_join)

    def _multicast_if(self, value: bytes) -> int:
        if self.kind == SOCK_STREAM:
            return -EINVAL
        if len(value) >= 12:
            addr, index = value[4:8], _I32.unpack_from(value, 8)[0]
        elif len(value) >= 8:
            addr, index = value[4:8], 0
        elif len(value) >= 4:
            addr, index = value[:4], 0
        else:
            return -EINVAL
        if index not in (0, LO_INDEX):
            return -EADDRNOTAVAIL
        if index == 0 and addr != ANY4 and not self.interface().is_local(addr):
            return -EADDRNOTAVAIL
        self.ip[-IP_MULTICAST_IF] = int.from_bytes(addr, "big")
        self.ip[IP_MULTICAST_IF] = LO_INDEX if index or addr != ANY4 else 0
        return 0

    def _set_ipv6(self, ctx: Context, name: int, value: bytes) -> int:
        if name in (IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP):
            return self._membership6(value, is_join=name == IPV6_ADD_MEMBERSHIP)
        if name in (MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP):
            return self._membership_any(value, is_join=name == MCAST_JOIN_GROUP)
        if name in _SOURCE_FILTERS and name >= MCAST_BLOCK_SOURCE:  # the others are IPPROTO_IP's alone
            return self._filter_sources(name, value, AF_INET6)
        if name in _IPV6_POLICIES and not self.has_capability(ctx, CAP_NET_ADMIN):
            return -EPERM
        if name in _STICKY_HEADERS and self.protocol in (IPPROTO_UDP, IPPROTO_UDPLITE):
            if not self.has_capability(ctx, CAP_NET_RAW):
                return -EPERM
            self.sticky_headers[name] = sticky_header(value)
            return 0
        if name in (IPV6_DONTFRAG, IPV6_AUTOFLOWLABEL):
            value = bytes(4) if len(value) < 4 else value
        if name not in _IPV6_NUMBERS or (name == IPV6_HDRINCL and self.kind != SOCK_RAW):
            return -ENOPROTOOPT
        if self.kind == SOCK_STREAM and name in (IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF):
            return -ENOPROTOOPT
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name == IPV6_V6ONLY:
            if self.has_port() or self.kind == SOCK_RAW:
                return -EINVAL
            self.is_v6_only = number != 0
            return 0
        if name in (IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS):
            if not -1 <= number <= 255:
                return -EINVAL
            self.ip6[name] = number
            return 0
        if name == IPV6_TCLASS:
            if not -1 <= number <= 255:
                return -EINVAL
            number = max(number, 0)
            self.ip6[name] = number if self.kind != SOCK_STREAM else number & ~3  # TCP's own: ECN
            return 0
        if name == IPV6_MULTICAST_IF:
            if number not in (0, LO_INDEX):
                return -ENODEV
            self.ip6[name] = number
            return 0
        if name == IPV6_MTU_DISCOVER:
            if not 0 <= number <= 5:
                return -EINVAL
            self.ip6[name] = number
            return 0
        if name == IPV6_MTU:
            if number and number < 1280:
                return -EINVAL
            return 0
        if name == IPV6_TRANSPARENT:
            if number and not (
                self.has_capability(ctx, CAP_NET_RAW) or self.has_capability(ctx, CAP_NET_ADMIN)
            ):
                return -EPERM
            self.ip6[name] = int(number != 0)
            return 0
        if name == IPV6_UNICAST_IF:
            return self._unicast_if(self.ip6, name, value)
        if name == IPV6_ADDR_PREFERENCES:
            return self._prefer_addresses(number)
        if name == IPV6_MINHOPCOUNT:
            if not 0 <= number <= 255:
                return -EINVAL
            self.ip6[name] = number
            return 0
        if name == IPV6_HDRINCL and self.kind == SOCK_RAW:
            self.ip6[name] = int(number != 0)
            return 0
        if name in _IPV6_FLAGS:
            if name in (IPV6_MULTICAST_LOOP, IPV6_RECVERR_RFC4884) and number not in (0, 1):
                return -EINVAL
            self.ip6[name] = int(number != 0)
            return 0
        return -ENOPROTOOPT

    def _prefer_addresses(self, number: int) -> int:
        """IPV6_ADDR_PREFERENCES: at most one of each group; kept as Linux shows it (struct ipv6_pinfo)."""
        chosen = self.ip6.get(IPV6_ADDR_PREFERENCES, _PREFER_TMP_DEFAULT)
        of_life = number & _PREFER_TMP_PUBLIC
        of_home = number & (_PREFER_HOME | _PREFER_COA)
        if of_life not in (0, 1, 2, _PREFER_TMP_DEFAULT) or of_home == _PREFER_HOME | _PREFER_COA:
            return -EINVAL
        if number & _PREFER_CGA == _PREFER_CGA:
            return -EINVAL
        if of_life:
            chosen = chosen & ~_PREFER_TMP_PUBLIC | of_life & 3
        if of_home:
            chosen = chosen & ~_PREFER_COA | of_home & _PREFER_COA
        self.ip6[IPV6_ADDR_PREFERENCES] = chosen
        return 0

    def _get_ipv6(self, ctx: Context, name: int, length: int) -> bytes:
        if name == IPV6_V6ONLY:
            return _I32.pack(int(self.is_v6_only))
        if name == IPV6_ADDR_PREFERENCES:
            chosen = self.ip6.get(name, _PREFER_TMP_DEFAULT)
            chosen |= 0 if chosen & 3 else _PREFER_TMP_DEFAULT
            return _I32.pack(chosen if chosen & _PREFER_COA else chosen | _PREFER_HOME)
        if name in _STICKY_HEADERS:
            header = self.sticky_headers.get(name, b"")
            return header[: header_size(header)] if header else b""
        if name in _IPV6_HEADERS or (name == IPV6_2292PKTOPTIONS and self.kind == SOCK_STREAM):
            return b""
        if name == IPV6_ROUTER_ALERT:
            return bytes(4)
        if name == IPV6_ADDRFORM and self.kind != SOCK_RAW:
            if self.rport == 0:
                raise LinuxError(ENOTCONN)
            return _I32.pack(self.family)
        if name == IPV6_PATHMTU:
            if 0 <= length < 32:
                raise LinuxError(EINVAL)
            if self.rport == 0:
                raise LinuxError(ENOTCONN)
            return pack_sockaddr_in6(mapped(self.raddr), 0, 0, 0) + _I32.pack(self.interface().mtu)
        if name == IPV6_FLOWLABEL_MGR:
            raise LinuxError(EINVAL)
        if name in (64, 65, 68, 69) and not self.has_capability(ctx, CAP_NET_ADMIN):
            raise LinuxError(EPERM)
        defaults = {
            IPV6_UNICAST_HOPS: 64,
            IPV6_MULTICAST_HOPS: 1,
            IPV6_MULTICAST_LOOP: 1,
            IPV6_MULTICAST_ALL: 1,
            IPV6_MTU_DISCOVER: 1,
            IPV6_AUTOFLOWLABEL: 1,
        }
        if name == IPV6_MTU:
            if self.rport == 0:
                raise LinuxError(ENOTCONN)
            return _I32.pack(self.interface().mtu)
        if (
            name in _IPV6_FLAGS
            or name
            in (
                IPV6_UNICAST_HOPS,
                IPV6_MULTICAST_HOPS,
                IPV6_TCLASS,
                IPV6_MULTICAST_IF,
                IPV6_MTU_DISCOVER,
                IPV6_TRANSPARENT,
                IPV6_UNICAST_IF,
                IPV6_MINHOPCOUNT,
            )
            or (name == IPV6_HDRINCL and self.kind == SOCK_RAW)
        ):
            number = self.ip6.get(name, defaults.get(name, 0))
            if name in (IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS) and number < 0:
                number = defaults[name]
            return _I32.pack(number)
        raise LinuxError(ENOPROTOOPT)

    def ttl(self) -> int:
        """The TTL or hop limit of the socket's packets."""
        if self.family == AF_INET6:
            hops = self.ip6.get(IPV6_UNICAST_HOPS, -1)
            return hops if hops >= 0 else 64
        return self.ttl4()

    def ttl4(self) -> int:
        """The TTL of its IPv4 packets, which an IPv6 socket may send, too."""
        found = self.ip.get(IP_TTL, -1)
        return found if found >= 0 else self.parameter("ipv4/ip_default_ttl")
