"""From an ELF file to its text file.

The pages that are copied: those that a window touches; and, unchanged, the other pages of a small executable segment
and small gaps in a large one. That keeps a program's mappings few, each of which costs an operation at every exec.
"""

import os
from struct import error as StructError
from typing import Final

from cloche.analyst.image import Image, Segment, executable_ranges, parse_image
from cloche.analyst.sites import SYSCALL, Analysis, Site, find_sites
from cloche.analyst.trampoline import Tail, window_bytes
from cloche.wire.textfile import (
    MAX_PAGES,
    MAX_TAIL_PAGES,
    PAGE_BYTES,
    STUB_ENTRY,
    TextFile,
    encode_header,
)

__all__ = ["MAX_FILE_BYTES", "Text", "analyse", "has_sites"]

MAX_FILE_BYTES: Final = 2 << 30
MAX_CODE_BYTES: Final = 256 << 20
WHOLE_SEGMENT_BYTES: Final = 4 << 20
MAX_GAP_PAGES: Final = 64
_HEAD_BYTES: Final = 64 + 256 * 56
_READ_BYTES: Final = 1 << 20


class Text:
    """A text file in memory."""

    def __init__(self, header: TextFile, parts: list[bytes]) -> None:
        self.header: TextFile = header
        self.parts: list[bytes] = parts  # the whole file's bytes, in order


def has_sites(fd: int) -> bool:
    """Whether a file is worth analysing: an x86-64 ELF file with 0f 05 in an executable segment.

    Uses pread(2) only; False for a file that cannot be read.
    """
    try:
        size = os.fstat(fd).st_size
        if size > MAX_FILE_BYTES:
            return False
        for start, length in executable_ranges(os.pread(fd, _HEAD_BYTES, 0)):
            end = min(start + length, size)
            at = start
            while at < end:
                data = os.pread(fd, min(_READ_BYTES, end - at), at)
                if SYSCALL in data:
                    return True
                if len(data) < 2:
                    break
                at += len(data)
                if at < end:
                    at -= 1  # a site may straddle two reads
    except OSError:
        pass
    return False


def analyse(data: memoryview, stub_entry: int = STUB_ENTRY) -> tuple[Text | None, Analysis]:
    """The text file of an ELF file's bytes; None if nothing in it can be patched.

    For any bytes it takes a bounded number of steps, and raises nothing but MemoryError.
    """
    try:
        image = parse_image(data)
        if image is None or sum([part.filesz for part in image.segments if part.is_code]) > MAX_CODE_BYTES:
            return None, Analysis()
        analysis = find_sites(image)
        if analysis.is_absurd or not analysis.sites:
            return None, analysis
        return _Builder(image).build(analysis, stub_entry), analysis
    except (StructError, IndexError, ValueError, OverflowError):  # tables that point nowhere
        return None, Analysis()


class _Builder:
    def __init__(self, image: Image) -> None:
        self._image: Image = image
        self._pages: dict[int, bytearray] = {}  # patched: offset in the file -> contents

    def build(self, analysis: Analysis, stub_entry: int) -> Text | None:
        image = self._image
        tail = Tail(image.span_end, stub_entry)
        header = TextFile(image.span_end, 0, is_fixed=image.is_fixed)
        segments: dict[int, Segment] = {}
        for site in analysis.sites:
            segment = image.code_segment(site.start)
            assert segment is not None
            found = tail.add(site, self._window(site, segment))
            if found is None:
                analysis.skipped.append((site.address, site.number, "out of reach"))
                continue
            header.sites.append(found)
            segments[segment.vaddr] = segment
            self._patch(segment, site.start, window_bytes(found, image.span_end))
        for gap in (MAX_GAP_PAGES, 0):
            header.page_offsets.clear()
            header.page_addresses.clear()
            for segment in sorted(segments.values(), key=_offset):
                for page in self._choose(segment, gap):
                    header.page_offsets.append(page)
                    header.page_addresses.append(page - segment.offset + segment.vaddr)
            if len(header.page_offsets) <= MAX_PAGES:
                break
        trampolines = tail.pages()
        header.tail_pages = len(trampolines) // PAGE_BYTES
        if not header.sites or header.tail_pages > MAX_TAIL_PAGES or len(header.page_offsets) > MAX_PAGES:
            return None
        parts = [encode_header(header)]
        for page in header.page_offsets:
            parts.append(bytes(self._pages[page]) if page in self._pages else bytes(self._read_page(page)))
        parts.append(trampolines)
        return Text(header, parts)

    def _window(self, site: Site, segment: Segment) -> bytes:
        at = site.start - segment.vaddr + segment.offset
        return bytes(self._image.data[at : at + site.address - site.start])

    def _read_page(self, offset: int) -> bytearray:
        """A page of the file, with zeros behind the end as in a mapping."""
        page = bytearray(self._image.data[offset : offset + PAGE_BYTES])
        page += bytes(PAGE_BYTES - len(page))
        return page

    def _patch(self, segment: Segment, address: int, code: bytes) -> None:
        at = address - segment.vaddr + segment.offset
        for byte in code:
            page = at // PAGE_BYTES * PAGE_BYTES
            if page not in self._pages:
                self._pages[page] = self._read_page(page)
            self._pages[page][at - page] = byte
            at += 1

    def _choose(self, segment: Segment, max_gap_pages: int) -> list[int]:
        """The offsets of the pages of a segment to have in the text file."""
        first = segment.offset // PAGE_BYTES
        last = (segment.offset + segment.filesz - 1) // PAGE_BYTES
        if max_gap_pages and segment.filesz <= WHOLE_SEGMENT_BYTES:
            return [page * PAGE_BYTES for page in range(first, last + 1)]
        out: list[int] = []
        previous = -1
        for offset in sorted(self._pages):
            page = offset // PAGE_BYTES
            if not first <= page <= last:
                continue
            if previous >= 0 and page - previous <= max_gap_pages:
                out.extend([gap * PAGE_BYTES for gap in range(previous + 1, page)])
            out.append(offset)
            previous = page
        return out


def _offset(segment: Segment) -> int:
    return segment.offset
