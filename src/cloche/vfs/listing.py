"""The entries of a directory as a list, for tests and for parts of the sentry that list without a guest's
buffer.
"""

from cloche.vfs.objects import DirEmitter


class Names(DirEmitter):
    """Collects entries; takes no more than `limit`."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.names: list[bytes] = []
        self.inos: dict[bytes, int] = {}
        self.limit: int = limit

    def emit(self, name: bytes, ino: int, dtype: int, next_pos: int) -> bool:
        if len(self.names) >= self.limit:
            return False
        self.names.append(name)
        self.inos[name] = ino
        return True
