"""An address space: the kernel's list of virtual memory areas, and the host operations that make it true.

The host manages the pages; this module decides addresses and protections (I2: a guest's address is only ever used
below `max_address`), keeps the list for /proc/PID/maps, limits and forks, and queues the operations on the thread
that asked.  Callers make sure that no other thread of the process has operations pending.

A process may have tens of thousands of areas, and a call may be about all of them (I8).  What changes areas one after
the other does at most `MANY` at a time and tells where it stopped (`*_some`).  What takes a range as a whole (munmap,
a mapping at a fixed address) raises `Crowded` while there are more in it; the caller then empties the range with
`empty_some`, which leaves one inaccessible area instead, so nobody finds it free meanwhile, and calls again.  The list
of a large process is copied for a fork beforehand (`copy_some`).
"""

from bisect import bisect_left, bisect_right
from typing import Final

from mypy_extensions import trait

from cloche.abi.errno import EACCES, EAGAIN, EBADF, EEXIST, EFAULT, EINVAL, ENOMEM, EPERM, LinuxError
from cloche.abi.mman import (
    MADV_DOFORK,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_KEEPONFORK,
    MADV_REMOVE,
    MADV_WIPEONFORK,
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_STACK,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_MASK,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_SEM,
    PROT_WRITE,
)
from cloche.abi.prctl import PR_MDWE_NO_INHERIT
from cloche.mm.quota import AREA_BYTES, KERNEL_MEMORY
from cloche.mm.text import TAIL_GAP, TAIL_NAME, PatchedText, Tail
from cloche.platform.interface import HostProcess, HostThread

PAGE: Final = 4096
_FEW: Final = 8  # pieces that are inserted one by one
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
    """A call is about more areas than it may change at once; nothing has happened yet."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start: int = start
        self.end: int = end


@trait
class Mappable:
    """What an area can map: an open file, or shared anonymous memory."""

    def map_fd(self, prot: int, flags: int) -> int:
        """A host descriptor; stays the object's own.  Raises LinuxError."""
        raise NotImplementedError

    def map_text(self) -> PatchedText | None:
        """The patched copies of its executable pages, None if there are none."""
        return None

    def map_get(self) -> None:
        """An area refers to it now."""
        raise NotImplementedError

    def map_put(self) -> None:
        """An area is gone."""
        raise NotImplementedError

    def map_memory(self) -> int:
        """A host descriptor of memory that can be written and whose size is the sentry's alone; or -1."""
        return -1

    def map_identity(self) -> tuple[int, int]:
        """(device, inode), for futex keys and /proc/PID/maps."""
        raise NotImplementedError

    def map_name(self) -> bytes:
        """What /proc/PID/maps shows."""
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
    """What is done to each area of a range, where the host has no part in it."""

    def apply(self, area: Area) -> None:
        raise NotImplementedError


class AreaCopy:
    """The areas that a fork will have, as far as they have been copied; of a list that has not changed since."""

    def __init__(self) -> None:
        self.areas: list[Area] = []
        self.starts: list[int] = []
        self.total_bytes: int = 0
        self.next: int = 0  # index of the area that is to be copied next
        self.charged: int = 0  # bytes of kernel memory


class AreaShare:
    """How many address spaces have the same list of areas: a fork copies it only when one of them changes it."""

    def __init__(self) -> None:
        self.count: int = 1


class MemoryUser:
    """Something that belongs to an address space and ends with it (contexts of asynchronous I/O)."""

    def memory_released(self) -> None:
        raise NotImplementedError


class AddressSpace:
    """The areas of one host process, sorted by address."""

    def __init__(self, process: HostProcess, min_address: int, max_address: int) -> None:
        self.process: HostProcess = process
        self.min_address: int = min_address
        self.max_address: int = max_address
        self.users: int = 1  # tasks in it
        self._areas: list[Area] = []
        self._starts: list[int] = []
        self._share: AreaShare | None = None  # None: the list is ours alone
        self._has_unforked: bool = False  # some may not be inherited
        self._copy: AreaCopy | None = None  # for the next fork
        # The last mprotect, should the host refuse it: whose, and what was there.
        self.protecting: HostThread | None = None
        self.protected: list[Area] = []
        self.mmap_base: int = max_address
        self._hint: int = max_address  # no gap is known above it (below mmap_base)
        self.start_brk: int = 0
        self.brk: int = 0
        self.start_code: int = 0
        self.end_code: int = 0
        self.start_data: int = 0
        self.end_data: int = 0
        self.start_stack: int = 0
        self.arg_start: int = 0
        self.arg_end: int = 0
        self.env_start: int = 0
        self.env_end: int = 0
        self.auxv: bytes = b""
        self.vdso_start: int = 0
        self.vdso_end: int = 0
        self.total_bytes: int = 0
        self.future_lock: int = 0  # of LOCK_FLAGS: what mlockall(MCL_FUTURE) gives new areas
        self.locked_bytes: int = 0
        self.growing: int = 0  # areas that may grow downwards were made; how far, in bytes, -1 for any:
        self.stack_limit: int = -1  # RLIMIT_STACK
        self.lock_limit: int = -1  # RLIMIT_MEMLOCK, for locked ones
        self.total_limit: int = -1  # RLIMIT_AS
        self.remapping: tuple[int, int, int, int, int] | None = (
            None  # the last mremap, should the host refuse it
        )
        self.peak_total_bytes: int = 0
        # A range that was found to be writable; forgotten when anything is taken out of the list.
        self.good_start: int = 0
        self.good_end: int = 0
        self.is_dead: bool = False
        self.aio: MemoryUser | None = None  # owned by fs.aio
        self.has_sealed: bool = False  # mseal(2) was called in it
        self.has_segments: bool = False  # shmat(2) was called in it
        self.is_patching: bool = False  # map patched text where there is some
        self.tails: dict[int, Tail] = {}  # by address
        self.is_mergeable: bool = False  # PR_SET_MEMORY_MERGE: kept, as MADV_MERGEABLE is
        self.coredump_filter: int = 0x33  # /proc/PID/coredump_filter
        self.is_thp_disabled: bool = False  # PR_SET_THP_DISABLE: kept, as other hints on huge pages
        self.mdwe: int = 0  # PR_SET_MDWE: nothing becomes executable that was not, or is writable
        self.membarriers: int = 0  # registrations of membarrier(2); owned by syscalls.sys_membarrier

    # -- the list ----------------------------------------------------------------------------------------
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

    def is_covered(self, start: int, end: int) -> bool:
        """Whether areas cover all of [start, end)."""
        index = bisect_right(self._starts, start) - 1
        if index < 0:
            return start >= end
        at = start
        while at < end:
            if index >= len(self._areas):
                return False
            area = self._areas[index]
            if area.start > at or area.end <= at:
                return False
            at = area.end
            index += 1
        return True

    def writable_bytes(self, addr: int, length: int) -> int:
        """How many of `length` bytes from `addr` on lie in areas that may be written, without a gap."""
        index = bisect_right(self._starts, addr) - 1
        if index < 0:
            return 0
        at, end = addr, addr + length
        while at < end and index < len(self._areas):
            area = self._areas[index]
            if area.start > at or area.end <= at or area.prot & PROT_WRITE == 0:
                break
            at = area.end
            index += 1
            self.good_start, self.good_end = area.start, at
        return min(at, end) - addr

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
        """Look whether areas cover [at, end): how far they do for sure.  Raises LinuxError(ENOMEM) at a hole."""
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

    def change_some(self, at: int, end: int, change: AreaChange) -> int:
        """Apply `change` to the first areas of [at, end); where it stopped.  Raises LinuxError(ENOMEM)."""
        self._check_room()
        stop = self._some(at, end)
        pieces = self._remove(at, stop)
        for piece in pieces:
            change.apply(piece)
        self._insert_all(pieces)
        self._drop(pieces)
        return stop

    def empty_some(self, thread: HostThread, at: int, end: int) -> int:
        """Put one inaccessible area where the first areas of [at, end) and the holes between them are."""
        peak = self.peak_total_bytes
        stop = self._some(at, end)
        pieces = self._remove(at, stop)
        how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
        thread.queue_mmap(at, stop - at, 0, how, -1, 0)
        self._insert(Area(at, stop, 0, AREA_NORESERVE, None, 0, b""))
        self.peak_total_bytes = peak
        self._drop(pieces)
        return stop

    def shared_place(self, addr: int) -> tuple[int, int]:
        """(descriptor, offset) of writable shared memory at `addr` that the sentry can map; (-1, 0) for other."""
        area = self.find(addr)
        if area is None or not area.is_shared() or area.backing is None or not area.prot & PROT_WRITE:
            return -1, 0
        return area.backing.map_memory(), area.offset + addr - area.start

    def _own(self) -> None:
        """Before the list or an area in it changes: have it to ourselves."""
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
        gone = -1  # where those begin that go as a whole: to take them out one by one would be quadratic
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
        """Before anything that may add areas.  Raises LinuxError(ENOMEM)."""
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

    # -- system calls --------------------------------------------------------------------------------------
    def mmap(
        self,
        thread: HostThread,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        backing: Mappable | None,
        offset: int,
        name: bytes = b"",
        limit_bytes: int = -1,
        lock_limit: int = -1,
    ) -> int:
        """mmap(2) after its arguments were decoded; the address.  Raises LinuxError."""
        if length <= 0:
            raise LinuxError(EINVAL if length == 0 else ENOMEM)
        size = page_up(length)
        if size > self.max_address:
            raise LinuxError(ENOMEM)
        is_fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0
        if is_fixed:
            if addr > self.max_address - size:
                raise LinuxError(ENOMEM)
            if addr & 4095:
                raise LinuxError(EINVAL)
            if addr < self.min_address:
                raise LinuxError(EPERM_LOW)
            if flags & MAP_FIXED_NOREPLACE and self.overlaps(addr, addr + size):
                raise LinuxError(EEXIST)
        locks = (AREA_LOCKED if flags & MAP_LOCKED else 0) | self.future_lock
        if locks:
            self.check_lock(size, lock_limit)
        if limit_bytes >= 0 and self.total_bytes + size > limit_bytes:
            raise LinuxError(ENOMEM)
        self._check_room()
        if is_fixed:
            if self.is_crowded(addr, addr + size):
                raise Crowded(addr, addr + size)
            self.check_sealed(addr, addr + size)
        is_shared = flags & 0xF != MAP_PRIVATE
        if not is_fixed:
            if backing is not None and self.is_patching and not is_shared and not addr and not offset:
                addr = self._choose_with_gap(size, flags)
            else:
                addr = self.choose_address(addr, size, flags)
        fd = -1
        host_flags = MAP_FIXED | (flags & (MAP_NORESERVE | MAP_POPULATE | MAP_STACK))
        if backing is not None:
            fd = backing.map_fd(prot, flags)
            host_flags |= MAP_SHARED if is_shared else MAP_PRIVATE
        else:
            host_flags |= MAP_PRIVATE | MAP_ANONYMOUS
        if (
            backing is None
            or not self.is_patching
            or is_shared
            or prot & (PROT_WRITE | PROT_EXEC) != PROT_EXEC
            or not self._map_patched(thread, addr, size, prot & 7, host_flags, backing, fd, offset)
        ):
            thread.queue_mmap(addr, size, prot & 7, host_flags, fd, offset if backing is not None else 0)
        if is_fixed:
            self._drop(self._remove(addr, addr + size))
        area_flags = AREA_SHARED if is_shared else 0
        if flags & MAP_NORESERVE:
            area_flags |= AREA_NORESERVE
        if locks:
            area_flags |= locks
        if flags & MAP_GROWSDOWN:
            area_flags |= AREA_GROWSDOWN
            self.growing += 1
        self._insert(Area(addr, addr + size, prot & 7, area_flags, backing, offset, name))
        return addr

    def check_lock(self, size: int, lock_limit: int) -> None:
        """Before locked memory grows by `size` bytes (mlock_future_ok).  Raises LinuxError(EAGAIN)."""
        if lock_limit >= 0 and self.locked_bytes + size > lock_limit & PAGE_MASK:
            raise LinuxError(EAGAIN)

    def _choose_with_gap(self, size: int, flags: int) -> int:
        """A place for a file that may turn out to be a program: with room above it for its tail."""
        try:
            return self.choose_address(0, size + TAIL_GAP, flags)
        except LinuxError:
            return self.choose_address(0, size, flags)

    def _map_patched(
        self,
        thread: HostThread,
        addr: int,
        size: int,
        prot: int,
        host_flags: int,
        backing: Mappable,
        fd: int,
        offset: int,
    ) -> bool:
        """Queue the mapping of a file's text with its patched pages, if it has any and its tail finds its place."""
        text = backing.map_text()
        if text is None:
            return False
        pieces = text.pieces(offset, size)
        if not pieces:
            return False
        bias = addr + pieces[0].file_offset - offset - pieces[0].address
        for piece in pieces:
            if addr + piece.file_offset - offset != piece.address + bias:
                return False
        if bias and text.is_fixed():
            return False
        start = text.tail_address() + bias
        end = start + text.tail_length()
        known = self.tails.get(start)
        if known is None or known.text is not text:
            if start < self.min_address or end > self.max_address or self.overlaps(start, end):
                return False
            if known is not None or (start < addr + size and addr < end):
                return False
        if len(pieces) > 1 or pieces[0].length < size:
            thread.queue_mmap(addr, size, prot, host_flags, fd, offset)
        for piece in pieces:
            at = piece.address + bias
            length = min(piece.length, addr + size - at)
            thread.queue_mmap(at, length, prot, host_flags, text.fd(), piece.text_offset)
        if known is None:
            both = PROT_READ | PROT_EXEC
            thread.queue_mmap(
                start, end - start, both, MAP_PRIVATE | MAP_FIXED, text.fd(), text.tail_offset()
            )
            self.tails[start] = Tail(start, bias, text)
            self._insert(Area(start, end, both, 0, None, 0, TAIL_NAME))
        return True

    def _drop_tails(self, thread: HostThread, start: int, end: int) -> None:
        """After [start, end) was unmapped: the tails of text that is gone, and those that were in there."""
        for tail in list(self.tails.values()):
            if start < tail.end and tail.start < end:
                del self.tails[tail.start]
            elif (
                start < tail.code_end
                and tail.code_start < end
                and not self.overlaps(tail.code_start, tail.code_end)
            ):
                del self.tails[tail.start]
                self._drop(self._remove(tail.start, tail.end))
                thread.queue_munmap(tail.start, tail.end - tail.start)

    def original_pc(self, pc: int) -> int:
        """The address in the program that `pc` stands for if it is in a tail."""
        for tail in self.tails.values():
            if tail.start <= pc < tail.end:
                address = tail.text.original(pc - tail.start)
                return pc if address < 0 else address + tail.bias
        return pc

    def munmap(self, thread: HostThread, addr: int, length: int) -> None:
        """munmap(2).  Raises LinuxError(EINVAL)."""
        if addr & 4095 or length <= 0 or addr < 0:
            raise LinuxError(EINVAL)
        size = page_up(length)
        if size > self.max_address or addr > self.max_address - size:
            raise LinuxError(EINVAL)
        if len(self._areas) >= MAX_AREAS + 100:
            raise LinuxError(ENOMEM)  # it may split one, but what is nearly full must be able to shrink
        if self.is_crowded(addr, addr + size):
            raise Crowded(addr, addr + size)
        self.check_sealed(addr, addr + size)
        removed = self._remove(addr, addr + size)
        if removed:
            # One host operation over what really was mapped: never beyond it.
            thread.queue_munmap(removed[0].start, removed[-1].end - removed[0].start)
            self._drop(removed)
            if self.tails:
                self._drop_tails(thread, addr, addr + size)

    def forget(self, addr: int, length: int) -> None:
        """Undo the bookkeeping of a mapping that the host refused."""
        self._drop(self._remove(addr, addr + page_up(length)))
        for tail in list(self.tails.values()):
            if addr < tail.code_end and tail.code_start < addr + length:
                del self.tails[tail.start]
                self._drop(self._remove(tail.start, tail.end))

    def check_protect(self, addr: int, length: int, prot: int) -> tuple[int, int]:
        """Before `protect_some`: the range that mprotect(2) is about.  Raises LinuxError(EINVAL, ENOMEM)."""
        grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
        if grows == PROT_GROWSDOWN | PROT_GROWSUP or addr & 4095:
            raise LinuxError(EINVAL)
        if length == 0:
            return addr, addr
        end = self.check_range(addr, length)
        if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM | grows):
            raise LinuxError(EINVAL)
        if grows:
            index = self._first(addr)
            area = self._areas[index] if index < len(self._areas) else None
            if area is None or area.start >= end or (grows == PROT_GROWSUP and area.start > addr):
                raise LinuxError(ENOMEM)
            if grows == PROT_GROWSUP or not area.flags & AREA_GROWSDOWN:
                raise LinuxError(EINVAL)
            addr = area.start
        return addr, end

    def protect_some(self, thread: HostThread, at: int, end: int, prot: int) -> int:
        """Give the first areas of [at, end) the protection `prot`; where it stopped.

        Raises LinuxError(ENOMEM, EACCES, EPERM) at the first that is missing or must not have it; those before it do.
        """
        self._check_room()
        index = max(bisect_right(self._starts, at) - 1, 0)
        last = min(index + MANY, len(self._areas))
        needs_change = False
        error = 0
        stop = at
        while stop < end and not error:
            area = self._areas[index] if index < last else None
            if area is None or area.start > stop or area.end <= stop:
                if index < len(self._areas) and index == last and stop > at:
                    break
                error = ENOMEM
                break
            error = self._protect_error(area, prot)
            if not error:
                needs_change = needs_change or area.prot != prot
                stop = area.end
                index += 1
        stop = min(stop, end)
        if needs_change:
            pieces = self._remove(at, stop)
            self.protecting = thread
            self.protected = [piece.slice(piece.start, piece.end) for piece in pieces]
            for piece in pieces:
                piece.prot = prot
            self._insert_all(pieces)
            self._drop(pieces)  # _insert took its own references
            thread.queue_mprotect(at, stop - at, prot)
        if error:
            raise LinuxError(error)
        return stop

    def _protect_error(self, area: Area, prot: int) -> int:
        """Why mprotect refuses an area."""
        backing = area.backing
        if backing is not None and prot & ~(backing.map_max_prot() | (0 if area.is_shared() else PROT_WRITE)):
            return EACCES
        if self.mdwe and prot & PROT_EXEC and (prot & PROT_WRITE or not area.prot & PROT_EXEC):
            return EACCES
        return EPERM if area.flags & AREA_SEALED else 0

    def undo_protect(self, thread: HostThread) -> None:
        """The host refused the last mprotect of `thread`: what it was about has its old protection, here and there."""
        old, self.protected = self.protected, []
        if self.protecting is not thread:
            return
        self.protecting = None
        for was in old:
            pieces = self._remove(was.start, was.end)
            for piece in pieces:
                piece.prot = was.prot
            self._insert_all(pieces)
            self._drop(pieces)
            if pieces:
                thread.queue_mprotect(was.start, was.end - was.start, was.prot)

    def mremap(
        self,
        thread: HostThread,
        old: int,
        old_length: int,
        new_length: int,
        flags: int,
        new: int,
        limit_bytes: int = -1,
        lock_limit: int = -1,
    ) -> int:
        """mremap(2); the new address.  Raises LinuxError."""
        if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) or old & 4095:
            raise LinuxError(EINVAL)
        if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE:
            raise LinuxError(EINVAL)
        self._check_room()
        old_size, new_size = page_up(old_length), page_up(new_length)
        keeps = flags & MREMAP_DONTUNMAP != 0  # the old area stays, empty
        if keeps and old_size != new_size:
            raise LinuxError(EINVAL)
        if new_size <= 0 or old_length < 0 or new_size > self.max_address:
            raise LinuxError(EINVAL)
        if flags & MREMAP_FIXED or keeps:
            if new & 4095 or new < 0 or new > self.max_address - new_size:
                raise LinuxError(EINVAL)
            if new < old + old_size and old < new + new_size:
                raise LinuxError(EINVAL)
        if flags & MREMAP_FIXED and new < self.min_address:
            raise LinuxError(EINVAL)
        area = self.find(old)
        if area is None:
            raise LinuxError(EFAULT)
        if area.flags & AREA_SEALED:
            raise LinuxError(EPERM)
        if old_size == 0 and not area.is_shared():
            raise LinuxError(EINVAL)
        if new_size <= old_size and not (flags & MREMAP_FIXED or keeps):
            # The rest is just unmapped, whatever areas it consists of.
            if new_size < old_size:
                self.munmap(thread, old + new_size, old_size - new_size)
            return old
        if old + old_size > area.end:
            raise LinuxError(EFAULT)
        if new_size > old_size:
            if area.flags & AREA_LOCKED:
                self.check_lock(new_size - old_size, lock_limit)
            if limit_bytes >= 0 and self.total_bytes + new_size - old_size > limit_bytes:
                raise LinuxError(ENOMEM)
        if flags & MREMAP_FIXED:
            self.check_sealed(new, new + new_size)
        elif not keeps and old_size and old + old_size == area.end:
            grown_end = old + new_size
            if grown_end <= self.max_address and not self.overlaps(area.end, grown_end):
                thread.queue_mremap(old, old_size, new_size, 0, 0)
                self.remapping = (old, 0, area.end, grown_end - area.end, 0)
                tail = area.slice(area.start, area.end)
                tail.start, tail.end = old + old_size, grown_end
                if area.backing is not None:
                    tail.offset = area.offset + (old + old_size - area.start)
                self._insert(tail)
                return old
        if not flags & MREMAP_MAYMOVE:
            raise LinuxError(ENOMEM)
        for known in self.tails.values():
            end = old + old_size
            if (old < known.code_end and known.code_start < end) or (old < known.end and known.start < end):
                raise LinuxError(ENOMEM)  # its jumps to the tail hold in one place only
        if flags & MREMAP_FIXED:
            if self.is_crowded(new, new + new_size):
                raise Crowded(new, new + new_size)
            self._drop(self._remove(new, new + new_size))
            target = new
        else:
            target = self.choose_address(new if keeps else 0, new_size)
        kept = min(old_size, new_size)
        if old_size > new_size:
            thread.queue_munmap(old + new_size, old_size - new_size)
        host_old = old_size if old_size <= new_size else kept
        how = MREMAP_MAYMOVE | MREMAP_FIXED | flags & MREMAP_DONTUNMAP
        thread.queue_mremap(old, host_old, new_size, how, target)
        moved = area.slice(old, min(old + max(kept, PAGE), area.end))
        moved.start, moved.end = target, target + new_size
        if keeps:
            self.remapping = (old, 0, target, new_size, area.flags & LOCK_FLAGS)
            pieces = self._remove(old, old + old_size)  # only to be unlocked
            for piece in pieces:
                piece.flags &= ~LOCK_FLAGS
                self._insert(piece)
        else:
            self.remapping = (old, kept, target, new_size, 0)
            pieces = self._remove(old, old + old_size) if old_size else []
        self._insert(moved)
        self._drop(pieces)
        return target

    def undo_mremap(self) -> None:
        """The host refused the last mremap: what it was to move is still where it was."""
        if self.remapping is None:
            return
        old, old_size, target, size, _ = self.remapping
        self.remapping = None
        area = self.find(target)
        if area is not None and old_size and not self.overlaps(old, old + old_size):
            piece = area.slice(target, min(target + old_size, area.end))
            piece.start, piece.end = old, old + old_size
            self._insert(piece)
        self._drop(self._remove(target, target + size))

    def check_advice(self, addr: int, length: int, advice: int) -> int:
        """Before `advise_some`: where the range of madvise(2) ends.  Raises LinuxError(EINVAL)."""
        if addr & 4095 or advice not in _ADVICE:
            raise LinuxError(EINVAL)
        size = page_up(length) & _WORD
        if (length and not size) or addr + size > _WORD:
            raise LinuxError(EINVAL)
        return addr + size

    def advise_some(self, thread: HostThread, at: int, end: int, advice: int) -> tuple[int, bool]:
        """Advise on the first areas of [at, end); where it stopped, and whether there was a hole.

        Raises LinuxError(ENOMEM, EINVAL, EACCES, EPERM) at the first that cannot have it; those before it do.
        """
        action = _ADVICE[advice]
        if action == 2:
            self._check_room()
        areas = self._areas
        index = self._first(at)
        last = min(index + MANY, len(areas))
        changed: list[tuple[int, int]] = []
        error = 0
        stop = at
        has_hole = False
        while stop < end:
            if index == last:
                if index == len(areas):
                    has_hole = True
                    stop = end
                break
            area = areas[index]
            if area.start > stop:
                has_hole = True
                if advice in _POPULATES:
                    error = ENOMEM  # populating ends at the first hole
                    break
                if area.start >= end:
                    stop = end
                    break
            error = _advice_error(area, advice)
            if error:
                break
            begin, stop = max(area.start, at), min(area.end, end)
            if changed and changed[-1][1] == begin:
                changed[-1] = (changed[-1][0], stop)  # one operation of the host for all of them
            else:
                changed.append((begin, stop))
            index += 1
        for start, upto in changed:
            if action == 1:
                thread.queue_madvise(start, upto - start, MADV_DONTNEED if advice == 24 else advice)
            elif action == 2:
                self._mark(start, upto, advice)
                thread.queue_madvise(start, upto - start, advice)
        if error:
            raise LinuxError(error)
        return stop, has_hole

    def _mark(self, start: int, end: int, advice: int) -> None:
        if advice == MADV_DONTFORK:
            self._has_unforked = True
        pieces = self._remove(start, end)
        for piece in pieces:
            if advice == MADV_DONTFORK:
                piece.flags |= AREA_DONTFORK
            elif advice == MADV_DOFORK:
                piece.flags &= ~AREA_DONTFORK
            elif advice == MADV_WIPEONFORK:
                piece.flags |= AREA_WIPEONFORK
            elif advice == MADV_KEEPONFORK:
                piece.flags &= ~AREA_WIPEONFORK
        self._insert_all(pieces)
        self._drop(pieces)

    def check_sealed(self, start: int, end: int) -> None:
        """Raises LinuxError(EPERM) if any area in [start, end) is sealed."""
        if self.has_sealed:
            for area in self._between(start, end):
                if area.flags & AREA_SEALED:
                    raise LinuxError(EPERM)

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
        """Look for sealed areas in [at, end): how far there are none.  Raises LinuxError(EPERM)."""
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

    def grow_down(self, thread: HostThread, addr: int) -> int:
        """A fault at `addr` may make the area above it grow (expand_downwards): where that began before, or 0."""
        start = addr & PAGE_MASK
        index = bisect_right(self._starts, addr)
        if index >= len(self._areas) or start < self.min_address:
            return 0
        area = self._areas[index]
        if not area.flags & AREA_GROWSDOWN or area.flags & AREA_SEALED:
            return 0
        old_start = area.start
        if 0 <= self.stack_limit < area.end - start or len(self._areas) >= MAX_AREAS:
            return 0
        below = self._areas[index - 1] if index else None
        if below is not None and (below.end > start or _guards(below, start)):
            return 0
        if area.flags & AREA_LOCKED and 0 <= self.lock_limit < self.locked_bytes + old_start - start:
            return 0
        if 0 <= self.total_limit < self.total_bytes + old_start - start:
            return 0
        how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        thread.queue_mmap(start, old_start - start, area.prot, how, -1, 0)
        self._insert(Area(start, old_start, area.prot, area.flags, None, 0, area.name))
        return old_start

    def set_brk(
        self, thread: HostThread, new: int, data_limit: int, total_limit: int, lock_limit: int = -1
    ) -> int:
        """brk(2): the break afterwards, unchanged on failure."""
        if new < self.start_brk or new >= self.max_address:
            return self.brk
        old_end, new_end = page_up(self.brk), page_up(new)
        if data_limit >= 0 and new - self.start_brk + self.end_data - self.start_data > data_limit:
            return self.brk
        if new_end > old_end:
            if len(self._areas) >= MAX_AREAS or not KERNEL_MEMORY.has_room(AREA_BYTES):
                return self.brk
            if self.overlaps(old_end, new_end + PAGE):
                return self.brk
            if self.future_lock and 0 <= lock_limit < self.locked_bytes + new_end - old_end:
                return self.brk
            if total_limit >= 0 and self.total_bytes + new_end - old_end > total_limit:
                return self.brk
            thread.queue_mmap(
                old_end,
                new_end - old_end,
                PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                -1,
                0,
            )
            self._insert(Area(old_end, new_end, PROT_READ | PROT_WRITE, self.future_lock, None, 0, b"[heap]"))
        elif new_end < old_end:
            self.munmap(thread, new_end, old_end - new_end)
        self.brk = new
        return new

    # -- life ----------------------------------------------------------------------------------------------
    def check_fork(self) -> None:
        """Before `fork`.  Raises LinuxError(ENOMEM)."""
        charged = self._copy.charged if self._copy is not None else 0
        if not KERNEL_MEMORY.has_room(AREA_BYTES * len(self._areas) - charged):
            raise LinuxError(ENOMEM)

    def inherited_mdwe(self) -> int:
        """PR_SET_MDWE of a fork or of the next program."""
        return 0 if self.mdwe & PR_MDWE_NO_INHERIT else self.mdwe

    def fork(self, process: HostProcess) -> "AddressSpace":
        """The bookkeeping of a copy-on-write copy that runs in `process`."""
        new = AddressSpace(process, self.min_address, self.max_address)
        # Locks are not inherited; shmctl(2) shows how many have a segment attached.
        copied, self._copy = self._copy, None
        if copied is not None and copied.next == len(self._areas):
            KERNEL_MEMORY.give(copied.charged)
            new._share = None
            new._areas, new._starts, new.total_bytes = copied.areas, copied.starts, copied.total_bytes
            return self._inherit(new)
        self._give_up(copied)
        if not self._has_unforked and not self.has_segments and not self.locked_bytes:
            share = self._share
            if share is None:
                share = self._share = AreaShare()
            share.count += 1
            new._share = share
            new._areas, new._starts, new.total_bytes = self._areas, self._starts, self.total_bytes
        if new._share is None:
            whole = AreaCopy()
            self._copy_areas(whole, len(self._areas))
            new._areas, new._starts, new.total_bytes = whole.areas, whole.starts, whole.total_bytes
        return self._inherit(new)

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
        """Before `fork`, again and again: copy some of the areas of a large process; whether there is more to do.

        Whoever changes the list meanwhile has it begin anew.  Raises LinuxError(ENOMEM).
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
        """What was copied for a fork is not true any more."""
        copied, self._copy = self._copy, None
        self._give_up(copied)

    def _give_up(self, copied: AreaCopy | None) -> None:
        if copied is not None:
            KERNEL_MEMORY.give(copied.charged)
            self._drop(copied.areas)

    def _inherit(self, new: "AddressSpace") -> "AddressSpace":
        """What a copy has beside its areas."""
        KERNEL_MEMORY.take(AREA_BYTES * len(new._areas))
        new.mmap_base = self.mmap_base
        new._hint = self._hint
        new.start_brk, new.brk = self.start_brk, self.brk
        new.start_code, new.end_code = self.start_code, self.end_code
        new.start_data, new.end_data = self.start_data, self.end_data
        new.start_stack = self.start_stack
        new.arg_start, new.arg_end = self.arg_start, self.arg_end
        new.env_start, new.env_end = self.env_start, self.env_end
        new.auxv = self.auxv
        new.vdso_start, new.vdso_end = self.vdso_start, self.vdso_end
        new.peak_total_bytes = new.total_bytes
        new.growing = self.growing
        new.stack_limit, new.lock_limit, new.total_limit = self.stack_limit, self.lock_limit, self.total_limit
        new.has_segments = self.has_segments
        new.is_patching = self.is_patching
        new.tails = dict(self.tails)
        new.has_sealed = self.has_sealed
        new.membarriers = self.membarriers
        new.mdwe = self.inherited_mdwe()
        new.is_mergeable = self.is_mergeable
        new.coredump_filter = self.coredump_filter
        new.is_thp_disabled = self.is_thp_disabled
        return new

    def set_mmap_base(self, base: int) -> None:
        """Where the search for gaps starts, downwards."""
        self.mmap_base = base
        self._hint = base

    def release(self) -> None:
        """The process is gone: drop what the areas held."""
        self.is_dead = True
        self.forget_copy()
        self.protecting, self.protected = None, []
        if self.aio is not None:
            self.aio.memory_released()
            self.aio = None
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


def _guards(below: Area, start: int) -> bool:
    """Whether what is mapped below keeps a growing area at a distance (stack_guard_gap)."""
    return not below.flags & AREA_GROWSDOWN and below.prot != 0 and start - below.end < STACK_GUARD_GAP


def _advice_error(area: Area, advice: int) -> int:
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


EPERM_LOW: Final = 1  # EPERM: below vm.mmap_min_addr
_WORD: Final = (1 << 64) - 1
STACK_GUARD_GAP: Final = 256 * PAGE

_DISCARDS: Final = (4, 8, 9, 10, 18)  # DONTNEED, FREE, REMOVE, DONTFORK, WIPEONFORK: what mseal forbids

_POPULATES: Final = (22, 23)
_NOT_LOCKED: Final = (4, 8, 9, 20, 21)  # DONTNEED, FREE, REMOVE, COLD, PAGEOUT: what locked areas refuse

# 0: nothing to do, 1: the host does it, 2: also remembered.
_ADVICE: Final[dict[int, int]] = {
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
