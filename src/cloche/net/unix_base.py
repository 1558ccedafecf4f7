"""AF_UNIX: names, connections and what stream, datagram and seqpacket sockets share (unix(7), net/unix/af_unix.c).

Owns the table of abstract names, `Packet` (an skb) and `UnixSocket`.  A socket bound to a path is found through
`Inode.bound_socket`.  Data goes straight into the receiver's queue and stays charged to the sender (`wmem`) until
it is read.
"""

import os
import time
from collections import deque
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EADDRINUSE,
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EEXIST,
    EINVAL,
    EISCONN,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTCONN,
    ENOTTY,
    EOPNOTSUPP,
    EPROTOTYPE,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.ioctl import FIONREAD, SIOCATMARK
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLRDHUP, POLLRDNORM
from cloche.abi.socket import AF_UNIX, MSG_CTRUNC, SOCK_DGRAM
from cloche.abi.socket_structs import SOCKADDR_UN_SIZE, pack_sockaddr_un, unpack_sockaddr_un
from cloche.abi.stat import S_IFMT, S_IFSOCK
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import Kernel, ThreadGroup
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.net.inet_base import FamilyTable, NetStack, interface_ioctl, stack_for
from cloche.net.rights import drop_files, land, socket_closed
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    STATE_WAKE,
    Incoming,
    SocketFile,
)
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.ucred import Ucred, cred_of
from cloche.vfs.host_sockets import HostDoor
from cloche.vfs.namei import path_lookup, vfs_bind
from cloche.vfs.objects import MAY_WRITE, Context, FileDescription, Inode
from cloche.vfs.userns import UserNamespace

CLOSED: Final = 0
CONNECTED: Final = 1
LISTENING: Final = 2

SIOCOUTQ: Final = 0x5411
SIOCUNIXFILE: Final = 0x89E0
UNKNOWN: Final = Ucred(0, -1, -1)


class Names(FamilyTable):
    """The abstract names of a network namespace, by type."""

    def __init__(self) -> None:
        self.abstract: dict[tuple[int, bytes], UnixSocket] = {}
        self.sockets: dict[UnixSocket, None] = {}  # all of them, for /proc/net/unix


def names_of(stack: NetStack) -> Names:
    """A network's table of Unix sockets."""
    found = stack.unix
    if isinstance(found, Names):
        return found
    made = Names()
    stack.unix = made
    return made


class Entrance(FdWatcher):
    """A listening socket of the host's behind one of the sandbox (`net.unix_host`)."""

    def close(self) -> None:
        """Let nobody in any more."""
        raise NotImplementedError

    def reopen(self) -> None:
        """There may be room in the backlog again."""
        raise NotImplementedError


class Packet:
    """A message, or a piece of a stream."""

    def __init__(self, sender: "UnixSocket", data: bytes, charge: int) -> None:
        self.sender: UnixSocket = sender
        self.data: bytes = data
        self.pos: int = 0  # bytes that were read
        self.charge: int = charge  # truesize
        self.held: int = len(data) + BUFFER_BYTES
        KERNEL_MEMORY.take(self.held)
        self.cred: Ucred | None = None
        self.files: list[FileDescription] | None = None
        self.uid: int = 0  # that the files are charged to
        self.time_ns: int = 0
        self.is_cut: bool = False  # files that came with it were lost on the way

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)


class UnixSocket(SocketFile):
    """An AF_UNIX socket of any type."""

    def __init__(self, kernel: Kernel, ctx: Context, kind: int, flags: int) -> None:
        super().__init__(kernel, ctx, AF_UNIX, kind, 0, flags)
        self.state: int = CLOSED
        self.peer: UnixSocket | None = None
        self.name: bytes | None = None  # sun_path: a path, b"\0…", or None
        self.bound_inode: Inode | None = None
        self.way_out: HostDoor | None = None  # what the host has behind the name, until it listens
        self.door: Entrance | None = None  # and then
        self.packets: deque[Packet] = deque()
        self.wmem: int = 0  # charge of sent packets that receivers have not read yet
        self.embryos: deque[UnixSocket] = deque()  # of a listener: not yet accepted
        self.backlog: int = 0
        self.listener_cred: Ucred | None = None  # of listen(2)
        self.cred_of_peer: Ucred | None = None  # SO_PEERCRED
        self.waiting: dict[UnixSocket, None] = {}  # senders and connectors that wait for room in this queue
        self.waiting_limit: int = 64
        self.stack: NetStack = stack_for(ctx)
        self.backlog = self.stack.parameters.numbers["unix/max_dgram_qlen"]
        names_of(self.stack).sockets[self] = None

    def listen_limit(self) -> int:
        return self.stack.parameters.numbers["core/somaxconn"]

    # -- names -------------------------------------------------------------------------------------------
    def bind(self, ctx: Context, addr: bytes) -> int:
        if len(addr) > SOCKADDR_UN_SIZE or len(addr) < 2 or addr[0] != AF_UNIX or addr[1] != 0:
            return -EINVAL
        if len(addr) == 2:
            return self.autobind()
        name = unpack_sockaddr_un(addr)
        if self.name is not None:
            return self._bind_again(ctx, name)
        if name[0] == 0:
            table = names_of(self.stack).abstract
            key = (self.kind, name)
            if key in table:
                return -EADDRINUSE
            table[key] = self
        else:
            self._bind_path(ctx, name)
        self.name = name
        return 0

    def _bind_again(self, ctx: Context, name: bytes) -> int:
        """The error of a bind to a second name; Linux finds first that the path exists."""
        if name[0] == 0:
            return -EINVAL
        try:
            path_lookup(ctx, None, name)
        except LinuxError as error:
            return -EINVAL if error.errno == ENOENT else -error.errno
        return -EADDRINUSE

    def _bind_path(self, ctx: Context, name: bytes) -> None:
        mode = self.inode.mode & 0o7777
        try:
            path, self.way_out = vfs_bind(ctx, None, name, mode, self.kind)
        except LinuxError as error:
            raise LinuxError(EADDRINUSE if error.errno == EEXIST else error.errno)
        inode = path.inode()
        inode.bound_socket = self
        self.bound_inode = inode

    def autobind(self) -> int:
        """Bind to an abstract name of five hexadecimal digits (unix_autobind)."""
        if self.name is not None:
            return 0
        table = names_of(self.stack).abstract
        number = int.from_bytes(os.urandom(3), "little")
        for step in range(1 << 20):
            name = b"\0%05x" % (number + step & 0xFFFFF)
            key = (self.kind, name)
            if key not in table:
                table[key] = self
                self.name = name
                return 0
        return -ENOSPC

    def local_name(self) -> bytes:
        return pack_sockaddr_un(self.name if self.name is not None else b"")

    def peer_name(self) -> bytes:
        peer = self.peer
        if peer is None:
            raise LinuxError(ENOTCONN)
        return peer.local_name()

    def find(self, ctx: Context, addr: bytes) -> "UnixSocket":
        """The socket that an address names.  Raises LinuxError."""
        if not is_unix_addr(addr):
            raise LinuxError(EINVAL)
        name = unpack_sockaddr_un(addr)
        if name[0] == 0:
            found = names_of(self.stack).abstract.get((self.kind, name))
            if found is None:
                raise LinuxError(ECONNREFUSED)
            return found
        inode = self.find_inode(ctx, name)
        other = inode.bound_socket
        if inode.mode & S_IFMT != S_IFSOCK or not isinstance(other, UnixSocket):
            raise LinuxError(ECONNREFUSED)
        if other.kind != self.kind:
            raise LinuxError(EPROTOTYPE)
        return other

    @staticmethod
    def find_inode(ctx: Context, name: bytes) -> Inode:
        """The node at a path, if the caller may connect to it.  Raises LinuxError."""
        inode = path_lookup(ctx, None, name).inode()
        if not inode.permission(ctx, MAY_WRITE):
            raise LinuxError(EACCES)
        return inode

    def _unbind(self) -> None:
        name = self.name
        if name is not None and name[:1] == b"\0":
            table = names_of(self.stack).abstract
            if table.get((self.kind, name)) is self:
                del table[(self.kind, name)]
        inode = self.bound_inode
        if inode is not None:
            self.bound_inode = None
            if inode.bound_socket is self:
                inode.bound_socket = None

    # -- connections (stream and seqpacket) --------------------------------------------------------------
    def listen(self, ctx: Context, backlog: int) -> int:
        if self.kind == SOCK_DGRAM:
            return -EOPNOTSUPP
        if self.name is None:
            return -EINVAL
        if self.state == CONNECTED:
            return -EINVAL
        if backlog > self.backlog:
            self.wake_waiting()
        self.backlog = backlog
        self.state = LISTENING
        self.listener_cred = cred_of(ctx)
        self.cred_of_peer = self.listener_cred
        return 0

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        """Stream and seqpacket: the connection is established at once, before it is accepted."""
        if is_unix_addr(addr) and (self.passes_cred or self.passes_pidfd):
            self.autobind()
        outside = self.connect_outside(ctx, addr, is_nonblocking=is_nonblocking)
        if outside is not None:
            return outside
        other = self.find(ctx, addr)
        if other.state != LISTENING or other.shut & RCV_SHUTDOWN or other.is_released:
            return -ECONNREFUSED
        if len(other.embryos) > other.backlog:
            self.wait_at(other)
            return -EAGAIN
        if self.state == CONNECTED:
            return -EISCONN
        if self.state == LISTENING:
            return -EINVAL
        if not KERNEL_MEMORY.has_room(SOCKET_BYTES):
            return -ENOMEM
        other.waiting.pop(self, None)
        server = self.new_embryo(ctx)
        if server.stack is not other.stack:
            names_of(server.stack).sockets.pop(server, None)
            server.stack = other.stack
            names_of(server.stack).sockets[server] = None
        server.name = other.name
        server.state = CONNECTED
        server.peer = self
        server.cred_of_peer = cred_of(ctx)
        server.passes_cred, server.passes_pidfd = other.passes_cred, other.passes_pidfd
        self.peer = server
        self.state = CONNECTED
        self.cred_of_peer = other.listener_cred
        other.embryos.append(server)
        other.queue.wake(IN_WAKE)
        self.queue.wake(OUT_EVENTS)
        return 0

    def connect_outside(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int | None:
        """Connect to a socket of the host's, if the address names one: the result; else None.  Raises LinuxError."""
        return None

    def new_embryo(self, ctx: Context) -> "UnixSocket":
        """The server's end of a new connection."""
        raise NotImplementedError

    def accept(self, ctx: Context, flags: int) -> SocketFile:
        if self.kind == SOCK_DGRAM:
            raise LinuxError(EOPNOTSUPP)
        if self.state != LISTENING:
            raise LinuxError(EINVAL)
        if not self.embryos:
            if self.shut & RCV_SHUTDOWN and not self.flags & O_NONBLOCK:
                raise LinuxError(EINVAL)
            raise LinuxError(EAGAIN)
        found = self.embryos.popleft()
        self.wake_waiting()
        return found

    def pair_with(self, other: SocketFile) -> int:
        assert isinstance(other, UnixSocket)
        self.peer, other.peer = other, self
        self.state = other.state = CONNECTED
        return 0

    def set_pair_cred(self, ctx: Context) -> None:
        """SO_PEERCRED of socketpair(2)."""
        self.cred_of_peer = cred_of(ctx)

    def peer_cred(self) -> Ucred | None:
        return self.cred_of_peer

    def is_listening(self) -> bool:
        return self.state == LISTENING

    def shutdown(self, ctx: Context, how: int) -> int:
        mask = (RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK)[how]
        self.shut |= mask
        peer = self.peer
        if peer is not None and self.kind != SOCK_DGRAM:
            theirs = 0
            if mask & RCV_SHUTDOWN:
                theirs |= SEND_SHUTDOWN
            if mask & SEND_SHUTDOWN:
                theirs |= RCV_SHUTDOWN
            peer.shut |= theirs
            peer.queue.wake(STATE_WAKE)
        self.queue.wake(STATE_WAKE)
        self.wake_waiting()
        return 0

    # -- queues ------------------------------------------------------------------------------------------
    def wait_at(self, other: "UnixSocket") -> None:
        """Wake this socket when there is room in the queue of `other`."""
        waiting = other.waiting
        waiting[self] = None
        if len(waiting) > other.waiting_limit:
            # Sockets that were closed meanwhile are removed only now.
            other.waiting = {sock: None for sock in waiting if not sock.is_released}
            other.waiting_limit = max(64, 2 * len(other.waiting))

    def wake_waiting(self) -> None:
        """Wake the sockets that wait for room in this queue."""
        waiting = self.waiting
        if waiting:
            self.waiting = {}
            for sender in waiting:
                sender.queue.wake(OUT_EVENTS)

    def consumed(self, packet: Packet) -> None:
        """Uncharge a packet that has left the queue from its sender (sock_wfree)."""
        sender = packet.sender
        sender.wmem -= packet.charge
        if sender.wmem << 2 <= sender.sndbuf and not sender.is_released:
            sender.queue.wake(OUT_EVENTS)

    def net_owner(self) -> UserNamespace | None:
        return self.stack.user_ns

    def purge(self) -> None:
        """Drop every packet."""
        packets = self.packets
        while packets:
            packet = packets.popleft()
            self.consumed(packet)
            files = packet.files
            if files is not None:
                packet.files = None
                land(self.kernel, packet.uid, files)
                drop_files(self.kernel, files)

    def queued_files(self) -> list[FileDescription]:
        found: list[FileDescription] = []
        for packet in self.packets:
            if packet.files is not None:
                found += packet.files
        for embryo in self.embryos:
            for packet in embryo.packets:
                if packet.files is not None:
                    found += packet.files
        return found

    def fdinfo(self) -> str:
        return f"scm_fds: {len(self.queued_files())}\n"

    def discard_queue(self) -> None:
        self.purge()
        for embryo in self.embryos:
            embryo.purge()

    def fill(self, packet: Packet, info: Incoming, *, is_peek: bool) -> None:
        """Report what came beside the data: the sender's name, credentials, pidfd and files (scm_recv_unix)."""
        if packet.is_cut:
            info.flags |= MSG_CTRUNC
        if packet.sender.name is not None:
            info.name = packet.sender.local_name()
        if self.passes_cred:
            cred = packet.cred if packet.cred is not None else UNKNOWN
            uid = cred.uid if cred.uid >= 0 else 65534
            gid = cred.gid if cred.gid >= 0 else 65534
            info.control.append((1, 2, Ucred(cred.pid, uid, gid).pack()))
        if self.passes_pidfd:
            sender: ThreadGroup | None = packet.cred.group if packet.cred is not None else None
            info.has_pidfd = True
            info.pidfd_of = sender
        self.fill_files(packet, info, is_peek=is_peek)

    def fill_files(self, packet: Packet, info: Incoming, *, is_peek: bool) -> None:
        """SCM_RIGHTS: the files go to the receiver, or new references with MSG_PEEK."""
        files = packet.files
        if files is None:
            return
        if is_peek:
            info.files = [file.get() for file in files]
            return
        packet.files = None
        land(self.kernel, packet.uid, files)
        info.files = files

    def drop_packet_files(self, packet: Packet) -> None:
        """Drop the files that the receiver did not ask for."""
        files = packet.files
        if files is not None:
            packet.files = None
            land(self.kernel, packet.uid, files)
            drop_files(self.kernel, files)

    def wants_cred(self) -> bool:
        """Whether messages between this socket and its peer always carry the sender's credentials."""
        if self.passes_cred or self.passes_pidfd:
            return True
        peer = self.peer
        return peer is not None and (peer.passes_cred or peer.passes_pidfd)

    # -- readiness ---------------------------------------------------------------------------------------
    def base_events(self) -> int:
        """The events of poll(2) that all types share."""
        mask = 0
        if self.error:
            mask |= POLLERR
        shut = self.shut
        if shut:
            if shut == SHUTDOWN_MASK:
                mask |= POLLHUP
            if shut & RCV_SHUTDOWN:
                mask |= POLLRDHUP | POLLIN | POLLRDNORM
        if self.packets or self.embryos:
            mask |= IN_EVENTS
        if self.state == CLOSED and self.kind != SOCK_DGRAM:
            mask |= POLLHUP
        return mask

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        memory = ctx.user_memory()
        if command == FIONREAD:
            if self.state == LISTENING:
                return -EINVAL
            memory.write_i32(arg, self.unread_bytes())
            return 0
        if command == SIOCOUTQ:
            memory.write_i32(arg, self.wmem)
            return 0
        if 0x8910 <= command <= 0x89A0:
            return interface_ioctl(self.stack, ctx, command, arg)
        if command == SIOCUNIXFILE:
            return -ENOTTY
        if command == SIOCATMARK:
            return -EOPNOTSUPP
        return super().ioctl(ctx, command, arg)

    def unread_bytes(self) -> int:
        """SIOCINQ."""
        if self.kind == SOCK_DGRAM:
            return len(self.packets[0].data) if self.packets else 0
        total = 0
        for packet in self.packets:
            total += len(packet.data) - packet.pos
        return total

    def set_peek_offset(self, value: int) -> int:
        self.peek_offset = value
        return 0

    # -- the end -----------------------------------------------------------------------------------------
    def release(self) -> None:
        """End the socket after its last reference (unix_release_sock); embryos are released the same way."""
        self.end(is_embryo=False)
        socket_closed(self.kernel)

    def end(self, *, is_embryo: bool) -> None:
        """Take the socket apart."""
        if self.is_released:
            return
        self.is_released = True
        self.uncharge()
        names_of(self.stack).sockets.pop(self, None)
        if not is_embryo:
            self._unbind()
        was_listening = self.state == LISTENING
        self.state = CLOSED
        self.shut = SHUTDOWN_MASK
        has_unread = len(self.packets) > 1
        if len(self.packets) == 1:  # not an empty message, nor the mark of an urgent byte
            has_unread = self.packets[0].pos < len(self.packets[0].data)
        peer = self.peer
        self.peer = None
        if peer is not None and self.kind != SOCK_DGRAM:
            if peer.peer is self:
                peer.shut = SHUTDOWN_MASK
                if has_unread or is_embryo:
                    peer.error = ECONNRESET
                peer.queue.wake(STATE_WAKE)
        if peer is not None:
            peer.waiting.pop(self, None)
        self.purge()
        if was_listening:
            while self.embryos:
                self.embryos.popleft().end(is_embryo=True)
        self.wake_waiting()
        self.queue.wake(STATE_WAKE)

    def touch(self, packet: Packet) -> None:
        """Give a message the time if its receiver wants to know when it came."""
        packet.time_ns = time.time_ns()


def is_unix_addr(addr: bytes) -> bool:
    """Whether a sockaddr can name a socket (unix_validate_addr)."""
    return 2 < len(addr) <= SOCKADDR_UN_SIZE and addr[0] == AF_UNIX and addr[1] == 0
