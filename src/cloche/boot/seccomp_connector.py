"""The seccomp allow-list of the connector, as data.

It makes sockets of TCP and UDP and connects them: that is its work, and no filter can look at the addresses. It reads
one socket only, the one to egress, and writes to that and the sentry's: it sees no datagram and no byte of a
connection. Not on the list, on purpose: bind and listen, other sockets, any socket option, open and all that takes a
path, execve, clone, ptrace, kill.
"""

from typing import Final

from cloche.abi.errno import EACCES
from cloche.abi.fcntl import F_GETFL
from cloche.abi.socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from cloche.arch.syscalls import (
    SYS_close,
    SYS_connect,
    SYS_fcntl,
    SYS_getpeername,
    SYS_getsockname,
    SYS_lstat,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_socket,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_is, is_null

_FLAGS: Final = 0o4000 | 0o2000000  # SOCK_NONBLOCK, SOCK_CLOEXEC

_REFUSED: Final[list[Refuse]] = [
    *interpreter.REFUSED,
    Refuse(SYS_readlinkat, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_lstat, EACCES, "a traceback looks for source files"),
]


def connector_policy(channel: int, sentry: int) -> Policy:
    """The allow-list of a connector with these descriptors to egress and to the sentry."""
    allowed = [
        *[
            Allow(
                SYS_socket,
                "connections and questions of egress",
                [int_is(0, family), int_is(1, kind | _FLAGS), int_is(2, 0)],
            )
            for family in (AF_INET, AF_INET6)
            for kind in (SOCK_STREAM, SOCK_DGRAM)
        ],
        Allow(SYS_connect, "connections"),
        Allow(SYS_getsockname, "whether an address is the network's own; the interpreter's socket objects"),
        Allow(SYS_recvfrom, "questions of egress", [int_is(0, channel), is_null(4)]),
        Allow(SYS_getpeername, "whether a connection stands"),
        Allow(SYS_sendmsg, "answers with sockets", [int_is(0, channel)]),
        Allow(SYS_sendmsg, "connections that stand at once, to the sentry that waits", [int_is(0, sentry)]),
        Allow(SYS_close, "descriptors"),
        Allow(SYS_fcntl, "the interpreter's socket objects", [int_is(1, F_GETFL)]),
        Allow(SYS_write, "messages on standard error", [int_is(0, 2)]),
        *interpreter.ALLOWED,
    ]
    return Policy("connector", allowed, _REFUSED)
