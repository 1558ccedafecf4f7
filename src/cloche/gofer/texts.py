"""Patched program text for the sentry: from the analyst's cache, or from the analyst itself.

Owns the descriptor of the cache's directory and the socket to the analyst, whose process the launcher starts when the
first request comes (so that a sandbox whose programs are all known needs none).  A failure means "no patched text":
the program runs all the same. No request waits for the analyst longer than it says, because while it waits the
sentry, and so every guest, may wait, too. An answer that comes later is kept for the next request.
"""

import os
import select
import socket
import stat
import time
from typing import Final

from cloche.abi.errno import EAGAIN, LinuxError
from cloche.analyst.cache import NO_SITES, UNKNOWN, lookup, lookup_contents
from cloche.analyst.writers import OPEN, writers
from cloche.platform import hostsys
from cloche.wire.analyst import DONE, MAY_CACHE, receive_reply, send_request
from cloche.wire.frame import ProtocolError
from cloche.wire.gofer import TEXT_COMES, TEXT_NONE, TEXT_UNKNOWN
from cloche.wire.textfile import MIN_ELF_BYTES

MAX_PATIENCE_MS: Final = 2000
_MAX_ASKED: Final = 16  # requests that are not answered yet; the socket holds more
_MAX_KEPT: Final = 16  # answers that were not asked for again yet

Key = tuple[int, int, int, int, int]
Known = tuple[int, bool, bool]  # a descriptor or -1, whether that lasts, whether it is of contents


class Texts:
    """Finds patched text; `sock` is a SOCK_SEQPACKET to the analyst, None for none."""

    def __init__(self, cache_fd: int, sock: socket.socket | None) -> None:
        self._cache_fd: int = cache_fd
        self._sock: socket.socket | None = sock
        self._number: int = 0
        self._asked: dict[int, Key] = {}  # requests that are not answered, in their order
        self._kept: dict[Key, Known] = {}  # answers

    def known(self, name: bytes, st: os.stat_result) -> tuple[int, int]:
        """What is known at once of the text of a file with this status: TEXT_*, and its descriptor or -1.

        For what is executable or named as libraries are. The file itself is not read, because its storage may be slow.
        """
        if st.st_size < MIN_ELF_BYTES or not (st.st_mode & 0o111 or b".so" in name):
            return TEXT_UNKNOWN, -1
        found = lookup(self._cache_fd, st)
        if found >= 0:
            return TEXT_COMES, found
        return (TEXT_NONE if found == NO_SITES else TEXT_UNKNOWN), -1

    def find(self, fd: int, st: os.stat_result, patience_ms: int, *, is_writable: bool) -> tuple[int, bool]:
        """A descriptor of the text of the file `fd` with the status `st`; -1: there is none.

        And whether the answer stays valid, for this sandbox, as long as the file's size and times stay the same.
        Where it cannot be found out which processes write to the file, it does unless the sandbox itself may write
        (`is_writable`). Raises LinuxError(EAGAIN) if that is not known yet.
        """
        if not stat.S_ISREG(st.st_mode):
            return -1, True
        if st.st_size < MIN_ELF_BYTES or os.pread(fd, 4, 0) != b"\x7fELF":
            return -1, False
        found = lookup(self._cache_fd, st)
        if found != UNKNOWN:
            return max(found, -1), True
        found = lookup_contents(self._cache_fd, fd, st)
        if found != UNKNOWN:
            lasts = not is_writable and writers(fd, st, hostsys.fstatfs(fd).magic, time.time_ns()) != OPEN
            return max(found, -1), lasts
        key = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        try:
            text, lasts, is_by_contents = self._ask(fd, key, min(patience_ms, MAX_PATIENCE_MS))
            return text, lasts or (is_by_contents and not is_writable)
        except (OSError, ProtocolError):
            self._end()  # it has gone, or its answers are out of order
            return -1, True

    def _ask(self, fd: int, key: Key, patience_ms: int) -> Known:
        """Raises LinuxError(EAGAIN), OSError, ProtocolError."""
        if self._sock is None:
            return -1, True, False
        self._take(0)
        self._drop_passing()
        if key not in self._kept and key not in self._asked.values():
            if len(self._asked) >= _MAX_ASKED:
                raise LinuxError(EAGAIN)
            is_idle = not self._asked
            self._number = (self._number + 1) & 0xFFFFFFFF
            send_request(self._sock, self._number, MAY_CACHE, fd)
            self._asked[self._number] = key
            if is_idle:  # otherwise requests wait before it, perhaps for long
                self._await(key, patience_ms)
        if key not in self._kept:
            raise LinuxError(EAGAIN)
        return self._kept.pop(key)

    def _await(self, key: Key, patience_ms: int) -> None:
        end_s = time.monotonic() + patience_ms / 1000
        while key not in self._kept:
            left_ms = int((end_s - time.monotonic()) * 1000)
            if left_ms <= 0 or not self._take(left_ms):
                return

    def _take(self, wait_ms: int) -> bool:
        """Take the answers that are there, waiting for the first. Returns whether one came. Raises OSError,
        ProtocolError.
        """
        sock = self._sock
        assert sock is not None
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        has_any = False
        while self._asked and poller.poll(wait_ms):
            wait_ms = 0
            has_any = True
            reply = receive_reply(sock)
            number = next(iter(self._asked))
            if reply is None or reply.number != number:
                if reply is not None and reply.fd >= 0:
                    os.close(reply.fd)
                raise ProtocolError("an answer to no question")
            key = self._asked.pop(number)
            text = reply.fd if reply.status == DONE else -1
            self._kept[key] = text, reply.lasts, reply.is_by_contents
            if len(self._kept) > _MAX_KEPT:
                self._drop(next(iter(self._kept)))
        return has_any

    def _drop(self, key: Key) -> None:
        fd = self._kept.pop(key)[0]
        if fd >= 0:
            os.close(fd)

    def _drop_passing(self) -> None:
        """Drop answers that were valid only at the time (the cache knows them by the file's contents)."""
        for key in [key for key, known in self._kept.items() if not known[1]]:
            self._drop(key)

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        for key in list(self._kept):
            self._drop(key)
        self._asked.clear()
