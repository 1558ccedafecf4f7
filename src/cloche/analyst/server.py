"""The analyst's server: answers requests (`wire/analyst.py`) with text files, and keeps the cache.

The server itself never looks into a file.  For each file that the cache does not have it forks a worker, which has
nothing but that file and an empty memfd, limits on time and memory, and a filter that leaves it no way to do more
than write the memfd (`worker.py`).  So what a hostile file makes of its worker concerns that file's text only, never
another's in the cache.  The server checks the worker's header, then copies the memfd into the cache or seals it.
"""

import fcntl
import os
import signal
import socket
import stat
import time
import traceback
from typing import Final

from cloche.abi.errno import EIO
from cloche.abi.fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE
from cloche.analyst import cache
from cloche.analyst.worker import WORKER_DONE, WORKER_FAILED, WORKER_NO_SITES, limit_worker, work
from cloche.platform import hostsys
from cloche.wire.analyst import DONE, MAY_CACHE, NO_SITES, Request, receive_request, send_reply
from cloche.wire.frame import ProtocolError
from cloche.wire.textfile import PAGE_BYTES, decode_header, header_pages

__all__ = ["EXIT_PROTOCOL", "Server", "log"]

EXIT_PROTOCOL: Final = 4
_TRIM_EVERY_BYTES: Final = 16 << 20
_COPY_BYTES: Final = 1 << 20
_SEALS: Final = F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE
# Ends of a worker that the same file would meet again; the machine's want of memory is none.
_LASTING: Final = (WORKER_NO_SITES, -signal.SIGXCPU)


def log(text: str) -> None:
    """A line on standard error."""
    try:
        os.write(2, f"cloche analyst: {text}\n".encode())
    except OSError:
        pass


class Server:
    """Serves one socket; `cache_fd` is -1 without a cache, `proc_fd` this process's /proc/self/fd."""

    def __init__(self, sock: socket.socket, cache_fd: int, proc_fd: int, *, is_confined: bool) -> None:
        self._sock: socket.socket = sock
        self._cache_fd: int = cache_fd
        self._proc_fd: int = proc_fd
        self._is_confined: bool = is_confined
        self._bytes_stored: int = _TRIM_EVERY_BYTES  # since the cache was last trimmed; trim at the first

    def serve(self) -> int:
        """Answer requests until the other side goes.  The exit status."""
        while True:
            try:
                request = receive_request(self._sock)
            except ProtocolError as refusal:
                log(str(refusal))
                return EXIT_PROTOCOL
            except ConnectionResetError:
                request = None
            if request is None:
                return 0
            fd = -1
            try:
                fd = self._answer(request)
                status = DONE if fd >= 0 else NO_SITES
            except OSError as error:
                status = -(error.errno or EIO)
            finally:
                os.close(request.fd)
            try:
                send_reply(self._sock, request.number, status, fd)
            except (BrokenPipeError, ConnectionResetError):
                return 0
            finally:
                if fd >= 0:
                    os.close(fd)

    def _answer(self, request: Request) -> int:
        """A descriptor of the text, or NO_SITES of the cache.  Raises OSError."""
        before = os.fstat(request.fd)
        if not stat.S_ISREG(before.st_mode):
            return cache.NO_SITES
        magic = hostsys.fstatfs(request.fd).magic
        may_cache = (
            self._cache_fd >= 0
            and request.flags & MAY_CACHE != 0
            and cache.is_cacheable(before, time.time_ns(), magic)
        )
        if may_cache:
            found = cache.lookup(self._cache_fd, before)
            if found != cache.UNKNOWN:
                return found
        out = os.memfd_create("cloche-text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            return self._make(request.fd, out, before, may_cache=may_cache)
        finally:
            os.close(out)

    def _make(self, fd: int, out: int, before: os.stat_result, *, may_cache: bool) -> int:
        ended = self._run_worker(fd, out)
        if cache.cache_name(os.fstat(fd)) != cache.cache_name(before):
            may_cache = False
        if ended != WORKER_DONE or not _is_sound(out):
            if may_cache and ended in _LASTING:
                self._store(-1, before)
            return cache.NO_SITES
        if may_cache and self._store(out, before):
            found = cache.lookup(self._cache_fd, before)
            if found >= 0:
                return found
        fcntl.fcntl(out, F_ADD_SEALS, _SEALS)
        return os.open(str(out), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)

    def _run_worker(self, fd: int, out: int) -> int:
        """How the worker ended: its exit status, or the number of a signal, negative."""
        pid = os.fork()
        if pid == 0:
            status = WORKER_FAILED
            try:
                for other in (self._sock.fileno(), self._cache_fd, self._proc_fd):
                    if other >= 0:
                        os.close(other)
                limit_worker(is_confined=self._is_confined)
                status = work(fd, out)
            except MemoryError:
                log("a file needs too much memory")
            except BaseException:
                log(traceback.format_exc())
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _store(self, text: int, status: os.stat_result) -> bool:
        """Put a text (-1: none) into the cache; False if that fails."""
        try:
            if self._bytes_stored >= _TRIM_EVERY_BYTES:
                self._bytes_stored = 0
                cache.trim(self._cache_fd, time.time_ns())
            chunks: list[bytes] = []
            at = 0
            while text >= 0:
                data = os.pread(text, _COPY_BYTES, at)
                if not data:
                    break
                chunks.append(data)
                at += len(data)
            cache.store(self._cache_fd, status, chunks)
            self._bytes_stored += at + 512
        except OSError as error:
            log(f"the cache: {error}")  # full, or made read-only
            return False
        return True


def _is_sound(text: int) -> bool:
    """Whether a worker wrote a whole text file."""
    try:
        pages = header_pages(os.pread(text, PAGE_BYTES, 0))
        header = decode_header(os.pread(text, pages * PAGE_BYTES, 0))
    except ProtocolError as error:
        log(f"a worker wrote nonsense: {error}")
        return False
    return os.fstat(text).st_size == header.total_pages * PAGE_BYTES
