"""Restores the file systems of a kept layer from what its journal says (`fs.kept`, `fs.kept_rows`)."""

from cloche.abi.errno import EIO, ENOENT, ENOSPC, LinuxError
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dtype
from cloche.fs.dir_entry import DirEntry
from cloche.fs.kept_rows import ORIGIN_NEW, ORIGIN_STARTED, ROOT_LABEL, JournalState, number_at
from cloche.fs.overlay import OverlayDir, OverlayFile
from cloche.fs.quota import FileMaker
from cloche.fs.tmpfs import TmpfsDir, TmpfsFile
from cloche.fs.tmpfs_inode import MemoryFs, TmpfsInode, TmpfsLink
from cloche.vfs.objects import Context


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
        self.lost_names: list[tuple[int, bytes, int]] = []  # directory, name, label

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
            if not lost:
                return
            label = next(iter(lost))  # in a directory that is lost, too, or without a name
            row = lost.pop(label)
            if number_at(row, 5) & S_IFMT != S_IFDIR:
                continue  # nobody sees it
            made = self._made_anew(label, row)
            if made is not None:
                self.nameless.append(made)
            if label in names_of:
                todo.append(label)

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
        if inode is None or inode is self.fs.root_inode:
            return
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
        cookie = directory.next_cookie
        directory.next_cookie = cookie + 1
        entry = DirEntry(name, inode, inode.ino, dtype(inode.mode), cookie)
        entry.charge()
        directory.entries[name] = entry
