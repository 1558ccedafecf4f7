"""One ELF file as the analyst sees it: its segments, and where its functions begin and end.

It reads a mapping of the file, whose contents may be hostile: every table is bounded by the file's length and by a
count, and entries that do not fit are ignored. Wrong bounds of functions lead to wrong patches, which harm only
programs that run the file.

Functions are looked up one by one: by the sorted table of .eh_frame_hdr, which stripped files have as well (by
.eh_frame itself where that is missing), then by symbols, then by Go's table of functions.  Code that no table knows,
such as the local functions of a stripped musl, is taken as a whole from the end of the function before to the begin
of the one after (`gap_around`).
"""

from bisect import bisect_right
from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final

from cloche.abi.elf import (
    DT_NULL,
    DT_TEXTREL,
    DYN,
    DYN_SIZE,
    EHDR,
    EHDR_SIZE,
    ELFCLASS64,
    ELFDATA2LSB,
    ELFMAG,
    EM_X86_64,
    ET_DYN,
    ET_EXEC,
    PF_W,
    PF_X,
    PHDR,
    PHDR_SIZE,
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_LOAD,
    SHDR,
    SHDR_SIZE,
    SHN_UNDEF,
    SHT_DYNSYM,
    SHT_PROGBITS,
    SHT_SYMTAB,
    STT_FUNC,
    STT_NOTYPE,
    SYM_SIZE,
)
from cloche.wire.textfile import PAGE_BYTES

__all__ = ["Functions", "Image", "Segment", "Source", "executable_ranges", "parse_image"]

MAX_PROGRAM_HEADERS: Final = 256
MAX_DYNAMIC: Final = 4096
MAX_SECTIONS: Final = 1024
MAX_SYMBOLS: Final = 1_000_000  # in a table; one with more is left aside
MAX_FDES: Final = 4_000_000  # of a sorted table, which is not read whole
MAX_WALKED_FDES: Final = 500_000
MAX_GO_FUNCTIONS: Final = 1_000_000
MAX_SPAN: Final = 1 << 46

_NESTED: Final = 4

DT_FLAGS: Final = 30
DF_TEXTREL: Final = 4
STT_GNU_IFUNC: Final = 10
SHT_X86_64_UNWIND: Final = 0x70000001

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_I32: Final = Struct("<i")
_I64: Final = Struct("<q")

# DWARF's encodings of pointers (LSB Core, "DWARF Extensions")
_PE_ABSPTR: Final = 0x00
_PE_UDATA4: Final = 0x03
_PE_SDATA4: Final = 0x0B
_PE_SDATA8: Final = 0x0C
_PE_UDATA8: Final = 0x04
_PE_PCREL: Final = 0x10
_PE_PCREL_SDATA4: Final = 0x1B
_PE_DATAREL_SDATA4: Final = 0x3B
_PE_OMIT: Final = 0xFF

_GO_MAGIC: Final = (0xFFFFFFF0, 0xFFFFFFF1)  # Go 1.18, 1.20
_GO_PREFIX: Final = b"\xff\xff\xff\x00\x00\x01\x08"
_GO_HEADER: Final = Struct("<IHBBQQQQQQQQ")

Source = memoryview


class Segment:
    """A PT_LOAD with its bytes in the file (`filesz`, cut to the file's length)."""

    def __init__(self, offset: int, vaddr: int, filesz: int, memsz: int, flags: int) -> None:
        self.offset: int = offset
        self.vaddr: int = vaddr
        self.filesz: int = filesz
        self.memsz: int = memsz
        self.flags: int = flags

    @property
    def is_code(self) -> bool:
        """Executable and never written by the program: only such pages are patched."""
        return self.flags & PF_X != 0 and self.flags & PF_W == 0


class Image:
    """The parts of an ELF file that the analyst uses."""

    def __init__(self, data: Source, segments: list[Segment], *, is_fixed: bool) -> None:
        self.data: Source = data
        self.segments: list[Segment] = segments
        self.is_fixed: bool = is_fixed
        self.eh_frame_header: int = -1  # address
        # Type, address, offset, size, index of strings
        self.sections: list[tuple[int, int, int, int, int]] = []
        top = max([segment.vaddr + segment.memsz for segment in segments], default=0)
        self.span_end: int = (top + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES

    def offset_of(self, address: int) -> int:
        """Where the byte at an address is in the file; -1 if nowhere."""
        for segment in self.segments:
            if segment.vaddr <= address < segment.vaddr + segment.filesz:
                return segment.offset + address - segment.vaddr
        return -1

    def code_segment(self, address: int) -> Segment | None:
        """The executable segment with this address."""
        for segment in self.segments:
            if segment.is_code and segment.vaddr <= address < segment.vaddr + segment.filesz:
                return segment
        return None


def _program_headers(head: bytes | Source) -> tuple[int, int, int, int, int] | None:
    """(e_type, e_phoff, e_phnum, e_shoff, e_shnum) of an x86-64 ELF file; None for any other file."""
    if len(head) < EHDR_SIZE:
        return None
    fields = EHDR.unpack_from(head)
    ident = fields[0]
    if ident[:4] != ELFMAG or ident[4] != ELFCLASS64 or ident[5] != ELFDATA2LSB:
        return None
    kind, machine, phoff, shoff, phentsize, phnum = (
        fields[1],
        fields[2],
        fields[5],
        fields[6],
        fields[9],
        fields[10],
    )
    shentsize, shnum = fields[11], fields[12]
    if machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
        return None
    if phentsize != PHDR_SIZE or not 0 < phnum <= MAX_PROGRAM_HEADERS:
        return None
    if shentsize != SHDR_SIZE:
        shnum = 0
    return kind, phoff, phnum, shoff, shnum


def executable_ranges(head: bytes) -> list[tuple[int, int]]:
    """(offset, length) of the executable segments, from the first bytes of a file; empty if it has none.

    The program headers must be within `head`, as they are in every file that a linker made.
    """
    found = _program_headers(head)
    if found is None:
        return []
    _kind, phoff, phnum, _shoff, _shnum = found
    if phoff + phnum * PHDR_SIZE > len(head):
        return []
    out: list[tuple[int, int]] = []
    for index in range(phnum):
        kind, flags, offset, _vaddr, _paddr, filesz, _memsz, _align = PHDR.unpack_from(
            head, phoff + index * PHDR_SIZE
        )
        if kind == PT_LOAD and flags & PF_X and not flags & PF_W:
            out.append((offset, filesz))
    return out


def parse_image(data: Source) -> Image | None:
    """The image in a file's bytes; None if it is not one that can be patched."""
    found = _program_headers(data)
    if found is None:
        return None
    kind, phoff, phnum, shoff, shnum = found
    if phoff + phnum * PHDR_SIZE > len(data):
        return None
    segments: list[Segment] = []
    eh_frame_header = -1
    dynamic = (0, 0)
    end = 0
    for index in range(phnum):
        p_type, flags, offset, vaddr, _paddr, filesz, memsz, _align = PHDR.unpack_from(
            data, phoff + index * PHDR_SIZE
        )
        if p_type == PT_GNU_EH_FRAME:
            eh_frame_header = vaddr
        if p_type == PT_DYNAMIC:
            dynamic = (offset, filesz)
        if p_type != PT_LOAD or memsz == 0:
            continue
        if (vaddr - offset) % PAGE_BYTES or filesz > memsz or vaddr + memsz > MAX_SPAN or vaddr < end:
            return None  # segments overlap or are not sorted: Linux would not load it correctly either
        end = vaddr + memsz
        if offset >= len(data):
            filesz = 0
        segments.append(Segment(offset, vaddr, min(filesz, len(data) - offset), memsz, flags))
    if not _have_own_pages(segments) or _relocates_code(data, dynamic[0], dynamic[1]):
        return None
    image = Image(data, segments, is_fixed=kind == ET_EXEC)
    image.eh_frame_header = eh_frame_header
    if 0 < shnum <= MAX_SECTIONS and shoff + shnum * SHDR_SIZE <= len(data):
        for index in range(shnum):
            _name, sh_type, _flags, address, offset, size, link, _info, _align, _entsize = SHDR.unpack_from(
                data, shoff + index * SHDR_SIZE
            )
            image.sections.append((sh_type, address, offset, size, link))
    return image


def _relocates_code(data: Source, offset: int, length: int) -> bool:
    """Whether the dynamic linker will write to code, where it might hit a window."""
    for at in range(
        offset, min(offset + length, len(data) - DYN_SIZE, offset + MAX_DYNAMIC * DYN_SIZE), DYN_SIZE
    ):
        tag, value = DYN.unpack_from(data, at)
        if tag == DT_NULL:
            break
        if tag == DT_TEXTREL or (tag == DT_FLAGS and value & DF_TEXTREL):
            return True
    return False


def _have_own_pages(segments: list[Segment]) -> bool:
    """Whether no page of the file, and none of memory, belongs to two executable segments."""
    last_offset = -1
    last_address = -1
    code = [segment for segment in segments if segment.is_code and segment.filesz]
    code.sort(key=_by_offset)
    for segment in code:
        if segment.offset // PAGE_BYTES <= last_offset or segment.vaddr // PAGE_BYTES <= last_address:
            return False
        last_offset = (segment.offset + segment.filesz - 1) // PAGE_BYTES
        last_address = (segment.vaddr + segment.memsz - 1) // PAGE_BYTES
    return True


def _by_offset(segment: Segment) -> int:
    return segment.offset


class Functions:
    """Finds the function around an address."""

    def __init__(self, image: Image) -> None:
        self._image: Image = image
        self._fde_base: int = 0
        self._fde_table: memoryview | None = None
        self._fde_starts: memoryview | None = None
        self._encodings: dict[int, int] = {}  # offset of a CIE -> how its FDEs encode addresses
        self._has_symbols: bool = False
        self._symbols: list[tuple[int, int]] = []  # (start, size) of functions
        self._starts: list[int] = []
        self._labels: list[int] = []  # what other symbols, and functions, begin at
        self._go_starts: list[int] | None = None
        self._fdes: list[tuple[int, int]] | None = None  # (start, end), where there is no table
        self._fde_begins: list[int] = []
        self._open_eh_frame()

    def around(self, address: int) -> Iterator[tuple[int, int]]:
        """The ranges [start, end) of functions that hold the address, the most trustworthy first, each looked
        up when it is asked for."""
        for find in (self._by_fde, self._by_symbol, self._by_go):
            found = find(address)
            if found is not None:
                yield found

    def gap_around(self, address: int) -> tuple[int, int] | None:
        """The range with this address between two functions that are known; None outside of executable
        segments."""
        segment = self._image.code_segment(address)
        if segment is None:
            return None
        start, end = segment.vaddr, segment.vaddr + segment.filesz
        for sh_type, section, _offset, size, _link in self._image.sections:
            if sh_type == SHT_PROGBITS and section <= address < section + size:
                start, end = max(start, section), min(end, section + size)
        self._read_symbols()
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            start = max(start, sum(self._symbols[index]))
        if index + 1 < len(self._starts):
            end = min(end, self._starts[index + 1])
        if self._fdes is not None:
            index = bisect_right(self._fde_begins, address) - 1
            if index >= 0:
                start = max(start, self._fdes[index][1])
            if index + 1 < len(self._fdes):
                end = min(end, self._fde_begins[index + 1])
        elif self._fde_starts is not None:
            index = bisect_right(self._fde_starts, address - self._fde_base) - 1
            if index >= 0:
                found = self._by_fde(self._fde_starts[index] + self._fde_base)
                if found is not None:
                    start = max(start, found[1])
            if index + 1 < len(self._fde_starts):
                end = min(end, self._fde_starts[index + 1] + self._fde_base)
        return (start, end) if start <= address < end else None

    # -- .eh_frame_hdr ---------------------------------------------------------------------------------------
    def _open_eh_frame(self) -> None:
        image = self._image
        base = image.eh_frame_header
        at = image.offset_of(base) if base >= 0 else -1
        if at < 0 or at + 12 > len(image.data):
            return
        head = bytes(image.data[at : at + 12])
        if head[0] != 1 or head[2] != _PE_UDATA4 or head[3] != _PE_DATAREL_SDATA4:
            return
        pointer = head[1] & 0x0F
        if pointer not in (_PE_SDATA4, _PE_UDATA4):
            return
        count = _U32.unpack_from(head, 8)[0]
        table = at + 12
        count = min(count, (len(image.data) - table) // 8, MAX_FDES)
        self._fde_base = base
        self._fde_table = image.data[table : table + count * 8].cast("i")
        self._fde_starts = self._fde_table[::2]

    def _by_fde(self, address: int) -> tuple[int, int] | None:
        starts, table = self._fde_starts, self._fde_table
        if starts is None or table is None:
            return self._by_walked_fde(address)
        index = bisect_right(starts, address - self._fde_base) - 1
        if index < 0:
            return None
        start = starts[index] + self._fde_base
        try:
            length = self._fde_length(table[2 * index + 1] + self._fde_base, start)
        except (StructError, IndexError, ValueError):
            return None
        return (start, start + length) if start <= address < start + length else None

    def _by_walked_fde(self, address: int) -> tuple[int, int] | None:
        if self._fdes is None:
            self._fdes = self._walk_eh_frame()
            self._fde_begins = [start for start, _end in self._fdes]
        index = bisect_right(self._fde_begins, address) - 1
        if index < 0:
            return None
        start, end = self._fdes[index]
        return (start, end) if address < end else None

    def _walk_eh_frame(self) -> list[tuple[int, int]]:
        """The functions of all FDEs, sorted, in the section that looks like .eh_frame."""
        image = self._image
        data = image.data
        out: list[tuple[int, int]] = []
        for sh_type, address, offset, size, _link in image.sections:
            # Recognized not by its name, but by a first record that is a CIE of version 1 with an augmentation.
            if sh_type not in (SHT_PROGBITS, SHT_X86_64_UNWIND) or size < 32 or offset + size > len(data):
                continue
            if bytes(data[offset + 4 : offset + 10]) != b"\0\0\0\0\1z":
                continue
            at = offset
            end = offset + size
            for _record in range(MAX_WALKED_FDES):
                if at + 16 > end:
                    break
                length = _U32.unpack_from(data, at)[0]
                if length == 0 or length == 0xFFFFFFFF:
                    break
                try:
                    start, after = self._fde_range(at, address + at - offset)
                except (StructError, IndexError, ValueError):
                    break
                if after > start and image.code_segment(start) is not None:
                    out.append((start, after))
                at += 4 + length
        out.sort()
        return out

    def _fde_length(self, address: int, start: int) -> int:
        """The length of the function of the FDE at an address; 0 if it is another function's."""
        at = self._image.offset_of(address)
        if at < 0:
            return 0
        begin, end = self._fde_range(at, address)
        return end - begin if begin == start else 0

    def _fde_range(self, at: int, address: int) -> tuple[int, int]:
        """The function [start, end) of the FDE at a file offset and address; (0, 0) if it cannot be told."""
        data = self._image.data
        length, back = _U32.unpack_from(data, at)[0], _U32.unpack_from(data, at + 4)[0]
        if length == 0xFFFFFFFF or back == 0 or back > at + 4:
            return 0, 0
        cie = at + 4 - back
        if cie not in self._encodings:
            self._encodings[cie] = self._cie_encoding(cie)
        encoding = self._encodings[cie]
        at += 8
        size = encoding & 0x0F
        if encoding & 0x80 or encoding & 0x70 not in (_PE_ABSPTR, _PE_PCREL):
            return 0, 0
        begin: int
        range_bytes: int
        if size in (_PE_SDATA4, _PE_UDATA4):
            begin, range_bytes = _I32.unpack_from(data, at)[0], _U32.unpack_from(data, at + 4)[0]
        elif size in (_PE_ABSPTR, _PE_SDATA8, _PE_UDATA8):
            begin, range_bytes = _I64.unpack_from(data, at)[0], _U64.unpack_from(data, at + 8)[0]
        else:
            return 0, 0
        if encoding & 0x70 == _PE_PCREL:
            begin += address + 8
        return begin, begin + range_bytes

    def _cie_encoding(self, at: int) -> int:
        """How the FDEs of the CIE at a file offset encode addresses."""
        data = self._image.data
        version = data[at + 8]
        end = at + 9
        while data[end]:
            end += 1
            if end > at + 24:
                return _PE_OMIT
        augmentation = bytes(data[at + 9 : end])
        if not augmentation.startswith(b"z"):
            return _PE_ABSPTR if not augmentation else _PE_OMIT
        at = end + 1
        if version >= 4:
            at += 2
        at = _skip_leb(data, at)  # code alignment
        at = _skip_leb(data, at)  # data alignment
        at = at + 1 if version == 1 else _skip_leb(data, at)  # return address register
        at = _skip_leb(data, at)  # length of the augmentation
        for letter in augmentation[1:]:
            if letter == ord("R"):
                return data[at]
            if letter == ord("L"):
                at += 1
            elif letter == ord("P"):
                size = data[at] & 0x0F
                at += 1 + (4 if size in (_PE_SDATA4, _PE_UDATA4) else 8)
            else:
                # S marks a signal frame, whose range begins one byte early for unwinders: no instruction begins there.
                return _PE_OMIT
        return _PE_ABSPTR

    # -- symbols -----------------------------------------------------------------------------------------------
    def labels(self, start: int, end: int) -> list[int]:
        """Symbols in the middle of a range: labels of assembler code, which may be targets of jumps."""
        self._read_symbols()
        return self._labels[bisect_right(self._labels, start) : bisect_right(self._labels, end - 1)]

    def _by_symbol(self, address: int) -> tuple[int, int] | None:
        self._read_symbols()
        index = bisect_right(self._starts, address) - 1
        # Aliases of the same begin stand together, the largest last; a few functions lie inside of others.
        for candidate in range(index, max(index - _NESTED, -1), -1):
            start, size = self._symbols[candidate]
            if address < start + size:
                return start, start + size
        if index < 0 or self._symbols[index][1]:
            return None
        # A function without a size reaches to the next.
        start = self._starts[index]
        segment = self._image.code_segment(address)
        if segment is None or start < segment.vaddr:
            return None
        end = segment.vaddr + segment.filesz
        if index + 1 < len(self._starts):
            end = min(end, self._starts[index + 1])
        return start, end

    def _read_symbols(self) -> None:
        """Sort out the symbols in executable segments: functions with their sizes, and labels."""
        if self._has_symbols:
            return
        self._has_symbols = True
        data = self._image.data
        functions: set[tuple[int, int]] = set()
        labels: set[int] = set()
        for sh_type, _address, offset, size, _link in self._image.sections:
            if sh_type not in (SHT_SYMTAB, SHT_DYNSYM) or offset + size > len(data):
                continue
            count = size // SYM_SIZE
            if count > MAX_SYMBOLS:
                continue
            view = data[offset : offset + count * SYM_SIZE]
            infos = bytes(view[4::SYM_SIZE])
            words = view.cast("Q")
            values = words[1::3].tolist()
            sizes = words[2::3].tolist()
            sections = view.cast("H")[3::12].tolist()
            for index, info in enumerate(infos):
                kind = info & 15
                if sections[index] == SHN_UNDEF:
                    continue
                if kind in (STT_FUNC, STT_GNU_IFUNC):
                    functions.add((values[index], sizes[index]))
                elif kind == STT_NOTYPE:
                    labels.add(values[index])
        code = [segment for segment in self._image.segments if segment.is_code]
        for segment in code:
            first, last = segment.vaddr, segment.vaddr + segment.filesz
            self._symbols.extend([pair for pair in functions if first <= pair[0] < last])
            self._labels.extend([label for label in labels if first <= label < last])
        self._symbols.sort()
        self._labels.extend([start for start, _size in self._symbols])
        self._labels.sort()
        self._starts = [start for start, _size in self._symbols]

    # -- Go --------------------------------------------------------------------------------------------------
    def _by_go(self, address: int) -> tuple[int, int] | None:
        if self._go_starts is None:
            self._go_starts = self._read_go()
        index = bisect_right(self._go_starts, address) - 1
        if index < 0 or index + 1 >= len(self._go_starts):
            return None
        return self._go_starts[index], self._go_starts[index + 1]

    def _read_go(self) -> list[int]:
        """The addresses at which Go's functions begin, and where the last one ends."""
        image = self._image
        for segment in image.segments:
            if segment.flags & PF_X:
                continue
            view = image.data[segment.offset : segment.offset + segment.filesz]
            at = _find_aligned(view, _GO_PREFIX)
            if at >= 0:
                return self._read_go_table(view, at)
        return []

    def _read_go_table(self, view: memoryview, at: int) -> list[int]:
        try:
            fields = _GO_HEADER.unpack_from(view, at)
        except StructError:
            return []
        magic, count, text, table = fields[0], fields[4], fields[6], fields[11]
        if magic not in _GO_MAGIC or count > MAX_GO_FUNCTIONS or at + table + count * 8 + 4 > len(view):
            return []
        if text == 0:  # position independent: it is relocated, and must be the beginning of the code
            text = self._text_section()
        words = view[at + table : at + table + count * 8 + 4].cast("I")
        starts = [text + offset for offset in words[::2]]
        if starts != sorted(starts) or self._image.code_segment(starts[0]) is None:
            return []
        return starts

    def _text_section(self) -> int:
        for segment in self._image.segments:
            if segment.is_code:
                for _type, address, _offset, size, _link in self._image.sections:
                    if segment.vaddr <= address < segment.vaddr + segment.filesz and size > 4096:
                        return address
                return segment.vaddr
        return 0


def _find_aligned(view: memoryview, prefix: bytes) -> int:
    """Where in `view`, at a multiple of 16, a byte and then `prefix` stand; -1 if nowhere."""
    data = bytes(view)
    at = data.find(prefix)
    while at >= 0:
        if (at - 1) % 16 == 0:
            return at - 1
        at = data.find(prefix, at + 1)
    return -1


def _skip_leb(data: Source, at: int) -> int:
    for length in range(10):
        if not data[at + length] & 0x80:
            return at + length + 1
    raise ValueError("a number without end")
