"""AF_UNIX datagram and seqpacket sockets (unix_dgram_sendmsg, unix_dgram_recvmsg).

The room in a receiver's queue is counted in messages, unless sender and receiver are connected to each other;
the sender's buffer is counted in bytes.
"""

from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENOBUFS,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.socket import (
    AF_UNSPEC,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    SOCK_SEQPACKET,
)
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net.copying import copy_whole
from cloche.net.rights import take_off
from cloche.net.socket import (
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    STATE_WAKE,
    Incoming,
    Outgoing,
    head_bytes,
)
from cloche.net.ucred import cred_of
from cloche.net.unix_base import CLOSED, CONNECTED, LISTENING, Packet, UnixSocket, is_unix_addr
from cloche.net.unix_host import HostedUnix
from cloche.vfs.objects import Context

_LINEAR: Final = 16064  # SKB_MAX_ALLOC
_MAX_PAGED: Final = 69632  # MAX_SKB_FRAGS pages


def dgram_charge(length: int) -> int:
    """The truesize of a message."""
    if length <= _LINEAR:
        return head_bytes(length)
    paged = min(length - _LINEAR + 4095 & ~4095, _MAX_PAGED)
    return head_bytes(length - paged) + paged


class UnixDgram(HostedUnix):
    """SOCK_DGRAM and SOCK_SEQPACKET."""

    def new_embryo(self, ctx: Context) -> UnixSocket:
        return UnixDgram(self.kernel, ctx, self.kind, 0)

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        if self.kind == SOCK_SEQPACKET:
            return super().connect(ctx, addr, is_nonblocking=is_nonblocking)
        if len(addr) < 2:
            return -EINVAL
        if addr[0] == AF_UNSPEC and addr[1] == 0:
            other: UnixSocket | None = None
        else:
            if is_unix_addr(addr) and (self.passes_cred or self.passes_pidfd):
                self.autobind()
            other = self.find(ctx, addr)
            if other.peer is not None and other.peer is not self:
                return -EPERM
        old = self.peer
        self.peer = other
        self.state = CONNECTED if other is not None else CLOSED
        if old is not None and old is not other:
            self._disconnected(old)
        return 0

    def _disconnected(self, old: UnixSocket) -> None:
        """Drop what the old peer sent, and report an error to it (unix_dgram_disconnected)."""
        if self.packets:
            self.purge()
            if not old.is_released and old.peer is self:
                old.error = ECONNRESET
                old.queue.wake(STATE_WAKE)
        old.waiting.pop(self, None)
        self.wake_waiting()

    def send_refusal(self) -> int:
        if self.kind != SOCK_SEQPACKET:
            return 0
        if self.error:
            return self.take_error()
        return 0 if self.state == CONNECTED else -ENOTCONN

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        is_seqpacket = self.kind == SOCK_SEQPACKET
        if is_seqpacket:
            refusal = self.send_refusal()
            if refusal:
                return refusal
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        name = out.name if out is not None and not is_seqpacket else None
        length = src.remaining()
        other: UnixSocket | None = None
        if name and not is_unix_addr(name):
            return -EINVAL
        if (self.passes_cred or self.passes_pidfd) and self.name is None:
            self.autobind()
        if not name:
            other = self.peer
            if other is None:
                return -ENOTCONN
        if length > self.sndbuf - 32:
            return -EMSGSIZE
        if self.error:
            return self.take_error()
        if self.shut & SEND_SHUTDOWN:
            return -EPIPE
        if self.wmem >= self.sndbuf:
            return -EAGAIN
        if name:
            other = self.find(ctx, name)
        assert other is not None
        if other.peer is not None and other.peer is not self and not is_seqpacket:
            return -EPERM
        if other.is_released:
            if name:
                return -ECONNREFUSED
            if is_seqpacket:
                return -EPIPE
            self.peer = None
            self.state = CLOSED
            self._disconnected(other)
            return -ECONNREFUSED
        if other.shut & RCV_SHUTDOWN:
            return -EPIPE
        if other is not self and other.peer is not self and len(other.packets) > other.backlog:
            self.wait_at(other)
            return -EAGAIN
        if not KERNEL_MEMORY.has_room(length + BUFFER_BYTES):
            return -ENOBUFS
        if out is not None and out.files is not None and not other.takes_files():
            return -EPERM
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            raise LinuxError(EFAULT)
        program = other.filter_program
        if program is not None:
            kept = program.run(data)
            if kept == 0:
                return length
            data = data[:kept]
        packet = Packet(self, data, dgram_charge(length))
        if out is not None:
            packet.cred = out.cred
            files = out.files
            if files is not None:
                packet.uid = take_off(self.kernel, ctx, files)
                packet.files = files
                out.files = None
        if packet.cred is None and (
            self.passes_cred or other.passes_cred or self.passes_pidfd or other.passes_pidfd
        ):
            packet.cred = cred_of(ctx)
        if other.wants_time:
            other.touch(packet)
        self.wmem += packet.charge
        other.packets.append(packet)
        other.queue.wake(IN_WAKE)
        return length

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        is_seqpacket = self.kind == SOCK_SEQPACKET
        if is_seqpacket and self.state != CONNECTED:
            return -ENOTCONN
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        packets = self.packets
        is_peek = flags & MSG_PEEK != 0
        if self.error:
            return self.take_error()
        if not packets:
            if self.shut & RCV_SHUTDOWN:
                is_waiting = self.flags & O_NONBLOCK == 0 and flags & MSG_DONTWAIT == 0
                return 0 if is_seqpacket or is_waiting else -EAGAIN
            return -EAGAIN
        index = 0
        skip = 0
        if is_peek and self.peek_offset >= 0:
            skip = self.peek_offset
            while skip >= len(packets[index].data) and (skip or index):
                skip -= len(packets[index].data)
                index += 1
                if index == len(packets):
                    return -EAGAIN
        packet = packets[index]
        data = packet.data
        room = dst.remaining()
        left = len(data) - skip
        copied = 0
        is_lost = False
        if room > 0 and left > 0:
            piece = data[skip : skip + room] if skip or left > room else data
            if copy_whole(dst, piece):
                copied = len(piece)
            else:
                is_lost = True
        if info is not None:
            if copied < left:
                info.flags |= MSG_TRUNC
            if not is_lost:
                self.fill(packet, info, is_peek=is_peek)
            if packet.time_ns and self.wants_time:
                info.control.append((-1, self.wants_time, packet.time_ns.to_bytes(8, "little")))
        if is_peek:
            if self.peek_offset >= 0:
                self.peek_offset += copied
        else:
            if packet.files is not None:
                self.drop_packet_files(packet)
            packets.popleft()
            if self.peek_offset > 0:
                self.peek_offset = max(self.peek_offset - len(data), 0)
            self.consumed(packet)
            if self.waiting:
                self.wake_waiting()
        if is_lost:
            raise LinuxError(EFAULT)
        return left if flags & MSG_TRUNC else copied

    def poll(self, ctx: Context) -> int:
        mask = self.base_events()
        if self.state != LISTENING and self.wmem << 2 <= self.sndbuf:
            other = self.peer
            if other is not None and other.peer is not self and len(other.packets) > other.backlog:
                self.wait_at(other)
            else:
                mask |= OUT_EVENTS
        return mask
