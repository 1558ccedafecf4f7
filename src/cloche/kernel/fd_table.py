"""The table of file descriptors of a task (struct files_struct), shared by CLONE_FILES.

Owns references to open file descriptions.  Descriptor numbers are the guest's own and never reach the host (I2).

The lowest free number is looked up, not searched (I8): for each block of numbers the count of open ones is kept.
"""

from typing import Final

from cloche.abi.errno import EBADF, EMFILE, ENFILE, ENOMEM, LinuxError
from cloche.mm.quota import DESCRIPTOR_BYTES, FILE_BYTES, KERNEL_MEMORY
from cloche.vfs.locks import release_posix_locks
from cloche.vfs.objects import Context, FileDescription, Holder

_BLOCK_BITS: Final = 9
_BLOCK: Final = 1 << _BLOCK_BITS


class FdTable(Holder):
    """Lowest-free allocation under RLIMIT_NOFILE; a close-on-exec flag per descriptor."""

    def __init__(self) -> None:
        self.files: list[FileDescription | None] = []
        self.used: list[int] = []  # how many of each block are open
        self.cloexec: set[int] = set()
        self.next_hint: int = 0  # no free descriptor below it
        self.users: int = 1  # tasks that share the table

    def get(self, fd: int) -> FileDescription:
        """The open file, O_PATH ones included.  Raises LinuxError(EBADF)."""
        if 0 <= fd < len(self.files):
            file = self.files[fd]
            if file is not None:
                return file
        raise LinuxError(EBADF)

    def find(self, fd: int) -> FileDescription | None:
        """The open file or None; for paths that fail often."""
        return self.files[fd] if 0 <= fd < len(self.files) else None

    def install(self, file: FileDescription, limit: int, *, lowest: int = 0, is_cloexec: bool = False) -> int:
        """Take a reference and the lowest free number from `lowest`.

        Raises LinuxError: EMFILE at `limit`, ENFILE when the sandbox has no room for more.
        """
        fd = self._first_free(max(lowest, self.next_hint))
        count = len(self.files)
        if fd >= limit:
            raise LinuxError(EMFILE)
        if not KERNEL_MEMORY.has_room(DESCRIPTOR_BYTES * (fd + 1 - count) if fd >= count else 0):
            raise LinuxError(ENFILE)
        if lowest <= self.next_hint:
            self.next_hint = fd + 1
        self._put(fd, file, is_cloexec)
        return fd

    def _first_free(self, fd: int) -> int:
        """The lowest number from `fd` on that is not open."""
        files, used = self.files, self.used
        count = len(files)
        while fd < count:
            if used[fd >> _BLOCK_BITS] == _BLOCK:
                fd = ((fd >> _BLOCK_BITS) + 1) << _BLOCK_BITS
            elif files[fd] is None:
                break
            else:
                fd += 1
        return fd

    def reserve(self, limit: int) -> None:
        """Raises LinuxError(EMFILE or ENFILE) if `install` would. To be called before an open has effects."""
        if not KERNEL_MEMORY.has_room(FILE_BYTES + DESCRIPTOR_BYTES):
            raise LinuxError(ENFILE)
        if len(self.files) >= limit and self._first_free(self.next_hint) >= limit:
            raise LinuxError(EMFILE)

    def install_at(self, ctx: Context, fd: int, file: FileDescription, *, is_cloexec: bool = False) -> None:
        """dup2: replace what `fd` holds.  The caller has checked the limit.  Raises LinuxError(ENOMEM)."""
        if not KERNEL_MEMORY.has_room(DESCRIPTOR_BYTES * max(fd + 1 - len(self.files), 0)):
            raise LinuxError(ENOMEM)
        old = self.find(fd)
        self._put(fd, file, is_cloexec)
        if old is not None:
            self.closed(ctx, old)

    def _put(self, fd: int, file: FileDescription, is_cloexec: bool) -> None:
        files = self.files
        if len(files) <= fd:
            KERNEL_MEMORY.take(DESCRIPTOR_BYTES * (fd + 1 - len(files)))
            files.extend([None] * (fd + 1 - len(files)))
            while len(self.used) << _BLOCK_BITS <= fd:
                self.used.append(0)
        if files[fd] is None:
            self.used[fd >> _BLOCK_BITS] += 1
        files[fd] = file.get()
        if is_cloexec:
            self.cloexec.add(fd)
        else:
            self.cloexec.discard(fd)

    def close(self, ctx: Context, fd: int) -> int:
        """close(2): the result of the file's flush.  Raises LinuxError(EBADF)."""
        file = self.get(fd)
        self.files[fd] = None
        self.used[fd >> _BLOCK_BITS] -= 1
        self.cloexec.discard(fd)
        if fd < self.next_hint:
            self.next_hint = fd
        return self.closed(ctx, file)

    def closed(self, ctx: Context, file: FileDescription) -> int:
        """This table has lost a descriptor of `file`: its POSIX locks go, even if others are left."""
        if file.inode.locks is not None:
            release_posix_locks(file.inode, self)
        watches = file.inode.watches
        if watches is not None:
            watches.descriptor_closed(file, self)
        return close_description(ctx, file)

    def count_open(self) -> int:
        """The number of open descriptors."""
        return sum(self.used)

    def descriptors_from(self, start: int, most: int) -> list[int]:
        """The first open descriptors from `start` on, in order."""
        found: list[int] = []
        fd = max(start, 0)
        while fd < len(self.files) and len(found) < most:
            if self.used[fd >> _BLOCK_BITS] == 0:
                fd = ((fd >> _BLOCK_BITS) + 1) << _BLOCK_BITS
                continue
            if self.files[fd] is not None:
                found.append(fd)
            fd += 1
        return found

    def descriptors(self) -> list[int]:
        """Open descriptors in order."""
        return [fd for fd in range(len(self.files)) if self.files[fd] is not None]

    def _trim(self) -> None:
        """Forget free places at the end."""
        files, used = self.files, self.used
        keep = len(files)
        while keep and files[keep - 1] is None:
            block = (keep - 1) >> _BLOCK_BITS
            keep = keep - 1 if used[block] else block << _BLOCK_BITS
        KERNEL_MEMORY.give(DESCRIPTOR_BYTES * (len(files) - keep))
        del files[keep:]

    def check_clone(self) -> None:
        """Before `clone`.  Raises LinuxError(ENOMEM)."""
        self._trim()
        if not KERNEL_MEMORY.has_room(DESCRIPTOR_BYTES * len(self.files)):
            raise LinuxError(ENOMEM)

    def clone(self) -> "FdTable":
        """A copy for fork: same descriptions, own table."""
        self._trim()
        new = FdTable()
        new.files = list(self.files)
        new.used = list(self.used)
        KERNEL_MEMORY.take(DESCRIPTOR_BYTES * len(new.files))
        new.cloexec = set(self.cloexec)
        new.next_hint = self.next_hint
        for block in range(len(new.used)):
            if new.used[block]:
                for file in new.files[block << _BLOCK_BITS : (block + 1) << _BLOCK_BITS]:
                    if file is not None:
                        file.refs += 1
        return new

    def abandon(self) -> None:
        """Undo `clone`, or the count of a further user, before the table was used."""
        self.users -= 1
        if self.users:
            return
        KERNEL_MEMORY.give(DESCRIPTOR_BYTES * len(self.files))
        for file in self.files:
            if file is not None:
                file.put()
        self.files = []
        self.used = []

    def take_marked(self, fds: list[int]) -> list[FileDescription]:
        """Take those of `fds` out that are to be closed at execve; the caller calls `closed` for each."""
        taken: list[FileDescription] = []
        for fd in fds:
            file = self.find(fd)
            if file is not None and fd in self.cloexec:
                self.cloexec.remove(fd)
                self.files[fd] = None
                self.used[fd >> _BLOCK_BITS] -= 1
                taken.append(file)
                self.next_hint = min(self.next_hint, fd)
        return taken

    def close_all(self, ctx: Context) -> None:
        """Close every descriptor, for a table that no task uses."""
        for file in self.take_all():
            self.closed(ctx, file)

    def take_all(self) -> list[FileDescription]:
        """Take everything out, at the exit of the last user; the caller calls `closed` for each."""
        files = self.files
        KERNEL_MEMORY.give(DESCRIPTOR_BYTES * len(files))
        self.files = []
        self.used = []
        self.cloexec.clear()
        self.next_hint = 0
        return [file for file in files if file is not None]


def close_description(ctx: Context, file: FileDescription) -> int:
    """Flush for this descriptor and drop its reference; flush's result."""
    result = file.flush(ctx)
    file.put()
    return result
