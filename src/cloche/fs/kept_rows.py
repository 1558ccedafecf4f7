"""The journal of a kept layer as bytes: frames, and whether rows are well-formed. `fs.kept` says what they mean."""

import os
from binascii import crc32
from struct import Struct
from typing import Final

from cloche.abi.errno import EFBIG
from cloche.vfs.layers import First
from cloche.wire.cbor import CborError, decode, encode

MAX_FRAME_BYTES: Final = 64 << 20
ROOT_LABEL: Final = 1
ROW_FILE: Final = 0
ROW_NAME: Final = 1
ROW_GONE: Final = 2
ROW_FIRST: Final = 3
ORIGIN_NEW: Final = 0
ORIGIN_STARTED: Final = 1
NOT_THERE: Final = 0  # in place of a label: the name was removed, though there may be one below
FORGOTTEN: Final = -1  # ... and there is none below: nothing has to be known of the name
READ_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 1 << 18  # about this much goes into a frame
_PIECE_ROWS: Final = 512
_MORE: Final = 1 << 31  # in the length: the change goes on in the next frame
_FILE_FIELDS: Final = 18
_HEAD: Final = Struct("<II")


class JournalState:
    """What a journal says of one file system."""

    def __init__(self) -> None:
        self.files: dict[int, list[object]] = {}  # by label
        self.names: dict[int, dict[bytes, int]] = {}  # by the directory's label
        self.firsts: dict[bytes, First] = {}  # by path


class Frames:
    """Reads the frames of a journal, one after the other, up to the end or the first torn one."""

    def __init__(self, fd: int, upto: int = 1 << 62) -> None:
        self.fd: int = fd
        self.upto: int = upto  # frames that begin there or later are not read
        self.at: int = 0  # where the next frame begins
        self.has_more: bool = False  # the change of the last frame goes on in the next one
        self._buffer: bytes = b""
        self._start: int = 0  # where the buffer begins in the file

    def _need(self, count: int) -> bool:
        """Have so many bytes in the buffer; False if the file has not so many. Raises OSError."""
        used = self.at - self._start
        if len(self._buffer) - used < count:
            parts = [self._buffer[used:]]
            have = len(parts[0])
            while have < count:
                data = os.pread(self.fd, max(READ_BYTES, count - have), self.at + have)
                if not data:
                    return False
                parts.append(data)
                have += len(data)
            self._buffer, self._start = b"".join(parts), self.at
        return True

    def next(self) -> bytes | None:
        """The body of the next frame; None at the end. Raises OSError."""
        if self.at >= self.upto or not self._need(_HEAD.size):
            return None
        length, check = _HEAD.unpack_from(self._buffer, self.at - self._start)
        has_more = length & _MORE != 0
        length &= ~_MORE
        if length > MAX_FRAME_BYTES or not self._need(_HEAD.size + length):
            return None
        begin = self.at - self._start + _HEAD.size
        body = self._buffer[begin : begin + length]
        if crc32(body) != check:
            return None
        self.at += _HEAD.size + length
        self.has_more = has_more
        return body


class Pieces:
    """A change as frames, which are made one at a time: a large one takes many turns."""

    def __init__(self, rows: list[object]) -> None:
        self._rows: list[object] = rows
        self._at: int = 0

    def next(self) -> bytes:
        """The next frame; empty at the end.  Raises OSError(EFBIG) if a reader would refuse it, CborError."""
        rows, begin = self._rows, self._at
        end = begin
        size = 0
        while end < len(rows) and end - begin < _PIECE_ROWS and size < PIECE_BYTES:
            size += row_bytes(rows[end])
            end += 1
        if end == begin:
            return b""
        self._at = end
        return wrap_frame(encode(rows[begin:end]), has_more=end < len(rows))


def row_bytes(row: object) -> int:
    """About how long a row is in the journal."""
    if not isinstance(row, list) or len(row) < _FILE_FIELDS:
        return 64
    size = 256
    contents, xattrs = row[17], row[16]
    if isinstance(contents, bytes):
        size += len(contents)
    if isinstance(xattrs, list):
        for pair in xattrs:
            size += len(pair[0]) + len(pair[1])
    return size


def pack_frame(rows: list[object]) -> bytes:
    """A frame.  Raises OSError(EFBIG) if a reader would refuse it, CborError."""
    return wrap_frame(encode(rows))


def wrap_frame(body: bytes, *, has_more: bool = False) -> bytes:
    """A frame with this body. Raises OSError(EFBIG)."""
    if len(body) > MAX_FRAME_BYTES:
        raise OSError(EFBIG, "")
    return _HEAD.pack(len(body) | (_MORE if has_more else 0), crc32(body)) + body


def read_rows(body: bytes, layers: int) -> list[list[object]] | None:
    """The rows of a frame, of a journal about so many file systems; None if it is malformed."""
    try:
        rows = decode(body)
    except CborError:
        return None
    if not isinstance(rows, list):
        return None
    for row in rows:
        if not isinstance(row, list) or len(row) < 3 or not are_numbers(row[:3], 3):
            return None
        if not 0 <= number_at(row, 1) < layers or number_at(row, 2) < ROOT_LABEL:
            return None
        kind = number_at(row, 0)
        if kind == ROW_FILE:
            is_good = is_file_row(row)
        elif kind == ROW_NAME:
            is_good = (
                len(row) == 5 and isinstance(row[3], bytes) and is_name(row[3]) and are_numbers(row[4:], 1)
            )
        elif kind == ROW_FIRST:
            path = row[3]
            is_good = isinstance(path, bytes) and (path == b"" or is_path(path)) and are_numbers(row[4:], 6)
        else:
            is_good = kind == ROW_GONE
        if not is_good:
            return None
    return rows


def is_name(name: bytes) -> bool:
    """Whether a name can be in a directory."""
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def is_path(path: bytes) -> bool:
    """Whether a file can be there, below a layer's root."""
    return all(is_name(part) for part in path.split(b"/"))


def bytes_at(row: list[object], index: int) -> bytes:
    """A name or path of a row that was checked."""
    found = row[index]
    assert isinstance(found, bytes)
    return found


def are_numbers(items: list[object], count: int) -> bool:
    """Whether this is a list of `count` integers."""
    return len(items) == count and all(isinstance(each, int) and not isinstance(each, bool) for each in items)


def first_row(number: int, path: bytes, first: First) -> list[object]:
    """The row of the host's file."""
    return [
        *(ROW_FIRST, number, ROOT_LABEL, path),
        *(first.mode, first.uid, first.gid, first.size, first.mtime_ns, first.ctime_ns),
    ]


def is_file_row(row: list[object]) -> bool:
    """Whether it is the row of a file."""
    if len(row) != _FILE_FIELDS or not are_numbers(row[5:15], 10):
        return False
    path, target, xattrs, contents = row[4], row[15], row[16], row[17]
    if row[3] not in (ORIGIN_NEW, ORIGIN_STARTED) or not isinstance(path, bytes):
        return False
    if path and not is_path(path):
        return False
    if not (target is None or isinstance(target, bytes)):
        return False
    if xattrs is not None:
        if not isinstance(xattrs, list):
            return False
        for pair in xattrs:
            if not isinstance(pair, list) or len(pair) != 2:
                return False
            if not isinstance(pair[0], bytes) or not isinstance(pair[1], bytes):
                return False
    return contents is None or contents is True or isinstance(contents, (bytes, int))


def number_at(row: list[object], index: int) -> int:
    """A number of a row that was checked."""
    found = row[index]
    assert isinstance(found, int)
    return found
