"""The private layers of a container: the layers in which its guests' writes are stored, and the files that its start
has put there.

`boot` makes the list; `fs.changes` tells what has happened since.
"""

from collections.abc import Callable

from mypy_extensions import trait

from cloche.vfs.objects import FileSystem, Inode


@trait
class Keeping:
    """Stores the layers of a container so that they outlive it (`fs.kept`)."""

    def close(self, progress: Callable[[], None]) -> int:
        """The container ends: write the rest, calling `progress` at intervals.

        Returns 0, or the errno that prevented it.
        """
        raise NotImplementedError


class First:
    """The state of a file of the host when the sandbox first looked at it."""

    def __init__(self, mode: int, uid: int, gid: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.mode: int = mode
        self.uid: int = uid
        self.gid: int = gid
        self.size: int = size
        self.mtime_ns: int = mtime_ns
        self.ctime_ns: int = ctime_ns


class Known:
    """A file that the sandbox's start has made or found there, which is not a change by guests."""

    def __init__(self, inode: Inode, data: bytes | None) -> None:
        self.inode: Inode = inode  # referred to, so that no later inode can be mistaken for it
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
        # For files that an earlier sandbox on this kept layer has changed or removed; by path.
        self.firsts: dict[bytes, First] = {}
