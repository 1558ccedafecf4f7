"""Events of a sandbox, for both fronts."""

import time
from collections import deque

from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Source, Steps, wait
from cloche.sdk.errors import SandboxError
from cloche.sdk.link import Link
from cloche.sdk.results import SandboxEvent
from cloche.wire import protocol, requests


class Events(Source[SandboxEvent]):
    """The events of one sandbox."""

    def __init__(self, link: Link) -> None:
        self.link: Link = link
        self.ident: int = link.ask(requests.EVENTS, {})
        self.found: deque[SandboxEvent] = deque()
        self.is_over: bool = False

    def _take(self) -> None:
        try:
            messages = self.link.take()
        except SandboxError:
            messages = []
            self.link.is_over = True
        for message in messages:
            if message.kind == protocol.EVENT and message.ident == self.ident:
                self._add(message.name)
        if self.link.is_over:
            self._add(requests.ENDED)

    def _add(self, name: str) -> None:
        if not self.is_over:
            self.found.append(SandboxEvent(name, time.time()))
            self.is_over = name == requests.ENDED

    def next_event(self, deadline_s: float | None) -> Steps[SandboxEvent | None]:
        self.link.check_owner()
        while True:
            if not self.found and not self.is_over:
                self._take()
            if self.found:
                return self.found.popleft()
            if self.is_over:
                return None
            if not (yield from wait([self.link.fileno()], self.link.wants(), deadline_s)):
                return None

    def close(self) -> None:
        self.is_over = True
        self.link.close()


def follow(core: SandboxCore) -> Steps[Events]:
    """From now on.  Raises SandboxError, SandboxEnded."""
    link = core.connect()
    try:
        events = Events(link)
        # its answer comes after the subscription took effect: no event from now on is missed
        yield from link.call(requests.PING, {})
        return events
    except BaseException:
        link.close()
        raise
