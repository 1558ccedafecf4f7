"""Routes that were added to a network (fib_trie.c, ip6_fib.c): which addresses they make local or refuse.

Every route leads to lo or nowhere.  The routes that come with lo's own addresses are not here: `Interface` knows those.
"""

from typing import Final

from cloche.abi.errno import EACCES, EHOSTUNREACH, EINVAL
from cloche.abi.rtnetlink import (
    RT_SCOPE_HOST,
    RTN_BLACKHOLE,
    RTN_LOCAL,
    RTN_PROHIBIT,
    RTN_THROW,
    RTN_UNREACHABLE,
)

TABLE_DEFAULT: Final = 253
TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255
MAX_ROUTES: Final = 4096
# in the order of the rules, which cannot be changed
_SEARCHED: Final = (TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT)
_ERRORS: Final[dict[int, int]] = {
    RTN_BLACKHOLE: EINVAL,
    RTN_UNREACHABLE: EHOSTUNREACH,
    RTN_PROHIBIT: EACCES,
}


def network_bits(addr: bytes, prefix: int) -> int:
    """The first `prefix` bits of an address."""
    return int.from_bytes(addr, "big") >> len(addr) * 8 - prefix


class Route:
    """A route; `kind` is RTN_*, empty bytes stand for what was not given."""

    def __init__(self, dest: bytes, prefix: int, table: int, kind: int) -> None:
        self.dest: bytes = dest
        self.prefix: int = prefix
        self.table: int = table
        self.kind: int = kind
        self.tos: int = 0
        self.scope: int = 0
        self.protocol: int = 0
        self.metric: int = 0
        self.gateway: bytes = b""
        self.source: bytes = b""
        self.metrics: bytes = b""  # RTA_METRICS, stored without effect

    def covers(self, addr: bytes) -> bool:
        """Whether an address is in its network."""
        return len(addr) == len(self.dest) and network_bits(addr, self.prefix) == network_bits(
            self.dest, self.prefix
        )

    def has_device(self) -> bool:
        """Whether it leads to lo."""
        return self.kind not in (RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW)

    def is_at(self, other: "Route") -> bool:
        """Whether both have the same place in a table."""
        return (
            self.dest == other.dest
            and self.prefix == other.prefix
            and self.table == other.table
            and self.tos == other.tos
            and self.metric == other.metric
        )

    def equals(self, other: "Route") -> bool:
        """Whether their contents are equal, too."""
        return (
            self.is_at(other)
            and self.kind == other.kind
            and self.scope == other.scope
            and self.gateway == other.gateway
            and self.source == other.source
        )

    def errno(self) -> int:
        """The error of a send along it, 0 if it leads to lo."""
        return _ERRORS.get(self.kind, 0)


class RouteTable:
    """The added routes of a network, in the order in which they are looked at."""

    def __init__(self) -> None:
        self.rows: list[Route] = []

    def lookup(self, dest: bytes) -> Route | None:
        """The most specific route, by table: a `throw` route passes on to the next table."""
        for table in _SEARCHED:
            best: Route | None = None
            for row in self.rows:
                if row.table != table or not row.covers(dest):
                    continue
                if best is None or (-row.prefix, row.metric) < (-best.prefix, best.metric):
                    best = row
            if best is not None and best.kind != RTN_THROW:
                return best
        return None

    def is_local(self, addr: bytes) -> bool:
        """Whether a route makes an address local."""
        found = self.lookup(addr)
        return found is not None and found.kind == RTN_LOCAL

    def lowered(self) -> None:
        """Remove the routes that need lo, which went down; those to the host itself stay."""
        self.rows = [
            row
            for row in self.rows
            if len(row.dest) == 4 and (not row.has_device() or row.scope == RT_SCOPE_HOST)
        ]
