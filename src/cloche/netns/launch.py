"""Starts the network process: fork, join the container's network namespace, confine, serve.

The caller is the keeper, a process with a single thread.  By then the engine's hooks have set the namespace up.  Of the
host only that namespace stays: an empty root, no files, and of all capabilities the three that its work needs
(`CAPABILITIES`), which reach no further than the namespace as the filter knows no way to another.  It ends when the
sentry does.
"""

import gc
import os
import signal
import socket
import sys
from typing import Final

from cloche.abi.capability import CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SETUID
from cloche.abi.sched import CLONE_NEWNET
from cloche.boot import confine, seccomp
from cloche.boot.seccomp_netns import netns_policy
from cloche.netns.links import Links, read_parameters
from cloche.netns.server import Server
from cloche.platform import hostsys
from cloche.wire.netns import FAILED, HELLO

__all__ = ["NetworkError", "NetworkProcess", "start_network"]

EXIT_START: Final = 3
# The ports below 1024 and ping sockets where programs may have them, and sockets under the programs' users.
CAPABILITIES: Final = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_NET_RAW | 1 << CAP_SETUID
_HELLO_BYTES: Final = 4096
_NAMESPACES: Final = (confine.MOUNT_NAMESPACE, confine.IPC_NAMESPACE, confine.UTS_NAMESPACE)


class NetworkError(Exception):
    """It could not start; the text says why."""


class NetworkProcess:
    """A running network process: its pid (a child of the caller), the sentry's end of its socket."""

    def __init__(self, pid: int, sock: socket.socket, hello: socket.socket) -> None:
        self.pid: int = pid
        self.sock: socket.socket = sock
        self.hello: socket.socket = hello

    def wait_ready(self) -> None:
        """Until it serves.  Raises NetworkError, and then the process is reaped and `sock` closed."""
        said = self.hello.recv(_HELLO_BYTES)
        self.hello.close()
        if said == HELLO:
            return
        self.sock.close()
        os.waitpid(self.pid, 0)
        text = said[1:].decode(errors="replace") if said[:1] == FAILED else "it died at its start"
        raise NetworkError(f"the network: {text}")


def start_network(namespace: int, *, is_confined: bool) -> NetworkProcess:
    """Fork it, into the network namespace that a descriptor refers to.  It is ready after `wait_ready`."""
    hear, say = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if sys.stderr is not None:  # None: closed when the interpreter started
        sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = EXIT_START
        try:
            ours.close()
            hear.close()
            status = _run(theirs, say, namespace, parent, is_confined=is_confined)
        except BaseException as failure:
            sys.excepthook(type(failure), failure, failure.__traceback__)
        finally:
            os._exit(status)
    theirs.close()
    say.close()
    return NetworkProcess(pid, ours, hear)


def _run(
    channel: socket.socket, say: socket.socket, namespace: int, parent: int, *, is_confined: bool
) -> int:
    """The child.  The exit status."""
    gc.freeze()
    gc.disable()  # no cycles are made while serving
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    confine.name_process("cloche-network")
    confine.detach_from_terminal()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    confine.close_all_but([0, 1, 2, channel.fileno(), say.fileno(), namespace])
    try:
        hostsys.setns(namespace, CLONE_NEWNET)
        os.close(namespace)
        links = Links(read_parameters())
    except OSError as error:
        _say(say, FAILED + f"cannot join its namespace: {error.strerror}".encode())
        return EXIT_START
    if is_confined:
        _confine()
    if not confine.die_with(parent):
        return EXIT_START
    server = Server(channel, links)
    if is_confined:
        seccomp.install(netns_policy())
    _say(say, HELLO)
    say.close()
    server.run()
    return 0


def _say(say: socket.socket, what: bytes) -> None:
    try:
        say.send(what[:_HELLO_BYTES])
    except (BrokenPipeError, ConnectionResetError):
        pass  # another part could not start, and nobody listens any more


def _confine() -> None:
    report = confine.Report()
    confine.set_limits(report)
    confine.enter_namespaces(report, _NAMESPACES)
    confine.empty_root(report)
    os.setgroups([])
    os.setresgid(confine.NOBODY, confine.NOBODY, confine.NOBODY)
    confine.drop_capabilities(report, CAPABILITIES)
    os.setresuid(confine.NOBODY, confine.NOBODY, confine.NOBODY)  # which no longer changes capabilities
    confine.deny_paths(report, [], may_signal=False, may_connect=True, may_bind=True)
    confine.set_undumpable(report)
