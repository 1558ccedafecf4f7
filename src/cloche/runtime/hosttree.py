"""Writing files that a sandbox names below a directory of the host, and nowhere else.

Names, types and modes come from a guest.  A parent is opened below the directory a component at a time, none of them
`..` or a link, so that none, even one that the stream has made itself, leads out. The directories on the way to the
last one stay open, so a walk over a tree, however deep, opens each about once. A file is written under another name
and renamed when it is complete: at any moment either the old file is there or the new one. Set-user-ID and
set-group-ID bits, devices and owners are left out unless `Policy` says otherwise.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from cloche.wire.files import CHUNK_BYTES, KEEP_NS, FileEntry, is_clean

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Directories on the way: what may be searched need not be readable.
_WAY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEAR: Final = 64  # directories on the way that stay open; above them, each 64th, down to depth _FAR
_FAR: Final = 64 * 64
NEW: Final = b".cloche-new-"


class Policy:
    """The kinds of files and attributes that may be made on the host."""

    def __init__(self) -> None:
        self.keeps_owners: bool = False
        self.keeps_set_ids: bool = False
        self.makes_devices: bool = False
        self.keeps_attributes: bool = False  # user.* as inside
        self.is_durable: bool = False  # fsync(2) before a file gets its name


class Unwanted(Exception):
    """The policy does not allow a file of this kind; the text names the kind."""


def check(path: bytes) -> None:
    """Raises OSError for a path that no stream may have."""
    if not is_clean(path):
        raise OSError(errno.EINVAL, "a path that leads elsewhere")


def _open_below(at: int, name: bytes, *, flags: int = _WAY, make: bool = False) -> int:
    """A directory in another one, never what a link leads to.  Raises OSError."""
    try:
        return os.open(name, flags, dir_fd=at)
    except FileNotFoundError:
        if not make:
            raise
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link is on the way") from None
        raise
    os.mkdir(name, 0o755, dir_fd=at)
    return os.open(name, flags, dir_fd=at)


class HostTree:
    """A directory of the host, held by a descriptor, and a stack of those on the way to the one that was used last."""

    def __init__(self, path: bytes, *, follow: bool = True) -> None:
        """`follow`: the path itself may be a link.  Raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self.fd: int = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        self._parent: bytes | None = b""  # directory that was used last; None: see `_names`
        self._names: list[bytes] = []  # its components
        self._fds: list[int] = []  # for each of them a descriptor; -1: let go of, see `_thin`
        self._absent: bytes = b""  # a directory that `stat` did not find, with a slash

    def close(self) -> None:
        """Let go."""
        self.forget()
        os.close(self.fd)

    def forget(self) -> None:
        """Look all directories up anew: somebody may have moved them since."""
        self._leave(0)
        self._absent = b""

    def _leave(self, depth: int) -> None:
        """Let go of the directories that are deeper."""
        self._parent = None
        for fd in self._fds[depth:]:
            if fd >= 0:
                os.close(fd)
        del self._fds[depth:], self._names[depth:]

    def _enter(self, path: bytes, *, make: bool = False) -> int:
        """A directory below; its descriptor (O_PATH) stays this object's.  Raises OSError."""
        if make:
            self._absent = b""  # until it is looked for again
        if path != self._parent:
            parts = path.split(b"/") if path else []
            names = self._names
            depth, most = 0, min(len(parts), len(names))
            while depth < most and parts[depth] == names[depth]:
                depth += 1
            self._leave(depth)
            while depth > 0 and self._fds[depth - 1] < 0:
                depth -= 1
            for part in parts[depth:]:
                fd = _open_below(self._fds[depth - 1] if depth else self.fd, part, make=make)
                if depth < len(names):
                    self._fds[depth] = fd
                else:
                    names.append(part)
                    self._fds.append(fd)
                depth += 1
                self._thin(depth - _NEAR)
            self._parent = path
        return self._fds[-1] if self._fds else self.fd

    def _thin(self, depth: int) -> None:
        """Let go of a directory, now that it is far above; of one in `_NEAR` there keep some."""
        if depth > 0 and (depth % _NEAR or depth > _FAR) and self._fds[depth - 1] >= 0:
            os.close(self._fds[depth - 1])
            self._fds[depth - 1] = -1

    def open_directory(self, path: bytes) -> int:
        """A descriptor of a directory below (empty: this one), to read.  Raises OSError."""
        if not path:
            return os.dup(self.fd)
        fd, name = self.parent(path)
        return _open_below(fd, name, flags=_DIRECTORY)

    def directory(self, path: bytes) -> int:
        """A descriptor (O_PATH) of a directory below, which stays this object's, until the next path is used. Raises
        OSError.
        """
        check(path)
        return self._enter(path)

    def parent(self, path: bytes, *, make: bool = False) -> tuple[int, bytes]:
        """The directory and the last component of a path; missing directories are made if asked for. The descriptor
        (O_PATH) stays this object's, until the next path is used. Raises OSError.
        """
        check(path)
        above, _slash, name = path.rpartition(b"/")
        return self._enter(above, make=make), name

    def lstat(self, path: bytes) -> os.stat_result:
        """lstat(2).  Raises OSError."""
        if not path:
            return os.fstat(self.fd)
        fd, name = self.parent(path)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def stat(self, path: bytes) -> os.stat_result | None:
        """The same; None if there is nothing, or something on the way is no directory.  Raises OSError."""
        if self._absent and path.startswith(self._absent):
            return None
        try:
            return self.lstat(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            above = path.rpartition(b"/")[0]
            if above != self._parent:  # it was not even entered
                self._absent = above + b"/"
            return None

    def open_file(self, path: bytes) -> int:
        """A descriptor of a regular file, to read.  Raises OSError."""
        fd, name = self.parent(path)
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise OSError(errno.EINVAL, "not a regular file")
        return found


USER: Final = "user."
# They speak for the contents, which are others now; the kernel, too, takes capabilities off a file that is written to.
_OF_CONTENTS: Final = ("security.capability", "security.ima", "security.evm")


def pieces_of(fd: int, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield what the first `size_bytes` of a file have between holes, with the offset; less, where it was cut off
    meanwhile.  Raises OSError.
    """
    offset = 0
    while offset < size_bytes:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
        data = os.pread(fd, min(CHUNK_BYTES, size_bytes - offset), offset) if offset < size_bytes else b""
        if not data:
            return
        yield offset, data
        offset += len(data)


def attributes_of(fd: int) -> dict[str, bytes]:
    """The extended attributes of a file that its new contents keep (xattr(7)); none where there can be none."""
    found: dict[str, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError:
        return found
    for name in names:
        if name not in _OF_CONTENTS:
            try:
                found[name] = os.getxattr(fd, name)
            except OSError:
                pass
    return found


def set_attributes(fd: int, wanted: dict[str, bytes]) -> None:
    """Give a file extended attributes; those of the system that are not ours to give are left out.  Raises OSError."""
    for name, value in wanted.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if name.startswith(USER) or error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP):
                raise


def user_attributes(entry: FileEntry) -> dict[str, bytes]:
    """Those that a guest may have on the host: no access lists, no capabilities."""
    return {os.fsdecode(name): value for name, value in entry.xattrs if name.startswith(USER.encode())}


def wanted_mode(entry: FileEntry, policy: Policy) -> int:
    """The permission bits that a file gets."""
    return entry.mode & (0o7777 if policy.keeps_set_ids else 0o1777 if stat.S_ISDIR(entry.mode) else 0o777)


def new_name() -> bytes:
    """A name for something that is to get another one when it is complete."""
    return NEW + os.urandom(8).hex().encode()


class NewFile:
    """A new file under a temporary name, in its final directory or in another one, `aside`, of the same file system."""

    def __init__(
        self, tree: HostTree, path: bytes, *, make: bool = False, aside: bytes = b"", temporary: bytes = b""
    ) -> None:
        """`temporary`: the name, if it is not any one.  Raises OSError."""
        self.temporary: bytes = temporary or new_name()
        fd, self.name = tree.parent(path, make=make) if not aside else (tree.directory(aside), b"")
        self.tree: HostTree = tree
        self.path: bytes = path
        self.aside: bytes = aside
        self.parent_fd: int = os.dup(fd)
        self.fd: int = -1
        self.is_there: bool = False
        self.is_complete: bool = False
        self.length: int = 0  # of what was written

    def open(self) -> None:
        """Make it a regular file. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(self.temporary, flags, 0o600, dir_fd=self.parent_fd)
        self.is_there = True

    def write(self, offset: int, data: bytes) -> None:
        """Write a part of its contents. Raises OSError."""
        done = 0
        view = memoryview(data)
        while done < len(data):
            done += os.pwrite(self.fd, view[done:], offset + done)
        self.length = max(self.length, offset + done)

    def make(self, entry: FileEntry, policy: Policy) -> None:
        """Make it a file of another kind: a link, a FIFO, a device. Raises OSError, Unwanted."""
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFLNK:
            os.symlink(entry.target, self.temporary, dir_fd=self.parent_fd)
        elif kind == stat.S_IFIFO:
            os.mkfifo(self.temporary, 0o600, dir_fd=self.parent_fd)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            if not policy.makes_devices:
                raise Unwanted("a device")
            os.mknod(self.temporary, kind | 0o600, entry.rdev, dir_fd=self.parent_fd)
        else:
            raise Unwanted("a socket" if kind == stat.S_IFSOCK else "neither file nor directory")
        self.is_there = True

    def link_to(self, target: bytes) -> None:
        """Make it another name (hard link) of a file below the same directory. Raises OSError."""
        other, name = self.tree.parent(target)
        os.link(name, self.temporary, src_dir_fd=other, dst_dir_fd=self.parent_fd, follow_symlinks=False)
        self.is_there = True

    def complete(self, entry: FileEntry, policy: Policy) -> os.stat_result:
        """Set its attributes, and return them. Raises OSError."""
        self._finish(entry, policy)
        self.is_complete = True
        if self.fd >= 0:
            return os.fstat(self.fd)
        return os.stat(self.temporary, dir_fd=self.parent_fd, follow_symlinks=False)

    def commit(self, entry: FileEntry, policy: Policy) -> None:
        """Set its attributes, unless it is complete, and rename it to its final name.  Raises OSError."""
        sync_fd = os.open(b".", _DIRECTORY, dir_fd=self.parent_fd) if policy.is_durable else -1
        try:
            if not self.is_complete:
                self._finish(entry, policy)
            self._rename(self.parent_fd, self.name, is_link=entry.is_link)
            if sync_fd >= 0:
                os.fsync(sync_fd)
        finally:
            if sync_fd >= 0:
                os.close(sync_fd)
        self.discard()

    def put_aside(self) -> None:
        """Leave it, complete and without a descriptor, until `place`."""
        self.is_there = False
        self.discard()

    def waiting(self) -> os.stat_result:
        """What was put aside.  Raises OSError."""
        fd = self.tree.directory(self.aside)
        return os.stat(self.temporary, dir_fd=fd, follow_symlinks=False)

    def place(self, policy: Policy) -> None:
        """Rename what was put aside to its final name. Raises OSError."""
        self.parent_fd = os.dup(self.tree.directory(self.aside))
        try:
            fd, name = self.tree.parent(self.path, make=True)
            self._rename(fd, name)
            if policy.is_durable:
                sync_fd = os.open(b".", _DIRECTORY, dir_fd=fd)
                try:
                    os.fsync(sync_fd)
                finally:
                    os.close(sync_fd)
        finally:
            self.discard()

    def _finish(self, entry: FileEntry, policy: Policy) -> None:
        name, fd = self.temporary, self.parent_fd
        if entry.is_link:
            pass
        elif self.fd >= 0:
            if policy.keeps_owners and entry.uid >= 0:
                os.fchown(self.fd, entry.uid, entry.gid)
            os.fchmod(self.fd, wanted_mode(entry, policy))
            if entry.mtime_ns != KEEP_NS:
                os.utime(self.fd, ns=(entry.mtime_ns, entry.mtime_ns))
            if policy.is_durable:
                os.fsync(self.fd)
        else:
            if policy.keeps_owners and entry.uid >= 0:
                os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISLNK(entry.mode):
                self._set_mode(entry, wanted_mode(entry, policy))
            if entry.mtime_ns != KEEP_NS:
                times = (entry.mtime_ns, entry.mtime_ns)
                os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)

    def _rename(self, to_fd: int, name: bytes, *, is_link: bool = False) -> None:
        os.rename(self.temporary, name, src_dir_fd=self.parent_fd, dst_dir_fd=to_fd)
        if is_link:  # rename(2) leaves two names of one file alone
            try:
                os.unlink(self.temporary, dir_fd=self.parent_fd)
            except FileNotFoundError:
                pass
        self.is_there = False

    def _set_mode(self, entry: FileEntry, mode: int) -> None:
        """Set the mode of a FIFO or a device, and of no other file that a sandbox may have given its name to. Raises
        OSError.
        """
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # to open it would wait, or act
        found = os.open(self.temporary, flags, dir_fd=self.parent_fd)
        try:
            if stat.S_IFMT(os.fstat(found).st_mode) != stat.S_IFMT(entry.mode):
                raise OSError(errno.ESTALE, "exchanged meanwhile")
            os.chmod(f"/proc/self/fd/{found}", mode)
        finally:
            os.close(found)

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.parent_fd >= 0:
            if self.is_there:
                self.is_there = False
                try:
                    os.unlink(self.temporary, dir_fd=self.parent_fd)
                except OSError:
                    pass
            os.close(self.parent_fd)
            self.parent_fd = -1


def make_directory(tree: HostTree, path: bytes) -> bool:
    """Make a directory and the missing ones above it. Returns whether it is new. Raises OSError."""
    fd, name = tree.parent(path, make=True)
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:
        os.close(os.open(name, _DIRECTORY, dir_fd=fd))  # a link to a directory does not count
        return False
    return True


def finish_directory(tree: HostTree, path: bytes, entry: FileEntry, policy: Policy) -> None:
    """Owner, mode and time of a directory whose files are there.  Raises OSError."""
    fd = tree.open_directory(path)
    try:
        if policy.keeps_owners and entry.uid >= 0:
            os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, wanted_mode(entry, policy))
        if entry.mtime_ns != KEEP_NS:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(fd)
