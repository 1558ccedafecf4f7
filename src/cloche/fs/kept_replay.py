"""Restores the file systems of a kept layer from what its journal says (`fs.kept`, `fs.kept_rows`)."""

from typing import Final

from cloche.abi.errno import EIO, ENOENT, ENOSPC, LinuxError
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dtype
from cloche.fs.dir_entry import DirEntry
from cloche.fs.kept_rows import ORIGIN_NEW, ORIGIN_STARTED, ROOT_LABEL, JournalState, bytes_at, number_at
from cloche.fs.overlay import OverlayDir, OverlayFile
from cloche.fs.quota import FileMaker
from cloche.fs.tmpfs import TmpfsDir, TmpfsFile
from cloche.fs.tmpfs_inode import MemoryFs, TmpfsInode, TmpfsLink
from cloche.vfs.objects import Context

_MAX_PATH: Final = 4096  # what the host has taken away from deeper places is not seen


def origin_of(inode: TmpfsInode, paths: dict[TmpfsInode, bytes]) -> bytes | None:
    """The path of a file when the sandbox started; None for a new file.  `paths`: of files that the start has made."""
    known = paths.get(inode)
    if known is not None:
        return known
    parts: list[bytes] = []
    each: TmpfsInode | None = inode
    while each is not None and each is not each.tmpfs.root_inode:
        if each.origin is None:
            known = paths.get(each)
            if known is None or not parts:
                return None
            parts.append(known)
            break
        parts.append(each.origin_name)
        each = each.origin
    parts.reverse()
    return b"/".join(parts)


class Replay:
    """Restores one file system from the journal's state."""

    def __init__(
        self,
        ctx: Context,
        maker: FileMaker,
        paths: dict[TmpfsInode, bytes],
        fs: MemoryFs,
        state: JournalState,
        used: set[int],
    ) -> None:
        """`paths` are those of files that the start has made; numbers of contents are added to `used`."""
        self.ctx: Context = ctx
        self.maker: FileMaker = maker
        self.paths: dict[TmpfsInode, bytes] = paths
        self.fs: MemoryFs = fs
        self.state: JournalState = state
        self.used: set[int] = used
        self.made: dict[int, TmpfsInode] = {}
        self.placed: set[TmpfsInode] = set()  # directories that have got a name
        self.dropped: set[int] = set()  # labels of files whose contents were the host's, and are gone
        self.lost_rows: dict[int, list[object]] = {}  # as the journal has them, by label
        self.nameless: list[TmpfsInode] = []  # has to stay, or what is in it would be given up
        self.by_path: dict[bytes, int] = {}  # labels of the lost, by where they were
        self.stood: dict[bytes, TmpfsDir] = {}  # directories in place of those that the host has not any more
        self.places: list[tuple[TmpfsDir, bytes, TmpfsInode]] = []  # names of the lost, where they were
        self.lost_names: list[tuple[int, bytes, int]] = []  # directory, name, label
        # where files of the host were that the layer has changed or renamed
        self.origins: set[bytes] = {
            bytes_at(row, 4) for row in state.files.values() if row[3] == ORIGIN_STARTED
        }

    def run(self) -> None:
        """Restore everything. Raises LinuxError."""
        root = self.fs.root_inode
        if not isinstance(root, TmpfsInode):
            raise LinuxError(EIO)
        root.label = ROOT_LABEL
        self.made[ROOT_LABEL] = root
        needed: set[int] = set()
        for names in self.state.names.values():
            needed.update(names.values())
        lost: dict[int, list[object]] = {}
        for label, row in list(self.state.files.items()):
            if row[3] == ORIGIN_NEW and label != ROOT_LABEL and label not in needed:
                del self.state.files[label]  # it lost its last name
                continue
            inode = root if label == ROOT_LABEL else self._find(row)
            if inode is None:
                if row[3] == ORIGIN_STARTED:
                    lost[label] = row
                    self.lost_rows[label] = list(row)
                    self.by_path.setdefault(bytes_at(row, 4), label)
                    continue
                inode = self._make(row)
            inode.label = label
            self.made[label] = inode
        if lost:
            self._find_moved(lost)
        for label, row in self.state.files.items():
            if label in self.made:
                self._fill(self.made[label], row)
        for label, names in list(self.state.names.items()):
            directory = self.made.get(label)
            if not isinstance(directory, TmpfsDir):
                del self.state.names[label]
                continue
            for name, child in list(names.items()):
                if child in self.dropped:
                    self._drop_name(label, name)
                else:
                    self._name(directory, name, child)
        for directory, name, inode in self.places:
            self._put(directory, name, inode)
        for label, row in self.state.files.items():
            if label not in self.made:
                continue
            inode = self.made[label]  # making names has changed link counts and sizes
            inode.nlink = max(number_at(row, 9), 1)
            if isinstance(inode, TmpfsDir):
                inode.size = max(number_at(row, 10), 0)
        self._remember_lost()

    def _remember_lost(self) -> None:
        """Leave what the journal says of the lost as it is: what the host has renamed may be renamed back (`cloche
        apply --undo`), and is then what it was.
        """
        for label, row in self.lost_rows.items():
            self.state.files[label] = row
            contents = row[17]
            if isinstance(contents, int) and contents is not True:
                self.used.add(contents)
        for label, name, child in self.lost_names:
            self.state.names[label][name] = child

    def _drop_name(self, above: int, name: bytes) -> None:
        """Make nothing of a name of something lost."""
        self.lost_names.append((above, name, self.state.names[above].pop(name)))

    def _find(self, row: list[object]) -> TmpfsInode | None:
        """The file that is there at the start; None if it is gone, or of another type."""
        path = row[4]
        if row[3] != ORIGIN_STARTED or not isinstance(path, bytes):
            return None
        at: TmpfsInode | None = None
        root = self.fs.root_inode
        if isinstance(root, TmpfsInode):
            at = root
        for part in path.split(b"/"):
            if not isinstance(at, TmpfsDir):
                return None
            try:
                below = at.find(self.ctx, part)
            except LinuxError:
                return None
            at = below if isinstance(below, TmpfsInode) else None
        if at is None or at.mode & S_IFMT != number_at(row, 5) & S_IFMT:
            return None
        return at

    def _find_moved(self, lost: dict[int, list[object]]) -> None:
        """What was at some path when the sandbox started, and is no more: the host may have renamed it, too (`cloche
        apply`).

        Then what is below at the name that it has in the layer stands for it. Otherwise a directory is made, but of a
        file that is unchanged nothing is left. Raises LinuxError.
        """
        names_of: dict[int, list[tuple[int, bytes]]] = {}  # directory -> the lost in it
        for label, names in self.state.names.items():
            for name, child in names.items():
                if child in lost:
                    names_of.setdefault(label, []).append((child, name))
        todo = [label for label in names_of if label in self.made]
        order = [
            label for _path, label in sorted(((bytes_at(lost[each], 4), each) for each in lost), reverse=True)
        ]
        while True:
            while todo:
                above = todo.pop()
                for label, name in names_of.pop(above, []):
                    row = lost.pop(label, None)
                    if row is None:
                        continue  # it has another name, too
                    inode = self._moved(above, name, row)
                    if inode is not None:
                        inode.label = label
                        self.made[label] = inode
                        if label in names_of:
                            todo.append(label)
            if not order:
                return
            label = order.pop()
            row = lost.pop(label, None)
            if row is not None:
                self._leave(label, row)
                if label in names_of and label in self.made:
                    todo.append(label)

    def _leave(self, label: int, row: list[object]) -> None:
        """What the host has not any more stays where it was, if the layer has contents of it. Raises LinuxError."""
        is_dir = number_at(row, 5) & S_IFMT == S_IFDIR
        if is_dir:
            if not any(self.state.names.get(label, {}).values()):
                return  # made if it is needed
        elif row[17] is None or row[17] is True:
            return
        path = bytes_at(row, 4)
        above, _slash, name = path.rpartition(b"/")
        directory = self._stand_in(above) if len(path) < _MAX_PATH else None
        if directory is None or self._is_taken(directory, name):
            if is_dir:
                made = self._made_anew(label, row)
                if made is not None:
                    self.nameless.append(made)
            return
        inode = self._made_anew(label, row)
        if inode is not None:
            self._place(directory, name, inode)
            if isinstance(inode, TmpfsDir):
                self.stood[path] = inode

    def _is_taken(self, directory: TmpfsDir, name: bytes) -> bool:
        """Whether guests have put something else there, or nothing."""
        return directory.label != 0 and name in self.state.names.get(directory.label, {})

    def _place(self, directory: TmpfsDir, name: bytes, inode: TmpfsInode) -> None:
        inode.origin, inode.origin_name = directory, name
        self.places.append((directory, name, inode))

    def _stand_in(self, path: bytes) -> TmpfsDir | None:
        """The directory that was at a path: it was renamed, or is made again. None: guests have removed it, or there
        is another file.  Raises LinuxError.
        """
        root = self.fs.root_inode
        at: TmpfsDir | None = root if isinstance(root, TmpfsDir) else None
        way = b""
        for part in path.split(b"/") if path else []:
            if at is None:
                return None
            way = way + b"/" + part if way else part
            label = self.by_path.get(way, 0)
            known = self.stood.get(way)
            there = self.made.get(label)
            if known is not None:
                at = known
            elif isinstance(there, TmpfsDir):
                at = there
            elif self._is_taken(at, part):
                return None
            else:
                found = at.find(self.ctx, part) if isinstance(at, OverlayDir) else None
                at = found if isinstance(found, TmpfsDir) else self._stand(at, way, part, label)
        return at

    def _stand(self, above: TmpfsDir, path: bytes, name: bytes, label: int) -> TmpfsDir:
        """A directory in place of one. Raises LinuxError."""
        row = self.state.files.get(label)
        made = self._made_anew(label, row) if row is not None else None
        if not isinstance(made, TmpfsDir):
            self.fs.account.charge_inode()
            made = TmpfsDir(self.fs, self.fs.alloc_ino(), S_IFDIR | 0o755, 0, 0)
            made.is_from_before = True
        self._place(above, name, made)
        self.stood[path] = made
        return made

    def _moved(self, above: int, name: bytes, row: list[object]) -> TmpfsInode | None:
        """The file that is there in place of a lost one. Raises LinuxError."""
        label = number_at(row, 2)
        directory = self.made[above]
        entry = directory.entries.get(name) if isinstance(directory, TmpfsDir) else None
        is_below = entry is None or entry.is_lower  # it may have been looked up for another one (`_find`)
        if isinstance(directory, OverlayDir) and is_below:
            found = directory.find(self.ctx, name)
            if not isinstance(found, TmpfsInode) or found.label:
                pass
            elif found.mode & S_IFMT == number_at(row, 5) & S_IFMT:
                self._drop_name(above, name)
                known = [found.mode, found.uid, found.gid, found.rdev, 1, found.size]
                if row[17] is True and known == row[5:11]:
                    del self.state.files[label]  # what is below says it all
                    return None
                row[4] = origin_of(found, self.paths) or b""
                return found
        return self._made_anew(label, row)

    def _made_anew(self, label: int, row: list[object]) -> TmpfsInode | None:
        """A lost file as a new one; None if its contents were the host's."""
        if row[17] is True:
            del self.state.files[label]
            self.dropped.add(label)
            return None
        inode = self._make(row)
        inode.label = label
        self.made[label] = inode
        return inode

    def _make(self, row: list[object]) -> TmpfsInode:
        """Make a new file. Raises LinuxError(ENOSPC)."""
        fs = self.fs
        mode, uid, gid = number_at(row, 5), number_at(row, 6), number_at(row, 7)
        fs.account.charge_inode()
        kind = mode & S_IFMT
        inode: TmpfsInode
        if kind == S_IFREG:
            inode = TmpfsFile(fs, fs.alloc_ino(), mode, uid, gid)
        elif kind == S_IFDIR:
            inode = TmpfsDir(fs, fs.alloc_ino(), mode, uid, gid)
        elif kind == S_IFLNK:
            target = row[15]
            inode = TmpfsLink(fs, fs.alloc_ino(), target if isinstance(target, bytes) else b"?", uid, gid)
        else:
            inode = TmpfsInode(fs, fs.alloc_ino(), mode, uid, gid)
        row[3] = ORIGIN_NEW
        inode.is_from_before = True
        return inode

    def _fill(self, inode: TmpfsInode, row: list[object]) -> None:
        """Restore attributes and contents. Raises LinuxError."""
        inode.mode = inode.mode & S_IFMT | number_at(row, 5) & 0o7777
        inode.uid, inode.gid, inode.rdev = number_at(row, 6), number_at(row, 7), number_at(row, 8)
        contents = row[17]
        if isinstance(inode, TmpfsFile) and contents is not True:
            size = max(number_at(row, 10), 0)
            inode.take_over(self.ctx, 0)
            if isinstance(contents, bytes):
                if inode.storage.write(0, contents, len(contents)) < 0:
                    raise LinuxError(ENOSPC)
            elif isinstance(contents, int):
                try:
                    inode.storage.adopt(contents, self.maker)
                    self.used.add(contents)
                except LinuxError as error:
                    if error.errno != ENOENT:
                        raise
                    row[17] = b""  # the file was removed: a hole
            inode.size = size
            inode.blocks = inode.storage.pages * 8
        elif isinstance(inode, OverlayFile) and contents is True:
            pass
        inode.atime_ns, inode.mtime_ns = number_at(row, 11), number_at(row, 12)
        inode.ctime_ns, inode.btime_ns = number_at(row, 13), number_at(row, 14)
        xattrs = row[16]
        if isinstance(xattrs, list):
            found: dict[bytes, bytes] = {}
            for pair in xattrs:
                if isinstance(pair, list):
                    found[pair[0]] = pair[1]
            inode.xattrs = found
        inode.is_changed = True

    def _unname(self, path: bytes, inode: TmpfsInode) -> None:
        """Remove the first name of a directory that the start has made."""
        above, _slash, name = path.rpartition(b"/")
        at: TmpfsInode | None = None
        root = self.fs.root_inode
        if isinstance(root, TmpfsInode):
            at = root
        for part in above.split(b"/") if above else []:
            entry = at.entries.get(part) if isinstance(at, TmpfsDir) else None
            below = entry.inode if entry is not None else None
            at = below if isinstance(below, TmpfsInode) else None
        if isinstance(at, TmpfsDir):
            entry = at.entries.get(name)
            if entry is not None and entry.inode is inode:
                self._name(at, name, 0)

    def _name(self, directory: TmpfsDir, name: bytes, child: int) -> None:
        """Make or remove a name."""
        if isinstance(directory, OverlayDir):
            directory.removed.add(name)
        old = directory.entries.pop(name, None)
        if old is not None:
            old.cookie = 0
        inode = self.made.get(child)
        if inode is not None and inode is not self.fs.root_inode:
            self._put(directory, name, inode)
            if (
                isinstance(directory, OverlayDir)
                and inode.is_from_before
                and not self._was_below(directory, name)
            ):
                directory.hide_unseen(name)

    def _was_below(self, directory: TmpfsDir, name: bytes) -> bool:
        """Whether the host had something by this name when guests put theirs there."""
        above = origin_of(directory, self.paths)
        if above is None:
            return False  # nor had it the directory
        path = above + b"/" + name if above else name
        first = self.state.firsts.get(path)
        return path in self.origins or (first is not None and first.mode != 0)

    def _put(self, directory: TmpfsDir, name: bytes, inode: TmpfsInode) -> None:
        """Make a name."""
        if isinstance(inode, TmpfsDir):
            # A directory gets one name only, and loses its first one, so no journal can make circles.
            if inode in self.placed:
                return
            self.placed.add(inode)
            above = inode.origin
            if isinstance(above, TmpfsDir):
                first = above.entries.get(inode.origin_name)
                if first is not None and first.inode is inode:
                    self._name(above, inode.origin_name, 0)
            elif inode in self.paths:
                self._unname(self.paths[inode], inode)
        if isinstance(directory, OverlayDir):
            directory.removed.add(name)
        old = directory.entries.pop(name, None)
        if old is not None:
            old.cookie = 0
        cookie = directory.next_cookie
        directory.next_cookie = cookie + 1
        entry = DirEntry(name, inode, inode.ino, dtype(inode.mode), cookie)
        entry.charge()
        directory.entries[name] = entry
