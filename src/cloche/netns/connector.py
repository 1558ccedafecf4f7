"""The connector: makes egress's sockets, connects them, hands them over, and parses no data.

Of the processes of a sandbox with egress, only this one is in a network that leads outside. Egress (`cloche.egress`),
which reads what programs and servers send, is in an empty network and has to ask here. The filter
(`boot.seccomp_connector`) lets this process read nothing but egress's questions, and write nothing but the answers: to
egress, and, if egress says so, to the sentry first.
"""

import errno
import gc
import os
import socket
import time
from array import array
from typing import Final

from cloche.abi.sched import CLONE_NEWNET
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_connector import connector_policy
from cloche.platform import hostsys
from cloche.wire import connector as wire
from cloche.wire import egress as egress_wire
from cloche.wire.connector import ConnectAnswer, ConnectRequest

__all__ = ["Connector", "ConnectorProcess", "start_connector"]

_NAMESPACES: Final = (confine.MOUNT_NAMESPACE, confine.IPC_NAMESPACE, confine.UTS_NAMESPACE)
_DISCARD_PORT: Final = 9
_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_FOREIGN_S: Final = 1.0  # for which an address counts as another's without another look
_MAX_FOREIGN: Final = 1024

Rights = list[tuple[int, int, "array[int]"]]


class _Own(Exception):
    """The address is one of the network's own."""


class ConnectorProcess(Part):
    """A running connector; `sock` is egress's end."""


def start_connector(namespace: int, sentry: socket.socket, *, is_confined: bool) -> ConnectorProcess:
    """Fork it, into the network namespace that a descriptor refers to (-1: the host's).  Ready after `wait_ready`.

    `sentry`: egress's end of its socket to the sentry, which stays open here.
    """

    def work(channel: socket.socket, speak: socket.socket, parent: int) -> int:
        return _run(channel, sentry, speak, namespace, parent, is_confined=is_confined)

    return ConnectorProcess("the connector", *start_part(socket.SOCK_SEQPACKET, work))


def _run(
    channel: socket.socket,
    sentry: socket.socket,
    speak: socket.socket,
    namespace: int,
    parent: int,
    *,
    is_confined: bool,
) -> int:
    """The child.  The exit status."""
    gc.freeze()
    gc.disable()  # no cycles are made while serving
    settle("cloche-connect", [channel.fileno(), sentry.fileno(), speak.fileno(), namespace])
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
        seccomp.install(connector_policy(channel.fileno(), sentry.fileno()))
    try:
        serving = Connector(channel, sentry)
        while serving.answer_one():
            pass
    except (BrokenPipeError, ConnectionResetError):
        pass
    return 0


class Connector:
    """Makes the connections that egress asks for."""

    def __init__(self, channel: socket.socket, sentry: socket.socket) -> None:
        self.channel: socket.socket = channel
        self.sentry: socket.socket = sentry
        self.foreign: dict[bytes, float] = {}  # addresses that were not the network's own, and when

    def answer_one(self) -> bool:
        """Receive a request and answer it; False at the end. Raises OSError when egress is gone."""
        data = self.channel.recv(wire.ASK_BYTES + 1)
        if not data:
            return False
        try:
            request = ConnectRequest.decode(data)
        except ValueError:
            return True  # a message that no correct egress sends
        sock: socket.socket | None = None
        is_own = False
        try:
            sock, failed = self._connect(request)
        except _Own:
            is_own, failed = True, errno.EACCES
        except OSError as error:
            failed = error.errno or errno.EIO
        gives = sock is not None and failed in (0, errno.EINPROGRESS)
        rights = []
        is_given = False
        try:
            if sock is not None and gives:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [sock.fileno()]))]
                stands = request.sentry != 0 and (not failed or _is_connected(sock))
                is_given = stands and _give(self.sentry, request.sentry, rights)
            _answer(
                self.channel, ConnectAnswer(request.ident, failed, is_own=is_own, is_given=is_given), rights
            )
        finally:
            if sock is not None:
                sock.close()
        return True

    def _connect(self, request: ConnectRequest) -> tuple[socket.socket, int]:
        """A socket, and the errno of connecting it.  Raises _Own, OSError."""
        text = _text(request.addr)
        family = socket.AF_INET if len(request.addr) == 4 else socket.AF_INET6
        is_tcp = request.transport == wire.TCP
        if is_tcp and not request.may_be_own:
            self._check_foreign(family, request.addr, text)
        sock = socket.socket(family, (socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM) | _FLAGS)
        try:
            failed = sock.connect_ex((text, request.port))
            # For datagrams this is the look, as connecting sends nothing; for TCP it is another one: what was no own
            # address before may have become one.
            if not request.may_be_own and sock.getsockname()[0] == text:
                raise _Own
        except BaseException:
            sock.close()
            raise
        return sock, failed

    def _check_foreign(self, family: int, addr: bytes, text: str) -> None:
        """Look before a packet is sent, unless that was done a moment ago.  Raises _Own."""
        now = time.monotonic()
        seen = self.foreign.get(addr)
        if seen is not None and now - seen < _FOREIGN_S:
            return
        if _is_own(family, text):
            raise _Own
        if len(self.foreign) >= _MAX_FOREIGN:
            self.foreign.clear()
        self.foreign[addr] = now


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False  # not yet, or it has failed
    return True


def _give(sentry: socket.socket, ident: int, rights: Rights) -> bool:
    """Answer the sentry's question; False: it takes nothing now, or is gone, and egress sees to it."""
    try:
        sentry.sendmsg([egress_wire.answer(ident, 0)], rights, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def _answer(channel: socket.socket, answer: ConnectAnswer, rights: Rights) -> None:
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
