"""An address space: the changes that system calls make to the list of areas (`mm.area_list`), and the host operations
that carry them out.

The host manages the pages; this module decides addresses and protections (I2: a guest's address is only ever used
below `max_address`) and queues the operations on the thread that asked.  Callers make sure that no other thread of the
process has operations pending.

A process may have tens of thousands of areas, and a call may concern all of them (I8). Functions that change areas
one by one handle at most `MANY` at a time and return where they stopped (`*_some`). Functions that change a range as
a whole (munmap, a mapping at a fixed address) raise `Crowded` if it has more areas. The caller then empties the range
with `empty_some` and calls again; that leaves one inaccessible area, so the range is not taken for free meanwhile.
The list of a large process is copied for a fork beforehand (`copy_some`).
"""

from bisect import bisect_right
from typing import Final

from cloche.abi.errno import EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM, EPERM, LinuxError
from cloche.abi.mman import (
    MADV_DOFORK,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_KEEPONFORK,
    MADV_WIPEONFORK,
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
from cloche.mm.advice import ADVICE, POPULATES, advice_error
from cloche.mm.area import (
    AREA_DONTFORK,
    AREA_GROWSDOWN,
    AREA_LOCKED,
    AREA_NORESERVE,
    AREA_SEALED,
    AREA_SHARED,
    AREA_WIPEONFORK,
    LOCK_FLAGS,
    MANY,
    MAX_AREAS,
    PAGE,
    Area,
    Crowded,
    Mappable,
    page_up,
)
from cloche.mm.area_list import AreaList
from cloche.mm.quota import AREA_BYTES, KERNEL_MEMORY
from cloche.mm.text import TAIL_GAP, TAIL_NAME, Tail
from cloche.platform.interface import HostProcess, HostThread

EPERM_LOW: Final = 1  # EPERM: below vm.mmap_min_addr
_WORD: Final = (1 << 64) - 1
STACK_GUARD_GAP: Final = 256 * PAGE


class MemoryUser:
    """Something that belongs to an address space and ends with it (contexts of asynchronous I/O)."""

    def memory_released(self) -> None:
        raise NotImplementedError


class AddressSpace(AreaList):
    """The memory of one host process."""

    def __init__(self, process: HostProcess, min_address: int, max_address: int) -> None:
        super().__init__(min_address, max_address)
        self.process: HostProcess = process
        self.users: int = 1  # tasks in it
        # The last mprotect, to undo it if the host refuses: the thread, and the areas before.
        self.protecting: HostThread | None = None
        self.protected: list[Area] = []
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
        self.future_lock: int = 0  # of LOCK_FLAGS: what mlockall(MCL_FUTURE) gives new areas
        # whether areas that may grow downwards were made; the limits for these, in bytes (-1: none), follow
        self.growing: int = 0
        self.stack_limit: int = -1  # RLIMIT_STACK
        self.lock_limit: int = -1  # RLIMIT_MEMLOCK, for locked ones
        self.total_limit: int = -1  # RLIMIT_AS
        # The last mremap, to undo it if the host refuses
        self.remapping: tuple[int, int, int, int, int] | None = None
        self.is_dead: bool = False
        self.aio: MemoryUser | None = None  # owned by fs.aio
        self.has_sealed: bool = False  # mseal(2) was called in it
        self.has_slow_files: bool = False  # a file was mapped whose storage may be slow
        self.has_segments: bool = False  # shmat(2) was called in it
        self.is_patching: bool = False  # map patched text where there is some
        self.tails: dict[int, Tail] = {}  # by address
        self.is_mergeable: bool = False  # PR_SET_MEMORY_MERGE: stored, without effect, as MADV_MERGEABLE
        self.coredump_filter: int = 0x33  # /proc/PID/coredump_filter
        # PR_SET_THP_DISABLE: stored, without effect, as other hints on huge pages
        self.is_thp_disabled: bool = False
        # PR_SET_MDWE: memory cannot become executable later, nor be writable and executable
        self.mdwe: int = 0
        self.membarriers: int = 0  # registrations of membarrier(2); owned by syscalls.sys_membarrier

    # -- system calls --------------------------------------------------------------------------------------
    def empty_some(self, thread: HostThread, at: int, end: int) -> int:
        """Replace the first areas of [at, end), and the holes between them, by one inaccessible area."""
        peak = self.peak_total_bytes
        stop = self._some(at, end)
        pieces = self._remove(at, stop)
        how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
        thread.queue_mmap(at, stop - at, 0, how, -1, 0)
        self._insert(Area(at, stop, 0, AREA_NORESERVE, None, 0, b""))
        self.peak_total_bytes = peak
        self._drop(pieces)
        return stop

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
        """An address for a file that may be a program, with room above it for its tail."""
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
            # it may split an area; but even a nearly full list must be able to shrink
            raise LinuxError(ENOMEM)
        if self.is_crowded(addr, addr + size):
            raise Crowded(addr, addr + size)
        self.check_sealed(addr, addr + size)
        removed = self._remove(addr, addr + size)
        if removed:
            # One host operation over the range that was really mapped, and not beyond.
            thread.queue_munmap(removed[0].start, removed[-1].end - removed[0].start)
            self._drop(removed)
            if self.tails:
                self._drop_tails(thread, addr, addr + size)

    def forget(self, addr: int, length: int) -> None:
        """Undo the bookkeeping of a mapping that the host has refused."""
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
        """Give the first areas of [at, end) the protection `prot`.

        Returns where it stopped. Raises LinuxError(ENOMEM, EACCES, EPERM) at the first area that is missing or must
        not have it; those before it were changed.
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
        """The host has refused the last mprotect of `thread`: restore the old protection here, and on the host."""
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
        keeps = flags & MREMAP_DONTUNMAP != 0  # the old area stays mapped, and becomes empty
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
            # The rest is unmapped; it may consist of several areas.
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
                raise LinuxError(ENOMEM)  # its jumps to the tail are valid at one address only
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
            pieces = self._remove(old, old + old_size)  # the area stays, but is unlocked
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
        """The host has refused the last mremap: put the area back at its old address."""
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
        if addr & 4095 or advice not in ADVICE:
            raise LinuxError(EINVAL)
        size = page_up(length) & _WORD
        if (length and not size) or addr + size > _WORD:
            raise LinuxError(EINVAL)
        return addr + size

    def advise_some(self, thread: HostThread, at: int, end: int, advice: int) -> tuple[int, bool]:
        """Apply the advice to the first areas of [at, end).

        Returns where it stopped, and whether there was a hole. Raises LinuxError(ENOMEM, EINVAL, EACCES, EPERM) at
        the first area that refuses it; those before it were changed.
        """
        action = ADVICE[advice]
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
                if advice in POPULATES:
                    error = ENOMEM  # populating ends at the first hole
                    break
                if area.start >= end:
                    stop = end
                    break
            error = advice_error(area, advice)
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

    def grow_down(self, thread: HostThread, addr: int) -> int:
        """Grow the area above a fault at `addr`, if it may (expand_downwards). Returns the area's old start, or 0."""
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
        """brk(2). Returns the new break, or on failure the old one."""
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

    def inherited_mdwe(self) -> int:
        """PR_SET_MDWE of a fork or of the next program."""
        return 0 if self.mdwe & PR_MDWE_NO_INHERIT else self.mdwe

    def fork(self, process: HostProcess) -> "AddressSpace":
        """The bookkeeping of a copy-on-write copy that runs in `process`."""
        new = AddressSpace(process, self.min_address, self.max_address)
        # Not shared with locks, which are not inherited, nor with segments, whose attachments shmctl(2) counts.
        self.copy_to(new, may_share=not self.has_segments)
        return self._inherit(new)

    def _inherit(self, new: "AddressSpace") -> "AddressSpace":
        """Copy to a fork everything but the areas."""
        new.start_brk, new.brk = self.start_brk, self.brk
        new.start_code, new.end_code = self.start_code, self.end_code
        new.start_data, new.end_data = self.start_data, self.end_data
        new.start_stack = self.start_stack
        new.arg_start, new.arg_end = self.arg_start, self.arg_end
        new.env_start, new.env_end = self.env_start, self.env_end
        new.auxv = self.auxv
        new.vdso_start, new.vdso_end = self.vdso_start, self.vdso_end
        new.growing = self.growing
        new.stack_limit, new.lock_limit, new.total_limit = self.stack_limit, self.lock_limit, self.total_limit
        new.has_segments = self.has_segments
        new.has_slow_files = self.has_slow_files
        new.is_patching = self.is_patching
        new.tails = dict(self.tails)
        new.has_sealed = self.has_sealed
        new.membarriers = self.membarriers
        new.mdwe = self.inherited_mdwe()
        new.is_mergeable = self.is_mergeable
        new.coredump_filter = self.coredump_filter
        new.is_thp_disabled = self.is_thp_disabled
        return new

    def release(self) -> None:
        """The process is gone: drop what the areas held."""
        self.is_dead = True
        self.protecting, self.protected = None, []
        if self.aio is not None:
            self.aio.memory_released()
            self.aio = None
        self.clear()


def _guards(below: Area, start: int) -> bool:
    """Whether the area below keeps a growing area at a distance (stack_guard_gap)."""
    return not below.flags & AREA_GROWSDOWN and below.prot != 0 and start - below.end < STACK_GUARD_GAP
