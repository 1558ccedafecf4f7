"""Patched program text for the sentry: from the analyst's cache, or from the analyst itself.

Owns the descriptor of the cache's directory and the socket to the analyst, whose process the launcher starts when the
first request comes (so that a sandbox whose programs are all known needs none).  A failure means "no patched text":
the program runs all the same.
"""

import os
import select
import socket
import stat
from typing import Final

from cloche.analyst.cache import UNKNOWN, is_roots_own, lookup, lookup_contents
from cloche.wire.analyst import DONE, MAY_CACHE, receive_reply, send_request
from cloche.wire.frame import ProtocolError

_MIN_ELF_BYTES: Final = 4096  # nothing smaller is worth it
_PATIENCE_MS: Final = 20_000


class Texts:
    """Finds patched text; `sock` is a SOCK_SEQPACKET to the analyst, None for none."""

    def __init__(self, cache_fd: int, sock: socket.socket | None) -> None:
        self._cache_fd: int = cache_fd
        self._sock: socket.socket | None = sock
        self._number: int = 0

    def find(self, fd: int, st: os.stat_result) -> tuple[int, bool]:
        """A descriptor of the text of the file `fd` with the status `st`; -1: there is none.

        And whether that holds for as long as the file's size and times stay as they are.
        """
        if not stat.S_ISREG(st.st_mode):
            return -1, True
        if st.st_size < _MIN_ELF_BYTES or os.pread(fd, 4, 0) != b"\x7fELF":
            return -1, False
        found = lookup(self._cache_fd, st)
        if found != UNKNOWN:
            return max(found, -1), True
        found = lookup_contents(self._cache_fd, fd, st)
        if found != UNKNOWN:
            return max(found, -1), is_roots_own(st)
        return self._ask(fd)

    def _ask(self, fd: int) -> tuple[int, bool]:
        sock = self._sock
        if sock is None:
            return -1, True
        self._number += 1
        try:
            send_request(sock, self._number, MAY_CACHE, fd)
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            if poller.poll(_PATIENCE_MS):
                reply = receive_reply(sock)
                if reply is not None and reply.number == self._number:
                    return (reply.fd if reply.status == DONE else -1), reply.lasts
                if reply is not None and reply.fd >= 0:
                    os.close(reply.fd)
        except (OSError, ProtocolError):
            pass
        sock.close()
        self._sock = None  # it has gone, or its answers are out of order
        return -1, True
