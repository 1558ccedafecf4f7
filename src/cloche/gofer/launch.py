"""Starts a gofer: fork, hold the attach points, confine, serve.

The caller is a process with a single thread, before the sentry exists (the sentry must not import this).  The
gofer never executes a program; it is this interpreter, with everything but the socket and standard error
closed.  Sentry and gofer start at the same time: requests that are sent before the gofer is ready wait in its socket.

Attach points that say so (`has_worker`: volumes, the working directory) are served by a process of their own, which is
forked from the confined gofer before it serves and holds nothing of the others: storage that hangs (NFS, FUSE) keeps
only its worker.  The sentry gets the worker's socket from the gofer.  Workers end with the gofer, and it with them.
"""

import errno
import gc
import os
import resource
import select
import signal
import socket
from typing import Final

from cloche.abi.capability import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_SETFCAP,
)
from cloche.abi.misc import (
    LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE,
    LANDLOCK_ACCESS_FS_REFER,
    LANDLOCK_ACCESS_FS_TRUNCATE,
)
from cloche.analyst.cache import open_cache
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_gofer import gofer_policy
from cloche.gofer.nodes import AttachPoint
from cloche.gofer.server import EXIT_CLOSED, Server, log, log_exception
from cloche.gofer.texts import Texts

EXIT_WORKER: Final = 4  # a worker has died

# EXECUTE is left out: the gofer runs nothing.
_READ_ACCESS: Final = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
# All rights of ABI 1 but EXECUTE and the making of devices.
_WRITE_ACCESS: Final = (
    ((1 << 13) - 1) & ~0x1 & ~0x40 & ~0x800 | LANDLOCK_ACCESS_FS_REFER | LANDLOCK_ACCESS_FS_TRUNCATE
)
_FILE_ACCESS: Final = 0x2 | 0x4 | LANDLOCK_ACCESS_FS_TRUNCATE  # what a rule on a file may grant: write, read


class GoferProcess(Part):
    """A running gofer, and what confines it."""

    def __init__(self, pid: int, sock: socket.socket, hello: socket.socket) -> None:
        super().__init__("the gofer", pid, sock, hello)
        self.report: confine.Report = confine.Report()

    def wait_ready(self) -> bytes:
        said = super().wait_ready()
        self.report = confine.Report.decode(said)
        return said


def spawn_gofer(attach_points: list[AttachPoint], *, is_confined: bool = True) -> GoferProcess:
    """Start a gofer and wait until it is ready.  Raises PartError."""
    gofer = start_gofer(attach_points, is_confined=is_confined)
    gofer.wait_ready()
    return gofer


def start_gofer(
    attach_points: list[AttachPoint],
    *,
    is_confined: bool = True,
    analyst: list[socket.socket] | None = None,
    groups: list[str] | None = None,
    user_ns: int = -1,
) -> GoferProcess:
    """Fork a gofer that serves these attach points, and patched text if it is given sockets to the analyst: one for
    itself and one for each worker.  It runs in the control groups at the directories `groups`, or the caller's.

    It opens the attach points with the caller's rights, and serves them as root of the user namespace `user_ns` (a
    descriptor; -1: the caller's): then the host lets it do no more than a process of the container, and reports all
    owners as that namespace calls them.

    It ends when the other end of `sock` is closed, or after a malformed request.
    """
    askers = analyst or []

    def work(sock: socket.socket, speak: socket.socket, parent: int) -> int:
        for path in groups or []:
            alone = os.path.join(path, "tasks")  # of version 1: no lock (`enter` in oci/cgroups.py)
            name = alone if os.path.exists(alone) else os.path.join(path, "cgroup.procs")
            with open(name, "wb", buffering=0) as file:
                file.write(b"0")
        return _run(sock, speak, attach_points, askers, parent, user_ns, is_confined=is_confined)

    return GoferProcess(*start_part(socket.SOCK_STREAM, work))


def _run(
    sock: socket.socket,
    speak: socket.socket,
    attach_points: list[AttachPoint],
    analyst: list[socket.socket],
    parent: int,
    user_ns: int,
    *,
    is_confined: bool,
) -> int:
    """The child: prepare, say so, serve.  The exit status."""
    gc.freeze()
    gc.disable()  # no cycles are made while serving
    given = [user_ns] if user_ns >= 0 else []
    settle("cloche-gofer", [sock.fileno(), speak.fileno(), *given, *[each.fileno() for each in analyst]])
    report = confine.Report()
    try:
        server = _prepare(
            sock, speak.fileno(), attach_points, analyst, report, parent, user_ns, is_confined=is_confined
        )
    except OSError as error:
        say(speak, FAILED + str(error).encode())
        return EXIT_START
    say(speak, HELLO + report.encode())
    return server.serve()


def _prepare(
    sock: socket.socket,
    speak: int,
    attach_points: list[AttachPoint],
    analyst: list[socket.socket],
    report: confine.Report,
    parent: int,
    user_ns: int,
    *,
    is_confined: bool,
) -> Server:
    # sent when a file is opened for writing while `writers` looks for writers
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    os.umask(0)
    confine.set_limits(report)
    for point in attach_points:
        point.hold()
    procfd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    is_writable = any(point.is_writable for point in attach_points)
    cache_fd = open_cache() if analyst else -1
    if user_ns >= 0:
        confine.join_user_namespace(user_ns)
    if is_confined:
        _confine(attach_points, cache_fd, report, is_writable=is_writable)
    if not confine.die_with(parent):
        raise OSError(errno.ESRCH, "the keeper died")
    links: dict[int, socket.socket] = {}
    askers = list(analyst)
    for index, point in enumerate(attach_points):
        if point.has_worker:
            asker = askers.pop() if len(askers) > 1 else None
            links[index] = _fork_worker(
                index,
                attach_points,
                procfd,
                cache_fd,
                asker,
                [sock, *links.values(), *askers],
                speak,
                is_confined=is_confined,
            )
            if asker is not None:
                asker.close()
            point.let_go()
    if links:
        signal.signal(signal.SIGCHLD, _worker_ended)
    texts = Texts(cache_fd, askers[0] if askers else None)
    server = _serve_here(sock, attach_points, procfd, texts, links, is_confined=is_confined)
    if is_confined:
        report.in_force(confine.SECCOMP)
    return server


def _serve_here(
    sock: socket.socket,
    attach_points: list[AttachPoint],
    procfd: int,
    texts: Texts,
    links: dict[int, socket.socket],
    *,
    is_confined: bool,
) -> Server:
    """The server of this process, for the attach points that it still holds."""
    fds = os.open("self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=procfd)
    os.fchdir(fds)
    os.close(fds)
    os.close(procfd)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    server = Server(
        sock,
        attach_points,
        max_open_dirs=min(limit // 4, 4096),
        max_pins=limit // 2,
        texts=texts,
        links=links,
    )
    if is_confined:
        mine = [point for point in attach_points if point.fd >= 0]
        policy = gofer_policy(
            is_writable=any(point.is_writable for point in mine),
            has_doors=any(point.has_doors for point in mine),
            shows_sockets=any(point.shows_sockets for point in mine),
        )
        seccomp.install(policy)
    return server


def _fork_worker(
    index: int,
    attach_points: list[AttachPoint],
    procfd: int,
    cache_fd: int,
    analyst: socket.socket | None,
    others: list[socket.socket],
    speak: int,
    *,
    is_confined: bool,
) -> socket.socket:
    """Start the process that serves one attach point; the sentry's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    if os.fork() != 0:
        theirs.close()
        return ours
    status = EXIT_START
    try:
        ours.close()
        os.close(speak)
        for sock in others:
            sock.close()
        for number, point in enumerate(attach_points):
            if number != index and point.fd >= 0:
                point.let_go()
        server: Server | None = None
        if confine.die_with(parent):
            texts = Texts(cache_fd, analyst)
            try:
                server = _serve_here(theirs, attach_points, procfd, texts, {}, is_confined=is_confined)
            except OSError:
                # The host refuses this to the gofer as well, which reports it; this process must not end before.
                select.poll().poll()
        if server is not None:
            status = server.serve()
            theirs.close()
            if status == EXIT_CLOSED:
                select.poll().poll()  # until the gofer ends
    except BaseException:
        log_exception()
    finally:
        os._exit(status)


def _worker_ended(_signo: int, _frame: object) -> None:
    """A child has stopped, continued, or died. If it has died its attach point is lost, so the sandbox ends."""
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        how = os.waitstatus_to_exitcode(status)
        log(f"a worker has died ({f'status {how}' if how >= 0 else f'signal {-how}'})")
        os._exit(EXIT_WORKER)


def _confine(
    attach_points: list[AttachPoint], cache_fd: int, report: confine.Report, *, is_writable: bool
) -> None:
    keep = 0
    if os.geteuid() == 0:
        # Not into a user namespace: its capabilities would not hold for the host's files.
        keep = 1 << CAP_DAC_READ_SEARCH
        if is_writable:
            keep |= 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER | 1 << CAP_FSETID
        if any(point.keeps_suid for point in attach_points):
            keep |= 1 << CAP_SETFCAP
        confine.enter_namespaces(report, confine.GOFER_NAMESPACES)
        confine.empty_root(report)
    else:
        # There stat(2) would show every owner but oneself as nobody.  Landlock and seccomp remain.
        report.missing(confine.USER_NAMESPACE, "it would hide who owns the files")
        report.missing(confine.EMPTY_ROOT, "it needs a user namespace")
    confine.drop_capabilities(report, keep)
    rules: list[tuple[int, int]] = []
    for point in attach_points:
        access = _WRITE_ACCESS if point.is_writable else _READ_ACCESS
        rules.append((point.fd, access if point.is_dir else access & _FILE_ACCESS))
    if cache_fd >= 0:
        rules.append((cache_fd, _READ_ACCESS))
    confine.deny_paths(report, rules, may_signal=False)
    confine.set_undumpable(report)
