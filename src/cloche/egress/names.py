"""Synthetic addresses: what a granted name resolves to inside, so that the address in connect(2) identifies the name.

An address stands for its name for the sandbox's whole life, even if rules change: a program that keeps one never
reaches another host with it. So the table only grows, up to a limit. Names that only a rule with a star allows have a
limit of their own, because a program can make them up.
"""

from typing import Final

from cloche.egress.hosts import is_within
from cloche.egress.policy import MAX_WILDCARD_NAMES

__all__ = ["SyntheticNames"]

_FIRST: Final = 256  # lower addresses are for cloche itself
_OWN: Final = 1
_RESOLVER: Final = 2
_PROXY: Final = 3
MAX_NAMES: Final = 65536
MAX_REAL: Final = 16384
_EACH: Final = 16  # names of one real address
# Addresses of IPv6 that stand for names: these bytes and the one of IPv4 (a unique local network, RFC 4193).
PREFIX6: Final = bytes.fromhex("fd636c6f6368650053796e74")


class SyntheticNames:
    """Names and their addresses."""

    def __init__(self, base: bytes, prefix: int, max_wildcard_names: int = MAX_WILDCARD_NAMES) -> None:
        self.base: bytes = base
        self.prefix: int = prefix
        self.by_name: dict[str, bytes] = {}
        self.by_address: dict[bytes, str] = {}
        self.wildcards_left: int = max_wildcard_names
        self.real: dict[bytes, list[str]] = {}  # real addresses that programs were told, with their names
        self.limit: int = min(MAX_NAMES, (1 << 32 - prefix) - _FIRST - 1)

    def own(self) -> bytes:
        """The sandbox's own address."""
        return self._at(_OWN)

    def resolver(self) -> bytes:
        """The address of the resolver for programs."""
        return self._at(_RESOLVER)

    def proxy(self) -> bytes:
        """The address of the proxy for programs."""
        return self._at(_PROXY)

    def _at(self, index: int) -> bytes:
        return (int.from_bytes(self.base, "big") + index).to_bytes(4, "big")

    def is_ours(self, addr: bytes) -> bool:
        """Whether an address is one of these, given to a name or not."""
        return is_within(addr, self.base, self.prefix)

    def address_of(self, name: str, *, is_exact: bool) -> bytes | None:
        """The address of a granted name, assigned at the first call; None at a limit.

        `is_exact`: a rule names exactly this name.
        """
        known = self.by_name.get(name)
        if known is not None:
            return known
        if len(self.by_name) >= self.limit:
            return None
        if not is_exact:
            if self.wildcards_left <= 0:
                return None
            self.wildcards_left -= 1
        made = self._at(_FIRST + len(self.by_name))
        self.by_name[name] = made
        self.by_address[made] = name
        return made

    def name_of(self, addr: bytes) -> str | None:
        """The name that an address stands for."""
        if len(addr) == 16 and addr.startswith(PREFIX6):
            addr = addr[len(PREFIX6) :]
        return self.by_address.get(addr)

    def tell_real(self, name: str, addr: bytes) -> bool:
        """Remember that a program is told a name's real address; False if there is no room.

        Several names may share an address; only TLS and HTTP tell which of them is meant.
        """
        names = self.real.get(addr)
        if names is None:
            if len(self.real) >= MAX_REAL:
                return False
            names = self.real[addr] = []
        if name in names:
            names.remove(name)
        elif len(names) >= _EACH:
            return False
        names.insert(0, name)
        return True

    def real_names(self, addr: bytes) -> list[str]:
        """The names that an address was told for, the latest first."""
        return self.real.get(addr, [])
