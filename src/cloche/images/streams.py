"""Layers as streams: compressed in any of the ways that registries know, hashed on the way, bombs refused."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, cast

from cloche.images.errors import ImageError

READ_BYTES: Final = 1 << 18
# The limit of a layer's size: so much in any case, and beyond that so many times its compressed size. DEFLATE can
# reach 1032; ordinary layers stay below 20.
FREE_BYTES: Final = 1 << 30
MAX_RATIO: Final = 200

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_OTHERS: Final = {b"BZh": "bzip2", b"\xfd7zX": "xz"}


class LayerStream:
    """A compressed stream as a file of its decompressed contents; `digest` is theirs, once they
    were read to the end.
    """

    def __init__(self, source: IO[bytes], progress: Callable[[int], None] | None = None) -> None:
        """Raises ImageError for a compression that is not supported."""
        self.source: IO[bytes] = source
        self.taken: int = 0  # compressed
        self.given: int = 0
        self.hash: Any = hashlib.sha256()
        self.buffer: bytes = b""
        self.progress: Callable[[int], None] | None = progress
        first = self._take()
        for magic, name in _OTHERS.items():
            if first.startswith(magic):
                raise ImageError(f"a layer is compressed by {name}; only gzip and zstd are known")
        if first.startswith(_GZIP):
            self.parts: Iterator[bytes] = self._gzip(first)
        elif first.startswith(_ZSTD):
            self.parts = self._zstd(first)
        else:
            self.parts = self._plain(first)

    @property
    def digest(self) -> str:
        """The digest of the contents that were read."""
        return f"sha256:{self.hash.hexdigest()}"

    def _take(self) -> bytes:
        data = self.source.read(READ_BYTES)
        self.taken += len(data)
        if self.progress is not None and data:
            self.progress(len(data))
        return data

    def _plain(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield data
            data = self._take()

    def _gzip(self, data: bytes) -> Iterator[bytes]:
        """Members one after the other (RFC 1952), at most READ_BYTES at a time."""
        decoder = zlib.decompressobj(31)
        while True:
            if decoder.eof:
                data = decoder.unused_data or self._take()
                if not data or not data.strip(b"\0"):
                    return  # padding
                decoder = zlib.decompressobj(31)
            try:
                out = decoder.decompress(data, READ_BYTES)
            except zlib.error as error:
                raise ImageError(f"a layer is no gzip stream: {error}") from None
            if out:
                yield out
            if decoder.eof:
                continue
            data = decoder.unconsumed_tail or self._take()
            if not data and not out:
                raise ImageError("a layer is cut off")

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        import io

        import zstandard

        stream = self
        rest = [data]

        class Source(io.RawIOBase):
            def read(self, size: int = -1, /) -> bytes:
                return rest.pop() if rest else stream._take()

        try:
            decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            with decoder.stream_reader(
                cast(IO[bytes], Source()), read_across_frames=True, read_size=READ_BYTES
            ) as reader:
                while out := reader.read(READ_BYTES):
                    yield out
        except zstandard.ZstdError as error:
            raise ImageError(f"a layer is no zstd stream: {error}") from None

    def read(self, size: int = -1) -> bytes:
        """Read as from a file; fewer bytes than `size` only at the end. Raises ImageError."""
        parts = [self.buffer]
        have = len(self.buffer)
        while size < 0 or have < size:
            part = next(self.parts, b"")
            if not part:
                break
            self.hash.update(part)
            self.given += len(part)
            if self.given > FREE_BYTES + MAX_RATIO * self.taken:
                raise ImageError(
                    f"a layer of {self.taken} bytes holds more than {self.given}: that is taken for an attack"
                )
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        if size < 0:
            size = have
        self.buffer = data[size:]
        return data[:size]

    def drain(self) -> None:
        """Read the rest."""
        while self.read(READ_BYTES):
            pass
