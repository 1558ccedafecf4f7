"""Builds small ELF files with gcc, and ELF files that contain their text, to run natively.

`rewritten` puts a text file's pages back into the ELF file, and its tail behind the last segment; a program made by
`with_stub` has, at STUB_BASE, a stub that does the system call itself and counts it. Both together show that
trampolines have the effect of the original instructions.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from cloche.abi.elf import EHDR, ET_EXEC, PF_R, PF_W, PF_X, PHDR, PHDR_SIZE, PT_GNU_STACK, PT_LOAD, PT_NOTE
from cloche.analyst.analyse import Text, analyse
from cloche.analyst.sites import Analysis
from cloche.wire.textfile import PAGE_BYTES, STUB_BASE, STUB_ENTRY

GCC: Final = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="no gcc")

# Counts at STUB_BASE; keeps the red zone and the flags.
STUB_CODE: Final = f"""
    .section .text
counter:
    .quad 0
    .org {STUB_ENTRY - STUB_BASE:#x}
    lea -128(%rsp), %rsp
    pushfq
    incq counter(%rip)
    popfq
    push %r11
    syscall
    pop %r11
    lea 128(%rsp), %rsp
    jmp *%r11
"""


def compiled(tmp_path: Path, name: str, source: str, *flags: str) -> Path:
    """gcc's output for a source in C, or in assembler if its name ends in .s."""
    assert GCC is not None
    suffix = ".s" if source.lstrip().startswith(".") else ".c"
    path = tmp_path / (name + suffix)
    path.write_text(source)
    out = tmp_path / name
    subprocess.run([GCC, "-O2", "-o", out, path, *flags], check=True, timeout=150)
    return out


def analysed(path: Path, stub_entry: int = STUB_ENTRY) -> tuple[Text | None, Analysis]:
    return analyse(memoryview(path.read_bytes()), stub_entry)


def must_analyse(path: Path) -> Text:
    text, analysis = analysed(path)
    assert text is not None, analysis.skipped
    return text


def _headers(data: bytes) -> tuple[int, list[tuple[int, ...]]]:
    fields = EHDR.unpack_from(data)
    phoff, count = fields[5], fields[10]
    return phoff, [PHDR.unpack_from(data, phoff + index * PHDR_SIZE) for index in range(count)]


def _with_segment(data: bytearray, vaddr: int, contents: bytes, flags: int) -> None:
    """Append a PT_LOAD in place of a segment that is of no use to a test."""
    phoff, headers = _headers(data)
    victim = next(index for index, row in enumerate(headers) if row[0] in (PT_NOTE, PT_GNU_STACK))
    del headers[victim]
    data += bytes(-len(data) % PAGE_BYTES)
    row = (PT_LOAD, flags, len(data), vaddr, vaddr, len(contents), len(contents), PAGE_BYTES)
    data += contents
    after = max(index for index, found in enumerate(headers) if found[0] == PT_LOAD) + 1
    headers.insert(after, row)
    for index, header in enumerate(headers):
        PHDR.pack_into(data, phoff + index * PHDR_SIZE, *header)


def rewritten(path: Path, out: Path) -> Text:
    """Write to `out` the ELF file with its text in place."""
    text = must_analyse(path)
    data = bytearray(path.read_bytes())
    blob = b"".join(text.parts)
    header = text.header
    for index, offset in enumerate(header.page_offsets):
        at = (header.header_pages + index) * PAGE_BYTES
        page = blob[at : at + PAGE_BYTES]
        room = min(PAGE_BYTES, len(data) - offset)
        data[offset : offset + room] = page[:room]
    _with_segment(data, header.span_end, blob[header.tail_index * PAGE_BYTES :], PF_R | PF_X)
    out.write_bytes(data)
    out.chmod(0o755)
    return text


def stub_bytes(tmp_path: Path) -> bytes:
    """The stub, as it is at STUB_BASE."""
    assert GCC is not None
    source = tmp_path / "stub.s"
    source.write_text(STUB_CODE)
    out = tmp_path / "stub.o"
    flat = tmp_path / "stub.bin"
    subprocess.run([GCC, "-c", "-o", out, source], check=True, timeout=150)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out, flat], check=True, timeout=150)
    return flat.read_bytes()


def with_stub(path: Path, out: Path, stub: bytes) -> None:
    """Write to `out` the program (not position independent) with a stub at STUB_BASE."""
    data = bytearray(path.read_bytes())
    assert EHDR.unpack_from(data)[1] == ET_EXEC
    _with_segment(data, STUB_BASE, stub, PF_R | PF_W | PF_X)
    out.write_bytes(data)
    out.chmod(0o755)
