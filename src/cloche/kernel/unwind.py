"""Taking back what was made for something that cannot be finished.

Whoever makes several things, each of which may fail, adds after each step how it is undone, and calls `undo` on every
exception; what others can see is changed only after the last step that can fail.
"""

from collections.abc import Callable


class Unwind:
    """What has been made so far."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def add(self, step: Callable[[], None]) -> None:
        """`step` takes back what has just been made; it does not fail."""
        self._steps.append(step)

    def forget(self) -> None:
        """It is finished: nothing is taken back any more."""
        self._steps.clear()

    def undo(self) -> None:
        """Take everything back, the newest first."""
        while self._steps:
            self._steps.pop()()
