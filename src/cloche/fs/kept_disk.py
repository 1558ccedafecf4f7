"""The disk of a kept layer (fs.kept): numbered files in a directory of the host, and the waits for it.

The gofer makes, removes and syncs the files and brings them into memory, which may take long (kernel.host_wait). They
are written and changed on the spot, because a request to another process takes ten times as long. If that was not
done lately, the gofer is first asked to change something (`prove`). So a call that begins when the disk has stopped
waits for the gofer's answer; a call in the middle of a series is in a host call that takes long (kernel.lanes).
"""

import os
from typing import Final

from cloche.abi.errno import EEXIST, LinuxError
from cloche.fs.gofer_client import GoferClient
from cloche.fs.gofer_inode import TRUST_NS
from cloche.fs.kept_rows import Pieces
from cloche.fs.quota import FileMaker
from cloche.kernel.host_wait import HostRequest, HostWait
from cloche.kernel.task import Kernel
from cloche.kernel.timers import monotonic_ns
from cloche.platform import slow
from cloche.wire.gofer import MAX_READ_BYTES, SET_MODE

JOURNAL: Final = b"journal"
JOURNAL_NEW: Final = b"journal.new"
MODE: Final = 0o600
_QUICK_NS: Final = 1_000_000
_WRITE_BYTES: Final = 1 << 20


class InFlight(HostRequest):
    """A change that is being written to the journal, frame by frame (or a piece of the new journal of `kept_rewrite`,
    which has no rows).
    """

    def __init__(self, rows: "list[object] | None" = None, young: int = 0) -> None:
        super().__init__()
        self.pieces: Pieces | None = Pieces(rows) if rows is not None else None
        self.young: int = young  # files with this number and higher ones are not in the rows
        self.frame: bytes = b""  # which is being written; a lane may be away with it
        self.at: int = 0  # where it goes

    def settle(self) -> None:
        """The write is over: wake the waiters."""
        self.is_answered = self.is_settled = True
        self.queue.wake()

    def forget(self) -> None:
        """Nothing is held."""


class LayerDisk(FileMaker):
    """The directory of one layer."""

    def __init__(self, kernel: Kernel, client: GoferClient, index: int) -> None:
        """`client` waits for every answer, except after `patiently`. Raises LinuxError."""
        self.kernel: Kernel = kernel
        self.client: GoferClient = client
        self.fid: int = client.attach(index).fid
        self.fd: int = -1  # of the journal
        self.end: int = 0  # of the journal
        self.short: int = 0  # its length when it was last written anew
        self.error: int = 0  # the journal cannot be written any more
        self.next_number: int = 1
        self.away: int = 0  # calls on the spot that are taking long
        self.quick_ns: int = 0  # when a change was last made at once
        self.in_flight: InFlight | None = None

    def make_file(self) -> tuple[int, int]:
        client = self.client
        client.patiently(is_on=True)
        try:
            while True:
                number = self.next_number
                try:
                    fd = client.create(self.fid, b"%d" % number, os.O_RDWR, MODE)[0]
                    self.next_number = number + 1
                    return number, fd
                except LinuxError as error:
                    if error.errno != EEXIST:
                        raise
                    # the task that had asked for the file died before the answer
                    self.next_number = number + 1
        finally:
            client.patiently(is_on=False)

    def open_file(self, number: int) -> int:
        client = self.client
        client.patiently(is_on=True)
        try:
            return client.open(self.fid, b"%d" % number, os.O_RDWR)[0]
        finally:
            client.patiently(is_on=False)

    def prove(self) -> None:
        is_last = self.kernel.host_waits.lane_turn is not None
        if not self.away and not is_last and monotonic_ns() - self.quick_ns < TRUST_NS:
            return
        client = self.client
        client.patiently(is_on=True)
        try:
            if client.may_wait():
                # any change of attributes will do: it waits for the disk
                client.setattr(self.fid, JOURNAL, SET_MODE, MODE)
                if not self.away:
                    self.quick_ns = monotonic_ns()
        except LinuxError:
            pass  # an error is an answer, too
        finally:
            client.patiently(is_on=False)

    def changed_since(self, start_ns: int) -> None:
        now = monotonic_ns()
        self.quick_ns = now if now - start_ns < _QUICK_NS else 0

    def storage_away(self, *, is_away: bool) -> None:
        self.away += 1 if is_away else -1
        self.quick_ns = 0

    def bring(self, number: int, fd: int, offset: int, length: int) -> bool:
        client = self.client
        client.patiently(is_on=True)
        try:
            if not client.may_wait():
                return False
            st = os.fstat(fd)
            length = min(length, MAX_READ_BYTES)
            client.read(self.fid, b"%d" % number, st.st_dev, st.st_ino, offset, length, wants_data=False)
            return True
        except LinuxError:
            return False
        finally:
            client.patiently(is_on=False)

    def write_in_turns(self, fd: int, data: bytes, at: int) -> None:
        """Write a piece of the new journal; other tasks may run if that takes long. Raises OSError."""
        in_flight = InFlight()
        self.in_flight = in_flight
        self.kernel.host_waits.file = None
        try:
            done = 0
            while done < len(data):
                count = slow.write(slow.NOBODY, fd, data[done : done + _WRITE_BYTES], at + done)
                if count < 0:
                    raise OSError(-count, "")
                done += count
        finally:
            self.in_flight = None
            in_flight.settle()

    def take_frame(self, flight: InFlight) -> bool:
        """Make the next frame of a change, and give it its place; False at the end. Raises OSError, CborError."""
        pieces = flight.pieces
        flight.frame = pieces.next() if pieces is not None else b""
        flight.at = self.end
        self.end += len(flight.frame)
        return len(flight.frame) > 0

    def write_frame(self, flight: InFlight) -> bool:
        """Write it; other tasks may run if that takes long: False if one of them has written all of the change.  Raises
        OSError.
        """
        self.kernel.host_waits.file = None
        frame = flight.frame
        done = 0
        while done < len(frame):
            piece = frame[done : done + _WRITE_BYTES]
            count = slow.write(slow.NOBODY, self.fd, piece, flight.at + done)
            if flight.is_settled:
                return False
            if count < 0:
                raise OSError(-count, "")
            done += count
        return True

    def land(self, flight: InFlight) -> None:
        """A change is written, or will not be."""
        flight.frame = b""
        if self.in_flight is flight:
            self.in_flight = None
        flight.settle()

    def wait_for_flight(self) -> None:
        """Changes must be written one after the other, because everything after a gap in the journal is ignored. Raises
        HostWait.
        """
        in_flight = self.in_flight
        if in_flight is not None and self.kernel.host_waits.may_wait:
            raise HostWait(in_flight)
