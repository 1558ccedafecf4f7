"""The ELF loader: from an open executable to areas, a stack and registers (fs/binfmt_elf.c, execve(2)).

`read_image` parses and validates; nothing has changed when it raises.  `map_image` queues the host operations on the
stopped thread of a blank process.  `fill_image` writes the parts that need memory to be mapped, once they are.
Everything in the file is hostile: every field is range-checked before use.
"""

import os
from struct import Struct
from typing import Final

from cloche.abi.elf import ET_DYN, ET_EXEC, PT_GNU_STACK, PT_INTERP, PT_LOAD
from cloche.abi.errno import EIO, ENOEXEC, ENOMEM, LinuxError
from cloche.abi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_STACK,
    PAGE_MASK,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from cloche.arch.machine import ELF_MACHINE, PLATFORM
from cloche.kernel.exec_strings import StackContents
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import page_up
from cloche.mm.text import TAIL_GAP
from cloche.platform.interface import HostThread
from cloche.vfs.mapping import FileMapping
from cloche.vfs.objects import Context, FileDescription

_EHDR: Final = Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = Struct("<IIQQQQQQ")
_QQ: Final = Struct("<QQ")


MAX_STACK: Final = 1 << 30
DEFAULT_STACK: Final = 8 << 20
MIN_STACK_GAP: Final = 128 << 20  # kept free for a stack whose limit is raised later (MIN_GAP)
STACK_GUARD: Final = 1 << 20
STACK_FLAGS: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_STACK
STACK_NAME: Final = b"[stack]"


class Segment:
    """One PT_LOAD."""

    def __init__(self, flags: int, offset: int, vaddr: int, filesz: int, memsz: int) -> None:
        self.flags: int = flags
        self.offset: int = offset
        self.vaddr: int = vaddr
        self.filesz: int = filesz
        self.memsz: int = memsz


class Image:
    """A parsed ELF file and where it was put."""

    def __init__(self, file: FileDescription, name: bytes) -> None:
        self.file: FileDescription = file
        self.name: bytes = name
        self.is_dyn: bool = False
        self.entry: int = 0
        self.phoff: int = 0
        self.phnum: int = 0
        self.segments: list[Segment] = []
        self.interpreter: bytes | None = None
        # its segments cannot be mapped, which was found out only past the point of no return
        self.is_doomed: bool = False
        self.is_overlaid: bool = False  # its segments are not in order, or overlap
        self.is_stack_executable: bool = False
        self.base: int = 0  # load bias
        self.zeroes: list[tuple[int, int]] = []  # ranges to clear once mapped


def read_image(
    ctx: Context, file: FileDescription, name: bytes, max_address: int, header: bytes, *, is_main: bool = True
) -> Image:
    """Parse an ELF file whose first bytes are `header`.  Raises LinuxError(ENOEXEC, EIO).

    As in load_elf_binary the class and the order of bytes are not looked at, and segments are only once the old program
    is gone: see `is_doomed`.  The type of an interpreter is one of these late checks.
    """
    if len(header) < 64 or header[:4] != b"\x7fELF":
        raise LinuxError(ENOEXEC)
    (_ident, kind, machine, _version, entry, phoff, _shoff, _flags, _ehsize, phentsize, phnum, _a, _b, _c) = (
        _EHDR.unpack_from(header, 0)
    )
    if machine != ELF_MACHINE or (is_main and kind not in (ET_EXEC, ET_DYN)):
        raise LinuxError(ENOEXEC)
    if phentsize != 56 or not 1 <= phnum <= 1170:  # 64 KiB of program headers, as Linux
        raise LinuxError(ENOEXEC)
    image = Image(file, name)
    image.is_dyn = kind == ET_DYN
    image.is_doomed = kind not in (ET_EXEC, ET_DYN)
    image.entry = entry
    image.phoff = phoff
    image.phnum = phnum
    size = 56 * phnum
    if phoff + size <= len(header):
        table = header[phoff : phoff + size]
    else:
        table = file.read_bytes(ctx, phoff, size) if phoff < 1 << 62 else b""
    if len(table) != size:
        raise LinuxError(ENOEXEC)
    last_end = 0
    for index in range(phnum):
        ptype, flags, offset, vaddr, _paddr, filesz, memsz, _align = _PHDR.unpack_from(table, 56 * index)
        if ptype == PT_LOAD:
            if filesz > memsz or memsz > max_address or vaddr > max_address - memsz or offset > 1 << 62:
                image.is_doomed = True
                continue
            if memsz == 0:
                continue
            if (vaddr - offset) & 4095 and filesz:
                image.is_doomed = True
            if vaddr & PAGE_MASK < last_end:
                image.is_overlaid = True
            last_end = max(last_end, page_up(vaddr + memsz))
            image.segments.append(Segment(flags, offset, vaddr, filesz, memsz))
        elif ptype == PT_INTERP and is_main and image.interpreter is None:
            if not 2 <= filesz <= 4096:
                raise LinuxError(ENOEXEC)
            if offset + filesz <= len(header):
                raw = header[offset : offset + filesz]
            else:
                raw = file.read_bytes(ctx, offset, filesz) if offset < 1 << 62 else b""
            if len(raw) != filesz:
                raise LinuxError(EIO)
            if raw[-1] != 0:
                raise LinuxError(ENOEXEC)
            image.interpreter = raw.split(b"\0", 1)[0]
        elif ptype == PT_GNU_STACK:
            image.is_stack_executable = flags & 1 != 0
    if not image.segments:
        image.is_doomed = True
    return image


def _segment_prot(flags: int) -> int:
    prot = 0
    if flags & 4:
        prot |= PROT_READ
    if flags & 2:
        prot |= PROT_WRITE
    if flags & 1:
        prot |= PROT_EXEC
    return prot


def place_image(mm: AddressSpace, image: Image, base: int) -> None:
    """Choose the load bias: 0 for ET_EXEC, `base` (or wherever there is room) for ET_DYN."""
    low = min([segment.vaddr & PAGE_MASK for segment in image.segments])
    span = max([page_up(segment.vaddr + segment.memsz) for segment in image.segments]) - low
    if image.is_dyn:
        at = base if base else mm.choose_address(0, span + TAIL_GAP)
        image.base = at - low
    if image.base + low < mm.min_address or image.base + low + span > mm.max_address:
        raise LinuxError(ENOMEM)


def map_segments(ctx: Context, mm: AddressSpace, thread: HostThread, image: Image) -> int:
    """Queue the mapping of every segment, a later one over what it overlaps; the end of the highest one."""
    end = 0
    for segment in image.segments:
        prot = _segment_prot(segment.flags)
        vaddr = image.base + segment.vaddr
        start = vaddr & PAGE_MASK
        file_end = vaddr + segment.filesz
        mem_end = vaddr + segment.memsz
        map_end = start
        if image.is_overlaid:
            covered = page_up(mem_end)
            image.zeroes = [zero for zero in image.zeroes if not start <= zero[0] & PAGE_MASK < covered]
        if segment.filesz:
            map_end = page_up(file_end)
            mm.mmap(
                thread,
                start,
                map_end - start,
                prot,
                MAP_PRIVATE | MAP_FIXED,
                FileMapping(ctx, image.file, image.name),
                segment.offset - (vaddr - start),
                image.name,
            )
            if mem_end > file_end and file_end & 4095 and prot & PROT_WRITE:
                image.zeroes.append((file_end, min(map_end, mem_end + 4095 & PAGE_MASK) - file_end))
        if page_up(mem_end) > map_end:
            mm.mmap(
                thread,
                map_end,
                page_up(mem_end) - map_end,
                prot,
                MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS,
                None,
                0,
            )
        end = max(end, mem_end)
    return end


def build_stack(mm: AddressSpace, contents: StackContents, auxv: list[tuple[int, int]]) -> tuple[int, bytes]:
    """The initial stack below `contents.top`: (rsp, bytes from rsp on).  Also notes arg and env ranges in `mm`.

    Layout of fs/binfmt_elf.c create_elf_tables: argc, argv, envp, auxv, then the strings.
    """
    # There may be hundreds of thousands of them: nothing here looks at each.
    strings = contents.strings()
    strings_at = contents.top - sum([len(part) for part in strings])
    mm.env_end = contents.end
    mm.env_start = mm.arg_end = contents.end - contents.envp.length_bytes
    mm.arg_start = strings_at
    extra = (PLATFORM + b"\0").ljust(16, b"\0") + os.urandom(16)
    extra_at = (strings_at - len(extra)) & ~15
    entries = list(auxv)
    entries.append((31, contents.end))  # AT_EXECFN
    entries.append((15, extra_at))  # AT_PLATFORM
    entries.append((25, extra_at + 16))  # AT_RANDOM
    entries.append((0, 0))
    mm.auxv = b"".join([_QQ.pack(key, value & 0xFFFFFFFFFFFFFFFF) for key, value in entries])
    vectors = contents.vectors(strings_at)
    vectors.append(mm.auxv)
    length = sum([len(part) for part in vectors])
    sp = (extra_at - length) & ~15
    vectors.append(bytes(extra_at - sp - length))
    vectors.append(extra.ljust(strings_at - extra_at, b"\0"))
    mm.start_stack = sp
    return sp, b"".join(vectors + strings)


def stack_bytes_for_limit(limit: int, total_limit: int) -> int:
    """How much address space the main stack gets for RLIMIT_STACK and RLIMIT_AS (-1: unlimited).

    Linux gives pages as they are touched; here all of the stack is mapped at once, so it must leave room if the
    address space is limited.
    """
    size = MAX_STACK if limit < 0 else min(max(limit, 1 << 17), MAX_STACK)
    if total_limit >= 0 and size > DEFAULT_STACK:
        size = min(size, max(total_limit // 4, DEFAULT_STACK))
    return page_up(size)


def choose_stack(max_address: int, *, is_random: bool) -> int:
    """The top of a main stack."""
    offset = int.from_bytes(os.urandom(3), "little") << 12 if is_random else 0
    return (max_address - offset - 4096) & PAGE_MASK


def map_stack(
    mm: AddressSpace, thread: HostThread, top: int, size: int, *, is_executable: bool, is_random: bool
) -> None:
    """Map the main stack of `size` bytes below `top`.  Also sets the base from which mmap goes down."""
    prot = PROT_READ | PROT_WRITE | (PROT_EXEC if is_executable else 0)
    mm.mmap(
        thread,
        top - size,
        size,
        prot,
        STACK_FLAGS,
        None,
        0,
        STACK_NAME,
    )
    offset = int.from_bytes(os.urandom(2), "little") << 12 if is_random else 0
    mm.set_mmap_base((top - max(size, MIN_STACK_GAP) - STACK_GUARD - offset) & PAGE_MASK)


def grow_stack(mm: AddressSpace, thread: HostThread, limit: int, total_limit: int) -> None:
    """Extend the main stack downwards to what a raised RLIMIT_STACK allows, as far as there is room."""
    area = mm.find(mm.start_stack)
    if area is None or area.name != STACK_NAME:
        return
    start = area.end - stack_bytes_for_limit(limit, total_limit)
    start = max(start, mm.end_of_areas_below(area.start) + STACK_GUARD)
    size = area.start - start
    if size <= 0 or (total_limit >= 0 and mm.total_bytes + size > total_limit):
        return
    try:
        mm.mmap(thread, start, size, area.prot, STACK_FLAGS, None, 0, STACK_NAME)
    except LinuxError:
        return  # too many areas: it stays as it is, as where it meets another mapping
