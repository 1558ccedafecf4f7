"""Private layers that last (`cloche run --keep`): what guests write, in files of the host.

A directory of the host (an attach point of the gofer that no guest sees) holds

    journal    the tree, as a log of what files are and where: frames of u32 length, u32 CRC-32, CBOR
    N          the contents of regular file number N, if they are not in the journal

Each frame is a list of rows. The highest bit of its length says that its change goes on in the next frame. A change is
atomic: names that are exchanged are in one. A torn frame, the frames of its change before it, and everything after it
count as not written. Rows (`layer` counts the file systems in the order of the spec; `label` is a number that a file
has for the life of the journal; 1 is a layer's root):

    [0, layer, label, origin, path, mode, uid, gid, rdev, nlink, size, atime_ns, mtime_ns, ctime_ns, btime_ns, target,
        xattrs, contents]    a file with these attributes.  `origin`: 0 new, 1 it was at `path` when the sandbox
                             started (the host's, or made by the start).  `xattrs`: pairs, or null: as below.
                             `contents`: bytes, the number of a file, or true: as below, null: not a regular file
    [1, layer, label of a directory, name, label]    a name; label 0: it was removed; -1: and there is none below
    [2, layer, label]                                the file was removed
    [3, layer, 1, path, mode, uid, gid, size, mtime_ns, ctime_ns]    the host's file at `path` when it was first looked
                             at, for a file that was changed or removed: so later changes by the host are recognized;
                             mode 0: there was none

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
from cloche.fs.gofer_client import GoferClient
from cloche.fs.kept_disk import JOURNAL, JOURNAL_NEW, MODE, InFlight, LayerDisk
from cloche.fs.kept_replay import Replay, origin_of
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
    read_rows,
)
from cloche.fs.overlay import OverlayDir, OverlayFile
from cloche.fs.tmpfs import TmpfsDir, TmpfsFile
from cloche.fs.tmpfs_inode import LayerLog, MemoryFs, TmpfsInode, TmpfsLink
from cloche.kernel.blocking import SLICE_NS
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
_BEGIN_ROWS: Final = 4096  # of a change, when the journal is written anew at the start
_MAX_UNLINKS: Final = 128  # unanswered requests to remove files


class _Flusher(Chore):
    """Writes changes soon, between calls, after the files that this needs were made."""

    def __init__(self, store: "LayerStore") -> None:
        self.store: LayerStore = store
        self.flight: InFlight | None = None
        kernel = store.kernel
        self.patience: Patience = Patience(kernel.host_waits, kernel.chores, self)

    def step(self) -> bool:
        store = self.store
        flight = self.flight
        if flight is None:
            self.patience.attempt(store.make_files)
            if self.patience.is_waiting():
                return False
            flight = self.flight = store.begin_flight()
        if store.go_on_writing(flight):
            return True
        self.flight = None
        store.flight_is_over()
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
        self.nameless: list[TmpfsInode] = []  # directories that are gone on the host, with what is in them
        self.next_label: int = ROOT_LABEL + 1
        self.doomed: list[int] = []  # numbers to free once the journal says that they are not needed
        self.free: list[int] = []  # numbers to free
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
        path = origin_of(inode, self.paths)
        number = self._number(inode)
        if path is not None and path not in self.known_firsts[number]:
            first = First(below.mode, below.uid, below.gid, below.size, below.mtime_ns, below.ctime_ns)
            self.firsts.append(first_row(number, path, first))

    def _remember_unseen(self, directory: TmpfsDir, name: bytes) -> None:
        """Record that there was nothing below when guests made what they have removed."""
        if isinstance(directory, OverlayDir) and directory.unseen is not None and name in directory.unseen:
            above = origin_of(directory, self.paths)
            number = self._number(directory)
            path = (above + b"/" if above else b"") + name
            if above is not None and path not in self.known_firsts[number]:
                self.firsts.append(first_row(number, path, First(0, 0, 0, 0, 0, 0)))

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
    def flush(self) -> None:
        """Write changes on the spot, then delete a few of the files that are not needed any more.

        No change is in flight afterwards, so that fsync can ask for the disk of all of it.
        """
        if self.fd < 0:
            return
        if not self.error:
            rows = self._changes()
            # not after an error: the contents of a file might be lost
            if (rows or self.in_flight is not None) and not self.error:
                self._write(rows)
        self._clear_up()

    def begin_flight(self) -> InFlight:
        """What has changed, to be written in slices; nothing else is written to the journal before that is over."""
        rows = self._changes() if self.fd >= 0 and not self.error else []
        flight = InFlight(rows if not self.error else [], self.next_number)
        self.in_flight = flight
        return flight

    def go_on_writing(self, flight: InFlight) -> bool:
        """Write a slice of it; whether there is more."""
        end_ns = monotonic_ns() + SLICE_NS
        start_ns = 0
        try:
            while start_ns < end_ns:
                start_ns = monotonic_ns()
                if flight.is_settled or self.error:
                    self.land(flight)
                    return False
                if not self.take_frame(flight):
                    self._written(flight)
                    return False
                if not self.write_frame(flight):
                    return False
                self.changed_since(start_ns)
                self._frame_written(flight)
            return True
        except (OSError, CborError) as failure:
            self._fail((failure.errno or EIO) if isinstance(failure, OSError) else EIO)
            self.land(flight)
            return False

    def flight_is_over(self) -> None:
        """Go on with what had to wait for it."""
        self.is_chore_queued = False
        if self.fd >= 0:
            self._clear_up()
            if self.changed_files or self.changed_names or self.gone or self.firsts:
                self._arm()

    def _clear_up(self) -> None:
        """The changes so far are in the journal, or it cannot be written any more."""
        if self.error:
            self.free += self.doomed
            self.doomed = []
        else:
            self._rewrite()
        client = self.client
        if self.progress is not None or client.late_count() < _MAX_UNLINKS:
            for number in self.free[:_UNLINKS]:
                try:
                    if self.progress is None:
                        client.unlink_later(self.fid, b"%d" % number)
                    else:
                        client.unlink(self.fid, b"%d" % number)
                except LinuxError:
                    pass
                self._go_on()
            del self.free[:_UNLINKS]
        if self.free or self.doomed:
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

    def _changes(self) -> list[object]:
        """The rows of all that has changed."""
        self.free += self.doomed
        self.doomed = []
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
                    elif entry is None:
                        self._remember_unseen(directory, name)
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
        return rows

    def _fail(self, errno: int) -> None:
        """Stop writing the journal: what is on the disk is consistent, and later changes cannot be stored."""
        self.error = errno
        self.changed_files, self.changed_names, self.gone, self.firsts = {}, {}, [], []
        # Files that are in the journal are not deleted any more; newer ones may be.
        self.free = [number for number in self.free + self.doomed if number >= self.unknown]
        self.doomed = []

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
        path = origin_of(inode, self.paths)
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

    def _write(self, rows: list[object]) -> None:
        """Write a change on the spot, behind the rest of one that is in flight."""
        start_ns = monotonic_ns()
        flight = self.in_flight
        try:
            if flight is not None:
                self._write_rest(flight)
            self._write_rest(InFlight(rows, self.next_number))
            self.changed_since(start_ns)
        except (OSError, CborError) as failure:
            self._fail((failure.errno or EIO) if isinstance(failure, OSError) else EIO)

    def _write_rest(self, flight: InFlight) -> None:
        """Raises OSError, CborError."""
        if flight.pieces is None:
            return
        # A lane may be away with the first frame. It goes to the same place, so it does not matter who is last.
        while flight.frame or self.take_frame(flight):
            done = 0
            while done < len(flight.frame):
                piece = flight.frame[done : done + READ_BYTES]
                done += os.pwrite(self.fd, piece, flight.at + done)
                self._go_on()
            self._frame_written(flight)
        self._written(flight)

    def _written(self, flight: InFlight) -> None:
        """All of it is in the journal."""
        self.unknown = max(self.unknown, flight.young)
        self.land(flight)

    def _frame_written(self, flight: InFlight) -> None:
        """Raises OSError."""
        frame, flight.frame = flight.frame, b""
        if self.rewriter is not None:
            self.rewriter.written(frame)

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
        while self.doomed or self.free:
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
            replay = Replay(ctx, self, self.paths, fs, states[number], used)
            replay.run()
            self.nameless += replay.nameless
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
            change: list[list[object]] = []
            while True:
                body = frames.next()
                rows = read_rows(body, len(states)) if body is not None else None
                if rows is None:
                    return
                change += rows
                if not frames.has_more:
                    self._take(change, states)
                    change = []
        except OSError as failure:
            raise LinuxError(failure.errno or EIO)
        finally:
            os.close(fd)

    def _take(self, rows: list[list[object]], states: list[JournalState]) -> None:
        """Apply one change."""
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

    def _begin(self, states: list[JournalState]) -> None:
        """Write the journal anew, and open it for appending. Raises LinuxError."""
        try:
            self.client.unlink(self.fid, JOURNAL_NEW)
        except LinuxError:
            pass
        self.fd = self.client.create(self.fid, JOURNAL_NEW, os.O_RDWR, MODE)[0]
        self.end = 0
        for number, state in enumerate(states):
            rows: list[object] = list(state.files.values())
            for label, names in state.names.items():
                for name, child in names.items():
                    rows.append([ROW_NAME, number, label, name, child])
            for path, first in state.firsts.items():
                rows.append(first_row(number, path, first))
            for begin in range(0, len(rows), _BEGIN_ROWS):  # not in one: a spoilt byte would cost everything
                self._write(rows[begin : begin + _BEGIN_ROWS])
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
