"""The cache of text files (`wire/textfile.py`), one per ELF file that was analysed.

Owns the directory `$XDG_CACHE_HOME/cloche/text`, else /var/cache/cloche/text for root, else ~/.cache/cloche/text.
Cheap to import: the gofer calls `lookup` while a program starts.  Only the analyst's server stores.

A file is identified by the result of stat(2), its times in nanoseconds included (`cache_name`), if the analyst has
found that no process had it open for writing (`writers.py`). Only root can set a ctime, and a write to a file that
was not open for writing sets a new one, and with it a new name here. (A mapping that has written once may write again
without a new ctime.) A file that was changed within the last two seconds may change again without a new time, so it
is not cached in this way. Nor is a file for which a process answers stat (FUSE), since it could pose as another file
(`is_cacheable`). These files are identified by their contents (`content_name`), which are read again at every
look-up.

The directory must be the caller's own, with no rights for others, and not on a noexec mount (its files are mapped
executable): otherwise it is not used.  A file without any site is cached as an empty one.
"""

import os
import stat
from _blake2 import blake2b  # not hashlib, which would load OpenSSL at every start of a sandbox
from struct import Struct
from typing import Final

from cloche.wire.textfile import ANALYSER_VERSION

__all__ = [
    "MAX_CACHE_BYTES",
    "MAX_CONTENT_BYTES",
    "NO_SITES",
    "UNKNOWN",
    "cache_name",
    "content_digest",
    "content_name",
    "is_cacheable",
    "lookup",
    "lookup_contents",
    "lookup_name",
    "open_cache",
    "store",
]

UNKNOWN: Final = -1  # ask the analyst
NO_SITES: Final = -2  # was analysed; there is nothing to patch

MAX_CACHE_BYTES: Final = 512 << 20
SETTLE_NS: Final = 2_000_000_000
# of files that are identified by their contents; larger ones are not patched
MAX_CONTENT_BYTES: Final = 64 << 20

_KEY: Final = Struct("<IQQQqq")
_CONTENT_KEY: Final = Struct("<IQ")
# For a piece of 128 KiB and more malloc(3) maps pages anew each time: a third of what reading and hashing take.
_READ_BYTES: Final = 1 << 16
_TEMPORARY: Final = ".new-"
# Random, because a process of another pid namespace may use the same cache with the same pid
_OURS: Final = os.urandom(8).hex()
# FUSE, 9p: a process answers for the files.  tmpfs, ramfs: a write through a mapping leaves the times as they were.
_UNTRUSTED_MAGIC: Final = (0x65735546, 0x01021997, 0x01021994, 0x858458F6)
_STALE_TEMPORARY_NS: Final = 60_000_000_000


def _base() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return base
    if os.geteuid() == 0:
        return "/var/cache"
    return os.path.join(os.path.expanduser("~"), ".cache")


def open_cache(base: str | None = None) -> int:
    """A descriptor of the cache's directory, made if need be; -1 if none can be had that is safe to use.

    `base` stands for $XDG_CACHE_HOME.
    """
    path = os.path.join(_base() if base is None else base, "cloche", "text")
    if not path.startswith("/"):
        return -1
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    status = os.fstat(fd)
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    if not is_ours or os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
        os.close(fd)
        return -1
    return fd


def cache_name(status: os.stat_result) -> str:
    """The name under which the cache has the text of the file with this status."""
    key = _KEY.pack(
        ANALYSER_VERSION,
        status.st_dev & 0xFFFFFFFFFFFFFFFF,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return blake2b(key, digest_size=20).hexdigest()


def content_digest() -> blake2b:
    """A hash object for the bytes of a file, for `content_name`."""
    return blake2b(digest_size=32)


def content_name(digest: bytes, size: int) -> str:
    """The name under which the cache has the text for files with these contents."""
    key = _CONTENT_KEY.pack(ANALYSER_VERSION, size) + digest
    return blake2b(key, digest_size=20, person=b"contents").hexdigest()


def is_cacheable(status: os.stat_result, now_ns: int, fs_magic: int) -> bool:
    """Whether the status identifies the contents.  `now_ns` is the real time, `fs_magic` of statfs(2)."""
    if not stat.S_ISREG(status.st_mode) or fs_magic in _UNTRUSTED_MAGIC:
        return False
    # A time in the future (the clock was set back) does not identify the contents either.
    return max(status.st_ctime_ns, status.st_mtime_ns) + SETTLE_NS <= now_ns


def lookup(dir_fd: int, status: os.stat_result) -> int:
    """An O_RDONLY descriptor of the text of the file with this status, NO_SITES, or UNKNOWN.

    `dir_fd` is from `open_cache`; -1 gives UNKNOWN.  Makes no other calls than openat, fstat and close.
    """
    if dir_fd < 0 or not stat.S_ISREG(status.st_mode):
        return UNKNOWN
    return lookup_name(dir_fd, cache_name(status))


def lookup_contents(dir_fd: int, fd: int, status: os.stat_result) -> int:
    """`lookup` by the present contents of `fd`."""
    size = status.st_size
    if dir_fd < 0 or not stat.S_ISREG(status.st_mode) or size > MAX_CONTENT_BYTES:
        return UNKNOWN
    digest = content_digest()
    at = 0
    while at < size:
        data = os.pread(fd, min(_READ_BYTES, size - at), at)
        if not data:
            return UNKNOWN
        digest.update(data)
        at += len(data)
    return lookup_name(dir_fd, content_name(digest.digest(), size))


def lookup_name(dir_fd: int, name: str) -> int:
    """An O_RDONLY descriptor of the text with this name, NO_SITES, or UNKNOWN."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return UNKNOWN
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o022:
        if found.st_size > 0:
            return fd
        os.close(fd)
        return NO_SITES
    os.close(fd)
    return UNKNOWN


def store(dir_fd: int, name: str, chunks: list[bytes]) -> None:
    """Put a text (no chunks: no sites) into the cache, at once and whole.  Raises OSError."""
    temporary = f"{_TEMPORARY}{_OURS}-{os.getpid()}-{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.unlink(temporary, dir_fd=dir_fd)  # of an earlier process with this pid
    except FileNotFoundError:
        pass
    fd = os.open(temporary, flags, 0o400, dir_fd=dir_fd)
    try:
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        os.unlink(temporary, dir_fd=dir_fd)
        raise


def trim(dir_fd: int, now_ns: int, limit_bytes: int = MAX_CACHE_BYTES) -> None:
    """Remove the oldest files until at most `limit_bytes` are used, and what interrupted writers left.

    Files that are mapped live on until they are unmapped.
    """
    entries: list[tuple[int, int, str]] = []
    total = 0
    with os.scandir(dir_fd) as listing:
        for entry in listing:
            try:
                status = entry.stat(follow_symlinks=False)
                if entry.name.startswith(_TEMPORARY):
                    if status.st_mtime_ns + _STALE_TEMPORARY_NS < now_ns:
                        os.unlink(entry.name, dir_fd=dir_fd)
                    continue
            except OSError:
                continue  # another analyst was faster
            size = status.st_blocks * 512 + 512  # an empty file takes some space, too
            total += size
            entries.append((status.st_mtime_ns, size, entry.name))
    entries.sort()
    for _mtime, size, name in entries:
        if total <= limit_bytes:
            break
        try:
            os.unlink(name, dir_fd=dir_fd)
        except OSError:
            continue
        total -= size
