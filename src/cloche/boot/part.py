"""Starting a part of a sandbox: a child of the keeper that gives everything up and says when it serves, or why not.

Used by gofer, egress, network process and broker; the analyst, whose start is not waited for, uses only the fork and
`settle`. Each then confines itself as its work allows. The caller must have a single thread. It gets two sockets: the
one on which the part serves, which goes to the sentry, and one on which it says `HELLO` or `FAILED`, so that several
can start at once.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

from cloche.boot import confine

__all__ = [
    "EXIT_START",
    "FAILED",
    "HELLO",
    "Part",
    "PartError",
    "fork_part",
    "ignore_signals",
    "say",
    "settle",
    "start_part",
]

HELLO: Final = b"L"  # the part serves; + data for the keeper
FAILED: Final = b"F"  # + the reason, in one line
EXIT_START: Final = 3  # the part could not be confined, or its request makes no sense
_HELLO_BYTES: Final = 65536
# The monitor passes on what concerns the guests.
_NOT_OURS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


class PartError(Exception):
    """A part could not start; the text says why."""


@mypyc_attr(allow_interpreted_subclasses=True)  # gofer, egress and netns are not compiled
class Part:
    """A running part: its pid (a child of the caller), the sentry's end of its socket."""

    def __init__(self, name: str, pid: int, sock: socket.socket, hello: socket.socket) -> None:
        self.name: str = name
        self.pid: int = pid
        self.sock: socket.socket = sock
        self.hello: socket.socket = hello  # on which it says that it is ready

    def wait_ready(self) -> bytes:
        """Wait until the part serves; returns the data of its HELLO. Raises PartError; the part is then reaped, and
        `sock` closed.
        """
        try:
            said = self.hello.recv(_HELLO_BYTES)
        except ConnectionResetError:
            said = b""
        self.hello.close()
        if said[:1] == HELLO:
            return said[1:]
        self.sock.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # the caller has done so already
        text = said[1:].decode(errors="replace") if said[:1] == FAILED else f"{self.name} died at its start"
        raise PartError(text)


def fork_part(work: Callable[[int], int]) -> int:
    """Fork a process that calls `work` with its parent's pid, and exits with the status that this returns. Returns
    the child's pid.
    """
    if sys.stderr is not None:  # None: closed when the interpreter started
        sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = EXIT_START
        try:
            status = work(parent)
        except BaseException as failure:
            sys.excepthook(type(failure), failure, failure.__traceback__)
        finally:
            os._exit(status)
    return pid


def start_part(
    kind: int,
    work: Callable[[socket.socket, socket.socket, int], int],
    pair: tuple[socket.socket, socket.socket] | None = None,
) -> tuple[int, socket.socket, socket.socket]:
    """Fork a part.

    Returns what a `Part` is made of: its pid, the sentry's end of its socket, and the socket on which it says that it
    is ready. `work` is called with the part's ends of the two and its parent's pid; `kind` is the type of the first
    socket; `pair`: both ends of that socket, if it exists already.
    """
    hear, speak = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = pair if pair is not None else socket.socketpair(socket.AF_UNIX, kind)

    def begin(parent: int) -> int:
        ours.close()
        hear.close()
        return work(theirs, speak, parent)

    pid = fork_part(begin)
    theirs.close()
    speak.close()
    return pid, ours, hear


def settle(name: str, kept: list[int]) -> None:
    """First steps of a child: set its name, leave the terminal, close all descriptors but `kept`. Raises OSError."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    confine.name_process(name)
    confine.detach_from_terminal()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    confine.close_all_but([0, 1, 2, *[fd for fd in kept if fd >= 0]])


def ignore_signals() -> None:
    """In the keeper and the sentry: what users and terminals send is the monitor's affair."""
    for signo in _NOT_OURS:
        signal.signal(signo, signal.SIG_IGN)


def say(where: socket.socket, what: bytes) -> None:
    """Send the keeper the part's one message, HELLO or FAILED."""
    try:
        # every filter allows this call, and the broker's allows no other for sending
        where.sendmsg([what[:_HELLO_BYTES]])
    except (BrokenPipeError, ConnectionResetError):
        pass  # another part has failed to start, and the keeper does not read any more
    where.close()
