"""Data of sockets: sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg.

Decodes struct msghdr, moves control messages and descriptors, and waits. The open file and everything that was read
from the guest are kept in the object of the wait; nothing is read twice.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EFAULT,
    EINTR,
    EINVAL,
    EMSGSIZE,
    ENOBUFS,
    EPIPE,
    ERESTARTSYS,
    LinuxError,
)
from cloche.abi.fcntl import O_NONBLOCK
from cloche.abi.limits import MAX_RW_COUNT, TASK_SIZE_MAX
from cloche.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM
from cloche.abi.signal import SIGPIPE
from cloche.abi.socket import (
    AF_NETLINK,
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_FASTOPEN,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_WAITALL,
    MSG_WAITFORONE,
    SCM_CREDENTIALS,
    SCM_PIDFD,
    SCM_RIGHTS,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMP_OLD,
    SOL_SOCKET,
)
from cloche.abi.socket_structs import (
    CMSGHDR_SIZE,
    MMSGHDR_SIZE,
    MSGHDR_CONTROLLEN_OFFSET,
    MSGHDR_FLAGS_OFFSET,
    MSGHDR_NAMELEN_OFFSET,
    MSGHDR_SIZE,
    MsgHdr,
    cmsg_align,
    unpack_cmsgs,
)
from cloche.kernel.args import Args, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, TaskBase, block_on
from cloche.kernel.host_wait import HostWait
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.mm.usermem import UserIovIter, user_iov
from cloche.net.control import parse_control
from cloche.net.rights import drop_files
from cloche.net.socket import (
    Incoming,
    Outgoing,
    SocketFile,
)
from cloche.net.ucred import cred_of, show_ucred
from cloche.syscalls.sys_rw import user_segments
from cloche.syscalls.sys_socket import SocketWait, read_address, socket_arg, write_address

_CMSG: Final = Struct("<Qii")
_I32: Final = Struct("<i")
_TWO_I64: Final = Struct("<qq")
_MAX_MESSAGES: Final = 1024
_CONTROL_MAX: Final = 131072  # net.core.optmem_max
_ADDRESS_MAX: Final = 128
_READ: Final = POLLIN | POLLRDNORM | POLLRDHUP
_WRITE: Final = POLLOUT | POLLWRNORM | POLLWRBAND
_COMPAT_FLAG: Final = 0x80000000  # MSG_CMSG_COMPAT is the kernel's own


# -- sending ---------------------------------------------------------------------------------------------------
class SendWait(SocketWait):
    """A send with data left to send."""

    def __init__(
        self, sock: SocketFile, src: UserIovIter, flags: int, out: Outgoing | None, done: int
    ) -> None:
        super().__init__(sock, sock.sndtimeo_ns)
        self.src: UserIovIter = src
        self.flags: int = flags
        self.out: Outgoing | None = out
        self.done: int = done

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        while True:
            result = send_once(task, self.sock, self.src, self.flags, self.out, self.done)
            if result == -EAGAIN:
                return BLOCKED
            if result < 0:
                return self.done if self.done else result
            self.done += result
            if result == 0 or self.src.remaining() == 0 or not self.sock.is_stream():
                return self.done

    def timed_out(self, task: TaskBase) -> int:
        return self.done if self.done else -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        if self.done:
            return self.done
        return -ERESTARTSYS if self.deadline_ns < 0 else -EINTR

    def finished(self, task: TaskBase) -> None:
        if self.out is not None:
            self.out.drop()
        super().finished(task)


def send_once(
    task: Task, sock: SocketFile, src: UserIovIter, flags: int, out: Outgoing | None, done: int
) -> int:
    """One try; a broken stream raises SIGPIPE unless something was sent before."""
    try:
        result = sock.send(task, src, flags, out)
    except LinuxError as error:
        result = -error.errno
    if result == -EPIPE and done == 0 and flags & MSG_NOSIGNAL == 0 and sock.is_stream():
        task.kernel.send_kernel_signal(task, SIGPIPE)
    return result


def start_send(task: Task, sock: SocketFile, src: UserIovIter, flags: int, out: Outgoing | None) -> int:
    """Send, and wait for room if that is allowed."""
    flags &= ~_COMPAT_FLAG
    result = send_once(task, sock, src, flags, out, 0)
    flags &= ~MSG_FASTOPEN  # the rest goes to a connection that exists, or is being made
    if sock.flags & O_NONBLOCK or flags & MSG_DONTWAIT or sock.sndtimeo_ns == 0:
        return result
    if result == -EAGAIN:
        return block_on(task, SendWait(sock, src, flags, out, 0), sock.queue, _WRITE)
    if result > 0 and src.remaining() and sock.is_stream():
        wait = SendWait(sock, src, flags, out, result)
        outcome = wait.retry(task)
        if outcome == BLOCKED:
            return block_on(task, wait, sock.queue, _WRITE)
        wait.finished(task)
        return outcome
    return result


def sys_sendto(task: Task, args: Args) -> int:
    """sendto(2)."""
    addr, count = args.a1, args.a2
    if addr < 0 or count < 0 or addr + count > TASK_SIZE_MAX:
        return -EFAULT
    sock = socket_arg(task, args.a0)
    out: Outgoing | None = None
    if args.a4:
        out = Outgoing(read_address(task, args.a4, args.a5))
    src = UserIovIter(task.user_memory(), addr, min(count, MAX_RW_COUNT))
    return start_send(task, sock, src, to_u32(args.a3), out)


def read_header(task: Task, pointer: int) -> MsgHdr:
    """struct msghdr with its lengths checked (copy_msghdr_from_user).  Raises LinuxError."""
    header = MsgHdr(task.user_memory().read(pointer, MSGHDR_SIZE))
    if header.iovlen > 1024:
        raise LinuxError(EMSGSIZE)
    if header.name == 0:
        header.namelen = 0
    if header.namelen > 0x7FFFFFFF:
        raise LinuxError(EINVAL)
    return header


def outgoing_of(task: Task, sock: SocketFile, header: MsgHdr) -> Outgoing | None:
    """Name, control messages and files of a message to send."""
    if header.controllen > 0x7FFFFFFF:
        raise LinuxError(ENOBUFS)
    if header.namelen == 0 and header.controllen == 0:
        return None
    memory = task.user_memory()
    name: bytes | None = None
    if header.namelen:
        name = memory.read(header.name, min(header.namelen, _ADDRESS_MAX))
    out = Outgoing(name)
    if header.controllen:
        if header.controllen > _CONTROL_MAX:
            raise LinuxError(ENOBUFS)
        out.control = unpack_cmsgs(memory.read(header.control, header.controllen))
        refusal = sock.send_refusal()
        if refusal:
            raise LinuxError(-refusal)
        # Other families check control messages after the address.
        if sock.family in (AF_UNIX, AF_NETLINK):
            parse_control(task, out, takes_files=sock.family == AF_UNIX)
            if out.cred is None and sock.family == AF_NETLINK:
                out.cred = cred_of(task)
    return out


def send_message(task: Task, sock: SocketFile, pointer: int, flags: int) -> int:
    """sendmsg of one header; BLOCKED if it waits."""
    header = read_header(task, pointer)
    segments = user_segments(task, header.iov, header.iovlen) if header.iovlen else []
    out = outgoing_of(task, sock, header)
    try:
        result = start_send(task, sock, user_iov(task.user_memory(), segments), flags, out)
    except HostWait:
        if out is not None:
            drop_unsent(task, out)
        raise
    if result != BLOCKED and out is not None:
        drop_unsent(task, out)
    return result


def drop_unsent(task: Task, out: Outgoing) -> None:
    """Drop files of a message that was not sent."""
    files = out.files
    if files is not None:
        out.files = None
        drop_files(task.kernel, files)


def sys_sendmsg(task: Task, args: Args) -> int:
    """sendmsg(2)."""
    return send_message(task, socket_arg(task, args.a0), to_u64(args.a1), to_u32(args.a2))


class SendManyWait(SocketWait):
    """sendmmsg whose current message waits: the wait of that message, and what is left to do after it."""

    def __init__(
        self, sock: SocketFile, inner: SendWait, pointer: int, flags: int, count: int, done: int
    ) -> None:
        super().__init__(sock, -1)
        self.deadline_ns = inner.deadline_ns
        self.inner: SendWait = inner
        self.pointer: int = pointer
        self.flags: int = flags
        self.count: int = count
        self.done: int = done  # messages sent

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        result = self.inner.retry(task)
        if result == BLOCKED:
            return BLOCKED
        if result < 0:
            return self.done if self.done else result
        task.user_memory().write_u32(self.pointer + self.done * MMSGHDR_SIZE + MSGHDR_SIZE, result)
        # The remaining messages are sent without waiting: a partial result is allowed.
        sent = send_many(task, self.sock, self.pointer, self.count, self.flags | MSG_DONTWAIT, self.done + 1)
        return sent if sent > 0 else self.done + 1

    def timed_out(self, task: TaskBase) -> int:
        return self.done if self.done else self.inner.timed_out(task)

    def interrupted(self, task: TaskBase) -> int:
        result = self.inner.interrupted(task)
        if result > 0:
            return self.done + 1
        return self.done if self.done else result

    def finished(self, task: TaskBase) -> None:
        self.inner.finished(task)
        super().finished(task)


def send_many(task: Task, sock: SocketFile, pointer: int, count: int, flags: int, done: int) -> int:
    """Messages from number `done` on; the number sent in all, -errno, or BLOCKED."""
    memory = task.user_memory()
    while done < count:
        at = pointer + done * MMSGHDR_SIZE
        try:
            result = send_message(task, sock, at, flags)
            if result == BLOCKED:
                inner = task.blocked
                assert isinstance(inner, SendWait)
                if count == 1:
                    pass
                queue = sock.queue
                queue.remove(task.waiter)
                inner.queues.clear()
                return block_on(task, SendManyWait(sock, inner, pointer, flags, count, done), queue, _WRITE)
            if result >= 0:
                memory.write_u32(at + MSGHDR_SIZE, result)
        except LinuxError as error:
            result = -error.errno
        if result < 0:
            return done if done else result
        done += 1
        task.kernel.host_waits.commit()
    return done


def sys_sendmmsg(task: Task, args: Args) -> int:
    """sendmmsg(2)."""
    sock = socket_arg(task, args.a0)
    return send_many(task, sock, to_u64(args.a1), min(to_u32(args.a2), _MAX_MESSAGES), to_u32(args.a3), 0)


# -- receiving -------------------------------------------------------------------------------------------------
class RecvWait(SocketWait):
    """A receive that waits for more data."""

    def __init__(
        self, sock: SocketFile, dst: UserIovIter, flags: int, info: Incoming | None, target: int, done: int
    ) -> None:
        super().__init__(sock, sock.rcvtimeo_ns)
        self.dst: UserIovIter = dst
        self.flags: int = flags
        self.info: Incoming | None = info
        self.target: int = target
        self.done: int = done

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        result = self.advance(task)
        return result if result == BLOCKED else self.settle(task, result)

    def advance(self, task: Task) -> int:
        """Receive on; BLOCKED, or the bytes (or errno) of the call."""
        while True:
            try:
                result = self.sock.recv(task, self.dst, self.flags, self.info)
            except LinuxError as error:
                result = -error.errno
            if result == -EAGAIN:
                return BLOCKED
            if result < 0:
                if self.done:
                    if self.sock.error == 0 and result != -EFAULT:
                        self.sock.error = -result
                    return self.done
                return result
            if self.flags & MSG_PEEK and 0 < result < self.target and not has_ended(task, self.sock):
                self.dst.revert(result)  # start again at the beginning of the buffer
                return BLOCKED
            self.done += result
            info = self.info
            has_files = info is not None and info.files is not None
            if result == 0 or self.done >= self.target or not self.sock.is_stream() or has_files:
                return self.done

    def settle(self, task: Task, result: int) -> int:
        """Write names and control messages back; the result of the call."""
        return result

    def timed_out(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return self.end(task, -EAGAIN)

    def interrupted(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return self.end(task, -ERESTARTSYS if self.deadline_ns < 0 else -EINTR)

    def end(self, task: Task, failure: int) -> int:
        """The wait is over without more data."""
        if not self.done:
            return failure
        try:
            return self.settle(task, self.done)
        except LinuxError as error:
            return -error.errno

    def finished(self, task: TaskBase) -> None:
        if self.info is not None:
            self.info.drop()
        super().finished(task)


class RecvFromWait(RecvWait):
    """recvfrom."""

    def __init__(
        self, sock: SocketFile, dst: UserIovIter, flags: int, info: Incoming | None, target: int, done: int
    ) -> None:
        super().__init__(sock, dst, flags, info, target, done)
        self.addr: int = 0
        self.length: int = 0

    def settle(self, task: Task, result: int) -> int:
        return finish_recvfrom(task, self.info, self.addr, self.length, result)


class RecvMsgWait(RecvWait):
    """recvmsg."""

    def __init__(
        self, sock: SocketFile, dst: UserIovIter, flags: int, info: Incoming | None, target: int, done: int
    ) -> None:
        super().__init__(sock, dst, flags, info, target, done)
        self.pointer: int = 0
        self.header: MsgHdr | None = None

    def settle(self, task: Task, result: int) -> int:
        header, info = self.header, self.info
        assert header is not None and info is not None
        return finish_recvmsg(task, self.pointer, header, info, self.flags, result)


def wanted_bytes(sock: SocketFile, flags: int, size: int) -> int:
    """sock_rcvlowat: what a stream must have before a blocking receive returns."""
    if not sock.is_stream():
        return 1
    if flags & MSG_PEEK and (flags & MSG_WAITALL == 0 or sock.family == AF_UNIX):
        return 1
    if flags & MSG_WAITALL:
        return size
    return min(sock.rcvlowat, size) if size else 1


def has_ended(task: Task, sock: SocketFile) -> bool:
    """Whether no more data will come."""
    return sock.poll(task) & (POLLRDHUP | POLLHUP | POLLERR) != 0


def may_wait(sock: SocketFile, flags: int) -> bool:
    """Whether a receive may block."""
    return not (sock.flags & O_NONBLOCK or flags & (MSG_DONTWAIT | MSG_ERRQUEUE) or sock.rcvtimeo_ns == 0)


def finish_recvfrom(task: Task, info: Incoming | None, addr: int, length: int, result: int) -> int:
    """Give the sender's address back."""
    if result >= 0 and addr and info is not None:
        write_address(task, addr, length, info.name)
    if info is not None:
        info.drop()
    return result


def sys_recvfrom(task: Task, args: Args) -> int:
    """recvfrom(2)."""
    base, count = args.a1, args.a2
    if base < 0 or count < 0 or base + count > TASK_SIZE_MAX:
        return -EFAULT
    sock = socket_arg(task, args.a0)
    flags = to_u32(args.a3)
    addr, length = to_u64(args.a4), to_u64(args.a5)
    info = Incoming() if addr else None
    count = min(count, MAX_RW_COUNT)
    dst = UserIovIter(task.user_memory(), base, count)
    result = sock.recv(task, dst, flags, info)
    is_short = result == -EAGAIN or 0 < result < count
    target = wanted_bytes(sock, flags, count) if is_short else 0
    if is_short and result < target and may_wait(sock, flags):
        if result > 0 and flags & MSG_PEEK:
            if has_ended(task, sock):
                return finish_recvfrom(task, info, addr, length, result)
            dst.revert(result)
            result = -EAGAIN
        wait = RecvFromWait(sock, dst, flags, info, target, max(result, 0))
        wait.addr, wait.length = addr, length
        return begin_wait(task, wait, result)
    return finish_recvfrom(task, info, addr, length, result)


def begin_wait(task: Task, wait: RecvWait, result: int) -> int:
    """Wait for more, unless what stopped a partial receive is final."""
    if result > 0:
        outcome = wait.retry(task)
        if outcome != BLOCKED:
            wait.finished(task)
            return outcome
    return block_on(task, wait, wait.sock.queue, _READ)


def finish_recvmsg(task: Task, pointer: int, header: MsgHdr, info: Incoming, flags: int, result: int) -> int:
    """Write name, control messages and flags of a received message."""
    if result < 0:
        info.drop()
        return result
    memory = task.user_memory()
    try:
        writer = ControlWriter(task, header, flags)
        if header.control and header.controllen or info.control or info.files is not None or info.has_pidfd:
            writer.put_all(info)
        if header.name:
            if info.name:
                memory.write(header.name, info.name[: header.namelen])
            memory.write_u32(pointer + MSGHDR_NAMELEN_OFFSET, len(info.name))
        # Some flags of the call are shown, too, as in Linux.
        shown = info.flags | (flags & MSG_CMSG_CLOEXEC)
        memory.write_u64(pointer + MSGHDR_CONTROLLEN_OFFSET, writer.used)
        memory.write_u32(pointer + MSGHDR_FLAGS_OFFSET, shown)
    finally:
        info.drop()
    return result


class ControlWriter:
    """Fills the control buffer of a receiver (put_cmsg, scm_detach_fds)."""

    def __init__(self, task: Task, header: MsgHdr, flags: int) -> None:
        self.task: Task = task
        self.addr: int = header.control
        self.left: int = header.controllen if header.control else 0
        self.used: int = 0
        self.is_cloexec: bool = flags & MSG_CMSG_CLOEXEC != 0

    def put(self, info: Incoming, level: int, kind: int, data: bytes) -> None:
        """One message, cut if the buffer ends."""
        if self.left < CMSGHDR_SIZE:
            info.flags |= MSG_CTRUNC
            return
        length = CMSGHDR_SIZE + len(data)
        if self.left < length:
            info.flags |= MSG_CTRUNC
            length = self.left
            data = data[: length - CMSGHDR_SIZE]
        self.task.user_memory().write(self.addr, _CMSG.pack(length, level, kind) + data)
        step = min(cmsg_align(length), self.left)
        self.addr += step
        self.left -= step
        self.used += step

    def put_all(self, info: Incoming) -> None:
        """Write all control messages that came with the message; the descriptors last but for a pidfd."""
        for level, kind, data in info.control:
            if level == -1:
                level, data = SOL_SOCKET, timestamp(kind, data)
            elif level == SOL_SOCKET and kind == SCM_CREDENTIALS:
                data = show_ucred(self.task, data)
            self.put(info, level, kind, data)
        if info.files is not None:
            self.put_files(info)
        if info.has_pidfd:
            self.put_pidfd(info)

    def put_files(self, info: Incoming) -> None:
        """Install as many files as there is room for (scm_detach_fds)."""
        task, files = self.task, info.files
        assert files is not None
        info.files = None
        room = max(self.left - CMSGHDR_SIZE, 0) // 4
        numbers: list[int] = []
        try:
            for file in files[:room]:
                numbers.append(task.files.install(file, task.nofile_limit(), is_cloexec=self.is_cloexec))
        except LinuxError:
            pass
        if len(numbers) < len(files):
            info.flags |= MSG_CTRUNC
        if numbers:
            data = b"".join([_I32.pack(fd) for fd in numbers])
            self.put(info, SOL_SOCKET, SCM_RIGHTS, data)
        drop_files(task.kernel, files)

    def put_pidfd(self, info: Incoming) -> None:
        """SCM_PIDFD: a descriptor of the sender's process, or why there is none."""
        opener, group = self.task.kernel.hooks.open_pidfd, info.pidfd_of
        if self.left < CMSGHDR_SIZE + 4:
            info.flags |= MSG_CTRUNC
            return
        if opener is None or group is None or not group.is_alive():
            self.put(info, SOL_SOCKET, SCM_PIDFD, _I32.pack(-3 if group is not None else -22))
            return
        try:
            self.put(info, SOL_SOCKET, SCM_PIDFD, _I32.pack(opener(self.task, group)))
        except LinuxError as error:
            self.put(info, SOL_SOCKET, SCM_PIDFD, _I32.pack(-error.errno))


def timestamp(option: int, data: bytes) -> bytes:
    """struct timeval or timespec of a time in ns."""
    when = int.from_bytes(data, "little")
    if option in (SO_TIMESTAMP_OLD, SO_TIMESTAMP_NEW):
        return _TWO_I64.pack(when // 1_000_000_000, when % 1_000_000_000 // 1000)
    return _TWO_I64.pack(when // 1_000_000_000, when % 1_000_000_000)


def receive_message(task: Task, sock: SocketFile, pointer: int, flags: int) -> int:
    """recvmsg of one header; BLOCKED if it waits."""
    header = read_header(task, pointer)
    segments = user_segments(task, header.iov, header.iovlen) if header.iovlen else []
    dst = user_iov(task.user_memory(), segments)
    size = dst.remaining()
    info = Incoming()
    result = sock.recv(task, dst, flags, info)
    target = wanted_bytes(sock, flags, size)
    if (result == -EAGAIN or (0 < result < target and info.files is None)) and may_wait(sock, flags):
        if result > 0 and flags & MSG_PEEK:
            if has_ended(task, sock):
                return finish_recvmsg(task, pointer, header, info, flags, result)
            dst.revert(result)
            info = Incoming()
            result = -EAGAIN
        wait = RecvMsgWait(sock, dst, flags, info, target, max(result, 0))
        wait.pointer, wait.header = pointer, header
        return begin_wait(task, wait, result)
    return finish_recvmsg(task, pointer, header, info, flags, result)


def sys_recvmsg(task: Task, args: Args) -> int:
    """recvmsg(2)."""
    return receive_message(task, socket_arg(task, args.a0), to_u64(args.a1), to_u32(args.a2))


class RecvManyWait(SocketWait):
    """recvmmsg whose current message waits."""

    def __init__(
        self, sock: SocketFile, inner: RecvMsgWait, pointer: int, flags: int, count: int, done: int
    ) -> None:
        super().__init__(sock, -1)
        self.deadline_ns = inner.deadline_ns
        self.inner: RecvMsgWait = inner
        self.pointer: int = pointer
        self.flags: int = flags
        self.count: int = count
        self.done: int = done
        self.end_ns: int = -1  # of the whole call; checked after each message, as in Linux

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        result = self.inner.retry(task)
        if result == BLOCKED:
            return BLOCKED
        if result < 0:
            return self.done if self.done else result
        task.user_memory().write_u32(self.pointer + self.done * MMSGHDR_SIZE + MSGHDR_SIZE, result)
        self.done += 1
        flags = self.flags | (MSG_DONTWAIT if self.flags & MSG_WAITFORONE else 0)
        while self.done < self.count:
            if self.end_ns >= 0 and monotonic_ns() >= self.end_ns:
                break
            at = self.pointer + self.done * MMSGHDR_SIZE
            result = receive_message(task, self.sock, at, flags)
            if result == BLOCKED:
                following = task.blocked
                assert isinstance(following, RecvMsgWait)
                following.queues.clear()
                self.inner.finished(task)
                self.inner = following
                task.blocked = self
                return BLOCKED
            if result < 0:
                break
            task.user_memory().write_u32(at + MSGHDR_SIZE, result)
            self.done += 1
        return self.done

    def timed_out(self, task: TaskBase) -> int:
        return self.done if self.done else -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        return self.done if self.done else self.inner.interrupted(task)

    def finished(self, task: TaskBase) -> None:
        self.inner.finished(task)
        super().finished(task)


def sys_recvmmsg(task: Task, args: Args) -> int:
    """recvmmsg(2): the time limit is looked at after each message only, as Linux does."""
    memory = task.user_memory()
    end_ns = -1
    if args.a4:
        raw = memory.read(to_u64(args.a4), 16)
        seconds, nanos = _TWO_I64.unpack(raw)
        if seconds < 0 or nanos < 0 or nanos >= 1_000_000_000:
            return -EINVAL
        end_ns = monotonic_ns() + seconds * 1_000_000_000 + nanos
    sock = socket_arg(task, args.a0)
    pointer, count, flags = to_u64(args.a1), min(to_u32(args.a2), _MAX_MESSAGES), to_u32(args.a3)
    if sock.error:
        return sock.take_error()
    done = 0
    result = 0
    while done < count:
        at = pointer + done * MMSGHDR_SIZE
        is_later = done > 0 and flags & MSG_WAITFORONE != 0
        try:
            result = receive_message(task, sock, at, flags | (MSG_DONTWAIT if is_later else 0))
        except LinuxError as error:
            result = -error.errno
        if result == BLOCKED:
            inner = task.blocked
            assert isinstance(inner, RecvMsgWait)
            sock.queue.remove(task.waiter)
            inner.queues.clear()
            wait = RecvManyWait(sock, inner, pointer, flags, count, done)
            wait.end_ns = end_ns
            return block_on(task, wait, sock.queue, _READ)
        if result < 0:
            break
        memory.write_u32(at + MSGHDR_SIZE, result)
        done += 1
        if end_ns >= 0 and monotonic_ns() >= end_ns:
            break
    if args.a4 and done:
        left = max(end_ns - monotonic_ns(), 0)
        memory.write(to_u64(args.a4), _TWO_I64.pack(left // 1_000_000_000, left % 1_000_000_000))
    if done:
        if result < 0 and result != -EAGAIN and sock.error == 0:
            sock.error = -result
        return done
    return result
