"""What guests have changed in a private layer (`vfs.layers`), for `cloche diff` and `cloche apply`.

Compares a place with its lower layers, name by name, in the order of git's trees (directories as if their names ended
in a slash). Only directories that were looked into can hold changes, so the rest of a large tree costs nothing. A
walk is a generator that yields None now and then, so that its caller can pause it (I8), and while its `Patience`, if
it has one, waits for an answer; guests may run meanwhile.

- Not counted as changes: a directory's own times, access times, link counts, and names that were changed back.
- A directory that was removed or added is listed with everything that was, or is, in it.
- Of a changed file with several names below, those in directories that were looked into are listed.
- Files that the start of the sandbox has made are no changes until a guest changes them.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Final

from cloche.abi.stat import S_IFDIR, S_IFMT, S_IFREG
from cloche.fs.overlay import OverlayDir, OverlayFile, OverlayFs, list_names
from cloche.fs.tmpfs import TmpfsDir
from cloche.fs.tmpfs_inode import TmpfsInode
from cloche.kernel.patience import Patience
from cloche.vfs.layers import Known, Layer
from cloche.vfs.objects import Context, Dentry, FileDescription, Inode, Mount, Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # the parts have a stand-in for `typing`, without type variables
    from typing import TypeVar

    T = TypeVar("T")

ADDED: Final = "A"
CHANGED: Final = "M"
DELETED: Final = "D"
KNOWN_BYTES: Final = 1 << 16  # of a file made by the start, up to which its contents are remembered
MAX_WAY_BYTES: Final = 16 << 20  # all paths from the top down to a directory together: who walks holds each
_BREATH: Final = 64  # names between two pauses


class Change:
    """One difference; `inode` is the present file, `base` the one below, `known` the one that the start had made.
    `is_unseen`: when guests made theirs there was nothing below yet.
    """

    def __init__(self, kind: str, path: bytes, inode: Inode | None, base: Inode | None) -> None:
        self.kind: str = kind
        self.path: bytes = path  # absolute
        self.inode: Inode | None = inode
        self.base: Inode | None = base
        self.known: Known | None = None
        self.is_unseen: bool = False

    def has_new_data(self) -> bool:
        """Whether the contents may differ from those below."""
        inode = self.inode
        if inode is None or inode.mode & S_IFMT != S_IFREG:
            return False
        return not (isinstance(inode, OverlayFile) and inode.is_below and inode.backing is self.base)


class _Frame:
    """A directory of the walk: names still to come, the next one last."""

    def __init__(self, path: bytes, upper: TmpfsDir | None, below: list[Inode], *, is_in_place: bool) -> None:
        self.path: bytes = path
        self.upper: TmpfsDir | None = upper
        self.below: list[Inode] = below
        self.is_in_place: bool = is_in_place  # `upper` already merges `below`
        self.is_unseen: bool = False  # as in `Change`
        self.names: list[bytes] = []
        self.is_listed: bool = False
        self.last: Change | None = None  # the change that has replaced the directory


def _differs(inode: Inode, base: Inode) -> bool:
    if inode.mode != base.mode or inode.uid != base.uid or inode.gid != base.gid or inode.rdev != base.rdev:
        return True
    if isinstance(inode, TmpfsInode) and inode.xattrs is not None:
        return True
    if inode.mode & S_IFMT == S_IFDIR:
        return False
    return inode.size != base.size or inode.mtime_ns != base.mtime_ns


def _find(ctx: Context, directory: TmpfsDir, name: bytes) -> Inode | None:
    return directory.find(ctx, name)


def _look(ctx: Context, below: list[Inode], name: bytes) -> Inode | None:
    """A name in directories of lower layers."""
    for each in below:
        found = each.lookup(ctx, name)
        if found is not None:
            return found
    return None


class Changes:
    """One walk."""

    def __init__(
        self, ctx: Context, layer: Layer, wanted: list[bytes], patience: Patience | None = None
    ) -> None:
        """`wanted`: only what is at or below one of these; none: everything.

        Without `patience` each answer is waited for on the spot.
        """
        self.patience: Patience | None = patience
        self.ctx: Context = ctx
        self.layer: Layer = layer
        self.wanted: list[bytes] = wanted
        self.seen: set[bytes] = set()  # known paths that still exist
        self.stack: list[_Frame] = []
        self.way_bytes: int = 0  # paths of `stack`
        self.too_deep: list[bytes] = []  # not looked into; the caller reports and removes them
        self.linked: dict[int, Inode] | None = None  # changed files of several names, by number

    def walk(self) -> Iterator[Change | None]:
        """All changes, parents first.  Raises LinuxError."""
        root = self.layer.fs.root_inode
        place = self.layer.place
        if not isinstance(root, TmpfsDir):
            if isinstance(root, TmpfsInode) and root.backing is not None and self._is_wanted(place):
                yield from self._compare(place, root, root.backing)
            return
        base = root.backing
        if base is not None and self._is_wanted(place):
            yield from self._compare(place or b"/", root, base)
        self._push(_Frame(place, root, [], is_in_place=True))
        while self.stack:
            yield from self._step(self.stack[-1])
        for path, known in self.layer.known.items():
            if path not in self.seen and self._is_wanted(path):
                change = Change(DELETED, path, None, None)
                change.known = known
                yield change

    def _ask(self, work: "Callable[[], T]") -> "Generator[None, None, T]":
        """Run `work`, which may ask the host and must change nothing; returns its result. Raises LinuxError."""
        patience = self.patience
        if patience is None:
            return work()
        found = patience.attempt(work)
        while not found:
            yield None
            found = patience.attempt(work)
        return found[0]

    def _linked(self, ino: int) -> Inode | None:
        """The changed file with several names that has this number, if it was not looked up by the present name."""
        return self.linked.get(ino) if self._has_linked() and self.linked is not None else None

    def _has_linked(self) -> bool:
        """Whether there are changed files of several names."""
        if self.linked is None:
            self.linked = {}
            fs = self.layer.fs
            if isinstance(fs, OverlayFs):
                for inode in fs.linked.values():
                    if inode.is_changed:
                        self.linked[inode.ino] = inode
        return bool(self.linked)

    # -- which paths ---------------------------------------------------------------------------------------
    def _is_wanted(self, path: bytes) -> bool:
        if not self.wanted:
            return True
        for each in self.wanted:
            if each == b"/" or path == each or path.startswith(each + b"/"):
                return True
        return False

    def _leads_to_wanted(self, path: bytes) -> bool:
        if self._is_wanted(path):
            return True
        for each in self.wanted:
            if each.startswith(path + b"/"):
                return True
        return False

    # -- the walk --------------------------------------------------------------------------------------------
    def _push(self, frame: _Frame) -> bool:
        """Look into a directory next; False: a guest has put it too deep."""
        if self.way_bytes + len(frame.path) > MAX_WAY_BYTES:
            self.too_deep.append(frame.path)
            return False
        self.way_bytes += len(frame.path)
        self.stack.append(frame)
        return True

    def _names(self, frame: _Frame) -> list[bytes]:
        """The names of both sides, sorted the other way round."""
        ctx = self.ctx
        keyed: dict[bytes, bytes] = {}  # key -> name
        upper = frame.upper
        if upper is not None:
            is_all = not frame.is_in_place or self._has_linked()
            rows = upper.list_all(ctx) if is_all else list(upper.entries.values())
            for row in rows:
                keyed[row.name + b"/" if row.kind == S_IFDIR >> 12 else row.name] = row.name
            if frame.is_in_place and isinstance(upper, OverlayDir):
                for name in upper.removed:
                    if name not in upper.entries:
                        keyed[name] = name
        overlay = self.layer.fs
        if isinstance(overlay, OverlayFs):
            known = set(keyed.values())
            for each in frame.below:
                for name, _ino, kind in list_names(ctx, each, overlay):
                    if name not in known:
                        keyed[name + b"/" if kind == S_IFDIR >> 12 else name] = name
        return [keyed[key] for key in sorted(keyed, reverse=True)]

    def _step(self, frame: _Frame) -> Iterator[Change | None]:
        if not frame.is_listed:
            frame.is_listed = True
            frame.names = yield from self._ask(lambda: self._names(frame))
            yield None
        names = frame.names
        left = _BREATH
        depth = len(self.stack)
        while names:
            yield from self._child(frame, names.pop())
            if len(self.stack) != depth:
                return  # below it first
            left -= 1
            if left == 0:
                left = _BREATH
                yield None
        self.stack.pop()
        self.way_bytes -= len(frame.path)
        last = frame.last
        if last is not None:
            yield last

    def _child(self, frame: _Frame, name: bytes) -> Iterator[Change | None]:
        ctx, upper = self.ctx, frame.upper
        path = frame.path + b"/" + name
        if not self._leads_to_wanted(path):
            return
        above: Inode | None = None
        below: Inode | None = None
        is_in_place = False
        first = self.layer.firsts.get(path)
        is_unseen = frame.is_unseen or (first is not None and not first.mode)
        if upper is not None:
            entry = upper.entries.get(name)
            if entry is not None:
                if frame.is_in_place and entry.is_lower:
                    above = entry.inode
                else:
                    above = yield from self._ask(lambda: _find(ctx, upper, name))
                    if frame.is_in_place and isinstance(upper, OverlayDir):
                        upper.tell(name)
                is_in_place = frame.is_in_place and entry.is_lower
                if is_in_place and not isinstance(above, TmpfsInode):
                    above = self._linked(entry.ino)
                    if above is None:
                        return  # it was not looked into
        if frame.is_in_place and isinstance(upper, OverlayDir):
            if not is_in_place and name in upper.removed:
                below = yield from self._look(upper.lowers, name)
                is_unseen = is_unseen or (upper.unseen is not None and name in upper.unseen)
        else:
            below = yield from self._look(frame.below, name)
        if is_in_place and isinstance(above, TmpfsInode):
            base = above.backing
            if base is not None and above.is_changed and self._is_wanted(path):
                yield from self._compare(path, above, base)
            if isinstance(above, TmpfsDir):
                self._push(_Frame(path, above, [], is_in_place=True))
            return
        depth = len(self.stack)
        for change in self._differ(path, above, below):
            if change is not None and is_unseen:
                change.is_unseen = True
                if change.kind == CHANGED:
                    change.kind, change.base = ADDED, None
            yield change
        if len(self.stack) > depth:
            self.stack[-1].is_unseen = is_unseen

    def _look(self, below: list[Inode], name: bytes) -> "Generator[None, None, Inode | None]":
        """A name in directories of lower layers."""
        found: Inode | None = yield from self._ask(lambda: _look(self.ctx, below, name))
        return found

    def _differ(self, path: bytes, above: Inode | None, below: Inode | None) -> Iterator[Change | None]:
        """The changes at a path where the file is not the one from below."""
        is_wanted = self._is_wanted(path)
        known = self.layer.known.get(path)
        if known is not None and above is not None:
            self.seen.add(path)
        is_gone = False  # on the host, what an earlier sandbox has changed
        if isinstance(above, TmpfsInode) and above.is_from_before and above.backing is None:
            first = self.layer.firsts.get(path)
            if above.is_dir():
                is_gone = above.origin is not None
            elif first is None or not first.mode:
                below = None  # the host has created the file since
            else:
                is_gone = (below is None or below.is_dir()) and first.mode & S_IFMT != S_IFDIR
            if is_gone:
                below = None
                if is_wanted and known is None and not above.is_dir():
                    yield Change(CHANGED, path, above, None)
        is_same_kind = above is not None and below is not None and above.is_dir() == below.is_dir()
        if is_wanted and below is not None and not is_same_kind and known is None:
            yield Change(DELETED, path, None, below)
        last: Change | None = None
        if above is not None and is_wanted and not (is_gone and known is None):
            if known is not None:
                yield from self._compare_known(path, above, known, below)
            elif is_same_kind and below is not None:
                yield from self._compare(path, above, below)
            elif below is not None and below.is_dir():
                # after everything that was removed with the directory
                last = Change(ADDED, path, above, None)
            else:
                yield Change(ADDED, path, above, None)
        hidden = [below] if below is not None and below.is_dir() else []
        if isinstance(above, TmpfsDir) or hidden:
            upper = above if isinstance(above, TmpfsDir) else None
            frame = _Frame(path, upper, hidden, is_in_place=False)
            frame.last = last
            if not self._push(frame) and last is not None:
                yield last

    def _compare(self, path: bytes, inode: Inode, base: Inode) -> Iterator[Change | None]:
        """Compare files of the same type on both sides."""
        known = self.layer.known.get(path)
        if known is not None:
            self.seen.add(path)
            yield from self._compare_known(path, inode, known, base)
            return
        change = Change(CHANGED, path, inode, base)
        if _differs(inode, base):
            yield change

    def _compare_known(
        self, path: bytes, inode: Inode, known: Known, base: Inode | None
    ) -> Iterator[Change | None]:
        if inode is known.inode:
            if inode.ctime_ns == known.ctime_ns:
                return
            if inode.is_dir() and (inode.mode, inode.uid, inode.gid) == (known.mode, known.uid, known.gid):
                return
        change = Change(CHANGED, path, inode, base)
        change.known = known
        yield change


def remember(ctx: Context, layer: Layer) -> None:
    """Record all present files as made by the start. Raises LinuxError."""
    known: dict[bytes, Known] = {}
    for change in Changes(ctx, layer, []).walk():
        if change is None or change.inode is None:
            continue
        inode = change.inode
        data: bytes | None = None
        if inode.mode & S_IFMT == S_IFREG and inode.size <= KNOWN_BYTES:
            file = open_inode(ctx, layer, inode)
            data = file.read_bytes(ctx, 0, inode.size)
            file.put()
        known[change.path] = Known(inode, data)
    layer.known = known


def open_inode(ctx: Context, layer: Layer, inode: Inode) -> FileDescription:
    """Open a file of a layer for reading by its inode; it has one reference. Raises LinuxError."""
    # guests may have unmounted their own mount
    mount = Mount(0, layer.fs, Dentry(b"", None, layer.fs.root_inode))
    return inode.open(ctx, Path(mount, Dentry(b"", None, inode)), 0).get()
