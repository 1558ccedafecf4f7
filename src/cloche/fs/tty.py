"""Terminals: pseudo-terminal pairs, their files, controlling terminals and job control.

After tty_io.c, tty_jobctrl.c and pty.c.

Owns `Terminal` (a master and a slave with one line discipline between), the descriptions of both sides, and
the openers of /dev/tty, /dev/console, /dev/ptmx and /dev/pts/N.  The file system of the slaves is in
`devpts`.

`Session.tty` holds the session's `Terminal`; `install` hooks the death of session leaders.  Terminals never
block: a read that must wait gives -EAGAIN, and VTIME is kept by a timer that wakes the queue.
"""

from typing import Final

from cloche.abi.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    EIO,
    ENOTTY,
    ENXIO,
    EPERM,
    ESRCH,
    LinuxError,
)
from cloche.abi.fcntl import O_ACCMODE, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDWR, O_WRONLY
from cloche.abi.ioctl import (
    FIONREAD,
    TCFLSH,
    TCGETA,
    TCGETS,
    TCGETS2,
    TCSBRK,
    TCSBRKP,
    TCSETA,
    TCSETAF,
    TCSETAW,
    TCSETS,
    TCSETS2,
    TCSETSF,
    TCSETSF2,
    TCSETSW,
    TCSETSW2,
    TCXONC,
    TIOCEXCL,
    TIOCGDEV,
    TIOCGETD,
    TIOCGEXCL,
    TIOCGLCKTRMIOS,
    TIOCGPGRP,
    TIOCGPKT,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCGSID,
    TIOCGSOFTCAR,
    TIOCGWINSZ,
    TIOCNOTTY,
    TIOCNXCL,
    TIOCOUTQ,
    TIOCPKT,
    TIOCPKT_DATA,
    TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHWRITE,
    TIOCPKT_NOSTOP,
    TIOCPKT_START,
    TIOCPKT_STOP,
    TIOCSBRK,
    TIOCSCTTY,
    TIOCSETD,
    TIOCSIG,
    TIOCSLCKTRMIOS,
    TIOCSPGRP,
    TIOCSPTLCK,
    TIOCSSOFTCAR,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
)
from cloche.abi.poll import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDNORM,
    POLLWRNORM,
)
from cloche.abi.signal import (
    SIG_IGN,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
    SIGWINCH,
    is_member,
)
from cloche.abi.stat import S_IFCHR, makedev, minor
from cloche.abi.structs import TERMIO, TERMIO_SIZE, TERMIOS2_SIZE, TERMIOS_SIZE, pack_winsize, unpack_winsize
from cloche.abi.termios import (
    CLOCAL,
    TCIFLUSH,
    TCIOFF,
    TCIOFLUSH,
    TCION,
    TCOFLUSH,
    TCOOFF,
    TCOON,
    TOSTOP,
    VSTART,
    VSTOP,
)
from cloche.abi.uio import RWF_NOWAIT
from cloche.fs.ldisc import LineDiscipline, Termios
from cloche.fs.proc_text import ProcTty
from cloche.kernel.blocking import ERESTARTSYS
from cloche.kernel.pid_namespace import PidNamespace, pid_from, pid_in
from cloche.kernel.signals import is_orphaned, kernel_info, send_group_info, send_pgrp_signal
from cloche.kernel.task import Kernel, ProcessGroup, Session, Task, ThreadGroup
from cloche.kernel.timers import Timer, monotonic_ns
from cloche.mm.usermem import IovIter
from cloche.vfs.memory_inode import MemoryAttrInode
from cloche.vfs.mount import top_of
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode, Path
from cloche.vfs.waitqueue import WaitQueue

PTS_MAJOR: Final = 136
PTMX_RDEV: Final = makedev(5, 2)
CAP_SYS_ADMIN: Final = 21
MAX_PTYS: Final = 4096  # /proc/sys/kernel/pty/max
OUTPUT_BYTES: Final = 12288  # the flip buffer and the read buffer of a master
INPUT_BYTES: Final = 8192  # the flip buffer of a slave

_READABLE: Final = POLLIN | POLLRDNORM
_WRITABLE: Final = POLLOUT | POLLWRNORM
_HUNG_UP: Final = _READABLE | _WRITABLE | POLLERR | POLLHUP
_PIECE: Final = 4096


class ReadTimer:
    """A reader that waits with VTIME: which call it is, until when, and what had arrived."""

    def __init__(self, serial: int, deadline_ns: int, seen: int) -> None:
        self.serial: int = serial
        self.deadline_ns: int = deadline_ns
        self.seen: int = seen


def blank_termios() -> Termios:
    """Attributes with nothing set."""
    mode = Termios()
    mode.iflag = mode.oflag = mode.cflag = mode.lflag = 0
    mode.cc = bytes(len(mode.cc))
    return mode


def keep_locked(new: Termios, old: Termios, locked: Termios) -> None:
    """Undo in `new` what `locked` forbids to change (unset_locked_termios)."""
    new.iflag = new.iflag & ~locked.iflag | old.iflag & locked.iflag
    new.oflag = new.oflag & ~locked.oflag | old.oflag & locked.oflag
    new.cflag = new.cflag & ~locked.cflag | old.cflag & locked.cflag
    new.lflag = new.lflag & ~locked.lflag | old.lflag & locked.lflag
    if locked.line:
        new.line = old.line
    chars = bytearray(new.cc)
    for index in range(len(chars)):
        if locked.cc[index]:
            chars[index] = old.cc[index]
    new.cc = bytes(chars)


class Terminal(LineDiscipline, ProcTty):
    """A pseudo-terminal pair: the slave's line discipline, and what the master has still to read."""

    def __init__(self, kernel: Kernel, index: int) -> None:
        super().__init__()
        self.kernel: Kernel = kernel
        self.index: int = index
        self.inode: Inode | None = None  # of the slave
        self.fs: DevptsBase | None = None
        self.out: bytearray = bytearray()  # from the slave (and echo) to the master
        self.winsize: tuple[int, int, int, int] = (0, 0, 0, 0)
        self.session: Session | None = None
        self.foreground: ProcessGroup | None = None
        self.detached: set[int] = set()  # processes of the session that gave the terminal up (TIOCNOTTY)
        self.is_locked: bool = True
        self.locked_termios: Termios = blank_termios()  # bits set here cannot be changed (TIOCSLCKTRMIOS)
        self.is_exclusive: bool = False
        self.is_packet: bool = False
        self.packet_status: int = 0
        self.is_master_open: bool = True
        self.slave_opens: int = 0
        self.was_slave_closed: bool = False  # the master then reads EIO until it is opened again
        self.generation: int = 0  # changed by a hangup: older slave files are dead
        self.slave_queue: WaitQueue = WaitQueue()
        self.master_queue: WaitQueue = WaitQueue()
        self.timers: dict[int, ReadTimer] = {}  # by tid
        self.timer: Timer | None = None

    # -- LineDiscipline ----------------------------------------------------------------------------------
    def output(self, data: bytes) -> None:
        if len(self.out) < OUTPUT_BYTES + _PIECE:
            self.out += data
            self.master_queue.wake(_READABLE)

    def signal_foreground(self, signo: int) -> None:
        if self.foreground is not None:
            send_pgrp_signal(self.foreground, signo)

    def input_arrived(self) -> None:
        self.slave_queue.wake(_READABLE)

    def output_possible(self) -> None:
        self.slave_queue.wake(_WRITABLE)

    def flush_output(self) -> None:
        """What is in the master's read buffer stays; what is on its way there is dropped."""
        if len(self.out) > _PIECE:
            del self.out[_PIECE:]
            self.slave_queue.wake(_WRITABLE)
        self.packet_event(TIOCPKT_FLUSHWRITE)

    def packet_event(self, bits: int) -> None:
        if not self.is_packet:
            return
        status = self.packet_status
        if bits & (TIOCPKT_STOP | TIOCPKT_START):
            status &= ~(TIOCPKT_STOP | TIOCPKT_START)
        if bits & (TIOCPKT_DOSTOP | TIOCPKT_NOSTOP):
            status &= ~(TIOCPKT_DOSTOP | TIOCPKT_NOSTOP)
        self.packet_status = status | bits
        self.master_queue.wake(POLLPRI | _READABLE)

    # -- ProcTty -----------------------------------------------------------------------------------------
    def proc_device(self) -> int:
        return self.rdev()

    def proc_foreground(self) -> int:
        return self.foreground.pgid if self.foreground is not None else -1

    def rdev(self) -> int:
        """st_rdev of the slave."""
        return makedev(PTS_MAJOR, self.index)

    # -- both sides --------------------------------------------------------------------------------------
    def resize(self, winsize: tuple[int, int, int, int]) -> None:
        """TIOCSWINSZ: SIGWINCH to the foreground if it changed."""
        if winsize == self.winsize:
            return
        self.winsize = winsize
        if self.foreground is not None:
            send_pgrp_signal(self.foreground, SIGWINCH)

    def input_room(self) -> int:
        """Bytes that the master may write."""
        return INPUT_BYTES - len(self.pending)

    def receive_from_master(self, data: bytes) -> None:
        """Keys."""
        if self.is_locked or not data:
            return
        self.receive(data)

    def take_output(self, count: int) -> None:
        """The master has read `count` bytes."""
        was_full = len(self.out) >= OUTPUT_BYTES
        del self.out[:count]
        if was_full and len(self.out) < OUTPUT_BYTES:
            self.slave_queue.wake(_WRITABLE)

    def after_read(self) -> None:
        """The slave has read: take up what waited, and let the master write."""
        was_full = self.input_room() <= 0
        if self.pending:
            self.process()
        if was_full and self.input_room() > 0:
            self.master_queue.wake(_WRITABLE)

    # -- hangup ------------------------------------------------------------------------------------------
    def hang_up(self) -> None:
        """The line is gone: every open slave is dead, the session loses its terminal (__tty_hangup)."""
        self.generation += 1
        self._drop_session(is_hangup=True)
        self.flush_input()
        self.pending.clear()
        self.slave_queue.wake(_HUNG_UP)
        self.master_queue.wake(_HUNG_UP)

    def _drop_session(self, *, is_hangup: bool) -> None:
        session = self.session
        foreground = self.foreground
        self.session = None
        self.foreground = None
        self.detached.clear()
        if session is None:
            return
        session.tty = None
        if is_hangup:
            leader = self.kernel.groups.get(session.sid)
            if leader is not None and leader.is_alive() and leader.session() is session:
                send_group_info(leader, kernel_info(SIGHUP))
                send_group_info(leader, kernel_info(SIGCONT))
            if foreground is not None:
                send_pgrp_signal(foreground, SIGHUP)

    def leader_leaves(self, *, is_exit: bool) -> None:
        """The session's leader exits or gives the terminal up (disassociate_ctty)."""
        foreground = self.foreground
        self._drop_session(is_hangup=False)
        if foreground is not None:
            send_pgrp_signal(foreground, SIGHUP)
            if not is_exit:
                send_pgrp_signal(foreground, SIGCONT)

    def adopt(self, group: ThreadGroup) -> None:
        """Become the controlling terminal of `group`'s session (proc_set_tty)."""
        session = group.session()
        if session is None:
            return
        self.session = session
        self.foreground = group.pgrp
        self.detached.clear()
        session.tty = self

    def master_closed(self) -> None:
        """The master's last descriptor is gone."""
        self.is_master_open = False
        self.hang_up()
        fs = self.fs
        if fs is not None:
            fs.drop(self)

    def slave_closed(self) -> None:
        """One slave file is gone."""
        self.slave_opens -= 1
        if self.slave_opens == 0:
            self.was_slave_closed = True
            self.is_exclusive = False
            self.master_queue.wake(_HUNG_UP)


class DevptsBase(FileSystem):
    """What `Terminal` knows of the file system that numbers it."""

    def drop(self, terminal: Terminal) -> None:
        """The pair is gone: its name too, and its number is free."""
        raise NotImplementedError

    def new_terminal(self, ctx: Context) -> Terminal:
        """A new pair, the slave's node included.  Raises LinuxError(ENOSPC)."""
        raise NotImplementedError

    def find(self, index: int) -> Terminal | None:
        """The pair with that number."""
        raise NotImplementedError


# -- job control -----------------------------------------------------------------------------------------------
def pid_ns_of(ctx: Context) -> PidNamespace | None:
    """The caller's pid namespace."""
    return ctx.pid_ns if isinstance(ctx, Task) else None


def controlling_terminal(ctx: Context) -> Terminal | None:
    """The caller's controlling terminal."""
    if not isinstance(ctx, Task):
        return None
    session = ctx.group.session()
    if session is None:
        return None
    tty = session.tty
    if isinstance(tty, Terminal) and ctx.group.tgid not in tty.detached:
        return tty
    return None


def check_change(ctx: Context, tty: Terminal, signo: int) -> int:
    """Whether a background process may do this to its terminal: 0, -EIO, or a signal and -ERESTARTSYS."""
    if not isinstance(ctx, Task) or controlling_terminal(ctx) is not tty:
        return 0
    pgrp = ctx.group.pgrp
    if pgrp is None or tty.foreground is None or pgrp is tty.foreground:
        return 0
    if is_member(ctx.sigmask, signo) or ctx.group.handlers.actions[signo].handler == SIG_IGN:
        return -EIO if signo == SIGTTIN else 0
    if is_orphaned(pgrp):
        return -EIO
    send_pgrp_signal(pgrp, signo)
    return -ERESTARTSYS


def is_session_leader(task: Task) -> bool:
    """Whether the caller's process leads its session."""
    session = task.group.session()
    return session is not None and session.sid == task.group.tgid


def maybe_adopt(ctx: Context, tty: Terminal, flags: int) -> None:
    """open(2) by a session leader without a terminal makes it the controlling one (tty_open_proc_set_tty)."""
    if flags & O_NOCTTY or flags & O_ACCMODE == O_WRONLY or not isinstance(ctx, Task):
        return
    session = ctx.group.session()
    if session is not None and is_session_leader(ctx) and session.tty is None and tty.session is None:
        tty.adopt(ctx.group)


def set_controlling(ctx: Context, tty: Terminal, file: FileDescription, arg: int) -> int:
    """TIOCSCTTY."""
    if not isinstance(ctx, Task):
        return -EPERM
    session = ctx.group.session()
    if session is None or not is_session_leader(ctx):
        return -EPERM
    if tty.session is session:
        return 0
    if session.tty is not None:
        return -EPERM
    if tty.session is not None:
        if arg != 1 or not ctx.creds.capable(CAP_SYS_ADMIN):
            return -EPERM
        tty.session.tty = None  # stolen: its session has none now
    if file.flags & O_ACCMODE == O_WRONLY and not ctx.creds.capable(CAP_SYS_ADMIN):
        return -EPERM
    tty.adopt(ctx.group)
    return 0


def give_up_controlling(ctx: Context, tty: Terminal) -> int:
    """TIOCNOTTY."""
    if controlling_terminal(ctx) is not tty or not isinstance(ctx, Task):
        return -ENOTTY
    if is_session_leader(ctx):
        tty.leader_leaves(is_exit=False)
    else:
        tty.detached.add(ctx.group.tgid)
    return 0


def set_foreground(ctx: Context, tty: Terminal, arg: int) -> int:
    """TIOCSPGRP."""
    result = check_change(ctx, tty, SIGTTOU)
    if result == -EIO:
        return -ENOTTY
    if result:
        return result
    pgid = ctx.user_memory().read_i32(arg)
    if pgid < 0:
        return -EINVAL
    if not isinstance(ctx, Task) or controlling_terminal(ctx) is not tty:
        return -ENOTTY
    session = ctx.group.session()
    if tty.session is not session:
        return -ENOTTY
    pgrp = ctx.kernel.process_groups.get(pid_from(ctx.pid_ns, pgid))
    if pgrp is None:
        return -ESRCH
    if pgrp.session is not session:
        return -EPERM
    tty.foreground = pgrp
    return 0


def session_leader_exits(group: ThreadGroup) -> None:
    """Called when the last thread of a process is gone: a session leader takes the terminal with it."""
    session = group.session()
    if session is not None and session.sid == group.tgid:
        tty = session.tty
        if isinstance(tty, Terminal):
            tty.leader_leaves(is_exit=True)


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
    """An open slave: what programs take for a terminal."""

    def __init__(self, tty: Terminal, path: Path | None, inode: Inode, flags: int) -> None:
        super().__init__(tty, path, inode, flags)
        self.generation: int = tty.generation

    def is_hung_up(self) -> bool:
        return self.generation != self.tty.generation

    # -- reading -----------------------------------------------------------------------------------------
    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if self.is_hung_up():
            # A reader that was waiting when the master closed hears of it, a later one reads the end of file.
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
        count = dst.copy_to(tty.peek_raw(dst.remaining()))
        tty.take_raw(count)
        tty.after_read()
        return count

    def _time_is_up(self, ctx: Context, time_ns: int, have: int) -> bool:
        """Whether VTIME has passed for this call; otherwise see to it that the queue is woken when it has."""
        if not isinstance(ctx, Task):
            return True
        tty = self.tty
        now = monotonic_ns()
        state = tty.timers.get(ctx.tid)
        serial = ctx.kernel.total_syscalls if not ctx.blocked else -1
        if state is None or (serial >= 0 and state.serial != serial) or state.seen != have:
            # A new call, or another byte within VMIN: the time starts anew.
            state = ReadTimer(ctx.kernel.total_syscalls, now + time_ns, have)
            tty.timers[ctx.tid] = state
        elif now >= state.deadline_ns:
            return True
        ctx.kernel.timers.add(state.deadline_ns, tty.input_arrived)
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
        while src.remaining() > 0:
            room = OUTPUT_BYTES - len(tty.out)
            if room <= 0 or tty.is_output_stopped():
                return done if done else -EAGAIN
            data = src.copy_from(min(src.remaining(), max(room // 2, 1), _PIECE))
            if not data:
                break
            tty.output(tty.process_output(data))
            done += len(data)
        return done

    # -- readiness ---------------------------------------------------------------------------------------
    def poll(self, ctx: Context) -> int:
        tty = self.tty
        if self.is_hung_up():
            return _HUNG_UP
        mask = 0
        if tty.has_input(is_poll=True):
            mask |= _READABLE
        if not tty.is_master_open:
            mask |= POLLHUP
        if len(tty.out) < OUTPUT_BYTES and not tty.is_output_stopped():
            mask |= _WRITABLE
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
        count = dst.copy_to(bytes(tty.out[: dst.remaining()]))
        tty.take_output(count)
        return head + count

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        tty = self.tty
        if tty.was_slave_closed and tty.slave_opens == 0:
            return -EIO
        done = 0
        while src.remaining() > 0:
            room = tty.input_room()
            if room <= 0:
                return done if done else -EAGAIN
            data = src.copy_from(min(src.remaining(), room))
            if not data:
                break
            tty.receive(data)
            done += len(data)
        return done

    def poll(self, ctx: Context) -> int:
        tty = self.tty
        mask = 0
        if tty.out:
            mask |= _READABLE
        if tty.is_packet and tty.packet_status:
            mask |= POLLPRI | _READABLE
        if tty.was_slave_closed and tty.slave_opens == 0:
            mask |= POLLHUP
        if tty.input_room() > 0:
            mask |= _WRITABLE
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


# -- ioctl -----------------------------------------------------------------------------------------------------
def terminal_ioctl(
    ctx: Context, tty: Terminal, file: TtyFile, command: int, arg: int, *, is_master: bool
) -> int:
    """The requests that both sides have; on a master they act on the slave (ioctl_tty(2))."""
    mem = ctx.user_memory()
    if command in (TCSETS, TCSETSW, TCSETSF, TCSETS2, TCSETSW2, TCSETSF2, TCSETA, TCSETAW, TCSETAF):
        return _set_attributes(ctx, tty, command, arg)
    if command == TCGETS:
        mem.write(arg, tty.termios.pack())
    elif command == TCGETS2:
        mem.write(arg, tty.termios.pack2())
    elif command == TCGETA:
        mode = tty.termios
        mem.write(
            arg,
            TERMIO.pack(
                mode.iflag & 0xFFFF,
                mode.oflag & 0xFFFF,
                mode.cflag & 0xFFFF,
                mode.lflag & 0xFFFF,
                mode.line,
                mode.cc[:8],
            ),
        )
    elif command == TIOCGWINSZ:
        rows, columns, x, y = tty.winsize
        mem.write(arg, pack_winsize(rows, columns, x, y))
    elif command == TIOCSWINSZ:
        tty.resize(unpack_winsize(mem.read(arg, 8)))
    elif command == FIONREAD:
        mem.write_i32(arg, len(tty.out) if is_master else tty.available())
    elif command == TIOCOUTQ:
        mem.write_i32(arg, 0)
    elif command == TIOCGPGRP:
        if not is_master and controlling_terminal(ctx) is not tty:
            return -ENOTTY
        mem.write_i32(arg, pid_in(pid_ns_of(ctx), tty.foreground.pgid) if tty.foreground is not None else 0)
    elif command == TIOCSPGRP:
        return set_foreground(ctx, tty, arg)
    elif command == TIOCGSID:
        if (not is_master and controlling_terminal(ctx) is not tty) or tty.session is None:
            return -ENOTTY
        mem.write_i32(arg, pid_in(pid_ns_of(ctx), tty.session.sid))
    elif command == TIOCSCTTY:
        return -ENOTTY if is_master else set_controlling(ctx, tty, file, arg)
    elif command == TIOCNOTTY:
        return give_up_controlling(ctx, tty)
    elif command == TCFLSH:
        return _flush(ctx, tty, arg & 0xFFFFFFFF, is_master=is_master)
    elif command == TCXONC:
        return _switch_flow(ctx, tty, arg & 0xFFFFFFFF)
    elif command in (TCSBRK, TCSBRKP, TIOCSBRK):
        return 0 if command == TIOCSBRK else check_change(ctx, tty, SIGTTOU)
    else:
        return _rare_ioctl(ctx, tty, file, command, arg, is_master=is_master)
    return 0


def _rare_ioctl(
    ctx: Context, tty: Terminal, file: TtyFile, command: int, arg: int, *, is_master: bool
) -> int:
    mem = ctx.user_memory()
    if command == TIOCEXCL:
        tty.is_exclusive = True
    elif command == TIOCNXCL:
        tty.is_exclusive = False
    elif command == TIOCGEXCL:
        mem.write_i32(arg, int(tty.is_exclusive))
    elif command == TIOCGETD:
        mem.write_i32(arg, 0)
    elif command == TIOCSETD:
        return 0 if mem.read_i32(arg) == 0 else -EINVAL
    elif command == TIOCGDEV:
        mem.write_u32(arg, PTMX_RDEV if is_master else tty.rdev())
    elif command == TIOCGSOFTCAR:
        mem.write_i32(arg, int(tty.termios.cflag & CLOCAL != 0))
    elif command == TIOCSSOFTCAR:
        new = tty.termios.clone()
        new.cflag = new.cflag | CLOCAL if mem.read_i32(arg) else new.cflag & ~CLOCAL
        tty.set_termios(new)
    elif command == TIOCGLCKTRMIOS:
        mem.write(arg, tty.locked_termios.pack())
    elif command == TIOCSLCKTRMIOS:
        if not ctx.creds.capable(CAP_SYS_ADMIN):
            return -EPERM
        tty.locked_termios.load(mem.read(arg, TERMIOS_SIZE))
    elif command == TIOCSTI:
        return -EIO  # dev.tty.legacy_tiocsti is 0
    elif command == TIOCVHANGUP:
        if not ctx.creds.capable(CAP_SYS_ADMIN):
            return -EPERM
        tty.hang_up()
    else:
        return -ENOTTY
    return 0


def _set_attributes(ctx: Context, tty: Terminal, command: int, arg: int) -> int:
    """TCSETS and its variants; nothing has to drain, since output arrives at once."""
    result = check_change(ctx, tty, SIGTTOU)
    if result:
        return result
    mem = ctx.user_memory()
    new: Termios = tty.termios.clone()
    if command in (TCSETS2, TCSETSW2, TCSETSF2):
        new.load2(mem.read(arg, TERMIOS2_SIZE))
    elif command in (TCSETA, TCSETAW, TCSETAF):
        iflag, oflag, cflag, lflag, line, cc = TERMIO.unpack(mem.read(arg, TERMIO_SIZE))
        new.iflag = new.iflag & ~0xFFFF | iflag
        new.oflag = new.oflag & ~0xFFFF | oflag
        new.cflag = new.cflag & ~0xFFFF | cflag
        new.lflag = new.lflag & ~0xFFFF | lflag
        new.line = line
        new.cc = cc + new.cc[8:]
    else:
        new.load(mem.read(arg, TERMIOS_SIZE))
    if command in (TCSETSF, TCSETSF2, TCSETAF):
        tty.pending.clear()
        tty.flush_input()
    keep_locked(new, tty.termios, tty.locked_termios)
    tty.set_termios(new)
    tty.after_read()
    return 0


def _flush(ctx: Context, tty: Terminal, what: int, *, is_master: bool) -> int:
    """TCFLSH: a master's input is the slave's output, and the other way round."""
    result = check_change(ctx, tty, SIGTTOU)
    if result:
        return result
    if what not in (TCIFLUSH, TCOFLUSH, TCIOFLUSH):
        return -EINVAL
    if what != (TCIFLUSH if is_master else TCOFLUSH):
        tty.pending.clear()
        if not is_master:
            tty.flush_input()
        tty.after_read()
        tty.master_queue.wake(_WRITABLE)
    if is_master and what != TCOFLUSH:
        tty.take_output(len(tty.out))
        tty.packet_event(0)
    if not is_master and what != TCIFLUSH:
        tty.flush_output()
    return 0


def _switch_flow(ctx: Context, tty: Terminal, what: int) -> int:
    """TCXONC."""
    result = check_change(ctx, tty, SIGTTOU)
    if result:
        return result
    if what == TCOOFF:
        tty.switch_output(is_off=True)
    elif what == TCOON:
        tty.switch_output(is_off=False)
    elif what == TCIOFF or what == TCION:
        char = tty.termios.cc[VSTOP if what == TCIOFF else VSTART]
        if char:
            tty.output(bytes((char,)))
    else:
        return -EINVAL
    return 0


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


def kernel_of(ctx: Context) -> Kernel:
    """The kernel of a guest's call.  Raises LinuxError(ENXIO) for calls of the kernel itself."""
    if isinstance(ctx, Task):
        return ctx.kernel
    raise LinuxError(ENXIO)


def devpts_of(kernel: Kernel) -> DevptsBase:
    """The sandbox's devpts.  Raises LinuxError(ENXIO) if boot made none."""
    fs = kernel.extra.get("devpts")
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
    return devpts_of(kernel_of(ctx))


def open_slave(ctx: Context, path: Path, inode: Inode, flags: int) -> FileDescription:
    """A device node 136:N outside of devpts."""
    tty = devpts_of(kernel_of(ctx)).find(minor(inode.rdev))
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
    """/dev/console: the sandbox's own terminal.  Raises LinuxError(EIO) without one."""
    tty = kernel_of(ctx).extra.get("console")
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


def open_pair(ctx: Context, kernel: Kernel) -> tuple[Terminal, SlaveFile]:
    """A pair for boot: the terminal, unlocked, and an open slave without references (`-t`.

    The standard streams).
    """
    fs = devpts_of(kernel)
    tty = fs.new_terminal(ctx)
    tty.is_locked = False
    inode = tty.inode
    assert inode is not None
    path = fs.peer_path(ctx, tty) if isinstance(fs, DevptsPaths) else None
    tty.slave_opens += 1
    return tty, SlaveFile(tty, path, inode, O_RDWR)


def install(kernel: Kernel) -> None:
    """Hook the death of session leaders."""
    kernel.group_exit_hooks.append(session_leader_exits)
