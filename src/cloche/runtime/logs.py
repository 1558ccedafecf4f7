"""The output of detached sandboxes: two files of bounded size, the older one is dropped when the newer one is full.

A file is a row of entries: a header (time in ns since the epoch, stream 1 or 2, length) and the bytes as they came.
Readers need no lock: an entry that is not complete yet is read again later.
"""

import os
import stat
import time
from collections.abc import Iterator
from struct import Struct
from typing import Final

LEAST_BYTES: Final = 64 << 10
_HEAD: Final = Struct("<QII")
_ENTRY_BYTES: Final = 65536
_READ_BYTES: Final = 1 << 20
_STDERR: Final = 2


class LogWriter:
    """Appends entries. When the disk is full output is dropped; the next entry that fits says how much."""

    def __init__(self, directory: int, limit_bytes: int) -> None:
        self.directory: int = directory  # a descriptor, the caller's
        self.limit: int = max(limit_bytes, LEAST_BYTES) // 2
        self.size: int = 0
        self.dropped_bytes: int = 0
        self.fd: int = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open("log", flags, 0o600, dir_fd=self.directory)

    def append(self, stream: int, data: bytes) -> None:
        """Append one entry, or several if there is much data."""
        if self.dropped_bytes:
            lost, self.dropped_bytes = self.dropped_bytes, 0
            self._append(
                _STDERR, f"cloche: {lost} bytes of output are missing here: no room for the log\n".encode()
            )
            self.dropped_bytes = lost if self.dropped_bytes else 0
        self._append(stream, data)

    def _append(self, stream: int, data: bytes) -> None:
        for start in range(0, len(data), _ENTRY_BYTES):
            piece = data[start : start + _ENTRY_BYTES]
            entry = _HEAD.pack(time.time_ns(), stream, len(piece)) + piece
            try:
                if self.size + len(entry) > self.limit and self.size:
                    self._rotate()
                if os.write(self.fd, entry) < len(entry):
                    os.ftruncate(self.fd, self.size)
                    raise OSError
                self.size += len(entry)
            except OSError:
                self.dropped_bytes += len(piece)

    def _rotate(self) -> None:
        os.close(self.fd)
        os.rename("log", "log.1", src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.size = 0
        self.fd = self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class LogReader:
    """Reads from the oldest entry on; `read` may be called again for entries that were added since."""

    def __init__(self, directory: int) -> None:
        self.directory: int = directory  # a descriptor, the caller's
        self._fd: int = -1
        self._buffer: bytes = b""
        self._last: int = -1  # inode of the file that was read to its end; older ones are gone

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """(time in ns, stream, bytes) of every complete entry."""
        while True:
            if self._fd < 0 and not self._next_file():
                return
            data = os.read(self._fd, _READ_BYTES)
            if data:
                yield from self._entries(data)
            elif not self._is_rotated():
                return
            else:
                yield from self._entries(os.read(self._fd, _READ_BYTES))  # written between the two looks
                self._last = os.fstat(self._fd).st_ino
                os.close(self._fd)
                self._fd = -1
                self._buffer = b""

    def _entries(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        buffer = self._buffer + data
        at = 0
        while len(buffer) - at >= _HEAD.size:
            when, stream, length = _HEAD.unpack_from(buffer, at)
            if length > _ENTRY_BYTES or len(buffer) - at - _HEAD.size < length:
                break
            at += _HEAD.size
            yield when, stream, buffer[at : at + length]
            at += length
        self._buffer = buffer[at:]

    def _next_file(self) -> bool:
        for name in ("log.1", "log"):
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                fd = os.open(name, flags, dir_fd=self.directory)
            except OSError:
                continue
            found = os.fstat(fd)
            if found.st_ino == self._last or not stat.S_ISREG(found.st_mode):
                os.close(fd)
                continue
            self._fd = fd
            return True
        return False

    def _is_rotated(self) -> bool:
        """Whether the log has moved on to another file than the open one."""
        try:
            now = os.stat("log", dir_fd=self.directory, follow_symlinks=False)
            return now.st_ino != os.fstat(self._fd).st_ino
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
