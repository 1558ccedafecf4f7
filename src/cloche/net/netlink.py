"""AF_NETLINK sockets (netlink(7), net/netlink/af_netlink.c): port ids, groups, queues, acknowledgements.

What the kernel answers is in `rtnetlink` (NETLINK_ROUTE), `sock_diag`, and a minimal NETLINK_GENERIC; KOBJECT_UEVENT
and USERSOCK only have listeners.  A request is answered while it is sent.
"""

from collections import deque
from struct import Struct
from typing import Final

from cloche.abi.capability import CAP_NET_ADMIN, CAP_NET_BROADCAST
from cloche.abi.errno import (
    EADDRINUSE,
    EAGAIN,
    EBUSY,
    ECONNREFUSED,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENOENT,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    LinuxError,
)
from cloche.abi.ioctl import FIONREAD
from cloche.abi.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_BROADCAST_ERROR,
    NETLINK_CAP_ACK,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NETLINK_GENERIC,
    NETLINK_GET_STRICT_CHK,
    NETLINK_LIST_MEMBERSHIPS,
    NETLINK_LISTEN_ALL_NSID,
    NETLINK_NO_ENOBUFS,
    NETLINK_PKTINFO,
    NETLINK_ROUTE,
    NETLINK_SOCK_DIAG,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_HDRLEN,
    NLMSG_MIN_TYPE,
)
from cloche.abi.poll import POLLERR
from cloche.abi.socket import (
    AF_NETLINK,
    AF_UNSPEC,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    SOL_NETLINK,
    SOL_SOCKET,
)
from cloche.abi.socket_structs import pack_sockaddr_nl, unpack_sockaddr_nl
from cloche.kernel.chores import Chore
from cloche.kernel.task import Kernel, Task
from cloche.mm.quota import BUFFER_BYTES, KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.net import rtnetlink, sock_diag
from cloche.net.copying import copy_whole
from cloche.net.inet_base import FamilyTable, NetStack, interface_ioctl, stack_for
from cloche.net.nlmsg import HEADER, Dump, Reply, attribute, message
from cloche.net.socket import (
    IN_EVENTS,
    IN_WAKE,
    OUT_EVENTS,
    Incoming,
    Outgoing,
    SocketFile,
)
from cloche.net.ucred import Ucred, cred_of
from cloche.vfs.objects import Context
from cloche.vfs.userns import UserNamespace

_I32: Final = Struct("<i")
_U32: Final = Struct("<I")
_FLAG_OPTIONS: Final = frozenset(
    {
        NETLINK_PKTINFO,
        NETLINK_BROADCAST_ERROR,
        NETLINK_NO_ENOBUFS,
        NETLINK_CAP_ACK,
        NETLINK_EXT_ACK,
        NETLINK_GET_STRICT_CHK,
        NETLINK_LISTEN_ALL_NSID,
    }
)


class NetlinkMessage:
    """A datagram in a receive queue."""

    def __init__(self, data: bytes, pid: int, groups: int, cred: Ucred | None) -> None:
        self.data: bytes = data
        self.pid: int = pid
        self.groups: int = groups
        self.cred: Ucred | None = cred
        self.held: int = len(data) + BUFFER_BYTES
        KERNEL_MEMORY.take(self.held)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.held)


def ports_of(stack: NetStack) -> dict[tuple[int, int], "NetlinkSocket"]:
    """Bound sockets by (protocol, port id)."""
    table = stack.netlink
    if isinstance(table, NetlinkPorts):
        return table.bound
    made = NetlinkPorts()
    stack.netlink = made
    return made.bound


def announce(stack: NetStack, notices: list[tuple[int, int, bytes]]) -> None:
    """Tell the sockets that are members of a group what has changed: (RTNLGRP_*, kind, body)."""
    if not notices:
        return
    for (protocol, _pid), sock in list(ports_of(stack).items()):
        if protocol != NETLINK_ROUTE or not sock.groups:
            continue
        for group, kind, body in notices:
            if sock.groups >> group - 1 & 1:
                data = message(kind, 0, 0, 0, body)
                sock.deliver(NetlinkMessage(data, 0, 1 << group - 1, Ucred(0, 0, 0)))


class NetlinkPorts(FamilyTable):
    """The port ids of a network namespace."""

    def __init__(self) -> None:
        self.bound: dict[tuple[int, int], NetlinkSocket] = {}


class NetlinkSocket(SocketFile):
    """SOCK_RAW or SOCK_DGRAM, which are the same here."""

    def __init__(self, kernel: Kernel, ctx: Context, kind: int, protocol: int, flags: int) -> None:
        super().__init__(kernel, ctx, AF_NETLINK, kind, protocol, flags)
        self.stack: NetStack = stack_for(ctx)
        self.pid: int = 0
        self.groups: int = 0
        self.dest_pid: int = 0
        self.dest_groups: int = 0
        self.inbox: deque[NetlinkMessage] = deque()
        self.kernel: Kernel = kernel
        self.dump: Dump | None = None  # under way
        self.dump_seq: int = 0
        self.is_searching: bool = False  # a `DumpSearch` of this socket is queued
        self.queued: int = 0
        self.options: dict[int, int] = {}

    # -- names -------------------------------------------------------------------------------------------
    def bind(self, ctx: Context, addr: bytes) -> int:
        if len(addr) < 12:
            return -EINVAL
        if addr[0] != AF_NETLINK or addr[1] != 0:
            return -EINVAL
        pid, groups = unpack_sockaddr_nl(addr)
        if groups and not self._may_join(ctx):
            return -EPERM
        if self.pid:
            if pid != self.pid:
                return -EINVAL
        elif pid:
            table = ports_of(self.stack)
            if (self.protocol, pid) in table:
                return -EADDRINUSE
            table[(self.protocol, pid)] = self
            self.pid = pid
        else:
            self.autobind(ctx)
        self.groups = groups
        return 0

    def net_owner(self) -> UserNamespace | None:
        return self.stack.user_ns

    def _may_join(self, ctx: Context) -> bool:
        """NL_CFG_F_NONROOT_RECV."""
        return self.protocol in (0, 2, 15, 16) or self.has_capability(ctx, CAP_NET_ADMIN)

    def autobind(self, ctx: Context) -> None:
        """Bind to the process id, or to a number that no process has."""
        table = ports_of(self.stack)
        pid = ctx.group.own_tgid if isinstance(ctx, Task) else 0
        other = -4096
        while (self.protocol, pid & 0xFFFFFFFF) in table:
            pid = other
            other -= 1
        self.pid = pid & 0xFFFFFFFF
        table[(self.protocol, self.pid)] = self

    def connect(self, ctx: Context, addr: bytes, *, is_nonblocking: bool) -> int:
        if len(addr) < 2:
            return -EINVAL
        if addr[0] == AF_UNSPEC and addr[1] == 0:
            self.dest_pid = self.dest_groups = 0
            return 0
        if addr[0] != AF_NETLINK or len(addr) < 12:
            return -EINVAL
        pid, groups = unpack_sockaddr_nl(addr)
        if (pid or groups) and not self._may_send(ctx):
            return -EPERM
        if self.pid == 0:
            self.autobind(ctx)
        self.dest_pid, self.dest_groups = pid, groups
        return 0

    def _may_send(self, ctx: Context) -> bool:
        """NL_CFG_F_NONROOT_SEND."""
        return self.protocol == 2 or self.has_capability(ctx, CAP_NET_ADMIN)

    def local_name(self) -> bytes:
        return pack_sockaddr_nl(self.pid, self.groups)

    def peer_name(self) -> bytes:
        return pack_sockaddr_nl(self.dest_pid, self.dest_groups)

    # -- data --------------------------------------------------------------------------------------------
    def send(self, ctx: Context, src: IovIter, flags: int, out: Outgoing | None) -> int:
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        length = src.remaining()
        pid, groups = self.dest_pid, self.dest_groups
        if out is not None and out.name:
            if len(out.name) < 12 or out.name[0] != AF_NETLINK:
                return -EINVAL
            pid, groups = unpack_sockaddr_nl(out.name)
            if (pid or groups) and not self._may_send(ctx):
                return -EPERM
        if self.pid == 0:
            self.autobind(ctx)
        if length > self.sndbuf - 32:
            return -EMSGSIZE
        data = src.copy_from(length) if length else b""
        if len(data) < length:
            raise LinuxError(EFAULT)
        cred = out.cred if out is not None and out.cred is not None else cred_of(ctx)
        if groups:
            self._broadcast(data, groups, cred)
        if pid:
            other = ports_of(self.stack).get((self.protocol, pid))
            if other is None:
                return -ECONNREFUSED
            other.deliver(NetlinkMessage(data, self.pid, 0, cred))
        elif not groups:
            self._to_kernel(ctx, data)
        return length

    def _broadcast(self, data: bytes, groups: int, cred: Ucred, *, is_kernel: bool = False) -> None:
        for (protocol, _pid), other in list(ports_of(self.stack).items()):
            if protocol == self.protocol and (other is not self or is_kernel) and other.groups & groups:
                other.deliver(NetlinkMessage(data, 0 if is_kernel else self.pid, groups, cred))

    def deliver(self, found: NetlinkMessage) -> None:
        """Queue a message; it is lost if the queue is full."""
        program = self.filter_program
        if program is not None:
            kept = program.run(found.data)
            if kept == 0:
                return
            found.data = found.data[:kept]
        if self.queued + len(found.data) > self.rcvbuf or not KERNEL_MEMORY.has_room(0):
            self.error = 105  # ENOBUFS
            return
        self.queued += len(found.data)
        self.inbox.append(found)
        self.queue.wake(IN_WAKE)

    def _to_kernel(self, ctx: Context, data: bytes) -> None:
        """Every request in a message, each answered or acknowledged (netlink_rcv_skb)."""
        at = 0
        while at + NLMSG_HDRLEN <= len(data):
            fields: tuple[int, int, int, int, int] = HEADER.unpack_from(data, at)
            size, kind, flags, seq, _pid = fields
            if size < NLMSG_HDRLEN or at + size > len(data):
                return
            request = data[at : at + size]
            at += size + 3 & ~3
            if not flags & NLM_F_REQUEST or kind < NLMSG_MIN_TYPE:
                if flags & NLM_F_ACK:
                    self._acknowledge(request, 0)
                continue
            reply = Reply(self.pid, seq)
            try:
                errno = self._answer(ctx, reply, kind, flags, request[NLMSG_HDRLEN:])
            except LinuxError as error:
                errno = error.errno
            if errno == 0 and reply.rest is not None:
                if self.dump is not None:
                    errno = EBUSY
                else:
                    self.dump, self.dump_seq = reply.rest, seq
                    self.go_on()
                    if flags & NLM_F_ACK:
                        self._acknowledge(request, 0)
                    continue
            is_dump = flags & NLM_F_DUMP == NLM_F_DUMP and errno == 0 and reply.is_dump
            if errno == 0:
                for part in reply.datagrams(is_dump=is_dump):
                    self.deliver(NetlinkMessage(part, 0, 0, None))
            if is_dump:
                done = message(NLMSG_DONE, NLM_F_MULTI, seq, self.pid, _I32.pack(0))
                self.deliver(NetlinkMessage(done, 0, 0, None))
            elif errno or flags & NLM_F_ACK:
                self._acknowledge(request, errno, reply.complaint)
            for group, notice_kind, body in reply.notices:
                notice = message(notice_kind, 0, 0, 0, body)
                self._broadcast(notice, 1 << group - 1, Ucred(0, 0, 0), is_kernel=True)

    def go_on(self) -> bool:
        """Make the next part of a dump, if the reader has taken all that was made. Returns whether it must be called
        again.
        """
        dump = self.dump
        if dump is None or self.inbox or self.is_released:
            return False
        reply = Reply(self.pid, self.dump_seq)
        has_more = dump.more(reply)
        for part in reply.datagrams(is_dump=True):
            self.deliver(NetlinkMessage(part, 0, 0, None))
        if not has_more:
            self.dump = None
            done = message(NLMSG_DONE, NLM_F_MULTI, self.dump_seq, self.pid, _I32.pack(0))
            self.deliver(NetlinkMessage(done, 0, 0, None))
        elif not self.inbox and not self.is_searching:
            self.is_searching = True
            self.kernel.chores.append(DumpSearch(self))
        return has_more

    def _answer(self, ctx: Context, reply: Reply, kind: int, flags: int, body: bytes) -> int:
        if self.protocol == NETLINK_ROUTE:
            return rtnetlink.answer(self.stack, ctx, reply, kind, flags, body)
        if self.protocol == NETLINK_SOCK_DIAG:
            return sock_diag.answer(self.stack, ctx, reply, kind, flags, body)
        if self.protocol == NETLINK_GENERIC:
            return ENOENT if kind == 0x10 else EOPNOTSUPP
        return ECONNREFUSED

    def _acknowledge(self, request: bytes, errno: int, complaint: str = "") -> None:
        fields: tuple[int, int, int, int, int] = HEADER.unpack_from(request, 0)
        body = _I32.pack(-errno)
        flags = 0
        if errno and not self.options.get(NETLINK_CAP_ACK, 0):
            body += request
        else:
            body += request[:NLMSG_HDRLEN]
            flags = 0x100  # NLM_F_CAPPED
        if complaint and self.options.get(NETLINK_EXT_ACK, 0):
            flags |= 0x200  # NLM_F_ACK_TLVS
            body += bytes(-len(body) & 3) + attribute(1, complaint.encode() + b"\0")  # NLMSGERR_ATTR_MSG
        found = message(NLMSG_ERROR, flags, fields[3], self.pid, body)
        self.deliver(NetlinkMessage(found, 0, 0, None))

    def recv(self, ctx: Context, dst: IovIter, flags: int, info: Incoming | None) -> int:
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        if self.error:
            return self.take_error()
        if not self.inbox:
            return -EAGAIN
        found = self.inbox[0]
        data = found.data
        room = dst.remaining()
        piece = data if len(data) <= room else data[:room]
        copied = len(piece)
        is_lost = copied > 0 and not copy_whole(dst, piece)
        if info is not None:
            info.name = pack_sockaddr_nl(found.pid, found.groups)
            if copied < len(data):
                info.flags |= MSG_TRUNC
            if self.options.get(NETLINK_PKTINFO, 0):
                info.control.append((SOL_NETLINK, NETLINK_PKTINFO, _U32.pack(found.groups)))
            if self.passes_cred:
                cred = found.cred if found.cred is not None else Ucred(0, 0, 0)
                info.control.append((SOL_SOCKET, 2, cred.pack()))
        if not flags & MSG_PEEK:
            self.inbox.popleft()
            self.queued -= len(data)
            if self.dump is not None:
                self.go_on()
        if is_lost:
            raise LinuxError(EFAULT)
        return len(data) if flags & MSG_TRUNC else copied

    # -- the rest ----------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        mask = OUT_EVENTS
        if self.inbox:
            mask |= IN_EVENTS
        if self.error:
            mask |= POLLERR
        return mask

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if command == FIONREAD:
            ctx.user_memory().write_i32(arg, len(self.inbox[0].data) if self.inbox else 0)
            return 0
        if 0x8910 <= command <= 0x89A0:
            return interface_ioctl(self.stack, ctx, command, arg)
        return super().ioctl(ctx, command, arg)

    def setsockopt(self, ctx: Context, level: int, name: int, value: bytes) -> int:
        if level == SOL_SOCKET:
            return self.set_common(ctx, name, value)
        if level != SOL_NETLINK:
            return -ENOPROTOOPT
        if name == NETLINK_LISTEN_ALL_NSID and not self.has_capability(ctx, CAP_NET_BROADCAST):
            return -EPERM
        number: int = _I32.unpack_from(value, 0)[0] if len(value) >= 4 else 0
        if name in (NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP):
            if not self._may_join(ctx):
                return -EPERM
            if not 1 <= number <= 64:
                return -EINVAL
            bit = 1 << number - 1
            self.groups = self.groups | bit if name == NETLINK_ADD_MEMBERSHIP else self.groups & ~bit
            return 0
        if name in _FLAG_OPTIONS:
            self.options[name] = int(number != 0)
            return 0
        return -ENOPROTOOPT

    def getsockopt(self, ctx: Context, level: int, name: int, length: int) -> bytes:
        if level == SOL_SOCKET:
            return self.get_common(ctx, name, length)
        if level != SOL_NETLINK:
            raise LinuxError(ENOPROTOOPT)
        if length < 0:
            raise LinuxError(EINVAL)
        if name == NETLINK_LIST_MEMBERSHIPS:
            return self.groups.to_bytes(8, "little") if self.groups else b""
        if name in _FLAG_OPTIONS:
            if length < 4:
                raise LinuxError(EINVAL)
            return _I32.pack(self.options.get(name, 0))
        raise LinuxError(ENOPROTOOPT)

    def shutdown(self, ctx: Context, how: int) -> int:
        return -EOPNOTSUPP

    def release(self) -> None:
        self.is_released = True
        self.uncharge()
        if self.pid:
            ports_of(self.stack).pop((self.protocol, self.pid), None)
        self.inbox.clear()
        self.dump = None


class DumpSearch(Chore):
    """Looks for the next message of a dump, in pieces, where many sockets lie between two messages."""

    def __init__(self, sock: NetlinkSocket) -> None:
        self.sock: NetlinkSocket = sock

    def step(self) -> bool:
        sock = self.sock
        if sock.go_on() and not sock.inbox:
            return True
        sock.is_searching = False
        return False
