"""Open regular files of the host that the gofer serves."""

import os
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EDQUOT,
    EFAULT,
    EFBIG,
    EIO,
    ENXIO,
    EOPNOTSUPP,
    LinuxError,
)
from cloche.abi.fcntl import O_APPEND
from cloche.abi.fs import FALLOC_FL_PUNCH_HOLE
from cloche.abi.mman import MAP_SHARED, PROT_WRITE
from cloche.abi.uio import RWF_APPEND, RWF_NOWAIT
from cloche.fs.gofer_inode import GoferInode, fill_holes
from cloche.fs.volume_quota import VolumeQuota
from cloche.kernel.host_wait import HostWait
from cloche.kernel.timers import monotonic_ns
from cloche.mm.text import PatchedText
from cloche.mm.usermem import IovIter
from cloche.platform import hostsys
from cloche.platform.interface import SLOW_STORAGE
from cloche.vfs.attr import remove_privs
from cloche.vfs.objects import Context, FileDescription, Path
from cloche.wire.gofer import MAX_READ_BYTES, MAX_WRITE_BYTES

# times that a read asks the gofer to bring data into memory, before it waits for it on the spot
_MAX_ASKED: Final = 8


class GoferFile(FileDescription):
    """An open regular file."""

    def __init__(self, path: Path, node: GoferInode, flags: int) -> None:
        super().__init__(path, node, flags)
        self._node: GoferInode = node
        node.add_user()

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        node = self._node
        fd = node.fd_to_read()
        if flags == 0 and offset >= 0 and node.host.client.may_wait():
            return self._read_patiently(dst, offset, fd)
        return dst.read_fd(fd, offset, dst.remaining(), flags, node.content_key)

    def _read_patiently(self, dst: IovIter, offset: int, fd: int) -> int:
        """Read what the host has in memory; ask the gofer for the rest, which may take long (HostWait)."""
        node = self._node
        host = node.host
        want = dst.remaining()
        done = 0
        asked = 0
        while done < want and asked < _MAX_ASKED:
            count = -EOPNOTSUPP
            if host.reads_at_once:
                count = dst.read_fd(fd, offset + done, want - done, RWF_NOWAIT, node.content_key)
            if count == -EAGAIN:
                asked += 1
                if self._bring(dst, offset + done, want - done, done):
                    continue
                break
            if count == -EOPNOTSUPP:
                host.reads_at_once = False
                if not host.is_remote:
                    break
                data = self._fetch(dst, offset + done, want - done, done)
                count = dst.copy_to(data)
                if count < len(data):
                    return done + count if done + count else -EFAULT
            if count <= 0:
                return done if done else count
            done += count
            if not host.is_shared and offset + done >= node.size:
                return done
        if done < want:  # the data does not stay in memory, or the file system cannot tell
            count = dst.read_fd(fd, offset + done, want - done, 0, node.content_key)
            return done if count < 0 and done else done + count
        return done

    def _bring(self, dst: IovIter, offset: int, length: int, done: int) -> bool:
        """Have a range brought into the host's memory; False if the gofer cannot find the file.  Raises HostWait."""
        node = self._node
        try:
            fid, name = node.address()
            node.host.client.read(
                fid, name, node.host_dev, node.host_ino, offset, min(length, MAX_READ_BYTES), wants_data=False
            )
        except HostWait:
            dst.revert(done)
            raise
        except LinuxError:
            return False
        return True

    def _fetch(self, dst: IovIter, offset: int, length: int, done: int) -> bytes:
        """Read the range through the gofer. Raises HostWait, LinuxError."""
        node = self._node
        fid, name = node.address()
        try:
            return node.host.client.read(
                fid, name, node.host_dev, node.host_ino, offset, min(length, MAX_READ_BYTES), wants_data=True
            )
        except HostWait:
            dst.revert(done)
            raise

    def pwrite(self, ctx: Context, src: IovIter, offset: int, flags: int = 0) -> int:
        quota = self._node.host.quota
        length = src.remaining()
        if quota is None or length == 0:
            return self._pwrite(ctx, src, offset, length, flags)
        node = self._node
        fd, charge = node.fd_to_write(), node.charges()
        if charge.is_mapped and flags & RWF_APPEND == 0 and offset > os.fstat(fd).st_size:
            # it would leave a hole that guests could fill through their mappings
            self._fill(quota, fd, offset)
        with quota.change(charge, fd) as change:
            length = change.afford(change.st.st_size if flags & RWF_APPEND else offset, length)
            if length == 0:
                return -EDQUOT
            return self._pwrite(ctx, src, offset, length, flags)

    def _pwrite(self, ctx: Context, src: IovIter, offset: int, length: int, flags: int) -> int:
        node = self._node
        client = node.host.client
        host = node.host
        start_ns = 0
        is_patient = client.may_wait() and host.must_ask()
        if not is_patient:
            start_ns = host.looked_ns if client.may_wait() else monotonic_ns()
            client.commit()  # the questions after this cannot be asked twice
        limit = ctx.file_size_limit
        if limit >= 0:
            at = offset
            if flags & RWF_APPEND:
                node.refresh(ctx)
                at = node.size
            if at >= limit and length:
                ctx.file_size_exceeded()
                return -EFBIG
            length = min(length, limit - at)
        if node.mode & 0o6000:
            remove_privs(ctx, node)
        fd = node.fd_to_write()
        if is_patient and flags & ~RWF_APPEND == 0 and node.pin:
            done = self._write_patiently(src, offset, length, flags)
            if done != -EBADF:
                if done <= 0 or done == length or host.must_ask():
                    return done
                # The rest of a long write: the disk has answered quickly.
                count = self._write_now(
                    ctx, src, fd, offset if flags & RWF_APPEND else offset + done, length - done, flags
                )
                return done + max(count, 0)
        return self._write_now(ctx, src, fd, offset, length, flags, start_ns)

    def _write_now(
        self, ctx: Context, src: IovIter, fd: int, offset: int, length: int, flags: int, start_ns: int = 0
    ) -> int:
        """Write on the spot; if that takes long other tasks run meanwhile. `start_ns`: when the write began, if
        known.
        """
        node = self._node
        client = node.host.client
        client.commit()
        if start_ns == 0:
            start_ns = monotonic_ns()
        client.is_about(self)
        count = src.write_fd(fd, offset, length, flags | SLOW_STORAGE)
        node.host.changed_since(start_ns)
        if count > 0:
            node.is_stale = True
            if flags & RWF_APPEND:
                node.refresh(ctx)
            elif offset + count > node.size:
                node.size = offset + count
        return count

    def _write_patiently(self, src: IovIter, offset: int, length: int, flags: int) -> int:
        """Have the gofer write, which may take long (HostWait); EBADF if it cannot.

        If the storage proves to be quick, not all of the data is written.
        """
        node = self._node
        host = node.host
        done = 0
        try:
            while done < length:
                data = src.copy_from(min(length - done, MAX_WRITE_BYTES))
                if not data:
                    break
                node.has_writer = True
                try:
                    count, attr = node.host.client.write(
                        node.pin, offset + done, data, is_at_end=flags & RWF_APPEND != 0
                    )
                except HostWait:
                    src.revert(done + len(data))
                    raise
                except LinuxError:
                    src.revert(len(data))
                    raise
                host.has_answered()
                node.update(attr)
                node.is_stale = False
                done += count
                if count < len(data):
                    src.revert(len(data) - count)
                    break
                if not host.must_ask():
                    break
        except LinuxError as error:
            return done if done else -error.errno
        return done

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        if self.flags & O_APPEND == 0:
            count = self.pwrite(ctx, src, self.pos, flags)
            if count > 0:
                self.pos += count
            return count
        # RWF_APPEND: programs on the host may append, too.
        count = self.pwrite(ctx, src, 0, flags | RWF_APPEND)
        if count > 0:
            self.pos = self._node.size
        return count

    def has_slow_storage(self) -> bool:
        return self._node.host.is_remote

    def storage_away(self, *, is_away: bool) -> None:
        self._node.host.storage_away(is_away=is_away)

    def _seek_data(self, ctx: Context, offset: int, whence: int) -> int:
        if offset < 0:
            return -ENXIO
        node = self._node
        host = node.host
        fd = node.write_fd if node.write_fd >= 0 else node.fd_to_read()
        if host.client.may_wait() and (node.pin or node.has_address):
            fid, name = node.address()
            try:
                self.pos = host.client.seek(fid, name, node.host_dev, node.host_ino, offset, whence)
                return self.pos
            except LinuxError as refusal:
                if refusal.errno == ENXIO:
                    return -ENXIO
                # The host's file is gone: only the sentry's descriptor is left.
        try:
            self.pos = os.lseek(fd, offset, whence)
        except OSError as error:
            return -(error.errno or EIO)
        return self.pos

    def fallocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        if not self.is_writable():
            return -EBADF
        node = self._node
        quota = node.host.quota
        if quota is None:
            return self._fallocate(ctx, mode, offset, length)
        fd, charge = node.fd_to_write(), node.charges()
        with quota.change(charge, fd) as change:
            if mode & FALLOC_FL_PUNCH_HOLE:
                if charge.is_mapped:
                    return -EOPNOTSUPP  # guests could fill the hole through their mappings
            elif change.afford(offset, length) < length:
                return -EDQUOT
            return self._fallocate(ctx, mode, offset, length)

    def _fallocate(self, ctx: Context, mode: int, offset: int, length: int) -> int:
        node = self._node
        client = node.host.client
        if client.may_wait():
            node.fd_to_write()
            try:
                if node.pin:
                    node.has_writer = True
                    node.update(client.allocate(node.pin, mode, offset, length))
                    node.is_stale = False
                    return 0
            except LinuxError as refusal:
                if refusal.errno != EBADF:
                    return -refusal.errno
        client.commit()  # the questions after this cannot be asked twice
        try:
            hostsys.fallocate(node.fd_to_write(), mode, offset, length)
        except OSError as error:
            return -(error.errno or EIO)
        node.is_stale = True
        node.refresh(ctx)
        return 0

    def fsync(self, ctx: Context, *, is_data_only: bool) -> int:
        node = self._node
        fd = node.write_fd if node.write_fd >= 0 else node.read_fd
        if fd < 0:
            return 0
        if node.host.client.may_wait() and (node.pin or node.has_address):
            fid, name = node.address()
            try:
                node.host.client.fsync(fid, name, is_data_only=is_data_only)
            except LinuxError as refusal:
                return -refusal.errno
            return 0
        try:
            if is_data_only:
                os.fdatasync(fd)
            else:
                os.fsync(fd)
        except OSError as error:
            return -(error.errno or EIO)
        return 0

    def mmap_fd(self, ctx: Context, prot: int, flags: int) -> int:
        node = self._node
        if flags & MAP_SHARED and self.is_writable():
            # mprotect may add PROT_WRITE later: the file's access mode decides.
            node.is_stale = True
            fd, quota = node.fd_to_write(), node.host.quota
            if quota is not None and not node.charges().is_mapped:
                self._fill(quota, fd, 0)
            return fd
        if flags & MAP_SHARED and prot & PROT_WRITE:
            raise LinuxError(EACCES)
        if flags & MAP_SHARED == 0 and not node.has_address and node.read_fd < 0:
            return node.fd_to_read()  # unlinked; a private mapping cannot write to it
        return node.fd_to_map()

    def _fill(self, quota: VolumeQuota, fd: int, upto: int) -> None:
        """Before guests may write through a mapping, which nobody sees: leave no hole in the file or below `upto`.

        Raises LinuxError(EDQUOT).
        """
        charge = self._node.charges()
        with quota.change(charge, fd) as change:
            size = max(change.st.st_size, upto)
            change.fill(size)
            fill_holes(fd, size)
            charge.is_mapped = True

    def patched_text(self) -> PatchedText | None:
        return self._node.patched_text()

    def release(self) -> None:
        self._node.drop_user()
