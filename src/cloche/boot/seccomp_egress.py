"""The seccomp allow-list of egress, as data.

It reads what programs and servers say, and makes no socket: those that are connected come from the connector
(`boot.seccomp_connector`).  Not on the list, on purpose: socket, connect, bind and listen, open and all that takes a
path, execve, clone, ptrace, kill.
"""

from typing import Final

from cloche.abi.errno import EACCES, ENOSYS
from cloche.abi.fcntl import F_DUPFD_CLOEXEC, F_GETFL, F_SETPIPE_SZ
from cloche.abi.ioctl import FIONBIO
from cloche.arch.syscalls import (
    SYS_close,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_fcntl,
    SYS_ftruncate,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_ioctl,
    SYS_lseek,
    SYS_lstat,
    SYS_pipe2,
    SYS_poll,
    SYS_pread64,
    SYS_pwrite64,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_socketpair,
    SYS_splice,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_is, is_null

_ALLOWED: Final[list[Allow]] = [
    Allow(SYS_epoll_wait, "the event loop"),
    Allow(SYS_epoll_ctl, "the event loop"),
    Allow(SYS_socketpair, "connections that are read before they are given away", [int_is(0, 1)]),
    Allow(SYS_sendto, "data; sockets are connected"),
    Allow(SYS_recvfrom, "data"),
    Allow(SYS_sendmsg, "giving a connection to the sentry"),
    Allow(SYS_recvmsg, "questions of the sentry and the monitor, sockets of the connector"),
    Allow(SYS_shutdown, "the end of what is sent, and of what a rule allows no more"),
    Allow(SYS_close, "descriptors"),
    Allow(SYS_fcntl, "a descriptor that stays when the sentry has its own", [int_is(1, F_DUPFD_CLOEXEC)]),
    Allow(SYS_fcntl, "the interpreter's socket objects", [int_is(1, F_GETFL)]),
    Allow(SYS_ioctl, "non-blocking mode", [int_is(1, FIONBIO)]),
    Allow(SYS_setsockopt, "TCP_NODELAY", [int_is(1, 6), int_is(2, 1)]),
    Allow(SYS_pipe2, "bodies of HTTP, on their way from one socket to the other"),
    Allow(SYS_fcntl, "the room of such a pipe", [int_is(1, F_SETPIPE_SZ)]),
    Allow(
        SYS_splice,
        "bodies of HTTP, without copies; sockets and pipes have no offsets",
        [is_null(1), is_null(3)],
    ),
    Allow(SYS_getsockname, "the interpreter's socket objects"),
    Allow(SYS_getpeername, "the interpreter's socket objects"),
    Allow(SYS_getsockopt, "whether a connection stands", [int_is(1, 1)]),
    Allow(SYS_write, "the log, messages on standard error"),
    Allow(SYS_pread64, "the log, when it is full"),
    Allow(SYS_pwrite64, "the log, when it is full"),
    Allow(SYS_ftruncate, "the log, when it is full"),
    Allow(SYS_lseek, "the log"),
    Allow(SYS_poll, "the monitor's socket at the end"),
    *interpreter.ALLOWED,
]

_REFUSED: Final[list[Refuse]] = [
    *interpreter.REFUSED,
    Refuse(SYS_readlinkat, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_lstat, EACCES, "a traceback looks for source files"),
    Refuse(SYS_epoll_pwait, ENOSYS, "some C libraries try it before epoll_wait"),
]


def egress_policy() -> Policy:
    """The allow-list of egress."""
    return Policy("egress", _ALLOWED, _REFUSED)
