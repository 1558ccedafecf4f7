"""Connections to the outside: the choice of a name's address, and the check that it is allowed.

A name is looked up once for a connection; the address that was checked is the one that is connected to, without a
second look-up.
"""

import asyncio
import errno
import socket
from typing import Final

from cloche.egress.flow import Flow, Refused
from cloche.egress.hosts import address_text
from cloche.egress.policy import Policy, Rule
from cloche.egress.resolver import Resolver
from cloche.egress.sockets import Answered, OwnAddress, Sockets
from cloche.wire import egress as wire

__all__ = ["CONNECT_S", "MAX_DIALS", "Dialer"]

MAX_DIALS: Final = 256  # at a time
_MAX_BEGUN: Final = 128  # of these, by `begin`
CONNECT_S: Final = 10.0
_TRIED: Final = 4  # addresses of a name


class Dialer:
    """Connects, for all connections of a sandbox."""

    def __init__(self, policy: Policy, resolver: Resolver, sockets: Sockets) -> None:
        self.policy: Policy = policy
        self.sockets: Sockets = sockets
        self.resolver: Resolver = resolver
        self.begun: set[Flow] = set()  # that `begin` has asked for, until they stand or have failed
        self.dials: asyncio.Semaphore = asyncio.Semaphore(MAX_DIALS - _MAX_BEGUN)

    def begin(self, flow: Flow, rule: Rule, answered: Answered, *, is_raw: bool) -> bool:
        """Ask for a connection to the first address, if that is known and nothing speaks against it.

        `answered` gets a socket that may still be connecting, or what there is instead; then `dial` tries the
        addresses that are left. `is_raw`: the sentry may have the socket from the connector. The flow stays in
        `begun` until the caller takes it out. False: `dial` has to do all of it. Raises OSError.
        """
        target = flow.target
        if len(self.begun) >= _MAX_BEGUN:
            return False
        if flow.name:
            found = [target.addr] if flow.is_fixed else self.resolver.known_addresses(flow.name)
            if not found or self.policy.objection(rule, found[0], target.transport, target.port):
                return False
            flow.addr, may_be_own = found[0], rule.is_internal
        else:
            flow.addr, may_be_own = target.addr, self._may_be_own(rule, target)
        is_asked = self.sockets.ask(
            target.transport,
            flow.addr,
            target.port,
            answered,
            may_be_own=may_be_own,
            sentry=flow.ident if is_raw else 0,
        )
        if is_asked:
            self.begun.add(flow)
        return is_asked

    async def dial(self, flow: Flow, rule: Rule) -> socket.socket:
        """Connect to an allowed address. Raises Refused, OSError."""
        async with self.dials:
            return await self._dial(flow, rule)

    async def _dial(self, flow: Flow, rule: Rule) -> socket.socket:
        # Raises Refused, OSError.
        target = flow.target
        if not flow.name:
            try:
                sock = await self._connect(target.addr, flow, may_be_own=self._may_be_own(rule, target))
            except OwnAddress:
                why = f"{address_text(target.addr)} is an address of this host"
                raise Refused(errno.EACCES, why) from None
            flow.addr = target.addr
            return sock
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
            if why:
                objection = objection or f"{flow.name} leads to {address_text(addr)}: {why}"
                continue
            if tried == _TRIED:
                break
            tried += 1
            try:
                sock = await self._connect(addr, flow, may_be_own=rule.is_internal)
            except OwnAddress:
                objection = objection or (
                    f"{flow.name} leads to {address_text(addr)}: an address of this host; a rule with"
                    " `internal = true` would allow it"
                )
                continue
            except OSError as error:
                failure = error
                continue
            flow.addr = addr
            return sock
        if failure is not None:
            raise failure
        raise Refused(errno.EACCES, objection)

    def _may_be_own(self, rule: Rule, target: wire.Target) -> bool:
        """Whether the address that a program has named may be one of this host: only a rule for that very address
        allows it.
        """
        whole = len(target.addr) * 8
        if rule.prefix == whole or rule.is_internal:
            return True
        grant = self.policy.grant_of_address(target.addr, target.transport, target.port)
        return grant is not None and grant.prefix == whole

    async def _connect(self, addr: bytes, flow: Flow, *, may_be_own: bool) -> socket.socket:
        """Raises OwnAddress, OSError."""
        earlier = flow.tried.get(addr)
        if earlier is not None:
            raise earlier
        target = flow.target
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self.sockets.connect(target.transport, addr, target.port, may_be_own=may_be_own)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "no answer") from None
