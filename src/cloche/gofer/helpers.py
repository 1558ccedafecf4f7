"""Threads for operations that take long, beside the gofer's loop: reads of data that is not in memory, writes, fsync,
sync.

There is one for reads and, if anything may be written, one for writes and one for the others, so that a file that is
being synced keeps no other request waiting. They are started before the seccomp filter, which applies to all threads
and does not allow making one. Of the server they use only the channel, and the descriptors that they are given. They
close these, those of writes only when they are told to.
"""

import os
from _queue import SimpleQueue
from _thread import LockType, allocate_lock, start_new_thread
from typing import Final

from cloche.abi.errno import EIO, ENOMEM
from cloche.gofer.files import pack_stat
from cloche.platform import hostsys
from cloche.wire.frame import FrameChannel
from cloche.wire.gofer import MAX_WRITES, pack_u32, pack_u64

READ: Final = 1
READ_AHEAD: Final = 2
FSYNC: Final = 3
FDATASYNC: Final = 4
SYNCFS: Final = 5
WRITE: Final = 6
APPEND: Final = 7
ALLOCATE: Final = 8
CLOSE: Final = 9
SEEK: Final = 10


_BORROWED: Final = (WRITE, APPEND, ALLOCATE)  # their descriptors are closed by a later CLOSE job
_MANY: Final = 4 * MAX_WRITES


class Job:
    """One request."""

    def __init__(
        self,
        ident: int,
        kind: int,
        fd: int,
        offset: int = 0,
        length: int = 0,
        mode: int = 0,
        data: bytes = b"",
    ) -> None:
        self.ident: int = ident
        self.kind: int = kind
        self.fd: int = fd
        self.offset: int = offset
        self.length: int = length
        self.mode: int = mode  # of ALLOCATE; whence of SEEK
        self.data: bytes = data  # of WRITE and APPEND


class Helper:
    """A thread that does one job after the other and answers them."""

    def __init__(self, channel: FrameChannel) -> None:
        self._channel: FrameChannel = channel
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        begun = allocate_lock()
        begun.acquire()
        start_new_thread(self._run, (begun,))
        begun.acquire()  # wait until it runs

    def is_busy(self) -> bool:
        """Whether the queue is full."""
        return self._jobs.qsize() >= _MANY

    def give(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def _run(self, begun: LockType) -> None:
        begun.release()
        while True:
            job = self._jobs.get()
            code, body = 0, b""
            try:
                body = _do(job)
            except OSError as error:
                code = -(error.errno or EIO)
            except MemoryError:
                code = -ENOMEM
            finally:
                if job.kind not in _BORROWED:
                    os.close(job.fd)
            if job.kind == CLOSE:
                continue
            try:
                self._channel.reply(job.ident, code, body)
            except OSError:
                return  # the sentry has gone, and the gofer will end


def _do(job: Job) -> bytes:
    """Raises OSError."""
    if job.kind == READ or job.kind == READ_AHEAD:
        data = os.pread(job.fd, job.length, job.offset)
        return data if job.kind == READ else b""
    if job.kind == SEEK:
        return pack_u64(os.lseek(job.fd, job.offset, job.mode))
    if job.kind == FSYNC:
        os.fsync(job.fd)
    elif job.kind == FDATASYNC:
        os.fdatasync(job.fd)
    elif job.kind == SYNCFS:
        hostsys.syncfs(job.fd)
    elif job.kind == WRITE or job.kind == APPEND:
        count = os.pwritev(job.fd, [job.data], job.offset, os.RWF_APPEND if job.kind == APPEND else 0)
        return pack_u32(count) + pack_stat(os.fstat(job.fd))
    elif job.kind == ALLOCATE:
        hostsys.fallocate(job.fd, job.mode, job.offset, job.length)
        return pack_stat(os.fstat(job.fd))
    return b""
