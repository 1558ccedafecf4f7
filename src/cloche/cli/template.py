"""The template: a process of a user's that has imported all of cloche, from which sandboxes are forked.

A sandbox that is executed spends most of its start in two interpreters that import the kernel, and its memory on their
copies of the same objects. A fork has both done. For each connection the template forks a monitor (`cli.hosted`),
which forks the keeper and the rest. The template itself reads nothing that a caller sends. So it never holds a
specification, a descriptor, an environment or a name of a sandbox, and neither do its forks when they begin.

One fork is made ahead, the *spare*: its keeper and its sentry, which has entered its namespaces by then, wait for a
connection that is handed to it.

The template begins with an empty environment, no standard streams and a session of its own. Its starter makes the
socket beforehand (`runtime.template`), so that clients can connect at once. It serves its own user only. Its forks
share its memory layout, canaries and hash seed, as the parts of one sandbox do anyway; and, when they are idle again,
pages that have its contents (`platform.shared_pages`), which nobody can change. Therefore it executes itself again
after MAX_FORKS, and when a file of cloche has changed. It keeps the socket, so clients that connect meanwhile
only wait a little. After IDLE_S without a connection it removes the socket and ends.
"""

import gc
import json
import os

# The modules that the processes of a sandbox use at their start; otherwise each process would have to import them.
import pwd  # noqa: F401
import select
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

import cloche.boot.control_server
import cloche.boot.keeper
import cloche.boot.sentry
import cloche.boot.view
import cloche.cli.run
import cloche.gofer.launch
import cloche.runtime.cgroups  # noqa: F401
from cloche.boot import confine
from cloche.boot.attaching import attach_points
from cloche.boot.keeper import fork_keeper
from cloche.boot.spawn import TEMPLATE_FD
from cloche.boot.spec import dump, load
from cloche.cli import hosted
from cloche.cli.gaps import make_ready
from cloche.platform.choose import import_platforms
from cloche.platform.shared_pages import share_pages
from cloche.runtime.records import State
from cloche.runtime.template import READY, Place
from cloche.wire import timing

MAX_FORKS: Final = 256
IDLE_S: Final = 120.0
# between a sandbox's start and the next spare's, so that they do not compete for the processors
_PAUSE_S: Final = 0.05
_REHEARSALS: Final = 8  # after so many calls CPython specializes code
_PENDING_FD: Final = 4  # a connection that was accepted before the process executed itself again
_PEER: Final = struct.Struct("3i")  # struct ucred
_gaps: Final[list[object]] = []  # what fills those of its memory (`cli.gaps`)


class Template:
    """The template's state; `listener` is the socket that its starter has made, at `place`."""

    def __init__(self, listener: socket.socket, place: Place) -> None:
        self.listener: socket.socket = listener
        self.place: Place = place
        self.forks: int = 0
        self.spare: socket.socket | None = None  # to the fork that was made ahead
        self.paths: list[str] = _files_of_cloche()
        self.states: list[tuple[int, int, int]] = _states(self.paths)

    def serve(self, pending: socket.socket | None) -> NoReturn:
        """Serve until there was no connection for IDLE_S."""
        if pending is not None:
            self._take(pending)
        poller = select.poll()
        poller.register(self.listener, select.POLLIN)
        while True:
            if poller.poll(_PAUSE_S * 1000):
                self._accept_all()
                continue
            if self.spare is None:
                self._fork_ahead()
            if not poller.poll(IDLE_S * 1000):
                self.place.remove()  # connections from before are still served
                self._accept_all()
                os._exit(0)

    def _accept_all(self) -> None:
        while True:
            try:
                connection, _address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:
                continue  # the client has closed it before it was accepted
            _pid, uid, _gid = _PEER.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )
            if uid == os.geteuid():
                self._take(connection)
            connection.close()

    def _take(self, connection: socket.socket) -> None:
        """Hand a connection of this user to the spare, or to a new fork."""
        if self.forks >= MAX_FORKS or _states(self.paths) != self.states:
            self._execute_anew(connection)
        if self.spare is not None:
            spare, self.spare = self.spare, None
            try:
                socket.send_fds(spare, [b"c"], [connection.fileno()])
                return
            except OSError:
                pass  # the spare has died
            finally:
                spare.close()
        self._fork(connection)

    def _fork_ahead(self) -> None:
        """Make the spare."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self._fork(theirs, ours):
            self.spare = ours
        else:
            ours.close()
        theirs.close()

    def _fork(self, sock: socket.socket, ours: socket.socket | None = None) -> bool:
        """Fork a process for the connection `sock`, or for one that `ours` will send to it; False if the fork fails."""
        try:
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            self._become_monitor(sock, ours)
        self.forks += 1
        return True

    def _become_monitor(self, sock: socket.socket, ours: socket.socket | None) -> NoReturn:
        """Run the monitor, in the fork."""
        status = 1
        try:
            self.listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            confine.name_process("cloche-monitor" if ours is None else "cloche-spare")
            confine.detach_from_terminal()
            timing.begin()
            gc.enable()  # objects from before the fork are frozen (`gc.freeze`)
            keeper = fork_keeper()
            if ours is not None:
                ours.close()
                sock = _wait_for_connection(sock)
                confine.name_process("cloche-monitor")
            sock.setblocking(True)
            sock.send(READY)
            status = hosted.host_forked(sock, keeper)
        except BaseException as failure:
            sys.excepthook(type(failure), failure, failure.__traceback__)
        finally:
            os._exit(status)

    def _execute_anew(self, connection: socket.socket) -> NoReturn:
        """Execute the same program again, so that addresses, canaries and hashes differ."""
        if connection.fileno() == _PENDING_FD:
            os.set_inheritable(_PENDING_FD, True)
        else:
            os.dup2(connection.fileno(), _PENDING_FD)
        os.set_inheritable(TEMPLATE_FD, True)
        words = [*sys.orig_argv]
        words[words.index("-c") + 1] = words[words.index("-c") + 1].replace("main()", "main(is_again=True)")
        try:
            os.execv(sys.executable, words)
        finally:
            os._exit(1)


def _rehearse() -> None:
    """Run the code that the forks will run, without effect: the interpreter then specializes it once, and not in each
    fork.
    """
    for _ in range(_REHEARSALS):
        attach_points(load(dump(hosted.make_hosted_spec([]))))
        State.from_json("nobody", json.dumps(State("nobody").to_json()).encode())


def _wait_for_connection(sock: socket.socket) -> socket.socket:
    """Wait for the connection that the template hands to its spare. If the template has ended, this process ends, and
    with it its keeper.
    """
    _message, fds, _flags, _address = socket.recv_fds(sock, 1, 1)
    sock.close()
    if not fds:
        os._exit(0)
    os.set_inheritable(fds[0], False)
    return socket.socket(fileno=fds[0])


def _files_of_cloche() -> list[str]:
    """The files whose times tell whether cloche was changed since it was imported; compiled modules have one library
    together, and names of files that are none.
    """
    paths = [
        getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("cloche")
    ]
    return sorted({path for path in paths if path and os.path.exists(path)})


def _states(paths: list[str]) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for path in paths:
        try:
            st = os.stat(path)
            found.append((st.st_ino, st.st_mtime_ns, st.st_size))
        except OSError:
            found.append((0, 0, 0))
    return found


def main(*, is_again: bool = False) -> NoReturn:
    """Run the template, which has the listening socket as TEMPLATE_FD."""
    status = 1
    try:
        if not is_again and os.fork():
            os._exit(0)
        confine.name_process("cloche-template")
        has_pending = is_again and _is_open(_PENDING_FD)
        confine.close_all_but([0, 1, 2, TEMPLATE_FD, *([_PENDING_FD] if has_pending else [])])
        os.set_inheritable(TEMPLATE_FD, False)
        os.chdir("/")
        pending = None
        if has_pending:
            os.set_inheritable(_PENDING_FD, False)
            pending = socket.socket(fileno=_PENDING_FD)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are not waited for
        listener = socket.socket(fileno=TEMPLATE_FD)
        listener.setblocking(False)
        import_platforms()
        template = Template(listener, Place(sys.argv[1]))
        _rehearse()
        _gaps.extend(make_ready())
        share_pages()
        template.serve(pending)
    finally:
        os._exit(status)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
