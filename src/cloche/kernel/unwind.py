"""Undoing the steps of an operation that cannot be finished.

Code that makes several things, each of which may fail, adds after each step a function that undoes it, and calls
`undo` on every exception. State that others can see is changed only after the last step that can fail.
"""

from collections.abc import Callable


class Unwind:
    """The steps that were made so far."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def add(self, step: Callable[[], None]) -> None:
        """`step` takes back what has just been made; it does not fail."""
        self._steps.append(step)

    def forget(self) -> None:
        """The operation has succeeded: drop the steps."""
        self._steps.clear()

    def undo(self) -> None:
        """Undo all steps, the newest first."""
        while self._steps:
            self._steps.pop()()
