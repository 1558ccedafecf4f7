"""Writes trampolines: a window's instructions at another place, then the way to the stub.

    the window's instructions, with the displacements that the new place needs
    lea  back(%rip), %r11       # the address after the original syscall
    jmp  *pointer(%rip)         # STUB_ENTRY, in the first 8 bytes of the tail

rcx and r11 are free there, because `syscall` destroys both; no flag and nothing below rsp is touched.
"""

from struct import Struct
from typing import Final

from iced_x86 import Encoder, Instruction

from cloche.analyst.sites import Site
from cloche.wire.textfile import MAX_TRAMPOLINE_BYTES, PAGE_BYTES, STUB_ENTRY, WINDOW_JUMP_BYTES, TextSite

__all__ = ["Tail", "window_bytes"]

_U64: Final = Struct("<Q")
_I32: Final = Struct("<i")
_LEA_R11: Final = b"\x4c\x8d\x1d"
_JUMP_INDIRECT: Final = b"\xff\x25"
_JUMP: Final = b"\xe9"
_INT3: Final = b"\xcc"
_ALIGNMENT: Final = 16
_REL32: Final = 1 << 31


class Tail:
    """The trampolines of one file, which will be mapped at `base`."""

    def __init__(self, base: int, stub_entry: int = STUB_ENTRY) -> None:
        self._base: int = base
        self._code: bytearray = bytearray(_U64.pack(stub_entry))

    def add(self, site: Site, code: bytes) -> TextSite | None:
        """Write a site's trampoline; None if a displacement is too large.

        `code` is the window's bytes.
        """
        offset = (len(self._code) + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        at = self._base + offset
        out = bytearray()
        steps: list[tuple[int, int]] = []
        for instruction in site.window:
            before = instruction.ip - site.start
            steps.append((before, len(out)))
            moved = _move(instruction, code[before : before + instruction.len], at + len(out))
            if moved is None:
                return None
            out += moved
        back = site.address + 2 - (at + len(out) + 7)
        pointer = self._base - (at + len(out) + 7 + 6)
        if not -_REL32 <= back < _REL32 or not -_REL32 <= at - site.start - WINDOW_JUMP_BYTES < _REL32:
            return None
        out += _LEA_R11 + _I32.pack(back) + _JUMP_INDIRECT + _I32.pack(pointer)
        if len(out) > MAX_TRAMPOLINE_BYTES:
            return None
        self._code += _INT3 * (offset - len(self._code))
        self._code += out
        return TextSite(site.address, site.address - site.start, offset, len(out), steps)

    def pages(self) -> bytes:
        """The whole tail."""
        return bytes(self._code) + _INT3 * (-len(self._code) % PAGE_BYTES)


def window_bytes(site: TextSite, base: int) -> bytes:
    """The bytes that replace the window of a site, with the tail at `base`."""
    start = site.address - site.window_bytes
    jump = _JUMP + _I32.pack(base + site.tail_offset - (start + WINDOW_JUMP_BYTES))
    return jump + _INT3 * (site.window_bytes - WINDOW_JUMP_BYTES)


def _move(instruction: Instruction, code: bytes, address: int) -> bytes | None:
    """The instruction's bytes at another address."""
    if instruction.is_jcc_short_or_near:
        instruction = instruction.copy()
        instruction.as_near_branch()
    elif not instruction.is_ip_rel_memory_operand:
        return code
    encoder = Encoder(64)
    try:
        encoder.encode(instruction, address)
    except ValueError:  # out of reach
        return None
    return encoder.take_buffer()
