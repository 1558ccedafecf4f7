"""The options of a TCP socket, and its struct tcp_info (tcp(7), do_tcp_setsockopt, tcp_get_info)."""

from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN
from cloche.abi.errno import (
    EINVAL,
    ENOENT,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    LinuxError,
)
from cloche.abi.inet import IPPROTO_TCP
from cloche.abi.socket import SOCK_STREAM
from cloche.abi.tcp import (
    TCP_AO_REPAIR,
    TCP_CC_INFO,
    TCP_CLOSE,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_DELACK_MAX_US,
    TCP_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_KEY,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_INFO,
    TCP_INQ,
    TCP_IS_MPTCP,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_LISTEN,
    TCP_MAXSEG,
    TCP_MD5SIG,
    TCP_MD5SIG_EXT,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TCP_QUEUE_SEQ,
    TCP_QUICKACK,
    TCP_REPAIR,
    TCP_REPAIR_OPTIONS,
    TCP_REPAIR_QUEUE,
    TCP_REPAIR_WINDOW,
    TCP_RTO_MAX_MS,
    TCP_RTO_MIN_US,
    TCP_SAVE_SYN,
    TCP_SAVED_SYN,
    TCP_SYNCNT,
    TCP_THIN_DUPACK,
    TCP_THIN_LINEAR_TIMEOUTS,
    TCP_TIMESTAMP,
    TCP_TX_DELAY,
    TCP_ULP,
    TCP_USER_TIMEOUT,
    TCP_WINDOW_CLAMP,
    TCP_ZEROCOPY_RECEIVE,
)
from cloche.kernel.task import Kernel
from cloche.kernel.timers import monotonic_ns
from cloche.net.inet_base import InetSocket
from cloche.vfs.objects import Context

LO_MSS: Final = 65483
_I32: Final = Struct("<i")
_INFO_BYTES: Final = 280  # of struct tcp_info
_INFO: Final = Struct("<8B24I4Q4I")

# Options that are stored without effect: (lowest, highest, default).
_RANGES: Final[dict[int, tuple[int, int, int]]] = {
    TCP_KEEPIDLE: (1, 32767, 7200),
    TCP_KEEPINTVL: (1, 32767, 75),
    TCP_KEEPCNT: (1, 127, 9),
    TCP_SYNCNT: (1, 127, 6),
    TCP_USER_TIMEOUT: (0, 0x7FFFFFFF, 0),
    TCP_SAVE_SYN: (0, 2, 0),
    TCP_INQ: (0, 1, 0),
    TCP_FASTOPEN_NO_COOKIE: (0, 1, 0),
    TCP_FASTOPEN_CONNECT: (0, 1, 0),
    TCP_THIN_LINEAR_TIMEOUTS: (0, 1, 0),
    TCP_RTO_MAX_MS: (1000, 120_000, 120_000),
}
_DEFAULTS: Final[dict[int, str]] = {
    TCP_KEEPIDLE: "ipv4/tcp_keepalive_time",
    TCP_KEEPINTVL: "ipv4/tcp_keepalive_intvl",
    TCP_KEEPCNT: "ipv4/tcp_keepalive_probes",
    TCP_SYNCNT: "ipv4/tcp_syn_retries",
}
_BOOLEANS: Final = frozenset({TCP_NODELAY, TCP_CORK, TCP_QUICKACK})


class TcpOptions(InetSocket):
    """Options, and the figures that they show."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, SOCK_STREAM, IPPROTO_TCP, flags)
        self.state: int = TCP_CLOSE
        self.backlog: int = 0
        self.rx: deque[bytes] = deque()  # what has arrived
        self.rx_bytes: int = 0
        self.tcp: dict[int, int] = {}
        self.congestion: bytes = self.stack.parameters.congestion
        self.is_corked: bool = False  # TCP_CORK
        self.unsent: bytes = b""  # less than a segment, held back by TCP_CORK or MSG_MORE
        self.is_sndbuf_set: bool = False
        self.is_rcvbuf_set: bool = False
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.syn_acked: int = 0  # 1: this end has connected; this and the next two are for TCP_INFO
        self.fin_sent: int = 0
        self.fin_seen: int = 0

    def push(self) -> None:
        """Send what was held back."""

    def is_connected(self) -> bool:
        """Whether it has a peer."""
        return False

    def waiting_connections(self) -> int:
        """The number of connections that can be accepted."""
        return 0

    def set_common(self, ctx: Context, name: int, value: bytes) -> int:
        result = super().set_common(ctx, name, value)
        if name in (7, 32):  # SO_SNDBUF, SO_SNDBUFFORCE
            self.is_sndbuf_set = True
        elif name in (8, 33):
            self.is_rcvbuf_set = True
        return result

    def set_protocol(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level != IPPROTO_TCP:
            return -ENOPROTOOPT
        if name == TCP_CONGESTION:
            wanted = value[:15].split(b"\0", 1)[0]
            if not value:
                return -EINVAL
            if wanted not in (b"cubic", b"reno"):
                return -ENOENT
            self.congestion = wanted
            return 0
        if name == TCP_ULP:
            return -ENOENT if value else -EINVAL
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name in _BOOLEANS:
            self.tcp[name] = int(number != 0)
            if name == TCP_CORK:
                self.is_corked = number != 0
            if (name == TCP_CORK and not number) or (name == TCP_NODELAY and number):
                self.push()
            return 0
        limits = _RANGES.get(name)
        if limits is not None:
            if not limits[0] <= number <= limits[1]:
                return -EINVAL
            if name == TCP_FASTOPEN_CONNECT and self.state != TCP_CLOSE:
                return -EINVAL
            self.tcp[name] = number
            return 0
        if name == TCP_MAXSEG:
            if number and not 88 <= number <= 32767:
                return -EINVAL
            self.tcp[name] = number
            return 0
        if name == TCP_LINGER2:
            if number:
                self.tcp[name] = -1 if number < 0 else min(number, 120)
            else:
                self.tcp.pop(name, None)
            return 0
        if name == TCP_DEFER_ACCEPT:
            self.tcp[name] = defer_seconds(number)
            return 0
        if name == TCP_WINDOW_CLAMP:
            if number == 0:
                if self.state != TCP_CLOSE:
                    return -EINVAL
                self.tcp[name] = 0
            else:
                self.tcp[name] = max(number, 1152)
            return 0
        if name == TCP_FASTOPEN:
            if number < 0 or self.state not in (TCP_CLOSE, TCP_LISTEN):
                return -EINVAL
            self.tcp[name] = min(number, self.listen_limit())
            return 0
        if name == TCP_NOTSENT_LOWAT:
            self.tcp[name] = number
            return 0
        if name == TCP_THIN_DUPACK:
            return 0 if number in (0, 1) else -EINVAL
        if name == TCP_AO_REPAIR:
            return -EPERM
        if name in (TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_FASTOPEN_KEY):
            return -EINVAL  # not a valid length
        if name in (TCP_RTO_MIN_US, TCP_DELACK_MAX_US):
            jiffies = (number + 3999) // 4000
            if not 2 <= jiffies <= 50:
                return -EINVAL
            self.tcp[name] = jiffies * 4000
            return 0
        if name in (TCP_REPAIR_QUEUE, TCP_REPAIR_WINDOW):
            return -EPERM
        if name in (TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS):
            return -EINVAL
        if name == TCP_REPAIR:
            return -EPERM if not self.has_capability(ctx, CAP_NET_ADMIN) else -EOPNOTSUPP
        if name == TCP_TIMESTAMP:
            return -EPERM
        if name == TCP_TX_DELAY:
            if not 0 <= number < 1 << 28:
                return -EINVAL
            self.tcp[name] = number
            return 0
        return -ENOPROTOOPT

    def get_protocol(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level != IPPROTO_TCP:
            raise self.no_such_level()
        if length < 0:
            raise LinuxError(EINVAL)
        if name in (TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_WINDOW, TCP_ZEROCOPY_RECEIVE):
            raise LinuxError(EINVAL)
        if name == TCP_AO_REPAIR:
            raise LinuxError(EPERM)
        if name == TCP_IS_MPTCP:
            return bytes(4)
        if name == TCP_INFO:
            return self.info_bytes()
        if name == TCP_CONGESTION:
            return self.congestion.ljust(16, b"\0")
        if name in (TCP_ULP, TCP_CC_INFO, TCP_SAVED_SYN, TCP_FASTOPEN_KEY):
            return b""
        limits = _RANGES.get(name)
        if limits is not None:
            default = limits[2]
            parameter = _DEFAULTS.get(name)
            if parameter is not None:
                default = self.parameter(parameter)
            return _I32.pack(self.tcp.get(name, default))
        if name == TCP_WINDOW_CLAMP and self.is_connected():
            return _I32.pack(self.tcp.get(name, 0) or self.rcvbuf >> 1)
        if name in (TCP_RTO_MIN_US, TCP_DELACK_MAX_US):
            return _I32.pack(self.tcp.get(name, 200_000))
        if name == TCP_MAXSEG:
            is_live = self.state not in (TCP_CLOSE, TCP_LISTEN)
            number = LO_MSS if is_live else self.tcp.get(name, 536) or 536
        elif name == TCP_QUICKACK:
            number = self.tcp.get(name, 1)
        elif name == TCP_LINGER2:
            number = self.tcp.get(name, self.parameter("ipv4/tcp_fin_timeout"))
        elif name == TCP_NOTSENT_LOWAT:
            number = self.tcp.get(name, 0)
        elif name == TCP_TIMESTAMP:
            number = monotonic_ns() // 1_000_000 & 0x7FFFFFFF
        elif name in _BOOLEANS or name in (
            TCP_DEFER_ACCEPT,
            TCP_WINDOW_CLAMP,
            TCP_FASTOPEN,
            TCP_THIN_DUPACK,
            TCP_TX_DELAY,
        ):
            number = self.tcp.get(name, 0)
        elif name == TCP_REPAIR:
            number = 0
        else:
            raise LinuxError(ENOPROTOOPT)
        return _I32.pack(number)

    def info_bytes(self) -> bytes:
        """struct tcp_info as far as tcpi_segs_in; the rest is zero."""
        state = self.state
        is_live = self.is_connected() or self.syn_acked or self.bytes_sent or self.bytes_received
        head = [state, 0, 0, 0, 0, 7 if is_live else 0, 0x77 if is_live else 0, 0]
        words = [0] * 24
        words[18] = 10  # cwnd
        words[20] = 3  # reordering
        longs = [0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0, 0]
        if state == TCP_LISTEN:
            words[4] = self.waiting_connections()  # unacked
            words[5] = self.backlog  # sacked
            return _INFO.pack(*head, *words, *longs, 0, 0, 0, 0).ljust(_INFO_BYTES, b"\0")
        words[0] = 200_000 if is_live else 1_000_000  # rto
        words[1] = 40_000 if is_live else 0  # ato
        words[2] = LO_MSS if is_live else 536
        words[3] = 536 if is_live else 0
        words[13] = 65535 if is_live else 0  # pmtu
        words[15] = 30 if is_live else 0  # rtt
        words[16] = 15 if is_live else 250_000
        words[17] = 0x7FFFFFFF
        words[19] = LO_MSS if is_live else 536
        words[22] = 65536 if is_live else 0
        # Data is acknowledged as soon as it arrives; SYN and FIN count as a byte each.
        longs[2] = self.bytes_sent + self.syn_acked + self.fin_sent
        longs[3] = self.bytes_received + self.fin_seen
        found = _INFO.pack(*head, *words, *longs, 0, 0, len(self.unsent), 30 if is_live else 0).ljust(
            200, b"\0"
        )
        return (found + self.bytes_sent.to_bytes(8, "little")).ljust(_INFO_BYTES, b"\0")


def defer_seconds(seconds: int) -> int:
    """TCP_DEFER_ACCEPT as Linux returns it: whole retransmissions of 1, 3, 7 … seconds."""
    if seconds <= 0:
        return 0
    total, step, count = 1, 1, 1
    while seconds > total and count < 255:
        count += 1
        step = min(step << 1, 120)
        total += step
    return total
