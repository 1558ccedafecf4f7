"""The connector: makes egress's sockets, connects them, hands them over, and parses no data.

Of the processes of a sandbox with egress, only this one is in a network that leads outside. Egress (`cloche.egress`),
which reads what programs and servers send, is in an empty network and has to ask here; the filter
(`boot.seccomp_connector`) lets this process read and write nothing but egress's questions and their answers.
"""

import errno
import gc
import os
import socket
from array import array
from typing import Final

from cloche.abi.sched import CLONE_NEWNET
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_connector import connector_policy
from cloche.platform import hostsys
from cloche.wire import connector as wire
from cloche.wire.connector import ConnectAnswer, ConnectRequest

__all__ = ["ConnectorProcess", "answer_one", "start_connector"]

_NAMESPACES: Final = (confine.MOUNT_NAMESPACE, confine.IPC_NAMESPACE, confine.UTS_NAMESPACE)
_DISCARD_PORT: Final = 9
_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class ConnectorProcess(Part):
    """A running connector; `sock` is egress's end."""


def start_connector(namespace: int, *, is_confined: bool) -> ConnectorProcess:
    """Fork it, into the network namespace that a descriptor refers to (-1: the host's).  Ready after `wait_ready`."""

    def work(channel: socket.socket, speak: socket.socket, parent: int) -> int:
        return _run(channel, speak, namespace, parent, is_confined=is_confined)

    return ConnectorProcess("the connector", *start_part(socket.SOCK_SEQPACKET, work))


def _run(
    channel: socket.socket, speak: socket.socket, namespace: int, parent: int, *, is_confined: bool
) -> int:
    """The child.  The exit status."""
    gc.freeze()
    gc.disable()  # no cycles are made while serving
    settle("cloche-connect", [channel.fileno(), speak.fileno(), namespace])
    if namespace >= 0:
        try:
            hostsys.setns(namespace, CLONE_NEWNET)
        except OSError as error:
            say(speak, FAILED + f"the network: cannot join its namespace: {error.strerror}".encode())
            return EXIT_START
        os.close(namespace)
    if is_confined:
        confine.leave_host(_NAMESPACES, may_connect=True)
    if not confine.die_with(parent):
        return EXIT_START
    say(speak, HELLO)  # before the filter, which allows no other socket than egress's
    if is_confined:
        seccomp.install(connector_policy(channel.fileno()))
    try:
        while answer_one(channel):
            pass
    except (BrokenPipeError, ConnectionResetError):
        pass
    return 0


def answer_one(channel: socket.socket) -> bool:
    """Receive a request and answer it; False at the end. Raises OSError when egress is gone."""
    data = channel.recv(wire.ASK_BYTES + 1)
    if not data:
        return False
    try:
        request = ConnectRequest.decode(data)
    except ValueError:
        return True  # a message that no correct egress sends
    sock: socket.socket | None = None
    is_own = False
    try:
        where = _text(request.addr), request.port
        family = socket.AF_INET if len(request.addr) == 4 else socket.AF_INET6
        if not request.may_be_own and _is_own(family, where[0]):
            is_own, failed = True, errno.EACCES
        else:
            kind = socket.SOCK_STREAM if request.transport == wire.TCP else socket.SOCK_DGRAM
            sock = socket.socket(family, kind | _FLAGS)
            failed = sock.connect_ex(where)
    except OSError as error:
        failed = error.errno or errno.EIO
    gives = sock is not None and failed in (0, errno.EINPROGRESS)
    rights = []
    if sock is not None and gives:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [sock.fileno()]))]
    try:
        _answer(channel, ConnectAnswer(request.ident, failed, is_own=is_own), rights)
    finally:
        if sock is not None:
            sock.close()
    return True


def _answer(
    channel: socket.socket, answer: ConnectAnswer, rights: list[tuple[int, int, "array[int]"]]
) -> None:
    """Raises OSError."""
    try:
        channel.sendmsg([answer.encode()], rights)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        channel.sendmsg([ConnectAnswer(answer.ident, errno.ENOBUFS, is_own=False).encode()])


def _text(addr: bytes) -> str:
    # Always a numeric address, so `socket` looks no name up.
    return socket.inet_ntop(socket.AF_INET if len(addr) == 4 else socket.AF_INET6, addr)


def _is_own(family: int, text: str) -> bool:
    """Whether the address is the network's own: the kernel then chooses the same address for the local end. Sends
    nothing.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM | _FLAGS) as probe:
            probe.connect((text, _DISCARD_PORT))
            own: str = probe.getsockname()[0]
            return own == text
    except OSError:
        return False  # no route
