"""The list of a process's areas: sorted by address, shared with forks until one of them changes it.

Owns the list, the references that its areas hold, the bytes that are counted by it, and the search for gaps.
`mm.address_space`, which derives from it, orders the host operations.
"""

from bisect import bisect_left, bisect_right
from typing import Final

from cloche.abi.errno import EBADF, EINVAL, ENOMEM, EPERM, LinuxError
from cloche.abi.mman import (
    MAP_32BIT,
    PROT_WRITE,
)
from cloche.mm.area import (
    AREA_DONTFORK,
    AREA_LOCKED,
    AREA_SEALED,
    LOCK_FLAGS,
    MANY,
    MANY_TO_COPY,
    MAX_AREAS,
    Area,
    AreaChange,
    page_up,
)
from cloche.mm.quota import AREA_BYTES, KERNEL_MEMORY

_FEW: Final = 8  # pieces that are inserted one by one


class AreaCopy:
    """The areas copied so far for a fork; dropped when the list changes."""

    def __init__(self) -> None:
        self.areas: list[Area] = []
        self.starts: list[int] = []
        self.total_bytes: int = 0
        self.next: int = 0  # index of the area that is to be copied next
        self.charged: int = 0  # bytes of kernel memory


class AreaShare:
    """The number of address spaces that share one list of areas; the list is copied when one of them changes it."""

    def __init__(self) -> None:
        self.count: int = 1


class AreaList:
    """Areas in the order of their addresses; no two meet."""

    def __init__(self, min_address: int, max_address: int) -> None:
        self.min_address: int = min_address
        self.max_address: int = max_address
        self._areas: list[Area] = []
        self._starts: list[int] = []
        self._share: AreaShare | None = None  # None: the list is not shared
        self._has_unforked: bool = False  # some areas are not inherited by forks
        self._copy: AreaCopy | None = None  # for the next fork
        self.mmap_base: int = max_address
        self._hint: int = max_address  # above it (below mmap_base) there is no known gap
        self.total_bytes: int = 0
        self.locked_bytes: int = 0
        self.peak_total_bytes: int = 0
        # A range that was found to be writable; reset when anything is taken out of the list.
        self.good_start: int = 0
        self.good_end: int = 0

    # -- looking -------------------------------------------------------------------------------------------
    def areas(self) -> list[Area]:
        """The areas in order (a copy)."""
        return list(self._areas)

    def areas_from(self, addr: int, count: int) -> list[Area]:
        """At most `count` areas that begin at `addr` or above."""
        index = bisect_left(self._starts, addr)
        return self._areas[index : index + count]

    def find(self, addr: int) -> Area | None:
        """The area that contains `addr`."""
        index = bisect_right(self._starts, addr) - 1
        if index >= 0:
            area = self._areas[index]
            if addr < area.end:
                return area
        return None

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any area meets [start, end)."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._areas[index].end > start:
            return True
        return index + 1 < len(self._areas) and self._starts[index + 1] < end

    def _between(self, start: int, end: int) -> list[Area]:
        """The areas that meet [start, end)."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._areas[index].end <= start:
            index += 1
        return self._areas[index : bisect_left(self._starts, end, index)]

    def end_of_areas_below(self, addr: int) -> int:
        """Where the highest area that starts below `addr` ends; `min_address` if there is none."""
        index = bisect_right(self._starts, addr - 1) - 1
        return self._areas[index].end if index >= 0 else self.min_address

    def covered_until(self, start: int, end: int) -> int:
        """Up to where areas cover [start, end) without a gap."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        at = start
        while at < end and index < len(self._areas):
            area = self._areas[index]
            if area.start > at or area.end <= at:
                break
            at = area.end
            index += 1
        return min(at, end)

    def survey(self, start: int, end: int, most: int) -> tuple[int, bool, bool]:
        """Look at some areas of [start, end): up to where, whether there was a gap, and a locked one."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        at, has_gap = start, False
        while at < end and most:
            area = self._areas[index] if index < len(self._areas) else None
            if area is None or area.start >= end:
                return end, True, False
            index += 1
            if area.end <= at:
                continue  # it ends before the range
            has_gap = has_gap or area.start > at
            if area.flags & AREA_LOCKED:
                return area.end, has_gap, True
            at = area.end
            most -= 1
        return min(at, end), has_gap, False

    def writable_bytes(self, addr: int, length: int) -> int:
        """How many of `length` bytes from `addr` on lie in areas that may be written, without a gap."""
        index = bisect_right(self._starts, addr) - 1
        if index < 0:
            return 0
        at, end = addr, addr + length
        start = self._starts[index]
        while at < end and index < len(self._areas):
            area = self._areas[index]
            if area.start > at or area.end <= at or area.prot & PROT_WRITE == 0:
                break
            at = area.end
            index += 1
            self.good_start, self.good_end = start, at
        return min(at, end) - addr

    def is_plain(self, addr: int, length: int) -> bool:
        """Whether a write there cannot fail: it is private anonymous memory of one area, and may be written."""
        area = self.find(addr)
        return (
            area is not None
            and area.backing is None
            and area.prot & PROT_WRITE != 0
            and addr + length <= area.end
        )

    def is_crowded(self, start: int, end: int) -> bool:
        """Whether [start, end) has more areas than a call may change at once."""
        areas = self._areas
        if len(areas) <= MANY:
            return False
        index = self._first(start) + MANY
        return index < len(areas) and areas[index].start < end

    def _first(self, start: int) -> int:
        """The index of the first area that ends above `start`."""
        index = bisect_right(self._starts, start) - 1
        return index + 1 if index < 0 or self._areas[index].end <= start else index

    def _some(self, start: int, end: int) -> int:
        """Where the first areas of [start, end) end, as many as may be changed at once."""
        index = self._first(start) + MANY
        return min(self._areas[index].start, end) if index < len(self._areas) else end

    def covered_some(self, at: int, end: int) -> int:
        """Check whether areas cover [at, end). Returns up to where that is known. Raises LinuxError(ENOMEM) at a
        hole.
        """
        areas = self._areas
        index = bisect_right(self._starts, at) - 1
        last = min(index + MANY, len(areas))
        if index < 0:
            raise LinuxError(ENOMEM)
        begin = at
        while at < end and index < last:
            area = areas[index]
            if area.start > at or area.end <= at:
                break
            at = area.end
            index += 1
        if at == begin and at < end:
            raise LinuxError(ENOMEM)
        return min(at, end)

    def shared_place(self, addr: int) -> tuple[int, int]:
        """(descriptor, offset) of writable shared memory at `addr` that the sentry can map; (-1, 0) for other."""
        area = self.find(addr)
        if area is None or not area.is_shared() or area.backing is None or not area.prot & PROT_WRITE:
            return -1, 0
        return area.backing.map_memory(), area.offset + addr - area.start

    def anonymous_some(self, at: int, end: int) -> tuple[int, bool, int]:
        """Where the first areas of [at, end) without a file end, whether there is a hole, and EBADF at a file."""
        index = self._first(at)
        stop = self._some(at, end)
        reached = at
        has_hole = False
        for area in self._areas[index : index + MANY]:
            if area.start >= stop:
                break
            has_hole = has_hole or area.start > reached
            if area.backing is not None:
                return max(area.start, at), has_hole, EBADF
            reached = area.end
        return stop, has_hole or reached < stop, 0

    def unsealed_some(self, at: int, end: int) -> int:
        """Check that no area in [at, end) is sealed. Returns up to where that is known. Raises LinuxError(EPERM)."""
        index = self._first(at)
        stop = self._some(at, end)
        for area in self._areas[index : index + MANY]:
            if area.start < stop and area.flags & AREA_SEALED:
                raise LinuxError(EPERM)
        return stop

    def locked_within(self, start: int, end: int) -> int:
        """How many bytes of [start, end) are locked."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        found = 0
        while index < len(self._areas) and self._areas[index].start < end:
            area = self._areas[index]
            if area.flags & AREA_LOCKED and area.end > start:
                found += min(area.end, end) - max(area.start, start)
            index += 1
        return found

    # -- changing ------------------------------------------------------------------------------------------
    def change_some(self, at: int, end: int, change: AreaChange) -> int:
        """Apply `change` to the first areas of [at, end). Returns where it stopped. Raises LinuxError(ENOMEM)."""
        self._check_room()
        stop = self._some(at, end)
        pieces = self._remove(at, stop)
        for piece in pieces:
            change.apply(piece)
        self._insert_all(pieces)
        self._drop(pieces)
        return stop

    def _own(self) -> None:
        """To be called before the list or an area in it changes: copy a shared list."""
        if self._copy is not None:
            self.forget_copy()
        share = self._share
        if share is None:
            return
        self._share = None
        share.count -= 1
        if share.count == 0:
            return
        areas = [area.slice(area.start, area.end) for area in self._areas]
        for area in areas:
            if area.backing is not None:
                area.backing.map_get()
        self._areas = areas
        self._starts = self._starts.copy()

    def _insert_all(self, pieces: list[Area]) -> None:
        """`_insert` each of them; they follow each other without another area in between."""
        if len(pieces) <= _FEW:
            for piece in pieces:
                self._insert(piece)
            return
        merged: list[Area] = []
        for piece in pieces:
            before = merged[-1] if merged else None
            if before is not None and before.end == piece.start and _alike(before, piece):
                before.end = piece.end
            else:
                merged.append(piece)
        self._insert(merged[0])
        if len(merged) > 1:
            self._insert(merged[-1])
        middle = merged[1:-1]
        if not middle:
            return
        starts = [piece.start for piece in middle]
        for piece in middle:
            self.total_bytes += piece.end - piece.start
            if piece.flags & AREA_LOCKED:
                self.locked_bytes += piece.end - piece.start
            if piece.backing is not None:
                piece.backing.map_get()
        index = bisect_right(self._starts, starts[0])
        self._areas[index:index] = middle
        self._starts[index:index] = starts
        KERNEL_MEMORY.take(AREA_BYTES * len(middle))

    def _insert(self, area: Area) -> None:
        """Add an area (its range is free), merging with like neighbours of anonymous memory."""
        self._own()
        if area.backing is not None:
            area.backing.map_get()
        self.total_bytes += area.end - area.start
        if area.flags & AREA_LOCKED:
            self.locked_bytes += area.end - area.start
        if self.total_bytes > self.peak_total_bytes:
            self.peak_total_bytes = self.total_bytes
        index = bisect_right(self._starts, area.start)
        if area.backing is None:
            if index > 0:
                before = self._areas[index - 1]
                if before.end == area.start and _alike(before, area):
                    before.end = area.end
                    if index < len(self._areas):
                        after = self._areas[index]
                        if after.start == before.end and _alike(before, after):
                            before.end = after.end
                            del self._areas[index]
                            del self._starts[index]
                            KERNEL_MEMORY.give(AREA_BYTES)
                    return
            if index < len(self._areas):
                after = self._areas[index]
                if after.start == area.end and _alike(area, after):
                    after.start = area.start
                    self._starts[index] = area.start
                    return
        self._areas.insert(index, area)
        self._starts.insert(index, area.start)
        KERNEL_MEMORY.take(AREA_BYTES)

    def _remove(self, start: int, end: int) -> list[Area]:
        """Take [start, end) out of the list; the removed pieces, whose references the caller now owns."""
        self._own()
        removed: list[Area] = []
        self.good_end = 0
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._areas[index].end <= start:
            index += 1
        gone = -1  # the first of those that are removed together: removing them one by one would be quadratic
        while index < len(self._areas):
            area = self._areas[index]
            if area.start >= end:
                break
            cut_start = max(area.start, start)
            cut_end = min(area.end, end)
            self.total_bytes -= cut_end - cut_start
            if area.flags & AREA_LOCKED:
                self.locked_bytes -= cut_end - cut_start
            has_head = area.start < cut_start
            has_tail = cut_end < area.end
            removed.append(area.slice(cut_start, cut_end) if has_head or has_tail else area)
            if has_head and has_tail:
                tail = area.slice(cut_end, area.end)
                area.end = cut_start
                self._areas.insert(index + 1, tail)
                self._starts.insert(index + 1, cut_end)
                KERNEL_MEMORY.take(AREA_BYTES)
                if area.backing is not None:
                    area.backing.map_get()  # for the tail
                    area.backing.map_get()  # for the piece
                break
            if has_head:
                area.end = cut_start
                if area.backing is not None:
                    area.backing.map_get()
                index += 1
            elif has_tail:
                if area.backing is not None:
                    area.backing.map_get()
                    area.offset += cut_end - area.start
                area.start = cut_end
                self._starts[index] = cut_end
                break
            else:
                if gone < 0:
                    gone = index
                index += 1
        if gone >= 0:
            del self._areas[gone:index]
            del self._starts[gone:index]
            KERNEL_MEMORY.give(AREA_BYTES * (index - gone))
        if end > self._hint and end <= self.mmap_base:
            self._hint = end
        return removed

    def _drop(self, pieces: list[Area]) -> None:
        for piece in pieces:
            if piece.backing is not None:
                piece.backing.map_put()

    # -- places --------------------------------------------------------------------------------------------
    def _find_gap(self, length: int, low: int, high: int) -> int:
        """The highest free range of `length` bytes in [low, high), 0 if there is none."""
        index = bisect_right(self._starts, high - 1) - 1
        top = high
        while True:
            bottom = self._areas[index].end if index >= 0 else low
            if bottom < low:
                bottom = low
            if top - bottom >= length:
                return top - length
            if index < 0 or bottom <= low:
                return 0
            top = min(top, self._areas[index].start)
            if top - low < length:
                return 0
            index -= 1

    def _check_room(self) -> None:
        """Check the limits before areas may be added. Raises LinuxError(ENOMEM)."""
        if len(self._areas) >= MAX_AREAS or not KERNEL_MEMORY.has_room(4 * AREA_BYTES):
            raise LinuxError(ENOMEM)

    def choose_address(self, hint: int, length: int, flags: int = 0) -> int:
        """Where mmap places `length` bytes (a multiple of the page).  Raises LinuxError(ENOMEM)."""
        if hint:
            at = page_up(hint)
            if (
                at >= self.min_address
                and at + length <= self.max_address
                and not self.overlaps(at, at + length)
            ):
                return at
        if flags & MAP_32BIT:
            at = self._find_gap(length, max(self.min_address, 0x10000), 0x7FFFF000)
        else:
            at = self._find_gap(length, self.min_address, self._hint)
            if at:
                if length <= 0x10000:
                    self._hint = at
            elif self._hint < self.mmap_base:
                self._hint = self.mmap_base
                at = self._find_gap(length, self.min_address, self.mmap_base)
            if not at:
                at = self._find_gap(length, self.mmap_base, self.max_address)
        if not at:
            raise LinuxError(ENOMEM)
        return at

    def check_range(self, addr: int, length: int) -> int:
        """The end of a page-aligned range that the guest named.  Raises LinuxError(EINVAL or ENOMEM)."""
        if addr & 4095:
            raise LinuxError(EINVAL)
        size = page_up(length)
        if length < 0 or size < length or size > self.max_address:
            raise LinuxError(ENOMEM)
        if addr < 0 or addr > self.max_address - size:
            raise LinuxError(ENOMEM)
        return addr + size

    def set_mmap_base(self, base: int) -> None:
        """Where the search for gaps starts, downwards."""
        self.mmap_base = base
        self._hint = base

    # -- forks ---------------------------------------------------------------------------------------------
    def check_fork(self) -> None:
        """Before `fork`.  Raises LinuxError(ENOMEM)."""
        charged = self._copy.charged if self._copy is not None else 0
        if not KERNEL_MEMORY.has_room(AREA_BYTES * len(self._areas) - charged):
            raise LinuxError(ENOMEM)

    def copy_to(self, new: "AreaList", *, may_share: bool) -> None:
        """Give a fork, whose list is empty, the areas. A list with locked areas is not shared, because locks are not
        inherited.
        """
        copied, self._copy = self._copy, None
        if copied is not None and copied.next == len(self._areas):
            KERNEL_MEMORY.give(copied.charged)
            new._areas, new._starts, new.total_bytes = copied.areas, copied.starts, copied.total_bytes
        else:
            self._give_up(copied)
            if may_share and not self._has_unforked and not self.locked_bytes:
                share = self._share
                if share is None:
                    share = self._share = AreaShare()
                share.count += 1
                new._share = share
                new._areas, new._starts, new.total_bytes = self._areas, self._starts, self.total_bytes
            else:
                whole = AreaCopy()
                self._copy_areas(whole, len(self._areas))
                new._areas, new._starts, new.total_bytes = whole.areas, whole.starts, whole.total_bytes
        KERNEL_MEMORY.take(AREA_BYTES * len(new._areas))
        new.mmap_base = self.mmap_base
        new._hint = self._hint
        new.peak_total_bytes = new.total_bytes

    def _copy_areas(self, copied: AreaCopy, upto: int) -> None:
        """Go on with a copy, up to an index."""
        for area in self._areas[copied.next : upto]:
            if area.flags & AREA_DONTFORK:
                continue
            copy = area.slice(area.start, area.end)
            copy.flags &= ~LOCK_FLAGS
            if copy.backing is not None:
                copy.backing.map_get()
            copied.areas.append(copy)
            copied.starts.append(copy.start)
            copied.total_bytes += copy.end - copy.start
        copied.next = upto

    def copy_some(self) -> bool:
        """To be called repeatedly before `fork`: copy some of the areas of a large process.

        Returns whether there is more to do. A change of the list meanwhile makes the copy start again. Raises
        LinuxError(ENOMEM).
        """
        count = len(self._areas)
        if count <= MANY_TO_COPY:
            return False
        copied = self._copy
        if copied is None:
            charged = AREA_BYTES * count
            if not KERNEL_MEMORY.has_room(charged):
                raise LinuxError(ENOMEM)
            KERNEL_MEMORY.take(charged)
            copied = self._copy = AreaCopy()
            copied.charged = charged
        self._copy_areas(copied, min(copied.next + MANY, count))
        return copied.next < count

    def forget_copy(self) -> None:
        """Drop a copy that was begun for a fork."""
        copied, self._copy = self._copy, None
        self._give_up(copied)

    def _give_up(self, copied: AreaCopy | None) -> None:
        if copied is not None:
            KERNEL_MEMORY.give(copied.charged)
            self._drop(copied.areas)

    def clear(self) -> None:
        """The process is gone: drop what the areas held."""
        self.forget_copy()
        pieces = self._areas
        KERNEL_MEMORY.give(AREA_BYTES * len(pieces))
        self._areas = []
        self._starts = []
        self.total_bytes = 0
        share = self._share
        if share is not None:
            self._share = None
            share.count -= 1
            if share.count:
                return
        self._drop(pieces)


def _alike(a: Area, b: Area) -> bool:
    return (
        a.prot == b.prot
        and a.flags == b.flags
        and a.backing is None
        and b.backing is None
        and a.name == b.name
        and a.policy == b.policy
    )
