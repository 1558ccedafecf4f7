"""Private layers that last (`cloche run --keep`): what guests write, in files of the host.

A directory of the host (an attach point of the gofer that no guest sees) holds

    journal    the tree, as a log of what files are and where: frames of u32 length, u32 CRC-32, CBOR
    N          the contents of regular file number N, if they are not in the journal

Each frame is a list of rows and is atomic: names that are exchanged are in one frame. A torn frame, and everything
after it, counts as not written. Rows (`layer` counts the file systems in the order of the spec; `label` is a number
that a file has for the life of the journal; 1 is a layer's root):

    [0, layer, label, origin, path, mode, uid, gid, rdev, nlink, size, atime_ns, mtime_ns, ctime_ns, btime_ns, target,
        xattrs, contents]    a file with these attributes.  `origin`: 0 new, 1 it was at `path` when the sandbox
                             started (the host's, or made by the start).  `xattrs`: pairs, or null: as below.
                             `contents`: bytes, the number of a file, or true: as below, null: not a regular file
    [1, layer, label of a directory, name, label]    a name; label 0: it was removed; -1: and there is none below
    [2, layer, label]                                the file was removed
    [3, layer, 1, path, mode, uid, gid, size, mtime_ns, ctime_ns]    the host's file at `path` when it was first looked
                             at, for a file that was changed or removed: so later changes by the host are recognized

Later rows override earlier ones; replaying all of them gives the layer.  At each start the log is written anew, short,
as `journal.new`, and renamed; while the sandbox runs, too, once it has become long (`fs.kept_rewrite`).

Guarantees: the journal is written between two calls of guests, at most about FLUSH_NS after a change, so a crash of
any process loses no more, and once more at the orderly end of the container (`close`), which loses nothing; with
fsync(2) and its kin contents, then the journal, are on the disk before the call returns. The number of a file whose
contents are not needed any more is freed only after that is written. A journal that cannot be written (a full disk)
stays valid as it is, and `close` reports it. Everything that is read here is checked: a layer may come from anywhere.
"""

import os
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EIO, ENOENT, ENOSPC, LinuxError
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dtype
from cloche.fs.dir_entry import DirEntry
from cloche.fs.gofer_client import GoferClient
from cloche.fs.kept_disk import JOURNAL, JOURNAL_NEW, MODE, LayerDisk
from cloche.fs.kept_rewrite import SPARE_BYTES, Rewriter
from cloche.fs.kept_rows import (
    FORGOTTEN,
    MAX_FRAME_BYTES,
    NOT_THERE,
    ORIGIN_NEW,
    ORIGIN_STARTED,
    READ_BYTES,
    ROOT_LABEL,
    ROW_FILE,
    ROW_FIRST,
    ROW_GONE,
    ROW_NAME,
    Frames,
    JournalState,
    bytes_at,
    first_row,
    number_at,
    pack_frame,
    read_rows,
)
from cloche.fs.overlay import OverlayDir, OverlayFile
from cloche.fs.tmpfs import TmpfsDir, TmpfsFile
from cloche.fs.tmpfs_inode import LayerLog, MemoryFs, TmpfsInode, TmpfsLink
from cloche.kernel.chores import Chore
from cloche.kernel.patience import Patience
from cloche.kernel.task import Kernel
from cloche.kernel.timers import LAYER_FLUSH, TimerOwner, monotonic_ns
from cloche.vfs.layers import First, Keeping, Layer
from cloche.vfs.objects import Context, Inode
from cloche.wire.cbor import CborError

FLUSH_NS: Final = 200_000_000
MANY: Final = 64  # changed files and names after which they are written
INLINE_BYTES: Final = 1 << 14
_UNLINKS: Final = 32  # numbers that are freed at a time
_MAX_UNLINKS: Final = 128  # unanswered requests to remove files


class _Flusher(Chore):
    """Writes changes soon, between calls, after the files that this needs were made."""

    def __init__(self, store: "LayerStore") -> None:
        self.store: LayerStore = store
        kernel = store.kernel
        self.patience: Patience = Patience(kernel.host_waits, kernel.chores, self)

    def step(self) -> bool:
        store = self.store
        self.patience.attempt(store.make_files)
        if not self.patience.is_waiting():
            store.is_chore_queued = False
            store.flush(is_chore=True)
        return False


class LayerStore(LayerDisk, TimerOwner, LayerLog, Keeping):
    """The kept layer of a container."""

    def __init__(self, kernel: Kernel, client: GoferClient, index: int) -> None:
        """`client` waits for every answer.  Raises LinuxError."""
        super().__init__(kernel, client, index)
        self.layers: list[Layer] = []
        self.number_of: dict[MemoryFs, int] = {}
        self.paths: dict[TmpfsInode, bytes] = {}  # paths of files that the start has made
        self.changed_files: dict[TmpfsInode, None] = {}
        self.changed_names: dict[TmpfsDir, dict[bytes, None]] = {}
        self.gone: list[tuple[int, int]] = []  # layer and label of files that have lost their last name
        self.firsts: list[object] = []  # rows of the host's files, to be written
        self.known_firsts: list[set[bytes]] = []  # the paths of such rows from before, by layer
        self.next_label: int = ROOT_LABEL + 1
        self.doomed: list[int] = []  # numbers to free
        self.rewriter: Rewriter | None = None
        self.is_armed: bool = False
        self.is_chore_queued: bool = False
        self.flusher: _Flusher = _Flusher(self)
        self.is_closed: bool = False
        self.unknown: int = 0  # after an error: numbers from here on are in no journal
        self.progress: Callable[[], None] | None = None  # called while the rest is written

    # -- what file systems tell ------------------------------------------------------------------------------
    def changed(self, inode: TmpfsInode) -> None:
        if self.error:
            return  # nothing more will be written
        if inode.backing is not None and not inode.is_first_kept:
            self._remember(inode, inode.backing)
        if inode.nlink == 0:  # the journal must not keep it alive
            self.changed_files.pop(inode, None)
            if inode.label:
                self.gone.append((self._number(inode), inode.label))
                inode.label = 0
        else:
            self.changed_files[inode] = None
        self._arm()

    def _remember(self, inode: TmpfsInode, below: Inode) -> None:
        """Record the host's file as it was first seen."""
        if isinstance(inode, TmpfsDir) and inode.nlink:
            return  # for directories only their removal is recorded
        inode.is_first_kept = True
        if inode in self.paths:
            return
        path = self._origin(inode)
        number = self._number(inode)
        if path is not None and path not in self.known_firsts[number]:
            first = First(below.mode, below.uid, below.gid, below.size, below.mtime_ns, below.ctime_ns)
            self.firsts.append(first_row(number, path, first))

    def named(self, directory: TmpfsInode, name: bytes) -> None:
        if not isinstance(directory, TmpfsDir) or self.error:
            return
        names = self.changed_names.get(directory)
        if names is None:
            names = {}
            self.changed_names[directory] = names
        names[name] = None
        self._arm()

    def _arm(self) -> None:
        if self.is_chore_queued:
            return
        if len(self.changed_files) + len(self.changed_names) >= MANY:
            self._flush_soon()
        elif not self.is_armed:
            self.is_armed = True
            self.kernel.timers.add(monotonic_ns() + FLUSH_NS, LAYER_FLUSH, self)

    def _flush_soon(self) -> None:
        if not self.is_chore_queued and not self.is_closed:
            self.is_chore_queued = True
            self.kernel.chores.append(self.flusher)

    def timer_due(self, kind: int, argument: int) -> None:
        self.is_armed = False
        self._flush_soon()

    # -- contents --------------------------------------------------------------------------------------------
    def make_files(self) -> bool:
        """Make the files for contents that do not fit into the journal, and check that the disk answers.

        Raises HostWait.
        """
        self.wait_for_flight()
        self.prove()
        for inode in list(self.changed_files):
            if isinstance(inode, TmpfsFile) and inode.nlink and not self.error:
                self._contents(inode, is_for_file=True)
        return True

    def give_up(self, number: int) -> None:
        if not self.is_closed and (not self.error or number >= self.unknown):
            self.doomed.append(number)
            self._arm()

    # -- writing ---------------------------------------------------------------------------------------------
    def flush(self, *, is_chore: bool = False) -> None:
        """Write changes, then delete a few of the files that are not needed any more.

        `is_chore`: other tasks may run if that takes long.
        """
        if self.fd < 0:
            return
        if not self.error:
            self._flush_changes(is_chore=is_chore)
            self._rewrite()
        client = self.client
        if self.progress is not None or client.late_count() < _MAX_UNLINKS:
            for number in self.doomed[:_UNLINKS]:
                try:
                    if self.progress is None:
                        client.unlink_later(self.fid, b"%d" % number)
                    else:
                        client.unlink(self.fid, b"%d" % number)
                except LinuxError:
                    pass
                self._go_on()
            del self.doomed[:_UNLINKS]
        if self.doomed:
            self._arm()

    def _rewrite(self) -> None:
        """Begin to write the journal anew if it has become long, or go on with that."""
        rewriter = self.rewriter
        if rewriter is not None and rewriter.is_over:
            rewriter = self.rewriter = None
        if rewriter is None and self.progress is None and self.end > 2 * self.short + SPARE_BYTES:
            rewriter = self.rewriter = Rewriter(self, len(self.layers))
            self.kernel.chores.append(rewriter)
        if rewriter is not None:
            rewriter.keep_up()

    def _go_on(self) -> None:
        if self.progress is not None:
            self.progress()

    def _flush_changes(self, *, is_chore: bool) -> None:
        rows: list[object] = []
        if self.changed_files or self.changed_names or self.gone or self.firsts:
            names, self.changed_names = self.changed_names, {}
            more: list[TmpfsInode] = []
            for directory in names:
                for name in names[directory]:
                    entry = directory.entries.get(name)
                    inode = entry.inode if entry is not None and not entry.is_lower else None
                    label = NOT_THERE
                    if entry is None and not (
                        isinstance(directory, OverlayDir) and name in directory.removed
                    ):
                        label = FORGOTTEN
                    if isinstance(inode, TmpfsInode):
                        if inode.label == 0:
                            more.append(inode)
                        label = self._label(inode)
                    if directory.label == 0:
                        more.append(directory)
                    rows.append([ROW_NAME, self._number(directory), self._label(directory), name, label])
            files = self.changed_files
            self.changed_files = {}
            for inode in more:
                files[inode] = None
                if isinstance(inode, TmpfsDir) and inode.nlink:
                    self._all_names(inode, rows)
            for inode in files:
                row = self._row(inode)
                if row is not None:
                    rows.append(row)
                self._go_on()
            for number, label in self.gone:
                rows.append([ROW_GONE, number, label])
            rows += self.firsts
            self.gone, self.firsts = [], []
        if rows and not self.error:  # otherwise the contents of a file might be lost
            self._write(rows, is_chore=is_chore)

    def _fail(self, errno: int) -> None:
        """Stop writing the journal: what is on the disk is consistent, and later changes cannot be stored."""
        self.error = errno
        self.changed_files, self.changed_names, self.gone, self.firsts = {}, {}, [], []
        # Files that are in the journal are not deleted any more; newer ones may be.
        self.doomed = [number for number in self.doomed if number >= self.unknown]

    def _all_names(self, directory: TmpfsDir, rows: list[object]) -> None:
        """Add the rows of a directory that is not in the journal yet, with all new files in it."""
        stack = [directory]
        while stack:
            each = stack.pop()
            for entry in each.entries.values():
                inode = entry.inode
                if entry.is_lower or not isinstance(inode, TmpfsInode):
                    continue
                is_new = inode.label == 0
                rows.append([ROW_NAME, self._number(each), self._label(each), entry.name, self._label(inode)])
                if is_new:
                    row = self._row(inode)
                    if row is not None:
                        rows.append(row)
                    if isinstance(inode, TmpfsDir):
                        stack.append(inode)

    def _number(self, inode: TmpfsInode) -> int:
        return self.number_of.get(inode.tmpfs, 0)

    def _label(self, inode: TmpfsInode) -> int:
        if inode.label == 0:
            inode.label = ROOT_LABEL if inode is inode.tmpfs.root_inode else self.next_label
            if inode.label != ROOT_LABEL:
                self.next_label += 1
        return inode.label

    def _row(self, inode: TmpfsInode) -> list[object] | None:
        """The present row of a file; None if none is needed."""
        number = self._number(inode)
        if inode.nlink == 0:
            return None
        path = self._origin(inode)
        contents: object = None
        if isinstance(inode, TmpfsFile):
            contents = self._contents(inode)
        target = inode.target if isinstance(inode, TmpfsLink) else None
        xattrs: object = None
        if inode.xattrs is not None:
            xattrs = [[name, value] for name, value in inode.xattrs.items()]
        return [
            *(
                ROW_FILE,
                number,
                self._label(inode),
                ORIGIN_NEW if path is None else ORIGIN_STARTED,
                path or b"",
            ),
            *(inode.mode, inode.uid, inode.gid, inode.rdev, inode.nlink, inode.size),
            *(inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns, target, xattrs, contents),
        ]

    def _contents(self, file: TmpfsFile, *, is_for_file: bool = False) -> object:
        """The contents for its row; `is_for_file`: only make the file for them, if one is needed."""
        if isinstance(file, OverlayFile) and file.is_below:
            return True
        storage = file.storage
        if storage.number == 0:
            kept = storage.kept_bytes()
            if kept <= INLINE_BYTES and file.size <= INLINE_BYTES:
                return None if is_for_file else storage.read(0, file.size)
            try:
                storage.memfd(file.size)
            except LinuxError:
                if is_for_file:
                    return None
                if file.size <= MAX_FRAME_BYTES // 4:
                    return storage.read(0, file.size)
                self._fail(ENOSPC)
                return b""
        return storage.number

    def _origin(self, inode: TmpfsInode) -> bytes | None:
        """Its path when the sandbox started; None for a new file."""
        known = self.paths.get(inode)
        if known is not None:
            return known
        parts: list[bytes] = []
        each: TmpfsInode | None = inode
        while each is not None and each is not each.tmpfs.root_inode:
            if each.origin is None:
                known = self.paths.get(each)
                if known is None or not parts:
                    return None
                parts.append(known)
                break
            parts.append(each.origin_name)
            each = each.origin
        parts.reverse()
        return b"/".join(parts)

    def _write(self, rows: list[object], *, is_chore: bool = False) -> None:
        young = self.next_number
        start_ns = monotonic_ns()
        try:
            frame = pack_frame(rows)
            at = self.end
            self.end += len(frame)  # a later write goes after it
            if is_chore:
                self.write_in_turns(self.fd, frame, at)
            else:
                done = 0
                while done < len(frame):
                    done += os.pwrite(self.fd, frame[done : done + READ_BYTES], at + done)
                    self._go_on()
            self.unknown = max(self.unknown, young)
            self.changed_since(start_ns)
            if self.rewriter is not None:
                self.rewriter.written(frame)
        except (OSError, CborError) as failure:
            self._fail((failure.errno or EIO) if isinstance(failure, OSError) else EIO)

    def sync(self, inode: TmpfsInode | None) -> int:
        """Have the changes on disk, by a helper of the gofer (HostWait, and again from the start)."""
        if isinstance(inode, TmpfsFile) and inode.storage.is_mapped:
            self.changed(inode)
        self.make_files()
        self.flush()  # before the next request, so that nothing is left to write when the call is run again
        client = self.client
        client.patiently(is_on=True)
        try:
            if inode is None:
                client.syncfs(self.fid)
            elif isinstance(inode, TmpfsFile) and inode.storage.number:
                client.fsync(self.fid, b"%d" % inode.storage.number, is_data_only=True)
            if self.fd >= 0:
                client.fsync(self.fid, JOURNAL, is_data_only=True)
            if self.rewriter is not None:
                self.rewriter.sync()
        except LinuxError as error:
            return -error.errno
        finally:
            client.patiently(is_on=False)
        return -self.error

    def close(self, progress: Callable[[], None]) -> int:
        if self.is_closed:
            return self.error
        self.progress = progress
        progress()
        self.flush()
        while self.doomed:
            self.flush()
        if self.rewriter is not None:
            self.rewriter.stop()
        self.progress = None
        self.is_closed = True  # files that are dropped from now on are not deleted
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        return self.error

    # -- reading ---------------------------------------------------------------------------------------------
    def open(self, ctx: Context, layers: list[Layer]) -> None:
        """Restore the layer into the file systems, which have just been made. Raises LinuxError."""
        states = [JournalState() for _layer in layers]
        self.layers = layers
        self._read(states)
        used: set[int] = set()
        for number, layer in enumerate(layers):
            fs = layer.fs
            if not isinstance(fs, MemoryFs):
                raise LinuxError(EIO)
            self.number_of[fs] = number
            place = len(layer.place)
            for path, known in layer.known.items():
                if isinstance(known.inode, TmpfsInode):
                    self.paths[known.inode] = path[place:].lstrip(b"/")
            _Replay(ctx, self, fs, states[number], used).run()
            for path, first in states[number].firsts.items():
                layer.firsts[layer.place + b"/" + path if path else layer.place] = first
            self.known_firsts.append(set(states[number].firsts))
        listing = self.client.relist(self.fid)
        for name in listing.index:
            if name.isdigit() and int(name) not in used:
                self.client.unlink(self.fid, name)  # it is not in the journal
            if name.isdigit():
                self.next_number = max(self.next_number, int(name) + 1)
        self._begin(states)
        for layer in layers:
            fs = layer.fs
            if isinstance(fs, MemoryFs):
                fs.account.maker = self
                fs.log = self

    def _read(self, states: list[JournalState]) -> None:
        """Replay the journal.  Raises LinuxError."""
        try:
            fd = self.client.open(self.fid, JOURNAL, os.O_RDONLY)[0]
        except LinuxError as error:
            if error.errno == ENOENT:
                return
            raise
        try:
            frames = Frames(fd)
            while True:
                body = frames.next()
                if body is None or not self._take(body, states):
                    return
        except OSError as failure:
            raise LinuxError(failure.errno or EIO)
        finally:
            os.close(fd)

    def _take(self, body: bytes, states: list[JournalState]) -> bool:
        """Apply one frame; False if it is malformed."""
        rows = read_rows(body, len(states))
        if rows is None:
            return False
        for row in rows:
            kind, label = number_at(row, 0), number_at(row, 2)
            state = states[number_at(row, 1)]
            self.next_label = max(self.next_label, label + 1)
            if kind == ROW_FILE:
                state.files[label] = row
            elif kind == ROW_NAME:
                names = state.names.get(label)
                if names is None:
                    names = {}
                    state.names[label] = names
                name, child = bytes_at(row, 3), number_at(row, 4)
                if child == FORGOTTEN:
                    names.pop(name, None)
                else:
                    names[name] = child
            elif kind == ROW_FIRST:
                n = [number_at(row, index) for index in range(4, 10)]
                state.firsts.setdefault(bytes_at(row, 3), First(n[0], n[1], n[2], n[3], n[4], n[5]))
            else:
                state.files.pop(label, None)
                state.names.pop(label, None)
        return True

    def _begin(self, states: list[JournalState]) -> None:
        """Write the journal anew, and open it for appending. Raises LinuxError."""
        try:
            self.client.unlink(self.fid, JOURNAL_NEW)
        except LinuxError:
            pass
        self.fd = self.client.create(self.fid, JOURNAL_NEW, os.O_RDWR, MODE)[0]
        self.end = 0
        for number, state in enumerate(states):
            rows: list[object] = []
            size = 0
            for row in state.files.values():
                rows.append(row)
                contents = row[17]
                size += 256 + (len(contents) if isinstance(contents, bytes) else 0)
                if size > READ_BYTES:
                    self._write(rows)
                    rows, size = [], 0
            for label, names in state.names.items():
                for name, child in names.items():
                    rows.append([ROW_NAME, number, label, name, child])
                if len(rows) > 4096:
                    self._write(rows)
                    rows = []
                if len(rows) > 4096:
                    self._write(rows)
                    rows = []
            for path, first in state.firsts.items():
                rows.append(first_row(number, path, first))
                if len(rows) > 4096:
                    self._write(rows)
                    rows = []
            if rows:
                self._write(rows)
        if self.error:
            raise LinuxError(self.error)
        try:
            os.fdatasync(self.fd)
        except OSError as failure:
            raise LinuxError(failure.errno or EIO)
        self.client.rename(self.fid, JOURNAL_NEW, self.fid, JOURNAL)
        self.client.fsync(self.fid, b"")  # the name, too
        self.unknown = self.next_number
        self.short = self.end


class _Replay:
    """Restores one file system from the journal's state."""

    def __init__(
        self, ctx: Context, store: LayerStore, fs: MemoryFs, state: JournalState, used: set[int]
    ) -> None:
        self.ctx: Context = ctx
        self.store: LayerStore = store
        self.fs: MemoryFs = fs
        self.state: JournalState = state
        self.used: set[int] = used
        self.made: dict[int, TmpfsInode] = {}
        self.placed: set[TmpfsInode] = set()  # directories that have got a name
        self.dropped: set[int] = set()  # labels of files whose contents were the host's, and are gone

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
                    continue
                inode = self._make(row)
            inode.label = label
            self.made[label] = inode
        if lost:
            self._find_moved(lost)
        for label, row in self.state.files.items():
            self._fill(self.made[label], row)
        for label, names in list(self.state.names.items()):
            directory = self.made.get(label)
            if not isinstance(directory, TmpfsDir):
                del self.state.names[label]
                continue
            for name, child in list(names.items()):
                if child in self.dropped:
                    del names[name]
                else:
                    self._name(directory, name, child)
        for label, row in self.state.files.items():
            inode = self.made[label]  # making names has changed link counts and sizes
            inode.nlink = max(number_at(row, 9), 1)
            if isinstance(inode, TmpfsDir):
                inode.size = max(number_at(row, 10), 0)

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
            made = self._made_anew(label, row)
            if made is not None and label in names_of:
                todo.append(label)

    def _moved(self, above: int, name: bytes, row: list[object]) -> TmpfsInode | None:
        """The file that is there in place of a lost one. Raises LinuxError."""
        label = number_at(row, 2)
        directory = self.made[above]
        if isinstance(directory, OverlayDir) and name not in directory.entries:
            found = directory.find(self.ctx, name)
            if not isinstance(found, TmpfsInode) or found.label:
                pass
            elif found.mode & S_IFMT == number_at(row, 5) & S_IFMT:
                del self.state.names[above][name]
                known = [found.mode, found.uid, found.gid, found.rdev, 1, found.size]
                if row[17] is True and known == row[5:11]:
                    del self.state.files[label]  # what is below says it all
                    return None
                row[4] = self.store._origin(found) or b""
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
                    inode.storage.adopt(contents, self.store)
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
            elif inode in self.store.paths:
                self._unname(self.store.paths[inode], inode)
        cookie = directory.next_cookie
        directory.next_cookie = cookie + 1
        entry = DirEntry(name, inode, inode.ino, dtype(inode.mode), cookie)
        entry.charge()
        directory.entries[name] = entry
