"""Names for the contents of host files that guests may map beside their memory (HostThread.read_fd_into)."""

from typing import Final

STEADY: Final = (
    1 << 60
)  # in a key: the file has the bytes that are read; only the sentry itself could cut them off


class ContentKeys:
    """The numbers that have been given."""

    def __init__(self) -> None:
        self.given: int = 0

    def next(self) -> int:
        """A number that no other file of this sandbox has had."""
        self.given += 1
        return self.given


CONTENT_KEYS: Final = ContentKeys()
