"""Descriptors of the host that a program begins with, beside its standard streams: `--preserve-fds`, socket activation.

Most are files on which the host's own calls are made (`fs.hostfd`).  A socket of TCP that listens becomes a socket
inside (`net.joined_tcp`): the sentry accepts, and programs may use every call for sockets.
"""

from cloche.fs.hostfd import HostFd, describe
from cloche.kernel.task import Container
from cloche.net.inet_base import stack_of
from cloche.net.joined import Joined
from cloche.net.joined_tcp import JoinedTcp
from cloche.vfs.objects import FileDescription
from cloche.wire.descriptors import tcp_listener

__all__ = ["describe_passed"]


def describe_passed(container: Container, host: HostFd) -> FileDescription:
    """An open file of a descriptor that was passed on. A listener is a socket inside only where there is a network
    process.
    """
    gateway = stack_of(container).gateway
    if not isinstance(gateway, Joined):
        return describe(host)
    door = tcp_listener(host.fd)
    if door is None:
        return describe(host)
    host.close()  # the host's socket is to be closed with the program's
    made = JoinedTcp(container.kernel, gateway.ctx, int(door.family), 0)
    made.move_to(gateway.stack)
    made.adopt_listener(door)
    return made
