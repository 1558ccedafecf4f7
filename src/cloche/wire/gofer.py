"""Messages between the sentry and the gofer: operations, attributes, directory entries.

Every integer is little endian.  A name or another byte string is preceded by its length (u16, xattr values
u32).  Objects are addressed by the fid of a directory and a name in it; the empty name is the directory
itself (or the attached file). A fid is a number that the gofer chose, never reused during its life.

    operation    request                                             reply
    ATTACH       index u32                                           fid u64, ATTACH_* u8, attr
    WALK         fid, name                                           fid u64, attr (of a directory)
    OPENDIR      fid, name                                           fid u64, is_listed u8, attr, entries …
    LIST         fid                                                 the same
    STAT         fid, name                                           attr, symlink target
    OPEN         fid, name, flags u32, dev u64, ino u64, pin u32     attr, fid u64, TEXT_* u8 + a descriptor of a
                                                                     regular file, + one of its text
    CREATE       fid, name, flags u32, mode u32, uid u32, gid u32,
                 pin u32                                             attr, fid u64 + a descriptor
    MKDIR        fid, name, mode u32, uid u32, gid u32               attr
    SYMLINK      fid, name, target, uid u32, gid u32                 attr
    LINK         fid, name, new fid, new name                        attr
    UNLINK RMDIR fid, name                                           -
    RENAME       fid, name, new fid, new name, flags u32,
                 fid of the moved directory or 0, fid of the exchanged one or 0
    SETATTR      fid, name, valid u32, mode u32, uid u32, gid u32,
                 size u64, atime_ns i64, mtime_ns i64,
                 dev u64, ino u64                                    attr
    GETXATTR     fid, name, xattr                                    value
    LISTXATTR    fid, name                                           names, each ended by NUL
    SETXATTR     fid, name, xattr, value (u32), flags u32            -
    REMOVEXATTR  fid, name, xattr                                    -
    STATFS       fid                                                 eight u64, see STATFS
    FSYNC        fid, name, is_data_only u8                          -
    SYNCFS       fid                                                 -
    CLUNK        fid …                                               -
    TMPFILE      fid, mode u32, uid u32, gid u32                     attr, fid u64 + a descriptor
    FORGET       fid …                                               none: it is not answered
    TEXT         fid, name, dev u64, ino u64                         attr, lasts u8 + a descriptor of text, or none
    MKNOD        fid, name, mode u32, uid u32, gid u32               attr (of a FIFO or a socket, nothing else)
    CONNECT      index u32                                           a descriptor of the socket of the worker that
                                                                     serves this attach point, or none: this one does
    READ         fid, name, dev u64, ino u64, offset u64,
                 length u32, wants_data u8                           what the file holds there; nothing if it shall
                                                                     only be brought into the host's memory

    WRITE        fid, offset u64, at_end u8, data (u32)              count u32, attr
    SEEK         fid, name, dev u64, ino u64, offset u64,
                 whence u32                                          u64 (SEEK_DATA, SEEK_HOLE of lseek(2))
    ALLOCATE     fid, mode u32, offset u64, length u64               attr (fallocate(2))
    WATCH        fid                                                 wd u32 + the worker's inotify descriptor, which
                                                                     tells of names in it that come, go or change
    UNWATCH      wd u32                                              none: it is not answered
    OPENDIR_MANY fid, limit u32, count u32, name …                   count u32, for each: fid of the directory that it
                                                                     is in, name, what OPENDIR replies, with the length
                                                                     u32 of the entries before them
    BIND         fid, name, kind u32, mode u32, uid u32, gid u32     attr, number u64 of the socket (SOCK_* `kind`); 0:
                                                                     programs of the sandbox alone meet at it
    LISTEN       number u64, backlog u32                             the descriptor, which the gofer keeps no longer
    UNBIND       number u64                                          none: it is not answered
    DIAL         fid, name, dev u64, ino u64, kind u32, uid u32      uid u32 and gid u32 of the server, + a descriptor
                                                                     that is connected to that socket of the host's
    LOOKUP       fid, name, opens u8                                 attr, symlink target, fid u64, TEXT_* u8
                                                                     + a descriptor, + one of text

LOOKUP is a STAT that also gives a directory's fid and, with `opens` 1, a regular file's descriptor to read, where these
can be had on the directory's own device: 0 and none where not.
OPEN to read and LOOKUP that opens also tell what is known at once of the file's patched text, for the size and times in
attr: most programs and libraries that are opened are mapped next, which would ask for it (TEXT).
OPENDIR_MANY lists, ahead, these directories of one and those below each, in the order of a walk, as far as they can be
read, are not large and are on the same device, until there are `limit`, or enough bytes, or some time has passed.
FSYNC, SYNCFS, READ, SEEK, WRITE and ALLOCATE take long: their replies may come after those to later requests.
With `pin` 1 OPEN and CREATE on a writable attach point also give a fid for the file itself (0: there are too many),
which stays valid when the file is renamed or removed; it is addressed with the empty name. Where a process or another
machine serves the storage, such a fid also holds what was opened to write, for WRITE and ALLOCATE; elsewhere the
first of those requests opens the file (EBADF: the fid holds nothing, and the file cannot be opened). `ino` not 0 says
which inode OPEN and SETATTR must find (ESTALE).

Names in a request are validated by `check_name`; anything else that is malformed is a ProtocolError, which ends the
gofer.
"""

from struct import Struct
from struct import error as StructError
from typing import Final

from cloche.abi.limits import NAME_MAX
from cloche.abi.stat import S_IFDIR
from cloche.wire.frame import ProtocolError

OP_ATTACH: Final = 1
OP_WALK: Final = 2
OP_OPENDIR: Final = 3
OP_LIST: Final = 4
OP_STAT: Final = 5
OP_OPEN: Final = 6
OP_CREATE: Final = 7
OP_MKDIR: Final = 8
OP_SYMLINK: Final = 9
OP_LINK: Final = 10
OP_UNLINK: Final = 11
OP_RMDIR: Final = 12
OP_RENAME: Final = 13
OP_SETATTR: Final = 14
OP_GETXATTR: Final = 15
OP_LISTXATTR: Final = 16
OP_SETXATTR: Final = 17
OP_REMOVEXATTR: Final = 18
OP_STATFS: Final = 19
OP_FSYNC: Final = 20
OP_CLUNK: Final = 21
OP_MKNOD: Final = 22
OP_SYNCFS: Final = 23
OP_TEXT: Final = 24
OP_OPEN_MANY: Final = 25
OP_FORGET: Final = 26
OP_TMPFILE: Final = 27
OP_CONNECT: Final = 28
OP_READ: Final = 29
OP_WRITE: Final = 30
OP_ALLOCATE: Final = 31
OP_SEEK: Final = 32
OP_WATCH: Final = 33
OP_UNWATCH: Final = 34
OP_OPENDIR_MANY: Final = 35
OP_BIND: Final = 36
OP_LISTEN: Final = 37
OP_UNBIND: Final = 38
OP_DIAL: Final = 39
OP_LOOKUP: Final = 40
OP_LAST: Final = 40

TEXT_UNKNOWN: Final = 0  # TEXT has to ask
TEXT_NONE: Final = 1  # there is nothing to patch
TEXT_COMES: Final = 2  # the last descriptor is of the text

ATTACH_WRITABLE: Final = 1
ATTACH_DOORS: Final = 2  # what is bound in it are sockets of the host's
ATTACH_SOCKETS: Final = 4  # the host's sockets in it can be connected to

MAX_AHEAD: Final = 16  # files that one OP_OPEN_MANY opens besides the first
MAX_AHEAD_DIRS: Final = 64  # directories that one OP_OPENDIR_MANY lists
MAX_AHEAD_BYTES: Final = 128 * 1024  # of their entries, about

# SETATTR's `valid`, as linux/fs.h numbers them.
SET_MODE: Final = 1
SET_UID: Final = 2
SET_GID: Final = 4
SET_SIZE: Final = 8
SET_ATIME: Final = 16
SET_MTIME: Final = 32
SET_ALL: Final = 63

KEEP_ID: Final = 0xFFFFFFFF  # a uid or gid in CREATE, MKDIR, SYMLINK: do not change the owner

MAX_REQUEST_BYTES: Final = 128 * 1024  # an xattr value of 64 KiB and three names fit
MAX_REPLY_BYTES: Final = 1024 * 1024  # of one frame
MAX_READ_BYTES: Final = 256 * 1024  # of one READ
MAX_WRITE_BYTES: Final = 64 * 1024  # of one WRITE
MAX_WRITES: Final = 128  # that are not answered yet

ATTR: Final = Struct("<QQIIIIQqqqqq")
ATTR_BYTES: Final = 80
ENTRY: Final = Struct("<HHQQIIIIQqqqqq")
ENTRY_BYTES: Final = 84
STATFS: Final = Struct("<QQQQQQQQ")  # magic block_size blocks free avail files files_free name_max

_LENGTHS: Final = Struct("<HH")
_KIND_AT: Final = 21  # of an entry: the second byte of its mode
_IDENTITY: Final = Struct("<QQI")
_U8: Final = Struct("<B")
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_I64: Final = Struct("<q")


class Attr:
    """The result of lstat(2); sizes in bytes, blocks of 512 bytes, times in ns since the epoch."""

    def __init__(
        self,
        ino: int,
        dev: int,
        mode: int,
        nlink: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        blocks: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
    ) -> None:
        self.ino: int = ino
        self.dev: int = dev
        self.mode: int = mode
        self.nlink: int = nlink
        self.uid: int = uid
        self.gid: int = gid
        self.rdev: int = rdev
        self.size: int = size
        self.blocks: int = blocks
        self.atime_ns: int = atime_ns
        self.mtime_ns: int = mtime_ns
        self.ctime_ns: int = ctime_ns


class Entry:
    """A name in a directory with its attributes, and the target if it is a symbolic link."""

    def __init__(self, name: bytes, attr: Attr, target: bytes) -> None:
        self.name: bytes = name
        self.attr: Attr = attr
        self.target: bytes = target


def check_name(name: bytes) -> bool:
    """Whether `name` is one component that can only name a child: not empty, `.`, `..`, no `/`, no NUL."""
    if not name or len(name) > NAME_MAX or name == b"." or name == b"..":
        return False
    return b"/" not in name and b"\0" not in name


class Reader:
    """Reads fields of a body in order.  Raises ProtocolError when the body is too short."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes = body
        self._at: int = 0

    def _number(self, layout: Struct, size: int) -> int:
        at = self._at
        if at + size > len(self._body):
            raise ProtocolError("a field is missing")
        self._at = at + size
        value: int = layout.unpack_from(self._body, at)[0]
        return value

    def u8(self) -> int:
        return self._number(_U8, 1)

    def u16(self) -> int:
        return self._number(_U16, 2)

    def u32(self) -> int:
        return self._number(_U32, 4)

    def u64(self) -> int:
        return self._number(_U64, 8)

    def i64(self) -> int:
        return self._number(_I64, 8)

    def _bytes(self, length: int) -> bytes:
        at = self._at
        if at + length > len(self._body):
            raise ProtocolError("a string is cut off")
        self._at = at + length
        return self._body[at : at + length]

    def string(self) -> bytes:
        """A byte string with a u16 length."""
        return self._bytes(self.u16())

    def blob(self) -> bytes:
        """A byte string with a u32 length."""
        return self._bytes(self.u32())

    def attr(self) -> Attr:
        at = self._at
        if at + ATTR_BYTES > len(self._body):
            raise ProtocolError("attributes are missing")
        self._at = at + ATTR_BYTES
        return unpack_attr(self._body, at)

    def rest(self) -> bytes:
        """All that is left."""
        at = self._at
        self._at = len(self._body)
        return self._body[at:]

    def end(self) -> None:
        """Raises ProtocolError unless everything was taken."""
        if self._at != len(self._body):
            raise ProtocolError("bytes are left over")


def pack_string(data: bytes) -> bytes:
    """A byte string of at most 65535 bytes with its length in front."""
    return _U16.pack(len(data)) + data


def pack_target(fid: int, name: bytes) -> bytes:
    """The fid and name that most requests begin with."""
    return _U64.pack(fid) + _U16.pack(len(name)) + name


def pack_u32(*values: int) -> bytes:
    """Numbers of 32 bits in a row."""
    return b"".join([_U32.pack(value & 0xFFFFFFFF) for value in values])


def pack_u64(*values: int) -> bytes:
    """Numbers of 64 bits in a row."""
    return b"".join([_U64.pack(value & 0xFFFFFFFFFFFFFFFF) for value in values])


def unpack_attr(body: bytes, offset: int = 0) -> Attr:
    """Attributes at `offset`.  Raises ProtocolError if they are cut off."""
    try:
        (ino, dev, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) = ATTR.unpack_from(
            body, offset
        )
    except StructError:
        raise ProtocolError("attributes are cut off")
    return Attr(ino, dev, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime)


def index_entries(blob: bytes, subdirs: list[bytes]) -> dict[bytes, int]:
    """Where in `blob`, packed entries in a row, the entry of each name begins; and `subdirs` gets those of directories.

    Raises ProtocolError.
    """
    index: dict[bytes, int] = {}
    end = len(blob)
    offset = 0
    while offset < end:
        if offset + ENTRY_BYTES > end:
            raise ProtocolError("an entry is cut off")
        name_len, target_len = _LENGTHS.unpack_from(blob, offset)
        start = offset + ENTRY_BYTES
        after: int = start + name_len + target_len
        if after > end:
            raise ProtocolError("a name is cut off")
        name = blob[start : start + name_len]
        if not check_name(name):
            raise ProtocolError("an entry is not a name")
        index[name] = offset
        if blob[offset + _KIND_AT] & 0xF0 == S_IFDIR >> 8:
            subdirs.append(name)
        offset = after
    return index


def entry_at(blob: bytes, offset: int) -> Entry:
    """The entry that begins at `offset`, which `index_entries` gave."""
    (name_len, target_len, ino, dev, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) = (
        ENTRY.unpack_from(blob, offset)
    )
    start = offset + ENTRY_BYTES
    middle: int = start + name_len
    attr = Attr(ino, dev, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime)
    return Entry(blob[start:middle], attr, blob[middle : middle + target_len])


def ino_and_mode_at(blob: bytes, offset: int) -> tuple[int, int, int]:
    """Device, inode number and mode of the entry that begins at `offset`."""
    ino, dev, mode = _IDENTITY.unpack_from(blob, offset + 4)
    return dev, ino, mode
