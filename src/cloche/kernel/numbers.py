"""Numbers that are used only once: of anonymous devices, and of inodes without a file system."""


class Numbers:
    """The last number that was given of each kind."""

    def __init__(self) -> None:
        self.last_dev: int = 0x20  # minor of an anonymous st_dev
        self.last_namespace_ino: int = 0xF0000100
        self.last_anon_ino: int = 1

    def dev(self) -> int:
        """A fresh anonymous device number (st_dev) for a file system."""
        self.last_dev += 1
        return self.last_dev

    def namespace_ino(self) -> int:
        """An inode number for a namespace."""
        self.last_namespace_ino += 1
        return self.last_namespace_ino

    def anon_ino(self) -> int:
        """An inode number for an anonymous object."""
        self.last_anon_ino += 1
        return self.last_anon_ino
