"""Overlay: read-only lower layers under a private, in-memory upper one.

The upper layer is tmpfs's inodes (`fs.tmpfs`).  A directory of a lower layer is an `OverlayDir`, whose entries
come from below until they are replaced or removed; a regular file of a lower layer is an `OverlayFile`, whose
attributes are in memory from the first lookup on and whose contents stay below (`lower`) until they are
changed. New files are plain tmpfs.

So the upper layer needs no whiteout files or opaque attributes, since these are part of its state; a directory can be
renamed without a copy, and inode numbers never change. The lower layers must not change while they are mounted.
`changes` lists the differences.
"""

import os
from collections.abc import Iterator
from typing import Final

from cloche.abi.errno import EAGAIN, EIO, ENOSPC, ENOTDIR, ENXIO, LinuxError
from cloche.abi.fcntl import RENAME_EXCHANGE
from cloche.abi.fs import SEEK_DATA
from cloche.abi.magic import OVERLAYFS_SUPER_MAGIC
from cloche.abi.mman import MAP_SHARED
from cloche.abi.stat import S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dtype
from cloche.fs.dir_entry import DirEntry
from cloche.fs.quota import StorageQuota, page_count
from cloche.fs.storage import CHUNK, STEP
from cloche.fs.tmpfs import WRITE_SEALS, TmpFs, TmpfsDescription, TmpfsDir, TmpfsFile
from cloche.fs.tmpfs_inode import TmpfsInode, TmpfsLink
from cloche.fs.tmpfs_options import TmpfsOptions
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.chores import Chore
from cloche.kernel.host_wait import HostWait
from cloche.kernel.patience import Patience
from cloche.kernel.task import Task, container_of
from cloche.kernel.timers import monotonic_ns
from cloche.mm.text import PatchedText
from cloche.mm.usermem import IovIter
from cloche.vfs.forgetting import Forgetful, forgetful, inode_holders
from cloche.vfs.listing import Names
from cloche.vfs.objects import (
    Context,
    Dentry,
    FileDescription,
    FileSystem,
    Inode,
    Mount,
    Path,
)
from cloche.vfs.waitqueue import WaitQueue

COPY_AT_ONCE: Final = 4 << 20  # bytes; a larger file is copied up a step at a time while the writer waits
_FIRST_NEW_INO: Final = 1 << 48  # numbers of new files; a lower layer's own are below
_SOME_NAMES: Final = 256  # names of a lower directory that are read between two looks at the clock
_LAYER_SHIFT: Final = 57  # numbers from the second layer on carry its index
_OPAQUE: Final = b"trusted.overlay.opaque"

# Kinds of changes.
ADDED: Final = "A"
CHANGED: Final = "C"
DELETED: Final = "D"


class OverlayFs(TmpFs):
    """`lowers`: the roots of the lower layers, the topmost first; directories of any file system, or one file."""

    def __init__(
        self,
        dev: int,
        quota: StorageQuota,
        lowers: list[Inode],
        options: TmpfsOptions | None = None,
    ) -> None:
        self.lowers: list[Inode] = lowers
        self.layer_of: dict[FileSystem, int] = {}
        for inode in lowers:
            self.layer_of.setdefault(inode.fs, len(self.layer_of))
        # Files with several names below, by their lower inode: one identity for all of them.
        self.linked: dict[Inode, TmpfsInode] = {}
        # A path for opening lower files: they show the overlay's own names.
        self.lower_mount: Mount = Mount(0, lowers[0].fs, Dentry(b"", None, lowers[0]))
        super().__init__(dev, quota, options, kind="overlay")
        self.magic = OVERLAYFS_SUPER_MAGIC
        self.next_ino = _FIRST_NEW_INO

    def make_root(self, options: TmpfsOptions) -> None:
        top = self.lowers[0]
        if top.mode & S_IFMT == S_IFREG:  # for a mount on a file
            self.root_inode = OverlayFile(self, top)
            return
        if not top.is_dir():
            raise LinuxError(ENOTDIR)
        self.root_inode = OverlayDir(self, self.lowers)

    def options(self) -> str:
        return ""

    def ino_of(self, lower: Inode) -> int:
        """The overlay's inode number for a lower inode."""
        index = self.layer_of.get(lower.fs, 0)
        return lower.ino if index == 0 else lower.ino | (index << _LAYER_SHIFT)

    def wrap(self, ctx: Context, lowers: list[Inode]) -> TmpfsInode:
        """The overlay inode for a lower inode, or for several directories that are merged."""
        lower = lowers[0]
        kind = lower.mode & S_IFMT
        if kind == S_IFDIR:
            return OverlayDir(self, lowers)
        if lower.nlink > 1:
            known = self.linked.get(lower)
            if known is not None:
                return known
        inode: TmpfsInode
        if kind == S_IFREG:
            inode = OverlayFile(self, lower)
        elif kind == S_IFLNK:
            inode = TmpfsLink(
                self, self.ino_of(lower), lower.readlink(ctx), lower.uid, lower.gid, is_charged=False
            )
            _adopt(inode, lower)
        else:
            inode = TmpfsInode(self, self.ino_of(lower), lower.mode, lower.uid, lower.gid, is_charged=False)
            _adopt(inode, lower)
        if lower.nlink > 1:
            self.linked[lower] = inode
        return inode

    def lost_last_name(self, inode: Inode) -> None:
        if isinstance(inode, TmpfsInode) and inode.backing is not None:
            self.linked.pop(inode.backing, None)

    def changes(self, ctx: Context) -> Iterator[tuple[str, bytes, Inode | None]]:
        """The differences from the lower layers: (ADDED, CHANGED or DELETED, path, inode), parents first.

        A directory that was moved is listed as ADDED, with everything in it.
        """
        root = self.root_inode
        assert isinstance(root, OverlayDir)
        if root.is_changed:
            yield CHANGED, b"/", root
        stack: list[tuple[bytes, TmpfsDir, bool]] = [(b"", root, False)]
        while stack:
            prefix, directory, is_added = stack.pop()
            removed: set[bytes] = set()
            if isinstance(directory, OverlayDir) and not is_added:
                removed = directory.removed
            for name in sorted(removed):
                if name not in directory.entries:
                    yield DELETED, prefix + b"/" + name, None
            if is_added:
                directory.list_all(ctx)
            for entry in list(directory.entries.values()):
                inode = directory.find(ctx, entry.name) if is_added else entry.inode
                if not isinstance(inode, TmpfsInode):
                    continue
                path = prefix + b"/" + entry.name
                is_new = is_added or not entry.is_lower
                if is_new and entry.name in removed:
                    if not inode.is_dir() and not _was_dir(ctx, directory, entry.name):
                        yield CHANGED, path, inode
                    else:
                        yield DELETED, path, None
                        yield ADDED, path, inode
                elif is_new:
                    yield ADDED, path, inode
                elif inode.is_changed:
                    yield CHANGED, path, inode
                if isinstance(inode, TmpfsDir):
                    stack.append((path, inode, is_new))


def _was_dir(ctx: Context, directory: TmpfsDir, name: bytes) -> bool:
    """Whether a replaced name was a directory in the lower layers."""
    if isinstance(directory, OverlayDir):
        for layer in directory.lowers:
            found = layer.lookup(ctx, name)
            if found is not None:
                return found.is_dir()
    return False


def _adopt(inode: TmpfsInode, lower: Inode) -> None:
    """Take over the attributes of a lower inode."""
    inode.nlink = lower.nlink
    inode.rdev = lower.rdev
    inode.size = lower.size
    inode.blocks = lower.blocks
    inode.blksize = lower.blksize
    inode.atime_ns = lower.atime_ns
    inode.mtime_ns = lower.mtime_ns
    inode.ctime_ns = lower.ctime_ns
    inode.btime_ns = lower.btime_ns
    inode.backing = lower
    inode.is_changed = False


# -- regular files ---------------------------------------------------------------------------------------
class OverlayFile(TmpfsFile):
    """A regular file of a lower layer; `is_below`: its contents are still there."""

    def __init__(self, fs: OverlayFs, lower: Inode) -> None:
        super().__init__(fs, fs.ino_of(lower), lower.mode, lower.uid, lower.gid, is_charged=False)
        self.overlay: OverlayFs = fs
        self.lower: Inode = lower
        self.is_below: bool = True
        self.copying: CopyUp | None = None
        _adopt(self, lower)

    def refresh(self, ctx: Context) -> None:
        if not self.is_below:
            super().refresh(ctx)

    def write_at(self, ctx: Context, src: IovIter, offset: int, path: Path | None) -> int:
        """The first write copies the contents up; for a large file the writer waits (-EAGAIN) while that is done."""
        if self.is_below and self.size > COPY_AT_ONCE and src.remaining() and self._must_wait(ctx):
            return -EAGAIN
        return super().write_at(ctx, src, offset, path)

    def _must_wait(self, ctx: Context) -> bool:
        """Whether the writer must wait for a copy; starts the copy if necessary. Raises LinuxError(ENOSPC, EIO …)."""
        copying = self.copying
        if copying is None:
            chores = self.tmpfs.account.quota.reaper.chores
            if chores is None or self.seals & WRITE_SEALS:
                return False
            if self._pages_below(self.size) > self.tmpfs.account.free_pages():
                raise LinuxError(ENOSPC)
            copying = CopyUp(ctx, self)
            self.copying = copying
            chores.append(copying)
        if copying.error:
            self.copying = None
            raise LinuxError(copying.error)
        return not copying.is_done

    def has_holes(self) -> bool:
        """Whether the file below has less data than bytes."""
        return self.lower.blocks * 512 < self.size

    def _pages_below(self, size: int) -> int:
        """At least so many pages are needed for a copy of the first `size` bytes."""
        return page_count(size) if not self.has_holes() else 0

    def take_over(self, ctx: Context, size: int) -> None:
        """Copy up: the first `size` bytes become the upper layer's.  Raises LinuxError(ENOSPC)."""
        if not self.is_below:
            return
        keep = min(size, self.size)
        if isinstance(ctx, Task) and keep > COPY_AT_ONCE:
            ctx.kernel.host_waits.commit()  # too much data for a journal
        copying = self.copying
        if copying is not None:
            copying.abandon()
        storage = self.storage
        if keep > 0:
            if self._pages_below(keep) > self.tmpfs.account.free_pages():
                raise LinuxError(ENOSPC)
            source = open_lower(ctx, self)
            try:
                _copy(ctx, source, self, keep)
            except (LinuxError, HostWait):
                storage.free()
                raise
            finally:
                source.put()
        self.copied_up(ctx, keep)

    def copied_up(self, ctx: Context, size: int) -> None:
        """The contents are in the upper layer now."""
        self.is_below = False
        self.is_changed = True
        self.drop_file_caps(ctx)
        self.size = size
        self.blocks = self.storage.pages * 8
        self.note()

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return OverlayDescription(ctx, path, self, flags)


def open_lower(ctx: Context, file: OverlayFile) -> FileDescription:
    """The lower file, open for reading, with one reference."""
    lower = file.lower
    dentry = Dentry(b"", None, lower)
    return lower.open(ctx, Path(file.overlay.lower_mount, dentry), 0).get()


def _copy(ctx: Context, source: FileDescription, file: OverlayFile, length: int) -> None:
    """Copy from a lower file to the storage of the upper one."""
    done = 0
    while True:
        at, data = _read_below(ctx, source, file, done, length)
        if not data:
            break
        _write_above(file, at, data)
        done = at + len(data)
    if done < length:  # a hole, or it is shorter than its attributes said
        file.storage.resize(done, length)


def _read_below(
    ctx: Context, source: FileDescription, file: OverlayFile, at: int, end: int
) -> tuple[int, bytes]:
    """Where the next data is, and some of it; none if there is none before `end`.  Raises LinuxError, HostWait."""
    if at < end and file.has_holes():
        found = source.lseek(ctx, at, SEEK_DATA)
        if found == -ENXIO:
            return end, b""
        at = max(at, found)
    return at, source.read_bytes(ctx, at, min(STEP, end - at)) if at < end else b""


def _write_above(file: OverlayFile, at: int, data: bytes) -> None:
    """Write what was read, but of a file with holes no blocks of zeros.  Raises LinuxError."""
    has_holes = file.has_holes()
    step = CHUNK if has_holes else len(data)
    for begin in range(0, len(data), step):
        piece = data[begin : begin + step]
        if has_holes and piece.count(0) == len(piece):
            continue
        result = file.storage.write(at + begin, piece, at + begin)
        if result < 0:
            raise LinuxError(-result)


class CopyUp(Chore):
    """Copies a large lower file in steps; reads use the lower file until it is done."""

    def __init__(self, ctx: Context, file: OverlayFile) -> None:
        self.ctx: Context = ctx
        self.file: OverlayFile = file
        self.source: FileDescription | None = open_lower(ctx, file)
        self.length: int = file.size
        self.done: int = 0
        self.error: int = 0
        self.is_done: bool = False
        self.queue: WaitQueue = WaitQueue()  # writers
        chores = file.tmpfs.account.quota.reaper.chores
        assert chores is not None
        self.patience: Patience = Patience(container_of(ctx).kernel.host_waits, chores, self)

    def step(self) -> bool:
        source, file = self.source, self.file
        if source is None:
            return False
        try:
            found = self.patience.attempt(lambda: self._read(source))
            if not found:
                return False
            at, data = found[0]
            if data:
                _write_above(file, at, data)
                self.done = at + len(data)
                return True
            if self.done < self.length:  # a hole, or it is shorter than its attributes said
                file.storage.resize(self.done, self.length)
            file.copied_up(self.ctx, self.length)
        except LinuxError as error:
            self.error = error.errno
            file.storage.free()
        self._end()
        return False

    def _read(self, source: FileDescription) -> tuple[int, bytes]:
        """Read what can be written now. Raises HostWait."""
        self.file.storage.prove()
        return _read_below(self.ctx, source, self.file, self.done, self.length)

    def abandon(self) -> None:
        """Give up, because a call that cannot wait copies the file at once."""
        self.file.storage.free()
        self._end()

    def _end(self) -> None:
        source = self.source
        self.source = None
        self.is_done = True
        self.patience.drop()
        if source is not None:
            source.put()
        if not self.error:
            self.file.copying = None
        self.queue.wake()


class OverlayDescription(TmpfsDescription):
    """An open file of a lower layer: the lower's own description does the work until the contents are
    copied up.
    """

    def __init__(self, ctx: Context, path: Path, inode: OverlayFile, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.overlay_file: OverlayFile = inode
        self.low: FileDescription | None = open_lower(ctx, inode) if inode.is_below else None

    def _drop_low(self) -> None:
        low = self.low
        if low is not None:
            self.low = None
            low.put()

    def wait_queue(self) -> WaitQueue | None:
        copying = self.overlay_file.copying
        return copying.queue if copying is not None and not copying.is_done else None

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        low = self.low
        if low is not None:
            if self.overlay_file.is_below:
                return low.pread(ctx, dst, offset, flags)
            self._drop_low()
        return super().pread(ctx, dst, offset, flags)

    def read_bytes(self, ctx: Context, offset: int, length: int) -> bytes:
        low = self.low
        if low is not None and self.overlay_file.is_below:
            return low.read_bytes(ctx, offset, length)
        return super().read_bytes(ctx, offset, length)

    def _seek_data(self, ctx: Context, offset: int, whence: int) -> int:
        low = self.low
        if low is not None and self.overlay_file.is_below:
            result = low.lseek(ctx, offset, whence)
            if result >= 0:
                self.pos = result
            return result
        return super()._seek_data(ctx, offset, whence)

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        file = self.overlay_file
        if file.is_below:
            if flags & MAP_SHARED and self.is_writable():
                file.take_over(ctx, file.size)
            elif self.low is not None:
                return self.low.mmap_fd(ctx, prot, flags)
        return super().mmap_fd(ctx, prot, flags)

    def has_slow_storage(self) -> bool:
        low = self.low
        return low is not None and low.has_slow_storage()

    def patched_text(self) -> PatchedText | None:
        low = self.low
        return low.patched_text() if low is not None and self.overlay_file.is_below else None

    def mmap_offset(self, offset: int) -> int:
        low = self.low
        if low is not None and self.overlay_file.is_below:
            return low.mmap_offset(offset)
        return offset

    def release(self) -> None:
        super().release()
        self._drop_low()


# -- directories -----------------------------------------------------------------------------------------
class OverlayDir(TmpfsDir, Forgetful):
    """A directory of lower layers, merged; `entries` holds names that were looked up, listed or changed."""

    def __init__(self, fs: OverlayFs, lowers: list[Inode]) -> None:
        top = lowers[0]
        super().__init__(fs, fs.ino_of(top), top.mode, top.uid, top.gid, is_charged=False)
        _adopt(self, top)
        self.overlay: OverlayFs = fs
        self.lowers: list[Inode] = lowers
        self.removed: set[bytes] = set()  # names that exist below and are hidden
        self.told: set[bytes] | None = None  # new files that `cloche apply` may have made below since
        self.unseen: set[bytes] | None = None  # of `removed`: they were not below when guests made theirs
        self.is_listed: bool = False  # `entries` has every visible lower name
        self.listing: Listing | None = None  # the state of a listing under way

    # -- looking below -----------------------------------------------------------------------------------
    def _below(self, ctx: Context, name: bytes) -> TmpfsInode | None:
        """The overlay inode of a name as the lower layers have it."""
        found = self._find_below(ctx, name)
        if found is not None and self.overlay.is_kept and found.origin is None:
            found.origin, found.origin_name = self, name
        return found

    def _find_below(self, ctx: Context, name: bytes) -> TmpfsInode | None:
        lowers = self.lowers
        if len(lowers) == 1:
            found = lowers[0].lookup(ctx, name)
            return None if found is None else self.overlay.wrap(ctx, [found])
        parts: list[Inode] = []
        for layer in lowers:
            found = layer.lookup(ctx, name)
            if found is None:
                continue
            if _is_whiteout(found):
                break
            if not found.is_dir():
                if not parts:
                    parts.append(found)
                break
            parts.append(found)
            if _is_opaque(ctx, found):
                break
        return self.overlay.wrap(ctx, parts) if parts else None

    def find(self, ctx: Context, name: bytes) -> Inode | None:
        entry = self.entries.get(name)
        if entry is not None:
            inode = entry.inode
            if inode is None:
                inode = self._below(ctx, name)
                if inode is None:
                    raise LinuxError(EIO)  # the lower layer has changed
                entry.inode = inode
            return inode
        if self.is_listed or name in self.removed:
            return None
        below = self._below(ctx, name)
        if below is not None:
            self._add_lower(name, below, below.ino, dtype(below.mode))
        return below

    def _add_lower(self, name: bytes, inode: Inode | None, ino: int, kind: int) -> None:
        """Add a name of a lower layer, without changing this directory's own attributes."""
        cookie = self.next_cookie
        self.next_cookie = cookie + 1
        entry = DirEntry(name, inode, ino, kind, cookie)
        entry.is_lower = True
        entry.count()
        self.entries[name] = entry

    def _list(self, ctx: Context) -> None:
        """Fetch all lower names, once. If the call can be run again, in slices (I8)."""
        if self.is_listed:
            return
        listing = self.listing
        if listing is None:
            listing = self.listing = Listing(self.lowers)
        end_ns = monotonic_ns() + SLICE_NS
        while True:
            layer = listing.layer()
            if layer is None:
                break
            listing.read(ctx, layer, self.overlay)
            while listing.at < len(listing.rows):  # a lookup below may make the call run again
                row = listing.rows[listing.at]
                self._show_lower(ctx, listing, layer, row[0], row[1], row[2])
                listing.at += 1
            if monotonic_ns() >= end_ns:
                keeper = ctx.walk_keeper
                if keeper is not None and keeper.may_pause():
                    keeper.pause()
        self.is_listed = True
        self.listing = None

    def _show_lower(
        self, ctx: Context, listing: "Listing", layer: Inode, name: bytes, ino: int, kind: int
    ) -> None:
        """Add a name found in a lower layer, unless it is hidden."""
        if name == b"." or name == b".." or name in listing.hidden:
            return
        if len(self.lowers) > 1:
            found = layer.lookup(ctx, name) if kind == S_IFCHR >> 12 else None
            listing.hidden.add(name)
            if found is not None and _is_whiteout(found):
                return
        if name in self.entries or name in self.removed:
            return
        index = self.overlay.layer_of.get(layer.fs, 0)
        self._add_lower(name, None, ino if index == 0 else ino | (index << _LAYER_SHIFT), kind)

    # -- forgetting --------------------------------------------------------------------------------------
    def can_forget(self, name: bytes) -> bool:
        entry = self.entries.get(name)
        if entry is None or not entry.is_lower:
            return False
        inode = entry.inode
        return isinstance(inode, TmpfsInode) and not inode.is_changed and inode.label == 0

    def forget_child(self, name: bytes, cell: list[Inode]) -> bool:
        entry = self.entries.get(name)
        if entry is None or entry.inode is not cell[0] or not _is_as_below(cell[0]):
            return False
        linked = self.overlay.linked
        backing = _linked_backing(cell[0], linked)
        if backing is None:
            if inode_holders(cell) > 1:  # beside `entry`
                return False
        elif inode_holders(cell) == 2:  # `entry` and `linked`; otherwise its other names are known
            del linked[backing]
        entry.inode = None
        cell.clear()
        backing = None
        for layer in self.lowers:
            below = forgetful(layer)
            if below is not None:
                below.forget_name(name)
        return True

    def forget_name(self, name: bytes) -> None:
        """It is no lower layer."""

    def has_by_now(self, ctx: Context, name: bytes) -> bool:
        return self.lookup(ctx, name) is not None

    def is_as_below(self) -> bool:
        """Whether nothing in it differs from the lower layers, and nothing below it is in use."""
        if self.is_changed or self.removed or self.listing is not None:
            return False
        for entry in self.entries.values():
            if entry.inode is not None or not entry.is_lower:
                return False
        return True

    # -- what guests have made, and somebody has taken over below (`cloche apply`) --------------------------
    def tell(self, name: bytes) -> None:
        """A new file is shown to somebody who may make it below, too."""
        if self.told is None:
            self.told = set()
        self.told.add(name)

    def _is_behind(self, ctx: Context, name: bytes) -> bool:
        """Whether the lower layers have by now what a guest is about to remove. It changes nothing, but may ask the
        host.
        """
        told = self.told
        if told is None or name not in told or name in self.removed:
            return False
        for layer in self.lowers:
            below = forgetful(layer)
            if below.has_by_now(ctx, name) if below is not None else layer.lookup(ctx, name) is not None:
                return True
        told.remove(name)
        return False

    def hide_unseen(self, name: bytes) -> None:
        """Let what is below by a name not be seen; guests had theirs before it was there."""
        self.removed.add(name)
        if self.unseen is None:
            self.unseen = set()
        self.unseen.add(name)

    def unlink(self, ctx: Context, name: bytes, inode: Inode) -> None:
        is_behind = self._is_behind(ctx, name)
        super().unlink(ctx, name, inode)
        if is_behind:
            self.hide_unseen(name)

    def rmdir(self, ctx: Context, name: bytes, inode: Inode) -> None:
        is_behind = self._is_behind(ctx, name)
        super().rmdir(ctx, name, inode)
        if is_behind:
            self.hide_unseen(name)

    def rename(
        self,
        ctx: Context,
        name: bytes,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
        target: Inode | None,
        flags: int,
    ) -> None:
        is_behind = flags & RENAME_EXCHANGE == 0 and self._is_behind(ctx, name)
        super().rename(ctx, name, inode, new_dir, new_name, target, flags)
        if is_behind:
            self.hide_unseen(name)

    # -- what tmpfs's directory calls ----------------------------------------------------------------------
    def remove(self, ctx: Context, name: bytes) -> None:
        entry = self.entries[name]
        super().remove(ctx, name)
        if entry.is_lower:
            self.removed.add(name)

    def replace(self, name: bytes, inode: Inode) -> None:
        super().replace(name, inode)
        entry = self.entries[name]
        if entry.is_lower:
            entry.is_lower = False
            self.removed.add(name)

    def is_empty(self, ctx: Context) -> bool:
        self._list(ctx)
        return not self.entries

    def list_all(self, ctx: Context) -> list[DirEntry]:
        self._list(ctx)
        return super().list_all(ctx)


class Listing:
    """How far the lower directories of an OverlayDir were listed: `rows[at:]` are read and not shown yet."""

    def __init__(self, lowers: list[Inode]) -> None:
        self.lowers: list[Inode] = lowers
        self.index: int = 0
        self.file: FileDescription | None = None  # the directory that is being read
        self.hidden: set[bytes] = set()  # names that upper layers have, or have removed
        self.rows: list[tuple[bytes, int, int, int]] = []
        self.at: int = 0

    def layer(self) -> Inode | None:
        """The directory being read; None at the end."""
        return self.lowers[self.index] if self.index < len(self.lowers) else None

    def read(self, ctx: Context, layer: Inode, overlay: "OverlayFs") -> None:
        """Read further rows of the layer, if there are none left; after its last go on to the next layer. Raises
        LinuxError.
        """
        if self.at < len(self.rows):
            return
        file = self.file
        if file is None:
            file = open_directory(ctx, layer, overlay)
            self.file = file
        found = Names(_SOME_NAMES)
        pos = file.pos
        result = file.iterate(ctx, found)
        if result < 0 or (not found.rows and file.pos == pos):
            self.file = None
            file.put()
            if result < 0:
                raise LinuxError(-result)
            self.index += 1
        self.rows, self.at = found.rows, 0


def open_directory(ctx: Context, directory: Inode, overlay: OverlayFs) -> FileDescription:
    """A directory of a lower layer, to be listed.  Raises LinuxError."""
    path = Path(overlay.lower_mount, Dentry(b"", None, directory))
    return directory.open(ctx, path, os.O_DIRECTORY).get()


def list_names(ctx: Context, directory: Inode, overlay: OverlayFs) -> list[tuple[bytes, int, int]]:
    """Name, inode number and DT_* of everything in a lower directory.  Raises LinuxError."""
    file = open_directory(ctx, directory, overlay)
    listing = Names()
    try:
        while True:
            before = len(listing.rows)
            pos = file.pos
            result = file.iterate(ctx, listing)
            if result < 0:
                raise LinuxError(-result)
            if len(listing.rows) == before and file.pos == pos:
                break
    finally:
        file.put()
    return [(row[0], row[1], row[2]) for row in listing.rows if row[0] != b"." and row[0] != b".."]


def _is_as_below(inode: Inode) -> bool:
    if isinstance(inode, OverlayDir):
        return inode.is_as_below()
    return not isinstance(inode, OverlayFile) or (inode.is_below and inode.copying is None)


def _linked_backing(inode: Inode, linked: dict[Inode, TmpfsInode]) -> Inode | None:
    """The lower inode of a file that is known by several names."""
    backing = inode.backing if isinstance(inode, TmpfsInode) else None
    return backing if backing is not None and linked.get(backing) is inode else None


def _is_whiteout(inode: Inode) -> bool:
    return inode.mode & S_IFMT == S_IFCHR and inode.rdev == 0


def _is_opaque(ctx: Context, inode: Inode) -> bool:
    try:
        return inode.getxattr(ctx, _OPAQUE) == b"y"
    except LinuxError:
        return False
