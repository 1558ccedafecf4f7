"""Open files around host descriptors that were donated at the start: the standard streams of `cloche run`.

Owns `HostFd`, its inode and its descriptions.  Reads and writes go straight between the descriptor and
guest memory.

Never blocks the sentry (for files on disks other tasks run meanwhile, kernel.lanes), and never sets O_NONBLOCK (other
holders of the same open file would be affected): transfers use RWF_NOWAIT; where the host does not support that for
the kind of file (terminals, older kernels) the descriptor is polled first, and data is moved in pieces that cannot
block. Readiness comes from an edge-triggered watch that exists only while a task waits.

Boot calls `host_file` once per donated descriptor.
"""

import fcntl
import os
import select
import socket
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    EIO,
    EISDIR,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    ESPIPE,
    LinuxError,
)
from cloche.abi.fcntl import O_ACCMODE, O_APPEND, O_RDONLY, O_RDWR, O_WRONLY
from cloche.abi.fs import SEEK_END
from cloche.abi.ioctl import (
    FIONREAD,
    TCGETS,
    TCGETS2,
    TCSETS,
    TCSETS2,
    TCSETSF,
    TCSETSF2,
    TCSETSW,
    TCSETSW2,
    TIOCGWINSZ,
    TIOCOUTQ,
    TIOCSCTTY,
    TIOCSTI,
    TIOCSWINSZ,
)
from cloche.abi.misc import MEM_MAJOR
from cloche.abi.poll import (
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRNORM,
)
from cloche.abi.signal import SIGPIPE
from cloche.abi.stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    major,
    makedev,
)
from cloche.abi.structs import WINSIZE
from cloche.abi.uio import RWF_NOWAIT
from cloche.fs.termios_codec import TERMIOS2_SIZE, TERMIOS_SIZE, termios2_to_termios, termios_to_termios2
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.host_wait import HostWait, StorageTurn
from cloche.kernel.task import Kernel, Task
from cloche.mm.usermem import IovIter
from cloche.platform import hostsys, slow
from cloche.platform.interface import SLOW_STORAGE
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.vfs.records import ATTR_ATIME, ATTR_GID, ATTR_MODE, ATTR_MTIME, ATTR_SIZE, ATTR_UID, SetAttr
from cloche.vfs.waitqueue import ANY, Waiter, WaitQueue

# The kind of descriptor, which decides how it is read and written.
PLAIN: Final = 0  # never blocks: regular files, block devices, /dev/null and its like
STREAM: Final = 1  # pipes and FIFOs
SOCKET: Final = 2
TERMINAL: Final = 3

_READABLE: Final = POLLIN | POLLRDNORM
_WRITABLE: Final = POLLOUT | POLLWRNORM
_WATCH: Final = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET
_POLL_ALL: Final = POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM
_READ_PIECE: Final = 65536  # one read(2) of a ready descriptor
_PIPE_PIECE: Final = 4096  # PIPE_BUF: what a pipe that polls writable takes without waiting
_TTY_PIECE: Final = 256


def is_blocking_device(rdev: int) -> bool:
    """Whether a character device may make a reader wait."""
    return major(rdev) != MEM_MAJOR


class HostWaitQueue(WaitQueue):
    """A wait queue that watches the host descriptor while it has waiters."""

    def __init__(self, host: "HostFd") -> None:
        super().__init__()
        self.host: HostFd = host

    def add(self, waiter: Waiter, mask: int = ANY, *, is_exclusive: bool = False) -> None:
        super().add(waiter, mask, is_exclusive=is_exclusive)
        self.host.arm()


class HostFd(FdWatcher):
    """One donated descriptor, shared by every description that was opened on it; closed with the last."""

    def __init__(self, kernel: Kernel, fd: int, *, is_owned: bool) -> None:
        self.kernel: Kernel = kernel
        self.fd: int = fd
        self.is_owned: bool = is_owned
        self.refs: int = 0
        self.status_flags: int = fcntl.fcntl(fd, fcntl.F_GETFL)
        self.has_nowait: bool = True
        self.token: int = -1
        self.saved_termios: bytes = b""  # as found, once a guest has changed it
        self.socket: socket.socket | None = None
        st = os.fstat(fd)
        kind = st.st_mode & S_IFMT
        if kind == S_IFIFO:
            self.kind: int = STREAM
        elif kind == S_IFSOCK:
            self.kind = SOCKET
        elif kind == S_IFCHR and is_blocking_device(st.st_rdev):
            self.kind = TERMINAL
            self.has_nowait = False
        else:
            self.kind = PLAIN
        self.is_disk: bool = kind in (S_IFREG, S_IFBLK)  # calls on it may take long
        self.away: int = 0  # calls on it that are taking long (kernel.lanes)
        self.turn: StorageTurn = StorageTurn()  # other calls wait for this meanwhile
        self.is_tty: bool = self.kind == TERMINAL and os.isatty(fd)
        self.queue: HostWaitQueue = HostWaitQueue(self)
        self.poller: select.poll = select.poll()
        self.poller.register(fd, _POLL_ALL)

    # -- readiness -------------------------------------------------------------------------------------
    def poll(self) -> int:
        """POLL* bits of the descriptor now."""
        if self.fd < 0:
            return POLLERR
        for _fd, mask in self.poller.poll(0):
            return mask
        return 0

    def arm(self) -> None:
        """Watch the descriptor, if it can be waited for."""
        if self.token < 0 and self.kind != PLAIN and self.fd >= 0:
            self.token = self.kernel.fds.watch(self.fd, _WATCH, self)

    def disarm(self) -> None:
        """Stop watching."""
        if self.token >= 0:
            self.kernel.fds.unwatch(self.fd, self.token)
            self.token = -1

    def fd_ready(self, token: int, events: int) -> None:
        if self.queue.is_empty():
            self.disarm()
            return
        mask = events & (POLLIN | POLLOUT | POLLPRI | POLLERR | POLLHUP | POLLRDHUP)
        if mask & POLLIN:
            mask |= POLLRDNORM
        if mask & POLLOUT:
            mask |= POLLWRNORM
        self.queue.wake(mask)

    # -- transfers -------------------------------------------------------------------------------------
    def read(self, dst: IovIter) -> int:
        """Read at the host's file position; bytes, 0 at the end, or -errno (-EAGAIN: would block)."""
        fd = self.fd
        if fd < 0:
            return -EIO
        if self.is_disk:
            return self.read_disk(dst, -1)
        if self.kind == PLAIN:
            return dst.read_fd(fd, -1, dst.remaining())
        if dst.remaining() == 0:
            return 0
        if self.has_nowait:
            result = dst.read_fd(fd, -1, dst.remaining(), RWF_NOWAIT)
            if result != -EOPNOTSUPP:
                return result
            self.has_nowait = False
        if self.kind == SOCKET:
            return self._receive(dst)
        if self.poll() & (POLLIN | POLLHUP | POLLERR) == 0:
            return -EAGAIN
        return dst.read_fd(fd, -1, min(dst.remaining(), _READ_PIECE))

    def write(self, src: IovIter) -> int:
        """Write at the host's file position; bytes or -errno."""
        fd = self.fd
        if fd < 0:
            return -EIO
        if self.kind == PLAIN:
            return src.write_fd(fd, -1, src.remaining(), SLOW_STORAGE if self.is_disk else 0)
        if src.remaining() == 0:
            return 0
        if self.has_nowait:
            result = src.write_stream(fd, src.remaining(), RWF_NOWAIT)
            if result != -EOPNOTSUPP:
                return result
            self.has_nowait = False
        if self.kind == SOCKET:
            return self._send(src)
        piece = _TTY_PIECE if self.kind == TERMINAL else _PIPE_PIECE
        done = 0
        while src.remaining() > 0 and done < _READ_PIECE:
            if self.poll() & (POLLOUT | POLLERR) == 0:
                return done if done else -EAGAIN
            count = src.write_stream(fd, min(src.remaining(), piece))
            if count < 0:
                return done if done else count
            done += count
            if count == 0:
                break
        return done

    def read_disk(self, dst: IovIter, offset: int) -> int:
        """Read what the host has in memory; if it has none of the data, other tasks may run while it is read from
        disk.
        """
        want = dst.remaining()
        if self.has_nowait:
            count = dst.read_fd(self.fd, offset, want, RWF_NOWAIT)
            if count != -EAGAIN and count != -EOPNOTSUPP:
                return count
            self.has_nowait = count == -EAGAIN
        caller = dst.caller()
        if caller < 0:
            return dst.read_fd(self.fd, offset, want)
        try:
            data = slow.read(caller, self.fd, min(want, _READ_PIECE), offset)
        except OSError as error:
            return -(error.errno or EIO)
        return dst.copy_to(data) if data else 0

    def storage_away(self, *, is_away: bool) -> None:
        """A host call takes long (`is_away`), or is over."""
        self.away += 1 if is_away else -1
        if self.away == 0:
            turn, self.turn = self.turn, StorageTurn()
            turn.come()

    def begin_slowly(self, ctx: Context, file: "HostFile") -> int:
        """Prepare for a host call that may take long.

        Returns the guest thread for which it is made, or -1: on the spot. Raises HostWait while another such call is
        under way, or all lanes but one are away.
        """
        if not self.is_disk or not isinstance(ctx, Task):
            return -1
        waits = ctx.kernel.host_waits
        turn = self.turn if self.away else waits.lane_turn
        if turn is not None and waits.may_wait:
            raise HostWait(turn)
        waits.file = file
        return ctx.thread.ident() if waits.bears_others else -1

    def _socket(self) -> socket.socket:
        found = self.socket
        if found is None:
            found = socket.socket(fileno=os.dup(self.fd))
            self.socket = found
        return found

    def _receive(self, dst: IovIter) -> int:
        try:
            data = self._socket().recv(min(dst.remaining(), _READ_PIECE), socket.MSG_DONTWAIT)
        except OSError as error:
            return -(error.errno or EIO)
        return dst.copy_to(data) if data else 0

    def _send(self, src: IovIter) -> int:
        data = src.copy_from(min(src.remaining(), _READ_PIECE))
        try:
            count = self._socket().send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            src.revert(len(data))
            return -(error.errno or EIO)
        if count < len(data):
            src.revert(len(data) - count)
        return count

    # -- life ------------------------------------------------------------------------------------------
    def get(self) -> None:
        self.refs += 1

    def hold(self) -> None:
        """Keep a terminal until `close`, which restores it. All else is closed with the programs' last description:
        a reader may wait for that.
        """
        if self.is_tty:
            self.get()

    def put(self) -> None:
        """Drop a description; the last one closes the descriptor."""
        self.refs -= 1
        if self.refs == 0 and self.is_owned:
            self.close()

    def close(self) -> None:
        """Close the descriptor, after terminal attributes were restored."""
        if self.fd < 0:
            return
        self.disarm()
        self.restore()
        if self.socket is not None:
            self.socket.close()
        os.close(self.fd)
        self.fd = -1

    def restore(self) -> None:
        """Put back the terminal attributes that a guest has changed."""
        if self.saved_termios:
            try:
                fcntl.ioctl(self.fd, TCSETS, self.saved_termios)
            except OSError:
                pass  # the terminal is gone
            self.saved_termios = b""


_MAX_OWNERS: Final = 4096  # in Kernel.donated_owners


def remember_owner(kernel: Kernel, fd: int, owner: tuple[int, int]) -> None:
    """Record the (uid, gid) of a file as its donor saw them: in the sentry's user namespace stat(2) shows most owners
    as nobody.
    """
    st = os.fstat(fd)
    owners = kernel.donated_owners
    if len(owners) >= _MAX_OWNERS:
        owners.clear()  # entries of old descriptors; open files have their own copy
    owners[(st.st_dev, st.st_ino)] = owner


class HostInode(Inode):
    """The inode of a host descriptor, with the host's type, size and times."""

    def __init__(self, fs: FileSystem, host: HostFd) -> None:
        st = os.fstat(host.fd)
        uid, gid = host.kernel.donated_owners.get((st.st_dev, st.st_ino), (st.st_uid, st.st_gid))
        super().__init__(fs, st.st_ino, st.st_mode, uid, gid)
        self.host: HostFd = host
        self._fill(st)

    def _fill(self, st: os.stat_result) -> None:
        self.mode = st.st_mode
        self.nlink = st.st_nlink
        self.size = st.st_size
        self.blocks = st.st_blocks
        self.blksize = st.st_blksize
        self.rdev = makedev(os.major(st.st_rdev), os.minor(st.st_rdev))
        self.atime_ns = st.st_atime_ns
        self.mtime_ns = st.st_mtime_ns
        self.ctime_ns = st.st_ctime_ns

    def refresh(self, ctx: Context) -> None:
        if self.host.fd >= 0:
            self._fill(os.fstat(self.host.fd))

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        """Truncation only: guests may not change modes, owners and times of donated files."""
        if attr.valid & ATTR_SIZE and self.is_regular():
            waits = self.host.kernel.host_waits
            if waits.bears_others and isinstance(ctx, Task):  # ftruncate, which has set the file
                result = slow.truncate(ctx.thread.ident(), self.host.fd, attr.size)
                if result < 0:
                    raise LinuxError(-result)
                return
            try:
                os.ftruncate(self.host.fd, attr.size)
            except OSError as error:
                raise LinuxError(error.errno or EIO)
        elif attr.valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_ATIME | ATTR_MTIME):
            raise LinuxError(EPERM)

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        """/dev/stdout and /proc/self/fd/N.

        Another description of the same host file, within its access mode.
        """
        if self.host.fd < 0:
            raise LinuxError(ENXIO)
        have = self.host.status_flags & O_ACCMODE
        want = flags & O_ACCMODE
        if have != O_RDWR and want != have:
            raise LinuxError(EACCES)
        return HostFile(self.host, self, flags, path)


class HostFile(FileDescription):
    """An open file of a donated descriptor."""

    def __init__(self, host: HostFd, inode: HostInode, flags: int, path: Path | None = None) -> None:
        super().__init__(path, inode, flags)
        self.host: HostFd = host
        host.get()

    def is_seekable(self) -> bool:
        kind = self.inode.mode & S_IFMT
        return self.host.kind == PLAIN and kind in (S_IFREG, S_IFBLK, S_IFCHR)

    def takes_slices(self, *, is_write: bool) -> bool:
        return self.host.kind == PLAIN

    def write_continues(self) -> bool:
        return self.host.kind != PLAIN

    # -- data ------------------------------------------------------------------------------------------
    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if self.inode.mode & S_IFMT == S_IFDIR:
            return -EISDIR
        self.host.begin_slowly(ctx, self)
        return self.host.read(dst)

    def storage_away(self, *, is_away: bool) -> None:
        self.host.storage_away(is_away=is_away)

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        host = self.host
        if host.fd < 0:
            return -EIO
        host.begin_slowly(ctx, self)
        if host.kind == PLAIN and self.flags & O_APPEND and host.status_flags & O_APPEND == 0:
            os.lseek(host.fd, 0, SEEK_END)
        result = host.write(src)
        if result == -EPIPE and host.kind != SOCKET and isinstance(ctx, Task):
            ctx.kernel.send_kernel_signal(ctx, SIGPIPE)
        return result

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        host = self.host
        if host.kind != PLAIN:
            return -ESPIPE
        host.begin_slowly(ctx, self)
        if host.is_disk:
            return host.read_disk(dst, offset)
        return dst.read_fd(host.fd, offset, dst.remaining())

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        host = self.host
        if host.kind != PLAIN:
            return -ESPIPE
        host.begin_slowly(ctx, self)
        return src.write_fd(host.fd, offset, src.remaining(), SLOW_STORAGE if host.is_disk else 0)

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        """On the host's own position, which other holders of the open file share."""
        if not self.is_seekable():
            return -ESPIPE
        try:
            self.pos = os.lseek(self.host.fd, offset, whence)
        except OSError as error:
            return -(error.errno or EIO)
        return self.pos

    def fallocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        caller = self.host.begin_slowly(ctx, self)
        if caller >= 0:
            return slow.allocate(caller, self.host.fd, mode, offset, length)
        try:
            hostsys.fallocate(self.host.fd, mode, offset, length)
        except OSError as error:
            return -(error.errno or EIO)
        return 0

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        caller = self.host.begin_slowly(ctx, self)
        if caller >= 0:
            return slow.sync(caller, self.host.fd, is_data_only=is_data_only)
        try:
            if is_data_only:
                os.fdatasync(self.host.fd)
            else:
                os.fsync(self.host.fd)
        except OSError as error:
            return -(error.errno or EIO)
        return 0

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        if not self.inode.is_regular():
            return super().mmap_fd(ctx, prot, flags)
        return self.host.fd

    # -- readiness -------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        if self.host.kind == PLAIN:
            return _READABLE | _WRITABLE
        mask = self.host.poll()
        if self.flags & O_ACCMODE == O_WRONLY:
            mask &= ~_READABLE
        elif self.flags & O_ACCMODE == O_RDONLY and self.host.kind == STREAM:
            mask &= ~_WRITABLE
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return None if self.host.kind == PLAIN else self.host.queue

    # -- the rest --------------------------------------------------------------------------------------
    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if self.host.fd < 0:
            return -EIO
        if command == FIONREAD:
            return self._fionread(ctx, arg)
        if not self.host.is_tty:
            return -ENOTTY
        try:
            return terminal_ioctl(self.host, ctx, command, arg)
        except OSError as error:
            return -(error.errno or EIO)

    def _fionread(self, ctx: Context, arg: int) -> int:
        host = self.host
        if host.kind == PLAIN and not self.inode.is_regular():
            return -ENOTTY
        try:
            data = fcntl.ioctl(host.fd, FIONREAD, bytes(4))
        except OSError as error:
            return -(error.errno or EIO)
        ctx.user_memory().write(arg, data)
        return 0

    def release(self) -> None:
        self.host.put()

    def link_text(self) -> bytes | None:
        kind = self.inode.mode & S_IFMT
        if kind == S_IFIFO:
            return b"pipe:[%d]" % self.inode.ino
        if kind == S_IFSOCK:
            return b"socket:[%d]" % self.inode.ino
        if kind == S_IFCHR and self.host.kind == PLAIN and self.inode.rdev == makedev(1, 3):
            return b"/dev/null"
        return b"host:[%d]" % self.inode.ino


def terminal_ioctl(host: HostFd, ctx: Context, command: int, arg: int) -> int:
    """The requests that a guest may make of a host terminal; the rest is ENOTTY.  Raises OSError.

    Attributes and sizes pass through (a program may turn the echo off to read a password) and are put back at
    the end.  Job control does not: the terminal belongs to the host's session.
    """
    mem = ctx.user_memory()
    if command == TCGETS:
        mem.write(arg, fcntl.ioctl(host.fd, TCGETS, bytes(TERMIOS_SIZE)))
    elif command == TCGETS2:
        mem.write(arg, termios_to_termios2(fcntl.ioctl(host.fd, TCGETS, bytes(TERMIOS_SIZE))))
    elif command in (TCSETS, TCSETSW, TCSETSF):
        _set_termios(host, mem.read(arg, TERMIOS_SIZE), is_flush=command == TCSETSF)
    elif command in (TCSETS2, TCSETSW2, TCSETSF2):
        wanted = termios2_to_termios(mem.read(arg, TERMIOS2_SIZE))
        _set_termios(host, wanted, is_flush=command == TCSETSF2)
    elif command == TIOCGWINSZ:
        mem.write(arg, fcntl.ioctl(host.fd, TIOCGWINSZ, bytes(WINSIZE.size)))
    elif command == TIOCSWINSZ:
        fcntl.ioctl(host.fd, TIOCSWINSZ, mem.read(arg, WINSIZE.size))
    elif command == TIOCOUTQ:
        mem.write(arg, fcntl.ioctl(host.fd, TIOCOUTQ, bytes(4)))
    elif command == TIOCSCTTY:
        return -EPERM
    elif command == TIOCSTI:
        return -EIO  # input injected into the host's terminal would reach the user's shell
    else:
        return -ENOTTY
    return 0


def _set_termios(host: HostFd, wanted: bytes, *, is_flush: bool) -> None:
    """TCSETSW's wait for output is left out: the sentry must not wait on a host terminal."""
    if not host.saved_termios:
        host.saved_termios = fcntl.ioctl(host.fd, TCGETS, bytes(TERMIOS_SIZE))
    fcntl.ioctl(host.fd, TCSETSF if is_flush else TCSETS, wanted)


def host_fs(kernel: Kernel) -> FileSystem:
    """The file system of donated descriptors, made at first use."""
    found = kernel.file_systems.host
    if found is not None:
        return found
    fs = FileSystem("hostfs", 0, kernel.numbers.dev())
    kernel.file_systems.host = fs
    return fs


def host_file(kernel: Kernel, fd: int, *, is_owned: bool = True) -> HostFile:
    """The open file of a donated descriptor, without references; closes the descriptor with it if `is_owned`.

    Raises OSError if `fd` is not open.
    """
    return describe(HostFd(kernel, fd, is_owned=is_owned))


def describe(host: HostFd) -> HostFile:
    """An open file of a descriptor that may be taken back with `HostFd.close`."""
    inode = HostInode(host_fs(host.kernel), host)
    return HostFile(host, inode, host.status_flags & (O_ACCMODE | O_APPEND))
