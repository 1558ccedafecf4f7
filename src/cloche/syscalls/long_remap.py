"""remap_file_pages(2) in slices (I8): a range may consist of tens of thousands of areas of one page.

Nothing changes before every area of the range was checked; then one mapping replaces them.
"""

from cloche.abi.errno import EINVAL, EPERM, LinuxError
from cloche.abi.mman import MAP_LOCKED
from cloche.kernel.blocking import TaskBase
from cloche.kernel.task import Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import AREA_LOCKED, AREA_SEALED, MANY, Area, Mappable
from cloche.syscalls.long_mm import RangeWork
from cloche.vfs.mapping import FileMapping


class Remapping(RangeWork):
    """Map the file of `area`, from `offset` on, at [start, end)."""

    def __init__(self, mm: AddressSpace, area: Area, start: int, end: int, offset: int, flags: int) -> None:
        super().__init__(mm, start, end)
        self.start: int = start
        self.offset: int = offset
        self.flags: int = flags | (MAP_LOCKED if area.flags & AREA_LOCKED else 0)
        self.checked: int = min(area.end, end)  # up to here all areas are alike
        self.like: Area = area.slice(area.start, area.end)
        self.held: Mappable | None = area.backing  # the replaced areas may be its last users
        if self.held is not None:
            self.held.map_get()

    def some(self, task: Task) -> None:
        mm = self.mm
        if self.checked < self.end:
            self._check()
        elif self.like.flags & AREA_SEALED:
            raise LinuxError(EPERM)
        elif mm.is_crowded(self.start, self.end):
            self.at = mm.empty_some(task.thread, self.at, self.end)
        else:
            self.at = self.end

    def _check(self) -> None:
        """Look at some areas: they follow each other, and have the same file and flags.  Raises LinuxError(EINVAL)."""
        for area in self.mm.areas_from(self.checked, MANY):
            if self.checked >= self.end:
                return
            if area.start != self.checked or not self._is_alike(area):
                raise LinuxError(EINVAL)
            self.checked = area.end
        if self.checked < self.end and self.mm.find(self.checked) is None:
            raise LinuxError(EINVAL)

    def _is_alike(self, area: Area) -> bool:
        like = self.like
        if area.flags != like.flags or area.prot != like.prot:
            return False
        one, two = area.backing, like.backing
        if isinstance(one, FileMapping) and isinstance(two, FileMapping):
            return one.file is two.file
        return one is two

    def result(self, task: Task) -> int:
        backing, offset, like = self.held, self.offset, self.like
        if backing is None:
            raise LinuxError(EINVAL)
        if isinstance(backing, FileMapping):
            backing, offset = FileMapping(task, backing.file, like.name), backing.file.mmap_offset(offset)
        size = self.end - self.start
        self.mm.mmap(task.thread, self.start, size, like.prot, self.flags, backing, offset, like.name)
        return 0

    def finished(self, task: TaskBase) -> None:
        held, self.held = self.held, None
        if held is not None:
            held.map_put()
