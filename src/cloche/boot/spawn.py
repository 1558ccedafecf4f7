"""Starts the keeper (`keeper.py`): a new interpreter with an empty environment, so that no data of its caller's
environment, command line or memory is in any process that a guest could take over.

It is started as early as possible (the verb `run` does so before it reads its options), because it takes a while to
get ready. The installed commands do not need this: their own interpreter begins with an empty environment, and forks
the keeper first of all, or the monitor that does (`csrc/launcher`, `fork_first_keeper` in `keeper.py`).
"""

import fcntl
import os
import signal
import socket
import sys
from typing import Final

__all__ = [
    "HOST_FD",
    "TEMPLATE_FD",
    "KeeperProcess",
    "adopt_keeper",
    "drop_keeper",
    "high_pair",
    "leave_light_modules",
    "spawn_host",
    "spawn_keeper",
    "spawn_template",
]

KEEPER_FD: Final = 3  # the keeper's end of its socket to the monitor
HOST_FD: Final = 3
TEMPLATE_FD: Final = 3  # the socket on which the template listens
_ABOVE_STDIO: Final = 10  # 0 to 2 may be closed, which must stay visible
# The code of the new interpreter. Hardly any imported object ever becomes garbage, and the cyclic collector, which
# would scan all of them again and again, would take a quarter of the time: it is off. The first argument is the
# directory of light modules (`cloche.light`), which stand in for standard ones.
_CODE: Final = (
    "import gc, sys, time; gc.disable(); now = time.monotonic_ns(); sys.path[:0] = sys.argv[1:2]; "
    "sys.path += sys.argv[2:]; from cloche.boot.keeper import main; main(now)"
)
_TEMPLATE_CODE: Final = (
    "import gc, sys; gc.disable(); sys.path[:0] = sys.argv[2:3]; sys.path += sys.argv[3:]; "
    "from cloche.cli.template import main; main()"
)
_HOST_CODE: Final = "import sys; sys.path += sys.argv[2:]; from cloche.cli.hosted import main; main()"


class KeeperProcess:
    """A keeper: its pid and the caller's end of its socket."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid: int = pid
        self.link: socket.socket = link
        self.is_child: bool = True  # of this process; otherwise another process waits for it (`cli.lent`)
        self.errors_fd: int = -1  # standard error for its parts; -1: the one it began with


_adopted: list[KeeperProcess] = []  # at most one


def leave_light_modules() -> None:
    """From now on imports of this process and its forks find the standard library instead of the light stand-ins, if it
    was started with these (`cloche.light`).
    """
    light = sys.modules.get("cloche.light.standard")
    if light is not None:
        light.leave()


def adopt_keeper(keeper: KeeperProcess) -> None:
    """Register a keeper that was forked before it was known to be needed; the next `spawn_keeper` returns it."""
    _adopted.append(keeper)


def drop_keeper() -> None:
    """Close the socket of an adopted keeper that is not needed; it ends by itself."""
    for keeper in _adopted:
        keeper.link.close()
    _adopted.clear()


def _high(sock: socket.socket) -> socket.socket:
    """The same socket as a descriptor that is none of the standard streams."""
    fd = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
    sock.close()
    return socket.socket(fileno=fd)


def _search_path() -> list[str]:
    """The keeper's module search path: light modules, cloche, and what its compiled modules need."""
    # Not `import cloche`: the package imports the SDK, which imports this module.
    package = os.path.dirname(os.path.abspath(sys.modules["cloche"].__file__ or ""))
    here = os.path.dirname(package)
    light = os.path.join(package, "light")
    return [light, here, *[path for path in sys.path if path.startswith("/") and path not in (here, light)]]


def spawn_keeper() -> KeeperProcess:
    """Start a keeper, which waits for `launch`.  Raises OSError."""
    if _adopted:
        return _adopted.pop()
    ours, theirs = high_pair(socket.SOCK_SEQPACKET)
    try:
        pid = _spawn(_CODE, _bare_environment(), theirs, KEEPER_FD, is_silent=False)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return KeeperProcess(pid, ours)


def spawn_template(listener: socket.socket, path: str) -> int:
    """Start a template (`cli.template`) that accepts on `listener`, which is bound to `path`.  Raises OSError.

    The pid of a child that ends at once, having forked the template.
    """
    high = _high(listener.dup())
    try:
        return _spawn(_TEMPLATE_CODE, _bare_environment(), high, TEMPLATE_FD, is_silent=True, first=[path])
    finally:
        high.close()


def _bare_environment() -> dict[str, str]:
    """The loader's path alone, because the interpreter may need it to start at all."""
    return {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}


def spawn_host(environment: dict[str, str], *, is_silent: bool) -> tuple[int, socket.socket]:
    """Start the monitor of a sandbox for a program that uses the SDK (`cli.hosted`).  Raises OSError.

    The pid of a child that ends at once, having forked the monitor, and a socket to that. `is_silent`: the monitor
    gets none of the caller's standard streams. It may outlive the caller, and a reader may wait for the end of the
    caller's output.
    """
    ours, theirs = high_pair(socket.SOCK_STREAM)
    try:
        pid = _spawn(_HOST_CODE, environment, theirs, HOST_FD, is_silent=is_silent)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours


def high_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, whose descriptors are none of the standard streams."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    return _high(ours), _high(theirs)


def _spawn(
    code: str,
    environment: dict[str, str],
    sock: socket.socket,
    number: int,
    *,
    is_silent: bool,
    first: list[str] | None = None,
) -> int:
    """Run `code` in a new interpreter, in a session of its own, which gets `sock` as descriptor `number`."""
    words = [sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else []), "-c", code]
    defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE]
    return os.posix_spawn(
        sys.executable,
        [*words, *(first or []), *_search_path()],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            *([(os.POSIX_SPAWN_DUP2, 0, 2)] if is_silent else []),
            (os.POSIX_SPAWN_DUP2, sock.fileno(), number),
        ],
        setsid=True,  # no terminal signals it
        setsigmask=[],
        setsigdef=defaults,
    )
