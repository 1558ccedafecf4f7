"""The size of a named volume (`cloche volume create --size`): what its files may take together.

The account (`wire.volume`) is shared with other sandboxes that have the volume mounted. Growth is entered before
anything is written (`reserve`) and then corrected by what the host says the file takes (st_blocks): two sandboxes that
write at the same time may both be refused, but not both succeed beyond the limit. A limit that is reached gives
EDQUOT, as quotas do (fs/quota/dquot.c); statfs(2) shows the limit as the size of the file system, as project quotas
have it (ext4_statfs_project).

Not seen is what the host's file system allocates for itself later, and a file that another sandbox has removed while it
is open here counts again only once it is written to. Both end when the files are counted anew.
"""

import os
from typing import Final

from cloche.abi.errno import EDQUOT, EIO, LinuxError
from cloche.fs.quota import PAGE, page_count
from cloche.kernel.host_wait import HostWait
from cloche.vfs.records import StatFs
from cloche.wire.volume import (
    ACCOUNT_BYTES,
    DIRECTORY_BYTES,
    SLOTS,
    VALUE,
    Account,
    slot_offset,
    unpack_account,
)

_BLOCK: Final = 512  # of st_blocks
_MAX_EXTENTS: Final = 1024


# Whether a file's blocks are in the account, and who takes them out.
NAMED: Final = 0  # they are; whoever removes its last name takes them out
NAMELESS: Final = 1  # they are; this sandbox takes them out when it closes the file
GONE: Final = 2  # they were taken out here


class FileCharge:
    """What of one file's blocks this sandbox has entered in the account while it changes the file."""

    def __init__(self) -> None:
        self.counted: int = 0  # st_blocks when they were last entered
        self.in_flight: int = 0  # changes that have begun
        self.is_waiting: bool = False  # a call that has asked the gofer for a change will be run again
        self.state: int = NAMED
        self.is_mapped: bool = False  # guests may write through a mapping: it has no holes


class VolumeQuota:
    """The account of one volume as this sandbox sees it."""

    def __init__(self, fd: int, slot: int) -> None:
        """`fd`: the account, open to read and write. Raises LinuxError(EIO) if it is none."""
        self.fd: int = fd
        self._slot: int = slot
        if not 0 <= slot < SLOTS:
            raise LinuxError(EIO)
        self._own: int = self._read().slots[slot]

    def _read(self) -> Account:
        """Raises LinuxError(EIO)."""
        try:
            return unpack_account(os.pread(self.fd, ACCOUNT_BYTES, 0))
        except (OSError, ValueError):
            raise LinuxError(EIO)

    def charge(self, count: int) -> None:
        """Enter bytes, or with a negative count take them out."""
        if count:
            # the values of all slots are added; none of them comes near to what a 64-bit number holds
            self._own = min(max(self._own + count, -(1 << 60)), 1 << 60)
            try:
                os.pwrite(self.fd, VALUE.pack(self._own), slot_offset(self._slot))
            except OSError as error:
                raise LinuxError(error.errno or EIO)

    def room(self) -> int:
        """Bytes that may still be entered."""
        account = self._read()
        return max(account.limit - account.total(), 0)

    def reserve(self, count: int) -> int:
        """Enter at most `count` bytes: as many whole pages as there is room for. How many were."""
        if count <= 0:
            return 0
        self.charge(count)
        account = self._read()
        excess = account.total() - account.limit
        if excess <= 0:
            return count
        less = min(page_count(excess) * PAGE, count)
        self.charge(-less)
        return count - less

    def show(self, out: StatFs) -> None:
        """Limit what statfs(2) says."""
        account = self._read()
        size = out.block_size or PAGE
        free = max(account.limit - account.total(), 0) // size
        out.blocks = account.limit // size
        out.blocks_free = min(out.blocks_free, free)
        out.blocks_avail = min(out.blocks_avail, free)

    # -- changes of a file -------------------------------------------------------------------------------
    def change(self, charge: FileCharge, fd: int) -> "Change":
        """A change of an open file, for a `with` statement. Raises LinuxError."""
        return Change(self, charge, fd)

    # -- names -------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Before something is made that takes a block. Raises LinuxError(EDQUOT) if nothing is left."""
        if self.room() < PAGE:
            raise LinuxError(EDQUOT)

    def changed(self, before: int, after: int) -> None:
        """A file's st_blocks were changed by something that was asked of the gofer."""
        self.charge((after - before) * _BLOCK)

    def made_directory(self) -> None:
        self.charge(DIRECTORY_BYTES)

    def removed_directory(self) -> None:
        self.charge(-DIRECTORY_BYTES)


class Change:
    """One change of an open file: a context manager. What it may add is entered before it, and what it has really
    added or freed after it.

    A call that has to wait for the gofer (HostWait) is run again, and enters everything then.
    """

    def __init__(self, quota: VolumeQuota, charge: FileCharge, fd: int) -> None:
        """Raises LinuxError."""
        self._quota: VolumeQuota = quota
        self._charge: FileCharge = charge
        self._fd: int = fd
        self._reserved: int = 0
        self.st: os.stat_result = _fstat(fd)  # before the change
        if charge.in_flight == 0 and not charge.is_waiting:
            charge.counted = self.st.st_blocks
            if self.st.st_nlink == 0 and charge.state == NAMED:
                # another sandbox has removed its name, and taken it out of the account
                charge.state = NAMELESS
                quota.charge(self.st.st_blocks * _BLOCK)
        charge.is_waiting = False
        charge.in_flight += 1

    def __enter__(self) -> "Change":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        charge = self._charge
        charge.in_flight -= 1
        if isinstance(error, HostWait):
            charge.is_waiting = True
            self._quota.charge(-self._reserved)
            return
        blocks = _fstat(self._fd).st_blocks
        added = blocks - charge.counted
        charge.counted = blocks
        self._quota.charge(added * _BLOCK - self._reserved)

    def afford(self, offset: int, length: int) -> int:
        """How much of a write there is room for; what that takes is reserved.

        A file takes no more than all pages up to its end, so one without holes grows at the end only.
        """
        st = self.st
        end = offset + length
        most = page_count(max(st.st_size, end)) * PAGE - st.st_blocks * _BLOCK
        want = min((page_count(end) - offset // PAGE) * PAGE, max(most, 0))
        if want == 0:
            return length
        got = self._quota.reserve(want)
        self._reserved += got
        if got == want:
            return length
        return _reach(self._fd, offset, end, got) - offset

    def fill(self, size: int) -> None:
        """Reserve what is needed to leave no hole in the file. Raises LinuxError(EDQUOT)."""
        want = max(page_count(size) * PAGE - self.st.st_blocks * _BLOCK, 0)
        got = self._quota.reserve(want)
        self._reserved += got
        if got < want:
            raise LinuxError(EDQUOT)


def _fstat(fd: int) -> os.stat_result:
    try:
        return os.fstat(fd)
    except OSError as error:
        raise LinuxError(error.errno or EIO)


def _reach(fd: int, offset: int, end: int, room: int) -> int:
    """How far a write from `offset` comes if `room` bytes of new pages may be made.

    Extents that were not looked at count as missing.
    """
    at, left = offset, room // PAGE
    for looks in range(_MAX_EXTENTS + 1):
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), end) if looks < _MAX_EXTENTS else end
        except OSError:  # ENXIO: that was all
            data = end
        fresh = page_count(data) - at // PAGE if data > at else 0
        if fresh > left:
            return max(min((at // PAGE + left) * PAGE, end), offset)
        left -= fresh
        if data >= end:
            break
        try:
            at = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError:
            at = end
        if at >= end:
            break
    return end
