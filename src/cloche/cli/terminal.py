"""Shared by verbs that run a command: the standard streams, the host's terminal, signals, exit statuses."""

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from typing import Any, Final

from cloche.boot import noted

EXIT_INTERNAL: Final = 125
# Signals that are passed on to the command; those of the keyboard go to its whole process group, as from a terminal.
FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KEYBOARD: Final = (signal.SIGINT, signal.SIGQUIT)
# Signals that ask for an end.
ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

Modes = list[Any]  # a result of termios.tcgetattr


def standard_streams(*, is_interactive: bool, has_terminal: bool) -> list[int]:
    """Descriptors for the command's 0, 1 and 2; -1 for one that is closed.

    Afterwards the numbers 0 to 2 are all in use in this process. A terminal is passed as input only if that was asked
    for: otherwise a command in the background could read what is typed for other programs.
    """
    streams = []
    for fd in range(3):
        try:
            os.fstat(fd)
            streams.append(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            streams.append(-1)
    if streams[0] == 0 and not is_interactive and not has_terminal and os.isatty(0):
        streams[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return streams


class Terminal:
    """The host's terminal in raw mode while a sandbox has one of its own (-t)."""

    def __init__(self) -> None:
        """Raises OSError if it is gone."""
        try:
            self._saved = termios.tcgetattr(0)
            # In the background this stops the process (SIGTTOU) until it is in the foreground and may read keys.
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        except termios.error as error:
            raise OSError(*error.args) from None

    def enter(self) -> None:
        """Set raw mode: every key goes to the sandbox's line discipline."""
        try:
            tty.setraw(0, termios.TCSADRAIN)
        except termios.error:
            pass  # the terminal is gone: SIGHUP says so

    def is_gone(self) -> bool:
        """Whether it has been hung up."""
        try:
            termios.tcgetattr(0)
        except termios.error:
            return True
        return False

    def leave(self) -> None:
        """Restore the terminal's modes."""
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal is gone


def window_size() -> tuple[int, int]:
    """Rows and columns of the host's terminal."""
    try:
        raw = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return 24, 80
    rows, columns, _x, _y = struct.unpack("<4H", raw)
    return rows or 24, columns or 80


def exit_status(wait_status: int) -> int:
    """The exit status by the shell's convention: the program's own, or 128 + signal."""
    signo = wait_status & 0x7F
    return 128 + signo if signo else wait_status >> 8 & 0xFF


class TerminalModes:
    """The modes of the terminals that a command uses, to be restored if it is killed before it can do so itself."""

    def __init__(self) -> None:
        self._modes: dict[int, Modes] = {}
        for fd in range(3):
            try:
                if os.isatty(fd):
                    self._modes[fd] = termios.tcgetattr(fd)
            except termios.error:
                pass  # the terminal has just been hung up

    def restore(self) -> None:
        """Restore the modes, unless another process group is in the foreground by now."""
        for fd, modes in self._modes.items():
            try:
                if os.tcgetpgrp(fd) == os.getpgrp():
                    termios.tcsetattr(fd, termios.TCSADRAIN, modes)
            except (OSError, termios.error):
                pass  # the terminal is gone, or another's


def wait_readable(fds: list[int], seconds: float) -> list[int]:
    """Those of `fds` that become readable within `seconds` (negative: wait for ever)."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _events in poller.poll(None if seconds < 0 else int(seconds * 1000))]


def note_signals() -> int:
    """Return a descriptor from which signals that concern the command can be read, a byte each."""
    signals = (*FORWARDED, *KEYBOARD, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return noted.note_signals(signals, keeps_ignored=True)


def printable_text(line: str) -> str:
    """A line of a file's contents without control characters, except tabs."""
    if line.replace("\t", "").isprintable():
        return line
    return "".join(
        each
        if each == "\t" or each.isprintable()
        else "".join(f"<{byte:02X}>" for byte in each.encode(errors="surrogateescape"))
        for each in line
    )
