"""Writes the journal of a kept layer anew while its sandbox runs, once it has become much longer than what it says.

Each change of a file adds a row, and later rows override earlier ones: a program that changes one file again and again
would fill the host's disk, whatever `--disk` says. So the rows that count are copied to `journal.new`:

    INDEX   the journal up to its present end is read, to know in which frame each row that counts is
    COPY    it is read again, and these rows are written
    TAIL    what was written meanwhile is appended as it is, until nothing is left
    SYNC    from here on frames are written to both files; the new one is synced
    RENAME  the new one takes the name
    SETTLE  the directory is synced; then the new one is the journal

So at any moment the file named `journal` has everything, and what was synced is on the disk whichever of the two it is
after a crash. All is done in steps (I8); while frames are written about as much is read as keeps the work from
falling behind (`keep_up`).
"""

import os
from typing import Final

from cloche.abi.errno import EIO, LinuxError
from cloche.fs.kept_disk import JOURNAL, JOURNAL_NEW, MODE, LayerDisk
from cloche.fs.kept_rows import (
    FORGOTTEN,
    READ_BYTES,
    ROOT_LABEL,
    ROW_FILE,
    ROW_FIRST,
    ROW_NAME,
    Frames,
    bytes_at,
    number_at,
    pack_frame,
    read_rows,
    wrap_frame,
)
from cloche.kernel.blocking import SLICE_NS
from cloche.kernel.chores import Chore
from cloche.kernel.patience import Patience
from cloche.kernel.timers import monotonic_ns

SPARE_BYTES: Final = 16 << 20  # a journal that is shorter is left as it is
_KEEP_UP: Final = 4  # bytes that are read for each that is written
_TAIL_BYTES: Final = 1 << 18

INDEX: Final = 0
MAKE: Final = 1
COPY: Final = 2
TAIL: Final = 3
SYNC: Final = 4
RENAME: Final = 5
SETTLE: Final = 6
_OVER: Final = 7
_WORK: Final = (INDEX, COPY, TAIL)


class _Known:
    """In which frames the rows that count are, for one file system."""

    def __init__(self) -> None:
        self.files: dict[int, int] = {}  # by label
        self.names: dict[int, dict[bytes, int]] = {}  # by the directory's label
        self.firsts: dict[bytes, int] = {}  # by path


class Rewriter(Chore):
    """One rewriting of a journal."""

    def __init__(self, disk: LayerDisk, layers: int) -> None:
        self.disk: LayerDisk = disk
        self.stage: int = INDEX
        self.is_over: bool = False
        self._known: list[_Known] = [_Known() for _ in range(layers)]
        self._frames: Frames = Frames(disk.fd, disk.end)
        self._upto: int = disk.end
        self._tail: int = disk.end  # up to here the old journal is in the new one
        self._fd: int = -1
        self._end: int = 0
        self._short: int = 0
        self._is_in_turns: bool = False  # other tasks may run while a piece is written
        self._is_writing: bool = False
        self._owed: int = 0  # bytes to read, for frames that were written
        kernel = disk.kernel
        self._patience: Patience = Patience(kernel.host_waits, kernel.chores, self)

    # -- what the journal tells ----------------------------------------------------------------------------
    def written(self, frame: bytes) -> None:
        """A frame was appended to the journal.  Raises OSError if the new one has its name and cannot be written."""
        self._owed += _KEEP_UP * len(frame)
        if self.stage in (SYNC, RENAME, SETTLE):
            try:
                self._append(frame)
            except OSError:
                if self.stage != SYNC:
                    raise
                self.stop()

    def keep_up(self) -> None:
        """Do as much as what was written demands."""
        while self._owed > 0 and self._is_at_work():
            self._owed -= self._try_to_advance()  # the disk was proved just now
        self._owed = 0

    def sync(self) -> None:
        """The journal is being synced: what it has must not be lost by the change to the new one.  Raises LinuxError,
        HostWait.
        """
        client, fid = self.disk.client, self.disk.fid
        if self.stage == SYNC:
            client.fsync(fid, JOURNAL_NEW, is_data_only=True)
        elif self.stage in (RENAME, SETTLE):
            # The name may have changed between the requests: one of them meets each file.
            for name in (JOURNAL_NEW, JOURNAL):
                try:
                    client.fsync(fid, name, is_data_only=True)
                except LinuxError:
                    if name == JOURNAL:
                        raise
            client.fsync(fid, b"")

    def stop(self) -> None:
        """Give it up; the journal stays as it is, or, where the new one may have its name, has the same contents."""
        if self.is_over:
            return
        self._patience.drop()
        may_have_name = self.stage in (RENAME, SETTLE)
        if not may_have_name and self.stage != INDEX:
            try:
                self.disk.client.unlink_later(self.disk.fid, JOURNAL_NEW)
            except LinuxError:
                pass
        self._finish()
        self._close()
        self.disk.short = self.disk.end  # not at once again

    def _finish(self) -> None:
        self.stage = _OVER
        self.is_over = True
        self._known = []

    # -- steps ---------------------------------------------------------------------------------------------
    def step(self) -> bool:
        disk = self.disk
        if disk.error or disk.fd < 0:
            self.stop()
        if self._may_go_on():
            try:
                self._patience.attempt(self._prove if self.stage in _WORK else self._ask)
            except LinuxError:
                self.stop()
        end_ns = monotonic_ns() + SLICE_NS
        while not self._patience.is_waiting() and self._is_at_work() and monotonic_ns() < end_ns:
            self._try_to_advance(in_turns=True)
        return self._may_go_on() and not self._patience.is_waiting()

    def _may_go_on(self) -> bool:
        return not self.is_over

    def _is_at_work(self) -> bool:
        """Whether the next step needs no answer of the gofer's."""
        return self.stage in _WORK and self.disk.in_flight is None

    def _prove(self) -> None:
        """Before changes on the spot.  Raises HostWait."""
        self.disk.wait_for_flight()
        self.disk.prove()

    def _try_to_advance(self, *, in_turns: bool = False) -> int:
        """Do some of it: how many bytes were read, one at least. `in_turns`: other tasks may run meanwhile."""
        self._is_in_turns = in_turns
        try:
            return self._copy_tail() if self.stage == TAIL else self._take_frame()
        except (OSError, LinuxError):
            self.stop()
            return 1
        finally:
            self._is_in_turns = False

    def _take_frame(self) -> int:
        """INDEX and COPY: the next frame. Raises OSError, LinuxError(EIO)."""
        frames = self._frames
        at = frames.at
        body = frames.next()
        if body is None:
            if frames.at != self._upto:
                raise LinuxError(EIO)
            if self.stage == INDEX:
                self.stage = MAKE
                self._frames = Frames(frames.fd, self._upto)
            else:
                self.stage = TAIL
                self._short = self._end
            return 1
        rows = read_rows(body, len(self._known))
        if rows is None:
            raise LinuxError(EIO)
        if self.stage == INDEX:
            for row in rows:
                self._index(row, at)
        else:
            kept: list[object] = [row for row in rows if self._counts(row, at)]
            if kept:
                self._append(wrap_frame(body) if len(kept) == len(rows) else pack_frame(kept))
        return frames.at - at

    def _index(self, row: list[object], at: int) -> None:
        kind, label = number_at(row, 0), number_at(row, 2)
        known = self._known[number_at(row, 1)]
        if kind == ROW_FILE:
            known.files[label] = at
        elif kind == ROW_NAME:
            names = known.names.get(label)
            if names is None:
                names = {}
                known.names[label] = names
            if number_at(row, 4) == FORGOTTEN:
                names.pop(bytes_at(row, 3), None)
            else:
                names[bytes_at(row, 3)] = at
        elif kind == ROW_FIRST:
            known.firsts.setdefault(bytes_at(row, 3), at)
        else:
            known.files.pop(label, None)
            known.names.pop(label, None)

    def _counts(self, row: list[object], at: int) -> bool:
        """Whether no later row overrides this one."""
        kind, label = number_at(row, 0), number_at(row, 2)
        known = self._known[number_at(row, 1)]
        if kind == ROW_FILE:
            return known.files.get(label) == at
        if kind == ROW_NAME:
            if label != ROOT_LABEL and label not in known.files:
                return False  # names of a directory that is gone
            names = known.names.get(label)
            return names is not None and names.get(bytes_at(row, 3)) == at
        return kind == ROW_FIRST and known.firsts.get(bytes_at(row, 3)) == at

    def _append(self, data: bytes) -> None:
        """Write to the new journal.  Raises OSError."""
        if self._is_in_turns:
            self._is_writing = True
            try:
                self.disk.write_in_turns(self._fd, data, self._end)
            finally:
                self._is_writing = False
                if self.is_over:  # it was stopped meanwhile
                    self._close()
        else:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done : done + READ_BYTES], self._end + done)
        self._end += len(data)

    def _close(self) -> None:
        if self._fd >= 0 and not self._is_writing:
            os.close(self._fd)
            self._fd = -1

    def _copy_tail(self) -> int:
        """Raises OSError."""
        disk = self.disk
        if self._tail >= disk.end:
            self.stage = SYNC
            return 1
        data = os.pread(disk.fd, min(_TAIL_BYTES, disk.end - self._tail), self._tail)
        if not data:
            raise OSError(EIO, "")
        self._append(data)
        self._tail += len(data)
        return len(data)

    def _ask(self) -> None:
        """The question of the present stage.  Raises HostWait, LinuxError."""
        disk = self.disk
        disk.wait_for_flight()
        client = disk.client
        client.patiently(is_on=True)
        try:
            if self.stage == MAKE:
                self._fd = client.create(disk.fid, JOURNAL_NEW, os.O_RDWR, MODE)[0]
                self.stage = COPY
            elif self.stage == SYNC:
                client.fsync(disk.fid, JOURNAL_NEW, is_data_only=True)
                self.stage = RENAME
            elif self.stage == RENAME:
                client.rename(disk.fid, JOURNAL_NEW, disk.fid, JOURNAL)
                self.stage = SETTLE
            elif self.stage == SETTLE:
                client.fsync(disk.fid, b"")
                os.close(disk.fd)
                disk.fd, disk.end, disk.short = self._fd, self._end, self._short
                self._fd = -1
                self._finish()
        finally:
            client.patiently(is_on=False)
