"""Starts egress: fork, read what is needed of the host, confine, serve.

The caller is the keeper, a process with a single thread.  It keeps no access to the host: an empty root and network, no
files but those of the log, no capabilities, a seccomp list (`boot.seccomp_egress`) without socket and connect. The
connector (`cloche.netns.connector`) makes its connections. It executes no program, and ends when the sentry does.
"""

import asyncio
import errno
import gc
import marshal
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

from cloche.abi.sched import CLONE_NEWNET
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_egress import egress_policy
from cloche.egress import dnswire
from cloche.egress.audit import Audit
from cloche.egress.hosts import address_text, is_within
from cloche.egress.policy import Policy, PolicyError
from cloche.egress.resolver import HostNames, Resolver
from cloche.egress.server import Server
from cloche.egress.sockets import Sockets
from cloche.platform import hostsys
from cloche.wire.cbor import CborError, decode

if TYPE_CHECKING:
    from cloche.egress.inspection import Inspector

__all__ = ["EgressProcess", "start_egress"]


class EgressProcess(Part):
    """A running egress."""

    def __init__(self, pid: int, sock: socket.socket, hello: socket.socket) -> None:
        super().__init__("egress", pid, sock, hello)
        self.authority: bytes = b""  # PEM: the certificate that programs are to trust, if TLS is inspected

    def wait_ready(self) -> bytes:
        self.authority = super().wait_ready()
        return self.authority


class Wanted:
    """The inputs of egress at its start."""

    def __init__(self, memory: int) -> None:
        self.memory: int = memory  # a memfd with the rest, which only egress reads
        self.policy: bytes = b""  # CBOR
        self.sandbox: str = ""
        self.wants_report: bool = False
        self.is_confined: bool = True
        self.log_fd: int = -1
        self.second_log_fd: int = -1
        self.control: socket.socket | None = None  # to the monitor
        self.connector: socket.socket | None = None
        # the container's network namespace, with whose networks the synthetic addresses must not clash
        self.namespace: int = -1

    def read(self) -> None:
        """Read what `boot.launch` has written to the memfd."""
        request: dict[str, Any] = marshal.loads(os.pread(self.memory, os.fstat(self.memory).st_size, 0))
        self.policy, self.sandbox = request["policy"], request["sandbox"]
        self.wants_report, self.is_confined = request["report"], request["confined"]
        os.close(self.memory)


def start_egress(wanted: Wanted, pair: tuple[socket.socket, socket.socket]) -> EgressProcess:
    """Fork it.  It is ready after `wait_ready`.  `pair`: the sentry's and its end of the socket between them."""

    def work(channel: socket.socket, speak: socket.socket, parent: int) -> int:
        return _run(channel, speak, wanted, parent)

    return EgressProcess(*start_part(socket.SOCK_SEQPACKET, work, pair))


def _run(channel: socket.socket, speak: socket.socket, wanted: Wanted, parent: int) -> int:
    """The child.  The exit status."""
    control, connector = wanted.control, wanted.connector
    assert connector is not None
    kept = [wanted.memory, channel.fileno(), speak.fileno(), wanted.log_fd, wanted.second_log_fd]
    kept += [connector.fileno(), wanted.namespace]
    settle("cloche-egress", kept if control is None else [*kept, control.fileno()])
    wanted.read()
    try:
        policy = Policy.from_fields(decode(wanted.policy))
        host = HostNames()
        host.read(hosts="/etc/hosts" if wanted.namespace < 0 else os.devnull)
        if wanted.namespace >= 0:
            hostsys.setns(wanted.namespace, CLONE_NEWNET)
            os.close(wanted.namespace)
        _check_clash(policy)
    except (PolicyError, CborError, OSError) as error:
        say(speak, FAILED + str(error).encode())
        return EXIT_START
    dnswire.preload()
    inspector: Inspector | None = None
    if policy.needs_authority():
        from cloche.egress import inspection  # takes longer to import than everything else

        try:
            inspector = inspection.Inspector(wanted.sandbox, policy.authorities)
        except (ssl.SSLError, ValueError):
            say(speak, FAILED + b"--net: the authorities that it names are no certificates")
            return EXIT_START
    loop = asyncio.new_event_loop()
    if wanted.is_confined:
        confine.leave_host(confine.GOFER_NAMESPACES)
    if not confine.die_with(parent):
        return EXIT_START
    audit = Audit(wanted.sandbox, wanted.log_fd, wanted.second_log_fd)
    if wanted.is_confined:
        seccomp.install(egress_policy())
    gc.freeze()
    gc.enable()  # it is off in the keeper, from which this was forked
    say(speak, HELLO + (inspector.authority.pem() if inspector is not None else b""))
    sockets = Sockets(connector)
    resolver = Resolver(host, policy.resolvers, sockets)
    server = Server(channel, control, policy, resolver, sockets, audit, inspector)
    loop.run_until_complete(server.run())
    if wanted.wants_report and sys.stderr is not None:
        sys.stderr.write(audit.report())
        sys.stderr.flush()
    return 0


def _check_clash(policy: Policy) -> None:
    """Addresses that stand for names must not be the host's, or of a network of its own.  Raises PolicyError."""
    base, prefix = policy.synthetic
    try:
        with open("/proc/net/route", encoding="ascii") as file:
            lines = file.read().splitlines()[1:]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        return
    for line in lines:
        words = line.split()
        if len(words) < 8:
            continue
        dest, mask = (bytes.fromhex(words[at])[::-1] for at in (1, 7))
        bits = int.from_bytes(mask, "big").bit_count()
        if bits == 0:
            continue  # the default route
        shorter = min(bits, prefix)
        if is_within(dest, base, shorter):
            raise PolicyError(
                f"{address_text(dest)}/{bits} is a network here ({words[0]}), and {address_text(base)}/{prefix}"
                " stands for names; choose others with `synthetic` in a --net file"
            )
