"""The private layers of a container: where what its guests write is kept, and what its own start has put there.

`boot` makes the list; `fs.changes` tells what has happened since.
"""

from collections.abc import Callable

from mypy_extensions import trait

from cloche.vfs.objects import FileSystem, Inode


@trait
class Keeping:
    """Who keeps the layers of a container for longer than it lives (`fs.kept`)."""

    def close(self, progress: Callable[[], None]) -> int:
        """The container ends: write the rest, and call `progress` again and again meanwhile.

        0, or the errno for which not all is kept.
        """
        raise NotImplementedError


class First:
    """What a file of the host was when the sandbox first looked at it."""

    def __init__(self, mode: int, uid: int, gid: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.mode: int = mode
        self.uid: int = uid
        self.gid: int = gid
        self.size: int = size
        self.mtime_ns: int = mtime_ns
        self.ctime_ns: int = ctime_ns


class Known:
    """Something that the start has made, or found made: no change of the guests'."""

    def __init__(self, inode: Inode, data: bytes | None) -> None:
        self.inode: Inode = inode  # kept, so that no other can be taken for it
        self.mode: int = inode.mode
        self.uid: int = inode.uid
        self.gid: int = inode.gid
        self.size: int = inode.size
        self.mtime_ns: int = inode.mtime_ns
        self.ctime_ns: int = inode.ctime_ns
        self.data: bytes | None = data  # of a short regular file


class Layer:
    """A file system with a private layer, or without anything below."""

    def __init__(self, place: bytes, fs: FileSystem, *, is_volume: bool) -> None:
        self.place: bytes = place  # where it was mounted; empty: the root
        self.fs: FileSystem = fs
        self.is_volume: bool = is_volume  # asked for with -v
        self.known: dict[bytes, Known] = {}  # by path
        # Of files that were changed or removed by a sandbox before this one, whose kept layer this is; by path.
        self.firsts: dict[bytes, First] = {}
