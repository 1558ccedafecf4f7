"""Terminals: pseudo-terminal pairs, controlling terminals and job control (tty_io.c, tty_jobctrl.c, pty.c).

Owns `Terminal` (a master and a slave with one line discipline between).  Both sides' files are in `tty_files`, their
ioctls in `tty_ioctl`, the file system of the slaves in `devpts`.

`Session.tty` holds the session's `Terminal`; `install` hooks the death of session leaders.
"""

from typing import Final

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import (
    EINVAL,
    EIO,
    ENOTTY,
    EPERM,
    ERESTARTSYS,
    ESRCH,
)
from cloche.abi.fcntl import O_ACCMODE, O_NOCTTY, O_WRONLY
from cloche.abi.ioctl import (
    TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHWRITE,
    TIOCPKT_NOSTOP,
    TIOCPKT_START,
    TIOCPKT_STOP,
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
    SIGTTIN,
    SIGTTOU,
    SIGWINCH,
    is_member,
)
from cloche.abi.stat import makedev
from cloche.fs.ldisc import LineDiscipline, Termios
from cloche.kernel.pid_namespace import PidNamespace, pid_from
from cloche.kernel.signals import is_orphaned, kernel_info, send_group_info, send_pgrp_signal
from cloche.kernel.task import Console, Kernel, ProcessGroup, Session, Task, ThreadGroup
from cloche.kernel.timers import TimerOwner
from cloche.vfs.objects import Context, FileDescription, FileSystem, Inode
from cloche.vfs.waitqueue import WaitQueue

PTS_MAJOR: Final = 136
PTMX_RDEV: Final = makedev(5, 2)
MAX_PTYS: Final = 4096  # /proc/sys/kernel/pty/max
OUTPUT_BYTES: Final = 12288  # the flip buffer and the read buffer of a master
INPUT_BYTES: Final = 8192  # the flip buffer of a slave

READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM
HUNG_UP: Final = READABLE | WRITABLE | POLLERR | POLLHUP
PIECE: Final = 4096


class ReadTimer:
    """A reader that waits with VTIME: the call, its deadline, and the bytes that had arrived."""

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


class Terminal(LineDiscipline, Console, TimerOwner):
    """A pseudo-terminal pair: the slave's line discipline, and the output that the master has not read yet."""

    def __init__(self, kernel: Kernel, index: int) -> None:
        super().__init__()
        self.kernel: Kernel = kernel
        self.index: int = index
        self.inode: Inode | None = None  # the slave's node
        self.fs: DevptsBase | None = None
        self.out: bytearray = bytearray()  # from the slave (and echo) to the master
        self.winsize: tuple[int, int, int, int] = (0, 0, 0, 0)
        self.session: Session | None = None
        self.foreground: ProcessGroup | None = None
        # processes of the session that have given the terminal up (TIOCNOTTY)
        self.detached: set[int] = set()
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

    # -- LineDiscipline ----------------------------------------------------------------------------------
    def output(self, data: bytes) -> None:
        if len(self.out) < OUTPUT_BYTES + PIECE:
            self.out += data
            self.master_queue.wake(READABLE)

    def signal_foreground(self, signo: int) -> None:
        if self.foreground is not None:
            send_pgrp_signal(self.foreground, signo)

    def timer_due(self, kind: int, argument: int) -> None:
        self.input_arrived()

    def input_arrived(self) -> None:
        self.slave_queue.wake(READABLE)

    def output_possible(self) -> None:
        self.slave_queue.wake(WRITABLE)

    def flush_output(self) -> None:
        """Drop output that is not yet in the master's read buffer."""
        if len(self.out) > PIECE:
            del self.out[PIECE:]
            self.slave_queue.wake(WRITABLE)
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
        self.master_queue.wake(POLLPRI | READABLE)

    # -- Console -----------------------------------------------------------------------------------------
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
        """The master has written: input for the slave."""
        if self.is_locked or not data:
            return
        self.receive(data)

    def take_output(self, count: int) -> None:
        """The master has read `count` bytes."""
        was_full = len(self.out) >= OUTPUT_BYTES
        del self.out[:count]
        if was_full and len(self.out) < OUTPUT_BYTES:
            self.slave_queue.wake(WRITABLE)

    def after_read(self) -> None:
        """The slave has read: process pending input, and let the master write."""
        was_full = self.input_room() <= 0
        if self.pending:
            self.process()
        if was_full and self.input_room() > 0:
            self.master_queue.wake(WRITABLE)

    # -- hangup ------------------------------------------------------------------------------------------
    def hang_up(self) -> None:
        """The line is gone: every open slave is dead, the session loses its terminal (__tty_hangup)."""
        self.generation += 1
        self._drop_session(is_hangup=True)
        self.flush_input()
        self.pending.clear()
        self.slave_queue.wake(HUNG_UP)
        self.master_queue.wake(HUNG_UP)

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
            self.master_queue.wake(HUNG_UP)


class DevptsBase(FileSystem):
    """The interface of devpts that `Terminal` uses."""

    def drop(self, terminal: Terminal) -> None:
        """The pair is gone: remove its name, and free its number."""
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
    if is_member(ctx.sigmask.now, signo) or ctx.group.handlers.actions[signo].handler == SIG_IGN:
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


def install(kernel: Kernel) -> None:
    """Hook the death of session leaders."""
    kernel.hooks.at_group_exit["terminals"] = session_leader_exits
