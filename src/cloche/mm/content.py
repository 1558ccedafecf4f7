"""Names for the contents of host files that guests may map beside their memory (HostThread.read_fd_into)."""

from typing import Final

from cloche.platform.interface import STEADY_KEY

STEADY: Final = STEADY_KEY


class ContentKeys:
    """The numbers that have been given."""

    def __init__(self) -> None:
        self.given: int = 0

    def next(self) -> int:
        """A number that no other file of this sandbox has had."""
        self.given += 1
        return self.given


CONTENT_KEYS: Final = ContentKeys()
