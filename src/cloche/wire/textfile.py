"""Text files: patched copies of the executable pages of one ELF file (docs/design.md 3.2), made by the analyst.

Owns the layout, its encoder and its decoder.  A text file consists of whole pages: a header, then the patched
pages, then the *tail*, which holds the trampolines.  All numbers are little endian.

- Addresses are those of the ELF file (p_vaddr): an image that is loaded at bias B has everything at address + B
  (B = 0 if `is_fixed`).  Every displacement between the pages and the tail is relative, so one text file serves
  every process.
- The pages stand in the order of their offsets in the ELF file.  Between patched ones stand unpatched copies where
  that saves mappings: `runs` says what to map in place of which pages of the ELF file.
- The tail must be mapped, readable and executable, at `span_end`; its first 8 bytes hold STUB_ENTRY, the address to
  which every trampoline jumps, with the address after the original `syscall` in r11.  All other registers (but rcx),
  the flags and the red zone are those of the program at its `syscall`.
- Each site has a *window*: the instructions before a `syscall` (which stays as it was).  Its first 5 bytes are `jmp
  trampoline`, the rest int3.  The site says where each instruction of the window is in the trampoline, so that an
  address in either can be translated to the other.

The reader trusts nothing: `decode_header` bounds every number, so that offsets that it gives are inside of the file
if the file is as long as `total_pages` says (check it with fstat). The contents of the pages run in guests only, and
the sandbox's safety does not depend on them.
"""

from bisect import bisect_right
from struct import Struct
from struct import error as StructError
from typing import Final

from cloche.wire.frame import ProtocolError

__all__ = [
    "ANALYSER_VERSION",
    "FORMAT_VERSION",
    "MAX_HEADER_PAGES",
    "MAX_PAGES",
    "MAX_SITES",
    "MAX_TAIL_PAGES",
    "PAGE_BYTES",
    "STUB_BASE",
    "STUB_ENTRY",
    "WINDOW_JUMP_BYTES",
    "TextFile",
    "TextRun",
    "TextSite",
    "decode_header",
    "encode_header",
    "header_pages",
]

FORMAT_VERSION: Final = 1
# Increase it whenever the analyst's result for a file changes: caches are keyed by it
ANALYSER_VERSION: Final = 4

STUB_BASE: Final = 0x7FFF00000000
STUB_ENTRY: Final = STUB_BASE + 0x200  # where trampolines jump to

PAGE_BYTES: Final = 4096
MIN_ELF_BYTES: Final = 4096  # no smaller program is worth patching
WINDOW_JUMP_BYTES: Final = 5  # jmp rel32

MAX_SITES: Final = 32768
MAX_PAGES: Final = 16384  # 64 MiB of copies
MAX_TAIL_PAGES: Final = 1024
MAX_WINDOW_BYTES: Final = 19  # 4 and the longest instruction
MAX_WINDOW_INSTRUCTIONS: Final = 5
MAX_TRAMPOLINE_BYTES: Final = 255
MAX_ADDRESS: Final = 1 << 47

_MAGIC: Final = b"clocheTX"
_FLAG_FIXED: Final = 1
# magic, format, analyser, flags, header pages, span_end, pages, tail pages, sites, reserved (0)
_HEADER: Final = Struct("<8sIIIIQIIII")
_HEADER_BYTES: Final = 48
_PAGE: Final = Struct("<QQ")  # offset in the ELF file, address
_PAGE_ENTRY_BYTES: Final = 16
# syscall address, offset in the tail, length, window's length, instructions, then 4 pairs (offset in the window, in
# the trampoline) for the second to the fifth instruction, zero where there is none
_SITE: Final = Struct("<QIBBBx8B")
_SITE_BYTES: Final = 24
MAX_HEADER_PAGES: Final = 1 + (MAX_SITES * _SITE_BYTES + MAX_PAGES * _PAGE_ENTRY_BYTES) // PAGE_BYTES


class TextSite:
    """A patched system call and its trampoline."""

    def __init__(
        self, address: int, window_bytes: int, tail_offset: int, length: int, steps: list[tuple[int, int]]
    ) -> None:
        self.address: int = address  # of the `syscall`
        self.window_bytes: int = window_bytes  # the window is [address - window_bytes, address)
        self.tail_offset: int = tail_offset  # of the trampoline
        self.length: int = length  # of the trampoline, in bytes
        # For each instruction of the window: its offset in the window, and in the trampoline.  The first is (0, 0).
        self.steps: list[tuple[int, int]] = steps

    def original(self, offset: int) -> int:
        """The address in the ELF file of the instruction that stands, or began, at `offset` in the trampoline.

        Past the window's instructions it is the `syscall` itself, which has not happened yet.
        """
        last = self.address
        window = self.address - self.window_bytes
        for index, (before, after) in enumerate(self.steps):
            if offset < after:
                break
            is_last = index + 1 == len(self.steps)
            if is_last and offset > after:
                return self.address
            last = window + before
        return last

    def relocated(self, address: int) -> int:
        """The offset in the trampoline of the instruction of the window that began at `address`; -1 if none did."""
        before = address - (self.address - self.window_bytes)
        for step in self.steps:
            if step[0] == before:
                return step[1]
        return -1


class TextRun:
    """Consecutive pages to map at once in place of those of the ELF file."""

    def __init__(self, file_offset: int, address: int, index: int, count: int) -> None:
        self.file_offset: int = file_offset  # in the ELF file, in bytes
        self.address: int = address  # in the ELF file's terms
        self.index: int = index  # of the first page in the text file
        self.count: int = count  # in pages


class TextFile:
    """The header of a text file."""

    def __init__(self, span_end: int, tail_pages: int, *, is_fixed: bool) -> None:
        self.is_fixed: bool = is_fixed  # ET_EXEC
        self.span_end: int = span_end  # the end of the highest PT_LOAD, and where the tail goes
        self.header_pages: int = 0
        self.page_offsets: list[int] = []  # in the ELF file; ascending, multiples of PAGE_BYTES
        self.page_addresses: list[int] = []
        self.tail_pages: int = tail_pages
        self.sites: list[TextSite] = []  # ascending by tail_offset and by address

    @property
    def tail_index(self) -> int:
        """The first page of the tail in the text file."""
        return self.header_pages + len(self.page_offsets)

    @property
    def total_pages(self) -> int:
        """The length of the text file in pages."""
        return self.header_pages + len(self.page_offsets) + self.tail_pages

    def runs(self, file_offset: int, length: int) -> list[TextRun]:
        """The mappings for `length` bytes from `file_offset` (a multiple of PAGE_BYTES) of the ELF file.

        A run never spans a gap of offsets or of addresses.
        """
        out: list[TextRun] = []
        end = file_offset + length
        offsets = self.page_offsets
        first = bisect_right(offsets, file_offset - 1)
        run: TextRun | None = None
        for index in range(first, len(offsets)):
            offset = offsets[index]
            if offset >= end:
                break
            address = self.page_addresses[index]
            if run is not None and _continues(run, offset, address):
                run.count += 1
            else:
                run = TextRun(offset, address, self.header_pages + index, 1)
                out.append(run)
        return out

    def site_in_tail(self, offset: int) -> TextSite | None:
        """The site whose trampoline holds the byte at `offset` of the tail."""
        sites = self.sites
        low = 0
        high = len(sites)
        while low < high:
            middle = (low + high) // 2
            if sites[middle].tail_offset <= offset:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return None
        site = sites[low - 1]
        return site if offset < site.tail_offset + site.length else None

    def site_in_text(self, address: int) -> TextSite | None:
        """The site whose window or `syscall` holds the byte at `address` (in the ELF file's terms)."""
        sites = self.sites
        low = 0
        high = len(sites)
        while low < high:
            middle = (low + high) // 2
            if sites[middle].address + 2 <= address:
                low = middle + 1
            else:
                high = middle
        if low == len(sites):
            return None
        site = sites[low]
        return site if address >= site.address - site.window_bytes else None


def _continues(run: TextRun, offset: int, address: int) -> bool:
    span = run.count * PAGE_BYTES
    return offset == run.file_offset + span and address == run.address + span


def _pages_for(pages: int, sites: int) -> int:
    length = _HEADER_BYTES + pages * _PAGE_ENTRY_BYTES + sites * _SITE_BYTES
    return (length + PAGE_BYTES - 1) // PAGE_BYTES


def encode_header(text: TextFile) -> bytes:
    """The header's pages; sets `header_pages`.  Raises ValueError for what `decode_header` would refuse."""
    text.header_pages = _pages_for(len(text.page_offsets), len(text.sites))
    parts = [
        _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            ANALYSER_VERSION,
            _FLAG_FIXED if text.is_fixed else 0,
            text.header_pages,
            text.span_end,
            len(text.page_offsets),
            text.tail_pages,
            len(text.sites),
            0,
        )
    ]
    for index, offset in enumerate(text.page_offsets):
        parts.append(_PAGE.pack(offset, text.page_addresses[index]))
    for site in text.sites:
        flat = [0] * 8
        for index, (before, after) in enumerate(site.steps[1:MAX_WINDOW_INSTRUCTIONS]):
            flat[2 * index] = before
            flat[2 * index + 1] = after
        parts.append(
            _SITE.pack(site.address, site.tail_offset, site.length, site.window_bytes, len(site.steps), *flat)
        )
    data = b"".join(parts)
    data += bytes(text.header_pages * PAGE_BYTES - len(data))
    try:
        decode_header(data)
    except ProtocolError as error:
        raise ValueError(str(error))
    return data


def header_pages(first_page: bytes) -> int:
    """How many pages the header has that begins with `first_page`.  Raises ProtocolError."""
    try:
        magic, version, analyser, flags, pages, span_end, count, tail, sites, reserved = _HEADER.unpack_from(
            first_page
        )
    except StructError:
        raise ProtocolError("a text file is cut off")
    if magic != _MAGIC or version != FORMAT_VERSION or analyser != ANALYSER_VERSION:
        raise ProtocolError("not a text file of this version")
    if count > MAX_PAGES or sites > MAX_SITES or not 0 < tail <= MAX_TAIL_PAGES or count == 0 or sites == 0:
        raise ProtocolError("a text file of an odd size")
    if span_end % PAGE_BYTES or span_end + tail * PAGE_BYTES > MAX_ADDRESS:
        raise ProtocolError("a tail in no place")
    if flags & ~_FLAG_FIXED or reserved or pages != _pages_for(count, sites):
        raise ProtocolError("a damaged text file")
    result: int = pages
    return result


def decode_header(data: bytes) -> TextFile:
    """A text file's header out of its `header_pages` pages.  Raises ProtocolError unless all of it is sound."""
    pages = header_pages(data)
    if len(data) < pages * PAGE_BYTES:
        raise ProtocolError("a text file is cut off")
    flags: int
    span_end: int
    count: int
    tail_pages: int
    site_count: int
    _magic, _version, _analyser, flags, _pages, span_end, count, tail_pages, site_count, _reserved = (
        _HEADER.unpack_from(data)
    )
    text = TextFile(span_end, tail_pages, is_fixed=flags & _FLAG_FIXED != 0)
    text.header_pages = pages
    at = _HEADER_BYTES
    last = -1
    offset: int
    address: int
    for _index in range(count):
        offset, address = _PAGE.unpack_from(data, at)
        at += _PAGE_ENTRY_BYTES
        if offset % PAGE_BYTES or address % PAGE_BYTES or offset <= last or offset >= 1 << 62:
            raise ProtocolError("a page in no place")
        if address + PAGE_BYTES > span_end:
            raise ProtocolError("a page behind the end")
        text.page_offsets.append(offset)
        text.page_addresses.append(address)
        last = offset
    _decode_sites(text, data, at, site_count)
    return text


def _decode_sites(text: TextFile, data: bytes, at: int, count: int) -> None:
    previous_end = 8  # the pointer to the stub
    previous_address = -1
    tail_bytes = text.tail_pages * PAGE_BYTES
    address: int
    offset: int
    length: int
    window: int
    instructions: int
    for _index in range(count):
        address, offset, length, window, instructions, a, b, c, d, e, f, g, h = _SITE.unpack_from(data, at)
        at += _SITE_BYTES
        if offset < previous_end or offset + length > tail_bytes or length > MAX_TRAMPOLINE_BYTES:
            raise ProtocolError("a trampoline in no place")
        if not WINDOW_JUMP_BYTES <= window <= MAX_WINDOW_BYTES or address < previous_address + window:
            raise ProtocolError("a site in no place")
        if address + 2 > text.span_end or not 1 <= instructions <= MAX_WINDOW_INSTRUCTIONS:
            raise ProtocolError("a site of no sense")
        pairs: list[tuple[int, int]] = [(a, b), (c, d), (e, f), (g, h)]
        steps: list[tuple[int, int]] = [(0, 0)]
        for pair in pairs[: instructions - 1]:
            if pair[0] <= steps[-1][0] or pair[1] <= steps[-1][1] or pair[0] >= window or pair[1] >= length:
                raise ProtocolError("a window of no sense")
            steps.append(pair)
        text.sites.append(TextSite(address, window, offset, length, steps))
        previous_end = offset + length
        previous_address = address + 2
