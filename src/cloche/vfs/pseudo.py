"""Base classes for file systems whose files are generated when they are read: proc, sysfs, cgroup and others.

Owns the inode and description types that these share.  Contents come from plain functions (`Producer`), so
that a file system is mostly a table of names, modes and functions.

Guarantees:
- A generated file is computed as seq_file does it (fs/seq_file.c): at the first read, and again whenever a
  read starts at offset 0 or elsewhere than where the last one ended; between those, reads see one
  consistent text.
- Directory positions are stable keys that the directory chooses (a pid, a descriptor), so that a listing
  survives entries that come and go.
- `PseudoFs.has_stable_dentries` is False where names come and go (proc); lookups then return the same inode
  object for the same thing as long as it lives.
"""

import time
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EACCES, EINVAL, EIO, ENOMEM, ENXIO, EPERM, LinuxError
from cloche.abi.fs import SEEK_CUR, SEEK_DATA
from cloche.abi.limits import MAX_LFS_FILESIZE
from cloche.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dtype
from cloche.mm.quota import KERNEL_MEMORY
from cloche.mm.usermem import IovIter
from cloche.vfs.namei import d_path
from cloche.vfs.objects import (
    Context,
    Dentry,
    DirectoryDescription,
    DirEmitter,
    FileDescription,
    FileSystem,
    Inode,
    Mount,
    Path,
)
from cloche.vfs.records import ATTR_GID, ATTR_MODE, ATTR_UID, SetAttr

Producer = Callable[[Context], bytes]
Consumer = Callable[[Context, bytes], int]

MAX_NON_LFS: Final = 0x7FFFFFFF  # default s_maxbytes, the limit of generic_file_llseek
WRITE_LIMIT: Final = 65536  # the most that one write to a pseudo file may carry


class PseudoFs(FileSystem):
    """A file system of pseudo inodes; numbers them from 2 on (the root is 1)."""

    def __init__(self, kind: str, magic: int, dev: int, *, first_ino: int = 2) -> None:
        super().__init__(kind, magic, dev)
        self._next_ino: int = first_ino
        self.absent_errno: int = 0  # for creating a name; 0: the error of Linux's VFS

    def alloc_ino(self) -> int:
        """A fresh inode number."""
        ino = self._next_ino
        self._next_ino = ino + 1
        return ino


class PseudoInode(Inode):
    """Attributes in memory; chmod and chown work unless `is_mode_fixed`."""

    def __init__(self, fs: PseudoFs, mode: int, ino: int = 0) -> None:
        super().__init__(fs, ino if ino else fs.alloc_ino(), mode)
        self.is_mode_fixed: bool = False
        now = time.time_ns()
        self.atime_ns = now
        self.mtime_ns = now
        self.ctime_ns = now

    def can_be_direct(self) -> bool:
        return False

    def setattr(self, ctx: Context, attr: SetAttr) -> None:
        """chmod and chown as setattr_copy does; a change of size (O_TRUNC) is accepted and means nothing."""
        if attr.valid & ATTR_MODE:
            if self.is_mode_fixed:
                raise LinuxError(EPERM)
            self.mode = (self.mode & S_IFMT) | (attr.mode & 0o7777)
        if attr.valid & ATTR_UID:
            self.uid = attr.uid
        if attr.valid & ATTR_GID:
            self.gid = attr.gid


class DirEntry:
    """A name in a pseudo directory; `key` (2 or more, ascending) is its position."""

    def __init__(self, key: int, name: bytes, ino: int, d_type: int) -> None:
        self.key: int = key
        self.name: bytes = name
        self.ino: int = ino
        self.d_type: int = d_type


class PseudoDir(PseudoInode):
    """A directory whose names come from `entries` and `lookup`; it cannot be changed through the VFS."""

    def __init__(self, fs: PseudoFs, mode: int = 0o555, ino: int = 0) -> None:
        super().__init__(fs, S_IFDIR | mode, ino)
        self.nlink = 2

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        """The entries with keys from `start` on, in order of their keys.  Raises LinuxError."""
        raise NotImplementedError

    def _refuse(self, errno: int) -> None:
        fs = self.fs
        assert isinstance(fs, PseudoFs)
        raise LinuxError(fs.absent_errno if fs.absent_errno else errno)

    def create(self, ctx: Context, name: bytes, mode: int) -> Inode:
        self._refuse(EACCES)
        return self

    def mkdir(self, ctx: Context, name: bytes, mode: int) -> Inode:
        self._refuse(EPERM)
        return self

    def mknod(self, ctx: Context, name: bytes, mode: int, rdev: int) -> Inode:
        self._refuse(EPERM)
        return self

    def symlink(self, ctx: Context, name: bytes, target: bytes) -> Inode:
        self._refuse(EPERM)
        return self

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return PseudoDirDescription(path, self, flags)


class StaticDir(PseudoDir):
    """A directory with a fixed set of children, filled by `add` while the file system is built (or later)."""

    def __init__(self, fs: PseudoFs, mode: int = 0o555, ino: int = 0) -> None:
        super().__init__(fs, mode, ino)
        self.children: dict[bytes, Inode] = {}

    def add(self, name: bytes, inode: Inode) -> None:
        """Add or replace a child."""
        old = self.children.get(name)
        if old is not None and old.is_dir():
            self.nlink -= 1
        if inode.is_dir():
            self.nlink += 1
        self.children[name] = inode

    def remove(self, name: bytes) -> None:
        """Forget a child; no error if there is none."""
        old = self.children.pop(name, None)
        if old is not None and old.is_dir():
            self.nlink -= 1

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        return self.children.get(name)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        found: list[DirEntry] = []
        key = 2
        for name, inode in self.children.items():
            if key >= start:
                found.append(DirEntry(key, name, inode.ino, dtype(inode.mode)))
            key += 1
        return found


class PseudoDirDescription(DirectoryDescription):
    """An open pseudo directory."""

    def iterate(self, ctx: Context, emitter: DirEmitter) -> int:
        inode = self.inode
        assert isinstance(inode, PseudoDir)
        found = inode.entries(ctx, max(self.pos, 2))
        if self.pos <= 0:
            if not emitter.emit(b".", inode.ino, 4, 1):
                return 0
            self.pos = 1
        if self.pos == 1:
            parent = self.path.dentry.parent if self.path is not None else None
            parent_ino = parent.require().ino if parent is not None else inode.ino
            if not emitter.emit(b"..", parent_ino, 4, 2):
                return 0
            self.pos = 2
        for entry in found:
            if not emitter.emit(entry.name, entry.ino, entry.d_type, entry.key + 1):
                return 0
            self.pos = entry.key + 1
        return 0


class GeneratedInode(PseudoInode):
    """A regular file whose bytes `generate` makes.  Subclasses override it and, if writable, `store`."""

    def __init__(self, fs: PseudoFs, mode: int = 0o444, ino: int = 0) -> None:
        super().__init__(fs, S_IFREG | mode, ino)
        self.has_end: bool = fs.kind != "proc"  # most files of proc are sequences, for which SEEK_END fails
        self.max_pos: int = MAX_LFS_FILESIZE if fs.kind == "proc" else MAX_NON_LFS
        self.is_by_segment: bool = False  # Linux has no read_iter for it

    def generate(self, ctx: Context) -> bytes:
        """The whole contents now.  Raises LinuxError."""
        raise LinuxError(EIO)

    def store(self, ctx: Context, data: bytes, offset: int) -> int:
        """A write of `data` at file position `offset`: the bytes taken, or -errno."""
        return -EIO

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return GeneratedDescription(path, self, flags)


class GeneratedFile(GeneratedInode):
    """A read-only file of a function."""

    def __init__(self, fs: PseudoFs, producer: Producer, mode: int = 0o444) -> None:
        super().__init__(fs, mode)
        self.producer: Producer = producer

    def generate(self, ctx: Context) -> bytes:
        return self.producer(ctx)


class ConstantFile(GeneratedInode):
    """A read-only file with fixed contents."""

    def __init__(self, fs: PseudoFs, text: bytes, mode: int = 0o444) -> None:
        super().__init__(fs, mode)
        self.text: bytes = text

    def generate(self, ctx: Context) -> bytes:
        return self.text


class WritableFile(GeneratedInode):
    """A file of two functions; the consumer returns the bytes that it took, or -errno."""

    def __init__(self, fs: PseudoFs, producer: Producer, consumer: Consumer, mode: int = 0o644) -> None:
        super().__init__(fs, mode)
        self.producer: Producer = producer
        self.consumer: Consumer = consumer

    def generate(self, ctx: Context) -> bytes:
        return self.producer(ctx)

    def store(self, ctx: Context, data: bytes, offset: int) -> int:
        return self.consumer(ctx, data)


class GeneratedDescription(FileDescription):
    """An open generated file: the text of the last traversal and where the next read is expected."""

    def __init__(self, path: Path | None, inode: GeneratedInode, flags: int) -> None:
        super().__init__(path, inode, flags)
        self._text: bytes = b""
        self._expected: int = -1

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        inode = self.inode
        assert isinstance(inode, GeneratedInode)
        if offset == 0 or offset != self._expected:
            text = inode.generate(ctx)
            if len(text) > len(self._text) and not KERNEL_MEMORY.has_room(len(text)):
                return -ENOMEM
            KERNEL_MEMORY.take(len(text) - len(self._text))
            self._text = text
        text = self._text
        want = dst.remaining()
        count = 0
        if offset < len(text) and want > 0:
            count = dst.copy_to(text[offset : offset + want])
        self._expected = offset + count
        return count

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        inode = self.inode
        assert isinstance(inode, GeneratedInode)
        if whence > SEEK_CUR and not inode.has_end:
            return -EINVAL
        place = offset + self.pos if whence == SEEK_CUR else offset
        if whence < SEEK_DATA and place > inode.max_pos:
            return -EINVAL
        return super().lseek(ctx, offset, whence)

    def takes_pwrite(self) -> bool:
        """Not of sequences (seq_open), but those of sysfs when they are open for writing (kernfs_fop_open)."""
        inode = self.inode
        assert isinstance(inode, GeneratedInode)
        return inode.has_end if inode.fs.kind == "proc" else self.is_writable()

    def takes_nowait(self) -> bool:
        return False

    def is_by_segment(self) -> bool:
        inode = self.inode
        assert isinstance(inode, GeneratedInode)
        return inode.is_by_segment

    def release(self) -> None:
        KERNEL_MEMORY.give(len(self._text))
        self._text = b""
        super().release()

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        inode = self.inode
        assert isinstance(inode, GeneratedInode)
        data = src.copy_from(min(src.remaining(), WRITE_LIMIT))
        return inode.store(ctx, data, offset)

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        """O_APPEND means nothing: such files have no size."""
        count = self.pwrite(ctx, src, self.pos, flags)
        if count > 0:
            self.pos += count
        return count


class Symlink(PseudoInode):
    """A symbolic link with a fixed target."""

    def __init__(self, fs: PseudoFs, target: bytes, ino: int = 0) -> None:
        super().__init__(fs, S_IFLNK | 0o777, ino)
        self.target: bytes = target

    def readlink(self, ctx: Context) -> bytes:
        return self.target


class ComputedSymlink(PseudoInode):
    """A symbolic link whose target a function makes (/proc/self)."""

    def __init__(self, fs: PseudoFs, producer: Producer) -> None:
        super().__init__(fs, S_IFLNK | 0o777)
        self.producer: Producer = producer

    def readlink(self, ctx: Context) -> bytes:
        return self.producer(ctx)


class MagicLink(PseudoInode):
    """A link to an object, not to a name (proc_pid_link): subclasses override `target`.

    readlink shows the object's path as the caller would spell it; following the link goes to the object
    itself, whatever has become of its name.
    """

    def __init__(self, fs: PseudoFs, mode: int = 0o777, ino: int = 0) -> None:
        super().__init__(fs, S_IFLNK | mode, ino)
        self.is_mode_fixed = True

    def target(self, ctx: Context) -> Path:
        """The target object. Raises LinuxError (ENOENT, EACCES)."""
        raise LinuxError(ENXIO)

    def readlink(self, ctx: Context) -> bytes:
        return path_text(ctx.fs.root, self.target(ctx))

    def follow_link(self, ctx: Context) -> Path | None:
        return self.target(ctx)


def anonymous_path(name: bytes, inode: Inode) -> Path:
    """A path to an object without a name in any mount (a pipe, a namespace), labelled `name`."""
    dentry = Dentry(name, None, inode)
    return Path(Mount(0, inode.fs, dentry), dentry)


def path_text(root: Path, path: Path) -> bytes:
    """The path as seen from `root`, or the label of an object without one (d_path)."""
    dentry = path.dentry
    if path.mount.ident == 0 and dentry is path.mount.root:
        return dentry.name  # made by anonymous_path
    return d_path(root, path)


MAX_DIGITS: Final = 66  # of 64 bits, in any base


def parse_int(data: bytes) -> int:
    """A decimal (or 0x, or octal) integer as kstrtoint reads it, with one trailing newline and blanks around.

    Raises LinuxError(EINVAL).
    """
    text = data.split(b"\0", 1)[0].strip()
    sign = 1
    digits = text
    if digits[:1] in (b"-", b"+"):
        sign = -1 if digits[:1] == b"-" else 1
        digits = digits[1:]
    base = 10
    if digits[:2] in (b"0x", b"0X"):
        base = 16
        digits = digits[2:]
    elif len(digits) > 1 and digits[:1] == b"0":
        base = 8
    return sign * parse_digits(digits, base)


def parse_digits(digits: bytes, base: int = 10) -> int:
    """A number without sign, blanks and underscores. Raises LinuxError(EINVAL), also for more digits than any number
    of Linux has: Python raises another error for thousands of digits, and is slow with many.
    """
    significant = digits.lstrip(b"0")
    if not digits.isalnum() or len(significant) > MAX_DIGITS:
        raise LinuxError(EINVAL)
    try:
        return int(significant or b"0", base)
    except ValueError:
        raise LinuxError(EINVAL)
