"""Writing files that a sandbox names below a directory of the host, and nowhere else.

Names, types and modes come from a guest.  A parent is opened below the directory by openat2(2) with RESOLVE_BENEATH
and RESOLVE_NO_SYMLINKS (where the host has no openat2: a component at a time, none of them a link), so that neither
`..` nor a link, even one that the stream has made itself, leads out. A file is written under another name and renamed
when it is complete: at any moment either the old file is there or the new one. Set-user-ID and set-group-ID bits,
devices and owners are left out unless `Policy` says otherwise.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from cloche.platform import hostsys
from cloche.wire.files import CHUNK_BYTES, KEEP_NS, FileEntry, is_clean

_BENEATH: Final = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_MAX: Final = 4000
_NEW: Final = b".cloche-new-"


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


class HostTree:
    """A directory of the host, held by a descriptor."""

    def __init__(self, path: bytes, *, follow: bool = True) -> None:
        """`follow`: the path itself may be a link.  Raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self.fd: int = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        self._parent: bytes = b""  # path of the parent directory that was used last
        self._parent_fd: int = -1

    def close(self) -> None:
        """Let go."""
        self._forget()
        os.close(self.fd)

    def _forget(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_fd = -1

    def open_directory(self, path: bytes, *, make: bool = False) -> int:
        """A descriptor of a directory below (empty: this one); missing ones are made if asked for.  Raises OSError."""
        if not path:
            return os.dup(self.fd)
        check(path)
        if len(path) < _PATH_MAX:
            try:
                return hostsys.openat2(self.fd, path, _DIRECTORY, 0, _BENEATH)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise OSError(errno.ELOOP, "a symbolic link is on the way") from None
                if error.errno not in (errno.ENOSYS, errno.EPERM, errno.ENOENT):
                    raise
        at = os.dup(self.fd)
        try:
            for part in path.split(b"/"):
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=at)
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(part, 0o755, dir_fd=at)
                    below = os.open(part, _DIRECTORY, dir_fd=at)
                at, below = below, at
                os.close(below)
        except OSError:
            os.close(at)
            raise
        return at

    def parent(self, path: bytes, *, make: bool = False) -> tuple[int, bytes]:
        """The directory and the last component of a path. The descriptor of the directory stays this object's. Raises
        OSError.
        """
        check(path)
        above, _slash, name = path.rpartition(b"/")
        if self._parent_fd < 0 or above != self._parent:
            self._forget()
            self._parent_fd = self.open_directory(above, make=make)
            self._parent = above
        return self._parent_fd, name

    def lstat(self, path: bytes) -> os.stat_result:
        """lstat(2).  Raises OSError."""
        if not path:
            return os.fstat(self.fd)
        fd, name = self.parent(path)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def stat(self, path: bytes) -> os.stat_result | None:
        """The same; None if there is nothing, or something on the way is no directory.  Raises OSError."""
        try:
            return self.lstat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

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


class NewFile:
    """A new file under a temporary name, in its final directory."""

    def __init__(self, tree: HostTree, path: bytes, *, make: bool = False) -> None:
        """Raises OSError."""
        fd, self.name = tree.parent(path, make=make)
        self.tree: HostTree = tree
        self.path: bytes = path
        self.parent_fd: int = os.dup(fd)
        self.temporary: bytes = _NEW + os.urandom(8).hex().encode()
        self.fd: int = -1
        self.is_there: bool = False

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
        other = HostTree.open_directory(self.tree, target.rpartition(b"/")[0])
        try:
            os.link(
                target.rpartition(b"/")[2],
                self.temporary,
                src_dir_fd=other,
                dst_dir_fd=self.parent_fd,
                follow_symlinks=False,
            )
        finally:
            os.close(other)
        self.is_there = True

    def commit(self, entry: FileEntry, policy: Policy) -> None:
        """Set its attributes, and rename it to its final name. Raises OSError."""
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
        os.rename(name, self.name, src_dir_fd=fd, dst_dir_fd=fd)
        if entry.is_link:  # rename(2) leaves two names of one file alone
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
        self.is_there = False
        if policy.is_durable:
            os.fsync(fd)
        self.discard()

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
