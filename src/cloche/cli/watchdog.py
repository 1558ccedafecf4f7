"""Whether the sentry still answers, and when to end one that does not.

The sentry answers a ping when its loop turns. It is pinged seldom, so an idle sandbox stays idle; when the user wants
the sandbox to end it is pinged at once, and has less time to answer. Time is counted in waits of this process in
which no answer came, not by the clock: a machine that was suspended, or a monitor that was stopped, proves nothing
about the sentry.
"""

import time
from typing import Final

from cloche.boot.launch import Sandbox

_PERIOD_S: Final = 10.0  # between pings, and between looks at one that is not answered
_PATIENCE: Final = 6  # looks
_URGENT_S: Final = 2.0
_URGENT_PATIENCE: Final = 5
_SECOND_S: Final = 1.0  # a second signal after this long without an answer ends the sandbox


class Watchdog:
    """Watches one sentry."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox: Sandbox = sandbox
        self.is_asked: bool = False  # a ping is not answered yet
        self.is_urgent: bool = False
        self.misses: int = 0
        self.asked_at_s: float = 0.0
        self.due_s: float = time.monotonic() + _PERIOD_S
        sandbox.on_pong = self.on_pong

    def on_pong(self) -> None:
        """The sentry has answered."""
        self.is_asked = self.is_urgent = False
        self.misses = 0
        self.due_s = time.monotonic() + _PERIOD_S

    def on_end_wanted(self) -> bool:
        """The user wants an end (a signal was passed on). True: they have asked before, and the sentry has not
        answered since.
        """
        now = time.monotonic()
        if self.is_urgent:
            return now - self.asked_at_s >= _SECOND_S
        self.is_urgent = True
        self.misses = 0
        self._ask(now, _URGENT_S)
        return False

    def _ask(self, now: float, wait_s: float) -> None:
        self.is_asked = True
        self.asked_at_s = now
        self.due_s = now + wait_s
        self.sandbox.ping()

    def on_time(self) -> bool:
        """To be called after every wait. True: the sentry is to be ended."""
        now = time.monotonic()
        if now < self.due_s:
            return False
        if not self.is_asked:
            self._ask(now, _PERIOD_S)
            return False
        self.misses += 1
        self.due_s = now + (_URGENT_S if self.is_urgent else _PERIOD_S)
        return self.misses >= (_URGENT_PATIENCE if self.is_urgent else _PATIENCE)
