"""A connection of the sandbox, as egress keeps it from the question to its end."""

import asyncio
import socket
import time

from cloche.egress.policy import Rule
from cloche.wire import egress as wire

__all__ = ["Flow", "Refused"]


class Refused(Exception):
    """A connection that is not made."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number: int = number
        self.reason: str = reason


class Flow:
    """A connection of the sandbox, from the question to its end."""

    def __init__(self, ident: int, target: wire.Target) -> None:
        self.ident: int = ident
        self.target: wire.Target = target
        self.name: str = ""
        self.candidates: dict[str, Rule] = {}  # names that it may be to as well: they share the address
        self.is_fixed: bool = False  # it goes to the address that the program has named
        self.rule: Rule | None = None
        self.protocol: str = ""
        self.addr: bytes = b""  # that was connected to
        self.upstream: socket.socket | None = None
        self.inside: socket.socket | None = None  # our end of a pair
        self.task: asyncio.Task[None] | None = None
        self.switched: asyncio.Event = asyncio.Event()
        self.is_logged: bool = False  # as open
        self.is_proxied: bool = False  # a request of a program that uses the proxy
        self.is_cut: bool = False  # its rule is gone
        self.is_abandoned: bool = False  # the program has closed it
        self.is_given: bool = False  # the sentry moves the data, and counts it
        self.began: float = time.monotonic()
        self.received: int = 0
        self.sent: int = 0

    def transport(self) -> str:
        """As the log names it."""
        return "udp" if self.target.transport == wire.UDP else "tcp"

    def close(self) -> None:
        """Give everything back."""
        for sock in (self.upstream, self.inside):
            if sock is not None:
                sock.close()
        self.upstream = self.inside = None
