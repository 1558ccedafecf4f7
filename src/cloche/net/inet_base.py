"""AF_INET and AF_INET6: the base of TCP, UDP and raw sockets: names, binding, and the options of IP and IPv6.

Owns `NetStack`, the network of a sandbox: its interface, its ports, its counters. There is only loopback: data that
is sent is handed to the receiving socket at once, and an address beyond has no route (ENETUNREACH).
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE
from cloche.abi.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EINVAL,
    ENETUNREACH,
    ENODEV,
    ENOTCONN,
    EPERM,
    LinuxError,
)
from cloche.abi.inet import (
    IP_BIND_ADDRESS_NO_PORT,
    IP_FREEBIND,
    IP_RECVERR,
    IP_TRANSPARENT,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDPLITE,
    IPV6_FREEBIND,
    IPV6_RECVERR,
    IPV6_TRANSPARENT,
)
from cloche.abi.ioctl import (
    SIOCETHTOOL,
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
    MSG_ERRQUEUE,
    MSG_TRUNC,
    SO_EE_CODE_ZEROCOPY_COPIED,
    SO_EE_ORIGIN_LOCAL,
    SO_EE_ORIGIN_ZEROCOPY,
    SO_ZEROCOPY,
    SOCK_RAW,
    SOCK_STREAM,
)
from cloche.kernel.namespaces import NetNamespace
from cloche.kernel.task import Container, Kernel, Task, container_of
from cloche.mm.usermem import IovIter
from cloche.net.ethtool import ethtool_ioctl
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
from cloche.net.ip_options import IpSocket
from cloche.net.parameters import Parameters
from cloche.net.ports import Hold, PortTable, TupleTest
from cloche.net.socket import Incoming, IpPacket, SocketFile
from cloche.net.view import NetView
from cloche.net.view_ioctl import view_ioctl
from cloche.vfs.objects import Context
from cloche.vfs.userns import UserNamespace

_I32: Final = Struct("<i")
MAX_ERRORS: Final = 64
_EXTENDED: Final = Struct("<IBBBxII")


class Gateway:
    """The way out of a network: TCP and UDP to addresses that are not local go there (`net.outward`)."""

    def source(self, dest: bytes) -> bytes:
        """The sandbox's own address towards `dest`.  Raises LinuxError(ENETUNREACH)."""
        raise LinuxError(ENETUNREACH)

    def note(self, ctx: Context) -> None:
        """Remember the sending task for the calls that follow."""

    def send_datagram(self, sock: "InetSocket", data: bytes, source: bytes, dest: bytes, port: int) -> None:
        """Send a datagram out. Raises LinuxError if an earlier one to there was refused."""
        raise LinuxError(ENETUNREACH)

    def forget(self, sock: "InetSocket") -> None:
        """A socket gives its port back: end its flows outside."""


class FamilyTable:
    """The data that another family of sockets keeps for a network namespace."""


class NetStack(NetNamespace):
    """A network: that of the sandbox, or a further network namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.is_real = True
        self.lo: Interface = Interface()
        self.tcp: PortTable = PortTable(is_tcp=True)
        self.udp: PortTable = PortTable(is_tcp=False)
        self.parameters: Parameters = Parameters()
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

        self.netlink: FamilyTable | None = None  # net.netlink
        self.unix: FamilyTable | None = None  # net.unix_base
        self.taps: dict[SocketFile, None] = {}  # sockets that see every packet: raw sockets, AF_PACKET
        self.gateway: Gateway | None = None  # the way out, if there is one
        # the links, addresses and routes of a namespace of the host (net.joined)
        self.view: NetView | None = None

    def fresh(self) -> NetNamespace:
        new = NetStack()
        new.lo.is_up = False
        new.lo.addresses4.clear()
        new.lo.addresses6.clear()
        new.ping_low, new.ping_high = 1, 0
        return new

    def pass_packet(self, packet: IpPacket) -> None:
        """Show a packet to the `taps`; callers build one only if there are any."""
        for sock in list(self.taps):
            sock.overhear(packet)

    def count(self, name: str) -> None:
        """One more in /proc/net/snmp."""
        self.counters[name] = self.counters.get(name, 0) + 1


def stack_of(container: Container) -> NetStack:
    """The container's first network, made at first use."""
    found = container.ns.net
    if isinstance(found, NetStack):
        return found
    made = NetStack()
    made.ino, made.user_ns = found.ino, found.user_ns
    container.ns.net = made
    return made


def stack_for(ctx: Context) -> NetStack:
    """The network that a task is in."""
    if isinstance(ctx, Task):
        found = ctx.ns.net
        if isinstance(found, NetStack):
            return found
    return stack_of(container_of(ctx))


class InetSocket(IpSocket):
    """A socket of AF_INET or AF_INET6."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        self.stack: NetStack = stack_for(ctx)
        self.hold: Hold | None = None
        self.is_addr_bound: bool = False  # bind gave the address (SOCK_BINDADDR_LOCK)
        self.is_port_bound: bool = False
        self.bind_scope: int = 0  # the interface of an address that is local to a link
        self.errors: list[QueuedError] = []  # the error queue
        self.zero_copies: int = 0  # sends with MSG_ZEROCOPY
        if family == AF_INET6 and self.stack.parameters.numbers["ipv6/bindv6only"]:
            self.is_v6_only = True
        self.stack.sockets[self] = None

    def move_to(self, stack: NetStack) -> None:
        """A new socket belongs to another network than its maker (the end of a connection)."""
        if stack is not self.stack:
            self.stack.sockets.pop(self, None)
            self.stack = stack
            stack.sockets[self] = None

    def net_owner(self) -> UserNamespace | None:
        return self.stack.user_ns

    def interface(self) -> Interface:
        return self.stack.lo

    def parameter(self, name: str) -> int:
        return self.stack.parameters.numbers[name]

    def listen_limit(self) -> int:
        return self.stack.parameters.numbers["core/somaxconn"]

    def ports(self) -> PortTable:
        """The table of the socket's protocol."""
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
        was_v6_only = self.is_v6_only
        self.bind_scope = end.scope
        if len(end.addr) == 16 and not is_any(end.addr):
            self.is_v6_only = True
        if port or not self.ip.get(IP_BIND_ADDRESS_NO_PORT, 0):
            try:
                self.take_port(end.addr, port)
            except LinuxError as error:
                self.is_v6_only = was_v6_only
                self.laddr = ANY4 if self.family == AF_INET else ANY6  # what a connect has left goes, too
                return -error.errno
        self.laddr = end.addr
        self.raddr, self.rport = bytes(len(self.raddr)), 0
        self.is_addr_bound = not is_any(end.addr) or end.was_mapped
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
            or self.stack.parameters.numbers["ipv4/ip_nonlocal_bind"]
        )

    def is_active(self) -> bool:
        """Whether it is too late to bind: connected or listening."""
        return False

    def new_hold(self, addr: bytes, port: int) -> Hold:
        """A claim with the socket's present flags."""
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

    def source_to(self, dest: bytes) -> bytes:
        """The source address for packets to `dest`; an IPv4 socket that is bound to lo looks no route up. Raises
        LinuxError.
        """
        try:
            return self.stack.lo.source_for(dest)
        except LinuxError:
            if self.bound_ifindex != LO_INDEX or len(dest) != 4 or not self.stack.lo.is_up:
                raise
            return ANY4

    def gateway_to(self, dest: bytes) -> Gateway | None:
        """The gateway to an address outside this network; None if there is no gateway, or a route decides otherwise."""
        stack = self.stack
        gateway = stack.gateway
        if gateway is None or self.bound_ifindex or not stack.lo.is_up or is_any(dest) or is_group(dest):
            return None
        if stack.lo.is_local(dest) or (stack.lo.routes.rows and stack.lo.routes.lookup(dest) is not None):
            return None
        return gateway

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
            # Linux looks at the socket's present flags when another socket binds.
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
        """The address of connect or sendto; the unspecified one means the socket's own, or loopback. Raises
        LinuxError.
        """
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
            if found.dest and found.origin != SO_EE_ORIGIN_LOCAL:
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

    def queue_error(self, note: "QueuedError") -> None:
        """One more entry of the error queue (sock_queue_err_skb); it makes the socket readable by POLLERR."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(note)
            self.queue.wake(POLLERR)

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
    """SIOCGIF*: the interface lo (netdevice(7)); all interfaces of a namespace of the host."""
    if stack.view is not None:
        return view_ioctl(stack.view, ctx, command, arg)
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
    name = request[:16].split(b"\0", 1)[0]
    if command == SIOCETHTOOL:
        may_change = ctx.creds.capable_in(stack.user_ns, CAP_NET_ADMIN)
        where = int.from_bytes(request[16:24], "little")
        memory.read(where, 4)
        if name.partition(b":")[0] != b"lo":
            return -ENODEV
        return ethtool_ioctl(ctx, where, bytes(6), is_up=lo.is_up, is_loopback=True, may_change=may_change)
    if command == SIOCGIFNAME:
        if _I32.unpack_from(request, 16)[0] != LO_INDEX:
            return -ENODEV
        memory.write(arg, b"lo".ljust(16, b"\0"))
        return 0
    if name != b"lo":
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
