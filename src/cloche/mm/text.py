"""Patched program text: the pages that `AddressSpace.mmap` maps in place of a file's executable pages (docs/design.md
3.2).

Owns the view that mm has of it; `fs.text` finds and makes patched text.  Offsets are bytes in the ELF file,
addresses without a bias are the ELF file's.  A *tail* holds the trampolines of one mapped file.
"""

from typing import Final

from mypy_extensions import trait

TAIL_GAP: Final = 0x10000  # left free above a mapping that may be a program's, as room for its tail
TAIL_NAME: Final = b"[cloche]"


class TextPiece:
    """Consecutive pages to map from the patched text."""

    def __init__(self, file_offset: int, address: int, text_offset: int, length: int) -> None:
        self.file_offset: int = file_offset
        self.address: int = address
        self.text_offset: int = text_offset
        self.length: int = length


@trait
class PatchedText:
    """The patched copy of one file's executable pages."""

    def fd(self) -> int:
        """A host descriptor, open only for reading; stays the object's own."""
        raise NotImplementedError

    def pieces(self, offset: int, length: int) -> list[TextPiece]:
        """The mappings for these bytes of the file, in order."""
        raise NotImplementedError

    def is_fixed(self) -> bool:
        """Whether the file can only be mapped at its own addresses."""
        raise NotImplementedError

    def code_range(self) -> tuple[int, int]:
        """The lowest and the end of the highest patched page."""
        raise NotImplementedError

    def tail_address(self) -> int:
        """Where the tail must be."""
        raise NotImplementedError

    def tail_length(self) -> int:
        raise NotImplementedError

    def tail_offset(self) -> int:
        """Where the tail is in `fd`."""
        raise NotImplementedError

    def original(self, offset: int) -> int:
        """The address that stands for `offset` in the tail; -1 where none does (in the middle of a window)."""
        raise NotImplementedError


class Tail:
    """A tail that is mapped."""

    def __init__(self, start: int, bias: int, text: PatchedText) -> None:
        self.start: int = start
        self.end: int = start + text.tail_length()
        self.bias: int = bias
        self.text: PatchedText = text
        low, high = text.code_range()
        self.code_start: int = low + bias
        self.code_end: int = high + bias
