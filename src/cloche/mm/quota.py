"""Limits the sentry's memory for kernel objects: one account of bytes for the whole sandbox.

Objects that a guest can create without limit (areas, open files, bytes in pipes, names, queued events …) take memory
of the sentry, to which no host limit of the guests applies. Each kind charges what one object really costs here (an
estimate, measured on CPython with 64-bit pointers), and asks for room *before* it changes anything. It imports
nothing, so that every part of the kernel can use it; boot sets the limit.
"""

import gc
import time
from typing import Final

_COLLECT_NS: Final = 100_000_000
DEFAULT_LIMIT: Final = 1 << 30  # bytes

AREA_BYTES: Final = 320  # an area of an address space
FILE_BYTES: Final = 800  # an open file description
MOUNT_BYTES: Final = 2048  # a mount, and what goes with it
DESCRIPTOR_BLOCK_BYTES: Final = 650  # some descriptors in a row (kernel.fd_table)
DESCRIPTOR_PLACE_BYTES: Final = 8  # their place in a table
NAME_BYTES: Final = 700  # a name in a directory, with its dentry
INODE_BYTES: Final = 1100  # an inode without its names
RECORD_BYTES: Final = 500  # a watch, a lock, a queued signal, a timer
BUFFER_BYTES: Final = 150  # what a queued buffer costs beside its bytes
GROUP_BYTES: Final = 40  # a supplementary group
FILTER_BYTES: Final = 1000  # a guest's filter beside its instructions


class Quota:
    """A limit, the bytes in use, and how often there was no room."""

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.used: int = 0
        self.refusals: int = 0
        self.collect_at_ns: int = 0

    def has_room(self, count: int) -> bool:
        """Whether `count` more fit: ask before changing anything."""
        return self.used + count <= self.limit or self._find_room(count, self.limit)

    def has_spare(self, count: int) -> bool:
        """`has_room` for objects that outlive processes (files). They may not use the last quarter, which processes
        need.
        """
        limit = self.limit - (self.limit >> 2)
        return self.used + count <= limit or self._find_room(count, limit)

    def _find_room(self, count: int, limit: int) -> bool:
        """Run the cyclic collector, which may free objects of dead tasks; limited to a tenth of the time."""
        now = time.monotonic_ns()
        if now >= self.collect_at_ns:
            gc.collect()
            done = time.monotonic_ns()
            self.collect_at_ns = done + max((done - now) * 10, _COLLECT_NS)
            if self.used + count <= limit:
                return True
        self.refusals += 1
        return False

    def take(self, count: int) -> None:
        """Charge bytes; the caller has asked for room."""
        self.used += count

    def give(self, count: int) -> None:
        """Give the bytes of a removed object back."""
        self.used -= count


KERNEL_MEMORY: Final = Quota(DEFAULT_LIMIT)


class Descriptors:
    """Limits how many of the sentry's descriptors guests may use; the rest is for processes, `cloche exec` and the
    sentry.

    A new descriptor gets the lowest free number, so a number above the limit shows that as many are in use.
    """

    def __init__(self) -> None:
        self.limit: int = 1 << 30

    def reserve(self, count: int) -> None:
        """Of `count` descriptors that this process may have keep an eighth back."""
        self.limit = count - max(count >> 3, min(16, count >> 1))

    def has_spare(self, fd: int) -> bool:
        """Whether guests may have the new descriptor `fd`; otherwise the caller closes it."""
        return fd < self.limit


DESCRIPTORS: Final = Descriptors()
