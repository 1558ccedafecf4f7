"""AF_INET and AF_INET6: what TCP, UDP and raw sockets share: names, binding, and the options of IP and IPv6.

Owns `NetStack`, the network of a sandbox: its interface, its ports, its counters.  There is only loopback: whatever
is sent is handed to the receiving socket at once, and an address beyond has no route (ENETUNREACH).
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW
from cloche.abi.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EINVAL,
    ENODEV,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
    LinuxError,
)
from cloche.abi.ioctl import (
    SIOCGIFADDR,
    SIOCGIFBRDADDR,
    SIOCGIFCONF,
    SIOCGIFDSTADDR,
    SIOCGIFFLAGS,
    SIOCGIFHWADDR,
    SIOCGIFINDEX,
    SIOCGIFMETRIC,
    SIOCGIFMTU,
    SIOCGIFNAME,
    SIOCGIFNETMASK,
    SIOCGIFTXQLEN,
    SIOCSIFFLAGS,
)
from cloche.abi.poll import POLLERR
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    ARPHRD_LOOPBACK,
    IFF_LOOPBACK,
    IFF_RUNNING,
    IFF_UP,
    IP_ADD_MEMBERSHIP,
    IP_BIND_ADDRESS_NO_PORT,
    IP_DROP_MEMBERSHIP,
    IP_FREEBIND,
    IP_HDRINCL,
    IP_LOCAL_PORT_RANGE,
    IP_MINTTL,
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
    IP_UNICAST_IF,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDPLITE,
    IPV6_ADD_MEMBERSHIP,
    IPV6_ADDR_PREFERENCES,
    IPV6_AUTOFLOWLABEL,
    IPV6_DONTFRAG,
    IPV6_DROP_MEMBERSHIP,
    IPV6_FLOWINFO_SEND,
    IPV6_FREEBIND,
    IPV6_MINHOPCOUNT,
    IPV6_MTU,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_IF,
    IPV6_MULTICAST_LOOP,
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
    IPV6_TCLASS,
    IPV6_TRANSPARENT,
    IPV6_UNICAST_HOPS,
    IPV6_UNICAST_IF,
    IPV6_V6ONLY,
    MCAST_JOIN_GROUP,
    MCAST_LEAVE_GROUP,
    MSG_ERRQUEUE,
    MSG_TRUNC,
    SO_EE_CODE_ZEROCOPY_COPIED,
    SO_EE_ORIGIN_ZEROCOPY,
    SO_ZEROCOPY,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
)
from cloche.kernel.namespaces import NetNamespace
from cloche.kernel.task import Kernel, Task
from cloche.mm.usermem import IovIter
from cloche.net.inet_addr import (
    ANY4,
    ANY6,
    LO_INDEX,
    LOOPBACK4,
    Endpoint,
    Interface,
    decode,
    encode,
    is_any,
    is_group,
    is_multicast,
)
from cloche.net.ports import Hold, PortTable, TupleTest
from cloche.net.socket import Incoming, IpPacket, SocketFile
from cloche.vfs.objects import Context
from cloche.vfs.userns import UserNamespace

_I32: Final = Struct("<i")
_EXTENDED: Final = Struct("<IBBBxII")
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
    }
)


class NetStack(NetNamespace):
    """A network: that of the sandbox, or a further network namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.is_real = True
        self.lo: Interface = Interface()
        self.tcp: PortTable = PortTable(is_tcp=True)
        self.udp: PortTable = PortTable(is_tcp=False)
        self.unprivileged_port: int = 1024  # net.ipv4.ip_unprivileged_port_start
        self.ping_low: int = 0  # net.ipv4.ping_group_range
        self.ping_high: int = 0x7FFFFFFF
        self.sockets: dict[InetSocket, None] = {}  # all, for /proc/net
        self.counters: dict[str, int] = {}
        self.listeners: dict[int, list[InetSocket]] = {}  # TCP, by port
        self.udplite: PortTable = PortTable(is_tcp=False)
        self.udp_sockets: dict[int, list[InetSocket]] = {}  # by port
        self.udplite_sockets: dict[int, list[InetSocket]] = {}
        self.tuples: dict[tuple[bytes, int, bytes, int], InetSocket] = {}  # TCP connections

        self.parts: dict[str, object] = {}  # what other families keep
        self.taps: dict[SocketFile, None] = {}  # who sees every packet: raw sockets, AF_PACKET

    def fresh(self) -> NetNamespace:
        new = NetStack()
        new.lo.is_up = False
        new.lo.addresses4.clear()
        new.lo.addresses6.clear()
        new.ping_low, new.ping_high = 1, 0
        return new

    def pass_packet(self, packet: IpPacket) -> None:
        """Show a packet to those who listen in; build one only if there are `taps`."""
        for sock in list(self.taps):
            sock.overhear(packet)

    def count(self, name: str) -> None:
        """One more in /proc/net/snmp."""
        self.counters[name] = self.counters.get(name, 0) + 1


def stack_of(kernel: Kernel) -> NetStack:
    """The sandbox's first network, made at first use."""
    found = kernel.init_ns.net
    if isinstance(found, NetStack):
        return found
    made = NetStack()
    kernel.init_ns.net = made
    return made


def stack_for(kernel: Kernel, ctx: Context) -> NetStack:
    """The network that a task is in."""
    if isinstance(ctx, Task):
        found = ctx.ns.net
        if isinstance(found, NetStack):
            return found
    return stack_of(kernel)


class InetSocket(SocketFile):
    """A socket of AF_INET or AF_INET6."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        self.stack: NetStack = stack_for(kernel, ctx)
        any_addr = ANY4 if family == AF_INET else ANY6
        self.laddr: bytes = any_addr
        self.lport: int = 0
        self.raddr: bytes = any_addr
        self.rport: int = 0
        self.hold: Hold | None = None
        self.is_addr_bound: bool = False  # bind gave the address (SOCK_BINDADDR_LOCK)
        self.is_port_bound: bool = False
        self.is_v6_only: bool = False
        self.ip: dict[int, int] = {}  # options at IPPROTO_IP that were set
        self.ip6: dict[int, int] = {}
        self.groups: dict[bytes, int] = {}  # multicast groups joined
        self.errors: list[QueuedError] = []  # the error queue
        self.zero_copies: int = 0  # sends with MSG_ZEROCOPY
        self.stack.sockets[self] = None

    def move_to(self, stack: NetStack) -> None:
        """A new socket belongs to another network than its maker (the end of a connection)."""
        if stack is not self.stack:
            self.stack.sockets.pop(self, None)
            self.stack = stack
            stack.sockets[self] = None

    def net_owner(self) -> UserNamespace | None:
        return self.stack.user_ns

    def ports(self) -> PortTable:
        """The table of our protocol."""
        if self.kind == SOCK_STREAM:
            return self.stack.tcp
        return self.stack.udplite if self.protocol == IPPROTO_UDPLITE else self.stack.udp

    # -- names -------------------------------------------------------------------------------------------
    def bind(self, ctx: Context, addr: bytes) -> int:
        if len(addr) < 2:
            return -EINVAL
        end = self._decode_bind(addr)
        if len(end.addr) == 16:
            if is_multicast(end.addr) and self.kind == SOCK_STREAM:
                return -EINVAL
        elif end.was_mapped and self.is_v6_only:
            return -EINVAL
        if not self.stack.lo.can_bind(end.addr) and not self._is_free_bind():
            if self.kind != SOCK_RAW or not is_any(end.addr):
                return -EADDRNOTAVAIL
        if len(end.addr) == 16 and end.addr[0] == 0xFE and end.addr[1] & 0xC0 == 0x80 and not end.scope:
            return -EINVAL
        port = end.port
        if (
            port
            and port < self.stack.unprivileged_port
            and not self.has_capability(ctx, CAP_NET_BIND_SERVICE)
        ):
            return -EACCES
        if self.has_port() or self.is_active():
            return -EINVAL
        if port or not self.ip.get(IP_BIND_ADDRESS_NO_PORT, 0):
            self.take_port(end.addr, port)
        self.laddr = end.addr
        self.raddr, self.rport = bytes(len(self.raddr)), 0
        self.is_addr_bound = not is_any(end.addr) or end.was_mapped
        if len(end.addr) == 16 and not is_any(end.addr):
            self.is_v6_only = True
        self.is_port_bound = port != 0
        return 0

    def _decode_bind(self, addr: bytes) -> Endpoint:
        given = addr[0] | addr[1] << 8
        if self.family == AF_INET:
            if len(addr) < 16:
                raise LinuxError(EINVAL)
            if given == AF_UNSPEC and addr[4:8] == ANY4:
                return decode(AF_INET, b"\2\0" + addr[2:])
            return decode(AF_INET, addr)
        if len(addr) < 24:
            raise LinuxError(EINVAL)
        return decode(AF_INET6, addr)

    def _is_free_bind(self) -> bool:
        return bool(
            self.ip.get(IP_FREEBIND, 0)
            or self.ip.get(IP_TRANSPARENT, 0)
            or self.ip6.get(IPV6_FREEBIND, 0)
            or self.ip6.get(IPV6_TRANSPARENT, 0)
        )

    def has_port(self) -> bool:
        """Whether a port is ours (inet_num); `lport` alone may be one that getsockname(2) still shows."""
        return self.lport != 0

    def is_active(self) -> bool:
        """Whether it is too late to bind: connected or listening."""
        return False

    def new_hold(self, addr: bytes, port: int) -> Hold:
        """A claim with our present flags."""
        hold = Hold(addr, port, is_v6=self.family == AF_INET6)
        hold.is_v6_only = self.is_v6_only
        hold.does_reuse = self.does_reuse
        hold.does_reuse_port = self.does_reuse_port
        hold.uid = self.owner_uid
        hold.bound_ifindex = self.bound_ifindex
        return hold

    def take_port(self, addr: bytes, port: int) -> None:
        """Claim a port, 0 for any.  Raises LinuxError(EADDRINUSE)."""
        hold = self.new_hold(addr, port)
        self.ports().take(hold)
        self.hold = hold
        self.lport = hold.port

    def take_shared_port(self, addr: bytes, test: TupleTest) -> None:
        """Claim a port for an outgoing connection."""
        hold = self.new_hold(addr, 0)
        hold.port = self.ports().shared_port(test)
        hold.is_automatic = True
        self.ports().insert(hold)
        self.hold = hold
        self.lport = hold.port

    def autobind(self) -> None:
        """A port for a socket that sends without having been bound.  Raises LinuxError(EAGAIN)."""
        if self.lport == 0:
            try:
                self.take_port(self.laddr, 0)
            except LinuxError as error:
                raise LinuxError(11 if error.errno == EADDRINUSE else error.errno)

    def drop_port(self) -> None:
        """Give the port back."""
        hold = self.hold
        if hold is not None:
            self.hold = None
            self.ports().drop(hold)
        self.lport = 0

    def set_common(self, ctx: Context, name: int, value: bytes) -> int:
        result = super().set_common(ctx, name, value)
        hold = self.hold
        if hold is not None:
            # Linux looks at the socket's present flags when somebody else binds.
            hold.does_reuse = self.does_reuse
            hold.does_reuse_port = self.does_reuse_port
        return result

    def local_name(self) -> bytes:
        return encode(self.family, self.laddr, self.lport)

    def peer_name(self) -> bytes:
        if self.rport == 0:
            raise LinuxError(ENOTCONN)
        return encode(self.family, self.raddr, self.rport)

    def decode_peer(self, addr: bytes) -> Endpoint:
        """The address of connect or sendto; the unspecified one means our own, or loopback.  Raises LinuxError."""
        end = decode(self.family, addr)
        if is_any(end.addr):
            if self.family == AF_INET or end.was_mapped:
                mine = self.laddr
                end.addr = LOOPBACK4 if len(mine) == 16 or is_any(mine) or is_group(mine) else mine
            elif len(self.laddr) == 4:
                end.addr = LOOPBACK4
            else:
                end.addr = bytes(15) + b"\1"
        if self.family == AF_INET6:
            if len(end.addr) == 4 and self.is_v6_only:
                raise LinuxError(101)  # ENETUNREACH
            if len(end.addr) == 16 and len(self.laddr) == 4:
                raise LinuxError(EAFNOSUPPORT)
        return end

    # -- options -----------------------------------------------------------------------------------------
    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level == SOL_SOCKET:
            return self.set_common(ctx, name, value)
        if level == IPPROTO_IP:
            return self._set_ip(ctx, name, value)
        if level == IPPROTO_IPV6 and self.family == AF_INET6:
            return self._set_ipv6(ctx, name, value)
        return self.set_protocol(ctx, level, name, value)

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        """An option of the transport protocol."""
        return -ENOPROTOOPT

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        """An option of the transport protocol.  Raises LinuxError."""
        raise LinuxError(EOPNOTSUPP)

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == SOL_SOCKET:
            return self.get_common(ctx, name, length)
        if level == IPPROTO_IP:
            found = self._get_ip(name, length)
        elif level == IPPROTO_IPV6 and self.family == AF_INET6:
            found = self._get_ipv6(name)
        else:
            return self.get_protocol(ctx, level, name, length)
        return found

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
            return 0 if not value else -EINVAL
        if len(value) >= 4:
            number: int = _I32.unpack_from(value, 0)[0]
        elif value:
            number = value[0]
        else:
            number = 0
        if name == IP_TTL:
            if not value or (number != -1 and not 1 <= number <= 255):
                return -EINVAL
            self.ip[name] = number if number != -1 else 64
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
        if name == IP_UNICAST_IF or name == IP_ROUTER_ALERT:
            if name == IP_ROUTER_ALERT and self.kind != SOCK_RAW:
                return -EINVAL
            self.ip[name] = number
            return 0
        if name in _IP_FLAGS:
            if name == IP_MULTICAST_ALL and number not in (0, 1):
                return -EINVAL
            self.ip[name] = int(number != 0)
            return 0
        return -ENOPROTOOPT

    def _get_ip(self, name: int, length: int) -> bytes:
        if name == IP_OPTIONS:
            return b""
        if name == IP_MULTICAST_IF:
            return self.ip.get(-IP_MULTICAST_IF, 0).to_bytes(4, "big")
        defaults = {
            IP_TTL: 64,
            IP_MULTICAST_TTL: 1,
            IP_MULTICAST_LOOP: 1,
            IP_MULTICAST_ALL: 1,
            IP_MTU_DISCOVER: 1,
        }
        if name == IP_MTU:
            if self.rport == 0:
                raise LinuxError(ENOTCONN)
            number = min(self.stack.lo.mtu, 65535) if len(self.raddr) == 4 else self.stack.lo.mtu
        elif name == IP_PROTOCOL:
            number = self.protocol
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
        if index not in (0, LO_INDEX) or (index == 0 and not self.stack.lo.is_local(interface)):
            return -ENODEV
        return self._change_group(group, is_join=is_join)

    def _change_group(self, group: bytes, *, is_join: bool) -> int:
        if is_join:
            if group in self.groups:
                return -EADDRINUSE
            if len(self.groups) >= 20:
                return -105  # ENOBUFS
            self.groups[group] = LO_INDEX
            return 0
        if group not in self.groups:
            return -EADDRNOTAVAIL
        del self.groups[group]
        return 0

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
        if index == 0 and addr != ANY4 and not self.stack.lo.is_local(addr):
            return -EADDRNOTAVAIL
        self.ip[-IP_MULTICAST_IF] = int.from_bytes(addr, "big")
        self.ip[IP_MULTICAST_IF] = LO_INDEX if index or addr != ANY4 else 0
        return 0

    def _set_ipv6(self, ctx: Context, name: int, value: bytes) -> int:
        if name in (IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP):
            return self._membership6(value, is_join=name == IPV6_ADD_MEMBERSHIP)
        if name in (MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP):
            return self._membership_any(value, is_join=name == MCAST_JOIN_GROUP)
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name == IPV6_V6ONLY:
            if self.has_port():
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
            self.ip6[name] = max(number, 0)
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
        if name in (IPV6_UNICAST_IF, IPV6_MINHOPCOUNT, IPV6_ADDR_PREFERENCES):
            self.ip6[name] = number
            return 0
        if name in _IPV6_FLAGS:
            if name == IPV6_MULTICAST_LOOP and number not in (0, 1):
                return -EINVAL
            self.ip6[name] = int(number != 0)
            return 0
        return -ENOPROTOOPT

    def _get_ipv6(self, name: int) -> bytes:
        if name == IPV6_V6ONLY:
            return _I32.pack(int(self.is_v6_only))
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
            return _I32.pack(self.stack.lo.mtu)
        if name in _IPV6_FLAGS or name in (
            IPV6_UNICAST_HOPS,
            IPV6_MULTICAST_HOPS,
            IPV6_TCLASS,
            IPV6_MULTICAST_IF,
            IPV6_MTU_DISCOVER,
            IPV6_TRANSPARENT,
            IPV6_UNICAST_IF,
            IPV6_MINHOPCOUNT,
            IPV6_ADDR_PREFERENCES,
        ):
            number = self.ip6.get(name, defaults.get(name, 0))
            if name in (IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS) and number < 0:
                number = defaults[name]
            return _I32.pack(number)
        raise LinuxError(ENOPROTOOPT)

    # -- the error queue -----------------------------------------------------------------------------------
    def recv_error(self, dst: IovIter, info: Incoming | None) -> int:
        """MSG_ERRQUEUE: the packet that failed, its destination, and why; or a MSG_ZEROCOPY notification."""
        if not self.errors:
            return -EAGAIN
        found = self.errors.pop(0)
        copied = dst.copy_to(found.data[: dst.remaining()]) if found.data else 0
        if info is not None:
            info.flags |= MSG_ERRQUEUE
            if copied < len(found.data):
                info.flags |= MSG_TRUNC
            source = b""
            if found.dest:
                info.name = encode(self.family, found.dest, found.port)
                source = LOOPBACK4 if len(found.dest) == 4 else found.dest
            value = _EXTENDED.pack(found.errno, found.origin, found.kind, found.code, found.first, found.last)
            if self.family == AF_INET6:
                value += encode(AF_INET6, source, 0) if source else bytes(28)
                info.control.append((IPPROTO_IPV6, IPV6_RECVERR, value))
            else:
                value += encode(AF_INET, source, 0) if source else bytes(16)
                info.control.append((IPPROTO_IP, IP_RECVERR, value))
        if found.errno:
            self.error = self.errors[0].errno if self.errors else 0
        return copied

    def zero_copied(self) -> None:
        """A send with MSG_ZEROCOPY is complete: it was copied, and says so (SO_EE_CODE_ZEROCOPY_COPIED)."""
        if not self.other_options.get(SO_ZEROCOPY, 0):
            return
        number = self.zero_copies
        self.zero_copies = number + 1 & 0xFFFFFFFF
        last = self.errors[len(self.errors) - 1] if self.errors else None
        if last is not None and last.origin == SO_EE_ORIGIN_ZEROCOPY and last.last + 1 == number:
            last.last = number
            return
        note = QueuedError(0, SO_EE_ORIGIN_ZEROCOPY, 0, SO_EE_CODE_ZEROCOPY_COPIED, b"", 0, b"")
        note.first = note.last = number
        self.errors.append(note)
        self.queue.wake(POLLERR)

    def ttl(self) -> int:
        """What our packets start with."""
        if self.family == AF_INET6:
            hops = self.ip6.get(IPV6_UNICAST_HOPS, -1)
            return hops if hops >= 0 else 64
        return self.ip.get(IP_TTL, 64)

    # -- ioctl -------------------------------------------------------------------------------------------
    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if 0x8910 <= command <= 0x89A0:
            return interface_ioctl(self.stack, ctx, command, arg)
        return super().ioctl(ctx, command, arg)

    def release(self) -> None:
        self.is_released = True
        self.uncharge()
        self.stack.sockets.pop(self, None)
        self.drop_port()


class QueuedError:
    """An ICMP error that IP_RECVERR keeps (struct sock_extended_err)."""

    def __init__(
        self, errno: int, origin: int, kind: int, code: int, dest: bytes, port: int, data: bytes
    ) -> None:
        self.errno: int = errno
        self.origin: int = origin
        self.kind: int = kind
        self.code: int = code
        self.dest: bytes = dest
        self.port: int = port
        self.data: bytes = data
        self.first: int = 0  # ee_info and ee_data: the range of sends that a notification is about
        self.last: int = 0


_IFREQ: Final = 40


def interface_ioctl(stack: NetStack, ctx: Context, command: int, arg: int) -> int:
    """SIOCGIF*: the interface lo (netdevice(7))."""
    memory = ctx.user_memory()
    lo = stack.lo
    if command == SIOCGIFCONF:
        raw = memory.read(arg, 16)
        room: int = _I32.unpack_from(raw, 0)[0]
        pointer = int.from_bytes(raw[8:16], "little")
        entry = b"lo".ljust(16, b"\0") + encode(AF_INET, LOOPBACK4, 0) + bytes(8)
        if pointer == 0:
            memory.write_i32(arg, _IFREQ)
            return 0
        used = _IFREQ if room >= _IFREQ and LOOPBACK4 in lo.addresses4 else 0
        if used:
            memory.write(pointer, entry)
        memory.write_i32(arg, used)
        return 0
    request = memory.read(arg, _IFREQ)
    if command == SIOCGIFNAME:
        if _I32.unpack_from(request, 16)[0] != LO_INDEX:
            return -ENODEV
        memory.write(arg, b"lo".ljust(16, b"\0"))
        return 0
    if request[:16].split(b"\0", 1)[0] != b"lo":
        return -ENODEV
    value: bytes
    if command == SIOCGIFFLAGS:
        flags = IFF_LOOPBACK | (IFF_UP | IFF_RUNNING if lo.is_up else 0)
        value = flags.to_bytes(2, "little") + bytes(14)
    elif command == SIOCSIFFLAGS:
        if not ctx.creds.capable_in(stack.user_ns, CAP_NET_ADMIN):
            return -EPERM
        lo.set_up(is_up=request[16] & IFF_UP != 0)
        return 0
    elif command in (SIOCGIFADDR, SIOCGIFDSTADDR):
        value = encode(AF_INET, LOOPBACK4, 0)
    elif command == SIOCGIFBRDADDR:
        value = encode(AF_INET, ANY4, 0)
    elif command == SIOCGIFNETMASK:
        value = encode(AF_INET, b"\xff\0\0\0", 0)
    elif command == SIOCGIFHWADDR:
        value = ARPHRD_LOOPBACK.to_bytes(2, "little") + bytes(14)
    elif command == SIOCGIFINDEX:
        value = _I32.pack(LO_INDEX)
    elif command == SIOCGIFMTU:
        value = _I32.pack(lo.mtu)
    elif command == SIOCGIFMETRIC:
        value = _I32.pack(0)
    elif command == SIOCGIFTXQLEN:
        value = _I32.pack(1000)
    elif ctx.creds.capable_in(stack.user_ns, CAP_NET_ADMIN):
        return -EINVAL
    else:
        return -EPERM
    memory.write(arg + 16, value)
    return 0
