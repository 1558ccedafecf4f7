"""madvise(2): the kinds of advice, which of them are passed to the host, and why an area refuses one (mm/madvise.c)."""

from typing import Final

from cloche.abi.errno import EACCES, EINVAL, EPERM
from cloche.abi.mman import (
    MADV_FREE,
    MADV_REMOVE,
    MADV_WIPEONFORK,
    PROT_WRITE,
)
from cloche.mm.area import AREA_LOCKED, AREA_SEALED, Area

_DISCARDS: Final = (4, 8, 9, 10, 18)  # DONTNEED, FREE, REMOVE, DONTFORK, WIPEONFORK: what mseal forbids
POPULATES: Final = (22, 23)
_NOT_LOCKED: Final = (4, 8, 9, 20, 21)  # DONTNEED, FREE, REMOVE, COLD, PAGEOUT: what locked areas refuse
# 0: nothing to do, 1: the host does it, 2: also remembered.
ADVICE: Final[dict[int, int]] = {
    0: 0,  # NORMAL
    1: 0,  # RANDOM
    2: 0,  # SEQUENTIAL
    3: 0,  # WILLNEED
    4: 1,  # DONTNEED
    8: 1,  # FREE
    9: 1,  # REMOVE
    10: 2,  # DONTFORK
    11: 2,  # DOFORK
    12: 0,  # MERGEABLE
    13: 0,  # UNMERGEABLE
    14: 1,  # HUGEPAGE
    15: 1,  # NOHUGEPAGE
    16: 0,  # DONTDUMP
    17: 0,  # DODUMP
    18: 2,  # WIPEONFORK
    19: 2,  # KEEPONFORK
    20: 0,  # COLD
    21: 0,  # PAGEOUT
    22: 1,  # POPULATE_READ
    23: 1,  # POPULATE_WRITE
    24: 1,  # DONTNEED_LOCKED
    25: 1,  # COLLAPSE: the host's answer
}


def advice_error(area: Area, advice: int) -> int:
    """Why madvise refuses an area."""
    if area.flags & AREA_SEALED and advice in _DISCARDS and _is_read_only_anonymous(area):
        return EPERM
    if area.flags & AREA_LOCKED and advice in _NOT_LOCKED:
        return EINVAL
    if advice == MADV_FREE and (area.backing is not None or area.is_shared()):
        return EINVAL
    if advice == MADV_REMOVE:
        if area.backing is None:
            return EINVAL
        if not area.is_shared() or not area.backing.map_max_prot() & PROT_WRITE:
            return EACCES
    if advice == MADV_WIPEONFORK and (area.backing is not None or area.is_shared()):
        return EINVAL
    return 0


def _is_read_only_anonymous(area: Area) -> bool:
    return area.backing is None and area.prot & PROT_WRITE == 0
