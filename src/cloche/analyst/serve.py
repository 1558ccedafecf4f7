"""Starts the analyst's process, and sends it requests.

`spawn_analyst` may be called by a process with a single thread.  The analyst (`server.py`) ends when its socket's
other end is closed.  Cheap to import: the decoder is loaded in the new process only.
"""

import gc
import os
import signal
import socket
from typing import Final

from cloche.abi.misc import (
    LANDLOCK_ACCESS_FS_MAKE_REG,
    LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE,
    LANDLOCK_ACCESS_FS_REMOVE_FILE,
    LANDLOCK_ACCESS_FS_WRITE_FILE,
)
from cloche.analyst import cache
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, fork_part, settle
from cloche.boot.seccomp_analyst import analyst_policy
from cloche.wire.analyst import DONE, MAY_CACHE, NO_SITES, receive_reply, send_request

__all__ = ["AnalystError", "AnalystProcess", "spawn_analyst", "start_analyst"]

_CACHE_ACCESS: Final = (
    LANDLOCK_ACCESS_FS_READ_FILE
    | LANDLOCK_ACCESS_FS_READ_DIR
    | LANDLOCK_ACCESS_FS_WRITE_FILE
    | LANDLOCK_ACCESS_FS_REMOVE_FILE
    | LANDLOCK_ACCESS_FS_MAKE_REG
)


class AnalystError(Exception):
    """The analyst could not start, or has died."""


class AnalystProcess:
    """A running analyst: its pid (a child of the caller) and the other end of its socket."""

    def __init__(self, pid: int, sock: socket.socket, report: confine.Report) -> None:
        self.pid: int = pid
        self.sock: socket.socket = sock
        self.report: confine.Report = report
        self._number: int = 0

    def request(self, fd: int, *, may_cache: bool) -> int:
        """An O_RDONLY descriptor of the text of the file `fd`, or cache.NO_SITES.  Waits.

        Raises OSError for what the analyst could not do, AnalystError if it has gone.
        """
        return self.ask(fd, may_cache=may_cache)[0]

    def ask(self, fd: int, *, may_cache: bool) -> tuple[int, bool]:
        """The same, and whether the answer is valid as long as the file's times stay the same."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        try:
            send_request(self.sock, self._number, MAY_CACHE if may_cache else 0, fd)
            reply = receive_reply(self.sock)
        except (BrokenPipeError, ConnectionResetError):
            reply = None
        if reply is None:
            raise AnalystError("the analyst has died")
        if reply.status == DONE:
            return reply.fd, reply.lasts
        if reply.status == NO_SITES:
            return cache.NO_SITES, reply.lasts
        raise OSError(-reply.status, os.strerror(-reply.status))

    def close(self) -> None:
        """End it, and wait for its end."""
        self.sock.close()
        os.waitpid(self.pid, 0)


def spawn_analyst(*, cache_base: str | None = None, is_confined: bool = True) -> AnalystProcess:
    """Fork an analyst and wait until it is ready.  Raises AnalystError.

    `cache_base` stands for $XDG_CACHE_HOME; the empty string turns the cache off.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = _fork([theirs], cache_base, is_confined=is_confined, says_hello=True)
    theirs.close()
    try:
        hello = ours.recv(65536)
    except OSError:
        hello = b""
    if not hello:
        ours.close()
        os.waitpid(pid, 0)
        raise AnalystError("the analyst died at start")
    return AnalystProcess(pid, ours, confine.Report.decode(hello[1:]))


def start_analyst(socks: list[socket.socket], *, is_confined: bool = True) -> int:
    """Fork an analyst that serves these, on which requests may wait already; its pid."""
    return _fork(socks, None, is_confined=is_confined, says_hello=False)


def _fork(socks: list[socket.socket], cache_base: str | None, *, is_confined: bool, says_hello: bool) -> int:
    def work(parent: int) -> int:
        return _run(socks, cache_base, parent, is_confined=is_confined, says_hello=says_hello)

    return fork_part(work)


def _run(
    socks: list[socket.socket], cache_base: str | None, parent: int, *, is_confined: bool, says_hello: bool
) -> int:
    """The child: prepare, say hello if that is wanted, serve.  The exit status."""
    # Imported here, so that clients that import this module do not load the decoder.
    from cloche.analyst.server import Server

    settle("cloche-analyst", [sock.fileno() for sock in socks])
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # sent when a file is opened for writing while `writers` looks for writers
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGXFSZ, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    report = confine.Report()
    confine.set_limits(report)
    cache_fd = -1 if cache_base == "" else cache.open_cache(cache_base)
    # Held, because an empty root has no /proc.
    proc_fd = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    server = Server(socks, cache_fd, proc_fd, is_confined=is_confined)
    gc.collect()
    gc.freeze()
    gc.enable()  # it is off in the keeper, from which this was forked
    if is_confined:
        _confine(report, cache_fd)
    if not confine.die_with(parent):
        return EXIT_START
    if is_confined:
        seccomp.install(analyst_policy())
        report.in_force(confine.SECCOMP)
    if says_hello:
        socks[0].send(b"+" + report.encode()[:65000])
    return server.serve()


def _confine(report: confine.Report, cache_fd: int) -> None:
    if os.geteuid() == 0:
        confine.enter_namespaces(report, confine.GOFER_NAMESPACES)
        confine.empty_root(report)
    else:
        report.missing(confine.USER_NAMESPACE, "it is not needed: nothing but the cache can be opened")
    confine.drop_capabilities(report)
    confine.deny_paths(report, [(cache_fd, _CACHE_ACCESS)] if cache_fd >= 0 else [], may_signal=False)
    confine.set_undumpable(report)
