"""The analyst's server: answers requests (`wire/analyst.py`) with text files, and keeps the cache.

The server itself never looks into a file.  For each file that the cache does not have it forks a worker, which has
nothing but that file and an empty memfd, limits on time and memory, and a filter with which it can do no more than
write the memfd (`worker.py`). So a hostile file that takes over its worker affects that file's text only, never
another's in the cache. The server checks the worker's header, then copies the memfd into the cache or seals it.
"""

import fcntl
import os
import select
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
from cloche.analyst.writers import CLOSED, OPEN, has_fresh_time, writers
from cloche.platform import hostsys
from cloche.wire.analyst import (
    BY_CONTENTS,
    DONE,
    LASTS,
    MAY_CACHE,
    NO_SITES,
    Request,
    receive_request,
    send_reply,
)
from cloche.wire.frame import ProtocolError
from cloche.wire.textfile import PAGE_BYTES, decode_header, header_pages

__all__ = ["EXIT_PROTOCOL", "Server", "log"]

EXIT_PROTOCOL: Final = 4
_TRIM_EVERY_BYTES: Final = 16 << 20
_COPY_BYTES: Final = 1 << 20
_SEALS: Final = F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE
# Results of a worker that would be the same again for the file; running out of memory is not among them.
_LASTING: Final = (WORKER_NO_SITES, -signal.SIGXCPU)


def log(text: str) -> None:
    """A line on standard error."""
    try:
        os.write(2, f"cloche analyst: {text}\n".encode())
    except OSError:
        pass


class Answer:
    """The result for a file: a descriptor of its text or cache.NO_SITES; LASTS, BY_CONTENTS or 0."""

    def __init__(self, fd: int, flags: int) -> None:
        self.fd: int = fd
        self.flags: int = flags


class Server:
    """Serves sockets, each of one client; `cache_fd` is -1 without a cache, `proc_fd` is /proc/self/fd."""

    def __init__(self, socks: list[socket.socket], cache_fd: int, proc_fd: int, *, is_confined: bool) -> None:
        self._socks: dict[int, socket.socket] = {sock.fileno(): sock for sock in socks}
        self._cache_fd: int = cache_fd
        self._proc_fd: int = proc_fd
        self._is_confined: bool = is_confined
        self._bytes_stored: int = _TRIM_EVERY_BYTES  # since the cache was last trimmed; trim at the first

    def serve(self) -> int:
        """Answer requests until all clients have gone. Returns the exit status."""
        poller = select.poll()
        for number in self._socks:
            poller.register(number, select.POLLIN)
        while self._socks:
            for number, _events in poller.poll():
                sock = self._socks[number]
                try:
                    is_there = self._serve_one(sock)
                except ProtocolError as refusal:
                    log(str(refusal))
                    return EXIT_PROTOCOL
                except (BrokenPipeError, ConnectionResetError):
                    is_there = False
                if not is_there:
                    poller.unregister(number)
                    del self._socks[number]
                    sock.close()
        return 0

    def _serve_one(self, sock: socket.socket) -> bool:
        """Answer one request; False if the client has gone.  Raises ProtocolError, OSError."""
        request = receive_request(sock)
        if request is None:
            return False
        fd = -1
        flags = 0
        try:
            answer = self._answer(request)
            fd = answer.fd
            status = DONE if fd >= 0 else NO_SITES
            flags = answer.flags
        except OSError as error:
            status = -(error.errno or EIO)
        finally:
            os.close(request.fd)
        try:
            send_reply(sock, request.number, status, flags, fd)
        finally:
            if fd >= 0:
                os.close(fd)
        return True

    def _answer(self, request: Request) -> Answer:
        """The text of a file as it is now.  Raises OSError."""
        before = os.fstat(request.fd)
        if not stat.S_ISREG(before.st_mode):
            return Answer(cache.NO_SITES, 0)
        may_cache = self._cache_fd >= 0 and request.flags & MAY_CACHE != 0
        magic = hostsys.fstatfs(request.fd).magic
        now_ns = time.time_ns()
        found = writers(request.fd, before, magic, now_ns)
        if found == OPEN:
            # The file may be written at any moment: the program runs unpatched, by traps.
            return Answer(cache.NO_SITES, 0)
        if found != CLOSED:
            return self._answer_by_contents(request.fd, before, may_cache=may_cache)
        is_settled = cache.is_cacheable(before, now_ns, magic)
        name = cache.cache_name(before) if may_cache and is_settled else ""
        flags = LASTS if is_settled or has_fresh_time(before, now_ns) else 0
        return self._find_or_make(request.fd, name, request.fd, flags)

    def _answer_by_contents(self, fd: int, before: os.stat_result, *, may_cache: bool) -> Answer:
        """The same for a file that may be changing: a private copy is analysed."""
        copy = os.memfd_create("cloche-copy", os.MFD_CLOEXEC)
        try:
            digest = _copy(fd, copy, before.st_size)
            if digest is None:
                return Answer(cache.NO_SITES, 0)
            name = cache.content_name(digest, before.st_size) if may_cache else ""
            return self._find_or_make(copy, name, fd, BY_CONTENTS)
        finally:
            os.close(copy)

    def _find_or_make(self, fd: int, name: str, original: int, flags: int) -> Answer:
        """The text of `fd`, kept as `name` (empty: not kept) unless `original` changes meanwhile."""
        if name:
            found = cache.lookup_name(self._cache_fd, name)
            if found != cache.UNKNOWN:
                return Answer(found, flags)
        before = cache.cache_name(os.fstat(original))
        out = os.memfd_create("cloche-text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            ended = self._run_worker(fd, out)
            if cache.cache_name(os.fstat(original)) != before:
                flags = 0
                if fd == original:
                    name = ""
            return Answer(self._keep(ended, out, name), flags)
        finally:
            os.close(out)

    def _keep(self, ended: int, out: int, name: str) -> int:
        """The text that a worker has written, stored in the cache if possible; or NO_SITES."""
        if ended != WORKER_DONE or not _is_sound(out):
            if name and ended in _LASTING:
                self._store(-1, name)
            return cache.NO_SITES
        if name and self._store(out, name):
            found = cache.lookup_name(self._cache_fd, name)
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
                for other in (*self._socks, self._cache_fd, self._proc_fd):
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

    def _store(self, text: int, name: str) -> bool:
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
            cache.store(self._cache_fd, name, chunks)
            self._bytes_stored += at + 512
        except OSError as error:
            log(f"the cache: {error}")  # full, or made read-only
            return False
        return True


def _copy(fd: int, copy: int, size: int) -> bytes | None:
    """Copy a file's bytes. Returns their digest, or None if the file is too large or was truncated."""
    if size > cache.MAX_CONTENT_BYTES:
        return None
    digest = cache.content_digest()
    at = 0
    while at < size:
        data = os.pread(fd, min(_COPY_BYTES, size - at), at)
        if not data:
            return None
        digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(copy, view) :]
        at += len(data)
    return digest.digest()


def _is_sound(text: int) -> bool:
    """Whether the worker has written a valid text file."""
    try:
        pages = header_pages(os.pread(text, PAGE_BYTES, 0))
        header = decode_header(os.pread(text, pages * PAGE_BYTES, 0))
    except ProtocolError as error:
        log(f"a worker wrote nonsense: {error}")
        return False
    return os.fstat(text).st_size == header.total_pages * PAGE_BYTES
