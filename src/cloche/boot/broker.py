"""The broker of published ports (`cloche run -p`): accepts on the host and hands connections in.

The sentry opens no socket; this small process does, and does nothing else.  Order: fork from the keeper, bind and
listen as the user who started the sandbox, give up everything, tell the keeper which ports there are, serve.  It ends
when the sentry's end of its socket is closed, however that happens.

It never reads or writes a connection. When the sentry is slow the socket between them fills, the broker waits, and
the backlog of the host's listening socket fills: the host's clients wait as they would for a slow server.
"""

import errno
import gc
import select
import socket
from array import array
from typing import Final

from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_broker import broker_policy
from cloche.boot.spec import PublishSpec
from cloche.wire.broker import Arrival, decode_ports, encode_ports

BACKLOG: Final = 1024
_RETRY_MS: Final = 50  # after the host refused a descriptor (EMFILE, ENOBUFS)


class BrokerProcess(Part):
    """A running broker."""


class _Listener:
    """A listening socket of the host and the port in the sandbox that it stands for."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self.sock: socket.socket = sock
        self.port: int = port


def start_broker(specs: list[PublishSpec], *, is_confined: bool) -> BrokerProcess:
    """Fork a broker for these ports. `take_ports` reads the message that it sends when it is ready."""

    def work(channel: socket.socket, speak: socket.socket, parent: int) -> int:
        return _run(channel, speak, specs, parent, is_confined=is_confined)

    return BrokerProcess("the broker", *start_part(socket.SOCK_SEQPACKET, work))


def take_ports(specs: list[PublishSpec], said: bytes) -> None:
    """Fill in each spec's `host_port` from the broker's message."""
    for spec, port in zip(specs, decode_ports(said), strict=True):
        spec.host_port = port


def _run(
    channel: socket.socket, speak: socket.socket, specs: list[PublishSpec], parent: int, *, is_confined: bool
) -> int:
    """The child.  The exit status."""
    gc.freeze()
    gc.disable()  # serving makes no reference cycles
    settle("cloche-broker", [channel.fileno(), speak.fileno()])
    listeners: list[_Listener] = []
    for spec in specs:
        try:
            listeners.append(_listen(spec))
        except OSError as error:
            say(speak, FAILED + f"-p {spec.text}: {_reason(spec, error)}".encode())
            return EXIT_START
    if is_confined:
        confine.leave_host(confine.GOFER_NAMESPACES)
    if not confine.die_with(parent):
        return EXIT_START
    if is_confined:
        seccomp.install(broker_policy())
    ports = encode_ports([listener.sock.getsockname()[1] for listener in listeners])
    say(speak, HELLO + ports)
    try:
        return _serve(channel, listeners)
    finally:
        for listener in listeners:
            listener.sock.close()


def _listen(spec: PublishSpec) -> _Listener:
    family = socket.AF_INET6 if ":" in spec.host_ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((spec.host_ip, spec.host_port))
    sock.listen(BACKLOG)
    return _Listener(sock, spec.port)


def _reason(spec: PublishSpec, error: OSError) -> str:
    where = f"[{spec.host_ip}]" if ":" in spec.host_ip else spec.host_ip
    if error.errno == errno.EADDRINUSE:
        return f"port {spec.host_port} of {where} is in use on the host; take another, or 0 for any"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {spec.host_port} needs privileges on the host; take one above 1023, or 0 for any"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is not an address of the host"
    return f"{where}: {error.strerror}"


def _serve(channel: socket.socket, listeners: list[_Listener]) -> int:
    """Serve until the sentry is gone. Returns the exit status."""
    by_fd = {listener.sock.fileno(): listener for listener in listeners}
    gone = channel.fileno()
    poller = select.poll()
    poller.register(gone, select.POLLIN)
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    only_end = select.poll()
    only_end.register(gone, select.POLLIN)
    while True:
        for fd, _events in poller.poll():
            if fd == gone:
                return 0  # the sentry sends nothing, so a readable socket means that it has ended
            try:
                is_served = _hand_in(channel, by_fd[fd])
            except (BrokenPipeError, ConnectionResetError):
                return 0
            if not is_served and only_end.poll(_RETRY_MS):
                return 0


def _hand_in(channel: socket.socket, listener: _Listener) -> bool:
    """Accept one connection and give it to the sentry; False if the host has no room for it now."""
    try:
        connection, address = listener.sock.accept()
    except (BlockingIOError, ConnectionError):
        return True  # the client has closed the connection already
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
    family = listener.sock.family
    peer = socket.inet_pton(family, address[0].partition("%")[0])
    arrival = Arrival(listener.port, peer, address[1])
    rights = array("i", [connection.fileno()])
    try:
        channel.sendmsg([arrival.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        return False  # too many descriptors of this user are in flight: this connection is closed
    finally:
        connection.close()
    return True
