"""The memory of a fake guest: pages with a protection, over frames of bytes or of host files."""

import errno
import os
from typing import Final

from cloche.abi.mman import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from cloche.abi.signal import BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV

PAGE: Final = 4096


class HostFile:
    """A descriptor of its own of a mapped file."""

    def __init__(self, fd: int) -> None:
        self.fd: int = -1
        self.fd = os.dup(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Frame:
    """The contents of a page: bytes, nothing yet, or a page of a file."""

    def __init__(self, file: HostFile | None = None, offset: int = 0) -> None:
        self.data: bytearray | None = None
        self.file: HostFile | None = file
        self.offset: int = offset

    def is_there(self) -> bool:
        """Whether the page lies within its file: a page behind the end cannot be touched."""
        return self.data is not None or self.file is None or self.offset < os.fstat(self.file.fd).st_size

    def read(self, start: int, length: int) -> bytes:
        if self.data is not None:
            return bytes(self.data[start : start + length])
        if self.file is None:
            return bytes(length)
        return os.pread(self.file.fd, length, self.offset + start).ljust(length, b"\0")

    def write(self, start: int, data: bytes, *, is_shared: bool) -> None:
        if self.file is not None and is_shared:
            left = os.fstat(self.file.fd).st_size - self.offset - start
            os.pwrite(self.file.fd, data[: max(left, 0)], self.offset + start)
            return
        if self.data is None:
            self.data = bytearray(self.read(0, PAGE))
        self.data[start : start + len(data)] = data

    def copy(self) -> "Frame":
        new = Frame(self.file, self.offset)
        if self.data is not None:
            new.data = bytearray(self.data)
        return new


class Page:
    """The mapping of a page of guest memory."""

    def __init__(self, frame: Frame, prot: int, is_shared: bool) -> None:
        self.frame: Frame = frame
        self.prot: int = prot
        self.is_shared: bool = is_shared


class FakeMemory:
    """An address space.  Operations answer as the host's calls do: 0, or a positive errno and nothing changed."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}  # by number

    def fork(self) -> "FakeMemory":
        """A fork: private pages are copied, shared ones stay shared."""
        child = FakeMemory()
        for number, page in self.pages.items():
            frame = page.frame if page.is_shared else page.frame.copy()
            child.pages[number] = Page(frame, page.prot, page.is_shared)
        return child

    # ---- access ----

    def reach(self, addr: int, length: int, prot: int) -> int:
        """How many bytes from `addr` on may be accessed with `prot`."""
        done = 0
        while done < length:
            page = self.pages.get((addr + done) // PAGE)
            if page is None or page.prot & prot != prot or not page.frame.is_there():
                break
            done = min(length, done + PAGE - (addr + done) % PAGE)
        return done

    def read(self, addr: int, length: int, prot: int = PROT_READ) -> bytes:
        """As much as is readable."""
        length = self.reach(addr, length, prot)
        parts: list[bytes] = []
        while length > 0:
            start = addr % PAGE
            count = min(length, PAGE - start)
            parts.append(self.pages[addr // PAGE].frame.read(start, count))
            addr += count
            length -= count
        return b"".join(parts)

    def write(self, addr: int, data: bytes) -> int:
        """As much as is writable."""
        length = self.reach(addr, len(data), PROT_WRITE)
        done = 0
        while done < length:
            start = (addr + done) % PAGE
            count = min(length - done, PAGE - start)
            page = self.pages[(addr + done) // PAGE]
            page.frame.write(start, data[done : done + count], is_shared=page.is_shared)
            done += count
        return length

    def why(self, addr: int, prot: int) -> tuple[int, int]:
        """Signal and code of a fault at `addr`."""
        page = self.pages.get(addr // PAGE)
        if page is None:
            return SIGSEGV, SEGV_MAPERR
        if page.prot & prot != prot:
            return SIGSEGV, SEGV_ACCERR
        return SIGBUS, BUS_ADRERR

    # ---- operations ----

    def mmap(self, addr: int, length: int, prot: int, flags: int, file: HostFile | None, offset: int) -> int:
        if addr % PAGE or length <= 0 or offset % PAGE:
            return errno.EINVAL
        if not flags & MAP_ANONYMOUS and file is None:
            return errno.EBADF
        prot = _real(prot)
        is_shared = bool(flags & MAP_SHARED)
        for index in range(_count(length)):
            frame = Frame(None if flags & MAP_ANONYMOUS else file, offset + index * PAGE)
            self.pages[addr // PAGE + index] = Page(frame, prot, is_shared)
        return 0

    def munmap(self, addr: int, length: int) -> int:
        if addr % PAGE or length <= 0:
            return errno.EINVAL
        first = addr // PAGE
        end = first + _count(length)
        if _count(length) > len(self.pages):
            for number in [each for each in self.pages if first <= each < end]:
                del self.pages[number]
            return 0
        for number in range(first, end):
            self.pages.pop(number, None)
        return 0

    def mprotect(self, addr: int, length: int, prot: int) -> int:
        if addr % PAGE:
            return errno.EINVAL
        for number in range(addr // PAGE, addr // PAGE + _count(length)):
            page = self.pages.get(number)
            if page is None:
                return errno.ENOMEM  # what lies before it has changed, as on Linux
            page.prot = _real(prot)
        return 0

    def mremap(self, old: int, old_length: int, new_length: int, flags: int, new: int) -> int:
        if old % PAGE or new % PAGE or new_length <= 0:
            return errno.EINVAL
        # Of no length: what is shared is mapped once more
        numbers = range(old // PAGE, old // PAGE + _count(old_length or new_length))
        if not all(number in self.pages for number in numbers):
            return errno.EFAULT
        moved = [self.pages[number] for number in numbers]
        last = moved[-1]
        if not old_length and not last.is_shared:
            return errno.EINVAL
        for number in numbers if old_length else ():
            del self.pages[number]
            if flags & MREMAP_DONTUNMAP:
                self.pages[number] = Page(Frame(), last.prot, last.is_shared)
        to = new // PAGE if flags & MREMAP_FIXED else old // PAGE
        for index in range(_count(new_length)):
            if index < len(moved):
                self.pages[to + index] = Page(moved[index].frame, moved[index].prot, moved[index].is_shared)
                continue
            beyond = last.frame.offset + (index - len(moved) + 1) * PAGE
            self.pages[to + index] = Page(Frame(last.frame.file, beyond), last.prot, last.is_shared)
        return 0

    def madvise(self, addr: int, length: int, advice: int) -> int:
        """MADV_DONTNEED and MADV_FREE forget private anonymous contents; others are hints."""
        if addr % PAGE:
            return errno.EINVAL
        missing = False
        for number in range(addr // PAGE, addr // PAGE + _count(length)):
            page = self.pages.get(number)
            if page is None:
                missing = True
            elif advice == MADV_DONTNEED and not page.is_shared:
                page.frame = Frame(page.frame.file, page.frame.offset)
        return errno.ENOMEM if missing else 0


def _count(length: int) -> int:
    return (length + PAGE - 1) // PAGE


def _real(prot: int) -> int:
    """The protection that the processor enforces: writing or executing implies reading."""
    return prot | PROT_READ if prot & (PROT_WRITE | PROT_EXEC) else prot
