"""Files of a container, asked for from outside: requests, and the records that travel on a stream socket.

    stat     path, follow                                     -> entry
    get      paths, depth, data, follow, own, xattrs, fd      -> records, then {}
    put      path, parents, follow, fd                        <- records; {} once everything is there
    mkdir    path, mode, parents                              -> {}
    remove   path, recursive                                  -> {}
    rename   old, new                                         -> {}
    changes  paths, limit, fd                                 -> records, then {}
    watch    path, deep, fd                                   -> records, until the client closes its end
    mounts   (of the monitor)                                 -> what host directory a place inside is

If the file system inside refuses, the answer has the field `errno`.

`own`: what the container's root is made of, but nothing else that is mounted there (volumes, /proc).

Each request has `container`, and says as which user it acts: `uid` and `gid` (-1: the container's user), or
`all_rights`. Paths are bytes, absolute inside; symbolic links mean what they mean inside. `fd` is one end of a pair
of stream sockets (AF_UNIX): long data travels there, so that the monitor carries none of it, and a slow reader holds
up only itself. The other end sees the end of the stream after the record DONE; without that record the stream was cut
off.

    record = u32 length (little endian), CBOR array
    ENTRY  = [0, path, mode, uid, gid, size, mtime_ns, ctime_ns, rdev, nlink, ino, target, is_link, [[name, value] …]]
             of a file, relative to what was asked for; `target` of a symbolic link, or (`is_link`) the path of an
             earlier entry that is the same file
    DATA   = [1, offset, bytes]        contents of the last entry, offsets rising; what is left out is a hole
    END    = [2, size]                 of the contents
    ERROR  = [3, path, errno]          this one cannot be had; the stream goes on
    DONE   = [4]
    EVENT  = [7, mask, path]           IN_* of inotify(7), of a path below the directory that is watched ("": of
             itself); IN_Q_OVERFLOW: some are missing.  The first one has mask 0 and says that from now on all are told
    LAYER  = [5, place]                changes below this mount point follow
    CHANGE = [6, kind, has_data, origin, base, old]    of the next entry; contents follow if `has_data`,
             up to `limit` bytes of a file (-1: none at all)

`kind` is one of ADDED, CHANGED and DELETED, `base` what was there (see `Base`, or null), `origin` the inode number that
the file had below (0: none), `old` contents that only the sandbox has had, or null.

Nothing here does I/O.  Each side checks what it receives: `RecordDecoder` raises ProtocolError.
"""

from struct import Struct
from typing import Final

from cloche.wire.cbor import CborError, decode, encode
from cloche.wire.protocol import Fields, ProtocolError, take_int, take_list

STAT: Final = "file_stat"
GET: Final = "file_get"
PUT: Final = "file_put"
MKDIR: Final = "file_mkdir"
REMOVE: Final = "file_remove"
RENAME: Final = "file_rename"
CHANGES: Final = "file_changes"
MOUNTS: Final = "mounts"
WATCH: Final = "file_watch"
METHODS: Final = (STAT, GET, PUT, MKDIR, REMOVE, RENAME, CHANGES, WATCH)
WITH_STREAM: Final = (GET, PUT, CHANGES, WATCH)

ENTRY: Final = 0
DATA: Final = 1
END: Final = 2
ERROR: Final = 3
DONE: Final = 4
LAYER: Final = 5
CHANGE: Final = 6
EVENT: Final = 7

ADDED: Final = "A"
CHANGED: Final = "M"
DELETED: Final = "D"

MAX_PATHS: Final = 4096
MAX_PATH_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 4096  # of directories in a stream
MAX_RECORD_BYTES: Final = 4 << 20
CHUNK_BYTES: Final = 1 << 17  # of contents in a record
KEEP: Final = -1  # in an entry for `put`: the usual value, or the file's present one
KEEP_NS: Final = -(1 << 63)  # the same of a time

_HEAD: Final = Struct("<I")
_MAX_XATTRS: Final = 4096
_INT_LIMIT: Final = 1 << 63


def _sent(time_ns: int) -> int:
    """A time that a guest may have chosen, within what a message can carry: 292 years around 1970."""
    return min(max(time_ns, -_INT_LIMIT), _INT_LIMIT - 1)


class FileEntry:
    """A file, directory, link or node: name and attributes."""

    def __init__(self, path: bytes, mode: int) -> None:
        self.path: bytes = path
        self.mode: int = mode  # with type
        self.uid: int = 0
        self.gid: int = 0
        self.size: int = 0
        self.mtime_ns: int = 0
        self.ctime_ns: int = 0
        self.rdev: int = 0
        self.nlink: int = 1
        self.ino: int = 0
        self.target: bytes = b""
        self.is_link: bool = False
        self.xattrs: list[tuple[bytes, bytes]] = []

    def to_list(self) -> list[object]:
        """As the record."""
        return [
            *(
                ENTRY,
                self.path,
                self.mode,
                self.uid,
                self.gid,
                self.size,
                _sent(self.mtime_ns),
                _sent(self.ctime_ns),
            ),
            *(self.rdev, self.nlink, self.ino, self.target, self.is_link),
            [[name, value] for name, value in self.xattrs],
        ]


def entry_from(parts: list[object]) -> FileEntry:
    """The inverse of `FileEntry.to_list`.  Raises ProtocolError."""
    if len(parts) != 14:
        raise ProtocolError("an entry that is none")
    path, target = parts[1], parts[11]
    numbers: list[int] = []
    for part in parts[2:11]:
        if not isinstance(part, int) or isinstance(part, bool) or not -_INT_LIMIT <= part < 2 * _INT_LIMIT:
            raise ProtocolError("an entry that is none")
        numbers.append(part)
    is_link, xattrs = parts[12], parts[13]
    if not isinstance(path, bytes) or not isinstance(target, bytes) or not isinstance(is_link, bool):
        raise ProtocolError("an entry that is none")
    if b"\0" in path or b"\0" in target or max(len(path), len(target)) > MAX_PATH_BYTES:
        raise ProtocolError("an entry that is none")
    entry = FileEntry(path, numbers[0])
    if not 0 <= numbers[0] < 1 << 32:
        raise ProtocolError("an entry that is none")
    entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.ctime_ns = numbers[1:6]
    entry.rdev, entry.nlink, entry.ino = numbers[6:9]
    if entry.size < 0 or entry.rdev < 0 or entry.uid < KEEP or entry.gid < KEEP:
        raise ProtocolError("an entry that is none")
    entry.target = target
    entry.is_link = is_link
    if not isinstance(xattrs, list) or len(xattrs) > _MAX_XATTRS:
        raise ProtocolError("an entry that is none")
    for pair in xattrs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ProtocolError("an entry that is none")
        name, value = pair
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise ProtocolError("an entry that is none")
        entry.xattrs.append((name, value))
    return entry


class Base:
    """The state of a file of the host when the sandbox first looked at it."""

    def __init__(self, mode: int, uid: int, gid: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.mode: int = mode
        self.uid: int = uid
        self.gid: int = gid
        self.size: int = size
        self.mtime_ns: int = mtime_ns
        self.ctime_ns: int = ctime_ns
        self.ino: int = 0

    def to_list(self) -> list[object]:
        """For the record."""
        return [
            self.mode,
            self.uid,
            self.gid,
            self.size,
            _sent(self.mtime_ns),
            _sent(self.ctime_ns),
            self.ino,
        ]


def base_from(found: object) -> Base | None:
    """The inverse.  Raises ProtocolError."""
    if found is None:
        return None
    numbers: list[int] = []
    if isinstance(found, list):
        for item in found:
            if isinstance(item, int) and not isinstance(item, bool):
                numbers.append(item)
    if len(numbers) != 7:
        raise ProtocolError("a change that is none")
    base = Base(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
    base.ino = numbers[6]
    return base


class Record:
    """One record; which fields matter follows from the kind."""

    def __init__(self, kind: int) -> None:
        self.kind: int = kind
        self.entry: FileEntry | None = None
        self.offset: int = 0  # DATA; END: the size; ERROR: errno; EVENT: the mask
        self.data: bytes = b""  # DATA; ERROR, LAYER, EVENT: the path
        self.change: str = ""  # CHANGE
        self.has_data: bool = False
        self.origin: int = 0
        self.base: Base | None = None
        self.old: bytes | None = None


def pack(body: list[object]) -> bytes:
    """A record.  Raises ProtocolError if it has no encoding or is too long."""
    try:
        data = encode(body)
    except CborError as error:
        raise ProtocolError(str(error)) from None
    if len(data) > MAX_RECORD_BYTES:
        raise ProtocolError("a record that is too long")
    return _HEAD.pack(len(data)) + data


def pack_data(offset: int, data: bytes) -> bytes:
    """Contents."""
    return pack([DATA, offset, data])


def pack_end(size: int) -> bytes:
    """The end of the contents of a file of `size` bytes."""
    return pack([END, size])


def pack_error(path: bytes, errno: int) -> bytes:
    """A file that cannot be had."""
    return pack([ERROR, path, errno])


def pack_event(mask: int, path: bytes) -> bytes:
    """Something that has happened."""
    return pack([EVENT, mask, path])


class RecordDecoder:
    """Decodes the bytes of a stream into records."""

    def __init__(self) -> None:
        self._buffer: bytearray = bytearray()
        self.is_done: bool = False  # DONE was seen

    def feed(self, data: bytes) -> list[Record]:
        """Take bytes; returns the records that are complete now. Raises ProtocolError."""
        self._buffer += data
        buffer = self._buffer
        found: list[Record] = []
        at = 0
        while len(buffer) - at >= _HEAD.size:
            length: int = _HEAD.unpack_from(buffer, at)[0]
            if length > MAX_RECORD_BYTES:
                raise ProtocolError("a record that is too long")
            start = at + _HEAD.size
            if len(buffer) - start < length:
                break
            if self.is_done:
                raise ProtocolError("records after the last one")
            found.append(self._record(bytes(buffer[start : start + length])))
            at = start + length
        del buffer[:at]
        return found

    def _record(self, body: bytes) -> Record:
        try:
            parts = decode(body)
        except CborError as error:
            raise ProtocolError(str(error)) from None
        if not isinstance(parts, list) or not parts or not isinstance(parts[0], int):
            raise ProtocolError("no record")
        kind = parts[0]
        record = Record(kind)
        is_right = False
        second = parts[1] if len(parts) > 1 else None
        third = parts[2] if len(parts) > 2 else None
        if kind == ENTRY:
            record.entry = entry_from(parts)
            is_right = True
        elif kind == DATA:
            if isinstance(second, int) and isinstance(third, bytes) and len(parts) == 3:
                record.offset, record.data = second, third
                is_right = 0 <= second < _INT_LIMIT
        elif kind == END:
            if isinstance(second, int) and len(parts) == 2:
                record.offset = second
                is_right = 0 <= second < _INT_LIMIT
        elif kind == ERROR:
            if isinstance(second, bytes) and isinstance(third, int) and len(parts) == 3:
                record.data, record.offset = second, third
                is_right = 0 < third < 4096
        elif kind == DONE:
            self.is_done = is_right = len(parts) == 1
        elif kind == LAYER:
            if isinstance(second, bytes) and len(parts) == 2:
                record.data = second
                is_right = True
        elif kind == CHANGE:
            is_right = _take_change(record, parts)
        elif kind == EVENT:
            if isinstance(second, int) and isinstance(third, bytes) and len(parts) == 3:
                record.offset, record.data = second, third
                is_right = 0 <= second < 1 << 32 and b"\0" not in third and len(third) <= MAX_PATH_BYTES
        if not is_right:
            raise ProtocolError("a record that is malformed")
        return record


def _take_change(record: Record, parts: list[object]) -> bool:
    """Fill in a CHANGE; whether it is one."""
    if len(parts) != 6:
        return False
    kind, has_data, origin, old = parts[1], parts[2], parts[3], parts[5]
    if not isinstance(kind, str) or kind not in (ADDED, CHANGED, DELETED) or not isinstance(has_data, bool):
        return False
    if not isinstance(origin, int) or not (old is None or isinstance(old, bytes)):
        return False
    record.change, record.has_data, record.origin, record.old = kind, has_data, origin, old
    record.base = base_from(parts[4])
    return True


def take_path(fields: Fields, name: str) -> bytes:
    """An absolute path.  Raises ProtocolError."""
    found = fields.get(name)
    return _checked(found, name)


def take_paths(fields: Fields) -> list[bytes]:
    """The field `paths`.  Raises ProtocolError."""
    return [_checked(found, "paths") for found in take_list(fields, "paths", MAX_PATHS)]


def _checked(found: object, name: str) -> bytes:
    if not isinstance(found, bytes) or b"\0" in found or not found.startswith(b"/"):
        raise ProtocolError(f"{name} is not an absolute path")
    if len(found) > MAX_PATH_BYTES:
        raise ProtocolError(f"{name} is too long")
    return found


def take_ids(fields: Fields) -> tuple[int, int]:
    """`uid` and `gid`; -1, -1: the container's user.  Raises ProtocolError."""
    uid = take_int(fields, "uid", KEEP, KEEP, 0xFFFFFFFE)
    gid = take_int(fields, "gid", KEEP, KEEP, 0xFFFFFFFE)
    if (uid < 0) != (gid < 0):
        raise ProtocolError("ids out of range")
    return uid, gid


def is_clean(path: bytes) -> bool:
    """Whether a relative path names something below: no empty parts, no `.` and `..`."""
    return all(part not in (b"", b".", b"..") for part in path.split(b"/"))
