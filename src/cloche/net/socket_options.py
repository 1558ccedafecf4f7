"""The options of all sockets at SOL_SOCKET (socket(7), sk_setsockopt and sk_getsockopt of net/core/sock.c)."""

from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN, CAP_NET_RAW
from cloche.abi.errno import (
    EACCES,
    EDOM,
    EINVAL,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK, O_RDWR
from cloche.abi.inet import IPPROTO_TCP, IPPROTO_UDP
from cloche.abi.poll import (
    POLLOUT,
    POLLWRBAND,
    POLLWRNORM,
)
from cloche.abi.seccomp import BPF_MAXINSNS
from cloche.abi.socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    SO_ACCEPTCONN,
    SO_ATTACH_BPF,
    SO_ATTACH_FILTER,
    SO_BINDTODEVICE,
    SO_BINDTOIFINDEX,
    SO_BPF_EXTENSIONS,
    SO_BROADCAST,
    SO_BSDCOMPAT,
    SO_BUF_LOCK,
    SO_BUSY_POLL,
    SO_BUSY_POLL_BUDGET,
    SO_CNX_ADVICE,
    SO_COOKIE,
    SO_DEBUG,
    SO_DETACH_FILTER,
    SO_DETACH_REUSEPORT_BPF,
    SO_DOMAIN,
    SO_DONTROUTE,
    SO_ERROR,
    SO_INCOMING_CPU,
    SO_INCOMING_NAPI_ID,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_LOCK_FILTER,
    SO_MARK,
    SO_MAX_PACING_RATE,
    SO_MEMINFO,
    SO_NETNS_COOKIE,
    SO_NO_CHECK,
    SO_NOFCS,
    SO_OOBINLINE,
    SO_PASSCRED,
    SO_PASSPIDFD,
    SO_PASSRIGHTS,
    SO_PASSSEC,
    SO_PEEK_OFF,
    SO_PEERCRED,
    SO_PEERGROUPS,
    SO_PEERNAME,
    SO_PEERPIDFD,
    SO_PREFER_BUSY_POLL,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVLOWAT,
    SO_RCVMARK,
    SO_RCVPRIORITY,
    SO_RCVTIMEO_NEW,
    SO_RCVTIMEO_OLD,
    SO_RESERVE_MEM,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_RXQ_OVFL,
    SO_SELECT_ERR_QUEUE,
    SO_SNDBUF,
    SO_SNDBUFFORCE,
    SO_SNDLOWAT,
    SO_SNDTIMEO_NEW,
    SO_SNDTIMEO_OLD,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMP_OLD,
    SO_TIMESTAMPING_NEW,
    SO_TIMESTAMPING_OLD,
    SO_TIMESTAMPNS_NEW,
    SO_TIMESTAMPNS_OLD,
    SO_TXREHASH,
    SO_TXTIME,
    SO_TYPE,
    SO_WIFI_STATUS,
    SO_ZEROCOPY,
    SOCK_RAW,
    SOCK_STREAM,
)
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import KERNEL_MEMORY
from cloche.net.filter import SocketFilter
from cloche.net.rights import Carrier
from cloche.net.sockfs import new_inode
from cloche.net.ucred import Ucred, show_ucred
from cloche.vfs.objects import (
    Context,
)
from cloche.vfs.userns import UserNamespace
from cloche.vfs.waitqueue import WaitQueue

DEFAULT_BUFFER: Final = 212992  # net.core.rmem_default and wmem_default
MAX_BUFFER: Final = 4194304  # net.core.rmem_max and wmem_max
MIN_SNDBUF: Final = 4608
MIN_RCVBUF: Final = 2304
INT_MAX: Final = 0x7FFFFFFF
SOCKET_BYTES: Final = 3500  # the memory of a socket in the sentry, beside the open file

_I32: Final = Struct("<i")
_U64: Final = Struct("<Q")
_TWO_I32: Final = Struct("<ii")
_TWO_I64: Final = Struct("<qq")
_NO_UCRED: Final = bytes(4) + b"\xff" * 8

# Flags that are stored without effect.
_FLAG_OPTIONS: Final = frozenset(
    {
        SO_DEBUG,
        SO_DONTROUTE,
        SO_NO_CHECK,
        SO_NOFCS,
        SO_RXQ_OVFL,
        SO_SELECT_ERR_QUEUE,
        SO_PREFER_BUSY_POLL,
        SO_LOCK_FILTER,
        SO_PASSSEC,
        SO_WIFI_STATUS,
        SO_RCVMARK,
        SO_RCVPRIORITY,
    }
)
# All bits of SO_TIMESTAMPING but SOF_TIMESTAMPING_BIND_PHC: there is no such clock.
_TIMESTAMPING_FLAGS: Final = 0x6FFFF
_PASSES: Final = frozenset({SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS})
_INT_OPTIONS: Final = frozenset({SO_BUSY_POLL, SO_INCOMING_CPU, SO_MAX_PACING_RATE, SO_BUF_LOCK})


OUT_EVENTS: Final = POLLOUT | POLLWRNORM | POLLWRBAND


class OptionRange(LinuxError):
    """ERANGE with the length that would have been enough."""

    def __init__(self, needed: int) -> None:
        super().__init__(34)
        self.needed: int = needed


class SocketOptions(Carrier):
    """The options at SOL_SOCKET, and their state."""

    def __init__(
        self, kernel: Kernel, ctx: Context, family: int, kind: int, protocol: int, flags: int
    ) -> None:
        super().__init__(None, new_inode(kernel, ctx), O_RDWR | flags & O_NONBLOCK)
        self.kernel: Kernel = kernel
        self.family: int = family
        self.kind: int = kind
        self.protocol: int = protocol
        self.queue: WaitQueue = WaitQueue()
        self.shut: int = 0  # RCV_SHUTDOWN, SEND_SHUTDOWN
        self.error: int = 0  # sk_err: the next call's errno, positive
        self.rcvbuf: int = DEFAULT_BUFFER
        self.sndbuf: int = DEFAULT_BUFFER
        self.rcvlowat: int = 1
        self.rcvtimeo_ns: int = -1
        self.sndtimeo_ns: int = -1
        self.rcvtimeo_us: int = 0  # as it was set, for getsockopt
        self.sndtimeo_us: int = 0
        self.does_reuse: bool = False
        self.does_reuse_port: bool = False
        self.is_broadcast: bool = False
        self.is_keepalive: bool = False
        self.is_oob_inline: bool = False
        self.has_linger: bool = False
        self.linger_s: int = 0
        self.passes_cred: bool = False
        self.passes_pidfd: bool = False
        self.wants_time: int = 0  # SO_TIMESTAMP*, the option that was set
        self.peek_offset: int = -1
        self.priority: int = 0
        self.mark: int = 0
        self.bound_ifindex: int = 0
        self.other_options: dict[int, int] = {}
        self.filter_program: SocketFilter | None = None  # SO_ATTACH_FILTER
        self.owner_uid: int = ctx.creds.fsuid
        self.is_released: bool = False
        self.is_charged: bool = True
        KERNEL_MEMORY.take(SOCKET_BYTES)

    def take_error(self) -> int:
        """sock_error(): the pending error, negative, which is cleared; 0 if there is none."""
        error = self.error
        if error:
            self.error = 0
            return -error
        return 0

    def peer_name(self) -> bytes:
        """The sockaddr of getpeername(2).  Raises LinuxError."""
        raise LinuxError(EOPNOTSUPP)

    def accepted_name(self) -> bytes:
        """The peer's address for accept(2) and SO_PEERNAME: known even if the connection was reset. Raises
        LinuxError.
        """
        return self.peer_name()

    def net_owner(self) -> UserNamespace | None:
        """The owner of the network namespace that the socket is in."""
        return None

    def has_capability(self, ctx: Context, cap: int) -> bool:
        """Whether the caller has a capability over the socket's network namespace (sk_net_capable)."""
        return ctx.creds.capable_in(self.net_owner(), cap)

    def set_common(self, ctx: Context, name: int, value: bytes) -> int:
        """SOL_SOCKET (sk_setsockopt of net/core/sock.c)."""
        if name == SO_BINDTODEVICE:
            return self._bind_to_device(ctx, value)
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        is_on = number != 0
        if name == SO_REUSEADDR:
            self.does_reuse = is_on
        elif name == SO_REUSEPORT:
            if is_on and self.family not in (AF_INET, AF_INET6):
                return -EOPNOTSUPP
            self.does_reuse_port = is_on
        elif name == SO_BROADCAST:
            self.is_broadcast = is_on
        elif name in (SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            return self._set_buffer(ctx, name, number)
        elif name == SO_KEEPALIVE:
            self.is_keepalive = is_on
        elif name == SO_OOBINLINE:
            self.is_oob_inline = is_on
        elif name == SO_PRIORITY:
            if not self.may_prioritize(ctx, number):
                return -EPERM
            self.priority = number
        elif name == SO_LINGER:
            if len(value) < 8:
                return -EINVAL
            self.has_linger = is_on
            if is_on:
                self.linger_s = min(_I32.unpack_from(value, 4)[0] & 0xFFFFFFFF, INT_MAX)
        elif name == SO_BSDCOMPAT:
            pass
        elif name in _PASSES and not self._may_pass(name):
            return -EOPNOTSUPP
        elif name == SO_PASSCRED:
            self.passes_cred = is_on
        elif name == SO_PASSPIDFD:
            self.passes_pidfd = is_on
        elif name == SO_PASSRIGHTS:
            self.other_options[name] = int(is_on)
        elif name in (SO_TIMESTAMP_OLD, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_OLD, SO_TIMESTAMPNS_NEW):
            self.wants_time = name if is_on else 0
        elif name in (SO_TIMESTAMPING_OLD, SO_TIMESTAMPING_NEW):
            if number & ~_TIMESTAMPING_FLAGS:
                return -EINVAL
            self.other_options[SO_TIMESTAMPING_OLD] = number
        elif name == SO_RCVLOWAT:
            self.rcvlowat = INT_MAX if number < 0 else number if number else 1
        elif name in (SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW, SO_SNDTIMEO_OLD, SO_SNDTIMEO_NEW):
            return self._set_timeout(value, is_receive=name in (SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW))
        elif name == SO_ATTACH_FILTER:
            return self._attach_filter(ctx, value)
        elif name == SO_DETACH_FILTER:
            if self.other_options.get(SO_LOCK_FILTER, 0):
                return -EPERM
            if self.filter_program is None:
                return -ENOENT
            self.filter_program = None
        elif name == SO_LOCK_FILTER and not is_on and self.other_options.get(SO_LOCK_FILTER, 0):
            return -EPERM
        elif name == SO_MARK:
            if not self.is_net_raw(ctx):
                return -EPERM
            self.mark = number
        elif name == SO_PEEK_OFF:
            return self.set_peek_offset(number)
        elif name == SO_ZEROCOPY:
            if self.family not in (AF_INET, AF_INET6) or self.protocol not in (IPPROTO_TCP, IPPROTO_UDP):
                return -EOPNOTSUPP
            if number not in (0, 1):
                return -EINVAL
            self.other_options[name] = number
        elif name == SO_BINDTOIFINDEX:
            if number < 0:
                return -EINVAL
            if self.bound_ifindex and not self.has_capability(ctx, CAP_NET_RAW):
                return -EPERM
            self.bound_ifindex = number
        elif name == SO_CNX_ADVICE:
            return 0
        elif name == SO_BUSY_POLL_BUDGET:
            if number < 0:
                return -EINVAL
            return -EPERM if number and not self.has_capability(ctx, CAP_NET_ADMIN) else 0
        elif name == SO_BUF_LOCK and number & ~3:
            return -EINVAL
        elif name == SO_MAX_PACING_RATE and len(value) >= 8:
            self.other_options[name] = int.from_bytes(value[:8], "little")
        elif name == SO_DEBUG and is_on and not self.has_capability(ctx, CAP_NET_ADMIN):
            return -EACCES
        elif name == SO_PREFER_BUSY_POLL and is_on and not self.has_capability(ctx, CAP_NET_ADMIN):
            return -EPERM
        elif name in _FLAG_OPTIONS:
            self.other_options[name] = int(is_on)
        elif name in _INT_OPTIONS:
            if name == SO_BUSY_POLL and number < 0:
                return -EINVAL
            self.other_options[name] = number
        elif name == SO_TXTIME:
            return -EINVAL if len(value) != 8 else -EOPNOTSUPP
        elif name in (SO_RESERVE_MEM, SO_ATTACH_BPF, SO_DETACH_REUSEPORT_BPF):
            # Memory control groups, BPF programs and groups with one do not exist here.
            return -EOPNOTSUPP if name == SO_RESERVE_MEM and number >= 0 else -EINVAL
        elif name == SO_TXREHASH:
            if self.protocol != IPPROTO_TCP or self.family not in (AF_INET, AF_INET6):
                return -EOPNOTSUPP
            if not -1 <= number <= 1:
                return -EINVAL
            self.other_options[name] = 1 if number == -1 else number
        else:
            return -ENOPROTOOPT
        return 0

    def takes_files(self) -> bool:
        """Whether descriptors may be sent to it (SO_PASSRIGHTS)."""
        return self.other_options.get(SO_PASSRIGHTS, 1) != 0

    def _may_pass(self, name: int) -> bool:
        """Whether credentials, descriptors and the like travel with what the socket receives."""
        return self.family == AF_UNIX or (self.family == AF_NETLINK and name in (SO_PASSCRED, SO_PASSSEC))

    def _attach_filter(self, ctx: Context, value: bytes) -> int:
        """SO_ATTACH_FILTER (struct sock_fprog). TCP has no filters here: a dropped segment would be sent again for
        ever.
        """
        if len(value) != 16:
            return -EINVAL
        if self.other_options.get(SO_LOCK_FILTER, 0):
            return -EPERM
        if self.kind == SOCK_STREAM and self.family != AF_UNIX:
            return -EOPNOTSUPP
        count = value[0] | value[1] << 8
        pointer = int.from_bytes(value[8:16], "little")
        if pointer == 0 or not 0 < count <= BPF_MAXINSNS:
            return -EINVAL
        self.filter_program = SocketFilter(ctx.user_memory().read(pointer, count * 8))
        return 0

    def set_peek_offset(self, value: int) -> int:
        """SO_PEEK_OFF, which only some protocols have."""
        return -EOPNOTSUPP

    def may_prioritize(self, ctx: Context, priority: int) -> bool:
        """Whether the caller may set SO_PRIORITY to this value (sk_set_prio_allowed)."""
        return 0 <= priority <= 6 or self.is_net_raw(ctx)

    def is_net_raw(self, ctx: Context) -> bool:
        return self.has_capability(ctx, CAP_NET_RAW) or self.has_capability(ctx, CAP_NET_ADMIN)

    def _set_buffer(self, ctx: Context, name: int, value: int) -> int:
        if name in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            if not self.has_capability(ctx, CAP_NET_ADMIN):
                return -EPERM
            value = min(max(value, 0), 16 * MAX_BUFFER)  # a limit of the sentry's own
        else:
            value = min(value & 0xFFFFFFFF, MAX_BUFFER)
        if name in (SO_SNDBUF, SO_SNDBUFFORCE):
            self.sndbuf = max(value * 2, MIN_SNDBUF)
            self.queue.wake(OUT_EVENTS)
        else:
            self.rcvbuf = max(value * 2, MIN_RCVBUF)
            self.receive_buffer_changed()
        return 0

    def receive_buffer_changed(self) -> None:
        """SO_RCVBUF was set."""

    def _set_timeout(self, value: bytes, *, is_receive: bool) -> int:
        if len(value) < 16:
            return -EINVAL
        fields: tuple[int, int] = _TWO_I64.unpack_from(value, 0)
        seconds, micros = fields
        if micros < 0 or micros >= 1_000_000:
            return -EDOM
        total_us = 0
        limit_ns = -1
        if seconds < 0:
            limit_ns = 0
        elif (seconds or micros) and seconds < 1 << 33:
            # In jiffies of 4 ms, rounded up, as Linux keeps it.
            total_us = seconds * 1_000_000 + (micros + 3999) // 4000 * 4000
            limit_ns = total_us * 1000
        if is_receive:
            self.rcvtimeo_ns, self.rcvtimeo_us = limit_ns, total_us
        else:
            self.sndtimeo_ns, self.sndtimeo_us = limit_ns, total_us
        return 0

    def _bind_to_device(self, ctx: Context, value: bytes) -> int:
        name = value[:15].split(b"\0", 1)[0]
        if self.bound_ifindex and not self.has_capability(ctx, CAP_NET_RAW):
            return -EPERM
        if not name:
            self.bound_ifindex = 0
        elif name == b"lo":
            self.bound_ifindex = 1
        else:
            return -ENODEV
        return 0

    def get_common(self, ctx: Context, name: int, length: int) -> bytes:
        """SOL_SOCKET (sk_getsockopt).  Raises LinuxError."""
        if length < 0:
            raise LinuxError(EINVAL)
        if name == SO_LINGER:
            return _TWO_I32.pack(
                int(self.has_linger), self.linger_s if self.has_linger or self.linger_s else 0
            )
        if name in (SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW):
            return _TWO_I64.pack(self.rcvtimeo_us // 1_000_000, self.rcvtimeo_us % 1_000_000)
        if name in (SO_SNDTIMEO_OLD, SO_SNDTIMEO_NEW):
            return _TWO_I64.pack(self.sndtimeo_us // 1_000_000, self.sndtimeo_us % 1_000_000)
        if name == SO_PEERCRED:
            peer = self.peer_cred()
            return show_ucred(ctx, peer.pack()) if peer is not None else _NO_UCRED
        if name == SO_PEERGROUPS:
            return self._peer_groups(length)
        if name == SO_PEERPIDFD:
            return self._peer_pidfd(ctx)
        if name == SO_PEERNAME:
            try:
                found = self.accepted_name()
            except LinuxError:
                raise LinuxError(ENOTCONN)
            if len(found) < length:
                raise LinuxError(EINVAL)
            return found
        if name == SO_BINDTODEVICE:
            return self._bound_device(length)
        if name == SO_COOKIE or name == SO_NETNS_COOKIE:
            if length < 8 or (length != 8 and name == SO_NETNS_COOKIE):
                raise LinuxError(EINVAL)
            return _U64.pack(self.inode.ino if name == SO_COOKIE else 1)
        if name == SO_MEMINFO:
            return self.memory_info()
        if name in (SO_TIMESTAMPING_OLD, SO_TIMESTAMPING_NEW):
            return _TWO_I32.pack(self.other_options.get(SO_TIMESTAMPING_OLD, 0), 0)
        if name == SO_TXTIME:
            return bytes(8)
        if name == SO_ATTACH_FILTER and self.filter_program is None:  # SO_GET_FILTER
            return b""
        if name == SO_MAX_PACING_RATE:
            rate = self.other_options.get(name, -1)
            if length >= 8:
                return _U64.pack(rate & 0xFFFFFFFFFFFFFFFF)
            return _I32.pack(-1 if not 0 <= rate <= INT_MAX else rate)
        return _I32.pack(self._int_option(name))

    def _int_option(self, name: int) -> int:
        if name == SO_TYPE:
            return self.kind
        if name == SO_ERROR:
            return -self.take_error()
        if name == SO_DOMAIN:
            return self.family
        if name == SO_PROTOCOL:
            return self.protocol
        if name == SO_SNDBUF:
            return self.sndbuf
        if name == SO_RCVBUF:
            return self.rcvbuf
        if name == SO_REUSEADDR:
            return int(self.does_reuse)
        if name == SO_REUSEPORT:
            return int(self.does_reuse_port)
        if name == SO_BROADCAST:
            return int(self.is_broadcast)
        if name == SO_KEEPALIVE:
            return int(self.is_keepalive)
        if name == SO_OOBINLINE:
            return int(self.is_oob_inline)
        if name == SO_PRIORITY:
            return self.priority
        if name in _PASSES and not self._may_pass(name):
            raise LinuxError(EOPNOTSUPP)
        if name == SO_PASSCRED:
            return int(self.passes_cred)
        if name == SO_PASSPIDFD:
            return int(self.passes_pidfd)
        if name == SO_PASSRIGHTS:
            return self.other_options.get(name, 1)
        if name == SO_RCVLOWAT:
            return self.rcvlowat
        if name == SO_SNDLOWAT:
            return 1
        if name == SO_ACCEPTCONN:
            return int(self.is_listening())
        if name == SO_MARK:
            return self.mark
        if name == SO_BINDTOIFINDEX:
            return self.bound_ifindex
        if name == SO_PEEK_OFF:
            if self.kind == SOCK_RAW or self.family not in (AF_UNIX, AF_INET, AF_INET6):
                raise LinuxError(EOPNOTSUPP)
            return self.peek_offset
        if name in (SO_TIMESTAMP_OLD, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_OLD, SO_TIMESTAMPNS_NEW):
            return int(self.wants_time == name)
        if name == SO_TXREHASH:
            if self.protocol != IPPROTO_TCP or self.family not in (AF_INET, AF_INET6):
                raise LinuxError(EOPNOTSUPP)
            return self.other_options.get(name, 1)
        if name == SO_BPF_EXTENSIONS:
            return 64
        if name == SO_INCOMING_CPU:
            return self.other_options.get(name, -1)
        if (
            name in (SO_INCOMING_NAPI_ID, SO_BSDCOMPAT, SO_ZEROCOPY, SO_RESERVE_MEM)
            or name in _FLAG_OPTIONS
            or name in _INT_OPTIONS
        ):
            return self.other_options.get(name, 0)
        raise LinuxError(ENOPROTOOPT)

    def _bound_device(self, length: int) -> bytes:
        if self.bound_ifindex == 0:
            return b""
        if length < 16:
            raise LinuxError(EINVAL)
        return b"lo\0"

    def memory_info(self) -> bytes:
        """SO_MEMINFO: nine counters."""
        return _TWO_I32.pack(0, self.rcvbuf) + _TWO_I32.pack(0, self.sndbuf) + bytes(20)

    def peer_cred(self) -> Ucred | None:
        """SO_PEERCRED."""
        return None

    def _peer_groups(self, length: int) -> bytes:
        peer = self.peer_cred()
        if peer is None:
            raise LinuxError(ENODATA)
        data = b"".join([_I32.pack(group) for group in peer.groups])
        if length < len(data):
            raise OptionRange(len(data))
        return data

    def _peer_pidfd(self, ctx: Context) -> bytes:
        peer = self.peer_cred()
        if peer is None or peer.group is None:
            raise LinuxError(ENODATA)
        opener = self.kernel.hooks.open_pidfd
        if opener is None or not isinstance(ctx, Task):
            raise LinuxError(EINVAL)
        if not peer.group.is_alive():
            raise LinuxError(ESRCH)
        return _I32.pack(opener(ctx, peer.group))

    def is_listening(self) -> bool:
        """SO_ACCEPTCONN."""
        return False
