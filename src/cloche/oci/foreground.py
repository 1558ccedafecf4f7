"""A command in the foreground: signals to its anchor, the terminal's bytes to and fro, its end."""

import os
import select
import signal
import termios
import tty
from typing import Any, Final

from cloche.boot.noted import note_signals

_BYTES: Final = 65536
_SIGNALS: Final = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGWINCH, signal.SIGCONT, signal.SIGALRM),
)


def follow(pid: int, master: int = -1) -> int:
    """Wait until the child `pid` ends; returns its exit status, 128 + N if signal N ended it. `master` is that of its
    terminal, -1 if it has none here.
    """
    wake_read = note_signals(_SIGNALS)
    watch = os.pidfd_open(pid)
    saved = None
    if master >= 0:
        saved = _enter_raw()
        _copy_size(master)
    try:
        _serve(pid, watch, wake_read, master)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code  # of a signal, as a shell says it


def _enter_raw() -> list[Any] | None:
    try:
        saved = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSADRAIN)
        raw: list[Any] = termios.tcgetattr(0)
        raw[1] |= termios.OPOST  # the container's leaves newlines to this one
        termios.tcsetattr(0, termios.TCSADRAIN, raw)
    except termios.error:
        return None
    return saved


def _copy_size(master: int) -> None:
    try:
        termios.tcsetwinsize(master, termios.tcgetwinsize(0))
    except termios.error:
        pass


def _serve(pid: int, watch: int, wake_read: int, master: int) -> None:
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    if master >= 0:
        poller.register(master, select.POLLIN)
        poller.register(0, select.POLLIN)
    while True:
        ready = [fd for fd, _events in poller.poll()]
        if wake_read in ready:
            for signo in os.read(wake_read, 512):
                if signo == signal.SIGWINCH and master >= 0:
                    _copy_size(master)
                else:
                    os.kill(pid, signo)
        if master in ready and not _copy(master, 1):
            poller.unregister(master)
        if 0 in ready and master >= 0 and not _copy(0, master):
            poller.unregister(0)
        if watch in ready and master not in ready:
            while master >= 0 and _is_ready(master) and _copy(master, 1):
                pass
            return


def _is_ready(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


def _copy(source: int, target: int) -> bool:
    try:
        data = os.read(source, _BYTES)
    except OSError:
        return False
    while data:
        data = data[os.write(target, data) :]
        if not data:
            return True
    return False
