"""AF_UNIX stream sockets (unix_stream_sendmsg, unix_stream_read_generic).

The plain write and read of a connected pair are kept short, since they are the most frequent.
"""

from collections import deque
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EINVAL,
    EISCONN,
    ENOBUFS,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.ioctl import SIOCATMARK
from cloche.abi.poll import POLLPRI
from cloche.abi.socket import (
    MSG_OOB,
    MSG_PEEK,
    SOCK_STREAM,
)
from cloche.kernel.task import Kernel
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter, KernelIovIter
from cloche.net.copying import copy_pieces, copy_whole, take_whole
from cloche.net.rights import take_off
from cloche.net.socket import (
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    Incoming,
    Outgoing,
    head_bytes,
)
from cloche.net.ucred import cred_of
from cloche.net.unix_base import CONNECTED, LISTENING, UNKNOWN, Packet, UnixSocket
from cloche.net.unix_host import HostedUnix
from cloche.net.urgent import signal_owner
from cloche.vfs.objects import Context

_MANY: Final = 64  # small packets that are copied at once
_MUCH: Final = 1 << 14  # bytes, likewise
_LINEAR: Final = 3776  # what fits into a page with its skb_shared_info
_PIECE: Final = 36544  # SKB_MAX_ALLOC + UNIX_SKB_FRAGS_SZ


def stream_charge(length: int) -> int:
    """The truesize of a piece of a stream."""
    if length <= _LINEAR:
        return head_bytes(length)
    paged = length - _LINEAR + 4095 & ~4095
    if paged > length:
        paged = length
    return head_bytes(length - paged) + (paged + 4095 & ~4095)


class UnixStream(HostedUnix):
    """SOCK_STREAM."""

    def __init__(self, kernel: Kernel, ctx: Context, flags: int) -> None:
        super().__init__(kernel, ctx, SOCK_STREAM, flags)
        self.urgent: Packet | None = None  # the last urgent byte, until it is read or passed (oob_skb)
        self.has_marks: bool = False  # an urgent byte, read or not, may be in the queue

    def new_embryo(self, ctx: Context) -> UnixSocket:
        return UnixStream(self.kernel, ctx, 0)

    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        if flags & MSG_OOB:
            return self._send_urgent(ctx, src, flags, out)
        if out is not None and out.name:
            return -EISCONN if self.state == CONNECTED else -EOPNOTSUPP
        peer = self.peer
        if peer is None:
            return -ENOTCONN
        if self.shut & SEND_SHUTDOWN:
            return -EPIPE
        total = src.remaining()
        files = out.files if out is not None else None
        if total == 0:
            return 0
        if files is not None and not peer.takes_files():
            return -EPERM
        limit = self.sndbuf
        largest = min((limit >> 1) - 64, _PIECE)
        done = 0
        while done < total:
            if self.wmem >= limit:
                return done if done else -EAGAIN
            if peer.is_released or peer.shut & RCV_SHUTDOWN:
                return done if done else -EPIPE
            want = total - done
            if want > largest:
                want = largest
            if not KERNEL_MEMORY.has_room(want + BUFFER_BYTES):
                return done if done else -ENOBUFS
            try:
                data = take_whole(src, want)
            except LinuxError:
                if done:
                    break
                raise
            packet = Packet(self, data, stream_charge(len(data)))
            if out is not None:
                packet.cred = out.cred
                if files is not None:
                    packet.uid = take_off(self.kernel, ctx, files)
                    packet.files = files
                    out.files = files = None
            if packet.cred is None and (
                self.passes_cred or peer.passes_cred or self.passes_pidfd or peer.passes_pidfd
            ):
                packet.cred = cred_of(ctx)
            self.wmem += packet.charge
            peer.packets.append(packet)
            peer.queue.wake(IN_WAKE)
            done += want
        return done

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if self.state != CONNECTED:
            return -EINVAL
        if flags & MSG_OOB:
            return self._recv_urgent(dst, flags, info)
        if self.has_marks:
            return self._recv_to_mark(dst, flags, info)
        return self._recv(dst, flags, info)

    def _recv(self, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """Receive from the queue without waiting."""
        packets = self.packets
        if not packets:
            if self.error:
                return self.take_error()
            if self.shut & RCV_SHUTDOWN:
                return 0
            return -EAGAIN
        is_peek = flags & MSG_PEEK != 0
        if is_peek:
            return self._peek(dst, flags, info)
        is_choosy = self.passes_cred or self.passes_pidfd
        first_cred = packets[0].cred
        want = dst.remaining()
        done = 0
        may_join = not is_choosy
        while packets:  # once even if no bytes are wanted: files come with the first packet
            if may_join and done and len(packets) >= _MANY:
                copied = self._recv_many(dst, want)
                done += copied
                want -= copied
                if want <= 0:
                    break
                # else the first packet may not be joined, or something cannot be copied
                may_join = copied > 0
                continue
            packet = packets[0]
            if is_choosy and done:
                cred = packet.cred if packet.cred is not None else UNKNOWN
                if not cred.same_as(first_cred if first_cred is not None else UNKNOWN):
                    break
            data = packet.data
            pos = packet.pos
            left = len(data) - pos
            if pos == 0 and left <= want:
                piece = data
            else:
                piece = data[pos : pos + want]
            if not copy_whole(dst, piece):
                if done:
                    break
                raise LinuxError(EFAULT)
            copied = len(piece)
            had_files = packet.files is not None
            if info is not None and done == 0:
                self.fill(packet, info, is_peek=False)
            elif had_files and info is not None:
                self.fill_files(packet, info, is_peek=False)
            if packet.files is not None:
                self.drop_packet_files(packet)
            done += copied
            want -= copied
            packet.pos = pos + copied
            if self.peek_offset > 0:
                self.peek_offset = max(self.peek_offset - copied, 0)
            if packet.pos >= len(data):
                packets.popleft()
                sender = packet.sender
                sender.wmem -= packet.charge
                if sender.wmem << 2 <= sender.sndbuf and not sender.is_released:
                    sender.queue.wake(OUT_EVENTS)
            if had_files or want <= 0:
                break
        return done

    def _recv_many(self, dst: IovIter, want: int) -> int:
        """Copy the first packets of a queue of small ones at once. Returns how many bytes, 0 if
        that is not possible.
        """
        chosen: list[bytes] = []
        total = 0
        for packet in self.packets:
            left = len(packet.data)
            if packet.pos or packet.files is not None or total + left > want:
                break
            if len(chosen) == _MANY or total >= _MUCH:
                break
            chosen.append(packet.data)
            total += left
        if not total or not copy_whole(dst, b"".join(chosen)):
            return 0
        if self.peek_offset > 0:
            self.peek_offset = max(self.peek_offset - total, 0)
        for _data in chosen:
            packet = self.packets.popleft()
            packet.pos = len(packet.data)
            sender = packet.sender
            sender.wmem -= packet.charge
            if sender.wmem << 2 <= sender.sndbuf and not sender.is_released:
                sender.queue.wake(OUT_EVENTS)
        return total

    def _peek(self, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """MSG_PEEK: copy without removing, from SO_PEEK_OFF on if that is set."""
        skip = max(self.peek_offset, 0)
        done = 0
        room = dst.remaining()
        first: Packet | None = None
        pieces: list[bytes] = []
        size = 0  # of them
        for packet in self.packets:
            left = len(packet.data) - packet.pos
            if skip >= left:
                skip -= left
                continue
            start = packet.pos + skip
            skip = 0
            pieces.append(packet.data[start : start + room])
            size += len(pieces[-1])
            room -= len(pieces[-1])
            first = packet if first is None else first
            is_last = room == 0 or packet.files is not None
            if is_last or len(pieces) == _MANY or size >= _MUCH:
                copied = copy_pieces(dst, pieces)
                done += copied
                is_last = is_last or copied < size
                pieces = []
                size = 0
            if is_last:
                break
        if pieces:
            done += copy_pieces(dst, pieces)
        if first is not None and done == 0 and room < dst.remaining():
            raise LinuxError(EFAULT)
        if first is not None and info is not None:
            self.fill(first, info, is_peek=True)
        if self.peek_offset >= 0:
            if done == 0:
                return 0 if self.shut & RCV_SHUTDOWN else -EAGAIN
            self.peek_offset += done
        return done

    # -- urgent data (MSG_OOB, since Linux 5.15) -----------------------------------------------------------
    def _send_urgent(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        """The last byte is urgent; the others go before it."""
        total = src.remaining()
        if total == 0:
            return -EOPNOTSUPP
        done = 0
        if total > 1:
            head = take_whole(src, total - 1)
            done = self.send(ctx, KernelIovIter(head), flags & ~MSG_OOB, out)
            if done < total - 1:
                src.revert(total - 1 - max(done, 0))
                return done
        peer = self.peer
        if peer is None:
            return -ENOTCONN if done == 0 else done
        if self.shut & SEND_SHUTDOWN:
            return done if done else -EPIPE
        if self.wmem >= self.sndbuf:
            return done if done else -EAGAIN
        if peer.is_released or peer.shut & RCV_SHUTDOWN:
            return done if done else -EPIPE
        if not KERNEL_MEMORY.has_room(1 + BUFFER_BYTES):
            return done if done else -ENOBUFS
        packet = Packet(self, src.copy_from(1), stream_charge(1))
        if self.wants_cred():
            packet.cred = cred_of(ctx)
        self.wmem += packet.charge
        peer.packets.append(packet)
        if isinstance(peer, UnixStream):
            peer.urgent = packet
            peer.has_marks = True
            signal_owner(peer)
        peer.queue.wake(IN_WAKE | POLLPRI)
        return done + 1

    def _recv_urgent(self, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """MSG_OOB (unix_stream_recv_urg): the byte's place in the queue stays as the mark."""
        packet = self.urgent
        if packet is None or self.is_oob_inline:
            return -EINVAL
        if not flags & MSG_PEEK:
            self.urgent = None
        if dst.remaining():
            dst.copy_to(packet.data)
        if not flags & MSG_PEEK:
            packet.pos = 1
        if info is not None:
            info.flags |= MSG_OOB
        return 1

    def _recv_to_mark(self, dst: IovIter, flags: int, info: Incoming | None) -> int:
        """An ordinary receive while there is a mark: it stops before the mark, and passes it if it begins there."""
        is_peek = flags & MSG_PEEK != 0
        queue = self.packets
        front: deque[Packet] = deque()
        kept: deque[Packet] = deque()  # packets that a peek has passed, and those beyond the mark
        while queue:
            packet = queue.popleft()
            if packet.pos >= len(packet.data):  # a mark whose byte was read
                if front and (is_peek or self.urgent is None):
                    queue.appendleft(packet)
                    break
                if is_peek:
                    kept.append(packet)
                else:
                    self.consumed(packet)
            elif packet is self.urgent:
                if front:
                    queue.appendleft(packet)
                    break
                if is_peek:
                    (front if self.is_oob_inline else kept).append(packet)
                else:
                    self.urgent = None
                    if self.is_oob_inline:
                        front.append(packet)
                    else:
                        self.drop_packet_files(packet)
                        self.consumed(packet)
            else:
                front.append(packet)
        beyond = queue
        self.packets = front
        result = self._recv(dst, flags, info)
        front = self.packets
        if is_peek:
            kept.extend(front)
            front = kept
        front.extend(beyond)
        self.packets = front
        if not front:
            self.has_marks = False
        return result

    def is_at_mark(self) -> bool:
        """SIOCATMARK."""
        packets = self.packets
        if not packets:
            return False
        first = packets[0]
        if first is self.urgent:
            return True
        is_read = first.pos >= len(first.data)
        return is_read and (self.urgent is None or (len(packets) > 1 and packets[1] is self.urgent))

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == SIOCATMARK:
            ctx.user_memory().write_i32(arg, int(self.is_at_mark()))
            return 0
        return super().ioctl(ctx, command, arg)

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if self.rcvlowat > 1 and not self.flags & O_NONBLOCK and self.must_wait_for(dst.remaining()):
            return -EAGAIN
        return self.recv(ctx, dst, 0, None)

    def must_wait_for(self, wanted: int) -> bool:
        """Whether SO_RCVLOWAT makes a blocking read of `wanted` bytes go on waiting."""
        have = self.unread_bytes()
        return 0 < have < min(self.rcvlowat, wanted) and not self.shut & RCV_SHUTDOWN and not self.error

    def poll(self, ctx: Context) -> int:
        mask = self.base_events()
        if self.state != LISTENING and self.wmem << 2 <= self.sndbuf:
            mask |= OUT_EVENTS
        if self.urgent is not None:
            mask |= POLLPRI
        return mask
