"""Which families, types and protocols there are (sock_create, inet_create): the errors of socket(2).

Imports every family; the system calls import this.
"""

from cloche.abi.errno import EAFNOSUPPORT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT, ESOCKTNOSUPPORT, LinuxError
from cloche.abi.socket import AF_MAX, AF_UNIX, PF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM
from cloche.kernel.task import Task
from cloche.net.socket import SocketFile
from cloche.net.unix_base import UnixSocket
from cloche.net.unix_dgram import UnixDgram
from cloche.net.unix_stream import UnixStream


def create_socket(task: Task, family: int, kind: int, protocol: int, flags: int) -> SocketFile:
    """A new socket.  Raises LinuxError."""
    if family < 0 or family >= AF_MAX:
        raise LinuxError(EAFNOSUPPORT)
    if kind <= 0 or kind >= 11:
        raise LinuxError(EINVAL)
    if family == AF_UNIX:
        return _unix(task, kind, protocol, flags)
    raise LinuxError(EAFNOSUPPORT)


def _unix(task: Task, kind: int, protocol: int, flags: int) -> UnixSocket:
    if protocol != 0 and protocol != PF_UNIX:
        raise LinuxError(EPROTONOSUPPORT)
    if kind == SOCK_STREAM:
        return UnixStream(task.kernel, task, flags)
    if kind == SOCK_RAW:
        kind = SOCK_DGRAM
    if kind not in (SOCK_DGRAM, SOCK_SEQPACKET):
        raise LinuxError(ESOCKTNOSUPPORT)
    return UnixDgram(task.kernel, task, kind, flags)


def create_pair(
    task: Task, family: int, kind: int, protocol: int, flags: int
) -> tuple[SocketFile, SocketFile]:
    """Two connected sockets.  Raises LinuxError."""
    first = create_socket(task, family, kind, protocol, flags)
    if not isinstance(first, UnixSocket):
        first.get().put()
        raise LinuxError(EOPNOTSUPP)
    second = _unix(task, kind, protocol, flags)
    first.pair_with(second)
    first.set_pair_cred(task)
    second.set_pair_cred(task)
    return first, second
