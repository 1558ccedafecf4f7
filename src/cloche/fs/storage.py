"""The contents of in-memory regular files, and their accounting.

Small files are pieces of Python memory; a file that grows, that has holes, or that is mapped is a memfd,
which holds the host's own sparse pages, can be mapped by guests, and lets data move between guest and file without a
copy in the sentry. Descriptors are scarce, so memfds are limited: files that are not open give theirs up first; if
there are none, a file has to do without (then it cannot be mapped: ENOMEM).

Every growth is charged in pages to an `Account` (`fs.quota`) before anything is changed.
May call the host on memfds only.
"""

import fcntl
import os
from typing import Final

from cloche.abi.errno import EAGAIN, EINVAL, EIO, ENOMEM, ENOSPC, ENXIO, EOPNOTSUPP, LinuxError
from cloche.abi.fcntl import F_ADD_SEALS
from cloche.abi.fs import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    SEEK_DATA,
)
from cloche.abi.limits import MAX_LFS_FILESIZE
from cloche.abi.mman import MFD_ALLOW_SEALING, MFD_EXEC
from cloche.abi.uio import RWF_NOWAIT
from cloche.fs.quota import FREE_STEP, PAGE, Account, Backed, Doomed, FileMaker, LastingFile, page_count
from cloche.kernel.host_wait import HostWait
from cloche.kernel.timers import monotonic_ns
from cloche.mm.content import CONTENT_KEYS, STEADY
from cloche.mm.handle import CLOSED, HostHandle, Memfd, ReadOnly
from cloche.mm.quota import DESCRIPTORS
from cloche.mm.usermem import IovIter, KernelIovIter
from cloche.platform import hostsys
from cloche.platform.interface import SLOW_STORAGE

CHUNK: Final = 65536  # bytes in a piece; the last bytes of a piece may be missing, they are zeros
SMALL_LIMIT: Final = 256 * 1024  # from this size on a memfd is better
STEP: Final = 1024 * 1024  # the most that is copied through Python at once
EAGER_LIMIT: Final = 64 * 1024 * 1024  # the most that fallocate(2) really allocates at once

# times that a read asks the gofer to bring data into memory, before it waits for it on the spot
_MAX_ASKED: Final = 8
MUCH_READ: Final = 1024 * 1024  # bytes read from pieces, after which a memfd pays off

_CHUNK_PAGES: Final = CHUNK // PAGE
_MAX_EXTENTS: Final = 1024
_SHORT_EXTENTS: Final = 128
_SHORT_CHUNKS: Final = 4096
_DEMOTE_PAGES: Final = 4096  # a larger file keeps its memfd


def _new_memfd() -> HostHandle:
    memory = Memfd("cloche", os.MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)
    try:
        memory.reopen()
    except OSError:  # before Linux 6.3
        memory.flags &= ~MFD_EXEC
        memory.reopen()
    return memory


class Storage(Backed):
    """The bytes of one file.  The size is the inode's business: callers pass it where it matters."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account: Account = account
        self.chunks: dict[int, bytearray] = {}
        self.host: HostHandle = CLOSED  # the memfd, once there is one
        self.pages: int = 0  # charged
        self.dense: int = 0  # memfd: all pages below this offset are allocated (a multiple of PAGE)
        self.was_mapped: bool = False  # also by private mappings
        self.is_sealed: bool = False  # seals were set on the memfd itself
        self.read_bytes: int = 0  # from pieces: a file that is read a lot becomes a memfd
        self.view: HostHandle = CLOSED  # the memfd again, open only for reading
        self.key: int = 0  # of the memfd, see HostThread.read_fd_into
        self.users: int = 0  # open file descriptions; a mapping holds one
        # of a numbered file (kept layer), to which `fd` belongs; it is opened when needed
        self.number: int = 0
        self.maker: FileMaker | None = None  # the maker of the numbered file
        self.busy: int = 0  # writes under way that may take long: the descriptor stays open
        self.was_lost: bool = False  # the last write went to a file that was given up meanwhile

    @property
    def fd(self) -> int:
        """The descriptor of the memfd, -1 while there is none."""
        return self.host.fd

    # -- accounting --------------------------------------------------------------------------------------
    def _set_pages(self, pages: int) -> None:
        if pages != self.pages:
            self.account.charge_pages(pages - self.pages)
            self.pages = pages

    def measure(self) -> None:
        """Bring the charge in line with what the memfd holds (after a guest wrote through a mapping)."""
        if self.host.fd >= 0:
            self._set_pages(os.fstat(self.host.fd).st_blocks // 8)

    def free(self) -> None:
        """Drop everything; the file is empty afterwards."""
        self.chunks.clear()
        if self.number:
            self._give_up()
        if self.host.fd >= 0:
            self.measure()
            self.account.quota.backed.pop(self, None)
            if self.pages * PAGE > FREE_STEP and not self.is_sealed:
                self._doom()
            else:
                self._close_memfd()
        self.dense = 0
        self._set_pages(0)

    # -- numbered files of kept layers ---------------------------------------------------------------------------------
    def kept_bytes(self) -> int:
        """About how much memory the pieces take; a file with a hole counts as too much."""
        return (
            len(self.chunks) * CHUNK
            if len(self.chunks) > 1
            else sum([len(each) for each in self.chunks.values()])
        )

    def adopt(self, number: int, maker: FileMaker) -> None:
        """Use a numbered file for the contents."""
        self.number, self.maker = number, maker
        try:
            self.wake()
        except LinuxError:
            self.number, self.maker = 0, None
            raise
        self.measure()
        self.sleep()

    def wake(self) -> None:
        """Open the numbered file, if it is not open. Raises LinuxError."""
        maker = self.maker
        if maker is None or self.host.fd >= 0:
            return
        self.account.quota.make_room()
        host = LastingFile(maker, self.number)
        host.reopen()
        self.host = host
        self.key = CONTENT_KEYS.next() | STEADY
        self.dense = 0
        self.account.quota.backed[self] = None

    def sleep(self) -> bool:
        """Close the descriptor of a numbered file that is not open in the guest."""
        if self.users or self.host.fd < 0:
            return False
        self.measure()
        self._close_fds()
        self.is_mapped = False
        return True

    def _close_fds(self) -> None:
        self.account.quota.backed.pop(self, None)
        self.host.close()
        self.host = CLOSED
        self._close_view()

    def _close_view(self) -> None:
        self.view.close()
        self.view = CLOSED

    def _give_up(self) -> None:
        """Give the numbered file up; it is removed only after the journal says so."""
        maker = self.maker
        if self.host.fd >= 0:
            self._close_fds()
        if maker is not None:
            maker.give_up(self.number)
        self.number = 0
        self.maker = None
        self.was_mapped = False

    def can_start_anew(self) -> bool:
        """Whether an emptied file may get another memfd: this one was never mapped in any way."""
        return not self.was_mapped and not self.is_sealed and not self.busy

    def next_data(self, offset: int, end: int) -> int:
        """The next offset from `offset` on where the memfd has pages; `end` if there is none below that."""
        try:
            return min(max(os.lseek(self.host.fd, offset, os.SEEK_DATA) // PAGE * PAGE, offset), end)
        except OSError:
            return end

    def _doom(self) -> None:
        """Leave a large memfd, and what it is charged for, to the reaper."""
        doomed = Doomed(self.host, self.account, self.pages)
        self.host = CLOSED
        self.pages = 0
        self._close_view()
        self.account.quota.reaper.add(doomed)

    # -- becoming a memfd --------------------------------------------------------------------------------
    def _try_memfd(self, size: int) -> bool:
        if self.number:
            self.wake()
        if self.host.fd >= 0:
            return True
        quota = self.account.quota
        if not quota.make_room():
            return False
        maker = self.account.maker
        try:
            if maker is None:
                host = _new_memfd()
            else:
                self.number, fd = maker.make_file()
                host = LastingFile(maker, self.number)
                host.fd = fd
        except (OSError, LinuxError):
            return False
        self.maker = maker
        if not DESCRIPTORS.has_spare(host.fd):
            self._drop_new(host)
            return False
        try:
            for index, chunk in self.chunks.items():
                _write_all(host.fd, chunk, index * CHUNK)
            os.ftruncate(host.fd, size)  # preallocated pieces may lie beyond the size
        except OSError:
            self._drop_new(host)
            return False
        quota.backed[self] = None
        self.host = host
        self.key = CONTENT_KEYS.next() | STEADY
        self.dense = page_count(min(self._dense_pieces(), size)) * PAGE
        self.chunks.clear()
        self.measure()
        return True

    def _drop_new(self, host: HostHandle) -> None:
        """Drop a new memfd or numbered file, because there is no room for it."""
        host.close()
        if self.number:
            self._give_up()

    def _dense_pieces(self) -> int:
        """The offset of the first hole in the pieces."""
        index = 0
        while True:
            chunk = self.chunks.get(index)
            if chunk is None:
                return index * CHUNK
            if len(chunk) < CHUNK:
                return index * CHUNK + len(chunk)
            index += 1

    def memfd(self, size: int) -> int:
        """The memfd, made if there is none.  Raises LinuxError(ENOMEM) when there are no more of them."""
        if not self._try_memfd(size):
            raise LinuxError(ENOMEM)
        return self.host.fd

    def readonly_memfd(self) -> int:
        """The memfd, as a descriptor that is open only for reading where the host permits that."""
        if self.view.fd < 0:
            view = ReadOnly(self.host)
            try:
                view.reopen()
            except OSError:
                return self.host.fd  # the platform then checks every change of a protection
            if not DESCRIPTORS.has_spare(view.fd):
                view.close()
                raise LinuxError(ENOMEM)
            self.view = view
        return self.view.fd

    def _close_memfd(self) -> None:
        try:
            # Guests may have it mapped beside their slots, or hold descriptors of it, for long
            os.ftruncate(self.host.fd, 0)
        except OSError:
            pass  # sealed
        self.host.close()
        self.host = CLOSED
        self._close_view()

    def seal(self, seals: int) -> int:
        """F_SEAL_WRITE and F_SEAL_FUTURE_WRITE on the memfd.

        -EBUSY while a guest has it mapped for writing.
        """
        try:
            fcntl.fcntl(self.host.fd, F_ADD_SEALS, seals)
        except OSError as error:
            return -(error.errno or EIO)
        self.is_sealed = True
        return 0

    def demote(self) -> bool:
        """Go back from an unused memfd to pieces of memory; False if it must stay."""
        if self.number:
            return self.sleep()
        if self.users or self.is_sealed or self.pages > _DEMOTE_PAGES:
            return False
        chunks: dict[int, bytearray] = {}
        pages = 0
        at = 0
        try:
            while True:
                index = os.lseek(self.host.fd, at, os.SEEK_DATA) // CHUNK
                piece = bytearray(os.pread(self.host.fd, CHUNK, index * CHUNK))
                chunks[index] = piece
                pages += page_count(len(piece))
                at = (index + 1) * CHUNK
        except OSError as error:
            if error.errno != ENXIO:
                return False
        if pages - self.pages > self.account.free_pages():
            return False
        self._close_memfd()
        self.account.quota.backed.pop(self, None)
        self.chunks = chunks
        self.dense = 0
        self.is_mapped = False
        self._set_pages(pages)
        return True

    # -- reading -----------------------------------------------------------------------------------------
    def read_to(self, dst: IovIter, offset: int, length: int, size: int) -> int:
        """Copy out `length` bytes, all below the size; bytes or -errno."""
        if self.number and self.host.fd < 0:
            self.wake()
        if self.host.fd < 0 and length >= PAGE:
            self.read_bytes += length
            if self.read_bytes >= MUCH_READ:
                self.read_bytes = 0
                self._try_memfd(size)
        if self.number:
            return self._read_lasting(dst, offset, length)
        if self.host.fd >= 0:
            # Not where there may be holes: a guest that touches a hole allocates a page.
            return dst.read_fd(
                self.host.fd, offset, length, 0, self.key if offset + length <= self.dense else 0
            )
        done = 0
        while done < length:
            at = offset + done
            within = at % CHUNK
            want = min(length - done, CHUNK - within)
            chunk = self.chunks.get(at // CHUNK)
            have = 0 if chunk is None else len(chunk) - within
            if chunk is None or have <= 0:
                got = dst.zero(want)
            else:
                want = min(want, have)
                got = dst.copy_to(bytes(chunk[within : within + want]))
            done += got
            if got < want:
                break
        return done

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, all below the size."""
        if self.number and self.host.fd < 0:
            self.wake()
        if self.number:
            sink = KernelIovIter(capacity=length)
            got = self._read_lasting(sink, offset, length)
            if got < 0:
                raise OSError(-got, "")
            return bytes(sink.sink)
        if self.host.fd >= 0:
            return os.pread(self.host.fd, length, offset)
        parts: list[bytes] = []
        done = 0
        while done < length:
            at = offset + done
            within = at % CHUNK
            want = min(length - done, CHUNK - within)
            chunk = self.chunks.get(at // CHUNK)
            piece = b"" if chunk is None else bytes(chunk[within : within + want])
            if len(piece) < want:
                piece += bytes(want - len(piece))
            parts.append(piece)
            done += want
        return b"".join(parts)

    def _read_lasting(self, dst: IovIter, offset: int, length: int) -> int:
        """Read what the host has in memory, and the rest once it was brought there. Raises HostWait."""
        maker = self.maker
        done = asked = 0
        while done < length:
            at = offset + done
            key = self.key if offset + length <= self.dense else 0
            count = dst.read_fd(self.host.fd, at, length - done, RWF_NOWAIT, key)
            if count == -EAGAIN and asked < _MAX_ASKED and maker is not None:
                asked += 1
                try:
                    if maker.bring(self.number, self.host.fd, at, length - done):
                        continue
                except HostWait:
                    dst.revert(done)
                    raise
            # the data does not stay in memory, or the file system cannot tell
            if count in (-EAGAIN, -EOPNOTSUPP):
                count = dst.read_fd(self.host.fd, at, length - done, 0, key)
            if count <= 0:
                return done if done else count
            done += count
        return done

    # -- writing -----------------------------------------------------------------------------------------
    def prove(self) -> None:
        """Before a change: check that the disk of a numbered file answers. Raises HostWait."""
        maker = self.maker
        if maker is not None:
            maker.prove()

    def _write_lasting(self, src: IovIter, offset: int, length: int) -> int:
        """Write to a numbered file; other tasks may run if that takes long."""
        host, maker = self.host, self.maker
        start_ns = monotonic_ns()
        self.busy += 1
        try:
            count = src.write_fd(host.fd, offset, length, SLOW_STORAGE)
        finally:
            self.busy -= 1
        if maker is not None:
            maker.changed_since(start_ns)
        if self.host is not host:
            self.was_lost = True
        elif count > 0:
            self._wrote(offset, count)
        return count

    def _fresh_pages(self, offset: int, length: int) -> int:
        """An upper bound, exact for pieces, of the pages that a write would add."""
        end = offset + length
        if self.host.fd >= 0:
            first = max(offset // PAGE, self.dense // PAGE)
            fresh = page_count(end) - first
            if fresh > self.account.free_pages():
                fresh -= self._allocated(first * PAGE, end)
            return max(fresh, 0)
        if length <= 0:
            return 0
        first, last = offset // CHUNK, (end - 1) // CHUNK
        rest = page_count(end - last * CHUNK)
        fresh = (last - first) * _CHUNK_PAGES + rest
        for index in self._indices(first, last):
            fresh -= min(page_count(len(self.chunks[index])), rest if index == last else _CHUNK_PAGES)
        return fresh

    def _indices(self, first: int, last: int) -> list[int]:
        """The indices of existing pieces from `first` to `last`: a range may be far longer than the file."""
        chunks = self.chunks
        if last - first < len(chunks):
            return [index for index in range(first, last + 1) if index in chunks]
        return sorted([index for index in chunks if first <= index <= last])

    def _allocated(self, start: int, end: int) -> int:
        """Pages of the memfd between two offsets that exist already."""
        return self._extents(start, end, _MAX_EXTENTS)[0]  # extents that were not looked at count as new

    def _extents(self, start: int, end: int, looks: int) -> tuple[int, int]:
        """Pages of the memfd from `start` on, in at most `looks` extents; and the offset at which the count has
        stopped.
        """
        count = 0
        at = start
        try:
            while at < end and looks > 0:
                looks -= 1
                data = os.lseek(self.host.fd, at, os.SEEK_DATA)
                if data >= end:
                    return count, end
                hole = min(os.lseek(self.host.fd, data, os.SEEK_HOLE), end)
                count += page_count(hole) - data // PAGE
                at = hole
        except OSError:  # ENXIO: that was all
            return count, end
        return count, at

    def cached(self, start: int, end: int) -> tuple[int, int]:
        """For cachestat(2): pages in memory between two multiples of PAGE, counted for a short time; and where to go
        on, `end` if that was all.

        For a numbered file none, because its pages are in the host's cache.
        """
        if self.number:
            return 0, end
        if start == 0 and end >= MAX_LFS_FILESIZE:
            self.measure()
            return self.pages, end
        if self.host.fd >= 0:
            upto = min(self.dense, end)
            if start < upto:
                return (upto - start) // PAGE, upto
            return self._extents(start, end, _SHORT_EXTENTS)
        count = 0
        upto = end if len(self.chunks) <= _SHORT_CHUNKS else min(end, start + _SHORT_CHUNKS * CHUNK)
        for index in self._indices(start // CHUNK, (upto - 1) // CHUNK):
            first = max(start - index * CHUNK, 0) // PAGE
            last = min(page_count(upto - index * CHUNK), page_count(len(self.chunks[index])))
            count += max(last - first, 0)
        return count, upto

    def _affordable(self, offset: int, length: int) -> int:
        """How much of a write at `offset` the account can pay for; 0 if nothing."""
        account = self.account
        if not account.is_limited():
            return length
        fresh = self._fresh_pages(offset, length)
        free = account.free_pages()
        if fresh <= free:
            return length
        # `free` new pages from the start can be paid for in any case; more, if some exist already: try page by page.
        upto = (offset // PAGE + free) * PAGE - offset
        step = max(min(upto, length), 0)
        while step < length:
            more = min(length, step + PAGE - (offset + step) % PAGE)
            if self._fresh_pages(offset, more) > free:
                break
            step = more
        return step

    def _wrote(self, offset: int, count: int) -> None:
        """Charge what a write to the memfd has added."""
        end = offset + count
        if end <= self.dense:
            return
        if offset <= self.dense and self.dense == self.pages * PAGE:  # it only grew at its end
            self.dense = page_count(end) * PAGE
            self._set_pages(self.dense // PAGE)
        else:
            self.measure()

    def _store(self, offset: int, data: bytes) -> None:
        """Put bytes into pieces and charge for them."""
        done = 0
        total = len(data)
        added = 0
        while done < total:
            at = offset + done
            within = at % CHUNK
            count = min(total - done, CHUNK - within)
            index = at // CHUNK
            chunk = self.chunks.get(index)
            if chunk is None:
                chunk = bytearray()
                self.chunks[index] = chunk
            before = page_count(len(chunk))
            if within > len(chunk):
                chunk.extend(bytes(within - len(chunk)))
            chunk[within : within + count] = data if count == total else data[done : done + count]
            added += page_count(len(chunk)) - before
            done += count
        if added:
            self._set_pages(self.pages + added)

    def _wants_memfd(self, offset: int, end: int) -> bool:
        """Whether a write makes the file large, or leaves a hole of a page or more."""
        if end > SMALL_LIMIT:
            return True
        index = offset // CHUNK
        chunk = self.chunks.get(index)
        have = index * CHUNK + (0 if chunk is None else page_count(len(chunk)) * PAGE)
        if chunk is None and index > 0:
            before = self.chunks.get(index - 1)
            if before is None or page_count(len(before)) * PAGE < CHUNK:
                return True
        return offset - have >= PAGE

    def write_from(self, src: IovIter, offset: int, length: int, size: int) -> int:
        """Take up to `length` bytes from `src`; bytes or -errno (-ENOSPC), LinuxError(EFAULT)."""
        if self.number:
            self.prove()
            if self.host.fd < 0:
                self.wake()
        if self.host.fd < 0 and self._wants_memfd(offset, offset + length):
            self._try_memfd(size)
        length = self._affordable(offset, length)
        if length == 0:
            return -ENOSPC
        if self.number:
            return self._write_lasting(src, offset, length)
        if self.host.fd >= 0:
            count = src.write_fd(self.host.fd, offset, length)
            if count > 0:
                self._wrote(offset, count)
            return count
        done = 0
        while done < length:
            want = min(length - done, STEP)
            data = src.copy_from(want)
            self._store(offset + done, data)
            done += len(data)
            if len(data) < want:
                break
        return done

    def write(self, offset: int, data: bytes, size: int) -> int:
        """Kernel-internal write; bytes or -ENOSPC."""
        end = offset + len(data)
        if self.number and self.host.fd < 0:
            self.wake()
        if self.host.fd < 0 and self._wants_memfd(offset, end):
            self._try_memfd(size)
        if self._affordable(offset, len(data)) < len(data):
            return -ENOSPC
        if self.host.fd >= 0:
            try:
                _write_all(self.host.fd, data, offset)
            except OSError as error:
                return -(error.errno or EIO)
            self._wrote(offset, len(data))
        else:
            self._store(offset, data)
        return len(data)

    # -- size --------------------------------------------------------------------------------------------
    def resize(self, old: int, new: int) -> None:
        """The file has `new` bytes; bytes beyond are dropped, added ones read as zeros.

        Raises LinuxError.
        """
        if self.number:
            self.prove()
            if self.host.fd < 0:
                self.wake()
        if self.host.fd >= 0:
            if new == 0 and self.pages * PAGE > FREE_STEP and self.can_start_anew():
                self.free()  # the next write gets another memfd
                return
            try:
                os.ftruncate(self.host.fd, new)
            except OSError as error:
                raise LinuxError(error.errno or EIO)
            self.dense = min(self.dense, page_count(new) * PAGE)
            if new < old:
                self.measure()
            return
        if new >= old:
            return
        removed = 0
        last = new // CHUNK
        for index in [each for each in self.chunks if each >= last]:
            chunk = self.chunks[index]
            before = page_count(len(chunk))
            keep = new - index * CHUNK
            if keep <= 0:
                del self.chunks[index]
                removed += before
            elif keep < len(chunk):
                del chunk[keep:]
                removed += before - page_count(keep)
        if removed:
            self._set_pages(self.pages - removed)

    # -- holes -------------------------------------------------------------------------------------------
    def seek(self, offset: int, size: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE for 0 <= offset < size; the offset or -ENXIO."""
        if self.number and self.host.fd < 0:
            self.wake()
        if self.host.fd >= 0:
            try:
                return os.lseek(self.host.fd, offset, os.SEEK_DATA if whence == SEEK_DATA else os.SEEK_HOLE)
            except OSError as error:
                return -(error.errno or ENXIO)
        at = offset
        for index in sorted(self.chunks):
            start = index * CHUNK
            end = start + page_count(len(self.chunks[index])) * PAGE
            if end <= at or start == end:
                continue
            if whence == SEEK_DATA:
                return max(start, at) if max(start, at) < size else -ENXIO
            if start > at:
                break
            at = end
        if whence == SEEK_DATA:
            return -ENXIO
        return min(at, size)

    def allocate(self, mode: int, offset: int, length: int, size: int) -> int:
        """fallocate(2): preallocation, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; 0 or -errno.  The size stays."""
        end = offset + length
        if self.number:
            self.prove()
            if self.host.fd < 0:
                self.wake()
        if mode & FALLOC_FL_PUNCH_HOLE:
            return self._punch(offset, length, size)
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE):
            return -EOPNOTSUPP
        if self._fresh_pages(offset, length) > self.account.free_pages():
            return -ENOSPC
        if mode & FALLOC_FL_ZERO_RANGE:
            result = self._punch(offset, length, size)
            if result < 0:
                return result
        if self.host.fd < 0 and end <= CHUNK:
            chunk = self.chunks.get(0)
            have = 0 if chunk is None else len(chunk)
            if have < end and have >= offset:
                self._store(have, bytes(end - have))
                return 0
            if have >= end:
                return 0
        if not self._try_memfd(size):
            return -ENOSPC
        if length <= EAGER_LIMIT:
            try:
                hostsys.fallocate(self.host.fd, FALLOC_FL_KEEP_SIZE, offset, length)
            except OSError as error:
                return -(error.errno or EINVAL)
            self.measure()
        return 0

    def _punch(self, offset: int, length: int, size: int) -> int:
        end = min(offset + length, size)
        if offset >= end:
            return 0
        if self.host.fd < 0 and end <= CHUNK:
            chunk = self.chunks.get(0)
            if chunk is None:
                return 0
            have = len(chunk)
            if end >= have > offset:  # at the end of the piece: shorten it
                self._set_pages(self.pages - page_count(have) + page_count(offset))
                del chunk[offset:]
                return 0
            if have <= offset:
                return 0
        if not self._try_memfd(size):
            for index in self._indices(offset // CHUNK, (end - 1) // CHUNK):
                piece = self.chunks[index]  # without a memfd the bytes are zeroed and stay allocated
                begin = max(offset - index * CHUNK, 0)
                upto = min(end - index * CHUNK, len(piece))
                if begin < upto:
                    piece[begin:upto] = bytes(upto - begin)
            return 0
        try:
            hostsys.fallocate(self.host.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, end - offset)
        except OSError as error:
            return -(error.errno or EINVAL)
        self.dense = min(self.dense, offset // PAGE * PAGE)
        self.measure()
        return 0


def _write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
