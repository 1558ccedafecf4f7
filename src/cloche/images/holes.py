"""Files with holes where a stream has pages of zeros: a sparse file of a layer takes no more room than it did."""

from collections.abc import Iterator
from typing import IO, Final

PAGE: Final = 4096
_ZERO: Final = bytes(PAGE)


def pages_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where pages begin and end that are not zeros only."""
    if data.count(0) == len(data) and len(data) >= PAGE:
        return
    if _ZERO not in data:
        yield 0, len(data)
        return
    begin = -1
    for at in range(0, len(data), PAGE):
        is_hole = data.startswith(_ZERO, at)
        if is_hole and begin >= 0:
            yield begin, at
        begin = -1 if is_hole else at if begin < 0 else begin
    if begin >= 0:
        yield begin, len(data)


def write_all(out: IO[bytes], data: bytes) -> None:
    """Write all of it.  Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


class HoleWriter:
    """Writes a stream, in pieces of whole pages, to an empty file that is no terminal or pipe."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out: IO[bytes] = out
        self.at: int = 0

    def write(self, data: bytes) -> int:
        """As of a file.  Raises OSError."""
        for start, end in pages_of(data):
            self.out.seek(self.at + start)
            write_all(self.out, data[start:end])
        self.at += len(data)
        return len(data)

    def finish(self) -> None:
        """Give it its length, and go back to its begin.  Raises OSError."""
        self.out.flush()
        self.out.truncate(self.at)
        self.out.seek(0)
