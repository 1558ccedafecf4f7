"""The entries of a directory as a list: for tests (compiled classes take no interpreted subclass) and for parts of
the sentry that list without a guest's buffer.
"""

from cloche.vfs.objects import DirEmitter


class Names(DirEmitter):
    """Collects entries; takes no more than `room`."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room: int = room
        self.rows: list[tuple[bytes, int, int, int]] = []  # (name, inode number, DT_*, where the next one is)
        self.names: list[bytes] = []
        self.inos: dict[bytes, int] = {}

    def emit(self, name: bytes, ino: int, dtype: int, next_pos: int) -> bool:
        if self.room == 0:
            return False
        self.room -= 1
        self.rows.append((name, ino, dtype, next_pos))
        self.names.append(name)
        self.inos[name] = ino
        return True
