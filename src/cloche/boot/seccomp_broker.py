"""The seccomp allow-list of the broker of published ports, as data.

Its listening sockets are bound before the filter is in force.  Not on the list, on purpose: socket, connect, bind,
open and all that takes a path, execve, clone, ptrace, kill, reading or writing of any descriptor (what passes
through a connection is the sentry's alone).
"""

from typing import Final

from cloche.arch.syscalls import (
    SYS_accept4,
    SYS_close,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_poll,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_is

_ALLOWED: Final[list[Allow]] = [
    Allow(SYS_poll, "waiting for connections and for the end of the sandbox"),
    Allow(SYS_accept4, "connections"),
    Allow(SYS_sendmsg, "handing a connection to the sentry"),
    Allow(SYS_recvfrom, "seeing that the sentry is gone"),
    Allow(SYS_close, "connections that were handed over"),
    Allow(SYS_getsockname, "the interpreter's socket objects"),
    Allow(SYS_getpeername, "the interpreter's socket objects"),
    Allow(SYS_getsockopt, "the interpreter's socket objects"),
    Allow(SYS_write, "messages on standard error", [int_is(0, 2)]),
    *interpreter.ALLOWED,
]

_REFUSED: Final[list[Refuse]] = [
    *interpreter.REFUSED,
]


def broker_policy() -> Policy:
    """The allow-list of the broker."""
    return Policy("broker", _ALLOWED, _REFUSED)
