"""Connections to the outside: which address of a name is taken, and whether it may be.

A name is looked up once for a connection; what was judged is what is connected to, without a second look-up between.
"""

import asyncio
import errno
import socket
from typing import Final

from cloche.egress.flow import Flow, Refused
from cloche.egress.hosts import address_text
from cloche.egress.policy import Policy, Rule
from cloche.egress.resolver import Resolver, make_socket
from cloche.wire import egress as wire

__all__ = ["MAX_DIALS", "Dialer"]

MAX_DIALS: Final = 256  # at a time
_CONNECT_S: Final = 10.0
_TRIED: Final = 4  # addresses of a name


class Dialer:
    """Connects, for all connections of a sandbox."""

    def __init__(self, policy: Policy, resolver: Resolver) -> None:
        self.policy: Policy = policy
        self.resolver: Resolver = resolver
        self.dials: asyncio.Semaphore = asyncio.Semaphore(MAX_DIALS)

    async def dial(self, flow: Flow, rule: Rule) -> socket.socket:
        """A connection to an address that may be used.  Raises Refused, OSError."""
        async with self.dials:
            return await self._dial(flow, rule)

    async def _dial(self, flow: Flow, rule: Rule) -> socket.socket:
        # Raises Refused, OSError.
        target = flow.target
        if not flow.name:
            self._judge_own(rule, target.addr, target)
            flow.addr = target.addr
            return await self._connect(target.addr, target)
        if flow.is_fixed:
            found = [target.addr]
        else:
            found, problem = await self.resolver.addresses(flow.name)
            if not found:
                raise Refused(errno.EHOSTUNREACH, problem)
        objection = ""
        failure: OSError | None = None
        tried = 0
        for addr in found:
            why = self.policy.objection(rule, addr, target.transport, target.port)
            if not why and not rule.is_internal and self._is_own(addr):
                why = "an address of this host; a rule with `internal = true` would allow it"
            if why:
                objection = objection or f"{flow.name} leads to {address_text(addr)}: {why}"
                continue
            if tried == _TRIED:
                break
            tried += 1
            try:
                sock = await self._connect(addr, target)
            except OSError as error:
                failure = error
                continue
            flow.addr = addr
            return sock
        if failure is not None:
            raise failure
        raise Refused(errno.EACCES, objection)

    def _judge_own(self, rule: Rule, addr: bytes, target: wire.Target) -> None:
        """An address of this host is granted only by itself.  Raises Refused."""
        if rule.prefix < len(addr) * 8 and not rule.is_internal and self._is_own(addr):
            grant = self.policy.grant_of_address(addr, target.transport, target.port)
            if grant is None or grant.prefix < len(addr) * 8:
                raise Refused(errno.EACCES, f"{address_text(addr)} is an address of this host")

    @staticmethod
    def _is_own(addr: bytes) -> bool:
        """Whether the host would talk to itself: it then takes the same address for its own end.  Sends nothing."""
        try:
            with make_socket(addr, socket.SOCK_DGRAM) as probe:
                probe.connect((address_text(addr), 9))
                own: str = probe.getsockname()[0]
                return own == address_text(addr)
        except OSError:
            return False  # no way to there at all

    @staticmethod
    async def _connect(addr: bytes, target: wire.Target) -> socket.socket:
        """Raises OSError."""
        kind = socket.SOCK_DGRAM if target.transport == wire.UDP else socket.SOCK_STREAM
        sock = make_socket(addr, kind)
        try:
            if kind == socket.SOCK_DGRAM:
                sock.connect((address_text(addr), target.port))
                return sock
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address_text(addr), target.port))
            return sock
        except TimeoutError:
            sock.close()
            raise OSError(errno.ETIMEDOUT, "no answer") from None
        except BaseException:
            sock.close()
            raise
