"""Records passed between the VFS and a file system: changes of attributes, and figures of a file system."""

from typing import Final

# Which fields of a SetAttr are valid (ATTR_* of linux/fs.h).
ATTR_MODE: Final = 1
ATTR_UID: Final = 2
ATTR_GID: Final = 4
ATTR_SIZE: Final = 8
ATTR_ATIME: Final = 16
ATTR_MTIME: Final = 32
ATTR_CTIME: Final = 64


class SetAttr:
    """An attribute change, already checked and complete (times in ns since the epoch)."""

    def __init__(self, valid: int) -> None:
        self.valid: int = valid
        self.mode: int = 0
        self.uid: int = 0
        self.gid: int = 0
        self.size: int = 0
        self.atime_ns: int = 0
        self.mtime_ns: int = 0
        self.ctime_ns: int = 0


class StatFs:
    """statfs(2) figures."""

    def __init__(self, magic: int) -> None:
        self.magic: int = magic
        self.block_size: int = 4096
        self.blocks: int = 0
        self.blocks_free: int = 0
        self.blocks_avail: int = 0
        self.files: int = 0
        self.files_free: int = 0
        self.name_max: int = 255
