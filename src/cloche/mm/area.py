"""Areas of an address space: ranges of guest memory, each with one protection and backing; and the interface of what
can be mapped.

`MANY` bounds how many areas a call changes at once (I8); a call about more areas raises `Crowded`.
"""

from typing import Final

from mypy_extensions import trait

from cloche.abi.mman import (
    PAGE_MASK,
)
from cloche.mm.text import PatchedText

PAGE: Final = 4096
MANY: Final = 512  # areas that are changed at once
MANY_TO_COPY: Final = 2048  # ... that a fork copies at once
MAX_AREAS: Final = 65000  # below the host's vm.max_map_count
AREA_SHARED: Final = 1
AREA_DONTFORK: Final = 2
AREA_STACK: Final = 4
AREA_LOCKED: Final = 8
AREA_WIPEONFORK: Final = 16
AREA_NORESERVE: Final = 32
AREA_SEALED: Final = 64
AREA_ONFAULT: Final = 128  # locked as pages are touched
AREA_GROWSDOWN: Final = 256
LOCK_FLAGS: Final = AREA_LOCKED | AREA_ONFAULT


def page_up(value: int) -> int:
    """Round up to a page."""
    return (value + 4095) & PAGE_MASK


class Crowded(Exception):
    """A call is about more areas than it may change at once; nothing was changed."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start: int = start
        self.end: int = end


@trait
class Mappable:
    """An object that an area can map: an open file, or shared anonymous memory."""

    def map_fd(self, prot: int, flags: int) -> int:
        """A host descriptor, which stays the object's. Raises LinuxError."""
        raise NotImplementedError

    def map_text(self) -> PatchedText | None:
        """The patched copies of its executable pages, None if there are none."""
        return None

    def map_get(self) -> None:
        """An area takes a reference."""
        raise NotImplementedError

    def map_put(self) -> None:
        """An area drops its reference."""
        raise NotImplementedError

    def map_memory(self) -> int:
        """A host descriptor of writable memory whose size only the sentry can change; or -1."""
        return -1

    def map_is_slow(self) -> bool:
        """Whether its storage may be slow, or hang."""
        return False

    def map_identity(self) -> tuple[int, int]:
        """(device, inode), for futex keys and /proc/PID/maps."""
        raise NotImplementedError

    def map_name(self) -> bytes:
        """The name in /proc/PID/maps."""
        raise NotImplementedError

    def map_max_prot(self) -> int:
        """Protections that a shared mapping may ever have (an open-for-reading file has no PROT_WRITE)."""
        raise NotImplementedError


class Area:
    """[start, end) with one protection and backing."""

    def __init__(
        self, start: int, end: int, prot: int, flags: int, backing: Mappable | None, offset: int, name: bytes
    ) -> None:
        self.start: int = start
        self.end: int = end
        self.prot: int = prot
        self.flags: int = flags
        self.backing: Mappable | None = backing
        self.offset: int = offset
        self.name: bytes = name
        self.policy: int = 0  # of mbind(2); owned by syscalls.sys_numa

    def identity(self) -> tuple[int, int]:
        """(device, inode) of the mapped file, (0, 0) for anonymous memory."""
        return self.backing.map_identity() if self.backing is not None else (0, 0)

    def is_shared(self) -> bool:
        return self.flags & AREA_SHARED != 0

    def slice(self, start: int, end: int) -> "Area":
        """The part [start, end) as an area of its own (takes no reference)."""
        offset = self.offset + (start - self.start) if self.backing is not None else 0
        piece = Area(start, end, self.prot, self.flags, self.backing, offset, self.name)
        piece.policy = self.policy
        return piece


class AreaChange:
    """A change of each area of a range that needs no host operation."""

    def apply(self, area: Area) -> None:
        raise NotImplementedError
