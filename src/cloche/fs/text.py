"""Patched program text as mm maps it: text files (wire/textfile.py) that the gofer donates.

Owns their descriptors, as long as the file's inode or a mapping refers to the text.
"""

import os

from cloche.abi.uio import RWF_NOWAIT
from cloche.mm.text import PatchedText, TextPiece
from cloche.wire.frame import ProtocolError
from cloche.wire.gofer import Attr
from cloche.wire.textfile import MIN_ELF_BYTES, PAGE_BYTES, TextFile, decode_header, header_pages


class OpenText(PatchedText):
    """A text file and its descriptor."""

    def __init__(self, fd: int, text: TextFile) -> None:
        self._fd: int = fd
        self._text: TextFile = text
        addresses = text.page_addresses
        self._range: tuple[int, int] = (min(addresses), max(addresses) + PAGE_BYTES)

    def __del__(self) -> None:
        os.close(self._fd)

    def fd(self) -> int:
        return self._fd

    def pieces(self, offset: int, length: int) -> list[TextPiece]:
        out: list[TextPiece] = []
        for run in self._text.runs(offset, length):
            at = run.index * PAGE_BYTES
            out.append(TextPiece(run.file_offset, run.address, at, run.count * PAGE_BYTES))
        return out

    def is_fixed(self) -> bool:
        return self._text.is_fixed

    def code_range(self) -> tuple[int, int]:
        return self._range

    def tail_address(self) -> int:
        return self._text.span_end

    def tail_length(self) -> int:
        return self._text.tail_pages * PAGE_BYTES

    def tail_offset(self) -> int:
        return self._text.tail_index * PAGE_BYTES

    def original(self, offset: int) -> int:
        site = self._text.site_in_tail(offset)
        if site is None:
            return -1
        at = offset - site.tail_offset
        address = site.original(at)
        # The program can continue in its own code only at the window's start, or after the window.
        if address == site.address or address == site.address - site.window_bytes:
            return address
        return -1


class TextAhead:
    """What the gofer told of the text of a file, for the state of it with `key` alone (size, mtime_ns, ctime_ns)."""

    def __init__(self, fd: int, attr: Attr) -> None:
        self._fd: int = fd  # -1: it has none
        self.key: tuple[int, int, int] = (attr.size, attr.mtime_ns, attr.ctime_ns)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def fd(self) -> int:
        """The descriptor of the text, which stays the object's own; -1: none."""
        return self._fd

    def take(self) -> OpenText | None:
        """The text, once."""
        fd, self._fd = self._fd, -1
        return open_text(fd) if fd >= 0 else None


def may_have_text(fd: int, size: int) -> bool:
    """Whether a file may be a program, as far as its beginning tells that is in the host's memory."""
    if size < MIN_ELF_BYTES:
        return False
    start = bytearray(4)
    try:
        return os.preadv(fd, [start], 0, RWF_NOWAIT) != 4 or start == b"\x7fELF"
    except OSError:
        return True  # it would have to be read from the storage


def open_text(fd: int) -> OpenText | None:
    """The text file behind `fd`, which it takes; None (and the descriptor closed) unless it is sound."""
    try:
        first = os.pread(fd, PAGE_BYTES, 0)
        text = decode_header(first + os.pread(fd, (header_pages(first) - 1) * PAGE_BYTES, PAGE_BYTES))
        if os.fstat(fd).st_size >= text.total_pages * PAGE_BYTES:
            return OpenText(fd, text)
    except (OSError, ProtocolError):
        pass
    os.close(fd)
    return None
