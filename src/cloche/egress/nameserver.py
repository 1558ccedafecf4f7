"""The resolver for programs: answers questions about granted names only.

A question about any other name never leaves. Answers about granted names are the same until the rules change
(`forget`), and are kept as bytes.
"""

import asyncio
import socket
from typing import Final

import dns.rcode

from cloche.egress import dnswire
from cloche.egress.audit import BLOCKED, Audit
from cloche.egress.hosts import address_text
from cloche.egress.names import PREFIX6, SyntheticNames
from cloche.egress.policy import Policy, Rule
from cloche.egress.resolver import Resolver, receive_exactly
from cloche.wire.egress import TCP

__all__ = ["NameServer"]

_DNS_IDLE_S: Final = 120.0
_SYNTHETIC_TTL: Final = 60
_REAL_TTL: Final = 30
_MAX_REPLIES: Final = 1024


class NameServer:
    """The resolver of a sandbox."""

    def __init__(self, policy: Policy, names: SyntheticNames, resolver: Resolver, audit: Audit) -> None:
        self.policy: Policy = policy
        self.names: SyntheticNames = names
        self.resolver: Resolver = resolver
        self.audit: Audit = audit
        # answers by question, both without their ids, for granted names
        self.replies: dict[bytes, bytes] = {}

    def forget(self) -> None:
        """The rules have changed."""
        self.replies.clear()

    async def serve_stream(self, inside: socket.socket) -> None:
        """DNS over TCP.  Raises OSError."""
        loop = asyncio.get_running_loop()
        while True:
            async with asyncio.timeout(_DNS_IDLE_S):
                length = int.from_bytes(await receive_exactly(inside, 2), "big")
                data = await receive_exactly(inside, length)
            reply = await self.answer(data, is_over_tcp=True)
            if reply is None:
                return
            await loop.sock_sendall(inside, len(reply).to_bytes(2, "big") + reply)

    def known_answer(self, data: bytes) -> bytes | None:
        """The answer to a datagram that was given before; None: `answer` has to find one."""
        known = self.replies.get(data[2:])
        return data[:2] + known if known is not None else None

    async def answer(self, data: bytes, *, is_over_tcp: bool) -> bytes | None:
        """The answer to a question from inside; None if it gets none."""
        try:
            question = dnswire.parse_question(data)
        except dnswire.BadMessage as bad:
            return dnswire.failure(data, bad.rcode) if bad.rcode >= 0 else None
        name, kind = question.name, question.kind_text()
        if name == "localhost" or name.endswith(".localhost"):
            local = {"A": "127.0.0.1", "AAAA": "::1"}.get(kind)
            records = [(kind, local)] if local else None
            return dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
        if name.endswith(".in-addr.arpa"):
            return self._answer_reverse(question, is_over_tcp=is_over_tcp)
        rules = self.policy.rules_of_name(name) if name else []
        if not rules:
            if name and self.policy.is_ancestor(name):
                return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp)
            shown = name or question.qname.to_text(omit_final_dot=True)[:253]
            self.audit.record(
                "name", BLOCKED, name=shown, message=f"no rule is about {shown}; --allow {shown} would be"
            )
            return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.NXDOMAIN)
        real = [rule for rule in rules if rule.is_real]
        if real and kind in ("A", "AAAA"):
            return await self._answer_real(question, real, is_over_tcp=is_over_tcp)
        if kind == "A" or (kind == "AAAA" and self.policy.has_aaaa):
            is_exact = any(not rule.is_wildcard for rule in rules)
            addr = self.names.address_of(name, is_exact=is_exact)
            if addr is None:
                self.audit.record("name", BLOCKED, name=name, message="too many names for this sandbox")
                return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.SERVFAIL)
            records = [(kind, address_text(addr if kind == "A" else PREFIX6 + addr))]
            reply = dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
            return self._remembered(data, reply, is_over_tcp=is_over_tcp)
        if any(kind in rule.dns for rule in rules):
            if not self._may_ask(name, rules):
                return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.SERVFAIL)
            found = await self.resolver.look_up(name, kind)
            rcode = dns.rcode.NOERROR
            if found.error:
                rcode = dns.rcode.NXDOMAIN if found.is_missing else dns.rcode.SERVFAIL
            return dnswire.answer(
                question, [(kind, text) for text in found.values], 30, is_over_tcp=is_over_tcp, rcode=rcode
            )
        reply = dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp)
        return self._remembered(data, reply, is_over_tcp=is_over_tcp)

    def _may_ask(self, name: str, rules: list[Rule]) -> bool:
        """Whether a question about a name may leave. Names that only a rule with a star allows are limited as in
        `names`.
        """
        is_exact = any(not rule.is_wildcard for rule in rules)
        return self.names.address_of(name, is_exact=is_exact) is not None

    async def _answer_real(
        self, question: dnswire.Question, rules: list[Rule], *, is_over_tcp: bool
    ) -> bytes:
        """Answer with the real addresses of a name, without those that it may not lead to."""
        name, kind = question.name, question.kind_text()
        records: list[tuple[str, str]] = []
        if not self._may_ask(name, rules):
            return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.SERVFAIL)
        if kind == "A" or self.policy.has_v6():
            found = await self.resolver.look_up(name, kind)
            for text in found.values:
                addr = socket.inet_pton(socket.AF_INET if kind == "A" else socket.AF_INET6, text)
                is_fit = any(not self.policy.objection(rule, addr, TCP, 0) for rule in rules)
                if is_fit and self.names.tell_real(name, addr):
                    records.append((kind, text))
        return dnswire.answer(question, records or None, _REAL_TTL, is_over_tcp=is_over_tcp)

    def _remembered(self, data: bytes, reply: bytes, *, is_over_tcp: bool) -> bytes:
        """Keep an answer about a granted name, which is the same until the rules change; programs ask often."""
        if not is_over_tcp:
            if len(self.replies) >= _MAX_REPLIES:
                self.replies.clear()
            self.replies[data[2:]] = reply[2:]
        return reply

    def _answer_reverse(self, question: dnswire.Question, *, is_over_tcp: bool) -> bytes:
        labels = question.name.removesuffix(".in-addr.arpa").split(".")
        if len(labels) == 4 and all(label.isdecimal() and int(label) < 256 for label in labels):
            name = self.names.name_of(bytes([int(label) for label in reversed(labels)]))
            if name is not None:
                records = [("PTR", name + ".")] if question.kind_text() == "PTR" else None
                return dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
        return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.NXDOMAIN)
