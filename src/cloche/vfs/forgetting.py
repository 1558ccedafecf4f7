"""Names that were looked up in lower layers, forgotten again when there are many (fs/dcache.c: prune_dcache_sb).

What lies below a private layer, on the host or in an image, can be looked up again as it was: a guest that walks a
large tree must not fill the sentry's memory with it.  Owns the queue of such dentries, and the bound on what they and
the listings of their directories take.  Their directories, which are `Forgetful`, drop what they keep of a name.

Only what nobody uses is forgotten, and the interpreter counts that: an object to which only caches refer. So whoever
holds a dentry or an inode (an open file, O_PATH too, a working directory, a mount, a walk that has paused, a watch, a
handle, a mapping) finds the same object in the cache. Dentries leave in the order in which they came; one that was used
again since it was last looked at stays for another turn, and so does a directory with names in it.
"""

import sys
from collections import deque
from itertools import islice
from typing import Final

from mypy_extensions import trait

from cloche.vfs.objects import Context, Dentry, FileSystem, Inode

DENTRY_BYTES: Final = 1450  # a looked-up file: its dentry, and its inodes in the overlay and below it
LISTED_BYTES: Final = 190  # a name of a listed directory, in one of two layers
MAX_BYTES: Final = 65536 * DENTRY_BYTES
LEAST_BYTES: Final = 4 << 20
_STEPS: Final = 256  # dentries that are looked at in one go, about 0.3 ms
_ENOUGH: Final = 16  # what is dropped at once: one part in so many of the bound
_REST: Final = 64  # new names before it is tried again, if little could be dropped


@trait
class Forgetful:
    """A directory of a layer that does not change, or over one."""

    def can_forget(self, name: bytes) -> bool:
        """Whether the name still stands for what the lower layer has, unchanged."""
        raise NotImplementedError

    def forget_child(self, name: bytes, cell: list[Inode]) -> bool:
        """Drop everything about a name, unless somebody uses its inode; whether that was done. `cell` has the caller's
        only reference to that inode, and loses it then.
        """
        raise NotImplementedError

    def forget_name(self, name: bytes) -> None:
        """Of a directory below another: that one has dropped the name, so drop it here, too, unless it is used."""
        raise NotImplementedError

    def has_by_now(self, ctx: Context, name: bytes) -> bool:
        """Whether there is such a name, even one that was made since the directory was read. Raises LinuxError."""
        raise NotImplementedError


def forgetful(directory: Inode | None) -> Forgetful | None:
    """The directory, if what is cached of its names may be dropped."""
    each: object = directory  # else mypy takes it that no inode is one
    return each if isinstance(each, Forgetful) else None


class NameCache:
    """The names that may be forgotten. One for the whole sentry."""

    def __init__(self) -> None:
        self.limit_bytes: int = MAX_BYTES
        self.listed: int = 0  # names of listings, in all layers
        self.peak_bytes: int = 0  # what all of it has taken at most
        self.is_set: bool = False  # the bound, by hand
        self._queue: dict[Dentry, None] = {}
        self._rest: int = 0

    def set_bound(self, names: str) -> None:
        """Keep at most so many names, if that is a number: for tests."""
        if names.isdecimal():
            self.is_set = True
            self.limit_bytes = int(names) * DENTRY_BYTES

    def used_bytes(self) -> int:
        """What the cache takes; an estimate."""
        return len(self._queue) * DENTRY_BYTES + self.listed * LISTED_BYTES

    def add(self, dentry: Dentry) -> None:
        """A name of a Forgetful directory was looked up."""
        self._queue[dentry] = None
        used = self.used_bytes()
        if used > self.peak_bytes:
            self.peak_bytes = used
        if used <= self.limit_bytes:
            return
        if self._rest > 0:
            self._rest -= 1
            return
        self.shrink(self.limit_bytes - self.limit_bytes // _ENOUGH)

    def shrink(self, bound_bytes: int, steps: int = _STEPS) -> bool:
        """Look at up to so many names and forget those that nobody uses, until the cache takes no more than that.

        Returns whether it does.
        """
        queue = self._queue
        dropped = 0
        batch = deque(islice(queue, steps))
        while batch and self.used_bytes() > bound_bytes:
            cell = [batch.popleft()]
            del queue[cell[0]]
            if not _can_forget(cell[0]):
                dropped += 1
            elif _is_unused(cell) and _drop(cell[0]):
                dropped += 1
            else:
                queue[cell[0]] = None
        if batch:
            return True
        if dropped < steps // 8:
            self._rest = _REST
        return self.used_bytes() <= bound_bytes

    def remove(self, dentry: Dentry) -> None:
        """A name was removed: nothing here may keep its file."""
        self._queue.pop(dentry, None)

    def forget_gone(self, gone: list[FileSystem]) -> None:
        """Let go of the dentries of file systems that are mounted nowhere any more."""
        for dentry in list(self._queue):
            if dentry.inode is None or dentry.inode.fs in gone:
                del self._queue[dentry]


NAMES: Final = NameCache()


# How many references `sys.getrefcount` finds beside those that matter depends on the interpreter and the build. So it
# is compared with what it finds, called in the same way, for an object in a list that nothing else refers to.
def _count_dentry(cell: list[Dentry]) -> int:
    return sys.getrefcount(cell[0])


def _count_inode(cell: list[Inode]) -> int:
    return sys.getrefcount(cell[0])


_DENTRY_ALONE: Final = _count_dentry([Dentry(b"", None, None)])
_INODE_ALONE: Final = _count_inode([Inode(FileSystem("none", 0, 0), 0, 0)])


def inode_holders(cell: list[Inode]) -> int:
    """How many references there are to the inode in `cell` beside the list's. The callers must have none."""
    return _count_inode(cell) - _INODE_ALONE


def _can_forget(dentry: Dentry) -> bool:
    """Whether the dentry is cached for something that can be looked up again."""
    parent = dentry.parent
    if parent is None or dentry.inode is None or parent.children.get(dentry.name) is not dentry:
        return False
    directory = forgetful(parent.inode)
    return directory is not None and directory.can_forget(dentry.name)


def _is_unused(cell: list[Dentry]) -> bool:
    """Whether only the cache refers to the dentry in `cell`, the callers' only reference, and no name in it exists."""
    absent = _count_absent(cell[0])
    # its own parent's table refers to it, and the names in it that are known not to exist
    return absent >= 0 and _count_dentry(cell) - _DENTRY_ALONE == absent + 1


def _count_absent(dentry: Dentry) -> int:
    """How many names are known not to exist in it; -1 if it is not to be dropped."""
    if dentry.is_recent:
        dentry.is_recent = False
        return -1
    if dentry.mounted:
        return -1
    for child in dentry.children.values():
        if child.inode is not None:
            return -1
    return len(dentry.children)


def _drop(dentry: Dentry) -> bool:
    """Forget an unused dentry with its inode, unless that is used."""
    parent = dentry.parent
    assert parent is not None
    directory = forgetful(parent.inode)
    assert directory is not None
    cell = _take_inode(dentry)
    if not directory.forget_child(dentry.name, cell):
        dentry.inode = cell[0]
        return False
    for child in dentry.children.values():
        child.parent = None  # it may be in the list of names that do not exist
    dentry.children.clear()
    del parent.children[dentry.name]
    return True


def _take_inode(dentry: Dentry) -> list[Inode]:
    inode = dentry.require()
    dentry.inode = None
    return [inode]
