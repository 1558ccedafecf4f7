"""Which families, types and protocols there are (sock_create, inet_create): the errors of socket(2).

Imports every family; the system calls import this.
"""

from typing import Final

from cloche.abi.capability import CAP_NET_RAW
from cloche.abi.errno import (
    EACCES,
    EAFNOSUPPORT,
    EINVAL,
    ENOBUFS,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    LinuxError,
)
from cloche.abi.inet import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MAX,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)
from cloche.abi.netlink import (
    NETLINK_GENERIC,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_ROUTE,
    NETLINK_SOCK_DIAG,
    NETLINK_USERSOCK,
)
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    AF_MAX,
    AF_NETLINK,
    AF_PACKET,
    AF_UNIX,
    PF_UNIX,
    SOCK_DGRAM,
    SOCK_PACKET,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from cloche.kernel.task import Task
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.inet_base import InetSocket, stack_for
from cloche.net.joined import Joined
from cloche.net.joined_grams import JoinedPing, JoinedRaw, JoinedUdp
from cloche.net.joined_tcp import JoinedTcp
from cloche.net.netlink import NetlinkSocket
from cloche.net.outward import OutwardSocket
from cloche.net.packet import create_packet
from cloche.net.raw import PingSocket, RawSocket
from cloche.net.socket import (
    SocketFile,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import TcpSocket
from cloche.net.udp import UdpSocket
from cloche.net.unix_base import UnixSocket
from cloche.net.unix_dgram import UnixDgram
from cloche.net.unix_stream import UnixStream

_NETLINK: Final = frozenset(
    {NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC}
)


def create_socket(task: Task, family: int, kind: int, protocol: int, flags: int) -> SocketFile:
    """A new socket.  Raises LinuxError."""
    if family < 0 or family >= AF_MAX:
        raise LinuxError(EAFNOSUPPORT)
    if kind < 0 or kind >= 11:
        raise LinuxError(EINVAL)
    if family == AF_INET and kind == SOCK_PACKET:
        family = AF_PACKET  # as programs for Linux 2.0 ask for it
    if not KERNEL_MEMORY.has_room(2 * SOCKET_BYTES):
        raise LinuxError(ENOBUFS)
    if family == AF_UNIX:
        return _unix(task, kind, protocol, flags)
    if family == AF_INET or family == AF_INET6:
        return _inet(task, family, kind, protocol, flags)
    if family == AF_NETLINK:
        if kind not in (SOCK_RAW, SOCK_DGRAM):
            raise LinuxError(ESOCKTNOSUPPORT)
        if protocol not in _NETLINK:
            raise LinuxError(EPROTONOSUPPORT)
        return NetlinkSocket(task.kernel, task, kind, protocol, flags)
    if family == AF_PACKET:
        return create_packet(task.kernel, task, kind, protocol, flags)
    raise LinuxError(EAFNOSUPPORT)


def _inet(task: Task, family: int, kind: int, protocol: int, flags: int) -> InetSocket:
    """inet_create: the type and the protocol must fit each other."""
    if protocol < 0 or protocol >= IPPROTO_MAX:
        raise LinuxError(EINVAL)
    kernel = task.kernel
    if kind == SOCK_STREAM:
        if protocol not in (0, IPPROTO_TCP):
            raise LinuxError(EPROTONOSUPPORT)
        gateway = stack_for(task).gateway
        if isinstance(gateway, Joined):
            return JoinedTcp(kernel, task, family, flags)
        if gateway is not None:
            return OutwardSocket(kernel, task, family, flags)
        return TcpSocket(kernel, task, family, flags)
    if kind == SOCK_DGRAM:
        if protocol in (0, IPPROTO_UDP):
            if isinstance(stack_for(task).gateway, Joined):
                return JoinedUdp(kernel, task, family, flags)
            return UdpSocket(kernel, task, family, flags)
        if protocol == IPPROTO_UDPLITE:
            return UdpSocket(kernel, task, family, flags, IPPROTO_UDPLITE)
        if protocol == (IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6):
            stack = stack_for(task)
            gids = [task.creds.egid, *task.creds.groups]
            if not any(stack.ping_low <= gid <= stack.ping_high for gid in gids):
                raise LinuxError(EACCES)
            if isinstance(stack.gateway, Joined):
                return JoinedPing(kernel, task, family, flags)
            return PingSocket(kernel, task, family, flags)
        raise LinuxError(EPROTONOSUPPORT)
    if kind == SOCK_RAW:
        if protocol == 0:
            raise LinuxError(EPROTONOSUPPORT)
        if not task.creds.capable_in(task.ns.net.user_ns, CAP_NET_RAW):
            raise LinuxError(EPERM)
        is_icmp = protocol == (IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6)
        if is_icmp and isinstance(stack_for(task).gateway, Joined):
            return JoinedRaw(kernel, task, family, kind, protocol & 0xFF, flags)
        return RawSocket(kernel, task, family, kind, protocol & 0xFF, flags)
    raise LinuxError(ESOCKTNOSUPPORT)


def _unix(task: Task, kind: int, protocol: int, flags: int) -> UnixSocket:
    if protocol != 0 and protocol != PF_UNIX:
        raise LinuxError(EPROTONOSUPPORT)
    if kind == SOCK_STREAM:
        return UnixStream(task.kernel, task, flags)
    if kind == SOCK_RAW:
        kind = SOCK_DGRAM
    if kind not in (SOCK_DGRAM, SOCK_SEQPACKET):
        raise LinuxError(ESOCKTNOSUPPORT)
    return UnixDgram(task.kernel, task, kind, flags)


def create_pair(
    task: Task, family: int, kind: int, protocol: int, flags: int
) -> tuple[SocketFile, SocketFile]:
    """Two connected sockets.  Raises LinuxError."""
    first = create_socket(task, family, kind, protocol, flags)
    if not isinstance(first, UnixSocket):
        first.get().put()
        raise LinuxError(EOPNOTSUPP)
    second = _unix(task, kind, protocol, flags)
    first.pair_with(second)
    first.set_pair_cred(task)
    second.set_pair_cred(task)
    return first, second
