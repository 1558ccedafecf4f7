"""UDP, ping and raw sockets of networks that are a network namespace of the host (`net.joined`).

A datagram to a port that a socket inside has is delivered there; all others leave by the socket's twin, which has the
same port.
"""

from typing import Final

from cloche.abi.errno import EACCES, EADDRINUSE, EFAULT, EINVAL, EMSGSIZE, LinuxError
from cloche.abi.icmp import ICMP_ECHO, ICMPV6_ECHO_REQUEST
from cloche.abi.inet import (
    IP_ADD_MEMBERSHIP,
    IP_DROP_MEMBERSHIP,
    IP_HDRINCL,
    IP_MULTICAST_IF,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_TOS,
    IP_TTL,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_ADD_MEMBERSHIP,
    IPV6_DROP_MEMBERSHIP,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_IF,
    IPV6_MULTICAST_LOOP,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
)
from cloche.abi.socket import AF_INET, AF_UNSPEC, SO_BROADCAST, SOL_SOCKET
from cloche.kernel.task import Kernel
from cloche.mm.usermem import IovIter
from cloche.net.datagram import Datagram
from cloche.net.inet_addr import LO_INDEX, Endpoint, is_any, is_broadcast, is_group
from cloche.net.inet_base import Gateway
from cloche.net.joined import GramTwin, joined_of
from cloche.net.raw import PingSocket, RawSocket
from cloche.net.socket import Outgoing
from cloche.net.udp import DatagramSocket, UdpSocket, udp_bound
from cloche.vfs.objects import Context
from cloche.wire import netns as wire
from cloche.wire.netns import Name, OptionValue

__all__ = ["JoinedPing", "JoinedRaw", "JoinedUdp"]

_TRIES: Final = 16  # automatic ports that a socket inside held
# Options that act on datagrams that leave; they are passed on when they are set.
_PASSED: Final = frozenset(
    {
        (SOL_SOCKET, SO_BROADCAST),
        (IPPROTO_IP, IP_TOS),
        (IPPROTO_IP, IP_TTL),
        (IPPROTO_IP, IP_MULTICAST_TTL),
        (IPPROTO_IP, IP_MULTICAST_LOOP),
        (IPPROTO_IPV6, IPV6_TCLASS),
        (IPPROTO_IPV6, IPV6_UNICAST_HOPS),
        (IPPROTO_IPV6, IPV6_MULTICAST_HOPS),
        (IPPROTO_IPV6, IPV6_MULTICAST_LOOP),
    }
)
# Options that may name an interface which only the namespace has.
_GROUPS: Final = frozenset(
    {
        (IPPROTO_IP, IP_ADD_MEMBERSHIP),
        (IPPROTO_IP, IP_DROP_MEMBERSHIP),
        (IPPROTO_IP, IP_MULTICAST_IF),
        (IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP),
        (IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP),
        (IPPROTO_IPV6, IPV6_MULTICAST_IF),
    }
)
_GROUP_BYTES: Final = 20  # at most, of the values of these options


def _twin_of(sock: DatagramSocket) -> GramTwin | None:
    return joined_of(sock.stack).by_socket.get(sock)


def _outside_source(sock: DatagramSocket, end: Endpoint) -> bytes:
    """The source address of a datagram that leaves.  Raises LinuxError."""
    if is_broadcast(end.addr) and not sock.is_broadcast:
        raise LinuxError(EACCES)
    mine = sock.laddr
    if not is_any(mine) and len(mine) == len(end.addr) and not is_group(mine):
        return mine
    if is_group(end.addr):
        return bytes(len(end.addr))
    joined = joined_of(sock.stack)
    return joined.source(end.addr) if joined.outside is None else joined.source_outside(end.addr)


def _pass_option(sock: DatagramSocket, level: int, name: int, value: bytes) -> None:
    twin = _twin_of(sock)
    if twin is not None and (level, name) in _PASSED:
        twin.tell(OptionValue(level, name, value[:4]))


def _is_about_lo(level: int, name: int, value: bytes) -> bool:
    """Whether an option of groups names lo: by its number, or an address of 127.0.0.0/8."""
    if level == IPPROTO_IPV6:
        at = 0 if name == IPV6_MULTICAST_IF else 16
        return int.from_bytes(value[at : at + 4], "little") == LO_INDEX
    if len(value) >= 12 and int.from_bytes(value[8:12], "little") == LO_INDEX:
        return True
    return (value[4:5] if len(value) >= 8 else value[:1]) == b"\x7f"


class JoinedUdp(UdpSocket):
    """A UDP socket."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        # it has joined a group, or named an interface, that only the namespace has
        self.is_grouped: bool = False

    def take_port(self, addr: bytes, port: int) -> None:
        """Take the port if the namespace gives it to the twin. Raises HostWait, LinuxError."""
        hold = self.new_hold(addr, port)
        joined = joined_of(self.stack)
        for _attempt in range(_TRIES):
            twin = joined.by_socket.get(self)
            if twin is None or twin.asked is None:
                if port and self.ports().conflicts(hold):
                    raise LinuxError(EADDRINUSE)
                if twin is None:
                    twin = GramTwin(joined, wire.UDP, self)
                twin.ask(wire.BIND, Name(addr, port, self.bind_scope).encode())
            try:
                hold.port = twin.outcome().name.port
            except LinuxError:
                joined.forget(self)
                raise
            if not self.ports().conflicts(hold):
                self.ports().take(hold)
                self.hold = hold
                self.lport = hold.port
                udp_bound(self)
                return
            joined.forget(self)
            if port:
                break
        raise LinuxError(EADDRINUSE)

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        twin = _twin_of(self)
        if len(addr) >= 2 and addr[0] | addr[1] << 8 == AF_UNSPEC:
            return self._disconnect(ctx, addr)
        is_late = twin is not None and twin.asked is not None and self.is_connected
        if not is_late:
            result = super().connect(ctx, addr, is_nonblocking=is_nonblocking)
            if result < 0:
                return result
            twin = _twin_of(self)
        if twin is None or joined_of(self.stack).outside is not None:
            return 0
        twin.ask(wire.CONNECT, Name(self.raddr, self.rport, self.bind_scope).encode())
        try:
            name = twin.outcome().name
        except LinuxError as error:
            self.is_connected = False
            return -error.errno
        twin.set_peer(self.raddr, self.rport)
        if not self.is_addr_bound:
            self.laddr = name.addr
            if self.hold is not None:
                self.hold.addr = name.addr
        return 0

    def _disconnect(self, ctx: Context, addr: bytes) -> int:
        """A new twin takes the place of the one that has a peer."""
        joined = joined_of(self.stack)
        twin = _twin_of(self)
        if twin is None or not (twin.peer or self.is_connected):
            return super().connect(ctx, addr, is_nonblocking=True)
        result = super().connect(ctx, addr, is_nonblocking=True)
        if self.hold is not None:  # else it has lost its port, and the twin with it
            joined.forget(self)
            new = GramTwin(joined, wire.UDP, self)
            # No call waits for the answer: the port is free there, since this socket held it.
            new.ask(wire.BIND, Name(self.laddr, self.lport, self.bind_scope).encode())
        return result

    def source_of(self, end: Endpoint) -> bytes:
        if self.gateway_to(end.addr) is None:
            return super().source_of(end)
        return _outside_source(self, end)

    def gateway_to(self, dest: bytes) -> Gateway | None:
        lo = self.stack.lo
        if not lo.is_up or is_any(dest):
            return None
        if is_group(dest):
            return self.stack.gateway if self.is_grouped or not self.groups else None
        return None if lo.is_local(dest) else self.stack.gateway

    def unreachable(self, gram: Datagram) -> None:
        """No socket inside has the port: try the namespace."""
        joined_of(self.stack).send_datagram(self, gram.data, gram.addr, gram.dest, gram.dest_port)

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if (
            (level, name) in _GROUPS
            and 4 <= len(value) <= _GROUP_BYTES
            and not _is_about_lo(level, name, value)
        ):
            return self._set_outside(level, name, value)
        result = super().setsockopt(ctx, level, name, value)
        if result == 0:
            _pass_option(self, level, name, value)
        return result

    def _set_outside(self, level: int, name: int, value: bytes) -> int:
        """Join a multicast group, or set an interface, of the namespace.  Raises HostWait."""
        twin = _twin_of(self)
        if twin is None:
            twin = GramTwin(joined_of(self.stack), wire.UDP, self)
        twin.ask(wire.SET, OptionValue(level, name, value).encode())
        try:
            twin.outcome()
        except LinuxError as error:
            return -error.errno
        self.is_grouped = True
        return 0


class JoinedPing(PingSocket):
    """A ping socket."""

    def take_port(self, addr: bytes, port: int) -> None:
        joined = joined_of(self.stack)
        twin = joined.by_socket.get(self)
        if twin is None:
            twin = GramTwin(joined, wire.PING, self)
            twin.ask(wire.BIND, Name(addr, port, self.bind_scope).encode())
        try:
            self.lport = twin.outcome().name.port
        except LinuxError:
            joined.forget(self)
            raise

    def source_of(self, end: Endpoint) -> bytes:
        return super().source_of(end) if self.stack.lo.is_local(end.addr) else _outside_source(self, end)

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        end = self.destination(out)
        if self.stack.lo.is_local(end.addr):
            return super().send(ctx, src, flags, out)
        length = src.remaining()
        if length > 0xFFFF:
            return -EMSGSIZE
        if length < 8:
            return -EINVAL
        if self.error:
            return self.take_error()
        self.source_of(end)
        self.autobind()
        data = src.copy_from(length)
        if len(data) < length:
            raise LinuxError(EFAULT)
        if data[0] != (ICMP_ECHO if self.family == AF_INET else ICMPV6_ECHO_REQUEST) or data[1] != 0:
            return -EINVAL
        twin = _twin_of(self)
        if twin is not None:
            twin.send(data, end.addr, 0)
        return length

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        result = super().setsockopt(ctx, level, name, value)
        if result == 0:
            _pass_option(self, level, name, value)
        return result

    def drop_port(self) -> None:
        joined_of(self.stack).forget(self)
        super().drop_port()


class JoinedRaw(RawSocket):
    """A raw socket of ICMP."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(kernel, ctx, family, kind, protocol, flags)
        twin = GramTwin(joined_of(self.stack), wire.RAW_ICMP, self)
        # It receives from now on; no call waits for the answer.
        twin.ask(wire.BIND, Name(self.laddr, 0).encode())

    def source_of(self, end: Endpoint) -> bytes:
        return super().source_of(end) if self.stack.lo.is_local(end.addr) else _outside_source(self, end)

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        end = self.destination(out)
        if self.stack.lo.is_local(end.addr) or (self.family == AF_INET and self.ip.get(IP_HDRINCL, 0)):
            return super().send(ctx, src, flags, out)
        length = src.remaining()
        if length > 0xFFFF:
            return -EMSGSIZE
        if self.error:
            return self.take_error()
        self.source_of(end)
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            raise LinuxError(EFAULT)
        twin = _twin_of(self)
        if twin is not None:
            twin.send(data, end.addr, 0)
        return length

    def arrived(self, gram: Datagram) -> None:
        data = gram.data
        start = 0
        if self.family == AF_INET:
            if len(data) < 20:
                return
            start = (data[0] & 15) * 4
            gram.dest = data[16:20]
        if not is_any(self.laddr) and self.laddr != gram.dest:
            return
        if self.filter and len(data) > start and self.is_filtered(data[start]):
            return
        self.deliver(gram)

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        result = super().setsockopt(ctx, level, name, value)
        if result == 0:
            _pass_option(self, level, name, value)
        return result

    def release(self) -> None:
        joined_of(self.stack).forget(self)
        super().release()
