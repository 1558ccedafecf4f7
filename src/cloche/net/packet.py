"""AF_PACKET on lo (packet(7)): sockets that see every packet, and may send packets of their own.

A packet is seen twice, as it goes out and as it comes in. A packet that is sent this way is seen by other such
sockets and goes no further: Linux, too, drops IPv4 packets with loopback addresses that did not come out of its own
stack. There are no rings (PACKET_RX_RING): ENOPROTOOPT.
"""

from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_RAW
from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENETDOWN,
    ENODEV,
    ENOPROTOOPT,
    ENXIO,
    EPERM,
    ESOCKTNOSUPPORT,
    LinuxError,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.packet import ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, PACKET_HOST, PACKET_OUTGOING
from cloche.abi.poll import POLLERR
from cloche.abi.socket import (
    AF_PACKET,
    ARPHRD_LOOPBACK,
    MSG_PEEK,
    MSG_TRUNC,
    SOCK_DGRAM,
    SOCK_PACKET,
    SOCK_RAW,
    SOL_PACKET,
)
from cloche.kernel.task import Kernel
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.control import socket_control
from cloche.net.copying import copy_whole
from cloche.net.inet_addr import LO_INDEX
from cloche.net.inet_base import NetStack, interface_ioctl, stack_for
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    Incoming,
    IpPacket,
    Outgoing,
    SocketFile,
    head_bytes,
)
from cloche.vfs.objects import Context

SIOCOUTQ: Final = 0x5411
_HEADER_BYTES: Final = 14
_MAX_EXTRA: Final = _HEADER_BYTES + 4  # with a VLAN tag
_SOCKADDR: Final = Struct("<HHiHBB8s")
_I32: Final = Struct("<i")
_U32: Final = Struct("<I")
_AUXDATA: Final = Struct("<IIIHHHH")
_MEMBERSHIPS: Final = (1, 2)  # PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP
_STATISTICS: Final = 6
_AUXDATA_OPTION: Final = 8
_IGNORE_OUTGOING: Final = 23
# PACKET_AUXDATA ORIGDEV IGNORE_OUTGOING QDISC_BYPASS TIMESTAMP: stored without effect.
_OPTIONS: Final = frozenset({_AUXDATA_OPTION, 9, _IGNORE_OUTGOING, 20, 17})


class Frame:
    """A packet in a receive queue, without its link header."""

    def __init__(self, data: bytes, protocol: int, kind: int, charge: int) -> None:
        self.data: bytes = data
        self.protocol: int = protocol
        self.kind: int = kind
        self.charge: int = charge
        self.held: int = len(data) + BUFFER_BYTES
        KERNEL_MEMORY.take(self.held)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)


class PacketSocket(SocketFile):
    """A socket of AF_PACKET; `protocol` is as the program gave it, in network order."""

    def __init__(self, kernel: Kernel, ctx: Context, kind: int, protocol: int, flags: int) -> None:
        super().__init__(kernel, ctx, AF_PACKET, kind, protocol, flags)
        self.stack: NetStack = stack_for(ctx)
        self.listens_to: int = swapped(protocol)
        self.ifindex: int = 0
        self.inbox: deque[Frame] = deque()
        self.charged: int = 0
        self.seen: int = 0
        self.drops: int = 0
        self.options: dict[int, int] = {}
        self._listen_in()

    def _listen_in(self) -> None:
        if self.listens_to:
            self.stack.taps[self] = None
        else:
            self.stack.taps.pop(self, None)

    def bind(self, ctx: Context, addr: bytes) -> int:
        if len(addr) < _SOCKADDR.size:
            return -EINVAL
        fields: tuple[int, int, int, int, int, int, bytes] = _SOCKADDR.unpack_from(addr, 0)
        family, protocol, index = fields[:3]
        if family != AF_PACKET:
            return -EINVAL
        if index not in (0, LO_INDEX):
            return -ENODEV
        self.ifindex = index
        if protocol:
            self.listens_to = swapped(protocol)
        self._listen_in()
        return 0

    def local_name(self) -> bytes:
        known = self.ifindex == LO_INDEX
        name = _SOCKADDR.pack(
            AF_PACKET,
            swapped(self.listens_to),
            self.ifindex,
            ARPHRD_LOOPBACK if known else 0,
            0,
            6 if known else 0,
            bytes(8),
        )
        return name[:18] if known else name[:12]

    # -- packets -----------------------------------------------------------------------------------------
    def overhear(self, packet: IpPacket) -> None:
        protocol = ETH_P_IP if len(packet.source) == 4 else ETH_P_IPV6
        if self.listens_to == ETH_P_ALL:
            if not self.options.get(_IGNORE_OUTGOING, 0):
                self._queue(packet.data, protocol, PACKET_OUTGOING)
        elif self.listens_to != protocol:
            return
        self._queue(packet.data, protocol, PACKET_HOST)

    def _queue(self, data: bytes, protocol: int, kind: int) -> None:
        program = self.filter_program
        if program is not None:
            link = b"" if self.kind == SOCK_DGRAM else bytes(12) + protocol.to_bytes(2, "big")
            kept = program.run(link + data, protocol, kind, len(link))
            if kept == 0:
                return
            data = data[: max(kept - len(link), 0)]
        charge = head_bytes(len(data) + 64)
        if self.charged + charge > self.rcvbuf or not KERNEL_MEMORY.has_room(len(data)):
            self.drops += 1
            return
        self.seen += 1
        self.charged += charge
        self.inbox.append(Frame(data, protocol, kind, charge))
        self.queue.wake(IN_WAKE)

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        name = out.name if out is not None else None
        index, protocol = self.ifindex, self.listens_to
        if name:
            if len(name) < 12:
                return -EINVAL
            fields: tuple[int, int, int, int, int, int, bytes] = _SOCKADDR.unpack_from(
                name.ljust(20, b"\0"), 0
            )
            if fields[0] != AF_PACKET and self.kind != SOCK_RAW:
                return -EINVAL
            if len(name) < 12 + fields[5]:
                return -EINVAL
            protocol, index = swapped(fields[1]), fields[2]
        if index != LO_INDEX:
            return -ENXIO
        if not self.stack.lo.is_up:
            return -ENETDOWN
        if out is not None and out.control:
            socket_control(ctx, self, out)
        length = src.remaining()
        room = self.stack.lo.mtu + (_MAX_EXTRA if self.kind != SOCK_DGRAM else 0)
        if length > room:
            return -EMSGSIZE
        if self.kind != SOCK_DGRAM and length < _HEADER_BYTES:
            return -EINVAL
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            return -EFAULT
        if self.kind != SOCK_DGRAM:
            protocol = data[12] << 8 | data[13]
            data = data[_HEADER_BYTES:]
        self.stack.lo.packets += 1
        self.stack.lo.bytes += length
        for sock in list(self.stack.taps):
            if isinstance(sock, PacketSocket):
                sock.see_frame(data, protocol, self)
        return length

    def see_frame(self, data: bytes, protocol: int, sender: "PacketSocket") -> None:
        """Queue a packet that another socket of AF_PACKET has sent, or this one, which sees it only come in."""
        if self.listens_to == ETH_P_ALL:
            if self is not sender and not self.options.get(_IGNORE_OUTGOING, 0):
                self._queue(data, protocol, PACKET_OUTGOING)
        elif self.listens_to != protocol:
            return
        self._queue(data, protocol, PACKET_HOST)

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if self.error:
            return self.take_error()
        if not self.inbox:
            return -EAGAIN
        frame = self.inbox[0]
        data = frame.data
        if self.kind != SOCK_DGRAM:
            data = bytes(12) + frame.protocol.to_bytes(2, "big") + data
        room = dst.remaining()
        piece = data[:room]
        is_lost = len(piece) > 0 and not copy_whole(dst, piece)
        if info is not None:
            info.name = _SOCKADDR.pack(
                AF_PACKET, swapped(frame.protocol), LO_INDEX, ARPHRD_LOOPBACK, frame.kind, 6, bytes(8)
            )
            if len(piece) < len(data):
                info.flags |= MSG_TRUNC
            if self.options.get(_AUXDATA_OPTION, 0):
                link = 0 if self.kind == SOCK_DGRAM else _HEADER_BYTES
                value = _AUXDATA.pack(1, len(data), len(data), 0, link, 0, 0)
                info.control.append((SOL_PACKET, _AUXDATA_OPTION, value))
        if not flags & MSG_PEEK:
            self.inbox.popleft()
            self.charged -= frame.charge
        if is_lost:
            raise LinuxError(EFAULT)
        return len(data) if flags & MSG_TRUNC else len(piece)

    def poll(self, ctx: Context) -> int:
        mask = OUT_EVENTS
        if self.inbox:
            mask |= IN_EVENTS
        if self.error:
            mask |= POLLERR
        return mask

    # -- the rest ----------------------------------------------------------------------------------------
    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level != SOL_PACKET:
            return super().setsockopt(ctx, level, name, value)
        if name in _MEMBERSHIPS:
            if len(value) < 16:
                return -EINVAL
            return 0 if _I32.unpack_from(value, 0)[0] == LO_INDEX else -ENODEV
        if name not in _OPTIONS:
            return -ENOPROTOOPT
        if len(value) < 4:
            return -EINVAL
        number: int = _I32.unpack_from(value, 0)[0]
        if name == _IGNORE_OUTGOING and number not in (0, 1):
            return -EINVAL
        self.options[name] = number if name == 17 else int(number != 0)
        return 0

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level != SOL_PACKET:
            return super().getsockopt(ctx, level, name, length)
        if name == _STATISTICS:
            found = _U32.pack(self.seen + self.drops) + _U32.pack(self.drops)
            self.seen = self.drops = 0
            return found
        if name not in _OPTIONS:
            raise LinuxError(ENOPROTOOPT)
        return _I32.pack(self.options.get(name, 0))

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == FIONREAD:
            link = 0 if self.kind == SOCK_DGRAM else _HEADER_BYTES
            ctx.user_memory().write_i32(arg, len(self.inbox[0].data) + link if self.inbox else 0)
            return 0
        if command == SIOCOUTQ:
            ctx.user_memory().write_i32(arg, 0)
            return 0
        if 0x8910 <= command <= 0x89A0:
            return interface_ioctl(self.stack, ctx, command, arg)
        return super().ioctl(ctx, command, arg)

    def release(self) -> None:
        self.is_released = True
        self.uncharge()
        self.stack.taps.pop(self, None)
        self.inbox.clear()


def swapped(value: int) -> int:
    """A 16-bit number in the other byte order."""
    return (value & 0xFF) << 8 | value >> 8 & 0xFF


def create_packet(kernel: Kernel, ctx: Context, kind: int, protocol: int, flags: int) -> PacketSocket:
    """packet_create.  Raises LinuxError."""
    if not ctx.creds.capable_in(stack_for(ctx).user_ns, CAP_NET_RAW):
        raise LinuxError(EPERM)
    if kind not in (SOCK_RAW, SOCK_DGRAM, SOCK_PACKET):
        raise LinuxError(ESOCKTNOSUPPORT)
    return PacketSocket(kernel, ctx, kind, protocol & 0xFFFF, flags)
