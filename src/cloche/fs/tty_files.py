"""The open files of terminals, and the openers of /dev/tty, /dev/console, /dev/ptmx and /dev/pts/N.

Terminals never block: a read that must wait returns -EAGAIN, and for VTIME a timer wakes the queue.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import (
    EAGAIN,
    EBUSY,
    EFAULT,
    EINVAL,
    EIO,
    ENOTTY,
    ENXIO,
    LinuxError,
)
from cloche.abi.fcntl import O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDWR
from cloche.abi.ioctl import (
    TIOCGPKT,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCPKT,
    TIOCPKT_DATA,
    TIOCSIG,
    TIOCSPGRP,
    TIOCSPTLCK,
)
from cloche.abi.poll import (
    POLLHUP,
    POLLPRI,
)
from cloche.abi.signal import (
    SIGINT,
    SIGQUIT,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
)
from cloche.abi.stat import S_IFCHR, minor
from cloche.abi.termios import (
    TOSTOP,
)
from cloche.abi.uio import RWF_NOWAIT
from cloche.fs.tty import (
    HUNG_UP,
    OUTPUT_BYTES,
    READABLE,
    WRITABLE,
    DevptsBase,
    ReadTimer,
    Terminal,
    check_change,
    controlling_terminal,
    maybe_adopt,
)
from cloche.fs.tty_ioctl import terminal_ioctl
from cloche.kernel.task import Task, container_of
from cloche.kernel.timers import TTY_READ, monotonic_ns
from cloche.mm.usermem import IovIter
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.mount import top_of
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.vfs.waitqueue import WaitQueue

READ_PIECE: Final = 64  # the buffer of tty_read
WRITE_CHUNK: Final = 2048  # that of tty_write
# The most that one call writes, more than both buffers hold. Characters that are dropped (of a line that is too long,
# or that print nothing) take time but no room (I8).
TURN_BYTES: Final = 16384


def copy_some(dst: IovIter, data: bytes) -> int:
    """Copy data up to a fault; returns the bytes copied."""
    try:
        return dst.copy_to(data)
    except LinuxError:
        return 0


def take_chunk(src: IovIter, limit: int) -> bytes:
    """The next chunk of tty_write, whole; empty after a fault."""
    want = min(src.remaining(), limit, WRITE_CHUNK)
    try:
        data = src.copy_from(want)
    except LinuxError:
        return b""
    if len(data) < want:
        src.revert(len(data))
        return b""
    return data


def lost_by_fault(copied: int, length: int) -> int:
    """How many of `length` bytes are consumed when only `copied` could be copied: tty_read removes them in pieces
    before it copies.
    """
    return min((copied // READ_PIECE + 1) * READ_PIECE, length)


# -- files -----------------------------------------------------------------------------------------------------
class TtyFile(FileDescription):
    """Base of both sides."""

    def __init__(self, tty: Terminal, path: Path | None, inode: Inode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.tty: Terminal = tty

    def is_seekable(self) -> bool:
        return False

    def write_continues(self) -> bool:
        return True

    def is_nonblocking(self, flags: int) -> bool:
        """O_NONBLOCK or RWF_NOWAIT."""
        return self.flags & O_NONBLOCK != 0 or flags & RWF_NOWAIT != 0


class SlaveFile(TtyFile):
    """An open slave, the terminal of programs."""

    def __init__(self, tty: Terminal, path: Path | None, inode: Inode, flags: int) -> None:
        super().__init__(tty, path, inode, flags)
        self.generation: int = tty.generation

    def is_hung_up(self) -> bool:
        return self.generation != self.tty.generation

    # -- reading -----------------------------------------------------------------------------------------
    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if self.is_hung_up():
            # A reader that was waiting when the master closed gets EIO; a later one reads the end of the file.
            is_waiting = isinstance(ctx, Task) and ctx.blocked is not None
            return -EIO if is_waiting and not tty.is_master_open else 0
        if dst.remaining() == 0:
            return 0
        result = check_change(ctx, tty, SIGTTIN)
        if result:
            return result
        if tty.is_canonical():
            if not tty.lines:
                return -EAGAIN
            return self._read_line(dst)
        return self._read_raw(ctx, dst, flags)

    def _read_line(self, dst: IovIter) -> int:
        tty = self.tty
        piece = tty.peek_line(dst.remaining())
        count = dst.copy_to(piece) if piece else 0
        tty.take_line(count)
        tty.after_read()
        return count

    def _read_raw(self, ctx: Context, dst: IovIter, flags: int) -> int:
        """Non-canonical input with VMIN and VTIME (termios(3))."""
        tty = self.tty
        have = len(tty.raw)
        minimum = tty.minimum()
        time_ns = tty.time_ns()
        need = min(max(minimum, 1), dst.remaining())
        if have < need:
            if minimum == 0 and time_ns == 0:
                if have == 0:
                    return 0
            elif self.is_nonblocking(flags):
                if have == 0:
                    return -EAGAIN
            elif time_ns == 0 or (minimum > 0 and have == 0):
                return -EAGAIN
            elif not self._time_is_up(ctx, time_ns, have):
                return -EAGAIN
        if isinstance(ctx, Task):
            tty.timers.pop(ctx.tid, None)
        if have == 0:
            return 0
        data = tty.peek_raw(dst.remaining())
        count = copy_some(dst, data)
        tty.take_raw(count if count == len(data) else lost_by_fault(count, len(data)))
        tty.after_read()
        return count if count else -EFAULT

    def _time_is_up(self, ctx: Context, time_ns: int, have: int) -> bool:
        """Whether VTIME has passed for this call; otherwise arm a timer that wakes the queue then."""
        if not isinstance(ctx, Task):
            return True
        tty = self.tty
        now = monotonic_ns()
        state = tty.timers.get(ctx.tid)
        serial = ctx.kernel.total_syscalls if not ctx.blocked else -1
        if state is None or (serial >= 0 and state.serial != serial) or state.seen != have:
            # A new call, or another byte within VMIN: the time starts again.
            state = ReadTimer(ctx.kernel.total_syscalls, now + time_ns, have)
            tty.timers[ctx.tid] = state
        elif now >= state.deadline_ns:
            return True
        ctx.kernel.timers.add(state.deadline_ns, TTY_READ, tty)
        return False

    # -- writing -----------------------------------------------------------------------------------------
    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if self.is_hung_up() or not tty.is_master_open:
            return -EIO
        if tty.termios.lflag & TOSTOP:
            result = check_change(ctx, tty, SIGTTOU)
            if result:
                return result
        done = 0
        while src.remaining() > 0 and done < TURN_BYTES:
            room = OUTPUT_BYTES - len(tty.out)
            if room <= 0 or tty.is_output_stopped():
                return done if done else -EAGAIN
            data = take_chunk(src, max(room // 2, 1))
            if not data:
                return done if done else -EFAULT
            tty.output(tty.process_output(data))
            done += len(data)
        return done

    # -- readiness ---------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        tty = self.tty
        if self.is_hung_up():
            return HUNG_UP
        mask = 0
        if tty.has_input(is_poll=True):
            mask |= READABLE
        if not tty.is_master_open:
            mask |= POLLHUP
        if len(tty.out) < OUTPUT_BYTES and not tty.is_output_stopped():
            mask |= WRITABLE
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.tty.slave_queue

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        if self.is_hung_up():
            return -ENOTTY if command == TIOCSPGRP else -EIO
        return terminal_ioctl(ctx, self.tty, self, command, arg, is_master=False)

    def release(self) -> None:
        self.tty.slave_closed()


class MasterFile(TtyFile):
    """The other end, held by a terminal emulator, sshd, script or the host's terminal."""

    def fdinfo(self) -> str:
        return f"tty-index:\t{self.tty.index}\n"

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if dst.remaining() == 0:
            return 0
        if tty.is_packet and tty.packet_status:
            status = tty.packet_status
            count = dst.copy_to(bytes((status,)))
            tty.packet_status = 0
            return count
        if not tty.out:
            return -EIO if tty.was_slave_closed and tty.slave_opens == 0 else -EAGAIN
        head = 0
        if tty.is_packet:
            head = dst.copy_to(bytes((TIOCPKT_DATA,)))
            if dst.remaining() == 0:
                return head
        data = bytes(tty.out[: dst.remaining()])
        count = copy_some(dst, data)
        tty.take_output(count if count == len(data) else lost_by_fault(count, len(data)))
        return head + count if head + count else -EFAULT

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if tty.was_slave_closed and tty.slave_opens == 0:
            return -EIO
        done = 0
        while src.remaining() > 0 and done < TURN_BYTES:
            room = tty.input_room()
            if room <= 0:
                return done if done else -EAGAIN
            data = take_chunk(src, room)
            if not data:
                return done if done else -EFAULT
            tty.receive(data)
            done += len(data)
        return done

    def poll(self, ctx: Context) -> int:
        tty = self.tty
        mask = 0
        if tty.out:
            mask |= READABLE
        if tty.is_packet and tty.packet_status:
            mask |= POLLPRI | READABLE
        if tty.was_slave_closed and tty.slave_opens == 0:
            mask |= POLLHUP
        if tty.input_room() > 0:
            mask |= WRITABLE
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.tty.master_queue

    def ioctl(self, ctx: Context, command: int, arg: int) -> int:
        mem = ctx.user_memory()
        tty = self.tty
        if command == TIOCGPTN:
            mem.write_u32(arg, tty.index)
        elif command == TIOCSPTLCK:
            tty.is_locked = mem.read_i32(arg) != 0
        elif command == TIOCGPTLCK:
            mem.write_i32(arg, int(tty.is_locked))
        elif command == TIOCPKT:
            if mem.read_i32(arg):
                if not tty.is_packet:
                    tty.packet_status = 0
                    tty.is_packet = True
            else:
                tty.is_packet = False
        elif command == TIOCGPKT:
            mem.write_i32(arg, int(tty.is_packet))
        elif command == TIOCSIG:
            signo = arg & 0xFFFFFFFF
            if signo not in (SIGINT, SIGQUIT, SIGTSTP):
                return -EINVAL
            tty.signal_foreground(signo)
        elif command == TIOCGPTPEER:
            return self._open_peer(ctx, arg)
        else:
            return terminal_ioctl(ctx, tty, self, command, arg, is_master=True)
        return 0

    def _open_peer(self, ctx: Context, flags: int) -> int:
        """TIOCGPTPEER: the slave, without a name being looked up."""
        tty = self.tty
        inode = tty.inode
        if not isinstance(ctx, Task) or inode is None:
            return -EIO
        flags &= 0xFFFFFFFF
        fs = tty.fs
        path = fs.peer_path(ctx, tty) if isinstance(fs, DevptsPaths) else None
        file = open_terminal(ctx, tty, path, inode, flags & ~O_CLOEXEC)
        return ctx.files.install(file, ctx.nofile_limit(), is_cloexec=flags & O_CLOEXEC != 0)

    def release(self) -> None:
        self.tty.master_closed()


class DevptsPaths(DevptsBase):
    """A devpts that is mounted and can name its slaves."""

    def peer_path(self, ctx: Context, terminal: Terminal) -> Path | None:
        """The slave's path in the caller's mounts, None if there is none."""
        return None


# -- opening ---------------------------------------------------------------------------------------------------
def open_terminal(
    ctx: Context, tty: Terminal, path: Path | None, inode: Inode, flags: int
) -> FileDescription:
    """open(2) of a slave.  Raises LinuxError: EIO (locked, or no master), EBUSY (TIOCEXCL)."""
    if not tty.is_master_open or tty.is_locked:
        raise LinuxError(EIO)
    if tty.is_exclusive and not ctx.creds.capable(CAP_SYS_ADMIN):
        raise LinuxError(EBUSY)
    file = SlaveFile(tty, path, inode, flags)
    tty.slave_opens += 1
    tty.was_slave_closed = False
    maybe_adopt(ctx, tty, flags)
    return file


def devpts_of(ctx: Context) -> DevptsBase:
    """The container's devpts.  Raises LinuxError(ENXIO) if boot made none."""
    fs = container_of(ctx).devpts
    if isinstance(fs, DevptsBase):
        return fs
    raise LinuxError(ENXIO)


def open_ptmx(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """/dev/ptmx: a new pair (pts(4))."""
    tty = _devpts_at(ctx, path, inode).new_terminal(ctx)
    return MasterFile(tty, path, inode, flags)


def _devpts_at(ctx: Context, path: Path, inode: Inode) -> DevptsBase:
    """The instance that a ptmx belongs to: its own, that on `pts` beside it, or the sandbox's (devpts_mntget)."""
    fs = inode.fs
    if isinstance(fs, DevptsBase):
        return fs
    above = path.dentry.parent
    beside = above.children.get(b"pts") if above is not None else None
    if beside is not None and beside.mounted:
        there = top_of(Path(path.mount, beside)).mount.fs
        if isinstance(there, DevptsBase):
            return there
    return devpts_of(ctx)


def open_slave(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """A device node 136:N outside of devpts."""
    tty = devpts_of(ctx).find(minor(inode.rdev))
    if tty is None:
        raise LinuxError(EIO)
    return open_terminal(ctx, tty, path, inode, flags)


def open_current_tty(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """/dev/tty: the controlling terminal (tty(4)).  Raises LinuxError(ENXIO) without one."""
    tty = controlling_terminal(ctx)
    if tty is None:
        raise LinuxError(ENXIO)
    return open_terminal(ctx, tty, path, inode, flags | O_NOCTTY)


def open_console(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """/dev/console: the container's own terminal.  Raises LinuxError(EIO) without one."""
    tty = container_of(ctx).console
    if not isinstance(tty, Terminal):
        raise LinuxError(EIO)
    return open_terminal(ctx, tty, path, inode, flags | O_NOCTTY)


class SlaveInode(MemoryAttrInode):
    """The node of a slave."""

    def __init__(self, fs: FileSystem, ino: int, mode: int, tty: Terminal, uid: int, gid: int) -> None:
        super().__init__(fs, ino, S_IFCHR | mode, uid, gid)
        self.tty: Terminal = tty
        self.rdev = tty.rdev()
        self.blksize = 1024

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return open_terminal(ctx, self.tty, path, self, flags)


class PtmxInode(MemoryAttrInode):
    """The node `ptmx` of a devpts."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return open_ptmx(ctx, path, self, flags)


def open_pair(ctx: Context) -> tuple[Terminal, SlaveFile]:
    """A pair for boot (`-t`): the unlocked terminal, and an open slave (without references) for the
    standard streams.
    """
    fs = devpts_of(ctx)
    tty = fs.new_terminal(ctx)
    tty.is_locked = False
    inode = tty.inode
    assert inode is not None
    path = fs.peer_path(ctx, tty) if isinstance(fs, DevptsPaths) else None
    tty.slave_opens += 1
    return tty, SlaveFile(tty, path, inode, O_RDWR)
