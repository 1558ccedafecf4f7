"""The tree of an image as one file: names, attributes, and where the contents are.

`images.tree` writes it; the sentry (`fs.image`) and the commands read it, a directory at a time. The names, owners,
links and devices of an image are never made on the host: contents are in files with numbers for names, and everything
else is in this file.

    MAGIC, u64 offset and u64 length of HEAD (little endian), blocks
    HEAD  = [version, [layer …], ROW of the root]
    block = [0, [ROW …]]                       a directory of at most ROWS names, sorted by name
          | [1, [[first name, offset, length] …]]   blocks of the first kind, for larger ones
    ROW   = [name, mode, uid, gid, mtime_ns, size, nlink, ino, what, [[name, value] …] or null]

all in the encoding of `wire.cbor`.  `what` is, by the type in `mode`, [index of the layer, number] of a regular file
(and of one with holes its blocks of 512 bytes),
[offset, length] of a directory's block, the target of a symbolic link, the number of a device, or null.  A block lies
before every block that refers to it, so no file can have circles; readers check that, and each row.
"""

import os
from bisect import bisect_right
from struct import Struct
from typing import Final

from cloche.abi.errno import EIO, LinuxError
from cloche.abi.stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from cloche.wire.cbor import CborError, decode

MAGIC: Final = b"cloche tree\n\0\0\0\0"
VERSION: Final = 1
HEAD: Final = Struct("<QQ")
START: Final = len(MAGIC) + HEAD.size  # of the first block
ROWS: Final = 128  # names in a block
MAX_BLOCK_BYTES: Final = 1 << 25
MAX_LAYERS: Final = 256
FILES_IN_DIRECTORY: Final = 256  # contents that share a directory of the host
_INT_LIMIT: Final = 1 << 63


class TreeRow:
    """One name of a directory, with everything about the file."""

    def __init__(self, name: bytes, mode: int) -> None:
        self.name: bytes = name
        self.mode: int = mode
        self.uid: int = 0
        self.gid: int = 0
        self.mtime_ns: int = 0
        self.size: int = 0
        self.nlink: int = 1
        self.ino: int = 0
        self.layer: int = 0  # of a regular file
        self.number: int = 0
        self.blocks: int = -1  # of 512 bytes; -1: it has no holes
        self.offset: int = 0  # of a directory's block
        self.length: int = 0
        self.target: bytes = b""
        self.rdev: int = 0
        self.xattrs: list[tuple[bytes, bytes]] = []

    def to_list(self) -> list[object]:
        """As in a block."""
        what: object = None
        kind = self.mode & S_IFMT
        if kind == S_IFREG:
            what = [self.layer, self.number, self.blocks] if self.blocks >= 0 else [self.layer, self.number]
        elif kind == S_IFDIR:
            what = [self.offset, self.length]
        elif kind == S_IFLNK:
            what = self.target
        elif kind == S_IFCHR or kind == S_IFBLK:
            what = self.rdev
        pairs: object = None
        if self.xattrs:
            pairs = [[name, value] for name, value in self.xattrs]
        return [
            *(self.name, self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.nlink, self.ino),
            *(what, pairs),
        ]


def content_name(number: int) -> tuple[bytes, bytes]:
    """Directory and name of a file's contents in its layer's directory."""
    return b"%x" % (number // FILES_IN_DIRECTORY), b"%x" % number


def _bad() -> LinuxError:
    return LinuxError(EIO)


def row_from(found: object, limit: int) -> TreeRow:
    """A row of a block that begins at `limit`.  Raises LinuxError(EIO) unless it is one."""
    if not isinstance(found, list) or len(found) != 10:
        raise _bad()
    name, what, pairs = found[0], found[8], found[9]
    numbers: list[int] = []
    for each in found[1:8]:
        if not isinstance(each, int) or isinstance(each, bool) or not -_INT_LIMIT <= each < _INT_LIMIT:
            raise _bad()
        numbers.append(each)
    if not isinstance(name, bytes) or not is_name(name):
        raise _bad()
    row = TreeRow(name, numbers[0])
    row.uid, row.gid, row.mtime_ns, row.size, row.nlink, row.ino = numbers[1:7]
    if not 0 <= row.mode < 1 << 16 or not 0 <= row.uid < 1 << 32 or not 0 <= row.gid < 1 << 32:
        raise _bad()
    if row.size < 0 or row.nlink < 1 or not 0 < row.ino < 1 << 48:
        raise _bad()
    kind = row.mode & S_IFMT
    if kind == S_IFREG and isinstance(what, list) and len(what) == 3:
        row.blocks = _blocks(what.pop(), row.size)
    if kind == S_IFREG or kind == S_IFDIR:
        first, second = _pair(what)
        if kind == S_IFREG:
            row.layer, row.number = first, second
        else:
            row.offset, row.length = first, second
            if first < START or second > MAX_BLOCK_BYTES or first + second > limit:
                raise _bad()
    elif kind == S_IFLNK:
        if not isinstance(what, bytes) or not 0 < len(what) < 4096:
            raise _bad()
        row.target = what
    elif kind == S_IFCHR or kind == S_IFBLK:
        if not isinstance(what, int) or not 0 <= what < 1 << 32:
            raise _bad()
        row.rdev = what
    if pairs is not None:
        _take_xattrs(row, pairs)
    return row


def _pair(found: object) -> tuple[int, int]:
    if not isinstance(found, list) or len(found) != 2:
        raise _bad()
    first, second = found
    if not isinstance(first, int) or not isinstance(second, int) or first < 0 or second < 0:
        raise _bad()
    return first, second


def _blocks(found: object, size: int) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= (size + 4095) // 4096 * 8:
        raise _bad()
    return found


def _take_xattrs(row: TreeRow, pairs: object) -> None:
    if not isinstance(pairs, list):
        raise _bad()
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise _bad()
        name, value = pair
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise _bad()
        row.xattrs.append((name, value))


def is_name(name: bytes) -> bool:
    """Whether a name can be in a directory; the root's is "/"."""
    if name == b"/":
        return True
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


class TreeFile:
    """An open tree."""

    def __init__(self, fd: int) -> None:
        """Takes `fd` over, even if it raises LinuxError(EIO)."""
        self.fd: int = fd
        try:
            start = os.pread(fd, START, 0)
            if len(start) != START or start[: len(MAGIC)] != MAGIC:
                raise _bad()
            offset, length = HEAD.unpack(start[len(MAGIC) :])
            head = self._read(offset, length)
            if len(head) != 3 or head[0] != VERSION or not isinstance(head[1], list):
                raise _bad()
            self.layers: list[bytes] = []
            for layer in head[1]:
                if not isinstance(layer, bytes) or not is_name(layer) or layer == b"/":
                    raise _bad()
                self.layers.append(layer)
            if len(self.layers) > MAX_LAYERS:
                raise _bad()
            self.root: TreeRow = row_from(head[2], offset)
            if self.root.mode & S_IFMT != S_IFDIR:
                raise _bad()
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read(self, offset: int, length: int) -> list[object]:
        if not 0 < length <= MAX_BLOCK_BYTES or not START <= offset < _INT_LIMIT:
            raise _bad()
        try:
            data = os.pread(self.fd, length, offset)
            found = decode(data)
        except (CborError, OSError):
            raise _bad()
        if not isinstance(found, list):
            raise _bad()
        return found

    def rows(self, offset: int, length: int) -> list[TreeRow]:
        """A block of names.  Raises LinuxError."""
        found = self._read(offset, length)
        if len(found) != 2 or found[0] != 0 or not isinstance(found[1], list) or len(found[1]) > ROWS:
            raise _bad()
        rows: list[TreeRow] = []
        for each in found[1]:
            row = row_from(each, offset)
            if row.layer >= len(self.layers):
                raise _bad()
            rows.append(row)
        return rows

    def directory(self, row: TreeRow) -> "TreeDirectory":
        """The names in a directory.  Raises LinuxError."""
        return TreeDirectory(self, row)

    def find(self, path: bytes) -> TreeRow | None:
        """The row of a path; symbolic links are not followed.  Raises LinuxError."""
        row = self.root
        for part in path.split(b"/"):
            if not part:
                continue
            if row.mode & S_IFMT != S_IFDIR:
                return None
            below = self.directory(row).find(part)
            if below is None:
                return None
            row = below
        return row

    def resolve(self, path: bytes) -> TreeRow | None:
        """The row at a path, with symbolic links followed as a process with this root would. Raises LinuxError."""
        parts = [part for part in path.split(b"/") if part]
        parts.reverse()
        trail = [self.root]
        links = 0
        while parts:
            part = parts.pop()
            if part == b".":
                continue
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            if trail[-1].mode & S_IFMT != S_IFDIR:
                return None
            below = self.directory(trail[-1]).find(part)
            if below is None:
                return None
            if below.mode & S_IFMT == S_IFLNK:
                links += 1
                if links > 40:
                    return None
                if below.target.startswith(b"/"):
                    trail = [self.root]
                rest = [each for each in below.target.split(b"/") if each]
                rest.reverse()
                parts.extend(rest)
                continue
            trail.append(below)
        return trail[-1]


class TreeDirectory:
    """The names in a directory; blocks of a large directory are read when they are needed."""

    def __init__(self, tree: TreeFile, row: TreeRow) -> None:
        """Raises LinuxError."""
        self.tree: TreeFile = tree
        self.firsts: list[bytes] = []  # the first names of the blocks of a large directory
        self.places: list[tuple[int, int]] = []
        self.rows: dict[bytes, TreeRow] = {}
        self.blocks: list[list[TreeRow]] = []  # empty ones: not read yet
        found = tree._read(row.offset, row.length)
        if len(found) != 2 or not isinstance(found[1], list):
            raise _bad()
        if found[0] == 0:
            self.places.append((row.offset, row.length))
            self.blocks.append([])
            self.block(0)
            return
        if found[0] != 1:
            raise _bad()
        for part in found[1]:
            if not isinstance(part, list) or len(part) != 3:
                raise _bad()
            first = part[0]
            if not isinstance(first, bytes):
                raise _bad()
            offset, length = _pair(part[1:])
            if offset + length > row.offset:
                raise _bad()
            self.firsts.append(first)
            self.places.append((offset, length))
            self.blocks.append([])

    def find(self, name: bytes) -> TreeRow | None:
        """One name.  Raises LinuxError."""
        known = self.rows.get(name)
        if known is not None or not self.firsts:
            return known
        at = bisect_right(self.firsts, name) - 1
        if at < 0 or self.blocks[at]:
            return None
        self.block(at)
        return self.rows.get(name)

    def block(self, at: int) -> list[TreeRow]:
        """A part of the names, of `len(blocks)`.  Raises LinuxError."""
        rows = self.blocks[at]
        if not rows:
            offset, length = self.places[at]
            rows = self.blocks[at] = self.tree.rows(offset, length)
            for each in rows:
                self.rows[each.name] = each
        return rows

    def all(self) -> list[TreeRow]:
        """Every name.  Raises LinuxError."""
        for at in range(len(self.blocks)):
            self.block(at)
        return list(self.rows.values())
