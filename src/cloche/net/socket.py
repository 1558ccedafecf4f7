"""The base of every socket: its inode, the options that all families share, and the interface that the system
calls use.

Owns `SocketFile` (struct socket and struct sock in one; its options: `net.socket_options`) and the data that travels
beside a message's bytes (`Outgoing`, `Incoming`). A family derives from `SocketFile` and overrides what it supports;
the defaults return what Linux returns for an operation that a protocol does not have (sock_no_*).

Rules:
- Nothing blocks: -EAGAIN means "would wait"; the system call layer waits on `wait_queue()` and tries again.
- Addresses are the bytes of a sockaddr as the guest gave them, at least two and at most 128 of them.
- `send` and `recv` may transfer a part of a stream; the caller goes on.
"""

from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    ENOPROTOOPT,
    ENOTTY,
    EOPNOTSUPP,
    LinuxError,
)
from cloche.abi.ioctl import SIOCGPGRP, SIOCSPGRP
from cloche.abi.limits import SOMAXCONN
from cloche.abi.poll import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDBAND,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from cloche.abi.socket import (
    AF_UNIX,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SOCK_STREAM,
    SOL_SOCKET,
)
from cloche.kernel.task import ThreadGroup
from cloche.mm.quota import KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.socket_options import SOCKET_BYTES, SocketOptions
from cloche.net.ucred import Ucred
from cloche.vfs.objects import (
    Context,
    FileDescription,
)
from cloche.vfs.waitqueue import WaitQueue

RCV_SHUTDOWN: Final = 1
SEND_SHUTDOWN: Final = 2
SHUTDOWN_MASK: Final = 3

IN_EVENTS: Final = POLLIN | POLLRDNORM
IN_WAKE: Final = POLLIN | POLLRDNORM | POLLRDBAND
OUT_EVENTS: Final = POLLOUT | POLLWRNORM | POLLWRBAND
STATE_WAKE: Final = IN_WAKE | OUT_EVENTS | POLLRDHUP | POLLHUP | POLLERR


class Outgoing:
    """The arguments of sendmsg(2) beside the data. The files are references that `send` takes over
    by clearing them.
    """

    def __init__(self, name: bytes | None = None) -> None:
        self.name: bytes | None = name
        self.control: list[tuple[int, int, bytes]] = []
        self.cred: Ucred | None = None  # SCM_CREDENTIALS
        self.files: list[FileDescription] | None = None  # SCM_RIGHTS
        self.is_parsed: bool = False
        self.mark: int | None = None  # SO_MARK and SO_PRIORITY of this message
        self.priority: int | None = None

    def drop(self) -> None:
        """Release the files that `send` did not take."""
        files = self.files
        if files is not None:
            self.files = None
            for file in files:
                file.put()


class Incoming:
    """The results of recvmsg(2) beside the data."""

    def __init__(self) -> None:
        self.name: bytes = b""  # source address, empty if there is none
        self.flags: int = 0  # MSG_* to report
        self.control: list[tuple[int, int, bytes]] = []  # (level, type, data)
        self.files: list[FileDescription] | None = None  # references: SCM_RIGHTS
        self.pidfd_of: ThreadGroup | None = None  # SCM_PIDFD
        self.has_pidfd: bool = False

    def drop(self) -> None:
        """Release the files."""
        files = self.files
        if files is not None:
            self.files = None
            for file in files:
                file.put()


class IpPacket:
    """An IP packet on lo as raw sockets and AF_PACKET see it; `data` is all of it."""

    def __init__(
        self, data: bytes, protocol: int, source: bytes, dest: bytes, header_bytes: int, ttl: int, tos: int
    ) -> None:
        self.data: bytes = data
        self.protocol: int = protocol
        self.source: bytes = source
        self.dest: bytes = dest
        self.header_bytes: int = header_bytes
        self.ttl: int = ttl
        self.tos: int = tos
        self.mark: int = 0
        self.priority: int = 0


class SocketFile(SocketOptions):
    """A socket.  `kind` is its SOCK_* type; `flags` carry O_NONBLOCK."""

    def uncharge(self) -> None:
        """Return the charge of a socket that is released; objects that still refer to it are charged themselves."""
        if self.is_charged:
            self.is_charged = False
            KERNEL_MEMORY.give(SOCKET_BYTES)

    # -- the socket calls --------------------------------------------------------------------------------
    def bind(self, ctx: Context, addr: bytes) -> int:
        """bind(2)."""
        return -EOPNOTSUPP

    def listen_limit(self) -> int:
        """net.core.somaxconn of the socket's network."""
        return SOMAXCONN

    def listen(self, ctx: Context, backlog: int) -> int:
        """listen(2); `backlog` is already at most `listen_limit()`."""
        return -EOPNOTSUPP

    def accept(self, ctx: Context, flags: int) -> "SocketFile":
        """The next connection.  Raises LinuxError, EAGAIN if there is none yet."""
        raise LinuxError(EOPNOTSUPP)

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        """connect(2): 0, -errno, -EINPROGRESS for one that goes on; -EAGAIN to wait and call again."""
        return -EOPNOTSUPP

    def connect_timed_out(self) -> int:
        """The result of a connect that waited until SO_SNDTIMEO had passed."""
        return -EAGAIN

    def pair_with(self, other: "SocketFile") -> int:
        """socketpair(2)."""
        return -EOPNOTSUPP

    def local_name(self) -> bytes:
        """The sockaddr of getsockname(2).  Raises LinuxError."""
        raise LinuxError(EOPNOTSUPP)

    def shutdown(self, ctx: Context, how: int) -> int:
        """shutdown(2); `how` is valid."""
        return -EOPNOTSUPP

    def send_refusal(self) -> int:
        """The -errno of a message whose control messages are not even looked at, else 0."""
        return 0

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        """Send from `src`: bytes, or -errno (-EAGAIN: no room)."""
        return -EOPNOTSUPP

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """Receive into `dst`: bytes, 0 at the end of a stream, or -errno (-EAGAIN: nothing has arrived)."""
        return -EOPNOTSUPP

    def overhear(self, packet: IpPacket) -> None:
        """A packet passes on lo; only for sockets in `NetStack.taps`."""

    def is_stream(self) -> bool:
        """Whether partial transfers go on, and a broken one raises SIGPIPE."""
        return self.kind == SOCK_STREAM

    # -- FileDescription ---------------------------------------------------------------------------------
    def is_seekable(self) -> bool:
        return False

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        return self.recv(ctx, dst, 0, None)

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        return self.send(ctx, src, 0, None)

    def write_continues(self) -> bool:
        return self.kind == SOCK_STREAM

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def wait_limit_ns(self, *, is_write: bool) -> int:
        return self.sndtimeo_ns if is_write else self.rcvtimeo_ns

    def link_text(self) -> bytes | None:
        return b"socket:[%d]" % self.inode.ino

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        memory = ctx.user_memory()
        if command == SIOCGPGRP or command == 0x8903:  # SIOCGPGRP, FIOGETOWN
            memory.write_i32(arg, self.owner_pid)
            return 0
        if command == SIOCSPGRP or command == 0x8901:
            pid = memory.read_i32(arg)
            self.owner_pid = abs(pid)
            self.owner_type = 2 if pid < 0 else 1
            self.owner_creds = ctx.creds
            return 0
        return -ENOTTY

    # -- options -----------------------------------------------------------------------------------------
    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        """setsockopt(2)."""
        if level == SOL_SOCKET:
            return self.set_common(ctx, name, value)
        return -ENOPROTOOPT if self.family != AF_UNIX else -EOPNOTSUPP

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        """The whole value; the caller cuts it to `length`.  Raises LinuxError."""
        if level == SOL_SOCKET:
            return self.get_common(ctx, name, length)
        raise LinuxError(ENOPROTOOPT if self.family != AF_UNIX else EOPNOTSUPP)

    def question_size(self, level: int, name: int) -> int:
        """How many bytes getsockopt(2) reads of its buffer, if they state the question; then `answer` is called."""
        return 0

    def answer(self, ctx: Context, level: int, name: int, question: bytes) -> bytes:
        """The whole value of an option whose buffer states the question.  Raises LinuxError."""
        raise LinuxError(ENOPROTOOPT)


def how_mask(how: int) -> int:
    """SHUT_* as RCV_SHUTDOWN and SEND_SHUTDOWN bits."""
    if how == SHUT_RD:
        return RCV_SHUTDOWN
    if how == SHUT_WR:
        return SEND_SHUTDOWN
    assert how == SHUT_RDWR
    return SHUTDOWN_MASK


def small_head_bytes(length: int) -> int:
    """`head_bytes` for packets of IP, of which short ones come from a cache of their own (skb_small_head_cache)."""
    return 832 if length <= 256 else head_bytes(length)


def head_bytes(length: int) -> int:
    """The charge for a linear buffer of `length` bytes: its slab object and struct sk_buff (alloc_skb)."""
    need = (length + 63 & ~63) + 320
    size = 512
    while size < need:
        size <<= 1
    return size + 256
