"""Sockets: making, naming, connecting and closing them; data is in `sys_msg`, options in `sys_sockopt`.

Decodes and checks; the semantics are in the protocols (net). accept and connect wait here.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOTSOCK, ERESTARTSYS, LinuxError
from cloche.abi.fcntl import O_NONBLOCK, O_PATH
from cloche.abi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from cloche.abi.socket import SOCK_CLOEXEC, SOCK_NONBLOCK
from cloche.abi.structs import pack_u32
from cloche.kernel.args import Args, to_i32, to_u32, to_u64
from cloche.kernel.blocking import BLOCKED, Blocked, TaskBase, block_on
from cloche.kernel.task import Task
from cloche.kernel.timers import monotonic_ns
from cloche.net.registry import create_pair, create_socket
from cloche.net.socket import SocketFile

_TYPE_MASK: Final = 15
_FLAGS: Final = SOCK_CLOEXEC | SOCK_NONBLOCK
_ADDRESS_MAX: Final = 128  # struct sockaddr_storage


def socket_arg(task: Task, fd_arg: int) -> SocketFile:
    """The socket of a descriptor argument.  Raises LinuxError(EBADF, ENOTSOCK)."""
    file = task.files.find(to_i32(fd_arg))
    if file is not None and file.flags & O_PATH == 0:
        if isinstance(file, SocketFile):
            return file
        raise LinuxError(ENOTSOCK)
    raise LinuxError(EBADF)


def read_address(task: Task, pointer: int, length_arg: int) -> bytes:
    """A sockaddr argument (move_addr_to_kernel)."""
    length = to_i32(length_arg)
    if length < 0 or length > _ADDRESS_MAX:
        raise LinuxError(EINVAL)
    return task.user_memory().read(to_u64(pointer), length) if length else b""


def write_address(task: Task, pointer: int, length_pointer: int, address: bytes) -> None:
    """Give an address back: as much as fits, and its whole length (move_addr_to_user)."""
    memory = task.user_memory()
    room = memory.read_i32(length_pointer)
    if room < 0:
        raise LinuxError(EINVAL)
    if room and address:
        memory.write(pointer, address[:room])
    memory.write_i32(length_pointer, len(address))


def deadline_after(limit_ns: int) -> int:
    """The end of a wait of at most `limit_ns`, -1 for ever."""
    return -1 if limit_ns < 0 else monotonic_ns() + limit_ns


class SocketWait(Blocked):
    """A call that waits for a socket, held while it does."""

    def __init__(self, sock: SocketFile, limit_ns: int) -> None:
        super().__init__(deadline_after(limit_ns))
        self.sock: SocketFile = sock
        sock.get()

    def timed_out(self, task: TaskBase) -> int:
        return -EAGAIN

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTSYS if self.deadline_ns < 0 else -EINTR

    def finished(self, task: TaskBase) -> None:
        self.sock.put()


# -- making ----------------------------------------------------------------------------------------------------
def sys_socket(task: Task, args: Args) -> int:
    """socket(2)."""
    kind = to_i32(args.a1)
    flags = kind & ~_TYPE_MASK
    if flags & ~_FLAGS:
        return -EINVAL
    sock = create_socket(task, to_i32(args.a0), kind & _TYPE_MASK, to_i32(args.a2), flags & SOCK_NONBLOCK)
    return install(task, sock, flags)


def install(task: Task, sock: SocketFile, flags: int) -> int:
    """A descriptor for a new socket; without a free one the socket is closed again."""
    sock.get()
    try:
        return task.files.install(sock, task.nofile_limit(), is_cloexec=flags & SOCK_CLOEXEC != 0)
    finally:
        sock.put()


def sys_socketpair(task: Task, args: Args) -> int:
    """socketpair(2)."""
    kind = to_i32(args.a1)
    flags = kind & ~_TYPE_MASK
    if flags & ~_FLAGS:
        return -EINVAL
    files = task.files
    pair = create_pair(task, to_i32(args.a0), kind & _TYPE_MASK, to_i32(args.a2), flags & SOCK_NONBLOCK)
    first = second = -1
    pair[0].get()
    pair[1].get()
    try:
        first = install(task, pair[0], flags)
        second = install(task, pair[1], flags)
        # Not deferred: after a fault the descriptors must not stay.
        if not task.user_memory().write_now(to_u64(args.a3), pack_u32(first) + pack_u32(second)):
            raise LinuxError(EFAULT)
    except LinuxError as error:
        for fd in (first, second):
            if fd >= 0:
                files.close(task, fd)
        return -error.errno
    finally:
        pair[0].put()
        pair[1].put()
    return 0


# -- names -----------------------------------------------------------------------------------------------------
def sys_bind(task: Task, args: Args) -> int:
    """bind(2)."""
    sock = socket_arg(task, args.a0)
    return sock.bind(task, read_address(task, args.a1, args.a2))


def sys_getsockname(task: Task, args: Args) -> int:
    """getsockname(2)."""
    sock = socket_arg(task, args.a0)
    write_address(task, to_u64(args.a1), to_u64(args.a2), sock.local_name())
    return 0


def sys_getpeername(task: Task, args: Args) -> int:
    """getpeername(2)."""
    sock = socket_arg(task, args.a0)
    write_address(task, to_u64(args.a1), to_u64(args.a2), sock.peer_name())
    return 0


# -- connections -----------------------------------------------------------------------------------------------
def sys_listen(task: Task, args: Args) -> int:
    """listen(2)."""
    sock = socket_arg(task, args.a0)
    return sock.listen(task, min(to_u32(args.a1), sock.listen_limit()))


class AcceptWait(SocketWait):
    """accept that waits for a connection."""

    def __init__(self, sock: SocketFile, addr: int, length: int, flags: int) -> None:
        super().__init__(sock, sock.rcvtimeo_ns)
        self.addr: int = addr
        self.length: int = length
        self.flags: int = flags

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        result = do_accept(task, self.sock, self.addr, self.length, self.flags)
        return BLOCKED if result == -EAGAIN else result


def do_accept(task: Task, listener: SocketFile, addr: int, length: int, flags: int) -> int:
    """Take one connection and install it; the address pointer may be null."""
    task.files.reserve(task.nofile_limit())
    try:
        sock = listener.accept(task, flags & SOCK_NONBLOCK)
    except LinuxError as error:
        return -error.errno
    sock.flags = sock.flags & ~O_NONBLOCK | flags & SOCK_NONBLOCK
    sock.get()
    try:
        if addr:
            try:
                name = sock.accepted_name()
            except LinuxError:
                return -103  # ECONNABORTED: reset before it was accepted
            write_address(task, addr, length, name)
        return task.files.install(sock, task.nofile_limit(), is_cloexec=flags & SOCK_CLOEXEC != 0)
    finally:
        sock.put()


def accept_common(task: Task, args: Args, flags: int) -> int:
    """accept4(2)."""
    if flags & ~_FLAGS:
        return -EINVAL
    sock = socket_arg(task, args.a0)
    addr, length = to_u64(args.a1), to_u64(args.a2)
    result = do_accept(task, sock, addr, length, flags)
    if result != -EAGAIN or sock.flags & O_NONBLOCK:
        return result
    wait = AcceptWait(sock, addr, length, flags)
    return block_on(task, wait, sock.queue, POLLIN | POLLRDNORM, is_exclusive=True)


def sys_accept(task: Task, args: Args) -> int:
    """accept(2)."""
    return accept_common(task, args, 0)


def sys_accept4(task: Task, args: Args) -> int:
    """accept4(2)."""
    return accept_common(task, args, to_u32(args.a3))


class ConnectWait(SocketWait):
    """connect that waits for a place in the listener's backlog."""

    def __init__(self, sock: SocketFile, addr: bytes) -> None:
        super().__init__(sock, sock.sndtimeo_ns)
        self.addr: bytes = addr

    def retry(self, task: TaskBase) -> int:
        try:
            result = self.sock.connect(task, self.addr, is_nonblocking=False)
        except LinuxError as error:
            result = -error.errno
        return BLOCKED if result == -EAGAIN else result

    def timed_out(self, task: TaskBase) -> int:
        return self.sock.connect_timed_out()

    def interrupted(self, task: TaskBase) -> int:
        return -ERESTARTSYS if self.deadline_ns < 0 else -EINTR


def sys_connect(task: Task, args: Args) -> int:
    """connect(2)."""
    sock = socket_arg(task, args.a0)
    addr = read_address(task, args.a1, args.a2)
    is_nonblocking = sock.flags & O_NONBLOCK != 0
    result = sock.connect(task, addr, is_nonblocking=is_nonblocking)
    if result == -EAGAIN and not is_nonblocking and sock.sndtimeo_ns != 0:
        return block_on(task, ConnectWait(sock, addr), sock.queue, POLLOUT | POLLWRNORM)
    if result == -EAGAIN and not is_nonblocking:
        return sock.connect_timed_out()
    return result


def sys_shutdown(task: Task, args: Args) -> int:
    """shutdown(2)."""
    sock = socket_arg(task, args.a0)
    how = to_i32(args.a1)
    if how < 0 or how > 2:
        return -EINVAL
    return sock.shutdown(task, how)
