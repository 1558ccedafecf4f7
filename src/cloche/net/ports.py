"""The ports of a transport protocol: who holds which, conflicts, and ephemeral ports (inet_csk_get_port,
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


def overlap(a: Hold, b: Hold) -> bool:
    """Whether a packet could match the addresses of both (inet_rcv_saddr_equal, wildcards match)."""
    if len(a.addr) == len(b.addr):
        if a.addr == b.addr:
            return True
        return a.addr == ANY4 or a.addr == ANY6 or b.addr == ANY4 or b.addr == ANY6
    six, four = (a, b) if len(a.addr) == 16 else (b, a)
    return six.addr == ANY6 and not six.is_v6_only and not (four.is_v6 and four.is_v6_only)


class PortTable:
    """All ports of one protocol in one network namespace."""

    def __init__(self, *, is_tcp: bool) -> None:
        self.is_tcp: bool = is_tcp
        self.low: int = 32768  # net.ipv4.ip_local_port_range
        self.high: int = 60999
        self.holds: dict[int, dict[Hold, None]] = {}
        self.waiting: deque[Hold] = deque()  # in TIME_WAIT, oldest first

    def conflicts(self, new: Hold) -> bool:
        """Whether `new` may not have its port now."""
        others = self.holds.get(new.port)
        if not others:
            return False
        self.expire()
        for other in others:
            if other is new or not overlap(new, other):
                continue
            if new.bound_ifindex and other.bound_ifindex and new.bound_ifindex != other.bound_ifindex:
                continue
            if new.does_reuse and other.does_reuse and not (self.is_tcp and other.is_listening):
                continue
            if new.does_reuse_port and other.does_reuse_port and (new.uid == other.uid or other.ends_ns):
                continue
            return True
        return False

    def take(self, hold: Hold) -> None:
        """Claim the port of `hold`, or a free one if it is 0.  Raises LinuxError(EADDRINUSE)."""
        if hold.port == 0:
            hold.port = self.free_port(hold)
        elif self.conflicts(hold):
            raise LinuxError(EADDRINUSE)
        self.insert(hold)

    def insert(self, hold: Hold) -> None:
        """Add a claim without asking (accepted connections, automatic ports)."""
        at = self.holds.get(hold.port)
        if at is None:
            at = {}
            self.holds[hold.port] = at
        at[hold] = None

    def free_port(self, hold: Hold) -> int:
        """An ephemeral port that nobody holds."""
        count = self.high - self.low + 1
        start = _draw(count)
        self.expire()
        for step in range(count):
            port = self.low + (start + step) % count
            if port not in self.holds:
                return port
            hold.port = port
            if hold.does_reuse and not self.conflicts(hold):
                return port
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

    def wait(self, hold: Hold, limit_ns: int = TIME_WAIT_NS) -> None:
        """The connection is in TIME_WAIT, or waits for the peer's FIN: its claim lasts for at most a minute."""
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
        """End what has been in TIME_WAIT long enough."""
        waiting = self.waiting
        if waiting:
            now = time.monotonic_ns()
            while waiting and waiting[0].ends_ns <= now:
                self.drop(waiting.popleft())


class TupleTest:
    """Whether a connection from a port would be the only one of its kind."""

    def is_free(self, port: int) -> bool:
        raise NotImplementedError
