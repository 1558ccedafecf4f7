"""Files that an attacker made to harm the analyst: no text, in bounded time and memory, and nothing raised."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pytest

from cloche.abi.elf import EHDR, PHDR, PT_GNU_EH_FRAME, PT_LOAD, SHDR, SHT_SYMTAB
from cloche.analyst import cache
from cloche.analyst.analyse import analyse, has_sites
from cloche.analyst.serve import AnalystProcess, spawn_analyst

from .programs import compiled, needs_gcc

CPU_SECONDS = 8.0


def header(phnum: int = 1, shoff: int = 0, shnum: int = 0, *, phoff: int = 64, kind: int = 3) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return EHDR.pack(ident, kind, 62, 1, 0, phoff, shoff, 0, 64, 56, phnum, 64, shnum, 0)


def load(offset: int, vaddr: int, filesz: int, memsz: int | None = None, flags: int = 5) -> bytes:
    return PHDR.pack(PT_LOAD, flags, offset, vaddr, vaddr, filesz, filesz if memsz is None else memsz, 4096)


def simple(code: bytes) -> bytes:
    """One executable segment with this code at 0x1000."""
    return (header() + load(0x1000, 0x1000, len(code))).ljust(0x1000, b"\0") + code


def nothing(data: bytes) -> None:
    """No text, or at least none that costs more than it should."""
    before = time.process_time()
    analyse(memoryview(data))
    assert time.process_time() - before < CPU_SECONDS


CALL = b"\xb8\x27\0\0\0\x0f\x05\xc3"


def test_the_simple_file_is_fine() -> None:
    text, _analysis = analyse(memoryview(simple(CALL)))
    assert text is not None and len(text.header.sites) == 1


@pytest.mark.parametrize("phnum", [0, 2, 257, 0xFFFF])
def test_program_headers(phnum: int) -> None:
    data = bytearray(simple(CALL))
    data[: len(header())] = header(phnum)
    text, _analysis = analyse(memoryview(bytes(data)))
    assert text is None or phnum == 2


@pytest.mark.parametrize(
    "segments",
    [
        [load(0x1000, 0x1000, 0x1000), load(0x1000, 0x1000, 0x1000)],
        [load(0x1000, 0x1000, 0x2000), load(0x1000, 0x2000, 0x1000)],
        [load(0x1000, 0x1000, 8), load(0x1000, 0x2000, 8)],  # the same page of the file, twice executable
        [load(0x1000, 0x1001, 8)],
        [load(0x1000, 0x1000, 1 << 63)],
        [load(0x1000, 1 << 46, 8)],
        [load(0x1000, (1 << 64) - 4096, 8)],
        [load(0x1000, 0x1000, 16, 8)],
        [load((1 << 64) - 4096, 0x1000, 8)],
        [load(0x1000, 0x1000, 8, 1 << 60)],
        [load(0x1000, 0x1000, 8, flags=7)],  # writable code may change
        [load(0x2000, 0x2000, 8), load(0x1000, 0x1000, 8)],
    ],
)
def test_segments(segments: list[bytes]) -> None:
    data = (header(len(segments)) + b"".join(segments)).ljust(0x1000, b"\0") + CALL
    assert analyse(memoryview(data))[0] is None


def test_a_far_end_is_out_of_reach() -> None:
    """The tail would be 64 TiB away from the code."""
    segments = [load(0x1000, 0x1000, 8), load(0, 1 << 45, 8, flags=4)]
    data = (header(2) + b"".join(segments)).ljust(0x1000, b"\0") + CALL
    text, analysis = analyse(memoryview(data))
    assert text is None and analysis.skipped[-1][2] == "out of reach"


def test_symbols_that_are_not_there() -> None:
    for size in (24 * 10**9, (1 << 64) - 1, 1 << 63):
        section = SHDR.pack(0, SHT_SYMTAB, 0, 0, 0x2000, size, 0, 0, 8, 24)
        code = CALL.ljust(0x1000, b"\xcc")
        data = (header(1, 0x2000, 1) + load(0x1000, 0x1000, 8)).ljust(0x1000, b"\0") + code + section
        text, _analysis = analyse(memoryview(data))
        assert text is not None  # the table is not believed, the code is


def test_many_symbols() -> None:
    count = 900_000
    symbol = Struct("<IBBHQQ")
    table = b"".join(symbol.pack(0, 2, 0, 1, 0x1000 + index % 8, 1 << 40) for index in range(1000))
    table *= count // 1000
    section = SHDR.pack(0, SHT_SYMTAB, 0, 0, 0x3000, len(table), 0, 0, 8, 24)
    data = (header(1, 0x2000, 1) + load(0x1000, 0x1000, 8)).ljust(0x1000, b"\0") + CALL
    nothing(data.ljust(0x2000, b"\0") + section.ljust(0x1000, b"\0") + table)


def test_many_sections() -> None:
    nothing(
        (header(1, 0x2000, 0xFFFF) + load(0x1000, 0x1000, 8)).ljust(0x1000, b"\0") + CALL + bytes(1 << 23)
    )


@pytest.mark.parametrize(
    "pattern",
    [
        b"\x0f\x05",  # nothing but system calls
        CALL,
        b"\xb8\x27\0\0\0\x0f\x05",
        b"\xe9\0\0\0\0",  # nothing but jumps
        b"\xe9",
        b"\x66" * 14 + b"\x90",
        b"\0\x0f\x05\xc3" + b"\x0f\x0b" * 60,
    ],
)
@pytest.mark.parametrize("length", [1 << 19, 1 << 25])
def test_monotonous_code(pattern: bytes, length: int) -> None:
    nothing(simple((CALL + pattern * (length // len(pattern)))[:length]))


def test_overlapping_functions() -> None:
    """Each with a site, each a megabyte long: decoding them all would take for ever."""
    symbol = Struct("<IBBHQQ")
    step = 64
    code = (CALL + b"\x90" * (step - len(CALL))) * ((2 << 20) // step)
    table = b"".join(
        symbol.pack(0, 2, 0, 1, 0x1000 + index * step, (1 << 20) - 1) for index in range(len(code) // step)
    )
    head = header(1, 0x1000 + len(code), 1) + load(0x1000, 0x1000, len(code))
    section = SHDR.pack(0, SHT_SYMTAB, 0, 0, 0x2000 + len(code), len(table), 0, 0, 8, 24)
    nothing(head.ljust(0x1000, b"\0") + code + section.ljust(0x1000, b"\0") + table)


def eh_frame(table: bytes, frames: bytes, count: int) -> bytes:
    """A file whose unwind tables are at 0x2000 (the sorted one) and 0x8000."""
    segments = [load(0x1000, 0x1000, 0x1000), load(0x2000, 0x2000, 0x20000, flags=4)]
    head = b"\x01\x1b\x03\x3b" + Struct("<iI").pack(0x6000 - 4, count)
    data = header(3) + segments[0] + segments[1]
    data += PHDR.pack(PT_GNU_EH_FRAME, 4, 0x2000, 0x2000, 0x2000, 12, 12, 4)
    return (data.ljust(0x1000, b"\0") + CALL.ljust(0x1000, b"\xcc") + head + table).ljust(
        0x8000, b"\0"
    ) + frames.ljust(0x10000, b"\x80")


def test_unwind_tables_that_lie() -> None:
    row = Struct("<ii")
    cie = Struct("<II").pack(20, 0) + b"\x01zR\0\x01\x78\x10\x01\x1b" + bytes(7)
    fde = Struct("<IIiI").pack(20, 28, -0x7020, 8) + bytes(8)
    good = eh_frame(row.pack(0x1000 - 0x2000, 0x6018), cie + fde, 1)
    text, _analysis = analyse(memoryview(good))
    assert text is not None and text.header.sites[0].window_bytes == 5
    nothing(eh_frame(row.pack(0x1000 - 0x2000, 0x6018), cie + fde, 0xFFFFFFFF))
    endless = Struct("<II").pack(20, 0) + b"\x01zR\0" + b"\x80" * 64
    nothing(eh_frame(row.pack(0x1000 - 0x2000, 0x6018), endless, 1))
    for target in (0, -0x2000, 0x7FFFFFFF, -0x80000000, 0x1DFF8):
        nothing(eh_frame(row.pack(0x1000 - 0x2000, target) * 100, cie + fde, 100))
    generator = random.Random(7)
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(4):
            damaged[generator.randrange(0x2000, 0x2020)] = generator.randrange(256)
            damaged[generator.randrange(0x8000, 0x8030)] = generator.randrange(256)
        nothing(bytes(damaged))


@needs_gcc
def test_damaged_files(tmp_path: Path) -> None:
    """Bytes changed at random in a real file, most of them where tables are."""
    source = 'int main(void) { __asm__ volatile("mov $39, %eax; syscall"); return 0; }'
    data = compiled(tmp_path, "program", source).read_bytes()
    generator = random.Random(3)
    for round_ in range(400):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 4, 32))):
            where = generator.randrange(1024) if round_ % 2 else generator.randrange(len(data))
            damaged[where] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        nothing(bytes(damaged))
    for length in range(0, len(data), 97):
        nothing(data[:length])


@needs_gcc
def test_the_check_before_never_raises(tmp_path: Path) -> None:
    source = 'int main(void) { __asm__ volatile("mov $39, %eax; syscall"); return 0; }'
    path = compiled(tmp_path, "program", source)
    fd = os.open(path, os.O_RDONLY)
    assert has_sites(fd)
    os.close(fd)
    data = path.read_bytes()
    generator = random.Random(5)
    out = os.open(tmp_path / "damaged", os.O_RDWR | os.O_CREAT)
    for _ in range(400):
        damaged = bytearray(data[:4096])
        for _ in range(8):
            damaged[generator.randrange(1024)] = generator.randrange(256)
        os.pwrite(out, damaged, 0)
        has_sites(out)
    os.close(out)
    with open("/dev/null") as null:
        assert not has_sites(null.fileno())


def test_a_site_between_two_reads(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = bytes((1 << 20) - 1) + b"\x0f\x05" + bytes(100)
    for data, answer in ((simple(code), True), (simple(bytes(len(code))), False)):
        path.write_bytes(data)
        with path.open("rb") as file:
            assert has_sites(file.fileno()) is answer


@pytest.fixture(scope="module")
def analyst() -> Iterator[AnalystProcess]:
    process = spawn_analyst(cache_base="")
    yield process
    process.close()


def ask(analyst: AnalystProcess, path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return analyst.request(fd, may_cache=False)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [1 << 28, 1 << 31, 1 << 40])
def test_sparse(analyst: AnalystProcess, tmp_path: Path, size: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(header() + load(0x1000, 0x1000, size - 0x1000))
        file.seek(0x1000)
        file.write(CALL)
        file.truncate(size)
    assert ask(analyst, path) == cache.NO_SITES


def test_a_worker_ends(analyst: AnalystProcess, tmp_path: Path) -> None:
    path = tmp_path / "mix"
    path.write_bytes(simple(b"\xe9\x05\xff\xff\xff\x0f\x84\0\0\0\0\x90" * (24 << 20 >> 3) + CALL))
    ask(analyst, path)
    # It is still there.
    path.write_bytes(simple(CALL))
    fd = ask(analyst, path)
    assert fd >= 0
    os.close(fd)
