"""The ports of a transport protocol: their holders, conflicts, and ephemeral ports (inet_csk_get_port,
udp_lib_get_port).

A `Hold` is a socket's claim to a port; that of a connection in TIME_WAIT outlives its socket.
"""

import os
import time
from collections import deque
from typing import Final

from cloche.abi.errno import EADDRINUSE, EADDRNOTAVAIL, LinuxError
from cloche.net.inet_addr import ANY4, ANY6

TIME_WAIT_NS: Final = 60_000_000_000
MAX_TIME_WAIT: Final = 16384
_LOOPBACK4_IPV6: Final = b"\x7f\0\0\6"  # the IPv4 address of an IPv6 socket that is bound to an address


def _draw(count: int) -> int:
    """A number below `count`."""
    return int.from_bytes(os.urandom(4), "little") % count


class Hold:
    """A claim to a port on a local address (any: all of them)."""

    def __init__(self, addr: bytes, port: int, *, is_v6: bool) -> None:
        self.addr: bytes = addr
        self.port: int = port
        self.is_v6: bool = is_v6
        self.is_v6_only: bool = False
        self.does_reuse: bool = False
        self.does_reuse_port: bool = False
        self.uid: int = 0
        self.is_listening: bool = False
        self.is_automatic: bool = False  # chosen by connect: shared with other connections
        self.ends_ns: int = 0  # of TIME_WAIT; 0: held by a socket
        self.bound_ifindex: int = 0

    def copy(self) -> "Hold":
        """A copy with the present address and owner."""
        found = Hold(self.addr, self.port, is_v6=self.is_v6)
        found.is_v6_only, found.uid = self.is_v6_only, self.uid
        return found

    def is_specific(self) -> bool:
        """Whether it is for one address (inet_use_bhash2_on_bind)."""
        return self.addr != ANY4 and self.addr != ANY6


def _rcv4(hold: Hold) -> bytes:
    """sk_rcv_saddr: IPv6 sockets have one, too."""
    if len(hold.addr) == 4:
        return hold.addr
    return ANY4 if hold.addr == ANY6 else _LOOPBACK4_IPV6


def overlap(new: Hold, other: Hold, *, is_wild_for_other: bool = True) -> bool:
    """Whether a packet could match the addresses of both (inet_rcv_saddr_equal; not symmetric, as there).

    `is_wild_for_other`: an `other` that is bound to all addresses overlaps, too.
    """
    if not new.is_v6:
        if other.is_v6_only:
            return False
        mine, theirs = new.addr, _rcv4(other)
        return mine == theirs or mine == ANY4 or (is_wild_for_other and theirs == ANY4)
    is_mapped, is_other_mapped = len(new.addr) == 4, len(other.addr) == 4
    if is_mapped and is_other_mapped:
        if other.is_v6_only:
            return False
        return new.addr == other.addr or new.addr == ANY4 or (is_wild_for_other and other.addr == ANY4)
    if new.addr == other.addr:
        return True
    if other.addr == ANY6 and is_wild_for_other and not (other.is_v6_only and is_mapped):
        return True
    return new.addr == ANY6 and not (new.is_v6_only and is_other_mapped)


class FastCheck:
    """A summary of a port's claims, which allows further ones without a comparison with each (inet_bind_bucket).

    With SO_REUSEPORT a claim that fits the last one is not compared with the others, as on Linux.
    """

    def __init__(self) -> None:
        self.reuse_port: int = 0  # 0 no, 1 all claims, 2 the last one
        self.last: Hold | None = None

    def is_reuse_port_match(self, new: Hold) -> bool:
        """sk_reuseport_match."""
        last = self.last
        if self.reuse_port <= 0 or last is None or not new.does_reuse_port or last.uid != new.uid:
            return False
        if self.reuse_port == 1:
            return True
        # Linux compares the remembered address with the new one, the latter's wildcard left out.
        return overlap(last, new, is_wild_for_other=False)

    def update(self, new: Hold, *, is_first: bool) -> None:
        """`new` has its port (inet_csk_update_fastreuse)."""
        if is_first:
            self.reuse_port = int(new.does_reuse_port)
            self.last = new.copy()
            return
        if not new.does_reuse_port:
            self.reuse_port = 0
        elif not self.is_reuse_port_match(new):
            self.reuse_port = 2
            self.last = new.copy()


def _may_meet(new: Hold, other: Hold) -> bool:
    """Whether they are not bound to different devices."""
    return not new.bound_ifindex or not other.bound_ifindex or new.bound_ifindex == other.bound_ifindex


class PortTable:
    """All ports of one protocol in one network namespace."""

    def __init__(self, *, is_tcp: bool) -> None:
        self.is_tcp: bool = is_tcp
        self.low: int = 32768  # net.ipv4.ip_local_port_range
        self.high: int = 60999
        self.holds: dict[int, dict[Hold, None]] = {}  # newest last
        self.fast: dict[int, FastCheck] = {}  # of TCP's ports that were bound
        self.waiting: deque[Hold] = deque()  # in TIME_WAIT, oldest first

    def conflicts(self, new: Hold) -> bool:
        """Whether `new` may not have its port now."""
        others = self.holds.get(new.port)
        if not others:
            return False
        self.expire()
        if not self.is_tcp:
            return self._conflicts_udp(new, others)
        fast = self.fast.get(new.port)
        if fast is not None and fast.is_reuse_port_match(new):
            return False
        for other in others:
            if other is new or not _may_meet(new, other):
                continue
            if new.does_reuse and other.does_reuse and not other.is_listening:
                continue
            if new.does_reuse_port and other.does_reuse_port and (new.uid == other.uid or other.ends_ns):
                continue
            if self._is_same_tcp(new, other):
                return True
        return False

    def _is_same_tcp(self, new: Hold, other: Hold) -> bool:
        """Whether their addresses conflict: a specific one is looked up (inet_bhash2_conflict)."""
        if not new.is_specific():
            return overlap(new, other)
        is_mapped = len(new.addr) == 4
        if other.is_v6_only and is_mapped:
            return False
        if other.addr == new.addr:
            return True
        return other.addr == ANY6 or (other.addr == ANY4 and is_mapped)

    def _conflicts_udp(self, new: Hold, others: dict[Hold, None]) -> bool:
        """udp_lib_lport_inuse: every claim that overlaps must agree (until Linux 6.18 the first one decided)."""
        for other in others:
            if other is new or not _may_meet(new, other) or (new.does_reuse and other.does_reuse):
                continue
            if overlap(new, other) and not (
                new.does_reuse_port and other.does_reuse_port and new.uid == other.uid
            ):
                return True
        return False

    def _is_taken(self, new: Hold) -> bool:
        """Whether an automatic port would be shared with another claim (inet_csk_find_open_port)."""
        others = self.holds.get(new.port)
        if not others:
            return False
        if not self.is_tcp:
            return self._conflicts_udp(new, others)
        for other in others:
            if _may_meet(new, other) and self._is_same_tcp(new, other):
                return True
        return False

    def take(self, hold: Hold) -> None:
        """Claim the port of `hold`, or a free one if it is 0.  Raises LinuxError(EADDRINUSE)."""
        if hold.port == 0:
            hold.port = self.free_port(hold)
        elif self.conflicts(hold):
            raise LinuxError(EADDRINUSE)
        is_first = hold.port not in self.holds
        self.insert(hold)
        self.remember(hold, is_first=is_first)

    def remember(self, hold: Hold, *, is_first: bool = False) -> None:
        """Note that `hold` has got its port by bind, or listens there now."""
        fast = self.fast.get(hold.port)
        if fast is None:
            fast = FastCheck()
            self.fast[hold.port] = fast
        fast.update(hold, is_first=is_first)

    def insert(self, hold: Hold) -> None:
        """Add a claim without asking (accepted connections, automatic ports)."""
        at = self.holds.get(hold.port)
        if at is None:
            at = {}
            self.holds[hold.port] = at
        at[hold] = None

    def free_port(self, hold: Hold) -> int:
        """An ephemeral port that no claim holds for the same addresses."""
        count = self.high - self.low + 1
        start = _draw(count)
        self.expire()
        for step in range(count):
            port = self.low + (start + step) % count
            if port not in self.holds:
                return port
        for step in range(count):
            hold.port = self.low + (start + step) % count
            if not self._is_taken(hold):
                return hold.port
        hold.port = 0
        raise LinuxError(EADDRINUSE)

    def shared_port(self, is_free: "TupleTest") -> int:
        """A port for connect: free, or held only by connections to elsewhere.  Raises LinuxError(EADDRNOTAVAIL)."""
        count = self.high - self.low + 1
        start = _draw(count)
        self.expire()
        for step in range(count):
            port = self.low + (start + step) % count
            others = self.holds.get(port)
            if others is None:
                return port
            is_shared = True
            for other in others:
                if not other.is_automatic:
                    is_shared = False
                    break
            if is_shared and is_free.is_free(port):
                return port
        raise LinuxError(EADDRNOTAVAIL)

    def drop(self, hold: Hold) -> None:
        """Give the port back."""
        at = self.holds.get(hold.port)
        if at is not None:
            at.pop(hold, None)
            if not at:
                del self.holds[hold.port]
                self.fast.pop(hold.port, None)

    def wait(self, hold: Hold, limit_ns: int = TIME_WAIT_NS) -> None:
        """Keep the claim of a connection in TIME_WAIT, or one that waits for the peer's FIN: for at most a minute."""
        hold.ends_ns = time.monotonic_ns() + min(limit_ns, TIME_WAIT_NS)
        hold.is_listening = False
        waiting = self.waiting
        at = len(waiting)
        while at and waiting[at - 1].ends_ns > hold.ends_ns:
            at -= 1
        waiting.insert(at, hold)
        if len(self.waiting) > MAX_TIME_WAIT:
            self.drop(self.waiting.popleft())

    def expire(self) -> None:
        """Drop the claims that have been in TIME_WAIT long enough."""
        waiting = self.waiting
        if waiting:
            now = time.monotonic_ns()
            while waiting and waiting[0].ends_ns <= now:
                self.drop(waiting.popleft())


class TupleTest:
    """Whether a connection from a port would be the only one of its kind."""

    def is_free(self, port: int) -> bool:
        raise NotImplementedError
