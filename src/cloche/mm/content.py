"""Names for the contents of host files that guests may map beside their memory (HostThread.read_fd_into)."""

from typing import Final

STEADY: Final = (
    1 << 60
)  # in a key: the file has the bytes that are read; only the sentry itself could cut them off

_given = 0


def next_content_key() -> int:
    """A number that no other file of this sandbox has had."""
    global _given
    _given += 1
    return _given
