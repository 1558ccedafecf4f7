"""Tar streams (by the standard library's `tarfile`) to and from the records of `wire.files`."""

import stat
import tarfile
from collections.abc import Iterator
from typing import IO, Final, cast

from cloche.wire import files
from cloche.wire.control_client import ControlError
from cloche.wire.file_client import FileError
from cloche.wire.files import FileEntry, Record

_XATTR: Final = "SCHILY.xattr."  # as GNU tar, bsdtar and OCI's layers have extended attributes
_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
KINDS: Final = {kind: name for name, kind in _KINDS.items()}
_ZEROS: Final = bytes(1 << 16)
_PIECE_BYTES: Final = 1 << 18  # whole pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.images.holes import HoleWriter


class Contents:
    """The contents that follow an entry, as a file of exactly `size` bytes: holes, and a missing end, read as zeros."""

    def __init__(self, records: Iterator[Record], size: int) -> None:
        self.records = records
        self.size = size
        self.at = 0  # of what was read
        self.offset = 0  # of `data`
        self.data = b""
        self.is_over = False

    def _next(self) -> None:
        for record in self.records:
            if record.kind == files.DATA:
                self.offset, self.data = record.offset, record.data
                return
            if record.kind == files.END:
                self.is_over = True
                return
            raise ControlError("the sandbox sends what it should not")
        self.is_over = True

    def read(self, count: int = -1) -> bytes:
        """Read as from a file."""
        left = self.size - self.at if count < 0 else min(count, self.size - self.at)
        parts: list[bytes] = []
        while left > 0:
            if not self.is_over and self.at >= self.offset + len(self.data):
                self._next()
                continue
            if self.is_over or self.at < self.offset:
                part = _ZEROS[: min(left, len(_ZEROS), left if self.is_over else self.offset - self.at)]
            else:
                part = self.data[self.at - self.offset : self.at - self.offset + left]
            parts.append(part)
            self.at += len(part)
            left -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Skip the rest."""
        while not self.is_over:
            self._next()


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def header(entry: FileEntry, name: bytes) -> tarfile.TarInfo:
    """The tar header for an entry, under this name; for a regular file without the size."""
    info = tarfile.TarInfo(_text(name))
    info.mode, info.uid, info.gid = stat.S_IMODE(entry.mode), entry.uid, entry.gid
    info.mtime = entry.mtime_ns // 1_000_000_000
    headers: dict[str, str] = {}
    info.pax_headers = headers
    if entry.mtime_ns % 1_000_000_000:
        headers["mtime"] = f"{entry.mtime_ns // 10**9}.{entry.mtime_ns % 10**9:09d}"
    for key, value in entry.xattrs:
        headers[_XATTR + _text(key)] = _text(value)
    kind = stat.S_IFMT(entry.mode)
    if kind in KINDS:
        info.type = KINDS[kind]
        info.linkname = _text(entry.target)
        major = entry.rdev >> 8 & 0xFFF
        info.devmajor, info.devminor = major, entry.rdev & 0xFF | entry.rdev >> 12 & 0xFFF00
    return info


def write_tar(records: Iterator[Record], out: "IO[bytes] | HoleWriter", top: bytes) -> list[FileError]:
    """Write the records of `get` as a tar stream, under the name `top` (empty: `.`). Returns the files that could not
    be read.
    """
    failed: list[FileError] = []
    tar = tarfile.open(
        mode="w|",
        fileobj=cast("IO[bytes]", out),
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        bufsize=_PIECE_BYTES,
    )
    names = top or b"."
    for record in records:
        if record.kind == files.ERROR:
            failed.append(FileError(record.offset, record.data))
        entry = record.entry
        if entry is None:
            continue
        info = header(entry, names + b"/" + entry.path if entry.path else names)
        kind = stat.S_IFMT(entry.mode)
        if entry.is_link:
            info.type = tarfile.LNKTYPE
            info.linkname = _text(names + b"/" + entry.target if entry.target else names)
            tar.addfile(info)
        elif kind == stat.S_IFREG:
            info.size = entry.size
            contents = Contents(records, entry.size)
            tar.addfile(info, contents)
            contents.drain()
        elif kind in KINDS:
            tar.addfile(info)  # sockets are left out, as tar does
    tar.close()
    return failed


def read_tar(source: IO[bytes], *, keeps_owners: bool) -> Iterator[bytes]:
    """Yield the records, for `put`, of a tar stream. Raises ControlError if it is no tar stream, or has names that
    lead outside.
    """
    try:
        with tarfile.open(mode="r|*", fileobj=source, encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                yield from _member(tar, info, keeps_owners=keeps_owners)
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
    except tarfile.TarError as error:
        raise ControlError(f"standard input is no tar stream: {error}") from None


def _clean(name: str) -> bytes:
    parts = [part for part in name.encode(errors="surrogateescape").split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ControlError(f"the tar stream names {name!r}, which leads elsewhere")
    return b"/".join(parts)


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo, *, keeps_owners: bool) -> Iterator[bytes]:
    path = _clean(info.name)
    if not path:
        return
    kind = stat.S_IFREG if info.isreg() or info.islnk() else _KINDS.get(info.type, 0)
    if not kind:
        return
    entry = FileEntry(path, kind | info.mode & 0o7777)
    entry.uid, entry.gid = (info.uid, info.gid) if keeps_owners else (files.KEEP, files.KEEP)
    entry.mtime_ns = int(info.mtime * 1_000_000_000)
    if info.issym():
        entry.target = info.linkname.encode(errors="surrogateescape")
    elif info.islnk():
        entry.target, entry.is_link = _clean(info.linkname), True
    elif info.isdev() and not info.isfifo():
        entry.rdev = info.devmajor << 8 | info.devminor & 0xFF | (info.devminor & 0xFFF00) << 12
    if keeps_owners:
        for key, value in info.pax_headers.items():
            if key.startswith(_XATTR):
                name = key.removeprefix(_XATTR).encode(errors="surrogateescape")
                entry.xattrs.append((name, value.encode(errors="surrogateescape")))
    yield files.pack(entry.to_list())
    if kind != stat.S_IFREG or entry.is_link:
        return
    contents = tar.extractfile(info)
    offset = 0
    while contents is not None:
        data = contents.read(files.CHUNK_BYTES)
        if not data:
            break
        if data.strip(b"\0"):
            yield files.pack_data(offset, data)
        offset += len(data)
    yield files.pack_end(max(offset, info.size))
