"""The gofer's operations on the host: look at, open and change files below a directory descriptor.

May call the host's kernel only.  Every function takes a directory node and a checked name (empty: the node
itself) and never follows a symbolic link.  An object is pinned with O_PATH|O_NOFOLLOW, inspected, and only
then opened through its magic link in /proc/self/fd, so a device or fifo is never opened and a name cannot be
swapped in between.

Precondition: the working directory is /proc/PID/fd (launch.py), so that the relative path "17" is descriptor
17 even after the root was changed.
"""

import os
import stat as stat_module
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EBADF,
    EINVAL,
    EISDIR,
    ELOOP,
    ENFILE,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESTALE,
    EXDEV,
    LinuxError,
)
from cloche.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloche.abi.limits import NAME_MAX
from cloche.abi.magic import REMOTE_MAGICS
from cloche.abi.time import UTIME_OMIT
from cloche.gofer.nodes import FORBIDDEN_MAGICS, Node, NodeTable
from cloche.gofer.skeleton import Skeleton, is_public
from cloche.platform import hostsys
from cloche.wire.gofer import (
    ATTR,
    ENTRY,
    KEEP_ID,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    STATFS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloche.gofer.counts import FileCounts

_PIN_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# No side effects on open; O_LARGEFILE is implied on 64-bit hosts.
_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_ALLOWED_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC
_CHUNK_BYTES: Final = 192 * 1024
_XATTR_MAX: Final = 65536
_MAX_READERS: Final = 16


class ListingCursor:
    """Packs the entries of a directory piece by piece."""

    def __init__(
        self,
        dir_fd: int,
        only: frozenset[bytes] | None = None,
        *,
        is_public_only: bool = False,
        skeleton: Skeleton | None = None,
        path: list[bytes] | None = None,
        name_max: int = NAME_MAX,
    ) -> None:
        """`dir_fd` may be O_PATH; `path` is where it is in a skeleton.  Raises OSError, PermissionError if it is
        unreadable.

        Longer names than `name_max` are left out: FUSE has some of 1024 bytes, FAT of 765, and no call of a guest can
        use them.
        """
        self._name_max: int = name_max
        self._skeleton: Skeleton | None = skeleton
        self._path: list[bytes] = path if path is not None else []
        # Not a duplicate: the position of a directory is shared by duplicates.  DirEntry.stat needs it open.
        self._fd: int = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            self._scan = os.scandir(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._only: frozenset[bytes] | None = only  # the names to tell of, None: all
        self._is_public_only: bool = is_public_only
        self.is_done: bool = False
        self.subdirs: list[bytes] = []  # the directories among the entries so far

    def close(self) -> None:
        """Release the descriptors."""
        self._scan.close()
        os.close(self._fd)

    def next_chunk(self) -> bytes:
        """Some more packed entries; sets `is_done` after the last.  Raises OSError."""
        parts: list[bytes] = []
        size = 0
        dir_fd = self._fd
        only = self._only
        for entry in self._scan:
            name = os.fsencode(entry.name)
            if len(name) > self._name_max or (only is not None and name not in only):
                continue
            target = b""
            try:
                st = entry.stat(follow_symlinks=False)
                if self._is_public_only and not is_public(st.st_mode):
                    continue
                if self._skeleton is not None and not self._skeleton.shows(self._path, name, st):
                    continue
                kind = stat_module.S_IFMT(st.st_mode)
                if kind == stat_module.S_IFLNK:
                    target = os.fsencode(os.readlink(entry.name, dir_fd=dir_fd))
                elif kind == stat_module.S_IFDIR:
                    self.subdirs.append(name)
            except FileNotFoundError:
                continue  # removed meanwhile, as if it had been before
            except OSError as error:
                if error.errno == EINVAL:  # a link became a file meanwhile
                    continue
                raise
            head = ENTRY.pack(
                len(name),
                len(target),
                st.st_ino,
                st.st_dev,
                st.st_mode,
                st.st_nlink & 0xFFFFFFFF,
                st.st_uid,
                st.st_gid,
                st.st_rdev,
                st.st_size,
                st.st_blocks,
                st.st_atime_ns,
                st.st_mtime_ns,
                st.st_ctime_ns,
            )
            parts.append(head + name + target)
            size += len(head) + len(name) + len(target)
            if size >= _CHUNK_BYTES:
                return b"".join(parts)
        self.is_done = True
        return b"".join(parts)


def pack_stat(st: os.stat_result) -> bytes:
    """The wire form of attributes."""
    return ATTR.pack(
        st.st_ino,
        st.st_dev,
        st.st_mode,
        st.st_nlink & 0xFFFFFFFF,
        st.st_uid,
        st.st_gid,
        st.st_rdev,
        st.st_size,
        st.st_blocks,
        st.st_atime_ns,
        st.st_mtime_ns,
        st.st_ctime_ns,
    )


class Files:
    """The file operations, over a table of directories."""

    def __init__(self, table: NodeTable) -> None:
        self._table: NodeTable = table
        # By device and inode number, which stay in use as long as the descriptor is open
        self._readers: dict[tuple[int, int], int] = {}

    # -- helpers ---------------------------------------------------------------------------------------
    def pin(self, node: Node, name: bytes) -> int:
        """An O_PATH descriptor of the object itself; the caller closes it."""
        if not name:
            return os.dup(self._table.own_fd(node))
        return os.open(name, _PIN_FLAGS, dir_fd=self._table.dir_fd(node))

    def writable_dir(self, node: Node, name: bytes) -> int:
        """The descriptor of a directory in which `name` may be changed."""
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        if not name:
            raise LinuxError(EINVAL)
        return self._table.dir_fd(node)

    @staticmethod
    def _reopen(pinned: int, flags: int) -> int:
        """Open what `pinned` stands for, through its magic link."""
        return os.open(str(pinned), flags)

    # -- looking ---------------------------------------------------------------------------------------
    def stat(self, node: Node, name: bytes) -> tuple[os.stat_result, bytes]:
        """Attributes of a name and, of a symbolic link, its target."""
        if not name:
            return os.fstat(self._table.own_fd(node)), b""
        dir_fd = self._table.dir_fd(node)
        while True:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if not stat_module.S_ISLNK(st.st_mode):
                return st, b""
            try:
                return st, os.readlink(name, dir_fd=dir_fd)
            except OSError as error:
                if error.errno != EINVAL:
                    raise
                # The link was replaced in between: look again.

    def look_up(self, node: Node, name: bytes, *, opens: bool) -> tuple[os.stat_result, bytes, int, int]:
        """Attributes and target of a name; the fid of a directory or 0; a descriptor of a regular file to read or -1.

        Both only on the directory's own device: other storage may be slow, and a walk would have it mounted.
        """
        st, target = self.stat(node, name)
        if st.st_dev != node.dev:
            return st, target, 0, -1
        try:
            if stat_module.S_ISDIR(st.st_mode):
                child = self._table.walk(node, name)
                if (child.dev, child.ino) == (st.st_dev, st.st_ino):
                    return st, target, child.fid, -1
                self._table.clunk(child.fid)  # it was replaced in between
            elif stat_module.S_ISREG(st.st_mode) and opens:
                fd, st, _pin = self.open(node, name, os.O_RDONLY, st.st_dev, st.st_ino)
                return st, target, 0, fd
        except (LinuxError, OSError):
            pass  # whoever needs it will see the error
        return st, target, 0, -1

    def statfs(self, node: Node) -> bytes:
        fs = hostsys.fstatfs(self._table.own_fd(node))
        files, files_free = fs.files, fs.files_free
        if node.attach.counts is not None:  # as ext4_statfs_project
            files, left = node.attach.counts.figures()
            files_free = min(files_free, left) if fs.files else left
        return STATFS.pack(
            fs.magic,
            fs.block_size,
            fs.blocks,
            fs.blocks_free,
            fs.blocks_avail,
            files,
            files_free,
            fs.name_max,
        )

    # -- opening ---------------------------------------------------------------------------------------
    def open(
        self, node: Node, name: bytes, flags: int, dev: int, ino: int, *, wants_pin: bool = False
    ) -> tuple[int, os.stat_result, int]:
        """A descriptor of a regular file, its attributes, and a fid for the file itself or 0."""
        if flags & ~_ALLOWED_OPEN_FLAGS or flags & os.O_ACCMODE == os.O_ACCMODE:
            raise LinuxError(EINVAL)
        if flags != os.O_RDONLY and not node.attach.is_writable:
            raise LinuxError(EROFS)
        pinned = self.pin(node, name)
        try:
            st = os.fstat(pinned)
            if ino and (st.st_ino != ino or st.st_dev != dev):
                raise LinuxError(ESTALE)
            if not stat_module.S_ISREG(st.st_mode):
                raise LinuxError(_open_error(st.st_mode))
            if st.st_dev != node.dev and hostsys.fstatfs(pinned).magic in FORBIDDEN_MAGICS:
                raise LinuxError(EACCES)
            if flags != os.O_RDONLY and self._drop_set_id(node, pinned):
                st = os.fstat(pinned)
            fd = self._reopen(pinned, flags | _OPEN_FLAGS)
            fid = self._pin(node, pinned, wants_pin=wants_pin)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._keep_writer(self._table.get(fid) if fid else node, fd)
            return fd, st, fid
        finally:
            os.close(pinned)

    def _pin(self, node: Node, fd: int, *, wants_pin: bool) -> int:
        """A fid for the file that `fd` refers to; 0 if none is wanted, or there are too many."""
        if not wants_pin or not node.attach.is_writable:
            return 0
        try:
            # Not the descriptor itself: one to write would keep the host from executing the file.
            return self._table.pin(node.attach, os.open(str(fd), os.O_PATH | os.O_CLOEXEC))
        except OSError:
            return 0

    def _keep_writer(self, node: Node, fd: int) -> None:
        """On storage that may hang: keep a duplicate of the sentry's descriptor for writing. It is closed with the
        pin.
        """
        try:
            if node.is_pin and hostsys.fstatfs(fd).magic in REMOTE_MAGICS:
                self._table.keep_writer(node, fd)
        except OSError:
            pass  # the sentry then writes itself

    def fd_to_write(self, node: Node) -> int:
        """A pin's descriptor for writing; the pin keeps it. Raises LinuxError(EBADF)."""
        if node.write_fd < 0 and node.is_pin and node.attach.is_writable:
            try:
                self._drop_set_id(node, node.fd)
                fd = self._reopen(node.fd, os.O_WRONLY | _OPEN_FLAGS)
            except OSError:
                raise LinuxError(EBADF)  # the sentry, which has the file open, writes itself
            try:
                self._table.keep_writer(node, fd)
            finally:
                os.close(fd)
        if node.write_fd < 0:
            raise LinuxError(EBADF)
        return node.write_fd

    @staticmethod
    def _drop_set_id(node: Node, pinned: int) -> bool:
        """Before a file is opened to write: a write clears those bits, but a write through a mapping does not."""
        mode = os.fstat(pinned).st_mode
        if node.attach.keeps_suid or not _set_id_bits(mode):
            return False
        os.chmod(str(pinned), stat_module.S_IMODE(mode) & ~_set_id_bits(mode))
        return True

    def create(
        self,
        node: Node,
        name: bytes,
        flags: int,
        mode: int,
        uid: int,
        gid: int,
        *,
        wants_pin: bool = False,
    ) -> tuple[int, os.stat_result, int]:
        """A new file, opened; it never replaces or opens an existing one."""
        if flags & ~_ALLOWED_OPEN_FLAGS or flags & os.O_ACCMODE == os.O_ACCMODE or mode & ~0o7777:
            raise LinuxError(EINVAL)
        dir_fd = self.writable_dir(node, name)
        create_flags = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _OPEN_FLAGS
        with _Making(node) as making:
            fd = os.open(name, create_flags, mode & 0o777, dir_fd=dir_fd)
            making.is_done = True
        try:
            _chown_new(fd, b"", uid, gid)
            mode = _allowed_mode(node, stat_module.S_IFREG, mode)
            if mode & 0o7000:  # after chown, which clears them
                os.fchmod(fd, mode)
            fid = self._pin(node, fd, wants_pin=wants_pin)
            if fid and flags & os.O_ACCMODE != os.O_RDONLY:
                self._keep_writer(self._table.get(fid), fd)
            return fd, os.fstat(fd), fid
        except BaseException:
            os.close(fd)
            self.unlink(node, name)
            raise

    def tmpfile(self, node: Node, mode: int, uid: int, gid: int) -> tuple[int, os.stat_result, int]:
        """A new file without a name, opened, and its fid."""
        if mode & ~0o7777:
            raise LinuxError(EINVAL)
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        flags = os.O_TMPFILE | os.O_RDWR | _OPEN_FLAGS
        with _Making(node) as making:
            fd = os.open(b".", flags, mode & 0o777, dir_fd=self._table.dir_fd(node))
            making.is_done = True
        try:
            _chown_new(fd, b"", uid, gid)
            mode = _allowed_mode(node, stat_module.S_IFREG, mode)
            if mode & 0o7000:
                os.fchmod(fd, mode)
            pin = self._pin(node, fd, wants_pin=True)
            if not pin:
                raise LinuxError(ENFILE)
            self._keep_writer(self._table.get(pin), fd)
            st = os.fstat(fd)
            self._lost_name(node, st)
            return fd, st, pin
        except BaseException:
            self._lost_name(node, os.fstat(fd))
            os.close(fd)
            raise

    def fd_to_sync(self, node: Node, name: bytes) -> int:
        """A descriptor for fsync of a file or directory; the caller closes it."""
        pinned = self.pin(node, name)
        try:
            mode = os.fstat(pinned).st_mode
            if not stat_module.S_ISREG(mode) and not stat_module.S_ISDIR(mode):
                raise LinuxError(EINVAL)
            try:
                return self._reopen(pinned, os.O_RDONLY | _OPEN_FLAGS)
            except PermissionError:
                if not node.attach.is_writable or stat_module.S_ISDIR(mode):
                    raise
                return self._reopen(pinned, os.O_WRONLY | _OPEN_FLAGS)
        finally:
            os.close(pinned)

    def fd_to_read(self, node: Node, name: bytes, dev: int, ino: int) -> int:
        """A descriptor for a read of a file; the caller closes it. The latest files are kept open for further reads."""
        known = self._readers.pop((dev, ino), -1)
        if known < 0:
            known = self.open(node, name, os.O_RDONLY, dev, ino)[0]
        self._readers[(dev, ino)] = known
        if len(self._readers) > _MAX_READERS:
            os.close(self._readers.pop(next(iter(self._readers))))
        return os.dup(known)

    def fd_to_syncfs(self, node: Node) -> int:
        """A descriptor for syncfs; the caller closes it."""
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        pinned = self.pin(node, b"")
        try:
            return self._reopen(pinned, os.O_RDONLY | _OPEN_FLAGS)
        finally:
            os.close(pinned)

    # -- changes of the tree ---------------------------------------------------------------------------
    def mkdir(self, node: Node, name: bytes, mode: int, uid: int, gid: int) -> os.stat_result:
        if mode & ~0o7777:
            raise LinuxError(EINVAL)
        dir_fd = self.writable_dir(node, name)
        with _Making(node) as making:
            os.mkdir(name, mode & 0o777, dir_fd=dir_fd)
            making.is_done = True
        try:
            _chown_new(dir_fd, name, uid, gid)
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if mode & 0o7000 and stat_module.S_ISDIR(st.st_mode):
                # Set-group-ID inherited from the parent stays, as mkdir(2) has it.
                self._chmod(dir_fd, name, mode | (st.st_mode & 0o2000))
                st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            return st
        except BaseException:
            self.rmdir(node, name)
            raise

    def mknod(self, node: Node, name: bytes, mode: int, uid: int, gid: int) -> os.stat_result:
        """Make a FIFO or a socket. Only programs of the sandbox meet there; the host's programs are not connected to
        it.
        """
        kind = stat_module.S_IFMT(mode)
        if kind not in (stat_module.S_IFIFO, stat_module.S_IFSOCK):
            raise LinuxError(EPERM)
        dir_fd = self.writable_dir(node, name)
        return self._add_special(
            node, name, mode, uid, gid, lambda: os.mknod(name, kind | mode & 0o777, dir_fd=dir_fd)
        )

    def add_socket(
        self, node: Node, name: bytes, mode: int, uid: int, gid: int, bind: "Callable[[], None]"
    ) -> os.stat_result:
        """Have `bind` make a socket's node, which is a new one."""
        self.writable_dir(node, name)
        return self._add_special(node, name, mode, uid, gid, bind)

    def _add_special(
        self, node: Node, name: bytes, mode: int, uid: int, gid: int, make: "Callable[[], None]"
    ) -> os.stat_result:
        with _Making(node) as making:
            make()
            making.is_done = True
        dir_fd = self._table.dir_fd(node)
        try:
            _chown_new(dir_fd, name, uid, gid)
            if mode & 0o7000:
                self._chmod(dir_fd, name, stat_module.S_IMODE(mode))
            return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except BaseException:
            self.unlink(node, name)
            raise

    def symlink(self, node: Node, name: bytes, target: bytes, uid: int, gid: int) -> os.stat_result:
        if not target or b"\0" in target or len(target) >= 4096:
            raise LinuxError(EINVAL)
        dir_fd = self.writable_dir(node, name)
        with _Making(node) as making:
            os.symlink(target, name, dir_fd=dir_fd)
            making.is_done = True
        try:
            _chown_new(dir_fd, name, uid, gid)
        except BaseException:
            self.unlink(node, name)
            raise
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def link(self, node: Node, name: bytes, new_node: Node, new_name: bytes) -> os.stat_result:
        # From a read-only attach point a link would make the file writable through the other.
        if node.attach is not new_node.attach:
            raise LinuxError(EXDEV)
        if not (node.is_pin and not name):
            self.writable_dir(node, name)
        self.writable_dir(new_node, new_name)
        pinned = self.pin(node, name)
        try:
            st = os.fstat(pinned)
            if stat_module.S_ISDIR(st.st_mode):
                raise LinuxError(EPERM)
            dir_fd = self._table.dir_fd(new_node)
            counts = node.attach.counts
            if counts is not None and st.st_nlink == 0:
                counts.has_name(st.st_dev, st.st_ino)
            try:
                # The source is the magic link of what was inspected, not the name.
                os.link(str(pinned), new_name, dst_dir_fd=dir_fd, follow_symlinks=True)
            except BaseException:
                if st.st_nlink == 0:
                    self._lost_name(node, st)
                raise
            return os.stat(new_name, dir_fd=dir_fd, follow_symlinks=False)
        finally:
            os.close(pinned)

    def unlink(self, node: Node, name: bytes) -> None:
        dir_fd = self.writable_dir(node, name)
        before = self._before(node, name)
        os.unlink(name, dir_fd=dir_fd)
        self._lost(node, before)

    def rmdir(self, node: Node, name: bytes) -> None:
        os.rmdir(name, dir_fd=self.writable_dir(node, name))
        if node.attach.counts is not None:
            node.attach.counts.give()

    # -- how many there are ----------------------------------------------------------------------------
    def _before(self, node: Node, name: bytes) -> os.stat_result | None:
        """What a name stands for that is going to be removed or replaced, if that has to be counted."""
        if node.attach.counts is None:
            return None
        try:
            return os.stat(name, dir_fd=self._table.dir_fd(node), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _lost(self, node: Node, before: os.stat_result | None) -> None:
        """A name of this was removed, or replaced."""
        if before is not None and (before.st_nlink == 1 or stat_module.S_ISDIR(before.st_mode)):
            self._lost_name(node, before)

    @staticmethod
    def _lost_name(node: Node, st: os.stat_result) -> None:
        """A file has no name (any more)."""
        if node.attach.counts is not None:
            node.attach.counts.lost_name(st.st_dev, st.st_ino)

    def rename(self, node: Node, name: bytes, new_node: Node, new_name: bytes, flags: int) -> None:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise LinuxError(EINVAL)
        if node.attach is not new_node.attach:
            raise LinuxError(EXDEV)
        self.writable_dir(node, name)
        self.writable_dir(new_node, new_name)
        # Duplicated because the second look-up may evict the first.
        from_fd = os.dup(self._table.dir_fd(node))
        try:
            replaced = moved = None
            if flags & RENAME_EXCHANGE == 0:
                replaced = self._before(new_node, new_name)
                moved = self._before(node, name) if replaced is not None else None
            to_fd = self._table.dir_fd(new_node)
            hostsys.renameat2(from_fd, name, to_fd, new_name, flags)
            # Names of the same file are left as they are.
            if replaced is not None and moved is not None and replaced.st_ino != moved.st_ino:
                self._lost(new_node, replaced)
        finally:
            os.close(from_fd)

    # -- attributes ------------------------------------------------------------------------------------
    def setattr(
        self,
        node: Node,
        name: bytes,
        valid: int,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        atime_ns: int,
        mtime_ns: int,
        dev: int = 0,
        ino: int = 0,
    ) -> os.stat_result:
        """Truncate, change the owner, the mode, the times, in this order (a chown clears set-id bits)."""
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        if mode & ~0o7777 or size > 0x7FFFFFFFFFFFFFFF:
            raise LinuxError(EINVAL)
        pinned = self.pin(node, name)
        try:
            path = str(pinned)
            st = os.fstat(pinned)
            if ino and (st.st_ino != ino or st.st_dev != dev):
                raise LinuxError(ESTALE)
            kind = st.st_mode
            if valid & SET_SIZE:
                if not stat_module.S_ISREG(kind):
                    raise LinuxError(EISDIR if stat_module.S_ISDIR(kind) else EINVAL)
                fd = self._reopen(pinned, os.O_WRONLY | _OPEN_FLAGS)
                try:
                    os.ftruncate(fd, size)
                finally:
                    os.close(fd)
            if valid & (SET_UID | SET_GID):
                os.chown(path, uid if valid & SET_UID else -1, gid if valid & SET_GID else -1)
            if valid & SET_MODE:
                if stat_module.S_ISLNK(kind):
                    raise LinuxError(EOPNOTSUPP)
                os.chmod(path, _allowed_mode(node, kind, mode))
            if valid & (SET_ATIME | SET_MTIME):
                omit = (0, UTIME_OMIT)
                hostsys.utimensat(
                    -100,  # AT_FDCWD: /proc/PID/fd
                    path.encode(),
                    divmod(atime_ns, 1_000_000_000) if valid & SET_ATIME else omit,
                    divmod(mtime_ns, 1_000_000_000) if valid & SET_MTIME else omit,
                    0,
                )
            return os.fstat(pinned)
        finally:
            os.close(pinned)

    def _chmod(self, dir_fd: int, name: bytes, mode: int) -> None:
        pinned = os.open(name, _PIN_FLAGS, dir_fd=dir_fd)
        try:
            if stat_module.S_ISLNK(os.fstat(pinned).st_mode):
                raise LinuxError(EOPNOTSUPP)
            os.chmod(str(pinned), mode)
        finally:
            os.close(pinned)

    # -- extended attributes ---------------------------------------------------------------------------
    def getxattr(self, node: Node, name: bytes, xattr: bytes) -> bytes:
        if not _is_readable_xattr(xattr):
            raise LinuxError(EOPNOTSUPP)
        pinned = self.pin(node, name)
        try:
            return os.getxattr(str(pinned), xattr)
        finally:
            os.close(pinned)

    def listxattr(self, node: Node, name: bytes) -> bytes:
        pinned = self.pin(node, name)
        try:
            names = [os.fsencode(each) for each in os.listxattr(str(pinned))]
        finally:
            os.close(pinned)
        return b"".join([each + b"\0" for each in names if _is_readable_xattr(each)])

    def setxattr(self, node: Node, name: bytes, xattr: bytes, value: bytes, flags: int) -> None:
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        if not _is_writable_xattr(node, xattr):
            raise LinuxError(EOPNOTSUPP)
        if len(value) > _XATTR_MAX or flags & ~3:
            raise LinuxError(EINVAL)
        pinned = self.pin(node, name)
        try:
            os.setxattr(str(pinned), xattr, value, flags)
        finally:
            os.close(pinned)

    def removexattr(self, node: Node, name: bytes, xattr: bytes) -> None:
        if not node.attach.is_writable:
            raise LinuxError(EROFS)
        if not _is_writable_xattr(node, xattr):
            raise LinuxError(EOPNOTSUPP)
        pinned = self.pin(node, name)
        try:
            os.removexattr(str(pinned), xattr)
        finally:
            os.close(pinned)


class _Making:
    """A file is made: a context manager. It counts before it is made, and does not if it is not (`is_done`)."""

    def __init__(self, node: Node) -> None:
        """Raises LinuxError(EDQUOT)."""
        self._counts: FileCounts | None = node.attach.counts
        self.is_done: bool = False
        if self._counts is not None:
            self._counts.take()

    def __enter__(self) -> "_Making":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._counts is not None and not self.is_done:
            self._counts.give()


def _set_id_bits(mode: int) -> int:
    """The set-user-ID and set-group-ID bits of a mode, if they give an executed file the rights of another user.

    On a directory they only decide the owner of new files.
    """
    return mode & 0o6000 if stat_module.S_ISREG(mode) else 0


def _allowed_mode(node: Node, kind: int, mode: int) -> int:
    """The mode that is really set: a sandbox can make no set-user-ID file on the host unless the user has asked for
    that.
    """
    return mode if node.attach.keeps_suid else mode & ~_set_id_bits(stat_module.S_IFMT(kind) | mode)


def _open_error(mode: int) -> int:
    """Why an object that is not a regular file is not opened."""
    if stat_module.S_ISDIR(mode):
        return EISDIR
    if stat_module.S_ISLNK(mode):
        return ELOOP
    return EACCES


def _chown_new(dir_fd: int, name: bytes, uid: int, gid: int) -> None:
    """Give a new object (the descriptor itself if `name` is empty) to its owner.

    A gofer without CAP_CHOWN keeps it for itself; the attributes in the reply say so.
    """
    want_uid = -1 if uid == KEEP_ID else uid
    want_gid = -1 if gid == KEEP_ID else gid
    if want_uid == -1 and want_gid == -1:
        return
    try:
        if name:
            os.chown(name, want_uid, want_gid, dir_fd=dir_fd, follow_symlinks=False)
        else:
            os.fchown(dir_fd, want_uid, want_gid)
    except OSError as error:
        # EINVAL: an id that the user namespace does not map.
        if error.errno not in (EPERM, EINVAL) or os.geteuid() == 0:
            raise


def _is_readable_xattr(xattr: bytes) -> bool:
    """user.*, file capabilities and ACLs; nothing of security modules or trusted.*"""
    if b"\0" in xattr or len(xattr) > 255:
        return False
    return xattr.startswith((b"user.", b"system.posix_acl_")) or xattr == b"security.capability"


def _is_writable_xattr(node: Node, xattr: bytes) -> bool:
    """user.*; file capabilities and ACLs where set-user-ID bits may be made, too."""
    if b"\0" in xattr or len(xattr) > 255:
        return False
    if xattr.startswith(b"user."):
        return len(xattr) > 5
    return node.attach.keeps_suid and _is_readable_xattr(xattr)
