"""The ioctls that both sides of a terminal have (tty_ioctl(4))."""

from cloche.abi.capability import CAP_SYS_ADMIN
from cloche.abi.errno import (
    EINVAL,
    EIO,
    ENOTTY,
    EPERM,
)
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
    TIOCCONS,
    TIOCEXCL,
    TIOCGDEV,
    TIOCGETD,
    TIOCGEXCL,
    TIOCGLCKTRMIOS,
    TIOCGPGRP,
    TIOCGSID,
    TIOCGSOFTCAR,
    TIOCGWINSZ,
    TIOCNOTTY,
    TIOCNXCL,
    TIOCOUTQ,
    TIOCSBRK,
    TIOCSCTTY,
    TIOCSETD,
    TIOCSLCKTRMIOS,
    TIOCSPGRP,
    TIOCSSOFTCAR,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
)
from cloche.abi.signal import (
    SIGTTOU,
)
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
    VSTART,
    VSTOP,
)
from cloche.fs.ldisc import Termios
from cloche.fs.tty import (
    PTMX_RDEV,
    WRITABLE,
    Terminal,
    check_change,
    controlling_terminal,
    give_up_controlling,
    keep_locked,
    pid_ns_of,
    set_controlling,
    set_foreground,
)
from cloche.kernel.pid_namespace import pid_in
from cloche.vfs.objects import Context, FileDescription


# -- ioctl -----------------------------------------------------------------------------------------------------
def terminal_ioctl(
    ctx: Context, tty: Terminal, file: FileDescription, command: int, arg: int, *, is_master: bool
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
        return set_controlling(ctx, tty, file, arg)  # on the master, too, it applies to the slave
    elif command == TIOCNOTTY:
        return -ENOTTY if is_master else give_up_controlling(ctx, tty)
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
    ctx: Context, tty: Terminal, file: FileDescription, command: int, arg: int, *, is_master: bool
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
    elif command == TIOCCONS:
        return -EPERM  # there is no console to redirect
    elif command == TIOCVHANGUP:
        if not ctx.creds.capable(CAP_SYS_ADMIN):
            return -EPERM
        tty.hang_up()
    else:
        return -ENOTTY
    return 0


def _set_attributes(ctx: Context, tty: Terminal, command: int, arg: int) -> int:
    """TCSETS and its variants; draining is not needed, since output arrives at once."""
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
        tty.master_queue.wake(WRITABLE)
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
