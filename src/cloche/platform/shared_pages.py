"""Pages that forks of a template share again once they are as they were.

A fork shares all pages with its template, until one of both writes to them. Python writes to whatever it uses, because
it counts references, and counts them down again: a third of the pages that a fork has copied have their old contents
again, which the host does not notice.

So the template's memory becomes a private mapping of a sealed memfd with just these contents (`share_pages`). A page
that a fork has changed is the fork's own as before. But one that is the same again it can drop (`share_again`):
the next look at it finds the memfd's.

Which memory that is, /proc/self/maps says each time: pieces of the memfd that were unmapped, or moved, are not touched.
The memfd also is mapped to be read only, for the comparison. No process has a descriptor of it, and no mapping of it
can be made writable, so forks share nothing that one of them can change. Comparing and dropping is one step of C,
signals are blocked, and a process with several threads drops nothing.
"""

import os
import signal
import sys
from array import array
from typing import Final

from cloche.platform import hostsys

RESTLESS_MS: Final = 1000  # of quiet before a process drops pages
_NAME: Final = "cloche-template"
_PAGE: Final = 4096
_shared: Final[list[str]] = []  # the memfd's name in the template and its forks; empty elsewhere
_LEAST_BYTES: Final = 1 << 18  # of memory without a name that is CPython's allocator's
_CHUNK: Final = 1 << 20
# Behind the contents: malloc(3) may enlarge a mapping of its own in place (mremap(2)), and a private mapping of a file
# cannot be used beyond the file's end.
_HOLE: Final = 1 << 30
_PRESENT: Final = 1 << 63  # Documentation/admin-guide/mm/pagemap.rst
_OF_FILE: Final = 1 << 61  # or shared


class Mapping:
    """A line of /proc/self/maps."""

    def __init__(self, line: str) -> None:
        fields = line.split(None, 5)
        start, _dash, end = fields[0].partition("-")
        self.start: int = int(start, 16)
        self.end: int = int(end, 16)
        self.rights: str = fields[1]
        self.offset: int = int(fields[2], 16)
        self.name: str = fields[5].rstrip() if len(fields) > 5 else ""


def _mappings() -> list[Mapping]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        return [Mapping(line) for line in lines]


def _of_python() -> list[tuple[int, int]]:
    """Where CPython's objects are: the heap, its own allocator's memory, and what its library has beside its code."""
    found: list[tuple[int, int]] = []
    own = hostsys.thread_pointer()  # the host writes there at any time (rseq(2))
    python = ""
    for each in _mappings():
        if each.name and not each.name.startswith("["):
            is_python = "python" in os.path.basename(each.name) and "cpython" not in each.name
            python = each.name if is_python else ""
        is_behind = bool(python and not each.name and found and found[-1][1] == each.start)
        is_large = not each.name and each.end - each.start >= _LEAST_BYTES
        if each.rights != "rw-p" or each.start <= own < each.end:
            continue
        if each.name == "[heap]" or is_large or is_behind or (python and each.name == python):
            found.append((each.start, each.end))
    return found


def forget_lookups() -> None:
    """Empty CPython's cache of attribute look-ups, which counts a reference to each name in it."""
    # (the former name is deprecated since CPython 3.13)
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()


def share_pages() -> None:
    """Make this process's memory one that forks can share again. Without effect where the host refuses."""
    import fcntl  # the template has it; parts that are executed need not wait for it

    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    writable = fd = -1
    try:
        ranges = _of_python()
        size = sum([end - start for start, end in ranges])
        writable = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(writable, size + _HOLE)
        fd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        twin, offset = hostsys.map_to_read(fd, size), 0
        for start, end in ranges:
            for at in range(start, end, _CHUNK):
                length = min(end - at, _CHUNK)
                _share(at, twin, offset, length, writable, fd)
                offset += length
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, seals)
        _shared.append(_NAME)
    except OSError:
        pass  # what was mapped already has its contents
    finally:
        for each in (writable, fd):
            if each >= 0:
                os.close(each)


def _share(at: int, twin: int, offset: int, length: int, writable: int, fd: int) -> None:
    """Write this piece, and map it if it is the same afterwards; else its halves. What changes all the time stays as
    it is. Raises OSError.
    """
    pieces = [(at, offset, length)]
    while pieces:
        at, offset, length = pieces.pop()
        hostsys.write_memory(writable, at, length, offset)
        if not hostsys.map_over_same(at, twin + offset, length, fd, offset) and length > _PAGE:
            half = length // 2 & -_PAGE
            pieces += [(at + half, offset + half, length - half), (at, offset, half)]


def share_again() -> int:
    """Drop pages that have the template's contents; how many that were. 0 if this process is no template's fork, has
    threads, or no /proc.
    """
    if not _shared:
        return 0
    if len(sys._current_frames()) > 1:
        return 0
    try:
        mappings = [each for each in _mappings() if each.name.startswith(f"/memfd:{_NAME}")]
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    forget_lookups()
    twin = next(each for each in mappings if each.rights == "r--s")
    # A handler's note that is made between comparison and drop would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    dropped = 0
    try:
        for each in mappings:
            if each.rights != "rw-p":
                continue
            # the hole has no twin
            size = min(each.end - each.start, max(twin.end - twin.start - each.offset, 0))
            states = array("Q", os.pread(pagemap, size // _PAGE * 8, each.start // _PAGE * 8))
            for index, state in enumerate(states):
                if state & _PRESENT and not state & _OF_FILE:
                    at = index * _PAGE
                    dropped += hostsys.drop_if_same(each.start + at, twin.start + each.offset + at, _PAGE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(pagemap)
    return dropped
