"""How many files a named volume may have (`cloche volume create --inodes`): the gofer, which alone makes them, counts.

The account (`wire.volume`: a limit, and a slot for each sandbox) is mapped by the gofers of all sandboxes that have the
volume mounted, and known to no sentry. A file is entered before it is made: two sandboxes may both be refused the last
one, but not both make it. As with project quotas (fs/quota/dquot.c) the refusal is EDQUOT, and a file without a name
counts as long as it is open. That is known of files that have a fid of their own.
"""

import mmap
import os
from typing import Final

from cloche.abi.errno import EDQUOT, EIO, LinuxError
from cloche.wire.volume import ACCOUNT_BYTES, SLOTS, VALUE, Account, slot_offset, unpack_account

_FAR: Final = 1 << 60  # the values of all slots are added


class FileCounts:
    """The account of one volume."""

    def __init__(self, path: str, slot: int) -> None:
        """Raises OSError."""
        if not 0 <= slot < SLOTS:
            raise OSError(EIO, os.strerror(EIO), path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._memory: mmap.mmap = mmap.mmap(fd, ACCOUNT_BYTES)
        except ValueError:  # it is shorter
            raise OSError(EIO, os.strerror(EIO), path) from None
        finally:
            os.close(fd)
        self._at: int = slot_offset(slot)
        self._nameless: set[tuple[int, int]] = set()  # device and number of files that are open, and count
        self._pins: dict[tuple[int, int], int] = {}  # how often a file has a fid of its own

    def close(self) -> None:
        """Another process serves the volume."""
        self._memory.close()

    def _read(self) -> Account:
        try:
            return unpack_account(self._memory[:])
        except ValueError:
            raise LinuxError(EIO)

    def _add(self, count: int) -> None:
        own: int = VALUE.unpack_from(self._memory, self._at)[0]
        VALUE.pack_into(self._memory, self._at, min(max(own + count, -_FAR), _FAR))

    def take(self) -> None:
        """A file is going to be made.  Raises LinuxError(EDQUOT)."""
        self._add(1)
        account = self._read()
        if account.total() > account.limit:
            self._add(-1)
            raise LinuxError(EDQUOT)

    def give(self) -> None:
        """A file is gone, or was not made."""
        self._add(-1)

    def figures(self) -> tuple[int, int]:
        """The limit, and how many more files may be made."""
        account = self._read()
        return account.limit, max(account.limit - account.total(), 0)

    # -- files without a name --------------------------------------------------------------------------
    def pinned(self, dev: int, ino: int) -> None:
        """An open file has got a fid of its own."""
        self._pins[(dev, ino)] = self._pins.get((dev, ino), 0) + 1

    def unpinned(self, dev: int, ino: int) -> None:
        """Such a fid is gone."""
        key = (dev, ino)
        left = self._pins.pop(key, 0) - 1
        if left > 0:
            self._pins[key] = left
        elif key in self._nameless:
            self._nameless.discard(key)
            self.give()

    def lost_name(self, dev: int, ino: int) -> None:
        """The last name of a file was removed, or it never had one."""
        if (dev, ino) in self._pins:
            self._nameless.add((dev, ino))
        else:
            self.give()

    def has_name(self, dev: int, ino: int) -> None:
        """A file without a name has got one.  Raises LinuxError(EDQUOT) if it did not count."""
        if (dev, ino) in self._nameless:
            self._nameless.discard((dev, ino))
        else:
            self.take()
