"""The monitor, as `create` forks it first of all, and what it is told then.

As csrc/launcher starts `create`, its interpreter has no words, variables or files of the user's yet.  The monitor is
forked then: while `create` reads the bundle and makes record and groups, it loads the library and the keeper's modules.
The first message brings it descriptors alone: its log, and the ways into the groups; and whether the sentry may confine
itself before it knows more (`is_usual` in `boot/spec.py`).  It enters the groups, and forks the keeper, which so begins
there and as empty as that of `cloche run`.  The second says of which container it is the
monitor, the last what is to be started (`monitor.serve`).

A `create` that was started otherwise forks the monitor when it has the record; the keeper is then executed anew.
Nothing that this module imports before the fork is in the compiled library.
"""

import fcntl
import os
import signal
import socket
import sys
from typing import Final, NoReturn

from cloche.boot.spawn import high_pair, spawn_keeper
from cloche.oci.messages import hear
from cloche.oci.streams import fill_standard_streams

__all__ = ["Ahead", "adopt", "adopted", "fork_monitor"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloche.boot.spawn import KeeperProcess

_IGNORED: Final = (
    *(
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
_ABOVE_STDIO: Final = 10
_MAX_CPUS: Final = 1024


class Ahead:
    """A monitor that waits to be told what for."""

    def __init__(self, pid: int, link: socket.socket, *, is_empty: bool) -> None:
        self.pid: int = pid
        self.link: socket.socket = link
        self.is_empty: bool = is_empty  # it was forked before there was anything of the user's


_adopted: list[Ahead] = []  # at most one


def adopt(ahead: Ahead) -> None:
    """Register a monitor that was forked before it was known to be needed."""
    _adopted.append(ahead)


def adopted() -> Ahead | None:
    """It, once."""
    return _adopted.pop() if _adopted else None


def fork_monitor(forget: "Callable[[], None] | None" = None) -> Ahead:
    """Fork a monitor; with `forget` from a process that is empty, and keeps nothing once that was called.

    Raises OSError.
    """
    ours, theirs = high_pair(socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_monitor(theirs, forget)
    theirs.close()
    return Ahead(pid, ours, is_empty=forget is not None)


def _be_monitor(link: socket.socket, forget: "Callable[[], None] | None") -> NoReturn:
    try:
        for signo in _IGNORED:
            signal.signal(signo, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()
        _take_all_processors()
        fill_standard_streams()
        if forget is not None:
            forget()
            import cloche.boot.keeper  # noqa: F401  # while the caller reads the bundle
        told, given = hear(link)
        if given:
            streams, is_usual = told
            _begin(link, streams, given, is_usual=is_usual, is_empty=forget is not None)
    except BaseException as failure:
        sys.excepthook(type(failure), failure, failure.__traceback__)
    finally:
        os._exit(0)


def _take_all_processors() -> None:
    """Those that the caller keeps to are not the container's: it has its control group's."""
    try:
        os.sched_setaffinity(0, range(_MAX_CPUS))  # the kernel leaves out those that there are not
    except OSError:
        pass


def _fork_keeper(*, is_usual: bool) -> "KeeperProcess":
    from cloche.boot.keeper import fork_first_keeper

    return fork_first_keeper(is_ahead=is_usual)


def _begin(
    link: socket.socket, streams: list[int], given: list[int], *, is_usual: bool, is_empty: bool
) -> None:
    """`given`: the log, and files by which this process enters the groups."""
    log, *ways = given
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO) if fd >= 0 else -1 for fd in streams]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    os.chdir("/")
    for fd in ways:
        os.write(fd, b"0")
    keeper = _fork_keeper(is_usual=is_usual) if is_empty else spawn_keeper()
    from cloche.oci.monitor import serve  # while the keeper gets ready

    serve(link, high, keeper, is_placed=bool(ways))
