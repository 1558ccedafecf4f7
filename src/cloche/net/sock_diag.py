"""NETLINK_SOCK_DIAG: the sockets of the sandbox as ss(8) lists them (sock_diag(7)).

Dumps TCP, UDP and Unix sockets, and aborts TCP connections (ss -K); a single socket cannot be looked up.
"""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN
from cloche.abi.errno import ECONNABORTED, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EPERM, LinuxError
from cloche.abi.inet import IPPROTO_TCP, IPPROTO_UDP
from cloche.abi.netlink import NLM_F_DUMP
from cloche.abi.sock_diag import (
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    UDIAG_SHOW_NAME,
    UDIAG_SHOW_PEER,
    UDIAG_SHOW_RQLEN,
    UNIX_DIAG_NAME,
    UNIX_DIAG_PEER,
    UNIX_DIAG_RQLEN,
)
from cloche.abi.socket import AF_INET, AF_INET6, AF_UNIX, SHUT_RD
from cloche.abi.socket_structs import pack_sockaddr_un
from cloche.abi.tcp import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.inet_addr import mapped
from cloche.net.inet_base import InetSocket, NetStack
from cloche.net.nlmsg import Dump, Reply, attribute, attribute_u32
from cloche.net.tcp import TcpSocket
from cloche.net.udp import UdpSocket
from cloche.net.unix_base import CONNECTED, LISTENING, Names, UnixSocket, names_of
from cloche.vfs.objects import Context

_SOME: Final = 64  # sockets before other events get their turn
_MEMINFO: Final = Struct("<IIII")
_SKMEMINFO: Final = Struct("<IIIIIIIII")
_SHUTDOWN: Final = 8  # INET_DIAG_*
_SKV6ONLY: Final = 11
_ID_BYTES: Final = 48  # struct inet_diag_sockid
_REQUEST: Final = Struct("<BBBxI")
_UNIX_REQUEST: Final = Struct("<BBHIII")
_MESSAGE: Final = Struct("<BBBB")
_TAIL: Final = Struct("<IIIII")
_UNIX_MESSAGE: Final = Struct("<BBBxIII")


def answer(stack: NetStack, ctx: Context, reply: Reply, kind: int, flags: int, body: bytes) -> int:
    """Answer one request: 0, or a positive errno."""
    if kind == SOCK_DESTROY:
        return _destroy(stack, ctx, body)
    if kind != SOCK_DIAG_BY_FAMILY:
        return EINVAL
    if len(body) < 8:
        return EINVAL
    family = body[0]
    if flags & NLM_F_DUMP != NLM_F_DUMP:
        return EOPNOTSUPP
    if family == AF_UNIX:
        return _unix(stack, reply, body)
    if family not in (AF_INET, AF_INET6):
        return ENOENT
    protocol, states = body[1], _REQUEST.unpack_from(body, 0)[3]
    if protocol not in (IPPROTO_TCP, IPPROTO_UDP):
        return ENOENT
    reply.rest = InetDump(stack, family, protocol, states, body[2])
    return 0


class SocketDump(Dump):
    """A dump of the sockets that existed when it began, some at a time; they stay in memory until it ends."""

    def __init__(self, count: int) -> None:
        self.at: int = 0
        self.charged: int = 0
        size = 8 * count
        if not KERNEL_MEMORY.has_room(size):
            raise LinuxError(ENOMEM)
        KERNEL_MEMORY.take(size)
        self.charged = size

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.charged)


class InetDump(SocketDump):
    """TCP or UDP sockets of a family that are in one of some states."""

    def __init__(self, stack: NetStack, family: int, protocol: int, states: int, wanted: int) -> None:
        super().__init__(len(stack.sockets))
        self.stack: NetStack = stack
        self.sockets: list[InetSocket] = list(stack.sockets)
        self.family: int = family
        self.protocol: int = protocol
        self.states: int = states
        self.wanted: int = wanted

    def more(self, reply: Reply) -> bool:
        end = min(self.at + _SOME, len(self.sockets))
        for sock in self.sockets[self.at : end]:
            if sock.family != self.family or sock.protocol != self.protocol or sock.lport == 0:
                continue
            state = state_of(sock)
            if self.states >> state & 1 and sock in self.stack.sockets:
                reply.add(SOCK_DIAG_BY_FAMILY, _inet(sock, state, self.wanted))
        self.at = end
        return end < len(self.sockets)


def _destroy(stack: NetStack, ctx: Context, body: bytes) -> int:
    """SOCK_DESTROY: end a connection with ECONNABORTED at this end, with a reset at the other (tcp_abort)."""
    if len(body) < 8 + _ID_BYTES:
        return EINVAL
    if not ctx.creds.capable_in(stack.user_ns, CAP_NET_ADMIN):
        return EPERM
    if body[0] not in (AF_INET, AF_INET6) or body[1] != IPPROTO_TCP:
        return EOPNOTSUPP
    wanted = body[8 : 8 + 36]
    for sock in list(stack.sockets):
        if isinstance(sock, TcpSocket) and sock.family == body[0] and _identity(sock) == wanted:
            if sock.state == TCP_CLOSE:
                continue
            sock.error = ECONNABORTED
            if sock.is_listening():
                sock.shutdown(ctx, SHUT_RD)
            else:
                sock.abort()
            return 0
    return ENOENT


def state_of(sock: InetSocket) -> int:
    """TCP_*; a UDP socket's state is established or closed."""
    if isinstance(sock, TcpSocket):
        return sock.state
    return TCP_ESTABLISHED if sock.rport else TCP_CLOSE


def queues_of(sock: InetSocket) -> tuple[int, int]:
    """Unread and unsent bytes; of a listener the accept queue and its limit."""
    if isinstance(sock, TcpSocket):
        if sock.is_listening():
            return len(sock.accept_queue), sock.backlog
        peer = sock.peer
        unsent = max(peer.rx_bytes - (peer.rcvbuf >> 1), 0) if peer is not None else 0
        return sock.rx_bytes + sock.fin_unread, unsent + len(sock.unsent)
    if isinstance(sock, UdpSocket):
        return sock.charged, 0
    return 0, 0


def _address(sock: InetSocket, addr: bytes) -> bytes:
    if sock.family == AF_INET6 and len(addr) == 4 and any(addr):
        return mapped(addr)
    return addr.ljust(16, b"\0")


def _identity(sock: InetSocket) -> bytes:
    """Ports and addresses, as struct inet_diag_sockid begins."""
    return (
        sock.lport.to_bytes(2, "big")
        + sock.rport.to_bytes(2, "big")
        + _address(sock, sock.laddr)
        + _address(sock, sock.raddr)
    )


def _inet(sock: InetSocket, state: int, wanted: int) -> bytes:
    """struct inet_diag_msg and the attributes whose bits are in `wanted`."""
    unread, unsent = queues_of(sock)
    ino = sock.inode.ino
    out = (
        _MESSAGE.pack(sock.family, state, 0, 0)
        + _identity(sock)
        + bytes(4)
        + ino.to_bytes(8, "little")
        + _TAIL.pack(0, unread, unsent, sock.owner_uid, ino if not is_embryo(sock) else 0)
        + attribute(_SHUTDOWN, bytes([sock.shut]))
    )
    if sock.family == AF_INET6 and state in (TCP_LISTEN, TCP_CLOSE):
        is_only = sock.is_v6_only or (len(sock.laddr) == 16 and any(sock.laddr))
        out += attribute(_SKV6ONLY, bytes([int(is_only)]))
    if wanted & 1:  # INET_DIAG_MEMINFO
        out += attribute(1, _MEMINFO.pack(unread, unsent, 0, unsent))
    if wanted & 1 << 6:  # INET_DIAG_SKMEMINFO
        row = _SKMEMINFO.pack(unread, sock.rcvbuf, 0, sock.sndbuf, 0, unsent, 0, 0, 0)
        out += attribute(7, row)
    if isinstance(sock, TcpSocket):
        if wanted & 1 << 1:  # INET_DIAG_INFO
            out += attribute(2, sock.info_bytes())
        if wanted & 1 << 3:  # INET_DIAG_CONG
            out += attribute(4, sock.congestion + b"\0")
    return out


def is_embryo(sock: InetSocket) -> bool:
    """Whether a connection was not accepted yet: it has no inode to show."""
    return isinstance(sock, TcpSocket) and sock.is_waiting


def unix_state(sock: UnixSocket) -> int:
    """A Unix socket's state in terms of TCP."""
    if sock.state == LISTENING:
        return 10
    return TCP_ESTABLISHED if sock.state == CONNECTED else TCP_CLOSE


def _unix(stack: NetStack, reply: Reply, body: bytes) -> int:
    if len(body) < 24:
        return EINVAL
    states: int = _UNIX_REQUEST.unpack_from(body, 0)[3]
    show: int = Struct("<I").unpack_from(body, 12)[0]
    reply.rest = UnixDump(names_of(stack), states, show)
    return 0


class UnixDump(SocketDump):
    """Unix sockets that are in one of some states."""

    def __init__(self, names: Names, states: int, show: int) -> None:
        super().__init__(len(names.sockets))
        self.names: Names = names
        self.sockets: list[UnixSocket] = list(names.sockets)
        self.states: int = states
        self.show: int = show

    def more(self, reply: Reply) -> bool:
        end = min(self.at + _SOME, len(self.sockets))
        for sock in self.sockets[self.at : end]:
            state = unix_state(sock)
            if self.states >> state & 1 and sock in self.names.sockets:
                reply.add(SOCK_DIAG_BY_FAMILY, _unix_message(sock, state, self.show))
        self.at = end
        return end < len(self.sockets)


def _unix_message(sock: UnixSocket, state: int, show: int) -> bytes:
    """struct unix_diag_msg and the attributes whose bits are in `show`."""
    ino = sock.inode.ino
    found = _UNIX_MESSAGE.pack(AF_UNIX, sock.kind, state, ino, ino & 0xFFFFFFFF, 0)
    if show & UDIAG_SHOW_NAME and sock.name is not None:
        name = pack_sockaddr_un(sock.name)[2:]
        found += attribute(UNIX_DIAG_NAME, name.rstrip(b"\0") if name[:1] != b"\0" else name)
    if show & UDIAG_SHOW_PEER and sock.peer is not None:
        found += attribute_u32(UNIX_DIAG_PEER, sock.peer.inode.ino)
    if show & UDIAG_SHOW_RQLEN:
        unread = len(sock.embryos) if sock.state == LISTENING else sock.unread_bytes()
        room = sock.backlog if sock.state == LISTENING else sock.wmem
        found += attribute(UNIX_DIAG_RQLEN, Struct("<II").pack(unread, room))
    return found
