"""File handles: what name_to_handle_at(2) gives for a file, and how it is found again (fs/exportfs).

Owns `FileSystem.handles`.  A handle is a number that is never given twice, so it is good for one inode and stale once
that is gone; it is not valid outside of the sandbox, or after its end.  Each costs the sentry memory: there are at
most `MAX_HANDLES`, and one more makes the oldest of its file system stale, which Linux never does.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import ENOMEM, ESTALE, LinuxError
from cloche.vfs.objects import Dentry, FileHandles, FileSystem, Inode

MAX_HANDLES: Final = 16384
FILEID_INO32_GEN: Final = 1  # type and size of those of tmpfs (include/linux/exportfs.h)
FILEID_INO64_GEN: Final = 0x81  # of a file system that cannot open handles: only for comparison
HANDLE_SIZE: Final = 12

_HANDLE: Final = Struct("<QI")  # number, low part of the inode's; or the inode's, generation


class HandleNumbers:
    """The next number, and the count of existing handles. One per kernel."""

    def __init__(self) -> None:
        self.last: int = 0
        self.count: int = 0


class HandleTable(FileHandles):
    """The handles of a file system."""

    def __init__(self, numbers: HandleNumbers) -> None:
        self.numbers: HandleNumbers = numbers
        self.given: dict[Inode, int] = {}
        self.places: dict[int, Dentry] = {}  # in the order in which they were given

    def encode(self, dentry: Dentry) -> bytes:
        """The handle of a file.  Raises LinuxError(ENOMEM)."""
        inode = dentry.require()
        number = self.given.get(inode, 0)
        if not number:
            numbers = self.numbers
            if numbers.count >= MAX_HANDLES:
                oldest = next(iter(self.places.values()), None)
                if oldest is None:
                    raise LinuxError(ENOMEM)
                self.forget(oldest.require())
            numbers.last += 1
            numbers.count += 1
            number = numbers.last
            self.given[inode] = number
            self.places[number] = dentry
        elif self.places[number].is_deleted:
            self.places[number] = dentry  # another of its names
        return _HANDLE.pack(number, inode.ino & 0xFFFFFFFF)

    def decode(self, kind: int, raw: bytes) -> Dentry:
        """The file of a handle.  Raises LinuxError(ESTALE)."""
        if kind != FILEID_INO32_GEN or len(raw) < HANDLE_SIZE:
            raise LinuxError(ESTALE)
        number, ino = _HANDLE.unpack(raw[:HANDLE_SIZE])
        dentry = self.places.get(number)
        if dentry is None or dentry.require().ino & 0xFFFFFFFF != ino:
            raise LinuxError(ESTALE)
        inode = dentry.require()
        if dentry.is_deleted and inode.nlink > 0 and not inode.is_dir():
            # the file has another name by now; Linux may not know a name either
            return Dentry(b"", None, inode)
        return dentry

    def forget(self, inode: Inode) -> None:
        number = self.given.pop(inode, 0)
        if number:
            del self.places[number]
            self.numbers.count -= 1

    def forget_all(self) -> None:
        self.numbers.count -= len(self.given)
        self.given.clear()
        self.places.clear()


def handles_of(numbers: HandleNumbers, fs: FileSystem) -> HandleTable | None:
    """The handles of a file system, None if it can give none that could be opened."""
    handles = fs.handles
    if isinstance(handles, HandleTable):
        return handles
    if not fs.has_handles:
        return None
    fresh = HandleTable(numbers)
    fs.handles = fresh
    return fresh


def identity(inode: Inode) -> bytes:
    """A handle to compare files by, which cannot be opened (FILEID_INO64_GEN)."""
    return _HANDLE.pack(inode.ino & (1 << 64) - 1, 0)
