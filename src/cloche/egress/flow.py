"""The state of one connection of the sandbox."""

import asyncio
import socket
import time

from cloche.egress.policy import Rule
from cloche.wire import egress as wire

__all__ = ["Flow", "Refused"]


class Refused(Exception):
    """A connection is refused."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number: int = number
        self.reason: str = reason


class Flow:
    """A connection of the sandbox, from the sentry's question to its end."""

    def __init__(self, ident: int, target: wire.Target) -> None:
        self.ident: int = ident
        self.target: wire.Target = target
        self.name: str = ""
        self.candidates: dict[str, Rule] = {}  # rules of further names that share the address
        self.is_fixed: bool = False  # it goes to the address that the program has named
        self.rule: Rule | None = None
        self.protocol: str = ""
        self.addr: bytes = b""  # the address that was connected to
        # Addresses that were tried already, with what came of it
        self.tried: dict[bytes, Exception] = {}
        self.upstream: socket.socket | None = None
        self.inside: socket.socket | None = None  # egress's end of a pair
        self.task: asyncio.Task[None] | None = None
        self.switched: asyncio.Event = asyncio.Event()
        self.is_logged: bool = False  # its opening was logged
        self.is_proxied: bool = False  # from a program that uses the proxy
        self.is_cut: bool = False  # its rule was removed
        self.is_abandoned: bool = False  # the program has closed it
        self.is_given: bool = False  # the sentry has the socket, moves the data and counts it
        self.began: float = time.monotonic()
        self.received: int = 0
        self.sent: int = 0

    def transport(self) -> str:
        """The transport's name in the log."""
        return "udp" if self.target.transport == wire.UDP else "tcp"

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self.upstream, self.inside):
            if sock is not None:
                sock.close()
        self.upstream = self.inside = None
