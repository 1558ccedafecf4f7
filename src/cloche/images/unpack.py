"""One layer: from a tar stream to numbered files and a list of rows.

The names in a layer are only written into its rows. On the host a file with contents gets a number for a name, and
links, devices, owners and modes are never made. So `..`, absolute links, or a file system that cannot store owners,
have no effect on the host. A name that would make no sense inside either is refused.

    row = u32 length, CBOR [kind, path, mode, uid, gid, mtime_ns, size, number, target, rdev, [[name, value] …]]
          of a file with holes one more: its blocks of 512 bytes

`kind`: ENTRY; LINK, another name of `target`; WHITEOUT, `path` is gone; OPAQUE, what layers below have in `path` is
gone.
"""

import os
import re
import stat
import struct
import tarfile
from collections.abc import Iterator
from typing import Final

from cloche.images.errors import ImageError
from cloche.images.holes import PAGE, pages_of, write_all
from cloche.images.store import Store
from cloche.images.streams import FREE_BYTES, MAX_RATIO, LayerStream
from cloche.wire.cbor import decode, encode
from cloche.wire.imagetree import content_name

ENTRY: Final = 0
LINK: Final = 1
WHITEOUT: Final = 2
OPAQUE: Final = 3

MAX_ENTRIES: Final = 1_000_000
ROWS_NAME: Final = "rows"  # in the directory while it is being filled
EMPTY: Final = 0  # the number of the file without contents, which every layer has
_MAX_HEADER: Final = 1 << 20  # bytes of an extended header
_MAX_DEPTH: Final = 512
_MAX_PATH: Final = 1 << 15
_MAX_XATTRS: Final = 1 << 17
_CHUNK: Final = 1 << 18  # whole pages, as the reader of a tar stream gives all that is asked for
_HEAD: Final = struct.Struct("<I")
_XATTR: Final = "SCHILY.xattr."
_PREFIX: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
_MTIME: Final = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,12}))?")


class _Member(tarfile.TarInfo):
    """A header that cannot make the reader take a gigabyte of names into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        is_extended = self.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.size < 0 or is_extended and self.size > _MAX_HEADER:
            raise ImageError("a layer has a header that is too long")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def clean_path(name: bytes) -> bytes:
    """The path below the root.  Raises ImageError for one that leads elsewhere, or nowhere."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ImageError(f"a layer names {name[:200]!r}, which leads out of it")
    if len(name) > _MAX_PATH or len(parts) > _MAX_DEPTH or any(len(part) > 255 for part in parts):
        raise ImageError(f"a layer has a name that is too long: {name[:100]!r} …")
    return b"/".join(parts)


def unpack(store: Store, stream: LayerStream, diff_id: str) -> int:
    """Unpack a layer that has this digest, unless it is there; bytes written.  Raises ImageError, OSError."""
    if store.has_layer(diff_id):
        return 0
    import shutil

    directory = store.new_layer()
    try:
        unpacker = Unpacker(directory, stream)
        unpacker.run()
        if stream.digest != diff_id:
            raise ImageError(f"a layer has the digest {stream.digest}, not {diff_id}")
        store.finish_layer(directory, ROWS_NAME, diff_id)
        return unpacker.written
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Unpacker:
    """Fills a directory."""

    def __init__(self, directory: str, stream: LayerStream) -> None:
        self.directory: str = directory
        self.stream: LayerStream = stream
        self.number: int = EMPTY
        self.entries: int = 0
        self.written: int = 0
        self.logical: int = 0
        self.groups: set[bytes] = set()

    def run(self) -> None:
        """Raises ImageError, OSError."""
        with open(os.path.join(self.directory, ROWS_NAME), "xb") as rows:
            os.close(self._create(EMPTY))
            for row in self._rows():
                body = encode(row)
                rows.write(_HEAD.pack(len(body)) + body)
        self.stream.drain()

    def _create(self, number: int) -> int:
        group, name = content_name(number)
        if group not in self.groups:
            os.mkdir(os.path.join(self.directory, group.decode()), 0o700)
            self.groups.add(group)
        path = os.path.join(self.directory, group.decode(), name.decode())
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)

    def _rows(self) -> Iterator[list[object]]:
        try:
            with tarfile.open(
                mode="r|",
                fileobj=self.stream,  # type: ignore[call-overload]  # it reads, and nothing else is asked of it
                tarinfo=_Member,
                encoding="utf-8",
                errors="surrogateescape",
                bufsize=1 << 16,
            ) as tar:
                for info in tar:
                    self.entries += 1
                    if self.entries > MAX_ENTRIES:
                        raise ImageError(f"a layer has more than {MAX_ENTRIES} files")
                    row = self._row(tar, info)
                    if row is not None:
                        yield row
                    tar.members.clear()
        except tarfile.ReadError as failure:
            if self.entries or self.stream.given:
                raise ImageError(f"a layer is no tar stream: {failure}") from None
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise ImageError(f"a layer is no tar stream: {error}") from None

    def _row(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> list[object] | None:
        path = clean_path(info.name.encode(errors="surrogateescape"))
        above, _slash, name = path.rpartition(b"/")
        if name == _OPAQUE:
            return [OPAQUE, above]
        if name.startswith(_PREFIX):
            rest = name[len(_PREFIX) :]
            if rest.startswith(_PREFIX) or rest in (b"", b".", b".."):
                return None  # aufs's own files
            return [WHITEOUT, above + b"/" + rest if above else rest]
        if info.islnk():
            target = clean_path(info.linkname.encode(errors="surrogateescape"))
            return [LINK, path, 0, 0, 0, 0, 0, 0, target, 0, []]
        is_file = info.isreg()
        kind = stat.S_IFREG if is_file else _KINDS.get(info.type, 0)
        if not kind:
            return None
        mode = kind | info.mode & 0o7777
        target = b""
        rdev = size = number = 0
        blocks = -1
        if kind == stat.S_IFLNK:
            target = info.linkname.encode(errors="surrogateescape")
            if not 0 < len(target) < 4096:
                raise ImageError(f"a layer has a link of {len(target)} bytes")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            major, minor = info.devmajor, info.devminor
            if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
                raise ImageError("a layer has a device with a number that no device has")
            rdev = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
        elif is_file:
            size = info.size
            number, blocks = self._contents(tar, info)
        if not 0 <= info.uid < 0xFFFFFFFF or not 0 <= info.gid < 0xFFFFFFFF:
            raise ImageError("a layer has an owner that nobody can be")
        return [
            *(ENTRY, path, mode, info.uid, info.gid, mtime_of(info), size, number, target, rdev),
            xattrs_of(info),
            *([blocks] if blocks >= 0 else []),
        ]

    def _contents(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> tuple[int, int]:
        """The contents of a file, holes left out: their number, and with holes the blocks that they take, else -1."""
        if info.issparse():  # it claims more bytes than the stream holds
            self.logical += info.size
        if self.logical > FREE_BYTES + MAX_RATIO * self.stream.taken:
            raise ImageError(f"a layer has files of {self.logical} bytes: that is taken for an attack")
        if info.size == 0:
            return EMPTY, -1
        source = tar.extractfile(info)
        if source is None:
            return EMPTY, -1
        self.number += 1
        with open(self._create(self.number), "wb", buffering=0) as out:
            done = pages = 0
            while done < info.size:
                data = source.read(_CHUNK)
                if not data:
                    raise ImageError("a layer is cut off")
                for start, end in pages_of(data):
                    out.seek(done + start)
                    write_all(out, data[start:end])
                    self.written += end - start
                    pages += (end - start + PAGE - 1) // PAGE
                done += len(data)
            out.truncate(info.size)
        return self.number, pages * (PAGE // 512) if pages < (info.size + PAGE - 1) // PAGE else -1


def mtime_of(info: tarfile.TarInfo) -> int:
    """In nanoseconds: tarfile's own is a float."""
    match = _MTIME.fullmatch(info.pax_headers.get("mtime", ""))
    if match:
        whole = int(match[2]) * 10**9 + int((match[3] or "0").ljust(9, "0")[:9])
        if whole < 1 << 63:
            return -whole if match[1] else whole
    seconds = int(info.mtime)
    return seconds * 10**9 if abs(seconds) < 1 << 33 else 0


def xattrs_of(info: tarfile.TarInfo) -> list[list[bytes]]:
    """The extended attributes of a file, without those that overlayfs would interpret. Raises ImageError."""
    found: list[list[bytes]] = []
    for key, value in info.pax_headers.items():
        if not key.startswith(_XATTR):
            continue
        name = key[len(_XATTR) :].encode(errors="surrogateescape")
        data = value.encode(errors="surrogateescape")
        if not 0 < len(name) <= 255 or len(data) > 1 << 16:
            raise ImageError("a layer has an extended attribute that is too long")
        if name.startswith((b"user.", b"security.", b"trusted.")) and not name.startswith(
            b"trusted.overlay."
        ):
            found.append([name, data])
    if sum(len(name) + len(data) for name, data in found) > _MAX_XATTRS:
        raise ImageError("a layer has a file with too many extended attributes")
    return sorted(found)


def read_rows(store: Store, diff_id: str) -> Iterator[list[object]]:
    """Yield the rows of a layer. Raises ImageError, OSError."""
    from cloche.images.store import hex_of

    with open(store.of("layers", hex_of(diff_id)), "rb") as file:
        while head := file.read(_HEAD.size):
            body = file.read(_HEAD.unpack(head)[0])
            try:
                row = decode(body)
            except ValueError:
                raise ImageError(
                    f"the store's {diff_id} is damaged; remove the image and pull it again"
                ) from None
            assert isinstance(row, list)
            yield row
