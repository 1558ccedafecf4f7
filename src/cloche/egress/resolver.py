"""Egress's own resolver: asks the resolvers of the host (or of the policy) for granted names, over UDP and TCP.

Every query has a socket of its own (`sockets`), connected to the resolver, and an unpredictable id (RFC 5452).
Answers are cached for their TTL; whether an address may be connected to is decided at every connection.
"""

import asyncio
import os
import socket
from typing import Final

from cloche.egress import dnswire
from cloche.egress.hosts import BadHost, address_text, parse_address, parse_name
from cloche.egress.sockets import Sockets
from cloche.wire.connector import TCP, UDP

__all__ = ["HostNames", "Resolver"]

_TRY_S: Final = 2.0
_TRIES: Final = 2
_MIN_TTL: Final = 0
_MAX_TTL: Final = 300
_MAX_CACHE: Final = 4096
_MAX_ADDRESSES: Final = 16
_MAX_RECORDS: Final = 64
_MAX_RESOLVERS: Final = 3


class HostNames:
    """The host's resolv.conf and hosts, read at the start while files can still be opened."""

    def __init__(self) -> None:
        self.resolvers: list[tuple[bytes, int]] = []
        self.names: dict[str, list[bytes]] = {}

    def read(self, resolv_conf: str = "/etc/resolv.conf", hosts: str = "/etc/hosts") -> None:
        """resolv.conf(5), hosts(5)."""
        for line in _lines(resolv_conf):
            words = line.replace(";", "#").partition("#")[0].split()
            if len(words) == 2 and words[0] == "nameserver" and len(self.resolvers) < _MAX_RESOLVERS:
                try:
                    self.resolvers.append((parse_address(words[1]), 53))
                except BadHost:
                    continue
        for line in _lines(hosts):
            words = line.partition("#")[0].split()
            for word in words[1:]:
                try:
                    self.names.setdefault(parse_name(word), []).append(parse_address(words[0]))
                except BadHost:
                    continue


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).splitlines()
    except OSError:
        return []


class Lookup:
    """The result of a look-up: addresses or records, or an error text."""

    def __init__(self, values: list[str], error: str = "", *, is_missing: bool = False) -> None:
        self.values: list[str] = values
        self.error: str = error
        self.is_missing: bool = is_missing  # there is no such name
        self.until: float = 0.0


class Resolver:
    """Looks names up, and caches the results."""

    def __init__(self, host: HostNames, resolvers: list[tuple[bytes, int]], sockets: Sockets) -> None:
        self.host: HostNames = host
        self.sockets: Sockets = sockets
        self.resolvers: list[tuple[bytes, int]] = resolvers or host.resolvers
        self.cache: dict[tuple[str, str], Lookup] = {}

    async def addresses(self, name: str) -> tuple[list[bytes], str]:
        """The addresses of a name, those of IPv4 first; or why there are none."""
        known = self.host.names.get(name)
        if known:
            return sorted(known, key=len), ""
        first = await self.look_up(name, "A")
        found = [_address(text) for text in first.values]
        second: Lookup | None = None
        if not found and not first.is_missing:
            second = await self.look_up(name, "AAAA")
            found = [_address(text) for text in second.values]
        if found:
            return found[:_MAX_ADDRESSES], ""
        error = first.error or (second.error if second is not None else "")
        return [], error or f"{name} has no address"

    def known_addresses(self, name: str) -> list[bytes]:
        """Those that `addresses` would give without asking anybody; empty: it would have to ask."""
        known = self.host.names.get(name)
        if known:
            return sorted(known, key=len)
        cached = self.cache.get((name, "A"))
        if cached is None or cached.until <= asyncio.get_running_loop().time():
            return []
        return [_address(text) for text in cached.values[:_MAX_ADDRESSES]]

    async def look_up(self, name: str, kind: str) -> Lookup:
        """Records of one type."""
        loop = asyncio.get_running_loop()
        known = self.cache.get((name, kind))
        if known is not None and known.until > loop.time():
            return known
        made = await self._ask_all(name, kind)
        if made.until > loop.time():
            if len(self.cache) >= _MAX_CACHE:
                self.cache.clear()
            self.cache[(name, kind)] = made
        return made

    async def _ask_all(self, name: str, kind: str) -> Lookup:
        if not self.resolvers:
            return Lookup([], "the host names no resolver")
        problem = ""
        for _turn in range(_TRIES):
            for addr, port in self.resolvers:
                try:
                    found = await self._ask(addr, port, name, kind)
                except OSError as error:  # TimeoutError among them
                    reason = error.strerror or "no answer"
                    problem = f"the resolver {address_text(addr)}: {reason}"
                    continue
                if found.rcode == 3:
                    return Lookup([], f"there is no host {name}", is_missing=True)
                if found.rcode != 0:
                    problem = f"the resolver {address_text(addr)} answers with code {found.rcode}"
                    continue
                made = Lookup(found.records[:_MAX_RECORDS])
                ttl = max(min(found.ttl, _MAX_TTL), _MIN_TTL)
                made.until = asyncio.get_running_loop().time() + ttl
                return made
        return Lookup([], problem)

    async def _ask(self, addr: bytes, port: int, name: str, kind: str) -> dnswire.Found:
        """Ask one resolver once. Raises OSError, TimeoutError."""
        ident = int.from_bytes(os.urandom(2), "big")
        query = dnswire.build_query(name, kind, ident)
        async with asyncio.timeout(_TRY_S):
            found = await self._over_udp(addr, port, query, name, kind, ident)
        if found.is_cut:
            async with asyncio.timeout(2 * _TRY_S):
                found = await self._over_tcp(addr, port, query, name, kind, ident)
        return found

    async def _over_udp(
        self, addr: bytes, port: int, query: bytes, name: str, kind: str, ident: int
    ) -> dnswire.Found:
        loop = asyncio.get_running_loop()
        with await self.sockets.connect(UDP, addr, port) as sock:
            await loop.sock_sendall(sock, query)
            while True:
                found = dnswire.read_answer(await loop.sock_recv(sock, 65535), name, kind, ident)
                if found is not None:
                    return found

    async def _over_tcp(
        self, addr: bytes, port: int, query: bytes, name: str, kind: str, ident: int
    ) -> dnswire.Found:
        loop = asyncio.get_running_loop()
        with await self.sockets.connect(TCP, addr, port) as sock:
            await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
            length = int.from_bytes(await receive_exactly(sock, 2), "big")
            found = dnswire.read_answer(await receive_exactly(sock, length), name, kind, ident)
            if found is None:
                raise ConnectionError("not the answer")
            return found


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """Read exactly `count` bytes. Raises OSError, also at the end of the stream."""
    loop = asyncio.get_running_loop()
    parts = bytearray()
    while len(parts) < count:
        data = await loop.sock_recv(sock, count - len(parts))
        if not data:
            raise ConnectionError("it has ended")
        parts += data
    return bytes(parts)


def _address(text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text)
