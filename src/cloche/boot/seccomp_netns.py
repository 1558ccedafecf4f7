"""The seccomp allow-list of the network process, as data.

It makes sockets of IPv4 and IPv6 in the namespace that it has joined, binds and connects them: that is its work.  Not
on the list, on purpose: setns and unshare, sockets of other families, raw ones but those of ICMP, open and all that
takes a path, execve, clone, ptrace, kill, capset; and of socket options all that are not in its own list.
"""

from typing import Final

from cloche.abi.errno import EACCES
from cloche.abi.fcntl import F_GETFL
from cloche.abi.inet import (
    IP_ADD_MEMBERSHIP,
    IP_BIND_ADDRESS_NO_PORT,
    IP_DROP_MEMBERSHIP,
    IP_FREEBIND,
    IP_MTU_DISCOVER,
    IP_MULTICAST_IF,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_PKTINFO,
    IP_TOS,
    IP_TTL,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPV6_JOIN_GROUP,
    IPV6_LEAVE_GROUP,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_IF,
    IPV6_MULTICAST_LOOP,
    IPV6_RECVPKTINFO,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
)
from cloche.abi.ioctl import FIONBIO
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    SO_BROADCAST,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_RCVBUF,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_SNDBUF,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
)
from cloche.abi.tcp import TCP_MAXSEG, TCP_NODELAY
from cloche.arch.syscalls import (
    SYS_bind,
    SYS_close,
    SYS_connect,
    SYS_fcntl,
    SYS_getpeername,
    SYS_getsockname,
    SYS_ioctl,
    SYS_listen,
    SYS_lstat,
    SYS_poll,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setfsuid,
    SYS_setsockopt,
    SYS_socket,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_is, is_null

# (level, name) of the options that a socket of the namespace may be given. None of them changes where packets go: no
# routes in headers, no interface, no mark, no repair of connections.
ALLOWED_OPTIONS: Final = (
    (SOL_SOCKET, SO_REUSEADDR),
    (SOL_SOCKET, SO_BROADCAST),
    (SOL_SOCKET, SO_SNDBUF),
    (SOL_SOCKET, SO_RCVBUF),
    (SOL_SOCKET, SO_KEEPALIVE),
    (SOL_SOCKET, SO_OOBINLINE),
    (SOL_SOCKET, SO_REUSEPORT),
    (IPPROTO_IP, IP_TOS),
    (IPPROTO_IP, IP_TTL),
    (IPPROTO_IP, IP_PKTINFO),  # set by the process itself
    (IPPROTO_IP, IP_MTU_DISCOVER),
    (IPPROTO_IP, IP_FREEBIND),
    (IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
    (IPPROTO_IP, IP_MULTICAST_IF),
    (IPPROTO_IP, IP_MULTICAST_TTL),
    (IPPROTO_IP, IP_MULTICAST_LOOP),
    (IPPROTO_IP, IP_ADD_MEMBERSHIP),
    (IPPROTO_IP, IP_DROP_MEMBERSHIP),
    (IPPROTO_IPV6, IPV6_UNICAST_HOPS),
    (IPPROTO_IPV6, IPV6_MULTICAST_IF),
    (IPPROTO_IPV6, IPV6_MULTICAST_HOPS),
    (IPPROTO_IPV6, IPV6_MULTICAST_LOOP),
    (IPPROTO_IPV6, IPV6_JOIN_GROUP),
    (IPPROTO_IPV6, IPV6_LEAVE_GROUP),
    (IPPROTO_IPV6, IPV6_V6ONLY),
    (IPPROTO_IPV6, IPV6_RECVPKTINFO),  # set by the process itself
    (IPPROTO_IPV6, IPV6_TCLASS),
    (IPPROTO_TCP, TCP_NODELAY),
    (IPPROTO_TCP, TCP_MAXSEG),
)
_FLAGS: Final = 0o4000 | 0o2000000  # SOCK_NONBLOCK, SOCK_CLOEXEC


def _sockets(*, with_icmp: bool) -> list[Allow]:
    rows: list[Allow] = []
    for family, icmp in ((AF_INET, IPPROTO_ICMP), (AF_INET6, IPPROTO_ICMPV6)):
        for kind, protocol in ((SOCK_STREAM, 0), (SOCK_DGRAM, 0), (SOCK_DGRAM, icmp), (SOCK_RAW, icmp)):
            if protocol and not with_icmp:
                continue
            rows.append(
                Allow(
                    SYS_socket,
                    "sockets that programs ask for",
                    [int_is(0, family), int_is(1, kind | _FLAGS), int_is(2, protocol)],
                )
            )
    return rows


_COMMON: Final[list[Allow]] = [
    Allow(SYS_poll, "the loop"),
    Allow(SYS_setfsuid, "sockets belong to the programs' users"),
    Allow(SYS_bind, "ports"),
    Allow(SYS_listen, "servers"),
    Allow(SYS_getsockname, "which port and address it became"),
    Allow(SYS_recvfrom, "requests; rtnetlink"),
    Allow(SYS_close, "descriptors"),
    Allow(SYS_fcntl, "the interpreter's socket objects", [int_is(1, F_GETFL)]),
    Allow(SYS_ioctl, "non-blocking mode", [int_is(1, FIONBIO)]),
    *[
        Allow(SYS_setsockopt, "what programs ask for", [int_is(1, level), int_is(2, name)])
        for level, name in ALLOWED_OPTIONS
    ],
    Allow(SYS_write, "messages on standard error", [int_is(0, 2)]),
    *interpreter.ALLOWED,
]

_REFUSED: Final[list[Refuse]] = [
    *interpreter.REFUSED,
    Refuse(SYS_getpeername, EACCES, "the interpreter's text for a socket object"),
    Refuse(SYS_readlinkat, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_lstat, EACCES, "a traceback looks for source files"),
]


def netns_policy() -> Policy:
    """The allow-list of the network process."""
    allowed = [
        *_COMMON,
        *_sockets(with_icmp=True),
        Allow(SYS_connect, "connections"),
        Allow(SYS_sendto, "datagrams; answers; questions to rtnetlink"),
        Allow(SYS_sendmsg, "giving a socket to the sentry"),
    ]
    return Policy("network", allowed, _REFUSED)


def guarded_policy(channel: int, asking: int) -> Policy:
    """The allow-list where egress decides what may leave: the process sends to the sentry and to rtnetlink only."""
    allowed = [
        *_COMMON,
        *_sockets(with_icmp=False),
        Allow(SYS_sendto, "answers", [int_is(0, channel), is_null(4)]),
        Allow(SYS_sendto, "questions to rtnetlink", [int_is(0, asking), is_null(4)]),
        Allow(SYS_sendmsg, "giving a socket to the sentry", [int_is(0, channel)]),
    ]
    return Policy("network", allowed, _REFUSED)
