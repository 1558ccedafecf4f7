"""The names in directories that live in memory (tmpfs, and the upper layer of an overlay)."""

from cloche.mm.quota import KERNEL_MEMORY, NAME_BYTES
from cloche.vfs.forgetting import NAMES
from cloche.vfs.objects import (
    Inode,
)


class DirEntry:
    """A name in a directory.

    `inode` is None for a name of a lower layer that was not looked up yet (overlay).
    """

    def __init__(self, name: bytes, inode: Inode | None, ino: int, kind: int, cookie: int) -> None:
        self.name: bytes = name
        self.inode: Inode | None = inode
        self.ino: int = ino
        self.kind: int = kind  # DT_*
        self.cookie: int = cookie  # its offset in the directory; 0 once it is removed
        self.is_lower: bool = False  # overlay: the entry of a lower layer, unchanged
        self.charged: int = 0
        self.is_counted: bool = False  # as a name that may be forgotten

    def count(self) -> None:
        """Count an entry of a lower layer with the names that may be forgotten."""
        self.is_counted = True
        NAMES.listed += 1

    def charge(self) -> None:
        """Charge the memory of an entry that a guest has made."""
        self.charged = NAME_BYTES + len(self.name)
        KERNEL_MEMORY.take(self.charged)

    def __del__(self) -> None:
        KERNEL_MEMORY.give(self.charged)
        if self.is_counted:
            NAMES.listed -= 1
